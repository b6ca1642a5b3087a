//! The three domains on disk: made together, opened together, refused apart.
//!
//! Owns: directories, the lock, creation in an order that an interrupted first start can be recognised by. Keeps
//! invariant 8.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use super::StartError;
use crate::clock::Clock;
use crate::config::Config;
use crate::crash;
use crate::db::sqlite::SqliteDb;
use crate::db::{Db, OpenError};
use crate::event::StoreId;
use crate::eventlog::EventLog;
use crate::eventlog::sqlite::{self, SqliteEventLog};
use crate::keystore::keyring::Keyring;
use crate::keystore::sqlite::SqliteKeystore;
use crate::projection::store::{self, Store};
use crate::secret::Entropy;

/// The opened stores.
pub(super) struct Stores {
    pub log: Arc<dyn EventLog>,
    pub keystore: Arc<SqliteKeystore>,
    pub keyring: Arc<Keyring>,
    pub store: StoreId,
}

/// Makes what is missing, private to this user, and takes the lock.
pub(super) fn prepare_directories(config: &Config) -> Result<File, StartError> {
    for dir in [&config.data_dir, &config.events_dir, &config.keys_dir] {
        if !dir.exists() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(|error| StartError::Io { path: dir.clone(), kind: error.kind() })?;
        }
    }
    let path = config.events_dir.join("lock");
    let io = |error: std::io::Error| StartError::Io { path: path.clone(), kind: error.kind() };
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(io)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::AlreadyRunning { path: config.events_dir.clone() }),
        Err(std::fs::TryLockError::Error(error)) => Err(io(error)),
    }
}

/// Whether nothing is there yet; refuses when only some of the three are.
pub(super) fn is_fresh(config: &Config) -> Result<bool, StartError> {
    let parts = [
        ("the event log", config.events_db()),
        ("the keystore", config.keys_db()),
        ("the keyring", config.keyring_dir.clone()),
    ];
    let named = |wanted: bool| -> Vec<String> {
        let matching = parts.iter().filter(|(_, path)| has_content(path) == wanted);
        matching.map(|(name, path)| format!("{name} ({})", path.display())).collect()
    };
    let (present, missing) = (named(true), named(false));
    match (present.is_empty(), missing.is_empty()) {
        (true, _) => Ok(true),
        (_, true) => Ok(false),
        _ => Err(StartError::Incomplete { present: present.join(" and "), missing: missing.join(" and ") }),
    }
}

fn has_content(path: &Path) -> bool {
    if path.is_dir() { path.read_dir().is_ok_and(|mut entries| entries.next().is_some()) } else { path.exists() }
}

/// The keyring first, the event log last: an interrupted first start has no event log, so it is recognised as one.
pub(super) fn create(config: &Config, clock: &Clock, entropy: &Arc<Entropy>) -> Result<Stores, StartError> {
    crash::point("create.directories");
    let store = StoreId(crate::event::uuid_v7(clock.now(), entropy.draw()?));
    let keyring = Arc::new(Keyring::create(&config.keyring_dir, store)?);
    crash::point("create.keyring");
    let keystore = SqliteKeystore::create(&config.keys_db(), store, Arc::clone(&keyring), clock, Arc::clone(entropy))?;
    crash::point("create.keystore");
    let options = log_options(config);
    let log = SqliteEventLog::create(&config.events_db(), store, clock.now(), &options, Arc::clone(entropy))?;
    crash::point("create.log");
    Ok(Stores { log: Arc::new(log), keystore: Arc::new(keystore), keyring, store })
}

pub(super) async fn open(config: &Config, entropy: &Arc<Entropy>) -> Result<Stores, StartError> {
    let keyring = Arc::new(Keyring::open(&config.keyring_dir)?);
    let store = keyring.store_id();
    let log = SqliteEventLog::open(&config.events_db(), &log_options(config), Arc::clone(entropy))?;
    let head = log.head().await.map_err(|_| OpenError::Unusable { reason: "head" })?;
    if head.store != store {
        return Err(StartError::StoreMismatch { log: head.store, keyring: store });
    }
    let keystore = SqliteKeystore::open(&config.keys_db(), store, Arc::clone(&keyring), Arc::clone(entropy))?;
    Ok(Stores { log: Arc::new(log), keystore: Arc::new(keystore), keyring, store })
}

/// The tables of projections. What was computed from another store, or cannot be read, is computed anew.
pub(super) async fn projection_tables(config: &Config, id: StoreId) -> Result<Store, StartError> {
    let path = config.projections_db();
    for _ in 0..2 {
        let refused = |error| StartError::TablesFile(error, format!("{}*", path.display()));
        let opened = SqliteDb::open(&path, store::MIGRATIONS, config.readers, config.cache_kib, "projections");
        let opened = opened.map_err(refused)?;
        let unusable = refused(OpenError::Unusable { reason: "projections" });
        let db = Db::Sqlite(opened);
        if let Some(store) = Store::open(db.clone(), id).await.map_err(|_| unusable)? {
            return Ok(store);
        }
        tracing::warn!("the projections were computed from another store; they are computed anew");
        db.close().await;
        for suffix in ["", "-wal", "-shm"] {
            let mut name = path.clone().into_os_string();
            name.push(suffix);
            let _ = std::fs::remove_file(name);
        }
    }
    Err(StartError::TablesFile(OpenError::Unusable { reason: "projections" }, path.display().to_string()))
}

fn log_options(config: &Config) -> sqlite::Options {
    sqlite::Options { readers: config.readers, cache_kib: config.cache_kib }
}
