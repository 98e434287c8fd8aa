//! Mutants of the right answer, case by case: stage 5 without the kernel.

use serde::Serialize;

use super::super::asked;
use super::super::compare::Reference;
use super::super::judge::{shapes, variants};
use super::super::mutants::{self, Mutant};
use crate::backend::Placement;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::cases::Case;
use crate::ops::{self, Node};
use crate::plan::Numerics;
use crate::plan::kernels::KernelTree;

/// Where the cases would be asked.
pub struct Request<'r> {
    pub model: &'r Model,
    pub tree: &'r KernelTree,
    pub placement: Placement,
    pub arch: &'r str,
    pub numerics: &'r [Numerics],
    pub thorough: bool,
    pub seed: [u8; 32],
}

#[derive(Clone, Debug, Serialize)]
pub struct NodeTeeth {
    pub node: Node,
    pub variants: Vec<VariantTeeth>,
    /// Over all variants, as a verdict counts them.
    pub totals: Vec<Total>,
}

#[derive(Clone, Debug, Serialize)]
pub struct VariantTeeth {
    pub variant: String,
    /// The cases small enough for mutants.
    pub cases: Vec<String>,
    pub mutants: Vec<Bites>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Bites {
    pub mutant: Mutant,
    pub left_out: Option<&'static str>,
    /// Indices of cases in which it can be told from the right answer.
    pub applies: Vec<usize>,
    /// Of these the ones that reject it.
    pub killed: Vec<usize>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Total {
    pub mutant: Mutant,
    pub left_out: Option<&'static str>,
    pub applies: usize,
    pub killed: usize,
    /// Fewer than two cases kill it: these are to be repaired.
    pub weak: bool,
}

impl NodeTeeth {
    pub fn weak(&self) -> impl Iterator<Item = &Total> {
        self.totals.iter().filter(|t| t.weak)
    }
}

/// The mutants of one node's right answers.
pub fn of(request: &Request<'_>, node: &Node) -> Result<NodeTeeth> {
    let op = ops::find(&node.op).ok_or_else(|| Error::internal(format!("no op {}", node.op)))?;
    let kernel = request.tree.require(node)?;
    let shapes = shapes(request.model, request.numerics, node)?;
    let wanted = asked::Request {
        op,
        types: asked::slot_types(op, node),
        shapes: &shapes,
        seed: request.seed,
        placement: request.placement,
        thorough: request.thorough,
    };
    let (mut totals, mut out): (Vec<mutants::Fate>, Vec<VariantTeeth>) = (Vec::new(), Vec::new());
    for variant in variants(request.numerics, request.arch, node, &kernel) {
        let cases: Vec<(Case, Reference)> = wanted
            .cases(variant)?
            .into_iter()
            .filter(asked::Planned::is_small)
            .map(|p| Ok((Reference::of(&p.case, variant.rounding)?, p.case)))
            .map(|pair: Result<_>| pair.map(|(reference, case)| (case, reference)))
            .collect::<Result<_>>()?;
        let asked: Vec<_> = cases.iter().map(|(c, r)| (c, r)).collect();
        let fates = mutants::teeth(&asked, variant.rounding, &mut mutants::draw(&request.seed, &variant.name))?;
        mutants::sum(&mut totals, &fates);
        out.push(VariantTeeth {
            variant: variant.name.clone(),
            cases: cases.iter().map(|(c, _)| c.label.clone()).collect(),
            mutants: fates.into_iter().map(bites).collect(),
        });
    }
    let total = |f: &mutants::Fate| Total {
        mutant: f.mutant,
        left_out: f.left_out,
        applies: f.applies,
        killed: f.killed,
        weak: f.is_weak(),
    };
    Ok(NodeTeeth { node: node.clone(), variants: out, totals: totals.iter().map(total).collect() })
}

fn bites(fate: mutants::Fate) -> Bites {
    let applies = fate.cases.iter().map(|(i, _)| *i).collect();
    let killed = fate.cases.iter().filter(|(_, killed)| *killed).map(|(i, _)| *i).collect();
    Bites { mutant: fate.mutant, left_out: fate.left_out, applies, killed }
}
