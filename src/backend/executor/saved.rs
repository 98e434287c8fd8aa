//! A sequence's caches, kept to go back to.

use super::Executor;
use crate::backend::BufferId;
use crate::error::{Error, Result};
use crate::ops::Elem;
use crate::plan::{BufferIx, Role};

/// Copies of all caches: what [`Executor::save`] gives.
pub struct Saved(Vec<(BufferIx, Copied)>);

enum Copied {
    /// As it is after a reset.
    Initial,
    Host(Vec<u32>),
    /// A buffer of the device that was attached then, and its bytes.
    Device(BufferId, u64),
}

impl Executor<'_> {
    /// Copies every cache, where its newest contents are.
    pub fn save(&mut self) -> Result<Saved> {
        let mut saved = Saved(Vec::new());
        match self.save_into(&mut saved.0) {
            Ok(()) => Ok(saved),
            Err(e) => {
                // What says why is the first error, whatever becomes of the copies that were made before it.
                let _ = self.discard(saved);
                Err(e)
            }
        }
    }

    fn save_into(&mut self, copies: &mut Vec<(BufferIx, Copied)>) -> Result<()> {
        let plan = self.plan.clone();
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
                    copies.push((BufferIx(i), Copied::Device(copy, bytes)));
                    side.device.copy(id, copy, bytes)?;
                    continue;
                }
            };
            copies.push((BufferIx(i), copy));
        }
        Ok(())
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
}
