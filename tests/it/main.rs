//! The integration tests, one binary: everything that needs files, processes or more than one module.

mod architecture;
mod conformance;
mod eventlog_sqlite;
mod faulty;
mod harness;
mod keystore_sqlite;
mod population;
mod smoke;
mod store;
mod vectors;
mod verify;
