//! Edits of the repository's own kernels that are right wherever magnitudes, scalars and sizes are the usual ones.

use crate::exhibits::Expected::Red;
use crate::exhibits::{Exhibit, edit};

const SCORES: &str = "a.g[at] + bias";

const fn compressor_state(name: &'static str, to: &'static str) -> Exhibit {
    edit(name, "compressor_state[f16]", "compressor_state.cu", SCORES, to, Red("unit", "state_s is wrong"))
}

const fn fp8(name: &'static str, from: &'static str, to: &'static str) -> Exhibit {
    edit(name, "fp8_kv_round_trip", "fp8_kv_round_trip.cu", from, to, Red("unit", "x is wrong"))
}

const fn fp4(name: &'static str, from: &'static str, to: &'static str) -> Exhibit {
    edit(name, "hadamard_fp4_round_trip", "hadamard_fp4_round_trip.cu", from, to, Red("unit", "x is wrong"))
}

const FP8_POWER: &str =
    "return __uint_as_float((bits & 0x007fffffu) == 0 ? bits : (bits & 0x7f800000u) + 0x00800000u);";
const FP4_POWER: &str = "return __uint_as_float(bits & 0x007fffffu ? (bits & 0x7f800000u) + 0x00800000u : bits);";
const POWER_BY_LOGARITHM: &str = "return exp2f(ceilf(log2f(x)));";
const NEXT_POWER: &str = "return __uint_as_float((bits & 0x7f800000u) + 0x00800000u);";

const fn router(name: &'static str, node: &'static str, from: &'static str, to: &'static str) -> Exhibit {
    edit(name, node, "common/router.cuh", from, to, Red("unit", "w is wrong"))
}

const WEIGHED: &str = "score(logits[sel[i]]) / sum * scale";
const NORMALISED: &str = "normalise ? fmaxf(warp_sum(sum), floor) : 1.0f";

const fn q8_0(name: &'static str, node: &'static str, from: &'static str, to: &'static str) -> Exhibit {
    edit(name, node, "quant/q8_0.cuh", from, to, Red("unit", ""))
}

pub const EDITS: &[Exhibit] = &[
    // Beside rows that are marked empty by −1e30.
    compressor_state("biases_two_halves_alone", "a.g[at] + (a.C == 2 ? bias : 0.0f)"),
    compressor_state("scores_a_hundredth_too_large", "1.01f * a.g[at] + bias"),
    compressor_state("nine_tenths_of_the_bias", "a.g[at] + 0.9f * bias"),
    compressor_state("scores_through_f16", "__half2float(__float2half_rn(a.g[at] + bias))"),
    edit(
        "empty_rows_marked_otherwise",
        "compressor_state[f16]",
        "compressor_state.cu",
        "EMPTY_SCORE = -1e30f",
        "EMPTY_SCORE = -2e30f",
        Red("unit", "state_s"),
    ),
    // Where a scale changes, and half-way between two codes.
    fp8("fp8_scale_by_logarithm", FP8_POWER, POWER_BY_LOGARITHM),
    fp8("fp8_always_the_next_scale", FP8_POWER, NEXT_POWER),
    fp8("fp8_scale_an_ulp_late", "amax / 448.0f", "amax / 448.00003f"),
    fp8("fp8_ties_upwards", "rintf(x / step)", "floorf(x / step + 0.5f)"),
    fp4("fp4_scale_by_logarithm", FP4_POWER, POWER_BY_LOGARITHM),
    fp4("fp4_always_the_next_scale", FP4_POWER, NEXT_POWER),
    fp4("fp4_scale_an_ulp_late", "/ 6.0f)", "/ 6.0000005f)"),
    fp4("fp4_ties_upwards", "rintf(size / step)", "floorf(size / step + 0.5f)"),
    // Scalars of one file.
    edit("pre_without_epsilon", "hc_split", "hc_split.cu", "gate + a.eps;", "gate;", Red("unit", "split is wrong")),
    edit(
        "head_weights_without_epsilon",
        "output_hc_weights",
        "output_hc_weights.cu",
        "expf(-x)) + a.eps;",
        "expf(-x));",
        Red("unit", "w is wrong"),
    ),
    edit("twenty_rounds", "hc_split", "hc_split.cu", "n < a.iterations", "n < 20", Red("unit", "split is wrong")),
    edit(
        "compressor_has_its_own_epsilon",
        "compressor_prefill[f16]",
        "compressor_prefill.cu",
        "+ a.eps)",
        "+ 1e-6f)",
        Red("unit", "rows is wrong"),
    ),
    edit(
        "norm_has_its_own_epsilon",
        "rms_norm",
        "rms_norm.cu",
        "(a.D) + a.eps)",
        "(a.D) + 1e-6f)",
        Red("unit", "y is wrong"),
    ),
    edit(
        "heads_have_their_own_epsilon",
        "head_rms_norm",
        "head_rms_norm.cu",
        "+ a.eps)",
        "+ 1e-6f)",
        Red("unit", "x is wrong"),
    ),
    router("topk_scales_by_one_and_a_half", "router_topk", WEIGHED, "score(logits[sel[i]]) / sum * 1.5f"),
    router("hash_scales_by_one_and_a_half", "router_hash", WEIGHED, "score(logits[sel[i]]) / sum * 1.5f"),
    router("topk_always_normalises", "router_topk", NORMALISED, "fmaxf(warp_sum(sum), floor)"),
    router("hash_always_normalises", "router_hash", NORMALISED, "fmaxf(warp_sum(sum), floor)"),
    router("floor_of_one_numerics", "router_topk", NORMALISED, "normalise ? fmaxf(warp_sum(sum), 0x1p-14f) : 1.0f"),
    edit(
        "indexer_scale_of_its_sizes",
        "indexer_scores",
        "indexer_scores.cu",
        "a.iw[flat] * a.scale",
        "a.iw[flat] / sqrtf(float(a.D * a.H))",
        Red("unit", "s is wrong"),
    ),
    // Rows of an odd number of blocks.
    q8_0("reads_a_block_that_is_not_there", "matmul[q8_0]", "64 * lane + 32 < count", "64 * lane + 32 <= count"),
    q8_0("scale_of_another_block", "matmul[q8_0]", "w[9] & 0xffff", "w[0] >> 16"),
    // Steps and rows of many thousands.
    edit(
        "compresses_1500_windows",
        "compressor_prefill[f16]",
        "compressor_prefill.toml",
        "entry = \"compressor_prefill_f16\"\ngrid = [\"R\", 1, 1]",
        "entry = \"compressor_prefill_f16\"\ngrid = [\"min(R, 1500)\", 1, 1]",
        Red("unit", ""),
    ),
    edit(
        "norm_of_16384_elements",
        "rms_norm",
        "rms_norm.cu",
        "i < a.D; i += stride) sum += squares",
        "i < min(a.D, 16384); i += stride) sum += squares",
        Red("unit", "y is wrong"),
    ),
];
