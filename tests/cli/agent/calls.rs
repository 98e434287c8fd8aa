//! Calls of tools as models make them, and what they are answered.

use assay::agent::events::{Approve, NodeEnd};
use assay::agent::report::Report;
use serde_json::{Map, Value, json};

use super::fake::{Fake, limits, run_with};
use super::run::{run, write};
use super::server::{Reply, Server, answer};

#[test]
fn what_is_no_call_is_answered_as_an_error_and_never_sent_back_raw() {
    let server = Server::start(|n, _| {
        let call = |name: &str, arguments: &str| json!({"id": "x", "function": {"name": name, "arguments": arguments}});
        let calls = match n {
            0 => json!([
                call("verify", "{\"node\": \"sw BROKEN"),
                call("shell", "{\"cmd\": \"RAWCMD\"}"),
                call("read", "[7]")
            ]),
            _ => json!([call("write_kernel", "{\"file\":\"swiglu.cu\",\"text\":\"right\"}"), call("verify", "")]),
        };
        Reply::Json(
            json!({"choices": [{"message": {"content": null, "tool_calls": calls}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
        )
    });
    let out = run(&server);
    assert_eq!(out.ended(), [("swiglu".into(), NodeEnd::Emulated)]);
    let second = server.seen()[1].clone();
    let sent = second.body["messages"].to_string();
    assert!(!sent.contains("BROKEN") && sent.contains("not valid JSON") && sent.contains("there is no tool"), "{sent}");
    let calls = second.messages().iter().find_map(|m| m["tool_calls"].as_array()).unwrap();
    for call in calls {
        let arguments = call["function"]["arguments"].as_str().unwrap();
        assert!(serde_json::from_str::<Map<String, Value>>(arguments).is_ok());
    }
    let results = second.messages().iter().filter(|m| m["role"] == "tool").count();
    assert_eq!((calls.len(), results), (3, 3));
}

#[test]
fn calls_written_as_text_are_carried_out_and_answered_as_text() {
    let server = Server::start(|n, seen| match n {
        0 => Reply::Json(answer(
            "<tool_call>{\"name\":\"write_kernel\",\"arguments\":{\"file\":\"swiglu.cu\",\"text\":\"wrong\"}}</tool_call>\
             <tool_call>{\"name\":\"verify\",\"arguments\":{}}</tool_call>",
            &[],
            (1, 1),
        )),
        _ => {
            let last = seen.messages().last().unwrap();
            assert!(
                last["role"] == "user" && last["content"].as_str().unwrap().contains("Result of verify:"),
                "{last}"
            );
            Reply::Json(answer("", &[("give_up", json!({"reason": "enough"}))], (1, 1)))
        }
    });
    let out = run(&server);
    assert_eq!(out.ended(), [("swiglu".into(), NodeEnd::GaveUp)]);
    assert_eq!(out.state.last_verdict.as_ref().unwrap().outcome, "red");
}

/// Calls past the sixteenth were neither carried out nor answered, and no word was said of it.
#[test]
fn calls_past_the_most_that_are_carried_out_are_answered() {
    let server = Server::start(|n, _| match n {
        0 => Reply::Json(answer("", &vec![write("wrong"); 20], (1, 1))),
        1 => Reply::Json(answer(&"<tool_call>{\"name\": \"read\"}</tool_call>".repeat(70), &[], (1, 1))),
        2 => Reply::Json(answer("", &vec![("land", json!({})); 20], (1, 1))),
        _ => Reply::Json(answer("", &[("give_up", json!({"reason": "enough"}))], (1, 1))),
    });
    let out = run(&server);
    let seen = server.seen();
    let told = seen[1].messages().iter().filter(|m| m["role"] == "tool");
    let told: Vec<&str> = told.map(|m| m["content"].as_str().unwrap()).collect();
    let not = told.iter().filter(|t| t.contains("not carried out: at most 16 calls")).count();
    assert_eq!((told.len(), not), (20, 4), "{told:?}");
    let said = seen[2].messages().last().unwrap()["content"].as_str().unwrap().to_string();
    assert_eq!((said.matches("Result of read").count(), said.matches("not carried out").count()), (64, 48), "{said}");
    assert_eq!(said.matches("none of those after it").count(), 1, "{said}");
    let results = out.log.iter().filter(|l| l.starts_with("Result") && l.contains("not carried out")).count();
    assert_eq!((results, out.log.iter().filter(|l| l.starts_with("Refused")).count()), (52, 20));
}

/// A closer in a comment of the kernel cut the file, and a call in it was carried out.
#[test]
fn a_kernel_that_holds_the_marks_of_calls_is_written_whole() {
    const KERNEL: &str = "// <function=verify> </function>, </parameter>, </tool_call> and </think>\nwrong";
    let server = Server::start(|n, _| match n {
        0 => Reply::Json(answer(
            &format!(
                "<tool_call>\n<function=write_kernel>\n<parameter=file>\nswiglu.cu\n</parameter>\n<parameter=text>\n{KERNEL}\n\
                 </parameter>\n</function>\n</tool_call>"
            ),
            &[],
            (1, 1),
        )),
        _ => Reply::Json(answer("", &[("give_up", json!({"reason": "enough"}))], (1, 1))),
    });
    let shop = Fake::default();
    let out = run_with(&server, &shop, Approve::NeverAsk, limits(), |_| {});
    assert_eq!((shop.0.files.borrow()["swiglu.cu"].as_str(), shop.0.judged.get()), (KERNEL, 0), "{:?}", out.log);
}

#[test]
fn a_call_as_text_that_cannot_be_read_is_answered_with_an_error() {
    let server = Server::start(|n, seen| {
        let last = seen.messages().last().unwrap()["content"].as_str().unwrap().to_string();
        let text = match n {
            0 => "<tool_call>{\"name\": \"verify\", \"arguments\": {</tool_call>",
            1 => {
                assert!(last.contains("Result of verify:\nerror: ") && last.contains("not valid JSON"), "{last}");
                "<tool_call>{\"name\": \"land\", \"arguments\": {}}</tool_call>"
            }
            2 => {
                assert!(last.contains("there is no tool \"land\""), "{last}");
                "<tool_call>please verify</tool_call>"
            }
            _ => {
                assert!(last.contains("not valid JSON") && !last.contains("called no tool"), "{last}");
                "<function=give_up>{\"reason\": \"enough\"}</function>"
            }
        };
        Reply::Json(answer(text, &[], (1, 1)))
    });
    let out = run(&server);
    assert_eq!(out.ended(), [("swiglu".into(), NodeEnd::GaveUp)]);
    assert_eq!(out.log.iter().filter(|l| l.starts_with("Refused")).count(), 1, "{:?}", out.log);
}

/// In the log such a call was `unknown`, whatever had been called.
#[test]
fn a_tool_that_is_not_offered_is_named_in_the_log_and_nowhere_else() {
    let name = format!("rm -rf \u{1b}[2J\u{202e}{}", "x".repeat(100));
    let called = name.clone();
    let server = Server::start(move |n, _| {
        let tool = if n == 0 { called.as_str() } else { "give_up" };
        Reply::Json(answer("", &[(tool, json!({"reason": "enough"}))], (1, 1)))
    });
    let out = run(&server);
    assert_eq!(out.ended(), [("swiglu".into(), NodeEnd::GaveUp)]);
    let sent = server.seen()[1].messages().iter().find_map(|m| m["tool_calls"].as_array()).unwrap().clone();
    assert_eq!(sent[0]["function"]["name"], "unknown", "{sent:?}");
    let report = Report::of(out.dir.path(), None).unwrap();
    let story = report.nodes[0].story.join("\n");
    assert!(story.contains("\"rm -rf \\u{1b}[2J\\u{202e}xxx") && story.contains("which is not offered"), "{story}");
    assert!(!story.contains('\u{1b}') && !story.contains('\u{202e}') && !story.contains(&"x".repeat(41)), "{story}");
}
