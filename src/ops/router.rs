//! What the two routers share: the score and the normalised weights (docs/model.md §13).

use super::contract::Span;
use super::{Call, Draft};
use crate::error::Result;

/// sqrt(softplus(x)); past 20 softplus is x itself.
pub(super) fn score(x: f32) -> f32 {
    let softplus = if x > 20.0 { x } else { libm::log1pf(libm::expf(x)) };
    softplus.sqrt()
}

/// The least divisor of router weights: 2^-14.
pub const FLOOR: f32 = 6.103_515_6e-5;

pub(super) const SCALES: Span = Span::Between(0.5, 3.0);
/// Those of both numerics, and larger ones that act on more than tiny scores.
pub(super) const FLOORS: Span = Span::Of(&[1e-20, FLOOR as f64, 1e-3, 0.05]);

pub(super) struct Weigh {
    scale: f32,
    floor: f32,
    normalise: bool,
}

impl Weigh {
    pub(super) fn of(call: &Call<'_>) -> Result<Weigh> {
        Ok(Weigh {
            scale: call.scalar("scale")? as f32,
            floor: call.scalar("floor")? as f32,
            normalise: call.scalar("normalise")? != 0.0,
        })
    }

    pub(super) fn write(&self, scores: impl Iterator<Item = f32> + Clone, out: &mut [f32]) {
        let sum = if self.normalise { scores.clone().sum::<f32>().max(self.floor) } else { 1.0 };
        for (out, p) in out.iter_mut().zip(scores) {
            *out = p / sum * self.scale;
        }
    }
}

/// Logits of a token: noise times the first, plus the second. Scores that are all tiny, so that the least divisor counts;
/// all 0, so that nothing else is divided by; of which the exponentials overflow; large ones beside small ones. As many as
/// no count of ways is a multiple of.
const LOGITS: [[f32; 2]; 11] = [
    [3.0, 0.0],
    [3.0, -60.0],
    [3.0, 60.0],
    [3.0, 0.0],
    [3.0, -130.0],
    [3.0, 100.0],
    [3.0, 0.0],
    [3.0, -30.0],
    [3.0, 80.0],
    [24.0, 0.0],
    [3.0, -80.0],
];

/// Goes round [`LOGITS`] from token to token and from case to case.
pub(super) fn shift_tokens(d: &mut Draft<'_>) {
    let (e, turn) = (d.dim("E"), d.turn);
    for (t, row) in d.f32("logits").chunks_exact_mut(e).enumerate() {
        let [factor, shift] = LOGITS[(turn + t) % LOGITS.len()];
        // In steps: of scores that differ by a rounding, which is the larger is nobody's contract.
        row.iter_mut().for_each(|v| *v = factor * (*v * 256.0).round() / 256.0 + shift);
    }
}

/// `rows` lists of U distinct experts below E, for a case.
pub(super) fn drawn_experts(d: &mut Draft<'_>, rows: usize) -> Vec<i32> {
    let (e, u) = (d.dim("E"), d.dim("U"));
    let mut out = Vec::with_capacity(rows * u);
    for _ in 0..rows {
        let mut pool: Vec<i32> = (0..e as i32).collect();
        // In a far case from the last half, as long as that holds enough.
        let first = if d.far && e - e / 2 >= u { e / 2 } else { 0 };
        for i in first..first + u.min(e) {
            let j = d.draw.between(i, e - 1);
            pool.swap(i, j);
            out.push(pool[i]);
        }
    }
    out
}
