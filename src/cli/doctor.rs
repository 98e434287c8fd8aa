//! `assay doctor`: what this machine has, and the one line that installs what it lacks.

use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::output;
use crate::{
    Result,
    backend::{
        Device,
        cuda::{Cuda, Nvrtc, cache, find::INSTALL, sanitizer},
        emulator::compiler::Compiler,
        worker::{DeviceKind, Level, Sandbox, WorkerDevice, WorkerOptions},
    },
    ledger::{Config, Trust},
    report::standing,
    workbench::Workbench,
};

/// Say what this machine has, and how to install what is missing
#[derive(clap::Args)]
pub struct Doctor {
    /// Print one JSON object (schema assay.doctor/1)
    #[arg(long)]
    json: bool,
}

/// One thing that assay can use.
#[derive(Serialize)]
struct Check {
    name: &'static str,
    present: bool,
    /// What is there, or why it is not.
    detail: String,
    /// What assay cannot do without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    without: Option<&'static str>,
    /// The command that installs it, where a command can.
    #[serde(skip_serializing_if = "Option::is_none")]
    install: Option<&'static str>,
}

impl Doctor {
    pub fn run(&self) -> Result<u8> {
        let (sandbox, level) = sandbox();
        let mut checks = vec![device(), driver(), nvrtc(), host_compiler(), sanitizer(), sandbox];
        checks.push(policy(level, &trust()?));
        checks.extend([keys(), cache()]);
        let installs: Vec<_> = checks.iter().filter(|c| !c.present).filter_map(|c| c.install).collect();
        let line = installs.join(" && ");
        if self.json {
            let install = (!line.is_empty()).then_some(line);
            output::json("assay.doctor/1", json!({ "checks": checks, "install": install }))?;
            return Ok(0);
        }
        for check in &checks {
            let mark = if check.present { "ok" } else { "--" };
            let detail = check.detail.replace('\n', "\n                        ");
            output::println(format_args!("{mark}  {:<18}  {detail}", check.name))?;
            if let Some(without) = check.without.filter(|_| !check.present) {
                output::println(format_args!("{:<22}  without it: {without}", ""))?;
            }
        }
        if !line.is_empty() {
            output::println(format_args!("\nTo install what is missing:\n  {line}"))?;
        }
        Ok(0)
    }
}

fn check<T>(
    name: &'static str,
    found: Result<T>,
    detail: impl FnOnce(T) -> String,
    without: &'static str,
    install: Option<&'static str>,
) -> Check {
    match found {
        Ok(found) => Check { name, present: true, detail: detail(found), without: None, install: None },
        Err(e) => {
            let found = e.found_text().map(|f| format!(": {f}")).unwrap_or_default();
            Check { name, present: false, detail: format!("{}{found}", e.what()), without: Some(without), install }
        }
    }
}

fn device() -> Check {
    let describe = |device: Cuda| {
        let info = device.info();
        let gib = info.memory as f64 / (1u64 << 30) as f64;
        format!("{}, {}, {gib:.0} GiB, {} KiB shared memory a block", info.name, info.arch, info.shared_max >> 10)
    };
    // A driver helps only where there is something to drive.
    let install = has_nvidia_hardware().then_some("sudo apt install nvidia-driver");
    check("device", Cuda::open(), describe, "no kernel can turn green here; they run on the CPU emulator", install)
}

/// Whether a display or 3D controller of NVIDIA is on the PCI bus.
fn has_nvidia_hardware() -> bool {
    let Ok(devices) = std::fs::read_dir("/sys/bus/pci/devices") else { return false };
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    devices
        .flatten()
        .any(|d| read(d.path().join("vendor")).trim() == "0x10de" && read(d.path().join("class")).starts_with("0x03"))
}

fn driver() -> Check {
    let version = std::fs::read_to_string("/proc/driver/nvidia/version");
    let (present, detail) = match version {
        Ok(text) => (true, text.lines().next().unwrap_or_default().trim_start_matches("NVRM version: ").to_owned()),
        Err(_) if Path::new("/dev/dxg").exists() => (true, "the Windows driver, through WSL".to_owned()),
        Err(_) => (false, "no NVIDIA kernel driver is loaded".to_owned()),
    };
    Check { name: "driver", present, detail, without: None, install: None }
}

fn nvrtc() -> Check {
    let describe = |nvrtc: Nvrtc| {
        let range = match (nvrtc.supported().first(), nvrtc.supported().last()) {
            (Some(first), Some(last)) => format!(", sm_{first} to sm_{last}"),
            _ => String::new(),
        };
        format!("{} from {}: {}{range}", nvrtc.version(), nvrtc.from(), nvrtc.path().display())
    };
    check("NVRTC", Nvrtc::find(), describe, "kernels cannot be compiled for CUDA devices", Some(INSTALL))
}

fn host_compiler() -> Check {
    let describe = |c: Compiler| format!("{} ({})", c.path.display(), c.version);
    let without = "kernels cannot run on the CPU emulator; the oracle still works";
    check("host C++ compiler", Compiler::find(), describe, without, Some("sudo apt install g++"))
}

fn sanitizer() -> Check {
    let describe = |s: sanitizer::Sanitizer| s.path.display().to_string();
    // Of no use without a device, so no line to install it with is given.
    check("compute-sanitizer", sanitizer::find(), describe, "verify leaves out stage 8, and says so", None)
}

/// Asks a worker that confined itself, since only that knows what the kernel granted.
fn sandbox() -> (Check, Level) {
    let started = WorkerOptions::new(DeviceKind::Emulator).and_then(|options| WorkerDevice::start(&options));
    let mut reached = Level::None;
    let describe = |worker: WorkerDevice| {
        let Sandbox { level, landlock_abi, seccomp, namespaces } = worker.sandbox().clone();
        reached = level;
        let level = match level {
            Level::Full => "full",
            Level::Partial => "partial",
            Level::None => "none: kernels run unconfined on this machine",
        };
        let has = |yes: bool| if yes { "yes" } else { "no" };
        format!("{level} (landlock {landlock_abi}, seccomp {}, namespaces {})", has(seccomp), has(namespaces))
    };
    let found = check("sandbox", started, describe, "no kernel can be judged", None);
    (found, reached)
}

/// Who is asked for what of verdicts: the workbench here, if there is one, and the user.
fn trust() -> Result<Trust> {
    let bench = Workbench::find(".".as_ref()).ok();
    match bench {
        Some(bench) => standing::trust(&bench.root, None, &mut Vec::new()),
        None => Ok(Trust::nobody()),
    }
}

/// Whether what is judged here may be recorded.
fn policy(reached: Level, trust: &Trust) -> Check {
    let asked = trust.sandbox();
    let overruled = trust.overruled().map_or(String::new(), |why| format!("\n{why}"));
    Check {
        name: "record policy",
        present: reached.reaches(asked),
        detail: format!(
            "a row needs sandbox {}; `sandbox` in trust.toml lowers that, in assay.toml raises it{overruled}",
            asked.name()
        ),
        without: Some("what is judged here cannot be recorded, nor taken from here"),
        install: None,
    }
}

fn keys() -> Check {
    let found = Config::of_user().and_then(|config| match config.key_names()? {
        names if names.is_empty() => config.key(None).map(|_| String::new()),
        names => Ok(format!("{} in {}", names.join(", "), config.dir().display())),
    });
    check(
        "keys",
        found,
        |names| names,
        "evidence cannot be signed, so nothing can be recorded",
        Some("assay key new me"),
    )
}

fn cache() -> Check {
    let found = cache::directory().and_then(|dir| cache::writable(&dir).map(|()| dir));
    check("cache folder", found, |dir| dir.display().to_string(), "every kernel is compiled every time", None)
}
