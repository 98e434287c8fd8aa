//! What `graph`, `next` and `status` share: the workbench's kernels and the ledger's word on the opened model.

use std::path::{Path, PathBuf};

use crate::backend::Device;
use crate::backend::cuda::Cuda;
use crate::error::Result;
use crate::ledger::{Binding, ClosureSource, Ledger, Outcome, Standing, Target, Trust};
use crate::model::Model;
use crate::ops::Node;
use crate::plan::Numerics;
use crate::plan::graph::Graph;
use crate::plan::kernels::KernelTree;
use crate::report::proof::Proof;
use crate::report::status::{Here, Status};
use crate::verify::binding::Workshop;
use crate::verify::weights;
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
    let tree = KernelTree::open(&bench.kernels())?;
    let here = here();
    let proofs = proofs(bench, model, numerics)?;
    Status::of(model, graph, &tree, proofs, here)
}

/// The ledger's last words on the nodes of the opened model. No ledger: no words.
fn proofs(bench: &Workbench, model: &Model, numerics: Numerics) -> Result<Vec<Proof>> {
    let ledger = super::ledger::open(&bench.root)?;
    if ledger.rows().is_empty() {
        return Ok(Vec::new());
    }
    if model.gguf.file_len() > weights::HASHED_AT_ONCE && weights::known(model).is_none() {
        anstream::eprintln!(
            "note: the weights of {} are not hashed yet, so what the ledger holds on them is not shown; assay verify hashes them",
            model.path().display()
        );
        return Ok(Vec::new());
    }
    let trust = super::ledger::trust(&bench.root, None)?;
    let tree = Workshop::new(model)?.tree(&bench.kernels())?;
    let mut architectures: Vec<&str> =
        ledger.rows().iter().filter_map(|r| r.statement().verdict()).map(|v| v.binding.arch.as_str()).collect();
    architectures.sort_unstable();
    architectures.dedup();
    let mut out = Vec::new();
    for node in tree.nodes() {
        let target = Target::Node(node.clone());
        for arch in &architectures {
            let binding = tree.binding(&node, arch, numerics)?;
            if let Some(proof) = proof(Some(node.clone()), &ledger, &target, &binding, &trust) {
                out.push(proof);
            }
        }
    }
    Ok(out)
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
