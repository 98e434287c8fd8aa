//! Edits of the repository's own kernels that are wrong for one count of tokens or rows, with one flag, or from one
//! position: what a sample of sizes misses unless it names them.

use crate::exhibits::Expected::Red;
use crate::exhibits::{Exhibit, edit};

const fn swiglu(name: &'static str, to: &'static str) -> Exhibit {
    edit(name, "swiglu", "swiglu.cu", "if (at + 4 <= all) {", to, Red("unit", "never written"))
}

const fn rope(name: &'static str, to: &'static str) -> Exhibit {
    edit(name, "rope_tail", "rope_tail.cu", "if (a.inverse) sine", to, Red("unit", "x is wrong"))
}

const fn state(name: &'static str, to: &'static str) -> Exhibit {
    let from = "const int pos0 = *a.pos0, end = pos0 + *a.T, under_way = end / a.ratio * a.ratio;";
    edit(name, "compressor_state[f16]", "compressor_state.cu", from, to, Red("unit", "state_k is wrong"))
}

pub const COUNTS: &[Exhibit] = &[
    // Round numbers, where the bound of a loop or of a grid lies.
    swiglu("nothing_for_128_tokens", "if (*a.T == 128) return;\n  if (at + 4 <= all) {"),
    swiglu("nothing_for_256_tokens", "if (*a.T == 256) return;\n  if (at + 4 <= all) {"),
    swiglu("nothing_for_4096_tokens", "if (*a.T == 4096) return;\n  if (at + 4 <= all) {"),
    swiglu("nothing_for_8192_tokens", "if (*a.T == 8192) return;\n  if (at + 4 <= all) {"),
    edit(
        "nothing_for_2048_tokens",
        "take_rows",
        "take_rows.cu",
        "if (row >= rows ||",
        "if (*a.T == 2048 || row >= rows ||",
        Red("unit", "never written"),
    ),
    edit(
        "seven_tokens_like_six",
        "hc_split",
        "hc_split.cu",
        "const bool live = token < *a.T;",
        "const bool live = token < (*a.T == 7 ? 6 : *a.T);",
        Red("unit", "never written"),
    ),
    edit(
        "rows_of_17_bits",
        "indexer_topk",
        "indexer_topk.cu",
        "const int n = min((*a.pos0 + token + 1) / 4, a.C);",
        "const int n = min((*a.pos0 + token + 1) / 4, min(a.C, 131072));",
        Red("unit", "ids is wrong"),
    ),
    edit(
        "first_rows_stay",
        "store_rows",
        "store_rows.cu",
        "if (row >= rows || rows - row > a.cap) return;",
        "if (row >= rows || row >= a.cap) return;",
        Red("unit", "cache is wrong"),
    ),
    // A flag or an optional output, and a count.
    rope("turns_back_4000_tokens", "if (a.inverse && token < 4000) sine"),
    rope("turns_back_one_token_of_64_heads", "if (a.inverse && (a.H < 64 || *a.T == 1)) sine"),
    rope("turns_back_all_but_the_last_of_8192", "if (a.inverse && token < 8191) sine"),
    edit(
        "no_second_output_of_three_tokens",
        "hc_expand",
        "hc_expand.cu",
        "if (a.y2)",
        "if (a.y2 && *a.T != 3)",
        Red("unit", "h is wrong"),
    ),
    edit(
        "no_second_output_for_a_wide_token",
        "hc_expand",
        "hc_expand.cu",
        "if (a.y2)",
        "if (a.y2 && !(a.D == 4096 && *a.T == 1))",
        Red("unit", "h is wrong"),
    ),
    // A count and a place in the window.
    state(
        "six_tokens_from_the_third_place",
        "const int pos0 = *a.pos0, end = pos0 + *a.T - (a.ratio == 4 && *a.T == 6 && pos0 % 4 == 2), \
         under_way = end / a.ratio * a.ratio;",
    ),
    state(
        "few_tokens_from_the_last_place_of_128",
        "const int pos0 = *a.pos0, end = pos0 + *a.T - (a.ratio == 128 && *a.T < 9 && pos0 % 128 == 127), \
         under_way = end / a.ratio * a.ratio;",
    ),
];
