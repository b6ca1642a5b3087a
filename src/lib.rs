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
pub mod auth;
pub mod schema;
pub mod keystore;
pub mod sealing;
pub mod eventlog;
pub mod append;
pub mod read;
pub mod subscription;
pub mod projection;
pub mod audit;
pub mod erasure;
pub mod verify;
pub mod telemetry;
pub mod config;
pub mod app;
pub mod http;
pub mod cli;
