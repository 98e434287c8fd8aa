//! What a run came to, node by node, from its events and the ledger's rows and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use super::budget::{Spent, money};
use super::endpoint::{Call, UNKNOWN, Usage};
use super::events::{Event, Judged, Record, RunEnd};
use super::state::State;
use super::{kept, runs, transcript};
use crate::error::Result;
use crate::ledger::{Digest, Ledger, Outcome, Row};
use crate::ops::Node;
use crate::words::count;

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub run: String,
    pub started: String,
    /// Who was asked last.
    pub llm: String,
    pub host: String,
    /// Everybody who was, in order: a run may be resumed with another.
    pub servers: Vec<Server>,
    pub model: String,
    pub place: String,
    /// Of its last line.
    pub transcript: String,
    pub events: u64,
    pub over: Option<RunEnd>,
    pub why: String,
    pub seconds: u64,
    pub steps: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// What servers counted beyond what had been set aside, which is all that the budget was charged with.
    pub beyond_tokens: u64,
    /// Some of these assay counted itself, by the bytes of an answer.
    pub beyond_estimated: bool,
    /// Some of the tokens were not counted by the server.
    pub estimated: bool,
    pub cost: Option<String>,
    pub nodes: Vec<NodeReport>,
    /// Verdicts by the stage that said no; `pass` for those that did not.
    pub verdicts: BTreeMap<String, u64>,
    pub refused: Vec<String>,
    pub budget_stops: Vec<String>,
    /// Rows that the ledger does not hold, or that say otherwise than the transcript.
    pub disagreements: Vec<String>,
    /// Rows made since the run began that name a line of a transcript, and none of this workbench has it.
    pub unclaimed: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Server {
    pub llm: String,
    pub host: String,
    /// What it costs was known; what is spent with others is in no sum of money.
    pub priced: bool,
}

#[derive(Debug, Serialize)]
pub struct NodeReport {
    pub node: Node,
    pub attempts: Vec<Tried>,
    pub end: Option<&'static str>,
    pub why: String,
    pub steps: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub cost: Option<String>,
    pub seconds: u64,
    /// What happened, in order.
    pub story: Vec<String>,
    #[serde(skip)]
    costs: u64,
    #[serde(skip)]
    from_ms: u64,
}

#[derive(Debug, Serialize)]
pub struct Tried {
    pub attempt: u64,
    pub class: String,
    pub outcome: String,
    pub stage: Option<String>,
    pub reason: Option<String>,
    pub first_bad: Option<String>,
    pub error: Option<String>,
    pub row: Option<u64>,
    /// Refused before a binding: there can be no row.
    pub unbound: bool,
    /// Of the kernel's files: `sources/` of the run's folder has them.
    pub source: String,
    pub seconds: u64,
}

impl Report {
    /// Reads the run in `dir`; `ledger` is what its rows are compared with.
    pub fn of(dir: &Path, ledger: Option<&Ledger>) -> Result<Report> {
        let mut report = Report { run: runs::id(dir), ..Report::default() };
        let mut state = State::default();
        let mut judging = String::new();
        let mut checks = Vec::new();
        let mut lines = HashSet::new();
        transcript::read(&dir.join(transcript::FILE), |record: Record| {
            let before = state.spent.clone();
            state.apply(&record);
            let spent = Spent {
                steps: state.spent.steps.saturating_sub(before.steps),
                prompt: state.spent.prompt.saturating_sub(before.prompt),
                completion: state.spent.completion.saturating_sub(before.completion),
                cost: state.spent.cost.saturating_sub(before.cost),
                ..Spent::default()
            };
            report.events += 1;
            report.transcript = record.digest.to_string();
            lines.insert(record.digest);
            match &record.event {
                Event::Started { model, llm, host, place, price, .. } => {
                    (report.model, report.place) = (model.clone(), place.place.clone());
                    report.started = record.time.clone();
                    report.asked(llm, host, price.is_some());
                }
                Event::Resumed { server: Some(server), .. } => {
                    report.asked(&server.llm, &server.host, server.price.is_some());
                }
                Event::Overcounted { estimated, .. } => report.beyond_estimated |= estimated,
                Event::Judging { .. } => judging = record.digest.to_string(),
                Event::Verdict { judged, .. } => checks.push((judging.clone(), judged.clone())),
                _ => {}
            }
            report.apply(&record.event, record.ms, &spent);
        })?;
        let spent = &state.spent;
        (report.steps, report.prompt_tokens, report.completion_tokens) = (spent.steps, spent.prompt, spent.completion);
        (report.estimated, report.seconds) = (spent.estimated, state.ms / 1000);
        report.beyond_tokens = spent.beyond;
        let priced = report.servers.iter().any(|s| s.priced);
        report.cost = priced.then(|| money(spent.cost));
        for node in &mut report.nodes {
            node.cost = priced.then(|| money(node.costs));
        }
        if let Some((how, why)) = state.over {
            (report.over, report.why) = (Some(how), why);
        }
        if let Some(ledger) = ledger {
            report.unclaimed = unclaimed(ledger, dir, &report.started, lines);
            report.disagreements = checks.iter().filter_map(|(digest, judged)| check(ledger, digest, judged)).collect();
        }
        Ok(report)
    }

    fn asked(&mut self, llm: &str, host: &str, priced: bool) {
        (self.llm, self.host) = (llm.into(), host.into());
        let server = Server { llm: llm.into(), host: host.into(), priced };
        if !self.servers.contains(&server) {
            self.servers.push(server);
        }
    }

    /// `spent`: what the event added to what the run had spent.
    fn apply(&mut self, event: &Event, ms: u64, spent: &Spent) {
        match event {
            Event::Chosen { node, why } => self.nodes.push(NodeReport {
                node: node.clone(),
                attempts: Vec::new(),
                end: None,
                why: String::new(),
                steps: 0,
                prompt_tokens: 0,
                completion_tokens: 0,
                cost: None,
                seconds: 0,
                story: vec![format!("chosen: {why}")],
                costs: 0,
                from_ms: ms,
            }),
            Event::Refused { what, why } => {
                let first = why.lines().next().unwrap_or_default();
                self.refused.push(format!("{what}: {first}"));
            }
            Event::BudgetStop { what, spent, limit } => self.budget_stops.push(format!("{what}: {spent} of {limit}")),
            _ => {}
        }
        let Some(node) = self.nodes.last_mut().filter(|n| n.end.is_none()) else { return };
        node.seconds = ms.saturating_sub(node.from_ms) / 1000;
        // Also what no answer settled: of a call that was lost the next process, or the run's end, says what it counts as.
        node.steps = node.steps.saturating_add(spent.steps);
        node.prompt_tokens = node.prompt_tokens.saturating_add(spent.prompt);
        node.completion_tokens = node.completion_tokens.saturating_add(spent.completion);
        node.costs = node.costs.saturating_add(spent.cost);
        if let Event::Verdict { attempt, source, judged, .. } = event {
            let key = match judged.outcome.as_str() {
                "red" => judged.stage.clone().unwrap_or_default(),
                other => other.to_string(),
            };
            *self.verdicts.entry(key).or_default() += 1;
            node.attempts.push(Tried {
                attempt: *attempt,
                class: judged.class.clone(),
                outcome: judged.outcome.clone(),
                stage: judged.stage.clone(),
                reason: judged.reason.clone(),
                first_bad: judged.first_bad.clone(),
                error: judged.error.clone(),
                row: judged.row,
                unbound: judged.unbound,
                source: source.clone(),
                seconds: judged.seconds,
            });
        }
        if let Event::NodeEnded { how, why, .. } = event {
            (node.end, node.why) = (Some(how.words()), why.clone());
        }
        if !matches!(event, Event::Chosen { .. })
            && let Some(line) = line(event)
        {
            node.story.push(line);
        }
    }

    /// In Markdown.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let w = &mut out;
        let end = match self.over {
            None => "not over".to_string(),
            Some(how) => format!("{}: {}", serde_word(&how), self.why),
        };
        let _ = writeln!(w, "# Run {}\n", self.run);
        let asked: Vec<_> = self.servers.iter().map(|s| format!("{} on {}", s.llm, s.host)).collect();
        let _ = writeln!(
            w,
            "{}, from {}; kernels for {}, judged on {}.",
            asked.join(", then "),
            self.started,
            self.model,
            self.place
        );
        let _ = writeln!(w, "End: {end}.\n");
        let estimated = if self.estimated { " (in part estimated)" } else { "" };
        let unpriced: Vec<_> = self.servers.iter().filter(|s| !s.priced).map(|s| s.llm.as_str()).collect();
        let cost = match (&self.cost, unpriced.is_empty()) {
            (None, _) => "no price is known".into(),
            (Some(cost), true) => format!("{cost} USD"),
            (Some(cost), false) => format!("{cost} USD without {}, whose price is not known", unpriced.join(", ")),
        };
        let _ = writeln!(
            w,
            "{}, {} prompt and {} completion tokens{estimated}, {cost}, {} s.",
            count(self.steps as usize, "step"),
            self.prompt_tokens,
            self.completion_tokens,
            self.seconds
        );
        if self.beyond_tokens > 0 {
            let _ = writeln!(
                w,
                "{} counts {} tokens beyond what its calls could take; the budget was not charged with them.",
                if self.beyond_estimated { "The server, or assay where it gave no count," } else { "The server" },
                self.beyond_tokens
            );
        }
        let verdicts: Vec<_> = self.verdicts.iter().map(|(stage, n)| format!("{stage} {n}")).collect();
        if !verdicts.is_empty() {
            let _ = writeln!(w, "Verdicts by stage: {}.", verdicts.join(", "));
        }
        let _ = writeln!(w, "\n| node | end | attempts | steps | tokens | seconds |\n|---|---|---|---|---|---|");
        for n in &self.nodes {
            let tokens = n.prompt_tokens.saturating_add(n.completion_tokens);
            let end = n.end.unwrap_or("unfinished");
            // The emulator's and the device's word on one kernel are one attempt.
            let tried = n.attempts.iter().map(|a| a.attempt).collect::<BTreeSet<_>>().len();
            let _ = writeln!(w, "| {} | {end} | {tried} | {} | {tokens} | {} |", n.node, n.steps, n.seconds);
        }
        for n in &self.nodes {
            let _ = writeln!(w, "\n## {}\n", n.node);
            for line in &n.story {
                let _ = writeln!(w, "- {}", line.replace('\n', "\n  "));
            }
        }
        for (title, lines) in [
            ("Refused", &self.refused),
            ("Budgets that ended", &self.budget_stops),
            ("The ledger disagrees", &self.disagreements),
            ("Rows whose transcript is not here", &self.unclaimed),
        ] {
            if !lines.is_empty() {
                let _ = writeln!(w, "\n## {title}\n");
                for line in lines {
                    let _ = writeln!(w, "- {line}");
                }
            }
        }
        let _ = writeln!(w, "\n{}; transcript sha256:{}.", count(self.events as usize, "event"), self.transcript);
        out
    }
}

/// A judgement's row, as the ledger has it; `Some` says what is wrong with it.
fn check(ledger: &Ledger, transcript: &str, judged: &Judged) -> Option<String> {
    let seq = judged.row?;
    let row = ledger.rows().iter().find(|row| row.seq == seq);
    let Some(verdict) = row.and_then(|row| row.statement().verdict()) else {
        return Some(format!("row {seq} of {} is not in the ledger", judged.node));
    };
    let outcome = match verdict.outcome {
        Outcome::Pass => "pass",
        Outcome::Red { .. } => "red",
        Outcome::Indeterminate { .. } => "indeterminate",
    };
    (verdict.informative.transcript != transcript || outcome != judged.outcome)
        .then(|| format!("row {seq} is of another run, or says {outcome} where the transcript says {}", judged.outcome))
}

/// Rows since `started` whose line no transcript has: not this run's (`lines`), not another one's, no outside agent's.
fn unclaimed(ledger: &Ledger, dir: &Path, started: &str, mut lines: HashSet<Digest>) -> Vec<String> {
    let named = |row: &&Row| {
        let from = row.statement().informative().filter(|i| i.time.as_str() >= started);
        from.is_some_and(|i| !i.transcript.is_empty())
    };
    let line = |row: &Row| row.statement().informative().and_then(|i| i.transcript.parse().ok());
    let mut rows: Vec<&Row> = ledger.rows().iter().filter(named).collect();
    let open = |rows: &mut Vec<&Row>, lines: &HashSet<Digest>| {
        rows.retain(|row| line(row).is_none_or(|d| !lines.contains(&d)))
    };
    open(&mut rows, &lines);
    if rows.is_empty() {
        return Vec::new();
    }
    let mut out = Vec::new();
    let runs = dir.parent().unwrap_or(dir);
    let agents = runs.parent().unwrap_or(runs).join("mcp");
    for folder in [runs, &agents].into_iter().flat_map(|folder| kept::list(folder).unwrap_or_default()) {
        let read = transcript::read(&folder.join(transcript::FILE), |r: transcript::Record<serde_json::Value>| {
            lines.insert(r.digest);
        });
        if let Err(e) = read {
            out.push(format!("the transcript {} cannot be looked at: {}", runs::id(&folder), e.what()));
        }
    }
    open(&mut rows, &lines);
    let node = |row: &Row| row.statement().target().map_or(String::new(), |t| format!(" of {t}"));
    let says = |row: &&Row| format!("row {}{} came of a line that no transcript here has", row.seq, node(row));
    match rows.is_empty() {
        true => Vec::new(),
        false => rows.iter().map(says).chain(out).collect(),
    }
}

fn serde_word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default()
}

/// An event in a line, for logs and stories; `None` for what is of no interest there.
pub fn line(event: &Event) -> Option<String> {
    let short = |text: &str| super::desk::cap(super::desk::printable(text.lines().next().unwrap_or_default()), 200);
    Some(match event {
        Event::Started { llm, host, place, .. } => format!("{llm} on {host}; kernels are judged on {}", place.place),
        Event::Resumed { note, place, server, .. } => {
            let server = server.as_ref().map_or(String::new(), |s| format!("; {} on {} is asked now", s.llm, s.host));
            let place = place.as_ref().map_or(String::new(), |p| format!("; kernels are judged on {} now", p.place));
            let note = if note.is_empty() { String::new() } else { format!(": {note}") };
            format!("resumed{note}{place}{server}")
        }
        Event::Chosen { node, why } => format!("{node}: {why}"),
        Event::Context { why, messages, .. } => {
            format!("{why}: {} bytes", messages.iter().map(|m| m.bytes()).sum::<usize>())
        }
        Event::Reserved { .. } => return None,
        Event::Replied { prompt, completion, content, calls, cut, .. } => {
            let called: Vec<_> = calls.iter().map(Call::shown).collect();
            let called = match (called.is_empty(), content.trim().is_empty()) {
                (false, _) => called.join(", "),
                (true, true) => "says nothing".into(),
                (true, false) => format!("says: {}", short(content)),
            };
            let cut = if *cut { ", cut off" } else { "" };
            format!("model ({prompt}+{completion} tokens{cut}): {called}")
        }
        Event::Overcounted { counted, reserved, estimated } => {
            let who = if *estimated { "assay, by the bytes of the answer, counts" } else { "the server counts" };
            format!("{who} {counted} tokens where at most {reserved} were set aside, which is what is charged")
        }
        Event::Undercounted { counted, charged } => {
            let sum = |usage: &Usage| format!("{}+{}", usage.prompt, usage.completion);
            let (counted, charged) = (sum(counted), sum(charged));
            format!(
                "the server counts {counted} tokens, fewer than so many bytes can have; {charged} are charged, by assay's estimate"
            )
        }
        Event::Failed { trouble, what, wait_ms, .. } => {
            let again =
                if *wait_ms > 0 { format!("; again in {:.1} s", *wait_ms as f64 / 1000.0) } else { String::new() };
            format!("no answer ({}): {}{again}", serde_word(trouble), short(what))
        }
        // Its refusal has been told.
        Event::Result { tool, ok: false, .. } if tool == UNKNOWN => return None,
        Event::Result { tool, ok, content, .. } => match ok {
            true => format!("{tool}: {}", short(content)),
            false => format!("{tool}, an error: {}", short(content.strip_prefix("error: ").unwrap_or(content))),
        },
        Event::Judging { attempt, place, .. } => format!("attempt {attempt} goes to the judge on the {place}"),
        Event::Verdict { attempt, judged, .. } => {
            let row = match judged.row {
                Some(row) => format!(" (row {row})"),
                None if judged.unbound => " (refused before a binding: no row)".into(),
                None => String::new(),
            };
            let unkept = judged.unkept.as_ref().map_or(String::new(), |why| format!("\n{why}"));
            format!("attempt {attempt}: {}{row}{unkept}", judged.words())
        }
        Event::Told { .. } => "the model is told that it called nothing".into(),
        Event::Said { text, .. } => format!("a person says: {}", short(text)),
        Event::Strategy { why, to, .. } => format!("another strategy, because of {why}: {to}"),
        Event::Asked { text, .. } => format!("asks: {}", short(text)),
        Event::Answered { by, yes, text, .. } => {
            let word = match yes {
                Some(true) => "yes",
                Some(false) => "no",
                None => "",
            };
            let said = [word, &short(text)].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(" ");
            format!("{by} answers: {said}").trim_end().to_string()
        }
        Event::Paused { by, .. } => format!("paused by {by}"),
        Event::Continued { by, .. } => format!("{by} has it go on"),
        Event::Refused { what, why } => format!("refused: {what}: {}", short(why)),
        Event::BudgetStop { what, spent, limit } => format!("budget of {what}: {spent} of {limit}"),
        Event::Landing { node } => format!("{node} lands"),
        Event::Landed { node, commit } => format!("{node} landed in {}", super::desk::short(commit)),
        Event::NodeEnded { node, how, why } => format!("{node}: {}. {why}", how.words()),
        Event::Ended { how, why } => format!("the run ends ({}): {why}", serde_word(how)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `nobody answers:  nobody answered within 600 s` had two spaces where a word was missing.
    #[test]
    fn an_answer_without_a_word_has_no_gap() {
        let said = |yes, text: &str| line(&Event::Answered { id: 1, by: "nobody".into(), yes, text: text.into() });
        assert_eq!(said(None, "too late").as_deref(), Some("nobody answers: too late"));
        assert_eq!(said(Some(false), "").as_deref(), Some("nobody answers: no"));
        assert_eq!(said(Some(true), "do").as_deref(), Some("nobody answers: yes do"));
        assert_eq!(said(None, "").as_deref(), Some("nobody answers:"));
    }
}
