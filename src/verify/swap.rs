//! A prefill through kernels of two trees, end to end: which of them make it differ is found by swapping them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::prefill::relative;
use super::{Place, is_kernels_fault, source};
use crate::backend::executor::Executor;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::draw::Draw;
use crate::ops::{self, Node};
use crate::plan::kernels::KernelTree;
use crate::plan::schedule::Schedule;
use crate::plan::{Numerics, Plan, PlanOptions};

/// One prompt, and what runs on the device or the emulator; the rest is the oracle's.
pub struct Prefill<'p, 'm> {
    pub model: &'m Model,
    pub place: &'p dyn Place,
    pub nodes: &'p BTreeSet<Node>,
    pub numerics: Numerics,
    /// Lengths of its steps.
    pub chunks: Vec<usize>,
    pub seed: [u8; 32],
    pub stop: &'p AtomicBool,
}

/// Logits behind every step; or what is wrong with a kernel.
pub type Ran = std::result::Result<Vec<Vec<f32>>, String>;

impl Prefill<'_, '_> {
    pub fn tokens(&self) -> usize {
        self.chunks.iter().sum()
    }

    /// Through the kernels of `tree`.
    pub fn run(&self, tree: &KernelTree) -> Result<Ran> {
        match self.through(Some(tree)) {
            Err(e) if is_kernels_fault(&e) => Ok(Err(e.to_string())),
            ran => ran,
        }
    }

    /// What the oracle makes of it.
    pub fn oracle(&self) -> Result<Vec<Vec<f32>>> {
        self.through(None)?.map_err(Error::internal)
    }

    fn through(&self, tree: Option<&KernelTree>) -> Result<Ran> {
        let longest = self.chunks.iter().copied().max().unwrap_or(1);
        let options =
            PlanOptions { numerics: self.numerics, max_tokens: longest, max_outputs: 1, context: self.tokens() };
        let plan = Arc::new(Plan::build(self.model, options)?);
        let mut executor = Executor::new(self.model, plan.clone());
        if let Some(tree) = tree {
            if let Some(fault) = self.fault(tree)? {
                return Ok(Err(fault));
            }
            let lengths: BTreeSet<usize> = self.chunks.iter().copied().collect();
            let schedules = lengths.iter().map(|n| Schedule::lower(&plan, tree, self.place.arch(), *n));
            let schedules = schedules.collect::<Result<Vec<_>>>()?;
            let build = |stem: &str, entries: &[String]| Ok(self.place.build(&tree.source_of(stem)?, entries)?.module);
            let placed = |i: usize| self.nodes.contains(&plan.instances[i].node);
            executor.attach_all(self.place.start()?, schedules, build, placed)?;
        }
        let mut draw = Draw::new(&self.seed, &format!("swap {:?}", self.chunks));
        let (mut position, mut logits) = (0, Vec::new());
        for n in &self.chunks {
            let step = plan.step(*n, position, 1)?;
            let tokens: Vec<i32> = (0..*n).map(|_| draw.below(self.model.config.vocab) as i32).collect();
            executor.set_tokens(&tokens);
            for i in 0..plan.instances.len() {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(Error::interrupted());
                }
                executor.run_range(&step, i..i + 1)?;
            }
            logits.push(executor.logits(&step)?.to_vec());
            position += n;
        }
        Ok(Ok(logits))
    }

    /// What stage 2 has to say: a kernel with other ideas of its arguments would compute anything.
    fn fault(&self, tree: &KernelTree) -> Result<Option<String>> {
        for node in self.nodes {
            let Some(kernel) = tree.kernel(node) else { continue };
            let kernel = kernel?;
            let op = ops::find(&node.op).ok_or_else(|| Error::internal(format!("no op {}", node.op)))?;
            let faults = source::faults(&tree.source(&kernel)?, kernel.manifest, op.contract());
            if !faults.is_empty() {
                return Ok(Some(format!("{node}: {}", faults.join("; "))));
            }
        }
        Ok(None)
    }
}

/// How far two runs of one prompt are apart, where they are furthest.
pub fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    a.iter().zip(b).map(|(a, b)| relative(a, b)).fold(0.0, f64::max)
}

/// Prompts in which `nodes` act, cheap ones first, as the lengths of their steps: a short one, one past a window of
/// compressed rows and past the indexer's choice, and where a node's results show in a later step alone, one in steps.
pub fn prompts(model: &Model, nodes: &BTreeSet<Node>, numerics: Numerics) -> Result<Vec<Vec<usize>>> {
    let config = &model.config;
    let selecting = 4 * (config.indexer_top_k + 1) + 9;
    let window = config.ratios.iter().copied().max().unwrap_or(0) as usize + 13;
    let most = selecting.max(2 * window + 40);
    let plan = Plan::build(model, PlanOptions { numerics, max_tokens: most, max_outputs: 1, context: most })?;
    let mut out = vec![vec![23], vec![window.min(selecting)], vec![window.max(selecting)]];
    let mine = |i: &&crate::plan::Instance| nodes.contains(&i.node);
    if plan.instances.iter().filter(mine).any(|i| i.op.contract().outputs_are_state()) {
        out.push(vec![window - 2, 5, 3, 6, 5, 1, 3, 5, window.saturating_sub(40).max(1)]);
    }
    out.dedup();
    let mut kept = Vec::new();
    for chunks in out {
        let step = plan.step(chunks.iter().sum::<usize>().min(most), 0, 1)?;
        if plan.instances.iter().filter(mine).any(|i| i.guard.holds(&step, plan.top_k)) {
            kept.push(chunks);
        }
    }
    Ok(kept)
}
