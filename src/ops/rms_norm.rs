use rayon::prelude::*;

use super::contract::*;
use super::{Call, Draft, Op, magnitudes, math};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "rms_norm",
    summary: "y[r, :] = x[r, :] / sqrt(mean(x[r, :]²) + eps) · w, w = 1 when absent (docs/model.md §6)",
    ops_ids: &["P3", "A1", "A4", "A7", "F1", "O1", "O5"],
    aliases: &[
        "rms_norm_plain",
        "rms_norm_plain_rows",
        "rms_norm_weight",
        "rms_norm_weight_rows",
        "dsv4_qkv_rms_norm_rows",
    ],
    args: &[read("x", &["R", "D"], "rows"), write("y", &["R", "D"], "normalised rows")],
    weights: &[weight("w", F32_ONLY, &["D"], "gain").optional()],
    steps: &["R"],
    dims: &["D"],
    scalars: &[scalar("eps", EPSILON, "added to the mean square")],
    roundings: &[],
    comparison: Comparison::Tolerance,
};

/// RMS norm of rows, weighted or plain.
pub struct RmsNorm;

impl Op for RmsNorm {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (r, d, eps) = (call.step("R")?, call.dim("D")?, call.scalar("eps")?);
        let w = call.weight_opt("w")?.map(|w| w.to_vec());
        let x = call.f32("x")?;
        let y = call.f32_mut("y")?;
        y[..r * d].par_chunks_exact_mut(d).zip(x.par_chunks_exact(d)).for_each(|(y, x)| {
            let scale = (1.0 / (math::mean_square(x) + eps).sqrt()) as f32;
            for i in 0..d {
                y[i] = x[i] * scale * w.as_ref().map_or(1.0, |w| w[i]);
            }
        });
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        // Rows of every length mod 4: the ends of what is read four at a time.
        &[&[256], &[512], &[768], &[1024], &[4096], &[16384], &[100], &[65], &[102], &[103], &[4101]]
    }

    /// Four streams as wide as any file's, and wider: rows past what a kernel keeps in registers or shared memory.
    fn far(&self) -> &'static [&'static [i64]] {
        &[&[20_480], &[66_052]]
    }

    fn fill(&self, d: &mut Draft<'_>) {
        let width = d.dim("D");
        magnitudes::vary_rows(d, "x", width);
    }

    fn rows_apart(&self) -> bool {
        true
    }
}
