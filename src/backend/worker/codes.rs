//! What can go wrong with a worker. A hang or a crash is the kernel's doing; the rest is the machine's or ours.

crate::codes! {
    START: "worker-start", CouldNotRun, "The confined process that runs kernels could not be started.";
    HANG: "worker-hang", No, "The process that runs kernels did not answer within its deadline and was killed: a kernel \
        that does not end, or a device that stopped responding.";
    CRASH: "worker-crash", No, "The process that runs kernels died while it worked. The message has the signal or exit \
        code, and the end of what it wrote to its error output.";
    STARVED: "worker-starved", CouldNotRun, "The machine has so much else to do that a confined process got too little of a \
        processor to finish in time. That says nothing about the kernel.";
    WEDGED: "worker-wedged", CouldNotRun, "A process that runs kernels could not be killed, usually because it waits inside \
        a device driver. Nothing more is run until it is gone: results beside it could not be trusted. If it stays, the \
        machine needs a restart.";
    PROTOCOL: "worker-protocol", Internal, "The process that runs kernels answered with something that it must not. A \
        kernel that overwrote its host's memory can do this too.";
    REMOTE: "worker-remote", Internal, "The process that runs kernels reported an error code that this program does not \
        know.";
}
