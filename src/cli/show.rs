//! `assay show`: everything that one row says.

use std::path::Path;

use serde_json::json;

use super::ledger::{self, TrustArgs, answer, find_row, signer, summary};
use super::{fields, output};
use crate::error::Result;
use crate::history;
use crate::ledger::{
    Bench, Binding, Digest, Informative, Ledger, Outcome, Row, StageOutcome, Statement, Trust, Verdict,
};
use crate::words::{count, harmless};

/// Show everything that one row of the ledger says
#[derive(clap::Args)]
pub struct Show {
    /// Row number, or the first digits of the row's or its evidence's digest.
    row: String,
    #[command(flatten)]
    trust: TrustArgs,
    /// Print one JSON object (schema assay.show/1)
    #[arg(long)]
    json: bool,
}

impl Show {
    pub fn run(&self, root: &Path) -> Result<u8> {
        let ledger = ledger::open(root)?;
        let trust = self.trust.load(root)?;
        let row = find_row(&ledger, &self.row)?;
        let digest = row.evidence.digest();
        let landed =
            history::landed(root)?.into_iter().find(|(evidence, _)| *evidence == digest).map(|(_, commit)| commit);
        let kept = history::all_attempts(root)?.into_iter().find(|a| a.evidence == Some(digest)).map(|a| a.reference);
        if self.json {
            return answer(
                "assay.show/1",
                json!({ "row": row.seq,
                    "hash": row.hash,
                    "prev": row.prev,
                    "writer": row.writer,
                    "evidence": row.evidence.digest(),
                    "signer": row.evidence.signer(),
                    "trusted": trust.trusts(&row.evidence.signer()),
                    "void": ledger.void(row, &trust),
                    "landed_in": landed,
                    "attempt": kept,
                    "statement": row.statement().to_value()?,
                }),
            );
        }
        output::print(harmless(&text(&ledger, row, &trust, landed, kept)))?;
        Ok(0)
    }
}

/// `landed` is the commit that holds it, `kept` the reference under which a red one's kernels are.
fn text(ledger: &Ledger, row: &Row, trust: &Trust, landed: Option<String>, kept: Option<String>) -> String {
    let mut out = format!("row {}  {}\n", row.seq, summary(row));
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            out.push_str(&format!("  {name:<16} {}\n", value.trim_end_matches('\n')));
        }
    };
    line("signed by", signer(ledger, row, trust));
    let writer = ledger.chain().ring.get(&row.writer).map_or("?", |key| key.name());
    line("rowed by", format!("{writer} ({})", row.writer.short()));
    line("evidence", row.evidence.digest().to_string());
    line("row hash", row.hash.to_string());
    line("landed in", landed.unwrap_or_default());
    line("kernels kept as", kept.unwrap_or_default());
    match row.statement() {
        Statement::Verdict(v) => {
            verdict(&mut line, v);
            binding(&mut line, &v.binding);
            informative(&mut line, &v.informative);
        }
        Statement::Bench(b) => {
            bench(&mut line, b);
            binding(&mut line, &b.binding);
            informative(&mut line, &b.informative);
        }
        Statement::Key(k) => {
            line("key", k.key.to_string());
            line("time", k.time.clone());
        }
        Statement::Rotation(r) => {
            line("key", r.from.to_string());
            line("successor", r.to.to_string());
            ends(&mut line, ledger, row, &r.keeps, &r.time);
        }
        Statement::Revocation(r) => {
            line("key", r.key.to_string());
            line("because", r.why.clone());
            ends(&mut line, ledger, row, &r.keeps, &r.time);
        }
    }
    out
}

/// Of a row that ends a key: what it leaves of the key's evidence.
fn ends(line: &mut impl FnMut(&str, String), ledger: &Ledger, row: &Row, keeps: &[Digest], time: &str) {
    line("keeps", format!("{} that the key had signed", count(keeps.len(), "piece of evidence")));
    line("has no force", ledger.chain().roll.idle().get(&row.seq).cloned().unwrap_or_default());
    line("time", time.into());
}

fn verdict(line: &mut impl FnMut(&str, String), v: &Verdict) {
    if let Outcome::Red { first_bad, .. } = &v.outcome {
        line("first bad", first_bad.clone());
    }
    for stage in &v.stages {
        let outcome = match stage.outcome {
            StageOutcome::Pass => "pass",
            StageOutcome::Red => "red",
            StageOutcome::Indeterminate => "indeterminate",
            StageOutcome::NotRun => "not run",
        };
        let mut below: Vec<_> = stage.figures.iter().map(|(name, figure)| (name.clone(), figure.to_string())).collect();
        fields::note(&stage.note, &mut below);
        line(stage.name.name(), format!("{outcome}\n{}", fields::lines(&below)));
    }
    line("outputs", count(v.outputs.len(), "digest"));
    line("seed", v.seed.to_string());
}

fn bench(line: &mut impl FnMut(&str, String), b: &Bench) {
    for (name, figures) in &b.runs {
        let figures: Vec<_> = figures.iter().map(|(name, figure)| (name.clone(), figure.to_string())).collect();
        line(name, format!("\n{}", fields::lines(&figures)));
    }
}

fn binding(line: &mut impl FnMut(&str, String), b: &Binding) {
    line("closure", b.closure.to_string());
    line("schedule slice", b.schedule_slice.to_string());
    line("weights", b.weights.to_string());
    line("cases", b.cases.to_string());
    line("oracle outputs", b.oracle_outputs.to_string());
    line("protocol", b.protocol.to_string());
}

fn informative(line: &mut impl FnMut(&str, String), i: &Informative) {
    for (name, value) in [
        ("device", &i.device),
        ("driver", &i.driver),
        ("nvrtc", &i.nvrtc),
        ("model", &i.model),
        ("sandbox", &i.sandbox),
        ("prompt", &i.prompt),
        ("transcript", &i.transcript),
        ("host", &i.host),
        ("commit", &i.commit),
        ("assay", &i.assay),
        ("time", &i.time),
    ] {
        line(name, fields::recorded(value));
    }
    for (name, digest) in &i.cubins {
        line("cubin", format!("{name} {digest}"));
    }
    for (name, version) in &i.libraries {
        line("library", format!("{name} {version}"));
    }
}
