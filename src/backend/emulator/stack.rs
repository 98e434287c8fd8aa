//! Coroutine stacks, one per CUDA thread, kept by the operating-system thread that runs them.

use corosensei::stack::StackPointer;

use super::memory::page_size;

/// Bytes of address space for a CUDA thread's frames and local arrays, of which it has 256 KB at least; only touched
/// pages cost memory.
const SIZE: usize = 320 << 10;
/// Stacks start at so many places within their mappings, so many bytes apart: 60 KB in all, what a way of a second-level
/// cache holds.
const PLACES: usize = 192;
const APART: usize = 320;

pub struct Stack {
    map: usize,
    top: usize,
}

impl Stack {
    /// Stacks of neighbouring threads start at different cache sets: page-aligned ones cost 20–45 % of the speed.
    /// A block of 512 threads would not stay in the second-level cache with stacks at few places.
    pub fn new(number: usize) -> std::io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping whose lowest page is made inaccessible.
        unsafe {
            let map = libc::mmap(std::ptr::null_mut(), SIZE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            if map == libc::MAP_FAILED {
                return Err(std::io::Error::last_os_error());
            }
            let stack = Stack { map: map as usize, top: map as usize + SIZE - number % PLACES * APART };
            if libc::mprotect(map, page_size(), libc::PROT_NONE) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(stack)
        }
    }

    /// All addresses, guard page included.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.map..self.map + SIZE
    }
}

// SAFETY: base and limit enclose one private mapping with a guard page at its low end; the base is 16-byte aligned.
unsafe impl corosensei::stack::Stack for Stack {
    #[inline]
    fn base(&self) -> StackPointer {
        StackPointer::new(self.top).unwrap_or(StackPointer::MIN)
    }

    #[inline]
    fn limit(&self) -> StackPointer {
        StackPointer::new(self.map).unwrap_or(StackPointer::MIN)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and no coroutine runs on it any more.
        unsafe { libc::munmap(self.map as *mut libc::c_void, SIZE) };
    }
}
