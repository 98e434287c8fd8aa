//! What a run may spend, and what it spends with servers that count as they like.

use std::time::Duration;

use assay::agent::budget::Limits;
use assay::agent::endpoint::Price;
use assay::agent::events::{Approve, RunEnd};
use serde_json::json;

use super::fake::{Fake, limits, run_with};
use super::server::{Reply, Server, answer};

#[test]
fn budgets_are_kept_to_the_token() {
    let talk = || Server::start(|n, _| Reply::Json(answer(&format!("hm {n}"), &[("read", json!({}))], (1000, 200))));
    for tokens in [1, 5_000, 12_345] {
        let server = talk();
        let out = run_with(&server, &Fake::default(), Approve::NeverAsk, Limits { tokens, ..limits() }, |s| {
            s.answer_tokens = 200
        });
        assert_eq!(out.end, RunEnd::Budget, "{tokens}");
        assert!(out.state.spent.tokens() <= tokens, "{} of {tokens}", out.state.spent.tokens());
        assert!(out.has("BudgetStop { what: \"tokens\""));
        for seen in server.seen() {
            assert!(seen.body["max_tokens"].as_u64().unwrap() <= 200);
        }
    }
    let server = talk();
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, Limits { steps: 3, ..limits() }, |_| {});
    assert_eq!((out.end, server.seen().len()), (RunEnd::Budget, 3));
    let server = talk();
    let price = Some(Price { input: 1_000_000, output: 2_000_000 });
    let cost = Some(5_000_000_000);
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, Limits { cost, ..limits() }, |s| {
        (s.price, s.answer_tokens) = (price, 300);
    });
    assert!(
        out.end == RunEnd::Budget && out.state.spent.cost() <= 5_000_000_000 && out.state.spent.cost() > 2_000_000_000
    );
    let server = Server::start(|_, _| {
        std::thread::sleep(Duration::from_millis(120));
        Reply::Json(answer("", &[("read", json!({}))], (1, 1)))
    });
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, Limits { wall_ms: 500, ..limits() }, |_| {});
    assert!(out.end == RunEnd::Budget && out.state.ms < 2_000 && server.seen().len() <= 5);
}

/// A prompt has no more tokens than the request has bytes: a server that says otherwise is believed, once, and the run ends
/// where that passes the budget. What it answered is not carried out.
#[test]
fn a_server_that_counts_past_the_budget_is_asked_nothing_more() {
    let right = ("write_kernel", json!({"file": "swiglu.cu", "text": "right"}));
    let calls = || [right.clone(), ("verify", json!({}))];
    let shop = Fake::default();
    let answered = answer("", &calls(), (5_000_000, 50));
    let server = Server::start(move |_, _| Reply::Json(answered.clone()));
    let tokens = Limits { tokens: 100_000, ..limits() };
    let out = run_with(&server, &shop, Approve::NeverAsk, tokens, |s| s.answer_tokens = 300);
    assert_eq!((out.end, server.seen().len(), shop.0.judged.get()), (RunEnd::Budget, 1, 0));
    assert!(out.has("Overcounted { counted: 5000050") && out.has("BudgetStop { what: \"tokens\""), "{:?}", out.log);
    assert!(shop.0.files.borrow().is_empty());

    // One that answers at greater length than it may: the next call sets as much aside as it took.
    let server = Server::start(|_, _| Reply::Json(answer("", &[("read", json!({}))], (100, 4_000))));
    let tokens = Limits { tokens: 30_000, ..limits() };
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, tokens, |s| s.answer_tokens = 300);
    assert!(out.end == RunEnd::Budget && out.state.spent.tokens() <= 30_000, "{}", out.state.spent.tokens());
    assert!(server.seen().len() >= 4 && server.seen().iter().all(|s| s.body["max_tokens"] == 300));
    assert!(out.has("Overcounted"));
}

/// However the server counts within the bytes of the request, the sum of its own counts stays within the budget.
#[test]
fn what_is_set_aside_for_a_prompt_is_the_most_that_it_can_be() {
    for tokens in [3_000, 20_000, 50_001] {
        let server = Server::start(|n, seen| {
            // At first it counts little, so that an estimate would follow it; then a token for each byte.
            let bytes = seen.body.to_string().len() as u64;
            let prompt = if n < 3 { bytes / 5 } else { bytes };
            let calls = [("read", json!({ "what": "x".repeat(400) }))];
            Reply::Json(answer("hm", &calls, (prompt, seen.body["max_tokens"].as_u64().unwrap())))
        });
        let limits = Limits { tokens, ..limits() };
        let out = run_with(&server, &Fake::default(), Approve::NeverAsk, limits, |s| s.answer_tokens = 256);
        assert!(out.end == RunEnd::Budget && out.state.spent.tokens() <= tokens, "{}", out.state.spent.tokens());
        assert!(!out.has("Overcounted"), "{:?}", out.log);
    }
}
