use super::contract::*;
use super::{Call, Draft, Op};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "embed",
    summary: "H[t, s, :] = table[ids[t], :] for every stream s (docs/model.md §4)",
    ops_ids: &["P2", "S2"],
    aliases: &["embed_token_hc", "embed_tokens_hc"],
    args: &[read("ids", &["T"], "token ids, each < V").i32(), write("h", &["T", "S", "D"], "residual streams")],
    weights: &[weight("table", DENSE, &["D", "V"], "token embedding")],
    steps: &["T"],
    dims: &["D", "S", "V"],
    scalars: &[],
    roundings: &[],
    comparison: Comparison::Exact,
};

/// Embedding row copied into all streams.
pub struct Embed;

impl Op for Embed {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, d, s, v) = (call.step("T")?, call.dim("D")?, call.dim("S")?, call.dim("V")?);
        let table = call.weight("table")?;
        let ids = call.i32("ids")?;
        let h = call.f32_mut("h")?;
        for (token, out) in ids[..t].iter().zip(h.chunks_exact_mut(s * d)) {
            // Ids are checked where a prompt enters; here an id past the table reads row 0, as upstream's CUDA does.
            let row = usize::try_from(*token).ok().filter(|r| *r < v).unwrap_or(0);
            table.row(row, &mut out[..d]);
            for stream in 1..s {
                out.copy_within(..d, stream * d);
            }
        }
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[
            &[256, 4, 97],
            &[512, 4, 4099],
            &[96, 4, 97],
            // Rows that do not end on 16 bytes, in tables that do: nothing else lies behind the last row.
            &[100, 4, 32],
            &[65, 4, 8],
            &[104, 4, 30],
            &[768, 4, 31],
            &[4096, 4, 33],
            &[102, 4, 31],
            &[103, 4, 31],
            &[4160, 4, 3],
        ]
    }

    fn fill(&self, d: &mut Draft<'_>) {
        let vocab = d.dim("V");
        d.draw_ids(vocab);
        // Behind the last row there may be nothing to read, and of few tokens none may be drawn that has it.
        if !d.turn.is_multiple_of(2) {
            let token = d.draw.below(d.tokens.max(1));
            if let Some(id) = d.i32("ids").get_mut(token) {
                *id = i32::try_from(vocab).unwrap_or(i32::MAX) - 1;
            }
        }
    }

    fn far(&self) -> &'static [&'static [i64]] {
        &[&[256, 4, 129_280], &[8224, 4, 3]]
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (dims[0] * dims[1]) as u64 * tokens as u64
    }
}
