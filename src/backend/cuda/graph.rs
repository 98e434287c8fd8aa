//! Captured graphs: what production runs. Captured from the stream, read back through the driver, replayed and timed.

use std::{collections::BTreeMap, ptr, rc::Rc};

use serde::{Deserialize, Serialize};

use super::{
    CUDA_GRAPH, Cuda,
    driver::{CUDA_KERNEL_NODE_PARAMS, CUevent, CUgraph, CUgraphExec, CUgraphNode, Driver},
};
use crate::{
    backend::{Device, GraphId, Launch, Traced},
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
/// Replays of a graph whose launches are timed one by one.
const TIMED: u32 = 5;
/// Replays before the clock starts.
const WARM_UP: u32 = 3;

/// What messages call a graph.
fn title(launches: &[Launch]) -> Rc<str> {
    match launches {
        [only] => format!("the graph of the launch `{}`", only.name).into(),
        [first, .., last] => format!("the graph of the launches `{}` to `{}`", first.name, last.name).into(),
        [] => "an empty graph".into(),
    }
}

/// A graph that stays: what [`Device::record`] keeps.
pub(super) struct Kept {
    captured: Option<Captured>,
    title: Rc<str>,
    clock: Option<Clock>,
}

/// The events around a graph's replay.
struct Clock {
    api: Driver,
    from: CUevent,
    to: CUevent,
}

impl Clock {
    fn new(cuda: &mut Cuda) -> Result<Clock> {
        let from = cuda.event()?;
        let mut clock = Clock { api: cuda.api, from, to: ptr::null_mut() };
        clock.to = cuda.event()?;
        Ok(clock)
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        for event in [self.from, self.to] {
            if !event.is_null() {
                // SAFETY: an own handle, destroyed once.
                unsafe { (self.api.event_destroy)(event) };
            }
        }
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
    /// Captures `launches` and reads the graph's kernels back in their order.
    pub(super) fn keep(&mut self, launches: &[Launch]) -> Result<(GraphId, Vec<Traced>)> {
        let kept = match launches {
            // The driver takes no empty capture for a graph.
            [] => Kept { captured: None, title: title(launches), clock: None },
            _ => {
                let captured = self.capture(launches, &[])?;
                let clock = Clock::new(self)?;
                Kept { captured: Some(captured), title: title(launches), clock: Some(clock) }
            }
        };
        let traced = match &kept.captured {
            Some(captured) => self.read_back(captured)?,
            None => Vec::new(),
        };
        let id = match self.graphs.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.graphs.push(None);
                self.graphs.len() - 1
            }
        };
        self.graphs[id] = Some(kept);
        Ok((GraphId(id as u32), traced))
    }

    fn kept(&self, id: GraphId) -> Result<&Kept> {
        let slot = self.graphs.get(id.0 as usize).and_then(Option::as_ref);
        slot.ok_or_else(|| Error::internal(format!("CUDA graph {} does not exist or was forgotten", id.0)))
    }

    /// Enqueues a kept graph between two events. Until the next wait has ended, a failure is this graph's.
    pub(super) fn replay_kept(&mut self, id: GraphId) -> Result<()> {
        self.usable()?;
        let kept = self.kept(id)?;
        let (Some(captured), Some(clock)) = (&kept.captured, &kept.clock) else { return Ok(()) };
        let (exec, from, to, title) = (captured.exec, clock.from, clock.to, kept.title.clone());
        self.graph = Some(title);
        // SAFETY: an instantiated graph, live events and a live stream; all of them outlive the next wait.
        unsafe {
            let result = (self.api.event_record)(from, self.stream);
            self.done("cuEventRecord", result)?;
            let result = (self.api.graph_launch)(exec, self.stream);
            self.done("cuGraphLaunch", result)?;
            let result = (self.api.event_record)(to, self.stream);
            self.done("cuEventRecord", result)?;
        }
        self.running = Some((from, to));
        Ok(())
    }

    /// After a wait: the replay that went on before it has ended.
    pub(super) fn end_replay(&mut self) -> Result<()> {
        self.graph = None;
        let Some((from, to)) = self.running.take() else { return Ok(()) };
        let mut ms = 0f32;
        // SAFETY: two recorded events of this context, both complete, and a valid place for a float.
        let result = unsafe { (self.api.event_elapsed)(&mut ms, from, to) };
        self.done("cuEventElapsedTime", result)?;
        self.replayed += f64::from(ms);
        Ok(())
    }

    pub(super) fn drop_kept(&mut self, id: GraphId) -> Result<()> {
        self.kept(id)?;
        self.graphs[id.0 as usize] = None;
        Ok(())
    }

    /// Runs `launches` as one graph with an event between each two, and gives the time between these: a launch's own and
    /// that of one event, on average over [`TIMED`] replays.
    pub(super) fn time_launches(&mut self, launches: &[Launch]) -> Result<Vec<f32>> {
        if launches.is_empty() {
            return Ok(Vec::new());
        }
        self.sync()?;
        let mut events = Events { api: self.api, list: Vec::new() };
        for _ in 0..=launches.len() {
            let event = self.event()?;
            events.list.push(event);
        }
        let captured = self.capture(launches, &events.list)?;
        self.graph = Some(title(launches));
        let ran = self.time_between(&captured, &events);
        self.graph = None;
        self.keep_if_broken(captured);
        if self.is_broken() {
            std::mem::forget(events);
            ran?;
            return Err(Error::internal("a broken device without an error"));
        }
        ran
    }

    fn time_between(&mut self, captured: &Captured, events: &Events) -> Result<Vec<f32>> {
        self.run(captured, 1)?;
        self.wait(Some(self.deadline()))?;
        let mut out = vec![0f32; events.list.len() - 1];
        for _ in 0..TIMED {
            self.run(captured, 1)?;
            self.wait(Some(self.deadline()))?;
            for (sum, pair) in out.iter_mut().zip(events.list.windows(2)) {
                let mut ms = 0f32;
                // SAFETY: two recorded events of this context, both complete, and a valid place for a float.
                let result = unsafe { (self.api.event_elapsed)(&mut ms, pair[0], pair[1]) };
                self.done("cuEventElapsedTime", result)?;
                *sum += ms / TIMED as f32;
            }
        }
        Ok(out)
    }

    pub(super) fn event(&mut self) -> Result<CUevent> {
        let mut event = ptr::null_mut();
        // SAFETY: a valid place for a handle.
        let result = unsafe { (self.api.event_create)(&mut event, 0) };
        self.done("cuEventCreate", result)?;
        Ok(event)
    }

    /// Measures replays of `launches` as one graph, after a few unmeasured ones. The device's own clock: no host time
    /// is in it as long as a replay takes longer than its submission, some 10 µs.
    pub fn time(&mut self, launches: &[Launch], replays: u32) -> Result<Timing> {
        if launches.is_empty() || replays == 0 || replays > MAX_REPLAYS {
            return Err(Error::internal(format!("timing {} launches {replays} times", launches.len())));
        }
        self.sync()?;
        let captured = self.capture(launches, &[])?;
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
            let event = self.event()?;
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

    /// `events`: none, or one before each launch and one after the last.
    fn capture(&mut self, launches: &[Launch], events: &[CUevent]) -> Result<Captured> {
        const THREAD_LOCAL: i32 = 1;
        // SAFETY: an idle stream of this thread's context.
        let result = unsafe { (self.api.capture_begin)(self.stream, THREAD_LOCAL) };
        self.done("cuStreamBeginCapture", result)?;
        let enqueued = self.enqueue_all(launches, events);
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

    fn enqueue_all(&mut self, launches: &[Launch], events: &[CUevent]) -> Result<()> {
        // A node of the graph rather than a mark in its order: only such an event has a time.
        const EXTERNAL: u32 = 1;
        for i in 0..=launches.len() {
            if let Some(event) = events.get(i) {
                // SAFETY: a live event, and a stream that is captured.
                let result = unsafe { (self.api.event_record_with_flags)(*event, self.stream, EXTERNAL) };
                self.done("cuEventRecordWithFlags", result)?;
            }
            if let Some(launch) = launches.get(i) {
                self.enqueue(launch)?;
            }
        }
        Ok(())
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
