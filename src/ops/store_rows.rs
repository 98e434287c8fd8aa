use half::f16;

use super::cases::POSITIONS;
use super::contract::*;
use super::{Call, Draft, Op};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "store_rows",
    summary: "cache[(row0 + i) mod cap, :] = x[i, :], rounded to f16 values when round_f16 (docs/model.md §8, §17.4)",
    ops_ids: &["P16", "A13", "D3"],
    aliases: &["store_raw_kv", "store_raw_kv_batch", "kv_fp8_store_raw"],
    args: &[
        read("x", &["R", "D"], "new rows, all finite"),
        update("cache", &["cap", "D"], "ring of key/value rows, or list of compressed rows"),
    ],
    weights: &[],
    steps: &["R", "row0"],
    dims: &["D", "cap"],
    scalars: &[scalar_i32("round_f16", FLAG, "1: values pass through f16, round to nearest even: ±inf from ±65520 on")],
    roundings: &[],
    comparison: Comparison::Exact,
};

/// Rows into a cache. When R > cap, the last row that falls on a slot stays.
pub struct StoreRows;

impl Op for StoreRows {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (r, row0) = (call.step("R")?, call.step("row0")?);
        let (d, cap) = (call.dim("D")?, call.dim("cap")?);
        let round = call.scalar("round_f16")? != 0.0;
        let x = call.f32("x")?;
        let cache = call.f32_mut("cache")?;
        for (i, row) in x.chunks_exact(d).take(r).enumerate() {
            let out = &mut cache[(row0 + i) % cap * d..][..d];
            for (out, v) in out.iter_mut().zip(row) {
                *out = if round { f16::from_f32(*v).to_f32() } else { *v };
            }
        }
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[&[512, 2304], &[512, 256], &[128, 64], &[512, 3], &[105, 64], &[1028, 5]]
    }

    fn far(&self) -> &'static [&'static [i64]] {
        &[&[128, 17_600]]
    }

    fn size(&self, d: &mut Draft<'_>) {
        let cap = d.dim("cap");
        let row0 = if d.far { d.draw.between(POSITIONS - cap, POSITIONS) } else { d.draw.below(3 * cap) };
        d.set_step("row0", row0);
        // Half of the steps that are longer than a cache go round it, of several tokens or more.
        if d.tokens <= 3 || d.draw.below(2) == 0 {
            d.set_dim("cap", cap.max(d.tokens));
        }
    }

    /// What f16 has an opinion on: subnormals, what is below all of them, ties to either neighbour, its largest numbers, and
    /// those from 65,520 on, halfway to what would be the next, which are infinite there.
    fn fill(&self, d: &mut Draft<'_>) {
        let n = d.f32("x").len();
        let fates: Vec<(usize, i32, bool)> =
            (0..n).map(|_| (d.draw.below(8), d.draw.below(41) as i32 - 25, d.draw.below(2) == 0)).collect();
        for (v, (fate, exponent, odd)) in d.f32("x").iter_mut().zip(fates) {
            *v = match fate {
                0 => *v * 2f32.powi(exponent),
                // Halfway between two f16 numbers, the lower of which is even or odd.
                1 => {
                    let step = 2f32.powi(exponent.clamp(-24, 5));
                    ((1024 + i32::from(odd)) as f32 + 0.5) * step * v.signum()
                }
                2 => (f32::from(u8::from(odd)) + 0.5) * 2f32.powi(-24) * v.signum(),
                3 => {
                    let edges = [65_504.0, 65_519.0, 65_519.996, 65_520.0, 65_536.0, 7e4, 1e20, f32::MAX];
                    edges[(exponent + 25) as usize % edges.len()].copysign(*v)
                }
                _ => *v,
            };
        }
    }

    fn tokenwise(&self) -> bool {
        false
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (dims[0]) as u64 * tokens as u64
    }
}
