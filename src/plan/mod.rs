//! From a model to ordered op instances, and from those to a schedule.
//!
//! [`Plan`] comes from the model alone and is symbolic: token count, position and row counts stay symbols, so one plan
//! serves a prefill, a later chunk and a decode step. [`graph`] derives nodes and dependencies from it;
//! [`manifest`] reads the kernels beside it, [`coverage`] says which nodes they cover; [`schedule`] is the one lowering.
//! [`port`] knows where upstream computes an op.

mod build;
pub mod coverage;
pub mod graph;
pub mod kernels;
pub mod manifest;
pub mod port;
pub mod rules;
pub mod schedule;
pub mod source;
mod step;
pub(crate) mod tokens;

use serde::{Deserialize, Serialize};

pub use build::PlanOptions;
pub use step::{Guard, STEP_FIELDS, StepField, StepState};

use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::{Contract, Elem, Node, Op};

crate::codes! {
    PLAN_TYPE: "plan-tensor-type", No, "The file holds a tensor in a type that the op reading it has no contract for. The \
        model is well-formed but cannot be run; `assay inspect` lists every such tensor.";
    PLAN_SIZE: "plan-size", Usage, "The context or the step asked for does not fit the model or 32-bit counts.";
}

/// Which of the model's own roundings are applied (docs/design.md, numerics).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Numerics {
    /// No fp8/fp4/f16 roundings; activations in f32. Comparable with transformers.
    Exact,
    /// The production numerics: fp8 KV, Hadamard + fp4 indexer, f16 caches.
    Ds4,
}

impl Numerics {
    pub fn name(self) -> &'static str {
        match self {
            Numerics::Exact => "exact",
            Numerics::Ds4 => "ds4",
        }
    }
}

/// What a buffer is for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Token ids of the step.
    Input,
    /// Lives within a step.
    Temporary,
    /// Lives across steps; starts out with this value everywhere.
    Cache { initial: f32 },
    /// Written once at load: rope tables.
    Constant(#[serde(skip)] Vec<f32>),
    /// The logits.
    Output,
}

/// One dimension of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    Fixed(usize),
    /// As many as this field says, at most [`Plan::worst`].
    Step(StepField),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct BufferIx(pub usize);

#[derive(Clone, Debug, Serialize)]
pub struct Buffer {
    pub name: String,
    pub elem: Elem,
    pub role: Role,
    pub shape: Vec<Extent>,
}

/// One op of the plan: which buffers, tensors and numbers it works on.
#[derive(Clone, Serialize)]
pub struct Instance {
    /// `blk.3.attn_q_a`: unique in the plan.
    pub label: String,
    pub node: Node,
    pub layer: Option<usize>,
    /// In the order of the contract's args; `None` for an absent optional one.
    pub args: Vec<Option<BufferIx>>,
    /// Tensor names, in the order of the contract's weights.
    pub weights: Vec<Option<String>>,
    pub steps: Vec<StepField>,
    pub dims: Vec<i64>,
    pub scalars: Vec<f64>,
    pub guard: Guard,
    #[serde(skip)]
    pub op: &'static dyn Op,
}

impl Instance {
    pub fn contract(&self) -> &'static Contract {
        self.op.contract()
    }

    /// Its label without the layer: what instances of several layers have in common.
    pub fn place(&self) -> &str {
        let layer = self.layer.map(|layer| format!("blk.{layer}."));
        layer.and_then(|layer| self.label.strip_prefix(&layer)).unwrap_or(&self.label)
    }

    /// Value of a contract symbol in this instance: a dim, or a step value under `step`.
    pub fn symbol(&self, name: &str, step: &StepState) -> Option<i64> {
        let contract = self.contract();
        if let Some(i) = contract.dims.iter().position(|d| *d == name) {
            return Some(self.dims[i]);
        }
        let i = contract.steps.iter().position(|s| *s == name)?;
        Some(i64::from(step.get(self.steps[i])))
    }
}

/// The ordered op instances of a step, and the buffers between them.
#[derive(Clone, Serialize)]
pub struct Plan {
    pub numerics: Numerics,
    pub options: PlanOptions,
    /// Rows that the indexer selects: the threshold of [`Guard::Selecting`].
    pub top_k: usize,
    pub buffers: Vec<Buffer>,
    pub instances: Vec<Instance>,
    pub tokens: BufferIx,
    pub logits: BufferIx,
}

impl Plan {
    pub fn build(model: &Model, options: PlanOptions) -> Result<Plan> {
        build::build(model, options)
    }

    /// The largest value that a step field can have in a row count.
    pub fn worst(&self, field: StepField) -> usize {
        self.worst_of(field, self.options.max_tokens)
    }

    /// The same for steps of at most `n` tokens.
    pub fn worst_of(&self, field: StepField, n: usize) -> usize {
        match field {
            StepField::NTokens => n,
            StepField::NOutputs => self.options.max_outputs.min(n),
            StepField::Rows4 => n / 4 + 1,
            StepField::Rows128 => n / 128 + 1,
            StepField::Pos0 => self.options.context,
            StepField::Row0Of4 => self.options.context / 4,
            StepField::Row0Of128 => self.options.context / 128,
        }
    }

    /// Elements to allocate for a buffer.
    pub fn capacity(&self, buffer: BufferIx) -> usize {
        self.elements(buffer, |field| self.worst(field))
    }

    /// Elements in use in one step.
    pub fn used(&self, buffer: BufferIx, step: &StepState) -> usize {
        self.elements(buffer, |field| step.get(field) as usize)
    }

    fn elements(&self, buffer: BufferIx, value: impl Fn(StepField) -> usize) -> usize {
        self.buffers[buffer.0]
            .shape
            .iter()
            .map(|e| match e {
                Extent::Fixed(n) => *n,
                Extent::Step(field) => value(*field),
            })
            .product()
    }

    /// Checks that a step of `n` tokens at `pos0` fits, and gives its state.
    pub fn step(&self, n: usize, pos0: usize, outputs: usize) -> Result<StepState> {
        if n == 0 || n > self.options.max_tokens || outputs > n.min(self.options.max_outputs) {
            return Err(Error::internal(format!(
                "a step of {n} tokens with {outputs} outputs was asked of a plan for {:?}",
                self.options
            )));
        }
        if pos0 + n > self.options.context {
            return Err(Error::new(&PLAN_SIZE, format!("{n} tokens at position {pos0} do not fit the context"))
                .expected(format!("at most {} positions", self.options.context))
                .found(pos0 + n)
                .hint("ask for a longer context with --ctx"));
        }
        Ok(StepState::new(n, pos0, outputs))
    }

    /// The instances that run in this step.
    pub fn active<'p>(&'p self, step: &'p StepState) -> impl Iterator<Item = (usize, &'p Instance)> {
        self.instances.iter().enumerate().filter(|(_, i)| i.guard.holds(step, self.top_k))
    }
}
