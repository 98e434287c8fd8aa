use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::asked::{self, ModelShape};
use super::places::told;
use super::prefill::{Baselines, LARGE_MODEL};
use super::questions::{Questions, Shared};
use super::runner::Runner;
use super::unit;
use super::{
    Compilers, Figures, Outcome, Place, Stage, StageReport, Verdict, is_kernels_fault, large, mutants, prefill,
    sanitize, source, unless,
};
use crate::backend::executor::host_weight;
use crate::backend::{Built, Module, Placement};
use crate::error::{Error, Result};
use crate::ledger::figure;
use crate::model::Model;
use crate::ops::{self, Node};
use crate::plan::kernels::{Kernel, KernelTree};
use crate::plan::manifest::Variant;
use crate::plan::schedule::canonical;
use crate::plan::source::{SourceSet, hex};
use crate::plan::{Numerics, Plan};

/// Told what a judge is doing.
pub trait Progress: Sync {
    fn stage(&self, node: &Node, stage: Stage);
    fn tick(&self, done: usize, of: usize);
}

/// Everything that judging needs, for one model and one place.
pub struct Judge<'j, 'm> {
    pub model: &'m Model,
    pub tree: &'j KernelTree,
    pub place: &'j dyn Place,
    pub compilers: Option<&'j dyn Compilers>,
    pub baselines: &'j Baselines<'m>,
    /// Numerics whose variants are judged.
    pub numerics: Vec<Numerics>,
    pub thorough: bool,
    pub seed: [u8; 32],
    pub stop: &'j AtomicBool,
    pub progress: &'j dyn Progress,
    /// The last stage that is asked for.
    pub through: Stage,
    /// The workbench whose kernels compute-sanitizer is to watch; `None`: it is not asked for.
    pub sanitize: Option<&'j std::path::Path>,
    /// Cases that other verdicts about the same node ask as well; `None`: this one's are its own.
    pub shared: Option<&'j Shared>,
}

/// One verdict in the making.
struct Run<'r> {
    verdict: &'r mut Verdict,
    started: Instant,
    figures: Figures,
}

impl Run<'_> {
    fn end(&mut self, stage: Stage, outcome: Outcome) -> bool {
        let go_on = matches!(outcome, Outcome::Pass | Outcome::NotRun { .. });
        let seconds = self.started.elapsed().as_secs_f64();
        let figures = std::mem::take(&mut self.figures);
        self.verdict.stages.push(StageReport { stage, outcome, figures, seconds });
        self.started = Instant::now();
        go_on
    }
}

fn red(reason: impl Into<String>) -> Outcome {
    Outcome::Red { reason: reason.into(), first_bad: None }
}

impl<'m> Judge<'_, 'm> {
    /// Runs the stages until one is red. `proved` are nodes that run on the device beside this one in stage 6.
    pub fn judge(&self, node: &Node, proved: &[Node]) -> Result<Verdict> {
        let mut verdict = Verdict::begun(super::Target::Node(node.clone()), self.place, &self.seed);
        let started = Instant::now();
        let mut run = Run { verdict: &mut verdict, started: Instant::now(), figures: Figures::new() };
        self.stages(node, proved, &mut run)?;
        // Of a file that was written to meanwhile the binding names what was not judged.
        self.model.gguf.check_unchanged()?;
        verdict.seconds = started.elapsed().as_secs_f64();
        Ok(verdict)
    }

    fn begin(&self, node: &Node, stage: Stage) -> Result<()> {
        self.progress.stage(node, stage);
        unless(self.stop)
    }

    fn stages(&self, node: &Node, proved: &[Node], run: &mut Run<'_>) -> Result<()> {
        self.begin(node, Stage::Weights)?;
        let outcome = self.weights(node, &mut run.figures)?;
        if !run.end(Stage::Weights, outcome) {
            return Ok(());
        }
        self.begin(node, Stage::Source)?;
        let kernel = match self.tree.require(node) {
            Ok(k) => k,
            Err(e) => {
                run.end(Stage::Source, red(e.to_string()));
                return Ok(());
            }
        };
        let source = match self.tree.source(&kernel) {
            Ok(s) => s,
            Err(e) => {
                run.end(Stage::Source, red(e.to_string()));
                return Ok(());
            }
        };
        let op = ops::find(&node.op).ok_or_else(|| Error::internal(format!("no op {}", node.op)))?;
        let mut faults = source::faults(&source, kernel.manifest, op.contract());
        let variants = variants(&self.numerics, self.place.arch(), node, &kernel);
        if variants.is_empty() {
            faults.push(format!("no variant of kernels/{}.toml covers {node} on {}", kernel.stem, self.place.arch()));
        }
        let entries = entries(&variants);
        let mut judged = "no output byte written";
        if let Some(compilers) = self.compilers.filter(|_| faults.is_empty()) {
            match compilers.stubs(&source, &entries, node) {
                Ok(stubs) => {
                    judged = "ptx";
                    faults.extend(stubs);
                }
                // What does not compile is stage 3's finding.
                Err(e) if is_kernels_fault(&e) => {}
                Err(e) => return Err(e),
            }
        }
        run.verdict.closure = self.tree.closure_of(node, &kernel, &source).ok();
        run.verdict.variants = variants.iter().map(|v| v.name.clone()).collect();
        run.figures.insert("files".into(), json!(source.files.len()));
        run.figures.insert("stub_check".into(), json!(judged));
        let outcome = if faults.is_empty() { Outcome::Pass } else { red(faults.join("; ")) };
        if !run.end(Stage::Source, outcome) {
            return Ok(());
        }
        self.begin(node, Stage::Build)?;
        let module = match self.build(&source, &entries, &mut run.figures) {
            Ok(m) => m,
            Err(e) if is_kernels_fault(&e) => {
                run.end(Stage::Build, red(e.to_string()));
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        run.end(Stage::Build, Outcome::Pass);
        self.begin(node, Stage::Unit)?;
        let Tested { outcome, fates, stub } = self.unit(node, &variants, &module, run)?;
        // A kernel that never writes is a stub, and that is stage 2's finding even where only a run can tell.
        if let (true, Some(s)) = (stub, run.verdict.stages.iter_mut().find(|s| s.stage == Stage::Source)) {
            s.outcome = red("stub: no byte of any output was written, in any case");
            return Ok(());
        }
        if !run.end(Stage::Unit, outcome) {
            return Ok(());
        }
        if self.through < Stage::Teeth {
            return Ok(());
        }
        self.begin(node, Stage::Teeth)?;
        let weak: Vec<_> = fates.iter().filter(|f| f.is_weak()).map(|f| format!("{:?}", f.mutant)).collect();
        run.figures.insert("mutants".into(), json!(fates));
        let outcome = if weak.is_empty() {
            Outcome::Pass
        } else {
            Outcome::Indeterminate {
                reason: format!("the cases do not kill {} twice: they are to be repaired", weak.join(", ")),
            }
        };
        if !run.end(Stage::Teeth, outcome) {
            return Ok(());
        }
        if self.through < Stage::Prefill {
            return Ok(());
        }
        self.begin(node, Stage::Prefill)?;
        let graph = match self.prefill(node, proved, &kernel, &module, run)? {
            Some(graph) => graph,
            None => return Ok(()),
        };
        self.begin(node, Stage::Graph)?;
        run.figures.insert("segments".into(), json!(graph.segments));
        run.figures.insert("launches".into(), json!(graph.launches));
        let outcome = match graph.red {
            Some(reason) => red(reason),
            None if graph.absent => Outcome::NotRun { reason: "could not run: no CUDA device".into() },
            None if graph.launches == 0 => Outcome::Indeterminate { reason: "no launch was captured".into() },
            None => Outcome::Pass,
        };
        if !run.end(Stage::Graph, outcome) {
            return Ok(());
        }
        self.begin(node, Stage::Sanitizer)?;
        let outcome = match (self.place.placement(), self.sanitize) {
            (Placement::Device, Some(workbench)) => sanitize::run(workbench, node, &self.seed, &mut run.figures)?,
            (Placement::Device, None) => Outcome::NotRun { reason: "compute-sanitizer was not asked for".into() },
            _ => Outcome::NotRun { reason: "could not run: no CUDA device".into() },
        };
        run.end(Stage::Sanitizer, outcome);
        Ok(())
    }

    /// Stage 1: every tensor that the node reads is there, with the type, dims and place that the plan asks for.
    fn weights(&self, node: &Node, figures: &mut Figures) -> Result<Outcome> {
        let mut found = false;
        let mut tensors: Vec<String> = Vec::new();
        for numerics in &self.numerics {
            let plan = Plan::build(self.model, canonical(*numerics))?;
            for i in plan.instances.iter().filter(|i| i.node == *node) {
                found = true;
                tensors.extend(i.weights.iter().flatten().cloned());
            }
        }
        if !found {
            return Ok(red(format!(
                "{node} is unreachable: no op of this file's plan has that node; it holds other types there (assay plan)"
            )));
        }
        tensors.sort();
        tensors.dedup();
        let mut digest = Sha256::new();
        let mut bytes = 0u64;
        for name in &tensors {
            unless(self.stop)?;
            let Some(t) = self.model.tensor(name) else { return Ok(red(format!("tensor {name} is missing"))) };
            digest.update(name.as_bytes());
            digest.update(t.dtype.name().as_bytes());
            for d in t.dims {
                digest.update(d.to_le_bytes());
            }
            digest.update(Sha256::digest(t.bytes));
            bytes += t.bytes.len() as u64;
        }
        figures.insert("tensors".into(), json!(tensors.len()));
        figures.insert("bytes".into(), json!(bytes));
        figures.insert("sha256".into(), json!(hex(&digest.finalize())));
        if let Some(note) = self.model.weights_note() {
            figures.insert("weights".into(), json!(note));
        }
        Ok(Outcome::Pass)
    }

    fn build(&self, source: &SourceSet, entries: &[String], figures: &mut Figures) -> Result<Module> {
        if let Some(compilers) = self.compilers {
            figures.insert("architectures".into(), json!(compilers.build_all(source, entries)?));
        }
        let Built { module, compiler } = self.place.build(source, entries)?;
        if let Module::Cubin(cubin) = &module {
            figures.insert("cubin_sha256".into(), json!(hex(&Sha256::digest(cubin))));
        }
        for (k, v) in self.place.describe() {
            figures.insert(k, v);
        }
        figures.insert(figure::COMPILER.into(), told(&compiler)?);
        Ok(module)
    }

    fn unit(&self, node: &Node, variants: &[&Variant], module: &Module, run: &mut Run<'_>) -> Result<Tested> {
        let op = ops::find(&node.op).ok_or_else(|| Error::internal(format!("no op {}", node.op)))?;
        let shapes = shapes(self.model, &self.numerics, node)?;
        let request = asked::Request {
            op,
            types: asked::slot_types(op, node),
            shapes: &shapes,
            seed: self.seed,
            placement: self.place.placement(),
            thorough: self.thorough,
        };
        let mut fates: Vec<mutants::Fate> = Vec::new();
        for variant in variants {
            let draw = || request.cases_unless(variant, self.stop);
            let questions = match self.shared {
                Some(shared) => shared.of(&variant.name, draw)?,
                None => Arc::new(Questions::once(draw()?)),
            };
            let mut device = self.place.start()?;
            let module = match device.load(module) {
                Ok(m) => m,
                Err(e) if is_kernels_fault(&e) => {
                    return Ok(Tested { outcome: red(format!("{}: {e}", variant.name)), fates, stub: false });
                }
                Err(e) => return Err(e),
            };
            let mut runner = Runner { device: &mut *device, module, variant };
            let tick = |done, of| self.progress.tick(done, of);
            let unit = unit::judge(&mut runner, &questions, variant.rounding, &self.seed, self.stop, tick)?;
            let mut figures = json!({ "cases": unit.cases, "outputs": unit.pool.outputs });
            // A null is an error without bound, and a zero none: what was not measured is not there.
            if let Some(error) = unit.pool.figure() {
                figures["relative_rms"] = json!(error);
                figures["honest_relative_rms"] = json!(unit.pool.honest_rms());
                figures["limit"] = json!(unit.pool.limit());
                figures["max_abs"] = json!(unit.pool.max_abs);
                figures["max_relative"] = json!(unit.pool.max_relative);
            }
            if unit.failure.is_none() && self.place.placement() == Placement::Device {
                time(&mut runner, &request, &mut figures)?;
            }
            run.figures.insert(variant.name.clone(), figures);
            run.verdict.digests.insert(variant.name.clone(), json!({ "cases": unit.asked, "outputs": unit.outputs }));
            if let Some(f) = unit.failure {
                let reason = format!("{}: {}", variant.name, f.reason);
                return Ok(Tested { outcome: Outcome::Red { reason, first_bad: f.first_bad }, fates, stub: f.stub });
            }
            let draw = &mut mutants::draw(&self.seed, &variant.name);
            let small: Vec<_> = unit
                .small
                .iter()
                .flat_map(|(i, right)| right.iter().map(|r| (&questions.planned[*i].case, r)))
                .collect();
            let mine = mutants::teeth_unless(&small, variant.rounding, draw, self.stop)?;
            mutants::sum(&mut fates, &mine);
        }
        Ok(Tested { outcome: Outcome::Pass, fates, stub: false })
    }

    /// Numerics of the prefills. On the emulator one is enough where both run the same variants: a prefill there is no
    /// more than a rehearsal.
    fn prefill_numerics(&self, node: &Node, kernel: &Kernel<'_>) -> Result<Vec<Numerics>> {
        let mut out = Vec::new();
        for numerics in &self.numerics {
            let plan = Plan::build(self.model, canonical(*numerics))?;
            if plan.instances.iter().any(|i| i.node == *node) {
                out.push(*numerics);
            }
        }
        let names = |n: Numerics| -> Vec<&str> {
            kernel.selectable(node, n, self.place.arch()).iter().map(|v| v.name.as_str()).collect()
        };
        if self.place.placement() == Placement::Emulator
            && !self.thorough
            && out.len() == 2
            && names(out[0]) == names(out[1])
        {
            out.truncate(1);
        }
        Ok(out)
    }

    /// Stage 6, and the material of stage 7; `None` when the stage ended the verdict.
    fn prefill(
        &self,
        node: &Node,
        proved: &[Node],
        kernel: &Kernel<'_>,
        module: &Module,
        run: &mut Run<'_>,
    ) -> Result<Option<prefill::Graph>> {
        let total: u64 = self.model.gguf.tensors().iter().map(|t| self.model.gguf.bytes(t).len() as u64).sum();
        let in_large = total > LARGE_MODEL;
        if in_large && self.place.placement() != Placement::Device {
            let reason = format!("this file holds {} GiB; a prefill over it is run on a device alone", total >> 30);
            run.end(Stage::Prefill, Outcome::Indeterminate { reason });
            return Ok(None);
        }
        let build = |stem: &str, entries: &[String]| -> Result<Module> {
            if stem == kernel.stem {
                return Ok(module.clone());
            }
            let set = self.tree.source_of(stem)?;
            Ok(self.place.build(&set, entries)?.module)
        };
        let request = prefill::Request {
            model: self.model,
            tree: self.tree,
            place: self.place,
            baselines: self.baselines,
            node,
            proved,
            thorough: self.thorough,
            stop: self.stop,
            build: &build,
        };
        let mut graph = prefill::Graph::default();
        for numerics in self.prefill_numerics(node, kernel)? {
            let p = match in_large {
                true => large::run(&request, numerics, &self.seed)?,
                false => request.run(numerics, &mut |done, of| self.progress.tick(done, of))?,
            };
            run.figures.extend(p.figures);
            if let Some((reason, first_bad)) = p.red {
                run.end(Stage::Prefill, Outcome::Red { reason, first_bad });
                return Ok(None);
            }
            if let Some(reason) = p.weak {
                run.end(Stage::Prefill, Outcome::Indeterminate { reason });
                return Ok(None);
            }
            graph.segments += p.graph.segments;
            graph.launches += p.graph.launches;
            graph.absent |= p.graph.absent;
            graph.red = graph.red.or(p.graph.red);
        }
        run.end(Stage::Prefill, Outcome::Pass);
        Ok(Some(graph))
    }
}

/// How long a variant takes, by its device's clock. Nothing hangs on it: where it cannot be measured, the figures say why.
fn time(runner: &mut Runner<'_>, request: &asked::Request<'_, '_>, figures: &mut serde_json::Value) -> Result<()> {
    let Some(case) = request.timed(runner.variant)? else { return Ok(()) };
    match runner.time(&case, case.tokens()) {
        Ok(Some(us)) => {
            figures[figure::TIME_US] = json!(us);
            figures["timed_tokens"] = json!(case.tokens());
        }
        Ok(None) => {}
        Err(e) if e.code().id == Error::interrupted().code().id => return Err(e),
        Err(e) => figures["not_timed"] = json!(e.what()),
    }
    Ok(())
}

/// What stage 4 hands on.
struct Tested {
    outcome: Outcome,
    fates: Vec<mutants::Fate>,
    /// No case had a single byte of output written.
    stub: bool,
}

/// Every variant that some schedule of this node selects on an architecture.
pub(super) fn variants<'k>(numerics: &[Numerics], arch: &str, node: &Node, kernel: &Kernel<'k>) -> Vec<&'k Variant> {
    let mut out: Vec<&Variant> = Vec::new();
    for numerics in numerics {
        let mut ended = false;
        for v in kernel.manifest.variants.iter().filter(|v| v.covers(node, *numerics, arch)) {
            if !ended && !out.iter().any(|o| o.name == v.name) {
                out.push(v);
            }
            ended |= v.tokens.is_none();
        }
    }
    out
}

/// The node's shapes in the model, each once.
pub(super) fn shapes<'m>(model: &'m Model, numerics: &[Numerics], node: &Node) -> Result<Vec<ModelShape<'m>>> {
    let mut out: Vec<ModelShape<'m>> = Vec::new();
    for numerics in numerics {
        let plan = Plan::build(model, canonical(*numerics))?;
        for i in plan.instances.iter().filter(|i| i.node == *node) {
            let absent: Vec<bool> = i.args.iter().map(Option::is_none).collect();
            let optional: Vec<bool> = i.weights.iter().map(Option::is_none).collect();
            let same = |s: &&mut ModelShape<'m>| {
                s.dims == i.dims
                    && s.absent == absent
                    && s.weights.iter().map(Option::is_none).eq(optional.iter().copied())
            };
            if out.iter_mut().find(same).is_some() {
                continue;
            }
            let weights = i.weights.iter().map(|w| w.as_deref().map(|w| host_weight(model, w)).transpose());
            out.push(ModelShape {
                label: i.label.clone(),
                dims: i.dims.clone(),
                scalars: i.scalars.clone(),
                weights: weights.collect::<Result<_>>()?,
                absent,
            });
        }
    }
    Ok(out)
}

pub(super) fn entries(variants: &[&Variant]) -> Vec<String> {
    let mut out: Vec<String> = variants.iter().flat_map(|v| v.launches.iter().map(|l| l.entry.clone())).collect();
    out.sort();
    out.dedup();
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::backend::Device;
    use crate::backend::emulator::{Builder, Emulator};
    use crate::error::Kind;

    /// Arrays of tens of megabytes were drawn for a verdict that nobody wanted any more.
    #[test]
    fn a_verdict_that_nobody_wanted_had_its_cases_drawn() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let tree = KernelTree::open(&root.join("kernels")).unwrap();
        let node: Node = "take_rows".parse().unwrap();
        let kernel = tree.require(&node).unwrap();
        let variants = variants(&[Numerics::Ds4], "emulator", &node, &kernel);
        let op = ops::find("take_rows").unwrap();
        let (types, placement) = (asked::slot_types(op, &node), Placement::Emulator);
        let request = asked::Request { op, types, shapes: &[], seed: [1; 32], placement, thorough: false };
        let stop = AtomicBool::new(true);
        let drawn = request.cases_unless(variants[0], &stop);
        assert_eq!(drawn.err().map(|e| e.kind()), Some(Kind::Interrupted));
        let planned = request.cases(variants[0]).unwrap().into_iter().find(asked::Planned::is_small).unwrap();
        let reference = super::super::compare::Reference::of(&planned.case, crate::ops::Rounding::None).unwrap();
        let mut draw = mutants::draw(&[1; 32], "x");
        let tried = mutants::teeth_unless(&[(&planned.case, &reference)], crate::ops::Rounding::None, &mut draw, &stop);
        assert_eq!(tried.err().map(|e| e.kind()), Some(Kind::Interrupted));
    }

    /// No verdict had a time, so that no history had one over commits.
    #[test]
    fn what_is_timed_is_the_same_whatever_the_seed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let model = Model::open(&root.join("reference/tiny/model.gguf")).unwrap();
        let tree = KernelTree::open(&root.join("kernels")).unwrap();
        let node: Node = "rms_norm".parse().unwrap();
        let (kernel, op) = (tree.require(&node).unwrap(), ops::find("rms_norm").unwrap());
        let numerics = [Numerics::Ds4, Numerics::Exact];
        let shapes = shapes(&model, &numerics, &node).unwrap();
        let variants = variants(&numerics, "emulator", &node, &kernel);
        let request = |seed| asked::Request {
            op,
            types: asked::slot_types(op, &node),
            shapes: &shapes,
            seed,
            placement: Placement::Device,
            thorough: false,
        };
        let [one, other] = [[1; 32], [2; 32]].map(|seed| request(seed).timed(variants[0]).unwrap().unwrap());
        assert_eq!((&one.label, one.tokens(), &one.args), (&other.label, other.tokens(), &other.args));
        let most = shapes.iter().map(|s| op.macs(&s.dims, one.tokens())).max().unwrap();
        assert_eq!(op.macs(&one.dims, one.tokens()), most);

        let cache = tempfile::tempdir().unwrap();
        let builder = Builder::with_cache(cache.path()).unwrap();
        let entries = entries(&variants);
        let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
        let built = builder.build(&tree.source(&kernel).unwrap(), &entries).unwrap();
        let mut device = Emulator::new(builder.compiler().version.clone()).unwrap();
        let module = device.load(&built.module).unwrap();
        let mut runner = Runner { device: &mut device, module, variant: variants[0] };
        let mut figures = json!({});
        time(&mut runner, &request([3; 32]), &mut figures).unwrap();
        assert!(figures["time_us"].as_f64().unwrap() > 0.0, "{figures}");
        assert_eq!(figures["timed_tokens"], one.tokens());
    }
}
