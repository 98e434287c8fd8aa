//! Stage 4: a kernel against its oracle, case by case.
//!
//! A case runs twice, at different addresses, on another [`Ground`] and, on the emulator, with threads and blocks in
//! another order: a kernel that needs any of these to be as they were is not right. One that has scratch memory is each
//! time called again on what it left there. Bands of known bytes lie around every buffer, and inputs are read back
//! afterwards. One more step has no tokens at all: nothing may happen then.

use std::borrow::Cow;
use std::sync::atomic::AtomicBool;

use super::asked::Planned;
use super::compare::{self, Pool, Reference};
use super::questions::{Answers, Questions};
use super::runner::{Failure, Ground, Runner};
use super::unless;
use crate::error::{Error, Result};
use crate::ops::cases::{Case, Values};
use crate::ops::draw::Draw;
use crate::ops::{Access, Rounding};

/// Outputs that a pool or a sample has at least.
const POOL: u64 = 4096;

/// What stage 4 found.
pub struct Unit {
    pub failure: Option<Failure>,
    pub pool: Pool,
    pub cases: usize,
    /// sha256 over every case's outputs, in order.
    pub outputs: String,
    /// Small cases, by their place in the list, with their right answers, for the mutants.
    pub small: Vec<(usize, Answers)>,
    /// sha256 over the drawn inputs of every case: what was asked, independent of who answered.
    pub asked: String,
}

/// Small cases without whose tokens a step is tried: the first, and for each dimension the largest. With one head a kernel
/// may do nothing where with four it never ends.
fn without_tokens(planned: &[Planned]) -> Vec<usize> {
    let light = |p: &Planned| p.case.op.macs(&p.case.dims, p.case.tokens()) < 1_000_000;
    let small: Vec<usize> =
        (0..planned.len()).filter(|i| planned[*i].case.tokens() <= 3 && light(&planned[*i])).collect();
    let dims = planned.first().map_or(0, |p| p.case.dims.len());
    let largest = (0..dims).filter_map(|d| small.iter().copied().rev().max_by_key(|i| planned[*i].case.dims[d]));
    let mut out: Vec<usize> = (0..planned.len().min(1)).chain(largest).collect();
    out.sort_unstable();
    out.dedup();
    out
}

/// Runs every case of a variant. `tick` is told of each finished case and may ask to stop.
pub fn judge(
    runner: &mut Runner<'_>,
    questions: &Questions,
    rounding: Rounding,
    seed: &[u8; 32],
    stop: &AtomicBool,
    mut tick: impl FnMut(usize, usize),
) -> Result<Unit> {
    use sha2::{Digest, Sha256};
    let (mut outputs, mut asked) = (Sha256::new(), Sha256::new());
    let mut unit = Unit {
        failure: None,
        pool: Pool::default(),
        cases: 0,
        outputs: String::new(),
        small: Vec::new(),
        asked: String::new(),
    };
    let planned = &questions.planned;
    let (mut unwritten, mut writable) = (0, 0);
    for i in without_tokens(planned) {
        unless(stop)?;
        if let Err(failure) = runner.run_empty(&planned[i].case, planned[i].worst)? {
            unit.failure = Some(failure);
            return Ok(unit);
        }
    }
    let mut failure: Option<Failure> = None;
    for (i, p) in planned.iter().enumerate() {
        tick(i, planned.len());
        unless(stop)?;
        // The sample's tokens are drawn from the secret seed, so that a kernel cannot know them.
        let parts: Vec<(Cow<'_, Case>, Option<usize>)> = if p.sampled {
            let mut draw = Draw::new(seed, &format!("sample {}", p.case.label));
            let width: usize = p
                .case
                .args
                .iter()
                .zip(p.case.contract().args)
                .filter(|(_, a)| a.access != Access::Read)
                .map(|(v, _)| v.as_ref().map_or(0, Values::len))
                .sum();
            let per_token = (width / p.case.tokens()).max(1) as u64;
            let n = (POOL.div_ceil(per_token) as usize).clamp(4, p.case.tokens());
            let mut tokens: Vec<usize> =
                (0..n).map(|_| draw.below(p.case.tokens())).chain([0, p.case.tokens() - 1]).collect();
            tokens.sort_unstable();
            tokens.dedup();
            tokens.into_iter().map(|t| (Cow::Owned(p.case.token(t)), Some(t))).collect()
        } else {
            vec![(Cow::Borrowed(&p.case), None)]
        };
        // The device is not waited for: meanwhile the oracle works, and what is asked is hashed.
        let reference = |(case, _): &(Cow<'_, Case>, Option<usize>)| {
            unless(stop)?;
            Reference::of(case, rounding)
        };
        let (references, first) = std::thread::scope(|scope| {
            scope.spawn(|| {
                asked.update(p.case.label.as_bytes());
                p.case.scalars.iter().for_each(|s| asked.update(s.to_le_bytes()));
                p.case.args.iter().flatten().for_each(|v| asked.update(v.bytes()));
                p.case.weights.iter().flatten().for_each(|w| asked.update(w.bytes.as_slice()));
            });
            let references = scope.spawn(|| questions.answers(i, || parts.iter().map(&reference).collect()));
            let first = runner.run(&p.case, p.worst, 0, Ground::FIRST);
            (references.join().unwrap_or_else(|_| Err(Error::internal("the oracle's thread ended early"))), first)
        });
        let (references, mut first) = (references?, Some(first?));
        let mut draw = Draw::new(seed, &format!("ground {}", p.case.label));
        let second = Ground::second(&mut draw, i);
        let mut untouched = Vec::new();
        for (run, ground) in [Ground::FIRST, second].into_iter().enumerate() {
            let out = match first.take() {
                Some(first) => first,
                None => runner.run(&p.case, p.worst, 4096 + 256 * (i as u64 % 7), ground)?,
            };
            let out = match out {
                Ok(out) => out,
                Err(f) => {
                    unit.failure = Some(f);
                    return Ok(unit);
                }
            };
            untouched.push(out.unwritten > 0 && out.unwritten == out.written_args);
            unwritten += out.unwritten;
            writable += out.written_args;
            for (called, values) in [Some(&out.values), out.again.as_ref()].into_iter().flatten().enumerate() {
                values.iter().flatten().for_each(|v| outputs.update(v.bytes()));
                for ((case, token), reference) in parts.iter().zip(references.iter()) {
                    let mine = match token {
                        None => values.clone(),
                        Some(t) => slice_token(&p.case, values, *t),
                    };
                    let mut pool = std::mem::take(&mut unit.pool);
                    let bad = pool.add(case, reference, &mine);
                    unit.pool = pool;
                    if let (Some(bad), None) = (bad, &failure) {
                        let poison = compare::is_word(bad.found, ground.outputs);
                        let reason = match (out.unwritten, poison) {
                            (n, true) if n > 0 && run == 0 => {
                                format!("{n} of {} outputs were never written", out.written_args)
                            }
                            _ if called == 1 => {
                                "called a second time it gives other outputs: they depend on what the call before left \
                                 in the scratch memory"
                                    .into()
                            }
                            _ if run == 1 => {
                                "a second run gives other outputs: they depend on the order of threads, on what \
                                 outputs or scratch held before, on addresses or on the call before"
                                    .into()
                            }
                            _ => format!("{} is wrong", bad.at.split('[').next().unwrap_or("an output")),
                        };
                        failure = Some(Failure { reason, first_bad: Some(bad), stub: false });
                    }
                }
            }
            // Where nothing seems to be written, the second run can tell a stub from a kernel that adds to its outputs.
            if failure.is_some() && untouched != [true] {
                break;
            }
        }
        unit.cases += 1;
        if let Some(f) = &mut failure {
            f.stub = writable > 0 && unwritten == writable;
            if untouched == [true, false] {
                f.reason = "what outputs held before goes into them".into();
            }
            unit.failure = failure;
            return Ok(unit);
        }
        if p.is_small() {
            unit.small.push((i, references));
        }
    }
    if let Some(bad) = unit.pool.check() {
        let reason = format!(
            "relative RMS {:.2e} over {} outputs is above {:.2e} = 1.3 × honest {:.2e} + floor",
            unit.pool.relative_rms(),
            unit.pool.outputs,
            unit.pool.limit(),
            unit.pool.honest_rms()
        );
        unit.failure = Some(Failure { reason, first_bad: Some(bad), stub: false });
    }
    unit.outputs = crate::plan::source::hex(&outputs.finalize());
    unit.asked = crate::plan::source::hex(&asked.finalize());
    Ok(unit)
}

/// The outputs of token `t` out of a whole case's.
fn slice_token(case: &Case, values: &[Option<Values>], t: usize) -> Vec<Option<Values>> {
    let n = case.tokens();
    case.contract()
        .args
        .iter()
        .zip(values)
        .map(|(arg, v)| match v {
            Some(Values::F32(v)) if matches!(arg.shape.first(), Some(&"T" | &"R")) => {
                Some(Values::F32(v[v.len() / n * t..][..v.len() / n].to_vec()))
            }
            Some(Values::I32(v)) if matches!(arg.shape.first(), Some(&"T" | &"R")) => {
                Some(Values::I32(v[v.len() / n * t..][..v.len() / n].to_vec()))
            }
            other => other.clone(),
        })
        .collect()
}
