//! One host: a command, what goes to its stdin and what comes from its stdout, each within a time.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use super::{Ask, Bundle, DEADLINE, DIED, FAILED, Hello, Runner, SPEECH, Say};
use crate::error::{Error, Result};
use crate::ledger::{Evidence, Seed};

/// Longest message.
const LINE: u64 = 64 << 20;
/// What a login shell may say before the first message.
const BANNER: usize = 1000;

/// How long a host may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without a word.
    pub silence: Duration,
    /// Over one node, whatever it says meanwhile.
    pub node: Duration,
}

/// A host that greeted.
pub struct Host {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    limits: Limits,
    pub hello: Box<Hello>,
}

impl Drop for Host {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

impl Host {
    pub fn start(runner: &Runner, bundle: &Bundle, limits: Limits, stop: &AtomicBool) -> Result<Host> {
        let died = |what: String| Error::new(&DIED, what).hint(format!("{} true", runner.command));
        // The prefix is read as the user would type it; the program behind it is one word.
        let line = format!("exec {} \"$@\"", runner.command);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &line, "sh", &runner.assay, "remote-worker"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| died(format!("{} could not be started: {e}", runner.name)))?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            end(&mut child);
            return Err(Error::internal("a child without pipes"));
        };
        let (send, lines) = sync_channel(4);
        // It ends with the pipe, or with whoever listens.
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            loop {
                let mut line = Vec::new();
                match stdout.by_ref().take(LINE).read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                if send.send(String::from_utf8_lossy(&line).trim_end().to_string()).is_err() {
                    return;
                }
            }
        });
        let text = serde_json::to_string(bundle).map_err(|e| Error::internal(e.to_string()))?;
        // A host that reads nothing must not stop us: the pipe is written beside.
        let (done, written) = sync_channel(1);
        std::thread::spawn(move || {
            let ok =
                stdin.write_all(text.as_bytes()).and_then(|()| stdin.write_all(b"\n")).and_then(|()| stdin.flush());
            let _ = done.send(ok.map(|()| stdin));
        });
        let (mut banner, deadline) = (0, Instant::now() + limits.node);
        let hello = loop {
            match receive(&runner.name, &lines, limits.silence, deadline, stop) {
                Ok(text) if banner < BANNER && !text.starts_with('{') => banner += 1,
                Ok(text) => match read(&runner.name, &text) {
                    Ok(Say::Hello(hello)) => break Ok(hello),
                    Ok(Say::Busy) => {}
                    Ok(Say::Failed { code, what, hint }) => break Err(failed(&runner.name, &code, &what, hint)),
                    Ok(Say::Evidence { .. }) => {
                        break Err(Error::new(&SPEECH, format!("{} answered before it was asked", runner.name)));
                    }
                    Err(e) => break Err(e),
                },
                Err(e) => break Err(e),
            }
        };
        let ready = hello.and_then(|hello| match written.recv_timeout(limits.silence) {
            Ok(Ok(stdin)) => Ok((hello, stdin)),
            _ => Err(died(format!("{} read no more than a part of the bundle", runner.name))),
        });
        match ready {
            Ok((hello, stdin)) => Ok(Host { child, stdin, lines, limits, hello }),
            Err(e) => {
                end(&mut child);
                Err(e)
            }
        }
    }

    /// The host's evidence on one node, and its share of the seed, unchecked.
    pub fn judge(&mut self, name: &str, ask: &Ask, stop: &AtomicBool) -> Result<(Vec<Evidence>, Seed)> {
        let mut text = serde_json::to_vec(ask).map_err(|e| Error::internal(e.to_string()))?;
        text.push(b'\n');
        self.stdin
            .write_all(&text)
            .and_then(|()| self.stdin.flush())
            .map_err(|e| Error::new(&DIED, format!("{name} takes no more questions: {e}")))?;
        let deadline = Instant::now() + self.limits.node;
        loop {
            let text = receive(name, &self.lines, self.limits.silence, deadline, stop)?;
            match read(name, &text)? {
                Say::Busy => {}
                Say::Evidence { share, evidence } => {
                    let read = |value| Evidence::from_value(value).map_err(|why| speech(name, &why));
                    return Ok((evidence.iter().map(read).collect::<Result<_>>()?, share));
                }
                Say::Failed { code, what, hint } => return Err(failed(name, &code, &what, hint)),
                Say::Hello(_) => return Err(speech(name, "a second greeting")),
            }
        }
    }
}

fn receive(
    name: &str,
    lines: &Receiver<String>,
    silence: Duration,
    deadline: Instant,
    stop: &AtomicBool,
) -> Result<String> {
    let quiet = Instant::now() + silence;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::interrupted());
        }
        match lines.recv_timeout(Duration::from_millis(20)) {
            Ok(text) => return Ok(text),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(&DIED, format!("{name} ended without an answer"))
                    .hint("what it said on stderr stands above; assay doctor there says what it lacks"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = Instant::now();
        if now > quiet || now > deadline {
            let what = if now > deadline { "took too long" } else { "said nothing for too long" };
            return Err(Error::new(&DEADLINE, format!("{name} {what}"))
                .expected(format!("a word every {} s", silence.as_secs()))
                .hint("--runner-timeout SECONDS waits longer"));
        }
    }
}

fn read(name: &str, text: &str) -> Result<Say> {
    serde_json::from_str(text).map_err(|e| speech(name, &e.to_string()))
}

fn speech(name: &str, why: &str) -> Error {
    Error::new(&SPEECH, format!("{name} said what is no message: {why}"))
        .hint("install the same version of assay on both sides")
}

fn failed(name: &str, code: &str, what: &str, hint: Option<String>) -> Error {
    // Of what it says only the protocol's own refusal is more than a host that cannot.
    let kind = if code == SPEECH.id { &SPEECH } else { &FAILED };
    let error = Error::new(kind, format!("{name} cannot judge: {what} [{code}]"));
    match hint {
        Some(hint) => error.hint(format!("there: {hint}")),
        None => error,
    }
}
