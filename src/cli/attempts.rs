//! `assay attempts`: what failed and was kept.

use std::path::Path;

use serde_json::json;

use super::ledger::answer;
use super::output;
use crate::error::{Error, Result};
use crate::history;
use crate::ledger::Target;
use crate::ops;
use crate::words::{count, plain};

/// List the failed attempts that are kept, adopt fetched ones, or remove some
///
/// `assay verify --record` keeps every red verdict's kernels as a commit under refs/assay/attempts/<op>.<types>/<n>. They
/// are pushed with `git push REMOTE 'refs/assay/attempts/*'` and fetched with `git fetch REMOTE
/// 'refs/assay/attempts/*:refs/assay/remotes/REMOTE/*'`.
#[derive(clap::Args)]
pub struct Attempts {
    #[command(subcommand)]
    action: Option<Action>,
    /// Print one JSON object (schema assay.attempts/1)
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List them; those of NODE alone if it is given
    List { node: Option<Target> },
    /// File what was fetched from REMOTE under the numbers that it has there
    ///
    /// What only this repository has moves to a free number where the remote has taken its own, so that all of it can be
    /// pushed. No attempt is overwritten.
    Adopt { remote: String },
    /// Remove references to attempts of the nodes named, or of all; the ledger's rows stay
    ///
    /// Each is printed with its commit, which `git update-ref REFERENCE COMMIT` brings back until git collects it.
    Prune {
        #[arg(value_name = "NODE")]
        nodes: Vec<Target>,
        /// Those of every node
        #[arg(long, conflicts_with = "nodes")]
        all: bool,
        /// Keep the last N of each node
        #[arg(long, value_name = "N", default_value_t = 0)]
        keep: usize,
        /// Say what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
}

impl Attempts {
    pub fn run(&self, root: &Path) -> Result<u8> {
        match &self.action {
            None => self.list(root, None),
            Some(Action::List { node }) => self.list(root, node.as_ref()),
            Some(Action::Adopt { remote }) => self.adopt(root, remote),
            Some(Action::Prune { nodes, all, keep, dry_run }) => {
                if nodes.is_empty() && !all {
                    return Err(Error::usage("nothing says which attempts to remove")
                        .expected("NODE…, or --all")
                        .hint("assay attempts lists them; --dry-run says what would go"));
                }
                nodes.iter().try_for_each(known)?;
                self.prune(root, (!all).then_some(nodes.as_slice()), *keep, !dry_run)
            }
        }
    }

    fn list(&self, root: &Path, node: Option<&Target>) -> Result<u8> {
        node.map_or(Ok(()), known)?;
        let mut attempts = history::all_attempts(root)?;
        attempts.retain(|a| node.is_none_or(|node| a.node == *node));
        let broken = history::broken_attempts(root)?;
        if self.json {
            return answer("assay.attempts/1", json!({ "attempts": attempts, "broken": broken }));
        }
        for b in &broken {
            anstream::eprintln!("note: {}", b.line());
        }
        if attempts.is_empty() {
            output::println("no attempt is on record")?;
        }
        for a in &attempts {
            output::println(format_args!(
                "{}  {}  {}",
                &a.commit[..12],
                plain(&a.reference, 200),
                plain(&a.summary, 200)
            ))?;
        }
        Ok(0)
    }

    fn adopt(&self, root: &Path, remote: &str) -> Result<u8> {
        let adopted = history::adopt(root, remote)?;
        if self.json {
            return answer("assay.attempts-adopt/1", json!({ "remote": remote, "adopted": adopted }));
        }
        for a in &adopted {
            let moved = a.moved_from.as_ref().map_or(String::new(), |from| format!("  (was {from})"));
            output::println(format_args!("{}  {}{moved}  {}", &a.commit[..12], a.reference, plain(&a.summary, 200)))?;
        }
        output::println(format_args!("{} filed", count(adopted.len(), "attempt")))?;
        Ok(0)
    }

    fn prune(&self, root: &Path, nodes: Option<&[Target]>, keep: usize, really: bool) -> Result<u8> {
        let gone = history::prune(root, nodes, keep, really)?;
        if self.json {
            return answer("assay.attempts-prune/1", json!({ "removed": really, "attempts": gone }));
        }
        for a in &gone {
            output::println(format_args!("{}  {}  {}", a.commit, plain(&a.reference, 200), plain(&a.summary, 200)))?;
        }
        let done = if really { "removed" } else { "would be removed" };
        output::println(format_args!("{} {done}", count(gone.len(), "reference")))?;
        Ok(0)
    }
}

/// A node that no op could have is a slip of the hand, not a node without attempts.
fn known(target: &Target) -> Result<()> {
    match target {
        Target::Node(node) if ops::find(&node.op).is_none() => {
            Err(Error::usage(format!("there is no op `{}`", node.op)).hint("assay ops lists them"))
        }
        _ => Ok(()),
    }
}
