//! Green commits: `kernels/` and `state/`, made only when every node that they touch is proved as staged. A node whose
//! kernel is as it was, but whose proof had become stale, lands by its new evidence: a commit of `state/` alone. So does
//! the whole schedule, `*`, which has no kernel.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use git2::build::TreeUpdateBuilder;
use git2::{FileMode, IndexEntry, IndexTime, Oid, RepositoryState, Signature};

use super::message::message;
use super::repo::{Commit, Entry, Repo, git, no_folder, plain};
use super::{AUTHOR, NOTHING, OUTSIDE, UNCLAIMED, UNPROVED, extend, no_git};
use crate::backend::worker::Level;
use crate::error::{Error, Result};
use crate::ledger::{
    Binding, ClosureSource, Closures, Digest, Ledger, Row, SecretKey, Standing, Target, Trust, Verdict,
};
use crate::plan::Numerics;
use crate::workbench::{Settings, Workbench};

/// What to land.
pub struct Request<'a> {
    pub nodes: &'a [Target],
    /// What the subject says after `<op>: `.
    pub what: Option<&'a str>,
    pub numerics: Numerics,
    /// Only evidence of this architecture; any that is proved otherwise.
    pub arch: Option<&'a str>,
    /// The key for the checkpoint of a commit that leaves rows to the next one; asked for only then.
    pub writer: &'a dyn Fn() -> Result<SecretKey>,
}

/// One commit that was made.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Landed {
    pub commit: String,
    pub message: String,
    /// Node, or `*`, and row.
    pub nodes: Vec<(Target, u64)>,
    /// Some row counted only because a trust file lists class simulated.
    pub simulated: bool,
}

/// What is staged under `kernels/`, and how it differs from HEAD.
struct Staged {
    files: Vec<Entry>,
    /// Relative to `kernels/`.
    changed: Vec<PathBuf>,
}

/// Lands the nodes of `request` and every other that the staged change touches, in one commit. Where no kernel is staged
/// each node gets a commit of its own, in the order of their rows.
pub fn land(root: &Path, request: &Request<'_>, closures: &dyn Closures, trust: &Trust) -> Result<Vec<Landed>> {
    let repo = Repo::find(root)?.ok_or_else(|| no_git(root).hint("git init"))?;
    if repo.git.state() != RepositoryState::Clean {
        return Err(Error::new(&OUTSIDE, "a merge, rebase or the like is in progress").hint("git status"));
    }
    let ledger = extend::open(root)?;
    let head = repo.head()?;
    if let Some(stash) = extend::stashed(&repo, &ledger)? {
        return Err(stash.error());
    }
    // What is built on a commit that took rows back is refused with it.
    if let Some(head) = &head {
        extend::over_parent(&repo, head)?;
    }
    let held = extend::rows_in(&repo, head.as_ref())?;
    // What is asked of a proof is what is committed, too: no edit that nobody has seen takes that back.
    let trust = &trust.asking(committed_policy(&repo, head.as_ref())?);
    let staged = stage(&repo, head.as_ref())?;
    let scratch = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
    let now = opened(&repo, &staged.files, &scratch.path().join("staged"), closures)?;
    let mut touched: BTreeSet<Target> = BTreeSet::new();
    if !staged.changed.is_empty() {
        let before = head.as_ref().map_or(Ok(Vec::new()), |head| repo.files(head.tree, "kernels"))?;
        let before = opened(&repo, &before, &scratch.path().join("head"), closures)?;
        touched.extend(now.touched(&staged.changed).into_iter().map(Target::Node));
        touched.extend(before.touched(&staged.changed).into_iter().map(Target::Node));
    }
    let bench = Bench { ledger: &ledger, held, now: &*now, request, trust };
    let pending = bench.pending()?;
    let proofs = bench.prove(&touched, &pending)?;
    let groups = match staged.changed.is_empty() {
        true => one_by_one(proofs),
        false => vec![proofs],
    };
    let ends = ends(&groups, &pending, &ledger)?;
    let partial = ends.iter().any(|rows| *rows < ledger.rows().len());
    let writer = partial.then(request.writer).transpose()?;
    let states = ends.iter().map(|rows| match &writer {
        Some(writer) if *rows < ledger.rows().len() => ledger.files_of(*rows, writer),
        _ => ledger.files(),
    });
    // Nothing is committed before everything is known to be in order.
    let states = states.collect::<Result<Vec<_>>>()?;
    let author = author(&repo)?;
    let mut landed = Vec::new();
    for (proofs, state) in groups.into_iter().zip(states) {
        let message = message(&ledger, &proofs, request.what);
        let commit = commit(&repo, &staged, state, &author, &message)?;
        let simulated = proofs.iter().any(|p| p.simulated);
        let nodes = proofs.into_iter().map(|p| (p.node, p.row.seq)).collect();
        landed.push(Landed { commit: commit.to_string(), message, nodes, simulated });
    }
    Ok(landed)
}

/// The confinement that HEAD's `assay.toml` asks for.
fn committed_policy(repo: &Repo, head: Option<&Commit>) -> Result<Level> {
    let blob = head.map(|head| repo.file(head.tree, Workbench::FILE)).transpose()?.flatten();
    let Some(blob) = blob else { return Ok(Level::None) };
    let text = String::from_utf8_lossy(&repo.blob(blob)?).into_owned();
    Ok(Settings::read(&text, "assay.toml in HEAD")?.sandbox.unwrap_or(Level::None))
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
        let words: Vec<_> = names.iter().map(|name| crate::words::shell(name)).collect();
        return Err(Error::new(&OUTSIDE, "a green commit changes kernels/ and state/ alone, and more is staged")
            .found(names.join(", "))
            .hint(format!("git restore --staged {}", words.join(" "))));
    }
    let mut files = Vec::new();
    for entry in index.iter() {
        let path =
            std::str::from_utf8(&entry.path).map_err(|_| Error::new(&super::GIT, "a staged name is not UTF-8"))?;
        if path == kernels.trim_end_matches('/') {
            return Err(no_folder(path, entry.mode as i32));
        }
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
pub(super) struct Proof<'l> {
    pub node: Target,
    pub row: &'l Row,
    /// The row from which on it holds: a whole schedule's only from its last node's on.
    pub from: u64,
    pub verdict: &'l Verdict,
    pub simulated: bool,
    /// What HEAD's ledger says of it as it is staged.
    pub before: Standing<'l>,
    /// A file of its closure is staged.
    pub staged: bool,
}

/// What is looked at to find proofs.
struct Bench<'l, 'r> {
    ledger: &'l Ledger,
    /// Rows in HEAD's ledger.
    held: usize,
    now: &'r dyn ClosureSource,
    request: &'r Request<'r>,
    trust: &'r Trust,
}

impl<'l> Bench<'l, '_> {
    /// The rows that HEAD's ledger lacks and that prove a node anew as it is staged.
    fn pending(&self) -> Result<Vec<(u64, Target)>> {
        let (with_kernel, mut found) = (self.now.nodes(), Vec::new());
        for row in &self.ledger.rows()[self.held..] {
            let Some(verdict) = row.statement().verdict() else { continue };
            let (target, arch) = (&verdict.node, verdict.binding.arch.as_str());
            let known = match target {
                Target::Node(node) => with_kernel.contains(node),
                Target::Schedule => true,
            };
            if arch == "emulator" || verdict.binding.numerics != self.request.numerics || !known {
                continue;
            }
            let Some(binding) = self.binding(target, arch)? else { continue };
            let proof = green(&self.ledger.standing(target, &binding, self.trust));
            let before = green(&self.ledger.standing_in(self.held, target, &binding, self.trust));
            if before.is_none() && proof.is_some_and(|(proof, _)| proof.seq == row.seq) {
                found.push((row.seq, target.clone()));
            }
        }
        Ok(found)
    }

    /// Proofs of every node to land in the order of their rows, or the names of those that have none and why.
    fn prove(&self, touched: &BTreeSet<Target>, pending: &[(u64, Target)]) -> Result<Vec<Proof<'l>>> {
        let mut nodes: BTreeSet<Target> = self.request.nodes.iter().cloned().collect();
        nodes.extend(touched.iter().cloned());
        if nodes.is_empty() {
            let new: BTreeSet<&Target> = pending.iter().map(|(_, node)| node).collect();
            return Err(Error::new(&NOTHING, "nothing to land: no node is named and no node's kernel is staged").hint(
                match new.is_empty() {
                    true => "git add kernels/…; assay status says what is stale".into(),
                    false => command(new),
                },
            ));
        }
        let with_kernel = self.now.nodes();
        let (mut proofs, mut missing, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for node in nodes {
            if let Target::Node(node) = &node
                && !with_kernel.contains(node)
            {
                missing.push(format!("{node}: no kernel of it is staged"));
                continue;
            }
            match self.proof(&node, touched.contains(&node))? {
                Ok(proof) => match green(&proof.before) {
                    Some((row, _)) if !proof.staged => held.push((proof.node, row.seq)),
                    _ => proofs.push(proof),
                },
                Err(why) => missing.push(format!("{node}: {why}")),
            }
        }
        if !missing.is_empty() {
            return Err(Error::new(
                &UNPROVED,
                format!("there are nodes to land that are not proved as they are staged:\n  {}", missing.join("\n  ")),
            )
            .expected(format!(
                "a trusted row through stage 7 in numerics {} with the staged tree's digests",
                self.request.numerics.name()
            ))
            .hint(
                "assay verify NODE --record, or assay import evidence made on a device; unstaged kernels are not looked at",
            ));
        }
        if !held.is_empty() {
            let names: Vec<_> = held.iter().map(|(node, row)| format!("{node} (row {row})")).collect();
            return Err(Error::new(
                &NOTHING,
                format!("nothing to land for {}: proved in HEAD's ledger as staged", names.join(", ")),
            )
            .expected("a staged kernel, or new evidence for a node that is stale")
            .hint(match proofs.is_empty() {
                true => "assay status says what is stale".into(),
                false => command(proofs.iter().map(|p| &p.node)),
            }));
        }
        proofs.sort_by_key(|proof| proof.row.seq);
        Ok(proofs)
    }

    /// The newest proof of `node` over all architectures that may be landed, or why there is none.
    fn proof(&self, target: &Target, staged: bool) -> Result<Result<Proof<'l>, String>> {
        let mut archs = BTreeSet::new();
        for verdict in self.ledger.verdicts(target).filter_map(|row| row.statement().verdict()) {
            let arch = verdict.binding.arch.as_str();
            if arch != "emulator" && self.request.arch.is_none_or(|only| only == arch) {
                archs.insert(arch);
            }
        }
        let (mut best, mut why): (Option<Proof<'l>>, Vec<String>) = Default::default();
        for arch in archs {
            let Some(binding) = self.binding(target, arch)? else {
                why.push(format!("{arch}: some node has no kernel staged"));
                continue;
            };
            let standing = self.ledger.standing(target, &binding, self.trust);
            let Some((row, verdict)) = green(&standing) else {
                why.push(format!("{arch}: {}", reason(&standing)));
                continue;
            };
            let mut from = row.seq;
            if *target == Target::Schedule {
                match self.last_part(verdict)? {
                    Ok(last) => from = from.max(last),
                    Err(part) => {
                        why.push(format!("{arch}: the schedule is proved in row {}, but {part}", row.seq));
                        continue;
                    }
                }
            }
            if best.as_ref().is_none_or(|best| best.row.seq < row.seq) {
                let simulated = matches!(standing, Standing::Simulated(_));
                let before = self.ledger.standing_in(self.held, target, &binding, self.trust);
                best = Some(Proof { node: target.clone(), row, from, verdict, simulated, before, staged });
            }
        }
        Ok(best.ok_or_else(|| match why.is_empty() {
            true => "never judged on a device".into(),
            false => why.join("; "),
        }))
    }

    /// What a verdict on `target` binds as staged; `None` of a schedule that is short of a kernel.
    fn binding(&self, target: &Target, arch: &str) -> Result<Option<Binding>> {
        match target {
            Target::Node(node) => self.now.binding(node, arch, self.request.numerics).map(Some),
            Target::Schedule => Ok(self.now.schedule(arch)?.map(|(binding, _)| binding)),
        }
    }

    /// The last row that a node of a schedule is green by, as it is staged; or one that is not: then prefill does not
    /// work, whatever the schedule's row says.
    fn last_part(&self, schedule: &Verdict) -> Result<Result<u64, String>> {
        let mut last = 0;
        for node in self.now.nodes().into_iter().filter(|n| schedule.parts.contains_key(&n.to_string())) {
            let binding = self.now.binding(&node, &schedule.binding.arch, self.request.numerics)?;
            let standing = self.ledger.standing(&Target::Node(node.clone()), &binding, self.trust);
            match green(&standing) {
                Some((row, _)) => last = last.max(row.seq),
                None => return Ok(Err(format!("{node}: {}", reason(&standing)))),
            }
        }
        Ok(Ok(last))
    }
}

/// A commit each, in the order of rows; a schedule that holds only from a node's row on shares that node's.
fn one_by_one(proofs: Vec<Proof<'_>>) -> Vec<Vec<Proof<'_>>> {
    let mut groups: Vec<Vec<Proof<'_>>> = Vec::new();
    let (later, now): (Vec<_>, Vec<_>) = proofs.into_iter().partition(|proof| proof.from > proof.row.seq);
    groups.extend(now.into_iter().map(|proof| vec![proof]));
    for proof in later {
        match groups.iter_mut().find(|group| group.iter().any(|other| other.row.seq == proof.from)) {
            Some(group) => group.push(proof),
            None => groups.push(vec![proof]),
        }
    }
    groups
}

fn green<'l>(standing: &Standing<'l>) -> Option<(&'l Row, &'l Verdict)> {
    match standing {
        Standing::Green(row) | Standing::Simulated(row) => Some((*row, row.statement().verdict()?)),
        _ => None,
    }
}

fn command<'n>(nodes: impl IntoIterator<Item = &'n Target>) -> String {
    let names: Vec<_> = nodes.into_iter().map(|node| format!("'{node}'")).collect();
    format!("assay land {}", names.join(" "))
}

/// How many rows of the ledger each commit holds: up to the next row that proves a node which it does not claim, so that
/// a later commit can. All rows, where there is none.
fn ends(groups: &[Vec<Proof<'_>>], pending: &[(u64, Target)], ledger: &Ledger) -> Result<Vec<usize>> {
    let named: BTreeSet<&Target> = groups.iter().flatten().map(|proof| &proof.node).collect();
    let mut claimed: BTreeSet<&Target> = BTreeSet::new();
    let mut ends = Vec::new();
    for proofs in groups {
        claimed.extend(proofs.iter().map(|proof| &proof.node));
        let last = proofs.iter().map(|proof| proof.from).max();
        let swept = pending.iter().filter(|(row, node)| Some(*row) <= last && !named.contains(node));
        let swept: BTreeSet<&Target> = swept.map(|(_, node)| node).collect();
        if !swept.is_empty() {
            let names: Vec<_> = swept.iter().map(ToString::to_string).collect();
            return Err(Error::new(
                &UNCLAIMED,
                format!("the commit would hold new proofs that it does not claim: {}", names.join(", ")),
            )
            .expected("nodes in the order of their rows")
            .hint(command(swept.union(&named).copied())));
        }
        let next = pending.iter().find(|(row, node)| Some(*row) > last && !claimed.contains(node));
        ends.push(next.map_or(ledger.rows().len(), |(row, _)| *row as usize));
    }
    Ok(ends)
}

fn reason(standing: &Standing<'_>) -> String {
    match standing {
        Standing::Red(row) => format!("red in row {}", row.seq),
        Standing::Untrusted(row, key) => {
            format!("proved in row {} by key {}, which is not trusted here", row.seq, key.short())
        }
        Standing::Void(row, why) => format!("proved in row {}, but {why}", row.seq),
        Standing::Stale(row, fields) => format!("proved in row {}, but since changed: {}", row.seq, fields.join(", ")),
        Standing::OtherWeights(row) => format!("proved in row {} for another file", row.seq),
        _ => "not proved".into(),
    }
}

/// Commits what is staged, and `state`, on top of HEAD.
fn commit(
    repo: &Repo,
    staged: &Staged,
    files: Vec<(&'static str, Vec<u8>)>,
    author: &Signature<'_>,
    message: &str,
) -> Result<Oid> {
    let head = repo.head()?;
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
    for (name, bytes) in files {
        let path = format!("{}state/{name}", repo.prefix);
        let blob = repo.git.blob(&bytes).map_err(git)?;
        update.upsert(path.as_str(), blob, FileMode::Blob);
        state.push((path, blob, bytes.len()));
    }
    let baseline = match &head {
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
    let parents: Vec<_> = parent.iter().collect();
    let commit = repo.git.commit(Some("HEAD"), author, author, message, &tree, &parents).map_err(git)?;
    let mut index = repo.git.index().map_err(git)?;
    for (path, id, size) in state {
        index.add(&index_entry(path, id, size)).map_err(git)?;
    }
    index.write().map_err(git)?;
    Ok(commit)
}

/// An index entry without the file's times: git looks at the file once and then knows them.
pub(super) fn index_entry(path: String, id: Oid, size: usize) -> IndexEntry {
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
            .hint("git config user.name NAME; git config user.email MAIL (with --global: for all of your repositories)")
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
