//! Copies of SQLite files, and putting them back.
//!
//! Owns: the compact copy, what is read from a copy, and the moves of a restore. Must not know: where backups are kept. A
//! compact copy is built from live rows alone, so it holds no page that was given up. Moves are ordered so that a crash
//! leaves a store that does not start, never one of parts of two ages: the database goes first and comes last.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension};

use super::manifest::{Contents, Domain};
use super::{BackupError, Manifest};
use crate::crash;
use crate::db::{self, OpenError, OpenMode};
use crate::durable::{self, Draft};
use crate::event::StoreId;
use crate::keystore::keyring::ErasureRecord;

/// What is done with what stands in the way of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// Nothing may stand there.
    Refuse,
    /// It is moved aside.
    Aside,
    /// It is overwritten and removed.
    Destroy,
}

/// Copies the event log into the empty file `to` as it is at one moment. Who appends is not held up: it is one long read.
///
/// # Errors
/// [`OpenError`].
pub fn copy_log(source: &Path, to: &Path) -> Result<(), OpenError> {
    vacuum(&db::open(source, OpenMode::ReadOnly)?, to)
}

/// Copies the live rows of a raw copy that nobody else has open.
///
/// # Errors
/// [`OpenError`].
pub fn compact(raw: &Path, to: &Path) -> Result<(), OpenError> {
    let connection = Connection::open(raw).map_err(|error| db::classify(&error, "open"))?;
    connection
        .execute_batch("pragma locking_mode=exclusive; pragma journal_mode=delete; pragma temp_store=memory")
        .map_err(|error| db::classify(&error, "open"))?;
    vacuum(&connection, to)
}

fn vacuum(connection: &Connection, to: &Path) -> Result<(), OpenError> {
    let to = to.to_str().ok_or(OpenError::Unusable { reason: "the name of the directory is not UTF-8" })?;
    let copied = connection.execute("vacuum into ?1", [to]);
    copied.map(drop).map_err(|error| db::classify(&error, "copy"))
}

/// Reads what a copy holds.
///
/// # Errors
/// [`OpenError`] when it is no database of this domain.
pub fn contents(path: &Path, domain: Domain) -> Result<Contents, OpenError> {
    let connection = db::open(path, OpenMode::ReadOnly)?;
    let found = match domain {
        Domain::Events => log_contents(&connection),
        Domain::Keys => keys_contents(&connection),
    };
    found.map_err(|error| db::classify(&error, "contents"))
}

fn log_contents(connection: &Connection) -> rusqlite::Result<Contents> {
    let last = connection
        .query_row("select number, digest from erasures order by number desc limit 1", [], |row| {
            Ok(ErasureRecord { number: row.get::<_, i64>(0)? as u64, digest: row.get(1)? })
        })
        .optional()?;
    connection.query_row("select store, next_position from head", [], |row| {
        Ok(Contents {
            store: StoreId(row.get(0)?),
            format: connection.pragma_query_value(None, "user_version", |row| row.get(0))?,
            next_position: Some(row.get::<_, i64>(1)? as u64),
            erasure: last.unwrap_or_default(),
            epochs: Vec::new(),
        })
    })
}

fn keys_contents(connection: &Connection) -> rusqlite::Result<Contents> {
    let mut epochs = connection.prepare("select epoch from secrets union select root from keks order by 1")?;
    let epochs = epochs.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    connection.query_row("select store, format, applied_erasure from meta", [], |row| {
        Ok(Contents {
            store: StoreId(row.get(0)?),
            format: row.get(1)?,
            next_position: None,
            erasure: ErasureRecord { number: row.get::<_, i64>(2)? as u64, digest: [0; 32] },
            epochs,
        })
    })
}

/// Puts a checked backup in the place of `target`. Gives where the old one went, if it was moved.
///
/// # Errors
/// [`BackupError::Occupied`] when something is there and may not be replaced.
pub fn put_back(
    backup: &Path,
    manifest: &Manifest,
    target: &Path,
    replaced: Replaced,
    aside: &str,
) -> Result<Option<PathBuf>, BackupError> {
    let old = files_of(target);
    let there = old.iter().any(|path| path.exists());
    if there && replaced == Replaced::Refuse {
        return Err(BackupError::Occupied { what: target.display().to_string() });
    }
    // The copy first: a disk that is full is found out before anything is moved.
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| BackupError::io(&path, &error)
    };
    let mut draft = Draft::new(target).map_err(io(target))?;
    let mut source = File::open(backup).map_err(io(backup))?;
    std::io::copy(&mut source, draft.file()).map_err(io(target))?;
    draft.file().sync_all().map_err(io(target))?;
    let (bytes, sha256) = durable::measure(draft.path()).map_err(io(target))?;
    if bytes != manifest.bytes || hex::encode(sha256) != manifest.sha256 {
        draft.discard().map_err(io(target))?;
        return Err(BackupError::Damaged { path: backup.to_owned() });
    }
    crash::point("restore.before-aside");
    let moved = match replaced {
        Replaced::Destroy => {
            for path in &old {
                durable::destroy(path).map_err(io(path))?;
            }
            None
        }
        Replaced::Aside if there => Some(move_aside(target, &old, aside)?),
        Replaced::Aside | Replaced::Refuse => None,
    };
    crash::point("restore.aside");
    draft.finish().map_err(io(target))?;
    Ok(moved)
}

/// The database itself first: without it nothing starts, and what is left of it by a crash is moved the next time. A
/// write-ahead log left beside a database that it is not of would be read into it.
fn move_aside(target: &Path, old: &[PathBuf], aside: &str) -> Result<PathBuf, BackupError> {
    let dir = target.with_file_name(aside);
    durable::private_dir(&dir).map_err(|error| BackupError::io(&dir, &error))?;
    for path in old.iter().filter(|path| path.exists()) {
        let to = dir.join(path.file_name().unwrap_or_default());
        let moved = std::fs::rename(path, &to).and_then(|()| durable::sync_parent(&to));
        moved.and_then(|()| durable::sync_parent(path)).map_err(|error| BackupError::io(path, &error))?;
    }
    Ok(dir)
}

/// A database and what SQLite keeps beside it, the database first.
pub fn files_of(database: &Path) -> Vec<PathBuf> {
    let beside = |suffix: &str| {
        let mut name = database.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        database.with_file_name(name)
    };
    vec![database.to_owned(), beside("-wal"), beside("-shm")]
}
