//! Comparing outputs with the oracle's: one tolerance, measured by the honest implementation.

use serde::Serialize;

use crate::error::Result;
use crate::ops::cases::{Case, OwnedWeight, Values};
use crate::ops::{Comparison, Rounding, Weight};

/// Relative RMS that f32 arithmetic in another order may differ by.
pub const FLOOR: f64 = 4e-6;
/// Largest single error that it may make, in units of the outputs' RMS.
const FLOOR_MAX: f64 = 1e-4;
/// Of the honest implementation's relative RMS.
const SLACK: f64 = 1.3;
/// Of the honest implementation's largest error.
const SLACK_MAX: f64 = 4.0;

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

/// Errors of one or several cases, each in units of its own outputs' RMS.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pool {
    pub outputs: u64,
    #[serde(skip)]
    squares: f64,
    #[serde(skip)]
    honest_squares: f64,
    pub max_abs: f64,
    /// Largest error in units of the outputs' RMS.
    pub max_relative: f64,
    #[serde(skip)]
    worst: Option<FirstBad>,
}

impl Pool {
    /// Relative RMS error.
    pub fn relative_rms(&self) -> f64 {
        if self.outputs == 0 { 0.0 } else { (self.squares / self.outputs as f64).sqrt() }
    }

    pub fn honest_rms(&self) -> f64 {
        if self.outputs == 0 { 0.0 } else { (self.honest_squares / self.outputs as f64).sqrt() }
    }

    pub fn limit(&self) -> f64 {
        SLACK * self.honest_rms() + FLOOR
    }

    /// The pooled half of the tolerance; [`add`](Pool::add) checks the other half, case by case.
    pub fn check(&self) -> Option<FirstBad> {
        if self.relative_rms() <= self.limit() { None } else { self.worst.clone() }
    }

    /// Compares a case's outputs; the first coordinate beyond the largest error allowed is returned.
    pub fn add(&mut self, case: &Case, reference: &Reference, found: &[Option<Values>]) -> Option<FirstBad> {
        let contract = case.contract();
        for (i, arg) in contract.args.iter().enumerate() {
            let (Some(expected), Some(found)) = (&reference.outputs[i], &found[i]) else { continue };
            let bad = |at: usize, e: Number, f: Number| FirstBad {
                case: case.label.clone(),
                at: coordinate(case, arg.name, arg.shape, expected.len(), at),
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
                    if let Some((at, e, f)) = self.add_f32(e, honest, f, &float) {
                        return Some(float(at, e, f));
                    }
                }
                _ => return Some(float(0, f64::NAN, f64::NAN)),
            }
        }
        None
    }

    fn add_f32(
        &mut self,
        expected: &[f32],
        honest: Option<&[f32]>,
        found: &[f32],
        bad: &dyn Fn(usize, f64, f64) -> FirstBad,
    ) -> Option<(usize, f64, f64)> {
        let finite = |v: &&f32| v.is_finite();
        let n = expected.iter().filter(finite).count();
        if n == 0 && expected.is_empty() {
            return None;
        }
        let rms = (expected.iter().filter(finite).map(|v| f64::from(*v).powi(2)).sum::<f64>() / n.max(1) as f64).sqrt();
        // Outputs that are all zero leave nothing to be relative to.
        let unit = if rms > 0.0 { rms } else { 1.0 };
        let honest_max = honest.map_or(0.0, |h| {
            h.iter()
                .zip(expected)
                .filter(|(_, e)| e.is_finite())
                .map(|(h, e)| (f64::from(*h) - f64::from(*e)).abs())
                .fold(0.0, f64::max)
        });
        let allowed = SLACK_MAX * honest_max + FLOOR_MAX * unit;
        let mut first = None;
        for (at, (e, f)) in expected.iter().zip(found).enumerate() {
            let (e, f) = (f64::from(*e), f64::from(*f));
            if !e.is_finite() {
                if e != f {
                    first = first.or(Some((at, e, f)));
                }
                continue;
            }
            let error = (e - f).abs();
            if error.is_nan() || error > allowed {
                first = first.or(Some((at, e, f)));
            }
            // A wrong output is part of the figures too: a Red without its error would say nothing.
            let error = if error.is_nan() { f64::INFINITY } else { error };
            self.outputs += 1;
            self.squares += (error / unit).powi(2);
            self.max_abs = self.max_abs.max(error);
            if error / unit > self.max_relative || self.worst.is_none() {
                self.max_relative = self.max_relative.max(error / unit);
                self.worst = Some(bad(at, e, f));
            }
        }
        if first.is_some() {
            return first;
        }
        if let Some(h) = honest {
            let squares = h.iter().zip(expected).filter(|(_, e)| e.is_finite());
            self.honest_squares += squares.map(|(h, e)| ((f64::from(*h) - f64::from(*e)) / unit).powi(2)).sum::<f64>();
        }
        None
    }
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

/// `y[T=3, N=17]`, from a flat index.
fn coordinate(case: &Case, name: &str, shape: &[&str], len: usize, flat: usize) -> String {
    let mut rest = flat;
    let mut sizes: Vec<usize> = shape[1..]
        .iter()
        .map(|s| {
            let e = crate::ops::expr::Expr::parse(s).ok();
            e.and_then(|e| e.eval(&|s| case.symbol(s)).ok()).and_then(|v| usize::try_from(v).ok()).unwrap_or(1).max(1)
        })
        .collect();
    sizes.insert(0, len / sizes.iter().product::<usize>().max(1));
    let mut parts = vec![String::new(); shape.len()];
    for i in (0..shape.len()).rev() {
        let n = sizes[i].max(1);
        parts[i] = if i == 0 { rest.to_string() } else { (rest % n).to_string() };
        rest /= n;
    }
    let named: Vec<_> =
        shape.iter().zip(parts).map(|(s, p)| if s.len() <= 2 { format!("{s}={p}") } else { p }).collect();
    format!("{name}[{}]", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops;
    use crate::ops::cases::{Blocks, Draw, Sizes, draw_case};

    fn case() -> Case {
        let op = ops::find("swiglu").unwrap();
        let sizes = Sizes { dims: &[256], types: &[], blocks: Blocks::Usual, far: false, real: None };
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
}
