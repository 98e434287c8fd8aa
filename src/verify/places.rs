//! The two places where kernels are judged, and the compilers that need no device.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::{Compilers, Figures, Place};
use crate::backend::cuda::{self, Cubins, Nvrtc, ptx};
use crate::backend::emulator::{Builder, object};
use crate::backend::worker::{DeviceKind, Sandbox, WorkerDevice, WorkerOptions};
use crate::backend::{Built, Device, Module, Placement};
use crate::error::{Error, Result};
use crate::ledger::figure;
use crate::ops::{self, Node};
use crate::plan::rules;
use crate::plan::source::SourceSet;

/// The CPU emulator, in a confined worker.
pub struct EmulatorPlace {
    builder: Builder,
    options: WorkerOptions,
    launch_limit: Mutex<Option<Duration>>,
    figures: Figures,
}

impl EmulatorPlace {
    /// Errors: `emulator-no-compiler` where the host has no C++ compiler.
    pub fn new() -> Result<EmulatorPlace> {
        EmulatorPlace::with(Builder::new()?)
    }

    /// One that keeps its objects in a folder of their own and leaves out of them what no entry reaches.
    pub fn apart(cache: &Path) -> Result<EmulatorPlace> {
        EmulatorPlace::with(Builder::with_cache(cache)?.without_unreached())
    }

    /// The same, whose objects are compiled sooner and run longer.
    pub fn quick(cache: &Path) -> Result<EmulatorPlace> {
        EmulatorPlace::with(Builder::with_cache(cache)?.without_unreached().quickly())
    }

    /// The most blocks that launches have in flight from now on.
    pub fn limit_threads(&mut self, most: usize) {
        self.options.emulator_threads = most;
    }

    /// The most that one launch may take from now on, whatever a judge would grant it.
    pub fn limit_launches(&self, limit: Option<Duration>) {
        *self.launch_limit.lock().unwrap_or_else(PoisonError::into_inner) = limit;
    }

    fn options(&self) -> WorkerOptions {
        let launch_limit = *self.launch_limit.lock().unwrap_or_else(PoisonError::into_inner);
        WorkerOptions { launch_limit, ..self.options.clone() }
    }

    /// What is under way here ends when `halt` is set, and nothing begins any more.
    pub fn halt_by(&mut self, halt: &Arc<AtomicBool>) {
        self.options.halt = halt.clone();
        self.builder.halt_by(halt);
    }

    fn with(builder: Builder) -> Result<EmulatorPlace> {
        let mut options = WorkerOptions::new(DeviceKind::Emulator)?;
        options.read.push(builder.cache().to_path_buf());
        options.emulator_name = builder.compiler().version.clone();
        let probe = WorkerDevice::start(&options)?;
        let mut figures = Figures::new();
        figures.insert("compiler".into(), json!(builder.compiler().version));
        figures.insert("sandbox".into(), told(probe.sandbox())?);
        let builder = builder.confining(probe.sandbox().level);
        Ok(EmulatorPlace { builder, options, launch_limit: Mutex::default(), figures })
    }
}

impl Place for EmulatorPlace {
    fn placement(&self) -> Placement {
        Placement::Emulator
    }

    fn arch(&self) -> &str {
        crate::plan::manifest::EMULATOR
    }

    fn build(&self, source: &SourceSet, entries: &[String]) -> Result<Built> {
        rules::check(source)?;
        let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
        let built = self.builder.build(source, &entries)?;
        if let Module::SharedObject(path) = &built.module {
            let file = std::fs::read(path).map_err(|e| Error::io(path, e))?;
            object::check(&source.main, &file)?;
        }
        Ok(built)
    }

    fn start(&self) -> Result<Box<dyn Device>> {
        Ok(Box::new(WorkerDevice::start(&self.options())?))
    }

    fn start_reading(&self, model: &Path) -> Result<Box<dyn Device>> {
        Ok(Box::new(WorkerDevice::start(&self.options().reading(model))?))
    }

    fn describe(&self) -> Figures {
        self.figures.clone()
    }
}

/// NVRTC, for every architecture that a workbench names.
pub struct NvrtcCompilers {
    nvrtc: Nvrtc,
    architectures: Vec<String>,
}

impl NvrtcCompilers {
    pub fn new(architectures: &[String]) -> Result<NvrtcCompilers> {
        Ok(NvrtcCompilers { nvrtc: Nvrtc::find()?, architectures: architectures.to_vec() })
    }

    pub fn nvrtc(&self) -> &Nvrtc {
        &self.nvrtc
    }

    /// What is under way ends when `halt` is set.
    pub fn halt_by(&mut self, halt: &Arc<AtomicBool>) {
        self.nvrtc.halt_by(halt);
    }

    fn cubins(&self) -> Result<Cubins<'_>> {
        Ok(Cubins::new(&self.nvrtc, cuda::Cache::open("cuda")?))
    }
}

impl Compilers for NvrtcCompilers {
    fn build_all(&self, source: &SourceSet, entries: &[String]) -> Result<Figures> {
        let (mut out, mut confined): (_, Option<Sandbox>) = (Figures::new(), None);
        for arch in &self.architectures {
            if !self.nvrtc.supports(arch) {
                out.insert(arch.clone(), json!("this NVRTC cannot"));
                continue;
            }
            let (compiled, _) = self.cubins()?.compile(source, entries, arch)?;
            let entries = serde_json::to_value(&compiled.entries).map_err(|e| Error::internal(e.to_string()))?;
            out.insert(arch.clone(), entries);
            confined = Some(confined.map_or(compiled.sandbox.clone(), |least| least.shared(&compiled.sandbox)));
        }
        out.insert("nvrtc".into(), json!(self.nvrtc.version()));
        if let Some(confined) = confined {
            out.insert(figure::COMPILER.into(), told(&confined)?);
        }
        Ok(out)
    }

    fn stubs(&self, source: &SourceSet, entries: &[String], node: &Node) -> Result<Vec<String>> {
        let op = ops::find(&node.op).ok_or_else(|| Error::internal(format!("no op {}", node.op)))?;
        let text = self.cubins()?.ptx(source, "sm_80")?;
        let stub = ptx::check_stub(op.contract(), &text, entries).map_err(|e| format!("stub: {}", e.what()));
        let rest = [ptx::check_assembly(&text), ptx::check_variables(&text)].map(|r| r.map_err(|e| e.what().into()));
        Ok([stub].into_iter().chain(rest).filter_map(|r| r.err()).collect())
    }
}

/// A CUDA device of this machine, in a confined worker: this process never initialises CUDA.
pub struct CudaPlace {
    compilers: NvrtcCompilers,
    options: WorkerOptions,
    arch: String,
    figures: Figures,
}

impl CudaPlace {
    /// Errors: `no-device`, then `nvrtc-missing`: a compiler would not help a machine without a device.
    pub fn new(architectures: &[String]) -> Result<CudaPlace> {
        let options = WorkerOptions::new(DeviceKind::Cuda)?;
        let device = WorkerDevice::start(&options)?;
        let compilers = NvrtcCompilers::new(architectures)?;
        let info = device.info().clone();
        let mut figures = Figures::new();
        figures.insert("sandbox".into(), told(device.sandbox())?);
        figures.insert("device".into(), json!(info.name));
        figures.insert("driver".into(), json!(info.driver));
        figures.insert("nvrtc".into(), json!(compilers.nvrtc.version()));
        Ok(CudaPlace { compilers, options, arch: info.arch, figures })
    }

    /// What is under way on the device ends when `halt` is set, and nothing begins any more.
    pub fn halt_by(&mut self, halt: &Arc<AtomicBool>) {
        self.options.halt = halt.clone();
        self.compilers.halt_by(halt);
    }

    pub fn compilers(&self) -> &NvrtcCompilers {
        &self.compilers
    }
}

impl Place for CudaPlace {
    fn placement(&self) -> Placement {
        Placement::Device
    }

    fn arch(&self) -> &str {
        &self.arch
    }

    fn build(&self, source: &SourceSet, entries: &[String]) -> Result<Built> {
        let (compiled, _) = self.compilers.cubins()?.compile(source, entries, target(&self.arch))?;
        Ok(Built { module: Module::Cubin(compiled.cubin), compiler: compiled.sandbox })
    }

    fn start(&self) -> Result<Box<dyn Device>> {
        Ok(Box::new(WorkerDevice::start(&self.options)?))
    }

    fn start_reading(&self, model: &Path) -> Result<Box<dyn Device>> {
        Ok(Box::new(WorkerDevice::start(&self.options.reading(model))?))
    }

    fn describe(&self) -> Figures {
        self.figures.clone()
    }
}

/// A confinement as figures tell it.
pub(super) fn told(sandbox: &Sandbox) -> Result<serde_json::Value> {
    serde_json::to_value(sandbox).map_err(|e| Error::internal(e.to_string()))
}

/// The architecture to compile for: Hopper's and Blackwell's own instructions need the suffix.
pub fn target(arch: &str) -> &str {
    match arch {
        "sm_90" => "sm_90a",
        "sm_100" => "sm_100a",
        other => other,
    }
}
