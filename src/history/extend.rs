//! A ledger only grows: over HEAD's, over a commit's first parent's, and by the evidence of every other parent.

use std::path::Path;

use super::Repo;
use super::repo::Commit;
use crate::error::{Error, Result};
use crate::ledger::{Chain, Digest, LEDGER_FILE, Ledger, Row, proposed_keys};
use crate::words::{agree, count};

pub(super) const LEDGER_PATH: &str = "state/ledger.jsonl";

/// The ledger of the workbench `root`, verified, and checked to extend HEAD's where there is git. Every command that
/// reads or extends a ledger starts here.
pub fn open(root: &Path) -> Result<Ledger> {
    checked(Ledger::read(root)?, root)?;
    // Only now may anything be written: a ledger that was rolled back is left as it is.
    noted(Ledger::open(root)?, root)
}

/// The same without ever writing.
pub fn read(root: &Path) -> Result<Ledger> {
    noted(checked(Ledger::read(root)?, root)?, root)
}

fn checked(ledger: Ledger, root: &Path) -> Result<Ledger> {
    if let Some(repo) = Repo::find(root)?
        && let Some(head) = repo.head()?
    {
        if let Some(blob) = repo.file(head.tree, LEDGER_PATH)? {
            extends(&hashes(ledger.rows()), &line_hashes(&repo.blob(blob)?), "the work tree's ledger", &head)?;
        }
        // Also where HEAD has none: a commit may have removed it.
        never_shrank(&repo, head)?;
    }
    Ok(ledger)
}

/// Commits back to which every command looks for a roll-back; `audit` looks at all.
const WALKED: usize = 10_000;

/// Refuses a history in which a commit took rows from its first parent's ledger. By sizes alone, so that no ledger is read
/// but of a commit that did: rows that were replaced by as many bytes are for `audit` to find.
fn never_shrank(repo: &Repo, head: Commit) -> Result<()> {
    let ledger = |commit: &Commit| -> Result<u64> {
        repo.file(commit.tree, LEDGER_PATH)?.map_or(Ok(0), |blob| repo.blob_size(blob))
    };
    let mut own = ledger(&head)?;
    let mut commit = head;
    for _ in 0..WALKED {
        let Some(id) = commit.parents.first().copied() else { break };
        if !repo.exists(id)? {
            break;
        }
        let parent = repo.commit(id)?;
        let theirs = if parent.tree == commit.tree { own } else { ledger(&parent)? };
        if own < theirs {
            over_parent(repo, &commit)?;
        }
        (commit, own) = (parent, theirs);
    }
    Ok(())
}

/// Says what else a reader should know of.
fn noted(mut ledger: Ledger, root: &Path) -> Result<Ledger> {
    if let Some(repo) = Repo::find(root)?
        && let Some(stash) = stashed(&repo, &ledger)?
    {
        ledger.note(format!("{} [{}]: {}", stash.says(), super::STASHED.id, stash.remedy()));
    }
    Ok(ledger)
}

/// Evidence in the last stash that the ledger lacks.
pub(super) struct Stash {
    revision: &'static str,
    evidence: usize,
}

impl Stash {
    fn says(&self) -> String {
        format!(
            "{} of a git stash {} not in the ledger",
            count(self.evidence, "row"),
            agree(self.evidence, "is", "are")
        )
    }

    fn remedy(&self) -> String {
        format!("assay ledger merge '{}', or git stash drop", self.revision)
    }

    pub fn error(&self) -> Error {
        Error::new(&super::STASHED, self.says()).expected("every row that was recorded here").hint(self.remedy())
    }
}

/// What `git stash` took out of the ledger, tracked or (`-u`) untracked. Evidence that came back since, under whatever
/// row, is not missed.
pub(super) fn stashed(repo: &Repo, ledger: &Ledger) -> Result<Option<Stash>> {
    let Ok(id) = repo.git.refname_to_id("refs/stash") else { return Ok(None) };
    let stash = repo.commit(id)?;
    let untracked = stash.parents.get(2).copied();
    let sides = [("stash@{0}", Some(id)), ("stash@{0}^3", untracked)];
    for (revision, commit) in sides.into_iter().filter_map(|(name, id)| Some((name, id?))) {
        let Some(blob) = repo.file(repo.commit(commit)?.tree, LEDGER_PATH)? else { continue };
        let bytes = repo.blob(blob)?;
        let ours: std::collections::HashSet<Digest> = ledger.rows().iter().map(|row| row.hash).collect();
        if line_hashes(&bytes).iter().all(|hash| ours.contains(hash)) {
            continue;
        }
        // One that cannot be read is no ledger of ours to wait for.
        let Ok(chain) = Chain::read(&bytes, proposed_keys(ledger.root())?) else { continue };
        let missed = chain.rows.iter().filter(|row| ledger.chain().find(&row.evidence.digest()).is_none());
        let evidence = missed.count();
        if evidence > 0 {
            return Ok(Some(Stash { revision, evidence }));
        }
    }
    Ok(None)
}

/// Refuses a commit that holds less than its first parent; one that was made by `git revert` by that name.
pub(super) fn over_parent(repo: &Repo, commit: &Commit) -> Result<()> {
    let Some(parent) = commit.parents.first().copied() else { return Ok(()) };
    if !repo.exists(parent)? {
        return Ok(());
    }
    let parent = repo.commit(parent)?;
    let rows = |commit: &Commit| -> Result<Vec<Digest>> {
        let blob = repo.file(commit.tree, LEDGER_PATH)?;
        blob.map_or(Ok(Vec::new()), |blob| Ok(line_hashes(&repo.blob(blob)?)))
    };
    extends_parent(&rows(commit)?, &rows(&parent)?, commit, &parent)
}

pub(super) fn extends_parent(own: &[Digest], theirs: &[Digest], commit: &Commit, parent: &Commit) -> Result<()> {
    extends(own, theirs, &format!("commit {}'s ledger", commit.short()), parent).map_err(|e| {
        let reverts = commit.message.lines().find_map(|line| line.strip_prefix("This reverts commit "));
        let Some(reverted) = reverts.map(|text| text.trim_end_matches('.')) else {
            // HEAD's state is the one that was rolled back, and no commit on top of it makes it good.
            let (bad, good) = (commit.short(), parent.short());
            return e.hint(format!(
                "git reset --keep {good}, the last good commit, if nobody has {bad} yet; what was committed since: git \
                 rebase --onto {good} {bad}"
            ));
        };
        Error::new(
            &super::REVERTED,
            format!(
                "commit {} took rows of the ledger back with the kernels of {reverted}: {}",
                commit.short(),
                e.what()
            ),
        )
        .expected(format!("at least the {} rows of commit {}", theirs.len(), parent.short()))
        .found(format!("{} rows", own.len()))
        .hint(format!("git reset --keep {}, if nobody has it yet; then assay revert {reverted}", parent.short()))
    })
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
