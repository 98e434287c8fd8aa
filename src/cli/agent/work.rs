//! What `assay agent` and `assay agent resume` are told: where the model is, what may be spent, who judges.

use std::time::Duration;

use super::super::hosts::{Hosts, TIMEOUT};
use super::super::{ModelArg, ledger};
use super::view::Terminal;
use crate::agent::budget::{Limits, UNIT, money};
use crate::agent::desk::{Desk, Options, Recorder};
use crate::agent::endpoint::{Client, Overrides, Settings};
use crate::agent::events::{Approve, RunEnd};
use crate::agent::shop::DeskShop;
use crate::agent::state::State;
use crate::error::Result;
use crate::history;
use crate::ledger::Config;
use crate::words::shell;
use crate::workbench::Workbench;

/// How to work. What is not said when a run is resumed stays as it was.
#[derive(clap::Args)]
pub(super) struct Work {
    #[command(flatten)]
    pub(super) model: ModelArg,
    /// Address of a server that speaks OpenAI's chat completions [default: agent.toml in your config directory]
    #[arg(long, env = "ASSAY_AGENT_URL", value_name = "URL")]
    url: Option<String>,
    /// The language model's name on that server
    #[arg(long, env = "ASSAY_AGENT_LLM", value_name = "NAME")]
    llm: Option<String>,
    /// Name of the environment variable that holds the server's key [default: ASSAY_AGENT_KEY, if it is set]
    #[arg(long, env = "ASSAY_AGENT_KEY_NAME", value_name = "VARIABLE")]
    key_name: Option<String>,
    /// Ask for the answer at once instead of as a stream
    #[arg(long)]
    no_stream: bool,
    /// When to ask a person [default: green]
    #[arg(long, value_enum)]
    pub(super) approve: Option<Approve>,
    /// Calls of the model [default: 200]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_steps: Option<u64>,
    /// Verdicts per node [default: 8]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_attempts: Option<u64>,
    /// Tokens, of prompts and answers together [default: 2000000]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_tokens: Option<u64>,
    /// Time, as 90s, 30m or 4h [default: 4h]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    max_time: Option<Duration>,
    /// Money in USD, by the prices in agent.toml [default: no limit]
    #[arg(long, value_name = "USD", allow_negative_numbers = true, value_parser = parse_money)]
    pub(super) max_cost: Option<u64>,
    /// How long a question waits for a person [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(super) wait: Option<Duration>,
    #[command(flatten)]
    hosts: Hosts,
    /// Let the model write shared headers too
    #[arg(long)]
    shared: bool,
    /// Private key to sign rows with
    #[arg(long, value_name = "NAME")]
    pub(super) key: Option<String>,
    #[command(flatten)]
    trust: ledger::TrustArgs,
    /// Only the log, also on a terminal
    #[arg(long)]
    pub(super) plain: bool,
    /// Print one JSON object at the end (schema assay.agent/1)
    #[arg(long)]
    pub(super) json: bool,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len());
    let factor = match unit {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("a time is written 90s, 30m or 4h".into()),
    };
    match number.parse::<f64>().map(|n| n * factor) {
        Ok(seconds) if (0.0..=1e8).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a time is written 90s, 30m or 4h".into()),
    }
}

fn parse_money(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..1e6).contains(&value) => Ok((value * UNIT as f64).round() as u64),
        _ => Err("an amount of money is written 2.50".into()),
    }
}

impl Work {
    /// The options that say how to work, as far as they were given. Where the server is may stand in the environment,
    /// which is no word to a run.
    pub(super) fn given(&self) -> Vec<&'static str> {
        let said = |value: &Option<String>, variable: &str| value.is_some() && *value != std::env::var(variable).ok();
        let all = [
            ("--model", self.model.model.is_some()),
            ("--url", said(&self.url, "ASSAY_AGENT_URL")),
            ("--llm", said(&self.llm, "ASSAY_AGENT_LLM")),
            ("--key-name", said(&self.key_name, "ASSAY_AGENT_KEY_NAME")),
            ("--no-stream", self.no_stream),
            ("--approve", self.approve.is_some()),
            ("--max-steps", self.max_steps.is_some()),
            ("--max-attempts", self.max_attempts.is_some()),
            ("--max-tokens", self.max_tokens.is_some()),
            ("--max-time", self.max_time.is_some()),
            ("--max-cost", self.max_cost.is_some()),
            ("--wait", self.wait.is_some()),
            ("--runner", !self.hosts.runner.is_empty()),
            ("--shared", self.shared),
            ("--key", self.key.is_some()),
            ("--trust", self.trust.path().is_some()),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }

    pub(super) fn client(&self, bench: &Workbench) -> Result<Client> {
        self.client_for(bench, None)
    }

    pub(super) fn client_for(&self, bench: &Workbench, llm: Option<&str>) -> Result<Client> {
        let over = Overrides {
            url: self.url.clone(),
            model: self.llm.clone().or(llm.map(String::from)),
            key: self.key_name.clone(),
            stream: self.no_stream.then_some(false),
        };
        Client::new(Settings::load(&Config::of_user()?, &bench.root, &over)?)
    }

    pub(super) fn limits(&self, before: Option<&State>) -> Limits {
        let usual = Limits { steps: 200, attempts: 8, tokens: 2_000_000, wall_ms: 4 * 3_600_000, cost: None };
        let was = before.map_or(usual, |s| s.limits.clone());
        Limits {
            steps: self.max_steps.unwrap_or(was.steps),
            attempts: self.max_attempts.unwrap_or(was.attempts),
            tokens: self.max_tokens.unwrap_or(was.tokens),
            wall_ms: self.max_time.map_or(was.wall_ms, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            cost: self.max_cost.or(was.cost),
        }
    }

    /// The command that goes on with a run which was told this. What a resumed run does not know of itself, nor your
    /// environment, is said again; so is the budget that ended, with room for more.
    pub(super) fn resume(&self, run: &str, state: &State) -> String {
        let mut out = format!("assay agent resume --run {run}");
        let mut say = |flag: &str, value: &str| {
            out += &format!(" {flag}");
            if !value.is_empty() {
                out += &format!(" {}", shell(value));
            }
        };
        if let Some(model) = &self.model.model {
            say("-m", &model.display().to_string());
        }
        let set = |variable: &str| std::env::var(variable).ok();
        for (flag, value, variable) in
            [("--url", &self.url, "ASSAY_AGENT_URL"), ("--key-name", &self.key_name, "ASSAY_AGENT_KEY_NAME")]
        {
            if let Some(value) = value.as_ref().filter(|value| set(variable).as_ref() != Some(value)) {
                say(flag, value);
            }
        }
        // The run knows its model; what the environment names goes before.
        if let (Some(llm), Some(other)) = (&self.llm, set("ASSAY_AGENT_LLM"))
            && *llm != other
        {
            say("--llm", llm);
        }
        for runner in &self.hosts.runner {
            say("--runner", runner);
        }
        if let Some(model) = &self.hosts.remote_model {
            say("--remote-model", &model.display().to_string());
        }
        if self.hosts.runner_timeout != TIMEOUT {
            say("--runner-timeout", &self.hosts.runner_timeout.to_string());
        }
        if let Some(trust) = self.trust.path() {
            say("--trust", &trust.display().to_string());
        }
        for (flag, value) in [("--remote-assay", &self.hosts.remote_assay), ("--key", &self.key)] {
            if let Some(value) = value {
                say(flag, value);
            }
        }
        for (flag, given) in [("--no-stream", self.no_stream), ("--shared", self.shared)] {
            if given {
                say(flag, "");
            }
        }
        if let Some((RunEnd::Budget, _)) = &state.over {
            let (spent, limits) = (&state.spent, &state.limits);
            let cost = spent.cost().saturating_add(spent.cost_beyond);
            let (flag, more) = match state.out_of.as_deref() {
                Some("steps") => ("--max-steps", room(limits.steps, spent.steps, 10, MOST)),
                Some("tokens") => ("--max-tokens", room(limits.tokens, spent.believed(), 200_000, MOST)),
                Some("time") => ("--max-time", room(limits.wall_ms / 1000, state.ms / 1000, 600, MOST)),
                Some("cost") => ("--max-cost", room(limits.cost.unwrap_or(0), cost, UNIT, MOST_COST)),
                _ => ("", None),
            };
            if let Some(more) = more {
                say(
                    flag,
                    &match flag {
                        "--max-time" => format!("{more}s"),
                        "--max-cost" => money(more),
                        _ => more.to_string(),
                    },
                );
            }
        }
        out
    }

    /// The key that will sign rows; none where the user has none, and then nothing is recorded.
    pub(super) fn signer(&self, bench: &Workbench) -> Result<Option<String>> {
        match ledger::writer(&bench.root, self.key.as_deref()) {
            Ok(key) => Ok(Some(key.public().name().to_string())),
            Err(e) if e.code().id == "key-none" && self.key.is_none() => {
                anstream::eprintln!(
                    "note: you have no signing key, so verdicts are kept in the run's transcript only and not in the \
                     ledger: assay key new NAME"
                );
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    pub(super) fn shop<'t>(&self, bench: &Workbench, terminal: &'t Terminal) -> Result<DeskShop<'t>> {
        // A ledger that is damaged is said before any money is spent.
        history::read(&bench.root)?;
        let record = match ledger::writer(&bench.root, self.key.as_deref()) {
            Ok(_) => Some(Recorder { key: self.key.clone() }),
            Err(e) if e.code().id == "key-none" && self.key.is_none() => None,
            Err(e) => return Err(e),
        };
        let options = Options { model: self.model.model.clone(), shared: self.shared, record, ..Options::default() };
        let desk = Desk::open(&bench.root, options)?;
        let trust = self.trust.load(&bench.root)?;
        DeskShop::new(desk, Config::of_user().ok(), trust, self.key.clone(), self.hosts.away(bench)?, terminal)
    }
}

/// A budget past this is no budget, and no server's count either.
const MOST: u64 = 1_000_000_000_000;
const MOST_COST: u64 = 1_000_000 * UNIT;

/// A budget to go on with: twice as much, and more than the next call may take. `None`: no budget that makes sense would
/// be enough, since what was counted makes none.
fn room(limit: u64, spent: u64, least: u64, most: u64) -> Option<u64> {
    let needed = spent.checked_add(least).filter(|needed| *needed <= most)?;
    Some(limit.checked_mul(2).filter(|twice| *twice <= most).map_or(needed, |twice| twice.max(needed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `--max-tokens 18446744073709551615` was what a run was to be resumed with.
    #[test]
    fn the_hint_repeats_no_budget_that_is_none() {
        assert_eq!(room(1_000, 900, 200, MOST), Some(2_000));
        assert_eq!(room(1_000, 0, 200_000, MOST), Some(200_000));
        for absurd in [u64::MAX, u64::MAX / 2 - 7, MOST] {
            assert_eq!(room(absurd, 5_000, 200_000, MOST), Some(205_000));
            assert_eq!(room(1_000, absurd, 200_000, MOST), None);
            assert_eq!(room(absurd, absurd, 200_000, MOST), None);
        }
    }
}
