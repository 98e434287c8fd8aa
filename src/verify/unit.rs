//! Stage 4: a kernel against its oracle, case by case.
//!
//! A case runs twice, at different addresses, on another [`Ground`] and, on the emulator, with threads and blocks in
//! another order: a kernel that needs any of these to be as they were is not right. One that has scratch memory is each
//! time called again on what it left there. Bands of known bytes lie around every buffer, and inputs are read back
//! afterwards. One more step has no tokens at all: nothing may happen then.

use std::sync::atomic::{AtomicBool, Ordering};

use super::compare::{self, Pool, Reference};
use super::runner::{Failure, Ground, Runner};
use crate::backend::Placement;
use crate::error::{Error, Result};
use crate::model::quant::DType;
use crate::ops::cases::{Blocks, Case, Draw, LONG_STEP, Real, STEP_TOKENS, Sizes, Values, Way, draw_case, fits};
use crate::ops::{Access, Node, Op, Rounding};
use crate::plan::manifest::Variant;

/// Multiply-adds of one case on the emulator: with `--thorough` and in the long case, and by default. A tiled kernel
/// computes whole tiles for a single token, so the default is what one core does in a second even then.
const EMULATOR_MACS_MOST: u64 = 50_000_000;
const EMULATOR_MACS: u64 = 3_000_000;
/// Product of a far size's dims up to which it is met by three tokens, besides one.
const FAR_TWICE: i64 = 4_000_000;
/// Of [`Op::long`] at [`STEP_TOKENS`] there: what copies, rotates and norms.
const EMULATOR_MACS_LONGEST: u64 = 9_000_000;
/// On a device the oracle's time is the limit.
const DEVICE_MACS: u64 = 4_000_000_000;
/// Tokens past which a device's outputs are compared in a sample.
const SAMPLED_FROM: usize = 64;
/// Token counts that are always asked: where tiles and windows end, and right behind.
const EVEN: [usize; 2] = [128, 129];
const EVEN_LONG: usize = 2048;
/// Bytes of weights past which a model's own are taken for one case of a variant.
const HEAVY: usize = 64 << 20;
/// Of how many sizes one is asked at each token count.
const TURNS: usize = 3;
/// Outputs that a pool or a sample has at least.
const POOL: u64 = 4096;

/// Tokens that a schedule's worst step has beyond a case's, case by case. The first case has some, the second none.
const ROOM: [usize; 4] = [37, 0, 1, 0];

/// A node's shapes in an opened model, with the tensors of one instance for each.
pub struct ModelShape<'m> {
    pub label: String,
    pub dims: Vec<i64>,
    pub scalars: Vec<f64>,
    pub weights: Vec<Option<crate::ops::Weight<'m>>>,
    pub absent: Vec<bool>,
}

/// What stage 4 is asked to do.
pub struct Request<'r, 'm> {
    pub op: &'static dyn Op,
    /// Types of the weights, in the contract's order.
    pub types: Vec<DType>,
    pub shapes: &'r [ModelShape<'m>],
    pub seed: [u8; 32],
    pub placement: Placement,
    pub thorough: bool,
}

/// A case to run, and whether its outputs are compared in full.
pub struct Planned {
    pub case: Case,
    pub worst: usize,
    pub sampled: bool,
}

impl Planned {
    /// Whether mutants of its right answer are tried.
    pub fn is_small(&self) -> bool {
        self.case.tokens() <= 63 && self.case.op.macs(&self.case.dims, self.case.tokens()) < 3_000_000
    }
}

impl Request<'_, '_> {
    fn limit(&self, tokens: usize) -> u64 {
        match self.placement {
            Placement::Emulator if self.thorough || tokens > LONG_STEP => EMULATOR_MACS_MOST,
            Placement::Emulator => EMULATOR_MACS,
            _ => DEVICE_MACS,
        }
    }

    /// Draws the cases of a variant. The list is the same for one seed on any machine.
    pub fn cases(&self, variant: &Variant) -> Result<Vec<Planned>> {
        let label = format!("{}/{}", self.op.contract().op, variant.name);
        let rounding = variant.rounding;
        let mut draw = Draw::new(&self.seed, &label);
        let (min, max) =
            variant.tokens.map_or((1, usize::MAX), |t| (t.min.unwrap_or(1).max(1), t.max.unwrap_or(usize::MAX)));
        // Of any op that counts in fours at least two with several rows, and one past the first tile of 32.
        let ragged = [draw.between(4, 8), draw.between(9, 31), draw.between(33, 63)];
        let long = 2049 + draw.below(200);
        let longest = STEP_TOKENS - draw.pick(&[0, 1, 2, 3, 61]);
        let mut counts: Vec<usize> = vec![1, 2, 3, long];
        counts.extend(ragged);
        counts.extend(EVEN);
        if self.thorough || self.placement == Placement::Device {
            counts.extend([draw.between(64, 130), draw.between(250, 520), EVEN_LONG, longest]);
        } else if self.op.macs(self.op.long(), longest) <= EMULATOR_MACS_LONGEST {
            counts.extend([EVEN_LONG, longest]);
        }
        // A variant for few tokens is met where its tiles are not all full as well.
        if max <= 64 {
            counts.extend([max - 1, max / 2 + 1]);
        }
        counts.iter_mut().for_each(|t| *t = (*t).clamp(min, max));
        counts.sort_unstable();
        counts.dedup();
        let mut out = Vec::new();
        let fit = |d: &&&'static [i64]| fits(self.op, d, &self.types);
        let presets: Vec<&'static [i64]> = self.op.presets().iter().filter(fit).copied().collect();
        let (first_turn, mut met) = (draw.below(TURNS), vec![false; presets.len()]);
        let last_narrow = counts.iter().rposition(|t| *t <= LONG_STEP);
        let last = counts.len() - 1;
        // Of a model's heavy weights, the one count at which they are taken; 0 where none is small enough.
        let heavy: Vec<Option<usize>> = (self.shapes.iter())
            .map(|shape| {
                let bytes: usize = shape.weights.iter().flatten().map(|w| w.bytes.len()).sum();
                let fits = |t: &&usize| **t <= 512 && self.op.macs(&shape.dims, **t) <= self.limit(**t);
                let fit: Vec<usize> = counts.iter().filter(fits).copied().collect();
                (bytes > HEAVY).then(|| fit.get(draw.below(fit.len().max(1))).copied().unwrap_or(0))
            })
            .collect();
        for (k, tokens) in counts.into_iter().enumerate() {
            // The cheapest size at every token count, the others in turn: every size meets some count, and weights of
            // tens of megabytes are not drawn for all of them.
            let turn = (first_turn + k) % TURNS;
            let mut taken = 0;
            let wide = tokens > LONG_STEP && self.placement == Placement::Emulator;
            let long = if wide && !self.thorough { vec![self.op.long()] } else { presets.clone() };
            for (i, dims) in long.into_iter().enumerate() {
                // Every size of a single token, as decoding has it.
                let due = i % TURNS == turn || k == 0 || (last_narrow == Some(k) && !met[i]);
                let mine = self.thorough || taken == 0 || due;
                if self.op.macs(dims, tokens) > self.limit(tokens) || !mine {
                    continue;
                }
                taken += 1;
                met[i] |= !wide;
                // With rounded operands and large scales a clamp flips on single outputs, and the honest
                // implementation's error would excuse anything.
                let blocks = match draw.below(8) {
                    0 => Blocks::Subnormal,
                    1 if rounding == Rounding::None => Blocks::Large,
                    _ => Blocks::Usual,
                };
                let sizes = Sizes { blocks, rounding, ..Sizes::of(dims, &self.types) };
                let label = format!("{} T={tokens} {}", self.dims(dims), kind(blocks));
                // Where a few tokens share blocks, what goes wrong hangs on the position; small cases are cheap. The
                // shortest and the longest step meet every way in which the op is called.
                let every = k == 0 || (k == last && taken == 1);
                let calls = match Way::all(self.op) {
                    ways if ways.len() > 1 && every => ways,
                    _ if taken == 1 && max <= 64 && tokens > 3 => vec![Way::default(); 3],
                    _ => vec![Way::default()],
                };
                for way in calls {
                    let sizes = Sizes { way, real: None, ..sizes };
                    self.push(&mut out, &sizes, tokens, (min, max), &mut draw, label.clone())?;
                }
            }
            if tokens > 512 {
                continue;
            }
            let turn = draw.below(TURNS);
            for (i, shape) in self.shapes.iter().enumerate() {
                let due = match heavy[i] {
                    Some(count) => count == tokens,
                    None => self.shapes.len() <= TURNS || i % TURNS == turn,
                };
                let mine = self.thorough || due;
                if !mine || self.op.macs(&shape.dims, tokens) > self.limit(tokens) {
                    continue;
                }
                let real =
                    Real { weights: shape.weights.clone(), scalars: &shape.scalars, absent: shape.absent.clone() };
                let sizes = Sizes { rounding, real: Some(real), ..Sizes::of(&shape.dims, &self.types) };
                self.push(&mut out, &sizes, tokens, (min, max), &mut draw, format!("{} T={tokens}", shape.label))?;
            }
        }
        for dims in self.op.far().iter().filter(fit) {
            let mut counts = [1usize.clamp(min, max), 3usize.clamp(min, max)].to_vec();
            counts.dedup();
            for tokens in counts {
                // Once is enough for arrays of tens of megabytes.
                let again = tokens > min.max(1) && dims.iter().product::<i64>() > FAR_TWICE;
                if again || self.op.macs(dims, tokens) > self.limit(tokens) {
                    continue;
                }
                let sizes = Sizes { far: true, rounding, ..Sizes::of(dims, &self.types) };
                let label = format!("{} T={tokens} far", self.dims(dims));
                self.push(&mut out, &sizes, tokens, (min, max), &mut draw, label)?;
            }
        }
        for (dims, low, high) in self.op.spans() {
            let tokens = draw.between(*low, *high).clamp(min, max);
            if fits(self.op, dims, &self.types) && self.op.macs(dims, tokens) <= self.limit(tokens) {
                let sizes = Sizes { rounding, ..Sizes::of(dims, &self.types) };
                let label = format!("{} T={tokens}", self.dims(dims));
                self.push(&mut out, &sizes, tokens, (min, max), &mut draw, label)?;
            }
        }
        Ok(out)
    }

    fn dims(&self, dims: &[i64]) -> String {
        let names = self.op.contract().dims;
        names.iter().zip(dims).map(|(n, d)| format!("{n}={d}")).collect::<Vec<_>>().join(" ")
    }

    fn push(
        &self,
        out: &mut Vec<Planned>,
        sizes: &Sizes<'_>,
        tokens: usize,
        (_, max): (usize, usize),
        draw: &mut Draw,
        label: String,
    ) -> Result<()> {
        let case = draw_case(self.op, sizes, tokens, draw, label)?;
        // A step may have fewer tokens than its schedule is made for.
        let worst = tokens.saturating_add(ROOM[out.len() % ROOM.len()]).min(max);
        let sampled = self.placement == Placement::Device && tokens > SAMPLED_FROM && self.op.tokenwise();
        out.push(Planned { case, worst, sampled });
        Ok(())
    }
}

fn kind(blocks: Blocks) -> &'static str {
    match blocks {
        Blocks::Usual => "",
        Blocks::Subnormal => "subnormal scales",
        Blocks::Large => "large scales",
    }
}

/// What stage 4 found.
pub struct Unit {
    pub failure: Option<Failure>,
    pub pool: Pool,
    pub cases: usize,
    /// sha256 over every case's outputs, in order.
    pub outputs: String,
    /// Small cases with their right answers, for the mutants.
    pub small: Vec<(Case, Reference)>,
    /// sha256 over the drawn inputs of every case: what was asked, independent of who answered.
    pub asked: String,
}

/// Runs every case of a variant. `tick` is told of each finished case and may ask to stop.
pub fn judge(
    runner: &mut Runner<'_>,
    planned: &[Planned],
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
    let (mut unwritten, mut writable) = (0, 0);
    if let Some(p) = planned.first()
        && let Err(failure) = runner.run_empty(&p.case, p.worst)?
    {
        unit.failure = Some(failure);
        return Ok(unit);
    }
    let mut failure: Option<Failure> = None;
    for (i, p) in planned.iter().enumerate() {
        tick(i, planned.len());
        if stop.load(Ordering::Relaxed) {
            return Err(Error::interrupted());
        }
        asked.update(p.case.label.as_bytes());
        p.case.scalars.iter().for_each(|s| asked.update(s.to_le_bytes()));
        p.case.args.iter().flatten().for_each(|v| asked.update(v.bytes()));
        p.case.weights.iter().flatten().for_each(|w| asked.update(w.bytes.as_slice()));
        // The sample's tokens are drawn from the secret seed, so that a kernel cannot know them.
        let parts: Vec<(Case, Option<usize>)> = if p.sampled {
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
            tokens.into_iter().map(|t| (p.case.token(t), Some(t))).collect()
        } else {
            vec![(p.case.clone(), None)]
        };
        let references: Vec<Reference> =
            parts.iter().map(|(c, _)| Reference::of(c, rounding)).collect::<Result<_>>()?;
        let mut draw = Draw::new(seed, &format!("ground {}", p.case.label));
        let second = Ground::second(&mut draw, i);
        let mut untouched = Vec::new();
        for (run, shift, ground) in [(0, 0u64, Ground::FIRST), (1, 4096 + 256 * (i as u64 % 7), second)] {
            let out = match runner.run(&p.case, p.worst, shift, ground)? {
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
                for ((case, token), reference) in parts.iter().zip(&references) {
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
            unit.small.extend(parts.into_iter().map(|(c, _)| c).zip(references));
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

/// Weight types in slot order, from the node's typed slots.
pub fn slot_types(op: &'static dyn Op, node: &Node) -> Vec<DType> {
    let c = op.contract();
    let mut typed = node.types.iter();
    let mut out: Vec<DType> = Vec::new();
    for slot in c.weights {
        let same = slot.same_type_as.and_then(|s| c.weight(s)).and_then(|i| out.get(i).copied());
        out.push(match same {
            Some(t) => t,
            None if slot.types.len() > 1 => typed.next().copied().unwrap_or(slot.types[0]),
            None => slot.types[0],
        });
    }
    out
}
