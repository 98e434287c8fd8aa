//! The emulator from outside: small kernels, each with one mistake or one feature.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use assay::Error;
use assay::backend::cuda::{Nvrtc, find::Places};
use assay::backend::emulator::{Builder, Emulator, ThreadOrder, conformance};
use assay::backend::source::SourceSet;
use assay::backend::worker::{DeviceKind, Level, Sandbox, WorkerDevice, WorkerOptions, compile::Starter};
use assay::backend::{BufferId, Device, Field, FilePart, GraphId, Launch, Module, ModuleId, Span, Step};
use assay::model::gguf::{Source, Stamp};

/// A kernel of tests/emulator/ beside the real headers.
fn source(name: &str) -> SourceSet {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("tests/emulator").join(name)).unwrap();
    let mut set = SourceSet::single(name, text);
    for header in ["common/cuda.cuh", "common/mma.cuh", "common/async.cuh"] {
        let headers = SourceSet::load(&root.join("kernels"), header).unwrap();
        set.files.extend(headers.files);
    }
    set
}

/// Every entry of a kernel file, so that all tests share one compilation of it.
fn entries(name: &str) -> Vec<&'static str> {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulator").join(name)).unwrap();
    let names = text.leak().split("__global__ void ").skip(1);
    names.map(|rest| rest[..rest.find('(').unwrap()].rsplit(' ').next().unwrap()).collect()
}

struct Bench {
    device: Emulator,
    module: ModuleId,
}

impl Bench {
    fn new(file: &str, entries: &[&str]) -> Self {
        let builder = Builder::with_cache(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
        let module = builder.build(&source(file), entries).unwrap().module;
        let mut device = Emulator::new(builder.compiler().version.clone()).unwrap();
        let module = device.load(&module).unwrap();
        Bench { device, module }
    }

    fn upload<T: bytemuck::NoUninit>(&mut self, values: &[T]) -> BufferId {
        let bytes = bytemuck::cast_slice(values);
        let id = self.device.alloc(bytes.len() as u64).unwrap();
        self.device.write(id, 0, bytes).unwrap();
        id
    }

    fn download<T: bytemuck::Pod>(&mut self, id: BufferId, n: usize) -> Vec<T> {
        let mut out = vec![T::zeroed(); n];
        self.device.read(id, 0, bytemuck::cast_slice_mut(&mut out)).unwrap();
        out
    }

    fn run(&mut self, entry: &str, grid: u32, block: u32, shared: u32, args: &[Field]) -> Result<(), Error> {
        self.device.launch(&Launch {
            name: "test".into(),
            module: self.module,
            entry: entry.into(),
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            shared,
            args: args.to_vec(),
        })
    }
}

fn at(buffer: BufferId) -> Field {
    Field::Pointer { buffer, offset: 0 }
}

#[test]
fn adds_vectors() {
    let mut t = Bench::new("vector_add.cu", &["vector_add"]);
    let values: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let (a, b, sum) = (t.upload(&values), t.upload(&values), t.upload(&[0f32; 1000]));
    t.run("vector_add", 4, 256, 0, &[at(a), at(b), at(sum), Field::I32(1000)]).unwrap();
    assert!(t.download::<f32>(sum, 1000).iter().enumerate().all(|(i, &v)| v == 2.0 * i as f32));
    assert_eq!(t.device.take_trace().unwrap().len(), 1);
}

const MISTAKES: &str = "mistakes.cu";

/// Runs one entry of mistakes.cu on 64 threads over `in` of 64 and `out` of `out` floats.
fn mistake(entry: &str, n: i32, out: usize) -> Result<Vec<f32>, Error> {
    let mut t = Bench::new(MISTAKES, &entries(MISTAKES));
    t.device.set_time_limit(Duration::from_millis(300));
    let values: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let (input, output) = (t.upload(&values), t.upload(&vec![0f32; out]));
    let input = if entry == "null_pointer" { Field::Null } else { at(input) };
    t.run(entry, 1, 64, 2048, &[input, at(output), Field::I32(n)])?;
    Ok(t.download(output, out))
}

/// The line of mistakes.cu marked with the entry's name.
fn marked(entry: &str) -> String {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulator").join(MISTAKES)).unwrap();
    let line = text.lines().position(|l| l.ends_with(&format!("// {entry}"))).unwrap() + 1;
    format!("kernels/{MISTAKES}:{line}")
}

#[track_caller]
fn refused(entry: &str, n: i32, code: &str, says: &[&str]) {
    let error = mistake(entry, n, 64).unwrap_err();
    assert_eq!(error.code().id, code, "{error}");
    let text = error.to_string();
    for part in says.iter().copied().chain([format!("kernel `{entry}`").as_str()]) {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

#[test]
fn barriers_that_some_threads_miss() {
    let site = marked("barrier_left_early");
    refused(
        "barrier_left_early",
        10,
        "kernel-barrier",
        &[&site, "threads 0-9 returned", "threads 10-63 wait at the barrier"],
    );
    let site = marked("barrier_in_branch");
    refused("barrier_in_branch", 40, "kernel-barrier", &[&site, "threads 0-39 wait", "threads 40-63 returned"]);
    let site = marked("barrier_sites");
    refused("barrier_sites", 32, "kernel-barrier-sites", &[&site, "threads 0-31 wait", "threads 32-63 wait"]);
    assert!(mistake("barrier_sites", 64, 64).is_ok());
    assert!(mistake("barrier_left_early", 64, 64).is_ok());
}

#[test]
fn warp_operations_whose_lanes_disagree() {
    for (entry, n) in [("shuffle_masks", 0), ("shuffle_not_named", 0), ("shuffle_after_return", 20)] {
        refused(entry, n, "kernel-warp-mask", &[&marked(entry)]);
    }
    let says = ["threads 0-19 wait at the warp operation", "threads 20-63 wait at the barrier"];
    refused("shuffle_in_branch", 20, "kernel-deadlock", &[says[0], says[1], &marked("shuffle_in_branch")]);
    assert!(mistake("shuffle_after_return", 64, 64).is_ok());
}

#[test]
fn deadlocks_name_the_waiters() {
    let says = ["threads 0-15 wait at the barrier", "threads 16-31 wait at the warp operation"];
    refused("deadlock", 0, "kernel-deadlock", &[says[0], says[1], &marked("deadlock")]);
}

#[test]
fn accesses_outside_a_buffer() {
    // 64 floats fill whole 16-byte units: one past the end is the inaccessible page.
    let says = ["read offset 256 of argument 0", "with 256 bytes", "thread [0, 0, 0]"];
    let mut t = Bench::new(MISTAKES, &entries(MISTAKES));
    let (input, output) = (t.upload(&[0f32; 64]), t.upload(&[0f32; 64]));
    let error = t.run("read_past_end", 1, 96, 0, &[at(input), at(output), Field::I32(64)]).unwrap_err();
    assert_eq!(error.code().id, "kernel-out-of-bounds");
    assert!(error.what().contains(says[0]) && error.what().contains(says[1]), "{error}");
    assert!(error.what().contains("block [0, 0, 0], thread [64, 0, 0]"), "{error}");
    assert!(error.what().contains(&marked("read_past_end")), "{error}");
    // The device goes on.
    t.run("read_past_end", 1, 64, 0, &[at(input), at(output), Field::I32(63)]).unwrap();

    // 61 floats leave 12 bytes to the page: the write is found after the launch.
    let error = mistake("write_past_end", 61, 61).unwrap_err();
    assert_eq!(error.code().id, "kernel-out-of-bounds");
    assert!(error.to_string().contains("changed byte at offset 244"), "{error}");
    assert!(mistake("write_past_end", 60, 61).is_ok());
    let error = mistake("write_before_start", 0, 64).unwrap_err();
    assert_eq!(error.code().id, "kernel-out-of-bounds");
    refused("null_pointer", 0, "kernel-out-of-bounds", &["null pointer"]);
    refused("wild_pointer", 0, "kernel-out-of-bounds", &["0x5a5a5a5a0000, which belongs to no buffer"]);
}

#[test]
fn accesses_outside_arrays_and_shared_memory() {
    refused(
        "dynamic_shared_past_end",
        449,
        "kernel-out-of-bounds",
        &["read offset 2048 of 2048 bytes of dynamic shared"],
    );
    refused(
        "static_shared_past_end",
        1,
        "kernel-array-bounds",
        &[&marked("static_shared_past_end"), "index 64", "float"],
    );
    refused("local_past_end", 4, "kernel-array-bounds", &[&marked("local_past_end"), "index 4"]);
    refused("misaligned", 4, "kernel-misaligned", &[&marked("misaligned"), "float4", "multiple of 16"]);
    assert!(mistake("dynamic_shared_past_end", 0, 64).is_ok());
}

#[test]
fn copies_without_their_wait() {
    for entry in ["copy_never_waited", "copy_waited_too_little", "copy_misaligned"] {
        refused(entry, 0, "kernel-async-copy", &[&marked(entry)]);
    }
    assert!(mistake("copy_read_early", 0, 64).unwrap().iter().all(|v| v.is_nan()));
}

#[test]
fn launches_that_do_not_end() {
    let start = Instant::now();
    refused("endless", 0, "kernel-time-limit", &["within 0.3 s", "at kernels/mistakes.cu:"]);
    refused("endless_barriers", 0, "kernel-time-limit", &["within 0.3 s"]);
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(mistake("spins_for_another_warp", 0, 64).is_ok());
}

#[test]
fn instructions_that_trap() {
    refused("divides_by_zero", 0, "kernel-trap", &["division by zero", &marked("divides_by_zero")]);
    refused("asserts", 1, "kernel-trap", &["assert(p.n == 0)", &marked("asserts")]);
    refused("stack_overflow", 1, "kernel-stack", &["more than a thread's stack"]);
}

#[test]
fn a_missing_barrier_shows_between_thread_orders() {
    let mut t = Bench::new(MISTAKES, &entries(MISTAKES));
    let values: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let (input, output) = (t.upload(&values), t.upload(&[0f32; 64]));
    let mut outputs = Vec::new();
    for order in [ThreadOrder::Forward, ThreadOrder::Reverse, ThreadOrder::Shuffled(7)] {
        t.device.set_order(order);
        t.run("missing_barrier", 1, 64, 0, &[at(input), at(output), Field::I32(0)]).unwrap();
        outputs.push(t.download::<u32>(output, 64));
    }
    assert_ne!(outputs[0], outputs[1]);
    assert_ne!(outputs[0], outputs[2]);
}

#[test]
fn shared_memory_starts_as_nan_in_every_block() {
    let mut t = Bench::new(MISTAKES, &entries(MISTAKES));
    let (input, output) = (t.upload(&[0f32; 64]), t.upload(&[0f32; 64]));
    t.run("uninitialised_shared", 8, 64, 0, &[at(input), at(output), Field::I32(0)]).unwrap();
    assert!(t.download::<f32>(output, 64).iter().all(|v| v.is_nan()));
}

#[test]
fn a_kernel_must_compile_and_take_the_contracts_struct() {
    let builder = Builder::with_cache(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let text = "#include \"common/cuda.cuh\"\nextern \"C\" __global__ void k(float* p, int n) { p[n] = 1; }\n";
    let mut set = source("vector_add.cu");
    set.files.insert("vector_add.cu".into(), text.into());
    assert_eq!(builder.build(&set, &["k"]).unwrap_err().code().id, "emulator-compile");
    let error = builder.build(&source("vector_add.cu"), &["vector_sub"]).unwrap_err();
    assert_eq!(error.code().id, "emulator-compile");
    assert!(error.found_text().unwrap().contains("vector_sub"), "{error}");

    let mut t = Bench::new("vector_add.cu", &["vector_add"]);
    let a = t.upload(&[0f32; 4]);
    let error = t.run("vector_add", 1, 32, 0, &[at(a), at(a), Field::I32(4)]).unwrap_err();
    assert_eq!(error.code().id, "emulator-args");
    let args = [at(a), at(a), at(a), Field::I32(4)];
    for (grid, block, shared) in [(0, 32, 0), (1, 1025, 0), (1, 0, 0), (1, 32, 300 << 10)] {
        assert_eq!(t.run("vector_add", grid, block, shared, &args).unwrap_err().code().id, "emulator-launch");
    }
    t.run("vector_add", 1, 32, 0, &args).unwrap();
}

/// Not a test: prints what a block, a barrier and a product cost here, in CPU time.
#[test]
#[ignore = "a measurement"]
fn speed() {
    fn cpu() -> f64 {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: fills the struct.
        unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut t) };
        t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
    }
    let mut t = Bench::new("speed.cu", &["gemv", "empty", "barriers"]);
    let (n, k) = (4096usize, 4096usize);
    let (w, x, y) = (t.upload(&vec![1f32; n * k]), t.upload(&vec![1f32; k]), t.upload(&vec![0f32; n]));
    let mut time = |what: &str, entry: &str, grid: u32, block: u32, k: i32, units: f64| {
        let args = [at(w), at(x), at(y), Field::I32(k)];
        t.run(entry, 1, block, 0, &args).unwrap();
        let start = cpu();
        t.run(entry, grid, block, 0, &args).unwrap();
        let s = cpu() - start;
        println!("{what}: {:.3} ms, {:.4} µs or {:.3e}/s each", s * 1e3, s * 1e6 / units, units / s);
    };
    time("gemv", "gemv", n as u32, 32, k as i32, (n * k) as f64);
    time("empty 256-thread blocks", "empty", 4096, 256, 0, 4096.0);
    time("empty 1024-thread blocks", "empty", 1024, 1024, 0, 1024.0);
    time("barriers of 256 threads", "barriers", 4, 256, 1000, 4000.0);
}

/// mma, ldmatrix, cp.async, 16-bit, integer and warp twins against plain arithmetic. A device runs the same cases.
#[test]
fn twins_agree_with_plain_arithmetic() {
    let builder = Builder::with_cache(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let mut device = Emulator::new(builder.compiler().version.clone()).unwrap();
    let cases = conformance::cases();
    assert_eq!(cases.len(), 12);
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let module = builder.build(&case.source, case.entries()).unwrap().module;
            case.check(&mut device, &module).err().map(|e| e.to_string())
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The same cases on a GPU, in a confined worker.
#[test]
fn twins_agree_with_a_device() {
    let mut options = WorkerOptions::new(DeviceKind::Cuda).unwrap();
    options.args = worker_args();
    let (nvrtc, mut device) = match (nvrtc(), WorkerDevice::start(&options)) {
        (Ok(nvrtc), Ok(device)) => (nvrtc, device),
        (nvrtc, device) => {
            let why = [nvrtc.err(), device.err()].into_iter().flatten().map(|e| e.to_string()).collect::<Vec<_>>();
            return println!("could not run: no CUDA device: {}", why.join("; "));
        }
    };
    println!("{} in {:?}", device.info().name, device.sandbox());
    let arch = device.info().arch.clone();
    let mut failed = Vec::new();
    let mut modules = BTreeMap::new();
    for case in conformance::cases() {
        let entries: Vec<String> = case.entries().iter().map(|e| e.to_string()).collect();
        let compile = || Module::Cubin(nvrtc.compile(&case.source, &entries, &arch).unwrap().cubin);
        let result = case.check(&mut device, modules.entry(case.source.main.clone()).or_insert_with(compile));
        println!("{}: {}", case.name, if result.is_ok() { "agrees" } else { "DIFFERS" });
        failed.extend(result.err().map(|e| e.to_string()));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn nvrtc() -> Result<Nvrtc, Error> {
    Nvrtc::find_in(&Places::from_env(), &Starter { args: worker_args(), ..Starter::new()? })
}

fn worker_args() -> Vec<String> {
    ["--ignored", "--exact", "worker_process", "--test-threads=1"].map(str::to_string).to_vec()
}

/// Not a test: the body of the worker process that the tests below start.
#[test]
#[ignore = "the worker's own process"]
fn worker_process() {
    assay::backend::worker::serve().unwrap();
}

fn worker(builder: &Builder, deadline: Duration) -> WorkerDevice {
    let mut options = WorkerOptions::new(DeviceKind::Emulator).unwrap();
    options.args = worker_args();
    options.read = vec![builder.cache().to_path_buf()];
    options.emulator_name = builder.compiler().version.clone();
    options.deadline = deadline;
    WorkerDevice::start(&options).unwrap()
}

/// A worker with hostile.cu loaded, and a buffer of 32 ints.
fn hostile(deadline: Duration) -> (WorkerDevice, impl Fn(&mut WorkerDevice, &str) -> Result<(), Error>, BufferId) {
    let builder = Builder::with_cache(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let module = builder.build(&source("hostile.cu"), &entries("hostile.cu")).unwrap().module;
    let mut device = worker(&builder, deadline);
    let module = device.load(&module).unwrap();
    let out = device.alloc(128).unwrap();
    device.write(out, 0, &[7; 128]).unwrap();
    let run = move |device: &mut WorkerDevice, entry: &str| {
        let args = vec![at(out), Field::I32(5)];
        let entry = entry.to_string();
        device.launch(&Launch { name: "test".into(), module, entry, grid: [1; 3], block: [1, 1, 1], shared: 0, args })
    };
    (device, run, out)
}

#[test]
fn a_worker_computes_as_the_emulator_does() {
    let (mut device, run, out) = hostile(Duration::from_secs(60));
    run(&mut device, "well_behaved").unwrap();
    let mut bytes = [0; 8];
    device.read(out, 0, &mut bytes).unwrap();
    assert_eq!(bytes, [5, 0, 0, 0, 7, 7, 7, 7]);
    assert_eq!(device.take_trace().unwrap().len(), 1);
    assert_eq!(device.info().arch, "emulator");
    // Errors cross the boundary with their codes; the worker goes on.
    assert_eq!(run(&mut device, "missing").unwrap_err().code().id, "emulator-no-entry");
    assert_eq!(device.read(out, 100, &mut [0; 100]).unwrap_err().code().id, "emulator-buffer");
    run(&mut device, "well_behaved").unwrap();
    // More than one message's worth.
    let big = device.alloc(150 << 20).unwrap();
    let values: Vec<u8> = (0..150usize << 20).map(|i| (i * 7 / 3) as u8).collect();
    let mut back = vec![0; values.len()];
    device.write(big, 0, &values).unwrap();
    device.read(big, 0, &mut back).unwrap();
    assert!(back == values);
}

/// What goes in, the graph and what comes out cross the boundary at once, and mean what they mean one by one; so does
/// what is too long for one message.
#[test]
fn a_step_is_one_call() {
    let (mut device, _, out) = hostile(Duration::from_secs(60));
    let builder = Builder::with_cache(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let module = device.load(&builder.build(&source("hostile.cu"), &entries("hostile.cu")).unwrap().module).unwrap();
    let launch = Launch {
        name: "test".into(),
        module,
        entry: "well_behaved".into(),
        grid: [1; 3],
        block: [1, 1, 1],
        shared: 0,
        args: vec![at(out), Field::I32(5)],
    };
    let (graph, nodes) = device.record(&[launch]).unwrap();
    assert_eq!(nodes.len(), 1);
    let span = |offset, len| Span { buffer: out, offset, len };
    let writes = [span(4, 4), span(12, 4)];
    let step = Step { writes: &writes, bytes: &[1, 1, 1, 1, 2, 2, 2, 2], graph, read: Some(span(0, 16)) };
    let mut into = [0; 16];
    device.step(&step, &mut into).unwrap();
    assert_eq!(into, [5, 0, 0, 0, 1, 1, 1, 1, 7, 7, 7, 7, 2, 2, 2, 2]);
    let none = Step { writes: &[], bytes: &[], graph, read: None };
    device.step(&none, &mut []).unwrap();
    assert!(device.take_trace().unwrap().is_empty(), "a replay is no part of the trace");
    let missing = Step { graph: GraphId(9), ..none };
    assert_eq!(device.step(&missing, &mut []).unwrap_err().code().id, "internal");
    let short = Step { bytes: &[1], ..step };
    assert_eq!(device.step(&short, &mut into).unwrap_err().code().id, "internal");
    let outside = Step { read: Some(span(120, 16)), ..step };
    assert_eq!(device.step(&outside, &mut into).unwrap_err().code().id, "emulator-buffer");
    let big = device.alloc(9 << 20).unwrap();
    let values: Vec<u8> = (0..9usize << 20).map(|i| (i * 11 / 3) as u8).collect();
    let all = Span { buffer: big, offset: 0, len: values.len() as u64 };
    let mut back = vec![0; values.len()];
    device.step(&Step { writes: &[all], bytes: &values, graph, read: Some(all) }, &mut back).unwrap();
    assert!(back == values);
}

/// A worker reads the model's file itself, if it was given leave to and if the file is still what it was.
#[test]
fn a_worker_reads_a_file_as_it_was_mapped() {
    let builder = Builder::with_cache(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("model.gguf");
    let content: Vec<u8> = (0..10usize << 20).map(|i| (i * 13 / 5) as u8).collect();
    std::fs::write(&path, &content).unwrap();
    let stamp = Stamp::of(&std::fs::File::open(&path).unwrap(), &path).unwrap();
    let source = Source { path: path.canonicalize().unwrap(), stamp };
    let mut options = WorkerOptions::new(DeviceKind::Emulator).unwrap();
    options.args = worker_args();
    options.read = vec![builder.cache().to_path_buf()];

    let mut device = WorkerDevice::start(&options.reading(&path)).unwrap();
    let ranges = [(17, 5), (1 << 20, 9 << 20), (0, 1)];
    let parts: Vec<FilePart> =
        ranges.map(|(at, len)| FilePart { buffer: device.alloc(len).unwrap(), at, len }).to_vec();
    device.read_file(&source, &parts).unwrap();
    for part in &parts {
        let mut found = vec![0; part.len as usize];
        device.read(part.buffer, 0, &mut found).unwrap();
        assert!(found == content[part.at as usize..][..found.len()], "{part:?}");
    }
    let beyond = FilePart { at: 10 << 20, ..parts[0] };
    assert_eq!(device.read_file(&source, &[beyond]).unwrap_err().code().id, "gguf-changed");
    let too_long = FilePart { len: 6, ..parts[0] };
    assert_eq!(device.read_file(&source, &[too_long]).unwrap_err().code().id, "emulator-buffer");

    let mut stranger = WorkerDevice::start(&options).unwrap();
    if stranger.sandbox().landlock_abi > 0 {
        let buffer = stranger.alloc(5).unwrap();
        let error = stranger.read_file(&source, &[FilePart { buffer, ..parts[0] }]).unwrap_err();
        assert_eq!(error.code().id, "io", "{error}");
    } else {
        println!("could not run: nothing confines a worker's reads on this machine");
    }
    std::fs::write(&path, &content[1..]).unwrap();
    let error = device.read_file(&source, &parts).unwrap_err();
    assert_eq!((error.code().id, error.found_text()), ("gguf-changed", Some("10485759 bytes")));
}

#[test]
fn a_worker_is_confined() {
    let _ = std::fs::remove_dir_all("/tmp/assay-escaped");
    let _ = std::fs::remove_file("/tmp/assay-escaped");
    let (mut device, run, out) = hostile(Duration::from_secs(60));
    let sandbox = device.sandbox().clone();
    if !sandbox.seccomp {
        // The kernel's fork would succeed and two processes answer on one socket.
        return println!("could not run: no seccomp here: {sandbox:?}");
    }
    run(&mut device, "escapes").unwrap();
    let mut bytes = [0; 128];
    device.read(out, 0, &mut bytes).unwrap();
    let results: &[i32] = bytemuck::cast_slice(&bytes[..44]);
    println!("{sandbox:?}: {results:?}");
    // Files are landlock's part, signals to outside that of its version 6; system calls are seccomp's.
    let parts = [(sandbox.landlock_abi > 0, 0..4), (true, 4..9), (sandbox.landlock_abi >= 6, 9..11)];
    for (held, range) in parts {
        if held {
            assert!(results[range.clone()].iter().all(|&r| r == -1), "{range:?}: {sandbox:?}: {results:?}");
        } else {
            println!("could not run: attempts {range:?} are not confined on this machine");
        }
    }
    assert_eq!(sandbox.level == Level::Full, sandbox.landlock_abi > 0);
    assert!(sandbox.landlock_abi == 0 || !Path::new("/tmp/assay-escaped").exists());
}

/// The rules for sources and objects refuse this kernel before it is loaded; the worker must hold without them.
#[test]
fn neither_at_load_nor_in_a_launch_is_a_key_read_or_a_ledger_written() {
    let dir = tempfile::tempdir().unwrap();
    let (key, ledger) = (dir.path().join("host.key"), dir.path().join("ledger.jsonl"));
    std::fs::write(&key, "secret").unwrap();
    std::fs::write(&ledger, "{}\n").unwrap();
    let mut set = source("thief.cu");
    let text = set.files["thief.cu"].replace("@KEY@", key.to_str().unwrap());
    set.files.insert("thief.cu".into(), text.replace("@LEDGER@", ledger.to_str().unwrap()));
    let builder = Builder::with_cache(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let module = builder.build(&set, &["steals"]).unwrap().module;
    let mut device = worker(&builder, Duration::from_secs(60));
    if device.sandbox().landlock_abi == 0 {
        return println!("could not run: nothing confines a worker's files here: {:?}", device.sandbox());
    }
    let module = device.load(&module).unwrap();
    let out = device.alloc(36).unwrap();
    device.write(out, 0, &[7; 36]).unwrap();
    let args = vec![at(out), Field::I32(0)];
    let launch =
        Launch { name: "test".into(), module, entry: "steals".into(), grid: [1; 3], block: [1; 3], shared: 0, args };
    device.launch(&launch).unwrap();
    let mut bytes = [0; 36];
    device.read(out, 0, &mut bytes).unwrap();
    let results: &[i32] = bytemuck::cast_slice(&bytes);
    // Cutting a file off by its name is landlock's since its version 3.
    let held = if device.sandbox().landlock_abi >= 3 { 9 } else { 8 };
    assert!(results[..held].iter().all(|&r| r == -1), "{:?}: {results:?}", device.sandbox());
    assert!(held < 9 || std::fs::read_to_string(&ledger).unwrap() == "{}\n");
    assert!(key.is_file() && !dir.path().join("ledger.jsonl.new").exists());
}

#[test]
fn a_worker_that_dies_or_hangs_is_reported() {
    let (mut device, run, _) = hostile(Duration::from_secs(60));
    let error = run(&mut device, "aborts").unwrap_err();
    assert_eq!(error.code().id, "worker-crash", "{error}");
    assert!(error.what().contains("SIGABRT"), "{error}");
    assert_eq!(device.sync().unwrap_err().code().id, "worker-crash");

    let (mut device, run, _) = hostile(Duration::from_secs(60));
    device.set_deadline(Duration::from_millis(700));
    let start = Instant::now();
    let error = run(&mut device, "hangs").unwrap_err();
    assert_eq!(error.code().id, "worker-hang", "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

/// What came from the cache was "compiled before", under who knows what.
#[test]
fn an_object_from_the_cache_says_what_confined_its_compiler() {
    let dir = tempfile::tempdir().unwrap();
    let builder = || Builder::with_cache(dir.path()).unwrap();
    let build = |builder: &Builder| {
        let built = builder.build(&source("vector_add.cu"), &["vector_add"]).unwrap();
        let Module::SharedObject(object) = built.module else { panic!("no shared object") };
        (object, built.compiler)
    };
    let (object, first) = build(&builder());
    let beside = object.with_extension("confined");
    let (told, made) = (std::fs::read(&beside).unwrap(), std::fs::metadata(&object).unwrap().modified().unwrap());
    let is_made_again = || std::fs::metadata(&object).unwrap().modified().unwrap() != made;
    assert_eq!(build(&builder()), (object.clone(), first.clone()));
    assert!(!is_made_again());
    // As it would be found by a machine that confines compilers, from one that did not.
    let none = serde_json::to_vec(&Sandbox::new(0, false, false)).unwrap();
    std::fs::write(&beside, &none).unwrap();
    assert_eq!(build(&builder()).1.level, Level::None);
    assert!(!is_made_again());
    assert_eq!(build(&builder().confining(first.level)).1, first);
    assert_eq!(is_made_again(), first.level != Level::None);
    assert_eq!(std::fs::read(&beside).unwrap() == told, first.level != Level::None);
    // What does not say it, or not believably, is made again.
    for damage in [&b""[..], br#"{"level":"full","landlock_abi":0,"seccomp":true,"namespaces":true}"#, &told[1..]] {
        std::fs::write(&beside, damage).unwrap();
        assert_eq!(build(&builder()), (object.clone(), first.clone()));
        assert_eq!(std::fs::read(&beside).unwrap(), told);
    }
    std::fs::remove_file(&beside).unwrap();
    assert_eq!(build(&builder()).1, first);
    Builder::forget(&object);
    assert_eq!(std::fs::read_dir(object.parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn a_compiler_reads_the_toolchain_and_the_kernel_only() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let builder = Builder::with_cache(&dir.path().join("cache")).unwrap();
    let mut set = source("vector_add.cu");
    let kernel = set.files["vector_add.cu"].clone();
    let sandbox = builder.build(&set, &["vector_add"]).unwrap().compiler;
    if sandbox.level != Level::Full {
        return println!("could not run: no full confinement here: {sandbox:?}");
    }
    for file in [secret.to_str().unwrap(), "/etc/passwd"] {
        for text in [format!("asm(\".incbin \\\"{file}\\\"\");\n"), format!("#include \"{file}\"\n")] {
            set.files.insert("vector_add.cu".into(), text + &kernel);
            let error = builder.build(&set, &["vector_add"]).unwrap_err();
            assert_eq!(error.code().id, "emulator-compile", "{error}");
        }
    }
}
