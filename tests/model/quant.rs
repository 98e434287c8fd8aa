//! Block formats against docs/model.md §2.4, written once more from the page: element by element, in f64.

use assay::model::quant::{GGML_TYPES, IQ2XXS_GRID, ggml_type};
use assay::model::synth::{self, Shape, Spec, TypeRule};
use assay::model::{DType, Role};
use half::f16;
use proptest::prelude::*;

fn half(b: &[u8], at: usize) -> f64 {
    f64::from(f16::from_le_bytes([b[at], b[at + 1]]))
}

/// Element `e` of one block: its value is the difference of these two.
fn terms(dtype: DType, b: &[u8], e: usize) -> (f64, f64) {
    let nibble = |x: u8, high: bool| f64::from(if high { x >> 4 } else { x & 15 });
    match dtype {
        DType::Q8_0 => (half(b, 0) * f64::from(b[2 + e] as i8), 0.0),
        DType::Q2_K => {
            let sc = b[e / 16];
            let (n, j, l) = (e / 128, e % 128 / 32, e % 32);
            let q = b[16 + 32 * n + l] >> (2 * j) & 3;
            (half(b, 80) * nibble(sc, false) * f64::from(q), half(b, 82) * nibble(sc, true))
        }
        DType::Q4_K => {
            let (s, j) = (&b[4..16], e / 32);
            let (sc, m) = match j {
                0..4 => (s[j] & 63, s[j + 4] & 63),
                _ => (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4),
            };
            let q = nibble(b[16 + 32 * (e / 64) + e % 32], e % 64 >= 32);
            (half(b, 0) * f64::from(sc) * q, half(b, 2) * f64::from(m))
        }
        DType::IQ2_XXS => {
            let group = u64::from_le_bytes(b[2 + 8 * (e / 32)..][..8].try_into().unwrap());
            let (i, k) = (e % 32 / 8, e % 8);
            let grid = IQ2XXS_GRID[(group >> (8 * i) & 255) as usize] >> (8 * k) & 255;
            let index = group >> (32 + 7 * i) & 127;
            let sign = if k < 7 { index >> k & 1 } else { u64::from(index.count_ones()) & 1 };
            let magnitude = half(b, 0) * (0.5 + (group >> 60) as f64) * 0.25 * grid as f64;
            (if sign == 1 { -magnitude } else { magnitude }, 0.0)
        }
        other => panic!("{other} has no blocks here"),
    }
}

const BLOCKS: [DType; 4] = [DType::Q8_0, DType::Q2_K, DType::Q4_K, DType::IQ2_XXS];

proptest! {
    #[test]
    fn random_blocks(which in 0usize..4, bytes in prop::collection::vec(any::<u8>(), 2 * 144)) {
        let dtype = BLOCKS[which];
        let (size, elems) = (dtype.block_bytes(), dtype.block_elems());
        let mut out = vec![0.0; 2 * elems];
        dtype.dequantise(&bytes[..2 * size], &mut out);
        for (i, &got) in out.iter().enumerate() {
            let (plus, minus) = terms(dtype, &bytes[i / elems * size..][..size], i % elems);
            let expected = plus - minus;
            match expected.is_finite() {
                // Three roundings in f32 of terms that may cancel.
                true => prop_assert!(
                    (f64::from(got) - expected).abs() <= 4e-7 * (plus.abs() + minus.abs()),
                    "{dtype} {i}: {got} for {expected}"
                ),
                false => prop_assert!(!got.is_finite()),
            }
        }
    }

    #[test]
    fn q8_0_round_trip(values in prop::collection::vec(-100.0f32..100.0, 32)) {
        let top = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        let d = f16::from_f32(top / 127.0);
        let mut block = d.to_le_bytes().to_vec();
        block.extend(values.iter().map(|v| (v / d.to_f32()).round().clamp(-127.0, 127.0) as i8 as u8));
        let mut out = vec![0.0; 32];
        DType::Q8_0.dequantise(&block, &mut out);
        for (got, v) in out.iter().zip(&values) {
            // Half a step, and a step where rounding d down pushed the largest one out of range.
            prop_assert!((got - v).abs() <= 0.57 * d.to_f32() + top * 1e-3, "{got} for {v}");
        }
    }
}

/// Blocks worked out by hand.
#[test]
fn known_answers() {
    let one = f16::ONE.to_le_bytes();
    let mut q8 = one.to_vec();
    q8.extend((0..32u8).map(|i| i.wrapping_sub(16)));
    let mut out = vec![0.0; 32];
    DType::Q8_0.dequantise(&q8, &mut out);
    assert_eq!((out[0], out[16], out[31]), (-16.0, 0.0, 15.0));

    // Scale 3 and min 2 in sub-block 9 (elements 144 to 159): d·3·q − dmin·2 with q = 0, 1, 2, 3 in turn.
    let mut q2 = vec![0u8; 84];
    q2[9] = 0x23;
    (0..16).for_each(|l| q2[16 + 32 + 16 + l] = (l % 4) as u8);
    q2[80..82].copy_from_slice(&one);
    q2[82..84].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
    let mut out = vec![0.0; 256];
    DType::Q2_K.dequantise(&q2, &mut out);
    assert_eq!(out[144..152], [-1.0, 2.0, 5.0, 8.0, -1.0, 2.0, 5.0, 8.0]);
    assert!(out[..144].iter().chain(&out[160..]).all(|v| *v == 0.0));

    // Sub-block 5 with scale 0b110101 = 53 and min 0b010010 = 18, split over bytes 9, 1 and 5.
    let mut q4 = vec![0u8; 144];
    q4[..2].copy_from_slice(&one);
    q4[2..4].copy_from_slice(&one);
    q4[4 + 9] = 0x25;
    q4[4 + 1] = 0b1100_0000;
    q4[4 + 5] = 0b0100_0000;
    (0..32).for_each(|l| q4[16 + 64 + l] = 0x70);
    DType::Q4_K.dequantise(&q4, &mut out);
    assert!(out[160..192].iter().all(|v| *v == 53.0 * 7.0 - 18.0), "{:?}", &out[160..164]);
    assert!(out[..160].iter().chain(&out[192..]).all(|v| *v == 0.0));

    // Grid entry 1 (8, 8, 8, 8, 8, 8, 8, 43 from the high byte down), signs of index 0b0000001: elements 0 and 7.
    let mut iq2 = vec![0u8; 66];
    iq2[..2].copy_from_slice(&one);
    iq2[2] = 1;
    iq2[6..10].copy_from_slice(&(1u32 | 3 << 28).to_le_bytes());
    DType::IQ2_XXS.dequantise(&iq2, &mut out);
    let unit = 3.5 * 0.25;
    assert_eq!(
        out[..8],
        [-43.0 * unit, 8.0 * unit, 8.0 * unit, 8.0 * unit, 8.0 * unit, 8.0 * unit, 8.0 * unit, -8.0 * unit]
    );
    assert_eq!(out[8..16], [8.0 * unit; 8]);
    assert_eq!(out[32..40], [1.0; 8]);
}

/// Whole tensors of a synthetic file, to the bit as gguf-py 0.19.0 dequantises them: SHA-256 of the f32 values that its
/// `gguf.quants.dequantize` gave for the file `assay synth q.gguf --shape small --type 'ffn_*_exps@3=q4_k'`.
#[test]
fn agrees_with_gguf_py_to_the_bit() {
    use sha2::{Digest, Sha256};
    let rule = TypeRule { pattern: "ffn_*_exps".into(), layers: Some((3, 3)), dtype: DType::Q4_K };
    let model = synth::model(&Spec { types: vec![rule], ..Spec::new(Shape::small()) }).unwrap();
    let digests = [
        (Role::Output, 0, DType::Q8_0, "74fbba2ab5f3cff96f254316d2b211ae0b440a4293d4306df9ca4bbb6f4b386c"),
        (Role::FfnDownExps, 0, DType::Q2_K, "00d9278db09c0602d114f85b4a7df815b95a147b3752065be3091cea8f14112d"),
        (Role::FfnDownExps, 3, DType::Q4_K, "406bbfba202ee4c7d3f3140725cf0ccbc54544a3339c2a25e5fd14e01dbcda75"),
        (Role::FfnGateExps, 0, DType::IQ2_XXS, "03e0d0445c2f9f88db1500a2fdf7ac16e9408a4c36959370bfa3907041b5c78f"),
    ];
    for (role, layer, dtype, digest) in digests {
        let tensor = model.tensor(&role.tensor_name(layer)).unwrap();
        assert_eq!(tensor.dtype, dtype);
        let bytes: Vec<u8> = tensor.to_f32().into_iter().flat_map(f32::to_le_bytes).collect();
        let got: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(got, digest, "{dtype}");
    }
}

/// All 256 entries are of {8, 25, 43}, no two alike; their order is held by the digests above.
#[test]
fn the_grid() {
    let mut entries = IQ2XXS_GRID.to_vec();
    assert!(entries.iter().all(|e| e.to_le_bytes().iter().all(|b| [8, 25, 43].contains(b))));
    entries.sort_unstable();
    entries.dedup();
    assert_eq!(entries.len(), 256);
}

/// Block geometry of every type agrees with an independent reader's table.
#[test]
fn the_type_table() {
    use gguf_rs_lib::format::types::GGUFTensorType;
    for id in 0..64 {
        match (ggml_type(id), GGUFTensorType::from_u32(id)) {
            (Some(ours), Ok(theirs)) => {
                assert_eq!(
                    (ours.block_elems, Some(ours.block_bytes)),
                    (theirs.block_size(), theirs.block_size_bytes()),
                    "{}",
                    ours.name
                );
            }
            (None, Err(_)) => {}
            (ours, theirs) => panic!("type {id}: {ours:?}, {theirs:?}"),
        }
    }
    assert!(GGML_TYPES.len() > 30);
}
