use std::fmt::Write as _;

use serde_json::{Value, json};

use super::standing::{self, short};
use super::{ModelArg, output};
use crate::error::{Error, Result};
use crate::ops;
use crate::plan::coverage::Written;
use crate::plan::graph::Graph;
use crate::plan::port::{self, Upstream};
use crate::plan::schedule::canonical;
use crate::plan::{Numerics, Plan};
use crate::report::proof::State;
use crate::report::status::{NodeStatus, Status, first_line, verify};
use crate::words::{agree, count};
use crate::workbench::Workbench;

/// Say which nodes to work on next, and why
///
/// A gate is a node that a prefill needs and that is not green. First come those that stop every prefill, in the order
/// in which a prefill meets them, then those that only stop long ones.
#[derive(clap::Args)]
pub struct Next {
    #[command(flatten)]
    model: ModelArg,
    /// How many gates to list
    #[arg(short = 'n', value_name = "K", default_value_t = 5)]
    count: usize,
    /// Which of the model's own roundings are applied
    #[arg(long, value_enum, default_value_t = Numerics::Ds4)]
    numerics: Numerics,
    /// Print one JSON object (schema assay.next/1)
    #[arg(long)]
    json: bool,
}

/// A gate with all that a porter needs to begin.
struct Gate<'s> {
    status: &'s NodeStatus,
    reason: String,
    summary: &'static str,
    upstream: Option<Vec<Upstream>>,
}

impl Next {
    pub fn run(&self) -> Result<u8> {
        let bench = standing::ledgered()?;
        let model = self.model.open()?;
        let plan = Plan::build(&model, canonical(self.numerics))?;
        let graph = Graph::of(&plan, None);
        let status = standing::status(&bench, &model, &graph, plan.numerics)?;
        let gates = status.gates();
        let shown = gates.iter().take(self.count).map(|g| gate(&bench, &graph, g)).collect::<Result<Vec<_>>>()?;
        let sentence = sentence(&status, &short(model.path()).display().to_string());
        if self.json {
            let list = shown.iter().map(as_json).collect::<Result<Vec<_>>>()?;
            output::json(
                "assay.next/1",
                json!({
                    "summary": sentence,
                    "model": model.path(),
                    "numerics": self.numerics,
                    "total": gates.len(),
                    "gates": list,
                    "unreachable": status.unreachable,
                    "broken": status.broken,
                }),
            )?;
            return Ok(0);
        }
        let mut out = format!("{sentence}\n");
        for (i, gate) in shown.iter().enumerate() {
            let _ = write!(out, "\n{}", text(i + 1, gate));
        }
        if gates.len() > shown.len() {
            let _ = writeln!(out, "\n{} more: assay next -n {}", gates.len() - shown.len(), gates.len());
        }
        out.push_str(&super::status::useless(&status));
        output::print(out)?;
        Ok(0)
    }
}

fn sentence(status: &Status, model: &str) -> String {
    let (gates, total) = (status.gates(), status.nodes.len());
    let Some(first) = gates.first() else {
        return match status.prefill_works().is_empty() {
            true => format!("No gate is left for {model}; assay verify --all decides whether its prefill works."),
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
    let (nodes, are) = (count(total, "node"), agree(gates.len(), "is", "are"));
    format!("{} of the {nodes} that a prefill of {model} needs {are} not green; next, {act}.", gates.len())
}

fn gate<'s>(bench: &Workbench, graph: &Graph<'_>, status: &'s NodeStatus) -> Result<Gate<'s>> {
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

fn text(rank: usize, gate: &Gate<'_>) -> String {
    let node = &gate.status.usage.node;
    let mut out = format!("{rank}. {node}: {}\n", gate.reason);
    let mut line = |label: &str, text: &str| {
        let _ = writeln!(out, "   {label:<9} {text}");
    };
    line("computes", gate.summary);
    match &gate.status.written {
        Written::Absent => {
            let stem = node.file_stem();
            line("kernel", &format!("none yet: kernels/{stem}.cu and .toml, on kernels/args/{}.h", node.op));
        }
        Written::Broken { reason } => line("kernel", &format!("broken: {}", first_line(reason))),
        Written::Present { stem } if gate.status.state == State::Unproved => {
            line("kernel", &format!("kernels/{stem}.cu, not proved: {}", verify(node)));
        }
        Written::Present { stem } => line("kernel", &format!("kernels/{stem}.cu: {}", gate.status.detail())),
    }
    match gate.upstream.as_deref() {
        None => line("upstream", &format!("not on record: there is no reference/port/{}.toml", node.op)),
        Some([]) => line("upstream", "has no counterpart for these weight types"),
        Some(found) => {
            for (i, u) in found.iter().enumerate() {
                let note = u.note.as_ref().map_or(String::new(), |n| format!(" ({n})"));
                let arguments = count(u.arguments, "argument");
                line(if i == 0 { "upstream" } else { "" }, &format!("{:<11} {}, {arguments}{note}", u.file, u.symbol));
            }
        }
    }
    out
}

fn as_json(gate: &Gate<'_>) -> Result<Value> {
    let mut entry = gate.status.to_json()?;
    if let Value::Object(map) = &mut entry {
        map.insert("reason".into(), gate.reason.clone().into());
        map.insert("computes".into(), gate.summary.into());
        map.insert("upstream".into(), json!(gate.upstream));
    }
    Ok(entry)
}
