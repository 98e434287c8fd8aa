//! The emulator from outside: small kernels, each with one mistake or one feature.

use std::path::Path;
use std::time::{Duration, Instant};

use assay::Error;
use assay::backend::emulator::{Builder, Emulator};
use assay::backend::source::SourceSet;
use assay::backend::{BufferId, Device, Field, Launch, ModuleId};

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

struct Bench {
    device: Emulator,
    module: ModuleId,
}

impl Bench {
    fn new(file: &str, entries: &[&str]) -> Self {
        let builder = Builder::with_cache(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
        let module = builder.build(&source(file), entries).unwrap();
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

/// Not a test: prints what a block, a barrier and a product cost here.
#[test]
#[ignore]
fn speed() {
    let mut t = Bench::new("speed.cu", &["gemv", "empty", "barriers"]);
    let (n, k) = (1024usize, 4096usize);
    let (w, x, y) = (t.upload(&vec![1f32; n * k]), t.upload(&vec![1f32; k]), t.upload(&vec![0f32; n]));
    let mut time = |what: &str, entry: &str, grid: u32, block: u32, k: i32, units: f64| {
        let args = [at(w), at(x), at(y), Field::I32(k)];
        t.run(entry, 1, block, 0, &args).unwrap();
        let start = Instant::now();
        t.run(entry, grid, block, 0, &args).unwrap();
        let s = start.elapsed().as_secs_f64();
        println!("{what}: {:.3} ms, {:.3} µs or {:.3e}/s each", s * 1e3, s * 1e6 / units, units / s);
    };
    time("gemv", "gemv", n as u32, 32, k as i32, (n * k) as f64);
    time("empty 256-thread blocks", "empty", 4096, 256, 0, 4096.0);
    time("empty 1024-thread blocks", "empty", 1024, 1024, 0, 1024.0);
    time("barriers of 256 threads", "barriers", 4, 256, 1000, 4000.0);
    let _ = Duration::ZERO;
}
