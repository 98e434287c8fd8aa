//! Launch times as a trace that Chrome's tracing page and Perfetto open.

use serde_json::{Value, json};

use super::breakdown::Breakdown;
use crate::plan::Plan;
use crate::words::count;

/// Launches one after the other in the order of the schedule, below the layers that they belong to; a process for each
/// breakdown. A launch's time reaches to the start of the next.
pub fn trace(plan: &Plan, breakdowns: &[Breakdown]) -> Value {
    let mut events = Vec::new();
    for (process, breakdown) in breakdowns.iter().enumerate() {
        let steps = count(breakdown.steps, "step");
        let name = format!("{}: {steps}, launch by launch", breakdown.test.name());
        events.push(named("process_name", process, 0, &name));
        events.push(named("thread_name", process, 0, "layers"));
        events.push(named("thread_name", process, 1, "launches"));
        let (mut at, mut layer): (f64, Option<(String, f64)>) = (0.0, None);
        for launch in &breakdown.launches {
            let instance = &plan.instances[launch.instance];
            let group = instance.layer.map_or_else(|| instance.label.clone(), |l| format!("layer {l}"));
            if layer.as_ref().is_none_or(|(name, _)| *name != group)
                && let Some((name, since)) = layer.replace((group, at))
            {
                events.push(complete(process, 0, &name, since, at - since, json!({})));
            }
            let us = f64::from(launch.ms) * 1e3;
            let args = json!({
                "instance": instance.label, "node": instance.node.to_string(),
                "grid": launch.grid, "block": launch.block, "shared": launch.shared,
            });
            events.push(complete(process, 1, &launch.entry, at, us, args));
            at += us;
        }
        if let Some((name, since)) = layer {
            events.push(complete(process, 0, &name, since, at - since, json!({})));
        }
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}

fn named(what: &str, process: usize, thread: usize, name: &str) -> Value {
    json!({ "name": what, "ph": "M", "pid": process, "tid": thread, "args": { "name": name } })
}

fn complete(process: usize, thread: usize, name: &str, at: f64, us: f64, args: Value) -> Value {
    json!({ "name": name, "ph": "X", "pid": process, "tid": thread, "ts": at, "dur": us, "args": args })
}
