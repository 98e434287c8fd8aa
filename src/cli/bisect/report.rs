//! What a bisect says: as it goes on stderr, at its end on stdout.

use owo_colors::OwoColorize;
use serde::Serialize;
use serde_json::json;

use super::super::output;
use super::Scene;
use crate::error::{Kind, Result};
use crate::history::bisect::{Answer, By, Event, Named, Outcome, State, Step, short};
use crate::ops::Node;
use crate::words::{agree, count};

/// What was found of one node, or of the command.
#[derive(Serialize)]
struct Entry {
    node: Option<Node>,
    #[serde(flatten)]
    outcome: Outcome,
    /// Files of the node's kernel that differ between the last good and the first bad commit, below the workbench.
    changed: Vec<String>,
    /// Commits between good and bad, ends included, and how many of them change what is judged.
    commits: usize,
    places: usize,
    steps: Vec<Step>,
}

pub struct Report {
    good: Option<String>,
    bad: String,
    judged: usize,
    entries: Vec<Entry>,
    /// Nodes that were looked at and are good at the bad commit.
    innocent: Vec<String>,
    json: bool,
}

impl Report {
    pub fn new(state: &State, json: bool) -> Report {
        let request = &state.request;
        let (good, bad) = (request.good.clone(), request.bad.clone());
        Report { good, bad, judged: state.judged, entries: Vec::new(), innocent: Vec::new(), json }
    }

    pub fn add(
        &mut self,
        node: Option<Node>,
        outcome: Outcome,
        steps: Vec<Step>,
        commits: usize,
        places: usize,
        changed: Vec<String>,
    ) {
        self.entries.push(Entry { node, outcome, changed, commits, places, steps });
    }

    pub fn innocent(&mut self, nodes: Vec<String>) {
        self.innocent = nodes;
    }

    fn rows(&self) -> Vec<u64> {
        let steps = self.entries.iter().flat_map(|e| &e.steps);
        let mut rows: Vec<u64> =
            steps.filter_map(|s| if let By::Row { row, .. } = &s.by { Some(*row) } else { None }).collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// 0 where every turn was found, 3 where one could not be told, 1 where nothing else was to be found.
    fn code(&self) -> u8 {
        let found = |e: &Entry| matches!(e.outcome, Outcome::Found { .. });
        match () {
            () if self.entries.iter().any(|e| matches!(e.outcome, Outcome::CannotTell { .. })) => {
                Kind::CouldNotRun.exit_code()
            }
            () if self.entries.iter().any(found) => 0,
            () => Kind::No.exit_code(),
        }
    }

    pub fn print(&self) -> Result<u8> {
        let (code, rows) = (self.code(), self.rows());
        if self.json {
            output::json(
                "assay.bisect/1",
                json!({
                    "mode": if self.entries.iter().any(|e| e.node.is_some()) { "nodes" } else { "command" },
                    "exit": code, "good": self.good, "bad": self.bad, "results": self.entries,
                    "good_at_bad": self.innocent, "verifications": self.judged, "rows": rows,
                }),
            )?;
            return Ok(code);
        }
        let mut text = String::new();
        for entry in &self.entries {
            text += &entry.text();
        }
        if !self.innocent.is_empty() {
            text += &format!("changed and good at the bad commit: {}\n", self.innocent.join(", "));
        }
        text += &count(self.judged, "verification");
        if !rows.is_empty() {
            let rows: Vec<String> = rows.iter().map(u64::to_string).collect();
            text += &format!(", and what {} {} says", agree(rows.len(), "row", "rows"), rows.join(", "));
        }
        output::println(text)?;
        Ok(code)
    }
}

impl Entry {
    fn text(&self) -> String {
        let name = self.node.as_ref().map_or("the command".into(), ToString::to_string);
        let line = |n: &Named| format!("{}  {}\n", &n.commit[..12], n.summary);
        let mut text = String::new();
        match &self.outcome {
            Outcome::Found { first_bad, last_good, why, merged_by, merge, bad, good } => {
                text += &format!("{} {}", "first bad:".red().bold(), line(first_bad));
                text += &format!("           {}, {}\n", first_bad.author, first_bad.time);
                text += &format!("  {name} is bad there: {}\n", why.replace('\n', "\n      "));
                text += &format!("      {}\n", source(bad));
                if !self.changed.is_empty() {
                    text += &format!("  changed: {}\n", self.changed.join(", "));
                }
                if *merge {
                    text += "  it is a merge of sides that are good\n";
                }
                for merge in merged_by {
                    text += &format!("  merged by {}", line(merge));
                }
                text += &format!("  last good: {}", line(last_good));
                text += &match good {
                    Some(good) => format!("      {}\n", source(good)),
                    None => "      taken at your word: it could not be judged\n".into(),
                };
            }
            Outcome::CannotTell { candidates, unjudged } => {
                let which = match candidates.len() {
                    1 => "this commit turned it, or none".into(),
                    n => format!("one of these {n} commits turned it"),
                };
                text += &format!("{} {name}: {which}\n", "cannot tell:".yellow());
                for candidate in candidates {
                    text += &format!("  {}", line(candidate));
                    if let Some(found) = unjudged.iter().find(|u| u.commit == candidate.commit) {
                        text += &format!("      {}: {}\n", found.answer.name(), found.answer.why().unwrap_or_default());
                    }
                }
                for found in unjudged.iter().filter(|u| !candidates.iter().any(|c| c.commit == u.commit)) {
                    text += &format!("  {}: {}\n", &found.commit[..12], found.answer.why().unwrap_or_default());
                }
            }
            Outcome::GoodIsBad { commit, why, .. } => {
                text += &format!("{name} is bad at {} already: {why}\n", &commit.commit[..12])
            }
            Outcome::BadIsGood { commit } => text += &format!("{name} is good at {}\n", &commit.commit[..12]),
            Outcome::NeverGood { .. } => text += &format!("{name} was good at no commit that was judged\n"),
            Outcome::Same => text += &format!("{name} is the same at every commit\n"),
        }
        let differ = match self.node {
            Some(_) => "another kernel of it",
            None => "other files",
        };
        text + &format!("  {} between, {} with {differ}\n\n", count(self.commits, "commit"), self.places)
    }
}

fn source(by: &By) -> String {
    match by {
        By::Source => "by its sources".into(),
        By::Row { row, on } => format!("row {row}, {on}"),
        By::Judged { on } => format!("judged on {on}"),
    }
}

/// One line on what happens.
pub fn tell(scene: &Scene, what: &str, event: &Event<'_>) {
    match event {
        Event::Line { commits, places } => {
            scene.say(format_args!("{what}: {}, {places} to choose from", count(*commits, "commit")));
        }
        Event::Judging { commit } => scene.say(format_args!("{what} at {} …", short(*commit))),
        Event::Answered { commit, known } => {
            let why =
                known.answer.why().map_or(String::new(), |why| format!(": {}", why.lines().next().unwrap_or_default()));
            let name = match &known.answer {
                Answer::Good => known.answer.name().green().to_string(),
                Answer::Bad { .. } => known.answer.name().red().to_string(),
                _ => known.answer.name().yellow().to_string(),
            };
            scene.say(format_args!("{what} at {} {name}{why}", short(*commit)));
        }
        Event::Note(text) => anstream::eprintln!("note: {text}"),
    }
}
