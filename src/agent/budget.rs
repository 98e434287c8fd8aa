//! Budgets, looked at before anything is spent.
//!
//! What a call may cost at most is set aside in the transcript first and settled when the answer is there. A process that
//! dies in between leaves the reservation, which then counts as spent: a budget is never spent twice.

use serde::{Deserialize, Serialize};

use super::endpoint::Price;

/// What a run may spend. Money is in 10⁻¹² of the price table's currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub steps: u64,
    /// Per node.
    pub attempts: u64,
    pub tokens: u64,
    pub wall_ms: u64,
    pub cost: Option<u64>,
}

/// What is set aside for the call that is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    pub prompt: u64,
    pub completion: u64,
    pub cost: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    pub steps: u64,
    pub calls: u64,
    pub prompt: u64,
    pub completion: u64,
    pub cost: u64,
    /// What servers counted beyond what had been set aside, which is all that a call is charged with.
    pub beyond: u64,
    pub cost_beyond: u64,
    /// Some of it was not counted by the server.
    pub estimated: bool,
    pub reserved: Option<Reserved>,
}

/// A budget that does not allow the next call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    pub what: &'static str,
    pub spent: String,
    pub limit: String,
}

/// The least that an answer may be cut down to: less would not hold a tool call.
const LEAST_ANSWER: u64 = 256;

/// One currency unit in what costs are counted in.
pub const UNIT: u64 = 1_000_000_000_000;

/// Bytes of a token, over a whole prompt or answer: code has three to six. What is longer than this is more than so many
/// tokens, and who counts fewer in it has not counted.
pub const TOKEN_BYTES: u64 = 16;

/// A cost for people.
pub fn money(cost: u64) -> String {
    format!("{}.{:04}", cost / UNIT, cost % UNIT / 100_000_000)
}

impl Spent {
    pub fn tokens(&self) -> u64 {
        let reserved = self.reserved.unwrap_or_default();
        [self.prompt, self.completion, reserved.prompt, reserved.completion].into_iter().fold(0, u64::saturating_add)
    }

    pub fn cost(&self) -> u64 {
        self.cost.saturating_add(self.reserved.unwrap_or_default().cost)
    }

    pub fn settle(&mut self, prompt: u64, completion: u64, cost: u64) {
        self.reserved = None;
        self.prompt = self.prompt.saturating_add(prompt);
        self.completion = self.completion.saturating_add(completion);
        self.cost = self.cost.saturating_add(cost);
    }

    /// What to set aside for a call whose prompt has at most `prompt` tokens and whose answer should have up to `answer`,
    /// though the server may count `longest`; a smaller answer where the budget ends. `Err`: no call at all.
    pub fn reserve(
        &self,
        limits: &Limits,
        elapsed_ms: u64,
        prompt: u64,
        (answer, longest): (u64, u64),
        price: Option<Price>,
    ) -> Result<Reserved, Stop> {
        if self.steps >= limits.steps {
            return Err(stop("steps", self.steps, limits.steps));
        }
        self.wall(limits, elapsed_ms)?;
        let left = limits.tokens.saturating_sub(self.believed());
        let (answer, least) = (answer.max(longest), LEAST_ANSWER.min(answer).max(longest));
        if left < prompt.saturating_add(least) {
            let spent = format!("{} are spent, and the next call may take {prompt} and {least} more", self.tokens());
            return Err(Stop { what: "tokens", spent, limit: limits.tokens.to_string() });
        }
        let mut completion = answer.min(left - prompt);
        let price = price.unwrap_or(Price { input: 0, output: 0 });
        if let Some(limit) = limits.cost {
            let left = limit.saturating_sub(self.cost().saturating_add(self.cost_beyond));
            let after_prompt = left.checked_sub(price.of(prompt, 0));
            let answer = after_prompt.map(|left| left.checked_div(price.output).unwrap_or(u64::MAX));
            match answer.filter(|answer| *answer >= least) {
                Some(answer) => completion = completion.min(answer),
                None => {
                    let next = money(price.of(prompt, least));
                    let spent = format!("{} is spent, and the next call may cost {next}", money(self.cost()));
                    return Err(Stop { what: "cost", spent, limit: money(limit) });
                }
            }
        }
        Ok(Reserved { prompt, completion, cost: price.of(prompt, completion) })
    }

    /// Whether the server has counted past a budget. What was set aside was not enough then, and nothing more is asked.
    pub fn passed(&self, limits: &Limits) -> Result<(), Stop> {
        let told = |spent: String, beyond: Option<String>| match beyond {
            None => spent,
            Some(beyond) => format!("{spent}, and {beyond} more by the server's count,"),
        };
        if self.believed() > limits.tokens {
            let beyond = (self.beyond > 0).then(|| self.beyond.to_string());
            let spent = told(self.tokens().to_string(), beyond);
            return Err(Stop { what: "tokens", spent, limit: limits.tokens.to_string() });
        }
        match limits.cost {
            Some(limit) if self.cost().saturating_add(self.cost_beyond) > limit => {
                let beyond = (self.cost_beyond > 0).then(|| money(self.cost_beyond));
                Err(Stop { what: "cost", spent: told(money(self.cost()), beyond), limit: money(limit) })
            }
            _ => Ok(()),
        }
    }

    /// All that the servers say was used.
    pub fn believed(&self) -> u64 {
        self.tokens().saturating_add(self.beyond)
    }

    pub fn wall(&self, limits: &Limits, elapsed_ms: u64) -> Result<(), Stop> {
        match elapsed_ms >= limits.wall_ms {
            false => Ok(()),
            true => Err(Stop {
                what: "time",
                spent: format!("{} s", elapsed_ms / 1000),
                limit: format!("{} s", limits.wall_ms / 1000),
            }),
        }
    }
}

fn stop(what: &'static str, spent: u64, limit: u64) -> Stop {
    Stop { what, spent: spent.to_string(), limit: limit.to_string() }
}

/// Tokens of a prompt of so many bytes, of which the server counted `counted` (0: none at all): its word, unless they are fewer
/// than so many bytes have; and whether it was taken.
pub fn tokens_of_prompt(counted: u64, bytes: u64, estimate: u64) -> (u64, bool) {
    match counted > 0 && counted.saturating_mul(TOKEN_BYTES) >= bytes {
        true => (counted, true),
        false => (estimate.max(counted), false),
    }
}

/// Tokens of an answer of so many bytes, where `allowed` were and the server counted `counted` (0: none at all): the
/// server's word, unless it is none; and whether it was taken. Without one an answer has tokens as code has them, and no more
/// than allowed unless it is longer than so many tokens ever are.
pub fn tokens_of_answer(counted: u64, bytes: u64, allowed: u64) -> (u64, bool) {
    if counted.saturating_mul(TOKEN_BYTES) >= bytes {
        return (counted, true);
    }
    let usual = bytes.div_ceil(3);
    let long = bytes > allowed.saturating_mul(TOKEN_BYTES);
    (if long { usual } else { usual.min(allowed) }.max(counted), false)
}

/// Tokens of a text before anybody has counted them: by the most for its bytes that the server counted so far, with a
/// tenth on top; at first a token for every three bytes, which code seldom exceeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Tokens and bytes of the prompt that had most of the one for the other.
    seen: Option<(u64, u64)>,
    /// The longest answer that the server counted beyond what it was allowed.
    longest: u64,
}

/// What a server's template may put around a conversation, in tokens.
const TEMPLATE: u64 = 1024;

impl Gauge {
    pub fn saw(&mut self, tokens: u64, bytes: u64) {
        let more = |(t, b): (u64, u64)| u128::from(tokens) * u128::from(b) >= u128::from(t) * u128::from(bytes);
        if bytes > 0 && tokens > 0 && self.seen.is_none_or(more) {
            self.seen = Some((tokens, bytes));
        }
    }

    /// An answer of `counted` tokens came where `allowed` were.
    pub fn answered(&mut self, allowed: u64, counted: u64) {
        if counted > allowed {
            self.longest = self.longest.max(counted);
        }
    }

    pub fn longest(&self) -> u64 {
        self.longest
    }

    /// The most that a prompt of so many bytes can be, sent in a request of `request` bytes: no token is shorter than a
    /// byte. A server that has counted more than that is believed the next time.
    pub fn most(&self, bytes: u64, request: u64) -> u64 {
        let bound = request.saturating_add(TEMPLATE);
        match self.seen {
            Some(_) => bound.max(self.tokens(bytes)),
            None => bound,
        }
    }

    /// An estimate.
    pub fn tokens(&self, bytes: u64) -> u64 {
        match self.seen {
            None => bytes.div_ceil(3) + 16,
            Some((tokens, of)) => {
                let exact =
                    u128::from(bytes).saturating_mul(u128::from(tokens).saturating_mul(11)) / (u128::from(of) * 10);
                u64::try_from(exact).unwrap_or(u64::MAX).saturating_add(16)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { steps: 10, attempts: 3, tokens: 10_000, wall_ms: 60_000, cost: None }
    }

    #[test]
    fn what_is_set_aside_never_passes_the_limit() {
        let mut spent = Spent::default();
        let mut calls = 0;
        while let Ok(reserved) = spent.reserve(&limits(), 0, 1_000, (2_000, 0), None) {
            assert!(reserved.completion <= 2_000);
            spent.settle(reserved.prompt, reserved.completion, 0);
            assert!(spent.tokens() <= 10_000);
            calls += 1;
        }
        assert_eq!((calls, spent.tokens()), (3, 9_000), "1,000 are too few for a prompt and an answer");
        let stop = spent.reserve(&limits(), 0, 1_000, (2_000, 0), None).unwrap_err();
        assert_eq!(stop.what, "tokens");
    }

    #[test]
    fn an_open_reservation_counts_as_spent() {
        let reserved = Some(Reserved { prompt: 5_000, completion: 4_000, cost: 0 });
        let spent = Spent { reserved, ..Spent::default() };
        assert_eq!(spent.tokens(), 9_000);
        assert!(spent.reserve(&limits(), 0, 900, (2_000, 0), None).is_err());
    }

    #[test]
    fn steps_time_and_money_stop_before_the_call() {
        let spent = Spent { steps: 10, ..Spent::default() };
        assert_eq!(spent.reserve(&limits(), 0, 1, (1, 0), None).unwrap_err().what, "steps");
        assert_eq!(Spent::default().reserve(&limits(), 60_000, 1, (1, 0), None).unwrap_err().what, "time");
        let limits = Limits { cost: Some(UNIT / 1000), ..limits() };
        // 1 per million in, 2 per million out: a thousandth buys 600 in and 200 out.
        let price = Some(Price { input: 1_000_000, output: 2_000_000 });
        assert_eq!(Spent::default().reserve(&limits, 0, 1_000, (300, 0), price).unwrap_err().what, "cost");
        let reserved = Spent::default().reserve(&limits, 0, 400, (2_000, 0), price).unwrap();
        assert_eq!((reserved.completion, reserved.cost), (300, UNIT / 1000));
        assert_eq!(money(UNIT / 1000 + 3 * UNIT), "3.0010");
    }

    #[test]
    fn a_server_that_counts_past_what_it_is_allowed_is_believed_the_next_time() {
        let mut gauge = Gauge::default();
        assert_eq!(gauge.most(300, 500), 1_524, "a token for each byte, and the template");
        gauge.saw(9_000, 300);
        assert!(gauge.most(300, 500) > 9_000);
        gauge.answered(200, 150);
        assert_eq!(gauge.longest(), 0);
        gauge.answered(200, 4_000);
        let left = |tokens| Spent::default().reserve(&Limits { tokens, ..limits() }, 0, 1_000, (200, 4_000), None);
        assert_eq!(left(5_000).unwrap().completion, gauge.longest());
        assert_eq!(left(4_999).unwrap_err().what, "tokens");
        let spent = Spent { prompt: 10_001, ..Spent::default() };
        assert_eq!(spent.passed(&limits()).unwrap_err().spent, "10001");
        assert!(Spent { prompt: 10_000, ..Spent::default() }.passed(&limits()).is_ok());
    }

    #[test]
    fn what_a_server_counts_beyond_what_was_set_aside_is_kept_apart_and_ends_the_run() {
        let spent = Spent { prompt: 5_000, beyond: 4_000, ..Spent::default() };
        assert_eq!(spent.tokens(), 5_000);
        assert!(spent.passed(&limits()).is_ok());
        assert_eq!(spent.reserve(&limits(), 0, 600, (2_000, 0), None).unwrap().completion, 400);
        assert_eq!(spent.reserve(&limits(), 0, 900, (2_000, 0), None).unwrap_err().what, "tokens");
        let more = Spent { beyond: 5_001, ..spent };
        assert!(more.tokens() <= 10_000 && more.passed(&limits()).unwrap_err().spent.contains("5001 more"));
        let dear = Spent { cost: 1, cost_beyond: UNIT, ..Spent::default() };
        assert_eq!(dear.passed(&Limits { cost: Some(UNIT), ..limits() }).unwrap_err().what, "cost");
    }

    #[test]
    fn a_count_that_an_answers_length_contradicts_is_none() {
        for (counted, bytes, allowed, want) in [
            (100, 300, 200, (100, true)),
            (0, 0, 200, (0, true)),
            (0, 300, 200, (100, false)),
            (1, 3_000, 200, (200, false)),
            (187, 3_000, 200, (200, false)),
            (188, 3_000, 200, (188, true)),
            // So many bytes are more than 200 tokens.
            (1, 3_300, 200, (1_100, false)),
            (u64::MAX, 1, 200, (u64::MAX, true)),
        ] {
            assert_eq!(tokens_of_answer(counted, bytes, allowed), want, "{counted} of {bytes}");
        }
    }

    /// One token was believed of a prompt of any length, so that a budget of tokens had no end.
    #[test]
    fn a_count_that_a_prompts_length_contradicts_is_none() {
        for (counted, bytes, want) in [
            (1, 16, (1, true)),
            (1, 17, (500, false)),
            (99, 1_600, (500, false)),
            (100, 1_600, (100, true)),
            (0, 0, (500, false)),
        ] {
            assert_eq!(tokens_of_prompt(counted, bytes, 500), want, "{counted} of {bytes}");
        }
    }

    #[test]
    fn the_gauge_learns_from_the_server() {
        let mut gauge = Gauge::default();
        assert_eq!(gauge.tokens(300), 116);
        gauge.saw(50, 200);
        assert_eq!(gauge.tokens(400), 126);
        gauge.saw(1, 200);
        assert_eq!(gauge.tokens(400), 126, "a count that was higher is not forgotten");
        gauge.saw(u64::MAX, 1);
        assert_eq!(gauge.tokens(u64::MAX), u64::MAX);
    }
}
