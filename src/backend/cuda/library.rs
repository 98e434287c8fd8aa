//! Tables of C functions loaded from a shared library, with result codes left as integers.
//!
//! A library newer than our headers may return codes that a Rust `enum` of today does not have, which would be
//! undefined behaviour; an `i32` has room for all of them.

use std::{ffi::c_void, path::Path};

/// Opens a shared library for good, and returns a look-up of its symbols' addresses.
///
/// Tables keep bare addresses, and neither NVRTC nor the driver survives being unloaded: it never is.
///
/// # Safety
/// Loading runs the library's initialisers: the path must lead to the library that the caller means.
pub(super) unsafe fn open(path: &Path) -> Result<impl FnMut(&'static str) -> Option<*const c_void>, libloading::Error> {
    // SAFETY: the caller's promise.
    let library: &'static libloading::Library = Box::leak(Box::new(unsafe { libloading::Library::new(path) }?));
    Ok(|name: &'static str| {
        // SAFETY: the symbol is not used as what its type says; only its address is taken.
        let address = unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.ok().map(|s| *s)?;
        Some(address as *const c_void)
    })
}

/// Declares a struct of function pointers and its `load`, which names the first symbol that the library lacks.
///
/// `load` is `unsafe`: the declared signatures must be the library's own.
macro_rules! function_table {
    ($(#[$doc:meta])* $table:ident { $($field:ident = $symbol:literal ( $($arg:ty),* ) $(-> $ret:ty)?;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $table { $(pub(super) $field: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)* }

        impl $table {
            /// # Safety
            /// `symbol` must resolve names of a library whose functions have the signatures declared above.
            pub(super) unsafe fn load(
                mut symbol: impl FnMut(&'static str) -> Option<*const ::core::ffi::c_void>,
            ) -> Result<Self, &'static str> {
                $(
                    let address = symbol($symbol).ok_or($symbol)?;
                    // SAFETY: the address is that of a function of this signature, as the caller promises, and is
                    // not null.
                    let $field = unsafe {
                        ::core::mem::transmute::<
                            *const ::core::ffi::c_void,
                            unsafe extern "C" fn($($arg),*) $(-> $ret)?,
                        >(address)
                    };
                )*
                Ok(Self { $($field),* })
            }
        }
    };
}

pub(super) use function_table;
