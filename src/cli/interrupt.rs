//! Ctrl-C: at once while nothing is written; while something is, at the next place where that can be left in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::output;
use crate::error::{Error, INTERRUPTED, Kind};

/// Of these only [`HELD`] and [`CAME`] keep the process alive when the signal comes.
const FREE: u8 = 0;
const HELD: u8 = 1;
const CAME: u8 = 2;

pub struct Interrupt(Arc<AtomicU8>);

impl Interrupt {
    /// Watches from here on; a command watches once. `json`: whoever asked for a document gets one.
    pub fn watch(json: bool) -> Interrupt {
        let state = Arc::new(AtomicU8::new(FREE));
        let seen = state.clone();
        // Without a handler the signal ends the process, which is as well.
        let _ = ctrlc::set_handler(move || {
            if seen.compare_exchange(HELD, CAME, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return;
            }
            // The second time the command may hang in a write to a full pipe, with stdout locked.
            if seen.load(Ordering::Relaxed) == FREE {
                let error = interrupted("interrupted before there was anything to write");
                output::error(&error);
                if json {
                    output::json_error(&error);
                }
            }
            std::process::exit(i32::from(Kind::Interrupted.exit_code()));
        });
        Interrupt(state)
    }

    /// From here on the command itself asks whether the signal [`came`](Interrupt::came).
    pub fn hold(&self) {
        let _ = self.0.compare_exchange(FREE, HELD, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed) == CAME
    }
}

pub fn interrupted(what: &str) -> Error {
    Error::new(&INTERRUPTED, what)
}
