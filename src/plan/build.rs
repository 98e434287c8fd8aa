//! The plan of a model: every op of a step in execution order (docs/ops.md §1, §2).

mod attention;
mod pending;

use serde::Serialize;

use self::pending::Pending;
use super::{Buffer, BufferIx, Extent, Guard, Instance, Numerics, PLAN_SIZE, Plan, Role, StepField};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::rope_tail::{Yarn, inverse_frequencies};
use crate::ops::{Elem, router};

/// What a plan is sized for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PlanOptions {
    pub numerics: Numerics,
    /// Most tokens of one step: the prefill chunk.
    pub max_tokens: usize,
    /// Most logits rows of one step.
    pub max_outputs: usize,
    /// Positions that the caches hold.
    pub context: usize,
}

pub(super) fn build(model: &Model, options: PlanOptions) -> Result<Plan> {
    let PlanOptions { max_tokens, context, .. } = options;
    if max_tokens == 0 || max_tokens > context || context > 1 << 20 {
        return Err(Error::new(&PLAN_SIZE, "the chunk or the context is out of range")
            .expected("1 ≤ chunk ≤ context ≤ 1048576")
            .found(format!("chunk {max_tokens}, context {context}")));
    }
    let mut b = Builder { model, options, buffers: Vec::new(), instances: Vec::new(), layer: None };
    let c = &model.config;
    let (hidden, streams) = (c.hidden, c.streams);
    let t = StepField::NTokens;

    let tokens = b.buffer("tokens", Elem::I32, Role::Input, &[Extent::Step(t)]);
    let h = b.temp("h", t, streams * hidden);
    b.op("embed", "token_embd", Guard::Always)
        .arg("ids", tokens)
        .arg("h", h)
        .weight("table", "token_embd.weight")
        .step("T", t)
        .dims(&[("D", hidden), ("S", streams), ("V", c.vocab)])
        .push()?;
    for layer in 0..c.layers {
        b.layer = Some(layer);
        b.attention_half(layer, h)?;
        b.ffn_half(layer, h, tokens)?;
    }
    b.layer = None;
    let logits = b.head(h)?;
    Ok(Plan {
        numerics: options.numerics,
        options,
        top_k: c.indexer_top_k,
        buffers: b.buffers,
        instances: b.instances,
        tokens,
        logits,
    })
}

struct Builder<'m> {
    model: &'m Model,
    options: PlanOptions,
    buffers: Vec<Buffer>,
    instances: Vec<Instance>,
    layer: Option<usize>,
}

impl<'m> Builder<'m> {
    fn buffer(&mut self, name: &str, elem: Elem, role: Role, shape: &[Extent]) -> BufferIx {
        // Temporaries of one name and shape are shared by all layers.
        if let Some(i) = self.buffers.iter().position(|b| b.name == name && b.shape == shape) {
            return BufferIx(i);
        }
        self.buffers.push(Buffer { name: name.into(), elem, role, shape: shape.into() });
        BufferIx(self.buffers.len() - 1)
    }

    fn temp(&mut self, name: &str, rows: StepField, width: usize) -> BufferIx {
        self.buffer(name, Elem::F32, Role::Temporary, &[Extent::Step(rows), Extent::Fixed(width)])
    }

    fn temp_i32(&mut self, name: &str, rows: StepField, width: usize) -> BufferIx {
        self.buffer(name, Elem::I32, Role::Temporary, &[Extent::Step(rows), Extent::Fixed(width)])
    }

    fn cache(&mut self, name: &str, rows: usize, width: usize, initial: f32) -> BufferIx {
        let name = self.tensor(name);
        self.buffer(&name, Elem::F32, Role::Cache { initial }, &[Extent::Fixed(rows), Extent::Fixed(width)])
    }

    /// `blk.3.` + leaf within a layer.
    fn tensor(&self, leaf: &str) -> String {
        match self.layer {
            Some(layer) => format!("blk.{layer}.{leaf}"),
            None => leaf.into(),
        }
    }

    fn op(&mut self, op: &'static str, label: &str, guard: Guard) -> Pending<'_, 'm> {
        let label = self.tensor(label);
        Pending {
            b: self,
            op,
            label,
            guard,
            args: vec![],
            weights: vec![],
            steps: vec![],
            dims: vec![],
            scalars: vec![],
        }
    }

    fn rms_norm(
        &mut self,
        label: &str,
        rows: StepField,
        x: BufferIx,
        y: BufferIx,
        d: usize,
        w: Option<&str>,
    ) -> Result<()> {
        let eps = f64::from(self.model.config.rms_eps);
        let w = w.map(|w| self.tensor(w));
        let p = self
            .op("rms_norm", label, Guard::Always)
            .arg("x", x)
            .arg("y", y)
            .step("R", rows)
            .dims(&[("D", d)])
            .scalar("eps", eps);
        match w {
            Some(w) => p.weight("w", &w).push(),
            None => p.push(),
        }
    }

    #[allow(clippy::too_many_arguments)] // label, where from, where to, and the two sizes
    fn matmul(
        &mut self,
        w: &str,
        guard: Guard,
        rows: StepField,
        x: BufferIx,
        y: BufferIx,
        k: usize,
        n: usize,
    ) -> Result<()> {
        let weight = self.tensor(&format!("{w}.weight"));
        self.op("matmul", w, guard)
            .arg("x", x)
            .arg("y", y)
            .weight("w", &weight)
            .step("T", rows)
            .dims(&[("K", k), ("N", n)])
            .push()
    }

    /// Inverse frequencies of a layer's rope, as a constant buffer shared by all layers of its kind.
    fn inv_freq(&mut self, ratio: u32) -> BufferIx {
        let c = &self.model.config;
        let (name, values) = if ratio == 0 {
            ("inv_freq", inverse_frequencies(c.rope_dim, f64::from(c.rope_base), None))
        } else {
            let yarn = Yarn {
                factor: f64::from(c.rope_scale),
                original_context: c.rope_orig_ctx as f64,
                beta_fast: f64::from(c.yarn_beta_fast),
                beta_slow: f64::from(c.yarn_beta_slow),
            };
            ("inv_freq_compressed", inverse_frequencies(c.rope_dim, f64::from(c.compress_rope_base), Some(yarn)))
        };
        let n = values.len();
        self.buffer(name, Elem::F32, Role::Constant(values), &[Extent::Fixed(n)])
    }

    #[allow(clippy::too_many_arguments)] // what, when, which table, and the layout
    fn rope(
        &mut self,
        label: &str,
        guard: Guard,
        x: BufferIx,
        heads: usize,
        d: usize,
        ratio: u32,
        inverse: bool,
    ) -> Result<()> {
        let (inv_freq, p) = (self.inv_freq(ratio), self.model.config.rope_dim);
        self.op("rope_tail", label, guard)
            .arg("x", x)
            .arg("inv_freq", inv_freq)
            .step("T", StepField::NTokens)
            .step("pos0", StepField::Pos0)
            .dims(&[("H", heads), ("D", d), ("P", p)])
            .scalar("inverse", f64::from(u8::from(inverse)))
            .push()
    }

    /// Hyper-connection in front of a sublayer: streams → (split, sublayer input).
    fn hc_pre(&mut self, which: &str, h: BufferIx) -> Result<(BufferIx, BufferIx)> {
        let c = &self.model.config;
        let (hidden, streams) = (c.hidden, c.streams);
        let width = 2 * streams + streams * streams;
        let (eps, iterations) = (f64::from(c.hc_eps), c.sinkhorn_iterations as f64);
        let t = StepField::NTokens;
        let (flat, mix) = (self.temp("hc_flat", t, streams * hidden), self.temp("hc_mix", t, width));
        let (split, x) = (self.temp("hc_split", t, width), self.temp("x", t, hidden));
        self.rms_norm(&format!("hc_{which}_norm"), t, h, flat, streams * hidden, None)?;
        self.matmul(&format!("hc_{which}_fn"), Guard::Always, t, flat, mix, streams * hidden, width)?;
        let (scale, base) =
            (self.tensor(&format!("hc_{which}_scale.weight")), self.tensor(&format!("hc_{which}_base.weight")));
        self.op("hc_split", &format!("hc_{which}_split"), Guard::Always)
            .arg("mix", mix)
            .arg("split", split)
            .weight("scale", &scale)
            .weight("base", &base)
            .step("T", t)
            .dims(&[("S", streams)])
            .scalar("eps", eps)
            .scalar("iterations", iterations)
            .push()?;
        self.weighted_sum(&format!("hc_{which}_sum"), t, h, split, x, width)?;
        Ok((split, x))
    }

    fn weighted_sum(
        &mut self,
        label: &str,
        rows: StepField,
        h: BufferIx,
        w: BufferIx,
        x: BufferIx,
        stride: usize,
    ) -> Result<()> {
        let (hidden, streams) = (self.model.config.hidden, self.model.config.streams);
        self.op("hc_weighted_sum", label, Guard::Always)
            .arg("h", h)
            .arg("w", w)
            .arg("x", x)
            .step("R", rows)
            .dims(&[("S", streams), ("D", hidden), ("W", stride)])
            .push()
    }

    fn hc_expand(
        &mut self,
        label: &str,
        y: BufferIx,
        y2: Option<BufferIx>,
        split: BufferIx,
        h: BufferIx,
    ) -> Result<()> {
        let (hidden, streams) = (self.model.config.hidden, self.model.config.streams);
        let mut p = self.op("hc_expand", label, Guard::Always).arg("y", y);
        if let Some(y2) = y2 {
            p = p.arg("y2", y2);
        }
        p.arg("split", split).arg("h", h).step("T", StepField::NTokens).dims(&[("S", streams), ("D", hidden)]).push()
    }

    fn fp8(&mut self, label: &str, guard: Guard, x: BufferIx, rows: StepField) -> Result<()> {
        let (d, p) = (self.model.config.head_dim, self.model.config.rope_dim);
        self.op("fp8_kv_round_trip", label, guard).arg("x", x).step("R", rows).dims(&[("D", d), ("P", p)]).push()
    }

    fn fp4(&mut self, label: &str, guard: Guard, x: BufferIx, rows: StepField, heads: usize) -> Result<()> {
        let d = self.model.config.indexer_dim;
        self.op("hadamard_fp4_round_trip", label, guard)
            .arg("x", x)
            .step("R", rows)
            .dims(&[("H", heads), ("D", d)])
            .push()
    }

    #[allow(clippy::too_many_arguments)] // what, when, from, to, and the ring's geometry
    fn store(
        &mut self,
        label: &str,
        guard: Guard,
        x: BufferIx,
        cache: BufferIx,
        (rows, row0): (StepField, StepField),
        d: usize,
        cap: usize,
    ) -> Result<()> {
        let round = f64::from(u8::from(self.options.numerics == Numerics::Ds4));
        self.op("store_rows", label, guard)
            .arg("x", x)
            .arg("cache", cache)
            .step("R", rows)
            .step("row0", row0)
            .dims(&[("D", d), ("cap", cap)])
            .scalar("round_f16", round)
            .push()
    }

    fn ffn_half(&mut self, layer: usize, h: BufferIx, tokens: BufferIx) -> Result<()> {
        let c = &self.model.config;
        let (hidden, experts, used, ff, vocab) = (c.hidden, c.experts, c.experts_used, c.expert_ff, c.vocab);
        let clamp = f64::from(c.swiglu_clamp[layer]);
        let (scale, normalise) = (f64::from(c.expert_weights_scale), f64::from(u8::from(c.expert_weights_norm)));
        let (always, t) = (Guard::Always, StepField::NTokens);
        let (split, x) = self.hc_pre("ffn", h)?;
        let f = self.temp("b", t, hidden);
        self.rms_norm("ffn_norm", t, x, f, hidden, Some("ffn_norm.weight"))?;
        let logits = self.temp("router_logits", t, experts);
        self.matmul("ffn_gate_inp", always, t, f, logits, hidden, experts)?;
        let (sel, w) = (self.temp_i32("router_sel", t, used), self.temp("router_w", t, used));
        let (table, bias) = (self.tensor("ffn_gate_tid2eid.weight"), self.tensor("exp_probs_b.bias"));
        let hash = c.is_hash(layer);
        let has_bias = self.model.tensor(&bias).is_some();
        // transformers adds 1e-20 instead of taking the larger, which is the same for any sum that matters.
        let floor = if self.options.numerics == Numerics::Ds4 { f64::from(router::FLOOR) } else { 1e-20 };
        let p = self.op(if hash { "router_hash" } else { "router_topk" }, "router", always);
        let p = p.arg("logits", logits).arg("sel", sel).arg("w", w).step("T", t);
        let p = p.scalar("scale", scale).scalar("floor", floor).scalar("normalise", normalise);
        let p = p.dims(&[("E", experts), ("U", used)]);
        match (hash, has_bias) {
            (true, _) => p.arg("ids", tokens).weight("table", &table).dims(&[("V", vocab)]).push()?,
            (false, true) => p.weight("bias", &bias).push()?,
            (false, false) => p.push()?,
        }
        let mid = self.temp("moe_mid", t, used * ff);
        let routed = self.temp("moe_out", t, hidden);
        let (gate, up, down) = (
            self.tensor("ffn_gate_exps.weight"),
            self.tensor("ffn_up_exps.weight"),
            self.tensor("ffn_down_exps.weight"),
        );
        self.op("moe_gate_up", "ffn_gate_up_exps", always)
            .arg("x", f)
            .arg("sel", sel)
            .arg("w", w)
            .arg("mid", mid)
            .weight("gate", &gate)
            .weight("up", &up)
            .step("T", t)
            .dims(&[("K", hidden), ("F", ff), ("E", experts), ("U", used)])
            .scalar("clamp", clamp)
            .push()?;
        self.op("moe_down", "ffn_down_exps", always)
            .arg("mid", mid)
            .arg("sel", sel)
            .arg("y", routed)
            .weight("down", &down)
            .step("T", t)
            .dims(&[("F", ff), ("N", hidden), ("E", experts), ("U", used)])
            .push()?;
        let (g, u, s) =
            (self.temp("shared_gate", t, ff), self.temp("shared_up", t, ff), self.temp("shared_mid", t, ff));
        self.matmul("ffn_gate_shexp", always, t, f, g, hidden, ff)?;
        self.matmul("ffn_up_shexp", always, t, f, u, hidden, ff)?;
        self.op("swiglu", "ffn_shexp_swiglu", always)
            .arg("g", g)
            .arg("u", u)
            .arg("h", s)
            .step("T", t)
            .dims(&[("F", ff)])
            .scalar("clamp", clamp)
            .push()?;
        let shared = self.temp("y", t, hidden);
        self.matmul("ffn_down_shexp", always, t, s, shared, ff, hidden)?;
        self.hc_expand("hc_ffn_expand", routed, Some(shared), split, h)
    }

    fn head(&mut self, h: BufferIx) -> Result<BufferIx> {
        let c = &self.model.config;
        let (hidden, streams, vocab, hc_eps) = (c.hidden, c.streams, c.vocab, f64::from(c.hc_eps));
        let r = StepField::NOutputs;
        let (last, flat) = (self.temp("head_h", r, streams * hidden), self.temp("head_flat", r, streams * hidden));
        let (p, w) = (self.temp("head_mix", r, streams), self.temp("head_w", r, streams));
        let (x, n) = (self.temp("head_x", r, hidden), self.temp("head_norm", r, hidden));
        let logits = self.buffer("logits", Elem::F32, Role::Output, &[Extent::Step(r), Extent::Fixed(vocab)]);
        self.op("take_rows", "output_rows", Guard::Always)
            .arg("x", h)
            .arg("y", last)
            .step("T", StepField::NTokens)
            .step("R", r)
            .dims(&[("D", streams * hidden)])
            .push()?;
        self.rms_norm("output_hc_norm", r, last, flat, streams * hidden, None)?;
        self.matmul("output_hc_fn", Guard::Always, r, flat, p, streams * hidden, streams)?;
        self.op("output_hc_weights", "output_hc_weights", Guard::Always)
            .arg("p", p)
            .arg("w", w)
            .weight("scale", "output_hc_scale.weight")
            .weight("base", "output_hc_base.weight")
            .step("R", r)
            .dims(&[("S", streams)])
            .scalar("eps", hc_eps)
            .push()?;
        self.weighted_sum("output_hc_sum", r, last, w, x, streams)?;
        self.rms_norm("output_norm", r, x, n, hidden, Some("output_norm.weight"))?;
        self.matmul("output", Guard::Always, r, n, logits, hidden, vocab)?;
        Ok(logits)
    }
}
