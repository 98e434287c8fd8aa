//! Stage 7: a run of launches, one by one and as a captured graph.

use std::ops::Range;

use super::Executor;
use crate::backend::{BufferId, Placement, Traced};
use crate::error::{Error, Result};
use crate::ops::{Access, Elem};
use crate::plan::{BufferIx, StepState};

/// How the graph of a run of launches compared with the launches one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub launches: usize,
    /// The kernel nodes that the driver gives back are the schedule's.
    pub nodes_match: bool,
    /// Every buffer that the run changes holds the same bytes.
    pub bytes_match: bool,
}

impl Executor<'_> {
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
}
