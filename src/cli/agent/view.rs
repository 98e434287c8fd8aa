//! How a run is watched: a log line for each event, and on a terminal five lines below them that say how it stands.

use std::io::{BufRead as _, IsTerminal as _};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::agent::budget::money;
use crate::agent::desk::{cap, printable};
use crate::agent::events::{About, Event, Record};
use crate::agent::report::line;
use crate::agent::run::View;
use crate::agent::state::{Ask, State};
use crate::ops::Node;
use crate::verify::{Progress, Stage};

pub(super) struct Terminal {
    board: Option<Board>,
    /// The attempt under way, and how far its verdict is.
    at: Mutex<(String, String)>,
}

/// The lines below the log.
struct Board {
    all: MultiProgress,
    graph: ProgressBar,
    node: ProgressBar,
    verdict: ProgressBar,
    spent: ProgressBar,
    now: ProgressBar,
}

impl Board {
    fn new() -> Board {
        let all = MultiProgress::new();
        let line = |label: &'static str, template: &str| {
            let bar = all.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.with_prefix(label)
        };
        const PLAIN: &str = "  {prefix:<8.dim} {wide_msg}";
        let (graph, node) = (line("graph", PLAIN), line("attempt", "{spinner} {prefix:<8.dim} {wide_msg}"));
        let (verdict, spent, now) = (line("verdict", PLAIN), line("spent", PLAIN), line("now", PLAIN));
        node.enable_steady_tick(Duration::from_millis(250));
        Board { all, graph, node, verdict, spent, now }
    }
}

impl Terminal {
    pub fn new(plain: bool) -> Terminal {
        let board = (!plain && std::io::stderr().is_terminal()).then(Board::new);
        Terminal { board, at: Mutex::default() }
    }

    /// `graph` says how the workbench's nodes stand; it is asked only where there is somebody to see it.
    pub fn view<'t>(&'t self, graph: Box<dyn Fn() -> Option<String> + 't>) -> Watching<'t> {
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
        Watching { terminal: self, graph, typed, asked: 0 }
    }

    /// Takes the lines away; the log stays.
    pub fn finish(&self) {
        if let Some(board) = &self.board {
            for bar in [&board.graph, &board.node, &board.verdict, &board.spent, &board.now] {
                bar.finish_and_clear();
            }
        }
    }

    /// A line of the log, also from other threads.
    pub fn log(&self, text: &str) {
        match &self.board {
            Some(board) => board.all.suspend(|| anstream::eprintln!("{text}")),
            None => anstream::eprintln!("{text}"),
        }
    }

    fn attempt(&self, what: Option<String>, how_far: String) {
        let mut at = self.at.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(what) = what {
            at.0 = what;
        }
        at.1 = how_far;
        if let Some(board) = &self.board {
            let join = if at.1.is_empty() { "" } else { " · " };
            board.node.set_message(format!("{}{join}{}", at.0, at.1));
        }
    }
}

impl Progress for Terminal {
    fn stage(&self, _: &Node, stage: Stage) {
        self.attempt(None, format!("stage {} ({})", stage.number(), stage.name()));
    }

    fn tick(&self, done: usize, of: usize) {
        let at = self.at.lock().unwrap_or_else(|e| e.into_inner()).1.clone();
        let stage = at.split_once(')').map_or(at.clone(), |(stage, _)| format!("{stage})"));
        self.attempt(None, format!("{stage} {done}/{of}"));
    }
}

pub(super) struct Watching<'t> {
    terminal: &'t Terminal,
    graph: Box<dyn Fn() -> Option<String> + 't>,
    typed: Option<Receiver<String>>,
    /// The last question that was shown.
    asked: u64,
}

impl Watching<'_> {
    /// Brings the lines up to date.
    fn stand(&self, event: &Event, state: &State) {
        let Some(board) = &self.terminal.board else { return };
        let moves = matches!(
            event,
            Event::Started { .. } | Event::Resumed { .. } | Event::Verdict { .. } | Event::Landed { .. }
        );
        if moves && let Some(text) = (self.graph)() {
            board.graph.set_message(text);
        }
        let judged = matches!(event, Event::Verdict { .. } | Event::NodeEnded { .. } | Event::Ended { .. });
        let how_far = match judged {
            true => String::new(),
            false => self.terminal.at.lock().unwrap_or_else(|e| e.into_inner()).1.clone(),
        };
        self.terminal.attempt(Some(attempt(state)), how_far);
        board.verdict.set_message(verdict(state));
        board.spent.set_message(spent(state));
        board.now.set_message(now(event, state));
    }
}

impl View for Watching<'_> {
    fn event(&mut self, record: &Record, state: &State) {
        if let Some(text) = line(&record.event) {
            let time = record.time.split_once('T').map_or("", |(_, t)| t);
            self.terminal.log(&format!("{time} {}", text.replace('\n', "\n          ")));
        }
        if let Event::Asked { shown, .. } = &record.event {
            shown.lines().for_each(|line| self.terminal.log(&format!("         | {line}")));
        }
        self.stand(&record.event, state);
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

/// A text that stays one line of a terminal.
fn flat(text: &str) -> String {
    cap(printable(&text.replace('\n', "; ")), 300)
}

fn attempt(state: &State) -> String {
    let passed = state.ended.iter().filter(|(_, how, _)| how.passed()).count();
    let ended = match state.ended.len() {
        0 => String::new(),
        n => format!("; {passed} passed and {} left before", n - passed),
    };
    match &state.work {
        Some(work) => {
            let next = (work.attempts.len() as u64 + 1).min(state.limits.attempts);
            // Of those on record it may be another one.
            let number = state.judging.as_ref().map(|j| j.attempt).filter(|number| *number != next);
            let number = number.map_or(String::new(), |number| format!(" (number {number})"));
            format!("{}, attempt {next} of {}{number}{ended}", work.node, state.limits.attempts)
        }
        None => format!("no node{ended}"),
    }
}

fn verdict(state: &State) -> String {
    match &state.last_verdict {
        Some(verdict) => flat(&format!("{}: {}", verdict.node, verdict.words())),
        None => "none yet".into(),
    }
}

fn spent(state: &State) -> String {
    let (spent, limits) = (&state.spent, &state.limits);
    let cost = match limits.cost {
        Some(limit) => format!(", {} of {} USD", money(spent.cost()), money(limit)),
        None if spent.cost() > 0 => format!(", {} USD", money(spent.cost())),
        None => String::new(),
    };
    let (seconds, of) = (state.ms / 1000, limits.wall_ms / 1000);
    format!(
        "{} of {} steps, {} of {} tokens{cost}, {seconds} of {of} s",
        spent.steps,
        limits.steps,
        spent.tokens(),
        limits.tokens
    )
}

fn now(event: &Event, state: &State) -> String {
    match (&state.over, &state.ask) {
        (Some((_, why)), _) => flat(why),
        (None, _) if state.paused => "paused; assay agent resume goes on".into(),
        (None, Some(ask)) => flat(&format!("asks: {}", ask.text)),
        (None, None) => match event {
            Event::Reserved { .. } => "the model is at work; Ctrl-C pauses after this step".into(),
            Event::Judging { place, .. } => format!("the judge is at work on the {place}"),
            Event::Failed { wait_ms, .. } if *wait_ms > 0 => "waits before it asks again".into(),
            _ => "works; Ctrl-C pauses after this step".into(),
        },
    }
}
