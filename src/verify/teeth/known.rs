//! Survivors that are explained: kept in a file, each with the reason.
//!
//! An *equivalent* mutant is one that nothing could tell from the kernel. It is named by its line's text, before and
//! after: when the kernel changes there, the entry fits nothing any more, and that is said; when a stage kills its
//! mutant, the reason was wrong, and that is an error. A *gap* is a line whose mutants some case should kill and none
//! does: what is missing is said, and the mutants count as survivors all the same.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::TEETH_KNOWN;
use crate::error::{Error, Result};
use crate::files;

/// Relative to the workbench.
pub const FILE: &str = "tests/teeth/known.toml";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Equivalent {
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// Below `kernels/`.
    pub file: String,
    /// Lines as they are, blanks aside.
    pub lines: Vec<String>,
    /// The case that is missing.
    pub why: String,
    /// Nodes for which this holds [default: all that reach the file]
    #[serde(default)]
    pub nodes: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    #[serde(default)]
    pub equivalent: Vec<Equivalent>,
    #[serde(default)]
    pub gap: Vec<Gap>,
}

impl Known {
    /// Nothing where the workbench has no such file.
    pub fn load(root: &Path) -> Result<Known> {
        let path = root.join(FILE);
        let Some(text) = files::read_text_if_any(&path, files::SETTINGS)? else { return Ok(Known::default()) };
        let refuse = |what: String| {
            Error::new(&TEETH_KNOWN, format!("{FILE}: {what}"))
                .expected("[[equivalent]] with file, before, after and why; [[gap]] with file, lines and why")
        };
        let out: Known = toml::from_str(&text).map_err(|e| refuse(e.message().into()))?;
        let reasons = out.equivalent.iter().map(|e| (&e.file, &e.why)).chain(out.gap.iter().map(|g| (&g.file, &g.why)));
        if let Some((file, _)) = reasons.into_iter().find(|(_, why)| why.trim().is_empty()) {
            return Err(refuse(format!("an entry about {file} gives no reason")));
        }
        Ok(out)
    }

    /// The entry that says that this mutant cannot be told.
    pub fn equivalent(&self, node: &str, file: &str, before: &str, after: &str) -> Option<&Equivalent> {
        self.equivalent
            .iter()
            .find(|e| e.file == file && same(&e.before, before) && same(&e.after, after) && holds(&e.nodes, node))
    }

    /// The entry that says what the cases lack for this line.
    pub fn gap(&self, node: &str, file: &str, before: &str) -> Option<&Gap> {
        let here = |g: &&Gap| g.file == file && g.lines.iter().any(|l| same(l, before)) && holds(&g.nodes, node);
        self.gap.iter().find(here)
    }

    /// Entries about a node's files that fit none of its mutants: `(file, before, after)`, all that there are.
    pub fn stale(&self, node: &str, mutants: &[(&str, String, String)]) -> Vec<String> {
        let mine = |file: &str, nodes: &[String]| mutants.iter().any(|m| m.0 == file) && holds(nodes, node);
        let mut out = Vec::new();
        for e in self.equivalent.iter().filter(|e| mine(&e.file, &e.nodes)) {
            if !mutants.iter().any(|m| m.0 == e.file && same(&m.1, &e.before) && same(&m.2, &e.after)) {
                out.push(format!("{}: {}", e.file, e.after));
            }
        }
        for gap in self.gap.iter().filter(|g| mine(&g.file, &g.nodes)) {
            let gone = |line: &&String| !mutants.iter().any(|m| m.0 == gap.file && same(&m.1, line));
            out.extend(gap.lines.iter().filter(gone).map(|line| format!("{}: {line}", gap.file)));
        }
        out
    }
}

fn holds(nodes: &[String], node: &str) -> bool {
    nodes.is_empty() || nodes.iter().any(|n| n == node)
}

/// But for blanks.
fn same(a: &str, b: &str) -> bool {
    a.split_whitespace().eq(b.split_whitespace())
}
