//! The runs of a workbench, and the right to drive one.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::codes::{RUN_BUSY, RUN_NONE};
use super::events::Record;
use super::kept;
pub use super::kept::id;
use super::state::State;
use super::transcript;
use crate::error::{Error, Result};

pub struct Runs {
    dir: PathBuf,
}

/// The right to drive a run of this workbench, until it is dropped or the process ends.
pub struct Lock(#[expect(dead_code, reason = "it is held, not read")] File);

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

    /// Errors: another process has it.
    pub fn lock(&self) -> Result<Lock> {
        self.try_lock()?.ok_or_else(|| {
            Error::new(&RUN_BUSY, "another process drives a run in this workbench")
                .hint("assay agent status says what it does; assay agent pause pauses it")
        })
    }

    /// Whether some process drives a run.
    pub fn alive(&self) -> Result<bool> {
        match self.dir.is_dir() {
            true => Ok(self.try_lock()?.is_none()),
            false => Ok(false),
        }
    }

    fn try_lock(&self) -> Result<Option<Lock>> {
        use std::os::unix::fs::OpenOptionsExt as _;
        std::fs::create_dir_all(&self.dir).map_err(|e| Error::io(&self.dir, e))?;
        let path = self.dir.join("lock");
        let mut options = File::options();
        options.create(true).write(true).truncate(false).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&path).map_err(|e| Error::io(&path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(e)) => Err(Error::io(&path, e)),
        }
    }
}

/// What a run has come to.
pub fn state(run: &Path) -> Result<State> {
    let mut state = State::default();
    transcript::read(&run.join(transcript::FILE), |record: Record| state.apply(&record))?;
    Ok(state)
}
