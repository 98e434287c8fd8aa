//! What a run may spend, and what it spends with servers that count as they like.

use std::time::{Duration, Instant};

use assay::agent::budget::Limits;
use assay::agent::endpoint::Price;
use assay::agent::events::{Approve, Event, RunEnd};
use assay::agent::report::Report;
use assay::agent::run::Run;
use assay::agent::state::State;
use assay::agent::supervise::Signals;
use serde_json::{Value, json};

use super::fake::{Fake, Watch, client, limits, run_with, started};
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

/// What a server counts beyond what its calls could take was charged, so that a run of 100,000 tokens had spent five million.
#[test]
fn one_answer_overran_the_budget_of_tokens() {
    let price = Some(Price { input: 1_000_000, output: 2_000_000 });
    for usage in [
        json!({"prompt_tokens": 5_000_000, "completion_tokens": 50}),
        json!({"prompt_tokens": 100, "completion_tokens": 9_000_000}),
        json!({"prompt_tokens": 1e30, "completion_tokens": u64::MAX}),
    ] {
        let mut reply = answer("", &[("read", json!({}))], (1, 1));
        reply["usage"] = usage.clone();
        let server = Server::start(move |_, _| Reply::Json(reply.clone()));
        let limits = Limits { tokens: 100_000, cost: Some(200_000_000_000), ..limits() };
        let out = run_with(&server, &Fake::default(), Approve::NeverAsk, limits, |s| {
            (s.answer_tokens, s.price) = (300, price);
        });
        let spent = &out.state.spent;
        assert_eq!((out.end, server.seen().len()), (RunEnd::Budget, 1), "{usage}");
        assert!(spent.tokens() <= 100_000 && spent.cost() <= 200_000_000_000, "{usage}: {spent:?}");
        assert!(spent.beyond > 4_000_000 && spent.cost_beyond > 0, "{usage}: {spent:?}");
        let report = Report::of(out.dir.path(), None).unwrap();
        assert_eq!(report.beyond_tokens, spent.beyond);
        assert!(report.text().contains("tokens beyond what its calls could take"), "{}", report.text());
    }
    // No count at all, in every way of not counting.
    for usage in [
        Value::Null,
        json!("many"),
        json!({"prompt_tokens": -5, "completion_tokens": -7}),
        json!({"prompt_tokens": "100", "completion_tokens": "50"}),
        json!({"prompt_tokens": {}, "completion_tokens": [1]}),
        json!({"prompt_tokens": 2_000, "completion_tokens": 1}),
    ] {
        let mut reply = answer(&"x".repeat(3_000), &[("read", json!({}))], (1, 1));
        reply["usage"] = usage.clone();
        let server = Server::start(move |_, _| Reply::Json(reply.clone()));
        let limits = Limits { tokens: 40_000, steps: 50, ..limits() };
        let out = run_with(&server, &Fake::default(), Approve::NeverAsk, limits, |s| s.answer_tokens = 1_200);
        let (spent, calls) = (&out.state.spent, server.seen().len() as u64);
        assert!(out.end == RunEnd::Budget && spent.tokens() <= 40_000 && spent.estimated, "{usage}: {spent:?}");
        assert!(calls < 40 && spent.completion >= 900 * calls, "{usage}: {calls}, {spent:?}");
    }
}

/// A server that counted one token in every prompt was believed, and the budget of tokens lasted for a hundred times as many.
#[test]
fn a_server_that_counted_too_little_was_believed() {
    let call = ("read", json!({ "what": "x".repeat(2_000) }));
    for usage in [
        json!({"prompt_tokens": 1, "completion_tokens": 1}),
        json!({"prompt_tokens": 1.5, "completion_tokens": 0.5}),
        json!({"prompt_tokens": 20, "completion_tokens": 20}),
    ] {
        let mut reply = answer("", std::slice::from_ref(&call), (1, 1));
        reply["usage"] = usage.clone();
        let server = Server::start(move |_, _| Reply::Json(reply.clone()));
        let limits = Limits { tokens: 100_000, steps: 500, ..limits() };
        let out = run_with(&server, &Fake::default(), Approve::NeverAsk, limits, |s| {
            (s.answer_tokens, s.context_tokens) = (1_000, 1_000_000);
        });
        let seen = server.seen();
        let bytes: u64 =
            seen.iter().map(|s| s.messages().iter().map(|m| m.to_string().len() as u64).sum::<u64>()).sum();
        let spent = &out.state.spent;
        assert!(spent.tokens() <= 100_000 && spent.tokens() * 16 > bytes && spent.estimated, "{usage}: {spent:?}");
        assert!(spent.completion >= 100 * seen.len() as u64, "{usage}: {spent:?}");
        assert!(out.has("Undercounted { counted: Usage { prompt: "), "{usage}: {:?}", out.log);
        let told = Report::of(out.dir.path(), None).unwrap().text();
        assert!(told.contains("fewer than so many bytes can have"), "{told}");
    }
    // One that counts as tokens are is believed to the token.
    let server = Server::start(|_, seen| {
        let bytes = seen.body.to_string().len() as u64;
        Reply::Json(answer("so", &[("read", json!({}))], (bytes / 4, 30)))
    });
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, Limits { steps: 5, ..limits() }, |_| {});
    assert!(!out.state.spent.estimated && !out.has("Undercounted"), "{:?}", out.log);
    assert_eq!(out.state.spent.prompt, server.seen().iter().map(|s| s.body.to_string().len() as u64 / 4).sum::<u64>());
}

/// "The server counts 10,000 tokens" was said of servers that had counted nothing.
#[test]
fn it_is_said_whose_count_is_beyond_what_was_set_aside() {
    let story = |usage: Value| {
        let mut reply = answer(&"x".repeat(30_000), &[], (1, 1));
        reply["usage"] = usage;
        let server = Server::start(move |_, _| Reply::Json(reply.clone()));
        let limits = Limits { steps: 1, ..limits() };
        let out = run_with(&server, &Fake::default(), Approve::NeverAsk, limits, |s| s.answer_tokens = 300);
        Report::of(out.dir.path(), None).unwrap().text()
    };
    for usage in [Value::Null, json!({"prompt_tokens": 10}), json!({"prompt_tokens": 10, "completion_tokens": 3})] {
        let text = story(usage.clone());
        assert!(text.contains("assay, by the bytes of the answer, counts 10"), "{usage}: {text}");
        assert!(text.contains("The server, or assay where it gave no count, counts"), "{usage}: {text}");
    }
    for usage in [
        json!({"prompt_tokens": 10, "completion_tokens": 9_000}),
        // The count that is beyond is the server's here too.
        json!({"prompt_tokens": 5_000_000}),
    ] {
        let text = story(usage.clone());
        assert!(text.contains("the server counts ") && text.contains("The server counts "), "{usage}: {text}");
    }
}

/// A server that knows no limit was listened to for 8 MiB, whatever was left.
#[test]
fn a_stream_is_not_read_beyond_what_its_answer_may_be() {
    let piece = json!({"content": "word ".repeat(100)});
    // One that says itself that it has passed the limit, and one that counts nothing.
    for usage in [json!({"prompt_tokens": 9, "completion_tokens": 5_000}), Value::Null] {
        let event = json!({"choices": [{"index": 0, "delta": piece, "finish_reason": null}], "usage": usage});
        let event = format!("data: {event}\n\n").into_bytes();
        let server = Server::start(move |n, _| match n {
            0 => Reply::StreamThenSilence(vec![event.clone(); 40]),
            _ => Reply::Json(answer("", &[("give_up", json!({"reason": "enough"}))], (10, 10))),
        });
        let out = run_with(&server, &Fake::default(), Approve::NeverAsk, limits(), |s| s.answer_tokens = 300);
        assert_eq!((out.end, server.seen().len()), (RunEnd::Done, 2), "{:?}", out.log);
        assert!(out.has("cut: true") && out.has("Overcounted"), "{:?}", out.log);
        assert_eq!(out.state.spent.completion, 300 + 10);
        assert!(out.state.spent.beyond > 1_000, "{:?}", out.state.spent);
    }
}

/// A verdict outlived the time by as long as it took. One that is cut short is said, is no attempt, and costs nothing twice.
#[test]
fn the_time_was_over_and_the_verdict_went_on() {
    let server = Server::start(|_, _| {
        Reply::Json(answer(
            "",
            &[("write_kernel", json!({"file": "swiglu.cu", "text": "right"})), ("verify", json!({}))],
            (400, 50),
        ))
    });
    let client = client(&server, |_| {});
    let (dir, signals, shop) = (tempfile::tempdir().unwrap(), Signals::default(), Fake::default());
    shop.0.endless.set(true);
    let event = started(&client, Approve::NeverAsk, Limits { wall_ms: 700, ..limits() }, &["swiglu"]);
    let (mut handle, mut view, began) = (shop.clone(), Watch::default(), Instant::now());
    let mut run = Run::begin(dir.path(), &mut handle, &client, &signals, &mut view, event).unwrap();
    assert_eq!(run.work().unwrap(), RunEnd::Budget);
    let (state, spent) = (run.state().clone(), run.state().spent.clone());
    drop(run);
    assert!(began.elapsed() < Duration::from_secs(5) && (700..2_000).contains(&state.ms), "{}", state.ms);
    let said = view.log.join("\n");
    assert!(said.contains("BudgetStop { what: \"time\"") && !said.contains("Verdict {"), "{said}");
    assert!(said.contains("the verdict on attempt 1 was being made, and is made anew"), "{said}");
    assert_eq!((state.attempts(), state.spent.steps, spent.tokens()), (0, 1, 450));
    // The next process asks nobody again for what was paid for.
    for (wall_ms, endless, end) in [(700, true, RunEnd::Budget), (60_000, false, RunEnd::Done)] {
        shop.0.endless.set(endless);
        let (mut handle, mut view) = (shop.clone(), Watch::default());
        let resumed = |state: &State, _| {
            let limits = Limits { wall_ms, ..state.limits.clone() };
            Ok(Event::Resumed {
                limits,
                approve: state.approve,
                note: String::new(),
                place: None,
                server: None,
                wait_s: None,
            })
        };
        let mut run = Run::resume(dir.path(), &mut handle, &client, &signals, &mut view, resumed).unwrap();
        assert_eq!(run.work().unwrap(), end, "{:?}", view.log);
    }
    let report = Report::of(dir.path(), None).unwrap();
    assert_eq!((report.nodes[0].attempts.len(), report.nodes[0].attempts[0].attempt, report.steps), (1, 1, 1));
    assert_eq!((server.seen().len(), report.prompt_tokens + report.completion_tokens), (1, 450));
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

/// A model was at work on what a server then breaks off, however it breaks it off: each try is paid for. What is no answer at
/// all costs nothing.
#[test]
fn an_answer_that_ends_in_an_error_or_in_nonsense_is_paid_for() {
    let long = || {
        let text = "x".repeat(500);
        let piece = json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]});
        vec![format!("data: {piece}\n\n").repeat(40).into_bytes()]
    };
    let ends: [&[u8]; 4] = [
        b"data: {\"error\": {\"message\": \"oops\"}}\n\n",
        b"data: no JSON\n\n",
        b"data: {\"choices\": [\n\n",
        b"<html>\n\n",
    ];
    for end in ends {
        let server = Server::start(move |_, _| Reply::Stream([long(), vec![end.to_vec()]].concat()));
        let out = run_with(&server, &Fake::default(), Approve::NeverAsk, limits(), |s| {
            (s.tries, s.answer_tokens) = (3, 2_000);
        });
        let said = String::from_utf8_lossy(end).into_owned();
        assert_eq!((out.end, server.seen().len()), (RunEnd::Endpoint, 3), "{said}");
        assert_eq!(out.state.spent.completion, 3 * 2_000, "{said}");
        assert!(out.state.spent.prompt > 0 && out.state.spent.estimated, "{said}");
    }
    // The server's own count stands where it gave one.
    let server = Server::start(|_, _| {
        let counted = json!({"choices": [{"index": 0, "delta": {"content": "x"}}], "usage": {"prompt_tokens": 70, "completion_tokens": 300}});
        let error = json!({"error": "oops"});
        Reply::Stream(vec![format!("data: {counted}\n\ndata: {error}\n\n").into_bytes()])
    });
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, limits(), |s| s.tries = 2);
    assert_eq!((out.state.spent.prompt, out.state.spent.completion), (140, 600));
    for reply in [
        (|| Reply::Status(200, "", "<html>busy</html>".into())) as fn() -> Reply,
        || Reply::Json(json!({"error": {"message": "overloaded"}})),
        || Reply::Stream(vec![b"data: {\"error\": \"overloaded\"}\n\n".to_vec()]),
        || Reply::Json(json!({"hello": 1})),
        || Reply::Status(500, "", "oops".repeat(1000)),
    ] {
        let out = run_with(&Server::with(vec![reply]), &Fake::default(), Approve::NeverAsk, limits(), |s| s.tries = 2);
        assert_eq!((out.end, out.state.spent.tokens()), (RunEnd::Endpoint, 0), "{:?}", out.log);
    }
}

/// What is not counted, or counted as nothing, is estimated from what was said, and not taken for free.
#[test]
fn a_count_that_is_missing_or_zero_is_no_count() {
    let spent = |usage: Value, text: &str| {
        let mut reply = answer("", &[], (1, 1));
        reply["choices"][0]["message"]["content"] = text.into();
        reply["usage"] = usage;
        let server = Server::start(move |_, _| Reply::Json(reply.clone()));
        let limits = Limits { steps: 1, ..limits() };
        run_with(&server, &Fake::default(), Approve::NeverAsk, limits, |_| {}).state.spent
    };
    let long = "x".repeat(3_000);
    for usage in [json!({"prompt_tokens": 300}), json!({"prompt_tokens": 300, "completion_tokens": 0})] {
        let spent = spent(usage, &long);
        assert_eq!((spent.prompt, spent.completion, spent.estimated), (300, 1_000, true));
    }
    let total = spent(json!({"prompt_tokens": 300, "total_tokens": 700}), &long);
    assert_eq!((total.prompt, total.completion, total.estimated), (300, 400, false));
    let only = spent(json!({"completion_tokens": 277}), &long);
    assert!(only.prompt > 0 && only.completion == 277 && only.estimated);
    let empty = spent(json!({"prompt_tokens": 300, "completion_tokens": 0}), "");
    assert_eq!((empty.prompt, empty.completion, empty.estimated), (300, 0, false));
    // Arguments that nobody could read were written all the same.
    let server = Server::start(|_, _| {
        let call = json!({"id": "x", "function": {"name": "verify", "arguments": format!("{{\"a\": \"{}", "x".repeat(3_000))}});
        Reply::Json(json!({"choices": [{"message": {"tool_calls": [call]}}]}))
    });
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, Limits { steps: 1, ..limits() }, |_| {});
    assert!(out.state.spent.completion > 1_000, "{:?}", out.state.spent);
}
