use crate::bench::Bench;

#[test]
fn the_first_gates_with_their_reasons_and_sources() {
    insta::assert_snapshot!(Bench::new().stdout(&["next", "-n", "2"]), @r"
    27 of the 27 nodes that a prefill of model.gguf needs are not green; next, port embed[f16].

    1. embed[f16]: stops every prefill at op 0 (token_embd), 221 later ops wait for it; 1 instance
       computes  H[t, s, :] = table[ids[t], :] for every stream s (docs/model.md §4)
       kernel    none yet: kernels/embed.f16.cu and .toml, on kernels/args/embed.h
       upstream  ds4_gpu.h   ds4_gpu_embed_token_hc_tensor, 8 arguments (one token, its id by value)
                 ds4_gpu.h   ds4_gpu_embed_tokens_hc_tensor, 9 arguments (a batch, ids in a buffer)
                 ds4_cuda.cu embed_token_hc_kernel, 5 arguments
                 ds4_cuda.cu embed_tokens_hc_kernel, 7 arguments (an id past the vocabulary reads row 0)
                 ds4.c       embed_token_f16, 4 arguments (one row; hc_from_plain_embedding copies it to the streams)

    2. rms_norm: stops every prefill at op 1 (blk.0.hc_attn_norm), 220 later ops wait for it; 32 instances in 5 layers
       computes  y[r, :] = x[r, :] / sqrt(mean(x[r, :]²) + eps) · w, w = 1 when absent (docs/model.md §6)
       kernel    none yet: kernels/rms_norm.cu and .toml, on kernels/args/rms_norm.h
       upstream  ds4_gpu.h   ds4_gpu_rms_norm_plain_tensor, 4 arguments (one row, no gain)
                 ds4_gpu.h   ds4_gpu_rms_norm_plain_rows_tensor, 5 arguments (rows, no gain: the norm before a hyper-connection mix)
                 ds4_gpu.h   ds4_gpu_rms_norm_weight_tensor, 7 arguments (one row)
                 ds4_gpu.h   ds4_gpu_rms_norm_weight_rows_tensor, 8 arguments (rows)
                 ds4_gpu.h   ds4_gpu_dsv4_qkv_rms_norm_rows_tensor, 12 arguments (query latent and key/value row in one launch)
                 ds4_cuda.cu rms_norm_plain_kernel, 5 arguments
                 ds4_cuda.cu rms_norm_weight_kernel, 6 arguments
                 ds4_cuda.cu dsv4_qkv_rms_norm_rows_kernel, 10 arguments
                 ds4.c       rms_norm_no_weight, 4 arguments (sums squares in f64)
                 ds4.c       rms_norm_weight, 5 arguments (sums squares in f64)

    25 more: assay next -n 27
    ");
}

/// POSTMORTEM.md §5.
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
    insta::assert_snapshot!(out, @r"
    27 of the 27 nodes that a prefill of model.gguf needs are not green; next, verify embed[f16].

    1. embed[f16]: stops every prefill at op 0 (token_embd), 221 later ops wait for it; 1 instance
       computes  H[t, s, :] = table[ids[t], :] for every stream s (docs/model.md §4)
       kernel    kernels/embed.cu, not proved: assay verify embed.f16
       upstream  ds4_gpu.h   ds4_gpu_embed_token_hc_tensor, 8 arguments (one token, its id by value)
                 ds4_gpu.h   ds4_gpu_embed_tokens_hc_tensor, 9 arguments (a batch, ids in a buffer)
                 ds4_cuda.cu embed_token_hc_kernel, 5 arguments
                 ds4_cuda.cu embed_tokens_hc_kernel, 7 arguments (an id past the vocabulary reads row 0)
                 ds4.c       embed_token_f16, 4 arguments (one row; hc_from_plain_embedding copies it to the streams)

    26 more: assay next -n 27

    kernels that this file cannot reach
     kernels/moe_gate_up.q4_k: no tensor of this file that moe_gate_up reads has type q4_k
    ");
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

/// Commands that were pasted asked about the workbench's own file, where what is red may pass.
#[test]
fn a_file_that_was_named_is_named_in_commands_too() {
    let bench = Bench::light();
    bench.synth("odd file.gguf", &["--shape", "small", "--layers", "1"]);
    let named = |args: &[&str]| bench.stdout(&[args, &["-m", "odd file.gguf"]].concat());
    let (next, status) = (named(&["next", "-n", "1"]), named(&["status"]));
    assert!(next.contains("more: assay next -m 'odd file.gguf' -n "), "{next}");
    assert!(next.contains("not proved: assay verify ") && !next.contains("assay verify embed.f16\n"), "{next}");
    assert!(status.contains("(assay next -m 'odd file.gguf')") && !status.contains("(assay next)"), "{status}");
    // Of the workbench's own file there is no need.
    let own = bench.stdout(&["next", "-n", "1", "-m", "model.gguf"]);
    assert!(own.contains("more: assay next -n "), "{own}");

    let kernel = std::fs::read_to_string(bench.path("kernels/swiglu.cu")).unwrap();
    bench.write("kernels/swiglu.cu", &kernel.replace("g / (1.0f + expf(-g))", "g / (1.0f + expf(g))"));
    let out = bench.run(&["verify", "swiglu", "-m", "odd file.gguf", "--backend", "emulator", "--numerics", "exact"]);
    if out.code == 3 {
        return println!("could not run: {}", out.stderr);
    }
    let again = out.stdout.lines().find_map(|l| l.trim().strip_prefix("again: assay ")).unwrap_or_default();
    assert!(
        again.starts_with("verify 'swiglu' -m 'odd file.gguf' --backend emulator --numerics exact --seed "),
        "{}",
        out.stdout
    );
}
