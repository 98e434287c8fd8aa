//! What hangs in the gallery, and how the verifier is to take it.

pub enum Expected {
    Pass,
    /// The stage that is red (`a or b` where it depends on the machine), and a piece of its reason.
    Red(&'static str, &'static str),
}
use Expected::{Pass, Red};

pub struct Exhibit {
    pub name: &'static str,
    pub node: &'static str,
    pub change: Change,
    pub expected: Expected,
}

/// What it does to a copy of the repository's kernels.
pub enum Change {
    /// Files of this folder take the place of the kernel `replaces`: its `.cu` and its `.toml`.
    Files { replaces: &'static str, source: &'static str, manifest: &'static str },
    /// One edit of one file: a mistake that a hand may make.
    Edit { file: &'static str, from: &'static str, to: &'static str },
}

const fn of(
    node: &'static str,
    replaces: &'static str,
    manifest: &'static str,
    name: &'static str,
    expected: Expected,
) -> Exhibit {
    Exhibit { name, node, change: Change::Files { replaces, source: name, manifest }, expected }
}

pub const fn edit(
    name: &'static str,
    node: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
    expected: Expected,
) -> Exhibit {
    Exhibit { name, node, change: Change::Edit { file, from, to }, expected }
}

impl Exhibit {
    /// With other files under the same name.
    const fn files(self, replaces: &'static str, source: &'static str, manifest: &'static str) -> Exhibit {
        Exhibit { change: Change::Files { replaces, source, manifest }, ..self }
    }
}

const fn swiglu(name: &'static str, expected: Expected) -> Exhibit {
    of("swiglu", "swiglu", "swiglu", name, expected)
}

/// The honest kernel under a manifest that is not.
const fn launched_by(manifest: &'static str, expected: Expected) -> Exhibit {
    of("swiglu", "swiglu", manifest, manifest, expected).files("swiglu", "honest_swiglu", manifest)
}

const fn rms_norm(name: &'static str, expected: Expected) -> Exhibit {
    of("rms_norm", "rms_norm", "rms_norm", name, expected)
}

const fn rope_tail(name: &'static str, expected: Expected) -> Exhibit {
    of("rope_tail", "rope_tail", "rope_tail", name, expected)
}

const fn matmul(name: &'static str, expected: Expected) -> Exhibit {
    of("matmul[f16]", "matmul.f16", "matmul_f16", name, expected)
}

const fn moe_gate_up(name: &'static str, expected: Expected) -> Exhibit {
    of("moe_gate_up[iq2_xxs]", "moe_gate_up.iq2_xxs", "moe_gate_up", name, expected)
}

const fn compressor(name: &'static str, expected: Expected) -> Exhibit {
    of("compressor_prefill[f16]", "compressor_prefill", "compressor_prefill", name, expected)
}

const fn indexer_scores(name: &'static str, expected: Expected) -> Exhibit {
    of("indexer_scores", "indexer_scores", "indexer_scores", name, expected)
}

const fn attention(name: &'static str, expected: Expected) -> Exhibit {
    of("attention_raw", "attention_raw", "attention_raw", name, expected)
}

pub const EXHIBITS: &[Exhibit] = &[
    // Honest work passes, however it is arranged.
    swiglu("honest_swiglu", Pass),
    rms_norm("other_block_size", Pass).files("rms_norm", "other_block_size", "rms_norm_64"),
    rms_norm("other_accumulation_order", Pass),
    attention("f16_operands", Pass).files("attention_raw", "f16_operands", "attention_raw_f16"),
    swiglu("odd_block_size", Pass).files("swiglu", "odd_block_size", "swiglu_101"),
    swiglu("grid_stride_loop", Pass).files("swiglu", "grid_stride_loop", "swiglu_seven_blocks"),
    swiglu("reciprocal_first", Pass),
    rms_norm("two_launches_through_scratch", Pass).files(
        "rms_norm",
        "two_launches_through_scratch",
        "rms_norm_two_launches",
    ),
    rms_norm("compensated_sum", Pass),
    matmul("split_k_with_atomics", Pass).files("matmul.f16", "split_k_with_atomics", "matmul_split_k"),
    // Nothing, or not all of it (POSTMORTEM.md §3).
    swiglu("stub_without_store", Red("source", "stub")),
    swiglu("zeros", Red("unit", "h is wrong")),
    swiglu("first_tile_only", Red("unit", "never written")),
    swiglu("stale_output", Red("unit", "what outputs or scratch held before")),
    swiglu("adds_to_its_output", Red("unit", "held before")),
    swiglu("nan_outputs", Red("unit", "h is wrong")),
    swiglu("vectorised_without_tail", Red("unit", "")),
    swiglu("constants_within_a_tolerance", Red("unit", "h is wrong")),
    swiglu("hard_coded_shape", Red("unit", "")),
    swiglu("special_cased_to_few_tokens", Red("unit", "h is wrong")),
    launched_by("fewer_blocks", Red("unit", "never written")),
    launched_by("grid_without_tokens", Red("unit", "never written")),
    launched_by("another_entry", Red("source", "no entry")),
    launched_by("never_launched", Red("source", "launch")),
    launched_by("block_over_the_limit", Red("source", "block")),
    launched_by("shared_over_the_limit", Red("unit", "shared")),
    // The wrong bytes (§4).
    moe_gate_up("q8_0_on_iq2_xxs", Red("unit", "")),
    moe_gate_up("block_pointer_never_advanced", Red("unit", "mid is wrong")),
    of(
        "moe_gate_up[q8_0]",
        "moe_gate_up.q8_0",
        "moe_gate_up_q8_0",
        "kernel_for_a_type_the_file_lacks",
        Red("weights", "unreachable"),
    ),
    moe_gate_up("gate_for_up", Red("unit", "mid is wrong")),
    // Nearly right, at what gates a prefill (§5).
    compressor("compressor_averages", Red("unit", "rows is wrong")),
    compressor("compressor_turns_by_the_last_position", Red("unit", "rows is wrong")),
    indexer_scores("no_relu", Red("unit", "s is wrong")),
    indexer_scores("visible_too_early", Red("unit", "s is wrong")),
    indexer_scores("hides_by_zero", Red("unit", "s is wrong")),
    attention("no_sink", Red("unit", "o is wrong")),
    attention("window_one_too_long", Red("unit", "o is wrong")),
    rms_norm("wrong_past_2049", Red("unit", "y is wrong")),
    rms_norm("no_epsilon", Red("unit", "y is wrong")),
    rms_norm("always_takes_a_gain", Red("unit", "")),
    // Other arguments (§6).
    rope_tail("drifted_argument_struct", Red("source", "args/rope_tail.h")),
    rope_tail("head_stride_for_token_stride", Red("unit", "x is wrong")),
    rope_tail("only_from_position_zero", Red("unit", "x is wrong")),
    rope_tail("halves_for_pairs", Red("unit", "x is wrong")),
    swiglu("does_not_compile", Red("build", "gate")),
    swiglu("undefined_function", Red("build", "one")),
    // Other numerics than declared.
    matmul("swapped_variants", Red("unit", "")),
    matmul("int8_undeclared", Red("unit", "")),
    matmul("rounding_in_exact", Red("source", "ds4")).files("matmul.f16", "swapped_variants", "rounding_in_exact"),
    swiglu("fast_exponential", Red("unit", "")),
    rms_norm("f16_accumulator", Red("unit", "")),
    // For the judge's eyes only.
    swiglu("hidden_behind_cudacc", Red("source", "__CUDACC__")),
    swiglu("incbin", Red("source", "asm")),
    swiglu("incbin_by_pasting", Red("source", "")),
    swiglu("includes_a_file_of_the_host", Red("source", "a path below kernels/")),
    swiglu("reads_a_file", Red("build", "does not compile")),
    swiglu("calls_the_host", Red("build", "getpid")),
    swiglu("remembers_the_call_before", Red("source", "from launch to launch")),
    swiglu("caches_by_pointer", Red("source", "from launch to launch")),
    swiglu("caches_by_content", Red("source", "from launch to launch")),
    swiglu("caches_by_fingerprint", Red("source", "from launch to launch")),
    swiglu("detects_the_second_run", Red("source", "from launch to launch")),
    swiglu("right_for_a_while", Red("source", "from launch to launch")),
    swiglu("counts_in_a_function", Red("source", "from launch to launch")),
    // On PTX where there is an NVRTC, by the write where there is none.
    swiglu("const_in_name_only", Red("source or unit", "")),
    swiglu("looks_for_the_judge", Red("unit", "h is wrong")),
    rms_norm("scratch_taken_as_ones", Red("unit", "what outputs or scratch held before")).files(
        "rms_norm",
        "scratch_taken_as_ones",
        "rms_norm_scratch",
    ),
    // Ways out of the worker and the compiler: the text and the object's symbols tell of them before they are tried.
    // tests/emulator.rs tries them past both, in a worker as confined as these.
    swiglu("reads_the_key_when_it_is_compiled", Red("source", "embed")),
    swiglu("reads_the_key_when_it_is_loaded", Red("source", "__attribute__")),
    swiglu("runs_when_it_is_loaded", Red("build", "keeps variables")),
    swiglu("reads_the_key_when_it_runs", Red("build", "open")),
    swiglu("writes_the_ledger", Red("build", "creat")),
    swiglu("forks", Red("build", "fork")),
    swiglu("connects", Red("build", "connect")),
    swiglu("traces_its_parent", Red("build", "ptrace")),
    swiglu("launches_on_another_stream", Red("build", "")),
    // Harm to its surroundings.
    swiglu("reads_the_expected_output", Red("unit", "read")),
    swiglu("reads_freed_memory", Red("unit", "")),
    swiglu("writes_past_the_end", Red("unit", "")),
    swiglu("reads_past_the_end", Red("unit", "read offset")).files("swiglu", "reads_past_the_end", "swiglu_one_more"),
    swiglu("writes_before_the_start", Red("unit", "in front of its start")),
    swiglu("reads_before_the_start", Red("unit", "")),
    swiglu("trusts_the_grid", Red("unit", "behind the step's last token")),
    swiglu("needs_a_token", Red("unit", "a step without tokens")),
    swiglu("modified_input", Red("unit", "the input `g` was modified")),
    swiglu("endless_loop", Red("unit", "did not end")),
    swiglu("closes_with_trap", Red("unit", "__trap")),
    // Threads.
    rms_norm("divergent_barrier", Red("unit", "")),
    rms_norm("missing_barrier", Red("unit", "the order of threads")),
    rms_norm("missing_barrier_first_thread", Red("unit", "y is wrong")),
    rms_norm("uninitialised_shared", Red("unit", "y is wrong")),
    rms_norm("scratch_taken_as_zero", Red("unit", "y is wrong")).files(
        "rms_norm",
        "scratch_taken_as_zero",
        "rms_norm_scratch",
    ),
    rms_norm("depends_on_block_order", Red("unit", "")).files(
        "rms_norm",
        "depends_on_block_order",
        "rms_norm_two_blocks",
    ),
    // Right at small sizes, few tokens, early positions and common magnitudes.
    edit(
        "embed_ids_of_13_bits",
        "embed[f16]",
        "embed.cu",
        "id >= 0 && id < a.V ? id : 0",
        "(id >= 0 && id < a.V ? id : 0) & 0x1fff",
        Red("unit", "h is wrong"),
    ),
    edit(
        "embed_ids_of_16_bits",
        "embed[f16]",
        "embed.cu",
        "id >= 0 && id < a.V ? id : 0",
        "(id >= 0 && id < a.V ? id : 0) & 0xffff",
        Red("unit", "h is wrong"),
    ),
    edit(
        "hash_router_ids_of_16_bits",
        "router_hash",
        "router_hash.cu",
        "row = id >= 0 && id < a.V ? id : 0;",
        "row = (id >= 0 && id < a.V ? id : 0) & 0xffff;",
        Red("unit", ""),
    ),
    edit(
        "sees_128_compressed_rows",
        "attention_mixed",
        "attention_mixed.cu",
        "min((to + 1) / a.ratio, a.C)",
        "min(min((to + 1) / a.ratio, a.C), 128)",
        Red("unit", "o is wrong"),
    ),
    edit(
        "sees_2048_compressed_rows",
        "attention_mixed",
        "attention_mixed.cu",
        "min((to + 1) / a.ratio, a.C)",
        "min(min((to + 1) / a.ratio, a.C), 2048)",
        Red("unit", "o is wrong"),
    ),
    edit(
        "chooses_among_8192_rows",
        "attention_indexed",
        "attention_indexed.cu",
        "min((position + 1) / a.ratio, a.C)",
        "min(min((position + 1) / a.ratio, a.C), 8192)",
        Red("unit", "o is wrong"),
    ),
    edit(
        "scores_8192_rows",
        "indexer_scores",
        "indexer_scores.cu",
        "row0 + row < (pos0 + token + 1) / 4",
        "row0 + row < min((pos0 + token + 1) / 4, 8192)",
        Red("unit", "s is wrong"),
    ),
    edit(
        "selects_among_65535_rows",
        "indexer_topk",
        "indexer_topk.cu",
        "min((*a.pos0 + token + 1) / 4, a.C)",
        "min(min((*a.pos0 + token + 1) / 4, a.C), 65535)",
        Red("unit", "ids is wrong"),
    ),
    edit(
        "down_of_128_experts",
        "moe_down[q2_k]",
        "moe_down.cuh",
        "if (expert < 0 || expert >= a.E) return nullptr;",
        "if (expert < 0 || expert >= min(a.E, 128)) return nullptr;",
        Red("unit", "y is wrong"),
    ),
    edit(
        "gate_up_of_128_experts",
        "moe_gate_up[iq2_xxs]",
        "moe_gate_up.cuh",
        "if (expert < 0 || expert >= a.E) return;",
        "if (expert < 0 || expert >= min(a.E, 128)) return;",
        Red("unit", ""),
    ),
    edit(
        "sorts_128_experts",
        "moe_down[q2_k]",
        "many/experts.cuh",
        "if (e >= 0 && e < experts) atomicAdd(",
        "if (e >= 0 && e < min(experts, 128)) atomicAdd(",
        Red("unit", ""),
    ),
    edit(
        "routes_among_128_experts",
        "router_topk",
        "router_topk.cu",
        "for (int e = lane; e < a.E; e += 32)\n      if",
        "for (int e = lane; e < min(a.E, 128); e += 32)\n      if",
        Red("unit", "sel is wrong"),
    ),
    edit(
        "stores_3000_rows",
        "store_rows",
        "store_rows.cu",
        "if (row >= rows ||",
        "if (row >= rows || row > 3000 ||",
        Red("unit", "cache is wrong"),
    ),
    edit(
        "ring_of_16_bits",
        "store_rows",
        "store_rows.cu",
        "(*a.row0 + row) % a.cap",
        "((*a.row0 + row) & 0xffff) % a.cap",
        Red("unit", "cache is wrong"),
    ),
    edit(
        "norms_4096_rows",
        "rms_norm",
        "rms_norm.cu",
        "if (row >= *a.R) return;",
        "if (row >= min(*a.R, 4096)) return;",
        Red("unit", "never written"),
    ),
    edit(
        "turns_by_16_bits",
        "rope_tail",
        "rope_tail.cu",
        "static_cast<float>(*a.pos0 + token)",
        "static_cast<float>((*a.pos0 + token) & 0xffff)",
        Red("unit", "x is wrong"),
    ),
    edit("fast_sine", "rope_tail", "rope_tail.cu", "    sincosf(", "    __sincosf(", Red("unit", "x is wrong")),
    edit(
        "compressor_turns_by_16_bits",
        "compressor_prefill[f16]",
        "compressor_prefill.cu",
        "float(window * a.ratio)",
        "float(window * a.ratio & 0xffff)",
        Red("unit", "rows is wrong"),
    ),
    edit(
        "window_at_16_bits",
        "attention_raw",
        "common/attention.cuh",
        "ring + size_t(position % cap) * dim",
        "ring + size_t((position & 0xffff) % cap) * dim",
        Red("unit", "o is wrong"),
    ),
    edit(
        "fp8_floor_too_low",
        "fp8_kv_round_trip",
        "fp8_kv_round_trip.cu",
        "1e-4f",
        "1e-30f",
        Red("unit", "x is wrong"),
    ),
    edit("fp8_floor_a_tenth", "fp8_kv_round_trip", "fp8_kv_round_trip.cu", "1e-4f", "1e-5f", Red("unit", "x is wrong")),
    edit(
        "fp4_floor_too_high",
        "hadamard_fp4_round_trip",
        "hadamard_fp4_round_trip.cu",
        "7.052966104933725e-38f",
        "1e-30f",
        Red("unit", "x is wrong"),
    ),
    edit(
        "attention_without_maximum",
        "attention_raw",
        "common/attention.cuh",
        "best = query_max(best);",
        "best = 0.0f;",
        Red("unit", "o is wrong"),
    ),
    edit(
        "pools_without_maximum",
        "compressor_prefill[f16]",
        "compressor_prefill.cu",
        "const float best = fmaxf(top, other.top);",
        "const float best = other.top == minus_infinity() ? top : 0.0f;",
        Red("unit", "rows is wrong"),
    ),
    edit(
        "sinkhorn_without_maximum",
        "hc_split",
        "hc_split.cu",
        "c = expf(c - top);",
        "c = expf(c);",
        Red("unit", "split is wrong"),
    ),
    edit(
        "sinkhorn_one_round_short",
        "hc_split",
        "hc_split.cu",
        "n < a.iterations",
        "n < a.iterations - 1",
        Red("unit", "split is wrong"),
    ),
    edit(
        "router_without_floor",
        "router_topk",
        "common/router.cuh",
        "fmaxf(warp_sum(sum), floor)",
        "warp_sum(sum)",
        Red("unit", "w is wrong"),
    ),
    edit(
        "softplus_overflows",
        "router_topk",
        "common/router.cuh",
        "x > 20.0f ? x : log1pf(expf(x))",
        "log1pf(expf(x))",
        Red("unit", ""),
    ),
    edit(
        "product_of_8192_rows",
        "matmul[q8_0]",
        "matmul.cuh",
        "if (threadIdx.x < kRows * TOKENS && row < p.n &&",
        "if (threadIdx.x < kRows * TOKENS && row < min(p.n, 8192) &&",
        Red("unit", ""),
    ),
    edit(
        "streams_8192_rows",
        "matmul[q8_0]",
        "matmul.cuh",
        "const { y[r] = total[0]; }",
        "const { if (r < 8192) y[r] = total[0]; }",
        Red("unit", "never written"),
    ),
    edit(
        "state_not_shifted",
        "compressor_state[f16]",
        "compressor_state.cu",
        "a.state_k[to] = a.state_k[from], a.state_s[to] = a.state_s[from];",
        "a.state_k[to] = a.state_k[to], a.state_s[to] = a.state_s[to];",
        Red("unit", "state_k is wrong"),
    ),
    edit(
        "state_wrong_for_one_n_mod_4",
        "compressor_state[f16]",
        "compressor_state.cu",
        "under_way = end / a.ratio * a.ratio;",
        "under_way = (end % 4 == 3 ? end + 1 : end) / a.ratio * a.ratio;",
        Red("unit", "state_k is wrong"),
    ),
    edit(
        "quantiser_takes_the_unrounded_scale",
        "fp8_kv_round_trip",
        "fp8_kv_round_trip.cu",
        "if (i < end) x[i] = round_trip(v, scale);",
        "if (i < end) x[i] = round_trip(v * (scale / (amax / 448.0f)), scale);",
        Red("unit", "x is wrong"),
    ),
    edit(
        "reduction_scratch_too_small",
        "rms_norm",
        "common/reduce.cuh",
        "block_sum(float v) {\n  static_assert(THREADS % 32 == 0 && THREADS <= 1024, \"whole warps\");\n  v = warp_sum(v);\n  if (THREADS == 32) return v;\n  __shared__ float parts[THREADS / 32];",
        "block_sum(float v) {\n  static_assert(THREADS % 32 == 0 && THREADS <= 1024, \"whole warps\");\n  v = warp_sum(v);\n  if (THREADS == 32) return v;\n  __shared__ float parts[THREADS / 64];",
        Red("unit", "index"),
    ),
    edit(
        "shuffles_cross_groups",
        "hc_split",
        "hc_split.cu",
        "c /= sum_over(c, 4, 8) + a.eps;\n  for",
        "c /= sum_over(c, 4, 16) + a.eps;\n  for",
        Red("unit", "split is wrong"),
    ),
    edit(
        "ties_take_the_higher_row",
        "indexer_topk",
        "indexer_topk.cu",
        "equals + __popc(tied & below_lane) < wanted",
        "equals + __popc(tied & ~below_lane & ~(1u << lane)) < wanted",
        Red("unit", "ids"),
    ),
    edit(
        "minus_zero_is_less",
        "indexer_topk",
        "indexer_topk.cu",
        "return bits == sign ? sign : bits & sign",
        "return bits & sign",
        Red("unit", "ids"),
    ),
    edit(
        "second_block_of_a_lane_unscaled",
        "matmul[q8_0]",
        "quant/q8_0.cuh",
        "fmaf(d1 * x.scale[2],",
        "fmaf(d0 * x.scale[2],",
        Red("unit", "y is wrong"),
    ),
    edit(
        "vector_of_two_limbs",
        "moe_down[q2_k]",
        "quant/limbs.cuh",
        "fmaf(256.0f, b, __int_as_float(sum[2]) - 12582912.0f)",
        "256.0f * b",
        Red("unit", ""),
    ),
];
