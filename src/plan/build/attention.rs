//! The attention half of a layer: compressors, indexer and the three kinds of attention.

use super::Builder;
use crate::error::Result;
use crate::ops::compressor_state::EMPTY_SCORE;
use crate::plan::{BufferIx, Guard, Numerics, StepField};

impl Builder<'_> {
    /// A compressor: projections of the normed input `a`, pooled rows into `cache`, state for the next step.
    fn compressor(&mut self, name: &str, a: BufferIx, ratio: u32, d: usize, cache: BufferIx, cap: usize) -> Result<()> {
        let c = &self.model.config;
        let (hidden, rope_dim, eps) = (c.hidden, c.rope_dim, f64::from(c.rms_eps));
        let halves = if ratio == 4 { 2 } else { 1 };
        let (width, t) = (halves * d, StepField::NTokens);
        let (rows_field, row0_field) = StepField::rows_of(ratio);
        let (k, g) = (self.temp("comp_k", t, width), self.temp("comp_g", t, width));
        self.matmul(&format!("{name}_kv"), Guard::Always, t, a, k, hidden, width)?;
        self.matmul(&format!("{name}_gate"), Guard::Always, t, a, g, hidden, width)?;
        let state_rows = halves * ratio as usize;
        let state_k = self.cache(&format!("{name}_state_k"), state_rows, width, 0.0);
        let state_s = self.cache(&format!("{name}_state_s"), state_rows, width, EMPTY_SCORE);
        let rows = self.temp("comp_rows", rows_field, d);
        let inv_freq = self.inv_freq(ratio);
        let (ape, norm) = (self.tensor(&format!("{name}_ape.weight")), self.tensor(&format!("{name}_norm.weight")));
        self.op("compressor_prefill", &format!("{name}_pool"), Guard::Rows(rows_field))
            .arg("k", k)
            .arg("g", g)
            .arg("state_k", state_k)
            .arg("state_s", state_s)
            .arg("inv_freq", inv_freq)
            .arg("rows", rows)
            .weight("ape", &ape)
            .weight("norm", &norm)
            .step("T", t)
            .step("pos0", StepField::Pos0)
            .step("R", rows_field)
            .dims(&[("D", d), ("C", halves), ("P", rope_dim), ("ratio", ratio as usize)])
            .scalar("eps", eps)
            .push()?;
        self.op("compressor_state", &format!("{name}_state"), Guard::Always)
            .arg("k", k)
            .arg("g", g)
            .arg("state_k", state_k)
            .arg("state_s", state_s)
            .weight("ape", &ape)
            .step("T", t)
            .step("pos0", StepField::Pos0)
            .dims(&[("D", d), ("C", halves), ("ratio", ratio as usize)])
            .push()?;
        if self.options.numerics == Numerics::Ds4 {
            if d == self.model.config.head_dim {
                self.fp8(&format!("{name}_fp8"), Guard::Rows(rows_field), rows, rows_field)?;
            } else {
                self.fp4(&format!("{name}_fp4"), Guard::Rows(rows_field), rows, rows_field, 1)?;
            }
        }
        self.store(&format!("{name}_store"), Guard::Rows(rows_field), rows, cache, (rows_field, row0_field), d, cap)
    }

    /// A layer's first half, from and into the residual streams.
    pub(super) fn attention_half(&mut self, layer: usize, h: BufferIx) -> Result<()> {
        let c = &self.model.config;
        let (hidden, heads, d, q_lora) = (c.hidden, c.heads, c.head_dim, c.q_lora);
        let (groups, o_lora, window, ratio) = (c.o_groups, c.o_lora, c.window, c.ratios[layer]);
        let eps = f64::from(c.rms_eps);
        let (always, t) = (Guard::Always, StepField::NTokens);
        let (split, x) = self.hc_pre("attn", h)?;
        let a = self.temp("a", t, hidden);
        self.rms_norm("attn_norm", t, x, a, hidden, Some("attn_norm.weight"))?;
        let (qr, kvr) = (self.temp("qr", t, q_lora), self.temp("kvr", t, d));
        let (qrn, kv, q) = (self.temp("qrn", t, q_lora), self.temp("kv", t, d), self.temp("q", t, heads * d));
        self.matmul("attn_q_a", always, t, a, qr, hidden, q_lora)?;
        self.matmul("attn_kv", always, t, a, kvr, hidden, d)?;
        self.rms_norm("attn_q_a_norm", t, qr, qrn, q_lora, Some("attn_q_a_norm.weight"))?;
        self.rms_norm("attn_kv_a_norm", t, kvr, kv, d, Some("attn_kv_a_norm.weight"))?;
        self.matmul("attn_q_b", always, t, qrn, q, q_lora, heads * d)?;
        self.op("head_rms_norm", "attn_q_norm", always)
            .arg("x", q)
            .step("T", t)
            .dims(&[("H", heads), ("D", d)])
            .scalar("eps", eps)
            .push()?;
        self.rope("attn_q_rope", always, q, heads, d, ratio, false)?;
        self.rope("attn_kv_rope", always, kv, 1, d, ratio, false)?;
        if self.options.numerics == Numerics::Ds4 {
            self.fp8("attn_kv_fp8", always, kv, t)?;
        }
        // The ring holds the whole chunk and the window before it, so attention reads the ring alone.
        let cap = (self.options.max_tokens + window).next_multiple_of(256);
        let ring = self.cache("attn_ring", cap, d, 0.0);
        self.store("attn_kv_store", always, kv, ring, (t, StepField::Pos0), d, cap)?;

        let o = self.temp("o", t, heads * d);
        let comp_cap = if ratio == 0 { 0 } else { self.options.context / ratio as usize + 2 };
        match ratio {
            0 => self.attention("attention_raw", always, [q, ring, o], None, None, cap, 0, ratio)?,
            128 => {
                let comp = self.cache("attn_comp", comp_cap, d, 0.0);
                self.compressor("attn_compressor", a, ratio, d, comp, comp_cap)?;
                self.attention("attention_mixed", always, [q, ring, o], Some(comp), None, cap, comp_cap, ratio)?;
            }
            _ => {
                let comp = self.cache("attn_comp", comp_cap, d, 0.0);
                self.compressor("attn_compressor", a, ratio, d, comp, comp_cap)?;
                let ids = self.indexer(a, qrn, ratio, comp_cap)?;
                self.attention(
                    "attention_mixed",
                    Guard::NotSelecting,
                    [q, ring, o],
                    Some(comp),
                    None,
                    cap,
                    comp_cap,
                    ratio,
                )?;
                self.attention(
                    "attention_indexed",
                    Guard::Selecting,
                    [q, ring, o],
                    Some(comp),
                    Some(ids),
                    cap,
                    comp_cap,
                    ratio,
                )?;
            }
        }
        self.rope("attn_o_rope", always, o, heads, d, ratio, true)?;
        let (low, y) = (self.temp("low", t, groups * o_lora), self.temp("y", t, hidden));
        let out_a = self.tensor("attn_output_a.weight");
        self.op("matmul_grouped", "attn_output_a", always)
            .arg("x", o)
            .arg("y", low)
            .weight("w", &out_a)
            .step("T", t)
            .dims(&[("G", groups), ("K", heads / groups * d), ("N", o_lora)])
            .push()?;
        self.matmul("attn_output_b", always, t, low, y, groups * o_lora, hidden)?;
        self.hc_expand("hc_attn_expand", y, None, split, h)
    }

    /// Indexer rows always; query, scores and selection when there is more to see than top-k.
    fn indexer(&mut self, a: BufferIx, qrn: BufferIx, ratio: u32, comp_cap: usize) -> Result<BufferIx> {
        let c = &self.model.config;
        let (hidden, q_lora, heads, d, top_k) = (c.hidden, c.q_lora, c.indexer_heads, c.indexer_dim, c.indexer_top_k);
        let (t, when) = (StepField::NTokens, Guard::Selecting);
        let idx = self.cache("indexer_rows", comp_cap, d, 0.0);
        self.compressor("indexer_compressor", a, ratio, d, idx, comp_cap)?;
        let (iq, iw) = (self.temp("iq", t, heads * d), self.temp("iw", t, heads));
        let (scores, ids) = (self.temp("index_scores", t, comp_cap), self.temp_i32("index_ids", t, top_k));
        self.matmul("indexer.attn_q_b", when, t, qrn, iq, q_lora, heads * d)?;
        self.rope("indexer_q_rope", when, iq, heads, d, ratio, false)?;
        if self.options.numerics == Numerics::Ds4 {
            self.fp4("indexer_q_fp4", when, iq, t, heads)?;
        }
        self.matmul("indexer.proj", when, t, a, iw, hidden, heads)?;
        self.op("indexer_scores", "indexer_scores", when)
            .arg("iq", iq)
            .arg("iw", iw)
            .arg("idx", idx)
            .arg("s", scores)
            .step("T", t)
            .step("pos0", StepField::Pos0)
            .dims(&[("H", heads), ("D", d), ("C", comp_cap)])
            .scalar("scale", 1.0 / ((d * heads) as f64).sqrt())
            .push()?;
        self.op("indexer_topk", "indexer_topk", when)
            .arg("s", scores)
            .arg("ids", ids)
            .step("T", t)
            .step("pos0", StepField::Pos0)
            .dims(&[("C", comp_cap), ("k", top_k)])
            .push()?;
        Ok(ids)
    }

    #[allow(clippy::too_many_arguments)] // the union of three ops' arguments
    fn attention(
        &mut self,
        op: &'static str,
        guard: Guard,
        [q, ring, o]: [BufferIx; 3],
        comp: Option<BufferIx>,
        ids: Option<BufferIx>,
        cap: usize,
        comp_cap: usize,
        ratio: u32,
    ) -> Result<()> {
        let c = &self.model.config;
        let (heads, d, window, top_k) = (c.heads, c.head_dim, c.window, c.indexer_top_k);
        let sinks = self.tensor("attn_sinks.weight");
        let mut p = self
            .op(op, op, guard)
            .arg("q", q)
            .arg("ring", ring)
            .arg("o", o)
            .weight("sinks", &sinks)
            .step("T", StepField::NTokens)
            .step("pos0", StepField::Pos0)
            .dims(&[("H", heads), ("D", d), ("cap", cap), ("window", window)])
            .scalar("scale", 1.0 / (d as f64).sqrt());
        if let Some(comp) = comp {
            p = p.arg("comp", comp).dims(&[("C", comp_cap), ("ratio", ratio as usize)]);
        }
        if let Some(ids) = ids {
            p = p.arg("ids", ids).dims(&[("k", top_k)]);
        }
        p.push()
    }
}
