//! Oubliette: an event store that can forget a person.
//!
//! Modules stand in dependency order; each may use only what stands above it (`tests/it/architecture.rs` holds this).
#![forbid(unsafe_code)]

pub mod secret;
pub mod clock;
pub mod crash;
pub mod domain;
pub mod event;
pub mod merkle;
pub mod db;
pub mod schema;
pub mod keystore;
pub mod sealing;
pub mod eventlog;
pub mod audit;
pub mod telemetry;
pub mod config;
pub mod cli;
