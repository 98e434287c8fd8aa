//! Parts of a file on their way into buffers.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{BufferId, Device};
use crate::error::{Error, Result};
use crate::model::gguf::{GGUF_CHANGED, Source};

/// `len` bytes of a file from `at` on, to be put at the beginning of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePart {
    pub buffer: BufferId,
    pub at: u64,
    pub len: u64,
}

/// Bytes that go through host memory at a time.
const BLOCK: u64 = 4 << 20;

/// Reads and writes block after block: for devices that have no better way.
pub fn through_host(device: &mut (impl Device + ?Sized), source: &Source, parts: &[FilePart]) -> Result<()> {
    let file = source.open()?;
    let longest = parts.iter().map(|p| p.len.min(BLOCK)).max().unwrap_or(0);
    let mut block = vec![0; longest as usize];
    for part in parts {
        let mut done = 0;
        while done < part.len {
            let n = (part.len - done).min(BLOCK) as usize;
            read_at(&file, &mut block[..n], part.at + done).map_err(|e| unread(&source.path, e))?;
            device.write(part.buffer, done, &block[..n])?;
            done += n as u64;
        }
    }
    source.check(&file)
}

/// Fills `into` from `at` on.
pub fn read_at(file: &File, into: &mut [u8], at: u64) -> io::Result<()> {
    file.read_exact_at(into, at)
}

/// A file that ends early was cut after it had been mapped.
pub fn unread(path: &Path, e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => {
            Error::new(&GGUF_CHANGED, format!("{} became shorter while it was read", path.display())).because(e)
        }
        _ => Error::io(path, e),
    }
}
