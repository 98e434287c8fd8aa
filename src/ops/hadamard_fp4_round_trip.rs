use super::contract::*;
use super::fp8_kv_round_trip::{power_of_two, power_of_two_at_least};
use super::{Call, Draft, Op, magnitudes};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "hadamard_fp4_round_trip",
    summary: "128-point Walsh–Hadamard / sqrt(128), then E2M1 with a power-of-two scale per 32 (docs/model.md §11.1)",
    ops_ids: &["P15", "I3", "I5"],
    aliases: &["dsv4_indexer_qat"],
    args: &[update("x", &["R", "H", "D"], "indexer queries or rows; D = 128")],
    weights: &[],
    steps: &["R"],
    dims: &["H", "D"],
    scalars: &[],
    roundings: &[],
    comparison: Comparison::Exact,
};

const BLOCK: usize = 32;
/// Of the transform, in every model.
const POINTS: usize = 128;

/// Hadamard transform and fp4 rounding of indexer vectors, in place.
pub struct HadamardFp4RoundTrip;

impl Op for HadamardFp4RoundTrip {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (r, h, d) = (call.step("R")?, call.dim("H")?, call.dim("D")?);
        for v in call.f32_mut("x")?[..r * h * d].chunks_exact_mut(d) {
            hadamard(v);
            for block in v.chunks_mut(BLOCK) {
                let amax = block.iter().fold(0.0f32, |m, v| m.max(v.abs())).max(6.0 * f32::MIN_POSITIVE);
                let scale = power_of_two_at_least(amax / 6.0);
                for v in block {
                    *v = e2m1((*v / scale).clamp(-6.0, 6.0)) * scale;
                }
            }
        }
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[&[1, 128], &[8, 128], &[64, 128], &[72, 128]]
    }

    fn fill(&self, d: &mut Draft<'_>) {
        let width = d.dim("D");
        let mut factors = Vec::new();
        for _ in 0..d.f32("x").len() / width {
            factors.push(d.draw.pick(&[1.0, 1.0, 3e-6, 1e-20, 1e-37, 1e-38, 0.1, 37.0, 6e4, 0.0]));
        }
        magnitudes::scale_rows(d, "x", width, &factors);
        if width != POINTS {
            return;
        }
        for i in 0..d.f32("x").len() / width {
            if d.draw.below(2) == 0 {
                let vector = chosen(d);
                d.f32("x")[i * width..][..width].copy_from_slice(&vector);
            }
        }
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (25 * dims[0] * dims[1]) as u64 * tokens as u64
    }
}

/// A vector that the transform brings to chosen values: a block's largest beside 6·2^k, where its scale changes, with
/// others that tell one scale from the next; or values half-way between two codes.
///
/// The sums of the transform have no rounding here: what they come to are whole multiples of some power of two, less
/// than 2^24 of it in all. So the same sums of those, divided by 128, are the vector. Where the last product cannot give
/// a value (6·2^k itself; 0.75 and 1.75), no vector can.
fn chosen(d: &mut Draft<'_>) -> [f32; POINTS] {
    let mut sums = [0.0f32; POINTS];
    let unit = power_of_two(d.draw.between(0, 120) as i32 - 60);
    let mut put = |d: &mut Draft<'_>, block: usize, size: f32| {
        let at = block * BLOCK + d.draw.below(BLOCK);
        sums[at] = d.draw.pick(&[-size, size]);
    };
    let first = d.draw.below(POINTS / BLOCK);
    if d.draw.below(2) == 0 {
        for _ in 0..5 {
            // 0.31 to 0.69: half a code of the smaller scale, and none of the larger.
            let size = 3.5 + d.draw.below(1 << 10) as f32 * (4.3 / 1024.0);
            put(d, first, (size * 256.0).round() / 256.0);
        }
        let edges = [-2, -1, 1, 2].map(|ulps| f32::from_bits((6.0f32.to_bits() as i32 + ulps) as u32));
        let edge = d.draw.pick(&edges);
        put(d, first, before_product(edge).unwrap_or(edge));
    } else {
        for block in [first, (first + 1) % (POINTS / BLOCK)] {
            for tie in [1.25, 2.5, 5.0] {
                put(d, block, before_product(tie).unwrap_or(tie));
            }
        }
    }
    add(&mut sums);
    sums.map(|s| s * (unit / POINTS as f32))
}

/// What the last product of the transform brings to `value`, with as many zeros at its end as there are.
fn before_product(value: f32) -> Option<f32> {
    let about = (value / norm(POINTS)).to_bits();
    let all = (about - 2..=about + 2).filter(|b| f32::from_bits(*b) * norm(POINTS) == value);
    all.max_by_key(|b| b.trailing_zeros()).map(f32::from_bits)
}

fn norm(n: usize) -> f32 {
    (1.0 / (n as f64).sqrt()) as f32
}

fn hadamard(v: &mut [f32]) {
    add(v);
    let norm = norm(v.len());
    v.iter_mut().for_each(|v| *v *= norm);
}

/// Natural (butterfly, stride 1, 2, 4, …) order: the additions are part of the contract, since fp4 follows bit for bit.
fn add(v: &mut [f32]) {
    let n = v.len();
    let mut stride = 1;
    while stride < n {
        for start in (0..n).step_by(2 * stride) {
            for i in start..start + stride {
                let (a, b) = (v[i], v[i + stride]);
                v[i] = a + b;
                v[i + stride] = a - b;
            }
        }
        stride *= 2;
    }
}

/// Nearest of {0, .5, 1, 1.5, 2, 3, 4, 6} with sign, ties to the even code.
fn e2m1(x: f32) -> f32 {
    let a = x.abs();
    let step = if a < 2.0 {
        0.5
    } else if a < 4.0 {
        1.0
    } else {
        2.0
    };
    ((a / step).round_ties_even() * step).copysign(x)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ops::cases::{Sizes, Values, draw_case};
    use crate::ops::draw::Draw;

    /// The transform brings drawn vectors to values on both sides of 6·2^k and to ties, exactly.
    #[test]
    fn chosen_vectors_come_to_what_was_chosen() {
        let dims = &[64, 128];
        let sizes = Sizes::of(dims, &[]);
        let op = &HadamardFp4RoundTrip;
        let case = draw_case(op, &sizes, 40, &mut Draw::new(&[5; 32], "h"), "h".into()).unwrap();
        let Some(Values::F32(x)) = &case.args[0] else { panic!() };
        let mut met = BTreeSet::new();
        for vector in x.chunks_exact(POINTS) {
            let mut v = vector.to_vec();
            hadamard(&mut v);
            // Significands alone: every power of two is drawn.
            met.extend(v.iter().map(|v| v.to_bits() & 0x007f_ffff));
        }
        for value in [1.25, 2.5, 5.0] {
            assert!(met.contains(&(f32::to_bits(value) & 0x007f_ffff)), "{value}");
        }
        let six = 6.0f32.to_bits() & 0x007f_ffff;
        for edge in [six - 2, six - 1, six + 1, six + 2] {
            assert!(met.contains(&edge), "6 and {} ulps", i64::from(edge) - i64::from(six));
        }
        assert_eq!(before_product(6.0), None);
    }

    #[test]
    fn e2m1_ties_go_to_the_even_code() {
        // Codes 0..7 stand for 0, .5, 1, 1.5, 2, 3, 4, 6.
        for (x, y) in [
            (0.25, 0.0),
            (0.75, 1.0),
            (1.25, 1.0),
            (1.75, 2.0),
            (2.5, 2.0),
            (3.5, 4.0),
            (5.0, 4.0),
            (5.1, 6.0),
            (-0.3, -0.5),
        ] {
            assert_eq!(e2m1(x), y, "{x}");
        }
    }
}
