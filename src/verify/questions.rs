//! The cases of a variant, and what the oracle answers to them.
//!
//! One verdict asks each of them once and forgets. Mutants of one kernel are all asked the same: drawing the cases and
//! working out the answers took longer than they lived, so a trial keeps both.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use super::asked::Planned;
use super::compare::Reference;
use crate::error::Result;
use crate::ops::cases::Case;

/// The right answers of one case: of the whole, or of each token that is sampled.
pub type Answers = Arc<Vec<Reference>>;

/// What one variant is asked.
pub struct Questions {
    pub planned: Vec<Planned>,
    kept: Option<Vec<OnceLock<Answers>>>,
}

impl Questions {
    /// To be asked once, in the order in which they were drawn.
    pub fn once(planned: Vec<Planned>) -> Questions {
        Questions { planned, kept: None }
    }

    /// To be asked again and again: answers are kept, and what takes least comes first, since who is wrong mostly is so
    /// everywhere.
    fn often(mut planned: Vec<Planned>, part: Part) -> Questions {
        planned.sort_by_key(|p| effort(&p.case));
        if part == Part::Light {
            planned.truncate(light(&planned));
        }
        let kept = planned.iter().map(|_| OnceLock::new()).collect();
        Questions { planned, kept: Some(kept) }
    }

    /// The answers to case `i`, worked out by `answer` where they are not known.
    pub fn answers(&self, i: usize, answer: impl FnOnce() -> Result<Vec<Reference>>) -> Result<Answers> {
        let kept = self.kept.as_ref().map(|kept| &kept[i]);
        if let Some(known) = kept.and_then(OnceLock::get) {
            return Ok(known.clone());
        }
        let fresh = Arc::new(answer()?);
        Ok(kept.map_or(fresh.clone(), |kept| kept.get_or_init(|| fresh).clone()))
    }
}

/// What a case costs whoever runs it: arithmetic, and bytes to be carried.
fn effort(case: &Case) -> u64 {
    let values: usize = case.args.iter().flatten().map(|v| v.len()).sum();
    let bytes: usize = case.weights.iter().flatten().map(|w| w.bytes.len()).sum();
    case.op.macs(&case.dims, case.tokens()) + 4 * (values + bytes) as u64
}

/// How many of the lightest cases take a tenth of what all take, though some at least.
fn light(sorted: &[Planned]) -> usize {
    let all: u64 = sorted.iter().map(|p| effort(&p.case)).sum();
    let sums = sorted.iter().scan(0, |sum, p| {
        *sum += effort(&p.case);
        Some(*sum)
    });
    sums.take_while(|sum| *sum <= all / 10).count().max(FEW)
}

const FEW: usize = 4;

/// Which of a variant's cases are shared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    All,
    /// The lightest, by which most that is wrong is told.
    Light,
}

/// Questions that verdicts about one node share, by the variant's name.
pub struct Shared {
    part: Part,
    known: Mutex<HashMap<String, Arc<Questions>>>,
}

impl Shared {
    pub fn new(part: Part) -> Shared {
        Shared { part, known: Mutex::default() }
    }

    pub fn of(&self, variant: &str, draw: impl FnOnce() -> Result<Vec<Planned>>) -> Result<Arc<Questions>> {
        let mut shared = self.known.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(known) = shared.get(variant) {
            return Ok(known.clone());
        }
        let fresh = Arc::new(Questions::often(draw()?, self.part));
        shared.insert(variant.into(), fresh.clone());
        Ok(fresh)
    }
}
