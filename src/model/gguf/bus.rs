//! A mapped file that somebody cuts: reading behind its new end is a bus error, which would end the process without a
//! word. The handler says what happened and leaves with the code for a file that could not be read.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Maps that are watched at once; of any further one a bus error stays what it is.
const MAPS: usize = 8;

static FIRST: [AtomicUsize; MAPS] = [const { AtomicUsize::new(0) }; MAPS];
static BEYOND: [AtomicUsize; MAPS] = [const { AtomicUsize::new(0) }; MAPS];
static INSTALL: Once = Once::new();
/// What handled the signal before: the standard library's, which reports a stack that is too long.
static BEFORE: std::sync::OnceLock<libc::sigaction> = std::sync::OnceLock::new();

/// A map is watched for as long as this lives.
pub struct Watched(Option<usize>);

impl Watched {
    pub fn new(map: &[u8]) -> Watched {
        INSTALL.call_once(install);
        let (first, beyond) = (map.as_ptr().addr(), map.as_ptr().addr() + map.len());
        let free = (0..MAPS).find(|i| FIRST[*i].compare_exchange(0, first, Ordering::SeqCst, Ordering::SeqCst).is_ok());
        if let Some(i) = free {
            BEYOND[i].store(beyond, Ordering::SeqCst);
        }
        Watched(free)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(i) = self.0 {
            BEYOND[i].store(0, Ordering::SeqCst);
            FIRST[i].store(0, Ordering::SeqCst);
        }
    }
}

fn install() {
    // SAFETY: a handler of the signature that SA_SIGINFO asks for, on the alternate stack that the standard library
    // gives every thread; both structures are plain data.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = handle;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut before) == 0 {
            let _ = BEFORE.set(before);
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    }
}

/// Does only what a signal handler may: loads, a write, an exit, or putting the handler before it back.
extern "C" fn handle(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    const WORDS: &[u8] = b"error: the model's file was cut while it was read [gguf-changed]\n  next:     let whatever \
        writes it finish, and start again\n";
    // SAFETY: the kernel hands a valid siginfo to a handler with SA_SIGINFO; the calls below are async-signal-safe.
    unsafe {
        let at = (*info).si_addr().addr();
        let inside = |i: &usize| (FIRST[*i].load(Ordering::SeqCst)..BEYOND[*i].load(Ordering::SeqCst)).contains(&at);
        if (0..MAPS).any(|i| inside(&i)) {
            libc::write(libc::STDERR_FILENO, WORDS.as_ptr().cast(), WORDS.len());
            libc::_exit(i32::from(crate::error::Kind::CouldNotRun.exit_code()));
        }
        // The access is repeated, and meets whoever was here before.
        if let Some(before) = BEFORE.get() {
            libc::sigaction(libc::SIGBUS, before, std::ptr::null_mut());
        }
    }
}
