//! The composition root: opens the three domains, refuses unsafe pairs, starts the tasks, stops them in order.
//!
//! Owns: what exists together and what may not. Keeps invariant 8: a keystore is never made beside an event log that
//! already has events, nor the reverse, and nothing personal is served while the erasure record is behind.

pub mod backups;
mod epochs;
mod examine;
pub mod restore;
mod stores;
mod views;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::append::writer::{self, Writer};
use crate::append::{Appender, Decided};
use crate::audit::checkpoint::CheckpointKey;
use crate::audit::{Decisions, FollowingLog, Record, RecordError, Recorder, ReplayError};
use crate::auth::{self, ApiKeys, Grant, PurposeGrant, Role};
use crate::clock::{Boottime, Clock};
use crate::config::Config;
use crate::db::OpenError;
use crate::db::statement::DbError;
use crate::erasure::epoch::Epochs;
use crate::erasure::recovery::{self, Standing};
use crate::erasure::requests::{ForgetError, Parts, Requests};
use crate::event::StoreId;
use crate::eventlog::EventLog;
use crate::keystore::keyring::KeyringError;
use crate::keystore::lease::Leases;
use crate::keystore::member;
use crate::keystore::{CachedKeystore, KeyCache, Keystore, KeystoreError, KeystoreOpenError, ServiceKeys};
use crate::projection::code::Codes;
use crate::projection::definitions::Definitions;
use crate::projection::engine::Projections;
use crate::projection::fold::Folds;
use crate::projection::fold::guard::Guard;
use crate::projection::query::RowReader;
use crate::read::access::AccessLog;
use crate::read::{self, Reader};
use crate::schema::{self, Registry};
use crate::sealing::Sealer;
use crate::secret::{Entropy, EntropyError};
use crate::telemetry::Metrics;
use backups::Backups;
pub use examine::examine;
use stores::{Places, Stores, prepare_directories, projection_tables};
use views::{ViewTasks, Views};

/// Why the server does not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory or file cannot be used.
    #[error("{path}: {kind}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        kind: std::io::ErrorKind,
    },
    /// Another process runs on this data.
    #[error("another process is already running on {path}; stop it first, or choose another --data-dir")]
    AlreadyRunning {
        /// The locked directory.
        path: PathBuf,
    },
    /// Some of the three domains exist and others do not.
    #[error(
        "{present} exists but {missing} does not. They belong together: without its keystore an event log is unreadable \
         for ever, so nothing is created beside it. Restore {missing}, or, if a first start was interrupted before \
         anything was written, remove {present}"
    )]
    Incomplete {
        /// What is there.
        present: String,
        /// What is not.
        missing: String,
    },
    /// The event log and the keyring are of different stores.
    #[error("the event log belongs to store {log}, the keyring to store {keyring}")]
    StoreMismatch {
        /// Store of the event log.
        log: StoreId,
        /// Store of the keyring.
        keyring: StoreId,
    },
    /// Event log and keystore are in one database.
    #[error(
        "event log and keystore are in one database: a backup of it would keep the keys of everybody who is forgotten. Give \
         the keystore a database of its own, best a cluster of its own, or set one_database = true if you know why"
    )]
    OneDatabase,
    /// The event log does not open.
    #[error("the event log does not open: {0}")]
    Log(#[from] OpenError),
    /// The keystore does not open.
    #[error("the keystore does not open: {0}")]
    Keystore(#[from] KeystoreOpenError),
    /// The keyring does not open.
    #[error("the keyring does not open: {0}")]
    Keyring(#[from] KeyringError),
    /// No random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The record of decisions cannot be replayed.
    #[error("the record of decisions cannot be replayed: {0}")]
    Replay(#[from] ReplayError),
    /// The erasure record cannot be compared.
    #[error("the erasure record cannot be compared: {0}")]
    Erasure(#[from] ForgetError),
    /// The keystore fails.
    #[error(transparent)]
    KeystoreFails(#[from] KeystoreError),
    /// The first API key cannot be recorded.
    #[error("the first API key cannot be recorded: {0}")]
    FirstKey(#[from] RecordError),
    /// The file of projections does not open.
    #[error(
        "the file of projections does not open: {0}; it can be computed again: stop the server, remove {1} and start"
    )]
    TablesFile(OpenError, String),
    /// The tables of projections cannot be used.
    #[error("the tables of projections cannot be used: {0}")]
    Tables(DbError),
    /// The host name of the log is not a valid checkpoint origin.
    #[error("the checkpoint origin is not valid")]
    Origin,
}

/// What the first start made, to be shown once.
#[derive(Debug, Default)]
pub struct FirstStart {
    /// What was created: event log, keystore and keyring.
    pub created: Vec<String>,
    /// The first administrator's key.
    pub admin_key: Option<String>,
}

/// What a process brings that no setting can say.
#[derive(Default)]
pub struct Extras<'f> {
    /// Projections written in Rust, by the name that definitions call them by.
    pub codes: Codes,
    /// Put in front of the keystore: what a keystore elsewhere can do wrong.
    pub in_front: Option<InFront<'f>>,
}

/// Wraps a keystore.
pub type InFront<'f> = Box<dyn FnOnce(Arc<dyn Keystore>) -> Arc<dyn Keystore> + Send + 'f>;

/// A running store.
pub struct App {
    /// Settings.
    pub config: Config,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub entropy: Arc<Entropy>,
    /// The event log.
    pub log: Arc<dyn EventLog>,
    /// The keys.
    pub keys: Arc<CachedKeystore>,
    /// Answers in flight that hold clear values.
    pub leases: Arc<Leases>,
    /// Schemas.
    pub registry: Arc<Registry>,
    /// Appends.
    pub appender: Appender,
    /// Reads.
    pub reader: Reader,
    /// Projections.
    pub projections: Arc<Projections>,
    /// Their rows.
    pub rows: RowReader,
    /// States of streams.
    pub folds: Arc<Folds>,
    /// Appends that may break an invariant.
    pub guard: Guard,
    /// Backups, and the exported erasure record.
    pub backups: Arc<Backups>,
    /// Forget requests.
    pub requests: Requests,
    /// Epochs of root keys.
    pub epochs: Epochs,
    /// Decisions.
    pub recorder: Recorder,
    /// API keys.
    pub api_keys: Arc<ApiKeys>,
    /// Signs tree heads.
    pub checkpoint: CheckpointKey,
    /// Keys for cursors and idempotency.
    pub service_keys: Arc<ServiceKeys>,
    /// Counters.
    pub metrics: Metrics,
    /// Whether the three erasure records agree; until then nothing personal is served.
    pub level: Arc<AtomicBool>,
    /// The queue.
    pub writer: Writer,
    /// Becomes true when the server begins to stop: live streams end then.
    pub stopping: watch::Sender<bool>,
    access: Arc<AccessLog>,
    view_tasks: ViewTasks,
    /// May be stopped anywhere.
    tasks: Vec<JoinHandle<()>>,
    /// Locked while the stores are open.
    lock: File,
}

impl App {
    /// Opens or creates the store and starts its tasks.
    ///
    /// # Errors
    /// [`StartError`]; nothing was changed unless the store was empty.
    pub async fn start(config: Config, clock: Clock, metrics: Metrics) -> Result<(Arc<Self>, FirstStart), StartError> {
        Self::start_with(config, clock, metrics, Extras::default()).await
    }

    /// Like [`App::start`], with what this process brings.
    ///
    /// # Errors
    /// [`StartError`]; nothing was changed unless the store was empty.
    pub async fn start_with(
        config: Config,
        clock: Clock,
        metrics: Metrics,
        extras: Extras<'_>,
    ) -> Result<(Arc<Self>, FirstStart), StartError> {
        let entropy = Arc::new(Entropy::system());
        // Before anything is made, so that a refusal leaves everything as it was; and again under the lock.
        let places = Places::of(&config).await?;
        places.is_fresh().await?;
        let lock = prepare_directories(&config)?;
        let fresh = places.is_fresh().await?;
        let stores = stores::at(&config, &places, (&clock, &entropy), fresh).await?;
        let mut first = FirstStart { created: if fresh { places.names().into() } else { Vec::new() }, admin_key: None };
        let service_keys = Arc::clone(&stores.service_keys);
        let mut keystore = Arc::clone(&stores.keystore);
        if let Some(wrap) = extras.in_front {
            keystore = wrap(keystore);
        }
        let exported = backups::exported(&config, &stores.keyring).map(|record| record.last);
        let standing = recovery::level(stores.log.as_ref(), keystore.as_ref(), &stores.keyring, exported).await?;
        let level = Arc::new(AtomicBool::new(announce(standing)));
        let api_keys = Arc::new(ApiKeys::default());
        let definitions = Arc::new(Definitions::default());
        let registry = Arc::new(Registry::new(registry_options(&config)));
        let decisions = Decisions::replay(&stores.log, &registry, &api_keys, &definitions).await?;
        let among = keystore.nodes().is_some().then(|| Arc::clone(&decisions));
        let paths = Paths::lay(&config, &clock, &entropy, &stores, keystore, (level, registry, among.clone()))?;
        let others = join(among.as_ref(), &paths, &clock, &config);
        let recorder = Recorder::new(decisions, paths.appender.clone(), among.is_some());
        first.admin_key = first_key(&config, &recorder, &api_keys).await?;
        let checkpoint = stores.checkpoint_key()?;
        let tables = projection_tables(&config, &places, stores.store).await?;
        let made = (&clock, &entropy, stores.store);
        let views = Views::start(&paths, tables, made, definitions, extras.codes).await?;
        let backups = Arc::new(Backups::new(&config, &places, &stores, clock.clone()));
        let (requests, epochs, mut tasks) = paths.erasures(stores, &config, &clock, &entropy);
        tasks.extend(others);
        tasks.extend(backups::start(&backups, requests.record_changes(), paths.appender.is_level()));
        tasks.push(tokio::spawn(flush_access(Arc::clone(&paths.access), clock.clone())));
        let Paths { log, keys, leases, registry, access, appender, reader, level, queue, .. } = paths;
        let app = Self {
            config,
            clock,
            entropy,
            log,
            keys,
            registry,
            appender,
            reader,
            projections: views.projections,
            rows: views.rows,
            folds: views.folds,
            guard: views.guard,
            requests,
            epochs,
            recorder,
            api_keys,
            checkpoint,
            service_keys,
            metrics,
            level,
            writer: queue,
            stopping: watch::Sender::new(false),
            access,
            leases,
            view_tasks: views.tasks,
            backups,
            tasks,
            lock,
        };
        Ok((Arc::new(app), first))
    }

    /// Whether personal data may be served.
    pub fn is_level(&self) -> bool {
        self.level.load(Ordering::SeqCst)
    }

    /// Says that the server is about to stop, so that answers without an end come to one.
    pub fn begin_to_stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Stops in order: what is queued is committed, counts of reads are written, the keystore is washed, both close.
    /// Answers in flight must have ended before.
    pub async fn stop(&self) {
        self.view_tasks.end(&self.projections).await;
        let _ = self.access.flush(self.clock.now(), true).await;
        for task in &self.tasks {
            // The worker and the epochs may be stopped anywhere: they resume from log and keystore.
            task.abort();
        }
        while self.writer.waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.log.close().await;
        // Answers that did not end in time end here: after the keystore is closed nobody waits for this process.
        self.leases.close().await;
        self.keys.horizon().set(Boottime::ZERO);
        self.keys.cache().clear();
        self.keys.keystore().close().await;
        // Not left to the file's closing: a child process that is just being started holds a copy of it.
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(kind = ?error.kind(), "the directory stays locked until this process ends");
        }
    }
}

/// The ways in and out: everything between the stores and the interfaces.
struct Paths {
    log: Arc<dyn EventLog>,
    keys: Arc<CachedKeystore>,
    leases: Arc<Leases>,
    registry: Arc<Registry>,
    access: Arc<AccessLog>,
    appender: Appender,
    reader: Reader,
    read: read::Parts,
    level: Arc<AtomicBool>,
    queue: Writer,
}

impl Paths {
    fn lay(
        config: &Config,
        clock: &Clock,
        entropy: &Arc<Entropy>,
        stores: &Stores,
        keystore: Arc<dyn Keystore>,
        (level, registry, among): (Arc<AtomicBool>, Arc<Registry>, Option<Arc<Decisions>>),
    ) -> Result<Self, StartError> {
        let log: Arc<dyn EventLog> = match &among {
            Some(decisions) => Arc::new(FollowingLog::new(Arc::clone(&stores.log), Arc::clone(decisions))),
            None => Arc::clone(&stores.log),
        };
        let options = writer::Options { queue: config.limits.writer_queue, batch: config.limits.batch_jobs };
        let (queue, _ends_by_itself) = Writer::start(Arc::clone(&log), options);
        let keys = Arc::new(CachedKeystore::new(keystore, KeyCache::new(config.key_cache)?));
        let leases = Arc::new(Leases::new(config.lease));
        let access = Arc::new(AccessLog::new(queue.clone()));
        let appender = Appender::new(
            Arc::clone(&registry),
            Arc::clone(&keys),
            Sealer::new(stores.store, Arc::clone(entropy), config.limits.slots_per_event),
            queue.clone(),
            clock.clone(),
            Arc::clone(&level),
        )
        .following(among.map(|decisions| decisions as Arc<dyn Decided>));
        let read = read::Parts {
            log: Arc::clone(&log),
            keys: Arc::clone(&keys),
            leases: Arc::clone(&leases),
            registry: Arc::clone(&registry),
            access: Arc::clone(&access),
            clock: clock.clone(),
            level: Arc::clone(&level),
        };
        let reader = Reader::new(read.clone(), stores.store);
        Ok(Self { log, keys, leases, registry, access, appender, reader, read, level, queue })
    }

    /// Starts what makes an end of erasures, and what hands them to it.
    fn erasures(
        &self,
        stores: Stores,
        config: &Config,
        clock: &Clock,
        entropy: &Arc<Entropy>,
    ) -> (Requests, Epochs, Vec<JoinHandle<()>>) {
        let parts = Parts {
            log: Arc::clone(&self.log),
            keys: Arc::clone(&self.keys),
            leases: Arc::clone(&self.leases),
            appender: self.appender.clone(),
            clock: clock.clone(),
            entropy: Arc::clone(entropy),
            horizon: config.backup_bound(),
        };
        let (epochs, job) = epochs::start(config, &parts, Arc::clone(&self.level));
        let (requests, [worker, deep]) = recovery::start(parts, stores.keyring, stores.store, config.deep_erase_after);
        (requests, epochs, vec![worker, deep, job])
    }
}

/// Takes part where there are other processes: follows what they decide, lets go of what they revoke.
fn join(among: Option<&Arc<Decisions>>, paths: &Paths, clock: &Clock, config: &Config) -> Vec<JoinHandle<()>> {
    let Some(decisions) = among else { return Vec::new() };
    let (keys, leases) = (Arc::clone(&paths.keys), Arc::clone(&paths.leases));
    vec![
        tokio::spawn(Arc::clone(decisions).follow()),
        tokio::spawn(member::take_part(keys, leases, clock.clone(), name_of(config))),
    ]
}

/// What this process is called among others, for people only.
fn name_of(config: &Config) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{} {}", host.trim(), config.listen).trim().to_owned()
}

/// Writes the counts of closed access windows every few seconds.
async fn flush_access(access: Arc<AccessLog>, clock: Clock) {
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tick.tick().await;
        if let Err(error) = access.flush(clock.now(), false).await {
            tracing::warn!(error = %error, "counts of personal reads cannot be written yet");
        }
    }
}

fn registry_options(config: &Config) -> schema::Options {
    use crate::config::{LeakGuard, SchemaPolicy};
    schema::Options {
        default_policy: match config.schema_policy {
            SchemaPolicy::Open => schema::SchemaPolicy::Open,
            SchemaPolicy::Registered => schema::SchemaPolicy::Registered,
            SchemaPolicy::Sealed => schema::SchemaPolicy::Sealed,
        },
        default_leak_guard: match config.leak_guard {
            LeakGuard::Off => schema::LeakGuard::Off,
            LeakGuard::Warn => schema::LeakGuard::Warn,
            LeakGuard::Reject => schema::LeakGuard::Reject,
        },
    }
}

fn announce(standing: Standing) -> bool {
    match standing {
        Standing::Level { replayed: 0 } => true,
        Standing::Level { replayed } => {
            tracing::warn!(replayed, "the keystore was older than the erasure record; its destructions were repeated");
            true
        }
        Standing::Behind { log, witnessed } => {
            tracing::error!(
                log,
                witnessed,
                "the event log is older than the erasure record; personal data stays sealed"
            );
            false
        }
    }
}

/// The first administrator's key, when nobody has one yet and this is not `--dev`.
async fn first_key(config: &Config, recorder: &Recorder, api_keys: &ApiKeys) -> Result<Option<String>, StartError> {
    if config.dev {
        api_keys.allow_dev();
        return Ok(None);
    }
    if !api_keys.list().is_empty() {
        return Ok(None);
    }
    let grant = Grant {
        roles: vec![Role::Admin],
        categories: Vec::new(),
        types: Vec::new(),
        purposes: PurposeGrant::These(Vec::new()),
        expires_at: None,
    };
    let issued = auth::issue("first-admin".into(), grant, "first-start")?;
    recorder.record(|| Ok::<_, RecordError>(Record::ApiKey(issued.record))).await?;
    Ok(Some(issued.secret))
}
