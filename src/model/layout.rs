//! The tensor table (docs/model.md §2): which tensors a deepseek4 file holds, with which dims and types.
//!
//! One [`Row`] per row of §2.1 and §2.2. Dims are symbolic, so that one table serves every size of the model. The types
//! are the "poly" column of §2, widened where a format costs nothing: every dense matrix takes Q8_0, F16 and F32, and
//! routed experts also Q8_0. The compressor norms may be F16 in the file; the model gives them as F32, which is exact. Types may differ from layer to layer.

use serde::Serialize;

use super::config::{HC_MIX, HEAD_DIM, INDEXER_DIM, STREAMS, Sizes};
use super::quant::DType;

/// One tensor of the model, view into the map.
#[derive(Clone, Copy)]
pub struct Tensor<'m> {
    pub name: &'m str,
    pub dtype: DType,
    /// In ggml's order: dim 0 is contiguous (input width), dim 1 counts rows, dim 2 experts.
    pub dims: &'m [u64],
    /// Whole rows, no padding.
    pub bytes: &'m [u8],
}

impl<'m> Tensor<'m> {
    /// Elements of a row (dim 0).
    pub fn width(&self) -> usize {
        self.dims[0] as usize
    }

    /// Rows: the product of all dims but the first.
    pub fn rows(&self) -> usize {
        self.dims[1..].iter().product::<u64>() as usize
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.bytes.len() / self.rows()
    }

    /// The stored bytes of one row; rows of expert e of [in, out, experts] start at e · out.
    pub fn row(&self, row: usize) -> &'m [u8] {
        let n = self.row_bytes();
        &self.bytes[row * n..(row + 1) * n]
    }

    /// All values as f32, row after row.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.width() * self.rows()];
        self.dtype.dequantise(self.bytes, &mut out);
        out
    }
}

impl std::fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {:?}", self.name, self.dtype, self.dims)
    }
}

/// A tensor's part in the model: one per row of docs/model.md §2.1 and §2.2, in that order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Role {
    TokenEmbd,
    OutputHcFn,
    OutputHcBase,
    OutputHcScale,
    OutputNorm,
    Output,
    HcAttnFn,
    HcAttnScale,
    HcAttnBase,
    AttnNorm,
    AttnQA,
    AttnQANorm,
    AttnQB,
    AttnKv,
    AttnKvANorm,
    AttnSinks,
    AttnOutputA,
    AttnOutputB,
    AttnCompressorApe,
    AttnCompressorKv,
    AttnCompressorGate,
    AttnCompressorNorm,
    IndexerAttnQB,
    IndexerProj,
    IndexerCompressorApe,
    IndexerCompressorKv,
    IndexerCompressorGate,
    IndexerCompressorNorm,
    HcFfnFn,
    HcFfnScale,
    HcFfnBase,
    FfnNorm,
    FfnGateInp,
    ExpProbsB,
    FfnGateTid2eid,
    FfnGateExps,
    FfnUpExps,
    FfnDownExps,
    FfnGateShexp,
    FfnUpShexp,
    FfnDownShexp,
}

pub const ROLES: usize = Role::FfnDownShexp as usize + 1;

/// A dimension, as a formula over the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    Fixed(u64),
    Hidden,
    /// streams · hidden
    HcDim,
    Vocab,
    QLora,
    /// heads · 512
    QDim,
    Heads,
    /// (heads / groups) · 512
    GroupDim,
    /// groups · rank
    LowDim,
    /// 512 for ratio 128, twice that for ratio 4
    CompressorWidth,
    Ratio,
    /// indexer heads · 128
    IndexerQDim,
    IndexerHeads,
    Experts,
    ExpertsUsed,
    ExpertFf,
}

/// Where a tensor occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Once per file.
    Global,
    EveryLayer,
    /// Layers with ratio 4 or 128.
    Compressed,
    /// Layers with ratio 4.
    Indexed,
    /// The first `hash_layers` layers.
    Hashed,
    /// Any layer, or none.
    Optional,
}

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    pub role: Role,
    /// The name after `blk.N.`, or the whole name of a global tensor.
    pub leaf: &'static str,
    pub dims: &'static [Dim],
    pub on: On,
    pub types: &'static [DType],
    /// The type of the published 2-bit recipe.
    pub recipe: DType,
}

use DType::{F16, F32, I32, IQ2_XXS, Q2_K, Q4_K, Q8_0};
use Dim::*;
use On::*;

const HEAD: Dim = Fixed(HEAD_DIM as u64);
const INDEX_HEAD: Dim = Fixed(INDEXER_DIM as u64);
const INDEX_WIDTH: Dim = Fixed(2 * INDEXER_DIM as u64);
const MIX: Dim = Fixed(HC_MIX as u64);
const STREAM: Dim = Fixed(STREAMS as u64);

const VECTOR: &[DType] = &[F32];
const DENSE: &[DType] = &[Q8_0, F16, F32];
const ADDEND: &[DType] = &[F16, F32];
const EXPERTS: &[DType] = &[IQ2_XXS, Q2_K, Q4_K, Q8_0];

const fn row(
    role: Role,
    leaf: &'static str,
    dims: &'static [Dim],
    on: On,
    types: &'static [DType],
    recipe: DType,
) -> Row {
    Row { role, leaf, dims, on, types, recipe }
}

/// The table; `TABLE[role as usize].role == role`.
pub static TABLE: [Row; ROLES] = [
    row(Role::TokenEmbd, "token_embd.weight", &[Hidden, Vocab], Global, DENSE, F16),
    row(Role::OutputHcFn, "output_hc_fn.weight", &[HcDim, STREAM], Global, DENSE, F16),
    row(Role::OutputHcBase, "output_hc_base.weight", &[STREAM], Global, VECTOR, F32),
    row(Role::OutputHcScale, "output_hc_scale.weight", &[Fixed(1)], Global, VECTOR, F32),
    row(Role::OutputNorm, "output_norm.weight", &[Hidden], Global, VECTOR, F32),
    row(Role::Output, "output.weight", &[Hidden, Vocab], Global, DENSE, Q8_0),
    row(Role::HcAttnFn, "hc_attn_fn.weight", &[HcDim, MIX], EveryLayer, DENSE, F16),
    row(Role::HcAttnScale, "hc_attn_scale.weight", &[Fixed(3)], EveryLayer, VECTOR, F32),
    row(Role::HcAttnBase, "hc_attn_base.weight", &[MIX], EveryLayer, VECTOR, F32),
    row(Role::AttnNorm, "attn_norm.weight", &[Hidden], EveryLayer, VECTOR, F32),
    row(Role::AttnQA, "attn_q_a.weight", &[Hidden, QLora], EveryLayer, DENSE, Q8_0),
    row(Role::AttnQANorm, "attn_q_a_norm.weight", &[QLora], EveryLayer, VECTOR, F32),
    row(Role::AttnQB, "attn_q_b.weight", &[QLora, QDim], EveryLayer, DENSE, Q8_0),
    row(Role::AttnKv, "attn_kv.weight", &[Hidden, HEAD], EveryLayer, DENSE, Q8_0),
    row(Role::AttnKvANorm, "attn_kv_a_norm.weight", &[HEAD], EveryLayer, VECTOR, F32),
    row(Role::AttnSinks, "attn_sinks.weight", &[Heads], EveryLayer, VECTOR, F32),
    row(Role::AttnOutputA, "attn_output_a.weight", &[GroupDim, LowDim], EveryLayer, DENSE, Q8_0),
    row(Role::AttnOutputB, "attn_output_b.weight", &[LowDim, Hidden], EveryLayer, DENSE, Q8_0),
    row(Role::AttnCompressorApe, "attn_compressor_ape.weight", &[CompressorWidth, Ratio], Compressed, ADDEND, F16),
    row(Role::AttnCompressorKv, "attn_compressor_kv.weight", &[Hidden, CompressorWidth], Compressed, DENSE, F16),
    row(Role::AttnCompressorGate, "attn_compressor_gate.weight", &[Hidden, CompressorWidth], Compressed, DENSE, F16),
    row(Role::AttnCompressorNorm, "attn_compressor_norm.weight", &[HEAD], Compressed, ADDEND, F32),
    row(Role::IndexerAttnQB, "indexer.attn_q_b.weight", &[QLora, IndexerQDim], Indexed, DENSE, F16),
    row(Role::IndexerProj, "indexer.proj.weight", &[Hidden, IndexerHeads], Indexed, DENSE, F16),
    row(Role::IndexerCompressorApe, "indexer_compressor_ape.weight", &[INDEX_WIDTH, Ratio], Indexed, ADDEND, F16),
    row(Role::IndexerCompressorKv, "indexer_compressor_kv.weight", &[Hidden, INDEX_WIDTH], Indexed, DENSE, F16),
    row(Role::IndexerCompressorGate, "indexer_compressor_gate.weight", &[Hidden, INDEX_WIDTH], Indexed, DENSE, F16),
    row(Role::IndexerCompressorNorm, "indexer_compressor_norm.weight", &[INDEX_HEAD], Indexed, ADDEND, F32),
    row(Role::HcFfnFn, "hc_ffn_fn.weight", &[HcDim, MIX], EveryLayer, DENSE, F16),
    row(Role::HcFfnScale, "hc_ffn_scale.weight", &[Fixed(3)], EveryLayer, VECTOR, F32),
    row(Role::HcFfnBase, "hc_ffn_base.weight", &[MIX], EveryLayer, VECTOR, F32),
    row(Role::FfnNorm, "ffn_norm.weight", &[Hidden], EveryLayer, VECTOR, F32),
    row(Role::FfnGateInp, "ffn_gate_inp.weight", &[Hidden, Dim::Experts], EveryLayer, DENSE, F16),
    row(Role::ExpProbsB, "exp_probs_b.bias", &[Dim::Experts], Optional, VECTOR, F32),
    row(Role::FfnGateTid2eid, "ffn_gate_tid2eid.weight", &[ExpertsUsed, Vocab], Hashed, &[I32], I32),
    row(Role::FfnGateExps, "ffn_gate_exps.weight", &[Hidden, ExpertFf, Dim::Experts], EveryLayer, EXPERTS, IQ2_XXS),
    row(Role::FfnUpExps, "ffn_up_exps.weight", &[Hidden, ExpertFf, Dim::Experts], EveryLayer, EXPERTS, IQ2_XXS),
    row(Role::FfnDownExps, "ffn_down_exps.weight", &[ExpertFf, Hidden, Dim::Experts], EveryLayer, EXPERTS, Q2_K),
    row(Role::FfnGateShexp, "ffn_gate_shexp.weight", &[Hidden, ExpertFf], EveryLayer, DENSE, Q8_0),
    row(Role::FfnUpShexp, "ffn_up_shexp.weight", &[Hidden, ExpertFf], EveryLayer, DENSE, Q8_0),
    row(Role::FfnDownShexp, "ffn_down_shexp.weight", &[ExpertFf, Hidden], EveryLayer, DENSE, Q8_0),
];

impl Role {
    /// All roles in the table's order.
    pub fn all() -> impl Iterator<Item = Role> {
        TABLE.iter().map(|r| r.role)
    }

    /// This role's row of the table.
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The name after `blk.N.` without `.weight`: `attn_q_a`, `indexer.proj`, `exp_probs_b.bias`.
    pub fn label(self) -> &'static str {
        let leaf = self.row().leaf;
        leaf.strip_suffix(".weight").unwrap_or(leaf)
    }

    pub fn is_global(self) -> bool {
        self.row().on == Global
    }

    /// The whole tensor name; `layer` is ignored for global tensors.
    pub fn tensor_name(self, layer: usize) -> String {
        if self.is_global() { self.row().leaf.to_owned() } else { format!("blk.{layer}.{}", self.row().leaf) }
    }

    /// The role of a tensor name, with its layer unless it is global. `None` for names that the table does not have.
    pub fn of_name(name: &str) -> Option<(Role, Option<u64>)> {
        if let Some(rest) = name.strip_prefix("blk.") {
            let (layer, leaf) = rest.split_once('.')?;
            // "007" and "+7" parse as numbers, but are not how layers are written.
            let number: u64 = layer.parse().ok().filter(|n: &u64| n.to_string() == layer)?;
            let row = TABLE.iter().find(|r| r.on != Global && r.leaf == leaf)?;
            return Some((row.role, Some(number)));
        }
        let row = TABLE.iter().find(|r| r.on == Global && r.leaf == name)?;
        Some((row.role, None))
    }
}

impl Row {
    /// The dims at `layer`; `None` where the metadata did not yield a size they need.
    pub(super) fn dims_at(&self, sizes: &Sizes, layer: u64) -> Option<Vec<u64>> {
        self.dims.iter().map(|d| d.at(sizes, layer)).collect()
    }
}

impl Dim {
    fn at(self, s: &Sizes, layer: u64) -> Option<u64> {
        let head = HEAD_DIM as u64;
        Some(match self {
            Fixed(n) => n,
            Hidden => s.hidden?,
            HcDim => STREAMS as u64 * s.hidden?,
            Vocab => s.vocab?,
            QLora => s.q_lora?,
            QDim => s.heads? * head,
            Heads => s.heads?,
            GroupDim => s.heads? / s.o_groups? * head,
            LowDim => s.o_groups? * s.o_lora?,
            CompressorWidth => match s.ratio(layer)? {
                4 => 2 * head,
                _ => head,
            },
            Ratio => u64::from(s.ratio(layer)?),
            IndexerQDim => s.indexer_heads? * INDEXER_DIM as u64,
            IndexerHeads => s.indexer_heads?,
            Dim::Experts => s.experts?,
            ExpertsUsed => s.experts_used?,
            ExpertFf => s.expert_ff?,
        })
    }
}

impl On {
    /// Whether a layer must have such a tensor; `None` where the metadata does not say.
    pub(super) fn needed_at(self, sizes: &Sizes, layer: u64) -> Option<bool> {
        match self {
            Global | Optional => Some(false),
            EveryLayer => Some(true),
            Compressed => sizes.ratio(layer).map(|r| r != 0),
            Indexed => sizes.ratio(layer).map(|r| r == 4),
            Hashed => sizes.hash_layers.map(|n| layer < n),
        }
    }

    /// Why a layer has no such tensor, for the message when it does.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Compressed => "no such tensor in a layer of ratio 0",
            Indexed => "such a tensor only in layers of ratio 4",
            Hashed => "such a tensor only in hash-routed layers",
            Global | EveryLayer | Optional => "no such tensor",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_indexed_by_role() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(row.role as usize, i);
            assert!(row.types.contains(&row.recipe), "{}", row.leaf);
            let layer = (!row.role.is_global()).then_some(7);
            assert_eq!(Role::of_name(&row.role.tensor_name(7)), Some((row.role, layer)));
        }
        assert_eq!(Role::of_name("blk.07.attn_norm.weight"), None);
        assert_eq!(Role::of_name("blk.0.token_embd.weight"), None);
    }
}
