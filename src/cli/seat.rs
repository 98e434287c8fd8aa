//! `--backend`: where kernels run. For the commands that run a model, also what is said of that.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::standing;
use crate::backend::Placement;
use crate::engine::{Seating, Session, Tally};
use crate::error::{Error, Kind, Result};
use crate::plan::kernels::KernelTree;
use crate::verify::Place;
use crate::verify::places::{CudaPlace, EmulatorPlace};
use crate::words::{agree, count, size};
use crate::workbench::{WORKBENCH_MISSING, Workbench};

/// Where to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// A CUDA device if there is one, with the oracle for nodes without a kernel; else the oracle, or, to judge, the emulator
    Auto,
    /// A CUDA device, or nothing
    Device,
    /// The CPU emulator, or nothing; slow
    Emulator,
    /// Plain Rust alone, which kernels are judged by: it is not judged itself
    Oracle,
}

impl Backend {
    pub fn name(self) -> &'static str {
        match self {
            Backend::Auto => "auto",
            Backend::Device => "device",
            Backend::Emulator => "emulator",
            Backend::Oracle => "oracle",
        }
    }

    /// Where kernels are judged for `bench`: `auto` is the device, or else the emulator.
    pub fn place(self, bench: &Workbench) -> Result<Box<dyn Place>> {
        if self != Backend::Emulator {
            match CudaPlace::new(&bench.settings.architectures) {
                Ok(place) => return Ok(Box::new(place)),
                Err(e) if self == Backend::Device => return Err(e),
                Err(_) => {}
            }
        }
        Ok(Box::new(EmulatorPlace::new()?))
    }
}

/// On which terms kernels run; for the commands that run a model.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Terms {
    /// Compute nodes that have no kernel on the oracle, slowly, instead of stopping
    #[arg(long)]
    allow_oracle: bool,
    /// Most device memory to use, e.g. 24G or 800M [default: what is free]
    #[arg(long, value_name = "BYTES", value_parser = memory)]
    memory: Option<u64>,
    /// How long a kernel may take before the device is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    time_limit: f64,
    /// Saved sequences that the device must have room for.
    #[arg(skip)]
    saved: u64,
    /// Positions that the caches must hold, where they could do with less than was asked for.
    #[arg(skip)]
    shortest: Option<usize>,
}

impl Terms {
    /// With room on the device for `n` saved sequences.
    pub fn saving(self, n: u64) -> Terms {
        Terms { saved: n, ..self }
    }

    /// The caches may hold less than was asked for, but no less than `n` positions.
    pub fn at_least(self, n: usize) -> Terms {
        Terms { shortest: Some(n), ..self }
    }
}

fn memory(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.trim_end_matches(['B', 'b']).strip_suffix(['K', 'M', 'G', 'k', 'm', 'g']) {
        Some(digits) => (
            digits,
            match text.to_ascii_uppercase().trim_end_matches('B').chars().last() {
                Some('K') => 1e3,
                Some('M') => 1e6,
                _ => 1e9,
            },
        ),
        None => (text.trim_end_matches(['B', 'b']), 1.0),
    };
    match digits.trim().parse::<f64>() {
        Ok(n) if n.is_finite() && n > 0.0 => Ok((n * unit) as u64),
        _ => Err("expected a number of bytes, with K, M or G for thousands, millions or billions".into()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(n) if (0.1..=86_400.0).contains(&n) => Ok(n),
        _ => Err("expected 0.1 to 86400 seconds".into()),
    }
}

/// A place for kernels, or none: then everything is the oracle's.
pub struct Seat {
    kernels: Option<(Box<dyn Place>, KernelTree)>,
    terms: Terms,
    /// Why `auto` came to the oracle.
    why_oracle: Option<String>,
}

impl Seat {
    /// A backend that is named and cannot run is an error; only `auto` goes on with the oracle, and says why.
    pub fn take(backend: Backend, terms: Terms) -> Result<Seat> {
        // What `auto` finds it takes as it is.
        let terms = Terms { allow_oracle: terms.allow_oracle || backend == Backend::Auto, ..terms };
        let place = match backend {
            Backend::Oracle => return Ok(Self::oracle(terms, None)),
            Backend::Emulator => Self::emulator(),
            Backend::Device | Backend::Auto => Self::device(),
        };
        match place {
            Ok(kernels) => Ok(Seat { kernels: Some(kernels), terms, why_oracle: None }),
            Err(e) if backend == Backend::Auto && e.kind() == Kind::CouldNotRun => {
                Ok(Self::oracle(terms, Some(e.what().to_string())))
            }
            Err(e) => Err(e),
        }
    }

    fn oracle(terms: Terms, why_oracle: Option<String>) -> Seat {
        if terms.memory.is_some() {
            anstream::eprintln!(
                "note: --memory limits a device's memory; everything runs on the oracle, which takes what it needs"
            );
        }
        Seat { kernels: None, terms, why_oracle }
    }

    fn device() -> Result<(Box<dyn Place>, KernelTree)> {
        let bench = Self::bench()?;
        let place = CudaPlace::new(&bench.settings.architectures)?;
        Ok((Box::new(place), KernelTree::open(&bench.kernels())?))
    }

    fn emulator() -> Result<(Box<dyn Place>, KernelTree)> {
        let tree = KernelTree::open(&Self::bench()?.kernels())?;
        Ok((Box::new(EmulatorPlace::new()?), tree))
    }

    fn bench() -> Result<Workbench> {
        standing::workbench()?
            .ok_or_else(|| Error::new(&WORKBENCH_MISSING, "there are no kernels here: this folder is in no workbench"))
            .map_err(|e| {
                e.expected("a clone of the assay repository").hint("name one with -C DIR, or --backend oracle")
            })
    }

    /// Puts what has a kernel there, and says what has none; without a place there is nothing to do.
    pub fn attach(&self, session: &mut Session<'_>) -> Result<()> {
        let Some((place, tree)) = &self.kernels else { return Ok(()) };
        let build = |source: &_, entries: &[String]| Ok(place.build(source, entries)?.module);
        let Terms { allow_oracle, memory, time_limit, saved, shortest } = self.terms;
        let shortest = shortest.unwrap_or(session.context());
        let seating = Seating { tree, arch: place.arch(), allow_oracle, memory, saved, shortest };
        let mut device = place.start_reading(session.model().path())?;
        device.set_time_limit(Duration::from_secs_f64(time_limit))?;
        let missing = session.attach(&seating, device, &build)?;
        if !missing.is_empty() {
            let nodes: Vec<String> = missing.iter().map(|n| n.to_string()).collect();
            anstream::eprintln!(
                "note: {} without a kernel here {} on the oracle: {}",
                count(nodes.len(), "node"),
                agree(nodes.len(), "runs", "run"),
                nodes.join(", ")
            );
        }
        let bar = bar();
        let loaded = session.load(&mut |done, of| {
            bar.set_length(of);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        if let Some(loaded) = loaded?.filter(|l| l.bytes > 0) {
            let seconds = loaded.time.as_secs_f64();
            let (size, rate) = (size(loaded.bytes), loaded.bytes as f64 / 1e9 / seconds.max(1e-9));
            anstream::eprintln!("loaded {size} of weights in {seconds:.2} s, {rate:.1} GB/s");
        }
        Ok(())
    }

    pub fn placement(&self) -> Placement {
        self.kernels.as_ref().map_or(Placement::Oracle, |(place, _)| place.placement())
    }

    /// One line on where a session ran.
    pub fn sentence(&self, tally: &Tally) -> String {
        match &self.why_oracle {
            Some(why) => format!("{}: {why}", tally.sentence()),
            None => tally.sentence(),
        }
    }

    pub fn json(&self, tally: &Tally) -> Value {
        json!({
            "backend": self.placement(),
            "arch": tally.arch,
            "op_instances": tally.placed,
            "launches": tally.launches,
            "nodes": names(&tally.nodes),
            "oracle_op_instances": tally.oracle,
            "oracle_nodes": names(&tally.oracle_nodes),
            "why_oracle": self.why_oracle,
            "place": self.kernels.as_ref().map(|(place, _)| place.describe()),
        })
    }
}

/// Bytes of weights that are there; drawn on a terminal only.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{elapsed:>4} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

fn names(nodes: &std::collections::BTreeSet<crate::ops::Node>) -> Vec<String> {
    nodes.iter().map(|n| n.to_string()).collect()
}
