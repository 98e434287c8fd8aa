//! What was measured, signed and chained; docs/ledger.md defines every byte.
//!
//! Reading order: [`canonical`] gives a value one spelling; [`statement`] is what is claimed, [`evidence`] who claims it;
//! [`chain`] puts evidence in rows that point back; [`checkpoint`] signs how far they go; [`progress`] is what they
//! prove; [`store`] keeps all that in `state/` so that a kill loses at most the row being written and an edit is refused;
//! [`keys`] and [`trust`] say who signs and whom the user believes, [`roll`] whose key has ended; [`standing`] answers what
//! a node is worth now.

pub mod canonical;
mod chain;
mod checkpoint;
pub mod clock;
pub mod confined;
mod digest;
mod evidence;
pub mod figure;
mod files;
mod import;
mod judge;
mod keys;
mod progress;
mod roll;
mod standing;
mod statement;
mod store;
mod trust;

pub use chain::{Chain, Row};
pub use checkpoint::Checkpoint;
pub use digest::{Digest, Seed};
pub use evidence::Evidence;
pub use figure::Figure;
pub use import::{CODES as IMPORT_CODES, UNTRUSTED, bundle, read_evidence};
pub use judge::{ClosureSource, Closures, Judge};
pub use keys::{CODES as KEY_CODES, Config, KEY_MANY, KeyId, KeyRing, PublicKey, SecretKey};
pub use progress::{Head, PrefillWorking, Progress, Proof};
pub use roll::{Ended, Revocation, Roll, Rotation};
pub use standing::{Outgrown, Standing};
pub use statement::{
    Bench, Binding, Class, Informative, KeyJoin, Outcome, Stage, StageOutcome, StageRecord, Statement, Target, Verdict,
    closure_of,
};
pub use store::{CHECKPOINT_FILE, LEDGER_FILE, Ledger, PROGRESS_FILE, Step, proposed_keys};
pub use trust::{CODES as TRUST_CODES, TRUST_UNKNOWN, Trust, Trusted};

crate::codes! {
    DAMAGED: "ledger-damaged", Integrity, "A row of state/ledger.jsonl is not what its writer wrote, or rows are missing, doubled or out \
        of order. assay refuses the whole ledger: it skips nothing, repairs nothing and starts no new one. Restore state/ from git.";
    ROLLED_BACK: "ledger-rolled-back", Integrity, "The ledger is shorter than its checkpoint, its progress file or the last commit says it \
        was, or was replaced. Rows are only ever added. Restore state/ from git.";
    CHECKPOINT: "ledger-checkpoint", Integrity, "state/checkpoint is missing, forged, or of another ledger. It is written with every row and \
        signed by the row's writer; an interrupted append leaves it at most one row behind.";
    PROGRESS: "progress-edited", Integrity, "state/progress.json is not what the ledger's rows prove. Only assay writes it; nothing reads \
        it but people, and what it claims without a row counts nowhere.";
    LINK: "ledger-link", Integrity, "state/ or a file in it is a symlink, a directory or a device. assay follows none, so that a ledger \
        cannot be swapped by swapping a link.";
    MOVED: "kernel-moved", Integrity, "A kernel's files were other ones after its verdict than during it. The verdict is of what was \
        judged, and no row was written for what is there now.";
    BUSY: "ledger-busy", CouldNotRun, "Another process is appending to this ledger. An append takes milliseconds.";
    UNKNOWN_SIGNER: "ledger-unknown-signer", CouldNotRun, "Evidence can be appended only when its signing key has joined the ledger by a key row \
        or is proposed by assay.toml.";
    ENDED: "key-ended", CouldNotRun, "The key that is to sign was rotated or revoked by a row of this ledger: it writes no more rows, and new \
        evidence of it counts for nothing. Sign with another key (`assay key list`), or make one.";
    VOID: "evidence-void", No, "The evidence is signed by a key that a row of this ledger ended, and that row does not keep it. When it was signed \
        cannot be known: judge again, under a key that is in force.";
    SANDBOX: "sandbox-level", No, "A verdict counts only if its kernel was confined as policy asks while it was judged, and its compiler: `full`, or what \
        `sandbox` in your trust file says, or in assay.toml if that is more. A row that does not say, or contradicts itself, counts for nothing.";
    NO_FORCE: "key-no-force", No, "A key is ended by itself, by a successor that it was rotated to, or by the key that wrote row 0 and its \
        successors, while these are in force; and by nobody else. Whom you trust is your own word: `assay key untrust`.";
    PROPOSED: "ledger-proposed-keys", CouldNotRun, "assay.toml proposes verifier keys as `verifiers = [\"NAME+HASH+BASE64\"]`.";
}
