//! How a run is watched: a log line for each event, and on a terminal a line below them that says how it stands.

use std::io::{BufRead as _, IsTerminal as _};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::agent::budget::money;
use crate::agent::events::{About, Event, Record};
use crate::agent::report::line;
use crate::agent::run::View;
use crate::agent::state::{Ask, State};
use crate::ops::Node;
use crate::verify::{Progress, Stage};

pub(super) struct Terminal {
    bar: Option<ProgressBar>,
    stage: Mutex<String>,
    stand: Mutex<String>,
}

impl Terminal {
    pub fn new(plain: bool) -> Terminal {
        let bar = (!plain && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Terminal { bar, stage: Mutex::default(), stand: Mutex::default() }
    }

    pub fn view(&self) -> Watching<'_> {
        // Nobody types into a pipe, and a pipe that somebody else reads from is not ours.
        let typed = (std::io::stdin().is_terminal() && std::io::stderr().is_terminal()).then(|| {
            let (send, receive) = channel();
            std::thread::spawn(move || {
                for line in std::io::stdin().lock().lines() {
                    let Ok(line) = line else { break };
                    if send.send(line).is_err() {
                        break;
                    }
                }
            });
            receive
        });
        Watching { terminal: self, typed, asked: 0 }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn log(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| anstream::eprintln!("{text}")),
            None => anstream::eprintln!("{text}"),
        }
    }

    fn show(&self) {
        if let Some(bar) = &self.bar {
            let (stand, stage) = (lock(&self.stand).clone(), lock(&self.stage).clone());
            bar.set_message(if stage.is_empty() { stand } else { format!("{stand} · {stage}") });
        }
    }
}

fn lock(text: &Mutex<String>) -> std::sync::MutexGuard<'_, String> {
    text.lock().unwrap_or_else(|e| e.into_inner())
}

impl Progress for Terminal {
    fn stage(&self, _: &Node, stage: Stage) {
        *lock(&self.stage) = format!("stage {} ({})", stage.number(), stage.name());
        self.show();
    }

    fn tick(&self, done: usize, of: usize) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{} · {} {done}/{of}", lock(&self.stand), lock(&self.stage)));
        }
    }
}

pub(super) struct Watching<'t> {
    terminal: &'t Terminal,
    typed: Option<Receiver<String>>,
    /// The last question that was shown.
    asked: u64,
}

impl View for Watching<'_> {
    fn event(&mut self, record: &Record, state: &State) {
        if let Some(text) = line(&record.event) {
            let time = record.time.split_once('T').map_or("", |(_, t)| t);
            self.terminal.log(&format!("{time} {}", text.replace('\n', "\n          ")));
        }
        if matches!(record.event, Event::Verdict { .. }) {
            lock(&self.terminal.stage).clear();
        }
        *lock(&self.terminal.stand) = stand(state);
        self.terminal.show();
    }

    fn answer(&mut self, ask: &Ask) -> Option<(Option<bool>, String)> {
        if self.asked != ask.id {
            self.asked = ask.id;
            let how = match ask.about {
                About::Question => "type an answer, or: assay agent say TEXT",
                About::Stuck => "type a hint, or `no` to leave the node; or: assay agent say TEXT, reject",
                About::Step | About::Landing => "type yes or no; or: assay agent approve, reject",
            };
            match self.typed {
                Some(_) => self.terminal.log(&format!("         ({how})")),
                None => self.terminal.log("         (from another terminal: assay agent approve, reject, or say TEXT)"),
            }
        }
        let typed = match self.typed.as_ref()?.try_recv() {
            Ok(line) => line.trim().to_string(),
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                self.typed = None;
                return None;
            }
        };
        let word = match typed.to_ascii_lowercase().as_str() {
            "y" | "yes" => Some(true),
            "n" | "no" => Some(false),
            _ => None,
        };
        match (ask.about, word) {
            (_, _) if typed.is_empty() => None,
            (About::Question, _) => Some((None, typed)),
            (About::Stuck, Some(false)) => Some((Some(false), String::new())),
            (About::Stuck, _) => Some((Some(true), typed)),
            (_, Some(_)) => Some((word, String::new())),
            (_, None) => {
                self.terminal.log("         (yes or no)");
                None
            }
        }
    }
}

/// How a run stands, in a line.
fn stand(state: &State) -> String {
    let passed = state.ended.iter().filter(|(_, how, _)| how.passed()).count();
    let mut parts = vec![format!("{passed} passed, {} left", state.ended.len() - passed)];
    if let Some(work) = &state.work {
        parts.push(format!("{} attempt {}/{}", work.node, work.attempts.len() + 1, state.limits.attempts));
    }
    if let Some(verdict) = &state.last_verdict {
        let stage = verdict.stage.as_ref().map_or(String::new(), |s| format!(" {s}"));
        parts.push(format!("last {}{stage}", verdict.outcome));
    }
    let cost = if state.spent.cost() > 0 { format!(", {} USD", money(state.spent.cost())) } else { String::new() };
    parts.push(format!("step {}, {} tokens{cost}", state.spent.steps, state.spent.tokens()));
    if state.paused {
        parts.push("paused".into());
    }
    parts.join(" · ")
}
