//! The source of a kernel, as the compilers get it.

pub use crate::plan::source::SourceSet;
