//! The child's side: confine, open the device, answer.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::confine::Policy;
use super::protocol::{Reply, Request, WireError, receive, send};
use super::{CHUNK, DeviceKind, codes};
use crate::backend::Device;
use crate::backend::cuda::Cuda;
use crate::backend::emulator::Emulator;
use crate::error::{Error, Result};

/// The body of `assay worker`: its standard input is the socket to the parent. Returns when the parent closes it.
pub fn serve() -> Result<()> {
    // The device must not find the socket under a number that foreign code reads from.
    let socket: OwnedFd = io::stdin().as_fd().try_clone_to_owned().map_err(|e| Error::io("standard input", e))?;
    let null = std::fs::File::open("/dev/null").map_err(|e| Error::io("/dev/null", e))?;
    // SAFETY: both are open; nothing else uses standard input.
    if unsafe { libc::dup2(null.as_raw_fd(), libc::STDIN_FILENO) } < 0 {
        return Err(Error::io("standard input", io::Error::last_os_error()));
    }
    let mut stream = UnixStream::from(socket);

    let (Request::Hello { kind, read, emulator_name }, _) = expect(receive(&mut stream))? else {
        return Err(Error::new(&codes::PROTOCOL, "the first message was not Hello"));
    };
    let sandbox = policy(kind, read).prepare().apply();
    leave_with_parent();
    let mut device = match open(kind, emulator_name) {
        Ok(device) => device,
        Err(e) => return expect(send(&mut stream, &Reply::Failed(WireError::new(&e)), &[])),
    };
    let ready = Reply::Ready { info: device.info().clone(), sandbox };
    expect(send(&mut stream, &ready, &[]))?;
    let mut bytes = Vec::new();
    loop {
        let (request, len) = match receive::<Request>(&mut stream) {
            Ok(message) => message,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return expect(Err(e)),
        };
        bytes.resize(len, 0);
        expect(stream.read_exact(&mut bytes))?;
        let reply = answer(&mut *device, request, &mut bytes).unwrap_or_else(|e| {
            bytes.clear();
            Reply::Failed(WireError::new(&e))
        });
        expect(send(&mut stream, &reply, &bytes))?;
    }
}

/// A kernel that never ends must not outlive a parent that was killed: nobody would end it.
fn leave_with_parent() {
    let parent = std::os::unix::process::parent_id();
    let watch = move || {
        while std::os::unix::process::parent_id() == parent {
            std::thread::sleep(Duration::from_millis(500));
        }
        // SAFETY: ends the process at once, without handlers of foreign code.
        unsafe { libc::_exit(0) };
    };
    // Without this thread the resource limits remain.
    let _ = std::thread::Builder::new().name("parent-watch".into()).spawn(watch);
}

fn expect<T>(result: io::Result<T>) -> Result<T> {
    result.map_err(|e| Error::new(&codes::PROTOCOL, format!("the connection to the parent: {e}")).because(e))
}

fn open(kind: DeviceKind, emulator_name: String) -> Result<Box<dyn Device>> {
    Ok(match kind {
        DeviceKind::Emulator => Box::new(Emulator::new(emulator_name)?),
        DeviceKind::Cuda => Box::new(Cuda::open()?),
    })
}

fn policy(kind: DeviceKind, read: Vec<PathBuf>) -> Policy {
    match kind {
        DeviceKind::Emulator => Policy::emulator(read),
        DeviceKind::Cuda => Policy::cuda(read),
    }
}

/// Raw bytes come in and go out through `bytes`; only `Read` leaves any.
fn answer(device: &mut dyn Device, request: Request, bytes: &mut Vec<u8>) -> Result<Reply> {
    let input = std::mem::take(bytes);
    Ok(match request {
        Request::Hello { .. } => return Err(Error::new(&codes::PROTOCOL, "a second Hello")),
        Request::Alloc { bytes } => Reply::Buffer(device.alloc(bytes)?),
        Request::Free { buffer } => done(device.free(buffer))?,
        Request::Write { buffer, offset } => done(device.write(buffer, offset, &input))?,
        Request::Read { buffer, offset, len } => {
            bytes.resize((len as usize).min(CHUNK), 0);
            done(device.read(buffer, offset, bytes))?
        }
        Request::Fill { buffer, pattern } => done(device.fill(buffer, pattern))?,
        Request::Load { module } => Reply::Module(device.load(&module)?),
        Request::Launch(launch) => done(device.launch(&launch))?,
        Request::Sync => done(device.sync())?,
        Request::TakeTrace => Reply::Trace(device.take_trace()?),
        Request::Record(launches) => {
            let (graph, nodes) = device.record(&launches)?;
            Reply::Graph(graph, nodes)
        }
        Request::Replay(graph) => done(device.replay(graph))?,
        Request::Forget(graph) => done(device.forget(graph))?,
        Request::TimeEach(launches) => Reply::Times(device.time_each(&launches)?),
        Request::ReplayedMs => Reply::Ms(device.replayed_ms()?),
        Request::Copy { from, to, bytes } => done(device.copy(from, to, bytes))?,
        Request::FreeMemory => Reply::Bytes(device.free_memory()?),
        Request::SetOrder(order) => done(device.set_thread_order(order))?,
        Request::SetTimeLimit(limit) => done(device.set_time_limit(limit))?,
    })
}

fn done(result: Result<()>) -> Result<Reply> {
    result.map(|()| Reply::Done)
}
