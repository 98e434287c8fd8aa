use rayon::prelude::*;

use super::contract::*;
use super::{Call, Draft, Op, attention, math};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "attention_indexed",
    summary: "attention of each token over its window and the compressed rows that the indexer chose, with sinks (docs/model.md §11, §12)",
    ops_ids: &["P27", "M4"],
    aliases: &["attention_indexed_mixed_batch_heads"],
    args: &[
        read("q", &["T", "H", "D"], "queries"),
        read("ring", &["cap", "D"], "key = value rows; position p stands in row p mod cap"),
        read("comp", &["C", "D"], "compressed rows"),
        read("ids", &["T", "k"], "chosen rows; −1 is none, and rows not visible yet are left out").i32(),
        write("o", &["T", "H", "D"], "outputs, not yet rotated back"),
    ],
    weights: &[weight("sinks", F32_ONLY, &["H"], "a logit per head that has no value")],
    steps: &["T", "pos0"],
    dims: &["H", "D", "cap", "C", "k", "window", "ratio"],
    scalars: &[scalar("scale", Span::Sized, "1/sqrt(D)")],
    roundings: &[Rounding::F16, Rounding::Bf16],
    comparison: Comparison::Tolerance,
};

/// Attention over window and selected compressed rows.
pub struct AttentionIndexed;

impl Op for AttentionIndexed {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, pos0) = (call.step("T")?, call.step("pos0")?);
        let (h, d, cap, c, k) = (call.dim("H")?, call.dim("D")?, call.dim("cap")?, call.dim("C")?, call.dim("k")?);
        let (window, ratio) = (call.dim("window")?, call.dim("ratio")?);
        let (scale, rounding) = (call.scalar("scale")? as f32, call.rounding);
        let sinks = call.weight("sinks")?.to_vec();
        let q = math::round_rows(&call.f32("q")?[..t * h * d], d, rounding);
        let ring = math::round_rows(call.f32("ring")?, d, rounding);
        let rows_most = ((pos0 + t) / ratio).min(c);
        let comp = math::round_rows(&call.f32("comp")?[..rows_most * d], d, rounding);
        let ids = call.i32("ids")?;
        let o = call.f32_mut("o")?;
        o[..t * h * d].par_chunks_exact_mut(d).enumerate().for_each(|(i, o)| {
            let (token, position) = (i / h, pos0 + i / h);
            let visible = ((position + 1) / ratio).min(c);
            let chosen =
                ids[token * k..][..k].iter().filter_map(|id| usize::try_from(*id).ok()).filter(|w| *w < visible);
            let rows = attention::window(&ring, cap, d, position, window).chain(chosen.map(|w| &comp[w * d..][..d]));
            attention::head(&q[i * d..][..d], rows, sinks[i % h], scale, rounding, o);
        });
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[
            &[1, 512, 256, 560, 8, 8, 4],
            &[4, 512, 256, 80, 32, 128, 4],
            &[3, 512, 256, 60, 8, 128, 4],
            // Some more heads than a tile, and so few rows that the emulator can.
            &[72, 512, 256, 40, 8, 8, 4],
            &[64, 512, 256, 700, 512, 128, 4],
            // Two blocks of 32 rows for a tile of 64 heads.
            &[64, 512, 256, 40, 8, 32, 4],
            // Whole tiles of 64 heads again, where the first two sizes of them had memory for more tokens than they have.
            &[64, 512, 256, 40, 8, 8, 4],
            // A block of rows whose only one is the last, and so many that each of 32 blocks that share them has two.
            &[1, 512, 256, 80, 33, 128, 4],
            &[1, 512, 256, 1100, 1024, 33, 4],
        ]
    }

    fn far(&self) -> &'static [&'static [i64]] {
        &[&[1, 512, 256, 70_100, 512, 128, 4]]
    }

    fn size(&self, d: &mut Draft<'_>) {
        attention::size(d);
    }

    fn fill(&self, d: &mut Draft<'_>) {
        attention::move_scores(d);
        let (k, c, pos0) = (d.dim("k"), d.dim("C"), d.case.symbol("pos0").unwrap_or(0) as usize);
        let (mut ids, mixed) = (Vec::new(), d.draw.below(2) == 0 && !attention::ends_in_one(d));
        for t in 0..d.tokens {
            // Distinct ascending rows: an arithmetic walk with a random start and stride, then padding.
            let visible = ((pos0 + t + 1) / 4).min(c);
            let n = k.min(visible);
            let mut chosen: Vec<i32> = Vec::new();
            if n > 0 {
                let (start, room) = (d.index(visible - n + 1), visible - n);
                let stride = 1 + if n > 1 { d.draw.below((room - start) / (n - 1) + 1) } else { 0 };
                chosen.extend((0..n).map(|i| (start + i * stride) as i32));
            }
            // The list is dense, or what is none and what is not visible yet stands anywhere between.
            if mixed && t % 4 < 3 {
                chosen.truncate(n - n / 4);
                ids.extend(spread(d, &chosen, k, visible..c));
            } else {
                chosen.resize(k, -1);
                ids.extend(chosen);
            }
        }
        d.i32("ids").copy_from_slice(&ids);
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (2 * dims[0] * dims[1] * (dims[5] + dims[4])) as u64 * tokens as u64
    }
}

/// The chosen rows in their order, in drawn places of `k`; the other places hold −1 or a row that is not visible.
fn spread(d: &mut Draft<'_>, chosen: &[i32], k: usize, hidden: std::ops::Range<usize>) -> Vec<i32> {
    let mut left = chosen.iter();
    (0..k)
        .map(|place| match () {
            () if d.draw.below(k - place) < left.len() => left.next().copied().unwrap_or(-1),
            () if d.draw.below(2) == 0 && !hidden.is_empty() => d.draw.between(hidden.start, hidden.end - 1) as i32,
            () => -1,
        })
        .collect()
}
