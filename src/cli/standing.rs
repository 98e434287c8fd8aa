//! What the commands share that ask the ledger: its word on the nodes of the opened model, on its whole schedule, and on
//! a run of it.

use std::path::{Path, PathBuf};

use crate::backend::Device;
use crate::backend::cuda::Cuda;
use crate::engine::Tally;
use crate::error::Result;
use crate::ledger::{Binding, Class, ClosureSource, Ledger, Outcome, Standing, Target, Trust};
use crate::model::Model;
use crate::ops::Node;
use crate::plan::graph::Graph;
use crate::plan::kernels::KernelTree;
use crate::plan::schedule::canonical;
use crate::plan::{Numerics, Plan};
use crate::report::proof::Proof;
use crate::report::status::{Here, Status};
use crate::verify::binding::{Tree, Workshop};
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
    Known::of(bench, model, None)?.status(bench, model, graph, numerics)
}

/// The ledger, whom the user trusts, and what the tree and the file at hand bind.
pub struct Known<'m> {
    pub ledger: Ledger,
    pub trust: Trust,
    /// `None`: there is no row to be held against it, or the weights are not hashed yet.
    tree: Option<Tree<'m>>,
}

impl<'m> Known<'m> {
    /// Trust comes from `file` if given, else from the user's own.
    pub fn of(bench: &Workbench, model: &'m Model, file: Option<&Path>) -> Result<Known<'m>> {
        let ledger = super::ledger::open(&bench.root)?;
        if ledger.rows().is_empty() {
            return Ok(Known { ledger, trust: Trust::nobody(), tree: None });
        }
        let trust = super::ledger::trust(&bench.root, file)?;
        if model.gguf.file_len() > weights::HASHED_AT_ONCE && weights::known(model).is_none() {
            anstream::eprintln!(
                "note: the weights of {} are not hashed yet, so what the ledger holds on them is not shown; assay verify hashes them",
                model.path().display()
            );
            return Ok(Known { ledger, trust, tree: None });
        }
        let tree = Workshop::new(model)?.tree(&bench.kernels())?;
        Ok(Known { ledger, trust, tree: Some(tree) })
    }

    pub fn status(&self, bench: &Workbench, model: &Model, graph: &Graph<'_>, numerics: Numerics) -> Result<Status> {
        Status::of(model, graph, &KernelTree::open(&bench.kernels())?, self.proofs(numerics)?, here())
    }

    /// The fields in which a row's binding differs from that of the tree and file at hand; `None`: they bind nothing, as
    /// where there is no kernel.
    pub fn changes(&self, target: &Target, binding: &Binding) -> Option<Vec<&'static str>> {
        let tree = self.tree.as_ref()?;
        let present = match target {
            Target::Node(node) => tree.binding(node, &binding.arch, binding.numerics).ok()?,
            Target::Schedule => tree.schedule(&binding.arch).ok()??.0,
        };
        Some(present.differences(binding))
    }

    /// The ledger's last words on the nodes of the opened model. No ledger: no words.
    fn proofs(&self, numerics: Numerics) -> Result<Vec<Proof>> {
        let Some(tree) = &self.tree else { return Ok(Vec::new()) };
        let (ledger, trust) = (&self.ledger, &self.trust);
        let mut architectures: Vec<&str> =
            ledger.rows().iter().filter_map(|r| r.statement().verdict()).map(|v| v.binding.arch.as_str()).collect();
        architectures.sort_unstable();
        architectures.dedup();
        let mut out = Vec::new();
        // A whole schedule's row is of both numerics, and production's word.
        if numerics == Numerics::Ds4 {
            for arch in &architectures {
                let Some((binding, _)) = tree.schedule(arch)? else { break };
                out.extend(proof(None, ledger, &Target::Schedule, &binding, trust));
            }
        }
        for node in tree.nodes() {
            let target = Target::Node(node.clone());
            for arch in &architectures {
                let binding = tree.binding(&node, arch, numerics)?;
                if let Some(proof) = proof(Some(node.clone()), ledger, &target, &binding, trust) {
                    out.push(proof);
                }
            }
        }
        Ok(out)
    }
}

fn proof(node: Option<Node>, ledger: &Ledger, target: &Target, binding: &Binding, trust: &Trust) -> Option<Proof> {
    let (row, trusted, stale) = match ledger.standing(target, binding, trust) {
        Standing::Green(row) | Standing::Simulated(row) | Standing::Emulated(row) | Standing::Red(row) => {
            (row, true, None)
        }
        Standing::Untrusted(row, _) => (row, false, None),
        Standing::Stale(row, fields) => (row, true, Some(fields.join(", "))),
        Standing::OtherWeights(_) | Standing::Unproved => return None,
    };
    let verdict = row.statement().verdict()?;
    let red = match &verdict.outcome {
        Outcome::Red { stage, reason, .. } => Some(format!("{}: {reason}", stage.name())),
        _ => None,
    };
    Some(Proof {
        node,
        arch: binding.arch.clone(),
        class: verdict.class,
        device: verdict.informative.device.clone(),
        key: row.evidence.signer().short(),
        trusted,
        red,
        stale,
        row: row.seq,
    })
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
    if model.gguf.file_len() > weights::HASHED_AT_ONCE && weights::known(model).is_none() {
        return Ok(Err("weights not hashed (assay verify hashes them)".into()));
    }
    let kernels = KernelTree::open(&bench.kernels())?;
    if !whole::numerics_of(model, &kernels, arch)?.contains(&numerics) {
        return Ok(Err(format!("some node has no kernel for numerics {}", numerics.name())));
    }
    let plan = Plan::build(model, canonical(Numerics::Ds4))?;
    let known = Known::of(&bench, model, None)?;
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
    Here { arch: Some(arch.into()), device: String::new() }
}

/// The CUDA device of this machine, or why there is none.
fn here() -> Here {
    match Cuda::open() {
        Ok(cuda) => Here { arch: Some(cuda.info().arch.clone()), device: cuda.info().name.clone() },
        Err(e) => Here { arch: None, device: e.what().to_string() },
    }
}

/// A path as the user would type it from here.
pub fn short(path: &Path) -> PathBuf {
    let here = std::env::current_dir().and_then(|d| d.canonicalize());
    match here.ok().and_then(|d| path.strip_prefix(d).ok()) {
        Some(relative) => relative.into(),
        None => path.into(),
    }
}
