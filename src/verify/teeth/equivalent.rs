//! Mutants that no case can tell from the kernel, because there is nothing to tell: kept in a file, each with the reason.
//!
//! An entry names its line by its text, before and after. When the kernel changes there, the entry fits nothing any
//! more, and that is said; when a case kills its mutant, the reason was wrong, and that is an error.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::TEETH_EQUIVALENTS;
use crate::error::{Error, Result};

/// Relative to the workbench.
pub const FILE: &str = "tests/teeth/equivalent.toml";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Below `kernels/`.
    pub file: String,
    /// The line as it is, blanks aside.
    pub before: String,
    /// The line with the mistake.
    pub after: String,
    /// Why the outputs are the same.
    pub why: String,
    /// Nodes for which this holds [default: all that reach the file]
    #[serde(default)]
    pub nodes: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Equivalents {
    #[serde(default, rename = "equivalent")]
    pub entries: Vec<Entry>,
}

impl Equivalents {
    /// None where the workbench has no such file.
    pub fn load(root: &Path) -> Result<Equivalents> {
        let path = root.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Equivalents::default()),
            Err(e) => return Err(Error::io(&path, e)),
        };
        let refuse = |what: String| {
            Error::new(&TEETH_EQUIVALENTS, format!("{FILE}: {what}"))
                .expected("[[equivalent]] with file, before, after and why, and nodes if it does not hold for all")
        };
        let out: Equivalents = toml::from_str(&text).map_err(|e| refuse(e.message().into()))?;
        for (i, entry) in out.entries.iter().enumerate() {
            if entry.why.trim().is_empty() {
                return Err(refuse(format!("entry {} of {} gives no reason", i + 1, entry.file)));
            }
            let same = |e: &Entry| (&e.file, &e.before, &e.after) == (&entry.file, &entry.before, &entry.after);
            if out.entries[..i].iter().any(|e| same(e) && (e.nodes.is_empty() || e.nodes == entry.nodes)) {
                return Err(refuse(format!("{} `{}` stands there twice", entry.file, entry.after)));
            }
        }
        Ok(out)
    }

    /// The entry that says this mutant cannot be told.
    pub fn find(&self, node: &str, file: &str, before: &str, after: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| {
            e.file == file
                && squeezed(&e.before) == squeezed(before)
                && squeezed(&e.after) == squeezed(after)
                && (e.nodes.is_empty() || e.nodes.iter().any(|n| n == node))
        })
    }
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
