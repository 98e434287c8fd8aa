//! NVIDIA devices: compiling with NVRTC, judging PTX, and running cubins through the driver.
//!
//! Nothing here is linked: `libcuda` and `libnvrtc` are opened when they are there, so that one binary builds and
//! starts on a machine without CUDA and says so. NVRTC needs no GPU; [`Cuda`] does. Apart from the emulator's, all of
//! the crate's `unsafe` is in this folder: [`driver`] and [`library`] hold the function tables, their callers hand
//! them pointers into memory that they own.
//!
//! 1. [`find`] looks for NVRTC, [`nvrtc`] has a confined process compile a `SourceSet` with it, [`cache`] keeps the cubins.
//! 2. [`ptx`] says which struct members an entry's stores reach, and refuses assembly that leaves its statement.
//! 3. [`device`] is the `Device`; [`graph`] captures, reads back, replays and times; [`upload`] brings files in.
//! 4. [`sanitizer`] runs a command under compute-sanitizer.

pub mod cache;
mod cubin;
pub mod device;
mod driver;
pub mod find;
mod graph;
mod library;
pub mod nvrtc;
pub mod ptx;
mod resources;
pub mod sanitizer;
mod upload;

pub use cache::{Cache, Cubins, Origin};
pub use device::Cuda;
pub use graph::Timing;
pub use nvrtc::{Compiled, Nvrtc};
pub use resources::EntryResources;

crate::codes! {
    NO_DEVICE: "no-device", CouldNotRun, "There is no CUDA device that this process could use: no NVIDIA driver on the \
        loader path, or a driver that finds no GPU. Nothing was measured and nothing was judged; kernels can still be \
        compiled, and run on the CPU emulator. `assay doctor` says what is missing.";
    CUDA_DRIVER_OLD: "cuda-driver-old", CouldNotRun, "The NVIDIA driver lacks a function that assay reads launches back \
        with. It needs a driver of CUDA 12.3 or later.";
    CUDA_DRIVER: "cuda-driver", CouldNotRun, "A call into the CUDA driver failed for a reason that says nothing about \
        the kernel. The message has the call and the driver's own name for the failure.";
    CUDA_MEMORY: "cuda-memory", CouldNotRun, "The device has not enough free memory for an allocation. Use a shorter \
        context or a device with more memory, or end the other processes that hold some.";
    CUDA_CUBIN: "cuda-cubin", CouldNotRun, "The driver does not take a compiled module: it is damaged, or it was \
        compiled for another architecture or by an NVRTC newer than the driver.";
    CUDA_ENTRY: "cuda-entry", No, "A launch names an entry that its module does not have, or whose parameter is not the \
        argument struct of the contract.";
    CUDA_LAUNCH: "cuda-launch", No, "A kernel could not be launched as its manifest says, or died while it ran (an \
        address out of bounds, a misaligned access, a trap). The message names the launch. The device is lost to this \
        process after such a failure.";
    CUDA_TIMEOUT: "cuda-timeout", No, "A kernel did not end before its deadline. It cannot be stopped: the process that \
        launched it must end.";
    CUDA_GRAPH: "cuda-graph", No, "A captured graph is not what was launched: it holds something that is no kernel, or \
        its kernels do not form one chain.";
    NVRTC_MISSING: "nvrtc-missing", CouldNotRun, "No usable NVRTC, NVIDIA's run-time compiler, was found. It needs no \
        GPU: `pip install nvidia-cuda-nvrtc` into a virtual environment is enough, or a CUDA toolkit, or ASSAY_NVRTC \
        set to the library.";
    NVRTC_ARCH: "nvrtc-arch", CouldNotRun, "This NVRTC cannot compile for the architecture asked for. A newer one (or, \
        for old devices, an older one) can.";
    NVRTC_COMPILE: "nvrtc-compile", No, "A kernel does not compile for a CUDA device. The message holds the beginning of \
        the compiler's log.";
    NVRTC_ENTRY: "nvrtc-entry", No, "A source compiles, but does not define an entry that its manifest launches. Entries \
        are `extern \"C\" __global__ void NAME(const XArgs a)`.";
    NVRTC_FAILED: "nvrtc-failed", CouldNotRun, "NVRTC itself failed, for a reason that says nothing about the kernel: out \
        of memory, headers that cannot be written, an internal error.";
    NVRTC_LIMIT: "nvrtc-limit", No, "A kernel asks too much of NVRTC: its compilation does not end in time, needs more \
        memory than a compiler gets, or gives more code or messages than a kernel has any use for. Templates without \
        end and huge tables do that.";
    NVRTC_STARVED: "nvrtc-starved", CouldNotRun, "The machine has so much else to do that NVRTC got too little of a processor. \
        That says nothing about the kernel.";
    NVRTC_CRASH: "nvrtc-crash", No, "The process in which NVRTC compiled a kernel died. Nothing else was lost with it. The \
        message has the kernel and the signal; a kernel that needs more memory than a compiler gets can end so too.";
    PTX_SYNTAX: "ptx-syntax", CouldNotRun, "The PTX that the compiler made is not in the form that assay can read, so it \
        cannot say whether a kernel is a stub. Please report it with the kernel.";
    PTX_STUB: "ptx-stub", No, "A kernel has no reachable store that could write an output argument: it is a stub.";
    PTX_ASM: "ptx-asm", No, "Inline assembly does more than compute: a directive other than .reg, or braces that close \
        what they did not open. It could define code or data that no check sees.";
    PTX_VARIABLE: "ptx-variable", No, "The compiled kernel can write to a variable that keeps its value from launch to \
        launch. Scratch memory is what a kernel may keep values in, and nothing in it may outlive the call.";
    CACHE_DIR: "cache-dir", CouldNotRun, "assay found no folder to keep compiled kernels in, or cannot use it. Set \
        ASSAY_CACHE_DIR to a writable folder.";
    SANITIZER: "sanitizer", CouldNotRun, "compute-sanitizer is not installed, or could not watch the device. What it \
        would have found is unknown.";
}
