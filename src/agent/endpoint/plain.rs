//! Tool calls that a model wrote as text, because its server has no parser for them.

use serde_json::{Map, Value};

/// The calls in `content`, in its order. Only what names one of `tools` counts: prose with braces is prose.
pub fn calls(content: &str, tools: &[&str]) -> Vec<(String, Map<String, Value>)> {
    let text = after_thoughts(content);
    let mut found = Vec::new();
    for body in between(text, "<tool_call>", "</tool_call>") {
        found.extend(documents(body, tools));
        found.extend(functions(body, tools));
    }
    if found.is_empty() {
        found.extend(functions(text, tools));
    }
    if found.is_empty()
        && let Some((_, list)) = text.split_once("[TOOL_CALLS]")
    {
        found.extend(documents(list, tools));
    }
    if found.is_empty() {
        for block in fenced(text) {
            found.extend(documents(block, tools));
        }
    }
    if found.is_empty() {
        found.extend(documents(text, tools));
    }
    found
}

/// What a reasoning model thinks aloud may hold calls that it then decides against.
fn after_thoughts(content: &str) -> &str {
    content.rsplit_once("</think>").map_or(content, |(_, rest)| rest)
}

/// What stands between each pair of marks; the last one may lack its end.
fn between<'t>(text: &'t str, open: &'t str, close: &'t str) -> impl Iterator<Item = &'t str> {
    text.split(open).skip(1).map(move |part| part.split(close).next().unwrap_or(part))
}

/// Bodies of Markdown's fenced blocks.
fn fenced(text: &str) -> impl Iterator<Item = &str> {
    text.split("```").skip(1).step_by(2).map(|block| {
        // The first line is the language, unless the block begins at once.
        match block.split_once('\n') {
            Some((first, rest)) if !first.trim_start().starts_with(['{', '[']) => rest,
            _ => block,
        }
    })
}

/// JSON documents, one after the other, that fill `text`; text that holds anything else holds no call.
fn documents(text: &str, tools: &[&str]) -> Vec<(String, Map<String, Value>)> {
    let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text.trim()).into_iter().collect();
    let mut out = Vec::new();
    for value in values.unwrap_or_default() {
        match value {
            Value::Array(items) => out.extend(items.iter().filter_map(|v| document(v, tools))),
            value => out.extend(document(&value, tools)),
        }
    }
    out
}

fn document(value: &Value, tools: &[&str]) -> Option<(String, Map<String, Value>)> {
    let inner = value.get("function").filter(|f| f.is_object()).unwrap_or(value);
    let first = |names: &[&str]| names.iter().find_map(|n| inner.get(n).cloned());
    let name = first(&["name", "tool", "tool_name", "function"])?.as_str()?.to_string();
    if !tools.contains(&name.as_str()) {
        return None;
    }
    let arguments = match first(&["arguments", "parameters", "args", "input"]) {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(map)) => map,
        Some(Value::String(text)) => serde_json::from_str(&text).ok()?,
        Some(_) => return None,
    };
    Some((name, arguments))
}

/// `<function=NAME>` with JSON or `<parameter=KEY>` elements inside.
fn functions(text: &str, tools: &[&str]) -> Vec<(String, Map<String, Value>)> {
    let mut out = Vec::new();
    for part in between(text, "<function=", "</function>") {
        let Some((name, body)) = part.split_once('>') else { continue };
        let name = name.trim().trim_matches('"');
        if !tools.contains(&name) {
            continue;
        }
        let mut arguments = Map::new();
        for parameter in between(body, "<parameter=", "</parameter>") {
            let Some((key, value)) = parameter.split_once('>') else { continue };
            let value = value.strip_prefix('\n').unwrap_or(value);
            let value = value.strip_suffix('\n').unwrap_or(value);
            arguments.insert(key.trim().trim_matches('"').into(), value.into());
        }
        if arguments.is_empty()
            && let Ok(map) = serde_json::from_str(body.trim())
        {
            arguments = map;
        }
        out.push((name.to_string(), arguments));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_usual_ways_of_writing_a_call_are_understood() {
        for text in [
            r#"I will do it. <tool_call>{"name": "verify", "arguments": {"node": "swiglu"}}</tool_call>"#,
            r#"<tool_call>{"name": "verify", "arguments": {"node": "swiglu"}}"#,
            "<tool_call>\n<function=verify>\n<parameter=node>\nswiglu\n</parameter>\n</function>\n</tool_call>",
            r#"<function=verify>{"node": "swiglu"}</function>"#,
            r#"[TOOL_CALLS] [{"name": "verify", "arguments": {"node": "swiglu"}}]"#,
            "Now:\n```json\n{\"tool\": \"verify\", \"args\": {\"node\": \"swiglu\"}}\n```\n",
            r#"{"function": {"name": "verify", "arguments": "{\"node\": \"swiglu\"}"}}"#,
            r#"<think>maybe {"name": "build"}</think>{"name":"verify","parameters":{"node":"swiglu"}}"#,
        ] {
            let found = calls(text, &["verify", "build"]);
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!((found[0].0.as_str(), json!(found[0].1)), ("verify", json!({"node": "swiglu"})), "{text}");
        }
        let two = r#"<tool_call>{"name":"build"}</tool_call> <tool_call>{"name":"verify"}</tool_call>"#;
        assert_eq!(calls(two, &["verify", "build"]).len(), 2);
    }

    #[test]
    fn prose_and_code_are_no_calls() {
        for text in [
            "",
            "The kernel is done and verified.",
            "```cuda\n__global__ void f() { verify(); }\n```",
            r#"{"name": "land", "arguments": {}}"#,
            r#"{"name": "verify", "arguments": 7}"#,
            r#"For example {"name": "verify"} would be a call."#,
            "```",
            "<tool_call>",
            "<function=",
            "<think>{\"name\":\"verify\"}</think>",
        ] {
            assert_eq!(calls(text, &["verify"]), [], "{text}");
        }
    }
}
