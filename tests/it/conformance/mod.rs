//! Trait suites: each behaviour written once, mounted on every engine.

pub mod keystore;
pub mod keystore_faults;
pub mod remanence;
