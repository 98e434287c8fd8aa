//! What a verdict binds (docs/ledger.md): computed from a tree of kernels and the opened model.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{PROTOCOL, asked, weights, whole};
use crate::error::{Error, Result};
use crate::ledger::{Binding, ClosureSource, Closures, Digest, closure_of};
use crate::model::{DType, Model};
use crate::ops::cases::{STEP_TOKENS, Sizes, draw_case, fits};
use crate::ops::draw::Draw;
use crate::ops::{self, Node, Op, Rounding};
use crate::plan::coverage::Written;
use crate::plan::kernels::{KernelTree, digest_json};
use crate::plan::schedule::{Lowering, canonical};
use crate::plan::{Numerics, Plan};

/// Opens trees of kernels for one model.
pub struct Workshop<'m> {
    model: &'m Model,
    weights: Digest,
}

impl<'m> Workshop<'m> {
    /// Hashes the weights, or finds their digest in the cache.
    pub fn new(model: &'m Model) -> Result<Workshop<'m>> {
        Ok(Workshop { model, weights: weights::digest(model)? })
    }

    pub fn tree(&self, kernels: &Path) -> Result<Tree<'m>> {
        Ok(Tree {
            tree: KernelTree::open(kernels)?,
            model: self.model,
            weights: self.weights,
            lowerings: RefCell::default(),
        })
    }
}

impl Closures for Workshop<'_> {
    fn of(&self, kernels: &Path) -> Result<Box<dyn ClosureSource + '_>> {
        Ok(Box::new(self.tree(kernels)?))
    }
}

/// One tree of kernels under the model.
pub struct Tree<'m> {
    tree: KernelTree,
    model: &'m Model,
    weights: Digest,
    /// By architecture and numerics.
    lowerings: RefCell<HashMap<(String, Numerics), Lowering>>,
}

/// Every node of a prefill or decode in either numerics, in plan order.
pub fn nodes_of(model: &Model) -> Result<Vec<Node>> {
    let mut out: Vec<Node> = Vec::new();
    for numerics in [Numerics::Ds4, Numerics::Exact] {
        for i in &Plan::build(model, canonical(numerics))?.instances {
            if !out.contains(&i.node) {
                out.push(i.node.clone());
            }
        }
    }
    Ok(out)
}

impl Tree<'_> {
    /// Whether the node has a kernel that can be read; only such a one can be bound.
    fn usable(&self, node: &Node) -> bool {
        matches!(Written::of(&self.tree, node), Written::Present { .. })
    }

    fn lowered<T>(&self, arch: &str, numerics: Numerics, of: impl FnOnce(&Lowering) -> T) -> Result<T> {
        let mut lowerings = self.lowerings.borrow_mut();
        let lowering = match lowerings.entry((arch.to_string(), numerics)) {
            Entry::Occupied(e) => e.into_mut(),
            Entry::Vacant(e) => e.insert(Lowering::of(self.model, &self.tree, arch, numerics)?),
        };
        Ok(of(lowering))
    }
}

impl ClosureSource for Tree<'_> {
    fn nodes(&self) -> Vec<Node> {
        let nodes = nodes_of(self.model).unwrap_or_default();
        nodes.into_iter().filter(|n| self.usable(n)).collect()
    }

    fn binding(&self, node: &Node, arch: &str, numerics: Numerics) -> Result<Binding> {
        let kernel = self.tree.require(node)?;
        let slice = self.lowered(arch, numerics, |lowering| lowering.slice_digest(node))?.ok_or_else(|| {
            Error::new(
                &crate::plan::kernels::KERNEL_ABSENT,
                format!("{node} is no node of this file in {}", numerics.name()),
            )
        })?;
        let parse = |text: String| text.parse::<Digest>().map_err(Error::internal);
        let (cases, oracle_outputs) = oracle(node)?;
        Ok(Binding {
            closure: parse(self.tree.closure(node, &kernel)?)?,
            schedule_slice: parse(slice)?,
            numerics,
            weights: self.weights,
            arch: arch.into(),
            protocol: PROTOCOL,
            cases,
            oracle_outputs,
        })
    }

    fn schedule(&self, arch: &str) -> Result<Option<(Binding, BTreeMap<String, Digest>)>> {
        let (mut parts, mut cases, mut outputs) = (BTreeMap::new(), Vec::new(), Vec::new());
        for node in nodes_of(self.model)? {
            if !self.usable(&node) {
                return Ok(None);
            }
            // Either numerics will do: neither closure nor cases depend on them.
            let exact = || self.binding(&node, arch, Numerics::Exact);
            let binding = self.binding(&node, arch, Numerics::Ds4).or_else(|_| exact())?;
            cases.extend_from_slice(&binding.cases.0);
            outputs.extend_from_slice(&binding.oracle_outputs.0);
            parts.insert(node.to_string(), binding.closure);
        }
        cases.extend_from_slice(whole::RULES.as_bytes());
        let mut digests = serde_json::Map::new();
        for numerics in whole::numerics_of(self.model, &self.tree, arch)? {
            let digest = self.lowered(arch, numerics, |lowering| lowering.digest(arch))?;
            digests.insert(numerics.name().into(), digest.into());
        }
        let digest: Digest = digest_json(&digests.into()).parse().map_err(Error::internal)?;
        let binding = Binding {
            closure: closure_of(&parts),
            schedule_slice: digest,
            numerics: Numerics::Ds4,
            weights: self.weights,
            arch: arch.into(),
            protocol: PROTOCOL,
            cases: Digest::of(&cases),
            oracle_outputs: Digest::of(&outputs),
        };
        Ok(Some((binding, parts)))
    }

    fn touched(&self, changed: &[PathBuf]) -> Vec<Node> {
        let mut out = Vec::new();
        for node in self.nodes() {
            let Some(Ok(kernel)) = self.tree.kernel(&node) else { continue };
            let manifest = PathBuf::from(format!("{}.toml", kernel.stem));
            let sources = self.tree.source(&kernel).map(|s| s.files.keys().map(PathBuf::from).collect::<Vec<_>>());
            let files = sources.unwrap_or_default();
            if changed.iter().any(|c| *c == manifest || files.contains(c)) {
                out.push(node);
            }
        }
        out
    }
}

/// Work of one canonical case: the digest is taken at every `status`.
const CANONICAL_MACS: u64 = 300_000;
/// Product of its dims: a vocabulary's table is not drawn for a digest.
const CANONICAL_SIZE: i64 = 4_000_000;

/// What [`canonical_cases`] has said of each node in this process: `status` asks it for every architecture that the ledger
/// knows, and `new` of two workbenches.
static ORACLES: Mutex<BTreeMap<Node, (Digest, Digest)>> = Mutex::new(BTreeMap::new());

fn oracle(node: &Node) -> Result<(Digest, Digest)> {
    let kept = || ORACLES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(digests) = kept().get(node) {
        return Ok(*digests);
    }
    let digests = canonical_cases(node)?;
    kept().insert(node.clone(), digests);
    Ok(digests)
}

/// Dims, whether far, and tokens of the canonical cases: of those that are small enough, and at the smallest of all where
/// none is, so that no digest is one of nothing.
fn canonical_sizes(op: &'static dyn Op, types: &[DType]) -> Result<Vec<(&'static [i64], bool, usize)>> {
    let near = op.presets().iter().map(|dims| (*dims, false));
    let all: Vec<_> =
        near.chain(op.far().iter().map(|dims| (*dims, true))).filter(|(dims, _)| fits(op, dims, types)).collect();
    let small = |dims: &[i64], tokens: usize| {
        op.macs(dims, tokens) <= CANONICAL_MACS && dims.iter().product::<i64>() <= CANONICAL_SIZE
    };
    let each = all.iter().flat_map(|(dims, far)| [1, 3].map(|tokens| (*dims, *far, tokens)));
    let mut out: Vec<_> = each.filter(|(dims, _, tokens)| small(dims, *tokens)).collect();
    if out.is_empty() {
        let least = all.iter().min_by_key(|(dims, _)| op.macs(dims, 3));
        let (dims, far) =
            least.ok_or_else(|| Error::internal(format!("no case of {} in these types", op.contract().op)))?;
        out.extend([1, 3].map(|tokens| (*dims, *far, tokens)));
    }
    Ok(out)
}

/// Digests of the node's canonical cases and of the oracle's outputs on them: by content, so that a refactor of an
/// oracle which keeps both makes nothing stale. Nothing but the node enters: no tree, no file, no architecture.
fn canonical_cases(node: &Node) -> Result<(Digest, Digest)> {
    let op = ops::find(&node.op).ok_or_else(|| Error::internal(format!("no op {}", node.op)))?;
    let types = asked::slot_types(op, node);
    let (mut asked, mut given) = (Vec::new(), Vec::new());
    for (dims, far, tokens) in canonical_sizes(op, &types)? {
        let label = format!("canonical {node} {dims:?} T={tokens}{}", if far { " far" } else { "" });
        let sizes = Sizes { far, ..Sizes::of(dims, &types) };
        let case = draw_case(op, &sizes, tokens, &mut Draw::new(&[0; 32], &label), label)?;
        asked.extend_from_slice(&Digest::of(case.label.as_bytes()).0);
        asked.extend(case.scalars.iter().flat_map(|s| s.to_le_bytes()));
        asked.extend(case.args.iter().flatten().flat_map(|v| Digest::of(v.bytes()).0));
        asked.extend(case.weights.iter().flatten().flat_map(|w| Digest::of(&w.bytes).0));
        given.extend(case.expected(Rounding::None)?.iter().flatten().flat_map(|v| Digest::of(v.bytes()).0));
    }
    // What is not drawn but listed: the sizes of every case that a verdict may ask.
    asked.extend_from_slice(
        format!("{:?} {:?} {:?} {:?} {STEP_TOKENS}", op.presets(), op.far(), op.long(), op.spans()).as_bytes(),
    );
    Ok((Digest::of(&asked), Digest::of(&given)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest sizes of attention over compressed rows were above the limit, and both digests were of nothing: an
    /// oracle that changed would have made no proof stale.
    #[test]
    fn a_digest_of_canonical_cases_is_of_one_case_at_least() {
        for op in ops::OPS {
            let types = asked::slot_types(*op, &Node { op: op.contract().op.into(), types: Vec::new() });
            assert!(!canonical_sizes(*op, &types).unwrap().is_empty(), "{}", op.contract().op);
        }
        let nothing = Digest::of(&[]);
        for name in ["attention_mixed", "attention_indexed"] {
            let node = Node { op: name.into(), types: Vec::new() };
            assert_ne!(canonical_cases(&node).unwrap().1, nothing, "{name}");
        }
    }
}
