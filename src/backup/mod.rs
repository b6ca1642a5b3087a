//! Backups: what is kept where, for how long, and how it comes back.
//!
//! Owns: the directories of backups, their manifests, the horizon of key backups, and the making and putting back of one
//! domain's copy on either engine. Must not know: servers, requests, which erasures a restored copy lacks (the ordinary
//! start compares). Keeps its part of invariant 8: a copy is put back only where it belongs, and what was there is never
//! silently gone.

pub mod manifest;
pub mod postgres;
pub mod shelf;
pub mod sqlite;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use manifest::{Contents, Domain, Engine, Manifest};
pub use shelf::{Listed, Shelf};

use crate::db::OpenError;
use crate::keystore::KeystoreError;

/// Why a backup was not made, or not put back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The operating system refused.
    #[error("{}: {kind}", path.display())]
    Io {
        /// On which file.
        path: PathBuf,
        /// Why.
        kind: ErrorKind,
    },
    /// Another one is being made.
    #[error("another backup is being made")]
    Busy,
    /// The database cannot be read or written.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The keystore cannot be copied.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    /// There is no manifest beside the file.
    #[error("{} is missing: without it nobody knows what the backup is of, or whether it is whole", path.display())]
    NoManifest {
        /// The manifest.
        path: PathBuf,
    },
    /// The manifest is malformed, of another format, or of another domain than asked for.
    #[error("{} is no manifest of a backup of {wanted}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// `events` or `keys`.
        wanted: &'static str,
    },
    /// Not the bytes that were written.
    #[error("{} is damaged or cut off: its length or SHA-256 is not the one in its manifest", path.display())]
    Damaged {
        /// The backup.
        path: PathBuf,
    },
    /// Another store's, or the file is not what its manifest says.
    #[error("the backup belongs to another store than the keyring")]
    OtherStore,
    /// Made on the other engine.
    #[error("the backup was made on {made}, the settings say {wanted}")]
    OtherEngine {
        /// Engine of the backup.
        made: &'static str,
        /// Engine of the settings.
        wanted: &'static str,
    },
    /// The keys were wrapped under a root that is destroyed.
    #[error(
        "the root key of epoch {epoch} is gone: this backup of the keys opens nothing any more, and that is what it is \
         for. Take a younger one"
    )]
    RootGone {
        /// The epoch.
        epoch: u32,
    },
    /// A node of the store is connected to the database.
    #[error("a server is connected to this database; stop every node first")]
    InUse,
    /// Something is there.
    #[error("{what} is not empty; --replace moves what is there aside first")]
    Occupied {
        /// What.
        what: String,
    },
    /// `pg_dump` or `pg_restore` is missing.
    #[error(
        "the program {program} is not in the path; install PostgreSQL's client programs of version {needed} or newer"
    )]
    NoProgram {
        /// Its name.
        program: &'static str,
        /// Major version of the server.
        needed: u32,
    },
    /// `pg_dump` or `pg_restore` is older than the server.
    #[error("{program} is of version {found}, the server of {needed}: install client programs of version {needed}")]
    OldProgram {
        /// Its name.
        program: &'static str,
        /// Its major version.
        found: u32,
        /// Major version of the server.
        needed: u32,
    },
    /// The program ended with an error. Its words are not repeated: they may quote rows.
    #[error("{program} failed with exit code {code}; it changed nothing. The server's log says why")]
    Program {
        /// Its name.
        program: &'static str,
        /// Exit code; -1 when it was killed.
        code: i32,
    },
}

impl BackupError {
    /// From what the operating system said about a file.
    pub fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), kind: error.kind() }
    }
}
