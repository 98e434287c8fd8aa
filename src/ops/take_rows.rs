use super::cases::{LONG_STEP, STEP_TOKENS};
use super::contract::*;
use super::{Call, Draft, Op, magnitudes};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "take_rows",
    summary: "y = the last R of the T rows of x: the head computes no more than is asked for (docs/model.md §14)",
    ops_ids: &["O1"],
    aliases: &[],
    args: &[read("x", &["T", "D"], "residual streams of all tokens"), write("y", &["R", "D"], "those of the last R")],
    weights: &[],
    steps: &["T", "R"],
    dims: &["D"],
    scalars: &[],
    roundings: &[],
    comparison: Comparison::Exact,
};

/// The rows that the output head works on.
pub struct TakeRows;

impl Op for TakeRows {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, r, d) = (call.step("T")?, call.step("R")?, call.dim("D")?);
        let x = call.f32("x")?;
        call.f32_mut("y")?[..r * d].copy_from_slice(&x[(t - r) * d..t * d]);
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[&[1024], &[2048], &[16384], &[100], &[105]]
    }

    fn size(&self, d: &mut Draft<'_>) {
        // Nearly all of the longest step's; one row is what a prefill and a decode step ask for, and of a long step always.
        let rows = match d.tokens {
            n if n >= STEP_TOKENS / 2 => d.draw.between(STEP_TOKENS / 2 - 1, n),
            n if n > LONG_STEP => 1,
            n if d.draw.below(2) == 0 => d.draw.between(1, n),
            _ => 1,
        };
        d.set_step("R", rows);
    }

    /// Wider than Flash: hidden states of other files.
    fn far(&self) -> &'static [&'static [i64]] {
        &[&[20_484]]
    }

    fn fill(&self, d: &mut Draft<'_>) {
        magnitudes::extremes(d, "x");
    }

    fn tokenwise(&self) -> bool {
        false
    }
}
