//! `oubliette restore`: puts backups back while the server does not run.
//!
//! Owns: the questions of what may be replaced, and the words about what comes next. Must not know: how it is done.

use std::path::PathBuf;

use serde_json::json;

use super::backup::Place;
use super::failure::Failure;
use super::output::Output;
use crate::app::restore::{self, RestoreError};
use crate::backup::Domain;
use crate::backup::sqlite::Replaced;
use crate::clock::Clock;
use crate::erasure::recovery::Standing;

/// Commands on stores that do not run.
#[derive(clap::Subcommand)]
#[command(
    after_help = "Stop the server first. The next start compares the erasure records: destructions that a restored \
                        keystore lacks are repeated before anything personal is served; an event log older than an \
                        erasure serves nothing personal until `restore record` has made the erasure again."
)]
pub enum Command {
    /// The event log; projections are computed again by the next start
    Events(Arguments),
    /// The keystore
    Keys(Keys),
    /// The erasure record, into an event log that lacks a part of it
    Record(Record),
}

/// Arguments of a restore.
#[derive(clap::Args)]
pub struct Arguments {
    /// The backup; its manifest (`.json`) lies beside it
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Move what is there aside
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    place: Place,
}

/// Arguments of a restore of keys.
#[derive(clap::Args)]
pub struct Keys {
    #[command(flatten)]
    common: Arguments,
    /// Overwrite and remove what is there instead of moving it aside
    #[arg(long)]
    destroy_replaced: bool,
}

/// Arguments of an import.
#[derive(clap::Args)]
pub struct Record {
    /// The exported record
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// Runs the command.
pub async fn run(command: Command, out: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Events(arguments) => {
            let replaced = if arguments.replace { Replaced::Aside } else { Replaced::Refuse };
            put_back(Domain::Events, &arguments, replaced, out).await
        }
        Command::Keys(Keys { common, destroy_replaced }) => {
            let replaced = match (destroy_replaced, common.replace) {
                (true, _) => Replaced::Destroy,
                (false, true) => Replaced::Aside,
                (false, false) => Replaced::Refuse,
            };
            put_back(Domain::Keys, &common, replaced, out).await
        }
        Command::Record(arguments) => import(&arguments, out).await,
    }
}

async fn put_back(domain: Domain, arguments: &Arguments, replaced: Replaced, out: &mut Output) -> Result<(), Failure> {
    let config = arguments.place.load()?;
    let done = restore::put_back(&config, &Clock::System, domain, &arguments.from, replaced).await;
    let done = done.map_err(|error| failed(&error))?;
    out.record(&json!({"domain": domain.as_str(), "file": done.manifest.file, "made_at": done.manifest.made_at,
        "erasure": done.manifest.erasure, "aside": done.aside}))?;
    if let (Domain::Keys, Some(place)) = (domain, &done.aside) {
        out.message(&format!(
            "the replaced keys are kept in {place}: destroy them when you know that you do not need them"
        ));
    }
    out.message("start the server: it compares the erasure records before it serves anything personal");
    Ok(())
}

async fn import(arguments: &Record, out: &mut Output) -> Result<(), Failure> {
    let config = arguments.place.load()?;
    let done =
        restore::import_record(&config, &Clock::System, &arguments.from).await.map_err(|error| failed(&error))?;
    let level = matches!(done.standing, Standing::Level { .. });
    out.record(&json!({"domain": "record", "imported": done.entries, "level": level}))?;
    match done.standing {
        Standing::Level { .. } => out.message("start the server: it destroys the keys of whom the record names again"),
        Standing::Behind { log, witnessed } => out.message(&format!(
            "the event log ends at erasure {log}, but {witnessed} is remembered: a newer record is needed"
        )),
    }
    Ok(())
}

fn failed(error: &RestoreError) -> Failure {
    Failure::failed(error.to_string())
}
