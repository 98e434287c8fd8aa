//! assay: a workbench for porting GPU kernels that counts only what it has measured.
//!
//! Reading order, from the file up to the terminal. Every arrow of the crate points the other way:
//! `cli → fresh → agent → report → {history, verify} → {ledger, engine} → backend → plan → ops → model`.
//!
//! 1. [`model`] opens a GGUF file strictly and says what it holds: config, tensors, quant blocks, tokenizer.
//! 2. [`ops`] says what a kernel must do: one file per op with its contract, its oracle and its test cases.
//! 3. [`plan`] turns a model into ordered op instances, finds the gates, and lowers a plan to a schedule.
//! 4. [`backend`] executes a schedule, op instance by op instance, on the oracle, the emulator or the device.
//! 5. [`engine`] keeps caches and sessions on top of schedules: prefill, chunk, decode, sampling.
//! 6. [`verify`] judges a node in eight stages with the kernel confined to a worker process.
//! 7. [`ledger`] signs what was measured and refuses what was tampered with.
//! 8. [`history`] keeps kernels in git: one commit per green step.
//! 9. [`agent`] is what a language model may do here, and nothing more.
//! 10. [`fresh`] makes a workbench with everything but kernels.
//! 11. [`cli`] is the only place that prints.

pub mod agent;
pub mod backend;
pub mod cli;
pub mod engine;
pub mod error;
pub mod files;
pub mod fresh;
pub mod history;
pub mod ledger;
pub mod model;
pub mod ops;
pub mod plan;
mod process;
pub mod report;
pub mod verify;
pub mod words;
pub mod workbench;

pub use error::{Error, Result};
