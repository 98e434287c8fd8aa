//! Memory of a worker that could not be killed, across processes: a file with its id and start time.

use std::path::PathBuf;

use super::codes;
use crate::backend::emulator::build::cache_dir;
use crate::error::{Error, Result};
use crate::process::Stat;

fn path() -> Option<PathBuf> {
    Some(cache_dir().ok()?.join("wedged-worker"))
}

fn began(pid: u32) -> Option<u64> {
    Stat::of(pid)?.began()
}

/// Keeps later workers from starting beside `pid`.
pub fn record(pid: u32) {
    if let (Some(path), Some(start)) = (path(), began(pid)) {
        // Without a cache directory the message of this run is all there is.
        let _ = std::fs::write(path, format!("{pid} {start}\n"));
    }
}

/// Refuses while a recorded process still exists.
pub fn check() -> Result<()> {
    let Some(path) = path() else { return Ok(()) };
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) };
    if let Some((pid, start)) = text.trim().split_once(' ')
        && pid.parse().ok().and_then(began).is_some_and(|began| start.parse() == Ok(began))
    {
        return Err(Error::new(&codes::WEDGED, format!("worker process {pid} could not be killed and still exists"))
            .hint(format!("kill -9 {pid}   (or restart the machine)")));
    }
    // It is gone.
    let _ = std::fs::remove_file(path);
    Ok(())
}
