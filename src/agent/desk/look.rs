//! `next`, `status` and `history`: what is known, from the ledger and git alone.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::{Value, json};

use super::tool::{EXCERPT, TOOL_NAME, cap, printable, untrusted};
use super::{Desk, ToolError, ToolResult};
use crate::error::{Error, Result};
use crate::history;
use crate::ledger::{Outcome, Row, Target};
use crate::ops::Node;
use crate::plan::coverage::Written;
use crate::plan::graph::Graph;
use crate::plan::schedule::canonical;
use crate::plan::{Numerics, Plan};
use crate::report::gate::{self, gate};
use crate::report::standing;
use crate::report::status::Status as Standing;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Next {
    #[serde(default)]
    count: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    #[serde(default)]
    node: Option<String>,
    #[serde(default)]
    attempt: Option<u64>,
}

/// Rows and attempts that are listed: the latest.
const LISTED: usize = 12;

impl Desk {
    /// What is proved of the plan's nodes, with what must be said beside it.
    pub fn standing(&self) -> Result<(Standing, Vec<String>)> {
        let plan = Plan::build(&self.model, canonical(Numerics::Ds4))?;
        let graph = Graph::of(&plan, None);
        let mut notes = Vec::new();
        let status = standing::status(&self.bench, &self.model, &graph, Numerics::Ds4, &mut notes)?;
        Ok((status, notes))
    }

    pub(super) fn next(&self, ask: Next) -> Result<ToolResult, ToolError> {
        let plan = Plan::build(&self.model, canonical(Numerics::Ds4))?;
        let graph = Graph::of(&plan, None);
        let mut notes = Vec::new();
        let status = standing::status(&self.bench, &self.model, &graph, Numerics::Ds4, &mut notes)?;
        let gates = gate::gates(&self.bench, &status);
        let file = self.model.path().file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
        let mut text = format!("{}\n", gate::sentence(&self.bench, &status, &file));
        let mut data = Vec::new();
        for (i, status) in gates.iter().take(ask.count.unwrap_or(5).clamp(1, 20)).enumerate() {
            let gate = gate(&self.bench, &graph, status)?;
            let node = &gate.status.usage.node;
            let state = gate.status.state.name();
            let _ = writeln!(text, "{}. {node} ({state}): {}\n   computes {}", i + 1, gate.reason, gate.summary);
            data.push(json!({ "node": node, "state": state, "reason": gate.reason, "computes": gate.summary }));
        }
        notes.iter().for_each(|note| text += &format!("note: {}\n", printable(note)));
        Ok(ToolResult::new(text, json!({ "gates": gates.len(), "next": data, "notes": notes })))
    }

    pub(super) fn status(&self, _: Nothing) -> Result<ToolResult, ToolError> {
        let (status, notes) = self.standing()?;
        let gates = status.gates().len();
        let mut text = format!("{}\n{gates} of {} nodes are not green.\n", status.sentence(), status.nodes.len());
        let goal = gate::Goal::of(&self.bench, &status);
        if let Some(goal) = &goal {
            let _ = writeln!(text, "Ported here are {goal}.");
        }
        let mut data = Vec::new();
        for node in &status.nodes {
            let name = &node.usage.node;
            let kernel = match &node.written {
                Written::Present { stem } => format!("kernels/{stem}.cu"),
                Written::Broken { .. } => "a kernel that cannot be used: build says why".into(),
                Written::Absent => "no kernel".into(),
            };
            let rows: Vec<u64> = node.proofs.iter().map(|p| p.row).collect();
            let _ = writeln!(text, "{:<26} {:<10} {kernel}", name.to_string(), node.state.name());
            data.push(json!([name, node.state, rows]));
        }
        notes.iter().for_each(|note| text += &format!("note: {}\n", printable(note)));
        let works = status.prefill_works();
        let data = json!({
            "summary": status.sentence(), "green": status.nodes.len() - gates, "nodes": status.nodes.len(),
            "prefill_working": works, "goal": goal, "states": data, "notes": notes,
        });
        Ok(ToolResult::new(text, data))
    }

    pub(super) fn history(&self, ask: History) -> Result<ToolResult, ToolError> {
        let node = self.about(ask.node.as_deref())?;
        match ask.attempt {
            Some(n) => self.attempt(&node, n),
            None => self.record_of(&node),
        }
    }

    fn record_of(&self, node: &Node) -> Result<ToolResult, ToolError> {
        let mut notes = Vec::new();
        let ledger = standing::ledger(&self.bench, &mut notes)?;
        let target = Target::Node(node.clone());
        let rows: Vec<&Row> = ledger.verdicts(&target).collect();
        let attempts = history::attempts(&self.bench.root, &target)?;
        let mut said = String::new();
        let mut data = Vec::new();
        for row in rows.iter().rev().take(LISTED) {
            let Some(v) = row.statement().verdict() else { continue };
            let (outcome, why, first_bad) = match &v.outcome {
                Outcome::Pass => ("pass".to_string(), String::new(), String::new()),
                Outcome::Red { stage, reason, first_bad } => {
                    (format!("red in {}", stage.name()), cap(reason.clone(), 240), cap(first_bad.clone(), 160))
                }
                Outcome::Indeterminate { reason } => ("indeterminate".into(), cap(reason.clone(), 240), String::new()),
            };
            let (class, arch) = (v.class.name(), &v.binding.arch);
            let _ = writeln!(said, "row {} {class} {arch} {outcome} {why} {first_bad}", row.seq);
            data.push(
                json!({ "row": row.seq, "class": class, "arch": arch, "outcome": outcome, "first_bad": first_bad }),
            );
        }
        let mut listed = Vec::new();
        for attempt in attempts.iter().rev().take(LISTED) {
            let number = attempt.reference.rsplit('/').next().and_then(|n| n.parse::<u64>().ok());
            let _ = writeln!(said, "{} {}", attempt.reference, cap(attempt.summary.clone(), 200));
            listed.push(json!({ "attempt": number, "commit": attempt.commit }));
        }
        let (of_rows, of_attempts) = (rows.len(), attempts.len());
        let mut text =
            format!("{node}: {of_rows} verdicts and {of_attempts} red attempts on record, the latest first\n");
        if !said.is_empty() {
            text += &untrusted("reasons, which may repeat what a compiler or a kernel wrote", &cap(said, EXCERPT));
        }
        Ok(ToolResult::new(
            text,
            json!({ "node": node, "rows": data, "attempts": listed, "verdicts": of_rows, "red": of_attempts }),
        ))
    }

    fn attempt(&self, node: &Node, n: u64) -> Result<ToolResult, ToolError> {
        let files = self.attempt_files(node, n)?;
        let mut all = String::new();
        for (path, text) in &files {
            let _ = write!(all, "==== kernels/{path}\n{text}\n");
        }
        let names: Vec<Value> = files.iter().map(|(path, text)| json!({ "file": path, "bytes": text.len() })).collect();
        let text = untrusted(&format!("attempt {n} at {node}"), &cap(all, EXCERPT));
        Ok(ToolResult::new(text, json!({ "node": node, "attempt": n, "files": names })))
    }

    /// The node's own files as attempt `n` had them.
    pub fn attempt_files(&self, node: &Node, n: u64) -> Result<Vec<(String, String)>> {
        let mut files = history::attempt_files(&self.bench.root, node, n)?.ok_or_else(|| {
            Error::new(&TOOL_NAME, format!("there is no attempt {n} at {node}")).hint("`history` lists them")
        })?;
        let stems = [node.file_stem(), node.op.clone()];
        files.retain(|(path, _)| stems.iter().any(|s| *path == format!("{s}.cu") || *path == format!("{s}.toml")));
        Ok(files)
    }
}
