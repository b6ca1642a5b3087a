//! `oubliette backup`: copies of the event log, the keystore and the erasure record.
//!
//! Owns: whether the server is asked or, when it does not run, the files are opened here. Must not know: how copies are
//! made.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::Context;
use super::client::Call;
use super::failure::Failure;
use super::output::Output;
use super::schema::list;
use crate::app::restore;
use crate::backup::Domain;
use crate::clock::Clock;
use crate::config::{Config, Flags};
use crate::{durable, telemetry};

/// Longer than any backup.
const PATIENCE: Duration = Duration::from_hours(12);

/// Commands on backups.
#[derive(clap::Subcommand)]
#[command(after_help = "The server writes into the directories that its settings name: backup_events_dir, \
                        backup_keys_dir, backup_record_dir. Backups of the event log hold ciphertext only and can be kept \
                        for as long as you like. Backups of the keys are removed by the server after `backup_horizon` (7 days): keep no \
                        other copies of them for longer, and none beside those of the events. The keyring is never \
                        backed up with either.\nWhile the server does not run: --data-dir or --config, and the files are \
                        opened here.")]
pub enum Command {
    /// The event log
    Events(Place),
    /// The keystore
    Keys(Place),
    /// The erasure record: who is forgotten, by pseudonym, so that it survives an older event log
    Record(Place),
    /// List backups of events and keys
    Ls,
}

/// Where the store is, when no server runs on it.
#[derive(clap::Args)]
pub struct Place {
    /// Data directory of a store whose server does not run
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Configuration file of a store whose server does not run
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Place {
    /// Whether the store is to be opened here.
    pub fn is_given(&self) -> bool {
        self.data_dir.is_some() || self.config.is_some()
    }

    /// The settings of the store, with those of this process's environment.
    pub fn load(&self) -> Result<Config, Failure> {
        let flags = Flags { config: self.config.clone(), data_dir: self.data_dir.clone(), ..Flags::default() };
        let config = Config::load(&flags, std::env::vars_os().collect());
        let config = config.map_err(|errors| Failure::failed(errors.to_string()))?;
        // Keys are about to be in memory.
        let _ = telemetry::harden();
        Ok(config)
    }
}

impl Command {
    /// The place, when the command is to work without a server.
    pub fn offline(&self) -> Option<&Place> {
        match self {
            Self::Events(place) | Self::Keys(place) | Self::Record(place) => Some(place).filter(|p| p.is_given()),
            Self::Ls => None,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Events(_) => "events",
            Self::Keys(_) => "keys",
            Self::Record(_) => "record",
            Self::Ls => "",
        }
    }
}

/// Asks the server.
pub async fn run(command: Command, context: &mut Context) -> Result<(), Failure> {
    if matches!(command, Command::Ls) {
        return list(context, "/v1/backups").await;
    }
    let call = Call::post("/v1/backups", json!({"domain": command.word()}).to_string()).within(PATIENCE);
    let made = context.client.call(&call).await?;
    context.out.record(&made)?;
    Ok(())
}

/// Works on the files.
pub async fn run_offline(command: &Command, out: &mut Output) -> Result<(), Failure> {
    let Some(place) = command.offline() else { return Err(Failure::usage("name --data-dir or --config")) };
    let (config, clock) = (place.load()?, Clock::System);
    let failed = |error: restore::RestoreError| Failure::failed(error.to_string());
    let domain = match command {
        Command::Events(_) => Domain::Events,
        Command::Keys(_) => Domain::Keys,
        Command::Record(_) => {
            let (path, entries) = restore::export_record(&config, &clock).await.map_err(failed)?;
            let (bytes, sha256) = durable::measure(&path)?;
            out.record(&json!({"domain": "record", "file": path.display().to_string(), "bytes": bytes,
                "sha256": hex::encode(sha256), "erasure": entries}))?;
            return Ok(());
        }
        Command::Ls => return Ok(()),
    };
    let manifest = restore::back_up(&config, &clock, domain).await.map_err(failed)?;
    let made: Value = serde_json::to_value(&manifest).unwrap_or_default();
    out.record(&made)?;
    Ok(())
}
