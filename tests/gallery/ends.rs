//! Edits of the repository's own kernels that are wrong where tiles, tables and formats end: blocks without a scale,
//! experts with a tile of pairs and one more, more heads and experts than Flash has, ids that are none.

use crate::exhibits::Expected::Red;
use crate::exhibits::{Exhibit, edit};

const fn pairs(name: &'static str, from: &'static str, to: &'static str) -> Exhibit {
    edit(name, "moe_down[q2_k]", "many/tile.cuh", from, to, Red("unit", "many: "))
}

pub const ENDS: &[Exhibit] = &[
    // A block whose scale is 0 is a block of zeros, whatever its codes.
    edit(
        "codes_of_an_iq2_xxs_block_without_a_scale",
        "moe_gate_up[iq2_xxs]",
        "many/iq2_xxs.cuh",
        "(raw.d & 0x7fffu) == 0 ? 0u :",
        "false ? 0u :",
        Red("unit", "mid is wrong"),
    ),
    edit(
        "codes_of_a_q2_k_block_without_a_scale",
        "moe_down[q2_k]",
        "many/q2_k.cuh",
        "(raw.d & 0x7fffu) == 0 ? 0u :",
        "false ? 0u :",
        Red("unit", "y is wrong"),
    ),
    // As many pairs of one expert, or tokens, as a tile has, and one more.
    pairs("nine_pairs_in_a_tile_of_8", "if (tokens <= 8) {", "if (tokens <= 9) {"),
    pairs("seventeen_pairs_in_a_tile_of_16", "} else if (tokens <= 16) {", "} else if (tokens <= 17) {"),
    pairs("thirty_three_pairs_in_a_tile_of_32", "} else if (tokens <= 32) {", "} else if (tokens <= 33) {"),
    pairs(
        "forty_nine_pairs_in_a_tile_of_48",
        "} else if (TOKENS == 64 && tokens <= 48) {",
        "} else if (TOKENS == 64 && tokens <= 49) {",
    ),
    edit(
        "tiles_of_63_pairs",
        "moe_gate_up[iq2_xxs]",
        "many/experts.cuh",
        "lists.tile[3 * number + 2] = min(kTileTokens, count - done);",
        "lists.tile[3 * number + 2] = min(count == 64 ? 63 : kTileTokens, count - done);",
        Red("unit", "never written"),
    ),
    edit(
        "seventeen_tokens_in_a_tile_of_16",
        "matmul[q8_0]",
        "many/tile.cuh",
        "} else if (tokens <= 16) {",
        "} else if (tokens <= 17) {",
        Red("unit", "y is wrong"),
    ),
    // With one head no row is left, with four some 2^30.
    edit(
        "works_without_tokens_where_heads_are_four",
        "attention_raw",
        "attention_raw.cu",
        "if (tile.queries > 0) attention::attend_all",
        "if (tile.queries >= 0) attention::attend_all",
        Red("unit", "in a step without tokens"),
    ),
    // More than Flash has.
    edit(
        "first_turn_of_heads_alone",
        "indexer_scores",
        "indexer_scores_mma.cuh",
        "const bool last_heads = head0 + HEADS >= a.H;",
        "const bool last_heads = true;",
        Red("unit", "s is wrong"),
    ),
    edit(
        "sixty_four_heads_turn",
        "rope_tail",
        "rope_tail.cu",
        "head < min(head0 + kHeads, a.H);",
        "head < min(head0 + kHeads, min(a.H, 64));",
        Red("unit", "x is wrong"),
    ),
    edit(
        "router_of_256_experts",
        "router_topk",
        "router_topk.cu",
        "for (int e = threadIdx.x; e < a.E; e += FEW_THREADS) {",
        "for (int e = threadIdx.x; e < min(a.E, FEW_THREADS); e += FEW_THREADS) {",
        Red("unit", "sel is wrong"),
    ),
    edit(
        "lists_of_1024_experts",
        "moe_down[q2_k]",
        "many/experts.cuh",
        "const int run = (experts + kSortThreads - 1) / kSortThreads;",
        "const int run = 1;",
        Red("unit", "many: "),
    ),
    // Values at the ends of their range.
    edit(
        "maximum_kept_beyond_f16",
        "attention_mixed",
        "common/attention_mma.cuh",
        "constexpr float SLACK = 8.0f;",
        "constexpr float SLACK = 20.0f;",
        Red("unit", "o is wrong"),
    ),
    edit(
        "limbs_of_no_row_below_1e_15",
        "matmul[q8_0]",
        "quant/limbs.cuh",
        "min(max(top >> 23, 22u), 254u)",
        "min(max(top >> 23, 77u), 254u)",
        Red("unit", "y is wrong"),
    ),
    edit(
        "halves_of_no_row_below_1e_15",
        "moe_down[q2_k]",
        "many/activations.cuh",
        "& 0xffu, 10u), 253u);",
        "& 0xffu, 97u), 253u);",
        Red("unit", "y is wrong"),
    ),
    edit(
        "one_past_the_table_is_the_last",
        "embed[f16]",
        "embed.cu",
        "id >= 0 && id < a.V ? id : 0",
        "id >= 0 && id < a.V ? id : id == a.V ? a.V - 1 : 0",
        Red("unit", "h is wrong"),
    ),
    edit(
        "takes_a_score_two_above_the_last",
        "indexer_topk",
        "indexer_topk.cu",
        "(base + lane < to && key > threshold)",
        "(base + lane < to && key > 1 + threshold)",
        Red("unit", "few: "),
    ),
];
