use std::io::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::json;

use super::compare::Compare;
use super::interrupt::Interrupt;
use super::seat::{Backend, Seat, Terms};
use super::standing::verified;
use super::{ModelArg, output};
use crate::backend::Placement;
use crate::engine::{Generation, Sampler, Sampling, Session, SessionOptions, Stop, generate, values};
use crate::error::{Error, Kind, Result};
use crate::model::chat::{Conversation, Thinking};
use crate::model::{Model, Tokenizer};
use crate::plan::Numerics;
use crate::words::count;

/// Generate text
///
/// The prompt goes in as a user's turn, the answer streams to stdout, everything else to stderr.
///
/// The likeliest token is taken unless a temperature is given, so that the same command gives the same text. Upstream's
/// own defaults are --temperature 1 --top-p 1 --min-p 0.05.
#[derive(clap::Args)]
pub struct Run {
    #[command(flatten)]
    pub model: ModelArg,
    /// The user's turn
    #[arg(short = 'p', long = "prompt", value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// System text in front of it
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Let the model think first; its thoughts are streamed too
    #[arg(long)]
    think: bool,
    /// Most tokens to generate
    #[arg(short = 'n', long = "max-tokens", default_value_t = 256, value_name = "MAX")]
    most: usize,
    /// Positions that the caches hold [default: prompt and MAX tokens]
    #[arg(long, value_name = "N")]
    ctx: Option<usize>,
    /// Most tokens of one step of the prefill
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = chunk)]
    chunk: usize,
    /// Where to run
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    #[command(flatten)]
    terms: Terms,
    /// Which of the model's own roundings are applied
    #[arg(long, value_enum, default_value_t = Numerics::Ds4)]
    pub numerics: Numerics,
    /// 0 takes the likeliest token every time
    #[arg(long, default_value_t = 0.0, value_name = "T", allow_negative_numbers = true)]
    temperature: f64,
    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 1.0, value_name = "P", allow_negative_numbers = true)]
    top_p: f64,
    /// Leave out tokens less likely than this times the likeliest
    #[arg(long, default_value_t = 0.0, value_name = "P", allow_negative_numbers = true)]
    min_p: f64,
    /// Seed of the draws; the same seed gives the same text [default: random, and printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Instead of text: the prompt's prefill on two backends, op by op, and the first op that is wrong
    ///
    /// Every output that a kernel wrote is judged on the inputs that it got, by the tolerance of `verify`: exit code 1 if
    /// one is beyond it, or is no number (schema assay.compare/1).
    #[arg(long, num_args = 2, value_names = ["a=BACKEND", "b=BACKEND"], conflicts_with = "backend")]
    compare: Option<Vec<String>>,
    /// With --compare: the layers to compare, e.g. 0-2 or 5 [default: all, with embedding and head]
    #[arg(long, value_name = "FIRST-LAST", requires = "compare")]
    layers: Option<String>,
    /// Instead of text: the prompt's prefill op by op, with the size of the residual streams behind every layer and the
    /// first value that is no number
    #[arg(long, conflicts_with = "compare")]
    trace_values: bool,
    /// Print one JSON object when all is done (schema assay.run/1)
    #[arg(long)]
    pub json: bool,
}

/// Most tokens of one step.
pub fn chunk(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("a step takes at least 1 token".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("expected a number of tokens, 1 or more".into()),
    }
}

impl Run {
    pub fn run(&self) -> Result<u8> {
        if self.prompt.trim().is_empty() {
            return Err(Error::usage("the prompt is empty")
                .expected("-p TEXT, what the user says")
                .hint("assay logits -p '' computes what follows no text at all"));
        }
        let interrupt = Interrupt::watch(self.json);
        let model = self.model.open()?;
        let tokenizer = Tokenizer::from_gguf(&model.gguf)?;
        let mut conversation = Conversation::ask(&self.prompt);
        conversation.system.extend(self.system.clone());
        let thinking = if self.think { Thinking::On } else { Thinking::Off };
        let prompt = conversation.prompt(&tokenizer, thinking)?;
        if let Some(sides) = &self.compare {
            let (chunk, context) = (self.chunk.min(prompt.len()), prompt.len());
            let options = SessionOptions { numerics: self.numerics, chunk, context, all_logits: false };
            let compare = Compare::new(sides, self.layers.as_deref(), &model)?;
            return compare.run(&model, &prompt, options, self.terms, self.json);
        }
        let context = self.context(&model, prompt.len())?;
        let seat = Seat::take(self.backend, self.terms.at_least(prompt.len()))?;
        let chunk = self.chunk.min(prompt.len());
        let options = SessionOptions { numerics: self.numerics, chunk, context, all_logits: false };
        let mut session = Session::new(&model, options)?;
        if self.trace_values {
            seat.attach(&mut session)?;
            return values(&mut session, &prompt, &seat, self.json);
        }
        let sampling = self.sampling()?;
        let mut sampler = Sampler::new(sampling)?;
        seat.attach(&mut session)?;
        let (mut stream, mut text) = (tokenizer.decode_stream(), String::new());
        let mut emit = |token: u32| {
            interrupt.hold();
            let piece = stream.push(token);
            text.push_str(&piece);
            let read = self.json || output::piece(&piece)?;
            Ok(if interrupt.came() || !read { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        let stops = tokenizer.stop_tokens();
        let generation = generate(&mut session, &mut sampler, &prompt, &stops, self.most, &mut emit)?;
        let rest = stream.finish();
        text.push_str(&rest);
        if self.json {
            output::json("assay.run/1", self.document(&generation, &text, &model, &seat, &mut session, sampling))?;
        } else {
            output::println(rest)?;
            self.account(&generation, &model, &seat, &mut session, sampling);
        }
        Ok(if generation.stop == Stop::Caller && interrupt.came() { Kind::Interrupted.exit_code() } else { 0 })
    }

    fn context(&self, model: &Model, prompt: usize) -> Result<usize> {
        let most = model.config.longest_context();
        if prompt > most {
            return Err(Error::usage("the prompt is longer than the model's context")
                .expected(format!("at most {most} tokens"))
                .found(prompt));
        }
        let context = self.ctx.unwrap_or_else(|| prompt.saturating_add(self.most).min(most));
        if context > most || context < prompt {
            return Err(Error::usage("the context does not hold this run")
                .expected(format!("--ctx {prompt} (the prompt) to {most} (the model's own)"))
                .found(context));
        }
        Ok(context)
    }

    fn sampling(&self) -> Result<Sampling> {
        let seed = match self.seed {
            Some(seed) => seed,
            None if self.temperature == 0.0 => 0,
            None => getrandom::u64().map_err(|e| Error::internal(format!("no random numbers: {e}")))?,
        };
        Ok(Sampling { temperature: self.temperature, top_p: self.top_p, min_p: self.min_p, seed })
    }

    fn document(
        &self,
        g: &Generation,
        text: &str,
        model: &Model,
        seat: &Seat,
        session: &mut Session<'_>,
        sampling: Sampling,
    ) -> serde_json::Value {
        json!({
            "numerics": self.numerics,
            "placement": seat.json(session.tally()),
            "verified": verified(model, self.numerics, session.tally()),
            "prompt_tokens": g.prompt,
            "text": text,
            "tokens": g.tokens,
            "stop": g.stop,
            "sampling": sampling,
            "prefill_seconds": g.prefill.as_secs_f64(),
            "decode_steps": g.steps,
            "decode_seconds": g.decode.as_secs_f64(),
        })
    }

    /// What is said on stderr when the text is out.
    fn account(&self, g: &Generation, model: &Model, seat: &Seat, session: &mut Session<'_>, sampling: Sampling) {
        let mut err = anstream::stderr();
        let _ = writeln!(err, "\n{} numerics, {}", self.numerics.name(), seat.sentence(session.tally()));
        let _ = writeln!(
            err,
            "prefill {}, {}; decode {}, {}; stopped: {}",
            count(g.prompt, "token"),
            rate(g.prompt, g.prefill),
            count(g.steps, "step"),
            rate(g.steps, g.decode),
            g.stop.describe()
        );
        if sampling.temperature > 0.0 {
            let _ = writeln!(err, "drawn with --seed {}", sampling.seed);
        }
        let _ = writeln!(err, "{}", verified(model, self.numerics, session.tally()));
    }
}

/// `--trace-values`.
fn values(session: &mut Session<'_>, prompt: &[u32], seat: &Seat, json: bool) -> Result<u8> {
    let trace = values::trace(session, prompt)?;
    if json {
        let document = json!({ "backend": seat.placement(), "tokens": prompt.len(), "trace": trace });
        output::json("assay.trace-values/1", document)?;
        if let Some(bad) = &trace.not_finite {
            output::error(&bad.error());
        }
        return Ok(u8::from(trace.not_finite.is_some()));
    }
    let place = match seat.placement() {
        Placement::Device => "the device",
        Placement::Emulator => "the emulator",
        Placement::Oracle => "the oracle",
    };
    output::println(format_args!(
        "prefill of {} on {place}, {} looked at: root mean square of the residual streams\n",
        count(prompt.len(), "token"),
        count(trace.instances, "op instance"),
    ))?;
    let mut table = output::table(&["behind", "rms", "growth", "by stream", "largest", "token, stream, element"]);
    for r in &trace.residuals {
        let streams: Vec<String> = r.streams.iter().map(|s| format!("{s:.3}")).collect();
        table.add_row([
            r.instance.clone(),
            format!("{:.4}", r.rms),
            format!("{:.3}", r.growth),
            streams.join(" "),
            format!("{:.2}", r.largest),
            format!("{}, {}, {}", r.at[0], r.at[1], r.at[2]),
        ]);
    }
    output::print(output::rows(&table))?;
    match &trace.not_finite {
        None => Ok(0),
        Some(bad) => Err(bad.error()),
    }
}

fn rate(tokens: usize, time: Duration) -> String {
    format!("{:.2} s, {:.1} tokens/s", time.as_secs_f64(), tokens as f64 / time.as_secs_f64().max(1e-9))
}
