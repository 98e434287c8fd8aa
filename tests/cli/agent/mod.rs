//! The supervised loop, from outside: scripted models over real HTTP.

mod bench;
mod budgets;
mod calls;
mod endpoint;
mod clumsy;
mod fake;
mod incidents;
mod landing;
mod mixed;
mod port;
mod run;
mod server;
