//! `assay audit`: does everything hold together, and who says it?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::ledger::{self, TrustArgs, answer};
use super::output;
use crate::error::{Kind, Result};
use crate::history::{self, AuditOptions, Report};
use crate::ledger::Judge;
use crate::words::{agree, count};

/// Check ledger, checkpoint, progress, every commit's ledger and the kernels that it landed
///
/// Integrity is judged under the keys that the tree proposes; whose word you do not take is said and no failure.
#[derive(clap::Args)]
pub struct Audit {
    /// Judge this many recorded verdicts again from their seeds.
    #[arg(long, value_name = "N", default_value_t = 0)]
    replay: usize,
    /// A checkpoint kept elsewhere: the ledger must extend it.
    #[arg(long, value_name = "CHECKPOINT")]
    from: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Print one JSON object (schema assay.audit/1)
    #[arg(long)]
    json: bool,
}

impl Audit {
    /// `judge` is what `--replay` judges with.
    pub fn run(&self, root: &Path, judge: Option<&dyn Judge>) -> Result<u8> {
        let trust = self.trust.load(root)?;
        let from = self.from.as_deref();
        let options =
            AuditOptions { replay: self.replay, judge, from, closures: Some(&history::Contracts), trust: &trust };
        let report = history::audit(root, &options)?;
        let code = match () {
            () if !report.findings.is_empty() => Kind::No.exit_code(),
            () if report.replayed.len() < self.replay => Kind::CouldNotRun.exit_code(),
            () => 0,
        };
        if self.json {
            let mut body = json!({ "exit": code });
            ledger::extend(&mut body, &report);
            answer("assay.audit/1", body)?;
        } else {
            self.print(&report)?;
        }
        Ok(code)
    }

    fn print(&self, report: &Report) -> Result<()> {
        let history = match (report.commits, report.shallow) {
            (0, _) => "no commits".into(),
            (n, false) => count(n, "commit"),
            (n, true) => format!("{}, as far as the shallow clone goes", count(n, "commit")),
        };
        output::println(format_args!("the ledger holds together: {}, {history}", count(report.rows, "row")))?;
        if report.landed > 0 {
            let n = report.landed;
            output::println(format_args!(
                "{} computed anew from {} commits: the files are those that were judged",
                count(n, "landed kernel"),
                agree(n, "its", "their")
            ))?;
        }
        for unchecked in &report.unchecked {
            output::println(format_args!("files not checked: {}, {}", ranges(unchecked.rows.clone()), unchecked.why))?;
        }
        for note in &report.notes {
            output::println(format_args!("note: {note}"))?;
        }
        for signer in &report.signers {
            let trusted = match signer.trusted {
                true => "trusted here".into(),
                false => format!("not trusted here: assay key trust {}", signer.id.short()),
            };
            let void = match signer.void {
                0 => String::new(),
                n => format!(", of which {n} {} for nothing", agree(n, "counts", "count")),
            };
            let ended = signer.ended.as_ref().map_or(String::new(), |how| format!("; {how}"));
            output::println(format_args!(
                "key {} ({}): signed {}{void} and wrote {}; {trusted}{ended}",
                signer.name,
                signer.id.short(),
                count(signer.evidence, "piece of evidence"),
                count(signer.rows, "row")
            ))?;
        }
        for row in &report.replayed {
            output::println(format_args!("row {row} judged again: it comes out as recorded"))?;
        }
        let mut unable: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (row, why) in &report.not_replayed {
            unable.entry(why).or_default().push(*row);
        }
        for (why, rows) in unable {
            output::println(format_args!("not judged again: {}, {why}", ranges(rows)))?;
        }
        if self.replay > 0 {
            output::println(format_args!(
                "{} of {} {} replayed",
                report.replayed.len(),
                count(self.replay, "row"),
                agree(report.replayed.len(), "was", "were")
            ))?;
        }
        for finding in &report.findings {
            output::println(format_args!("FAILED: {finding}"))?;
        }
        Ok(())
    }
}

/// `3 rows (4, 7 to 8)`.
fn ranges(mut rows: Vec<u64>) -> String {
    rows.sort_unstable();
    let runs = rows.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [first, .., last] => format!("{first} to {last}"),
        rest => rest.iter().map(u64::to_string).collect(),
    });
    let runs = runs.collect::<Vec<_>>().join(", ");
    format!("{} row{} ({runs})", rows.len(), if rows.len() == 1 { "" } else { "s" })
}
