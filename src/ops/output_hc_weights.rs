use super::contract::*;
use super::{Call, Draft, Op, magnitudes, math};
use crate::error::Result;

static CONTRACT: Contract = Contract {
    op: "output_hc_weights",
    summary: "w[r, s] = sigmoid(p[r, s]·scale[0] + base[s]) + eps (docs/model.md §5, output head)",
    ops_ids: &["P37", "O3"],
    aliases: &["output_hc_weights"],
    args: &[read("p", &["R", "S"], "output_hc_fn products"), write("w", &["R", "S"], "stream weights")],
    weights: &[weight("scale", F32_ONLY, &["1"], "of all streams"), weight("base", F32_ONLY, &["S"], "per stream")],
    steps: &["R"],
    dims: &["S"],
    scalars: &[scalar("eps", EPSILON, "added to the sigmoid")],
    roundings: &[],
    comparison: Comparison::Tolerance,
};

/// Stream weights of the output head.
pub struct OutputHcWeights;

impl Op for OutputHcWeights {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (r, s, eps) = (call.step("R")?, call.dim("S")?, call.scalar("eps")? as f32);
        let (scale, base) = (call.weight("scale")?.to_vec(), call.weight("base")?.to_vec());
        let p = call.f32("p")?;
        let w = call.f32_mut("w")?;
        for i in 0..r * s {
            w[i] = math::sigmoid(p[i] * scale[0] + base[i % s]) + eps;
        }
        Ok(())
    }

    /// Every fourth row is large: its exponentials are no numbers on one side.
    fn fill(&self, d: &mut Draft<'_>) {
        let s = d.dim("S");
        let rows = d.f32("p").len() / s.max(1);
        let factors: Vec<f32> = (0..rows).map(|_| d.draw.pick(&[1.0, 1.0, 1.0, 60.0])).collect();
        magnitudes::scale_rows(d, "p", s, &factors);
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        &[&[4]]
    }
}
