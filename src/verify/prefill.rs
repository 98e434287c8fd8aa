//! Stages 6 and 7: a prefill that runs through the node, and its production form.
//!
//! The prefill starts at the first layer that holds the node, from activations that the oracle computed once per prompt,
//! so that judging many nodes costs one oracle prefill. Every instance of the node is compared in situ with the oracle
//! on the very inputs that it got; the logits are compared with the oracle's; and the same prefill with the node
//! replaced by a no-op must not give them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::compare::{FirstBad, Pool};
use super::insitu::{Check, Tokens};
use super::{Figures, Place, is_kernels_fault, unless};
use crate::backend::executor::Executor;
use crate::backend::{Device, Module, Placement};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::draw::Draw;
use crate::ops::{Node, Rounding};
use crate::plan::kernels::KernelTree;
use crate::plan::schedule::Schedule;
use crate::plan::{Numerics, Plan, PlanOptions, StepState};

/// Relative RMS of logits that a correct node may cause in `exact`.
pub const EXACT_LIMIT: f64 = 1e-3;
/// In `ds4` roundings flip, and two correct engines differ by up to 0.05; past this something else is wrong.
pub const DS4_LIMIT: f64 = 0.25;
/// Weights past which an oracle prefill takes too long to wait for.
pub const LARGE_MODEL: u64 = 2 << 30;
/// Multiply-adds of one node in a prefill on the emulator; longer prompts are left to `--thorough`.
const EMULATOR_MACS: u64 = 900_000_000;

/// One prompt, and what the oracle makes of it.
struct Baseline {
    plan: Arc<Plan>,
    steps: Vec<Chunk>,
    /// Of the last token.
    logits: Vec<f32>,
}

/// One step of the prompt.
struct Chunk {
    step: StepState,
    tokens: Vec<i32>,
    /// The streams at the start of each layer and of the head.
    streams: HashMap<Option<usize>, Vec<u32>>,
}

impl Baseline {
    fn tokens(&self) -> usize {
        self.steps.iter().map(|c| c.tokens.len()).sum()
    }
}

/// Numerics and the lengths of the chunks.
type Prompt = (Numerics, Vec<usize>);

/// Oracle prefills, one per numerics and chunks, shared by all nodes of a run.
pub struct Baselines<'m> {
    model: &'m Model,
    seed: [u8; 32],
    kept: Mutex<HashMap<Prompt, Arc<Baseline>>>,
}

impl<'m> Baselines<'m> {
    pub fn new(model: &'m Model, seed: [u8; 32]) -> Baselines<'m> {
        Baselines { model, seed, kept: Mutex::new(HashMap::new()) }
    }

    fn get(&self, numerics: Numerics, chunks: &[usize], stop: &AtomicBool) -> Result<Arc<Baseline>> {
        let lock = |e: std::sync::PoisonError<_>| e.into_inner();
        let key = (numerics, chunks.to_vec());
        if let Some(b) = self.kept.lock().unwrap_or_else(lock).get(&key) {
            return Ok(b.clone());
        }
        let (n, max_tokens) = (chunks.iter().sum(), chunks.iter().copied().max().unwrap_or(1));
        let plan = Arc::new(Plan::build(self.model, PlanOptions { numerics, max_tokens, max_outputs: 1, context: n })?);
        let mut draw = Draw::new(&self.seed, &format!("prompt {n}"));
        let mut executor = Executor::new(self.model, plan.clone());
        let (mut steps, mut pos0) = (Vec::new(), 0);
        for n in chunks {
            let step = plan.step(*n, pos0, 1)?;
            let tokens: Vec<i32> = (0..*n).map(|_| draw.below(self.model.config.vocab) as i32).collect();
            executor.set_tokens(&tokens);
            let (mut streams, mut layer) = (HashMap::new(), None);
            for (i, instance) in plan.instances.iter().enumerate() {
                if instance.layer != layer {
                    layer = instance.layer;
                    if let Some(h) = streams_buffer(&plan) {
                        streams.insert(layer, executor.read(h, &step)?.iter().map(|v| v.to_bits()).collect());
                    }
                }
                unless(stop)?;
                executor.run_range(&step, i..i + 1)?;
            }
            steps.push(Chunk { step, tokens, streams });
            pos0 += n;
        }
        let last = steps.last().map(|c| c.step).ok_or_else(|| Error::internal("a prompt without tokens"))?;
        let logits = executor.logits(&last)?.to_vec();
        let baseline = Arc::new(Baseline { plan, steps, logits });
        self.kept.lock().unwrap_or_else(lock).insert(key, baseline.clone());
        Ok(baseline)
    }
}

/// The residual streams: what one layer hands to the next.
fn streams_buffer(plan: &Plan) -> Option<crate::plan::BufferIx> {
    plan.buffers.iter().position(|b| b.name == "h").map(crate::plan::BufferIx)
}

/// What stages 6 and 7 found.
#[derive(Default)]
pub struct Prefill {
    pub red: Option<(String, Option<FirstBad>)>,
    pub weak: Option<String>,
    pub figures: Figures,
    pub graph: Graph,
}

#[derive(Default)]
pub struct Graph {
    pub segments: usize,
    pub launches: usize,
    pub red: Option<String>,
    /// The device has no graphs.
    pub absent: bool,
}

pub struct Request<'r, 'm> {
    pub model: &'m Model,
    pub tree: &'r KernelTree,
    pub place: &'r dyn Place,
    pub baselines: &'r Baselines<'m>,
    pub node: &'r Node,
    /// Nodes already proved here, which run on the device beside it.
    pub proved: &'r [Node],
    pub thorough: bool,
    pub stop: &'r AtomicBool,
    pub build: &'r (dyn Fn(&str, &[String]) -> Result<Module> + Sync),
}

impl Request<'_, '_> {
    /// Prompts in which the node acts, as the lengths of their chunks: past top-k for the indexer's, past a window for
    /// what compressed rows enter, in two chunks for what only a later step reads. The emulator gets one, a device
    /// several classes.
    fn prompts(&self, numerics: Numerics) -> Result<Vec<Vec<usize>>> {
        let c = &self.model.config;
        let selecting = 4 * (c.indexer_top_k + 1) + 9;
        let window = c.ratios.iter().copied().max().unwrap_or(0) as usize + 13;
        let most = (2 * selecting).max(2 * window + 7).max(258);
        let plan = Plan::build(self.model, PlanOptions { numerics, max_tokens: most, max_outputs: 1, context: most })?;
        let mine: Vec<_> = plan.instances.iter().filter(|i| i.node == *self.node).collect();
        let acting = |n: usize| -> Result<bool> {
            let step = plan.step(n, 0, 1)?;
            Ok(mine.iter().any(|i| i.guard.holds(&step, plan.top_k)))
        };
        let chunked = mine.iter().all(|i| i.op.contract().outputs_are_state());
        let compressed = mine.iter().any(|i| i.contract().dims.contains(&"ratio"));
        let mut out: Vec<Vec<usize>> = Vec::new();
        let all = self.place.placement() == Placement::Device || self.thorough;
        if chunked || all {
            // The first chunk ends inside a window of either ratio; short ones follow, as in decoding, each of which
            // leaves and takes state; the last completes both windows. State shows in the last logits more with some
            // tokens than with others, so there are others to fall back on.
            let tries = if chunked { 3 } else { 1 };
            // Where the longest window is one of 4 rows, the chunks around the short ones are of a few tokens.
            let long = window.max(41);
            out.extend((0..tries).map(|k| vec![long - 2 - k, 5, 3, 6, 5, 1, 3, 5, long - 40 + 3 * k]));
        }
        if !chunked {
            let first = if compressed { window } else { 23 };
            if acting(first)? {
                out.push(vec![first]);
            }
            out.push(vec![selecting]);
        }
        if self.thorough && !chunked {
            out.extend([3, 127, 128, 130, 258].map(|n| vec![n]));
        }
        out.push(vec![2 * selecting]);
        let work = |n: usize| -> u64 { mine.iter().map(|i| i.op.macs(&i.dims, n)).sum() };
        let mut kept = Vec::new();
        for chunks in out {
            let n: usize = chunks.iter().sum();
            if acting(n)? && (all || work(n) <= EMULATOR_MACS) {
                kept.push(chunks);
            }
        }
        Ok(kept)
    }

    pub fn run(&self, numerics: Numerics, tick: &mut dyn FnMut(usize, usize)) -> Result<Prefill> {
        let mut out = Prefill::default();
        let probe = Plan::build(self.model, PlanOptions { numerics, max_tokens: 8, max_outputs: 1, context: 8 })?;
        if !probe.instances.iter().any(|i| i.node == *self.node) {
            return Ok(out);
        }
        let prompts = self.prompts(numerics)?;
        if prompts.is_empty() {
            out.weak = Some(format!("no prompt in which {} acts is cheap enough here; --thorough runs it", self.node));
            return Ok(out);
        }
        let mut pool = Pool::default();
        let mut device = Some(self.place.start()?);
        let all = self.place.placement() == Placement::Device || self.thorough;
        let mut shown = false;
        for (k, chunks) in prompts.iter().enumerate() {
            // The emulator stops at the first prompt that a no-op changes; the last prompt of all is for nodes whose
            // no-op no other has shown.
            if shown && (!all || k + 1 == prompts.len()) {
                break;
            }
            tick(k, prompts.len());
            let base = self.baselines.get(numerics, chunks, self.stop)?;
            let n = base.tokens();
            let longest = chunks.iter().copied().max().unwrap_or(1);
            let schedule = Schedule::lower_for(&base.plan, self.tree, self.place.arch(), longest, |node| {
                node == self.node || self.proved.contains(node)
            })?;
            if schedule.choices.iter().zip(&base.plan.instances).any(|(c, i)| i.node == *self.node && c.is_none()) {
                let reason =
                    format!("no variant of {} takes a step of {longest} tokens in {}", self.node, numerics.name());
                out.red = Some((reason, None));
                return Ok(out);
            }
            if let Err(e) = self.through(&base, schedule, numerics, &mut shown, &mut device, &mut pool, &mut out) {
                if is_kernels_fault(&e) {
                    out.red = Some((format!("prefill of {n} tokens, {}: {e}", numerics.name()), None));
                    return Ok(out);
                }
                return Err(e);
            }
            if out.red.is_some() {
                return Ok(out);
            }
        }
        if shown {
            out.weak = None;
        }
        if let Some(bad) = pool.check() {
            let reason = format!("in situ: relative RMS {:.2e} is above {:.2e}", pool.relative_rms(), pool.limit());
            out.red = Some((reason, Some(bad)));
        }
        out.figures.insert(format!("{}_in_situ_outputs", numerics.name()), json!(pool.outputs));
        out.figures.insert(format!("{}_in_situ_relative_rms", numerics.name()), json!(pool.relative_rms()));
        out.figures.insert(format!("{}_prompts", numerics.name()), json!(prompts));
        Ok(out)
    }

    /// The first instance of the layer (or head) in which the node first acts.
    fn start(&self, base: &Baseline) -> Option<usize> {
        let plan = &base.plan;
        let acts = |i: &crate::plan::Instance| {
            i.node == *self.node && base.steps.iter().any(|c| i.guard.holds(&c.step, plan.top_k))
        };
        let first = plan.instances.iter().position(acts)?;
        let layer = plan.instances[first].layer;
        Some(plan.instances[..first].iter().rposition(|i| i.layer != layer).map_or(0, |i| i + 1))
    }

    /// Gives a step its tokens and, when it starts inside the model, the oracle's streams.
    fn prepare(&self, executor: &mut Executor<'_>, base: &Baseline, chunk: &Chunk, start: usize) {
        executor.set_tokens(&chunk.tokens);
        let streams = chunk.streams.get(&base.plan.instances[start].layer).filter(|_| start > 0);
        if let (Some(h), Some(streams)) = (streams_buffer(&base.plan), streams) {
            executor.write_host(h, streams);
        }
    }

    /// One prompt: hybrid with in-situ checks; until a no-op's effect was `shown`, also graph and no-op.
    #[allow(clippy::too_many_arguments)] // what runs, where, and what it adds to
    fn through(
        &self,
        base: &Baseline,
        schedule: Schedule,
        numerics: Numerics,
        shown: &mut bool,
        device: &mut Option<Box<dyn Device>>,
        pool: &mut Pool,
        out: &mut Prefill,
    ) -> Result<()> {
        let plan = &base.plan;
        let n = base.tokens();
        let Some(start) = self.start(base) else {
            out.weak = Some(format!("{} does not act in a prefill of {n} tokens", self.node));
            return Ok(());
        };
        let last = base.steps.last().map(|c| c.step).ok_or_else(|| Error::internal("a prompt without tokens"))?;
        let mut executor = Executor::new(self.model, plan.clone());
        let on_device =
            |i: usize| plan.instances[i].node == *self.node || self.proved.contains(&plan.instances[i].node);
        let roundings: Vec<Rounding> = (0..plan.instances.len()).map(|i| schedule.rounding(i)).collect();
        let device_here = match device.take() {
            Some(device) => device,
            None => self.place.start()?,
        };
        executor.attach(device_here, schedule, |stem, entries| (self.build)(stem, entries), on_device)?;
        executor.poison_scratch();
        let mut ran = 0;
        let end = plan.instances.len();
        for chunk in &base.steps {
            self.prepare(&mut executor, base, chunk, start);
            for (i, instance) in plan.instances.iter().enumerate().skip(start) {
                unless(self.stop)?;
                if instance.node != *self.node || !instance.guard.holds(&chunk.step, plan.top_k) {
                    executor.run_range(&chunk.step, i..i + 1)?;
                    continue;
                }
                let check = Check::before(&mut executor, self.model, i, &chunk.step, &Tokens::All)?;
                executor.run_range(&chunk.step, i..i + 1)?;
                ran += 1;
                if let Some(bad) = check.after(&mut executor, roundings[i], pool)? {
                    let reason =
                        format!("in a prefill of {n} tokens ({}) {} is wrong", numerics.name(), instance.label);
                    out.red = Some((reason, Some(bad)));
                    return Ok(());
                }
            }
        }
        let distance = relative(executor.logits(&last)?, &base.logits);
        let limit = if numerics == Numerics::Exact { EXACT_LIMIT } else { DS4_LIMIT };
        out.figures.insert(format!("{}_logits_relative_rms_n{n}", numerics.name()), json!(distance));
        if distance > limit {
            let reason = format!(
                "logits of a prefill of {n} tokens ({}) differ by {distance:.2e}; {limit:.0e} is allowed",
                numerics.name()
            );
            out.red = Some((reason, None));
            return Ok(());
        }
        let trace = executor.take_trace();
        let launched = trace
            .iter()
            .filter(|r| plan.instances[r.instance].node == *self.node && r.placement != Placement::Oracle)
            .count();
        if launched != ran || ran == 0 {
            return Err(Error::internal(format!("{launched} of {ran} instances of {} ran on the device", self.node)));
        }
        if !*shown {
            self.graphs(&mut executor, base, start..end, out)?;
        }
        *device = executor.detach()?;
        if *shown || out.graph.red.is_some() {
            return Ok(());
        }
        // The same prefill with nothing in the node's place.
        executor.reset();
        executor.set_noop(Some(self.node.clone()));
        for chunk in &base.steps {
            self.prepare(&mut executor, base, chunk, start);
            for i in start..end {
                unless(self.stop)?;
                executor.run_range(&chunk.step, i..i + 1)?;
            }
        }
        let moved = relative(executor.logits(&last)?, &base.logits);
        out.figures.insert(format!("{}_noop_relative_rms_n{n}", numerics.name()), json!(moved));
        *shown = moved > if numerics == Numerics::Exact { EXACT_LIMIT } else { 0.0 };
        if !*shown {
            out.weak = Some(format!(
                "a no-op in place of {} leaves the logits of {n} tokens as they are ({moved:.1e}): this prompt does not test it",
                self.node
            ));
        }
        Ok(())
    }

    /// Stage 7: every maximal run of device launches, captured, read back, replayed and compared.
    fn graphs(
        &self,
        executor: &mut Executor<'_>,
        base: &Baseline,
        range: Range<usize>,
        out: &mut Prefill,
    ) -> Result<()> {
        if self.place.placement() != Placement::Device {
            out.graph.absent = true;
            return Ok(());
        }
        executor.reset();
        let plan = base.plan.clone();
        for chunk in &base.steps {
            self.prepare(executor, base, chunk, range.start);
            let active = |i: usize| plan.instances[i].guard.holds(&chunk.step, plan.top_k);
            let mut i = range.start;
            while i < range.end {
                if executor.placement(i) == Placement::Oracle || !active(i) {
                    executor.run_range(&chunk.step, i..i + 1)?;
                    i += 1;
                    continue;
                }
                let mut to = i + 1;
                while to < range.end && (!active(to) || executor.placement(to) != Placement::Oracle) {
                    to += 1;
                }
                let Some(segment) = executor.replay_segment(&chunk.step, i..to)? else {
                    out.graph.absent = true;
                    return Ok(());
                };
                out.graph.segments += 1;
                out.graph.launches += segment.launches;
                let label = &plan.instances[i].label;
                if !segment.nodes_match {
                    out.graph.red =
                        Some(format!("the graph captured from {label} on holds other kernels than the schedule"));
                } else if !segment.bytes_match {
                    out.graph.red = Some(format!(
                        "the graph replayed from {label} on gives other bytes than its launches one by one"
                    ));
                }
                if out.graph.red.is_some() {
                    return Ok(());
                }
                i = to;
            }
        }
        Ok(())
    }
}

/// ‖a − b‖ / ‖b‖; infinite where a NaN is met.
pub fn relative(a: &[f32], b: &[f32]) -> f64 {
    let (mut error, mut size) = (0.0f64, 0.0f64);
    for (a, b) in a.iter().zip(b) {
        error += (f64::from(*a) - f64::from(*b)).powi(2);
        size += f64::from(*b).powi(2);
    }
    let r = (error / size.max(f64::MIN_POSITIVE)).sqrt();
    if r.is_nan() { f64::INFINITY } else { r }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::{Judge, Progress, Stage};
    use super::*;
    use crate::backend::Built;
    use crate::backend::emulator::{Builder, Emulator};
    use crate::error::Kind;
    use crate::plan::source::SourceSet;

    /// The emulator in this process.
    struct Inside(Builder);

    impl Place for Inside {
        fn placement(&self) -> Placement {
            Placement::Emulator
        }

        fn arch(&self) -> &str {
            "emulator"
        }

        fn build(&self, source: &SourceSet, entries: &[String]) -> Result<Built> {
            self.0.build(source, &entries.iter().map(String::as_str).collect::<Vec<_>>())
        }

        fn start(&self) -> Result<Box<dyn Device>> {
            Ok(Box::new(Emulator::new(self.0.compiler().version.clone())?))
        }

        fn start_reading(&self, _: &Path) -> Result<Box<dyn Device>> {
            self.start()
        }

        fn describe(&self) -> Figures {
            Figures::new()
        }
    }

    /// Who loses interest when the oracle's prefill begins.
    #[derive(Default)]
    struct Gone {
        stop: AtomicBool,
        prefill: AtomicBool,
    }

    impl Progress for Gone {
        fn stage(&self, _: &Node, stage: Stage) {
            self.prefill.store(stage == Stage::Prefill, Ordering::Relaxed);
        }

        fn tick(&self, _: usize, _: usize) {
            self.stop.fetch_or(self.prefill.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Whoever had said that a verdict is not wanted any more waited until the oracle had computed its prefill.
    #[test]
    fn a_verdict_that_nobody_wanted_went_on_to_the_end_of_the_oracles_prefill() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let model = Model::open(&root.join("reference/tiny/model.gguf")).unwrap();
        let tree = KernelTree::open(&root.join("kernels")).unwrap();
        let (cache, gone) = (tempfile::tempdir().unwrap(), Gone::default());
        let place = Inside(Builder::with_cache(cache.path()).unwrap());
        let baselines = Baselines::new(&model, [7; 32]);
        let judge = Judge {
            model: &model,
            tree: &tree,
            place: &place,
            compilers: None,
            baselines: &baselines,
            numerics: vec![Numerics::Ds4],
            thorough: false,
            seed: [7; 32],
            stop: &gone.stop,
            progress: &gone,
            through: Stage::Sanitizer,
            sanitize: None,
            shared: None,
        };
        let ended = judge.judge(&"take_rows".parse().unwrap(), &[]).unwrap_err();
        assert_eq!(ended.kind(), Kind::Interrupted, "{ended}");
        assert!(gone.prefill.load(Ordering::Relaxed) && baselines.kept.lock().unwrap().is_empty());
    }
}
