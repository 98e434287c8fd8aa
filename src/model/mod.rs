//! The model file: what it holds, and whether it is a deepseek4 model that this crate can run.
//!
//! Reading order: [`gguf`] (the container, strictly), [`quant`] (block formats), [`config`] (hyper-parameters),
//! [`layout`] (the tensor table), then [`Survey`] and [`Model`] here; [`tokenizer`] and [`chat`] turn text into tokens,
//! [`synth`] writes files with random weights for tests and measurements.
//!
//! Two kinds of refusal are kept apart. A *malformed* file is refused at the first thing that is wrong (exit 3); a
//! well-formed file of a model that does not fit is refused with every misfit at once (exit 1).

pub mod census;
pub mod chat;
pub mod config;
mod fit;
pub mod gguf;
mod grid;
pub mod layout;
pub mod misfit;
pub mod mtp;
pub mod quant;
mod split;
pub mod synth;
pub mod tokenizer;

use std::collections::HashMap;
use std::path::Path;

pub use config::Config;
pub use gguf::{Gguf, TensorInfo};
pub use layout::{Role, Tensor};
pub use misfit::Misfit;
pub use quant::DType;
pub use tokenizer::Tokenizer;

use crate::{Error, Result};
use gguf::Value;
use misfit::{MODEL_ARCHITECTURE, MODEL_MTP, MODEL_VOCAB};

/// The architecture that this crate runs.
pub const ARCHITECTURE: &str = "deepseek4";
/// A metadata key that our own writer sets to true: the weights are random.
pub const SYNTHETIC_KEY: &str = "assay.synthetic";

/// A model whose file fits: every key and every tensor is there, typed and bounded. `Send + Sync`; tensor data stays
/// in the map.
pub struct Model {
    pub gguf: Gguf,
    pub config: Config,
    index: fit::Index,
    /// Compressor norms that the file holds as F16, as the F32 bytes that every op takes, by index in the tensor table.
    widened: HashMap<usize, Vec<u8>>,
    notes: Vec<String>,
}

impl Model {
    /// Opens a file and refuses it unless all of it fits.
    ///
    /// Errors: `io` and `gguf-*` (exit 3) for files that cannot be read, `model-vocab` (exit 3) for fewer tokens than
    /// the vocabulary, `model-architecture`, `model-mtp` and `model-misfit` (exit 1) for files of something else.
    pub fn open(path: &Path) -> Result<Model> {
        Survey::of(Gguf::open(path)?)?.into_model()
    }

    /// The same for a file that is already open, or in memory.
    pub fn from_gguf(gguf: Gguf) -> Result<Model> {
        Survey::of(gguf)?.into_model()
    }

    pub fn path(&self) -> &Path {
        self.gguf.path()
    }

    /// Any tensor of the file by name, whether the model reads it or not; `None` too where assay does not compute
    /// with its type.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.view(self.gguf.position(name)?)
    }

    /// A tensor that occurs once per file. Always there for a role with `is_global()`.
    pub fn global(&self, role: Role) -> Option<Tensor<'_>> {
        self.view(self.index.global(role)?)
    }

    /// A layer's tensor; `None` where the layer's kind has none (see [`layout::On`]).
    pub fn layer(&self, layer: usize, role: Role) -> Option<Tensor<'_>> {
        self.view(self.index.layer(layer, role)?)
    }

    fn view(&self, i: usize) -> Option<Tensor<'_>> {
        let info = self.gguf.tensors().get(i)?;
        let (dtype, bytes) = match self.widened.get(&i) {
            Some(bytes) => (DType::F32, bytes.as_slice()),
            None => (info.dtype?, self.gguf.bytes(info)),
        };
        Some(Tensor { name: &info.name, dtype, dims: &info.dims, bytes })
    }

    /// What must be said beside any result over these weights: "synthetic, aliased", "synthetic", "aliased" or nothing.
    pub fn weights_note(&self) -> Option<&'static str> {
        weights_note(&self.gguf)
    }

    /// Remarks that refuse nothing: tensors that nothing reads, an unexpected pre-tokenizer.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({}, {} layers)", self.path().display(), self.config.layers)
    }
}

/// The F16 compressor norms as F32. They are the one place where the file's type would be the only difference between two
/// nodes of an op whose other slots are typed already; a few hundred values are not worth a kernel each.
fn widen_norms(gguf: &Gguf) -> HashMap<usize, Vec<u8>> {
    let norm =
        |name: &str| matches!(Role::of_name(name), Some((Role::AttnCompressorNorm | Role::IndexerCompressorNorm, _)));
    let halves = gguf.tensors().iter().enumerate().filter(|(_, t)| t.dtype == Some(DType::F16) && norm(&t.name));
    halves
        .map(|(i, t)| {
            let mut values = vec![0.0; t.elements() as usize];
            DType::F16.dequantise(gguf.bytes(t), &mut values);
            (i, values.into_iter().flat_map(f32::to_le_bytes).collect())
        })
        .collect()
}

/// See [`Model::weights_note`].
pub fn weights_note(gguf: &Gguf) -> Option<&'static str> {
    let marked = gguf.get(SYNTHETIC_KEY).and_then(Value::as_bool) == Some(true);
    let named = gguf.get("general.name").and_then(Value::as_str).is_some_and(|n| n.starts_with("synthetic"));
    match (marked || named, !gguf.aliases().is_empty()) {
        (true, true) => Some("synthetic, aliased"),
        (true, false) => Some("synthetic"),
        (false, true) => Some("aliased"),
        (false, false) => None,
    }
}

/// What a well-formed file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    Model,
    /// The draft block of speculative decoding, in a file of its own.
    Draft,
    /// Another architecture.
    Other,
}

/// A well-formed file, judged: what `assay inspect` prints, and what [`Model::open`] decides by.
pub struct Survey {
    pub gguf: Gguf,
    pub kind: FileKind,
    /// Complete only if the metadata has no misfit.
    pub config: Option<Config>,
    /// Everything that keeps the file from being run; empty if nothing does.
    pub misfits: Vec<Misfit>,
    /// Remarks that refuse nothing.
    pub notes: Vec<String>,
    index: fit::Index,
}

impl Survey {
    /// Judges metadata and tensors in one pass. Errors: `model-vocab`.
    pub fn of(gguf: Gguf) -> Result<Survey> {
        let mut s = Survey {
            gguf,
            kind: FileKind::Model,
            config: None,
            misfits: Vec::new(),
            notes: Vec::new(),
            index: fit::Index::default(),
        };
        if mtp::is_draft(&s.gguf) {
            s.kind = FileKind::Draft;
            mtp::check(&s.gguf, &mut s.misfits);
            return Ok(s);
        }
        if s.architecture() != Some(ARCHITECTURE) {
            s.kind = FileKind::Other;
            let found = s.gguf.get("general.architecture").map_or("no such key".into(), Value::to_string);
            s.misfits.push(Misfit::new("general.architecture", ARCHITECTURE, found));
            return Ok(s);
        }
        let (sizes, config) = Config::read(&s.gguf, &mut s.misfits);
        check_vocabulary(&s.gguf, sizes.vocab, &mut s.misfits, &mut s.notes)?;
        s.index = fit::check(&s.gguf, &sizes, &mut s.misfits, &mut s.notes);
        fit::check_hash_tables(&s.gguf, &s.index, &sizes, &mut s.misfits);
        s.config = config;
        Ok(s)
    }

    fn architecture(&self) -> Option<&str> {
        self.gguf.get("general.architecture").and_then(Value::as_str)
    }

    /// The model, if nothing keeps it from being run.
    pub fn into_model(self) -> Result<Model> {
        let path = self.gguf.path();
        match (self.kind, self.config) {
            (FileKind::Draft, _) => Err(Error::new(&MODEL_MTP, format!("{} is a draft (MTP) file", path.display()))
                .expected("a deepseek4 model")
                .found("the draft block mtp.0.*")
                .hint("give the main model's file; assay does not run speculative decoding")),
            (FileKind::Other, _) => {
                let found = self.misfits.first().map(|m| m.found.clone()).unwrap_or_default();
                Err(Error::new(&MODEL_ARCHITECTURE, format!("{} is another kind of model", path.display()))
                    .expected(format!("general.architecture {ARCHITECTURE}"))
                    .found(found))
            }
            (FileKind::Model, Some(config)) if self.misfits.is_empty() => {
                let widened = widen_norms(&self.gguf);
                Ok(Model { gguf: self.gguf, config, index: self.index, widened, notes: self.notes })
            }
            (FileKind::Model, _) => Err(misfit::refusal(path, &self.misfits)),
        }
    }
}

fn check_vocabulary(gguf: &Gguf, vocab: Option<u64>, misfits: &mut Vec<Misfit>, notes: &mut Vec<String>) -> Result<()> {
    let key = "tokenizer.ggml.tokens";
    let found = |v: Option<&Value>| v.map_or("no such key".into(), Value::to_string);
    let Some(tokens) = gguf.get(key).and_then(Value::as_strings) else {
        misfits.push(Misfit::new(key, "an array of strings", found(gguf.get(key))));
        return Ok(());
    };
    match vocab {
        Some(vocab) if (tokens.len() as u64) < vocab => {
            return Err(Error::new(
                &MODEL_VOCAB,
                format!("{key} has fewer tokens than the vocabulary; file size {}", gguf.file_len()),
            )
            .expected(format!("{vocab} tokens, as deepseek4.vocab_size says"))
            .found(tokens.len()));
        }
        Some(vocab) if tokens.len() as u64 > vocab => {
            let extra = tokens.len() as u64 - vocab;
            notes.push(format!(
                "{extra} tokens beyond the vocabulary of {vocab}, which have no embedding and are not used"
            ));
        }
        _ => {}
    }
    // What a sequence begins and ends with is looked up in the embedding.
    let known = vocab.unwrap_or(tokens.len() as u64);
    for key in ["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"] {
        if let Some(value) = gguf.get(key)
            && value.as_count().is_none_or(|id| id >= known)
        {
            misfits.push(Misfit::new(
                key,
                format!("a token of the vocabulary, 0 to {}", known.saturating_sub(1)),
                value,
            ));
        }
    }
    let merges = gguf.get("tokenizer.ggml.merges");
    if merges.and_then(Value::as_strings).is_none() {
        misfits.push(Misfit::new("tokenizer.ggml.merges", "an array of strings", found(merges)));
    }
    if let Some(pre) = gguf.get("tokenizer.ggml.pre")
        && pre.as_str() != Some("joyai-llm")
    {
        notes.push(format!("tokenizer.ggml.pre is {pre}; assay splits text as joyai-llm does"));
    }
    Ok(())
}
