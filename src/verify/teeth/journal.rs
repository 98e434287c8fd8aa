//! What became of mutants, a line each as it was known: a run that is ended goes on where it was.
//!
//! The first line says what was asked: kernels, cases, model and seed, as one digest. Nothing of a journal about
//! anything else is taken.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::TEETH_JOURNAL;
use super::fates::Fate;
use super::mutate::Edit;
use crate::error::{Error, Result};
use crate::files;

const SCHEMA: &str = "assay.teeth-journal/1";
/// The longest journal that is read: a line has some 200 bytes.
const MOST: u64 = 1 << 28;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    schema: String,
    asked: String,
}

/// A mutant, by its place in the texts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Key {
    file: String,
    at: [usize; 2],
    text: String,
}

impl Key {
    pub fn of(file: &str, edit: &Edit) -> Key {
        Key { file: file.into(), at: [edit.at.start, edit.at.end], text: edit.text.clone() }
    }
}

/// What became of it in each kernel that was asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub fates: Vec<(String, Fate)>,
    pub seconds: f64,
}

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    key: Key,
    #[serde(flatten)]
    told: Told,
}

pub struct Journal {
    path: PathBuf,
    known: HashMap<Key, Told>,
    file: Mutex<File>,
}

impl Journal {
    /// Begins one, or goes on with one that was asked the same.
    ///
    /// Errors: `teeth-journal` where the file is no journal, or about something else.
    pub fn open(path: &Path, asked: &str) -> Result<Journal> {
        let refuse = |what: &str| {
            Error::new(&TEETH_JOURNAL, format!("{}: {what}", path.display()))
                .hint(format!("rm {} && assay verify --teeth --mutants all --journal …", path.display()))
        };
        let text = files::read_text_if_any(path, MOST)?.unwrap_or_default();
        // A line that was being written when the run was killed has no end.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut lines = text[..whole].lines();
        let mut known = HashMap::new();
        if let Some(head) = lines.next() {
            let head: Head = serde_json::from_str(head).map_err(|_| refuse("its first line is no journal's"))?;
            if head.schema != SCHEMA || head.asked != asked {
                return Err(refuse("it is about other kernels, cases, seeds or another model")
                    .expected(format!("{SCHEMA} {asked}"))
                    .found(format!("{} {}", head.schema, head.asked)));
            }
            for (i, line) in lines.enumerate() {
                let line: Line =
                    serde_json::from_str(line).map_err(|e| refuse(&format!("line {} is none: {e}", i + 2)))?;
                known.insert(line.key, line.told);
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(|e| Error::io(path, e))?;
        file.set_len(whole as u64).map_err(|e| Error::io(path, e))?;
        let journal = Journal { path: path.into(), known, file: Mutex::new(file) };
        if whole == 0 {
            journal.append(&Head { schema: SCHEMA.into(), asked: asked.into() })?;
        }
        Ok(journal)
    }

    pub(super) fn told(&self, key: &Key) -> Option<&Told> {
        self.known.get(key)
    }

    pub(super) fn tell(&self, key: Key, told: &Told) -> Result<()> {
        self.append(&Line { key, told: told.clone() })
    }

    fn append(&self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(line).map_err(|e| Error::internal(e.to_string()))?;
        text.push('\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(text.as_bytes()).map_err(|e| Error::io(&self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::teeth::mutate::Mistake;

    fn edit(at: usize) -> Edit {
        Edit { mistake: Mistake::Sign, line: 1, at: at..at + 1, text: "-".into() }
    }

    #[test]
    fn a_journal_goes_on_and_is_never_taken_for_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let told = Told { fates: vec![("swiglu".into(), Fate::Survived)], seconds: 1.0 };
        let first = Journal::open(&path, "abc").unwrap();
        first.tell(Key::of("swiglu.cu", &edit(7)), &told).unwrap();
        drop(first);
        // Killed in the middle of a line.
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"file\":\"sw")).unwrap();
        let again = Journal::open(&path, "abc").unwrap();
        assert_eq!(again.told(&Key::of("swiglu.cu", &edit(7))).unwrap().fates, told.fates);
        assert!(again.told(&Key::of("swiglu.cu", &edit(8))).is_none());
        again.tell(Key::of("swiglu.cu", &edit(8)), &told).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
        assert!(Journal::open(&path, "abc").is_ok());
        for (text, asked) in [(whole.clone(), "abd"), (format!("{whole}nothing\n"), "abc"), ("{}\n".into(), "abc")] {
            std::fs::write(&path, &text).unwrap();
            let refused = Journal::open(&path, asked).err().unwrap();
            assert_eq!(refused.code().id, "teeth-journal", "{refused}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "what is refused is left alone");
        }
    }
}
