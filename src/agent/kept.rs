//! Where what agents did is kept: folders with a transcript each, below `assay/` in the repository's git directory, which is
//! never committed and goes where the clone goes; below `.assay/` in a workbench without git.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::codes::RUN_LINK;
use super::transcript;
use crate::error::{Error, Result};
use crate::history;
use crate::ledger::clock;
use crate::words::shell_path;

/// The folder of this kind, which need not be there yet.
pub fn folder(root: &Path, kind: &str) -> Result<PathBuf> {
    let (base, inside) = match history::Repo::find(root)? {
        Some(repo) => repo.private(kind),
        None => (root.to_path_buf(), format!(".assay/{kind}")),
    };
    // A link planted on the way would have transcripts written to where it points.
    let mut dir = base;
    for part in inside.split('/') {
        dir.push(part);
        if dir.is_symlink() {
            return Err(Error::new(&history::GIT_LINK, format!("{} is a symlink", dir.display()))
                .expected("a folder, in which transcripts are kept"));
        }
    }
    Ok(dir)
}

/// The folder `name` of a run, made where it is missing; none but a plain one.
pub fn make(run: &Path, name: &str) -> Result<PathBuf> {
    let dir = run.join(name);
    match std::fs::create_dir(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io(&dir, e)),
        _ => plain(dir),
    }
}

/// A folder of a run as it is. Through a link in its place, files would be read and written where that points.
pub fn plain(dir: PathBuf) -> Result<PathBuf> {
    match dir.symlink_metadata() {
        Ok(about) if about.is_symlink() => Err(strange(&dir, "is a symlink", "folder")),
        Ok(about) if !about.is_dir() => Err(strange(&dir, "is no folder", "folder")),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&dir, e)),
        _ => Ok(dir),
    }
}

fn strange(path: &Path, what: &str, own: &str) -> Error {
    Error::new(&RUN_LINK, format!("{} {what}", path.display()))
        .expected(format!("a {own} of the run's own"))
        .hint(format!("find out who put it there; rm {} removes it", shell_path(path)))
}

/// The error of a file of a run's that could not be opened: links are not followed.
pub fn unopened(path: &Path, e: std::io::Error) -> Error {
    match path.symlink_metadata() {
        Ok(about) if about.is_symlink() => strange(path, "is a symlink", "plain file"),
        Ok(about) if !about.is_file() && !about.is_dir() => strange(path, "is no plain file", "plain file"),
        _ => Error::io(path, e),
    }
}

/// Errors: the file has another name somewhere, under which it would be written as well.
pub fn single(path: &Path, file: &File) -> Result<()> {
    let about = file.metadata().map_err(|e| Error::io(path, e))?;
    match about.is_file() && about.nlink() <= 1 {
        true => Ok(()),
        false => Err(strange(path, "is a hard link, or no plain file", "plain file")),
    }
}

/// Writes a file of a run's folder under its name in one step. Whatever had the name is replaced, and not written through.
pub fn put(dir: &Path, name: &str, bytes: &[u8]) -> Result<File> {
    use std::io::Write as _;
    let path = dir.join(name);
    let mut file = tempfile::Builder::new().prefix(".").tempfile_in(dir).map_err(|e| Error::io(dir, e))?;
    file.write_all(bytes).map_err(|e| Error::io(&path, e))?;
    file.persist(&path).map_err(|e| Error::io(&path, e.error))
}

/// A new folder in `dir`, named by the time.
pub fn create(dir: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut random = [0; 2];
    getrandom::fill(&mut random).map_err(|e| Error::internal(format!("no randomness: {e}")))?;
    let time: String = clock::now().chars().filter(char::is_ascii_digit).collect();
    let (day, second) = time.split_at(8.min(time.len()));
    let dir = dir.join(format!("{day}-{second}-{:02x}{:02x}", random[0], random[1]));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| Error::io(&dir, e))?;
    Ok(dir)
}

/// Those that hold a transcript, oldest first.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::io(dir, e))?,
    };
    let mut out = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        if path.join(transcript::FILE).is_file() && !path.is_symlink() {
            out.push(path);
        }
    }
    out.sort();
    Ok(out)
}

/// The one of this name or of a beginning of it; the newest where none is named. `none` is the error of there being none.
pub fn find(dir: &Path, name: Option<&str>, none: impl Fn(Option<&str>) -> Error) -> Result<PathBuf> {
    let all = list(dir)?;
    let Some(name) = name else {
        return all.into_iter().last().ok_or_else(|| none(None));
    };
    let mut found = all.into_iter().filter(|path| id(path).starts_with(name));
    match (found.next(), found.next()) {
        (Some(path), None) => Ok(path),
        (None, _) => Err(none(Some(name))),
        _ => Err(Error::usage(format!("`{name}` begins more than one name"))),
    }
}

/// The name of one.
pub fn id(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}
