//! Compiles kernels before their turn comes. A compiler keeps one core busy, and the judge waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::judge::{entries, variants};
use super::source;
use crate::backend::emulator::Builder;
use crate::error::Result;
use crate::ops::{self, Node};
use crate::plan::Numerics;
use crate::plan::kernels::KernelTree;
use crate::plan::manifest::EMULATOR;
use crate::plan::source::SourceSet;

/// A thread that fills the emulator's cache. It ends when this is dropped, a compilation under way too.
pub struct Ahead {
    halt: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Compiles the kernels of `nodes`, one after the other, in that order. What does not compile does not either when
    /// the judge comes to it, who says so; what stage 2 refuses no compiler sees.
    pub fn start(tree: &KernelTree, nodes: &[Node], numerics: &[Numerics]) -> Result<Ahead> {
        let halt = Arc::new(AtomicBool::new(false));
        let mut builder = Builder::new()?;
        builder.halt_by(&halt);
        let jobs: Vec<(SourceSet, Vec<String>)> = nodes.iter().filter_map(|node| job(tree, node, numerics)).collect();
        let stop = halt.clone();
        let compile = move || {
            for (source, entries) in jobs {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
                let _ = builder.build(&source, &entries);
            }
        };
        // Without a thread every kernel is compiled when its turn comes.
        let thread = std::thread::Builder::new().name("compile-ahead".into()).spawn(compile).ok();
        Ok(Ahead { halt, thread })
    }
}

/// What the judge will ask to be compiled; `None` where stage 2 ends the verdict.
fn job(tree: &KernelTree, node: &Node, numerics: &[Numerics]) -> Option<(SourceSet, Vec<String>)> {
    let kernel = tree.require(node).ok()?;
    let source = tree.source(&kernel).ok()?;
    let variants = variants(numerics, EMULATOR, node, &kernel);
    let sound = source::faults(&source, kernel.manifest, ops::find(&node.op)?.contract()).is_empty();
    (sound && !variants.is_empty()).then(|| (source, entries(&variants)))
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.halt.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
