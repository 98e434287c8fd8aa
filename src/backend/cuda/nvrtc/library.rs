//! NVRTC as a loaded library. Only the confined process opens it ([`crate::backend::worker::compile`]).

use std::{
    ffi::{CStr, CString, c_char, c_int, c_uint, c_void},
    path::Path,
    ptr,
};

use serde::{Deserialize, Serialize};

use crate::{
    backend::{
        cuda::{
            NVRTC_COMPILE, NVRTC_FAILED, find,
            library::{self, function_table},
        },
        worker::compile::{Output, Want},
    },
    error::{Error, Result},
    plan::source::SourceSet,
};

type Program = *mut c_void;

function_table! {
    /// The functions of NVRTC that every version since 12.0 has.
    Api {
        version = "nvrtcVersion"(*mut c_int, *mut c_int) -> c_int;
        supported_count = "nvrtcGetNumSupportedArchs"(*mut c_int) -> c_int;
        supported = "nvrtcGetSupportedArchs"(*mut c_int) -> c_int;
        error_string = "nvrtcGetErrorString"(c_int) -> *const c_char;
        create = "nvrtcCreateProgram"(
            *mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char
        ) -> c_int;
        destroy = "nvrtcDestroyProgram"(*mut Program) -> c_int;
        compile = "nvrtcCompileProgram"(Program, c_int, *const *const c_char) -> c_int;
        log_size = "nvrtcGetProgramLogSize"(Program, *mut usize) -> c_int;
        log = "nvrtcGetProgramLog"(Program, *mut c_char) -> c_int;
        cubin_size = "nvrtcGetCUBINSize"(Program, *mut usize) -> c_int;
        cubin = "nvrtcGetCUBIN"(Program, *mut c_char) -> c_int;
        ptx_size = "nvrtcGetPTXSize"(Program, *mut usize) -> c_int;
        ptx = "nvrtcGetPTX"(Program, *mut c_char) -> c_int;
    }
}

function_table! {
    /// Newer versions bring cuda_fp16.h and its kind inside the library.
    Bundle {
        install = "nvrtcInstallBundledHeaders"(*const c_char, c_uint, *mut *const c_char) -> c_int;
    }
}

/// What a library says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub version: (u32, u32),
    /// Compute capabilities that it compiles for.
    pub supported: Vec<u32>,
    /// Whether it brings cuda_fp16.h and its kind.
    pub bundled: bool,
}

/// NVIDIA's run-time compiler, loaded. It is never unloaded: its threads and static state do not survive that.
pub struct Library {
    api: Api,
    bundle: Option<Bundle>,
    about: About,
}

impl Library {
    /// The error is what is wrong with it.
    pub fn open(path: &Path) -> Result<Library, String> {
        for part in find::builtins(path) {
            // Some releases look for this part of themselves by its bare name; one that is loaded is found.
            // SAFETY: as below. Where it does not load, NVRTC says so itself.
            let _ = unsafe { library::open(&part) };
        }
        // SAFETY: it was found under NVRTC's name at a place that the user or the system's administrator controls.
        let mut symbol = unsafe { library::open(path) }.map_err(|e| shorten(&e.to_string()))?;
        // SAFETY: the signatures are those of nvrtc.h, unchanged since 12.0.
        let api = unsafe { Api::load(&mut symbol) }.map_err(|name| format!("has no {name}"))?;
        // SAFETY: same header, since 13.1.
        let bundle = unsafe { Bundle::load(&mut symbol) }.ok();

        let mut version = (0, 0);
        // SAFETY: two valid places for an int each.
        let code = unsafe { (api.version)(&mut version.0, &mut version.1) };
        if code != 0 || version.0 < 12 {
            return Err(format!("is version {}.{}, older than 12.0", version.0, version.1));
        }
        let mut count = 0;
        // SAFETY: a valid place for an int.
        let code = unsafe { (api.supported_count)(&mut count) };
        let mut archs = vec![0; usize::try_from(count).unwrap_or(0).min(1024)];
        // SAFETY: the library writes `count` ints, and `archs` has room for as many unless it was cut to 1024, a
        // number of architectures that no version has; then nothing is asked for.
        if code != 0 || count > 1024 || unsafe { (api.supported)(archs.as_mut_ptr()) } != 0 {
            return Err("does not say which architectures it supports".into());
        }
        let about = About {
            version: (version.0.unsigned_abs(), version.1.unsigned_abs()),
            supported: archs.into_iter().map(|a: c_int| a.unsigned_abs()).collect(),
            bundled: bundle.is_some(),
        };
        Ok(Library { api, bundle, about })
    }

    pub fn about(&self) -> &About {
        &self.about
    }

    /// Failing to compile is an output too; an error is NVRTC's own failure.
    pub fn compile(&self, source: &SourceSet, options: &[String], want: Want) -> Result<Output> {
        let program = Loaded::create(&self.api, source)?;
        let options: Vec<CString> =
            options.iter().map(|o| c_string(o.as_str(), "a compiler option")).collect::<Result<_>>()?;
        let pointers: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();
        // SAFETY: `pointers` holds as many C strings as is said, alive until the call returns.
        let code = unsafe { (self.api.compile)(program.handle, pointers.len() as c_int, pointers.as_ptr()) };
        let log = program.output(self.api.log_size, self.api.log, "nvrtcGetProgramLog")?;
        let bytes = match (code, want) {
            (0, Want::Cubin) => program.output(self.api.cubin_size, self.api.cubin, "nvrtcGetCUBIN")?,
            (0, Want::Ptx) => program.output(self.api.ptx_size, self.api.ptx, "nvrtcGetPTX")?,
            _ => Vec::new(),
        };
        Ok(Output { code, word: self.api.word(code), log: String::from_utf8_lossy(&log).replace('\0', ""), bytes })
    }

    /// Unpacks the compiler's own headers.
    pub fn unpack_headers(&self, dir: &Path) -> Result<()> {
        let Some(bundle) = &self.bundle else {
            return Err(Error::internal("an NVRTC without headers was to unpack them"));
        };
        let path = c_string(dir.display().to_string(), "the cache folder's path")?;
        let mut why = ptr::null();
        // Not overwriting first: another process may have just unpacked them and be compiling with them. Overwriting
        // second: what lies there may be damaged.
        let (skip, overwrite) = (0, 1);
        // SAFETY: a C string, and a valid place for a pointer to a message that the library owns.
        let mut install = |flags| unsafe { (bundle.install)(path.as_ptr(), flags, &mut why) };
        if install(skip) == 0 || install(overwrite) == 0 {
            return Ok(());
        }
        let why = match why.is_null() {
            true => "no reason given".into(),
            // SAFETY: not null, and valid until this thread's next call into the library.
            false => unsafe { CStr::from_ptr(why) }.to_string_lossy(),
        };
        Err(Error::new(&NVRTC_FAILED, format!("its headers cannot be unpacked to {}: {why}", dir.display())))
    }
}

impl Api {
    /// The library's word for a code.
    fn word(&self, code: c_int) -> String {
        // SAFETY: returns a static string for any code, or null.
        let text = unsafe { (self.error_string)(code) };
        match text.is_null() {
            true => "an unknown code".into(),
            // SAFETY: not null, and a static C string as the library documents it.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
        }
    }

    fn failed(&self, call: &str, code: c_int) -> Error {
        Error::new(&NVRTC_FAILED, format!("{call} failed: {} ({code})", self.word(code)))
    }
}

/// A program in the library, destroyed with this.
struct Loaded<'a> {
    api: &'a Api,
    handle: Program,
}

impl<'a> Loaded<'a> {
    fn create(api: &'a Api, source: &SourceSet) -> Result<Self> {
        let main = source
            .files
            .get(&source.main)
            .ok_or_else(|| Error::internal(format!("a source set without its main file {}", source.main)))?;
        let text = c_string(main.as_str(), &source.main)?;
        let name = c_string(source.main.as_str(), "a file name")?;
        let headers: Vec<(CString, CString)> = source
            .files
            .iter()
            .filter(|(path, _)| **path != source.main)
            .map(|(path, text)| Ok((c_string(path.as_str(), "a file name")?, c_string(text.as_str(), path)?)))
            .collect::<Result<_>>()?;
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let texts: Vec<_> = headers.iter().map(|(_, text)| text.as_ptr()).collect();
        let mut handle = ptr::null_mut();
        // SAFETY: all strings are NUL-terminated and alive during the call, which copies them; both lists have the
        // length said.
        let code = unsafe {
            (api.create)(
                &mut handle,
                text.as_ptr(),
                name.as_ptr(),
                names.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        if code != 0 {
            return Err(api.failed("nvrtcCreateProgram", code));
        }
        Ok(Loaded { api, handle })
    }

    /// One of the library's outputs: ask for the size, then for the bytes.
    fn output(
        &self,
        size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
        get: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
        call: &str,
    ) -> Result<Vec<u8>> {
        let mut bytes = 0;
        // SAFETY: a live program and a valid place for the size.
        let code = unsafe { size(self.handle, &mut bytes) };
        if code != 0 {
            return Err(self.api.failed(call, code));
        }
        let mut out = vec![0u8; bytes];
        // SAFETY: `out` has the size that the library asked for.
        let code = unsafe { get(self.handle, out.as_mut_ptr().cast()) };
        if code != 0 {
            return Err(self.api.failed(call, code));
        }
        Ok(out)
    }
}

impl Drop for Loaded<'_> {
    fn drop(&mut self) {
        // SAFETY: created by `create`, destroyed here only.
        unsafe { (self.api.destroy)(&mut self.handle) };
    }
}

fn c_string(text: impl Into<Vec<u8>>, what: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(&NVRTC_COMPILE, format!("{what} holds a NUL byte")))
}

/// The loader's message without the path that stands before it anyway.
fn shorten(message: &str) -> String {
    match message.contains("cannot open shared object file") {
        true => "not there".into(),
        false => message.to_owned(),
    }
}
