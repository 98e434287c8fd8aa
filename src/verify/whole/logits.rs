//! Logits that must agree: with the oracle's, and with each other however the tokens were fed.
//!
//! In `exact` a correct engine differs by sums in another order alone, so the limit is strict; only where two choices
//! (experts, or rows for attention) are nearly tied may another order choose otherwise, which moves single positions.
//! In `ds4` the model's own roundings flip, and two correct engines differ visibly, as do two variants of one kernel
//! that round their operands to f16. How much is measured and not assumed: the same steps with their embeddings moved
//! by as much as an operand's rounding does.

use std::collections::HashMap;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::super::prefill::{EXACT_LIMIT, relative};
use crate::plan::Numerics;
use crate::verify::Figures;

/// Past this something else than a flipped choice is wrong, at any one position.
const FLIPPED: f64 = 0.5;
/// Of positions one in so many may have flipped a choice in `exact`, and one besides.
const FLIPS: usize = 50;
/// Two correct `ds4` runs of a trained model differ by up to this, as a root mean square over positions.
const DS4_LIMIT: f64 = 0.05;
/// How far beyond the measured effect of rounding two runs may differ.
const SLACK: f64 = 4.0;
/// Beyond this effect the comparison says nothing.
const CHAOTIC: f64 = 0.2;
/// Two logits that are nearer to each other, in units of the logits' RMS, are tied.
const TIED: f64 = 0.01;

/// Logits by the number of tokens that they follow. A distance between two is infinite where there is a NaN.
pub struct Rows(Vec<(usize, Vec<f32>)>);

impl Rows {
    pub fn new(rows: Vec<(usize, Vec<f32>)>) -> Rows {
        Rows(rows)
    }

    /// The first position at which two runs of one script differ in any bit.
    pub fn first_difference(&self, other: &Rows) -> Option<usize> {
        let bits = |row: &[f32]| row.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let pairs = self.0.iter().zip(&other.0);
        pairs.into_iter().find(|(a, b)| a.0 != b.0 || bits(&a.1) != bits(&b.1)).map(|(a, _)| a.0)
    }

    pub fn digest(&self, into: &mut Sha256) {
        for (_, row) in &self.0 {
            into.update(bytemuck::cast_slice(row));
        }
    }
}

#[derive(Clone, Copy)]
pub struct Limits {
    numerics: Numerics,
    /// Nothing is known of how such a file behaves: the measured effect of rounding widens `exact` too.
    large: bool,
}

impl Limits {
    pub fn of(numerics: Numerics, large: bool) -> Limits {
        Limits { numerics, large }
    }
}

/// One comparison.
struct Compared {
    tokens: usize,
    script: String,
    with: String,
    distance: f64,
    /// Both have the same largest logit, or it is tied.
    same_choice: bool,
}

const ORACLE: &str = "the oracle";

impl Compared {
    /// Rows of logits after so many tokens, each with who gave it.
    fn of(tokens: usize, (script, row): (&str, &[f32]), (with, right): (&str, &[f32])) -> Compared {
        Compared {
            tokens,
            script: script.into(),
            with: with.into(),
            distance: relative(row, right),
            same_choice: same_choice(row, right),
        }
    }
}

/// All logits of one numerics, and how they compare.
pub struct Book {
    limits: Limits,
    pub oracle: Option<Rows>,
    /// The first logits at each position, and who gave them.
    first: HashMap<usize, (String, Vec<f32>)>,
    with_oracle: Vec<Compared>,
    with_itself: Vec<Compared>,
    /// How far moved embeddings moved the logits, one for each position and run.
    moved: Vec<f64>,
}

impl Book {
    pub fn new(limits: Limits) -> Book {
        Book {
            limits,
            oracle: None,
            first: HashMap::new(),
            with_oracle: Vec::new(),
            with_itself: Vec::new(),
            moved: Vec::new(),
        }
    }

    /// Compares the rows of a script with what is known at their positions.
    pub fn add(&mut self, script: &str, rows: Rows) {
        for (tokens, row) in rows.0 {
            if let Some((_, right)) = self.oracle.as_ref().and_then(|o| o.0.iter().find(|(n, _)| *n == tokens)) {
                self.with_oracle.push(Compared::of(tokens, (script, &row), (ORACLE, right)));
            }
            match self.first.get(&tokens) {
                Some((with, right)) => self.with_itself.push(Compared::of(tokens, (script, &row), (with, right))),
                None => drop(self.first.insert(tokens, (script.into(), row))),
            }
        }
    }

    /// Compares with the oracle, which came late, what was first at each position.
    pub fn against(&mut self, oracle: &Rows) {
        for (tokens, right) in &oracle.0 {
            if let Some((script, row)) = self.first.get(tokens) {
                self.with_oracle.push(Compared::of(*tokens, (script, row), (ORACLE, right)));
            }
        }
    }

    /// Takes the logits of steps whose embeddings were moved by as much as the numerics round.
    pub fn moved(&mut self, runs: &[Rows]) {
        for (tokens, row) in runs.iter().flat_map(|rows| &rows.0) {
            if let Some((_, right)) = self.first.get(tokens) {
                self.moved.push(relative(row, right));
            }
        }
    }

    /// What rounding alone does to the logits of one position. In `exact`, where positions are judged one by one, as a
    /// median: the few in which it tipped a choice are no measure for the others. In `ds4`, where they are judged
    /// together, as a root mean square.
    fn sensitivity(&self) -> Option<f64> {
        match self.limits.numerics {
            _ if self.moved.is_empty() => None,
            Numerics::Exact => {
                let mut moved = self.moved.clone();
                moved.sort_by(f64::total_cmp);
                Some(moved[moved.len() / 2])
            }
            Numerics::Ds4 => Some(root_mean_square(self.moved.iter().copied())),
        }
    }

    /// How many of `n` positions may be beyond the limit in `exact`: in a large file several times as many as rounding
    /// alone tipped a choice in, besides those of any.
    fn flips(&self, n: usize) -> usize {
        let limit = self.limit();
        let tipped = self.moved.iter().filter(|m| **m > limit).count();
        let measured = match self.limits.large {
            true => (SLACK * (tipped * n) as f64 / self.moved.len().max(1) as f64).ceil() as usize,
            false => 0,
        };
        (1 + n / FLIPS).max(measured)
    }

    /// Figures, and why the logits are wrong.
    pub fn judge(&self) -> (Figures, Option<String>) {
        let mut figures = Figures::new();
        let mut red = None;
        if let Some(s) = self.sensitivity() {
            figures.insert("rounding_moves_logits_by".into(), json!(s));
        }
        for (name, list) in [("with_oracle", &self.with_oracle), ("with_itself", &self.with_itself)] {
            if list.is_empty() {
                continue;
            }
            let n = list.len();
            let rms = root_mean_square(list.iter().map(|c| c.distance));
            let worst = list.iter().max_by(|a, b| a.distance.total_cmp(&b.distance));
            let choices = list.iter().filter(|c| c.same_choice).count();
            let limit = self.limit();
            let beyond = list.iter().filter(|c| c.distance > limit).count();
            figures.insert(
                name.into(),
                json!({
                    "positions": n, "relative_rms": rms, "worst": worst.map(|c| c.distance), "limit": limit,
                    "beyond_limit": beyond, "may_be_beyond": self.flips(n), "same_choice": choices,
                }),
            );
            red = red.or_else(|| self.fault(list, rms, limit, beyond));
        }
        (figures, red)
    }

    fn limit(&self) -> f64 {
        let measured = self.sensitivity().map_or(0.0, |s| SLACK * s.min(CHAOTIC));
        match self.limits.numerics {
            Numerics::Exact if self.limits.large => measured.max(EXACT_LIMIT),
            Numerics::Exact => EXACT_LIMIT,
            Numerics::Ds4 => measured.max(DS4_LIMIT),
        }
    }

    fn fault(&self, list: &[Compared], rms: f64, limit: f64, beyond: usize) -> Option<String> {
        let say = |c: &Compared, what: &str| {
            format!(
                "logits after {} tokens: {} differs from {} by {:.2e}{what}",
                c.tokens, c.script, c.with, c.distance
            )
        };
        let worst = list.iter().max_by(|a, b| a.distance.total_cmp(&b.distance))?;
        match self.limits.numerics {
            Numerics::Exact => {
                let flips = self.flips(list.len());
                if beyond > flips || worst.distance > FLIPPED.max(limit) {
                    let of = list.len();
                    return Some(say(
                        worst,
                        &format!("; {limit:.0e} is allowed, {beyond} of {of} are beyond, {flips} may be"),
                    ));
                }
                let other = list.iter().find(|c| !c.same_choice && c.distance <= limit)?;
                Some(say(other, ", and its largest logit is another one though it is not tied"))
            }
            Numerics::Ds4 => {
                let wrong = rms > limit;
                wrong.then(|| {
                    say(worst, &format!("; over {} positions by {rms:.2e}, {limit:.0e} is allowed", list.len()))
                })
            }
        }
    }
}

fn root_mean_square(of: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = of.len().max(1) as f64;
    (of.map(|v| v.powi(2)).sum::<f64>() / n).sqrt()
}

/// Whether the largest logit is the same one, or tied with it in `right`.
fn same_choice(row: &[f32], right: &[f32]) -> bool {
    let (Some(a), Some(b)) = (crate::engine::argmax(row), crate::engine::argmax(right)) else { return false };
    let rms = (right.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / right.len() as f64).sqrt();
    a == b || f64::from(right[b] - right[a]) <= TIED * rms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize, f: impl Fn(usize, usize) -> f32) -> Rows {
        Rows::new((1..=n).map(|p| (p, (0..32).map(|i| f(p, i)).collect())).collect())
    }

    fn right(p: usize, i: usize) -> f32 {
        ((p * 31 + i * 17) % 23) as f32 - 11.0
    }

    fn judged(numerics: Numerics, f: impl Fn(usize, usize) -> f32) -> Option<String> {
        let mut book = Book::new(Limits::of(numerics, false));
        book.oracle = Some(rows(120, right));
        book.add("a", rows(120, f));
        book.judge().1
    }

    #[test]
    fn one_flipped_choice_is_no_fault_in_exact_and_many_are() {
        let off =
            |every: usize| move |p: usize, i: usize| right(p, i) * if p.is_multiple_of(every) { 1.05 } else { 1.0 };
        assert_eq!(judged(Numerics::Exact, right), None);
        assert_eq!(judged(Numerics::Exact, off(100)), None);
        assert!(judged(Numerics::Exact, off(4)).is_some());
        assert!(judged(Numerics::Exact, |p, i| right(p, i) * if p == 77 { -1.0 } else { 1.0 }).is_some());
    }

    /// A step of few tokens and a long one take variants that round differently, and an expert's choice flips.
    #[test]
    fn two_runs_in_ds4_may_differ_as_often_as_rounding_alone_makes_them() {
        let flips =
            |every: usize| move |p: usize, i: usize| right(p, i) * if p.is_multiple_of(every) { 1.3 } else { 1.001 };
        let judged = |moved: Option<usize>, every: usize| {
            let mut book = Book::new(Limits::of(Numerics::Ds4, true));
            book.add("prefill of 120", rows(120, right));
            book.moved(&moved.map(|m| rows(60, flips(m))).into_iter().collect::<Vec<_>>());
            book.add("prefill of 120 in chunks", rows(120, flips(every)));
            book.judge().1
        };
        assert!(judged(None, 20).is_some());
        assert_eq!(judged(Some(20), 20), None);
        // One moved position that flips says nothing of all others.
        assert!(judged(Some(60), 1).is_some());
        assert!(judged(Some(61), 20).is_some());
    }

    /// The worst of hundreds of moved positions was the limit of every one, and logits that were a tenth off passed.
    #[test]
    fn one_tipped_choice_does_not_widen_exact_for_all_other_positions() {
        let off = |at: fn(usize) -> bool, by: f32| move |p: usize, i: usize| right(p, i) * if at(p) { by } else { 1.0 };
        let judged = |moved: fn(usize) -> bool, at: fn(usize) -> bool, by: f32| {
            let mut book = Book::new(Limits::of(Numerics::Exact, true));
            book.add("prefill of 120", rows(120, right));
            book.moved(&[rows(120, off(moved, 1.2))]);
            book.add("prefill of 120 in chunks", rows(120, off(at, by)));
            book.judge().1
        };
        assert!(judged(|p| p == 7, |_| true, 1.1).is_some());
        assert!(judged(|p| p == 7, |p| p.is_multiple_of(8), 1.1).is_some());
        assert_eq!(judged(|p| p == 7, |p| p.is_multiple_of(40), 1.1), None);
        // Where rounding tips a choice in every twelfth position, another engine may in every eighth.
        assert_eq!(judged(|p| p.is_multiple_of(12), |p| p.is_multiple_of(8), 1.1), None);
        assert!(judged(|p| p.is_multiple_of(12), |p| p.is_multiple_of(2), 1.1).is_some());
    }

    #[test]
    fn a_nan_is_a_fault_in_either_numerics() {
        for numerics in [Numerics::Exact, Numerics::Ds4] {
            assert!(judged(numerics, |p, i| if p == 77 { f32::NAN } else { right(p, i) }).is_some());
        }
    }

    #[test]
    fn runs_that_end_at_one_position_are_compared_with_each_other() {
        let mut book = Book::new(Limits::of(Numerics::Exact, false));
        book.add("a", rows(9, right));
        book.add("b", rows(9, |p, i| right(p, i) * 1.01));
        let why = book.judge().1.unwrap();
        assert!(why.contains("b differs from a"), "{why}");
    }
}
