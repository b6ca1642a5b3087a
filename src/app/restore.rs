//! Work on a store whose server does not run: backups of it, putting them back, importing the erasure record, checking it.
//!
//! Owns: the order of these, under the lock that a server holds. Must not know: the command line. Nothing here decides who
//! is forgotten: the ordinary start compares the records and repeats what a restored keystore lacks.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::backups::{Backups, Origin};
use super::stores::{self, Places, Stores, prepare_directories, remove_file};
use super::{Paths, StartError};
use crate::audit::{Decisions, ReplayError};
use crate::backup::sqlite::{self, Replaced};
use crate::backup::{BackupError, Domain, Manifest};
use crate::clock::{Clock, Millis};
use crate::config::Config;
use crate::db::OpenError;
use crate::db::postgres::PostgresDb;
use crate::erasure::import::{ImportError, import};
use crate::erasure::record::{Record, RecordError};
use crate::erasure::recovery::{self, Standing};
use crate::erasure::requests::ForgetError;
use crate::eventlog::ReadError;
use crate::keystore::keyring::{Keyring, KeyringError};
use crate::keystore::{Keystore, KeystoreError};
use crate::projection::store;
use crate::schema::Registry;
use crate::secret::Entropy;
use crate::verify::{self, Defect, Finding, Place, Report, VerifyError};

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The store cannot be used, or its server runs.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The backup cannot be made or is not put back.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The record cannot be written or is not believed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The record is not imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The records cannot be compared afterwards.
    #[error("the erasure records cannot be compared: {0}")]
    Erasure(#[from] ForgetError),
    /// The store cannot be checked.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// There is no store to work on.
    #[error("there is no store here")]
    Nothing,
}

impl From<KeyringError> for RestoreError {
    fn from(error: KeyringError) -> Self {
        Self::Start(error.into())
    }
}

impl From<KeystoreError> for RestoreError {
    fn from(error: KeystoreError) -> Self {
        Self::Start(error.into())
    }
}

impl From<OpenError> for RestoreError {
    fn from(error: OpenError) -> Self {
        Self::Backup(error.into())
    }
}

/// What a restore did.
#[derive(Debug)]
pub struct PutBack {
    /// What was put back.
    pub manifest: Manifest,
    /// Where what was there before is now, if it was kept.
    pub aside: Option<String>,
}

/// Puts a backup of a domain back.
///
/// # Errors
/// [`RestoreError`]; unless it says otherwise, nothing was changed.
pub async fn put_back(
    config: &Config,
    clock: &Clock,
    domain: Domain,
    from: &Path,
    replaced: Replaced,
) -> Result<PutBack, RestoreError> {
    let places = Places::of(config).await?;
    let _alone = Alone::take(config)?;
    let keyring = Keyring::open(&config.keyring_dir)?;
    let manifest = Manifest::read(from, domain)?;
    let origin = Origin::of(config, &places, domain);
    if manifest.engine != origin.engine() {
        let (made, wanted) = (manifest.engine.as_str(), origin.engine().as_str());
        return Err(BackupError::OtherEngine { made, wanted }.into());
    }
    manifest.check(from, keyring.store_id())?;
    if let Some(epoch) = manifest.epochs.iter().find(|epoch| keyring.root(**epoch).is_none()) {
        return Err(BackupError::RootGone { epoch: *epoch }.into());
    }
    let name = aside_name(clock.now());
    let aside = match &origin {
        Origin::File(target) => {
            let found = sqlite::contents(from, domain)?;
            if found.store != keyring.store_id() || found.epochs != manifest.epochs {
                return Err(BackupError::OtherStore.into());
            }
            let occupied = sqlite::files_of(target).iter().any(|path| path.exists());
            if domain == Domain::Events && (replaced != Replaced::Refuse || !occupied) {
                // Computed from the log that goes; computed again from the one that comes.
                remove_file(&config.projections_db());
            }
            let moved = sqlite::put_back(from, &manifest, target, replaced, &name)?;
            moved.map(|path| path.display().to_string())
        }
        Origin::Schema(source) => {
            let rows = source.target.clone().in_schema(store::SCHEMA);
            if domain == Domain::Events && replaced != Replaced::Refuse {
                PostgresDb::remove(rows.clone()).await?;
            }
            let kept = source.put_back(domain, from, replaced, &name).await?;
            if domain == Domain::Events {
                PostgresDb::remove(rows).await?;
            }
            if source.contents(domain).await?.store != keyring.store_id() {
                return Err(BackupError::OtherStore.into());
            }
            kept.map(|schema| format!("schema {schema}"))
        }
    };
    Ok(PutBack { manifest, aside })
}

/// `before_20261121T200000000Z`: fit for a directory and for a schema.
fn aside_name(at: Millis) -> String {
    let time: String = at.rfc3339().chars().filter(char::is_ascii_alphanumeric).collect();
    format!("before_{}", time.to_lowercase())
}

/// The lock that a server holds.
struct Alone(File);

impl Alone {
    fn take(config: &Config) -> Result<Self, StartError> {
        prepare_directories(config).map(Self)
    }
}

impl Drop for Alone {
    /// Not left to the file's closing: a child process that is just being started holds a copy of it.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// A store that is open and that nobody else uses.
struct Offline {
    stores: Stores,
    places: Places,
    entropy: Arc<Entropy>,
    _alone: Alone,
}

impl Offline {
    async fn open(config: &Config, clock: &Clock) -> Result<Self, RestoreError> {
        let entropy = Arc::new(Entropy::system());
        let places = Places::of(config).await?;
        if places.is_fresh().await? {
            return Err(RestoreError::Nothing);
        }
        let alone = Alone::take(config)?;
        let stores = stores::at(config, &places, (clock, &entropy), false).await?;
        Ok(Self { stores, places, entropy, _alone: alone })
    }

    fn backups(&self, config: &Config, clock: &Clock) -> Backups {
        Backups::new(config, &self.places, &self.stores, clock.clone())
    }

    async fn check(&self, config: &Config, options: &verify::Options) -> Result<Report, RestoreError> {
        let Stores { log, keystore, .. } = &self.stores;
        let registry = Arc::new(Registry::new(super::registry_options(config)));
        let replayed = match Decisions::replay(log, &registry, &Arc::default(), &Arc::default()).await {
            Ok(_) => true,
            // Damaged like any other event: all else is checked, without what the schemas say.
            Err(ReplayError::Corrupt { .. } | ReplayError::Read(ReadError::Corrupt { .. })) => false,
            Err(ReplayError::Read(error)) => return Err(VerifyError::from(error).into()),
        };
        let registry = replayed.then_some(registry.as_ref());
        let mut report = verify::verify(log.as_ref(), Some(keystore.as_ref()), registry, options).await?;
        if registry.is_none() {
            report.findings.push(Finding { place: Place::Decisions, defect: Defect::DecisionsUnreadable });
        }
        Ok(report)
    }

    async fn close(self) {
        self.stores.log.close().await;
        self.stores.keystore.close().await;
    }
}

/// Checks a store that does not run: every event, every slot that can be opened, every entry of the erasure record.
///
/// # Errors
/// [`RestoreError`] when it cannot be opened or read. What is wrong in it is in the report.
pub async fn verify(config: &Config, clock: &Clock, options: &verify::Options) -> Result<Report, RestoreError> {
    let offline = Offline::open(config, clock).await?;
    let checked = offline.check(config, options).await;
    offline.close().await;
    checked
}

/// Makes a backup of a domain of a store that does not run.
///
/// # Errors
/// [`RestoreError`].
pub async fn back_up(config: &Config, clock: &Clock, domain: Domain) -> Result<Manifest, RestoreError> {
    let offline = Offline::open(config, clock).await?;
    let made = offline.backups(config, clock).make(domain).await;
    offline.close().await;
    Ok(made?)
}

/// Exports the record of a store that does not run: the file, and its last entry. Not from a log that is behind what was
/// exported before.
///
/// # Errors
/// [`RestoreError`].
pub async fn export_record(config: &Config, clock: &Clock) -> Result<(PathBuf, u64), RestoreError> {
    let offline = Offline::open(config, clock).await?;
    let exported = async {
        let standing = offline.standing(super::backups::exported(config, &offline.stores.keyring)).await?;
        if let Standing::Behind { log, witnessed } = standing {
            return Err(ImportError::TooOld { record: log, witnessed }.into());
        }
        Ok(offline.backups(config, clock).export().await?)
    };
    let exported = exported.await;
    offline.close().await;
    exported
}

/// What an import did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Erasures that were made again on the log.
    pub entries: u64,
    /// How the records stand now.
    pub standing: Standing,
}

/// Imports an exported record into a log that lacks a part of it. The keys of whom it names are destroyed by the next
/// start, before anything personal is served.
///
/// # Errors
/// [`RestoreError`]; a crash in the middle leaves a log that is behind, and the import is repeated.
pub async fn import_record(config: &Config, clock: &Clock, from: &Path) -> Result<Imported, RestoreError> {
    let offline = Offline::open(config, clock).await?;
    let imported = offline.import(config, clock, from).await;
    offline.close().await;
    imported
}

impl Offline {
    async fn import(&self, config: &Config, clock: &Clock, from: &Path) -> Result<Imported, RestoreError> {
        let Stores { log, keystore, keyring, .. } = &self.stores;
        let record = Record::read(from, keyring)?;
        let known = super::backups::exported(config, keyring);
        let applied = keystore.stats().await?.applied_erasure;
        let remembered = known.as_ref().map_or(applied, |known| applied.max(known.last.number));
        let behind = Arc::new(AtomicBool::new(false));
        let registry = Arc::new(Registry::new(super::registry_options(config)));
        let among = (behind, registry, None);
        let paths = Paths::lay(config, clock, &self.entropy, &self.stores, Arc::clone(keystore), among)?;
        let witnessed = keyring.erasure_record();
        let entries = import(log.as_ref(), &paths.appender, &record, witnessed, remembered).await?;
        Ok(Imported { entries, standing: self.standing(known).await? })
    }

    async fn standing(&self, exported: Option<Record>) -> Result<Standing, ForgetError> {
        let Stores { log, keystore, keyring, .. } = &self.stores;
        let keystore: &dyn Keystore = keystore.as_ref();
        recovery::level(log.as_ref(), keystore, keyring, exported.map(|record| record.last)).await
    }
}
