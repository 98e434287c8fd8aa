//! Buffers between host and device: each knows on which side its newest contents are, and is copied when the other
//! needs it.

use super::{Executor, POISON, Valid};
use crate::backend::BufferId;
use crate::error::{Error, Result};
use crate::ops::Elem;
use crate::plan::{BufferIx, StepState};

impl Executor<'_> {
    /// The elements of a buffer that a step uses; for caches all of them.
    pub(super) fn extent(&self, buffer: BufferIx, step: &StepState) -> usize {
        self.plan.used(buffer, step)
    }

    /// Gives a buffer these contents.
    pub fn write_host(&mut self, buffer: BufferIx, words: &[u32]) {
        self.host[buffer.0].clear();
        self.host[buffer.0].extend_from_slice(words);
        self.changed_on_host(buffer);
    }

    pub(super) fn changed_on_host(&mut self, buffer: BufferIx) {
        self.valid[buffer.0] = Valid { host: true, device: false };
        self.initial[buffer.0] = None;
    }

    pub(super) fn changed_on_device(&mut self, buffer: BufferIx) {
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
    pub(super) fn fetch(&mut self, buffer: BufferIx, n: usize) -> Result<()> {
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
    pub(super) fn send(&mut self, buffer: BufferIx, read: bool, n: usize) -> Result<BufferId> {
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
}
