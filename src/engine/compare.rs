//! Two placements of one prefill, side by side, op instance by op instance.

use std::ops::RangeInclusive;

use serde::Serialize;

use super::Session;
use crate::backend::Placement;
use crate::error::{Error, Result};
use crate::ops::cases::Values;
use crate::ops::{Node, Rounding};
use crate::plan::StepState;

/// How far one output of one op instance differs.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    pub instance: String,
    pub node: Node,
    pub layer: Option<usize>,
    /// The written argument, by its contract's name.
    pub output: &'static str,
    pub a: Placement,
    pub b: Placement,
    /// ‖a − b‖ / ‖b‖ where each side worked on what its own earlier ops gave; for integers the share that differs.
    pub drift: f64,
    /// The same against the oracle on a's own inputs: this op's error alone. `None` where a is the oracle.
    pub alone: Option<f64>,
    /// Largest difference of one element, in `drift`'s comparison.
    pub max_abs: f64,
    /// Elements of `a` that are not finite where b's are.
    pub not_finite: usize,
}

/// Runs a prefill of `tokens` through both sessions, up to the last of `layers`, and compares what lies in `layers`.
/// `None` is the whole model, with embedding and head. Both sessions must be fresh and hold `tokens` in one step.
pub fn compare(
    a: &mut Session<'_>,
    b: &mut Session<'_>,
    tokens: &[u32],
    layers: Option<RangeInclusive<usize>>,
) -> Result<Vec<Difference>> {
    let step = a.begin(tokens)?;
    if b.begin(tokens)? != step || a.executor.plan().instances.len() != b.executor.plan().instances.len() {
        return Err(Error::internal("two sessions of one comparison have different plans"));
    }
    let plan = a.executor.plan().clone();
    let wanted = |layer: Option<usize>| match (&layers, layer) {
        (None, _) => true,
        (Some(range), Some(layer)) => range.contains(&layer),
        (Some(_), None) => false,
    };
    let end = plan.instances.iter().rposition(|i| wanted(i.layer)).map_or(0, |i| i + 1);
    let mut out = Vec::new();
    for i in 0..end {
        let instance = &plan.instances[i];
        if !instance.guard.holds(&step, plan.top_k) {
            continue;
        }
        let wanted = wanted(instance.layer);
        let inputs = if wanted { Some(a.executor.snapshot(i, &step)?) } else { None };
        let (at_a, at_b) = (run(a, &step, i)?, run(b, &step, i)?);
        let Some(inputs) = inputs else { continue };
        let alone = if at_a == Placement::Oracle { None } else { Some(inputs.expected(Rounding::None)?) };
        let (found, other) = (a.executor.outputs(i, &step)?, b.executor.outputs(i, &step)?);
        for (k, arg) in instance.contract().args.iter().enumerate() {
            let (Some(found), Some(other)) = (&found[k], &other[k]) else { continue };
            let drift = distance(found, other)?;
            let own = match alone.as_ref().and_then(|outputs| outputs[k].as_ref()) {
                Some(right) => Some(distance(found, right)?.relative),
                None => None,
            };
            out.push(Difference {
                instance: instance.label.clone(),
                node: instance.node.clone(),
                layer: instance.layer,
                output: arg.name,
                a: at_a,
                b: at_b,
                drift: drift.relative,
                alone: own,
                max_abs: drift.max_abs,
                not_finite: drift.not_finite,
            });
        }
    }
    Ok(out)
}

/// Runs one instance, and says where it ran.
fn run(session: &mut Session<'_>, step: &StepState, i: usize) -> Result<Placement> {
    session.executor.run_range(step, i..i + 1)?;
    let trace = session.executor.take_trace();
    trace.last().map(|r| r.placement).ok_or_else(|| Error::internal("an instance left no trace"))
}

/// No activation is as large.
const HUGE: f32 = 1e20;

#[derive(Debug, Default, PartialEq)]
struct Distance {
    relative: f64,
    max_abs: f64,
    not_finite: usize,
}

fn distance(a: &Values, b: &Values) -> Result<Distance> {
    let mut d = Distance::default();
    match (a, b) {
        (Values::F32(a), Values::F32(b)) => {
            let (mut error, mut size) = (0.0f64, 0.0f64);
            for (a, b) in a.iter().zip(b) {
                // Scores of rows not visible yet are −inf on both sides, or a huge number in caches; such equals must
                // not make the rest look small.
                if a == b || (a.is_nan() && b.is_nan()) {
                    size += if b.abs() < HUGE { f64::from(*b).powi(2) } else { 0.0 };
                    continue;
                }
                if !a.is_finite() || !b.is_finite() {
                    d.not_finite += 1;
                    continue;
                }
                let e = f64::from(*a) - f64::from(*b);
                (error, size) = (error + e * e, size + f64::from(*b).powi(2));
                d.max_abs = d.max_abs.max(e.abs());
            }
            d.relative = if error == 0.0 { 0.0 } else { (error / size.max(f64::MIN_POSITIVE)).sqrt() };
            if d.not_finite > 0 {
                (d.relative, d.max_abs) = (f64::INFINITY, f64::INFINITY);
            }
        }
        (Values::I32(a), Values::I32(b)) => {
            let different = a.iter().zip(b).filter(|(a, b)| a != b);
            let mut n = 0;
            for (a, b) in different {
                n += 1;
                d.max_abs = d.max_abs.max(f64::from(a.abs_diff(*b)));
            }
            d.relative = f64::from(n) / a.len().max(1) as f64;
        }
        _ => return Err(Error::internal("outputs of two element types were compared")),
    }
    Ok(d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_neither_side_has_is_no_difference() {
        let f = |a: &[f32], b: &[f32]| distance(&Values::F32(a.to_vec()), &Values::F32(b.to_vec())).unwrap();
        let inf = f32::NEG_INFINITY;
        assert_eq!(f(&[inf, 1.0], &[inf, 1.0]), Distance::default());
        assert_eq!(f(&[3.0, 4.5], &[3.0, 4.0]).relative, 0.1);
        assert_eq!(f(&[3.0, 4.5, -1e30], &[3.0, 4.0, -1e30]).relative, 0.1);
        let broken = f(&[f32::NAN, 1.0], &[0.0, 1.0]);
        assert!(broken.not_finite == 1 && broken.relative.is_infinite());
        let ids = distance(&Values::I32(vec![1, 2, 9, 4]), &Values::I32(vec![1, 2, 3, 4])).unwrap();
        assert_eq!((ids.relative, ids.max_abs), (0.25, 6.0));
    }
}
