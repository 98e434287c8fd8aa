//! Weights from a counter: every block of a tensor is a function of (seed, tensor, block number), so that any thread may
//! make any part of a file and the bytes are the same on every machine.
//!
//! Only integer arithmetic and single IEEE operations in f32 (one product, one sum, one conversion) are used: no `exp`,
//! no `ln`, nothing that a libm may round otherwise.

use half::f16;

use crate::model::layout::Role;
use crate::model::quant::DType;

/// SplitMix64 as a counter-based generator: word i of a stream without the words before it.
#[derive(Clone, Copy)]
pub struct Stream(u64);

impl Stream {
    /// The stream of one tensor.
    pub fn new(seed: u64, tensor: &str) -> Stream {
        let mut hash = blake3::Hasher::new_derive_key("assay synthetic weights 1");
        hash.update(&seed.to_le_bytes());
        hash.update(tensor.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finalize().as_bytes()[..8]);
        Stream(u64::from_le_bytes(first))
    }

    fn word(self, i: u64) -> u64 {
        let mut z = self.0.wrapping_add(i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill(self, first: u64, out: &mut [u8]) {
        for (i, bytes) in out.chunks_mut(8).enumerate() {
            bytes.copy_from_slice(&self.word(first + i as u64).to_le_bytes()[..bytes.len()]);
        }
    }
}

/// What a tensor's values are drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values {
    /// About normal: the sum of four uniform draws, so never beyond 3.5 deviations.
    Normal {
        mean: f32,
        std: f32,
    },
    Uniform {
        low: f32,
        high: f32,
    },
    /// Rows of `used` distinct expert ids below `experts`.
    Experts {
        used: u64,
        experts: u64,
    },
}

impl Values {
    /// Ranges that keep activations of order 1 through any number of layers and every mechanism at work: sinks that
    /// take some of the softmax, a router bias that changes the choice, positions that matter to the compressor.
    pub fn of(role: Role, dims: &[u64], experts: u64) -> Values {
        use Role::*;
        match role {
            OutputNorm | AttnNorm | AttnQANorm | AttnKvANorm | FfnNorm | AttnCompressorNorm | IndexerCompressorNorm => {
                Values::Normal { mean: 1.0, std: 0.05 }
            }
            OutputHcScale | HcAttnScale | HcFfnScale => Values::Uniform { low: 0.2, high: 0.4 },
            AttnSinks => Values::Uniform { low: 1.0, high: 5.0 },
            OutputHcBase | HcAttnBase | HcFfnBase | AttnCompressorApe | IndexerCompressorApe | ExpProbsB => {
                Values::Normal { mean: 0.0, std: 0.1 }
            }
            TokenEmbd => Values::Normal { mean: 0.0, std: 0.5 },
            FfnGateTid2eid => Values::Experts { used: dims.first().copied().unwrap_or(1), experts },
            _ => Values::Normal { mean: 0.0, std: 1.0 / (dims.first().copied().unwrap_or(1) as f32).sqrt() },
        }
    }

    /// Bytes of the smallest part that can be made on its own: a block, or a row of expert ids.
    pub fn unit_bytes(self, dtype: DType) -> usize {
        match self {
            Values::Experts { used, .. } => used as usize * 4,
            _ => dtype.block_bytes(),
        }
    }

    /// Makes units `first`, `first + 1`, … until `out` is full.
    pub fn fill(self, dtype: DType, stream: Stream, first: u64, out: &mut [u8]) {
        let units = out.chunks_exact_mut(self.unit_bytes(dtype)).zip(first..);
        match self {
            Values::Experts { used, experts } => units.for_each(|(out, i)| expert_row(stream, i, used, experts, out)),
            Values::Normal { std, .. } if !dtype.is_plain() => {
                units.for_each(|(out, i)| block(dtype, stream, i, std, out))
            }
            _ => units.for_each(|(out, i)| {
                let value = self.draw(stream.word(i));
                match out {
                    [_, _] => out.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                    _ => out.copy_from_slice(&value.to_le_bytes()),
                }
            }),
        }
    }

    fn draw(self, word: u64) -> f32 {
        match self {
            Values::Normal { mean, std } => {
                // Four 16-bit draws: their sum has mean 131070 and deviation 37837.2.
                let sum: u64 = (0..4).map(|i| word >> (16 * i) & 0xffff).sum();
                mean + (sum as i32 - 131_070) as f32 * (std / 37_837.2)
            }
            Values::Uniform { low, high } => low + (word >> 40) as f32 * ((high - low) / 16_777_216.0),
            Values::Experts { .. } => 0.0,
        }
    }
}

/// A quantised block: random quants and sub-scales, and block scales such that values have deviation `std`.
///
/// The divisors are the deviations of the formats' own value formulas (docs/model.md §2.4) over uniform quants and
/// sub-scales, at d = 1; Q2_K and Q4_K subtract the mean through dmin.
fn block(dtype: DType, stream: Stream, i: u64, std: f32, out: &mut [u8]) {
    // Words of a block, the last one for its scale.
    let words = out.len().div_ceil(8) as u64 + 1;
    stream.fill(i * words, out);
    // 0.75 to 1.25, so that neighbouring blocks cannot be taken for each other.
    let jitter = (768 + (stream.word(i * words + words - 1) & 511)) as f32 / 1024.0;
    let mut put = |at: usize, d: f32| out[at..at + 2].copy_from_slice(&f16::from_f32(d * jitter).to_le_bytes());
    match dtype {
        DType::Q8_0 => {
            put(0, std / 73.3);
            // Quantisers never write −128.
            out[2..].iter_mut().filter(|q| **q == 0x80).for_each(|q| *q = 0x81);
        }
        DType::Q2_K => {
            put(80, std / 13.87);
            put(82, std / 13.87 * 1.5);
        }
        DType::Q4_K => {
            put(0, std / 258.3);
            put(2, std / 258.3 * 7.5);
        }
        DType::IQ2_XXS => put(0, std / IQ2_XXS_DEVIATION),
        // Plain types have no blocks; no weight is Q8_K.
        DType::F32 | DType::F16 | DType::BF16 | DType::I32 | DType::Q8_K => {}
    }
}

/// 0.25 · 9.233 (root mean square of 0.5 + s over s in 0..16) · 23.118 (that of the grid's entries).
const IQ2_XXS_DEVIATION: f32 = 53.36;

/// Distinct experts of one token: each draw moves on to the next expert that the row does not have yet.
fn expert_row(stream: Stream, row: u64, used: u64, experts: u64, out: &mut [u8]) {
    let (ids, _) = out.as_chunks_mut::<4>();
    for slot in 0..ids.len() {
        let mut id = stream.word(row * used + slot as u64) % experts.max(1);
        while slot < experts as usize && ids[..slot].contains(&(id as i32).to_le_bytes()) {
            id = (id + 1) % experts;
        }
        ids[slot] = (id as i32).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deviation of the values of many blocks relative to what was asked for.
    #[test]
    fn every_format_has_the_deviation_asked_for() {
        for dtype in [DType::F32, DType::F16, DType::Q8_0, DType::Q2_K, DType::Q4_K, DType::IQ2_XXS] {
            let values = Values::Normal { mean: 0.0, std: 0.02 };
            let blocks = 65_536 / dtype.block_elems();
            let mut bytes = vec![0; blocks * dtype.block_bytes()];
            values.fill(dtype, Stream::new(1, "t"), 0, &mut bytes);
            let mut out = vec![0.0; 65_536];
            dtype.dequantise(&bytes, &mut out);
            let mean = out.iter().map(|v| f64::from(*v)).sum::<f64>() / 65_536.0;
            let std = (out.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / 65_536.0).sqrt();
            assert!((std / 0.02 - 1.0).abs() < 0.05, "{dtype}: deviation {std}");
            assert!(mean.abs() < 0.002, "{dtype}: mean {mean}");
        }
    }

    #[test]
    fn parts_are_the_same_as_the_whole() {
        let values = Values::Normal { mean: 0.0, std: 1.0 };
        let stream = Stream::new(7, "x");
        let mut whole = vec![0; 84 * 10];
        values.fill(DType::Q2_K, stream, 0, &mut whole);
        let mut part = vec![0; 84 * 3];
        values.fill(DType::Q2_K, stream, 5, &mut part);
        assert_eq!(part, whole[84 * 5..84 * 8]);
    }

    #[test]
    fn expert_rows_are_distinct() {
        for (used, experts) in [(6, 256), (3, 3), (1, 1), (4, 5)] {
            let values = Values::Experts { used, experts };
            let mut bytes = vec![0; used as usize * 4 * 100];
            values.fill(DType::I32, Stream::new(1, "h"), 0, &mut bytes);
            for row in bytes.chunks_exact(used as usize * 4) {
                let mut ids: Vec<_> =
                    row.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
                ids.sort_unstable();
                ids.dedup();
                assert_eq!(ids.len() as u64, used);
                assert!(ids.iter().all(|id| (0..experts as i32).contains(id)));
            }
        }
    }
}
