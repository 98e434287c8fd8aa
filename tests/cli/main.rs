//! The command line from outside: whole outputs, exit codes, JSON schemas.
//!
//! Models are the bundled one and files that `assay synth` writes; workbenches are made for each test.

#[cfg(feature = "agent")]
mod agent;
mod bench;
mod bisect;
mod desk;
mod diagnosis;
mod doors;
mod errors;
mod explain;
mod faults;
mod graph;
#[cfg(feature = "mcp")]
mod landing;
#[cfg(feature = "mcp")]
mod mcp;
mod new;
mod next;
mod readme;
mod reconcile;
mod recorded;
mod remote;
mod replay;
mod report;
mod rows;
mod sides;
mod status;
mod teeth;
mod verify;
mod whole;
mod words;
