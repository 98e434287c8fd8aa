//! What becomes of mutants, one by one and of a kernel's all together.

use serde::{Deserialize, Serialize};

use super::super::Stage;
use super::DEMANDED;
use super::mutate::Mistake;
use crate::ops::Node;

/// How a mutant fared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fate")]
pub enum Fate {
    Killed {
        stage: Stage,
        reason: String,
    },
    /// Another kernel has the same text, and its judge killed the mutant; this one's was not asked, or not about all.
    KilledElsewhere {
        by: String,
        reason: String,
    },
    Survived,
    /// It survived, and the kept file says why nothing could kill it.
    Equivalent {
        why: String,
    },
    /// Its object code is the honest kernel's.
    SameCode,
    DoesNotCompile,
    /// Something of this machine's failed, or nobody waited.
    NotJudged {
        reason: String,
    },
}

impl Fate {
    /// Whether it says something about the cases.
    pub fn counts(&self) -> bool {
        matches!(self, Fate::Killed { .. } | Fate::KilledElsewhere { .. } | Fate::Survived)
    }

    pub fn is_killed(&self) -> bool {
        matches!(self, Fate::Killed { .. } | Fate::KilledElsewhere { .. })
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Mutant {
    /// Below `kernels/`.
    pub file: String,
    pub line: u32,
    pub mistake: Mistake,
    pub before: String,
    pub after: String,
    #[serde(flatten)]
    pub fate: Fate,
    /// The kept file calls it equivalent, and a stage has told it from the kernel.
    pub refuted: bool,
    /// It survived, and the kept file says which case is missing.
    pub gap: Option<String>,
    pub seconds: f64,
}

/// All that came of one kernel's mutants.
#[derive(Clone, Debug, Serialize)]
pub struct KernelTeeth {
    pub node: Node,
    pub stem: String,
    /// Mutants that the text has.
    pub possible: usize,
    /// Those that were made, in the order of the text.
    pub mutants: Vec<Mutant>,
    /// Entries of the kept file whose lines are in no text any more.
    pub stale: Vec<String>,
    pub seconds: f64,
}

impl KernelTeeth {
    pub fn count(&self, of: impl Fn(&Fate) -> bool) -> usize {
        self.mutants.iter().filter(|m| of(&m.fate)).count()
    }

    pub fn killed(&self) -> usize {
        self.count(Fate::is_killed)
    }

    pub fn killed_by(&self, wanted: Stage) -> usize {
        self.count(|f| matches!(f, Fate::Killed { stage, .. } if *stage == wanted))
    }

    pub fn survivors(&self) -> impl Iterator<Item = &Mutant> {
        self.mutants.iter().filter(|m| m.fate == Fate::Survived)
    }

    /// Survivors of which the kept file says nothing.
    pub fn unexplained(&self) -> impl Iterator<Item = &Mutant> {
        self.survivors().filter(|m| m.gap.is_none())
    }

    pub fn refuted(&self) -> impl Iterator<Item = &Mutant> {
        self.mutants.iter().filter(|m| m.refuted)
    }

    /// Killed, of those that could be. `None`: there was none.
    pub fn rate(&self) -> Option<f64> {
        let (killed, survived) = (self.killed(), self.survivors().count());
        (killed + survived > 0).then(|| killed as f64 / (killed + survived) as f64)
    }

    pub fn suffices(&self) -> bool {
        self.rate().is_none_or(|r| r >= DEMANDED) && self.refuted().next().is_none() && self.stale.is_empty()
    }
}
