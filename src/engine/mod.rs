//! Sessions on top of schedules: prefill in chunks, decode token by token, pick the next token.

mod session;

pub use session::{CODES, Session, SessionOptions, argmax};
