//! The ledger's words on the nodes of an opened model, gathered from a workbench. What a reader must be told beside them
//! comes back as notes: nothing here prints.

use crate::backend::Device;
use crate::backend::cuda::Cuda;
use crate::error::Result;
use crate::history;
use crate::ledger::{Binding, ClosureSource, Config, Ledger, Outcome, Standing, Target, Trust};
use crate::model::Model;
use crate::ops::Node;
use crate::plan::Numerics;
use crate::plan::graph::Graph;
use crate::plan::kernels::KernelTree;
use crate::report::proof::Proof;
use crate::report::status::{Here, Status};
use crate::verify::binding::Workshop;
use crate::verify::weights;
use crate::workbench::Workbench;

/// What is proved of the nodes of `graph`, as the user's own trust has it.
pub fn status(
    bench: &Workbench,
    model: &Model,
    graph: &Graph<'_>,
    numerics: Numerics,
    notes: &mut Vec<String>,
) -> Result<Status> {
    let tree = KernelTree::open(&bench.kernels())?;
    let proofs = proofs(bench, model, numerics, notes)?;
    Status::of(model, graph, &tree, proofs, here())
}

/// The work tree's ledger, checked against git.
pub fn ledger(bench: &Workbench, notes: &mut Vec<String>) -> Result<Ledger> {
    let ledger = history::open(&bench.root)?;
    notes.extend(ledger.notes().iter().cloned());
    Ok(ledger)
}

/// The user's own trust. Where there is no place for that nobody is trusted, which is said: a ledger can be looked at
/// without a home.
pub fn trust(bench: &Workbench, notes: &mut Vec<String>) -> Result<Trust> {
    match Config::of_user() {
        Ok(config) => Trust::load(&config, None, &bench.root),
        Err(e) => {
            let hint = e.hint_text().map_or(String::new(), |hint| format!(" ({hint})"));
            notes.push(format!("{}{hint}, so no key is trusted here", e.what()));
            Ok(Trust::nobody())
        }
    }
}

/// The ledger's last words on the nodes of the opened model. No ledger: no words.
pub fn proofs(bench: &Workbench, model: &Model, numerics: Numerics, notes: &mut Vec<String>) -> Result<Vec<Proof>> {
    let ledger = ledger(bench, notes)?;
    if ledger.rows().is_empty() {
        return Ok(Vec::new());
    }
    if model.gguf.file_len() > weights::HASHED_AT_ONCE && weights::known(model).is_none() {
        notes.push(format!(
            "the weights of {} are not hashed yet, so what the ledger holds on them is not shown; assay verify hashes them",
            model.path().display()
        ));
        return Ok(Vec::new());
    }
    let trust = trust(bench, notes)?;
    let tree = Workshop::new(model)?.tree(&bench.kernels())?;
    let mut architectures: Vec<&str> =
        ledger.rows().iter().filter_map(|r| r.statement().verdict()).map(|v| v.binding.arch.as_str()).collect();
    architectures.sort_unstable();
    architectures.dedup();
    let mut out = Vec::new();
    // A whole schedule's row is of both numerics, and production's word.
    if numerics == Numerics::Ds4 {
        for arch in &architectures {
            let Some((binding, _)) = tree.schedule(arch)? else { break };
            out.extend(proof(None, &ledger, &Target::Schedule, &binding, &trust));
        }
    }
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
pub fn here() -> Here {
    match Cuda::open() {
        Ok(cuda) => Here { arch: Some(cuda.info().arch.clone()), device: cuda.info().name.clone() },
        Err(e) => Here { arch: None, device: e.what().to_string() },
    }
}
