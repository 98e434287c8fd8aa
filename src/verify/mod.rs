//! Judges a node: eight stages, one verdict (docs/stages.md).
//!
//! Reading order: [`Judge::judge`] here runs the stages; [`source`] reads the kernel's text, [`unit`] runs it case by
//! case, [`mutants`] asks whether the cases could have told, [`prefill`] runs it inside the model; [`compare`] is the one
//! comparison that all of them use. [`teeth`] turns on all of it: would it have seen a mistake?

pub mod ahead;
pub mod asked;
pub mod binding;
pub mod compare;
pub mod insitu;
mod judge;
mod large;
pub mod mutants;
pub mod places;
pub mod prefill;
pub mod questions;
pub mod record;
pub mod remote;
mod runner;
pub mod sanitize;
pub mod sides;
pub mod source;
pub mod swap;
pub mod teeth;
pub mod timing;
pub mod unit;
pub mod weights;
pub mod whole;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize as _, Serialize};

pub use crate::ledger::{Class, Stage, Target};
pub use judge::{Judge, Progress};

use crate::backend::worker::Sandbox;
use crate::backend::{Built, Device, Placement};
use crate::error::{Error, Kind, Result};
use crate::ops::Node;
use crate::plan::source::{SourceSet, hex};
use compare::FirstBad;

/// Ends what nobody wants any more: an error of kind `Interrupted` once `stop` is set. What takes seconds asks in between.
fn unless(stop: &AtomicBool) -> Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => Err(Error::interrupted()),
        false => Ok(()),
    }
}

/// The protocol that verdicts are made by: raised when comparison, tolerance or cases change their meaning.
pub const PROTOCOL: u32 = 7;

pub type Figures = serde_json::Map<String, serde_json::Value>;

/// How one stage ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    Pass,
    Red {
        reason: String,
        first_bad: Option<FirstBad>,
    },
    /// The stage ran and cannot tell.
    Indeterminate {
        reason: String,
    },
    /// The stage did not run here: no device, no compiler, no tool.
    NotRun {
        reason: String,
    },
}

#[derive(Clone, Debug, Serialize)]
pub struct StageReport {
    pub stage: Stage,
    #[serde(flatten)]
    pub outcome: Outcome,
    pub figures: Figures,
    pub seconds: f64,
}

/// What a judge says of a node, or of a whole schedule.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    pub node: Target,
    /// A judge never says simulated.
    pub class: Class,
    pub arch: String,
    pub stages: Vec<StageReport>,
    /// Hexadecimal; revealed with the verdict, so that anyone can replay it.
    pub seed: String,
    pub closure: Option<String>,
    /// sha256 of the cases asked and of the outputs given, per variant.
    pub digests: Figures,
    pub variants: Vec<String>,
    pub seconds: f64,
}

/// The three answers, and the fourth that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Summary {
    Pass,
    Red,
    Indeterminate,
}

impl Summary {
    pub fn name(self) -> &'static str {
        match self {
            Summary::Pass => "pass",
            Summary::Red => "red",
            Summary::Indeterminate => "indeterminate",
        }
    }
}

impl Verdict {
    /// With nothing judged yet.
    fn begun(node: Target, place: &dyn Place, seed: &[u8]) -> Verdict {
        Verdict {
            node,
            class: if place.placement() == Placement::Device { Class::Device } else { Class::Emulated },
            arch: place.arch().to_string(),
            stages: Vec::new(),
            seed: hex(seed),
            closure: None,
            digests: Figures::new(),
            variants: Vec::new(),
            seconds: 0.0,
        }
    }

    /// The first stage that is red.
    pub fn red(&self) -> Option<&StageReport> {
        self.stages.iter().find(|s| matches!(s.outcome, Outcome::Red { .. }))
    }

    pub fn summary(&self) -> Summary {
        if self.red().is_some() {
            return Summary::Red;
        }
        let last = if self.class == Class::Device { Stage::Graph } else { Stage::Prefill };
        let passed = |stage: &Stage| self.stages.iter().any(|s| s.stage == *stage && s.outcome == Outcome::Pass);
        let all = Stage::required(&self.node).iter().filter(|s| **s <= last).all(passed);
        if all { Summary::Pass } else { Summary::Indeterminate }
    }

    /// green(arch): a pass of class device through stage 7.
    pub fn is_green(&self) -> bool {
        self.class == Class::Device && self.summary() == Summary::Pass
    }

    /// The worst relative RMS error over the unit cases, infinite where an output was no number. `None`: no figure was
    /// taken, because no output came to be compared, or what was wrong has no size to be wrong by.
    pub fn unit_error(&self) -> Option<f64> {
        let unit = self.stages.iter().find(|s| s.stage == Stage::Unit)?;
        // JSON has no infinity, and writes null.
        let errors = unit.figures.values().filter_map(|f| f.get("relative_rms"));
        errors.map(|e| e.as_f64().unwrap_or(f64::INFINITY)).reduce(f64::max)
    }

    /// The reason that decides the summary, in one line.
    pub fn reason(&self) -> Option<String> {
        let of = |s: &StageReport| match &s.outcome {
            Outcome::Pass => None,
            Outcome::Red { reason, .. } | Outcome::Indeterminate { reason } | Outcome::NotRun { reason } => {
                Some(format!("stage {} ({}): {reason}", s.stage.number(), s.stage.name()))
            }
        };
        if let Some(red) = self.red() {
            return of(red);
        }
        if self.summary() == Summary::Pass {
            return None;
        }
        self.stages.iter().find_map(of)
    }
}

/// Where kernels are judged: it builds them and starts workers for them.
pub trait Place: Sync {
    fn placement(&self) -> Placement;
    /// `sm_90`, or `emulator`.
    fn arch(&self) -> &str;
    fn build(&self, source: &SourceSet, entries: &[String]) -> Result<Built>;
    /// A fresh, confined device. One is started per verdict and stage.
    fn start(&self) -> Result<Box<dyn Device>>;
    /// The same with leave to read the model's file itself, for [`Executor::load`](crate::backend::executor::Executor).
    fn start_reading(&self, model: &Path) -> Result<Box<dyn Device>>;
    /// What the place says of itself, for the informative part of a row.
    fn describe(&self) -> Figures;

    /// What confines the kernels that are judged here.
    fn sandbox(&self) -> Option<Sandbox> {
        self.describe().get("sandbox").and_then(|told| Sandbox::deserialize(told).ok())
    }
}

/// A place without a GPU that can still say what other architectures' compilers make of a source.
pub trait Compilers: Sync {
    /// Builds for every architecture; figures per architecture, or why it could not.
    fn build_all(&self, source: &SourceSet, entries: &[String]) -> Result<Figures>;
    /// Entries that store nothing through an output argument, judged on the PTX.
    fn stubs(&self, source: &SourceSet, entries: &[String], node: &Node) -> Result<Vec<String>>;
}

/// Whether an error of a launch or build is the kernel's doing. What could not run at all is not.
pub fn is_kernels_fault(e: &Error) -> bool {
    e.kind() == Kind::No
}
