//! The integration tests, one binary: everything that needs files, processes or more than one module.

mod api;
mod append;
mod append_personal;
mod architecture;
mod attack;
mod child;
mod conformance;
mod crash;
mod erased_valid;
mod eventlog_sqlite;
mod faulty;
mod harness;
mod hostile;
mod keystore_sqlite;
mod leaks;
mod live;
mod population;
mod read;
mod read_personal;
mod roles;
mod smoke;
mod start;
mod store;
mod vectors;
mod verify;
