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
    insta::assert_snapshot!(one_layer().stdout(&["graph", "-m", "one.gguf"]), @r"
    one.gguf: prefill of any length, ds4 numerics
    19 nodes, 42 op instances

    input
      token_embd  embed[f16]  ← (tokens)

    layer 0: attention, ratio 0
      hc_attn_norm    rms_norm              ← (h)
      hc_attn_fn      matmul[f16]           ← hc_attn_norm
      hc_attn_split   hc_split              ← hc_attn_fn
      hc_attn_sum     hc_weighted_sum       ← (h), hc_attn_split
      attn_norm       rms_norm              ← hc_attn_sum
      attn_q_a        matmul[q8_0]          ← attn_norm
      attn_kv         matmul[q8_0]          ← attn_norm
      attn_q_a_norm   rms_norm              ← attn_q_a
      attn_kv_a_norm  rms_norm              ← attn_kv
      attn_q_b        matmul[q8_0]          ← attn_q_a_norm
      attn_q_norm     head_rms_norm         ← attn_q_b
      attn_q_rope     rope_tail             ← attn_q_norm
      attn_kv_rope    rope_tail             ← attn_kv_a_norm
      attn_kv_fp8     fp8_kv_round_trip     ← attn_kv_rope
      attn_kv_store   store_rows            ← attn_kv_fp8
      attention_raw   attention_raw         ← attn_kv_store, attn_q_rope
      attn_o_rope     rope_tail             ← attention_raw
      attn_output_a   matmul_grouped[q8_0]  ← attn_o_rope
      attn_output_b   matmul[q8_0]          ← attn_output_a
      hc_attn_expand  hc_expand             ← (h), attn_output_b, hc_attn_split

    layer 0: experts, routed by token id
      hc_ffn_norm       rms_norm              ← (h)
      hc_ffn_fn         matmul[f16]           ← hc_ffn_norm
      hc_ffn_split      hc_split              ← hc_ffn_fn
      hc_ffn_sum        hc_weighted_sum       ← (h), hc_ffn_split
      ffn_norm          rms_norm              ← hc_ffn_sum
      ffn_gate_inp      matmul[f16]           ← ffn_norm
      router            router_hash           ← (tokens), ffn_gate_inp
      ffn_gate_up_exps  moe_gate_up[iq2_xxs]  ← ffn_norm, router
      ffn_down_exps     moe_down[q2_k]        ← ffn_gate_up_exps, router
      ffn_gate_shexp    matmul[q8_0]          ← ffn_norm
      ffn_up_shexp      matmul[q8_0]          ← ffn_norm
      ffn_shexp_swiglu  swiglu                ← ffn_gate_shexp, ffn_up_shexp
      ffn_down_shexp    matmul[q8_0]          ← ffn_shexp_swiglu
      hc_ffn_expand     hc_expand             ← (h), ffn_down_exps, ffn_down_shexp, hc_ffn_split

    head
      output_rows        take_rows          ← (h)
      output_hc_norm     rms_norm           ← output_rows
      output_hc_fn       matmul[f16]        ← output_hc_norm
      output_hc_weights  output_hc_weights  ← output_hc_fn
      output_hc_sum      hc_weighted_sum    ← output_hc_weights, output_rows
      output_norm        rms_norm           ← output_hc_sum
      output             matmul[q8_0]       ← output_norm

    nodes
     node                  instances  acts    reads what these write                                       state
     embed[f16]            1          always                                                               absent
     rms_norm              8          always  embed[f16] hc_expand hc_weighted_sum matmul[q8_0] take_rows  absent
     matmul[f16]           4          always  rms_norm                                                     absent
     hc_split              2          always  matmul[f16]                                                  absent
     hc_weighted_sum       3          always  embed[f16] hc_expand hc_split output_hc_weights take_rows    absent
     matmul[q8_0]          8          always  matmul_grouped[q8_0] rms_norm swiglu                         absent
     head_rms_norm         1          always  matmul[q8_0]                                                 absent
     rope_tail             3          always  attention_raw head_rms_norm rms_norm                         absent
     fp8_kv_round_trip     1          always  rope_tail                                                    absent
     store_rows            1          always  fp8_kv_round_trip                                            absent
     attention_raw         1          always  rope_tail store_rows                                         absent
     matmul_grouped[q8_0]  1          always  rope_tail                                                    absent
     hc_expand             2          always  embed[f16] hc_expand hc_split matmul[q8_0] moe_down[q2_k]    absent
     router_hash           1          always  matmul[f16]                                                  absent
     moe_gate_up[iq2_xxs]  1          always  rms_norm router_hash                                         absent
     moe_down[q2_k]        1          always  moe_gate_up[iq2_xxs] router_hash                             absent
     swiglu                1          always  matmul[q8_0]                                                 absent
     take_rows             1          always  hc_expand                                                    absent
     output_hc_weights     1          always  matmul[f16]                                                  absent
    ");
}

#[test]
fn mermaid() {
    insta::assert_snapshot!(one_layer().stdout(&["graph", "-m", "one.gguf", "--format", "mermaid"]), @r#"
    ---
    title: "one.gguf: prefill of any length, ds4 numerics"
    ---
    flowchart TB
      subgraph s0 ["input"]
        direction TB
        s0b0(["tokens"])
        s0b1["token_embd<br/>embed[f16]"]:::absent
        s0b0 --> s0b1
      end
      subgraph s1 ["layer 0: attention, ratio 0"]
        direction TB
        s1b0(["h"])
        s1b1["hc_attn_norm<br/>rms_norm"]:::absent
        s1b2["hc_attn_fn<br/>matmul[f16]"]:::absent
        s1b3["hc_attn_split<br/>hc_split"]:::absent
        s1b4["hc_attn_sum<br/>hc_weighted_sum"]:::absent
        s1b5["attn_norm<br/>rms_norm"]:::absent
        s1b6["attn_q_a<br/>matmul[q8_0]"]:::absent
        s1b7["attn_kv<br/>matmul[q8_0]"]:::absent
        s1b8["attn_q_a_norm<br/>rms_norm"]:::absent
        s1b9["attn_kv_a_norm<br/>rms_norm"]:::absent
        s1b10["attn_q_b<br/>matmul[q8_0]"]:::absent
        s1b11["attn_q_norm<br/>head_rms_norm"]:::absent
        s1b12["attn_q_rope<br/>rope_tail"]:::absent
        s1b13["attn_kv_rope<br/>rope_tail"]:::absent
        s1b14["attn_kv_fp8<br/>fp8_kv_round_trip"]:::absent
        s1b15["attn_kv_store<br/>store_rows"]:::absent
        s1b16["attention_raw<br/>attention_raw"]:::absent
        s1b17["attn_o_rope<br/>rope_tail"]:::absent
        s1b18["attn_output_a<br/>matmul_grouped[q8_0]"]:::absent
        s1b19["attn_output_b<br/>matmul[q8_0]"]:::absent
        s1b20["hc_attn_expand<br/>hc_expand"]:::absent
        s1b0 --> s1b1
        s1b0 --> s1b4
        s1b0 --> s1b20
        s1b1 --> s1b2
        s1b2 --> s1b3
        s1b3 --> s1b4
        s1b3 --> s1b20
        s1b4 --> s1b5
        s1b5 --> s1b6
        s1b5 --> s1b7
        s1b6 --> s1b8
        s1b7 --> s1b9
        s1b8 --> s1b10
        s1b9 --> s1b13
        s1b10 --> s1b11
        s1b11 --> s1b12
        s1b12 --> s1b16
        s1b13 --> s1b14
        s1b14 --> s1b15
        s1b15 --> s1b16
        s1b16 --> s1b17
        s1b17 --> s1b18
        s1b18 --> s1b19
        s1b19 --> s1b20
      end
      subgraph s2 ["layer 0: experts, routed by token id"]
        direction TB
        s2b0(["h"])
        s2b1(["tokens"])
        s2b2["hc_ffn_norm<br/>rms_norm"]:::absent
        s2b3["hc_ffn_fn<br/>matmul[f16]"]:::absent
        s2b4["hc_ffn_split<br/>hc_split"]:::absent
        s2b5["hc_ffn_sum<br/>hc_weighted_sum"]:::absent
        s2b6["ffn_norm<br/>rms_norm"]:::absent
        s2b7["ffn_gate_inp<br/>matmul[f16]"]:::absent
        s2b8["router<br/>router_hash"]:::absent
        s2b9["ffn_gate_up_exps<br/>moe_gate_up[iq2_xxs]"]:::absent
        s2b10["ffn_down_exps<br/>moe_down[q2_k]"]:::absent
        s2b11["ffn_gate_shexp<br/>matmul[q8_0]"]:::absent
        s2b12["ffn_up_shexp<br/>matmul[q8_0]"]:::absent
        s2b13["ffn_shexp_swiglu<br/>swiglu"]:::absent
        s2b14["ffn_down_shexp<br/>matmul[q8_0]"]:::absent
        s2b15["hc_ffn_expand<br/>hc_expand"]:::absent
        s2b0 --> s2b2
        s2b0 --> s2b5
        s2b0 --> s2b15
        s2b1 --> s2b8
        s2b2 --> s2b3
        s2b3 --> s2b4
        s2b4 --> s2b5
        s2b4 --> s2b15
        s2b5 --> s2b6
        s2b6 --> s2b7
        s2b6 --> s2b9
        s2b6 --> s2b11
        s2b6 --> s2b12
        s2b7 --> s2b8
        s2b8 --> s2b9
        s2b8 --> s2b10
        s2b9 --> s2b10
        s2b10 --> s2b15
        s2b11 --> s2b13
        s2b12 --> s2b13
        s2b13 --> s2b14
        s2b14 --> s2b15
      end
      subgraph s3 ["head"]
        direction TB
        s3b0(["h"])
        s3b1["output_rows<br/>take_rows"]:::absent
        s3b2["output_hc_norm<br/>rms_norm"]:::absent
        s3b3["output_hc_fn<br/>matmul[f16]"]:::absent
        s3b4["output_hc_weights<br/>output_hc_weights"]:::absent
        s3b5["output_hc_sum<br/>hc_weighted_sum"]:::absent
        s3b6["output_norm<br/>rms_norm"]:::absent
        s3b7["output<br/>matmul[q8_0]"]:::absent
        s3b0 --> s3b1
        s3b1 --> s3b2
        s3b1 --> s3b5
        s3b2 --> s3b3
        s3b3 --> s3b4
        s3b4 --> s3b5
        s3b5 --> s3b6
        s3b6 --> s3b7
      end
      s0 ==> s1
      s1 ==> s2
      s2 ==> s3
      classDef absent fill:#ececec,stroke:#777777,color:#000
    "#);
}

#[test]
fn dot() {
    insta::assert_snapshot!(one_layer().stdout(&["graph", "-m", "one.gguf", "--format", "dot"]), @r##"
    digraph assay {
      label="one.gguf: prefill of any length, ds4 numerics";
      compound=true;
      labelloc=t;
      node [shape=box, fontname="monospace", fontsize=10];
      subgraph cluster_0 {
        label="input";
        style=rounded;
        s0b0 [label="tokens", shape=oval];
        s0b1 [label="token_embd\nembed[f16]", style=filled, fillcolor="#ececec", color="#777777"];
        s0b0 -> s0b1;
      }
      subgraph cluster_1 {
        label="layer 0: attention, ratio 0";
        style=rounded;
        s1b0 [label="h", shape=oval];
        s1b1 [label="hc_attn_norm\nrms_norm", style=filled, fillcolor="#ececec", color="#777777"];
        s1b2 [label="hc_attn_fn\nmatmul[f16]", style=filled, fillcolor="#ececec", color="#777777"];
        s1b3 [label="hc_attn_split\nhc_split", style=filled, fillcolor="#ececec", color="#777777"];
        s1b4 [label="hc_attn_sum\nhc_weighted_sum", style=filled, fillcolor="#ececec", color="#777777"];
        s1b5 [label="attn_norm\nrms_norm", style=filled, fillcolor="#ececec", color="#777777"];
        s1b6 [label="attn_q_a\nmatmul[q8_0]", style=filled, fillcolor="#ececec", color="#777777"];
        s1b7 [label="attn_kv\nmatmul[q8_0]", style=filled, fillcolor="#ececec", color="#777777"];
        s1b8 [label="attn_q_a_norm\nrms_norm", style=filled, fillcolor="#ececec", color="#777777"];
        s1b9 [label="attn_kv_a_norm\nrms_norm", style=filled, fillcolor="#ececec", color="#777777"];
        s1b10 [label="attn_q_b\nmatmul[q8_0]", style=filled, fillcolor="#ececec", color="#777777"];
        s1b11 [label="attn_q_norm\nhead_rms_norm", style=filled, fillcolor="#ececec", color="#777777"];
        s1b12 [label="attn_q_rope\nrope_tail", style=filled, fillcolor="#ececec", color="#777777"];
        s1b13 [label="attn_kv_rope\nrope_tail", style=filled, fillcolor="#ececec", color="#777777"];
        s1b14 [label="attn_kv_fp8\nfp8_kv_round_trip", style=filled, fillcolor="#ececec", color="#777777"];
        s1b15 [label="attn_kv_store\nstore_rows", style=filled, fillcolor="#ececec", color="#777777"];
        s1b16 [label="attention_raw\nattention_raw", style=filled, fillcolor="#ececec", color="#777777"];
        s1b17 [label="attn_o_rope\nrope_tail", style=filled, fillcolor="#ececec", color="#777777"];
        s1b18 [label="attn_output_a\nmatmul_grouped[q8_0]", style=filled, fillcolor="#ececec", color="#777777"];
        s1b19 [label="attn_output_b\nmatmul[q8_0]", style=filled, fillcolor="#ececec", color="#777777"];
        s1b20 [label="hc_attn_expand\nhc_expand", style=filled, fillcolor="#ececec", color="#777777"];
        s1b0 -> s1b1;
        s1b0 -> s1b4;
        s1b0 -> s1b20;
        s1b1 -> s1b2;
        s1b2 -> s1b3;
        s1b3 -> s1b4;
        s1b3 -> s1b20;
        s1b4 -> s1b5;
        s1b5 -> s1b6;
        s1b5 -> s1b7;
        s1b6 -> s1b8;
        s1b7 -> s1b9;
        s1b8 -> s1b10;
        s1b9 -> s1b13;
        s1b10 -> s1b11;
        s1b11 -> s1b12;
        s1b12 -> s1b16;
        s1b13 -> s1b14;
        s1b14 -> s1b15;
        s1b15 -> s1b16;
        s1b16 -> s1b17;
        s1b17 -> s1b18;
        s1b18 -> s1b19;
        s1b19 -> s1b20;
      }
      subgraph cluster_2 {
        label="layer 0: experts, routed by token id";
        style=rounded;
        s2b0 [label="h", shape=oval];
        s2b1 [label="tokens", shape=oval];
        s2b2 [label="hc_ffn_norm\nrms_norm", style=filled, fillcolor="#ececec", color="#777777"];
        s2b3 [label="hc_ffn_fn\nmatmul[f16]", style=filled, fillcolor="#ececec", color="#777777"];
        s2b4 [label="hc_ffn_split\nhc_split", style=filled, fillcolor="#ececec", color="#777777"];
        s2b5 [label="hc_ffn_sum\nhc_weighted_sum", style=filled, fillcolor="#ececec", color="#777777"];
        s2b6 [label="ffn_norm\nrms_norm", style=filled, fillcolor="#ececec", color="#777777"];
        s2b7 [label="ffn_gate_inp\nmatmul[f16]", style=filled, fillcolor="#ececec", color="#777777"];
        s2b8 [label="router\nrouter_hash", style=filled, fillcolor="#ececec", color="#777777"];
        s2b9 [label="ffn_gate_up_exps\nmoe_gate_up[iq2_xxs]", style=filled, fillcolor="#ececec", color="#777777"];
        s2b10 [label="ffn_down_exps\nmoe_down[q2_k]", style=filled, fillcolor="#ececec", color="#777777"];
        s2b11 [label="ffn_gate_shexp\nmatmul[q8_0]", style=filled, fillcolor="#ececec", color="#777777"];
        s2b12 [label="ffn_up_shexp\nmatmul[q8_0]", style=filled, fillcolor="#ececec", color="#777777"];
        s2b13 [label="ffn_shexp_swiglu\nswiglu", style=filled, fillcolor="#ececec", color="#777777"];
        s2b14 [label="ffn_down_shexp\nmatmul[q8_0]", style=filled, fillcolor="#ececec", color="#777777"];
        s2b15 [label="hc_ffn_expand\nhc_expand", style=filled, fillcolor="#ececec", color="#777777"];
        s2b0 -> s2b2;
        s2b0 -> s2b5;
        s2b0 -> s2b15;
        s2b1 -> s2b8;
        s2b2 -> s2b3;
        s2b3 -> s2b4;
        s2b4 -> s2b5;
        s2b4 -> s2b15;
        s2b5 -> s2b6;
        s2b6 -> s2b7;
        s2b6 -> s2b9;
        s2b6 -> s2b11;
        s2b6 -> s2b12;
        s2b7 -> s2b8;
        s2b8 -> s2b9;
        s2b8 -> s2b10;
        s2b9 -> s2b10;
        s2b10 -> s2b15;
        s2b11 -> s2b13;
        s2b12 -> s2b13;
        s2b13 -> s2b14;
        s2b14 -> s2b15;
      }
      subgraph cluster_3 {
        label="head";
        style=rounded;
        s3b0 [label="h", shape=oval];
        s3b1 [label="output_rows\ntake_rows", style=filled, fillcolor="#ececec", color="#777777"];
        s3b2 [label="output_hc_norm\nrms_norm", style=filled, fillcolor="#ececec", color="#777777"];
        s3b3 [label="output_hc_fn\nmatmul[f16]", style=filled, fillcolor="#ececec", color="#777777"];
        s3b4 [label="output_hc_weights\noutput_hc_weights", style=filled, fillcolor="#ececec", color="#777777"];
        s3b5 [label="output_hc_sum\nhc_weighted_sum", style=filled, fillcolor="#ececec", color="#777777"];
        s3b6 [label="output_norm\nrms_norm", style=filled, fillcolor="#ececec", color="#777777"];
        s3b7 [label="output\nmatmul[q8_0]", style=filled, fillcolor="#ececec", color="#777777"];
        s3b0 -> s3b1;
        s3b1 -> s3b2;
        s3b1 -> s3b5;
        s3b2 -> s3b3;
        s3b3 -> s3b4;
        s3b4 -> s3b5;
        s3b5 -> s3b6;
        s3b6 -> s3b7;
      }
      s0b1 -> s1b0 [ltail=cluster_0, lhead=cluster_1, penwidth=2];
      s1b20 -> s2b0 [ltail=cluster_1, lhead=cluster_2, penwidth=2];
      s2b15 -> s3b0 [ltail=cluster_2, lhead=cluster_3, penwidth=2];
    }
    "##);
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
        (
            other.difference(&bundled).cloned().collect::<Vec<_>>(),
            bundled.difference(&other).cloned().collect::<Vec<_>>(),
        )
    };
    let (more, less) = difference("q8.gguf");
    assert_eq!(more, ["moe_down[q8_0]", "moe_gate_up[q8_0]"]);
    assert_eq!(less, ["moe_down[q2_k]", "moe_gate_up[iq2_xxs]"]);
    let (more, less) = difference("f32.gguf");
    assert_eq!(
        (more.as_slice(), less.len()),
        (["matmul[f32]", "moe_down[q4_k]", "moe_gate_up[q4_k]"].map(String::from).as_slice(), 0)
    );
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
