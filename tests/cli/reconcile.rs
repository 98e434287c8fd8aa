//! `assay reconcile`: what somebody claims, against what the rows say, and no more.

use assay::ledger::{Class, Stage, StageOutcome};
use serde_json::Value;

use crate::bench::{Bench, Output};
use crate::recorded::Recorded;

/// What the failed port's progress file said, in its own names.
const CLAIMS: &str = r#"{
  "project": "ds4 cuda port", "updated": "2025-07-01T03:14:00Z", "phase": "complete",
  "kernels": {
    "ds4_gpu_rms_norm_plain_tensor": "done",
    "ds4_gpu_rms_norm_weight_rows_tensor": "done",
    "ds4_gpu_matmul_q8_0_tensor": "done",
    "DS4_GPU_Rope_Tail_Tensor": {"status": "complete", "time_us": 12.5},
    "ds4_gpu_routed_moe_one_tensor": "done",
    "ds4_gpu_compressor_prefill_ratio4_replay_tensor": "stub",
    "ds4_gpu_swiglu_tensor": "done",
    "ds4_gpu_embed_tokens_hc_tensor": "done",
    "ds4_gpu_flash_attention_tensor": "done"
  },
  "kernels_done": 25,
  "prefill_working": true,
  "prefill_tok_s": 343.5,
  "decode_speed": "12.1 tok/s"
}"#;

fn recorded() -> Recorded {
    let mut r = Recorded::new();
    r.pass(&["rms_norm"]);
    r.red("matmul[q8_0]", Stage::Unit, "y is wrong");
    r.red("rope_tail", Stage::Source, "stub: no byte of any output was written, in any case");
    r.pass(&["moe_gate_up[iq2_xxs]"]);
    r.red("moe_down[q2_k]", Stage::Prefill, "the logits differ");
    r.verdict("swiglu", |v| {
        v.class = Class::Emulated;
        v.binding.arch = "emulator".into();
    });
    r.append();
    r
}

fn reconcile(r: &Recorded, claims: &str, code: i32) -> Value {
    r.bench.write("claims.json", claims);
    let out = r.run(&["reconcile", "claims.json", "--json"]);
    assert_eq!(out.code, code, "{claims}: {}{}", out.stdout, out.stderr);
    serde_json::from_str(&out.stdout).unwrap()
}

/// Names and outcomes of a table.
fn outcomes(doc: &Value, table: &str) -> Vec<String> {
    let lines = doc[table].as_array().unwrap().iter();
    lines.map(|l| format!("{} {}", l["name"].as_str().unwrap(), l["outcome"].as_str().unwrap())).collect()
}

/// A device had passed it, by a judge of another day: "alone" was not so.
#[test]
fn what_a_device_said_once_is_told_beside_the_emulators_word() {
    let mut r = Recorded::new();
    r.verdict("swiglu", |v| {
        v.class = Class::Device;
        v.binding.schedule_slice = v.binding.closure;
    });
    r.verdict("swiglu", |v| {
        v.class = Class::Emulated;
        v.binding.arch = "emulator".into();
    });
    r.append();
    let doc = reconcile(&r, r#"["swiglu"]"#, 1);
    let said = doc.to_string();
    assert!(
        said.contains("stale on sm_90: schedule_slice changed since row 1; passes on the CPU emulator (row 2)"),
        "{said}"
    );
    assert!(!said.contains("emulator alone"), "{said}");
}

/// POSTMORTEM.md §8.
#[test]
fn the_failed_ports_claims_come_out_as_the_rows_say() {
    let r = recorded();
    r.bench.write("claims.json", CLAIMS);
    let out = r.run(&["reconcile", "claims.json"]);
    assert_eq!(out.code, 1, "{}{}", out.stdout, out.stderr);
    insta::assert_snapshot!(out.stdout.replace(&r.key.public().id().short(), "KEY"), @r"
    2 of 8 kernels claimed as done are confirmed; 3 are refuted; 2 are without evidence; 1 name is unknown; no row says that its prefill works; 3 speeds have no row.
    claims.json against small.gguf (27 nodes) and a ledger of 7 rows

     kernel                                           claimed   verdict       what the rows say
     ds4_gpu_rms_norm_plain_tensor                    done      confirmed     rms_norm: simulated on sm_90, no evidence of a device (row 1, key KEY)
     ds4_gpu_rms_norm_weight_rows_tensor              done      confirmed     rms_norm: simulated on sm_90, no evidence of a device (row 1, key KEY)
     ds4_gpu_matmul_q8_0_tensor                       done      REFUTED       matmul[q8_0]: red in stage 4 (unit): y is wrong (simulated, sm_90, row 2)
     DS4_GPU_Rope_Tail_Tensor                         complete  REFUTED       rope_tail: red in stage 2 (source): stub: no byte of any output was written, in any case (simulated, sm_90, row 3)
     ds4_gpu_routed_moe_one_tensor                    done      REFUTED       moe_down[q2_k]: red in stage 6 (prefill): the logits differ (simulated, sm_90, row 5)
                                                                              moe_gate_up[iq2_xxs]: simulated on sm_90, no evidence of a device (row 4, key KEY)
     ds4_gpu_compressor_prefill_ratio4_replay_tensor  stub      not claimed   compressor_prefill[f16]: no row; kernels/compressor_prefill.cu was never judged
     ds4_gpu_swiglu_tensor                            done      no evidence   swiglu: passes on the CPU emulator alone, which proves nothing of a device (row 6)
     ds4_gpu_embed_tokens_hc_tensor                   done      no evidence   embed[f16]: no row; kernels/embed.cu was never judged
     ds4_gpu_flash_attention_tensor                   done      unknown name  no op, node or upstream function of this name is on record

     prefill          claimed  verdict      what the rows say
     prefill_working  true     no evidence  no row on the whole schedule; 25 of 27 nodes are not green

     speed                                     claimed     verdict  what the rows say
     kernels.DS4_GPU_Rope_Tail_Tensor.time_us  12.5        no row   no row holds such a time
     prefill_tok_s                             343.5       no row   no bench row of a prefill
     decode_speed                              12.1 tok/s  no row   no bench row of decoding

     count         claimed  verdict      what the rows say
     kernels_done  25       no evidence  the file names 8 as done; rows confirm 2

    not held against rows: project, updated, phase

    gates never attempted: neither green nor a verdict or attempt on record
      embed[f16]                claimed as ds4_gpu_embed_tokens_hc_tensor
      matmul[f16]
      hc_split
      hc_weighted_sum
      head_rms_norm
      fp8_kv_round_trip
      store_rows
      attention_raw
      matmul_grouped[q8_0]
      hc_expand
      router_hash
      compressor_prefill[f16]
      compressor_state[f16]
      hadamard_fp4_round_trip
      attention_mixed
      router_topk
      take_rows
      output_hc_weights
      indexer_scores
      indexer_topk
      attention_indexed

    totals
      kernels claimed as done         8  which stand for 7 nodes of the plan
        confirmed                     2
        refuted                       3
        without evidence              2
        unknown names                 1
      listed as not done              1
      speeds claimed                  3
        without a row                 3
      nodes of the plan              27  2 green
      gates                          25
        never attempted              21
    ");
    let doc = reconcile(&r, CLAIMS, 1);
    assert_eq!(doc["schema"], "assay.reconcile/1");
    assert_eq!(doc["all_confirmed"], false);
    let moe = &doc["kernels"][4]["words"];
    assert_eq!((&moe[0]["node"], &moe[1]["node"]), (&"moe_down[q2_k]".into(), &"moe_gate_up[iq2_xxs]".into()));
    assert_eq!((&moe[0]["row"], &moe[0]["stage"]), (&5.into(), &"prefill".into()));
}

#[test]
fn a_claim_file_may_have_any_sane_shape() {
    // Without a ledger: what the file says is to be understood, whatever rows say of it.
    let bench = Bench::new();
    let reconcile = |claims: &str| -> Value {
        let out = answer(&bench, claims.as_bytes(), &["--json"]);
        serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{claims}: {e}: {}", out.stderr))
    };
    let both = ["rms_norm no_evidence", "rope_tail no_evidence"];
    for claims in [
        r#"["rms_norm", "rope_tail"]"#,
        r#"[{"name": "rms_norm", "status": "done"}, {"kernel": "rope_tail", "implemented": true}]"#,
        r#"[{"rms_norm": "done"}, {"rope_tail": "done"}]"#,
        r#"{"rms_norm": "done", "rope_tail": "completed (fast)"}"#,
        r#"{"rms_norm": true, "rope_tail": {"state": "PASS", "notes": "x"}}"#,
        r#"{"completed": ["rms_norm", "rope_tail"], "model": "m", "gpu": "H100"}"#,
        r#"{"kernels": {"done": ["rms_norm", "rope_tail"], "total": 2}}"#,
        r#"{"kernels": {"norms": {"rms_norm": "✓"}, "position": ["rope_tail"]}}"#,
        r#"{"phases": [{"name": "one", "kernels": [{"name": "rms_norm", "status": "ok"}, "rope_tail"]}]}"#,
        r#"{"cuda_kernels": ["rms_norm", "rope_tail"], "next_steps": ["tune"], "session": 4}"#,
        r#"{"week 1": ["ds4_gpu_rms_norm_plain_tensor", "rope_tail"], "team": [{"name": "Bob"}]}"#,
        r#"{"kernels": {"status": "complete", "rms_norm": "done", "rope_tail": {"file": "x.cu"}}}"#,
        r#"{"progress": {"cuda": {"kernels_completed": [{"function": "rms_norm"}, {"function": "rope_tail"}]}}}"#,
    ] {
        let doc = reconcile(claims);
        let names = outcomes(&doc, "kernels").join(" ").replace("ds4_gpu_rms_norm_plain_tensor", "rms_norm");
        assert_eq!(names, both.join(" "), "{claims}");
    }
    let doc = reconcile(r#"{"prefill": {"working": true, "tok_s": 343}, "decode": {"works": "yes", "speed": 9}}"#);
    assert_eq!(outcomes(&doc, "prefill"), ["prefill.working no_evidence"]);
    assert_eq!(outcomes(&doc, "speeds"), ["prefill.tok_s no_row", "decode.speed no_row"]);
    assert_eq!(outcomes(&doc, "others"), ["decode.works no_evidence"]);
    let doc = reconcile(r#"{"done": ["rms_norm"], "stubs": ["rope_tail", "flash"], "todo": ["swiglu"]}"#);
    assert_eq!(
        outcomes(&doc, "kernels"),
        ["rms_norm no_evidence", "rope_tail not_claimed", "flash not_claimed", "swiglu not_claimed"]
    );
}

#[test]
fn what_is_all_confirmed_exits_with_0_and_nothing_else_does() {
    let mut r = Recorded::new();
    r.pass(&["rms_norm", "rope_tail"]);
    r.bench("pp512", 3120.46);
    r.bench("tg128", 41.68);
    r.append();
    for (claims, code) in [
        (r#"["rms_norm", "ds4_gpu_rope_tail_tensor"]"#, 0),
        (r#"{"kernels": {"rms_norm": "done", "swiglu": "todo"}, "prefill_working": false, "kernels_done": 1}"#, 0),
        (r#"{"rms_norm": "done", "prefill_tps": 3120.5, "decode_tps": "41.7 t/s"}"#, 0),
        (r#"{"rms_norm": "done", "decode_tps": 41.8}"#, 1),
        (r#"{"rms_norm": "done", "prefill_ms": 12}"#, 1),
        (r#"{"rms_norm": "done", "prefill_working": true}"#, 1),
        (r#"{"rms_norm": "done", "decode_working": true}"#, 1),
        (r#"{"rms_norm": "done", "kernels_done": 2}"#, 1),
        (r#"["rms_norm", "rms_norn"]"#, 1),
    ] {
        reconcile(&r, claims, code);
    }
    let doc = reconcile(&r, r#"{"a": 1, "prefill_tps": 9999, "tokens_per_second": 3000, "decode_latency_ms": 3}"#, 1);
    assert_eq!(
        outcomes(&doc, "speeds"),
        ["prefill_tps refuted", "tokens_per_second confirmed", "decode_latency_ms no_row"]
    );
    // Speeds of a schedule that has changed since, and of a kernel that has.
    r.bench.write("kernels/rms_norm.cu", "// another\n");
    let doc = reconcile(&r, r#"{"rms_norm": "done", "prefill_tps": 3000}"#, 1);
    assert_eq!(outcomes(&doc, "speeds"), ["prefill_tps no_evidence"]);
    assert_eq!(outcomes(&doc, "kernels"), ["rms_norm no_evidence"]);
    assert!(doc["kernels"][0]["words"][0]["text"].as_str().unwrap().contains("stale"), "{doc}");
    // Evidence whose signer is not trusted here is none.
    let stranger = tempfile::tempdir().unwrap();
    let trust = stranger.path().join("trust.toml");
    std::fs::write(&trust, "").unwrap();
    r.bench.write("claims.json", r#"["rope_tail"]"#);
    let out = r.run(&["reconcile", "claims.json", "--trust", trust.to_str().unwrap()]);
    assert!(out.code == 1 && out.stdout.contains("no evidence"), "{}{}", out.stdout, out.stderr);
}

/// A stub that was judged and then thrown away left no kernel to bind, and its Red row was passed over.
#[test]
fn a_red_row_refutes_though_its_kernel_is_gone() {
    let r = recorded();
    std::fs::remove_file(r.bench.path("kernels/rope_tail.cu")).unwrap();
    std::fs::remove_file(r.bench.path("kernels/rope_tail.toml")).unwrap();
    let doc = reconcile(&r, r#"["rope_tail"]"#, 1);
    assert_eq!(outcomes(&doc, "kernels"), ["rope_tail refuted"]);
    assert_eq!(doc["kernels"][0]["words"][0]["stage"], "source");
}

#[test]
fn prefill_is_confirmed_by_the_schedules_row_and_those_of_its_nodes() {
    let mut r = Recorded::new();
    let status = r.run(&["status", "--json"]);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    let nodes: Vec<&str> = status["nodes"].as_array().unwrap().iter().map(|n| n["node"].as_str().unwrap()).collect();
    r.verdict("*", |v| v.stages.retain(|s| s.outcome == StageOutcome::Pass));
    r.pass(&nodes[1..]);
    r.append();
    let claim = r#"{"prefill_working": true}"#;
    let doc = reconcile(&r, claim, 1);
    assert_eq!(outcomes(&doc, "prefill"), ["prefill_working no_evidence"]);
    assert!(doc["prefill"][0]["words"][0]["text"].as_str().unwrap().contains("1 of "), "{doc}");
    r.pass(&nodes[..1]);
    r.append();
    let doc = reconcile(&r, claim, 0);
    assert_eq!(outcomes(&doc, "prefill"), ["prefill_working confirmed"]);
    assert_eq!(doc["totals"]["gates_never_attempted"], 0);
    r.verdict("*", |v| crate::recorded::turn_red(v, Stage::Graph, "a replay differs"));
    r.append();
    let doc = reconcile(&r, claim, 1);
    assert_eq!(outcomes(&doc, "prefill"), ["prefill_working refuted"]);
    assert_eq!(doc["prefill"][0]["words"][0]["stage"], "graph");
}

/// The process's answer to a file, whatever is in it.
fn answer(bench: &Bench, bytes: &[u8], more: &[&str]) -> Output {
    std::fs::write(bench.path("claims.json"), bytes).unwrap();
    bench.run(&[&["reconcile", "claims.json"], more].concat())
}

#[test]
fn a_malformed_claim_file_is_an_error_and_never_a_panic() {
    let bench = Bench::new();
    for (bytes, said) in [
        (&b""[..], "EOF"),
        (b"{\"kernels\": [", "EOF"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"42", "a number"),
        (b"\"done\"", "a text"),
        (b"null", "null"),
        (b"{}", "claims nothing"),
        (b"[]", "claims nothing"),
        (b"{\"kernels\": {}}", "claims nothing"),
        (b"{\"project\": \"x\"}", "claims nothing"),
        (b"[42]", "[0] is a number"),
        (b"{\"done\": [null]}", "done[0] is null"),
        (b"{\"kernels\\u001b[2J\": [null]}", "kernels\\u{1b}[2J[0] is null"),
        (b"{\"rms_norm\": \"done\", \"rms_norm\": \"stub\"}", "stands twice"),
        (b"[\"rms_norm\"] x", "trailing"),
        (b"{\"tps\": 1e999}", "out of range"),
        (b"{\"a\": NaN}", "expected value"),
    ] {
        let out = answer(&bench, bytes, &[]);
        assert_eq!(out.code, 3, "{}: {}", String::from_utf8_lossy(bytes), out.stderr);
        assert!(out.stderr.contains(said) && out.stderr.contains("[claim-file]"), "{said}: {}", out.stderr);
    }
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    assert!(answer(&bench, &deep, &[]).stderr.contains("recursion limit"));
    // A file of the largest size that is read, all of one node: it is looked at once.
    let same = format!("[{}\"rms_norm\"]", "\"rms_norm\",".repeat(90_000));
    assert_eq!(answer(&bench, same.as_bytes(), &[]).code, 1);
    let many = format!("[{}\"x\"]", "\"x\",".repeat(100_001));
    let out = answer(&bench, many.as_bytes(), &[]);
    assert!(out.code == 3 && out.stderr.contains("more than 100000 values"), "{}", out.stderr);
    let out = answer(&bench, &[b"[\"".to_vec(), vec![b'x'; 17 << 20], b"\"]".to_vec()].concat(), &[]);
    assert!(out.code == 3 && out.stderr.contains("too large"), "{}", out.stderr);
    rustix::fs::mkfifoat(rustix::fs::CWD, bench.path("pipe"), rustix::fs::Mode::RWXU).unwrap();
    for (path, said) in [("pipe", "no regular file"), (".", "no regular file"), ("nowhere.json", "No such file")] {
        let out = bench.run(&["reconcile", path]);
        assert!(out.code == 3 && out.stderr.contains(said), "{path}: {}", out.stderr);
    }
    assert_eq!(bench.run(&["reconcile"]).code, 2);
    // What is merely odd is answered, and nothing in it reaches the terminal raw.
    let odd = "{\"\\u001b[2J\\u202eevil\\nname\": \"done\", \"\": \"done\", \"kernels\": [\"\", \"../..\", \"a[b\", \"matmul[\"]}";
    let out = answer(&bench, odd.as_bytes(), &[]);
    assert_eq!(out.code, 1, "{}", out.stderr);
    assert!(!out.stdout.contains(['\u{1b}', '\u{202e}']) && out.stdout.contains("unknown name"), "{:?}", out.stdout);
}
