//! `assay synth OUT`: our own model files.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::interrupt::Interrupt;
use super::output;
use crate::model::DType;
use crate::model::synth::{self, Bias, Data, Shape, Spec, TypeRule};
use crate::words::{count, size};
use crate::{Error, Result};

/// Write a model file of any shape with random weights, the same bytes on every machine
///
/// Without options: DeepSeek V4 Flash's shape in the types of the published 2-bit files, with the layers' tensors
/// sharing their bytes, 3.6 GB (86.7 GB with --data full). A forward pass over it reads as many bytes as over the real
/// file.
#[derive(clap::Args, Debug)]
pub struct Synth {
    /// Where to write
    out: PathBuf,
    /// Replace a file that is there already, once the new one is whole
    #[arg(long)]
    force: bool,
    /// The shape that the options below change
    #[arg(long, value_enum, default_value = "flash")]
    shape: BaseShape,
    /// Seed of the weights
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Share bytes between layers, write all of them, or leave large tensors as holes (for timing `inspect` only)
    #[arg(long, value_enum, default_value = "aliased")]
    data: DataArg,
    /// The same as --data full
    #[arg(long, conflicts_with = "data")]
    no_alias: bool,
    /// Number of layers; without --ratios the published order of ratios is continued
    #[arg(long)]
    layers: Option<usize>,
    /// Compress ratio of each layer, 0, 4 or 128; repeated up to --layers
    #[arg(long, value_delimiter = ',', value_name = "R,…")]
    ratios: Option<Vec<u32>>,
    /// Q4_K experts in the last K layers
    #[arg(long, default_value_t = 0, value_name = "K")]
    q4_layers: usize,
    /// Type of some tensors, e.g. `token_embd=q8_0`, `attn_output_*=f16`, `ffn_*_exps@3-5=q4_k`; later ones win
    #[arg(long = "type", value_name = "ROLE[@LAYERS]=TYPE")]
    types: Vec<String>,
    /// Layers with a router bias: all, those that are not hash-routed, or none
    #[arg(long, value_enum, default_value = "scored")]
    router_bias: BiasArg,
    /// Width of a residual stream
    #[arg(long)]
    hidden: Option<usize>,
    /// Tokens in the vocabulary, 263 or more
    #[arg(long)]
    vocab: Option<usize>,
    /// Query heads
    #[arg(long)]
    heads: Option<usize>,
    /// Rank of the query projection
    #[arg(long)]
    q_lora: Option<usize>,
    /// Rank of the output projection, per group
    #[arg(long)]
    o_lora: Option<usize>,
    /// Groups of the output projection
    #[arg(long)]
    o_groups: Option<usize>,
    /// Routed experts
    #[arg(long)]
    experts: Option<usize>,
    /// Routed experts that a token uses
    #[arg(long)]
    experts_used: Option<usize>,
    /// Hidden width of an expert
    #[arg(long)]
    expert_ff: Option<usize>,
    /// Layers that route by token id
    #[arg(long)]
    hash_layers: Option<usize>,
    /// Heads of the indexer
    #[arg(long)]
    indexer_heads: Option<usize>,
    /// Rows that the indexer selects
    #[arg(long)]
    top_k: Option<usize>,
    /// Print one JSON object (schema assay.synth/1)
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BaseShape {
    /// DeepSeek V4 Flash
    Flash,
    /// Four layers at the smallest widths, 3.2 MB
    Small,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DataArg {
    Aliased,
    Full,
    Sparse,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BiasArg {
    All,
    Scored,
    None,
}

impl Synth {
    pub fn run(&self) -> Result<u8> {
        let spec = self.spec()?;
        // A link too, whatever it leads to.
        if !self.force && self.out.symlink_metadata().is_ok() {
            return Err(Error::usage(format!("{} exists already", self.out.display()))
                .expected("the name of a file that does not exist yet")
                .hint("name another file, or replace this one with --force"));
        }
        let bar = progress_bar();
        let interrupt = Interrupt::watch(self.json);
        interrupt.hold();
        let summary = synth::write(&spec, &self.out, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
            if interrupt.came() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        bar.finish_and_clear();
        if self.json {
            let body = json!({
                "file": self.out,
                "tensors": summary.tensors,
                "bytes": summary.bytes,
                "bytes_made": summary.made,
                "seed": spec.seed,
                "data": spec.data.name(),
            });
            output::json("assay.synth/1", body)?;
        } else {
            output::println(format_args!(
                "{}: {}, {}, {} of weights made from seed {}",
                self.out.display(),
                count(summary.tensors, "tensor"),
                size(summary.bytes),
                size(summary.made),
                spec.seed,
            ))?;
        }
        Ok(0)
    }

    fn spec(&self) -> Result<Spec> {
        const MOST: usize = 1 << 20;
        if let Some(layers) = self.layers.filter(|n| *n > MOST) {
            return Err(Error::usage("--layers is out of range").expected(format!("at most {MOST}")).found(layers));
        }
        let base = match self.shape {
            BaseShape::Flash => Shape::flash(),
            BaseShape::Small => Shape::small(),
        };
        let ratios = match (&self.ratios, self.layers) {
            (Some(ratios), layers) => ratios.iter().copied().cycle().take(layers.unwrap_or(ratios.len())).collect(),
            (None, Some(layers)) => synth::flash_ratios(layers),
            (None, None) => base.ratios,
        };
        let layers = ratios.len();
        if self.q4_layers > layers {
            return Err(Error::usage("--q4-layers asks for more layers than there are")
                .expected(format!("at most {layers}"))
                .found(self.q4_layers));
        }
        let mut types = Vec::new();
        if self.q4_layers > 0 {
            let last = Some((layers - self.q4_layers, layers - 1));
            types.push(TypeRule { pattern: "ffn_*_exps".into(), layers: last, dtype: DType::Q4_K });
        }
        for rule in &self.types {
            types.push(type_rule(rule)?);
        }
        let shape = Shape {
            ratios,
            hidden: self.hidden.unwrap_or(base.hidden),
            vocab: self.vocab.unwrap_or(base.vocab),
            heads: self.heads.unwrap_or(base.heads),
            q_lora: self.q_lora.unwrap_or(base.q_lora),
            o_lora: self.o_lora.unwrap_or(base.o_lora),
            o_groups: self.o_groups.unwrap_or(base.o_groups),
            experts: self.experts.unwrap_or(base.experts),
            experts_used: self.experts_used.unwrap_or(base.experts_used),
            expert_ff: self.expert_ff.unwrap_or(base.expert_ff),
            hash_layers: self.hash_layers.unwrap_or(base.hash_layers),
            indexer_heads: self.indexer_heads.unwrap_or(base.indexer_heads),
            indexer_top_k: self.top_k.unwrap_or(base.indexer_top_k),
        };
        let data = match (self.no_alias, self.data) {
            (true, _) | (_, DataArg::Full) => Data::Full,
            (_, DataArg::Aliased) => Data::Aliased,
            (_, DataArg::Sparse) => Data::Sparse,
        };
        let router_bias = match self.router_bias {
            BiasArg::All => Bias::All,
            BiasArg::Scored => Bias::Scored,
            BiasArg::None => Bias::None,
        };
        Ok(Spec { shape, types, router_bias, data, seed: self.seed })
    }
}

/// `ROLE[@LAYERS]=TYPE`, LAYERS being `3` or `3-5`.
fn type_rule(text: &str) -> Result<TypeRule> {
    let wrong = || {
        Error::usage("a --type rule cannot be read")
            .expected("ROLE[@LAYERS]=TYPE, as in `token_embd=q8_0` or `ffn_*_exps@3-5=q4_k`")
            .found(text)
    };
    let (tensors, dtype) = text.split_once('=').ok_or_else(wrong)?;
    let dtype = DType::parse(dtype).ok_or_else(wrong)?;
    let (pattern, layers) = match tensors.split_once('@') {
        None => (tensors, None),
        Some((pattern, layers)) => {
            let (first, last) = layers.split_once('-').unwrap_or((layers, layers));
            let number = |n: &str| usize::from_str(n).map_err(|_| wrong());
            (pattern, Some((number(first)?, number(last)?)))
        }
    };
    Ok(TypeRule { pattern: pattern.to_owned(), layers, dtype })
}

/// On stderr, and only on a terminal.
fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes} ({eta})");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
