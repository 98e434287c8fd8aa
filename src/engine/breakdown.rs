//! Where a step's time goes: node by node, and matrix by matrix for those that are large.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Session;
use super::bench::{Test, arbitrary, weight_bytes, work_of};
use crate::backend::executor::Timed;
use crate::error::Result;
use crate::ops::Node;

/// Replays of a step that a breakdown adds up to.
const REPLAYS: usize = 5;
/// Tokens in a row that a decode's breakdown is the average of: compressors of ratio 4 complete a row, and indexers store
/// one, at every fourth.
const DECODED: usize = 4;
/// Bytes of weights from which a single token's product is told by itself: reading them is what it takes, which can be
/// held against the rate at which the device copies. Smaller ones are as short as a launch.
const LARGE: f64 = 32e6;

/// A node's part in a step.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    pub node: Node,
    /// That acted in any of the steps.
    pub instances: usize,
    pub ms: f64,
    /// Of weights and caches, read at least.
    pub bytes: f64,
    pub flops: f64,
}

/// Instances that stand at one place in their layers and each read 32 MB of weights or more.
#[derive(Clone, Debug, Serialize)]
pub struct Large {
    /// `attn_q_b`.
    pub name: String,
    pub node: Node,
    pub instances: usize,
    /// Of weights, each.
    pub bytes: f64,
    /// Each, on average.
    pub ms: f64,
}

/// Where a step's time goes.
#[derive(Clone, Debug, Serialize)]
pub struct Breakdown {
    pub test: Test,
    /// Steps in a row that all figures are the average of.
    pub steps: usize,
    /// Of a whole step, as one graph, on average over [`REPLAYS`] of each.
    pub step_ms: f64,
    /// What reading the clock between two launches took: their times add up to more than the step by it, and it is taken
    /// off each of them, as far as that goes.
    pub clock_ms: f64,
    /// What the shares miss of the step: the device waited between launches.
    pub between_ms: f64,
    pub shares: Vec<Share>,
    pub large: Vec<Large>,
    /// Every launch of every step, in order; for [`chrome`](super::chrome).
    #[serde(skip)]
    pub launches: Vec<Timed>,
}

/// What the clock took of each of these times, if together they may come to `whole`: the same of all, but of none more
/// than it is. 0 where they come to less.
fn clock(mut times: Vec<f64>, whole: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    let (mut sum, mut n) = (times.iter().sum::<f64>(), times.len() as f64);
    for time in times {
        let clock = (sum - whole) / n;
        if time >= clock {
            return clock.max(0.0);
        }
        // All of it was the clock's.
        (sum, n) = (sum - time, n - 1.0);
    }
    0.0
}

/// Times every node of one step: the last chunk of a prefill, or single tokens behind `depth` others, on average over
/// [`DECODED`] of them.
pub fn per_node(session: &mut Session<'_>, test: Test) -> Result<Breakdown> {
    let (n, steps) = match test {
        Test::Prefill { tokens, .. } => (tokens.min(session.chunk()), 1),
        Test::Decode { tokens, .. } => (1, tokens.min(DECODED)),
    };
    let tokens = arbitrary(session, test.depth() + n * steps);
    let (before, mine) = tokens.split_at(test.depth());
    session.reset();
    if !before.is_empty() {
        session.advance(before)?;
    }
    let (mut launches, mut step_ms) = (Vec::new(), 0.0);
    for tokens in mine.chunks(n) {
        let (whole, each) = timed(session, tokens)?;
        step_ms += whole;
        launches.push(each);
    }
    let times = launches.iter().flatten().map(|l| f64::from(l.ms)).collect();
    let clock_ms = clock(times, step_ms);
    launches.iter_mut().flatten().for_each(|l| l.ms = (l.ms - clock_ms as f32).max(0.0));
    step_ms /= steps as f64;

    let plan = session.executor.plan();
    let mut shares: BTreeMap<&Node, (BTreeSet<usize>, Share)> = BTreeMap::new();
    let mut large: BTreeMap<(String, &Node, u64), (BTreeSet<usize>, Large)> = BTreeMap::new();
    for (k, launches) in launches.iter().enumerate() {
        let step = plan.step(n, test.depth() + k * n, 1)?;
        // An instance may take several launches.
        for of in launches.chunk_by(|a, b| a.instance == b.instance) {
            let i = of[0].instance;
            let instance = &plan.instances[i];
            let node = &instance.node;
            let ms = of.iter().map(|l| f64::from(l.ms)).sum::<f64>() / steps as f64;
            let (bytes, flops) = work_of(session, instance, &step)?;
            let (seen, share) = shares.entry(node).or_insert_with(|| {
                (BTreeSet::new(), Share { node: node.clone(), instances: 0, ms: 0.0, bytes: 0.0, flops: 0.0 })
            });
            seen.insert(i);
            share.instances = seen.len();
            share.ms += ms;
            share.bytes += bytes / steps as f64;
            share.flops += flops / steps as f64;
            let weights = weight_bytes(session, instance, n)?;
            if n == 1 && weights >= LARGE {
                let name = instance.place().to_string();
                let (seen, entry) = large.entry((name.clone(), node, weights as u64)).or_insert_with(|| {
                    (BTreeSet::new(), Large { name, node: node.clone(), instances: 0, bytes: weights, ms: 0.0 })
                });
                seen.insert(i);
                entry.instances = seen.len();
                entry.ms += ms;
            }
        }
    }
    let mut shares: Vec<Share> = shares.into_values().map(|(_, share)| share).collect();
    shares.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    let mut large: Vec<Large> = large.into_values().map(|(_, large)| large).collect();
    large.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    large.iter_mut().for_each(|l| l.ms /= l.instances as f64);
    let between_ms = (step_ms - shares.iter().map(|s| s.ms).sum::<f64>()).max(0.0);
    Ok(Breakdown { test, steps, step_ms, clock_ms, between_ms, shares, large, launches: launches.concat() })
}

/// Milliseconds of the step that feeds `tokens`, on average over [`REPLAYS`] of its graph, and its launches one by one.
/// The sequence has gone on by them.
fn timed(session: &mut Session<'_>, tokens: &[u32]) -> Result<(f64, Vec<Timed>)> {
    let saved = session.save()?;
    // Recorded by the first, replayed by the others.
    session.advance(tokens)?;
    let mut ms = 0.0;
    for _ in 0..REPLAYS {
        session.restore(&saved)?;
        session.device_ms()?;
        session.advance(tokens)?;
        ms += session.device_ms()?.unwrap_or_default() / REPLAYS as f64;
    }
    session.restore(&saved)?;
    let launches = session.time_each(tokens)?;
    session.restore(&saved)?;
    session.discard(saved)?;
    session.advance(tokens)?;
    Ok((ms, launches))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the clock took on average was more than some launches took at all, and these came out negative.
    #[test]
    fn the_clock_takes_no_more_of_a_launch_than_there_is() {
        let rest = |times: &[f64], clock: f64| times.iter().map(|t| (t - clock).max(0.0)).sum::<f64>();
        for (times, whole, expected) in [
            (&[5.0, 3.0, 4.0][..], 9.0, 1.0),
            (&[5.0, 0.1, 4.0], 7.0, 1.0),
            (&[5.0, 0.1, 0.2], 1.0, 4.0),
            (&[2.0, 2.0], 0.0, 2.0),
            (&[1.0, 2.0], 9.0, 0.0),
            (&[], 1.0, 0.0),
        ] {
            let found = clock(times.to_vec(), whole);
            assert!((found - expected).abs() < 1e-12, "{times:?} {whole}: {found}");
            assert!((rest(times, found) - whole.min(times.iter().sum())).abs() < 1e-12);
        }
    }
}
