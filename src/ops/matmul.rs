use super::contract::*;
use super::{Call, Draft, Op, magnitudes, math};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "matmul",
    summary: "y[t, n] = Σ_k w[n][k] · x[t, k] (docs/model.md §2.4 for the blocks)",
    ops_ids: &[
        "P4", "P5", "P6", "P7", "A2", "A5", "A6", "A8", "C1", "I1", "I2", "I4", "P29", "F2", "F5", "F6", "O2", "O6",
    ],
    aliases: &[
        "matmul_q8_0",
        "matmul_q8_0_pair",
        "matmul_f16",
        "matmul_f16_pair",
        "matmul_f32",
        "matmul_q8_0_hc_expand",
        "attention_output_q8_batch",
        "shared_gate_up_swiglu_q8_0",
        "shared_down_hc_expand_q8_0",
    ],
    args: &[read("x", &["T", "K"], "activations"), write("y", &["T", "N"], "products")],
    weights: &[weight("w", DENSE, &["K", "N"], "projection")],
    steps: &["T"],
    dims: &["K", "N"],
    scalars: &[],
    roundings: &[Rounding::F16, Rounding::Bf16, Rounding::Q8_0],
    comparison: Comparison::Tolerance,
};

/// Dense projection without bias.
pub struct Matmul;

impl Op for Matmul {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, k, n) = (call.step("T")?, call.dim("K")?, call.dim("N")?);
        let w = call.weight("w")?;
        let x = math::round_rows(&call.f32("x")?[..t * k], k, call.rounding);
        let y = call.f32_mut("y")?;
        math::matmul(&w, 0, n, &x, k, y, n);
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[
            &[256, 24],
            &[512, 9],
            &[96, 40],
            &[544, 96],
            &[100, 33],
            // Rows that do not end on 4 elements, in weights that end on 16 bytes: nothing else lies behind the last row.
            &[101, 32],
            &[102, 8],
            &[103, 8],
            // The same where the last row starts on 16 bytes.
            &[103, 9],
            &[768, 65],
            // A stage of 2048 elements and one block more.
            &[2080, 21],
            &[4096, 24],
            &[4096, 129],
            &[1024, 160],
            // Between what one and two rows a warp take, and enough for blocks to come round again.
            &[256, 300],
            &[1024, 1100],
            &[8192, 72],
            &[16384, 4],
            &[4096, 4096],
            &[1024, 32768],
            &[8192, 4096],
            &[2048, 4096],
        ]
    }

    fn spans(&self) -> &'static [(&'static [i64], usize, usize)] {
        // So many rows that a device has blocks enough for the largest tiles: one token more than half of one, than three
        // quarters, and than one.
        &[(&[1024, 32768], 33, 33), (&[1024, 32768], 49, 49), (&[1024, 32768], 65, 65), (&[1024, 32768], 34, 64)]
    }

    fn far(&self) -> &'static [&'static [i64]] {
        &[&[256, 11_003], &[256, 129_280]]
    }

    fn fill(&self, d: &mut Draft<'_>) {
        let k = d.dim("K");
        magnitudes::vary_tokens(d, "x", [k, k], [magnitudes::LEAST, 3e3, 1e3]);
    }

    fn rows_apart(&self) -> bool {
        true
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (dims[0] * dims[1]) as u64 * tokens as u64
    }
}
