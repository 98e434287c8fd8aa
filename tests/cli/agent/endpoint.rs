//! What servers do to a client, one thing at a time.

use std::time::{Duration, Instant};

use assay::agent::endpoint::{Answer, Client, Failure, Message, Overrides, Request, Settings, ToolSpec, Trouble};
use assay::agent::redact::Secret;
use assay::ledger::Config;
use serde_json::{Value, json};

use super::server::{Reply, Server, answer, streamed};

const KEY: &str = "sk-0123456789abcdef";

fn client(url: &str, change: impl FnOnce(&mut Settings)) -> Client {
    let (home, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let over = Overrides { url: Some(url.into()), model: Some("m".into()), ..Overrides::default() };
    let mut settings = Settings::load(&Config::at(home.path()), root.path(), &over).unwrap();
    settings.key = Some(Secret::new(KEY).unwrap());
    settings.idle = Duration::from_millis(400);
    change(&mut settings);
    Client::new(settings).unwrap()
}

fn tools() -> Vec<ToolSpec> {
    ["verify", "write_kernel"]
        .map(|name| ToolSpec { name: name.into(), description: "d".into(), schema: json!({"type": "object"}) })
        .into()
}

fn ask(client: &Client) -> Result<Answer, Failure> {
    let messages = [Message::User { content: "hello".into() }];
    let request = Request { messages: &messages, tools: &tools(), answer_tokens: 77 };
    client.ask(&request, Duration::from_secs(20), &|| false)
}

fn ask_once(reply: fn() -> Reply) -> Result<Answer, Failure> {
    let server = Server::with(vec![reply]);
    ask(&client(&server.url, |_| {}))
}

fn trouble(reply: fn() -> Reply) -> Trouble {
    let failure = ask_once(reply).unwrap_err();
    assert!(!failure.what.contains(KEY), "{}", failure.what);
    failure.trouble
}

#[test]
fn an_answer_is_the_same_streamed_or_not() {
    let calls =
        || [("verify", json!({"node": "swiglu"})), ("write_kernel", json!({"file": "a.cu", "text": "größe\n"}))];
    let server = Server::start(move |n, seen| {
        assert_eq!(seen.body["max_tokens"], 77);
        assert!(seen.head.contains(&format!("Bearer {KEY}")), "{}", seen.head);
        assert_eq!(seen.body["tools"].as_array().unwrap().len(), 2);
        match n {
            0 => Reply::Stream(streamed("so", &calls(), (11, 7))),
            _ => Reply::Json(answer("so", &calls(), (11, 7))),
        }
    });
    let streaming = ask(&client(&server.url, |_| {})).unwrap();
    let whole = ask(&client(&server.url, |s| s.stream = false)).unwrap();
    assert_eq!(Answer { bytes: 0, ..streaming.clone() }, Answer { bytes: 0, ..whole });
    assert_eq!(streaming.calls.len(), 2);
    assert_eq!(streaming.calls[1].arguments["text"], "größe\n");
    assert_eq!(streaming.usage.unwrap().completion, 7);
    let seen = server.seen();
    assert!(seen[0].body["stream"] == true && seen[1].body["stream"].is_null());
}

#[test]
fn a_stream_may_be_cut_into_single_bytes() {
    let server = Server::start(|_, _| {
        let bytes = streamed("größe 🦀", &[("verify", json!({"a": "ß"}))], (1, 1)).concat();
        Reply::Stream(bytes.chunks(3).map(<[u8]>::to_vec).collect())
    });
    let answer = ask(&client(&server.url, |_| {})).unwrap();
    assert_eq!(answer.content, "größe 🦀");
    assert_eq!(answer.calls[0].arguments["a"], "ß");
}

/// `the server's answer is not JSON` was said of the one, and nothing of the server's words in the other.
#[test]
fn a_mark_before_a_stream_and_an_error_that_is_only_called_so_are_read() {
    for mark in ["\u{feff}", "\u{feff}\n"] {
        let server = Server::start(move |_, _| {
            let bytes = [mark.as_bytes().to_vec(), streamed("so", &[("verify", json!({}))], (1, 1)).concat()].concat();
            Reply::Stream(bytes.chunks(2).map(<[u8]>::to_vec).collect())
        });
        let answer = ask(&client(&server.url, |_| {})).unwrap();
        assert_eq!((answer.content.as_str(), answer.calls.len()), ("so", 1), "{mark:?}");
    }
    for (event, trouble) in [
        ("event: error\ndata: {\"message\": \"no GPU is left\"}\n\n", Trouble::Server),
        (
            "data: {\"choices\":[{\"delta\":{\"content\":\"he\"}}]}\n\nevent: error\ndata: no GPU is left\n\n",
            Trouble::Server,
        ),
        ("event: error\ndata: {\"error\": {\"message\": \"no GPU is left: n_ctx\"}}\n\n", Trouble::Context),
    ] {
        let server = Server::start(move |_, _| Reply::Stream(vec![event.as_bytes().to_vec()]));
        let failure = ask(&client(&server.url, |_| {})).unwrap_err();
        assert_eq!(failure.trouble, trouble, "{event}");
        assert!(failure.what.contains("no GPU is left"), "{}", failure.what);
    }
}

/// It was passed over: the connection had broken, or half an answer was a whole one.
#[test]
fn an_error_event_without_data_was_no_error() {
    let begun = "data: {\"choices\":[{\"delta\":{\"content\":\"he\"}}]}\n\n";
    let done = "event: error\n\ndata: [DONE]\n\n";
    for (before, event) in
        [("", "event: error\n\n"), (begun, done), (begun, "event: error\ndata:\n\n"), (begun, "event:error")]
    {
        let server = Server::start(move |_, _| Reply::Stream(vec![format!("{before}{event}").into_bytes()]));
        let failure = ask(&client(&server.url, |_| {})).unwrap_err();
        assert_eq!(failure.trouble, Trouble::Server, "{event}: {}", failure.what);
        assert!(failure.what.contains("an error and does not say which"), "{}", failure.what);
    }
    // Others say nothing without data.
    let server = Server::start(|_, _| {
        let ping = b"event: ping\n\n".to_vec();
        Reply::Stream([vec![ping.clone()], streamed("so", &[], (1, 1)), vec![ping]].concat())
    });
    assert_eq!(ask(&client(&server.url, |_| {})).unwrap().content, "so");
}

#[test]
fn retry_after_is_read_as_seconds_and_as_a_date() {
    let failure = ask_once(|| Reply::Status(429, "Retry-After: 7\r\n", "{}".into())).unwrap_err();
    assert_eq!((failure.trouble, failure.after), (Trouble::Limited, Some(Duration::from_secs(7))));
    let failure =
        ask_once(|| Reply::Status(429, "Retry-After: Fri, 31 Dec 2100 23:59:59 GMT\r\n", "{}".into())).unwrap_err();
    assert!(failure.after.unwrap() > Duration::from_secs(3600 * 24 * 365));
    let failure = ask_once(|| Reply::Status(503, "Retry-After: soon\r\n", "busy".into())).unwrap_err();
    assert_eq!((failure.trouble, failure.after), (Trouble::Server, None));
}

#[test]
fn troubles_are_told_apart() {
    let html = || Reply::Status(200, "Content-Type: text/html\r\n", "<!doctype html><p>hello".into());
    for (reply, want) in [
        ((|| Reply::Status(500, "", "oops".into())) as fn() -> Reply, Trouble::Server),
        (|| Reply::Status(502, "", "<html>bad gateway</html>".into()), Trouble::Server),
        (
            || Reply::Status(401, "", json!({"error": {"message": format!("bad key {KEY}")}}).to_string()),
            Trouble::Refused,
        ),
        (|| Reply::Status(404, "", String::new()), Trouble::Refused),
        (|| Reply::Status(307, "Location: http://example.invalid/\r\n", String::new()), Trouble::Refused),
        (
            || Reply::Status(400, "", json!({"error": {"code": "context_length_exceeded"}}).to_string()),
            Trouble::Context,
        ),
        (|| Reply::Json(json!({"error": {"message": "This model's maximum context length is 10"}})), Trouble::Context),
        (|| Reply::Json(json!({"error": "overloaded"})), Trouble::Server),
        (html, Trouble::NotJson),
        (|| Reply::Json(json!({"hello": 1})), Trouble::NotJson),
        (|| Reply::Status(200, "", String::new()), Trouble::NotJson),
        (|| Reply::Status(200, "", "{\"choices\": [".into()), Trouble::Connection),
        (|| Reply::Reset, Trouble::Connection),
        (|| Reply::Silence, Trouble::Timeout),
        (|| Reply::Stream(vec![b"data: {\"choices\":[{\"delta\":{\"content\":\"he".to_vec()]), Trouble::NotJson),
        (
            || Reply::Stream(vec![b"data: {\"choices\":[{\"delta\":{\"content\":\"he\"}}]}\n\n".to_vec()]),
            Trouble::Connection,
        ),
        (
            || Reply::StreamThenSilence(vec![b"data: {\"choices\":[{\"delta\":{\"content\":\"he\"}}]}\n\n".to_vec()]),
            Trouble::Timeout,
        ),
    ] {
        assert_eq!(trouble(reply), want);
    }
    let nobody = client("http://127.0.0.1:9/v1", |_| {});
    assert_eq!(ask(&nobody).unwrap_err().trouble, Trouble::Connection);
}

#[test]
fn an_answer_of_100_mb_is_not_read_to_its_end() {
    let began = Instant::now();
    let failure = ask_once(|| Reply::Huge(100)).unwrap_err();
    assert_eq!(failure.trouble, Trouble::TooLarge);
    assert!(failure.received < 16 << 20 && began.elapsed() < Duration::from_secs(10));
}

/// A whole answer was thrown away, and paid for again, where a server that talked on was left in the middle of an event, or
/// talked nonsense.
#[test]
fn what_comes_behind_the_last_word_costs_no_answer() {
    let half = "data: {\"choices\": [{\"delta\": {\"conte";
    let whole = ["data: no JSON\n\n", "data: {\"error\": \"busy\"}\n\n"];
    for (silent, more) in [(false, half), (true, half), (false, whole[0]), (true, whole[1])] {
        let server = Server::start(move |_, _| {
            let mut pieces = streamed("x", &[("verify", json!({}))], (1, 1));
            pieces.truncate(pieces.len() - 2);
            pieces.push(more.as_bytes().to_vec());
            if silent { Reply::StreamThenSilence(pieces) } else { Reply::Stream(pieces) }
        });
        let answer = ask(&client(&server.url, |_| {})).unwrap();
        assert_eq!(answer.calls.len(), 1);
    }
}

#[test]
fn a_server_that_stays_connected_after_its_last_word_is_not_waited_for() {
    let server = Server::start(|_, _| {
        let mut pieces = streamed("x", &[("verify", json!({}))], (1, 1));
        pieces.truncate(pieces.len() - 2);
        Reply::StreamThenSilence(pieces)
    });
    let answer = ask(&client(&server.url, |_| {})).unwrap();
    assert_eq!(answer.calls.len(), 1);
}

#[test]
fn what_a_server_does_not_know_is_left_out_the_next_time() {
    let server = Server::start(|n, seen| match n {
        0 => Reply::Status(400, "", json!({"error": {"message": "unknown field: stream_options"}}).to_string()),
        1 => {
            assert!(seen.body["stream_options"].is_null());
            Reply::Status(400, "", json!({"error": {"message": "use max_completion_tokens instead"}}).to_string())
        }
        _ => {
            assert!(seen.body["max_tokens"].is_null() && seen.body["max_completion_tokens"] == 77);
            Reply::Status(400, "", json!({"error": {"message": "use max_completion_tokens instead"}}).to_string())
        }
    });
    let client = client(&server.url, |_| {});
    let troubles: Vec<_> = (0..3).map(|_| ask(&client).unwrap_err().trouble).collect();
    assert_eq!(troubles, [Trouble::Unsupported, Trouble::Unsupported, Trouble::Refused]);
}

/// A server echoes the key in every place that it can write to.
#[test]
fn a_key_that_comes_back_is_taken_out() {
    let said = ask_once(|| {
        let calls = [(KEY, json!({})), ("verify", json!({ (KEY): [KEY, {"x": format!("a{KEY}b")}] }))];
        let mut value = answer(&format!("your key is {KEY}."), &calls, (1, 1));
        value["choices"][0]["message"]["tool_calls"][1]["id"] = KEY.into();
        value["choices"][0]["message"]["reasoning_content"] = KEY.into();
        Reply::Json(value)
    });
    let text = format!("{:?}", said.unwrap());
    assert!(!text.contains(KEY) && text.contains("[redacted]"), "{text}");
    let server = Server::with(vec![|| Reply::Silence]);
    assert!(!format!("{:?}", client(&server.url, |_| {}).settings()).contains(KEY));
}

#[test]
fn waiting_ends_when_it_is_told_to() {
    let server = Server::with(vec![|| Reply::Silence]);
    let client = client(&server.url, |s| s.idle = Duration::from_secs(60));
    let began = Instant::now();
    let request = Request { messages: &[], tools: &[], answer_tokens: 1 };
    let stop = || began.elapsed() > Duration::from_millis(200);
    assert_eq!(client.ask(&request, Duration::from_secs(60), &stop).unwrap_err().trouble, Trouble::Stopped);
    let limit = client.ask(&request, Duration::from_millis(200), &|| false).unwrap_err();
    assert!(limit.trouble == Trouble::Timeout && began.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_empty_answer_is_an_answer() {
    let said = ask_once(|| Reply::Json(answer("", &[], (5, 0)))).unwrap();
    assert!(said.content.is_empty() && said.calls.is_empty() && said.usage.is_some());
    let said = ask_once(|| Reply::Json(json!({"choices": [{"message": {"content": Value::Null}}]}))).unwrap();
    assert_eq!(said.usage, None);
}

/// What is shown of a server's words is cut, and a cut in the middle of the key leaves a part that is no key any more to
/// whoever looks for the whole one.
#[test]
fn a_key_is_taken_out_before_its_text_is_cut_at_whatever_offset() {
    const LONG: &str = "sk-SECRET-ABCDEFGHIJKLMNOPQRSTUVWXYZ-abcdefghijklmnopqrstuvwxyz-0123456";
    let clean = |text: String| assert!(!text.contains(&LONG[..8]), "{text}");
    let server = Server::start(|n, _| {
        let (kind, before) = (n % 4, n / 4);
        let long = "x".repeat(250 + before);
        match kind {
            0 => Reply::Json(answer("", &[(&format!("{}{LONG}", "x".repeat(before)), json!({}))], (1, 1))),
            1 => Reply::Status(500, "", format!("{long}{LONG} and more")),
            2 => Reply::Json(json!({"error": {"message": format!("{long}{LONG} and more")}})),
            // Without the control character it is the key again.
            _ => Reply::Status(500, "", format!("{long}{}\u{1}{}", &LONG[..30], &LONG[30..])),
        }
    });
    let client = client(&server.url, |s| s.key = Some(Secret::new(LONG).unwrap()));
    for _ in 0..4 * 50 {
        match ask(&client) {
            Ok(said) => {
                assert!(said.calls[0].flaw.is_some());
                clean(format!("{said:?}"));
            }
            Err(failure) => clean(failure.what),
        }
    }
    // An answer that ends where the model may say no more.
    let server = Server::start(|n, _| {
        let mut value = answer(&format!("it is {}", &LONG[..9 + n]), &[], (1, 1));
        value["choices"][0]["finish_reason"] = "length".into();
        Reply::Json(value)
    });
    let client = self::client(&server.url, |s| s.key = Some(Secret::new(LONG).unwrap()));
    for _ in 9..LONG.len() {
        clean(ask(&client).unwrap().content);
    }
}
