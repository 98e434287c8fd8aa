//! `assay mcp`: the tools for an outside agent, and what to paste into its settings.

use std::time::Duration;

use serde_json::{Value, json};

use super::output;
use super::tool::DeskArgs;
use crate::agent::mcp::Server;
use crate::agent::session::{self, Event, Record};
use crate::agent::{kept, transcript};
use crate::error::{Error, Result};
use crate::words::count;
use crate::workbench::{WORKBENCH_MISSING, Workbench};

/// Seconds that a client is kept waiting where nobody says how many.
const PATIENCE: u64 = 45;
/// What stands for the workbench where there is none.
const ELSEWHERE: &str = "/path/to/workbench";

/// Serve a workbench's tools to an agent over MCP, on standard input and output
///
/// The agent can read, write one node's kernel at a time, build and verify. It cannot land: it asks, and you grant it.
#[derive(clap::Args)]
pub struct Mcp {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    desk: DeskArgs,
    /// How long a verdict may keep the client waiting before it gets a job to poll; 0: not at all [default: 45]
    #[arg(long, value_name = "SECONDS")]
    patience: Option<u64>,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Print what to paste into a client's settings
    Config {
        /// Which client
        #[arg(long = "for", value_enum)]
        client: Client,
        /// Print one JSON object (schema assay.mcp-config/1)
        #[arg(long)]
        json: bool,
    },
    /// Tell what an outside agent did and what it was refused, from its transcript
    Log {
        /// The transcript's name, or its beginning [default: the newest]
        session: Option<String>,
        /// Print one JSON object (schema assay.mcp-log/1)
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Client {
    ClaudeCode,
    ClaudeDesktop,
    Codex,
    Cursor,
    Gemini,
    Vscode,
    /// Any other: command and arguments
    Other,
}

impl Mcp {
    pub fn run(&self) -> Result<u8> {
        // Not clap's word, which would have -C behind `mcp` refused as well.
        if self.action.is_some() && (self.patience.is_some() || self.desk.any()) {
            return Err(Error::usage("options of the server say nothing to `assay mcp config` and `assay mcp log`")
                .expected("assay mcp with them, or the other without"));
        }
        match &self.action {
            Some(Action::Config { client, json }) => config(*client, *json),
            None => {
                let patience = Duration::from_secs(self.patience.unwrap_or(PATIENCE).min(3600));
                let desk = self.desk.open()?;
                // A host that does not answer is said before any client works.
                desk.greet_own()?;
                let server = Server::new(desk, self.desk.key())?;
                anstream::eprintln!("transcript {}: assay mcp log shows it", server.transcript());
                server.with_patience(patience).run().map(|()| 0)
            }
            Some(Action::Log { session, json }) => log(session.as_deref(), *json),
        }
    }
}

/// A transcript, checked line by line.
fn log(name: Option<&str>, as_json: bool) -> Result<u8> {
    let dir = session::find(&Workbench::find(".".as_ref())?.root, name)?;
    let (mut lines, mut events) = (Vec::new(), Vec::new());
    let (mut refused, mut digest) = (0, String::new());
    transcript::read(&dir.join(transcript::FILE), |record: Record| {
        refused += usize::from(matches!(record.event, Event::Refused { .. }));
        digest = record.digest.to_string();
        lines.push(format!("{} {}", record.time, session::line(&record.event)));
        if as_json {
            events.push(json!({ "seq": record.seq, "time": record.time, "digest": digest, "event": record.event }));
        }
    })?;
    let name = kept::id(&dir);
    if as_json {
        let body =
            json!({ "session": name, "folder": dir, "transcript": digest, "refused": refused, "events": events });
        output::json("assay.mcp-log/1", body)?;
    } else {
        let head = format!("{name}: {}, {refused} refused; transcript sha256:{digest}", count(lines.len(), "event"));
        output::println(format_args!("{head}\n\n{}", lines.join("\n")))?;
    }
    Ok(0)
}

/// Where it goes, and what.
fn config(client: Client, as_json: bool) -> Result<u8> {
    let program = std::env::current_exe().map_err(|e| Error::io("the running program", e))?;
    // Where none is, the form is shown all the same: that is what was asked for.
    let root = match Workbench::find(".".as_ref()) {
        Ok(bench) => Some(bench.root),
        Err(e) if e.code().id == WORKBENCH_MISSING.id => None,
        Err(e) => return Err(e),
    };
    let text = |path: &std::path::Path| {
        let named = path.to_str().map(str::to_string);
        named.ok_or_else(|| Error::usage(format!("{}: the name is not UTF-8", path.display())))
    };
    let command = text(&program)?;
    let root = root.as_deref().map(text).transpose()?;
    let named = root.is_some();
    let root = root.unwrap_or_else(|| ELSEWHERE.into());
    let arguments = ["-C", &root, "mcp"];
    let entry = json!({ "command": command, "args": arguments });
    let servers = |entry: Value| json!({ "mcpServers": { "assay": entry } });
    let pretty = |v: &Value| serde_json::to_string_pretty(v).map_err(|e| Error::internal(e.to_string()));
    let (place, paste) = match client {
        Client::ClaudeCode => (".mcp.json in the workbench", pretty(&servers(entry))?),
        Client::ClaudeDesktop => ("claude_desktop_config.json", pretty(&servers(entry))?),
        Client::Cursor => (".cursor/mcp.json in the workbench", pretty(&servers(entry))?),
        Client::Gemini => ("~/.gemini/settings.json", pretty(&servers(entry))?),
        Client::Vscode => {
            let entry = json!({ "type": "stdio", "command": command, "args": arguments });
            (".vscode/mcp.json in the workbench", pretty(&json!({ "servers": { "assay": entry } }))?)
        }
        Client::Codex => {
            let quoted = |text: &str| toml::Value::from(text).to_string();
            let arguments: Vec<_> = arguments.iter().map(|a| quoted(a)).collect();
            let entry = format!("command = {}\nargs = [{}]", quoted(&command), arguments.join(", "));
            ("~/.codex/config.toml", format!("[mcp_servers.assay]\n{entry}"))
        }
        Client::Other => ("the client's list of stdio servers", pretty(&entry)?),
    };
    if as_json {
        output::json(
            "assay.mcp-config/1",
            json!({ "place": place, "paste": paste, "workbench": named.then_some(root) }),
        )?;
    } else {
        if !named {
            anstream::eprintln!(
                "note: there is no workbench here; put yours for {ELSEWHERE}, or name it: assay -C DIR mcp config"
            );
        }
        anstream::eprintln!("into {place}:");
        output::println(paste)?;
    }
    Ok(0)
}
