use rayon::prelude::*;

use super::contract::*;
use super::{Call, Draft, Op, magnitudes, math, moe};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "moe_down",
    summary: "y[t, :] = Σ_u down of expert sel[t, u] times mid[t, u, :] (docs/model.md §13)",
    ops_ids: &["P32", "P33", "F4"],
    aliases: &["routed_moe_one", "routed_moe_batch"],
    args: &[
        read("mid", &["T", "U", "F"], "weighted hidden activations"),
        read("sel", &["T", "U"], "experts, each < E").i32(),
        write("y", &["T", "N"], "sum over the chosen experts"),
    ],
    weights: &[weight("down", EXPERT, &["F", "N", "E"], "down projections, experts outermost")],
    steps: &["T"],
    dims: &["F", "N", "E", "U"],
    scalars: &[],
    roundings: &[Rounding::F16, Rounding::Bf16, Rounding::Q8_0, Rounding::Q8K],
    comparison: Comparison::Tolerance,
};

/// Second half of the routed experts.
pub struct MoeDown;

impl Op for MoeDown {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, f, n) = (call.step("T")?, call.dim("F")?, call.dim("N")?);
        let (e, u) = (call.dim("E")?, call.dim("U")?);
        let down = call.weight("down")?;
        let mid = math::round_rows(&call.f32("mid")?[..t * u * f], f, call.rounding);
        let sel = call.i32("sel")?;
        let y = call.f32_mut("y")?;
        let results: Vec<(Vec<usize>, Vec<f32>)> = moe::by_expert(&sel[..t * u], e)
            .into_par_iter()
            .map(|(expert, pairs)| {
                let inputs: Vec<f32> = pairs.iter().flat_map(|pair| &mid[pair * f..][..f]).copied().collect();
                let mut out = vec![0.0; pairs.len() * n];
                math::matmul(&down, expert * n, n, &inputs, f, &mut out, n);
                (pairs, out)
            })
            .collect();
        // Every pair's product first, then the sum in the order of u: the same bits whatever tokens share a batch.
        let mut products = vec![0.0f32; t * u * n];
        for (pairs, out) in results {
            for (i, pair) in pairs.iter().enumerate() {
                products[pair * n..][..n].copy_from_slice(&out[i * n..][..n]);
            }
        }
        y[..t * n].par_chunks_exact_mut(n).enumerate().for_each(|(token, y)| {
            for (i, y) in y.iter_mut().enumerate() {
                *y = (0..u).map(|slot| products[(token * u + slot) * n + i]).sum();
            }
        });
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[
            &[256, 9, 4, 2],
            &[512, 40, 8, 3],
            &[256, 33, 16, 6],
            &[96, 9, 4, 2],
            &[256, 10, 4, 2],
            &[256, 11, 4, 2],
            &[544, 33, 8, 3],
            &[2080, 9, 4, 2],
            // Seventeen blocks of 256, and more slices than a block takes at once.
            &[4352, 9, 4, 3],
            &[256, 9, 256, 6],
            &[256, 9, 1100, 6],
            &[768, 24, 8, 3],
            // More rows than a thousand, and slots enough that a warp takes a second batch of them.
            &[256, 1100, 4, 4],
            &[2048, 96, 2, 2],
            &[4096, 64, 2, 2],
            &[2048, 4096, 8, 6],
        ]
    }

    fn spans(&self) -> &'static [(&'static [i64], usize, usize)] {
        &[(&[256, 9, 24, 3], 124, 140)]
    }

    fn fill(&self, d: &mut Draft<'_>) {
        let sel = moe::chosen_experts(d);
        d.i32("sel").copy_from_slice(&sel);
        let (u, f) = (d.dim("U"), d.dim("F"));
        magnitudes::vary_tokens(d, "mid", [u * f, f], [magnitudes::LEAST, 3e3, 1e3]);
    }

    fn rows_apart(&self) -> bool {
        true
    }

    fn far(&self) -> &'static [&'static [i64]] {
        &[&[256, 9, 256, 6]]
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (dims[0] * dims[1] * dims[3]) as u64 * tokens as u64
    }
}
