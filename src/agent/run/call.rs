//! One call of the model: what it may cost is set aside first, and what comes of it is settled.

use std::time::{Duration, Instant};

use super::{BEAT, Run};
use crate::agent::budget::{Gauge, Reserved, tokens_of_answer, tokens_of_prompt};
use crate::agent::endpoint::{Answer, Failure, Request, Trouble, Usage, retry};
use crate::agent::events::{Event, RunEnd};
use crate::agent::{desk, tools};
use crate::error::Result;

/// Bytes of what a model says that are kept, and of its reasoning.
const CONTENT: usize = 64 << 10;
const REASONING: usize = 16 << 10;
/// Condensations in a row that led nowhere, before it is said that the context is too small.
const FRUITLESS: u32 = 2;
/// The longest that a server may have itself waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(900);

/// Who says how much the model can hold: context_tokens, or its server.
#[derive(Clone, Copy)]
enum Held {
    Here,
    There,
}

/// What a call is charged with: no more than was set aside. What was counted beyond that comes second.
fn charged(counted: Usage, reserved: Reserved) -> (Usage, Option<Usage>) {
    let (prompt, completion) = (counted.prompt.min(reserved.prompt), counted.completion.min(reserved.completion));
    let charged = Usage { prompt, completion };
    (charged, (charged != counted).then_some(counted))
}

impl Run<'_> {
    pub(super) fn ask_model(&mut self) -> Result<()> {
        let settings = self.client.settings();
        let bytes = self.state.bytes() + tools::bytes(&self.tools);
        let estimate = self.state.gauge.tokens(bytes);
        let context = settings.context_tokens;
        let passes = |prompt: u64| prompt.saturating_add(settings.answer_tokens) > context;
        if passes(estimate) {
            if !self.state.is_bare() {
                if self.state.fruitless >= FRUITLESS {
                    return self.cramped(&format!("context_tokens, which is {context}, is too small"), Held::Here);
                }
                return self.condense("it had become as long as the model's context");
            }
            // It cannot become shorter. A server that counts too many tokens has not made it longer either.
            if passes(Gauge::default().tokens(bytes)) {
                return self
                    .too_small(&format!("context_tokens, which is {context}, does not hold the prompt"), Held::Here);
            }
        }
        let (price, ms) = (settings.price, self.ms());
        let retrying = self.state.failures > 0;
        let mut spent = self.state.spent.clone();
        // Another try at a step is no step.
        spent.steps -= u64::from(retrying && spent.steps > 0);
        let request =
            Request { messages: &self.state.messages, tools: &self.tools, answer_tokens: settings.answer_tokens };
        let most = self.state.gauge.most(bytes, self.client.bytes(&request));
        let answer = (settings.answer_tokens, self.state.gauge.longest());
        let reserved = match spent.reserve(&self.state.limits, ms, most, answer, price) {
            Ok(reserved) => reserved,
            Err(stop) => return self.out_of(stop),
        };
        let answer_tokens = reserved.completion.min(settings.answer_tokens);
        let Reserved { prompt, completion, cost } = reserved;
        let attempt = self.state.failures + 1;
        self.emit(Event::Reserved { step: spent.steps + 1, attempt, prompt, completion, cost })?;
        let limit = Duration::from_millis(self.state.limits.wall_ms.saturating_sub(ms));
        let request = Request { messages: &self.state.messages, tools: &self.tools, answer_tokens };
        let signals = self.signals;
        match self.client.ask(&request, limit, &|| signals.stop()) {
            Ok(answer) => self.replied(answer, reserved, (bytes, estimate)),
            Err(failure) => self.failed(failure, reserved, bytes),
        }
    }

    fn replied(&mut self, answer: Answer, reserved: Reserved, (bytes, estimate): (u64, u64)) -> Result<()> {
        let usage = answer.usage.unwrap_or(Usage { prompt: 0, completion: 0 });
        let (prompt, whole) = tokens_of_prompt(usage.prompt, bytes, estimate.min(reserved.prompt));
        let (completion, taken) = tokens_of_answer(usage.completion, answer.said, reserved.completion);
        let estimated = !whole || !taken;
        let under = !whole && usage.prompt > 0 || !taken && usage.completion > 0;
        let (Usage { prompt, completion }, claimed) = charged(Usage { prompt, completion }, reserved);
        let cost = self.client.settings().price.map_or(0, |p| p.of(prompt, completion));
        self.emit(Event::Replied {
            prompt,
            completion,
            cost,
            estimated,
            content: desk::cap(answer.content, CONTENT),
            reasoning: desk::cap(answer.reasoning, REASONING),
            calls: answer.calls,
            plain: answer.plain,
            cut: answer.cut,
            bytes,
            claimed,
        })?;
        // Of a prompt only a server ever counts more than was set aside.
        let estimated = !taken && claimed.is_some_and(|c| c.prompt <= reserved.prompt);
        self.overcounted(claimed, reserved, estimated)?;
        match under {
            true => {
                self.emit(Event::Undercounted { counted: usage, charged: Usage { prompt, completion } }).map(|_| ())
            }
            false => Ok(()),
        }
    }

    fn overcounted(&mut self, claimed: Option<Usage>, reserved: Reserved, estimated: bool) -> Result<()> {
        let Some(claimed) = claimed else { return Ok(()) };
        let counted = claimed.prompt.saturating_add(claimed.completion);
        let reserved = reserved.prompt.saturating_add(reserved.completion);
        self.emit(Event::Overcounted { counted, reserved, estimated }).map(|_| ())
    }

    fn failed(&mut self, failure: Failure, reserved: Reserved, bytes: u64) -> Result<()> {
        let settings = self.client.settings();
        // Where a model was, or may have been, at work, somebody pays for it.
        let (prompt, completion) = match failure.trouble {
            Trouble::Timeout | Trouble::TooLarge | Trouble::Stopped => (reserved.prompt, reserved.completion),
            _ if failure.received > 0 || failure.usage.is_some() => {
                let counted = failure.usage.unwrap_or(Usage { prompt: 0, completion: 0 });
                let (prompt, _) = tokens_of_prompt(counted.prompt, bytes, reserved.prompt);
                let come = failure.received.div_ceil(3).min(reserved.completion);
                (prompt, counted.completion.max(come))
            }
            _ => (0, 0),
        };
        let (Usage { prompt, completion }, claimed) = charged(Usage { prompt, completion }, reserved);
        let cost = settings.price.map_or(0, |p| p.of(prompt, completion));
        let tries = self.state.failures + 1;
        let again = failure.trouble.passes() && tries < settings.tries;
        let pause = match failure.trouble {
            Trouble::Unsupported => Duration::ZERO,
            _ => failure.after.unwrap_or_else(|| retry::pause(settings.backoff, tries)).min(LONGEST_WAIT),
        };
        let wait_ms = if again { u64::try_from(pause.as_millis()).unwrap_or(u64::MAX) } else { 0 };
        let (trouble, what) = (failure.trouble, failure.what);
        self.emit(Event::Failed { prompt, completion, cost, claimed, trouble, what: what.clone(), wait_ms })?;
        // What is estimated here is never more than was set aside.
        self.overcounted(claimed, reserved, false)?;
        match trouble {
            Trouble::Stopped => self.stop(),
            Trouble::Context if self.state.condensed == 0 && self.state.fruitless >= FRUITLESS => {
                self.cramped(&format!("the server's context is too small: {what}"), Held::There)
            }
            Trouble::Context if self.state.condensed == 0 => self.condense("it was too long for the model"),
            Trouble::Context => {
                self.too_small(&format!("the server's context does not hold the prompt: {what}"), Held::There)
            }
            _ if again => self.pause_for(Duration::from_millis(wait_ms)),
            _ => self.emit(Event::Ended { how: RunEnd::Endpoint, why: what }).map(|_| ()),
        }
    }

    /// Waits before another try, with an ear open.
    fn pause_for(&mut self, wait: Duration) -> Result<()> {
        let since = Instant::now();
        while since.elapsed() < wait && !self.signals.stop() && self.state.over.is_none() {
            if let Err(stop) = self.state.spent.wall(&self.state.limits, self.ms()) {
                return self.out_of(stop);
            }
            std::thread::sleep(BEAT.min(wait.saturating_sub(since.elapsed())));
            self.hear()?;
            if self.state.paused || self.signals.pause() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The conversation begins anew with each step, and the model never sees what its calls gave.
    fn cramped(&mut self, what: &str, held: Held) -> Result<()> {
        let gone = format!("condensed {FRUITLESS} times in a row before the model had seen what its calls gave");
        self.too_small(&format!("{what}. The conversation was {gone}"), held)
    }

    /// The run ends; what the model was told is as it was for whoever resumes it with more room.
    fn too_small(&mut self, what: &str, held: Held) -> Result<()> {
        let why = format!("{what}; {}", self.needs(held));
        self.emit(Event::Ended { how: RunEnd::Context, why }).map(|_| ())
    }

    /// What a step takes, in tokens, and what has to be changed for it.
    fn needs(&self, held: Held) -> String {
        const FILE: &str = "agent.toml of your config directory";
        let tokens = |bytes: u64| self.state.gauge.tokens(bytes + tools::bytes(&self.tools));
        let prompt = tokens(self.state.messages.iter().take(2).map(|m| m.bytes() as u64 + 8).sum());
        let (whole, answer) = (tokens(self.state.bytes()), self.client.settings().answer_tokens);
        let room = whole.saturating_add(answer);
        let next = match held {
            Held::Here => format!(
                "set context_tokens to {room} or more in {FILE}, if the server holds as much, or answer_tokens to less"
            ),
            Held::There => {
                format!(
                    "start the server with a context of {room} tokens or more, or set answer_tokens to less in {FILE}"
                )
            }
        };
        let results = if self.state.is_bare() { String::new() } else { format!(", with the last results {whole}") };
        format!("its prompt has about {prompt} tokens{results}, and an answer may have {answer}: {next}")
    }

    /// A conversation that is too long begins anew with what matters: every verdict, and the kernel as it is.
    fn condense(&mut self, why: &str) -> Result<()> {
        match self.state.work.clone() {
            Some(work) => self.begin_context(&work, &format!("condensed: {why}")),
            None => Ok(()),
        }
    }
}
