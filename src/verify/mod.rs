//! Judges a node: eight stages, one verdict (docs/stages.md).

pub mod compare;
pub mod mutants;
pub mod unit;
pub mod source;
