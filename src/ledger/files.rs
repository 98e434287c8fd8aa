//! The `state/` directory: plain files in a plain directory, never through a symlink.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{BUSY, LINK};
use crate::error::{Error, Result};

/// How long to wait for another writer. One append takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

const SAFE: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// `root/state`, or `None` where there is none.
    pub fn open(root: &Path) -> Result<Option<Dir>> {
        let path = root.join("state");
        match fs::open(&path, SAFE | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Some(Dir { fd, path })),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(refused(&path, e)),
        }
    }

    /// `root/state`, made durable in `root` if it is new.
    pub fn create(root: &Path) -> Result<Dir> {
        let path = root.join("state");
        match fs::mkdir(&path, Mode::from_raw_mode(0o777)) {
            Ok(()) => {
                let parent = fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
                parent.and_then(fs::fsync).map_err(|e| refused(root, e))?;
            }
            Err(Errno::EXIST) => {}
            Err(e) => return Err(refused(&path, e)),
        }
        Dir::open(root)?.ok_or_else(|| Error::io(&path, ErrorKind::NotFound.into()))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn at(&self, name: &str, flags: OFlags, mode: u32) -> Result<Option<File>> {
        match fs::openat(&self.fd, name, SAFE | flags, Mode::from_raw_mode(mode as _)) {
            Ok(fd) => {
                let kind = fs::fstat(&fd).map(|s| FileType::from_raw_mode(s.st_mode));
                match kind.map_err(|e| refused(&self.path(name), e))? {
                    FileType::RegularFile => Ok(Some(File::from(fd))),
                    _ => Err(refused(&self.path(name), Errno::NOTDIR)),
                }
            }
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(refused(&self.path(name), e)),
        }
    }

    /// A whole file, or `None` where there is none.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.at(name, OFlags::RDONLY, 0)?.map(|file| self.read_open(name, &file)).transpose()
    }

    pub fn read_open(&self, name: &str, mut file: &File) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| Error::io(self.path(name), e))?;
        Ok(bytes)
    }

    /// Opens `name` under a shared lock, or not at all where it does not exist.
    pub fn open_shared(&self, name: &str) -> Result<Option<File>> {
        self.locked(name, |dir| dir.at(name, OFlags::RDONLY, 0), File::try_lock_shared)
    }

    /// Opens `name` for appending under the exclusive lock; says whether it had to be made.
    pub fn open_append(&self, name: &str) -> Result<(File, bool)> {
        let mut created = false;
        let open = |dir: &Dir| {
            if let Some(file) = dir.at(name, OFlags::RDWR | OFlags::APPEND, 0)? {
                return Ok(Some(file));
            }
            let file = dir.at(name, OFlags::RDWR | OFlags::APPEND | OFlags::CREATE, 0o644)?;
            dir.sync()?;
            created = true;
            Ok(file)
        };
        let file = self.locked(name, open, File::try_lock)?;
        Ok((file.ok_or_else(|| Error::io(self.path(name), ErrorKind::NotFound.into()))?, created))
    }

    /// Opens and locks, again if the name stands for another file by the time the lock is held.
    fn locked(
        &self,
        name: &str,
        mut open: impl FnMut(&Dir) -> Result<Option<File>>,
        lock: impl Fn(&File) -> Result<(), std::fs::TryLockError>,
    ) -> Result<Option<File>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(file) = open(self)? else { return Ok(None) };
            match lock(&file) {
                Ok(()) if self.is(name, &file)? => return Ok(Some(file)),
                Ok(()) | Err(std::fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(std::fs::TryLockError::Error(e)) => return Err(Error::io(self.path(name), e)),
                _ => {
                    return Err(Error::new(&BUSY, format!("another process holds {}", self.path(name).display()))
                        .hint("try again when it has ended"));
                }
            }
        }
    }

    fn is(&self, name: &str, file: &File) -> Result<bool> {
        let open = fs::fstat(file).map_err(|e| refused(&self.path(name), e))?;
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) => Ok((named.st_dev, named.st_ino) == (open.st_dev, open.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(refused(&self.path(name), e)),
        }
    }

    /// Replaces `name` in one step; `written` is called between the new file's being whole and its getting the name.
    pub fn replace(&self, name: &str, bytes: &[u8], written: impl FnOnce()) -> Result<()> {
        let temporary = temporary(name);
        let file = self.at(&temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC, 0o644)?;
        let mut file = file.ok_or_else(|| Error::io(self.path(&temporary), ErrorKind::NotFound.into()))?;
        if let Err(e) = file.write_all(bytes).and_then(|()| file.sync_all()) {
            // A full disk: nothing of it stays.
            self.sweep(name);
            return Err(Error::io(self.path(&temporary), e));
        }
        written();
        if let Err(e) = fs::renameat(&self.fd, &*temporary, &self.fd, name) {
            self.sweep(name);
            return Err(refused(&self.path(name), e));
        }
        self.sync()
    }

    /// Removes what an interrupted `replace` of `name` left; what is no plain file is nobody's but whoever put it there.
    pub fn sweep(&self, name: &str) {
        let temporary = temporary(name);
        let about = fs::statat(&self.fd, &*temporary, AtFlags::SYMLINK_NOFOLLOW);
        if about.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile) {
            // It would be in nobody's way, and is written anew with the next replace.
            let _ = fs::unlinkat(&self.fd, &*temporary, AtFlags::empty());
        }
    }

    pub fn sync(&self) -> Result<()> {
        fs::fsync(&self.fd).map_err(|e| refused(&self.path, e))
    }
}

fn temporary(name: &str) -> String {
    format!(".{name}.new")
}

fn refused(path: &Path, errno: Errno) -> Error {
    match errno {
        Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::ISDIR => {
            Error::new(&LINK, format!("{} is a symlink or no plain file", path.display()))
                .expected("state/ and its files to be a plain directory and plain files")
                .hint("find out who put it there; assay neither follows nor replaces it")
        }
        e => Error::io(path, e.into()),
    }
}
