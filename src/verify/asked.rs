//! What stage 4 asks: at which sizes, of how many tokens and in which ways an op is called.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;

use super::unless;
use crate::backend::Placement;
use crate::error::Result;
use crate::model::quant::DType;
use crate::ops::blocks::Blocks;
use crate::ops::cases::{Case, LONG_STEP, Real, STEP_TOKENS, Sizes, Way, draw_case, fits};
use crate::ops::draw::Draw;
use crate::ops::{Node, Op, Rounding};
use crate::plan::manifest::Variant;

/// Multiply-adds of one case on the emulator: with `--thorough` and in the long case, and by default. A tiled kernel
/// computes whole tiles for a single token, so the default is what one core does in a second even then.
const EMULATOR_MACS_MOST: u64 = 50_000_000;
const EMULATOR_MACS: u64 = 3_000_000;
/// Product of a far size's dims up to which it is met by three tokens, besides one.
const FAR_TWICE: i64 = 4_000_000;
/// Of [`Op::long`] at [`STEP_TOKENS`] there, and of far cases: what copies, rotates, norms and chooses.
const EMULATOR_MACS_LONGEST: u64 = 9_000_000;
/// On a device the oracle's time is the limit.
const DEVICE_MACS: u64 = 4_000_000_000;
/// Tokens past which a device's outputs are compared in a sample.
const SAMPLED_FROM: usize = 64;
/// Token counts that are always asked: where tiles and windows end, and right behind.
const EVEN: [usize; 2] = [128, 129];
const EVEN_LONG: usize = 2048;
/// Other round counts: all of them where the longest step is cheap, else one.
const POWERS: [usize; 4] = [256, 512, 1024, 4096];
/// Multiply-adds up to which a case costs next to nothing.
const LITTLE: u64 = 300_000;
/// Tokens up to which every count is met by what costs little, and from every position that an op counts in.
const FEW: usize = 8;
/// Where tiles of products end, and right behind: met by what costs as little.
const ENDS: [usize; 6] = [9, 16, 17, 32, 33, 65];
/// Tokens up to which every way of calling an op is met.
const EVERY_WAY: usize = 3;
/// Bytes of weights past which a model's own are taken for one case of a variant.
const HEAVY: usize = 64 << 20;
/// Of how many sizes one is asked at each token count.
const TURNS: usize = 3;
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

/// Tokens of the step that is timed: the usual length of a prefill's chunk in other programs' figures.
const TIMED: usize = 512;

/// Which sizes meet a count of tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Met {
    /// The cheapest, others in turn, and the model's own.
    BySizes,
    ByCheapest,
}

impl Request<'_, '_> {
    fn limit(&self, tokens: usize) -> u64 {
        match self.placement {
            Placement::Emulator if self.thorough || tokens > LONG_STEP => EMULATOR_MACS_MOST,
            Placement::Emulator => EMULATOR_MACS,
            _ => DEVICE_MACS,
        }
    }

    /// Whether there is time for what the emulator leaves out by default.
    fn has_time(&self) -> bool {
        self.thorough || self.placement == Placement::Device
    }

    /// Whether an op is met by the longest step.
    fn meets_longest(&self) -> bool {
        self.has_time() || self.op.macs(self.op.long(), STEP_TOKENS) <= EMULATOR_MACS_LONGEST
    }

    /// The counts of tokens of a variant's steps, and which sizes meet each.
    fn counts(&self, draw: &mut Draw, (min, max): (usize, usize)) -> BTreeMap<usize, Met> {
        // Of any op that counts in fours at least two with several rows, and one past the first tile of 32.
        let ragged = [draw.between(4, 8), draw.between(9, 31), draw.between(33, 63)];
        let mut counts = vec![1, 2, 3, 2049 + draw.below(200)];
        counts.extend(ragged);
        counts.extend(EVEN);
        let power = draw.below(POWERS.len());
        if self.meets_longest() {
            counts.extend([EVEN_LONG, STEP_TOKENS, STEP_TOKENS - draw.pick(&[1, 2, 3, 61])]);
        }
        let by_cheapest = match self.placement {
            Placement::Emulator if self.meets_longest() => &POWERS[..],
            _ => &POWERS[power..=power],
        };
        if self.has_time() {
            counts.extend([draw.between(64, 130), draw.between(250, 520)]);
        }
        // A variant for few tokens is met where its tiles are not all full as well.
        if max <= 64 {
            counts.extend([max - 1, max / 2 + 1]);
        }
        let mut counts: BTreeMap<usize, Met> = counts.into_iter().map(|t| (t.clamp(min, max), Met::BySizes)).collect();
        let little = (1..=FEW).chain(ENDS).filter(|t| self.op.macs(self.op.presets()[0], *t.max(&FEW)) <= LITTLE);
        for t in little.chain(by_cheapest.iter().copied()).filter(|t| (min..=max).contains(t)) {
            counts.entry(t).or_insert(Met::ByCheapest);
        }
        counts
    }

    /// Draws the cases of a variant. The list is the same for one seed on any machine.
    pub fn cases(&self, variant: &Variant) -> Result<Vec<Planned>> {
        self.cases_unless(variant, &AtomicBool::new(false))
    }

    /// The same, given up once `stop` is set: arrays of tens of megabytes take a while.
    pub fn cases_unless(&self, variant: &Variant, stop: &AtomicBool) -> Result<Vec<Planned>> {
        let label = format!("{}/{}", self.op.contract().op, variant.name);
        let rounding = variant.rounding;
        let mut draw = Draw::new(&self.seed, &label);
        let (min, max) = bounds(variant);
        let counts = self.counts(&mut draw, (min, max));
        let mut out = Vec::new();
        let fit = |d: &&&'static [i64]| fits(self.op, d, &self.types);
        let presets: Vec<&'static [i64]> = self.op.presets().iter().filter(fit).copied().collect();
        let (first_turn, mut met) = (draw.below(TURNS), vec![false; presets.len()]);
        let last_narrow = counts.iter().rposition(|(t, by)| *t <= LONG_STEP && *by == Met::BySizes);
        let last = counts.len() - 1;
        // Of a model's heavy weights, the one count at which they are taken; 0 where none is small enough.
        let heavy: Vec<Option<usize>> = (self.shapes.iter())
            .map(|shape| {
                let bytes: usize = shape.weights.iter().flatten().map(|w| w.bytes.len()).sum();
                let fits = |t: &usize| *t <= 512 && self.op.macs(&shape.dims, *t) <= self.limit(*t);
                let fit: Vec<usize> =
                    (counts.iter()).filter(|(t, met)| **met == Met::BySizes && fits(t)).map(|(t, _)| *t).collect();
                (bytes > HEAVY).then(|| fit.get(draw.below(fit.len().max(1))).copied().unwrap_or(0))
            })
            .collect();
        let ways = Way::all(self.op);
        for (k, (tokens, by)) in counts.into_iter().enumerate() {
            // The cheapest size at every token count, the others in turn: every size meets some count, and weights of
            // tens of megabytes are not drawn for all of them.
            let turn = (first_turn + k) % TURNS;
            let mut taken = 0;
            let wide = tokens > LONG_STEP && self.placement == Placement::Emulator;
            let long = if wide && !self.thorough { vec![self.op.long()] } else { presets.clone() };
            for (i, dims) in long.into_iter().enumerate() {
                let macs = self.op.macs(dims, tokens);
                // The shortest steps and the longest meet every way in which the op is called.
                let (first, little) = (taken == 0, macs <= LITTLE && ways.len() > 1);
                let every = k == 0 || (tokens == 2 && little) || (first && (tokens <= EVERY_WAY || k == last));
                // Every size of a single token, as decoding has it.
                let due = by == Met::BySizes && (i % TURNS == turn || (last_narrow == Some(k) && !met[i]));
                let mine = self.thorough || first || due || every;
                if macs > self.limit(tokens) || !mine {
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
                // Where a few tokens share blocks, what goes wrong hangs on the position; small cases are cheap.
                let calls = match () {
                    () if every && ways.len() > 1 => ways.clone(),
                    () if first && max <= 64 && tokens > EVERY_WAY => vec![Way::default(); 3],
                    () => vec![Way::default()],
                };
                for way in calls {
                    let sizes = Sizes { way, real: None, ..sizes };
                    unless(stop)?;
                    self.push(&mut out, sizes, tokens, (min, max), &mut draw, label.clone())?;
                }
            }
            if tokens > 512 || by == Met::ByCheapest {
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
                unless(stop)?;
                self.push(&mut out, sizes, tokens, (min, max), &mut draw, format!("{} T={tokens}", shape.label))?;
            }
        }
        for (dims, tokens, phase) in self.cycles(&presets, &mut draw) {
            if (min..=max).contains(&tokens) {
                let sizes = Sizes { phase: Some(phase), rounding, ..Sizes::of(dims, &self.types) };
                let label = format!("{} T={tokens} from {phase}", self.dims(dims));
                unless(stop)?;
                self.push(&mut out, sizes, tokens, (min, max), &mut draw, label)?;
            }
        }
        for dims in self.op.far().iter().filter(fit) {
            let mut counts = [1usize.clamp(min, max), 3usize.clamp(min, max)].to_vec();
            counts.dedup();
            for tokens in counts {
                // Once is enough for arrays of tens of megabytes.
                let again = tokens > min.max(1) && dims.iter().product::<i64>() > FAR_TWICE;
                if again || self.op.macs(dims, tokens) > self.limit(tokens).max(EMULATOR_MACS_LONGEST) {
                    continue;
                }
                let sizes = Sizes { far: true, rounding, ..Sizes::of(dims, &self.types) };
                let label = format!("{} T={tokens} far", self.dims(dims));
                unless(stop)?;
                self.push(&mut out, sizes, tokens, (min, max), &mut draw, label)?;
            }
        }
        for (dims, low, high) in self.op.spans() {
            let tokens = draw.between(*low, *high).clamp(min, max);
            if fits(self.op, dims, &self.types) && self.op.macs(dims, tokens) <= self.limit(tokens) {
                let sizes = Sizes { rounding, ..Sizes::of(dims, &self.types) };
                let label = format!("{} T={tokens}", self.dims(dims));
                unless(stop)?;
                self.push(&mut out, sizes, tokens, (min, max), &mut draw, label)?;
            }
        }
        Ok(out)
    }

    /// What is timed of a variant: always the same, so that the times of two verdicts can be compared. A step of
    /// [`TIMED`] tokens, or of the most that the variant takes, at the model's own shape that has most to do; values are
    /// drawn from no secret.
    pub fn timed(&self, variant: &Variant) -> Result<Option<Case>> {
        let (min, max) = bounds(variant);
        let tokens = TIMED.clamp(min, max);
        let work = |shape: &&ModelShape<'_>| self.op.macs(&shape.dims, tokens);
        // Of equals the first.
        let Some(shape) = self.shapes.iter().rev().max_by_key(work) else { return Ok(None) };
        let real = Real { weights: shape.weights.clone(), scalars: &shape.scalars, absent: shape.absent.clone() };
        let sizes = Sizes { rounding: variant.rounding, real: Some(real), ..Sizes::of(&shape.dims, &self.types) };
        let mut draw = Draw::new(&[0; 32], &format!("time {}/{}", self.op.contract().op, variant.name));
        draw_case(self.op, &sizes, tokens, &mut draw, format!("{} T={tokens}", shape.label)).map(Some)
    }

    /// A few tokens from every position modulo what an op counts positions in, at the cheapest size that counts so. From
    /// the ends of a long period and from some between, where time is short.
    fn cycles(&self, presets: &[&'static [i64]], draw: &mut Draw) -> Vec<(&'static [i64], usize, usize)> {
        let mut cheapest: BTreeMap<usize, &'static [i64]> = BTreeMap::new();
        for dims in presets {
            let Some(period) = self.op.period(dims) else { continue };
            let best = cheapest.entry(period).or_insert(dims);
            if self.op.macs(dims, FEW) < self.op.macs(best, FEW) {
                *best = dims;
            }
        }
        let mut out = Vec::new();
        for (period, dims) in cheapest {
            if period <= FEW {
                out.extend((1..=FEW).flat_map(|tokens| (0..period).map(move |phase| (dims, tokens, phase))));
                continue;
            }
            let phases: BTreeSet<usize> = match self.has_time() {
                true => (0..period).collect(),
                false => [0, 1, period - 2, period - 1].into_iter().chain((0..4).map(|_| draw.below(period))).collect(),
            };
            out.extend(phases.into_iter().map(|phase| (dims, draw.between(1, FEW), phase)));
        }
        out
    }

    fn dims(&self, dims: &[i64]) -> String {
        let names = self.op.contract().dims;
        names.iter().zip(dims).map(|(n, d)| format!("{n}={d}")).collect::<Vec<_>>().join(" ")
    }

    fn push(
        &self,
        out: &mut Vec<Planned>,
        mut sizes: Sizes<'_>,
        tokens: usize,
        (_, max): (usize, usize),
        draw: &mut Draw,
        label: String,
    ) -> Result<()> {
        sizes.turn = usize::from(self.seed[0]) + out.len();
        let case = draw_case(self.op, &sizes, tokens, draw, label)?;
        // A step may have fewer tokens than its schedule is made for.
        let worst = tokens.saturating_add(ROOM[out.len() % ROOM.len()]).min(max);
        let sampled = self.placement == Placement::Device && tokens > SAMPLED_FROM && self.op.tokenwise();
        out.push(Planned { case, worst, sampled });
        Ok(())
    }
}

/// The fewest and the most tokens of a variant's steps.
fn bounds(variant: &Variant) -> (usize, usize) {
    variant.tokens.map_or((1, usize::MAX), |t| (t.min.unwrap_or(1).max(1), t.max.unwrap_or(usize::MAX)))
}

fn kind(blocks: Blocks) -> &'static str {
    match blocks {
        Blocks::Usual => "",
        Blocks::Subnormal => "subnormal scales",
        Blocks::Large => "large scales",
    }
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
