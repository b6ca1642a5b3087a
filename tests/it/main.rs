//! The integration tests, one binary: everything that needs files, processes or more than one module.

mod api;
mod append;
mod append_personal;
mod conformance;
mod faulty;
mod harness;
mod keystore_sqlite;
mod live;
mod population;
mod published;
mod read;
mod read_personal;
mod schemas;
mod smoke;
mod vectors;
mod volume;
