//! From a kernel to its verdict, and from a green one to a commit.

use std::io::Read as _;

use super::Run;
use crate::agent::desk::Provenance;
use crate::agent::endpoint::Call;
use crate::agent::events::{About, Approve, Event, Judged, NodeEnd};
use crate::agent::shop::{Order, Word};
use crate::agent::state::{Judging, Work};
use crate::agent::{desk, kept, tools, transcript};
use crate::error::{Error, Kind, Result};
use crate::ledger::Digest;
use crate::ops::Node;

/// Where a kernel is judged.
const DEVICE: &str = "device";
const EMULATOR: &str = "emulator";

impl Run<'_> {
    /// A kernel passed: the device's word, then a person's, then git's.
    pub(super) fn passed(&mut self, work: &Work, judged: &Judged) -> Result<()> {
        if judged.class == "emulated" && self.shop.device() && !work.device_done {
            let (attempt, source) =
                work.attempts.last().map_or_else(Default::default, |a| (a.number, a.source.clone()));
            let thorough = work.thorough;
            let (call, change) = (String::new(), String::new());
            return self.judge(work, Event::Judging { call, attempt, place: DEVICE.into(), source, change, thorough });
        }
        if !judged.green {
            let why = match self.shop.device() {
                true => "it could not be judged on the device",
                false => "there is no device here: it is not green, and does not land",
            };
            return self.end_node(work, NodeEnd::Emulated, why.into());
        }
        if work.landing {
            return self.land(work);
        }
        match (work.may_land, self.state.approve) {
            (Some(true), _) | (None, Approve::NeverAsk) => {
                self.emit(Event::Landing { node: work.node.clone() })?;
                self.land(work)
            }
            (Some(false), _) => {
                let words = if work.words.is_empty() { String::new() } else { format!(" ({})", work.words) };
                let why = format!("landing was not approved{words}; assay land '{}' lands it", work.node);
                self.end_node(work, NodeEnd::Green, why)
            }
            (None, _) => {
                let row = judged.row.map_or(String::new(), |row| format!(", row {row}"));
                let text = format!("{} is green on {}{row}. Land it?", work.node, judged.arch);
                let mut shown = format!("the verdict: {}\n", judged.words());
                if let Some(last) = work.attempts.last().filter(|last| !last.change.is_empty()) {
                    shown += &format!("what attempt {} changed:\n{}", last.number, last.change);
                }
                self.ask(About::Landing, text, shown)
            }
        }
    }

    fn land(&mut self, work: &Work) -> Result<()> {
        let node = work.node.clone();
        let landed = match self.shop.landed(&node)? {
            Some(commit) => Ok(commit),
            None => self.shop.land(&node),
        };
        match landed {
            Ok(commit) => {
                self.emit(Event::Landed { node, commit: commit.clone() })?;
                self.end_node(work, NodeEnd::Landed, format!("commit {}", desk::short(&commit)))
            }
            Err(e) if e.kind() != Kind::Integrity && e.kind() != Kind::Internal => {
                self.emit(Event::Refused { what: format!("landing {node}"), why: e.to_string() })?;
                self.end_node(work, NodeEnd::Green, format!("landing was refused: {}", e.what()))
            }
            Err(e) => Err(e),
        }
    }

    pub(super) fn verify(&mut self, work: &Work, call: &Call) -> Result<()> {
        let ask: tools::Verify = match tools::arguments(call) {
            Ok(ask) => ask,
            Err(why) => return self.result(call, false, why),
        };
        if let Some(named) = ask.node.as_deref()
            && named.parse::<Node>().ok().as_ref() != Some(&work.node)
        {
            let what = format!("verify {}", desk::cap(named.escape_debug().to_string(), 80));
            self.emit(Event::Refused { what, why: format!("{} is worked on", work.node) })?;
            return self.result(
                call,
                false,
                format!("error: the node that is worked on is {}; verify that one", work.node),
            );
        }
        if let Err(stop) = self.state.spent.wall(&self.state.limits, self.ms()) {
            return self.out_of(stop);
        }
        if self.state.attempts() >= self.state.limits.attempts {
            let text = "error: no attempt is left for this node";
            return self.result(call, false, text.into());
        }
        let files = match self.shop.source(&work.node) {
            Ok(files) => files,
            // A link, or a file of a gigabyte, in the place of the node's own: it is left out, and nobody's fault but whose
            // hand put it there.
            Err(e) if desk::is_planted(&e) => {
                let what = format!("verify {}", work.node);
                self.emit(Event::Refused { what, why: e.what().into() })?;
                let why = desk::untrusted("why", &e.to_string());
                return self.result(
                    call,
                    false,
                    format!("error: it is left out, so there is nothing to judge:\n{why}"),
                );
            }
            Err(e) => return Err(e),
        };
        // A kernel is both files: what lacks one is no attempt.
        for (ending, name) in [(".cu", "kernel"), (".toml", "manifest")] {
            if !files.iter().any(|(path, _)| path.ends_with(ending)) {
                let stem = work.node.file_stem();
                let text =
                    format!("error: there is no {name} yet: write {stem}.cu and {stem}.toml with write_kernel first");
                return self.result(call, false, text);
            }
        }
        let source = self.keep(&files)?;
        if let Some(last) = work.attempts.last().filter(|last| last.source == source && !last.passed) {
            let said = desk::untrusted("the judge's words", &last.said);
            let text =
                format!("error: nothing has changed since attempt {}, so its verdict stands:\n{said}", last.number);
            return self.result(call, false, text);
        }
        let change = match work.attempts.last() {
            None => String::new(),
            Some(last) => tools::change(&self.kept(&last.source), &self.kept(&source)),
        };
        let attempt = self.next_attempt(work)?;
        let place = if self.shop.emulator() { EMULATOR } else { DEVICE }.into();
        let (call, thorough) = (call.id.clone(), ask.thorough);
        self.judge(work, Event::Judging { call, attempt, place, source, change, thorough })
    }

    /// What the next attempt at a node is called: it counts on from those that are on record, whoever made them, so that
    /// the log, `history` and the report call an attempt by one number. What a run may make of them is counted apart.
    pub(super) fn next_attempt(&self, work: &Work) -> Result<u64> {
        let own = work.attempts.last().map_or(0, |a| a.number);
        Ok(self.shop.last_attempt(&work.node)?.max(own).saturating_add(1))
    }

    fn judge(&mut self, work: &Work, judging: Event) -> Result<()> {
        self.emit(judging)?;
        match self.state.judging.clone() {
            Some(judging) => self.judged(work, &judging, false),
            None => Err(Error::internal("a judgement that was begun is not under way")),
        }
    }

    /// Judges, unless an earlier process had done so and its row is there.
    pub(super) fn judged(&mut self, work: &Work, judging: &Judging, again: bool) -> Result<()> {
        let attempt = judging.attempt;
        let earlier = if again { self.shop.recorded(&work.node, &judging.digest, attempt)? } else { None };
        let (prompt, transcript) = (self.prompt_digest(), judging.digest.to_string());
        let provenance = Provenance { prompt, transcript, attempt: Some(attempt) };
        let order = Order {
            device: judging.place == DEVICE,
            thorough: judging.thorough,
            provenance: &provenance,
            stop: self.signals.flag(),
            until: self.until(),
        };
        let word = match earlier {
            Some(word) => word,
            None => match self.shop.judge(&work.node, &order) {
                Ok(word) => word,
                // An unfinished verdict is no attempt: it is begun again when the run goes on.
                Err(e) if e.kind() == Kind::Interrupted => {
                    return self.cut_short(
                        e,
                        &format!(
                            "the verdict on attempt {attempt} was being made, and is made anew when the run goes on"
                        ),
                    );
                }
                // Not the kernel's fault, and perhaps not for long.
                Err(e) if e.kind() == Kind::CouldNotRun => could_not(work, judging, &e),
                Err(e) => return Err(e),
            },
        };
        let Word { judged, mut text, failure } = word;
        if !judged.green && judged.outcome == "pass" && judging.call.is_empty() {
            text.push_str("It is not green.\n");
        }
        self.emit(Event::Verdict {
            call: judging.call.clone(),
            attempt: judging.attempt,
            source: judging.source.clone(),
            failure,
            judged,
            content: text,
        })
        .map(|_| ())
    }

    fn prompt_digest(&self) -> String {
        let text: String = self.state.messages.iter().take(2).map(|m| m.wire().to_string()).collect();
        Digest::of(text.as_bytes()).to_string()
    }

    /// Keeps a copy of the files that are judged, under their digest.
    fn keep(&self, files: &[(String, String)]) -> Result<String> {
        let text: String = files.iter().map(|(path, text)| format!("=== kernels/{path}\n{text}\n")).collect();
        let text = self.client.settings().redactor().text(&text);
        let digest = Digest::of(text.as_bytes()).short();
        kept::put(&kept::make(&self.dir, "sources")?, &digest, text.as_bytes())?;
        Ok(digest)
    }

    fn kept(&self, digest: &str) -> String {
        let mut text = String::new();
        let dir = kept::plain(self.dir.join("sources"));
        let file = dir.ok().and_then(|dir| transcript::open(&dir.join(digest)).ok());
        // Without it only the difference cannot be shown.
        match file.map(|mut file| file.read_to_string(&mut text)) {
            Some(Ok(_)) => text,
            _ => String::new(),
        }
    }
}

fn could_not(work: &Work, judging: &Judging, e: &Error) -> Word {
    let class = if judging.place == DEVICE { "device" } else { "emulated" };
    let judged = Judged {
        node: work.node.clone(),
        class: class.into(),
        arch: String::new(),
        outcome: "could_not_run".into(),
        stage: None,
        reason: Some(desk::cap(e.to_string(), 1000)),
        first_bad: None,
        error: None,
        green: false,
        row: None,
        evidence: None,
        unbound: false,
        unkept: None,
        seconds: 0,
    };
    let why = desk::untrusted("why", &desk::cap(e.to_string(), 1000));
    let text = format!("It could not be judged, which says nothing about the kernel:\n{why}");
    Word { judged, text, failure: None }
}
