//! The first commit of a new workbench.

use std::path::Path;

use git2::{Repository, RepositoryInitOptions};

use super::land::{author, index_entry};
use super::repo::{Repo, git};
use super::{AUTHOR, GIT};
use crate::error::{Error, Result};

/// Whether git knows who would commit, asked before anything is made.
pub fn knows_author() -> Result<()> {
    let config = git2::Config::open_default().map_err(git)?;
    for name in ["user.name", "user.email"] {
        if config.get_string(name).map_or(true, |value| value.trim().is_empty()) {
            return Err(Error::new(&AUTHOR, "git does not know who you are")
                .expected("user.name and user.email in your git configuration")
                .found(format!("no {name}"))
                .hint("git config --global user.name NAME; git config --global user.email MAIL"));
        }
    }
    Ok(())
}

/// The same of the repository around `root`, which may say it too; one that is in no git need not know.
pub fn knows_author_of(root: &Path) -> Result<()> {
    Repo::find(root)?.map_or(Ok(()), |repo| author(&repo).map(drop))
}

/// Makes a repository of `root`, without a template and its hooks, and commits every file of it. Gives the commit.
pub fn first_commit(root: &Path, message: &str) -> Result<String> {
    let mut options = RepositoryInitOptions::new();
    options.no_reinit(true).external_template(false).initial_head("main").mkdir(false);
    let repo = Repository::init_opts(root, &options).map_err(git)?;
    let author = repo.signature().map_err(|e| Error::new(&AUTHOR, "git does not know who you are").because(e))?;
    let mut index = repo.index().map_err(git)?;
    let mut files = Vec::new();
    collect(root, "", &mut files)?;
    for name in files {
        let path = root.join(&name);
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let blob = repo.blob(&bytes).map_err(git)?;
        index.add(&index_entry(name, blob, bytes.len())).map_err(git)?;
    }
    index.write().map_err(git)?;
    let tree = index.write_tree().and_then(|id| repo.find_tree(id)).map_err(git)?;
    repo.commit(Some("HEAD"), &author, &author, message, &tree, &[]).map(|id| id.to_string()).map_err(git)
}

fn collect(dir: &Path, above: &str, out: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let entry = entry.map_err(|e| Error::io(dir, e))?;
        let name = entry
            .file_name()
            .into_string()
            .map_err(|_| Error::new(&GIT, format!("{} has a name that is not UTF-8", entry.path().display())))?;
        let kind = entry.file_type().map_err(|e| Error::io(entry.path(), e))?;
        match above.is_empty() && name == ".git" {
            true => {}
            false if kind.is_dir() => collect(&entry.path(), &format!("{above}{name}/"), out)?,
            false => out.push(format!("{above}{name}")),
        }
    }
    Ok(())
}
