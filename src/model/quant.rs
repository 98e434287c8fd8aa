//! The one table of block formats: what a type id means, how many bytes a row takes, and which value each element has.
//!
//! A *block* is the smallest unit of a format: `block_elems` consecutive elements of a row, stored in `block_bytes`
//! bytes, little-endian. Rows (dim 0) always hold whole blocks. The value definitions are those of docs/model.md §2.4;
//! `kernels/quant/<type>.cuh` holds the device twin of each.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

pub use super::grid::IQ2XXS_GRID;

/// The element formats that assay computes with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(non_camel_case_types)] // ggml's spelling; a reader greps for it
pub enum DType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q2_K,
    Q4_K,
    /// Activations only: what routed experts multiply with. No weight of a model file has it.
    Q8_K,
    IQ2_XXS,
    I32,
}

/// One row of ggml's type table: enough to bound a tensor's bytes, also for types that assay does not compute with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgmlType {
    pub id: u32,
    pub name: &'static str,
    pub block_elems: usize,
    pub block_bytes: usize,
    /// The format, where assay can compute with it.
    pub dtype: Option<DType>,
}

const fn row(id: u32, name: &'static str, block_elems: usize, block_bytes: usize, dtype: Option<DType>) -> GgmlType {
    GgmlType { id, name, block_elems, block_bytes, dtype }
}

/// ggml's types in id order. Ids that are missing were retired (4, 5, 31–33, 36–38) or do not exist.
pub static GGML_TYPES: &[GgmlType] = &[
    row(0, "f32", 1, 4, Some(DType::F32)),
    row(1, "f16", 1, 2, Some(DType::F16)),
    row(2, "q4_0", 32, 18, None),
    row(3, "q4_1", 32, 20, None),
    row(6, "q5_0", 32, 22, None),
    row(7, "q5_1", 32, 24, None),
    row(8, "q8_0", 32, 34, Some(DType::Q8_0)),
    row(9, "q8_1", 32, 36, None),
    row(10, "q2_k", 256, 84, Some(DType::Q2_K)),
    row(11, "q3_k", 256, 110, None),
    row(12, "q4_k", 256, 144, Some(DType::Q4_K)),
    row(13, "q5_k", 256, 176, None),
    row(14, "q6_k", 256, 210, None),
    row(15, "q8_k", 256, 292, Some(DType::Q8_K)),
    row(16, "iq2_xxs", 256, 66, Some(DType::IQ2_XXS)),
    row(17, "iq2_xs", 256, 74, None),
    row(18, "iq3_xxs", 256, 98, None),
    row(19, "iq1_s", 256, 50, None),
    row(20, "iq4_nl", 32, 18, None),
    row(21, "iq3_s", 256, 110, None),
    row(22, "iq2_s", 256, 82, None),
    row(23, "iq4_xs", 256, 136, None),
    row(24, "i8", 1, 1, None),
    row(25, "i16", 1, 2, None),
    row(26, "i32", 1, 4, Some(DType::I32)),
    row(27, "i64", 1, 8, None),
    row(28, "f64", 1, 8, None),
    row(29, "iq1_m", 256, 56, None),
    row(30, "bf16", 1, 2, Some(DType::BF16)),
    row(34, "tq1_0", 256, 54, None),
    row(35, "tq2_0", 256, 66, None),
    row(39, "mxfp4", 32, 17, None),
    row(40, "nvfp4", 64, 36, None),
    row(41, "q1_0", 128, 18, None),
    row(42, "q2_0", 64, 18, None),
];

/// The row of ggml's table for `id`; `None` for an id that ggml does not define.
pub fn ggml_type(id: u32) -> Option<&'static GgmlType> {
    GGML_TYPES.binary_search_by_key(&id, |t| t.id).ok().map(|i| &GGML_TYPES[i])
}

impl DType {
    pub const ALL: [DType; 9] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q8_0,
        DType::Q2_K,
        DType::Q4_K,
        DType::Q8_K,
        DType::IQ2_XXS,
        DType::I32,
    ];

    /// The format with this ggml id; `None` where ggml has none or assay does not compute with it.
    pub fn from_ggml(id: u32) -> Option<DType> {
        ggml_type(id)?.dtype
    }

    pub fn ggml_id(self) -> u32 {
        match self {
            DType::F32 => 0,
            DType::F16 => 1,
            DType::Q8_0 => 8,
            DType::Q2_K => 10,
            DType::Q4_K => 12,
            DType::Q8_K => 15,
            DType::IQ2_XXS => 16,
            DType::I32 => 26,
            DType::BF16 => 30,
        }
    }

    /// Lower-case name as in node names and JSON: `iq2_xxs`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The inverse of [`DType::name`]; upper case is accepted too (`Q8_0`).
    pub fn parse(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// Elements per block: 1, 32 or 256.
    pub fn block_elems(self) -> usize {
        self.row().block_elems
    }

    pub fn block_bytes(self) -> usize {
        self.row().block_bytes
    }

    /// Bytes of a row of `k` elements; `None` where `k` is no multiple of the block (or the bytes overflow).
    pub fn row_bytes(self, k: usize) -> Option<usize> {
        let row = self.row();
        if !k.is_multiple_of(row.block_elems) {
            return None;
        }
        (k / row.block_elems).checked_mul(row.block_bytes)
    }

    /// Whether elements carry their own value (no shared scale).
    pub fn is_plain(self) -> bool {
        self.block_elems() == 1
    }

    fn row(self) -> &'static GgmlType {
        // Every variant has its row (test `every_dtype_has_its_row`), so the fallback is never taken.
        ggml_type(self.ggml_id()).unwrap_or(&GGML_TYPES[0])
    }

    /// Writes the f32 values of whole blocks: `bytes` holds n blocks, `out` takes n · `block_elems` values.
    ///
    /// Value definitions: docs/model.md §2.4, evaluated in f32 in the order that gguf-py uses, so that both agree to
    /// the bit. I32 values beyond 2^24 round. Panics if the lengths do not match (a caller's bug, not a file's: the
    /// reader has bounded every tensor).
    pub fn dequantise(self, bytes: &[u8], out: &mut [f32]) {
        let (elems, size) = (self.block_elems(), self.block_bytes());
        assert_eq!(bytes.len() % size, 0, "{} bytes are no whole {} blocks", bytes.len(), self.name());
        assert_eq!(bytes.len() / size * elems, out.len(), "{} blocks for {} values", bytes.len() / size, out.len());
        let block: fn(&[u8], &mut [f32]) = match self {
            DType::F32 => |b, o| o[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            DType::F16 => |b, o| o[0] = half_at(b, 0),
            DType::BF16 => |b, o| o[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            DType::I32 => |b, o| o[0] = i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f32,
            DType::Q8_0 => q8_0,
            DType::Q2_K => q2_k,
            DType::Q4_K => q4_k,
            DType::Q8_K => q8_k,
            DType::IQ2_XXS => iq2_xxs,
        };
        for (b, o) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(elems)) {
            block(b, o);
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// f16 d, i8 q\[32\]: d·q.
fn q8_0(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    for (o, &q) in out.iter_mut().zip(&b[2..]) {
        *o = d * (q as i8) as f32;
    }
}

/// u8 scales\[16\], u8 qs\[64\], f16 d, f16 dmin: d·(sc & 15)·q2 − dmin·(sc >> 4).
fn q2_k(b: &[u8], out: &mut [f32]) {
    let (scales, qs) = (&b[..16], &b[16..80]);
    let (d, dmin) = (half_at(b, 80), half_at(b, 82));
    for (e, o) in out.iter_mut().enumerate() {
        let (n, j, l) = (e / 128, e % 128 / 32, e % 32);
        let sc = scales[8 * n + 2 * j + l / 16];
        let q = qs[32 * n + l] >> (2 * j) & 3;
        *o = d * (sc & 15) as f32 * q as f32 - dmin * (sc >> 4) as f32;
    }
}

/// f16 d, f16 dmin, u8 scales\[12\], u8 qs\[128\]: d·sc·q4 − dmin·m.
fn q4_k(b: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    let (scales, qs) = (&b[4..16], &b[16..144]);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (sc, m) = q4_k_scale(scales, j);
        let (scale, min) = (d * sc as f32, dmin * m as f32);
        for (l, o) in out.iter_mut().enumerate() {
            let byte = qs[32 * (j / 2) + l];
            let q = if j % 2 == 0 { byte & 15 } else { byte >> 4 };
            *o = scale * q as f32 - min;
        }
    }
}

/// The 6-bit scale and 6-bit min of Q4_K's sub-block `j` in 0..8, from its 12 packed bytes.
pub fn q4_k_scale(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    }
}

/// f32 d, i8 q\[256\], i16 bsums\[16\] (redundant, for kernels): d·q.
fn q8_k(b: &[u8], out: &mut [f32]) {
    let d = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    for (o, &q) in out.iter_mut().zip(&b[4..260]) {
        *o = d * (q as i8) as f32;
    }
}

/// f16 d, then per 32 elements 4 grid indices and a u32 of four 7-bit sign indices and a 4-bit scale s:
/// d·(0.5 + s)·0.25·grid·sign.
fn iq2_xxs(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    for (group, out) in b[2..].chunks_exact(8).zip(out.chunks_exact_mut(32)) {
        let word = u32::from_le_bytes([group[4], group[5], group[6], group[7]]);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
        for (i, out) in out.chunks_exact_mut(8).enumerate() {
            let grid = IQ2XXS_GRID[group[i] as usize].to_le_bytes();
            let signs = iq2xxs_signs((word >> (7 * i)) as u8 & 127);
            for (l, o) in out.iter_mut().enumerate() {
                let value = scale * grid[l] as f32;
                *o = if signs >> l & 1 == 1 { -value } else { value };
            }
        }
    }
}

/// The sign byte of a 7-bit sign index: the index itself plus an eighth bit that makes the parity even.
/// Bit i belongs to element i of its group of 8; 1 is negative.
pub fn iq2xxs_signs(index: u8) -> u8 {
    let index = index & 127;
    index | (index.count_ones() as u8 & 1) << 7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_has_its_row() {
        for t in DType::ALL {
            assert_eq!(t.row().dtype, Some(t));
            assert_eq!(DType::from_ggml(t.ggml_id()), Some(t));
            assert_eq!(DType::parse(t.name()), Some(t));
            assert_eq!(serde_json::to_value(t).ok(), Some(t.name().into()));
        }
        assert!(GGML_TYPES.is_sorted_by_key(|t| t.id));
        assert_eq!(GGML_TYPES.iter().filter(|t| t.dtype.is_some()).count(), DType::ALL.len());
    }

    #[test]
    fn row_bytes_of_flash() {
        // The row sizes that docs/model.md §2.4 lists.
        assert_eq!(DType::IQ2_XXS.row_bytes(4096), Some(1056));
        assert_eq!(DType::Q2_K.row_bytes(2048), Some(672));
        assert_eq!(DType::Q4_K.row_bytes(4096), Some(2304));
        assert_eq!(DType::Q8_0.row_bytes(8192), Some(8704));
        assert_eq!(DType::Q8_0.row_bytes(48), None);
    }

    #[test]
    fn sign_bytes_have_even_parity() {
        for index in 0..128 {
            let byte = iq2xxs_signs(index);
            assert_eq!(byte & 127, index);
            assert_eq!(byte.count_ones() % 2, 0);
        }
    }
}
