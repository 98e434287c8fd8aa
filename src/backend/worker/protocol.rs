//! Messages between parent and worker: `u32` length of JSON, `u64` length of raw bytes, both little-endian, then the
//! two. Raw bytes carry buffer contents.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{CHUNK, DeviceKind, Sandbox, codes};
use crate::backend::cuda;
use crate::backend::emulator::{self, ThreadOrder};
use crate::backend::{BufferId, DeviceInfo, GraphId, Launch, Module, ModuleId, Traced};
use crate::error::{self, Error};
use crate::plan::source;

/// Longest JSON part; a cubin in base64 fits many times.
const JSON_MAX: u32 = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// First and once: confine yourself, then open the device.
    Hello {
        kind: DeviceKind,
        read: Vec<PathBuf>,
        emulator_name: String,
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
    Fill {
        buffer: BufferId,
        pattern: u32,
    },
    Load {
        module: Module,
    },
    Launch(Launch),
    Sync,
    TakeTrace,
    Record(Vec<Launch>),
    Replay(GraphId),
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
        let tables =
            [error::CODES, source::CODES, cuda::CODES, emulator::CODES, emulator::conformance::CODES, codes::CODES];
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

pub fn send(to: &mut impl Write, message: &impl Serialize, bytes: &[u8]) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    let mut head = Vec::with_capacity(12 + json.len());
    head.extend_from_slice(&(json.len() as u32).to_le_bytes());
    head.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    head.extend_from_slice(&json);
    to.write_all(&head)?;
    to.write_all(bytes)?;
    to.flush()
}

/// The message, and how many raw bytes follow it.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<(T, usize)> {
    let mut head = [0; 12];
    from.read_exact(&mut head)?;
    let [a, b, c, d, rest @ ..] = head;
    let (json, bytes) = (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(rest));
    if json > JSON_MAX || bytes > CHUNK as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {json} and {bytes} bytes")));
    }
    let mut text = vec![0; json as usize];
    from.read_exact(&mut text)?;
    Ok((serde_json::from_slice(&text)?, bytes as usize))
}
