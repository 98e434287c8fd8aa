//! `assay new`: a workbench to port into.

use std::path::PathBuf;

use serde_json::json;

use super::standing::{ledgered, short};
use super::{ModelArg, output};
use crate::error::{Error, IO, Result};
use crate::fresh::{self, Made, NEW_UPTO, Request};
use crate::model::Model;
use crate::ops::Node;
use crate::words::{agree, count, shell_path};
use crate::workbench::{WORKBENCH_MISSING, Workbench};

/// Make a workbench with everything that a port needs but its kernels
///
/// Generated headers, shared headers, prompts, documents, an empty signed ledger, and a first commit. It needs no clone of
/// assay beside it.
#[derive(clap::Args)]
pub struct New {
    /// Where: a folder that does not exist yet, or an empty one
    dir: PathBuf,
    #[command(flatten)]
    model: ModelArg,
    /// Port these ops only, e.g. swiglu,rope_tail [default: all that the model needs]
    #[arg(long, value_name = "OP,OP", value_delimiter = ',')]
    ops: Vec<String>,
    /// Bring the green kernels of all nodes that a prefill meets before NODE, to practise on it
    #[arg(long, value_name = "NODE")]
    upto: Option<Node>,
    /// The workbench that --upto takes kernels and evidence from [default: the one around this folder]
    #[arg(long, value_name = "DIR", requires = "upto")]
    from: Option<PathBuf>,
    /// Private key that the ledger is written with [default: the only one; made where there is none]
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Print one JSON object (schema assay.new/1)
    #[arg(long)]
    json: bool,
}

impl New {
    pub fn run(&self) -> Result<u8> {
        let model = Model::open(&self.model.path().map_err(|e| self.nameless(e))?);
        let model = model.map_err(|e| match e.code().id == IO.id {
            true => e.expected("a model's GGUF file").hint("assay new DIR -m FILE"),
            false => e,
        })?;
        let from = match (&self.upto, &self.from) {
            (None, _) => None,
            (Some(_), Some(dir)) => Some(Workbench::find(dir)?),
            (Some(node), None) => Some(ledgered().map_err(|e| {
                Error::new(&NEW_UPTO, format!("there is no workbench here to take kernels up to {node} from"))
                    .because(e)
                    .hint("name one with --from DIR: a clone of assay has all of them")
            })?),
        };
        let made = fresh::make(&Request {
            dir: &self.dir,
            model: &model,
            ops: &self.ops,
            upto: self.upto.as_ref().zip(from.as_ref()),
            key: self.key.as_deref(),
        })?;
        for note in &made.notes {
            anstream::eprintln!("note: {note}");
        }
        if self.json {
            output::json("assay.new/1", document(&made))?;
        } else {
            output::print(self.text(&made))?;
        }
        Ok(0)
    }

    /// It needs no clone and no workbench, but a model: one that is named, or that of the workbench around.
    fn nameless(&self, e: Error) -> Error {
        if e.code().id != WORKBENCH_MISSING.id {
            return e.hint("name a model: assay new DIR -m FILE");
        }
        Error::new(&WORKBENCH_MISSING, "no model is named, and there is no workbench here that has one")
            .expected("a model's GGUF file")
            .hint(format!("assay new {} -m FILE", shell_path(&self.dir)))
    }

    fn text(&self, made: &Made) -> String {
        let mut out = format!(
            "{}: a workbench for {}, committed as {}\n",
            short(&made.root).display(),
            count(made.nodes, "node"),
            &made.commit[..12]
        );
        let id = made.key.id().short();
        match made.new_key {
            true => out += &format!("You had no key: {} ({id}) was made, and is trusted here.\n", made.key.name()),
            false => out += &format!("Its ledger is written with your key {} ({id}).\n", made.key.name()),
        }
        match (&made.carried, &self.upto) {
            (Some(carried), Some(node)) => {
                let n = carried.nodes.len();
                out += &format!("{} before {node} brought {} kernel", count(n, "node"), agree(n, "its", "their"));
                out += agree(n, "", "s");
                if carried.untrusted > 0 {
                    let them = agree(carried.untrusted, "is", "are");
                    let keys: Vec<_> = carried.keys.iter().map(|key| format!("assay key trust {key}")).collect();
                    out += &format!("; {} {them} proven by a key that is not trusted here", carried.untrusted);
                    out += &format!(" (there: {})", keys.join("; "));
                }
                out += ".\n";
                for (node, why) in &carried.left {
                    out += &format!("  left behind: {node}, {why}\n");
                }
            }
            _ => out += "It holds no kernel.\n",
        }
        if made.carried.is_some() {
            out += &format!("There: {}\n", made.standing);
        }
        if !self.ops.is_empty() {
            out += &format!("Ported here: {}; the oracle computes other ops.\n", self.ops.join(", "));
        }
        out + &format!("\nNext: cd {} && assay next\n", shell_path(&self.dir))
    }
}

fn document(made: &Made) -> serde_json::Value {
    let carried = made.carried.as_ref();
    json!({
        "root": made.root,
        "commit": made.commit,
        "files": made.files,
        "key": made.key,
        "new_key": made.new_key,
        "nodes": made.nodes,
        "standing": made.standing,
        "carried": carried.map(|c| &c.nodes),
        "left": carried.map(|c| c.left.iter().map(|(node, why)| json!({ "node": node, "reason": why })).collect::<Vec<_>>()),
        "untrusted": carried.map(|c| c.untrusted),
    })
}
