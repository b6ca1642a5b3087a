//! The integration tests, one binary: everything that needs files, processes or more than one module.

mod child;
mod conformance;
mod crash;
mod erasure;
mod faulty;
mod harness;
mod keystore_sqlite;
mod population;
mod smoke;
mod start;
mod tutorial;
mod unavailable;
mod vectors;
