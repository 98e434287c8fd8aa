//! A ledger only grows: over HEAD's, over a commit's first parent's, and by the evidence of every other parent.

use std::path::Path;

use super::Repo;
use super::repo::Commit;
use crate::error::{Error, Result};
use crate::ledger::{Digest, LEDGER_FILE, Ledger, Row};

pub(super) const LEDGER_PATH: &str = "state/ledger.jsonl";

/// The ledger of the workbench `root`, verified, and checked to extend HEAD's where there is git. Every command that
/// reads or extends a ledger starts here.
pub fn open(root: &Path) -> Result<Ledger> {
    read(root)?;
    // Only now may anything be written: a ledger that was rolled back is left as it is.
    Ledger::open(root)
}

/// The same without ever writing.
pub fn read(root: &Path) -> Result<Ledger> {
    let ledger = Ledger::read(root)?;
    if let Some(repo) = Repo::find(root)?
        && let Some(head) = repo.head()?
        && let Some(blob) = repo.file(head.tree, LEDGER_PATH)?
    {
        extends(&hashes(ledger.rows()), &line_hashes(&repo.blob(blob)?), "the work tree's ledger", &head)?;
    }
    Ok(ledger)
}

/// How many rows the ledger of `commit` has.
pub(super) fn rows_in(repo: &Repo, commit: Option<&Commit>) -> Result<usize> {
    let Some(commit) = commit else { return Ok(0) };
    let blob = repo.file(commit.tree, LEDGER_PATH)?;
    blob.map_or(Ok(0), |blob| Ok(line_hashes(&repo.blob(blob)?).len()))
}

pub(super) fn hashes(rows: &[Row]) -> Vec<Digest> {
    rows.iter().map(|row| row.hash).collect()
}

/// Hashes of a ledger file's complete lines.
pub(super) fn line_hashes(bytes: &[u8]) -> Vec<Digest> {
    let lines = bytes.split_inclusive(|b| *b == b'\n');
    lines.filter_map(|line| line.strip_suffix(b"\n")).map(Digest::of).collect()
}

/// Refuses `longer` (named `whose`) unless it starts with every row of `commit`'s ledger.
pub(super) fn extends(longer: &[Digest], shorter: &[Digest], whose: &str, commit: &Commit) -> Result<()> {
    let Some(row) = shorter.iter().enumerate().position(|(i, hash)| longer.get(i) != Some(hash)) else {
        return Ok(());
    };
    let error = Error::new(
        &super::NOT_EXTENDED,
        match row < longer.len() {
            true => format!("row {row} of {whose} is not the row {row} that commit {} holds", commit.short()),
            false => format!("row {row}, which commit {} holds, is missing from {whose}", commit.short()),
        },
    );
    Err(error
        .expected(format!("at least the {} rows of commit {}", shorter.len(), commit.short()))
        .found(format!("{} rows, the first {row} of them the same", longer.len()))
        .hint(format!(
            "git checkout HEAD -- state/{LEDGER_FILE} state/checkpoint state/progress.json, then assay ledger merge"
        )))
}
