//! Test cases of ops: inputs drawn from a seed, at the sizes that an op lists and at those of an opened model.
//!
//! A case is content: its arrays follow from seed, op, sizes and types by integer arithmetic alone, so that a verdict
//! can be replayed on any machine.

use std::sync::Arc;

use super::blocks::{Blocks, synthetic};
use super::contract::{Access, Arg, Contract, Elem, Rounding, Scalar, Span};
use super::draw::Draw;
use super::expr;
use super::{Call, Op, Slot, Weight};
use crate::error::{Error, Result};
use crate::model::quant::DType;

/// Positions of the longest context that a plan allows.
pub const POSITIONS: usize = 1 << 20;

/// Most tokens of one step. No case has more, so no session runs more.
pub const STEP_TOKENS: usize = 8192;

/// From here on a step is a long one, of which an op meets few.
pub const LONG_STEP: usize = 2000;

/// Contents of an activation argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

impl Values {
    pub fn len(&self) -> usize {
        match self {
            Values::F32(v) => v.len(),
            Values::I32(v) => v.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Values::F32(v) => bytemuck::cast_slice(v),
            Values::I32(v) => bytemuck::cast_slice(v),
        }
    }
}

#[derive(Clone, Debug)]
pub struct OwnedWeight {
    pub dtype: DType,
    pub k: usize,
    pub rows: usize,
    /// Shared: a case of one token is made from a long one hundreds of times.
    pub bytes: Arc<Vec<u8>>,
}

impl OwnedWeight {
    pub fn view(&self) -> Weight<'_> {
        Weight { dtype: self.dtype, k: self.k, rows: self.rows, bytes: &self.bytes }
    }
}

/// One invocation of an op with everything that it reads.
#[derive(Clone)]
pub struct Case {
    pub label: String,
    pub op: &'static dyn Op,
    pub dims: Vec<i64>,
    pub steps: Vec<i32>,
    pub scalars: Vec<f64>,
    /// In the contract's order; `Write` arguments hold zeros of the right length, `None` is an absent optional one.
    pub args: Vec<Option<Values>>,
    pub weights: Vec<Option<OwnedWeight>>,
}

impl Case {
    pub fn contract(&self) -> &'static Contract {
        self.op.contract()
    }

    pub fn tokens(&self) -> usize {
        let i = self.contract().steps.iter().position(|s| *s == "T").or(self
            .contract()
            .steps
            .iter()
            .position(|s| *s == "R"));
        i.map_or(1, |i| self.steps[i].max(0) as usize)
    }

    pub fn symbol(&self, name: &str) -> Option<i64> {
        let c = self.contract();
        if let Some(i) = c.dims.iter().position(|d| *d == name) {
            return Some(self.dims[i]);
        }
        c.steps.iter().position(|s| *s == name).map(|i| i64::from(self.steps[i]))
    }

    /// Runs the oracle over a copy; the result holds the written and updated arguments, the others are `None`.
    pub fn expected(&self, rounding: Rounding) -> Result<Vec<Option<Values>>> {
        let weights: Vec<_> = self.weights.iter().map(|w| w.as_ref().map(OwnedWeight::view)).collect();
        self.expected_with(&weights, rounding)
    }

    /// The same with weights from elsewhere: a model's own are borrowed from its file.
    pub fn expected_with(&self, weights: &[Option<Weight<'_>>], rounding: Rounding) -> Result<Vec<Option<Values>>> {
        let mut args = self.args.clone();
        let c = self.contract();
        let mut call = Call {
            contract: c,
            slots: args
                .iter_mut()
                .zip(c.args)
                .map(|(v, a)| match (v, a.access) {
                    (None, _) => Slot::Absent,
                    (Some(Values::F32(v)), Access::Read) => Slot::F32(v),
                    (Some(Values::I32(v)), Access::Read) => Slot::I32(v),
                    (Some(Values::F32(v)), _) => Slot::F32Mut(v),
                    (Some(Values::I32(v)), _) => Slot::I32Mut(v),
                })
                .collect(),
            weights: weights.to_vec(),
            steps: self.steps.clone(),
            dims: self.dims.clone(),
            scalars: self.scalars.clone(),
            rounding,
        };
        self.op.oracle(&mut call)?;
        drop(call);
        Ok(args.into_iter().zip(c.args).map(|(v, a)| if a.access == Access::Read { None } else { v }).collect())
    }

    /// The case of token `t` alone, for ops whose tokens do not depend on each other.
    pub fn token(&self, t: usize) -> Case {
        let c = self.contract();
        let n = self.tokens();
        let steps = c.steps.iter().zip(&self.steps).map(|(name, v)| match *name {
            "T" | "R" => 1,
            "pos0" => v + t as i32,
            _ => *v,
        });
        // Not a clone that is cut: a long case's arrays are copied for hundreds of tokens.
        let args = c.args.iter().zip(&self.args).map(|(arg, value)| {
            if !matches!(arg.shape.first(), Some(&"T" | &"R")) {
                return value.clone();
            }
            value.as_ref().map(|v| match v {
                Values::F32(v) => Values::F32(v[v.len() / n * t..][..v.len() / n].to_vec()),
                Values::I32(v) => Values::I32(v[v.len() / n * t..][..v.len() / n].to_vec()),
            })
        });
        Case {
            label: format!("{} token {t}", self.label),
            op: self.op,
            dims: self.dims.clone(),
            steps: steps.collect(),
            scalars: self.scalars.clone(),
            args: args.collect(),
            weights: self.weights.clone(),
        }
    }
}

/// A case under construction. An op's [`Op::size`] sets steps and scalars and may change free dims; noise fills the
/// arrays; [`Op::fill`] then replaces what must not be noise.
pub struct Draft<'d> {
    pub draw: &'d mut Draw,
    pub tokens: usize,
    /// Whether weights are the model's: dims that they fix, and scalars, must stay.
    pub real: bool,
    /// Whether positions and indices lie at the far end of their range.
    pub far: bool,
    pub blocks: Blocks,
    /// The case's number among those of its verdict: what must not be left to chance goes round by it.
    pub turn: usize,
    /// What the kernel may round its operands to. An honest implementation that loses all of a value would excuse
    /// anything, so none is drawn that it cannot hold.
    pub rounding: Rounding,
    /// The first position modulo the op's period, where it is given.
    pub phase: Option<usize>,
    pub case: Case,
}

impl Draft<'_> {
    pub fn dim(&self, name: &str) -> usize {
        self.case.symbol(name).unwrap_or(0).max(0) as usize
    }

    pub fn set_dim(&mut self, name: &str, value: usize) {
        if let Some(i) = self.case.contract().dims.iter().position(|d| *d == name) {
            self.case.dims[i] = value as i64;
        }
    }

    pub fn set_step(&mut self, name: &str, value: usize) {
        if let Some(i) = self.case.contract().steps.iter().position(|s| *s == name) {
            self.case.steps[i] = value as i32;
        }
    }

    /// Sets a scalar that goes with the sizes ([`Span::Sized`]), unless the model gave it.
    pub fn set_scalar(&mut self, name: &str, value: f64) {
        if let (false, Some(i)) = (self.real, self.case.contract().scalars.iter().position(|s| s.name == name)) {
            self.case.scalars[i] = value;
        }
    }

    /// Leaves an optional argument out.
    pub fn leave_out(&mut self, name: &str) {
        if let Some(i) = self.case.contract().arg(name) {
            self.case.args[i] = None;
        }
    }

    pub fn f32(&mut self, name: &str) -> &mut [f32] {
        match self.case.contract().arg(name).and_then(|i| self.case.args[i].as_mut()) {
            Some(Values::F32(v)) => v,
            _ => &mut [],
        }
    }

    pub fn i32(&mut self, name: &str) -> &mut [i32] {
        match self.case.contract().arg(name).and_then(|i| self.case.args[i].as_mut()) {
            Some(Values::I32(v)) => v,
            _ => &mut [],
        }
    }

    /// Elements of an f32 weight that a case may choose: none of the model's own, and none that is absent.
    pub fn weight(&self, name: &str) -> Option<Vec<f32>> {
        let i = self.case.contract().weight(name).filter(|_| !self.real)?;
        let weight = self.case.weights[i].as_ref().filter(|w| w.dtype == DType::F32)?;
        Some(weight.view().to_vec())
    }

    /// Replaces the elements that [`weight`](Draft::weight) gave.
    pub fn set_weight(&mut self, name: &str, values: &[f32]) {
        if let Some(i) = self.case.contract().weight(name)
            && let Some(weight) = &mut self.case.weights[i]
        {
            weight.bytes = Arc::new(bytemuck::cast_slice(values).to_vec());
        }
    }

    /// A position to start from: 0 in a third of the cases, else up to `most`; near it in a far case. Moved to the case's
    /// phase where it has one.
    pub fn position(&mut self, most: usize) -> usize {
        let mut pos0 = match () {
            () if self.far => self.draw.between(most - most / 16, most),
            () if self.draw.below(3) == 0 => 0,
            () => self.draw.below(most + 1),
        };
        if let (Some(phase), Some(period)) = (self.phase, self.case.op.period(&self.case.dims)) {
            pos0 = pos0 / period * period + phase;
        }
        self.set_step("pos0", pos0);
        pos0
    }

    /// Token ids below `vocab`, and in every other case some that are none: they stand for 0.
    pub fn draw_ids(&mut self, vocab: usize) {
        let outside = [-1, i32::MIN, i32::MAX, i32::try_from(vocab).unwrap_or(i32::MAX)];
        let ids: Vec<i32> = (0..self.tokens)
            .map(|_| match self.draw.below(8) {
                0 if self.turn.is_multiple_of(2) => self.draw.pick(&outside),
                _ => self.index(vocab) as i32,
            })
            .collect();
        self.i32("ids").copy_from_slice(&ids);
    }

    /// An index below `n`; in a far case one of the last sixteenth.
    pub fn index(&mut self, n: usize) -> usize {
        let first = if self.far { n - n.div_ceil(16) } else { 0 };
        self.draw.between(first, n - 1)
    }
}

/// Where a case's sizes and weights come from.
pub struct Sizes<'s> {
    pub dims: &'s [i64],
    /// See [`Op::far`].
    pub far: bool,
    /// Types of the weights, in the contract's order, for synthetic ones.
    pub types: &'s [DType],
    pub blocks: Blocks,
    /// See [`Draft::turn`].
    pub turn: usize,
    /// What the variant may take: values stay within it.
    pub rounding: Rounding,
    pub way: Way,
    /// The first position modulo [`Op::period`]; drawn where it is `None`.
    pub phase: Option<usize>,
    /// The model's own tensors and scalars instead.
    pub real: Option<Real<'s>>,
}

impl<'s> Sizes<'s> {
    /// Drawn, of usual size, not far, and for operands that are not rounded.
    pub fn of(dims: &'s [i64], types: &'s [DType]) -> Sizes<'s> {
        Sizes {
            dims,
            far: false,
            types,
            blocks: Blocks::Usual,
            turn: 0,
            rounding: Rounding::None,
            way: Way::default(),
            phase: None,
            real: None,
        }
    }
}

/// A way in which an op is called. What is `None` is drawn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// Its flag up or down.
    flag: Option<bool>,
    /// Without its optional inputs, or with all of them.
    without: Option<bool>,
}

impl Way {
    /// All ways, as far as an op has a flag and optional inputs.
    pub fn all(op: &dyn Op) -> Vec<Way> {
        let c = op.contract();
        let both = |has: bool| if has { vec![Some(false), Some(true)] } else { vec![None] };
        let flags = both(c.scalars.iter().any(Scalar::is_flag));
        let optional = c.args.iter().any(|a| a.optional) || c.weights.iter().any(|w| w.optional);
        both(optional)
            .into_iter()
            .flat_map(|without| flags.iter().map(move |flag| Way { flag: *flag, without }))
            .collect()
    }
}

pub struct Real<'s> {
    pub weights: Vec<Option<Weight<'s>>>,
    pub scalars: &'s [f64],
    /// Arguments that the instance lacks.
    pub absent: Vec<bool>,
}

/// Draws a case of `tokens` tokens.
pub fn draw_case(
    op: &'static dyn Op,
    sizes: &Sizes<'_>,
    tokens: usize,
    draw: &mut Draw,
    label: String,
) -> Result<Case> {
    let c = op.contract();
    let bug = |what: &str| Error::internal(format!("case {label}: {what}"));
    let Way { flag, without } = sizes.way;
    let case = Case {
        label: label.clone(),
        op,
        dims: sizes.dims.to_vec(),
        steps: c.steps.iter().map(|s| if matches!(*s, "T" | "R") { tokens as i32 } else { 0 }).collect(),
        scalars: match &sizes.real {
            Some(r) => r.scalars.to_vec(),
            None => (c.scalars.iter())
                .map(|s| match flag.filter(|_| s.is_flag()) {
                    Some(up) => f64::from(u8::from(up)),
                    None => drawn_scalar(s.span, draw),
                })
                .collect(),
        },
        args: vec![Some(Values::F32(vec![])); c.args.len()],
        weights: vec![None; c.weights.len()],
    };
    let mut draft = Draft {
        draw,
        tokens,
        real: sizes.real.is_some(),
        far: sizes.far,
        blocks: sizes.blocks,
        turn: sizes.turn,
        rounding: sizes.rounding,
        phase: sizes.phase,
        case,
    };
    op.size(&mut draft);
    for (i, slot) in c.weights.iter().enumerate() {
        if let Some(real) = &sizes.real {
            draft.case.weights[i] = real.weights[i].map(|w| OwnedWeight {
                dtype: w.dtype,
                k: w.k,
                rows: w.rows,
                bytes: Arc::new(w.bytes.to_vec()),
            });
            continue;
        }
        if slot.optional && without.unwrap_or_else(|| draft.draw.below(4) == 0) {
            continue;
        }
        let dims: Vec<usize> = slot.dims.iter().map(|d| eval(d, &draft.case)).collect::<Result<_>>()?;
        let dtype = sizes.types.get(i).copied().unwrap_or(slot.types[0]);
        let (k, rows) = (dims[0], dims[1..].iter().product());
        // Gains, biases and sinks have no blocks, and are of one size: an op that wants another sets it.
        let blocks = if slot.types.len() > 1 { sizes.blocks } else { Blocks::Usual };
        let bytes =
            synthetic(dtype, k, rows, blocks, draft.draw).ok_or_else(|| bug("a row is no whole number of blocks"))?;
        draft.case.weights[i] = Some(OwnedWeight { dtype, k, rows, bytes: Arc::new(bytes) });
    }
    for (i, arg) in c.args.iter().enumerate() {
        let given = draft.case.args[i].is_some();
        let absent = match &sizes.real {
            Some(real) => real.absent[i],
            // A long case is rare, and what is wrong past some token may lie in what an optional argument is read for.
            None if !arg.optional => false,
            None => {
                without.unwrap_or_else(|| !(LONG_STEP..LONG_STEP + 1000).contains(&tokens) && draft.draw.below(2) == 0)
            }
        };
        draft.case.args[i] = if given && !absent { Some(noise(arg, &draft.case, draft.draw)?) } else { None };
    }
    op.fill(&mut draft);
    Ok(draft.case)
}

/// Whether weights of these types can have these sizes: rows are whole numbers of blocks.
pub fn fits(op: &dyn Op, dims: &[i64], types: &[DType]) -> bool {
    let c = op.contract();
    let symbol = |name: &str| c.dims.iter().position(|d| *d == name).map(|i| dims[i]);
    c.weights
        .iter()
        .zip(types)
        .all(|(slot, dtype)| expr::size(slot.dims[0], &symbol).is_some_and(|k| dtype.row_bytes(k).is_some()))
}

fn eval(text: &str, case: &Case) -> Result<usize> {
    expr::size(text, &|s| case.symbol(s))
        .ok_or_else(|| Error::internal(format!("case {}: `{text}` has no value", case.label)))
}

fn noise(arg: &Arg, case: &Case, draw: &mut Draw) -> Result<Values> {
    let n: usize = arg.shape.iter().map(|s| eval(s, case)).product::<Result<usize>>()?;
    Ok(match (arg.elem, arg.access) {
        (Elem::I32, _) => Values::I32(vec![0; n]),
        (Elem::F32, Access::Write) => Values::F32(vec![0.0; n]),
        (Elem::F32, _) => {
            let mut v = vec![0.0; n];
            draw.fill_noise(&mut v);
            Values::F32(v)
        }
    })
}

/// A value that f32 has, or a kernel would be given another than the oracle.
fn drawn_scalar(span: Span, draw: &mut Draw) -> f64 {
    let value = match span {
        Span::Of(values) => values[draw.below(values.len())],
        Span::Flag => draw.below(2) as f64,
        Span::Between(low, high) => low + (high - low) * f64::from(draw.unit()),
        Span::Powers(low, high) => low * libm::pow(high / low, f64::from(draw.unit())),
        Span::Sized => 0.0,
    };
    f64::from(value as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::OPS;

    /// A scalar that is the same in every case may as well stand in the kernel.
    #[test]
    fn every_scalar_differs_between_cases() {
        for op in OPS {
            let c = op.contract();
            let types: Vec<_> = c.weights.iter().map(|w| w.types[0]).collect();
            let sizes = Sizes::of(op.presets()[0], &types);
            let mut draw = Draw::new(&[2; 32], c.op);
            let drawn: Vec<Vec<f64>> = (0..12)
                .map(|i| draw_case(*op, &sizes, 3, &mut draw, format!("{} {i}", c.op)).unwrap().scalars)
                .collect();
            for (i, scalar) in c.scalars.iter().enumerate() {
                assert!(drawn.iter().any(|s| s[i] != drawn[0][i]), "{}: {} is {}", c.op, scalar.name, drawn[0][i]);
            }
        }
    }

    /// Rows of an odd number of blocks of 32, and of a number that is no multiple of 32, where a type has such.
    #[test]
    fn short_blocks_meet_ragged_rows() {
        for op in OPS.iter().filter(|op| op.contract().typed_slots().next().is_some()) {
            let c = op.contract();
            for dtype in c.typed_slots().flat_map(|(_, w)| w.types).filter(|t| t.block_elems() <= 32) {
                let types: Vec<_> =
                    c.weights.iter().map(|w| if w.types.len() > 1 { *dtype } else { w.types[0] }).collect();
                let widths: Vec<i64> = (c.weights.iter().filter(|w| w.types.len() > 1))
                    .flat_map(|w| {
                        let symbol = c.dims.iter().position(|d| *d == w.dims[0]);
                        let fit = op.presets().iter().filter(|d| fits(*op, d, &types));
                        fit.filter_map(move |d| Some(d[symbol?])).collect::<Vec<_>>()
                    })
                    .collect();
                // The compressor's bias has a table's width, which is no row of products.
                if !widths.is_empty() {
                    assert!(widths.iter().any(|k| k % 64 == 32), "{} {dtype:?}: {widths:?}", c.op);
                    assert!(!dtype.is_plain() || widths.iter().any(|k| k % 32 != 0), "{} {dtype:?}", c.op);
                }
            }
        }
    }

    #[test]
    fn every_op_draws_finite_cases_at_its_own_sizes() {
        for op in OPS {
            let c = op.contract();
            for (i, dims) in op.presets().iter().enumerate() {
                assert_eq!(dims.len(), c.dims.len(), "{} preset {i}", c.op);
                for tokens in [1, 3] {
                    if op.macs(dims, tokens) > 20_000_000 {
                        continue;
                    }
                    let types: Vec<_> = c.weights.iter().map(|w| w.types[0]).collect();
                    if !fits(*op, dims, &types) {
                        continue;
                    }
                    let sizes = Sizes::of(dims, &types);
                    let case = draw_case(*op, &sizes, tokens, &mut Draw::new(&[1; 32], c.op), format!("{} {i}", c.op))
                        .unwrap();
                    let out = case.expected(Rounding::None).unwrap();
                    for (arg, v) in c.args.iter().zip(&out) {
                        // A hidden row's score is −∞, and so is what f16 has no room for.
                        if let Some(Values::F32(v)) = v
                            && !matches!(arg.name, "s" | "cache")
                        {
                            assert!(v.iter().all(|x| x.is_finite()), "{} {} preset {i}", c.op, arg.name);
                        }
                    }
                }
            }
        }
    }
}
