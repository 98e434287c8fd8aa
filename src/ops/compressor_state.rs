use super::cases::POSITIONS;
use super::contract::*;
use super::{Call, Draft, Op, magnitudes};
use crate::error::Result;
use crate::model::quant::DType;

static CONTRACT: Contract = Contract {
    op: "compressor_state",
    summary: "brings the compressor's state from position pos0 to pos0 + T (docs/model.md §10)",
    ops_ids: &["P17", "P18", "P19", "C3", "I5"],
    aliases: &["compressor_store_batch", "compressor_prefill_state_ratio4", "compressor_update"],
    args: &[
        read("k", &["T", "C*D"], "candidates"),
        read("g", &["T", "C*D"], "gates, APE not yet added"),
        update("state_k", &["C*ratio", "C*D"], "candidates of the last tokens"),
        update("state_s", &["C*ratio", "C*D"], "their scores, APE included"),
    ],
    weights: &[weight(
        "ape",
        &[DType::F16, DType::F32],
        &["C*D", "ratio"],
        "added to the score by place in the window",
    )],
    steps: &["T", "pos0"],
    dims: &["D", "C", "ratio"],
    scalars: &[],
    roundings: &[],
    comparison: Comparison::Tolerance,
};

/// Score of a state row that holds no token.
pub const EMPTY_SCORE: f32 = -1e30;

/// Of candidates and gates, in cases: half of them as they come.
const SIZES: [f32; 8] = [1.0, 1.0, 1.0, 1.0, 1e-6, 1e-3, 100.0, 1e4];

/// The compressor's memory between steps.
///
/// With C = 2 rows 0..ratio hold the last complete window and rows ratio..2·ratio the tokens of the one under way; with
/// C = 1 rows hold the window under way. Rows without a token have candidate 0 and score [`EMPTY_SCORE`]: unlike
/// upstream's streaming path, which leaves stale rows there, so that a state depends on the tokens alone.
pub struct CompressorState;

impl Op for CompressorState {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, pos0) = (call.step("T")?, call.step("pos0")?);
        let (d, c, ratio) = (call.dim("D")?, call.dim("C")?, call.dim("ratio")?);
        let ape = call.weight("ape")?.to_vec();
        let (k, g) = (call.f32("k")?, call.f32("g")?);
        let (state_k, state_s) = (call.f32_mut("state_k")?, call.f32_mut("state_s")?);
        let width = c * d;
        let (old_k, old_s) = (state_k.to_vec(), state_s.to_vec());
        let end = pos0 + t;
        for row in 0..c * ratio {
            // The token that belongs in this row now.
            let window_start = end / ratio * ratio;
            let position = if c == 2 && row < ratio {
                (window_start + row).checked_sub(ratio)
            } else {
                Some(window_start + row % ratio).filter(|q| *q < end)
            };
            let out = row * width..(row + 1) * width;
            match position {
                None => {
                    state_k[out.clone()].fill(0.0);
                    state_s[out].fill(EMPTY_SCORE);
                }
                Some(q) if q >= pos0 => {
                    let at = (q - pos0) * width;
                    state_k[out.clone()].copy_from_slice(&k[at..at + width]);
                    for (ch, s) in state_s[out].iter_mut().enumerate() {
                        *s = g[at + ch] + ape[q % ratio * width + ch];
                    }
                }
                Some(q) => {
                    let current = q / ratio == pos0 / ratio;
                    let from = (q % ratio + if c == 2 && current { ratio } else { 0 }) * width;
                    state_k[out.clone()].copy_from_slice(&old_k[from..from + width]);
                    state_s[out].copy_from_slice(&old_s[from..from + width]);
                }
            }
        }
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[&[512, 2, 4], &[512, 1, 128], &[128, 2, 4]]
    }

    fn long(&self) -> &'static [i64] {
        self.presets()[2]
    }

    /// Two long windows and more, that one step completes.
    fn spans(&self) -> &'static [(&'static [i64], usize, usize)] {
        &[(&[512, 1, 128], 260, 450)]
    }

    fn period(&self, dims: &[i64]) -> Option<usize> {
        dims.get(2).map(|ratio| *ratio as usize)
    }

    fn size(&self, d: &mut Draft<'_>) {
        let ratio = d.dim("ratio");
        let most = if d.far { POSITIONS - d.tokens } else { 3 * ratio };
        d.position(most);
    }

    /// Rows of every size, beside each other.
    fn fill(&self, d: &mut Draft<'_>) {
        let width = d.dim("C") * d.dim("D");
        for name in ["k", "g", "state_k", "state_s"] {
            let rows = d.f32(name).len() / width.max(1);
            let factors: Vec<f32> = (0..rows).map(|_| d.draw.pick(&SIZES)).collect();
            magnitudes::scale_rows(d, name, width, &factors);
        }
        magnitudes::extremes(d, "k");
    }

    fn rows_apart(&self) -> bool {
        true
    }

    fn tokenwise(&self) -> bool {
        false
    }

    fn macs(&self, dims: &[i64], tokens: usize) -> u64 {
        (2 * dims[0] * dims[1]) as u64 * tokens as u64
    }
}
