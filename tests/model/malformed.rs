//! Every class of malformed file: the code, what the message names, and how fast it comes.

use std::path::Path;
use std::time::{Duration, Instant};

use assay::error::Kind;
use assay::model::Gguf;
use assay::model::gguf::Array;

use crate::builder::*;

fn open(bytes: Vec<u8>) -> assay::Result<Gguf> {
    Gguf::from_bytes(Path::new("bad.gguf"), bytes)
}

/// Opens bytes that must be refused with `code`, in milliseconds, with all of `parts` in the message.
#[track_caller]
fn refused(bytes: Vec<u8>, code: &str, parts: &[&str]) {
    let size = format!("file size {}", bytes.len());
    let start = Instant::now();
    let error = open(bytes).expect_err("a malformed file was accepted");
    let took = start.elapsed();
    let text = error.to_string();
    assert_eq!(error.code().id, code, "{text}");
    assert_eq!(error.kind(), Kind::CouldNotRun);
    for part in parts.iter().copied().chain([size.as_str(), "bad.gguf"]) {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    // It takes microseconds; the rest is room for a busy machine.
    assert!(took < Duration::from_millis(250), "took {took:?}");
}

#[test]
fn the_builder_writes_a_valid_file() {
    for version in [2, 3] {
        let gguf = open(File { version, ..File::valid() }.bytes()).unwrap();
        assert_eq!((gguf.version(), gguf.tensors().len(), gguf.kv().len()), (version, 2, 2));
        assert_eq!(gguf.bytes(gguf.tensor("b.weight").unwrap()).len(), 64);
        assert_eq!(gguf.get("test.numbers").and_then(|v| v.as_array()), Some(&Array::U32(vec![1, 2, 3])));
    }
}

#[test]
fn truncated_anywhere() {
    let whole = File::valid().bytes();
    for len in 0..whole.len() {
        let error = open(whole[..len].to_vec()).expect_err("a truncated file was accepted");
        assert!(["gguf-truncated", "gguf-count"].contains(&error.code().id), "{len} bytes: {error}");
        assert!(error.to_string().contains(&format!("file size {len}")), "{error}");
    }
    refused(whole[..whole.len() - 1].to_vec(), "gguf-truncated", &["`b.weight`", "64 bytes within", "1 too many"]);
    refused(whole[..30].to_vec(), "gguf-count", &["more tensors", "6 bytes left"]);
}

#[test]
fn magic_and_version() {
    refused(File { magic: *b"GGML", ..File::valid() }.bytes(), "gguf-magic", &["47 47 4d 4c"]);
    refused(b"<!DOCTYPE html><html>".to_vec(), "gguf-magic", &["3c 21 44 4f"]);
    for version in [0, 1, 4, u32::MAX] {
        refused(File { version, ..File::valid() }.bytes(), "gguf-magic", &[]);
    }
    refused(File { version: 3u32.swap_bytes(), ..File::valid() }.bytes(), "gguf-magic", &["big-endian"]);
}

#[test]
fn counts_that_the_file_cannot_hold() {
    for n in [100, 1 << 32, 1 << 60, u64::MAX] {
        let found = format!("found:    {n}");
        refused(File { tensor_count: Some(n), ..File::valid() }.bytes(), "gguf-count", &["tensors", &found]);
        refused(File { kv_count: Some(n), ..File::valid() }.bytes(), "gguf-count", &["metadata entries", &found]);
        // A hundred bytes are there, a hundred numbers of eight bytes are not.
        for element in (0..=12).filter(|e| n > 100 || *e >= STRING) {
            let file = File::valid().with_kv("k.array", ARRAY, array(element, n, &[]));
            refused(file.bytes(), "gguf-count", &["`k.array`", &found]);
        }
    }
}

#[test]
fn lengths_that_the_file_cannot_hold() {
    for n in [10_000, 1 << 60, u64::MAX] {
        let found = format!("{n} bytes");
        let file = File::valid().with_kv("k.string", STRING, n.to_le_bytes().to_vec());
        refused(file.bytes(), "gguf-truncated", &["`k.string`", &found]);
        let strings = array(STRING, 2, &[string("a"), n.to_le_bytes().to_vec()].concat());
        refused(File::valid().with_kv("k.strings", ARRAY, strings).bytes(), "gguf-truncated", &["`k.strings`", &found]);
        // The length of the first key.
        let mut bytes = File::valid().bytes();
        bytes[24..32].copy_from_slice(&n.to_le_bytes());
        refused(bytes, "gguf-truncated", &["metadata entry 0", "the key", &found]);
    }
    refused(File::valid().with_kv(vec![b'k'; 70_000], BOOL, vec![1]).bytes(), "gguf-key", &["70000 bytes"]);
}

#[test]
fn arrays_of_unknown_type_or_too_deep() {
    for element in [13, 255, u32::MAX] {
        let file = File::valid().with_kv("k.array", ARRAY, array(element, 1, &[0; 8]));
        refused(
            file.bytes(),
            "gguf-value",
            &["unknown array element type", "`k.array`", &format!("found:    {element}")],
        );
        let file = File::valid().with_kv("k.value", element, vec![0; 8]);
        refused(file.bytes(), "gguf-value", &["unknown value type", "`k.value`"]);
    }
    let nested = |levels: usize| {
        let mut value: Vec<u8> = (1..levels).flat_map(|_| array(ARRAY, 1, &[])).collect();
        value.extend(array(U32, 1, &[7, 0, 0, 0]));
        File::valid().with_kv("k.nested", ARRAY, value).bytes()
    };
    assert!(open(nested(3)).is_ok());
    refused(nested(100_000), "gguf-value", &["`k.nested`", "nested too deep"]);
}

#[test]
fn alignment() {
    for n in [0u32, 1, 4, 13, 24, 33] {
        let file = File::valid().with_kv("general.alignment", U32, n.to_le_bytes().to_vec());
        refused(file.bytes(), "gguf-alignment", &["general.alignment", "power of two", &n.to_string()]);
    }
    refused(
        File::valid().with_kv("general.alignment", 10, 32u64.to_le_bytes().to_vec()).bytes(),
        "gguf-alignment",
        &["u64"],
    );
    refused(File::valid().with_kv("general.alignment", STRING, string("32")).bytes(), "gguf-alignment", &["string"]);
    let huge = File::valid().with_kv("general.alignment", U32, (1u32 << 31).to_le_bytes().to_vec());
    refused(huge.bytes(), "gguf-offset", &["`b.weight`", "unaligned"]);
    let finer = File { alignment: 8, ..File::valid() }.with_kv("general.alignment", U32, 8u32.to_le_bytes().to_vec());
    assert_eq!(open(finer.bytes()).unwrap().alignment(), 8);
}

#[test]
fn keys() {
    refused(
        File::valid().with_kv("test.numbers", BOOL, vec![1]).bytes(),
        "gguf-key",
        &["duplicate key", "test.numbers"],
    );
    refused(File::valid().with_kv("", BOOL, vec![1]).bytes(), "gguf-key", &["empty key", "metadata entry 2"]);
    refused(File::valid().with_kv(b"k\xff\xfe".to_vec(), BOOL, vec![1]).bytes(), "gguf-key", &["not UTF-8", "0xff"]);
    refused(File::valid().with_kv("k.text", STRING, text(b"ab\xc3")).bytes(), "gguf-value", &["`k.text`", "not UTF-8"]);
}

#[test]
fn bools() {
    refused(File::valid().with_kv("k.bool", BOOL, vec![7]).bytes(), "gguf-value", &["`k.bool`", "found:    7"]);
    let file = File::valid().with_kv("k.bools", ARRAY, array(BOOL, 3, &[0, 1, 7]));
    refused(file.bytes(), "gguf-value", &["`k.bools`", "found:    7"]);
}

#[test]
fn dims() {
    let with = |dims: &[u64]| File::valid().with_tensor(|t| t.dims = dims.to_vec()).bytes();
    refused(with(&[8, 0]), "gguf-tensor", &["`b.weight`", "a dimension of 0", "[8, 0]"]);
    refused(with(&[]), "gguf-tensor", &["`b.weight`", "number of dimensions"]);
    refused(with(&[1; 5]), "gguf-tensor", &["`b.weight`", "number of dimensions"]);
    // 2^64 elements wrap to 0; 2^62 + 16 floats wrap to 64 bytes.
    refused(with(&[1 << 32, 1 << 32]), "gguf-tensor", &["`b.weight`", "overflows"]);
    refused(with(&[(1 << 62) + 16]), "gguf-tensor", &["`b.weight`", "overflows"]);
    refused(with(&[u64::MAX, u64::MAX, u64::MAX, u64::MAX]), "gguf-tensor", &["overflows"]);
    refused(with(&[1 << 40]), "gguf-truncated", &["`b.weight`"]);
    let many = File::valid().with_tensor(|t| t.dims = vec![1; 4]);
    let mut bytes = many.bytes();
    // The dimension count itself, as a lie of 2^32 − 1.
    let at = bytes.windows(8).rposition(|w| w == b"b.weight").unwrap() + 8;
    bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    refused(bytes, "gguf-tensor", &["4294967295"]);
}

#[test]
fn types_and_rows() {
    for id in [4, 5, 31, 38, 43, 1000, u32::MAX] {
        let file = File::valid().with_tensor(|t| t.ggml_type = id);
        refused(file.bytes(), "gguf-tensor", &["`b.weight`", "unknown tensor type", &id.to_string()]);
    }
    for (id, name, block) in [(8, "q8_0", 32), (10, "q2_k", 256), (12, "q4_k", 256), (16, "iq2_xxs", 256)] {
        for width in [block - 1, block + 16] {
            let file = File::valid().with_tensor(|t| (t.ggml_type, t.dims) = (id, vec![width, 1]));
            refused(file.bytes(), "gguf-tensor", &["`b.weight`", "no multiple of its block", name]);
        }
    }
}

#[test]
fn names() {
    refused(
        File::valid().with_tensor(|t| t.name = b"a.weight".to_vec()).bytes(),
        "gguf-tensor",
        &["duplicate", "`a.weight`"],
    );
    refused(File::valid().with_tensor(|t| t.name = vec![]).bytes(), "gguf-tensor", &["tensor name", "tensor 1 of 2"]);
    refused(File::valid().with_tensor(|t| t.name = vec![b'x'; 65]).bytes(), "gguf-tensor", &["tensor name"]);
    refused(File::valid().with_tensor(|t| t.name = b"b\xff".to_vec()).bytes(), "gguf-tensor", &["not UTF-8"]);
}

#[test]
fn offsets() {
    let with = |offset| File::valid().with_tensor(|t| t.offset = offset).bytes();
    refused(with(65), "gguf-offset", &["`b.weight`", "unaligned", "found:    65"]);
    refused(with(96), "gguf-truncated", &["`b.weight`", "+ 96", "32 too many"]);
    refused(with(1 << 40), "gguf-truncated", &["`b.weight`"]);
    // Wraps past 2^64 back into the file.
    refused(with(u64::MAX - 31), "gguf-offset", &["`b.weight`", "2^64"]);
}

#[test]
fn overlaps_and_aliases() {
    let with = |offset, dims: Vec<u64>| File::valid().with_tensor(|t| (t.offset, t.dims) = (offset, dims)).bytes();
    refused(with(32, vec![8, 2]), "gguf-overlap", &["`a.weight`", "`b.weight`"]);
    refused(with(0, vec![8]), "gguf-overlap", &["`a.weight`", "`b.weight`"]);
    refused(with(0, vec![8, 4]), "gguf-overlap", &["`a.weight`", "`b.weight`"]);
    let alias = open(with(0, vec![8, 2])).unwrap();
    assert_eq!(alias.aliases(), [vec![0, 1]]);
    // A long tensor over several short ones.
    let mut file = File::valid();
    file.tensors.insert(0, Tensor { name: b"long".to_vec(), dims: vec![32], ggml_type: 0, offset: 0 });
    refused(file.bytes(), "gguf-overlap", &["`long`"]);
}

#[test]
fn an_empty_file_a_folder_and_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.gguf");
    std::fs::write(&empty, b"").unwrap();
    assert_eq!(Gguf::open(&empty).unwrap_err().code().id, "gguf-truncated");
    assert_eq!(Gguf::open(dir.path()).unwrap_err().code().id, "gguf-magic");
    assert_eq!(Gguf::open(&dir.path().join("none.gguf")).unwrap_err().code().id, "io");
}

/// The holes of a sparse file are bytes that a count may claim: 100 GB of them must not become strings or a vector.
#[test]
fn a_sparse_file_exhausts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse.gguf");
    for element in [0, 10, STRING, ARRAY] {
        let mut bytes = File { tensor_count: Some(0), tensors: vec![], ..File::valid() }
            .with_kv("k.array", ARRAY, array(element, 10_000_000_000, &[]))
            .bytes();
        bytes.truncate(bytes.len() - 128);
        std::fs::write(&path, &bytes).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100_000_000_000).unwrap();
        let start = Instant::now();
        let error = Gguf::open(&path).unwrap_err();
        assert_eq!(error.code().id, "gguf-count", "{error}");
        assert!(start.elapsed() < Duration::from_millis(250));
    }
}
