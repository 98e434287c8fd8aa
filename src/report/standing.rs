//! The ledger's words on the nodes of an opened model, gathered from a workbench. What a reader must be told beside them
//! comes back as notes: nothing here prints.

use std::path::Path;

use crate::backend::Device;
use crate::backend::cuda::Cuda;
use crate::backend::emulator::compiler::Compiler;
use crate::error::Result;
use crate::history;
use crate::ledger::{Binding, ClosureSource, Config, Ledger, Outcome, Row, Standing, Target, Trust};
use crate::model::Model;
use crate::ops::Node;
use crate::plan::Numerics;
use crate::plan::graph::Graph;
use crate::plan::kernels::KernelTree;
use crate::plan::manifest::EMULATOR;
use crate::report::proof::Proof;
use crate::report::status::{Here, Status};
use crate::verify::binding::{Tree, Workshop};
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
    Known::of(bench, model, None, notes)?.status(bench, model, graph, numerics)
}

/// The work tree's ledger, checked against git.
pub fn ledger(bench: &Workbench, notes: &mut Vec<String>) -> Result<Ledger> {
    let ledger = history::open(&bench.root)?;
    notes.extend(ledger.notes().iter().cloned());
    Ok(ledger)
}

/// The trust in `file` if given, else the user's own. Where there is no place for that nobody is trusted, which is said:
/// a ledger can be looked at without a home.
pub fn trust(root: &Path, file: Option<&Path>, notes: &mut Vec<String>) -> Result<Trust> {
    let trust = match (Config::of_user(), file) {
        (Ok(config), file) => Trust::load(&config, file, root),
        (Err(_), Some(file)) => Trust::load(&Config::at(root), Some(file), root),
        (Err(e), None) => {
            let hint = e.hint_text().map_or(String::new(), |hint| format!(" ({hint})"));
            notes.push(format!("{}{hint}, so no key is trusted here", e.what()));
            Trust::nobody_in(root)
        }
    }?;
    notes.extend(trust.overruled());
    Ok(trust)
}

/// The ledger, whom the user trusts, and what the tree and the file at hand bind.
pub struct Known<'m> {
    pub ledger: Ledger,
    pub trust: Trust,
    /// `None`: there is no row to be held against it, or the weights are not hashed yet.
    tree: Option<Tree<'m>>,
    unhashed: bool,
}

impl<'m> Known<'m> {
    /// Trust comes from `file` if given, else from the user's own.
    pub fn of(bench: &Workbench, model: &'m Model, file: Option<&Path>, notes: &mut Vec<String>) -> Result<Known<'m>> {
        let ledger = ledger(bench, notes)?;
        if ledger.rows().is_empty() {
            return Ok(Known { ledger, trust: Trust::nobody(), tree: None, unhashed: false });
        }
        let trust = trust(&bench.root, file, notes)?;
        if weights::unhashed(model) {
            notes.push(format!(
                "the weights of {} are not hashed yet, so what the ledger holds on them is not shown; assay status \
                 --hash hashes them",
                model.path().display()
            ));
            return Ok(Known { ledger, trust, tree: None, unhashed: true });
        }
        let tree = Workshop::new(model)?.tree(&bench.kernels())?;
        Ok(Known { ledger, trust, tree: Some(tree), unhashed: false })
    }

    pub fn status(&self, bench: &Workbench, model: &Model, graph: &Graph<'_>, numerics: Numerics) -> Result<Status> {
        let status = Status::of(model, graph, &KernelTree::open(&bench.kernels())?, self.proofs(numerics)?, here())?;
        let status = status.named(bench.model_option(model.path()));
        Ok(if self.unhashed { status.of_unhashed() } else { status })
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
    pub fn proofs(&self, numerics: Numerics) -> Result<Vec<Proof>> {
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
                let Some(mut proof) = proof(Some(node.clone()), ledger, &target, &binding, trust) else { continue };
                if proof.stale.is_some() && *arch != EMULATOR {
                    let emulator = tree.binding(&node, EMULATOR, numerics)?;
                    if let Some(outgrown) = ledger.outgrown(&target, &binding, &emulator, trust) {
                        let known = spoken(Some(node.clone()), &binding, outgrown.proof, outgrown.trusted);
                        proof = Proof { outgrown: Some(outgrown.emulated.seq), ..known.unwrap_or(proof) };
                    }
                }
                out.push(proof);
            }
        }
        Ok(out)
    }
}

fn proof(node: Option<Node>, ledger: &Ledger, target: &Target, binding: &Binding, trust: &Trust) -> Option<Proof> {
    let (row, trusted, stale, void) = match ledger.standing(target, binding, trust) {
        Standing::Green(row) | Standing::Simulated(row) | Standing::Emulated(row) | Standing::Red(row) => {
            (row, true, None, None)
        }
        Standing::Untrusted(row, _) => (row, false, None, None),
        Standing::Void(row, why) => (row, false, None, Some(why)),
        Standing::Stale(row, fields) => (row, true, Some(fields.join(", ")), None),
        Standing::OtherWeights(_) | Standing::Unproved => return None,
    };
    Some(Proof { stale, void, ..spoken(node, binding, row, trusted)? })
}

/// What a row's verdict says; `None`: it holds none.
fn spoken(node: Option<Node>, binding: &Binding, row: &Row, trusted: bool) -> Option<Proof> {
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
        stale: None,
        outgrown: None,
        void: None,
        row: row.seq,
    })
}

/// The CUDA device of this machine, or why there is none, and whether it can run the emulator.
pub fn here() -> Here {
    let (arch, device) = match Cuda::open() {
        Ok(cuda) => (Some(cuda.info().arch.clone()), cuda.info().name.clone()),
        Err(e) => (None, e.what().to_string()),
    };
    Here { arch, device, emulator: Compiler::find().is_ok() }
}
