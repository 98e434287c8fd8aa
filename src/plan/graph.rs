//! What a step is made of and what waits for what: nodes, layer kinds and dataflow, derived from a plan.
//!
//! Dataflow goes over buffers: an instance reads what the last writer before it wrote. The plan stays symbolic, so there
//! may be several last writers (attention writes its output in one of two ways); [`Guard`]s say which of them meet.
//! Values that a step only finds in a cache come from the step before and make no edge.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::{Dfs, EdgeRef};
use serde::Serialize;

use super::{BufferIx, Guard, Instance, Plan, Role, StepField, StepState};
use crate::ops::{Access, Node};

/// Token counts of a prefill at which something acts. A decode step at position `p` is like a prefill of `p + 1` tokens
/// here: whatever acts in the one acts in the other, so that no node belongs to decode alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    pub from: usize,
    /// `None`: however long it gets.
    pub to: Option<usize>,
}

impl Span {
    pub fn of(guard: Guard, top_k: usize) -> Span {
        // Selection begins with the token that sees one ratio-4 row more than top-k.
        let selecting = 4 * (top_k + 1);
        let (from, to) = match guard {
            Guard::Always => (1, None),
            Guard::Rows(StepField::Rows4) => (4, None),
            Guard::Rows(StepField::Rows128) => (128, None),
            Guard::Rows(_) => (1, None),
            Guard::Selecting => (selecting, None),
            Guard::NotSelecting => (1, Some(selecting - 1)),
        };
        Span { from, to }
    }

    fn union(self, other: Span) -> Span {
        Span { from: self.from.min(other.from), to: self.to.zip(other.to).map(|(a, b)| a.max(b)) }
    }

    /// `past 131 tokens`; `None`: always.
    pub fn describe(&self) -> Option<String> {
        let plural = |n: usize| if n == 1 { "token" } else { "tokens" };
        match (self.from, self.to) {
            (..=1, None) => None,
            (..=1, Some(to)) => Some(format!("up to {to} {}", plural(to))),
            (from, None) => Some(format!("past {} {}", from - 1, plural(from - 1))),
            (from, Some(to)) => Some(format!("from {from} to {to} tokens")),
        }
    }
}

/// A node with all its instances.
#[derive(Clone, Debug)]
pub struct NodeUse {
    pub node: Node,
    /// Plan positions, in order; never empty.
    pub instances: Vec<usize>,
    pub layers: BTreeSet<usize>,
    /// Indices of [`Graph::sections`].
    pub sections: BTreeSet<usize>,
    pub span: Span,
    /// All of its instances wait for the indexer to have more rows than top-k.
    pub long_prompt_only: bool,
    /// Nodes that write what this one reads.
    pub after: BTreeSet<Node>,
}

impl NodeUse {
    /// Where the plan stops without this node.
    pub fn first(&self) -> usize {
        self.instances[0]
    }
}

/// Which part of the model a section is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Input,
    Attention,
    Experts,
    Head,
}

/// A run of instances that occurs in one or more layers alike: same ops, same types, same guards.
#[derive(Clone, Debug)]
pub struct Section {
    pub part: Part,
    /// `attention, ratio 4`.
    pub title: String,
    /// Layers that have it; empty outside the layers.
    pub layers: Vec<usize>,
    /// Plan positions of its first occurrence, in order.
    pub members: Vec<usize>,
}

/// See the module's documentation.
pub struct Graph<'p> {
    pub plan: &'p Plan,
    /// One vertex per plan position, whether it acts or not; an edge from writer to reader, per buffer.
    flow: DiGraph<(), BufferIx>,
    /// In the order of first use.
    pub nodes: Vec<NodeUse>,
    /// In the order of first use.
    pub sections: Vec<Section>,
    /// Which section follows which.
    pub follows: BTreeSet<(usize, usize)>,
}

impl<'p> Graph<'p> {
    /// The graph of everything that some step needs, or of what acts in `step`.
    pub fn of(plan: &'p Plan, step: Option<&StepState>) -> Graph<'p> {
        let active: Vec<usize> = match step {
            Some(step) => plan.active(step).map(|(i, _)| i).collect(),
            None => (0..plan.instances.len()).collect(),
        };
        let flow = dataflow(plan, &active, step.is_some());
        let (sections, follows) = sections(plan, &active);
        let mut graph = Graph { plan, flow, nodes: Vec::new(), sections, follows };
        graph.nodes = graph.collect_nodes(&active);
        graph
    }

    /// The instances that write what instance `i` reads, with the buffer.
    pub fn inputs(&self, i: usize) -> Vec<(usize, BufferIx)> {
        let edges = self.flow.edges_directed(NodeIndex::new(i), petgraph::Incoming);
        let mut inputs: Vec<_> = edges.map(|e| (e.source().index(), *e.weight())).collect();
        inputs.sort();
        inputs
    }

    /// How many later instances cannot be computed without instance `i`.
    pub fn waiting(&self, i: usize) -> usize {
        let mut dfs = Dfs::new(&self.flow, NodeIndex::new(i));
        std::iter::from_fn(|| dfs.next(&self.flow)).count() - 1
    }

    /// Names of the buffers that instance `i` finds written before its section, or that the caller fills.
    pub fn entries(&self, section: &Section, i: usize) -> BTreeSet<&'p str> {
        let mut names = BTreeSet::new();
        for (writer, buffer) in self.inputs(i) {
            if !section.members.contains(&writer) {
                names.insert(self.plan.buffers[buffer.0].name.as_str());
            }
        }
        for (buffer, access) in accesses(&self.plan.instances[i]) {
            let buffer = &self.plan.buffers[buffer.0];
            if access != Access::Write && buffer.role == Role::Input {
                names.insert(buffer.name.as_str());
            }
        }
        names
    }

    pub fn node(&self, node: &Node) -> Option<&NodeUse> {
        self.nodes.iter().find(|n| n.node == *node)
    }

    fn collect_nodes(&self, active: &[usize]) -> Vec<NodeUse> {
        let mut at: BTreeMap<&Node, usize> = BTreeMap::new();
        let mut nodes: Vec<NodeUse> = Vec::new();
        for &i in active {
            let instance = &self.plan.instances[i];
            let span = Span::of(instance.guard, self.plan.top_k);
            let index = *at.entry(&instance.node).or_insert_with(|| {
                nodes.push(NodeUse {
                    node: instance.node.clone(),
                    instances: Vec::new(),
                    layers: BTreeSet::new(),
                    sections: BTreeSet::new(),
                    span,
                    long_prompt_only: true,
                    after: BTreeSet::new(),
                });
                nodes.len() - 1
            });
            let usage = &mut nodes[index];
            usage.instances.push(i);
            usage.layers.extend(instance.layer);
            usage.span = usage.span.union(span);
            usage.long_prompt_only &= instance.guard == Guard::Selecting;
            usage.after.extend(self.inputs(i).iter().map(|(w, _)| self.plan.instances[*w].node.clone()));
        }
        for (s, section) in self.sections.iter().enumerate() {
            for &i in &section.members {
                nodes[at[&self.plan.instances[i].node]].sections.insert(s);
            }
        }
        nodes
    }
}

/// Label without the layer: `attn_q_a`.
pub fn leaf(instance: &Instance) -> &str {
    match instance.layer {
        Some(_) => instance.label.splitn(3, '.').nth(2).unwrap_or(&instance.label),
        None => &instance.label,
    }
}

fn accesses(instance: &Instance) -> impl Iterator<Item = (BufferIx, Access)> {
    instance.contract().args.iter().zip(&instance.args).filter_map(|(arg, b)| b.map(|b| (b, arg.access)))
}

/// `known`: the step is fixed, so that every guard has been decided.
fn dataflow(plan: &Plan, active: &[usize], known: bool) -> DiGraph<(), BufferIx> {
    let mut flow = DiGraph::with_capacity(plan.instances.len(), 0);
    for _ in &plan.instances {
        flow.add_node(());
    }
    let mut writers: Vec<Vec<(usize, Guard)>> = vec![Vec::new(); plan.buffers.len()];
    for &i in active {
        let instance = &plan.instances[i];
        let guard = if known { Guard::Always } else { instance.guard };
        for (buffer, access) in accesses(instance) {
            if access != Access::Write {
                for writer in last_writers(&writers[buffer.0], guard) {
                    flow.add_edge(NodeIndex::new(writer), NodeIndex::new(i), buffer);
                }
            }
        }
        for (buffer, access) in accesses(instance) {
            if access != Access::Read {
                writers[buffer.0].push((i, guard));
            }
        }
    }
    flow
}

/// The writers that a reader under `reader` may find last, newest first.
fn last_writers(writers: &[(usize, Guard)], reader: Guard) -> Vec<usize> {
    let never = |a: Guard, b: Guard| {
        matches!((a, b), (Guard::Selecting, Guard::NotSelecting) | (Guard::NotSelecting, Guard::Selecting))
    };
    let (mut out, mut selecting, mut not_selecting) = (Vec::new(), false, false);
    for &(i, guard) in writers.iter().rev().filter(|(_, g)| !never(*g, reader)) {
        out.push(i);
        selecting |= guard == Guard::Selecting;
        not_selecting |= guard == Guard::NotSelecting;
        if guard == Guard::Always || guard == reader || (selecting && not_selecting) {
            break;
        }
    }
    out
}

/// Cuts the plan at layers and sublayers (each ends with `hc_expand`) and groups what is alike.
fn sections(plan: &Plan, active: &[usize]) -> (Vec<Section>, BTreeSet<(usize, usize)>) {
    let mut runs: Vec<Vec<usize>> = Vec::new();
    let mut ended = true;
    for &i in active {
        let instance = &plan.instances[i];
        match runs.last_mut() {
            Some(run) if !ended && plan.instances[run[0]].layer == instance.layer => run.push(i),
            _ => runs.push(vec![i]),
        }
        ended = instance.node.op == "hc_expand";
    }
    let alike = |a: &[usize], b: &[usize]| {
        let same = |(i, j): (&usize, &usize)| {
            let (a, b) = (&plan.instances[*i], &plan.instances[*j]);
            leaf(a) == leaf(b) && a.node == b.node && a.guard == b.guard
        };
        a.len() == b.len() && a.iter().zip(b).all(same)
    };
    let mut sections: Vec<Section> = Vec::new();
    let (mut follows, mut before) = (BTreeSet::new(), None);
    for run in runs {
        let layer = plan.instances[run[0]].layer;
        let known = sections.iter().position(|s| s.layers.is_empty() == layer.is_none() && alike(&s.members, &run));
        let index = known.unwrap_or_else(|| {
            let (part, title) = name(plan, &run);
            sections.push(Section { part, title, layers: Vec::new(), members: run });
            sections.len() - 1
        });
        sections[index].layers.extend(layer);
        follows.extend(before.map(|b| (b, index)));
        before = Some(index);
    }
    tell_apart(plan, &mut sections);
    (sections, follows)
}

fn name(plan: &Plan, run: &[usize]) -> (Part, String) {
    let first = &plan.instances[run[0]];
    if first.layer.is_none() {
        let part = if first.node.op == "embed" { Part::Input } else { Part::Head };
        return (part, if part == Part::Input { "input" } else { "head" }.into());
    }
    let instances = || run.iter().map(|i| &plan.instances[*i]);
    if instances().any(|i| i.node.op.starts_with("attention")) {
        let dim = |i: &Instance| i.contract().dims.iter().position(|d| *d == "ratio").map(|d| i.dims[d]);
        let ratio = instances().filter(|i| i.node.op.starts_with("compressor")).find_map(dim).unwrap_or(0);
        return (Part::Attention, format!("attention, ratio {ratio}"));
    }
    let by = if instances().any(|i| i.node.op == "router_hash") { "token id" } else { "score" };
    (Part::Experts, format!("experts, routed by {by}"))
}

/// Adds the nodes that differ to titles that several sections would share.
fn tell_apart(plan: &Plan, sections: &mut [Section]) {
    let nodes = |s: &Section| s.members.iter().map(|i| plan.instances[*i].node.clone()).collect::<BTreeSet<_>>();
    let titles: Vec<String> = sections.iter().map(|s| s.title.clone()).collect();
    let sets: Vec<BTreeSet<Node>> = sections.iter().map(nodes).collect();
    for (s, section) in sections.iter_mut().enumerate() {
        let twins: Vec<_> = (0..titles.len()).filter(|t| *t != s && titles[*t] == titles[s]).collect();
        let own = sets[s].iter().filter(|n| twins.iter().any(|t| !sets[*t].contains(n)));
        let own: Vec<_> = own.map(Node::to_string).collect();
        if !own.is_empty() {
            section.title = format!("{}, {}", section.title, own.join(" "));
        }
    }
}

/// `0, 1, 3–7`; evenly spaced layers as `2, 4 … 42`.
pub fn layer_list(layers: &[usize]) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut rest = layers;
    while let [first, tail @ ..] = rest {
        let stride = tail.first().map_or(0, |second| second - first);
        let run = 1 + rest.windows(2).take_while(|w| w[1] - w[0] == stride).count();
        let last = rest[run - 1];
        match (run, stride) {
            (3.., 1) => out.push(format!("{first}–{last}")),
            (4.., _) => out.push(format!("{first}, {} … {last}", first + stride)),
            _ => {
                out.push(first.to_string());
                rest = tail;
                continue;
            }
        }
        rest = &rest[run..];
    }
    out.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_where_its_guard_holds() {
        let guards = [
            Guard::Always,
            Guard::Rows(StepField::Rows4),
            Guard::Rows(StepField::Rows128),
            Guard::Selecting,
            Guard::NotSelecting,
        ];
        for top_k in [1, 32, 100] {
            for guard in guards {
                let span = Span::of(guard, top_k);
                for n in 1..1000 {
                    let inside = n >= span.from && span.to.is_none_or(|to| n <= to);
                    assert_eq!(
                        guard.holds(&StepState::new(n, 0, 1), top_k),
                        inside,
                        "{guard:?}, {n} tokens, top-k {top_k}"
                    );
                    // The claim that no node belongs to decode alone.
                    assert!(inside || !guard.holds(&StepState::new(1, n - 1, 1), top_k), "{guard:?}, position {n}");
                }
            }
        }
        assert_eq!(Span::of(Guard::Selecting, 32).describe().as_deref(), Some("past 131 tokens"));
    }

    #[test]
    fn readers_find_the_writers_that_they_can_meet() {
        let writers = [(0, Guard::Always), (1, Guard::NotSelecting), (2, Guard::Selecting)];
        assert_eq!(last_writers(&writers, Guard::Always), [2, 1]);
        assert_eq!(last_writers(&writers, Guard::Selecting), [2]);
        assert_eq!(last_writers(&writers, Guard::NotSelecting), [1]);
        assert_eq!(last_writers(&writers[..2], Guard::Always), [1, 0]);
        assert_eq!(last_writers(&writers[..2], Guard::Selecting), [0]);
    }

    #[test]
    fn layers_are_listed_shortly() {
        for (layers, text) in [
            (vec![], ""),
            (vec![0], "0"),
            (vec![0, 1], "0, 1"),
            (vec![0, 1, 2, 5], "0–2, 5"),
            (vec![0, 1, 3, 5, 7, 9], "0, 1, 3 … 9"),
            (vec![2, 4, 6, 8], "2, 4 … 8"),
        ] {
            assert_eq!(layer_list(&layers), text, "{layers:?}");
        }
    }
}
