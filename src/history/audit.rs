//! Audit: does everything that this repository says about itself hold together, and who says it?

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use git2::Oid;

use super::extend::{self, LEDGER_PATH, extends_parent, line_hashes};
use super::landings::{self, Recompute, Unchecked};
use super::repo::{Commit, Repo, plain};
use super::{DISAGREES, LOST_EVIDENCE, NO_REPLAY, SHALLOW};
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::ledger::{
    Chain, Checkpoint, Class, Digest, Ended, Judge, KeyId, KeyRing, Ledger, Outcome, SANDBOX, Trust, Verdict, figure,
    proposed_keys,
};
use crate::plan::kernels::{KERNELS_LINK, linked};

/// Most bytes of a checkpoint: three lines and as many signatures.
const CHECKPOINT: u64 = 1 << 20;

/// What to audit beyond integrity.
pub struct Options<'a> {
    /// So many rows are to be judged again.
    pub replay: usize,
    pub judge: Option<&'a dyn Judge>,
    /// A checkpoint that was kept elsewhere.
    pub from: Option<&'a Path>,
    /// What computes the closures of landed kernels anew; without one, commits are not asked for what they hold.
    pub closures: Option<&'a dyn Recompute>,
    pub trust: &'a Trust,
}

/// A key and what it signed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Signer {
    pub id: KeyId,
    pub name: String,
    pub trusted: bool,
    /// Verdicts and benches that it vouches for.
    pub evidence: usize,
    /// Rows that it wrote.
    pub rows: usize,
    /// How it was ended, if it was: `was revoked in row 4 (stolen)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// Of its evidence, what counts for nothing.
    #[serde(skip_serializing_if = "is_zero")]
    pub void: usize,
}

/// What an audit found out. Damage is an error instead.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    pub rows: usize,
    pub head: Option<Digest>,
    pub commits: usize,
    /// Ends at the boundary of a shallow clone.
    pub shallow: bool,
    /// Nodes that commits say they landed and whose files, as the commit has them, come to the closure that was judged.
    pub landed: usize,
    /// Rows of which that cannot be found out here. They are neither good nor bad.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<Unchecked>,
    pub signers: Vec<Signer>,
    pub notes: Vec<String>,
    /// Rows that were judged again and came out alike.
    pub replayed: Vec<u64>,
    /// Rows that could not be judged again here, and why. They are neither good nor bad.
    pub not_replayed: Vec<(u64, String)>,
    /// What makes the audit fail (exit 1) although nothing was tampered with.
    pub findings: Vec<String>,
}

pub fn audit(root: &Path, options: &Options<'_>) -> Result<Report> {
    let ledger = extend::read(root)?;
    let mut report = Report { rows: ledger.rows().len(), notes: ledger.notes().to_vec(), ..Report::default() };
    report.head = ledger.rows().last().map(|row| row.hash);
    if let Some(file) = options.from {
        let note = files::read(file, CHECKPOINT)?;
        let mut known: KeyRing = ledger.chain().ring.clone();
        known.extend(options.trust.keys().map(|t| (t.key.id(), t.key.clone())));
        Checkpoint::read(&note, &known)?.holds_in(ledger.chain())?;
    }
    for row in ledger.rows().iter().filter(|row| row.statement().class() == Some(Class::Simulated)) {
        report.findings.push(format!("row {} is of class simulated: made up for a test, it proves nothing", row.seq));
    }
    for row in ledger.rows() {
        if let Some(why) = options.trust.unconfined(row) {
            report.findings.push(format!("row {} counts for nothing [{}]: {why}", row.seq, SANDBOX.id));
        }
    }
    if let Some(why) = linked(&root.join("kernels")) {
        report.findings.push(format!("{why} [{}]: what it leads to is in no commit", KERNELS_LINK.id));
    }
    report.signers = signers(&ledger, options.trust);
    for (row, why) in ledger.chain().roll.idle() {
        report.notes.push(format!("row {row} rotates or revokes a key and has no force: {why}"));
    }
    if let Some(repo) = Repo::find(root)?
        && let Some(head) = repo.head()?
    {
        let mut history = History {
            repo: &repo,
            proposed: proposed_keys(root)?,
            verified: vec![ledger.chain().clone()],
            ledgers: HashMap::new(),
            beside: HashSet::new(),
        };
        let commits = history.walk(&head, &mut report)?;
        if let Some(closures) = options.closures {
            landings::check(&repo, &commits, ledger.chain(), closures, &mut report)?;
        }
        for file in repo.files(head.tree, "kernels")? {
            plain(&format!("kernels/{}", file.path), file.mode)?;
        }
        report.notes.extend(changed_reference(root, &repo, &head)?);
    }
    report.notes.extend(super::broken_attempts(root)?.iter().map(super::Broken::line));
    if options.replay > 0 {
        replay(&ledger, options, &mut report)?;
    }
    Ok(report)
}

/// Files under reference/ that differ from HEAD's. No verdict is made by them but the model's own, whose digest it binds; a
/// reader should know all the same.
fn changed_reference(root: &Path, repo: &Repo, head: &Commit) -> Result<Option<String>> {
    let mut changed = Vec::new();
    for file in repo.files(head.tree, "reference")? {
        let path = root.join("reference").join(&file.path);
        // Size first: a model is not hashed where that tells already.
        let size = repo.blob_size(file.id)?;
        let same = match std::fs::symlink_metadata(&path) {
            Ok(about) if about.is_file() && about.len() == size => {
                let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
                Oid::hash_object(git2::ObjectType::Blob, &bytes).map_err(super::repo::git)? == file.id
            }
            _ => false,
        };
        if !same {
            changed.push(format!("reference/{}", file.path));
        }
    }
    Ok((!changed.is_empty()).then(|| {
        let more = if changed.len() > 5 { format!(" and {} more", changed.len() - 5) } else { String::new() };
        changed.truncate(5);
        format!(
            "{}{more} differ from the last commit; no verdict rests on them but through a model's digest",
            changed.join(", ")
        )
    }))
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

fn signers(ledger: &Ledger, trust: &Trust) -> Vec<Signer> {
    let mut signers: BTreeMap<KeyId, Signer> = BTreeMap::new();
    let ring = &ledger.chain().ring;
    let new = |id: KeyId| Signer {
        id,
        name: ring.get(&id).map_or_else(String::new, |key| key.name().into()),
        trusted: trust.trusts(&id),
        evidence: 0,
        rows: 0,
        ended: ledger.chain().roll.ended(&id).map(Ended::says),
        void: 0,
    };
    for row in ledger.rows() {
        let signer = row.evidence.signer();
        let vouches = row.statement().class().is_some();
        let of = signers.entry(signer).or_insert_with(|| new(signer));
        of.evidence += usize::from(vouches);
        of.void += usize::from(vouches && ledger.void(row, trust).is_some());
        signers.entry(row.writer).or_insert_with(|| new(row.writer)).rows += 1;
    }
    signers.into_values().collect()
}

/// The ledgers of commits, each read once.
struct History<'r> {
    repo: &'r Repo,
    proposed: KeyRing,
    /// Chains that were verified, the work tree's first: most commits hold the beginning of one.
    verified: Vec<Chain>,
    ledgers: HashMap<Oid, Committed>,
    /// Ledger, checkpoint and progress blobs that were found to go together.
    beside: HashSet<[Option<Oid>; 3]>,
}

struct Committed {
    rows: Vec<Digest>,
    evidence: HashSet<Digest>,
    /// Which verified chain begins with it.
    chain: usize,
}

impl History<'_> {
    /// Every commit, with its ledger found to be in order.
    fn walk(&mut self, head: &Commit, report: &mut Report) -> Result<Vec<Commit>> {
        let (commits, shallow) = self.repo.ancestry(head.id)?;
        (report.commits, report.shallow) = (commits.len(), shallow);
        if shallow {
            report.notes.push(format!(
                "the history is cut off [{}]: no commit before it was looked at; git fetch --unshallow",
                SHALLOW.id
            ));
        }
        for commit in &commits {
            self.check(commit, report)?;
        }
        Ok(commits)
    }

    /// Reads and verifies the ledger of `commit`, and what stands beside it.
    fn ledger(&mut self, commit: &Commit) -> Result<Option<Oid>> {
        let place = |e: Error| Error::new(e.code(), format!("in commit {}: {}", commit.short(), e.what()));
        let blob = self.repo.file(commit.tree, LEDGER_PATH)?;
        if let Some(blob) = blob
            && !self.ledgers.contains_key(&blob)
        {
            let bytes = self.repo.blob(blob)?;
            let rows = line_hashes(&bytes);
            let begins = |chain: &Chain| rows.iter().eq(chain.rows.iter().take(rows.len()).map(|row| &row.hash));
            let chain = match self.verified.iter().position(begins) {
                Some(chain) => chain,
                None => {
                    self.verified.push(Chain::read(&bytes, self.proposed.clone()).map_err(place)?);
                    self.verified.len() - 1
                }
            };
            let evidence = self.verified[chain].rows[..rows.len()].iter().map(|row| row.evidence.digest()).collect();
            self.ledgers.insert(blob, Committed { rows, evidence, chain });
        }
        let (checkpoint, progress) = ("state/checkpoint", "state/progress.json");
        let beside = [blob, self.repo.file(commit.tree, checkpoint)?, self.repo.file(commit.tree, progress)?];
        if !self.beside.contains(&beside) {
            let read = |id: Option<Oid>| id.map(|id| self.repo.blob(id)).transpose();
            let (note, progress) = (read(beside[1])?, read(beside[2])?);
            let chain = match blob.map(|blob| &self.ledgers[&blob]) {
                None => Chain::new(self.proposed.clone()),
                Some(held) => self.verified[held.chain].prefix(held.rows.len(), self.proposed.clone()),
            };
            chain.check_beside(note.as_deref(), progress.as_deref()).map_err(place)?;
            self.beside.insert(beside);
        }
        Ok(blob)
    }

    fn check(&mut self, commit: &Commit, report: &mut Report) -> Result<()> {
        let empty = Committed { rows: Vec::new(), evidence: HashSet::new(), chain: 0 };
        let own = self.ledger(commit)?;
        let mut first_tree = None;
        for (i, parent) in commit.parents.iter().enumerate() {
            if report.shallow && !self.repo.exists(*parent)? {
                continue;
            }
            let parent = self.repo.commit(*parent)?;
            let theirs = self.ledger(&parent)?;
            if i == 0 {
                first_tree = Some(parent.tree);
            }
            if theirs == own {
                continue;
            }
            let (own, theirs) =
                (own.map_or(&empty, |b| &self.ledgers[&b]), theirs.map_or(&empty, |b| &self.ledgers[&b]));
            if i == 0 {
                extends_parent(&own.rows, &theirs.rows, commit, &parent)?;
            } else if let Some(lost) = theirs.evidence.difference(&own.evidence).min() {
                return Err(Error::new(
                    &LOST_EVIDENCE,
                    format!(
                        "commit {} merges {} without its evidence {}",
                        commit.short(),
                        parent.short(),
                        lost.short()
                    ),
                )
                .hint("merge again with assay ledger merge"));
            }
        }
        let held = own.map_or(&empty, |b| &self.ledgers[&b]);
        let mut lands = false;
        for text in commit.trailers("Assay-Evidence") {
            lands = true;
            if !text.parse().is_ok_and(|digest| held.evidence.contains(&digest)) {
                return Err(Error::new(
                    &LOST_EVIDENCE,
                    format!("commit {} says it landed evidence {text}, which its ledger does not hold", commit.short()),
                ));
            }
        }
        if lands
            && let Some(before) = first_tree
            && commit.parents.len() == 1
        {
            report.findings.extend(self.outside(commit, before)?);
        }
        Ok(())
    }

    /// A commit that claims evidence may change kernels/ and state/ alone.
    fn outside(&self, commit: &Commit, before: Oid) -> Result<Option<String>> {
        let git = &self.repo.git;
        let find = |id| git.find_tree(id).map_err(super::repo::git);
        let diff =
            git.diff_tree_to_tree(Some(&find(before)?), Some(&find(commit.tree)?), None).map_err(super::repo::git)?;
        let inside =
            |path: &Path| ["kernels", "state"].iter().any(|dir| path.starts_with(format!("{}{dir}", self.repo.prefix)));
        let paths =
            diff.deltas().flat_map(|d| [d.old_file().path(), d.new_file().path()].map(|p| p.map(Path::to_path_buf)));
        let stray = paths.flatten().find(|path| !inside(path));
        Ok(stray.map(|path| format!("commit {} claims evidence but changes {} too", commit.short(), path.display())))
    }
}

/// Judges `options.replay` verdicts again, drawn at random, each from its own seed.
fn replay(ledger: &Ledger, options: &Options<'_>, report: &mut Report) -> Result<()> {
    let judge =
        options.judge.ok_or_else(|| Error::new(&NO_REPLAY, "cannot replay here: this command has no verifier"))?;
    let mut rows: Vec<(&crate::ledger::Row, &Verdict)> =
        ledger.rows().iter().filter_map(|row| Some((row, row.statement().verdict()?))).collect();
    rows.retain(|(_, verdict)| verdict.class != Class::Simulated);
    while report.replayed.len() < options.replay && !rows.is_empty() {
        let draw = crate::ledger::Seed::random()?;
        let draw = u64::from_le_bytes(std::array::from_fn(|i| draw.0[i]));
        let (row, recorded) = rows.swap_remove((draw % rows.len() as u64) as usize);
        match judge.judge_again(recorded) {
            Ok(again) => match disagreement(recorded, &again) {
                None => report.replayed.push(row.seq),
                Some(why) => {
                    return Err(Error::new(&DISAGREES, format!("row {} does not come out again: {why}", row.seq))
                        .hint(format!("assay show {} shows what was recorded", row.seq)));
                }
            },
            Err(e) if e.kind() == Kind::CouldNotRun => report.not_replayed.push((row.seq, e.what().into())),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// In what a verdict differs from the one on record, if it matters. The same build on the same device must write the same
/// bytes; another compiler or device may round otherwise, but not reach another conclusion or another size of error. The
/// emulator's functions are its host's C library's, which picks them by processor: there the host must be the same too.
fn disagreement(recorded: &Verdict, again: &Verdict) -> Option<String> {
    if again.binding != recorded.binding {
        return Some(format!("it binds other {}", again.binding.differences(&recorded.binding).join(", ")));
    }
    if again.outcome.name() != recorded.outcome.name() || (recorded.complete() && !again.complete()) {
        return Some(format!("recorded {}, now {}", recorded.outcome.name(), again.outcome.name()));
    }
    let same = recorded.informative.cubins == again.informative.cubins
        && recorded.informative.device == again.informative.device
        && (recorded.class == Class::Device || recorded.informative.host == again.informative.host);
    if same && recorded.outputs != again.outputs {
        let case = recorded.outputs.iter().find(|(case, digest)| again.outputs.get(*case) != Some(digest));
        let case = case.map_or("a case", |(name, _)| name.as_str());
        return Some(format!("the same build wrote other bytes in {case}"));
    }
    if recorded.outcome != Outcome::Pass {
        return None;
    }
    let (old, new) = (recorded.worst(figure::REL_RMS)?, again.worst(figure::REL_RMS).unwrap_or(f64::NAN));
    let close = (old - new).abs() <= 0.5 * old.abs().max(new.abs()) + 1e-6;
    (!close).then(|| format!("recorded a relative RMS error of {old:e}, now {new:e}"))
}
