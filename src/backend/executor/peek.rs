//! A look at parts of buffers, for those who judge: nothing is moved, and no more is read than is asked for.

use super::{Executor, POISON};
use crate::error::Result;
use crate::plan::BufferIx;

impl Executor<'_> {
    /// Elements `at..at + n` of a buffer, as bits, from where its newest contents are.
    pub fn peek(&mut self, buffer: BufferIx, at: usize, n: usize) -> Result<Vec<u32>> {
        let mut out = vec![POISON; n];
        let held = &self.host[buffer.0];
        if self.valid[buffer.0].host {
            let end = held.len().min(at + n);
            if at < end {
                out[..end - at].copy_from_slice(&held[at..end]);
            }
            return Ok(out);
        }
        if let Some(side) = &mut self.side
            && let Some(id) = side.buffers[buffer.0]
        {
            side.device.sync()?;
            side.device.read(id, at as u64 * 4, bytemuck::cast_slice_mut(&mut out))?;
        }
        Ok(out)
    }
}
