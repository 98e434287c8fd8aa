//! The supervised loop, from outside: scripted models over real HTTP.

mod endpoint;
mod server;
