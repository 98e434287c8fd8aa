//! The ledger's words on a node, and what they come to.

use serde::Serialize;

use crate::ledger::Class;
use crate::ops::Node;
use crate::plan::coverage::Written;

/// The last word of one ledger on a node, or on the whole schedule, for one architecture.
#[derive(Clone, Debug, Serialize)]
pub struct Proof {
    /// `None`: the whole schedule.
    pub node: Option<Node>,
    /// `sm_90`, or `emulator`.
    pub arch: String,
    pub class: Class,
    /// `NVIDIA H200`; informative.
    pub device: String,
    pub key: String,
    /// Whether the user lets this key's evidence of this class count.
    pub trusted: bool,
    /// Why it is Red; `None`: it passed.
    pub red: Option<String>,
    /// What has changed since, so that it no longer speaks of this tree and file.
    pub stale: Option<String>,
    /// It was made before the judge asked all that it asks now: the row by which the same kernel passes that on the
    /// emulator.
    pub outgrown: Option<u64>,
    /// Why the row counts for nothing, whoever is trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub void: Option<String>,
    pub row: u64,
}

impl Proof {
    /// A pass of this very tree and file, whoever is trusted.
    pub fn holds(&self) -> bool {
        self.red.is_none() && self.stale.is_none() && self.void.is_none()
    }

    /// A pass that counts for this tree, whatever its class.
    pub fn counts(&self) -> bool {
        self.trusted && self.holds()
    }

    /// Proven on a device, for all but the trust in its key.
    pub fn untrusted(&self) -> bool {
        self.class == Class::Device && !self.trusted && self.holds()
    }

    pub fn describe(&self) -> String {
        let Proof { arch, key, row, .. } = self;
        if let Some(why) = &self.void {
            return format!("was proven on {arch} by row {row}, which counts no more: {why}");
        }
        match (&self.stale, &self.red, self.class) {
            (Some(what), None, _) => format!("stale on {arch}: {what} changed since row {row}"),
            (Some(what), Some(why), _) => format!("was red on {arch} ({why}, row {row}); {what} changed since"),
            (None, Some(why), _) => format!("red on {arch}: {why} (row {row})"),
            _ if !self.trusted => {
                format!("proven on {arch} by key {key}, row {row} (not trusted here: assay key trust {key})")
            }
            (None, None, Class::Device) => format!("green on {arch} (row {row}, key {key}){}", self.since()),
            (None, None, Class::Emulated) => format!("passes on the emulator (row {row}, key {key})"),
            (None, None, Class::Simulated) => {
                format!("simulated on {arch}, no evidence of a device (row {row}, key {key}){}", self.since())
            }
        }
    }

    fn since(&self) -> &'static str {
        self.outgrown.map_or("", |_| " by an earlier judge; verify it there again")
    }
}

/// What a node is worth, in one word; of several words the one that says most of what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Proved on a device, and it counts.
    Green,
    /// Counts because a trust file lets simulated evidence count; printed as such.
    Simulated,
    Red,
    /// Passed on the CPU emulator only.
    Emulated,
    /// Proved by a key that the user does not trust.
    Untrusted,
    /// Was proved; something it was bound to has changed.
    Stale,
    /// Has a kernel, never judged.
    Unproved,
    /// Its kernel cannot be used.
    Broken,
    /// Has no kernel.
    Absent,
}

impl State {
    pub const ALL: [State; 9] = [
        State::Green,
        State::Simulated,
        State::Red,
        State::Emulated,
        State::Untrusted,
        State::Stale,
        State::Unproved,
        State::Broken,
        State::Absent,
    ];

    pub fn name(self) -> &'static str {
        match self {
            State::Green => "green",
            State::Simulated => "simulated",
            State::Red => "red",
            State::Emulated => "emulated",
            State::Untrusted => "untrusted",
            State::Stale => "stale",
            State::Unproved => "unproved",
            State::Broken => "broken",
            State::Absent => "absent",
        }
    }

    /// Whether the node still stands between the model and a working prefill.
    pub fn is_gate(self) -> bool {
        !matches!(self, State::Green | State::Simulated)
    }

    /// For one architecture, or for the best one.
    pub fn of(written: &Written, proofs: &[Proof], arch: Option<&str>) -> State {
        match written {
            Written::Absent => return State::Absent,
            Written::Broken { .. } => return State::Broken,
            Written::Present { .. } => {}
        }
        let here = |p: &&Proof| arch.is_none_or(|a| p.arch == a);
        let any = |class: Class| move |p: &&Proof| p.class == class && p.counts();
        if proofs.iter().filter(here).any(|p| any(Class::Device)(&p)) {
            State::Green
        } else if proofs.iter().filter(here).any(|p| any(Class::Simulated)(&p)) {
            State::Simulated
        } else if proofs.iter().any(|p| p.red.is_some() && p.stale.is_none() && p.trusted) {
            State::Red
        } else if proofs.iter().any(|p| any(Class::Emulated)(&p)) {
            State::Emulated
        } else if proofs.iter().any(Proof::untrusted) {
            State::Untrusted
        } else if proofs.iter().any(|p| p.stale.is_some()) {
            State::Stale
        } else {
            State::Unproved
        }
    }
}

#[cfg(test)]
pub(super) mod fixture {
    use super::*;

    pub fn proof(class: Class, arch: &str) -> Proof {
        Proof {
            node: None,
            arch: arch.into(),
            class,
            device: String::new(),
            key: "k".into(),
            trusted: true,
            red: None,
            stale: None,
            outgrown: None,
            void: None,
            row: 1,
        }
    }

    pub fn present() -> Written {
        Written::Present { stem: "rms_norm".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::{present, proof};
    use super::*;

    #[test]
    fn a_state_is_what_counts_for_the_architecture() {
        let green = proof(Class::Device, "sm_90");
        let emulated = proof(Class::Emulated, "emulator");
        let stale = Proof { stale: Some("closure".into()), ..green.clone() };
        let red = Proof { red: Some("unit: zeros".into()), ..proof(Class::Emulated, "emulator") };
        let untrusted = Proof { trusted: false, ..green.clone() };
        for (proofs, arch, state) in [
            (vec![], None, State::Unproved),
            (vec![green.clone()], None, State::Green),
            (vec![green.clone()], Some("sm_90"), State::Green),
            (vec![green.clone()], Some("sm_120"), State::Unproved),
            (vec![green.clone(), emulated.clone()], Some("sm_120"), State::Emulated),
            (vec![stale.clone()], None, State::Stale),
            (vec![stale.clone(), emulated.clone()], None, State::Emulated),
            (vec![untrusted.clone()], None, State::Untrusted),
            (vec![untrusted, red.clone()], None, State::Red),
            (vec![Proof { trusted: false, ..red.clone() }], None, State::Unproved),
            (vec![Proof { stale: Some("closure".into()), ..red }], None, State::Stale),
            (vec![proof(Class::Simulated, "sm_90")], None, State::Simulated),
            (vec![Proof { trusted: false, void: Some("revoked".into()), ..green.clone() }], None, State::Unproved),
            (vec![Proof { trusted: false, ..proof(Class::Simulated, "sm_90") }], None, State::Unproved),
        ] {
            assert_eq!(State::of(&present(), &proofs, arch), state, "{proofs:?} on {arch:?}");
        }
        assert_eq!(State::of(&Written::Absent, &[green], None), State::Absent);
    }
}
