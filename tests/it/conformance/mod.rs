//! Trait suites: each behaviour written once, mounted on every engine.

pub mod eventlog;
pub mod keystore;
pub mod keystore_faults;
pub mod remanence;
