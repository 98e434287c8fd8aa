//! NVRTC in a confined process: what is said to it, what it does, and the parent's pool of such processes.
//!
//! NVRTC parses text that anybody wrote, in 140 MB of code that nobody here has read. It is opened by the child alone,
//! after that took its confinement on: it sees its own folders, no key, no ledger, no network. Sources come to it over
//! the socket and go back as code and a log, which the parent judges as it would any stranger's.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::child::Child;
use super::confine::{NVRTC_MEMORY, Policy, Sandbox};
use super::protocol::{Answer, Request, WireError, receive, send};
use super::{codes, serve::expect};
use crate::backend::cuda::nvrtc::library::{About, Library};
use crate::backend::cuda::{NVRTC_CRASH, NVRTC_FAILED, NVRTC_LIMIT, NVRTC_STARVED};
use crate::error::{Error, Result};
use crate::plan::source::SourceSet;

/// How much of a processor one compilation may take, a tenfold of what the heaviest kernel took on a busy machine: 19 s.
const DEADLINE: Duration = Duration::from_secs(240);
/// And how often as much of the clock, where the machine has more to do.
const PATIENCE: u32 = 5;
/// How long NVRTC may take to be loaded, and to unpack its headers.
const LOADING: Duration = Duration::from_secs(60);
/// Compilations of one process, after which another takes its place: whatever NVRTC does not give back goes with it.
const SERVED: u32 = 64;
/// The most that a compilation may send back, of code and of log.
const CODE: usize = 64 << 20;
const LOG: usize = 8 << 20;

/// How to start a process that ends in [`serve`](super::serve), and what it is granted.
#[derive(Clone, Debug)]
pub struct Starter {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub deadline: Duration,
}

impl Starter {
    /// This program's own `worker` subcommand.
    pub fn new() -> Result<Self> {
        let program = std::env::current_exe().map_err(|e| Error::io("the running program", e))?;
        Ok(Starter { program, args: vec!["worker".into()], deadline: DEADLINE })
    }
}

/// The first message: confine yourself to this, then open the first of the libraries that is an NVRTC.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Begin {
    pub libraries: Vec<PathBuf>,
    pub read: Vec<PathBuf>,
    /// The one folder that may be written: where headers are unpacked, by a process that compiles nothing.
    pub write: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    Cubin,
    Ptx,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    Compile { source: SourceSet, options: Vec<String>, want: Want },
    Unpack(PathBuf),
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Told {
    Ready {
        opened: Option<Opened>,
        /// What was wrong with the libraries before that one.
        failed: Vec<String>,
        sandbox: Sandbox,
    },
    Compiled(Output),
    Unpacked,
    Failed(WireError),
}

/// The library that was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Which of those in [`Begin`].
    pub library: usize,
    pub about: About,
}

/// Of one compilation.
#[derive(Debug, Serialize, Deserialize)]
pub struct Output {
    /// NVRTC's result, 0 for success, and its own word for it.
    pub code: i32,
    pub word: String,
    pub log: String,
    /// Only where it succeeded.
    #[serde(with = "crate::backend::serde_bytes_b64")]
    pub bytes: Vec<u8>,
}

impl Answer for Told {
    fn into_result(self) -> Result<Self, WireError> {
        match self {
            Told::Failed(e) => Err(e),
            told => Ok(told),
        }
    }
}

/// The child's body. `settled` runs once the confinement holds, and may start threads.
pub(super) fn serve(mut stream: UnixStream, begin: Begin, settled: fn()) -> Result<()> {
    let sandbox = Policy::nvrtc(begin.read, begin.write).prepare().apply();
    settled();
    let mut failed = Vec::new();
    let mut library = None;
    for path in &begin.libraries {
        match Library::open(path) {
            Ok(found) => {
                library = Some(found);
                break;
            }
            Err(why) => failed.push(why),
        }
    }
    let opened = library.as_ref().map(|l| Opened { library: failed.len(), about: l.about().clone() });
    let mut scratch = Vec::new();
    expect(send(&mut stream, &Told::Ready { opened, failed, sandbox }, 0, &mut scratch))?;
    let Some(library) = library else { return Ok(()) };
    loop {
        let ask = match receive::<Ask>(&mut stream, &mut scratch) {
            Ok((ask, _)) => ask,
            // The library's own way out has nothing to save, and would run its code once more.
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => std::process::exit(0),
            Err(e) => return expect(Err(e)),
        };
        let told = match ask {
            Ask::Compile { source, options, want } => {
                library.compile(&source, &options, want).and_then(|out| bounded(out, &source.main)).map(Told::Compiled)
            }
            Ask::Unpack(folder) => library.unpack_headers(&folder).map(|()| Told::Unpacked),
        };
        let told = told.unwrap_or_else(|e| Told::Failed(WireError::new(&e)));
        expect(send(&mut stream, &told, 0, &mut scratch))?;
    }
}

/// Errors can be repeated without end, and a table can be larger than any machine: neither is sent.
fn bounded(mut out: Output, main: &str) -> Result<Output> {
    let too_much = |what: &str, size: usize, most: usize| {
        Error::new(&NVRTC_LIMIT, format!("{main}: {what} is too long"))
            .expected(format!("at most {} MiB", most >> 20))
            .found(format!("{} MiB", size.div_ceil(1 << 20)))
    };
    if out.bytes.len() > CODE {
        return Err(too_much("the compiled code", out.bytes.len(), CODE));
    }
    if out.log.len() > LOG {
        if out.code == 0 {
            // The report of resources stands at its end: without it the code could not be judged.
            return Err(too_much("the compiler's log", out.log.len(), LOG));
        }
        let whole = (0..=LOG).rev().find(|&at| out.log.is_char_boundary(at));
        out.log.truncate(whole.unwrap_or(0));
    }
    Ok(out)
}

/// Processes that compile with one NVRTC. As many as are compiling at once, plus those that wait for the next time.
pub struct Pool {
    starter: Starter,
    begin: Begin,
    about: About,
    sandbox: Sandbox,
    idle: Mutex<Vec<(Child, u32)>>,
    halt: Arc<AtomicBool>,
}

/// What came of an attempt to open libraries.
pub enum Tried {
    /// With what is wrong with those before it.
    Opened(Opened, Vec<String>, Box<Pool>),
    /// Why not, for each.
    None(Vec<String>),
}

impl Pool {
    /// Has a process open the first usable one of the libraries.
    pub fn open(starter: &Starter, mut begin: Begin) -> Result<Tried> {
        let halt = Arc::default();
        let mut child = Child::spawn(&starter.program, &starter.args, &halt)?;
        let (opened, failed, sandbox) = match hello(&mut child, &begin) {
            Ok(ready) => ready,
            // A library can kill the process that loads it. The next one may not.
            Err(e) if ["worker-crash", "worker-hang"].contains(&e.code().id) => {
                return Ok(Tried::None(vec![format!("cannot be loaded: {}", e.what()); begin.libraries.len()]));
            }
            Err(e) => return Err(e),
        };
        let Some(opened) = opened.filter(|o| o.library < begin.libraries.len()) else {
            return Ok(Tried::None(failed));
        };
        begin.libraries = vec![begin.libraries.swap_remove(opened.library)];
        let pool = Pool {
            starter: starter.clone(),
            begin,
            about: opened.about.clone(),
            sandbox,
            idle: Mutex::new(vec![(child, 0)]),
            halt,
        };
        Ok(Tried::Opened(opened, failed, Box::new(pool)))
    }

    /// A compilation under way ends when `halt` is set.
    pub fn halt_by(&mut self, halt: &Arc<AtomicBool>) {
        self.halt = halt.clone();
        // Those that were started before look at another flag.
        self.idle.get_mut().unwrap_or_else(|e| e.into_inner()).clear();
    }

    /// What confines the compiler.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Has the library unpack its headers to `folder`, by a process that may write there and compiles nothing.
    pub fn unpack(&self, folder: PathBuf) -> Result<()> {
        let begin = Begin { write: Some(folder.clone()), ..self.begin.clone() };
        let mut child = self.start(&begin)?;
        match child.call(&Ask::Unpack(folder), &[], &mut [], LOADING)? {
            Told::Unpacked => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Compiles for `arch`, which is for messages: the options have it too.
    pub fn compile(&self, source: &SourceSet, options: Vec<String>, want: Want, arch: &str) -> Result<Output> {
        let waiting = self.idle.lock().unwrap_or_else(|e| e.into_inner()).pop();
        let (mut child, served) = match waiting {
            Some(waiting) => waiting,
            None => (self.start(&self.begin)?, 0),
        };
        let ask = Ask::Compile { source: source.clone(), options, want };
        let deadline = self.starter.deadline;
        let told = child.call_working(&ask, (deadline, PATIENCE * deadline));
        if !child.is_dead() && served + 1 < SERVED {
            self.idle.lock().unwrap_or_else(|e| e.into_inner()).push((child, served + 1));
        }
        match told {
            Ok(Told::Compiled(output)) => Ok(output),
            Ok(other) => Err(unexpected(&other)),
            Err(e) => Err(named(e, &source.main, arch, deadline)),
        }
    }

    fn start(&self, begin: &Begin) -> Result<Child> {
        let mut child = Child::spawn(&self.starter.program, &self.starter.args, &self.halt)?;
        let (opened, failed, sandbox) = hello(&mut child, begin)?;
        if opened.is_none_or(|o| o.about != self.about) || sandbox != self.sandbox {
            return Err(Error::new(&NVRTC_FAILED, "NVRTC is not what it was when it was found")
                .found(failed.first().map_or("another version, or another confinement", String::as_str))
                .hint("run it again; something replaced the library meanwhile"));
        }
        Ok(child)
    }
}

fn hello(child: &mut Child, begin: &Begin) -> Result<(Option<Opened>, Vec<String>, Sandbox)> {
    match child.call(&Request::Compiler(begin.clone()), &[], &mut [], LOADING)? {
        Told::Ready { opened, failed, sandbox } => Ok((opened, failed, sandbox)),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(told: &Told) -> Error {
    Error::new(&codes::PROTOCOL, "the compiler's process answered another question").found(match told {
        Told::Ready { .. } => "that it is ready",
        Told::Compiled(_) => "a compilation",
        Told::Unpacked => "that headers are unpacked",
        Told::Failed(_) => "a failure",
    })
}

/// What ended the process while it compiled is the source's doing, and is said of it.
fn named(e: Error, main: &str, arch: &str, deadline: Duration) -> Error {
    let (code, what) = match e.code().id {
        "worker-hang" => (&NVRTC_LIMIT, format!("{main}: NVRTC did not finish for {arch}")),
        "worker-starved" => {
            return Error::new(&NVRTC_STARVED, format!("{main}: NVRTC did not finish for {arch}"))
                .found(e.what())
                .hint("try again when the machine has less to do");
        }
        "worker-crash" | "worker-protocol" => {
            (&NVRTC_CRASH, format!("{main}: NVRTC died compiling it for {arch}: {}", e.what()))
        }
        _ => return e,
    };
    let granted = format!(
        "an end within {} s of a processor and {} GiB of addresses",
        deadline.as_secs_f32(),
        NVRTC_MEMORY >> 30
    );
    let error = Error::new(code, what).expected(granted);
    match e.found_text() {
        Some(words) => error.found(words),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(code: i32, log: usize, bytes: usize) -> Output {
        Output { code, word: String::new(), log: "é".repeat(log / 2), bytes: vec![0; bytes] }
    }

    #[test]
    fn what_comes_back_is_bounded() {
        assert!(bounded(output(0, LOG, CODE), "a.cu").is_ok());
        for (log, bytes) in [(LOG + 2, 0), (0, CODE + 1)] {
            let error = bounded(output(0, log, bytes), "a.cu").unwrap_err();
            assert_eq!((error.code().id, error.kind().exit_code()), ("nvrtc-limit", 1), "{error}");
            assert!(error.what().starts_with("a.cu: "), "{error}");
        }
        // Errors without end are cut: the first ones say what is wrong.
        assert!(bounded(output(6, 2 * LOG, 0), "a.cu").unwrap().log.len() <= LOG);
    }

    #[test]
    fn what_ended_the_compiler_names_the_source() {
        let deadline = Duration::from_secs(1);
        for (from, to) in
            [(&codes::HANG, "nvrtc-limit"), (&codes::CRASH, "nvrtc-crash"), (&codes::PROTOCOL, "nvrtc-crash")]
        {
            let error = named(Error::new(from, "signal 11").found("its last words"), "a.cu", "sm_90", deadline);
            assert_eq!(error.code().id, to, "{error}");
            assert!(error.what().starts_with("a.cu: ") && error.what().contains("sm_90"), "{error}");
            assert_eq!(error.found_text(), Some("its last words"));
        }
        let starved = named(Error::new(&codes::STARVED, "it had none"), "a.cu", "sm_90", deadline);
        assert_eq!((starved.code().id, starved.kind().exit_code()), ("nvrtc-starved", 3), "{starved}");
        let wedged = named(Error::new(&codes::WEDGED, "still there"), "a.cu", "sm_90", deadline);
        assert_eq!(wedged.code().id, "worker-wedged", "the machine's fault stays the machine's");
    }
}
