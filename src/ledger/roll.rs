//! Who may sign from which row on: rotations and revocations of keys, and what of an ended key's evidence still counts.
//!
//! Order is the ledger's, never a clock's. What an ended key had signed is named by the row that ended it, evidence by
//! evidence: a branch that is merged later, or a thief with an old key file, cannot add to that list. Keys join without
//! asking anybody, so joining gives no say over others: a key is ended by itself, by a successor that it named, or by
//! the key that wrote row 0 and its successors.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::keys::{KeyId, PublicKey};
use super::statement::{Outcome, Statement};
use super::{Digest, Evidence, Row};
use crate::words::plain;

/// Characters that a reason may have.
const WHY: usize = 500;

/// A key hands over to another; both sign this, the old one first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    pub from: PublicKey,
    pub to: PublicKey,
    /// Hash of row 0 of the ledger that this is for: in another one it has no force.
    pub ledger: Digest,
    /// The evidence of the old key that goes on counting, ascending. Nothing else that it signed does.
    pub keeps: Vec<Digest>,
    /// RFC 3339, informative.
    pub time: String,
}

/// A key is not to be believed any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    pub key: PublicKey,
    pub why: String,
    /// As in [`Rotation`].
    pub ledger: Digest,
    pub keeps: Vec<Digest>,
    pub time: String,
}

impl Rotation {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.from.id() == self.to.id() {
            return Err("a key cannot succeed itself".into());
        }
        ascending(&self.keeps)
    }
}

impl Revocation {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.why.trim().is_empty() || plain(&self.why, WHY) != self.why {
            return Err(format!("a revocation's reason is one line of 1 to {WHY} characters that can be seen"));
        }
        ascending(&self.keeps)
    }
}

fn ascending(keeps: &[Digest]) -> Result<(), String> {
    match keeps.windows(2).all(|pair| pair[0] < pair[1]) {
        true => Ok(()),
        false => Err("the evidence that it keeps is not in order, or named twice".into()),
    }
}

/// A key that signs nothing here any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The first row that ended it.
    pub row: u64,
    /// Its successor, where it was rotated.
    pub to: Option<KeyId>,
    /// Where it was revoked: the row, who signed it, and why.
    pub revoked: Option<(u64, KeyId, String)>,
    keeps: BTreeSet<Digest>,
}

impl Ended {
    /// `was revoked in row 4 (stolen)`.
    pub fn says(&self) -> String {
        match (&self.revoked, &self.to) {
            (Some((row, _, why)), _) => format!("was revoked in row {row} ({why})"),
            (None, Some(to)) => format!("was rotated to {} in row {}", to.short(), self.row),
            (None, None) => format!("was ended in row {}", self.row),
        }
    }
}

type Links = BTreeMap<KeyId, BTreeSet<KeyId>>;

/// Which keys of a ledger are ended, by which rows.
#[derive(Clone, Debug, Default)]
pub struct Roll {
    /// Row 0's hash and its writer.
    founded: Option<(Digest, KeyId)>,
    /// Successors that were named while their predecessor was in force.
    heirs: Links,
    /// All that were named.
    named: Links,
    ended: BTreeMap<KeyId, Ended>,
    /// Rotations and revocations without force, and why.
    idle: BTreeMap<u64, String>,
}

impl Roll {
    /// As the given rows, which begin with row 0, leave it.
    pub fn of(rows: &[Row]) -> Roll {
        let mut roll = Roll::default();
        rows.iter().for_each(|row| roll.take(row));
        roll
    }

    /// The row that ended this key, if one did.
    pub fn ended(&self, key: &KeyId) -> Option<&Ended> {
        self.ended.get(key)
    }

    /// Why new evidence counts for nothing: its signer is ended, and the row that did it does not keep this.
    pub fn unkept(&self, evidence: &Evidence) -> Option<&Ended> {
        self.ended(&evidence.signer()).filter(|ended| !ended.keeps.contains(&evidence.digest()))
    }

    /// The same of a verdict or bench row. A Red that was there before stays: who ends a key takes proofs back, and no objections, or a
    /// worker could end the key that found it out.
    pub fn void(&self, row: &Row) -> Option<&Ended> {
        let red = row.statement().verdict().is_some_and(|v| matches!(v.outcome, Outcome::Red { .. }));
        row.statement().class()?;
        self.unkept(&row.evidence).filter(|ended| !red || ended.row < row.seq)
    }

    /// Rows that rotate or revoke a key and have no force, and why.
    pub fn idle(&self) -> &BTreeMap<u64, String> {
        &self.idle
    }

    /// Whether a checkpoint over `rows` rows may be this key's: it was in force before the last of them.
    pub(super) fn may_checkpoint(&self, key: &KeyId, rows: usize) -> bool {
        self.ended(key).is_none_or(|ended| ended.row + 1 >= rows as u64)
    }

    /// Refuses a revocation whose signer could never have made it in this ledger. One that merely comes too late (its
    /// signer has been ended since, as on a branch that is merged) is held, and has no force.
    pub(super) fn admits(&self, evidence: &Evidence) -> Result<(), String> {
        let Statement::Revocation(revocation) = evidence.statement() else { return Ok(()) };
        let signer = evidence.signer();
        if !self.is_for(&revocation.ledger) || self.may_end(&revocation.key.id(), &signer, &self.named) {
            return Ok(());
        }
        Err(format!(
            "key {} may not revoke key {}: only that key itself, a successor of it, or the key of row 0 and its \
             successors may",
            signer.short(),
            revocation.key.id().short()
        ))
    }

    /// Whether it would end a key in another ledger than this one.
    pub(super) fn is_foreign(&self, statement: &Statement) -> bool {
        match statement {
            Statement::Rotation(r) => !self.is_for(&r.ledger),
            Statement::Revocation(r) => !self.is_for(&r.ledger),
            _ => false,
        }
    }

    fn is_for(&self, ledger: &Digest) -> bool {
        self.founded.is_some_and(|(hash, _)| hash == *ledger)
    }

    fn may_end(&self, key: &KeyId, by: &KeyId, links: &Links) -> bool {
        let founder = self.founded.map(|(_, writer)| writer);
        [Some(*key), founder].into_iter().flatten().any(|from| reaches(links, from, by))
    }

    /// Takes in one more row that was found to be rightly signed.
    pub(super) fn take(&mut self, row: &Row) {
        match self.effect(row) {
            Some(Err(why)) => drop(self.idle.insert(row.seq, why)),
            Some(Ok((key, ended))) => self.end(key, ended),
            None => {}
        }
        if let Statement::Rotation(rotation) = row.statement()
            && self.is_for(&rotation.ledger)
        {
            self.named.entry(rotation.from.id()).or_default().insert(rotation.to.id());
            if !self.idle.contains_key(&row.seq) {
                self.heirs.entry(rotation.from.id()).or_default().insert(rotation.to.id());
            }
        }
        if row.seq == 0 {
            self.founded = Some((row.hash, row.writer));
        }
    }

    /// The key that a row ends, or why it ends none although it says so; `None` of a row that is about something else.
    fn effect(&self, row: &Row) -> Option<Result<(KeyId, Ended), String>> {
        let (key, ledger, keeps) = match row.statement() {
            Statement::Rotation(r) => (r.from.id(), &r.ledger, &r.keeps),
            Statement::Revocation(r) => (r.key.id(), &r.ledger, &r.keeps),
            _ => return None,
        };
        let signer = row.evidence.signer();
        if !self.is_for(ledger) {
            return Some(Err("it is of another ledger".into()));
        }
        if let Some(ended) = self.ended(&signer) {
            return Some(Err(format!("its signer {} {}", signer.short(), ended.says())));
        }
        let mut ended = Ended { row: row.seq, to: None, revoked: None, keeps: keeps.iter().copied().collect() };
        match row.statement() {
            Statement::Rotation(r) => {
                if let Some(gone) = self.ended(&r.to.id()) {
                    return Some(Err(format!("the successor {} {}", r.to.id().short(), gone.says())));
                }
                ended.to = Some(r.to.id());
            }
            Statement::Revocation(r) => {
                if !self.may_end(&key, &signer, &self.heirs) {
                    return Some(Err(format!("its signer {} is no successor in force", signer.short())));
                }
                ended.revoked = Some((row.seq, signer, r.why.clone()));
            }
            _ => {}
        }
        Some(Ok((key, ended)))
    }

    /// Ended twice (by two branches, or rotated and then revoked) a key keeps what both rows keep.
    fn end(&mut self, key: KeyId, ended: Ended) {
        let Some(before) = self.ended.get_mut(&key) else {
            self.ended.insert(key, ended);
            return;
        };
        before.keeps.retain(|evidence| ended.keeps.contains(evidence));
        before.to = before.to.or(ended.to);
        before.revoked = before.revoked.take().or(ended.revoked);
    }
}

/// Whether `to` is `from` or follows it, however many keys later.
fn reaches(links: &Links, from: KeyId, to: &KeyId) -> bool {
    let (mut seen, mut todo) = (BTreeSet::new(), vec![from]);
    while let Some(key) = todo.pop() {
        if key == *to {
            return true;
        }
        if seen.insert(key) {
            todo.extend(links.get(&key).into_iter().flatten());
        }
    }
    false
}
