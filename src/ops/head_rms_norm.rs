use rayon::prelude::*;

use super::contract::*;
use super::{Call, Draft, Op, magnitudes, math};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "head_rms_norm",
    summary: "x[t, h, :] /= sqrt(mean(x[t, h, :]²) + eps), per head, no gain (docs/model.md §6, §7)",
    ops_ids: &["P12", "A9"],
    aliases: &["head_rms_norm", "head_rms_norm_rope_tail"],
    args: &[update("x", &["T", "H", "D"], "queries")],
    weights: &[],
    steps: &["T"],
    dims: &["H", "D"],
    scalars: &[scalar("eps", EPSILON, "added to the mean square")],
    roundings: &[],
    comparison: Comparison::Tolerance,
};

/// RMS norm of every query head, in place.
pub struct HeadRmsNorm;

impl Op for HeadRmsNorm {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, h, d, eps) = (call.step("T")?, call.dim("H")?, call.dim("D")?, call.scalar("eps")?);
        call.f32_mut("x")?[..t * h * d].par_chunks_exact_mut(d).for_each(|x| {
            let scale = (1.0 / (math::mean_square(x) + eps).sqrt()) as f32;
            x.iter_mut().for_each(|v| *v *= scale);
        });
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[&[2, 512], &[5, 512], &[64, 512], &[72, 512], &[2, 576]]
    }

    /// Wider than any file's.
    fn far(&self) -> &'static [&'static [i64]] {
        &[&[1, 4100]]
    }

    fn fill(&self, d: &mut Draft<'_>) {
        let width = d.dim("D");
        magnitudes::vary_rows(d, "x", width);
    }

    fn rows_apart(&self) -> bool {
        true
    }
}
