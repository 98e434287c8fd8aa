//! Compiled kernels on disk, by digest of everything that went into them.
//!
//! An entry is written beside its place, synced, and renamed into it, under a lock that the operating system drops when
//! its holder dies. On reading, its key and its content's digest are compared: an entry that is not what it was is
//! compiled again. This guards against accidents; it is no defence against somebody who can write to the folder, and
//! nothing that is recorded as proof rests on it.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{CACHE_DIR, Compiled, Nvrtc};
use crate::{
    error::{Error, Result},
    plan::source::SourceSet,
};

/// First line of every entry. A change of the format changes it, and older entries are compiled again.
const MAGIC: &str = "assay-cache/2\n";

/// `$ASSAY_CACHE_DIR`, else `$XDG_CACHE_HOME/assay`, else `~/.cache/assay`. Not created here.
pub fn directory() -> Result<PathBuf> {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    if let Some(set) = std::env::var_os("ASSAY_CACHE_DIR").filter(|v| !v.is_empty()) {
        return std::path::absolute(&set).map_err(|e| Error::io(PathBuf::from(set), e));
    }
    let base = var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|home| home.join(".cache")));
    base.map(|b| b.join("assay")).ok_or_else(|| {
        Error::new(&CACHE_DIR, "no folder to keep compiled kernels in: neither ASSAY_CACHE_DIR nor HOME is set")
            .hint("export ASSAY_CACHE_DIR=/some/writable/folder")
    })
}

/// Where an entry came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    Cached,
    Made,
    /// There was an entry, and it was damaged, or not good enough.
    Remade,
}

/// A folder of entries of one kind, each a head `H` (one line of JSON) and a payload.
///
/// In the file: [`MAGIC`], a line with the key and the BLAKE3 of all that follows it, the head's line, the payload.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

enum Found<H> {
    Entry(H, Vec<u8>),
    Damaged,
    Nothing,
}

impl Cache {
    /// The entries of `kind` (a folder name) in the user's cache.
    pub fn open(kind: &str) -> Result<Cache> {
        Ok(Cache::at(directory()?.join(kind)))
    }

    pub fn at(dir: impl Into<PathBuf>) -> Cache {
        Cache { dir: dir.into() }
    }

    /// The digest that names an entry: BLAKE3 over all parts, each preceded by its length.
    pub fn key(parts: &[&[u8]]) -> String {
        let mut hash = blake3::Hasher::new();
        for part in parts {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().to_hex().to_string()
    }

    pub fn path(&self, key: &str) -> PathBuf {
        self.dir.join(key.get(..2).unwrap_or("00")).join(key)
    }

    /// The entry of `key` if its head is `good`, or what `make` returns, which is then kept. Of several processes that want the same
    /// entry one makes it and the others wait. A folder that cannot be written only means that nothing is kept.
    pub fn get_or_make<H>(
        &self,
        key: &str,
        good: impl Fn(&H) -> bool,
        make: impl FnOnce() -> Result<(H, Vec<u8>)>,
    ) -> Result<(H, Vec<u8>, Origin)>
    where
        H: Serialize + for<'a> Deserialize<'a>,
    {
        match self.read(key) {
            Found::Entry(head, payload) if good(&head) => return Ok((head, payload, Origin::Cached)),
            _ => {}
        }
        let lock = self.lock(key);
        let origin = match self.read(key) {
            Found::Entry(head, payload) if good(&head) => return Ok((head, payload, Origin::Cached)),
            Found::Entry(..) | Found::Damaged => Origin::Remade,
            Found::Nothing => Origin::Made,
        };
        let (head, payload) = make()?;
        if lock.is_ok() {
            // Failing to keep it costs time at most: a disk that is full, a folder that turned read-only.
            let _ = self.write(key, &head, &payload);
        }
        Ok((head, payload, origin))
    }

    /// Held while an entry is made. One lock file for all keys of a folder: there are never more than 256, so they
    /// are left in place. The lock is flock's and ends with the process that holds it.
    fn lock(&self, key: &str) -> std::io::Result<File> {
        let path = self.path(key).with_file_name(".lock");
        fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        file.lock()?;
        Ok(file)
    }

    fn read<H: for<'a> Deserialize<'a>>(&self, key: &str) -> Found<H> {
        let bytes = match fs::read(self.path(key)) {
            Ok(bytes) => bytes,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Found::Nothing,
            Err(_) => return Found::Damaged,
        };
        match decode(key, &bytes) {
            Some((head, payload)) => Found::Entry(head, payload),
            None => Found::Damaged,
        }
    }

    fn write<H: Serialize>(&self, key: &str, head: &H, payload: &[u8]) -> Result<()> {
        let path = self.path(key);
        let dir = path.parent().unwrap_or(&self.dir);
        let mut content =
            serde_json::to_vec(head).map_err(|e| Error::internal(format!("a cache entry's head: {e}")))?;
        content.push(b'\n');
        content.extend_from_slice(payload);
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(|e| Error::io(dir, e))?;
        let mut write = || -> std::io::Result<()> {
            writeln!(file, "{MAGIC}{key} {}", blake3::hash(&content).to_hex())?;
            file.write_all(&content)?;
            file.as_file().sync_data()
        };
        write().map_err(|e| Error::io(&path, e))?;
        file.persist(&path).map_err(|e| Error::io(&path, e.error))?;
        Ok(())
    }
}

fn decode<H: for<'a> Deserialize<'a>>(key: &str, bytes: &[u8]) -> Option<(H, Vec<u8>)> {
    let line = |bytes: &[u8]| bytes.iter().position(|b| *b == b'\n');
    let bytes = bytes.strip_prefix(MAGIC.as_bytes())?;
    let (seal, content) = bytes.split_at(line(bytes)? + 1);
    if seal != format!("{key} {}\n", blake3::hash(content).to_hex()).as_bytes() {
        return None;
    }
    let (head, payload) = content.split_at(line(content)? + 1);
    Some((serde_json::from_slice(head).ok()?, payload.to_vec()))
}

/// NVRTC behind the cache.
pub struct Cubins<'a> {
    nvrtc: &'a Nvrtc,
    cache: Cache,
}

impl<'a> Cubins<'a> {
    pub fn new(nvrtc: &'a Nvrtc, cache: Cache) -> Self {
        Cubins { nvrtc, cache }
    }

    /// [`Nvrtc::compile`], from the cache where the same sources were compiled before, by a compiler that was confined as
    /// this one is, or more.
    pub fn compile(&self, source: &SourceSet, entries: &[String], arch: &str) -> Result<(Compiled, Origin)> {
        let key = self.key("cubin", source, &entries.join(","), arch)?;
        let least = self.nvrtc.sandbox().level;
        let good = |c: &Compiled| c.sandbox.reaches(least);
        let (mut compiled, cubin, origin) = self.cache.get_or_make(&key, good, || {
            let mut compiled = self.nvrtc.compile(source, entries, arch)?;
            let cubin = std::mem::take(&mut compiled.cubin);
            Ok((compiled, cubin))
        })?;
        compiled.cubin = cubin;
        Ok((compiled, origin))
    }

    /// [`Nvrtc::ptx`], from the cache where the same sources were compiled before.
    pub fn ptx(&self, source: &SourceSet, arch: &str) -> Result<String> {
        let key = self.key("ptx", source, "", arch)?;
        let (_, ptx, _) =
            self.cache.get_or_make(&key, |()| true, || Ok(((), self.nvrtc.ptx(source, arch)?.into_bytes())))?;
        String::from_utf8(ptx).map_err(|_| Error::internal("PTX in the cache is not UTF-8"))
    }

    /// Where the entry of a compilation is kept.
    pub fn path(&self, source: &SourceSet, entries: &[String], arch: &str) -> Result<PathBuf> {
        Ok(self.cache.path(&self.key("cubin", source, &entries.join(","), arch)?))
    }

    fn key(&self, what: &str, source: &SourceSet, entries: &str, arch: &str) -> Result<String> {
        let source = serde_json::to_vec(source).map_err(|e| Error::internal(format!("a source set: {e}")))?;
        let compiler = self.nvrtc.fingerprint();
        Ok(Cache::key(&[what.as_bytes(), &source, entries.as_bytes(), arch.as_bytes(), compiler.as_bytes()]))
    }
}

/// Whether a folder can be written to, creating it when it is missing.
pub fn writable(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    tempfile::NamedTempFile::new_in(dir).map_err(|e| Error::io(dir, e))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, sync::Barrier};

    use super::*;

    fn get(cache: &Cache, key: &str, made: &Cell<u32>) -> (Vec<u8>, Origin) {
        let (head, payload, origin) = cache
            .get_or_make(
                key,
                |_: &String| true,
                || {
                    made.set(made.get() + 1);
                    Ok(("log\nwith lines".to_owned(), b"\n\0payload".to_vec()))
                },
            )
            .unwrap();
        assert_eq!(head, "log\nwith lines");
        (payload, origin)
    }

    #[test]
    fn an_entry_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cubin"));
        let made = Cell::new(0);
        let key = Cache::key(&[b"a", b"b"]);
        assert_eq!(get(&cache, &key, &made), (b"\n\0payload".to_vec(), Origin::Made));
        assert_eq!(get(&cache, &key, &made), (b"\n\0payload".to_vec(), Origin::Cached));
        assert_eq!(made.get(), 1);
        assert_ne!(key, Cache::key(&[b"ab", b""]));
    }

    #[test]
    fn any_damage_is_seen_and_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let made = Cell::new(0);
        let key = Cache::key(&[b"x"]);
        get(&cache, &key, &made);
        let path = cache.path(&key);
        let good = fs::read(&path).unwrap();
        let mut versions: Vec<Vec<u8>> = (0..good.len()).map(|n| good[..n].to_vec()).collect();
        versions.extend((0..good.len()).map(|i| {
            let mut bad = good.clone();
            bad[i] ^= 1;
            bad
        }));
        // An entry that is intact but another's.
        let other = Cache::key(&[b"y"]);
        get(&cache, &other, &made);
        versions.push(fs::read(cache.path(&other)).unwrap());
        for bad in versions {
            fs::write(&path, &bad).unwrap();
            let before = made.get();
            let (payload, origin) = get(&cache, &key, &made);
            assert_eq!(payload, b"\n\0payload");
            assert_eq!((origin, made.get()), (Origin::Remade, before + 1), "{:?}", String::from_utf8_lossy(&bad));
            assert_eq!(fs::read(&path).unwrap(), good);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_only_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a-file");
        fs::write(&file, "").unwrap();
        let made = Cell::new(0);
        assert_eq!(get(&Cache::at(file.join("cubin")), &Cache::key(&[b"x"]), &made).1, Origin::Made);
    }

    #[test]
    fn of_many_at_once_one_makes_it() {
        let dir = tempfile::tempdir().unwrap();
        let made = std::sync::atomic::AtomicU32::new(0);
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    start.wait();
                    let make = || {
                        made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        Ok(((), b"x".to_vec()))
                    };
                    Cache::at(dir.path()).get_or_make(&Cache::key(&[b"k"]), |()| true, make).unwrap();
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }
}
