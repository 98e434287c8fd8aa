//! Memory that parent and worker both map: raw bytes of a call travel in it and not through the socket, and a device
//! that can pin it reads and writes it without a copy between.
//!
//! The first half holds what a request brings, the second what its reply does. The worker may be hostile: it can change
//! what lies here at any time, so the parent only ever copies out, once, and judges the copy. It cannot shrink the
//! memory under the parent's feet: its size is sealed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

/// Bytes of each half. Several times the logits of a token, of which a step returns one row.
pub const HALF: usize = 4 << 20;

pub struct Window {
    map: MmapRaw,
}

impl Window {
    /// A new one, and the file that the other side opens it by.
    pub fn create() -> io::Result<(Window, OwnedFd)> {
        let file = memfd_create("assay-window", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, 2 * HALF as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let file = File::from(file);
        let map = MmapOptions::new().len(2 * HALF).map_raw(&file)?;
        Ok((Window { map }, file.into()))
    }

    /// The other side's.
    pub fn open(file: OwnedFd) -> io::Result<Window> {
        let file = File::from(file);
        if file.metadata()?.len() != 2 * HALF as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the memory shared with the parent is missing"));
        }
        Ok(Window { map: MmapOptions::new().len(2 * HALF).map_raw(&file)? })
    }

    /// The parent's: puts a request's bytes in. `bytes` is at most [`HALF`] long.
    pub fn put(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= HALF);
        // SAFETY: the map is longer; it overlaps no Rust object of this process.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.map.as_mut_ptr(), bytes.len()) };
    }

    /// The parent's: takes a reply's bytes out. `into` is at most [`HALF`] long.
    pub fn take(&self, into: &mut [u8]) {
        assert!(into.len() <= HALF);
        // SAFETY: the map is longer; it overlaps no Rust object of this process. A worker that writes at the same time
        // spoils bytes, which are bytes whatever their value.
        unsafe { std::ptr::copy_nonoverlapping(self.map.as_ptr().add(HALF), into.as_mut_ptr(), into.len()) };
    }

    /// The worker's: a request's bytes and the place for its reply's.
    pub fn halves(&mut self) -> (&[u8], &mut [u8]) {
        let at = self.map.as_mut_ptr();
        // SAFETY: the two halves of the map, which is borrowed for as long as they are. The parent touches neither
        // between its request and the reply.
        unsafe { (std::slice::from_raw_parts(at, HALF), std::slice::from_raw_parts_mut(at.add(HALF), HALF)) }
    }

    /// The worker's: where all of it lies, for a device that can pin it.
    pub fn whole(&mut self) -> (*mut u8, usize) {
        (self.map.as_mut_ptr(), self.map.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_see_the_same_memory_and_neither_can_shrink_it() {
        let (mut ours, file) = Window::create().unwrap();
        assert!(ftruncate(&file, 0).is_err());
        let mut theirs = Window::open(file).unwrap();
        ours.put(b"there");
        let (input, output) = theirs.halves();
        assert_eq!(&input[..5], b"there");
        output[..4].copy_from_slice(b"back");
        let mut back = [0; 4];
        ours.take(&mut back);
        assert_eq!(&back, b"back");
        let other = memfd_create("short", MemfdFlags::CLOEXEC).unwrap();
        assert!(Window::open(other).is_err());
    }
}
