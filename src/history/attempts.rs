//! Red attempts: kept as commits under refs of their own, out of the way of the branch.

use std::collections::BTreeMap;
use std::path::Path;

use git2::build::TreeUpdateBuilder;
use git2::{ErrorCode, FileMode};

use super::repo::{Repo, git};
use crate::error::{Error, Result};
use crate::ledger::{Digest, Evidence, Outcome};
use crate::ops::Node;

/// One attempt that is on record.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Attempt {
    /// `refs/assay/attempts/<op>.<types>/<n>`.
    pub reference: String,
    pub commit: String,
    pub summary: String,
}

fn space(node: &Node) -> String {
    format!("refs/assay/attempts/{}/", node.file_stem())
}

/// The attempts at `node`, first to last.
pub fn attempts(root: &Path, node: &Node) -> Result<Vec<Attempt>> {
    let Some(repo) = Repo::find(root)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for reference in repo.git.references_glob(&format!("{}*", space(node))).map_err(git)? {
        let reference = reference.map_err(git)?;
        let (Ok(name), Some(id)) = (reference.name(), reference.target()) else { continue };
        let commit = repo.commit(id)?;
        let summary = commit.message.lines().next().unwrap_or_default().to_string();
        let number: u64 = name.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        found.push((number, Attempt { reference: name.into(), commit: id.to_string(), summary }));
    }
    found.sort_by_key(|(number, _)| *number);
    Ok(found.into_iter().map(|(_, attempt)| attempt).collect())
}

/// The files below `kernels/` of attempt `n` at `node`, as text; `None` where there is no such attempt.
pub fn attempt_files(root: &Path, node: &Node, n: u64) -> Result<Option<Vec<(String, String)>>> {
    let Some(repo) = Repo::find(root)? else { return Ok(None) };
    let id = match repo.git.refname_to_id(&format!("{}{n}", space(node))) {
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

/// Whether an attempt at `node` is on record for this evidence.
pub fn has_attempt(root: &Path, node: &Node, evidence: &Digest) -> Result<bool> {
    let Some(repo) = Repo::find(root)? else { return Ok(true) };
    let digest = evidence.to_string();
    for reference in repo.git.references_glob(&format!("{}*", space(node))).map_err(git)? {
        if let Some(id) = reference.map_err(git)?.target()
            && repo.commit(id)?.trailers("Assay-Evidence").any(|value| value == digest)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Keeps the work tree's `kernels/` as the next attempt at `node`, with what its verdict said. `None` outside of git.
pub fn record_attempt(root: &Path, node: &Node, evidence: &Evidence) -> Result<Option<Attempt>> {
    record_attempt_of(root, root, node, evidence)
}

/// The same with the `kernels/` of another folder: the copy that was judged.
pub fn record_attempt_of(root: &Path, copy: &Path, node: &Node, evidence: &Evidence) -> Result<Option<Attempt>> {
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
    loop {
        let last = attempts(root, node)?.last().and_then(|a| a.reference.rsplit('/').next()?.parse::<u64>().ok());
        let n = last.map_or(1, |n| n + 1);
        let summary = format!("{}: attempt {n} at {node}, {said}", node.op);
        let message = format!("{summary}\n\nAssay-Evidence: {}\nAssay-Node: {node}\n", evidence.digest());
        let parents: Vec<_> = parent.iter().collect();
        let id = repo.git.commit(None, &author, &author, &message, &tree, &parents).map_err(git)?;
        let reference = format!("{}{n}", space(node));
        match repo.git.reference(&reference, id, false, &summary) {
            Ok(_) => return Ok(Some(Attempt { reference, commit: id.to_string(), summary })),
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
