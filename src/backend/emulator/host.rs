//! What kernels call: barriers, warp operations, asynchronous copies, failures. All of it runs on the calling CUDA
//! thread's coroutine.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::atomic::Ordering::Relaxed;

use super::abi::{Combine, Host, Site, Thread};
use super::codes;
use super::memory::POISON;
use super::runner::{Failure, Operand, PendingCopy, Slot, State};

pub static HOST: Host = Host { barrier, warp, active, yield_, copy, commit, wait, fail };

/// Marks the time that a CUDA thread spends in the host, where a time limit must not cut it off.
struct InHost<'a>(&'a Slot);

impl<'a> InHost<'a> {
    #[inline]
    fn enter(slot: &'a Slot) -> Self {
        slot.runner().in_kernel.store(false, Relaxed);
        InHost(slot)
    }
}

impl Drop for InHost<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.runner().in_kernel.store(true, Relaxed);
    }
}

fn failure(code: &'static crate::error::Code, text: impl Into<String>, site: Site) -> Failure {
    // SAFETY: sites are literals of a loaded module.
    let site = Some(unsafe { site.text() });
    Failure { site, ..Failure::new(code, text) }
}

unsafe extern "C" fn barrier(thread: *mut Thread, kind: c_int, value: c_int, site: Site) -> c_int {
    // SAFETY: the shim passes what the runner gave it.
    let slot = unsafe { Slot::of(thread) };
    let _host = InHost::enter(slot);
    let runner = slot.runner();
    slot.state.set(State::Barrier { kind, value, site });
    runner.at_barrier.set(runner.at_barrier.get() + 1);
    slot.suspend();
    slot.result.get()
}

unsafe extern "C" fn warp(thread: *mut Thread, mask: c_uint, combine: Combine, operand: *mut c_void, site: Site) {
    // SAFETY: the shim passes what the runner gave it; warps and slots do not move while a block runs.
    let (slot, warp) = unsafe {
        let slot = Slot::of(thread);
        (slot, &*slot.runner().warp_of(slot))
    };
    let _host = InHost::enter(slot);
    let (lane, named) = (slot.linear() & 31, mask & warp.present.get());
    if named >> lane & 1 == 0 {
        slot.fail(failure(
            &codes::WARP_MASK,
            format!("lane {lane} does not name itself in its mask {mask:#010x}"),
            site,
        ));
    }
    if named & warp.finished.get() != 0 {
        let gone = named & warp.finished.get();
        slot.fail(failure(
            &codes::WARP_MASK,
            format!("mask {mask:#010x} names lanes that have returned ({gone:#010x})"),
            site,
        ));
    }
    slot.state.set(State::Warp { mask: named, site });
    warp.operands[lane as usize].set(Some(Operand { mask: named, combine, value: operand, site }));
    warp.arrived.set(warp.arrived.get() | 1 << lane);
    if warp.arrived.get() & named != named {
        slot.suspend();
        slot.state.set(State::Ready);
        return;
    }
    let mut operands = [std::ptr::null_mut(); 32];
    for other in (0..32).filter(|l| named >> l & 1 == 1) {
        let Some(theirs) = warp.operands[other as usize].get() else { continue };
        let same = theirs.mask == named && std::ptr::fn_addr_eq(combine, theirs.combine);
        // SAFETY: sites are literals of a loaded module.
        if !same || unsafe { !site.same(theirs.site) } {
            // SAFETY: as above.
            let place = unsafe { theirs.site.text() };
            let mask = theirs.mask;
            let text =
                format!("lane {lane} has mask {named:#010x}, lane {other} waits at {place} with mask {mask:#010x}");
            slot.fail(failure(&codes::WARP_MASK, text, site));
        }
        operands[other as usize] = theirs.value;
    }
    // SAFETY: every operand is on the stack of a lane that waits here, and has this combine's type.
    unsafe { combine(operands.as_ptr(), named) };
    slot.state.set(State::Ready);
    warp.arrived.set(warp.arrived.get() & !named);
    warp.ready.set(warp.ready.get() | named & !(1 << lane));
}

unsafe extern "C" fn active(thread: *mut Thread) -> c_uint {
    // SAFETY: the shim passes what the runner gave it.
    unsafe {
        let slot = Slot::of(thread);
        let warp = &*slot.runner().warp_of(slot);
        warp.present.get() & !warp.finished.get()
    }
}

unsafe extern "C" fn yield_(thread: *mut Thread) {
    // SAFETY: the shim passes what the runner gave it.
    let (slot, warp) = unsafe {
        let slot = Slot::of(thread);
        (slot, &*slot.runner().warp_of(slot))
    };
    let _host = InHost::enter(slot);
    warp.yielded.set(warp.yielded.get() | 1 << (slot.linear() & 31));
    slot.suspend();
}

unsafe extern "C" fn copy(thread: *mut Thread, to: *mut u8, from: *const u8, bytes: c_int, site: Site) {
    // SAFETY: the shim passes what the runner gave it.
    let slot = unsafe { Slot::of(thread) };
    let _host = InHost::enter(slot);
    if !(to as usize | from as usize).is_multiple_of(16) {
        slot.fail(failure(&codes::ASYNC_COPY, "cp.async needs both addresses on 16 bytes", site));
    }
    // SAFETY: a bad address is caught by the fault handler, as any of the kernel's own accesses is.
    unsafe { std::ptr::write_bytes(to, POISON, 16) };
    let mut copies = slot.copies.take();
    copies.push(PendingCopy { to, from, bytes: bytes as usize, group: slot.group.get(), site });
    slot.copies.set(copies);
}

unsafe extern "C" fn commit(thread: *mut Thread) {
    // SAFETY: the shim passes what the runner gave it.
    let slot = unsafe { Slot::of(thread) };
    slot.group.set(slot.group.get() + 1);
}

unsafe extern "C" fn wait(thread: *mut Thread, newest: c_int) {
    // SAFETY: the shim passes what the runner gave it.
    let slot = unsafe { Slot::of(thread) };
    let _host = InHost::enter(slot);
    let complete = slot.group.get().saturating_sub(newest.max(0) as u32);
    let mut copies = slot.copies.take();
    for c in copies.iter().filter(|c| c.group < complete) {
        // SAFETY: a bad address is caught by the fault handler, as any of the kernel's own accesses is.
        unsafe {
            std::ptr::copy(c.from, c.to, c.bytes);
            std::ptr::write_bytes(c.to.add(c.bytes), 0, 16 - c.bytes);
        }
    }
    copies.retain(|c| c.group >= complete);
    slot.copies.set(copies);
}

unsafe extern "C" fn fail(thread: *mut Thread, kind: *const c_char, text: *const c_char, site: Site) {
    // SAFETY: the shim passes what the runner gave it, and C strings.
    let (slot, kind, text) =
        unsafe { (Slot::of(thread), CStr::from_ptr(kind), CStr::from_ptr(text).to_string_lossy()) };
    let _host = InHost::enter(slot);
    let code = match kind.to_bytes() {
        b"bounds" => &codes::ARRAY_BOUNDS,
        b"misaligned" => &codes::MISALIGNED,
        _ => &codes::TRAP,
    };
    slot.fail(failure(code, text, site));
}

/// A CUDA thread has returned from the kernel.
pub fn finish(slot: &Slot) {
    let copies = slot.copies.take();
    if let Some(left) = copies.first() {
        let text = "returned with a cp.async that was never waited for";
        slot.fail(failure(&codes::ASYNC_COPY, text, left.site));
    }
    slot.copies.set(copies);
    slot.state.set(State::Idle);
    // SAFETY: warps do not move while a block runs.
    let warp = unsafe { &*slot.runner().warp_of(slot) };
    warp.finished.set(warp.finished.get() | 1 << (slot.linear() & 31));
}
