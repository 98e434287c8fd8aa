//! Against another reader: what we accept, gguf-rs-lib accepts too, and reads as the same keys and tensors.
//!
//! It refuses three things that we take: version 2, tensors that alias, and keys that are not lower_snake_case.

use std::io::Cursor;

use assay::model::Gguf;
use assay::model::gguf::write::{self, Entry};
use assay::model::gguf::{Array, Value};
use assay::model::synth::{self, Data, Shape, Spec};
use gguf_rs_lib::format::metadata::MetadataValue as Theirs;
use gguf_rs_lib::prelude::GGUFFileReader;
use proptest::prelude::*;

fn same_value(ours: &Value, theirs: &Theirs) -> bool {
    match (ours, theirs) {
        (Value::U8(a), Theirs::U8(b)) => a == b,
        (Value::I8(a), Theirs::I8(b)) => a == b,
        (Value::U16(a), Theirs::U16(b)) => a == b,
        (Value::I16(a), Theirs::I16(b)) => a == b,
        (Value::U32(a), Theirs::U32(b)) => a == b,
        (Value::I32(a), Theirs::I32(b)) => a == b,
        (Value::F32(a), Theirs::F32(b)) => a.to_bits() == b.to_bits(),
        (Value::Bool(a), Theirs::Bool(b)) => a == b,
        (Value::Str(a), Theirs::String(b)) => a == b,
        (Value::U64(a), Theirs::U64(b)) => a == b,
        (Value::I64(a), Theirs::I64(b)) => a == b,
        (Value::F64(a), Theirs::F64(b)) => a.to_bits() == b.to_bits(),
        (Value::Array(a), Theirs::Array(b)) => {
            let items = elements(a);
            items.len() == b.values.len() && items.iter().zip(&b.values).all(|(a, b)| same_value(a, b))
        }
        _ => false,
    }
}

fn elements(a: &Array) -> Vec<Value> {
    match a {
        Array::U8(v) => v.iter().map(|v| Value::U8(*v)).collect(),
        Array::I8(v) => v.iter().map(|v| Value::I8(*v)).collect(),
        Array::U16(v) => v.iter().map(|v| Value::U16(*v)).collect(),
        Array::I16(v) => v.iter().map(|v| Value::I16(*v)).collect(),
        Array::U32(v) => v.iter().map(|v| Value::U32(*v)).collect(),
        Array::I32(v) => v.iter().map(|v| Value::I32(*v)).collect(),
        Array::F32(v) => v.iter().map(|v| Value::F32(*v)).collect(),
        Array::Bool(v) => v.iter().map(|v| Value::Bool(*v)).collect(),
        Array::Str(v) => v.iter().map(|v| Value::Str(v.clone())).collect(),
        Array::Array(v) => v.iter().map(|v| Value::Array(v.clone())).collect(),
        Array::U64(v) => v.iter().map(|v| Value::U64(*v)).collect(),
        Array::I64(v) => v.iter().map(|v| Value::I64(*v)).collect(),
        Array::F64(v) => v.iter().map(|v| Value::F64(*v)).collect(),
    }
}

/// Reads with both; `None` where we refuse the file.
fn compare(bytes: &[u8]) -> Option<()> {
    let ours = Gguf::parse(bytes).ok()?;
    if !ours.aliases.is_empty() || ours.version != 3 {
        return None;
    }
    let snake = |key: &str| key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._".contains(&b));
    let theirs = match GGUFFileReader::new(Cursor::new(bytes)) {
        Ok(theirs) => theirs,
        Err(e) if ours.kv.iter().all(|(k, _)| snake(k)) && !e.to_string().contains("Metadata key") => {
            panic!("we accept what they refuse: {e}")
        }
        Err(_) => return None,
    };
    assert_eq!(ours.kv.len(), theirs.metadata().len());
    for (key, value) in &ours.kv {
        let other = theirs.metadata().get(key).unwrap_or_else(|| panic!("they lack {key}"));
        assert!(same_value(value, other), "{key}: {value} and {other:?}");
    }
    assert_eq!(ours.data_start, theirs.tensor_data_offset());
    assert_eq!(ours.tensors.len(), theirs.tensor_count());
    for (a, b) in ours.tensors.iter().zip(theirs.tensor_infos()) {
        assert_eq!(a.name, b.name());
        assert_eq!(a.dims, b.shape().dims());
        assert_eq!(a.offset, ours.data_start + b.data_offset());
        assert_eq!(a.type_name(), b.tensor_type().name().to_lowercase());
        assert_eq!(Some(a.len), b.tensor_type().checked_calculate_size(a.elements()));
    }
    Some(())
}

#[test]
fn whole_models() {
    for shape in [Shape::small(), Shape { ratios: vec![128, 4, 0, 0, 4], hash_layers: 0, ..Shape::small() }] {
        let spec = Spec { data: Data::Full, ..Spec::new(shape) };
        assert!(compare(&synth::to_bytes(&spec).unwrap()).is_some());
    }
    let bundled = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/tiny/model.gguf");
    assert!(compare(&std::fs::read(bundled).unwrap()).is_some());
}

fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        ".{0,12}".prop_map(Value::Str),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
    ];
    let array = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..9).prop_map(Array::U8),
        prop::collection::vec(any::<i16>(), 0..9).prop_map(Array::I16),
        prop::collection::vec(any::<f32>(), 0..9).prop_map(Array::F32),
        prop::collection::vec(any::<bool>(), 0..9).prop_map(Array::Bool),
        prop::collection::vec(".{0,6}", 0..9).prop_map(Array::Str),
        prop::collection::vec(any::<i64>(), 0..9).prop_map(Array::I64),
    ];
    let nested = prop::collection::vec(array.clone(), 0..4).prop_map(Array::Array);
    prop_oneof![3 => scalar, 2 => array.prop_map(Value::Array), 1 => nested.prop_map(Value::Array)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn generated_files(
        kv in prop::collection::btree_map("[a-z][a-z0-9]{0,6}(\\.[a-z0-9]{1,6}){0,2}", value(), 0..8),
        tensors in prop::collection::vec((prop::sample::select(vec![0u32, 1, 8, 10, 12, 16, 26, 30]), 1u64..4, 1u64..4), 0..6),
    ) {
        let kv: Vec<_> = kv.into_iter().collect();
        let mut end = 0u64;
        let entries: Vec<_> = tensors.into_iter().enumerate().map(|(i, (ggml_type, blocks, rows))| {
            let t = assay::model::quant::ggml_type(ggml_type).unwrap();
            let offset = end;
            end += (blocks * rows * t.block_bytes as u64).next_multiple_of(32);
            Entry { name: format!("t{i}"), dims: vec![blocks * t.block_elems as u64, rows], ggml_type, offset }
        }).collect();
        let mut bytes = write::header(3, &kv, &entries, 32);
        bytes.resize(bytes.len() + end as usize, 0);
        let header = Gguf::parse(&bytes).unwrap();
        prop_assert_eq!(format!("{:?}", header.kv), format!("{:?}", kv));
        prop_assert!(compare(&bytes).is_some());
    }

    #[test]
    fn damaged_files(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = crate::builder::File::valid().bytes();
        for (at, value) in edits {
            let at = at.index(bytes.len() - 128);
            bytes[at] = value;
        }
        compare(&bytes);
    }
}
