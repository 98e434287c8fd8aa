use super::contract::*;
use super::{Call, Draft, Op, magnitudes, math};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "matmul_grouped",
    summary: "y[t, g·N + n] = Σ_k w[g·N + n][k] · x[t, g·K + k]: each group of heads has its own rows (docs/model.md §12)",
    ops_ids: &["P28", "A15"],
    aliases: &["attention_output_low_q8", "attention_output_q8_batch"],
    args: &[read("x", &["T", "G", "K"], "attention output by group"), write("y", &["T", "G", "N"], "low-rank output")],
    weights: &[weight("w", DENSE, &["K", "G*N"], "block-diagonal projection")],
    steps: &["T"],
    dims: &["G", "K", "N"],
    scalars: &[],
    roundings: &[Rounding::F16, Rounding::Bf16, Rounding::Q8_0],
    comparison: Comparison::Tolerance,
};

/// The first half of the grouped attention output projection.
pub struct MatmulGrouped;

impl Op for MatmulGrouped {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, g, k, n) = (call.step("T")?, call.dim("G")?, call.dim("K")?, call.dim("N")?);
        let w = call.weight("w")?;
        let x = math::round_rows(&call.f32("x")?[..t * g * k], k, call.rounding);
        let y = call.f32_mut("y")?;
        if t == 0 {
            return Ok(());
        }
        for group in 0..g {
            let last = (t - 1) * g * k + (group + 1) * k;
            math::matmul(&w, group * n, n, &x[group * k..last], g * k, &mut y[group * n..], g * n);
        }
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[
            &[2, 512, 24],
            &[3, 96, 40],
            &[2, 1024, 40],
            &[3, 544, 65],
            &[2, 100, 33],
            &[2, 101, 32],
            &[1, 102, 8],
            &[1, 103, 8],
            &[1, 103, 9],
            &[2, 2080, 21],
            // More slices than a block takes at once.
            &[2, 8704, 9],
            &[8, 4096, 16],
            &[8, 4096, 1024],
        ]
    }

    fn far(&self) -> &'static [&'static [i64]] {
        &[&[8, 512, 701], &[8, 4096, 1024]]
    }

    fn fill(&self, d: &mut Draft<'_>) {
        let (g, k) = (d.dim("G"), d.dim("K"));
        magnitudes::vary_tokens(d, "x", [g * k, k], [magnitudes::LEAST, 3e3, 1e3]);
    }

    fn rows_apart(&self) -> bool {
        true
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (dims[0] * dims[1] * dims[2]) as u64 * tokens as u64
    }
}
