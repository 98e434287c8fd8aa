//! What is said to a run from another terminal, and what it is asked.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::output;
use super::{state_json, word};
use crate::agent::budget::money;
use crate::agent::codes::RUN_OVER;
use crate::agent::runs::{self, Runs};
use crate::agent::state::State;
use crate::agent::supervise::{self, Word};
use crate::agent::{export, report};
use crate::error::{Error, Result};
use crate::history;
use crate::workbench::Workbench;

#[derive(clap::Args)]
pub(super) struct Which {
    /// The run's name, or its beginning [default: the newest]
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A run that was found.
struct Found {
    dir: PathBuf,
    state: State,
    alive: bool,
    root: PathBuf,
}

impl Which {
    fn find(&self) -> Result<Found> {
        let root = Workbench::find(".".as_ref())?.root;
        let runs = Runs::of(&root)?;
        let dir = runs.find(self.run.as_deref())?;
        // Asked first: a run that ends in between is seen as ended.
        let newest = runs.list()?.last() == Some(&dir);
        let alive = newest && runs.alive()?;
        Ok(Found { state: runs::state(&dir)?, dir, alive, root })
    }

    pub fn pause(&self) -> Result<u8> {
        let found = self.find()?;
        found.living("pause")?;
        self.leave(&found, &Word::Pause, "it pauses after its step; assay agent resume goes on")
    }

    fn leave(&self, found: &Found, word: &Word, says: &str) -> Result<u8> {
        supervise::send(&found.dir, word)?;
        match self.json {
            true => output::json("assay.agent-word/1", json!({ "run": runs::id(&found.dir), "said": word })),
            false => output::println(says),
        }?;
        Ok(0)
    }
}

impl Found {
    fn living(&self, what: &str) -> Result<()> {
        if self.alive && self.state.over.is_none() {
            return Ok(());
        }
        Err(Error::new(&RUN_OVER, format!("no process drives run {}", runs::id(&self.dir)))
            .expected(format!("a run at work, to {what}"))
            .hint("assay agent status says how it stands; assay agent resume goes on with it"))
    }
}

/// `resume` of a run whose process is alive.
pub(super) fn resume(dir: &Path, json: bool) -> Result<u8> {
    let which = Which { run: None, json };
    let found = Found { dir: dir.into(), state: runs::state(dir)?, alive: true, root: PathBuf::new() };
    found.living("resume")?;
    which.leave(&found, &Word::Resume, "it goes on")
}

#[derive(clap::Args)]
pub(super) struct Status {
    #[command(flatten)]
    which: Which,
}

impl Status {
    pub fn run(&self) -> Result<u8> {
        let Found { dir, state, alive, .. } = self.which.find()?;
        if self.which.json {
            output::json("assay.agent-status/1", state_json(&state, &dir, alive))?;
            return Ok(0);
        }
        let pausing = if alive { pausing(&state, &dir)? } else { "" };
        let mut out = format!("run {}: {}{pausing}\n", runs::id(&dir), word(&state, alive));
        if let Some((_, why)) = &state.over {
            out += &format!("ended       {why}\n");
        }
        if let Some(work) = &state.work {
            let n = work.attempts.len();
            out += &format!("node        {}, {n} of {} attempts\n", work.node, state.limits.attempts);
        }
        if let Some(verdict) = &state.last_verdict {
            out += &format!("verdict     {}: {}\n", verdict.node, verdict.words().replace('\n', "\n            "));
        }
        for (node, how, why) in &state.ended {
            out += &format!("{:<11} {node}: {why}\n", how.words());
        }
        let (spent, limits) = (&state.spent, &state.limits);
        let cost = match limits.cost {
            Some(limit) => format!(", {} of {} USD", money(spent.cost()), money(limit)),
            None if spent.cost > 0 => format!(", {} USD", money(spent.cost())),
            None => String::new(),
        };
        out += &format!(
            "spent       {} of {} steps, {} of {} tokens, {} of {} s{cost}\n",
            spent.steps,
            limits.steps,
            spent.tokens(),
            limits.tokens,
            state.ms / 1000,
            limits.wall_ms / 1000
        );
        if let Some(ask) = &state.ask {
            out += &format!("asks        {}\n", ask.text);
            ask.shown.lines().for_each(|line| out += &format!("          | {line}\n"));
            out += "            assay agent approve, reject, or say TEXT\n";
        }
        if !state.started.as_ref().is_some_and(|s| s.place.device) {
            out += "There is no device here: nothing that this run does can turn green.\n";
        }
        output::print(out)?;
        Ok(0)
    }
}

/// What becomes of a pause that was asked for and has not begun.
fn pausing(state: &State, dir: &Path) -> Result<&'static str> {
    let asked =
        supervise::inbox(dir)?.iter().any(|(id, word)| *word == Some(Word::Pause) && !state.controls.contains(id));
    Ok(match (asked && !state.paused, state.judging.is_some()) {
        (false, _) => "",
        (true, true) => ", pauses after this verdict",
        (true, false) => ", pauses after this step",
    })
}

#[derive(clap::Args)]
pub(super) struct Say {
    /// What to say
    text: String,
    #[command(flatten)]
    which: Which,
}

impl Say {
    pub fn run(&self) -> Result<u8> {
        let word = Word::Say { text: self.text.clone() };
        supervise::check(&word)?;
        let found = self.which.find()?;
        found.living("speak to")?;
        self.which.leave(&found, &word, "the model is told with its next step")
    }
}

#[derive(clap::Args)]
pub(super) struct Answer {
    /// In words
    #[arg(default_value = "")]
    text: String,
    #[command(flatten)]
    which: Which,
}

impl Answer {
    pub fn run(&self, yes: bool) -> Result<u8> {
        let found = self.which.find()?;
        let what = if yes { "approve" } else { "reject" };
        found.living(what)?;
        let Some(ask) = &found.state.ask else {
            return Err(Error::new(&RUN_OVER, format!("run {} asks nothing", runs::id(&found.dir)))
                .expected(format!("something to {what}"))
                .hint("assay agent status"));
        };
        let (ask, text) = (ask.id, self.text.clone());
        let (word, says) = match yes {
            true => (Word::Approve { ask, text }, "approved"),
            false => (Word::Reject { ask, text }, "rejected"),
        };
        self.which.leave(&found, &word, says)
    }
}

/// `assay report --agent`: what a run came to; the newest where none is named.
pub(in crate::cli) fn report(run: Option<&str>, out: Option<&Path>, json: bool) -> Result<u8> {
    let found = Which { run: run.map(String::from), json }.find()?;
    let ledger = history::read(&found.root)?;
    let report = report::Report::of(&found.dir, Some(&ledger))?;
    if let Some(path) = out {
        std::fs::write(path, report.text()).map_err(|e| Error::io(path, e))?;
    }
    if json {
        let body = serde_json::to_value(&report).map_err(|e| Error::internal(e.to_string()))?;
        output::json("assay.agent-report/1", body)?;
    } else if let Some(path) = out {
        output::println(path.display())?;
    } else {
        output::print(report.text())?;
    }
    Ok(u8::from(!report.disagreements.is_empty()))
}

#[derive(clap::Args)]
pub(super) struct Export {
    #[command(flatten)]
    which: Which,
    /// The file to write [default: stdout]
    #[arg(long, short = 'o', value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Export {
    pub fn run(&self) -> Result<u8> {
        let found = self.which.find()?;
        let document = export::atif(&found.dir)?;
        let text = serde_json::to_string_pretty(&document).map_err(|e| Error::internal(e.to_string()))?;
        let Some(path) = &self.out else { return output::println(text).map(|()| 0) };
        std::fs::write(path, text + "\n").map_err(|e| Error::io(path, e))?;
        if self.which.json {
            output::json("assay.agent-export/1", json!({ "run": runs::id(&found.dir), "file": path }))?;
        }
        Ok(0)
    }
}
