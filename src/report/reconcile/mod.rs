//! Somebody's claims held against the rows, line by line: the table of a postmortem, for any claim file.
//!
//! [`claims`] takes the file apart by the words of `vocabulary`, [`names`] says what a name stands for, [`evidence`] what the rows say of a node, of
//! the whole schedule and of a speed. What is put together here says no more than they do.

pub mod claims;
mod evidence;
mod names;
mod strict;
mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::status::Status;
use crate::ledger::{Binding, Ledger, Target, Trust};
use crate::ops::Node;
use claims::{Claimed, Claims};
use evidence::Desk;
pub use evidence::Word;
pub use names::Names;

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Rows that count prove it, each node that the name stands for.
    Confirmed,
    /// The last word of a row that counts is Red, or less than claimed.
    Refuted,
    /// No row that counts says so.
    NoEvidence,
    /// Of a speed: no row holds one of this kind.
    NoRow,
    /// No op, node, alias or upstream symbol is called so.
    UnknownName,
    /// The file itself does not say that it is done.
    NotClaimed,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Confirmed => "confirmed",
            Outcome::Refuted => "REFUTED",
            Outcome::NoEvidence => "no evidence",
            Outcome::NoRow => "no row",
            Outcome::UnknownName => "unknown name",
            Outcome::NotClaimed => "not claimed",
        }
    }
}

/// One claim and what the rows say of it.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Where it stands in the file.
    pub at: String,
    /// The kernel's name, or the key.
    pub name: String,
    /// What was claimed, as it is written.
    pub claimed: String,
    pub outcome: Outcome,
    /// What the rows say of each node that the name stands for; of other claims in one text without a node.
    pub words: Vec<Word>,
}

/// A node that stands between the model and a prefill, of which nothing is on record.
#[derive(Clone, Debug, Serialize)]
pub struct Gate {
    pub node: Node,
    /// Names under which the file claims it all the same.
    pub claimed_as: Vec<String>,
}

/// How many claims of each kind came to what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Names claimed as done,
    pub kernels_claimed: usize,
    /// and the nodes of the plan that they stand for.
    pub nodes_claimed: usize,
    pub confirmed: usize,
    pub refuted: usize,
    pub no_evidence: usize,
    pub unknown_name: usize,
    /// Names that the file lists without claiming that they are done.
    pub not_claimed: usize,
    pub speeds: usize,
    pub speeds_without_a_row: usize,
    pub nodes: usize,
    pub nodes_green: usize,
    pub gates: usize,
    pub gates_never_attempted: usize,
}

/// See the module's documentation.
#[derive(Clone, Debug, Serialize)]
pub struct Reconciliation {
    pub kernels: Vec<Line>,
    pub prefill: Vec<Line>,
    pub speeds: Vec<Line>,
    pub counts: Vec<Line>,
    /// Flags by which something works that no row speaks of.
    pub others: Vec<Line>,
    /// What in the file claims nothing that a row could hold: path and text.
    pub unread: Vec<(String, String)>,
    pub gates_never_attempted: Vec<Gate>,
    pub totals: Totals,
}

/// What claims are held against.
pub struct Against<'a> {
    pub status: &'a Status,
    pub ledger: &'a Ledger,
    pub trust: &'a Trust,
    /// Attempts on record in git, by node.
    pub attempts: &'a BTreeMap<Node, usize>,
    /// The fields in which a binding differs from what the tree and file at hand bind, where they bind anything.
    pub changes: &'a dyn Fn(&Target, &Binding) -> Option<Vec<&'static str>>,
    pub names: &'a Names,
}

impl Reconciliation {
    pub fn of(claims: &Claims, against: &Against<'_>) -> Reconciliation {
        let names = against.names;
        let plan: Vec<Node> = against.status.nodes.iter().map(|n| n.usage.node.clone()).collect();
        let desk = Desk::new(against);
        let mut out = Reconciliation {
            kernels: Vec::new(),
            prefill: Vec::new(),
            speeds: Vec::new(),
            counts: Vec::new(),
            others: Vec::new(),
            unread: Vec::new(),
            gates_never_attempted: Vec::new(),
            totals: Totals::default(),
        };
        let mut claimed_as: BTreeMap<Node, BTreeSet<String>> = BTreeMap::new();
        for kernel in &claims.kernels {
            let nodes = names.resolve(&kernel.name, &plan);
            let words: Vec<Word> = nodes.iter().map(|node| desk.node(node)).collect();
            let outcome = match (kernel.claimed, words.is_empty()) {
                (Claimed::NotDone, _) => Outcome::NotClaimed,
                (Claimed::Done, true) => Outcome::UnknownName,
                (Claimed::Done, false) => all(&words),
            };
            if kernel.claimed == Claimed::Done {
                for node in nodes {
                    claimed_as.entry(node).or_default().insert(kernel.name.clone());
                }
            }
            let claimed = kernel.status.clone().unwrap_or_else(|| match kernel.claimed {
                Claimed::Done => "listed as done".into(),
                Claimed::NotDone => "listed as not done".into(),
            });
            out.kernels.push(Line { at: kernel.at.clone(), name: kernel.name.clone(), claimed, outcome, words });
        }
        let said = (!claims.prefill.is_empty()).then(|| desk.prefill());
        for (prefill, (outcome, word)) in claims.prefill.iter().zip(said.iter().cycle().cloned()) {
            let outcome = if prefill.claimed == Claimed::Done { outcome } else { Outcome::NotClaimed };
            out.prefill.push(line(&prefill.at, &prefill.said, outcome, word));
        }
        for speed in &claims.speeds {
            let nodes = speed.kernel.as_ref().map(|name| names.resolve(name, &plan));
            let (outcome, word) = desk.speed(speed, nodes.as_deref());
            out.speeds.push(line(&speed.at, &speed.said, outcome, word));
        }
        out.count(claims, against, &claimed_as);
        for count in &claims.counts {
            let confirmed = out.totals.confirmed;
            let enough = count.value.is_some_and(|n| n > 0 && n as usize <= confirmed);
            let outcome = if enough { Outcome::Confirmed } else { Outcome::NoEvidence };
            let named = out.totals.kernels_claimed;
            let word = match named {
                0 => Word::text("no kernel is named, so no row can be held against the number".into()),
                _ => Word::text(format!("the file names {named} as done; rows confirm {confirmed}")),
            };
            out.counts.push(line(&count.at, &count.said, outcome, word));
        }
        for other in &claims.others {
            match other.claims {
                true => {
                    let word =
                        Word::text("rows are of nodes, of whole schedules and of speeds; none speaks of this".into());
                    out.others.push(line(&other.at, &other.said, Outcome::NoEvidence, word));
                }
                false => out.unread.push((other.at.clone(), other.said.clone())),
            }
        }
        let never = against.status.gates().into_iter().map(|g| &g.usage.node).filter(|node| !desk.attempted(node));
        let gate = |node: &Node| {
            let as_ = claimed_as.get(node).map_or(Vec::new(), |names| names.iter().cloned().collect());
            Gate { node: node.clone(), claimed_as: as_ }
        };
        out.gates_never_attempted = never.map(gate).collect();
        out.totals.gates_never_attempted = out.gates_never_attempted.len();
        out
    }

    fn count(&mut self, claims: &Claims, against: &Against<'_>, claimed_as: &BTreeMap<Node, BTreeSet<String>>) {
        // A name that stands twice is one kernel.
        let mut seen = BTreeSet::new();
        let totals = &mut self.totals;
        for (line, kernel) in self.kernels.iter().zip(&claims.kernels).filter(|(line, _)| seen.insert(&line.name)) {
            totals.kernels_claimed += usize::from(kernel.claimed == Claimed::Done);
            totals.not_claimed += usize::from(kernel.claimed == Claimed::NotDone);
            *match line.outcome {
                Outcome::Confirmed => &mut totals.confirmed,
                Outcome::Refuted => &mut totals.refuted,
                Outcome::NoEvidence | Outcome::NoRow => &mut totals.no_evidence,
                Outcome::UnknownName => &mut totals.unknown_name,
                Outcome::NotClaimed => continue,
            } += 1;
        }
        totals.nodes_claimed = against.status.nodes.iter().filter(|n| claimed_as.contains_key(&n.usage.node)).count();
        totals.speeds = self.speeds.len();
        totals.speeds_without_a_row = self.speeds.iter().filter(|l| l.outcome == Outcome::NoRow).count();
        totals.nodes = against.status.nodes.len();
        totals.gates = against.status.gates().len();
        totals.nodes_green = totals.nodes - totals.gates;
    }

    /// Whether everything that the file claims is confirmed.
    pub fn holds(&self) -> bool {
        let fine = |line: &Line| matches!(line.outcome, Outcome::Confirmed | Outcome::NotClaimed);
        [&self.prefill, &self.speeds, &self.counts, &self.others].into_iter().flatten().chain(&self.kernels).all(fine)
    }
}

fn line(at: &str, said: &str, outcome: Outcome, word: Word) -> Line {
    Line { at: at.into(), name: at.into(), claimed: said.into(), outcome, words: vec![word] }
}

/// A name is as good as the worst of the nodes that it stands for.
fn all(words: &[Word]) -> Outcome {
    match () {
        () if words.iter().any(|w| w.outcome == Outcome::Refuted) => Outcome::Refuted,
        () if words.iter().all(|w| w.outcome == Outcome::Confirmed) => Outcome::Confirmed,
        () => Outcome::NoEvidence,
    }
}
