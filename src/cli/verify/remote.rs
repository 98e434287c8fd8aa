//! `assay verify --runner`: other hosts judge, each node on one that is free.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use owo_colors::OwoColorize;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::standing::said;
use super::super::{ledger, output};
use super::Verify;
use crate::error::{Error, INTERRUPTED, Kind, Result};
use crate::history;
use crate::ledger::{
    self as records, Class, ClosureSource, Config, Evidence, Outcome, SecretKey, Seed, Standing, Target, Trust, bundle,
};
use crate::model::Model;
use crate::ops::Node;
use crate::plan::Numerics;
use crate::plan::kernels::KernelTree;
use crate::report::standing::trust;
use crate::verify::binding::{Tree, Workshop, nodes_of};
use crate::verify::remote::{Ask, Bundle, FAILED, Hello, Host, Limits, Runner, answers, welcome};
use crate::words::count;
use crate::workbench::Workbench;

/// The nodes that are still to be judged, and how many are being judged now.
#[derive(Default)]
struct Work {
    queue: VecDeque<Ask>,
    out: usize,
}

/// Shared by all hosts.
#[derive(Default)]
struct Board {
    work: Mutex<Work>,
    changed: Condvar,
}

impl Board {
    fn with<T>(&self, f: impl FnOnce(&mut Work) -> T) -> T {
        let result = f(&mut self.work.lock().unwrap_or_else(|e| e.into_inner()));
        self.changed.notify_all();
        result
    }

    /// The next node, when there is one; `None` when nothing can come any more. What a host gives back comes again.
    fn take(&self) -> Option<Ask> {
        let mut work = self.work.lock().unwrap_or_else(|e| e.into_inner());
        loop {
            if let Some(ask) = work.queue.pop_front() {
                work.out += 1;
                return Some(ask);
            }
            if work.out == 0 {
                return None;
            }
            work = self.changed.wait(work).unwrap_or_else(|e| e.into_inner());
        }
    }

    fn done(&self) {
        self.with(|work| work.out -= 1);
    }

    fn back(&self, ask: Ask) {
        self.with(|work| {
            work.out -= 1;
            work.queue.push_front(ask);
        });
    }
}

/// What a host's thread tells the one that decides, which answers whether to go on.
enum Event {
    Hello {
        host: usize,
        hello: Box<Hello>,
        go: SyncSender<bool>,
    },
    Answer {
        host: usize,
        ask: Ask,
        evidence: (Vec<Evidence>, Seed),
        go: SyncSender<bool>,
    },
    /// One node could not be judged there.
    Failed {
        host: usize,
        node: Node,
        error: Error,
    },
    Lost {
        host: usize,
        error: Error,
    },
}

/// One verdict that came home.
#[derive(Serialize)]
struct Judged {
    node: Node,
    outcome: &'static str,
    reason: Option<String>,
    class: Class,
    arch: String,
    runner: String,
    row: Option<u64>,
    /// Answered by a row from before.
    earlier: bool,
}

pub(super) fn run(verify: &Verify, bench: &Workbench, model: &Model, tree: &KernelTree) -> Result<u8> {
    let config = Config::of_user()?.outside(&bench.root)?;
    let runners: Vec<Runner> = verify
        .runner
        .iter()
        .map(|text| Runner::named(text, &config, &bench.settings.runners))
        .map(|runner| runner.map(|r| Runner { assay: verify.remote_assay.clone().unwrap_or(r.assay.clone()), ..r }))
        .collect::<Result<_>>()?;
    let trust = said(|notes| trust(&bench.root, None, notes))?;
    let here = Workshop::new(model)?.tree(&bench.kernels())?;
    let wanted = verify.wanted(&nodes_of(model)?, tree)?;
    let writer = match verify.record || verify.evidence.is_some() {
        true => Some(ledger::writer(&bench.root, verify.key.as_deref())?),
        false => None,
    };
    if let Some(writer) = &writer {
        ledger::open(&bench.root)?.may_sign(writer)?;
    }
    let board = Board::default();
    let mut asks = VecDeque::new();
    for node in &wanted {
        asks.push_back(Ask::new(node.clone())?);
    }
    board.with(|work| work.queue = asks);
    let commit = history::Repo::find(&bench.root)?.and_then(|r| r.head_id().ok().flatten()).unwrap_or_default();
    let architectures = &bench.settings.architectures;
    let bundle = Bundle {
        numerics: verify.numerics,
        thorough: verify.thorough,
        ..Bundle::of(model, &bench.kernels(), architectures, verify.backend.name(), commit)?
    };
    let silence = Duration::from_secs(verify.runner_timeout);
    let limits = Limits { silence, node: silence.saturating_mul(60) };
    let stop = super::stop_at_interrupt();
    let (send, events) = channel();
    let mut desk = Desk {
        verify,
        bench,
        bundle: &bundle,
        here: &here,
        trust: &trust,
        writer,
        board: &board,
        runners: &runners,
        hellos: BTreeMap::new(),
        judged: Vec::new(),
        evidence: Vec::new(),
        lost: Vec::new(),
    };
    std::thread::scope(|scope| -> Result<()> {
        for (host, runner) in runners.iter().enumerate() {
            let (send, board, stop) = (send.clone(), &board, stop.clone());
            let mut bundle = bundle.clone();
            let told = verify.remote_model.clone().or(runner.model.clone());
            bundle.models.splice(0..0, told);
            scope.spawn(move || serve(host, runner, &bundle, limits, board, &stop, &send));
        }
        drop(send);
        let mut fatal = Ok(());
        // Every host's thread is heard to its end, so that none is left waiting.
        for event in events {
            if let Err(e) = desk.take(event)
                && fatal.is_ok()
            {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
                board.with(|work| work.queue.clear());
                fatal = Err(e);
            }
        }
        fatal
    })?;
    if stop.load(std::sync::atomic::Ordering::Relaxed) {
        return Err(Error::new(&INTERRUPTED, "interrupted; what was recorded stays recorded")
            .hint("the same command asks the rest"));
    }
    desk.report(&wanted)
}

/// One host's thread.
fn serve(
    host: usize,
    runner: &Runner,
    bundle: &Bundle,
    limits: Limits,
    board: &Board,
    stop: &AtomicBool,
    events: &Sender<Event>,
) {
    let lost = |error: Error| drop(events.send(Event::Lost { host, error }));
    let mut there = match Host::start(runner, bundle, limits, stop) {
        Ok(there) => there,
        Err(e) => return lost(e),
    };
    let told = |event: &dyn Fn(SyncSender<bool>) -> Event| {
        let (go, answer) = sync_channel(1);
        events.send(event(go)).is_ok() && answer.recv().unwrap_or(false)
    };
    let hello = there.hello.clone();
    if !told(&|go| Event::Hello { host, hello: hello.clone(), go }) {
        return;
    }
    while let Some(ask) = board.take() {
        match there.judge(&runner.name, &ask, stop) {
            Ok(evidence) => {
                if !told(&|go| Event::Answer { host, ask: ask.clone(), evidence: evidence.clone(), go }) {
                    return;
                }
            }
            // Of this node; it may judge others.
            Err(e) if e.code().id == FAILED.id => {
                board.done();
                drop(events.send(Event::Failed { host, node: ask.node, error: e }));
            }
            Err(e) => {
                board.back(ask);
                return lost(e);
            }
        }
    }
}

/// Where answers are checked and kept.
struct Desk<'d, 'm> {
    verify: &'d Verify,
    bench: &'d Workbench,
    bundle: &'d Bundle,
    here: &'d Tree<'m>,
    trust: &'d Trust,
    writer: Option<SecretKey>,
    board: &'d Board,
    runners: &'d [Runner],
    hellos: BTreeMap<usize, Box<Hello>>,
    judged: Vec<Judged>,
    evidence: Vec<Evidence>,
    /// Hosts that were given up or refused.
    lost: Vec<(usize, Error)>,
}

impl Desk<'_, '_> {
    fn numerics(&self) -> Numerics {
        self.verify.numerics.unwrap_or(Numerics::Ds4)
    }

    fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Hello { host, hello, go } => {
                let ledger = ledger::open(&self.bench.root)?;
                match welcome(&hello, self.bundle, &ledger, self.trust) {
                    Ok(()) => {
                        let forget = self.answered(&hello.arch);
                        self.hellos.insert(host, hello);
                        let _ = go.send(true);
                        return forget;
                    }
                    Err(e) => self.lost.push((host, e)),
                }
                let _ = go.send(false);
                Ok(())
            }
            Event::Answer { host, ask, evidence, go } => {
                let kept = self.keep(host, &ask, evidence);
                match kept {
                    Ok(()) => {
                        self.board.done();
                        let _ = go.send(true);
                        Ok(())
                    }
                    // Its fault, or ours: the node is somebody else's now.
                    Err(e) => {
                        self.board.back(ask);
                        let _ = go.send(false);
                        match [Kind::Integrity, Kind::No].contains(&e.kind()) {
                            true => self.lost.push((host, e)),
                            false => return Err(e),
                        }
                        Ok(())
                    }
                }
            }
            Event::Failed { host, node, error } => {
                anstream::eprintln!("note: {node}: {} [{}]", error.what(), error.code().id);
                self.lost.push((host, error));
                Ok(())
            }
            Event::Lost { host, error } => {
                if error.kind() != Kind::Interrupted {
                    anstream::eprintln!("note: {}: {} [{}]", self.runners[host].name, error.what(), error.code().id);
                    self.lost.push((host, error));
                }
                Ok(())
            }
        }
    }

    /// Nodes that a row answers already, on the architecture that a host has: an interrupted run goes on behind them.
    fn answered(&mut self, arch: &str) -> Result<()> {
        if !self.verify.record || self.verify.again {
            return Ok(());
        }
        let ledger = ledger::open(&self.bench.root)?;
        let left: Vec<Ask> = self.board.with(|work| work.queue.drain(..).collect());
        let mut keep = VecDeque::new();
        for ask in left {
            let target = Target::Node(ask.node.clone());
            let binding = match self.here.binding(&ask.node, arch, self.numerics()) {
                Ok(binding) => binding,
                Err(_) => {
                    keep.push_back(ask);
                    continue;
                }
            };
            match ledger.standing(&target, &binding, self.trust) {
                Standing::Green(row) | Standing::Emulated(row) | Standing::Red(row) => {
                    let Some(verdict) = row.statement().verdict() else { continue };
                    self.judged.push(judged(&ask.node, verdict, "a row from before", Some(row.seq), true));
                }
                _ => keep.push_back(ask),
            }
        }
        self.board.with(|work| work.queue.extend(keep));
        Ok(())
    }

    fn keep(&mut self, host: usize, ask: &Ask, evidence: (Vec<Evidence>, Seed)) -> Result<()> {
        let hello = self.hellos.get(&host).ok_or_else(|| Error::internal("an answer without a greeting"))?;
        let mut ledger = ledger::open(&self.bench.root)?;
        let all = evidence.0.clone();
        let (new, verdict) = answers(ask, hello, evidence, self.here, &ledger, self.trust)?;
        let mut row = None;
        if let Some(writer) = self.writer.as_ref().filter(|_| self.verify.record) {
            let rows = ledger.append(&new, writer)?;
            row = rows.last().copied();
            if let (Outcome::Red { .. }, Some(red)) = (&verdict.outcome, new.last()) {
                super::sign::attempt(&self.bench.root, &Target::Node(ask.node.clone()), red)?;
            }
        }
        if let Some(path) = &self.verify.evidence {
            let known: Vec<_> = self.evidence.iter().map(Evidence::digest).collect();
            self.evidence.extend(all.into_iter().filter(|e| !known.contains(&e.digest())));
            if let Some(writer) = &self.writer {
                std::fs::write(path, bundle(writer, &self.evidence)?).map_err(|e| Error::io(path, e))?;
            }
        }
        let judged = judged(&ask.node, &verdict, &self.runners[host].name, row, false);
        if !self.verify.json {
            output::println(judged.text())?;
        }
        self.judged.push(judged);
        Ok(())
    }

    fn report(mut self, wanted: &[Node]) -> Result<u8> {
        let place = |node: &Node| wanted.iter().position(|w| w == node);
        self.judged.sort_by_key(|j| place(&j.node));
        let missing: Vec<String> = wanted
            .iter()
            .filter(|node| !self.judged.iter().any(|j| j.node == **node))
            .map(ToString::to_string)
            .collect();
        // A host that lied is told as such, also where others answered in its stead.
        let refused = self.lost.iter().position(|(_, e)| [Kind::Integrity, Kind::No].contains(&e.kind()));
        let red = self.judged.iter().filter(|j| j.outcome != "pass").count();
        let code = match (refused.map(|at| self.lost[at].1.kind()), red, missing.is_empty()) {
            (Some(Kind::Integrity), ..) => Kind::Integrity.exit_code(),
            (Some(_), ..) => Kind::No.exit_code(),
            (None, 1.., _) => Kind::No.exit_code(),
            (None, 0, false) => Kind::CouldNotRun.exit_code(),
            (None, 0, true) => 0,
        };
        // Nothing came of it: then the reason is the answer.
        if self.judged.is_empty() && !missing.is_empty() {
            let at = refused.unwrap_or(0);
            if at < self.lost.len() {
                let (host, e) = self.lost.swap_remove(at);
                return Err(e.about(&self.runners[host].name));
            }
        }
        let hosts: Vec<Value> = self
            .runners
            .iter()
            .enumerate()
            .map(|(i, runner)| {
                let hello = self.hellos.get(&i);
                json!({
                    "runner": runner.name,
                    "host": hello.map(|h| &h.host),
                    "arch": hello.map(|h| &h.arch),
                    "key": hello.map(|h| h.key.to_string()),
                    "judged": self.judged.iter().filter(|j| !j.earlier && j.runner == runner.name).count(),
                    "error": self.lost.iter().find(|(host, _)| *host == i).map(|(_, e)| e.to_json()),
                })
            })
            .collect();
        if self.verify.json {
            output::json(
                "assay.verify-remote/1",
                json!({ "exit": code, "verdicts": self.judged, "hosts": hosts, "unanswered": missing }),
            )?;
            return Ok(code);
        }
        for judged in self.judged.iter().filter(|j| j.earlier) {
            output::println(judged.text())?;
        }
        for (host, e) in &self.lost {
            output::error(
                &Error::new(e.code(), format!("{}: {}", self.runners[*host].name, e.what()))
                    .expected(e.expected_text().unwrap_or("an answer to what was asked"))
                    .found(e.found_text().unwrap_or("none"))
                    .hint(e.hint_text().unwrap_or("assay explain shows what the code means")),
            );
        }
        let passed = self.judged.len() - red;
        let mut text = format!("\n{} of {} pass", passed, count(wanted.len(), "node"));
        if red > 0 {
            text += &format!(", {red} do not");
        }
        if !missing.is_empty() {
            text += &format!("; not judged: {}", missing.join(", "));
        }
        output::println(text)?;
        Ok(code)
    }
}

fn judged(node: &Node, verdict: &records::Verdict, runner: &str, row: Option<u64>, earlier: bool) -> Judged {
    let reason = match &verdict.outcome {
        Outcome::Pass => None,
        Outcome::Red { stage, reason, .. } => Some(format!("stage {} ({}): {reason}", stage.number(), stage.name())),
        Outcome::Indeterminate { reason } => Some(reason.clone()),
    };
    let (class, arch) = (verdict.class, verdict.binding.arch.clone());
    let outcome = verdict.outcome.name();
    Judged { node: node.clone(), outcome, reason, class, arch, runner: runner.into(), row, earlier }
}

impl Judged {
    fn text(&self) -> String {
        let mark = match (self.outcome, self.class) {
            ("pass", Class::Device) => "green".green().to_string(),
            ("pass", _) => "pass ".green().to_string(),
            ("red", _) => "RED  ".red().bold().to_string(),
            _ => "?    ".yellow().to_string(),
        };
        let row = self.row.map_or(String::new(), |row| format!(", row {row}"));
        let reason = self.reason.as_ref().map_or(String::new(), |r| format!("\n      {}", r.replace('\n', "\n      ")));
        format!("{mark} {:<28} {} on {}{row}{reason}", self.node.to_string(), self.arch, self.runner)
    }
}
