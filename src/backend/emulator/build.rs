//! From a [`SourceSet`] to a shared object, through a cache on disk.
//!
//! The cache key covers the sources, the shim, the entries, the compiler and its flags. Objects appear by an atomic
//! rename under a `flock`, which the kernel drops with its holder: a process that dies leaves a folder of scratch, which a
//! later compilation takes away. Beside each lies a file that says what confined its compiler. It is taken away before the
//! object is replaced and comes after it, so that it never speaks of another one; an object without it is made again.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::codes;
use super::compiler::Compiler;
use crate::backend::source::SourceSet;
use crate::backend::worker::confine::{self, Level, Policy, Sandbox};
use crate::backend::{Built, Module};
use crate::error::{Error, Result};
use crate::process;

/// The shim: written beside the kernel's own files for each compilation.
const SHIM: [(&str, &str); 8] = [
    ("emu/cuda.h", include_str!("../../../kernels/emu/cuda.h")),
    ("emu/vector.h", include_str!("../../../kernels/emu/vector.h")),
    ("emu/math.h", include_str!("../../../kernels/emu/math.h")),
    ("emu/half.h", include_str!("../../../kernels/emu/half.h")),
    ("emu/warp.h", include_str!("../../../kernels/emu/warp.h")),
    ("emu/atomic.h", include_str!("../../../kernels/emu/atomic.h")),
    ("emu/mma.h", include_str!("../../../kernels/emu/mma.h")),
    ("emu/export.h", include_str!("../../../kernels/emu/export.h")),
];

/// Bytes of a compiler's output that are looked at, and of one line of it that an error repeats.
const LOG: u64 = 256 << 10;
const LINE: usize = 400;
/// Of the processor, which is what a kernel can be blamed for; and of the clock, on a machine that has more to do.
const TIME_LIMIT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(600);
/// How names of folders for one compilation begin, and after what time nobody can be at work in one.
const SCRATCH: &str = ".build-";
const ABANDONED: Duration = Duration::from_secs(15 * 60);
/// How the names end of the files that say what confined the compiler of the object beside them.
const CONFINED: &str = "confined";

/// Compiles kernels for the emulator.
pub struct Builder {
    compiler: Compiler,
    cache: PathBuf,
    /// Besides the compiler's own.
    flags: Vec<&'static str>,
    /// Objects whose compiler was confined less are made again.
    least: Level,
    halt: Arc<AtomicBool>,
}

impl Builder {
    /// With the host's compiler and the user's cache directory.
    pub fn new() -> Result<Self> {
        Self::with_cache(&cache_dir()?)
    }

    pub fn with_cache(cache: &Path) -> Result<Self> {
        let compiler = Compiler::find()?;
        let cache = cache.join("emulator");
        std::fs::create_dir_all(&cache).map_err(|e| cache_error(&cache, e))?;
        let cache = cache.canonicalize().map_err(|e| cache_error(&cache, e))?;
        Ok(Builder { compiler, cache, flags: Vec::new(), least: Level::None, halt: Arc::default() })
    }

    /// A compilation under way ends when `halt` is set.
    pub fn halt_by(&mut self, halt: &Arc<AtomicBool>) {
        self.halt = halt.clone();
    }

    /// Leaves out of objects what no entry reaches.
    pub fn without_unreached(mut self) -> Self {
        self.flags = vec!["-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"];
        self
    }

    /// Compiles in a third of the time what then takes longer to run.
    pub fn quickly(mut self) -> Self {
        self.flags.push("-Og");
        self
    }

    /// Makes those objects in the cache again whose compiler was confined less than this machine confines it.
    pub fn confining(mut self, least: Level) -> Self {
        self.least = least;
        self
    }

    fn flags(&self) -> Vec<&'static str> {
        [self.compiler.flags(), self.flags.clone()].concat()
    }

    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// Where compiled kernels lie; a worker needs to read it.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The shared object with `entries`, from the cache or compiled now.
    pub fn build(&self, source: &SourceSet, entries: &[&str]) -> Result<Built> {
        let wrapper = wrapper(source, entries)?;
        let key = self.key(source, &wrapper);
        let object = self.cache.join(format!("{key}.so"));
        let built = |compiler| Built { module: Module::SharedObject(object.clone()), compiler };
        if let Some(compiler) = self.kept(&object) {
            return Ok(built(compiler));
        }
        let lock_path = self.cache.join(format!("{key}.lock"));
        let lock = File::create(&lock_path).map_err(|e| cache_error(&lock_path, e))?;
        lock.lock().map_err(|e| cache_error(&lock_path, e))?;
        match self.kept(&object) {
            Some(compiler) => Ok(built(compiler)),
            None => self.compile(source, &wrapper, &object).map(built),
        }
    }

    /// What confined the compiler of an object in the cache that need not be made again.
    fn kept(&self, object: &Path) -> Option<Sandbox> {
        let told = std::fs::read(object.with_extension(CONFINED)).ok()?;
        let sandbox: Sandbox = serde_json::from_slice(&told).ok()?;
        (sandbox.reaches(self.least) && object.is_file()).then_some(sandbox)
    }

    /// Takes away what lies in the cache under this object's name, which nobody will ask for again.
    pub fn forget(object: &Path) {
        for path in [CONFINED, "so", "lock"].map(|ending| object.with_extension(ending)) {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Puts a compiled object into its place, and beside it what confined its compiler.
    fn keep(&self, compiled: &Path, object: &Path, sandbox: &Sandbox) -> Result<()> {
        let (told, beside) = (compiled.with_extension(CONFINED), object.with_extension(CONFINED));
        let text = serde_json::to_vec(sandbox).map_err(|e| Error::internal(e.to_string()))?;
        std::fs::write(&told, text).map_err(|e| cache_error(&told, e))?;
        match std::fs::remove_file(&beside) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cache_error(&beside, e)),
            _ => {}
        }
        let place = |from: &Path, to: &Path| std::fs::rename(from, to).map_err(|e| cache_error(to, e));
        place(compiled, object)?;
        place(&told, &beside)
    }

    fn key(&self, source: &SourceSet, wrapper: &str) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(source.digest().as_bytes());
        let compiler = self.compiler.path.to_string_lossy();
        let flags = self.flags().join(" ");
        let fixed = [wrapper, &compiler, &self.compiler.version, &flags];
        for text in fixed.into_iter().chain(SHIM.iter().flat_map(|(name, text)| [*name, *text])) {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.finalize().to_hex()[..32].to_string()
    }

    /// Takes away what killed processes left. Where that does not succeed it is in nobody's way.
    fn sweep(&self) {
        for entry in std::fs::read_dir(&self.cache).into_iter().flatten().flatten() {
            let scratch = entry.file_name().to_str().is_some_and(|name| name.starts_with(SCRATCH));
            let age = || entry.metadata().and_then(|m| m.modified()).ok()?.elapsed().ok();
            if scratch && age().is_some_and(|age| age > ABANDONED) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    fn compile(&self, source: &SourceSet, wrapper: &str, object: &Path) -> Result<Sandbox> {
        self.sweep();
        // In the cache, so that the rename stays within one file system.
        let scratch = tempfile::Builder::new()
            .prefix(SCRATCH)
            .tempdir_in(&self.cache)
            .map_err(|e| cache_error(&self.cache, e))?;
        let files = source.files.iter().map(|(n, t)| (n.as_str(), t.as_str()));
        for (name, text) in files.chain(SHIM).chain([("assay_wrapper.cpp", wrapper)]) {
            let path = scratch.path().join(name);
            let dir = path.parent().unwrap_or(scratch.path());
            std::fs::create_dir_all(dir)
                .and_then(|()| std::fs::write(&path, text))
                .map_err(|e| cache_error(&path, e))?;
        }
        let mut command = Command::new(&self.compiler.path);
        command.args(self.flags()).args(["-I.", "-o", "out.so", "assay_wrapper.cpp"]);
        command.current_dir(scratch.path()).env("TMPDIR", scratch.path()).env("LC_ALL", "C");
        let log_path = scratch.path().join("log");
        let log = File::create(&log_path).map_err(|e| cache_error(&log_path, e))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let sandbox = confine(&mut command, &Policy::compiler(&self.compiler.path, scratch.path()))?;
        let done = run_limited(&mut command, &self.halt)?;
        // A compiler can be made to write hundreds of megabytes; what it says first is what matters.
        let mut log = Vec::new();
        if let Ok(file) = File::open(&log_path) {
            let _ = file.take(LOG).read_to_end(&mut log);
        }
        let log = String::from_utf8_lossy(&log);
        match done {
            Ended::TooLong => {
                Err(Error::new(&codes::COMPILE_TIME, format!("{}: the compiler did not finish", source.main))
                    .expected(format!("at most {} s of a processor", TIME_LIMIT.as_secs())))
            }
            Ended::Starved(had) => {
                let what = format!("{}: the compiler did not finish in {} s", source.main, PATIENCE.as_secs());
                Err(Error::new(&codes::COMPILE_STARVED, what)
                    .expected(format!(
                        "{} s of a processor in that time, for a kernel to be too slow",
                        TIME_LIMIT.as_secs()
                    ))
                    .found(format!("{} s of one", had.as_secs()))
                    .hint("try again when the machine has less to do"))
            }
            Ended::Refused => {
                Err(Error::new(&codes::COMPILE, format!("{} does not compile for the emulator", source.main))
                    .found(first_errors(&log))
                    .hint(format!(
                        "{} --version says: {}",
                        crate::words::shell_path(&self.compiler.path),
                        self.compiler.version
                    )))
            }
            Ended::Compiled => {
                let unsaid = || Error::internal("the compiler's process did not say how it was confined");
                let sandbox = sandbox.reached().ok_or_else(unsaid)?;
                self.keep(&scratch.path().join("out.so"), object, &sandbox)?;
                Ok(sandbox)
            }
        }
    }
}

/// Where a confined child tells what confinement it reached.
struct Reached {
    report: std::io::PipeReader,
    abi: u32,
}

impl Reached {
    fn reached(mut self) -> Option<Sandbox> {
        let mut flags = [0; 3];
        self.report.read_exact(&mut flags).ok()?;
        Some(Sandbox::new(if flags[0] == 1 { self.abi } else { 0 }, flags[1] == 1, flags[2] == 1))
    }
}

/// Makes the command confine itself between fork and exec. A compiler reads what it is told to: `.incbin` alone would
/// put any file of the user's into an object.
fn confine(command: &mut Command, policy: &Policy) -> Result<Reached> {
    let mut prepared = policy.prepare();
    let abi = prepared.landlock_abi();
    let (report, mut to_parent) = std::io::pipe().map_err(|e| Error::io("a pipe", e))?;
    command.process_group(0);
    // SAFETY: after fork only system calls are made; everything they need was prepared before.
    unsafe {
        command.pre_exec(move || {
            confine::die_with_parent();
            let sandbox = prepared.apply();
            let flags = [sandbox.landlock_abi > 0, sandbox.seccomp, sandbox.namespaces].map(u8::from);
            to_parent.write_all(&flags)
        })
    };
    Ok(Reached { report, abi })
}

/// How a compilation ended.
enum Ended {
    Compiled,
    Refused,
    /// It had more of the processor than a kernel may need.
    TooLong,
    /// It had this much of it in all the time that there was.
    Starved(Duration),
}

/// Runs the compiler until it ends, or has to be killed.
fn run_limited(command: &mut Command, halt: &AtomicBool) -> Result<Ended> {
    let mut child = command.spawn().map_err(|e| Error::io(command.get_program(), e))?;
    let (started, mut looked) = (Instant::now(), Duration::ZERO);
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(Ended::Compiled),
            Ok(Some(_)) => return Ok(Ended::Refused),
            Ok(None) if halt.load(Ordering::Relaxed) => break Err(Error::interrupted()),
            Ok(None) => {}
            Err(e) => return Err(Error::io(command.get_program(), e)),
        }
        let clock = started.elapsed();
        // Before that much time has passed it has not had as much of a processor: nothing in it works in parallel.
        if clock >= TIME_LIMIT && clock - looked >= Duration::from_secs(1) {
            looked = clock;
            let had = process::processor_time(child.id());
            if had >= TIME_LIMIT {
                break Ok(Ended::TooLong);
            }
            if clock >= PATIENCE {
                break Ok(Ended::Starved(had));
            }
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    // Its own group: cc1plus and the linker go with it.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    child.wait().map_err(|e| Error::io(command.get_program(), e))?;
    ended
}

/// One translation unit: shim, kernel, then an export per entry that fails to compile unless the entry takes one struct.
fn wrapper(source: &SourceSet, entries: &[&str]) -> Result<String> {
    let mut text = String::from("#define ASSAY_EMULATOR 1\n#include \"emu/cuda.h\"\n");
    text += &format!("#include \"{}\"\n#include \"emu/export.h\"\n", source.main);
    for entry in entries {
        if !entry.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') || entry.is_empty() {
            return Err(Error::new(&codes::NO_ENTRY, format!("{}: `{entry}` is not a C identifier", source.main)));
        }
        text += &format!("ASSAY_EXPORT({entry})\n");
    }
    Ok(text)
}

/// The compiler's first few error lines, without the notes around them.
fn first_errors(log: &str) -> String {
    let errors: Vec<&str> = log.lines().filter(|l| l.contains("error:") || l.contains("undefined reference")).collect();
    let mut lines: Vec<&str> = if errors.is_empty() { log.lines().take(5).collect() } else { errors };
    // A macro that is used often gives the same line as often.
    lines.dedup();
    let short = |l: &str| l.trim_start_matches("./").chars().take(LINE).collect::<String>();
    lines.into_iter().take(5).map(short).collect::<Vec<_>>().join("\n            ")
}

/// `$ASSAY_CACHE_DIR`, else `assay` below the user's cache directory.
pub fn cache_dir() -> Result<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("ASSAY_CACHE_DIR")
        .or_else(|| Some(var("XDG_CACHE_HOME")?.join("assay")))
        .or_else(|| Some(var("HOME")?.join(".cache/assay")))
        .ok_or_else(|| Error::new(&codes::CACHE, "no cache directory: HOME is not set").hint("set ASSAY_CACHE_DIR"))
}

fn cache_error(path: &Path, e: std::io::Error) -> Error {
    Error::new(&codes::CACHE, format!("{}: {e}", path.display()))
        .hint("set ASSAY_CACHE_DIR to a writable directory")
        .because(e)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A right kernel was Red on a machine with much to do: its compiler had waited, not worked.
    #[test]
    fn a_compiler_that_waits_is_not_one_that_works() {
        let had = |script: &str| {
            let mut child = Command::new("sh").args(["-c", script]).process_group(0).spawn().unwrap();
            let started = Instant::now();
            let mut had = Duration::ZERO;
            while had < Duration::from_millis(100) && started.elapsed() < Duration::from_secs(2) {
                std::thread::sleep(Duration::from_millis(20));
                had = process::processor_time(child.id());
            }
            child.kill().unwrap();
            child.wait().unwrap();
            had
        };
        assert!(had("while :; do :; done") >= Duration::from_millis(100));
        assert!(had("exec sleep 30") < Duration::from_millis(100));
    }
}
