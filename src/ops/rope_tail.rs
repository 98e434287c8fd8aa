use rayon::prelude::*;

use super::cases::POSITIONS;
use super::contract::*;
use super::{Call, Draft, Op, magnitudes};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "rope_tail",
    summary: "rotates the pairs (2i, 2i+1) of the last P dims of every head by (pos0 + t)·inv_freq[i], back when inverse (docs/model.md §9)",
    ops_ids: &["P13", "A10", "A11", "A14", "I3"],
    aliases: &["rope_tail"],
    args: &[
        update("x", &["T", "H", "D"], "queries, keys or attention output"),
        read("inv_freq", &["ceil_div(P, 2)"], "angle per position of each pair, YaRN included"),
    ],
    weights: &[],
    steps: &["T", "pos0"],
    dims: &["H", "D", "P"],
    scalars: &[scalar_i32("inverse", FLAG, "1: rotate back")],
    roundings: &[],
    comparison: Comparison::Tolerance,
};

/// Rotary embedding on the tail of each head, in place.
pub struct RopeTail;

impl Op for RopeTail {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, pos0) = (call.step("T")?, call.step("pos0")?);
        let (h, d, p) = (call.dim("H")?, call.dim("D")?, call.dim("P")?);
        let inverse = call.scalar("inverse")? != 0.0;
        let inv_freq = call.f32("inv_freq")?;
        let x = call.f32_mut("x")?;
        x[..t * h * d].par_chunks_exact_mut(h * d).enumerate().for_each(|(token, x)| {
            let turn = Turn::at(pos0 + token, inv_freq, inverse);
            for head in x.chunks_exact_mut(d) {
                turn.apply(&mut head[d - p..]);
            }
        });
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[&[1, 512, 64], &[3, 512, 64], &[8, 128, 64], &[64, 128, 64], &[64, 512, 64], &[72, 512, 64]]
    }

    fn size(&self, d: &mut Draft<'_>) {
        let most = if d.far { POSITIONS - d.tokens } else { d.draw.pick(&[100, 5_000, 1_000_000]) };
        d.position(most);
        // Across 65536·n: a bound on positions is a round number.
        if d.draw.below(if d.far { 2 } else { 4 }) == 0 {
            let pos0 = 65_536 * d.draw.between(1, 15) - d.draw.below(4);
            d.set_step("pos0", pos0);
        }
    }

    fn fill(&self, d: &mut Draft<'_>) {
        let table = drawn_frequencies(d);
        d.f32("inv_freq").copy_from_slice(&table);
        // Half of the heads as they come.
        let (width, rows) = (d.dim("D"), d.tokens * d.dim("H"));
        let factors: Vec<f32> = (0..rows).map(|_| d.draw.pick(&[1.0, 1.0, 1.0, 1.0, 1e-6, 1e-4, 100.0, 1e4])).collect();
        magnitudes::scale_rows(d, "x", width, &factors);
    }

    fn rows_apart(&self) -> bool {
        true
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (dims[0] * dims[1]) as u64 * tokens as u64
    }
}

/// cos and sin of every pair at one position.
pub(super) struct Turn(Vec<(f32, f32)>);

impl Turn {
    /// The angle is the f32 product of position and inverse frequency, as in the references; only its cosine and sine
    /// are taken in f64.
    pub(super) fn at(position: usize, inv_freq: &[f32], inverse: bool) -> Turn {
        let sign = if inverse { -1.0 } else { 1.0 };
        Turn(
            inv_freq
                .iter()
                .map(|f| {
                    let (sin, cos) = libm::sincos(f64::from(position as f32 * f));
                    (cos as f32, (sign * sin) as f32)
                })
                .collect(),
        )
    }

    pub(super) fn apply(&self, tail: &mut [f32]) {
        for (pair, (cos, sin)) in tail.chunks_exact_mut(2).zip(&self.0) {
            let (a, b) = (pair[0], pair[1]);
            pair[0] = a * cos - b * sin;
            pair[1] = a * sin + b * cos;
        }
    }
}

/// Inverse frequencies for `dims` rotary dimensions, in f64 and rounded once: plain, or YaRN-blended when `scale` > 1.
pub fn inverse_frequencies(dims: usize, base: f64, yarn: Option<Yarn>) -> Vec<f32> {
    (0..dims / 2)
        .map(|i| {
            let f = libm::pow(base, -(2.0 * i as f64) / dims as f64);
            (match &yarn {
                None => f,
                Some(y) => {
                    let keep = y.keep(i, dims, base);
                    f / y.factor * (1.0 - keep) + f * keep
                }
            }) as f32
        })
        .collect()
}

/// One of the two tables that models have, for a case.
pub(super) fn drawn_frequencies(d: &mut Draft<'_>) -> Vec<f32> {
    let yarn = Yarn { factor: 16.0, original_context: 65536.0, beta_fast: 32.0, beta_slow: 1.0 };
    let (base, yarn) = d.draw.pick(&[(10_000.0, None), (160_000.0, Some(yarn))]);
    inverse_frequencies(d.dim("P"), base, yarn)
}

/// YaRN's blend: fast pairs keep their frequency, slow ones are divided by `factor` (docs/model.md §9).
#[derive(Clone, Copy, Debug)]
pub struct Yarn {
    pub factor: f64,
    pub original_context: f64,
    pub beta_fast: f64,
    pub beta_slow: f64,
}

impl Yarn {
    fn keep(&self, pair: usize, dims: usize, base: f64) -> f64 {
        let edge = |beta: f64| {
            dims as f64 * libm::log(self.original_context / (beta * 2.0 * std::f64::consts::PI))
                / (2.0 * libm::log(base))
        };
        let low = edge(self.beta_fast).floor().max(0.0);
        let high = edge(self.beta_slow).ceil().min(dims as f64 - 1.0);
        // The references widen an empty ramp by 0.001 rather than divide by zero.
        let width = if high > low { high - low } else { 0.001 };
        1.0 - ((pair as f64 - low) / width).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flash_ramp_runs_from_pair_15_to_25() {
        let yarn = Yarn { factor: 16.0, original_context: 65536.0, beta_fast: 32.0, beta_slow: 1.0 };
        let plain = inverse_frequencies(64, 160000.0, None);
        let scaled = inverse_frequencies(64, 160000.0, Some(yarn));
        assert_eq!(plain[..16], scaled[..16]);
        assert!(plain[16] > scaled[16]);
        for i in 25..32 {
            assert!((plain[i] / scaled[i] - 16.0).abs() < 1e-5);
        }
    }
}
