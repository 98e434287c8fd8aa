//! One file per subcommand; the only place that prints.

#[cfg(feature = "agent")]
mod agent;
mod approve;
mod attempts;
mod audit;
mod bench;
mod bisect;
mod compare;
mod compile;
mod completions;
mod diff;
mod doctor;
mod explain;
mod fields;
mod graph;
mod history;
mod hosts;
mod import;
mod inspect;
mod interrupt;
mod key;
mod land;
mod ledger;
mod logits;
#[cfg(feature = "mcp")]
mod mcp;
mod new;
mod next;
mod ops;
mod output;
mod plan;
mod reconcile;
mod report;
mod revert;
mod run;
mod seat;
mod show;
mod standing;
mod status;
mod synth;
mod tool;
mod verify;

pub use verify::CODES as VERIFY_CODES;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::error::{Error, Kind, Result};
use crate::model::Model;
use crate::verify::binding::Workshop;
use crate::workbench::{WORKBENCH_MISSING, Workbench};

/// A workbench for porting GPU kernels that counts only what it has measured.
#[derive(Parser)]
#[command(name = "assay", version, max_term_width = 120)]
struct Cli {
    /// Work as if started in this folder.
    #[arg(short = 'C', global = true, value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

/// A command's help is what stands above its struct, so that it has more to say than a line.
#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Inspect),
    Ops(ops::Ops),
    Plan(plan::Plan),
    Graph(graph::Graph),
    Next(next::Next),
    Status(status::Status),
    /// Judge kernels, every node that has one or the nodes named
    Verify(verify::Verify),
    Run(run::Run),
    Bench(bench::Bench),
    /// Compute logits and write them as .npy
    Logits(logits::Logits),
    /// Commit staged kernels with the evidence that proves them
    ///
    /// Every node that the staged change touches must be proved as it is staged; nodes that are not are named and nothing
    /// is committed.
    Land(land::Land),
    Revert(revert::Revert),
    Approve(approve::Approve),
    Import(import::Import),
    Show(show::Show),
    Diff(diff::Diff),
    History(history::History),
    Attempts(attempts::Attempts),
    Audit(audit::Audit),
    Bisect(bisect::Bisect),
    Reconcile(reconcile::Reconcile),
    Report(report::Report),
    #[cfg(feature = "agent")]
    Agent(Box<agent::Agent>),
    Key(key::Key),
    Ledger(ledger::LedgerCommand),
    #[cfg(feature = "mcp")]
    Mcp(mcp::Mcp),
    New(new::New),
    Synth(synth::Synth),
    Tool(tool::Tool),
    Compile(compile::Compile),
    Doctor(doctor::Doctor),
    /// Run a node's cases in this process, for compute-sanitizer to watch
    #[command(hide = true)]
    SanitizeRun(verify::SanitizeRun),
    /// Host a device for another assay process; not for use by hand
    #[command(hide = true)]
    Worker,
    /// Judge for `assay verify --runner` on another host, over stdin and stdout; not for use by hand
    #[command(hide = true)]
    RemoteWorker,
    Explain(explain::Explain),
    Completions(completions::Completions),
}

/// `-m`, for every command that opens a model.
#[derive(clap::Args, Clone)]
struct ModelArg {
    /// GGUF file [default: the model of assay.toml]
    #[arg(short = 'm', long = "model", value_name = "FILE")]
    model: Option<PathBuf>,
}

impl ModelArg {
    fn path(&self) -> Result<PathBuf> {
        match &self.model {
            Some(path) => Ok(path.clone()),
            None => match Workbench::find(".".as_ref()) {
                Err(e) if e.code().id == WORKBENCH_MISSING.id => {
                    Err(e.hint("name a model with -m FILE, or cd into a clone, which has one"))
                }
                found => found.map(|bench| bench.model()),
            },
        }
    }

    fn open(&self) -> Result<Model> {
        Model::open(&self.path()?)
    }
}

pub fn main() -> ExitCode {
    let parsed = Cli::command().try_get_matches().and_then(|m| Ok((Cli::from_arg_matches(&m)?, wants_json(&m))));
    let (cli, json) = match parsed {
        Ok(parsed) => parsed,
        Err(e) => {
            let _ = e.print();
            if !e.use_stderr() {
                return ExitCode::SUCCESS;
            }
            // What cannot be parsed still says how it wants to be answered.
            if std::env::args_os().any(|arg| arg == "--json") {
                let text = e.render().to_string();
                // The message alone, without the usage lines that clap puts below it.
                let what = ["\n\nUsage:", "\n\nFor more information"]
                    .iter()
                    .fold(&*text, |t, end| t.split(end).next().unwrap_or_default());
                let what = what.trim().strip_prefix("error: ").unwrap_or(what.trim());
                output::json_error(&Error::usage(what).hint("assay help COMMAND"));
            }
            return ExitCode::from(Kind::Usage.exit_code());
        }
    };
    std::panic::set_hook(Box::new(|info| {
        eprintln!("assay: internal error: {info}\n  This is a bug in assay; please report it with the command line.");
    }));
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cli.run())) {
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(error)) => {
            output::error(&error);
            if json {
                output::json_error(&error);
            }
            ExitCode::from(error.kind().exit_code())
        }
        Err(_) => {
            if json {
                output::json_error(&Error::internal("assay panicked; stderr says where"));
            }
            ExitCode::from(Kind::Internal.exit_code())
        }
    }
}

/// Whether the command was given `--json`, or a format that is the same.
fn wants_json(matches: &clap::ArgMatches) -> bool {
    let flag = matches!(matches.try_get_one::<bool>("json"), Ok(Some(true)));
    let format = matches!(matches.try_get_one::<graph::Format>("format"), Ok(Some(graph::Format::Json)));
    flag || format || matches.subcommand().is_some_and(|(_, inner)| wants_json(inner))
}

fn root() -> Result<PathBuf> {
    Ok(Workbench::find(".".as_ref())?.root)
}

impl Cli {
    fn run(&self) -> Result<u8> {
        if let Some(dir) = &self.directory {
            std::env::set_current_dir(dir).map_err(|e| Error::io(dir, e).hint("-C names the folder to work in"))?;
        }
        match &self.command {
            Command::Inspect(c) => c.run(),
            Command::Ops(c) => c.run(),
            Command::Plan(c) => c.run(),
            Command::Graph(c) => c.run(),
            Command::Next(c) => c.run(),
            Command::Status(c) => c.run(),
            Command::Run(c) => c.run(),
            Command::Bench(c) => c.run(),
            Command::Logits(c) => c.run(),
            Command::Verify(c) => c.run(),
            Command::Land(c) => {
                // A model of another name would not help outside of a clone.
                let root = root()?;
                let model = c.model.open()?;
                c.run(&root, &Workshop::new(&model)?)
            }
            Command::Revert(c) => {
                // A model of another name would not help outside of a clone.
                let root = root()?;
                let model = c.model.open()?;
                c.run(&root, &Workshop::new(&model)?)
            }
            Command::Approve(c) => c.run(),
            Command::Import(c) => {
                let bench = Workbench::find(".".as_ref())?;
                // Evidence can come home without the model; then no row is said to count for this tree.
                match c.model.open() {
                    Ok(model) => c.run(&bench.root, Some(&Workshop::new(&model)?.tree(&bench.kernels())?)),
                    Err(e) => {
                        anstream::eprintln!("note: rows are not compared with this tree: {}", e.what());
                        c.run(&bench.root, None)
                    }
                }
            }
            Command::Show(c) => c.run(&root()?),
            Command::Diff(c) => c.run(&root()?),
            Command::History(c) => c.run(&root()?),
            Command::Attempts(c) => c.run(&root()?),
            #[cfg(feature = "agent")]
            Command::Agent(c) => c.run(),
            Command::Audit(c) => c.run(&root()?, Some(&verify::Replay::default())),
            Command::Bisect(c) => c.run(),
            Command::Reconcile(c) => c.run(),
            Command::Report(c) => c.run(),
            // Keys are the user's: they can be made before there is a workbench.
            Command::Key(c) => c.run(Workbench::around(".".as_ref()).as_deref()),
            Command::Ledger(c) => c.run(&root()?),
            #[cfg(feature = "mcp")]
            Command::Mcp(c) => c.run(),
            Command::New(c) => c.run(),
            Command::Synth(c) => c.run(),
            Command::Tool(c) => c.run(),
            Command::Compile(c) => c.run(),
            Command::Doctor(c) => c.run(),
            Command::SanitizeRun(c) => c.run(),
            Command::Worker => crate::backend::worker::serve().map(|()| 0),
            Command::RemoteWorker => verify::serve(),
            Command::Explain(c) => c.run(),
            Command::Completions(c) => c.run(),
        }
    }
}
