//! What the emulator reports. Codes of kind `No` are a kernel's faults; `CouldNotRun` are the machine's.

crate::codes! {
    NO_COMPILER: "emulator-no-compiler", CouldNotRun, "The CPU emulator compiles kernels with the host's C++ compiler and \
        found none. It tries $CXX, then g++, clang++ and c++. On Debian or Ubuntu `apt install g++` is enough. Without \
        one, kernels run on a CUDA device only and everything else on the oracle.";
    CACHE: "emulator-cache", CouldNotRun, "The emulator keeps compiled kernels in $ASSAY_CACHE_DIR, else in the user's \
        cache directory, and could not write there.";
    COMPILE: "emulator-compile", No, "The host C++ compiler refused the kernel. An entry has the form `extern \"C\" \
        __global__ void NAME(const XArgs a)` with the struct of the generated header.";
    COMPILE_TIME: "emulator-compile-time", No, "The host C++ compiler did not finish with the kernel in time: two minutes \
        of a processor.";
    COMPILE_STARVED: "emulator-compile-starved", CouldNotRun, "The machine has so much else to do that the host C++ compiler \
        got too little of a processor. That says nothing about the kernel.";
    STATE: "kernel-state", No, "A kernel keeps variables between launches. What it computes must follow from its arguments \
        alone, or a verdict says nothing about its next launch. Tables are `const`; memory that launches of one variant \
        share is scratch, which the manifest asks for.";
    SHARED: "kernel-shared", No, "A kernel declares more static shared memory than a block can have on any device: 48 KiB. What \
        needs more asks for it in the manifest.";
    HOST_CALL: "kernel-host-call", No, "A kernel calls a function that is neither in its sources nor CUDA's. On a device it \
        would not link; on the emulator it would be the host's.";
    LOAD: "emulator-load", CouldNotRun, "The dynamic loader refused a compiled kernel, or does not say where the \
        thread-locals of one lie, among which is all static shared memory.";
    NO_ENTRY: "emulator-no-entry", No, "The compiled kernel has no entry of this name.";
    ARGS: "emulator-args", No, "The kernel's argument struct has another size than the contract's. Include the generated \
        header `args/<op>.h` and take its struct by value.";
    LAUNCH: "emulator-launch", No, "The launch asks for what no GPU has: more than 1024 threads in a block, a grid or \
        block dimension of 0, or more dynamic shared memory than an SM offers.";
    BUFFER: "emulator-buffer", Internal, "A buffer was used that does not exist, or beyond its size. This is a bug in \
        assay.";
    MEMORY: "emulator-memory", CouldNotRun, "The operating system has no more memory for the emulator's buffers.";
    OUT_OF_BOUNDS: "kernel-out-of-bounds", No, "A kernel touched memory outside every buffer. Each buffer ends at an \
        inaccessible page; the few bytes between its last one and that page, and those before its first, are checked \
        after the launch.";
    READ_ONLY: "kernel-wrote-input", No, "A kernel wrote what it may only read: an input, a weight or the step's counts. \
        Others read them at the same time, so putting the old value back is no excuse.";
    ARRAY_BOUNDS: "kernel-array-bounds", No, "A kernel indexed an array of known size outside its bounds.";
    MISALIGNED: "kernel-misaligned", No, "A kernel accessed memory at an address that its type's alignment rules out: \
        float4 and uint4 need 16 bytes, float2 8, float 4. A device reports this as `misaligned address`.";
    STACK: "kernel-stack", No, "A kernel thread used more stack than the emulator gives it: its local arrays are too big \
        or it recurses.";
    BARRIER: "kernel-barrier", No, "Some threads of a block wait at a barrier that others never reach, because they \
        returned or left a loop earlier. Every thread of a block must reach every __syncthreads().";
    BARRIER_SITES: "kernel-barrier-sites", No, "The threads of a block wait at different __syncthreads() calls. A device \
        may let this pass, with each half seeing the other's memory half-written.";
    WARP_MASK: "kernel-warp-mask", No, "The lanes of a warp operation disagree: each lane must name itself, all lanes \
        named must execute the same operation with the same mask, and none may have returned.";
    DEADLOCK: "kernel-deadlock", No, "No thread of a block can go on. The message says where each waits.";
    ASYNC_COPY: "kernel-async-copy", No, "A thread returned although a cp.async of its own was never waited for, or gave \
        it an address that is not on 16 bytes. Commit the group and wait for it before the data is read.";
    TRAP: "kernel-trap", No, "A kernel called __trap(), failed an assert or executed an instruction that the CPU refuses, \
        such as an integer division by zero.";
    TIME_LIMIT: "kernel-time-limit", No, "A launch did not end within its time limit: an endless loop, or a spin on memory \
        that no other thread will write.";
}
