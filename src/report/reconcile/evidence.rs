//! What the rows say of a node, of the whole schedule, of a speed.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde::Serialize;

use super::claims::{Of, Speed};
use super::{Against, Outcome};
use crate::ledger::{Bench, Class, Outcome as Judged, Row, Stage, Statement, Target, Verdict};
use crate::ops::Node;
use crate::plan::coverage::Written;
use crate::report::proof::Proof;
use crate::report::status::first_line;
use crate::words::{agree, count};

/// One thing that the rows say, or that none does.
#[derive(Clone, Debug, Serialize)]
pub struct Word {
    pub node: Option<Node>,
    #[serde(skip)]
    pub outcome: Outcome,
    /// The row that says so.
    pub row: Option<u64>,
    /// The stage that said no.
    pub stage: Option<Stage>,
    pub text: String,
}

impl Word {
    pub(super) fn text(text: String) -> Word {
        Word { node: None, outcome: Outcome::NoEvidence, row: None, stage: None, text }
    }

    fn of(row: u64, outcome: Outcome, text: String) -> Word {
        Word { outcome, row: Some(row), ..Word::text(text) }
    }
}

pub(super) struct Desk<'a> {
    against: &'a Against<'a>,
    /// What was found out already: a file may claim one node thousands of times, and a binding is dear.
    nodes: RefCell<BTreeMap<Node, Word>>,
    stands: RefCell<BTreeMap<u64, bool>>,
}

/// A rate that a bench row holds.
struct Rate<'r> {
    row: &'r Row,
    bench: &'r Bench,
    run: &'r str,
    value: f64,
}

impl<'a> Desk<'a> {
    pub fn new(against: &'a Against<'a>) -> Desk<'a> {
        Desk { against, nodes: RefCell::default(), stands: RefCell::default() }
    }

    fn verdicts(&self, target: &Target) -> impl DoubleEndedIterator<Item = (&'a Row, &'a Verdict)> {
        let of_target = |row: &'a Row| row.statement().verdict().map(|v| (row, v));
        self.against.ledger.rows().iter().filter_map(of_target).filter(move |(_, v)| v.node == *target)
    }

    fn counts(&self, row: &Row) -> bool {
        self.against.ledger.counts(row, self.against.trust)
    }

    /// Whether a verdict or an attempt on the node is on record, whatever came of it and whoever signed.
    pub fn attempted(&self, node: &Node) -> bool {
        self.against.attempts.get(node).is_some_and(|n| *n > 0)
            || self.verdicts(&Target::Node(node.clone())).next().is_some()
    }

    pub fn node(&self, node: &Node) -> Word {
        if let Some(word) = self.nodes.borrow().get(node) {
            return word.clone();
        }
        let word = self.look(node);
        self.nodes.borrow_mut().insert(node.clone(), word.clone());
        word
    }

    fn look(&self, node: &Node) -> Word {
        let on_plan = self.against.status.nodes.iter().find(|n| n.usage.node == *node);
        let proofs = on_plan.map_or(&[][..], |n| &n.proofs);
        let target = Target::Node(node.clone());
        let mut word = self.proved(&target, proofs).unwrap_or_else(|| {
            let mut text = match on_plan.map(|n| &n.written) {
                None => "no row; this file's plan has no such node".to_string(),
                Some(Written::Absent) => "no row; no kernel".into(),
                Some(Written::Present { stem }) => format!("no row; kernels/{stem}.cu was never judged"),
                Some(Written::Broken { reason }) => format!("no row; its kernel is broken: {}", first_line(reason)),
            };
            if let Some(n) = self.against.attempts.get(node).filter(|n| **n > 0) {
                text.push_str(&format!("; {} on record in git", count(n, "attempt")));
            }
            Word::text(text)
        });
        word.node = Some(node.clone());
        word
    }

    /// What the rows say of a target; `None`: none speaks of it.
    fn proved(&self, target: &Target, proofs: &[Proof]) -> Option<Word> {
        let counting = |class: Class| proofs.iter().find(|p| p.counts() && p.class == class);
        if let Some(proof) = counting(Class::Device).or(counting(Class::Simulated)) {
            return Some(Word::of(proof.row, Outcome::Confirmed, proof.describe()));
        }
        if let Some(proof) = proofs.iter().find(|p| p.trusted && p.red.is_some() && p.stale.is_none()) {
            let (row, verdict) = self.verdicts(target).find(|(row, _)| row.seq == proof.row)?;
            return Some(red(row, verdict, Outcome::Refuted, ""));
        }
        if let Some(proof) = counting(Class::Emulated) {
            // What a device said counts for nothing here, which is not to say that none was asked.
            let device = proofs.iter().find(|p| p.class == Class::Device && p.red.is_none());
            let text = match device {
                Some(device) => format!("{}; passes on the CPU emulator (row {})", device.describe(), proof.row),
                None => {
                    format!("passes on the CPU emulator alone, which proves nothing of a device (row {})", proof.row)
                }
            };
            return Some(Word::of(device.unwrap_or(proof).row, Outcome::NoEvidence, text));
        }
        // The last word on other bytes than those at hand, or on a kernel that is gone: an attempt that failed was one.
        let decided = |(_, v): &(&Row, &Verdict)| !matches!(v.outcome, Judged::Indeterminate { .. });
        let last = self.verdicts(target).rev().filter(decided).find(|(row, _)| self.counts(row));
        if let Some((row, verdict)) = last
            && matches!(verdict.outcome, Judged::Red { .. })
        {
            let since = match (self.against.changes)(target, &verdict.binding) {
                Some(fields) => format!("; since then changed: {}", fields.join(", ")),
                None => "; there is no kernel at hand to be judged again".into(),
            };
            return Some(red(row, verdict, Outcome::Refuted, &since));
        }
        if let Some(proof) = proofs.iter().find(|p| !p.trusted).or(proofs.iter().find(|p| p.stale.is_some())) {
            return Some(Word::of(proof.row, Outcome::NoEvidence, proof.describe()));
        }
        let (row, verdict) = self.verdicts(target).next_back()?;
        if let Some(why) = self.against.ledger.void(row, self.against.trust) {
            let text = format!("row {} counts for nothing: {why}", row.seq);
            return Some(Word::of(row.seq, Outcome::NoEvidence, text));
        }
        let text = match &verdict.outcome {
            Judged::Red { .. } => {
                let key = row.evidence.signer().short();
                return Some(red(
                    row,
                    verdict,
                    Outcome::NoEvidence,
                    &format!("; by key {key}, which is not trusted here"),
                ));
            }
            Judged::Indeterminate { reason } => format!("row {} could not tell: {}", row.seq, first_line(reason)),
            Judged::Pass => {
                let why = match (self.against.changes)(target, &verdict.binding) {
                    None => "there is no such kernel at hand".to_string(),
                    Some(fields) if fields.is_empty() => "that is not all that green needs".into(),
                    Some(fields) => format!("but of another {}", fields.join(", ")),
                };
                let (class, arch) = (verdict.class.name(), &verdict.binding.arch);
                format!("row {} is a pass of class {class} on {arch}; {why}", row.seq)
            }
        };
        Some(Word::of(row.seq, Outcome::NoEvidence, text))
    }

    /// Whether rows say prefill_working for the file at hand.
    pub fn prefill(&self) -> (Outcome, Word) {
        let status = self.against.status;
        let works = status.prefill_works();
        if let Some(proof) = status.schedule.iter().find(|p| works.contains(&p.arch) && p.counts()) {
            return (Outcome::Confirmed, Word::of(proof.row, Outcome::Confirmed, proof.describe()));
        }
        let gates = status.gates().len();
        let nodes = count(status.nodes.len(), "node");
        let gates = match gates {
            0 => "every node is green".into(),
            n => format!("{n} of {nodes} {} not green", agree(n, "is", "are")),
        };
        match self.proved(&Target::Schedule, &status.schedule) {
            None => (Outcome::NoEvidence, Word::text(format!("no row on the whole schedule; {gates}"))),
            // The row is one half of it, the nodes' own rows are the other.
            Some(word) if word.outcome == Outcome::Confirmed => {
                let word = Word { outcome: Outcome::NoEvidence, text: format!("{}, but {gates}", word.text), ..word };
                (Outcome::NoEvidence, word)
            }
            Some(word) => (word.outcome, Word { text: format!("{}; {gates}", word.text), ..word }),
        }
    }

    /// Rates of this kind and of these nodes, or of whole schedules.
    fn rates(&self, of: Of, nodes: Option<&[Node]>) -> Vec<Rate<'a>> {
        let mut out = Vec::new();
        for row in self.against.ledger.rows() {
            let Statement::Bench(bench) = row.statement() else { continue };
            let mine = match (&bench.node, nodes) {
                (Target::Schedule, None) => true,
                (Target::Node(node), Some(nodes)) => nodes.contains(node),
                _ => false,
            };
            for (run, figures) in bench.runs.iter().filter(|_| mine && bench.class != Class::Emulated) {
                let kind = match () {
                    () if run.starts_with("pp") => Of::Prefill,
                    () if run.starts_with("tg") => Of::Decode,
                    () => Of::Any,
                };
                if of != Of::Any && kind != of {
                    continue;
                }
                let rate = |name: &str| matches!(name, "tokens_per_s" | "tokens_per_second");
                let rates = figures.iter().filter(|(name, _)| rate(name));
                let rates = rates.map(|(_, figure)| Rate { row, bench, run, value: figure.as_f64() });
                out.extend(rates.filter(|rate| rate.value.is_finite()));
            }
        }
        out
    }

    /// Whether a bench row counts, and is of the tree and file at hand.
    fn stands(&self, rate: &Rate<'_>) -> bool {
        let fields = (self.against.changes)(&rate.bench.node, &rate.bench.binding);
        self.counts(rate.row) && fields.is_some_and(|fields| fields.is_empty())
    }

    pub fn speed(&self, speed: &Speed, nodes: Option<&[Node]>) -> (Outcome, Word) {
        let what = match speed.of {
            Of::Prefill => "of a prefill",
            Of::Decode => "of decoding",
            Of::Any => "of any kind",
        };
        let rates = if speed.rate { self.rates(speed.of, nodes) } else { Vec::new() };
        let (Some(claimed), false) = (speed.value.filter(|v| v.is_finite()), rates.is_empty()) else {
            let text = match () {
                () if speed.value.is_none() => "it holds no number".into(),
                () if !speed.rate => "no row holds such a time".into(),
                () if nodes.is_some() => "no bench row of this kernel".into(),
                () => format!("no bench row {what}"),
            };
            return (Outcome::NoRow, Word::text(text));
        };
        let stands =
            |rate: &&Rate<'_>| *self.stands.borrow_mut().entry(rate.row.seq).or_insert_with(|| self.stands(rate));
        let best =
            |rates: &mut dyn Iterator<Item = &Rate<'a>>| rates.max_by(|a, b| a.value.total_cmp(&b.value)).map(say);
        if let Some((row, value, said)) = best(&mut rates.iter().filter(stands)) {
            // A speed is claimed to be reached, to the digits that are given.
            let outcome = match value >= claimed - half_a_digit(&speed.said) {
                true => Outcome::Confirmed,
                false => Outcome::Refuted,
            };
            return (outcome, Word::of(row, outcome, said));
        }
        match best(&mut rates.iter()) {
            Some((row, _, said)) => {
                let text = format!("{said}; it is of another tree, file or key than those at hand");
                (Outcome::NoEvidence, Word::of(row, Outcome::NoEvidence, text))
            }
            None => (Outcome::NoRow, Word::text(format!("no bench row {what}"))),
        }
    }
}

/// The row, its rate, and both in words.
fn say(rate: &Rate<'_>) -> (u64, f64, String) {
    let arch = &rate.bench.binding.arch;
    let simulated = if rate.bench.class == Class::Simulated { ", simulated" } else { "" };
    let text = format!("{}: {} tokens a second on {arch}{simulated} (row {})", rate.run, rate.value, rate.row.seq);
    (rate.row.seq, rate.value, text)
}

fn red(row: &Row, verdict: &Verdict, outcome: Outcome, more: &str) -> Word {
    let Judged::Red { stage, reason, .. } = &verdict.outcome else {
        return Word::of(row.seq, outcome, format!("row {}{more}", row.seq));
    };
    let simulated = if verdict.class == Class::Simulated { "simulated, " } else { "" };
    let text = format!(
        "red in stage {} ({}): {} ({simulated}{}, row {}){more}",
        stage.number(),
        stage.name(),
        first_line(reason),
        verdict.binding.arch,
        row.seq
    );
    Word { stage: Some(*stage), ..Word::of(row.seq, outcome, text) }
}

/// Half of the last digit that is written: `41.7` may stand for 41.65.
fn half_a_digit(said: &str) -> f64 {
    let number = said.trim_start().trim_start_matches(['~', ' ']);
    let end = number.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ',')).unwrap_or(number.len());
    let decimals = number[..end].split_once('.').map_or(0, |(_, d)| d.len());
    0.5 * 10f64.powi(-(decimals.min(300) as i32))
}
