//! Agents that port kernels, under supervision: what a language model may do here, and what it is shown.
//!
//! [`desk`] is all that an agent can reach: a workbench with a chosen node, and a table of tools. The loop and the MCP
//! server both stand on it, and neither has another way to a file, a compiler or the judge.
//!
//! The loop: [`events`] says what can happen, [`transcript`] keeps it, [`state`] folds it; [`run`] takes one step after the
//! other by what the state says, with a model behind an [`endpoint`], within a [`budget`], under a person's hand
//! ([`supervise`]); [`stuck`] sees when nothing moves; [`report`] and [`export`] tell what happened. What an outside agent did is
//! a [`session`].

#[cfg(feature = "agent")]
pub mod budget;
#[cfg(feature = "agent")]
mod clock;
pub mod codes;
#[cfg(feature = "agent")]
pub mod context;
pub mod desk;
#[cfg(feature = "agent")]
mod diff;
#[cfg(feature = "agent")]
pub mod endpoint;
#[cfg(feature = "agent")]
pub mod events;
#[cfg(feature = "agent")]
pub mod export;
pub mod kept;
pub mod landing;
#[cfg(feature = "mcp")]
pub mod mcp;
pub mod redact;
#[cfg(feature = "agent")]
pub mod report;
#[cfg(feature = "agent")]
pub mod run;
#[cfg(feature = "agent")]
pub mod runs;
pub mod session;
#[cfg(feature = "agent")]
pub mod shop;
#[cfg(feature = "agent")]
pub mod state;
#[cfg(feature = "agent")]
pub mod stuck;
#[cfg(feature = "agent")]
pub mod supervise;
#[cfg(feature = "agent")]
mod tools;
pub mod transcript;
