use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Seating, Tally, fit};
use crate::backend::executor::{self, Executor, Loaded, Timed};
use crate::backend::{Device, Module};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::Node;
use crate::ops::cases::STEP_TOKENS;
use crate::plan::source::SourceSet;
use crate::plan::{Numerics, Plan, PlanOptions, StepState};
use crate::words::count;

crate::codes! {
    TOKEN_RANGE: "token-range", Usage, "A token id is not in the model's vocabulary.";
    CHUNK: "chunk", Usage, "A step of more tokens than any kernel was judged with.";
    NO_TOKENS: "no-tokens", Usage, "A prefill needs at least one token.";
    LOGITS_NAN: "logits-nan", No, "The model's last layer gave a NaN. On the oracle that means weights that are no numbers; \
        with kernels, a kernel that is wrong. `assay run --compare` runs the prompt on two backends and names the op whose \
        outputs are no numbers first, with the coordinate and what the oracle has there.";
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

/// A sequence's caches and position, to go back to.
pub struct Saved {
    caches: executor::Saved,
    position: usize,
}

/// One sequence: its caches and its position.
pub struct Session<'m> {
    model: &'m Model,
    pub executor: Executor<'m>,
    options: SessionOptions,
    position: usize,
    tally: Tally,
    /// Token ids as the executor takes them; kept for its memory.
    ids: Vec<i32>,
    /// The step that ran last.
    last: Option<StepState>,
}

impl<'m> Session<'m> {
    pub fn new(model: &'m Model, options: SessionOptions) -> Result<Session<'m>> {
        let chunk = options.chunk.min(options.context);
        if chunk > STEP_TOKENS {
            return Err(Error::new(&CHUNK, "the chunk is too long: kernels are not judged on such steps")
                .expected(format!("at most {STEP_TOKENS} tokens"))
                .found(chunk)
                .hint(format!("give --chunk {STEP_TOKENS} or less; a prompt of any length is fed in chunks")));
        }
        let max_outputs = if options.all_logits { chunk } else { 1 };
        let plan = Plan::build(
            model,
            PlanOptions { numerics: options.numerics, max_tokens: chunk, max_outputs, context: options.context },
        )?;
        let options = SessionOptions { chunk, ..options };
        Ok(Session {
            model,
            executor: Executor::new(model, Arc::new(plan)),
            options,
            position: 0,
            tally: Tally::default(),
            ids: Vec::new(),
            last: None,
        })
    }

    /// Tokens fed so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Positions that the caches hold.
    pub fn context(&self) -> usize {
        self.options.context
    }

    /// Where everything ran so far.
    pub fn tally(&mut self) -> &Tally {
        for (ran, times) in self.executor.take_replays() {
            self.tally.add(self.executor.plan(), &ran, times);
        }
        &self.tally
    }

    /// Puts every node that has a kernel on `device`. Refuses a plan with a node that has none, unless those may run on
    /// the oracle, and one that does not fit the device's memory. Kernels are compiled side by side. Returns the nodes
    /// that will run on the oracle.
    pub fn attach(
        &mut self,
        seating: &Seating<'_>,
        mut device: Box<dyn Device>,
        build: &(dyn Fn(&SourceSet, &[String]) -> Result<Module> + Sync),
    ) -> Result<Vec<Node>> {
        let plan = self.executor.plan().clone();
        let schedules = seating.schedules(&plan)?;
        let missing = fit::missing(&plan, &schedules);
        if !missing.is_empty() && !seating.allow_oracle {
            return Err(fit::refuse(self.model, &plan, seating.arch, &missing));
        }
        let missing: Vec<Node> = missing.into_keys().cloned().collect();
        let free = device.free_memory()?;
        let info = device.info().clone();
        let name = fit::title(info.placement, &info.name);
        seating.check_memory(self.model, &plan, &schedules, free, name)?;
        // Of several nodes' kernel the first tells where in the model it is missed.
        let mut homes: BTreeMap<String, String> = BTreeMap::new();
        for (choice, i) in schedules.iter().flat_map(|s| s.choices.iter().zip(&plan.instances)) {
            if let Some(choice) = choice {
                homes.entry(choice.stem.clone()).or_insert_with(|| format!("{}, {}", i.node, i.label));
            }
        }
        let module = |stem: &str, entries: &[String]| {
            let source = seating.tree.source_of(stem);
            build(&source.map_err(|e| e.about(homes.get(stem).map_or(stem, String::as_str)))?, entries)
        };
        self.executor.attach_all(device, schedules, module, |_| true)?;
        self.tally.arch = Some(seating.arch.to_string());
        Ok(missing)
    }

    /// Loads weights and allocates memory before the first step. Nothing to do without a device.
    pub fn load(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<Loaded>> {
        if self.executor.device_mut().is_none() {
            return Ok(None);
        }
        self.executor.load(progress).map(Some)
    }

    /// Forgets the sequence.
    pub fn reset(&mut self) {
        self.last = None;
        self.executor.reset();
        self.position = 0;
    }

    /// Feeds tokens in chunks from the current position on. Returns logits [vocab] of the last token, or [n, vocab]
    /// when the session was made for all of them. One token is a decode step.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        if !self.options.all_logits {
            return Ok(self.advance(tokens)?.to_vec());
        }
        self.check(tokens)?;
        let mut all = Vec::new();
        for chunk in tokens.chunks(self.options.chunk) {
            let step = self.chunk_step(chunk, chunk.len(), true)?;
            all.extend_from_slice(self.executor.logits(&step)?);
        }
        Ok(all)
    }

    /// The same, with the logits of the last token where the executor has them. Nothing is read back from a device but
    /// these, and nothing in earlier chunks.
    pub fn advance(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        self.check(tokens)?;
        let last = (tokens.len() - 1) / self.options.chunk;
        for (i, chunk) in tokens.chunks(self.options.chunk).enumerate() {
            self.chunk_step(chunk, 1, i == last)?;
        }
        self.logits()
    }

    /// The logits that the last step gave.
    pub fn logits(&mut self) -> Result<&[f32]> {
        let step =
            self.last.ok_or_else(|| Error::internal("logits were asked for, and no step led to this position"))?;
        self.executor.logits(&step)
    }

    fn chunk_step(&mut self, chunk: &[u32], outputs: usize, logits: bool) -> Result<StepState> {
        let step = self.executor.plan().step(chunk.len(), self.position, outputs)?;
        self.ids.clear();
        self.ids.extend(chunk.iter().map(|t| *t as i32));
        // Text of weights that are in no file any more is nobody's: it ends here, whatever ran it.
        self.model.gguf.check_unchanged()?;
        let ran = if logits {
            self.executor.run_to_logits(&step, &self.ids).map(drop)
        } else {
            self.executor.run(&step, &self.ids)
        };
        ran.map_err(|e| e.about(format_args!("{} at position {}", count(chunk.len(), "token"), self.position)))?;
        // What the oracle computes it reads from the map, during the step.
        if self.executor.uses_oracle() {
            self.model.gguf.check_unchanged()?;
        }
        let ran = self.executor.take_trace();
        self.tally.add(self.executor.plan(), &ran, 1);
        self.position += chunk.len();
        self.last = Some(step);
        Ok(step)
    }

    /// Keeps a copy of the sequence as it is now: its caches, where they are, and its position.
    pub fn save(&mut self) -> Result<Saved> {
        Ok(Saved { caches: self.executor.save()?, position: self.position })
    }

    /// Goes back to a saved sequence, as often as wanted. Its logits are gone: those that the executor has are of another
    /// position.
    pub fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.last = None;
        self.executor.restore(&saved.caches)?;
        self.position = saved.position;
        Ok(())
    }

    /// Gives a saved sequence's memory back.
    pub fn discard(&mut self, saved: Saved) -> Result<()> {
        self.executor.discard(saved.caches)
    }

    /// Milliseconds that the device was at graphs since the last call; `None` where none was replayed.
    pub fn device_ms(&mut self) -> Result<Option<f64>> {
        let ms = self.executor.device_mut().map_or(Ok(0.0), |d| d.replayed_ms())?;
        Ok((ms > 0.0).then_some(ms))
    }

    /// Every launch of one step over `tokens` with its time; the sequence is not to be continued.
    pub fn time_each(&mut self, tokens: &[u32]) -> Result<Vec<Timed>> {
        self.check(tokens)?;
        let step = self.executor.plan().step(tokens.len(), self.position, 1)?;
        let ids: Vec<i32> = tokens.iter().map(|t| *t as i32).collect();
        self.executor.time_each(&step, &ids)
    }

    /// Most tokens of one step.
    pub fn chunk(&self) -> usize {
        self.options.chunk
    }

    pub fn model(&self) -> &'m Model {
        self.model
    }

    pub fn vocab(&self) -> usize {
        self.model.config.vocab
    }

    /// Bytes of a tensor of the model.
    pub fn tensor_bytes(&self, name: &str) -> Result<usize> {
        let tensor = self.model.tensor(name).ok_or_else(|| Error::internal(format!("no tensor {name}")))?;
        Ok(tensor.bytes.len())
    }

    /// Sets up one step over all of `tokens`, for callers that then run it instance by instance.
    pub fn begin(&mut self, tokens: &[u32]) -> Result<StepState> {
        self.check(tokens)?;
        self.model.gguf.check_unchanged()?;
        let step = self.executor.plan().step(tokens.len(), self.position, 1)?;
        let ids: Vec<i32> = tokens.iter().map(|t| *t as i32).collect();
        self.executor.set_tokens(&ids);
        Ok(step)
    }

    /// The step that was begun is over.
    pub fn end(&mut self, tokens: usize) {
        self.position += tokens;
    }

    /// Refuses tokens that the model does not have, and none at all.
    pub fn check(&self, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::new(&NO_TOKENS, "no tokens were given").hint("give --tokens, --tokens-file or -p"));
        }
        let vocab = self.model.config.vocab;
        match tokens.iter().enumerate().find(|(_, t)| **t as usize >= vocab) {
            None => Ok(()),
            Some((i, t)) => Err(Error::new(&TOKEN_RANGE, format!("this model has no token {t}"))
                .expected(format!("ids below {vocab}"))
                .found(format!("{t}, behind {}", count(i, "token")))),
        }
    }
}

/// Index of the largest value; the lower index wins a tie. `None` when there is a NaN, or nothing.
pub fn argmax(logits: &[f32]) -> Option<usize> {
    // Side by side, as a vocabulary's worth for every token of a text wants it.
    let (mut most, mut nan) = ([f32::NEG_INFINITY; 16], [false; 16]);
    for values in logits.chunks(16) {
        for ((most, nan), v) in most.iter_mut().zip(&mut nan).zip(values) {
            *most = if *v > *most { *v } else { *most };
            *nan |= v.is_nan();
        }
    }
    let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if nan.contains(&true) { None } else { logits.iter().position(|v| *v == most) }
}
