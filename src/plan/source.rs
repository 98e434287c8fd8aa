//! The source of one kernel: its `.cu` file and every header it reaches, as text.
//!
//! A [`SourceSet`] is what a closure digest is taken of and what the two compilers get; neither reads the kernel
//! directory itself. The emulator's shim (`emu/`) is never part of it: that belongs to the verifier, which carries its
//! own copy, so a kernel cannot bring one along.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tokens::{Kind, quoted_includes, tokens};
use crate::error::{Error, Result};

crate::codes! {
    SOURCE_INCLUDE: "source-include", No, "A kernel may include headers below kernels/ only, by their path from there \
        (`#include \"common/cuda.cuh\"`). Absolute paths, `..` and symlinks are refused: git keeps a link and not what it leads to.";
    SOURCE_FILE: "source-file", No, "A file below kernels/ is none that a kernel can consist of: no plain file, larger than 1 MiB, \
        not UTF-8, or not to be opened.";
    SOURCE_MISSING: "source-missing", No, "A kernel includes a header that does not exist below kernels/.";
}

/// Folder of the emulator's shim, resolved by the emulator alone.
const SHIM: &str = "emu/";

/// Paths are relative to `kernels/`, with `/` between components.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSet {
    pub main: String,
    pub files: BTreeMap<String, String>,
}

impl SourceSet {
    /// Reads `main` and, transitively, every `#include "…"` below `root`. Conditional includes are all followed, so the
    /// set does not depend on which compiler reads it.
    pub fn load(root: &Path, main: &str) -> Result<Self> {
        let real_root = root.canonicalize().map_err(|e| Error::io(root, e))?;
        let mut files = BTreeMap::new();
        let mut queue = vec![(main.to_string(), None::<String>)];
        while let Some((name, from)) = queue.pop() {
            if files.contains_key(&name) {
                continue;
            }
            let path = resolve(&real_root, &name, from.as_deref())?;
            let text = read_plain(&path)?;
            for include in quoted_includes(&tokens(&text)) {
                // As the compilers look it up: beside the including file, then below kernels/.
                let beside = name.rsplit_once('/').map(|(dir, _)| format!("{dir}/{include}"));
                let target = match beside {
                    Some(b) if real_root.join(&b).is_file() => b,
                    _ => include.to_string(),
                };
                if !target.starts_with(SHIM) {
                    queue.push((target, Some(name.clone())));
                }
            }
            files.insert(name, text);
        }
        Ok(SourceSet { main: main.to_string(), files })
    }

    /// A set of one file, for tests and generated sources.
    pub fn single(main: impl Into<String>, text: impl Into<String>) -> Self {
        let main = main.into();
        SourceSet { files: BTreeMap::from([(main.clone(), text.into())]), main }
    }

    /// Whether no compiler can tell the two apart: they differ in comments and blanks alone, if at all.
    pub fn same_code(&self, other: &SourceSet) -> bool {
        let alike =
            |(name, text): (&String, &String)| other.files.get(name).is_some_and(|theirs| code(text) == code(theirs));
        self.main == other.main && self.files.len() == other.files.len() && self.files.iter().all(alike)
    }

    /// Digest of names and contents, for caches.
    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(self.main.as_bytes());
        for (name, text) in &self.files {
            part(name.as_bytes());
            part(text.as_bytes());
        }
        hasher.finalize()
    }
}

/// What a compiler sees of a text. Of directives, where a blank can matter, the lines as they stand.
fn code(text: &str) -> (Vec<(Kind, String)>, Vec<&str>) {
    let mut out: Vec<(Kind, String)> = tokens(text).into_iter().map(|t| (t.kind, t.text)).collect();
    out.dedup_by(|a, b| a.0 == Kind::EndOfLine && b.0 == Kind::EndOfLine);
    let ends = out.last().is_some_and(|last| last.0 == Kind::EndOfLine);
    out.truncate(out.len() - usize::from(ends));
    let (mut lines, mut spliced) = (Vec::new(), false);
    for line in text.lines() {
        let directive = line.trim_start().starts_with(['#', '%', '?']);
        let splices = line.trim_end().ends_with(['\\', '/']);
        if directive || spliced || splices {
            lines.push(line);
        }
        spliced = splices;
    }
    (out, lines)
}

/// Most bytes of a source or a manifest.
pub const LARGEST: u64 = 1 << 20;

/// The text of a plain file of at most [`LARGEST`] bytes. A pipe would keep its reader waiting, a huge file would fill the
/// memory, and the target of a link is not what lies in kernels/.
pub fn read_plain(path: &Path) -> Result<String> {
    use rustix::fs::{Mode, OFlags};
    let unfit = |what: &str| {
        Error::new(&SOURCE_FILE, format!("{} {what}", path.display())).expected("a plain UTF-8 file of at most 1 MiB")
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::LOOP) => return Err(unfit("is a symlink")),
        Err(e) => return Err(unfit(&format!("cannot be opened: {e}"))),
    };
    let file = std::fs::File::from(fd);
    let about = file.metadata().map_err(|e| Error::io(path, e))?;
    if !about.is_file() {
        return Err(unfit("is no plain file"));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| unfit(&format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > LARGEST {
        return Err(unfit("is larger than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| unfit("is not UTF-8"))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The file that `name` stands for, or why it is refused.
fn resolve(root: &Path, name: &str, from: Option<&str>) -> Result<PathBuf> {
    let whose = || from.map_or_else(|| name.to_string(), |f| format!("{f} includes \"{name}\""));
    if Path::new(name).components().any(|c| !matches!(c, Component::Normal(_))) {
        return Err(Error::new(&SOURCE_INCLUDE, format!("{}, which is no path below kernels/", whose()))
            .expected("a path below kernels/")
            .found(name));
    }
    let path = root.join(name);
    let real = path
        .canonicalize()
        .map_err(|e| Error::new(&SOURCE_MISSING, format!("{}: {e}", whose())).expected(path.display()).because(e))?;
    if !real.starts_with(root) {
        return Err(Error::new(&SOURCE_INCLUDE, format!("{}, a link that leads outside of kernels/", whose()))
            .expected("a path below kernels/")
            .found(real.display()));
    }
    // Inside too: it would be judged as one file and landed as another.
    if real != path {
        return Err(Error::new(&SOURCE_INCLUDE, format!("{}, a link to another file of kernels/", whose()))
            .expected("the file itself")
            .found(real.display()));
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_includes_and_refuses_to_leave() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join("kernels").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a.cu", "#include \"common/x.cuh\"\n #  include \"emu/cuda.h\"\n#include <cuda_fp16.h>\n");
        write("common/x.cuh", "#include \"y.cuh\"\n");
        write("common/y.cuh", "");
        write("b.cu", "#include \"../../etc/passwd\"\n");
        write("c.cu", "#include \"gone.cuh\"\n");
        let root = dir.path().join("kernels");
        let set = SourceSet::load(&root, "a.cu").unwrap();
        assert_eq!(set.files.keys().collect::<Vec<_>>(), ["a.cu", "common/x.cuh", "common/y.cuh"]);
        assert_eq!(SourceSet::load(&root, "b.cu").unwrap_err().code().id, "source-include");
        assert_eq!(SourceSet::load(&root, "c.cu").unwrap_err().code().id, "source-missing");
        std::fs::write(dir.path().join("secret"), "").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), root.join("link.cuh")).unwrap();
        write("d.cu", "#include \"link.cuh\"\n");
        assert_eq!(SourceSet::load(&root, "d.cu").unwrap_err().code().id, "source-include");
        // A link that stays inside is no file either, nor is one below a linked folder.
        std::os::unix::fs::symlink("a.cu", root.join("e.cu")).unwrap();
        assert_eq!(SourceSet::load(&root, "e.cu").unwrap_err().code().id, "source-include");
        std::os::unix::fs::symlink("common", root.join("other")).unwrap();
        write("f.cu", "#include \"other/y.cuh\"\n");
        assert_eq!(SourceSet::load(&root, "f.cu").unwrap_err().code().id, "source-include");
    }

    #[test]
    fn comments_and_blanks_are_no_code() {
        let same = |a: &str, b: &str| SourceSet::single("a.cu", a).same_code(&SourceSet::single("a.cu", b));
        assert!(same("int f(); // one\n\n", "/* two */ int\tf();\n"));
        assert!(!same("int f();", "int g();"));
        assert!(!same("#define f(x) x\n", "#define f (x) x\n"));
        assert!(!same("char* s = \"a b\";", "char* s = \"a  b\";"));
        assert!(!same("// x\\\nint f();\n", "// x\nint f();\n"));
        assert!(!SourceSet::single("a.cu", "").same_code(&SourceSet::single("b.cu", "")));
    }

    #[test]
    fn digest_separates_names_from_contents() {
        let a = SourceSet::single("a.cu", "bc");
        let b = SourceSet::single("a.cub", "c");
        assert_ne!(a.digest(), b.digest());
    }
}
