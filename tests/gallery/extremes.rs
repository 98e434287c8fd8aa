//! Edits of the repository's own kernels that are right until a step brings sizes together that seldom meet: tiny rows
//! beside large ones, scores far from 0, lists with gaps, windows that one step completes.

use crate::exhibits::Expected::Red;
use crate::exhibits::{Exhibit, edit};

pub const EXTREMES: &[Exhibit] = &[
    // More than any block can have, where only a compiler for devices would say so.
    edit(
        "static_shared_memory_over_the_limit",
        "swiglu",
        "swiglu.cu",
        "all = size_t(*a.T) * a.F;",
        "all = size_t(*a.T) * a.F;\n  __shared__ float big[12400];\n  for (int i = threadIdx.x; i < 12400; i += THREADS) big[i] = a.clamp + i;\n  __syncthreads();\n  if (big[(threadIdx.x * 391 + *a.T) % 12400] == -1.0f) return;",
        Red("build", "declares too much shared memory"),
    ),
    // Rows of any size beside each other, and what lies around scratch memory.
    edit(
        "limbs_of_no_tiny_rows",
        "matmul[q8_0]",
        "quant/limbs.cuh",
        "min(max(top >> 23, 22u), 254u)",
        "min(max(top >> 23, 117u), 254u)",
        Red("unit", "y is wrong"),
    ),
    edit(
        "limbs_of_no_large_rows",
        "moe_down[q2_k]",
        "quant/limbs.cuh",
        "min(max(top >> 23, 22u), 254u)",
        "min(max(top >> 23, 22u), 133u)",
        Red("unit", "y is wrong"),
    ),
    edit(
        "writes_in_front_of_its_scratch",
        "matmul[q8_0]",
        "many/activations.cuh",
        "if (lane == 0) scale[row] =",
        "if (lane == 0) x[-1] = 0, scale[row] =",
        Red("unit", "the scratch memory was written in front of its start"),
    ),
    // Scores and sinks far from 0 and from each other, and lists with gaps.
    edit(
        "maximum_not_below_zero",
        "attention_raw",
        "common/attention.cuh",
        "best = query_max(best);",
        "best = fmaxf(query_max(best), 0.0f);",
        Red("unit", "o is wrong"),
    ),
    edit(
        "sinks_within_ten",
        "attention_mixed",
        "common/attention.cuh",
        "sum = expf(sink - top);",
        "sum = expf(fminf(sink, 10.0f) - top);",
        Red("unit", "o is wrong"),
    ),
    edit(
        "list_ends_at_the_first_none",
        "attention_indexed",
        "common/attention.cuh",
        "ids ? ids[j] : j;",
        "ids ? (j > 0 && ids[j - 1] < 0 ? -1 : ids[j]) : j;",
        Red("unit", "o is wrong"),
    ),
    edit(
        "biased_ties_take_the_higher",
        "router_topk",
        "router_topk.cu",
        "key_of(router::score(logits[e]) + (bias ? bias[e] : 0.0f));",
        "key_of(router::score(logits[e]) + (bias ? bias[e] : 0.0f)) + (bias ? e / 32 : 0);",
        Red("unit", "sel is wrong"),
    ),
    edit(
        "nearest_expert_for_none",
        "router_hash",
        "router_hash.cu",
        "table[i] >= 0 && table[i] < a.E ? table[i] : 0",
        "min(max(table[i], 0), a.E - 1)",
        Red("unit", "sel is wrong"),
    ),
    edit(
        "one_long_window_a_step",
        "compressor_prefill[f16]",
        "compressor_prefill.cu",
        "if (int(blockIdx.x) >= *a.R) return;",
        "if (int(blockIdx.x) >= (a.ratio > 4 ? min(*a.R, 1) : *a.R)) return;",
        Red("unit", "never written"),
    ),
    edit(
        "second_output_of_2048_tokens",
        "hc_expand",
        "hc_expand.cu",
        "if (a.y2) scale_add",
        "if (a.y2 && token < 2048) scale_add",
        Red("unit", "h is wrong"),
    ),
    edit(
        "takes_4095_rows",
        "take_rows",
        "take_rows.cu",
        "if (row >= rows ||",
        "if (row >= min(rows, 4095) ||",
        Red("unit", "never written"),
    ),
    edit(
        "last_position_of_16_bits",
        "rope_tail",
        "rope_tail.cu",
        "static_cast<float>(*a.pos0 + token)",
        "static_cast<float>(*a.pos0 + token - ((*a.pos0 + token) % 65536 == 65535))",
        Red("unit", "x is wrong"),
    ),
    // What is small, few or split.
    edit(
        "takes_small_for_nothing",
        "take_rows",
        "take_rows.cu",
        "*(float4*)to = *(const float4*)from;",
        "float4 v = *(const float4*)from;\n    if (fabsf(v.x) < 1e-3f) v.x = 0.0f;\n    *(float4*)to = v;",
        Red("unit", "y is wrong"),
    ),
    edit(
        "first_row_where_one_is_asked_for",
        "take_rows",
        "take_rows.cu",
        "size_t(*a.T - rows + row)",
        "size_t(rows == 1 && *a.T > 64 ? 0 : *a.T - rows + row)",
        Red("unit", "y is wrong"),
    ),
    edit(
        "merges_by_another_tile_than_was_split",
        "attention_mixed",
        "attention_mixed.cu",
        "merge(a, attention::few::QUERIES);",
        "merge(a, attention::QUERIES);",
        Red("unit", "o is wrong"),
    ),
    edit(
        "puts_its_input_back",
        "swiglu",
        "swiglu.cu",
        "if (at + 4 <= all) {",
        "if (at + 4 <= all) {\n    volatile float* p = const_cast<float*>(a.g) + at;\n    const float was = *p;\n    \
         *p = 0.0f;\n    *p = was;",
        Red("unit", "the input `g` was modified"),
    ),
];
