use crate::bench::Bench;

#[test]
fn the_first_gates_with_their_reasons_and_sources() {
    insta::assert_snapshot!(Bench::new().stdout(&["next", "-n", "2"]), @"");
}

#[test]
fn gates_come_in_the_order_in_which_a_prefill_meets_them_and_long_prompts_last() {
    let doc = Bench::new().json(&["next", "-n", "99", "--json"]);
    assert_eq!(doc["schema"], "assay.next/1");
    let gates = doc["gates"].as_array().unwrap();
    assert_eq!(gates.len() as u64, doc["total"].as_u64().unwrap());
    let key = |g: &serde_json::Value| (g["long_prompt_only"].as_bool().unwrap(), g["first"].as_u64().unwrap());
    assert!(gates.is_sorted_by_key(key));
    let last: Vec<_> = gates.iter().filter(|g| key(g).0).map(|g| g["node"].as_str().unwrap()).collect();
    assert_eq!(last, ["indexer_scores", "indexer_topk", "attention_indexed"]);
    let rope = gates.iter().find(|g| g["node"] == "rope_tail").unwrap();
    assert_eq!(rope["upstream"][0]["symbol"], "ds4_gpu_rope_tail_tensor");
    assert_eq!(rope["upstream"][0]["arguments"], 14);
}

#[test]
fn a_kernel_that_waits_for_its_verdict_is_not_to_be_written_again() {
    let bench = Bench::new();
    bench.kernel("embed", &["f16"]);
    bench.kernel("moe_gate_up.q4_k", &["q4_k"]);
    let out = bench.stdout(&["next", "-n", "1"]);
    insta::assert_snapshot!(out, @"");
}

#[test]
fn a_wrong_record_of_the_port_is_refused_by_name() {
    let bench = Bench::new();
    std::fs::remove_file(bench.path("reference/port")).unwrap();
    assert!(bench.stdout(&["next", "-n", "1"]).contains("there is no reference/port/embed.toml"));
    bench.write("reference/port/embed.toml", "op = \"embed\"\nupstream = [{ file = \"ds4.c\", symbol = \"f\" }]\n");
    let out = bench.run(&["next"]);
    assert_eq!(out.code, 3);
    assert!(out.stderr.contains("reference/port/embed.toml") && out.stderr.contains("[port-record]"), "{}", out.stderr);
}
