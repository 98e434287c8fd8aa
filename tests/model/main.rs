//! The model file from outside: malformed files, misfits, formats, tokens, synthetic files, the two commands.

mod builder;
mod commands;
mod differential;
mod malformed;
mod misfits;
mod mutation;
mod quant;
mod synth;
mod text;
