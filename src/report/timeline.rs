//! Everything that happened to a node, in the order of its rows.

use std::collections::HashMap;

use serde::Serialize;

use super::cited::Cited;
use crate::history::Attempt;
use crate::ledger::{Class, Digest, Outcome, Row, Stage, Statement, Target};

/// What an event came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A pass through every stage that green needs.
    Pass,
    /// A pass as far as it ran; on the emulator there is no more.
    Partial,
    Red,
    Indeterminate,
    Bench,
    /// An attempt that is kept in git, of which this ledger has no row.
    Attempt,
    /// One of which there can be no row: it was refused before there was anything to bind.
    Refused,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Pass => "pass",
            Kind::Partial => "pass as far as it ran",
            Kind::Red => "red",
            Kind::Indeterminate => "indeterminate",
            Kind::Bench => "bench",
            Kind::Attempt => "attempt without a row",
            Kind::Refused => "refused before a binding",
        }
    }
}

/// One verdict, bench row or attempt.
#[derive(Clone, Debug)]
pub struct Event<'r> {
    pub row: Option<&'r Row>,
    pub kind: Kind,
    pub class: Option<Class>,
    pub arch: String,
    /// That said no.
    pub stage: Option<Stage>,
    /// Why it is not a pass, or the summary of an attempt.
    pub reason: String,
    pub error: Option<Cited>,
    pub time: Option<Cited>,
    /// The commit that landed it.
    pub landed: Option<String>,
    /// Where its kernels are kept.
    pub attempt: Option<Attempt>,
}

/// The events of a target: rows first to last, then the attempts that no row speaks of.
pub fn timeline<'r>(
    rows: &'r [Row],
    target: &Target,
    landed: &HashMap<Digest, String>,
    attempts: &[Attempt],
) -> Vec<Event<'r>> {
    let mut out = Vec::new();
    for row in rows.iter().filter(|row| row.statement().target() == Some(target)) {
        let digest = row.evidence.digest();
        let (kind, arch, stage, reason) = match row.statement() {
            Statement::Verdict(v) => {
                let (kind, stage, reason) = match &v.outcome {
                    Outcome::Pass if v.complete() => (Kind::Pass, None, String::new()),
                    Outcome::Pass => (Kind::Partial, None, String::new()),
                    Outcome::Red { stage, reason, .. } => (Kind::Red, Some(*stage), reason.clone()),
                    Outcome::Indeterminate { reason } => (Kind::Indeterminate, None, reason.clone()),
                };
                (kind, v.binding.arch.clone(), stage, reason)
            }
            Statement::Bench(b) => (Kind::Bench, b.binding.arch.clone(), None, String::new()),
            _ => continue,
        };
        out.push(Event {
            row: Some(row),
            kind,
            class: row.statement().class(),
            arch,
            stage,
            reason,
            error: Cited::error(row),
            time: Cited::time(row),
            landed: landed.get(&digest).cloned(),
            attempt: attempts.iter().find(|a| a.evidence == Some(digest)).cloned(),
        });
    }
    let known = |a: &&Attempt| a.evidence.is_some_and(|e| rows.iter().any(|row| row.evidence.digest() == e));
    for attempt in attempts.iter().filter(|a| a.node == *target && !known(a)) {
        out.push(Event {
            row: None,
            kind: if attempt.unbound { Kind::Refused } else { Kind::Attempt },
            class: None,
            arch: String::new(),
            stage: None,
            reason: attempt.summary.clone(),
            error: None,
            time: None,
            landed: None,
            attempt: Some(attempt.clone()),
        });
    }
    out
}
