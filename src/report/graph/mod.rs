//! Pictures of a [`Graph`]: one cluster per section with its instances as boxes, an oval for each buffer that it finds
//! written, and the order in which sections follow each other.

mod dot;
mod layout;
mod mermaid;
mod svg;

use std::collections::BTreeMap;

pub use dot::dot;
pub use mermaid::mermaid;
pub use svg::{PAGE_STYLE, svg, svg_in_page};

use super::proof::State;
use crate::ops::Node;
use crate::plan::graph::{Graph, Part, Span, layer_list, leaf};

/// What is drawn, whatever the format.
pub struct Drawing {
    pub title: String,
    pub clusters: Vec<Cluster>,
    /// Clusters by index: which comes after which.
    pub follows: Vec<(usize, usize)>,
    /// States that occur, for the legend.
    pub states: Vec<State>,
}

pub struct Cluster {
    pub part: Part,
    pub title: String,
    /// Entries first, then instances in plan order.
    pub boxes: Vec<Shape>,
    /// From one box to another, within the cluster.
    pub edges: Vec<(usize, usize)>,
}

pub struct Shape {
    /// The instance's name within its layer, or the buffer's.
    pub label: String,
    /// `None`: an entry.
    pub node: Option<Node>,
    /// When it acts, unless always.
    pub when: Option<String>,
    pub state: Option<State>,
}

impl Drawing {
    /// `state` colours nodes; without one the picture is of the model alone.
    pub fn of(graph: &Graph<'_>, title: String, state: impl Fn(&Node) -> Option<State>) -> Drawing {
        let mut clusters = Vec::new();
        for section in &graph.sections {
            let mut entries: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for &i in &section.members {
                for name in graph.entries(section, i) {
                    entries.entry(name).or_default().push(i);
                }
            }
            let entry = |name: &&str| Shape { label: name.to_string(), node: None, when: None, state: None };
            let mut boxes: Vec<Shape> = entries.keys().map(entry).collect();
            let ovals = boxes.len();
            let at = |i: usize| section.members.iter().position(|m| *m == i).map(|m| ovals + m);
            let mut edges = Vec::new();
            for (e, readers) in entries.values().enumerate() {
                edges.extend(readers.iter().filter_map(|i| Some((e, at(*i)?))));
            }
            for &i in &section.members {
                let instance = &graph.plan.instances[i];
                edges.extend(graph.inputs(i).iter().filter_map(|(w, _)| at(*w).zip(at(i))));
                boxes.push(Shape {
                    label: leaf(instance).into(),
                    node: Some(instance.node.clone()),
                    when: Span::of(instance.guard, graph.plan.top_k).describe(),
                    state: state(&instance.node),
                });
            }
            edges.sort();
            edges.dedup();
            let layers = match section.layers.as_slice() {
                [] => String::new(),
                [one] => format!("layer {one}: "),
                many => format!("layers {}: ", layer_list(many)),
            };
            clusters.push(Cluster { part: section.part, title: format!("{layers}{}", section.title), boxes, edges });
        }
        let mut states: Vec<_> = clusters.iter().flat_map(|c| &c.boxes).filter_map(|b| b.state).collect();
        states.sort();
        states.dedup();
        Drawing { title, clusters, follows: graph.follows.iter().copied().collect(), states }
    }
}

impl Shape {
    /// `matmul[q8_0], past 131 tokens`; empty for an entry.
    fn detail(&self) -> String {
        match (&self.node, &self.when) {
            (Some(node), Some(when)) => format!("{node}, {when}"),
            (Some(node), None) => node.to_string(),
            (None, _) => String::new(),
        }
    }
}

/// Fill and border of a state, readable under black text.
pub fn colours(state: State) -> (&'static str, &'static str) {
    match state {
        State::Green => ("#a6e3a1", "#2f7d32"),
        State::Simulated => ("#d5c7f2", "#6a4fb3"),
        State::Red => ("#f5a3a3", "#b3261e"),
        State::Emulated => ("#a8d8ea", "#1f6f8b"),
        State::Untrusted => ("#d9e8c5", "#6b7f4d"),
        State::Stale => ("#f9e2a2", "#9a7400"),
        State::Unproved => ("#f6d5b0", "#a35a00"),
        State::Broken => ("#f0b8d0", "#a0235a"),
        State::Absent => ("#ececec", "#777777"),
    }
}

/// What a legend says of a state.
pub fn meaning(state: State) -> &'static str {
    match state {
        State::Green => "green: proved on a device",
        State::Simulated => "simulated: no evidence of a device",
        State::Red => "red: judged wrong",
        State::Emulated => "passes on the CPU emulator",
        State::Untrusted => "proven by a key not trusted here",
        State::Stale => "stale: changed since it was proved",
        State::Unproved => "has a kernel, not proved",
        State::Broken => "its kernel is broken",
        State::Absent => "no kernel",
    }
}
