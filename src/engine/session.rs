use std::sync::Arc;

use crate::backend::executor::Executor;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::plan::{Numerics, Plan, PlanOptions};

crate::codes! {
    TOKEN_RANGE: "token-range", Usage, "A token id is not in the model's vocabulary.";
    NO_TOKENS: "no-tokens", Usage, "A prefill needs at least one token.";
}

/// What a session is sized for.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    pub numerics: Numerics,
    /// Most tokens of one step.
    pub chunk: usize,
    /// Positions that the caches hold.
    pub context: usize,
    /// Logits of every position, not of the last alone.
    pub all_logits: bool,
}

/// One sequence: its caches and its position.
pub struct Session<'m> {
    model: &'m Model,
    pub executor: Executor<'m>,
    options: SessionOptions,
    position: usize,
}

impl<'m> Session<'m> {
    pub fn new(model: &'m Model, options: SessionOptions) -> Result<Session<'m>> {
        let chunk = options.chunk.min(options.context);
        let max_outputs = if options.all_logits { chunk } else { 1 };
        let plan = Plan::build(
            model,
            PlanOptions { numerics: options.numerics, max_tokens: chunk, max_outputs, context: options.context },
        )?;
        let options = SessionOptions { chunk, ..options };
        Ok(Session { model, executor: Executor::new(model, Arc::new(plan)), options, position: 0 })
    }

    pub fn position(&self) -> usize {
        self.position
    }

    /// Forgets the sequence.
    pub fn reset(&mut self) {
        self.executor.reset();
        self.position = 0;
    }

    /// Feeds tokens in chunks from the current position on. Returns logits [vocab] of the last token, or [n, vocab]
    /// when the session was made for all of them. One token is a decode step.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        if tokens.is_empty() {
            return Err(Error::new(&NO_TOKENS, "no tokens were given").hint("give --tokens, --tokens-file or -p"));
        }
        let vocab = self.model.config.vocab;
        if let Some((i, t)) = tokens.iter().enumerate().find(|(_, t)| **t as usize >= vocab) {
            return Err(Error::new(&TOKEN_RANGE, format!("token {i} is no id of this model"))
                .expected(format!("ids below {vocab}"))
                .found(t));
        }
        let mut all = Vec::new();
        for chunk in tokens.chunks(self.options.chunk) {
            let outputs = if self.options.all_logits { chunk.len() } else { 1 };
            let step = self.executor.plan().step(chunk.len(), self.position, outputs)?;
            let ids: Vec<i32> = chunk.iter().map(|t| *t as i32).collect();
            self.executor.run(&step, &ids)?;
            self.position += chunk.len();
            if !self.options.all_logits {
                all.clear();
            }
            all.extend_from_slice(self.executor.logits(&step)?);
        }
        Ok(all)
    }
}

/// Index of the largest value; the lower index wins a tie. `None` when there is a NaN, or nothing.
pub fn argmax(logits: &[f32]) -> Option<usize> {
    let mut best = None;
    for (i, v) in logits.iter().enumerate() {
        if v.is_nan() {
            return None;
        }
        if best.is_none_or(|b: usize| *v > logits[b]) {
            best = Some(i);
        }
    }
    best
}
