//! The CUDA device: memory, modules and launches on one stream, with a deadline on every wait.
//!
//! A kernel that never ends cannot be stopped from outside, and most driver calls would wait for it. So nothing here
//! waits in the driver: the stream is polled, and before any call that would synchronise, the launches before it are
//! waited for with the deadline. After a time-out or a sticky error the device is *broken*: every later call fails
//! with the same code, and dropping it frees nothing, since freeing would wait too. The process should then end with
//! `_exit`, which the operating system and the driver clean up after.
//!
//! Longer than other files: which call may wait, and what a fault leaves usable, holds only if it is read as a whole.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, c_int, c_void},
    ptr,
    rc::Rc,
    time::{Duration, Instant},
};

use super::{
    CUDA_CUBIN, CUDA_DRIVER, CUDA_ENTRY, CUDA_LAUNCH, CUDA_MEMORY, CUDA_TIMEOUT, cubin,
    driver::{self, CUdevice, CUdeviceptr, CUevent, CUfunction, CUmodule, CUstream, Driver, attribute, code, function},
    graph::Kept,
    upload,
};
use crate::{
    backend::{
        BufferId, Device, DeviceInfo, Field, FilePart, GraphId, Launch, Module, ModuleId, Placement, Step, Traced,
        emulator::ThreadOrder, pack,
    },
    error::{Code, Error, Result},
    model::gguf::Source,
};

/// How long launches may take between two waits, unless the caller says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Launches between two waits. The driver's own queue holds about a thousand and blocks, without a deadline, when full.
const MAX_PENDING: usize = 256;
/// How long a wait spins before it sleeps: a step of a generation ends within it, and a sleep would make it later by up
/// to a millisecond.
const SPIN: Duration = Duration::from_millis(30);
/// Shared memory that a block gets without asking for more, bytes.
const SHARED_DEFAULT: u32 = 48 << 10;

/// One GPU, through the driver. Not `Send`: its context is current on the thread that opened it.
pub struct Cuda {
    pub(super) api: Driver,
    device: CUdevice,
    info: DeviceInfo,
    limits: Limits,
    pub(super) stream: CUstream,
    progress: Progress,
    buffers: Vec<Option<Buffer>>,
    modules: Vec<Loaded>,
    /// Launches since the last wait: sequence number and name.
    pending: Vec<(u32, String)>,
    /// The graph that runs at present, for messages.
    pub(super) graph: Option<Rc<str>>,
    trace: Vec<Traced>,
    /// Recorded graphs; forgotten ones leave a gap.
    pub(super) graphs: Vec<Option<Kept>>,
    /// Milliseconds of the replays that have ended.
    pub(super) replayed: f64,
    /// The events of the replay that goes on.
    pub(super) running: Option<(CUevent, CUevent)>,
    /// What files come in through.
    pub(super) slots: Option<upload::Slots>,
    /// Host memory that the device reads and writes without a copy between.
    pinned: Option<std::ops::Range<usize>>,
    deadline: Duration,
    broken: Option<(&'static Code, String)>,
}

struct Limits {
    threads: u32,
    block: [u32; 3],
    grid: [u32; 3],
}

struct Buffer {
    address: CUdeviceptr,
    bytes: u64,
}

struct Loaded {
    handle: CUmodule,
    kernels: BTreeMap<String, cubin::Kernel>,
    functions: BTreeMap<String, Function>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: CUfunction,
    /// Bytes of its one by-value parameter.
    parameter: usize,
    threads: u32,
    static_shared: u32,
    /// Dynamic shared memory that it may ask for at present.
    dynamic_shared: u32,
}

/// A word of host memory into which the stream writes each launch's number once the launch has ended: after a failure
/// it tells which launch died.
struct Progress {
    host: *mut u32,
    device: CUdeviceptr,
    issued: u32,
}

impl Cuda {
    /// Opens the first device that the driver shows (`CUDA_VISIBLE_DEVICES` chooses).
    pub fn open() -> Result<Cuda> {
        Self::open_ordinal(0)
    }

    pub fn open_ordinal(ordinal: u32) -> Result<Cuda> {
        let api = Driver::open()?;
        let mut count = 0;
        // SAFETY: a valid place for an int.
        api.check("cuDeviceGetCount", unsafe { (api.device_count)(&mut count) })?;
        if count <= 0 || i64::from(ordinal) >= i64::from(count) {
            return Err(driver::no_device(&format!(
                "the driver shows {count} devices, number {ordinal} was asked for"
            )));
        }
        let mut device = 0;
        // SAFETY: a valid place for a device number; the ordinal is below the count.
        api.check("cuDeviceGet", unsafe { (api.device_get)(&mut device, ordinal as c_int) })?;
        let (info, limits) = describe(&api, device)?;
        let mut context = ptr::null_mut();
        // SAFETY: a valid place for a handle; released in `drop`.
        api.check("cuDevicePrimaryCtxRetain", unsafe { (api.context_retain)(&mut context, device) })?;
        // SAFETY: the context was just retained.
        api.check("cuCtxSetCurrent", unsafe { (api.context_set)(context) })?;
        let mut stream = ptr::null_mut();
        const NON_BLOCKING: u32 = 1;
        // SAFETY: a valid place for a handle.
        api.check("cuStreamCreate", unsafe { (api.stream_create)(&mut stream, NON_BLOCKING) })?;
        let progress = Progress::new(&api)?;
        Ok(Cuda {
            api,
            device,
            info,
            limits,
            stream,
            progress,
            buffers: Vec::new(),
            modules: Vec::new(),
            pending: Vec::new(),
            graph: None,
            trace: Vec::new(),
            graphs: Vec::new(),
            replayed: 0.0,
            running: None,
            slots: None,
            pinned: None,
            deadline: DEADLINE,
            broken: None,
        })
    }

    /// Has the device reach this memory directly from now on. Where the driver cannot, transfers go through memory of
    /// its own as all others do, which is slower and no failure.
    ///
    /// # Safety
    /// The memory must stay mapped for as long as this device lives.
    pub unsafe fn pin(&mut self, at: *mut u8, len: usize) {
        // SAFETY: mapped memory, as the caller promises.
        if unsafe { (self.api.host_register)(at.cast(), len, 0) } == 0 {
            self.pinned = Some(at.addr()..at.addr() + len);
        }
    }

    fn is_pinned(&self, memory: &[u8]) -> bool {
        let at = memory.as_ptr().addr();
        self.pinned.as_ref().is_some_and(|p| p.start <= at && at + memory.len() <= p.end)
    }

    /// How long launches may take between two waits.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// Free and total memory now, bytes.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.usable()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: valid places for two sizes.
        self.api.check("cuMemGetInfo", unsafe { (self.api.memory_info)(&mut free, &mut total) })?;
        Ok((free as u64, total as u64))
    }

    /// Whether the device was lost to a time-out or a sticky error, so that this process has to end.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    pub(super) fn usable(&self) -> Result<()> {
        match &self.broken {
            None => Ok(()),
            Some((code, what)) => {
                Err(Error::new(code, what.clone()).hint("end this process: the device is lost to it"))
            }
        }
    }

    fn break_with(&mut self, code: &'static Code, what: String) -> Error {
        self.broken = Some((code, what.clone()));
        self.pending.clear();
        Error::new(code, what)
    }

    /// Sorts a driver's failure: a sticky one is a kernel's death and breaks the device.
    pub(super) fn done(&mut self, call: &str, result: c_int) -> Result<()> {
        if result == 0 {
            return Ok(());
        }
        let text = self.api.describe(result);
        if code::sticky(result) {
            let launch = self.first_unfinished();
            return Err(self.break_with(&CUDA_LAUNCH, format!("{launch} died: {text}")));
        }
        Err(Error::new(&CUDA_DRIVER, format!("{call} failed: {text}")))
    }

    /// The launch that the stream was at, by the last number that it wrote.
    fn first_unfinished(&self) -> String {
        let finished = self.progress.finished();
        match self.pending.iter().find(|(n, _)| n.wrapping_sub(finished).cast_signed() > 0) {
            Some((_, name)) => format!("the launch `{name}`"),
            None => self.graph.as_deref().unwrap_or("work on the device that is no launch").into(),
        }
    }

    /// Polls the stream until it is idle.
    pub(super) fn wait(&mut self, deadline: Option<Duration>) -> Result<()> {
        self.usable()?;
        let start = Instant::now();
        let mut pause = Duration::from_micros(20);
        loop {
            // SAFETY: the stream lives as long as the device.
            let result = unsafe { (self.api.stream_query)(self.stream) };
            if result != code::NOT_READY {
                self.done("cuStreamQuery", result)?;
                self.pending.clear();
                return self.end_replay();
            }
            let waited = start.elapsed();
            if deadline.is_some_and(|d| waited > d) {
                let what = format!("{} did not end within {:.1} s", self.first_unfinished(), waited.as_secs_f64());
                return Err(self.break_with(&CUDA_TIMEOUT, what));
            }
            // Long waits should not burn a core.
            if waited < SPIN {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(1));
            }
        }
    }

    /// Before a call that would wait in the driver for what is enqueued.
    fn settle(&mut self) -> Result<()> {
        self.wait(Some(self.deadline))
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    fn buffer(&self, id: BufferId) -> Result<&Buffer> {
        let slot = self.buffers.get(id.0 as usize).and_then(Option::as_ref);
        slot.ok_or_else(|| Error::internal(format!("CUDA buffer {} does not exist or was freed", id.0)))
    }

    pub(super) fn span(&self, id: BufferId, offset: u64, length: usize) -> Result<CUdeviceptr> {
        let buffer = self.buffer(id)?;
        match offset.checked_add(length as u64) {
            Some(end) if end <= buffer.bytes => Ok(buffer.address + offset),
            _ => Err(Error::internal(format!(
                "CUDA buffer {} has {} bytes; {length} at {offset} were asked for",
                id.0, buffer.bytes
            ))),
        }
    }

    /// Looks an entry up once a module, with what a launch of it may ask for.
    fn function(&mut self, launch: &Launch) -> Result<Function> {
        let Some(module) = self.modules.get(launch.module.0 as usize) else {
            return Err(Error::internal(format!("launch `{}`: module {} is not loaded", launch.name, launch.module.0)));
        };
        if let Some(known) = module.functions.get(&launch.entry) {
            return Ok(*known);
        }
        let refuse = |why: &str| Error::new(&CUDA_ENTRY, format!("launch `{}`: {why}", launch.name));
        let Some(kernel) = module.kernels.get(&launch.entry) else {
            return Err(refuse(&format!("its module has no entry `{}`", launch.entry)));
        };
        if kernel.parameters != 1 {
            return Err(refuse(&format!(
                "`{}` does not take exactly one parameter, its argument struct",
                launch.entry
            )));
        }
        let parameter = kernel.bytes as usize;
        let name = CString::new(launch.entry.as_str()).map_err(|_| refuse("its entry's name holds a NUL byte"))?;
        let mut handle = ptr::null_mut();
        // SAFETY: a loaded module, a C string, a valid place for a handle.
        let result = unsafe { (self.api.module_function)(&mut handle, module.handle, name.as_ptr()) };
        self.done("cuModuleGetFunction", result)?;
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: a function of a loaded module, a valid place for an int.
            let result = unsafe { (self.api.function_attribute)(&mut value, which, handle) };
            self.api.check("cuFuncGetAttribute", result).map(|()| value.unsigned_abs())
        };
        let static_shared = attribute(function::STATIC_SHARED)?;
        let found = Function {
            handle,
            parameter,
            threads: attribute(function::MAX_THREADS)?,
            static_shared,
            dynamic_shared: SHARED_DEFAULT.saturating_sub(static_shared),
        };
        self.modules[launch.module.0 as usize].functions.insert(launch.entry.clone(), found);
        Ok(found)
    }

    /// What the driver would refuse as just "invalid value".
    fn check_geometry(&self, launch: &Launch, function: &Function) -> Result<()> {
        let refuse = |what: &str, expected: String, found: String| {
            Err(Error::new(&CUDA_LAUNCH, format!("launch `{}`: {what}", launch.name)).expected(expected).found(found))
        };
        let threads = launch.block.iter().try_fold(1u32, |n, d| n.checked_mul(*d)).unwrap_or(u32::MAX);
        let most = function.threads.min(self.limits.threads);
        let outside = |dims: &[u32; 3], max: &[u32; 3]| dims.iter().zip(max).any(|(d, m)| *d == 0 || d > m);
        if outside(&launch.block, &self.limits.block) || threads > most {
            let expected = format!("at most {most} threads, dimensions 1 to {:?}", self.limits.block);
            return refuse("its block is impossible here", expected, format!("{:?}", launch.block));
        }
        if outside(&launch.grid, &self.limits.grid) {
            let expected = format!("dimensions 1 to {:?}", self.limits.grid);
            return refuse("its grid is impossible here", expected, format!("{:?}", launch.grid));
        }
        if u64::from(launch.shared) + u64::from(function.static_shared) > u64::from(self.info.shared_max) {
            let found = format!("{} bytes dynamic, {} static", launch.shared, function.static_shared);
            return refuse("too much shared memory", format!("at most {} bytes", self.info.shared_max), found);
        }
        Ok(())
    }

    /// Puts one launch on the stream, or into the graph that is being captured from it.
    pub(super) fn enqueue(&mut self, launch: &Launch) -> Result<Traced> {
        self.usable()?;
        let mut function = self.function(launch)?;
        self.check_geometry(launch, &function)?;
        let mut arguments = self.arguments(launch)?;
        if arguments.len() != function.parameter {
            return Err(Error::new(&CUDA_ENTRY, format!("launch `{}`: its argument struct has drifted", launch.name))
                .expected(format!("{} bytes, as `{}` was compiled", function.parameter, launch.entry))
                .found(format!("{} bytes", arguments.len())));
        }
        if launch.shared > function.dynamic_shared {
            let bytes = launch.shared.cast_signed();
            // SAFETY: a function of a loaded module.
            let result =
                unsafe { (self.api.function_set_attribute)(function.handle, function::MAX_DYNAMIC_SHARED, bytes) };
            self.done("cuFuncSetAttribute", result)?;
            function.dynamic_shared = launch.shared;
            self.modules[launch.module.0 as usize].functions.insert(launch.entry.clone(), function);
        }
        let mut size = arguments.len();
        // cuda.h: CU_LAUNCH_PARAM_BUFFER_POINTER, _BUFFER_SIZE and _END are the pointers 1, 2 and 0.
        let mut extra: [*mut c_void; 5] = [
            ptr::without_provenance_mut(1),
            arguments.as_mut_ptr().cast(),
            ptr::without_provenance_mut(2),
            (&raw mut size).cast(),
            ptr::null_mut(),
        ];
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        // SAFETY: the function belongs to a loaded module; the parameter buffer has exactly the size of its parameter
        // (checked above) and is copied by the call; what its pointers lead to is device memory, and a kernel's faults
        // there are the device's, reported by a later wait.
        let result = unsafe {
            (self.api.launch)(
                function.handle,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                launch.shared,
                self.stream,
                ptr::null_mut(),
                extra.as_mut_ptr(),
            )
        };
        if result == code::OUT_OF_RESOURCES || result == code::INVALID_VALUE {
            let text = self.api.describe(result);
            return Err(Error::new(&CUDA_LAUNCH, format!("launch `{}` was refused: {text}", launch.name)));
        }
        self.done("cuLaunchKernel", result)?;
        let entry = self.function_name(function.handle)?;
        Ok(Traced { entry, grid: launch.grid, block: launch.block, shared: launch.shared })
    }

    /// The driver's own name for a function.
    pub(super) fn function_name(&self, handle: CUfunction) -> Result<String> {
        let mut name = ptr::null();
        // SAFETY: a function of a loaded module, a valid place for a pointer.
        let result = unsafe { (self.api.function_name)(&mut name, handle) };
        self.api.check("cuFuncGetName", result)?;
        if name.is_null() {
            return Err(Error::new(&CUDA_DRIVER, "cuFuncGetName gave no name"));
        }
        // SAFETY: not null; a C string that lives as long as the function's module.
        Ok(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    }

    /// Puts a step's copies and its graph on the stream; they are to be waited for.
    fn enqueue_step(&mut self, step: &Step<'_>, into: &mut [u8]) -> Result<()> {
        let mut rest = step.bytes;
        for span in step.writes {
            let (bytes, others) = step.cut(rest, span)?;
            let to = self.span(span.buffer, span.offset, bytes.len())?;
            rest = others;
            if bytes.is_empty() {
                continue;
            }
            // SAFETY: source and target have the length said. A pinned source is read until the wait, up to which it
            // is borrowed; of any other the driver has a copy when the call returns.
            let result = unsafe { (self.api.upload)(to, bytes.as_ptr().cast(), bytes.len(), self.stream) };
            self.done("cuMemcpyHtoDAsync", result)?;
        }
        self.replay_kept(step.graph)?;
        if let Some(span) = step.read.filter(|_| !into.is_empty()) {
            if span.len != into.len() as u64 {
                return Err(Error::internal(format!("a step reads {} bytes into {}", span.len, into.len())));
            }
            let from = self.span(span.buffer, span.offset, into.len())?;
            // Into any other memory the call would itself wait for the graph, and without a deadline.
            if !self.is_pinned(into) {
                self.settle()?;
            }
            // SAFETY: source and target have the length said; the target is borrowed until the wait.
            let result = unsafe { (self.api.download)(into.as_mut_ptr().cast(), from, into.len(), self.stream) };
            self.done("cuMemcpyDtoHAsync", result)?;
        }
        Ok(())
    }

    fn arguments(&self, launch: &Launch) -> Result<Vec<u8>> {
        for field in &launch.args {
            if let Field::Pointer { buffer, offset } = *field {
                self.span(buffer, offset, 0)?;
            }
        }
        pack(&launch.args, |id| self.buffer(id).map(|b| b.address))
    }
}

impl Device for Cuda {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&mut self, bytes: u64) -> Result<BufferId> {
        self.settle()?;
        let size = usize::try_from(bytes).ok().filter(|n| *n > 0);
        let size = size.ok_or_else(|| Error::internal(format!("an allocation of {bytes} bytes")))?;
        let mut address = 0;
        // SAFETY: a valid place for an address.
        let result = unsafe { (self.api.alloc)(&mut address, size) };
        if result == code::OUT_OF_MEMORY {
            let (free, total) = self.memory()?;
            return Err(Error::new(&CUDA_MEMORY, format!("out of memory on {}", self.info.name))
                .expected(format!("{bytes} bytes more"))
                .found(format!("{free} of {total} bytes free")));
        }
        self.done("cuMemAlloc", result)?;
        let id = match self.buffers.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.buffers.push(None);
                self.buffers.len() - 1
            }
        };
        self.buffers[id] = Some(Buffer { address, bytes });
        Ok(BufferId(id as u32))
    }

    fn free(&mut self, buffer: BufferId) -> Result<()> {
        self.settle()?;
        let address = self.buffer(buffer)?.address;
        self.buffers[buffer.0 as usize] = None;
        // SAFETY: allocated by `alloc`, and forgotten just before, so freed once.
        let result = unsafe { (self.api.free)(address) };
        self.done("cuMemFree", result)
    }

    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        self.settle()?;
        let address = self.span(buffer, offset, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: source and target have the length said; the source outlives the copy, which is waited for below.
        let result = unsafe { (self.api.upload)(address, bytes.as_ptr().cast(), bytes.len(), self.stream) };
        self.done("cuMemcpyHtoDAsync", result)?;
        // Where the device reads pageable memory itself the copy is still going on. It ends by itself.
        self.wait(None)
    }

    fn read(&mut self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.settle()?;
        let address = self.span(buffer, offset, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: source and target have the length said; the target is borrowed until the copy was waited for.
        let result = unsafe { (self.api.download)(bytes.as_mut_ptr().cast(), address, bytes.len(), self.stream) };
        self.done("cuMemcpyDtoHAsync", result)?;
        self.wait(None)
    }

    fn read_file(&mut self, source: &Source, parts: &[FilePart]) -> Result<()> {
        self.upload(source, parts)
    }

    fn fill(&mut self, buffer: BufferId, pattern: u32) -> Result<()> {
        self.usable()?;
        let Buffer { address, bytes } = *self.buffer(buffer)?;
        let words = usize::try_from(bytes / 4).map_err(|_| Error::internal("a buffer beyond the address space"))?;
        if words == 0 {
            return Ok(());
        }
        // SAFETY: the buffer has at least as many words; allocations are 256-byte aligned.
        let result = unsafe { (self.api.fill32)(address, pattern, words, self.stream) };
        self.done("cuMemsetD32Async", result)
    }

    fn set_thread_order(&mut self, _: ThreadOrder) -> Result<()> {
        Ok(())
    }

    fn set_time_limit(&mut self, limit: Duration) -> Result<()> {
        self.set_deadline(limit);
        Ok(())
    }

    fn load(&mut self, module: &Module) -> Result<ModuleId> {
        self.settle()?;
        let Module::Cubin(bytes) = module else {
            return Err(Error::internal("a CUDA device was given a module that is no cubin"));
        };
        let kernels = cubin::kernels(bytes)?;
        let mut handle = ptr::null_mut();
        // SAFETY: an ELF image whose headers lead nowhere outside it (checked above); the driver copies it.
        let result = unsafe { (self.api.module_load)(&mut handle, bytes.as_ptr().cast()) };
        if matches!(result, code::INVALID_IMAGE | code::NO_BINARY..=223) {
            return Err(Error::new(
                &CUDA_CUBIN,
                format!("the driver does not take a cubin: {}", self.api.describe(result)),
            )
            .expected(format!("one for {}, from an NVRTC not newer than CUDA {}", self.info.arch, self.info.driver)));
        }
        self.done("cuModuleLoadData", result)?;
        self.modules.push(Loaded { handle, kernels, functions: BTreeMap::new() });
        Ok(ModuleId((self.modules.len() - 1) as u32))
    }

    fn launch(&mut self, launch: &Launch) -> Result<()> {
        if self.pending.len() >= MAX_PENDING {
            self.settle()?;
        }
        self.usable()?;
        let number = self.progress.issued.wrapping_add(1);
        let traced = self.enqueue(launch)?;
        self.progress.issued = number;
        self.pending.push((number, launch.name.clone()));
        // SAFETY: a live stream, and a word of mapped host memory that lives as long as the device.
        let result = unsafe { (self.api.stream_write)(self.stream, self.progress.device, number, 0) };
        self.done("cuStreamWriteValue32", result)?;
        self.trace.push(traced);
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.settle()
    }

    fn take_trace(&mut self) -> Result<Vec<Traced>> {
        self.usable()?;
        Ok(std::mem::take(&mut self.trace))
    }

    fn record(&mut self, launches: &[Launch]) -> Result<(GraphId, Vec<Traced>)> {
        self.settle()?;
        self.keep(launches)
    }

    fn replay(&mut self, graph: GraphId) -> Result<()> {
        // One at a time: a graph that hangs is then the one that the message names.
        self.settle()?;
        self.replay_kept(graph)
    }

    fn step(&mut self, step: &Step<'_>, into: &mut [u8]) -> Result<()> {
        self.settle()?;
        let enqueued = self.enqueue_step(step, into);
        // Whatever failed: the device may still read `bytes` and write `into`.
        let waited = self.settle();
        enqueued.and(waited)
    }

    fn forget(&mut self, graph: GraphId) -> Result<()> {
        self.settle()?;
        self.drop_kept(graph)
    }

    fn time_each(&mut self, launches: &[Launch]) -> Result<Vec<f32>> {
        self.settle()?;
        self.time_launches(launches)
    }

    fn replayed_ms(&mut self) -> Result<f64> {
        self.settle()?;
        Ok(std::mem::take(&mut self.replayed))
    }

    fn copy(&mut self, from: BufferId, to: BufferId, bytes: u64) -> Result<()> {
        self.usable()?;
        let length = usize::try_from(bytes).map_err(|_| Error::internal("a copy beyond the address space"))?;
        let (from, to) = (self.span(from, 0, length)?, self.span(to, 0, length)?);
        if length == 0 {
            return Ok(());
        }
        // SAFETY: both spans lie in live buffers, and the stream orders the copy with what reads and writes them.
        let result = unsafe { (self.api.copy)(to, from, length, self.stream) };
        self.done("cuMemcpyDtoDAsync", result)
    }

    fn free_memory(&mut self) -> Result<u64> {
        self.settle()?;
        Ok(self.memory()?.0)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if self.broken.is_some() || self.settle().is_err() {
            self.graphs.drain(..).flatten().for_each(std::mem::forget);
            std::mem::forget(self.slots.take());
            return;
        }
        self.graphs.clear();
        self.slots = None;
        // SAFETY: the stream is idle; every handle is the device's own and is destroyed once. Failures are of no
        // consequence: the process's end frees the same.
        unsafe {
            for module in &self.modules {
                (self.api.module_unload)(module.handle);
            }
            for buffer in self.buffers.iter().flatten() {
                (self.api.free)(buffer.address);
            }
            (self.api.stream_destroy)(self.stream);
            (self.api.host_free)(self.progress.host.cast());
            (self.api.context_release)(self.device);
        }
    }
}

impl Progress {
    fn new(api: &Driver) -> Result<Progress> {
        const MAPPED: u32 = 2;
        let mut host = ptr::null_mut();
        // SAFETY: a valid place for an address.
        api.check("cuMemHostAlloc", unsafe { (api.host_alloc)(&mut host, size_of::<u32>(), MAPPED) })?;
        let host: *mut u32 = host.cast();
        // SAFETY: just allocated, page-aligned, one word; the device does not write to it yet.
        unsafe { host.write_volatile(0) };
        let mut device = 0;
        // SAFETY: mapped host memory, a valid place for its device address.
        let result = unsafe { (api.host_device_pointer)(&mut device, host.cast(), 0) };
        api.check("cuMemHostGetDevicePointer", result)?;
        Ok(Progress { host, device, issued: 0 })
    }

    fn finished(&self) -> u32 {
        // SAFETY: an aligned word that lives as long as the device; the GPU writes it as a whole, hence volatile.
        unsafe { self.host.read_volatile() }
    }
}

fn describe(api: &Driver, device: CUdevice) -> Result<(DeviceInfo, Limits)> {
    let get = |which| api.attribute(device, which);
    let [major, minor] = attribute::CAPABILITY;
    let mut name = [0; 256];
    // SAFETY: a buffer of the length said.
    api.check("cuDeviceGetName", unsafe { (api.device_name)(name.as_mut_ptr(), name.len() as c_int, device) })?;
    let mut memory = 0;
    // SAFETY: a valid place for a size.
    api.check("cuDeviceTotalMem", unsafe { (api.device_memory)(&mut memory, device) })?;
    let mut version = 0;
    // SAFETY: a valid place for an int.
    api.check("cuDriverGetVersion", unsafe { (api.driver_version)(&mut version) })?;
    let triple = |which: [c_int; 3]| Ok::<_, Error>([get(which[0])?, get(which[1])?, get(which[2])?]);
    let limits = Limits {
        threads: get(attribute::MAX_THREADS)?,
        block: triple(attribute::MAX_BLOCK)?,
        grid: triple(attribute::MAX_GRID)?,
    };
    let name: Vec<u8> = name.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect();
    let info = DeviceInfo {
        placement: Placement::Device,
        arch: format!("sm_{}{}", get(major)?, get(minor)?),
        name: String::from_utf8_lossy(&name).into_owned(),
        driver: format!("{}.{}", version / 1000, version % 1000 / 10),
        memory: memory as u64,
        shared_max: get(attribute::MAX_SHARED_OPT_IN)?,
    };
    Ok((info, limits))
}
