//! Agreement with logits that transformers computed in f32 (reference/tiny/golden).

use assay::engine::argmax;
use assay::plan::Numerics;
use serde_json::Value;

use crate::{bundled, every, last, relative, tiny};

/// Relative RMS of the logits that two correct engines in f32 may differ by.
const LIMIT: f64 = 2e-4;

fn read(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(tiny("golden").join(name)).unwrap();
    npyz::NpyFile::new(&bytes[..]).unwrap().into_vec().unwrap()
}

fn positions(entry: &Value, key: &str) -> Vec<usize> {
    entry[key].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

#[test]
fn logits_agree_with_transformers() {
    let index: Value = serde_json::from_slice(&std::fs::read(tiny("golden/index.json")).unwrap()).unwrap();
    let model = bundled();
    let vocab = model.config.vocab;
    let entries = index["prompts"].as_array().unwrap();
    let (mut compared, mut worst, mut wrong) = (0, 0.0f64, Vec::new());
    for entry in entries {
        let name = entry["name"].as_str().unwrap();
        let tokens: Vec<u32> = entry["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
        assert_eq!(tokens.len() as u64, entry["n"].as_u64().unwrap(), "{name}");
        let golden = read(entry["file"].as_str().unwrap());
        let full = entry["full"].as_bool().unwrap();
        let found = if full {
            every(model, Numerics::Exact, &tokens, tokens.len())
        } else {
            last(model, Numerics::Exact, &tokens)
        };
        assert_eq!(found.len(), golden.len(), "{name}");
        let tied = positions(entry, "argmax_near");
        for (row, (found, golden)) in found.chunks(vocab).zip(golden.chunks(vocab)).enumerate() {
            let position = if full { row } else { tokens.len() - 1 };
            let error = relative(found, golden);
            worst = worst.max(error);
            compared += 1;
            if error > LIMIT {
                wrong.push(format!("{name} position {position}: relative RMS {error:.1e}"));
            }
            if !tied.contains(&position) && argmax(found) != argmax(golden) {
                wrong.push(format!("{name} position {position}: argmax {:?}, not {:?}", argmax(found), argmax(golden)));
            }
        }
    }
    println!("{} prompts, {compared} positions, worst relative RMS {worst:.1e}", entries.len());
    assert!(entries.len() >= 30 && compared >= 360, "the golden logits are not all there");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
