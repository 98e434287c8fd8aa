//! The CUDA driver's functions, and its failures as errors.
//!
//! cudarc has the driver's types. The functions are taken from `libcuda` directly: cudarc's own wrappers panic where
//! the library or one of them is missing, and return result codes as a Rust `enum`.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void},
    ptr,
};

pub(super) use cudarc::driver::sys::{
    CUDA_KERNEL_NODE_PARAMS, CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUgraphNode,
    CUmodule, CUstream,
};

use super::{
    CUDA_DRIVER, CUDA_DRIVER_OLD, NO_DEVICE,
    library::{self, function_table},
};
use crate::error::{Error, Result};

function_table! {
    /// Every function here exists since driver 545 (CUDA 12.3). Names with `_v2` are the ABI that current headers use.
    Driver {
        init = "cuInit"(c_uint) -> c_int;
        driver_version = "cuDriverGetVersion"(*mut c_int) -> c_int;
        error_name = "cuGetErrorName"(c_int, *mut *const c_char) -> c_int;
        error_string = "cuGetErrorString"(c_int, *mut *const c_char) -> c_int;

        device_count = "cuDeviceGetCount"(*mut c_int) -> c_int;
        device_get = "cuDeviceGet"(*mut CUdevice, c_int) -> c_int;
        device_name = "cuDeviceGetName"(*mut c_char, c_int, CUdevice) -> c_int;
        device_memory = "cuDeviceTotalMem_v2"(*mut usize, CUdevice) -> c_int;
        device_attribute = "cuDeviceGetAttribute"(*mut c_int, c_int, CUdevice) -> c_int;
        context_retain = "cuDevicePrimaryCtxRetain"(*mut CUcontext, CUdevice) -> c_int;
        context_release = "cuDevicePrimaryCtxRelease_v2"(CUdevice) -> c_int;
        context_set = "cuCtxSetCurrent"(CUcontext) -> c_int;

        memory_info = "cuMemGetInfo_v2"(*mut usize, *mut usize) -> c_int;
        alloc = "cuMemAlloc_v2"(*mut CUdeviceptr, usize) -> c_int;
        free = "cuMemFree_v2"(CUdeviceptr) -> c_int;
        host_alloc = "cuMemHostAlloc"(*mut *mut c_void, usize, c_uint) -> c_int;
        host_free = "cuMemFreeHost"(*mut c_void) -> c_int;
        host_register = "cuMemHostRegister_v2"(*mut c_void, usize, c_uint) -> c_int;
        host_device_pointer = "cuMemHostGetDevicePointer_v2"(*mut CUdeviceptr, *mut c_void, c_uint) -> c_int;
        upload = "cuMemcpyHtoDAsync_v2"(CUdeviceptr, *const c_void, usize, CUstream) -> c_int;
        download = "cuMemcpyDtoHAsync_v2"(*mut c_void, CUdeviceptr, usize, CUstream) -> c_int;
        copy = "cuMemcpyDtoDAsync_v2"(CUdeviceptr, CUdeviceptr, usize, CUstream) -> c_int;
        fill32 = "cuMemsetD32Async"(CUdeviceptr, c_uint, usize, CUstream) -> c_int;

        module_load = "cuModuleLoadData"(*mut CUmodule, *const c_void) -> c_int;
        module_unload = "cuModuleUnload"(CUmodule) -> c_int;
        module_function = "cuModuleGetFunction"(*mut CUfunction, CUmodule, *const c_char) -> c_int;
        function_name = "cuFuncGetName"(*mut *const c_char, CUfunction) -> c_int;
        function_attribute = "cuFuncGetAttribute"(*mut c_int, c_int, CUfunction) -> c_int;
        function_set_attribute = "cuFuncSetAttribute"(CUfunction, c_int, c_int) -> c_int;
        launch = "cuLaunchKernel"(
            CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream,
            *mut *mut c_void, *mut *mut c_void
        ) -> c_int;

        stream_create = "cuStreamCreate"(*mut CUstream, c_uint) -> c_int;
        stream_destroy = "cuStreamDestroy_v2"(CUstream) -> c_int;
        stream_query = "cuStreamQuery"(CUstream) -> c_int;
        stream_write = "cuStreamWriteValue32_v2"(CUstream, CUdeviceptr, c_uint, c_uint) -> c_int;
        capture_begin = "cuStreamBeginCapture_v2"(CUstream, c_int) -> c_int;
        capture_end = "cuStreamEndCapture"(CUstream, *mut CUgraph) -> c_int;
        event_create = "cuEventCreate"(*mut CUevent, c_uint) -> c_int;
        event_record = "cuEventRecord"(CUevent, CUstream) -> c_int;
        event_record_with_flags = "cuEventRecordWithFlags"(CUevent, CUstream, c_uint) -> c_int;
        event_query = "cuEventQuery"(CUevent) -> c_int;
        event_elapsed = "cuEventElapsedTime"(*mut f32, CUevent, CUevent) -> c_int;
        event_destroy = "cuEventDestroy_v2"(CUevent) -> c_int;

        graph_nodes = "cuGraphGetNodes"(CUgraph, *mut CUgraphNode, *mut usize) -> c_int;
        graph_roots = "cuGraphGetRootNodes"(CUgraph, *mut CUgraphNode, *mut usize) -> c_int;
        graph_edges = "cuGraphGetEdges"(CUgraph, *mut CUgraphNode, *mut CUgraphNode, *mut usize) -> c_int;
        node_type = "cuGraphNodeGetType"(CUgraphNode, *mut c_int) -> c_int;
        node_kernel = "cuGraphKernelNodeGetParams_v2"(CUgraphNode, *mut CUDA_KERNEL_NODE_PARAMS) -> c_int;
        graph_instantiate = "cuGraphInstantiateWithFlags"(*mut CUgraphExec, CUgraph, c_ulonglong) -> c_int;
        graph_launch = "cuGraphLaunch"(CUgraphExec, CUstream) -> c_int;
        graph_exec_destroy = "cuGraphExecDestroy"(CUgraphExec) -> c_int;
        graph_destroy = "cuGraphDestroy"(CUgraph) -> c_int;
    }
}

/// Result codes that are told apart (cuda.h, `CUresult`).
pub(super) mod code {
    use std::ffi::c_int;

    pub const OUT_OF_MEMORY: c_int = 2;
    pub const INVALID_IMAGE: c_int = 200;
    pub const NO_BINARY: c_int = 209;
    pub const NOT_READY: c_int = 600;
    pub const OUT_OF_RESOURCES: c_int = 701;
    pub const INVALID_VALUE: c_int = 1;

    /// After these the context is lost: every later call returns the same.
    pub fn sticky(code: c_int) -> bool {
        matches!(code, 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 999)
    }
}

/// Device attributes (cuda.h, `CUdevice_attribute`).
pub(super) mod attribute {
    use std::ffi::c_int;

    pub const MAX_THREADS: c_int = 1;
    pub const MAX_BLOCK: [c_int; 3] = [2, 3, 4];
    pub const MAX_GRID: [c_int; 3] = [5, 6, 7];
    pub const CAPABILITY: [c_int; 2] = [75, 76];
    pub const MAX_SHARED_OPT_IN: c_int = 97;
}

/// Function attributes (cuda.h, `CUfunction_attribute`).
pub(super) mod function {
    use std::ffi::c_int;

    pub const MAX_THREADS: c_int = 0;
    pub const STATIC_SHARED: c_int = 1;
    pub const MAX_DYNAMIC_SHARED: c_int = 8;
}

impl Driver {
    /// Opens `libcuda` and initialises it. Errors say that there is no device, and why.
    pub fn open() -> Result<Driver> {
        // SAFETY: the loader finds the installed driver under this name.
        let opened =
            ["libcuda.so.1", "libcuda.so"].iter().find_map(|name| unsafe { library::open(name.as_ref()) }.ok());
        let Some(symbol) = opened else {
            return Err(no_device("no libcuda.so.1 on the loader's path: no NVIDIA driver is installed")
                .hint("install the NVIDIA driver, or go on with `--backend emulator`"));
        };
        // SAFETY: the signatures are cuda.h's, with integers for its enumerations, which have an int's size.
        let driver = unsafe { Driver::load(symbol) }.map_err(|name| {
            Error::new(&CUDA_DRIVER_OLD, "the NVIDIA driver is too old for assay")
                .expected("CUDA 12.3 (driver 545) or later")
                .found(format!("a libcuda without {name}"))
                .hint("update the NVIDIA driver")
        })?;
        // SAFETY: no pointers.
        match unsafe { (driver.init)(0) } {
            0 => Ok(driver),
            code => Err(no_device(&format!("cuInit: {}", driver.describe(code)))
                .hint("`nvidia-smi` shows what the driver sees; CUDA_VISIBLE_DEVICES may hide devices")),
        }
    }

    /// `CUDA_ERROR_ILLEGAL_ADDRESS (700): an illegal memory access was encountered`.
    pub fn describe(&self, code: c_int) -> String {
        let text = |get: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text = ptr::null();
            // SAFETY: a valid place for a pointer to a static string.
            let found = unsafe { get(code, &mut text) } == 0 && !text.is_null();
            // SAFETY: a static C string of the driver.
            found.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        match (text(self.error_name), text(self.error_string)) {
            (Some(name), Some(string)) => format!("{name} ({code}): {string}"),
            _ => format!("error {code}, which this driver does not name"),
        }
    }

    /// A call whose failure says nothing about a kernel.
    pub fn check(&self, call: &str, code: c_int) -> Result<()> {
        match code {
            0 => Ok(()),
            _ => Err(Error::new(&CUDA_DRIVER, format!("{call} failed: {}", self.describe(code)))),
        }
    }

    pub fn attribute(&self, device: CUdevice, attribute: c_int) -> Result<u32> {
        let mut value = 0;
        // SAFETY: a valid place for an int.
        let code = unsafe { (self.device_attribute)(&mut value, attribute, device) };
        self.check("cuDeviceGetAttribute", code)?;
        Ok(value.unsigned_abs())
    }
}

pub(super) fn no_device(why: &str) -> Error {
    Error::new(&NO_DEVICE, "no CUDA device").found(why)
}
