//! Edits of the repository's own kernels that are right wherever magnitudes, scalars and sizes are the usual ones.

use crate::exhibits::Expected::Red;
use crate::exhibits::{Exhibit, edit};

const SCORES: &str = "a.g[at] + bias";

const fn compressor_state(name: &'static str, to: &'static str) -> Exhibit {
    edit(name, "compressor_state[f16]", "compressor_state.cu", SCORES, to, Red("unit", "state_s is wrong"))
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
];
