//! The child's side: confine, open the device, answer.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::confine::Policy;
use super::protocol::{Reply, Request, WireError, receive, send};
use super::window::{HALF, Window};
use super::{DeviceKind, codes, compile};
use crate::backend::cuda::Cuda;
use crate::backend::emulator::Emulator;
use crate::backend::{Device, Step};
use crate::error::{Error, Result};

/// The body of `assay worker`: its standard input is the socket to the parent, its standard output the window. Returns
/// when the parent closes the socket.
pub fn serve() -> Result<()> {
    // The device must not find either under a number that foreign code reads from or prints to.
    let stream = take(libc::STDIN_FILENO, io::stdin().as_fd().try_clone_to_owned());
    let mut stream = UnixStream::from(stream.map_err(|e| Error::io("standard input", e))?);
    let shared = take(libc::STDOUT_FILENO, io::stdout().as_fd().try_clone_to_owned());
    let mut window = expect(shared.and_then(Window::open))?;

    let mut scratch = Vec::new();
    let (kind, read, emulator) = match expect(receive(&mut stream, &mut scratch))?.0 {
        Request::Hello { kind, read, emulator_name, emulator_threads } => {
            (kind, read, (emulator_name, emulator_threads))
        }
        Request::Compiler(begin) => return compile::serve(stream, begin, leave_with_parent),
        _ => return Err(Error::new(&codes::PROTOCOL, "the first message was not Hello")),
    };
    let sandbox = policy(kind, read).prepare().apply();
    leave_with_parent();
    let mut device = match open(kind, emulator, &mut window) {
        Ok(device) => device,
        Err(e) => return expect(send(&mut stream, &Reply::Failed(WireError::new(&e)), 0, &mut scratch)),
    };
    let ready = Reply::Ready { info: device.info().clone(), sandbox };
    expect(send(&mut stream, &ready, 0, &mut scratch))?;
    loop {
        let (request, len) = match receive::<Request>(&mut stream, &mut scratch) {
            Ok(message) => message,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return expect(Err(e)),
        };
        let (input, output) = window.halves();
        let answered = answer(&mut *device, request, &input[..len], output);
        let (reply, len) = answered.unwrap_or_else(|e| (Reply::Failed(WireError::new(&e)), 0));
        expect(send(&mut stream, &reply, len, &mut scratch))?;
    }
}

/// Keeps `copy`, a duplicate of the standard file `number`, and puts /dev/null in that one's place.
fn take(number: i32, copy: io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    // SAFETY: both are open; nothing else uses the standard files of a worker.
    match unsafe { libc::dup2(null.as_raw_fd(), number) } {
        0.. => copy,
        _ => Err(io::Error::last_os_error()),
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

pub(super) fn expect<T>(result: io::Result<T>) -> Result<T> {
    result.map_err(|e| Error::new(&codes::PROTOCOL, format!("the connection to the parent: {e}")).because(e))
}

fn open(kind: DeviceKind, (name, threads): (String, usize), window: &mut Window) -> Result<Box<dyn Device>> {
    Ok(match kind {
        DeviceKind::Emulator => Box::new(Emulator::with_threads(name, threads)?),
        DeviceKind::Cuda => {
            let mut cuda = Cuda::open()?;
            let (at, len) = window.whole();
            // SAFETY: the window stays mapped until this process ends.
            unsafe { cuda.pin(at, len) };
            Box::new(cuda)
        }
    })
}

fn policy(kind: DeviceKind, read: Vec<PathBuf>) -> Policy {
    match kind {
        DeviceKind::Emulator => Policy::emulator(read),
        DeviceKind::Cuda => Policy::cuda(read),
    }
}

/// Raw bytes come in through `input`, and go out through `output`, with their number.
fn answer(device: &mut dyn Device, request: Request, input: &[u8], output: &mut [u8]) -> Result<(Reply, usize)> {
    let mut out = 0;
    let reply = match request {
        Request::Hello { .. } | Request::Compiler(_) => return Err(Error::new(&codes::PROTOCOL, "a second Hello")),
        Request::Alloc { bytes } => Reply::Buffer(device.alloc(bytes)?),
        Request::Free { buffer } => done(device.free(buffer))?,
        Request::Write { buffer, offset } => done(device.write(buffer, offset, input))?,
        Request::Read { buffer, offset, len } => {
            out = (len as usize).min(HALF);
            done(device.read(buffer, offset, &mut output[..out]))?
        }
        Request::ReadFile { source, parts } => done(device.read_file(&source, &parts))?,
        Request::Fill { buffer, pattern } => done(device.fill(buffer, pattern))?,
        Request::Seal { buffer } => done(device.seal(buffer))?,
        Request::Load { module } => Reply::Module(device.load(&module)?),
        Request::Launch(launch) => done(device.launch(&launch))?,
        Request::Sync => done(device.sync())?,
        Request::TakeTrace => Reply::Trace(device.take_trace()?),
        Request::Record(launches) => {
            let (graph, nodes) = device.record(&launches)?;
            Reply::Graph(graph, nodes)
        }
        Request::Replay(graph) => done(device.replay(graph))?,
        Request::Step { writes, graph, read } => {
            out = read.map_or(0, |r| r.len as usize).min(HALF);
            let step = Step { writes: &writes, bytes: input, graph, read };
            done(device.step(&step, &mut output[..out]))?
        }
        Request::Forget(graph) => done(device.forget(graph))?,
        Request::TimeEach(launches) => Reply::Times(device.time_each(&launches)?),
        Request::ReplayedMs => Reply::Ms(device.replayed_ms()?),
        Request::Copy { from, to, bytes } => done(device.copy(from, to, bytes))?,
        Request::FreeMemory => Reply::Bytes(device.free_memory()?),
        Request::SetOrder(order) => done(device.set_thread_order(order))?,
        Request::SetTimeLimit(limit) => done(device.set_time_limit(limit))?,
    };
    Ok((reply, out))
}

fn done(result: Result<()>) -> Result<Reply> {
    result.map(|()| Reply::Done)
}
