//! One flag for everything that ends a verdict early: a word from elsewhere, and time that is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::Hands;

/// How often it is looked whether the work is still wanted.
const BEAT: Duration = Duration::from_millis(50);

impl Hands<'_> {
    /// Whether nobody wants the work any more.
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Does `work`, which is told by the flag that it is to end. A judge looks at it between cases and stages; a worker that
    /// runs a kernel looks at it all the time.
    pub(super) fn watched<T>(&self, work: impl FnOnce(&Arc<AtomicBool>) -> T) -> T {
        let halt = Arc::new(AtomicBool::new(self.is_over()));
        std::thread::scope(|scope| {
            // Closed when the work is done, also where it panics.
            let (done, ended) = mpsc::channel::<()>();
            let flag = halt.clone();
            scope.spawn(move || {
                while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(BEAT) {
                    if self.is_over() {
                        flag.store(true, Ordering::Relaxed);
                    }
                }
            });
            let result = work(&halt);
            drop(done);
            result
        })
    }
}
