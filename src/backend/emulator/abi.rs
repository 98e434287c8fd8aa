//! What host and shim share: the structs of `kernels/emu/cuda.h`, field by field.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Site {
    pub file: *const c_char,
    pub line: c_int,
}

impl Site {
    /// `kernels/rms_norm.cu:12`
    ///
    /// # Safety
    /// `file` must be null or a C string; the shim passes literals of a module that is still loaded.
    pub unsafe fn text(self) -> String {
        if self.file.is_null() {
            return "an unknown line".to_string();
        }
        // SAFETY: the caller's promise.
        let file = unsafe { CStr::from_ptr(self.file) }.to_string_lossy();
        format!("kernels/{}:{}", file.trim_start_matches("./"), self.line)
    }

    /// # Safety
    /// As for [`Site::text`].
    #[inline]
    pub unsafe fn same(self, other: Site) -> bool {
        if self.line != other.line || self.file.is_null() || other.file.is_null() {
            return self.line == other.line && self.file == other.file;
        }
        // SAFETY: the caller's promise.
        self.file == other.file || unsafe { CStr::from_ptr(self.file) == CStr::from_ptr(other.file) }
    }
}

#[repr(C)]
pub struct Block {
    pub index: [u32; 3],
    pub dim: [u32; 3],
    pub grid: [u32; 3],
    pub dynamic_shared: *mut u8,
}

#[repr(C)]
pub struct Thread {
    pub index: [u32; 3],
    pub linear: u32,
    pub block: *const Block,
}

pub type Combine = unsafe extern "C" fn(operands: *const *mut c_void, mask: c_uint);

#[repr(C)]
pub struct Host {
    pub barrier: unsafe extern "C" fn(*mut Thread, c_int, c_int, Site) -> c_int,
    pub warp: unsafe extern "C" fn(*mut Thread, c_uint, Combine, *mut c_void, Site),
    pub active: unsafe extern "C" fn(*mut Thread) -> c_uint,
    pub yield_: unsafe extern "C" fn(*mut Thread),
    pub copy: unsafe extern "C" fn(*mut Thread, *mut u8, *const u8, c_int, Site),
    pub commit: unsafe extern "C" fn(*mut Thread),
    pub wait: unsafe extern "C" fn(*mut Thread, c_int),
    pub fail: unsafe extern "C" fn(*mut Thread, *const c_char, *const c_char, Site),
}

/// `assay_emu_NAME`
pub type Entry = unsafe extern "C" fn(args: *const c_void);
