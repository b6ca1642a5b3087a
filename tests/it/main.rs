//! The integration tests, one binary: everything that needs files, processes or more than one module.
#![allow(
    clippy::assigning_clones,
    clippy::format_collect,
    clippy::format_push_string,
    clippy::needless_pass_by_value,
    clippy::single_match_else,
    clippy::struct_excessive_bools,
    clippy::too_many_lines,
    clippy::unnecessary_wraps,
    clippy::zero_sized_map_values,
    clippy::zombie_processes,
    reason = "tables and scripts read better long, and speed is of no interest here"
)]

mod api;
mod append;
mod append_personal;
mod architecture;
mod attack;
mod backup;
mod certificates;
mod child;
mod cli_projections;
mod code_projection;
mod conformance;
mod crash;
mod db_postgres;
mod epochs;
mod erased_valid;
mod erasure;
mod eventlog_postgres;
mod eventlog_sqlite;
mod faulty;
mod fixture;
mod folds;
mod harness;
mod hostile;
mod keystore_postgres;
mod keystore_sqlite;
mod laundering;
mod leaks;
mod live;
mod natural_keys;
mod nodes;
mod migrations;
mod population;
mod projection_attack;
mod postgres;
mod postgres_faults;
mod postgres_log;
mod projection_crash;
mod projection_due;
mod projection_erasure;
mod projection_history;
mod projection_model;
mod proofs;
mod proxy;
mod published;
mod query;
mod read;
mod read_personal;
mod read_your_writes;
mod roles;
mod schemas;
mod serve_postgres;
mod smoke;
mod start;
mod store;
mod systems;
mod tamper;
mod tutorial;
mod unavailable;
mod vectors;
mod verify;
mod volume;
