//! What stands below `refs/assay`, looked at as files. git lists what it can read there and passes over the rest without a
//! word, but no reference can be made where anything stands. No link is followed here, and nothing symbolic.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use git2::Oid;

use super::ATTEMPT_REF;
use super::repo::Repo;
use crate::error::{Error, Result};
use crate::words::{plain, shell_path};

/// Bytes of a reference's file that are looked at; what it points to is the first line.
const MOST: u64 = 4096;

/// Something of a reference's name.
pub(super) struct Standing {
    pub name: String,
    /// Where it is. The name alone does not say, where that is not UTF-8.
    path: PathBuf,
    pub what: What,
}

pub(super) enum What {
    Object(Oid),
    /// No reference that could be read, and why.
    Broken(String),
}

/// A reference that no attempt can be read from, and that none can be kept in the place of.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Broken {
    pub reference: String,
    pub why: String,
    /// The command that removes it.
    pub remove: String,
}

impl Broken {
    /// In a line, for people.
    pub fn line(&self) -> String {
        let Broken { reference, why, remove } = self;
        format!("{} [{}]: {why}; to remove it: {remove}", plain(reference, 200), ATTEMPT_REF.id)
    }
}

fn path(repo: &Repo, name: &str) -> PathBuf {
    repo.git.commondir().join(name)
}

/// Everything below the folder `space`, which ends with a slash: loose references, packed ones, and what is neither.
pub(super) fn below(repo: &Repo, space: &str) -> Result<Vec<Standing>> {
    let mut found = Vec::new();
    match blocked(repo, space.trim_end_matches('/'))? {
        Some(what) => found.push(what),
        None => walk(&path(repo, space), space, &mut found)?,
    }
    let loose: BTreeSet<String> = found.iter().map(|standing| standing.name.clone()).collect();
    let packed = path(repo, "packed-refs");
    let text = match std::fs::read(&packed) {
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        text => text.map_err(|e| Error::io(&packed, e))?,
    };
    for line in String::from_utf8_lossy(&text).lines() {
        if let Some((id, name)) = line.split_once(' ')
            && name.starts_with(space)
            && !loose.contains(name)
            && let Ok(id) = Oid::from_str(id)
        {
            found.push(Standing { name: name.into(), path: packed.clone(), what: What::Object(id) });
        }
    }
    Ok(found)
}

/// What stands where a folder of references should, the first on the way to it; `refs` itself may be a link, as in work
/// trees that share it.
fn blocked(repo: &Repo, folder: &str) -> Result<Option<Standing>> {
    let mut name = String::from("refs");
    for part in folder.split('/').skip(1) {
        name = format!("{name}/{part}");
        let path = path(repo, &name);
        let what = match path.symlink_metadata() {
            Ok(about) if about.is_dir() => continue,
            Ok(about) if about.is_symlink() => "it is a symlink, which is not followed",
            Ok(_) => "it stands where the folder of attempts should be",
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => break,
            Err(e) => return Err(Error::io(&path, e)),
        };
        return Ok(Some(Standing { name, path, what: What::Broken(what.into()) }));
    }
    Ok(None)
}

fn walk(dir: &Path, above: &str, found: &mut Vec<Standing>) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| Error::io(dir, e))?,
    };
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(dir, e))?;
        let (path, name) = (entry.path(), format!("{above}{}", entry.file_name().to_string_lossy()));
        let kind = entry.file_type().map_err(|e| Error::io(&path, e))?;
        let broken = |why: &str| What::Broken(why.into());
        let what = match () {
            () if kind.is_dir() => {
                walk(&path, &format!("{name}/"), found)?;
                continue;
            }
            () if kind.is_symlink() => broken("it is a symlink, which is not followed"),
            () if !kind.is_file() => broken("it is no plain file"),
            () if name.ends_with(".lock") => broken("it is the lock of a git command, at work or killed"),
            () => match read(&path) {
                // Deleted meanwhile.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                what => what.map_err(|e| Error::io(&path, e))?,
            },
        };
        found.push(Standing { name, path, what });
    }
    Ok(())
}

fn read(path: &Path) -> std::io::Result<What> {
    let mut bytes = Vec::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    file.take(MOST).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_end();
    let id = text.split(|c: char| c.is_ascii_whitespace()).next().filter(|id| id.len() == 40);
    Ok(match (id.and_then(|id| Oid::from_str(id).ok()), text.strip_prefix("ref:")) {
        (Some(id), _) if !id.is_zero() => What::Object(id),
        (_, Some(to)) => {
            What::Broken(format!("it is a symbolic reference, to {}, and not followed", plain(to.trim(), 80)))
        }
        _ if text.is_empty() => What::Broken("it is empty".into()),
        _ => What::Broken("it names no object".into()),
    })
}

/// What is broken below `space`, and how to get rid of it.
pub(super) fn broken(repo: &Repo, space: &str) -> Result<Vec<Broken>> {
    let all = below(repo, space)?.into_iter();
    Ok(all.filter_map(described).collect())
}

fn described(standing: Standing) -> Option<Broken> {
    let What::Broken(why) = standing.what else { return None };
    let remove = format!("rm {}", shell_path(&standing.path));
    Some(Broken { reference: standing.name, why, remove })
}

/// Errors: there can be no folder of references of this name, because of what stands there or on the way to it.
pub(super) fn clear_folder(repo: &Repo, folder: &str) -> Result<()> {
    match blocked(repo, folder)?.and_then(described) {
        None => Ok(()),
        Some(broken) => Err(in_the_way(broken)),
    }
}

/// Errors: the log of the reference `name` is not what git writes to, which would follow a link there, write over a file of
/// another name, or wait for a pipe. `logs` and `logs/refs` may be links, as in work trees that share them.
pub(super) fn clear_log(repo: &Repo, name: &str) -> Result<()> {
    let mut log = String::from("logs/refs");
    for part in name.split('/').skip(1) {
        log = format!("{log}/{part}");
        let path = path(repo, &log);
        let why = match path.symlink_metadata() {
            Ok(about) if about.is_dir() => continue,
            Ok(about) if about.is_symlink() => "it is a symlink, which is not followed",
            Ok(about) if !about.is_file() => "it is no plain file",
            Ok(about) if about.nlink() > 1 => "it is a hard link, and would be written under its other name too",
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(Error::io(&path, e));
            }
            _ => return Ok(()),
        };
        return Err(in_the_way(Broken {
            reference: log,
            why: why.into(),
            remove: format!("rm {}", shell_path(&path)),
        }));
    }
    Ok(())
}

/// Errors: no reference can be made at `name`, because of what stands there or in the place of its log.
pub(super) fn clear(repo: &Repo, name: &str) -> Result<()> {
    clear_log(repo, name)?;
    let (folder, _) = name.rsplit_once('/').unwrap_or_default();
    clear_folder(repo, folder)?;
    let lock = format!("{name}.lock");
    let mut there = below(repo, &format!("{folder}/"))?.into_iter().filter(|s| s.name == name || s.name == lock);
    match there.find_map(described) {
        None => Ok(()),
        Some(broken) => Err(in_the_way(broken)),
    }
}

fn in_the_way(Broken { reference, why, remove }: Broken) -> Error {
    Error::new(&ATTEMPT_REF, format!("{} is in the way of an attempt: {why}", plain(&reference, 200)))
        .expected("folders, references to commits, and their logs")
        .hint(remove)
}
