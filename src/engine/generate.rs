use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Sampler, Session};
use crate::error::Result;
use crate::words::count;

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The model ended its turn.
    EndOfText,
    /// As many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
    /// The caller's function said so.
    Caller,
}

impl Stop {
    pub fn describe(self) -> &'static str {
        match self {
            Stop::EndOfText => "the model ended its turn",
            Stop::Length => "as many tokens as asked for",
            Stop::Context => "the context is full",
            Stop::Caller => "interrupted",
        }
    }
}

/// What came out, and how long it took.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Without the token that ended it.
    pub tokens: Vec<u32>,
    pub stop: Stop,
    pub prompt: usize,
    pub prefill: Duration,
    /// Decode steps that ran: the last token picked is fed to none.
    pub steps: usize,
    pub decode: Duration,
}

/// Feeds `prompt`, then picks and feeds tokens until one of `stops` comes, `most` are picked, the context is full, or
/// `emit`, which gets every token, breaks off.
pub fn generate(
    session: &mut Session<'_>,
    sampler: &mut Sampler,
    prompt: &[u32],
    stops: &[u32],
    most: usize,
    emit: &mut dyn FnMut(u32) -> Result<ControlFlow<()>>,
) -> Result<Generation> {
    let started = Instant::now();
    session.advance(prompt)?;
    let (prefill, decoding) = (started.elapsed(), Instant::now());
    let mut out = Generation {
        tokens: Vec::new(),
        stop: Stop::Length,
        prompt: prompt.len(),
        prefill,
        steps: 0,
        decode: Duration::ZERO,
    };
    while out.tokens.len() < most {
        let token = sampler.pick(session.logits()?).map_err(|e| match out.steps {
            0 => e,
            n => e.about(format_args!("{} after the prompt", count(n, "token"))).hint(
                "the prompt's prefill is in order, which is all that --compare shows: assay verify judges every kernel",
            ),
        })?;
        if stops.contains(&token) {
            out.stop = Stop::EndOfText;
            break;
        }
        out.tokens.push(token);
        if emit(token)?.is_break() {
            out.stop = Stop::Caller;
            break;
        }
        if out.tokens.len() == most {
            break;
        }
        if session.position() == session.context() {
            out.stop = Stop::Context;
            break;
        }
        session.advance(&[token])?;
        out.steps += 1;
    }
    out.decode = decoding.elapsed();
    Ok(out)
}
