//! Edits of the repository's own kernels that are right until something is looked at that seldom is.

use crate::exhibits::Expected::Red;
use crate::exhibits::{Exhibit, edit};

pub const EXTREMES: &[Exhibit] = &[
    edit(
        "writes_in_front_of_its_scratch",
        "matmul[q8_0]",
        "many/activations.cuh",
        "if (lane == 0) scale[row] =",
        "if (lane == 0) x[-1] = 0, scale[row] =",
        Red("unit", "the scratch memory was written in front of its start"),
    ),
];
