//! `assay audit --replay`: a recorded verdict, judged again.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use super::sign::about;
use crate::error::{Error, Kind, Result};
use crate::ledger::{self as records, ClosureSource, Digest};
use crate::model::Model;
use crate::ops::Node;
use crate::plan::Numerics;
use crate::plan::kernels::KernelTree;
use crate::plan::manifest::Variant;
use crate::verify::binding::{Tree, Workshop};
use crate::verify::places::{CudaPlace, EmulatorPlace, NvrtcCompilers};
use crate::verify::prefill::Baselines;
use crate::verify::whole::Whole;
use crate::verify::{Compilers, Judge, Place, Progress, Stage, record};
use crate::workbench::Workbench;

/// Judges again for `assay audit --replay`, in this workbench and on what this machine has.
#[derive(Default)]
pub struct Replay {
    /// Looked for once: a ledger holds many rows of devices.
    device: OnceCell<std::result::Result<CudaPlace, String>>,
}

impl records::Judge for Replay {
    fn judge_again(&self, recorded: &records::Verdict) -> Result<records::Verdict> {
        let bench = Workbench::find(".".as_ref())?;
        let emulator;
        let place: &dyn Place = match recorded.class {
            records::Class::Emulated => {
                emulator = EmulatorPlace::new()?;
                &emulator
            }
            _ => self.device(&bench, &recorded.binding.arch)?,
        };
        let model = bench.open_model()?;
        let tree = KernelTree::open(&bench.kernels())?;
        let workshop = Workshop::new(&model)?.tree(&bench.kernels())?;
        let node = match &recorded.node {
            records::Target::Node(node) => node,
            records::Target::Schedule => return schedule_again(recorded, &bench, &model, &tree, place, &workshop),
        };
        // A node that this file or this tree does not have is another's, and no fault of the ledger's.
        let mine = workshop
            .binding(node, place.arch(), recorded.binding.numerics)
            .map_err(|e| if e.kind() == Kind::No { Error::new(&NO_REPLAY, e.what()) } else { e })?;
        same(&mine, &recorded.binding)?;
        let nvrtc = NvrtcCompilers::new(&bench.settings.architectures);
        let numerics = numerics(recorded, &tree, node)?;
        let judge = |thorough: bool| {
            let (stop, baselines) = (AtomicBool::new(false), Baselines::new(&model, recorded.seed.0));
            let judge = Judge {
                model: &model,
                tree: &tree,
                place,
                compilers: nvrtc.as_ref().ok().map(|c| c as &dyn Compilers),
                baselines: &baselines,
                numerics: numerics.clone(),
                thorough,
                seed: recorded.seed.0,
                stop: &stop,
                progress: &Silent,
                through: Stage::Sanitizer,
                sanitize: Some(&bench.root),
                shared: None,
            };
            let verdict = judge.judge(node, &[])?;
            record::statement(&verdict, recorded.node.clone(), mine.clone(), BTreeMap::new(), &about(&bench, &model))
        };
        let again = judge(false)?;
        if asked(&again) == asked(recorded) || (ended(recorded) && !ended(&again)) {
            return Ok(again);
        }
        // A row does not say how thorough its judge was; the cases that it asked do.
        let again = judge(true)?;
        if ended(recorded) && ended(&again) && asked(recorded) != asked(&again) {
            return Err(Error::new(&NO_REPLAY, "its seed draws other cases here than the row says it asked")
                .hint("replay it with the version of assay that made it: assay show ROW names it"));
        }
        Ok(again)
    }
}

/// Refuses a row that speaks of something else than what is here.
fn same(mine: &records::Binding, recorded: &records::Binding) -> Result<()> {
    let differences = mine.differences(recorded);
    match differences.is_empty() {
        true => Ok(()),
        false => Err(Error::new(&NO_REPLAY, format!("the row binds another {}", differences.join(", ")))
            .hint("check out the commit that landed it, and replay there")),
    }
}

/// A whole schedule, over the numerics that its row has outputs of.
fn schedule_again(
    recorded: &records::Verdict,
    bench: &Workbench,
    model: &Model,
    tree: &KernelTree,
    place: &dyn Place,
    workshop: &Tree<'_>,
) -> Result<records::Verdict> {
    let Some((mine, parts)) = workshop.schedule(place.arch())? else {
        return Err(Error::new(&NO_REPLAY, "the schedule is short of a kernel here"));
    };
    same(&mine, &recorded.binding)?;
    let ran = asked(recorded);
    let over = |n: &Numerics| ran.is_empty() || ran.iter().any(|(name, _)| *name == n.name());
    let numerics: Vec<_> = [Numerics::Ds4, Numerics::Exact].into_iter().filter(over).collect();
    let judge = |thorough: bool| {
        let stop = AtomicBool::new(false);
        let seed = recorded.seed.0;
        let numerics = numerics.clone();
        let whole = Whole { model, tree, place, numerics, thorough, seed, stop: &stop, tick: &|_: &str| () };
        let (target, parts) = (recorded.node.clone(), parts.clone());
        record::statement(&whole.judge()?, target, mine.clone(), parts, &about(bench, model))
    };
    let again = judge(false)?;
    if asked(&again) == asked(recorded) || ran.is_empty() { Ok(again) } else { judge(true) }
}

impl Replay {
    fn device(&self, bench: &Workbench, arch: &str) -> Result<&dyn Place> {
        let place = self.device.get_or_init(|| {
            CudaPlace::new(&bench.settings.architectures).map_err(|e| format!("could not run: {}", e.what()))
        });
        match place {
            Ok(place) if place.arch() == arch => Ok(place),
            Ok(place) => Err(Error::new(
                &NO_REPLAY,
                format!("could not run: the row is of {arch}, this machine's device of {}", place.arch()),
            )),
            Err(why) => Err(Error::new(&NO_REPLAY, why)),
        }
    }
}

/// The cases that a verdict asked, by variant.
fn asked(verdict: &records::Verdict) -> Vec<(&str, &Digest)> {
    let cases = verdict.outputs.iter().filter_map(|(name, digest)| Some((name.strip_suffix(".cases")?, digest)));
    cases.collect()
}

/// Whether every case was asked: a Red in stage 4 ends it.
fn ended(verdict: &records::Verdict) -> bool {
    verdict.stages.iter().any(|s| s.name == Stage::Unit && s.outcome == records::StageOutcome::Pass)
}

/// The numerics that a verdict was over: its binding names the one that it speaks for, its variants show the other.
fn numerics(recorded: &records::Verdict, tree: &KernelTree, node: &Node) -> Result<Vec<Numerics>> {
    let kernel = tree.require(node)?;
    let ran: Vec<&str> = asked(recorded).into_iter().map(|(variant, _)| variant).collect();
    // A Red ends a verdict early: what ran is then only the beginning.
    let red = matches!(recorded.outcome, records::Outcome::Red { .. });
    let over = |numerics: Numerics| {
        let selected = kernel.selectable(node, numerics, &recorded.binding.arch);
        let has = |variant: &&Variant| ran.contains(&variant.name.as_str());
        match red {
            true => ran.is_empty() || selected.iter().any(has),
            false => selected.iter().all(has),
        }
    };
    let mine = recorded.binding.numerics;
    // `verify` over both signs as the production numerics; over `exact` alone as `exact`.
    let exact = mine == Numerics::Exact || over(Numerics::Exact);
    let wanted = [(Numerics::Exact, exact), (Numerics::Ds4, mine == Numerics::Ds4)];
    Ok(wanted.into_iter().filter_map(|(numerics, wanted)| wanted.then_some(numerics)).collect())
}

pub(super) struct Silent;

impl Progress for Silent {
    fn stage(&self, _: &Node, _: Stage) {}
    fn tick(&self, _: usize, _: usize) {}
}

crate::codes! {
    NO_REPLAY: "no-replay", CouldNotRun, "A recorded verdict cannot be judged again here: the kernels, the model or the device that it \
        binds are not at hand.";
}
