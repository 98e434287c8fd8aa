//! The loop, step by step and killed at every step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use assay::agent::budget::Limits;
use assay::agent::endpoint::Price;
use assay::agent::events::{Approve, Event, NodeEnd, Record, RunEnd};
use assay::agent::report::Report;
use assay::agent::run::Run;
use assay::agent::state::State;
use assay::agent::supervise::{self, Signals};
use assay::agent::{export, runs, transcript};
use serde_json::{Value, json};

use super::fake::{Fake, KEY, Outcome, Watch, client, limits, run_with, started};
use super::server::{Reply, Server, answer, streamed};

pub fn run(server: &Server) -> Outcome {
    run_with(server, &Fake::default(), Approve::NeverAsk, limits(), |_| {})
}

pub fn write(text: &str) -> (&'static str, Value) {
    ("write_kernel", json!({"file": "swiglu.cu", "text": text}))
}

fn verify() -> (&'static str, Value) {
    ("verify", json!({}))
}

/// Each answer is one step.
fn script(steps: Vec<Vec<(&'static str, Value)>>) -> Server {
    Server::start(move |n, _| match steps.get(n) {
        Some(calls) => Reply::Stream(streamed("", calls, (100, 50))),
        None => Reply::Json(answer("It is done: all tests pass, prefill works.", &[], (100, 50))),
    })
}

#[test]
fn a_red_verdict_goes_into_the_next_turn_and_a_pass_ends_the_node() {
    let server = script(vec![vec![write("wrong: a stride"), verify()], vec![write("right"), verify()]]);
    let out = run(&server);
    assert_eq!((out.end, out.ended()), (RunEnd::Done, vec![("swiglu".into(), NodeEnd::Emulated)]));
    let seen = server.seen();
    let told = seen[1].messages().last().unwrap();
    assert!(told["role"] == "tool" && told["content"].as_str().unwrap().contains("wrong: a stride"), "{told}");
    assert_eq!((out.state.spent.steps, out.state.spent.tokens()), (2, 300));
    let report = Report::of(out.dir.path(), None).unwrap();
    assert_eq!(report.nodes[0].attempts.len(), 2);
    assert_eq!(report.verdicts, BTreeMap::from([("unit".into(), 1), ("pass".into(), 1)]));
    assert!(
        report.text().contains("| swiglu | passes on the emulator, not green | 2 | 2 | 300 |"),
        "{}",
        report.text()
    );
    let atif = export::atif(out.dir.path()).unwrap();
    assert_eq!(atif["schema_version"], "ATIF-v1.4");
    let ids: Vec<_> = atif["steps"].as_array().unwrap().iter().map(|s| s["step_id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
}

/// The failed port's model: it says that everything works.
#[test]
fn a_model_that_says_it_is_done_changes_nothing() {
    let server = script(vec![]);
    let out = run(&server);
    assert_eq!(out.ended(), [("swiglu".into(), NodeEnd::Stuck)]);
    assert!(out.has("called no tool") && out.has("steps in a row without a new verdict"));
    assert!(!out.has("Verdict") && !out.has("Landed"));
}

#[test]
fn being_stuck_changes_the_strategy_and_then_the_node() {
    let same = |n: usize| vec![write(&format!("wrong, always ({n})")), verify()];
    let steps: Vec<_> = (0..9).map(same).collect();
    let server = script(steps);
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, Limits { attempts: 20, ..limits() }, |_| {});
    assert_eq!(out.ended(), [("swiglu".into(), NodeEnd::Stuck)]);
    let strategies: Vec<_> = out.log.iter().filter(|l| l.starts_with("Strategy")).collect();
    assert!(
        strategies.len() == 2 && strategies[0].contains("naive form") && strategies[1].contains("matmul"),
        "{strategies:?}"
    );
    assert_eq!(out.state.last_verdict.as_ref().unwrap().outcome, "red");
    let last = server.seen().last().unwrap().body["messages"].to_string();
    assert!(last.contains("a neighbour's kernel") && last.contains("naive form"), "{last}");
}

#[test]
fn attempts_are_a_budget_and_an_unchanged_kernel_is_not_judged_again() {
    let steps = (0..6).map(|n| vec![write(&format!("wrong {} words", "x".repeat(n))), verify(), verify()]).collect();
    let shop = Fake::default();
    let out = run_with(&script(steps), &shop, Approve::NeverAsk, Limits { attempts: 2, ..limits() }, |_| {});
    assert_eq!(out.ended(), [("swiglu".into(), NodeEnd::Attempts)]);
    assert_eq!(shop.0.judged.get(), 2);
    assert!(out.has("nothing has changed since attempt 1") && out.has("BudgetStop"));
}

#[test]
fn a_try_that_failed_is_tried_again_and_is_no_step() {
    let server = Server::start(|n, _| match n {
        0 => Reply::Status(429, "Retry-After: 0\r\n", "{}".into()),
        1 => Reply::Status(503, "", "busy".into()),
        2 => Reply::Reset,
        3 => Reply::Status(200, "", "<html>".into()),
        4 => Reply::Stream(vec![b"data: {\"choices\":[{\"delta\":{\"content\":\"half\"}}]}\n\n".to_vec()]),
        5 => Reply::Json(answer("", &[write("right"), verify()], (100, 50))),
        _ => panic!("asked too often"),
    });
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, Limits { steps: 1, ..limits() }, |_| {});
    assert_eq!((out.end, out.state.spent.steps, out.state.spent.calls), (RunEnd::Done, 1, 6));
    assert!(out.state.spent.tokens() > 150 && out.state.spent.estimated, "what was cut off was paid for");

    let server = Server::with(vec![|| Reply::Status(500, "", "no".into())]);
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, limits(), |s| s.tries = 3);
    assert_eq!((out.end, server.seen().len()), (RunEnd::Endpoint, 3));
    let server = Server::with(vec![|| Reply::Status(401, "", "no".into())]);
    assert_eq!((run(&server).end, server.seen().len()), (RunEnd::Endpoint, 1));
    let server = Server::with(vec![|| Reply::Status(429, "Retry-After: 100\r\n", "{}".into())]);
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, Limits { wall_ms: 300, ..limits() }, |_| {});
    assert_eq!(out.end, RunEnd::Budget);
}

#[test]
fn a_conversation_that_is_too_long_begins_anew_with_its_verdicts() {
    let server = Server::start(|n, _| match n {
        0 => Reply::Json(answer("", &[write("wrong, by a stride"), verify()], (1, 1))),
        1 => Reply::Status(
            400,
            "",
            json!({"error": {"code": "context_length_exceeded", "message": "too long"}}).to_string(),
        ),
        2 => Reply::Json(answer("", &[write("right"), verify()], (1, 1))),
        _ => panic!("asked too often"),
    });
    let out = run(&server);
    assert_eq!(out.ended(), [("swiglu".into(), NodeEnd::Emulated)]);
    let anew = &server.seen()[2];
    assert_eq!(anew.messages().len(), 2);
    assert!(anew.messages()[1]["content"].as_str().unwrap().contains("wrong, by a stride"), "{anew:?}");
    assert!(out.has("condensed"));

    let server = Server::with(vec![|| Reply::Status(400, "", "maximum context length".into())]);
    let out = run(&server);
    assert_eq!((out.end, out.ended(), server.seen().len()), (RunEnd::Context, vec![], 2));
    // It does so by itself before the server says it.
    let server = Server::start(|n, seen| {
        let bytes = seen.body.to_string().len() as u64;
        Reply::Json(answer(&format!("{n}{}", "hm ".repeat(900)), &[("read", json!({}))], (bytes / 4, 700)))
    });
    let small = Limits { steps: 9, ..limits() };
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, small, |s| {
        (s.context_tokens, s.answer_tokens) = (2_000, 300);
    });
    assert!(out.has("condensed") && server.seen().iter().all(|s| s.body.to_string().len() < 20_000));
}

#[test]
fn what_is_refused_is_an_event() {
    let outside = ("write_kernel", json!({"file": "../../etc/passwd", "text": "x"}));
    let other = ("verify", json!({"node": "rms_norm"}));
    let ask = ("ask_human", json!({"question": "may I?"}));
    let out = run(&script(vec![vec![outside, other, ask], vec![("give_up", json!({"reason": "no"}))]]));
    assert_eq!(out.log.iter().filter(|l| l.starts_with("Refused")).count(), 3, "{:?}", out.log);
}

#[test]
fn green_lands_with_a_persons_word_and_not_without() {
    let right = || script(vec![vec![write("right"), verify()]]);
    let land = |approve, answers: Vec<(Option<bool>, String)>, picky: bool| {
        let shop = Fake::default();
        shop.0.device.set(true);
        shop.0.picky.set(picky);
        let server = right();
        let client = client(&server, |_| {});
        let (dir, signals) = (tempfile::tempdir().unwrap(), Signals::default());
        let mut view = Watch { answers, ..Watch::default() };
        let mut handle = shop.clone();
        let event = started(&client, approve, Limits { steps: 2, ..limits() }, &["swiglu"]);
        let mut run = Run::begin(dir.path(), &mut handle, &client, &signals, &mut view, event).unwrap();
        run.work().unwrap();
        let ended = run.state().ended.first().map(|(_, how, _)| *how);
        (ended, shop.0.landed.borrow().len())
    };
    assert_eq!(land(Approve::Green, vec![(Some(true), String::new())], false), (Some(NodeEnd::Landed), 1));
    assert_eq!(land(Approve::Green, vec![(Some(false), String::new())], false), (Some(NodeEnd::Green), 0));
    assert_eq!(land(Approve::Green, vec![], false), (Some(NodeEnd::Green), 0), "nobody answered");
    assert_eq!(land(Approve::NeverAsk, vec![], false), (Some(NodeEnd::Landed), 1));
    // What the emulator passes and the device does not is red.
    assert_eq!(land(Approve::NeverAsk, vec![], true), (None, 0));
}

#[test]
fn each_step_can_be_refused() {
    let server = Server::start(|n, seen| match n {
        0 => Reply::Json(answer("", &[write("right")], (1, 1))),
        _ => {
            assert!(seen.body["messages"].to_string().contains("refused this step. not like this"), "{seen:?}");
            Reply::Json(answer("", &[("give_up", json!({"reason": "as you say"}))], (1, 1)))
        }
    });
    let client = client(&server, |_| {});
    let (dir, signals, shop) = (tempfile::tempdir().unwrap(), Signals::default(), Fake::default());
    let answers = vec![(Some(true), String::new()), (Some(false), "not like this".to_string())];
    let mut view = Watch { answers, ..Watch::default() };
    let mut handle = shop.clone();
    let event = started(&client, Approve::EachStep, limits(), &["swiglu"]);
    let mut run = Run::begin(dir.path(), &mut handle, &client, &signals, &mut view, event).unwrap();
    assert_eq!(run.work().unwrap(), RunEnd::Done);
    assert!(shop.0.files.borrow().is_empty());
}

/// Words from another terminal: a hint, a pause, and going on.
#[test]
fn a_person_speaks_from_another_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    let server = Server::start(move |n, seen| match n {
        0 => {
            supervise::send(&path, &supervise::Word::Say { text: "mind the stride".into() }).unwrap();
            supervise::send(&path, &supervise::Word::Pause).unwrap();
            let later = path.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(300));
                supervise::send(&later, &supervise::Word::Resume).unwrap();
            });
            Reply::Json(answer("", &[write("wrong"), verify()], (1, 1)))
        }
        1 => {
            assert!(seen.body["messages"].to_string().contains("mind the stride"), "{seen:?}");
            Reply::Json(answer("", &[write("right"), verify()], (1, 1)))
        }
        _ => panic!("asked too often"),
    });
    let client = client(&server, |_| {});
    let (signals, mut view, mut shop) = (Signals::default(), Watch::default(), Fake::default());
    let event = started(&client, Approve::Green, limits(), &["swiglu"]);
    let mut run = Run::begin(dir.path(), &mut shop, &client, &signals, &mut view, event).unwrap();
    assert_eq!(run.work().unwrap(), RunEnd::Done);
    assert!(run.state().ms < 300 + 1000);
    for event in ["Said", "Paused", "Continued"] {
        assert_eq!(view.log.iter().filter(|l| l.starts_with(event)).count(), 1, "{event}");
    }
    assert_eq!(supervise::inbox(dir.path()).unwrap(), []);
}

/// The model's question is answered and the landing approved by words that name the question they answer.
#[test]
fn questions_are_answered_from_another_terminal() {
    let server = Server::start(|n, seen| match n {
        0 => Reply::Json(answer("", &[("ask_human", json!({"question": "which layout?"}))], (1, 1))),
        1 => {
            assert_eq!(seen.messages().last().unwrap()["content"], "row-major");
            Reply::Json(answer("", &[("ask_human", json!({"question": "and may I begin?"}))], (1, 1)))
        }
        2 => {
            assert_eq!(seen.messages().last().unwrap()["content"], "Yes.", "an approval without words");
            Reply::Json(answer("", &[write("right"), verify()], (1, 1)))
        }
        _ => panic!("asked too often"),
    });
    let client = client(&server, |_| {});
    let (dir, signals, shop) = (tempfile::tempdir().unwrap(), Signals::default(), Fake::default());
    shop.0.device.set(true);
    let (mut view, mut handle) = (Watch::default(), shop.clone());
    let mut event = started(&client, Approve::Green, limits(), &["swiglu"]);
    if let Event::Started { wait_s, .. } = &mut event {
        *wait_s = 30;
    }
    let path = dir.path().to_path_buf();
    let mut run = Run::begin(dir.path(), &mut handle, &client, &signals, &mut view, event).unwrap();
    let person = std::thread::spawn(move || {
        // An answer to a question that nobody asked is refused, not kept for the next one.
        supervise::send(&path, &supervise::Word::Approve { ask: 9, text: String::new() }).unwrap();
        for ask in 1..=3 {
            while runs::state(&path).unwrap().ask.is_none_or(|a| a.id != ask) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let word = match ask {
                1 => supervise::Word::Say { text: "row-major".into() },
                2 => supervise::Word::Approve { ask, text: String::new() },
                _ => supervise::Word::Approve { ask, text: "well done".into() },
            };
            supervise::send(&path, &word).unwrap();
        }
    });
    assert_eq!(run.work().unwrap(), RunEnd::Done);
    person.join().unwrap();
    assert_eq!(run.state().ended[0].1, NodeEnd::Landed);
    assert_eq!(view.log.iter().filter(|l| l.starts_with("Refused")).count(), 1);
    assert_eq!(shop.0.landed.borrow().len(), 1);
}

#[test]
fn a_second_ctrl_c_stops_while_the_server_is_silent() {
    let server = Server::with(vec![|| Reply::Silence]);
    let client = client(&server, |s| s.idle = Duration::from_secs(60));
    let (dir, signals, mut view, mut shop) =
        (tempfile::tempdir().unwrap(), Arc::new(Signals::default()), Watch::default(), Fake::default());
    let event = started(&client, Approve::Green, limits(), &["swiglu"]);
    let mut run = Run::begin(dir.path(), &mut shop, &client, &signals, &mut view, event).unwrap();
    let hand = signals.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        hand.came();
        hand.came();
    });
    assert_eq!(run.work().unwrap(), RunEnd::Stopped);
    assert!(run.state().spent.reserved.is_none() && run.state().spent.tokens() > 0);
}

/// The run is killed before or after each of its events in turn, and gone on with: it judges as often, ends the same, and
/// neither loses nor repeats an attempt; what was set aside when it died stays spent.
#[test]
fn a_run_killed_at_any_event_goes_on_as_if_nothing_had_happened() {
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    let server = Server::start(move |_, seen| {
        counted.fetch_add(1, Ordering::Relaxed);
        // The answer follows from the conversation, as a model's does.
        let said = seen.body["messages"].to_string();
        let calls = match () {
            _ if !said.contains("wrong one") => vec![("read", json!({})), write("wrong one"), verify()],
            _ if !said.contains("wrong two") => vec![write("wrong two"), verify()],
            _ => vec![write("right"), verify()],
        };
        Reply::Json(answer("", &calls, (100, 50)))
    });
    let go = |die_before: Option<u64>, die_after: Option<u64>| {
        let client = client(&server, |_| {});
        let (dir, signals, shop) = (tempfile::tempdir().unwrap(), Signals::default(), Fake::default());
        shop.0.device.set(true);
        let mut dying = Watch { die_before, die_after, ..Watch::default() };
        let event = started(&client, Approve::NeverAsk, limits(), &["swiglu"]);
        let mut handle = shop.clone();
        let first = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut run = Run::begin(dir.path(), &mut handle, &client, &signals, &mut dying, event).unwrap();
            run.work().unwrap();
        }));
        if first.is_err() {
            let path = dir.path().join(transcript::FILE);
            // Killed in the middle of a write.
            if std::fs::metadata(&path).unwrap().len() == 0 {
                return None;
            }
            let mut text = std::fs::read(&path).unwrap();
            text.extend_from_slice(b"{\"seq\":9");
            std::fs::write(&path, text).unwrap();
            let mut view = Watch::default();
            let mut handle = shop.clone();
            let resumed = |state: &State, note: Option<String>| {
                Ok(Event::Resumed {
                    limits: state.limits.clone(),
                    approve: state.approve,
                    note: note.unwrap(),
                    place: None,
                    server: None,
                    wait_s: None,
                })
            };
            let mut run = Run::resume(dir.path(), &mut handle, &client, &signals, &mut view, resumed).unwrap();
            run.work().unwrap();
        }
        let state = runs::state(dir.path()).unwrap();
        let report = Report::of(dir.path(), None).unwrap();
        let attempts: Vec<_> =
            report.nodes[0].attempts.iter().map(|a| (a.attempt, a.class.clone(), a.outcome.clone())).collect();
        Some((state.over.unwrap().0, attempts, shop.0.judged.get(), shop.0.landed.borrow().clone(), state.spent))
    };
    let whole = go(None, None).unwrap();
    assert_eq!((whole.0, whole.1.len(), whole.2, whole.3.len()), (RunEnd::Done, 4, 4, 1));
    let made = calls.load(Ordering::Relaxed);
    assert_eq!((made, whole.4.tokens()), (3, 450));
    let mut deaths = 0;
    for at in 0..40 {
        for (before, after) in [(Some(at), None), (None, Some(at))] {
            let Some(again) = go(before, after) else { continue };
            deaths += 1;
            let at = format!("killed before {before:?} or after {after:?}");
            assert_eq!((again.0, &again.1, &again.3), (whole.0, &whole.1, &whole.3), "{at}");
            assert_eq!(again.2, whole.2, "{at}: as many judgements");
            assert!(again.4.tokens() >= whole.4.tokens(), "{at}: {:?}", again.4);
            assert!(again.4.reserved.is_none(), "{at}");
        }
    }
    assert!(deaths > 50, "{deaths}");
}

/// What was set aside for a call that a kill or a second Ctrl-C cut short was in the run's sum and in no node's.
#[test]
fn the_nodes_of_a_report_have_all_that_the_run_spent() {
    let stopped = Arc::new(Signals::default());
    let hand = stopped.clone();
    let server = Server::start(move |n, _| match n {
        0 => Reply::Json(answer("", &[("read", json!({}))], (100, 50))),
        1 => {
            hand.came();
            hand.came();
            Reply::Silence
        }
        _ => Reply::Json(answer("", &[("give_up", json!({"reason": "enough"}))], (100, 50))),
    });
    let client =
        client(&server, |s| (s.idle, s.price) = (Duration::from_secs(60), Some(Price { input: 3, output: 5 })));
    let (dir, shop) = (tempfile::tempdir().unwrap(), Fake::default());
    let event = started(&client, Approve::NeverAsk, limits(), &["swiglu"]);
    // Killed behind the first reservation, stopped in the second call, and then left alone.
    let mut dying = Watch { die_after: Some(4), ..Watch::default() };
    let (signals, mut handle) = (Signals::default(), shop.clone());
    let first = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Run::begin(dir.path(), &mut handle, &client, &signals, &mut dying, event).unwrap().work().unwrap();
    }));
    assert!(first.is_err() && dying.log.last().unwrap().starts_with("Reserved"), "{:?}", dying.log);
    for (signals, end) in [(&*stopped, RunEnd::Stopped), (&signals, RunEnd::Done)] {
        let (mut view, mut handle) = (Watch::default(), shop.clone());
        let resumed = |state: &State, _| {
            let (limits, approve) = (state.limits.clone(), state.approve);
            Ok(Event::Resumed { limits, approve, note: String::new(), place: None, server: None, wait_s: None })
        };
        let mut run = Run::resume(dir.path(), &mut handle, &client, signals, &mut view, resumed).unwrap();
        assert_eq!(run.work().unwrap(), end);
    }
    let (report, state) = (Report::of(dir.path(), None).unwrap(), runs::state(dir.path()).unwrap());
    let node = &report.nodes[0];
    assert_eq!(report.nodes.len(), 1);
    assert_eq!(
        (node.steps, node.prompt_tokens, node.completion_tokens, &node.cost),
        (report.steps, report.prompt_tokens, report.completion_tokens, &report.cost)
    );
    assert_eq!(node.steps, 4);
    assert!(node.prompt_tokens > 300 && state.spent.reserved.is_none(), "{:?}", state.spent);
}

#[test]
fn two_hundred_steps_of_everything_that_can_go_wrong_leave_a_transcript_in_order() {
    let server = Server::start(|n, _| match n % 11 {
        0 => Reply::Status(429, "Retry-After: 0\r\n", String::new()),
        1 => Reply::Reset,
        2 => Reply::Json(answer("", &[], (50, 5))),
        3 => Reply::Stream(vec![b"data: {\"choices\"".to_vec()]),
        4 => Reply::Json(
            json!({"choices": [{"message": {"tool_calls": [{"function": {"name": "verify", "arguments": "{\"a"}}]}}]}),
        ),
        5 => Reply::Status(200, "", "<html>".into()),
        6 => Reply::Json(answer(&"long ".repeat(20_000), &[("read", json!({}))], (50, 5))),
        7 => Reply::Status(400, "", "maximum context length".into()),
        8 => Reply::Json(answer(&format!("my key is {KEY}"), &[("nothing", json!({"x": "\u{0}"}))], (50, 5))),
        9 => Reply::Json(answer("", &[write(&format!("wrong error {n} in words of {n}")), verify()], (50, 5))),
        _ => Reply::Json(answer("", &[("write_kernel", json!({"file": "/etc/passwd", "text": 7}))], (50, 5))),
    });
    let shop = Fake::default();
    let client = client(&server, |s| s.tries = 50);
    let (dir, signals, mut view) = (tempfile::tempdir().unwrap(), Signals::default(), Watch::default());
    let mut handle = shop.clone();
    let limits = Limits { steps: 200, attempts: 1000, ..limits() };
    let event = started(&client, Approve::NeverAsk, limits, &[]);
    let mut run = Run::begin(dir.path(), &mut handle, &client, &signals, &mut view, event).unwrap();
    let end = run.work().unwrap();
    assert!(matches!(end, RunEnd::Done | RunEnd::Budget), "{end:?}");
    assert!(run.state().ended.iter().all(|(_, how, _)| !how.passed()));
    assert!(run.state().spent.steps >= 15, "{}", run.state().spent.steps);
    let mut events = 0;
    transcript::read(&dir.path().join(transcript::FILE), |_: Record| events += 1).unwrap();
    let text = std::fs::read_to_string(dir.path().join(transcript::FILE)).unwrap();
    assert!(events as usize == view.log.len() && !text.contains(KEY));
    assert!(Path::new("/etc/passwd").exists() && shop.0.landed.borrow().is_empty());
}
