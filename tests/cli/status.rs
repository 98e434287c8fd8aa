use assay::ledger::{Digest, Stage, Verdict};
use serde_json::Value;

use crate::bench::{Bench, assay_with};
use crate::recorded::{Recorded, turn_red};

#[test]
fn a_fresh_workbench_says_plainly_that_nothing_is_proved() {
    insta::assert_snapshot!(Bench::new().stdout(&["status"]), @r"
    Nothing is proved: none of the 27 nodes that this file needs has a kernel; prefill not yet.

    model            model.gguf, ds4 numerics
    this machine     [no device]
    kernels are for  sm_90a
    gates            0 of 27 are green
    prefill_working  no: 27 of 27 nodes are not green (assay next)

     node                     instances  acts             state
     embed[f16]               1          always           no kernel
     rms_norm                 32         always           no kernel
     matmul[f16]              30         always           no kernel
     hc_split                 10         always           no kernel
     hc_weighted_sum          11         always           no kernel
     matmul[q8_0]             36         always           no kernel
     head_rms_norm            5          always           no kernel
     rope_tail                17         always           no kernel
     fp8_kv_round_trip        8          always           no kernel
     store_rows               10         always           no kernel
     attention_raw            2          always           no kernel
     matmul_grouped[q8_0]     5          always           no kernel
     hc_expand                10         always           no kernel
     router_hash              3          always           no kernel
     moe_gate_up[iq2_xxs]     5          always           no kernel
     moe_down[q2_k]           5          always           no kernel
     swiglu                   5          always           no kernel
     compressor_prefill[f16]  5          past 3 tokens    no kernel
     compressor_state[f16]    5          always           no kernel
     hadamard_fp4_round_trip  4          past 3 tokens    no kernel
     indexer_scores           2          past 195 tokens  no kernel
     indexer_topk             2          past 195 tokens  no kernel
     attention_mixed          3          always           no kernel
     attention_indexed        2          past 195 tokens  no kernel
     router_topk              2          always           no kernel
     take_rows                1          always           no kernel
     output_hc_weights        1          always           no kernel
    ");
}

/// A workbench with one kernel of every kind that is not proved.
fn kinds() -> Bench {
    let bench = Bench::new();
    bench.kernel("rms_norm", &[]);
    bench.kernel("matmul", &["q8_0", "f32"]);
    bench.kernel("moe_gate_up.q4_k", &["q4_k"]);
    bench.kernel("moe_down.q2_k", &["q4_k"]);
    bench.write("kernels/embed.toml", "op = \"embed\"\n");
    bench.write("kernels/swiglu.cu", "");
    bench.kernel("rope_tail", &[]);
    bench.write("kernels/rope_tail.cu", "#include \"common/missing.cuh\"\n");
    bench.write("kernels/sofmax.cu", "");
    bench
}

/// POSTMORTEM.md §4.
#[test]
fn kernels_are_told_apart_by_what_can_be_said_of_them() {
    insta::assert_snapshot!(kinds().stdout(&["status"]), @r#"
    Nothing is proved: 4 of the 27 nodes that this file needs have a kernel; 2 are broken; prefill not yet.

    model            model.gguf, ds4 numerics
    this machine     [no device]
    kernels are for  sm_90a
    gates            0 of 27 are green
    prefill_working  no: 27 of 27 nodes are not green (assay next)

     node                     instances  acts             state
     embed[f16]               1          always           its kernel is broken: kernels/embed.toml: no [[variant]] [manifest]
     rms_norm                 32         always           has a kernel that is not proved: assay verify rms_norm
     matmul[f16]              30         always           no kernel
     hc_split                 10         always           no kernel
     hc_weighted_sum          11         always           no kernel
     matmul[q8_0]             36         always           has a kernel that is not proved: assay verify matmul.q8_0
     head_rms_norm            5          always           no kernel
     rope_tail                17         always           its kernel is broken: rope_tail.cu includes "common/missing.cuh": No such file or directory (os error 2)
     fp8_kv_round_trip        8          always           no kernel
     store_rows               10         always           no kernel
     attention_raw            2          always           no kernel
     matmul_grouped[q8_0]     5          always           no kernel
     hc_expand                10         always           no kernel
     router_hash              3          always           no kernel
     moe_gate_up[iq2_xxs]     5          always           no kernel
     moe_down[q2_k]           5          always           no kernel
     swiglu                   5          always           no kernel
     compressor_prefill[f16]  5          past 3 tokens    no kernel
     compressor_state[f16]    5          always           no kernel
     hadamard_fp4_round_trip  4          past 3 tokens    no kernel
     indexer_scores           2          past 195 tokens  no kernel
     indexer_topk             2          past 195 tokens  no kernel
     attention_mixed          3          always           no kernel
     attention_indexed        2          past 195 tokens  no kernel
     router_topk              2          always           no kernel
     take_rows                1          always           no kernel
     output_hc_weights        1          always           no kernel

    kernels that this file cannot reach
     kernels/matmul: no tensor of this file that matmul reads has type f32
     kernels/moe_down.q2_k: kernels/moe_down.q4_k is where moe_down[q4_k] is looked for
     kernels/moe_gate_up.q4_k: no tensor of this file that moe_gate_up reads has type q4_k

    broken kernels
     kernels/embed: kernels/embed.toml: no [[variant]] [manifest]
     kernels/rope_tail: rope_tail.cu includes "common/missing.cuh": No such file or directory (os error 2)
     kernels/sofmax: there is no op `sofmax`
     kernels/swiglu: kernels/swiglu.toml is missing: nothing says how to launch kernels/swiglu.cu
    "#);
}

/// Names and types of everything in a document: lists by their first element.
fn skeleton(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) => {
            for (key, v) in map {
                let kind = match v {
                    Value::Null => "null",
                    Value::Bool(_) => "bool",
                    Value::Number(_) => "number",
                    Value::String(_) => "string",
                    Value::Array(_) => "array",
                    Value::Object(_) => "object",
                };
                out.push_str(&format!("{}{key}: {kind}\n", "  ".repeat(depth)));
                skeleton(v, depth + 1, out);
            }
        }
        Value::Array(items) => {
            if let Some(first) = items.first() {
                skeleton(first, depth, out);
            }
        }
        _ => {}
    }
}

#[test]
fn the_json_schema_is_pinned() {
    let mut out = String::new();
    let doc = kinds().json(&["status", "--json"]);
    assert_eq!(doc["schema"], "assay.status/1");
    skeleton(&doc, 0, &mut out);
    insta::assert_snapshot!(out, @r"
    schema: string
    summary: string
    model: string
    weights: null
    numerics: string
    instances: number
    machine: object
      arch: null
      device: string
    architectures: array
    nodes: array
      node: string
      op: string
      types: array
      instances: number
      layers: array
      first: number
      tokens: object
        from: number
        to: null
      long_prompt_only: bool
      kernel: null
      kernel_problem: string
      state: string
      detail: string
      proofs: array
    unreachable: array
      kernel: string
      node: string
      reason: string
    broken: array
      kernel: string
      reason: string
    gates: array
    prefill_working: object
      value: bool
      architectures: array
      reason: string
      proofs: array
    ");
    let states: std::collections::BTreeSet<_> =
        doc["nodes"].as_array().unwrap().iter().map(|n| n["state"].to_string()).collect();
    assert_eq!(states.into_iter().collect::<Vec<_>>(), ["\"absent\"", "\"broken\"", "\"unproved\""]);
}

#[test]
fn a_ledger_is_never_taken_for_no_ledger() {
    let bench = Bench::new();
    bench.write("state/ledger.jsonl", "not a row\n");
    assert_ne!(bench.run(&["status"]).code, 0);
}

/// To hash 87 GB takes minutes: `next` and `status` say that it is not done, and those that judge do it.
#[test]
fn a_huge_file_is_not_hashed_for_a_look_at_the_ledger() {
    let bench = Bench::new();
    bench.ledger();
    bench.synth("huge.gguf", &["--data", "sparse"]);
    assert!(std::fs::metadata(bench.path("huge.gguf")).unwrap().len() > 2 << 30);
    let cache = tempfile::tempdir().unwrap();
    let start = std::time::Instant::now();
    for args in [&["status", "-m", "huge.gguf"][..], &["next", "-m", "huge.gguf"], &["graph", "-m", "huge.gguf"]] {
        let out = assay_with(&bench.path(""), args, &[("ASSAY_CACHE_DIR", cache.path())]);
        assert_eq!(out.code, 0, "{}", out.stderr);
        assert!(
            out.stderr.contains("note: the weights of ") && out.stderr.contains("not hashed yet"),
            "{}",
            out.stderr
        );
    }
    assert!(!cache.path().join("weights").exists(), "a digest was kept, so the file was hashed");
    assert!(start.elapsed().as_secs() < 60, "three looks took {:?}", start.elapsed());
    // "Nothing is proved" was said of it, as if somebody had looked.
    let at = |args: &[&str]| assay_with(&bench.path(""), args, &[("ASSAY_CACHE_DIR", cache.path())]).stdout;
    let said = at(&["status", "-m", "huge.gguf"]);
    assert!(said.starts_with("It is not known what is proved: the weights of this file are not hashed yet"), "{said}");
    assert!(
        said.contains("(assay status -m huge.gguf --hash hashes them)") && !said.contains("prefill not yet"),
        "{said}"
    );
    assert!(said.contains("are known to be green") && !said.contains("Nothing is proved"), "{said}");
    let json: Value = serde_json::from_str(&at(&["status", "-m", "huge.gguf", "--json"])).unwrap();
    assert_eq!(json["unhashed"], true);
    assert!(at(&["next", "-m", "huge.gguf"]).contains("not known to be green: its weights are not hashed yet"));
}

/// Only a verdict that is recorded hashed a large file; whoever just had it wants to know what is proved of it.
#[test]
fn a_large_file_is_hashed_where_that_is_asked_for_and_once() {
    let bench = Bench::new();
    bench.ledger();
    bench.synth("large.gguf", &["--data", "sparse", "--layers", "2"]);
    assert!(std::fs::metadata(bench.path("large.gguf")).unwrap().len() > 2 << 30);
    let cache = tempfile::tempdir().unwrap();
    let at = |args: &[&str]| assay_with(&bench.path(""), args, &[("ASSAY_CACHE_DIR", cache.path())]);
    let asked = at(&["status", "-m", "large.gguf", "--hash"]);
    assert_eq!(asked.code, 0, "{}", asked.stderr);
    assert!(asked.stderr.starts_with("hashing the weights of large.gguf, "), "{}", asked.stderr);
    assert!(asked.stdout.contains("weights ") && !asked.stdout.contains("not known"), "{}", asked.stdout);
    for args in [&["status", "-m", "large.gguf"][..], &["status", "-m", "large.gguf", "--hash"]] {
        let again = at(args);
        assert!(!again.stderr.contains("hash") && again.stdout == asked.stdout, "{}{}", again.stderr, again.stdout);
    }
}

/// docs/ledger.md, "Stale, and outgrown": evidence made by fewer cases counts as long as the same kernel passes today's on
/// the emulator.
#[test]
fn a_proof_that_the_cases_outgrew_counts_with_a_pass_of_todays() {
    let mut r = Recorded::new();
    let earlier = |v: &mut Verdict| {
        v.binding.protocol = 0;
        v.binding.cases = Digest::of(b"fewer");
    };
    let state = |r: &Recorded, node: &str| {
        let out = r.run(&["status", "--json"]);
        assert_eq!(out.code, 0, "{}", out.stderr);
        let json: Value = serde_json::from_str(&out.stdout).unwrap();
        let nodes = json["nodes"].as_array().unwrap();
        nodes.iter().find(|n| n["node"] == node).unwrap()["state"].as_str().unwrap().to_string()
    };
    // All that differs is what was asked; a kernel that changed as well is stale, whatever passes on the emulator.
    for node in ["rms_norm", "swiglu", "rope_tail"] {
        r.verdict(node, earlier);
    }
    r.verdict("take_rows", |v| {
        earlier(v);
        v.binding.closure = Digest::of(b"another kernel");
    });
    r.append();
    assert_eq!(["rms_norm", "swiglu", "take_rows"].map(|n| state(&r, n)), ["stale"; 3]);

    for node in ["rms_norm", "rope_tail", "take_rows"] {
        r.emulated(node, |_| ());
    }
    r.append();
    assert_eq!(["rms_norm", "rope_tail"].map(|n| state(&r, n)), ["simulated"; 2]);
    assert_eq!([state(&r, "swiglu"), state(&r, "take_rows")], ["stale", "emulated"]);
    let said = r.run(&["status"]).stdout;
    let rows =
        said.lines().filter(|l| l.contains("passes on the emulator") && l.contains("by an earlier judge; verify it"));
    assert_eq!(rows.count(), 2, "{said}");
    assert!(said.contains("2 of them by an earlier judge, and on the emulator by today's"), "{said}");

    // A Red takes it back: today's on the emulator, or the earlier judge's on the device.
    r.verdict("rms_norm", |v| {
        earlier(v);
        turn_red(v, Stage::Unit, "y is wrong");
    });
    r.emulated("rope_tail", |v| turn_red(v, Stage::Unit, "y is wrong"));
    r.append();
    assert_eq!(["rms_norm", "rope_tail"].map(|n| state(&r, n)), ["emulated", "red"]);
}
