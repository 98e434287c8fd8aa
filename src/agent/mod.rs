//! Agents that port kernels, under supervision: what a language model may do here, and what it is shown.
//!
//! [`desk`] is all that an agent can reach: a workbench with a chosen node, and a table of tools. The loop and the MCP
//! server both stand on it, and neither has another way to a file, a compiler or the judge.

//!
//! A model is reached through an [`endpoint`].

pub mod desk;

pub mod codes;
#[cfg(feature = "agent")]
pub mod endpoint;
#[cfg(feature = "agent")]
pub mod redact;
