//! Trait suites: each behaviour written once, mounted on every engine.

pub mod epochs;
pub mod eventlog;
pub mod keystore;
pub mod keystore_faults;
pub mod natural_keys;
pub mod remanence;
