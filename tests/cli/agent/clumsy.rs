//! Servers and models that do what nobody thought of: none of it ends a run otherwise than by its rules.

use std::time::{Duration, Instant};

use assay::agent::budget::Limits;
use assay::agent::events::{Approve, NodeEnd, RunEnd};
use serde_json::{Value, json};

use super::fake::{Fake, KEY, limits, run_with};
use super::run::run;
use super::server::{Reply, Server, answer};

fn give_up() -> Reply {
    Reply::Json(answer("", &[("give_up", json!({"reason": "enough"}))], (10, 10)))
}

fn event(delta: Value, finish: Value) -> Vec<u8> {
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})).into_bytes()
}

/// One byte at a time is never silence; where they came without a pause the time, and Ctrl-C, were never looked at.
#[test]
fn a_stream_without_end_ends_with_the_time_that_there_is() {
    let server = Server::start(|_, _| Reply::Drip(event(json!({"content": "so"}), Value::Null)));
    let began = Instant::now();
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, Limits { wall_ms: 700, ..limits() }, |_| {});
    assert_eq!((out.end, server.seen().len()), (RunEnd::Budget, 1), "{:?}", out.log);
    assert!(began.elapsed() < Duration::from_secs(5) && out.state.spent.tokens() > 0);
    let long = |s: &mut assay::agent::endpoint::Settings| (s.total, s.tries) = (Duration::from_millis(300), 2);
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, limits(), long);
    assert_eq!(out.end, RunEnd::Endpoint);
}

/// A server that talked on after its last word was listened to for half an hour.
#[test]
fn a_server_that_talks_on_after_its_last_word_is_not_listened_to() {
    let call = json!({"tool_calls": [{"index": 0, "id": "x", "function": {"name": "give_up", "arguments": "{\"reason\": \"so\"}"}}]});
    let server = Server::start(move |_, _| {
        Reply::Drip([event(call.clone(), Value::Null), event(json!({}), "stop".into())].concat())
    });
    let began = Instant::now();
    let idle = |s: &mut assay::agent::endpoint::Settings| s.idle = Duration::from_secs(20);
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, limits(), idle);
    assert_eq!(out.ended(), [("swiglu".into(), NodeEnd::GaveUp)]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// The wait of two seconds for a server's last words began with its first piece.
#[test]
fn a_reason_to_end_that_is_none_or_too_early_cut_the_answer() {
    let call = |text: &str| json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]});
    for reason in [json!(""), json!("null"), json!("tool_calls")] {
        let said = reason.clone();
        let server = Server::start(move |n, _| {
            if n > 0 {
                return give_up();
            }
            let name =
                json!({"tool_calls": [{"index": 0, "id": "x", "function": {"name": "give_up", "arguments": ""}}]});
            let mut pieces = vec![event(name, said.clone())];
            pieces.extend(["{\"reason\": ", "\"so ", "and ", "so\"", "}"].map(|text| event(call(text), said.clone())));
            pieces.push(event(json!({}), "tool_calls".into()));
            Reply::Slow(500, pieces)
        });
        let idle = |s: &mut assay::agent::endpoint::Settings| s.idle = Duration::from_secs(20);
        let out = run_with(&server, &Fake::default(), Approve::NeverAsk, limits(), idle);
        assert_eq!((server.seen().len(), out.ended()), (1, vec![("swiglu".into(), NodeEnd::GaveUp)]), "{:?}", out.log);
        assert!(out.state.ended[0].2.contains("so and so"), "{reason}: {:?}", out.log);
    }
    // One that talks on for ever is cut where an answer of so many tokens is.
    let server = Server::start(|n, _| match n {
        0 => Reply::Slow(0, (0..4_000).map(|_| event(json!({"content": "x".repeat(100)}), "stop".into())).collect()),
        _ => give_up(),
    });
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, limits(), |s| {
        (s.answer_tokens, s.idle) = (100, Duration::from_secs(20));
    });
    assert!(out.has("cut: true"), "it was read to its end");
}

#[test]
fn ten_thousand_calls_and_arguments_without_bottom_are_answered_with_errors() {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let server = Server::start(move |n, _| match n {
        0 => Reply::Json(answer("", &vec![("read", json!({"what": "contract"})); 10_000], (10, 10))),
        1 => {
            let mut reply = answer("", &[("read", json!({}))], (10, 10));
            reply["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] =
                deep("{\"a\":", "}").replace(":}", ":1}").into();
            Reply::Json(reply)
        }
        // As text, and as a document that nobody can read.
        2 => Reply::Json(answer(&format!("<tool_call>{}</tool_call>", deep("[", "]")), &[], (10, 10))),
        3 => Reply::Json(answer(&deep("{", "}"), &[], (10, 10))),
        4 => Reply::Status(200, "", format!("{{\"choices\": {}}}", deep("[", "]"))),
        5 => Reply::Json(answer(&deep("<function=verify>", "</function>"), &[], (10, 10))),
        6 => Reply::Json(answer(&"```json\n{\"name\":".repeat(50_000), &[], (10, 10))),
        _ => give_up(),
    });
    let began = Instant::now();
    // So long a document takes a busy machine longer than the usual silence of a test.
    let idle = |s: &mut assay::agent::endpoint::Settings| s.idle = Duration::from_secs(20);
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, limits(), idle);
    assert_eq!(out.ended(), [("swiglu".into(), NodeEnd::GaveUp)], "{:?}", out.log.last());
    let seen = server.seen();
    let told = seen[1].messages().iter().filter(|m| m["role"] == "tool").count();
    assert_eq!(told, 64);
    let said = seen[2].messages().last().unwrap()["content"].to_string();
    assert!(said.contains("error: ") && said.contains("not valid JSON"), "{said}");
    assert!(seen.iter().all(|s| s.body.to_string().len() < 1 << 20), "nothing of it is sent back raw");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

/// Nobody but the server that was named gets the key, or the conversation.
#[test]
fn a_redirect_leads_nowhere() {
    let other = Server::with(vec![|| Reply::Silence]);
    for status in [301, 302, 303, 307, 308] {
        let to = format!("Location: {}/chat/completions\r\n", other.url);
        let server =
            Server::start(move |_, _| Reply::Status(status, Box::leak(to.clone().into_boxed_str()), String::new()));
        let out = run(&server);
        assert_eq!((out.end, server.seen().len()), (RunEnd::Endpoint, 1), "{status}: {:?}", out.log);
    }
    assert!(other.seen().is_empty());
}

/// Compressed bodies that nobody asked for, other encodings, headers without end, half of HTTP.
#[test]
fn what_is_no_text_is_no_answer() {
    // A megabyte of zeros, as gzip has them: header, and blocks that nobody inflates.
    let gzip = [&b"\x1f\x8b\x08\0\0\0\0\0\x02\x03"[..], &[0xec; 1 << 16]].concat();
    let utf16: Vec<u8> = answer("so", &[], (1, 1)).to_string().encode_utf16().flat_map(u16::to_le_bytes).collect();
    let with = |head: &str, body: &[u8]| {
        [format!("HTTP/1.1 200 OK\r\n{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
    };
    let half = [event(json!({"content": "gr\u{f6}\u{df}e"}), Value::Null), vec![0xff, 0xfe, b'd', 0]].concat();
    let bodies = vec![
        with("Content-Encoding: gzip\r\n", &gzip),
        with("Content-Type: application/json; charset=utf-16\r\n", &utf16),
        with("Content-Type: text/event-stream\r\n", &half),
        [b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: y\r\n".repeat(100_000)].concat(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_vec(),
        b"HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc".to_vec(),
        b"SSH-2.0-OpenSSH\r\n".to_vec(),
        b"HTTP/1.1 999 ?\r\nContent-Length: 18446744073709551615\r\n\r\n{}".to_vec(),
    ];
    let many = bodies.len();
    let server = Server::start(move |n, _| match bodies.get(n) {
        Some(bytes) => Reply::Raw(bytes.clone()),
        None => give_up(),
    });
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, limits(), |s| {
        (s.tries, s.idle) = (50, Duration::from_secs(5));
    });
    assert_eq!(out.ended(), [("swiglu".into(), NodeEnd::GaveUp)], "{:?}", out.log);
    assert!(server.seen().len() > many, "{:?}", out.log);
    assert!(out.log.iter().filter(|l| l.starts_with("Failed")).count() >= many, "{:?}", out.log);
}

/// Names of files that lead elsewhere, and words that are no names.
#[test]
fn a_models_paths_lead_nowhere() {
    let files = [
        "../state/ledger.jsonl",
        "state/progress.json",
        "kernels/../assay.toml",
        "/etc/passwd",
        "swiglu.cu/../x.cu",
        "./swiglu.cu",
        "kernels//swiglu.cu",
        "swiglu.cu\u{0}.txt",
        "SWIGLU.cu",
        "swiglu.cu ",
        "swiglu\u{202e}.cu",
        "",
        "file:///tmp/x",
        "C:\\x",
        "..\\x",
        "~/x",
        "kernels/kernels/swiglu.cu",
        "args/swiglu.h",
        "emu/cuda.h",
        ".git/config",
    ];
    let port = super::port::Port::new(Server::start(move |n, _| match files.chunks(16).nth(n) {
        Some(files) => {
            let calls: Vec<_> = files
                .iter()
                .map(|file| ("write_kernel", json!({"file": file, "text": "{\"kernels_done\": 27}"})))
                .collect();
            Reply::Json(answer("", &calls, (900, 90)))
        }
        None => give_up(),
    }));
    let before = port.command("git").args(["status", "--porcelain", "--ignored"]).output().unwrap().stdout;
    let out = port.run(&["agent", "swiglu", "--approve", "never-ask", "--plain"]);
    if super::port::no_compiler(&out) {
        return;
    }
    assert_eq!(out.code, 1, "{}", out.stderr);
    let report = port.json(&["report", "--agent", "--json"]);
    assert_eq!(report["refused"].as_array().unwrap().len(), files.len(), "{report:#}");
    let after = port.command("git").args(["status", "--porcelain", "--ignored"]).output().unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&before), String::from_utf8_lossy(&after));
    assert_eq!(port.run(&["audit"]).code, 0);
    assert!(!port.path("x").exists());
}

/// A masked key that a 401 shows, a key in every header, and one that comes in pieces.
#[test]
fn a_401_that_repeats_the_key_shows_nothing_of_it() {
    let long = format!("{KEY}-and-much-more-of-it-0123");
    let echo = long.clone();
    let server = Server::start(move |_, _| {
        let said =
            format!("Incorrect API key provided: {}****{}. You sent {echo}.", &echo[..16], &echo[echo.len() - 4..]);
        Reply::Status(401, "", json!({"error": {"message": said, "code": echo}}).to_string())
    });
    let out = run_with(&server, &Fake::default(), Approve::NeverAsk, limits(), |s| {
        s.key = Some(assay::agent::redact::Secret::new(&long).unwrap());
    });
    let text = std::fs::read_to_string(out.dir.path().join("transcript.jsonl")).unwrap() + &out.log.join("\n");
    assert!(text.contains("Incorrect API key provided: [redacted]****"), "{text}");
    for at in 0..long.len() - 12 {
        assert!(!text.contains(&long[at..at + 12]), "{}: {text}", &long[at..at + 12]);
    }
}
