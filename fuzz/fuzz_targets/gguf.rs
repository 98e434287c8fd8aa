//! Any bytes as a model file: an error or a model, never a panic, and what is accepted lies inside the file.
//!
//! A good start is the header of a small model: `assay synth fuzz/corpus/gguf/small --shape small`.

#![no_main]

use std::path::Path;

use assay::model::census::Census;
use assay::model::{Gguf, Survey, Tokenizer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes(Path::new("fuzz"), bytes.to_vec()) else { return };
    for tensor in gguf.tensors() {
        assert_eq!(gguf.bytes(tensor).len() as u64, tensor.len);
        assert!(tensor.offset.checked_add(tensor.len).is_some_and(|end| end <= gguf.file_len()));
    }
    Census::of(&gguf);
    if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
        tokenizer.notes();
        if let Ok(ids) = tokenizer.encode("def f(x):\n    return 12345  # naïve 漢字 <think>") {
            tokenizer.decode(&ids);
        }
    }
    if let Ok(survey) = Survey::of(gguf)
        && let Ok(model) = survey.into_model()
    {
        for tensor in model.gguf.tensors() {
            model.tensor(&tensor.name);
        }
    }
});
