//! The oracle as a whole model: against golden logits of another implementation, against itself at other lengths, chunks
//! and shapes, and on prompts whose answers are known.

mod chunks;
mod commands;
mod full_shape;
mod golden;
mod prompts;
mod shapes;
mod steps;

use std::path::PathBuf;
use std::sync::OnceLock;

use assay::engine::{Session, SessionOptions};
use assay::model::Model;
use assay::plan::Numerics;

fn tiny(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("reference/tiny").join(name)
}

/// The bundled model, opened once.
fn bundled() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| Model::open(&tiny("model.gguf")).unwrap())
}

fn session(model: &Model, numerics: Numerics, chunk: usize, context: usize, all_logits: bool) -> Session<'_> {
    Session::new(model, SessionOptions { numerics, chunk, context, all_logits }).unwrap()
}

/// Logits [n, vocab] of a prefill in chunks.
fn every(model: &Model, numerics: Numerics, tokens: &[u32], chunk: usize) -> Vec<f32> {
    session(model, numerics, chunk, tokens.len(), true).feed(tokens).unwrap()
}

/// Logits [vocab] of the last token of a prefill in one chunk.
fn last(model: &Model, numerics: Numerics, tokens: &[u32]) -> Vec<f32> {
    session(model, numerics, tokens.len(), tokens.len(), false).feed(tokens).unwrap()
}

/// ‖a − b‖ / ‖b‖. A NaN anywhere is infinite, or no limit would refuse it.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(a, b)| f(f64::from(*a), f64::from(*b)).powi(2)).sum()
    };
    let r = (square(&|a, b| a - b) / square(&|_, b| b)).sqrt();
    if r.is_nan() { f64::INFINITY } else { r }
}

/// Tokens that follow from a number alone, of every id.
fn arbitrary(model: &Model, n: usize, salt: u64) -> Vec<u32> {
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    (0..n).map(|_| next() % model.config.vocab as u32).collect()
}
