//! Stages 6 and 7 of a node in a file that the oracle cannot follow: the whole schedule runs on the device, and the
//! node's instances are compared where they stand.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::json;

use super::compare::Pool;
use super::insitu::{Check, Tokens};
use super::is_kernels_fault;
use super::prefill::{EXACT_LIMIT, Prefill, Request, relative};
use crate::backend::executor::Executor;
use crate::error::{Error, Result};
use crate::ops::Node;
use crate::ops::draw::Draw;
use crate::plan::coverage::Written;
use crate::plan::schedule::Schedule;
use crate::plan::{Instance, Numerics, Plan, PlanOptions, StepField, StepState};

/// Tokens of a step that a check recomputes.
const TOKENS: usize = 4;
/// Of the instances that nothing demands one in so many is checked.
const ODDS: usize = 8;
/// Instances whose launches are captured, read back and replayed.
const CAPTURED: usize = 4;

/// Runs one prompt in which the node acts, and the same with nothing in its place.
pub fn run(request: &Request<'_, '_>, numerics: Numerics, seed: &[u8; 32]) -> Result<Prefill> {
    let mut out = Prefill::default();
    let Some(lengths) = lengths(request, numerics)? else { return Ok(out) };
    match through(request, numerics, seed, &lengths, &mut out) {
        Err(e) if is_kernels_fault(&e) => {
            let n: usize = lengths.iter().sum();
            out.red = Some((format!("prefill of {n} tokens, {}: {e}", numerics.name()), None));
        }
        ended => ended?,
    }
    Ok(out)
}

/// Steps in which the node acts, the shortest that do; single tokens at the end. `None`: it is no node of this plan.
fn lengths(request: &Request<'_, '_>, numerics: Numerics) -> Result<Option<Vec<usize>>> {
    let c = &request.model.config;
    let window = c.ratios.iter().copied().max().unwrap_or(0).max(32) as usize;
    let selecting = 4 * (c.indexer_top_k + 1) + 9;
    let most = selecting.max(window + 13);
    let plan = Plan::build(request.model, PlanOptions { numerics, max_tokens: most, max_outputs: 1, context: most })?;
    let mine: Vec<&Instance> = plan.instances.iter().filter(|i| i.node == *request.node).collect();
    if mine.is_empty() {
        return Ok(None);
    }
    if mine.iter().all(|i| i.contract().outputs_are_state()) {
        // What only a later step reads: the first step ends inside a window, the last completes it.
        return Ok(Some(vec![window - 2, 5, 3, 6, 5, 1, 3, 5, window - 26]));
    }
    for n in [23, window + 13, most] {
        let step = plan.step(n, 0, 1)?;
        if mine.iter().all(|i| i.guard.holds(&step, plan.top_k)) || n == most {
            return Ok(Some(vec![n, 1, 1, 1]));
        }
    }
    Ok(None)
}

fn through(
    request: &Request<'_, '_>,
    numerics: Numerics,
    seed: &[u8; 32],
    lengths: &[usize],
    out: &mut Prefill,
) -> Result<()> {
    let (name, node) = (numerics.name(), request.node);
    let (context, longest) = (lengths.iter().sum::<usize>(), lengths.iter().copied().max().unwrap_or(1));
    let options = PlanOptions { numerics, max_tokens: longest, max_outputs: 1, context };
    let plan = Arc::new(Plan::build(request.model, options)?);
    // Everything runs on the device that can; what is wrong with another node's kernel is that node's verdict.
    let usable =
        |node: &Node| node == request.node || matches!(Written::of(request.tree, node), Written::Present { .. });
    let lower = |tokens| Schedule::lower_for(&plan, request.tree, request.place.arch(), tokens, usable);
    let schedules = [lower(1)?, lower(longest)?];
    let mut draw = Draw::new(seed, &format!("large {name} {node}"));
    let ids: Vec<i32> = (0..context).map(|_| draw.below(request.model.config.vocab) as i32).collect();
    let mut steps: Vec<(StepState, &[i32])> = Vec::new();
    for n in lengths {
        let pos0 = steps.iter().map(|(_, ids)| ids.len()).sum();
        steps.push((plan.step(*n, pos0, 1)?, &ids[pos0..pos0 + n]));
    }

    let mut executor = Executor::new(request.model, plan.clone());
    let build = |stem: &str, entries: &[String]| (request.build)(stem, entries);
    // The device reads the file itself: through this process 81 GB would pass once for every node and numerics.
    let device = request.place.start_reading(request.model.path())?;
    executor.attach_all(device, vec![lower(1)?, lower(longest)?], build, |_| true)?;
    executor.load(&mut |_, _| {})?;
    let (mut pool, mut seen, mut checks) = (Pool::default(), HashSet::new(), 0);
    for (step, ids) in &steps {
        executor.set_tokens(ids);
        let decode = ids.len() == 1;
        let mut from = 0;
        for (i, instance) in plan.instances.iter().enumerate() {
            if instance.node != *node || !instance.guard.holds(step, plan.top_k) {
                continue;
            }
            if !seen.insert((decode, kind(request, instance))) && draw.below(ODDS) > 0 {
                continue;
            }
            executor.run_range(step, from..i)?;
            from = i + 1;
            let tokens = Tokens::draw(&mut draw, ids.len(), TOKENS);
            let check = Check::before(&mut executor, request.model, i, step, &tokens)?;
            let captured = if checks < CAPTURED { executor.replay_segment(step, i..i + 1)? } else { None };
            match captured {
                None => executor.run_range(step, i..i + 1)?,
                Some(segment) => {
                    out.graph.segments += 1;
                    out.graph.launches += segment.launches;
                    if !segment.nodes_match || !segment.bytes_match {
                        let what = if segment.nodes_match { "gives other bytes" } else { "holds other kernels" };
                        out.graph.red = Some(format!("the graph captured of {} {what}", instance.label));
                    }
                }
            }
            checks += 1;
            let schedule = &schedules[usize::from(!decode)];
            if let Some(bad) = check.after(&mut executor, schedule.rounding(i), &mut pool)? {
                out.red = Some((format!("{} is wrong in a prefill ({name})", instance.label), Some(bad)));
                return Ok(());
            }
        }
        executor.run_range(step, from..plan.instances.len())?;
    }
    let elsewhere = |r: &crate::backend::executor::Ran| {
        plan.instances[r.instance].node == *node && r.placement != request.place.placement()
    };
    if executor.take_trace().iter().any(elsewhere) || checks == 0 {
        return Err(Error::internal(format!("{node} did not run on the device")));
    }
    if let Some(bad) = pool.check() {
        let reason = format!("in situ: relative RMS {:.2e} is above {:.2e}", pool.relative_rms(), pool.limit());
        out.red = Some((reason, Some(bad)));
        return Ok(());
    }
    let last = steps.last().map(|(step, _)| *step).ok_or_else(|| Error::internal("a prompt without tokens"))?;
    let logits = executor.logits(&last)?.to_vec();
    executor.reset();
    executor.set_noop(Some(node.clone()));
    for (step, ids) in &steps {
        executor.run(step, ids)?;
    }
    let moved = relative(executor.logits(&last)?, &logits);
    if moved <= if numerics == Numerics::Exact { EXACT_LIMIT } else { 0.0 } {
        out.weak = Some(format!("a no-op in place of {node} leaves the logits of {context} tokens as they are"));
    }
    out.figures.insert(format!("{name}_in_situ_checks"), json!(checks));
    out.figures.insert(format!("{name}_in_situ_outputs"), json!(pool.outputs));
    out.figures.insert(format!("{name}_in_situ_relative_rms"), json!(pool.relative_rms()));
    out.figures.insert(format!("{name}_noop_relative_rms_n{context}"), json!(moved));
    out.figures.insert(format!("{name}_prompts"), json!([lengths]));
    debug_assert_eq!(last.get(StepField::Pos0) as usize + last.get(StepField::NTokens) as usize, context);
    Ok(())
}

/// What of a place in the model may matter to a kernel.
type Kind = (String, Option<u32>, bool, [bool; 2]);

fn kind(request: &Request<'_, '_>, instance: &Instance) -> Kind {
    let c = &request.model.config;
    let leaf = instance.label.rsplit_once('.').map_or(&*instance.label, |(_, leaf)| leaf);
    let (first, last) = (instance.layer == Some(0), instance.layer == c.layers.checked_sub(1));
    (leaf.into(), instance.layer.map(|l| c.ratios[l]), instance.layer.is_some_and(|l| c.is_hash(l)), [first, last])
}
