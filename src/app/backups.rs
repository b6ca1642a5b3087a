//! Backups of a running store, and the export of its erasure record.
//!
//! Owns: which copies are made of what this process has open, one at a time; the tasks that take expired key backups away
//! and export the record after every erasure. Must not know: HTTP; how a copy is put back (`restore`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use super::stores::{Place, Places, Stores};
use crate::backup::postgres::Source;
use crate::backup::{BackupError, Contents, Domain, Engine, Listed, Manifest, Shelf, sqlite};
use crate::clock::Clock;
use crate::config::Config;
use crate::crash;
use crate::durable::{self, Draft};
use crate::erasure::record::{self, Exporter, Record, RecordError};
use crate::keystore::Keystore;
use crate::keystore::keyring::Keyring;

/// Between two looks for key backups past their time.
const SWEEP: Duration = Duration::from_mins(1);
/// First and longest pause before a failed export is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// Makes and lists backups.
pub struct Backups {
    events: Origin,
    keys: Origin,
    keystore: Arc<dyn Keystore>,
    keyring: Arc<Keyring>,
    shelf: Shelf,
    /// How long a backup of the keystore is kept.
    keep: Duration,
    clock: Clock,
    record: PathBuf,
    exporter: Mutex<Exporter>,
    making: Mutex<()>,
}

/// What a domain is copied from.
pub(super) enum Origin {
    File(PathBuf),
    Schema(Box<Source>),
}

impl Origin {
    pub(super) fn of(config: &Config, places: &Places, domain: Domain) -> Self {
        let (place, authorities) = match domain {
            Domain::Events => (&places.events, &config.events_tls_ca),
            Domain::Keys => (&places.keys, &config.keys_tls_ca),
        };
        match place {
            Place::File(path) => Self::File(path.clone()),
            Place::Database(target) => {
                let (target, authorities) = ((**target).clone(), authorities.0.clone());
                Self::Schema(Box::new(Source { target, authorities }))
            }
        }
    }

    pub(super) fn engine(&self) -> Engine {
        match self {
            Self::File(_) => Engine::Sqlite,
            Self::Schema(_) => Engine::Postgres,
        }
    }
}

/// Where backups of these settings lie.
pub(super) fn shelf(config: &Config) -> Shelf {
    Shelf { events: config.backup_events_dir.clone(), keys: config.backup_keys_dir.clone() }
}

/// Where the record of this keyring's store is exported to.
pub(super) fn record_path(config: &Config, keyring: &Keyring) -> PathBuf {
    config.backup_record_dir.join(record::file_name(keyring.store_id()))
}

/// The exported record, if there is one. One that is not believed is no witness: it is set aside, not overwritten.
pub(super) fn exported(config: &Config, keyring: &Keyring) -> Option<Record> {
    let path = record_path(config, keyring);
    if !path.exists() {
        return None;
    }
    match Record::read(&path, keyring) {
        Ok(record) => Some(record),
        Err(error) => {
            let aside = path.with_extension("refused");
            tracing::error!(%error, aside = %aside.display(), "the exported erasure record is not believed; it is set aside");
            let _ = std::fs::rename(&path, &aside);
            None
        }
    }
}

impl Backups {
    pub(super) fn new(config: &Config, places: &Places, stores: &Stores, clock: Clock) -> Self {
        let (log, keystore, keyring) =
            (Arc::clone(&stores.log), Arc::clone(&stores.keystore), Arc::clone(&stores.keyring));
        let record = record_path(config, &keyring);
        let exporter = Exporter::new(log, Arc::clone(&keyring), record.clone());
        Self {
            events: Origin::of(config, places, Domain::Events),
            keys: Origin::of(config, places, Domain::Keys),
            keystore,
            keyring,
            shelf: shelf(config),
            keep: config.backup_horizon,
            clock,
            record,
            exporter: Mutex::new(exporter),
            making: Mutex::new(()),
        }
    }

    /// Makes a backup of a domain while the store is in use. After a crash it is there whole or not at all.
    ///
    /// # Errors
    /// [`BackupError::Busy`] while another one is made; otherwise what failed.
    pub async fn make(&self, domain: Domain) -> Result<Manifest, BackupError> {
        let Ok(_making) = self.making.try_lock() else { return Err(BackupError::Busy) };
        self.shelf.tidy()?;
        let origin = match domain {
            Domain::Events => &self.events,
            Domain::Keys => &self.keys,
        };
        let (mut at, engine, dir) = (self.clock.now(), origin.engine(), self.shelf.dir(domain)?);
        // Two in one millisecond: the earlier one stays.
        let target = loop {
            let target = dir.join(Manifest::name(domain, engine, at));
            if !target.exists() {
                break target;
            }
            at.0 += 1;
        };
        let io = |error: std::io::Error| BackupError::io(&target, &error);
        let mut draft = Draft::new(&target).map_err(io)?;
        let contents = match origin {
            Origin::Schema(source) => source.dump(domain, draft.file().try_clone().map_err(io)?).await?,
            Origin::File(path) => self.copy(domain, path.clone(), &draft, &target).await?,
        };
        if contents.store != self.keyring.store_id() {
            return Err(BackupError::OtherStore);
        }
        let keep = self.keep;
        let finished = tokio::task::spawn_blocking(move || {
            // Before it is measured, so that what is measured is what is kept.
            draft.file().sync_all().map_err(|error| BackupError::io(&target, &error))?;
            let manifest = Manifest::of(draft.path(), domain, engine, &contents, (at, keep))?;
            manifest.write(&target)?;
            draft.finish().map_err(|error| BackupError::io(&target, &error))?;
            Ok(manifest)
        });
        finished.await.unwrap_or(Err(BackupError::Busy))
    }

    async fn copy(
        &self,
        domain: Domain,
        source: PathBuf,
        draft: &Draft,
        target: &std::path::Path,
    ) -> Result<Contents, BackupError> {
        let to = draft.path().to_owned();
        let io = |error: std::io::Error| BackupError::io(target, &error);
        let raw = match domain {
            Domain::Events => None,
            Domain::Keys => {
                let raw = Draft::new(&target.with_extension("raw")).map_err(io)?;
                self.keystore.copy(raw.path().to_owned()).await?;
                Some(raw)
            }
        };
        let copied = tokio::task::spawn_blocking(move || {
            match &raw {
                None => sqlite::copy_log(&source, &to)?,
                Some(raw) => sqlite::compact(raw.path(), &to)?,
            }
            if let Some(raw) = raw {
                for path in sqlite::files_of(raw.path()) {
                    durable::destroy(&path).map_err(|error| BackupError::io(&path, &error))?;
                }
            }
            crash::point("backup.copied");
            Ok(sqlite::contents(&to, domain)?)
        });
        copied.await.unwrap_or(Err(BackupError::Busy))
    }

    /// Every backup, oldest first.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn list(&self) -> Result<Vec<Listed>, BackupError> {
        self.shelf.list(self.clock.now())
    }

    /// Overwrites and removes key backups past their time, and what an interrupted backup or restore left.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn sweep(&self) -> Result<Vec<String>, BackupError> {
        if let Ok(_making) = self.making.try_lock() {
            self.shelf.tidy()?;
        }
        for origin in [&self.events, &self.keys] {
            // Nobody restores while this process has the store.
            if let Origin::File(database) = origin {
                let left = durable::unfinished(database);
                durable::destroy(&left).map_err(|error| BackupError::io(&left, &error))?;
            }
        }
        self.shelf.sweep(self.clock.now())
    }

    /// Exports the erasure record: the file, and its last entry.
    ///
    /// # Errors
    /// [`RecordError`].
    pub async fn export(&self) -> Result<(PathBuf, u64), RecordError> {
        if let Some(dir) = self.record.parent() {
            let io = |error: std::io::Error| RecordError::Io { path: dir.to_owned(), kind: error.kind() };
            durable::private_dir(dir).map_err(io)?;
        }
        let last = self.exporter.lock().await.export(self.clock.now()).await?;
        Ok((self.record.clone(), last))
    }
}

/// Starts the tasks. A log that is behind has no record worth exporting.
pub(super) fn start(backups: &Arc<Backups>, changes: [watch::Receiver<u64>; 2], level: bool) -> Vec<JoinHandle<()>> {
    let mut tasks = vec![tokio::spawn(sweep(Arc::clone(backups)))];
    if level {
        tasks.push(tokio::spawn(export(Arc::clone(backups), changes)));
    }
    tasks
}

async fn sweep(backups: Arc<Backups>) {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        match backups.sweep() {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => {
                tracing::info!(backups = gone.len(), "key backups past their time were overwritten and removed");
            }
            Err(error) => tracing::error!(%error, "a key backup past its time cannot be removed; trying again"),
        }
    }
}

/// Exports at the start and after every change; changes that come during an export share the next one.
async fn export(backups: Arc<Backups>, [mut fenced, mut progress]: [watch::Receiver<u64>; 2]) {
    let mut pause = PAUSES.0;
    loop {
        fenced.mark_unchanged();
        progress.mark_unchanged();
        let began = Instant::now();
        if let Err(error) = backups.export().await {
            tracing::error!(%error, "the erasure record cannot be exported; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
            continue;
        }
        pause = PAUSES.0;
        // A long record is not written all the time.
        tokio::time::sleep(began.elapsed() * 5).await;
        tokio::select! {
            changed = fenced.changed() => if changed.is_err() { return },
            changed = progress.changed() => if changed.is_err() { return },
        }
    }
}
