use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::interrupt::Interrupt;
use super::seat::{Backend, Seat, Terms};
use super::standing::verified;
use super::verify::sign::about;
use super::{ModelArg, ledger, output};
use crate::backend::Placement;
use crate::backend::cuda::NO_DEVICE;
use crate::engine::bench::{self, Measured, Test};
use crate::engine::breakdown::{self, Breakdown};
use crate::engine::{Session, SessionOptions, chrome};
use crate::error::{Error, Result};
use crate::ledger::{Binding, ClosureSource, Evidence, SecretKey, Statement, bundle};
use crate::model::Model;
use crate::plan::Numerics;
use crate::plan::kernels::KERNEL_ABSENT;
use crate::verify::binding::Workshop;
use crate::verify::record;
use crate::verify::timing::{self, Setting};
use crate::words::count;
use crate::workbench::Workbench;

/// Measure the speed of prefill and decode
///
/// As llama-bench does: random tokens, one unmeasured run of each test first, then mean and standard deviation of the
/// repetitions, in tokens a second by the wall clock. `device ms` is what the device's own clock says of a repetition.
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
    /// Tokens in the caches before a test starts; every test runs at every depth
    #[arg(short = 'd', long = "n-depth", value_delimiter = ',', default_value = "0", value_name = "N,…")]
    depths: Vec<usize>,
    /// Measured runs of each test
    #[arg(short = 'r', long, default_value_t = 5, value_name = "N")]
    repetitions: usize,
    /// Most tokens of one step of a prefill
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = super::run::chunk)]
    chunk: usize,
    /// Where to run
    #[arg(long, value_enum, default_value_t = Backend::Device)]
    backend: Backend,
    #[command(flatten)]
    terms: Terms,
    /// Which of the model's own roundings are applied
    #[arg(long, value_enum, default_value_t = Numerics::Ds4)]
    numerics: Numerics,
    /// Also where a step's time goes, node by node: a prefill's last chunk, a decode's first four
    /// tokens on average
    #[arg(long)]
    per_node: bool,
    /// Write the time of every launch of such a step to this file, for Chrome's tracing page or Perfetto
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Sign what was measured and append it to the ledger, as a row bound to the schedule that ran
    #[arg(long)]
    record: bool,
    /// Sign what was measured into this file, for `assay import` elsewhere
    #[arg(long, value_name = "FILE")]
    evidence: Option<PathBuf>,
    /// Private key to sign with
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// What to print
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Md)]
    output: Format,
    /// The same as `-o json` (schema assay.bench/1)
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A Markdown table
    Md,
    /// A table of comma-separated values; with --per-node a second one behind an empty line
    Csv,
    /// One document when all is done
    Json,
    /// A line of JSON for each test as it ends, and for each node table
    Jsonl,
}

/// What a row says beside its figures: the same for all.
struct Facts {
    model: String,
    weights: Option<&'static str>,
    device: String,
    arch: Option<String>,
    driver: String,
    /// Bytes a second that it copies, measured here.
    copy: Option<f64>,
    /// Dense f16 multiply-adds on its tensor cores, by its data sheet, floating-point operations a second.
    tensor: Option<f64>,
}

impl Bench {
    pub fn run(&self) -> Result<u8> {
        let format = if self.json { Format::Json } else { self.output };
        let tests = self.tests()?;
        let _interrupt = Interrupt::watch(format == Format::Json);
        let model = self.model.open()?;
        let broken_down = self.per_node || self.trace.is_some();
        if broken_down && self.backend == Backend::Oracle {
            return Err(Error::usage("the oracle launches nothing whose time could be told")
                .expected("--per-node and --trace with --backend device, emulator or auto"));
        }
        let signs = self.record || self.evidence.is_some();
        if signs && !matches!(self.backend, Backend::Device | Backend::Auto) {
            return Err(Error::usage(format!("times of the {} are no figures of speed", self.backend.name()))
                .expected("--record and --evidence with --backend device"));
        }
        let context = tests.iter().map(|t| t.depth().saturating_add(t.tokens())).max().unwrap_or(1);
        let most = model.config.longest_context();
        if context > most {
            return Err(Error::usage("the model's context does not hold these tests")
                .expected(format!("-d N, and -p N or -n N beyond it, of {most} tokens at most together"))
                .found(context));
        }
        // Before minutes of work that could not be written.
        let trace = self.trace.as_ref().map(|path| File::create(path).map_err(|e| Error::io(path, e))).transpose()?;
        let copies = u64::from(self.depths.iter().any(|d| *d > 0));
        let seat = Seat::take(self.backend, self.terms.saving(copies))?;
        let chunk = self.chunk.min(context);
        let options = SessionOptions { numerics: self.numerics, chunk, context, all_logits: false };
        let mut session = Session::new(&model, options)?;
        seat.attach(&mut session)?;
        let facts = Facts::of(&model, &seat, &mut session)?;
        let signer = if signs { Some(Signer::new(self, &model, &seat, &facts)?) } else { None };
        let (mut done, mut breakdowns) = (Vec::new(), Vec::new());
        for test in &tests {
            let measured = bench::measure(&mut session, *test, self.repetitions)?;
            if format == Format::Jsonl {
                output::println(self.row(&measured, &facts, verified(&model, self.numerics, session.tally())))?;
            }
            done.push(measured);
            if broken_down && seat.placement() != Placement::Oracle {
                let breakdown = breakdown::per_node(&mut session, *test)?;
                if self.per_node && format == Format::Jsonl {
                    output::println(json!({ "test": test.name(), "per_node": &breakdown }))?;
                }
                breakdowns.push(breakdown);
            }
        }
        if let (Some(mut file), Some(path)) = (trace, &self.trace) {
            let text = chrome::trace(session.executor.plan(), &breakdowns).to_string();
            file.write_all(text.as_bytes()).map_err(|e| Error::io(path, e))?;
        }
        if !self.per_node {
            breakdowns.clear();
        }
        let rows = signer.map(|s| s.sign(&done, &breakdowns)).transpose()?;
        let verified = verified(&model, self.numerics, session.tally());
        match format {
            Format::Md => {
                self.markdown(&done, &facts)?;
                breakdowns.iter().try_for_each(|b| output::println(table(b, &facts)))?;
            }
            Format::Csv => {
                output::println(csv(&done.iter().map(|m| self.row(m, &facts, verified.clone())).collect::<Vec<_>>()))?;
                if !breakdowns.is_empty() {
                    output::println(format_args!(
                        "\n{}",
                        csv(&breakdowns.iter().flat_map(|b| nodes(b, &facts)).collect::<Vec<_>>())
                    ))?;
                }
            }
            Format::Json => {
                let rows: Vec<Value> = done.iter().map(|m| self.row(m, &facts, verified.clone())).collect();
                let document = json!({
                    "model": facts.model,
                    "weights": facts.weights,
                    "device": facts.device,
                    "copy_bytes_per_second": facts.copy,
                    "tensor_flops_per_second": facts.tensor,
                    "placement": seat.json(session.tally()),
                    "verified": verified,
                    "tests": rows,
                    "per_node": breakdowns,
                });
                output::json("assay.bench/1", document)?;
            }
            Format::Jsonl => {}
        }
        if format != Format::Json {
            anstream::eprintln!("{}", seat.sentence(session.tally()));
            anstream::eprintln!("{verified}");
            if let Some(row) = rows.iter().flatten().next() {
                anstream::eprintln!("recorded as row {row}");
            }
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

    fn row(&self, m: &Measured, facts: &Facts, verified: String) -> Value {
        let (rate, deviation) = m.rate();
        let share = |per_token: f64, limit: Option<f64>| limit.map(|l| per_token * rate / l);
        json!({
            "test": m.test.name(),
            "kind": m.test,
            "model": facts.model,
            "weights": facts.weights,
            "device": facts.device,
            "arch": facts.arch,
            "numerics": self.numerics,
            "chunk": self.chunk,
            "tokens_per_second": rate,
            "deviation": deviation,
            "repetitions": m.seconds.len(),
            "warm_up_runs": 1,
            "seconds": m.seconds,
            "device_ms": m.device_ms,
            "bytes_per_token": m.bytes_per_token,
            "flops_per_token": m.flops_per_token,
            "copy_bytes_per_second": facts.copy,
            "share_of_copy_rate": share(m.bytes_per_token, facts.copy),
            "tensor_flops_per_second": facts.tensor,
            "share_of_tensor_peak": share(m.flops_per_token, facts.tensor),
            "verified": verified,
        })
    }

    fn markdown(&self, done: &[Measured], facts: &Facts) -> Result<()> {
        output::println(format!(
            "{}, {} numerics, chunk {}; {} after 1 unmeasured; copy {}, tensor f16 {}\n",
            facts.device,
            self.numerics.name(),
            self.chunk,
            count(self.repetitions, "repetition"),
            facts.copy.map_or("not measured".into(), |c| format!("{:.0} GB/s measured", c / 1e9)),
            facts.tensor.map_or("unknown".into(), |t| format!("{:.0} TFLOP/s by data sheet", t / 1e12)),
        ))?;
        output::println("| test | t/s | device ms | MB/token | GFLOP/token | of copy | of tensor peak |")?;
        output::println("|---|---:|---:|---:|---:|---:|---:|")?;
        for m in done {
            let (rate, deviation) = m.rate();
            let ms = m.mean_device_ms().map_or("-".into(), |ms| format!("{ms:.2}"));
            output::println(format!(
                "| {} | {rate:.2} ± {deviation:.2} | {ms} | {:.1} | {:.2} | {} | {} |",
                m.test.name(),
                m.bytes_per_token / 1e6,
                m.flops_per_token / 1e9,
                percent(facts.copy.map(|c| m.bytes_per_token * rate / c)),
                percent(facts.tensor.map(|t| m.flops_per_token * rate / t)),
            ))?;
        }
        Ok(())
    }
}

/// Rows of one shape as comma-separated values: a list becomes its mean, an empty one nothing, an object is left to JSON.
fn csv(rows: &[Value]) -> String {
    let mean = |list: &[Value]| list.iter().filter_map(Value::as_f64).sum::<f64>() / list.len() as f64;
    let field = |v: &Value| match v {
        Value::Null => String::new(),
        Value::Array(list) if list.is_empty() => String::new(),
        Value::Array(list) => mean(list).to_string(),
        Value::String(text) if text.contains([',', '"', '\n']) => format!("\"{}\"", text.replace('"', "\"\"")),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let columns: Vec<&String> = rows
        .first()
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, v)| !v.is_object())
        .map(|(k, _)| k)
        .collect();
    let mut lines = vec![columns.iter().map(|c| c.as_str()).collect::<Vec<_>>().join(",")];
    lines.extend(rows.iter().map(|row| columns.iter().map(|c| field(&row[c.as_str()])).collect::<Vec<_>>().join(",")));
    lines.join("\n")
}

/// A breakdown as rows.
fn nodes(b: &Breakdown, facts: &Facts) -> Vec<Value> {
    let row = |node: String, instances: usize, ms: f64, bytes: f64, flops: f64| {
        json!({
            "test": b.test.name(), "node": node, "instances": instances, "ms": ms, "share": ms / b.step_ms,
            "bytes": bytes, "flops": flops,
            "share_of_copy_rate": share(bytes, ms, facts.copy),
            "share_of_tensor_peak": share(flops, ms, facts.tensor),
        })
    };
    let shares = b.shares.iter().map(|s| row(s.node.to_string(), s.instances, s.ms, s.bytes, s.flops));
    shares.chain([row("between launches".into(), 0, b.between_ms, 0.0, 0.0)]).collect()
}

/// What share of a limit per second so much work in so many milliseconds is.
fn share(work: f64, ms: f64, limit: Option<f64>) -> Option<f64> {
    limit.filter(|_| work > 0.0 && ms > 0.0).map(|limit| 1e3 * work / ms / limit)
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_string(), |v| format!("{:.1} %", 100.0 * v))
}

/// Node by node, then the large matrices. The last line of the nodes is what their sum misses of the whole step.
fn table(b: &Breakdown, facts: &Facts) -> String {
    let mut out = format!(
        "\n{}, one step as one graph{}: {:.3} ms; between two launches the clock took {:.2} µs, which is taken off\n\n\
         | node | instances | ms | share | MB | of copy | of tensor peak |\n|---|---:|---:|---:|---:|---:|---:|\n",
        b.test.name(),
        if b.steps > 1 { format!(", on average over {} in a row", b.steps) } else { String::new() },
        b.step_ms,
        1e3 * b.clock_ms
    );
    for s in &b.shares {
        out += &format!(
            "| {} | {} | {:.3} | {:.1} % | {:.1} | {} | {} |\n",
            s.node,
            s.instances,
            s.ms,
            100.0 * s.ms / b.step_ms,
            s.bytes / 1e6,
            percent(share(s.bytes, s.ms, facts.copy)),
            percent(share(s.flops, s.ms, facts.tensor)),
        );
    }
    let between = b.between_ms;
    out += &format!("| between launches | | {between:.3} | {:.1} % | | | |\n", 100.0 * between / b.step_ms);
    if b.large.is_empty() {
        return out;
    }
    out += "\nEach of the products with weights of 32 MB or more:\n\n\
            | weights | node | instances | ms | MB | GB/s | of copy |\n|---|---|---:|---:|---:|---:|---:|\n";
    for l in &b.large {
        out += &format!(
            "| {} | {} | {} | {:.4} | {:.1} | {:.0} | {} |\n",
            l.name,
            l.node,
            l.instances,
            l.ms,
            l.bytes / 1e6,
            l.bytes / l.ms / 1e6,
            percent(share(l.bytes, l.ms, facts.copy)),
        );
    }
    out
}

/// Signs what was measured. Made before the measuring: what would stop it must not stop it then.
struct Signer {
    record: bool,
    evidence: Option<(PathBuf, File)>,
    key: SecretKey,
    root: PathBuf,
    binding: Binding,
    about: record::About,
    setting: Setting,
}

impl Signer {
    fn new(bench: &Bench, model: &Model, seat: &Seat, facts: &Facts) -> Result<Signer> {
        let arch = facts.arch.as_deref().filter(|_| seat.placement() == Placement::Device);
        let arch = arch.ok_or_else(|| {
            Error::new(&NO_DEVICE, "nothing was run on a device, so there are no times to sign").hint("assay doctor")
        })?;
        let workbench = Workbench::find(".".as_ref())?;
        let schedule = Workshop::new(model)?.tree(&workbench.kernels())?.schedule(arch)?;
        let (binding, _) = schedule.ok_or_else(|| {
            Error::new(&KERNEL_ABSENT, format!("a node has no kernel for {arch}: there is no whole schedule to bind"))
                .hint("assay next")
        })?;
        let create = |path: &PathBuf| File::create(path).map(|f| (path.clone(), f)).map_err(|e| Error::io(path, e));
        Ok(Signer {
            record: bench.record,
            evidence: bench.evidence.as_ref().map(create).transpose()?,
            key: ledger::writer(&workbench.root, bench.key.as_deref())?,
            binding: Binding { numerics: bench.numerics, ..binding },
            about: about(&workbench, model),
            root: workbench.root,
            setting: Setting {
                chunk: bench.chunk,
                device: facts.device.clone(),
                driver: facts.driver.clone(),
                copy: facts.copy,
                tensor: facts.tensor,
            },
        })
    }

    /// The rows that came of it.
    fn sign(self, done: &[Measured], steps: &[Breakdown]) -> Result<Vec<u64>> {
        let statement = timing::statement(done, steps, &self.setting, self.binding, &self.about);
        let evidence = [Evidence::sign(Statement::Bench(Box::new(statement)), &self.key)?];
        if let Some((path, mut file)) = self.evidence {
            file.write_all(&bundle(&self.key, &evidence)?).map_err(|e| Error::io(&path, e))?;
        }
        match self.record {
            true => ledger::open(&self.root)?.append(&evidence, &self.key),
            false => Ok(Vec::new()),
        }
    }
}

impl Facts {
    fn of(model: &Model, seat: &Seat, session: &mut Session<'_>) -> Result<Facts> {
        let info = session.executor.device_mut().map(|d| d.info().clone());
        let on_device = seat.placement() == Placement::Device;
        let device = match &info {
            Some(info) if on_device => info.name.clone(),
            _ => format!("{:?}", seat.placement()).to_lowercase(),
        };
        Ok(Facts {
            model: model.path().display().to_string(),
            weights: model.weights_note(),
            copy: if on_device { bench::copy_rate(session)? } else { None },
            tensor: tensor_peak(&device),
            driver: info.as_ref().map_or(String::new(), |i| i.driver.clone()),
            arch: info.map(|i| i.arch),
            device,
        })
    }
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
