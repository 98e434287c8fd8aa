//! Two placements of one prefill, side by side, op instance by op instance.
//!
//! How far the sides drift apart says nothing of whose fault it is: an op that answers rightly for what it was given
//! differs as its inputs do. So every instance that a kernel computed is also judged alone, against the oracle on its
//! own inputs, by the comparison and the tolerance of the checks in place (docs/stages.md, stage 6). It is over all
//! tokens, not a sample: the one that is wrong is what is looked for.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::Serialize;
use serde_json::{Value, json};

use super::compare::{FirstBad, Number, Pool, Reference};
use super::insitu::{Check, Tokens};
use crate::backend::Placement;
use crate::backend::executor::POISON;
use crate::engine::Session;
use crate::engine::values::is_no_number;
use crate::error::{Error, Result};
use crate::ops::cases::{Case, Values};
use crate::ops::{Access, Node, Rounding};
use crate::plan::{Instance, StepState};

/// Outputs from which an average says how a kernel rounds, and not which of them it was lucky with.
const ENOUGH: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    A,
    B,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Side::A => "a",
            Side::B => "b",
        }
    }
}

/// Why an output is beyond tolerance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// This value is farther from the oracle's, on the same inputs, than any may be.
    Value,
    /// Each value may be as far off as it is, but not all together; this one is off most.
    Average,
    /// The first of its side that is no number. The oracle has none there either, although all that was read were
    /// numbers: the weights.
    NoNumber,
    /// The same, and something that was read was no number before.
    Read,
}

/// The first coordinate that is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Bad {
    /// `y[T=3, 17]`, as the judge names it.
    pub at: String,
    /// A number, or `"NaN"`, `"inf"`, `"-inf"`: JSON has no such numbers.
    pub expected: Value,
    pub found: Value,
    pub why: Why,
}

impl Bad {
    fn of(bad: FirstBad, why: Why) -> Bad {
        Bad { at: bad.at, expected: value(bad.expected), found: value(bad.found), why }
    }
}

fn value(n: Number) -> Value {
    match n {
        Number::Int(n) => json!(n),
        Number::Float(x) if x.is_finite() => json!(x),
        Number::Float(x) => json!(x.to_string()),
    }
}

/// How far one output of one op instance differs.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    pub instance: String,
    pub node: Node,
    pub layer: Option<usize>,
    /// Of the step's first token.
    pub position: usize,
    /// The written argument, by its contract's name.
    pub output: &'static str,
    pub a: Placement,
    pub b: Placement,
    /// ‖a − b‖ / ‖b‖ where each side worked on what its own earlier ops gave; for integers the share that differs.
    pub drift: f64,
    /// Largest difference of one element, in `drift`'s comparison.
    pub max_abs: f64,
    /// Elements that are finite on one side alone.
    pub not_finite: usize,
    /// The side that `alone`, `tolerance`, `beyond` and `first_bad` are about: the one that ran on a kernel. Of two the
    /// one that is beyond tolerance, or else a.
    pub judged: Option<Side>,
    /// Its relative RMS error against the oracle on its own inputs: this op's error alone. For what must be equal, the
    /// share that is not.
    pub alone: Option<f64>,
    /// What `alone` may be, where nothing single is farther off than any value may be; 0 for what must be equal.
    pub tolerance: Option<f64>,
    pub beyond: bool,
    pub first_bad: Option<Bad>,
}

impl Difference {
    /// Where the judged side ran.
    pub fn place(&self) -> Placement {
        if self.judged == Some(Side::B) { self.b } else { self.a }
    }
}

/// What [`compare`] found.
#[derive(Clone, Debug, Default)]
pub struct Sides {
    /// In the order in which they ran.
    pub differences: Vec<Difference>,
    /// Outputs that were judged value by value alone: too few for an average of what their kernel rounds.
    pub too_few: usize,
}

impl Sides {
    pub fn first_beyond(&self) -> Option<&Difference> {
        self.differences.iter().find(|d| d.beyond)
    }
}

/// Runs a prefill of `tokens` through both sessions, chunk by chunk up to the last of `layers`, and compares what lies
/// in `layers`. `None` is the whole model, with embedding and head. Both sessions must be fresh.
pub fn compare(
    a: &mut Session<'_>,
    b: &mut Session<'_>,
    tokens: &[u32],
    layers: Option<RangeInclusive<usize>>,
) -> Result<Sides> {
    let plan = a.executor.plan().clone();
    if b.executor.plan().instances.len() != plan.instances.len() || b.chunk() != a.chunk() {
        return Err(Error::internal("two sessions of one comparison have different plans"));
    }
    let wanted = |layer: Option<usize>| match (&layers, layer) {
        (None, _) => true,
        (Some(range), Some(layer)) => range.contains(&layer),
        (Some(_), None) => false,
    };
    let end = plan.instances.iter().rposition(|i| wanted(i.layer)).map_or(0, |i| i + 1);
    let mut judges = [Judge::new(Side::A), Judge::new(Side::B)];
    let mut rows = Vec::new();
    for chunk in tokens.chunks(a.chunk()) {
        let position = a.position();
        let step = a.begin(chunk)?;
        if b.begin(chunk)? != step {
            return Err(Error::internal("two sessions of one comparison are at different positions"));
        }
        for (i, instance) in plan.instances.iter().enumerate().take(end) {
            if !instance.guard.holds(&step, plan.top_k) {
                continue;
            }
            if !wanted(instance.layer) {
                run(a, &step, i)?;
                run(b, &step, i)?;
                continue;
            }
            let (check_a, check_b) = (check(a, i, &step)?, check(b, i, &step)?);
            let (at_a, at_b) = (run(a, &step, i)?, run(b, &step, i)?);
            let [judge_a, judge_b] = &mut judges;
            let mut alone = judge_a.look(a, i, &step, &check_a)?.into_iter().zip(judge_b.look(b, i, &step, &check_b)?);
            let (found, other) = (a.executor.outputs(i, &step)?, b.executor.outputs(i, &step)?);
            for (k, arg) in instance.contract().args.iter().enumerate() {
                let opinions = alone.next();
                let (Some(found), Some(other)) = (&found[k], &other[k]) else { continue };
                let drift = distance(found, other)?;
                let difference = Difference {
                    instance: instance.label.clone(),
                    node: instance.node.clone(),
                    layer: instance.layer,
                    position,
                    output: arg.name,
                    a: at_a,
                    b: at_b,
                    drift: drift.relative,
                    max_abs: drift.max_abs,
                    not_finite: drift.not_finite,
                    judged: None,
                    alone: None,
                    tolerance: None,
                    beyond: false,
                    first_bad: None,
                };
                rows.push((difference, opinions.map(Opinions::from).unwrap_or_default()));
            }
        }
        a.end(chunk.len());
        b.end(chunk.len());
    }
    let no_kernels = a.executor.device_mut().is_none() && b.executor.device_mut().is_none();
    if let Some((d, _)) = rows.iter().find(|(d, _)| no_kernels && d.drift != 0.0) {
        return Err(Error::internal(format!("the oracle differs from itself in `{}` of {}", d.output, d.instance)));
    }
    Ok(judged(rows, &judges))
}

/// Reads what an instance is about to read.
fn check<'m>(session: &mut Session<'m>, i: usize, step: &StepState) -> Result<Check<'m>> {
    let model = session.model();
    Check::before(&mut session.executor, model, i, step, &Tokens::All)
}

/// Runs one instance, and says where it ran.
fn run(session: &mut Session<'_>, step: &StepState, i: usize) -> Result<Placement> {
    let plan = session.executor.plan().clone();
    session.executor.run_range(step, i..i + 1).map_err(|e| e.about(&plan.instances[i].label))?;
    let trace = session.executor.take_trace();
    trace.last().map(|r| r.placement).ok_or_else(|| Error::internal("an instance left no trace"))
}

/// What is thought of one output of one side.
#[derive(Clone, Debug, Default)]
struct Opinion {
    /// Its error and what that may be; of what the oracle wrote there is none.
    error: Option<(f64, f64)>,
    bad: Option<Bad>,
    /// What is wrong if the other outputs of the node say so too: alone it has too few for an average.
    if_pooled: Option<FirstBad>,
    /// It has too few for an average.
    few: bool,
}

/// Of both sides.
type Opinions = [Option<Opinion>; 2];

/// Judges one side.
struct Judge {
    side: Side,
    pools: BTreeMap<(Node, &'static str), Pool>,
    /// Something was no number already.
    tripped: bool,
}

impl Judge {
    fn new(side: Side) -> Judge {
        Judge { side, pools: BTreeMap::new(), tripped: false }
    }

    /// An opinion of each argument of instance `i`, which has just run, as far as there is one.
    fn look(
        &mut self,
        session: &mut Session<'_>,
        i: usize,
        step: &StepState,
        check: &Check<'_>,
    ) -> Result<Vec<Option<Opinion>>> {
        let plan = session.executor.plan().clone();
        let instance = &plan.instances[i];
        let rounding = session.executor.rounding(i, step);
        let opinions = check.each(&mut session.executor, |case, weights, mut found| {
            let trip = if self.tripped { None } else { no_number(instance, case, &found) };
            let mut opinions = vec![None; found.len()];
            if let Some(rounding) = rounding {
                let mut reference = Reference::with(case, weights, rounding)?;
                excuse(&mut reference.outputs, &mut found);
                for k in (0..found.len()).filter(|k| instance.contract().args[*k].access != Access::Read) {
                    opinions[k] = self.judge(instance, case, &reference, &mut found, k, rounding)?;
                }
            }
            if let Some((k, bad)) = trip {
                self.tripped = true;
                opinions[k].get_or_insert_default().bad.get_or_insert(bad);
            }
            Ok(Some(opinions))
        });
        opinions?.ok_or_else(|| Error::internal("a check of all tokens has no part"))
    }

    /// Judges output `k` alone: an output that is wrong hides no other.
    fn judge(
        &mut self,
        instance: &Instance,
        case: &Case,
        reference: &Reference,
        found: &mut [Option<Values>],
        k: usize,
        rounding: Rounding,
    ) -> Result<Option<Opinion>> {
        let mut one = vec![None; found.len()];
        one[k] = found[k].take();
        let (Some(values), Some(expected)) = (&one[k], &reference.outputs[k]) else { return Ok(None) };
        let mut own = Pool::default();
        own.add(case, reference, &one);
        let name = instance.contract().args[k].name;
        let pool = self.pools.entry((instance.node.clone(), name)).or_default();
        let bad = pool.add(case, reference, &one).map(|bad| Bad::of(bad, Why::Value));
        // Without a rounding of its own a kernel is held to f32's, which is the same for few.
        let few = rounding != Rounding::None && (1..ENOUGH).contains(&own.averaged());
        let (on_average, if_pooled) = if few { (None, own.check()) } else { (own.check(), None) };
        let error = match own.figure() {
            Some(error) => error,
            None => distance(values, expected)?.relative,
        };
        Ok(Some(Opinion {
            error: Some((error, if own.averaged() == 0 { 0.0 } else { own.limit() })),
            bad: bad.or(on_average.map(|bad| Bad::of(bad, Why::Average))),
            if_pooled,
            few,
        }))
    }
}

/// What the opinions come to.
fn judged(rows: Vec<(Difference, Opinions)>, judges: &[Judge; 2]) -> Sides {
    let mut out = Sides::default();
    for (mut d, mut opinions) in rows {
        for (judge, opinion) in judges.iter().zip(&mut opinions) {
            let Some(opinion) = opinion else { continue };
            let pool = judge.pools.get(&(d.node.clone(), d.output)).filter(|pool| pool.averaged() >= ENOUGH);
            out.too_few += usize::from(opinion.few && pool.is_none());
            if opinion.bad.is_none() && pool.is_some_and(|pool| pool.check().is_some()) {
                opinion.bad = opinion.if_pooled.take().map(|bad| Bad::of(bad, Why::Average));
            }
        }
        let of = |which: fn(&Opinion) -> bool| opinions.iter().position(|o| o.as_ref().is_some_and(which));
        if let Some(i) = of(|o| o.bad.is_some()).or_else(|| of(|o| o.error.is_some()))
            && let Some(opinion) = opinions[i].take()
        {
            d.judged = Some(judges[i].side);
            (d.alone, d.tolerance) = opinion.error.unzip();
            (d.beyond, d.first_bad) = (opinion.bad.is_some(), opinion.bad);
        }
        out.differences.push(d);
    }
    out
}

/// A NaN that the oracle has too, on the same inputs, is not the kernel's doing: it came with the inputs or is in the
/// weights. Such elements count as a mark that both have, which is in no average.
fn excuse(expected: &mut [Option<Values>], found: &mut [Option<Values>]) {
    for (expected, found) in expected.iter_mut().zip(found) {
        let (Some(Values::F32(expected)), Some(Values::F32(found))) = (expected, found) else { continue };
        for (e, f) in expected.iter_mut().zip(found).filter(|(e, f)| e.is_nan() && !f.is_finite()) {
            (*e, *f) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        }
    }
}

/// The first output value that is no number, with its argument.
fn no_number(instance: &Instance, case: &Case, found: &[Option<Values>]) -> Option<(usize, Bad)> {
    let contract = instance.contract();
    found.iter().enumerate().find_map(|(k, values)| {
        let Some(Values::F32(values)) = values else { return None };
        let at = values.iter().position(|v| is_no_number(contract.op, *v))?;
        let arg = &contract.args[k];
        let spoilt = |v: &f32| (v.is_nan() && v.to_bits() != POISON) || *v == f32::INFINITY;
        let read = case.args.iter().flatten().any(|v| matches!(v, Values::F32(v) if v.iter().any(spoilt)));
        let bad = Bad {
            at: arg.coordinate(values.len(), at, &|s| case.symbol(s)),
            expected: json!("a number"),
            found: value(Number::Float(f64::from(values[at]))),
            why: if read { Why::Read } else { Why::NoNumber },
        };
        Some((k, bad))
    })
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
                // Only one of them, or infinities of two signs.
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
