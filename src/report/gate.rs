//! Gates: what stands between a model and its prefill, with what a porter needs to begin.

use serde::Serialize;
use serde_json::{Value, json};

use super::proof::State;
use super::status::{NodeStatus, Status};
use crate::error::{Error, Result};
use crate::ops;
use crate::plan::graph::Graph;
use crate::plan::port::{self, Upstream};
use crate::words::{agree, count};
use crate::workbench::Workbench;

/// A gate with all that a porter needs to begin.
pub struct Gate<'s> {
    pub status: &'s NodeStatus,
    pub reason: String,
    pub summary: &'static str,
    pub upstream: Option<Vec<Upstream>>,
}

impl Gate<'_> {
    /// One entry of `gates` in `assay.next/1`.
    pub fn to_json(&self) -> Result<Value> {
        let mut entry = self.status.to_json()?;
        if let Value::Object(map) = &mut entry {
            map.insert("reason".into(), self.reason.clone().into());
            map.insert("computes".into(), self.summary.into());
            map.insert("upstream".into(), json!(self.upstream));
        }
        Ok(entry)
    }
}

/// The gates that this workbench is to port, first things first: the one that `assay.toml` begins with, then as a prefill
/// meets them.
pub fn gates<'s>(bench: &Workbench, status: &'s Status) -> Vec<&'s NodeStatus> {
    let mut gates = status.gates();
    gates.retain(|g| bench.settings.ports(&g.usage.node.op));
    // A stable sort: the rest stays in the order in which a prefill meets it.
    gates.sort_by_key(|g| bench.settings.first.as_ref() != Some(&g.usage.node));
    gates
}

/// What a workbench that ports some ops alone is to reach: `assay.toml` lists them. The model's prefill needs all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Goal {
    pub ops: Vec<String>,
    pub nodes: usize,
    pub green: usize,
}

impl Goal {
    /// `None`: all that the model needs is ported here.
    pub fn of(bench: &Workbench, status: &Status) -> Option<Goal> {
        let settings = &bench.settings;
        let ported = || status.nodes.iter().filter(|n| settings.ports(&n.usage.node.op));
        let green = ported().filter(|n| !n.state.is_gate()).count();
        (!settings.ops.is_empty()).then(|| Goal { ops: settings.ops.clone(), nodes: ported().count(), green })
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes = count(self.nodes, "node");
        let are = agree(self.green, "is", "are");
        write!(f, "{}: {} of {nodes} {are} green; the oracle computes the rest", self.ops.join(", "), self.green)
    }
}

/// What stands before a prefill, and what to do next.
pub fn sentence(bench: &Workbench, status: &Status, model: &str) -> String {
    let (all, total) = (status.gates().len(), status.nodes.len());
    let gates = gates(bench, status);
    if gates.is_empty() && all > 0 {
        let left = format!("{} of other ops {} not green", count(all, "node"), agree(all, "is", "are"));
        return format!("No gate is left of the ops that are ported here ({left}): assay.toml lists them.");
    }
    let Some(first) = gates.first() else {
        return match status.prefill_works().is_empty() {
            true => format!(
                "No gate is left for {model}; assay verify --all{} decides whether its prefill works.",
                status.of_file
            ),
            false => format!("No gate is left for {model}, and its prefill works: nothing is next."),
        };
    };
    let node = &first.usage.node;
    let act = match first.state {
        State::Absent => format!("port {node}"),
        State::Broken => format!("mend the kernel of {node}"),
        State::Red => format!("find out why {node} is red"),
        State::Untrusted => format!("decide whether to trust the evidence for {node}"),
        State::Emulated => format!("verify {node} on a device"),
        _ => format!("verify {node}"),
    };
    let (nodes, are) = (count(total, "node"), agree(all, "is", "are"));
    if status.unhashed {
        return format!(
            "{all} of the {nodes} that a prefill of {model} needs {are} not known to be green: its weights are not hashed yet; \
             next, {act}."
        );
    }
    if let Some(goal) = Goal::of(bench, status) {
        let left = goal.nodes - goal.green;
        let are = agree(left, "is", "are");
        return format!(
            "{left} of the {} of the ops that are ported here {are} not green ({all} of the {nodes} that a prefill of {model} \
             needs); next, {act}.",
            count(goal.nodes, "node")
        );
    }
    format!("{all} of the {nodes} that a prefill of {model} needs {are} not green; next, {act}.")
}

pub fn gate<'s>(bench: &Workbench, graph: &Graph<'_>, status: &'s NodeStatus) -> Result<Gate<'s>> {
    let usage = &status.usage;
    let contract =
        ops::find(&usage.node.op).ok_or_else(|| Error::internal(format!("no op {}", usage.node)))?.contract();
    let stops = match usage.span.describe() {
        None => "stops every prefill".to_string(),
        Some(when) if usage.long_prompt_only => format!("only {when}: stops such a prefill"),
        Some(when) => format!("stops a prefill {when}"),
    };
    let mut instances = count(usage.instances.len(), "instance");
    if usage.instances.len() > 1 && !usage.layers.is_empty() {
        instances += &format!(" in {}", count(usage.layers.len(), "layer"));
    }
    let first = usage.first();
    let reason = format!(
        "{stops} at op {first} ({}), {} {} for it; {instances}",
        graph.plan.instances[first].label,
        count(graph.waiting(first), "later op"),
        agree(graph.waiting(first), "waits", "wait"),
    );
    let upstream = port::read(&bench.root.join("reference/port"), &usage.node, contract)?;
    Ok(Gate { status, reason, summary: contract.summary, upstream })
}
