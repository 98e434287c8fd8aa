//! Memory of a worker that could not be killed, across processes: a file with its id and start time.

use std::path::PathBuf;

use super::codes;
use crate::backend::emulator::build::cache_dir;
use crate::error::{Error, Result};

fn path() -> Option<PathBuf> {
    Some(cache_dir().ok()?.join("wedged-worker"))
}

/// Field 22 of /proc/PID/stat: tells a process from a later one with its number.
fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_whitespace().nth(19).map(str::to_string)
}

/// Keeps later workers from starting beside `pid`.
pub fn record(pid: u32) {
    if let (Some(path), Some(start)) = (path(), start_time(pid)) {
        // Without a cache directory the message of this run is all there is.
        let _ = std::fs::write(path, format!("{pid} {start}\n"));
    }
}

/// Refuses while a recorded process still exists.
pub fn check() -> Result<()> {
    let Some(path) = path() else { return Ok(()) };
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) };
    if let Some((pid, start)) = text.trim().split_once(' ')
        && pid.parse().ok().and_then(start_time).as_deref() == Some(start)
    {
        return Err(Error::new(&codes::WEDGED, format!("worker process {pid} could not be killed and still exists"))
            .hint(format!("kill -9 {pid}   (or restart the machine)")));
    }
    // It is gone.
    let _ = std::fs::remove_file(path);
    Ok(())
}
