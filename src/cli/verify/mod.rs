//! `assay verify`.

mod all;
mod lanes;
mod remote;
mod replay;
mod report;
mod serve;
pub(super) mod sign;
mod teeth;

pub use replay::{CODES, Replay};
pub use serve::serve;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use lanes::{Board, Lane, judge_each};
use report::{Run, print_verdict};
use sign::Signer;

use super::seat::Backend;
use super::{ModelArg, output, standing};
use crate::backend::Placement;
use crate::backend::executor::Executor;
use crate::error::{Error, Result};
use crate::ledger as records;
use crate::model::Model;
use crate::ops::{self, Node};
use crate::plan::graph::Graph;
use crate::plan::kernels::KernelTree;
use crate::plan::schedule::canonical;
use crate::plan::{Numerics, Plan, PlanOptions};
use crate::verify::ahead::Ahead;
use crate::verify::binding::nodes_of;
use crate::verify::places::{CudaPlace, EmulatorPlace, NvrtcCompilers};
use crate::verify::prefill::Baselines;
use crate::verify::{Compilers, Judge, Place, Stage, Verdict, sanitize};
use crate::words::count;
use crate::workbench::Workbench;

/// Judges kernels: every node that has one, the nodes named, or with --all the whole schedule.
#[derive(clap::Args)]
pub struct Verify {
    /// Nodes, e.g. `matmul[q8_0]`; an op's name alone stands for all its nodes
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
    /// Judge the whole schedule, which alone decides prefill_working; every node must have been proved on its own
    #[arg(long, conflicts_with = "nodes")]
    all: bool,
    #[command(flatten)]
    model: ModelArg,
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    /// Judge variants of these numerics only [default: both]
    #[arg(long, value_enum)]
    numerics: Option<Numerics>,
    /// Every size and every length
    #[arg(long)]
    thorough: bool,
    /// Repeat the cases of an earlier verdict (64 hexadecimal digits); such a verdict is not signed
    #[arg(long, value_name = "HEX")]
    seed: Option<String>,
    /// Sign each verdict and append it to the ledger; red ones are kept as attempts too
    #[arg(long)]
    record: bool,
    /// Sign each verdict into this file instead, to be brought home with `assay import`
    #[arg(long, value_name = "FILE")]
    evidence: Option<PathBuf>,
    /// Private key to sign with
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Judge on another host: a command to put in front (`ssh gpu1`), or a name in your own runners.toml; several times
    /// for several hosts, each of which takes the next node when it is free
    #[arg(long, value_name = "CMD", conflicts_with = "all")]
    runner: Vec<String>,
    /// Where the model lies on those hosts [default: where it lies here, or the model of a workbench there]
    #[arg(long, value_name = "FILE", requires = "runner")]
    remote_model: Option<PathBuf>,
    /// The program on those hosts [default: assay]
    #[arg(long, value_name = "PROGRAM", requires = "runner")]
    remote_assay: Option<String>,
    /// Give a host up that says nothing for so long, or works on one node for 60 times as long
    #[arg(long, value_name = "SECONDS", default_value_t = 120, requires = "runner", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    runner_timeout: u64,
    /// Ask other hosts for nodes too that a row of the ledger answers already
    #[arg(long, requires = "runner")]
    again: bool,
    /// Judge the judge: which mutants of the right answers the cases tell from them, case by case where a node is named
    #[arg(long, conflicts_with_all = ["all", "record", "evidence"])]
    teeth: bool,
    /// Mutants of kernels instead, so many of each or all, drawn by the seed and judged on the emulator
    #[arg(long, value_name = "N|all", requires = "teeth")]
    mutants: Option<teeth::Mutants>,
    /// Keep the mutants' table in this file
    #[arg(long, value_name = "FILE", requires = "mutants")]
    table: Option<PathBuf>,
    /// Keep what came of each mutant in this file, and go on from there next time
    #[arg(long, value_name = "FILE", requires = "mutants")]
    journal: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

impl Verify {
    /// The options that the same cases of the same file have to be asked with again.
    fn asked(&self, workbench: &Workbench) -> String {
        let mut text = self.model.model.as_ref().map_or(String::new(), |path| workbench.model_option(path));
        let mut add = |option: &str, value: Option<String>| {
            text += &value.map_or(String::new(), |value| format!(" {option} {value}"));
        };
        add("--backend", (self.backend != Backend::Auto).then(|| self.backend.name().into()));
        add("--numerics", self.numerics.map(|numerics| numerics.name().into()));
        if self.thorough {
            text += " --thorough";
        }
        text
    }

    pub fn run(&self) -> Result<u8> {
        if self.backend == Backend::Oracle {
            return Err(Error::usage("the oracle is never a subject: it is what kernels are judged by")
                .expected("--backend auto, device or emulator")
                .hint("assay logits --backend oracle runs the model on it"));
        }
        if self.seed.is_some() && (self.record || self.evidence.is_some() || !self.runner.is_empty()) {
            return Err(Error::usage(
                "a verdict by a chosen seed is no evidence: its cases were known before it was given",
            )
            .expected("--seed without --record, --evidence and --runner")
            .hint("leave --seed out, and the cases of each verdict are drawn anew"));
        }
        let started = Instant::now();
        let workbench = Workbench::find(".".as_ref())?;
        let model = match &self.model.model {
            Some(path) => Model::open(path)?,
            None => Model::open(&workbench.model())?,
        };
        let tree = KernelTree::open(&workbench.kernels())?;
        if !self.runner.is_empty() {
            return remote::run(self, &workbench, &model, &tree);
        }
        if self.teeth {
            return teeth::run(self, &workbench, &model, &tree);
        }
        if self.all {
            return all::run(self, &workbench, &model, &tree);
        }
        let plan_nodes = nodes_of(&model)?;
        let wanted = self.wanted(&plan_nodes, &tree)?;
        let mut left_out: Vec<String> = Vec::new();
        let place = self.place(&workbench, &mut left_out)?;
        let nvrtc = NvrtcCompilers::new(&workbench.settings.architectures);
        if let Err(e) = &nvrtc {
            left_out.push(format!("architectures {}: {}", workbench.settings.architectures.join(", "), e.what()));
        }
        if !self.json {
            self.lead(&workbench, &model, place.as_deref(), wanted.len())?;
        }
        let seed = self.seed()?;
        let baselines = Baselines::new(&model, seed);
        let stop = stop_at_interrupt();
        let bar = self.bar(wanted.len() as u64 + 1);
        let board = Board::new(&bar);
        let mut verdicts: Vec<Verdict> = Vec::new();
        let signs = place.as_deref().filter(|_| self.record || self.evidence.is_some());
        let mut signer = signs.map(|place| Signer::new(self, &workbench, &model, place)).transpose()?;
        if let Some(place) = &place {
            let numerics = self.numerics.map_or(vec![Numerics::Exact, Numerics::Ds4], |n| vec![n]);
            let later = wanted.get(1..).unwrap_or_default();
            let ahead = place.placement() == Placement::Emulator && !later.is_empty();
            let _ahead = ahead.then(|| Ahead::start(&tree, later, &numerics)).transpose()?;
            let judge = Judge {
                model: &model,
                tree: &tree,
                place: &**place,
                compilers: nvrtc.as_ref().ok().map(|c| c as &dyn Compilers),
                baselines: &baselines,
                numerics,
                thorough: self.thorough,
                seed,
                stop: &stop,
                progress: &Lane { board: &board, index: 0 },
                through: Stage::Sanitizer,
                sanitize: Some(&workbench.root),
                shared: None,
            };
            judge_each(&judge, &wanted, &board, &mut |node, verdict| {
                if !self.json {
                    bar.suspend(|| print_verdict(&verdict, &self.asked(&workbench)))?;
                }
                if let Some(signer) = &mut signer {
                    signer.sign(node, &verdict)?;
                    // After every verdict, so that a run that is cut short keeps what it has.
                    if let Some(path) = &self.evidence {
                        signer.write(path)?;
                    }
                }
                verdicts.push(verdict);
                bar.inc(1);
                Ok(())
            })?;
        }
        // Who asks for nodes by name wants their verdicts.
        let prefill = self.nodes.is_empty().then(|| one_prefill(&model)).transpose()?;
        bar.finish_and_clear();
        if let Some(signer) = signer.filter(|_| self.record) {
            let rows = signer.record(&workbench.root)?;
            if !self.json {
                output::println(format_args!("recorded as rows {rows:?}"))?;
            }
        }
        let summary = Run {
            wanted,
            plan_nodes,
            verdicts,
            left_out,
            prefill,
            seconds: started.elapsed(),
            place: place.map(|p| p.placement()),
        };
        summary.report(self.json, &tree, &model)
    }

    /// The plain sentence that comes before anything else.
    fn lead(&self, bench: &Workbench, model: &Model, place: Option<&dyn Place>, nodes: usize) -> Result<()> {
        let plan = Plan::build(model, canonical(Numerics::Ds4))?;
        let status = standing::status(bench, model, &Graph::of(&plan, None), Numerics::Ds4)?;
        let here = match place.map(|p| (p.placement(), p.arch())) {
            None => "No kernel can run here.".to_string(),
            Some((Placement::Device, arch)) => format!("Judging {} on this machine's {arch}.", count(nodes, "node")),
            Some(_) => {
                format!("Judging {} on the CPU emulator, where a pass is never green.", count(nodes, "node"))
            }
        };
        output::println(format_args!("{}\n{here}\n", status.sentence()))
    }

    fn seed(&self) -> Result<[u8; 32]> {
        match &self.seed {
            None => Ok(records::Seed::random()?.0),
            Some(hex) => parse_seed(hex),
        }
    }

    fn bar(&self, n: u64) -> ProgressBar {
        let bar = ProgressBar::new(n);
        if let Ok(style) = ProgressStyle::with_template("{elapsed:>4} [{bar:24}] {pos}/{len} {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        bar
    }

    /// The nodes to judge. A name that no node of the plan has is a usage error unless it names a node that another
    /// file could have, which stage 1 then finds unreachable.
    fn wanted(&self, plan: &[Node], tree: &KernelTree) -> Result<Vec<Node>> {
        if self.nodes.is_empty() {
            return Ok(plan.iter().filter(|n| tree.kernel(n).is_some()).cloned().collect());
        }
        let mut out: Vec<Node> = Vec::new();
        for name in &self.nodes {
            let node: Node = name
                .parse()
                .map_err(|e: String| Error::usage(e).hint("assay ops lists the ops, assay plan the nodes"))?;
            if ops::find(&node.op).is_none() {
                return Err(Error::usage(format!("there is no op `{}`", node.op)).hint("assay ops lists them"));
            }
            let mut matching: Vec<Node> =
                plan.iter().filter(|n| **n == node || (node.types.is_empty() && n.op == node.op)).cloned().collect();
            if matching.is_empty() {
                matching.push(node);
            }
            out.extend(matching);
        }
        Ok(out)
    }

    /// Where to judge; `None` when nothing here can run kernels and none was demanded.
    fn place(&self, workbench: &Workbench, left_out: &mut Vec<String>) -> Result<Option<Box<dyn Place>>> {
        if self.backend != Backend::Emulator {
            match CudaPlace::new(&workbench.settings.architectures) {
                Ok(place) => return Ok(Some(Box::new(place))),
                Err(e) if self.backend == Backend::Device => return Err(e),
                Err(e) => {
                    left_out.push(format!("stages 7 and 8, and every green: could not run: {}", e.what()));
                }
            }
        }
        match EmulatorPlace::new() {
            Ok(place) => Ok(Some(Box::new(place))),
            Err(e) if self.backend == Backend::Emulator || self.all || !self.nodes.is_empty() => Err(e),
            Err(e) => {
                left_out.push(format!("every kernel: {}", e.what()));
                Ok(None)
            }
        }
    }
}

/// Set by the first Ctrl-C; a second one ends the program.
pub(super) fn stop_at_interrupt() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let handler = stop.clone();
    let _ = ctrlc::set_handler(move || {
        if handler.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    stop
}

pub(super) fn parse_seed(hex: &str) -> Result<[u8; 32]> {
    let seed = hex.to_ascii_lowercase().parse::<records::Seed>();
    seed.map(|s| s.0).map_err(|_| Error::usage("--seed is no seed").expected("64 hexadecimal digits").found(hex))
}

/// The child that compute-sanitizer watches.
#[derive(clap::Args)]
pub struct SanitizeRun {
    node: Node,
    seed: String,
}

impl SanitizeRun {
    pub fn run(&self) -> Result<u8> {
        sanitize::child(&Workbench::find(".".as_ref())?.kernels(), &self.node, parse_seed(&self.seed)?)?;
        Ok(0)
    }
}

struct OnePrefill {
    tokens: usize,
    seconds: f64,
    finite: bool,
}

/// The prefill that `verify` of a whole workbench runs, whatever can or cannot be judged.
fn one_prefill(model: &Model) -> Result<OnePrefill> {
    let started = Instant::now();
    let tokens = 256;
    let plan = Plan::build(
        model,
        PlanOptions { numerics: Numerics::Exact, max_tokens: tokens, max_outputs: 1, context: tokens },
    )?;
    let step = plan.step(tokens, 0, 1)?;
    let ids: Vec<i32> = (0..tokens).map(|i| (i * 7 % model.config.vocab) as i32).collect();
    let mut executor = Executor::new(model, Arc::new(plan));
    executor.run(&step, &ids)?;
    let finite = executor.logits(&step)?.iter().all(|v| v.is_finite());
    Ok(OnePrefill { tokens, seconds: started.elapsed().as_secs_f64(), finite })
}
