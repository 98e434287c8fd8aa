//! The same invariances, bit for bit, on models of other shapes: orders of ratios, widths, experts, types.

use assay::model::synth::{self, Bias, Data, Shape, Spec, TypeRule};
use assay::model::{DType, Model};
use assay::plan::Numerics;

use crate::{arbitrary, every, relative, session};

fn rule(pattern: &str, dtype: DType) -> TypeRule {
    TypeRule { pattern: pattern.into(), layers: None, dtype }
}

fn model(shape: Shape, types: Vec<TypeRule>, router_bias: Bias, seed: u64) -> Model {
    synth::model(&Spec { shape, types, router_bias, data: Data::Full, seed }).unwrap()
}

/// A prefill in one chunk, in chunks of 7 and 50, and a prefill of all but 5 tokens with decode steps behind it.
fn invariant(name: &str, model: &Model) {
    let n = 143;
    let vocab = model.config.vocab;
    let tokens = arbitrary(model, n, 5);
    for numerics in [Numerics::Exact, Numerics::Ds4] {
        let whole = every(model, numerics, &tokens, n);
        assert!(whole.iter().all(|v| v.is_finite()), "{name}: not finite");
        let spread = relative(&whole[..vocab], &whole[(n - 1) * vocab..]);
        assert!(spread > 1e-2, "{name}: logits that hardly depend on the tokens show nothing ({spread:.1e})");
        let mut ways = vec![("chunks of 7", every(model, numerics, &tokens, 7))];
        ways.push(("chunks of 50", every(model, numerics, &tokens, 50)));
        let mut s = session(model, numerics, n, n, true);
        let mut stepped = s.feed(&tokens[..n - 5]).unwrap();
        for t in &tokens[n - 5..] {
            stepped.extend(s.feed(&[*t]).unwrap());
        }
        ways.push(("decode steps", stepped));
        for (how, found) in ways {
            assert!(
                found == whole,
                "{name}, {}: {how} change the logits by {:.1e}",
                numerics.name(),
                relative(&found, &whole)
            );
        }
    }
}

#[test]
fn orders_of_ratios() {
    for ratios in [vec![0], vec![4], vec![128], vec![128, 4, 0, 4], vec![4, 4, 128]] {
        let shape = Shape { hash_layers: ratios.len() / 2, ratios: ratios.clone(), ..Shape::small() };
        invariant(&format!("ratios {ratios:?}"), &model(shape, vec![], Bias::Scored, 11));
    }
}

/// A layer of either ratio, and one that routes by hash: [`orders_of_ratios`] has the others.
fn two_layers() -> Shape {
    Shape { ratios: vec![4, 128], hash_layers: 1, ..Shape::small() }
}

#[test]
fn types_of_tensors() {
    let expert = |dtype| vec![rule("ffn_*_exps", dtype)];
    let dense = |dtype| ["attn_q_a", "attn_q_b", "attn_kv", "attn_output_*"].map(|role| rule(role, dtype)).to_vec();
    let cases = [
        ("q4_k experts", expert(DType::Q4_K)),
        ("q8_0 experts", expert(DType::Q8_0)),
        ("iq2_xxs down", vec![rule("ffn_down_exps", DType::IQ2_XXS)]),
        ("q2_k gate and up", vec![rule("ffn_gate_exps", DType::Q2_K), rule("ffn_up_exps", DType::Q2_K)]),
        ("f32 projections", dense(DType::F32)),
        ("f16 projections", dense(DType::F16)),
        ("q8_0 embedding and f16 head", vec![rule("token_embd", DType::Q8_0), rule("output", DType::F16)]),
    ];
    for (name, types) in cases {
        let shape = Shape { q_lora: 256, o_lora: 256, ..two_layers() };
        invariant(name, &model(shape, types, Bias::All, 12));
    }
}

#[test]
fn widths_and_counts() {
    let small = two_layers;
    let cases = [
        ("wide", Shape { hidden: 512, expert_ff: 512, heads: 2, o_groups: 1, ..small() }),
        ("all experts", Shape { experts_used: 4, hash_layers: 0, ..small() }),
        ("one expert of nine", Shape { experts: 9, experts_used: 1, hash_layers: 2, ..small() }),
        ("a top-k of one", Shape { indexer_top_k: 1, indexer_heads: 2, ..small() }),
        ("a top-k that is never reached", Shape { indexer_top_k: 64, ..small() }),
    ];
    for (name, shape) in cases {
        invariant(name, &model(shape, vec![], Bias::None, 13));
    }
}
