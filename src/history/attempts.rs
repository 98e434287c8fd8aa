//! Red attempts: kept as commits under refs of their own, out of the way of the branch. docs/ledger.md §8.
//!
//! `refs/assay/attempts/<op>.<types>/<n>` are this repository's; a number says nothing but that it is free here. Another
//! repository's are fetched to `refs/assay/remotes/<remote>/<op>.<types>/<n>`, where its numbers cannot meet ours, and
//! [`adopt`] files them among ours.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use git2::build::TreeUpdateBuilder;
use git2::{ErrorCode, FileMode, Oid};

use super::no_git;
use super::repo::{Repo, git};
use crate::error::{Error, Result};
use crate::ledger::{Digest, Evidence, Outcome, Target};
use crate::ops::Node;

const OURS: &str = "refs/assay/attempts/";
const THEIRS: &str = "refs/assay/remotes/";
/// What attempts at a whole schedule are filed under; no op is called so.
const SCHEDULE: &str = "schedule";

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
    for reference in repo.git.references_glob(&format!("{space}*")).map_err(git)? {
        let reference = reference.map_err(git)?;
        let (Ok(name), Some(id)) = (reference.name(), reference.target()) else { continue };
        let Some((path, last)) = name.strip_prefix(space).unwrap_or_default().rsplit_once('/') else { continue };
        // A remote's name may have slashes, a node's has none.
        let (remote, stem) = match path.rsplit_once('/') {
            Some((remote, stem)) if space == THEIRS => (Some(remote.to_string()), stem),
            None if space == OURS => (None, path),
            _ => continue,
        };
        let Some(node) = target(stem) else { continue };
        // Whoever can push here can push what is no commit; it is said, and stops nothing.
        let (summary, evidence) = match repo.commit(id) {
            Ok(commit) => {
                let evidence = commit.trailers("Assay-Evidence").find_map(|digest| digest.parse().ok());
                (commit.message.lines().next().unwrap_or_default().to_string(), evidence)
            }
            Err(_) => ("no commit".into(), None),
        };
        let number = last.parse().ok().filter(|n: &u64| n.to_string() == last);
        found.push(Attempt { reference: name.into(), node, remote, commit: id.to_string(), evidence, summary, number });
    }
    Ok(found)
}

/// A number that is not among `taken`: the next one, as long as numbers are such as are counted with.
fn free(taken: &BTreeSet<u64>) -> u64 {
    let next = taken.last().map_or(Some(1), |n| n.checked_add(1));
    next.unwrap_or_else(|| (1..).find(|n| !taken.contains(n)).unwrap_or(0))
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
        let mut taken: BTreeSet<u64> = here.keys().chain(there.keys()).copied().collect();
        let name = |n: u64| format!("{OURS}{}/{n}", stem(node));
        let mut file = |n: u64, attempt: &Attempt, from: Option<&Attempt>| -> Result<()> {
            let id = Oid::from_str(&attempt.commit).map_err(git)?;
            match here.get(&n) {
                None => drop(repo.git.reference(&name(n), id, false, "assay attempts adopt").map_err(git)?),
                Some(was) => {
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

/// Deletes a reference that still is what it was.
fn delete(repo: &Repo, name: &str, commit: &str) -> Result<()> {
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
    let id = match repo.git.refname_to_id(&format!("{OURS}{}/{n}", node.file_stem())) {
        Ok(id) => id,
        Err(e) if e.code() == ErrorCode::NotFound => return Ok(None),
        Err(e) => return Err(git(e)),
    };
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

/// Keeps the work tree's `kernels/` as the next attempt at `node`, with what its verdict said. `None` outside of git.
pub fn record_attempt(root: &Path, node: &Target, evidence: &Evidence) -> Result<Option<Attempt>> {
    record_attempt_of(root, root, node, evidence)
}

/// The same with the `kernels/` of another folder: the copy that was judged.
pub fn record_attempt_of(root: &Path, copy: &Path, node: &Target, evidence: &Evidence) -> Result<Option<Attempt>> {
    let Some(repo) = Repo::find(root)? else { return Ok(None) };
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
    let author = super::land::author(&repo)?;
    let said = evidence.statement().verdict().map_or_else(String::new, |v| match &v.outcome {
        Outcome::Red { stage, reason, .. } => format!("red in {}: {reason}", stage.name()),
        Outcome::Indeterminate { reason } => format!("indeterminate: {reason}"),
        Outcome::Pass => "pass".into(),
    });
    let said = said.lines().next().unwrap_or_default().to_string();
    let subject = match node {
        Target::Node(node) => format!("{}: attempt at {node}, {said}", node.op),
        Target::Schedule => format!("state: attempt at the whole schedule, {said}"),
    };
    let message = format!("{subject}\n\nAssay-Evidence: {}\nAssay-Node: {node}\n", evidence.digest());
    let parents: Vec<_> = parent.iter().collect();
    let id = repo.git.commit(None, &author, &author, &message, &tree, &parents).map_err(git)?;
    loop {
        let here = within(&repo, OURS)?;
        let n = free(&here.iter().filter(|a| a.node == *node).filter_map(|a| a.number).collect());
        let reference = format!("{OURS}{}/{n}", stem(node));
        match repo.git.reference(&reference, id, false, &subject) {
            Ok(_) => {
                return Ok(Some(Attempt {
                    reference,
                    node: node.clone(),
                    remote: None,
                    commit: id.to_string(),
                    evidence: Some(evidence.digest()),
                    summary: subject,
                    number: Some(n),
                }));
            }
            Err(e) if e.code() == ErrorCode::Exists => continue,
            Err(e) => return Err(git(e)),
        }
    }
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
