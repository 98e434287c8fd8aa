//! Mutants of the right answer: what the comparison must be able to tell from it.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use half::bf16;
use serde::Serialize;

use super::compare::{self, Reference};
use super::unless;
use crate::error::Result;
use crate::model::quant::DType;
use crate::ops::cases::{Case, Values};
use crate::ops::draw::Draw;
use crate::ops::expr;
use crate::ops::{Access, Comparison, Rounding};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mutant {
    Zeros,
    /// The outputs of the call before.
    LastCall,
    /// The last tile of the outputs as it was before the call.
    LastTileSkipped,
    /// One block's scale doubled.
    ScaleWrong,
    /// Two rows exchanged.
    RowsTransposed,
    HeadSwapped,
    /// Operands at the next lower precision than the variant may take.
    LowerPrecision,
}

pub const MUTANTS: [Mutant; 7] = [
    Mutant::Zeros,
    Mutant::LastCall,
    Mutant::LastTileSkipped,
    Mutant::ScaleWrong,
    Mutant::RowsTransposed,
    Mutant::HeadSwapped,
    Mutant::LowerPrecision,
];

impl Mutant {
    /// Why a mutant means nothing for an op; `None` where it does.
    pub fn left_out(self, case: &Case) -> Option<&'static str> {
        let c = case.contract();
        let outputs = || c.args.iter().filter(|a| a.access != Access::Read);
        match self {
            Mutant::ScaleWrong if !case.weights.iter().flatten().any(|w| is_quantised(w.dtype)) => {
                Some("none of its weights has block scales")
            }
            Mutant::HeadSwapped if !outputs().any(|a| a.shape.get(1) == Some(&"H")) => {
                Some("its outputs have no heads")
            }
            Mutant::LowerPrecision if c.comparison == Comparison::Exact => Some("its outputs are compared bit by bit"),
            _ => None,
        }
    }

    /// Whether it may be made of one array of outputs alone, the others being right: each array must then show it.
    fn is_of_an_array(self) -> bool {
        matches!(self, Mutant::Zeros | Mutant::LastCall | Mutant::LastTileSkipped | Mutant::RowsTransposed)
    }

    /// The outputs that the mutant would give, or `None` where the case is too small for it.
    fn apply(
        self,
        case: &Case,
        reference: &Reference,
        last: Option<&[Option<Values>]>,
        rounding: Rounding,
        draw: &mut Draw,
    ) -> Result<Option<Vec<Option<Values>>>> {
        let c = case.contract();
        let mut out = reference.outputs.clone();
        let outputs: Vec<usize> = (0..out.len()).filter(|i| out[*i].as_ref().is_some_and(|v| !v.is_empty())).collect();
        match self {
            Mutant::Zeros => {
                for i in outputs {
                    match &mut out[i] {
                        Some(Values::F32(v)) => v.fill(0.0),
                        Some(Values::I32(v)) => v.fill(0),
                        None => {}
                    }
                }
            }
            Mutant::LastCall => {
                let Some(last) = last else { return Ok(None) };
                for i in outputs {
                    match (&mut out[i], &last[i]) {
                        (Some(Values::F32(v)), Some(Values::F32(l))) if !l.is_empty() => {
                            (0..v.len()).for_each(|k| v[k] = l[k % l.len()]);
                        }
                        (Some(Values::I32(v)), Some(Values::I32(l))) if !l.is_empty() => {
                            (0..v.len()).for_each(|k| v[k] = l[k % l.len()]);
                        }
                        _ => return Ok(None),
                    }
                }
            }
            Mutant::LastTileSkipped => {
                for i in outputs {
                    match (&mut out[i], &case.args[i]) {
                        (Some(Values::F32(v)), Some(Values::F32(before))) => {
                            // What an in-place op left as it was is no part of its last tile.
                            let written = c.args[i].access == Access::Write;
                            let touched: Vec<usize> = (0..v.len()).filter(|k| written || v[*k] != before[*k]).collect();
                            let tile = (touched.len() / 8).clamp(1, 64);
                            for k in touched.iter().rev().take(tile) {
                                v[*k] = if written { f32::NAN } else { before[*k] };
                            }
                        }
                        (Some(Values::I32(v)), _) => {
                            let tile = (v.len() / 8).clamp(1, 64);
                            let from = v.len() - tile;
                            v[from..].fill(i32::MIN);
                        }
                        _ => {}
                    }
                }
            }
            Mutant::ScaleWrong => {
                // A block may lie in a row that no token meets; then another is tried.
                let mut result = None;
                for _ in 0..32 {
                    let mut other = case.clone();
                    let Some(w) = other.weights.iter_mut().flatten().find(|w| is_quantised(w.dtype)) else { break };
                    let at = if w.dtype == DType::Q2_K { 80 } else { 0 };
                    let (bytes, block) = (w.dtype.block_bytes(), draw.below(w.bytes.len() / w.dtype.block_bytes()));
                    let d = &mut std::sync::Arc::make_mut(&mut w.bytes)[block * bytes + at..][..2];
                    let value = half::f16::from_le_bytes([d[0], d[1]]).to_f32();
                    d.copy_from_slice(&half::f16::from_f32((value * 2.0).clamp(-65504.0, 65504.0)).to_le_bytes());
                    let outputs = other.expected(Rounding::None)?;
                    let met = !compare::indistinct(case, reference, &outputs);
                    result = Some(outputs);
                    if met {
                        break;
                    }
                }
                return Ok(result);
            }
            Mutant::RowsTransposed => {
                let mut swapped = false;
                for i in outputs {
                    let rows = expr::size(c.args[i].shape[0], &|s| case.symbol(s)).unwrap_or(1);
                    if rows < 2 {
                        continue;
                    }
                    swapped = true;
                    match &mut out[i] {
                        Some(Values::F32(v)) => swap(v, rows, draw.below(rows - 1)),
                        Some(Values::I32(v)) => swap(v, rows, draw.below(rows - 1)),
                        None => {}
                    }
                }
                if !swapped {
                    return Ok(None);
                }
            }
            Mutant::HeadSwapped => {
                let (h, n) = (case.symbol("H").unwrap_or(1) as usize, case.tokens());
                if h < 2 || n == 0 {
                    return Ok(None);
                }
                for i in outputs {
                    if let (Some(Values::F32(v)), Some(&"H")) = (&mut out[i], c.args[i].shape.get(1)) {
                        swap(v, n * h, h * draw.below(n));
                    }
                }
            }
            Mutant::LowerPrecision => {
                let mut other = case.clone();
                for (arg, value) in c.args.iter().zip(&mut other.args) {
                    if let (true, Some(Values::F32(v))) = (arg.access != Access::Write, value) {
                        lower(v, rounding);
                    }
                }
                return Ok(Some(other.expected(Rounding::None)?));
            }
        }
        Ok(Some(out))
    }
}

fn is_quantised(dtype: DType) -> bool {
    !matches!(dtype, DType::F32 | DType::F16 | DType::I32) && !dtype.is_plain()
}

/// Exchanges row `i` and the one behind it.
fn swap<T>(values: &mut [T], rows: usize, i: usize) {
    let width = values.len() / rows;
    let (a, b) = values[i * width..(i + 2) * width].split_at_mut(width);
    a.swap_with_slice(b);
}

/// f32 and f16 operands fall to bf16's eight bits; coarser ones to four.
fn lower(values: &mut [f32], rounding: Rounding) {
    match rounding {
        Rounding::None | Rounding::F16 => values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32()),
        Rounding::Bf16 | Rounding::Q8_0 | Rounding::Q8K => {
            for block in values.chunks_mut(32) {
                let step = block.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 7.0;
                if step > 0.0 {
                    block.iter_mut().for_each(|v| *v = (*v / step).round() * step);
                }
            }
        }
    }
}

/// How the mutants fared over all cases.
#[derive(Clone, Debug, Serialize)]
pub struct Fate {
    pub mutant: Mutant,
    /// Cases in which it can be told from the right answer: of an op's several arrays, in the one where it is seen least.
    pub applies: usize,
    pub killed: usize,
    pub left_out: Option<&'static str>,
    /// The cases in which it applies, by their place in the list, and whether each killed it.
    #[serde(skip)]
    pub cases: Vec<(usize, bool)>,
}

impl Fate {
    /// A mutant that fewer than two cases kill says that the cases are weak, not that the kernel is wrong.
    pub fn is_weak(&self) -> bool {
        self.left_out.is_none() && self.killed < 2
    }
}

/// What the mutants of a variant are drawn from.
pub fn draw(seed: &[u8; 32], variant: &str) -> Draw {
    Draw::new(seed, &format!("teeth {variant}"))
}

/// Adds the fates in one variant's cases to those in others'.
pub fn sum(sum: &mut Vec<Fate>, fresh: &[Fate]) {
    if sum.is_empty() {
        return sum.extend_from_slice(fresh);
    }
    for (sum, f) in sum.iter_mut().zip(fresh) {
        sum.applies += f.applies;
        sum.killed += f.killed;
    }
}

/// Puts every mutant to every case.
pub fn teeth(cases: &[(&Case, &Reference)], rounding: Rounding, draw: &mut Draw) -> Result<Vec<Fate>> {
    teeth_unless(cases, rounding, draw, &AtomicBool::new(false))
}

/// The same, given up once `stop` is set.
pub fn teeth_unless(
    cases: &[(&Case, &Reference)],
    rounding: Rounding,
    draw: &mut Draw,
    stop: &AtomicBool,
) -> Result<Vec<Fate>> {
    let mut fates = Vec::new();
    for mutant in MUTANTS {
        let left_out = cases.iter().map(|(c, _)| mutant.left_out(c)).reduce(|a, b| a.and(b)).flatten();
        // The cases that it applies to, for each array of outputs or for all of them together.
        let mut seen: BTreeMap<Option<usize>, Vec<(usize, bool)>> = BTreeMap::new();
        for (i, (case, reference)) in cases.iter().enumerate() {
            unless(stop)?;
            if mutant.left_out(case).is_some() {
                continue;
            }
            let last = i.checked_sub(1).map(|j| cases[j].1.outputs.as_slice());
            let Some(out) = mutant.apply(case, reference, last, rounding, draw)? else { continue };
            let arrays: Vec<Option<usize>> = match mutant.is_of_an_array() {
                true => (0..out.len()).filter(|i| out[*i].is_some()).map(Some).collect(),
                false => vec![None],
            };
            for array in arrays {
                let out = match array {
                    None => out.clone(),
                    Some(i) => {
                        let right = reference.outputs.iter().enumerate();
                        right.map(|(j, v)| if i == j { out[i].clone() } else { v.clone() }).collect()
                    }
                };
                let cases = seen.entry(array).or_default();
                if !compare::indistinct(case, reference, &out) {
                    cases.push((i, !compare::passes(case, reference, &out)));
                }
            }
        }
        let killed = |cases: &[(usize, bool)]| cases.iter().filter(|(_, killed)| *killed).count();
        let cases = seen.into_values().min_by_key(|cases| killed(cases)).unwrap_or_default();
        let fate = Fate { mutant, applies: cases.len(), killed: killed(&cases), left_out, cases };
        fates.push(fate);
    }
    Ok(fates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::OPS;
    use crate::ops::cases::{Sizes, draw_case, fits};

    /// Every op's cases kill every mutant that means something for it, whatever the weight type.
    #[test]
    fn the_cases_of_every_op_have_teeth() {
        for op in OPS {
            let c = op.contract();
            let kinds = c.weights.iter().map(|w| w.types.len()).max().unwrap_or(1);
            for kind in 0..kinds {
                let types: Vec<_> = c.weights.iter().map(|w| w.types[kind.min(w.types.len() - 1)]).collect();
                let mut cases = Vec::new();
                for (i, dims) in op.presets().iter().enumerate() {
                    for tokens in [2, 3, 11] {
                        let sizes = Sizes::of(dims, &types);
                        if op.macs(dims, tokens) > 3_000_000 || !fits(*op, dims, &types) {
                            continue;
                        }
                        let label = format!("{} {types:?} {dims:?} T={tokens}", c.op);
                        let mut draw = Draw::new(&[i as u8; 32], &label);
                        let case = draw_case(*op, &sizes, tokens, &mut draw, label).unwrap();
                        let reference = Reference::of(&case, Rounding::None).unwrap();
                        cases.push((case, reference));
                    }
                }
                let cases: Vec<_> = cases.iter().map(|(c, r)| (c, r)).collect();
                for fate in teeth(&cases, Rounding::None, &mut Draw::new(&[9; 32], "m")).unwrap() {
                    assert!(!fate.is_weak(), "{} {types:?}: {fate:?}", c.op);
                }
            }
        }
    }
}
