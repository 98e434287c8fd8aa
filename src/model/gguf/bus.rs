//! A mapped file that somebody cuts: reading behind its new end is a bus error, which would end the process without a
//! word. The handler says what happened and leaves with the code for a file that could not be read.

use std::path::Path;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Maps that are watched at once; of any further one a bus error stays what it is.
const MAPS: usize = 8;

static FIRST: [AtomicUsize; MAPS] = [const { AtomicUsize::new(0) }; MAPS];
static BEYOND: [AtomicUsize; MAPS] = [const { AtomicUsize::new(0) }; MAPS];
/// What is said of each: written before it is needed, since a signal handler may allocate nothing.
static WORDS: [AtomicPtr<String>; MAPS] = [const { AtomicPtr::new(ptr::null_mut()) }; MAPS];
static INSTALL: Once = Once::new();
/// What handled the signal before: the standard library's, which reports a stack that is too long.
static BEFORE: std::sync::OnceLock<libc::sigaction> = std::sync::OnceLock::new();

/// A map is watched for as long as this lives.
pub struct Watched(Option<usize>);

impl Watched {
    pub fn new(map: &[u8], path: &Path) -> Watched {
        INSTALL.call_once(install);
        let (first, beyond) = (map.as_ptr().addr(), map.as_ptr().addr() + map.len());
        let free = (0..MAPS).find(|i| FIRST[*i].compare_exchange(0, first, Ordering::SeqCst, Ordering::SeqCst).is_ok());
        if let Some(i) = free {
            let words = Box::new(format!(
                "error: {} was cut while it was read [gguf-changed]\n  next:     let whatever writes it finish, and start \
                 again\n",
                path.display()
            ));
            WORDS[i].store(Box::into_raw(words), Ordering::SeqCst);
            BEYOND[i].store(beyond, Ordering::SeqCst);
        }
        Watched(free)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(i) = self.0 {
            BEYOND[i].store(0, Ordering::SeqCst);
            let words = WORDS[i].swap(ptr::null_mut(), Ordering::SeqCst);
            if !words.is_null() {
                // SAFETY: `new` made it of a box, and the swap took it from everybody else; the handler looks at it for a
                // fault inside the map alone, which nobody reads any more.
                drop(unsafe { Box::from_raw(words) });
            }
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
    // SAFETY: the kernel hands a valid siginfo to a handler with SA_SIGINFO; the calls below are async-signal-safe; a
    // map's words live as long as it is watched.
    unsafe {
        let at = (*info).si_addr().addr();
        let inside = |i: &usize| (FIRST[*i].load(Ordering::SeqCst)..BEYOND[*i].load(Ordering::SeqCst)).contains(&at);
        if let Some(i) = (0..MAPS).find(inside) {
            if let Some(words) = WORDS[i].load(Ordering::SeqCst).as_ref() {
                libc::write(libc::STDERR_FILENO, words.as_ptr().cast(), words.len());
            }
            libc::_exit(i32::from(crate::error::Kind::CouldNotRun.exit_code()));
        }
        // The access is repeated, and meets whoever was here before.
        if let Some(before) = BEFORE.get() {
            libc::sigaction(libc::SIGBUS, before, std::ptr::null_mut());
        }
    }
}
