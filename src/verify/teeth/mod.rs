//! What the judge itself is worth: `assay verify --teeth`.
//!
//! * [`answers`] puts mutants of the *right answer* to the cases that a verdict would ask, as stage 5 does, and says
//!   case by case what came of it. No kernel runs.
//! * [`mutate`] makes mutants of a *kernel's text*, and [`trial`] judges them on the emulator like any kernel: one that
//!   passes shows what the stages do not see. [`equivalent`] are those where there is nothing to see.

pub mod answers;
mod code;
pub mod equivalent;
pub mod mutate;
pub mod trial;

crate::codes! {
    TEETH_EQUIVALENTS: "teeth-equivalents", CouldNotRun, "tests/teeth/equivalent.toml lists mutants of kernels that compute \
        what the kernel computes, each with the reason. The file cannot be read as that.";
    TEETH_KERNEL: "teeth-kernel", No, "Mutants are judged against a kernel that passes. This one does not pass on the \
        emulator as it is.";
}

/// Of the mutants that were judged and are not equivalent, the part that must be killed.
pub const DEMANDED: f64 = 0.95;
