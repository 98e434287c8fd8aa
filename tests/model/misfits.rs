//! Well-formed files that are no model this crate runs: every misfit at once; and odd ones that are.

use std::path::Path;

use assay::error::Kind;
use assay::model::gguf::write::{self, Entry};
use assay::model::gguf::{Array, Value};
use assay::model::synth::{self, Bias, Data, Shape, Spec, TypeRule};
use assay::model::{DType, FileKind, Gguf, Misfit, Model, Role, Survey};

/// A small model taken apart, changed and put together again.
struct Parts {
    kv: Vec<(String, Value)>,
    entries: Vec<Entry>,
    data: Vec<u8>,
}

impl Parts {
    fn of(spec: &Spec) -> Parts {
        let bytes = synth::to_bytes(spec).unwrap();
        let header = Gguf::parse(&bytes).unwrap();
        let start = header.data_start;
        let entry = |t: assay::model::TensorInfo| Entry {
            name: t.name,
            dims: t.dims,
            ggml_type: t.ggml_type,
            offset: t.offset - start,
        };
        Parts {
            kv: header.kv,
            entries: header.tensors.into_iter().map(entry).collect(),
            data: bytes[start as usize..].to_vec(),
        }
    }

    fn small() -> Parts {
        Parts::of(&Spec::new(Shape::small()))
    }

    fn set(mut self, key: &str, value: Value) -> Parts {
        match self.kv.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.kv.push((key.to_owned(), value)),
        }
        self
    }

    fn without(mut self, key: &str) -> Parts {
        self.kv.retain(|(k, _)| k != key);
        self
    }

    fn tensor(mut self, name: &str, change: impl FnOnce(&mut Entry)) -> Parts {
        change(self.entries.iter_mut().find(|e| e.name == name).unwrap());
        self
    }

    /// A tensor with bytes of its own at the end of the file.
    fn add(mut self, name: &str, dims: &[u64], dtype: DType, bytes: &[u8]) -> Parts {
        self.entries.retain(|e| e.name != name);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        let offset = self.data.len() as u64;
        self.data.extend(bytes);
        self.entries.push(Entry { name: name.into(), dims: dims.into(), ggml_type: dtype.ggml_id(), offset });
        self
    }

    fn gguf(&self) -> Gguf {
        let mut bytes = write::header(3, &self.kv, &self.entries, 32);
        bytes.extend(&self.data);
        Gguf::from_bytes(Path::new("test.gguf"), bytes).unwrap()
    }

    fn survey(&self) -> Survey {
        Survey::of(self.gguf()).unwrap()
    }

    fn misfits(&self) -> Vec<Misfit> {
        self.survey().misfits
    }
}

#[track_caller]
fn only(misfits: &[Misfit]) -> &Misfit {
    assert_eq!(misfits.len(), 1, "{misfits:?}");
    &misfits[0]
}

#[test]
fn the_parts_make_the_model_again() {
    assert_eq!(Parts::small().misfits(), []);
}

#[test]
fn fixed_values_are_refused_with_key_expected_and_found() {
    let fixed = [
        ("attention.key_length", 512),
        ("attention.value_length", 512),
        ("rope.dimension_count", 64),
        ("attention.head_count_kv", 1),
        ("attention.sliding_window", 128),
        ("hyper_connection.count", 4),
        ("attention.indexer.key_length", 128),
        ("expert_shared_count", 1),
    ];
    for (key, value) in fixed {
        let misfits = Parts::small().set(&format!("deepseek4.{key}"), Value::U32(value + 1)).misfits();
        let misfit = only(&misfits);
        assert_eq!(misfit.subject, format!("deepseek4.{key}"));
        assert_eq!(misfit.expected, value.to_string());
        assert!(misfit.found.starts_with(&(value + 1).to_string()), "{}", misfit.found);
        // u64 is as good as u32.
        assert_eq!(Parts::small().set(&format!("deepseek4.{key}"), Value::U64(value.into())).misfits(), []);
    }
    let all = fixed.iter().fold(Parts::small(), |p, (key, _)| p.set(&format!("deepseek4.{key}"), Value::U32(7)));
    let misfits = all.misfits();
    assert_eq!(misfits.len(), fixed.len());
    let error = all.survey().into_model().unwrap_err();
    assert_eq!((error.code().id, error.kind()), ("model-misfit", Kind::No));
    assert!(fixed.iter().all(|(key, _)| error.what().contains(key)), "{error}");
    let ratios = Value::Array(Array::I32(vec![0, 4, 64, 4]));
    let misfits = Parts::small().set("deepseek4.attention.compress_ratios", ratios).misfits();
    assert!(misfits[0].found.contains("64 in layer 2"), "{misfits:?}");
    let misfits = Parts::small().set("deepseek4.expert_group_count", Value::U32(8)).misfits();
    assert_eq!(only(&misfits).subject, "deepseek4.expert_group_count");
}

#[test]
fn every_key_must_be_there_and_of_its_type() {
    let keys: Vec<_> = Parts::small().kv.into_iter().map(|(k, _)| k).filter(|k| k.starts_with("deepseek4.")).collect();
    let optional = ["deepseek4.context_length", "deepseek4.expert_group_count", "deepseek4.expert_group_used_count"];
    assert!(keys.len() > 30);
    for key in keys {
        let misfits = Parts::small().without(&key).misfits();
        match optional.contains(&key.as_str()) {
            true => assert_eq!(misfits, []),
            false => {
                assert!(misfits.iter().any(|m| m.subject == key && m.found == "no such key"), "{key}: {misfits:?}")
            }
        }
        let misfits = Parts::small().set(&key, Value::Str("many".into())).misfits();
        assert!(misfits.iter().any(|m| m.subject == key && m.found.contains("string")), "{key}: {misfits:?}");
    }
    for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
        assert_eq!(only(&Parts::small().without(key).misfits()).subject, key);
    }
}

#[test]
fn values_against_the_rules() {
    let cases = [
        ("embedding_length", Value::U32(0)),
        ("embedding_length", Value::U32(100)),
        ("embedding_length", Value::U64(u64::MAX)),
        ("block_count", Value::U32(0)),
        ("vocab_size", Value::U64(1 << 31)),
        ("attention.output_group_count", Value::U32(3)),
        ("attention.output_group_count", Value::U32(0)),
        ("expert_used_count", Value::U32(5)),
        ("expert_count", Value::U64(u64::MAX)),
        ("rope.freq_base", Value::F32(f32::NAN)),
        ("rope.freq_base", Value::F32(0.5)),
        ("rope.scaling.factor", Value::F32(f32::INFINITY)),
        ("rope.scaling.yarn_beta_fast", Value::F32(0.25)),
        ("attention.layer_norm_rms_epsilon", Value::F32(-1.0)),
        ("hyper_connection.sinkhorn_iterations", Value::U32(1 << 20)),
        ("swiglu_clamp_exp", Value::Array(Array::F32(vec![10.0, 10.0, f32::NAN, 10.0]))),
        ("swiglu_clamp_exp", Value::Array(Array::F32(vec![10.0]))),
        ("attention.compress_ratios", Value::Array(Array::U32(vec![0, 4]))),
    ];
    for (key, value) in cases {
        let key = format!("deepseek4.{key}");
        let parts = Parts::small().set(&key, value.clone());
        // More vocabulary than tokens is malformed, judged below.
        let misfits = match Survey::of(parts.gguf()) {
            Ok(survey) => survey.misfits,
            Err(error) => panic!("{key} = {value}: {error}"),
        };
        let related = misfits.iter().any(|m| m.subject == key || m.subject == "deepseek4.attention.head_count");
        assert!(related, "{key} = {value}: {misfits:?}");
    }
}

#[test]
fn every_tensor_must_be_there_with_its_dims_and_type() {
    let whole = Parts::small();
    for entry in &whole.entries {
        let name = &entry.name;
        let mut parts = Parts::small();
        parts.entries.retain(|e| &e.name != name);
        match name.ends_with("exp_probs_b.bias") {
            true => assert_eq!(parts.misfits(), []),
            false => {
                let misfits = parts.misfits();
                assert!(misfits.iter().any(|m| m.subject == *name && m.found == "no such tensor"), "{misfits:?}");
            }
        }
        // One row or element less: a shape that no rule gives.
        let misfits = Parts::small().tensor(name, |e| e.dims.push(1)).misfits();
        assert!(misfits.iter().any(|m| m.subject == format!("{name} dims")), "{name}: {misfits:?}");
        let parts = Parts::small().add(
            name,
            &entry.dims,
            DType::BF16,
            &vec![0; 2 * entry.dims.iter().product::<u64>() as usize],
        );
        let misfits = parts.misfits();
        assert!(
            misfits.iter().any(|m| m.subject == format!("{name} type") && m.found == "bf16"),
            "{name}: {misfits:?}"
        );
    }
}

#[test]
fn gate_and_up_share_a_type() {
    let q4 = vec![0; 4 * 256 * 144];
    let misfits = Parts::small().add("blk.1.ffn_up_exps.weight", &[256, 256, 4], DType::Q4_K, &q4).misfits();
    assert_eq!(only(&misfits).subject, "blk.1.ffn_up_exps.weight type");
    assert!(only(&misfits).expected.starts_with("iq2_xxs"));
}

#[test]
fn strays_absurd_layers_and_unread_tensors() {
    let stray = Parts::small().add("blk.0.indexer.proj.weight", &[256, 4], DType::F16, &[0; 2048]);
    assert_eq!(only(&stray.misfits()).subject, "blk.0.indexer.proj.weight");
    let stray = Parts::small().add("blk.4.attn_norm.weight", &[256], DType::F32, &[0; 1024]);
    assert_eq!(only(&stray.misfits()).subject, "blk.4.attn_norm.weight");
    // Layer numbers that would be an allocation, with and without a layer count beside them.
    for layer in ["1099511627776", "18446744073709551615"] {
        let name = format!("blk.{layer}.attn_norm.weight");
        let parts = Parts::small().add(&name, &[256], DType::F32, &[0; 1024]);
        assert_eq!(only(&parts.misfits()).subject, name);
        assert!(!parts.without("deepseek4.block_count").misfits().is_empty());
    }
    let extra = Parts::small().add("rope_freqs.weight", &[32], DType::F32, &[0; 128]).survey();
    assert_eq!(extra.misfits, []);
    assert!(extra.notes.iter().any(|n| n.contains("rope_freqs.weight")), "{:?}", extra.notes);
}

#[test]
fn a_missing_range_of_layers_is_one_misfit() {
    let many = Value::U32(1 << 20);
    let ratios = Value::Array(Array::U32(vec![0; 1 << 20]));
    let clamps = Value::Array(Array::F32(vec![10.0; 1 << 20]));
    let parts = Parts::small()
        .set("deepseek4.block_count", many)
        .set("deepseek4.attention.compress_ratios", ratios)
        .set("deepseek4.swiglu_clamp_exp", clamps);
    let misfits = parts.misfits();
    assert!(misfits.iter().any(|m| m.subject == "blk.4 to blk.1048575"), "{:?}", misfits.last());
    assert!(misfits.len() < 200);
}

#[test]
fn hash_tables_name_experts() {
    let mut table = vec![0u8; 2 * 320 * 4];
    table[4 * (2 * 17 + 1)..][..4].copy_from_slice(&4i32.to_le_bytes());
    let name = "blk.1.ffn_gate_tid2eid.weight";
    let misfits = Parts::small().add(name, &[2, 320], DType::I32, &table).misfits();
    let misfit = only(&misfits);
    assert_eq!((misfit.subject.as_str(), misfit.found.as_str()), (&*format!("{name} of token 17, slot 1"), "4"));
    table[4 * (2 * 17 + 1)..][..4].copy_from_slice(&(-1i32).to_le_bytes());
    assert_eq!(only(&Parts::small().add(name, &[2, 320], DType::I32, &table).misfits()).found, "-1");
}

#[test]
fn vocabulary_and_tokens() {
    let tokens = |n: usize| Value::Array(Array::Str((0..n).map(|i| format!("t{i}")).collect()));
    let fewer = Parts::small().set("tokenizer.ggml.tokens", tokens(319)).gguf();
    let size = fewer.file_len();
    let error = Survey::of(fewer).err().unwrap();
    assert_eq!((error.code().id, error.kind()), ("model-vocab", Kind::CouldNotRun));
    assert!(error.to_string().contains(&format!("file size {size}")) && error.to_string().contains("319"), "{error}");
    let more = Parts::small().set("tokenizer.ggml.tokens", tokens(400)).survey();
    assert_eq!(more.misfits, []);
    assert!(more.notes.iter().any(|n| n.contains("80 tokens beyond")), "{:?}", more.notes);
}

#[test]
fn other_files_are_recognised() {
    let other = Parts::small().set("general.architecture", Value::Str("llama".into()));
    assert_eq!(other.survey().kind, FileKind::Other);
    assert_eq!(other.survey().into_model().unwrap_err().code().id, "model-architecture");
    let none = Parts::small().without("general.architecture");
    assert_eq!(none.survey().into_model().unwrap_err().code().id, "model-architecture");
    // The draft block: a layer's tensors under another prefix, in a file of its own.
    let mut draft = Parts::small();
    draft.entries.retain(|e| e.name.starts_with("blk.0.") && !e.name.contains("tid2eid"));
    draft.entries.iter_mut().for_each(|e| e.name = e.name.replace("blk.", "mtp."));
    for architecture in ["deepseek4", "deepseek4_mtp_support"] {
        let draft = Parts { kv: draft.kv.clone(), entries: draft.entries.clone(), data: draft.data.clone() }
            .set("general.architecture", Value::Str(architecture.into()));
        let survey = draft.survey();
        assert_eq!(survey.kind, FileKind::Draft);
        assert!(survey.misfits.iter().any(|m| m.subject == "mtp.0.e_proj.weight"), "{:?}", survey.misfits);
        let error = survey.into_model().unwrap_err();
        assert_eq!((error.code().id, error.kind()), ("model-mtp", Kind::No));
    }
    // Draft tensors beside a whole model are a remark.
    let both = Parts::small().add("mtp.0.enorm.weight", &[256], DType::F32, &[0; 1024]).survey();
    assert_eq!(both.misfits, []);
    assert!(both.notes.iter().any(|n| n.contains("draft block")));
}

/// Shapes, orders and types that no published file has, and that can be computed all the same.
#[test]
fn unseen_models_fit() {
    let small = Shape::small;
    let shapes = [
        Shape { ratios: vec![128], hash_layers: 0, ..small() },
        Shape { ratios: vec![4, 0, 128, 128, 0, 4, 4], hash_layers: 0, ..small() },
        Shape { ratios: vec![128, 4, 0], hash_layers: 7, ..small() },
        Shape { ratios: vec![0; 5], hidden: 512, expert_ff: 768, ..small() },
        Shape { heads: 6, o_groups: 3, o_lora: 96, q_lora: 160, ..small() },
        Shape { heads: 1, o_groups: 1, experts: 1, experts_used: 1, hash_layers: 0, ..small() },
        Shape { experts: 33, experts_used: 33, indexer_heads: 1, indexer_top_k: 1, vocab: 1000, ..small() },
    ];
    for shape in shapes {
        for router_bias in [Bias::All, Bias::Scored, Bias::None] {
            let spec = Spec { router_bias, data: Data::Full, ..Spec::new(shape.clone()) };
            let model = synth::model(&spec).unwrap_or_else(|e| panic!("{shape:?}: {e}"));
            assert_eq!(model.config.layers, shape.ratios.len());
            assert_eq!(model.config.ratios, shape.ratios);
        }
    }
    // Narrow rows that k-quants cannot hold, with experts that can.
    let rules = vec![TypeRule { pattern: "ffn_*_exps".into(), layers: None, dtype: DType::Q8_0 }];
    let narrow = Spec { types: rules, ..Spec::new(Shape { hidden: 96, expert_ff: 32, ..small() }) };
    assert!(synth::model(&narrow).is_ok());
}

/// Every type of every column: dense F16, F32 and Q8_0, addends F16 and F32, experts in four formats, mixed by layer.
#[test]
fn every_allowed_type_fits() {
    for row in &assay::model::layout::TABLE {
        for &dtype in row.types {
            let mut patterns = vec![row.role.label()];
            if [Role::FfnGateExps, Role::FfnUpExps].contains(&row.role) {
                patterns = vec![Role::FfnGateExps.label(), Role::FfnUpExps.label()];
            }
            let layers = (!row.role.is_global()).then_some((2, 3));
            let layers = if row.role == Role::FfnGateTid2eid { Some((0, 1)) } else { layers };
            let rule = |p: &&str| TypeRule { pattern: (*p).to_owned(), layers, dtype };
            let spec = Spec { types: patterns.iter().map(rule).collect(), ..Spec::new(Shape::small()) };
            let model = synth::model(&spec).unwrap_or_else(|e| panic!("{} {dtype}: {e}", row.leaf));
            let name = row.role.tensor_name(layers.map_or(0, |l| l.1));
            assert_eq!(model.gguf.tensor(&name).unwrap().dtype, Some(dtype), "{name}");
        }
    }
}

/// A compressor norm in F16 is given as the same values in F32, whoever asks for it.
#[test]
fn compressor_norms_in_f16_are_widened() {
    let rules = vec![TypeRule { pattern: "*compressor_norm".into(), layers: None, dtype: DType::F16 }];
    let model: Model = synth::model(&Spec { types: rules, ..Spec::new(Shape::small()) }).unwrap();
    for (layer, role) in
        [(1, Role::AttnCompressorNorm), (2, Role::AttnCompressorNorm), (3, Role::IndexerCompressorNorm)]
    {
        let info = model.gguf.tensor(&role.tensor_name(layer)).unwrap();
        assert_eq!(info.dtype, Some(DType::F16));
        let mut expected = vec![0.0; info.elements() as usize];
        DType::F16.dequantise(model.gguf.bytes(info), &mut expected);
        for tensor in [model.layer(layer, role).unwrap(), model.tensor(&info.name).unwrap()] {
            assert_eq!((tensor.dtype, tensor.bytes.len()), (DType::F32, 4 * expected.len()));
            assert_eq!(tensor.to_f32(), expected);
        }
    }
}

/// `inspect` found nothing wrong with a file whose first token has no embedding.
#[test]
fn a_first_or_last_token_beyond_the_vocabulary_is_a_misfit() {
    for key in ["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"] {
        for value in [Value::U32(u32::MAX), Value::I32(-1), Value::Str("1".into())] {
            let misfits = Parts::small().set(key, value.clone()).misfits();
            assert!(misfits.iter().any(|m| m.subject == key), "{key} = {value}: {misfits:?}");
        }
        assert!(Parts::small().without(key).misfits().is_empty());
    }
}
