use rayon::prelude::*;

use super::cases::POSITIONS;
use super::compressor_state::EMPTY_SCORE;
use super::contract::*;
use super::rope_tail::{Turn, drawn_frequencies};
use super::{Call, Draft, Op, math};
use crate::error::Result;
use crate::model::quant::DType;

static CONTRACT: Contract = Contract {
    op: "compressor_prefill",
    summary: "pools every window of `ratio` tokens that this step completes: per-channel softmax over time of g + APE, Σ weight·k, \
              RMS norm, RoPE at the window's first position (docs/model.md §10)",
    ops_ids: &["P18", "P19", "C2", "I5"],
    aliases: &["compressor_prefill", "compressor_prefill_ratio4_replay", "compressor_update"],
    args: &[
        read("k", &["T", "C*D"], "candidates; C = 2 (previous and current half) for ratio 4, else 1"),
        read("g", &["T", "C*D"], "gates, APE not yet added"),
        read("state_k", &["C*ratio", "C*D"], "candidates of the tokens before this step"),
        read("state_s", &["C*ratio", "C*D"], "their scores, APE included"),
        read("inv_freq", &["ceil_div(P, 2)"], "compressed rope of the layer"),
        write("rows", &["R", "D"], "completed rows, the first one first"),
    ],
    weights: &[
        weight(
            "ape",
            &[DType::F16, DType::F32],
            &["C*D", "ratio"],
            "added to the score of a token by its place in the window",
        ),
        weight("norm", F32_ONLY, &["D"], "gain of the row norm"),
    ],
    steps: &["T", "pos0", "R"],
    dims: &["D", "C", "P", "ratio"],
    scalars: &[scalar("eps", EPSILON, "of the row norm")],
    roundings: &[],
    comparison: Comparison::Tolerance,
};

/// Compressed rows of a prefill, of a chunk at any position, or of one decoded token.
///
/// Window w covers positions w·ratio .. (w+1)·ratio. With C = 2 its candidates are the first half of the previous
/// window's tokens and the second half of its own; window 0 has no previous one. Tokens before `pos0` come from the
/// state of [`super::compressor_state`]. R = (pos0 + T)/ratio − pos0/ratio rows are written.
pub struct CompressorPrefill;

impl Op for CompressorPrefill {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, pos0, r) = (call.step("T")?, call.step("pos0")?, call.step("R")?);
        let (d, c, p, ratio) = (call.dim("D")?, call.dim("C")?, call.dim("P")?, call.dim("ratio")?);
        let eps = call.scalar("eps")?;
        let (ape, norm) = (call.weight("ape")?.to_vec(), call.weight("norm")?.to_vec());
        let (k, g) = (call.f32("k")?, call.f32("g")?);
        let (state_k, state_s) = (call.f32("state_k")?, call.f32("state_s")?);
        let inv_freq = call.f32("inv_freq")?;
        let rows = call.f32_mut("rows")?;
        let width = c * d;
        debug_assert_eq!(r, (pos0 + t) / ratio - pos0 / ratio);

        // Candidate and score of the token at `position`, channel `ch` of the width.
        let token = |position: usize, ch: usize| -> (f32, f32) {
            if position >= pos0 {
                let at = (position - pos0) * width + ch;
                (k[at], g[at] + ape[position % ratio * width + ch])
            } else {
                // With two halves the state keeps the previous window first and the current one behind it.
                let current = position / ratio == pos0 / ratio;
                let row = position % ratio + if c == 2 && current { ratio } else { 0 };
                (state_k[row * width + ch], state_s[row * width + ch])
            }
        };
        let window0 = pos0 / ratio;
        rows[..r * d].par_chunks_exact_mut(d).enumerate().for_each(|(i, row)| {
            let window = window0 + i;
            let first = window * ratio;
            let mut candidates = Vec::with_capacity(c * ratio);
            for (ch, out) in row.iter_mut().enumerate() {
                candidates.clear();
                if c == 2 && window > 0 {
                    candidates.extend((first - ratio..first).map(|q| token(q, ch)));
                }
                candidates.extend((first..first + ratio).map(|q| token(q, (c - 1) * d + ch)));
                let max = candidates.iter().fold(f32::NEG_INFINITY, |m, (_, s)| m.max(*s));
                let (mut sum, mut pooled) = (0.0f64, 0.0f64);
                for (k, s) in &candidates {
                    let weight = libm::exp(f64::from(s - max));
                    sum += weight;
                    pooled += weight * f64::from(*k);
                }
                *out = (pooled / sum) as f32;
            }
            let scale = (1.0 / (math::mean_square(row) + eps).sqrt()) as f32;
            row.iter_mut().zip(&norm).for_each(|(v, w)| *v *= scale * w);
            Turn::at(first, inv_freq, false).apply(&mut row[d - p..]);
        });
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[&[512, 2, 64, 4], &[512, 1, 64, 128], &[128, 2, 64, 4]]
    }

    /// Narrow, so that the longest step has its two thousand windows.
    fn long(&self) -> &'static [i64] {
        self.presets()[2]
    }

    /// Two long windows and more, that one step completes.
    fn spans(&self) -> &'static [(&'static [i64], usize, usize)] {
        &[(&[512, 1, 64, 128], 260, 450)]
    }

    fn period(&self, dims: &[i64]) -> Option<usize> {
        dims.get(3).map(|ratio| *ratio as usize)
    }

    fn size(&self, d: &mut Draft<'_>) {
        let (tokens, ratio) = (d.tokens, d.dim("ratio"));
        let mut pos0 = d.position(if d.far { POSITIONS - tokens } else { 3 * ratio });
        if (pos0 + tokens) / ratio == pos0 / ratio {
            // Too short to complete a window from there: end on one.
            pos0 = (pos0 / ratio + 1) * ratio - tokens;
            d.set_step("pos0", pos0);
        }
        d.set_step("R", (pos0 + tokens) / ratio - pos0 / ratio);
    }

    fn fill(&self, d: &mut Draft<'_>) {
        let table = drawn_frequencies(d);
        d.f32("inv_freq").copy_from_slice(&table);
        // Small rows feel the epsilon of their norm, and large ones are no larger for it.
        let size = [1.0, 1e-3, 1e4, 1.0, 100.0][d.turn % 5];
        // Gates differ by several units in trained files, so that pooling is far from an average; a score near 90 overflows
        // unless the maximum is taken off, and of thousands one candidate is all there is.
        let [spread, lift] =
            [[3.0, 0.0], [3.0, 90.0], [100.0, 0.0], [3.0, -120.0], [3.0, 0.0], [1e4, 0.0], [3.0, 4e3], [3.0, -1e4]]
                [d.turn / 5 % 8];
        for name in ["k", "state_k"] {
            d.f32(name).iter_mut().for_each(|v| *v *= size);
        }
        for name in ["g", "state_s"] {
            d.f32(name).iter_mut().for_each(|v| *v = *v * spread + lift);
        }
        if d.dim("C") == 2 && (d.case.symbol("pos0").unwrap_or(0) as usize) < d.dim("ratio") {
            let half = d.f32("state_s").len() / 2;
            d.f32("state_s")[..half].fill(EMPTY_SCORE);
            d.f32("state_k")[..half].fill(0.0);
        }
    }

    fn tokenwise(&self) -> bool {
        false
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (4 * dims[0] * dims[1]) as u64 * tokens as u64
    }
}
