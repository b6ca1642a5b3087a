//! Projections: views of the log that cannot leak.
//!
//! Owns: definitions, the folding of events into rows, the sealing of every cell that a personal value touched, queries.
//! Must not know: HTTP. Keeps invariant 1 for everything derived: a cell is sealed to the owners of whatever it was
//! computed from, so that forgetting needs no rewrite, and a row never holds a clear personal value.

pub mod aggregate;
mod aggregate_rows;
pub mod apply;
pub mod cell;
pub mod code;
pub mod definition;
pub mod definitions;
pub mod duration;
pub mod engine;
pub mod expression;
pub mod fold;
pub mod index;
pub mod lineage;
pub mod owners;
pub mod query;
mod room;
pub mod row;
mod scalar;
mod sketch;
pub mod store;
pub mod verbs;
pub mod view;
pub mod window;
