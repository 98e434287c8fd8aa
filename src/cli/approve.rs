//! `assay approve`: a person grants what an agent asked for.

use std::io::{IsTerminal as _, Write as _};

use serde_json::json;

use super::{ModelArg, output};
use crate::agent::landing::{self, Request};
use crate::error::{Error, Result};
use crate::workbench::Workbench;

/// List what agents ask to have landed, or land one of them
///
/// Landing is confirmed by typing the node's name in a terminal. What is landed is what the ledger proves of the kernel as it
/// is now, whatever the request says.
#[derive(clap::Args)]
pub struct Approve {
    /// The request to grant
    number: Option<u64>,
    /// Take the request away instead
    #[arg(long, requires = "number")]
    reject: bool,
    /// What the commit's subject says after the op, instead of the agent's words
    #[arg(short = 'w', long = "what", value_name = "TEXT", requires = "number")]
    what: Option<String>,
    #[command(flatten)]
    model: ModelArg,
    /// Private key for the checkpoint, if it is needed
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Print one JSON object (schema assay.approve/1)
    #[arg(long)]
    json: bool,
}

impl Approve {
    pub fn run(&self) -> Result<u8> {
        let bench = Workbench::find(".".as_ref())?;
        let Some(number) = self.number else { return self.list(&landing::pending(&bench.root)?) };
        let request = landing::find(&bench.root, number)?;
        if self.reject {
            landing::remove(&bench.root, number)?;
            return self
                .said(json!({ "rejected": number, "node": request.node }), &format!("request {number} is gone"));
        }
        let model = self.model.open()?;
        landing::ready(&bench, &model, &request.node)?;
        confirm(&request)?;
        let what = self.what.as_deref().unwrap_or(&request.what);
        let landed = landing::grant(&bench, &model, &request.node, what, self.key.as_deref())?;
        landing::remove(&bench.root, number)?;
        let commits: Vec<_> = landed.iter().map(|l| l.commit[..12].to_string()).collect();
        let text = format!("landed {} in {}", request.node, commits.join(", "));
        self.said(json!({ "landed": request.node, "commits": landed }), &text)
    }

    fn list(&self, waiting: &[Request]) -> Result<u8> {
        if self.json {
            let list: Vec<_> = waiting
                .iter()
                .map(|r| json!({ "number": r.number, "node": r.node, "what": r.what, "from": r.from, "time": r.time }))
                .collect();
            output::json("assay.approve/1", json!({ "waiting": list }))?;
            return Ok(0);
        }
        if waiting.is_empty() {
            output::println("nothing waits to be landed")?;
        }
        for r in waiting {
            output::println(format_args!("{}  {}  {}  (asked by {}, {})", r.number, r.node, r.what, r.from, r.time))?;
        }
        if !waiting.is_empty() {
            output::println("\nassay approve NUMBER lands one, with --reject it is taken away")?;
        }
        Ok(0)
    }

    fn said(&self, body: serde_json::Value, text: &str) -> Result<u8> {
        match self.json {
            true => output::json("assay.approve/1", body)?,
            false => output::println(text)?,
        }
        Ok(0)
    }
}

/// A person at a terminal types the node's name.
fn confirm(request: &Request) -> Result<()> {
    let refused = || {
        Error::usage(format!("request {} was not confirmed", request.number))
            .expected(format!("`{}`, typed in a terminal", request.node))
            .hint(format!("assay approve {}", request.number))
    };
    if !std::io::stdin().is_terminal() {
        return Err(refused().found("standard input is no terminal"));
    }
    let mut err = anstream::stderr();
    let asked =
        format!("{}: {} (asked by {})\nType the node's name to land it: ", request.node, request.what, request.from);
    write!(err, "{asked}").and_then(|()| err.flush()).map_err(|e| Error::io("stderr", e))?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|e| Error::io("stdin", e))?;
    if line.trim() == request.node.to_string() {
        Ok(())
    } else {
        Err(refused().found(format!("`{}`", line.trim().escape_debug())))
    }
}
