//! Contracts: what an op takes, gives and may round, independent of who computes it.
//!
//! A contract fixes the C argument struct ([`super::header`]), the oracle's view of its arguments ([`super::Call`])
//! and what a manifest's expressions may name. Fields of the struct stand in this order: args, weights, steps and
//! `scratch` (pointers), then dims and scalars (32 bits each).

use serde::{Deserialize, Serialize};

use super::expr;
use crate::model::quant::DType;

/// Element type of an activation buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Elem {
    F32,
    I32,
}

impl Elem {
    /// Bytes of one element.
    pub const BYTES: usize = 4;

    pub fn c_name(self) -> &'static str {
        match self {
            Elem::F32 => "float",
            Elem::I32 => "int",
        }
    }
}

/// What an op may do with an argument. An `Update` argument is read and written in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    Read,
    Write,
    Update,
}

/// An activation argument: a dense row-major buffer; the last dimension is contiguous.
#[derive(Debug, Serialize)]
pub struct Arg {
    pub name: &'static str,
    pub elem: Elem,
    pub access: Access,
    /// Expressions over the contract's dims and steps, outermost first.
    pub shape: &'static [&'static str],
    /// Null in some instances.
    pub optional: bool,
    pub doc: &'static str,
}

impl Arg {
    /// `y[T=3, N=17]`: an element by its flat index among `len`. `symbol` gives the sizes.
    pub fn coordinate(&self, len: usize, flat: usize, symbol: &dyn Fn(&str) -> Option<i64>) -> String {
        let size = |text: &&str| expr::size(text, symbol).unwrap_or(1).max(1);
        let mut sizes: Vec<usize> = self.shape[1..].iter().map(size).collect();
        sizes.insert(0, len / sizes.iter().product::<usize>().max(1));
        let (mut rest, mut parts) = (flat, vec![String::new(); self.shape.len()]);
        for i in (0..self.shape.len()).rev() {
            parts[i] = if i == 0 { rest.to_string() } else { (rest % sizes[i]).to_string() };
            rest /= sizes[i].max(1);
        }
        let named: Vec<_> =
            (self.shape.iter().zip(parts)).map(|(s, p)| if s.len() <= 2 { format!("{s}={p}") } else { p }).collect();
        format!("{}[{}]", self.name, named.join(", "))
    }
}

/// A tensor of the model.
#[derive(Debug, Serialize)]
pub struct WeightSlot {
    pub name: &'static str,
    /// Allowed types. More than one: the type is part of the node's name.
    pub types: &'static [DType],
    /// Expressions in ggml order: the contiguous dimension (input width) first.
    pub dims: &'static [&'static str],
    pub optional: bool,
    /// Must have the type of this other slot, and is then not named twice in the node.
    pub same_type_as: Option<&'static str>,
    pub doc: &'static str,
}

/// A per-load constant that is no dimension.
#[derive(Debug, Serialize)]
pub struct Scalar {
    pub name: &'static str,
    pub elem: Elem,
    pub doc: &'static str,
    #[serde(skip)]
    pub span: Span,
}

impl Scalar {
    pub fn is_flag(&self) -> bool {
        matches!(self.span, Span::Flag)
    }
}

/// The values that synthetic cases give to a scalar. Files differ in theirs, so a kernel that knows only one file's is
/// wrong.
#[derive(Clone, Copy, Debug)]
pub enum Span {
    /// Yes or no, 1 or 0.
    Flag,
    /// One of these.
    Of(&'static [f64]),
    /// Between these.
    Between(f64, f64),
    /// Between these, every power of ten as often as another.
    Powers(f64, f64),
    /// It goes with the sizes: [`super::Op::size`] sets it.
    Sized,
}

/// What is added so that a division by a small norm does no harm: any number above 0, 1e-6 in published files.
pub(crate) const EPSILON: Span = Span::Powers(1e-6, 1e-2);
pub(crate) const FLAG: Span = Span::Flag;

/// A rounding of operands that an implementation may take in `ds4` numerics. The honest implementation takes the same,
/// and the tolerance is measured by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// f32 operands (or split f16, which is as good): the only one allowed in `exact`.
    None,
    /// Activations cast to f16 before the products.
    F16,
    /// Activations cast to bf16 before the products.
    Bf16,
    /// Activations as int8 per block of 32 with an f32 scale amax/127 (docs/model.md §17.1).
    Q8_0,
    /// Activations as int8 per block of 256 with an f32 scale (docs/model.md §17.1).
    Q8K,
}

/// How outputs are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// By error against the oracle, with the tolerance that the honest implementation gives.
    Tolerance,
    /// Bit for bit: rounding ops, copies, index lists.
    Exact,
}

/// What an op must do. One `static` per op, in the op's own file.
#[derive(Debug, Serialize)]
pub struct Contract {
    pub op: &'static str,
    /// One sentence with the formula and its section of docs/model.md.
    pub summary: &'static str,
    /// Ids of docs/ops.md.
    pub ops_ids: &'static [&'static str],
    /// Names of the same op upstream (antirez/ds4).
    pub aliases: &'static [&'static str],
    pub args: &'static [Arg],
    pub weights: &'static [WeightSlot],
    /// Values of the current step, as pointers into `StepState`: counts and positions.
    pub steps: &'static [&'static str],
    /// Per-load dimensions.
    pub dims: &'static [&'static str],
    pub scalars: &'static [Scalar],
    /// Allowed in `ds4`, besides `None`.
    pub roundings: &'static [Rounding],
    pub comparison: Comparison,
}

impl Contract {
    pub fn arg(&self, name: &str) -> Option<usize> {
        self.args.iter().position(|a| a.name == name)
    }

    pub fn weight(&self, name: &str) -> Option<usize> {
        self.weights.iter().position(|w| w.name == name)
    }

    /// Whether everything that it writes is state for later steps, so that one step alone cannot show it.
    pub fn outputs_are_state(&self) -> bool {
        self.args.iter().filter(|a| a.access != Access::Read).all(|a| a.name.starts_with("state_"))
    }

    /// Weight slots whose type is part of the node's name.
    pub fn typed_slots(&self) -> impl Iterator<Item = (usize, &'static WeightSlot)> {
        self.weights.iter().enumerate().filter(|(_, w)| w.types.len() > 1 && w.same_type_as.is_none())
    }
}

/// Shorthands that keep contracts readable.
pub(crate) const fn read(name: &'static str, shape: &'static [&'static str], doc: &'static str) -> Arg {
    Arg { name, elem: Elem::F32, access: Access::Read, shape, optional: false, doc }
}

pub(crate) const fn write(name: &'static str, shape: &'static [&'static str], doc: &'static str) -> Arg {
    Arg { name, elem: Elem::F32, access: Access::Write, shape, optional: false, doc }
}

pub(crate) const fn update(name: &'static str, shape: &'static [&'static str], doc: &'static str) -> Arg {
    Arg { name, elem: Elem::F32, access: Access::Update, shape, optional: false, doc }
}

impl Arg {
    pub(crate) const fn i32(mut self) -> Arg {
        self.elem = Elem::I32;
        self
    }

    pub(crate) const fn optional(mut self) -> Arg {
        self.optional = true;
        self
    }
}

pub(crate) const fn weight(
    name: &'static str,
    types: &'static [DType],
    dims: &'static [&'static str],
    doc: &'static str,
) -> WeightSlot {
    WeightSlot { name, types, dims, optional: false, same_type_as: None, doc }
}

impl WeightSlot {
    pub(crate) const fn optional(mut self) -> WeightSlot {
        self.optional = true;
        self
    }

    pub(crate) const fn same_type_as(mut self, other: &'static str) -> WeightSlot {
        self.same_type_as = Some(other);
        self
    }
}

pub(crate) const fn scalar(name: &'static str, span: Span, doc: &'static str) -> Scalar {
    Scalar { name, elem: Elem::F32, doc, span }
}

pub(crate) const fn scalar_i32(name: &'static str, span: Span, doc: &'static str) -> Scalar {
    Scalar { name, elem: Elem::I32, doc, span }
}

/// Types of a dense projection (docs/model.md §2, column "poly").
pub const DENSE: &[DType] = &[DType::F16, DType::F32, DType::Q8_0];
/// Types of routed experts. Q8_0 is read by no published file's kernels, but a file may hold it.
pub const EXPERT: &[DType] = &[DType::IQ2_XXS, DType::Q2_K, DType::Q4_K, DType::Q8_0];
pub const F32_ONLY: &[DType] = &[DType::F32];
