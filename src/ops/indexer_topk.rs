use rayon::prelude::*;

use super::contract::*;
use super::{Call, Op};
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
            order.sort_by(|a, b| s[*b].total_cmp(&s[*a]).then(a.cmp(b)));
            order.truncate(k);
            order.sort_unstable();
            ids.fill(-1);
            for (slot, row) in ids.iter_mut().zip(order) {
                *slot = row as i32;
            }
        });
        Ok(())
    }
}
