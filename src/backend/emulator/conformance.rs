//! What the emulator's twins are held to, and the device as well: small kernels whose results a few lines of plain Rust
//! predict. The emulator is only as good an instrument as its mma, ldmatrix, cp.async, 16-bit and warp operations;
//! running the same cases on a GPU shows that the prediction is the hardware's.

use half::{bf16, f16};

use crate::backend::source::SourceSet;
use crate::backend::{Device, Field, Launch, Module};
use crate::error::{Error, Result};

crate::codes! {
    CONFORMANCE: "conformance", No, "A CUDA intrinsic gave another result here than the arithmetic that it stands for. On \
        the emulator its twin in kernels/emu/ is wrong; on a device the prediction is, and then the twin as well.";
}

/// How results are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Agreement {
    /// Bit for bit.
    Exact,
    /// f32, each within this much of the predicted value, relative to the larger of it and `floor`.
    Relative { within: f32, floor: f32 },
}

/// One kernel on one set of inputs.
pub struct Case {
    pub name: &'static str,
    pub entry: &'static str,
    pub source: SourceSet,
    pub grid: u32,
    pub block: u32,
    pub shared: u32,
    pub input: Vec<u8>,
    /// The kernel's third argument.
    pub n: i32,
    pub expected: Vec<u8>,
    /// Bytes of one result, and results of one item (a pair, a lane, an element).
    pub result: usize,
    pub results: usize,
    pub agreement: Agreement,
}

impl Case {
    /// Entries of the case's source, all of them, so that cases share compiled modules.
    pub fn entries(&self) -> &'static [&'static str] {
        match self.source.main.as_str() {
            "tensor.cu" => &["mma_f16", "mma_bf16", "mma_s8", "ldmatrix", "copies"],
            "halves.cu" => &["halves"],
            "integers.cu" => &["integers"],
            "warps.cu" => &["warps"],
            _ => &["arithmetic", "functions"],
        }
    }

    /// Runs on `device`, into which `module` was built from this source, and compares.
    pub fn check(&self, device: &mut dyn Device, module: &Module) -> Result<()> {
        let module = device.load(module)?;
        let input = device.alloc(self.input.len() as u64)?;
        device.write(input, 0, &self.input)?;
        let output = device.alloc(self.expected.len() as u64)?;
        device.fill(output, u32::MAX)?;
        let at = |buffer| Field::Pointer { buffer, offset: 0 };
        device.launch(&Launch {
            name: format!("conformance {}", self.name),
            module,
            entry: self.entry.into(),
            grid: [self.grid, 1, 1],
            block: [self.block, 1, 1],
            shared: self.shared,
            args: vec![at(input), at(output), Field::I32(self.n)],
        })?;
        device.sync()?;
        let mut found = vec![0; self.expected.len()];
        device.read(output, 0, &mut found)?;
        device.free(input)?;
        device.free(output)?;
        self.compare(&found)
    }

    fn compare(&self, found: &[u8]) -> Result<()> {
        let refuse = |at: String, expected: String, got: String| {
            Err(Error::new(&CONFORMANCE, format!("{}: {at}", self.name)).expected(expected).found(got))
        };
        match self.agreement {
            Agreement::Exact => {
                let wrong = |&i: &usize| found[i..i + self.result] != self.expected[i..i + self.result];
                let wrong: Vec<usize> = (0..found.len()).step_by(self.result).filter(wrong).collect();
                let Some(&first) = wrong.first() else { return Ok(()) };
                let mut results: Vec<usize> = wrong.iter().map(|i| i / self.result % self.results).collect();
                results.sort_unstable();
                results.dedup();
                let item = first / self.result / self.results;
                refuse(
                    format!("{} values differ, in results {results:?}; the first in item {item}", wrong.len()),
                    format!("{:02x?}", &self.expected[first..first + self.result]),
                    format!("{:02x?}", &found[first..first + self.result]),
                )
            }
            Agreement::Relative { within, floor } => {
                let floats = |bytes: &[u8]| {
                    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<_>>()
                };
                for (i, (&a, b)) in floats(&self.expected).iter().zip(floats(found)).enumerate() {
                    let ok = a.to_bits() == b.to_bits() || (a - b).abs() <= within * a.abs().max(floor);
                    if !ok {
                        return refuse(format!("value {i}"), format!("{a:e}"), format!("{b:e}"));
                    }
                }
                Ok(())
            }
        }
    }
}

/// Numbers of a fixed sequence: the cases are the same everywhere and always.
struct Draw(u64);

impl Draw {
    fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }

    /// In -range ..= range.
    fn small(&mut self, range: i32) -> i32 {
        (self.word() % (2 * range as u32 + 1)) as i32 - range
    }

    fn unit(&mut self) -> f32 {
        self.word() as i32 as f32 / 2147483648.0
    }
}

macro_rules! source {
    ($name:literal) => {
        with_headers($name, include_str!(concat!("../../../tests/conformance/", $name)))
    };
}

fn with_headers(name: &str, text: &str) -> SourceSet {
    let mut set = SourceSet::single(name, text);
    for (header, text) in [
        ("common/cuda.cuh", include_str!("../../../kernels/common/cuda.cuh")),
        ("common/mma.cuh", include_str!("../../../kernels/common/mma.cuh")),
        ("common/async.cuh", include_str!("../../../kernels/common/async.cuh")),
    ] {
        set.files.insert(header.into(), text.into());
    }
    set
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![halves(), integers(), warps(), ldmatrix(), copies(), mma_s8()];
    cases.extend([false, true].into_iter().flat_map(|b| [mma_16(b, true), mma_16(b, false)]));
    cases.extend([floats(true), floats(false)]);
    cases
}

fn bytes<T: bytemuck::NoUninit>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// Round to odd in double: rounding the result once more, to anything of at most 51 bits, is then rounding once.
fn odd_sum(p: f64, c: f64) -> f64 {
    let s = p + c;
    if !s.is_finite() {
        return s;
    }
    let back = s - p;
    let rest = (p - (s - back)) + (c - back);
    match rest != 0.0 && s.to_bits() & 1 == 0 {
        true if (rest > 0.0) == (s > 0.0) => f64::from_bits(s.to_bits() + 1),
        true => f64::from_bits(s.to_bits() - 1),
        false => s,
    }
}

/// f64 to f32, rounded to odd. A 16-bit type's own conversion from f64 may look at the upper bits only.
fn odd_f32(v: f64) -> f32 {
    let near = v as f32;
    if f64::from(near) == v || v.is_nan() || near.to_bits() & 1 == 1 {
        return near;
    }
    let away = f64::from(near).abs() > v.abs();
    f32::from_bits(if away { near.to_bits() - 1 } else { near.to_bits() + 1 })
}

/// The eleven results of one type; `rz` and `rn` round from f64 towards zero and to nearest even.
fn sixteen(x: f32, y: f32, rn: impl Fn(f64) -> u16, rz: u16, value: impl Fn(u16) -> f64) -> [u16; 11] {
    let (a16, b16) = (rn(f64::from(x)), rn(f64::from(y)));
    let (a, b) = (value(a16), value(b16));
    let order = u16::from(a < b) | u16::from(a == b) << 1 | u16::from(a >= b) << 2;
    // (x, y) · (b, a) + (a, a), in two halves
    let (low, high) = (rn(odd_sum(a * b, a)), rn(odd_sum(b * a, a)));
    let tripled = rn(f64::from(a as f32 * 3.0));
    [a16, rz, rn(a + b), rn(a - b), rn(a * b), rn(odd_sum(a * b, b)), a16 ^ 0x8000, low, high, tripled, order]
}

fn halves() -> Case {
    let mut draw = Draw(1);
    let mut pairs: Vec<[f32; 2]> = Vec::new();
    for h in (0..=u16::MAX).step_by(3) {
        // Each value, each tie above it, and the neighbours of the tie.
        let (v, next) = (f16::from_bits(h).to_f32(), f16::from_bits(h.wrapping_add(1)).to_f32());
        let tie = (v + next) / 2.0;
        let near = f32::from_bits(tie.to_bits() ^ 1);
        let other = f16::from_bits(draw.word() as u16).to_f32();
        if [v, next, other].iter().all(|v| v.is_finite()) {
            pairs.extend([[v, other], [tie, v], [near, other]]);
        }
    }
    for _ in 0..4000 {
        let (a, b) = (f32::from_bits(draw.word()), f32::from_bits(draw.word()));
        if a.is_finite() && b.is_finite() {
            pairs.push([a, b]);
        }
    }
    let nan = |bits: u16, is_nan: bool| if is_nan { 0x7fff } else { bits };
    let half_rn = |v: f64| nan(f16::from_f32(odd_f32(v)).to_bits(), v.is_nan());
    let brain_rn = |v: f64| nan(bf16::from_f32(odd_f32(v)).to_bits(), v.is_nan());
    let mut expected = Vec::new();
    for &[x, y] in &pairs {
        let a = half_rn(f64::from(x));
        let past = f16::from_bits(a).to_f32().abs() > x.abs();
        expected.extend(sixteen(x, y, half_rn, a - u16::from(past), |h| f16::from_bits(h).to_f64()));
        let rz = (x.to_bits() >> 16) as u16;
        expected.extend(sixteen(x, y, brain_rn, rz, |h| bf16::from_bits(h).to_f64()));
    }
    Case {
        name: "16-bit conversions and arithmetic",
        entry: "halves",
        source: source!("halves.cu"),
        grid: pairs.len().div_ceil(128) as u32,
        block: 128,
        shared: 0,
        n: pairs.len() as i32,
        input: bytes(pairs.as_flattened()),
        expected: bytes(&expected),
        result: 2,
        results: 22,
        agreement: Agreement::Exact,
    }
}

fn integers() -> Case {
    let mut draw = Draw(2);
    let special =
        [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, 0x4f00_0000, 0x7fc0_0000, 0x7f80_0000, 0x3fc0_0000, 0xc020_0000];
    let mut pairs: Vec<[u32; 2]> = special.iter().flat_map(|&a| special.map(|b| [a, b])).collect();
    pairs.extend((0..2000).map(|_| [draw.word(), draw.word()]));
    // Floats of moderate size, where the conversions have work to do.
    pairs.extend((0..500).map(|_| [(draw.unit() * 1000.0).to_bits(), draw.word()]));
    let per_byte = |a: u32, b: u32, f: &dyn Fn(u8, u8) -> u8| {
        let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
        u32::from_le_bytes(std::array::from_fn(|i| f(a[i], b[i])))
    };
    let mut expected = Vec::new();
    for &[a, b] in &pairs {
        let (ab, bb) = (a.to_le_bytes(), b.to_le_bytes());
        let signed: i32 = (0..4).map(|i| i32::from(ab[i] as i8) * i32::from(bb[i] as i8)).sum();
        let unsigned: u32 = (0..4).map(|i| u32::from(ab[i]) * u32::from(bb[i])).sum();
        let both = u64::from(b) << 32 | u64::from(a);
        let select = |i: u32| (both >> (8 * ((a >> 7) >> (4 * i) & 7))) as u8;
        let f = f32::from_bits(a);
        expected.extend([
            (signed + 12345) as u32,
            unsigned.wrapping_add(12345),
            u32::from_le_bytes(std::array::from_fn(|i| select(i as u32))),
            ((both << (b & 31)) >> 32) as u32,
            (both >> (b & 31)) as u32,
            a.reverse_bits(),
            a.count_ones(),
            a.leading_zeros(),
            if a == 0 { 0 } else { a.trailing_zeros() + 1 },
            ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32,
            ((u64::from(a) * u64::from(b)) >> 32) as u32,
            (a >> 1).abs_diff(b >> 1).wrapping_add(7),
            per_byte(a, b, &u8::wrapping_add),
            per_byte(a, b, &u8::wrapping_sub),
            per_byte(a, b, &|x, y| (x as i8).saturating_sub(y as i8) as u8),
            per_byte(a, b, &|x, y| (x as i8).saturating_add(y as i8) as u8),
            per_byte(a, b, &|x, y| if x == y { 255 } else { 0 }),
            per_byte(a & 0x00ff_00ff, b & 0x00ff_00ff, &|x, y| if x == y { 0 } else { 255 }),
            // Rust's casts saturate and take NaN to 0, as cvt does.
            f.round_ties_even() as i32 as u32,
            f as i32 as u32,
            f.floor() as i32 as u32,
            f.round_ties_even() as u32,
            (a as i32 as f32).to_bits(),
            (a as f32).to_bits(),
        ]);
    }
    Case {
        name: "integer and bit operations",
        entry: "integers",
        source: source!("integers.cu"),
        grid: pairs.len().div_ceil(128) as u32,
        block: 128,
        shared: 0,
        n: pairs.len() as i32,
        input: bytes(pairs.as_flattened()),
        expected: bytes(&expected),
        result: 4,
        results: 24,
        agreement: Agreement::Exact,
    }
}

fn warps() -> Case {
    let mut draw = Draw(3);
    let mut v: [u32; 32] = std::array::from_fn(|_| draw.word());
    v[20] = 17;
    let segment = |lane: usize, width: usize| lane / width * width;
    let inside = |lane: usize, from: isize, width: usize| {
        let first = segment(lane, width) as isize;
        if from >= first && from < first + width as isize { v[from as usize] } else { v[lane] }
    };
    let ballot = |f: &dyn Fn(u32) -> bool| (0..32).filter(|&l| f(v[l])).map(|l| 1u32 << l).sum::<u32>();
    let fold = |f: &dyn Fn(u32, u32) -> u32| v.into_iter().reduce(f).unwrap_or(0);
    let mut expected: Vec<u32> = Vec::new();
    for lane in 0..32usize {
        let l = lane as isize;
        expected.extend([
            v[5],
            v[(lane * 7 + 3) % 32],
            v[segment(lane, 8) + (lane + 9) % 8],
            v[lane ^ 13],
            v[lane ^ 3],
            inside(lane, l - 6, 32),
            inside(lane, l - 3, 16),
            inside(lane, l + 6, 32),
            inside(lane, l + 3, 16),
            ballot(&|x| x & 4 != 0),
            1 | u32::from(v.iter().all(|&x| x < 0x8000_0000)) << 1,
            ballot(&|x| x & 3 == v[lane] & 3),
            fold(&u32::wrapping_add),
            fold(&|a, b| a.min(b)),
            fold(&|a, b| (a as i32).max(b as i32) as u32),
            fold(&|a, b| a ^ b),
            fold(&|a, b| a | b) & 0x0ff0,
            fold(&|a, b| a & b) | 0x0ff0,
            v[lane ^ 8],
            0,
        ]);
    }
    Case {
        name: "warp operations",
        entry: "warps",
        source: source!("warps.cu"),
        grid: 1,
        block: 32,
        shared: 0,
        n: 32,
        input: bytes(&v),
        expected: bytes(&expected),
        result: 4,
        results: 20,
        agreement: Agreement::Exact,
    }
}

fn tensor(name: &'static str, entry: &'static str, input: Vec<u8>, expected: Vec<u8>, agreement: Agreement) -> Case {
    let (n, shared) = (input.len() as i32, input.len().max(1024) as u32);
    let source = source!("tensor.cu");
    Case { name, entry, source, grid: 1, block: 32, shared, n, input, expected, result: 4, results: 1, agreement }
}

/// 16-bit products: integers, exact whatever the order of summation, or real values.
fn mma_16(brain: bool, whole: bool) -> Case {
    let mut draw = Draw(4 + u64::from(brain) * 2 + u64::from(whole));
    let mut value = || if whole { draw.small(8) as f32 } else { draw.unit() };
    let bits = |v: f32| if brain { bf16::from_f32(v).to_bits() } else { f16::from_f32(v).to_bits() };
    let back = |h: u16| if brain { bf16::from_bits(h).to_f64() } else { f16::from_bits(h).to_f64() };
    let a: Vec<u16> = (0..256).map(|_| bits(value())).collect();
    let b: Vec<u16> = (0..128).map(|_| bits(value())).collect();
    let c: Vec<f32> = (0..128).map(|_| value()).collect();
    let d: Vec<f32> = (0..128)
        .map(|i| {
            let (m, n) = (i / 8, i % 8);
            let sum: f64 = (0..16).map(|k| back(a[m * 16 + k]) * back(b[n * 16 + k])).sum();
            (sum + f64::from(c[i])) as f32
        })
        .collect();
    let name = match (brain, whole) {
        (false, true) => "mma f16, integers",
        (false, false) => "mma f16, real values",
        (true, true) => "mma bf16, integers",
        (true, false) => "mma bf16, real values",
    };
    // A tensor core truncates addends to the largest one's exponent: a few ulps of that one.
    let agreement = if whole { Agreement::Exact } else { Agreement::Relative { within: 1e-6, floor: 4.0 } };
    let entry = if brain { "mma_bf16" } else { "mma_f16" };
    tensor(name, entry, [bytes(&a), bytes(&b), bytes(&c)].concat(), bytes(&d), agreement)
}

fn mma_s8() -> Case {
    let mut draw = Draw(8);
    let a: Vec<i8> = (0..512).map(|_| draw.word() as i8).collect();
    let b: Vec<i8> = (0..256).map(|_| draw.word() as i8).collect();
    let c: Vec<i32> = (0..128).map(|_| draw.small(100_000)).collect();
    let product = |i: usize, k: usize| i32::from(a[i / 8 * 32 + k]) * i32::from(b[i % 8 * 32 + k]);
    let d: Vec<i32> = (0..128).map(|i| c[i] + (0..32).map(|k| product(i, k)).sum::<i32>()).collect();
    tensor("mma s8", "mma_s8", [bytes(&a), bytes(&b), bytes(&c)].concat(), bytes(&d), Agreement::Exact)
}

fn ldmatrix() -> Case {
    let mut draw = Draw(9);
    let m: Vec<u16> = (0..256).map(|_| draw.word() as u16).collect();
    let at = |matrix: usize, row: usize, column: usize| u32::from(m[matrix * 64 + row * 8 + column]);
    let mut expected = Vec::new();
    for lane in 0..32usize {
        let (g, t) = (lane / 4, lane % 4 * 2);
        let plain = |i: usize| at(i, g, t) | at(i, g, t + 1) << 16;
        let turned = |i: usize| at(i, t, g) | at(i, t + 1, g) << 16;
        expected.extend((0..4).map(plain).chain((0..4).map(turned)).chain((0..2).map(plain)).chain((0..2).map(turned)));
    }
    tensor("ldmatrix", "ldmatrix", bytes(&m), bytes(&expected), Agreement::Exact)
}

fn copies() -> Case {
    let mut draw = Draw(10);
    let input: Vec<u8> = (0..512).map(|_| draw.word() as u8).collect();
    let mut expected = Vec::new();
    for lane in 0..32usize {
        let (first, second) = (lane ^ 2, lane ^ 4);
        let source = &input[16 * first..16 * first + 16];
        expected.extend(source.iter().map(|&b| if first % 2 == 0 { b } else { 0 }));
        expected.extend_from_slice(&input[496 - 16 * second..512 - 16 * second]);
    }
    tensor("cp.async", "copies", input, expected, Agreement::Exact)
}

/// Arithmetic, exactly rounded, or functions, within what CUDA documents for its fast ones.
fn floats(exact: bool) -> Case {
    let mut draw = Draw(11);
    let range = if exact { 1e3 } else { 8.0 };
    let pairs: Vec<[f32; 2]> = (0..1000).map(|_| [draw.unit() * range, draw.unit() * range + 1e-3]).collect();
    let mut expected: Vec<f32> = Vec::new();
    for &[x, y] in &pairs {
        let (d, e) = (f64::from(x), f64::from(y));
        if exact {
            expected.extend([x * y + x, x.mul_add(y, x), x.abs().sqrt(), x / y]);
        } else {
            let (exp, root, power) = (d.exp(), 1.0 / d.abs().sqrt(), d.abs().powf(1.5));
            let values = [exp, exp, d.abs().ln(), root, d.tanh(), e.abs().ln_1p(), d.cos() + 2.0, power];
            expected.extend(values.map(|v| v as f32));
        }
    }
    Case {
        name: if exact { "f32 arithmetic" } else { "f32 functions" },
        entry: if exact { "arithmetic" } else { "functions" },
        source: source!("floats.cu"),
        grid: pairs.len().div_ceil(128) as u32,
        block: 128,
        shared: 0,
        n: pairs.len() as i32,
        input: bytes(pairs.as_flattened()),
        expected: bytes(&expected),
        result: 4,
        results: if exact { 4 } else { 8 },
        agreement: if exact { Agreement::Exact } else { Agreement::Relative { within: 4e-6, floor: 0.1 } },
    }
}
