use super::contract::*;
use super::{Call, Draft, Op, magnitudes, math};
use crate::error::Result;

/// Small enough to act on noise, or as in published files, which have 10.
pub(super) const CLAMP: Span = Span::Powers(0.5, 12.0);

static CONTRACT: Contract = Contract {
    op: "swiglu",
    summary: "h = silu(min(g, clamp)) · clamp(u, ±clamp) (docs/model.md §13, shared expert)",
    ops_ids: &["P34", "P35", "F5"],
    aliases: &["swiglu", "shared_gate_up_swiglu_q8_0"],
    args: &[
        read("g", &["T", "F"], "gate products"),
        read("u", &["T", "F"], "up products"),
        write("h", &["T", "F"], "hidden activations"),
    ],
    weights: &[],
    steps: &["T"],
    dims: &["F"],
    scalars: &[scalar("clamp", CLAMP, "of gate (above) and up (both sides)")],
    roundings: &[],
    comparison: Comparison::Tolerance,
};

/// The clamped SwiGLU of the shared expert.
pub struct Swiglu;

impl Op for Swiglu {
    fn contract(&self) -> &'static Contract {
        &CONTRACT
    }

    fn oracle(&self, call: &mut Call<'_>) -> Result<()> {
        let (t, f, clamp) = (call.step("T")?, call.dim("F")?, call.scalar("clamp")? as f32);
        let (g, u) = (call.f32("g")?, call.f32("u")?);
        let h = call.f32_mut("h")?;
        for i in 0..t * f {
            h[i] = activate(g[i], u[i], clamp);
        }
        Ok(())
    }

    fn presets(&self) -> &'static [&'static [i64]] {
        // The first meets every count: of 101·T elements none, one, two or three are behind the last four.
        &[&[101], &[256], &[512], &[768], &[2048]]
    }

    /// Wider than Flash: hidden states of other files.
    fn far(&self) -> &'static [&'static [i64]] {
        &[&[4100]]
    }

    fn fill(&self, d: &mut Draft<'_>) {
        // Of some tokens' gates the exponential is no number, on the side that has no clamp.
        let width = d.dim("F");
        let factors: Vec<f32> = (0..d.tokens).map(|_| d.draw.pick(&[6.0, 6.0, 6.0, 180.0])).collect();
        magnitudes::scale_rows(d, "g", width, &factors);
        let factors: Vec<f32> = (0..d.tokens).map(|_| d.draw.pick(&[6.0, 6.0, 1e-4, 1e6])).collect();
        magnitudes::scale_rows(d, "u", width, &factors);
    }

    fn rows_apart(&self) -> bool {
        true
    }
}

/// silu(min(g, clamp)) · clamp(u, ±clamp).
pub(super) fn activate(g: f32, u: f32, clamp: f32) -> f32 {
    math::silu(g.min(clamp)) * u.clamp(-clamp, clamp)
}
