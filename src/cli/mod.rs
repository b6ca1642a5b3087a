//! The command line.
//!
//! Owns: commands and their output. Must not know: SQL. Only this module prints.

pub mod bench;
