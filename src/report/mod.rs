//! What is shown to people, made from plans and ledger rows alone; nothing here prints.

pub mod chart;
pub mod cited;
pub mod graph;
pub mod page;
pub mod proof;
pub mod reconcile;
pub mod status;
pub mod timeline;
