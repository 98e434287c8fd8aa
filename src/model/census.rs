//! What a file's bytes are: tensors counted by role and by type.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::gguf::Gguf;
use super::layout::Role;

/// The tensors of one role (or of none) that have one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Use {
    /// As in tensor names, without `blk.N.` and `.weight`; "mtp" for a draft block, "other" for what nothing reads.
    pub role: &'static str,
    /// ggml's name of the type, lower-case.
    #[serde(rename = "type")]
    pub type_name: &'static str,
    /// The layers, as inclusive runs; empty for global tensors.
    pub layers: Vec<(u64, u64)>,
    pub tensors: usize,
    /// Bytes of all these tensors, aliases counted each time: what a kernel reads, not what the file stores.
    pub bytes: u64,
}

/// Totals of a type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeTotal {
    #[serde(rename = "type")]
    pub type_name: &'static str,
    pub tensors: usize,
    pub bytes: u64,
}

/// See [`Census::of`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Census {
    /// In the order of the tensor table, then by layer.
    pub uses: Vec<Use>,
    /// Largest first.
    pub types: Vec<TypeTotal>,
    pub tensors: usize,
    /// Bytes of all tensors, aliases counted each time.
    pub bytes: u64,
    /// Bytes of tensor data in the file: each range once.
    pub stored: u64,
}

impl Census {
    pub fn of(gguf: &Gguf) -> Census {
        // Roles by their place in the table, what has none behind them; types by id.
        let mut by_use: BTreeMap<(usize, &'static str, u32), (Vec<u64>, Use)> = BTreeMap::new();
        let mut by_type: BTreeMap<&'static str, (usize, u64)> = BTreeMap::new();
        let mut ranges = HashSet::new();
        let (mut bytes, mut stored) = (0u64, 0u64);
        for t in gguf.tensors() {
            let (place, role, layer) = match Role::of_name(&t.name) {
                Some((role, layer)) => (role as usize, role.label(), layer),
                None if t.name.starts_with("mtp.") => (usize::MAX - 1, "mtp", None),
                None => (usize::MAX, "other", None),
            };
            let fresh = || Use { role, type_name: t.type_name(), layers: Vec::new(), tensors: 0, bytes: 0 };
            let (layers, entry) = by_use.entry((place, role, t.ggml_type)).or_insert_with(|| (Vec::new(), fresh()));
            layers.extend(layer);
            entry.tensors += 1;
            // Aliases may add up to more than 64 bits only in a file made to do so.
            entry.bytes = entry.bytes.saturating_add(t.len);
            let total = by_type.entry(t.type_name()).or_default();
            *total = (total.0 + 1, total.1.saturating_add(t.len));
            bytes = bytes.saturating_add(t.len);
            if ranges.insert((t.offset, t.len)) {
                stored += t.len;
            }
        }
        let mut uses: Vec<_> = by_use
            .into_iter()
            .map(|((place, ..), (layers, entry))| (place, Use { layers: runs(layers), ..entry }))
            .collect();
        uses.sort_by(|(a, x), (b, y)| (a, &x.layers).cmp(&(b, &y.layers)));
        let uses = uses.into_iter().map(|(_, entry)| entry).collect();
        let mut types: Vec<_> =
            by_type.into_iter().map(|(type_name, (tensors, bytes))| TypeTotal { type_name, tensors, bytes }).collect();
        types.sort_by_key(|t| std::cmp::Reverse(t.bytes));
        Census { uses, types, tensors: gguf.tensors().len(), bytes, stored }
    }
}

/// Sorted numbers as inclusive runs: 0, 1, 2, 5 → 0–2, 5–5.
fn runs(mut numbers: Vec<u64>) -> Vec<(u64, u64)> {
    numbers.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for n in numbers {
        match out.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(n) => *last = n,
            _ => out.push((n, n)),
        }
    }
    out
}
