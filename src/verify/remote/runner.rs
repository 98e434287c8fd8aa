//! Which command reaches a host: the user's word, never the tree's.

use std::path::PathBuf;

use serde::Deserialize;

use super::RUNNER;
use crate::error::{Error, Result};
use crate::files;
use crate::ledger::Config;

/// A command that runs another one on some host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runner {
    pub name: String,
    /// `ssh gpu1`, `srun --gres=gpu:1`, `kubectl exec -i pod --`: read by a shell.
    pub command: String,
    /// The program there.
    #[serde(default = "program")]
    pub assay: String,
    /// The model there.
    pub model: Option<PathBuf>,
}

fn program() -> String {
    "assay".into()
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    runner: Vec<Runner>,
}

impl Runner {
    /// A name of the user's `runners.toml`, or a command.
    pub fn named(text: &str, config: &Config, proposed: &[String]) -> Result<Runner> {
        let path = config.dir().join("runners.toml");
        let known = files::read_text_if_any(&path, files::SETTINGS)?.unwrap_or_default();
        let file: File =
            toml::from_str(&known).map_err(|e| Error::new(&RUNNER, format!("{}: {}", path.display(), e.message())))?;
        if let Some(runner) = file.runner.into_iter().find(|r| r.name == text) {
            return Ok(runner);
        }
        if proposed.iter().any(|name| name == text) || text.trim().is_empty() {
            return Err(Error::new(&RUNNER, format!("no command is known for the runner `{text}`"))
                .expected(format!("[[runner]] with name = \"{text}\" and command = \"ssh HOST\" in {}", path.display()))
                .hint("assay.toml can only propose the name; or --runner 'ssh HOST'"));
        }
        Ok(Runner { name: text.into(), command: text.into(), assay: program(), model: None })
    }
}
