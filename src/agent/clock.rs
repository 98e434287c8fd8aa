//! How long a run has worked, kept beside its transcript second by second. An event has its time, but a process that is
//! killed between two of them would give back what it worked since: a verdict takes minutes.

use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::transcript;
use crate::error::Result;

const FILE: &str = "worked";
const TICK: Duration = Duration::from_secs(1);

pub struct Clock {
    time: Arc<Time>,
    /// Hung up when the clock goes: its thread ends then.
    alive: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Time {
    began: Instant,
    /// Milliseconds of earlier processes.
    before: u64,
    /// Milliseconds in which a person had the run paused: they are no time of the run's.
    away: AtomicU64,
}

impl Time {
    fn ms(&self) -> u64 {
        let here = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.before.saturating_add(here.saturating_sub(self.away.load(Relaxed)))
    }
}

impl Clock {
    /// Goes on from the later of the last event's time and what the process before kept.
    pub fn start(dir: &Path, last_event: u64) -> Result<Clock> {
        let before = kept(&dir.join(FILE)).unwrap_or(0).max(last_event);
        // Anew each time: through a link in its place, or another name that it was given, the time would be written elsewhere.
        let file = super::kept::put(dir, FILE, text(before).as_bytes())?;
        let time = Arc::new(Time { began: Instant::now(), before, away: AtomicU64::new(0) });
        let (alive, gone) = channel::<()>();
        let shown = time.clone();
        let thread = std::thread::spawn(move || {
            while gone.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                // What cannot be kept is lost to a kill alone; events still have their time.
                let _ = file.write_all_at(text(shown.ms()).as_bytes(), 0);
            }
        });
        Ok(Clock { time, alive: Some(alive), thread: Some(thread) })
    }

    /// Milliseconds of work, by all processes of the run.
    pub fn ms(&self) -> u64 {
        self.time.ms()
    }

    /// Takes off what was no work.
    pub fn leave_out(&self, span: Duration) {
        self.time.away.fetch_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        drop(self.alive.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Always as long, so that one write in its place replaces it whole.
fn text(ms: u64) -> String {
    format!("{ms:020}\n")
}

fn kept(path: &Path) -> Option<u64> {
    let mut text = String::new();
    transcript::open(path).ok()?.take(64).read_to_string(&mut text).ok()?;
    text.strip_suffix('\n')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_gone_on_from_unless_an_event_is_later() {
        let dir = tempfile::tempdir().unwrap();
        for (kept, event, from) in [("", 7, 7), ("00000000000000009000\n", 7, 9000), ("x\n", 7, 7), ("5\n", 70, 70)] {
            std::fs::write(dir.path().join(FILE), kept).unwrap();
            let ms = Clock::start(dir.path(), event).unwrap().ms();
            assert!((from..from + 2000).contains(&ms), "{kept}: {ms}");
        }
    }

    #[test]
    fn a_pause_is_no_work() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::start(dir.path(), 0).unwrap();
        clock.leave_out(Duration::from_secs(3600));
        assert_eq!(clock.ms(), 0);
    }
}
