//! Edits of the repository's own kernels that are right for values of common size and the widths of common files: scores
//! far from 0 or next to it, lists of more than 512 rows, hidden states wider than 4096, f16's overflow, ragged rows.

use crate::exhibits::Expected::Red;
use crate::exhibits::{Exhibit, edit};

const fn scores(name: &'static str, to: &'static str) -> Exhibit {
    let from = "const u32 bits = __float_as_uint(score), sign";
    edit(name, "indexer_topk", "indexer_topk.cu", from, to, Red("unit", "ids is wrong"))
}

const fn router(name: &'static str, node: &'static str, to: &'static str) -> Exhibit {
    let from = "return sqrtf(x > 20.0f ? x : log1pf(expf(x)));";
    edit(name, node, "common/router.cuh", from, to, Red("unit", "is wrong"))
}

const fn floor(name: &'static str, node: &'static str, to: &'static str) -> Exhibit {
    edit(name, node, "common/router.cuh", "fmaxf(warp_sum(sum), floor)", to, Red("unit", "w is wrong"))
}

const fn slices(name: &'static str, node: &'static str, wrong: &'static str) -> Exhibit {
    let from = "const int slice = turn * width + in_group;";
    edit(name, node, "quant/stream.cuh", from, "const int slice = in_group;", Red("unit", wrong))
}

const EXPERTS_0: &str = "return sqrtf(x < -50.0f ? 0.0f : x > 20.0f ? x : log1pf(expf(x)));";
const EXPERTS_64: &str = "return sqrtf(x > 20.0f ? (x < 90.0f ? fminf(x, 48.0f) : x) : log1pf(expf(x)));";

pub const RANGES: &[Exhibit] = &[
    // Scores of every size, and lists of every length.
    scores("scores_up_to_64", "const u32 bits = __float_as_uint(fminf(score, 64.0f)), sign"),
    scores("scores_from_minus_1000", "const u32 bits = __float_as_uint(fmaxf(score, -1000.0f)), sign"),
    scores("no_subnormal_scores", "const u32 bits = __float_as_uint(fabsf(score) < 0x1p-126f ? 0.0f : score), sign"),
    edit(
        "lists_of_512_rows",
        "indexer_topk",
        "indexer_topk.cu",
        "int wanted = a.k;",
        "int wanted = min(a.k, 512);",
        Red("unit", ""),
    ),
    edit(
        "all_rows_but_the_last_of_the_context",
        "indexer_topk",
        "indexer_topk.cu",
        "const int n = min((*a.pos0 + token + 1) / 4, a.C);",
        "const int n = min((*a.pos0 + token + 1) / 4, min(a.C, 262143));",
        Red("unit", "ids is wrong"),
    ),
    edit(
        "reads_a_score_behind_the_last",
        "indexer_topk",
        "indexer_topk.cu",
        "const u32 key = base + lane < to ? key_of(s[base + lane]) : 0;",
        "const u32 key = base + lane <= to ? key_of(s[base + lane]) : 0;",
        Red("unit", "read"),
    ),
    // Logits far from 0 on both sides.
    router("topk_of_nothing_below_minus_50", "router_topk", EXPERTS_0),
    router("hash_of_nothing_below_minus_50", "router_hash", EXPERTS_0),
    router("topk_of_logits_up_to_48", "router_topk", EXPERTS_64),
    router("hash_of_logits_up_to_48", "router_hash", EXPERTS_64),
    floor("topk_floor_of_1e_12", "router_topk", "fmaxf(warp_sum(sum), fmaxf(floor, 1e-12f))"),
    floor("hash_floor_of_1e_12", "router_hash", "fmaxf(warp_sum(sum), fmaxf(floor, 1e-12f))"),
    floor("topk_divides_by_nothing", "router_topk", "(floor < 1e-9f ? warp_sum(sum) : fmaxf(warp_sum(sum), floor))"),
    edit(
        "expert_one_ulp_below_the_best",
        "router_topk",
        "router_topk.cu",
        "e += 32)\n      if (key[e] > best)",
        "e += 32)\n      if (key[e] > 1 + best)",
        Red("unit", "sel is wrong"),
    ),
    edit(
        "key_behind_the_last_expert",
        "router_topk",
        "router_topk.cu",
        "for (int e = lane; e < a.E; e += 32) {",
        "for (int e = lane; e <= a.E; e += 32) {",
        Red("unit", "sel is wrong"),
    ),
    // Candidates, gates and heads of every size.
    edit(
        "candidates_within_60",
        "compressor_prefill[f16]",
        "compressor_prefill.cu",
        "v[i] = pool[i].value / pool[i].sum;",
        "v[i] = fminf(pool[i].value / pool[i].sum, 60.0f);",
        Red("unit", "rows is wrong"),
    ),
    edit(
        "gates_within_1000",
        "compressor_prefill[f16]",
        "compressor_prefill.cu",
        "merge({score, 1.0f, k});",
        "merge({fminf(score, 1000.0f), 1.0f, k});",
        Red("unit", "rows is wrong"),
    ),
    edit(
        "keeps_candidates_within_60",
        "compressor_state[f16]",
        "compressor_state.cu",
        "a.state_k[to] = a.k[at], a.state_s[to]",
        "a.state_k[to] = fminf(a.k[at], 60.0f), a.state_s[to]",
        Red("unit", "state_k is wrong"),
    ),
    edit(
        "keeps_no_small_candidates",
        "compressor_state[f16]",
        "compressor_state.cu",
        "a.state_k[to] = a.k[at], a.state_s[to]",
        "a.state_k[to] = fabsf(a.k[at]) < 1e-5f ? 0.0f : a.k[at], a.state_s[to]",
        Red("unit", "state_k is wrong"),
    ),
    edit(
        "turns_heads_within_60",
        "rope_tail",
        "rope_tail.cu",
        "const float even = x[0], odd = x[1];",
        "const float even = fminf(x[0], 60.0f), odd = x[1];",
        Red("unit", "x is wrong"),
    ),
    edit(
        "turns_no_small_heads",
        "rope_tail",
        "rope_tail.cu",
        "const float even = x[0], odd = x[1];",
        "const float even = x[0], odd = fabsf(x[1]) < 1e-5f ? 0.0f : x[1];",
        Red("unit", "x is wrong"),
    ),
    // Wider than 4096.
    edit(
        "streams_of_4096_elements",
        "hc_expand",
        "hc_expand.cu",
        "if (token >= *a.T || d >= a.D ||",
        "if (token >= *a.T || d >= min(a.D, 4096) ||",
        Red("unit", "h is wrong"),
    ),
    edit(
        "sums_of_8192_elements",
        "hc_weighted_sum",
        "hc_weighted_sum.cu",
        "if (row >= *a.R || d >= a.D) return;",
        "if (row >= *a.R || d >= min(a.D, 8192)) return;",
        Red("unit", "never written"),
    ),
    slices("first_slices_of_a_wide_row", "moe_gate_up[iq2_xxs]", "mid is wrong"),
    slices("first_slices_of_a_wide_group", "matmul_grouped[q8_0]", "y is wrong"),
    // What f16 and f8 make of large numbers.
    edit(
        "stores_the_largest_f16_for_more",
        "store_rows",
        "store_rows.cu",
        "f16 ? __half2float(__float2half_rn(v)) : v;",
        "f16 ? __half2float(__float2half_rn(fminf(fmaxf(v, -65504.0f), 65504.0f))) : v;",
        Red("unit", "cache is wrong"),
    ),
    edit(
        "scale_of_what_stands_behind_a_block",
        "fp8_kv_round_trip",
        "fp8_kv_round_trip.cu",
        "w = i + 1 < end ? x[i + 1]",
        "w = i + 1 <= end ? x[i + 1]",
        Red("unit", "x is wrong"),
    ),
    // Where rows, lists and blocks of rows end.
    edit(
        "two_elements_behind_the_last_four",
        "swiglu",
        "swiglu.cu",
        "for (size_t i = at; i < all; ++i)",
        "for (size_t i = at; i < all && i < at + 2; ++i)",
        Red("unit", "never written"),
    ),
    edit(
        "two_rows_behind_the_last_four",
        "moe_down[q2_k]",
        "common/vec.cuh",
        "if (i + 2 < end) y[i + 2] = v.z;",
        "if (i + 3 < end) y[i + 2] = v.z;",
        Red("unit", "never written"),
    ),
    edit(
        "rows_of_17_blocks_on_16_bytes",
        "moe_down[q2_k]",
        "moe_down.cuh",
        "row_bytes % 16 == 0 && aligned16(a.down)",
        "row_bytes % 17 == 0 && aligned16(a.down)",
        Red("unit", ""),
    ),
    edit(
        "value_behind_an_odd_row",
        "matmul[f16]",
        "quant/plain.cuh",
        "const u32 high = e + 2 * i + 1 < k ?",
        "const u32 high = e + 2 * i + 2 < k ?",
        Red("unit", "y is wrong"),
    ),
    edit(
        "reads_behind_the_table",
        "embed[f16]",
        "quant/plain.cuh",
        "const u32 low = e + 2 * i < k ?",
        "const u32 low = e + 2 * i <= k ?",
        Red("unit", ""),
    ),
    edit(
        "factor_of_another_query",
        "attention_raw",
        "common/attention_mma.cuh",
        "const int g = threadIdx.x % 32 / 4;",
        "const int g = threadIdx.x % 32 / 5;",
        Red("unit", "o is wrong"),
    ),
    edit(
        "no_block_for_the_last_row_alone",
        "attention_indexed",
        "common/attention_mma.cuh",
        "(block + 1) * BLOCK >= place.keys.count();",
        "(block + 1) * BLOCK + 1 >= place.keys.count();",
        Red("unit", "o is wrong"),
    ),
    edit(
        "sum_against_an_older_maximum",
        "attention_indexed",
        "common/attention_few.cuh",
        "sum[h] *= factor;",
        "",
        Red("unit", "o is wrong"),
    ),
    // What lies behind the last row, token or head, and what comes round a second time.
    edit(
        "odd_element_behind_the_table",
        "embed[f16]",
        "quant/plain.cuh",
        "const u32 high = e + 2 * i + 1 < k ?",
        "const u32 high = e + 2 * i + 1 <= k ?",
        Red("unit", ""),
    ),
    edit(
        "eighth_element_of_an_aligned_last_row",
        "matmul[f16]",
        "many/plain.cuh",
        "if (e + 8 <= k && aligned16(p)) {",
        "if (e + 7 <= k && aligned16(p)) {",
        Red("unit", ""),
    ),
    edit(
        "tile_of_no_heads",
        "attention_indexed",
        "attention_indexed.cu",
        "return a.D == attention::DIM ? (a.H + attention::mma::QUERIES - 1) /",
        "return a.D == attention::DIM ? (a.H + attention::mma::QUERIES) /",
        Red("unit", ""),
    ),
    edit(
        "batch_of_rows_taken_again",
        "moe_down[q2_k]",
        "quant/stream.cuh",
        "from_ = from_ + 1 == L::kStages ? 0 : from_ + 1;",
        "from_ = from_ + 1 == L::kStages ? 0 : from_;",
        Red("unit", ""),
    ),
];
