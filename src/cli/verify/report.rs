//! What a run of `assay verify` prints.

use std::time::Duration;

use owo_colors::OwoColorize;
use serde_json::{Value, json};

use super::super::output;
use super::OnePrefill;
use crate::backend::Placement;
use crate::error::Result;
use crate::model::Model;
use crate::ops::Node;
use crate::plan::kernels::KernelTree;
use crate::verify::{Outcome, Stage, Summary, Target, Verdict};
use crate::words::{agree, count};

/// What a whole run came to.
pub(super) struct Run {
    pub wanted: Vec<Node>,
    pub plan_nodes: Vec<Node>,
    pub verdicts: Vec<Verdict>,
    pub left_out: Vec<String>,
    pub prefill: Option<OnePrefill>,
    pub seconds: Duration,
    pub place: Option<Placement>,
}

impl Run {
    /// Prints it, as JSON or in words, and gives the exit code.
    pub fn report(&self, json: bool, tree: &KernelTree, model: &Model) -> Result<u8> {
        let red = self.verdicts.iter().filter(|v| v.summary() == Summary::Red).count();
        let weak = self.verdicts.iter().filter(|v| v.summary() == Summary::Indeterminate).count();
        let passed = self.verdicts.len() - red - weak;
        let missing: Vec<&Node> = self.plan_nodes.iter().filter(|n| tree.kernel(n).is_none()).collect();
        let no = red > 0 || weak > 0 || self.prefill.as_ref().is_some_and(|p| !p.finite);
        if json {
            output::json(
                "assay.verify/1",
                json!({
                    "model": model.path(),
                    "placement": self.place,
                    "verdicts": self.verdicts.iter().map(document).collect::<Vec<_>>(),
                    "without_kernel": missing.iter().map(|n| n.to_string()).collect::<Vec<_>>(),
                    "left_out": self.left_out,
                    "prefill": self.prefill.as_ref().map(|p| {
                        json!({ "tokens": p.tokens, "placement": "oracle", "finite": p.finite })
                    }),
                    "seconds": self.seconds.as_secs_f64(),
                }),
            )?;
            return Ok(u8::from(no));
        }
        let place = match self.place {
            Some(Placement::Device) => "on this CUDA device",
            Some(_) => "on the CPU emulator",
            None => "",
        };
        let mut text = String::from("\n");
        text += &match self.place {
            None => format!(
                "No kernel could be judged here; {} of {} nodes have one.",
                self.wanted.len(),
                self.plan_nodes.len()
            ),
            Some(_) => format!("{passed} of {} nodes pass {place}.", self.plan_nodes.len()),
        };
        if red + weak > 0 {
            text += &format!(" {red} {} red, {weak} indeterminate.", agree(red, "is", "are"));
        }
        if let Some(p) = &self.prefill {
            text += &format!(
                " One prefill of {} tokens ran on the oracle in {:.1} s; its logits are {}.",
                p.tokens,
                p.seconds,
                if p.finite { "finite" } else { "NOT finite" }
            );
        }
        text.push('\n');
        if self.place == Some(Placement::Emulator) {
            text += "A pass on the emulator is never green: green needs a device.\n";
        }
        if !missing.is_empty() {
            text += &format!(
                "\nNo kernel yet ({}): {}\n",
                missing.len(),
                missing.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" ")
            );
        }
        if !self.left_out.is_empty() {
            text += "\nCould not run here:\n";
            for l in &self.left_out {
                text += &format!("  {l}\n");
            }
        }
        text += &format!("\n{:.0} s. Next: assay status\n", self.seconds.as_secs_f64());
        output::print(text)?;
        Ok(u8::from(no))
    }
}

/// A verdict as JSON, with what it comes to.
pub(super) fn document(v: &Verdict) -> Value {
    let mut value = serde_json::to_value(v).unwrap_or_default();
    value["summary"] = json!(v.summary());
    value["reason"] = json!(v.reason());
    value
}

/// One verdict as it comes; `asked` are the options that decide what is judged.
pub(super) fn print_verdict(v: &Verdict, asked: &str) -> Result<()> {
    let mark = match v.summary() {
        Summary::Pass if v.is_green() => "green".green().to_string(),
        Summary::Pass => "pass ".green().to_string(),
        Summary::Red => "RED  ".red().bold().to_string(),
        Summary::Indeterminate => "?    ".yellow().to_string(),
    };
    let mut line = format!("{mark} {:<28} {:>5.1} s", v.node.to_string(), v.seconds);
    let unit = v.stages.iter().find(|s| s.stage == Stage::Unit);
    let cases: u64 = unit.into_iter().flat_map(|s| s.figures.values()).filter_map(|f| f.get("cases")?.as_u64()).sum();
    if cases > 0 {
        let error = v.unit_error().map_or("no relative RMS was taken".into(), |e| format!("relative RMS {e:.1e}"));
        line += &format!("  {}, {error}", count(cases, "case"));
    }
    if let Some(reason) = v.reason() {
        line += &format!("\n      {}", reason.replace('\n', "\n      "));
    }
    if let Some(Outcome::Red { first_bad: Some(bad), .. }) = v.red().map(|s| &s.outcome) {
        line += &format!("\n      first bad: {bad}");
    }
    if v.summary() == Summary::Red {
        let again = if v.node == Target::Schedule { "--all".into() } else { format!("'{}'", v.node) };
        line += &format!("\n      again: assay verify {again}{asked} --seed {}", v.seed);
    }
    output::println(line)
}
