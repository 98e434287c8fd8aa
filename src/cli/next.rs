use std::fmt::Write as _;

use serde_json::json;

use super::standing::{self, short};
use super::{ModelArg, output};
use crate::error::Result;
use crate::plan::coverage::Written;
use crate::plan::graph::Graph;
use crate::plan::schedule::canonical;
use crate::plan::{Numerics, Plan};
use crate::report::gate::{Gate, gate, gates, sentence};
use crate::report::proof::State;
use crate::report::status::first_line;
use crate::words::count;

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

impl Next {
    pub fn run(&self) -> Result<u8> {
        let bench = standing::ledgered()?;
        let model = self.model.open()?;
        let plan = Plan::build(&model, canonical(self.numerics))?;
        let graph = Graph::of(&plan, None);
        let status = standing::status(&bench, &model, &graph, plan.numerics)?;
        let gates = gates(&bench, &status);
        let shown = gates.iter().take(self.count).map(|g| gate(&bench, &graph, g)).collect::<Result<Vec<_>>>()?;
        let sentence = sentence(&bench, &status, &short(model.path()).display().to_string());
        if self.json {
            let list = shown.iter().map(Gate::to_json).collect::<Result<Vec<_>>>()?;
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
            let _ =
                writeln!(out, "\n{} more: assay next{} -n {}", gates.len() - shown.len(), status.of_file, gates.len());
        }
        out.push_str(&super::status::useless(&status));
        output::print(out)?;
        Ok(0)
    }
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
        Written::Present { stem } if gate.status.state == State::Unproved && !gate.status.unhashed => {
            line("kernel", &format!("kernels/{stem}.cu, not proved: {}", gate.status.verify()));
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
