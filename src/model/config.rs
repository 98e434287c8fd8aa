//! The model's hyper-parameters, from the file's metadata (docs/model.md §1.1).
//!
//! **Fixed**, because the kernels' inner loops are written for them; any other value is a misfit: key and value length
//! 512, rotary dims 64, one key-value head, window 128, four streams, indexer key length 128, one shared expert, no
//! expert groups, compress ratios of 0, 4 or 128.
//!
//! **From the file**, under these rules:
//! - `hidden`, `q_lora`, `expert_ff` and `o_groups · o_lora` are multiples of 32, the smallest block that activations are
//!   quantised in. Formats with larger blocks demand more of a row; reading the file checks that tensor by tensor.
//! - `heads` is a multiple of `o_groups`; `experts_used` ≤ `experts`.
//! - counts are at least 1 (`hash_layers` may be 0) and at most 2^20 (`vocab` and `top_k`: 2^31 − 1, so that ids fit an
//!   i32; Sinkhorn iterations: 1000), which also keeps every product of two of them within 64 bits.
//! - per-layer arrays have at least `layers` entries; more are ignored (converters append the draft layer's).
//! - floats are finite and positive, rotary bases above 1, the YaRN factor at least 1, `beta_fast` ≥ `beta_slow`.

use serde::Serialize;

use super::gguf::{Array, Gguf, Value};
use super::misfit::Misfit;

pub const HEAD_DIM: usize = 512;
pub const ROPE_DIM: usize = 64;
pub const WINDOW: usize = 128;
pub const STREAMS: usize = 4;
pub const INDEXER_DIM: usize = 128;
/// Width of a hyper-connection's mix: pre and post weights of each stream, and the stream-to-stream matrix.
pub const HC_MIX: usize = 2 * STREAMS + STREAMS * STREAMS;

const MAX_WIDTH: u64 = 1 << 20;
const MAX_ID: u64 = i32::MAX as u64;

/// Everything of docs/model.md §1.1, checked against the rules above.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    pub layers: usize,
    /// Width of one residual stream.
    pub hidden: usize,
    pub vocab: usize,
    /// Query heads; there is one key-value head.
    pub heads: usize,
    /// 512, of keys and values alike.
    pub head_dim: usize,
    /// 64: the last dims of a head.
    pub rope_dim: usize,
    pub q_lora: usize,
    /// Rows per output group.
    pub o_lora: usize,
    pub o_groups: usize,
    pub experts: usize,
    pub experts_used: usize,
    /// Hidden width of an expert, routed or shared.
    pub expert_ff: usize,
    /// Layers 0..n route by token id instead of by score. May exceed `layers`: then all do.
    pub hash_layers: usize,
    /// 128 positions, the current one included.
    pub window: usize,
    pub indexer_heads: usize,
    /// 128.
    pub indexer_dim: usize,
    pub indexer_top_k: usize,
    /// 4 residual streams.
    pub streams: usize,
    pub sinkhorn_iterations: usize,
    pub hc_eps: f32,
    /// One per layer: 0 (window only), 4 (compressed, indexed) or 128 (compressed).
    pub ratios: Vec<u32>,
    /// One per layer.
    pub swiglu_clamp: Vec<f32>,
    /// Rotary base of layers with ratio 0.
    pub rope_base: f32,
    /// YaRN factor of the other layers.
    pub rope_scale: f32,
    /// Tokens of context before YaRN's extension.
    pub rope_orig_ctx: u64,
    pub yarn_beta_fast: f32,
    pub yarn_beta_slow: f32,
    /// Rotary base of layers with ratio 4 or 128.
    pub compress_rope_base: f32,
    pub expert_weights_scale: f32,
    pub expert_weights_norm: bool,
    pub rms_eps: f32,
    /// Longest context in tokens that the file announces, if it does.
    pub context_length: Option<u64>,
}

impl Config {
    /// Most tokens of a context, as far as the file says.
    pub fn longest_context(&self) -> usize {
        self.context_length.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX)
    }

    /// Width of all streams together: 4 · hidden.
    pub fn hc_dim(&self) -> usize {
        self.streams * self.hidden
    }

    /// Width of a token's queries: heads · 512.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of one group's input to the grouped output projection: (heads / groups) · 512.
    pub fn group_dim(&self) -> usize {
        self.heads / self.o_groups * self.head_dim
    }

    /// Width of the grouped output projection's result: groups · rank.
    pub fn o_low_dim(&self) -> usize {
        self.o_groups * self.o_lora
    }

    /// Whether the layer's experts come from the token id.
    pub fn is_hash(&self, layer: usize) -> bool {
        layer < self.hash_layers
    }

    /// Reads the metadata, adding to `misfits` whatever is missing, of another type or against the rules. The sizes
    /// hold what could be read, so that the tensors can be judged in the same pass; the config needs all of it.
    pub(super) fn read(gguf: &Gguf, misfits: &mut Vec<Misfit>) -> (Sizes, Option<Config>) {
        let before = misfits.len();
        let mut r = Reader { gguf, misfits };
        let layers = r.count("block_count", 1, MAX_WIDTH);
        let hidden = r.width("embedding_length");
        let vocab = r.count("vocab_size", 1, MAX_ID);
        let heads = r.count("attention.head_count", 1, MAX_WIDTH);
        r.fixed("attention.head_count_kv", 1);
        r.fixed("attention.key_length", HEAD_DIM as u64);
        r.fixed("attention.value_length", HEAD_DIM as u64);
        r.fixed("rope.dimension_count", ROPE_DIM as u64);
        let q_lora = r.width("attention.q_lora_rank");
        let o_lora = r.count("attention.output_lora_rank", 1, MAX_WIDTH);
        let o_groups = r.count("attention.output_group_count", 1, MAX_WIDTH);
        let experts = r.count("expert_count", 1, MAX_WIDTH);
        let experts_used = r.count("expert_used_count", 1, MAX_WIDTH);
        let expert_ff = r.width("expert_feed_forward_length");
        r.fixed("expert_shared_count", 1);
        let hash_layers = r.count("hash_layer_count", 0, MAX_WIDTH);
        r.absent_or_zero("expert_group_count");
        r.absent_or_zero("expert_group_used_count");
        r.fixed("attention.sliding_window", WINDOW as u64);
        let indexer_heads = r.count("attention.indexer.head_count", 1, MAX_WIDTH);
        r.fixed("attention.indexer.key_length", INDEXER_DIM as u64);
        let indexer_top_k = r.count("attention.indexer.top_k", 1, MAX_ID);
        r.fixed("hyper_connection.count", STREAMS as u64);
        let sinkhorn_iterations = r.count("hyper_connection.sinkhorn_iterations", 1, 1000);
        let hc_eps = r.float("hyper_connection.epsilon", 0.0);
        let ratios = r.ratios(layers);
        let swiglu_clamp = r.clamps(layers);
        let rope_base = r.float("rope.freq_base", 1.0);
        let rope_scale = r.at_least_one("rope.scaling.factor");
        let rope_orig_ctx = r.count("rope.scaling.original_context_length", 1, u64::from(u32::MAX));
        let yarn_beta_fast = r.float("rope.scaling.yarn_beta_fast", 0.0);
        let yarn_beta_slow = r.float("rope.scaling.yarn_beta_slow", 0.0);
        let compress_rope_base = r.float("attention.compress_rope_freq_base", 1.0);
        let expert_weights_scale = r.float("expert_weights_scale", 0.0);
        let expert_weights_norm = r.boolean("expert_weights_norm");
        let rms_eps = r.float("attention.layer_norm_rms_epsilon", 0.0);
        let context_length = r.optional_count("context_length");

        r.relation("attention.head_count", heads, o_groups, |h, g| h.is_multiple_of(g), "a multiple of the {} groups");
        r.relation("expert_used_count", experts_used, experts, |u, e| u <= e, "at most the {} experts");
        if let (Some(g), Some(o)) = (o_groups, o_lora)
            && !(g * o).is_multiple_of(32)
        {
            r.misfit("attention.output_lora_rank", format!("{g} groups × rank to be a multiple of 32"), o);
        }
        if let (Some(fast), Some(slow)) = (yarn_beta_fast, yarn_beta_slow)
            && fast < slow
        {
            r.misfit("rope.scaling.yarn_beta_fast", format!("at least yarn_beta_slow, {slow}"), fast);
        }

        let sizes = Sizes {
            layers,
            hidden,
            vocab,
            heads,
            q_lora,
            o_lora,
            o_groups,
            experts,
            experts_used,
            expert_ff,
            hash_layers,
            indexer_heads,
            ratios: ratios.clone(),
        };
        let complete = || {
            Some(Config {
                layers: layers? as usize,
                hidden: hidden? as usize,
                vocab: vocab? as usize,
                heads: heads? as usize,
                head_dim: HEAD_DIM,
                rope_dim: ROPE_DIM,
                q_lora: q_lora? as usize,
                o_lora: o_lora? as usize,
                o_groups: o_groups? as usize,
                experts: experts? as usize,
                experts_used: experts_used? as usize,
                expert_ff: expert_ff? as usize,
                hash_layers: hash_layers? as usize,
                window: WINDOW,
                indexer_heads: indexer_heads? as usize,
                indexer_dim: INDEXER_DIM,
                indexer_top_k: indexer_top_k? as usize,
                streams: STREAMS,
                sinkhorn_iterations: sinkhorn_iterations? as usize,
                hc_eps: hc_eps?,
                ratios: ratios?,
                swiglu_clamp: swiglu_clamp?,
                rope_base: rope_base?,
                rope_scale: rope_scale?,
                rope_orig_ctx: rope_orig_ctx?,
                yarn_beta_fast: yarn_beta_fast?,
                yarn_beta_slow: yarn_beta_slow?,
                compress_rope_base: compress_rope_base?,
                expert_weights_scale: expert_weights_scale?,
                expert_weights_norm: expert_weights_norm?,
                rms_eps: rms_eps?,
                context_length,
            })
        };
        let config = if misfits.len() == before { complete() } else { None };
        (sizes, config)
    }
}

/// The values that the tensor table's dims are made of; `None` where the metadata did not yield one.
#[derive(Clone, Debug, Default)]
pub(super) struct Sizes {
    pub layers: Option<u64>,
    pub hidden: Option<u64>,
    pub vocab: Option<u64>,
    pub heads: Option<u64>,
    pub q_lora: Option<u64>,
    pub o_lora: Option<u64>,
    pub o_groups: Option<u64>,
    pub experts: Option<u64>,
    pub experts_used: Option<u64>,
    pub expert_ff: Option<u64>,
    pub hash_layers: Option<u64>,
    pub indexer_heads: Option<u64>,
    pub ratios: Option<Vec<u32>>,
}

impl Sizes {
    pub fn ratio(&self, layer: u64) -> Option<u32> {
        self.ratios.as_ref()?.get(layer as usize).copied()
    }
}

/// Typed reads of `deepseek4.*`; each failure is a misfit and a `None`.
struct Reader<'a> {
    gguf: &'a Gguf,
    misfits: &'a mut Vec<Misfit>,
}

impl Reader<'_> {
    fn misfit(&mut self, key: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) {
        self.misfits.push(Misfit::new(format!("deepseek4.{key}"), expected, found));
    }

    /// The value, where `pick` accepts it; a misfit saying `expected` where it does not.
    fn value<T>(&mut self, key: &str, expected: &str, pick: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let gguf = self.gguf;
        match gguf.get(&format!("deepseek4.{key}")) {
            None => self.misfit(key, expected, "no such key"),
            Some(v) => match pick(v) {
                Some(t) => return Some(t),
                None => self.misfit(key, expected, format!("{v} ({})", v.type_name())),
            },
        }
        None
    }

    fn count(&mut self, key: &str, min: u64, max: u64) -> Option<u64> {
        self.value(key, &format!("a u32 or u64 in {min}..={max}"), |v| v.as_count().filter(|n| (min..=max).contains(n)))
    }

    /// The width of rows that activations are quantised along.
    fn width(&mut self, key: &str) -> Option<u64> {
        self.value(key, &format!("a u32 or u64 in 32..={MAX_WIDTH} and a multiple of 32"), |v| {
            v.as_count().filter(|n| (32..=MAX_WIDTH).contains(n) && n.is_multiple_of(32))
        })
    }

    fn fixed(&mut self, key: &str, expected: u64) {
        self.value(key, &expected.to_string(), |v| v.as_count().filter(|n| *n == expected));
    }

    fn absent_or_zero(&mut self, key: &str) {
        if self.gguf.get(&format!("deepseek4.{key}")).is_some() {
            self.value(key, "0 or no such key", |v| v.as_count().filter(|n| *n == 0));
        }
    }

    fn optional_count(&mut self, key: &str) -> Option<u64> {
        self.gguf.get(&format!("deepseek4.{key}"))?;
        self.value(key, "a u32 or u64, 1 or more", |v| v.as_count().filter(|n| *n > 0))
    }

    fn float(&mut self, key: &str, above: f32) -> Option<f32> {
        self.value(key, &format!("a finite f32 above {above}"), |v| float(v).filter(|f| *f > above))
    }

    fn at_least_one(&mut self, key: &str) -> Option<f32> {
        self.value(key, "a finite f32, 1 or more", |v| float(v).filter(|f| *f >= 1.0))
    }

    fn boolean(&mut self, key: &str) -> Option<bool> {
        self.value(key, "a bool", Value::as_bool)
    }

    fn ratios(&mut self, layers: Option<u64>) -> Option<Vec<u32>> {
        let key = "attention.compress_ratios";
        let mut ratios = self.value(key, "an array of i32 or u32", |v| match v.as_array()? {
            Array::U32(v) => Some(v.iter().map(|&r| i64::from(r)).collect::<Vec<_>>()),
            Array::I32(v) => Some(v.iter().map(|&r| i64::from(r)).collect()),
            _ => None,
        })?;
        self.per_layer(key, &mut ratios, layers)?;
        let wrong: Vec<_> = (0..ratios.len()).filter(|&i| !matches!(ratios[i], 0 | 4 | 128)).collect();
        for &i in wrong.iter().take(8) {
            self.misfit(key, "0, 4 or 128 in every layer", format!("{} in layer {i}", ratios[i]));
        }
        wrong.is_empty().then(|| ratios.iter().map(|&r| r as u32).collect())
    }

    fn clamps(&mut self, layers: Option<u64>) -> Option<Vec<f32>> {
        let key = "swiglu_clamp_exp";
        let mut clamps = self.value(key, "an array of f32 or f64", |v| match v.as_array()? {
            Array::F32(v) => Some(v.clone()),
            Array::F64(v) => Some(v.iter().map(|&c| c as f32).collect()),
            _ => None,
        })?;
        self.per_layer(key, &mut clamps, layers)?;
        let wrong: Vec<_> = (0..clamps.len()).filter(|&i| !(clamps[i].is_finite() && clamps[i] > 0.0)).collect();
        for &i in wrong.iter().take(8) {
            self.misfit(key, "a finite value above 0 in every layer", format!("{} in layer {i}", clamps[i]));
        }
        wrong.is_empty().then_some(clamps)
    }

    /// Cuts a per-layer array to the layers; a shorter one is a misfit.
    fn per_layer<T>(&mut self, key: &str, values: &mut Vec<T>, layers: Option<u64>) -> Option<()> {
        let layers = layers? as usize;
        if values.len() < layers {
            self.misfit(key, format!("an entry for each of the {layers} layers"), format!("{} entries", values.len()));
            return None;
        }
        values.truncate(layers);
        Some(())
    }

    /// A rule between two counts, judged where both are there; `{}` in `expected` stands for the second.
    fn relation(
        &mut self,
        key: &str,
        a: Option<u64>,
        b: Option<u64>,
        holds: impl Fn(u64, u64) -> bool,
        expected: &str,
    ) {
        if let (Some(a), Some(b)) = (a, b)
            && !holds(a, b)
        {
            self.misfit(key, expected.replace("{}", &b.to_string()), a);
        }
    }
}

fn float(v: &Value) -> Option<f32> {
    let f = match v {
        Value::F32(f) => *f,
        Value::F64(f) => *f as f32,
        _ => return None,
    };
    f.is_finite().then_some(f)
}
