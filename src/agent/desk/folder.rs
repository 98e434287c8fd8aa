//! `kernels/` as an agent reaches it: plain files in plain folders, by names that stay below it.
//!
//! Every step of a path is opened by itself and never through a link, so that what was checked is what is read. A file
//! with a second name (a hard link) could be any file of the user's: it is not read, and not written.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::tool::{SOURCE, TOOL_LINK, TOOL_NAME, TOOL_REFUSED, TOOL_SIZE};
use crate::error::{Error, Result};

const SAFE: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);
const FOLDER: OFlags = SAFE.union(OFlags::RDONLY).union(OFlags::DIRECTORY);
/// Files of a whole tree of kernels, and how deep its folders go.
const MANY: usize = 4096;
const DEEP: usize = 4;
/// Bytes of one.
const TREE: u64 = 64 << 20;

pub struct Folder {
    root: OwnedFd,
    path: PathBuf,
}

/// A file below `kernels/`, or why it does not count as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to `kernels/`.
    pub path: String,
    pub bytes: u64,
    pub problem: Option<&'static str>,
}

impl Folder {
    /// `kernels/` of the workbench `root`.
    pub fn open(root: &Path) -> Result<Folder> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(root, flags, Mode::empty()).map_err(|e| Error::io(root, e.into()))?;
        Ok(Folder { root: fd, path: root.join("kernels") })
    }

    /// The folder of `path` below kernels/, and the name in it.
    fn folder<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str)> {
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if path.len() > 200 || !path.split('/').all(plain) {
            return Err(Error::new(&TOOL_REFUSED, format!("`{}` is no path below kernels/", shown(path)))
                .expected("plain names of letters, digits, dots and hyphens, separated by /"));
        }
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let open = |at: &OwnedFd, name: &str| fs::openat(at, name, FOLDER, Mode::empty());
        let mut fd = open(&self.root, "kernels").map_err(|e| refused(&self.path, e))?;
        for part in folders.split('/').filter(|p| !p.is_empty()) {
            fd = open(&fd, part).map_err(|e| refused(&self.path.join(folders), e))?;
        }
        Ok((fd, name))
    }

    /// The text of a file; `None` where there is none.
    pub fn read(&self, path: &str) -> Result<Option<String>> {
        match self.bytes(path)? {
            None => Ok(None),
            Some(bytes) => String::from_utf8(bytes)
                .map(Some)
                .map_err(|_| Error::new(&TOOL_NAME, format!("kernels/{path} is not UTF-8"))),
        }
    }

    fn bytes(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let (folder, name) = self.folder(path)?;
        let full = self.path.join(path);
        let fd = match fs::openat(&folder, name, SAFE | OFlags::RDONLY, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(refused(&full, e)),
        };
        let stat = fs::fstat(&fd).map_err(|e| refused(&full, e))?;
        if let Some(problem) = problem(&stat) {
            return Err(unfit(path, problem));
        }
        let mut bytes = Vec::new();
        // It may grow while it is read.
        File::from(fd).take(SOURCE + 1).read_to_end(&mut bytes).map_err(|e| Error::io(&full, e))?;
        if bytes.len() as u64 > SOURCE {
            return Err(unfit(path, LARGE));
        }
        Ok(Some(bytes))
    }

    /// Replaces a file, or makes it, in one step.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        if text.len() as u64 > SOURCE {
            return Err(Error::new(&TOOL_SIZE, format!("kernels/{} was not written", shown(path)))
                .expected(format!("at most {SOURCE} bytes"))
                .found(format!("{} bytes", text.len())));
        }
        let (folder, name) = self.folder(path)?;
        let full = self.path.join(path);
        match fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match problem(&stat) {
                // One that is too large may be made smaller.
                Some(problem) if problem != LARGE => return Err(unfit(path, problem)),
                _ => {}
            },
            Err(Errno::NOENT) => {}
            Err(e) => return Err(refused(&full, e)),
        }
        let mut number = [0; 8];
        getrandom::fill(&mut number).map_err(|e| Error::internal(format!("no random numbers: {e}")))?;
        let temporary = format!(".{name}.{:016x}.new", u64::from_le_bytes(number));
        let flags = SAFE | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let fd = fs::openat(&folder, &*temporary, flags, Mode::from_raw_mode(0o644)).map_err(|e| refused(&full, e))?;
        let mut file = File::from(fd);
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        let named = written
            .map_err(|e| Error::io(&full, e))
            .and_then(|()| fs::renameat(&folder, &*temporary, &folder, name).map_err(|e| refused(&full, e)));
        if named.is_err() {
            // What is left otherwise has a name that nothing reads.
            let _ = fs::unlinkat(&folder, &*temporary, AtFlags::empty());
        }
        named?;
        fs::fsync(&folder).map_err(|e| refused(&full, e))
    }

    /// Everything below `kernels/`, sorted by path; names that no kernel can have are listed with that as their problem.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let kernels = fs::openat(&self.root, "kernels", FOLDER, Mode::empty()).map_err(|e| refused(&self.path, e))?;
        let mut out = Vec::new();
        self.walk(kernels, "", 0, &mut out)?;
        out.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(out)
    }

    fn walk(&self, folder: OwnedFd, above: &str, depth: usize, out: &mut Vec<Entry>) -> Result<()> {
        let full = self.path.join(above);
        for entry in fs::Dir::read_from(folder.as_fd()).map_err(|e| refused(&full, e))? {
            let entry = entry.map_err(|e| refused(&full, e))?;
            let Ok(name) = entry.file_name().to_str() else {
                out.push(Entry { path: format!("{above}?"), bytes: 0, problem: Some("its name is not UTF-8") });
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            if out.len() >= MANY {
                return Err(Error::new(&TOOL_SIZE, format!("kernels/ has more than {MANY} files")));
            }
            let path = format!("{above}{name}");
            let stat = match fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(refused(&self.path.join(&path), e)),
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                match (depth < DEEP, fs::openat(&folder, name, FOLDER, Mode::empty())) {
                    (true, Ok(inner)) => self.walk(inner, &format!("{path}/"), depth + 1, out)?,
                    (true, Err(e)) => return Err(refused(&self.path.join(&path), e)),
                    (false, _) => out.push(Entry { path, bytes: 0, problem: Some("its folder is too deep") }),
                }
                continue;
            }
            out.push(Entry { problem: problem(&stat), bytes: stat.st_size.max(0) as u64, path });
        }
        Ok(())
    }

    /// A copy of all that counts, below `to/kernels`, for a judge: what is judged does not change under its hands. Says
    /// what was left out.
    pub fn snapshot(&self, to: &Path) -> Result<Vec<Entry>> {
        let (mut left_out, mut total) = (Vec::new(), 0);
        for entry in self.list()? {
            total += if entry.problem.is_none() { entry.bytes } else { 0 };
            if total > TREE {
                return Err(
                    Error::new(&TOOL_SIZE, "kernels/ is too large to be judged").expected("at most 64 MiB in all")
                );
            }
            if entry.problem.is_some() {
                left_out.push(entry);
                continue;
            }
            let bytes = match self.bytes(&entry.path) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(e) if e.code().id == TOOL_REFUSED.id => {
                    left_out.push(Entry { problem: Some("a name that no kernel has"), ..entry });
                    continue;
                }
                Err(e) => return Err(e),
            };
            let path = to.join("kernels").join(&entry.path);
            let folder = path.parent().unwrap_or(to);
            std::fs::create_dir_all(folder)
                .and_then(|()| std::fs::write(&path, bytes))
                .map_err(|e| Error::io(&path, e))?;
        }
        Ok(left_out)
    }
}

const LARGE: &str = "larger than 1 MiB";

/// Why a file is none that an agent may read or replace.
fn problem(stat: &fs::Stat) -> Option<&'static str> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_nlink > 1 => Some("a hard link: the same file has another name somewhere"),
        FileType::RegularFile if stat.st_size as u64 > SOURCE => Some(LARGE),
        FileType::RegularFile => None,
        FileType::Symlink => Some("a symlink"),
        _ => Some("no plain file"),
    }
}

fn unfit(path: &str, problem: &'static str) -> Error {
    let code = if problem == LARGE { &TOOL_SIZE } else { &TOOL_LINK };
    Error::new(code, format!("kernels/{} is {problem}", shown(path))).expected("a plain file of at most 1 MiB")
}

fn refused(path: &Path, errno: Errno) -> Error {
    match errno {
        Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::ISDIR => {
            Error::new(&TOOL_LINK, format!("{} is a symlink or no plain file or folder", path.display()))
        }
        e => Error::io(path, e.into()),
    }
}

/// A name from outside, as it can be repeated.
pub fn shown(name: &str) -> String {
    super::tool::cap(name.escape_debug().to_string(), 120)
}
