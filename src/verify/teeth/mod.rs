//! What the judge itself is worth: `assay verify --teeth`.
//!
//! * [`answers`] puts mutants of the *right answer* to the cases that a verdict would ask, as stage 5 does, and says
//!   case by case what came of it. No kernel runs.
//! * [`mutate`] makes mutants of a *kernel's text*, and [`trial`] judges them on the emulator like any kernel: one that
//!   passes shows what the stages do not see. [`known`] are those that are explained: there is nothing to see, or a case
//!   is missing.

pub mod answers;
mod code;
pub mod known;
pub mod mutate;
pub mod trial;

crate::codes! {
    TEETH_KNOWN: "teeth-known", CouldNotRun, "tests/teeth/known.toml lists mutants of kernels that compute what the kernel \
        computes, and lines whose mutants survive for want of a case, each with the reason. The file cannot be read as that.";
    TEETH_KERNEL: "teeth-kernel", No, "Mutants are judged against a kernel that passes. This one does not pass on the \
        emulator as it is.";
}

/// Of the mutants that were judged and are not equivalent, the part that must be killed.
pub const DEMANDED: f64 = 0.95;
