//! Kernel sources as they travel to a compiler: the entry file and every header that it can reach.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

crate::codes! {
    KERNEL_SOURCE: "kernel-source", No, "A kernel's source could not be gathered: a file is missing, is not UTF-8, is too \
        large, or includes something outside kernels/.";
}

/// Largest single kernel source; a table of constants fits, a dump does not.
const LARGEST_FILE: u64 = 1 << 20;

/// A translation unit without the compiler's own headers. Paths are relative to `kernels/`, with `/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSet {
    pub main: String,
    pub files: BTreeMap<String, String>,
}

impl SourceSet {
    /// Reads `main` and whatever it includes with quotes, from `root` (the `kernels/` folder) alone.
    ///
    /// An include is searched beside the including file first, then from `root`. Conditionals are not evaluated: a
    /// header behind an `#ifdef` is part of the set, so that nothing can be slipped in by a macro.
    pub fn gather(root: &Path, main: &str) -> Result<SourceSet> {
        let mut set = SourceSet { main: main.into(), files: BTreeMap::new() };
        let mut open = vec![main.to_string()];
        while let Some(path) = open.pop() {
            if set.files.contains_key(&path) {
                continue;
            }
            let text = read(root, &path)?;
            for include in quoted_includes(&text) {
                let beside = join(&path, include);
                let found = [beside, normal(include)].into_iter().flatten().find(|p| root.join(p).is_file());
                open.push(found.ok_or_else(|| {
                    Error::new(&KERNEL_SOURCE, format!("{path} includes \"{include}\", which is not in kernels/"))
                        .expected("a header below kernels/")
                        .hint("assay ops --write-headers makes kernels/args/")
                })?);
            }
            set.files.insert(path, text);
        }
        Ok(set)
    }

    /// Content digest: paths and texts, in order.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for part in [&self.main].into_iter().chain(self.files.iter().flat_map(|(p, t)| [p, t])) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        hex(&hash.finalize())
    }

    pub fn text(&self) -> &str {
        self.files.get(&self.main).map_or("", String::as_str)
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn read(root: &Path, path: &str) -> Result<String> {
    let full = root.join(path);
    let meta = full.symlink_metadata().map_err(|e| Error::io(&full, e))?;
    if !meta.is_file() {
        return Err(Error::new(&KERNEL_SOURCE, format!("kernels/{path} is no regular file")));
    }
    if meta.len() > LARGEST_FILE {
        return Err(Error::new(&KERNEL_SOURCE, format!("kernels/{path} is too large"))
            .expected(format!("at most {LARGEST_FILE} bytes"))
            .found(meta.len()));
    }
    let bytes = std::fs::read(&full).map_err(|e| Error::io(&full, e))?;
    String::from_utf8(bytes).map_err(|_| Error::new(&KERNEL_SOURCE, format!("kernels/{path} is not UTF-8")))
}

fn quoted_includes(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim_start();
        rest.strip_prefix('"')?.split('"').next()
    })
}

/// `path`'s folder joined with `include`; `None` when it leaves `kernels/`.
fn join(path: &str, include: &str) -> Option<String> {
    match path.rsplit_once('/') {
        Some((dir, _)) => normal(&format!("{dir}/{include}")),
        None => normal(include),
    }
}

fn normal(path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            p => parts.push(p),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn includes_stay_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("common")).unwrap();
        std::fs::write(dir.path().join("a.cu"), "#include \"common/x.cuh\"\n").unwrap();
        std::fs::write(dir.path().join("common/x.cuh"), " # include \"y.cuh\"\n").unwrap();
        std::fs::write(dir.path().join("common/y.cuh"), "#pragma once\n").unwrap();
        let set = SourceSet::gather(dir.path(), "a.cu").unwrap();
        assert_eq!(set.files.keys().collect::<Vec<_>>(), ["a.cu", "common/x.cuh", "common/y.cuh"]);
        std::fs::write(dir.path().join("common/y.cuh"), "#include \"../../etc/passwd\"\n").unwrap();
        assert_eq!(SourceSet::gather(dir.path(), "a.cu").unwrap_err().code().id, "kernel-source");
    }
}
