use std::sync::Arc;

use super::contract::*;
use super::{Call, Draft, Op, router};
use crate::error::Result;
use crate::model::quant::DType;

static CONTRACT: Contract = Contract {
    op: "router_hash",
    summary: "sel = table[ids[t]]; w = P[sel] / Σ · scale, P = sqrt(softplus(logits)) (docs/model.md §13)",
    ops_ids: &["P30", "F3"],
    aliases: &["router_select", "router_select_batch"],
    args: &[
        read("logits", &["T", "E"], "router products"),
        read("ids", &["T"], "token ids, each < V").i32(),
        write("sel", &["T", "U"], "experts in the table's order").i32(),
        write("w", &["T", "U"], "their weights"),
    ],
    weights: &[weight("table", &[DType::I32], &["U", "V"], "experts of every token id")],
    steps: &["T"],
    dims: &["E", "U", "V"],
    scalars: &[
        scalar("scale", router::SCALES, "of the normalised weights"),
        scalar("floor", router::FLOORS, "least divisor"),
        scalar_i32("normalise", FLAG, "1: divide by the sum"),
    ],
    roundings: &[],
    comparison: Comparison::Tolerance,
};

/// Expert choice by token id.
pub struct RouterHash;

impl Op for RouterHash {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, e, u, v) = (call.step("T")?, call.dim("E")?, call.dim("U")?, call.dim("V")?);
        let table = call.weight("table")?;
        let weigh = router::Weigh::of(call)?;
        let (logits, ids) = (call.f32("logits")?, call.i32("ids")?);
        let (sel, w) = (call.i32_mut("sel")?, call.f32_mut("w")?);
        for token in 0..t {
            let row = usize::try_from(ids[token]).ok().filter(|r| *r < v).unwrap_or(0);
            let sel = &mut sel[token * u..][..u];
            for (i, slot) in sel.iter_mut().enumerate() {
                // A table entry outside 0..E would make every later read wild; it is expert 0 for all implementations.
                let expert = table.i32_at(row * u + i);
                *slot = if (0..e as i32).contains(&expert) { expert } else { 0 };
            }
            weigh.write(sel.iter().map(|s| router::score(logits[token * e + *s as usize])), &mut w[token * u..][..u]);
        }
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[&[8, 3, 131], &[16, 6, 513], &[256, 6, 1031], &[64, 40, 131], &[300, 6, 131]]
    }

    fn far(&self) -> &'static [&'static [i64]] {
        &[&[256, 6, 129_280]]
    }

    fn fill(&self, d: &mut Draft<'_>) {
        let vocab = d.dim("V");
        d.draw_ids(vocab);
        router::shift_tokens(d);
        if !d.real {
            let mut experts = router::drawn_experts(d, vocab);
            // Entries that are no experts, in a third of the cases: expert 0 for everyone.
            if d.draw.below(3) == 0 {
                let e = d.dim("E") as i32;
                for entry in &mut experts {
                    if d.draw.below(8) == 0 {
                        *entry = d.draw.pick(&[-1, e, e + 1, 2 * e, i32::MIN, i32::MAX]);
                    }
                }
            }
            if let Some(table) = &mut d.case.weights[0] {
                Arc::make_mut(&mut table.bytes).copy_from_slice(bytemuck::cast_slice(&experts));
            }
        }
    }

    fn rows_apart(&self) -> bool {
        true
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (dims[0] + 8 * dims[1]) as u64 * tokens as u64
    }
}
