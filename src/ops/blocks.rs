//! Blocks of synthetic weights: every type, with scales of every kind.

use half::f16;

use super::draw::Draw;
use crate::model::quant::DType;

/// What the blocks of synthetic weights look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// Scales around the ones of trained files.
    Usual,
    /// Every scale is a subnormal f16.
    Subnormal,
    /// Every scale is near the largest f16.
    Large,
}

/// Valid blocks with random contents; `None` when `k` is no multiple of the block.
pub fn synthetic(dtype: DType, k: usize, rows: usize, blocks: Blocks, draw: &mut Draw) -> Option<Vec<u8>> {
    let row_bytes = dtype.row_bytes(k)?;
    let mut out = vec![0u8; row_bytes * rows];
    let scale = |draw: &mut Draw, usual: f32| -> [u8; 2] {
        let bits = draw.u32();
        let d = match blocks {
            Blocks::Usual => f16::from_f32(usual * (0.25 + 1.5 * ((bits >> 8) as f32 / (1 << 24) as f32))).to_bits(),
            Blocks::Subnormal => 1 + (bits % 0x3ff) as u16,
            Blocks::Large => 0x7400 + (bits % 0x7ff) as u16,
        };
        // A block of zeros has a scale of 0, whatever its codes. Few are: a row of nothing else takes from the outputs'
        // size, in which errors are measured.
        let d = if bits & 0x30f == 0 { 0 } else { d };
        // Negative scales are valid and rare.
        (d | if bits & 0xf0 == 0 { 0x8000 } else { 0 }).to_le_bytes()
    };
    match dtype {
        DType::F32 => {
            let mut v = vec![0.0f32; k * rows];
            draw.fill_noise(&mut v);
            let factor = match blocks {
                Blocks::Usual => 1.0,
                Blocks::Subnormal => 1e-6,
                Blocks::Large => 3e3,
            };
            v.iter_mut().for_each(|v| *v *= factor);
            out.copy_from_slice(bytemuck::cast_slice(&v));
        }
        DType::F16 => {
            let mut v = vec![0.0f32; k * rows];
            draw.fill_noise(&mut v);
            let factor = match blocks {
                Blocks::Usual => 0.05,
                Blocks::Subnormal => 1e-5,
                Blocks::Large => 1e4,
            };
            for (b, v) in out.chunks_exact_mut(2).zip(v) {
                b.copy_from_slice(&f16::from_f32(v * factor).to_le_bytes());
            }
        }
        DType::I32 => draw.bytes(&mut out),
        _ => {
            draw.bytes(&mut out);
            // Where a block keeps its f16 scales, and a size that gives values around 0.05.
            let (at, usual): (&[usize], f32) = match dtype {
                DType::Q8_0 => (&[0], 7e-4),
                DType::Q2_K => (&[80, 82], 4e-3),
                DType::Q4_K => (&[0, 2], 2e-4),
                DType::IQ2_XXS => (&[0], 1e-3),
                _ => return None,
            };
            for block in out.chunks_exact_mut(dtype.block_bytes()) {
                for i in at {
                    block[*i..i + 2].copy_from_slice(&scale(draw, usual));
                }
            }
        }
    }
    Some(out)
}
