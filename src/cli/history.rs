//! `assay history`: what happened to a node, or to all of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::ledger::{self, TrustArgs, answer, signer, summary};
use super::output;
use crate::error::{Error, Result};
use crate::history::{self, Attempt};
use crate::ledger::{Digest, Ledger, Target, Trust, figure};
use crate::ops;
use crate::report::chart::{Place, chart};
use crate::report::cited::Cited;
use crate::report::timeline::{Event, timeline};
use crate::words::plain;

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    /// Error and time over the rows of one node, as a picture
    Svg,
}

/// List the ledger's rows, the commits that landed them, and failed attempts
///
/// With a node: every verdict on it, green and red, and every attempt, with error and time.
#[derive(clap::Args)]
pub struct History {
    /// Only this node; `*` for whole schedules.
    node: Option<Target>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write the picture of a node's history to this file as well
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Print one JSON object (schema assay.history/1)
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl History {
    pub fn run(&self, root: &Path) -> Result<u8> {
        if let Some(Target::Node(node)) = &self.node
            && ops::find(&node.op).is_none()
        {
            return Err(Error::usage(format!("there is no op `{}`", node.op)).hint("assay ops lists them"));
        }
        let drawn = self.svg.is_some() || self.format == Format::Svg;
        if drawn && self.node.is_none() {
            return Err(
                Error::usage("a picture is of one node, and none is named").hint("assay history NODE --svg FILE")
            );
        }
        let ledger = ledger::open(root)?;
        let trust = self.trust.load(root)?;
        let landed: HashMap<Digest, String> = history::landed(root)?.into_iter().collect();
        let attempts = history::all_attempts(root)?;
        let mut events = Vec::new();
        match &self.node {
            Some(node) => events = timeline(ledger.rows(), node, &landed, &attempts),
            None => {
                // In the order of the rows, with those that are of no node.
                for row in ledger.rows() {
                    let of_node =
                        row.statement().target().map(|t| timeline(std::slice::from_ref(row), t, &landed, &attempts));
                    events.extend(of_node.into_iter().flatten().filter(|e| e.row.is_some()));
                }
            }
        }
        if drawn {
            let node = self.node.as_ref().map_or(String::new(), Target::to_string);
            let Some(picture) = chart(&node, &events, Place::File) else {
                return Err(Error::usage(format!("nothing is on record of {node}, so there is nothing to draw"))
                    .hint("assay history lists what is"));
            };
            if let Some(path) = &self.svg {
                std::fs::write(path, &picture).map_err(|e| Error::io(path, e))?;
            }
            if self.format == Format::Svg {
                output::print(picture)?;
                return Ok(0);
            }
        }
        let attempts: Vec<_> =
            attempts.into_iter().filter(|a| self.node.as_ref().is_none_or(|n| a.node == *n)).collect();
        match self.json {
            true => self.json(&ledger, &trust, &events, &attempts),
            false => self.text(&ledger, &trust, &events, &attempts),
        }
    }

    fn json(&self, ledger: &Ledger, trust: &Trust, events: &[Event<'_>], attempts: &[Attempt]) -> Result<u8> {
        let mut rows: Vec<Value> = Vec::new();
        let events = by_row(events);
        for row in
            ledger.rows().iter().filter(|row| self.node.is_none() || row.statement().target() == self.node.as_ref())
        {
            let mut entry = json!({
                "row": row.seq, "kind": row.statement().kind(), "node": row.statement().target(),
                "evidence": row.evidence.digest(), "signer": row.evidence.signer(),
                "trusted": trust.trusts(&row.evidence.signer()), "commit": Value::Null,
                "summary": summary(row),
            });
            if let Some(why) = ledger.void(row, trust) {
                entry["void"] = json!(why);
            }
            if let Some(event) = events.get(&row.seq) {
                entry["commit"] = json!(event.landed);
                let more = json!({
                    "outcome": event.kind,
                    "class": event.class,
                    "arch": event.arch,
                    "stage": event.stage,
                    "relative_rms": event.error.as_ref().map(Cited::value),
                    "max_abs": Cited::worst(row, figure::MAX_ABS).map(|c| c.value()),
                    "time_us": event.time.as_ref().map(Cited::value),
                    "attempt": event.attempt.as_ref().map(|a| &a.reference),
                });
                ledger::extend(&mut entry, &more);
            }
            rows.push(entry);
        }
        answer("assay.history/1", json!({ "rows": rows, "attempts": attempts }))
    }

    fn text(&self, ledger: &Ledger, trust: &Trust, events: &[Event<'_>], attempts: &[Attempt]) -> Result<u8> {
        let rows: Vec<_> = ledger
            .rows()
            .iter()
            .filter(|r| self.node.is_none() || r.statement().target() == self.node.as_ref())
            .collect();
        if rows.is_empty() && attempts.is_empty() {
            output::println(format_args!("nothing is on record"))?;
        }
        let events = by_row(events);
        for row in rows {
            let event = events.get(&row.seq).copied();
            let commit = event.and_then(|e| e.landed.as_ref());
            let commit = commit.map_or(String::new(), |id| format!("  landed in {}", &id[..12]));
            output::println(format_args!("row {}  {}{commit}", row.seq, plain(&summary(row), 400)))?;
            let figures = event.map(figures).unwrap_or_default();
            if !figures.is_empty() {
                output::println(format_args!("    {figures}"))?;
            }
            output::println(format_args!("    signed by {}", signer(ledger, row, trust)))?;
        }
        for attempt in attempts {
            let row = ledger.rows().iter().find(|row| attempt.evidence == Some(row.evidence.digest()));
            let row = match row {
                Some(row) => format!("row {}", row.seq),
                None if attempt.unbound => "no row: refused before a binding".into(),
                None => "no row".into(),
            };
            output::println(format_args!(
                "{}  {}  {row}  {}",
                &attempt.commit[..12],
                plain(&attempt.reference, 200),
                plain(&attempt.summary, 200)
            ))?;
        }
        Ok(0)
    }
}

fn by_row<'e, 'r>(events: &'e [Event<'r>]) -> HashMap<u64, &'e Event<'r>> {
    events.iter().filter_map(|event| Some((event.row?.seq, event))).collect()
}

/// `error 3.4e-7 relative RMS, 5e-1 absolute; 81.25 µs`, as far as the row has them.
fn figures(event: &Event<'_>) -> String {
    let Some(row) = event.row else { return String::new() };
    let mut error = Vec::new();
    error.extend(event.error.as_ref().map(|c| format!("{} relative RMS", c.text())));
    error.extend(Cited::worst(row, figure::MAX_ABS).map(|c| format!("{} absolute", c.text())));
    let mut out = Vec::new();
    if !error.is_empty() {
        out.push(format!("error {}", error.join(", ")));
    }
    out.extend(event.time.as_ref().map(|c| format!("{} µs", c.text())));
    out.extend(event.attempt.as_ref().map(|a| format!("kernels kept as {}", plain(&a.reference, 200))));
    out.join("; ")
}
