//! A loaded shared object: its entries and its static shared memory.

use std::collections::HashMap;
use std::ffi::{CString, c_ulong, c_void};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::abi::{Entry, Host, Thread};
use super::codes;
use crate::error::{Error, Result};

pub struct Loaded {
    path: PathBuf,
    /// Address of the thread-local `assay_self` of the calling operating-system thread.
    this: unsafe extern "C" fn() -> *mut *mut Thread,
    entries: HashMap<String, (Entry, usize)>,
    library: libloading::os::unix::Library,
}

impl Loaded {
    pub fn open(path: &Path, host: &'static Host) -> Result<Self> {
        let refuse = |e: libloading::Error| Error::new(&codes::LOAD, format!("{}: {e}", path.display())).because(e);
        // SAFETY: the object is the emulator's own build; loading it runs no kernel code (kernels have no initialisers
        // that the shim does not know; a hostile one is what the worker process is confined for).
        unsafe {
            let flags = libc::RTLD_NOW | libc::RTLD_LOCAL;
            let library = libloading::os::unix::Library::open(Some(path), flags).map_err(refuse)?;
            let bind = *library.get::<unsafe extern "C" fn(*const Host)>(b"assay_emu_bind\0").map_err(refuse)?;
            let this = *library.get(b"assay_emu_self\0").map_err(refuse)?;
            bind(host);
            let loaded = Loaded { path: path.to_path_buf(), this, entries: HashMap::new(), library };
            loaded.here()?;
            Ok(loaded)
        }
    }

    /// The entry and the size of its argument struct.
    pub fn entry(&mut self, name: &str) -> Result<(Entry, usize)> {
        if let Some(found) = self.entries.get(name) {
            return Ok(*found);
        }
        let missing = |e: libloading::Error| {
            Error::new(&codes::NO_ENTRY, format!("no entry `{name}` in {}", self.path.display())).because(e)
        };
        // SAFETY: ASSAY_EXPORT gives both symbols these types.
        let found = unsafe {
            let symbol = format!("assay_emu_{name}\0");
            let entry = *self.library.get::<Entry>(symbol.as_bytes()).map_err(missing)?;
            let symbol = format!("assay_emu_size_{name}\0");
            let size = *self.library.get::<unsafe extern "C" fn() -> c_ulong>(symbol.as_bytes()).map_err(missing)?;
            (entry, size() as usize)
        };
        self.entries.insert(name.to_string(), found);
        Ok(found)
    }

    /// The source line of an instruction of this object.
    pub fn place(&self, pc: usize) -> Option<String> {
        // SAFETY: dladdr takes any address and fills the struct when it knows it.
        let base = unsafe {
            let mut info: libc::Dl_info = std::mem::zeroed();
            let known = libc::dladdr(self.this as *const c_void, &mut info) != 0;
            known.then_some(info.dli_fbase as usize)?
        };
        super::lines::place(&self.path, pc.checked_sub(base)? as u64)
    }

    /// For the calling operating-system thread. Refuses an object of which the loader does not say where its thread-locals
    /// lie: what a kernel leaves unwritten in static shared memory would be what the block before left there.
    pub fn here(&self) -> Result<Here> {
        // SAFETY: assay_emu_self takes nothing and returns a thread-local's address.
        let this = unsafe { (self.this)() };
        let statics = tls_block(&self.path).filter(|block| block.contains(&(this as usize))).ok_or_else(|| {
            Error::new(
                &codes::LOAD,
                format!("{}: the loader does not say where its thread-locals lie", self.path.display()),
            )
            .hint("set CXX to another C++ compiler")
        })?;
        Ok(Here { this, statics })
    }
}

/// One module's thread-locals on one operating-system thread.
#[derive(Clone)]
pub struct Here {
    this: *mut *mut Thread,
    /// All of the module's thread-locals: `assay_self` and every `__shared__` variable.
    pub statics: Range<usize>,
}

impl Here {
    /// # Safety
    /// Must run on the thread that made it, while the module is loaded.
    #[inline]
    pub unsafe fn set(&self, thread: *mut Thread) {
        // SAFETY: the caller's promise.
        unsafe { *self.this = thread };
    }

    /// Overwrites all static shared memory, as if another block had left it behind.
    ///
    /// # Safety
    /// As for [`Here::set`], with no thread of a block in flight.
    pub unsafe fn poison(&self) {
        // SAFETY: the range is the module's own thread-local storage, and `assay_self` is set again before each resume.
        unsafe {
            std::ptr::write_bytes(self.statics.start as *mut u8, super::memory::POISON, self.statics.len());
        }
    }
}

/// The calling thread's storage for the thread-locals of the object at `path`.
fn tls_block(path: &Path) -> Option<Range<usize>> {
    struct Search {
        path: CString,
        found: Option<Range<usize>>,
    }
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, size: usize, data: *mut c_void) -> i32 {
        // SAFETY: dl_iterate_phdr passes its own struct and our pointer through.
        unsafe {
            let (info, search) = (&*info, &mut *data.cast::<Search>());
            if size < size_of::<libc::dl_phdr_info>() || libc::strcmp(info.dlpi_name, search.path.as_ptr()) != 0 {
                return 0;
            }
            for header in std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) {
                if header.p_type == libc::PT_TLS && !info.dlpi_tls_data.is_null() {
                    let start = info.dlpi_tls_data as usize;
                    search.found = Some(start..start + header.p_memsz as usize);
                }
            }
            1
        }
    }
    let mut search = Search { path: CString::new(path.as_os_str().as_bytes()).ok()?, found: None };
    // SAFETY: the callback only reads what it is given.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A range of no bytes was given where the loader said nothing, and shared memory was then not overwritten.
    #[test]
    fn an_object_that_is_not_loaded_has_no_thread_locals() {
        assert_eq!(tls_block(Path::new("/nowhere/kernel.so")), None);
    }
}
