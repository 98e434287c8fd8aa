//! The parent's side of the process: start, call under a deadline, kill, and say how it ended.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::protocol::{Answer, WireError, receive, send};
use super::window::Window;
use super::{codes, wedge};
use crate::error::{Error, Result};
use crate::process;

/// How often a wait looks whether it is to go on.
const BEAT: Duration = Duration::from_millis(50);
/// How often it is asked how much of a processor a process has had: that reads much of /proc.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a killed process may take to go.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// What a worker keeps of the environment. Anything else could be a secret.
const KEPT: [&str; 8] =
    ["PATH", "LD_LIBRARY_PATH", "HOME", "LANG", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CUDA_PATH", "RUST_BACKTRACE"];

pub struct Child {
    process: std::process::Child,
    stream: UnixStream,
    window: Window,
    scratch: Vec<u8>,
    /// Its error output, for the message if it crashes.
    errors: File,
    /// Why no call can be made any more.
    dead: Option<String>,
    halt: Arc<AtomicBool>,
}

impl Child {
    /// Starts `program` with `args` that end in [`serve`](super::serve).
    pub fn spawn(program: &Path, args: &[String], halt: &Arc<AtomicBool>) -> Result<Self> {
        wedge::check()?;
        let refuse = |e: io::Error| Error::new(&codes::START, format!("{}: {e}", program.display())).because(e);
        let (ours, theirs) = UnixStream::pair().map_err(refuse)?;
        let (window, shared) = Window::create().map_err(refuse)?;
        let errors = tempfile::tempfile().map_err(refuse)?;
        let mut command = Command::new(program);
        command.args(args).env_clear().process_group(0);
        command.envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        // The driver would else write compiled kernels below the home directory.
        command.env("CUDA_CACHE_DISABLE", "1");
        // The two files that it is born with; it takes both from their places before it does anything else.
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::from(shared));
        command.stderr(errors.try_clone().map_err(refuse)?);
        let process = command.spawn().map_err(refuse)?;
        Ok(Child { process, stream: ours, window, scratch: Vec::new(), errors, dead: None, halt: halt.clone() })
    }

    /// One request and its reply; raw bytes of the reply fill `into` exactly. Either are at most a window's half.
    pub fn call<R: Answer>(
        &mut self,
        request: &impl Serialize,
        bytes: &[u8],
        into: &mut [u8],
        deadline: Duration,
    ) -> Result<R> {
        self.ask(request, bytes, into, (deadline, None))
    }

    /// The same of one that works alone, in a single thread: it may have `deadline` of a processor, and `patience` of the
    /// clock on a machine that has more to do.
    ///
    /// Errors: `worker-hang` when it has had the processor for so long, `worker-starved` when it has not.
    pub fn call_working<R: Answer>(
        &mut self,
        request: &impl Serialize,
        (deadline, patience): (Duration, Duration),
    ) -> Result<R> {
        let had = process::processor_time(self.process.id());
        self.ask(request, &[], &mut [], (deadline, Some(Spell { group: self.process.id(), had, deadline, patience })))
    }

    fn ask<R: Answer>(
        &mut self,
        request: &impl Serialize,
        bytes: &[u8],
        into: &mut [u8],
        (deadline, spell): (Duration, Option<Spell>),
    ) -> Result<R> {
        if let Some(why) = &self.dead {
            return Err(Error::new(&codes::CRASH, format!("the worker is gone: {why}")));
        }
        self.window.put(bytes);
        let (scratch, window) = (&mut self.scratch, &self.window);
        let mut limited = Limited::new(&self.stream, &self.halt, deadline, spell);
        let exchanged =
            send(&mut limited, request, bytes.len(), scratch).and_then(|()| receive::<R>(&mut limited, scratch));
        let result = exchanged.and_then(|(reply, len)| {
            let reply = reply.into_result();
            if len != if reply.is_err() { 0 } else { into.len() } {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{len} bytes instead of {}", into.len()),
                ));
            }
            window.take(&mut into[..len]);
            Ok(reply)
        });
        match result {
            Ok(reply) => reply.map_err(WireError::into_error),
            Err(e) => Err(self.post_mortem(e, deadline)),
        }
    }

    /// The connection failed: end the process and say what happened.
    fn post_mortem(&mut self, e: io::Error, deadline: Duration) -> Error {
        if self.halt.load(Ordering::Relaxed) {
            if self.kill().is_none() {
                wedge::record(self.process.id());
            }
            self.dead = Some("it was stopped".into());
            return Error::interrupted();
        }
        let timed_out = matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
        // A process whose end of the socket closed is about to be a zombie; give its own status a moment to appear.
        let own_status = if timed_out { None } else { self.wait(Duration::from_millis(500)) };
        let status = own_status.or_else(|| self.kill());
        let (code, text) = match (status, timed_out) {
            (None, _) => {
                wedge::record(self.process.id());
                (&codes::WEDGED, format!("worker process {} could not be killed", self.process.id()))
            }
            (Some(_), true) if e.get_ref().is_some() => (&codes::STARVED, e.to_string()),
            (Some(_), true) => (&codes::HANG, format!("no answer within {:.1} s; killed", deadline.as_secs_f64())),
            (Some(status), false) if e.kind() == io::ErrorKind::InvalidData => {
                (&codes::PROTOCOL, format!("{e} ({})", ended(status)))
            }
            (Some(status), false) => (&codes::CRASH, format!("the worker died: {}", ended(status))),
        };
        self.dead = Some(text.clone());
        let error = Error::new(code, text);
        match self.last_words() {
            Some(words) => error.found(words),
            None => error,
        }
    }

    /// Whether it answers no call any more.
    pub fn is_dead(&self) -> bool {
        self.dead.is_some()
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
                _ => return None,
            }
        }
    }

    /// Kills the whole process group. `None`: it did not go.
    fn kill(&mut self) -> Option<ExitStatus> {
        if let Some(group) = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // An error means that the group is gone already.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        self.wait(KILL_WAIT)
    }

    /// The end of its error output.
    fn last_words(&mut self) -> Option<String> {
        let end = self.errors.seek(SeekFrom::End(0)).ok()?;
        self.errors.seek(SeekFrom::Start(end.saturating_sub(1000))).ok()?;
        let mut text = Vec::new();
        self.errors.read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text).trim().to_string();
        (!text.is_empty()).then_some(text)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.dead.is_some() {
            return;
        }
        // Closing the socket ends its loop; a healthy worker is gone at once.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if self.wait(Duration::from_millis(300)).is_none() && self.kill().is_none() {
            wedge::record(self.process.id());
        }
    }
}

fn ended(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(libc::SIGSEGV), _) => "signal 11 (SIGSEGV)".into(),
        (Some(libc::SIGABRT), _) => "signal 6 (SIGABRT)".into(),
        (Some(libc::SIGKILL), _) => "signal 9 (SIGKILL; out of memory?)".into(),
        (Some(libc::SIGXCPU), _) => "signal 24 (SIGXCPU: its CPU time is used up)".into(),
        (Some(libc::SIGSYS), _) => "signal 31 (SIGSYS: a forbidden system call)".into(),
        (Some(signal), _) => format!("signal {signal}"),
        (None, code) => format!("exit code {}", code.unwrap_or(-1)),
    }
}

/// A stream that gives up at a point in time, or when it is told to.
struct Limited<'a> {
    stream: &'a UnixStream,
    started: Instant,
    until: Cell<Instant>,
    spell: Option<Spell>,
    halt: &'a AtomicBool,
}

/// What a process may have of a processor, of which it had some before, and of the clock meanwhile.
struct Spell {
    group: u32,
    had: Duration,
    deadline: Duration,
    patience: Duration,
}

impl<'a> Limited<'a> {
    fn new(stream: &'a UnixStream, halt: &'a AtomicBool, deadline: Duration, spell: Option<Spell>) -> Limited<'a> {
        let started = Instant::now();
        Limited { stream, started, until: Cell::new(started + deadline), spell, halt }
    }

    /// The time is over, or it goes on: what has had less of a processor cannot be blamed.
    fn over(&self) -> io::Result<Duration> {
        let timed_out = || Err(io::ErrorKind::TimedOut.into());
        let Some(Spell { group, had, deadline, patience }) = &self.spell else { return timed_out() };
        let had = process::processor_time(*group).saturating_sub(*had);
        if had >= *deadline {
            return timed_out();
        }
        if self.started.elapsed() >= *patience {
            let (had, patience) = (had.as_secs_f64(), patience.as_secs_f64());
            let why = format!("it had {had:.1} s of a processor in {patience:.1} s; killed");
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        self.until.set(Instant::now() + AGAIN);
        Ok(BEAT)
    }

    /// How long to wait before looking up again.
    fn beat(&self) -> io::Result<Duration> {
        if self.halt.load(Ordering::Relaxed) {
            return Err(io::Error::other("stopped"));
        }
        let left = self.until.get().saturating_duration_since(Instant::now());
        if left.is_zero() { self.over() } else { Ok(left.min(BEAT)) }
    }

    /// Tries again for as long as there is time: a beat that is over is no time-out.
    fn patiently<T>(&self, mut act: impl FnMut(Duration) -> io::Result<T>) -> io::Result<T> {
        loop {
            match act(self.beat()?) {
                Err(e) if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {}
                done => return done,
            }
        }
    }
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut stream = self.stream;
        self.patiently(|beat| {
            stream.set_read_timeout(Some(beat))?;
            stream.read(buffer)
        })
    }
}

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stream = self.stream;
        self.patiently(|beat| {
            stream.set_write_timeout(Some(beat))?;
            stream.write(bytes)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a machine with two cores and five programs a compilation took 240 s, and its kernel was called too much for
    /// NVRTC.
    #[test]
    fn a_compiler_that_got_no_processor_was_the_kernels_fault() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let halt = AtomicBool::new(false);
        let told = |script: &str| {
            let mut process = Command::new("sh").args(["-c", script]).process_group(0).spawn().unwrap();
            let deadline = Duration::from_millis(300);
            let patience = if script.contains("sleep") { deadline } else { Duration::from_secs(60) };
            let spell = Spell { group: process.id(), had: Duration::ZERO, deadline, patience };
            let mut limited = Limited::new(&ours, &halt, deadline, Some(spell));
            let error = limited.read(&mut [0]).unwrap_err();
            let _ = process.kill();
            let _ = process.wait();
            (error.kind(), error.to_string())
        };
        let (kind, words) = told("exec sleep 60");
        assert_eq!(kind, io::ErrorKind::TimedOut);
        assert!(words.starts_with("it had 0.0 s of a processor in 0.3 s"), "{words}");
        let (kind, words) = told("while :; do :; done");
        assert_eq!(kind, io::ErrorKind::TimedOut);
        assert!(!words.contains("processor"), "{words}");
    }
}
