//! What is shown to people, made from plans and ledger rows alone; nothing here prints.
//!
//! Figures come as [`cited::Cited`], which only a row can make; [`page`] is what a report consists of before [`markdown`]
//! or [`html`] spell it.

pub mod chart;
pub mod cited;
pub mod document;
pub mod gate;
pub mod graph;
pub mod html;
pub mod markdown;
pub mod page;
mod postmortem;
pub mod proof;
pub mod reconcile;
pub mod standing;
pub mod status;
pub mod timeline;
