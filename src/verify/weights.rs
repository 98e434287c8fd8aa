//! The digest of a file's weights, and where it is kept so that an 81 GB file is hashed once.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::backend::cuda::cache;
use crate::error::{Error, Result};
use crate::ledger::Digest;
use crate::model::Model;

/// What identifies a file's contents without reading them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: i64,
    modified_ns: i64,
    changed: i64,
    changed_ns: i64,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    stamp: Stamp,
    digest: Digest,
}

/// Digest over every tensor's name, type, dims and bytes, in order of their names; where the tensors lie in the file,
/// and its metadata, do not enter. Taken from the cache when the file has not changed since. It is of the file that is
/// mapped, and whose bytes are judged: another one that has taken its name lends it nothing.
pub fn digest(model: &Model) -> Result<Digest> {
    model.gguf.check_unchanged()?;
    if let Some(digest) = known(model) {
        return Ok(digest);
    }
    let digest = compute(model);
    // Bytes that were written to while they were hashed are nobody's.
    model.gguf.check_unchanged()?;
    if let Some((stamp, file)) = place(model) {
        // A cache that cannot be written costs time, nothing else.
        let _ = keep(&file, &Kept { stamp, digest });
    }
    Ok(digest)
}

/// The digest from the cache; `None` until the file as it is now has been hashed.
pub fn known(model: &Model) -> Option<Digest> {
    let (stamp, file) = place(model)?;
    let kept: Kept = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    (kept.stamp == stamp).then_some(kept.digest)
}

/// Files up to this size are hashed whenever a command asks; larger ones only by a verdict that is recorded, or
/// when a user asks for that (`status --hash`).
const HASHED_AT_ONCE: u64 = 2 << 30;

/// Whether the weights of a large file have not been hashed yet, which a command that looks does not wait for.
pub fn unhashed(model: &Model) -> bool {
    model.gguf.file_len() > HASHED_AT_ONCE && known(model).is_none()
}

fn place(model: &Model) -> Option<(Stamp, PathBuf)> {
    let stamp = stamp(model)?;
    let name = format!("{}-{}.json", stamp.device, stamp.inode);
    Some((stamp, cache::directory().ok()?.join("weights").join(name)))
}

fn compute(model: &Model) -> Digest {
    let mut tensors: Vec<_> = model.gguf.tensors().iter().collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let parts: Vec<[u8; 32]> = tensors
        .par_iter()
        .map(|t| {
            let mut hash = Sha256::new();
            hash.update((t.name.len() as u64).to_le_bytes());
            hash.update(t.name.as_bytes());
            hash.update(t.dtype.map_or("", |d| d.name()));
            for d in &t.dims {
                hash.update(d.to_le_bytes());
            }
            hash.update(model.gguf.bytes(t));
            hash.finalize().into()
        })
        .collect();
    Digest::of(&parts.concat())
}

fn stamp(model: &Model) -> Option<Stamp> {
    let m = model.gguf.metadata()?;
    Some(Stamp {
        device: m.dev(),
        inode: m.ino(),
        size: m.size(),
        modified: m.mtime(),
        modified_ns: m.mtime_nsec(),
        changed: m.ctime(),
        changed_ns: m.ctime_nsec(),
    })
}

fn keep(file: &Path, kept: &Kept) -> Result<()> {
    let dir = file.parent().ok_or_else(|| Error::internal("a cache without a folder"))?;
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    let mut temp = tempfile::NamedTempFile::new_in(dir).map_err(|e| Error::io(dir, e))?;
    serde_json::to_writer(&mut temp, kept).map_err(|e| Error::internal(e.to_string()))?;
    temp.persist(file).map_err(|e| Error::io(file, e.error))?;
    Ok(())
}
