//! Just enough ELF to refuse a damaged cubin and to list its entries.
//!
//! The driver takes a bare pointer and trusts the headers behind it; a truncated file would make it read past the
//! end. So every offset in them is checked first.

use super::CUDA_CUBIN;
use crate::error::{Error, Result};

/// ELF machine number of CUDA.
const EM_CUDA: u16 = 190;
const SHT_NOBITS: u32 = 8;

/// Names of the entries (`.text.NAME` sections) of a well-formed cubin.
///
/// Functions that were not inlined have such a section too: an entry is in the list, but not only entries are.
pub fn functions(bytes: &[u8]) -> Result<Vec<String>> {
    let sections = sections(bytes)?;
    Ok(sections.into_iter().filter_map(|name| name.strip_prefix(".text.").map(str::to_owned)).collect())
}

fn sections(bytes: &[u8]) -> Result<Vec<String>> {
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
        if elf.u32(at + 4)? != SHT_NOBITS {
            elf.range(elf.u64(at + 24)?, elf.u64(at + 32)?)?;
        }
        let name = strings.get(elf.u32(at)? as usize..).unwrap_or_default();
        let end = name.iter().position(|b| *b == 0).ok_or_else(|| damaged("a section's name does not end"))?;
        out.push(String::from_utf8_lossy(&name[..end]).into_owned());
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

    /// A minimal CUDA ELF: header, one string table, section headers for it and for `.text.foo`.
    pub fn sample() -> Vec<u8> {
        let strings = b"\0.shstrtab\0.text.foo\0";
        let mut out = vec![0u8; 64];
        out[..6].copy_from_slice(b"\x7fELF\x02\x01");
        out[18..20].copy_from_slice(&EM_CUDA.to_le_bytes());
        out.extend_from_slice(strings);
        let table = out.len() as u64;
        out[40..48].copy_from_slice(&table.to_le_bytes());
        out[58..60].copy_from_slice(&64u16.to_le_bytes());
        out[60..62].copy_from_slice(&2u16.to_le_bytes());
        for (name, offset, size) in [(1u32, 64u64, strings.len() as u64), (11, 0, 8)] {
            let mut section = [0u8; 64];
            section[..4].copy_from_slice(&name.to_le_bytes());
            section[24..32].copy_from_slice(&offset.to_le_bytes());
            section[32..40].copy_from_slice(&size.to_le_bytes());
            out.extend_from_slice(&section);
        }
        out
    }

    #[test]
    fn functions_are_listed() {
        assert_eq!(functions(&sample()).unwrap(), ["foo"]);
    }

    #[test]
    fn no_truncation_and_no_changed_byte_makes_it_read_outside() {
        let good = sample();
        for n in 0..good.len() {
            assert!(functions(&good[..n]).is_err(), "{n} of {} bytes were taken", good.len());
        }
        for i in 0..good.len() {
            for value in [0, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[i] = value;
                let _ = functions(&bad);
            }
        }
    }
}
