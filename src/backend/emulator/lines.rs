//! From an instruction's address to the kernel's line: ELF sections and the DWARF line table of the compiled object.
//!
//! Every failure here is `None`: the report is then without a line, nothing more.

use std::path::Path;

use gimli::{AttributeValue, EndianSlice, NativeEndian, SectionId};

type Bytes<'a> = EndianSlice<'a, NativeEndian>;

/// `kernels/a.cu:12` for the instruction at `offset` from where the object at `path` is loaded.
pub fn place(path: &Path, offset: u64) -> Option<String> {
    let file = std::fs::read(path).ok()?;
    let load = |id: SectionId| -> Result<Bytes, gimli::Error> {
        Ok(EndianSlice::new(section(&file, id.name()).unwrap_or_default(), NativeEndian))
    };
    let dwarf = gimli::Dwarf::load(load).ok()?;
    let mut units = dwarf.units();
    while let Some(header) = units.next().ok()? {
        let unit = dwarf.unit(header).ok()?;
        let Some(program) = unit.line_program.clone() else { continue };
        let mut rows = program.rows();
        // The row that covers an address is the last one at or below it in its sequence.
        let mut last: Option<(u64, u64, Option<u64>)> = None;
        while let Some((program, row)) = rows.next_row().ok()? {
            if let Some((address, file, line)) = last
                && address <= offset
                && offset < row.address()
            {
                let name = match program.file(file)?.path_name() {
                    AttributeValue::String(name) => name,
                    name => dwarf.attr_string(&unit, name).ok()?,
                };
                return site(&dwarf, &unit, program, file, &name.to_string_lossy(), line?);
            }
            last = (!row.end_sequence()).then(|| (row.address(), row.file_index(), row.line().map(u64::from)));
        }
    }
    None
}

/// File entries name a folder by number; the folder of the compilation itself is what `kernels/` was copied to.
fn site(
    dwarf: &gimli::Dwarf<Bytes>,
    unit: &gimli::Unit<Bytes>,
    program: &gimli::LineProgramHeader<Bytes>,
    file: u64,
    name: &str,
    line: u64,
) -> Option<String> {
    let folder = program.file(file)?.directory(program)?;
    let folder = dwarf.attr_string(unit, folder).ok()?.to_string_lossy().into_owned();
    let folder = folder.trim_start_matches("./").trim_end_matches('/');
    let inside = folder != "." && !folder.starts_with('/') && !name.contains('/');
    Some(if inside {
        format!("kernels/{folder}/{name}:{line}")
    } else {
        format!("kernels/{}:{line}", name.trim_start_matches("./"))
    })
}

/// The contents of a section of a 64-bit ELF file of this machine's byte order.
fn section<'a>(file: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    let u16_at = |at: usize| Some(usize::from(u16::from_ne_bytes(file.get(at..at + 2)?.try_into().ok()?)));
    let u32_at = |at: usize| Some(u32::from_ne_bytes(file.get(at..at + 4)?.try_into().ok()?) as usize);
    let u64_at = |at: usize| usize::try_from(u64::from_ne_bytes(file.get(at..at + 8)?.try_into().ok()?)).ok();
    let (table, size, count, names) = (u64_at(0x28)?, u16_at(0x3a)?, u16_at(0x3c)?, u16_at(0x3e)?);
    let header = |i: usize| table.checked_add(i.checked_mul(size)?);
    let contents = |at: usize| {
        let (start, len) = (u64_at(at + 0x18)?, u64_at(at + 0x20)?);
        file.get(start..start.checked_add(len)?)
    };
    let names = contents(header(names)?)?;
    (0..count).find_map(|i| {
        let at = header(i)?;
        let name = names.get(u32_at(at)?..)?;
        (name.starts_with(wanted.as_bytes()) && name.get(wanted.len()) == Some(&0)).then(|| contents(at))?
    })
}
