//! The integration tests, one binary: everything that needs files, processes or more than one module.

mod architecture;
mod conformance;
mod erased_valid;
mod eventlog_sqlite;
mod faulty;
mod harness;
mod hostile;
mod keystore_sqlite;
mod leaks;
mod population;
mod roles;
mod smoke;
mod store;
mod vectors;
mod verify;
