//! `assay bisect`: which commit, and which kernel, turned an answer.

mod command;
mod kernels;
mod nodes;
mod report;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::ValueEnum;

use super::ledger::TrustArgs;
use super::seat::Backend;
use super::{ModelArg, verify};
use crate::error::{Error, INTERRUPTED, Kind, Result};
use crate::history::bisect::{Mode, RANGE, Request, State};
use crate::history::{Repo, no_git};
use crate::ledger as records;
use crate::model::Model;
use crate::plan::Numerics;
use crate::workbench::Workbench;

/// Find the commit, or the kernels, that turned an answer from good to bad
///
/// With NODEs, the first commit at which each is red; rows of the ledger on the same kernels are taken as they are, and
/// only what no row says is judged. With no node, every node whose kernel differs between the two commits and is red at
/// the bad one. With --cmd, the first commit at which a command says no. With --kernels, the least set of kernels that
/// makes the good commit's prefill the bad one's.
///
/// Nothing is checked out in the work tree. Ctrl-C keeps what was found: --resume goes on.
#[derive(clap::Args)]
pub struct Bisect {
    /// Nodes, e.g. `matmul[q8_0]`
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
    /// A commit that is good [default: the last before BAD that a row, or a judgement, says is]
    #[arg(long, value_name = "REVISION")]
    good: Option<String>,
    /// A commit that is bad [default: HEAD]
    #[arg(long, value_name = "REVISION")]
    bad: Option<String>,
    /// Ask this command, in a checkout of the commit: everything behind --cmd, or one text for the shell. Exit code 0 is
    /// good, 125 and 3 cannot tell, 4 and 70 end the bisect, others are bad
    #[arg(long = "cmd", value_name = "CMD", num_args = 1.., allow_hyphen_values = true, conflicts_with_all = ["nodes", "kernels"])]
    command: Vec<String>,
    /// Read the command's exit codes as git does: 125 skips, 128 and more end it, others but 0 are bad
    #[arg(long, requires = "command")]
    git_exit_codes: bool,
    /// Swap kernels between the two commits, until the least set is found that makes the difference
    #[arg(long, conflicts_with = "nodes", requires = "good")]
    kernels: bool,
    /// With --kernels: length of the prefill [default: several, in which all kernels that differ take part]
    #[arg(long, value_name = "N", requires = "kernels", value_parser = super::run::chunk)]
    prompt_len: Option<usize>,
    /// Judge so often; what does not come out alike is flaky, neither good nor bad
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    #[command(flatten)]
    model: ModelArg,
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    /// Judge variants of these numerics only [default: both]
    #[arg(long, value_enum)]
    numerics: Option<Numerics>,
    /// Take rows of this architecture only, e.g. sm_90
    #[arg(long)]
    arch: Option<String>,
    /// The cases to judge by (64 hexadecimal digits) [default: random, the same for all commits]
    #[arg(long, value_name = "HEX")]
    seed: Option<String>,
    /// Go on with the bisect that was interrupted
    #[arg(long, conflicts_with_all = ["nodes", "good", "bad", "command", "kernels", "repeat", "model", "backend", "numerics",
        "arch", "seed"])]
    resume: bool,
    #[command(flatten)]
    trust: TrustArgs,
    /// Print one JSON object (schema assay.bisect/1)
    #[arg(long)]
    json: bool,
}

/// What every mode works with.
struct Scene {
    bench: Workbench,
    repo: Repo,
    trust: records::Trust,
    stop: Arc<AtomicBool>,
    json: bool,
}

impl Scene {
    /// Said on stderr, so that stdout holds the answer alone.
    fn say(&self, text: impl std::fmt::Display) {
        if !self.json {
            anstream::eprintln!("{text}");
        }
    }
}

impl Bisect {
    pub fn run(&self) -> Result<u8> {
        let bench = Workbench::find(".".as_ref())?;
        let repo = Repo::find(&bench.root)?.ok_or_else(|| no_git(&bench.root).expected("a history to look through"))?;
        let trust = self.trust.load(&bench.root)?;
        let mut state = match self.resume {
            true => State::resume(&repo)?,
            false => self.begin(&repo)?,
        };
        let scene = Scene { bench, repo, trust, stop: verify::stop_at_interrupt(), json: self.json };
        state.save()?;
        let done = match state.request.mode {
            Mode::Command => command::run(&scene, &mut state),
            Mode::Nodes => nodes::run(&scene, &open(&scene, &state.request)?, &mut state),
            Mode::Kernels => kernels::run(&scene, &open(&scene, &state.request)?, &mut state),
        };
        match &done {
            Err(e) if e.kind() == Kind::Interrupted => {
                return Err(
                    Error::new(&INTERRUPTED, "interrupted; every answer so far is kept").hint("assay bisect --resume")
                );
            }
            // What was asked rightly and could not run now may run later.
            Err(e) if e.kind() == Kind::CouldNotRun && !state.answers.is_empty() => {}
            _ => state.remove()?,
        }
        done
    }

    fn begin(&self, repo: &Repo) -> Result<State> {
        let bad = repo.resolve(self.bad.as_deref().unwrap_or("HEAD"))?;
        let good = self.good.as_deref().map(|good| repo.resolve(good)).transpose()?;
        if good == Some(bad) {
            return Err(Error::new(&RANGE, "good and bad are one commit").found(bad));
        }
        let seed = match &self.seed {
            None => records::Seed::random()?.to_string(),
            Some(hex) => records::Seed(verify::parse_seed(hex)?).to_string(),
        };
        let model = self.model.model.as_deref().map(std::path::absolute).transpose();
        let request = Request {
            mode: match (self.kernels, self.command.is_empty()) {
                (true, _) => Mode::Kernels,
                (false, false) => Mode::Command,
                (false, true) => Mode::Nodes,
            },
            good: good.map(|id| id.to_string()),
            bad: bad.to_string(),
            nodes: self.nodes.clone(),
            command: self.command.clone(),
            git_exit_codes: self.git_exit_codes,
            repeat: self.repeat,
            numerics: self.numerics,
            backend: self.backend.name().into(),
            arch: self.arch.clone(),
            prompt_len: self.prompt_len,
            model: model.map_err(|e| Error::io(self.model.model.as_deref().unwrap_or(".".as_ref()), e))?,
            seed,
        };
        match State::load(repo) {
            // The same question again goes on where it was; its seed stays, for answers are by it.
            Ok(Some(old))
                if (self.seed.is_none() || old.request.seed == request.seed)
                    && (Request { seed: request.seed.clone(), ..old.request.clone() }) == request =>
            {
                self.note("going on with the interrupted bisect of the same");
                Ok(old)
            }
            Ok(Some(_)) => {
                self.note("another bisect that was not finished is given up");
                Ok(State::new(repo, request))
            }
            Ok(None) => Ok(State::new(repo, request)),
            Err(_) => {
                self.note("an unfinished bisect that cannot be read is given up");
                Ok(State::new(repo, request))
            }
        }
    }

    fn note(&self, text: &str) {
        anstream::eprintln!("note: {text}");
    }
}

fn open(scene: &Scene, request: &Request) -> Result<Model> {
    Model::open(request.model.as_ref().unwrap_or(&scene.bench.model()))
}

fn backend(request: &Request) -> Result<Backend> {
    Backend::from_str(&request.backend, false).map_err(Error::internal)
}

/// Ends that turn out to be other than they were said to be.
fn good_is_bad(commit: &crate::history::bisect::Named, why: &str, forked: bool, what: &str) -> Error {
    let short = &commit.commit[..12];
    let said = match forked {
        true => format!("{what} is bad at {short} already, where the line of the good commit left that of the bad one"),
        false => format!("{what} is bad at {short} already, which was said to be good"),
    };
    let error = Error::new(&crate::history::bisect::GOOD_IS_BAD, said).found(why);
    error.hint("name an earlier commit with --good, or none: then one is looked for")
}

fn bad_is_good(commit: &crate::history::bisect::Named, what: &str) -> Error {
    let said = format!("{what} is good at {}, which was said to be bad", &commit.commit[..12]);
    Error::new(&crate::history::bisect::BAD_IS_GOOD, said).hint("git log; --bad REVISION names another commit")
}
