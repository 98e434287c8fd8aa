//! What hangs in the gallery, and how the verifier is to take it.

pub enum Expected {
    Pass,
    /// The stage that is red, and a piece of its reason.
    Red(&'static str, &'static str),
}
use Expected::{Pass, Red};

pub struct Exhibit {
    pub name: &'static str,
    pub node: &'static str,
    /// The kernel whose `.cu` and `.toml` it takes the place of.
    pub replaces: &'static str,
    pub source: &'static str,
    pub manifest: &'static str,
    pub expected: Expected,
}

const fn of(
    node: &'static str,
    replaces: &'static str,
    manifest: &'static str,
    name: &'static str,
    expected: Expected,
) -> Exhibit {
    Exhibit { name, node, replaces, source: name, manifest, expected }
}

const fn swiglu(name: &'static str, expected: Expected) -> Exhibit {
    of("swiglu", "swiglu", "swiglu", name, expected)
}

/// The honest kernel under a manifest that is not.
const fn launched_by(manifest: &'static str, expected: Expected) -> Exhibit {
    Exhibit { source: "honest_swiglu", ..of("swiglu", "swiglu", manifest, manifest, expected) }
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
    Exhibit { manifest: "rms_norm_64", ..rms_norm("other_block_size", Pass) },
    rms_norm("other_accumulation_order", Pass),
    Exhibit { manifest: "attention_raw_f16", ..attention("f16_operands", Pass) },
    // Nothing, or not all of it (POSTMORTEM.md §3).
    swiglu("stub_without_store", Red("source", "stub")),
    swiglu("zeros", Red("unit", "h is wrong")),
    swiglu("first_tile_only", Red("unit", "never written")),
    swiglu("stale_output", Red("unit", "what outputs or scratch held before")),
    swiglu("adds_to_its_output", Red("unit", "held before")),
    swiglu("nan_outputs", Red("unit", "h is wrong")),
    swiglu("vectorised_without_tail", Red("unit", "")),
    launched_by("fewer_blocks", Red("unit", "never written")),
    launched_by("grid_without_tokens", Red("unit", "never written")),
    launched_by("another_entry", Red("source", "no entry")),
    // The wrong bytes (§4).
    moe_gate_up("q8_0_on_iq2_xxs", Red("unit", "")),
    moe_gate_up("block_pointer_never_advanced", Red("unit", "mid is wrong")),
    Exhibit {
        node: "moe_gate_up[q8_0]",
        replaces: "moe_gate_up.q8_0",
        manifest: "moe_gate_up_q8_0",
        ..moe_gate_up("kernel_for_a_type_the_file_lacks", Red("weights", "unreachable"))
    },
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
    Exhibit {
        source: "swapped_variants",
        manifest: "rounding_in_exact",
        ..matmul("rounding_in_exact", Red("source", "ds4"))
    },
    swiglu("fast_exponential", Red("unit", "")),
    // For the judge's eyes only.
    swiglu("hidden_behind_cudacc", Red("source", "__CUDACC__")),
    swiglu("incbin", Red("source", "asm")),
    swiglu("incbin_by_pasting", Red("source", "")),
    swiglu("includes_a_file_of_the_host", Red("source", "a path below kernels/")),
    swiglu("reads_a_file", Red("build", "does not compile")),
    swiglu("calls_the_host", Red("build", "getpid")),
    swiglu("remembers_the_call_before", Red("source", "from launch to launch")),
    swiglu("caches_by_pointer", Red("source", "from launch to launch")),
    swiglu("detects_the_second_run", Red("source", "from launch to launch")),
    swiglu("right_for_a_while", Red("source", "from launch to launch")),
    swiglu("counts_in_a_function", Red("source", "from launch to launch")),
    swiglu("const_in_name_only", Red("unit", "")),
    swiglu("looks_for_the_judge", Red("unit", "h is wrong")),
    Exhibit {
        manifest: "rms_norm_scratch",
        ..rms_norm("scratch_taken_as_ones", Red("unit", "what outputs or scratch held before"))
    },
    // Harm to its surroundings.
    swiglu("writes_past_the_end", Red("unit", "")),
    Exhibit { manifest: "swiglu_one_more", ..swiglu("reads_past_the_end", Red("unit", "read offset")) },
    swiglu("writes_before_the_start", Red("unit", "in front of its start")),
    swiglu("reads_before_the_start", Red("unit", "h is wrong")),
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
    Exhibit { manifest: "rms_norm_scratch", ..rms_norm("scratch_taken_as_zero", Red("unit", "y is wrong")) },
    Exhibit { manifest: "rms_norm_two_blocks", ..rms_norm("depends_on_block_order", Red("unit", "")) },
];
