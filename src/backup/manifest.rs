//! What a backup is of: the text beside it.
//!
//! Owns: the format of manifests and their names. A manifest is written before its backup gets its name, so a backup that
//! can be seen has one; a manifest without a backup is what a crash left, and is swept away.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::BackupError;
use crate::clock::Millis;
use crate::durable::{self, Draft};
use crate::event::StoreId;
use crate::keystore::keyring::ErasureRecord;

/// Format of manifests.
const FORMAT: u32 = 1;
/// A manifest is far shorter.
const LONGEST: u64 = 64 * 1024;

/// What is backed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Domain {
    /// The event log: ciphertext only, for as long as one likes.
    Events,
    /// The keystore: for days.
    Keys,
}

impl Domain {
    /// The word used in requests, answers and names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Keys => "keys",
        }
    }
}

/// What held it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// A file.
    Sqlite,
    /// A schema.
    Postgres,
}

impl Engine {
    /// The engine's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }

    fn ending(self) -> &'static str {
        match self {
            Self::Sqlite => "db",
            Self::Postgres => "dump",
        }
    }
}

/// What was found in a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Whose it is.
    pub store: StoreId,
    /// Format of the tables.
    pub format: u32,
    /// Events: the next position. Keys: none.
    pub next_position: Option<u64>,
    /// The last erasure in it; keys know its number only.
    pub erasure: ErasureRecord,
    /// Epochs of the roots that wrap its keys. Events: none.
    pub epochs: Vec<u32>,
}

/// The text beside a backup. No personal data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format of this text.
    pub format: u32,
    /// What it is of.
    pub domain: Domain,
    /// What held it.
    pub engine: Engine,
    /// The store, hexadecimal.
    pub store: String,
    /// Name of the backup.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// When it was begun, RFC 3339.
    pub made_at: String,
    /// Format of the tables in it.
    pub tables: u32,
    /// Events: the next position.
    pub next_position: Option<u64>,
    /// Number of the last erasure in it.
    pub erasure: u64,
    /// Events: digest of the erasure record up to there, hexadecimal.
    pub erasure_digest: Option<String>,
    /// Keys: epochs of the roots that wrap them.
    pub epochs: Vec<u32>,
    /// Keys: when it is overwritten and removed. The roots it needs are destroyed about then.
    pub expires_at: Option<String>,
}

impl Manifest {
    /// Of a copy that is whole at `path` and will be called as [`Manifest::name`] says; one of the keystore is kept for
    /// `keep` (K). When the roots it was wrapped under are destroyed, it opens nothing any more.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn of(
        path: &Path,
        domain: Domain,
        engine: Engine,
        contents: &Contents,
        (at, keep): (Millis, Duration),
    ) -> Result<Self, BackupError> {
        let (bytes, sha256) = durable::measure(path).map_err(|error| BackupError::io(path, &error))?;
        let expires = Millis(at.0.saturating_add(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX)));
        let events = domain == Domain::Events;
        Ok(Self {
            format: FORMAT,
            domain,
            engine,
            store: hex::encode(contents.store.0),
            file: Self::name(domain, engine, at),
            bytes,
            sha256: hex::encode(sha256),
            made_at: at.rfc3339(),
            tables: contents.format,
            next_position: contents.next_position,
            erasure: contents.erasure.number,
            erasure_digest: events.then(|| hex::encode(contents.erasure.digest)),
            epochs: contents.epochs.clone(),
            expires_at: (!events).then(|| expires.rfc3339()),
        })
    }

    /// The name of a backup begun at a time: names sort by it.
    pub fn name(domain: Domain, engine: Engine, at: Millis) -> String {
        let time: String = at.rfc3339().chars().filter(char::is_ascii_alphanumeric).collect();
        format!("{}-{time}.{}", domain.as_str(), engine.ending())
    }

    /// Whether it should be gone by now.
    pub fn is_expired(&self, now: Millis) -> bool {
        self.expires_at.as_deref().and_then(Millis::parse_rfc3339).is_some_and(|expires| now >= expires)
    }

    /// The path of a backup's manifest.
    pub fn beside(backup: &Path) -> PathBuf {
        let mut name = backup.file_name().unwrap_or_default().to_owned();
        name.push(".json");
        backup.with_file_name(name)
    }

    /// Writes it beside its backup.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn write(&self, backup: &Path) -> Result<(), BackupError> {
        let path = Self::beside(backup);
        let io = |error: std::io::Error| BackupError::io(&path, &error);
        let mut draft = Draft::new(&path).map_err(io)?;
        serde_json::to_writer_pretty(draft.file(), self).map_err(|error| io(error.into()))?;
        draft.finish().map_err(io)
    }

    /// Reads the one beside a backup.
    ///
    /// # Errors
    /// [`BackupError::NoManifest`], [`BackupError::Manifest`].
    pub fn read(backup: &Path, domain: Domain) -> Result<Self, BackupError> {
        let path = Self::beside(backup);
        let wrong = || BackupError::Manifest { path: path.clone(), wanted: domain.as_str() };
        let length = std::fs::metadata(&path).map_err(|_| BackupError::NoManifest { path: path.clone() })?.len();
        if length > LONGEST {
            return Err(wrong());
        }
        let text = std::fs::read(&path).map_err(|error| BackupError::io(&path, &error))?;
        let manifest: Self = serde_json::from_slice(&text).map_err(|_| wrong())?;
        if manifest.format == FORMAT && manifest.domain == domain { Ok(manifest) } else { Err(wrong()) }
    }

    /// Whether the backup beside it is the one it speaks of, whole, and of this store.
    ///
    /// # Errors
    /// [`BackupError::OtherStore`], [`BackupError::Damaged`], [`BackupError::Io`].
    pub fn check(&self, backup: &Path, store: StoreId) -> Result<(), BackupError> {
        if self.store != hex::encode(store.0) {
            return Err(BackupError::OtherStore);
        }
        let (bytes, sha256) = durable::measure(backup).map_err(|error| BackupError::io(backup, &error))?;
        if bytes == self.bytes && hex::encode(sha256) == self.sha256 {
            return Ok(());
        }
        Err(BackupError::Damaged { path: backup.to_owned() })
    }
}
