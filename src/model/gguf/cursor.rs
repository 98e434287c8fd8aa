//! A bounds-checked position in the file that knows what it is reading, so that every failure can say so.

use std::fmt::{self, Write as _};

use super::codes::*;
use crate::error::Code;
use crate::{Error, Result};

/// Most bytes that metadata and tensor table may take together. The largest published headers are about 10 MB; without
/// a limit, the holes of a sparse file would read as billions of empty strings, each of which costs memory.
const HEADER_LIMIT: usize = 256 << 20;

pub(super) struct Cursor<'a> {
    /// The whole file.
    bytes: &'a [u8],
    /// Where reading must stop: the end of the file, or the limit.
    end: usize,
    pos: usize,
    /// The entry being read, e.g. "tensor 7 `blk.0.attn_norm.weight`". Reused, not reallocated per entry.
    place: String,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, end: bytes.len().min(HEADER_LIMIT), pos: 0, place: "header".into() }
    }

    pub fn place(&mut self, place: fmt::Arguments<'_>) {
        self.place.clear();
        // Writing to a String cannot fail.
        let _ = self.place.write_fmt(place);
    }

    pub fn pos(&self) -> u64 {
        self.pos as u64
    }

    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn remaining(&self) -> u64 {
        (self.end - self.pos) as u64
    }

    /// A message with the entry, an offset and the file size: what every error of a malformed file must give.
    pub fn at(&self, what: &str, offset: u64) -> String {
        format!("{}: {what} at byte {offset}; file size {}", self.place, self.len())
    }

    pub fn error(&self, code: &'static Code, what: &str) -> Error {
        Error::new(code, self.at(what, self.pos()))
    }

    /// Refuses `count` entries of at least `min` bytes each where the rest of the file cannot hold them. Called
    /// before anything is allocated for them.
    pub fn bound(&self, count: u64, min: u64, of: &str) -> Result<()> {
        let most = self.remaining() / min;
        if count <= most {
            return Ok(());
        }
        Err(self
            .error(&GGUF_COUNT, &format!("more {of} than the file can hold"))
            .expected(format!("at most {most} ({} bytes left, {min} or more each)", self.remaining()))
            .found(count)
            .hint("check the file's size against its source: the download may have stopped early"))
    }

    pub fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8]> {
        if len > self.remaining() {
            if len <= (self.bytes.len() - self.pos) as u64 {
                return Err(self
                    .error(&GGUF_COUNT, &format!("metadata and tensor table do not end before {what}"))
                    .expected(format!("at most {HEADER_LIMIT} bytes of them"))
                    .found(format!("byte {}", self.pos() + len)));
            }
            return Err(self
                .error(&GGUF_TRUNCATED, &format!("the file ends within {what}"))
                .expected(format!("{len} bytes"))
                .found(format!("{} bytes left", self.remaining()))
                .hint("check the file's size against its source: the download may have stopped early"));
        }
        let start = self.pos;
        self.pos += len as usize;
        Ok(&self.bytes[start..self.pos])
    }

    pub fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// `len` bytes as UTF-8, refused with `code` if they are not.
    pub fn text(&mut self, len: u64, what: &str, code: &'static Code) -> Result<&'a str> {
        let start = self.pos();
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes).map_err(|e| {
            Error::new(code, self.at(&format!("{what} is not UTF-8"), start + e.valid_up_to() as u64))
                .expected("UTF-8")
                .found(format!("byte {:#04x}", bytes[e.valid_up_to()]))
        })
    }

    /// A GGUF string: a u64 length and that many bytes of UTF-8.
    pub fn string(&mut self, what: &str, code: &'static Code) -> Result<&'a str> {
        let len = self.u64(what)?;
        self.text(len, what, code)
    }
}
