//! Red attempts: kept as commits under refs of their own, out of the way of the branch. docs/ledger.md §8.
//!
//! `refs/assay/attempts/<op>.<types>/<n>` are this repository's; a number says nothing but that it is free here. Another
//! repository's are fetched to `refs/assay/remotes/<remote>/<op>.<types>/<n>`, where its numbers cannot meet ours, and
//! [`adopt`] files them among ours.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use git2::build::TreeUpdateBuilder;
use git2::{ErrorCode, FileMode, Oid};

use super::repo::{Repo, git};
use super::standing::{self, Broken, What};
use super::{ATTEMPT_REF, no_git};
use crate::error::{Error, Result};
use crate::ledger::{Digest, Evidence, Outcome, Stage, Target};
use crate::ops::{self, Node};
use crate::words::shell;

const OURS: &str = "refs/assay/attempts/";
const THEIRS: &str = "refs/assay/remotes/";
/// What attempts at a whole schedule are filed under; no op is called so.
const SCHEDULE: &str = "schedule";
/// Numbers that are tried for one attempt. Others may be taking them at the same time.
const TRIES: usize = 64;

/// One attempt that is on record.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Attempt {
    /// `refs/assay/attempts/<op>.<types>/<n>`.
    pub reference: String,
    pub node: Target,
    /// The remote that it was fetched from and where it has not been adopted yet.
    pub remote: Option<String>,
    pub commit: String,
    /// Of the verdict that it is about, as its commit says.
    pub evidence: Option<Digest>,
    /// The judge refused it before there was anything that evidence could bind: no row speaks of it.
    pub unbound: bool,
    pub summary: String,
    /// `None`: somebody gave it another name than a number.
    #[serde(skip)]
    number: Option<u64>,
}

impl Attempt {
    fn order(&self) -> (String, Option<&str>, bool, u64, &str) {
        let number = self.number.unwrap_or(u64::MAX);
        (self.node.to_string(), self.remote.as_deref(), self.number.is_none(), number, &self.reference)
    }
}

fn stem(target: &Target) -> String {
    match target {
        Target::Node(node) => node.file_stem(),
        Target::Schedule => SCHEDULE.into(),
    }
}

fn target(stem: &str) -> Option<Target> {
    match stem {
        SCHEDULE => Some(Target::Schedule),
        // In the one spelling that a reference has.
        stem => stem.parse().ok().map(Target::Node).filter(|target| self::stem(target) == stem),
    }
}

/// Every attempt, by node, ours before fetched ones, first to last; one that is both is listed once.
pub fn all_attempts(root: &Path) -> Result<Vec<Attempt>> {
    let Some(repo) = Repo::find(root)? else { return Ok(Vec::new()) };
    let mut found = within(&repo, OURS)?;
    let ours: BTreeSet<String> = found.iter().map(|a| a.commit.clone()).collect();
    found.extend(within(&repo, THEIRS)?.into_iter().filter(|a| !ours.contains(&a.commit)));
    found.sort_by(|a, b| a.order().cmp(&b.order()));
    Ok(found)
}

/// This repository's attempts at `node`, first to last.
pub fn attempts(root: &Path, node: &Target) -> Result<Vec<Attempt>> {
    let mut found = all_attempts(root)?;
    found.retain(|attempt| attempt.node == *node && attempt.remote.is_none());
    Ok(found)
}

/// The attempts below `space`. References whose names say nothing of a node are somebody else's.
fn within(repo: &Repo, space: &str) -> Result<Vec<Attempt>> {
    let mut found = Vec::new();
    for standing in standing::below(repo, space)? {
        let (name, What::Object(id)) = (standing.name.as_str(), standing.what) else { continue };
        let Some((path, last)) = name.strip_prefix(space).unwrap_or_default().rsplit_once('/') else { continue };
        // A remote's name may have slashes, a node's has none.
        let (remote, stem) = match path.rsplit_once('/') {
            Some((remote, stem)) if space == THEIRS => (Some(remote.to_string()), stem),
            None if space == OURS => (None, path),
            _ => continue,
        };
        let Some(node) = target(stem) else { continue };
        // Whoever can push here can push what is no commit; it is said, and stops nothing.
        let (summary, evidence, refused) = match repo.commit(id) {
            Ok(commit) => {
                let evidence = commit.trailers("Assay-Evidence").find_map(|digest| digest.parse().ok());
                let refused = commit.trailers("Assay-Refused").next().is_some();
                (commit.message.lines().next().unwrap_or_default().to_string(), evidence, refused)
            }
            Err(_) => ("no commit".into(), None, false),
        };
        let number = last.parse().ok().filter(|n: &u64| n.to_string() == last);
        let (commit, unbound) = (id.to_string(), refused && evidence.is_none());
        found.push(Attempt { reference: name.into(), node, remote, commit, evidence, unbound, summary, number });
    }
    Ok(found)
}

/// A number that is not among `taken`: the next one, as long as numbers are such as are counted with.
fn free(taken: &BTreeSet<u64>) -> u64 {
    let next = taken.last().map_or(Some(1), |n| n.checked_add(1));
    next.unwrap_or_else(|| (1..).find(|n| !taken.contains(n)).unwrap_or(0))
}

/// The numbers at `node` that nothing can be kept under any more: those of attempts, and those of whatever else stands there.
fn taken(repo: &Repo, node: &Target) -> Result<BTreeSet<u64>> {
    let space = format!("{OURS}{}/", stem(node));
    let number = |name: &str| {
        let first = name.strip_prefix(&space)?.split('/').next()?;
        let first = first.strip_suffix(".lock").unwrap_or(first);
        first.parse().ok().filter(|n: &u64| n.to_string() == first)
    };
    Ok(standing::below(repo, &space)?.iter().filter_map(|standing| number(&standing.name)).collect())
}

/// What stands among attempts, ours and fetched ones, and is none, nor anybody's reference: git shows nothing of it.
pub fn broken_attempts(root: &Path) -> Result<Vec<Broken>> {
    let Some(repo) = Repo::find(root)? else { return Ok(Vec::new()) };
    let mut found = standing::broken(&repo, OURS)?;
    // What is wrong on the way to both is wrong once.
    found.extend(
        standing::broken(&repo, THEIRS)?.into_iter().filter(|b| b.reference.starts_with(THEIRS.trim_end_matches('/'))),
    );
    // A reference whose name an op's folder needs.
    for standing in standing::below(&repo, OURS)? {
        let stem = standing.name.strip_prefix(OURS).filter(|stem| !stem.contains('/'));
        let needed = match stem.and_then(target) {
            Some(Target::Node(node)) => ops::find(&node.op).is_some(),
            Some(Target::Schedule) => true,
            None => false,
        };
        if let (true, What::Object(_)) = (needed, standing.what) {
            let why = "it stands where the folder of attempts should be".to_string();
            let remove = format!("git update-ref -d {}", shell(&standing.name));
            found.push(Broken { reference: standing.name, why, remove });
        }
    }
    found.sort_by(|a, b| a.reference.cmp(&b.reference));
    Ok(found)
}

/// What [`adopt`] did with one attempt.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Adopted {
    pub reference: String,
    pub commit: String,
    pub summary: String,
    /// The reference that it had here before, if it was here under another number.
    pub moved_from: Option<String>,
}

/// Files what was fetched from `remote` under the numbers that it has there. What only we have keeps its number where
/// that is free and goes behind the others where it is not, so that everything can be pushed. No attempt is lost: what is
/// ours alone has its new reference before the old one is set anew, and the remote's have those that were fetched.
pub fn adopt(root: &Path, remote: &str) -> Result<Vec<Adopted>> {
    let repo = found(root)?;
    let (ours, mut theirs) = (within(&repo, OURS)?, within(&repo, THEIRS)?);
    theirs.retain(|a| a.remote.as_deref() == Some(remote) && a.number.is_some());
    let mut done = Vec::new();
    let nodes: BTreeSet<&Target> = theirs.iter().map(|a| &a.node).collect();
    for node in nodes {
        let here: BTreeMap<u64, &Attempt> =
            ours.iter().filter(|a| a.node == *node).filter_map(|a| Some((a.number?, a))).collect();
        let there: BTreeMap<u64, &Attempt> =
            theirs.iter().filter(|a| a.node == *node).filter_map(|a| Some((a.number?, a))).collect();
        let mut taken = taken(&repo, node)?;
        taken.extend(there.keys());
        let name = |n: u64| format!("{OURS}{}/{n}", stem(node));
        let mut file = |n: u64, attempt: &Attempt, from: Option<&Attempt>| -> Result<()> {
            let id = Oid::from_str(&attempt.commit).map_err(git)?;
            match here.get(&n) {
                None => {
                    standing::clear(&repo, &name(n))?;
                    drop(repo.git.reference(&name(n), id, false, "assay attempts adopt").map_err(git)?);
                }
                Some(was) => {
                    standing::clear_log(&repo, &name(n))?;
                    let was = Oid::from_str(&was.commit).map_err(git)?;
                    let log = "assay attempts adopt";
                    drop(repo.git.reference_matching(&name(n), id, true, was, log).map_err(git)?);
                }
            }
            done.push(Adopted {
                reference: name(n),
                commit: attempt.commit.clone(),
                summary: attempt.summary.clone(),
                moved_from: from.map(|a| a.reference.clone()),
            });
            Ok(())
        };
        let is_there = |attempt: &Attempt| there.values().any(|t| t.commit == attempt.commit);
        for (n, mine) in &here {
            if there.get(n).is_some_and(|t| t.commit != mine.commit) && !is_there(mine) {
                let n = free(&taken);
                taken.insert(n);
                file(n, mine, Some(mine))?;
            }
        }
        for (n, attempt) in &there {
            let before = here.values().find(|mine| mine.commit == attempt.commit);
            if before.is_none_or(|mine| mine.number != Some(*n)) {
                file(*n, attempt, before.copied())?;
            }
        }
        // What is filed under their number now need not stand under ours as well.
        for (n, mine) in here.iter().filter(|(n, mine)| !there.contains_key(n) && is_there(mine)) {
            delete(&repo, &name(*n), &mine.commit)?;
        }
    }
    Ok(done)
}

/// Removes this repository's references to attempts: all of them, or of these nodes, but for the last `keep` of each. The
/// ledger's rows stay. `really` false only says what would go.
pub fn prune(root: &Path, nodes: Option<&[Target]>, keep: usize, really: bool) -> Result<Vec<Attempt>> {
    let repo = found(root)?;
    let mut gone: Vec<Attempt> = Vec::new();
    let mut ours = within(&repo, OURS)?;
    ours.retain(|attempt| nodes.is_none_or(|nodes| nodes.contains(&attempt.node)));
    ours.sort_by(|a, b| a.order().cmp(&b.order()));
    for of_node in ours.chunk_by(|a, b| a.node == b.node) {
        gone.extend_from_slice(&of_node[..of_node.len().saturating_sub(keep)]);
    }
    for attempt in gone.iter().filter(|_| really) {
        delete(&repo, &attempt.reference, &attempt.commit)?;
    }
    Ok(gone)
}

/// Deletes a reference that still is what it was, and its log.
fn delete(repo: &Repo, name: &str, commit: &str) -> Result<()> {
    standing::clear_log(repo, name)?;
    let mut reference = match repo.git.find_reference(name) {
        Err(e) if e.code() == ErrorCode::NotFound => return Ok(()),
        found => found.map_err(git)?,
    };
    match reference.target().is_some_and(|id| id.to_string() == commit) {
        true => reference.delete().map_err(git),
        false => Ok(()),
    }
}

fn found(root: &Path) -> Result<Repo> {
    Repo::find(root)?.ok_or_else(|| no_git(root))
}

/// The files below `kernels/` of attempt `n` at `node`, as text; `None` where there is no such attempt.
pub fn attempt_files(root: &Path, node: &Node, n: u64) -> Result<Option<Vec<(String, String)>>> {
    let Some(repo) = Repo::find(root)? else { return Ok(None) };
    let space = format!("{OURS}{}/", node.file_stem());
    let name = format!("{space}{n}");
    let Some(standing) = standing::below(&repo, &space)?.into_iter().find(|s| s.name == name) else { return Ok(None) };
    let What::Object(id) = standing.what else { return standing::clear(&repo, &name).map(|()| None) };
    let mut out = Vec::new();
    for file in repo.files(repo.commit(id)?.tree, "kernels")? {
        out.push((file.path, String::from_utf8_lossy(&repo.blob(file.id)?).into_owned()));
    }
    Ok(Some(out))
}

/// Whether an attempt at `node` is on record for this evidence; outside of git none can be.
pub fn has_attempt(root: &Path, node: &Node, evidence: &Digest) -> Result<bool> {
    if Repo::find(root)?.is_none() {
        return Ok(true);
    }
    let of_node = attempts(root, &Target::Node(node.clone()))?;
    Ok(of_node.iter().any(|attempt| attempt.evidence.as_ref() == Some(evidence)))
}

/// The highest number at `node` that is taken here, by an attempt or by what is none; 0 where there is none.
pub fn last_attempt(root: &Path, node: &Node) -> Result<u64> {
    let Some(repo) = Repo::find(root)? else { return Ok(0) };
    let taken = taken(&repo, &Target::Node(node.clone()))?;
    // One that nobody could count on from says nothing.
    Ok(taken.into_iter().filter(|n| *n < u64::MAX).max().unwrap_or(0))
}

/// Keeps the work tree's `kernels/` as the next attempt at `node`, with what its verdict said. `None` outside of git.
pub fn record_attempt(root: &Path, node: &Target, evidence: &Evidence) -> Result<Option<Attempt>> {
    record_attempt_of(root, root, node, evidence, None)
}

/// The same with the `kernels/` of another folder: the copy that was judged. `number` is what whoever made the attempt
/// calls it: it is kept under that one if it is free.
pub fn record_attempt_of(
    root: &Path,
    copy: &Path,
    node: &Target,
    evidence: &Evidence,
    number: Option<u64>,
) -> Result<Option<Attempt>> {
    let Some(repo) = Repo::find(root)? else { return Ok(None) };
    let said = evidence.statement().verdict().map_or_else(String::new, |v| match &v.outcome {
        Outcome::Red { stage, reason, .. } => format!("red in {}: {reason}", stage.name()),
        Outcome::Indeterminate { reason } => format!("indeterminate: {reason}"),
        Outcome::Pass => "pass".into(),
    });
    let digest = evidence.digest();
    let kept = Kept { node, said: &said, trailers: format!("Assay-Evidence: {digest}\n"), number };
    keep(&repo, copy, &kept, Some(digest)).map(Some)
}

/// Keeps an attempt that the judge refused in `stage` before there was anything to bind: a manifest that cannot be read
/// selects no launch, a source that cannot be read has no digest. `transcript` is the digest of the event that sent it to
/// the judge, by which it is kept once; empty where nobody wrote one.
pub fn record_refusal(
    root: &Path,
    copy: &Path,
    node: &Node,
    (stage, reason): (Stage, &str),
    transcript: &str,
    number: Option<u64>,
) -> Result<Option<Attempt>> {
    let Some(repo) = Repo::find(root)? else { return Ok(None) };
    let target = Target::Node(node.clone());
    let mut trailers = format!("Assay-Refused: {}\n", stage.name());
    if !transcript.is_empty() {
        for attempt in attempts(root, &target)?.into_iter().filter(|a| a.unbound) {
            let commit = repo.commit(Oid::from_str(&attempt.commit).map_err(git)?)?;
            if commit.trailers("Assay-Transcript").any(|digest| digest == transcript) {
                return Ok(Some(attempt));
            }
        }
        trailers += &format!("Assay-Transcript: {transcript}\n");
    }
    let said = format!("refused before a binding, red in {}: {reason}", stage.name());
    keep(&repo, copy, &Kept { node: &target, said: &said, trailers, number }, None).map(Some)
}

/// What is said of an attempt that is kept.
struct Kept<'k> {
    node: &'k Target,
    said: &'k str,
    trailers: String,
    number: Option<u64>,
}

fn keep(repo: &Repo, copy: &Path, kept: &Kept<'_>, evidence: Option<Digest>) -> Result<Attempt> {
    let node = kept.node;
    let head = repo.head()?;
    let mut update = TreeUpdateBuilder::new();
    let mut files = BTreeMap::new();
    plain_files(&copy.join("kernels"), "", &mut files)?;
    for (path, bytes) in &files {
        let blob = repo.git.blob(bytes).map_err(git)?;
        update.upsert(format!("{}kernels/{path}", repo.prefix), blob, FileMode::Blob);
    }
    if let Some(head) = &head {
        for gone in repo.files(head.tree, "kernels")?.iter().filter(|file| !files.contains_key(&file.path)) {
            update.remove(format!("{}kernels/{}", repo.prefix, gone.path));
        }
    }
    let baseline = match &head {
        Some(head) => repo.git.find_tree(head.tree).map_err(git)?,
        None => repo.git.find_tree(repo.git.treebuilder(None).and_then(|b| b.write()).map_err(git)?).map_err(git)?,
    };
    let tree = repo.git.find_tree(update.create_updated(&repo.git, &baseline).map_err(git)?).map_err(git)?;
    let parent = head.as_ref().map(|head| repo.git.find_commit(head.id)).transpose().map_err(git)?;
    let author = super::land::author(repo)?;
    let said = kept.said.lines().next().unwrap_or_default();
    let subject = match node {
        Target::Node(node) => format!("{}: attempt at {node}, {said}", node.op),
        Target::Schedule => format!("state: attempt at the whole schedule, {said}"),
    };
    let message = format!("{subject}\n\n{}Assay-Node: {node}\n", kept.trailers);
    let parents: Vec<_> = parent.iter().collect();
    let id = repo.git.commit(None, &author, &author, &message, &tree, &parents).map_err(git)?;
    standing::clear_folder(repo, &format!("{OURS}{}", stem(node)))?;
    // No number is tried twice, whatever git and this program each make of what stands there.
    let (mut passed, mut last) = (BTreeSet::new(), None);
    for _ in 0..TRIES {
        passed.extend(taken(repo, node)?);
        let n = kept.number.filter(|n| !passed.contains(n)).unwrap_or_else(|| free(&passed));
        passed.insert(n);
        let reference = format!("{OURS}{}/{n}", stem(node));
        standing::clear_log(repo, &reference)?;
        match repo.git.reference(&reference, id, false, &subject) {
            Ok(_) => {
                return Ok(Attempt {
                    reference,
                    node: node.clone(),
                    remote: None,
                    commit: id.to_string(),
                    evidence,
                    unbound: evidence.is_none(),
                    summary: subject,
                    number: Some(n),
                });
            }
            Err(e) if matches!(e.code(), ErrorCode::Exists | ErrorCode::Locked | ErrorCode::Directory) => {
                last = Some(e)
            }
            Err(e) => return Err(git(e)),
        }
    }
    let error = Error::new(&ATTEMPT_REF, format!("no number of {TRIES} is free to keep an attempt at {node} under"));
    Err(last.into_iter().fold(error, Error::because).hint("assay attempts says what stands there"))
}

/// Every plain file under `dir` with its path below it; links are not followed.
fn plain_files(dir: &Path, above: &str, out: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| Error::io(dir, e))?,
    };
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(dir, e))?;
        let path = entry.path();
        let (Ok(name), kind) = (entry.file_name().into_string(), entry.file_type().map_err(|e| Error::io(&path, e))?)
        else {
            return Err(Error::new(&super::GIT, format!("{} has a name that is not UTF-8", path.display())));
        };
        if kind.is_dir() {
            plain_files(&path, &format!("{above}{name}/"), out)?;
        } else if kind.is_file() {
            out.insert(format!("{above}{name}"), std::fs::read(&path).map_err(|e| Error::io(&path, e))?);
        }
    }
    Ok(())
}
