//! One file per subcommand; the only place that prints.

mod audit;
mod bench;
mod compare;
mod compile;
mod completions;
mod diff;
mod doctor;
mod explain;
mod fields;
mod graph;
mod history;
mod import;
mod inspect;
mod key;
mod land;
mod ledger;
mod logits;
mod next;
mod ops;
mod output;
mod plan;
mod run;
mod seat;
mod show;
mod standing;
mod status;
mod synth;
mod verify;

pub use verify::CODES as VERIFY_CODES;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Kind, Result};
use crate::model::Model;
use crate::verify::binding::Workshop;
use crate::workbench::Workbench;

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

#[derive(Subcommand)]
enum Command {
    /// Print a model file's config, tensor types and bytes by role, and every misfit
    Inspect(inspect::Inspect),
    /// List every op: contract, OPS ids, upstream names
    Ops(ops::Ops),
    /// Show the ordered op instances of a step
    Plan(plan::Plan),
    /// Show what a step is made of: nodes, layer kinds, and what waits for what
    Graph(graph::Graph),
    /// Say which nodes to work on next, and why
    Next(next::Next),
    /// Say what is proved of the model's nodes, where, and what has become stale because of what
    Status(status::Status),
    /// Judge kernels, every node that has one or the nodes named
    Verify(verify::Verify),
    /// Generate text
    Run(run::Run),
    /// Measure the speed of prefill and decode
    Bench(bench::Bench),
    /// Compute logits and write them as .npy
    Logits(logits::Logits),
    /// Commit staged kernels with the evidence that proves them
    Land(land::Land),
    /// Bring in evidence that other hosts signed
    Import(import::Import),
    /// Show everything that one row of the ledger says
    Show(show::Show),
    /// Compare two rows of the ledger
    Diff(diff::Diff),
    /// List the ledger's rows, the commits that landed them, and failed attempts
    History(history::History),
    /// Check ledger, checkpoint, progress and every commit's ledger
    Audit(audit::Audit),
    /// Make keys and say whom to trust
    Key(key::Key),
    /// Bring another branch's evidence into this ledger
    Ledger(ledger::LedgerCommand),
    /// Write a model file of any shape with random weights, the same bytes on every machine
    Synth(synth::Synth),
    /// Compile kernels for CUDA devices; needs NVRTC, no GPU
    Compile(compile::Compile),
    /// Say what this machine has, and how to install what is missing
    Doctor(doctor::Doctor),
    /// Run a node's cases in this process, for compute-sanitizer to watch
    #[command(hide = true)]
    SanitizeRun(verify::SanitizeRun),
    /// Host a device for another assay process; not for use by hand
    #[command(hide = true)]
    Worker,
    /// Explain an error code, or list all of them
    Explain(explain::Explain),
    /// Print shell completions
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
            None => Ok(Workbench::find(".".as_ref())?.model()),
        }
    }

    fn open(&self) -> Result<Model> {
        Model::open(&self.path()?)
    }
}

pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { Kind::Usage.exit_code() } else { 0 });
        }
    };
    std::panic::set_hook(Box::new(|info| {
        eprintln!("assay: internal error: {info}\n  This is a bug in assay; please report it with the command line.");
    }));
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cli.run())) {
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(error)) => {
            output::error(&error);
            ExitCode::from(error.kind().exit_code())
        }
        Err(_) => ExitCode::from(Kind::Internal.exit_code()),
    }
}

fn root() -> Result<PathBuf> {
    Ok(Workbench::find(".".as_ref())?.root)
}

impl Cli {
    fn run(&self) -> Result<u8> {
        if let Some(dir) = &self.directory {
            std::env::set_current_dir(dir).map_err(|e| crate::Error::io(dir, e))?;
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
                let model = c.model.open()?;
                c.run(&root()?, &Workshop::new(&model)?)
            }
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
            Command::Audit(c) => c.run(&root()?, Some(&verify::Replay::default())),
            // Keys are the user's: they can be made before there is a workbench.
            Command::Key(c) => c.run(&root().unwrap_or_else(|_| ".".into())),
            Command::Ledger(c) => c.run(&root()?),
            Command::Synth(c) => c.run(),
            Command::Compile(c) => c.run(),
            Command::Doctor(c) => c.run(),
            Command::SanitizeRun(c) => c.run(),
            Command::Worker => crate::backend::worker::serve().map(|()| 0),
            Command::Explain(c) => c.run(),
            Command::Completions(c) => c.run(),
        }
    }
}
