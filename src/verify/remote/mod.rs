//! Judging on other hosts: a bundle goes out over a command's stdin, signed evidence comes back (docs/remote.md).
//!
//! One line of JSON a message. [`Bundle`] is the first, then an [`Ask`] for each node; the host says [`Say`]. Nothing
//! that it says is believed: [`check`] holds its evidence against the tree, the model and the question at hand.

mod check;
mod host;
mod runner;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

pub use check::{answers, welcome};
pub use host::{Host, Limits};
pub use runner::Runner;

use crate::error::{Error, Result};
use crate::ledger::{Digest, PublicKey, Seed};
use crate::model::Model;
use crate::ops::Node;
use crate::plan::Numerics;

/// Version of these messages.
pub const REMOTE: u32 = 3;

crate::codes! {
    RUNNER: "runner-unknown", Usage, "--runner takes a command to put in front (`ssh host`), or the name of one from runners.toml in your own \
        config directory. assay.toml can only propose names: commands that run are the user's word.";
    DIED: "runner-died", CouldNotRun, "The command of a runner ended, or could not be started, before it had answered. Its node goes to \
        another runner, if there is one.";
    DEADLINE: "runner-deadline", CouldNotRun, "A runner said nothing for too long, or took too long over one node. It is given up and its node \
        goes to another one, if there is one.";
    FAILED: "runner-failed", CouldNotRun, "A runner cannot judge: it lacks a compiler, a device or the model, and says so.";
    SPEECH: "runner-protocol", Integrity, "What came from a runner is not an answer of this version of assay: other messages, or another verifier \
        protocol. Verdicts of different verifiers cannot be compared; install the same version on both sides.";
    ANSWER: "runner-answer", Integrity, "A runner's evidence is not about what was asked: another node, seed, tree, model or verifier. It was \
        refused and nothing of it was recorded.";
    MODEL: "runner-model", CouldNotRun, "The host has no model file with the weights that the verdict is to be about. --remote-model, or `model` in \
        runners.toml, says where it lies there.";
    BUNDLE: "runner-bundle", CouldNotRun, "What a judging host read from its stdin is no bundle. It is `assay verify --runner` that speaks to it, not \
        a person.";
}

/// What a host needs to judge this tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    pub remote: u32,
    /// [`super::PROTOCOL`] of whoever asks.
    pub verifier: u32,
    /// Comes back in the greeting: old output of the command is no answer.
    pub nonce: String,
    pub weights: Digest,
    /// Where the model may lie on the host, best first.
    pub models: Vec<PathBuf>,
    pub architectures: Vec<String>,
    pub backend: String,
    pub numerics: Option<Numerics>,
    pub thorough: bool,
    pub commit: String,
    /// Below `kernels/`.
    pub files: BTreeMap<String, String>,
}

impl Bundle {
    /// What is asked for by default: a verdict in both numerics, of no more than the usual cases.
    pub fn of(
        model: &Model,
        kernels: &Path,
        architectures: &[String],
        backend: &str,
        commit: String,
    ) -> Result<Bundle> {
        let path = std::path::absolute(model.path()).map_err(|e| Error::io(model.path(), e))?;
        Ok(Bundle {
            remote: REMOTE,
            verifier: super::PROTOCOL,
            nonce: Seed::random()?.to_string(),
            weights: super::weights::digest(model)?,
            models: vec![path],
            architectures: architectures.to_vec(),
            backend: backend.into(),
            numerics: None,
            thorough: false,
            commit,
            files: files(kernels)?,
        })
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    pub node: Node,
    /// Drawn for this question, so that evidence from another time is no answer to it.
    pub seed: Seed,
    /// Digests of what led to the question, which the evidence is to hold; empty where no agent is at work.
    #[serde(default)]
    pub prompt: String,
    #[serde(default)]
    pub transcript: String,
}

impl Ask {
    pub fn new(node: Node) -> Result<Ask> {
        Ok(Ask { node, seed: Seed::random()?, prompt: String::new(), transcript: String::new() })
    }

    /// Digests and nothing else: a host signs what stands here.
    pub fn is_plain(&self) -> bool {
        let digest = |text: &str| text.is_empty() || text.parse::<Digest>().is_ok();
        digest(&self.prompt) && digest(&self.transcript)
    }

    /// The seed of the verdict, of which the host draws its share when it has the question: who asks cannot choose what a
    /// host's key signs.
    pub fn seed_with(&self, share: &Seed) -> Seed {
        let mut hasher = Sha256::new();
        hasher.update("assay remote seed");
        hasher.update(self.seed.0);
        hasher.update(share.0);
        Seed(hasher.finalize().into())
    }
}

/// A host's greeting.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    pub remote: u32,
    pub verifier: u32,
    pub nonce: String,
    pub assay: String,
    pub host: String,
    pub weights: Digest,
    pub arch: String,
    pub key: PublicKey,
}

/// What a host says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Say {
    Hello(Box<Hello>),
    /// It is at work.
    Busy,
    /// An evidence file: the host's key, then one verdict; and the host's share of its seed.
    Evidence {
        share: Seed,
        evidence: Vec<Value>,
    },
    Failed {
        code: String,
        what: String,
        hint: Option<String>,
    },
}

impl Say {
    pub fn failed(e: &Error) -> Say {
        let hint = e.hint_text().map(String::from);
        let found = e.found_text().map_or(String::new(), |found| format!(" ({found})"));
        Say::Failed { code: e.code().id.into(), what: format!("{}{found}", e.what()), hint }
    }
}

/// Every file below `kernels`, as text.
fn files(kernels: &Path) -> Result<BTreeMap<String, String>> {
    fn walk(dir: &Path, below: &str, out: &mut BTreeMap<String, String>) -> Result<()> {
        for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
            let entry = entry.map_err(|e| Error::io(dir, e))?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(|e| Error::io(entry.path(), e))?);
            let Ok(name) = entry.file_name().into_string() else { continue };
            if kind.is_dir() {
                walk(&path, &format!("{below}{name}/"), out)?;
            } else if kind.is_file() {
                // What is no text no kernel can include.
                if let Ok(text) = String::from_utf8(std::fs::read(&path).map_err(|e| Error::io(&path, e))?) {
                    out.insert(format!("{below}{name}"), text);
                }
            }
        }
        Ok(())
    }
    let mut out = BTreeMap::new();
    walk(kernels, "", &mut out)?;
    Ok(out)
}

/// Lays a bundle's files out as a workbench.
pub fn lay_out(bundle: &Bundle, model: &Path, root: &Path) -> Result<()> {
    let write = |path: PathBuf, text: &str| {
        let dir = path.parent().unwrap_or(root).to_path_buf();
        std::fs::create_dir_all(&dir).map_err(|e| Error::io(dir, e))?;
        std::fs::write(&path, text).map_err(|e| Error::io(path, e))
    };
    for (name, text) in &bundle.files {
        if !Path::new(name).components().all(|c| matches!(c, std::path::Component::Normal(_))) {
            return Err(Error::new(&BUNDLE, format!("the file name `{name}` leads out of kernels/")));
        }
        write(root.join("kernels").join(name), text)?;
    }
    std::fs::create_dir_all(root.join("kernels")).map_err(|e| Error::io(root, e))?;
    let settings = toml::Table::from_iter([
        ("model".to_string(), toml::Value::from(model.to_string_lossy().into_owned())),
        ("architectures".to_string(), toml::Value::from(bundle.architectures.clone())),
    ]);
    write(root.join(crate::workbench::Workbench::FILE), &settings.to_string())
}
