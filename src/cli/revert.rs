//! `assay revert`: a kernel is taken back, its rows are kept.

use std::path::Path;

use super::ledger::{TrustArgs, answer};
use super::{ModelArg, output};
use crate::error::{Error, Result};
use crate::history::{self, RevertWhat};
use crate::ledger::Closures;
use crate::ops::{self, Node};

/// Take a commit's kernels back and keep its rows
///
/// A plain `git revert` of a green commit takes rows of the ledger back as well, which `assay audit` refuses: what was
/// measured was measured. This commits kernels/ as it was before, with the ledger as it is, and says what its rows say
/// of the kernels that are there now.
#[derive(clap::Args)]
pub struct Revert {
    /// A commit, or a node: then the last commit that landed a kernel of it
    #[arg(value_name = "COMMIT|NODE")]
    what: String,
    #[command(flatten)]
    pub(super) model: ModelArg,
    #[command(flatten)]
    trust: TrustArgs,
    /// Print one JSON object (schema assay.revert/1)
    #[arg(long)]
    json: bool,
}

impl Revert {
    pub fn run(&self, root: &Path, closures: &dyn Closures) -> Result<u8> {
        let what = match self.what.parse::<Node>() {
            Ok(node) if ops::find(&node.op).is_some() => RevertWhat::Node(node),
            _ => RevertWhat::Commit(self.what.clone()),
        };
        let done = history::revert(root, &what, closures, &self.trust.load(root)?)?;
        if self.json {
            let body = serde_json::to_value(&done).map_err(|e| Error::internal(e.to_string()))?;
            return answer("assay.revert/1", body);
        }
        output::println(format_args!("reverted {} in {}", &done.reverts[..12], &done.commit[..12]))?;
        output::print(format_args!("\n{}\n", done.message))?;
        Ok(0)
    }
}
