//! In-situ checks: what an op instance wrote inside a model, against the oracle on the very inputs that it got.
//!
//! A check reads what it needs and no more: of an op whose tokens do not depend on each other the rows of a sample of
//! tokens, of the weights nothing but a view of the file. So it costs the same in a model of any size.

use super::compare::{FirstBad, Pool, Reference};
use crate::backend::executor::{Executor, host_weight};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::cases::{Case, Values};
use crate::ops::draw::Draw;
use crate::ops::{Access, Elem, Rounding, Weight};
use crate::plan::{BufferIx, Instance, Plan, StepState};

/// The tokens of a step that are compared.
#[derive(Clone, Debug)]
pub enum Tokens {
    All,
    /// These, in ascending order.
    Some(Vec<usize>),
}

impl Tokens {
    /// `most` tokens of a step: always the first and the last.
    pub fn draw(draw: &mut Draw, n: usize, most: usize) -> Tokens {
        if n <= most {
            return Tokens::All;
        }
        let mut some = vec![0, n - 1];
        while some.len() < most {
            let t = draw.below(n);
            if !some.contains(&t) {
                some.push(t);
            }
        }
        some.sort_unstable();
        Tokens::Some(some)
    }
}

/// One check under way: made before the instance runs, ended after it.
pub struct Check<'m> {
    parts: Vec<Part>,
    weights: Vec<Option<Weight<'m>>>,
}

struct Part {
    /// Without weights.
    case: Case,
    /// Where its outputs stand, in the contract's order.
    outputs: Vec<Option<Rows>>,
}

/// Rows of a buffer.
#[derive(Clone)]
struct Rows {
    buffer: BufferIx,
    elem: Elem,
    /// Offset and length of each piece.
    pieces: Vec<(usize, usize)>,
}

impl Rows {
    fn read(&self, executor: &mut Executor<'_>) -> Result<Values> {
        let mut words = Vec::new();
        for (at, n) in &self.pieces {
            words.extend(executor.peek(self.buffer, *at, *n)?);
        }
        Ok(match self.elem {
            Elem::F32 => Values::F32(words.into_iter().map(f32::from_bits).collect()),
            Elem::I32 => Values::I32(words.into_iter().map(|w| w as i32).collect()),
        })
    }

    fn zeros(&self) -> Values {
        let n = self.pieces.iter().map(|(_, n)| n).sum();
        match self.elem {
            Elem::F32 => Values::F32(vec![0.0; n]),
            Elem::I32 => Values::I32(vec![0; n]),
        }
    }
}

/// Which rows of the token axis a part holds.
enum Slice {
    /// The whole step.
    Whole,
    Tokens(Vec<usize>),
    /// The last rows, all that an op which takes them reads.
    Tail(usize),
}

impl<'m> Check<'m> {
    /// Reads what instance `i` is about to read. It must be active in `step`, and everything before it have run.
    pub fn before(
        executor: &mut Executor<'m>,
        model: &'m Model,
        i: usize,
        step: &StepState,
        tokens: &Tokens,
    ) -> Result<Check<'m>> {
        let plan = executor.plan().clone();
        let instance = &plan.instances[i];
        let contract = instance.contract();
        let n = rows_of(instance, step);
        let moves = contract.steps.contains(&"pos0");
        let slices = match tokens {
            _ if contract.op == "take_rows" => {
                vec![Slice::Tail(instance.symbol("R", step).unwrap_or(1).max(0) as usize)]
            }
            Tokens::All => vec![Slice::Whole],
            _ if !instance.op.tokenwise() => vec![Slice::Whole],
            // Rows that are fewer than the step's tokens: a head's, or completed windows'.
            Tokens::Some(some) => {
                let mut some: Vec<usize> = some.iter().copied().filter(|t| *t < n).collect();
                if some.last() != n.checked_sub(1).as_ref() {
                    some.extend(n.checked_sub(1));
                }
                match moves {
                    // A token's position follows from its place in the step, so each is a step of its own.
                    true => some.into_iter().map(|t| Slice::Tokens(vec![t])).collect(),
                    false => vec![Slice::Tokens(some)],
                }
            }
        };
        let parts = slices.iter().map(|s| part(executor, &plan, instance, step, n, s)).collect::<Result<_>>()?;
        let weights = instance.weights.iter().map(|w| w.as_deref().map(|w| host_weight(model, w)).transpose());
        Ok(Check { parts, weights: weights.collect::<Result<_>>()? })
    }

    /// Compares what the instance has written, which goes into `pool`; the first coordinate that no tolerance allows is
    /// returned.
    pub fn after(self, executor: &mut Executor<'_>, rounding: Rounding, pool: &mut Pool) -> Result<Option<FirstBad>> {
        self.each(executor, |case, weights, found| {
            Ok(pool.add(case, &Reference::with(case, weights, rounding)?, &found))
        })
    }

    /// Shows `visit` each part: what the instance read, as a case without its weights; these; and what it has written.
    /// Ends with the first answer.
    pub fn each<T>(
        &self,
        executor: &mut Executor<'_>,
        mut visit: impl FnMut(&Case, &[Option<Weight<'m>>], Vec<Option<Values>>) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        for part in &self.parts {
            let found = part.outputs.iter().map(|rows| rows.as_ref().map(|r| r.read(executor)).transpose());
            if let Some(answer) = visit(&part.case, &self.weights, found.collect::<Result<_>>()?)? {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }
}

/// Rows on the token axis.
fn rows_of(instance: &Instance, step: &StepState) -> usize {
    let rows = instance.symbol("T", step).or(instance.symbol("R", step));
    rows.map_or(1, |n| n.max(0) as usize)
}

fn part(
    executor: &mut Executor<'_>,
    plan: &Plan,
    instance: &Instance,
    step: &StepState,
    n: usize,
    slice: &Slice,
) -> Result<Part> {
    let contract = instance.contract();
    let mut steps: Vec<i32> = instance.steps.iter().map(|f| step.get(*f)).collect();
    let mut label = format!("{} in a step of {n} at {}", instance.label, step.get(crate::plan::StepField::Pos0));
    let picked = match slice {
        Slice::Whole => None,
        Slice::Tail(rows) => Some((n - rows..n).collect::<Vec<_>>()),
        Slice::Tokens(some) => {
            let names: Vec<_> = some.iter().map(ToString::to_string).collect();
            label = format!("{label}, token {}", names.join(" "));
            Some(some.clone())
        }
    };
    if let Some(picked) = &picked {
        for (value, name) in steps.iter_mut().zip(contract.steps) {
            match *name {
                "T" | "R" => *value = picked.len() as i32,
                "pos0" => *value += picked.first().copied().unwrap_or(0) as i32,
                _ => {}
            }
        }
    }
    let (mut args, mut outputs) = (Vec::new(), Vec::new());
    for (arg, buffer) in contract.args.iter().zip(&instance.args) {
        let Some(buffer) = *buffer else {
            args.push(None);
            outputs.push(None);
            continue;
        };
        let used = plan.used(buffer, step);
        let pieces = match (&picked, arg.shape.first()) {
            (Some(_), Some(&"R")) if matches!(slice, Slice::Tail(_)) => vec![(0, used)],
            (Some(picked), Some(&"T" | &"R")) if n > 0 => {
                let width = used / n;
                picked.iter().map(|t| (t * width, width)).collect()
            }
            _ => vec![(0, used)],
        };
        let rows = Rows { buffer, elem: arg.elem, pieces };
        args.push(Some(if arg.access == Access::Write { rows.zeros() } else { rows.read(executor)? }));
        outputs.push((arg.access != Access::Read).then_some(rows));
    }
    if n == 0 {
        return Err(Error::internal(format!(
            "{} was to be checked in a step in which it does nothing",
            instance.label
        )));
    }
    let case = Case {
        label,
        op: instance.op,
        dims: instance.dims.clone(),
        steps,
        scalars: instance.scalars.clone(),
        args,
        weights: Vec::new(),
    };
    Ok(Part { case, outputs })
}
