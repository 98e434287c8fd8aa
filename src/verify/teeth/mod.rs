//! What the judge itself is worth: `assay verify --teeth`.
//!
//! * [`answers`] puts mutants of the *right answer* to the cases that a verdict would ask, as stage 5 does, and says
//!   case by case what came of it. No kernel runs.
//! * [`mutate`] makes mutants of a *kernel's text*, and [`trial`] judges them on the emulator like any kernel: one that
//!   passes shows what the stages do not see. [`home`] is a kernel and what its mutants meet, [`fates`] what comes of
//!   them, [`journal`] keeps that as it is known. [`known`] are those that are explained: there is nothing to see, or a
//!   case is missing.

pub mod answers;
mod code;
pub mod fates;
mod home;
pub mod journal;
pub mod known;
pub mod mutate;
pub mod trial;

crate::codes! {
    TEETH_KNOWN: "teeth-known", CouldNotRun, "tests/teeth/known.toml lists mutants of kernels that compute what the kernel \
        computes, and lines whose mutants survive for want of a case, each with the reason. The file cannot be read as that.";
    TEETH_KERNEL: "teeth-kernel", No, "Mutants are judged against a kernel that passes. This one does not pass on the \
        emulator as it is.";
    TEETH_JOURNAL: "teeth-journal", CouldNotRun, "A journal of mutants goes on where it ended, if kernels, cases, model and \
        seed are those with which it began. These are not, or the file is no journal. It is left as it is.";
}

/// Of the mutants that were judged and are not equivalent, the part that must be killed.
pub const DEMANDED: f64 = 0.95;
