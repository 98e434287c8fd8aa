//! `assay audit --replay`: a recorded verdict, judged again.

use std::sync::atomic::AtomicBool;

use super::sign::about;
use crate::error::{Error, Result};
use crate::ledger::{self as records, ClosureSource};
use crate::ops::Node;
use crate::plan::Numerics;
use crate::plan::kernels::KernelTree;
use crate::plan::manifest::EMULATOR;
use crate::verify::binding::Workshop;
use crate::verify::places::{CudaPlace, EmulatorPlace, NvrtcCompilers};
use crate::verify::prefill::Baselines;
use crate::verify::{Compilers, Judge, Place, Progress, Stage, record};
use crate::workbench::Workbench;

/// Judges again for `assay audit --replay`, in this workbench and on what this machine has.
pub struct Replay;

impl records::Judge for Replay {
    fn judge(&self, request: &records::Request) -> Result<records::Verdict> {
        let records::Target::Node(node) = &request.node else {
            return Err(Error::new(&NO_REPLAY, "a whole schedule is judged by `assay verify --all`"));
        };
        let bench = Workbench::find(".".as_ref())?;
        let model = bench.open_model()?;
        let tree = KernelTree::open(&bench.kernels())?;
        let place: Box<dyn Place> = if request.binding.arch == EMULATOR {
            Box::new(EmulatorPlace::new()?)
        } else {
            Box::new(CudaPlace::new(&bench.settings.architectures)?)
        };
        let mine =
            Workshop::new(&model)?.tree(&bench.kernels())?.binding(node, place.arch(), request.binding.numerics)?;
        let differences = mine.differences(&request.binding);
        if !differences.is_empty() {
            return Err(Error::new(&NO_REPLAY, format!("the row binds another {}", differences.join(", ")))
                .hint("check out the commit that landed it, and replay there"));
        }
        let seed = match &request.seed {
            Some(seed) => seed.0,
            None => records::Seed::random()?.0,
        };
        let (stop, baselines) = (AtomicBool::new(false), Baselines::new(&model, seed));
        let nvrtc = NvrtcCompilers::new(&bench.settings.architectures);
        let judge = Judge {
            model: &model,
            tree: &tree,
            place: &*place,
            compilers: nvrtc.as_ref().ok().map(|c| c as &dyn Compilers),
            baselines: &baselines,
            numerics: vec![Numerics::Exact, Numerics::Ds4],
            thorough: false,
            seed,
            stop: &stop,
            progress: &Silent,
            sanitize: None,
        };
        let verdict = judge.judge(node, &[])?;
        record::statement(&verdict, node, mine, &about(&bench, &model))
    }
}

struct Silent;

impl Progress for Silent {
    fn stage(&self, _: &Node, _: Stage) {}
    fn tick(&self, _: usize, _: usize) {}
}

crate::codes! {
    NO_REPLAY: "no-replay", CouldNotRun, "A recorded verdict cannot be judged again here: the kernels, the model or the device that it \
        binds are not at hand.";
}
