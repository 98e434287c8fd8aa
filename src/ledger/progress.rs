//! `state/progress.json`: what the ledger proves, derived from its rows and from nothing else.
//!
//! It is there for people and for tools that cannot verify a chain. It names the head that it was derived from, so it
//! can be checked against the rows; trust plays no part in it. It lists proved *closures*: a tree whose kernels have
//! changed is not on the list.

use std::collections::BTreeMap;

use serde::Serialize;

use super::keys::KeyId;
use super::statement::{Binding, Class, Outcome, Target};
use super::{Chain, Digest, PROGRESS, Roll, Row};
use crate::error::{Error, Result};

pub const SCHEMA: &str = "assay.progress/1";

/// Everything that the first `ledger.rows` rows prove.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Progress {
    schema: &'static str,
    pub ledger: Head,
    pub proved: Vec<Proof>,
    /// Where a whole schedule is proved and every node that it consists of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefill_working: Vec<PrefillWorking>,
}

/// prefill_working(file, arch): the row of a whole schedule, and those of its nodes with the very closures that it ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PrefillWorking {
    pub class: Class,
    #[serde(flatten)]
    pub binding: Binding,
    pub row: u64,
    pub node_rows: Vec<u64>,
}

/// Up to where the rows were read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Head {
    pub rows: usize,
    pub head: Digest,
}

/// A node or a whole schedule that passed everything that its class can pass, and has not failed since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    pub node: Target,
    pub class: Class,
    #[serde(flatten)]
    pub binding: Binding,
    pub row: u64,
    /// Digest of the evidence.
    pub evidence: Digest,
    /// Who signed it.
    pub key: KeyId,
}

impl Proof {
    /// Of a whole schedule: whether each of its parts is proved too, on the same architecture and weights.
    fn works(&self, chain: &Chain, proved: &[Proof]) -> Option<PrefillWorking> {
        let parts = &chain.rows[self.row as usize].statement().verdict()?.parts;
        let row = |(node, closure): (&String, &Digest)| {
            let same = |p: &&Proof| {
                p.node.to_string() == *node
                    && p.class == self.class
                    && p.binding.closure == *closure
                    && p.binding.arch == self.binding.arch
                    && p.binding.weights == self.binding.weights
                    && p.binding.protocol == self.binding.protocol
            };
            proved.iter().filter(same).map(|p| p.row).max()
        };
        let node_rows = parts.iter().map(row).collect::<Option<Vec<u64>>>()?;
        Some(PrefillWorking { class: self.class, binding: self.binding.clone(), row: self.row, node_rows })
    }
}

/// Whether a row proves its target: on the emulator a Pass is all there can be, elsewhere every stage that green needs.
pub(super) fn proves(row: &Row) -> bool {
    row.statement().verdict().is_some_and(|v| match v.class {
        Class::Emulated => v.outcome == Outcome::Pass,
        Class::Device | Class::Simulated => v.complete(),
    })
}

impl Progress {
    /// Reads the first `rows` rows. The last proof of a binding counts, until a Red on the same binding takes it back.
    /// What an ended key signed says nothing, unless the row that ended it keeps it.
    pub fn derive(chain: &Chain, rows: usize) -> Progress {
        let mut proved = BTreeMap::new();
        let roll = Roll::of(&chain.rows[..rows]);
        for row in chain.rows[..rows].iter().filter(|row| roll.void(row).is_none()) {
            let Some(verdict) = row.statement().verdict() else { continue };
            let key = (verdict.node.clone(), verdict.class, verdict.binding.clone());
            if proves(row) {
                let proof = Proof {
                    node: verdict.node.clone(),
                    class: verdict.class,
                    binding: verdict.binding.clone(),
                    row: row.seq,
                    evidence: row.evidence.digest(),
                    key: row.evidence.signer(),
                };
                proved.insert(key, proof);
            } else if matches!(verdict.outcome, Outcome::Red { .. }) {
                proved.remove(&key);
            }
        }
        let head = rows.checked_sub(1).map_or(Digest::ZERO, |last| chain.rows[last].hash);
        let proved: Vec<Proof> = proved.into_values().collect();
        let whole = proved.iter().filter(|p| p.node == Target::Schedule && p.class != Class::Emulated);
        let prefill_working = whole.filter_map(|p| p.works(chain, &proved)).collect();
        Progress { schema: SCHEMA, ledger: Head { rows, head }, proved, prefill_working }
    }

    /// The file's bytes: indented, one spelling.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::internal(format!("progress has no JSON form: {e}")))?;
        Ok(format!("{text}\n").into_bytes())
    }

    /// How many rows the file `bytes` was derived from; anything that is not a derivation is refused.
    pub(super) fn check(bytes: &[u8], chain: &Chain) -> Result<usize> {
        let rows = serde_json::from_slice::<serde_json::Value>(bytes).ok().and_then(|v| v["ledger"]["rows"].as_u64());
        let wrong = |what: &str| {
            Error::new(&PROGRESS, format!("state/progress.json {what}"))
                .expected("what its ledger's rows prove: only assay writes it")
                .hint("git diff state/progress.json shows the edit; to have it derived anew, remove the file")
        };
        match rows.and_then(|rows| usize::try_from(rows).ok()) {
            None => Err(wrong("does not say which rows it was derived from")),
            Some(rows) if rows > chain.rows.len() => Err(wrong("is ahead of the ledger")
                .expected(format!("a derivation from at most {} rows", chain.rows.len()))
                .found(format!("one from {rows}"))
                .hint("the ledger was rolled back: restore state/ from git")),
            Some(rows) if Progress::derive(chain, rows).to_bytes()? == bytes => Ok(rows),
            Some(rows) => {
                let head = rows.checked_sub(1).map_or("no row".to_string(), |last| format!("row {last}"));
                Err(wrong(&format!("is not what the ledger proves up to {head}")))
            }
        }
    }
}
