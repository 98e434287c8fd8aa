//! The CPU emulator: kernels compiled by the host's C++ compiler, one coroutine per CUDA thread.
//!
//! A test instrument. It finds what a GPU lets pass (divergent barriers, missing waits, single elements out of
//! bounds) and names kernel, block, thread and line; its verdicts are never green and it is never timed.
//!
//! * [`build`] compiles a [`SourceSet`](super::source::SourceSet), through a cache on disk.
//! * [`memory`] holds buffers between inaccessible pages.
//! * [`runner`] runs blocks; [`host`] is what kernels call; [`stuck`] explains blocks that cannot go on.
//! * [`fault`] turns signals into reports; [`report`] puts it all into words.

mod abi;
pub mod build;
pub mod codes;
pub mod compiler;
pub mod conformance;
mod fault;
mod host;
mod lines;
mod memory;
mod module;
pub mod object;
mod report;
mod runner;
mod stack;
mod stuck;

use std::cell::RefCell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub use build::Builder;
pub use codes::CODES;
pub use report::written_argument;

use self::memory::Memory;
use self::module::Loaded;
use self::runner::{Failure, Job, Runner};
use super::{BufferId, Device, DeviceInfo, GraphId, Launch, Module, ModuleId, Placement, Traced, pack};
use crate::error::{Error, Result};

/// In which order the threads of a block, and the blocks of a grid, take their turns. A kernel without races gives the
/// same bytes in every order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThreadOrder {
    #[default]
    Forward,
    Reverse,
    Shuffled(u64),
}

impl ThreadOrder {
    fn permute<T>(self, items: &mut [T]) {
        match self {
            ThreadOrder::Forward => {}
            ThreadOrder::Reverse => items.reverse(),
            ThreadOrder::Shuffled(seed) => {
                let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
                for i in (1..items.len()).rev() {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    items.swap(i, (state >> 33) as usize % (i + 1));
                }
            }
        }
    }
}

/// Most dynamic shared memory of a block: that of sm_90.
const SHARED_MAX: u32 = 227 << 10;
/// Blocks in flight at once; each operating-system thread keeps up to 1024 stacks, two mappings each.
const THREADS_MAX: usize = 16;

pub struct Emulator {
    info: DeviceInfo,
    memory: Memory,
    modules: Vec<Loaded>,
    trace: Vec<Traced>,
    graphs: Vec<Vec<Launch>>,
    replayed_ms: f64,
    order: ThreadOrder,
    time_limit: Duration,
    pool: rayon::ThreadPool,
}

impl Emulator {
    /// `name` is the version line of the compiler whose objects will be loaded.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        Emulator::with_threads(name, THREADS_MAX)
    }

    /// The same with so many blocks in flight at most: where many emulators run side by side, one for each processor.
    pub fn with_threads(name: impl Into<String>, most: usize) -> Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(THREADS_MAX).min(most.max(1));
        let pool =
            rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("emulator-{i}")).build();
        let pool = pool.map_err(|e| Error::new(&codes::MEMORY, format!("the emulator's threads: {e}")).because(e))?;
        let info = DeviceInfo {
            placement: Placement::Emulator,
            arch: "emulator".into(),
            name: name.into(),
            driver: String::new(),
            memory: memory_bytes(),
            shared_max: SHARED_MAX,
        };
        Ok(Emulator {
            info,
            memory: Memory::default(),
            modules: Vec::new(),
            trace: Vec::new(),
            graphs: Vec::new(),
            replayed_ms: 0.0,
            order: ThreadOrder::Forward,
            time_limit: Duration::from_secs(60),
            pool,
        })
    }

    /// For the launches that follow.
    pub fn set_order(&mut self, order: ThreadOrder) {
        self.order = order;
    }

    /// How long one launch may take, for the launches that follow. 60 s to begin with.
    pub fn set_time_limit(&mut self, limit: Duration) {
        self.time_limit = limit;
    }

    /// The blocks of `job`, over all threads of the pool; of several failures the one of the first block.
    fn run(&self, module: &Loaded, job: &Job) -> Result<(), Box<Failed>> {
        let total: u64 = job.grid.iter().map(|&d| u64::from(d)).product();
        let (next, job) = (AtomicU64::new(0), Shared(job));
        let failed: Mutex<Option<Box<Failed>>> = Mutex::new(None);
        let fail = |block: u64, failure: Failure, context: Context| {
            next.store(total, Relaxed);
            let mut slot = failed.lock().unwrap_or_else(|e| e.into_inner());
            if slot.as_ref().is_none_or(|f| block < f.block) {
                *slot = Some(Box::new(Failed { block, failure, context }));
            }
        };
        let work = || {
            let job = job.get();
            let here = match module.here() {
                Ok(here) => here,
                Err(e) => return fail(0, Failure::new(&codes::LOAD, e.what().to_string()), Context::default()),
            };
            RUNNER.with(|cell| {
                let mut cell = cell.borrow_mut();
                let runner = cell.get_or_insert_with(Runner::new);
                let none = |e: std::io::Error| Failure::new(&codes::MEMORY, format!("stacks of a block: {e}"));
                if let Err(e) = runner.prepare(job) {
                    return fail(0, none(e), Context::default());
                }
                let guarded = fault::guarded(runner, self.time_limit, || {
                    loop {
                        let at = next.fetch_add(1, Relaxed);
                        if at >= total {
                            return;
                        }
                        let block = match job.order {
                            ThreadOrder::Forward => at,
                            _ => total - 1 - at,
                        };
                        if let Err(failure) = runner.run_block(&here, coordinates(block, job.grid)) {
                            let context = Context {
                                dynamic: runner.dynamic_range(),
                                stack: runner.stack_of(&failure),
                                site: failure.fault.and_then(|f| module.place(f.pc)),
                            };
                            return fail(block, failure, context);
                        }
                    }
                });
                if let Err(e) = guarded {
                    fail(0, none(e), Context::default());
                }
            });
        };
        if total == 1 {
            self.pool.install(work);
        } else {
            self.pool.broadcast(|_| work());
        }
        failed.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
    }
}

/// The block that could not be completed, and why.
struct Failed {
    block: u64,
    failure: Failure,
    context: Context,
}

/// Address ranges that a fault is explained by.
#[derive(Default)]
struct Context {
    dynamic: (std::ops::Range<usize>, usize),
    stack: std::ops::Range<usize>,
    /// The line of the instruction.
    site: Option<String>,
}

/// A job holds the address of the argument struct, which its threads only read.
struct Shared<'a>(&'a Job);
// SAFETY: see above; everything else in a job is plain data.
unsafe impl Sync for Shared<'_> {}
impl Shared<'_> {
    fn get(&self) -> &Job {
        self.0
    }
}

thread_local! {
    /// Stacks and coroutines, kept from launch to launch.
    static RUNNER: RefCell<Option<Box<Runner>>> = const { RefCell::new(None) };
}

/// Block or thread `linear` as x, y, z.
fn coordinates(linear: u64, dims: [u32; 3]) -> [u32; 3] {
    let (x, y) = (u64::from(dims[0]), u64::from(dims[1]));
    [(linear % x) as u32, (linear / x % y) as u32, (linear / x / y) as u32]
}

impl Device for Emulator {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&mut self, bytes: u64) -> Result<BufferId> {
        self.memory.alloc(bytes)
    }

    fn free(&mut self, buffer: BufferId) -> Result<()> {
        self.memory.free(buffer)
    }

    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        let all = self.memory.open(buffer)?.bytes_mut();
        let range = report::range(buffer, all.len(), offset, bytes.len())?;
        all[range].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let all = self.memory.get(buffer)?.bytes();
        let range = report::range(buffer, all.len(), offset, bytes.len())?;
        bytes.copy_from_slice(&all[range]);
        Ok(())
    }

    fn fill(&mut self, buffer: BufferId, pattern: u32) -> Result<()> {
        for word in self.memory.open(buffer)?.bytes_mut().chunks_exact_mut(4) {
            word.copy_from_slice(&pattern.to_ne_bytes());
        }
        Ok(())
    }

    fn seal(&mut self, buffer: BufferId) -> Result<()> {
        self.memory.seal(buffer, true)
    }

    fn set_thread_order(&mut self, order: ThreadOrder) -> Result<()> {
        self.set_order(order);
        Ok(())
    }

    fn set_time_limit(&mut self, limit: Duration) -> Result<()> {
        self.set_time_limit(limit);
        Ok(())
    }

    fn load(&mut self, module: &Module) -> Result<ModuleId> {
        let Module::SharedObject(path) = module else {
            return Err(Error::new(&codes::LOAD, "the emulator loads shared objects, not cubins"));
        };
        self.modules.push(Loaded::open(path, &host::HOST)?);
        Ok(ModuleId(self.modules.len() as u32 - 1))
    }

    fn launch(&mut self, launch: &Launch) -> Result<()> {
        report::check_shape(launch, &self.info)?;
        let memory = &self.memory;
        let bytes = pack(&launch.args, |id| Ok(memory.get(id)?.base() as u64))?;
        let module = self.modules.get_mut(launch.module.0 as usize);
        let module = module.ok_or_else(|| Error::new(&codes::NO_ENTRY, format!("{}: no such module", launch.name)))?;
        let (entry, size) = module.entry(&launch.entry)?;
        if bytes.len() < size || bytes.len() >= size + 8 {
            return Err(Error::new(&codes::ARGS, format!("{}: argument struct of `{}`", launch.name, launch.entry))
                .expected(format!("{} bytes, as the contract's fields take", bytes.len()))
                .found(format!("{size} bytes in the compiled kernel"))
                .hint("include the generated header args/<op>.h"));
        }
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(&bytes);
        let job = Job {
            entry,
            args: words.as_ptr().cast(),
            grid: launch.grid,
            block: launch.block,
            shared: launch.shared,
            order: self.order,
        };
        let done = self.run(&self.modules[launch.module.0 as usize], &job);
        let traced =
            Traced { entry: launch.entry.clone(), grid: launch.grid, block: launch.block, shared: launch.shared };
        self.trace.push(traced);
        match done {
            Err(failed) => Err(report::failure(launch, *failed, &self.memory, self.time_limit)),
            Ok(()) => report::check_damage(launch, &self.memory),
        }
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_trace(&mut self) -> Result<Vec<Traced>> {
        Ok(std::mem::take(&mut self.trace))
    }

    fn record(&mut self, launches: &[Launch]) -> Result<(GraphId, Vec<Traced>)> {
        let traced = |l: &Launch| Traced { entry: l.entry.clone(), grid: l.grid, block: l.block, shared: l.shared };
        self.graphs.push(launches.to_vec());
        Ok((GraphId(self.graphs.len() as u32 - 1), launches.iter().map(traced).collect()))
    }

    fn replay(&mut self, graph: GraphId) -> Result<()> {
        let launches = self.graphs.get(graph.0 as usize).cloned();
        let launches = launches.ok_or_else(|| Error::internal(format!("graph {} was not recorded", graph.0)))?;
        let kept = self.trace.len();
        let started = Instant::now();
        let ran = launches.iter().try_for_each(|l| self.launch(l));
        self.replayed_ms += started.elapsed().as_secs_f64() * 1e3;
        self.trace.truncate(kept);
        ran
    }

    fn forget(&mut self, graph: GraphId) -> Result<()> {
        match self.graphs.get_mut(graph.0 as usize) {
            Some(launches) => launches.clear(),
            None => return Err(Error::internal(format!("graph {} was not recorded", graph.0))),
        }
        Ok(())
    }

    fn time_each(&mut self, launches: &[Launch]) -> Result<Vec<f32>> {
        let kept = self.trace.len();
        let times = launches
            .iter()
            .map(|l| {
                let started = Instant::now();
                self.launch(l).map(|()| started.elapsed().as_secs_f32() * 1e3)
            })
            .collect();
        self.trace.truncate(kept);
        times
    }

    fn replayed_ms(&mut self) -> Result<f64> {
        Ok(std::mem::take(&mut self.replayed_ms))
    }

    fn copy(&mut self, from: BufferId, to: BufferId, bytes: u64) -> Result<()> {
        let mut contents = vec![0; usize::try_from(bytes).map_err(|_| Error::internal("a copy beyond memory"))?];
        self.read(from, 0, &mut contents)?;
        self.write(to, 0, &contents)
    }

    fn free_memory(&mut self) -> Result<u64> {
        Ok(self.info.memory)
    }
}

/// Physical memory, bytes.
fn memory_bytes() -> u64 {
    // SAFETY: queries without side effects.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    u64::try_from(pages).unwrap_or(0) * u64::try_from(size).unwrap_or(0)
}
