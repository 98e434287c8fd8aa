use serde_json::json;

use super::*;

const TOOLS: [&str; 3] = ["verify", "build", "write_kernel"];

fn found(text: &str) -> Vec<Written> {
    calls(text, &TOOLS, false)
}

/// Names alone, with an exclamation mark where something is wrong.
fn names(text: &str) -> Vec<String> {
    found(text).into_iter().map(|(name, arguments)| name + if arguments.is_ok() { "" } else { "!" }).collect()
}

#[test]
fn the_usual_ways_of_writing_a_call_are_understood() {
    for text in [
        r#"I will do it. <tool_call>{"name": "verify", "arguments": {"node": "swiglu"}}</tool_call>"#,
        r#"<tool_call>{"name": "verify", "arguments": {"node": "swiglu"}}"#,
        r#"<tool_call>{"name": "verify", "arguments": {"node": "swiglu"}}}</tool_call>"#,
        "<tool_call>\n<function=verify>\n<parameter=node>\nswiglu\n</parameter>\n</function>\n</tool_call>",
        "<function=verify><parameter=node>swiglu</parameter></function>",
        "<function=verify><parameter=node>swiglu</function>",
        r#"<function=verify>{"node": "swiglu"}</function>"#,
        r#"[TOOL_CALLS] [{"name": "verify", "arguments": {"node": "swiglu"}}]"#,
        r#"[TOOL_CALLS]verify[ARGS]{"node": "swiglu"}"#,
        r#"[TOOL_CALLS]verify{"node": "swiglu"}"#,
        r#"<|python_tag|>{"name": "verify", "parameters": {"node": "swiglu"}}<|eom_id|>"#,
        r#"<|channel|>commentary to=functions.verify <|constrain|>json<|message|>{"node": "swiglu"}<|call|>"#,
        r#"<|channel|>analysis<|message|>{"name":"build"} <tool_call>{"name":"build"}</tool_call><|end|><|start|>assistant to=functions.verify<|channel|>commentary json<|message|>{"node": "swiglu"}"#,
        "Now:\n```json\n{\"tool\": \"verify\", \"args\": {\"node\": \"swiglu\"}}\n```\n",
        r#"{"function": {"name": "verify", "arguments": "{\"node\": \"swiglu\"}"}}"#,
        r#"{"tool_calls": [{"function": {"name": "verify", "arguments": {"node": "swiglu"}}}]}"#,
        r#"<think>maybe {"name": "build"}</think>{"name":"verify","parameters":{"node":"swiglu"}}"#,
        r#"<tool_call>{"name":"build"}</tool_call> no.</think><tool_call>{"name":"verify","arguments":{"node":"swiglu"}}</tool_call>"#,
    ] {
        let found = found(text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert_eq!((found[0].0.as_str(), json!(found[0].1)), ("verify", json!({"Ok": {"node": "swiglu"}})), "{text}");
    }
    for two in [
        r#"<tool_call>{"name":"build"}</tool_call> <tool_call>{"name":"verify"}</tool_call>"#,
        "<tool_call>{\"name\":\"build\"}\n{\"name\":\"verify\"}</tool_call>",
        "<function=build></function><function=verify></function>",
        r#"<|python_tag|>{"name":"build"}; {"name":"verify"}"#,
        r#"[TOOL_CALLS]build{}[TOOL_CALLS]verify{}"#,
        "```json\n{\"name\":\"build\"}\n```\nand\n```\n{\"name\":\"verify\"}\n```",
    ] {
        assert_eq!(names(two), ["build", "verify"], "{two}");
    }
}

#[test]
fn prose_and_code_are_no_calls() {
    for text in [
        "",
        "The kernel is done and verified.",
        "```cuda\n__global__ void f() { verify(); }\n```",
        "```json\n{\"name\": \"swiglu\", \"launches\": 3}\n```",
        r#"{"name": "land"}"#,
        r#"For example {"name": "verify"} would be a call."#,
        r#"For example {"name": "verify", "arguments": {"a": "<function=build></function>"}} would be one."#,
        "```",
        "<tool_call>",
        "A <tool_call> is what I would write, had I something to call.",
        "<function=",
        "<function=a b c>",
        "[TOOL_CALLS]",
        "<|python_tag|>",
        "<|channel|>final<|message|>done",
        "<think>{\"name\":\"verify\"}</think>",
        "<think><tool_call>{\"name\":\"verify\"}</tool_call>",
    ] {
        assert_eq!(found(text), [], "{text}");
    }
}

/// A kernel's text is what the model wrote between the call's own marks, whatever marks it holds.
#[test]
fn a_mark_inside_of_a_kernel_neither_ends_its_call_nor_begins_another() {
    let hostile = "// <function=verify> </function>\n// </parameter> </function>, </tool_call> and </think>\n\
        // <tool_call>{\"name\": \"build\"}</tool_call> [TOOL_CALLS] ``` <|python_tag|>{}\n// ```\nint a;";
    let json = json!({"name": "write_kernel", "arguments": {"file": "swiglu.cu", "text": hostile}}).to_string();
    let arguments = json!({"file": "swiglu.cu", "text": hostile}).to_string();
    let elements = format!(
        "<function=write_kernel>\n<parameter=file>\nswiglu.cu\n</parameter>\n<parameter=text>\n{hostile}\n</parameter>\n</function>"
    );
    for text in [
        format!("<tool_call>{json}</tool_call>"),
        format!("<tool_call>\n{elements}\n</tool_call>"),
        elements.clone(),
        format!("[TOOL_CALLS][{json}]"),
        format!("[TOOL_CALLS]write_kernel[ARGS]{arguments}"),
        format!("<|python_tag|>{json}"),
        format!("<|channel|>commentary to=functions.write_kernel<|message|>{arguments}<|call|>"),
        format!("Here:\n```json\n{json}\n```"),
        json.clone(),
        format!("<think>hm</think>{json}"),
    ] {
        let found = found(&text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        let arguments = found[0].1.clone().unwrap();
        assert_eq!((&arguments["file"], &arguments["text"]), (&json!("swiglu.cu"), &json!(hostile)), "{text}");
    }
}

/// Also where the text begins on its opener's line, as long as it opens nothing behind the closer that it holds.
#[test]
fn of_several_closers_the_last_one_is_the_parameters() {
    for kernel in [
        "// </parameter></function> is an end\nint a;",
        "</parameter>\n</function>\n</tool_call>",
        "\n</parameter>\n</function>\nint a;",
    ] {
        let text = format!(
            "<function=write_kernel><parameter=text>{kernel}\n</parameter></function> <function=verify></function>"
        );
        let found = found(&text);
        assert_eq!((found.len(), found[1].0.as_str()), (2, "verify"), "{found:?}");
        let wanted = kernel.strip_prefix('\n').unwrap_or(kernel);
        assert_eq!(found[0].1.as_ref().unwrap()["text"], wanted, "{text}");
    }
}

#[test]
fn a_marked_call_that_cannot_be_read_is_a_call_with_something_wrong() {
    for (text, want) in [
        ("<tool_call>{\"name\": \"verify\", \"arguments\": {\"a\": </tool_call>", "verify!"),
        ("<tool_call>{\"name\": \"write_kernel\", \"arguments\": {\"text\": \"a\nb\"}}</tool_call>", "write_kernel!"),
        ("<tool_call>verify()</tool_call>", "tool_call!"),
        ("<tool_call>{\"arguments\": {}}</tool_call>", "tool_call!"),
        ("<tool_call>{\"name\": \"land\"}</tool_call>", "land"),
        ("<function=land></function>", "land"),
        ("<function=verify>please</function>", "verify!"),
        ("<function=verify>{\"node\": </function>", "verify!"),
        ("[TOOL_CALLS][{\"name\": \"verify\", ]", "verify!"),
        ("<|python_tag|>verify.call()", "tool_call!"),
        ("<|channel|>commentary to=functions.verify<|message|>please<|call|>", "verify!"),
        ("```json\n{\"name\": \"verify\", \"arguments\": {\n```", "verify!"),
        ("{\"name\": \"verify\", \"arguments\": {", "verify!"),
        ("{\"name\": \"verify\", \"arguments\": 7}", "verify!"),
        ("{\"name\": \"land\", \"arguments\": {}}", "land"),
    ] {
        assert_eq!(names(text), [want], "{text}");
    }
    let cut = calls("<function=write_kernel>\n<parameter=text>\nint a", &TOOLS, true);
    assert!(cut[0].1.as_ref().unwrap_err().contains("cut off"), "{cut:?}");
    let cut = calls("<tool_call>{\"name\": \"write_kernel\", \"arguments\": {\"text\": \"int", &TOOLS, true);
    assert!(cut[0].0 == "write_kernel" && cut[0].1.as_ref().unwrap_err().contains("cut off"), "{cut:?}");
}

/// Eight megabytes of marks are looked at once.
#[test]
fn a_text_of_marks_alone_takes_no_time() {
    for mark in [
        "<tool_call>",
        "<function=a>",
        "<function=a><parameter=b>\n",
        "[TOOL_CALLS]",
        "```{",
        "</think>",
        "<|start|>",
        "{\"name\":\"verify\",\"a\":",
        "[[",
    ] {
        let began = std::time::Instant::now();
        calls(&mark.repeat((1 << 20) / mark.len()), &TOOLS, false);
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "{mark}: {:?}", began.elapsed());
    }
}
