use super::contract::*;
use super::{Call, Draft, Op, magnitudes, math};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "hc_split",
    summary: "split = (sigmoid + eps, 2·sigmoid, Sinkhorn of the S×S rest) of mix·scale + base (docs/model.md §5)",
    ops_ids: &["P8", "P11", "A3", "F1"],
    aliases: &["hc_split_sinkhorn", "hc_split_weighted_sum", "hc_split_weighted_sum_norm"],
    args: &[
        read("mix", &["T", "2*S+S*S"], "hyper-connection logits: pre, post, combine row by row"),
        write("split", &["T", "2*S+S*S"], "pre, post, combine C[r][c]"),
    ],
    weights: &[
        weight("scale", F32_ONLY, &["3"], "of pre, post, combine"),
        weight("base", F32_ONLY, &["2*S+S*S"], "added after scaling"),
    ],
    steps: &["T"],
    dims: &["S"],
    scalars: &[
        scalar("eps", EPSILON, "of sigmoid and of the normalisers"),
        // Few, where each one counts, and more than in published files, where the last of large logits still do.
        scalar_i32("iterations", Span::Of(&[1.0, 2.0, 3.0, 5.0, 20.0, 33.0]), "Sinkhorn iterations"),
    ],
    roundings: &[],
    comparison: Comparison::Tolerance,
};

/// Hyper-connection weights of a sublayer.
pub struct HcSplit;

impl Op for HcSplit {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, s) = (call.step("T")?, call.dim("S")?);
        let (eps, iterations) = (call.scalar("eps")? as f32, call.scalar("iterations")? as usize);
        let (scale, base) = (call.weight("scale")?.to_vec(), call.weight("base")?.to_vec());
        let width = 2 * s + s * s;
        let mix = call.f32("mix")?;
        let split = call.f32_mut("split")?;
        for (mix, out) in mix.chunks_exact(width).zip(split.chunks_exact_mut(width)).take(t) {
            for i in 0..s {
                out[i] = math::sigmoid(mix[i] * scale[0] + base[i]) + eps;
                out[s + i] = 2.0 * math::sigmoid(mix[s + i] * scale[1] + base[s + i]);
            }
            for i in 2 * s..width {
                out[i] = mix[i] * scale[2] + base[i];
            }
            sinkhorn(&mut out[2 * s..], s, eps, iterations);
        }
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[&[4]]
    }

    /// Every fourth token's logits are large: their exponentials are no numbers unless the maximum is taken off first.
    fn fill(&self, d: &mut Draft<'_>) {
        let width = d.f32("mix").len() / d.tokens.max(1);
        let factors: Vec<f32> = (0..d.tokens).map(|_| d.draw.pick(&[1.0, 1.0, 1.0, 60.0])).collect();
        magnitudes::scale_rows(d, "mix", width, &factors);
        magnitudes::outliers(d, "mix", width, 60.0);
    }
}

/// Softmax of each row plus eps, then columns; rows and columns again `iterations − 1` times. The last step is a
/// column step, so columns sum to 1 − eps and rows only nearly to 1.
fn sinkhorn(c: &mut [f32], s: usize, eps: f32, iterations: usize) {
    for row in c.chunks_exact_mut(s) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|v| *v = libm::expf(*v - max));
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|v| *v = *v / sum + eps);
    }
    let columns = |c: &mut [f32]| {
        for col in 0..s {
            let sum: f32 = (0..s).map(|r| c[r * s + col]).sum::<f32>() + eps;
            (0..s).for_each(|r| c[r * s + col] /= sum);
        }
    };
    columns(c);
    for _ in 1..iterations {
        for row in c.chunks_exact_mut(s) {
            let sum: f32 = row.iter().sum::<f32>() + eps;
            row.iter_mut().for_each(|v| *v /= sum);
        }
        columns(c);
    }
}
