//! The commits between two, and a place outside the work tree to look at each of them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use git2::Oid;
use serde::Serialize;

use super::{RANGE, SHALLOW};
use crate::error::{Error, Result};
use crate::history::GIT_LINK;
use crate::history::repo::{Commit, Entry, Repo, git};

/// A commit as it is reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    pub commit: String,
    pub summary: String,
    pub author: String,
    /// RFC 3339, in UTC.
    pub time: String,
}

/// Commits from old to new, each the first parent of the next.
pub struct Between {
    pub commits: Vec<Oid>,
    /// The first one is not what was said to be good but where its line left this one.
    pub forked: bool,
}

impl Repo {
    /// From `good`, or where its line forked off, along first parents up to `bad`. Without `good` from the very first.
    pub fn line(&self, good: Option<Oid>, bad: Oid) -> Result<Between> {
        let mut commits = vec![bad];
        let mut at = self.commit(bad)?;
        while Some(at.id) != good {
            let Some(parent) = at.parents.first().copied() else { break };
            if self.git.is_shallow() && !self.exists(parent)? {
                return Err(Error::new(&SHALLOW, "the history between the two commits is not all here")
                    .expected(match good {
                        Some(good) => format!("every commit from {} on", short(good)),
                        None => "every commit".into(),
                    })
                    .found(format!("a shallow clone that ends at {}", at.short()))
                    .hint("git fetch --unshallow, or name a commit that is here: --good REVISION"));
            }
            at = self.commit(parent)?;
            commits.push(at.id);
        }
        commits.reverse();
        let Some(good) = good.filter(|good| commits[0] != *good) else { return Ok(Between { commits, forked: false }) };
        // It lies on another line: what both have is good too, if the turn is on this one.
        let before: HashSet<Oid> = self.ancestry(good)?.0.into_iter().map(|c| c.id).collect();
        let Some(fork) = commits.iter().rposition(|id| before.contains(id)) else {
            return Err(Error::new(&RANGE, format!("{} and {} have no commit in common", short(good), short(bad)))
                .expected("a good commit that the bad one comes from"));
        };
        if fork + 1 == commits.len() {
            return Err(Error::new(&RANGE, format!("{} is an ancestor of {}", short(bad), short(good)))
                .expected("a bad commit that comes after the good one")
                .hint("to find what repaired it, swap them and turn the command's exit code round"));
        }
        Ok(Between { commits: commits.split_off(fork), forked: true })
    }

    pub fn named(&self, id: Oid) -> Result<Named> {
        let commit = self.commit(id)?;
        let found = self.git.find_commit(id).map_err(git)?;
        let author = found.author();
        let time = crate::ledger::clock::rfc3339(u64::try_from(author.when().seconds()).unwrap_or(0));
        Ok(Named {
            commit: id.to_string(),
            summary: commit.message.lines().next().unwrap_or_default().to_string(),
            author: String::from_utf8_lossy(author.name_bytes()).into_owned(),
            time,
        })
    }

    /// The files of `kernels/` that some commit of a line changed.
    pub fn touched(&self, line: &[Oid]) -> Result<BTreeSet<String>> {
        let mut touched = BTreeSet::new();
        let mut before: Option<(Option<Oid>, Oid)> = None;
        for id in line {
            let kernels = self.contents(*id, "kernels")?;
            let tree = self.commit(*id)?.tree;
            if let Some((theirs, tree_before)) = before
                && theirs != kernels
            {
                let [old, new] = [tree_before, tree].map(|tree| self.files(tree, "kernels"));
                let (old, new) = (old?, new?);
                let differ = |a: &[Entry], b: &[Entry]| -> Vec<String> {
                    let known: HashSet<(&str, Oid)> = b.iter().map(|f| (f.path.as_str(), f.id)).collect();
                    a.iter().filter(|f| !known.contains(&(f.path.as_str(), f.id))).map(|f| f.path.clone()).collect()
                };
                touched.extend(differ(&old, &new));
                touched.extend(differ(&new, &old));
            }
            before = Some((kernels, tree));
        }
        Ok(touched)
    }

    /// The parents of a commit.
    pub fn parents(&self, id: Oid) -> Result<Vec<Oid>> {
        Ok(self.commit(id)?.parents)
    }

    /// What a commit holds under `dir` of the workbench (all of it: an empty name): equal digests, equal contents.
    pub fn contents(&self, id: Oid, dir: &str) -> Result<Option<Oid>> {
        let commit = self.commit(id)?;
        let path = format!("{}{dir}", self.prefix);
        let path = path.trim_end_matches('/');
        if path.is_empty() {
            return Ok(Some(commit.tree));
        }
        let tree = self.git.find_tree(commit.tree).map_err(git)?;
        match tree.get_path(Path::new(path)) {
            Err(e) if e.code() == git2::ErrorCode::NotFound => Ok(None),
            entry => Ok(Some(entry.map_err(git)?.id())),
        }
    }

    /// Writes the whole workbench as a commit has it. Links are made as they are, submodules left empty.
    pub fn check_out(&self, id: Oid, dir: &Path) -> Result<()> {
        let commit = self.commit(id)?;
        let files = self.files(commit.tree, "")?;
        let (links, rest): (Vec<Entry>, Vec<Entry>) = files.into_iter().partition(|f| f.mode == 0o120000);
        let plain: Vec<Entry> = rest.into_iter().filter(|f| f.mode != 0o160000).collect();
        self.export(&plain, dir)?;
        for link in links {
            let inside = Path::new(&link.path).components().all(|c| matches!(c, std::path::Component::Normal(_)));
            let target = String::from_utf8(self.blob(link.id)?).ok().filter(|_| inside);
            let target =
                target.ok_or_else(|| Error::new(&GIT_LINK, format!("`{}` is no link to follow", link.path)))?;
            let path = dir.join(&link.path);
            let parent = path.parent().unwrap_or(dir);
            std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
            std::os::unix::fs::symlink(target, &path).map_err(|e| Error::io(&path, e))?;
        }
        Ok(())
    }
}

pub fn short(id: Oid) -> String {
    id.to_string()[..12].into()
}

/// The `kernels/` of one commit after another, in one folder outside the work tree: what two have in common is written
/// once.
pub struct Checkout {
    dir: tempfile::TempDir,
    held: BTreeMap<String, (Oid, i32)>,
    at: Option<Oid>,
}

impl Checkout {
    pub fn new() -> Result<Checkout> {
        let dir = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
        let kernels = dir.path().join("kernels");
        std::fs::create_dir(&kernels).map_err(|e| Error::io(kernels, e))?;
        Ok(Checkout { dir, held: BTreeMap::new(), at: None })
    }

    /// Where they lie now.
    pub fn kernels(&self) -> std::path::PathBuf {
        self.dir.path().join("kernels")
    }

    pub fn to(&mut self, repo: &Repo, id: Oid) -> Result<()> {
        if self.at == Some(id) {
            return Ok(());
        }
        let Commit { tree, .. } = repo.commit(id)?;
        let files = repo.files(tree, "kernels")?;
        let kernels = self.kernels();
        self.at = None;
        let wanted: BTreeMap<&str, (Oid, i32)> = files.iter().map(|f| (f.path.as_str(), (f.id, f.mode))).collect();
        let gone: Vec<String> = self.held.keys().filter(|path| !wanted.contains_key(path.as_str())).cloned().collect();
        for path in gone {
            let file = kernels.join(&path);
            std::fs::remove_file(&file).map_err(|e| Error::io(&file, e))?;
            // A folder may be in the way of a file later.
            for above in file.ancestors().skip(1).take_while(|above| *above != kernels) {
                if std::fs::remove_dir(above).is_err() {
                    break;
                }
            }
            self.held.remove(&path);
        }
        let new = |f: &&Entry| self.held.get(&f.path) != Some(&(f.id, f.mode));
        let changed: Vec<Entry> = files.iter().filter(new).cloned().collect();
        for file in &changed {
            self.held.remove(&file.path);
        }
        repo.export(&changed, &kernels)?;
        self.held.extend(changed.into_iter().map(|f| (f.path, (f.id, f.mode))));
        self.at = Some(id);
        Ok(())
    }
}
