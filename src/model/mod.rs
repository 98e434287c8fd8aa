//! The model file.
mod grid;
pub mod quant;
