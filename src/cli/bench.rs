use serde_json::{Value, json};

use super::seat::{Backend, Seat, Terms};
use super::standing::verified;
use super::{ModelArg, output};
use crate::backend::Placement;
use crate::engine::bench::{self, Breakdown, Measured, Test};
use crate::engine::{Session, SessionOptions};
use crate::error::{Error, Result};
use crate::plan::Numerics;

/// Measures prefill and decode as llama-bench does: random tokens, one unmeasured run first, mean and standard
/// deviation of the repetitions.
#[derive(clap::Args)]
pub struct Bench {
    #[command(flatten)]
    model: ModelArg,
    /// Lengths of prefills, each a test `ppN`; 0 for none
    #[arg(short = 'p', long = "n-prompt", value_delimiter = ',', default_value = "512", value_name = "N,…")]
    prompts: Vec<usize>,
    /// Numbers of single tokens, each a test `tgN`; 0 for none
    #[arg(short = 'n', long = "n-gen", value_delimiter = ',', default_value = "128", value_name = "N,…")]
    generated: Vec<usize>,
    /// Tokens in the caches before a test starts
    #[arg(short = 'd', long = "n-depth", value_delimiter = ',', default_value = "0", value_name = "N,…")]
    depths: Vec<usize>,
    #[arg(short = 'r', long, default_value_t = 5, value_name = "N")]
    repetitions: usize,
    /// Most tokens of one step of a prefill
    #[arg(long, default_value_t = 2048, value_name = "N")]
    chunk: usize,
    #[arg(long, value_enum, default_value_t = Backend::Device)]
    backend: Backend,
    #[command(flatten)]
    terms: Terms,
    #[arg(long, value_enum, default_value_t = Numerics::Ds4)]
    numerics: Numerics,
    /// Also where a step's time goes, node by node
    #[arg(long)]
    per_node: bool,
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Md)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Md,
    Csv,
    Json,
    Jsonl,
}

/// What a device could do at best, for comparison.
struct Limits {
    name: String,
    /// Bytes a second that it copies, measured here.
    copy: Option<f64>,
    /// Dense f16 multiply-adds on its tensor cores, by its data sheet, floating-point operations a second.
    tensor: Option<f64>,
}

impl Bench {
    pub fn run(&self) -> Result<u8> {
        let tests = self.tests()?;
        let model = self.model.open()?;
        let copies = u64::from(self.depths.iter().any(|d| *d > 0));
        let seat = Seat::take(self.backend, self.terms.saving(copies))?;
        let context = tests.iter().map(|t| t.depth() + t.tokens()).max().unwrap_or(1);
        let chunk = self.chunk.clamp(1, context);
        let options = SessionOptions { numerics: self.numerics, chunk, context, all_logits: false };
        let mut session = Session::new(&model, options)?;
        seat.attach(&mut session)?;
        let limits = limits(&seat, &mut session)?;
        let (mut done, mut breakdowns) = (Vec::new(), Vec::new());
        for test in &tests {
            let measured = bench::measure(&mut session, *test, self.repetitions)?;
            if self.output == Format::Jsonl {
                output::println(self.row(&measured, &limits).to_string())?;
            }
            done.push(measured);
            if self.per_node && seat.placement() != Placement::Oracle {
                breakdowns.push(bench::per_node(&mut session, *test)?);
            }
        }
        match self.output {
            Format::Md => self.markdown(&done, &limits)?,
            Format::Csv => self.csv(&done, &limits)?,
            Format::Json => {
                let rows: Vec<Value> = done.iter().map(|m| self.row(m, &limits)).collect();
                let document = json!({
                    "model": model.path().display().to_string(),
                    "device": limits.name,
                    "copy_bytes_per_second": limits.copy,
                    "tensor_flops_per_second": limits.tensor,
                    "placement": seat.json(session.tally()),
                    "verified": verified(&model, self.numerics, session.tally()),
                    "tests": rows,
                    "per_node": breakdowns,
                });
                output::json("assay.bench/1", document)?;
            }
            Format::Jsonl => {}
        }
        if matches!(self.output, Format::Md | Format::Csv) {
            for b in &breakdowns {
                output::println(table(b))?;
            }
            anstream::eprintln!("{}", seat.sentence(session.tally()));
            anstream::eprintln!("{}", verified(&model, self.numerics, session.tally()));
        }
        Ok(0)
    }

    fn tests(&self) -> Result<Vec<Test>> {
        let mut tests = Vec::new();
        for depth in &self.depths {
            let depth = *depth;
            tests.extend(self.prompts.iter().filter(|n| **n > 0).map(|n| Test::Prefill { tokens: *n, depth }));
            tests.extend(self.generated.iter().filter(|n| **n > 0).map(|n| Test::Decode { tokens: *n, depth }));
        }
        if tests.is_empty() || self.repetitions == 0 {
            return Err(Error::usage("there is nothing to measure").hint("give -p N or -n N, and -r 1 or more"));
        }
        Ok(tests)
    }

    fn row(&self, m: &Measured, limits: &Limits) -> Value {
        let (rate, deviation) = m.rate();
        let share = |per_token: f64, limit: Option<f64>| limit.map(|l| per_token * rate / l);
        json!({
            "test": m.test.name(),
            "kind": m.test,
            "numerics": self.numerics,
            "chunk": self.chunk,
            "device": limits.name,
            "tokens_per_second": rate,
            "deviation": deviation,
            "seconds": m.seconds,
            "device_ms": m.device_ms,
            "warm_up_runs": 1,
            "bytes_per_token": m.bytes_per_token,
            "flops_per_token": m.flops_per_token,
            "share_of_copy_rate": share(m.bytes_per_token, limits.copy),
            "share_of_tensor_peak": share(m.flops_per_token, limits.tensor),
        })
    }

    fn markdown(&self, done: &[Measured], limits: &Limits) -> Result<()> {
        let percent = |v: Option<f64>| v.map_or("-".to_string(), |v| format!("{:.1} %", 100.0 * v));
        output::println(format!(
            "{}, {} numerics, chunk {}; {} repetitions after 1 unmeasured; copy {}, tensor f16 {}\n",
            limits.name,
            self.numerics.name(),
            self.chunk,
            self.repetitions,
            limits.copy.map_or("not measured".into(), |c| format!("{:.0} GB/s measured", c / 1e9)),
            limits.tensor.map_or("unknown".into(), |t| format!("{:.0} TFLOP/s by data sheet", t / 1e12)),
        ))?;
        output::println("| test | t/s | device ms | MB/token | GFLOP/token | of copy | of tensor peak |")?;
        output::println("|---|---:|---:|---:|---:|---:|---:|")?;
        for m in done {
            let (rate, deviation) = m.rate();
            let ms = m.device_ms.iter().sum::<f64>() / m.device_ms.len().max(1) as f64;
            output::println(format!(
                "| {} | {rate:.2} ± {deviation:.2} | {ms:.2} | {:.1} | {:.2} | {} | {} |",
                m.test.name(),
                m.bytes_per_token / 1e6,
                m.flops_per_token / 1e9,
                percent(limits.copy.map(|c| m.bytes_per_token * rate / c)),
                percent(limits.tensor.map(|t| m.flops_per_token * rate / t)),
            ))?;
        }
        Ok(())
    }

    fn csv(&self, done: &[Measured], limits: &Limits) -> Result<()> {
        output::println("test,tokens_per_second,deviation,device_ms,bytes_per_token,flops_per_token,device")?;
        for m in done {
            let (rate, deviation) = m.rate();
            let ms = m.device_ms.iter().sum::<f64>() / m.device_ms.len().max(1) as f64;
            output::println(format!(
                "{},{rate},{deviation},{ms},{},{},\"{}\"",
                m.test.name(),
                m.bytes_per_token,
                m.flops_per_token,
                limits.name
            ))?;
        }
        Ok(())
    }
}

/// Node by node; the last line is what the sum misses of the whole step, or has too much: launches timed one by one
/// have gaps that a graph has not.
fn table(b: &Breakdown) -> String {
    let sum: f64 = b.shares.iter().map(|s| s.ms).sum();
    let mut out = format!(
        "\n{}, one step as one graph: {:.3} ms\n\n| node | instances | ms | share |\n|---|---:|---:|---:|\n",
        b.test.name(),
        b.step_ms
    );
    for s in &b.shares {
        out += &format!("| {} | {} | {:.3} | {:.1} % |\n", s.node, s.instances, s.ms, 100.0 * s.ms / b.step_ms);
    }
    out +=
        &format!("| between launches | | {:.3} | {:.1} % |\n", b.step_ms - sum, 100.0 * (b.step_ms - sum) / b.step_ms);
    out
}

fn limits(seat: &Seat, session: &mut Session<'_>) -> Result<Limits> {
    if seat.placement() != Placement::Device {
        return Ok(Limits { name: format!("{:?}", seat.placement()).to_lowercase(), copy: None, tensor: None });
    }
    let copy = bench::copy_rate(session)?;
    let name = session.executor.device_mut().map_or_else(String::new, |d| d.info().name.clone());
    Ok(Limits { tensor: tensor_peak(&name), name, copy: Some(copy) })
}

/// Dense f16 with f32 sums, by the makers' data sheets.
fn tensor_peak(device: &str) -> Option<f64> {
    let peaks = [
        ("H200", 989e12),
        ("GH200", 989e12),
        ("H100 PCIe", 756e12),
        ("H100", 989e12),
        ("A100", 312e12),
        ("L40S", 362e12),
        ("RTX 4090", 165e12),
        ("RTX 5090", 210e12),
    ];
    peaks.iter().find(|(name, _)| device.contains(name)).map(|(_, peak)| *peak)
}
