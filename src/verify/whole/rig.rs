//! Runs scripts on one session: launch by launch with in-situ checks, or through recorded graphs as `run` does.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::logits::Rows;
use super::script::Script;
use super::{Fault, Found, Whole};
use crate::backend::Placement;
use crate::backend::executor::Ran;
use crate::engine::{Seating, Session, SessionOptions};
use crate::error::{Error, Result};
use crate::ops::draw::Draw;
use crate::ops::{Access, Node, Rounding};
use crate::plan::{BufferIx, Guard, Instance, Numerics, Plan, Role, StepField, StepState};
use crate::verify::compare::Pool;
use crate::verify::insitu::{Check, Tokens};
use crate::verify::{Figures, Stage};

/// Tokens of a step that a check recomputes.
const TOKENS: usize = 4;
/// Of the instances that nothing demands one in so many is checked.
const ODDS: usize = 16;
const ODDS_LARGE: usize = 96;
/// Prefills whose embeddings are moved.
const MOVED: usize = 3;
/// By how much of each value: as f32 rounds, a few times over; and as f16 does, which operands may in `ds4`.
const MOVED_BY_EXACT: f32 = 1.0 / (1 << 20) as f32;
const MOVED_BY_DS4: f32 = 1.0 / (1 << 11) as f32;

/// A kind of step: what one recorded graph serves.
type StepKind = (bool, [bool; 3]);

/// What is checked once at least: a place in a layer, a kind of layer, and a kind of step at a kind of position.
#[derive(PartialEq, Eq, Hash)]
struct Class {
    /// A session with short chunks runs other variants.
    chunk: usize,
    leaf: String,
    node: Node,
    ratio: Option<u32>,
    hash: bool,
    edge: [bool; 2],
    step: StepKind,
    later: bool,
    past_window: bool,
    /// Of the last position, for what compresses rows or reads them; in small models.
    residue: usize,
}

pub struct Rig<'w, 'm> {
    whole: &'w Whole<'w, 'm>,
    numerics: Numerics,
    session: Session<'m>,
    large: bool,
    checks: Checks,
    replayed: HashSet<StepKind>,
    counts: Counts,
}

/// The checks in place of one numerics, over all its sessions.
pub struct Checks {
    draw: Draw,
    seen: HashSet<Class>,
    pools: BTreeMap<Node, (usize, Pool)>,
}

impl Checks {
    pub fn new(draw: Draw) -> Checks {
        Checks { draw, seen: HashSet::new(), pools: BTreeMap::new() }
    }

    /// What the checks in place came to, per node.
    pub fn judge(&self, plan: &Plan, numerics: Numerics) -> InSitu {
        let nodes: BTreeSet<&Node> = plan.instances.iter().map(|i| &i.node).collect();
        let missing = nodes.iter().filter(|n| !self.pools.contains_key(**n)).map(ToString::to_string).collect();
        let mut figures = Figures::new();
        let mut fault = None;
        for (node, (checks, pool)) in &self.pools {
            figures.insert(
                node.to_string(),
                json!({
                    "checks": checks,
                    "outputs": pool.outputs,
                    "relative_rms": pool.relative_rms(),
                    "limit": pool.limit(),
                    "max_abs": pool.max_abs,
                }),
            );
            if let (Some(bad), None) = (pool.check(), &fault) {
                let (rms, limit, name) = (pool.relative_rms(), pool.limit(), numerics.name());
                let reason = format!("{name}: {node} in place: relative RMS {rms:.2e} is above {limit:.2e}");
                fault = Some(Fault { stage: Stage::Prefill, reason, first_bad: Some(bad) });
            }
        }
        InSitu { figures: Value::Object(figures), missing, fault }
    }
}

#[derive(Default)]
struct Counts {
    steps: usize,
    instances: usize,
    launches: usize,
    replays: usize,
    kinds: BTreeSet<String>,
    compared: usize,
}

/// What the checks found.
pub struct InSitu {
    pub figures: Value,
    pub missing: Vec<String>,
    pub fault: Option<Fault>,
}

impl<'w, 'm> Rig<'w, 'm> {
    pub fn new(
        whole: &'w Whole<'w, 'm>,
        numerics: Numerics,
        chunk: usize,
        context: usize,
        all_logits: bool,
        checks: Checks,
    ) -> Result<Rig<'w, 'm>> {
        let mut session = Session::new(whole.model, SessionOptions { numerics, chunk, context, all_logits })?;
        let place = whole.place;
        // What is left to the oracle is the verdict's own finding, not a refusal.
        let seating = Seating {
            tree: whole.tree,
            arch: place.arch(),
            allow_oracle: true,
            memory: None,
            saved: 1,
            shortest: usize::MAX,
        };
        let device = place.start_reading(whole.model.path())?;
        session.attach(&seating, device, &|source, entries| Ok(place.build(source, entries)?.module))?;
        session.load(&mut |_, _| {})?;
        session.executor.poison_scratch();
        Ok(Rig {
            whole,
            numerics,
            session,
            large: whole.large(),
            checks,
            replayed: HashSet::new(),
            counts: Counts::default(),
        })
    }

    pub fn numerics(&self) -> Numerics {
        self.numerics
    }

    pub fn plan(&self) -> std::sync::Arc<Plan> {
        self.session.executor.plan().clone()
    }

    fn step(&self, n: usize, pos0: usize) -> Result<StepState> {
        let outputs = self.plan().options.max_outputs.min(n);
        self.plan().step(n, pos0, outputs)
    }

    fn go_on(&self) -> Result<()> {
        match self.whole.stop.load(Ordering::Relaxed) {
            true => Err(Error::interrupted()),
            false => Ok(()),
        }
    }

    /// Runs a script launch by launch. Instances are checked where they stand, and the first step of every kind is run
    /// again from a graph and compared byte by byte.
    pub fn eager(&mut self, script: &Script, tokens: &[u32]) -> Result<std::result::Result<Rows, Fault>> {
        self.session.reset();
        let (mut rows, mut pos0) = (Vec::new(), 0);
        for n in &script.lengths[..script.eager] {
            self.go_on()?;
            let step = self.step(*n, pos0)?;
            let ids = ids(tokens, pos0, *n);
            let kind = kind(&self.plan(), &step);
            let saved = match *n <= script.replayed && self.replayed.insert(kind) {
                true => Some(self.session.save()?),
                false => None,
            };
            self.session.executor.set_tokens(&ids);
            if let Some(fault) = self.in_place(&step)? {
                return Ok(Err(fault));
            }
            let ran = self.session.executor.take_trace();
            if let Some(fault) = self.account(&ran, &step) {
                return Ok(Err(fault));
            }
            rows.extend(self.logits(&step, pos0)?);
            if let Some(saved) = saved {
                let eager = self.written(&step)?;
                // Recorded the first time, replayed the second.
                for _ in 0..2 {
                    self.session.restore(&saved)?;
                    self.session.executor.run(&step, &ids)?;
                    self.session.executor.take_trace();
                }
                self.session.discard(saved)?;
                if self.session.executor.take_replays().is_empty() {
                    return Err(Error::internal("a step that was recorded was not replayed"));
                }
                self.counts.compared += 1;
                let replayed = self.written(&step)?;
                if let Some((name, _)) = eager.iter().zip(&replayed).find(|(a, b)| a != b).map(|(a, _)| a) {
                    let reason = format!(
                        "{}: a step of {n} at {pos0}, replayed from its graph, leaves other bytes in `{name}` than its \
                         launches one by one",
                        self.numerics.name()
                    );
                    return Ok(Err(Fault::new(Stage::Graph, reason)));
                }
            }
            pos0 += n;
        }
        Ok(Ok(Rows::new(rows)))
    }

    /// Runs a script as `run` does: every step that was met before is a replay.
    pub fn graphs(&mut self, script: &Script, tokens: &[u32]) -> Result<std::result::Result<Rows, Fault>> {
        self.session.reset();
        let (mut rows, mut pos0) = (Vec::new(), 0);
        for n in &script.lengths {
            self.go_on()?;
            let step = self.step(*n, pos0)?;
            let ids = ids(tokens, pos0, *n);
            self.session.executor.run(&step, &ids)?;
            let mut ran = self.session.executor.take_trace();
            for (of, times) in self.session.executor.take_replays() {
                self.counts.replays += times;
                ran.extend(of.iter().cloned());
            }
            if let Some(fault) = self.account(&ran, &step) {
                return Ok(Err(fault));
            }
            rows.extend(self.logits(&step, pos0)?);
            pos0 += n;
        }
        Ok(Ok(Rows::new(rows)))
    }

    /// Logits of steps whose embeddings are moved by as much as the numerics round, a few times over.
    pub fn perturbed(&mut self, lengths: &[usize], tokens: &[u32]) -> Result<Vec<Rows>> {
        let plan = self.plan();
        let Some(h) = plan.buffers.iter().position(|b| b.name == "h").map(BufferIx) else { return Ok(Vec::new()) };
        let by = match self.numerics {
            Numerics::Exact => MOVED_BY_EXACT,
            Numerics::Ds4 => MOVED_BY_DS4,
        };
        let mut out = Vec::new();
        for _ in 0..MOVED {
            self.session.reset();
            let (mut rows, mut pos0) = (Vec::new(), 0);
            for n in lengths {
                self.go_on()?;
                let step = self.step(*n, pos0)?;
                let ids = ids(tokens, pos0, *n);
                let executor = &mut self.session.executor;
                executor.set_tokens(&ids);
                executor.run_range(&step, 0..1)?;
                let mut words = executor.peek(h, 0, plan.used(h, &step))?;
                for word in &mut words {
                    let sign = if self.checks.draw.below(2) == 0 { by } else { -by };
                    *word = (f32::from_bits(*word) * (1.0 + sign)).to_bits();
                }
                executor.write_host(h, &words);
                executor.run_range(&step, 1..plan.instances.len())?;
                executor.take_trace();
                rows.extend(self.logits(&step, pos0)?);
                pos0 += n;
            }
            out.push(Rows::new(rows));
        }
        Ok(out)
    }

    /// Runs a step launch by launch and checks a choice of its instances where they stand.
    fn in_place(&mut self, step: &StepState) -> Result<Option<Fault>> {
        let plan = self.plan();
        let n = step.get(StepField::NTokens) as usize;
        let mut from = 0;
        for (i, instance) in plan.instances.iter().enumerate() {
            if !instance.guard.holds(step, plan.top_k) || !self.wanted(instance, step) {
                continue;
            }
            let executor = &mut self.session.executor;
            executor.run_range(step, from..i)?;
            from = i + 1;
            let tokens = Tokens::draw(&mut self.checks.draw, n, TOKENS);
            let check = Check::before(executor, self.whole.model, i, step, &tokens)?;
            executor.run_range(step, i..i + 1)?;
            let rounding = executor.rounding(i, step).unwrap_or(Rounding::None);
            let (checks, pool) = self.checks.pools.entry(instance.node.clone()).or_default();
            *checks += 1;
            if let Some(bad) = check.after(&mut self.session.executor, rounding, pool)? {
                let reason = format!("{}: {} is wrong in place", self.numerics.name(), instance.label);
                return Ok(Some(Fault { stage: Stage::Prefill, reason, first_bad: Some(bad) }));
            }
        }
        self.session.executor.run_range(step, from..plan.instances.len())?;
        Ok(None)
    }

    /// Whether an instance is checked in this step: the first of its class is, others as the seed has it.
    fn wanted(&mut self, instance: &Instance, step: &StepState) -> bool {
        let config = &self.whole.model.config;
        let plan = self.plan();
        let end = (step.get(StepField::Pos0) + step.get(StepField::NTokens)) as usize;
        let class = Class {
            chunk: self.session.chunk(),
            leaf: instance.place().into(),
            node: instance.node.clone(),
            ratio: instance.layer.map(|l| config.ratios[l]),
            hash: instance.layer.is_some_and(|l| config.is_hash(l)),
            edge: [instance.layer == Some(0), instance.layer == config.layers.checked_sub(1)],
            step: kind(&plan, step),
            later: step.get(StepField::Pos0) > 0,
            past_window: end > config.window,
            residue: if self.large || !instance.contract().dims.contains(&"ratio") { 0 } else { end % 4 },
        };
        let odds = if self.large { ODDS_LARGE } else { ODDS };
        self.checks.seen.insert(class) || self.checks.draw.below(odds) == 0
    }

    /// Counts what a step ran, all of which must be what its schedule says, on the device.
    fn account(&mut self, ran: &[Ran], step: &StepState) -> Option<Fault> {
        let plan = self.plan();
        let place = self.whole.place.placement();
        let active: Vec<usize> = plan.active(step).map(|(i, _)| i).collect();
        if let Some(r) = ran.iter().find(|r| r.placement != place) {
            let label = &plan.instances[r.instance].label;
            let reason = format!("{}: {label} ran on the {}", self.numerics.name(), place_name(r.placement));
            return Some(Fault::new(Stage::Prefill, reason));
        }
        if !ran.iter().map(|r| r.instance).eq(active.iter().copied()) {
            let reason = format!(
                "{}: a step of {} at {} ran {} op instances where its plan has {}",
                self.numerics.name(),
                step.get(StepField::NTokens),
                step.get(StepField::Pos0),
                ran.len(),
                active.len()
            );
            return Some(Fault::new(Stage::Prefill, reason));
        }
        self.counts.steps += 1;
        self.counts.instances += ran.len();
        self.counts.launches += ran.iter().map(|r| r.launches.len()).sum::<usize>();
        self.counts.kinds.insert(format!("{:?}", kind(&plan, step)));
        None
    }

    /// The step's logits, each with the number of tokens that it follows.
    fn logits(&mut self, step: &StepState, pos0: usize) -> Result<Vec<(usize, Vec<f32>)>> {
        let (n, outputs) = (step.get(StepField::NTokens) as usize, step.get(StepField::NOutputs) as usize);
        let vocab = self.session.vocab();
        let all = self.session.executor.logits(step)?;
        let first = pos0 + n - outputs + 1;
        Ok(all.chunks_exact(vocab).enumerate().map(|(i, row)| (first + i, row.to_vec())).collect())
    }

    /// Digests of everything that a step leaves behind: caches, the residual streams, logits.
    fn written(&mut self, step: &StepState) -> Result<Vec<(String, blake3::Hash)>> {
        let plan = self.plan();
        let mut buffers: Vec<BufferIx> = Vec::new();
        for (_, instance) in plan.active(step) {
            for (arg, buffer) in instance.contract().args.iter().zip(&instance.args) {
                let Some(buffer) = buffer.filter(|b| arg.access != Access::Read && !buffers.contains(b)) else {
                    continue;
                };
                // Other temporaries are overwritten layer by layer, and what they did is in these.
                let of = &plan.buffers[buffer.0];
                if of.role != Role::Temporary || of.name == "h" {
                    buffers.push(buffer);
                }
            }
        }
        let mut out = Vec::new();
        for buffer in buffers {
            let words = self.session.executor.peek(buffer, 0, plan.used(buffer, step))?;
            let hash = blake3::hash(bytemuck::cast_slice(&words));
            out.push((plan.buffers[buffer.0].name.clone(), hash));
        }
        Ok(out)
    }

    /// Ends the session; what ran is added to what is there already.
    pub fn end(mut self, found: &mut Found, name: &str) -> Result<Checks> {
        let counts = std::mem::take(&mut self.counts);
        let mut device_bytes = None;
        if let Some(device) = self.session.executor.device_mut()
            && device.info().placement == Placement::Device
        {
            let all = device.info().memory;
            device_bytes = Some(all.saturating_sub(device.free_memory()?));
        }
        let entry = found.graph.entry(name.to_string()).or_insert_with(|| json!({}));
        let Some(map) = entry.as_object_mut() else { return Ok(self.checks) };
        let mut add = |key: &str, n: usize| {
            let so_far = map.get(key).and_then(Value::as_u64).unwrap_or(0);
            map.insert(key.into(), json!(so_far + n as u64));
        };
        add("steps", counts.steps);
        add("op_instances", counts.instances);
        add("launches", counts.launches);
        add("replays", counts.replays);
        add("steps_compared_byte_by_byte", counts.compared);
        let kinds = map.get("kinds_of_step").and_then(Value::as_u64).unwrap_or(0);
        map.insert("kinds_of_step".into(), json!(kinds.max(counts.kinds.len() as u64)));
        if let Some(bytes) = device_bytes {
            let most = map.get("device_bytes").and_then(Value::as_u64).unwrap_or(0);
            map.insert("device_bytes".into(), json!(most.max(bytes)));
        }
        Ok(self.checks)
    }
}

/// The tokens of a step of `n` at `pos0`.
fn ids(tokens: &[u32], pos0: usize, n: usize) -> Vec<i32> {
    tokens[pos0..pos0 + n].iter().map(|t| *t as i32).collect()
}

fn place_name(placement: Placement) -> &'static str {
    match placement {
        Placement::Device => "device",
        Placement::Emulator => "emulator",
        Placement::Oracle => "oracle",
    }
}

/// Which of the executor's recordings serves a step.
fn kind(plan: &Plan, step: &StepState) -> StepKind {
    let holds = |guard: Guard| guard.holds(step, plan.top_k);
    let (rows4, rows128) = (Guard::Rows(StepField::Rows4), Guard::Rows(StepField::Rows128));
    (step.get(StepField::NTokens) == 1, [holds(rows4), holds(rows128), holds(Guard::Selecting)])
}
