//! Green commits: one commit of `kernels/` and `state/`, made only when every node that it touches is proved as staged.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use git2::build::TreeUpdateBuilder;
use git2::{FileMode, IndexEntry, IndexTime, Oid, RepositoryState, Signature};

use super::extend;
use super::repo::{Commit, Entry, Repo, git, plain};
use super::{AUTHOR, NO_GIT, NOTHING, OUTSIDE, UNPROVED};
use crate::error::{Error, Result};
use crate::ledger::{ClosureSource, Closures, Digest, Ledger, Row, Standing, Target, Trust, Verdict, figure};
use crate::ops::Node;
use crate::plan::Numerics;

/// What to land.
pub struct Request<'a> {
    pub nodes: &'a [Node],
    /// What the subject says after `<op>: `.
    pub what: Option<&'a str>,
    pub numerics: Numerics,
    /// Only evidence of this architecture; any that is proved otherwise.
    pub arch: Option<&'a str>,
}

/// What was landed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Landed {
    pub commit: String,
    pub message: String,
    /// Node and row.
    pub nodes: Vec<(Node, u64)>,
    /// Some row counted only because a trust file lists class simulated.
    pub simulated: bool,
}

/// What is staged under `kernels/`, and how it differs from HEAD.
struct Staged {
    files: Vec<Entry>,
    /// Relative to `kernels/`.
    changed: Vec<PathBuf>,
}

/// Lands the nodes of `request` and every other that the staged change touches.
pub fn land(root: &Path, request: &Request<'_>, closures: &dyn Closures, trust: &Trust) -> Result<Landed> {
    let repo = Repo::find(root)?
        .ok_or_else(|| Error::new(&NO_GIT, format!("{} is in no git repository", root.display())).hint("git init"))?;
    if repo.git.state() != RepositoryState::Clean {
        return Err(Error::new(&OUTSIDE, "a merge, rebase or the like is in progress").hint("git status"));
    }
    let ledger = extend::open(root)?;
    let head = repo.head()?;
    let staged = stage(&repo, head.as_ref())?;
    let scratch = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
    let now = opened(&repo, &staged.files, &scratch.path().join("staged"), closures)?;
    let mut nodes: BTreeSet<Node> = request.nodes.iter().cloned().collect();
    if !staged.changed.is_empty() {
        let before = head.as_ref().map_or(Ok(Vec::new()), |head| repo.files(head.tree, "kernels"))?;
        let before = opened(&repo, &before, &scratch.path().join("head"), closures)?;
        nodes.extend(now.touched(&staged.changed));
        nodes.extend(before.touched(&staged.changed));
    }
    let proofs = prove(&ledger, &*now, nodes, request, trust)?;
    let message = message(&ledger, &proofs, request.what);
    let commit = commit(&repo, head.as_ref(), &staged, &ledger, &message)?;
    let simulated = proofs.iter().any(|p| p.simulated);
    let nodes = proofs.into_iter().map(|p| (p.node, p.row.seq)).collect();
    Ok(Landed { commit: commit.to_string(), message, nodes, simulated })
}

fn opened<'c>(
    repo: &Repo,
    files: &[Entry],
    dir: &Path,
    closures: &'c dyn Closures,
) -> Result<Box<dyn ClosureSource + 'c>> {
    repo.export(files, dir)?;
    closures.of(dir)
}

/// Reads the index. Anything staged outside `kernels/` and `state/` is refused by name.
fn stage(repo: &Repo, head: Option<&Commit>) -> Result<Staged> {
    let index = repo.git.index().map_err(git)?;
    let tree = head.map(|head| repo.git.find_tree(head.tree)).transpose().map_err(git)?;
    let diff = repo.git.diff_tree_to_index(tree.as_ref(), Some(&index), None).map_err(git)?;
    let (kernels, state) = (format!("{}kernels/", repo.prefix), format!("{}state/", repo.prefix));
    let (mut changed, mut outside) = (BTreeSet::new(), BTreeSet::new());
    for delta in diff.deltas() {
        for path in [delta.old_file().path(), delta.new_file().path()].into_iter().flatten() {
            match path.strip_prefix(&kernels) {
                Ok(inside) => drop(changed.insert(inside.to_path_buf())),
                Err(_) if path.starts_with(&state) => {}
                Err(_) => drop(outside.insert(path.display().to_string())),
            }
        }
    }
    if !outside.is_empty() {
        let names: Vec<_> = outside.into_iter().collect();
        return Err(Error::new(&OUTSIDE, "a green commit changes kernels/ and state/ alone, and more is staged")
            .found(names.join(", "))
            .hint(format!("git restore --staged {}", names.join(" "))));
    }
    let mut files = Vec::new();
    for entry in index.iter() {
        let path =
            std::str::from_utf8(&entry.path).map_err(|_| Error::new(&super::GIT, "a staged name is not UTF-8"))?;
        let Some(inside) = path.strip_prefix(&kernels) else { continue };
        if entry.flags >> 12 & 3 != 0 {
            return Err(Error::new(&OUTSIDE, format!("{path} is in conflict")).hint("resolve it and git add it"));
        }
        plain(path, entry.mode as i32)?;
        files.push(Entry { path: inside.into(), id: entry.id, mode: entry.mode as i32 });
    }
    Ok(Staged { files, changed: changed.into_iter().collect() })
}

/// A node and the row that proves it as staged.
struct Proof<'l> {
    node: Node,
    row: &'l Row,
    verdict: &'l Verdict,
    simulated: bool,
}

/// Finds a proof of every node, or names those that have none and says why.
fn prove<'l>(
    ledger: &'l Ledger,
    staged: &dyn ClosureSource,
    nodes: BTreeSet<Node>,
    request: &Request<'_>,
    trust: &Trust,
) -> Result<Vec<Proof<'l>>> {
    if nodes.is_empty() {
        return Err(Error::new(&NOTHING, "no node is named and no node's kernel is staged").hint("git add kernels/…"));
    }
    let with_kernel = staged.nodes();
    let (mut proofs, mut missing) = (Vec::new(), Vec::new());
    for node in nodes {
        if !with_kernel.contains(&node) {
            missing.push(format!("{node}: no kernel of it is staged"));
            continue;
        }
        let target = Target::Node(node.clone());
        let mut archs = BTreeSet::new();
        for verdict in ledger.verdicts(&target).filter_map(|row| row.statement().verdict()) {
            let arch = verdict.binding.arch.as_str();
            if arch != "emulator" && request.arch.is_none_or(|only| only == arch) {
                archs.insert(arch);
            }
        }
        let mut why = Vec::new();
        let mut best: Option<(&Row, bool)> = None;
        for arch in archs {
            let binding = staged.binding(&node, arch, request.numerics)?;
            let proof = match ledger.standing(&target, &binding, trust) {
                Standing::Green(row) => Some((row, false)),
                Standing::Simulated(row) => Some((row, true)),
                other => {
                    why.push(format!("{arch}: {}", reason(&other)));
                    None
                }
            };
            best = best.into_iter().chain(proof).max_by_key(|(row, _)| row.seq);
        }
        match best.and_then(|(row, simulated)| Some((row, simulated, row.statement().verdict()?))) {
            Some((row, simulated, verdict)) => proofs.push(Proof { node, row, verdict, simulated }),
            None if why.is_empty() => missing.push(format!("{node}: never judged on a device")),
            None => missing.push(format!("{node}: {}", why.join("; "))),
        }
    }
    if missing.is_empty() {
        return Ok(proofs);
    }
    Err(Error::new(
        &UNPROVED,
        format!("the staged tree touches nodes that are not proved as they are staged:\n  {}", missing.join("\n  ")),
    )
    .expected(format!(
        "a trusted row through stage 7 in numerics {} with the staged tree's digests",
        request.numerics.name()
    ))
    .hint("assay verify NODE --record, or assay import evidence made on a device; unstaged kernels are not looked at"))
}

fn reason(standing: &Standing<'_>) -> String {
    match standing {
        Standing::Red(row) => format!("red in row {}", row.seq),
        Standing::Untrusted(row, key) => {
            format!("proved in row {} by key {}, which is not trusted here", row.seq, key.short())
        }
        Standing::Stale(row, fields) => format!("proved in row {}, but since changed: {}", row.seq, fields.join(", ")),
        Standing::OtherWeights(row) => format!("proved in row {} for another file", row.seq),
        _ => "not proved".into(),
    }
}

/// `<op>: <what>`, a line of figures per node, and the trailers.
fn message(ledger: &Ledger, proofs: &[Proof<'_>], what: Option<&str>) -> String {
    let ops: BTreeSet<&str> = proofs.iter().map(|p| p.node.op.as_str()).collect();
    let names: Vec<String> = proofs.iter().map(|p| p.node.to_string()).collect();
    let archs: BTreeSet<&str> = proofs.iter().map(|p| p.verdict.binding.arch.as_str()).collect();
    let join = |set: BTreeSet<&str>| set.into_iter().collect::<Vec<_>>().join(", ");
    let simulated = if proofs.iter().any(|p| p.simulated) { "simulated, " } else { "" };
    let what = what.map_or_else(|| format!("{} {simulated}green on {}", names.join(", "), join(archs)), String::from);
    let mut text = format!("{}: {what}\n\n", join(ops));
    for proof in proofs {
        text.push_str(&format!("{}: {}\n", proof.node, figures(ledger, proof)));
    }
    text.push('\n');
    for proof in proofs {
        text.push_str(&format!("Assay-Evidence: {}\n", proof.row.evidence.digest()));
    }
    for proof in proofs {
        text.push_str(&format!("Assay-Node: {}\n", proof.node));
    }
    text
}

fn figures(ledger: &Ledger, proof: &Proof<'_>) -> String {
    let (verdict, binding) = (proof.verdict, &proof.verdict.binding);
    let mut parts = Vec::new();
    match (verdict.worst(figure::REL_RMS), verdict.worst(figure::MAX_ABS)) {
        (Some(rms), Some(max)) => parts.push(format!("worst error {rms:.2e} relative RMS, {max:.2e} absolute")),
        (Some(rms), None) => parts.push(format!("worst error {rms:.2e} relative RMS")),
        _ => parts.push("no error figure".into()),
    }
    if let Some(after) = verdict.worst(figure::TIME_US) {
        let target = Target::Node(proof.node.clone());
        let earlier = ledger.proved(&target, &binding.arch, binding.numerics).find_map(|row| {
            let old = row.statement().verdict()?;
            let comparable = row.seq < proof.row.seq
                && old.class == verdict.class
                && old.binding.closure != binding.closure
                && old.binding.weights == binding.weights
                && old.informative.device == verdict.informative.device;
            old.worst(figure::TIME_US).filter(|_| comparable)
        });
        parts.push(match earlier {
            Some(before) => format!("{before:.1} → {after:.1} µs"),
            None => format!("{after:.1} µs"),
        });
    }
    let class = if proof.simulated { "simulated " } else { "" };
    parts.push(format!("{class}{} ({})", verdict.informative.device, binding.arch));
    parts.join("; ")
}

fn commit(repo: &Repo, head: Option<&Commit>, staged: &Staged, ledger: &Ledger, message: &str) -> Result<Oid> {
    let mut update = TreeUpdateBuilder::new();
    for path in &staged.changed {
        let full = format!("{}kernels/{}", repo.prefix, path.display());
        match staged.files.iter().find(|file| Path::new(&file.path) == path) {
            Some(file) => {
                let mode = if file.mode == 0o100755 { FileMode::BlobExecutable } else { FileMode::Blob };
                update.upsert(full, file.id, mode)
            }
            None => update.remove(full),
        };
    }
    let mut state = Vec::new();
    for (name, bytes) in ledger.files()? {
        let path = format!("{}state/{name}", repo.prefix);
        let blob = repo.git.blob(&bytes).map_err(git)?;
        update.upsert(path.as_str(), blob, FileMode::Blob);
        state.push((path, blob, bytes.len()));
    }
    let baseline = match head {
        Some(head) => head.tree,
        None => repo.git.treebuilder(None).and_then(|empty| empty.write()).map_err(git)?,
    };
    let baseline = repo.git.find_tree(baseline).map_err(git)?;
    let tree = update.create_updated(&repo.git, &baseline).map_err(git)?;
    if tree == baseline.id() {
        return Err(Error::new(&NOTHING, "neither kernels/ as staged nor state/ differ from HEAD").hint("git log -1"));
    }
    let tree = repo.git.find_tree(tree).map_err(git)?;
    let parent = head.map(|head| repo.git.find_commit(head.id)).transpose().map_err(git)?;
    let author = author(repo)?;
    let parents: Vec<_> = parent.iter().collect();
    let commit = repo.git.commit(Some("HEAD"), &author, &author, message, &tree, &parents).map_err(git)?;
    let mut index = repo.git.index().map_err(git)?;
    for (path, id, size) in state {
        index.add(&index_entry(path, id, size)).map_err(git)?;
    }
    index.write().map_err(git)?;
    Ok(commit)
}

/// An index entry without the file's times: git looks at the file once and then knows them.
fn index_entry(path: String, id: Oid, size: usize) -> IndexEntry {
    let (ctime, mtime) = (IndexTime::new(0, 0), IndexTime::new(0, 0));
    IndexEntry {
        ctime,
        mtime,
        dev: 0,
        ino: 0,
        mode: 0o100644,
        uid: 0,
        gid: 0,
        file_size: size as u32,
        id,
        flags: 0,
        flags_extended: 0,
        path: path.into_bytes(),
    }
}

pub(super) fn author(repo: &Repo) -> Result<Signature<'static>> {
    repo.git.signature().map_err(|e| {
        Error::new(&AUTHOR, "git does not know who you are")
            .because(e)
            .hint("git config user.name NAME; git config user.email MAIL")
    })
}

/// The commits reachable from HEAD that landed evidence: evidence digest and commit, newest first.
pub fn landed(root: &Path) -> Result<Vec<(Digest, String)>> {
    let Some(repo) = Repo::find(root)? else { return Ok(Vec::new()) };
    let Some(head) = repo.head()? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for commit in repo.ancestry(head.id)?.0 {
        let digests = commit.trailers("Assay-Evidence").filter_map(|text| text.parse().ok());
        found.extend(digests.map(|digest| (digest, commit.id.to_string())));
    }
    Ok(found)
}
