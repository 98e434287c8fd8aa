//! Agents that port kernels, under supervision: what a language model may do here, and what it is shown.
//!
//! [`desk`] is all that an agent can reach: a workbench with a chosen node, and a table of tools. The loop and the MCP
//! server both stand on it, and neither has another way to a file, a compiler or the judge.

pub mod desk;
pub mod landing;
#[cfg(feature = "mcp")]
pub mod mcp;
