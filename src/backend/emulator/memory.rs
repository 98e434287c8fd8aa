//! Buffers between inaccessible pages.
//!
//! A buffer ends at an inaccessible page. Its base is on 16 bytes, which kernels' vector loads rely on, so a size that is
//! no multiple of 16 leaves up to 15 bytes behind the last one; they, and the bytes between the first page's start and
//! the base, hold a pattern (NaN in every float type) that is checked after each launch.

use std::ops::Range;
use std::ptr;

use super::codes;
use crate::backend::BufferId;
use crate::error::{Error, Result};

/// Vector loads and cp.async need at most this; a device's allocations have 256.
pub const ALIGN: usize = 16;
/// Fills what a kernel must not have read: NaN as f16, bf16, f32; -1 as an integer.
pub const POISON: u8 = 0xff;

/// A mapping of whole pages with an inaccessible page on either side.
pub struct Guarded {
    map: *mut u8,
    map_len: usize,
    base: *mut u8,
    len: usize,
    sealed: bool,
}

// SAFETY: plain memory; whoever holds the buffer decides about access.
unsafe impl Send for Guarded {}
// SAFETY: as above; emulated threads share it the way CUDA threads do.
unsafe impl Sync for Guarded {}

impl Guarded {
    /// `len` bytes that end (rounded up to [`ALIGN`]) at an inaccessible page.
    pub fn new(len: usize) -> std::io::Result<Self> {
        let page = page_size();
        let padded = len.next_multiple_of(ALIGN);
        let body = padded.next_multiple_of(page).max(page);
        let map_len = body.checked_add(2 * page).ok_or(std::io::ErrorKind::OutOfMemory)?;
        // SAFETY: a fresh anonymous mapping; failure is checked.
        let map = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            libc::mmap(ptr::null_mut(), map_len, libc::PROT_NONE, flags, -1, 0)
        };
        if map == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let map = map.cast::<u8>();
        // SAFETY: the body lies inside the mapping made above.
        let guarded = unsafe {
            let base = map.add(page + body - padded);
            Guarded { map, map_len, base, len, sealed: false }
        };
        guarded.allow(libc::PROT_READ | libc::PROT_WRITE)?;
        for slack in guarded.slack() {
            // SAFETY: the slack lies inside the accessible body.
            unsafe { ptr::write_bytes(slack.start as *mut u8, POISON, slack.len()) };
        }
        Ok(guarded)
    }

    pub fn base(&self) -> *mut u8 {
        self.base
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Addresses whose use is this buffer's overrun or underrun, or the buffer itself.
    pub fn whole(&self) -> Range<usize> {
        self.map as usize..self.map as usize + self.map_len
    }

    /// Addresses of the accessible body.
    fn body(&self) -> Range<usize> {
        let (whole, page) = (self.whole(), page_size());
        whole.start + page..whole.end - page
    }

    /// Accessible bytes before and behind the buffer.
    fn slack(&self) -> [Range<usize>; 2] {
        let (body, base) = (self.body(), self.base as usize);
        [body.start..base, base + self.len..body.end]
    }

    /// What may be done with the accessible body.
    fn allow(&self, access: libc::c_int) -> std::io::Result<()> {
        let body = self.body();
        // SAFETY: the body lies inside the mapping, which is ours.
        match unsafe { libc::mprotect(body.start as *mut libc::c_void, body.len(), access) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    /// Whether writing is a fault from now on.
    pub fn seal(&mut self, sealed: bool) -> std::io::Result<()> {
        if self.sealed != sealed {
            self.allow(if sealed { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE })?;
            self.sealed = sealed;
        }
        Ok(())
    }

    /// Whether an address is one of a sealed body's.
    pub fn is_sealed(&self, address: usize) -> bool {
        self.sealed && self.body().contains(&address)
    }

    /// Offset from the base of the first slack byte that no longer holds the pattern.
    pub fn damage(&self) -> Option<i64> {
        self.slack().into_iter().flatten().find_map(|address| {
            // SAFETY: the slack lies inside the accessible body.
            let byte = unsafe { ptr::read_volatile(address as *const u8) };
            (byte != POISON).then(|| address as i64 - self.base as i64)
        })
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: base and len lie inside the accessible body; no launch runs while the host reads.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }
    }

    /// Not of a sealed one.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: base and len lie inside the accessible body, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers to it any more.
        unsafe { libc::munmap(self.map.cast(), self.map_len) };
    }
}

pub fn page_size() -> usize {
    // SAFETY: a query without side effects.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// The buffers of one emulator, by id.
#[derive(Default)]
pub struct Memory {
    buffers: Vec<Option<Guarded>>,
}

impl Memory {
    pub fn alloc(&mut self, bytes: u64) -> Result<BufferId> {
        let refuse = |e: std::io::Error| Error::new(&codes::MEMORY, format!("{bytes} bytes: {e}")).because(e);
        let len = usize::try_from(bytes).map_err(|_| refuse(std::io::ErrorKind::OutOfMemory.into()))?;
        let guarded = Guarded::new(len).map_err(refuse)?;
        let id = self.buffers.iter().position(Option::is_none).unwrap_or_else(|| {
            self.buffers.push(None);
            self.buffers.len() - 1
        });
        self.buffers[id] = Some(guarded);
        Ok(BufferId(id as u32))
    }

    pub fn free(&mut self, id: BufferId) -> Result<()> {
        self.buffers.get_mut(id.0 as usize).and_then(Option::take).map(drop).ok_or_else(|| unknown(id))
    }

    pub fn get(&self, id: BufferId) -> Result<&Guarded> {
        self.buffers.get(id.0 as usize).and_then(Option::as_ref).ok_or_else(|| unknown(id))
    }

    pub fn get_mut(&mut self, id: BufferId) -> Result<&mut Guarded> {
        self.buffers.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or_else(|| unknown(id))
    }

    /// A buffer that may be written.
    pub fn open(&mut self, id: BufferId) -> Result<&mut Guarded> {
        self.seal(id, false)?;
        self.get_mut(id)
    }

    pub fn seal(&mut self, id: BufferId, sealed: bool) -> Result<()> {
        let refuse =
            |e: std::io::Error| Error::new(&codes::MEMORY, format!("access to buffer {}: {e}", id.0)).because(e);
        self.get_mut(id)?.seal(sealed).map_err(refuse)
    }

    pub fn iter(&self) -> impl Iterator<Item = (BufferId, &Guarded)> {
        self.buffers.iter().enumerate().filter_map(|(i, b)| Some((BufferId(i as u32), b.as_ref()?)))
    }
}

fn unknown(id: BufferId) -> Error {
    Error::new(&codes::BUFFER, format!("buffer {} does not exist", id.0))
}
