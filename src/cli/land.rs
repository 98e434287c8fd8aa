//! `assay land`: a green commit.

use std::path::Path;

use serde_json::json;

use super::ledger::{self, TrustArgs, answer};
use super::{ModelArg, output};
use crate::error::Result;
use crate::history::{self, LandRequest};
use crate::ledger::{Closures, Target};
use crate::plan::Numerics;

/// Commits staged kernels with the evidence that proves them.
///
/// Every node that the staged change touches must be proved as it is staged; nodes that are not are named and nothing
/// is committed. With no kernel staged, each named node's new evidence is committed alone: that of a node whose proof had
/// become stale, or that came from another host.
#[derive(clap::Args)]
pub struct Land {
    /// Nodes to land, beside those that the staged change touches; '*' is the whole schedule.
    #[arg(value_parser = parse_target)]
    nodes: Vec<Target>,
    /// What the subject says after the op.
    #[arg(short = 'w', long = "what", value_name = "TEXT")]
    what: Option<String>,
    /// Only evidence of this architecture, e.g. sm_90.
    #[arg(long)]
    arch: Option<String>,
    #[arg(long, value_enum, default_value = "ds4")]
    numerics: Numerics,
    /// A node that only another file holds is landed, or counted, under that file.
    #[command(flatten)]
    pub(super) model: ModelArg,
    #[command(flatten)]
    trust: TrustArgs,
    /// Private key for the checkpoints between the commits of several nodes.
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    #[arg(long)]
    json: bool,
}

fn parse_target(text: &str) -> Result<Target, String> {
    text.parse()
}

impl Land {
    pub fn run(&self, root: &Path, closures: &dyn Closures) -> Result<u8> {
        ledger::open(root)?;
        let trust = self.trust.load(root)?;
        let request = LandRequest {
            nodes: &self.nodes,
            what: self.what.as_deref(),
            numerics: self.numerics,
            arch: self.arch.as_deref(),
            writer: &|| ledger::writer(root, self.key.as_deref()),
        };
        let landed = history::land(root, &request, closures, &trust)?;
        if landed.iter().any(|landed| landed.simulated) {
            anstream::eprintln!(
                "note: evidence of class simulated was counted; `assay audit` of this repository fails now"
            );
        }
        if self.json {
            return answer("assay.land/2", json!({ "commits": landed }));
        }
        for landed in &landed {
            let names: Vec<_> = landed.nodes.iter().map(|(node, row)| format!("{node} (row {row})")).collect();
            output::println(format_args!("landed {} in {}", names.join(", "), &landed.commit[..12]))?;
            output::print(format_args!("\n{}\n", landed.message))?;
        }
        Ok(0)
    }
}
