//! The directories in which backups lie, one per domain.
//!
//! Owns: listing, and taking away: key backups past their time, and what a crash left. Must not know: how backups are
//! made. A file that has no manifest of ours is not ours and is left alone.

use std::path::{Path, PathBuf};

use super::{BackupError, Domain, Manifest};
use crate::clock::Millis;
use crate::durable;

/// A backup in a list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What it is.
    pub manifest: Manifest,
    /// Past its time, and not yet taken away.
    pub expired: bool,
}

/// The directories.
#[derive(Clone, Debug)]
pub struct Shelf {
    /// Of the event log.
    pub events: PathBuf,
    /// Of the keystore.
    pub keys: PathBuf,
}

impl Shelf {
    /// The directory of a domain, made if it is missing.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn dir(&self, domain: Domain) -> Result<&Path, BackupError> {
        let dir = match domain {
            Domain::Events => &self.events,
            Domain::Keys => &self.keys,
        };
        durable::private_dir(dir).map_err(|error| BackupError::io(dir, &error))?;
        Ok(dir)
    }

    /// Every backup that is whole, oldest first.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn list(&self, now: Millis) -> Result<Vec<Listed>, BackupError> {
        let mut all = Vec::new();
        for (domain, dir) in [(Domain::Events, &self.events), (Domain::Keys, &self.keys)] {
            for path in entries(dir)? {
                if let Ok(manifest) = Manifest::read(&path, domain) {
                    all.push(Listed { expired: manifest.is_expired(now), manifest });
                }
            }
        }
        all.sort_by(|one, other| one.manifest.made_at.cmp(&other.manifest.made_at));
        Ok(all)
    }

    /// Overwrites and removes key backups past their time; the names of those that are gone now.
    ///
    /// # Errors
    /// [`BackupError::Io`] of the first that stays.
    pub fn sweep(&self, now: Millis) -> Result<Vec<String>, BackupError> {
        let mut gone = Vec::new();
        for path in entries(&self.keys)? {
            let Ok(manifest) = Manifest::read(&path, Domain::Keys) else { continue };
            if manifest.is_expired(now) {
                durable::destroy(&path).map_err(|error| BackupError::io(&path, &error))?;
                let beside = Manifest::beside(&path);
                durable::destroy(&beside).map_err(|error| BackupError::io(&beside, &error))?;
                gone.push(manifest.file);
            }
        }
        Ok(gone)
    }

    /// Takes away what an interrupted backup left. Only while none is being made.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn tidy(&self) -> Result<(), BackupError> {
        for dir in [&self.events, &self.keys] {
            for path in entries(dir)? {
                let backup = path.to_str().and_then(|name| name.strip_suffix(".json"));
                let orphan = backup.is_some_and(|backup| is_ours(Path::new(backup)) && !Path::new(backup).exists());
                if orphan || (durable::is_unfinished(&path) && is_ours(&path)) {
                    durable::destroy(&path).map_err(|error| BackupError::io(&path, &error))?;
                }
            }
        }
        Ok(())
    }
}

fn is_ours(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|n| n.starts_with("events-") || n.starts_with("keys-"))
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, BackupError> {
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|p| p.is_file()).collect();
            paths.sort();
            Ok(paths)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(BackupError::io(dir, &error)),
    }
}
