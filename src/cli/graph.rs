use std::fmt::Write as _;

use serde_json::{Value, json};

use super::standing::{self, short};
use super::{ModelArg, output};
use crate::error::{Error, Result};
use crate::plan::graph::{Graph as PlanGraph, Section, Span, layer_list, leaf};
use crate::plan::{self, Numerics, PlanOptions, StepState};
use crate::report::gate::Goal;
use crate::report::graph::{Drawing, dot, mermaid, svg};
use crate::report::status::Status;
use crate::words::count;

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Text,
    Mermaid,
    Dot,
    Svg,
    Json,
}

/// Show what a step is made of: nodes, layer kinds, and what waits for what
///
/// Without --prompt-len the graph holds every op that a prompt of some length needs, with the length that it takes.
/// Inside a workbench, nodes are marked with what is known of their kernels.
#[derive(clap::Args)]
pub struct Graph {
    #[command(flatten)]
    model: ModelArg,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Only what acts in a prefill of N tokens
    #[arg(long, value_name = "N", value_parser = super::plan::prompt_len, allow_negative_numbers = true)]
    prompt_len: Option<usize>,
    /// Only what acts in the decode step behind the prompt (of 512 tokens, unless --prompt-len says otherwise)
    #[arg(long)]
    decode: bool,
    /// Which of the model's own roundings are applied
    #[arg(long, value_enum, default_value_t = Numerics::Ds4)]
    numerics: Numerics,
    /// The same as --format json (schema assay.graph/1)
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl Graph {
    pub fn run(&self) -> Result<u8> {
        let model = self.model.open()?;
        let n = self.prompt_len.unwrap_or(512);
        let options = PlanOptions { numerics: self.numerics, max_tokens: n, max_outputs: 1, context: n + 1 };
        let plan = plan::Plan::build(&model, options)?;
        let (what, step) = self.step(&plan, n)?;
        let graph = PlanGraph::of(&plan, step.as_ref());
        let bench = standing::workbench()?;
        let status = match &bench {
            Some(bench) => Some(standing::status(bench, &model, &graph, plan.numerics)?),
            None => None,
        };
        let status = status.as_ref();
        let goal = bench.as_ref().zip(status).and_then(|(bench, status)| Goal::of(bench, status));
        let title = format!("{}: {what}, {} numerics", short(model.path()).display(), self.numerics.name());
        let format = if self.json { Format::Json } else { self.format };
        let drawing = || Drawing::of(&graph, title.clone(), |node| status?.state(node));
        match format {
            Format::Text => {
                let goal = goal.map_or(String::new(), |goal| format!("\nported here: {goal}\n"));
                output::print(text(&graph, &title, status) + &goal)?;
            }
            Format::Json => {
                let step = json!({ "prompt_len": step.map(|_| n), "decode": self.decode });
                let mut body = as_json(&graph, model.path(), step, status)?;
                if let Some(goal) = goal {
                    body["goal"] = json!(goal);
                }
                output::json("assay.graph/1", body)?;
            }
            Format::Mermaid => output::print(mermaid(&drawing()))?,
            Format::Dot => output::print(dot(&drawing()))?,
            Format::Svg => output::print(svg(&drawing()))?,
        }
        Ok(0)
    }

    fn step(&self, plan: &plan::Plan, n: usize) -> Result<(String, Option<StepState>)> {
        Ok(match (self.decode, self.prompt_len) {
            (true, _) => (format!("decode of 1 token at position {n}"), Some(plan.step(1, n, 1)?)),
            (false, Some(_)) => (format!("prefill of {}", count(n, "token")), Some(plan.step(n, 0, 1)?)),
            (false, None) => ("prefill of any length".into(), None),
        })
    }
}

fn text(graph: &PlanGraph<'_>, title: &str, status: Option<&Status>) -> String {
    let instances: usize = graph.nodes.iter().map(|n| n.instances.len()).sum();
    let mut out = format!("{title}\n{}, {}\n", count(graph.nodes.len(), "node"), count(instances, "op instance"));
    for section in &graph.sections {
        let layers = match section.layers.as_slice() {
            [] => String::new(),
            [one] => format!("layer {one}: "),
            many => format!("{} layers ({}): ", many.len(), layer_list(many)),
        };
        let _ = write!(out, "\n{layers}{}\n{}", section.title, members(graph, section));
    }
    let mut header = vec!["node", "instances", "acts", "reads what these write"];
    header.extend(status.map(|_| "state"));
    let mut table = output::table(&header);
    for usage in &graph.nodes {
        let after: Vec<_> = usage.after.iter().map(|n| n.to_string()).collect();
        let mut row = vec![
            usage.node.to_string(),
            usage.instances.len().to_string(),
            usage.span.describe().unwrap_or("always".into()),
            after.join(" "),
        ];
        row.extend(status.and_then(|s| s.state(&usage.node)).map(|s| s.name().to_string()));
        table.add_row(row);
    }
    let _ = write!(out, "\nnodes\n{}", output::rows(&table));
    out
}

/// The ops of a section: instance, node, what it waits for, when it acts.
fn members(graph: &PlanGraph<'_>, section: &Section) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    for &i in &section.members {
        let instance = &graph.plan.instances[i];
        let inside = graph.inputs(i).into_iter().filter(|(w, _)| section.members.contains(w));
        let mut from: Vec<_> = inside.map(|(w, _)| leaf(&graph.plan.instances[w])).collect();
        from.sort();
        from.dedup();
        let entries = graph.entries(section, i).into_iter().map(|b| format!("({b})"));
        let reads: Vec<String> = entries.chain(from.into_iter().map(String::from)).collect();
        table.add_row([
            format!(" {}", leaf(instance)),
            instance.node.to_string(),
            format!("← {}", reads.join(", ")),
            Span::of(instance.guard, graph.plan.top_k).describe().unwrap_or_default(),
        ]);
    }
    output::rows(&table)
}

fn as_json(graph: &PlanGraph<'_>, model: &std::path::Path, step: Value, status: Option<&Status>) -> Result<Value> {
    let value = |v: serde_json::Result<Value>| v.map_err(|e| Error::internal(e.to_string()));
    let mut nodes = Vec::new();
    for n in &graph.nodes {
        nodes.push(json!({
            "node": n.node,
            "instances": n.instances.len(),
            "layers": n.layers,
            "first": n.first(),
            "tokens": n.span,
            "long_prompt_only": n.long_prompt_only,
            "after": n.after,
            "state": status.and_then(|s| s.state(&n.node)),
        }));
    }
    let mut sections = Vec::new();
    for s in &graph.sections {
        let mut members = Vec::new();
        for &i in &s.members {
            let instance = &graph.plan.instances[i];
            members.push(json!({
                "index": i,
                "label": instance.label,
                "node": instance.node,
                "guard": instance.guard,
                "after": graph.inputs(i).iter().map(|(w, _)| w).collect::<std::collections::BTreeSet<_>>(),
                "entries": graph.entries(s, i),
            }));
        }
        sections.push(json!({ "part": s.part, "title": s.title, "layers": s.layers, "members": members }));
    }
    Ok(json!({
        "model": model,
        "numerics": graph.plan.numerics,
        "step": value(serde_json::to_value(step))?,
        "nodes": nodes,
        "sections": sections,
        "follows": graph.follows,
    }))
}
