//! Messages between parent and worker: `u32` length of JSON, `u64` length of raw bytes, both little-endian, then the
//! JSON. Raw bytes carry buffer contents and lie in the [`Window`](super::window::Window) of their direction.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::window::HALF;
use super::{DeviceKind, Sandbox, codes, compile};
use crate::backend::cuda;
use crate::backend::emulator::{self, ThreadOrder};
use crate::backend::{BufferId, DeviceInfo, FilePart, GraphId, Launch, Module, ModuleId, Span, Traced};
use crate::error::{self, Error};
use crate::model::gguf::{self, Source};
use crate::plan::source;

/// Longest JSON part; a cubin in base64 fits many times.
const JSON_MAX: u32 = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// First and once, instead of [`Request::Hello`]: be a compiler. What follows is [`compile::Ask`].
    Compiler(compile::Begin),
    /// First and once: confine yourself, then open the device.
    Hello {
        kind: DeviceKind,
        read: Vec<PathBuf>,
        emulator_name: String,
        emulator_threads: usize,
    },
    Alloc {
        bytes: u64,
    },
    Free {
        buffer: BufferId,
    },
    Write {
        buffer: BufferId,
        offset: u64,
    },
    Read {
        buffer: BufferId,
        offset: u64,
        len: u64,
    },
    ReadFile {
        source: Source,
        parts: Vec<FilePart>,
    },
    Fill {
        buffer: BufferId,
        pattern: u32,
    },
    Seal {
        buffer: BufferId,
    },
    Load {
        module: Module,
    },
    Launch(Launch),
    Sync,
    TakeTrace,
    Record(Vec<Launch>),
    Replay(GraphId),
    Step {
        writes: Vec<Span>,
        graph: GraphId,
        read: Option<Span>,
    },
    Forget(GraphId),
    TimeEach(Vec<Launch>),
    ReplayedMs,
    Copy {
        from: BufferId,
        to: BufferId,
        bytes: u64,
    },
    FreeMemory,
    SetOrder(ThreadOrder),
    SetTimeLimit(Duration),
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Ready { info: DeviceInfo, sandbox: Sandbox },
    Done,
    Buffer(BufferId),
    Module(ModuleId),
    Trace(Vec<Traced>),
    Graph(GraphId, Vec<Traced>),
    Times(Vec<f32>),
    Ms(f64),
    Bytes(u64),
    Failed(WireError),
}

/// What a worker answers with, of which one form says that it failed.
pub trait Answer: DeserializeOwned {
    fn into_result(self) -> Result<Self, WireError>;
}

impl Answer for Reply {
    fn into_result(self) -> Result<Self, WireError> {
        match self {
            Reply::Failed(e) => Err(e),
            reply => Ok(reply),
        }
    }
}

/// An [`Error`] on its way to the parent.
#[derive(Debug, Serialize, Deserialize)]
pub struct WireError {
    code: String,
    what: String,
    expected: Option<String>,
    found: Option<String>,
    hint: Option<String>,
}

impl WireError {
    pub fn new(e: &Error) -> Self {
        WireError {
            code: e.code().id.to_string(),
            what: e.what().to_string(),
            expected: e.expected_text().map(str::to_string),
            found: e.found_text().map(str::to_string),
            hint: e.hint_text().map(str::to_string),
        }
    }

    pub fn into_error(self) -> Error {
        let tables = [
            error::CODES,
            source::CODES,
            gguf::CODES,
            cuda::CODES,
            emulator::CODES,
            emulator::conformance::CODES,
            codes::CODES,
        ];
        let known = tables.into_iter().flatten().find(|c| c.id == self.code);
        let mut e = match known {
            Some(code) => Error::new(code, self.what),
            None => Error::new(&codes::REMOTE, format!("{} [{}]", self.what, self.code)),
        };
        if let Some(text) = self.expected {
            e = e.expected(text);
        }
        if let Some(text) = self.found {
            e = e.found(text);
        }
        if let Some(text) = self.hint {
            e = e.hint(text);
        }
        e
    }
}

/// Head of a message: the two lengths.
const HEAD: usize = 12;

/// Sends a message whose `bytes` raw ones lie in the window. `scratch` is kept from call to call for its memory.
pub fn send(to: &mut impl Write, message: &impl Serialize, bytes: usize, scratch: &mut Vec<u8>) -> io::Result<()> {
    scratch.clear();
    scratch.resize(HEAD, 0);
    serde_json::to_writer(&mut *scratch, message)?;
    let json = scratch.len() - HEAD;
    scratch[..4].copy_from_slice(&(json as u32).to_le_bytes());
    scratch[4..HEAD].copy_from_slice(&(bytes as u64).to_le_bytes());
    to.write_all(scratch)?;
    to.flush()
}

/// The message, and how many raw bytes of it lie in the window. One side speaks at a time, so that whatever can be read
/// is this message's: a short one arrives in one call of the system.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read, scratch: &mut Vec<u8>) -> io::Result<(T, usize)> {
    const SHORT: usize = 4096;
    scratch.clear();
    scratch.resize(SHORT, 0);
    let mut got = 0;
    while got < HEAD {
        match from.read(&mut scratch[got..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let word = |at: usize, n: usize| scratch[at..at + n].iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b));
    let (json, bytes) = (word(0, 4), word(4, 8));
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    if json > u64::from(JSON_MAX) || bytes > HALF as u64 {
        return Err(wrong(format!("a message of {json} and {bytes} bytes")));
    }
    let end = HEAD + json as usize;
    if got > end {
        return Err(wrong(format!("{} bytes behind a message", got - end)));
    }
    scratch.resize(end.max(got), 0);
    from.read_exact(&mut scratch[got..end])?;
    Ok((serde_json::from_slice(&scratch[HEAD..end])?, bytes as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a byte or two at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = into.len().min(2);
            self.0.read(&mut into[..n])
        }
    }

    #[test]
    fn messages_survive_any_cut() {
        let (mut wire, mut scratch) = (Vec::new(), Vec::new());
        send(&mut wire, &"x".repeat(10_000), 7, &mut scratch).unwrap();
        let long = wire.clone();
        for from in [&mut Slow(&long) as &mut dyn Read, &mut &long[..]] {
            let (text, bytes): (String, _) = receive(&mut &mut *from, &mut scratch).unwrap();
            assert_eq!((text.len(), bytes), (10_000, 7));
        }
        let eof = receive::<String>(&mut &long[..9_000], &mut scratch).unwrap_err();
        assert_eq!(eof.kind(), io::ErrorKind::UnexpectedEof);
        let mut short = Vec::new();
        send(&mut short, &"a", 0, &mut scratch).unwrap();
        let trailing = [&short[..], b"!"].concat();
        assert_eq!(receive::<String>(&mut &trailing[..], &mut scratch).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut huge = short.clone();
        huge[4..12].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(receive::<String>(&mut &huge[..], &mut scratch).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
