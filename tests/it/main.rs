//! The integration tests, one binary: everything that needs files, threads or more than one module.

mod conformance;
mod faulty;
mod keystore_sqlite;
