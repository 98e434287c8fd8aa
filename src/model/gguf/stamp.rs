//! Whether a file is still the one that was mapped.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::GGUF_CHANGED;
use crate::{Error, Result};

/// What identifies a file's contents without reading them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: i64,
    modified_ns: i64,
}

impl Stamp {
    pub fn of(file: &File, path: &Path) -> Result<Stamp> {
        let meta = file.metadata().map_err(|e| Error::io(path, e))?;
        Ok(Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: meta.mtime(),
            modified_ns: meta.mtime_nsec(),
        })
    }
}

/// A file as it was when it was mapped, for whoever reads it by its name later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Absolute, without links.
    pub path: PathBuf,
    pub stamp: Stamp,
}

impl Source {
    /// Opens it again, if it is still the same.
    pub fn open(&self) -> Result<File> {
        let file = File::open(&self.path).map_err(|e| Error::io(&self.path, e))?;
        self.check(&file)?;
        Ok(file)
    }

    /// Refuses `file` unless it is still as it was mapped.
    pub fn check(&self, file: &File) -> Result<()> {
        let now = Stamp::of(file, &self.path)?;
        let was = &self.stamp;
        if now == *was {
            return Ok(());
        }
        let found = if (now.device, now.inode) != (was.device, was.inode) {
            "another file under its name".to_string()
        } else if now.size != was.size {
            format!("{} bytes", now.size)
        } else {
            "the same size, written to since".to_string()
        };
        Err(Error::new(&GGUF_CHANGED, format!("{} has changed since it was opened", self.path.display()))
            .expected(format!("the file of {} bytes that was opened", was.size))
            .found(found)
            .hint("let whatever writes it finish, and start again"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn every_kind_of_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, "weights").unwrap();
        let source = Source { path: path.clone(), stamp: Stamp::of(&File::open(&path).unwrap(), &path).unwrap() };
        let kept = source.open().unwrap();
        let found = |e: Error| e.found_text().unwrap().to_string();
        File::options().append(true).open(&path).unwrap().write_all(b"!").unwrap();
        assert_eq!(found(source.open().unwrap_err()), "8 bytes");
        assert_eq!(source.check(&kept).unwrap_err().code().id, "gguf-changed");
        std::fs::write(&path, "weighty").unwrap();
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
        File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert_eq!(found(source.open().unwrap_err()), "the same size, written to since");
        std::fs::write(dir.path().join("other"), "weights").unwrap();
        std::fs::rename(dir.path().join("other"), &path).unwrap();
        assert_eq!(found(source.open().unwrap_err()), "another file under its name");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(source.open().unwrap_err().code().id, "io");
    }
}
