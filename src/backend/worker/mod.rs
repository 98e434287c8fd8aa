//! A device in another process, confined before it loads anything foreign.
//!
//! Kernels are other people's code. [`WorkerDevice`] starts a child (`assay worker`), which takes its confinement on
//! itself ([`confine`]), opens the emulator or CUDA and answers one call at a time over a socket ([`protocol`]), with
//! contents of buffers in memory that both map ([`window`]). Each call has a deadline; a child that misses it is killed
//! with its process group, one that dies says by which signal, and one that cannot be killed blocks every further worker
//! until it is gone ([`wedge`]).
//!
//! A child of the same kind hosts NVRTC ([`compile`]): a compiler reads what a kernel's text tells it to.

mod child;
pub mod codes;
pub mod compile;
pub mod confine;
mod protocol;
mod serve;
mod wedge;
mod window;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::codes::CODES;
pub use self::confine::{Level, Sandbox};
pub use self::serve::serve;

use self::child::Child;
use self::protocol::{Reply, Request};
use self::window::HALF;
use super::emulator::ThreadOrder;
use super::{BufferId, Device, DeviceInfo, FilePart, GraphId, Launch, Module, ModuleId, Placement, Step, Traced};
use crate::error::{Error, Result};
use crate::model::gguf::Source;

/// Which device a worker hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    Emulator,
    Cuda,
}

/// How to start a worker.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    pub kind: DeviceKind,
    /// The program and arguments that end in [`serve`].
    pub program: PathBuf,
    pub args: Vec<String>,
    /// What the worker may read besides system libraries: the cache of compiled kernels, the model's file.
    pub read: Vec<PathBuf>,
    /// The emulator's name in verdicts: its compiler's version line.
    pub emulator_name: String,
    /// The most blocks that the emulator has in flight.
    pub emulator_threads: usize,
    /// How long any one call may take.
    pub deadline: Duration,
    /// The most that a launch may take, whatever limit is set for it.
    pub launch_limit: Option<Duration>,
    /// Set from elsewhere: whatever is under way is not wanted any more, and the worker is killed.
    pub halt: Arc<AtomicBool>,
}

impl WorkerOptions {
    /// This program's own `worker` subcommand.
    pub fn new(kind: DeviceKind) -> Result<Self> {
        let program = std::env::current_exe().map_err(|e| Error::io("the running program", e))?;
        Ok(WorkerOptions {
            kind,
            program,
            args: vec!["worker".into()],
            read: Vec::new(),
            emulator_name: String::new(),
            emulator_threads: usize::MAX,
            deadline: Duration::from_secs(120),
            launch_limit: None,
            halt: Arc::default(),
        })
    }

    /// The same with leave to read `file`.
    pub fn reading(&self, file: &Path) -> Self {
        let mut options = self.clone();
        // Where a link leads: the worker's rules are about files, not about names.
        options.read.push(file.canonicalize().unwrap_or_else(|_| file.to_path_buf()));
        options
    }
}

/// A [`Device`] whose work is done by a confined child.
pub struct WorkerDevice {
    child: Child,
    info: DeviceInfo,
    sandbox: Sandbox,
    deadline: Duration,
    launch_limit: Option<Duration>,
}

impl WorkerDevice {
    pub fn start(options: &WorkerOptions) -> Result<Self> {
        let mut child = Child::spawn(&options.program, &options.args, &options.halt)?;
        let hello = Request::Hello {
            kind: options.kind,
            read: options.read.clone(),
            emulator_name: options.emulator_name.clone(),
            emulator_threads: options.emulator_threads,
        };
        match child.call(&hello, &[], &mut [], options.deadline)? {
            Reply::Ready { info, sandbox } => {
                let launch_limit = options.launch_limit;
                let mut device = WorkerDevice { child, info, sandbox, deadline: options.deadline, launch_limit };
                if let Some(limit) = launch_limit {
                    device.set_time_limit(limit)?;
                }
                Ok(device)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// What confines the child, for the verdict's row.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// For the calls that follow.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    fn call(&mut self, request: &Request) -> Result<Reply> {
        self.child.call(request, &[], &mut [], self.deadline)
    }

    /// For calls that run many launches. The emulator takes its time, and limits that of each launch by itself.
    fn long(&self) -> Duration {
        let launches = if self.info.placement == Placement::Emulator { 100 } else { 1 };
        self.deadline * launches
    }

    fn done(&mut self, request: &Request) -> Result<()> {
        match self.call(request)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::new(&codes::PROTOCOL, "the worker answered another question").found(format!("{reply:?}"))
}

impl Device for WorkerDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&mut self, bytes: u64) -> Result<BufferId> {
        match self.call(&Request::Alloc { bytes })? {
            Reply::Buffer(id) => Ok(id),
            other => Err(unexpected(&other)),
        }
    }

    fn free(&mut self, buffer: BufferId) -> Result<()> {
        self.done(&Request::Free { buffer })
    }

    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        for (i, chunk) in bytes.chunks(HALF).enumerate() {
            let request = Request::Write { buffer, offset: offset + (i * HALF) as u64 };
            match self.child.call(&request, chunk, &mut [], self.deadline)? {
                Reply::Done => {}
                other => return Err(unexpected(&other)),
            }
        }
        Ok(())
    }

    fn read(&mut self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<()> {
        for (i, chunk) in bytes.chunks_mut(HALF).enumerate() {
            let request = Request::Read { buffer, offset: offset + (i * HALF) as u64, len: chunk.len() as u64 };
            match self.child.call(&request, &[], chunk, self.deadline)? {
                Reply::Done => {}
                other => return Err(unexpected(&other)),
            }
        }
        Ok(())
    }

    /// Of a file that the worker was allowed to read.
    fn read_file(&mut self, source: &Source, parts: &[FilePart]) -> Result<()> {
        self.done(&Request::ReadFile { source: source.clone(), parts: parts.to_vec() })
    }

    fn fill(&mut self, buffer: BufferId, pattern: u32) -> Result<()> {
        self.done(&Request::Fill { buffer, pattern })
    }

    fn seal(&mut self, buffer: BufferId) -> Result<()> {
        self.done(&Request::Seal { buffer })
    }

    fn set_thread_order(&mut self, order: ThreadOrder) -> Result<()> {
        self.done(&Request::SetOrder(order))
    }

    fn set_time_limit(&mut self, limit: Duration) -> Result<()> {
        let limit = self.launch_limit.map_or(limit, |most| most.min(limit));
        // The device's own word names the launch; the deadline is for when it has none. The emulator counts its
        // processor's time, of which a busy machine gives it a part.
        let by_the_clock = if self.info.placement == Placement::Emulator { limit * 8 } else { limit };
        self.deadline = self.deadline.max(by_the_clock + Duration::from_secs(30));
        self.done(&Request::SetTimeLimit(limit))
    }

    fn load(&mut self, module: &Module) -> Result<ModuleId> {
        match self.call(&Request::Load { module: module.clone() })? {
            Reply::Module(id) => Ok(id),
            other => Err(unexpected(&other)),
        }
    }

    fn launch(&mut self, launch: &Launch) -> Result<()> {
        self.done(&Request::Launch(launch.clone())).map_err(|e| match e.code().id {
            "worker-hang" | "worker-crash" => e.hint(format!("it ran {}: `{}`", launch.name, launch.entry)),
            _ => e,
        })
    }

    fn sync(&mut self) -> Result<()> {
        self.done(&Request::Sync)
    }

    fn take_trace(&mut self) -> Result<Vec<Traced>> {
        match self.call(&Request::TakeTrace)? {
            Reply::Trace(trace) => Ok(trace),
            other => Err(unexpected(&other)),
        }
    }

    fn record(&mut self, launches: &[Launch]) -> Result<(GraphId, Vec<Traced>)> {
        match self.call(&Request::Record(launches.to_vec()))? {
            Reply::Graph(graph, nodes) => Ok((graph, nodes)),
            other => Err(unexpected(&other)),
        }
    }

    fn replay(&mut self, graph: GraphId) -> Result<()> {
        match self.child.call(&Request::Replay(graph), &[], &mut [], self.long())? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn step(&mut self, step: &Step<'_>, into: &mut [u8]) -> Result<()> {
        if step.bytes.len() > HALF || into.len() > HALF {
            return step.one_by_one(self, into);
        }
        let request = Request::Step { writes: step.writes.to_vec(), graph: step.graph, read: step.read };
        match self.child.call(&request, step.bytes, into, self.long())? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn forget(&mut self, graph: GraphId) -> Result<()> {
        self.done(&Request::Forget(graph))
    }

    fn time_each(&mut self, launches: &[Launch]) -> Result<Vec<f32>> {
        match self.child.call(&Request::TimeEach(launches.to_vec()), &[], &mut [], self.long())? {
            Reply::Times(times) => Ok(times),
            other => Err(unexpected(&other)),
        }
    }

    fn replayed_ms(&mut self) -> Result<f64> {
        match self.call(&Request::ReplayedMs)? {
            Reply::Ms(ms) => Ok(ms),
            other => Err(unexpected(&other)),
        }
    }

    fn copy(&mut self, from: BufferId, to: BufferId, bytes: u64) -> Result<()> {
        self.done(&Request::Copy { from, to, bytes })
    }

    fn free_memory(&mut self) -> Result<u64> {
        match self.call(&Request::FreeMemory)? {
            Reply::Bytes(bytes) => Ok(bytes),
            other => Err(unexpected(&other)),
        }
    }
}
