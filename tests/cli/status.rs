use serde_json::Value;

use crate::bench::Bench;

#[test]
fn a_fresh_workbench_says_plainly_that_nothing_is_proved() {
    insta::assert_snapshot!(Bench::new().stdout(&["status"]), @"");
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

#[test]
fn kernels_are_told_apart_by_what_can_be_said_of_them() {
    insta::assert_snapshot!(kinds().stdout(&["status"]), @"");
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
    insta::assert_snapshot!(out, @"");
    let states: std::collections::BTreeSet<_> = doc["nodes"].as_array().unwrap().iter().map(|n| n["state"].to_string()).collect();
    assert_eq!(states.into_iter().collect::<Vec<_>>(), ["\"absent\"", "\"broken\"", "\"unproved\""]);
}

#[test]
fn a_ledger_is_never_taken_for_no_ledger() {
    let bench = Bench::new();
    bench.write("state/ledger.jsonl", "not a row\n");
    assert_ne!(bench.run(&["status"]).code, 0);
}

#[test]
fn outside_of_a_workbench_it_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let out = crate::bench::assay(dir.path(), &["status"]);
    assert_eq!(out.code, 3);
    assert!(out.stderr.contains("[workbench-missing]") && out.stderr.contains("next:"), "{}", out.stderr);
}
