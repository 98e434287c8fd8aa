//! Judges a file's tensors against the table, all of them in one pass, and indexes them by role.

use std::collections::{BTreeMap, BTreeSet};

use super::config::Sizes;
use super::gguf::Gguf;
use super::layout::{ROLES, Role, Row, TABLE};
use super::misfit::Misfit;
use super::quant::DType;

const ABSENT: u32 = u32::MAX;

/// Where each role's tensor is in the file's table.
#[derive(Default)]
pub(super) struct Index {
    global: Vec<u32>,
    /// By number: the file says which there are, and the numbers in tensor names may be anything.
    layers: BTreeMap<u64, [u32; ROLES]>,
}

impl Index {
    pub fn global(&self, role: Role) -> Option<usize> {
        present(*self.global.get(role as usize)?)
    }

    pub fn layer(&self, layer: usize, role: Role) -> Option<usize> {
        present(self.layers.get(&(layer as u64))?[role as usize])
    }
}

fn present(i: u32) -> Option<usize> {
    (i != ABSENT).then_some(i as usize)
}

/// Compares every tensor with the table; adds misfits, and notes about tensors that nothing reads.
pub(super) fn check(gguf: &Gguf, sizes: &Sizes, misfits: &mut Vec<Misfit>, notes: &mut Vec<String>) -> Index {
    let mut index = Index { global: vec![ABSENT; ROLES], layers: BTreeMap::new() };
    let mut blocks = BTreeSet::new();
    let mut unread: Vec<&str> = Vec::new();
    let mut drafts = 0;
    let mut strays = Vec::new();
    for tensor in gguf.tensors() {
        match Role::of_name(&tensor.name) {
            Some((role, Some(layer))) => {
                blocks.insert(layer);
                let past = sizes.layers.is_some_and(|n| layer >= n);
                let idle = role.row().on != super::layout::On::Optional
                    && role.row().on.needed_at(sizes, layer) == Some(false);
                if past || idle {
                    let reason = if past { "no such layer" } else { role.row().on.reason() };
                    strays.push(Misfit::new(&tensor.name, reason, "the tensor"));
                }
            }
            Some((_, None)) => {}
            None if tensor.name.starts_with("mtp.") => drafts += 1,
            None => unread.push(&tensor.name),
        }
    }
    for row in TABLE.iter().filter(|r| r.role.is_global()) {
        index.global[row.role as usize] = judge(gguf, row, sizes, 0, true, misfits);
    }
    // A layer count that the tensors do not bear out may be anything up to 2^20: what is missing is said by range.
    let layers = sizes.layers.unwrap_or_else(|| blocks.last().map_or(0, |n| n.saturating_add(1)));
    let mut next = 0;
    for &layer in blocks.iter().filter(|&&n| n < layers) {
        missing(next, layer, misfits);
        next = layer + 1;
        index.layers.insert(layer, judge_layer(gguf, sizes, layer, misfits));
    }
    missing(next, layers, misfits);
    misfits.append(&mut strays);
    if drafts > 0 {
        notes.push(format!("{drafts} tensors of a draft block (mtp.*), which assay does not run"));
    }
    if !unread.is_empty() {
        let first = unread.iter().take(3).map(|n| n.escape_debug().to_string()).collect::<Vec<_>>().join(", ");
        let more = if unread.len() > 3 { ", …" } else { "" };
        notes.push(format!("{} tensors that nothing reads: {first}{more}", unread.len()));
    }
    index
}

fn missing(from: u64, to: u64, misfits: &mut Vec<Misfit>) {
    match to.saturating_sub(from) {
        0 => {}
        1 => misfits.push(Misfit::new(format!("blk.{from}"), "the layer's tensors", "none")),
        _ => misfits.push(Misfit::new(format!("blk.{from} to blk.{}", to - 1), "the layers' tensors", "none")),
    }
}

fn judge_layer(gguf: &Gguf, sizes: &Sizes, layer: u64, misfits: &mut Vec<Misfit>) -> [u32; ROLES] {
    let mut index = [ABSENT; ROLES];
    for row in TABLE.iter().filter(|r| !r.role.is_global()) {
        match row.on.needed_at(sizes, layer) {
            Some(true) => index[row.role as usize] = judge(gguf, row, sizes, layer, true, misfits),
            Some(false) if row.on == super::layout::On::Optional => {
                index[row.role as usize] = judge(gguf, row, sizes, layer, false, misfits);
            }
            // Absent by right, or a stray that is reported as such; or unknown, as the key's misfit says.
            _ => {}
        }
    }
    let kind = |role: Role| present(index[role as usize]).and_then(|i| gguf.tensors()[i].dtype);
    if let (Some(gate), Some(up)) = (kind(Role::FfnGateExps), kind(Role::FfnUpExps))
        && gate != up
    {
        let name = Role::FfnUpExps.tensor_name(layer as usize);
        misfits.push(Misfit::new(format!("{name} type"), format!("{gate}, as ffn_gate_exps"), up));
    }
    index
}

fn judge(gguf: &Gguf, row: &Row, sizes: &Sizes, layer: u64, needed: bool, misfits: &mut Vec<Misfit>) -> u32 {
    let name = row.role.tensor_name(layer as usize);
    let dims = row.dims_at(sizes, layer);
    let Some(i) = gguf.position(&name) else {
        if needed {
            let shape = dims.map_or_else(String::new, |d| format!(" {d:?}"));
            misfits.push(Misfit::new(name, format!("a tensor{shape} of {}", types(row.types)), "no such tensor"));
        }
        return ABSENT;
    };
    let tensor = &gguf.tensors()[i];
    if !tensor.dtype.is_some_and(|t| row.types.contains(&t)) {
        misfits.push(Misfit::new(format!("{name} type"), types(row.types), tensor.type_name()));
    }
    if let Some(dims) = dims
        && dims != tensor.dims
    {
        misfits.push(Misfit::new(format!("{name} dims"), format!("{dims:?}"), format!("{:?}", tensor.dims)));
    }
    i as u32
}

fn types(types: &[DType]) -> String {
    match types {
        [one] => one.name().to_owned(),
        [rest @ .., last] => {
            format!("{} or {last}", rest.iter().map(|t| t.name()).collect::<Vec<_>>().join(", "))
        }
        [] => String::new(),
    }
}

/// The hash-routing tables hold expert ids that kernels index with: each must name an expert.
pub(super) fn check_hash_tables(gguf: &Gguf, index: &Index, sizes: &Sizes, misfits: &mut Vec<Misfit>) {
    let (Some(experts), Some(used), Some(vocab)) = (sizes.experts, sizes.experts_used, sizes.vocab) else { return };
    for roles in index.layers.values() {
        let Some(tensor) = present(roles[Role::FfnGateTid2eid as usize]).map(|i| &gguf.tensors()[i]) else { continue };
        // Of another type or size it is a misfit already, and its bytes mean nothing.
        if tensor.dtype != Some(DType::I32) || tensor.dims != [used, vocab] {
            continue;
        }
        let (ids, _) = gguf.bytes(tensor).as_chunks::<4>();
        let wrong = ids
            .iter()
            .map(|b| i32::from_le_bytes(*b))
            .enumerate()
            .find(|(_, id)| u64::try_from(*id).map_or(true, |id| id >= experts));
        if let Some((at, id)) = wrong {
            let used = used as usize;
            misfits.push(Misfit::new(
                format!("{} of token {}, slot {}", tensor.name, at / used, at % used),
                format!("an expert, 0 to {}", experts - 1),
                id,
            ));
        }
    }
}
