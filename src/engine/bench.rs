//! How fast a session is: prefills and decodes of random tokens, by the wall clock and by the device's own.

use std::time::Instant;

use serde::Serialize;

use super::Session;
use crate::error::{Error, Result};
use crate::plan::{Instance, StepField, StepState};

/// What one line of a benchmark measures, in llama-bench's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// `ppN`: N tokens from an empty cache, or behind `depth` others.
    Prefill { tokens: usize, depth: usize },
    /// `tgN`: N single tokens behind `depth` others.
    Decode { tokens: usize, depth: usize },
}

impl Test {
    pub fn tokens(self) -> usize {
        match self {
            Test::Prefill { tokens, .. } | Test::Decode { tokens, .. } => tokens,
        }
    }

    pub fn depth(self) -> usize {
        match self {
            Test::Prefill { depth, .. } | Test::Decode { depth, .. } => depth,
        }
    }

    /// `pp512`, `tg128@d2048`: without blanks, as the ledger and a column of a table name it.
    pub fn name(self) -> String {
        let (kind, n) = match self {
            Test::Prefill { tokens, .. } => ("pp", tokens),
            Test::Decode { tokens, .. } => ("tg", tokens),
        };
        match self.depth() {
            0 => format!("{kind}{n}"),
            depth => format!("{kind}{n}@d{depth}"),
        }
    }
}

/// One test's repetitions.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub test: Test,
    /// Seconds of each repetition by the wall clock: with everything that a user waits for.
    pub seconds: Vec<f64>,
    /// Milliseconds that the device was at it in each repetition. Steps that were not replayed as graphs are left out, and
    /// repetitions in which none was.
    pub device_ms: Vec<f64>,
    /// Bytes of weights and caches that a token reads at least, and floating-point operations that it takes, on average
    /// over the test.
    pub bytes_per_token: f64,
    pub flops_per_token: f64,
}

impl Measured {
    /// Tokens per second: mean and standard deviation over the repetitions.
    pub fn rate(&self) -> (f64, f64) {
        let rates: Vec<f64> = self.seconds.iter().map(|s| self.test.tokens() as f64 / s).collect();
        let n = rates.len() as f64;
        let mean = rates.iter().sum::<f64>() / n;
        let squares: f64 = rates.iter().map(|r| (r - mean).powi(2)).sum();
        (mean, if rates.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
    }

    /// Milliseconds a repetition that the device was at it, on average; `None` where no device's clock told.
    pub fn mean_device_ms(&self) -> Option<f64> {
        let n = self.device_ms.len();
        (n > 0).then(|| self.device_ms.iter().sum::<f64>() / n as f64)
    }
}

/// Runs a test: once unmeasured, so that every graph is recorded, then `repetitions` times from the same state.
pub fn measure(session: &mut Session<'_>, test: Test, repetitions: usize) -> Result<Measured> {
    let tokens = arbitrary(session, test.depth() + test.tokens());
    let (before, mine) = tokens.split_at(test.depth());
    session.reset();
    if !before.is_empty() {
        session.advance(before)?;
    }
    let saved = session.save()?;
    let (mut seconds, mut device_ms) = (Vec::new(), Vec::new());
    for repetition in 0..=repetitions {
        session.restore(&saved)?;
        session.device_ms()?;
        let started = Instant::now();
        match test {
            Test::Prefill { .. } => {
                session.advance(mine)?;
            }
            Test::Decode { .. } => {
                for token in mine {
                    session.advance(std::slice::from_ref(token))?;
                }
            }
        }
        if repetition > 0 {
            seconds.push(started.elapsed().as_secs_f64());
            device_ms.extend(session.device_ms()?);
        }
    }
    session.discard(saved)?;
    let (bytes_per_token, flops_per_token) = work(session, test)?;
    Ok(Measured { test, seconds, device_ms, bytes_per_token, flops_per_token })
}

/// The same ids in every run.
pub(super) fn arbitrary(session: &Session<'_>, n: usize) -> Vec<u32> {
    let vocab = session.vocab() as u64;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab) as u32
    };
    (0..n).map(|_| next()).collect()
}

/// Bytes and floating-point operations of a token, on average over the test's steps.
fn work(session: &Session<'_>, test: Test) -> Result<(f64, f64)> {
    let plan = session.executor.plan();
    let (mut bytes, mut flops, mut fed) = (0.0, 0.0, 0usize);
    let chunk = match test {
        Test::Prefill { .. } => session.chunk(),
        Test::Decode { .. } => 1,
    };
    while fed < test.tokens() {
        let n = chunk.min(test.tokens() - fed);
        let step = plan.step(n, test.depth() + fed, 1)?;
        for (_, instance) in plan.active(&step) {
            let (mine, ops) = work_of(session, instance, &step)?;
            bytes += mine;
            flops += ops;
        }
        fed += n;
    }
    Ok((bytes / test.tokens() as f64, flops / test.tokens() as f64))
}

/// Bytes of weights and caches that an instance reads at least in a step, and its floating-point operations.
pub(super) fn work_of(session: &Session<'_>, instance: &Instance, step: &StepState) -> Result<(f64, f64)> {
    let tokens = step.get(StepField::NTokens).max(0) as usize;
    let bytes = weight_bytes(session, instance, tokens)? + cache_bytes(instance, step);
    Ok((bytes, 2.0 * instance.op.macs(&seen(instance, step), rows(instance, step)) as f64))
}

/// Rows that an instance works on in a step.
fn rows(instance: &Instance, step: &StepState) -> usize {
    let contract = instance.contract();
    let row = contract.steps.iter().position(|s| matches!(*s, "T" | "R")).map(|i| step.get(instance.steps[i]));
    row.map_or(1, |n| n.max(0) as usize)
}

/// An instance's dims with the compressed rows that the step's middle token sees in place of those that fit.
fn seen(instance: &Instance, step: &StepState) -> Vec<i64> {
    let contract = instance.contract();
    let mut dims = instance.dims.clone();
    let ratio = contract.dims.iter().position(|d| *d == "ratio").map_or(4, |i| dims[i].max(1));
    let position = i64::from(step.0[1]) + i64::from(step.0[0]) / 2;
    let reads_rows = contract.op.starts_with("attention") || contract.op.starts_with("indexer");
    if let (true, Some(c)) = (reads_rows, contract.dims.iter().position(|d| *d == "C")) {
        dims[c] = dims[c].min((position + 1) / ratio);
        if let Some(k) = contract.dims.iter().position(|d| *d == "k") {
            dims[k] = dims[k].min(dims[c]);
        }
    }
    dims
}

/// A step reads every weight once; of the experts those that its tokens can have chosen.
pub(super) fn weight_bytes(session: &Session<'_>, instance: &Instance, tokens: usize) -> Result<f64> {
    let contract = instance.contract();
    let dim = |name: &str| contract.dims.iter().position(|d| *d == name).map(|i| instance.dims[i] as f64);
    let share = match (contract.op, dim("E"), dim("U"), dim("V")) {
        ("moe_gate_up" | "moe_down", Some(e), Some(u), _) => (tokens as f64 * u / e).min(1.0),
        ("embed" | "router_hash", _, _, Some(v)) => (tokens as f64 / v).min(1.0),
        _ => 1.0,
    };
    let mut bytes = 0.0;
    for name in instance.weights.iter().flatten() {
        bytes += session.tensor_bytes(name)? as f64;
    }
    Ok(bytes * share)
}

/// Rows of caches that attention and indexer read, once a step.
fn cache_bytes(instance: &Instance, step: &StepState) -> f64 {
    let contract = instance.contract();
    let dims = seen(instance, step);
    let dim = |name: &str| contract.dims.iter().position(|d| *d == name).map(|i| dims[i] as f64);
    let width = dim("D").unwrap_or(0.0) * 4.0;
    let tokens = rows(instance, step) as f64;
    let window = dim("window").map_or(0.0, |w| (w + tokens).min(f64::from(step.0[1]) + tokens));
    let all = dim("C").unwrap_or(0.0);
    match contract.op {
        "attention_raw" => window * width,
        "attention_mixed" => (window + all) * width,
        "attention_indexed" => (window + (tokens * dim("k").unwrap_or(0.0)).min(all)) * width,
        "indexer_scores" => all * width,
        _ => 0.0,
    }
}

/// Bytes a second that the device copies, read and written, over a buffer far larger than its caches. `None` where the
/// model leaves no room for two such buffers.
pub fn copy_rate(session: &mut Session<'_>) -> Result<Option<f64>> {
    const BYTES: u64 = 1 << 29;
    const TIMES: u32 = 16;
    let device =
        session.executor.device_mut().ok_or_else(|| Error::internal("a copy rate was asked for without a device"))?;
    if device.free_memory()? < 3 * BYTES {
        return Ok(None);
    }
    let (from, to) = (device.alloc(BYTES)?, device.alloc(BYTES)?);
    device.fill(from, 0)?;
    device.copy(from, to, BYTES)?;
    device.sync()?;
    let started = Instant::now();
    for _ in 0..TIMES {
        device.copy(from, to, BYTES)?;
    }
    device.sync()?;
    let seconds = started.elapsed().as_secs_f64();
    device.free(from)?;
    device.free(to)?;
    Ok(Some(2.0 * BYTES as f64 * f64::from(TIMES) / seconds))
}
