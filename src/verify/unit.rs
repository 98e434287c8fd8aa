//! Stage 4: a kernel against its oracle, case by case.
//!
//! A case runs twice, at different addresses, on another [`Ground`] and, on the emulator, with threads and blocks in
//! another order: a kernel that needs any of these to be as they were is not right. Bands of known bytes lie around
//! every buffer, and inputs are read back afterwards. One more step has no tokens at all: nothing may happen then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::compare::{self, FirstBad, Pool, Reference};
use super::is_kernels_fault;
use crate::backend::emulator::ThreadOrder;
use crate::backend::executor::POISON;
use crate::backend::{BufferId, Device, Field, Launch, ModuleId, Placement, Traced};
use crate::error::{Error, Result};
use crate::model::quant::DType;
use crate::ops::cases::{Blocks, Case, Draw, LONG_STEP, Real, STEP_TOKENS, Sizes, Values, draw_case, fits};
use crate::ops::{Access, Elem, Node, Op, Rounding};
use crate::plan::manifest::Variant;
use crate::plan::schedule::{Geometry, geometry, scratch};

/// Bytes in front of and, on a real device, behind every buffer. On the emulator an inaccessible page follows instead.
const BAND: u64 = 1024;
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
/// Of how many sizes one is asked at each token count.
const TURNS: usize = 3;
/// Outputs that a pool or a sample has at least.
const POOL: u64 = 4096;

/// How long a launch may take on the emulator, where it gets a second more for so many multiply-adds: an endless one is
/// to be told from a slow one, on a machine with other things to do.
const EMULATOR_LAUNCH: Duration = Duration::from_secs(10);
const MACS_PER_SECOND: u64 = 1_000_000;
/// Most bytes of scratch memory in a case. They are filled from this process's own memory.
const EMULATOR_SCRATCH: u64 = 2 << 30;
const DEVICE_SCRATCH: u64 = 16 << 30;
/// And on a device, where compute-sanitizer may be watching.
const DEVICE_LAUNCH: Duration = Duration::from_secs(60);
/// Tokens that a schedule's worst step has beyond a case's, case by case. The first case has some, the second none.
const ROOM: [usize; 4] = [37, 0, 1, 0];

/// What a run finds in memory that nobody has written, and in which order its threads take their turns. Nothing may
/// follow from it, so the two runs of a case have different ones, and those of the second are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// What outputs hold, and rows beyond the step's last.
    outputs: u32,
    /// What lies in front of a buffer and behind it.
    band: u32,
    scratch: u32,
    order: ThreadOrder,
}

impl Ground {
    /// A NaN wherever a float of any width is read: what is read by mistake shows.
    const FIRST: Ground = Ground { outputs: POISON, band: 0xffa5_ffa5, scratch: u32::MAX, order: ThreadOrder::Forward };

    /// Numbers from 1,024 to 8,192: what takes a NaN for a sign, or lets one vanish in a maximum, shows, and so does
    /// what is added to them.
    fn second(draw: &mut Draw, case: usize) -> Ground {
        let mut word = || 0x4480_0000 + (draw.u32() & 0x017f_ffff);
        let (outputs, band, scratch) = (word(), word(), word());
        let order =
            if case.is_multiple_of(2) { ThreadOrder::Reverse } else { ThreadOrder::Shuffled(u64::from(draw.u32())) };
        Ground { outputs, band, scratch, order }
    }
}

/// Why a case failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub reason: String,
    pub first_bad: Option<FirstBad>,
    /// No byte of any output was written, in any case: a stub.
    pub stub: bool,
}

impl Failure {
    fn of(case: &Case, what: impl std::fmt::Display) -> Failure {
        Failure { reason: format!("{}: {what}", case.label), first_bad: None, stub: false }
    }
}

/// Runs cases of one variant on one device.
pub struct Runner<'d> {
    pub device: &'d mut dyn Device,
    pub module: ModuleId,
    pub variant: &'d Variant,
}

struct Buffer {
    id: BufferId,
    /// Bytes of the contents, behind the front band.
    len: usize,
    back: u64,
    band: u32,
}

/// What a run of one case left behind.
pub struct Outputs {
    pub values: Vec<Option<Values>>,
    /// Elements of `Write` arguments that still hold what they held before.
    unwritten: usize,
    written_args: usize,
}

impl Runner<'_> {
    /// Runs a case for a schedule whose steps have at most `worst` tokens. `shift` moves every address.
    pub fn run(&mut self, case: &Case, worst: usize, shift: u64, ground: Ground) -> Result<Result<Outputs, Failure>> {
        self.run_step(case, &case.steps, worst, shift, ground)
    }

    /// The step without a token, between a case's buffers: what is written must stay what it was, and what is updated
    /// is the oracle's to say.
    fn run_empty(&mut self, case: &Case, worst: usize) -> Result<Result<(), Failure>> {
        let mut empty = case.clone();
        for (step, name) in empty.steps.iter_mut().zip(case.contract().steps) {
            if matches!(*name, "T" | "R") {
                *step = 0;
            }
        }
        let expected = empty.expected(Rounding::None)?;
        let out = match self.run_step(case, &empty.steps, worst, 0, Ground::FIRST)? {
            Ok(out) => out,
            Err(f) => return Ok(Err(Failure { reason: format!("{} (in a step without tokens)", f.reason), ..f })),
        };
        for (i, arg) in case.contract().args.iter().enumerate() {
            let right = match (&out.values[i], &expected[i]) {
                (Some(found), _) if arg.access == Access::Write => compare::unwritten(found, POISON) == found.len(),
                (found, expected) => found == expected,
            };
            if !right {
                return Ok(Err(Failure::of(case, format!("a step without tokens writes `{}`", arg.name))));
            }
        }
        Ok(Ok(()))
    }

    fn run_step(
        &mut self,
        case: &Case,
        steps: &[i32],
        worst: usize,
        shift: u64,
        ground: Ground,
    ) -> Result<Result<Outputs, Failure>> {
        self.device.set_thread_order(ground.order)?;
        let macs = case.op.macs(&case.dims, worst);
        let limit = match self.device.info().placement {
            Placement::Emulator => EMULATOR_LAUNCH + Duration::from_secs((macs / MACS_PER_SECOND).min(60)),
            _ => DEVICE_LAUNCH,
        };
        self.device.set_time_limit(limit)?;
        let c = case.contract();
        let lookup = |name: &str| match name {
            "T" => Some(worst as i64),
            "R" if case.symbol("ratio").is_some() => {
                Some((worst / case.symbol("ratio").unwrap_or(1).max(1) as usize + 1) as i64)
            }
            "R" => Some(worst as i64),
            other => case.symbol(other),
        };
        let launches = match geometry(self.variant, &lookup) {
            Err(e) if is_kernels_fault(&e) => return Ok(Err(Failure::of(case, e.what()))),
            launches => launches?,
        };
        let mut kept: Vec<BufferId> = Vec::new();
        if shift > 0 {
            kept.push(self.device.alloc(shift)?);
        }
        let (mut fields, mut args, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (arg, value) in c.args.iter().zip(&case.args) {
            let Some(value) = value else {
                fields.push(Field::Null);
                args.push(None);
                continue;
            };
            let extra = self.rows_to_spare(case, arg.shape, value.len(), worst);
            let poisoned = arg.access == Access::Write;
            let buffer = self.buffer(value.bytes(), poisoned, extra * Elem::BYTES, ground)?;
            fields.push(Field::Pointer { buffer: buffer.id, offset: BAND });
            args.push(Some(buffer));
        }
        for weight in &case.weights {
            let Some(weight) = weight else {
                fields.push(Field::Null);
                weights.push(None);
                continue;
            };
            let buffer = self.buffer(&weight.bytes, false, 0, ground)?;
            fields.push(Field::Pointer { buffer: buffer.id, offset: BAND });
            weights.push(Some(buffer));
        }
        let steps: Vec<u8> = steps.iter().flat_map(|s| s.to_le_bytes()).collect();
        let step = self.buffer(&steps, false, 0, ground)?;
        for i in 0..case.steps.len() {
            fields.push(Field::Pointer { buffer: step.id, offset: BAND + 4 * i as u64 });
        }
        let bytes = match scratch(self.variant, &lookup) {
            Err(e) if is_kernels_fault(&e) => return Ok(Err(Failure::of(case, e.what()))),
            bytes => bytes?,
        };
        let most = match self.device.info().placement {
            Placement::Emulator => EMULATOR_SCRATCH,
            _ => DEVICE_SCRATCH,
        };
        if bytes > most {
            let reason = format!("it asks for {bytes} bytes of scratch, where at most {most} are given");
            return Ok(Err(Failure::of(case, reason)));
        }
        let mut scratch_memory = None;
        if bytes == 0 {
            fields.push(Field::Null);
        } else {
            let words = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(4);
            let mut contents: Vec<u8> = std::iter::repeat_n(ground.scratch.to_le_bytes(), words).flatten().collect();
            contents.truncate(bytes as usize);
            let buffer = self.buffer(&contents, false, 0, ground)?;
            fields.push(Field::Pointer { buffer: buffer.id, offset: BAND });
            kept.push(buffer.id);
            scratch_memory = Some(buffer);
        }
        for d in &case.dims {
            fields
                .push(Field::I32(i32::try_from(*d).map_err(|_| Error::internal(format!("{}: dim {d}", case.label)))?));
        }
        for (scalar, value) in c.scalars.iter().zip(&case.scalars) {
            fields.push(match scalar.elem {
                Elem::F32 => Field::F32(*value as f32),
                Elem::I32 => Field::I32(*value as i32),
            });
        }
        let outcome = self.launch(case, &launches, &fields);
        let outcome = match outcome {
            Err(e) if is_kernels_fault(&e) => return Ok(Err(Failure::of(case, e))),
            other => other?,
        };
        if let Err(failure) = outcome {
            return Ok(Err(failure));
        }
        let mut out = Outputs { values: Vec::new(), unwritten: 0, written_args: 0 };
        for ((arg, value), buffer) in c.args.iter().zip(&case.args).zip(&args) {
            let (Some(value), Some(buffer)) = (value, buffer) else {
                out.values.push(None);
                continue;
            };
            let bytes = match self.collect(buffer)? {
                Ok(bytes) => bytes,
                Err(what) => return Ok(Err(Failure::of(case, format!("{} {what}", arg.name)))),
            };
            if arg.access == Access::Read {
                if bytes[..value.bytes().len()] != *value.bytes() {
                    return Ok(Err(Failure::of(case, format!("the input `{}` was modified", arg.name))));
                }
                out.values.push(None);
                continue;
            }
            let (mine, spare) = bytes.split_at(value.bytes().len());
            if spare.chunks_exact(4).any(|w| w != ground.outputs.to_le_bytes()) {
                return Ok(Err(Failure::of(
                    case,
                    format!("rows of `{}` behind the step's last token were written", arg.name),
                )));
            }
            let values = match arg.elem {
                Elem::F32 => {
                    Values::F32(mine.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect())
                }
                Elem::I32 => {
                    Values::I32(mine.chunks_exact(4).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect())
                }
            };
            if arg.access == Access::Write {
                out.unwritten += compare::unwritten(&values, ground.outputs);
                out.written_args += values.len();
            }
            out.values.push(Some(values));
        }
        for (slot, (weight, buffer)) in c.weights.iter().zip(case.weights.iter().zip(&weights)) {
            if let (Some(weight), Some(buffer)) = (weight, buffer) {
                match self.collect(buffer)? {
                    Ok(bytes) if bytes == *weight.bytes => {}
                    Ok(_) => return Ok(Err(Failure::of(case, format!("the weights `{}` were modified", slot.name)))),
                    Err(what) => return Ok(Err(Failure::of(case, format!("{} {what}", slot.name)))),
                }
            }
        }
        if let Some(buffer) = &scratch_memory
            && let Err(what) = self.bands(buffer)?
        {
            return Ok(Err(Failure::of(case, format!("the scratch memory {what}"))));
        }
        match self.collect(&step)? {
            Ok(bytes) if bytes == steps => {}
            _ => return Ok(Err(Failure::of(case, "the step's counts were modified"))),
        }
        for buffer in args.iter().chain(&weights).flatten().chain([&step]) {
            self.device.free(buffer.id)?;
        }
        for id in kept {
            self.device.free(id)?;
        }
        Ok(Ok(out))
    }

    /// Elements of rows that the worst step has beyond this one's: allocated, and to be left alone.
    fn rows_to_spare(&self, case: &Case, shape: &[&str], len: usize, worst: usize) -> usize {
        match shape.first() {
            Some(&"T") => len / case.tokens().max(1) * (worst - case.tokens().min(worst)),
            _ => 0,
        }
    }

    fn buffer(&mut self, contents: &[u8], poisoned: bool, extra: usize, ground: Ground) -> Result<Buffer> {
        let back = if self.device.info().placement == Placement::Emulator { 0 } else { BAND };
        let len = (contents.len() + extra).max(4);
        let id = self.device.alloc(BAND + len as u64 + back)?;
        self.device.fill(id, ground.band)?;
        let mut image = vec![0u8; len];
        for word in image.chunks_mut(4) {
            word.copy_from_slice(&ground.outputs.to_le_bytes()[..word.len()]);
        }
        if !poisoned {
            image[..contents.len()].copy_from_slice(contents);
        }
        self.device.write(id, BAND, &image)?;
        if back > 0 {
            // The fill rounds down to words; the band starts on the byte.
            let band: Vec<u8> = ground.band.to_le_bytes().iter().copied().cycle().take(back as usize).collect();
            self.device.write(id, BAND + len as u64, &band)?;
        }
        Ok(Buffer { id, len, back, band: ground.band })
    }

    /// Whether what lies around a buffer is as it was.
    fn bands(&mut self, buffer: &Buffer) -> Result<Result<(), &'static str>> {
        let end = BAND + buffer.len as u64;
        for (at, len, what) in
            [(0, BAND, "was written in front of its start"), (end, buffer.back, "was written behind its end")]
        {
            let mut band = vec![0u8; len as usize];
            self.device.read(buffer.id, at, &mut band)?;
            if band.iter().zip(buffer.band.to_le_bytes().iter().cycle()).any(|(a, b)| a != b) {
                return Ok(Err(what));
            }
        }
        Ok(Ok(()))
    }

    /// A buffer's contents, once its bands are found as they were.
    fn collect(&mut self, buffer: &Buffer) -> Result<Result<Vec<u8>, &'static str>> {
        if let Err(what) = self.bands(buffer)? {
            return Ok(Err(what));
        }
        let mut contents = vec![0u8; buffer.len];
        self.device.read(buffer.id, BAND, &mut contents)?;
        Ok(Ok(contents))
    }

    fn launch(&mut self, case: &Case, launches: &[Geometry], fields: &[Field]) -> Result<Result<(), Failure>> {
        let mut expected = Vec::new();
        for g in launches {
            expected.push(Traced { entry: g.entry.clone(), grid: g.grid, block: g.block, shared: g.shared });
            self.device.launch(&Launch {
                name: format!("{}: {}", case.contract().op, g.entry),
                module: self.module,
                entry: g.entry.clone(),
                grid: g.grid,
                block: g.block,
                shared: g.shared,
                args: fields.to_vec(),
            })?;
        }
        self.device.sync()?;
        if self.device.take_trace()? != expected {
            return Ok(Err(Failure::of(case, "the device's launches are not the manifest's")));
        }
        Ok(Ok(()))
    }
}

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
        if self.thorough || self.placement == Placement::Device {
            counts.extend([draw.between(64, 130), draw.between(250, 520), longest]);
        } else if self.op.macs(self.op.long(), longest) <= EMULATOR_MACS_LONGEST {
            counts.push(longest);
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
        for (k, tokens) in counts.into_iter().enumerate() {
            // The cheapest size at every token count, the others in turn: every size meets some count, and weights of
            // tens of megabytes are not drawn for all of them.
            let turn = (first_turn + k) % TURNS;
            let mut taken = 0;
            let wide = tokens > LONG_STEP && self.placement == Placement::Emulator;
            let long = if wide && !self.thorough { vec![self.op.long()] } else { presets.clone() };
            for (i, dims) in long.into_iter().enumerate() {
                let due = i % TURNS == turn || (last_narrow == Some(k) && !met[i]);
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
                let sizes = Sizes { dims, far: false, types: &self.types, blocks, rounding, real: None };
                let label = format!("{} T={tokens} {}", self.dims(dims), kind(blocks));
                // Where a few tokens share blocks, what goes wrong hangs on the position; small cases are cheap.
                let times = if taken == 1 && max <= 64 && tokens > 3 { 3 } else { 1 };
                for _ in 0..times {
                    self.push(&mut out, &sizes, tokens, (min, max), &mut draw, label.clone())?;
                }
            }
            if tokens > 512 {
                continue;
            }
            let turn = draw.below(TURNS);
            for (i, shape) in self.shapes.iter().enumerate() {
                let mine = self.thorough || self.shapes.len() <= TURNS || i % TURNS == turn;
                if !mine || self.op.macs(&shape.dims, tokens) > self.limit(tokens) {
                    continue;
                }
                let real =
                    Real { weights: shape.weights.clone(), scalars: &shape.scalars, absent: shape.absent.clone() };
                let sizes = Sizes {
                    dims: &shape.dims,
                    far: false,
                    types: &self.types,
                    blocks: Blocks::Usual,
                    rounding,
                    real: Some(real),
                };
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
                let sizes = Sizes { dims, far: true, types: &self.types, blocks: Blocks::Usual, rounding, real: None };
                let label = format!("{} T={tokens} far", self.dims(dims));
                self.push(&mut out, &sizes, tokens, (min, max), &mut draw, label)?;
            }
        }
        for (dims, low, high) in self.op.spans() {
            let tokens = draw.between(*low, *high).clamp(min, max);
            if fits(self.op, dims, &self.types) && self.op.macs(dims, tokens) <= self.limit(tokens) {
                let sizes = Sizes { dims, far: false, types: &self.types, blocks: Blocks::Usual, rounding, real: None };
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
            return Err(Error::new(&crate::error::INTERRUPTED, "interrupted"));
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
            out.values.iter().flatten().for_each(|v| outputs.update(v.bytes()));
            for ((case, token), reference) in parts.iter().zip(&references) {
                let mine = match token {
                    None => out.values.clone(),
                    Some(t) => slice_token(&p.case, &out.values, *t),
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
