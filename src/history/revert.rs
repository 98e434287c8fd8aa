//! Taking a kernel back: `kernels/` as it was before a commit, `state/` as it is. Rows are never taken back; those on
//! the kernel that was there before say what it is worth now.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use git2::build::TreeUpdateBuilder;
use git2::{FileMode, Oid, RepositoryState};

use super::land::{author, index_entry};
use super::repo::{Commit, Entry, Repo, git};
use super::{DIRTY, OUTSIDE, REVERT, SHALLOW, extend, no_git};
use crate::error::{Error, Result};
use crate::files;
use crate::ledger::{Closures, Standing, Target, Trust};
use crate::ops::Node;
use crate::plan::Numerics;

/// What to take back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A commit's change to `kernels/`.
    Commit(String),
    /// The last commit that landed a kernel of this node.
    Node(Node),
}

/// The commit that was made.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Reverted {
    pub commit: String,
    pub reverts: String,
    pub message: String,
    /// Below the workbench.
    pub files: Vec<String>,
    /// The nodes whose kernel is another now, and what the ledger says of it.
    pub nodes: Vec<(Node, String)>,
}

pub fn revert(root: &Path, what: &What, closures: &dyn Closures, trust: &Trust) -> Result<Reverted> {
    let repo = Repo::find(root)?.ok_or_else(|| no_git(root))?;
    if repo.git.state() != RepositoryState::Clean {
        return Err(Error::new(&OUTSIDE, "a merge, rebase or the like is in progress").hint("git status"));
    }
    let ledger = extend::open(root)?;
    let author = author(&repo)?;
    let head = repo.head()?.ok_or_else(|| Error::new(&REVERT, "there is no commit yet"))?;
    let wanted = match what {
        What::Commit(revision) => repo.commit(repo.resolve(revision)?)?,
        What::Node(node) => landing(&repo, &head, node)?,
    };
    let before = parent(&repo, &wanted)?;
    let changes = changes(&repo, &before, &wanted)?;
    if changes.is_empty() {
        return Err(Error::new(&REVERT, format!("commit {} changes no kernel", wanted.short()))
            .expected("a commit that changes kernels/")
            .hint("git revert takes back what is outside kernels/ and state/"));
    }
    clean(&repo, root, &head, &changes)?;
    // From what HEAD has back to what was before, file by file: a later change of the same file is not overwritten.
    let now: BTreeMap<String, (Oid, i32)> = listed(&repo, head.tree)?;
    let mut conflicts = Vec::new();
    for (path, [_, theirs]) in &changes {
        if now.get(path) != theirs.as_ref() {
            conflicts.push(format!("kernels/{path}"));
        }
    }
    if !conflicts.is_empty() {
        let later = later(&repo, &head, &wanted, &changes)?;
        return Err(Error::new(
            &REVERT,
            format!("commit {} is not the last that changed {}", wanted.short(), conflicts.join(", ")),
        )
        .found(format!("changed again by {later}"))
        .hint(format!("assay revert {later} first, or edit the kernels, and assay land them")));
    }
    let mut update = TreeUpdateBuilder::new();
    for (path, [ours, _]) in &changes {
        let full = format!("{}kernels/{path}", repo.prefix);
        match ours {
            Some((id, mode)) => update.upsert(full, *id, mode_of(*mode)),
            None => update.remove(full),
        };
    }
    // `state/` stays HEAD's: rows that are not committed yet are for the commits that claim them.
    let baseline = repo.git.find_tree(head.tree).map_err(git)?;
    let tree = repo.git.find_tree(update.create_updated(&repo.git, &baseline).map_err(git)?).map_err(git)?;
    let nodes = worth(
        &repo,
        &tree.id(),
        &changes,
        closures,
        |target, binding| ledger.standing(target, binding, trust),
        ledger.rows().iter().filter_map(|r| r.statement().verdict()).map(|v| v.binding.arch.clone()).collect(),
    )?;
    let message = message(&wanted, &nodes);
    let parent = repo.git.find_commit(head.id).map_err(git)?;
    let commit = repo.git.commit(Some("HEAD"), &author, &author, &message, &tree, &[&parent]).map_err(git)?;
    let mut index = repo.git.index().map_err(git)?;
    for (path, [ours, _]) in &changes {
        let full = format!("{}kernels/{path}", repo.prefix);
        let file = root.join("kernels").join(path);
        match ours {
            Some((id, mode)) => {
                repo.export(&[Entry { path: path.clone(), id: *id, mode: *mode }], &root.join("kernels"))?;
                let size = repo.blob(*id)?.len();
                let mut entry = index_entry(full, *id, size);
                entry.mode = *mode as u32;
                index.add(&entry).map_err(git)?;
            }
            None => {
                std::fs::remove_file(&file).map_err(|e| Error::io(&file, e))?;
                index.remove_path(Path::new(&full)).map_err(git)?;
            }
        }
    }
    index.write().map_err(git)?;
    Ok(Reverted {
        commit: commit.to_string(),
        reverts: wanted.id.to_string(),
        message,
        files: changes.keys().map(|path| format!("kernels/{path}")).collect(),
        nodes,
    })
}

/// The file of each path before and after a commit.
type Changes = BTreeMap<String, [Option<(Oid, i32)>; 2]>;

fn listed(repo: &Repo, tree: Oid) -> Result<BTreeMap<String, (Oid, i32)>> {
    Ok(repo.files(tree, "kernels")?.into_iter().map(|f| (f.path, (f.id, f.mode))).collect())
}

fn mode_of(mode: i32) -> FileMode {
    if mode == 0o100755 { FileMode::BlobExecutable } else { FileMode::Blob }
}

/// The one parent of a commit that is to be taken back.
fn parent(repo: &Repo, commit: &Commit) -> Result<Commit> {
    match commit.parents.as_slice() {
        [only] if repo.git.is_shallow() && !repo.exists(*only)? => {
            Err(Error::new(&SHALLOW, format!("what was before commit {} is not in this shallow clone", commit.short()))
                .hint("git fetch --unshallow"))
        }
        [only] => repo.commit(*only),
        [] => Err(Error::new(&REVERT, format!("nothing was before commit {}", commit.short()))),
        [..] => Err(Error::new(&REVERT, format!("commit {} is a merge", commit.short()))
            .hint("take the commits back that it merged, one by one")),
    }
}

fn changes(repo: &Repo, before: &Commit, after: &Commit) -> Result<Changes> {
    let (before, after) = (listed(repo, before.tree)?, listed(repo, after.tree)?);
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let both = names.into_iter().map(|name| (name.clone(), [before.get(name).copied(), after.get(name).copied()]));
    Ok(both.filter(|(_, [a, b])| a != b).collect())
}

/// The last commit before `head` that landed a kernel of `node` and has not been taken back.
fn landing(repo: &Repo, head: &Commit, node: &Node) -> Result<Commit> {
    let (mut at, mut gone) = (repo.commit(head.id)?, BTreeSet::new());
    loop {
        gone.extend(at.trailers("Assay-Reverts").map(String::from).collect::<Vec<_>>());
        let lands = at.trailers("Assay-Evidence").next().is_some()
            && at.trailers("Assay-Node").any(|n| n.parse::<Node>().is_ok_and(|n| n == *node));
        if lands && !gone.contains(&at.id.to_string()) && at.parents.len() == 1 {
            let before = parent(repo, &at)?;
            if !changes(repo, &before, &at)?.is_empty() {
                return Ok(at);
            }
        }
        let Some(next) = at.parents.first().copied() else {
            return Err(Error::new(&REVERT, format!("no commit landed a kernel of {node}"))
                .expected("a commit with the trailer Assay-Node, as assay land makes it")
                .hint("assay history; name a commit instead"));
        };
        if repo.git.is_shallow() && !repo.exists(next)? {
            return Err(Error::new(&SHALLOW, format!("no commit of this shallow clone landed a kernel of {node}"))
                .hint("git fetch --unshallow"));
        }
        at = repo.commit(next)?;
    }
}

/// Refuses to overwrite work: what is to change must be in index and work tree as HEAD has it, and nothing else staged.
fn clean(repo: &Repo, root: &Path, head: &Commit, changes: &Changes) -> Result<()> {
    let tree = repo.git.find_tree(head.tree).map_err(git)?;
    let index = repo.git.index().map_err(git)?;
    let diff = repo.git.diff_tree_to_index(Some(&tree), Some(&index), None).map_err(git)?;
    let state = format!("{}state/", repo.prefix);
    let staged =
        diff.deltas().flat_map(|d| [d.old_file().path(), d.new_file().path()].map(|p| p.map(Path::to_path_buf)));
    let staged: BTreeSet<PathBuf> = staged.flatten().filter(|path| !path.starts_with(&state)).collect();
    if !staged.is_empty() {
        let names: Vec<_> = staged.iter().map(|p| p.display().to_string()).collect();
        return Err(Error::new(&DIRTY, "something is staged")
            .found(names.join(", "))
            .hint("git stash -- kernels, or commit it"));
    }
    let now = listed(repo, head.tree)?;
    let mut edited = Vec::new();
    for path in changes.keys() {
        let file = root.join("kernels").join(path);
        let there = now.get(path).map(|(id, _)| repo.blob(*id)).transpose()?;
        let here = match std::fs::symlink_metadata(&file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            // One that a pipe or a device took the place of is not read to see that it changed.
            Ok(about) if about.is_file() && there.as_ref().is_some_and(|there| there.len() as u64 == about.len()) => {
                Some(files::read(&file, about.len())?)
            }
            Ok(_) => {
                edited.push(format!("kernels/{path}"));
                continue;
            }
            Err(e) => return Err(Error::io(&file, e)),
        };
        if here != there {
            edited.push(format!("kernels/{path}"));
        }
    }
    match edited.is_empty() {
        true => Ok(()),
        false => Err(Error::new(&DIRTY, "the work tree has edits that would be lost")
            .found(edited.join(", "))
            .hint("git diff kernels/ shows them; git stash -- kernels, or commit them")),
    }
}

/// The last commit that changed one of these files after `wanted`.
fn later(repo: &Repo, head: &Commit, wanted: &Commit, changed: &Changes) -> Result<String> {
    let mut at = repo.commit(head.id)?;
    while at.id != wanted.id {
        let Some(next) = at.parents.first().copied().filter(|p| repo.exists(*p).unwrap_or(false)) else { break };
        let before = repo.commit(next)?;
        if changes(repo, &before, &at)?.keys().any(|path| changed.contains_key(path)) {
            return Ok(at.short());
        }
        at = before;
    }
    Ok("a commit that is not on this line".into())
}

/// What the ledger says of the nodes that a tree changes.
fn worth<'l>(
    repo: &Repo,
    tree: &Oid,
    changes: &Changes,
    closures: &dyn Closures,
    standing: impl Fn(&Target, &crate::ledger::Binding) -> Standing<'l>,
    archs: BTreeSet<String>,
) -> Result<Vec<(Node, String)>> {
    let scratch = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
    repo.export(&repo.files(*tree, "kernels")?, scratch.path())?;
    let source = closures.of(scratch.path())?;
    let paths: Vec<PathBuf> = changes.keys().map(PathBuf::from).collect();
    let mut out = Vec::new();
    for node in source.touched(&paths) {
        let target = Target::Node(node.clone());
        let mut said = Vec::new();
        for arch in &archs {
            let binding = source.binding(&node, arch, Numerics::Ds4)?;
            match standing(&target, &binding) {
                Standing::Green(row) => said.push(format!("green on {arch} by row {}", row.seq)),
                Standing::Simulated(row) => said.push(format!("simulated green on {arch} by row {}", row.seq)),
                Standing::Emulated(row) => said.push(format!("passes on the emulator by row {}", row.seq)),
                Standing::Red(row) => said.push(format!("red on {arch} by row {}", row.seq)),
                Standing::Untrusted(row, _) => {
                    said.push(format!("proved on {arch} by row {}, whose key is not trusted", row.seq))
                }
                Standing::Void(row, why) => said.push(format!("proved on {arch} by row {}, but {why}", row.seq)),
                Standing::Stale(..) | Standing::OtherWeights(_) | Standing::Unproved => {}
            }
        }
        let said = if said.is_empty() { "no row is about this kernel of it".into() } else { said.join("; ") };
        out.push((node, said));
    }
    Ok(out)
}

fn message(wanted: &Commit, nodes: &[(Node, String)]) -> String {
    let ops: BTreeSet<&str> = nodes.iter().map(|(node, _)| node.op.as_str()).collect();
    let ops = if ops.is_empty() { "kernels".to_string() } else { ops.into_iter().collect::<Vec<_>>().join(", ") };
    let subject = wanted.message.lines().next().unwrap_or_default();
    let mut text = format!(
        "{ops}: revert \"{subject}\"\n\nThe kernels are as they were before {}; every row is kept.\n",
        wanted.short()
    );
    for (node, said) in nodes {
        text.push_str(&format!("{node}: {said}\n"));
    }
    text.push_str(&format!("\nAssay-Reverts: {}\n", wanted.id));
    text
}
