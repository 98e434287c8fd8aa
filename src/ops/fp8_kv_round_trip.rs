use super::contract::*;
use super::{Call, Draft, Op};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "fp8_kv_round_trip",
    summary: "rounds the first D − P dims to E4M3 with a power-of-two scale per 64; the P rotary dims stay (docs/model.md §8.1)",
    ops_ids: &["P14", "A12", "C2", "D3"],
    aliases: &["dsv4_fp8_kv_quantize", "kv_fp8_store_raw"],
    args: &[update("x", &["R", "D"], "key/value rows or compressed rows, all finite")],
    weights: &[],
    steps: &["R"],
    dims: &["D", "P"],
    scalars: &[],
    roundings: &[],
    comparison: Comparison::Exact,
};

const BLOCK: usize = 64;

/// fp8 round trip of key/value rows, in place.
pub struct Fp8KvRoundTrip;

impl Op for Fp8KvRoundTrip {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (r, d, p) = (call.step("R")?, call.dim("D")?, call.dim("P")?);
        for row in call.f32_mut("x")?[..r * d].chunks_exact_mut(d) {
            for block in row[..d - p].chunks_mut(BLOCK) {
                let amax = block.iter().fold(0.0f32, |m, v| m.max(v.abs())).max(1e-4);
                let scale = power_of_two_at_least(amax / 448.0);
                for v in block {
                    *v = e4m3((*v / scale).clamp(-448.0, 448.0)) * scale;
                }
            }
        }
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        // Values that no block of 64 takes, odd and even, and rows of more blocks than a thread block has warps.
        &[&[512, 64], &[129, 64], &[160, 64], &[704, 64]]
    }

    /// Blocks of every magnitude, all-zero ones, and values half-way between two codes; in every third block the largest
    /// is what a scale changes at. Below the least scale a block's values are subnormal codes, which alone show what
    /// that scale is.
    fn fill(&self, d: &mut Draft<'_>) {
        let mut factors = Vec::new();
        for _ in 0..d.f32("x").len() / BLOCK {
            factors.push(d.draw.pick(&[1.0, 1.0, 3e-6, 3e-8, 2e-9, 1e-4, 37.0, 6e4, 0.0]));
        }
        let mut on_grid = vec![0u8; factors.len()];
        d.draw.bytes(&mut on_grid);
        for ((block, factor), grid) in d.f32("x").chunks_exact_mut(BLOCK).zip(factors).zip(on_grid) {
            for v in block.iter_mut() {
                *v = if grid < 64 { (*v * 64.0).round() / 64.0 * factor } else { *v * factor };
            }
        }
        for i in 0..d.f32("x").len() / BLOCK {
            if d.draw.below(3) == 0 {
                let block = at_an_edge(d);
                d.f32("x")[i * BLOCK..][..BLOCK].copy_from_slice(&block);
            }
        }
        // Where a last block is short, what stands behind it has no part in its scale, however large.
        let (width, end) = (d.dim("D"), d.dim("D") - d.dim("P"));
        if end % BLOCK != 0 {
            for row in 0..d.f32("x").len() / width {
                // Not left to chance for the first: of few tokens it is the only one.
                if row == 0 || d.draw.below(2) == 0 {
                    let size = d.draw.pick(&[1e5, 1e7]);
                    let largest = d.f32("x")[row * width..][..end].iter().fold(1.0f32, |m, v| m.max(v.abs()));
                    d.f32("x")[row * width + end] = largest * size;
                }
                // A number that another scale loses.
                if row == 0 && d.f32("x")[end - 1] == 0.0 {
                    d.f32("x")[end - 1] = 1.3;
                }
            }
        }
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (dims[0]) as u64 * tokens as u64
    }
}

/// A block whose largest is 448·2^k, or as near as f32 has it on either side: where its scale changes. Of the others
/// many are ties, and many so small that they are subnormal codes.
fn at_an_edge(d: &mut Draft<'_>) -> [f32; BLOCK] {
    // From the least scale on, 2^-22.
    let unit = power_of_two(d.draw.between(0, 60) as i32 - 22);
    let largest = f32::from_bits((448.0 * unit).to_bits() + d.draw.pick(&[0, 0, 1, 1, 2]) - d.draw.pick(&[0, 0, 1]));
    let scale = power_of_two_at_least(largest / 448.0);
    let mut block = [0.0; BLOCK];
    for v in &mut block {
        let size = match d.draw.below(4) {
            // Between two codes, normal and subnormal ones.
            0 => (2 * d.draw.below(8) + 17) as f32 * power_of_two(d.draw.between(0, 11) as i32 - 9) * scale,
            1 => (2 * d.draw.below(8) + 1) as f32 * power_of_two(-10) * scale,
            2 => d.draw.unit() * power_of_two(-6) * scale,
            _ => d.draw.unit() * largest,
        };
        *v = d.draw.pick(&[-size, size]);
    }
    block[d.draw.below(BLOCK)] = d.draw.pick(&[-largest, largest]);
    block
}

/// 2^k of a normal number.
pub(super) fn power_of_two(k: i32) -> f32 {
    f32::from_bits(((k + 127) as u32) << 23)
}

/// The smallest power of two ≥ `x`, for positive normal `x`: exact, where `exp2(ceil(log2(x)))` may not be.
pub(super) fn power_of_two_at_least(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x007f_ffff == 0 { bits } else { (bits & 0x7f80_0000) + 0x0080_0000 })
}

/// Nearest E4M3FN value of |x| ≤ 448, ties to even: 3 mantissa bits, subnormal step 2^-9.
fn e4m3(x: f32) -> f32 {
    let exponent = ((x.to_bits() >> 23) & 0xff) as i32 - 127;
    let step = f32::from_bits(((exponent.max(-6) - 3 + 127) as u32) << 23);
    (x / step).round_ties_even() * step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4m3_values() {
        for (x, y) in [
            (0.0, 0.0),
            (448.0, 448.0),
            (1.0625, 1.0),
            (1.1875, 1.25),
            (0.001, 0.001953125),
            (0.0009, 0.0),
            (-17.0, -16.0),
        ] {
            assert_eq!(e4m3(x), y, "{x}");
        }
        assert_eq!(power_of_two(-22), 2.0f32.powi(-22));
        assert_eq!(power_of_two_at_least(1.0), 1.0);
        assert_eq!(power_of_two_at_least(1.0000001), 2.0);
    }
}
