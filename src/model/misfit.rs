//! What a well-formed file says that this crate cannot run: collected, never one at a time.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::Error;

crate::codes! {
    MODEL_MISFIT: "model-misfit", No, "The file is well-formed, but its metadata or tensors are not those of a \
        deepseek4 model that assay can run. Every misfit is listed, so that one conversion can mend them all. The \
        fixed values and the divisibility rules stand in src/model/config.rs, the tensor table in src/model/layout.rs.";
    MODEL_ARCHITECTURE: "model-architecture", No, "general.architecture names another model family. assay runs \
        deepseek4 (DeepSeek V4 Flash) only.";
    MODEL_MTP: "model-mtp", No, "The file holds the draft block (mtp.0.*) that speculative decoding adds to a model, \
        not a model. assay recognises it and does not run it; give the main model's file instead.";
    MODEL_VOCAB: "model-vocab", CouldNotRun, "tokenizer.ggml.tokens has fewer entries than deepseek4.vocab_size \
        announces, so some rows of the output would have no text. The file is damaged or was converted wrongly.";
}

/// Messages list this many misfits; `assay inspect` lists all.
const LISTED: usize = 100;

/// One thing that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Misfit {
    /// A metadata key, or a tensor's name and which property of it.
    pub subject: String,
    pub expected: String,
    pub found: String,
}

impl Misfit {
    pub fn new(subject: impl Into<String>, expected: impl fmt::Display, found: impl fmt::Display) -> Misfit {
        Misfit { subject: subject.into(), expected: expected.to_string(), found: found.to_string() }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.subject, self.expected, self.found)
    }
}

/// The refusal of a file with these misfits. `misfits` must not be empty.
pub(super) fn refusal(path: &Path, misfits: &[Misfit]) -> Error {
    let inspect = format!("assay inspect {}", crate::words::shell_path(path));
    if let [only] = misfits {
        let what = format!("{} does not fit: {}", path.display(), only.subject);
        return Error::new(&MODEL_MISFIT, what).expected(&only.expected).found(&only.found).hint(inspect);
    }
    let mut what = format!("{} does not fit: {} misfits", path.display(), misfits.len());
    for misfit in misfits.iter().take(LISTED) {
        what.push_str(&format!("\n  {misfit}"));
    }
    if misfits.len() > LISTED {
        what.push_str(&format!("\n  … and {} more", misfits.len() - LISTED));
    }
    Error::new(&MODEL_MISFIT, what).hint(inspect)
}
