//! Arithmetic that every oracle shares. Sums run in eight fixed lanes, folded in a fixed order, and exponentials and
//! angles come from the `libm` crate, not from the system's library, so that a result never depends on the machine, the
//! thread count or how many tokens are computed together.

use half::{bf16, f16};
use rayon::prelude::*;

use super::call::Weight;
use super::contract::Rounding;

const LANES: usize = 8;

/// Eight elements of a row; element i of a row is always in lane i mod 8.
type Lanes = [f32; LANES];

fn fold(lanes: Lanes) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (b + f)) + ((c + g) + (d + h))
}

/// A product and a sum, each rounded: never fused, or the bits would depend on the machine. Whole arrays in and out, so
/// that the accumulators are vectors to the compiler. Loops of our own, here and in [`dots`]: those of `array::from_fn`
/// and `array::map` are inlined only by an optimisation over the whole crate.
#[inline(always)]
fn add_product(mut acc: Lanes, a: &Lanes, b: &Lanes) -> Lanes {
    for l in 0..LANES {
        acc[l] += a[l] * b[l];
    }
    acc
}

/// Σ a[i]·b[i].
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    dots([a], [b])[0][0]
}

/// Every row with every vector, all of one length. Each result has the bits that [`dot`] gives: more than one at a time
/// only spares loads.
#[inline(always)]
fn dots<const R: usize, const T: usize>(rows: [&[f32]; R], xs: [&[f32]; T]) -> [[f32; T]; R] {
    let (k, whole) = (xs[0].len(), xs[0].len() / LANES);
    let (mut w, mut x): ([&[Lanes]; R], [&[Lanes]; T]) = ([&[]; R], [&[]; T]);
    // The lengths once, not in the loop.
    for r in 0..R {
        w[r] = &rows[r].as_chunks().0[..whole];
    }
    for t in 0..T {
        x[t] = &xs[t].as_chunks().0[..whole];
    }
    let mut acc = [[[0.0f32; LANES]; T]; R];
    for i in 0..whole {
        for r in 0..R {
            for t in 0..T {
                acc[r][t] = add_product(acc[r][t], &w[r][i], &x[t][i]);
            }
        }
    }
    let mut out = [[0.0; T]; R];
    for r in 0..R {
        for t in 0..T {
            for i in whole * LANES..k {
                acc[r][t][i % LANES] += rows[r][i] * xs[t][i];
            }
            out[r][t] = fold(acc[r][t]);
        }
    }
    out
}

/// mean(x²) in f64: norms divide by it, so its error would be everyone's.
pub fn mean_square(x: &[f32]) -> f64 {
    x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / x.len() as f64
}

pub fn round_f16(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + libm::expf(-x))
}

pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// The operands that an implementation with this rounding multiplies, row by row of `k` elements.
pub fn round_rows(x: &[f32], k: usize, rounding: Rounding) -> Vec<f32> {
    let mut out = x.to_vec();
    match rounding {
        Rounding::None => {}
        Rounding::F16 => out.iter_mut().for_each(|v| *v = round_f16(*v)),
        Rounding::Bf16 => out.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32()),
        Rounding::Q8_0 => out.chunks_mut(k).for_each(|row| row.chunks_mut(32).for_each(round_int8)),
        Rounding::Q8K => out.chunks_mut(k).for_each(|row| row.chunks_mut(256).for_each(round_int8)),
    }
    out
}

/// int8 with one f32 scale amax/127, round half to even.
fn round_int8(block: &mut [f32]) {
    let amax = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    if amax == 0.0 {
        return;
    }
    let (d, inv) = (amax / 127.0, 127.0 / amax);
    for v in block {
        *v = (*v * inv).round_ties_even().clamp(-127.0, 127.0) * d;
    }
}

/// y[t, n] = Σ_k W[row0 + n][k] · x[t, k] for n < `n`, where x rows start `x_stride` elements apart.
///
/// Weight rows are dequantised once, and every token's result is the same whatever `t` is.
pub fn matmul(w: &Weight<'_>, row0: usize, n: usize, x: &[f32], x_stride: usize, y: &mut [f32], y_stride: usize) {
    const TILE: usize = 32;
    let k = w.k;
    let tokens = if x.is_empty() { 0 } else { (x.len() - k) / x_stride + 1 };
    let tiles: Vec<Vec<f32>> = (0..n.div_ceil(TILE))
        .into_par_iter()
        .map(|tile| {
            let rows = TILE.min(n - tile * TILE);
            let mut weights = vec![0.0f32; rows * k];
            for (r, row) in weights.chunks_exact_mut(k).enumerate() {
                w.row(row0 + tile * TILE + r, row);
            }
            let mut out = vec![0.0f32; tokens * rows];
            products(&weights, k, |t| &x[t * x_stride..][..k], &mut out);
            out
        })
        .collect();
    for (tile, out) in tiles.iter().enumerate() {
        let rows = TILE.min(n - tile * TILE);
        for t in 0..tokens {
            y[t * y_stride + tile * TILE..][..rows].copy_from_slice(&out[t * rows..][..rows]);
        }
    }
}

/// out[t, r] = weights[r]·x(t), two rows and two tokens at a time.
fn products<'x>(weights: &[f32], k: usize, x: impl Fn(usize) -> &'x [f32], out: &mut [f32]) {
    let rows = weights.len() / k;
    let row = |r: usize| &weights[r * k..][..k];
    for (pair, out) in out.chunks_mut(2 * rows).enumerate() {
        let t = 2 * pair;
        if out.len() < 2 * rows {
            for (r, out) in out.iter_mut().enumerate() {
                *out = dot(row(r), x(t));
            }
            continue;
        }
        let (first, second) = out.split_at_mut(rows);
        let xs = [x(t), x(t + 1)];
        for r in (0..rows - rows % 2).step_by(2) {
            let d = dots([row(r), row(r + 1)], xs);
            [first[r], second[r]] = d[0];
            [first[r + 1], second[r + 1]] = d[1];
        }
        if rows % 2 == 1 {
            [[first[rows - 1], second[rows - 1]]] = dots([row(rows - 1)], xs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of a dot product here, one lane at a time.
    fn by_lanes(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            lanes[i % LANES] += a * b;
        }
        fold(lanes)
    }

    #[test]
    fn every_shape_has_the_bits_of_one_row_with_one_token() {
        for k in [1, 7, 8, 64, 517] {
            let x: Vec<f32> = (0..5 * k).map(|i| (i as f32 * 0.37).sin()).collect();
            let w: Vec<f32> = (0..3 * k).map(|i| (i as f32 * 0.11).cos() * 1e3).collect();
            for tokens in 1..=5 {
                for rows in 1..=3 {
                    let mut out = vec![f32::NAN; tokens * rows];
                    products(&w[..rows * k], k, |t| &x[t * k..][..k], &mut out);
                    for (i, found) in out.iter().enumerate() {
                        let (row, token) = (&w[i % rows * k..][..k], &x[i / rows * k..][..k]);
                        assert_eq!(found.to_bits(), by_lanes(row, token).to_bits(), "k {k}, {tokens} × {rows}, {i}");
                        assert_eq!(found.to_bits(), dot(row, token).to_bits());
                    }
                }
            }
        }
    }

    #[test]
    fn int8_rounding_uses_the_scale_that_it_stores() {
        let mut block = [1.0, -0.5, 0.25, 1.0 / 127.0, 0.004];
        round_int8(&mut block);
        assert_eq!(block[0], 127.0 * (1.0 / 127.0));
        assert!((block[4] - 1.0 / 127.0).abs() < 1e-9, "0.004·127 = 0.508 rounds up");
    }
}
