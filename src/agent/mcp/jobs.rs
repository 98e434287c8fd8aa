//! Verdicts that take longer than a client waits: they go on, and are asked for by number.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::agent::desk::{ToolError, ToolResult};
use crate::ops::Node;
use crate::verify::{Progress, Stage};

/// Ended jobs whose results are kept.
const KEPT: usize = 16;

pub struct Job {
    pub number: u64,
    pub started: Instant,
    pub stop: AtomicBool,
    ended: Mutex<Option<Result<ToolResult, ToolError>>>,
    at: Mutex<At>,
    /// Something has changed.
    pub changed: Notify,
}

/// How far a verdict is.
#[derive(Clone, Debug, Default)]
pub struct At {
    /// Only grows, as clients expect.
    pub steps: u64,
    pub text: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Job {
    pub fn at(&self) -> At {
        lock(&self.at).clone()
    }

    pub fn end(&self, result: Result<ToolResult, ToolError>) {
        *lock(&self.ended) = Some(result);
        self.changed.notify_waiters();
    }

    /// What `look` makes of the result; `None` while there is none.
    pub fn ended<T>(&self, look: impl FnOnce(&Result<ToolResult, ToolError>) -> T) -> Option<T> {
        lock(&self.ended).as_ref().map(look)
    }

    /// Waits for a change, for at most `limit`.
    pub async fn wait(&self, limit: Duration) {
        let changed = self.changed.notified();
        let mut changed = std::pin::pin!(changed);
        changed.as_mut().enable();
        if self.ended(|_| ()).is_none() {
            let _ = tokio::time::timeout(limit, changed).await;
        }
    }

    fn step(&self, text: impl FnOnce(&str) -> String) {
        let mut at = lock(&self.at);
        at.steps += 1;
        at.text = text(&at.text);
        drop(at);
        self.changed.notify_waiters();
    }
}

impl Progress for Job {
    fn stage(&self, node: &Node, stage: Stage) {
        self.step(|_| format!("{node}: stage {} ({})", stage.number(), stage.name()));
    }

    fn tick(&self, done: usize, of: usize) {
        self.step(|text| {
            format!(
                "{} {done}/{of}",
                text.split_once(") ").map_or(text, |(stage, _)| stage).trim_end_matches(')').to_string() + ")"
            )
        });
    }
}

#[derive(Default)]
pub struct Jobs {
    next: AtomicU64,
    all: Mutex<BTreeMap<u64, Arc<Job>>>,
}

impl Jobs {
    pub fn begin(&self) -> Arc<Job> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let job = Arc::new(Job {
            number,
            started: Instant::now(),
            stop: AtomicBool::new(false),
            ended: Mutex::new(None),
            at: Mutex::default(),
            changed: Notify::new(),
        });
        let mut all = lock(&self.all);
        while all.len() >= KEPT {
            let Some(old) = all.iter().find(|(_, job)| job.ended(|_| ()).is_some()).map(|(n, _)| *n) else { break };
            all.remove(&old);
        }
        all.insert(number, job.clone());
        job
    }

    pub fn find(&self, number: u64) -> Option<Arc<Job>> {
        lock(&self.all).get(&number).cloned()
    }

    /// The client is gone: nobody will ask for what is still going on.
    pub fn stop_all(&self) {
        lock(&self.all).values().for_each(|job| job.stop.store(true, Ordering::Relaxed));
    }
}
