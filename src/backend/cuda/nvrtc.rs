//! Compiling with NVRTC: sources from memory to a cubin, or to PTX for the stub check.
//!
//! No GPU and no toolkit is needed. The option list is fixed and part of every digest; includes resolve to the
//! `SourceSet` (given as in-memory headers) or to the compiler's own headers, never to the current folder. NVRTC itself
//! is loaded by confined processes alone ([`compile`](crate::backend::worker::compile)): here it is found and asked, and
//! what it answers is judged.

pub(crate) mod library;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use serde::{Deserialize, Serialize};

use super::{
    EntryResources, NVRTC_ARCH, NVRTC_COMPILE, NVRTC_ENTRY, NVRTC_FAILED, NVRTC_LIMIT, NVRTC_MISSING, cache, cubin,
    find::{self, Attempt, Candidate, INSTALL, Places},
    resources,
};
use crate::{
    backend::worker::{
        Sandbox,
        compile::{Begin, Output, Pool, Starter, Tried, Want},
    },
    error::{Error, Result},
    plan::source::SourceSet,
};

const OUT_OF_MEMORY: i32 = 1;
const INVALID_OPTION: i32 = 5;
const COMPILATION_FAILED: i32 = 6;
/// Lines of a compiler's log that an error repeats.
const LOG_LINES: usize = 24;
/// Characters of each.
const LOG_LINE: usize = 400;

/// Options of every compilation, besides the architecture and the header folders. Part of every digest.
pub const OPTIONS: &[&str] = &["--std=c++17", "--no-source-include", "--ptxas-options=-v"];

/// NVIDIA's run-time compiler, in processes of its own.
pub struct Nvrtc {
    pool: Box<Pool>,
    path: PathBuf,
    from: String,
    version: (u32, u32),
    /// Size of the library file, telling patch releases apart; 0 when the loader chose the file.
    size: u64,
    includes: Vec<PathBuf>,
    supported: Vec<u32>,
}

/// A compiled kernel source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compiled {
    /// `sm_90`, `sm_90a` …
    pub arch: String,
    #[serde(skip)]
    pub cubin: Vec<u8>,
    /// The compiler's log: warnings and ptxas's report.
    pub log: String,
    /// In the order of the report.
    pub entries: Vec<EntryResources>,
    /// Version of the compiler, `13.5`.
    pub nvrtc: String,
    pub options: Vec<String>,
    /// What confined the compiler.
    pub sandbox: Sandbox,
}

impl Nvrtc {
    /// Finds NVRTC and has a process load it; see [`Places`] for the order.
    pub fn find() -> Result<Nvrtc> {
        Self::find_in(&Places::from_env(), &Starter::new()?)
    }

    pub fn find_in(places: &Places, starter: &Starter) -> Result<Nvrtc> {
        let (candidates, mut tried) = places.candidates();
        // Names that the loader is asked for are tried in one process, which may read what the loader reads.
        let bare = |c: &Candidate| !c.path.is_absolute();
        for group in candidates.chunk_by(|a, b| bare(a) && bare(b)) {
            match Self::open(group, places, starter)? {
                Ok(found) => return Ok(found),
                Err(why) => tried.extend(group.iter().zip(why).map(|(c, why)| Attempt::new(c.path.display(), why))),
            }
        }
        let lines: Vec<_> = tried.iter().map(|a| format!("\n    {}: {}", a.place, a.why)).collect();
        Err(Error::new(&NVRTC_MISSING, "no usable NVRTC, the compiler for CUDA kernels")
            .expected("libnvrtc.so.12 or later")
            .found(format!("none; tried{}", lines.concat()))
            .hint(INSTALL))
    }

    /// The first usable one of a group, or what is wrong with each.
    fn open(group: &[Candidate], places: &Places, starter: &Starter) -> Result<Result<Nvrtc, Vec<String>>> {
        let headers = cache::directory().map(|dir| dir.join("nvrtc-headers"));
        if let Ok(dir) = &headers {
            // What is not there cannot be opened to the process. Where it cannot be made, that is said if it is needed.
            let _ = std::fs::create_dir_all(dir);
        }
        let read = group.iter().flat_map(|c| folders(c, places)).chain(headers.iter().cloned()).collect();
        let begin = Begin { libraries: group.iter().map(|c| c.path.clone()).collect(), read, write: None };
        let (opened, mut failed, pool) = match Pool::open(starter, begin)? {
            Tried::Opened(opened, failed, pool) => (opened, failed, pool),
            Tried::None(why) => return Ok(Err(why)),
        };
        let candidate = &group[opened.library];
        let version = opened.about.version;
        // Those behind it would use the same headers.
        let mut fail = |why: String| {
            failed.resize(group.len(), why);
            Ok(Err(std::mem::take(&mut failed)))
        };
        let includes = match opened.about.bundled {
            true => match headers.and_then(|dir| bundled_headers(&pool, &dir, version)) {
                Ok(includes) => includes,
                Err(e) => return fail(e.what().to_owned()),
            },
            false => candidate.includes.clone(),
        };
        if includes.is_empty() {
            return fail("has no cuda_fp16.h in it or beside it (the package nvidia-cuda-runtime has one)".into());
        }
        let size = candidate.path.canonicalize().and_then(std::fs::metadata).map_or(0, |m| m.len());
        Ok(Ok(Nvrtc {
            pool,
            path: candidate.path.clone(),
            from: candidate.from.clone(),
            version,
            size,
            includes,
            supported: opened.about.supported,
        }))
    }

    /// A compilation under way ends when `halt` is set.
    pub fn halt_by(&mut self, halt: &Arc<AtomicBool>) {
        self.pool.halt_by(halt);
    }

    /// The processes themselves, which no rule for sources guards.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What confines the compiler.
    pub fn sandbox(&self) -> &Sandbox {
        self.pool.sandbox()
    }

    /// `13.5`.
    pub fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which kind of place it was found in.
    pub fn from(&self) -> &str {
        &self.from
    }

    /// Compute capabilities that it compiles for, e.g. 90.
    pub fn supported(&self) -> &[u32] {
        &self.supported
    }

    /// Whether it compiles for `sm_90`, `sm_90a` and the like.
    pub fn supports(&self, arch: &str) -> bool {
        capability(arch).is_some_and(|n| self.supported.contains(&n))
    }

    /// What a cubin depends on besides sources and architecture: compiler and options.
    pub fn fingerprint(&self) -> String {
        format!("nvrtc {} ({} bytes) {}", self.version(), self.size, OPTIONS.join(" "))
    }

    /// Compiles to a cubin for `arch` (`sm_90`) and sees that `entries` are in it.
    pub fn compile(&self, source: &SourceSet, entries: &[String], arch: &str) -> Result<Compiled> {
        let (cubin, log) = self.build(source, arch, Want::Cubin)?;
        let kernels = cubin::kernels(&cubin)?;
        if let Some(missing) = entries.iter().find(|e| !kernels.contains_key(*e)) {
            let names: Vec<_> = kernels.keys().map(String::as_str).collect();
            return Err(Error::new(&NVRTC_ENTRY, format!("{} does not define the entry `{missing}`", source.main))
                .expected(format!("extern \"C\" __global__ void {missing}(const …Args a)"))
                .found(if names.is_empty() { "no entry at all".into() } else { names.join(", ") }));
        }
        Ok(Compiled {
            arch: arch.to_owned(),
            cubin,
            entries: resources::parse(&log),
            log,
            nvrtc: self.version(),
            options: OPTIONS.iter().map(|o| (*o).to_owned()).collect(),
            sandbox: self.sandbox().clone(),
        })
    }

    /// Compiles to PTX for the virtual architecture of `arch`: the text that [`super::ptx`] judges.
    pub fn ptx(&self, source: &SourceSet, arch: &str) -> Result<String> {
        let (mut ptx, _) = self.build(source, arch, Want::Ptx)?;
        while ptx.last() == Some(&0) {
            ptx.pop();
        }
        String::from_utf8(ptx).map_err(|_| Error::new(&NVRTC_FAILED, "NVRTC made PTX that is not UTF-8"))
    }

    /// The code and the log.
    fn build(&self, source: &SourceSet, arch: &str, want: Want) -> Result<(Vec<u8>, String)> {
        crate::plan::rules::check(source)?;
        let suffix = arch.strip_prefix("sm_").filter(|_| self.supports(arch)).ok_or_else(|| {
            let known: Vec<_> = self.supported.iter().map(|n| format!("sm_{n}")).collect();
            Error::new(&NVRTC_ARCH, format!("NVRTC {} cannot compile for {arch}", self.version()))
                .expected(known.join(", "))
                .hint(INSTALL.replace("install", "install --upgrade"))
        })?;
        let target = match want {
            Want::Cubin => "sm_",
            Want::Ptx => "compute_",
        };
        let mut options = vec![format!("--gpu-architecture={target}{suffix}")];
        options
            .extend(OPTIONS.iter().filter(|o| target == "sm_" || !o.starts_with("--ptxas")).map(|o| (*o).to_owned()));
        if self.version >= (12, 9) {
            // Where there is a driver, it keeps compilations by itself from this version on, without their log.
            options.push("--no-cache".into());
            // A fifth of the time, and the same code: without what kernels have no use for, textures above all.
            options.push("--minimal".into());
        }
        options.extend(self.includes.iter().map(|dir| format!("--include-path={}", dir.display())));

        let Output { code, word, log, bytes } = self.pool.compile(source, options, want, arch)?;
        // The same sources give the same log: times are left out of it.
        let log: String = log.lines().filter(|l| !l.contains(": Compile time =")).flat_map(|l| [l, "\n"]).collect();
        match code {
            0 => Ok((bytes, log)),
            COMPILATION_FAILED => {
                Err(Error::new(&NVRTC_COMPILE, format!("{} does not compile for {arch}", source.main))
                    .found(excerpt(&log)))
            }
            OUT_OF_MEMORY => {
                Err(Error::new(&NVRTC_LIMIT, format!("{}: NVRTC has not enough memory for {arch}", source.main))
                    .found(excerpt(&log)))
            }
            INVALID_OPTION => {
                Err(Error::new(&NVRTC_ARCH, format!("NVRTC {} refused its options for {arch}", self.version()))
                    .found(excerpt(&log)))
            }
            _ => {
                Err(Error::new(&NVRTC_FAILED, format!("nvrtcCompileProgram failed: {word} ({code})"))
                    .found(excerpt(&log)))
            }
        }
    }
}

/// What a process that opens this library has to be able to read, besides the system's own.
fn folders(candidate: &Candidate, places: &Places) -> Vec<PathBuf> {
    let mut out = candidate.includes.clone();
    if candidate.path.is_absolute() {
        // A link's own folder and where it leads, of both parts.
        for file in find::builtins(&candidate.path).iter().chain([&candidate.path]) {
            let real = file.canonicalize().ok();
            out.extend(
                [Some(file), real.as_ref()].into_iter().flatten().filter_map(|f| Some(f.parent()?.to_path_buf())),
            );
        }
    } else {
        out.extend(places.loader_folders());
    }
    out
}

/// Has the compiler's own headers unpacked into the cache, once a version, and returns the include folders.
fn bundled_headers(pool: &Pool, headers: &Path, version: (u32, u32)) -> Result<Vec<PathBuf>> {
    let dir = headers.join(format!("{}.{}", version.0, version.1));
    let marker = std::fs::read_to_string(dir.join(".nvrtc_headers_version")).unwrap_or_default();
    let is = |key: &str, value: u32| marker.lines().any(|l| l == format!("{key}={value}"));
    // The library writes the marker last. Without this look, a read-only cache could not be used.
    if !(is("cuda_major", version.0) && is("cuda_minor", version.1)) {
        std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
        pool.unpack(dir.clone())?;
    }
    Ok(vec![dir.clone(), dir.join("cccl")])
}

/// `sm_120a` → 120.
fn capability(arch: &str) -> Option<u32> {
    let digits = arch.strip_prefix("sm_")?;
    let digits = digits.strip_suffix(['a', 'f']).unwrap_or(digits);
    Some(digits).filter(|d| d.bytes().all(|b| b.is_ascii_digit())).and_then(|d| d.parse().ok())
}

fn excerpt(log: &str) -> String {
    let lines: Vec<_> = log.lines().filter(|l| !l.trim().is_empty()).collect();
    let mut out = String::from("the compiler's log:");
    for line in lines.iter().take(LOG_LINES) {
        out.push_str("\n    ");
        out.extend(line.chars().take(LOG_LINE));
    }
    if lines.len() > LOG_LINES {
        out.push_str(&format!("\n    … {} more lines", lines.len() - LOG_LINES));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::capability;

    #[test]
    fn architectures_are_numbers_with_at_most_one_letter() {
        let cases = [("sm_90", Some(90)), ("sm_90a", Some(90)), ("sm_121a", Some(121)), ("sm_100f", Some(100))];
        for (arch, want) in cases {
            assert_eq!(capability(arch), want, "{arch}");
        }
        for bad in ["90", "sm_", "sm_9x", "compute_90", "sm_90aa", "sm_+9"] {
            assert_eq!(capability(bad), None, "{bad}");
        }
    }
}
