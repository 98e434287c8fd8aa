//! The command line from outside: whole outputs, exit codes, JSON schemas.
//!
//! Models are the bundled one and files that `assay synth` writes; workbenches are made for each test.

#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/explain.rs"]
mod explain;
#[path = "cli/graph.rs"]
mod graph;
#[path = "cli/next.rs"]
mod next;
#[path = "cli/status.rs"]
mod status;
