use rayon::prelude::*;

use super::cases::POSITIONS;
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

/// What the scores of a token are like, besides hidden ones.
#[derive(Clone, Copy)]
enum Kind {
    /// Around 0, with many that are 0.
    Scored,
    /// A few bits from this number.
    Near(f32),
    /// Of this size, positive and negative.
    Sized(f32),
    /// All below 0.
    Negative(f32),
    /// Of every power of two that f32 has, down to its subnormal numbers.
    Mixed,
}

/// As many as no count of launches or ways is a multiple of.
const KINDS: [Kind; 17] = [
    Kind::Scored,
    Kind::Sized(100.0),
    Kind::Near(0.75),
    Kind::Negative(3e4),
    Kind::Scored,
    Kind::Near(-3.0),
    Kind::Mixed,
    Kind::Sized(1e-40),
    Kind::Scored,
    Kind::Near(1e-40),
    Kind::Negative(1e36),
    Kind::Near(1.0),
    Kind::Sized(1e36),
    Kind::Near(-2e4),
    Kind::Negative(1e-30),
    Kind::Sized(1e-3),
    Kind::Near(1e-3),
];

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
        &[
            &[40, 8],
            &[300, 32],
            &[700, 512],
            &[2100, 512],
            &[20, 32],
            // Flash keeps 512 and Pro 1,024; a file may have any number.
            &[1400, 1024],
            &[60, 1],
            &[164, 100],
            &[2400, 2052],
            &[65538, 512],
        ]
    }

    fn far(&self) -> &'static [&'static [i64]] {
        &[&[70_100, 512], &[262_144, 512]]
    }

    /// In two cases of three from a chosen position: the last token sees all rows, with which the buffer ends, or the first
    /// token whose rows are more than k stands somewhere in the step. A far step is the context's last.
    fn size(&self, d: &mut Draft<'_>) {
        let (c, k) = (d.dim("C"), d.dim("k"));
        let all = (4 * c).saturating_sub(d.tokens);
        match d.turn % 3 {
            _ if d.far && 4 * c == POSITIONS => d.set_step("pos0", all),
            0 if !d.far => d.set_step("pos0", all),
            1 if !d.far && c > k => {
                let first = 4 * (k + 1) - 1;
                let before = d.draw.below(d.tokens.min(first + 1));
                d.set_step("pos0", first - before);
            }
            _ => {
                d.position(4 * c);
            }
        }
    }

    /// As the scorer leaves them: a quarter exactly 0, further ties, −inf where nothing is visible yet. In a third of the
    /// rows scores that differ in their last bits alone, and in another third scores of other sizes.
    fn fill(&self, d: &mut Draft<'_>) {
        let (c, pos0) = (d.dim("C"), d.case.symbol("pos0").unwrap_or(0) as usize);
        let coarse = d.draw.below(2) == 0;
        // Two or three apart, or neighbours.
        let steps = if d.turn.is_multiple_of(2) { 500.0 } else { 20.0 };
        // Goes round by the turn, and from token to token: no size is left to chance.
        let (turn, far) = (d.turn, d.far);
        for (t, row) in d.f32("s").chunks_exact_mut(c).enumerate() {
            let visible = ((pos0 + t + 1) / 4).min(c);
            let kind = KINDS[(turn + t) % KINDS.len()];
            for v in &mut row[..visible] {
                *v = match kind {
                    Kind::Near(base) => f32::from_bits(base.to_bits().wrapping_add_signed((*v * steps) as i32)),
                    Kind::Sized(size) => *v * size,
                    Kind::Negative(size) => -v.abs() * size,
                    // The low bits of noise are as good as drawn.
                    Kind::Mixed => {
                        let size = 2f64.powi((v.to_bits() >> 3) as i32 % 267 - 140) as f32;
                        v.signum() * size * (1.0 + v.abs() / 8.0)
                    }
                    Kind::Scored if *v < -1.2 => -0.0,
                    Kind::Scored if *v < -0.7 => 0.0,
                    Kind::Scored if coarse => (*v * 8.0).round() / 8.0,
                    Kind::Scored => *v,
                };
            }
            // The last one that is visible is of the best in half of them: of thousands it would seldom be.
            if visible > 0 && (far || (turn + t) % 2 == 0) {
                row[visible - 1] = row[..visible].iter().copied().fold(f32::NEG_INFINITY, f32::max);
            }
            row[visible..].fill(f32::NEG_INFINITY);
        }
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (dims[0] * 32) as u64 * tokens as u64
    }
}
