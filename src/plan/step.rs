//! What changes from step to step.

use serde::{Deserialize, Serialize};

/// A field of `StepState` (`kernels/common/step.h`, same order). Kernels get pointers to single fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepField {
    /// Tokens of this step.
    NTokens,
    /// Position of the first of them.
    Pos0,
    /// Rows that the head computes: the last `n_outputs` tokens.
    NOutputs,
    /// Compressed rows that this step completes in ratio-4 layers, and the index of the first.
    Rows4,
    Row0Of4,
    /// The same in ratio-128 layers.
    Rows128,
    Row0Of128,
}

pub const STEP_FIELDS: usize = 7;

impl StepField {
    pub fn name(self) -> &'static str {
        match self {
            StepField::NTokens => "n_tokens",
            StepField::Pos0 => "pos0",
            StepField::NOutputs => "n_outputs",
            StepField::Rows4 => "rows4",
            StepField::Row0Of4 => "row0_4",
            StepField::Rows128 => "rows128",
            StepField::Row0Of128 => "row0_128",
        }
    }

    /// Compressed rows completed, and the first one's index, for a layer of this ratio.
    pub fn rows_of(ratio: u32) -> (StepField, StepField) {
        if ratio == 4 { (StepField::Rows4, StepField::Row0Of4) } else { (StepField::Rows128, StepField::Row0Of128) }
    }
}

/// One step's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepState(pub [i32; STEP_FIELDS]);

impl StepState {
    /// A step of `n` tokens from position `pos0`, with logits for the last `outputs` of them.
    pub fn new(n: usize, pos0: usize, outputs: usize) -> StepState {
        let rows = |ratio: usize| ((pos0 + n) / ratio - pos0 / ratio) as i32;
        StepState([n as i32, pos0 as i32, outputs as i32, rows(4), (pos0 / 4) as i32, rows(128), (pos0 / 128) as i32])
    }

    pub fn get(&self, field: StepField) -> i32 {
        self.0[field as usize]
    }
}

/// When an instance runs at all. Evaluated on the host for eager runs; it is part of the symbolic schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    Always,
    /// The step completes at least one compressed row.
    Rows(StepField),
    /// The step's last token sees more ratio-4 rows than the indexer's top-k: selection is needed.
    Selecting,
    /// It sees no more than that: every visible row takes part.
    NotSelecting,
}

impl Guard {
    pub fn holds(self, step: &StepState, top_k: usize) -> bool {
        let selecting = (step.get(StepField::Pos0) + step.get(StepField::NTokens)) as usize / 4 > top_k;
        match self {
            Guard::Always => true,
            Guard::Rows(field) => step.get(field) > 0,
            Guard::Selecting => selecting,
            Guard::NotSelecting => !selecting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_counts_the_rows_that_it_completes() {
        let step = StepState::new(3, 5, 1);
        assert_eq!((step.get(StepField::Rows4), step.get(StepField::Row0Of4)), (1, 1));
        let step = StepState::new(1, 127, 1);
        assert_eq!((step.get(StepField::Rows128), step.get(StepField::Row0Of128)), (1, 0));
        assert!(!Guard::Selecting.holds(&StepState::new(131, 0, 1), 32));
        assert!(Guard::Selecting.holds(&StepState::new(132, 0, 1), 32));
    }
}
