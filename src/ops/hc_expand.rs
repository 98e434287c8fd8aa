use rayon::prelude::*;

use super::contract::*;
use super::{Call, Draft, Op, magnitudes};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "hc_expand",
    summary: "H'[t, j, d] = post[j]·(y + y2)[t, d] + Σ_i C[i][j]·H[t, i, d]: the combine matrix is used transposed (docs/model.md §5)",
    ops_ids: &["P10", "P34", "P36", "A16", "F7"],
    aliases: &["hc_expand", "hc_expand_split", "hc_expand_add_split", "add"],
    args: &[
        read("y", &["T", "D"], "sublayer output"),
        read("y2", &["T", "D"], "second sublayer output to add").optional(),
        read("split", &["T", "2*S+S*S"], "pre, post, combine of hc_split"),
        update("h", &["T", "S", "D"], "residual streams"),
    ],
    weights: &[],
    steps: &["T"],
    dims: &["S", "D"],
    scalars: &[],
    roundings: &[],
    comparison: Comparison::Tolerance,
};

/// A sublayer's output spread over the residual streams.
pub struct HcExpand;

impl Op for HcExpand {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, s, d) = (call.step("T")?, call.dim("S")?, call.dim("D")?);
        let (y, y2, split) = (call.f32("y")?, call.f32_opt("y2")?, call.f32("split")?);
        let h = call.f32_mut("h")?;
        let width = 2 * s + s * s;
        h[..t * s * d].par_chunks_exact_mut(s * d).enumerate().for_each(|(token, h)| {
            let split = &split[token * width..][..width];
            let (post, combine) = (&split[s..2 * s], &split[2 * s..]);
            let mut old = vec![0.0f32; s];
            for i in 0..d {
                let y = y[token * d + i] + y2.map_or(0.0, |y2| y2[token * d + i]);
                for (stream, old) in old.iter_mut().enumerate() {
                    *old = h[stream * d + i];
                }
                for to in 0..s {
                    let mixed: f32 = (0..s).map(|from| combine[from * s + to] * old[from]).sum();
                    h[to * d + i] = post[to] * y + mixed;
                }
            }
        });
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[&[4, 256], &[4, 768], &[4, 4096]]
    }

    /// Wider than Flash: hidden states of other files.
    fn far(&self) -> &'static [&'static [i64]] {
        &[&[4, 4100], &[4, 8200]]
    }

    fn fill(&self, d: &mut Draft<'_>) {
        let (s, width) = (d.dim("S"), d.dim("D"));
        // A token's streams and outputs go together: of what is a thousandth of the other nothing would be seen.
        let factors: Vec<f32> = (0..d.tokens).map(|_| d.draw.pick(&[1.0, 1.0, 1e-4, 300.0])).collect();
        for (name, each) in [("y", width), ("y2", width), ("h", s * width)] {
            magnitudes::scale_rows(d, name, each, &factors);
            magnitudes::outliers(d, name, width, 300.0);
        }
    }

    fn rows_apart(&self) -> bool {
        true
    }
}
