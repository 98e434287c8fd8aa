//! The loop's own tools, and small things about calls.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::desk;
use super::endpoint::{Call, ToolSpec};

pub const VERIFY: &str = "verify";
pub const ASK: &str = "ask_human";
pub const GIVE_UP: &str = "give_up";

/// Lines of a change that are shown.
const LINES: usize = 60;

/// What the loop offers beside the desk's tools.
pub fn own() -> Vec<ToolSpec> {
    let one = |name: &str, doc: &str| {
        json!({
            "type": "object",
            "properties": { name: { "type": "string", "description": doc } },
            "required": [name],
            "additionalProperties": false,
        })
    };
    vec![
        ToolSpec {
            name: ASK.into(),
            description:
                "Ask the person who supervises this run. Only where the decision is not yours; it takes minutes.".into(),
            schema: one("question", "one question"),
        },
        ToolSpec {
            name: GIVE_UP.into(),
            description: "Stop working on this node. What was tried stays on record.".into(),
            schema: one("reason", "why, in a sentence or two"),
        },
    ]
}

/// The arguments of `verify`, which the loop carries out itself: a verdict is an attempt, and one node is worked on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    #[serde(default)]
    pub node: Option<String>,
    #[serde(default)]
    pub thorough: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub question: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    pub reason: String,
}

/// A call's arguments as its tool's own type, or what the model is told of them.
pub fn arguments<T: DeserializeOwned>(call: &Call) -> Result<T, String> {
    serde_json::from_value(Value::Object(call.arguments.clone())).map_err(|e| {
        let why = desk::cap(desk::printable(&e.to_string()), 400);
        format!("error: the arguments of {} are not what its schema allows: {why}", call.name)
    })
}

/// Bytes that the tools take of every prompt.
pub fn bytes(tools: &[ToolSpec]) -> u64 {
    tools.iter().map(|t| (t.name.len() + t.description.len() + t.schema.to_string().len()) as u64).sum()
}

/// What one text changed against another: the lines between the first and the last that differ.
pub fn change(before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - head;
    let tail = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let shown = |sign: char, lines: &[&str]| {
        let mut out: String = lines.iter().take(LINES).map(|line| format!("{sign} {line}\n")).collect();
        if lines.len() > LINES {
            out.push_str(&format!("{sign} … {} lines more\n", lines.len() - LINES));
        }
        out
    };
    shown('-', &old[head..old.len() - tail]) + &shown('+', &new[head..new.len() - tail])
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_change_is_what_differs() {
        assert_eq!(super::change("a\nb\nc\n", "a\nx\nc\n"), "- b\n+ x\n");
        assert_eq!(super::change("a\nb\n", "a\nb\n"), "");
        assert_eq!(super::change("a\na\n", "a\na\na\n"), "+ a\n");
        assert_eq!(super::change("", "a\n"), "+ a\n");
    }
}
