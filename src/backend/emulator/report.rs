//! The emulator's findings in words: kernel, block, thread, line, and which argument it was.

use std::ops::Range;
use std::time::Duration;

use super::memory::Memory;
use super::{Failed, codes, coordinates};
use crate::backend::{BufferId, DeviceInfo, Field, Launch};
use crate::error::{Error, Result};

/// `offset..offset + len` of a buffer of `all` bytes.
pub fn range(buffer: BufferId, all: usize, offset: u64, len: usize) -> Result<Range<usize>> {
    let end = usize::try_from(offset).ok().and_then(|o| Some(o..o.checked_add(len)?)).filter(|r| r.end <= all);
    end.ok_or_else(|| {
        Error::new(&codes::BUFFER, format!("buffer {}: {len} bytes at offset {offset} of {all}", buffer.0))
    })
}

pub fn check_shape(launch: &Launch, info: &DeviceInfo) -> Result<()> {
    let threads: u64 = launch.block.iter().map(|&d| u64::from(d)).product();
    let refuse = |expected: String, found: String| {
        Err(Error::new(&codes::LAUNCH, format!("{}: `{}` cannot be launched", launch.name, launch.entry))
            .expected(expected)
            .found(found))
    };
    if launch.grid.contains(&0) || threads == 0 {
        return refuse("dimensions of at least 1".into(), format!("grid {:?}, block {:?}", launch.grid, launch.block));
    }
    if threads > 1024 || launch.block[2] > 64 {
        return refuse("at most 1024 threads in a block, 64 in z".into(), format!("block {:?}", launch.block));
    }
    if launch.grid[0] > i32::MAX as u32 || launch.grid[1] > 65535 || launch.grid[2] > 65535 {
        return refuse("at most 2^31 - 1, 65535, 65535 blocks".into(), format!("grid {:?}", launch.grid));
    }
    if launch.shared > info.shared_max {
        return refuse(
            format!("at most {} bytes of shared memory", info.shared_max),
            format!("{} bytes", launch.shared),
        );
    }
    Ok(())
}

/// Bytes outside the buffers that a launch has overwritten without touching an inaccessible page.
pub fn check_damage(launch: &Launch, memory: &Memory) -> Result<()> {
    let Some((id, buffer, offset)) = memory.iter().find_map(|(id, b)| Some((id, b, b.damage()?))) else {
        return Ok(());
    };
    Err(Error::new(
        &codes::OUT_OF_BOUNDS,
        format!("{}: kernel `{}` wrote outside {}", launch.name, launch.entry, name(launch, id)),
    )
    .expected(format!("offsets 0 to {}", buffer.len()))
    .found(format!("a changed byte at offset {offset}")))
}

/// What the number of an argument stands behind in a [`codes::READ_ONLY`]'s finding.
const ARGUMENT: &str = "argument ";

/// The argument that a kernel wrote and may only read, counted from 0 in the struct's order.
pub fn written_argument(e: &Error) -> Option<usize> {
    let found = e.found_text().filter(|_| e.code().id == codes::READ_ONLY.id)?;
    found.strip_prefix(ARGUMENT)?.parse().ok()
}

fn argument(launch: &Launch, id: BufferId) -> Option<usize> {
    launch.args.iter().position(|f| matches!(f, Field::Pointer { buffer, .. } if *buffer == id))
}

/// `argument 2 (buffer 5)`, counted from 0 in the struct's order.
fn name(launch: &Launch, id: BufferId) -> String {
    match argument(launch, id) {
        Some(i) => format!("{ARGUMENT}{i} (buffer {})", id.0),
        None => format!("buffer {}, which is not an argument of it", id.0),
    }
}

pub fn failure(launch: &Launch, failed: Failed, memory: &Memory, limit: Duration) -> Error {
    let Failed { block, failure, context } = failed;
    let block = coordinates(block, launch.grid);
    let mut who = format!("{}: kernel `{}`, block {block:?}", launch.name, launch.entry);
    if let Some(thread) = failure.thread {
        who += &format!(", thread {:?}", coordinates(u64::from(thread), launch.block));
    }
    if let Some(site) = failure.site.as_ref().or(context.site.as_ref()) {
        who += &format!(", at {site}");
    }
    let Some(fault) = failure.fault else {
        let text = if std::ptr::eq(failure.code, &codes::TIME_LIMIT) { time_up(limit) } else { failure.text };
        return Error::new(failure.code, format!("{who}: {text}"));
    };
    if fault.is_time_limit() {
        return Error::new(&codes::TIME_LIMIT, format!("{who}: {}", time_up(limit)));
    }
    let did = match fault.write {
        Some(true) => "wrote",
        Some(false) => "read",
        None => "touched",
    };
    match fault.signal {
        libc::SIGSEGV | libc::SIGBUS => {}
        libc::SIGFPE => return Error::new(&codes::TRAP, format!("{who}: integer division by zero")),
        signal => return Error::new(&codes::TRAP, format!("{who}: signal {signal}")),
    }
    if context.stack.contains(&fault.address) {
        return Error::new(
            &codes::STACK,
            format!("{who}: its frames and local arrays need more than a thread's stack"),
        );
    }
    if let Some((id, buffer)) = memory.iter().find(|(_, b)| b.is_sealed(fault.address)) {
        let offset = fault.address as i64 - buffer.base() as i64;
        let what = format!("{who}: {did} offset {offset} of {}, which is only to be read", name(launch, id));
        let error = Error::new(&codes::READ_ONLY, what);
        return match argument(launch, id) {
            Some(i) => error.found(format!("{ARGUMENT}{i}")),
            None => error,
        };
    }
    let (dynamic, base) = &context.dynamic;
    let what = if dynamic.contains(&fault.address) {
        let offset = fault.address as i64 - *base as i64;
        format!("{did} offset {offset} of {} bytes of dynamic shared memory", launch.shared)
    } else if let Some((id, buffer)) = memory.iter().find(|(_, b)| b.whole().contains(&fault.address)) {
        let offset = fault.address as i64 - buffer.base() as i64;
        format!("{did} offset {offset} of {} with {} bytes", name(launch, id), buffer.len())
    } else if fault.address < 1 << 16 {
        format!("{did} through a null pointer (plus {} bytes)", fault.address)
    } else {
        format!("{did} address {:#x}, which belongs to no buffer", fault.address)
    };
    Error::new(&codes::OUT_OF_BOUNDS, format!("{who}: {what}"))
}

fn time_up(limit: Duration) -> String {
    format!("did not end within {:.1} s of a processor's time", limit.as_secs_f64())
}
