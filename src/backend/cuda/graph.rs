//! Captured graphs: what production runs. Captured from the stream, read back through the driver, replayed and timed.

use std::{collections::BTreeMap, ptr};

use serde::{Deserialize, Serialize};

use super::{
    CUDA_GRAPH, Cuda,
    driver::{CUDA_KERNEL_NODE_PARAMS, CUevent, CUgraph, CUgraphExec, CUgraphNode, Driver},
};
use crate::{
    backend::{Device, Launch, Traced},
    error::{Error, Result},
};

/// Times of single replays of a captured graph, by events on the stream, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    pub replays: u32,
    pub min_ms: f64,
    pub median_ms: f64,
    pub mean_ms: f64,
}

/// Most replays of one measurement: each has an event of its own.
const MAX_REPLAYS: u32 = 10_000;
/// Replays before the clock starts.
const WARM_UP: u32 = 3;

/// What messages call a graph.
fn title(launches: &[Launch]) -> String {
    match launches {
        [only] => format!("the graph of the launch `{}`", only.name),
        [first, .., last] => format!("the graph of the launches `{}` to `{}`", first.name, last.name),
        [] => "an empty graph".into(),
    }
}

struct Captured {
    api: Driver,
    graph: CUgraph,
    exec: CUgraphExec,
}

impl Drop for Captured {
    fn drop(&mut self) {
        // SAFETY: own handles, destroyed once; null ones were never made.
        unsafe {
            if !self.exec.is_null() {
                (self.api.graph_exec_destroy)(self.exec);
            }
            if !self.graph.is_null() {
                (self.api.graph_destroy)(self.graph);
            }
        }
    }
}

struct Events {
    api: Driver,
    list: Vec<CUevent>,
}

impl Drop for Events {
    fn drop(&mut self) {
        for event in &self.list {
            // SAFETY: own handles, destroyed once.
            unsafe { (self.api.event_destroy)(*event) };
        }
    }
}

impl Cuda {
    /// Captures `launches`, reads the graph's kernels back in their order, replays it once and waits.
    pub(super) fn replay(&mut self, launches: &[Launch]) -> Result<Vec<Traced>> {
        if launches.is_empty() {
            return Ok(Vec::new());
        }
        let captured = self.capture(launches)?;
        let traced = self.read_back(&captured)?;
        self.graph = Some(title(launches));
        let ran = self.run(&captured, 1).and_then(|()| self.wait(Some(self.deadline())));
        self.graph = None;
        self.keep_if_broken(captured);
        ran.map(|()| traced)
    }

    /// Measures replays of `launches` as one graph, after a few unmeasured ones. The device's own clock: no host time
    /// is in it as long as a replay takes longer than its submission, some 10 µs.
    pub fn time(&mut self, launches: &[Launch], replays: u32) -> Result<Timing> {
        if launches.is_empty() || replays == 0 || replays > MAX_REPLAYS {
            return Err(Error::internal(format!("timing {} launches {replays} times", launches.len())));
        }
        self.sync()?;
        let captured = self.capture(launches)?;
        let mut events = Events { api: self.api, list: Vec::new() };
        self.graph = Some(title(launches));
        let ran = self.run_timed(&captured, &mut events, replays);
        self.graph = None;
        self.keep_if_broken(captured);
        if self.is_broken() {
            std::mem::forget(events);
            ran?;
            return Err(Error::internal("a broken device without an error"));
        }
        ran?;
        let mut times = Vec::with_capacity(replays as usize);
        for pair in events.list.windows(2) {
            let mut ms = 0f32;
            // SAFETY: two recorded events of this context, both complete, and a valid place for a float.
            let result = unsafe { (self.api.event_elapsed)(&mut ms, pair[0], pair[1]) };
            self.done("cuEventElapsedTime", result)?;
            times.push(f64::from(ms));
        }
        times.sort_by(f64::total_cmp);
        Ok(Timing {
            replays,
            min_ms: times[0],
            median_ms: times[times.len() / 2],
            mean_ms: times.iter().sum::<f64>() / times.len() as f64,
        })
    }

    fn run_timed(&mut self, captured: &Captured, events: &mut Events, replays: u32) -> Result<()> {
        for _ in 0..=replays {
            let mut event = ptr::null_mut();
            // SAFETY: a valid place for a handle.
            let result = unsafe { (self.api.event_create)(&mut event, 0) };
            self.done("cuEventCreate", result)?;
            events.list.push(event);
        }
        self.run(captured, WARM_UP)?;
        // The first time-out shows here, before thousands of replays stand in a queue that blocks.
        self.wait(Some(self.deadline()))?;
        for (i, event) in events.list.iter().enumerate() {
            if i > 0 {
                self.run(captured, 1)?;
            }
            // SAFETY: a live event and stream.
            let result = unsafe { (self.api.event_record)(*event, self.stream) };
            self.done("cuEventRecord", result)?;
        }
        self.wait(Some(self.deadline()))
    }

    /// Destroying what a lost device still runs would wait for it.
    fn keep_if_broken(&self, captured: Captured) {
        if self.is_broken() {
            std::mem::forget(captured);
        }
    }

    fn capture(&mut self, launches: &[Launch]) -> Result<Captured> {
        const THREAD_LOCAL: i32 = 1;
        // SAFETY: an idle stream of this thread's context.
        let result = unsafe { (self.api.capture_begin)(self.stream, THREAD_LOCAL) };
        self.done("cuStreamBeginCapture", result)?;
        let enqueued: Result<Vec<_>> = launches.iter().map(|launch| self.enqueue(launch)).collect();
        let mut captured = Captured { api: self.api, graph: ptr::null_mut(), exec: ptr::null_mut() };
        // SAFETY: ends the capture begun above, whatever became of it.
        let result = unsafe { (self.api.capture_end)(self.stream, &mut captured.graph) };
        enqueued?;
        self.done("cuStreamEndCapture", result)?;
        // SAFETY: a complete graph and a valid place for a handle.
        let result = unsafe { (self.api.graph_instantiate)(&mut captured.exec, captured.graph, 0) };
        self.done("cuGraphInstantiate", result)?;
        Ok(captured)
    }

    fn run(&mut self, captured: &Captured, times: u32) -> Result<()> {
        for _ in 0..times {
            // SAFETY: an instantiated graph and a live stream; the graph outlives the wait that follows.
            let result = unsafe { (self.api.graph_launch)(captured.exec, self.stream) };
            self.done("cuGraphLaunch", result)?;
        }
        Ok(())
    }

    /// The graph's kernels in the order in which they run, as the driver has them.
    fn read_back(&mut self, captured: &Captured) -> Result<Vec<Traced>> {
        let refuse = |what: String| Error::new(&CUDA_GRAPH, what).expected("one chain of kernel launches");
        let graph = captured.graph;
        let (mut nodes, mut roots, mut edges) = (0, 0, 0);
        // SAFETY: null lists ask for their lengths only.
        unsafe {
            let result = (self.api.graph_nodes)(graph, ptr::null_mut(), &mut nodes);
            self.done("cuGraphGetNodes", result)?;
            let result = (self.api.graph_roots)(graph, ptr::null_mut(), &mut roots);
            self.done("cuGraphGetRootNodes", result)?;
            let result = (self.api.graph_edges)(graph, ptr::null_mut(), ptr::null_mut(), &mut edges);
            self.done("cuGraphGetEdges", result)?;
        }
        if roots != 1 || edges + 1 != nodes {
            return Err(refuse("the captured graph is no chain".into())
                .found(format!("{nodes} nodes, {roots} roots, {edges} edges")));
        }
        let mut root: CUgraphNode = ptr::null_mut();
        let mut from: Vec<CUgraphNode> = vec![ptr::null_mut(); edges];
        let mut to = from.clone();
        // SAFETY: lists of exactly the lengths that the driver gave.
        unsafe {
            let result = (self.api.graph_roots)(graph, &mut root, &mut roots);
            self.done("cuGraphGetRootNodes", result)?;
            if edges > 0 {
                let result = (self.api.graph_edges)(graph, from.as_mut_ptr(), to.as_mut_ptr(), &mut edges);
                self.done("cuGraphGetEdges", result)?;
            }
        }
        let next: BTreeMap<CUgraphNode, CUgraphNode> = from.into_iter().zip(to).collect();
        let mut out = Vec::with_capacity(nodes);
        let mut node = Some(root);
        while let Some(at) = node.filter(|_| out.len() < nodes) {
            out.push(self.kernel_node(at)?);
            node = next.get(&at).copied();
        }
        match out.len() == nodes {
            true => Ok(out),
            false => Err(refuse("the captured graph is no chain".into())
                .found(format!("{nodes} nodes, {} of them in line", out.len()))),
        }
    }

    fn kernel_node(&mut self, node: CUgraphNode) -> Result<Traced> {
        const KERNEL: i32 = 0;
        let mut kind = -1;
        // SAFETY: a node of a live graph, a valid place for an int.
        let result = unsafe { (self.api.node_type)(node, &mut kind) };
        self.done("cuGraphNodeGetType", result)?;
        if kind != KERNEL {
            return Err(Error::new(&CUDA_GRAPH, "the captured graph holds something that is no kernel")
                .expected("kernel launches only")
                .found(format!("a node of type {kind}")));
        }
        let mut params = CUDA_KERNEL_NODE_PARAMS {
            func: ptr::null_mut(),
            gridDimX: 0,
            gridDimY: 0,
            gridDimZ: 0,
            blockDimX: 0,
            blockDimY: 0,
            blockDimZ: 0,
            sharedMemBytes: 0,
            kernelParams: ptr::null_mut(),
            extra: ptr::null_mut(),
            kern: ptr::null_mut(),
            ctx: ptr::null_mut(),
        };
        // SAFETY: a kernel node of a live graph, and a struct of the layout that `_v2` writes.
        let result = unsafe { (self.api.node_kernel)(node, &mut params) };
        self.done("cuGraphKernelNodeGetParams", result)?;
        if params.func.is_null() {
            return Err(Error::new(&CUDA_GRAPH, "the captured graph holds a kernel that no module of ours has"));
        }
        Ok(Traced {
            entry: self.function_name(params.func)?,
            grid: [params.gridDimX, params.gridDimY, params.gridDimZ],
            block: [params.blockDimX, params.blockDimY, params.blockDimZ],
            shared: params.sharedMemBytes,
        })
    }
}
