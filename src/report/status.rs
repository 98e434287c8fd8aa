//! What is proved of a model's nodes, where, and what is left: behind `status`, `next` and the colours of `graph`.
//!
//! The ledger's word comes in as a list of [`Proof`]s; what is derived from it here needs no ledger, no key and no file.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value, json};

use super::proof::{Proof, State};
use crate::ledger::Class;
use crate::model::Model;
use crate::ops::Node;
use crate::plan::Plan;
use crate::plan::coverage::{self, Broken, Unreachable, Written};
use crate::plan::graph::{Graph, NodeUse};
use crate::plan::kernels::KernelTree;
use crate::words::{agree, count, shell};
use crate::{Error, Result};

/// The device of this machine.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Here {
    /// `sm_90`; `None`: there is none that assay can use.
    pub arch: Option<String>,
    /// Its name, or why there is none.
    pub device: String,
    /// There is a C++ compiler, without which no kernel runs on the emulator here.
    #[serde(skip)]
    pub emulator: bool,
}

/// One node with everything known of it.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    pub usage: NodeUse,
    pub written: Written,
    pub proofs: Vec<Proof>,
    /// For this machine's architecture, or for the best one where it has none.
    pub state: State,
    /// There may be proofs that cannot be looked up, see [`Status::unhashed`].
    pub unhashed: bool,
    /// ` -m FILE`, unless the file is the workbench's own.
    pub of_file: String,
}

impl NodeStatus {
    /// Whether it is green, or counts as green, for an architecture.
    pub fn passes_on(&self, arch: &str) -> bool {
        !State::of(&self.written, &self.proofs, Some(arch)).is_gate()
    }

    /// One entry of `nodes` in `assay.status/1`.
    pub fn to_json(&self) -> Result<Value> {
        let usage = &self.usage;
        let (kernel, problem) = match &self.written {
            Written::Absent => (None, None),
            Written::Present { stem } => (Some(format!("kernels/{stem}.cu")), None),
            Written::Broken { reason } => (None, Some(reason)),
        };
        Ok(json!({
            "node": usage.node.to_string(),
            "op": usage.node.op,
            "types": usage.node.types.iter().map(|t| t.name()).collect::<Vec<_>>(),
            "instances": usage.instances.len(),
            "layers": usage.layers,
            "first": usage.first(),
            "tokens": usage.span,
            "long_prompt_only": usage.long_prompt_only,
            "kernel": kernel,
            "kernel_problem": problem,
            "state": self.state,
            "detail": self.detail(),
            "proofs": value(&self.proofs)?,
        }))
    }

    /// The command that judges it, in the spelling that no shell expands.
    pub fn verify(&self) -> String {
        format!("assay verify {}{}", self.usage.node.file_stem(), self.of_file)
    }

    /// What is known, and the command that would tell more.
    pub fn detail(&self) -> String {
        let words: Vec<String> = self.proofs.iter().map(Proof::describe).collect();
        match (&self.written, self.state) {
            (Written::Absent, _) if words.is_empty() => "no kernel".into(),
            (Written::Absent, _) => format!("no kernel; {}", words.join("; ")),
            (Written::Broken { reason }, _) => format!("its kernel is broken: {}", first_line(reason)),
            (_, State::Unproved) if self.unhashed => "has a kernel; whether it is proved is not known".into(),
            (_, State::Unproved) => {
                let void = self.proofs.iter().filter(|p| p.void.is_some()).map(|p| format!(" ({})", p.describe()));
                format!("has a kernel that is not proved{}: {}", void.collect::<String>(), self.verify())
            }
            _ => words.join("; "),
        }
    }
}

fn value<T: Serialize>(v: &T) -> Result<Value> {
    serde_json::to_value(v).map_err(|e| Error::internal(e.to_string()))
}

/// The first line of a message, for tables.
pub fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// See the module's documentation.
pub struct Status {
    pub model: String,
    /// What must be said of the weights: `synthetic, aliased`.
    pub weights: Option<&'static str>,
    pub here: Here,
    /// In plan order.
    pub nodes: Vec<NodeStatus>,
    pub schedule: Vec<Proof>,
    pub unreachable: Vec<Unreachable>,
    pub broken: Vec<Broken>,
    /// There are rows, and nobody knows which of them are of this file: its weights are not hashed yet.
    pub unhashed: bool,
    /// ` -m FILE`, unless the file is the workbench's own.
    pub of_file: String,
    numerics: &'static str,
    instances: usize,
}

impl Status {
    pub fn of(
        model: &Model,
        graph: &Graph<'_>,
        tree: &KernelTree,
        mut proofs: Vec<Proof>,
        here: Here,
    ) -> Result<Status> {
        let schedule = proofs.extract_if(.., |p| p.node.is_none()).collect();
        let nodes = graph.nodes.iter().map(|usage| {
            let proofs: Vec<_> = proofs.iter().filter(|p| p.node.as_ref() == Some(&usage.node)).cloned().collect();
            let written = Written::of(tree, &usage.node);
            let state = State::of(&written, &proofs, here.arch.as_deref());
            NodeStatus { usage: usage.clone(), written, proofs, state, unhashed: false, of_file: String::new() }
        });
        let plan: &Plan = graph.plan;
        Ok(Status {
            model: model.path().display().to_string(),
            weights: model.weights_note(),
            nodes: nodes.collect(),
            here,
            schedule,
            unreachable: coverage::unreachable(graph, tree),
            broken: coverage::broken(tree)?,
            unhashed: false,
            of_file: String::new(),
            numerics: plan.numerics.name(),
            instances: plan.instances.len(),
        })
    }

    /// The same of a file that commands have to name so.
    pub fn named(mut self, of_file: String) -> Status {
        self.of_file = of_file;
        self.nodes.iter_mut().for_each(|node| node.of_file.clone_from(&self.of_file));
        self
    }

    /// The same of a file whose weights are not hashed yet: that no proof was found says nothing.
    pub fn of_unhashed(mut self) -> Status {
        self.unhashed = true;
        self.nodes.iter_mut().for_each(|node| node.unhashed = true);
        self
    }

    /// What has to be typed for it to be known what is proved.
    fn hashing(&self) -> String {
        format!("assay status -m {} --hash hashes them", shell(&self.model))
    }

    /// Nodes that still stand before a prefill: what stops every prefill first, then what stops long ones.
    pub fn gates(&self) -> Vec<&NodeStatus> {
        let mut gates: Vec<_> = self.nodes.iter().filter(|n| n.state.is_gate()).collect();
        gates.sort_by_key(|n| (n.usage.long_prompt_only, n.usage.first(), std::cmp::Reverse(n.usage.instances.len())));
        gates
    }

    pub fn state(&self, node: &Node) -> Option<State> {
        self.nodes.iter().find(|n| n.usage.node == *node).map(|n| n.state)
    }

    /// Architectures on which something of this class counts: how many nodes, and on what devices.
    fn proved(&self, class: Class) -> BTreeMap<&str, (usize, BTreeSet<&str>)> {
        let mut counts: BTreeMap<&str, (usize, BTreeSet<&str>)> = BTreeMap::new();
        for node in self.nodes.iter().filter(|n| matches!(n.written, Written::Present { .. })) {
            let counting = || node.proofs.iter().filter(|p| p.class == class && p.counts());
            for arch in counting().map(|p| p.arch.as_str()).collect::<BTreeSet<_>>() {
                let (nodes, devices) = counts.entry(arch).or_default();
                *nodes += 1;
                devices
                    .extend(counting().filter(|p| p.arch == arch && !p.device.is_empty()).map(|p| p.device.as_str()));
            }
        }
        counts
    }

    /// The one plain sentence that `status` and `verify` lead with.
    pub fn sentence(&self) -> String {
        let of_state = |state: State| self.nodes.iter().filter(|n| n.state == state).count();
        let are = |n: usize| agree(n, "is", "are");
        let mut parts = Vec::new();
        for (n, _) in self.proved(Class::Emulated).values() {
            parts.push(match self.here.emulator {
                true => format!("{n} {} here on the CPU emulator", agree(*n, "passes", "pass")),
                false => format!("{n} passed on the CPU emulator, for which there is no C++ compiler here"),
            });
        }
        for (arch, (n, devices)) in self.proved(Class::Device) {
            let devices: Vec<_> = devices.into_iter().collect();
            let devices = if devices.is_empty() { String::new() } else { format!(" ({})", devices.join(", ")) };
            parts.push(format!("{n} {} proven on {arch}{devices}", are(n)));
        }
        for (arch, (n, _)) in self.proved(Class::Simulated) {
            parts.push(format!("{n} {} simulated on {arch}, which is no evidence of a device", are(n)));
        }
        let outgrown = |n: &&NodeStatus| n.proofs.iter().any(|p| p.counts() && p.outgrown.is_some());
        match self.nodes.iter().filter(outgrown).count() {
            0 => {}
            n => parts.push(format!("{n} of them by an earlier judge, and on the emulator by today's")),
        }
        let untrusted = of_state(State::Untrusted);
        if untrusted > 0 {
            parts.push(format!("{untrusted} {} proven by a key that is not trusted here", are(untrusted)));
        }
        let proved = !parts.is_empty();
        for (state, word) in [(State::Red, "red"), (State::Stale, "stale"), (State::Broken, "broken")] {
            match of_state(state) {
                0 => {}
                n => parts.push(format!("{n} {} {word}", are(n))),
            }
        }
        let total = self.nodes.len();
        if self.unhashed {
            let written = self.nodes.iter().filter(|n| n.written != Written::Absent).count();
            let first = format!(
                "It is not known what is proved: the weights of this file are not hashed yet ({}); {written} of the {} that it \
                 needs {} a kernel",
                self.hashing(),
                count(total, "node"),
                agree(written, "has", "have")
            );
            parts.insert(0, first);
            return format!("{}.", parts.join("; "));
        }
        if !proved {
            let written = self.nodes.iter().filter(|n| n.written != Written::Absent).count();
            let some = if written == 0 { "none".into() } else { written.to_string() };
            let have = if written == 0 { "has" } else { agree(written, "has", "have") };
            let nodes = count(total, "node");
            parts.insert(0, format!("Nothing is proved: {some} of the {nodes} that this file needs {have} a kernel"));
        } else if let Some((n, rest)) = parts[0].split_once(' ') {
            parts[0] = format!("{n} of {} {rest}", count(total, "node"));
        }
        let works = self.prefill_works();
        parts.push(if works.is_empty() {
            "prefill not yet".into()
        } else {
            format!("prefill works on {}", works.join(", "))
        });
        format!("{}.", parts.join("; "))
    }

    /// Architectures for which no gate is left and the whole schedule has passed.
    pub fn prefill_works(&self) -> Vec<String> {
        let counted = self.schedule.iter().filter(|p| p.counts() && p.class != Class::Emulated);
        let mut archs: Vec<_> =
            counted.filter(|p| self.nodes.iter().all(|n| n.passes_on(&p.arch))).map(|p| p.arch.clone()).collect();
        archs.sort();
        archs.dedup();
        archs
    }

    /// The value of the line `prefill_working`, with its reason.
    pub fn prefill_line(&self) -> String {
        if self.unhashed {
            return format!("not known: the weights are not hashed yet ({})", self.hashing());
        }
        let works = self.prefill_works();
        if !works.is_empty() {
            let rows = self.schedule.iter().filter(|p| works.contains(&p.arch)).map(Proof::describe);
            return format!("yes: {}", rows.collect::<Vec<_>>().join("; "));
        }
        let gates = self.gates().len();
        let on = self.here.arch.as_ref().map_or(String::new(), |a| format!(" on {a}"));
        let whole: Vec<_> = self.schedule.iter().map(Proof::describe).collect();
        let whole = whole.join("; ");
        let of = &self.of_file;
        match (gates, whole.is_empty()) {
            (0, true) => {
                format!("no: no gate is left{on}, but the whole schedule has not passed (assay verify --all{of})")
            }
            (0, false) => {
                format!("no: no gate is left{on}, but of the whole schedule: {whole} (assay verify --all{of})")
            }
            (n, _) => format!(
                "no: {n} of {} {} not green{on} (assay next{of}){}",
                count(self.nodes.len(), "node"),
                agree(n, "is", "are"),
                if whole.is_empty() { String::new() } else { format!("; the whole schedule: {whole}") }
            ),
        }
    }

    /// The body of `assay.status/1`.
    pub fn to_json(&self) -> Result<Value> {
        let nodes = self.nodes.iter().map(NodeStatus::to_json).collect::<Result<Vec<_>>>()?;
        let mut archs: BTreeMap<String, usize> = BTreeMap::new();
        for node in &self.nodes {
            let mut on: Vec<_> = node.proofs.iter().map(|p| p.arch.clone()).collect();
            on.sort();
            on.dedup();
            for arch in on {
                *archs.entry(arch.clone()).or_insert(0) += usize::from(arch != "emulator" && node.passes_on(&arch));
            }
        }
        let works = self.prefill_works();
        let mut body = json!({
            "summary": self.sentence(),
            "model": self.model,
            "weights": self.weights,
            "numerics": self.numerics,
            "instances": self.instances,
            "machine": value(&self.here)?,
            "architectures": archs.iter().map(|(arch, green)| json!({ "arch": arch, "green": green })).collect::<Vec<_>>(),
            "nodes": nodes,
            "unreachable": value(&self.unreachable)?,
            "broken": value(&self.broken)?,
            "gates": self.gates().iter().map(|n| n.usage.node.to_string()).collect::<Vec<_>>(),
            "prefill_working": { "value": !works.is_empty(), "architectures": works, "reason": self.prefill_line(), "proofs": value(&self.schedule)? },
        });
        if self.unhashed {
            body["unhashed"] = json!(true);
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::super::proof::fixture::{present, proof};
    use super::*;

    /// Four nodes with kernels, and what is said of each.
    fn status(proofs: [Vec<Proof>; 4], schedule: Vec<Proof>) -> Status {
        let nodes = ["embed[f16]", "rms_norm", "matmul[q8_0]", "rope_tail"].into_iter().zip(proofs).enumerate();
        let nodes = nodes.map(|(i, (node, proofs))| {
            let usage = NodeUse {
                node: node.parse().unwrap(),
                instances: vec![i],
                layers: BTreeSet::new(),
                sections: BTreeSet::new(),
                span: crate::plan::graph::Span { from: 1, to: None },
                long_prompt_only: i == 1,
                after: BTreeSet::new(),
            };
            let state = State::of(&present(), &proofs, None);
            NodeStatus { usage, written: present(), proofs, state, unhashed: false, of_file: String::new() }
        });
        Status {
            model: "m.gguf".into(),
            weights: None,
            here: Here { emulator: true, ..Here::default() },
            nodes: nodes.collect(),
            schedule,
            unreachable: vec![],
            broken: vec![],
            unhashed: false,
            of_file: String::new(),
            numerics: "ds4",
            instances: 4,
        }
    }

    #[test]
    fn the_sentence_says_what_is_proved_and_where() {
        let green = || Proof { device: "NVIDIA H200".into(), ..proof(Class::Device, "sm_90") };
        let emulated = || proof(Class::Emulated, "emulator");
        let untrusted = || Proof { trusted: false, ..green() };
        let stale = || Proof { stale: Some("closure".into()), ..green() };
        let none = Vec::new;
        let say = |proofs| status(proofs, vec![]).sentence();
        assert_eq!(
            say([none(), none(), none(), none()]),
            "Nothing is proved: 4 of the 4 nodes that this file needs have a kernel; prefill not yet."
        );
        assert_eq!(
            say([vec![green(), emulated()], vec![emulated()], none(), none()]),
            "2 of 4 nodes pass here on the CPU emulator; 1 is proven on sm_90 (NVIDIA H200); prefill not yet."
        );
        let mut elsewhere = status([vec![green(), emulated()], vec![emulated()], none(), none()], vec![]);
        elsewhere.here.emulator = false;
        assert_eq!(
            elsewhere.sentence(),
            "2 of 4 nodes passed on the CPU emulator, for which there is no C++ compiler here; 1 is proven on sm_90 \
             (NVIDIA H200); prefill not yet."
        );
        assert_eq!(
            say([vec![untrusted()], vec![stale()], none(), none()]),
            "1 of 4 nodes is proven by a key that is not trusted here; 1 is stale; prefill not yet."
        );
        assert_eq!(
            say([vec![stale()], none(), none(), none()]),
            "Nothing is proved: 4 of the 4 nodes that this file needs have a kernel; 1 is stale; prefill not yet."
        );
    }

    /// "Nothing is proved" was said where nobody had looked.
    #[test]
    fn what_nobody_could_look_up_was_called_unproved() {
        let s = status([vec![], vec![], vec![], vec![]], vec![]).of_unhashed();
        assert_eq!(
            s.sentence(),
            "It is not known what is proved: the weights of this file are not hashed yet (assay status -m m.gguf --hash \
             hashes them); 4 of the 4 nodes that it needs have a kernel."
        );
        assert_eq!(s.nodes[0].detail(), "has a kernel; whether it is proved is not known");
        assert!(s.prefill_line().starts_with("not known: the weights are not hashed yet"), "{}", s.prefill_line());
        assert_eq!(s.to_json().unwrap()["unhashed"], true);
    }

    #[test]
    fn prefill_works_where_no_gate_is_left_and_the_schedule_passed() {
        let green = || vec![proof(Class::Device, "sm_90")];
        let schedule = proof(Class::Device, "sm_90");
        let all = || [green(), green(), green(), green()];
        assert_eq!(status(all(), vec![schedule.clone()]).prefill_works(), ["sm_90"]);
        assert!(status(all(), vec![]).prefill_works().is_empty());
        assert!(status(all(), vec![]).prefill_line().contains("whole schedule has not passed"));
        for other in [
            Proof { stale: Some("schedule".into()), ..schedule.clone() },
            Proof { trusted: false, ..schedule.clone() },
            Proof { red: Some("prefill: logits".into()), ..schedule.clone() },
            proof(Class::Device, "sm_120"),
            proof(Class::Emulated, "emulator"),
        ] {
            assert!(status(all(), vec![other]).prefill_works().is_empty());
        }
        let missing = status([green(), green(), green(), vec![]], vec![schedule]);
        assert!(missing.prefill_works().is_empty());
        assert_eq!(missing.gates().len(), 1);
    }

    #[test]
    fn long_prompts_come_last() {
        let none = Vec::new;
        let s = status([none(), none(), none(), none()], vec![]);
        let order: Vec<_> = s.gates().iter().map(|g| g.usage.node.to_string()).collect();
        assert_eq!(order, ["embed[f16]", "matmul[q8_0]", "rope_tail", "rms_norm"]);
    }

    #[test]
    fn the_json_of_a_proof_is_pinned() {
        let proof = Proof { stale: Some("closure".into()), ..proof(Class::Device, "sm_90") };
        let json = status([vec![proof], vec![], vec![], vec![]], vec![]).to_json().unwrap();
        assert_eq!(
            json["nodes"][0]["proofs"][0].to_string(),
            "{\"node\":null,\"arch\":\"sm_90\",\"class\":\"device\",\"device\":\"\",\"key\":\"k\",\"trusted\":true,\"red\":null,\
             \"stale\":\"closure\",\"outgrown\":null,\"row\":1}"
        );
        assert_eq!(json["architectures"].to_string(), "[{\"arch\":\"sm_90\",\"green\":0}]");
        assert_eq!(json["nodes"][0]["state"], "stale");
    }
}
