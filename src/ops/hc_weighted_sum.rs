use rayon::prelude::*;

use super::contract::*;
use super::{Call, Draft, Op, magnitudes};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "hc_weighted_sum",
    summary: "x[t, d] = Σ_s w[t, s] · H[t, s, d]; w rows are W apart, the first S of each are used (docs/model.md §5)",
    ops_ids: &["P9", "P11", "A3", "F1", "O4"],
    aliases: &["hc_weighted_sum", "hc_weighted_sum_split"],
    args: &[
        read("h", &["R", "S", "D"], "residual streams"),
        read("w", &["R", "W"], "stream weights first in each row"),
        write("x", &["R", "D"], "sublayer input"),
    ],
    weights: &[],
    steps: &["R"],
    dims: &["S", "D", "W"],
    scalars: &[],
    roundings: &[],
    comparison: Comparison::Tolerance,
};

/// Streams reduced to one row.
pub struct HcWeightedSum;

impl Op for HcWeightedSum {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (r, s, d, stride) = (call.step("R")?, call.dim("S")?, call.dim("D")?, call.dim("W")?);
        let (h, w) = (call.f32("h")?, call.f32("w")?);
        let x = call.f32_mut("x")?;
        x[..r * d].par_chunks_exact_mut(d).enumerate().for_each(|(row, x)| {
            let (h, w) = (&h[row * s * d..][..s * d], &w[row * stride..][..s]);
            for (i, x) in x.iter_mut().enumerate() {
                *x = (0..s).map(|s| w[s] * h[s * d + i]).sum();
            }
        });
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[&[4, 256, 24], &[4, 512, 4], &[4, 768, 24], &[4, 4096, 24], &[4, 4096, 4]]
    }

    /// Wider than Flash: hidden states of other files.
    fn far(&self) -> &'static [&'static [i64]] {
        &[&[4, 4100, 24], &[4, 8200, 4]]
    }

    fn fill(&self, d: &mut Draft<'_>) {
        let (s, width) = (d.dim("S"), d.dim("D"));
        let rows = d.f32("h").len() / (s * width).max(1);
        let factors: Vec<f32> = (0..rows).map(|_| d.draw.pick(&[1.0, 1.0, 1e-4, 300.0])).collect();
        magnitudes::scale_rows(d, "h", s * width, &factors);
        magnitudes::outliers(d, "h", width, 300.0);
    }

    fn rows_apart(&self) -> bool {
        true
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (dims[0] * dims[1]) as u64 * tokens as u64
    }
}
