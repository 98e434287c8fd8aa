//! What a kernel must do: one file per op, each with its contract and its oracle.
//!
//! An op's file, its kernel (`kernels/<op>.cu`), manifest (`kernels/<op>.toml`) and generated header
//! (`kernels/args/<op>.h`) share one stem. The oracle is plain f32 with f64 or fixed-lane sums; it computes a prefill,
//! a chunk at any position and a decode step alike, since counts and positions are arguments.

mod attention;
mod attention_indexed;
mod attention_mixed;
mod attention_raw;
pub mod blocks;
mod call;
pub mod cases;
pub mod compressor_prefill;
pub mod compressor_state;
pub mod contract;
pub mod draw;
mod embed;
pub mod expr;
mod fp8_kv_round_trip;
mod hadamard_fp4_round_trip;
mod hc_expand;
mod hc_split;
mod hc_weighted_sum;
mod head_rms_norm;
pub mod header;
mod indexer_scores;
mod indexer_topk;
mod magnitudes;
pub mod math;
mod matmul;
mod matmul_grouped;
mod moe;
mod moe_down;
mod moe_gate_up;
mod node;
mod output_hc_weights;
mod rms_norm;
pub mod rope_tail;
pub mod router;
mod router_hash;
mod router_topk;
mod store_rows;
mod swiglu;
mod take_rows;

pub use call::{Call, Slot, Weight};
pub use cases::Draft;
pub use contract::{Access, Comparison, Contract, Elem, Rounding};
pub use node::Node;

use crate::error::Result;

/// A primitive computation of the model.
pub trait Op: Sync {
    fn contract(&self) -> &'static Contract;

    /// Computes the op in host memory, with the operands rounded as `call.rounding` says.
    fn oracle(&self, call: &mut Call<'_>) -> Result<()>;

    /// Sizes to test at besides an opened model's: dims in the contract's order, the cheapest first. Among them are
    /// Flash's own and rows of 256, 512, 768 and 4096 elements, and where a type has shorter blocks, rows of an odd number
    /// of 32. A type takes those whose rows are whole numbers of its blocks ([`cases::fits`]); the first fits all.
    fn presets(&self) -> &'static [&'static [i64]];

    /// Sizes of far cases: few tokens, positions and indices at the end of their range, and every dim that something
    /// is indexed by at least Flash's own, the others as small as they can be.
    fn far(&self) -> &'static [&'static [i64]] {
        &self.presets()[..1]
    }

    /// The size at which the emulator meets steps of thousands of tokens.
    fn long(&self) -> &'static [i64] {
        self.presets()[0]
    }

    /// Sizes at which steps of some hundreds of tokens are met on the emulator too, with the fewest and the most tokens
    /// that matter.
    fn spans(&self) -> &'static [(&'static [i64], usize, usize)] {
        &[]
    }

    /// What an op counts positions in: a few tokens are met from every position modulo it.
    fn period(&self, _dims: &[i64]) -> Option<usize> {
        None
    }

    /// Whether every row of the outputs (their last dimension) is judged by its own size. Where rows go with inputs of
    /// their own, a small one must not pass because a large one stands beside it. Not for outputs that may cancel.
    fn rows_apart(&self) -> bool {
        false
    }

    /// Sets the steps, free dims and scalars of a case whose dims and tokens are given.
    fn size(&self, _draft: &mut Draft<'_>) {}

    /// Replaces what must not be noise: ids, tables, magnitudes.
    fn fill(&self, _draft: &mut Draft<'_>) {}

    /// Multiply-adds of a case, so that the emulator gets no more than it can do in time.
    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        dims.iter().filter(|d| **d > 0).product::<i64>() as u64 * tokens as u64
    }

    /// Whether every token's outputs follow from its own inputs, so that a sample of tokens can be recomputed alone.
    fn tokenwise(&self) -> bool {
        true
    }
}

/// Every op, in the order of a prefill.
pub static OPS: &[&dyn Op] = &[
    &embed::Embed,
    &rms_norm::RmsNorm,
    &matmul::Matmul,
    &hc_split::HcSplit,
    &hc_weighted_sum::HcWeightedSum,
    &head_rms_norm::HeadRmsNorm,
    &rope_tail::RopeTail,
    &fp8_kv_round_trip::Fp8KvRoundTrip,
    &store_rows::StoreRows,
    &compressor_prefill::CompressorPrefill,
    &compressor_state::CompressorState,
    &hadamard_fp4_round_trip::HadamardFp4RoundTrip,
    &indexer_scores::IndexerScores,
    &indexer_topk::IndexerTopk,
    &attention_raw::AttentionRaw,
    &attention_mixed::AttentionMixed,
    &attention_indexed::AttentionIndexed,
    &matmul_grouped::MatmulGrouped,
    &hc_expand::HcExpand,
    &router_hash::RouterHash,
    &router_topk::RouterTopk,
    &moe_gate_up::MoeGateUp,
    &moe_down::MoeDown,
    &swiglu::Swiglu,
    &take_rows::TakeRows,
    &output_hc_weights::OutputHcWeights,
];

/// The op of this name.
pub fn find(name: &str) -> Option<&'static dyn Op> {
    OPS.iter().copied().find(|op| op.contract().op == name)
}
