//! The one executor: runs a plan's instances in order, each where it is placed.
//!
//! Oracle instances are computed here, in host memory; the others are launched on a [`Device`] as the schedule says.
//! Every buffer knows on which side its newest contents are, and is copied when the other side needs it. What was
//! launched is compared with what the device reports at the end of every step.

mod launch;
mod load;
mod oracle;
mod peek;
mod replay;
mod saved;
mod segment;
mod sides;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::backend::{BufferId, Device, Module, ModuleId, Placement, Span, Traced};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::cases::Values;
use crate::ops::{Access, Elem, Node, Rounding};
use crate::plan::schedule::Schedule;
use crate::plan::{BufferIx, Plan, Role, STEP_FIELDS, StepField, StepState};

pub use self::load::Loaded;
pub use self::oracle::host_weight;
pub use self::replay::Timed;
use self::replay::{Recordable, Recording};
pub use self::saved::Saved;
pub use self::segment::Segment;

crate::codes! {
    TRACE: "trace", Integrity, "The launches that the device reports are not those of the schedule. Nothing of such a run counts.";
}

/// NaN in every element: a value that no kernel computes by accident.
pub const POISON: u32 = 0x7fff_dead;

/// Which side holds a buffer's newest contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Valid {
    host: bool,
    device: bool,
}

/// The buffers of an argument struct, and what the op may do with each.
type Bound = Vec<(BufferIx, Access)>;

struct DeviceSide {
    device: Box<dyn Device>,
    /// For ever longer steps: a decode's variants differ from a prefill's. A step takes the first that is long enough.
    schedules: Vec<Schedule>,
    modules: HashMap<String, ModuleId>,
    buffers: Vec<Option<BufferId>>,
    /// Uploaded tensors by (address, length) in the map: aliases are uploaded once.
    weights: HashMap<(usize, usize), BufferId>,
    /// One for all: launches follow one another, and nothing in it may outlive its instance.
    scratch: Option<(BufferId, u64)>,
    /// What scratch memory holds when an instance begins, where launches are run one by one.
    scratch_begins_as: Option<u32>,
    step: BufferId,
    expected: Vec<Traced>,
    recordings: HashMap<Recordable, Recording>,
    /// What a replay writes first; kept for their memory.
    writes: Vec<Span>,
    bytes: Vec<u8>,
}

impl DeviceSide {
    /// The schedule that a step runs under.
    fn of(&self, step: &StepState) -> usize {
        let n = step.get(StepField::NTokens) as usize;
        self.schedules.iter().position(|s| s.tokens >= n).unwrap_or(self.schedules.len() - 1)
    }

    /// Scratch memory for the neediest instance of any schedule.
    fn scratch(&mut self, plan: &Plan) -> Result<BufferId> {
        if let Some((id, _)) = self.scratch {
            return Ok(id);
        }
        let bytes = scratch_bytes(plan, &self.schedules)?;
        let id = self.device.alloc(bytes).map_err(|e| e.about("scratch memory"))?;
        self.scratch = Some((id, bytes));
        Ok(id)
    }
}

/// Bytes of scratch memory that the neediest instance of any schedule asks for.
pub fn scratch_bytes(plan: &Plan, schedules: &[Schedule]) -> Result<u64> {
    let mut most = 0;
    for schedule in schedules {
        for i in 0..plan.instances.len() {
            most = most.max(schedule.scratch(plan, i)?);
        }
    }
    Ok(most)
}

/// One entry of a step's trace: every instance that ran, and where.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Ran {
    pub instance: usize,
    pub placement: Placement,
    pub launches: Vec<Traced>,
}

/// See the module's documentation.
pub struct Executor<'m> {
    model: &'m Model,
    plan: Arc<Plan>,
    host: Vec<Vec<u32>>,
    valid: Vec<Valid>,
    /// Caches that nothing has written since the reset, with the word that they hold everywhere: a device fills its own
    /// instead of being sent gigabytes of zeros.
    initial: Vec<Option<u32>>,
    side: Option<DeviceSide>,
    placed: Vec<bool>,
    noop: Option<Node>,
    trace: Vec<Ran>,
}

impl<'m> Executor<'m> {
    /// Everything on the oracle, caches empty.
    pub fn new(model: &'m Model, plan: Arc<Plan>) -> Executor<'m> {
        let n = plan.buffers.len();
        let placed = vec![false; plan.instances.len()];
        let mut e = Executor {
            model,
            plan,
            host: vec![Vec::new(); n],
            valid: vec![Valid::default(); n],
            initial: vec![None; n],
            side: None,
            placed,
            noop: None,
            trace: Vec::new(),
        };
        e.reset();
        e
    }

    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Empties every cache. Weights and modules stay where they are.
    pub fn reset(&mut self) {
        for i in 0..self.plan.buffers.len() {
            self.reset_buffer(i);
        }
    }

    fn reset_buffer(&mut self, i: usize) {
        let capacity = self.plan.capacity(BufferIx(i));
        self.valid[i] = Valid { host: true, device: false };
        self.initial[i] = None;
        self.host[i] = match &self.plan.buffers[i].role {
            Role::Cache { initial } => {
                self.initial[i] = Some(initial.to_bits());
                // Zeroed pages are not resident until they are touched.
                if *initial == 0.0 { vec![0; capacity] } else { vec![initial.to_bits(); capacity] }
            }
            Role::Constant(values) => values.iter().map(|v| v.to_bits()).collect(),
            Role::Input | Role::Temporary | Role::Output => Vec::new(),
        };
    }

    /// Puts the instances that `place` names on `device`, with the schedule's launches. `module` compiles a stem.
    pub fn attach(
        &mut self,
        device: Box<dyn Device>,
        schedule: Schedule,
        module: impl Fn(&str, &[String]) -> Result<Module> + Sync,
        place: impl Fn(usize) -> bool,
    ) -> Result<()> {
        self.attach_all(device, vec![schedule], module, place)
    }

    /// The same with a schedule for each of several lengths of a step. An instance that a step's schedule has no variant
    /// for is computed by the oracle in that step, and the trace says so. Modules are asked for side by side: compiled
    /// one by one, those of a whole model take a minute.
    pub fn attach_all(
        &mut self,
        mut device: Box<dyn Device>,
        mut schedules: Vec<Schedule>,
        module: impl Fn(&str, &[String]) -> Result<Module> + Sync,
        place: impl Fn(usize) -> bool,
    ) -> Result<()> {
        schedules.sort_by_key(|s| s.tokens);
        if schedules.is_empty() {
            return Err(Error::internal("a device was attached without a schedule"));
        }
        let mut stems: BTreeSet<&str> = BTreeSet::new();
        for i in 0..self.placed.len() {
            self.placed[i] = place(i) && schedules.iter().any(|s| s.choices[i].is_some());
            if self.placed[i] {
                stems.extend(schedules.iter().filter_map(|s| s.choices[i].as_ref()).map(|c| c.stem.as_str()));
            }
        }
        let built: Vec<(&str, Module)> = stems
            .into_par_iter()
            .map(|stem| Ok((stem, module(stem, &entries(&schedules, stem))?)))
            .collect::<Result<_>>()?;
        let mut modules = HashMap::new();
        for (stem, module) in built {
            modules.insert(stem.to_string(), device.load(&module)?);
        }
        let step = device.alloc((STEP_FIELDS * 4) as u64)?;
        self.side = Some(DeviceSide {
            device,
            schedules,
            modules,
            buffers: vec![None; self.plan.buffers.len()],
            weights: HashMap::new(),
            scratch: None,
            scratch_begins_as: None,
            step,
            expected: Vec::new(),
            recordings: HashMap::new(),
            writes: Vec::new(),
            bytes: Vec::new(),
        });
        Ok(())
    }

    /// Where an instance runs, if the step's schedule has a variant for it.
    pub fn placement(&self, instance: usize) -> Placement {
        match &self.side {
            Some(side) if self.placed[instance] => side.device.info().placement,
            _ => Placement::Oracle,
        }
    }

    /// Whether some instance runs on the oracle in some step.
    pub fn uses_oracle(&self) -> bool {
        let all = |s: &Schedule| s.choices.iter().all(Option::is_some);
        !self.placed.iter().all(|p| *p) || !self.side.as_ref().is_some_and(|s| s.schedules.iter().all(all))
    }

    /// Moves one instance between oracle and device; it must have a kernel there.
    pub fn place(&mut self, instance: usize, on_device: bool) {
        self.placed[instance] = on_device;
    }

    /// From now on scratch memory holds nothing but NaN when an instance's launches begin one by one: whoever judges
    /// them must not let a kernel live off what the one before has left there.
    pub fn poison_scratch(&mut self) {
        if let Some(side) = &mut self.side {
            side.scratch_begins_as = Some(u32::MAX);
        }
    }

    pub fn device_mut(&mut self) -> Option<&mut dyn Device> {
        self.side.as_mut().map(|s| &mut *s.device as &mut dyn Device)
    }

    /// Takes the device off again, with everything that was allocated on it freed. Everything runs on the oracle
    /// afterwards, from empty caches: call `reset`.
    pub fn detach(&mut self) -> Result<Option<Box<dyn Device>>> {
        self.placed.fill(false);
        let Some(mut side) = self.side.take() else { return Ok(None) };
        for recording in side.recordings.values() {
            side.device.forget(recording.graph)?;
        }
        let scratch = side.scratch.as_ref().map(|(id, _)| id);
        let held = side.buffers.iter().flatten().chain(side.weights.values()).chain(scratch).chain([&side.step]);
        for id in held {
            side.device.free(*id)?;
        }
        Ok(Some(side.device))
    }

    /// Replaces every instance of a node by one that writes zeros and updates nothing.
    pub fn set_noop(&mut self, node: Option<Node>) {
        self.noop = node;
    }

    /// What ran since the last call.
    pub fn take_trace(&mut self) -> Vec<Ran> {
        std::mem::take(&mut self.trace)
    }

    /// Runs a step over `tokens`; they must be as many as the step says, each within the vocabulary.
    ///
    /// A step that runs on the device as a whole is launched one by one the first time, and recorded: every later one of
    /// its kind is a replay of one graph.
    pub fn run(&mut self, step: &StepState, tokens: &[i32]) -> Result<()> {
        self.run_step(step, tokens, false)
    }

    /// The same, and the logits of the step's last `n_outputs` tokens, row after row. Of a replay they come back in the
    /// same call of the device.
    pub fn run_to_logits(&mut self, step: &StepState, tokens: &[i32]) -> Result<&[f32]> {
        self.run_step(step, tokens, true)?;
        self.logits(step)
    }

    fn run_step(&mut self, step: &StepState, tokens: &[i32], logits: bool) -> Result<()> {
        self.set_tokens(tokens);
        let Some(kind) = self.recordable(step) else { return self.run_range(step, 0..self.plan.instances.len()) };
        if self.side.as_ref().is_some_and(|s| s.recordings.contains_key(&kind)) {
            return self.replay(step, kind, logits);
        }
        self.record(step, kind)
    }

    pub fn set_tokens(&mut self, tokens: &[i32]) {
        self.write_host(self.plan.tokens, bytemuck::cast_slice(tokens));
    }

    /// Runs the active instances of a range; earlier ones must have run, or their results be given by `write_host`.
    pub fn run_range(&mut self, step: &StepState, range: Range<usize>) -> Result<()> {
        let plan = self.plan.clone();
        if let Some(side) = &mut self.side {
            side.device.write(side.step, 0, bytemuck::cast_slice(&step.0))?;
        }
        for i in range {
            let instance = &plan.instances[i];
            if !instance.guard.holds(step, plan.top_k) {
                continue;
            }
            if self.noop.as_ref() == Some(&instance.node) {
                self.zero_outputs(i, step)?;
            } else if self.on_device(i, step) {
                self.launch(i, step)?;
            } else {
                self.oracle(i, step)?;
            }
        }
        self.check_trace()
    }

    fn on_device(&self, i: usize, step: &StepState) -> bool {
        self.placed[i] && self.side.as_ref().is_some_and(|s| s.schedules[s.of(step)].choices[i].is_some())
    }

    /// What the kernel that runs an instance in this step rounds; `None` where the oracle does.
    pub fn rounding(&self, i: usize, step: &StepState) -> Option<Rounding> {
        let side = self.side.as_ref().filter(|_| self.on_device(i, step))?;
        Some(side.schedules[side.of(step)].rounding(i))
    }

    /// What instance `i` has written and updated, in the contract's order.
    pub fn outputs(&mut self, i: usize, step: &StepState) -> Result<Vec<Option<Values>>> {
        let plan = self.plan.clone();
        let instance = &plan.instances[i];
        let mut out = Vec::new();
        for (arg, buffer) in instance.contract().args.iter().zip(&instance.args) {
            out.push(match buffer {
                Some(buffer) if arg.access != Access::Read => {
                    let n = self.extent(*buffer, step);
                    self.fetch(*buffer, n)?;
                    Some(values(arg.elem, &self.host[buffer.0][..n]))
                }
                _ => None,
            });
        }
        Ok(out)
    }
}

/// Every entry of a stem that some schedule launches.
pub fn entries(schedules: &[Schedule], stem: &str) -> Vec<String> {
    let choices = schedules.iter().flat_map(|s| s.choices.iter().flatten()).filter(|c| c.stem == stem);
    let entries: BTreeSet<_> = choices.flat_map(|c| c.variant.launches.iter().map(|l| l.entry.clone())).collect();
    entries.into_iter().collect()
}

fn values(elem: Elem, words: &[u32]) -> Values {
    match elem {
        Elem::F32 => Values::F32(words.iter().map(|w| f32::from_bits(*w)).collect()),
        Elem::I32 => Values::I32(words.iter().map(|w| *w as i32).collect()),
    }
}
