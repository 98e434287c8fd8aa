//! Texts that every desk has at hand, carried in the binary: the oracles' sources and the documents.

use std::fmt::Write as _;

use crate::ops::Contract;
use crate::ops::contract::{Access, Comparison, Elem, Rounding};

/// The source of each op's oracle.
const ORACLES: [(&str, &str); 26] = [
    ("embed", include_str!("../../ops/embed.rs")),
    ("rms_norm", include_str!("../../ops/rms_norm.rs")),
    ("matmul", include_str!("../../ops/matmul.rs")),
    ("hc_split", include_str!("../../ops/hc_split.rs")),
    ("hc_weighted_sum", include_str!("../../ops/hc_weighted_sum.rs")),
    ("head_rms_norm", include_str!("../../ops/head_rms_norm.rs")),
    ("rope_tail", include_str!("../../ops/rope_tail.rs")),
    ("fp8_kv_round_trip", include_str!("../../ops/fp8_kv_round_trip.rs")),
    ("store_rows", include_str!("../../ops/store_rows.rs")),
    ("compressor_prefill", include_str!("../../ops/compressor_prefill.rs")),
    ("compressor_state", include_str!("../../ops/compressor_state.rs")),
    ("hadamard_fp4_round_trip", include_str!("../../ops/hadamard_fp4_round_trip.rs")),
    ("indexer_scores", include_str!("../../ops/indexer_scores.rs")),
    ("indexer_topk", include_str!("../../ops/indexer_topk.rs")),
    ("attention_raw", include_str!("../../ops/attention_raw.rs")),
    ("attention_mixed", include_str!("../../ops/attention_mixed.rs")),
    ("attention_indexed", include_str!("../../ops/attention_indexed.rs")),
    ("matmul_grouped", include_str!("../../ops/matmul_grouped.rs")),
    ("hc_expand", include_str!("../../ops/hc_expand.rs")),
    ("router_hash", include_str!("../../ops/router_hash.rs")),
    ("router_topk", include_str!("../../ops/router_topk.rs")),
    ("moe_gate_up", include_str!("../../ops/moe_gate_up.rs")),
    ("moe_down", include_str!("../../ops/moe_down.rs")),
    ("swiglu", include_str!("../../ops/swiglu.rs")),
    ("take_rows", include_str!("../../ops/take_rows.rs")),
    ("output_hc_weights", include_str!("../../ops/output_hc_weights.rs")),
];

/// What several oracles call.
const SHARED: [(&str, &str); 4] = [
    ("attention", include_str!("../../ops/attention.rs")),
    ("moe", include_str!("../../ops/moe.rs")),
    ("router", include_str!("../../ops/router.rs")),
    ("math", include_str!("../../ops/math.rs")),
];

/// The documents that an agent may read, by name.
pub const DOCS: [(&str, &str); 4] = [
    ("docs/model.md", include_str!("../../../docs/model.md")),
    ("docs/ops.md", include_str!("../../../docs/ops.md")),
    ("docs/manifest.md", include_str!("../../../docs/manifest.md")),
    ("docs/stages.md", include_str!("../../../docs/stages.md")),
];

/// `src/ops/<op>.rs`: contract and oracle of an op, or what several of them call.
pub fn oracle(name: &str) -> Option<&'static str> {
    ORACLES.iter().chain(&SHARED).find(|(n, _)| *n == name).map(|(_, text)| *text)
}

/// Names that [`oracle`] knows beside the ops.
pub fn shared_oracles() -> impl Iterator<Item = &'static str> {
    SHARED.iter().map(|(name, _)| *name)
}

pub fn document(name: &str) -> Option<&'static str> {
    DOCS.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}

/// A heading of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section<'t> {
    /// `11.1`; empty where the heading has none.
    pub number: &'t str,
    pub title: &'t str,
    pub text: &'t str,
}

/// Every section of a document, each with the sections below it.
pub fn sections(text: &str) -> Vec<Section<'_>> {
    let mut heads: Vec<(usize, usize, &str)> = Vec::new();
    let (mut at, mut fenced) = (0, false);
    for line in text.split_inclusive('\n') {
        fenced ^= line.starts_with("```");
        let depth = line.bytes().take_while(|b| *b == b'#').count();
        if !fenced && (2..=4).contains(&depth) && line.as_bytes().get(depth) == Some(&b' ') {
            heads.push((at, depth, line[depth..].trim()));
        }
        at += line.len();
    }
    let mut out = Vec::new();
    for (i, (start, depth, head)) in heads.iter().copied().enumerate() {
        let end = heads[i + 1..].iter().find(|h| h.1 <= depth).map_or(text.len(), |h| h.0);
        let (first, rest) = head.split_once(' ').unwrap_or((head, ""));
        let numbered = first.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let (number, title) = if numbered { (first.trim_end_matches('.'), rest) } else { ("", head) };
        out.push(Section { number, title, text: &text[start..end] });
    }
    out
}

/// The numbers of docs/model.md that a contract's summary cites: `§9`, `§8.1`.
pub fn cited(contract: &Contract) -> Vec<String> {
    let digits = |rest: &str| -> String {
        let number: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        number.trim_end_matches('.').to_string()
    };
    let mut out: Vec<String> = contract.summary.split('§').skip(1).map(digits).filter(|n| !n.is_empty()).collect();
    out.dedup();
    out
}

/// A contract in words.
pub fn contract(c: &Contract) -> String {
    let mut out = format!("{}: {}\n", c.op, c.summary);
    let w = &mut out;
    let elem = |e: Elem| e.c_name();
    for arg in c.args {
        let access = match arg.access {
            Access::Read => "reads",
            Access::Write => "writes",
            Access::Update => "updates",
        };
        let null = if arg.optional { ", may be null" } else { "" };
        let shape = arg.shape.join(", ");
        let _ = writeln!(w, "{access:<8} {} {}[{shape}]{null}: {}", elem(arg.elem), arg.name, arg.doc);
    }
    for slot in c.weights {
        let types = slot.types.iter().map(|t| t.name()).collect::<Vec<_>>().join("|");
        let null = if slot.optional { ", may be null" } else { "" };
        let same = slot.same_type_as.map_or(String::new(), |s| format!(", of the same type as {s}"));
        let _ = writeln!(w, "weight   {types} {}[{}]{same}{null}: {}", slot.name, slot.dims.join(", "), slot.doc);
    }
    if !c.steps.is_empty() {
        let _ = writeln!(w, "step     {}: values of the current step, by pointer", c.steps.join(", "));
    }
    if !c.dims.is_empty() {
        let _ = writeln!(w, "dims     {}", c.dims.join(", "));
    }
    for scalar in c.scalars {
        let _ = writeln!(w, "scalar   {} {}: {}", elem(scalar.elem), scalar.name, scalar.doc);
    }
    let roundings: Vec<String> = c.roundings.iter().map(rounding).collect();
    let _ = match roundings.is_empty() {
        true => writeln!(w, "rounding none: operands stay f32"),
        false => writeln!(w, "rounding in ds4 numerics an implementation may declare {}", roundings.join(" or ")),
    };
    let _ = match c.comparison {
        Comparison::Tolerance => {
            writeln!(w, "judged   by its error against the oracle; what you declare sets the tolerance")
        }
        Comparison::Exact => writeln!(w, "judged   bit for bit"),
    };
    let _ = writeln!(w, "docs     docs/ops.md {}; upstream {}", c.ops_ids.join(" "), c.aliases.join(" "));
    out
}

fn rounding(r: &Rounding) -> String {
    serde_json::to_value(r).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::OPS;

    #[test]
    fn every_op_has_its_oracle_and_its_sections() {
        let model = sections(document("docs/model.md").unwrap());
        for op in OPS {
            let c = op.contract();
            assert!(oracle(c.op).is_some_and(|text| text.contains("fn oracle")), "{}", c.op);
            for number in cited(c) {
                assert!(model.iter().any(|s| s.number == number), "{} cites §{number}", c.op);
            }
            assert!(contract(c).len() < super::super::tool::EXCERPT, "{}", c.op);
        }
    }

    #[test]
    fn a_section_holds_those_below_it_and_not_the_next() {
        let model = sections(document("docs/model.md").unwrap());
        let find = |n: &str| model.iter().find(|s| s.number == n).unwrap();
        assert!(find("8").text.contains("### 8.1") && !find("8").text.contains("## 9."));
        assert!(find("8.1").text.starts_with("### 8.1"));
    }
}
