//! What a compiled kernel may not bring along: a shared object is host code, and could do what no device can.
//!
//! Its symbols tell. A variable that can be written outlives the launch, and with it a kernel could count how often it
//! was asked; a function from elsewhere is the host's. Shared memory is thread-local, tables are read-only.

use std::collections::BTreeMap;

use super::codes;
use crate::error::{Error, Result};

/// What the shim and the link itself keep; `completed.` and `__frame…` are the compiler's start-up code.
const OWN: [&str; 9] = [
    "_ZL10assay_host",
    "assay_host",
    "_DYNAMIC",
    "_GLOBAL_OFFSET_TABLE_",
    "__do_global_dtors_aux_fini_array_entry",
    "__frame_dummy_init_array_entry",
    "__dso_handle",
    "__TMC_END__",
    "completed.",
];
/// Bytes of `__shared__` variables that a kernel may have on any device; what the manifest asks for is apart.
const STATIC_SHARED: usize = 48 << 10;
/// Functions besides mathematics that compilers call on their own.
const CALLED: [&str; 5] = ["memcpy", "memmove", "memset", "memcmp", "__tls_get_addr"];
/// Functions of the C library's mathematics, which devices have too; each also with an f behind it.
const MATH: &str = " acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp10 exp2 expm1 fabs \
    fdim floor fma fmax fmin fmod frexp hypot ilogb ldexp lgamma llrint llround log log10 log1p log2 logb lrint lround modf \
    nan nearbyint nextafter pow remainder remquo rint round scalbln scalbn sin sincos sinh sqrt tan tanh tgamma trunc ";

/// Refuses an object that keeps variables or calls the host. What is no ELF file of this machine's kind is let pass:
/// the rules of `plan::rules` have judged its source.
pub fn check(main: &str, file: &[u8]) -> Result<()> {
    let Some(symbols) = symbols(file) else { return Ok(()) };
    let names = |wanted: fn(&Symbol) -> bool| {
        let mut names: Vec<&str> = symbols.iter().filter(|s| wanted(s)).map(|s| s.name).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    let kept: Vec<&str> = names(|s| s.writable)
        .into_iter()
        .filter(|n| !OWN.iter().any(|own| n == own || (own.ends_with('.') && n.starts_with(own))))
        .collect();
    if !kept.is_empty() {
        return Err(Error::new(&codes::STATE, format!("{main} keeps variables from launch to launch"))
            .expected("`const` tables, shared memory, and scratch memory that the manifest asks for")
            .found(kept.join(", ")));
    }
    // By the function that declares it: what one block has of several is not known here.
    let mut shared: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, size) in symbols.iter().filter_map(|s| Some((s.name, s.shared?))) {
        *shared.entry(declared_in(name)).or_default() += size;
    }
    if let Some(most) = shared.into_values().max().filter(|most| *most > STATIC_SHARED) {
        return Err(Error::new(&codes::SHARED, format!("{main} declares too much shared memory"))
            .expected(format!("at most {STATIC_SHARED} bytes in __shared__ variables"))
            .found(format!("{most} in one function")));
    }
    let allowed = |n: &str| {
        let known = |n: &str| MATH.split(' ').any(|m| m == n && !m.is_empty());
        CALLED.contains(&n) || known(n) || n.strip_suffix('f').is_some_and(known)
    };
    let foreign: Vec<&str> = names(|s| s.undefined).into_iter().filter(|n| !allowed(n)).collect();
    match foreign.is_empty() {
        true => Ok(()),
        false => Err(Error::new(&codes::HOST_CALL, format!("{main} calls what is not among its sources"))
            .expected("functions of kernels/ and of CUDA")
            .found(foreign.join(", "))),
    }
}

/// Whether two objects run the same: all that is loaded is equal, but for the build's id and the places in the text that
/// the sanitizers' reports name. What could be written besides those, [`check`] refuses.
pub fn same_code(a: &[u8], b: &[u8]) -> bool {
    let loaded = |file| {
        let mut sections = loaded(file)?;
        sections.retain(|(name, _, _)| !name.starts_with(".note") && *name != ".data");
        Some(sections)
    };
    matches!((loaded(a), loaded(b)), (Some(a), Some(b)) if a == b)
}

/// Name, size and contents of the sections that a loader loads.
fn loaded(file: &[u8]) -> Option<Vec<(&str, usize, &[u8])>> {
    let elf = Elf::new(file)?;
    let names = elf.contents(elf.header(usize::from(elf.u16_at(0x3e)?))?)?;
    let mut out = Vec::new();
    for at in (0..elf.count).filter_map(|i| elf.header(i)) {
        let (kind, flags, size) = (elf.u32_at(at + 4)?, elf.u64_at(at + 8)?, elf.u64_at(at + 0x20)?);
        if flags & ALLOC != 0 {
            let name = names.get(elf.u32_at(at)? as usize..)?.split(|b| *b == 0).next()?;
            let contents = if kind == NOBITS { &[] } else { elf.contents(at)? };
            out.push((std::str::from_utf8(name).ok()?, size, contents));
        }
    }
    Some(out)
}

/// The function in whose mangled name a variable's is; itself where it is in none.
fn declared_in(name: &str) -> &str {
    let end =
        name.rmatch_indices('E').map(|(at, _)| at).find(|at| name[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    end.filter(|_| name.starts_with("_ZZ")).map_or(name, |at| &name[..at])
}

struct Symbol<'a> {
    name: &'a str,
    /// A variable in memory that stays and can be written.
    writable: bool,
    /// A function or variable that another object must bring.
    undefined: bool,
    /// Its size, if it is a `__shared__` variable: each of the emulator's threads that run a block has its own.
    shared: Option<usize>,
}

// Constants of the ELF format.
const SYMTAB: u32 = 2;
const NOBITS: u32 = 8;
const ALLOC: usize = 2;
const OBJECT: usize = 1;
const THREAD_LOCAL: usize = 6;
const WEAK: usize = 2;
const WRITE: usize = 1;
const TLS: usize = 0x400;

/// A 64-bit file of this machine's byte order, and its table of sections.
struct Elf<'a> {
    file: &'a [u8],
    table: usize,
    size: usize,
    count: usize,
}

impl<'a> Elf<'a> {
    fn new(file: &'a [u8]) -> Option<Elf<'a>> {
        let mut elf = Elf { file, table: 0, size: 0, count: 0 };
        if file.get(..5)? != b"\x7fELF\x02" {
            return None;
        }
        elf.table = elf.u64_at(0x28)?;
        (elf.size, elf.count) = (usize::from(elf.u16_at(0x3a)?), usize::from(elf.u16_at(0x3c)?));
        Some(elf)
    }

    fn u16_at(&self, at: usize) -> Option<u16> {
        Some(u16::from_ne_bytes(self.file.get(at..at.checked_add(2)?)?.try_into().ok()?))
    }

    fn u32_at(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.file.get(at..at.checked_add(4)?)?.try_into().ok()?))
    }

    fn u64_at(&self, at: usize) -> Option<usize> {
        usize::try_from(u64::from_ne_bytes(self.file.get(at..at.checked_add(8)?)?.try_into().ok()?)).ok()
    }

    fn header(&self, i: usize) -> Option<usize> {
        self.table.checked_add(i.checked_mul(self.size)?).filter(|_| i < self.count)
    }

    fn contents(&self, at: usize) -> Option<&'a [u8]> {
        let (start, len) = (self.u64_at(at + 0x18)?, self.u64_at(at + 0x20)?);
        self.file.get(start..start.checked_add(len)?)
    }
}

/// Its symbols.
fn symbols(file: &[u8]) -> Option<Vec<Symbol<'_>>> {
    let elf = Elf::new(file)?;
    let mut out = Vec::new();
    for at in (0..elf.count).filter_map(|i| elf.header(i)) {
        if elf.u32_at(at + 4)? != SYMTAB {
            continue;
        }
        let names = elf.contents(elf.header(elf.u32_at(at + 0x28)? as usize)?)?;
        for symbol in elf.contents(at)?.chunks_exact(24) {
            let field = |from: usize, n: usize| {
                symbol[from..from + n].iter().rev().fold(0usize, |v, b| v << 8 | usize::from(*b))
            };
            let (kind, binding, section) = (field(4, 1) & 15, field(4, 1) >> 4, field(6, 2));
            let name = names.get(field(0, 4)..)?.split(|b| *b == 0).next()?;
            let name = std::str::from_utf8(name).ok()?.split('@').next()?;
            let flags = elf.header(section).filter(|_| section != 0).and_then(|s| elf.u64_at(s + 8)).unwrap_or(0);
            out.push(Symbol {
                name,
                writable: kind == OBJECT && flags & WRITE != 0 && flags & TLS == 0,
                undefined: section == 0 && binding != WEAK && !name.is_empty(),
                shared: (kind == THREAD_LOCAL && section != 0).then(|| field(16, 8)),
            });
        }
    }
    Some(out)
}
