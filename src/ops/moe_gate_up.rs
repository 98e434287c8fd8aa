use rayon::prelude::*;

use super::blocks::Blocks;
use super::contract::*;
use super::{Call, Draft, Op, magnitudes, math, moe, swiglu};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "moe_gate_up",
    summary: "mid[t, u, :] = silu(min(g, clamp)) · clamp(u, ±clamp) · w[t, u], g and u = gate and up of expert sel[t, u] times x[t] \
              (docs/model.md §13)",
    ops_ids: &["P31", "P32", "P33", "F4"],
    aliases: &["routed_moe_one", "routed_moe_batch"],
    args: &[
        read("x", &["T", "K"], "normed sublayer input"),
        read("sel", &["T", "U"], "experts, each < E").i32(),
        read("w", &["T", "U"], "router weights"),
        write("mid", &["T", "U", "F"], "weighted hidden activations, one row for each token and chosen expert"),
    ],
    weights: &[
        weight("gate", EXPERT, &["K", "F", "E"], "gate projections, experts outermost"),
        weight("up", EXPERT, &["K", "F", "E"], "up projections").same_type_as("gate"),
    ],
    steps: &["T"],
    dims: &["K", "F", "E", "U"],
    scalars: &[scalar("clamp", swiglu::CLAMP, "SwiGLU clamp")],
    roundings: &[Rounding::F16, Rounding::Bf16, Rounding::Q8_0, Rounding::Q8K],
    comparison: Comparison::Tolerance,
};

/// First half of the routed experts.
pub struct MoeGateUp;

impl Op for MoeGateUp {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, k, f) = (call.step("T")?, call.dim("K")?, call.dim("F")?);
        let (e, u) = (call.dim("E")?, call.dim("U")?);
        let clamp = call.scalar("clamp")? as f32;
        let (gate, up) = (call.weight("gate")?, call.weight("up")?);
        let x = math::round_rows(&call.f32("x")?[..t * k], k, call.rounding);
        let (sel, w) = (call.i32("sel")?, call.f32("w")?);
        let mid = call.f32_mut("mid")?;
        let results: Vec<(Vec<usize>, Vec<f32>)> = moe::by_expert(&sel[..t * u], e)
            .into_par_iter()
            .map(|(expert, pairs)| {
                let inputs: Vec<f32> = pairs.iter().flat_map(|pair| &x[pair / u * k..][..k]).copied().collect();
                let (mut g, mut h) = (vec![0.0; pairs.len() * f], vec![0.0; pairs.len() * f]);
                math::matmul(&gate, expert * f, f, &inputs, k, &mut g, f);
                math::matmul(&up, expert * f, f, &inputs, k, &mut h, f);
                for (i, pair) in pairs.iter().enumerate() {
                    for j in i * f..(i + 1) * f {
                        h[j] = swiglu::activate(g[j], h[j], clamp) * w[*pair];
                    }
                }
                (pairs, h)
            })
            .collect();
        for (pairs, h) in results {
            for (i, pair) in pairs.iter().enumerate() {
                mid[pair * f..][..f].copy_from_slice(&h[i * f..][..f]);
            }
        }
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[
            &[256, 9, 4, 2],
            &[512, 40, 8, 3],
            &[256, 33, 16, 6],
            &[96, 9, 4, 2],
            &[544, 33, 8, 3],
            &[2080, 9, 4, 2],
            // Seventeen blocks of 256, and more slices than a block takes at once.
            &[4352, 9, 4, 2],
            &[256, 9, 256, 6],
            &[256, 9, 1100, 6],
            &[768, 24, 8, 3],
            &[256, 1100, 2, 2],
            &[4096, 64, 2, 2],
            &[4096, 2048, 8, 6],
        ]
    }

    fn far(&self) -> &'static [&'static [i64]] {
        &[&[256, 9, 256, 6]]
    }

    fn spans(&self) -> &'static [(&'static [i64], usize, usize)] {
        &[(&[256, 9, 24, 3], 124, 140)]
    }

    fn fill(&self, d: &mut Draft<'_>) {
        let sel = moe::chosen_experts(d);
        d.i32("sel").copy_from_slice(&sel);
        d.f32("w").iter_mut().for_each(|v| *v = 0.1 + v.abs());
        // Gates must not be large where the clamp begins: of sums that cancel to there, the last bits are more than f32 may
        // differ by. So large activations go with small weights, and small ones with large weights.
        let k = d.dim("K");
        if d.blocks == Blocks::Large {
            d.f32("x").iter_mut().for_each(|v| *v *= 1e-9);
        } else {
            let most = if d.blocks == Blocks::Subnormal { 300.0 } else { 3.0 };
            // No smaller: a product of gate and up must be a number of full precision.
            magnitudes::vary_tokens(d, "x", [k, k], [1e-12, most, 10.0]);
        }
    }

    fn rows_apart(&self) -> bool {
        true
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (2 * dims[0] * dims[1] * dims[3]) as u64 * tokens as u64
    }
}
