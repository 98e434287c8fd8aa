//! The runs of a workbench, and the right to drive one.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::codes::{RUN_BUSY, RUN_NONE};
use super::events::Record;
use super::kept;
pub use super::kept::id;
use super::state::State;
use super::transcript;
use crate::error::{Error, Result};
use crate::process::Stat;

pub struct Runs {
    dir: PathBuf,
}

/// The right to drive a run of this workbench, until it is dropped or the process ends.
pub struct Lock(File);

impl Runs {
    pub fn of(root: &Path) -> Result<Runs> {
        Ok(Runs { dir: kept::folder(root, "runs")? })
    }

    /// A new run's folder.
    pub fn create(&self) -> Result<PathBuf> {
        kept::create(&self.dir)
    }

    /// Oldest first.
    pub fn list(&self) -> Result<Vec<PathBuf>> {
        kept::list(&self.dir)
    }

    /// The run of this name or of a beginning of it; the newest where none is named.
    pub fn find(&self, name: Option<&str>) -> Result<PathBuf> {
        kept::find(&self.dir, name, |name| {
            let what = match name {
                None => "there is no run in this workbench yet".to_string(),
                Some(name) => format!("there is no run {name} in this workbench"),
            };
            Error::new(&RUN_NONE, what).hint("assay agent begins one")
        })
    }

    /// Errors: another process has it. One that is gone may not be so wholly for a moment, of which `wait` is told; what
    /// is left of it is waited for.
    pub fn lock(&self, wait: &dyn Fn(&str)) -> Result<Lock> {
        let began = Instant::now();
        let mut told = false;
        loop {
            if let Some(mut lock) = self.try_lock()? {
                lock.sign(&self.path())?;
                return Ok(lock);
            }
            let holder = self.holder();
            if !holder.is_gone() || began.elapsed() > LEFT_OVER {
                return Err(busy(&holder));
            }
            if !std::mem::replace(&mut told, true) {
                wait(&format!("{holder} was killed and is not gone yet; it is waited for"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether some process drives a run. One that was killed does not, though it may take a moment to go.
    pub fn alive(&self) -> Result<bool> {
        match self.dir.is_dir() {
            true => Ok(self.try_lock()?.is_none() && !self.holder().is_gone()),
            false => Ok(false),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("lock")
    }

    fn try_lock(&self) -> Result<Option<Lock>> {
        use std::os::unix::fs::OpenOptionsExt as _;
        std::fs::create_dir_all(&self.dir).map_err(|e| Error::io(&self.dir, e))?;
        let path = self.path();
        let mut options = File::options();
        options.create(true).write(true).truncate(false).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = options.open(&path).map_err(|e| kept::unopened(&path, e))?;
        kept::single(&path, &file)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(e)) => Err(Error::io(&path, e)),
        }
    }

    /// Who the lock says has it.
    fn holder(&self) -> Holder {
        let mut text = String::new();
        let read = transcript::open(&self.path()).and_then(|file| file.take(64).read_to_string(&mut text));
        let words: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match (read, &words[..]) {
            (Ok(_), [pid, began]) => Holder(Some((*pid, *began))),
            _ => Holder(None),
        }
    }
}

/// How long what is left of a killed process may take to go.
const LEFT_OVER: Duration = Duration::from_secs(10);

fn busy(holder: &Holder) -> Error {
    let what = match holder.is_gone() {
        false => format!("{holder} drives a run in this workbench"),
        true => format!("{holder} was killed, and what is left of it still holds the run"),
    };
    Error::new(&RUN_BUSY, what).hint("assay agent status says what it does; assay agent pause pauses it")
}

impl Lock {
    /// Says whose it is: this process, told from another of the same number by when it began.
    fn sign(&mut self, path: &Path) -> Result<()> {
        use std::os::unix::fs::FileExt as _;
        let pid = std::process::id();
        let began = Process::of(u64::from(pid)).map_or(0, |p| p.began);
        // Always as long, so that it replaces what the holder before wrote.
        let text = format!("{pid:020} {began:020}\n");
        self.0.write_all_at(text.as_bytes(), 0).map_err(|e| Error::io(path, e))
    }
}

/// The process that has the lock, by its number and when it began; none where the lock does not say.
struct Holder(Option<(u64, u64)>);

impl Holder {
    /// Whether it is gone, or as good as: killed, and not yet taken down by the system.
    fn is_gone(&self) -> bool {
        let Some((pid, began)) = self.0 else { return false };
        Process::of(pid).is_none_or(|now| now.began != began || now.dying)
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some((pid, _)) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}

/// What the system says of a process.
struct Process {
    /// In ticks since the system started.
    began: u64,
    dying: bool,
}

impl Process {
    /// None where there is none of this number.
    fn of(pid: u64) -> Option<Process> {
        let stat = Stat::of(u32::try_from(pid).ok()?)?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        const KILL: u64 = 1 << (libc::SIGKILL - 1);
        let killed = status.lines().any(|line| {
            let pending = line.strip_prefix("ShdPnd:").or_else(|| line.strip_prefix("SigPnd:"));
            pending.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|set| set & KILL != 0)
        });
        Some(Process { began: stat.began()?, dying: killed || stat.ended() })
    }
}

/// What a run has come to.
pub fn state(run: &Path) -> Result<State> {
    let mut state = State::default();
    transcript::read(&run.join(transcript::FILE), |record: Record| state.apply(&record))?;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of the process was written over whatever file the lock was another name of.
    #[test]
    fn a_link_in_the_place_of_the_lock_was_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (runs, other) = (Runs { dir: dir.path().join("runs") }, dir.path().join("other"));
        std::fs::create_dir(&runs.dir).unwrap();
        std::fs::write(&other, "somebody's").unwrap();
        for hard in [true, false] {
            match hard {
                true => std::fs::hard_link(&other, runs.path()).unwrap(),
                false => std::os::unix::fs::symlink(&other, runs.path()).unwrap(),
            }
            let error = runs.lock(&|_| ()).err().unwrap();
            assert_eq!(error.code().id, "agent-run-link", "{error}");
            assert!(error.hint_text().unwrap().contains(&format!("rm {}", runs.path().display())), "{error}");
            assert_eq!(std::fs::read_to_string(&other).unwrap(), "somebody's");
            std::fs::remove_file(runs.path()).unwrap();
        }
        drop(runs.lock(&|_| ()).unwrap());
    }

    /// Right after kill -9 the lock was still held, and `resume` spoke to a process that was no more.
    #[test]
    fn a_lock_whose_holder_was_killed_is_waited_for_and_no_living_one() {
        let dir = tempfile::tempdir().unwrap();
        let runs = Runs { dir: dir.path().into() };
        let mine = runs.lock(&|_| panic!("nobody has it")).unwrap();
        assert!(runs.alive().unwrap());
        let busy = runs.lock(&|_| panic!("it is alive")).err().unwrap();
        assert!(busy.to_string().contains(&format!("process {}", std::process::id())), "{busy}");
        // A killed process whose parent has not looked yet, as the one who has the lock.
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let began = Process::of(child.id().into()).unwrap().began;
        std::fs::write(runs.path(), format!("{:020} {began:020}\n", child.id())).unwrap();
        assert!(runs.alive().unwrap());
        child.kill().unwrap();
        let since = Instant::now();
        while runs.alive().unwrap() {
            assert!(since.elapsed() < Duration::from_secs(5), "the killed one counts as alive");
        }
        let holder = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(mine);
        });
        let told = std::cell::Cell::new(0);
        drop(runs.lock(&|_| told.set(told.get() + 1)).unwrap());
        holder.join().unwrap();
        child.wait().unwrap();
        assert_eq!(told.get(), 1);
        // A process of the same number that began at another time is another one.
        std::fs::write(runs.path(), format!("{:020} {:020}\n", std::process::id(), 1)).unwrap();
        assert!(runs.holder().is_gone());
    }
}
