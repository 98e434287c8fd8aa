//! The evidence of another ledger, to be rowed again here under the merger's signature.

use std::path::Path;

use super::extend::LEDGER_PATH;
use super::repo::Repo;
use super::{GIT, no_git};
use crate::error::{Error, Result};
use crate::ledger::{Chain, Evidence, proposed_keys};

/// All evidence of the ledger that the commit `revision` holds, verified, in its order.
pub fn evidence_of(root: &Path, revision: &str) -> Result<Vec<Evidence>> {
    let repo = Repo::find(root)?.ok_or_else(|| no_git(root))?;
    let commit = repo.commit(repo.resolve(revision)?)?;
    let Some(blob) = repo.file(commit.tree, LEDGER_PATH)? else {
        return Err(Error::new(&GIT, format!("commit {} has no ledger", commit.short())).expected(LEDGER_PATH));
    };
    let chain = Chain::read(&repo.blob(blob)?, proposed_keys(root)?)?;
    Ok(chain.rows.into_iter().map(|row| row.evidence).collect())
}
