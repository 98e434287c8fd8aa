//! Files into device memory at the bus's speed: several threads read into pinned slots while others are copied.
//!
//! The calling thread alone talks to the driver. It enqueues a slot's copies once the slot is full, and lets the readers
//! at it again once they have ended. Everything that the readers share is an index: which piece is next, up to which
//! filling slots may be written, how much of each filling is there.

use std::{
    ffi::c_void,
    fs::File,
    io, ptr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    Cuda,
    driver::{CUdeviceptr, CUevent, Driver, code},
};
use crate::{
    backend::{
        Device,
        upload::{FilePart, read_at, unread},
    },
    error::Result,
    model::gguf::Source,
};

/// Bytes of a slot: long enough that a copy's start does not count.
const SLOT: usize = 32 << 20;
/// One is filled while one is copied and one is between the two.
const SLOTS: usize = 3;
/// Bytes of one read: several to a slot, so that all readers are at the same one.
const PIECE: usize = 2 << 20;
/// More readers than this saturate no bus that there is.
const READERS: usize = 16;
/// Copies start at multiples of this within a slot.
const ALIGN: usize = 256;

/// Pinned memory and the events of its copies; kept for the uploads that follow.
pub(super) struct Slots {
    api: Driver,
    memory: *mut u8,
    events: Vec<CUevent>,
}

impl Slots {
    fn new(cuda: &mut Cuda) -> Result<Slots> {
        let mut memory: *mut c_void = ptr::null_mut();
        // SAFETY: a valid place for an address.
        let result = unsafe { (cuda.api.host_alloc)(&mut memory, SLOT * SLOTS, 0) };
        cuda.done("cuMemHostAlloc", result)?;
        let mut slots = Slots { api: cuda.api, memory: memory.cast(), events: Vec::new() };
        for _ in 0..SLOTS {
            slots.events.push(cuda.event()?);
        }
        Ok(slots)
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: own handles and memory, freed once; the stream is idle when a device is dropped that still works.
        unsafe {
            for event in &self.events {
                (self.api.event_destroy)(*event);
            }
            (self.api.host_free)(self.memory.cast());
        }
    }
}

/// One read into a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Piece {
    filling: usize,
    /// Within the slot.
    offset: usize,
    at: u64,
    len: usize,
}

/// One copy out of a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Copy {
    offset: usize,
    part: usize,
    /// Within the buffer.
    to: u64,
    len: usize,
}

/// How parts are cut into fillings of slots.
#[derive(Debug, Default, PartialEq)]
struct Cut {
    pieces: Vec<Piece>,
    fillings: Vec<Vec<Copy>>,
}

fn cut(parts: &[FilePart]) -> Cut {
    let mut out = Cut::default();
    let mut used = SLOT;
    for (part, p) in parts.iter().enumerate() {
        let mut done = 0;
        while done < p.len {
            if used >= SLOT {
                out.fillings.push(Vec::new());
                used = 0;
            }
            let filling = out.fillings.len() - 1;
            let len = (p.len - done).min((SLOT - used) as u64) as usize;
            out.fillings[filling].push(Copy { offset: used, part, to: done, len });
            for offset in (0..len).step_by(PIECE) {
                let at = p.at + done + offset as u64;
                out.pieces.push(Piece { filling, offset: used + offset, at, len: PIECE.min(len - offset) });
            }
            done += len as u64;
            used = (used + len).next_multiple_of(ALIGN);
        }
    }
    out
}

/// What readers and the calling thread tell each other.
struct Desk<'a> {
    file: &'a File,
    pieces: &'a [Piece],
    slots: usize,
    next: AtomicUsize,
    /// Fillings below this may be written.
    open: AtomicUsize,
    /// Pieces of each filling that are there.
    ready: Vec<AtomicUsize>,
    stop: AtomicBool,
    failed: Mutex<Option<io::Error>>,
}

impl Desk<'_> {
    fn read(&self) {
        loop {
            let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return };
            while self.open.load(Ordering::Acquire) <= piece.filling {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::sleep(Duration::from_micros(20));
            }
            let at = self.slots + piece.filling % SLOTS * SLOT + piece.offset;
            // SAFETY: a piece of a slot of pinned memory, which outlives the readers. Pieces of one filling do not
            // overlap, each is one reader's, and the slot's earlier copies have ended, or its filling were not open.
            let into = unsafe { std::slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut(at), piece.len) };
            if let Err(e) = read_at(self.file, into, piece.at) {
                self.failed.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(e);
                self.stop.store(true, Ordering::Relaxed);
                return;
            }
            self.ready[piece.filling].fetch_add(1, Ordering::Release);
        }
    }
}

impl Cuda {
    pub(super) fn upload(&mut self, source: &Source, parts: &[FilePart]) -> Result<()> {
        self.sync()?;
        let file = source.open()?;
        let to: Vec<CUdeviceptr> =
            parts.iter().map(|p| self.span(p.buffer, 0, p.len as usize)).collect::<Result<_>>()?;
        let cut = cut(parts);
        let slots = match self.slots.take() {
            Some(slots) => slots,
            None => Slots::new(self)?,
        };
        let desk = Desk {
            file: &file,
            pieces: &cut.pieces,
            slots: slots.memory.expose_provenance(),
            next: AtomicUsize::new(0),
            open: AtomicUsize::new(SLOTS),
            ready: cut.fillings.iter().map(|_| AtomicUsize::new(0)).collect(),
            stop: AtomicBool::new(false),
            failed: Mutex::new(None),
        };
        let readers = std::thread::available_parallelism().map_or(4, |n| n.get()).min(READERS).min(cut.pieces.len());
        let copied = std::thread::scope(|scope| {
            for _ in 0..readers {
                scope.spawn(|| desk.read());
            }
            let copied = self.copy_fillings(&desk, &cut, &slots, &to);
            desk.stop.store(true, Ordering::Relaxed);
            copied
        });
        if self.is_broken() {
            std::mem::forget(slots);
            return copied;
        }
        // The slots are the next upload's to write.
        let waited = self.wait(None);
        self.slots = Some(slots);
        if let Some(e) = desk.failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
            return Err(unread(&source.path, e));
        }
        copied.and(waited)?;
        source.check(&file)
    }

    /// Enqueues every filling's copies as it gets ready, until all are, or a reader failed.
    fn copy_fillings(&mut self, desk: &Desk<'_>, cut: &Cut, slots: &Slots, to: &[CUdeviceptr]) -> Result<()> {
        let mut pieces = vec![0; cut.fillings.len()];
        cut.pieces.iter().for_each(|p| pieces[p.filling] += 1);
        let (mut enqueued, mut ended) = (0, 0);
        while enqueued < pieces.len() && !desk.stop.load(Ordering::Relaxed) {
            if desk.ready[enqueued].load(Ordering::Acquire) == pieces[enqueued] {
                let slot = slots.memory.wrapping_add(enqueued % SLOTS * SLOT);
                for copy in &cut.fillings[enqueued] {
                    let from = slot.wrapping_add(copy.offset).cast_const().cast();
                    // SAFETY: a full stretch of a slot, left alone until the event below has come, and a span that was
                    // checked to hold the part.
                    let result = unsafe { (self.api.upload)(to[copy.part] + copy.to, from, copy.len, self.stream) };
                    self.done("cuMemcpyHtoDAsync", result)?;
                }
                // SAFETY: a live event and stream.
                let result = unsafe { (self.api.event_record)(slots.events[enqueued % SLOTS], self.stream) };
                self.done("cuEventRecord", result)?;
                enqueued += 1;
            } else if ended < enqueued {
                // SAFETY: an event that was recorded.
                let result = unsafe { (self.api.event_query)(slots.events[ended % SLOTS]) };
                if result != code::NOT_READY {
                    self.done("cuEventQuery", result)?;
                    ended += 1;
                    desk.open.store(ended + SLOTS, Ordering::Release);
                }
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::BufferId;

    /// Every byte of every part is read once and copied from where it was read to.
    #[test]
    fn parts_are_cut_into_slots_without_gaps() {
        let lens = [1u64, 255, 256, PIECE as u64 + 1, SLOT as u64 - 3, 3 * SLOT as u64 + 17, 0, 5];
        let mut at = 1000;
        let parts: Vec<FilePart> = lens
            .iter()
            .enumerate()
            .map(|(i, len)| {
                at += len + 77;
                FilePart { buffer: BufferId(i as u32), at, len: *len }
            })
            .collect();
        let cut = cut(&parts);
        let mut done = vec![0; parts.len()];
        let mut pieces = cut.pieces.iter().peekable();
        for (f, copies) in cut.fillings.iter().enumerate() {
            let mut end = 0;
            for copy in copies {
                assert!(copy.offset >= end && copy.offset % ALIGN == 0 && copy.len > 0);
                end = copy.offset + copy.len;
                assert!(end <= SLOT);
                assert_eq!(copy.to, done[copy.part]);
                let mut read = 0;
                while read < copy.len {
                    let p = pieces.next().unwrap();
                    let at = parts[copy.part].at + copy.to + read as u64;
                    assert_eq!((p.filling, p.offset, p.at), (f, copy.offset + read, at));
                    assert!(p.len <= PIECE);
                    read += p.len;
                }
                assert_eq!(read, copy.len);
                done[copy.part] += copy.len as u64;
            }
        }
        assert_eq!(done, lens);
        assert!(pieces.next().is_none());
    }
}
