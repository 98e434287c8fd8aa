//! Where a transcript ends: its number of lines and the digest of the last one, in a small file beside it. A chain alone
//! cannot tell that lines at its end are missing, or that the last one says something else.
//!
//! It is written after the line, so that a process killed in between leaves a transcript that is one line ahead.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::Story;
use crate::agent::codes::TRANSCRIPT;
use crate::agent::desk::{cap, printable};
use crate::agent::kept::{put, unopened};
use crate::error::{Error, Result};
use crate::ledger::Digest;

const FILE: &str = "head";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub lines: u64,
    pub digest: Digest,
}

/// Always as long, so that one write in its place replaces it whole.
fn text(head: Head) -> String {
    format!("{:020} {}\n", head.lines, head.digest)
}

fn parse(text: &str) -> Option<Head> {
    let (lines, digest) = text.strip_suffix('\n')?.split_once(' ')?;
    Some(Head { lines: lines.parse().ok()?, digest: digest.parse().ok()? })
}

/// What the transcript in `dir` is to end with.
pub fn read<E: Story>(dir: &Path) -> Result<Head> {
    let path = dir.join(FILE);
    let mut last = once::<E>(&path)?;
    // A process may be writing it: two looks that agree were at a whole one.
    for _ in 0..100 {
        let again = once::<E>(&path)?;
        if again == last {
            break;
        }
        last = again;
    }
    parse(&last).ok_or_else(|| damaged::<E>(format!("{} does not say where the transcript ends", path.display())))
}

/// To read. A link is not followed, and a pipe, which has nothing to say here, is not waited for.
pub fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

fn once<E: Story>(path: &Path) -> Result<String> {
    let file = open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => headless::<E>(path),
        _ => unopened(path, e),
    })?;
    let mut bytes = Vec::new();
    file.take(256).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Early versions wrote no head. Somebody who removed one leaves the same, so that such a transcript is believed in
/// nothing; what it led to is on record elsewhere.
fn headless<E: Story>(path: &Path) -> Error {
    let transcript = path.with_file_name(super::FILE);
    let by = match writer(&transcript) {
        Some((version, time)) => {
            format!("; written by assay {version} at {time}, an early version if nobody removed it")
        }
        None => String::new(),
    };
    damaged::<E>(format!("{} is missing: nothing says where the transcript ends{by}", path.display())).hint(format!(
        "assay history shows the rows and attempts that it led to, and {} can be read as text; {}",
        transcript.display(),
        E::DAMAGED
    ))
}

/// Which version began a transcript, and when, as its first line says.
fn writer(transcript: &Path) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    open(transcript).ok()?.take(1 << 16).read_to_end(&mut bytes).ok()?;
    let first: serde_json::Value = serde_json::from_slice(bytes.split(|b| *b == b'\n').next()?).ok()?;
    let text = |name: &str| Some(cap(printable(first.get(name)?.as_str()?), 80));
    Some((text("assay")?, text("time")?))
}

fn damaged<E: Story>(what: String) -> Error {
    Error::new(&TRANSCRIPT, what)
        .expected("the number of its lines and the digest of the last one, as every transcript has beside it")
        .hint(E::DAMAGED)
}

pub struct Writer {
    file: File,
    path: PathBuf,
}

impl Writer {
    pub fn create(dir: &Path) -> Result<Writer> {
        let path = dir.join(FILE);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let writer = Writer { file: file.map_err(|e| Error::io(&path, e))?, path };
        writer.write(Head { lines: 0, digest: Digest::ZERO })?;
        Ok(writer)
    }

    /// For a transcript that ends there. A new file has its name then: another name that the old one was given stays as it is.
    pub fn open(dir: &Path, head: Head) -> Result<Writer> {
        let path = dir.join(FILE);
        let file = put(dir, FILE, text(head).as_bytes())?;
        // Before a line follows: one that the old head does not know of may be there, two not.
        let synced = file.sync_all().and_then(|()| File::open(dir)?.sync_all());
        synced.map_err(|e| Error::io(&path, e))?;
        Ok(Writer { file, path })
    }

    /// One that cannot write.
    #[cfg(test)]
    pub fn spoilt(dir: &Path) -> Writer {
        let path = dir.join(FILE);
        Writer { file: File::open(&path).unwrap(), path }
    }

    /// It is on the disk when this returns.
    pub fn write(&self, head: Head) -> Result<()> {
        let written = self.file.write_all_at(text(head).as_bytes(), 0).and_then(|()| self.file.sync_data());
        written.map_err(|e| Error::io(&self.path, e))
    }
}
