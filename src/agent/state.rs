//! What a run has come to: a fold over its events, the same for a living process and for one that is resumed.

use std::collections::{HashSet, VecDeque};

use super::budget::{Gauge, Limits, Reserved, Spent};
use super::endpoint::{Call, Message, Price, Usage};
use super::events::{About, Approve, Event, Judged, NodeEnd, Place, Record, RunEnd};
use crate::ledger::Digest;
use crate::ops::Node;

/// A verdict on a node, as later turns are told of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attempt {
    pub number: u64,
    /// Digest of the kernel's files.
    pub source: String,
    /// See [`super::stuck::failure`]; none of a pass.
    pub failure: Option<String>,
    pub error: Option<f64>,
    /// In a few lines.
    pub said: String,
    /// Against the attempt before.
    pub change: String,
    pub passed: bool,
}

/// The node that is being worked on.
#[derive(Clone, Debug)]
pub struct Work {
    pub node: Node,
    pub why: String,
    pub attempts: Vec<Attempt>,
    /// Attempts before the strategy changed last.
    pub before: usize,
    pub level: u32,
    /// Since the last verdict or change of strategy.
    pub edits: u64,
    pub idle: u64,
    /// A verdict was a pass: on what, and whether it is green.
    pub passed: Option<Judged>,
    /// A person, or nobody, answered that it is to be left.
    pub leave: Option<String>,
    /// A person's word on landing.
    pub may_land: Option<bool>,
    /// What was said with it.
    pub words: String,
    /// Landing was begun.
    pub landing: bool,
    /// The kernel of a pass was judged on the device too, or cannot be.
    pub device_done: bool,
    /// Judgements in a row that could not be made.
    pub could_not: u32,
    /// The last verdict was made with every size and length, and so is the device's on the same kernel.
    pub thorough: bool,
}

/// A judgement that was begun: the digest under which a row of it would be found.
#[derive(Clone, Debug, PartialEq)]
pub struct Judging {
    pub call: String,
    pub attempt: u64,
    pub place: String,
    pub source: String,
    pub change: String,
    pub thorough: bool,
    pub digest: Digest,
}

/// A question that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    pub id: u64,
    pub about: About,
    pub text: String,
    /// What it is about.
    pub shown: String,
}

#[derive(Clone, Debug)]
pub struct State {
    pub started: Option<Start>,
    pub limits: Limits,
    pub approve: Approve,
    pub spent: Spent,
    pub gauge: Gauge,
    /// Of the last event.
    pub ms: u64,
    pub work: Option<Work>,
    pub ended: Vec<(Node, NodeEnd, String)>,
    pub messages: Vec<Message>,
    /// Calls of the last answer that are not answered yet, in order.
    pub pending: VecDeque<Call>,
    /// The model writes its calls as text.
    pub plain: bool,
    /// The calls of this step may be carried out.
    pub step_approved: bool,
    /// What the model is told when the step is over.
    waiting: Vec<String>,
    /// What a person said, or the loop decided, since the model last answered: a conversation that begins anew says it again.
    unheard: Vec<String>,
    pub judging: Option<Judging>,
    pub ask: Option<Ask>,
    pub asks: u64,
    pub paused: bool,
    /// Commands from outside that have been carried out.
    pub controls: HashSet<String>,
    /// Tries of the call that is under way that failed in a row.
    pub failures: u32,
    /// Condensations since the model last answered.
    pub condensed: u32,
    /// Condensations since a step last led anywhere: the model saw what its calls gave, wrote a file, or had a verdict.
    pub fruitless: u32,
    pub over: Option<(RunEnd, String)>,
    /// The budget that ended last: `steps`, `tokens`.
    pub out_of: Option<String>,
    pub last_verdict: Option<Judged>,
}

/// What a run began with, and what has changed since: where kernels are judged, and who is asked.
#[derive(Clone, Debug)]
pub struct Start {
    pub model: String,
    pub llm: String,
    pub host: String,
    pub price: Option<Price>,
    pub nodes: Vec<Node>,
    pub place: Place,
    pub key: Option<String>,
    pub wait_s: u64,
    pub time: String,
}

impl Default for State {
    fn default() -> State {
        State {
            started: None,
            limits: Limits { steps: 0, attempts: 0, tokens: 0, wall_ms: 0, cost: None },
            approve: Approve::Green,
            spent: Spent::default(),
            gauge: Gauge::default(),
            ms: 0,
            work: None,
            ended: Vec::new(),
            messages: Vec::new(),
            pending: VecDeque::new(),
            plain: false,
            step_approved: false,
            waiting: Vec::new(),
            unheard: Vec::new(),
            judging: None,
            ask: None,
            asks: 0,
            paused: false,
            controls: HashSet::new(),
            failures: 0,
            condensed: 0,
            fruitless: 0,
            over: None,
            out_of: None,
            last_verdict: None,
        }
    }
}

impl State {
    pub fn apply(&mut self, record: &Record) {
        self.ms = self.ms.max(record.ms);
        match record.event.clone() {
            Event::Started { model, llm, host, price, limits, approve, nodes, place, key, wait_s, .. } => {
                (self.limits, self.approve) = (limits, approve);
                let time = record.time.clone();
                self.started = Some(Start { model, llm, host, price, nodes, place, key, wait_s, time });
            }
            Event::Resumed { limits, approve, place, server, wait_s, .. } => {
                if let (Some(start), Some(place)) = (&mut self.started, place) {
                    start.place = place;
                }
                if let (Some(start), Some(server)) = (&mut self.started, server) {
                    (start.llm, start.host, start.price) = (server.llm, server.host, server.price);
                }
                if let (Some(start), Some(wait_s)) = (&mut self.started, wait_s) {
                    start.wait_s = wait_s;
                }
                (self.limits, self.approve, self.over, self.failures) = (limits, approve, None, 0);
                self.fruitless = 0;
                // The process that waited is gone: whoever resumes wants it to go on.
                self.paused = false;
                self.lose_reservation();
            }
            Event::Chosen { node, why } => {
                (self.work, self.fruitless) = (Some(Work::new(node, why)), 0);
            }
            Event::Context { messages, why, .. } => {
                (self.messages, self.plain) = (messages, false);
                self.pending.clear();
                self.waiting.clear();
                for text in self.unheard.clone() {
                    self.push_user(text);
                }
                let condensed = u32::from(why.starts_with("condensed"));
                (self.condensed, self.fruitless) = (self.condensed + condensed, self.fruitless + condensed);
            }
            Event::Reserved { step, prompt, completion, cost, .. } => {
                self.spent.steps = step;
                self.spent.calls += 1;
                self.spent.reserved = Some(Reserved { prompt, completion, cost });
            }
            Event::Failed { prompt, completion, cost, claimed, .. } => {
                self.settle(Usage { prompt, completion }, cost, claimed);
                // Nobody counted what was lost: what was set aside for it stands in its place.
                self.spent.estimated |= prompt > 0 || completion > 0;
                self.failures += 1;
            }
            Event::Replied { prompt, completion, cost, estimated, content, calls, plain, bytes, claimed, .. } => {
                let allowed = self.spent.reserved.map_or(u64::MAX, |r| r.completion);
                self.settle(Usage { prompt, completion }, cost, claimed);
                let counted = claimed.unwrap_or(Usage { prompt, completion });
                self.gauge.answered(allowed, counted.completion);
                self.spent.estimated |= estimated;
                if !estimated {
                    self.gauge.saw(counted.prompt, bytes);
                }
                (self.failures, self.condensed, self.step_approved) = (0, 0, false);
                self.replied(content, calls, plain);
            }
            Event::Result { call, tool, ok, content } => {
                if let Some(work) = self.work.as_mut().filter(|_| ok && tool == WRITE) {
                    work.edits += 1;
                    self.fruitless = 0;
                }
                self.result(&call, content);
            }
            Event::Judging { call, attempt, place, source, change, thorough } => {
                let digest = record.digest;
                self.judging = Some(Judging { call, attempt, place, source, change, thorough, digest });
            }
            Event::Verdict { call, attempt, source, failure, judged, content } => {
                let (change, thorough) = self.judging.take().map_or_else(Default::default, |j| (j.change, j.thorough));
                if let Some(work) = &mut self.work {
                    work.thorough = thorough;
                }
                let passed = judged.outcome == "pass";
                self.verdict(Attempt { number: attempt, source, failure, change, ..Attempt::default() }, judged);
                match call.is_empty() {
                    false => self.result(&call, content),
                    // The device's word on what the model had verified on the emulator.
                    true if passed => {}
                    true => self.tell(content),
                }
            }
            Event::Told { text } => self.tell(text),
            Event::Said { id, text } => {
                self.controls.insert(id);
                self.tell_surely(format!("{SUPERVISOR} says: {text}"));
            }
            Event::Strategy { level, text, .. } => {
                if let Some(work) = &mut self.work {
                    work.level = level;
                    work.begin_anew();
                }
                self.tell_surely(text);
            }
            Event::Asked { id, about, text, shown } => {
                self.asks = self.asks.max(id);
                self.ask = Some(Ask { id, about, text, shown });
            }
            Event::Answered { yes, text, by, .. } => self.answered(yes, &text, &by),
            Event::Paused { id, .. } => {
                self.controls.insert(id);
                self.paused = true;
            }
            Event::Continued { id, .. } => {
                self.controls.insert(id);
                self.paused = false;
            }
            Event::Landing { .. } => {
                if let Some(work) = &mut self.work {
                    work.landing = true;
                }
            }
            Event::NodeEnded { node, how, why } => {
                self.work = None;
                self.messages.clear();
                self.pending.clear();
                self.waiting.clear();
                self.unheard.clear();
                self.ended.push((node, how, why));
            }
            Event::Ended { how, why } => {
                self.lose_reservation();
                self.over = Some((how, why));
            }
            Event::BudgetStop { what, .. } => self.out_of = Some(what),
            Event::Refused { .. } | Event::Landed { .. } | Event::Overcounted { .. } | Event::Undercounted { .. } => {}
        }
    }

    /// Settles a call: what it is charged with, and what the server counted where that is more.
    fn settle(&mut self, charged: Usage, cost: u64, claimed: Option<Usage>) {
        self.spent.settle(charged.prompt, charged.completion, cost);
        let Some(claimed) = claimed else { return };
        let beyond = |claimed: u64, charged: u64| claimed.saturating_sub(charged);
        for more in [beyond(claimed.prompt, charged.prompt), beyond(claimed.completion, charged.completion)] {
            self.spent.beyond = self.spent.beyond.saturating_add(more);
        }
        let price = self.started.as_ref().and_then(|s| s.price);
        let claimed = price.map_or(0, |p| p.of(claimed.prompt, claimed.completion));
        self.spent.cost_beyond = self.spent.cost_beyond.saturating_add(claimed.saturating_sub(cost));
    }

    /// A call whose answer nobody will see: what was set aside for it counts as spent.
    fn lose_reservation(&mut self) {
        if let Some(lost) = self.spent.reserved {
            self.spent.settle(lost.prompt, lost.completion, lost.cost);
            self.spent.estimated = true;
        }
    }

    fn replied(&mut self, content: String, calls: Vec<Call>, plain: bool) {
        self.plain = plain;
        // Nobody is asked before all of a step's calls have their results, and what waited for those was in the request.
        self.unheard.clear();
        if !self.is_bare() {
            self.fruitless = 0;
        }
        if let Some(work) = &mut self.work {
            work.idle += 1;
        }
        // Some servers refuse an assistant that says nothing.
        let content = if content.trim().is_empty() && calls.is_empty() { "(no answer)".into() } else { content };
        let kept = if plain { Vec::new() } else { calls.clone() };
        self.messages.push(Message::Assistant { content, calls: kept });
        self.pending = calls.into();
    }

    fn result(&mut self, call: &str, content: String) {
        let Some(at) = self.pending.iter().position(|c| c.id == call) else { return };
        let Some(call) = self.pending.remove(at) else { return };
        match self.plain {
            true => self.push_user(format!("Result of {}:\n{content}", call.name)),
            false => self.messages.push(Message::Tool { id: call.id, content }),
        }
        if self.pending.is_empty() {
            for text in std::mem::take(&mut self.waiting) {
                self.push_user(text);
            }
        }
    }

    /// Between a call and its result there is no room for anybody else.
    fn tell(&mut self, text: String) {
        match self.pending.is_empty() {
            true => self.push_user(text),
            false => self.waiting.push(text),
        }
    }

    /// The same with what has to be in a request that the model answered, however often the conversation begins anew before.
    fn tell_surely(&mut self, text: String) {
        self.unheard.push(text.clone());
        self.tell(text);
    }

    /// Two messages of the user in a row are one: some servers refuse them.
    fn push_user(&mut self, text: String) {
        match self.messages.last_mut() {
            Some(Message::User { content }) => {
                content.push_str("\n\n");
                content.push_str(&text);
            }
            _ => self.messages.push(Message::User { content: text }),
        }
    }

    fn verdict(&mut self, attempt: Attempt, judged: Judged) {
        self.last_verdict = Some(judged.clone());
        let Some(work) = &mut self.work else { return };
        work.device_done = judged.class == "device";
        if judged.outcome == "could_not_run" {
            work.could_not += 1;
            return;
        }
        (work.edits, work.idle, work.could_not, self.fruitless) = (0, 0, 0, 0);
        let passed = judged.outcome == "pass";
        let error = judged.error.as_ref().and_then(|e| e.parse().ok());
        let mut attempt = Attempt { error, said: judged.words(), passed, ..attempt };
        // The emulator's and the device's word on one kernel are one attempt.
        match work.attempts.last_mut().filter(|last| last.number == attempt.number) {
            Some(last) => {
                attempt.change = std::mem::take(&mut last.change);
                *last = attempt;
            }
            None => work.attempts.push(attempt),
        }
        work.passed = passed.then_some(judged);
    }

    fn answered(&mut self, yes: Option<bool>, text: &str, by: &str) {
        let Some(ask) = self.ask.take() else { return };
        match ask.about {
            About::Step if yes == Some(true) => {
                self.step_approved = true;
                if !text.is_empty() {
                    self.tell_surely(format!("{SUPERVISOR} says: {text}"));
                }
            }
            About::Step => {
                let refusal = match yes {
                    Some(false) => format!("Not carried out: a {by} refused this step. {text}"),
                    _ => format!("Not carried out: no person approved this step. {text}"),
                };
                if yes == Some(false) && !text.is_empty() {
                    self.unheard.push(format!("{SUPERVISOR} refused a step of yours and says: {text}"));
                }
                while let Some(call) = self.pending.front().map(|c| c.id.clone()) {
                    self.result(&call, refusal.clone());
                }
            }
            About::Question => {
                // An approval without words is an answer too, and a model makes nothing of an empty one.
                let text = match (yes, text) {
                    (Some(true), "") => "Yes.",
                    (Some(false), "") => "No.",
                    (_, text) => text,
                };
                self.unheard.push(match by {
                    "nobody" => format!("You asked: {}\n{text}", ask.text),
                    _ => format!("You asked: {}\n{SUPERVISOR} answers: {text}", ask.text),
                });
                if let Some(call) = self.pending.front().map(|c| c.id.clone()) {
                    self.result(&call, text.to_string());
                }
            }
            About::Landing => {
                if let Some(work) = &mut self.work {
                    work.may_land = Some(yes == Some(true));
                    work.words = text.to_string();
                }
            }
            About::Stuck if yes == Some(true) => {
                if let Some(work) = &mut self.work {
                    work.begin_anew();
                }
                self.tell_surely(match text {
                    "" => format!("{SUPERVISOR} wants you to go on, and gives no hint."),
                    text => format!("{SUPERVISOR} says: {text}"),
                });
            }
            About::Stuck => {
                let left = match yes {
                    None => text.to_string(),
                    Some(_) => format!("a {by} did not want to go on with it. {text}").trim_end().to_string(),
                };
                if let Some(work) = &mut self.work {
                    work.leave = Some(format!("{}; {left}", ask.text));
                }
            }
        }
    }

    pub fn attempts(&self) -> u64 {
        self.work.as_ref().map_or(0, |w| w.attempts.len() as u64)
    }

    pub fn has_ended(&self, node: &Node) -> bool {
        self.ended.iter().any(|(n, ..)| n == node)
    }

    /// The model has said nothing yet in the conversation as it is.
    pub fn is_bare(&self) -> bool {
        !self.messages.iter().any(|m| matches!(m, Message::Assistant { .. }))
    }

    /// Bytes of the conversation.
    pub fn bytes(&self) -> u64 {
        self.messages.iter().map(|m| m.bytes() as u64 + 8).sum()
    }
}

/// Who speaks to the model beside assay itself.
const SUPERVISOR: &str = "A person who supervises this run";
/// The tool that edits.
pub const WRITE: &str = "write_kernel";

impl Work {
    fn new(node: Node, why: String) -> Work {
        Work {
            node,
            why,
            attempts: Vec::new(),
            before: 0,
            level: 0,
            edits: 0,
            idle: 0,
            passed: None,
            leave: None,
            may_land: None,
            words: String::new(),
            landing: false,
            device_done: false,
            could_not: 0,
            thorough: false,
        }
    }

    /// What was counted until now is no sign of being stuck any more.
    fn begin_anew(&mut self) {
        (self.edits, self.idle, self.before) = (0, 0, self.attempts.len());
    }

    /// Attempts since the strategy changed.
    pub fn recent(&self) -> &[Attempt] {
        &self.attempts[self.before.min(self.attempts.len())..]
    }
}
