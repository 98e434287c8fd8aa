//! DeepSeek V4 Flash's own shape, from our own writer.

use std::time::Instant;

use assay::model::Model;
use assay::model::synth::{self, Data, Shape, Spec};
use assay::ops::cases;
use assay::plan::{Numerics, Plan, PlanOptions};

use crate::{arbitrary, session};

fn write(spec: &Spec) -> (tempfile::TempDir, Model) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flash.gguf");
    synth::write(spec, &path, &mut |_, _| std::ops::ControlFlow::Continue(())).unwrap();
    let model = Model::open(&path).unwrap();
    (dir, model)
}

/// Large tensors are holes: nothing but lengths and types is real here, which is all that a plan needs.
#[test]
fn a_file_of_full_length_opens_and_its_prefill_starts() {
    let (_dir, model) = write(&Spec { data: Data::Sparse, ..Spec::new(Shape::flash()) });
    for numerics in [Numerics::Exact, Numerics::Ds4] {
        let options = PlanOptions { numerics, max_tokens: 512, max_outputs: 1, context: 4096 };
        let plan = Plan::build(&model, options).unwrap();
        assert!(plan.instances.iter().any(|i| i.layer == Some(42)));
    }
    let mut s = session(&model, Numerics::Ds4, 4, 4, false);
    let step = s.begin(&arbitrary(&model, 4, 1)).unwrap();
    let plan = s.executor.plan().clone();
    let end = plan.instances.iter().position(|i| i.label == "blk.0.attn_kv_store").unwrap() + 1;
    s.executor.run_range(&step, 0..end).unwrap();
    assert_eq!(s.executor.take_trace().len(), end);
}

#[test]
#[ignore = "takes minutes on few cores, 4 GB of disk and 3 GB of memory"]
fn a_prompt_of_16_tokens_gets_through() {
    let (_dir, model) = write(&Spec::new(Shape::flash()));
    through(&model);
}

/// The same with as many layers as ASSAY_LAYERS says, to see what the whole would take.
#[test]
#[ignore = "writes up to 4 GB; says how long a layer takes here"]
fn a_prompt_of_16_tokens_gets_through_some_layers() {
    let layers = std::env::var("ASSAY_LAYERS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let shape = Shape { ratios: synth::flash_ratios(layers), hash_layers: layers.min(3), ..Shape::flash() };
    let (_dir, model) = write(&Spec::new(shape));
    through(&model);
}

fn through(model: &Model) {
    let tokens = arbitrary(model, 16, 7);
    let started = Instant::now();
    let logits = session(model, Numerics::Ds4, 16, 16, false).feed(&tokens).unwrap();
    println!("{} layers, 16 tokens: {:.1} s", model.config.layers, started.elapsed().as_secs_f64());
    assert_eq!(logits.len(), 129_280);
    assert!(logits.iter().all(|v| v.is_finite()));
    let (least, most) = logits.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
    assert!(most > least, "all logits are {most}");
}

/// A kernel that breaks at a size which only a large file has must meet that size on the emulator already: dims that
/// something is indexed by are as large in some case as in Flash with a context of 65,536.
#[test]
fn some_case_of_every_op_reaches_flashs_sizes() {
    let (_dir, model) = write(&Spec { data: Data::Sparse, ..Spec::new(Shape::flash()) });
    let options =
        PlanOptions { numerics: Numerics::Ds4, max_tokens: cases::STEP_TOKENS, max_outputs: 1, context: 65_536 };
    let plan = Plan::build(&model, options).unwrap();
    for instance in &plan.instances {
        let c = instance.contract();
        for (i, name) in c.dims.iter().enumerate().filter(|(_, name)| ["V", "E", "C", "cap"].contains(name)) {
            let sizes = instance.op.far().iter().chain(instance.op.presets());
            let most = sizes.filter(|d| instance.op.macs(d, 1) <= 3_000_000).map(|d| d[i]).max().unwrap();
            let wanted = match (c.op, *name) {
                // 2: the two halves of a row.
                (op, "C") if op.starts_with("compressor") => continue,
                // A ring wraps wherever it ends; a cache of rows does not.
                (op, "cap") if op.starts_with("attention") => continue,
                // Past top-k visible rows the indexed op takes its place.
                ("attention_mixed", "C") => instance.dims[i].min(plan.top_k as i64),
                _ => instance.dims[i],
            };
            assert!(most >= wanted, "{}: {name} = {wanted}, at most {most}", instance.label);
        }
    }
}
