//! `assay import`: evidence from other hosts.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::ledger::{self, TrustArgs, answer, summary};
use super::{ModelArg, output};
use crate::error::Result;
use crate::ledger::{Binding, ClosureSource, Row, Statement, Target, read_evidence};
use crate::words::{agree, count};

/// Bring in evidence that other hosts signed, if you trust their keys
///
/// It is filed under its own weights and closures: it counts for this tree only where they match.
#[derive(clap::Args)]
pub struct Import {
    /// Evidence files, or whole ledgers.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// A node that only another file holds is landed, or counted, under that file.
    #[command(flatten)]
    pub(super) model: ModelArg,
    #[command(flatten)]
    trust: TrustArgs,
    /// Private key to sign the rows with.
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Print one JSON object (schema assay.import/1)
    #[arg(long)]
    json: bool,
}

impl Import {
    /// `here` says what the tree at hand binds, so that each row can be told apart from one for another tree.
    pub fn run(&self, root: &Path, here: Option<&dyn ClosureSource>) -> Result<u8> {
        let mut ledger = ledger::open(root)?;
        let trust = self.trust.load(root)?;
        let mut evidence = Vec::new();
        for file in &self.files {
            evidence.extend(read_evidence(file, root)?);
        }
        let total = evidence.len();
        let new = ledger.admit(evidence, &trust)?;
        let seqs = match new.is_empty() {
            true => Vec::new(),
            false => ledger.append(&new, &ledger::writer(root, self.key.as_deref())?)?,
        };
        let rows: Vec<(&Row, Option<bool>)> = seqs
            .iter()
            .map(|seq| &ledger.rows()[*seq as usize])
            .map(|row| here.map_or(Ok((row, None)), |here| counts(row, here).map(|c| (row, c))))
            .collect::<Result<_>>()?;
        if self.json {
            let rows: Vec<_> = rows
                .iter()
                .map(|(row, counts)| {
                    json!({
                        "row": row.seq, "evidence": row.evidence.digest(), "kind": row.statement().kind(), "counts_here": counts,
                    })
                })
                .collect();
            return answer("assay.import/1", json!({ "read": total, "rows": rows }));
        }
        output::println(format_args!(
            "{} of {} {} new",
            new.len(),
            count(total, "piece of evidence"),
            agree(new.len(), "was", "were")
        ))?;
        for (row, counts) in rows {
            let said = match counts {
                Some(true) => "  (this tree)",
                Some(false) => "  (another tree or file: filed, does not count here)",
                None => "",
            };
            output::println(format_args!("row {}  {}{said}", row.seq, summary(row)))?;
        }
        Ok(0)
    }
}

/// Whether a verdict or a benchmark binds what is here; `None` for what binds nothing.
fn counts(row: &Row, here: &dyn ClosureSource) -> Result<Option<bool>> {
    if let Statement::Bench(bench) = row.statement() {
        let (here, there) = (here.schedule(&bench.binding.arch)?, &bench.binding);
        return Ok(Some(here.is_some_and(|(b, _)| Binding { numerics: there.numerics, ..b } == *there)));
    }
    let Statement::Verdict(verdict) = row.statement() else { return Ok(None) };
    let Target::Node(node) = &verdict.node else {
        let schedule = here.schedule(&verdict.binding.arch)?;
        return Ok(Some(schedule.is_some_and(|(binding, _)| binding == verdict.binding)));
    };
    if !here.nodes().contains(node) {
        return Ok(Some(false));
    }
    let binding = here.binding(node, &verdict.binding.arch, verdict.binding.numerics)?;
    Ok(Some(binding == verdict.binding))
}
