//! Where runs are kept: `assay/runs/` in the repository's git directory, which is never committed and goes where the
//! clone goes; `.assay/runs/` of a workbench without git.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::codes::{RUN_BUSY, RUN_NONE};
use super::state::State;
use super::transcript;
use crate::error::{Error, Result};
use crate::history;
use crate::ledger::clock;

pub struct Runs {
    dir: PathBuf,
}

/// The right to drive a run of this workbench, until it is dropped or the process ends.
pub struct Lock(#[expect(dead_code, reason = "it is held, not read")] File);

impl Runs {
    pub fn of(root: &Path) -> Result<Runs> {
        let (base, inside) = match history::Repo::find(root)? {
            Some(repo) => repo.private("runs"),
            None => (root.to_path_buf(), ".assay/runs".into()),
        };
        // A link planted on the way would have transcripts written to where it points.
        let mut dir = base;
        for part in inside.split('/') {
            dir.push(part);
            if dir.is_symlink() {
                return Err(Error::new(&history::GIT_LINK, format!("{} is a symlink", dir.display()))
                    .expected("a folder, in which runs are kept"));
            }
        }
        Ok(Runs { dir })
    }

    /// A new run's folder.
    pub fn create(&self) -> Result<PathBuf> {
        use std::os::unix::fs::DirBuilderExt as _;
        let mut random = [0; 2];
        getrandom::fill(&mut random).map_err(|e| Error::internal(format!("no randomness: {e}")))?;
        let time: String = clock::now().chars().filter(char::is_ascii_digit).collect();
        let (day, second) = time.split_at(8.min(time.len()));
        let dir = self.dir.join(format!("{day}-{second}-{:02x}{:02x}", random[0], random[1]));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| Error::io(&dir, e))?;
        Ok(dir)
    }

    /// Oldest first.
    pub fn list(&self) -> Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| Error::io(&self.dir, e))?,
        };
        let mut out = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| Error::io(&self.dir, e))?.path();
            if path.join(transcript::FILE).is_file() && !path.is_symlink() {
                out.push(path);
            }
        }
        out.sort();
        Ok(out)
    }

    /// The run of this name or of a beginning of it; the newest where none is named.
    pub fn find(&self, name: Option<&str>) -> Result<PathBuf> {
        let all = self.list()?;
        let none = |what: String| Error::new(&RUN_NONE, what).hint("assay agent begins one");
        let Some(name) = name else {
            return all.into_iter().last().ok_or_else(|| none("there is no run in this workbench yet".into()));
        };
        let mut found = all.into_iter().filter(|path| id(path).starts_with(name));
        match (found.next(), found.next()) {
            (Some(path), None) => Ok(path),
            (None, _) => Err(none(format!("there is no run {name} in this workbench"))),
            _ => Err(Error::usage(format!("`{name}` begins more than one run's name"))),
        }
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

/// A run's name.
pub fn id(run: &Path) -> String {
    run.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

/// What a run has come to.
pub fn state(run: &Path) -> Result<State> {
    let mut state = State::default();
    transcript::read(&run.join(transcript::FILE), |record| state.apply(&record))?;
    Ok(state)
}
