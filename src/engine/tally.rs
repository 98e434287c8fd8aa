use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::backend::Placement;
use crate::backend::executor::Ran;
use crate::ops::Node;
use crate::plan::Plan;
use crate::words::count;

/// Where a session's op instances ran, counted from the executor's trace and not from what was asked for.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// Architecture of the device or `emulator`; `None` without one.
    pub arch: Option<String>,
    /// Instances that ran there, over all steps.
    pub placed: usize,
    /// Kernel launches that they took.
    pub launches: usize,
    /// Instances that the oracle computed.
    pub oracle: usize,
    /// Nodes that ran there.
    pub nodes: BTreeSet<Node>,
    /// Nodes that the oracle computed.
    pub oracle_nodes: BTreeSet<Node>,
    /// How often each kernel was launched.
    pub entries: BTreeMap<String, usize>,
}

impl Tally {
    /// Counts what a step ran, `times` over.
    pub fn add(&mut self, plan: &Plan, ran: &[Ran], times: usize) {
        for r in ran {
            let node = &plan.instances[r.instance].node;
            let nodes = match r.placement {
                Placement::Oracle => {
                    self.oracle += times;
                    &mut self.oracle_nodes
                }
                Placement::Device | Placement::Emulator => {
                    self.placed += times;
                    self.launches += times * r.launches.len();
                    &mut self.nodes
                }
            };
            if !nodes.contains(node) {
                nodes.insert(node.clone());
            }
            for launch in &r.launches {
                match self.entries.get_mut(&launch.entry) {
                    Some(n) => *n += times,
                    None => {
                        self.entries.insert(launch.entry.clone(), times);
                    }
                }
            }
        }
    }

    /// One sentence, e.g. `14 of 26 nodes on sm_90 (812 op instances, 840 launches), 12 on the oracle (301)`.
    pub fn sentence(&self) -> String {
        match &self.arch {
            Some(arch) if self.placed > 0 => {
                let all = self.nodes.union(&self.oracle_nodes).count();
                let mut text = format!(
                    "{} of {} on {} ({}, {})",
                    self.nodes.len(),
                    count(all, "node"),
                    if arch == crate::plan::manifest::EMULATOR { "the emulator" } else { arch },
                    count(self.placed, "op instance"),
                    count(self.launches, "launch"),
                );
                if self.oracle > 0 {
                    text +=
                        &format!(", {} on the oracle ({})", self.oracle_nodes.len(), count(self.oracle, "op instance"));
                }
                text
            }
            _ => format!("everything on the oracle ({})", count(self.oracle, "op instance")),
        }
    }
}
