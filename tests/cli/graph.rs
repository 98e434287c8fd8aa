use std::collections::BTreeSet;

use crate::bench::{Bench, assay};

fn nodes(bench: &Bench, args: &[&str]) -> BTreeSet<String> {
    let doc = bench.json(&[&["graph", "--json"], args].concat());
    assert_eq!(doc["schema"], "assay.graph/1");
    doc["nodes"].as_array().unwrap().iter().map(|n| n["node"].as_str().unwrap().to_string()).collect()
}

/// One layer without compression: the smallest graph with every kind of section.
fn one_layer() -> Bench {
    let bench = Bench::new();
    bench.synth("one.gguf", &["--shape", "small", "--layers", "1"]);
    bench
}

#[test]
fn text() {
    insta::assert_snapshot!(one_layer().stdout(&["graph", "-m", "one.gguf"]), @"");
}

#[test]
fn mermaid() {
    insta::assert_snapshot!(one_layer().stdout(&["graph", "-m", "one.gguf", "--format", "mermaid"]), @"");
}

#[test]
fn dot() {
    insta::assert_snapshot!(one_layer().stdout(&["graph", "-m", "one.gguf", "--format", "dot"]), @"");
}

#[test]
fn svg_is_well_formed_and_holds_every_op_of_every_section() {
    let bench = Bench::new();
    let svg = bench.stdout(&["graph", "--format", "svg"]);
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').expect("every < has its >");
        assert!(!text.contains('>') && !tag.contains('\n'), "{tag}");
        assert!(tag.matches('"').count() % 2 == 0, "{tag}");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        match (tag.starts_with('/'), tag.ends_with('/')) {
            (true, _) => assert_eq!(open.pop(), Some(name)),
            (false, false) => open.push(name),
            (false, true) => {}
        }
    }
    assert!(open.is_empty() && !svg.contains("NaN") && !svg.contains("inf"), "{open:?}");
    let doc = bench.json(&["graph", "--json"]);
    for section in doc["sections"].as_array().unwrap() {
        assert!(svg.contains(section["title"].as_str().unwrap()));
        for member in section["members"].as_array().unwrap() {
            let leaf = member["label"].as_str().unwrap().rsplit_once('.').map_or("", |(_, l)| l);
            assert!(svg.contains(&format!("{leaf}</text>")), "{member}");
        }
    }
}

#[test]
fn nodes_differ_as_the_types_of_the_file_do() {
    let bench = Bench::new();
    bench.synth("q8.gguf", &["--shape", "small", "--type", "ffn_*_exps=q8_0"]);
    bench.synth("f32.gguf", &["--shape", "small", "--type", "output=f32", "--type", "ffn_*_exps@3=q4_k"]);
    bench.synth("flash.gguf", &["--shape", "flash", "--layers", "4", "--data", "sparse"]);
    let bundled = nodes(&bench, &[]);
    assert_eq!(nodes(&bench, &["-m", "flash.gguf"]), bundled, "the bundled model has the full shape's nodes");
    let difference = |model: &str| {
        let other = nodes(&bench, &["-m", model]);
        (other.difference(&bundled).cloned().collect::<Vec<_>>(), bundled.difference(&other).cloned().collect::<Vec<_>>())
    };
    let (more, less) = difference("q8.gguf");
    assert_eq!(more, ["moe_down[q8_0]", "moe_gate_up[q8_0]"]);
    assert_eq!(less, ["moe_down[q2_k]", "moe_gate_up[iq2_xxs]"]);
    let (more, less) = difference("f32.gguf");
    assert_eq!((more.as_slice(), less.len()), (["matmul[f32]", "moe_down[q4_k]", "moe_gate_up[q4_k]"].map(String::from).as_slice(), 0));
}

#[test]
fn a_prompt_length_leaves_out_what_does_not_act_in_it() {
    let bench = Bench::new();
    let all = nodes(&bench, &[]);
    let without = |args: &[&str]| all.difference(&nodes(&bench, args)).cloned().collect::<Vec<_>>();
    assert_eq!(without(&["--prompt-len", "196"]), Vec::<String>::new());
    assert_eq!(without(&["--prompt-len", "195"]), ["attention_indexed", "indexer_scores", "indexer_topk"]);
    assert!(without(&["--prompt-len", "3"]).contains(&"compressor_prefill[f16]".to_string()));
    // The step behind 512 tokens completes no compressed row; the one behind 511 does.
    assert!(without(&["--decode"]).contains(&"compressor_prefill[f16]".to_string()));
    assert_eq!(without(&["--decode", "--prompt-len", "511"]), Vec::<String>::new());
    let exact = without(&["--numerics", "exact"]);
    assert_eq!(exact, ["fp8_kv_round_trip", "hadamard_fp4_round_trip"]);
}

#[test]
fn it_needs_no_workbench() {
    let bench = one_layer();
    let dir = tempfile::tempdir().unwrap();
    let model = bench.path("one.gguf");
    let out = assay(dir.path(), &["graph", "-m", model.to_str().unwrap()]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(!out.stdout.contains("state"));
}
