//! `list` and `read`: texts by name. A name is looked up, never joined to a path, except below `kernels/`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::json;

use super::folder::shown;
use super::shelf::{self, DOCS};
use super::tool::{EXCERPT, TOOL_ARGUMENTS, TOOL_NAME, TOOL_REFUSED, cap_json, json_len, untrusted};
use super::{Desk, NUMERICS, ToolError, ToolResult};
use crate::error::{Error, Result};
use crate::ops::{self, Contract, Node, OPS, header};
use crate::plan::Plan;
use crate::plan::port;
use crate::plan::schedule::canonical;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    #[serde(default)]
    what: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Read {
    what: String,
    #[serde(default)]
    node: Option<String>,
    #[serde(default)]
    from_line: Option<usize>,
}

/// A text, and whose it is where it is not assay's own.
struct Found {
    name: String,
    text: String,
    whose: Option<String>,
}

impl Desk {
    pub(super) fn list(&self, ask: List) -> Result<ToolResult, ToolError> {
        let what = ask.what.as_deref().unwrap_or("all");
        if !["all", "kernels", "ops", "docs"].contains(&what) {
            let error = Error::new(&TOOL_ARGUMENTS, format!("nothing is called `{}`", shown(what)));
            return Err(error.expected("all, kernels, ops or docs").into());
        }
        let wants = |part: &str| what == "all" || what == part;
        let (mut text, mut files, mut docs) = (String::new(), Vec::new(), Vec::new());
        if wants("kernels") {
            for entry in self.folder().list()? {
                let note = entry.problem.map_or(String::new(), |p| format!("  cannot be read: {p}"));
                let _ = writeln!(text, "kernels/{}  {} bytes{note}", shown(&entry.path), entry.bytes);
                files.push(format!("kernels/{}", entry.path));
            }
        }
        let ops: Vec<&str> = if wants("ops") { OPS.iter().map(|op| op.contract().op).collect() } else { Vec::new() };
        if wants("ops") {
            let _ = writeln!(text, "contract/OP, oracle/OP, header/OP, upstream/OP for OP of: {}", ops.join(" "));
            let _ = writeln!(text, "also oracle/OP for: {}", shelf::shared_oracles().collect::<Vec<_>>().join(" "));
        }
        if wants("docs") {
            for (name, body) in DOCS {
                let numbers: Vec<_> =
                    shelf::sections(body).iter().map(|s| s.number).filter(|n| !n.is_empty()).collect();
                let _ = writeln!(text, "{name}  sections {}", numbers.join(" "));
                docs.push(name);
            }
        }
        // A tree with very many files is listed as far as it fits.
        let data = json!({ "kernels": files, "ops": ops, "docs": docs });
        Ok(ToolResult::new(text, data))
    }

    pub(super) fn read(&self, ask: Read) -> Result<ToolResult, ToolError> {
        let found = self.text(&ask)?;
        let (piece, lines, total) = piece(&found.text, ask.from_line.unwrap_or(1), &found.name)?;
        let mut text = match &found.whose {
            Some(whose) => untrusted(whose, &piece),
            None => piece,
        };
        let more = (lines.1 < total).then_some(lines.1 + 1);
        if let Some(next) = more {
            let _ = write!(text, "\n[lines {} to {} of {total}; the rest: from_line {next}]", lines.0, lines.1);
        }
        let data = json!({
            "what": found.name, "lines": [lines.0, lines.1], "of": total, "next_line": more,
            "untrusted": found.whose.is_some(),
        });
        Ok(ToolResult::new(text, data))
    }

    /// The whole text of a name; for those who build an agent's context.
    pub fn look_up(&self, what: &str, node: Option<&Node>) -> Result<String> {
        let node = node.map(ToString::to_string);
        Ok(self.text(&Read { what: what.into(), node, from_line: None })?.text)
    }

    fn text(&self, ask: &Read) -> Result<Found> {
        let what = ask.what.as_str();
        let own = |text: String| Found { name: what.into(), text, whose: None };
        // No path is ever followed; whoever writes one reaches for what is not here.
        if what.starts_with(['/', '~']) || what.split(['/', '\\']).any(|part| part == "..") {
            return Err(Error::new(&TOOL_REFUSED, format!("`{}` is a path, and nothing outside is read", shown(what)))
                .expected("a name that `list` has"));
        }
        if let Some((name, section)) = what.split_once('#') {
            return document(name, section).map(own);
        }
        if let Some(text) = shelf::document(what) {
            return Ok(own(text.into()));
        }
        if let Some(path) = what.strip_prefix("kernels/") {
            return self.file(path);
        }
        let (kind, op) = what.split_once('/').map_or((what, None), |(kind, op)| (kind, Some(op)));
        let node = || self.about(ask.node.as_deref());
        let contract = || -> Result<&'static Contract> {
            let name = op.map_or_else(|| node().map(|n| n.op), |op| Ok(op.to_string()))?;
            // `contract/matmul[q8_0]` is understood.
            let name = name.split(['[', '.']).next().unwrap_or_default().to_string();
            ops::find(&name).map(|op| op.contract()).ok_or_else(|| unknown(&format!("{kind}/{name}")))
        };
        match kind {
            "contract" => Ok(own(shelf::contract(contract()?))),
            "header" => Ok(own(header::generate(contract()?))),
            "oracle" => {
                let shared = op.and_then(shelf::oracle);
                let text = shared.map_or_else(|| Ok(shelf::oracle(contract()?.op)), |text| Ok::<_, Error>(Some(text)));
                text?.map(|t| own(t.into())).ok_or_else(|| unknown(what))
            }
            "upstream" => {
                let about = if op.is_none() { Some(node()?) } else { None };
                let text = self.upstream(contract()?, about.as_ref())?;
                Ok(Found { name: what.into(), text, whose: Some("reference/port of this workbench".into()) })
            }
            "tensors" if op.is_none() => self.tensors(&node()?).map(own),
            "kernel" | "manifest" if op.is_none() => {
                let ending = if kind == "kernel" { "cu" } else { "toml" };
                let node = node()?;
                let covering = [node.file_stem(), node.op.clone()].map(|stem| format!("{stem}.{ending}"));
                for path in &covering {
                    if self.folder().read(path)?.is_some() {
                        return self.file(path);
                    }
                }
                Err(Error::new(&TOOL_NAME, format!("{node} has no {kind} yet"))
                    .expected(format!("kernels/{}", covering[0])))
            }
            _ => Err(unknown(what)),
        }
    }

    fn file(&self, path: &str) -> Result<Found> {
        let text = self.folder().read(path)?.ok_or_else(|| unknown(&format!("kernels/{path}")))?;
        let name = format!("kernels/{path}");
        Ok(Found { whose: Some(format!("the file {name}")), name, text })
    }

    /// Where the port's source does the same. For orientation only.
    fn upstream(&self, contract: &Contract, node: Option<&Node>) -> Result<String> {
        let plain = Node { op: contract.op.into(), types: Vec::new() };
        let found = port::read(&self.bench.root.join("reference/port"), node.unwrap_or(&plain), contract)?;
        let mut text = String::new();
        for u in found.as_deref().unwrap_or_default() {
            let note = u.note.as_ref().map_or(String::new(), |n| format!(" ({n})"));
            let _ = writeln!(text, "{} {}, {} arguments{note}", u.file, u.symbol, u.arguments);
        }
        if text.is_empty() {
            text = format!("no counterpart of {} is on record\n", contract.op);
        }
        Ok(text)
    }

    /// Where the node occurs, with its sizes, and the tensors that it reads there.
    fn tensors(&self, node: &Node) -> Result<String> {
        let mut seen = BTreeSet::new();
        let mut text = String::new();
        for numerics in NUMERICS {
            let plan = Plan::build(&self.model, canonical(numerics))?;
            for i in plan.instances.iter().filter(|i| i.node == *node) {
                if !seen.insert(i.label.clone()) {
                    continue;
                }
                let contract = i.contract();
                let dims: Vec<_> = contract.dims.iter().zip(&i.dims).map(|(n, v)| format!("{n}={v}")).collect();
                let _ = writeln!(text, "{}: {}", i.label, dims.join(" "));
                for (slot, name) in contract.weights.iter().zip(&i.weights) {
                    let Some(name) = name else { continue };
                    if let Some(t) = self.model.tensor(name) {
                        let _ = writeln!(text, "  {} = {name} {} {:?}", slot.name, t.dtype.name(), t.dims);
                    }
                }
            }
        }
        Ok(text)
    }
}

fn unknown(what: &str) -> Error {
    Error::new(&TOOL_NAME, format!("nothing to read is called `{}`", shown(what))).hint("`list` has the names")
}

/// A section of a document, or its table of contents.
fn document(name: &str, section: &str) -> Result<String> {
    let text = shelf::document(name).ok_or_else(|| unknown(name))?;
    let sections = shelf::sections(text);
    if section.is_empty() {
        return Ok(sections.iter().map(|s| format!("{name}#{}  {}\n", s.number, s.title)).collect());
    }
    let wanted = section.trim_start_matches('§');
    let found = sections.iter().find(|s| s.number == wanted || s.title.eq_ignore_ascii_case(wanted));
    found.map(|s| s.text.to_string()).ok_or_else(|| unknown(&format!("{name}#{section}")))
}

/// Whole lines from `from` on, as many as fit an answer, their numbers, and how many there are.
fn piece(text: &str, from: usize, name: &str) -> Result<(String, (usize, usize), usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let total = lines.len();
    if from == 0 || from > total.max(1) {
        return Err(Error::new(&TOOL_ARGUMENTS, format!("{name} has no line {from}")).expected(format!("1 to {total}")));
    }
    let (mut out, mut size) = (String::new(), 0);
    let mut last = from.saturating_sub(1);
    for line in &lines[(from - 1).min(total)..] {
        let line = cap_json(line.to_string(), EXCERPT / 2);
        size += json_len(&line) + 2;
        if !out.is_empty() && size > EXCERPT {
            break;
        }
        out.push_str(&line);
        out.push('\n');
        last += 1;
    }
    Ok((out, (from, last), total))
}
