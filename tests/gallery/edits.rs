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

const fn stored(name: &'static str, to: &'static str) -> Exhibit {
    edit(name, "store_rows", "store_rows.cu", "__half2float(__float2half_rn(v))", to, Red("unit", "cache is wrong"))
}

const FP8_POWER: &str =
    "return __uint_as_float((bits & 0x007fffffu) == 0 ? bits : (bits & 0x7f800000u) + 0x00800000u);";
const FP4_POWER: &str = "return __uint_as_float(bits & 0x007fffffu ? (bits & 0x7f800000u) + 0x00800000u : bits);";
const POWER_BY_LOGARITHM: &str = "return exp2f(ceilf(log2f(x)));";
const NEXT_POWER: &str = "return __uint_as_float((bits & 0x7f800000u) + 0x00800000u);";

const fn router(name: &'static str, node: &'static str, from: &'static str, to: &'static str) -> Exhibit {
    edit(name, node, "common/router.cuh", from, to, Red("unit", "w is wrong"))
}

const WEIGHED: &str = "score_of(i) / sum * scale";
const NORMALISED: &str = "normalise ? fmaxf(warp_sum(sum), floor) : 1.0f";

const fn q8_0(name: &'static str, node: &'static str, from: &'static str, to: &'static str) -> Exhibit {
    edit(name, node, "quant/q8_0.cuh", from, to, Red("unit", ""))
}

pub const EDITS: &[Exhibit] = &[
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
        "indexer_scores_mma.cuh",
        "min((*a.pos0 + token + 1) / 4, a.C)",
        "min(min((*a.pos0 + token + 1) / 4, a.C), 8192)",
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
        "row >= *a.R) return;",
        "row >= min(*a.R, 4096)) return;",
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
        "return {position % cap, position,",
        "return {(position & 0xffff) % cap, position,",
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
        "expf(row[n] - top)",
        "expf(row[n])",
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
        "y[kOfRow * r + i] = total[i];",
        "if (r < 8192) y[kOfRow * r + i] = total[i];",
        Red("unit", "never written"),
    ),
    edit(
        "negative_scores_are_tied",
        "indexer_topk",
        "indexer_topk.cu",
        "bits & sign ? ~bits : bits | sign",
        "bits & sign ? 0u : bits | sign",
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
    edit(
        "pre_without_epsilon",
        "hc_split",
        "hc_split.cu",
        "expf(-pre)) + a.eps;",
        "expf(-pre));",
        Red("unit", "split is wrong"),
    ),
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
        "(dim) + eps)",
        "(dim) + 1e-6f)",
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
    router("topk_scales_by_one_and_a_half", "router_topk", WEIGHED, "score_of(i) / sum * 1.5f"),
    router("hash_scales_by_one_and_a_half", "router_hash", WEIGHED, "score_of(i) / sum * 1.5f"),
    router("topk_always_normalises", "router_topk", NORMALISED, "fmaxf(warp_sum(sum), floor)"),
    router("hash_always_normalises", "router_hash", NORMALISED, "fmaxf(warp_sum(sum), floor)"),
    router("floor_of_one_numerics", "router_topk", NORMALISED, "normalise ? fmaxf(warp_sum(sum), 0x1p-14f) : 1.0f"),
    edit(
        "indexer_scale_of_its_sizes",
        "indexer_scores",
        "indexer_scores_mma.cuh",
        "a.iw[first + threadIdx.x] * a.scale",
        "a.iw[first + threadIdx.x] / sqrtf(float(a.D * a.H))",
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
        "i < dim; i += step) sum += squares",
        "i < min(dim, 16384); i += step) sum += squares",
        Red("unit", "y is wrong"),
    ),
    // Values that differ in their last bits, subnormal ones, ties, and exponentials that are no numbers on one side.
    edit(
        "compares_scores_in_f16",
        "indexer_topk",
        "indexer_topk.cu",
        "bits = __float_as_uint(score), sign",
        "bits = __float_as_uint(__half2float(__float2half_rn(score))), sign",
        Red("unit", "ids"),
    ),
    stored("stores_ties_upwards", "__uint_as_float((__float_as_uint(v) + 0x1000u) & 0xffffe000u)"),
    stored("stores_no_subnormals", "(fabsf(v) < 6.1e-5f ? 0.0f : __half2float(__float2half_rn(v)))"),
    stored("stores_within_448", "__half2float(__float2half_rn(fminf(fmaxf(v, -448.0f), 448.0f)))"),
    edit(
        "gate_that_overflows_below",
        "swiglu",
        "swiglu.cu",
        "return g / (1.0f + expf(-g)) *",
        "const float e = expf(-g);\n  return g * (1.0f - e / (1.0f + e)) *",
        Red("unit", "h is wrong"),
    ),
    edit(
        "head_weights_that_overflow_above",
        "output_hc_weights",
        "output_hc_weights.cu",
        "1.0f / (1.0f + expf(-x))",
        "expf(x) / (1.0f + expf(x))",
        Red("unit", "w is wrong"),
    ),
    // Between the sizes.
    edit(
        "last_of_two_rows_a_warp",
        "matmul[f16]",
        "quant/plain_rows.cuh",
        "plain_rows<W, 2, true>(y, w, x, k, n, live);",
        "plain_rows<W, 2, true>(y, w, x, k, n - 1, live);",
        Red("unit", "never written"),
    ),
];
