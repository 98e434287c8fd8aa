//! Conversations that are too long, and what must not be lost when they begin anew.

use assay::agent::endpoint::Settings;
use assay::agent::events::{Approve, Event, NodeEnd, RunEnd};
use assay::agent::run::Run;
use assay::agent::state::State;
use assay::agent::supervise::{self, Signals};
use serde_json::{Value, json};

use super::fake::{Fake, Watch, client, limits, started};
use super::run::write;
use super::server::{Reply, Seen, Server, answer};

/// A context that holds the prompt and no long answer beside it.
fn small(settings: &mut Settings) {
    (settings.context_tokens, settings.answer_tokens) = (2_000, 300);
}

fn long(calls: &[(&str, Value)], seen: &Seen) -> Reply {
    Reply::Json(answer(&"hm ".repeat(4_000), calls, (seen.body.to_string().len() as u64 / 4, 3_000)))
}

fn give_up() -> Reply {
    Reply::Json(answer("", &[("give_up", json!({"reason": "enough"}))], (10, 10)))
}

fn too_long() -> Reply {
    Reply::Status(400, "", json!({"error": {"message": "maximum context length is 2000 tokens"}}).to_string())
}

/// A run in `dir`, killed after so many of its events if told so and gone on with then.
fn go(server: &Server, dir: &tempfile::TempDir, view: &mut Watch, change: fn(&mut Settings)) -> (RunEnd, State) {
    let client = client(server, change);
    let (signals, shop) = (Signals::default(), Fake::default());
    let mut event = started(&client, Approve::Green, limits(), &["swiglu"]);
    if let Event::Started { limits, .. } = &mut event {
        limits.steps = 8;
    }
    let mut handle = shop.clone();
    let first = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut run = Run::begin(dir.path(), &mut handle, &client, &signals, view, event).unwrap();
        (run.work().unwrap(), run.state().clone())
    }));
    first.unwrap_or_else(|_| {
        let mut view = Watch { answers: view.answers.clone(), ..Watch::default() };
        go_on(server, dir, &mut view, &shop, change)
    })
}

fn go_on(
    server: &Server,
    dir: &tempfile::TempDir,
    view: &mut Watch,
    shop: &Fake,
    change: fn(&mut Settings),
) -> (RunEnd, State) {
    let (client, signals, mut shop) = (client(server, change), Signals::default(), shop.clone());
    let resumed = |state: &State, _| {
        let (limits, approve) = (state.limits.clone(), state.approve);
        Ok(Event::Resumed { limits, approve, note: String::new(), place: None, server: None, wait_s: None })
    };
    let mut run = Run::resume(dir.path(), &mut shop, &client, &signals, view, resumed).unwrap();
    (run.work().unwrap(), run.state().clone())
}

fn user(seen: &Seen) -> String {
    seen.messages().last().unwrap()["content"].as_str().unwrap_or_default().to_string()
}

/// What a person said while the model worked was in the log and in no request: the conversation began anew before one.
#[test]
fn a_hint_was_lost_when_the_conversation_was_condensed() {
    // The second time by the server's word, which knows of no estimate.
    for by_server in [false, true] {
        let hinted = move |dir: std::path::PathBuf| {
            Server::start(move |n, seen| match n {
                0 => {
                    let word = supervise::Word::Say { text: "mind the stride".into() };
                    supervise::send(&dir, &word).unwrap();
                    match by_server {
                        true => Reply::Json(answer("", &[("read", json!({}))], (10, 10))),
                        false => long(&[("read", json!({}))], seen),
                    }
                }
                _ if by_server && seen.messages().len() > 2 => too_long(),
                _ if user(seen).contains("mind the stride") => give_up(),
                _ => long(&[("read", json!({}))], seen),
            })
        };
        let change = if by_server { |_: &mut Settings| {} } else { small };
        let mut deaths = 0;
        for die_after in std::iter::once(None).chain((1..16).map(Some)) {
            let dir = tempfile::tempdir().unwrap();
            let server = hinted(dir.path().into());
            let mut view = Watch { die_after, ..Watch::default() };
            let (end, state) = go(&server, &dir, &mut view, change);
            deaths += u32::from(die_after.is_some_and(|at| at == view.seen));
            assert_eq!((end, state.ended[0].1), (RunEnd::Done, NodeEnd::GaveUp), "{die_after:?}: {:?}", view.log);
            let seen = server.seen();
            let last = seen.last().unwrap();
            assert!(last.messages().len() == 2 && user(last).contains("mind the stride"), "{die_after:?}: {last:?}");
        }
        assert!(deaths > 8, "{deaths}");
    }
}

/// So was the answer to the model's own question, which it then asked again, and the change of its strategy.
#[test]
fn an_answer_and_a_change_of_strategy_were_lost_when_the_conversation_was_condensed() {
    let question = ("ask_human", json!({"question": "which layout?"}));
    let edits: Vec<_> = ["a", "b", "c", "d"].map(write).into();
    for (calls, says) in [(vec![question], "row-major"), (edits, "You are stuck: 4 edits")] {
        let server = Server::start(move |n, seen| match n {
            0 => long(&calls, seen),
            _ => give_up(),
        });
        let dir = tempfile::tempdir().unwrap();
        let mut view = Watch { answers: vec![(None, "row-major".into())], ..Watch::default() };
        let (end, _) = go(&server, &dir, &mut view, small);
        let seen = server.seen();
        assert!(view.log.iter().any(|l| l.contains("condensed")), "{:?}", view.log);
        assert_eq!((end, seen.len(), seen[1].messages().len()), (RunEnd::Done, 2, 2));
        assert!(user(&seen[1]).contains(says), "{:?}", seen[1]);
        assert!(says != "row-major" || user(&seen[1]).contains("You asked: which layout?"), "{:?}", seen[1]);
    }
}

/// Each result was thrown away before the model saw it, 24 times, and no word was said of why.
#[test]
fn a_context_that_holds_no_result_was_gone_round_in_without_a_word() {
    let own = |_: usize, seen: &Seen| long(&[("read", json!({}))], seen);
    let servers = |_: usize, seen: &Seen| match seen.messages().len() {
        2 => Reply::Json(answer("", &[("read", json!({}))], (10, 10))),
        _ => too_long(),
    };
    let by_estimate =
        (Server::start(own), small as fn(&mut Settings), 3, "context_tokens, which is 2000, is too small");
    let by_server = (Server::start(servers), (|_| {}) as fn(&mut Settings), 6, "the server's context is too small");
    for (server, change, calls, says) in [by_estimate, by_server] {
        let dir = tempfile::tempdir().unwrap();
        let mut view = Watch::default();
        let (end, state) = go(&server, &dir, &mut view, change);
        assert_eq!((end, server.seen().len()), (RunEnd::Context, calls), "{:?}", view.log);
        let why = state.over.unwrap().1;
        assert!(why.contains(says) && why.contains("condensed 2 times in a row"), "{why}");
        assert!(why.contains("an answer may have 300") == (calls == 3) && why.contains("agent.toml"), "{why}");
        assert!(view.log.last().unwrap().contains(says), "{:?}", view.log.last());
    }
    // A verdict is progress, and so is a file: the next prompt holds both.
    let server = Server::start(|n, seen| match n {
        0..=5 => long(&[write(&format!("wrong {}", "x".repeat(n + 1))), ("verify", json!({}))], seen),
        6 => long(&[write("right")], seen),
        _ => Reply::Json(answer("", &[("verify", json!({}))], (10, 10))),
    });
    let dir = tempfile::tempdir().unwrap();
    let mut view = Watch::default();
    let (end, state) = go(&server, &dir, &mut view, small);
    assert_eq!((end, state.ended[0].1), (RunEnd::Done, NodeEnd::Emulated), "{:?}", view.log);
    assert!(view.log.iter().filter(|l| l.contains("condensed")).count() > 5, "{:?}", view.log);
}

/// The node was over, the run done and the hint lost; a run without named nodes left one node after the other like that.
#[test]
fn a_context_that_does_not_hold_the_prompt_ended_the_node() {
    let tight = |settings: &mut Settings| (settings.context_tokens, settings.answer_tokens) = (100, 60);
    let tight = (
        tight as fn(&mut Settings),
        0,
        "context_tokens, which is 100, does not hold the prompt",
        "set context_tokens to ",
    );
    let server_s =
        ((|_| {}) as fn(&mut Settings), 2, "the server's context does not hold the prompt", "start the server with a ");
    for (nodes, (change, calls, says, next)) in
        [(&["swiglu"][..], tight), (&[], tight), (&["swiglu"], server_s), (&[], server_s)]
    {
        let server = Server::start(move |n, _| if n < calls { too_long() } else { give_up() });
        let (dir, shop, mut view) = (tempfile::tempdir().unwrap(), Fake::default(), Watch::default());
        supervise::send(dir.path(), &supervise::Word::Say { text: "mind the stride".into() }).unwrap();
        let (first, signals, mut handle) = (client(&server, change), Signals::default(), shop.clone());
        let event = started(&first, Approve::Green, limits(), nodes);
        let mut run = Run::begin(dir.path(), &mut handle, &first, &signals, &mut view, event).unwrap();
        assert_eq!((run.work().unwrap(), server.seen().len()), (RunEnd::Context, calls), "{nodes:?}");
        let state = run.state().clone();
        drop(run);
        let why = state.over.unwrap().1;
        assert!(why.contains(says) && why.contains("its prompt has about ") && why.contains(next), "{why}");
        assert!(!why.contains("last results") && state.ended.is_empty(), "{why}: {:?}", state.ended);
        // As long as there is no more room it ends in the same way; then it goes on, with the same node and the hint.
        if calls == 0 {
            assert_eq!(go_on(&server, &dir, &mut view, &shop, change).0, RunEnd::Context);
            assert_eq!(server.seen().len(), 0);
        }
        let (end, state) = go_on(&server, &dir, &mut view, &shop, |_| {});
        assert_eq!(
            (end, state.ended[0].0.to_string(), state.ended[0].1),
            (RunEnd::Done, "swiglu".into(), NodeEnd::GaveUp)
        );
        assert!(user(&server.seen()[calls]).contains("mind the stride"), "{:?}", server.seen()[calls]);
    }
}
