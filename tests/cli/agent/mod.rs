//! The supervised loop, from outside: scripted models over real HTTP.

mod endpoint;
mod fake;
mod run;
mod server;
