//! Kernels and their evidence in git: a ledger that extends HEAD's, one commit per green step, attempts under refs of
//! their own, and the audit of all of it. docs/ledger.md §7 and §8.

mod attempts;
mod audit;
pub mod bisect;
mod extend;
mod first;
mod land;
mod landed_as;
mod landings;
mod merge;
mod message;
mod repo;
mod revert;
mod stage;
mod standing;

pub use attempts::{
    Adopted, Attempt, adopt, all_attempts, attempt_files, attempts, broken_attempts, has_attempt, last_attempt, prune,
    record_attempt, record_attempt_of, record_refusal,
};
pub use audit::{Options as AuditOptions, Report, Signer, audit};
pub use extend::{open, read};
pub use first::{first_commit, knows_author, knows_author_of};
pub use land::{Landed, Request as LandRequest, land, landed};
pub use landed_as::landed_as;
pub use landings::{Contracts, Recompute, Unchecked};
pub use merge::evidence_of;
pub use repo::Repo;
pub use revert::{Reverted, What as RevertWhat, revert};
pub use stage::with_staged;
pub use standing::Broken;

use std::path::Path;

use crate::error::Error;

crate::codes! {
    GIT: "git", CouldNotRun, "libgit2 could not do what was asked. assay uses no git command, hook, filter or GIT_ variable.";
    NO_GIT: "no-git", CouldNotRun, "Landing makes a commit, and the workbench lies in no git repository. `verify` and `import` need none.";
    AUTHOR: "git-author", CouldNotRun, "A commit needs an author; git's configuration has no user.name or user.email.";
    OWNER: "git-owner", CouldNotRun, "The repository belongs to another user. Its configuration would be read and could run or \
        redirect things, so git does not open it unless you say that it is safe, and nor does assay.";
    REVISION: "git-revision", Usage, "A revision is a branch, a tag, the digits of a commit, or what `git rev-parse` takes, and it must name a \
        commit of this repository.";
    SHALLOW: "git-shallow", CouldNotRun, "The history ends at the boundary of a shallow clone. Ledger and commits up to there are checked as \
        ever; what lies before cannot be looked at, or taken back.";
    REVERT: "revert", No, "Only what one commit did to kernels/ can be taken back, and only if no later commit changed the same files. \
        `state/` is never taken back: rows are only added.";
    DIRTY: "revert-dirty", No, "Taking a kernel back would overwrite work: its files are edited, or something is staged.";
    REVERTED: "ledger-reverted", Integrity, "A commit took rows of the ledger back, as `git revert` of a green commit does. What was measured \
        stays on record: `assay revert` takes the kernels back and keeps the rows.";
    STASHED: "ledger-stashed", No, "Rows that were recorded in this work tree are in a git stash and not in its ledger. Nothing is lost \
        yet; landing waits until they are back, or the stash is dropped.";
    ATTEMPT_REF: "attempt-ref", CouldNotRun, "Attempts are kept under refs/assay/attempts/<op>.<types>/<n>, and something else stands there: a file \
        that names no object, a symbolic reference, a link, a lock. It is neither followed nor replaced; `assay attempts` names it.";
    GIT_LINK: "git-link", Integrity, "A file that should be plain is a symlink or a submodule in git, or its name leads out of its tree.";
    NOT_EXTENDED: "ledger-not-extended", Integrity, "A ledger only grows: the work tree's must start with every row of HEAD's, a commit's with \
        every row of its first parent's. Rows were removed, replaced, or come from another branch: bring that branch's evidence \
        in with `assay ledger merge`.";
    LOST_EVIDENCE: "ledger-lost-evidence", Integrity, "A merge must hold the evidence of every parent, and a commit the evidence that its \
        trailers name.";
    LANDED_OTHERWISE: "landed-otherwise", Integrity, "A commit's files are not those that the evidence it claims was judged on, or it \
        names a node that none of that evidence is of. The rows are as they were: the commit was written anew after the \
        kernel had landed. Nothing is repaired; what the commit holds now was never judged under that row.";
    OUTSIDE: "land-outside", No, "A green commit changes kernels/ and state/ and nothing else, on a repository that is in the middle of nothing.";
    UNPROVED: "land-unproved", No, "Every node whose closure the staged change touches must have a row that proves it exactly as staged, on a \
        device, by a key that you trust.";
    NOTHING: "land-nothing", No, "There is nothing to commit: no kernel of the node is staged, and HEAD's ledger proves it already as \
        its contract, its cases and the oracle stand now. New evidence, for a new kernel or for a node that has become stale, is \
        what lands.";
    UNCLAIMED: "land-unclaimed", No, "A commit holds all rows of the ledger up to the last that it claims. One of them is the new proof of \
        another node, which no commit could claim any more.";
    NO_REPLAY: "audit-no-replay", CouldNotRun, "Replaying judges a recorded verdict again from its seed; that needs the verifier, the weights, \
        the kernels as they were, and for device rows a GPU of their architecture.";
    DISAGREES: "audit-disagrees", Integrity, "A recorded verdict, judged again from its own seed with equal binding digests, came out otherwise: \
        the record was made up, or the kernel is not deterministic.";
}

/// The error of what needs a repository and finds none around the workbench `root`.
pub fn no_git(root: &Path) -> Error {
    Error::new(&NO_GIT, format!("{} is in no git repository", root.display()))
}
