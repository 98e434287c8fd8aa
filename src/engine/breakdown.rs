//! Where a step's time goes: node by node, and matrix by matrix for those that are large.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Session;
use super::bench::{Test, arbitrary, weight_bytes, work_of};
use crate::backend::executor::Timed;
use crate::error::Result;
use crate::ops::Node;

/// Replays of the step that a breakdown adds up to.
const STEPS: usize = 5;
/// Bytes of weights from which a single token's product is told by itself: reading them is what it takes, which can be
/// held against the rate at which the device copies. Smaller ones are as short as a launch.
const LARGE: f64 = 32e6;

/// A node's part in a step.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    pub node: Node,
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
    /// Of the whole step, as one graph, on average over [`STEPS`] replays.
    pub step_ms: f64,
    /// What reading the clock between two launches took: their times add up to more than the step by it, and it is taken
    /// off each of them, as far as that goes.
    pub clock_ms: f64,
    /// What the shares miss of the step: the device waited between launches.
    pub between_ms: f64,
    pub shares: Vec<Share>,
    pub large: Vec<Large>,
    /// Every launch, in order; for [`chrome`](super::chrome).
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

/// Times every node of one step: the last chunk of a prefill, or one token behind `depth` others.
pub fn per_node(session: &mut Session<'_>, test: Test) -> Result<Breakdown> {
    let n = match test {
        Test::Prefill { tokens, .. } => tokens.min(session.chunk()),
        Test::Decode { .. } => 1,
    };
    let tokens = arbitrary(session, test.depth() + n);
    session.reset();
    if test.depth() > 0 {
        session.advance(&tokens[..test.depth()])?;
    }
    let saved = session.save()?;
    // Recorded by the first, replayed by the others.
    session.advance(&tokens[test.depth()..])?;
    let mut step_ms = 0.0;
    for _ in 0..STEPS {
        session.restore(&saved)?;
        session.device_ms()?;
        session.advance(&tokens[test.depth()..])?;
        step_ms += session.device_ms()?.unwrap_or_default() / STEPS as f64;
    }
    session.restore(&saved)?;
    let mut launches = session.time_each(&tokens[test.depth()..])?;
    session.discard(saved)?;
    let clock_ms = clock(launches.iter().map(|l| f64::from(l.ms)).collect(), step_ms);
    launches.iter_mut().for_each(|l| l.ms = (l.ms - clock_ms as f32).max(0.0));

    // An instance may take several launches.
    let mut instances: Vec<(usize, f64)> = Vec::new();
    for launch in &launches {
        match instances.last_mut() {
            Some((last, ms)) if *last == launch.instance => *ms += f64::from(launch.ms),
            _ => instances.push((launch.instance, f64::from(launch.ms))),
        }
    }
    let plan = session.executor.plan();
    let step = plan.step(n, test.depth(), 1)?;
    let mut shares: BTreeMap<&Node, Share> = BTreeMap::new();
    let mut large: BTreeMap<(String, &Node, u64), Large> = BTreeMap::new();
    for (i, ms) in instances {
        let instance = &plan.instances[i];
        let node = &instance.node;
        let (bytes, flops) = work_of(session, instance, &step)?;
        let share = shares.entry(node).or_insert_with(|| Share {
            node: node.clone(),
            instances: 0,
            ms: 0.0,
            bytes: 0.0,
            flops: 0.0,
        });
        share.instances += 1;
        share.ms += ms;
        share.bytes += bytes;
        share.flops += flops;
        let weights = weight_bytes(session, instance, n)?;
        if n == 1 && weights >= LARGE {
            let name = instance.place().to_string();
            let entry = large.entry((name.clone(), node, weights as u64)).or_insert_with(|| Large {
                name,
                node: node.clone(),
                instances: 0,
                bytes: weights,
                ms: 0.0,
            });
            entry.instances += 1;
            entry.ms += ms;
        }
    }
    let mut shares: Vec<Share> = shares.into_values().collect();
    shares.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    let mut large: Vec<Large> = large.into_values().collect();
    large.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    large.iter_mut().for_each(|l| l.ms /= l.instances as f64);
    let between_ms = (step_ms - shares.iter().map(|s| s.ms).sum::<f64>()).max(0.0);
    Ok(Breakdown { test, step_ms, clock_ms, between_ms, shares, large, launches })
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
