//! Kernels and nodes held against each other: what a plan has kernels for, and which kernels no plan instance can use.

use std::collections::BTreeSet;

use serde::Serialize;

use super::graph::Graph;
use super::kernels::KernelTree;
use super::port::type_name;
use crate::error::Result;
use crate::ops::{self, Node};

/// What there is of a node's kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kernel", rename_all = "snake_case")]
pub enum Written {
    /// Nobody has written one.
    Absent,
    /// `kernels/<stem>.toml` covers it and its sources are all there.
    Present { stem: String },
    /// There is one that cannot be used: its manifest or its sources.
    Broken { reason: String },
}

impl Written {
    pub fn of(tree: &KernelTree, node: &Node) -> Written {
        let gathered = |kernel: Result<super::kernels::Kernel<'_>>| {
            let kernel = kernel?;
            tree.source(&kernel).map(|_| kernel.stem.to_string())
        };
        match tree.kernel(node).map(gathered) {
            None => Written::Absent,
            Some(Ok(stem)) => Written::Present { stem },
            Some(Err(e)) => Written::Broken { reason: e.what().to_string() },
        }
    }
}

/// A kernel that the opened file gives nothing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreachable {
    /// `kernels/moe_gate_up.q4_k`.
    pub kernel: String,
    pub node: Node,
    pub reason: String,
}

/// A kernel file that covers no node of any file as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    pub kernel: String,
    pub reason: String,
}

/// Every (manifest, node) pair that no schedule of this graph's model selects.
pub fn unreachable(graph: &Graph<'_>, tree: &KernelTree) -> Vec<Unreachable> {
    let mut out = Vec::new();
    for (stem, manifest) in tree.manifests() {
        let types: BTreeSet<_> = manifest.variants.iter().flat_map(|v| &v.types).collect();
        let mut nodes: Vec<Node> = types.iter().filter_map(|t| format!("{}.{t}", manifest.op).parse().ok()).collect();
        if types.is_empty() {
            nodes.push(Node { op: manifest.op.clone(), types: Vec::new() });
        }
        for node in nodes {
            let used = matches!(tree.kernel(&node), Some(Ok(kernel)) if kernel.stem == stem);
            let reason = if !used {
                format!("kernels/{} is where {node} is looked for", node.file_stem())
            } else if graph.node(&node).is_some() {
                continue;
            } else if graph.nodes.iter().any(|n| n.node.op == node.op) {
                format!("no tensor of this file that {} reads has type {}", node.op, type_name(&node.types))
            } else {
                format!("nothing in this file needs {node}")
            };
            out.push(Unreachable { kernel: format!("kernels/{stem}"), node, reason });
        }
    }
    out
}

/// Manifests that cannot be read, manifests whose sources are not there, and sources without a manifest.
pub fn broken(tree: &KernelTree) -> Result<Vec<Broken>> {
    let mut out: Vec<Broken> = tree
        .broken()
        .map(|(stem, reason)| Broken { kernel: format!("kernels/{stem}"), reason: reason.to_string() })
        .collect();
    for (stem, manifest) in tree.manifests() {
        let kernel = super::kernels::Kernel { stem, manifest };
        if let Err(e) = tree.source(&kernel) {
            out.push(Broken { kernel: format!("kernels/{stem}"), reason: e.what().to_string() });
        }
    }
    for stem in tree.without_manifest()? {
        let op = stem.split('.').next().unwrap_or_default();
        let reason = match ops::find(op) {
            Some(_) => format!("kernels/{stem}.toml is missing: nothing says how to launch kernels/{stem}.cu"),
            None => format!("there is no op `{op}`"),
        };
        out.push(Broken { kernel: format!("kernels/{stem}"), reason });
    }
    out.sort_by(|a, b| a.kernel.cmp(&b.kernel));
    Ok(out)
}
