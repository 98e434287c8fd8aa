//! Op instances that run here, in plain Rust.

use super::{Executor, POISON, Ran};
use crate::backend::Placement;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::{Access, Call, Elem, Rounding, Slot, Weight};
use crate::plan::{BufferIx, StepState};

impl Executor<'_> {
    pub(super) fn zero_outputs(&mut self, i: usize, step: &StepState) -> Result<()> {
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

    pub(super) fn oracle(&mut self, i: usize, step: &StepState) -> Result<()> {
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

/// A tensor as the oracle reads it.
pub fn host_weight<'m>(model: &'m Model, name: &str) -> Result<Weight<'m>> {
    let t = model.tensor(name).ok_or_else(|| Error::internal(format!("no tensor {name}")))?;
    Ok(Weight { dtype: t.dtype, k: t.width(), rows: t.rows(), bytes: t.bytes })
}
