//! The supervised loop, from outside: scripted models over real HTTP.

mod attempts;
mod bench;
mod budgets;
mod calls;
mod clumsy;
mod condensing;
mod endpoint;
mod fake;
mod incidents;
mod landing;
mod mixed;
mod planted;
mod port;
mod run;
mod server;
