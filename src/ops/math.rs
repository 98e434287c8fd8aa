//! Arithmetic that every oracle shares. Sums run in eight fixed lanes, folded in a fixed order, and exponentials and
//! angles come from the `libm` crate, not from the system's library, so that a result never depends on the machine, the
//! thread count or how many tokens are computed together.

use half::{bf16, f16};
use rayon::prelude::*;

use super::call::Weight;
use super::contract::Rounding;

const LANES: usize = 8;

fn fold(lanes: [f32; LANES]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (b + f)) + ((c + g) + (d + h))
}

/// Σ a[i]·b[i].
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    dot_rows([a], b)[0]
}

/// `dot` of several rows with the same vector; each row's result has the bits that `dot` alone gives.
#[inline(always)]
fn dot_rows<const R: usize>(rows: [&[f32]; R], x: &[f32]) -> [f32; R] {
    let mut acc = [[0.0f32; LANES]; R];
    let whole = x.len() / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        let xs: &[f32; LANES] = x[i..i + LANES].try_into().expect("a slice of LANES");
        for r in 0..R {
            let ws: &[f32; LANES] = rows[r][i..i + LANES].try_into().expect("a slice of LANES");
            for l in 0..LANES {
                acc[r][l] += ws[l] * xs[l];
            }
        }
    }
    let mut out = [0.0; R];
    for r in 0..R {
        for (l, i) in (whole..x.len()).enumerate() {
            acc[r][l] += rows[r][i] * x[i];
        }
        out[r] = fold(acc[r]);
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
            for r in 0..rows {
                w.row(row0 + tile * TILE + r, &mut weights[r * k..(r + 1) * k]);
            }
            let row = |r: usize| &weights[r * k..(r + 1) * k];
            let mut out = vec![0.0f32; tokens * rows];
            for t in 0..tokens {
                let x = &x[t * x_stride..][..k];
                let out = &mut out[t * rows..][..rows];
                let mut r = 0;
                while r + 4 <= rows {
                    out[r..r + 4].copy_from_slice(&dot_rows([row(r), row(r + 1), row(r + 2), row(r + 3)], x));
                    r += 4;
                }
                for r in r..rows {
                    out[r] = dot(row(r), x);
                }
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_rows_at_once_have_the_bits_of_one() {
        let x: Vec<f32> = (0..517).map(|i| (i as f32 * 0.37).sin()).collect();
        let w: Vec<f32> = (0..4 * 517).map(|i| (i as f32 * 0.11).cos()).collect();
        let rows: [&[f32]; 4] = std::array::from_fn(|r| &w[r * 517..(r + 1) * 517]);
        assert_eq!(dot_rows(rows, &x), rows.map(|r| dot(r, &x)));
    }

    #[test]
    fn int8_rounding_uses_the_scale_that_it_stores() {
        let mut block = [1.0, -0.5, 0.25, 1.0 / 127.0, 0.004];
        round_int8(&mut block);
        assert_eq!(block[0], 127.0 * (1.0 / 127.0));
        assert!((block[4] - 1.0 / 127.0).abs() < 1e-9, "0.004·127 = 0.508 rounds up");
    }
}
