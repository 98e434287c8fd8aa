//! Hosts that judge for a desk, as `assay agent`, `assay mcp` and `assay tool` are told of them.

use std::path::PathBuf;
use std::time::Duration;

use crate::agent::desk::away::Away;
use crate::error::Result;
use crate::ledger::Config;
use crate::verify::remote::Runner;
use crate::workbench::Workbench;

/// Seconds that a host may say nothing.
pub const TIMEOUT: u64 = 120;

#[derive(clap::Args, Clone)]
pub struct Hosts {
    /// Have a host with a device judge what passed on the emulator: a command to put in front (`ssh gpu1`), or a name in
    /// your own runners.toml; several times for several hosts, of which the first that can is asked
    #[arg(long, value_name = "RUNNER")]
    pub runner: Vec<String>,
    /// Where the model lies on those hosts
    #[arg(long, value_name = "FILE", requires = "runner")]
    pub remote_model: Option<PathBuf>,
    /// The program on those hosts [default: assay]
    #[arg(long, value_name = "PROGRAM", requires = "runner")]
    pub remote_assay: Option<String>,
    /// How long a host may say nothing
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT, requires = "runner", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub runner_timeout: u64,
}

impl Hosts {
    /// The hosts that the user named. Nothing of the tree, and nothing that a run kept, says which command to run.
    pub fn away(&self, bench: &Workbench) -> Result<Option<Away>> {
        if self.runner.is_empty() {
            return Ok(None);
        }
        let config = Config::of_user()?.outside(&bench.root)?;
        let named = |text: &String| {
            let runner = Runner::named(text, &config, &bench.settings.runners)?;
            Ok(Runner {
                assay: self.remote_assay.clone().unwrap_or(runner.assay),
                model: self.remote_model.clone().or(runner.model),
                ..runner
            })
        };
        let runners = self.runner.iter().map(named).collect::<Result<_>>()?;
        Ok(Some(Away::new(runners, Duration::from_secs(self.runner_timeout))))
    }
}
