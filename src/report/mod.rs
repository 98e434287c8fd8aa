//! What is shown to people, made from plans and ledger rows alone; nothing here prints.

pub mod gate;
pub mod graph;
pub mod proof;
pub mod standing;
pub mod status;
