//! Stage 8: a few cases of every variant under compute-sanitizer.
//!
//! The tool must watch the process that launches, so the cases run unconfined in a child of their own
//! (`assay sanitize-run`), after every other stage has judged the kernel in confinement.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::asked::{self, Request};
use super::questions::Questions;
use super::runner::Runner;
use super::unit;
use super::{Figures, Outcome};
use crate::backend::cuda::sanitizer::{self, Tool};
use crate::backend::cuda::{Cache, Cubins, Cuda, Nvrtc};
use crate::backend::{Device, Module, Placement};
use crate::error::{Error, Result};
use crate::ops::{self, Node};
use crate::plan::kernels::KernelTree;
use crate::plan::source::hex;

const TOOLS: [Tool; 2] = [Tool::Memcheck, Tool::Racecheck];
const DEADLINE: Duration = Duration::from_secs(120);
/// Cases of a variant, and their largest work: the tool slows a kernel by a factor of ten to a hundred.
const CASES: usize = 4;
const MACS: u64 = 3_000_000;

/// Runs the node's cases under each tool. `workbench` is where the child finds the kernels.
pub fn run(workbench: &Path, node: &Node, seed: &[u8; 32], figures: &mut Figures) -> Result<Outcome> {
    let tool = match sanitizer::find() {
        Ok(tool) => tool,
        Err(e) => return Ok(Outcome::NotRun { reason: format!("could not run: {}", e.what()) }),
    };
    let exe = std::env::current_exe().map_err(|e| Error::io("the running program", e))?;
    let text = |p: &Path| p.to_string_lossy().into_owned();
    let command = [text(&exe), "-C".into(), text(workbench), "sanitize-run".into(), node.to_string(), hex(seed)];
    for t in TOOLS {
        let outcome = match tool.run(&command, t, DEADLINE) {
            Ok(outcome) => outcome,
            Err(e) => return Ok(Outcome::NotRun { reason: format!("could not run: {}", e.what()) }),
        };
        figures.insert(format!("{}_errors", t.name()), outcome.errors.into());
        if outcome.timed_out {
            return Ok(Outcome::Indeterminate {
                reason: format!("{} did not end within {} s", t.name(), DEADLINE.as_secs()),
            });
        }
        if !outcome.clean {
            let reason = match outcome.errors {
                0 => format!("under {} a case failed: {}", t.name(), outcome.said.join("; ")),
                n => format!("{} found {n} errors: {}", t.name(), outcome.report.join("; ")),
            };
            return Ok(Outcome::Red { reason, first_bad: None });
        }
    }
    Ok(Outcome::Pass)
}

/// What the watched child does: small cases of every variant, in this process.
pub fn child(kernels: &Path, node: &Node, seed: [u8; 32]) -> Result<()> {
    let tree = KernelTree::open(kernels)?;
    let kernel = tree.require(node)?;
    let source = tree.source(&kernel)?;
    let op = ops::find(&node.op).ok_or_else(|| Error::usage(format!("there is no op {}", node.op)))?;
    let mut device = Cuda::open()?;
    let arch = device.info().arch.clone();
    let variants: Vec<_> = kernel.manifest.variants.iter().filter(|v| v.covers_types(node)).collect();
    let entries: Vec<String> = variants.iter().flat_map(|v| v.launches.iter().map(|l| l.entry.clone())).collect();
    let nvrtc = Nvrtc::find()?;
    let target = super::places::target(&arch);
    let (compiled, _) = Cubins::new(&nvrtc, Cache::open("cuda")?).compile(&source, &entries, target)?;
    let module = device.load(&Module::Cubin(compiled.cubin))?;
    let request = Request {
        op,
        types: asked::slot_types(op, node),
        shapes: &[],
        seed,
        // Small cases: those of the emulator.
        placement: Placement::Emulator,
        thorough: false,
    };
    for variant in variants {
        let mut planned = request.cases(variant)?;
        planned.retain(|p| op.macs(&p.case.dims, p.case.tokens()) <= MACS);
        planned.sort_by_key(|p| std::cmp::Reverse(p.case.tokens()));
        planned.truncate(CASES);
        let mut runner = Runner { device: &mut device, module, variant };
        let questions = Questions::once(planned);
        let found = unit::judge(&mut runner, &questions, variant.rounding, &seed, &AtomicBool::new(false), |_, _| {})?;
        if let Some(f) = found.failure {
            return Err(Error::new(&SANITIZED, format!("{}: {}", variant.name, f.reason)));
        }
    }
    Ok(())
}

crate::codes! {
    SANITIZED: "sanitizer-case", No, "A case failed while compute-sanitizer watched it.";
}
