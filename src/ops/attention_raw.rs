use rayon::prelude::*;

use super::contract::*;
use super::{Call, Draft, Op, attention, math};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "attention_raw",
    summary: "attention of each token over its window of ring rows, with sinks (docs/model.md §12, ratio 0)",
    ops_ids: &["P23", "P25", "P26", "M0"],
    aliases: &["attention_prefill_raw_heads", "attention_decode_raw_batch_heads", "attention_decode_heads"],
    args: &[
        read("q", &["T", "H", "D"], "queries"),
        read("ring", &["cap", "D"], "key = value rows; position p stands in row p mod cap"),
        write("o", &["T", "H", "D"], "outputs, not yet rotated back"),
    ],
    weights: &[weight("sinks", F32_ONLY, &["H"], "a logit per head that has no value")],
    steps: &["T", "pos0"],
    dims: &["H", "D", "cap", "window"],
    scalars: &[scalar("scale", Span::Sized, "1/sqrt(D)")],
    roundings: &[Rounding::F16, Rounding::Bf16],
    comparison: Comparison::Tolerance,
};

/// Sliding-window attention.
pub struct AttentionRaw;

impl Op for AttentionRaw {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, pos0) = (call.step("T")?, call.step("pos0")?);
        let (h, d, cap, window) = (call.dim("H")?, call.dim("D")?, call.dim("cap")?, call.dim("window")?);
        let (scale, rounding) = (call.scalar("scale")? as f32, call.rounding);
        let sinks = call.weight("sinks")?.to_vec();
        let q = math::round_rows(&call.f32("q")?[..t * h * d], d, rounding);
        let ring = math::round_rows(call.f32("ring")?, d, rounding);
        let o = call.f32_mut("o")?;
        o[..t * h * d].par_chunks_exact_mut(d).enumerate().for_each(|(i, o)| {
            let rows = attention::window(&ring, cap, d, pos0 + i / h, window);
            attention::head(&q[i * d..][..d], rows, sinks[i % h], scale, rounding, o);
        });
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[&[1, 512, 256, 16], &[4, 512, 256, 128], &[5, 512, 256, 100], &[72, 512, 256, 16], &[64, 512, 256, 128]]
    }

    fn far(&self) -> &'static [&'static [i64]] {
        &[&[2, 512, 256, 128]]
    }

    fn size(&self, d: &mut Draft<'_>) {
        attention::size(d);
    }

    fn fill(&self, d: &mut Draft<'_>) {
        attention::move_scores(d);
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (2 * dims[0] * dims[1] * dims[3]) as u64 * tokens as u64
    }
}
