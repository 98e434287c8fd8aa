//! The one lowering: plan + architecture + kernels → which implementation computes each op instance, with its launches.
//!
//! A schedule is symbolic. Its digest is taken over the plan at canonical sizes and over every variant that some token
//! count selects, so that it names sources and variants and no run's sizes, cubins or library versions.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::kernels::{KernelTree, digest_json};
use super::manifest::Variant;
use super::{Extent, Instance, Numerics, Plan, PlanOptions, StepField};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::expr::Expr;
use crate::ops::{Access, Contract, Node, Rounding};

/// The kernel and variant that compute a node.
#[derive(Debug)]
pub struct Choice {
    pub stem: String,
    pub variant: Variant,
}

/// Per instance of the plan, the choice, or `None` where no kernel exists.
pub struct Schedule {
    pub arch: String,
    /// The most tokens that a step of this schedule has; at most the plan's.
    pub tokens: usize,
    pub choices: Vec<Option<Arc<Choice>>>,
}

/// A launch with its numbers filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Geometry {
    pub entry: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
}

impl Schedule {
    /// What the variant of an instance rounds its operands to.
    pub fn rounding(&self, instance: usize) -> Rounding {
        self.choices[instance].as_ref().map_or(Rounding::None, |c| c.variant.rounding)
    }

    /// Chooses a variant for every instance. A broken manifest is an error here; `assay verify` reports it per node.
    pub fn lower(plan: &Plan, tree: &KernelTree, arch: &str, tokens: usize) -> Result<Schedule> {
        Schedule::lower_for(plan, tree, arch, tokens, |_| true)
    }

    /// The same with the other nodes left to the oracle: what is wrong with their kernels does not matter.
    pub fn lower_for(
        plan: &Plan,
        tree: &KernelTree,
        arch: &str,
        tokens: usize,
        wanted: impl Fn(&Node) -> bool,
    ) -> Result<Schedule> {
        let mut chosen: HashMap<&Node, Option<Arc<Choice>>> = HashMap::new();
        let mut choices = Vec::new();
        for instance in &plan.instances {
            if let Some(choice) = chosen.get(&instance.node) {
                choices.push(choice.clone());
                continue;
            }
            let choice = match tree.kernel(&instance.node).filter(|_| wanted(&instance.node)) {
                None => None,
                Some(kernel) => {
                    let kernel = kernel?;
                    let variants = kernel.selectable(&instance.node, plan.numerics, arch);
                    let fit = variants.into_iter().find(|v| v.takes(tokens));
                    fit.map(|v| Arc::new(Choice { stem: kernel.stem.into(), variant: v.clone() }))
                }
            };
            chosen.insert(&instance.node, choice.clone());
            choices.push(choice);
        }
        Ok(Schedule { arch: arch.into(), tokens, choices })
    }

    /// The launches of instance `i`, sized for the worst step of this schedule.
    pub fn launches(&self, plan: &Plan, i: usize) -> Result<Vec<Geometry>> {
        let Some(choice) = &self.choices[i] else { return Ok(vec![]) };
        let instance = &plan.instances[i];
        let worst = |field: StepField| plan.worst_of(field, self.tokens) as i64;
        geometry(&choice.variant, &|name| bind(instance, name, &worst))
            .map_err(|e| e.expected(format!("a launch of {}", instance.label)))
    }

    /// Bytes of scratch memory that instance `i` needs.
    pub fn scratch(&self, plan: &Plan, i: usize) -> Result<u64> {
        let Some(choice) = &self.choices[i] else { return Ok(0) };
        let instance = &plan.instances[i];
        let worst = |field: StepField| plan.worst_of(field, self.tokens) as i64;
        scratch(&choice.variant, &|name| bind(instance, name, &worst))
    }
}

fn bind(instance: &Instance, name: &str, worst: &dyn Fn(StepField) -> i64) -> Option<i64> {
    let contract = instance.contract();
    if let Some(d) = contract.dims.iter().position(|d| *d == name) {
        return Some(instance.dims[d]);
    }
    let s = contract.steps.iter().position(|s| *s == name)?;
    Some(worst(instance.steps[s]))
}

/// Evaluates a variant's launches under a binding of the contract's symbols.
pub fn geometry(variant: &Variant, lookup: &dyn Fn(&str) -> Option<i64>) -> Result<Vec<Geometry>> {
    let fail = |what: String| Error::new(&super::manifest::MANIFEST, format!("variant {}: {what}", variant.name));
    let eval = |e: &Expr| e.eval(lookup).map_err(|e| fail(e.to_string()));
    variant
        .launches
        .iter()
        .map(|l| {
            let mut grid = [0u32; 3];
            for (axis, (out, e)) in grid.iter_mut().zip(&l.grid).enumerate() {
                let limit = if axis == 0 { i64::from(i32::MAX) } else { 65535 };
                let v = eval(e)?;
                if v < 1 || v > limit {
                    return Err(fail(format!("grid term `{e}` is {v}, not 1 to {limit}")));
                }
                *out = v as u32;
            }
            let shared = l.shared.as_ref().map(eval).transpose()?.unwrap_or(0);
            let shared = u32::try_from(shared).map_err(|_| fail(format!("{shared} bytes of shared memory")))?;
            Ok(Geometry { entry: l.entry.clone(), grid, block: l.block, shared })
        })
        .collect()
}

/// Evaluates a variant's scratch size.
pub fn scratch(variant: &Variant, lookup: &dyn Fn(&str) -> Option<i64>) -> Result<u64> {
    let fail =
        |what: String| Error::new(&super::manifest::MANIFEST, format!("variant {}: scratch: {what}", variant.name));
    let Some(e) = &variant.scratch else { return Ok(0) };
    let bytes = e.eval(lookup).map_err(|e| fail(e.to_string()))?;
    u64::try_from(bytes).map_err(|_| fail(format!("{bytes} bytes")))
}

/// Sizes that digests are taken at; any run's own sizes stay symbols.
pub fn canonical(numerics: Numerics) -> PlanOptions {
    PlanOptions { numerics, max_tokens: 512, max_outputs: 1, context: 4096 }
}

/// What an architecture's schedule of a model consists of, node by node; the source of every schedule digest.
pub struct Lowering {
    pub plan: Plan,
    slices: HashMap<Node, Value>,
}

impl Lowering {
    pub fn of(model: &Model, tree: &KernelTree, arch: &str, numerics: Numerics) -> Result<Lowering> {
        let plan = Plan::build(model, canonical(numerics))?;
        let mut slices: HashMap<Node, Value> = HashMap::new();
        for instance in &plan.instances {
            let slice = slices.entry(instance.node.clone()).or_insert_with(|| {
                let implementation = match tree.kernel(&instance.node) {
                    None => Value::Null,
                    Some(Err(e)) => json!({ "broken": e.to_string() }),
                    Some(Ok(kernel)) => json!({
                        "stem": kernel.stem,
                        "closure": tree.closure(&instance.node, &kernel).ok(),
                        "variants": kernel.selectable(&instance.node, numerics, arch).iter().map(|v| v.describe()).collect::<Vec<_>>(),
                    }),
                };
                json!({ "node": instance.node.to_string(), "implementation": implementation, "instances": [] })
            });
            if let Some(list) = slice["instances"].as_array_mut() {
                list.push(describe(&plan, instance, model));
            }
        }
        Ok(Lowering { plan, slices })
    }

    /// Digest of one node's launches and the layout of the buffers that they touch.
    pub fn slice_digest(&self, node: &Node) -> Option<String> {
        self.slices.get(node).map(digest_json)
    }

    /// Digest of the whole schedule: every node's slice, and the order of the instances.
    pub fn digest(&self, arch: &str) -> String {
        let order: Vec<Value> = self
            .plan
            .instances
            .iter()
            .map(|i| json!({ "label": i.label, "node": i.node.to_string(), "guard": i.guard }))
            .collect();
        let mut slices: Vec<_> = self.slices.iter().map(|(n, s)| (n.to_string(), digest_json(s))).collect();
        slices.sort();
        digest_json(&json!({ "arch": arch, "numerics": self.plan.numerics, "order": order, "slices": slices }))
    }
}

/// An instance as its slice records it: bindings by name, layouts, no addresses.
fn describe(plan: &Plan, instance: &Instance, model: &Model) -> Value {
    let contract: &Contract = instance.contract();
    let args: Vec<Value> = contract
        .args
        .iter()
        .zip(&instance.args)
        .map(|(arg, buffer)| match buffer {
            None => Value::Null,
            Some(b) => {
                let buffer = &plan.buffers[b.0];
                let shape: Vec<Value> = buffer
                    .shape
                    .iter()
                    .map(|e| match e {
                        Extent::Fixed(n) => json!(n),
                        Extent::Step(f) => json!(f.name()),
                    })
                    .collect();
                let access = match arg.access {
                    Access::Read => "read",
                    Access::Write => "write",
                    Access::Update => "update",
                };
                json!({ "arg": arg.name, "access": access, "elem": buffer.elem, "shape": shape })
            }
        })
        .collect();
    let weights: Vec<Value> = instance
        .weights
        .iter()
        .map(|w| match w.as_ref().and_then(|w| model.tensor(w)) {
            None => Value::Null,
            Some(t) => json!({ "tensor": t.name, "type": t.dtype.name(), "dims": t.dims, "repack": "none" }),
        })
        .collect();
    json!({
        "label": instance.label,
        "guard": instance.guard,
        "args": args,
        "weights": weights,
        "dims": instance.dims,
        "scalars": instance.scalars.iter().map(|s| format!("{s:e}")).collect::<Vec<_>>(),
    })
}
