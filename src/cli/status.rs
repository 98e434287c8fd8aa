use std::fmt::Write as _;

use super::standing::{self, short};
use super::{ModelArg, output};
use crate::error::Result;
use crate::plan::graph::Graph;
use crate::plan::schedule::canonical;
use crate::plan::{Numerics, Plan};
use crate::report::gate::Goal;
use crate::report::status::{Status as Report, first_line};
use crate::verify::weights;
use crate::words::agree;

/// Say what is proved of the model's nodes, where, and what has become stale because of what
#[derive(clap::Args)]
pub struct Status {
    #[command(flatten)]
    model: ModelArg,
    /// Which of the model's own roundings are applied
    #[arg(long, value_enum, default_value_t = Numerics::Ds4)]
    numerics: Numerics,
    /// Hash the file's weights first, if they are not yet: what is proved is known of bytes, not of a name. Takes as long
    /// as reading the file; kept until the file changes
    #[arg(long)]
    hash: bool,
    /// Print one JSON object (schema assay.status/1)
    #[arg(long)]
    json: bool,
}

impl Status {
    pub fn run(&self) -> Result<u8> {
        let bench = standing::ledgered()?;
        let model = self.model.open()?;
        if self.hash && weights::unhashed(&model) {
            let gb = model.gguf.file_len() as f64 / 1e9;
            anstream::eprintln!("hashing the weights of {}, {gb:.1} GB", short(model.path()).display());
            weights::digest(&model)?;
        }
        let plan = Plan::build(&model, canonical(self.numerics))?;
        let graph = Graph::of(&plan, None);
        let status = standing::status(&bench, &model, &graph, plan.numerics)?;
        if self.json {
            let mut body = status.to_json()?;
            if let Some(goal) = Goal::of(&bench, &status) {
                body["goal"] = serde_json::json!(goal);
            }
            output::json("assay.status/1", body)?;
            return Ok(0);
        }
        let weights = status.weights.map_or(String::new(), |w| format!(", weights {w}"));
        let mut out = format!("{}\n\n", status.sentence());
        let _ = writeln!(
            out,
            "model            {}{weights}, {} numerics",
            short(model.path()).display(),
            self.numerics.name()
        );
        let _ = writeln!(
            out,
            "this machine     {}",
            match &status.here.arch {
                Some(arch) => format!("{arch} ({})", status.here.device),
                None => status.here.device.clone(),
            }
        );
        if !bench.settings.architectures.is_empty() {
            let _ = writeln!(out, "kernels are for  {}", bench.settings.architectures.join(", "));
        }
        let (nodes, gates) = (status.nodes.len(), status.gates().len());
        let green = nodes - gates;
        let known = if status.unhashed { " known to be" } else { "" };
        let _ = writeln!(out, "gates            {green} of {nodes} {}{known} green", agree(green, "is", "are"));
        if let Some(goal) = Goal::of(&bench, &status) {
            let _ = writeln!(out, "ported here      {goal}");
        }
        let _ = writeln!(out, "prefill_working  {}\n", status.prefill_line());
        let mut table = output::table(&["node", "instances", "acts", "state"]);
        for node in &status.nodes {
            let usage = &node.usage;
            table.add_row([
                usage.node.to_string(),
                usage.instances.len().to_string(),
                usage.span.describe().unwrap_or("always".into()),
                node.detail(),
            ]);
        }
        out.push_str(&output::rows(&table));
        out.push_str(&useless(&status));
        output::print(out)?;
        Ok(0)
    }
}

/// Kernels that this file cannot use, and kernels that no file can.
pub fn useless(status: &Report) -> String {
    let mut out = String::new();
    if !status.unreachable.is_empty() {
        out.push_str("\nkernels that this file cannot reach\n");
        for u in &status.unreachable {
            let _ = writeln!(out, " {}: {}", u.kernel, u.reason);
        }
    }
    if !status.broken.is_empty() {
        out.push_str("\nbroken kernels\n");
        for b in &status.broken {
            let _ = writeln!(out, " {}: {}", b.kernel, first_line(&b.reason));
        }
    }
    out
}
