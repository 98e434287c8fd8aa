//! What the commands share that ask the ledger: its word on the nodes of the opened model, on its whole schedule, and on
//! a run of it.

use std::path::{Path, PathBuf};

use crate::engine::Tally;
use crate::error::Result;
use crate::ledger::Class;
use crate::model::Model;
use crate::plan::graph::Graph;
use crate::plan::kernels::KernelTree;
use crate::plan::schedule::canonical;
use crate::plan::{Numerics, Plan};
use crate::report::standing::{self, Known};
use crate::report::status::{Here, Status};
use crate::verify::{weights, whole};
use crate::words::{agree, count};
use crate::workbench::{WORKBENCH_MISSING, Workbench};

/// The workbench around the current folder; `None` outside of any.
pub fn workbench() -> Result<Option<Workbench>> {
    match Workbench::find(".".as_ref()) {
        Err(e) if e.code().id == WORKBENCH_MISSING.id => Ok(None),
        found => found.map(Some),
    }
}

/// The same for commands that answer from its ledger: without one they have nothing to say of any model.
pub fn ledgered() -> Result<Workbench> {
    Workbench::find(".".as_ref()).map_err(|e| match e.code().id == WORKBENCH_MISSING.id {
        true => e.hint(
            "cd into a clone, or name one: assay -C CLONE …; what a file alone can tell: assay inspect FILE, assay \
             plan -m FILE",
        ),
        false => e,
    })
}

pub fn status(bench: &Workbench, model: &Model, graph: &Graph<'_>, numerics: Numerics) -> Result<Status> {
    said(|notes| standing::status(bench, model, graph, numerics, notes))
}

/// Prints the notes, also where what they belong to failed.
pub fn said<T>(ask: impl FnOnce(&mut Vec<String>) -> Result<T>) -> Result<T> {
    let mut notes = Vec::new();
    let answer = ask(&mut notes);
    for note in notes {
        anstream::eprintln!("note: {note}");
    }
    answer
}

/// What the ledger says of a run: `verified by row N (arch, file)` where prefill_working holds for the file and the
/// schedule that ran, or why it does not.
pub fn verified(model: &Model, numerics: Numerics, tally: &Tally) -> String {
    if !tally.oracle_nodes.is_empty() && tally.placed > 0 {
        return format!("UNVERIFIED: {} ran on the oracle", count(tally.oracle_nodes.len(), "node"));
    }
    let Some(arch) = tally.arch.as_deref().filter(|_| tally.placed > 0) else {
        return "UNVERIFIED: no kernel took part".into();
    };
    match claim(model, numerics, arch) {
        Ok(Ok(row)) => row,
        Ok(Err(why)) => format!("UNVERIFIED: {why}"),
        Err(e) => format!("UNVERIFIED: {}", e.what()),
    }
}

/// The row that says prefill_working for what ran on `arch`, or why there is none.
fn claim(model: &Model, numerics: Numerics, arch: &str) -> Result<Result<String, String>> {
    let Some(bench) = workbench()? else {
        return Ok(Err("this folder is in no workbench, so no ledger says anything".into()));
    };
    if weights::unhashed(model) {
        return Ok(Err("weights not hashed (assay status --hash hashes them)".into()));
    }
    let kernels = KernelTree::open(&bench.kernels())?;
    if !whole::numerics_of(model, &kernels, arch)?.contains(&numerics) {
        return Ok(Err(format!("some node has no kernel for numerics {}", numerics.name())));
    }
    let plan = Plan::build(model, canonical(Numerics::Ds4))?;
    let known = said(|notes| Known::of(&bench, model, None, notes))?;
    let status = Status::of(model, &Graph::of(&plan, None), &kernels, known.proofs(Numerics::Ds4)?, here_of(arch))?;
    let here = status.schedule.iter().find(|p| p.arch == arch);
    let file = model.path().file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    Ok(match here {
        _ if status.prefill_works().iter().any(|a| a == arch) => {
            let row = here.map_or(String::new(), |p| p.row.to_string());
            let simulated = if here.is_some_and(|p| p.class == Class::Simulated) { ", SIMULATED" } else { "" };
            let weights = status.weights.map_or(String::new(), |note| format!(", weights {note}"));
            Ok(format!("verified by row {row} ({arch}, {file}{weights}{simulated})"))
        }
        Some(proof) if proof.class == Class::Emulated && proof.counts() => {
            Err(format!("the emulator proves nothing of a device (row {})", proof.row))
        }
        Some(proof) if !proof.counts() => Err(proof.describe()),
        Some(proof) => {
            let gates = status.nodes.iter().filter(|n| !n.passes_on(arch)).count();
            Err(format!("{} not green on {arch}, though row {} proves the schedule", are(gates), proof.row))
        }
        None => Err("no row of the ledger says prefill_working for this file, architecture and schedule".into()),
    })
}

fn are(nodes: usize) -> String {
    format!("{} {}", count(nodes, "node"), agree(nodes, "is", "are"))
}

fn here_of(arch: &str) -> Here {
    Here { arch: Some(arch.into()), device: String::new(), emulator: false }
}

/// A path as the user would type it from here.
pub fn short(path: &Path) -> PathBuf {
    let here = std::env::current_dir().and_then(|d| d.canonicalize());
    match here.ok().and_then(|d| path.strip_prefix(d).ok()) {
        Some(relative) => relative.into(),
        None => path.into(),
    }
}
