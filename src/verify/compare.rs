//! Comparing outputs with the oracle's: one tolerance, measured by the honest implementation.
//!
//! Errors are averaged, and an average hides what is right by nature. So each array of an op has its own; elements that
//! an op updates in place and leaves as they were have their own; and numbers that only mark something (an empty row,
//! a hidden one) are compared exactly and are in no average, whose unit they would be.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::Result;
use crate::ops::cases::{Case, OwnedWeight, Values};
use crate::ops::{Access, Comparison, Rounding, Weight, expr};

/// Relative RMS that f32 arithmetic in another order may differ by.
pub const FLOOR: f64 = 4e-6;
/// Largest single error that it may make, in units of the outputs' RMS.
const FLOOR_MAX: f64 = 1e-4;
/// Of the honest implementation's relative RMS.
const SLACK: f64 = 1.3;
/// Of the honest implementation's largest error.
const SLACK_MAX: f64 = 4.0;
/// What that error comes to in units of its RMS over all cases so far, at least: of a few tokens the honest
/// implementation may be luckier than any other. Another that rounds the same operands, but weights against another
/// maximum, was beyond four times its largest error in 2 of 6,600 tokens of the bundled model, with up to 17 times the
/// RMS (2026-11-22).
const CREST: f64 = 6.0;
/// Elements of a row whose own honest error says little.
const SHORT: usize = 64;
/// From this magnitude on an output is no quantity but a mark: no op computes anything as large.
const MARK: f32 = 1e28;

/// Where outputs first went wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FirstBad {
    pub case: String,
    /// `y[t=3, n=17]`
    pub at: String,
    pub expected: Number,
    pub found: Number,
}

/// One element of an output, in the type that the output has: an id is 3, not 3.0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Number {
    Int(i32),
    Float(f64),
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Number::Int(n) => n.fmt(f),
            Number::Float(x) => write!(f, "{x:.6e}"),
        }
    }
}

impl std::fmt::Display for FirstBad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} should be {} and is {}", self.case, self.at, self.expected, self.found)
    }
}

/// What is right for one case: the oracle's outputs, and how far the honest implementation is from them.
pub struct Reference {
    pub outputs: Vec<Option<Values>>,
    honest: Option<Vec<Option<Values>>>,
    comparison: Comparison,
}

impl Reference {
    pub fn of(case: &Case, rounding: Rounding) -> Result<Reference> {
        let weights: Vec<_> = case.weights.iter().map(|w| w.as_ref().map(OwnedWeight::view)).collect();
        Reference::with(case, &weights, rounding)
    }

    /// The same for a case whose weights are elsewhere.
    pub fn with(case: &Case, weights: &[Option<Weight<'_>>], rounding: Rounding) -> Result<Reference> {
        let outputs = case.expected_with(weights, Rounding::None)?;
        let honest = if rounding == Rounding::None { None } else { Some(case.expected_with(weights, rounding)?) };
        Ok(Reference { outputs, honest, comparison: case.contract().comparison })
    }
}

/// Errors of one kind of outputs, in units of their arrays' RMS.
#[derive(Clone, Debug, Default)]
struct Errors {
    count: u64,
    squares: f64,
    honest_squares: f64,
    worst: Option<(f64, FirstBad)>,
}

impl Errors {
    fn mean(&self, squares: f64) -> f64 {
        if self.count == 0 { 0.0 } else { (squares / self.count as f64).sqrt() }
    }

    fn rms(&self) -> f64 {
        self.mean(self.squares)
    }

    fn honest_rms(&self) -> f64 {
        self.mean(self.honest_squares)
    }

    fn limit(&self) -> f64 {
        SLACK * self.honest_rms() + FLOOR
    }
}

/// An array's name, and whether it is those of its elements that an update leaves as they were.
type Kind = (&'static str, bool);

/// Errors of one or several cases of a node.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pool {
    pub outputs: u64,
    pub max_abs: f64,
    /// Largest error in units of its array's RMS.
    pub max_relative: f64,
    #[serde(skip)]
    kinds: BTreeMap<Kind, Errors>,
    /// Something was wrong that has no size to be wrong by: an id, a bit, a mark.
    #[serde(skip)]
    unequal: bool,
}

impl Pool {
    /// Of all kinds the one that comes nearest to its limit, or lies farthest beyond.
    fn nearest(&self) -> Option<&Errors> {
        let share = |e: &Errors| e.rms() / e.limit();
        self.kinds.values().max_by(|a, b| share(a).total_cmp(&share(b)))
    }

    /// Relative RMS error of the kind that decides, if there is a figure: outputs that a kernel never wrote, or that
    /// differ where they had to be equal, have none. Outputs that are all equal, and had to be, are off by 0.
    pub fn figure(&self) -> Option<f64> {
        let equal = || (self.outputs > 0 && !self.unequal).then_some(0.0);
        self.nearest().map(Errors::rms).or_else(equal)
    }

    /// The same where something was compared.
    pub fn relative_rms(&self) -> f64 {
        self.nearest().map_or(0.0, Errors::rms)
    }

    pub fn honest_rms(&self) -> f64 {
        self.nearest().map_or(0.0, Errors::honest_rms)
    }

    pub fn limit(&self) -> f64 {
        self.nearest().map_or(FLOOR, Errors::limit)
    }

    /// How many outputs the average that decides is taken over.
    pub fn averaged(&self) -> u64 {
        self.nearest().map_or(0, |e| e.count)
    }

    /// The pooled half of the tolerance; [`add`](Pool::add) checks the other half, case by case.
    pub fn check(&self) -> Option<FirstBad> {
        let kind = self.nearest()?;
        if kind.rms() <= kind.limit() { None } else { kind.worst.as_ref().map(|(_, bad)| bad.clone()) }
    }

    /// Compares a case's outputs; the first coordinate beyond the largest error allowed is returned.
    pub fn add(&mut self, case: &Case, reference: &Reference, found: &[Option<Values>]) -> Option<FirstBad> {
        let bad = self.add_all(case, reference, found);
        self.unequal |= bad.is_some();
        bad
    }

    fn add_all(&mut self, case: &Case, reference: &Reference, found: &[Option<Values>]) -> Option<FirstBad> {
        let contract = case.contract();
        for (i, arg) in contract.args.iter().enumerate() {
            let (Some(expected), Some(found)) = (&reference.outputs[i], &found[i]) else { continue };
            let bad = |at: usize, e: Number, f: Number| FirstBad {
                case: case.label.clone(),
                at: arg.coordinate(expected.len(), at, &|s| case.symbol(s)),
                expected: e,
                found: f,
            };
            let float = |at, e, f| bad(at, Number::Float(e), Number::Float(f));
            match (expected, found) {
                (Values::I32(e), Values::I32(f)) => {
                    self.outputs += e.len() as u64;
                    if let Some(at) = (0..e.len()).find(|k| e[*k] != f[*k]) {
                        return Some(bad(at, Number::Int(e[at]), Number::Int(f[at])));
                    }
                }
                (Values::F32(e), Values::F32(f)) if reference.comparison == Comparison::Exact => {
                    self.outputs += e.len() as u64;
                    // −0 and 0 are the same value; every NaN is a mistake.
                    if let Some(at) = (0..e.len()).find(|k| !(e[*k] == f[*k])) {
                        return Some(float(at, f64::from(e[at]), f64::from(f[at])));
                    }
                }
                (Values::F32(e), Values::F32(f)) => {
                    let honest = match reference.honest.as_ref().and_then(|h| h[i].as_ref()) {
                        Some(Values::F32(h)) => Some(h.as_slice()),
                        _ => None,
                    };
                    let before = match &case.args[i] {
                        Some(Values::F32(b)) if arg.access == Access::Update => Some(b.as_slice()),
                        _ => None,
                    };
                    let row = if case.op.rows_apart() { row_len(case, arg.shape) } else { e.len() };
                    if let Some((at, e, f)) = self.add_f32(arg.name, row, e, [honest, before], f, &float) {
                        return Some(float(at, e, f));
                    }
                }
                _ => return Some(float(0, f64::NAN, f64::NAN)),
            }
        }
        None
    }

    /// One array, with what the honest implementation gives and what stood there before an update. `row`: how many
    /// elements share a unit.
    fn add_f32(
        &mut self,
        name: &'static str,
        row: usize,
        expected: &[f32],
        [honest, before]: [Option<&[f32]>; 2],
        found: &[f32],
        bad: &dyn Fn(usize, f64, f64) -> FirstBad,
    ) -> Option<(usize, f64, f64)> {
        let row = row.max(1);
        let sizes = sizes_of_rows(row, expected, honest);
        // Rows that are all zero leave nothing to be relative to but the smallest beside them.
        let least = sizes.iter().map(|(rms, _)| *rms).filter(|rms| *rms > 0.0).fold(f64::INFINITY, f64::min);
        let least = if least.is_finite() { least } else { 1.0 };
        // A few outputs may all be luckier than the honest implementation's are as a rule: short rows share what it makes
        // of the worst of them.
        let shared = sizes.iter().filter(|(rms, _)| *rms > 0.0).map(|(rms, most)| most / rms).fold(0.0, f64::max);
        let rows: Vec<(f64, f64)> = (sizes.into_iter())
            .map(|(rms, honest_max)| {
                let unit = if rms > 0.0 { rms } else { least };
                (unit, if row < SHORT { honest_max.max(shared * unit) } else { honest_max })
            })
            .collect();
        let kept = |at: usize| before.is_some_and(|b| b[at].to_bits() == expected[at].to_bits());
        let mut first = None;
        let mut kinds = [false, true].map(|kept| self.kinds.remove(&(name, kept)).unwrap_or_default());
        self.outputs += expected.len() as u64;
        for (at, e) in expected.iter().enumerate().filter(|(_, e)| !is_mark(**e)) {
            let (unit, _) = rows[at / row];
            let kind = &mut kinds[usize::from(kept(at))];
            kind.count += 1;
            kind.honest_squares += honest.map_or(0.0, |h| (distance(h[at], *e) / unit).powi(2));
        }
        let crests = [0, 1].map(|kind| CREST * kinds[kind].honest_rms());
        for (at, (e, f)) in expected.iter().zip(found).enumerate() {
            if is_mark(*e) {
                if e != f {
                    first = first.or(Some((at, f64::from(*e), f64::from(*f))));
                }
                continue;
            }
            let (unit, honest_max) = rows[at / row];
            let kind = usize::from(kept(at));
            let allowed = SLACK_MAX * honest_max.max(crests[kind] * unit) + FLOOR_MAX * unit;
            let error = distance(*e, *f);
            if error.is_nan() || error > allowed {
                first = first.or(Some((at, f64::from(*e), f64::from(*f))));
            }
            // A wrong output is part of the figures too: a Red without its error would say nothing.
            let error = if error.is_nan() { f64::INFINITY } else { error };
            let kind = &mut kinds[kind];
            kind.squares += (error / unit).powi(2);
            self.max_abs = self.max_abs.max(error);
            self.max_relative = self.max_relative.max(error / unit);
            if kind.worst.as_ref().is_none_or(|(most, _)| error / unit > *most) {
                kind.worst = Some((error / unit, bad(at, f64::from(*e), f64::from(*f))));
            }
        }
        for (kept, kind) in [false, true].into_iter().zip(kinds).filter(|(_, kind)| kind.count > 0) {
            self.kinds.insert((name, kept), kind);
        }
        first
    }
}

#[inline]
fn is_mark(v: f32) -> bool {
    !v.is_finite() || v.abs() >= MARK
}

fn distance(a: f32, b: f32) -> f64 {
    (f64::from(a) - f64::from(b)).abs()
}

/// Of each row of `row` elements the root mean square, and the largest error of the honest implementation.
fn sizes_of_rows(row: usize, expected: &[f32], honest: Option<&[f32]>) -> Vec<(f64, f64)> {
    let size = |(i, values): (usize, &[f32])| {
        let (mut n, mut squares, mut honest_max) = (0u64, 0.0, 0.0f64);
        for (at, e) in values.iter().enumerate().filter(|(_, e)| !is_mark(**e)) {
            n += 1;
            squares += f64::from(*e).powi(2);
            honest_max = honest.map_or(honest_max, |h| honest_max.max(distance(h[i * row + at], *e)));
        }
        ((squares / n.max(1) as f64).sqrt(), honest_max)
    };
    expected.chunks(row).enumerate().map(size).collect()
}

/// Elements of an array's last dimension.
fn row_len(case: &Case, shape: &[&str]) -> usize {
    shape.last().and_then(|text| expr::size(text, &|s| case.symbol(s))).unwrap_or(1).max(1)
}

/// Whether these outputs, alone, pass: the comparison that mutants are put to.
pub fn passes(case: &Case, reference: &Reference, found: &[Option<Values>]) -> bool {
    let mut pool = Pool::default();
    pool.add(case, reference, found).is_none() && pool.check().is_none()
}

/// Whether outputs differ from the reference by less than half the tolerance: too little to be told apart.
pub fn indistinct(case: &Case, reference: &Reference, found: &[Option<Values>]) -> bool {
    let mut pool = Pool::default();
    pool.add(case, reference, found).is_none() && pool.relative_rms() <= 0.5 * pool.limit()
}

/// How many elements still hold `word`, which outputs started with.
pub fn unwritten(values: &Values, word: u32) -> usize {
    match values {
        Values::F32(v) => v.iter().filter(|x| x.to_bits() == word).count(),
        Values::I32(v) => v.iter().filter(|x| **x as u32 == word).count(),
    }
}

/// Whether a value that was found bad may be `word`, as a float or as an integer.
pub fn is_word(found: Number, word: u32) -> bool {
    let float = f64::from(f32::from_bits(word));
    match found {
        Number::Int(found) => found == word as i32,
        Number::Float(found) => found == float || (found.is_nan() && float.is_nan()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops;
    use crate::ops::cases::{Sizes, draw_case};
    use crate::ops::draw::Draw;

    fn case() -> Case {
        let op = ops::find("swiglu").unwrap();
        let sizes = Sizes::of(&[256], &[]);
        draw_case(op, &sizes, 17, &mut Draw::new(&[3; 32], "t"), "swiglu T=17".into()).unwrap()
    }

    #[test]
    fn one_wrong_element_is_named_by_its_coordinates() {
        let case = case();
        let reference = Reference::of(&case, Rounding::None).unwrap();
        let mut found = reference.outputs.clone();
        assert!(passes(&case, &reference, &found));
        if let Some(Values::F32(v)) = &mut found[2] {
            v[3 * 256 + 5] += 0.5;
        }
        let bad = Pool::default().add(&case, &reference, &found).unwrap();
        assert_eq!(bad.at, "h[T=3, F=5]");
    }

    /// A worst error of 0 was told of kernels whose outputs no figure was taken of.
    #[test]
    fn what_entered_no_figure_is_off_by_nothing_that_is_known() {
        assert_eq!(Pool::default().figure(), None);
        let case = case();
        let reference = Reference::of(&case, Rounding::None).unwrap();
        let mut pool = Pool::default();
        assert_eq!((pool.add(&case, &reference, &reference.outputs), pool.figure()), (None, Some(0.0)));
        let (op, sizes) = (ops::find("take_rows").unwrap(), Sizes::of(&[100], &[]));
        let case = draw_case(op, &sizes, 3, &mut Draw::new(&[3; 32], "t"), "take_rows".into()).unwrap();
        let reference = Reference::of(&case, Rounding::None).unwrap();
        let mut pool = Pool::default();
        assert!(pool.add(&case, &reference, &reference.outputs).is_none() && pool.figure() == Some(0.0));
        let mut found = reference.outputs.clone();
        if let Some(Values::F32(v)) = &mut found[1] {
            v[0] += 1.0;
        }
        let mut pool = Pool::default();
        assert!(pool.add(&case, &reference, &found).is_some() && pool.figure().is_none());
    }

    /// Of a step's rows one is a millionth of the others: it is right by its own size alone.
    #[test]
    fn a_small_row_is_not_hidden_by_a_large_one() {
        let op = ops::find("matmul").unwrap();
        let types = [crate::model::quant::DType::Q8_0];
        let sizes = Sizes::of(&[256, 24], &types);
        let mut case = draw_case(op, &sizes, 5, &mut Draw::new(&[3; 32], "m"), "matmul".into()).unwrap();
        if let Some(Values::F32(x)) = &mut case.args[0] {
            x.iter_mut().enumerate().for_each(|(i, v)| *v = ((i * 37 % 101) as f32 - 50.0) / 30.0);
            x[3 * 256..4 * 256].iter_mut().for_each(|v| *v *= 1e-6);
            x[4 * 256..].fill(0.0);
        }
        let reference = Reference::of(&case, Rounding::None).unwrap();
        let wrongs: [fn(&mut [f32]); 3] = [|v| v[72..96].fill(0.0), |v| v[80] *= 1.01, |v| v[100] = 1e-9];
        for wrong in wrongs {
            let mut found = reference.outputs.clone();
            assert!(passes(&case, &reference, &found));
            if let Some(Values::F32(v)) = &mut found[1] {
                wrong(v);
            }
            assert!(!passes(&case, &reference, &found));
        }
    }

    #[test]
    fn a_nan_never_passes() {
        let case = case();
        let reference = Reference::of(&case, Rounding::None).unwrap();
        let mut found = reference.outputs.clone();
        if let Some(Values::F32(v)) = &mut found[2] {
            v[0] = f32::NAN;
        }
        assert!(!passes(&case, &reference, &found));
    }

    #[test]
    fn a_small_error_everywhere_fails_the_pool() {
        let case = case();
        let reference = Reference::of(&case, Rounding::None).unwrap();
        let mut found = reference.outputs.clone();
        if let Some(Values::F32(v)) = &mut found[2] {
            v.iter_mut().for_each(|x| *x *= 1.0 + 2e-5);
        }
        assert!(!passes(&case, &reference, &found));
    }

    /// A state of which most rows are empty, its right answer, and where the one token's scores stand in it.
    fn state() -> (Case, Reference, std::ops::Range<usize>) {
        let op = ops::find("compressor_state").unwrap();
        let sizes = Sizes::of(&[512, 1, 128], &[]);
        let mut case = draw_case(op, &sizes, 1, &mut Draw::new(&[3; 32], "s"), "compressor_state".into()).unwrap();
        case.steps = vec![1, 256];
        let reference = Reference::of(&case, Rounding::None).unwrap();
        (case, reference, 0..512)
    }

    #[test]
    fn empty_rows_hide_no_error_of_the_others() {
        let (case, reference, scores) = state();
        for wrong in [|v: f32| 1.01 * v, |v| v + 1e-3, |v| half::f16::from_f32(v).to_f32()] {
            let mut found = reference.outputs.clone();
            assert!(passes(&case, &reference, &found));
            if let Some(Values::F32(v)) = &mut found[3] {
                v[scores.clone()].iter_mut().for_each(|v| *v = wrong(*v));
            }
            assert!(!passes(&case, &reference, &found));
        }
    }

    #[test]
    fn an_empty_row_is_exact() {
        let (case, reference, scores) = state();
        for wrong in [-1.000_001e30, f32::NEG_INFINITY, 0.0] {
            let mut found = reference.outputs.clone();
            if let Some(Values::F32(v)) = &mut found[3] {
                assert!(v[scores.end] == -1e30);
                v[scores.end] = wrong;
            }
            assert!(Pool::default().add(&case, &reference, &found).is_some());
        }
    }

    /// Half of an op's outputs are right to the bit; of the other array every element is off by a little.
    #[test]
    fn an_exact_array_excuses_no_other() {
        let (case, reference, scores) = state();
        let mut found = reference.outputs.clone();
        if let Some(Values::F32(v)) = &mut found[3] {
            v[scores].iter_mut().for_each(|v| *v *= 1.0 + 5e-6);
        }
        assert!(!passes(&case, &reference, &found));
    }

    /// A right kernel was refused for one element of a token of which the honest implementation happened to round
    /// everything well.
    #[test]
    fn one_lucky_token_of_the_honest_implementation_refuses_nobody() {
        let case = case();
        let len = case.args[2].as_ref().unwrap().len();
        let off = |by: f32| -> Vec<Option<Values>> {
            let values = (0..len).map(|i| if i % 500 == 7 { 1.0 + by } else { 1.0 + by / 20.0 }).collect();
            vec![None, None, Some(Values::F32(values))]
        };
        let reference =
            |by: f32| Reference { outputs: off(0.0), honest: Some(off(by)), comparison: Comparison::Tolerance };
        let mut pool = Pool::default();
        for _ in 0..50 {
            assert_eq!(pool.add(&case, &reference(2e-3), &off(-2e-3)), None);
        }
        assert_eq!(pool.add(&case, &reference(2e-4), &off(2e-3)), None);
        assert!(pool.check().is_none());
        assert!(pool.add(&case, &reference(2e-4), &off(2e-2)).is_some());
        assert!(Pool::default().add(&case, &reference(2e-4), &off(2e-3)).is_some());
    }

    /// Of a cache one row changes: the thousands that are as they were do not dilute its error.
    #[test]
    fn what_stays_as_it_was_excuses_nothing_that_changes() {
        let op = ops::find("rope_tail").unwrap();
        let sizes = Sizes::of(&[1, 65_536, 64], &[]);
        let mut case = draw_case(op, &sizes, 1, &mut Draw::new(&[3; 32], "r"), "rope_tail".into()).unwrap();
        case.steps = vec![1, 77];
        let reference = Reference::of(&case, Rounding::None).unwrap();
        let mut found = reference.outputs.clone();
        if let Some(Values::F32(v)) = &mut found[0] {
            v[65_536 - 64..].iter_mut().for_each(|v| *v *= 1.0 + 2e-5);
        }
        assert!(!passes(&case, &reference, &found));
    }
}
