//! What a claimed name stands for, by the record alone: ops, nodes, the aliases of contracts and the symbols of
//! reference/port. A name that none of them has is unknown; nothing is guessed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use crate::error::Result;
use crate::model::quant::DType;
use crate::ops::{self, Node, OPS};
use crate::plan::port;

/// Words that say where a function lives and not what it does; they are left off at the front,
const BEFORE: &[&str] = &["ds4", "dsv4", "deepseek", "gpu", "cuda", "metal", "kernel"];
/// and these at the end.
const BEHIND: &[&str] = &["tensor", "kernel", "cuda", "metal", "gpu"];
/// Endings by which a name is that of a file.
const FILES: &[&str] = &["cu", "cuh", "c", "cc", "cpp", "h", "hpp", "m", "mm", "metal", "rs", "toml", "ptx"];

/// The words of a name in lower case: `RopeTail`, `rope-tail` and `rope_tail` have the same.
pub fn tokens(text: &str) -> Vec<String> {
    let (mut out, mut word, mut low) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        if !word.is_empty() && (!c.is_alphanumeric() || (c.is_uppercase() && low)) {
            out.push(std::mem::take(&mut word));
        }
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
        low = c.is_lowercase();
    }
    out.extend(Some(word).filter(|w| !w.is_empty()));
    out
}

/// The one spelling under which names are compared.
fn spelling(name: &str) -> String {
    let words = tokens(name);
    let mut rest = words.as_slice();
    while let [first, more @ ..] = rest
        && !more.is_empty()
        && BEFORE.contains(&first.as_str())
    {
        rest = more;
    }
    while let [more @ .., last] = rest
        && !more.is_empty()
        && BEHIND.contains(&last.as_str())
    {
        rest = more;
    }
    rest.concat()
}

/// The weight types, as type names, that a name is limited to; `None`: every type of the op.
type Types = Option<BTreeSet<String>>;

/// Every name on record.
pub struct Names {
    known: HashMap<String, BTreeMap<&'static str, Types>>,
}

impl Names {
    /// `port` is reference/port of the workbench; without it only the contracts' aliases are known.
    pub fn read(port: &Path) -> Result<Names> {
        let mut known: HashMap<String, BTreeMap<&'static str, Types>> = HashMap::new();
        for op in OPS {
            let contract = op.contract();
            let mut add = |name: &str, types: &[String]| {
                let of_op = known.entry(spelling(name)).or_default();
                match of_op.get_mut(contract.op) {
                    None => {
                        drop(of_op.insert(contract.op, (!types.is_empty()).then(|| types.iter().cloned().collect())))
                    }
                    // Two symbols of one spelling: what either concerns.
                    Some(Some(had)) if !types.is_empty() => had.extend(types.iter().cloned()),
                    Some(had) => *had = None,
                }
            };
            for upstream in port::records(port, contract)? {
                add(&upstream.symbol, &upstream.types);
            }
            // The record knows the types that a symbol is for; an alias does not.
            for name in contract.aliases.iter().chain([&contract.op]) {
                known.entry(spelling(name)).or_default().entry(contract.op).or_insert(None);
            }
        }
        Ok(Names { known })
    }

    /// Whether a name is on record.
    pub fn knows(&self, name: &str) -> bool {
        !self.resolve(name, &[]).is_empty()
    }

    /// The nodes that a name stands for, as far as possible those `of` a plan; empty: the name is unknown. A name of
    /// several ops, such as that of a fused function, stands for all of them.
    pub fn resolve(&self, name: &str, of: &[Node]) -> Vec<Node> {
        let name = stem(name);
        let lower = name.to_lowercase();
        if let Ok(node) = lower.parse::<Node>()
            && let Some(op) = ops::find(&node.op)
        {
            let slots: Vec<_> = op.contract().typed_slots().map(|(_, slot)| slot.types).collect();
            let fits = |types: &[DType]| {
                types.len() == slots.len() && types.iter().zip(&slots).all(|(t, allowed)| allowed.contains(t))
            };
            match node.types.is_empty() {
                true => return nodes(op.contract().op, &None, of),
                false if fits(&node.types) => return vec![node],
                false => return Vec::new(),
            }
        }
        let found = self.known.get(&spelling(name)).into_iter().flatten();
        found.flat_map(|(op, types)| nodes(op, types, of)).collect()
    }
}

/// Nodes of an op and of these types: those of the plan, or, where it has none, what would be its own.
fn nodes(op: &'static str, types: &Types, of: &[Node]) -> Vec<Node> {
    let mine = |node: &&Node| {
        node.op == op && types.as_ref().is_none_or(|types| types.contains(&port::type_name(&node.types)))
    };
    let planned: Vec<Node> = of.iter().filter(mine).cloned().collect();
    if !planned.is_empty() {
        return planned;
    }
    let named = types.iter().flatten().filter_map(|types| format!("{op}.{types}").parse().ok());
    let named: Vec<Node> = named.collect();
    if named.is_empty() { vec![Node { op: op.into(), types: Vec::new() }] } else { named }
}

/// A name without what makes it a call or a file: `src/rope_tail.cu`, `rope_tail()`.
fn stem(name: &str) -> &str {
    let name = name.trim();
    let name = name.strip_suffix("()").unwrap_or(name);
    let name = name.rsplit(['/', '\\']).next().unwrap_or(name);
    match name.rsplit_once('.') {
        Some((stem, ending)) if FILES.contains(&ending.to_ascii_lowercase().as_str()) => stem,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/port")).unwrap()
    }

    #[test]
    fn a_name_stands_for_what_is_on_record() {
        let plan = ["matmul[f16]", "matmul[q8_0]", "rope_tail", "moe_gate_up[iq2_xxs]", "moe_down[q2_k]", "rms_norm"];
        let plan: Vec<Node> = plan.iter().map(|n| n.parse().unwrap()).collect();
        let names = names();
        for (name, nodes) in [
            ("rope_tail", "rope_tail"),
            ("ds4_gpu_rope_tail_tensor", "rope_tail"),
            ("DS4_GPU_ROPE_TAIL_TENSOR", "rope_tail"),
            ("RopeTail", "rope_tail"),
            ("rope-tail()", "rope_tail"),
            ("cuda/rope_tail.cu", "rope_tail"),
            ("rope_tail_kernel", "rope_tail"),
            ("kernels/matmul.q8_0.cu", "matmul[q8_0]"),
            ("matmul[f16]", "matmul[f16]"),
            ("matmul", "matmul[f16] matmul[q8_0]"),
            ("ds4_gpu_matmul_q8_0_tensor", "matmul[q8_0]"),
            ("matmul_q8_0", "matmul[q8_0]"),
            ("ds4_gpu_routed_moe_one_tensor", "moe_down[q2_k] moe_gate_up[iq2_xxs]"),
            ("ds4_gpu_rms_norm_weight_rows_tensor", "rms_norm"),
            ("ds4_gpu_matmul_f32_tensor", "matmul[f32]"),
            ("rms_norm[q8_0]", ""),
            ("rope", ""),
            ("rope_tial", ""),
            ("tensor", ""),
            ("ds4_gpu_flash_attention_tensor", ""),
            ("", ""),
        ] {
            let found: Vec<String> = names.resolve(name, &plan).iter().map(Node::to_string).collect();
            assert_eq!(found.join(" "), nodes, "{name}");
        }
    }
}
