//! The draft (MTP) file of docs/model.md §2.3: recognised and named, so that nobody takes it for a broken model.

use super::gguf::{Gguf, Value};
use super::layout::{On, TABLE};
use super::misfit::Misfit;

const PREFIX: &str = "mtp.0.";
const ARCHITECTURE: &str = "deepseek4_mtp_support";

/// Tensors that the draft block has besides a layer's.
const OWN: [&str; 8] = [
    "hc_head_fn.weight",
    "hc_head_base.weight",
    "hc_head_scale.weight",
    "e_proj.weight",
    "h_proj.weight",
    "enorm.weight",
    "hnorm.weight",
    "norm.weight",
];

/// Whether this is a draft file: its architecture says so, or it has the draft block and no layers.
pub fn is_draft(gguf: &Gguf) -> bool {
    let named = gguf.get("general.architecture").and_then(Value::as_str) == Some(ARCHITECTURE);
    let mut names = gguf.tensors().iter().map(|t| t.name.as_str());
    named || names.clone().any(|n| n.starts_with(PREFIX)) && !names.any(|n| n.starts_with("blk."))
}

/// What a draft file lacks. Dims and types are not judged: nothing here runs it.
pub(super) fn check(gguf: &Gguf, misfits: &mut Vec<Misfit>) {
    let block = TABLE.iter().filter(|r| matches!(r.on, On::EveryLayer | On::Optional)).map(|r| r.leaf);
    for leaf in OWN.into_iter().chain(block) {
        let name = format!("{PREFIX}{leaf}");
        if gguf.tensor(&name).is_none() {
            misfits.push(Misfit::new(name, "a tensor of the draft block", "no such tensor"));
        }
    }
}
