//! Just enough ELF to refuse a damaged cubin and to list its entries.
//!
//! The driver takes a bare pointer and trusts the headers behind it; a truncated file would make it read past the
//! end. So every offset in them is checked first.

use std::collections::BTreeMap;

use super::CUDA_CUBIN;
use crate::error::{Error, Result};

/// ELF machine number of CUDA.
const EM_CUDA: u16 = 190;
const SHT_NOBITS: u32 = 8;

/// Attributes of a kernel in its `.nv.info` section: parameters (two forms), and their size in all.
const PARAMETER: u8 = 0x17;
const PARAMETER_V2: u8 = 0x45;
const PARAMETERS_SIZE: u8 = 0x19;

/// How an entry takes its parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    pub parameters: u32,
    /// Bytes of all of them.
    pub bytes: u32,
}

/// The entries of a well-formed cubin.
pub fn kernels(bytes: &[u8]) -> Result<BTreeMap<String, Kernel>> {
    let mut out = BTreeMap::new();
    for (name, content) in sections(bytes)? {
        // Functions that were not inlined have such a section too, but no parameters in constant memory.
        if let Some(name) = name.strip_prefix(".nv.info.")
            && let Some(kernel) = kernel(content)?
        {
            out.insert(name.to_owned(), kernel);
        }
    }
    Ok(out)
}

fn kernel(info: &[u8]) -> Result<Option<Kernel>> {
    let (elf, end) = (Elf(info), info.len() as u64);
    let mut out = Kernel::default();
    let (mut is_entry, mut at) = (false, 0);
    while at + 4 <= end {
        let (form, attribute, value) = (elf.u8(at)?, elf.u8(at + 1)?, elf.u16(at + 2)?);
        match attribute {
            PARAMETER | PARAMETER_V2 => out.parameters += 1,
            PARAMETERS_SIZE => {
                is_entry = true;
                out.bytes = u32::from(value);
            }
            _ => {}
        }
        // Form 4 is followed by as many bytes as its value says; the others hold their value.
        at += 4 + if form == 4 { u64::from(value) } else { 0 };
    }
    Ok(is_entry.then_some(out))
}

fn sections(bytes: &[u8]) -> Result<Vec<(String, &[u8])>> {
    let elf = Elf(bytes);
    if bytes.get(..4) != Some(b"\x7fELF") || elf.u8(4)? != 2 || elf.u8(5)? != 1 || elf.u16(18)? != EM_CUDA {
        return Err(damaged("it is no 64-bit CUDA ELF file"));
    }
    let (program, program_size, programs) = (elf.u64(32)?, elf.u16(54)?, elf.u16(56)?);
    elf.range(program, u64::from(program_size) * u64::from(programs))?;
    if programs > 0 && program_size < 56 {
        return Err(damaged("its program headers are too short"));
    }
    for i in 0..u64::from(programs) {
        let at = program + i * u64::from(program_size);
        elf.range(elf.u64(at + 8)?, elf.u64(at + 32)?)?;
    }
    let (table, size, count, names) = (elf.u64(40)?, elf.u16(58)?, elf.u16(60)?, elf.u16(62)?);
    if size < 64 || names >= count {
        return Err(damaged("its section table is malformed"));
    }
    elf.range(table, u64::from(size) * u64::from(count))?;
    let header = |i: u16| table + u64::from(i) * u64::from(size);
    let strings = elf.range(elf.u64(header(names) + 24)?, elf.u64(header(names) + 32)?)?;
    let mut out = Vec::new();
    for i in 0..count {
        let at = header(i);
        let content = match elf.u32(at + 4)? {
            SHT_NOBITS => &[],
            _ => elf.range(elf.u64(at + 24)?, elf.u64(at + 32)?)?,
        };
        let name = strings.get(elf.u32(at)? as usize..).unwrap_or_default();
        let end = name.iter().position(|b| *b == 0).ok_or_else(|| damaged("a section's name does not end"))?;
        out.push((String::from_utf8_lossy(&name[..end]).into_owned(), content));
    }
    Ok(out)
}

fn damaged(why: &str) -> Error {
    Error::new(&CUDA_CUBIN, format!("not a usable cubin: {why}")).hint(
        "compile again; if it came from the cache, that entry is damaged: `assay doctor` shows where the cache is",
    )
}

struct Elf<'a>(&'a [u8]);

impl<'a> Elf<'a> {
    fn range(&self, offset: u64, length: u64) -> Result<&'a [u8]> {
        let end = offset.checked_add(length).and_then(|end| usize::try_from(end).ok());
        let part = end.and_then(|end| self.0.get(usize::try_from(offset).ok()?..end));
        part.ok_or_else(|| damaged("it is shorter than its headers say"))
    }

    fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.range(offset, N as u64)?);
        Ok(out)
    }

    fn u8(&self, offset: u64) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array(offset)?))
    }

    fn u16(&self, offset: u64) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array(offset)?))
    }

    fn u32(&self, offset: u64) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(offset)?))
    }

    fn u64(&self, offset: u64) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(offset)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minimal CUDA ELF: header, string table, the attributes of `foo`, section headers.
    fn sample() -> Vec<u8> {
        let strings = b"\0.shstrtab\0.nv.info.foo\0";
        let parameter = [4, PARAMETER, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0xa1, 0];
        let info = [&[3, 0x1b, 255, 0][..], &parameter, &[3, PARAMETERS_SIZE, 40, 0]].concat();
        let mut out = vec![0u8; 64];
        out[..6].copy_from_slice(b"\x7fELF\x02\x01");
        out[18..20].copy_from_slice(&EM_CUDA.to_le_bytes());
        out.extend_from_slice(strings);
        out.extend_from_slice(&info);
        let table = out.len() as u64;
        out[40..48].copy_from_slice(&table.to_le_bytes());
        out[58..60].copy_from_slice(&64u16.to_le_bytes());
        out[60..62].copy_from_slice(&2u16.to_le_bytes());
        let (after, length) = (64 + strings.len() as u64, strings.len() as u64);
        for (name, offset, size) in [(1u32, 64u64, length), (11, after, info.len() as u64)] {
            let mut section = [0u8; 64];
            section[..4].copy_from_slice(&name.to_le_bytes());
            section[24..32].copy_from_slice(&offset.to_le_bytes());
            section[32..40].copy_from_slice(&size.to_le_bytes());
            out.extend_from_slice(&section);
        }
        out
    }

    #[test]
    fn kernels_are_listed_with_their_parameters() {
        let want = BTreeMap::from([("foo".to_owned(), Kernel { parameters: 1, bytes: 40 })]);
        assert_eq!(kernels(&sample()).unwrap(), want);
    }

    #[test]
    fn no_truncation_and_no_changed_byte_makes_it_read_outside() {
        let good = sample();
        for n in 0..good.len() {
            assert!(kernels(&good[..n]).is_err(), "{n} of {} bytes were taken", good.len());
        }
        for i in 0..good.len() {
            for value in [0, 4, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[i] = value;
                let _ = kernels(&bad);
            }
        }
    }
}
