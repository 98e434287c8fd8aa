use super::contract::*;
use super::fp8_kv_round_trip::power_of_two_at_least;
use super::{Call, Draft, Op};
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
        &[&[1, 128], &[8, 128], &[64, 128]]
    }

    fn fill(&self, d: &mut Draft<'_>) {
        let width = d.dim("D");
        let mut factors = Vec::new();
        for _ in 0..d.f32("x").len() / width {
            factors.push(d.draw.pick(&[1.0, 1.0, 3e-6, 1e-20, 1e-37, 0.1, 37.0, 6e4, 0.0]));
        }
        for (row, factor) in d.f32("x").chunks_exact_mut(width).zip(factors) {
            row.iter_mut().for_each(|v| *v *= factor);
        }
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (25 * dims[0] * dims[1]) as u64 * tokens as u64
    }
}

/// Natural (butterfly, stride 1, 2, 4, …) order: the additions are part of the contract, since fp4 follows bit for bit.
fn hadamard(v: &mut [f32]) {
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
    let norm = (1.0 / (n as f64).sqrt()) as f32;
    v.iter_mut().for_each(|v| *v *= norm);
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
    use super::*;

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
