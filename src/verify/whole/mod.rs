//! The verdict on a whole schedule: the only one that can say prefill_working (docs/stages.md).
//!
//! Every node may be right alone and the whole wrong: a buffer that two layers share, state that a chunk leaves for the
//! next one, a graph that replays yesterday's position. So the schedule is run as `run` runs it, over prompts whose
//! lengths and tokens come from a secret seed, and everything that can be checked is: each op instance in place, the
//! logits, and that the same tokens give the same logits however they are fed.
//!
//! Reading order: [`Whole::judge`] runs the stages, [`script`] says which steps are run, [`rig`] runs them,
//! [`logits`] compares.

mod logits;
mod rig;
mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rayon::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::compare::FirstBad;
use super::places::told;
use super::prefill::LARGE_MODEL;
use super::{Figures, Outcome, Place, Stage, StageReport, Target, Verdict, is_kernels_fault};
use crate::backend::executor::{Executor, entries};
use crate::backend::worker::Sandbox;
use crate::backend::{Module, Placement};
use crate::error::{Error, Result};
use crate::ledger::figure;
use crate::model::Model;
use crate::ops::draw::Draw;
use crate::plan::kernels::KernelTree;
use crate::plan::schedule::{Schedule, canonical};
use crate::plan::source::hex;
use crate::plan::{Numerics, Plan, PlanOptions};
use logits::{Book, Limits, Rows};
use rig::{Checks, InSitu, Rig};
use script::{Other, Script, Scripts};

/// What the prompts and comparisons of this module are: part of what a verdict binds.
pub const RULES: &str = "whole schedule 4";

/// Told what is being run.
pub type Tick<'t> = &'t dyn Fn(&str);

/// Everything that judging a schedule needs.
pub struct Whole<'w, 'm> {
    pub model: &'m Model,
    pub tree: &'w KernelTree,
    pub place: &'w dyn Place,
    /// The numerics to judge; a Pass needs all that the schedule exists for.
    pub numerics: Vec<Numerics>,
    pub thorough: bool,
    pub seed: [u8; 32],
    pub stop: &'w AtomicBool,
    pub tick: Tick<'w>,
}

/// A Red that is on its way out.
struct Fault {
    stage: Stage,
    reason: String,
    first_bad: Option<FirstBad>,
}

impl Fault {
    fn new(stage: Stage, reason: impl Into<String>) -> Fault {
        Fault { stage, reason: reason.into(), first_bad: None }
    }
}

/// What stages 6 and 7 gather.
#[derive(Default)]
struct Found {
    prefill: Figures,
    graph: Figures,
    left_out: Vec<String>,
    weak: Vec<String>,
}

/// Numerics for which every op of the plan has a kernel on `arch`, at every length of a step. Production numerics come
/// first, and are always among them.
pub fn numerics_of(model: &Model, tree: &KernelTree, arch: &str) -> Result<Vec<Numerics>> {
    let mut out = vec![Numerics::Ds4];
    match without_kernel(model, tree, arch, Numerics::Exact) {
        Ok(missing) if !missing.is_empty() => {}
        Ok(_) => out.push(Numerics::Exact),
        // A broken kernel excuses nothing: the build says what is wrong with it.
        Err(e) if is_kernels_fault(&e) => out.push(Numerics::Exact),
        Err(e) => return Err(e),
    }
    Ok(out)
}

/// Nodes that some step of this schedule would leave to the oracle.
fn without_kernel(model: &Model, tree: &KernelTree, arch: &str, numerics: Numerics) -> Result<BTreeSet<String>> {
    let plan = Plan::build(model, canonical(numerics))?;
    let mut missing = BTreeSet::new();
    for tokens in [1, crate::ops::cases::STEP_TOKENS] {
        let schedule = Schedule::lower(&plan, tree, arch, tokens)?;
        let absent = plan.instances.iter().zip(&schedule.choices).filter(|(_, c)| c.is_none());
        missing.extend(absent.map(|(i, _)| i.node.to_string()));
    }
    Ok(missing)
}

impl<'m> Whole<'_, 'm> {
    pub fn judge(&self) -> Result<Verdict> {
        let mut verdict = Verdict::begun(Target::Schedule, self.place, &self.seed);
        let started = Instant::now();
        self.stages(&mut verdict)?;
        // What was judged is not what its binding names otherwise.
        self.model.gguf.check_unchanged()?;
        verdict.seconds = started.elapsed().as_secs_f64();
        Ok(verdict)
    }

    fn stages(&self, verdict: &mut Verdict) -> Result<()> {
        let mut started = Instant::now();
        let mut end = |verdict: &mut Verdict, stage: Stage, outcome: Outcome, figures: Figures| {
            let seconds = started.elapsed().as_secs_f64();
            verdict.stages.push(StageReport { stage, outcome, figures, seconds });
            started = Instant::now();
        };
        let red = |fault: Fault| Outcome::Red { reason: fault.reason, first_bad: fault.first_bad };
        self.say("weights")?;
        end(verdict, Stage::Weights, Outcome::Pass, self.weights()?);

        self.say("build")?;
        let mut figures = Figures::new();
        let outcome = match self.build(&mut figures) {
            Ok(None) => Outcome::Pass,
            Ok(Some(fault)) => red(fault),
            Err(e) if is_kernels_fault(&e) => Outcome::Red { reason: e.to_string(), first_bad: None },
            Err(e) => return Err(e),
        };
        let stop = outcome != Outcome::Pass;
        end(verdict, Stage::Build, outcome, figures);
        if stop {
            return Ok(());
        }

        let mut found = Found::default();
        let mut fault = None;
        for numerics in &self.numerics {
            let ran = self.run(*numerics, &mut found, &mut verdict.digests);
            fault = match ran {
                Ok(fault) => fault,
                Err(e) if is_kernels_fault(&e) => Some(Fault::new(Stage::Prefill, format!("{}: {e}", numerics.name()))),
                Err(e) => return Err(e),
            };
            if fault.is_some() {
                break;
            }
        }
        for numerics in numerics_of(self.model, self.tree, self.place.arch())? {
            if !self.numerics.contains(&numerics) {
                let what = format!("numerics {} were left out", numerics.name());
                match self.place.placement() {
                    Placement::Device => found.weak.push(what),
                    _ => found.left_out.push(what),
                }
            }
        }
        if !found.left_out.is_empty() {
            found.prefill.insert("left_out".into(), json!(found.left_out));
        }
        let on_device = self.place.placement() == Placement::Device;
        let graph = |found: Found,
                     outcome: Outcome,
                     verdict: &mut Verdict,
                     end: &mut dyn FnMut(&mut Verdict, Stage, Outcome, Figures)| {
            end(verdict, Stage::Graph, outcome, found.graph);
        };
        match fault {
            Some(fault) if fault.stage == Stage::Graph => {
                end(verdict, Stage::Prefill, Outcome::Pass, std::mem::take(&mut found.prefill));
                graph(found, red(fault), verdict, &mut end);
            }
            Some(fault) => end(verdict, Stage::Prefill, red(fault), found.prefill),
            None if !found.weak.is_empty() => {
                let reason = found.weak.join("; ");
                end(verdict, Stage::Prefill, Outcome::Indeterminate { reason }, found.prefill);
            }
            None => {
                end(verdict, Stage::Prefill, Outcome::Pass, std::mem::take(&mut found.prefill));
                let outcome = match on_device {
                    true => Outcome::Pass,
                    false => Outcome::NotRun { reason: "could not run: no CUDA device".into() },
                };
                graph(found, outcome, verdict, &mut end);
            }
        }
        Ok(())
    }

    fn say(&self, what: &str) -> Result<()> {
        (self.tick)(what);
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::interrupted());
        }
        Ok(())
    }

    fn large(&self) -> bool {
        let total: u64 = self.model.gguf.tensors().iter().map(|t| self.model.gguf.bytes(t).len() as u64).sum();
        total > LARGE_MODEL
    }

    /// Stage 1: every tensor of the plan is there, in the type and shape that its ops have a contract for.
    fn weights(&self) -> Result<Figures> {
        let mut tensors = BTreeSet::new();
        for numerics in [Numerics::Ds4, Numerics::Exact] {
            let plan = Plan::build(self.model, canonical(numerics))?;
            tensors.extend(plan.instances.iter().flat_map(|i| i.weights.iter().flatten().cloned()));
        }
        let bytes: u64 = tensors.iter().filter_map(|t| self.model.tensor(t)).map(|t| t.bytes.len() as u64).sum();
        let mut figures = Figures::new();
        figures.insert("tensors".into(), json!(tensors.len()));
        figures.insert("bytes".into(), json!(bytes));
        if let Some(note) = self.model.weights_note() {
            figures.insert("weights".into(), json!(note));
        }
        Ok(figures)
    }

    /// Stage 3: every op of the plan has a kernel here, and all of them compile.
    fn build(&self, figures: &mut Figures) -> Result<Option<Fault>> {
        // By the entries that sessions ask for, so that theirs are found in the cache.
        let mut wanted: BTreeSet<(String, Vec<String>)> = BTreeSet::new();
        for numerics in &self.numerics {
            let arch = self.place.arch();
            let missing = without_kernel(self.model, self.tree, arch, *numerics)?;
            if !missing.is_empty() {
                let names: Vec<_> = missing.into_iter().collect();
                let reason = format!("no kernel on {arch} in numerics {}: {}", numerics.name(), names.join(", "));
                return Ok(Some(Fault::new(Stage::Build, reason)));
            }
            let plan = Plan::build(self.model, canonical(*numerics))?;
            let lower = |tokens| Schedule::lower(&plan, self.tree, arch, tokens);
            let schedules = [lower(1)?, lower(script::CHUNK)?];
            for choice in schedules.iter().flat_map(|s| s.choices.iter().flatten()) {
                wanted.insert((choice.stem.clone(), entries(&schedules, &choice.stem)));
            }
        }
        let modules = wanted.par_iter().map(|(stem, entries)| {
            let source = self.tree.source_of(stem)?;
            Ok((stem, self.place.build(&source, entries)?))
        });
        let mut cubins: BTreeMap<&String, Sha256> = BTreeMap::new();
        let mut confined: Option<Sandbox> = None;
        for (stem, built) in modules.collect::<Result<Vec<_>>>()? {
            confined = Some(confined.map_or(built.compiler.clone(), |least| least.shared(&built.compiler)));
            if let Module::Cubin(cubin) = built.module {
                cubins.entry(stem).or_default().update(cubin);
            }
        }
        let stems: BTreeSet<&String> = wanted.iter().map(|(stem, _)| stem).collect();
        let cubins: Figures = cubins.into_iter().map(|(k, v)| (k.clone(), json!(hex(&v.finalize())))).collect();
        figures.insert("kernels".into(), json!(stems.len()));
        if !cubins.is_empty() {
            figures.insert("cubins".into(), Value::Object(cubins));
        }
        figures.extend(self.place.describe());
        if let Some(confined) = confined {
            figures.insert(figure::COMPILER.into(), told(&confined)?);
        }
        Ok(None)
    }

    /// Stages 6 and 7 in one numerics.
    fn run(&self, numerics: Numerics, found: &mut Found, digests: &mut Figures) -> Result<Option<Fault>> {
        let device = self.place.placement() == Placement::Device;
        let large = self.large();
        let name = numerics.name();
        let bounds = self.bounds(numerics)?;
        let mut draw = Draw::new(&self.seed, &format!("whole {name}"));
        let scripts = Scripts::draw(self.model, &bounds, numerics, device, large, self.thorough, &mut draw);
        let tokens: Vec<u32> = (0..scripts.context).map(|_| draw.below(self.model.config.vocab) as u32).collect();
        let mut asked = Sha256::new();
        asked.update(RULES);
        asked.update(format!("{:?}", scripts.lists()));
        asked.update(bytemuck::cast_slice(&tokens));
        let mut told = Sha256::new();

        let mut book = Book::new(Limits::of(numerics, large));
        if scripts.oracle.is_none() {
            found.left_out.push(format!("{name}: logits against the oracle's, whose prefill of this file is slow"));
        }
        let (model, stop, enough) = (self.model, self.stop, AtomicBool::new(false));
        let (tokens, go_on) = (&tokens[..], || !stop.load(Ordering::Relaxed) && !enough.load(Ordering::Relaxed));
        let compute = |n: usize| oracle(model, numerics, &tokens[..n], &go_on);
        if let Some(n) = scripts.oracle.filter(|_| !large) {
            self.say(&format!("{name}: oracle"))?;
            book.oracle = Some(compute(n)?);
        }
        let ran = std::thread::scope(|scope| {
            // Of a large file it takes minutes, in which the device has enough to do.
            let late = scripts.oracle.filter(|_| large).map(|n| scope.spawn(move || aside(|| compute(n))));
            let ran = self.scripts(&scripts, numerics, tokens, found, &mut book, &mut told);
            match (late, &ran) {
                (Some(late), Ok(Ok(_))) => {
                    self.say(&format!("{name}: oracle"))?;
                    let rows = late.join().unwrap_or_else(|_| Err(Error::internal("the oracle's thread ended early")));
                    book.against(&rows?);
                }
                _ => enough.store(true, Ordering::Relaxed),
            }
            ran
        })?;
        let in_situ = match ran {
            Ok(in_situ) => in_situ,
            Err(fault) => return Ok(Some(fault)),
        };
        if !in_situ.missing.is_empty() {
            found.weak.push(format!("{name}: no in-situ check of {}", in_situ.missing.join(", ")));
        }
        let (mut figures, reason) = book.judge();
        figures.insert("in_situ".into(), in_situ.figures);
        figures.insert("lengths".into(), json!(scripts.lists()));
        found.prefill.insert(name.to_string(), Value::Object(figures));
        digests.insert(name.into(), json!({ "cases": hex(&asked.finalize()), "outputs": hex(&told.finalize()) }));
        let logits = reason.map(|reason| Fault::new(Stage::Prefill, format!("{name}: {reason}")));
        Ok(in_situ.fault.or(logits))
    }

    /// All scripts, in their sessions; what the checks in place came to.
    fn scripts(
        &self,
        scripts: &Scripts,
        numerics: Numerics,
        tokens: &[u32],
        found: &mut Found,
        book: &mut Book,
        told: &mut Sha256,
    ) -> Result<std::result::Result<InSitu, Fault>> {
        let name = numerics.name();
        let checks = Checks::new(Draw::new(&self.seed, &format!("whole {name} in situ")));
        let mut rig = Rig::new(self, numerics, scripts.chunk, scripts.context, false, checks)?;
        let plan = rig.plan();
        for script in &scripts.list {
            if let Some(fault) = self.script(&mut rig, script, tokens, book, told)? {
                return Ok(Err(fault));
            }
        }
        if let Some(lengths) = &scripts.perturbed {
            self.say(&format!("{name}: how far rounding alone moves the logits"))?;
            book.moved(&rig.perturbed(lengths, tokens)?);
        }
        let mut checks = rig.end(found, name)?;
        for Other { script, chunk, all_logits } in &scripts.others {
            let mut rig = Rig::new(self, numerics, *chunk, scripts.context, *all_logits, checks)?;
            if let Some(fault) = self.script(&mut rig, script, tokens, book, told)? {
                return Ok(Err(fault));
            }
            checks = rig.end(found, name)?;
        }
        Ok(Ok(checks.judge(&plan, numerics)))
    }

    /// One script, launch by launch or as graphs or both.
    fn script(
        &self,
        rig: &mut Rig<'_, '_>,
        script: &Script,
        tokens: &[u32],
        book: &mut Book,
        told: &mut Sha256,
    ) -> Result<Option<Fault>> {
        let name = rig.numerics().name();
        let mut eager = None;
        if script.eager > 0 {
            self.say(&format!("{name}: {}, launch by launch", script.name))?;
            match rig.eager(script, tokens)? {
                Ok(rows) => eager = Some(rows),
                Err(fault) => return Ok(Some(fault)),
            }
        }
        let mut graphs = None;
        if script.graph {
            self.say(&format!("{name}: {}, as graphs", script.name))?;
            match rig.graphs(script, tokens)? {
                Ok(rows) => graphs = Some(rows),
                Err(fault) => return Ok(Some(fault)),
            }
        }
        if let (Some(eager), Some(graphs)) = (&eager, &graphs)
            && let Some(bad) = eager.first_difference(graphs)
        {
            let reason = format!(
                "{name}: {}: after {bad} tokens the recorded graphs give other logits than their launches one by one",
                script.name
            );
            return Ok(Some(Fault::new(Stage::Graph, reason)));
        }
        if let Some(rows) = graphs.or(eager) {
            rows.digest(told);
            book.add(&script.name, rows);
        }
        Ok(None)
    }

    /// The longest steps of variants that are for short ones only: a short prompt's session selects them.
    fn bounds(&self, numerics: Numerics) -> Result<Vec<usize>> {
        let plan = Plan::build(self.model, canonical(numerics))?;
        let mut bounds = BTreeSet::new();
        for instance in &plan.instances {
            let Some(Ok(kernel)) = self.tree.kernel(&instance.node) else { continue };
            let variants = kernel.selectable(&instance.node, numerics, self.place.arch());
            bounds.extend(variants.iter().filter_map(|v| v.tokens?.max));
        }
        Ok(bounds.into_iter().filter(|b| (2..script::CHUNK).contains(b)).collect())
    }
}

/// The oracle's logits of every position, for as long as `go_on` says.
fn oracle(model: &Model, numerics: Numerics, tokens: &[u32], go_on: &dyn Fn() -> bool) -> Result<Rows> {
    let n = tokens.len();
    let plan = Arc::new(Plan::build(model, PlanOptions { numerics, max_tokens: n, max_outputs: n, context: n })?);
    let step = plan.step(n, 0, n)?;
    let ids: Vec<i32> = tokens.iter().map(|t| *t as i32).collect();
    let mut executor = Executor::new(model, plan.clone());
    executor.set_tokens(&ids);
    for i in 0..plan.instances.len() {
        if !go_on() {
            return Err(Error::interrupted());
        }
        executor.run_range(&step, i..i + 1)?;
    }
    let all = executor.logits(&step)?.chunks_exact(model.config.vocab).enumerate();
    Ok(Rows::new(all.map(|(i, row)| (i + 1, row.to_vec())).collect()))
}

/// Work on three of four processors; the others are the device's.
fn aside<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let threads = std::thread::available_parallelism().map_or(1, |n| (n.get() * 3 / 4).max(1));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|e| Error::internal("the oracle's threads").because(e))?.install(work)
}
