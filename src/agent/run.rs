//! The loop: one step after the other, by what the state says. Every decision is an event before it is carried out, so
//! that a process that resumes decides as the one would have that was killed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::budget::{Stop, money};
use super::clock::Clock;
use super::codes::{PRICE_NONE, TRANSCRIPT};
use super::context::Brief;
use super::endpoint::{Call, Client, Message, ToolSpec, UNKNOWN};
use super::events::{About, Approve, Event, NodeEnd, Record, RunEnd};
use super::shop::Shop;
use super::state::{Ask, State, WRITE, Work};
use super::supervise::{self, Signals, Word as Said};
use super::transcript::Transcript;
use super::{desk, stuck, tools};
use crate::error::{Error, Kind, Result};
use crate::ledger::Digest;
use crate::ops::Node;

mod asking;
mod call;
mod hearing;
mod judging;

/// How often a wait looks whether it is over.
const BEAT: Duration = Duration::from_millis(50);
/// Judgements in a row that could not be made, before a node is left.
const COULD_NOT: u32 = 3;

/// Whoever watches a run, and may answer from where it watches.
pub trait View {
    /// An event that is about to be written. Tests die here.
    fn before(&mut self, _event: &Event) {}
    fn event(&mut self, record: &Record, state: &State);
    /// An answer to what is asked, from the terminal that watches: yes or no, with words.
    fn answer(&mut self, _ask: &Ask) -> Option<(Option<bool>, String)> {
        None
    }
}

pub struct Run<'r> {
    shop: &'r mut dyn Shop,
    client: &'r Client,
    signals: &'r Signals,
    view: &'r mut dyn View,
    dir: PathBuf,
    transcript: Transcript,
    state: State,
    tools: Vec<ToolSpec>,
    clock: Clock,
    /// What lies among the words and is none, nor can be removed as one: it has been told.
    passed_over: HashSet<String>,
}

impl<'r> Run<'r> {
    /// Begins a run in the empty folder `dir`.
    pub fn begin(
        dir: &Path,
        shop: &'r mut dyn Shop,
        client: &'r Client,
        signals: &'r Signals,
        view: &'r mut dyn View,
        started: Event,
    ) -> Result<Run<'r>> {
        if let Event::Started { limits, price: None, .. } = &started
            && limits.cost.is_some()
        {
            return Err(no_price(client));
        }
        let transcript = Transcript::create(dir, client.settings().redactor())?;
        let mut run = Run::over(dir, shop, client, signals, view, transcript, State::default())?;
        run.emit(started)?;
        Ok(run)
    }

    /// Goes on with the run in `dir`, under the limits that `resumed` says, given what they were.
    pub fn resume(
        dir: &Path,
        shop: &'r mut dyn Shop,
        client: &'r Client,
        signals: &'r Signals,
        view: &'r mut dyn View,
        resumed: impl FnOnce(&State, Option<String>) -> Result<Event>,
    ) -> Result<Run<'r>> {
        let mut state = State::default();
        let (transcript, note) = Transcript::resume(dir, client.settings().redactor(), |record| state.apply(&record))?;
        if state.started.is_none() {
            return Err(Error::new(&TRANSCRIPT, format!("{} has no first event", dir.display()))
                .hint("nothing had begun: assay agent begins a new run"));
        }
        let event = resumed(&state, note)?;
        let mut run = Run::over(dir, shop, client, signals, view, transcript, state)?;
        run.emit(event)?;
        // Whoever resumes wants it to go on, whatever the process that is gone was told last.
        for (id, said) in supervise::inbox(dir)? {
            if matches!(said, Some(Said::Pause | Said::Resume)) {
                supervise::remove(dir, &id)?;
            }
        }
        if let Some(node) = run.state.work.as_ref().map(|w| w.node.clone()) {
            run.shop.choose(&node)?;
        }
        Ok(run)
    }

    fn over(
        dir: &Path,
        shop: &'r mut dyn Shop,
        client: &'r Client,
        signals: &'r Signals,
        view: &'r mut dyn View,
        transcript: Transcript,
        state: State,
    ) -> Result<Run<'r>> {
        let mut tools = shop.tools();
        tools.extend(tools::own());
        let clock = Clock::start(dir, state.ms)?;
        Ok(Run {
            shop,
            client,
            signals,
            view,
            dir: dir.into(),
            transcript,
            state,
            tools,
            clock,
            passed_over: HashSet::new(),
        })
    }

    /// Works until there is nothing left to do, a budget ends, somebody stops it, or it cannot go on.
    pub fn work(&mut self) -> Result<RunEnd> {
        loop {
            if let Some((how, _)) = &self.state.over {
                return Ok(*how);
            }
            match self.step() {
                Ok(()) => {}
                Err(e) if e.kind() == Kind::Interrupted => self.stop()?,
                Err(e) => {
                    // Where even this cannot be written, the first error is the one to be told.
                    let _ = self.emit(Event::Ended { how: RunEnd::Fault, why: e.to_string() });
                    return Err(e);
                }
            }
        }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn head(&self) -> Digest {
        self.transcript.head()
    }

    fn ms(&self) -> u64 {
        self.clock.ms()
    }

    /// Writes an event and lets it change the state. Nothing else changes it.
    fn emit(&mut self, event: Event) -> Result<Digest> {
        self.view.before(&event);
        let record = self.transcript.append(self.ms(), &event)?;
        self.state.apply(&record);
        self.view.event(&record, &self.state);
        Ok(record.digest)
    }

    fn stop(&mut self) -> Result<()> {
        self.emit(Event::Ended { how: RunEnd::Stopped, why: "stopped by a second Ctrl-C".into() }).map(|_| ())
    }

    /// One decision.
    fn step(&mut self) -> Result<()> {
        if self.signals.stop() {
            return self.stop();
        }
        self.hear()?;
        let between = self.state.pending.is_empty() && self.state.judging.is_none();
        if self.signals.pause() && between && !self.state.paused {
            self.emit(Event::Paused { id: String::new(), by: "Ctrl-C".into() })?;
        }
        if self.state.paused {
            return self.rest();
        }
        if let Some(ask) = self.state.ask.clone() {
            return self.await_answer(&ask);
        }
        match self.state.work.clone() {
            None => self.choose(),
            Some(work) => self.at(&work),
        }
    }

    fn rest(&mut self) -> Result<()> {
        let since = Instant::now();
        std::thread::sleep(BEAT);
        self.clock.leave_out(since.elapsed());
        Ok(())
    }

    fn choose(&mut self) -> Result<()> {
        let told = self.state.started.as_ref().map_or(Vec::new(), |s| s.nodes.clone());
        if let Err(stop) = self.state.spent.wall(&self.state.limits, self.ms()) {
            return self.out_of(stop);
        }
        let next = match told.is_empty() {
            false => told.into_iter().find(|n| !self.state.has_ended(n)).map(|n| (n, "as told".to_string())),
            true => {
                let ended: Vec<&Node> = self.state.ended.iter().map(|(n, ..)| n).collect();
                self.shop.next(&ended)?
            }
        };
        match next {
            Some((node, why)) => {
                self.shop.choose(&node)?;
                self.emit(Event::Chosen { node, why })?;
            }
            None => {
                let told = self.state.started.as_ref().is_some_and(|s| !s.nodes.is_empty());
                let why = match told {
                    true => "every node that was named was worked on".to_string(),
                    false => "no node is left that could be worked on here".to_string(),
                };
                self.emit(Event::Ended { how: RunEnd::Done, why })?;
            }
        }
        Ok(())
    }

    /// What is next for the node on the desk.
    fn at(&mut self, work: &Work) -> Result<()> {
        if let Some(judging) = self.state.judging.clone() {
            return self.judged(work, &judging, true);
        }
        // A server that counts past a budget gets nothing carried out and is asked nothing more.
        if let Err(stop) = self.state.spent.passed(&self.state.limits) {
            return self.out_of(stop);
        }
        if let Some(why) = &work.leave {
            return self.end_node(work, NodeEnd::Stuck, why.clone());
        }
        if let Some(passed) = &work.passed {
            return self.passed(work, &passed.clone());
        }
        if work.could_not >= COULD_NOT {
            let why = "it could not be judged here, three times in a row".to_string();
            return self.end_node(work, NodeEnd::CouldNotRun, why);
        }
        if let Some(call) = self.state.pending.front().cloned() {
            return self.tool(work, &call);
        }
        if self.state.messages.is_empty() {
            return self.begin_context(work, "the work on the node begins");
        }
        if self.state.attempts() >= self.state.limits.attempts {
            let spent = self.state.attempts().to_string();
            let limit = self.state.limits.attempts.to_string();
            self.emit(Event::BudgetStop { what: format!("attempts at {}", work.node), spent, limit })?;
            let last = work.attempts.last().map_or(String::new(), |a| format!("; the last was {}", a.said));
            return self.end_node(work, NodeEnd::Attempts, format!("all attempts are spent{last}"));
        }
        if let Some(why) = stuck::why(work.recent(), work.edits, work.idle) {
            return self.unstick(work, why);
        }
        if let Some(Message::Assistant { .. }) = self.state.messages.last() {
            return self.nudge(work);
        }
        self.ask_model()
    }

    fn end_node(&mut self, work: &Work, how: NodeEnd, why: String) -> Result<()> {
        self.emit(Event::NodeEnded { node: work.node.clone(), how, why }).map(|_| ())
    }

    /// When the time is over.
    fn until(&self) -> Option<Instant> {
        let left = Duration::from_millis(self.state.limits.wall_ms.saturating_sub(self.ms()));
        Instant::now().checked_add(left)
    }

    /// Something ended before its end: by a second Ctrl-C, or because the time is over. What it was is begun again when the
    /// run goes on.
    fn cut_short(&mut self, e: Error, what: &str) -> Result<()> {
        match self.state.spent.wall(&self.state.limits, self.ms()) {
            Err(stop) if !self.signals.stop() => self.out_of_amid(stop, &format!("; {what}")),
            _ => Err(e),
        }
    }

    fn out_of(&mut self, stop: Stop) -> Result<()> {
        self.out_of_amid(stop, "")
    }

    fn out_of_amid(&mut self, stop: Stop, amid: &str) -> Result<()> {
        let why = format!("the budget of {} ends the run: {} of {}{amid}", stop.what, stop.spent, stop.limit);
        self.emit(Event::BudgetStop { what: stop.what.into(), spent: stop.spent, limit: stop.limit })?;
        self.emit(Event::Ended { how: RunEnd::Budget, why }).map(|_| ())
    }

    fn begin_context(&mut self, work: &Work, why: &str) -> Result<()> {
        let (spent, limits) = (&self.state.spent, &self.state.limits);
        let seconds = limits.wall_ms.saturating_sub(self.ms()) / 1000;
        let money = limits.cost.map_or(String::new(), |c| format!(", {} USD", money(c.saturating_sub(spent.cost()))));
        let budget = format!(
            "{} steps, {} tokens, {seconds} s{money}",
            limits.steps.saturating_sub(spent.steps),
            limits.tokens.saturating_sub(spent.tokens()),
        );
        let place = self.state.started.as_ref().map_or(String::new(), |s| s.place.place.clone());
        let brief = Brief {
            node: &work.node,
            why: &work.why,
            attempts: &work.attempts,
            number: self.next_attempt(work)?,
            attempts_left: limits.attempts.saturating_sub(work.attempts.len() as u64),
            budget,
            place: &place,
            asks: self.state.approve != Approve::NeverAsk,
        };
        let messages = self.shop.context(&brief)?;
        self.emit(Event::Context { node: work.node.clone(), why: why.into(), messages }).map(|_| ())
    }

    /// The model said something and called nothing.
    fn nudge(&mut self, work: &Work) -> Result<()> {
        let text = format!(
            "You called no tool, so nothing happened. Only a verdict counts: write kernels/{stem}.cu and .toml with \
             write_kernel, then call verify. If your server cannot carry tool calls, write one as \
             <tool_call>{{\"name\": \"verify\", \"arguments\": {{}}}}</tool_call>. To stop working on {node}, call give_up.",
            stem = work.node.file_stem(),
            node = work.node,
        );
        self.emit(Event::Told { text }).map(|_| ())
    }

    /// Nothing moves: a smaller step, then an example, then somebody else's advice, then another node.
    fn unstick(&mut self, work: &Work, why: String) -> Result<()> {
        let node = work.node.clone();
        let mut level = work.level + 1;
        if level == 2 {
            if let Some((other, text)) = self.shop.neighbour(&node)? {
                let to = format!("the kernel of {other} is shown");
                let text = format!(
                    "You are stuck: {why}. Here is a kernel of the same workbench that the judge has passed. See how it \
                     indexes, covers its grid and takes its arguments; then write yours anew.\n\n{text}"
                );
                return self.emit(Event::Strategy { node, level, why, to, text }).map(|_| ());
            }
            level = 3;
        }
        if level == 1 {
            let to = "the op's naive form first".to_string();
            let text = format!(
                "You are stuck: {why}. Take a smaller step. Write the naive form of {node} first: one thread per output \
                 element (or one block per row, thread 0 doing the sum), f32 throughout, no shared memory, no vector loads, \
                 exactly the loops of the oracle, one variant in the manifest whose grid covers every output. Get a verdict \
                 on that; make it faster afterwards, one change at a time."
            );
            return self.emit(Event::Strategy { node, level, why, to, text }).map(|_| ());
        }
        match self.state.approve {
            Approve::NeverAsk => self.end_node(
                work,
                NodeEnd::Stuck,
                format!("{why}, after every other strategy; nobody is asked in this run"),
            ),
            _ => {
                let last = work.attempts.last();
                let last =
                    last.map_or(String::new(), |a| format!("the last verdict: attempt {}, {}", a.number, a.said));
                self.ask(About::Stuck, format!("{node} is stuck: {why}, after every other strategy"), last)
            }
        }
    }

    /// Carries out a call, or says why not.
    fn tool(&mut self, work: &Work, call: &Call) -> Result<()> {
        if self.state.approve == Approve::EachStep && !self.state.step_approved {
            let calls: Vec<String> = self.state.pending.iter().map(describe).collect();
            let shown = self.preview(work);
            return self.ask(About::Step, format!("{}: {}", work.node, calls.join("; ")), shown);
        }
        if let Some(flaw) = call.flaw.clone() {
            if call.name == UNKNOWN {
                self.emit(Event::Refused { what: "a tool that is not offered".into(), why: flaw.clone() })?;
            }
            return self.result(call, false, format!("error: {flaw}"));
        }
        match call.name.as_str() {
            tools::VERIFY => self.verify(work, call),
            tools::ASK => match self.state.approve {
                Approve::NeverAsk => {
                    let why = "nobody is asked in this run".to_string();
                    self.emit(Event::Refused { what: tools::ASK.into(), why })?;
                    self.result(call, false, "Nobody can be asked in this run. Decide yourself, or give_up.".into())
                }
                _ => match tools::arguments::<tools::Question>(call) {
                    Err(why) => self.result(call, false, why),
                    Ok(ask) if ask.question.trim().is_empty() => {
                        self.result(call, false, "error: the question is empty, so nobody was asked".into())
                    }
                    Ok(ask) => {
                        let question = desk::cap(desk::printable(ask.question.trim()), 4000);
                        self.ask(About::Question, question, String::new())
                    }
                },
            },
            tools::GIVE_UP => match tools::arguments::<tools::Reason>(call) {
                Err(why) => self.result(call, false, why),
                Ok(ask) => {
                    let why = desk::cap(desk::printable(ask.reason.trim()), 1000);
                    let why = match why.is_empty() {
                        true => "the model gave no reason".into(),
                        false => format!("the model says: {why}"),
                    };
                    self.end_node(work, NodeEnd::GaveUp, why)
                }
            },
            name => {
                let until = self.until();
                let reply = match self.shop.call_until(name, &call.arguments, self.signals.flag(), until) {
                    Err(e) if e.kind() == Kind::Interrupted => {
                        return self
                            .cut_short(e, &format!("{name} was under way, and is called again when the run goes on"));
                    }
                    reply => reply?,
                };
                if reply.refused {
                    let what = desk::cap(describe(call), 300);
                    self.emit(Event::Refused { what, why: desk::cap(reply.text.clone(), 600) })?;
                }
                self.result(call, reply.ok, reply.text)
            }
        }
    }

    fn result(&mut self, call: &Call, ok: bool, content: String) -> Result<()> {
        let (id, tool) = (call.id.clone(), call.name.clone());
        self.emit(Event::Result { call: id, tool, ok, content }).map(|_| ())
    }
}

/// A call in a line.
fn describe(call: &Call) -> String {
    let arguments: Vec<String> = call
        .arguments
        .iter()
        .map(|(name, value)| match value.as_str().filter(|_| call.name == WRITE && name != "file") {
            Some(text) => format!("{name}: {} bytes", text.len()),
            None => format!("{name}: {}", desk::cap(desk::printable(&value.to_string()), 120)),
        })
        .collect();
    format!("{}({})", call.shown(), arguments.join(", "))
}

pub fn no_price(client: &Client) -> Error {
    Error::new(&PRICE_NONE, format!("a budget of money is set, and no price is known for {}", client.settings().model))
        .expected("[[price]] with model, input and output per million tokens in agent.toml")
        .hint("assay agent without --max-cost, or add the price")
}
