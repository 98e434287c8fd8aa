use rayon::prelude::*;

use super::contract::*;
use super::{Call, Draft, Op, magnitudes, math};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "indexer_scores",
    summary: "s[t, w] = Σ_h iw[t, h] · scale · max(0, iq[t, h, :]·idx[w, :]) for w < (pos0 + t + 1)/4, else −inf (docs/model.md §11)",
    ops_ids: &["P20", "I6"],
    aliases: &["indexer_score_one", "indexer_scores_prefill", "indexer_scores_decode_batch"],
    args: &[
        read("iq", &["T", "H", "D"], "indexer queries"),
        read("iw", &["T", "H"], "head weights, may be negative"),
        read("idx", &["C", "D"], "indexer rows"),
        write("s", &["T", "C"], "scores; −inf where row w is not visible to token t"),
    ],
    weights: &[],
    steps: &["T", "pos0"],
    dims: &["H", "D", "C"],
    scalars: &[scalar("scale", Span::Sized, "1/sqrt(D·H)")],
    roundings: &[Rounding::F16, Rounding::Bf16],
    comparison: Comparison::Tolerance,
};

/// Index scores of every compressed row for every token.
pub struct IndexerScores;

impl Op for IndexerScores {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, pos0) = (call.step("T")?, call.step("pos0")?);
        let (h, d, c) = (call.dim("H")?, call.dim("D")?, call.dim("C")?);
        let scale = call.scalar("scale")? as f32;
        let iq = math::round_rows(&call.f32("iq")?[..t * h * d], d, call.rounding);
        let visible_most = ((pos0 + t) / 4).min(c);
        let idx = math::round_rows(&call.f32("idx")?[..visible_most * d], d, call.rounding);
        let iw = call.f32("iw")?;
        let s = call.f32_mut("s")?;
        s[..t * c].par_chunks_exact_mut(c).enumerate().for_each(|(token, s)| {
            let visible = ((pos0 + token + 1) / 4).min(c);
            for (w, s) in s.iter_mut().enumerate() {
                *s = if w < visible {
                    (0..h)
                        .map(|head| {
                            let q = &iq[(token * h + head) * d..][..d];
                            iw[token * h + head] * scale * math::dot(q, &idx[w * d..][..d]).max(0.0)
                        })
                        .sum()
                } else {
                    f32::NEG_INFINITY
                };
            }
        });
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[
            &[1, 128, 24],
            &[3, 128, 57],
            &[8, 128, 300],
            &[64, 128, 64],
            &[72, 128, 24],
            &[128, 128, 24],
            &[64, 128, 1100],
        ]
    }

    fn far(&self) -> &'static [&'static [i64]] {
        &[&[1, 128, 17_600], &[64, 128, 262_144]]
    }

    fn size(&self, d: &mut Draft<'_>) {
        let (h, width, c) = (d.dim("H"), d.dim("D"), d.dim("C"));
        d.position(4 * c);
        let scale = f64::from(0.25 + 2.0 * d.draw.unit()) / ((width * h) as f64).sqrt();
        d.set_scalar("scale", scale);
    }

    fn fill(&self, d: &mut Draft<'_>) {
        let width = d.dim("D");
        magnitudes::outliers(d, "iq", width, 30.0);
        magnitudes::outliers(d, "idx", width, 30.0);
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (dims[0] * dims[1] * dims[2]) as u64 * tokens as u64
    }
}
