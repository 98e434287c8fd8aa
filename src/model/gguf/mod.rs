//! A strict reader of GGUF v2 and v3 over a memory map.
//!
//! Nothing is believed before it is bounded: a count is compared with the bytes that are left before anything is
//! allocated for it, every sum and product of file values is checked, and the first thing that is wrong ends the
//! reading with the entry, the byte offset and the file size. What a *well-formed* file says is judged elsewhere
//! ([`super::config`], [`super::layout`]), all of it at once.
//!
//! Only the header is read; tensor data stays in the map until somebody asks for it, so that an 81 GB file opens in
//! the time its few MB of metadata take.

mod bus;
mod codes;
mod cursor;
mod stamp;
mod tensors;
mod value;
pub mod write;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

pub use codes::*;
pub use stamp::{Source, Stamp};
pub use tensors::TensorInfo;
pub use value::{Array, Value};

use crate::words::shell_path;
use crate::{Error, Result};
use cursor::Cursor;

/// The smallest key-value entry: key length (8), value type (4), a one-byte value.
const MIN_KV_BYTES: u64 = 13;
/// What GGUF's description allows for a key.
const MAX_KEY_BYTES: u64 = 65_535;
/// Where tensor data starts, and every tensor in it, unless `general.alignment` says otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;

/// An opened GGUF file: its metadata in file order, its tensors, and the bytes behind them.
pub struct Gguf {
    path: PathBuf,
    bytes: Bytes,
    header: Header,
    by_name: HashMap<String, usize>,
}

/// A folder was named: say which files in it may have been meant.
fn directory(path: &Path) -> Error {
    let names = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut models: Vec<PathBuf> = names.filter(|p| p.extension().is_some_and(|e| e == "gguf")).collect();
    models.sort();
    let error = Error::new(&GGUF_MAGIC, format!("{} is a directory", path.display())).expected("a GGUF file");
    match models.as_slice() {
        [] => error.found("a directory without any .gguf file in it").hint("name the file itself"),
        [one] => error.found("a directory").hint(format!("name the file in it: {}", shell_path(one))),
        [one, ..] => {
            let n = crate::words::count(models.len(), ".gguf file");
            error.found(format!("a directory with {n} in it")).hint(format!("name one of them: {}", shell_path(one)))
        }
    }
}

/// Where the bytes live. A map for files; a vector for tests, fuzzing and files built in memory.
enum Bytes {
    /// With the file behind it and what it was then.
    Map {
        map: memmap2::Mmap,
        file: File,
        source: Source,
        _watched: bus::Watched,
    },
    Owned(Vec<u8>),
}

/// What [`Gguf::parse`] finds: everything but the bytes.
#[derive(Debug)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Key-value pairs in file order; keys are unique, not empty, UTF-8.
    pub kv: Vec<(String, Value)>,
    /// Tensors in file order; names are unique.
    pub tensors: Vec<TensorInfo>,
    /// Alignment of tensor data in bytes: a power of two ≥ 8.
    pub alignment: u64,
    /// Offset in bytes of the tensor data from the start of the file.
    pub data_start: u64,
    /// Groups of tensors (indices into `tensors`, ascending) that name exactly the same bytes; groups of two or more.
    pub aliases: Vec<Vec<usize>>,
}

impl Gguf {
    /// Maps the file and reads its header.
    ///
    /// Errors: `io` (the file cannot be opened or mapped) and the `gguf-*` codes, all of kind `CouldNotRun`.
    pub fn open(path: &Path) -> Result<Gguf> {
        // Before it is opened: to open a pipe is to wait for its writer.
        let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if meta.is_dir() {
            return Err(directory(path));
        }
        if !meta.is_file() {
            return Err(Error::new(&GGUF_MAGIC, format!("{} is no regular file", path.display()))
                .expected("a GGUF file, which can be mapped into memory")
                .found("a pipe, a socket or a device")
                .hint("write it to a file first, and name that"));
        }
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let meta = file.metadata().map_err(|e| Error::io(path, e))?;
        if meta.len() == 0 {
            // mmap refuses an empty range with a message about arguments; say what is wrong instead.
            return Self::build(path, Bytes::Owned(Vec::new()));
        }
        // SAFETY: the map is read-only. As with every mapped file, another process that truncates it while we read
        // gets us a SIGBUS, which `bus` reports; the alternative, copying 81 GB, is worse.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        let real = path.canonicalize().map_err(|e| Error::io(path, e))?;
        let source = Source { stamp: Stamp::of(&file, path)?, path: real };
        Self::build(path, Bytes::Map { _watched: bus::Watched::new(&map, path), map, file, source })
    }

    /// The same over bytes in memory; `path` only names them in messages.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Gguf> {
        Self::build(path, Bytes::Owned(bytes))
    }

    fn build(path: &Path, bytes: Bytes) -> Result<Gguf> {
        let header = Self::parse(bytes.as_slice()).map_err(|e| in_file(path, e))?;
        let by_name = header.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Ok(Gguf { path: path.to_owned(), bytes, header, by_name })
    }

    /// Reads a header from the bytes of a whole file, without keeping them.
    pub fn parse(bytes: &[u8]) -> Result<Header> {
        let mut c = Cursor::new(bytes);
        let version = read_magic(&mut c)?;
        let tensor_count = c.u64("the tensor count")?;
        let kv_count = c.u64("the metadata count")?;
        c.bound(tensor_count, tensors::MIN_INFO_BYTES, "tensors")?;
        c.bound(kv_count, MIN_KV_BYTES, "metadata entries")?;
        let kv = read_kv(&mut c, kv_count)?;
        let alignment = alignment(&kv, &c)?;
        // The metadata has used bytes up, so the count is bounded again before it sizes anything.
        c.bound(tensor_count, tensors::MIN_INFO_BYTES, "tensors")?;
        let (tensors, data_start) = tensors::read(&mut c, tensor_count, alignment)?;
        let aliases = tensors::check_overlaps(&tensors, bytes.len() as u64)?;
        Ok(Header { version, kv, tensors, alignment, data_start, aliases })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// Bytes of tensor alignment.
    pub fn alignment(&self) -> u64 {
        self.header.alignment
    }

    /// Size of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.bytes.as_slice().len() as u64
    }

    /// Offset in bytes of the tensor data from the start of the file.
    pub fn data_start(&self) -> u64 {
        self.header.data_start
    }

    /// Metadata in file order.
    pub fn kv(&self) -> &[(String, Value)] {
        &self.header.kv
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        // A few dozen keys: a scan is as good as an index.
        self.header.kv.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.header.tensors[i])
    }

    /// Index of a tensor in [`Gguf::tensors`].
    pub fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The stored bytes of one of this file's tensors: `len` of them, row after row. Bounds were checked on opening;
    /// an info of another file yields an empty slice where it lies outside this one.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        let end = tensor.offset.saturating_add(tensor.len);
        self.bytes.as_slice().get(tensor.offset as usize..end as usize).unwrap_or(&[])
    }

    /// The file as it was mapped, and where in it these bytes of the map lie; `None` for bytes of other memory.
    pub fn locate(&self, bytes: &[u8]) -> Option<(&Source, u64)> {
        let Bytes::Map { map, source, .. } = &self.bytes else { return None };
        let at = bytes.as_ptr().addr().checked_sub(map.as_ptr().addr())?;
        (at + bytes.len() <= map.len()).then_some((source, at as u64))
    }

    /// Errors: `gguf-changed` when the mapped file was written to or cut since it was opened. One that took its name in
    /// the meantime is no matter: the map is of the old one.
    pub fn check_unchanged(&self) -> Result<()> {
        match &self.bytes {
            Bytes::Map { file, source, .. } => source.check(file),
            Bytes::Owned(_) => Ok(()),
        }
    }

    /// What the file system says of the mapped file now, whatever has taken its name; `None` for bytes in memory.
    pub fn metadata(&self) -> Option<std::fs::Metadata> {
        match &self.bytes {
            Bytes::Map { file, .. } => file.metadata().ok(),
            Bytes::Owned(_) => None,
        }
    }

    /// Groups of tensors that name exactly the same bytes (indices into [`Gguf::tensors`], ascending).
    pub fn aliases(&self) -> &[Vec<usize>] {
        &self.header.aliases
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Map { map, .. } => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gguf({}, {} tensors)", self.path.display(), self.tensors().len())
    }
}

/// The same error with the file's name in front: the readers below know bytes only.
fn in_file(path: &Path, e: Error) -> Error {
    let mut named = Error::new(e.code(), format!("{}: {}", path.display(), e.what()));
    if let Some(text) = e.expected_text() {
        named = named.expected(text);
    }
    if let Some(text) = e.found_text() {
        named = named.found(text);
    }
    match e.hint_text() {
        Some(text) => named.hint(text),
        None => named,
    }
}

fn read_magic(c: &mut Cursor) -> Result<u32> {
    if c.remaining() >= 4 {
        let magic = c.array::<4>("the magic")?;
        if magic != *b"GGUF" {
            return Err(Error::new(&GGUF_MAGIC, c.at("not a GGUF file", 0))
                .expected("the bytes \"GGUF\" (47 47 55 46)")
                .found(magic.map(|b| format!("{b:02x}")).join(" ")));
        }
    }
    let version = c.u32("the GGUF magic and version")?;
    match version {
        2 | 3 => Ok(version),
        // A small version in the other byte order reads as a multiple of 65536.
        v if v & 0xffff == 0 => Err(Error::new(&GGUF_MAGIC, c.at("the file is big-endian", 4))
            .expected("GGUF version 2 or 3, little-endian")
            .found(format!("version {} in big-endian order", v.swap_bytes()))
            .hint("convert it with gguf-py's gguf_convert_endian.py")),
        v => Err(Error::new(&GGUF_MAGIC, c.at("unsupported GGUF version", 4))
            .expected("2 or 3")
            .found(v)
            .hint("write the file again with a current converter")),
    }
}

fn read_kv(c: &mut Cursor, count: u64) -> Result<Vec<(String, Value)>> {
    // Growth is driven by entries that were really there, not by the count.
    let mut kv = Vec::with_capacity(count.min(4096) as usize);
    let mut seen = std::collections::HashSet::new();
    for i in 0..count {
        c.place(format_args!("metadata entry {i} of {count}"));
        let start = c.pos();
        let len = c.u64("the key's length")?;
        if len == 0 {
            return Err(Error::new(&GGUF_KEY, c.at("empty key", start)).expected("a key of 1 to 65535 bytes"));
        }
        if len > MAX_KEY_BYTES && len <= c.remaining() {
            return Err(Error::new(&GGUF_KEY, c.at("key too long", start))
                .expected("at most 65535 bytes")
                .found(format!("{len} bytes")));
        }
        let key = c.text(len, "the key", &GGUF_KEY)?.to_owned();
        c.place(format_args!("metadata entry {i} `{}`", key.escape_debug()));
        if !seen.insert(key.clone()) {
            return Err(Error::new(&GGUF_KEY, c.at("duplicate key", start)).expected("every key once").found(key));
        }
        let value = value::read(c)?;
        kv.push((key, value));
    }
    Ok(kv)
}

fn alignment(kv: &[(String, Value)], c: &Cursor) -> Result<u64> {
    let wrong = |found: String| {
        Err(Error::new(&GGUF_ALIGNMENT, format!("general.alignment is unusable; file size {}", c.len()))
            .expected("a u32 that is a power of two and at least 8")
            .found(found))
    };
    match kv.iter().find(|(k, _)| k == "general.alignment").map(|(_, v)| v) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(a)) if *a >= 8 && a.is_power_of_two() => Ok(u64::from(*a)),
        Some(Value::U32(a)) => wrong(a.to_string()),
        Some(other) => wrong(format!("{other} of type {}", other.type_name())),
    }
}
