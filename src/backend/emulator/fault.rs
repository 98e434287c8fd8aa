//! Signals that a kernel raises, turned into a report.
//!
//! A bad address, an illegal instruction or a division by zero inside a CUDA thread makes its coroutine return, by
//! rewriting the interrupted registers; the scheduler finds the [`Fault`] and drops the block. The same road cuts off a
//! launch whose time is up: a timer signals each operating-system thread that runs its blocks. Faults anywhere else go
//! to whoever handled them before.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::runner::Runner;

#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub signal: c_int,
    pub address: usize,
    pub pc: usize,
    /// Known on x86-64 only.
    pub write: Option<bool>,
}

impl Fault {
    pub fn is_time_limit(&self) -> bool {
        self.signal == timer_signal()
    }
}

thread_local! {
    /// The runner that this operating-system thread is inside of.
    static RUNNER: Cell<*const Runner> = const { Cell::new(ptr::null()) };
}

const CAUGHT: [c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];
static PREVIOUS: OnceLock<[libc::sigaction; CAUGHT.len()]> = OnceLock::new();

fn timer_signal() -> c_int {
    libc::SIGRTMIN() + 9
}

/// Routes faults of this operating-system thread to `runner` while `work` runs, for at most `limit`.
pub fn guarded<R>(runner: &Runner, limit: Duration, work: impl FnOnce() -> R) -> std::io::Result<R> {
    install();
    let timer = Timer::start(limit)?;
    RUNNER.set(runner);
    let result = work();
    RUNNER.set(ptr::null());
    drop(timer);
    Ok(result)
}

fn install() {
    PREVIOUS.get_or_init(|| {
        // SAFETY: the handler does only what a signal handler may; zeroed sigactions are valid.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(timer_signal(), &action, ptr::null_mut());
            CAUGHT.map(|signal| {
                let mut previous: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, &action, &mut previous);
                previous
            })
        }
    });
}

unsafe extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes valid pointers; the runner and its current slot live as long as RUNNER is set.
    unsafe {
        let registers = Registers(&mut *context.cast::<libc::ucontext_t>());
        let timer = signal == timer_signal();
        let runner = RUNNER.get();
        if let Some(runner) = runner.as_ref() {
            if timer {
                runner.expired.store(true, Relaxed);
            }
            let trap = runner.current.load(Relaxed).as_ref().and_then(|slot| slot.trap());
            if let Some(trap) = trap
                && trap.stack_ptr_in_bounds(registers.sp())
                && (!timer || runner.in_kernel.load(Relaxed))
            {
                let address = if timer { 0 } else { (*info).si_addr() as usize };
                runner.fault.set(Some(Fault { signal, address, pc: registers.pc(), write: registers.write() }));
                registers.apply(trap.setup_trap_handler(|| ()));
                return;
            }
        }
        if !timer {
            chain(signal, info, context);
        }
    }
}

/// Not a kernel's fault: what would have happened without us.
unsafe fn chain(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let previous = CAUGHT.iter().position(|&s| s == signal).and_then(|i| Some(&PREVIOUS.get()?[i]));
    // SAFETY: the previous handler is called as the kernel would; the default action is restored and re-raised on return.
    unsafe {
        match previous {
            Some(p) if p.sa_sigaction == libc::SIG_IGN => {}
            Some(p) if p.sa_sigaction != libc::SIG_DFL && p.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                    std::mem::transmute(p.sa_sigaction);
                handler(signal, info, context);
            }
            _ => {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}

/// The interrupted registers.
struct Registers<'a>(&'a mut libc::ucontext_t);

#[cfg(target_arch = "x86_64")]
impl Registers<'_> {
    fn sp(&self) -> usize {
        self.0.uc_mcontext.gregs[libc::REG_RSP as usize] as usize
    }

    fn pc(&self) -> usize {
        self.0.uc_mcontext.gregs[libc::REG_RIP as usize] as usize
    }

    /// Bit 1 of a page fault's error code.
    fn write(&self) -> Option<bool> {
        Some(self.0.uc_mcontext.gregs[libc::REG_ERR as usize] & 2 != 0)
    }

    fn apply(self, to: corosensei::trap::TrapHandlerRegs) {
        let set = &mut self.0.uc_mcontext.gregs;
        set[libc::REG_RIP as usize] = to.rip as i64;
        set[libc::REG_RSP as usize] = to.rsp as i64;
        set[libc::REG_RBP as usize] = to.rbp as i64;
        set[libc::REG_RDI as usize] = to.rdi as i64;
        set[libc::REG_RSI as usize] = to.rsi as i64;
    }
}

#[cfg(target_arch = "aarch64")]
impl Registers<'_> {
    fn sp(&self) -> usize {
        self.0.uc_mcontext.sp as usize
    }

    fn pc(&self) -> usize {
        self.0.uc_mcontext.pc as usize
    }

    fn write(&self) -> Option<bool> {
        None
    }

    fn apply(self, to: corosensei::trap::TrapHandlerRegs) {
        let set = &mut self.0.uc_mcontext;
        set.pc = to.pc;
        set.sp = to.sp;
        set.regs[0] = to.x0;
        set.regs[1] = to.x1;
        set.regs[29] = to.x29;
        set.regs[30] = to.lr;
    }
}

/// Signals the calling thread once it has run for `limit`, and again every 20 ms until dropped. Its own processor time
/// counts: a machine with other things to do makes no kernel endless.
struct Timer(libc::timer_t);

impl Timer {
    fn start(limit: Duration) -> std::io::Result<Self> {
        // SAFETY: zeroed structs are valid; the timer is deleted on drop.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = timer_signal();
            event.sigev_notify_thread_id = libc::syscall(libc::SYS_gettid) as c_int;
            let mut id: libc::timer_t = std::mem::zeroed();
            if libc::timer_create(libc::CLOCK_THREAD_CPUTIME_ID, &mut event, &mut id) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let timer = Timer(id);
            let span = |d: Duration| libc::timespec { tv_sec: d.as_secs() as _, tv_nsec: d.subsec_nanos() as _ };
            let limit = limit.max(Duration::from_millis(1));
            let set = libc::itimerspec { it_interval: span(Duration::from_millis(20)), it_value: span(limit) };
            if libc::timer_settime(id, 0, &set, ptr::null_mut()) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(timer)
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: made by timer_create, deleted once.
        unsafe { libc::timer_delete(self.0) };
    }
}
