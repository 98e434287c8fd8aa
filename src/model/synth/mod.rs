//! Our own files: any shape of the model with random weights, the same bytes on every machine.
//!
//! A synthetic file has every tensor of the real one in the real types, so kernels read what they would read of the real
//! weights, and evidence made on it can be replayed by anyone who has the options and the seed. It says of itself that
//! it is synthetic ([`super::SYNTHETIC_KEY`]).

mod meta;
mod values;

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::Path;

use rayon::prelude::*;

use super::config::Sizes;
use super::gguf::write::{self, Entry};
use super::layout::{On, Role, TABLE};
use super::{DType, Gguf, Model, Survey};
use crate::error::INTERRUPTED;
use crate::{Error, Result};
use values::{Stream, Values};

crate::codes! {
    SYNTH_SPEC: "synth-spec", Usage, "The options of `assay synth` do not make a model: a size breaks a rule of \
        src/model/config.rs, a type cannot hold rows of that width, or a rule names no tensor.";
}

/// Bytes between tensor starts.
const ALIGNMENT: u64 = 32;
/// Bytes made by one task: enough to keep cores busy, little enough to hold many of them.
const CHUNK: usize = 4 << 20;
/// Longest file: 64 TiB, beyond any model and within any file system.
const MAX_BYTES: u64 = 1 << 46;
/// In sparse files, tensors of at least this many bytes are left as holes.
const HOLE_BYTES: u64 = 1 << 20;

/// The sizes that may differ between models; everything else is fixed or Flash's constant.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// One per layer: 0, 4 or 128.
    pub ratios: Vec<u32>,
    pub hidden: usize,
    pub vocab: usize,
    pub heads: usize,
    pub q_lora: usize,
    pub o_lora: usize,
    pub o_groups: usize,
    pub experts: usize,
    pub experts_used: usize,
    pub expert_ff: usize,
    pub hash_layers: usize,
    pub indexer_heads: usize,
    pub indexer_top_k: usize,
}

impl Shape {
    /// DeepSeek V4 Flash (docs/model.md §1).
    pub fn flash() -> Shape {
        Shape {
            ratios: flash_ratios(43),
            hidden: 4096,
            vocab: 129_280,
            heads: 64,
            q_lora: 1024,
            o_lora: 1024,
            o_groups: 8,
            experts: 256,
            experts_used: 6,
            expert_ff: 2048,
            hash_layers: 3,
            indexer_heads: 64,
            indexer_top_k: 512,
        }
    }

    /// Every kind of layer at the smallest widths that all formats can hold: 3.2 MB, or 7.4 MB where layers share no bytes.
    pub fn small() -> Shape {
        Shape {
            ratios: vec![0, 4, 128, 4],
            hidden: 256,
            vocab: 320,
            heads: 4,
            q_lora: 64,
            o_lora: 32,
            o_groups: 2,
            experts: 4,
            experts_used: 2,
            expert_ff: 256,
            hash_layers: 2,
            indexer_heads: 4,
            indexer_top_k: 8,
        }
    }
}

/// Flash's schedule, for any number of layers: two of ratio 0, then 4 and 128 in turn (docs/model.md §3).
pub fn flash_ratios(layers: usize) -> Vec<u32> {
    (0..layers)
        .map(|layer| {
            if layer < 2 {
                0
            } else if layer % 2 == 0 {
                4
            } else {
                128
            }
        })
        .collect()
}

/// How much of the tensor data is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Tensors of one role, type and size share their bytes across layers: Flash's shape takes 4 GB, and a step still
    /// reads as many bytes as from the real file.
    Aliased,
    /// Every tensor has its own bytes: 81 GB in Flash's shape.
    Full,
    /// The length of a full file, but tensors of 1 MiB or more are holes that read as zeros, hash tables aside. Shows
    /// how long opening takes; it is no model to run.
    Sparse,
}

/// Which layers have a router bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    All,
    /// Layers that are not hash-routed, as in published files.
    Scored,
    None,
}

/// Gives tensors a type other than the recipe's.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeRule {
    /// A role's label ([`Role::label`]); one `*` stands for any text.
    pub pattern: String,
    /// First and last layer; `None` for all layers and global tensors.
    pub layers: Option<(usize, usize)>,
    pub dtype: DType,
}

impl TypeRule {
    fn takes(&self, role: Role, layer: Option<usize>) -> bool {
        let label = role.label();
        let named = match self.pattern.split_once('*') {
            None => self.pattern == label,
            Some((a, b)) => label.len() >= a.len() + b.len() && label.starts_with(a) && label.ends_with(b),
        };
        let within = match (self.layers, layer) {
            (None, _) => true,
            (Some((first, last)), Some(layer)) => (first..=last).contains(&layer),
            (Some(_), None) => false,
        };
        named && within
    }
}

/// A file to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub shape: Shape,
    /// Over the published 2-bit recipe; later rules win.
    pub types: Vec<TypeRule>,
    pub router_bias: Bias,
    pub data: Data,
    pub seed: u64,
}

impl Spec {
    pub fn new(shape: Shape) -> Spec {
        Spec { shape, types: Vec::new(), router_bias: Bias::Scored, data: Data::Aliased, seed: 1 }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub tensors: usize,
    /// Length of the file.
    pub bytes: u64,
    /// Bytes of tensor data that were made.
    pub made: u64,
}

/// Is told the bytes made so far and in all, and says whether to go on.
pub type Progress<'a> = dyn FnMut(u64, u64) -> ControlFlow<()> + 'a;

/// Writes the file. It appears at `out` only when it is whole and opens as a model.
///
/// Errors: `synth-spec`, `io`, `interrupted` where `progress` broke off.
pub fn write(spec: &Spec, out: &Path, progress: &mut Progress) -> Result<Summary> {
    let draft = Draft::of(spec)?;
    let folder = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| Error::io(out, e.kind().into()))?;
    let io = |e| Error::io(out, e);
    file.write_all(&draft.header).map_err(io)?;
    file.as_file().set_len(draft.file_len()).map_err(io)?;
    // The header is judged before gigabytes follow it. Zeros are valid expert ids.
    judge(Gguf::open(file.path())?)?;
    if draft.write_data(file.as_file_mut(), progress).map_err(io)?.is_break() {
        return Err(Error::new(&INTERRUPTED, format!("interrupted: {} is not written", out.display())));
    }
    file.as_file().sync_data().map_err(io)?;
    readable(file.as_file()).map_err(io)?;
    file.persist(out).map_err(|e| io(e.error))?;
    Ok(draft.summary())
}

/// The same file in memory: for tests, which want small ones. Errors: `synth-spec`.
pub fn to_bytes(spec: &Spec) -> Result<Vec<u8>> {
    let draft = Draft::of(spec)?;
    let mut bytes = draft.header.clone();
    bytes.resize(draft.file_len() as usize, 0);
    for part in draft.parts() {
        part.fill(&mut bytes[part.at as usize..][..part.len]);
    }
    Ok(bytes)
}

/// The same as an open model. Errors: `synth-spec`.
pub fn model(spec: &Spec) -> Result<Model> {
    judge(Gguf::from_bytes(Path::new("synthetic"), to_bytes(spec)?)?)
}

/// Opens what was made. A model that does not fit is a wrong option here.
fn judge(gguf: Gguf) -> Result<Model> {
    let survey = Survey::of(gguf)?;
    if survey.misfits.is_empty() {
        return survey.into_model();
    }
    let listed: Vec<_> = survey.misfits.iter().take(8).map(|m| format!("\n  {m}")).collect();
    let more = survey.misfits.len() - listed.len();
    let more = if more > 0 { format!("\n  … and {more} more") } else { String::new() };
    Err(Error::new(&SYNTH_SPEC, format!("the options make no model that fits:{}{more}", listed.concat())))
}

/// Temporary files are private to their owner; a model is not.
fn readable(file: &File) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    let _ = file;
    Ok(())
}

/// A spec worked out: the header, and every range of bytes behind it.
struct Draft {
    header: Vec<u8>,
    tensors: usize,
    ranges: Vec<Range>,
    data_len: u64,
}

/// The bytes of one tensor, or of several that share them.
struct Range {
    values: Values,
    dtype: DType,
    stream: Stream,
    /// From the start of the tensor data.
    at: u64,
    len: u64,
}

/// A piece of a range, small enough to be made in memory.
struct Part<'a> {
    range: &'a Range,
    first_unit: u64,
    /// From the start of the file.
    at: u64,
    len: usize,
}

impl Part<'_> {
    fn fill(&self, out: &mut [u8]) {
        self.range.values.fill(self.range.dtype, self.range.stream, self.first_unit, out);
    }
}

impl Draft {
    fn of(spec: &Spec) -> Result<Draft> {
        check(spec)?;
        let sizes = sizes(&spec.shape);
        let mut used = vec![false; spec.types.len()];
        let (mut entries, mut ranges) = (Vec::new(), Vec::new());
        let mut offsets: HashMap<String, u64> = HashMap::new();
        let mut end = 0u64;
        for (role, layer) in tensors(spec, &sizes) {
            let name = role.tensor_name(layer.unwrap_or(0));
            let number = layer.unwrap_or(0) as u64;
            let dims =
                role.row().dims_at(&sizes, number).ok_or_else(|| Error::internal(format!("{name} has no size")))?;
            let dtype = dtype(spec, role, layer, &mut used);
            let len = byte_len(dtype, &dims).ok_or_else(|| {
                Error::new(&SYNTH_SPEC, format!("{name} cannot be {dtype}"))
                    .expected(format!("rows of whole blocks of {} elements", dtype.block_elems()))
                    .found(format!("rows of {}", dims[0]))
            })?;
            let key = match spec.data {
                Data::Aliased if layer.is_some() => format!("{} {dtype} {dims:?}", role.label()),
                _ => name.clone(),
            };
            let offset = *offsets.entry(key).or_insert_with_key(|key| {
                let at = end;
                end = end.saturating_add(len.saturating_add(ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
                if spec.data != Data::Sparse || len < HOLE_BYTES || role == Role::FfnGateTid2eid {
                    let values = Values::of(role, &dims, spec.shape.experts as u64);
                    ranges.push(Range { values, dtype, stream: Stream::new(spec.seed, key), at, len });
                }
                at
            });
            if end > MAX_BYTES {
                return Err(Error::new(&SYNTH_SPEC, "the file would be too long")
                    .expected(format!("at most {MAX_BYTES} bytes"))
                    .found(format!("{end} bytes up to {name}")));
            }
            entries.push(Entry { name, dims, ggml_type: dtype.ggml_id(), offset });
        }
        if let Some(i) = used.iter().position(|u| !u) {
            return Err(Error::new(&SYNTH_SPEC, format!("a type rule names no tensor: {}", spec.types[i].pattern))
                .expected(format!("one of {}", Role::all().map(Role::label).collect::<Vec<_>>().join(", ")))
                .found(&spec.types[i].pattern));
        }
        let header = write::header(3, &meta::metadata(spec), &entries, ALIGNMENT as usize);
        Ok(Draft { header, tensors: entries.len(), ranges, data_len: end })
    }

    fn file_len(&self) -> u64 {
        self.header.len() as u64 + self.data_len
    }

    fn summary(&self) -> Summary {
        Summary { tensors: self.tensors, bytes: self.file_len(), made: self.ranges.iter().map(|r| r.len).sum() }
    }

    /// All ranges in pieces of about [`CHUNK`] bytes, in file order.
    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.ranges.iter().flat_map(|range| {
            let unit = range.values.unit_bytes(range.dtype) as u64;
            let units = (CHUNK as u64 / unit).max(1);
            let start = self.header.len() as u64 + range.at;
            (0..range.len.div_ceil(units * unit)).map(move |i| {
                let from = i * units * unit;
                let len = (units * unit).min(range.len - from) as usize;
                Part { range, first_unit: i * units, at: start + from, len }
            })
        })
    }

    fn write_data(&self, file: &mut File, progress: &mut Progress) -> std::io::Result<ControlFlow<()>> {
        let total = self.summary().made;
        let mut done = 0;
        let mut parts = self.parts().peekable();
        let tasks = 2 * rayon::current_num_threads();
        while parts.peek().is_some() {
            let batch: Vec<_> = parts.by_ref().take(tasks).collect();
            let made: Vec<Vec<u8>> = batch
                .par_iter()
                .map(|part| {
                    let mut bytes = vec![0; part.len];
                    part.fill(&mut bytes);
                    bytes
                })
                .collect();
            for (part, bytes) in batch.iter().zip(made) {
                file.seek(SeekFrom::Start(part.at))?;
                file.write_all(&bytes)?;
                done += part.len as u64;
            }
            if progress(done, total).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Rules that must hold before the header can be made at all; the rest is judged by opening it.
fn check(spec: &Spec) -> Result<()> {
    let s = &spec.shape;
    let rule = |holds: bool, what: &str, expected: String, found: usize| {
        let error = || Error::new(&SYNTH_SPEC, format!("{what} is out of range")).expected(expected).found(found);
        if holds { Ok(()) } else { Err(error()) }
    };
    let least = meta::MIN_VOCAB;
    rule(s.vocab >= least, "the vocabulary", format!("{least} tokens or more: 7 special ones and 256 bytes"), s.vocab)?;
    let groups = s.o_groups.max(1);
    rule(s.heads.is_multiple_of(groups), "the number of heads", format!("a multiple of {groups}"), s.heads)?;
    let positive = [
        ("the number of layers", s.ratios.len()),
        ("the hidden width", s.hidden),
        ("the number of heads", s.heads),
        ("the query rank", s.q_lora),
        ("the output rank", s.o_lora),
        ("the number of output groups", s.o_groups),
        ("the number of experts", s.experts),
        ("the number of experts used", s.experts_used),
        ("the expert width", s.expert_ff),
        ("the number of indexer heads", s.indexer_heads),
        ("the indexer's top-k", s.indexer_top_k),
    ];
    for (what, n) in positive.into_iter().chain([("the vocabulary", s.vocab)]) {
        rule((1..=1 << 20).contains(&n), what, "1 to 1048576".into(), n)?;
    }
    rule(s.experts_used <= s.experts, "the number of experts used", format!("at most {}", s.experts), s.experts_used)?;
    Ok(())
}

fn sizes(s: &Shape) -> Sizes {
    Sizes {
        layers: Some(s.ratios.len() as u64),
        hidden: Some(s.hidden as u64),
        vocab: Some(s.vocab as u64),
        heads: Some(s.heads as u64),
        q_lora: Some(s.q_lora as u64),
        o_lora: Some(s.o_lora as u64),
        o_groups: Some(s.o_groups as u64),
        experts: Some(s.experts as u64),
        experts_used: Some(s.experts_used as u64),
        expert_ff: Some(s.expert_ff as u64),
        hash_layers: Some(s.hash_layers as u64),
        indexer_heads: Some(s.indexer_heads as u64),
        ratios: Some(s.ratios.clone()),
    }
}

/// The file's tensors in order: global ones, then layer by layer, each in the table's order.
fn tensors(spec: &Spec, sizes: &Sizes) -> Vec<(Role, Option<usize>)> {
    let mut out: Vec<_> = TABLE.iter().filter(|r| r.role.is_global()).map(|r| (r.role, None)).collect();
    for layer in 0..spec.shape.ratios.len() {
        let there = |on: On| match on {
            On::Global => false,
            On::Optional => match spec.router_bias {
                Bias::All => true,
                Bias::Scored => layer >= spec.shape.hash_layers,
                Bias::None => false,
            },
            on => on.needed_at(sizes, layer as u64) == Some(true),
        };
        out.extend(TABLE.iter().filter(|r| there(r.on)).map(|r| (r.role, Some(layer))));
    }
    out
}

fn dtype(spec: &Spec, role: Role, layer: Option<usize>, used: &mut [bool]) -> DType {
    let mut dtype = role.row().recipe;
    for (rule, used) in spec.types.iter().zip(used) {
        if rule.takes(role, layer) {
            *used = true;
            dtype = rule.dtype;
        }
    }
    dtype
}

fn byte_len(dtype: DType, dims: &[u64]) -> Option<u64> {
    let row = dtype.row_bytes(usize::try_from(dims[0]).ok()?)? as u64;
    dims[1..].iter().try_fold(row, |n, d| n.checked_mul(*d))
}
