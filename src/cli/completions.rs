use clap::CommandFactory;

use super::{Cli, output};
use crate::error::{Error, Result};

/// Print shell completions
///
/// For bash: assay completions bash > ~/.local/share/bash-completion/completions/assay
#[derive(clap::Args)]
pub struct Completions {
    shell: clap_complete::Shell,
}

impl Completions {
    pub fn run(&self) -> Result<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "assay", &mut script);
        let script = String::from_utf8(script).map_err(|e| Error::internal(e.to_string()))?;
        output::print(script)?;
        Ok(0)
    }
}
