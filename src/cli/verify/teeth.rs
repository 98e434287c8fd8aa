//! `assay verify --teeth`: what the judge itself would have seen.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::json;

use super::super::output;
use super::super::seat::Backend;
use super::{Verify, stop_at_interrupt};
use crate::backend::Placement;
use crate::error::{Error, Result};
use crate::ledger::ClosureSource as _;
use crate::model::Model;
use crate::ops::Node;
use crate::plan::Numerics;
use crate::plan::kernels::{KernelTree, digest_json};
use crate::plan::source::hex;
use crate::verify::Stage;
use crate::verify::binding::Workshop;
use crate::verify::places::CudaPlace;
use crate::verify::prefill::Baselines;
use crate::verify::teeth::DEMANDED;
use crate::verify::teeth::answers::{self, NodeTeeth};
use crate::verify::teeth::fates::{Fate, KernelTeeth, Mutant};
use crate::verify::teeth::journal::Journal;
use crate::verify::teeth::known::{self, Known};
use crate::verify::teeth::trial::Trial;
use crate::words::count;
use crate::workbench::Workbench;

/// How many mutants of each kernel are judged.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mutants {
    Sample(usize),
    All,
}

impl std::str::FromStr for Mutants {
    type Err = String;

    fn from_str(text: &str) -> Result<Mutants, String> {
        match (text, text.parse::<usize>()) {
            ("all", _) => Ok(Mutants::All),
            (_, Ok(n)) if n > 0 => Ok(Mutants::Sample(n)),
            _ => Err("a number above 0, or all".into()),
        }
    }
}

/// Reports on the cases, or with `--mutants` on the kernels. Exit code 0: everything has teeth.
pub(super) fn run(verify: &Verify, bench: &Workbench, model: &Model, tree: &KernelTree) -> Result<u8> {
    let plan = crate::verify::binding::nodes_of(model)?;
    let nodes = verify.wanted(&plan, tree)?;
    let seed = verify.seed()?;
    let numerics = verify.numerics.map_or(vec![Numerics::Exact, Numerics::Ds4], |n| vec![n]);
    let subject = Subject { verify, bench, model, tree, nodes, seed, numerics };
    match verify.mutants {
        Some(mutants) => subject.kernels(mutants),
        None => subject.answers(),
    }
}

/// What is asked about.
struct Subject<'s> {
    verify: &'s Verify,
    bench: &'s Workbench,
    model: &'s Model,
    tree: &'s KernelTree,
    nodes: Vec<Node>,
    seed: [u8; 32],
    numerics: Vec<Numerics>,
}

impl Subject<'_> {
    fn answers(&self) -> Result<u8> {
        let Subject { verify, bench, model, tree, nodes, seed, numerics } = self;
        let (placement, arch) = placement(verify, bench);
        let request =
            answers::Request { model, tree, placement, arch: &arch, numerics, thorough: verify.thorough, seed: *seed };
        let started = Instant::now();
        let bar = verify.bar(nodes.len() as u64);
        let mut out = Vec::new();
        for node in nodes {
            bar.set_message(node.to_string());
            out.push(answers::of(&request, node)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let weak = out.iter().filter(|n| n.weak().next().is_some()).count();
        if verify.json {
            output::json(
                "assay.teeth/1",
                json!({
                    "model": model.path(),
                    "cases_of": arch,
                    "seed": hex(seed),
                    "nodes": out,
                    "weak": weak,
                    "seconds": started.elapsed().as_secs_f64(),
                }),
            )?;
            return Ok(u8::from(weak > 0));
        }
        let mut text = String::new();
        let at = if placement == Placement::Device { format!("on {arch}") } else { "on the CPU emulator".into() };
        let _ = match weak {
            0 => writeln!(
                text,
                "Every mutant of the right answer that means something for its node is killed by at least two cases.\n"
            ),
            n => writeln!(
                text,
                "{} whose cases do not kill every mutant twice: they are to be repaired.\n",
                count(n, "node")
            ),
        };
        let _ = writeln!(
            text,
            "Cases as a verdict {at} would ask them; a cell says in how many of those where it applies a mutant is killed.\n"
        );
        text += &summary(&out);
        if !verify.nodes.is_empty() {
            out.iter().for_each(|node| text += &by_case(node));
        }
        let _ = write!(text, "\nseed {}\n", hex(seed));
        output::print(text)?;
        Ok(u8::from(weak > 0))
    }

    fn kernels(&self, mutants: Mutants) -> Result<u8> {
        let Subject { verify, bench, model, tree, nodes, seed, numerics } = self;
        if verify.backend == Backend::Device {
            return Err(Error::usage(
                "mutants of kernels are judged on the emulator: a broken kernel may take a device down",
            )
            .expected("--backend emulator, or none"));
        }
        if let Some(path) = &verify.table {
            writable(path)?;
        }
        let started = Instant::now();
        let known = Known::load(&bench.root)?;
        let journal = match &verify.journal {
            Some(path) => Some(Journal::open(path, &self.asked(&bench.kernels(), mutants)?)?),
            None => None,
        };
        let cache = tempfile::tempdir().map_err(|e| Error::io("a folder for mutants", e))?;
        let stop = stop_at_interrupt();
        let baselines = Baselines::new(model, *seed);
        // All are on trial together, since they share texts; samples are each kernel's own.
        let (wanted, sets) = match mutants {
            Mutants::Sample(n) => (n, nodes.chunks(1).collect::<Vec<_>>()),
            Mutants::All => (usize::MAX, vec![nodes.as_slice()]),
        };
        let bar = verify.bar(sets.len() as u64);
        let mut out: Vec<KernelTeeth> = Vec::new();
        for nodes in sets {
            let name = if let [node] = nodes { node.to_string() } else { count(nodes.len(), "kernel") };
            bar.set_message(name.clone());
            let tick = |done: usize, all: Option<usize>| {
                let of = all.map_or(String::new(), |all| format!(" of {all}"));
                bar.set_message(format!("{name}: {done}{of} mutants judged"));
            };
            let trial = Trial {
                model,
                tree,
                numerics: numerics.clone(),
                baselines: &baselines,
                thorough: verify.thorough,
                seed: *seed,
                wanted,
                known: &known,
                journal: journal.as_ref(),
                cache: cache.path(),
                stop: &stop,
                tick: &tick,
            };
            let kernels = trial.run(nodes)?;
            if !verify.json {
                kernels.iter().try_for_each(|kernel| bar.suspend(|| output::println(line(kernel))))?;
            }
            out.extend(kernels);
            // After every set, so that a run that is cut short keeps what it has.
            if let Some(path) = &verify.table {
                std::fs::write(path, markdown(&out, seed, mutants)).map_err(|e| Error::io(path, e))?;
            }
            if stop.load(Ordering::Relaxed) {
                return Err(Error::interrupted());
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        let suffices = out.iter().all(KernelTeeth::suffices);
        if verify.json {
            output::json(
                "assay.teeth/1",
                json!({
                    "model": model.path(),
                    "seed": hex(seed),
                    "mutants": match mutants { Mutants::All => json!("all"), Mutants::Sample(n) => json!(n) },
                    "demanded": DEMANDED,
                    "kernels": out.iter().map(document).collect::<Vec<_>>(),
                    "suffices": suffices,
                    "seconds": started.elapsed().as_secs_f64(),
                }),
            )?;
            return Ok(u8::from(!suffices));
        }
        output::print(report(&out, seed, started.elapsed().as_secs_f64()))?;
        Ok(u8::from(!suffices))
    }
}

impl Subject<'_> {
    /// What a journal is about: the kernels, cases and weights of every node, and what was chosen.
    fn asked(&self, kernels: &Path, mutants: Mutants) -> Result<String> {
        let tree = Workshop::new(self.model)?.tree(kernels)?;
        let binding = |node: &Node| {
            let of = |numerics| tree.binding(node, crate::plan::manifest::EMULATOR, numerics);
            of(Numerics::Ds4).or_else(|_| of(Numerics::Exact))
        };
        let bindings = self.nodes.iter().map(binding).collect::<Result<Vec<_>>>()?;
        let numerics: Vec<_> = self.numerics.iter().map(|n| n.name()).collect();
        Ok(digest_json(&json!({
            "nodes": self.nodes,
            "bindings": bindings,
            "together": matches!(mutants, Mutants::All),
            "numerics": numerics,
            "seed": hex(&self.seed),
            "thorough": self.verify.thorough,
        })))
    }
}

/// Which cases are asked depends on the machine; they can be drawn on any.
fn placement(verify: &Verify, bench: &Workbench) -> (Placement, String) {
    let emulator = || (Placement::Emulator, crate::plan::manifest::EMULATOR.to_string());
    match verify.backend {
        Backend::Emulator => emulator(),
        _ => match CudaPlace::new(&bench.settings.architectures) {
            Ok(place) => (Placement::Device, crate::verify::Place::arch(&place).to_string()),
            Err(_) if verify.backend == Backend::Device => {
                let plain = |arch: &String| arch.trim_end_matches(['a', 'f']).to_string();
                (Placement::Device, bench.settings.architectures.first().map_or("sm_90".into(), plain))
            }
            Err(_) => emulator(),
        },
    }
}

/// A line per node, a column per mutant.
fn summary(nodes: &[NodeTeeth]) -> String {
    let Some(first) = nodes.first() else { return String::new() };
    let names: Vec<String> = first.totals.iter().map(|t| name(&t.mutant)).collect();
    let header: Vec<&str> = ["node", "cases"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let mut table = output::table(&header);
    for node in nodes {
        let cases: usize = node.variants.iter().map(|v| v.cases.len()).sum();
        let cell = |t: &answers::Total| match (t.left_out, t.weak) {
            (Some(_), _) => "-".to_string(),
            (None, true) => format!("{}/{} WEAK", t.killed, t.applies),
            (None, false) => format!("{}/{}", t.killed, t.applies),
        };
        table.add_row([node.node.to_string(), cases.to_string()].into_iter().chain(node.totals.iter().map(cell)));
    }
    output::rows(&table)
}

/// A line per case, and why mutants are left out.
fn by_case(node: &NodeTeeth) -> String {
    let mut text = String::new();
    for variant in &node.variants {
        let _ = writeln!(text, "\n{} {}", node.node, variant.variant);
        let meant: Vec<_> = variant.mutants.iter().filter(|m| m.left_out.is_none()).collect();
        let names: Vec<String> = meant.iter().map(|m| name(&m.mutant)).collect();
        let mut table =
            output::table(&["case"].into_iter().chain(names.iter().map(String::as_str)).collect::<Vec<_>>());
        for (i, case) in variant.cases.iter().enumerate() {
            let cell = |m: &&answers::Bites| match (m.applies.contains(&i), m.killed.contains(&i)) {
                (_, true) => "killed",
                (true, false) => "SURVIVES",
                (false, false) => ".",
            };
            table.add_row([case.trim()].into_iter().chain(meant.iter().map(cell)));
        }
        text += &output::rows(&table);
    }
    for total in &node.totals {
        if let Some(why) = total.left_out {
            let _ = writeln!(text, "{} is left out: {why}", name(&total.mutant));
        }
    }
    text
}

fn name(mutant: &impl serde::Serialize) -> String {
    serde_json::to_value(mutant).ok().and_then(|v| v.as_str().map(|s| s.replace('_', " "))).unwrap_or_default()
}

fn document(kernel: &KernelTeeth) -> serde_json::Value {
    let mut value = serde_json::to_value(kernel).unwrap_or_default();
    value["killed"] = json!(kernel.killed());
    value["survived"] = json!(kernel.survivors().count());
    value["unexplained"] = json!(kernel.unexplained().count());
    value["rate"] = json!(kernel.rate());
    value["suffices"] = json!(kernel.suffices());
    value
}

/// One kernel as it comes.
fn line(k: &KernelTeeth) -> String {
    let rate = k.rate().map_or("none counts".into(), |r| format!("{:.1} % killed", 100.0 * r));
    let mark = if k.suffices() { "ok  " } else { "WEAK" };
    format!(
        "{mark} {:<28} {:>6.1} s  {rate}: {} of {}; {} survived, {} equivalent",
        k.node.to_string(),
        k.seconds,
        k.killed(),
        k.killed() + k.survivors().count(),
        k.survivors().count(),
        equivalent(k)
    )
}

fn equivalent(k: &KernelTeeth) -> usize {
    k.count(|f| matches!(f, Fate::Equivalent { .. }))
}

/// Numbers of a kernel, in the order of the table's columns.
fn row(k: &KernelTeeth) -> Vec<String> {
    let by = |stage| k.killed_by(stage).to_string();
    vec![
        k.node.to_string(),
        k.possible.to_string(),
        k.mutants.len().to_string(),
        k.count(|f| *f == Fate::DoesNotCompile).to_string(),
        k.count(|f| *f == Fate::SameCode).to_string(),
        by(Stage::Source),
        by(Stage::Build),
        by(Stage::Unit),
        by(Stage::Prefill),
        k.count(|f| matches!(f, Fate::KilledElsewhere { .. })).to_string(),
        equivalent(k).to_string(),
        k.survivors().count().to_string(),
        k.unexplained().count().to_string(),
        k.count(|f| matches!(f, Fate::NotJudged { .. })).to_string(),
        k.rate().map_or("-".into(), |r| format!("{:.1} %", 100.0 * r)),
    ]
}

const COLUMNS: [&str; 15] = [
    "node",
    "possible",
    "made",
    "do not compile",
    "same code",
    "source",
    "build",
    "unit",
    "prefill",
    "elsewhere",
    "equivalent",
    "survived",
    "unexplained",
    "not judged",
    "killed",
];

fn report(kernels: &[KernelTeeth], seed: &[u8; 32], seconds: f64) -> String {
    let mut text = String::from("\n");
    let mut table = output::table(&COLUMNS);
    for k in kernels {
        table.add_row(row(k));
    }
    text += &output::rows(&table);
    for k in kernels {
        for m in k.survivors() {
            let _ = writeln!(text, "\nsurvived  {}  {}", k.node, place_of(m));
            let _ = write!(text, "  {}\n  {}\n", m.before, m.after);
            if let Some(why) = &m.gap {
                let _ = writeln!(text, "  {}", why.trim());
            }
        }
        for m in k.refuted() {
            let _ = writeln!(text, "\nnot equivalent, though {} says so  {}  {}", known::FILE, k.node, place_of(m));
            let _ = write!(text, "  {}\n  {}\n  {}\n", m.before, m.after, fate(m));
        }
        for stale in &k.stale {
            let _ = writeln!(text, "\n{}: no mutant of {} is `{stale}` any more", known::FILE, k.node);
        }
        for m in k.mutants.iter().filter(|m| matches!(m.fate, Fate::NotJudged { .. })) {
            let _ = writeln!(text, "\nnot judged  {}  {}  {}", k.node, place_of(m), fate(m));
        }
    }
    let short = kernels.iter().filter(|k| !k.suffices()).count();
    let _ = match short {
        0 => {
            writeln!(text, "\nOf every kernel at least {:.0} % of the mutants that count are killed.", 100.0 * DEMANDED)
        }
        n => writeln!(
            text,
            "\n{} below {:.0} %, or with an equivalence that is none.",
            count(n, "kernel"),
            100.0 * DEMANDED
        ),
    };
    let _ = writeln!(text, "{seconds:.0} s, seed {}", hex(seed));
    text
}

fn place_of(m: &Mutant) -> String {
    format!("kernels/{}:{} ({})", m.file, m.line, m.mistake.name())
}

fn fate(m: &Mutant) -> &str {
    match &m.fate {
        Fate::Killed { reason, .. } | Fate::KilledElsewhere { reason, .. } | Fate::NotJudged { reason } => reason,
        Fate::Equivalent { why } => why,
        Fate::Survived | Fate::SameCode | Fate::DoesNotCompile => "",
    }
}

/// The table that is kept.
fn markdown(kernels: &[KernelTeeth], seed: &[u8; 32], mutants: Mutants) -> String {
    let what = match mutants {
        Mutants::All => "all mutants, those of a header by the kernels that have it".into(),
        Mutants::Sample(n) => format!("{n} mutants that count of each kernel, drawn by the seed"),
    };
    let mut text = format!(
        "# Mutants of kernels\n\nWritten by `assay verify --teeth --mutants` on the CPU emulator: {what}. What the columns \
         mean is in docs/stages.md.\n\nseed {}\n\n| {} |\n|{}\n",
        hex(seed),
        COLUMNS.join(" | "),
        "---|".repeat(COLUMNS.len())
    );
    for k in kernels {
        let _ = writeln!(text, "| {} |", row(k).join(" | "));
    }
    for title in ["Survived", "Equivalent"] {
        let wanted = |m: &Mutant| match title {
            "Survived" => m.fate == Fate::Survived,
            _ => matches!(m.fate, Fate::Equivalent { .. }),
        };
        let _ = writeln!(text, "\n## {title}");
        for (k, m) in kernels.iter().flat_map(|k| k.mutants.iter().filter(|m| wanted(m)).map(move |m| (k, m))) {
            let _ = write!(text, "\n- {} {}\n  `{}`\n  `{}`\n", k.node, place_of(m), m.before, m.after);
            let why = m.gap.as_deref().unwrap_or(fate(m));
            if !why.is_empty() {
                let _ = writeln!(text, "  {}", why.trim());
            }
        }
    }
    text
}

/// Whether a path can be written before hours of work go into it.
fn writable(path: &Path) -> Result<()> {
    std::fs::OpenOptions::new().append(true).create(true).open(path).map(drop).map_err(|e| Error::io(path, e))
}
