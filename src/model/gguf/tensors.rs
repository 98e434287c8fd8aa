//! The tensor table: entries, their byte ranges, and which ranges coincide.

use std::collections::HashSet;

use super::codes::*;
use super::cursor::Cursor;
use crate::model::quant::{DType, GgmlType, ggml_type};
use crate::{Error, Result};

/// The smallest entry: name length (8), dimension count (4), one dimension (8), type (4), offset (8).
pub(super) const MIN_INFO_BYTES: u64 = 32;
/// What ggml's readers hold.
const MAX_DIMS: u32 = 4;
/// What GGUF's description allows for a tensor's name.
const MAX_NAME_BYTES: usize = 64;

/// One tensor of the file, bounded: `offset + len` lies inside the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    /// The format; `None` where ggml defines the type but assay does not compute with it.
    pub dtype: Option<DType>,
    /// ggml's id of the type.
    pub ggml_type: u32,
    /// In ggml's order: dim 0 is contiguous (input width), dim 1 counts rows, dim 2 experts. 1 to 4, none of them 0.
    pub dims: Vec<u64>,
    /// Bytes from the start of the *file*.
    pub offset: u64,
    /// Bytes of data, without padding.
    pub len: u64,
}

impl TensorInfo {
    /// Lower-case name of the type, also where assay does not compute with it.
    pub fn type_name(&self) -> &'static str {
        ggml_type(self.ggml_type).map_or("?", |t| t.name)
    }

    /// Number of elements. Cannot overflow: reading the file checked it.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

/// Reads the table and returns it with the offset of the tensor data.
pub(super) fn read(c: &mut Cursor, count: u64, alignment: u64) -> Result<(Vec<TensorInfo>, u64)> {
    let mut tensors = Vec::with_capacity(count.min(4096) as usize);
    let mut seen = HashSet::new();
    for i in 0..count {
        c.place(format_args!("tensor {i} of {count}"));
        let start = c.pos();
        let name = c.string("the tensor's name", &GGUF_TENSOR)?;
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(Error::new(&GGUF_TENSOR, c.at("unusable tensor name", start))
                .expected(format!("1 to {MAX_NAME_BYTES} bytes"))
                .found(format!("{} bytes", name.len())));
        }
        c.place(format_args!("tensor `{}`", name.escape_debug()));
        if !seen.insert(name) {
            return Err(Error::new(&GGUF_TENSOR, c.at("duplicate tensor name", start)).expected("every name once"));
        }
        tensors.push(read_one(c, name, alignment)?);
    }
    c.place(format_args!("tensor data"));
    let data_start = c.pos().checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    for tensor in &mut tensors {
        place_in_file(tensor, data_start, c.len())?;
    }
    Ok((tensors, data_start))
}

/// One entry with its offset still relative to the tensor data.
fn read_one(c: &mut Cursor, name: &str, alignment: u64) -> Result<TensorInfo> {
    let at = c.pos();
    let n_dims = c.u32("the number of dimensions")?;
    if n_dims == 0 || n_dims > MAX_DIMS {
        return Err(Error::new(&GGUF_TENSOR, c.at("unusable number of dimensions", at))
            .expected(format!("1 to {MAX_DIMS}"))
            .found(n_dims));
    }
    let at = c.pos();
    let dims = (0..n_dims).map(|_| c.u64("a dimension")).collect::<Result<Vec<_>>>()?;
    if dims.contains(&0) {
        return Err(Error::new(&GGUF_TENSOR, c.at("a dimension of 0", at))
            .expected("dimensions of 1 or more")
            .found(format!("{dims:?}")));
    }
    let type_at = c.pos();
    let id = c.u32("the type")?;
    let Some(kind) = ggml_type(id) else {
        return Err(Error::new(&GGUF_TENSOR, c.at("unknown tensor type", type_at))
            .expected("a ggml type id")
            .found(id)
            .hint("if ggml has gained this type since, assay's table in src/model/quant.rs needs a row"));
    };
    let len = byte_len(&dims, kind).map_err(|why| {
        Error::new(&GGUF_TENSOR, c.at(why, at))
            .expected(format!(
                "rows of whole {} blocks ({} elements, {} bytes) and a size below 2^64",
                kind.name, kind.block_elems, kind.block_bytes
            ))
            .found(format!("{dims:?}"))
    })?;
    let offset_at = c.pos();
    let offset = c.u64("the offset")?;
    if !offset.is_multiple_of(alignment) {
        return Err(Error::new(&GGUF_OFFSET, c.at("unaligned tensor offset", offset_at))
            .expected(format!("a multiple of {alignment}"))
            .found(offset));
    }
    Ok(TensorInfo { name: name.to_owned(), dtype: kind.dtype, ggml_type: id, dims, offset, len })
}

fn byte_len(dims: &[u64], kind: &GgmlType) -> Result<u64, &'static str> {
    if !dims[0].is_multiple_of(kind.block_elems as u64) {
        return Err("a row is no multiple of its block");
    }
    // The element count is checked too, not only the bytes: code downstream multiplies dimensions.
    dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).ok_or("the element count overflows")?;
    let row = (dims[0] / kind.block_elems as u64).checked_mul(kind.block_bytes as u64);
    let len = dims[1..].iter().try_fold(row, |n, &d| Some(n?.checked_mul(d))).flatten();
    len.ok_or("the byte count overflows")
}

/// Turns the relative offset into one from the start of the file, which must hold all of the tensor.
fn place_in_file(t: &mut TensorInfo, data_start: u64, file_len: u64) -> Result<()> {
    let end = data_start.checked_add(t.offset).and_then(|start| start.checked_add(t.len));
    match end {
        Some(end) if end <= file_len => {
            t.offset += data_start;
            Ok(())
        }
        end => Err(Error::new(
            if end.is_some() { &GGUF_TRUNCATED } else { &GGUF_OFFSET },
            format!(
                "tensor `{}`: its data at byte {data_start} + {} runs past the end; file size {file_len}",
                t.name, t.offset
            ),
        )
        .expected(format!("{} bytes within the file", t.len))
        .found(match end {
            Some(end) => format!("an end at byte {end}, {} too many", end - file_len),
            None => "an end beyond 2^64".into(),
        })
        .hint("check the file's size against its source: the download may have stopped early")),
    }
}

/// Refuses partial overlaps; returns the groups of identical ranges.
pub(super) fn check_overlaps(tensors: &[TensorInfo], file_len: u64) -> Result<Vec<Vec<usize>>> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| (tensors[i].offset, tensors[i].len, i));
    let range = |i: usize| (tensors[i].offset, tensors[i].len);
    let mut aliases = Vec::new();
    let mut before: Option<usize> = None;
    for group in order.chunk_by(|&a, &b| range(a) == range(b)) {
        let (first, last) = (group[0], before);
        // Sorted by start and free of overlaps so far, only the range before can reach into this one.
        if let Some(last) = last.map(|i| &tensors[i])
            && last.offset + last.len > tensors[first].offset
        {
            let t = &tensors[first];
            return Err(Error::new(
                &GGUF_OVERLAP,
                format!(
                    "tensor `{}` at byte {} overlaps tensor `{}`; file size {file_len}",
                    t.name, t.offset, last.name
                ),
            )
            .expected(format!("a start at or after byte {}, or exactly the same bytes", last.offset + last.len))
            .found(format!(
                "bytes {}..{} and {}..{}",
                last.offset,
                last.offset + last.len,
                t.offset,
                t.offset + t.len
            )));
        }
        if group.len() > 1 {
            aliases.push(group.to_vec());
        }
        before = Some(first);
    }
    aliases.sort();
    Ok(aliases)
}
