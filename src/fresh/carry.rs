//! What `--upto NODE` brings along: the kernels of the nodes that a prefill meets before NODE, where they are proved on a
//! device, and the evidence.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::ledger::{Class, Evidence};
use crate::model::Model;
use crate::ops::Node;
use crate::plan::graph::Graph;
use crate::plan::kernels::KernelTree;
use crate::plan::schedule::canonical;
use crate::plan::source::read_plain;
use crate::plan::{Numerics, Plan};
use crate::report::standing::Known;
use crate::workbench::Workbench;

/// Kernels from another workbench.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    pub nodes: Vec<Node>,
    /// Nodes before the one asked for whose kernel was left behind, and why.
    pub left: Vec<(Node, String)>,
    /// Proved by keys that the user does not trust, and which.
    pub untrusted: usize,
    pub keys: BTreeSet<String>,
    pub(super) files: BTreeMap<String, String>,
    pub(super) evidence: Vec<Evidence>,
}

/// The green kernels of `from` that a prefill of `model` meets before `upto`.
pub(super) fn choose(model: &Model, upto: &Node, from: &Workbench, notes: &mut Vec<String>) -> Result<Carried> {
    let plan = Plan::build(model, canonical(Numerics::Ds4))?;
    let graph = Graph::of(&plan, None);
    let known = Known::of(from, model, None, notes)?;
    let (status, ledger) = (known.status(from, model, &graph, Numerics::Ds4)?, &known.ledger);
    let tree = KernelTree::open(&from.kernels())?;
    let mut out = Carried::default();
    // Keys first: what they sign is read only after they have joined.
    let joins = ledger.rows().iter().filter(|row| row.statement().kind() == "key");
    out.evidence.extend(joins.map(|row| row.evidence.clone()));
    let end = graph.node(upto).map_or(usize::MAX, |n| n.first());
    for node in status.nodes.iter().filter(|n| n.usage.first() < end && n.usage.node != *upto) {
        let name = &node.usage.node;
        let proof = node.proofs.iter().filter(|p| p.class == Class::Device && p.holds());
        let Some(proof) = proof.max_by_key(|p| (p.trusted, p.row)) else {
            out.left.push((name.clone(), node.detail()));
            continue;
        };
        let kernel = tree.require(name)?;
        let manifest = format!("{}.toml", kernel.stem);
        let text = read_plain(&from.kernels().join(&manifest))?;
        out.files.insert(manifest, text);
        out.files.extend(tree.source(&kernel)?.files);
        // A proof of an earlier judge stands with the row by which today's passes the kernel on the emulator, and not
        // without it.
        let rows = [Some(proof.row), proof.outgrown];
        let rows = rows.iter().flatten().filter_map(|row| ledger.rows().get(*row as usize));
        for row in rows {
            out.evidence.push(row.evidence.clone());
            if !proof.trusted {
                out.keys.insert(row.evidence.signer().short());
            }
        }
        out.untrusted += usize::from(!proof.trusted);
        out.nodes.push(name.clone());
    }
    Ok(out)
}
