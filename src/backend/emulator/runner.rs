//! Runs blocks on one operating-system thread: one coroutine per CUDA thread, one block at a time.
//!
//! The scheduler resumes a warp's ready lanes in turn until all of them wait or have returned, then goes to the next
//! warp. A lane that completes a warp operation does the work for its whole mask. When nothing can go on, whoever
//! waits is the report. All state is in cells: coroutines re-enter the runner through the host functions
//! (`super::host`) while the scheduler is inside `resume`, always on the same thread.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering::Relaxed};

use corosensei::trap::CoroutineTrapHandler;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::abi::{self, Combine, Entry, Site};
use super::fault::Fault;
use super::memory::{Guarded, POISON};
use super::module::Here;
use super::stack::Stack;
use super::{ThreadOrder, codes};
use crate::error::Code;

/// What all blocks of a launch have in common.
pub struct Job {
    pub entry: Entry,
    pub args: *const c_void,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub order: ThreadOrder,
}

impl Job {
    pub fn threads(&self) -> usize {
        self.block.iter().map(|&d| d as usize).product()
    }
}

/// Why a block could not be completed. `thread` is the linear index of the one at fault, where there is one.
pub struct Failure {
    pub code: &'static Code,
    pub text: String,
    pub thread: Option<u32>,
    pub site: Option<String>,
    pub fault: Option<Fault>,
}

impl Failure {
    pub fn new(code: &'static Code, text: impl Into<String>) -> Self {
        Failure { code, text: text.into(), thread: None, site: None, fault: None }
    }
}

#[derive(Clone, Copy)]
pub enum State {
    /// Has not started, or has returned.
    Idle,
    Ready,
    Barrier {
        kind: i32,
        value: i32,
        site: Site,
    },
    /// At a warp operation, or ready to go on from it.
    Warp {
        mask: u32,
        site: Site,
    },
}

/// What a lane brings to a warp operation.
#[derive(Clone, Copy)]
pub struct Operand {
    pub mask: u32,
    pub combine: Combine,
    pub value: *mut c_void,
    pub site: Site,
}

/// A copy from global to shared memory under way; `group` is the thread's commit count when it was issued.
#[derive(Clone, Copy)]
pub struct PendingCopy {
    pub to: *mut u8,
    pub from: *const u8,
    pub bytes: usize,
    pub group: u32,
    pub site: Site,
}

type Fiber = Coroutine<(), (), (), Stack>;

/// One CUDA thread. The shim knows the address of its first member only.
#[repr(C)]
pub struct Slot {
    pub thread: UnsafeCell<abi::Thread>,
    pub runner: *const Runner,
    pub state: Cell<State>,
    pub result: Cell<i32>,
    pub copies: Cell<Vec<PendingCopy>>,
    pub group: Cell<u32>,
    yielder: Cell<*const Yielder<(), ()>>,
    fiber: UnsafeCell<Option<Fiber>>,
    trap: Cell<Option<CoroutineTrapHandler<()>>>,
    /// Addresses of its stack, guard page included.
    stack: std::ops::Range<usize>,
}

impl Slot {
    /// # Safety
    /// `thread` must be what the runner passed to the shim.
    #[inline]
    pub unsafe fn of<'a>(thread: *mut abi::Thread) -> &'a Slot {
        // SAFETY: the thread is its slot's first member, and the runner passes the slot's own address.
        unsafe { &*thread.cast::<Slot>() }
    }

    #[inline]
    pub fn runner(&self) -> &Runner {
        // SAFETY: the runner owns its slots and does not move.
        unsafe { &*self.runner }
    }

    #[inline]
    pub fn linear(&self) -> u32 {
        // SAFETY: written between blocks only.
        unsafe { (*self.thread.get()).linear }
    }

    #[inline]
    pub fn trap(&self) -> Option<CoroutineTrapHandler<()>> {
        self.trap.get()
    }

    /// Gives control back to the scheduler until it resumes this thread.
    #[inline]
    pub fn suspend(&self) {
        // SAFETY: set by this slot's coroutine when it started, and valid as long as it runs.
        unsafe { (*self.yielder.get()).suspend(()) };
    }

    /// Reports and never returns: the scheduler drops the block.
    pub fn fail(&self, mut failure: Failure) -> ! {
        failure.thread.get_or_insert(self.linear());
        self.runner().failure.replace(Some(failure));
        self.runner().failed.set(true);
        loop {
            self.suspend();
        }
    }
}

/// Lanes of one warp, as bits.
#[derive(Default)]
pub struct Warp {
    pub present: Cell<u32>,
    pub ready: Cell<u32>,
    pub yielded: Cell<u32>,
    /// Waiting at a warp operation.
    pub arrived: Cell<u32>,
    pub finished: Cell<u32>,
    /// Of the lanes that have arrived: side by side, as the last of them reads them all.
    pub operands: [Cell<Option<Operand>>; 32],
}

pub struct Runner {
    // Boxed: the shim and the coroutines hold the addresses.
    #[allow(clippy::vec_box)]
    slots: RefCell<Vec<Box<Slot>>>,
    warps: RefCell<Vec<Warp>>,
    block: UnsafeCell<abi::Block>,
    dynamic: RefCell<Option<Guarded>>,
    job: Cell<*const Job>,
    pub at_barrier: Cell<u32>,
    failure: RefCell<Option<Failure>>,
    failed: Cell<bool>,
    pub fault: Cell<Option<Fault>>,
    /// The thread being resumed; read by the signal handler.
    pub current: AtomicPtr<Slot>,
    /// Whether kernel code is running, rather than the host's; read by the signal handler.
    pub in_kernel: AtomicBool,
    /// The launch's time is up; set by the signal handler.
    pub expired: AtomicBool,
    lanes: Cell<[u8; 32]>,
    warp_order: RefCell<Vec<u32>>,
}

impl Runner {
    pub fn new() -> Box<Self> {
        let block = abi::Block { index: [0; 3], dim: [0; 3], grid: [0; 3], dynamic_shared: std::ptr::null_mut() };
        Box::new(Runner {
            slots: RefCell::default(),
            warps: RefCell::default(),
            block: UnsafeCell::new(block),
            dynamic: RefCell::default(),
            job: Cell::new(std::ptr::null()),
            at_barrier: Cell::new(0),
            failure: RefCell::default(),
            failed: Cell::new(false),
            fault: Cell::new(None),
            current: AtomicPtr::default(),
            in_kernel: AtomicBool::new(false),
            expired: AtomicBool::new(false),
            lanes: Cell::new(std::array::from_fn(|i| i as u8)),
            warp_order: RefCell::default(),
        })
    }

    /// Makes room for the job's blocks. Once per launch and operating-system thread.
    pub fn prepare(&self, job: &Job) -> std::io::Result<()> {
        let threads = job.threads();
        let mut slots = self.slots.borrow_mut();
        for number in slots.len()..threads {
            let thread = abi::Thread { index: [0; 3], linear: number as u32, block: self.block.get() };
            let stack = Stack::new(number)?;
            let slot = Box::new(Slot {
                thread: UnsafeCell::new(thread),
                runner: self,
                state: Cell::new(State::Idle),
                result: Cell::new(0),
                copies: Cell::default(),
                group: Cell::new(0),
                yielder: Cell::new(std::ptr::null()),
                fiber: UnsafeCell::new(None),
                trap: Cell::new(None),
                stack: stack.range(),
            });
            start_fiber(&slot, stack);
            slots.push(slot);
        }
        let warps = threads.div_ceil(32);
        let mut all_warps = self.warps.borrow_mut();
        while all_warps.len() < warps {
            all_warps.push(Warp::default());
        }
        let mut lanes: [u8; 32] = std::array::from_fn(|i| i as u8);
        job.order.permute(&mut lanes);
        self.lanes.set(lanes);
        let mut order = self.warp_order.borrow_mut();
        *order = (0..warps as u32).collect();
        job.order.permute(&mut order);
        let mut dynamic = self.dynamic.borrow_mut();
        if dynamic.as_ref().is_none_or(|d| d.len() != job.shared as usize) {
            *dynamic = Some(Guarded::new(job.shared as usize)?);
        }
        self.job.set(job);
        self.expired.store(false, Relaxed);
        Ok(())
    }

    /// Addresses of dynamic shared memory with its guard pages, and its base.
    pub fn dynamic_range(&self) -> (std::ops::Range<usize>, usize) {
        self.dynamic.borrow().as_ref().map_or((0..0, 0), |d| (d.whole(), d.base() as usize))
    }

    /// Runs one block to its end, between [`Runner::prepare`] and the job's end, on the thread of `here`.
    pub fn run_block(&self, here: &Here, index: [u32; 3]) -> Result<(), Failure> {
        // SAFETY: `prepare` set the job, whose caller keeps it alive.
        let job = unsafe { &*self.job.get() };
        self.start_block(job, here, index);
        let done = self.schedule(job, here);
        if done.is_err() {
            self.abandon(job);
        }
        done?;
        match self.dynamic.borrow().as_ref().and_then(Guarded::damage) {
            Some(offset) => Err(Failure::new(
                &codes::OUT_OF_BOUNDS,
                format!("wrote at offset {offset} of {} bytes of dynamic shared memory", job.shared),
            )),
            None => Ok(()),
        }
    }

    fn start_block(&self, job: &Job, here: &Here, index: [u32; 3]) {
        let mut dynamic = self.dynamic.borrow_mut();
        let shared = dynamic.as_mut().map_or(std::ptr::null_mut(), |d| {
            d.bytes_mut().fill(POISON);
            d.base()
        });
        // SAFETY: no thread of a block is in flight; `here` is this operating-system thread's.
        unsafe {
            *self.block.get() = abi::Block { index, dim: job.block, grid: job.grid, dynamic_shared: shared };
            here.poison();
        }
        let threads = job.threads();
        let mut at = [0u32; 3];
        for slot in &self.slots.borrow()[..threads] {
            // SAFETY: as above.
            unsafe { (*slot.thread.get()).index = at };
            slot.state.set(State::Ready);
            slot.group.set(0);
            at[0] += 1;
            if at[0] == job.block[0] {
                at = [0, at[1] + 1, at[2]];
                if at[1] == job.block[1] {
                    at = [0, 0, at[2] + 1];
                }
            }
        }
        for (w, warp) in self.warps.borrow().iter().enumerate().take(threads.div_ceil(32)) {
            let lanes = (threads - w * 32).min(32);
            let present = if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 };
            warp.present.set(present);
            warp.ready.set(present);
            warp.yielded.set(0);
            warp.arrived.set(0);
            warp.finished.set(0);
        }
        self.at_barrier.set(0);
    }

    fn schedule(&self, job: &Job, here: &Here) -> Result<(), Failure> {
        let (slots, warps, lanes) = (self.slots.borrow(), self.warps.borrow(), self.lanes.get());
        let threads = job.threads();
        loop {
            let mut progressed = false;
            let mut finished = 0;
            for &w in self.warp_order.borrow().iter() {
                let warp = &warps[w as usize];
                while warp.ready.get() != 0 {
                    progressed = true;
                    for lane in lanes {
                        if warp.ready.get() >> lane & 1 == 1 {
                            warp.ready.set(warp.ready.get() & !(1 << lane));
                            self.resume(&slots[w as usize * 32 + lane as usize], here)?;
                        }
                    }
                }
                warp.ready.set(warp.yielded.replace(0));
                progressed |= warp.ready.get() != 0;
                finished += warp.finished.get().count_ones() as usize;
            }
            if finished == threads {
                return Ok(());
            }
            if self.at_barrier.get() as usize == threads {
                release(&slots[..threads], &warps)?;
                self.at_barrier.set(0);
            } else if !progressed {
                return Err(super::stuck::diagnose(slots[..threads].iter().map(|s| s.state.get()).collect()));
            }
        }
    }

    fn resume(&self, slot: &Slot, here: &Here) -> Result<(), Failure> {
        let thread = std::ptr::from_ref(slot).cast_mut();
        // SAFETY: `here` is this operating-system thread's; the fiber is borrowed by this call alone.
        let result = unsafe {
            here.set(thread.cast());
            self.current.store(thread, Relaxed);
            (*slot.fiber.get()).as_mut().map(|fiber| fiber.resume(()))
        };
        self.current.store(std::ptr::null_mut(), Relaxed);
        if self.failed.get() {
            self.failed.set(false);
            return Err(self.failure.take().unwrap_or_else(|| Failure::new(&codes::TRAP, "no reason given")));
        }
        if let Some(CoroutineResult::Return(())) = result {
            self.in_kernel.store(false, Relaxed);
            let mut failure = Failure::new(&codes::TRAP, "");
            failure.thread = Some(slot.linear());
            failure.fault = self.fault.take();
            return Err(failure);
        }
        if self.expired.load(Relaxed) {
            let mut failure = Failure::new(&codes::TIME_LIMIT, "");
            failure.thread = Some(slot.linear());
            failure.site = super::stuck::place(slot.state.get());
            return Err(failure);
        }
        Ok(())
    }

    /// Drops the block's threads wherever they stand. Kernel frames hold nothing that needs destruction.
    fn abandon(&self, job: &Job) {
        for slot in &self.slots.borrow()[..job.threads()] {
            // SAFETY: no coroutine runs; C++ frames of kernels have no destructors, host frames hold no borrow when they
            // suspend or touch the kernel's memory.
            unsafe {
                let cell = &mut *slot.fiber.get();
                if let Some(mut fiber) = cell.take() {
                    if fiber.started() && !fiber.done() {
                        fiber.force_reset();
                    }
                    if fiber.started() {
                        start_fiber(slot, fiber.into_stack());
                    } else {
                        *cell = Some(fiber);
                    }
                }
            }
            slot.copies.take();
            slot.state.set(State::Idle);
        }
    }

    /// Addresses of the stack of the thread that failed, guard page included.
    pub fn stack_of(&self, failure: &Failure) -> std::ops::Range<usize> {
        let slots = self.slots.borrow();
        let Some(slot) = failure.thread.and_then(|t| slots.get(t as usize)) else { return 0..0 };
        slot.stack.clone()
    }

    #[inline]
    pub fn warp_of(&self, slot: &Slot) -> *const Warp {
        &raw const self.warps.borrow()[slot.linear() as usize / 32]
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        for slot in self.slots.get_mut() {
            if let Some(fiber) = slot.fiber.get_mut()
                && fiber.started()
                && !fiber.done()
            {
                // SAFETY: suspended between blocks, with no frames but our own loop, which owns nothing.
                unsafe { fiber.force_reset() };
            }
        }
    }
}

/// A coroutine that runs the current job's kernel once per resume from `Idle`, for as long as the slot lives.
fn start_fiber(slot: &Slot, stack: Stack) {
    let address = std::ptr::from_ref(slot) as usize;
    let fiber = Fiber::with_stack(stack, move |yielder, ()| {
        // SAFETY: slots are boxed and outlive their coroutines; the job is valid while the runner resumes.
        unsafe {
            let slot = &*(address as *const Slot);
            let runner = slot.runner();
            slot.yielder.set(yielder);
            loop {
                let job = &*runner.job.get();
                runner.in_kernel.store(true, Relaxed);
                (job.entry)(job.args);
                runner.in_kernel.store(false, Relaxed);
                super::host::finish(slot);
                slot.suspend();
            }
        }
    });
    slot.trap.set(Some(fiber.trap_handler()));
    // SAFETY: no reference into the cell exists: the old fiber, if any, was taken out.
    unsafe { *slot.fiber.get() = Some(fiber) };
}

/// Lets a block go on from a barrier that all its threads have reached.
fn release(slots: &[Box<Slot>], warps: &[Warp]) -> Result<(), Failure> {
    let (mut count, mut first) = (0, None);
    for slot in slots {
        let State::Barrier { kind, value, site } = slot.state.get() else { continue };
        let (first_kind, first_site) = *first.get_or_insert((kind, site));
        // SAFETY: sites are literals of a loaded module.
        if kind != first_kind || unsafe { !site.same(first_site) } {
            return Err(super::stuck::different_barriers(slots.iter().map(|s| s.state.get()).collect()));
        }
        count += i32::from(value != 0);
    }
    let result = match first.map_or(0, |(kind, _)| kind) {
        1 => count,
        2 => i32::from(count as usize == slots.len()),
        3 => i32::from(count > 0),
        _ => 0,
    };
    for slot in slots {
        slot.result.set(result);
        slot.state.set(State::Ready);
    }
    for warp in &warps[..slots.len().div_ceil(32)] {
        warp.ready.set(warp.present.get());
    }
    Ok(())
}
