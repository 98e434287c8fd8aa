//! An op instance by names.

use super::Builder;
use crate::error::{Error, Result};
use crate::ops::{self, Node};
use crate::plan::{BufferIx, Guard, Instance, PLAN_TYPE, StepField};

/// An instance under construction: everything by name, checked against the contract when it is pushed.
pub(super) struct Pending<'b, 'm> {
    pub(super) b: &'b mut Builder<'m>,
    pub(super) op: &'static str,
    pub(super) label: String,
    pub(super) guard: Guard,
    pub(super) args: Vec<(&'static str, BufferIx)>,
    pub(super) weights: Vec<(&'static str, String)>,
    pub(super) steps: Vec<(&'static str, StepField)>,
    pub(super) dims: Vec<(&'static str, usize)>,
    pub(super) scalars: Vec<(&'static str, f64)>,
}

impl Pending<'_, '_> {
    pub(super) fn arg(mut self, name: &'static str, buffer: BufferIx) -> Self {
        self.args.push((name, buffer));
        self
    }

    pub(super) fn weight(mut self, name: &'static str, tensor: &str) -> Self {
        self.weights.push((name, tensor.into()));
        self
    }

    pub(super) fn step(mut self, name: &'static str, field: StepField) -> Self {
        self.steps.push((name, field));
        self
    }

    pub(super) fn dims(mut self, dims: &[(&'static str, usize)]) -> Self {
        self.dims.extend_from_slice(dims);
        self
    }

    pub(super) fn scalar(mut self, name: &'static str, value: f64) -> Self {
        self.scalars.push((name, value));
        self
    }

    pub(super) fn push(self) -> Result<()> {
        let bug = |what: &str| Error::internal(format!("plan: {} ({}): {what}", self.label, self.op));
        let op = ops::find(self.op).ok_or_else(|| bug("no such op"))?;
        let c = op.contract();
        fn get<V: Clone>(list: &[(&'static str, V)], name: &str) -> Option<V> {
            list.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone())
        }
        let mut args = Vec::new();
        for arg in c.args {
            let value = get(&self.args, arg.name);
            if value.is_none() && !arg.optional {
                return Err(bug(arg.name));
            }
            args.push(value);
        }
        let (mut weights, mut types) = (Vec::new(), Vec::new());
        for slot in c.weights {
            let name = get(&self.weights, slot.name);
            let Some(name) = name else {
                if !slot.optional {
                    return Err(bug(slot.name));
                }
                weights.push(None);
                continue;
            };
            let tensor = self.b.model.tensor(&name).ok_or_else(|| bug(&name))?;
            if !slot.types.contains(&tensor.dtype) {
                let allowed: Vec<_> = slot.types.iter().map(|t| t.name()).collect();
                return Err(Error::new(&PLAN_TYPE, format!("{name} cannot be read by op {}", self.op))
                    .expected(allowed.join(", "))
                    .found(tensor.dtype.name())
                    .hint(format!("assay inspect {}", crate::words::shell_path(self.b.model.path()))));
            }
            if slot.types.len() > 1 && slot.same_type_as.is_none() {
                types.push(tensor.dtype);
            }
            weights.push(Some(name));
        }
        let all = |n: usize, m: usize, what: &str| if n == m { Ok(()) } else { Err(bug(what)) };
        let steps: Vec<_> = c.steps.iter().filter_map(|s| get(&self.steps, s)).collect();
        let dims: Vec<_> = c.dims.iter().filter_map(|d| get(&self.dims, d)).map(|d| d as i64).collect();
        let scalars: Vec<_> = c.scalars.iter().filter_map(|s| get(&self.scalars, s.name)).collect();
        all(steps.len(), c.steps.len(), "a step symbol has no value")?;
        all(dims.len(), c.dims.len(), "a dim has no value")?;
        all(scalars.len(), c.scalars.len(), "a scalar has no value")?;
        all(self.args.len(), args.iter().flatten().count(), "an argument that the contract lacks")?;
        let node = Node { op: self.op.into(), types };
        let layer = self.b.layer;
        self.b.instances.push(Instance {
            label: self.label,
            node,
            layer,
            args,
            weights,
            steps,
            dims,
            scalars,
            guard: self.guard,
            op,
        });
        Ok(())
    }
}
