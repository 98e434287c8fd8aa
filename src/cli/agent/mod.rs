//! `assay agent`: a language model ports kernels, under supervision.

mod tell;
mod view;
mod work;

pub(super) use tell::report;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};

use super::output;
use crate::agent::budget::money;
use crate::agent::codes::{ENDPOINT_CONTEXT, ENDPOINT_FAILED, ENDPOINT_NONE, RUN_OVER, RUN_PAUSED, RUN_UNFINISHED};
use crate::agent::events::{Approve, Event, NodeEnd, Place, RunEnd, Served};
use crate::agent::report::Report;
use crate::agent::run::{Run, no_price};
use crate::agent::runs::{self, Runs};
use crate::agent::shop::DeskShop;
use crate::agent::state::State as RunState;
use crate::agent::supervise::Signals;
use crate::error::{Error, Kind, Result};
use crate::history;
use crate::model::Model;
use crate::ops::Node;
use crate::plan::graph::Graph;
use crate::plan::schedule::canonical;
use crate::plan::{Numerics, Plan};
use crate::report::proof::State;
use crate::report::standing as report_standing;
use crate::words::{count, shell};
use crate::workbench::Workbench;
use view::Terminal;
use work::Work;

/// Let a language model port kernels, under supervision
///
/// It takes the next gate, or the nodes named, one after the other. The model writes a kernel, the judge says what it is
/// worth, and nothing else counts. Where there is no device a kernel can pass on the emulator and nothing turns green.
/// Ctrl-C once pauses after the step, twice stops.
#[derive(clap::Args)]
#[command(subcommand_precedence_over_arg = true)]
pub struct Agent {
    #[command(subcommand)]
    action: Option<Action>,
    /// Nodes to port, in this order [default: what `assay next` says, until none is left]
    #[arg(value_name = "NODE")]
    nodes: Vec<Node>,
    #[command(flatten)]
    work: Work,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Say what the run is doing
    Status(tell::Status),
    /// Have the run pause after its step
    Pause(tell::Which),
    /// Go on: with the paused run, or with one whose process is gone
    Resume(Box<Resume>),
    /// Tell the model something, or answer its question
    Say(tell::Say),
    /// Say yes to what the run asks
    Approve(tell::Answer),
    /// Say no to what the run asks
    Reject(tell::Answer),
    /// The run as a public trajectory format (ATIF v1.4)
    Export(tell::Export),
}

#[derive(clap::Args)]
struct Resume {
    /// The run's name, or its beginning [default: the newest]
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    #[command(flatten)]
    work: Work,
}

impl Agent {
    pub fn run(&self) -> Result<u8> {
        // Not clap's word, which would have -C behind `agent` refused as well.
        let given = self.work.given();
        if self.action.is_some() && !(given.is_empty() && self.nodes.is_empty()) {
            let what = given.first().map_or("a node", |flag| *flag);
            return Err(Error::usage(format!("{what} in front of what is said to a run begins none"))
                .expected("assay agent [NODE…] with options, or the word for a run and its options behind it"));
        }
        match &self.action {
            None => self.begin(),
            Some(Action::Status(c)) => c.run(),
            Some(Action::Pause(c)) => c.pause(),
            Some(Action::Resume(c)) => c.run(),
            Some(Action::Say(c)) => c.run(),
            Some(Action::Approve(c)) => c.run(true),
            Some(Action::Reject(c)) => c.run(false),
            Some(Action::Export(c)) => c.run(),
        }
    }

    fn begin(&self) -> Result<u8> {
        let bench = Workbench::find(".".as_ref())?;
        let runs = Runs::of(&bench.root)?;
        let work = &self.work;
        let client = work.client(&bench)?;
        if work.max_cost.is_some() && client.settings().price.is_none() {
            return Err(no_price(&client));
        }
        let _lock = runs.lock(&|what| anstream::eprintln!("note: {what}"))?;
        let terminal = Arc::new(Terminal::new(work.plain));
        let signals = signals(work.json, terminal.clone());
        let mut shop = work.shop(&bench, &terminal)?;
        let known = shop.desk().nodes();
        if let Some(node) = self.nodes.iter().find(|n| !known.contains(n)) {
            let near: Vec<_> = known.iter().filter(|n| n.op == node.op).map(ToString::to_string).collect();
            let error = Error::usage(format!("{node} is no node of {}", shop.desk().model().path().display()));
            return Err(match near.is_empty() {
                true => error.hint("assay next -n 50 lists them, assay plan all"),
                false => error.expected(near.join(", ")).hint(format!("assay agent '{}'", near[0])),
            });
        }
        let settings = client.settings();
        let started = Event::Started {
            assay: env!("CARGO_PKG_VERSION").into(),
            model: file_name(&shop),
            llm: settings.model.clone(),
            host: settings.host(),
            price: settings.price,
            limits: work.limits(None),
            approve: work.approve.unwrap_or(Approve::Green),
            nodes: self.nodes.clone(),
            place: place(&shop),
            key: work.signer(&bench)?,
            wait_s: work.wait.map_or(600, |w| w.as_secs()),
        };
        anonymous(&bench)?;
        let dir = runs.create()?;
        let mut view = terminal.view(standing(&bench, shop.desk().model().path()));
        let run = Run::begin(&dir, &mut shop, &client, &signals, &mut view, started)?;
        work.drive(run, &terminal, &bench, &dir)
    }
}

impl Resume {
    fn run(&self) -> Result<u8> {
        let bench = Workbench::find(".".as_ref())?;
        let runs = Runs::of(&bench.root)?;
        let dir = runs.find(self.run.as_deref())?;
        if runs.alive()? {
            let given = self.work.given();
            if !given.is_empty() {
                return Err(Error::usage(format!("{} cannot be changed in a run that is at work", given.join(", ")))
                    .expected("a run whose process is gone")
                    .hint(format!(
                        "Ctrl-C it twice, then assay agent resume {} …; assay agent resume alone goes on with a paused run",
                        given[0]
                    )));
            }
            return tell::resume(&dir, self.work.json);
        }
        let work = &self.work;
        let before = runs::state(&dir)?;
        if let Some((how, why)) = &before.over
            && !how.resumable()
        {
            return Err(Error::new(&RUN_OVER, format!("run {} is over: {why}", runs::id(&dir)))
                .hint("assay agent begins another"));
        }
        let start = before.started.as_ref();
        let client = work.client_for(&bench, start.map(|s| s.llm.as_str())).map_err(|e| match start {
            Some(start) if e.code().id == ENDPOINT_NONE.id => {
                let again = format!("assay agent resume --run {} --url {}/v1", runs::id(&dir), shell(&start.host));
                e.found(format!("{}, where the run has left off", start.host)).hint(again)
            }
            _ => e,
        })?;
        if work.limits(Some(&before)).cost.is_some() && client.settings().price.is_none() {
            return Err(no_price(&client));
        }
        let _lock = runs.lock(&|what| anstream::eprintln!("note: {what}"))?;
        let terminal = Arc::new(Terminal::new(work.plain));
        let signals = signals(work.json, terminal.clone());
        let mut shop = work.shop(&bench, &terminal)?;
        if start.is_some_and(|s| s.model != file_name(&shop)) {
            let found = start.map_or(String::new(), |s| s.model.clone());
            return Err(Error::usage("the run was about another model file")
                .expected(found)
                .found(file_name(&shop))
                .hint("assay agent resume -m FILE"));
        }
        anonymous(&bench)?;
        let mut view = terminal.view(standing(&bench, shop.desk().model().path()));
        let place = Some(place(&shop)).filter(|place| start.is_some_and(|s| s.place != *place));
        let settings = client.settings();
        let server = Served { llm: settings.model.clone(), host: settings.host(), price: settings.price };
        let asked = start.map(|s| Served { llm: s.llm.clone(), host: s.host.clone(), price: s.price });
        let server = Some(server).filter(|server| asked.is_some_and(|asked| asked != *server));
        let resumed = |state: &RunState, note: Option<String>| {
            Ok(Event::Resumed {
                place,
                server,
                limits: work.limits(Some(state)),
                approve: work.approve.unwrap_or(state.approve),
                note: note.unwrap_or_default(),
                wait_s: work.wait.map(|w| w.as_secs()),
            })
        };
        let run = Run::resume(&dir, &mut shop, &client, &signals, &mut view, resumed)?;
        work.drive(run, &terminal, &bench, &dir)
    }
}

impl Work {
    /// Runs it to its end and says how it ended.
    fn drive(&self, mut run: Run<'_>, terminal: &Terminal, bench: &Workbench, dir: &Path) -> Result<u8> {
        let end = run.work();
        terminal.finish();
        let end = end?;
        let ledger = history::read(&bench.root)?;
        let report = Report::of(dir, Some(&ledger))?;
        let state = run.state();
        let passed = state.ended.iter().filter(|(_, how, _)| how.passed()).count();
        let landed = state.ended.iter().filter(|(_, how, _)| *how == NodeEnd::Landed).count();
        let device = state.started.as_ref().is_some_and(|s| s.place.device);
        if self.json {
            let mut body = serde_json::to_value(&report).map_err(|e| Error::internal(e.to_string()))?;
            body["passed"] = json!(passed);
            body["landed"] = json!(landed);
            body["green_possible"] = json!(device);
            output::json("assay.agent/1", body)?;
        } else {
            output::println(summary(&report, passed, landed, device))?;
        }
        let why = || state.over.as_ref().map_or(String::new(), |(_, why)| why.clone());
        let resume = self.resume(&runs::id(dir), state);
        match end {
            RunEnd::Done if state.ended.iter().all(|(_, how, _)| how.passed()) => Ok(0),
            RunEnd::Done => {
                self.fail(Error::new(&RUN_UNFINISHED, "not every node passed").hint("assay report --agent"))
            }
            RunEnd::Stopped => self.fail(Error::new(&RUN_PAUSED, why()).hint(resume)),
            RunEnd::Endpoint => self.fail(Error::new(&ENDPOINT_FAILED, why()).hint(resume)),
            RunEnd::Context => self.fail(Error::new(&ENDPOINT_CONTEXT, why()).hint(resume)),
            RunEnd::Budget | RunEnd::Fault => self.fail(Error::new(&RUN_UNFINISHED, why()).hint(resume)),
        }
    }

    /// With --json the answer is out already: the reason goes to stderr alone.
    fn fail(&self, error: Error) -> Result<u8> {
        match self.json {
            true => {
                output::error(&error);
                Ok(error.kind().exit_code())
            }
            false => Err(error),
        }
    }
}

/// How the workbench's nodes stand, in a line, for the terminal.
fn standing(bench: &Workbench, model: &Path) -> Box<dyn Fn() -> Option<String>> {
    let (bench, model) = (bench.clone(), Model::open(model));
    Box::new(move || {
        let model = model.as_ref().ok()?;
        let plan = Plan::build(model, canonical(Numerics::Ds4)).ok()?;
        let status =
            report_standing::status(&bench, model, &Graph::of(&plan, None), Numerics::Ds4, &mut Vec::new()).ok()?;
        let nodes = || status.nodes.iter().filter(|n| bench.settings.ports(&n.usage.node.op));
        let of = |state: &State| nodes().filter(|n| n.state == *state).count();
        let counts = State::ALL.iter().map(|state| (of(state), state.name())).filter(|(n, _)| *n > 0);
        let counts: Vec<_> = counts.map(|(n, name)| format!("{n} {name}")).collect();
        Some(format!("{}: {}", count(nodes().count(), "node"), counts.join(", ")))
    })
}

fn place(shop: &DeskShop<'_>) -> Place {
    Place { place: shop.place(), device: crate::agent::shop::Shop::device(shop) }
}

fn file_name(shop: &DeskShop<'_>) -> String {
    shop.desk().model().path().file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned())
}

/// The end of a run in a few lines.
fn summary(report: &Report, passed: usize, landed: usize, device: bool) -> String {
    let mut out = format!("\n{passed} of {} nodes that were worked on pass", report.nodes.len());
    match device {
        true => out += &format!("; {landed} landed.\n"),
        false => out += " on the CPU emulator. There is no device here: nothing is green yet.\n",
    }
    let cost = report.cost.as_ref().map_or(String::new(), |c| format!(", {c} USD"));
    out += &format!(
        "{} steps, {} tokens{cost}, {} s; transcript sha256:{}\nNext: assay report --agent",
        report.steps,
        report.prompt_tokens.saturating_add(report.completion_tokens),
        report.seconds,
        report.transcript
    );
    out
}

/// Ctrl-C, counted.
fn signals(json: bool, terminal: Arc<Terminal>) -> Arc<Signals> {
    let signals = Arc::new(Signals::default());
    let seen = signals.clone();
    // Without a handler the signal ends the process; the run can be resumed all the same.
    let _ = ctrlc::set_handler(move || {
        let last = seen.came();
        if (TERMINATED.swap(false, Relaxed) && seen.came()) || last {
            if json {
                output::json_error(&super::interrupt::interrupted("interrupted a third time"));
            }
            std::process::exit(i32::from(Kind::Interrupted.exit_code()));
        }
        let words = match seen.stop() {
            false => "pauses after this step; Ctrl-C again stops; assay agent resume goes on",
            true => "stops",
        };
        terminal.log(words);
    });
    // SAFETY: the handler stores a flag and raises a signal, which a handler may do.
    unsafe { libc::signal(libc::SIGTERM, terminated as extern "C" fn(i32) as libc::sighandler_t) };
    signals
}

/// Whether a SIGTERM came: whoever sends one, a supervisor or `timeout`, sends it once and waits for an end, where a pause
/// would wait for somebody to come back.
static TERMINATED: AtomicBool = AtomicBool::new(false);

extern "C" fn terminated(_: i32) {
    TERMINATED.store(true, Relaxed);
    // SAFETY: `raise` may be called in a handler. What Ctrl-C does takes it from here, on a thread of its own.
    unsafe { libc::raise(libc::SIGINT) };
}

/// Whoever git does not know is told before anything is spent.
fn anonymous(bench: &Workbench) -> Result<()> {
    match history::knows_author_of(&bench.root) {
        Err(e) if e.code().id == history::AUTHOR.id => {
            let hint = e.hint_text().unwrap_or_default();
            anstream::eprintln!(
                "note: {} [{}]: red attempts are not kept as commits, and nothing can land; {hint}",
                e.what(),
                e.code().id
            );
            Ok(())
        }
        known => known,
    }
}

/// A state in JSON, for `status`.
fn state_json(state: &RunState, dir: &Path, alive: bool) -> Value {
    let (spent, limits) = (&state.spent, &state.limits);
    json!({
        "run": runs::id(dir),
        "folder": dir,
        "alive": alive,
        "state": word(state, alive),
        "node": state.work.as_ref().map(|w| w.node.to_string()),
        "attempts": state.attempts(),
        "asks": state.ask.as_ref().map(|a| json!({ "id": a.id, "about": a.about, "text": a.text, "shown": a.shown })),
        "last_verdict": state.last_verdict,
        "ended": state.ended.iter().map(|(node, how, why)| json!({ "node": node, "how": how, "why": why })).collect::<Vec<_>>(),
        "spent": {
            "steps": spent.steps, "tokens": spent.tokens(), "beyond": spent.beyond, "cost": money(spent.cost()), "seconds": state.ms / 1000,
        },
        "limits": limits,
        "over": state.over.as_ref().map(|(how, why)| json!({ "how": how, "why": why })),
    })
}

fn word(state: &RunState, alive: bool) -> &'static str {
    match (&state.over, alive) {
        (Some((RunEnd::Done, _)), _) => "over",
        (Some(_), _) => "ended, can be resumed",
        (None, false) => "its process is gone; assay agent resume goes on",
        (None, true) if state.paused => "paused",
        (None, true) if state.ask.is_some() => "waits for an answer",
        (None, true) => "at work",
    }
}
