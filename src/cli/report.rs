//! `assay report`: what is proved, as a page.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::json;

use super::ledger::TrustArgs;
use super::{ModelArg, output, reconcile, standing};
use crate::error::{Error, Result};
use crate::history;
use crate::ledger::Digest;
use crate::plan::graph::Graph;
use crate::plan::schedule::canonical;
use crate::plan::{Numerics, Plan};
use crate::report::document::{Facts, report};
use crate::report::html::html;
use crate::report::markdown::markdown;
use crate::report::reconcile::Names;

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Markdown
    Md,
    /// One HTML file without scripts that loads nothing
    Html,
}

/// Write a report of what is proved, every figure with its row
///
/// With --claims it holds somebody's claims against the rows and ends in the skeleton of a postmortem.
#[derive(clap::Args)]
pub struct Report {
    #[command(flatten)]
    model: ModelArg,
    /// What to write [default: as --out ends, else md]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Where to [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A claim file, as `assay reconcile` takes it
    #[arg(long, value_name = "FILE")]
    claims: Option<PathBuf>,
    /// Tell of a run of `assay agent` instead, node by node, from its events and rows [default: the newest run]
    #[cfg(feature = "agent")]
    #[arg(
        long,
        value_name = "RUN",
        num_args = 0..=1,
        default_missing_value = "",
        conflicts_with_all = ["claims", "postmortem", "format", "numerics", "trust", "model"]
    )]
    agent: Option<String>,
    /// With the skeleton of a postmortem, also where no claim file is given
    #[arg(long)]
    postmortem: bool,
    /// Which of the model's own roundings are applied
    #[arg(long, value_enum, default_value_t = Numerics::Ds4)]
    numerics: Numerics,
    #[command(flatten)]
    trust: TrustArgs,
    /// Print one JSON object (schema assay.report/1, with --agent assay.agent-report/1), the page in it unless --out names
    /// a file
    #[arg(long)]
    json: bool,
}

impl Report {
    pub fn run(&self) -> Result<u8> {
        #[cfg(feature = "agent")]
        if let Some(run) = &self.agent {
            let run = Some(run.as_str()).filter(|run| !run.is_empty());
            return super::agent::report(run, self.out.as_deref(), self.json);
        }
        let bench = standing::ledgered()?;
        let names = Names::read(&bench.root.join("reference/port"))?;
        let claims = self.claims.as_deref().map(|path| reconcile::read(path, &names)).transpose()?;
        let model = self.model.open()?;
        let plan = Plan::build(&model, canonical(self.numerics))?;
        let graph = Graph::of(&plan, None);
        let known = self.trust.known(&bench, &model)?;
        let status = known.status(&bench, &model, &graph, plan.numerics)?;
        let found = claims.map(|claims| reconcile::against(&bench, &known, &status, &names, &claims)).transpose()?;
        let landed: HashMap<Digest, String> = history::landed(&bench.root)?.into_iter().collect();
        let commit = history::Repo::find(&bench.root)?.map_or(Ok(None), |repo| repo.head_id())?;
        let name = self.claims.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let page = report(&Facts {
            status: &status,
            graph: &graph,
            numerics: self.numerics.name(),
            model: standing::short(model.path()).display().to_string(),
            ledger: &known.ledger,
            trust: &known.trust,
            landed: &landed,
            attempts: &history::all_attempts(&bench.root)?,
            commit,
            claims: found.as_ref().map(|found| (name.as_str(), found)),
            postmortem: self.postmortem || self.claims.is_some(),
        });
        let format = self.format();
        let text = match format {
            Format::Md => markdown(&page),
            Format::Html => html(&page),
        };
        if let Some(path) = &self.out {
            std::fs::write(path, &text).map_err(|e| Error::io(path, e))?;
        }
        if self.json {
            let name = if format == Format::Md { "md" } else { "html" };
            let text = self.out.is_none().then_some(text);
            let rows = page.rows();
            output::json("assay.report/1", json!({ "format": name, "out": self.out, "rows": rows, "text": text }))?;
        } else if let Some(path) = &self.out {
            output::println(format_args!("{}", path.display()))?;
        } else {
            output::print(text)?;
        }
        Ok(0)
    }

    fn format(&self) -> Format {
        let ending = self.out.as_ref().and_then(|path| path.extension()?.to_str());
        self.format.unwrap_or(match ending {
            Some("html" | "htm") => Format::Html,
            _ => Format::Md,
        })
    }
}
