//! Compiling with NVRTC: sources from memory to a cubin, or to PTX for the stub check.
//!
//! No GPU and no toolkit is needed. The option list is fixed and part of every digest; includes resolve to the
//! `SourceSet` (given as in-memory headers) or to the compiler's own headers, never to the current folder.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_uint, c_void},
    path::{Path, PathBuf},
    ptr,
};

use serde::{Deserialize, Serialize};

use super::{
    EntryResources, NVRTC_ARCH, NVRTC_COMPILE, NVRTC_ENTRY, NVRTC_FAILED, NVRTC_MISSING, cache, cubin,
    find::{self, Attempt, Candidate, INSTALL, Places},
    library::{self, function_table},
    resources,
};
use crate::{
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

const COMPILATION_FAILED: c_int = 6;
const INVALID_OPTION: c_int = 5;
/// Lines of a compiler's log that an error repeats.
const LOG_LINES: usize = 24;
/// Characters of each.
const LOG_LINE: usize = 400;

/// Options of every compilation, besides the architecture and the header folders. Part of every digest.
pub const OPTIONS: &[&str] = &["--std=c++17", "--no-source-include", "--ptxas-options=-v"];

/// NVIDIA's run-time compiler, loaded. It is never unloaded: its threads and static state do not survive that.
pub struct Nvrtc {
    api: Api,
    path: PathBuf,
    from: String,
    version: (u32, u32),
    /// Size of the library file, telling patch releases apart; 0 when the loader chose the file.
    size: u64,
    includes: Vec<PathBuf>,
    supported: Vec<u32>,
}

/// A compiled kernel source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compiled {
    /// `sm_90`, `sm_90a` …
    pub arch: String,
    #[serde(skip)]
    pub cubin: Vec<u8>,
    /// The compiler's log: warnings and ptxas's report.
    pub log: String,
    /// In the order of the report.
    pub entries: Vec<EntryResources>,
    /// Version of the compiler, `13.5`.
    pub nvrtc: String,
    pub options: Vec<String>,
}

impl Nvrtc {
    /// Finds and loads NVRTC; see [`Places`] for the order.
    pub fn find() -> Result<Nvrtc> {
        Self::find_in(&Places::from_env())
    }

    pub fn find_in(places: &Places) -> Result<Nvrtc> {
        let (candidates, mut tried) = places.candidates();
        for candidate in candidates {
            match Self::open(&candidate) {
                Ok(found) => return Ok(found),
                Err(why) => tried.push(Attempt::new(candidate.path.display(), why)),
            }
        }
        let lines: Vec<_> = tried.iter().map(|a| format!("\n    {}: {}", a.place, a.why)).collect();
        Err(Error::new(&NVRTC_MISSING, "no usable NVRTC, the compiler for CUDA kernels")
            .expected("libnvrtc.so.12 or later")
            .found(format!("none; tried{}", lines.concat()))
            .hint(INSTALL))
    }

    fn open(candidate: &Candidate) -> Result<Nvrtc, String> {
        for part in find::builtins(&candidate.path) {
            // Some releases look for this part of themselves by its bare name; one that is loaded is found.
            // SAFETY: as below. Where it does not load, NVRTC says so itself.
            let _ = unsafe { library::open(&part) };
        }
        // SAFETY: it was found under NVRTC's name at a place that the user or the system's administrator controls.
        let mut symbol = unsafe { library::open(&candidate.path) }.map_err(|e| shorten(&e.to_string()))?;
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
        let version = (version.0.unsigned_abs(), version.1.unsigned_abs());
        let mut count = 0;
        // SAFETY: a valid place for an int.
        let code = unsafe { (api.supported_count)(&mut count) };
        let mut archs = vec![0; usize::try_from(count).unwrap_or(0).min(1024)];
        // SAFETY: the library writes `count` ints, and `archs` has room for as many unless it was cut to 1024, a
        // number of architectures that no version has; then nothing is asked for.
        if code != 0 || count > 1024 || unsafe { (api.supported)(archs.as_mut_ptr()) } != 0 {
            return Err("does not say which architectures it supports".into());
        }
        let includes = match bundle {
            Some(bundle) => bundled_headers(&bundle, version).map_err(|e| e.what().to_owned())?,
            None => candidate.includes.clone(),
        };
        if includes.is_empty() {
            return Err("has no cuda_fp16.h in it or beside it (the package nvidia-cuda-runtime has one)".into());
        }
        let size = candidate.path.canonicalize().and_then(std::fs::metadata).map_or(0, |m| m.len());
        Ok(Nvrtc {
            api,
            path: candidate.path.clone(),
            from: candidate.from.clone(),
            version,
            size,
            includes,
            supported: archs.into_iter().map(|a| a.unsigned_abs()).collect(),
        })
    }

    /// `13.5`.
    pub fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Folders that a confined compiler has to be able to read.
    pub fn folders(&self) -> Vec<PathBuf> {
        let library = self.path.parent().filter(|dir| dir.is_absolute()).map(Path::to_path_buf);
        library.into_iter().chain(self.includes.iter().cloned()).collect()
    }

    /// Which kind of place it was found in.
    pub fn from(&self) -> &str {
        &self.from
    }

    /// Compute capabilities that it compiles for, e.g. 90.
    pub fn supported(&self) -> &[u32] {
        &self.supported
    }

    /// Whether it compiles for `sm_90`, `sm_90a` and the like.
    pub fn supports(&self, arch: &str) -> bool {
        capability(arch).is_some_and(|n| self.supported.contains(&n))
    }

    /// What a cubin depends on besides sources and architecture: compiler and options.
    pub fn fingerprint(&self) -> String {
        format!("nvrtc {} ({} bytes) {}", self.version(), self.size, OPTIONS.join(" "))
    }

    /// Compiles to a cubin for `arch` (`sm_90`) and sees that `entries` are in it.
    pub fn compile(&self, source: &SourceSet, entries: &[String], arch: &str) -> Result<Compiled> {
        let (program, log) = self.build(source, arch, "sm_")?;
        let cubin = program.output(self.api.cubin_size, self.api.cubin, "nvrtcGetCUBIN")?;
        let kernels = cubin::kernels(&cubin)?;
        if let Some(missing) = entries.iter().find(|e| !kernels.contains_key(*e)) {
            let names: Vec<_> = kernels.keys().map(String::as_str).collect();
            return Err(Error::new(&NVRTC_ENTRY, format!("{} does not define the entry `{missing}`", source.main))
                .expected(format!("extern \"C\" __global__ void {missing}(const …Args a)"))
                .found(if names.is_empty() { "no entry at all".into() } else { names.join(", ") }));
        }
        Ok(Compiled {
            arch: arch.to_owned(),
            cubin,
            entries: resources::parse(&log),
            log,
            nvrtc: self.version(),
            options: OPTIONS.iter().map(|o| (*o).to_owned()).collect(),
        })
    }

    /// Compiles to PTX for the virtual architecture of `arch`: the text that [`super::ptx`] judges.
    pub fn ptx(&self, source: &SourceSet, arch: &str) -> Result<String> {
        let (program, _) = self.build(source, arch, "compute_")?;
        let mut ptx = program.output(self.api.ptx_size, self.api.ptx, "nvrtcGetPTX")?;
        while ptx.last() == Some(&0) {
            ptx.pop();
        }
        String::from_utf8(ptx).map_err(|_| Error::new(&NVRTC_FAILED, "NVRTC made PTX that is not UTF-8"))
    }

    fn build(&self, source: &SourceSet, arch: &str, target: &str) -> Result<(Loaded<'_>, String)> {
        crate::plan::rules::check(source)?;
        let suffix = arch.strip_prefix("sm_").filter(|_| self.supports(arch)).ok_or_else(|| {
            let known: Vec<_> = self.supported.iter().map(|n| format!("sm_{n}")).collect();
            Error::new(&NVRTC_ARCH, format!("NVRTC {} cannot compile for {arch}", self.version()))
                .expected(known.join(", "))
                .hint(INSTALL.replace("install", "install --upgrade"))
        })?;
        let mut options = vec![format!("--gpu-architecture={target}{suffix}")];
        options
            .extend(OPTIONS.iter().filter(|o| target == "sm_" || !o.starts_with("--ptxas")).map(|o| (*o).to_owned()));
        if self.version >= (12, 9) {
            // Where there is a driver, it keeps compilations by itself from this version on, without their log.
            options.push("--no-cache".into());
        }
        options.extend(self.includes.iter().map(|dir| format!("--include-path={}", dir.display())));

        let program = Loaded::create(&self.api, source)?;
        let options: Vec<CString> =
            options.into_iter().map(|o| c_string(o, "a compiler option")).collect::<Result<_>>()?;
        let pointers: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();
        // SAFETY: `pointers` holds as many C strings as is said, alive until the call returns.
        let code = unsafe { (self.api.compile)(program.handle, pointers.len() as c_int, pointers.as_ptr()) };
        let log = program.output(self.api.log_size, self.api.log, "nvrtcGetProgramLog")?;
        let log = String::from_utf8_lossy(&log).replace('\0', "");
        // The same sources give the same log: times are left out of it.
        let log: String = log.lines().filter(|l| !l.contains(": Compile time =")).flat_map(|l| [l, "\n"]).collect();
        match code {
            0 => Ok((program, log)),
            COMPILATION_FAILED => {
                Err(Error::new(&NVRTC_COMPILE, format!("{} does not compile for {arch}", source.main))
                    .found(excerpt(&log)))
            }
            INVALID_OPTION => {
                Err(Error::new(&NVRTC_ARCH, format!("NVRTC {} refused its options for {arch}", self.version()))
                    .found(excerpt(&log)))
            }
            _ => Err(self.api.failed("nvrtcCompileProgram", code).found(excerpt(&log))),
        }
    }
}

impl Api {
    fn failed(&self, call: &str, code: c_int) -> Error {
        // SAFETY: returns a static string for any code, or null.
        let text = unsafe { (self.error_string)(code) };
        let name = match text.is_null() {
            true => "an unknown code".into(),
            // SAFETY: not null, and a static C string as the library documents it.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy(),
        };
        Error::new(&NVRTC_FAILED, format!("{call} failed: {name} ({code})"))
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

/// Unpacks the compiler's own headers into the cache, once a version, and returns the include folders.
fn bundled_headers(bundle: &Bundle, version: (u32, u32)) -> Result<Vec<PathBuf>> {
    let dir = cache::directory()?.join("nvrtc-headers").join(format!("{}.{}", version.0, version.1));
    let marker = std::fs::read_to_string(dir.join(".nvrtc_headers_version")).unwrap_or_default();
    let is = |key: &str, value: u32| marker.lines().any(|l| l == format!("{key}={value}"));
    // The library writes the marker last. Without this look, a read-only cache could not be used.
    if !(is("cuda_major", version.0) && is("cuda_minor", version.1)) {
        std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
        let path = c_string(dir.display().to_string(), "the cache folder's path")?;
        let mut why = ptr::null();
        // Not overwriting first: another process may have just unpacked them and be compiling with them. Overwriting
        // second: what lies there may be damaged.
        let (skip, overwrite) = (0, 1);
        // SAFETY: a C string, and a valid place for a pointer to a message that the library owns.
        let mut install = |flags| unsafe { (bundle.install)(path.as_ptr(), flags, &mut why) };
        if install(skip) != 0 && install(overwrite) != 0 {
            let why = match why.is_null() {
                true => "no reason given".into(),
                // SAFETY: not null, and valid until this thread's next call into the library.
                false => unsafe { CStr::from_ptr(why) }.to_string_lossy(),
            };
            return Err(Error::new(
                &NVRTC_FAILED,
                format!("its headers cannot be unpacked to {}: {why}", dir.display()),
            ));
        }
    }
    Ok(vec![dir.clone(), dir.join("cccl")])
}

/// `sm_120a` → 120.
fn capability(arch: &str) -> Option<u32> {
    let digits = arch.strip_prefix("sm_")?;
    let digits = digits.strip_suffix(['a', 'f']).unwrap_or(digits);
    Some(digits).filter(|d| d.bytes().all(|b| b.is_ascii_digit())).and_then(|d| d.parse().ok())
}

fn c_string(text: impl Into<Vec<u8>>, what: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(&NVRTC_COMPILE, format!("{what} holds a NUL byte")))
}

fn excerpt(log: &str) -> String {
    let lines: Vec<_> = log.lines().filter(|l| !l.trim().is_empty()).collect();
    let mut out = String::from("the compiler's log:");
    for line in lines.iter().take(LOG_LINES) {
        out.push_str("\n    ");
        out.extend(line.chars().take(LOG_LINE));
    }
    if lines.len() > LOG_LINES {
        out.push_str(&format!("\n    … {} more lines", lines.len() - LOG_LINES));
    }
    out
}

/// The loader's message without the path that stands before it anyway.
fn shorten(message: &str) -> String {
    match message.contains("cannot open shared object file") {
        true => "not there".into(),
        false => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::capability;

    #[test]
    fn architectures_are_numbers_with_at_most_one_letter() {
        let cases = [("sm_90", Some(90)), ("sm_90a", Some(90)), ("sm_121a", Some(121)), ("sm_100f", Some(100))];
        for (arch, want) in cases {
            assert_eq!(capability(arch), want, "{arch}");
        }
        for bad in ["90", "sm_", "sm_9x", "compute_90", "sm_90aa", "sm_+9"] {
            assert_eq!(capability(bad), None, "{bad}");
        }
    }
}
