//! A person's hand on a run: words from another terminal, and Ctrl-C.
//!
//! Words are files in the run's `control/` folder, each written beside and renamed, so that none is read half. The run
//! writes an event for each before it removes the file: a word is neither lost nor carried out twice.

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

use super::kept;
use crate::error::{Error, Result};

/// Bytes of what a person says at once.
const MOST_TEXT: usize = 8 << 10;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "snake_case", deny_unknown_fields)]
pub enum Word {
    Pause,
    Resume,
    Say {
        text: String,
    },
    /// An answer to the question of this number.
    Approve {
        ask: u64,
        text: String,
    },
    Reject {
        ask: u64,
        text: String,
    },
}

const FOLDER: &str = "control";

/// Refuses what is too long to be said at once, and a hint that says nothing.
pub fn check(word: &Word) -> Result<()> {
    match word {
        Word::Say { text } if text.trim().is_empty() => {
            Err(Error::usage("nothing is said").expected("a hint, or an answer in words").hint("assay agent say TEXT"))
        }
        Word::Say { text } | Word::Approve { text, .. } | Word::Reject { text, .. } if text.len() > MOST_TEXT => {
            Err(Error::usage("that is too much to say at once")
                .expected(format!("at most {MOST_TEXT} bytes"))
                .found(text.len()))
        }
        _ => Ok(()),
    }
}

/// Leaves a word for the run's process.
pub fn send(run: &Path, word: &Word) -> Result<()> {
    check(word)?;
    let dir = kept::make(run, FOLDER)?;
    let text = serde_json::to_vec(word).map_err(|e| Error::internal(format!("a word has no JSON form: {e}")))?;
    let mut file = tempfile::Builder::new().prefix(".").tempfile_in(&dir).map_err(|e| Error::io(&dir, e))?;
    file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(|e| Error::io(&dir, e))?;
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let path = dir.join(format!("{:020}-{}.json", since.as_nanos(), std::process::id()));
    file.persist(&path).map_err(|e| Error::io(&path, e.error))?;
    Ok(())
}

/// What was left, oldest first, each under the name it is removed by. What is no word is `None`.
pub fn inbox(run: &Path) -> Result<Vec<(String, Option<Word>)>> {
    let dir = kept::plain(run.join(FOLDER))?;
    let entries = match std::fs::read_dir(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::io(&dir, e))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(&dir, e))?;
        if let Ok(name) = entry.file_name().into_string()
            && name.ends_with(".json")
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort();
    let read = |name: String| {
        let path = dir.join(&name);
        let small = path.symlink_metadata().is_ok_and(|m| m.is_file() && m.len() < 4 * MOST_TEXT as u64);
        let text = if small { std::fs::read(&path).unwrap_or_default() } else { Vec::new() };
        (name, serde_json::from_slice(&text).ok())
    };
    Ok(names.into_iter().map(read).collect())
}

/// Whether a folder has the name of a word: nobody's word, and none that could be removed as one.
pub fn is_folder(run: &Path, name: &str) -> bool {
    run.join(FOLDER).join(name).symlink_metadata().is_ok_and(|about| about.is_dir())
}

/// Removes a word that was carried out.
pub fn remove(run: &Path, name: &str) -> Result<()> {
    let path = run.join(FOLDER).join(name);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&path, e)),
        _ => Ok(()),
    }
}

/// Ctrl-C, counted: once pauses after the step, twice stops.
#[derive(Default)]
pub struct Signals {
    count: AtomicU8,
    stop: AtomicBool,
}

impl Signals {
    /// Called from the signal's handler. True from the third time on, when the process has to go at once.
    pub fn came(&self) -> bool {
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        if before >= 1 {
            self.stop.store(true, Ordering::Relaxed);
        }
        before >= 2
    }

    pub fn pause(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 1
    }

    /// The pause that was asked for is over.
    pub fn clear(&self) {
        let _ = self.count.compare_exchange(1, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub fn stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// For what looks at a flag while it works.
    pub fn flag(&self) -> &AtomicBool {
        &self.stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_in_order_and_once() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(inbox(dir.path()).unwrap(), []);
        let words = [Word::Pause, Word::Say { text: "ä".into() }, Word::Approve { ask: 3, text: String::new() }];
        for word in &words {
            send(dir.path(), word).unwrap();
        }
        std::fs::write(dir.path().join("control/zzz.json"), "{\"word\":\"land\"}").unwrap();
        let found = inbox(dir.path()).unwrap();
        let read: Vec<_> = found.iter().map(|(_, w)| w.clone()).collect();
        assert_eq!(read, [words.map(Some).as_slice(), &[None]].concat());
        for (name, _) in found {
            remove(dir.path(), &name).unwrap();
            remove(dir.path(), &name).unwrap();
        }
        assert_eq!(inbox(dir.path()).unwrap(), []);
        assert!(send(dir.path(), &Word::Say { text: "x".repeat(9000) }).is_err());
        // An empty hint was acknowledged, and told to the model.
        for nothing in ["", " \n\t"] {
            let error = send(dir.path(), &Word::Say { text: nothing.into() }).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Usage, "{error}");
        }
        assert_eq!(inbox(dir.path()).unwrap(), []);
    }

    #[test]
    fn one_signal_pauses_and_two_stop() {
        let signals = Signals::default();
        assert!(!signals.came() && signals.pause() && !signals.stop());
        signals.clear();
        assert!(!signals.pause());
        assert!(!signals.came() && !signals.came() && signals.stop() && signals.came());
    }
}
