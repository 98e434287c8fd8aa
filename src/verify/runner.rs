//! Runs a case of one variant on a device: makes its memory, launches, and reads back what it wrote and what it was to
//! leave alone.

use std::time::Duration;

use super::compare::{self, FirstBad};
use super::is_kernels_fault;
use crate::backend::emulator::{self, ThreadOrder};
use crate::backend::executor::POISON;
use crate::backend::{BufferId, Device, Field, Launch, ModuleId, Placement, Traced};
use crate::error::{Error, Result};
use crate::ops::cases::{Case, Values};
use crate::ops::draw::Draw;
use crate::ops::{Access, Elem, Rounding};
use crate::plan::manifest::Variant;
use crate::plan::schedule::{Geometry, geometry, scratch};

/// Bytes in front of and, on a real device, behind every buffer. On the emulator an inaccessible page follows instead.
const BAND: u64 = 1024;
/// How long a launch may take on the emulator, where it gets a second more for so many multiply-adds: an endless one is
/// to be told from a slow one, on a machine with other things to do.
const EMULATOR_LAUNCH: Duration = Duration::from_secs(10);
const MACS_PER_SECOND: u64 = 1_000_000;
/// Tokens up to which a case is launched twice there.
const TWICE_TOKENS: usize = 64;
/// Most bytes of scratch memory in a case. They are filled from this process's own memory.
const EMULATOR_SCRATCH: u64 = 2 << 30;
const DEVICE_SCRATCH: u64 = 16 << 30;
/// And on a device, where compute-sanitizer may be watching.
const DEVICE_LAUNCH: Duration = Duration::from_secs(60);

/// What a run finds in memory that nobody has written, and in which order its threads take their turns. Nothing may
/// follow from it, so the two runs of a case have different ones, and those of the second are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// What outputs hold, and rows beyond the step's last.
    pub outputs: u32,
    /// What lies in front of a buffer and behind it.
    band: u32,
    scratch: u32,
    order: ThreadOrder,
}

impl Ground {
    /// A NaN wherever a float of any width is read: what is read by mistake shows.
    pub const FIRST: Ground =
        Ground { outputs: POISON, band: 0xffa5_ffa5, scratch: u32::MAX, order: ThreadOrder::Forward };

    /// Numbers from 1,024 to 8,192: what takes a NaN for a sign, or lets one vanish in a maximum, shows, and so does
    /// what is added to them.
    pub fn second(draw: &mut Draw, case: usize) -> Ground {
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

/// A case's memory on a device.
struct Frame {
    /// The launches' argument.
    fields: Vec<Field>,
    args: Vec<Option<Buffer>>,
    weights: Vec<Option<Buffer>>,
    step: Buffer,
    /// What the step's buffer holds.
    steps: Vec<u8>,
    scratch: Option<Buffer>,
    /// What moves all addresses.
    shift: Option<BufferId>,
}

/// What a run of one case left behind.
pub struct Outputs {
    pub values: Vec<Option<Values>>,
    /// The same of a second call, which found the scratch memory as the first had left it; of a kernel that has some.
    pub again: Option<Vec<Option<Values>>>,
    /// Elements of `Write` arguments that still hold what they held before.
    pub unwritten: usize,
    pub written_args: usize,
}

impl Runner<'_> {
    /// Runs a case for a schedule whose steps have at most `worst` tokens. `shift` moves every address.
    pub fn run(&mut self, case: &Case, worst: usize, shift: u64, ground: Ground) -> Result<Result<Outputs, Failure>> {
        self.run_step(case, &case.steps, worst, shift, ground)
    }

    /// The step without a token, between a case's buffers: what is written must stay what it was, and what is updated
    /// is the oracle's to say.
    pub fn run_empty(&mut self, case: &Case, worst: usize) -> Result<Result<(), Failure>> {
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
        let (launches, bytes) = match self.layout(case, worst)? {
            Ok(layout) => layout,
            Err(failure) => return Ok(Err(failure)),
        };
        let frame = self.frame(case, steps, bytes, worst, shift, ground)?;
        let outcome = self.go(case, &launches, &frame, ground)?;
        let outcome = match (outcome, &frame.scratch) {
            // A long case takes the emulator seconds, and what a kernel remembers it remembers of a short one too.
            (Ok(out), Some(scratch)) if !self.emulates() || case.tokens() <= TWICE_TOKENS => {
                self.go_again(case, &launches, &frame, scratch, out, ground)?
            }
            (outcome, _) => outcome,
        };
        // Of a failed case nothing is run any more.
        if outcome.is_ok() {
            let own = frame.args.iter().chain(&frame.weights).flatten().chain([&frame.step]).chain(&frame.scratch);
            for id in own.map(|b| b.id).chain(frame.shift) {
                self.device.free(id)?;
            }
        }
        Ok(outcome)
    }

    /// Microseconds that a case takes by the device's own clock, launch after launch as in a running engine. `None`: its
    /// launches are refused, which is for the cases that are judged to tell.
    pub fn time(&mut self, case: &Case, worst: usize) -> Result<Option<f64>> {
        let Ok((launches, bytes)) = self.layout(case, worst)? else { return Ok(None) };
        let frame = self.frame(case, &case.steps, bytes, worst, 0, Ground::FIRST)?;
        let launches: Vec<Launch> = launches.iter().map(|g| self.named(case, g, &frame.fields)).collect();
        let ms: f64 = self.device.time_each(&launches)?.into_iter().map(f64::from).sum();
        Ok(Some(ms * 1e3))
    }

    /// A case's launches in a schedule whose steps have at most `worst` tokens, and its bytes of scratch memory. Limits the
    /// time of what follows to what such a case may take.
    fn layout(&mut self, case: &Case, worst: usize) -> Result<Result<(Vec<Geometry>, u64), Failure>> {
        let macs = case.op.macs(&case.dims, worst);
        let limit = match self.emulates() {
            true => EMULATOR_LAUNCH + Duration::from_secs((macs / MACS_PER_SECOND).min(60)),
            false => DEVICE_LAUNCH,
        };
        self.device.set_time_limit(limit)?;
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
        let bytes = match scratch(self.variant, &lookup) {
            Err(e) if is_kernels_fault(&e) => return Ok(Err(Failure::of(case, e.what()))),
            bytes => bytes?,
        };
        let most = if self.emulates() { EMULATOR_SCRATCH } else { DEVICE_SCRATCH };
        if bytes > most {
            let reason = format!("it asks for {bytes} bytes of scratch, where at most {most} are given");
            return Ok(Err(Failure::of(case, reason)));
        }
        Ok(Ok((launches, bytes)))
    }

    fn emulates(&self) -> bool {
        self.device.info().placement == Placement::Emulator
    }

    /// A case's memory: `bytes` of scratch, and everything `shift` bytes further than it would be.
    fn frame(
        &mut self,
        case: &Case,
        steps: &[i32],
        bytes: u64,
        worst: usize,
        shift: u64,
        ground: Ground,
    ) -> Result<Frame> {
        let c = case.contract();
        let shift = if shift > 0 { Some(self.device.alloc(shift)?) } else { None };
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
            if arg.access == Access::Read {
                self.device.seal(buffer.id)?;
            }
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
            self.device.seal(buffer.id)?;
            fields.push(Field::Pointer { buffer: buffer.id, offset: BAND });
            weights.push(Some(buffer));
        }
        let steps: Vec<u8> = steps.iter().flat_map(|s| s.to_le_bytes()).collect();
        let step = self.buffer(&steps, false, 0, ground)?;
        self.device.seal(step.id)?;
        for i in 0..case.steps.len() {
            fields.push(Field::Pointer { buffer: step.id, offset: BAND + 4 * i as u64 });
        }
        let mut scratch = None;
        if bytes == 0 {
            fields.push(Field::Null);
        } else {
            let words = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(4);
            let mut contents: Vec<u8> = std::iter::repeat_n(ground.scratch.to_le_bytes(), words).flatten().collect();
            contents.truncate(bytes as usize);
            let buffer = self.buffer(&contents, false, 0, ground)?;
            fields.push(Field::Pointer { buffer: buffer.id, offset: BAND });
            scratch = Some(buffer);
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
        Ok(Frame { fields, args, weights, step, steps, scratch, shift })
    }

    /// Launches a case in its memory, and reads back what it wrote and what it was to leave alone.
    fn go(
        &mut self,
        case: &Case,
        launches: &[Geometry],
        frame: &Frame,
        ground: Ground,
    ) -> Result<Result<Outputs, Failure>> {
        let c = case.contract();
        let failed = |what: String| Ok(Err(Failure::of(case, what)));
        match self.launch(case, launches, &frame.fields) {
            Err(e) if is_kernels_fault(&e) => {
                return Ok(Err(match emulator::written_argument(&e).and_then(|i| read_only(case, i)) {
                    Some(what) => Failure::of(case, format!("{what} was modified: {}", e.what())),
                    None => Failure::of(case, e),
                }));
            }
            outcome => {
                if let Err(failure) = outcome? {
                    return Ok(Err(failure));
                }
            }
        }
        let mut out = Outputs { values: Vec::new(), again: None, unwritten: 0, written_args: 0 };
        for ((arg, value), buffer) in c.args.iter().zip(&case.args).zip(&frame.args) {
            let (Some(value), Some(buffer)) = (value, buffer) else {
                out.values.push(None);
                continue;
            };
            let bytes = match self.collect(buffer)? {
                Ok(bytes) => bytes,
                Err(what) => return failed(format!("{} {what}", arg.name)),
            };
            if arg.access == Access::Read {
                if bytes[..value.bytes().len()] != *value.bytes() {
                    return failed(format!("the input `{}` was modified", arg.name));
                }
                out.values.push(None);
                continue;
            }
            let (mine, spare) = bytes.split_at(value.bytes().len());
            if spare.chunks_exact(4).any(|w| w != ground.outputs.to_le_bytes()) {
                return failed(format!("rows of `{}` behind the step's last token were written", arg.name));
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
        for (slot, (weight, buffer)) in c.weights.iter().zip(case.weights.iter().zip(&frame.weights)) {
            if let (Some(weight), Some(buffer)) = (weight, buffer) {
                match self.collect(buffer)? {
                    Ok(bytes) if bytes == *weight.bytes => {}
                    Ok(_) => return failed(format!("the weights `{}` were modified", slot.name)),
                    Err(what) => return failed(format!("{} {what}", slot.name)),
                }
            }
        }
        if let Some(buffer) = &frame.scratch
            && let Err(what) = self.bands(buffer)?
        {
            return failed(format!("the scratch memory {what}"));
        }
        match self.collect(&frame.step)? {
            Ok(bytes) if bytes == frame.steps => Ok(Ok(out)),
            _ => failed("the step's counts were modified".into()),
        }
    }

    /// Launches a case once more where it stands, with what its first time left in the scratch memory, as in a running
    /// engine. A kernel that keeps something there from call to call answers otherwise; or it counts, until one day it
    /// does: on the emulator, where all goes the same way twice, it must leave the very same bytes.
    fn go_again(
        &mut self,
        case: &Case,
        launches: &[Geometry],
        frame: &Frame,
        scratch: &Buffer,
        mut out: Outputs,
        ground: Ground,
    ) -> Result<Result<Outputs, Failure>> {
        for ((arg, value), buffer) in case.contract().args.iter().zip(&case.args).zip(&frame.args) {
            if let (Some(value), Some(buffer)) = (value, buffer)
                && arg.access != Access::Read
            {
                let image = image(value.bytes(), arg.access == Access::Write, buffer.len, ground);
                self.device.write(buffer.id, BAND, &image)?;
            }
        }
        let left =
            |runner: &mut Self| if runner.emulates() { runner.collect(scratch).map(Result::ok) } else { Ok(None) };
        let first = left(self)?;
        let again = match self.go(case, launches, frame, ground)? {
            Ok(again) => again,
            Err(f) => return Ok(Err(Failure { reason: format!("{} (called a second time)", f.reason), ..f })),
        };
        if first != left(self)? {
            let what = "called a second time it leaves other bytes in the scratch memory: it goes on from those of the \
                        call before";
            return Ok(Err(Failure::of(case, what)));
        }
        out.again = Some(again.values);
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
        let back = if self.emulates() { 0 } else { BAND };
        let len = (contents.len() + extra).max(4);
        let id = self.device.alloc(BAND + len as u64 + back)?;
        self.device.fill(id, ground.band)?;
        self.device.write(id, BAND, &image(contents, poisoned, len, ground))?;
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
            self.device.launch(&self.named(case, g, fields))?;
        }
        self.device.sync()?;
        if self.device.take_trace()? != expected {
            return Ok(Err(Failure::of(case, "the device's launches are not the manifest's")));
        }
        Ok(Ok(()))
    }

    fn named(&self, case: &Case, g: &Geometry, fields: &[Field]) -> Launch {
        Launch {
            name: format!("{}: {}", case.contract().op, g.entry),
            module: self.module,
            entry: g.entry.clone(),
            grid: g.grid,
            block: g.block,
            shared: g.shared,
            args: fields.to_vec(),
        }
    }
}

/// Argument `i` of a launch, as far as a kernel may only read it.
fn read_only(case: &Case, i: usize) -> Option<String> {
    let c = case.contract();
    let weights = c.args.len();
    match i {
        _ if i < weights => Some(format!("the input `{}`", c.args[i].name)),
        _ if i < weights + c.weights.len() => Some(format!("the weight `{}`", c.weights[i - weights].name)),
        _ => c.steps.get(i - weights - c.weights.len()).map(|s| format!("the step's count `{s}`")),
    }
}

/// What a buffer of `len` bytes holds before a run: `contents`, or nothing but the ground's word.
fn image(contents: &[u8], poisoned: bool, len: usize, ground: Ground) -> Vec<u8> {
    if !poisoned && len == contents.len() {
        return contents.to_vec();
    }
    let mut image = vec![0u8; len];
    for word in image.chunks_mut(4) {
        word.copy_from_slice(&ground.outputs.to_le_bytes()[..word.len()]);
    }
    if !poisoned {
        image[..contents.len()].copy_from_slice(contents);
    }
    image
}
