//! What hangs in the gallery, and how the verifier is to take it.
//!
//! An exhibit is a folder with an `exhibit.toml`:
//!
//! ```toml
//! does = "Writes every output, and always the same."
//! recalls = "POSTMORTEM.md §3"            # the incident
//! node = "swiglu"                         # what is judged; the files beside this one lie over kernels/
//!
//! [edit]                                  # or, with no file beside it: one edit of a kernel as it is today
//! file = "swiglu.cu"
//! from = "a.clamp"
//! to = "10.0f"
//!
//! [expect]                                # the stage that must refuse it (`a or b` where it depends on the machine),
//! stage = "unit"                          # and a piece of what it says (`a | b` where that depends on the machine or on
//!                                         # the drawn cases); `pass = true` of honest work
//! says = "h is wrong"
//! ```
//!
//! One that attacks what happens around a verdict has `[[step]]`s instead of a node ([`Step`]); the stage that must refuse it
//! is then the command of its last step.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::attack::{Edit, Step};

pub enum Expected {
    Pass,
    /// The stage that is red, and a piece of its reason.
    Red(&'static str, &'static str),
}

pub struct Exhibit {
    pub name: &'static str,
    pub what: What,
    pub expected: Expected,
}

pub enum What {
    /// A node, judged in a copy of the repository's kernels with a change made to it.
    Kernel {
        node: &'static str,
        change: Change,
    },
    Attack(&'static [Step]),
}

pub enum Change {
    /// The files of this folder, but for the card, lie over `kernels/`.
    Files(&'static str),
    /// One edit of one file: a mistake that a hand may make.
    Edit { file: &'static str, from: &'static str, to: &'static str },
}

pub const fn edit(
    name: &'static str,
    node: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
    expected: Expected,
) -> Exhibit {
    Exhibit { name, what: What::Kernel { node, change: Change::Edit { file, from, to } }, expected }
}

pub const CARD: &str = "exhibit.toml";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Card {
    does: String,
    recalls: String,
    node: Option<String>,
    edit: Option<Edit>,
    expect: Expect,
    #[serde(default)]
    step: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    #[serde(default)]
    pass: bool,
    stage: Option<String>,
    says: Option<String>,
}

/// Every folder of the gallery, by name. A folder without a card, and a card that does not say enough, are errors: what is
/// not judged must not look as if it were.
pub fn hung(gallery: &Path) -> Result<Vec<Exhibit>, String> {
    let mut out = Vec::new();
    for entry in fs::read_dir(gallery).map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        if entry.file_type().map_err(|e| e.to_string())?.is_dir() {
            let name = kept(entry.file_name().to_string_lossy().into_owned());
            out.push(read(&entry.path(), name).map_err(|why| format!("tests/gallery/{name}: {why}"))?);
        }
    }
    out.sort_by_key(|exhibit| exhibit.name);
    Ok(out)
}

fn read(folder: &Path, name: &'static str) -> Result<Exhibit, String> {
    let text = fs::read_to_string(folder.join(CARD)).map_err(|e| format!("{CARD}: {e}"))?;
    let card: Card = toml::from_str(&text).map_err(|e| format!("{CARD}: {}", e.message()))?;
    if card.does.trim().is_empty() || !card.recalls.starts_with("POSTMORTEM.md") {
        return Err(format!("{CARD} does not say what it does, or which incident it recalls"));
    }
    let expected = match card.expect {
        Expect { pass: true, stage: None, says: None } => Expected::Pass,
        Expect { pass: false, stage: Some(stage), says } => Expected::Red(kept(stage), kept(says.unwrap_or_default())),
        _ => return Err(format!("{CARD} expects neither a pass nor a stage")),
    };
    let files = fs::read_dir(folder).map_err(|e| e.to_string())?.count() - 1;
    let change = match card.edit {
        None if card.node.is_some() && files == 0 => return Err(format!("{CARD} has a node, and nothing is changed")),
        None => Change::Files(name),
        Some(_) if files > 0 => return Err(format!("{CARD} has an edit, and files lie beside it")),
        Some(Edit { file, from, to }) => Change::Edit { file: kept(file), from: kept(from), to: kept(to) },
    };
    let what = match (card.node, card.step) {
        (Some(node), steps) if steps.is_empty() => What::Kernel { node: kept(node), change },
        (None, steps) if !steps.is_empty() && matches!(change, Change::Files(_)) => What::Attack(steps.leak()),
        _ => return Err(format!("{CARD} has neither a node nor steps, or both")),
    };
    Ok(Exhibit { name, what, expected })
}

/// Exhibits live as long as the program.
fn kept(text: String) -> &'static str {
    text.leak()
}
