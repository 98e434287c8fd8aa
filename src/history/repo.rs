//! Reading and writing git objects as they are: no hooks, no filters, no replace refs, no grafts, no `GIT_*`.
//!
//! libgit2 runs no hooks and knows no replace refs; opened without its environment flag it reads no `GIT_*`. Blobs are
//! read and written as bytes, so no filter applies. Commits are parsed here from their raw object, because libgit2
//! would let `info/grafts` replace their parents.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use git2::{ErrorCode, ObjectType, Oid, Repository, RepositoryOpenFlags, TreeWalkMode, TreeWalkResult};

use super::{GIT, GIT_LINK, OWNER};
use crate::error::{Error, Result};

pub(super) fn git(e: git2::Error) -> Error {
    Error::new(&GIT, format!("git: {}", e.message())).because(e)
}

/// The repository around a workbench.
pub struct Repo {
    pub(super) git: Repository,
    /// Of the workbench inside the repository: empty, or `path/to/it/`.
    pub(super) prefix: String,
}

/// A commit as its object says it.
pub(super) struct Commit {
    pub id: Oid,
    pub tree: Oid,
    pub parents: Vec<Oid>,
    pub message: String,
}

impl Commit {
    pub fn short(&self) -> String {
        self.id.to_string()[..12].into()
    }

    /// The values of a trailer of this name, in order.
    pub fn trailers<'c>(&'c self, name: &'c str) -> impl Iterator<Item = &'c str> {
        self.message.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(": ").map(str::trim))
    }
}

/// A file of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub path: String,
    pub id: Oid,
    pub mode: i32,
}

/// The `.git` that `root` lies under.
fn around(root: &Path) -> Option<PathBuf> {
    let root = root.canonicalize().ok()?;
    root.ancestors().map(|dir| dir.join(".git")).find(|git| git.symlink_metadata().is_ok())
}

/// A repository that does not hold the workbench is not the same as none: without one nobody would see a ledger go back.
fn unusable(git: &Path, why: &str) -> Error {
    Error::new(&GIT, format!("{} does not keep the history of this workbench: {why}", git.display()))
        .expected("a repository whose work tree holds the workbench, or none")
        .hint("git status")
}

/// Bytes of `packed-refs`: a million references have about 100 MB.
const MOST_PACKED: u64 = 1 << 30;

/// git and libgit2 read it whole, whatever it is: a pipe for ever, a device until memory is full. It may be a link to a file, as
/// in work trees that share it.
fn refuse_endless(packed: &Path) -> Result<()> {
    let why = match packed.metadata() {
        Ok(about) if about.is_file() && about.len() > MOST_PACKED => format!("has {} bytes", about.len()),
        Ok(about) if !about.is_file() => "is no plain file, and git would wait for its end".into(),
        _ => return Ok(()),
    };
    let shown = crate::words::shell_path(packed);
    Err(Error::new(&GIT, format!("{} {why}", packed.display()))
        .expected(format!("a plain file of at most {MOST_PACKED} bytes, or none"))
        .hint(format!("find out who put it there; mv {shown} {shown}.aside takes it out of the way")))
}

impl Repo {
    /// The repository that `root` lies in, or `None` outside of git.
    pub fn find(root: &Path) -> Result<Option<Repo>> {
        let none: [&OsStr; 0] = [];
        let git = match Repository::open_ext(root, RepositoryOpenFlags::empty(), none) {
            Err(e) if e.code() == ErrorCode::NotFound => {
                return match around(root) {
                    None => Ok(None),
                    Some(git) => Err(unusable(&git, "it names no repository").because(e)),
                };
            }
            Err(e) if e.code() == ErrorCode::Owner => {
                let named = root.canonicalize().unwrap_or_else(|_| root.into());
                return Err(Error::new(
                    &OWNER,
                    format!("the repository around {} is somebody else's", named.display()),
                )
                .because(e)
                .expected("a repository that is yours, or that you said is safe: its configuration is read")
                .hint(format!("git config --global --add safe.directory {}", crate::words::shell_path(&named))));
            }
            opened => opened.map_err(self::git)?,
        };
        refuse_endless(&git.commondir().join("packed-refs"))?;
        let Some(work) = git.workdir() else { return Err(unusable(git.path(), "it is bare, without a work tree")) };
        let work = work.canonicalize().map_err(|e| Error::io(work, e))?;
        let root = root.canonicalize().map_err(|e| Error::io(root, e))?;
        let Ok(inside) = root.strip_prefix(&work) else {
            return Err(unusable(git.path(), &format!("its work tree is {}", work.display())));
        };
        let mut prefix = String::new();
        for part in inside.components() {
            let part =
                part.as_os_str().to_str().ok_or_else(|| Error::new(&GIT, "the workbench's path is not UTF-8"))?;
            prefix.push_str(part);
            prefix.push('/');
        }
        Ok(Some(Repo { git, prefix }))
    }

    /// The commit that a revision names.
    pub fn resolve(&self, revision: &str) -> Result<Oid> {
        let found = self.git.revparse_single(revision).and_then(|object| object.peel_to_commit());
        found.map(|commit| commit.id()).map_err(|e| {
            Error::new(&super::REVISION, format!("`{revision}` names no commit"))
                .because(e)
                .expected("a branch, a tag, a commit's digest, HEAD~3, …")
                .hint("git log --oneline")
        })
    }

    /// Where this workbench keeps what is never committed: the git directory, and a path below it.
    pub fn private(&self, what: &str) -> (PathBuf, String) {
        (self.git.path().to_path_buf(), format!("assay/{}{what}", self.prefix))
    }

    /// HEAD's commit, in hexadecimal; `None` before the first.
    pub fn head_id(&self) -> Result<Option<String>> {
        Ok(self.head()?.map(|c| c.id.to_string()))
    }

    /// The commit that HEAD stands for; `None` before the first.
    pub(super) fn head(&self) -> Result<Option<Commit>> {
        match self.git.refname_to_id("HEAD") {
            Ok(id) => self.commit(id).map(Some),
            Err(e) if matches!(e.code(), ErrorCode::NotFound | ErrorCode::UnbornBranch) => Ok(None),
            Err(e) => Err(git(e)),
        }
    }

    pub(super) fn commit(&self, id: Oid) -> Result<Commit> {
        let odb = self.git.odb().map_err(git)?;
        let object = odb.read(id).map_err(git)?;
        let malformed = || Error::new(&GIT, format!("the object {id} is no well-formed commit"));
        if object.kind() != ObjectType::Commit {
            return Err(malformed());
        }
        let text = String::from_utf8_lossy(object.data());
        let (header, message) = text.split_once("\n\n").unwrap_or((&text, ""));
        let oids = |name: &str| {
            let values = header.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            values.map(Oid::from_str).collect::<Result<Vec<_>, _>>().map_err(|_| malformed())
        };
        let tree = oids("tree")?.first().copied().ok_or_else(malformed)?;
        Ok(Commit { id, tree, parents: oids("parent")?, message: message.into() })
    }

    /// The commits reachable from `from`, newest first in no further order, each once. Says whether history is cut off
    /// (a shallow clone).
    pub(super) fn ancestry(&self, from: Oid) -> Result<(Vec<Commit>, bool)> {
        let odb = self.git.odb().map_err(git)?;
        let mut seen = std::collections::HashSet::from([from]);
        let mut queue = std::collections::VecDeque::from([from]);
        let (mut commits, mut cut) = (Vec::new(), false);
        while let Some(id) = queue.pop_front() {
            if self.git.is_shallow() && !odb.exists(id) {
                cut = true;
                continue;
            }
            let commit = self.commit(id)?;
            queue.extend(commit.parents.iter().filter(|id| seen.insert(**id)));
            commits.push(commit);
        }
        Ok((commits, cut))
    }

    pub(super) fn exists(&self, id: Oid) -> Result<bool> {
        Ok(self.git.odb().map_err(git)?.exists(id))
    }

    /// The plain file at `path` of the workbench in `tree`.
    pub(super) fn file(&self, tree: Oid, path: &str) -> Result<Option<Oid>> {
        let tree = self.git.find_tree(tree).map_err(git)?;
        let path = format!("{}{path}", self.prefix);
        match tree.get_path(Path::new(&path)) {
            Err(e) if e.code() == ErrorCode::NotFound => Ok(None),
            Err(e) => Err(git(e)),
            Ok(entry) => plain(&path, entry.filemode()).map(|()| Some(entry.id())),
        }
    }

    pub(super) fn blob_size(&self, id: Oid) -> Result<u64> {
        let odb = self.git.odb().map_err(git)?;
        Ok(odb.read_header(id).map_err(git)?.0 as u64)
    }

    pub(super) fn blob(&self, id: Oid) -> Result<Vec<u8>> {
        Ok(self.git.find_blob(id).map_err(git)?.content().to_vec())
    }

    /// Every file of `tree` under `dir` of the workbench (an empty name: all of it), paths relative to `dir`, sorted.
    pub(super) fn files(&self, tree: Oid, dir: &str) -> Result<Vec<Entry>> {
        let dir = format!("{}{dir}", self.prefix);
        let dir = dir.trim_end_matches('/');
        let id = match self.git.find_tree(tree).map_err(git)?.get_path(Path::new(dir)) {
            _ if dir.is_empty() => tree,
            Err(e) if e.code() == ErrorCode::NotFound => return Ok(Vec::new()),
            Ok(entry) if entry.kind() != Some(ObjectType::Tree) => return Err(no_folder(dir, entry.filemode())),
            entry => entry.map_err(git)?.id(),
        };
        let mut files = Vec::new();
        let mut unreadable = false;
        let walked = self.git.find_tree(id).map_err(git)?.walk(TreeWalkMode::PreOrder, |above, entry| {
            match (entry.kind(), entry.name()) {
                (Some(ObjectType::Tree), Ok(_)) => {}
                (_, Ok(name)) => {
                    files.push(Entry { path: format!("{above}{name}"), id: entry.id(), mode: entry.filemode() })
                }
                _ => unreadable = true,
            }
            TreeWalkResult::Ok
        });
        walked.map_err(git)?;
        if unreadable {
            return Err(Error::new(&GIT, format!("a file name under {dir} is not UTF-8")));
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// Writes `files` as they are under `dir`.
    pub(super) fn export(&self, files: &[Entry], dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        for file in files {
            plain(&file.path, file.mode)?;
            let relative = Path::new(&file.path);
            if !relative.components().all(|c| matches!(c, Component::Normal(_))) {
                return Err(Error::new(&GIT_LINK, format!("`{}` leads out of its tree", file.path)));
            }
            let path = dir.join(relative);
            let parent = path.parent().unwrap_or(dir);
            std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
            std::fs::write(&path, self.blob(file.id)?).map_err(|e| Error::io(&path, e))?;
        }
        Ok(())
    }
}

/// A link or a file has the name that a folder should have.
pub(super) fn no_folder(path: &str, mode: i32) -> Error {
    Error::new(&GIT_LINK, format!("`{path}` is no folder in git")).found(format!("mode {mode:o}"))
}

/// Refuses symlinks and submodules: what they stand for is not in the tree.
pub(super) fn plain(path: &str, mode: i32) -> Result<()> {
    match mode {
        0o100644 | 0o100755 | 0o100664 => Ok(()),
        mode => Err(Error::new(&GIT_LINK, format!("`{path}` is no plain file in git")).found(format!("mode {mode:o}"))),
    }
}
