//! The three domains: made together, opened together, refused apart.
//!
//! Owns: which engine holds what, directories, the lock, creation in an order that an interrupted first start can be
//! recognised by. Keeps invariant 8.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::StartError;
use crate::audit::checkpoint::CheckpointKey;
use crate::clock::Clock;
use crate::config::{Config, Dsn, OptionalPath};
use crate::crash;
use crate::db::postgres::tls::Tls;
use crate::db::postgres::{PostgresDb, Target};
use crate::db::sqlite::SqliteDb;
use crate::db::{Db, OpenError};
use crate::event::StoreId;
use crate::eventlog::EventLog;
use crate::eventlog::postgres::{self, PostgresEventLog};
use crate::eventlog::sqlite::{self, SqliteEventLog};
use crate::keystore::keyring::Keyring;
use crate::keystore::postgres::PostgresKeystore;
use crate::keystore::sqlite::SqliteKeystore;
use crate::keystore::{Keystore, ServiceKeys};
use crate::projection::store::{self, Store};
use crate::secret::Entropy;

/// The opened stores.
pub(super) struct Stores {
    pub log: Arc<dyn EventLog>,
    pub keystore: Arc<dyn Keystore>,
    pub service_keys: Arc<ServiceKeys>,
    pub keyring: Arc<Keyring>,
    pub store: StoreId,
}

impl Stores {
    /// The key that signs checkpoints. The origin names the store; a host name of the operator's can replace
    /// `oubliette.invalid` one day.
    pub fn checkpoint_key(&self) -> Result<CheckpointKey, StartError> {
        let origin = format!("oubliette.invalid/{}", self.store);
        CheckpointKey::from_seed(self.keyring.signing_seed(), &origin).map_err(|_| StartError::Origin)
    }
}

/// Where one domain lies.
pub(super) enum Place {
    File(PathBuf),
    Database(Box<Target>),
}

impl Place {
    fn of(
        file: PathBuf,
        dsn: &Dsn,
        password: &OptionalPath,
        authorities: &OptionalPath,
        schema: &'static str,
    ) -> Result<Self, StartError> {
        let Some(dsn) = dsn.text() else { return Ok(Self::File(file)) };
        let read = |path: &PathBuf| {
            let io = |error: std::io::Error| StartError::Io { path: path.clone(), kind: error.kind() };
            std::fs::read(path).map(Zeroizing::new).map_err(io)
        };
        let tls = match &authorities.0 {
            Some(path) => Some(Tls::trusting(&read(path)?)?),
            None => None,
        };
        let mut target = Target::parse_with(dsn, schema, tls)?;
        if let Some(path) = &password.0 {
            target = target.with_password(read(path)?.trim_ascii());
        }
        Ok(Self::Database(Box::new(target)))
    }

    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Database(target) => format!("schema {} of its database", target.schema()),
        }
    }
}

/// Where event log and keystore lie.
fn places(config: &Config) -> Result<[Place; 2], StartError> {
    let Config { events_dsn, events_password_file, events_tls_ca, .. } = config;
    let file = config.events_db();
    let events = Place::of(file, events_dsn, events_password_file, events_tls_ca, postgres::SCHEMA)?;
    let Config { keys_dsn, keys_password_file, keys_tls_ca, .. } = config;
    let (file, schema) = (config.keys_db(), crate::keystore::postgres::SCHEMA);
    Ok([events, Place::of(file, keys_dsn, keys_password_file, keys_tls_ca, schema)?])
}

/// The databases among them, with the settings that lead there.
pub(super) fn databases(config: &Config) -> Result<Vec<(&'static str, Box<Target>)>, StartError> {
    let named = ["events_dsn", "keys_dsn"].into_iter().zip(places(config)?);
    let database = |(name, place)| match place {
        Place::File(_) => None,
        Place::Database(target) => Some((name, target)),
    };
    Ok(named.filter_map(database).collect())
}

/// Where event log, keystore and keyring lie.
pub(super) struct Places {
    pub(super) events: Place,
    pub(super) keys: Place,
    keyring: PathBuf,
    dirs: [PathBuf; 2],
}

impl Places {
    /// As the settings say. Event log and keystore in one database are refused unless that is allowed.
    pub async fn of(config: &Config) -> Result<Self, StartError> {
        let [events, keys] = places(config)?;
        if let (Place::Database(events), Place::Database(keys)) = (&events, &keys) {
            let ((cluster, database), (other_cluster, other)) = (events.identity().await?, keys.identity().await?);
            if cluster == other_cluster && database == other && !config.one_database {
                return Err(StartError::OneDatabase);
            }
            if cluster == other_cluster {
                tracing::warn!("event log and keystore are in one PostgreSQL cluster: a backup of it takes both");
            }
        }
        let dirs = [config.events_dir.clone(), config.keys_dir.clone()];
        Ok(Self { events, keys, keyring: config.keyring_dir.clone(), dirs })
    }

    /// Names to be shown, in the order of the domains.
    pub fn names(&self) -> [String; 3] {
        let name = |place: &Place, dir: &Path| match place {
            Place::File(_) => dir.display().to_string(),
            Place::Database(_) => place.name(),
        };
        let [events, keys] = &self.dirs;
        [name(&self.events, events), name(&self.keys, keys), self.keyring.display().to_string()]
    }

    /// Whether nothing is there yet; refuses when only some of the three are.
    pub async fn is_fresh(&self) -> Result<bool, StartError> {
        let events = match &self.events {
            Place::File(path) => has_content(path),
            Place::Database(target) => PostgresEventLog::exists(target).await?,
        };
        let keys = match &self.keys {
            Place::File(path) => has_content(path),
            Place::Database(target) => PostgresKeystore::exists(target).await?,
        };
        let parts = [
            ("the event log", self.events.name(), events),
            ("the keystore", self.keys.name(), keys),
            ("the keyring", self.keyring.display().to_string(), has_content(&self.keyring)),
        ];
        let named = |wanted: bool| -> Vec<String> {
            let matching = parts.iter().filter(|(_, _, there)| *there == wanted);
            matching.map(|(name, place, _)| format!("{name} ({place})")).collect()
        };
        let (present, missing) = (named(true), named(false));
        match (present.is_empty(), missing.is_empty()) {
            (true, _) => Ok(true),
            (_, true) => Ok(false),
            _ => Err(StartError::Incomplete { present: present.join(" and "), missing: missing.join(" and ") }),
        }
    }
}

/// Makes what is missing, private to this user, and takes the lock.
pub(super) fn prepare_directories(config: &Config) -> Result<File, StartError> {
    let keys = config.keys_dsn.text().is_none().then_some(&config.keys_dir);
    for dir in [&config.data_dir, &config.events_dir].into_iter().chain(keys) {
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

fn has_content(path: &Path) -> bool {
    if path.is_dir() { path.read_dir().is_ok_and(|mut entries| entries.next().is_some()) } else { path.exists() }
}

/// What is at these places, made first if there is nothing.
pub(super) async fn at(
    config: &Config,
    places: &Places,
    (clock, entropy): (&Clock, &Arc<Entropy>),
    fresh: bool,
) -> Result<Stores, StartError> {
    if fresh { create(config, places, clock, entropy).await } else { open(config, places, entropy).await }
}

/// The keyring first, the event log last: an interrupted first start has no event log, so it is recognised as one.
async fn create(config: &Config, places: &Places, clock: &Clock, entropy: &Arc<Entropy>) -> Result<Stores, StartError> {
    crash::point("create.directories");
    let store = StoreId(crate::event::uuid_v7(clock.now(), entropy.draw()?));
    let keyring = Arc::new(Keyring::create(&config.keyring_dir, store)?);
    crash::point("create.keyring");
    let (ring, randomness) = (Arc::clone(&keyring), Arc::clone(entropy));
    let (keystore, service_keys) = match &places.keys {
        Place::File(path) => embedded(SqliteKeystore::create(path, store, ring, clock, randomness)?),
        Place::Database(target) => {
            let readers = config.readers;
            served(PostgresKeystore::create(Target::clone(target), store, ring, clock, randomness, readers).await?)
        }
    };
    crash::point("create.keystore");
    let (at, randomness) = (clock.now(), Arc::clone(entropy));
    let log: Arc<dyn EventLog> = match &places.events {
        Place::File(path) => Arc::new(SqliteEventLog::create(path, store, at, &log_options(config), randomness)?),
        Place::Database(target) => {
            Arc::new(PostgresEventLog::create(Target::clone(target), store, at, config.readers, randomness).await?)
        }
    };
    crash::point("create.log");
    Ok(Stores { log, keystore, service_keys, keyring, store })
}

async fn open(config: &Config, places: &Places, entropy: &Arc<Entropy>) -> Result<Stores, StartError> {
    let keyring = Arc::new(Keyring::open(&config.keyring_dir)?);
    let store = keyring.store_id();
    let randomness = Arc::clone(entropy);
    let log: Arc<dyn EventLog> = match &places.events {
        Place::File(path) => Arc::new(SqliteEventLog::open(path, &log_options(config), randomness)?),
        Place::Database(target) => {
            Arc::new(PostgresEventLog::open(Target::clone(target), config.readers, randomness).await?)
        }
    };
    let head = log.head().await.map_err(|_| OpenError::Unusable { reason: "head" })?;
    if head.store != store {
        return Err(StartError::StoreMismatch { log: head.store, keyring: store });
    }
    let (ring, randomness) = (Arc::clone(&keyring), Arc::clone(entropy));
    let (keystore, service_keys) = match &places.keys {
        Place::File(path) => embedded(SqliteKeystore::open(path, store, ring, randomness)?),
        Place::Database(target) => {
            served(PostgresKeystore::open(Target::clone(target), store, ring, randomness, config.readers).await?)
        }
    };
    Ok(Stores { log, keystore, service_keys, keyring, store })
}

fn embedded(keystore: SqliteKeystore) -> (Arc<dyn Keystore>, Arc<ServiceKeys>) {
    let service_keys = keystore.service_keys();
    (Arc::new(keystore), service_keys)
}

fn served(keystore: PostgresKeystore) -> (Arc<dyn Keystore>, Arc<ServiceKeys>) {
    let service_keys = keystore.service_keys();
    (Arc::new(keystore), service_keys)
}

/// The tables of projections, beside the event log. What was computed from another store, or cannot be read, is computed
/// anew.
pub(super) async fn projection_tables(config: &Config, places: &Places, id: StoreId) -> Result<Store, StartError> {
    let place = format!("{}*", config.projections_db().display());
    for _ in 0..2 {
        let refused = |error| StartError::TablesFile(error, place.clone());
        let db = match &places.events {
            Place::File(_) => {
                let (path, readers) = (config.projections_db(), config.readers);
                let opened = SqliteDb::open(&path, store::MIGRATIONS, readers, config.cache_kib, "projections");
                Db::Sqlite(opened.map_err(refused)?)
            }
            Place::Database(target) => {
                let target = Target::clone(target).in_schema(store::SCHEMA);
                // One more than readers: the one that writes.
                Db::Postgres(PostgresDb::open(target, store::POSTGRES_MIGRATIONS, config.readers + 1).await?)
            }
        };
        let unusable = refused(OpenError::Unusable { reason: "projections" });
        if let Some(store) = Store::open(db.clone(), id).await.map_err(|_| unusable)? {
            return Ok(store);
        }
        tracing::warn!("the projections were computed from another store; they are computed anew");
        db.close().await;
        match &places.events {
            Place::File(_) => remove_file(&config.projections_db()),
            Place::Database(target) => PostgresDb::remove(Target::clone(target).in_schema(store::SCHEMA)).await?,
        }
    }
    Err(StartError::TablesFile(OpenError::Unusable { reason: "projections" }, place))
}

pub(super) fn remove_file(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let _ = std::fs::remove_file(name);
    }
}

fn log_options(config: &Config) -> sqlite::Options {
    sqlite::Options { readers: config.readers, cache_kib: config.cache_kib }
}
