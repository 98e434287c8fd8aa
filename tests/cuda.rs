//! NVRTC and CUDA devices, from outside. Needs neither to succeed: what cannot run is said and counted apart.
//!
//! Cases that end in a lost device run in a child process (this program again, with `--child NAME`), as the verifier
//! does it.
//!
//! One long file: a program of its own (no harness) that a device's owner runs once, whose list of tests and whose
//! children are one table at its top.

use std::{
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use assay::{
    Error, Result,
    backend::{
        BufferId, Device, Field, FilePart, GraphId, Launch, Module, ModuleId, Span, Step, Traced,
        cuda::{self, Cache, Cubins, Cuda, Nvrtc, Origin, find::Places, ptx, sanitizer},
        worker::{
            DeviceKind, Level, WorkerDevice, WorkerOptions,
            compile::{Starter, Want},
        },
    },
    model::gguf::{Source, Stamp},
    ops,
    plan::{manifest::Manifest, source::SourceSet},
};

/// Kernels of this test. The argument struct is that of all of them.
const KERNELS: &str = r#"
struct TestArgs { const float* x; float* y; const int* n; unsigned char* scratch; int k; float f; };
extern "C" __global__ void scale(const TestArgs a) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < *a.n) a.y[i] = a.x[i] * a.f + a.k;
}
extern "C" __global__ void count(const TestArgs a) { a.y[0] += 1.f; }
extern "C" __global__ void reverse(const TestArgs a) {
  extern __shared__ float s[];
  s[threadIdx.x] = a.x[threadIdx.x];
  __syncthreads();
  a.y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void copy(const TestArgs a) {
  const float4* x = reinterpret_cast<const float4*>(a.x);
  float4* y = reinterpret_cast<float4*>(a.y);
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < *a.n; i += gridDim.x * blockDim.x) y[i] = x[i];
}
extern "C" __global__ void endless(const TestArgs a) { while (*(volatile const int*)a.n != -1) {} a.y[0] = 1.f; }
extern "C" __global__ void wild(const TestArgs a) { a.y[1ull << 40] = 1.f; }
extern "C" __global__ void past_the_end(const TestArgs a) { a.y[a.k] = 1.f; }
"#;

enum Outcome {
    Passed,
    /// A device, a compiler or a tool is missing.
    CouldNotRun(String),
}

type Case = (&'static str, fn() -> Result<Outcome>);

const CASES: &[Case] = &[
    ("nvrtc_compiles_for_every_architecture", nvrtc_compiles_for_every_architecture),
    ("nvrtc_refusals_are_named", nvrtc_refusals_are_named),
    ("nvrtc_sees_the_source_set_only", nvrtc_sees_the_source_set_only),
    ("nvrtc_reads_no_file_outside_its_folders", nvrtc_reads_no_file_outside_its_folders),
    ("nvrtc_that_dies_or_does_not_end_is_an_error", nvrtc_that_dies_or_does_not_end_is_an_error),
    ("cubins_are_cached_and_repaired", cubins_are_cached_and_repaired),
    ("stubs_are_judged_on_fresh_ptx", stubs_are_judged_on_fresh_ptx),
    ("common_headers_compile_and_pass_the_rules", common_headers_compile_and_pass_the_rules),
    ("no_kernel_of_the_tree_is_a_stub", no_kernel_of_the_tree_is_a_stub),
    ("without_a_device_opening_is_a_clean_error", without_a_device_opening_is_a_clean_error),
    ("device_describes_itself", device_describes_itself),
    ("device_runs_and_traces_launches", device_runs_and_traces_launches),
    ("device_graph_is_read_back_and_replayed_once", device_graph_is_read_back_and_replayed_once),
    ("device_steps_in_one_call", device_steps_in_one_call),
    ("device_steps_cost_the_host_little", device_steps_cost_the_host_little),
    ("device_reads_files_at_speed", device_reads_files_at_speed),
    ("device_times_replays", device_times_replays),
    ("device_takes_many_launches", device_takes_many_launches),
    ("device_refusals_leave_it_usable", device_refusals_leave_it_usable),
    ("device_fault_names_the_launch", device_fault_names_the_launch),
    ("device_endless_kernel_times_out", device_endless_kernel_times_out),
    ("device_endless_graph_times_out", device_endless_graph_times_out),
    ("sanitizer_finds_one_element_out_of_bounds", sanitizer_finds_one_element_out_of_bounds),
];

type Child = (&'static str, fn() -> Result<()>);

const CHILDREN: &[Child] = &[
    ("worker", || assay::backend::worker::serve()),
    ("worker-of-little-memory", child_of_little_memory),
    ("fault", child_fault),
    ("endless", child_endless),
    ("endless-graph", child_endless_graph),
    ("in-bounds", || child_write(63)),
    ("out-of-bounds", || child_write(64)),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = args.as_slice()
        && flag == "--child"
    {
        let child = CHILDREN.iter().find(|(n, _)| n == name).expect("a child's name").1;
        return match child() {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("{e}");
                ExitCode::from(9)
            }
        };
    }
    let filters: Vec<_> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen = CASES.iter().filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(*f)));
    if args.iter().any(|a| a == "--list") {
        chosen.for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, case) in chosen {
        let start = Instant::now();
        let outcome = std::panic::catch_unwind(case);
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(Ok(Outcome::Passed)) => {
                passed += 1;
                println!("test {name} ... ok ({seconds:.2} s)");
            }
            Ok(Ok(Outcome::CouldNotRun(why))) => {
                skipped += 1;
                println!("test {name} ... could not run: {why}");
            }
            Ok(Err(e)) => {
                failed += 1;
                println!("test {name} ... FAILED\n{e}");
            }
            Err(_) => {
                failed += 1;
                println!("test {name} ... FAILED (panicked)");
            }
        }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed} passed; {failed} failed; {skipped} could not run");
    ExitCode::from(u8::from(failed > 0))
}

fn single(text: &str) -> SourceSet {
    SourceSet::single("test.cu", text)
}

/// Runs `body`, or says what is missing. Only an absent tool excuses; any other error is a failure.
fn with<T>(found: Result<T>, body: impl FnOnce(T) -> Result<()>) -> Result<Outcome> {
    match found {
        Ok(found) => body(found).map(|()| Outcome::Passed),
        Err(e) if ["nvrtc-missing", "no-device", "sanitizer"].contains(&e.code().id) => {
            Ok(Outcome::CouldNotRun(match e.code().id {
                "nvrtc-missing" => "no NVRTC".into(),
                _ => e.what().to_owned(),
            }))
        }
        Err(e) => Err(e),
    }
}

/// NVRTC as production finds it, in a process that is this program.
fn nvrtc() -> Result<Nvrtc> {
    nvrtc_by("worker", Duration::from_secs(240))
}

fn nvrtc_by(child: &str, deadline: Duration) -> Result<Nvrtc> {
    let program = std::env::current_exe().expect("this program");
    let args = ["--child", child].map(str::to_owned).to_vec();
    Nvrtc::find_in(&Places::from_env(), &Starter { program, args, deadline })
}

/// PTX of what the rules for sources would refuse.
fn unruled_ptx(nvrtc: &Nvrtc, source: &SourceSet, arch: &str) -> Result<String> {
    let options = vec![format!("--gpu-architecture=compute_{arch}"), "--std=c++17".into()];
    let out = nvrtc.pool().compile(source, options, Want::Ptx, arch)?;
    assert_eq!(out.code, 0, "{}", out.log);
    Ok(String::from_utf8(out.bytes).expect("text").trim_end_matches('\0').to_owned())
}

fn code<T>(result: Result<T>) -> &'static str {
    match result {
        Ok(_) => "no error",
        Err(e) => e.code().id,
    }
}

// Compiling.

fn nvrtc_compiles_for_every_architecture() -> Result<Outcome> {
    with(nvrtc(), |nvrtc| {
        let entries = ["scale".to_owned(), "reverse".to_owned()];
        let mut built = 0;
        for arch in ["sm_80", "sm_90", "sm_90a", "sm_120", "sm_121"].into_iter().filter(|a| nvrtc.supports(a)) {
            let first = nvrtc.compile(&single(KERNELS), &entries, arch)?;
            assert_eq!(&first.cubin[..4], b"\x7fELF");
            assert!(first == nvrtc.compile(&single(KERNELS), &entries, arch)?, "{arch}: not deterministic");
            assert_eq!(first.entries.len(), 7, "{arch}: {:?}", first.entries);
            let scale = first.entries.iter().find(|e| e.entry == "scale").expect("scale is reported");
            assert!((4..=64).contains(&scale.registers) && scale.spill_stores == 0, "{scale:?}");
            built += 1;
        }
        assert!(built >= 2, "only {built} architectures");
        let spilling = "struct TestArgs { float* y; unsigned char* scratch; };\n\
            extern \"C\" __global__ void __launch_bounds__(1024) k(const TestArgs a) { __shared__ float s[256]; float v[256];\n\
            for (int i = 0; i < 256; i++) v[i] = a.y[i * 1024 + threadIdx.x]; s[threadIdx.x & 255] = v[0]; __syncthreads();\n\
            for (int i = 0; i < 256; i++) a.y[i] = v[(int)s[i & 255] & 255]; }";
        let found = nvrtc.compile(&single(spilling), &["k".into()], "sm_90")?.entries;
        assert!(found[0].stack >= 1024 && found[0].shared == 1024, "{found:?}");
        Ok(())
    })
}

fn nvrtc_refusals_are_named() -> Result<Outcome> {
    with(nvrtc(), |nvrtc| {
        let none: &[String] = &[];
        let error = nvrtc.compile(&single("int f( {"), none, "sm_90").unwrap_err();
        assert_eq!(error.code().id, "nvrtc-compile");
        assert!(error.found_text().unwrap().contains("test.cu(1)"), "{error}");
        let error = nvrtc.compile(&single(KERNELS), &["scales".into()], "sm_90").unwrap_err();
        assert_eq!(error.code().id, "nvrtc-entry");
        assert!(error.found_text().unwrap().contains("scale"), "{error}");
        for arch in ["sm_1", "sm_90x", "90", "sm_90 --include-path=/"] {
            assert_eq!(code(nvrtc.compile(&single(KERNELS), none, arch)), "nvrtc-arch", "{arch}");
        }
        let incbin =
            single("extern \"C\" __global__ void k(int* o) { asm(\".incbin \\\"/etc/passwd\\\";\"); *o = 1; }");
        assert_eq!(code(nvrtc.compile(&incbin, none, "sm_90")), "source-rule");
        // Behind the rules, the check of the PTX refuses it, and the assembler.
        assert_eq!(code(ptx::check_assembly(&unruled_ptx(&nvrtc, &incbin, "90")?)), "ptx-asm");
        let cubin = nvrtc.pool().compile(&incbin, vec!["--gpu-architecture=sm_90".into()], Want::Cubin, "sm_90")?;
        assert!(cubin.code != 0 && cubin.bytes.is_empty(), "{}", cubin.log);
        Ok(())
    })
}

fn nvrtc_sees_the_source_set_only() -> Result<Outcome> {
    with(nvrtc(), |nvrtc| {
        // Cargo.toml is in the current folder, kernels/common in the tree: neither is in the set.
        for include in ["#include \"Cargo.toml\"", "#include \"kernels/common/step.h\"", "#include \"common/step.h\""] {
            let error = nvrtc.ptx(&single(include), "sm_90").unwrap_err();
            assert!(error.found_text().unwrap_or_default().contains("cannot open source file"), "{include}: {error}");
        }
        for include in ["#include \"/etc/passwd\"", "#include <../Cargo.toml>"] {
            assert_eq!(code(nvrtc.ptx(&single(include), "sm_90")), "source-rule", "{include}");
        }
        let body = "extern \"C\" __global__ void k(B* b, __half* h) { *b = 1; }";
        let mut set = single(&format!("#include \"a/b.h\"\n#include <cuda_fp16.h>\n{body}"));
        set.files.insert("a/b.h".into(), "#include \"a/c.h\"\ntypedef C B;".into());
        set.files.insert("a/c.h".into(), "typedef int C;".into());
        nvrtc.ptx(&set, "sm_90").map(drop)
    })
}

/// The rules for sources refuse all of this before; the process must hold without them, so they are gone round here.
fn nvrtc_reads_no_file_outside_its_folders() -> Result<Outcome> {
    with(nvrtc(), |nvrtc| {
        let sandbox = nvrtc.sandbox().clone();
        if sandbox.landlock_abi == 0 {
            println!("  could not run: nothing confines what a compiler reads here: {sandbox:?}");
            return Ok(());
        }
        assert_eq!(sandbox.level, Level::Full, "{sandbox:?}");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let key = dir.path().join("host.key");
        std::fs::write(&key, "#define SECRET 1\n").expect("a key");
        let options = |include: Option<&Path>| {
            let folder = include.map(|dir| format!("--include-path={}", dir.display()));
            ["--gpu-architecture=compute_80".to_owned()].into_iter().chain(folder).collect()
        };
        let log = |text: &str, folder: Option<&Path>| -> Result<String> {
            let out = nvrtc.pool().compile(&single(text), options(folder), Want::Ptx, "sm_80")?;
            assert_ne!(out.code, 0, "{text} compiles: {}", out.log);
            Ok(out.log)
        };
        let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
        let own = [key, "/etc/passwd".into(), tree.join("state/ledger.jsonl"), tree.join("Cargo.toml")];
        for file in own.iter().filter(|f| f.exists()) {
            let refused = log(&format!("#include \"{}\"\n", file.display()), None)?;
            assert!(
                refused.contains("could not open source file") || refused.contains("cannot open source file"),
                "{refused}"
            );
            let asked = format!("#if __has_include(\"{}\")\n#error it is there\n#endif\n#error done", file.display());
            assert!(!log(&asked, None)?.contains("it is there"), "{}", file.display());
            let name = file.file_name().and_then(|n| n.to_str()).expect("a name");
            let refused = log(&format!("#include <{name}>\n"), file.parent())?;
            assert!(refused.contains("open source file"), "{refused}");
        }
        // The same door does open what it should.
        let header = "#include <cuda_fp16.h>\n";
        let read = nvrtc.ptx(&single(header), "sm_80").map(drop);
        assert_eq!(code(read), "no error");
        Ok(())
    })
}

fn nvrtc_that_dies_or_does_not_end_is_an_error() -> Result<Outcome> {
    with(nvrtc_by("worker", Duration::from_secs(3)), |nvrtc| {
        let none: &[String] = &[];
        // Compile-time arithmetic that takes for ever, in steps that no limit of the language counts.
        let endless = "template <int N, int M> struct F { enum { v = F<N - 1, M>::v + F<N - 1, M + (1 << N)>::v }; };\n\
            template <int M> struct F<0, M> { enum { v = M & 1 }; };\n\
            extern \"C\" __global__ void k(int* o) { *o = F<28, 0>::v; }";
        let start = Instant::now();
        let error = nvrtc.compile(&single(endless), none, "sm_80").unwrap_err();
        println!("  {:.1} s: {error}", start.elapsed().as_secs_f32());
        assert_eq!((error.code().id, error.kind().exit_code()), ("nvrtc-limit", 1), "{error}");
        assert!(error.what().starts_with("test.cu: NVRTC did not finish"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20));
        // It took nothing else down.
        nvrtc.compile(&single(KERNELS), none, "sm_80")?;

        // A table larger than the memory that it gets.
        let small = nvrtc_by("worker-of-little-memory", Duration::from_secs(60))?;
        let huge = "__device__ const int t[1 << 28] = {1};\n\
            extern \"C\" __global__ void k(int* o) { *o = t[o[1]]; }";
        let error = small.compile(&single(huge), none, "sm_80").unwrap_err();
        println!("  {error}");
        assert_eq!((error.code().id, error.kind().exit_code()), ("nvrtc-crash", 1), "{error}");
        assert!(
            error.what().starts_with("test.cu: NVRTC died compiling it for sm_80: ") && error.what().contains("signal")
        );
        small.compile(&single(KERNELS), none, "sm_80").map(drop)
    })
}

fn cubins_are_cached_and_repaired() -> Result<Outcome> {
    with(nvrtc(), |nvrtc| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let cubins = Cubins::new(&nvrtc, Cache::at(dir.path()));
        let entries = ["scale".to_owned()];
        let get = |text: &str| cubins.compile(&single(text), &entries, "sm_90");
        let (first, origin) = get(KERNELS)?;
        assert_eq!(origin, Origin::Made);
        assert!(get(KERNELS)? == (first.clone(), Origin::Cached));
        assert_eq!(get(&format!("{KERNELS}\n"))?.1, Origin::Made, "another source is another entry");
        let path = cubins.path(&single(KERNELS), &entries, "sm_90")?;
        let mut bytes = std::fs::read(&path).expect("the entry");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).expect("the entry is replaced");
        assert!(get(KERNELS)? == (first, Origin::Remade));
        assert!(cubins.ptx(&single(KERNELS), "sm_90")? == cubins.ptx(&single(KERNELS), "sm_90")?);
        Ok(())
    })
}

fn stubs_are_judged_on_fresh_ptx() -> Result<Outcome> {
    with(nvrtc(), |nvrtc| {
        // It keeps a variable, which the rules for sources refuse: only the check of the PTX is asked here.
        let text: String = GOLDEN.lines().filter(|l| !l.contains("asm volatile")).flat_map(|l| [l, "\n"]).collect();
        let source = SourceSet::single("golden.cu", text);
        for arch in ["sm_80", "sm_90", "sm_120"].into_iter().filter(|a| nvrtc.supports(a)) {
            let text = unruled_ptx(&nvrtc, &source, &arch[3..])?;
            ptx::check_assembly(&text)?;
            for entry in ["honest", "by_call", "by_atomic", "vec", "chosen", "pointer_in_shared"] {
                assert!(ptx::entry_stores(&text, entry)?.may_reach(8), "{arch} {entry}");
            }
            for entry in
                ["no_store", "dead", "to_shared", "by_call_nothing", "wrong_member", "to_scratch", "to_variable"]
            {
                let found = ptx::entry_stores(&text, entry)?;
                assert!(found.count == 0 || !found.may_reach(8), "{arch} {entry}: {found:?}");
            }
        }
        Ok(())
    })
}

const GOLDEN: &str = include_str!("../src/backend/cuda/ptx/golden.cu");

fn common_headers_compile_and_pass_the_rules() -> Result<Outcome> {
    with(nvrtc(), |nvrtc| {
        let root = Path::new("kernels");
        let headers = std::fs::read_dir(root.join("common")).expect("kernels/common");
        for header in headers.flatten().filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.ends_with(".cuh"))
        {
            let mut set = SourceSet::load(root, &format!("common/{header}"))?;
            let main = format!("#include \"common/{header}\"\nextern \"C\" __global__ void k(int* o) {{ *o = 1; }}");
            set.files.insert("k.cu".into(), main);
            set.main = "k.cu".into();
            for arch in ["sm_80", "sm_90a", "sm_120"].into_iter().filter(|a| nvrtc.supports(a)) {
                nvrtc.compile(&set, &["k".into()], arch)?;
            }
        }
        Ok(())
    })
}

/// The analysis must never refuse an honest kernel: the tree's own are its test.
fn no_kernel_of_the_tree_is_a_stub() -> Result<Outcome> {
    with(nvrtc(), |nvrtc| {
        let cubins = Cubins::new(&nvrtc, Cache::open("ptx")?);
        let root = Path::new("kernels");
        let mut judged = 0;
        for file in
            std::fs::read_dir(root).expect("kernels/").flatten().filter_map(|e| e.file_name().into_string().ok())
        {
            let Some(stem) = file.strip_suffix(".toml") else { continue };
            let Some(op) = ops::find(stem.split('.').next().unwrap_or(stem)) else { continue };
            let text = std::fs::read_to_string(root.join(&file)).expect("a manifest");
            let manifest = Manifest::parse(&file, &text, op.contract())?;
            let text = cubins.ptx(&SourceSet::load(root, &format!("{stem}.cu"))?, "sm_90")?;
            ptx::check_assembly(&text)?;
            for variant in &manifest.variants {
                let entries: Vec<String> = variant.launches.iter().map(|l| l.entry.clone()).collect();
                ptx::check_stub(op.contract(), &text, &entries)?;
                judged += 1;
            }
        }
        println!("  {judged} variants");
        Ok(())
    })
}

// Running.

fn without_a_device_opening_is_a_clean_error() -> Result<Outcome> {
    match Cuda::open() {
        Ok(_) => Ok(Outcome::CouldNotRun("there is a CUDA device".into())),
        Err(e) => {
            assert_eq!((e.code().id, e.what(), e.kind().exit_code()), ("no-device", "no CUDA device", 3), "{e}");
            Ok(Outcome::Passed)
        }
    }
}

/// A device with the test's kernels loaded.
struct Rig<D = Cuda> {
    cuda: D,
    module: ModuleId,
}

fn rig() -> Result<Rig> {
    Rig::with(Cuda::open()?)
}

/// The same in a confined worker, as production runs it.
fn confined() -> Result<Rig<WorkerDevice>> {
    let mut options = WorkerOptions::new(DeviceKind::Cuda)?;
    options.args = vec!["--child".into(), "worker".into()];
    Rig::with(WorkerDevice::start(&options)?)
}

impl<D: Device> Rig<D> {
    fn with(mut cuda: D) -> Result<Self> {
        let arch = cuda.info().arch.clone();
        let compiled = nvrtc()?.compile(&single(KERNELS), &[], &arch)?;
        let module = cuda.load(&Module::Cubin(compiled.cubin))?;
        Ok(Rig { cuda, module })
    }

    fn launch(&self, entry: &str, x: BufferId, y: BufferId, n: BufferId, k: i32) -> Launch {
        let pointer = |buffer| Field::Pointer { buffer, offset: 0 };
        Launch {
            name: format!("test.{entry}"),
            module: self.module,
            entry: entry.into(),
            grid: [1, 1, 1],
            block: [64, 1, 1],
            shared: 0,
            args: vec![pointer(x), pointer(y), pointer(n), Field::Null, Field::I32(k), Field::F32(2.0)],
        }
    }

    fn floats(&mut self, values: &[f32]) -> Result<BufferId> {
        let buffer = self.cuda.alloc(4 * values.len() as u64)?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.cuda.write(buffer, 0, &bytes)?;
        Ok(buffer)
    }

    fn int(&mut self, value: i32) -> Result<BufferId> {
        self.floats(&[f32::from_bits(value.cast_unsigned())])
    }

    fn read(&mut self, buffer: BufferId, count: usize) -> Result<Vec<f32>> {
        let mut bytes = vec![0; 4 * count];
        self.cuda.read(buffer, 0, &mut bytes)?;
        Ok(bytes.chunks(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
    }
}

fn device_describes_itself() -> Result<Outcome> {
    with(Cuda::open(), |cuda| {
        let info = cuda.info();
        println!("  {info:?}");
        assert!(info.arch.starts_with("sm_") && !info.name.is_empty() && info.memory > 1 << 30, "{info:?}");
        assert!(info.shared_max >= 48 << 10 && info.driver.split_once('.').is_some(), "{info:?}");
        Ok(())
    })
}

fn device_runs_and_traces_launches() -> Result<Outcome> {
    with(rig(), |mut rig| {
        let x = rig.floats(&(0..1000).map(|i| i as f32).collect::<Vec<_>>())?;
        let y = rig.cuda.alloc(4000)?;
        let n = rig.int(999)?;
        rig.cuda.fill(y, 0x7fc0_1234)?;
        let launch = Launch { grid: [4, 1, 1], block: [256, 1, 1], ..rig.launch("scale", x, y, n, -3) };
        rig.cuda.launch(&launch)?;
        rig.cuda.sync()?;
        let got = rig.read(y, 1000)?;
        for (i, v) in got[..999].iter().enumerate() {
            assert_eq!(*v, i as f32 * 2.0 - 3.0, "element {i}");
        }
        assert_eq!(got[999].to_bits(), 0x7fc0_1234, "fill stands where nothing was written");
        let traced = Traced { entry: "scale".into(), grid: [4, 1, 1], block: [256, 1, 1], shared: 0 };
        assert_eq!(rig.cuda.take_trace()?, [traced]);
        assert!(rig.cuda.take_trace()?.is_empty());
        // A part in the middle is written and read by its offset.
        rig.cuda.write(x, 40, &7f32.to_le_bytes())?;
        assert_eq!(rig.read(x, 12)?[9..], [9.0, 7.0, 11.0]);
        Ok(())
    })
}

fn device_graph_is_read_back_and_replayed_once() -> Result<Outcome> {
    with(rig(), |mut rig| {
        let values: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let (x, y, z, n) = (rig.floats(&values)?, rig.floats(&values)?, rig.floats(&[0.0])?, rig.int(64)?);
        // More shared memory than a block gets unasked.
        let shared = 64 << 10;
        let launches = [
            rig.launch("count", x, z, n, 0),
            Launch { shared, ..rig.launch("reverse", x, y, n, 0) },
            rig.launch("count", x, z, n, 0),
        ];
        let (graph, nodes) = rig.cuda.record(&launches)?;
        rig.cuda.replay(graph)?;
        let expected: Vec<Traced> = launches
            .iter()
            .map(|l| Traced { entry: l.entry.clone(), grid: l.grid, block: l.block, shared: l.shared })
            .collect();
        assert_eq!(nodes, expected);
        assert_eq!(rig.read(z, 1)?, [2.0], "captured without running, replayed once");
        assert_eq!(rig.read(y, 64)?, values.iter().rev().copied().collect::<Vec<_>>());
        assert!(rig.cuda.replayed_ms()? > 0.0);
        rig.cuda.forget(graph)?;
        assert_eq!(code(rig.cuda.replay(graph)), "internal");
        assert_eq!(rig.cuda.record(&[])?.1, []);
        Ok(())
    })
}

/// Directly, where the host's memory is pageable, and in a worker, where it is pinned.
fn device_steps_in_one_call() -> Result<Outcome> {
    fn steps(rig: &mut Rig<impl Device>) -> Result<()> {
        let (x, y, n) = (rig.floats(&[0.0; 64])?, rig.floats(&[0.0; 64])?, rig.int(64)?);
        let (graph, _) = rig.cuda.record(&[rig.launch("scale", x, y, n, 1)])?;
        let span = |buffer, offset, len| Span { buffer, offset, len };
        for i in 0..50 {
            let bytes: Vec<u8> = [i as f32, 2.0 * i as f32].into_iter().flat_map(f32::to_le_bytes).collect();
            let writes = [span(x, 0, 4), span(x, 252, 4)];
            let mut back = [0; 256];
            let step = Step { writes: &writes, bytes: &bytes, graph, read: Some(span(y, 0, 256)) };
            rig.cuda.step(&step, &mut back)?;
            let at = |k: usize| f32::from_le_bytes([back[k], back[k + 1], back[k + 2], back[k + 3]]);
            assert_eq!((at(0), at(4), at(252)), (2.0 * i as f32 + 1.0, 1.0, 4.0 * i as f32 + 1.0));
        }
        let bare = Step { writes: &[], bytes: &[], graph, read: None };
        rig.cuda.step(&bare, &mut [])?;
        assert!(rig.cuda.replayed_ms()? > 0.0 && rig.cuda.take_trace()?.is_empty());
        assert_eq!(code(rig.cuda.step(&Step { graph: GraphId(77), ..bare }, &mut [])), "internal");
        let outside = Step { read: Some(span(y, 8, 256)), ..bare };
        assert_eq!(code(rig.cuda.step(&outside, &mut [0; 256])), "internal");
        rig.cuda.step(&bare, &mut [])
    }
    with(rig(), |mut rig| steps(&mut rig).and_then(|()| steps(&mut confined()?)))
}

/// A token's logits of a vocabulary of 129,280, behind a graph as long as a decode step: what a token costs beside the
/// device's own time, sleeps and socket included.
fn device_steps_cost_the_host_little() -> Result<Outcome> {
    with(confined(), |mut rig| {
        let (bytes, times) = (129_280 * 4, 100);
        let (x, y) = (rig.cuda.alloc(256 << 20)?, rig.cuda.alloc(256 << 20)?);
        let n = rig.int(16 << 20)?;
        rig.cuda.fill(x, 0)?;
        let copy = Launch { grid: [132 * 8, 1, 1], block: [256, 1, 1], ..rig.launch("copy", x, y, n, 0) };
        let (graph, _) = rig.cuda.record(&vec![copy; 40])?;
        let writes = [Span { buffer: n, offset: 0, len: 4 }];
        let number = (16i32 << 20).to_le_bytes();
        let read = Some(Span { buffer: y, offset: 0, len: bytes as u64 });
        let step = Step { writes: &writes, bytes: &number, graph, read };
        let mut back = vec![0; bytes];
        for _ in 0..5 {
            rig.cuda.step(&step, &mut back)?;
        }
        rig.cuda.replayed_ms()?;
        let start = Instant::now();
        for _ in 0..times {
            rig.cuda.step(&step, &mut back)?;
        }
        let wall = start.elapsed().as_secs_f64() * 1e3 / f64::from(times);
        let device = rig.cuda.replayed_ms()? / f64::from(times);
        println!("  a step takes {wall:.3} ms, of which {device:.3} ms on the device");
        assert!(wall - device < 0.3, "{:.3} ms a step beside the device's own", wall - device);
        Ok(())
    })
}

/// Two gigabytes from the page cache, in parts as long as tensors are.
fn device_reads_files_at_speed() -> Result<Outcome> {
    with(confined().map(drop), |()| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("model.gguf");
        let byte = |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        let block: Vec<u8> = (0..16u64 << 20).map(byte).collect();
        let file = std::fs::File::create(&path).expect("a file");
        for _ in 0..128 {
            std::io::Write::write_all(&mut &file, &block).expect("two gigabytes of room");
        }
        let source = Source { path: path.canonicalize().expect("a path"), stamp: Stamp::of(&file, &path)? };
        let mut options = WorkerOptions::new(DeviceKind::Cuda)?.reading(&path);
        options.args = vec!["--child".into(), "worker".into()];
        let mut rig = Rig::with(WorkerDevice::start(&options)?)?;
        let (mut parts, mut at) = (Vec::new(), 3);
        for len in [1u64, 4096, 33 << 20, 700 << 20, (64 << 20) + 1, 128, 1 << 30].into_iter().chain([24_576; 200]) {
            parts.push(FilePart { buffer: rig.cuda.alloc(len)?, at, len });
            at += len;
        }
        let bytes: u64 = parts.iter().map(|p| p.len).sum();
        for round in ["first", "second"] {
            let start = Instant::now();
            rig.cuda.read_file(&source, &parts)?;
            let seconds = start.elapsed().as_secs_f64();
            println!(
                "  {round} time: {:.2} GB in {seconds:.3} s, {:.1} GB/s",
                bytes as f64 / 1e9,
                bytes as f64 / 1e9 / seconds
            );
        }
        for part in &parts {
            let ends = [0, part.len / 2, part.len.saturating_sub(5000)];
            for from in ends {
                let mut found = vec![0; (part.len - from).min(5000) as usize];
                rig.cuda.read(part.buffer, from, &mut found)?;
                let right = (0..found.len() as u64).map(|i| block[((part.at + from + i) % (16 << 20)) as usize]);
                assert!(found.iter().copied().eq(right), "{part:?} from {from}");
            }
        }
        let beyond = FilePart { at: (2 << 30) - 10, ..parts[1] };
        assert_eq!(code(rig.cuda.read_file(&source, &[parts[0], beyond])), "gguf-changed");
        file.set_len(5).expect("a shorter file");
        assert_eq!(code(rig.cuda.read_file(&source, &parts)), "gguf-changed");
        // Neither leaves the device in a worse state.
        rig.cuda.alloc(1 << 20).map(drop)
    })
}

fn device_times_replays() -> Result<Outcome> {
    with(rig(), |mut rig| {
        let bytes = 1u64 << 29;
        let (x, y, n) = (rig.cuda.alloc(bytes)?, rig.cuda.alloc(bytes)?, rig.int((bytes / 16) as i32)?);
        rig.cuda.fill(x, 0)?;
        let copy = Launch { grid: [132 * 8, 1, 1], block: [256, 1, 1], ..rig.launch("copy", x, y, n, 0) };
        let timing = rig.cuda.time(std::slice::from_ref(&copy), 20)?;
        let rate = 2.0 * bytes as f64 / timing.median_ms / 1e6;
        println!("  copy of {} MiB: {timing:?}, {rate:.0} GB/s read and written", bytes >> 20);
        assert!(timing.min_ms > 0.0 && timing.min_ms <= timing.median_ms && rate > 50.0 && rate < 20_000.0);
        let small = [rig.launch("count", x, y, n, 0), rig.launch("count", x, y, n, 0)];
        println!("  two one-block kernels: {:?}", rig.cuda.time(&small, 100)?);
        assert!(rig.cuda.take_trace()?.is_empty(), "measuring is no part of the trace");
        Ok(())
    })
}

fn device_takes_many_launches() -> Result<Outcome> {
    with(rig(), |mut rig| {
        let (x, z, n) = (rig.floats(&[0.0])?, rig.floats(&[0.0])?, rig.int(1)?);
        let launch = Launch { block: [1, 1, 1], ..rig.launch("count", x, z, n, 0) };
        let start = Instant::now();
        for _ in 0..3000 {
            rig.cuda.launch(&launch)?;
        }
        rig.cuda.sync()?;
        println!("  {:.2} µs a launch", start.elapsed().as_secs_f64() * 1e6 / 3000.0);
        assert_eq!(rig.read(z, 1)?, [3000.0]);
        assert_eq!(rig.cuda.take_trace()?.len(), 3000);
        Ok(())
    })
}

fn device_refusals_leave_it_usable() -> Result<Outcome> {
    with(rig(), |mut rig| {
        let (x, y, n) = (rig.floats(&[1.0; 64])?, rig.floats(&[0.0; 64])?, rig.int(64)?);
        let good = rig.launch("scale", x, y, n, 0);
        let with_args = |args: Vec<Field>| Launch { args, ..good.clone() };
        let mut short = good.args.clone();
        short.truncate(4);
        let refused: Vec<(&str, Launch)> = vec![
            ("cuda-entry", Launch { entry: "scales".into(), ..good.clone() }),
            ("cuda-entry", with_args(short)),
            ("cuda-launch", Launch { block: [2048, 1, 1], ..good.clone() }),
            ("cuda-launch", Launch { block: [0, 1, 1], ..good.clone() }),
            ("cuda-launch", Launch { grid: [0, 1, 1], ..good.clone() }),
            ("cuda-launch", Launch { grid: [1, 1 << 20, 1], ..good.clone() }),
            ("cuda-launch", Launch { shared: 1 << 20, ..good.clone() }),
            ("internal", Launch { module: ModuleId(7), ..good.clone() }),
            ("internal", with_args(vec![Field::Pointer { buffer: BufferId(999), offset: 0 }])),
        ];
        for (want, launch) in &refused {
            let error = rig.cuda.launch(launch).unwrap_err();
            assert_eq!(error.code().id, *want, "{error}");
            assert!(*want == "internal" || error.what().contains("test.scale"), "{error}");
            assert_eq!(code(rig.cuda.record(std::slice::from_ref(launch))), *want);
        }
        let error = rig.cuda.alloc(1 << 50).unwrap_err();
        assert_eq!(error.code().id, "cuda-memory", "{error}");
        println!("  {}", error.found_text().unwrap_or_default());
        assert_eq!(code(rig.cuda.read(x, 253, &mut [0; 4])), "internal");
        assert_eq!(code(rig.cuda.write(x, u64::MAX, &[0; 4])), "internal");
        rig.cuda.free(n)?;
        assert_eq!(code(rig.cuda.free(n)), "internal");
        assert_eq!(code(rig.cuda.load(&Module::Cubin(b"no ELF".to_vec()))), "cuda-cubin");
        let other = if rig.cuda.info().arch == "sm_80" { "sm_90" } else { "sm_80" };
        let foreign = nvrtc()?.compile(&single(KERNELS), &[], other)?.cubin;
        assert_eq!(code(rig.cuda.load(&Module::Cubin(foreign.clone()))), "cuda-cubin");
        assert_eq!(code(rig.cuda.load(&Module::Cubin(foreign[..foreign.len() / 2].to_vec()))), "cuda-cubin");
        assert!(rig.cuda.take_trace()?.is_empty() && !rig.cuda.is_broken());
        let n = rig.int(64)?;
        let launch = rig.launch("scale", x, y, n, 1);
        rig.cuda.launch(&launch)?;
        rig.cuda.sync()?;
        assert_eq!(rig.read(y, 64)?, [3.0; 64]);
        Ok(())
    })
}

// Losing a device, each in a process of its own.

/// Runs a child to its end, which must come by itself and soon.
fn child(name: &str) -> Result<Outcome> {
    with(rig().map(drop), |()| {
        let start = Instant::now();
        let exe = std::env::current_exe().expect("this program");
        let mut child = Command::new(exe).args(["--child", name]).stdin(Stdio::null()).spawn().expect("a child");
        let status = loop {
            match child.try_wait().expect("the child's status") {
                Some(status) => break Some(status),
                None if start.elapsed() > Duration::from_secs(40) => break None,
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let Some(status) = status else {
            child.kill().and_then(|()| child.wait()).expect("killing the child");
            return Err(Error::internal(format!("the child `{name}` did not end")));
        };
        println!("  the child ended after {:.1} s", start.elapsed().as_secs_f64());
        assert!(status.success(), "{status}");
        Ok(())
    })
}

fn device_fault_names_the_launch() -> Result<Outcome> {
    child("fault")
}

fn device_endless_kernel_times_out() -> Result<Outcome> {
    child("endless")
}

fn device_endless_graph_times_out() -> Result<Outcome> {
    child("endless-graph")
}

/// Every later call fails with the code of the first failure, and dropping the device does not hang.
fn lost(mut rig: Rig, error: Error, code_id: &str, buffer: BufferId) -> Result<()> {
    println!("  {error}");
    assert_eq!(error.code().id, code_id);
    assert!(rig.cuda.is_broken());
    assert_eq!(code(rig.cuda.sync()), code_id);
    assert_eq!(code(rig.cuda.alloc(256)), code_id);
    assert_eq!(code(rig.cuda.free(buffer)), code_id);
    assert_eq!(code(rig.cuda.read(buffer, 0, &mut [0; 4])), code_id);
    assert_eq!(code(rig.cuda.fill(buffer, 0)), code_id);
    assert_eq!(code(rig.cuda.take_trace()), code_id);
    assert_eq!(code(rig.cuda.memory()), code_id);
    Ok(())
}

fn child_of_little_memory() -> Result<()> {
    let limit = libc::rlimit { rlim_cur: 768 << 20, rlim_max: 768 << 20 };
    // SAFETY: a plain system call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    assay::backend::worker::serve()
}

fn child_fault() -> Result<()> {
    let mut rig = rig()?;
    let (x, y, n) = (rig.floats(&[1.0; 64])?, rig.floats(&[0.0; 64])?, rig.int(64)?);
    for name in ["first", "second"] {
        let launch = Launch { name: name.into(), ..rig.launch("scale", x, y, n, 0) };
        rig.cuda.launch(&launch)?;
    }
    let bad = Launch { name: "blk.3.bad".into(), ..rig.launch("wild", x, y, n, 0) };
    let after = Launch { name: "after".into(), ..rig.launch("scale", x, y, n, 0) };
    let error =
        rig.cuda.launch(&bad).and_then(|()| rig.cuda.launch(&after)).and_then(|()| rig.cuda.sync()).unwrap_err();
    assert!(error.what().contains("blk.3.bad"), "{error}");
    lost(rig, error, "cuda-launch", x)
}

fn child_endless() -> Result<()> {
    let mut rig = rig()?;
    let (x, y, n) = (rig.floats(&[1.0; 64])?, rig.floats(&[0.0; 64])?, rig.int(64)?);
    rig.cuda.set_deadline(Duration::from_secs(1));
    let launches =
        [rig.launch("scale", x, y, n, 0), rig.launch("endless", x, y, n, 0), rig.launch("scale", x, y, n, 0)];
    let start = Instant::now();
    // Far more than the driver's queue holds: not even launching may hang.
    let mut result = Ok(());
    for launch in launches[..2].iter().chain(std::iter::repeat_n(&launches[2], 3000)) {
        result = result.and_then(|()| rig.cuda.launch(launch));
    }
    let error = result.and_then(|()| rig.cuda.sync()).unwrap_err();
    assert!(error.what().contains("test.endless"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    lost(rig, error, "cuda-timeout", x)
}

fn child_endless_graph() -> Result<()> {
    let mut rig = rig()?;
    let (x, y, n) = (rig.floats(&[1.0; 64])?, rig.floats(&[0.0; 64])?, rig.int(64)?);
    rig.cuda.set_deadline(Duration::from_secs(1));
    let launches = [rig.launch("scale", x, y, n, 0), rig.launch("endless", x, y, n, 0)];
    let error = rig.cuda.time(&launches, 1000).unwrap_err();
    assert!(error.what().contains("`test.scale` to `test.endless`"), "{error}");
    lost(rig, error, "cuda-timeout", x)
}

fn sanitizer_finds_one_element_out_of_bounds() -> Result<Outcome> {
    with(sanitizer::find().and_then(|s| rig().map(|_| s)), |sanitizer| {
        let exe = std::env::current_exe().expect("this program").display().to_string();
        let run = |child: &str, tool| {
            let command = [exe.clone(), "--child".into(), child.into()];
            sanitizer.run(&command, tool, Duration::from_secs(60))
        };
        let clean = run("in-bounds", cuda::sanitizer::Tool::Memcheck)?;
        assert!(clean.clean, "{clean:?}");
        let found = run("out-of-bounds", cuda::sanitizer::Tool::Memcheck)?;
        println!("  {}", found.report.get(1).map_or("", String::as_str));
        assert!(!found.clean && found.errors > 0, "{found:?}");
        let races = run("in-bounds", cuda::sanitizer::Tool::Racecheck)?;
        assert!(races.clean, "{races:?}");
        Ok(())
    })
}

/// Writes element `k` of an array of 64, once.
fn child_write(k: i32) -> Result<()> {
    let mut rig = rig()?;
    let (y, n) = (rig.floats(&[0.0; 64])?, rig.int(64)?);
    let launch = Launch { block: [1, 1, 1], ..rig.launch("past_the_end", n, y, n, k) };
    rig.cuda.launch(&launch)?;
    rig.cuda.sync()
}
