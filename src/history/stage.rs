//! Staging kernels for a landing, and putting the index back if it comes to nothing.

use std::path::Path;

use super::land::index_entry;
use super::repo::{Repo, git};
use super::{GIT, no_git};
use crate::error::{Error, Result};
use crate::plan::source::read_plain;

impl Repo {
    /// The repository's own folder, `.git`.
    pub fn folder(&self) -> &Path {
        self.git.path()
    }
}

/// Stages `files`, relative to `kernels/`, as they are in the work tree, and does `work`. If that fails the index is what it
/// was before.
pub fn with_staged<T>(root: &Path, files: &[String], work: impl FnOnce() -> Result<T>) -> Result<T> {
    let repo = Repo::find(root)?.ok_or_else(|| no_git(root))?;
    let mut index = repo.git.index().map_err(git)?;
    let mut before = Vec::new();
    for file in files {
        let name = format!("{}kernels/{file}", repo.prefix);
        before.push((name.clone(), index.get_path(Path::new(&name), 0)));
        let text = read_plain(&root.join("kernels").join(file))?;
        let blob = repo.git.blob(text.as_bytes()).map_err(git)?;
        // What is there already keeps its times, and with them git its peace.
        if before.last().is_none_or(|(_, entry)| entry.as_ref().is_none_or(|e| e.id != blob)) {
            index.add(&index_entry(name, blob, text.len())).map_err(git)?;
        }
    }
    index.write().map_err(git)?;
    let done = work();
    if done.is_err() {
        let mut index = repo.git.index().map_err(git)?;
        index.read(true).map_err(git)?;
        for (name, entry) in before {
            match entry {
                Some(entry) => index.add(&entry).map_err(git)?,
                None => index
                    .remove(Path::new(&name), 0)
                    .map_err(|e| Error::new(&GIT, format!("{name} stays staged: {}", e.message())))?,
            }
        }
        index.write().map_err(git)?;
    }
    done
}
