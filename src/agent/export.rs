//! A transcript as others read it: ATIF v1.4, the Agent Trajectory Interchange Format
//! (<https://harborframework.com/docs/trajectory-format>), one JSON document.

use std::path::Path;

use serde_json::{Value, json};

use super::budget::UNIT;
use super::endpoint::Message;
use super::events::{Event, Record};
use super::report::line;
use super::state::State;
use super::{runs, transcript};
use crate::error::Result;

const SCHEMA: &str = "ATIF-v1.4";

/// The trajectory of the run in `dir`.
pub fn atif(dir: &Path) -> Result<Value> {
    let mut steps: Vec<Value> = Vec::new();
    let mut state = State::default();
    let (mut version, mut digest) = (String::new(), String::new());
    let mut models: Vec<String> = Vec::new();
    // What no price is known of did not cost nothing.
    let mut priced = false;
    transcript::read(&dir.join(transcript::FILE), |record: Record| {
        state.apply(&record);
        digest = record.digest.to_string();
        let time = record.time.as_str();
        let model = state.started.as_ref().map_or("", |s| s.llm.as_str());
        if !model.is_empty() && !models.iter().any(|m| m == model) {
            models.push(model.into());
        }
        match &record.event {
            Event::Started { assay, .. } => version = assay.clone(),
            Event::Context { messages, .. } => {
                for message in messages {
                    let (source, text) = match message {
                        Message::System { content } => ("system", content),
                        Message::User { content } => ("user", content),
                        Message::Assistant { .. } | Message::Tool { .. } => continue,
                    };
                    push(&mut steps, time, json!({ "source": source, "message": text }));
                }
            }
            Event::Replied { prompt, completion, cost, estimated, content, reasoning, calls, cut, .. } => {
                let mut step = json!({
                    "source": "agent",
                    "model_name": model,
                    "message": content,
                    "metrics": {
                        "prompt_tokens": prompt, "completion_tokens": completion,
                    },
                    "extra": { "tokens_estimated": estimated, "cut_off": cut },
                });
                if state.started.as_ref().is_some_and(|s| s.price.is_some()) {
                    priced = true;
                    step["metrics"]["cost_usd"] = json!(dollars(*cost));
                }
                if !reasoning.is_empty() {
                    step["reasoning_content"] = json!(reasoning);
                }
                if !calls.is_empty() {
                    let calls = calls
                        .iter()
                        .map(|c| json!({ "tool_call_id": c.id, "function_name": c.name, "arguments": c.arguments }));
                    step["tool_calls"] = calls.collect();
                    step["observation"] = json!({ "results": [] });
                }
                push(&mut steps, time, step);
            }
            Event::Result { call, content, .. } => observe(&mut steps, Some(call), content),
            Event::Verdict { call, content, .. } => {
                observe(&mut steps, Some(call.as_str()).filter(|c| !c.is_empty()), content);
            }
            Event::Answered { text, .. } if !state.pending.is_empty() || state.work.is_some() => {
                observe(&mut steps, None, text);
            }
            Event::Told { text } | Event::Strategy { text, .. } => {
                push(&mut steps, time, json!({ "source": "system", "message": text }));
            }
            Event::Said { text, .. } => push(&mut steps, time, json!({ "source": "user", "message": text })),
            // What the harness did beside the conversation.
            event => {
                if let Some(text) = line(event) {
                    push(
                        &mut steps,
                        time,
                        json!({ "source": "system", "message": text, "extra": { "assay_event": true } }),
                    );
                }
            }
        }
    })?;
    let start = state.started.as_ref();
    let mut out = json!({
        "schema_version": SCHEMA,
        "session_id": runs::id(dir),
        "agent": {
            "name": "assay",
            "version": version,
            "model_name": models.join(", "),
        },
        "steps": steps,
        "final_metrics": {
            "total_prompt_tokens": state.spent.prompt,
            "total_completion_tokens": state.spent.completion,
            "total_steps": steps.len(),
        },
        "extra": { "transcript_sha256": digest, "gguf": start.map(|s| s.model.clone()), "models": models },
    });
    if priced {
        out["final_metrics"]["total_cost_usd"] = json!(dollars(state.spent.cost));
    }
    Ok(out)
}

fn dollars(cost: u64) -> f64 {
    cost as f64 / UNIT as f64
}

fn push(steps: &mut Vec<Value>, time: &str, mut step: Value) {
    step["step_id"] = json!(steps.len() + 1);
    step["timestamp"] = json!(time);
    steps.push(step);
}

/// What the agent's last step brought about.
fn observe(steps: &mut [Value], call: Option<&str>, content: &str) {
    let Some(step) = steps.iter_mut().rev().find(|s| s["source"] == "agent") else { return };
    if !step["observation"].is_object() {
        step["observation"] = json!({ "results": [] });
    }
    if let Some(results) = step["observation"]["results"].as_array_mut() {
        results.push(json!({ "source_call_id": call, "content": content }));
    }
}
