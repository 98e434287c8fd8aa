use rayon::prelude::*;

use super::contract::*;
use super::{Call, Draft, Op};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "indexer_topk",
    summary: "ids[t, :] = the min(k, visible) rows of highest score, ascending, then −1; of equal scores the lower row wins \
              (docs/model.md §11)",
    ops_ids: &["P21", "I7"],
    aliases: &["indexer_topk", "dsv4_topk_mask"],
    args: &[
        read("s", &["T", "C"], "scores; rows beyond (pos0 + t + 1)/4 are not looked at"),
        write("ids", &["T", "k"], "row numbers, ascending, padded with −1").i32(),
    ],
    weights: &[],
    steps: &["T", "pos0"],
    dims: &["C", "k"],
    scalars: &[],
    roundings: &[],
    comparison: Comparison::Exact,
};

/// Selection of compressed rows.
pub struct IndexerTopk;

impl Op for IndexerTopk {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, pos0, c, k) = (call.step("T")?, call.step("pos0")?, call.dim("C")?, call.dim("k")?);
        let s = call.f32("s")?;
        let ids = call.i32_mut("ids")?;
        ids[..t * k].par_chunks_exact_mut(k).enumerate().for_each(|(token, ids)| {
            let visible = ((pos0 + token + 1) / 4).min(c);
            let s = &s[token * c..][..visible];
            let mut order: Vec<usize> = (0..visible).collect();
            // total_cmp puts −inf last and keeps the order total whatever a broken scorer wrote.
            // Adding 0 makes −0 and 0 the ties that they are.
            order.sort_by(|a, b| (s[*b] + 0.0).total_cmp(&(s[*a] + 0.0)).then(a.cmp(b)));
            order.truncate(k);
            order.sort_unstable();
            ids.fill(-1);
            for (slot, row) in ids.iter_mut().zip(order) {
                *slot = row as i32;
            }
        });
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[&[40, 8], &[300, 32], &[700, 512], &[2100, 512], &[20, 32], &[65538, 512]]
    }

    fn far(&self) -> &'static [&'static [i64]] {
        &[&[70_100, 512], &[262_144, 512]]
    }

    fn size(&self, d: &mut Draft<'_>) {
        let c = d.dim("C");
        d.position(4 * c);
    }

    /// As the scorer leaves them: a quarter exactly 0, further ties, −inf where nothing is visible yet. In a third of the
    /// rows scores that differ in their last bits alone.
    fn fill(&self, d: &mut Draft<'_>) {
        let (c, pos0) = (d.dim("C"), d.case.symbol("pos0").unwrap_or(0) as usize);
        let coarse = d.draw.below(2) == 0;
        // Two or three apart, or neighbours.
        let steps = if d.turn.is_multiple_of(2) { 500.0 } else { 20.0 };
        let bases: Vec<Option<f32>> =
            (0..d.tokens).map(|_| d.draw.pick(&[None, None, Some(0.75), Some(1.0), Some(-3.0), Some(1e-3)])).collect();
        for (t, row) in d.f32("s").chunks_exact_mut(c).enumerate() {
            let visible = ((pos0 + t + 1) / 4).min(c);
            if let Some(Some(base)) = bases.get(t) {
                for (w, v) in row.iter_mut().enumerate() {
                    let ulps = (*v * steps) as i32;
                    *v = if w >= visible {
                        f32::NEG_INFINITY
                    } else {
                        f32::from_bits(base.to_bits().wrapping_add_signed(ulps))
                    };
                }
                continue;
            }
            for (w, v) in row.iter_mut().enumerate() {
                *v = match () {
                    () if w >= visible => f32::NEG_INFINITY,
                    () if *v < -1.2 => -0.0,
                    () if *v < -0.7 => 0.0,
                    () if coarse => (*v * 8.0).round() / 8.0,
                    () => *v,
                };
            }
        }
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (dims[0] * 32) as u64 * tokens as u64
    }
}
