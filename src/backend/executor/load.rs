//! Weights and buffers, before the first step.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::{DeviceSide, Executor, scratch_bytes};
use crate::backend::{BufferId, FilePart};
use crate::error::{Error, Result};
use crate::model::Tensor;

/// What [`Executor::load`] brought to the device.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    pub bytes: u64,
    pub time: Duration,
}

/// Where a tensor lies in the map: aliases share it.
fn place_of(tensor: &Tensor<'_>) -> (usize, usize) {
    (tensor.bytes.as_ptr() as usize, tensor.bytes.len())
}

impl DeviceSide {
    fn alloc_tensor(&mut self, tensor: &Tensor<'_>) -> Result<BufferId> {
        self.device.alloc(tensor.bytes.len() as u64).map_err(|e| e.about(format_args!("tensor {}", tensor.name)))
    }
}

impl<'m> Executor<'m> {
    fn tensor(&self, name: &str) -> Result<Tensor<'m>> {
        self.model.tensor(name).ok_or_else(|| Error::internal(format!("no tensor {name}")))
    }

    pub(super) fn weight(&mut self, name: &str) -> Result<BufferId> {
        let tensor = self.tensor(name)?;
        let side = self.side.as_mut().ok_or_else(|| Error::internal("no device attached"))?;
        if let Some(id) = side.weights.get(&place_of(&tensor)) {
            return Ok(*id);
        }
        let id = side.alloc_tensor(&tensor)?;
        side.device.write(id, 0, tensor.bytes).map_err(|e| e.about(format_args!("tensor {name}")))?;
        side.weights.insert(place_of(&tensor), id);
        Ok(id)
    }

    /// Loads every tensor that instances on the device read, and allocates everything that steps write, so that no step
    /// has to wait for either or fail for want of memory. The device reads the model's file itself, for which it must
    /// have leave. `progress` hears how many bytes of how many are there.
    pub fn load(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<Loaded> {
        let (started, plan) = (Instant::now(), self.plan.clone());
        let placed: Vec<usize> = (0..plan.instances.len()).filter(|i| self.placed[*i]).collect();
        let (mut seen, mut total, mut done) = (HashSet::new(), 0, 0);
        let (mut from, mut parts): (_, Vec<(FilePart, &str)>) = (None, Vec::new());
        for name in placed.iter().flat_map(|i| plan.instances[*i].weights.iter().flatten()) {
            let tensor = self.tensor(name)?;
            let len = tensor.bytes.len() as u64;
            if !seen.insert(place_of(&tensor)) {
                continue;
            }
            total += len;
            let side = self.side.as_mut().ok_or_else(|| Error::internal("no device attached"))?;
            match self.model.gguf.locate(tensor.bytes) {
                Some((source, at)) if !side.weights.contains_key(&place_of(&tensor)) => {
                    let buffer = side.alloc_tensor(&tensor)?;
                    side.weights.insert(place_of(&tensor), buffer);
                    parts.push((FilePart { buffer, at, len }, name));
                    from = Some(source);
                }
                // Loaded before, or bytes that are no part of the file.
                _ => {
                    self.weight(name)?;
                    done += len;
                }
            }
        }
        for i in placed {
            for buffer in plan.instances[i].args.iter().flatten() {
                self.send(*buffer, false, 0)?;
            }
        }
        let side = self.side.as_mut().ok_or_else(|| Error::internal("no device attached"))?;
        if scratch_bytes(&plan, &side.schedules)? > 0 {
            side.scratch(&plan)?;
        }
        progress(done, total);
        // In the file's order, whatever the model's.
        parts.sort_by_key(|(part, _)| part.at);
        // A call is as long as leaves a bar moving, and longer where the device is quick.
        let (mut rest, mut most) = (&parts[..], 256 << 20);
        while let (Some(source), [(first, _), ..]) = (from, rest) {
            let (mut n, mut bytes) = (1, first.len);
            while let Some((part, _)) = rest.get(n).filter(|(part, _)| bytes + part.len <= most) {
                (n, bytes) = (n + 1, bytes + part.len);
            }
            let (now, later) = rest.split_at(n);
            let call = Instant::now();
            let batch: Vec<FilePart> = now.iter().map(|(part, _)| *part).collect();
            side.device.read_file(source, &batch).map_err(|e| match now {
                [(_, only)] => e.about(format_args!("loading {only}")),
                _ => e.about(format_args!("loading {} to {}", now[0].1, now[n - 1].1)),
            })?;
            if call.elapsed() < Duration::from_millis(250) {
                most = (most * 2).min(8 << 30);
            }
            done += bytes;
            progress(done, total);
            rest = later;
        }
        side.device.sync()?;
        Ok(Loaded { bytes: total, time: started.elapsed() })
    }
}
