//! Sessions on top of schedules: prefill in chunks, decode token by token, pick the next token, and say where all of it
//! ran.

pub mod bench;
pub mod breakdown;
pub mod chrome;
pub mod fit;
mod generate;
mod sampler;
mod session;
mod tally;
pub mod values;

pub use fit::Seating;
pub use generate::{Generation, Stop, generate};
pub use sampler::{Sampler, Sampling};
pub use session::{CODES, Saved, Session, SessionOptions, argmax};
pub use tally::Tally;
