//! `build` and `verify`. What is judged is a copy of `kernels/` that nobody else can reach: it cannot change under the
//! judge's hands, and holds no link.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, MutexGuard, TryLockError};

use serde::Deserialize;
use serde_json::{Value, json};

use super::folder::Entry;
use super::tool::{EXCERPT, Ruling, TOOL_BUSY, cap, printable, untrusted};
use super::{Desk, Hands, NUMERICS, Of, ToolError, ToolResult, Where};
use crate::backend::emulator::codes;
use crate::error::{Error, Kind, Result};
use crate::history;
use crate::ledger::{ClosureSource, Config, Evidence, Seed, Target, confined};
use crate::ops::{self, Node};
use crate::plan::Numerics;
use crate::plan::kernels::{KernelTree, is_begun};
use crate::report::standing;
use crate::verify::binding::Workshop;
use crate::verify::places::{CudaPlace, EmulatorPlace, NvrtcCompilers};
use crate::verify::prefill::Baselines;
use crate::verify::{Compilers, Judge, Outcome, Place, Stage, Summary, Verdict, is_kernels_fault, record, source};
use crate::workbench::Workbench;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    #[serde(default)]
    node: Option<String>,
    #[serde(default)]
    thorough: bool,
}

/// What led to a verdict: digests for the informative part of its row.
#[derive(Clone, Debug, Default)]
pub struct Provenance {
    pub prompt: String,
    pub transcript: String,
    /// What whoever asks calls the attempt, which is kept under that number if it is free.
    pub attempt: Option<u64>,
}

/// A verdict, and what became of it.
#[derive(Clone, Debug)]
pub struct Judged {
    pub verdict: Verdict,
    /// Its row in the ledger, where it was recorded.
    pub row: Option<u64>,
    /// The evidence that was signed.
    pub evidence: Option<String>,
    /// The ref that keeps a red attempt.
    pub attempt: Option<String>,
    /// Refused before there was anything that a row could bind.
    pub unbound: bool,
    /// Why there is no row, or no attempt with the source, though there should be; among the notes too.
    pub unkept: Option<String>,
    /// Things to be said beside it: why it was not recorded, files that were left out.
    pub notes: Vec<String>,
}

impl Judged {
    /// The same as the tool's answer.
    pub(super) fn result(&self) -> ToolResult {
        ToolResult { judged: vec![self.ruling()], ..ToolResult::new(self.text(), self.document()) }
    }

    pub(super) fn ruling(&self) -> Ruling {
        Ruling { outcome: self.verdict.summary().name(), green: self.verdict.is_green(), row: self.row }
    }

    fn not_kept(&mut self, why: String) {
        self.notes.push(why.clone());
        self.unkept = Some(why);
    }

    pub fn passed(&self) -> bool {
        self.verdict.summary() == Summary::Pass
    }

    /// The verdict as an agent gets it.
    pub fn document(&self) -> Value {
        let v = &self.verdict;
        let first_bad = v.red().and_then(|s| match &s.outcome {
            Outcome::Red { first_bad: Some(bad), .. } => serde_json::to_value(bad).ok(),
            _ => None,
        });
        let stages: Vec<Value> = v
            .stages
            .iter()
            .map(|s| {
                let outcome = match &s.outcome {
                    Outcome::Pass => "pass",
                    Outcome::Red { .. } => "red",
                    Outcome::Indeterminate { .. } => "indeterminate",
                    Outcome::NotRun { .. } => "not_run",
                };
                json!({ "stage": s.stage.number(), "name": s.stage.name(), "outcome": outcome })
            })
            .collect();
        let unit = v.stages.iter().find(|s| s.stage == Stage::Unit);
        let wanted = ["cases", "relative_rms", "honest_relative_rms", "limit", "max_abs"];
        let figures: Vec<Value> = unit
            .into_iter()
            .flat_map(|s| s.figures.iter())
            .take(8)
            .map(|(variant, f)| {
                let mut out = json!({ "variant": variant });
                for name in wanted {
                    if let Some(value) = f.get(name) {
                        out[name] = value.clone();
                    }
                }
                out
            })
            .collect();
        json!({
            "node": v.node.to_string(),
            "summary": v.summary(),
            "green": v.is_green(),
            "class": v.class,
            "arch": v.arch,
            "reason": v.reason().map(|r| cap(printable(&r), 2000)),
            "first_bad": first_bad,
            "stages": stages,
            "unit": figures,
            "seed": v.seed,
            "row": self.row,
            "attempt": self.attempt,
            "unbound": self.unbound,
            "notes": self.notes.iter().take(8).map(|n| cap(n.clone(), 300)).collect::<Vec<_>>(),
            "seconds": (v.seconds * 10.0).round() / 10.0,
        })
    }

    /// The same in words.
    pub fn text(&self) -> String {
        let v = &self.verdict;
        let word = match (v.summary(), v.is_green()) {
            (_, true) => "GREEN",
            (Summary::Pass, _) => "PASS on the emulator, which is not green",
            (Summary::Red, _) => "RED",
            (Summary::Indeterminate, _) => "INDETERMINATE: it could not be told",
        };
        let mut out = format!("{}: {word}\n", v.node);
        if let Some(reason) = v.reason() {
            out += &untrusted(
                "the judge's reason, which may repeat what a compiler or a kernel wrote",
                &cap(reason, 4000),
            );
        }
        if let Some(Outcome::Red { first_bad: Some(bad), .. }) = v.red().map(|s| &s.outcome) {
            out += &format!("first bad: {bad}\n");
        }
        match v.unit_error() {
            Some(error) => out += &format!("worst relative RMS error: {error:.2e}\n"),
            None if v.stages.iter().any(|s| s.stage == Stage::Unit) => {
                out += "worst relative RMS error: no figure was taken\n";
            }
            None => {}
        }
        let kept = match (self.row, &self.attempt) {
            (Some(row), Some(attempt)) => format!("recorded as row {row}, the attempt as {attempt}\n"),
            (Some(row), None) => format!("recorded as row {row}\n"),
            (None, Some(attempt)) => format!("refused before a binding: no row; the attempt is kept as {attempt}\n"),
            (None, None) if self.unbound => "refused before a binding: no row\n".into(),
            (None, None) => "not recorded\n".into(),
        };
        out += &kept;
        for note in &self.notes {
            out += &format!("note: {}\n", cap(printable(note), 300));
        }
        out
    }
}

/// What is said of a red attempt whose commit could not be made.
pub fn unkept(e: &Error) -> String {
    with_next("the attempt's source was not kept", e)
}

fn with_next(what: &str, e: &Error) -> String {
    let next = e.hint_text().map_or(String::new(), |hint| format!(" ({hint})"));
    format!("{what}: {}{next}", e.what())
}

/// A private copy of `kernels/` with the workbench's settings.
pub(super) struct Copied {
    pub(super) dir: tempfile::TempDir,
    left_out: Vec<Entry>,
}

impl Copied {
    fn notes(&self) -> Vec<String> {
        let note = |e: &Entry| format!("kernels/{} was left out: {}", e.path, e.problem.unwrap_or("it cannot be read"));
        self.left_out.iter().map(note).collect()
    }

    /// Takes out manifests of other nodes that cannot be read: theirs is not this node's fault, and a schedule with one in
    /// it cannot be made.
    pub(super) fn drop_broken(&mut self, node: &Node) -> Result<()> {
        let own = [node.file_stem(), node.op.clone()];
        let tree = KernelTree::open(&self.kernels())?;
        for (stem, _) in tree.broken().filter(|(stem, _)| !own.iter().any(|o| o == stem)) {
            let path = self.kernels().join(format!("{stem}.toml"));
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
            let problem = Some("its manifest is broken");
            self.left_out.push(Entry { path: format!("{stem}.toml"), bytes: 0, problem });
        }
        Ok(())
    }

    pub(super) fn kernels(&self) -> std::path::PathBuf {
        self.dir.path().join("kernels")
    }
}

impl Desk {
    pub(super) fn copied(&self) -> Result<Copied> {
        let dir = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
        let kernels = dir.path().join("kernels");
        std::fs::create_dir(&kernels).map_err(|e| Error::io(&kernels, e))?;
        let left_out = self.folder().snapshot(dir.path())?;
        // compute-sanitizer's child finds its kernels by it.
        let settings = dir.path().join(Workbench::FILE);
        std::fs::write(&settings, "model = \"\"\n").map_err(|e| Error::io(&settings, e))?;
        Ok(Copied { dir, left_out })
    }

    /// The place for verdicts. What is under way there ends with `halt`.
    fn place(&self, halt: &Arc<AtomicBool>) -> Result<Box<dyn Place>> {
        let architectures = &self.bench.settings.architectures;
        if self.options.place != Where::Emulator {
            match CudaPlace::new(architectures) {
                Ok(mut place) => {
                    place.halt_by(halt);
                    return Ok(Box::new(place));
                }
                Err(e) if self.options.place == Where::Device || e.kind() != Kind::CouldNotRun => return Err(e),
                Err(_) => {}
            }
        }
        let mut place = EmulatorPlace::new()?;
        place.halt_by(halt);
        Ok(Box::new(place))
    }

    pub(super) fn build(&self, ask: Of, hands: &Hands<'_>) -> Result<ToolResult, ToolError> {
        let node = self.own(ask.node.as_deref())?;
        let copied = self.copied()?;
        let mut notes = copied.notes();
        match hands.watched(|halt| self.compile(&node, &copied.kernels(), &mut notes, halt)) {
            Ok(built) => {
                let mut text = format!("{node} compiles: {}\n", built.join("; "));
                for note in &notes {
                    text += &format!("note: {}\n", printable(note));
                }
                text += "That says nothing about what it computes: verify does.\n";
                Ok(ToolResult::new(text, json!({ "node": node, "ok": true, "built": built, "notes": notes })))
            }
            Err(e) if is_kernels_fault(&e) => {
                let said = cap(e.to_string(), EXCERPT);
                let mut text = format!("{node} does not build [{}]\n", e.code().id);
                text += &untrusted("a compiler's output, or the text of a kernel", &said);
                for note in &notes {
                    text += &format!("note: {}\n", printable(note));
                }
                let data = json!({
                    "node": node, "ok": false, "code": e.code().id, "notes": notes,
                    "output": cap(printable(&said), EXCERPT / 2),
                });
                Ok(ToolResult::new(text, data))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Text and manifest, then every compiler that is there. What could not run is a note; if nothing could, an error.
    fn compile(
        &self,
        node: &Node,
        kernels: &Path,
        notes: &mut Vec<String>,
        halt: &Arc<AtomicBool>,
    ) -> Result<Vec<String>> {
        let tree = KernelTree::open(kernels)?;
        let kernel = tree.require(node)?;
        let sources = tree.source(&kernel)?;
        let op = ops::find(&node.op).ok_or_else(|| Error::internal(format!("no op {node}")))?;
        let faults = source::faults(&sources, kernel.manifest, op.contract());
        if !faults.is_empty() {
            return Err(Error::new(&crate::plan::rules::SOURCE_RULE, faults.join("; ")));
        }
        let mut entries: Vec<String> = kernel
            .manifest
            .variants
            .iter()
            .filter(|v| v.covers_types(node))
            .flat_map(|v| v.launches.iter().map(|l| l.entry.clone()))
            .collect();
        entries.sort();
        entries.dedup();
        let mut built = Vec::new();
        let mut missing = None;
        match NvrtcCompilers::new(&self.bench.settings.architectures) {
            Ok(mut nvrtc) => {
                nvrtc.halt_by(halt);
                for (arch, figures) in nvrtc.build_all(&sources, &entries)? {
                    // The rest is about the compiler, or an architecture that it does not know.
                    let Some(entries) = figures.as_array() else { continue };
                    let used = |f: &Value| Some(format!("{} registers", f.get("registers")?.as_u64()?));
                    let used: Vec<_> = entries.iter().filter_map(used).collect();
                    built.push(format!("{arch} {}", used.join(", ")).trim_end().to_string());
                }
            }
            Err(e) if e.kind() == Kind::CouldNotRun => {
                notes.push(format!("not built for {}: {}", self.bench.settings.architectures.join(", "), e.what()));
                missing = Some(e);
            }
            Err(e) => return Err(e),
        }
        match EmulatorPlace::new() {
            Ok(mut place) => {
                place.halt_by(halt);
                place.build(&sources, &entries)?;
                built.push("the emulator".into());
            }
            Err(e) if e.kind() == Kind::CouldNotRun && missing.is_none() => notes.push(e.what().to_string()),
            Err(e) => return Err(e),
        }
        Ok(built)
    }

    pub(super) fn verify(&self, ask: Verify, hands: &Hands<'_>) -> Result<ToolResult, ToolError> {
        let node = self.own(ask.node.as_deref())?;
        let judged = match self.judge(&node, ask.thorough, hands) {
            // Without a compiler the hosts' word is the only one.
            Err(e) if self.options.away.is_some() && e.code().id == codes::NO_COMPILER.id => None,
            judged => Some(judged?),
        };
        if let Some(away) = self.options.away.as_ref().filter(|_| judged.as_ref().is_none_or(Judged::passed)) {
            return Ok(self.verify_away(&node, away, ask.thorough, judged, hands)?);
        }
        let judged = judged.ok_or_else(|| Error::internal("a verdict that nobody made"))?;
        Ok(judged.result())
    }

    /// Verdicts are made one at a time.
    pub(super) fn only_one(&self) -> Result<MutexGuard<'_, ()>> {
        match self.judging.try_lock() {
            Ok(one) => Ok(one),
            Err(TryLockError::Poisoned(e)) => Ok(e.into_inner()),
            Err(TryLockError::WouldBlock) => {
                Err(Error::new(&TOOL_BUSY, "a verdict is being made already").hint("wait for it"))
            }
        }
    }

    /// Judges a node's kernel as it is now, and records the verdict where this desk records.
    pub fn judge(&self, node: &Node, thorough: bool, hands: &Hands<'_>) -> Result<Judged> {
        let _one = self.only_one()?;
        let mut copied = self.copied()?;
        copied.drop_broken(node)?;
        let verdict = hands.watched(|halt| self.verdict(node, thorough, hands, &copied, halt))?;
        let notes = copied.notes();
        let mut judged =
            Judged { verdict, row: None, evidence: None, attempt: None, unbound: false, unkept: None, notes };
        if let Some(recorder) = &self.options.record
            && let Err(e) = self.record(&mut judged, node, copied.dir.path(), recorder.key.as_deref(), hands)
        {
            // Damage to the ledger is no footnote.
            if e.kind() == Kind::Integrity {
                return Err(e);
            }
            judged.not_kept(with_next("not recorded", &e));
        }
        Ok(judged)
    }

    /// The judge's word on a copy of the kernels.
    fn verdict(
        &self,
        node: &Node,
        thorough: bool,
        hands: &Hands<'_>,
        copied: &Copied,
        halt: &Arc<AtomicBool>,
    ) -> Result<Verdict> {
        let tree = KernelTree::open(&copied.kernels())?;
        let place = self.place(halt)?;
        let mut nvrtc = NvrtcCompilers::new(&self.bench.settings.architectures);
        if let Ok(nvrtc) = &mut nvrtc {
            nvrtc.halt_by(halt);
        }
        let seed = Seed::random()?.0;
        let baselines = Baselines::new(&self.model, seed);
        let judge = Judge {
            model: &self.model,
            tree: &tree,
            place: &*place,
            compilers: nvrtc.as_ref().ok().map(|c| c as &dyn Compilers),
            baselines: &baselines,
            numerics: NUMERICS.to_vec(),
            thorough,
            seed,
            stop: halt,
            progress: hands.progress,
            sanitize: Some(copied.dir.path()),
            shared: None,
            through: Stage::Sanitizer,
        };
        judge.judge(node, &[])
    }

    /// Signs the verdict and appends it to the ledger. A red one is kept as an attempt first, with the tree that was judged.
    fn record(
        &self,
        judged: &mut Judged,
        node: &Node,
        copy: &Path,
        key: Option<&str>,
        hands: &Hands<'_>,
    ) -> Result<()> {
        let key = Config::of_user()?.outside(&self.bench.root)?.key(key)?;
        let tree = Workshop::new(&self.model)?.tree(&copy.join("kernels"))?;
        let binding = match tree.binding(node, &judged.verdict.arch, Numerics::Ds4) {
            Ok(binding) => binding,
            Err(e) => return self.refused(judged, node, copy, &e, hands),
        };
        let about = self.about_verdicts();
        let mut statement =
            record::statement(&judged.verdict, Target::Node(node.clone()), binding, BTreeMap::new(), &about)?;
        statement.informative.prompt = hands.provenance.prompt.clone();
        statement.informative.transcript = hands.provenance.transcript.clone();
        let evidence: Evidence = record::evidence(statement, &key)?;
        let asked = standing::trust(&self.bench.root, None, &mut judged.notes)?.sandbox();
        confined::demand_all(&evidence, asked)?;
        // The row first: it is what a run that was cut short looks for, and from it the attempt can be kept still.
        let rows = history::open(&self.bench.root)?.append(std::slice::from_ref(&evidence), &key)?;
        judged.row = rows.first().copied();
        if judged.verdict.summary() == Summary::Red {
            let (target, number) = (Target::Node(node.clone()), hands.provenance.attempt);
            match history::record_attempt_of(&self.bench.root, copy, &target, &evidence, number) {
                Ok(attempt) => judged.attempt = attempt.map(|a| a.reference),
                Err(e) => judged.not_kept(unkept(&e)),
            }
        }
        judged.evidence = Some(evidence.digest().to_string());
        Ok(())
    }

    /// What has no usable kernel binds nothing, and no row can be made of it. It was tried all the same: a refusal is kept
    /// as every red attempt is, and says what it is.
    fn refused(&self, judged: &mut Judged, node: &Node, copy: &Path, unbound: &Error, hands: &Hands<'_>) -> Result<()> {
        let red = judged.verdict.red().filter(|_| is_begun(&copy.join("kernels"), node));
        let Some(red) = red else {
            judged.notes.push(format!("not recorded: it binds nothing ({})", unbound.what()));
            return Ok(());
        };
        judged.unbound = true;
        let (stage, reason) = (red.stage, judged.verdict.reason().unwrap_or_default());
        let Provenance { transcript, attempt, .. } = hands.provenance;
        match history::record_refusal(&self.bench.root, copy, node, (stage, &reason), transcript, *attempt) {
            Ok(attempt) => judged.attempt = attempt.map(|a| a.reference),
            Err(e) => judged.not_kept(unkept(&e)),
        }
        Ok(())
    }

    /// Keeps the kernels as they are as the attempt of a red row, unless they are kept already.
    pub fn keep_attempt(&self, node: &Node, evidence: &Evidence, number: u64) -> Result<()> {
        let red =
            evidence.statement().verdict().is_some_and(|v| matches!(v.outcome, crate::ledger::Outcome::Red { .. }));
        if red && !history::has_attempt(&self.bench.root, node, &evidence.digest())? {
            let target = Target::Node(node.clone());
            history::record_attempt_of(&self.bench.root, self.copied()?.dir.path(), &target, evidence, Some(number))?;
        }
        Ok(())
    }

    fn about_verdicts(&self) -> record::About {
        let file = self.model.path().file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
        let note = self.model.weights_note().map_or(String::new(), |n| format!(", weights {n}"));
        let commit = history::Repo::find(&self.bench.root).ok().flatten().and_then(|r| r.head_id().ok().flatten());
        record::About {
            commit: commit.unwrap_or_default(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            model: format!("{file}{note}"),
        }
    }
}
