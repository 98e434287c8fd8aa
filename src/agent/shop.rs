//! What the loop needs of a workbench, and how the desk gives it.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::{Map, Value};

use super::context::{self, Brief};
use super::desk::away::Away;
use super::desk::{self, Desk, Hands, Provenance, Quiet, Where};
use super::endpoint::{Message, ToolSpec};
use super::events::Judged;
use super::{landing, stuck};
use crate::error::{Error, Kind, Result};
use crate::history::{self, LandRequest};
use crate::ledger::{self, Config, Digest, Evidence, Row, Stage, Target, Trust};
use crate::ops::Node;
use crate::plan::Numerics;
use crate::report::gate::{Goal, gates};
use crate::report::proof::State as Proved;
use crate::verify::places::{CudaPlace, EmulatorPlace};
use crate::verify::{Outcome, Progress, record};

/// A tool's answer as the model gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub ok: bool,
    pub text: String,
    /// The model reached for what is not its own.
    pub refused: bool,
}

/// A judgement, and what the model is told of it.
pub struct Word {
    pub judged: Judged,
    pub text: String,
    /// What the failure is called, see [`stuck::failure`].
    pub failure: Option<String>,
}

/// How a kernel is to be judged.
pub struct Order<'o> {
    /// On the device; else on the emulator.
    pub device: bool,
    /// Every size and every length.
    pub thorough: bool,
    pub provenance: &'o Provenance,
    /// Ends it early: an unfinished verdict is none, and an error of kind `Interrupted`.
    pub stop: &'o AtomicBool,
    /// The same, at a point in time.
    pub until: Option<Instant>,
}

/// One workbench, as far as the loop reaches. A second implementation stands in tests.
pub trait Shop {
    /// Tools that a model may call, beside the loop's own.
    fn tools(&self) -> Vec<ToolSpec>;
    fn choose(&mut self, node: &Node) -> Result<()>;
    /// The next node to work on that is not among `ended`, and why it is.
    fn next(&mut self, ended: &[&Node]) -> Result<Option<(Node, String)>>;
    fn call(&mut self, name: &str, arguments: &Map<String, Value>) -> Result<Reply>;
    /// The same, ended early by the flag or at a point in time: an error of kind `Interrupted`.
    fn call_until(
        &mut self,
        name: &str,
        arguments: &Map<String, Value>,
        _stop: &AtomicBool,
        _until: Option<Instant>,
    ) -> Result<Reply> {
        self.call(name, arguments)
    }
    /// The files of a node's kernel, as they are now.
    fn source(&self, node: &Node) -> Result<Vec<(String, String)>>;
    /// A file below kernels/ that may be the node's to write; none where there is none. Errors: no agent reaches it.
    fn file(&self, path: &str) -> Result<Option<String>>;
    /// Judges the node's kernel.
    fn judge(&mut self, node: &Node, order: &Order<'_>) -> Result<Word>;
    /// A judgement of this attempt that an earlier process recorded under this transcript.
    fn recorded(&mut self, node: &Node, transcript: &Digest, attempt: u64) -> Result<Option<Word>>;
    /// The number of the last attempt at the node that is on record, whoever made it; 0: there is none.
    fn last_attempt(&self, node: &Node) -> Result<u64>;
    /// Commits a green node; gives the commit.
    fn land(&mut self, node: &Node) -> Result<String>;
    /// The commit that landed the node with its kernel as it is, if there is one.
    fn landed(&mut self, node: &Node) -> Result<Option<String>>;
    fn context(&mut self, brief: &Brief<'_>) -> Result<Vec<Message>>;
    /// A proved kernel that has most in common with the node.
    fn neighbour(&mut self, node: &Node) -> Result<Option<(Node, String)>>;
    fn emulator(&self) -> bool;
    fn device(&self) -> bool;
}

/// The error of each variant beside what was allowed, where cases were compared.
fn allowed(judged: &desk::Judged) -> String {
    let document = judged.document();
    let mut out = String::new();
    for unit in document["unit"].as_array().into_iter().flatten() {
        let figure = |name: &str| unit[name].as_f64().map(|v| format!("{v:.2e}"));
        if let (Some(error), Some(limit)) = (figure("relative_rms"), figure("limit")) {
            let variant = desk::cap(desk::printable(unit["variant"].as_str().unwrap_or_default()), 80);
            out += &format!("variant {variant}: relative RMS {error}, allowed {limit}\n");
        }
    }
    out
}

/// A judgement in words. What it was judged for may repeat what a compiler or a kernel wrote.
fn framed(judged: &Judged) -> String {
    desk::untrusted(
        &format!("the verdict on {}, which may repeat what a compiler or a kernel wrote", judged.node),
        &judged.words(),
    )
}

/// A judgement as its evidence has it, and what its failure is called.
fn told(node: &Node, evidence: &Evidence, row: Option<u64>) -> Result<(Judged, Option<String>)> {
    let verdict = evidence.statement().verdict();
    let v = verdict.ok_or_else(|| Error::internal(format!("evidence on {node} without a verdict")))?;
    let (outcome, stage, reason, first_bad) = match &v.outcome {
        ledger::Outcome::Pass => ("pass", None, None, None),
        ledger::Outcome::Red { stage, reason, first_bad } => {
            ("red", Some(stage.name().to_string()), Some(reason.clone()), Some(first_bad.clone()))
        }
        ledger::Outcome::Indeterminate { reason } => ("indeterminate", None, Some(reason.clone()), None),
    };
    let cut = |text: String| desk::cap(desk::printable(&text), 2000);
    let failure = stuck::failure_of(&v.outcome);
    let judged = Judged {
        node: node.clone(),
        class: v.class.name().into(),
        arch: v.binding.arch.clone(),
        outcome: outcome.into(),
        stage,
        reason: reason.map(cut),
        first_bad: first_bad.map(cut),
        error: v.worst(ledger::figure::REL_RMS).map(|e| format!("{e:.3e}")),
        green: v.class == ledger::Class::Device && v.complete(),
        row,
        evidence: Some(evidence.digest().to_string()),
        unbound: false,
        unkept: None,
        seconds: 0,
    };
    Ok((judged, failure))
}

/// A note that may repeat a path, fit for a log.
fn said(note: String) -> String {
    desk::cap(desk::printable(&note), 600)
}

/// A kernel that was refused before any host was asked.
fn unbound(node: &Node, arch: &str, reason: String, unkept: Option<String>) -> Word {
    let outcome = ledger::Outcome::Red { stage: Stage::Source, reason: reason.clone(), first_bad: String::new() };
    let judged = Judged {
        node: node.clone(),
        class: ledger::Class::Device.name().into(),
        arch: arch.into(),
        outcome: outcome.name().into(),
        stage: Some(Stage::Source.name().into()),
        reason: Some(desk::cap(desk::printable(&reason), 2000)),
        first_bad: None,
        error: None,
        green: false,
        row: None,
        evidence: None,
        unbound: true,
        unkept: unkept.map(said),
        seconds: 0,
    };
    let mut text = format!("{}refused before a binding: no row\n", framed(&judged));
    judged.unkept.iter().for_each(|why| text += &format!("note: {why}\n"));
    Word { failure: stuck::failure_of(&outcome), text, judged }
}

/// The real one.
pub struct DeskShop<'d> {
    desk: Desk,
    config: Option<Config>,
    trust: Trust,
    key: Option<String>,
    emulator: bool,
    device: Option<String>,
    /// Hosts that judge instead of a device here, and the architecture of the one that was asked first.
    away: Option<(Away, String)>,
    progress: &'d dyn Progress,
}

impl<'d> DeskShop<'d> {
    /// Finds out what kernels can be judged on; a host that is named has to answer, and to be trusted. Errors: on nothing.
    pub fn new(
        desk: Desk,
        config: Option<Config>,
        trust: Trust,
        key: Option<String>,
        away: Option<Away>,
        progress: &'d dyn Progress,
    ) -> Result<DeskShop<'d>> {
        let device = match CudaPlace::new(&desk.bench().settings.architectures) {
            Ok(place) => Some(crate::verify::Place::arch(&place).to_string()),
            Err(e) if e.kind() == Kind::CouldNotRun => None,
            Err(e) => return Err(e),
        };
        let emulator = match EmulatorPlace::new() {
            Ok(_) => true,
            Err(e) if (device.is_some() || away.is_some()) && e.kind() == Kind::CouldNotRun => false,
            Err(e) => return Err(e.hint("without a C++ compiler or a GPU no kernel can be judged; assay doctor")),
        };
        let away = match away {
            None => None,
            Some(away) => {
                let (stop, provenance) = (AtomicBool::new(false), Provenance::default());
                let hello =
                    desk.greet(&away, &trust, &Hands { progress, stop: &stop, until: None, provenance: &provenance })?;
                Some((away, hello.arch))
            }
        };
        Ok(DeskShop { desk, config, trust, key, emulator, device, away, progress })
    }

    /// What kernels are judged on, in words.
    pub fn place(&self) -> String {
        let device = match (&self.away, &self.device) {
            (Some((away, arch)), _) => {
                let names: Vec<_> = away.runners.iter().map(|r| r.name.as_str()).collect();
                format!("the {arch} of {}", names.join(" or "))
            }
            (None, Some(arch)) => format!("this machine's {arch}"),
            (None, None) => return "the CPU emulator; there is no device here, so nothing can turn green".into(),
        };
        match self.emulator {
            true => format!("the CPU emulator, then {device}"),
            false => device,
        }
    }

    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    fn word(judged: desk::Judged, text: String, node: &Node) -> Word {
        let v = &judged.verdict;
        let (stage, reason, first_bad) = match v.red() {
            Some(report) => match &report.outcome {
                Outcome::Red { reason, first_bad } => (
                    Some(report.stage.name().to_string()),
                    Some(reason.clone()),
                    first_bad.as_ref().map(ToString::to_string),
                ),
                _ => (None, None, None),
            },
            None => (None, v.reason(), None),
        };
        let cut = |text: String| desk::cap(desk::printable(&text), 2000);
        let outcome = v.summary().name();
        let failure = stuck::failure_of(&record::outcome(v));
        let word = Judged {
            node: node.clone(),
            class: v.class.name().into(),
            arch: v.arch.clone(),
            outcome: outcome.into(),
            stage,
            reason: reason.filter(|_| outcome != "pass").map(cut),
            first_bad: first_bad.map(cut),
            error: v.unit_error().map(|e| format!("{e:.3e}")),
            green: v.is_green(),
            row: judged.row,
            evidence: judged.evidence.clone(),
            unbound: judged.unbound,
            unkept: judged.unkept.clone().map(said),
            seconds: v.seconds.round() as u64,
        };
        Word { judged: word, text, failure }
    }
}

impl Shop for DeskShop<'_> {
    fn tools(&self) -> Vec<ToolSpec> {
        let tools = self.desk.tools().iter();
        let spec =
            |t: &desk::Tool| ToolSpec { name: t.name.into(), description: t.description.into(), schema: t.schema() };
        tools.map(spec).collect()
    }

    fn choose(&mut self, node: &Node) -> Result<()> {
        self.desk.choose(node.clone())
    }

    fn next(&mut self, ended: &[&Node]) -> Result<Option<(Node, String)>> {
        let (status, _) = self.desk.standing()?;
        for gate in gates(self.desk.bench(), &status) {
            let node = &gate.usage.node;
            // What only a device, or the user's trust, can turn green is no work for a model.
            let done = match gate.state {
                Proved::Untrusted => true,
                Proved::Emulated => !self.device(),
                _ => false,
            };
            if !done && !ended.contains(&node) {
                let left = match Goal::of(self.desk.bench(), &status) {
                    Some(goal) => format!("{} of {} nodes that are ported here", goal.nodes - goal.green, goal.nodes),
                    None => format!("{} of {} nodes", status.gates().len(), status.nodes.len()),
                };
                let why = format!("{}; {left} are not green", gate.detail());
                return Ok(Some((node.clone(), why)));
            }
        }
        Ok(None)
    }

    fn call(&mut self, name: &str, arguments: &Map<String, Value>) -> Result<Reply> {
        self.call_until(name, arguments, &AtomicBool::new(false), None)
    }

    fn call_until(
        &mut self,
        name: &str,
        arguments: &Map<String, Value>,
        stop: &AtomicBool,
        until: Option<Instant>,
    ) -> Result<Reply> {
        let provenance = Provenance::default();
        let hands = Hands { progress: &Quiet, stop, until, provenance: &provenance };
        match self.desk.call_with(name, &Value::Object(arguments.clone()), &hands) {
            Err(e) if e.0.kind() == Kind::Interrupted => Err(e.0),
            Ok(result) => Ok(Reply { ok: true, text: result.text, refused: false }),
            // The ledger itself is damaged: nothing that a model could put right.
            Err(e) if e.0.kind() == Kind::Integrity && !e.code().starts_with("tool-") => Err(e.0),
            Err(e) => Ok(Reply { ok: false, refused: e.is_refusal(), text: e.text() }),
        }
    }

    fn source(&self, node: &Node) -> Result<Vec<(String, String)>> {
        let mut out = Vec::new();
        for stem in [node.file_stem(), node.op.clone()] {
            for ending in ["cu", "toml"] {
                let path = format!("{stem}.{ending}");
                if let Some(text) = self.desk.folder().read(&path)?
                    && !out.iter().any(|(p, _)| *p == path)
                {
                    out.push((path, text));
                }
            }
        }
        Ok(out)
    }

    fn file(&self, path: &str) -> Result<Option<String>> {
        self.desk.folder().read(path)
    }

    fn judge(&mut self, node: &Node, order: &Order<'_>) -> Result<Word> {
        let Order { device, thorough, provenance, stop, until } = *order;
        let hands = Hands { progress: self.progress, stop, until, provenance };
        if let Some((away, arch)) = self.away.as_ref().filter(|_| device) {
            // Where there is an emulator, it has said so before.
            if !self.emulator
                && let Some((reason, unkept)) = self.desk.unreadable(node, provenance)?
            {
                return Ok(unbound(node, arch, reason, unkept));
            }
            let fetched = self.desk.fetch(node, away, thorough, &self.trust, &hands)?;
            let (mut judged, failure) = told(node, &fetched.evidence, fetched.row)?;
            judged.unkept = fetched.unkept.map(said);
            let row = judged.row.map_or("not recorded\n".into(), |row| format!("recorded as row {row}\n"));
            let mut text = format!("{}judged by {}, {row}", framed(&judged), fetched.runner);
            for note in &fetched.notes {
                text += &format!("note: {}\n", desk::cap(desk::printable(note), 300));
            }
            return Ok(Word { text, failure, judged });
        }
        self.desk.move_to(if device { Where::Device } else { Where::Emulator });
        let judged = self.desk.judge(node, thorough, &hands)?;
        let text = judged.text() + &allowed(&judged);
        Ok(DeskShop::word(judged, text, node))
    }

    fn last_attempt(&self, node: &Node) -> Result<u64> {
        history::last_attempt(&self.desk.bench().root, node)
    }

    fn recorded(&mut self, node: &Node, transcript: &Digest, attempt: u64) -> Result<Option<Word>> {
        let ledger = history::read(&self.desk.bench().root)?;
        let mark = transcript.to_string();
        let of_mark = |row: &&Row| row.statement().verdict().is_some_and(|v| v.informative.transcript == mark);
        let Some(row) = ledger.rows().iter().find(of_mark) else { return Ok(None) };
        let (mut judged, failure) = told(node, &row.evidence, Some(row.seq))?;
        let text = format!("{}recorded as row {}\n", framed(&judged), row.seq);
        // What is in the way now would be with every resume.
        match self.desk.keep_attempt(node, &row.evidence, attempt) {
            Err(e) if e.kind() == Kind::CouldNotRun => judged.unkept = Some(said(desk::unkept(&e))),
            kept => kept?,
        }
        Ok(Some(Word { text, failure, judged }))
    }

    fn land(&mut self, node: &Node) -> Result<String> {
        let bench = self.desk.bench();
        let root = &bench.root;
        let config = self.config.clone();
        let request = LandRequest {
            nodes: &[Target::Node(node.clone())],
            what: None,
            numerics: Numerics::Ds4,
            arch: self.away.as_ref().map(|(_, arch)| arch.as_str()).or(self.device.as_deref()),
            writer: &|| match &config {
                Some(config) => config.clone().outside(root)?.key(self.key.as_deref()),
                None => Config::of_user()?.outside(root)?.key(self.key.as_deref()),
            },
        };
        let landed = landing::land(bench, self.desk.model(), node, &request, &self.trust)?;
        landed.first().map(|l| l.commit.clone()).ok_or_else(|| Error::internal("landing made no commit"))
    }

    fn landed(&mut self, node: &Node) -> Result<Option<String>> {
        let root = &self.desk.bench().root;
        let files: Vec<(String, String)> =
            self.source(node)?.into_iter().map(|(path, text)| (format!("kernels/{path}"), text)).collect();
        history::landed_as(root, node, &files)
    }

    fn context(&mut self, brief: &Brief<'_>) -> Result<Vec<Message>> {
        context::render(&self.desk, brief)
    }

    fn neighbour(&mut self, node: &Node) -> Result<Option<(Node, String)>> {
        let (status, _) = self.desk.standing()?;
        let proved = |state: Proved| matches!(state, Proved::Green | Proved::Simulated | Proved::Emulated);
        let near = |other: &Node| {
            let begins = other.op.split('_').next() == node.op.split('_').next();
            // The same op for other types, then the same family, then whatever there is.
            (u8::from(other.op != node.op), u8::from(!begins))
        };
        let candidates = status.nodes.iter().filter(|n| proved(n.state) && n.usage.node != *node);
        let Some(best) = candidates.map(|n| &n.usage.node).min_by_key(|n| near(n)) else { return Ok(None) };
        let files = match self.source(best) {
            Err(e) if desk::is_planted(&e) => return Ok(None),
            files => files?,
        };
        let text: String = files.iter().map(|(path, text)| format!("kernels/{path}:\n{text}\n")).collect();
        Ok(Some((best.clone(), desk::untrusted(&format!("the kernel of {best}"), &desk::cap(text, 16 << 10)))))
    }

    fn emulator(&self) -> bool {
        self.emulator
    }

    fn device(&self) -> bool {
        self.device.is_some() || self.away.is_some()
    }
}
