//! Oubliette: an event store that can forget a person.
//!
//! Modules stand in dependency order; each may use only what stands above it (`tests/it/architecture.rs` holds this).
//!
//! # As a library
//!
//! The binary is a thin shell: [`app::App`] is the store, [`http::router`] its interface. A program of your own can do the same
//! and bring projections written in Rust. Personal values reach them sealed, and stay so:
//!
//! ```no_run
//! use oubliette::app::{App, Extras};
//! use oubliette::clock::Clock;
//! use oubliette::config::Config;
//! use oubliette::http;
//! use oubliette::projection::code::{CodeError, CodeEvent, CodeProjection, CodeRows, CodeValue, Codes};
//! use oubliette::telemetry::{self, Metrics};
//!
//! /// The label of a parcel: whom it goes to, how often it moved.
//! struct Labels;
//!
//! impl CodeProjection for Labels {
//!     fn handle(&self, event: &CodeEvent<'_>, rows: &mut CodeRows<'_>) -> Result<(), CodeError> {
//!         let mut label = rows.own()?;
//!         match event.event_type() {
//!             "parcel-sent" => {
//!                 let (name, city) = (event.cell("/name")?, event.cell("/city")?);
//!                 // The result belongs to everyone to whom a part belongs.
//!                 let line = CodeValue::join(&[&name, &city], |parts| {
//!                     Some(format!("{}, {}", parts[0].as_str()?, parts[1].as_str()?).into())
//!                 })?;
//!                 label.set("line", line)
//!             }
//!             "parcel-moved" => label.add("moves", 1),
//!             _ => Ok(()),
//!         }
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     telemetry::harden();
//!     telemetry::quiet_panics();
//!     let mut codes = Codes::default();
//!     codes.register("labels", Labels)?;
//!     let config = Config::in_dir("data".as_ref());
//!     let (listen, limits) = (config.listen, config.limits.clone());
//!     let metrics = Metrics::new(http::route_templates(), Clock::System.now());
//!     let extras = Extras { codes, ..Extras::default() };
//!     let (app, _first) = App::start_with(config, Clock::System, metrics, extras).await?;
//!     let listener = tokio::net::TcpListener::bind(listen).await?;
//!     let until = async { drop(tokio::signal::ctrl_c().await) };
//!     http::serve::serve(http::router(app.clone()), listener, &limits, until).await;
//!     app.stop().await;
//!     Ok(())
//! }
//! ```
//!
//! [`projection::code`] has the contract, `docs/projections/projections-in-rust.md` the definition that goes with it.
#![forbid(unsafe_code)]

pub mod secret;
pub mod clock;
pub mod crash;
pub mod durable;
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
pub mod backup;
pub mod telemetry;
pub mod config;
pub mod app;
pub mod http;
pub mod cli;
