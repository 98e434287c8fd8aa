//! `assay tool`: the tools of a desk, one call at a time.

use std::io::Read as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::hosts::Hosts;
use super::seat::Backend;
use super::{ModelArg, output};
use crate::agent::desk::{Desk, Hands, Options, Provenance, Quiet, Recorder, ToolError, Where};
use crate::agent::session::Session;
use crate::error::{Error, Result};
use crate::ops::Node;
use crate::workbench::Workbench;

/// Call one of the tools that an agent gets, or list them
///
/// A tool reads a contract, an oracle or a section by name, writes a file of one node, builds or judges it; none lands,
/// signs or leaves kernels/. `assay mcp` offers the same to a client.
#[derive(clap::Args)]
pub struct Tool {
    /// Which tool; without it they are listed
    name: Option<String>,
    /// Its arguments, a JSON object; - reads it from standard input
    arguments: Option<String>,
    #[command(flatten)]
    desk: DeskArgs,
    /// Print one JSON object (schema assay.tool/1)
    #[arg(long)]
    json: bool,
}

/// What lies on a desk, for the commands that set one.
#[derive(clap::Args, Clone)]
pub struct DeskArgs {
    #[command(flatten)]
    model: ModelArg,
    /// The node to work on [default: any, by naming it]
    #[arg(long, value_name = "NODE")]
    node: Option<Node>,
    /// Let shared headers in kernels/common, kernels/quant and kernels/many be written too
    #[arg(long)]
    shared: bool,
    /// Where kernels are judged
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    /// Private key to record verdicts with [default: the only one]
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Do not record verdicts
    #[arg(long, conflicts_with = "key")]
    no_record: bool,
    #[command(flatten)]
    hosts: Hosts,
}

impl DeskArgs {
    /// Whether anything was said of a desk.
    #[cfg(feature = "mcp")]
    pub fn any(&self) -> bool {
        let DeskArgs { model, node, shared, backend, key, no_record, hosts } = self;
        let said = model.model.is_some() || node.is_some() || key.is_some() || !hosts.runner.is_empty();
        said || *shared || *no_record || *backend != Backend::Auto
    }

    /// Which key was named.
    #[cfg(feature = "mcp")]
    pub fn key(&self) -> Option<String> {
        self.key.clone()
    }

    pub fn open(&self) -> Result<Desk> {
        let place = match self.backend {
            Backend::Auto => Where::Auto,
            Backend::Device => Where::Device,
            Backend::Emulator => Where::Emulator,
            Backend::Oracle => {
                return Err(Error::usage("the oracle is never a subject: it is what kernels are judged by")
                    .expected("--backend auto, device or emulator"));
            }
        };
        let away = match self.hosts.runner.is_empty() {
            true => None,
            false => self.hosts.away(&Workbench::find(".".as_ref())?)?,
        };
        let place = match (place, &away) {
            (Where::Device, Some(_)) => {
                return Err(Error::usage("a host that is named judges instead of the device here")
                    .expected("--runner, or --backend device"));
            }
            (_, Some(_)) => Where::Emulator,
            (place, None) => place,
        };
        let options = Options {
            away,
            model: self.model.model.clone(),
            node: self.node.clone(),
            any_node: self.node.is_none(),
            shared: self.shared,
            place,
            record: (!self.no_record).then(|| Recorder { key: self.key.clone() }),
        };
        Desk::open(&PathBuf::from("."), options)
    }
}

fn refused(desk: &Desk, tool: &str, arguments: &Value, e: &ToolError) -> Result<()> {
    let session = Session::open(desk, "assay tool")?;
    let call = session.called(tool, arguments)?;
    session.failed(call, e)
}

/// Most bytes of arguments: more than any file may have, written as JSON.
const ARGUMENTS: u64 = 8 << 20;

impl Tool {
    pub fn run(&self) -> Result<u8> {
        let desk = self.desk.open()?;
        let Some(name) = &self.name else { return self.list(&desk) };
        let arguments = self.arguments()?;
        let stop = super::verify::stop_at_interrupt();
        let hands = Hands { progress: &Quiet, stop: &stop, until: None, provenance: &Provenance::default() };
        let result = desk.call_with(name, &arguments, &hands).map_err(|e| {
            // Whoever calls tools from a shell leaves a trace of what it was refused, as a client of `assay mcp` does.
            if e.is_refusal()
                && let Err(lost) = refused(&desk, name, &arguments, &e)
            {
                anstream::eprintln!("note: the refusal was not recorded: {}", lost.what());
            }
            e.0
        })?;
        if self.json {
            let body = json!({ "tool": name, "text": result.text, "data": result.data, "written": result.written });
            output::json("assay.tool/1", body)?;
        } else {
            output::println(result.text.trim_end())?;
        }
        Ok(0)
    }

    fn arguments(&self) -> Result<Value> {
        let text = match self.arguments.as_deref() {
            None => return Ok(json!({})),
            Some("-") => {
                let mut text = String::new();
                std::io::stdin().take(ARGUMENTS).read_to_string(&mut text).map_err(|e| Error::io("stdin", e))?;
                text
            }
            Some(text) => text.to_string(),
        };
        serde_json::from_str(&text)
            .map_err(|e| Error::usage(format!("the arguments are no JSON: {e}")).expected("an object, {…}"))
    }

    fn list(&self, desk: &Desk) -> Result<u8> {
        if self.json {
            let tools: Vec<Value> = desk
                .tools()
                .iter()
                .map(|t| json!({ "name": t.name, "description": t.description, "reads": t.reads, "arguments": t.schema() }))
                .collect();
            output::json("assay.tools/1", json!({ "tools": tools }))?;
            return Ok(0);
        }
        for tool in desk.tools() {
            let schema = tool.schema();
            let names: Vec<&str> =
                schema["properties"].as_object().into_iter().flat_map(|o| o.keys().map(String::as_str)).collect();
            output::println(format_args!("{} {{{}}}\n    {}", tool.name, names.join(", "), tool.description))?;
        }
        Ok(0)
    }
}
