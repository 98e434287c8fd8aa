//! The workbench that a command works in: the folder with `assay.toml`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::backend::worker::Level;
use crate::error::{Error, Result};
use crate::files;
use crate::model::Model;
use crate::ops::Node;

crate::codes! {
    WORKBENCH_MISSING: "workbench-missing", CouldNotRun, "assay works inside a workbench: a folder with assay.toml, kernels/ and \
        state/. A clone of the repository is one; `-C DIR` names another. Commands that only read a model work anywhere with -m.";
    WORKBENCH_CONFIG: "workbench-config", CouldNotRun, "assay.toml is not what docs/design.md describes.";
}

/// `assay.toml`. Nothing in it is trusted: it names what the tree proposes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Path of the model, relative to the workbench.
    pub model: PathBuf,
    /// Architectures that kernels are built for.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// Ops that are ported here; empty: all that the model needs.
    #[serde(default)]
    pub ops: Vec<String>,
    /// The node that is worked on before any other, until it is green.
    #[serde(default)]
    pub first: Option<Node>,
    /// Public keys whose evidence this tree proposes to believe.
    #[serde(default)]
    pub verifiers: Vec<String>,
    /// The confinement that a kernel must have had while it was judged for the verdict to count here, if that is more than
    /// the user asks for: who can edit this file may not lower it.
    #[serde(default)]
    pub sandbox: Option<Level>,
    /// Names of remote runners; their commands stand in the user's own configuration.
    #[serde(default)]
    pub runners: Vec<String>,
}

impl Settings {
    /// The text of an `assay.toml`; `name` says where it stands.
    pub fn read(text: &str, name: impl std::fmt::Display) -> Result<Settings> {
        toml::from_str(text).map_err(|e| Error::new(&WORKBENCH_CONFIG, format!("{name}: {}", e.message())))
    }

    /// Whether this workbench is to port the op.
    pub fn ports(&self, op: &str) -> bool {
        self.ops.is_empty() || self.ops.iter().any(|o| o == op)
    }
}

#[derive(Clone, Debug)]
pub struct Workbench {
    pub root: PathBuf,
    pub settings: Settings,
}

impl Workbench {
    pub const FILE: &str = "assay.toml";

    /// The workbench that holds `start`: the nearest folder upwards with an `assay.toml`.
    pub fn find(start: &Path) -> Result<Workbench> {
        let start = start.canonicalize().map_err(|e| Error::io(start, e))?;
        let root = start.ancestors().find(|d| d.join(Self::FILE).is_file());
        Workbench::open(root.ok_or_else(|| Workbench::missing(&start))?)
    }

    /// The error of there being none around `start`.
    pub fn missing(start: &Path) -> Error {
        let start = start.canonicalize().unwrap_or_else(|_| start.into());
        Error::new(&WORKBENCH_MISSING, "there is no workbench here")
            .expected(format!("a clone of the assay repository: a folder with {}, kernels/ and state/", Self::FILE))
            .found(format!("no {} in {} or in any folder above it", Self::FILE, start.display()))
            .hint("cd into a clone, or name one: assay -C CLONE …")
    }

    /// The folder that a workbench around `start` has, also of one that cannot be opened or has lost its `assay.toml`: there
    /// a ledger is what is left. `None`: a folder like any other.
    pub fn around(start: &Path) -> Option<PathBuf> {
        let start = start.canonicalize().ok()?;
        let holds = |name: &str| start.ancestors().find(|d| d.join(name).is_file());
        holds(Self::FILE).or_else(|| holds("state/ledger.jsonl")).map(PathBuf::from)
    }

    pub fn open(root: &Path) -> Result<Workbench> {
        let path = root.join(Self::FILE);
        let text = files::read_text(&path, files::SETTINGS)?;
        let settings = Settings::read(&text, path.display())?;
        Ok(Workbench { root: root.into(), settings })
    }

    pub fn kernels(&self) -> PathBuf {
        self.root.join("kernels")
    }

    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    pub fn open_model(&self) -> Result<Model> {
        Model::open(&self.model())
    }

    /// How a command is told that it is about this file: ` -m FILE`, or nothing where it is the workbench's own.
    pub fn model_option(&self, path: &Path) -> String {
        let real = |path: &Path| path.canonicalize().ok();
        let own = real(path).is_some_and(|path| real(&self.model()) == Some(path));
        if own { String::new() } else { format!(" -m {}", crate::words::shell_path(path)) }
    }

    pub fn model(&self) -> PathBuf {
        self.root.join(&self.settings.model)
    }
}
