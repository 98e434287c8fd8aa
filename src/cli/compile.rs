//! `assay compile`: every kernel through NVRTC, without a GPU.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Instant,
};

use rayon::prelude::*;
use serde_json::json;

use super::output;
use crate::{
    Error, Result,
    backend::cuda::{Cache, Compiled, Cubins, Nvrtc, Origin},
    ops,
    plan::{manifest::Manifest, source::SourceSet},
    workbench::Workbench,
};

/// Compile kernels for CUDA devices and say what each entry costs; needs NVRTC, no GPU
#[derive(clap::Args)]
pub struct Compile {
    /// Kernel sources [default: kernels/*.cu of the workbench]
    files: Vec<PathBuf>,
    /// Architectures [default: those of assay.toml]
    #[arg(long, value_delimiter = ',', value_name = "SM,…")]
    arch: Vec<String>,
    /// Also write the compiled code: `--emit ptx DIR` or `--emit cubin DIR`
    #[arg(long, num_args = 2, value_names = ["KIND", "DIR"])]
    emit: Vec<String>,
    /// Print one JSON object (schema assay.compile/1)
    #[arg(long)]
    json: bool,
}

/// One source for one architecture.
struct Job {
    root: PathBuf,
    main: String,
    arch: String,
}

struct Done {
    compiled: Compiled,
    origin: Origin,
    seconds: f64,
}

enum Emit {
    Nothing,
    Ptx(PathBuf),
    Cubin(PathBuf),
}

impl Compile {
    pub fn run(&self) -> Result<u8> {
        let emit = self.emit()?;
        let jobs = self.jobs()?;
        let nvrtc = Nvrtc::find()?;
        let cubins = Cubins::new(&nvrtc, Cache::open("cubin")?);
        let results: Vec<(Job, Result<Option<Done>>)> = jobs
            .into_par_iter()
            .map(|job| {
                let done = compile(&cubins, &job, &emit);
                (job, done)
            })
            .collect();
        if self.json {
            self.print_json(&nvrtc, &results)?;
        } else {
            print_table(&nvrtc, &results)?;
        }
        let failed = results.iter().filter_map(|(_, result)| result.as_ref().err());
        Ok(failed.map(Error::kind).max_by_key(|kind| kind.precedence()).map_or(0, |kind| kind.exit_code()))
    }

    fn emit(&self) -> Result<Emit> {
        let [kind, dir] = self.emit.as_slice() else { return Ok(Emit::Nothing) };
        let dir = PathBuf::from(dir);
        std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
        match kind.as_str() {
            "ptx" => Ok(Emit::Ptx(dir)),
            "cubin" => Ok(Emit::Cubin(dir)),
            other => Err(Error::usage(format!("--emit {other}")).expected("ptx or cubin, and a folder")),
        }
    }

    fn jobs(&self) -> Result<Vec<Job>> {
        let workbench = Workbench::find(".".as_ref());
        let mut sources = BTreeSet::new();
        for file in &self.files {
            sources.insert(locate(file, workbench.as_ref().ok())?);
        }
        if self.files.is_empty() {
            let root = workbench.as_ref().map_err(missing)?.kernels();
            for entry in std::fs::read_dir(&root).map_err(|e| Error::io(&root, e))? {
                let name = entry.map_err(|e| Error::io(&root, e))?.file_name();
                if let Some(name) = name.to_str().filter(|n| n.ends_with(".cu")) {
                    sources.insert((root.clone(), name.to_owned()));
                }
            }
            if sources.is_empty() {
                return Err(Error::usage(format!("{} holds no .cu file", root.display())));
            }
        }
        let mut archs = self.arch.clone();
        if archs.is_empty() {
            archs = workbench.as_ref().map_err(missing)?.settings.architectures.clone();
        }
        if archs.is_empty() {
            return Err(
                Error::usage("no architecture to compile for").hint("--arch sm_90, or `architectures` in assay.toml")
            );
        }
        let mut seen = BTreeSet::new();
        archs.retain(|arch| seen.insert(arch.clone()));
        let pairs = sources.iter().flat_map(|source| archs.iter().map(move |arch| (source, arch)));
        Ok(pairs
            .map(|((root, main), arch)| Job { root: root.clone(), main: main.clone(), arch: arch.clone() })
            .collect())
    }

    fn print_json(&self, nvrtc: &Nvrtc, results: &[(Job, Result<Option<Done>>)]) -> Result<()> {
        let rows: Vec<_> = results
            .iter()
            .map(|(job, result)| match result {
                Ok(Some(done)) => json!({
                    "file": job.main, "arch": job.arch, "result": "compiled", "origin": done.origin,
                    "entries": done.compiled.entries, "bytes": done.compiled.cubin.len(), "seconds": done.seconds,
                }),
                Ok(None) => json!({ "file": job.main, "arch": job.arch, "result": "not_for_this_arch" }),
                Err(e) => json!({ "file": job.main, "arch": job.arch, "result": "failed", "error": e.to_json() }),
            })
            .collect();
        let compiler = json!({ "version": nvrtc.version(), "path": nvrtc.path(), "sandbox": nvrtc.sandbox() });
        output::json("assay.compile/1", json!({ "nvrtc": compiler, "kernels": rows }))
    }
}

fn missing(e: &Error) -> Error {
    let error = Error::new(e.code(), e.what()).hint("name files and --arch, or cd into a clone");
    match e.found_text() {
        Some(found) => error.found(found),
        None => error,
    }
}

/// The kernels' folder and the path below it. A file outside the workbench is its own folder's.
fn locate(file: &Path, workbench: Option<&Workbench>) -> Result<(PathBuf, String)> {
    let real = file.canonicalize().map_err(|e| Error::io(file, e))?;
    let kernels = workbench.and_then(|w| w.kernels().canonicalize().ok());
    let root = match kernels {
        Some(kernels) if real.starts_with(&kernels) => kernels,
        _ => real.parent().unwrap_or(Path::new("/")).to_path_buf(),
    };
    let main = real.strip_prefix(&root).ok().and_then(Path::to_str);
    let main = main.ok_or_else(|| Error::usage(format!("{}: the file's name is not UTF-8", file.display())))?;
    Ok((root.clone(), main.to_owned()))
}

/// `None` when the manifest launches nothing of it on this architecture.
fn compile(cubins: &Cubins<'_>, job: &Job, emit: &Emit) -> Result<Option<Done>> {
    let Some(entries) = entries(job)? else { return Ok(None) };
    let source = SourceSet::load(&job.root, &job.main)?;
    let start = Instant::now();
    let (compiled, origin) = cubins.compile(&source, &entries, &job.arch)?;
    let seconds = start.elapsed().as_secs_f64();
    let stem = job.main.trim_end_matches(".cu").replace('/', ".");
    let write = |dir: &Path, kind: &str, bytes: &[u8]| {
        let path = dir.join(format!("{stem}.{}.{kind}", job.arch));
        std::fs::write(&path, bytes).map_err(|e| Error::io(path, e))
    };
    match emit {
        Emit::Nothing => {}
        Emit::Ptx(dir) => write(dir, "ptx", cubins.ptx(&source, &job.arch)?.as_bytes())?,
        Emit::Cubin(dir) => write(dir, "cubin", &compiled.cubin)?,
    }
    Ok(Some(Done { compiled, origin, seconds }))
}

/// Entries that the manifest beside the source launches on this architecture. Without a manifest none is required.
fn entries(job: &Job) -> Result<Option<Vec<String>>> {
    let stem = job.main.trim_end_matches(".cu");
    let path = job.root.join(format!("{stem}.toml"));
    let op = ops::find(stem.split('.').next().unwrap_or(stem));
    let (Some(op), true) = (op, path.is_file()) else { return Ok(Some(Vec::new())) };
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
    let manifest = Manifest::parse(&format!("kernels/{stem}.toml"), &text, op.contract())?;
    // A variant of sm_90 is also compiled for sm_90a: the letter adds instructions and takes none away.
    let plain = job.arch.trim_end_matches(['a', 'f']);
    let here = |arch: &Vec<String>| arch.is_empty() || arch.iter().any(|a| *a == job.arch || a == plain);
    let launches = manifest.variants.iter().filter(|v| here(&v.arch)).flat_map(|v| &v.launches);
    let entries: BTreeSet<_> = launches.map(|l| l.entry.clone()).collect();
    Ok((!entries.is_empty()).then(|| entries.into_iter().collect()))
}

fn print_table(nvrtc: &Nvrtc, results: &[(Job, Result<Option<Done>>)]) -> Result<()> {
    output::println(format_args!(
        "NVRTC {} ({}), confinement {}\n",
        nvrtc.version(),
        nvrtc.path().display(),
        nvrtc.sandbox().level.name()
    ))?;
    let mut table = output::table(&["kernel", "arch", "entry", "registers", "spills", "stack", "shared", "seconds"]);
    let (mut compiled, mut cached, mut failed) = (0, 0, 0);
    for (job, result) in results {
        let name = [job.main.clone(), job.arch.clone()];
        match result {
            Err(_) => {
                failed += 1;
                table.add_row([&name[0], &name[1], "failed", "", "", "", "", ""]);
            }
            Ok(None) => {
                table.add_row([&name[0], &name[1], "not for this architecture", "", "", "", "", ""]);
            }
            Ok(Some(done)) => {
                compiled += 1;
                cached += usize::from(done.origin == Origin::Cached);
                for e in &done.compiled.entries {
                    let spills = format!("{}/{}", e.spill_stores, e.spill_loads);
                    let numbers = [e.registers.to_string(), spills, e.stack.to_string(), e.shared.to_string()];
                    let time = match done.origin {
                        Origin::Cached => "cached".to_owned(),
                        _ => format!("{:.2}", done.seconds),
                    };
                    table.add_row(name.iter().chain([&e.entry]).chain(&numbers).chain([&time]));
                }
            }
        }
    }
    output::println(format_args!("{table}\n"))?;
    for (_, result) in results {
        if let Err(e) = result {
            output::error(e);
        }
    }
    output::println(format_args!(
        "{compiled} compiled ({cached} of them from the cache), {failed} failed. Spills are bytes stored/loaded a thread; \
         stack and shared are bytes."
    ))
}
