//! What can happen in a run. A run is its events: its state is a fold over them ([`super::state`]), so that what a
//! killed process knew is what its transcript says.

use serde::{Deserialize, Serialize};

use super::budget::Limits;
use super::endpoint::{Call, Message, Price, Trouble, Usage};
use super::transcript::Story;
use crate::ledger::Stage;
use crate::ops::Node;

/// Whom to ask, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Approve {
    /// Before each step's tool calls are carried out, and before landing
    EachStep,
    /// Before a green kernel lands
    Green,
    /// Never: what is green lands
    NeverAsk,
}

/// How a node's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeEnd {
    /// Green, and committed.
    Landed,
    /// Green, and not committed: a person said no, nobody answered, or landing was refused.
    Green,
    /// A pass on the emulator, which is not green.
    Emulated,
    GaveUp,
    /// Its budget of attempts is spent.
    Attempts,
    Stuck,
    /// It could not be judged or prompted for here.
    CouldNotRun,
}

impl NodeEnd {
    pub fn passed(self) -> bool {
        matches!(self, NodeEnd::Landed | NodeEnd::Green | NodeEnd::Emulated)
    }

    pub fn words(self) -> &'static str {
        match self {
            NodeEnd::Landed => "green and landed",
            NodeEnd::Green => "green, not landed",
            NodeEnd::Emulated => "passes on the emulator, not green",
            NodeEnd::GaveUp => "given up",
            NodeEnd::Attempts => "out of attempts",
            NodeEnd::Stuck => "stuck",
            NodeEnd::CouldNotRun => "could not run",
        }
    }
}

/// How a run ended, or why its process did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnd {
    /// No node is left to work on.
    Done,
    Budget,
    /// The server could not be talked to. May be resumed.
    Endpoint,
    /// The model's context holds the prompt and no result beside it. May be resumed, with a larger one.
    Context,
    /// Somebody stopped it. May be resumed.
    Stopped,
    /// The workbench refused. May be resumed.
    Fault,
}

impl RunEnd {
    pub fn resumable(self) -> bool {
        self != RunEnd::Done
    }
}

/// What a person is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// Whether the calls of a step may be carried out.
    Step,
    /// Whether a green kernel may land.
    Landing,
    /// A question that the model has.
    Question,
    /// What to do about a node that does not move.
    Stuck,
}

/// What kernels are judged on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// In words.
    pub place: String,
    /// Whether green can be reached there.
    pub device: bool,
}

/// A language model, the host that serves it, and what it costs there if that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    pub llm: String,
    pub host: String,
    pub price: Option<Price>,
}

/// A judgement as the run keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    pub node: Node,
    /// `device`, `emulated`.
    pub class: String,
    pub arch: String,
    /// `pass`, `red`, `indeterminate`, or `could_not_run`, which is no attempt.
    pub outcome: String,
    /// Of a Red.
    pub stage: Option<String>,
    pub reason: Option<String>,
    pub first_bad: Option<String>,
    /// Worst relative RMS over the cases that ran, in decimal digits; none where no figure was taken.
    pub error: Option<String>,
    pub green: bool,
    /// The ledger's row and the digest of its evidence, where there is a key to sign with.
    pub row: Option<u64>,
    pub evidence: Option<String>,
    /// Refused before there was anything that a row could bind: a manifest that cannot be read, a source that is no text.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unbound: bool,
    /// Why there is no row of it, or no attempt with its source, though there should be: for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unkept: Option<String>,
    pub seconds: u64,
}

impl Judged {
    /// In a few lines, for people and prompts.
    pub fn words(&self) -> String {
        let mut out = match (self.outcome.as_str(), self.green) {
            ("pass", true) => format!("green on {}", self.arch),
            ("pass", false) if self.class == "emulated" => "passes on the emulator, which is not green".into(),
            ("pass", false) => format!("passes on {} as far as it ran, not green", self.arch),
            ("red", _) => format!("red in stage {}", self.stage.as_deref().unwrap_or("?")),
            ("could_not_run", _) => "could not run".into(),
            (other, _) => other.to_string(),
        };
        if let Some(reason) = &self.reason {
            out.push_str(": ");
            out.push_str(reason);
        }
        if let Some(bad) = self.first_bad.as_ref().filter(|b| !b.is_empty()) {
            out.push_str("\nfirst bad: ");
            out.push_str(bad);
        }
        match &self.error {
            Some(error) => out.push_str(&format!("\nworst relative RMS {error}")),
            // Earlier stages take none.
            None if self.stage.as_deref() == Some(Stage::Unit.name()) => {
                out.push_str("\nworst relative RMS: no figure was taken");
            }
            None => {}
        }
        out
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// An event of a run where it stands.
pub type Record = super::transcript::Record<Event>;

impl Story for Event {
    const DAMAGED: &'static str = "the run can be neither reported on nor resumed; begin a new one with assay agent";
    const UNWRITTEN: &'static str = "make room for it, then go on with the run: assay agent resume";
}

/// One line of a transcript, without what chains it to the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Started {
        assay: String,
        /// The file whose nodes are ported.
        model: String,
        /// The language model, and the host that serves it.
        llm: String,
        host: String,
        price: Option<Price>,
        limits: Limits,
        approve: Approve,
        /// As told; empty: what `assay next` says.
        nodes: Vec<Node>,
        #[serde(flatten)]
        place: Place,
        /// The key that signs rows; none: nothing is recorded in the ledger.
        key: Option<String>,
        /// Seconds that a question waits for an answer.
        wait_s: u64,
    },
    /// Another process goes on with the run, perhaps with other budgets.
    Resumed {
        limits: Limits,
        approve: Approve,
        note: String,
        /// What kernels are judged on from here on, if not on what they were.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<Place>,
        /// Who is asked from here on, and for how much, if not who was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<Served>,
        /// Seconds that a question waits from here on, if not as many as before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wait_s: Option<u64>,
    },
    Chosen {
        node: Node,
        why: String,
    },
    /// A conversation begins: at first, after a condensation, with another strategy.
    Context {
        node: Node,
        why: String,
        messages: Vec<Message>,
    },
    /// Budget is set aside, before the server is called.
    Reserved {
        step: u64,
        attempt: u32,
        prompt: u64,
        completion: u64,
        cost: u64,
    },
    /// The server answered; what was set aside is settled.
    Replied {
        prompt: u64,
        completion: u64,
        cost: u64,
        /// The server did not count, so assay did.
        estimated: bool,
        content: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reasoning: String,
        calls: Vec<Call>,
        plain: bool,
        cut: bool,
        /// What was asked, in bytes: what later estimates go by.
        bytes: u64,
        /// What the server counted, where that is more than was set aside.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        claimed: Option<Usage>,
    },
    /// More tokens were counted than were set aside: more than the request can hold, or a longer answer than allowed. The
    /// event before has the numbers; this one is for whoever reads.
    Overcounted {
        counted: u64,
        reserved: u64,
        /// Not by the server: it gave no count that can be true, and this one is assay's, by the bytes that came.
        #[serde(default, skip_serializing_if = "is_false")]
        estimated: bool,
    },
    /// The server counted fewer tokens than what it was sent, or what it answered, can have: assay's own estimate is charged.
    /// The event before has that; this one is for whoever reads.
    Undercounted {
        counted: Usage,
        charged: Usage,
    },
    /// The server did not answer; what it may have cost stays spent.
    Failed {
        prompt: u64,
        completion: u64,
        cost: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        claimed: Option<Usage>,
        trouble: Trouble,
        what: String,
        wait_ms: u64,
    },
    /// A tool's answer.
    Result {
        call: String,
        tool: String,
        ok: bool,
        content: String,
    },
    /// The kernel goes to the judge. This event's digest is the `transcript` of the row that comes of it.
    Judging {
        call: String,
        attempt: u64,
        place: String,
        source: String,
        change: String,
        /// Every size and every length.
        #[serde(default, skip_serializing_if = "is_false")]
        thorough: bool,
    },
    /// The judge's answer to the call that asked for it; without one it is the device's, after the emulator's pass.
    Verdict {
        call: String,
        attempt: u64,
        source: String,
        failure: Option<String>,
        judged: Judged,
        content: String,
    },
    /// The loop tells the model something of its own accord.
    Told {
        text: String,
    },
    /// A person told the model something.
    Said {
        id: String,
        text: String,
    },
    Strategy {
        node: Node,
        level: u32,
        why: String,
        to: String,
        text: String,
    },
    Asked {
        id: u64,
        about: About,
        text: String,
        /// What it is about: the change that a step makes, the verdict on what is to land. Bounded.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        shown: String,
    },
    /// `yes`: none where a question was answered in words, or by nobody.
    Answered {
        id: u64,
        by: String,
        yes: Option<bool>,
        text: String,
    },
    Paused {
        id: String,
        by: String,
    },
    Continued {
        id: String,
        by: String,
    },
    /// Something was not done because the rules or a person say so.
    Refused {
        what: String,
        why: String,
    },
    BudgetStop {
        what: String,
        spent: String,
        limit: String,
    },
    Landing {
        node: Node,
    },
    Landed {
        node: Node,
        commit: String,
    },
    NodeEnded {
        node: Node,
        how: NodeEnd,
        why: String,
    },
    Ended {
        how: RunEnd,
        why: String,
    },
}
