//! The one executor: runs a plan's instances in order, each where it is placed.
//!
//! Oracle instances are computed here, in host memory; the others are launched on a [`Device`] as the schedule says.
//! Every buffer knows on which side its newest contents are, and is copied when the other side needs it. What was
//! launched is compared with what the device reports at the end of every step.

mod load;
mod peek;
mod replay;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::backend::{BufferId, Device, Field, Launch, Module, ModuleId, Placement, Span, Traced};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::cases::Values;
use crate::ops::{Access, Call, Elem, Node, Rounding, Slot, Weight};
use crate::plan::schedule::Schedule;
use crate::plan::{BufferIx, Plan, Role, STEP_FIELDS, StepField, StepState};

pub use self::load::Loaded;
pub use self::replay::Timed;
use self::replay::{Recordable, Recording};

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

/// How the graph of a run of launches compared with the launches one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub launches: usize,
    /// The kernel nodes that the driver gives back are the schedule's.
    pub nodes_match: bool,
    /// Every buffer that the run changes holds the same bytes.
    pub bytes_match: bool,
}

/// Copies of all caches: what [`Executor::save`] gives.
pub struct Saved(Vec<(BufferIx, Copied)>);

enum Copied {
    /// As it is after a reset.
    Initial,
    Host(Vec<u32>),
    /// A buffer of the device that was attached then, and its bytes.
    Device(BufferId, u64),
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

    /// Copies every cache, where its newest contents are.
    pub fn save(&mut self) -> Result<Saved> {
        let plan = self.plan.clone();
        let mut copies = Vec::new();
        for (i, buffer) in plan.buffers.iter().enumerate() {
            if !matches!(buffer.role, Role::Cache { .. }) {
                continue;
            }
            let on_device = self.side.as_mut().filter(|_| self.valid[i].device);
            let copy = match on_device.and_then(|s| s.buffers[i].map(|id| (s, id))) {
                _ if self.initial[i].is_some() => Copied::Initial,
                None => Copied::Host(self.host[i].clone()),
                Some((side, id)) => {
                    let bytes = plan.capacity(BufferIx(i)).max(1) as u64 * Elem::BYTES as u64;
                    let copy = side.device.alloc(bytes);
                    let copy = copy.map_err(|e| e.about(format_args!("a copy of the cache `{}`", buffer.name)))?;
                    side.device.copy(id, copy, bytes)?;
                    Copied::Device(copy, bytes)
                }
            };
            copies.push((BufferIx(i), copy));
        }
        Ok(Saved(copies))
    }

    /// Puts saved caches back.
    pub fn restore(&mut self, saved: &Saved) -> Result<()> {
        for (buffer, copy) in &saved.0 {
            match copy {
                Copied::Initial => {
                    self.reset_buffer(buffer.0);
                    // Now, and not when the next step needs it and may be timed.
                    if self.side.as_ref().is_some_and(|s| s.buffers[buffer.0].is_some()) {
                        self.send(*buffer, true, 0)?;
                    }
                }
                Copied::Host(words) => self.write_host(*buffer, words),
                Copied::Device(copy, bytes) => {
                    let id = self.send(*buffer, false, 0)?;
                    let side = self.side.as_mut().ok_or_else(|| Error::internal("no device attached"))?;
                    side.device.copy(*copy, id, *bytes)?;
                    self.changed_on_device(*buffer);
                }
            }
        }
        Ok(())
    }

    pub fn discard(&mut self, saved: Saved) -> Result<()> {
        let Some(side) = &mut self.side else { return Ok(()) };
        for (_, copy) in saved.0 {
            if let Copied::Device(copy, _) = copy {
                side.device.free(copy)?;
            }
        }
        Ok(())
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

    fn check_trace(&mut self) -> Result<()> {
        let Some(side) = &mut self.side else { return Ok(()) };
        side.device.sync()?;
        let (seen, expected) = (side.device.take_trace()?, std::mem::take(&mut side.expected));
        if seen == expected {
            return Ok(());
        }
        let at = seen.iter().zip(&expected).take_while(|(a, b)| a == b).count();
        Err(Error::new(&TRACE, format!("launch {at} of the step is not the schedule's"))
            .expected(format!("{:?} of {} launches", expected.get(at), expected.len()))
            .found(format!("{:?} of {} launches", seen.get(at), seen.len())))
    }

    /// The elements of a buffer that a step uses; for caches all of them.
    fn extent(&self, buffer: BufferIx, step: &StepState) -> usize {
        self.plan.used(buffer, step)
    }

    /// Gives a buffer these contents.
    pub fn write_host(&mut self, buffer: BufferIx, words: &[u32]) {
        self.host[buffer.0].clear();
        self.host[buffer.0].extend_from_slice(words);
        self.changed_on_host(buffer);
    }

    fn changed_on_host(&mut self, buffer: BufferIx) {
        self.valid[buffer.0] = Valid { host: true, device: false };
        self.initial[buffer.0] = None;
    }

    fn changed_on_device(&mut self, buffer: BufferIx) {
        self.valid[buffer.0] = Valid { host: false, device: true };
        self.initial[buffer.0] = None;
    }

    /// A buffer's contents in a step, as f32.
    pub fn read(&mut self, buffer: BufferIx, step: &StepState) -> Result<&[f32]> {
        let n = self.extent(buffer, step);
        self.fetch(buffer, n)?;
        Ok(bytemuck::cast_slice(&self.host[buffer.0][..n]))
    }

    /// The logits of the step's last `n_outputs` tokens, row after row.
    pub fn logits(&mut self, step: &StepState) -> Result<&[f32]> {
        self.read(self.plan.logits, step)
    }

    /// Makes the first `n` elements valid on the host.
    fn fetch(&mut self, buffer: BufferIx, n: usize) -> Result<()> {
        let (host, valid) = (&mut self.host[buffer.0], &mut self.valid[buffer.0]);
        if host.len() < n {
            host.resize(n, POISON);
        }
        if !valid.host
            && let Some(side) = &mut self.side
            && let Some(id) = side.buffers[buffer.0]
        {
            side.device.sync()?;
            side.device.read(id, 0, bytemuck::cast_slice_mut(&mut host[..n]))?;
        }
        valid.host = true;
        Ok(())
    }

    /// Makes a buffer's contents valid on the device, where it must be allocated for its worst case.
    fn send(&mut self, buffer: BufferIx, read: bool, n: usize) -> Result<BufferId> {
        let capacity = self.plan.capacity(buffer);
        let (host, valid) = (&self.host[buffer.0], &mut self.valid[buffer.0]);
        let side = self.side.as_mut().ok_or_else(|| Error::internal("no device attached"))?;
        let id = match side.buffers[buffer.0] {
            Some(id) => id,
            None => {
                let id = side.device.alloc(capacity.max(1) as u64 * Elem::BYTES as u64);
                let id = id.map_err(|e| e.about(format_args!("the buffer `{}`", self.plan.buffers[buffer.0].name)))?;
                side.device.fill(id, POISON)?;
                side.buffers[buffer.0] = Some(id);
                id
            }
        };
        if read && !valid.device {
            match self.initial[buffer.0] {
                Some(word) => side.device.fill(id, word)?,
                None => side.device.write(id, 0, bytemuck::cast_slice(&host[..n.min(host.len())]))?,
            }
            valid.device = true;
        }
        Ok(id)
    }

    fn launch(&mut self, i: usize, step: &StepState) -> Result<Vec<Launch>> {
        let (launches, ran) = self.prepare(i, step)?;
        let side = self.side.as_mut().ok_or_else(|| Error::internal("no device attached"))?;
        if let (Some(word), Some((scratch, _))) = (side.scratch_begins_as, side.scratch)
            && side.schedules[side.of(step)].scratch(&self.plan, i)? > 0
        {
            side.device.fill(scratch, word)?;
        }
        for launch in &launches {
            side.device.launch(launch)?;
        }
        side.expected.extend(ran.launches.iter().cloned());
        self.trace.push(ran);
        Ok(launches)
    }

    /// The launches of instance `i`, with what it reads sent to the device and its results marked as there.
    fn prepare(&mut self, i: usize, step: &StepState) -> Result<(Vec<Launch>, Ran)> {
        let plan = self.plan.clone();
        let (fields, buffers) = self.fields(i, step)?;
        let instance = &plan.instances[i];
        let side = self.side.as_mut().ok_or_else(|| Error::internal("no device attached"))?;
        let schedule = &side.schedules[side.of(step)];
        let choice = schedule.choices[i].clone();
        let choice = choice
            .ok_or_else(|| Error::internal(format!("{} is placed on the device without a kernel", instance.label)))?;
        let module = side.modules[&choice.stem];
        let (mut launches, mut traced) = (Vec::new(), Vec::new());
        for g in schedule.launches(&plan, i)? {
            let name = format!("{}: {}", instance.label, g.entry);
            let (grid, block, shared) = (g.grid, g.block, g.shared);
            traced.push(Traced { entry: g.entry.clone(), grid, block, shared });
            launches.push(Launch { name, module, entry: g.entry, grid, block, shared, args: fields.clone() });
        }
        let placement = side.device.info().placement;
        for (buffer, access) in buffers {
            if access != Access::Read {
                self.changed_on_device(buffer);
            }
        }
        Ok((launches, Ran { instance: i, placement, launches: traced }))
    }

    /// The argument struct of instance `i`, with everything that it reads sent to the device.
    fn fields(&mut self, i: usize, step: &StepState) -> Result<(Vec<Field>, Bound)> {
        let plan = self.plan.clone();
        let instance = &plan.instances[i];
        let contract = instance.contract();
        let (mut fields, mut buffers) = (Vec::new(), Vec::new());
        for (arg, buffer) in contract.args.iter().zip(&instance.args) {
            let Some(buffer) = *buffer else {
                fields.push(Field::Null);
                continue;
            };
            let n = self.extent(buffer, step);
            // Results that stay on the device leave the host's copy short of this step.
            if !self.valid[buffer.0].device && arg.access != Access::Write && self.host[buffer.0].len() < n {
                return Err(Error::internal(format!(
                    "{}: `{}` is read before it is written",
                    instance.label, arg.name
                )));
            }
            let id = self.send(buffer, arg.access != Access::Write, n)?;
            fields.push(Field::Pointer { buffer: id, offset: 0 });
            buffers.push((buffer, arg.access));
        }
        for weight in &instance.weights {
            fields.push(match weight {
                None => Field::Null,
                Some(name) => Field::Pointer { buffer: self.weight(name)?, offset: 0 },
            });
        }
        let side = self.side.as_mut().ok_or_else(|| Error::internal("no device attached"))?;
        for field in &instance.steps {
            fields.push(Field::Pointer { buffer: side.step, offset: *field as u64 * 4 });
        }
        let at = side.of(step);
        fields.push(if side.schedules[at].scratch(&plan, i)? == 0 {
            Field::Null
        } else {
            Field::Pointer { buffer: side.scratch(&plan)?, offset: 0 }
        });
        for d in &instance.dims {
            let d = i32::try_from(*d).map_err(|_| Error::internal(format!("{}: dimension {d}", instance.label)))?;
            fields.push(Field::I32(d));
        }
        for (scalar, value) in contract.scalars.iter().zip(&instance.scalars) {
            fields.push(match scalar.elem {
                Elem::F32 => Field::F32(*value as f32),
                Elem::I32 => Field::I32(*value as i32),
            });
        }
        Ok((fields, buffers))
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

    /// Stage 7 of one maximal run of device launches: runs it launch by launch, puts every buffer that it changed back,
    /// replays it as a captured graph, and compares nodes and bytes. `None` where the device has no graphs.
    pub fn replay_segment(&mut self, step: &StepState, range: Range<usize>) -> Result<Option<Segment>> {
        if self.side.as_ref().is_none_or(|s| s.device.info().placement != Placement::Device) {
            return Ok(None);
        }
        let plan = self.plan.clone();
        let mut launches = Vec::new();
        let mut changed: Vec<BufferIx> = Vec::new();
        if let Some(side) = &mut self.side {
            side.device.write(side.step, 0, bytemuck::cast_slice(&step.0))?;
        }
        for i in range.clone() {
            let instance = &plan.instances[i];
            for (arg, buffer) in instance.contract().args.iter().zip(&instance.args) {
                if let (true, Some(b)) = (arg.access != Access::Read, buffer)
                    && !changed.contains(b)
                {
                    changed.push(*b);
                    let read = arg.access == Access::Update;
                    let n = self.extent(*b, step);
                    self.send(*b, read, n)?;
                }
            }
        }
        let before = self.device_bytes(&changed)?;
        for i in range {
            if plan.instances[i].guard.holds(step, plan.top_k) {
                launches.extend(self.launch(i, step)?);
            }
        }
        self.check_trace()?;
        let eager = self.device_bytes(&changed)?;
        let side = self.side.as_mut().ok_or_else(|| Error::internal("no device attached"))?;
        for (id, bytes) in &before {
            side.device.write(*id, 0, bytes)?;
        }
        let (graph, nodes) = side.device.record(&launches)?;
        side.device.replay(graph)?;
        side.device.sync()?;
        side.device.forget(graph)?;
        let expected: Vec<Traced> = launches
            .iter()
            .map(|l| Traced { entry: l.entry.clone(), grid: l.grid, block: l.block, shared: l.shared })
            .collect();
        let replayed = self.device_bytes(&changed)?;
        Ok(Some(Segment { launches: launches.len(), nodes_match: nodes == expected, bytes_match: eager == replayed }))
    }

    fn device_bytes(&mut self, buffers: &[BufferIx]) -> Result<Vec<(BufferId, Vec<u8>)>> {
        let side = self.side.as_mut().ok_or_else(|| Error::internal("no device attached"))?;
        side.device.sync()?;
        let mut out = Vec::new();
        for b in buffers {
            let Some(id) = side.buffers[b.0] else { continue };
            let mut bytes = vec![0; self.plan.capacity(*b).max(1) * Elem::BYTES];
            side.device.read(id, 0, &mut bytes)?;
            out.push((id, bytes));
        }
        Ok(out)
    }

    fn zero_outputs(&mut self, i: usize, step: &StepState) -> Result<()> {
        let plan = self.plan.clone();
        let instance = &plan.instances[i];
        for (arg, buffer) in instance.contract().args.iter().zip(&instance.args) {
            if let (Access::Write, Some(buffer)) = (arg.access, buffer) {
                let n = self.extent(*buffer, step);
                self.write_host(*buffer, &vec![0; n]);
            }
        }
        Ok(())
    }

    fn oracle(&mut self, i: usize, step: &StepState) -> Result<()> {
        let plan = self.plan.clone();
        let instance = &plan.instances[i];
        let contract = instance.contract();
        // Buffers leave the table while the op borrows them, so that one can be written while others are read.
        let mut taken: Vec<(BufferIx, Vec<u32>)> = Vec::new();
        for (arg, buffer) in contract.args.iter().zip(&instance.args) {
            let Some(buffer) = *buffer else { continue };
            let n = self.extent(buffer, step);
            if arg.access == Access::Write {
                if self.host[buffer.0].len() < n {
                    self.host[buffer.0].resize(n, POISON);
                }
            } else {
                self.fetch(buffer, n)?;
            }
            if taken.iter().any(|(b, _)| *b == buffer) {
                return Err(Error::internal(format!("{} binds one buffer twice", instance.label)));
            }
            taken.push((buffer, std::mem::take(&mut self.host[buffer.0])));
        }
        let mut storage = taken.iter_mut();
        let mut slots = Vec::new();
        for (arg, buffer) in contract.args.iter().zip(&instance.args) {
            let Some(buffer) = *buffer else {
                slots.push(Slot::Absent);
                continue;
            };
            let n = plan.used(buffer, step);
            let words =
                storage.next().map(|(_, w)| &mut w[..n]).ok_or_else(|| Error::internal("a buffer is missing"))?;
            slots.push(match (arg.elem, arg.access) {
                (Elem::F32, Access::Read) => Slot::F32(bytemuck::cast_slice(words)),
                (Elem::I32, Access::Read) => Slot::I32(bytemuck::cast_slice(words)),
                (Elem::F32, _) => Slot::F32Mut(bytemuck::cast_slice_mut(words)),
                (Elem::I32, _) => Slot::I32Mut(bytemuck::cast_slice_mut(words)),
            });
        }
        let weights = instance.weights.iter().map(|w| w.as_deref().map(|w| host_weight(self.model, w)).transpose());
        let mut call = Call {
            contract,
            slots,
            weights: weights.collect::<Result<_>>()?,
            steps: instance.steps.iter().map(|f| step.get(*f)).collect(),
            dims: instance.dims.clone(),
            scalars: instance.scalars.clone(),
            rounding: Rounding::None,
        };
        let outcome = instance.op.oracle(&mut call);
        drop(call);
        for (buffer, words) in taken {
            self.host[buffer.0] = words;
        }
        outcome?;
        for (arg, buffer) in contract.args.iter().zip(&instance.args) {
            if let (true, Some(buffer)) = (arg.access != Access::Read, buffer) {
                self.changed_on_host(*buffer);
            }
        }
        self.trace.push(Ran { instance: i, placement: Placement::Oracle, launches: vec![] });
        Ok(())
    }
}

/// Every entry of a stem that some schedule launches.
pub fn entries(schedules: &[Schedule], stem: &str) -> Vec<String> {
    let choices = schedules.iter().flat_map(|s| s.choices.iter().flatten()).filter(|c| c.stem == stem);
    let entries: BTreeSet<_> = choices.flat_map(|c| c.variant.launches.iter().map(|l| l.entry.clone())).collect();
    entries.into_iter().collect()
}

/// A tensor as the oracle reads it.
pub fn host_weight<'m>(model: &'m Model, name: &str) -> Result<Weight<'m>> {
    let t = model.tensor(name).ok_or_else(|| Error::internal(format!("no tensor {name}")))?;
    Ok(Weight { dtype: t.dtype, k: t.width(), rows: t.rows(), bytes: t.bytes })
}

fn values(elem: Elem, words: &[u32]) -> Values {
    match elem {
        Elem::F32 => Values::F32(words.iter().map(|w| f32::from_bits(*w)).collect()),
        Elem::I32 => Values::I32(words.iter().map(|w| *w as i32).collect()),
    }
}
