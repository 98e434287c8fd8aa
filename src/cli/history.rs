//! `assay history`: what happened to a node, or to all of them.

use std::collections::HashMap;
use std::path::Path;

use serde_json::json;

use super::ledger::{self, TrustArgs, answer, signer, summary};
use super::output;
use crate::error::{Error, Result};
use crate::history;
use crate::ledger::{Digest, Row, Target};
use crate::ops;

/// List the ledger's rows, the commits that landed them, and failed attempts
#[derive(clap::Args)]
pub struct History {
    /// Only this node; `*` for whole schedules.
    node: Option<Target>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Print one JSON object (schema assay.history/1)
    #[arg(long)]
    json: bool,
}

impl History {
    pub fn run(&self, root: &Path) -> Result<u8> {
        if let Some(Target::Node(node)) = &self.node
            && ops::find(&node.op).is_none()
        {
            return Err(Error::usage(format!("there is no op `{}`", node.op)).hint("assay ops lists them"));
        }
        let ledger = ledger::open(root)?;
        let trust = self.trust.load(root)?;
        let landed: HashMap<Digest, String> = history::landed(root)?.into_iter().collect();
        let wanted = |row: &&Row| self.node.is_none() || row.statement().target() == self.node.as_ref();
        let rows: Vec<&Row> = ledger.rows().iter().filter(wanted).collect();
        let attempts = self.attempts(root)?;
        if self.json {
            let rows: Vec<_> = rows
                .iter()
                .map(|row| {
                    json!({
                        "row": row.seq, "kind": row.statement().kind(), "node": row.statement().target(),
                        "evidence": row.evidence.digest(), "signer": row.evidence.signer(),
                        "trusted": trust.trusts(&row.evidence.signer()), "commit": landed.get(&row.evidence.digest()),
                        "summary": summary(row),
                    })
                })
                .collect();
            return answer("assay.history/1", json!({ "rows": rows, "attempts": attempts }));
        }
        if rows.is_empty() && attempts.is_empty() {
            output::println(format_args!("nothing is on record"))?;
        }
        for row in rows {
            let commit =
                landed.get(&row.evidence.digest()).map_or(String::new(), |id| format!("  landed in {}", &id[..12]));
            output::println(format_args!("row {}  {}{commit}", row.seq, summary(row)))?;
            output::println(format_args!("    signed by {}", signer(&ledger, row, &trust)))?;
        }
        for attempt in attempts {
            output::println(format_args!("{}  {}  {}", &attempt.commit[..12], attempt.reference, attempt.summary))?;
        }
        Ok(0)
    }

    /// Attempts at the wanted node, or at all.
    fn attempts(&self, root: &Path) -> Result<Vec<history::Attempt>> {
        let mut attempts = history::all_attempts(root)?;
        attempts.retain(|attempt| self.node.as_ref().is_none_or(|node| attempt.node == *node));
        Ok(attempts)
    }
}
