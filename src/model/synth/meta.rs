//! The metadata of a synthetic file, with a vocabulary that text can be encoded with.

use super::{Data, Spec};
use crate::model::gguf::{Array, Value};
use crate::model::tokenizer::{Special, stand_in};
use crate::model::{ARCHITECTURE, SYNTHETIC_KEY, config};

/// Words whose prefixes become tokens, so that merges are at work. A stand-in for the leading space is put before each.
const WORDS: [&str; 24] = [
    "the", "of", "and", "to", "in", "is", "that", "it", "for", "was", "on", "are", "with", "as", "be", "this", "have",
    "from", "or", "not", "what", "return", "self", "import",
];

/// Tokens that every vocabulary has: the special ones and one for each byte.
pub const MIN_VOCAB: usize = Special::ALL.len() + 256;

/// Key-value pairs in file order. Constants are Flash's (docs/model.md §1).
pub fn metadata(spec: &Spec) -> Vec<(String, Value)> {
    let s = &spec.shape;
    let count = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
    let text = |t: &str| Value::Str(t.to_owned());
    let mut kv = vec![
        ("general.architecture".to_owned(), text(ARCHITECTURE)),
        ("general.name".to_owned(), text("synthetic DeepSeek V4 Flash shape")),
        ("general.alignment".to_owned(), Value::U32(super::ALIGNMENT as u32)),
        (SYNTHETIC_KEY.to_owned(), Value::Bool(true)),
        (format!("{SYNTHETIC_KEY}.seed"), Value::U64(spec.seed)),
        (format!("{SYNTHETIC_KEY}.data"), text(spec.data.name())),
    ];
    let mut put = |key: &str, value: Value| kv.push((format!("{ARCHITECTURE}.{key}"), value));
    put("block_count", count(s.ratios.len()));
    put("embedding_length", count(s.hidden));
    put("vocab_size", count(s.vocab));
    put("context_length", Value::U32(1 << 20));
    put("attention.head_count", count(s.heads));
    put("attention.head_count_kv", count(1));
    put("attention.key_length", count(config::HEAD_DIM));
    put("attention.value_length", count(config::HEAD_DIM));
    put("rope.dimension_count", count(config::ROPE_DIM));
    put("attention.q_lora_rank", count(s.q_lora));
    put("attention.output_lora_rank", count(s.o_lora));
    put("attention.output_group_count", count(s.o_groups));
    put("attention.sliding_window", count(config::WINDOW));
    put("attention.indexer.head_count", count(s.indexer_heads));
    put("attention.indexer.key_length", count(config::INDEXER_DIM));
    put("attention.indexer.top_k", count(s.indexer_top_k));
    put("attention.compress_ratios", Value::Array(Array::U32(s.ratios.clone())));
    put("attention.compress_rope_freq_base", Value::F32(160_000.0));
    put("attention.layer_norm_rms_epsilon", Value::F32(1e-6));
    put("expert_count", count(s.experts));
    put("expert_used_count", count(s.experts_used));
    put("expert_feed_forward_length", count(s.expert_ff));
    put("expert_shared_count", count(1));
    put("expert_group_count", count(0));
    put("expert_group_used_count", count(0));
    put("expert_weights_scale", Value::F32(1.5));
    put("expert_weights_norm", Value::Bool(true));
    put("hash_layer_count", count(s.hash_layers));
    put("hyper_connection.count", count(config::STREAMS));
    put("hyper_connection.sinkhorn_iterations", count(20));
    put("hyper_connection.epsilon", Value::F32(1e-6));
    put("rope.freq_base", Value::F32(10_000.0));
    put("rope.scaling.factor", Value::F32(16.0));
    put("rope.scaling.original_context_length", Value::U64(65_536));
    put("rope.scaling.yarn_beta_fast", Value::F32(32.0));
    put("rope.scaling.yarn_beta_slow", Value::F32(1.0));
    put("swiglu_clamp_exp", Value::Array(Array::F32(vec![10.0; s.ratios.len()])));
    let (tokens, kinds, merges) = vocabulary(s.vocab);
    let mut put = |key: &str, value: Value| kv.push((format!("tokenizer.ggml.{key}"), value));
    put("model", text("gpt2"));
    put("pre", text("joyai-llm"));
    put("tokens", Value::Array(Array::Str(tokens)));
    put("token_type", Value::Array(Array::I32(kinds)));
    put("merges", Value::Array(Array::Str(merges)));
    put("bos_token_id", Value::U32(Special::Bos as u32));
    put("eos_token_id", Value::U32(Special::Eos as u32));
    kv
}

/// Tokens, their types and the merges: special tokens, bytes, prefixes of [`WORDS`], and filler up to `size`.
fn vocabulary(size: usize) -> (Vec<String>, Vec<i32>, Vec<String>) {
    // ggml's token types.
    let (normal, control, unused) = (1, 3, 5);
    let mut tokens: Vec<String> = Special::ALL.iter().map(|s| s.literal().to_owned()).collect();
    let mut kinds = vec![control; tokens.len()];
    tokens.extend((0..=255u8).map(|b| String::from(stand_in(b))));
    let mut merges: Vec<String> = Vec::new();
    for word in WORDS {
        let mut left = String::from(stand_in(b' '));
        for right in word.chars() {
            let joined = format!("{left}{right}");
            if !tokens.contains(&joined) {
                if tokens.len() >= size {
                    break;
                }
                merges.push(format!("{left} {right}"));
                tokens.push(joined.clone());
            }
            left = joined;
        }
    }
    kinds.resize(tokens.len(), normal);
    tokens.extend((tokens.len()..size).map(|i| format!("<fill_{i}>")));
    kinds.resize(tokens.len(), unused);
    (tokens, kinds, merges)
}

impl Data {
    pub fn name(self) -> &'static str {
        match self {
            Data::Aliased => "aliased",
            Data::Full => "full",
            Data::Sparse => "sparse",
        }
    }
}
