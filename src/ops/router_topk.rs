use super::contract::*;
use super::{Call, Draft, Op, router};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "router_topk",
    summary: "sel = the U largest of P + bias, P = sqrt(softplus(logits)); w = P[sel] / Σ · scale (docs/model.md §13)",
    ops_ids: &["P30", "F3"],
    aliases: &["router_select", "router_select_batch"],
    args: &[
        read("logits", &["T", "E"], "router products"),
        write("sel", &["T", "U"], "experts, best first; of equals the lower wins").i32(),
        write("w", &["T", "U"], "their weights, from P without bias"),
    ],
    weights: &[weight("bias", F32_ONLY, &["E"], "added for the selection alone").optional()],
    steps: &["T"],
    dims: &["E", "U"],
    scalars: &[
        scalar("scale", router::SCALES, "of the normalised weights"),
        scalar("floor", router::FLOORS, "least divisor"),
        scalar_i32("normalise", FLAG, "1: divide by the sum"),
    ],
    roundings: &[],
    comparison: Comparison::Tolerance,
};

/// Expert choice by learned scores.
pub struct RouterTopk;

impl Op for RouterTopk {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, e, u) = (call.step("T")?, call.dim("E")?, call.dim("U")?);
        let bias = call.weight_opt("bias")?.map(|b| b.to_vec());
        let weigh = router::Weigh::of(call)?;
        let logits = call.f32("logits")?;
        let (sel, w) = (call.i32_mut("sel")?, call.f32_mut("w")?);
        for token in 0..t {
            let p: Vec<f32> = logits[token * e..][..e].iter().map(|x| router::score(*x)).collect();
            let key = |i: usize| p[i] + bias.as_ref().map_or(0.0, |b| b[i]);
            let mut order: Vec<usize> = (0..e).collect();
            order.sort_by(|a, b| key(*b).total_cmp(&key(*a)).then(a.cmp(b)));
            order.truncate(u);
            for (slot, expert) in sel[token * u..][..u].iter_mut().zip(&order) {
                *slot = *expert as i32;
            }
            weigh.write(order.iter().map(|i| p[*i]), &mut w[token * u..][..u]);
        }
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[&[8, 3], &[16, 6], &[256, 6], &[32, 4], &[64, 40], &[300, 6]]
    }

    fn fill(&self, d: &mut Draft<'_>) {
        router::shift_tokens(d);
        // Ties among the best, one, a warp or more apart: of equals the lower wins. A bias tells them apart again, so some
        // are the same for all experts, or for those a warp apart.
        let e = d.dim("E");
        if let Some(mut bias) = d.weight("bias") {
            let same = if d.tokens > 64 { d.draw.pick(&[1, 32]) } else { d.draw.pick(&[1, 32, e]) }.min(e);
            (0..e).for_each(|i| bias[i] = bias[i % same]);
            match d.turn % 5 {
                // All sums are below 0, as none is without a bias.
                1 => bias.iter_mut().for_each(|b| *b -= 20.0),
                // Neighbours, and those a warp apart, differ by one ulp. Scores are too small to count beside it: how they
                // are rounded would decide otherwise.
                3 => {
                    (0..e).for_each(|i| bias[i] = 64.0 + ((i + i / 32) % 2) as f32 / 131_072.0);
                    d.f32("logits").iter_mut().for_each(|v| *v = -60.0 - v.abs().min(8.0));
                }
                _ => {}
            }
            d.set_weight("bias", &bias);
        }
        let twins: Vec<Option<(usize, usize)>> = (0..d.tokens)
            .map(|_| (d.draw.below(4) == 0).then(|| (d.draw.below(e), d.draw.pick(&[1, 32, 64, 96, 128]))))
            .collect();
        for (row, twin) in d.f32("logits").chunks_exact_mut(e).zip(twins) {
            if let Some((expert, apart)) = twin {
                let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                row[expert] = most;
                row[(expert + apart) % e] = most;
            }
        }
    }

    fn rows_apart(&self) -> bool {
        true
    }
}
