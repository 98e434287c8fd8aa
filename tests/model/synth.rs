//! Synthetic files: the same bytes everywhere, the shapes and types asked for, full length in no time.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use assay::model::synth::{self, Bias, Data, Shape, Spec, TypeRule};
use assay::model::{DType, Model, Role};

/// Digest of the small shape with seed 1. If this changes, evidence made on synthetic files can no longer be replayed:
/// change the generator's name in src/model/synth/values.rs too, and say so in the ledger's documents.
const SMALL: &str = "94020ab3f5bf6eb0b258913a7bd2d8acab5d99acabaf94e7055cbb910d1e5b4e";

#[test]
fn the_digest_is_pinned() {
    let digest = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("small.gguf");
        let mut last = (0, 0);
        let spec = Spec::new(Shape::small());
        let mut progress = |done, total| {
            last = (done, total);
            ControlFlow::Continue(())
        };
        let summary = pool.install(|| synth::write(&spec, &path, &mut progress)).unwrap();
        assert_eq!(last, (summary.made, summary.made));
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, summary.bytes);
        assert_eq!(bytes, synth::to_bytes(&spec).unwrap());
        blake3::hash(&bytes).to_hex().to_string()
    };
    assert_eq!(digest(1), SMALL);
    assert_eq!(digest(4), SMALL);
}

#[test]
fn seeds_and_tensors_differ() {
    let of = |seed| synth::model(&Spec { seed, data: Data::Full, ..Spec::new(Shape::small()) }).unwrap();
    let (one, two) = (of(1), of(2));
    let bytes = |m: &Model, layer| m.layer(layer, Role::FfnGateExps).unwrap().bytes.to_vec();
    assert_ne!(bytes(&one, 0), bytes(&two, 0));
    assert_ne!(bytes(&one, 0), bytes(&one, 1));
    assert_eq!(one.weights_note(), Some("synthetic"));
    let aliased = synth::model(&Spec::new(Shape::small())).unwrap();
    assert_eq!(bytes(&aliased, 0), bytes(&aliased, 1));
    assert_eq!(aliased.weights_note(), Some("synthetic, aliased"));
}

#[test]
fn values_are_finite_and_mechanisms_are_at_work() {
    let model = synth::model(&Spec { data: Data::Full, ..Spec::new(Shape::small()) }).unwrap();
    for t in model.gguf.tensors() {
        let values = model.tensor(&t.name).unwrap().to_f32();
        assert!(values.iter().all(|v| v.is_finite() && v.abs() < 1e3), "{}", t.name);
        let first = values[0];
        assert!(values.len() == 1 || values.iter().any(|v| *v != first), "{} is constant", t.name);
    }
    let sinks = model.layer(0, Role::AttnSinks).unwrap().to_f32();
    assert!(sinks.iter().all(|s| (1.0..=5.0).contains(s)));
    assert!(model.layer(0, Role::ExpProbsB).is_none() && model.layer(2, Role::ExpProbsB).is_some());
    let table = model.layer(0, Role::FfnGateTid2eid).unwrap().to_f32();
    let ids: std::collections::BTreeSet<_> = table.iter().map(|id| *id as u32).collect();
    assert_eq!(ids.len(), 4);
    assert!(table.chunks_exact(2).all(|row| row[0] != row[1]));
    let none = synth::model(&Spec { router_bias: Bias::None, ..Spec::new(Shape::small()) }).unwrap();
    assert!((0..4).all(|layer| none.layer(layer, Role::ExpProbsB).is_none()));
}

#[test]
fn rules_choose_types_by_role_and_layer() {
    let rule = |pattern: &str, layers, dtype| TypeRule { pattern: pattern.into(), layers, dtype };
    let types = vec![
        rule("ffn_*_exps", Some((2, 3)), DType::Q4_K),
        rule("token_embd", None, DType::Q8_0),
        rule("attn_output_*", None, DType::F16),
        rule("attn_output_b", Some((0, 0)), DType::F32),
    ];
    let model = synth::model(&Spec { types, ..Spec::new(Shape::small()) }).unwrap();
    let dtype = |layer, role| model.layer(layer, role).unwrap().dtype;
    assert_eq!((dtype(1, Role::FfnGateExps), dtype(2, Role::FfnGateExps)), (DType::IQ2_XXS, DType::Q4_K));
    assert_eq!((dtype(1, Role::FfnDownExps), dtype(3, Role::FfnDownExps)), (DType::Q2_K, DType::Q4_K));
    assert_eq!((dtype(0, Role::AttnOutputB), dtype(1, Role::AttnOutputB)), (DType::F32, DType::F16));
    assert_eq!(model.global(Role::TokenEmbd).unwrap().dtype, DType::Q8_0);
}

#[test]
fn impossible_options_are_usage_errors() {
    let refused = |shape: Shape, types: Vec<TypeRule>| {
        let error = synth::model(&Spec { types, ..Spec::new(shape) }).err().unwrap();
        assert_eq!(error.code().id, "synth-spec", "{error}");
        error.to_string()
    };
    let small = Shape::small;
    let none = refused(Shape { experts: 0, ..small() }, vec![]);
    assert!(none.contains("the number of experts is out of range"), "{none}");
    refused(Shape { vocab: 262, ..small() }, vec![]);
    refused(Shape { ratios: vec![], ..small() }, vec![]);
    refused(Shape { ratios: vec![64], ..small() }, vec![]);
    refused(Shape { hidden: 128, ..small() }, vec![]);
    refused(Shape { heads: 3, ..small() }, vec![]);
    refused(Shape { heads: 1, ..small() }, vec![]);
    refused(Shape { o_groups: 0, ..small() }, vec![]);
    refused(Shape { experts_used: 5, ..small() }, vec![]);
    refused(Shape { experts: 1 << 20, hidden: 1 << 20, expert_ff: 1 << 20, ..small() }, vec![]);
    let rule = |pattern: &str, dtype| vec![TypeRule { pattern: pattern.into(), layers: None, dtype }];
    refused(small(), rule("no_such_role", DType::F16));
    refused(small(), rule("attn_kv", DType::Q2_K));
    refused(small(), rule("ffn_gate_exps", DType::Q4_K));
}

/// A file of the real one's length, its large tensors holes: opening, all checks included, takes well under a second.
#[test]
fn a_file_of_full_length_opens_in_no_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flash.gguf");
    let spec = Spec { data: Data::Sparse, ..Spec::new(Shape::flash()) };
    let summary = synth::write(&spec, &path, &mut |_, _| ControlFlow::Continue(())).unwrap();
    assert!(summary.bytes > 81_000_000_000, "{} bytes", summary.bytes);
    let start = Instant::now();
    let model = Model::open(&path).unwrap();
    let took = start.elapsed();
    println!("{} tensors, {:.1} GB: opened in {took:?}", model.gguf.tensors().len(), summary.bytes as f64 / 1e9);
    assert!(took < Duration::from_secs(1), "took {took:?}");
    assert_eq!((model.config.layers, model.config.hidden, model.config.vocab), (43, 4096, 129_280));
}
