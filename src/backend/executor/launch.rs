//! Launches of one op instance: its argument struct, what it reads sent to the device, and what the device reports.

use super::{Bound, Executor, Ran, TRACE};
use crate::backend::{Field, Launch, Traced};
use crate::error::{Error, Result};
use crate::ops::{Access, Elem};
use crate::plan::StepState;

impl Executor<'_> {
    pub(super) fn launch(&mut self, i: usize, step: &StepState) -> Result<Vec<Launch>> {
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
    pub(super) fn prepare(&mut self, i: usize, step: &StepState) -> Result<(Vec<Launch>, Ran)> {
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

    pub(super) fn check_trace(&mut self) -> Result<()> {
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
}
