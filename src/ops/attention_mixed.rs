use rayon::prelude::*;

use super::contract::*;
use super::{Call, Draft, Op, attention, math};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "attention_mixed",
    summary: "attention of each token over its window and every compressed row w < (pos + 1)/ratio, with sinks (docs/model.md §12)",
    ops_ids: &["P24", "P25", "P26", "M128", "M4"],
    aliases: &[
        "attention_prefill_static_mixed_heads",
        "attention_prefill_masked_mixed_heads",
        "attention_decode_mixed_batch_heads",
        "attention_decode_heads",
    ],
    args: &[
        read("q", &["T", "H", "D"], "queries"),
        read("ring", &["cap", "D"], "key = value rows; position p stands in row p mod cap"),
        read("comp", &["C", "D"], "compressed rows"),
        write("o", &["T", "H", "D"], "outputs, not yet rotated back"),
    ],
    weights: &[weight("sinks", F32_ONLY, &["H"], "a logit per head that has no value")],
    steps: &["T", "pos0"],
    dims: &["H", "D", "cap", "C", "window", "ratio"],
    scalars: &[scalar("scale", Span::Sized, "1/sqrt(D)")],
    roundings: &[Rounding::F16, Rounding::Bf16],
    comparison: Comparison::Tolerance,
};

/// Attention over window and all visible compressed rows.
pub struct AttentionMixed;

impl Op for AttentionMixed {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, pos0) = (call.step("T")?, call.step("pos0")?);
        let (h, d, cap, c) = (call.dim("H")?, call.dim("D")?, call.dim("cap")?, call.dim("C")?);
        let (window, ratio) = (call.dim("window")?, call.dim("ratio")?);
        let (scale, rounding) = (call.scalar("scale")? as f32, call.rounding);
        let sinks = call.weight("sinks")?.to_vec();
        let q = math::round_rows(&call.f32("q")?[..t * h * d], d, rounding);
        let ring = math::round_rows(call.f32("ring")?, d, rounding);
        let rows_most = ((pos0 + t) / ratio).min(c);
        let comp = math::round_rows(&call.f32("comp")?[..rows_most * d], d, rounding);
        let o = call.f32_mut("o")?;
        o[..t * h * d].par_chunks_exact_mut(d).enumerate().for_each(|(i, o)| {
            let position = pos0 + i / h;
            let visible = ((position + 1) / ratio).min(c);
            let rows = attention::window(&ring, cap, d, position, window).chain(comp[..visible * d].chunks_exact(d));
            attention::head(&q[i * d..][..d], rows, sinks[i % h], scale, rounding, o);
        });
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[
            // Small enough for several tokens of several heads: a tile holds some of them.
            &[4, 512, 256, 12, 16, 4],
            &[1, 512, 256, 24, 8, 128],
            &[4, 512, 256, 40, 128, 4],
            &[6, 512, 256, 100, 128, 4],
            &[4, 512, 256, 9, 128, 128],
            // As many heads as in Flash, and so few rows that the emulator can.
            &[64, 512, 256, 12, 16, 4],
            // Some more than a tile.
            &[72, 512, 256, 12, 8, 4],
            &[64, 512, 256, 520, 128, 4],
            &[64, 512, 256, 40, 128, 128],
        ]
    }

    fn far(&self) -> &'static [&'static [i64]] {
        &[&[1, 512, 256, 2300, 8, 128], &[2, 512, 256, 560, 128, 4], &[1, 512, 256, 8800, 128, 128]]
    }

    fn size(&self, d: &mut Draft<'_>) {
        attention::size(d);
    }

    fn fill(&self, d: &mut Draft<'_>) {
        attention::move_scores(d);
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (2 * dims[0] * dims[1] * (dims[4] + dims[3])) as u64 * tokens as u64
    }
}
