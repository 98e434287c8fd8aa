//! What the ledger asks of the workbench: the closures of nodes, and to judge again. `verify` implements both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Digest;
use super::statement::{Binding, Verdict};
use crate::error::Result;
use crate::ops::Node;
use crate::plan::Numerics;

/// What the nodes of the opened model bind in one tree of kernels.
pub trait ClosureSource {
    /// Nodes that have a kernel in this tree.
    fn nodes(&self) -> Vec<Node>;

    /// What a verdict on `node` would bind, given the opened file's weights.
    fn binding(&self, node: &Node, arch: &str, numerics: Numerics) -> Result<Binding>;

    /// What a verdict on the whole schedule would bind, and the closures that it consists of; `None` where some node has
    /// no kernel.
    fn schedule(&self, _arch: &str) -> Result<Option<(Binding, BTreeMap<String, Digest>)>> {
        Ok(None)
    }

    /// The nodes whose closure holds one of these files, given relative to `kernels/`.
    fn touched(&self, changed: &[PathBuf]) -> Vec<Node>;
}

/// Opens a tree of kernels: the work tree's, a commit's, or the one that is staged.
pub trait Closures {
    /// `kernels` is a directory laid out like `kernels/`; the model is the workbench's own.
    fn of(&self, kernels: &Path) -> Result<Box<dyn ClosureSource + '_>>;
}

/// Judges recorded verdicts again on what this machine has.
pub trait Judge {
    /// A verdict on what `recorded` binds, from its seed and with the thoroughness that it was made with; or an error of
    /// kind "could not run" where this machine lacks the architecture, the weights or the kernels that it binds.
    fn judge_again(&self, recorded: &Verdict) -> Result<Verdict>;
}
