//! Which commit, and which kernels in it, turned an answer (docs/bisect.md).
//!
//! Nothing here prints or judges. [`line`] searches places of which it knows only how to ask; [`path`] is the line of
//! commits and a folder to look at each in; [`hunt`] brings the two together and follows a merge into its branches; [`swap`] narrows a set of kernels down; [`state`] is what an interrupted
//! search leaves behind, so that none of its questions is asked twice.

mod hunt;
mod line;
mod path;
mod state;
mod swap;

pub use hunt::{Ask, By, Event, Hunt, Known, Outcome, Step};
pub use line::{Answer, Line, Turn, search};
pub use path::{Between, Checkout, Named, short};
pub use state::{Kept, Mode, Request, State};
pub use swap::{Cause, Set, causes};

crate::codes! {
    RANGE: "bisect-range", Usage, "A bisect needs a bad commit and a good one that it comes from: revisions of this repository, \
        the good one an ancestor of the bad one or of a line that forked off it.";
    SHALLOW: "bisect-shallow", CouldNotRun, "The commits between good and bad are not all in this shallow clone.";
    GOOD_IS_BAD: "bisect-good-is-bad", No, "The commit that was said to be good is bad too: nothing turned after it, or it turned \
        before.";
    BAD_IS_GOOD: "bisect-bad-is-good", No, "The commit that was said to be bad is good: there is nothing to look for.";
    NEVER_GOOD: "bisect-never-good", No, "No commit was said to be good, and none of those that were judged is.";
    SAME: "bisect-no-difference", No, "Good and bad have the same kernels, or what they compute cannot be told apart.";
    INTEGRITY: "bisect-integrity", Integrity, "The command that judges a commit found something that is not what it must be (exit code 4). A \
        bisect does not go on over that.";
    BUG: "bisect-command-bug", Internal, "The command that judges a commit ended as assay does on a bug of its own (exit code 70).";
    COMMAND: "bisect-command", CouldNotRun, "The command that judges a commit could not be run, or ended in a way that says neither good nor \
        bad. 0 is good, 125 and 3 skip the commit, 4 and 70 end the bisect, 126, 127 and signals too; every other exit code is \
        bad. With --git-exit-codes as for git: 1 to 127 but 125 are bad, 125 skips, the rest end it.";
    STATE: "bisect-state", CouldNotRun, "There is no interrupted bisect to resume in this repository, or its file .git/assay/bisect.json was \
        written by another version of assay or by hand.";
}
