//! Files that somebody named, read whole.
//!
//! To open a pipe is to wait for its writer, and a device may have no end: neither is read, and neither is a file that
//! nothing of its kind is as large as.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::error::{Code, Error, Result};

crate::codes! {
    FILE_UNFIT: "file-unfit", CouldNotRun, "A file that assay reads whole is a regular one of bearable size: no directory, pipe, socket or device. \
        What a pipe would bring has to be written to a file first.";
}

/// Most bytes of settings that a person writes.
pub const SETTINGS: u64 = 1 << 20;

/// The bytes of a regular file, `most` at most. Links are followed.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    read_as(path, most, &FILE_UNFIT)
}

/// The same with the code of what the file should have been.
pub fn read_as(path: &Path, most: u64, code: &'static Code) -> Result<Vec<u8>> {
    let fail = |e| Error::io(path, e);
    let irregular = |found: &str| {
        Error::new(code, format!("{} is no regular file", path.display())).expected("a regular file").found(found).hint(
            match found {
                "a directory" => "name a file in it",
                _ => "write it to a file first, and name that",
            },
        )
    };
    // Before it is opened: a socket cannot be, and to open a device may do something.
    if let Some(found) = kind(&std::fs::metadata(path).map_err(fail)?) {
        return Err(irregular(found));
    }
    // And after: another file may have its name by now, which is why nothing waits here.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|e| fail(e.into()))?);
    let about = file.metadata().map_err(fail)?;
    if let Some(found) = kind(&about) {
        return Err(irregular(found));
    }
    let large = |found: u64| {
        Error::new(code, format!("{} is too large", path.display()))
            .expected(format!("at most {most} bytes"))
            .found(format!("{found} bytes"))
    };
    if about.len() > most {
        return Err(large(about.len()));
    }
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(fail)?;
    match bytes.len() as u64 > most {
        true => Err(large(bytes.len() as u64)),
        false => Ok(bytes),
    }
}

/// The same as text.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    let bytes = read(path, most)?;
    String::from_utf8(bytes).map_err(|_| {
        Error::io(path, std::io::Error::new(ErrorKind::InvalidData, "it is not UTF-8")).expected("a UTF-8 text")
    })
}

/// The same of a file that need not be there.
pub fn read_text_if_any(path: &Path, most: u64) -> Result<Option<String>> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        _ => read_text(path, most).map(Some),
    }
}

/// What it is, if it is no regular file.
fn kind(about: &std::fs::Metadata) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt as _;
    let kind = about.file_type();
    match () {
        () if kind.is_file() => None,
        () if kind.is_dir() => Some("a directory"),
        () if kind.is_fifo() => Some("a pipe"),
        () if kind.is_socket() => Some("a socket"),
        () => Some("a device"),
    }
}
