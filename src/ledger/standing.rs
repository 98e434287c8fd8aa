//! What the ledger says of a node as it is now: the question behind `status`, `next`, `land` and `run`'s first line.

use super::keys::KeyId;
use super::progress::proves;
use super::statement::{Binding, Class, Outcome, Target};
use super::{Ledger, Row, Trust};
use crate::plan::Numerics;

/// What is known of a target under its present binding, best first.
#[derive(Clone, Debug)]
pub enum Standing<'l> {
    /// Proved on a device, by a key that the user trusts.
    Green(&'l Row),
    /// Counted only because a trust file lists class simulated: must be printed as such.
    Simulated(&'l Row),
    /// Passed on the CPU emulator: never green.
    Emulated(&'l Row),
    /// The last word of a trusted key is Red.
    Red(&'l Row),
    /// Proved, by a key that the user does not trust.
    Untrusted(&'l Row, KeyId),
    /// Proved by a row that counts for nothing, and why.
    Void(&'l Row, String),
    /// Proved for the same weights once; these fields of the binding have changed since.
    Stale(&'l Row, Vec<&'static str>),
    /// Proved for another file only.
    OtherWeights(&'l Row),
    Unproved,
}

/// A proof made before the judge asked what it asks now, of a kernel that passes what is asked now on the emulator.
#[derive(Clone, Copy, Debug)]
pub struct Outgrown<'l> {
    pub proof: &'l Row,
    pub emulated: &'l Row,
    /// Whether the user trusts the keys of both.
    pub trusted: bool,
}

impl Ledger {
    /// The newest proof of what `binding` judges, by other cases or other rules of comparison, if under `emulator`, the
    /// present binding there, the last word is a pass. Nothing else may differ, and a later Red takes it back.
    pub fn outgrown<'l>(
        &'l self,
        target: &Target,
        binding: &Binding,
        emulator: &Binding,
        trust: &Trust,
    ) -> Option<Outgrown<'l>> {
        let counts = |row: &Row| self.counts(row, trust);
        let (emulated, known) = match self.standing(target, emulator, trust) {
            Standing::Emulated(row) => (row, true),
            Standing::Untrusted(row, _) => (row, false),
            _ => return None,
        };
        for row in self.verdicts(target).rev() {
            let Some(verdict) = row.statement().verdict().filter(|v| v.binding.is_same_work(binding)) else { continue };
            match (&verdict.outcome, verdict.class) {
                (Outcome::Red { .. }, _) if counts(row) => return None,
                (_, Class::Device) if proves(row) && self.void(row, trust).is_none() => {
                    return Some(Outgrown { proof: row, emulated, trusted: known && counts(row) });
                }
                (_, Class::Simulated) if proves(row) && counts(row) => {
                    return Some(Outgrown { proof: row, emulated, trusted: known });
                }
                _ => {}
            }
        }
        None
    }

    /// The verdict rows on `target`, in order.
    pub fn verdicts<'l, 'q>(&'l self, target: &'q Target) -> impl DoubleEndedIterator<Item = &'l Row> + use<'l, 'q> {
        self.rows().iter().filter(move |row| row.statement().verdict().is_some_and(|v| v.node == *target))
    }

    /// Why a row counts for nothing, whoever signed it: the key was ended since, or the kernel was not confined as `trust`
    /// and the workbench ask.
    pub fn void(&self, row: &Row, trust: &Trust) -> Option<String> {
        match self.chain().roll.void(row) {
            Some(ended) => Some(format!("its key {} {}", row.evidence.signer().short(), ended.says())),
            None => trust.unconfined(row),
        }
    }

    /// Whether a verdict or bench row counts for the user.
    pub fn counts(&self, row: &Row, trust: &Trust) -> bool {
        let trusted = row.statement().class().is_some_and(|class| trust.counts(&row.evidence.signer(), class));
        trusted && self.void(row, trust).is_none()
    }

    /// Rows of any class and of any signer in force that prove `target` on `arch` in `numerics`, newest first, whatever their
    /// closures.
    pub fn proved<'l, 'q>(
        &'l self,
        target: &'q Target,
        arch: &'q str,
        numerics: Numerics,
    ) -> impl Iterator<Item = &'l Row> + use<'l, 'q> {
        self.verdicts(target).rev().filter(move |row| {
            let binding = row.statement().verdict().map(|v| &v.binding);
            proves(row)
                && self.chain().roll.void(row).is_none()
                && binding.is_some_and(|b| b.arch == arch && b.numerics == numerics)
        })
    }

    /// What is known of `target` under `binding`. The last Pass or Red of a trusted key decides; without one, an
    /// untrusted proof is reported as such, then what was proved under another binding.
    pub fn standing<'l>(&'l self, target: &Target, binding: &Binding, trust: &Trust) -> Standing<'l> {
        self.standing_in(self.rows().len(), target, binding, trust)
    }

    /// The same as the first `rows` rows alone say it, as where an earlier ledger is asked; keys that
    /// were ended since are so all the same.
    pub fn standing_in<'l>(&'l self, rows: usize, target: &Target, binding: &Binding, trust: &Trust) -> Standing<'l> {
        let asked = |row: &&Row| row.seq < rows as u64;
        let exact = |row: &&Row| asked(row) && row.statement().verdict().is_some_and(|v| v.binding == *binding);
        let counts = |row: &Row| self.counts(row, trust);
        for row in self.verdicts(target).rev().filter(exact) {
            let Some(verdict) = row.statement().verdict() else { continue };
            match (&verdict.outcome, verdict.class) {
                (Outcome::Red { .. }, _) if counts(row) => return Standing::Red(row),
                (_, Class::Device) if proves(row) && counts(row) => return Standing::Green(row),
                (_, Class::Simulated) if proves(row) && counts(row) => return Standing::Simulated(row),
                (_, Class::Emulated) if proves(row) && counts(row) => return Standing::Emulated(row),
                _ => {}
            }
        }
        let real = |row: &&Row| row.statement().class() != Some(Class::Simulated);
        let proofs = || self.verdicts(target).rev().filter(exact).filter(real).filter(|row| proves(row));
        if let Some(row) = proofs().find(|row| self.void(row, trust).is_none()) {
            return Standing::Untrusted(row, row.evidence.signer());
        }
        if let Some((row, why)) = proofs().find_map(|row| Some((row, self.void(row, trust)?))) {
            return Standing::Void(row, why);
        }
        let mut other = None;
        let proved = self.proved(target, &binding.arch, binding.numerics).filter(asked);
        let confined = |row: &&Row| trust.unconfined(row).is_none();
        for row in proved.filter(|row| real(row) || counts(row)).filter(confined) {
            let Some(verdict) = row.statement().verdict() else { continue };
            let differences = verdict.binding.differences(binding);
            if !differences.is_empty() && !differences.contains(&"weights") {
                return Standing::Stale(row, differences);
            }
            other = other.or(Some(row).filter(|_| differences.contains(&"weights")));
        }
        other.map_or(Standing::Unproved, Standing::OtherWeights)
    }
}
