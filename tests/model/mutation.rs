//! Random damage: whatever happens to the bytes, the reader answers with an error or a model, and never panics.

use std::path::Path;

use assay::model::census::Census;
use assay::model::synth::{self, Shape, Spec};
use assay::model::{Gguf, Survey, Tokenizer};
use proptest::prelude::*;

/// A whole small model; its header is about 20 kB.
fn model_bytes() -> &'static [u8] {
    static BYTES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    BYTES.get_or_init(|| synth::to_bytes(&Spec::new(Shape::small())).unwrap())
}

fn header_len() -> usize {
    Gguf::parse(model_bytes()).unwrap().data_start as usize
}

/// Everything that reads a file; returns whether it is a model that fits.
fn exercise(bytes: Vec<u8>) -> bool {
    let Ok(gguf) = Gguf::from_bytes(Path::new("mutant"), bytes) else { return false };
    for t in gguf.tensors() {
        assert_eq!(gguf.bytes(t).len() as u64, t.len);
        assert!(t.offset + t.len <= gguf.file_len());
    }
    if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
        let ids = tokenizer.encode("def f(x):\n    return x + 1  # naïve 漢字 <think>").unwrap_or_default();
        tokenizer.decode(&ids);
    }
    Census::of(&gguf);
    match Survey::of(gguf) {
        Ok(survey) => survey.into_model().is_ok(),
        Err(_) => false,
    }
}

#[test]
fn the_model_itself_fits() {
    assert!(exercise(model_bytes().to_vec()));
}

#[test]
fn every_truncation_of_the_header_is_refused() {
    for len in 0..header_len() {
        assert!(Gguf::parse(&model_bytes()[..len]).is_err(), "{len} bytes were accepted");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn bytes_of_the_header_are_changed(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = model_bytes().to_vec();
        for (at, value) in edits {
            bytes[at.index(header_len())] = value;
        }
        exercise(bytes);
    }

    #[test]
    fn a_word_of_the_header_is_extreme(
        at in any::<prop::sample::Index>(),
        word in prop::sample::select(vec![0u64, 1, 7, 1 << 31, 1 << 32, 1 << 60, 1 << 63, u64::MAX - 31, u64::MAX]),
        len in prop::sample::select(vec![4usize, 8]),
    ) {
        let mut bytes = model_bytes().to_vec();
        let at = at.index(header_len() - 8);
        bytes[at..at + len].copy_from_slice(&word.to_le_bytes()[..len]);
        exercise(bytes);
    }

    #[test]
    fn a_piece_is_cut_out_or_doubled(from in any::<prop::sample::Index>(), len in 1usize..200, double in any::<bool>()) {
        let whole = model_bytes();
        let from = from.index(header_len());
        let piece = &whole[from..from + len];
        let bytes = match double {
            true => [&whole[..from], piece, &whole[from..]].concat(),
            false => [&whole[..from], &whole[from + len..]].concat(),
        };
        exercise(bytes);
    }

    #[test]
    fn truncated_in_the_data(at in any::<prop::sample::Index>()) {
        let whole = model_bytes();
        let len = header_len() + at.index(whole.len() - header_len() - 32);
        prop_assert!(!exercise(whole[..len].to_vec()));
    }

    #[test]
    fn bytes_after_the_magic_are_random(tail in prop::collection::vec(any::<u8>(), 0..400), version in 2u32..=3) {
        exercise([b"GGUF".as_slice(), &version.to_le_bytes(), &tail].concat());
    }

    #[test]
    fn odd_vocabularies(
        tokens in prop::collection::vec("\\PC{0,6}", 0..40),
        merges in prop::collection::vec("\\PC{0,4} ?\\PC{0,4}", 0..40),
        text in "\\PC{0,40}",
    ) {
        let tokenizer = Tokenizer::new(&tokens, &merges).unwrap();
        if let Ok(ids) = tokenizer.encode(&text) {
            prop_assert!(ids.iter().all(|id| (*id as usize) < tokens.len()));
        }
        tokenizer.decode(&[0, 1, 39, u32::MAX]);
    }
}
