use serde_json::json;

use super::{ModelArg, output};
use crate::error::Result;
use crate::plan::{self, Numerics, PlanOptions};
use crate::words::count;

/// Show the ordered op instances of a prefill or a decode step
#[derive(clap::Args)]
pub struct Plan {
    #[command(flatten)]
    model: ModelArg,
    /// Tokens of the prefill
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = prompt_len, allow_negative_numbers = true)]
    prompt_len: usize,
    /// One token behind the prompt instead of the prompt
    #[arg(long)]
    decode: bool,
    /// Which of the model's own roundings are applied
    #[arg(long, value_enum, default_value_t = Numerics::Ds4)]
    numerics: Numerics,
    /// Print one JSON object (schema assay.plan/1)
    #[arg(long)]
    json: bool,
}

/// Tokens of a prompt that a plan can be made for, with the one that may follow it.
pub fn prompt_len(text: &str) -> Result<usize, String> {
    const MOST: usize = (1 << 20) - 1;
    match text.parse() {
        Ok(0) => Err("a prompt has at least 1 token".into()),
        Ok(n) if n <= MOST => Ok(n),
        Ok(_) => Err(format!("a plan is for at most {MOST} tokens")),
        Err(_) => Err(format!("expected a number of tokens, 1 to {MOST}")),
    }
}

impl Plan {
    pub fn run(&self) -> Result<u8> {
        let model = self.model.open()?;
        let n = self.prompt_len;
        let options = PlanOptions { numerics: self.numerics, max_tokens: n, max_outputs: 1, context: n + 1 };
        let plan = plan::Plan::build(&model, options)?;
        let step = if self.decode { plan.step(1, n, 1)? } else { plan.step(n, 0, 1)? };
        let active: Vec<_> = plan.active(&step).collect();
        if self.json {
            let ops: Vec<_> = active.iter().map(|(i, instance)| json!({
                "index": i,
                "label": instance.label,
                "node": instance.node.to_string(),
                "layer": instance.layer,
                "weights": instance.weights,
                "dims": instance.contract().dims.iter().zip(&instance.dims).map(|(n, d)| ((*n).to_string(), json!(d))).collect::<serde_json::Map<_, _>>(),
                "guard": instance.guard,
            })).collect();
            output::json(
                "assay.plan/1",
                json!({ "numerics": self.numerics, "tokens": if self.decode { 1 } else { n }, "position": if self.decode { n } else { 0 }, "instances": ops }),
            )?;
            return Ok(0);
        }
        let what = if self.decode {
            format!("decode of 1 token at position {n}")
        } else {
            format!("prefill of {}", count(n, "token"))
        };
        output::println(format_args!(
            "{what}, {} numerics: {} of {}\n",
            self.numerics.name(),
            count(active.len(), "op instance"),
            count(active.iter().map(|(_, i)| &i.node).collect::<std::collections::BTreeSet<_>>().len(), "node"),
        ))?;
        let mut table = output::table(&["#", "instance", "node", "dims", "weights"]);
        for (i, instance) in active {
            let c = instance.contract();
            let dims: Vec<_> = c.dims.iter().zip(&instance.dims).map(|(n, d)| format!("{n}={d}")).collect();
            let weights: Vec<_> = instance.weights.iter().flatten().cloned().collect();
            table.add_row([
                i.to_string(),
                instance.label.clone(),
                instance.node.to_string(),
                dims.join(" "),
                weights.join(" "),
            ]);
        }
        output::print(output::rows(&table))?;
        Ok(0)
    }
}
