//! A step that runs on the device as a whole: recorded once, then replayed in one call.

use std::sync::Arc;

use super::{Executor, POISON, Ran, TRACE, Valid};
use crate::backend::{GraphId, Launch, Span, Step, Traced};
use crate::error::{Error, Result};
use crate::ops::Access;
use crate::plan::{BufferIx, Guard, StepField, StepState};

/// Longest write that goes along with a step; a longer one (a cache put back from the host) goes ahead of it.
const SHORT: usize = 64 << 10;

/// What one recording serves: a schedule, and which of the plan's guards hold.
pub(super) type Recordable = (usize, [bool; 3]);

/// A step whose every instance runs on the device, as one graph. Counts and positions are data of the step, so it
/// serves every step of its kind.
pub(super) struct Recording {
    pub(super) graph: GraphId,
    ran: Arc<[Ran]>,
    /// Buffers in the order of their first use, with whether what they hold before the step is read.
    reads: Vec<BufferIx>,
    writes: Vec<BufferIx>,
    replays: usize,
}

/// One launch's time.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// Index of its op instance in the plan.
    pub instance: usize,
    pub entry: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub ms: f32,
}

impl Executor<'_> {
    /// `None` where an active instance runs on the oracle, or nothing is attached.
    pub(super) fn recordable(&self, step: &StepState) -> Option<Recordable> {
        let side = self.side.as_ref()?;
        let plan = &self.plan;
        let whole = self.noop.is_none() && plan.active(step).all(|(i, _)| self.on_device(i, step));
        let holds = |guard: Guard| guard.holds(step, plan.top_k);
        let (rows4, rows128) = (Guard::Rows(StepField::Rows4), Guard::Rows(StepField::Rows128));
        whole.then(|| (side.of(step), [holds(rows4), holds(rows128), holds(Guard::Selecting)]))
    }

    /// The step's launches, with what they read sent to the device. Results are marked as written.
    fn launches(&mut self, step: &StepState) -> Result<(Vec<Launch>, Vec<Ran>)> {
        let plan = self.plan.clone();
        let (mut all, mut ran) = (Vec::new(), Vec::new());
        let active: Vec<usize> = plan.active(step).map(|(i, _)| i).collect();
        for i in active {
            let (launches, record) = self.prepare(i, step)?;
            all.extend(launches);
            ran.push(record);
        }
        Ok((all, ran))
    }

    pub(super) fn record(&mut self, step: &StepState, kind: Recordable) -> Result<()> {
        let plan = self.plan.clone();
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        for (_, instance) in plan.active(step) {
            for (arg, buffer) in instance.contract().args.iter().zip(&instance.args) {
                let Some(buffer) = *buffer else { continue };
                let seen = reads.contains(&buffer) || writes.contains(&buffer);
                if arg.access != Access::Write && !seen {
                    reads.push(buffer);
                }
                if arg.access != Access::Read && !writes.contains(&buffer) {
                    writes.push(buffer);
                }
            }
        }
        let before = std::mem::take(&mut self.trace);
        self.run_range(step, 0..plan.instances.len())?;
        let ran: Arc<[Ran]> = std::mem::replace(&mut self.trace, before).into();
        let (launches, _) = self.launches(step)?;
        let side = self.side.as_mut().ok_or_else(|| Error::internal("no device attached"))?;
        let (graph, nodes) = side.device.record(&launches)?;
        let expected: Vec<&Traced> = ran.iter().flat_map(|r| &r.launches).collect();
        if nodes.iter().ne(expected.iter().copied()) {
            return Err(Error::new(&TRACE, "the recorded graph holds other kernels than the schedule")
                .expected(format!("{} launches", expected.len()))
                .found(format!("{} kernels", nodes.len())));
        }
        self.trace.extend(ran.iter().cloned());
        side.recordings.insert(kind, Recording { graph, ran, reads, writes, replays: 0 });
        Ok(())
    }

    /// One call of the device, whatever goes in and comes out.
    pub(super) fn replay(&mut self, step: &StepState, kind: Recordable, logits: bool) -> Result<()> {
        let (plan, host) = (&self.plan, &mut self.host);
        let side = self.side.as_mut().ok_or_else(|| Error::internal("no device attached"))?;
        let recording =
            side.recordings.get_mut(&kind).ok_or_else(|| Error::internal("a replay of what was not recorded"))?;
        side.writes.clear();
        side.bytes.clear();
        let state: &[u8] = bytemuck::cast_slice(&step.0);
        side.writes.push(Span { buffer: side.step, offset: 0, len: state.len() as u64 });
        side.bytes.extend_from_slice(state);
        for buffer in &recording.reads {
            if self.valid[buffer.0].device {
                continue;
            }
            self.valid[buffer.0].device = true;
            let id =
                side.buffers[buffer.0].ok_or_else(|| Error::internal("a recorded step reads what has no place"))?;
            if let Some(word) = self.initial[buffer.0] {
                side.device.fill(id, word)?;
                continue;
            }
            let n = plan.used(*buffer, step).min(host[buffer.0].len());
            let bytes: &[u8] = bytemuck::cast_slice(&host[buffer.0][..n]);
            if bytes.len() > SHORT {
                side.device.write(id, 0, bytes)?;
            } else {
                side.writes.push(Span { buffer: id, offset: 0, len: bytes.len() as u64 });
                side.bytes.extend_from_slice(bytes);
            }
        }
        let at = plan.logits;
        let n = if logits { plan.used(at, step) } else { 0 };
        if host[at.0].len() < n {
            host[at.0].resize(n, POISON);
        }
        let into: &mut [u8] = bytemuck::cast_slice_mut(&mut host[at.0][..n]);
        let read = side.buffers[at.0].filter(|_| logits);
        let read = read.map(|buffer| Span { buffer, offset: 0, len: into.len() as u64 });
        let call = Step { writes: &side.writes, bytes: &side.bytes, graph: recording.graph, read };
        side.device.step(&call, into).map_err(|e| match e.code().id {
            // A graph has one name for all of its launches.
            "cuda-launch" | "cuda-timeout" => {
                e.hint("assay run --trace-values runs it launch by launch and names the one")
            }
            _ => e,
        })?;
        for buffer in &recording.writes {
            self.valid[buffer.0] = Valid { host: false, device: true };
            self.initial[buffer.0] = None;
        }
        self.valid[at.0].host = read.is_some();
        recording.replays += 1;
        Ok(())
    }

    /// What the replays since the last call ran, each with how often.
    pub fn take_replays(&mut self) -> Vec<(Arc<[Ran]>, usize)> {
        let Some(side) = &mut self.side else { return Vec::new() };
        let used = side.recordings.values_mut().filter(|r| r.replays > 0);
        used.map(|r| (r.ran.clone(), std::mem::take(&mut r.replays))).collect()
    }

    /// Every launch of a step with its time ([`Device::time_each`](crate::backend::Device::time_each)). The step runs several times,
    /// so state moves on as it does in no generation.
    pub fn time_each(&mut self, step: &StepState, tokens: &[i32]) -> Result<Vec<Timed>> {
        if let Some((_, instance)) = self.plan.active(step).find(|(i, _)| !self.on_device(*i, step)) {
            let what = format!("launches cannot be timed while {} runs on the oracle", instance.node);
            return Err(Error::usage(what).hint("leave out --per-node and --trace"));
        }
        self.run(step, tokens)?;
        let (launches, ran) = self.launches(step)?;
        let side = self.side.as_mut().ok_or_else(|| Error::internal("no device attached"))?;
        let times = side.device.time_each(&launches)?;
        let of = ran.iter().flat_map(|r| r.launches.iter().map(|_| r.instance));
        let timed = |((instance, launch), ms): ((usize, Launch), f32)| {
            let Launch { entry, grid, block, shared, .. } = launch;
            Timed { instance, entry, grid, block, shared, ms }
        };
        Ok(of.zip(launches).zip(times).map(timed).collect())
    }
}
