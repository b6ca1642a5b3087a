//! Databases: opening, settings, migrations, error classes; and one way to run portable SQL on any engine.
//!
//! Owns: how a database of ours is opened and brought to its format, [`Db`]. Must not know: what is in it.

pub mod postgres;
pub mod readers;
pub mod sqlite;
pub mod statement;

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use postgres::PostgresDb;
use sqlite::SqliteDb;
use statement::{DbError, Rows, Statement, Value};

/// A database on some engine, for everything whose physics and trust do not differ between engines: portable SQL
/// (`$n`, `bigint`, `text`, `blob`, `on conflict`), transactions as values.
#[derive(Clone)]
pub enum Db {
    /// A file.
    Sqlite(SqliteDb),
    /// A schema.
    Postgres(PostgresDb),
}

/// Calls the same method on whichever engine it is.
macro_rules! each_engine {
    ($db:expr, $engine:ident => $call:expr) => {
        match $db {
            Db::Sqlite($engine) => $call,
            Db::Postgres($engine) => $call,
        }
    };
}

impl Db {
    /// Runs a query for each set of parameters in one snapshot and gives all rows, set by set.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn query_each(&self, sql: &'static str, sets: Vec<Vec<Value>>) -> Result<Vec<Rows>, DbError> {
        each_engine!(self, db => db.query_each(sql, sets).await)
    }

    /// Runs one query.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn query(&self, sql: &'static str, parameters: Vec<Value>) -> Result<Rows, DbError> {
        let mut answers = self.query_each(sql, vec![parameters]).await?;
        Ok(answers.pop().unwrap_or_default())
    }

    /// Runs statements in one transaction: all of them, durably, or nothing. Later calls see it.
    ///
    /// # Errors
    /// [`DbError::Unmet`] when a statement did not change as many rows as it must.
    pub async fn transact(&self, statements: Vec<Statement>) -> Result<(), DbError> {
        each_engine!(self, db => db.transact(statements).await)
    }

    /// Finishes what is under way and closes.
    pub async fn close(&self) {
        each_engine!(self, db => db.close().await);
    }
}

/// One step of a schema. Numbers are dense from 1 and mean the same on every engine.
pub struct Migration {
    /// Number.
    pub version: u32,
    /// The statements.
    pub sql: &'static str,
}

/// Whether a missing file is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Made; an existing file is refused.
    Create,
    /// Must exist; for writing.
    Existing,
    /// Must exist; nothing can be written.
    ReadOnly,
}

/// Why a database did not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is already a file.
    #[error("the database file already exists")]
    Exists,
    /// There is no file.
    #[error("the database file is missing")]
    Missing,
    /// Another process has it.
    #[error("the database is locked by another process")]
    Locked,
    /// Written by a newer build.
    #[error("the database has format {found}, this build knows up to {known}")]
    Newer {
        /// Format found.
        found: u32,
        /// Newest format known.
        known: u32,
    },
    /// Not a database, damaged, or not readable.
    #[error("the database cannot be opened: {reason}")]
    Unusable {
        /// What failed.
        reason: &'static str,
    },
    /// A setting that safety depends on did not take.
    #[error("the database setting {pragma} did not take effect")]
    Setting {
        /// Name of the setting.
        pragma: &'static str,
    },
}

/// Opens a file. Every write connection gets the settings that durability and deletion depend on, and each is read
/// back: an SQLite built otherwise would ignore some of them silently.
///
/// # Errors
/// [`OpenError`] says what stands in the way; nothing is created unless asked for.
pub fn open(path: &Path, mode: OpenMode) -> Result<Connection, OpenError> {
    let flags = match mode {
        OpenMode::Create if path.exists() => return Err(OpenError::Exists),
        OpenMode::Existing | OpenMode::ReadOnly if !path.exists() => return Err(OpenError::Missing),
        OpenMode::Create => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        OpenMode::Existing => OpenFlags::SQLITE_OPEN_READ_WRITE,
        OpenMode::ReadOnly => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|error| classify(&error, "open"))?;
    connection.set_prepared_statement_cache_capacity(128);
    setting(&connection, "trusted_schema", "OFF", "0")?;
    setting(&connection, "temp_store", "MEMORY", "2")?;
    if mode == OpenMode::ReadOnly {
        // Every query of ours has an index that drives it. Without this a statement is prepared anew whenever a value that
        // the planner could look at differs from the one before.
        let stable = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true);
        stable.map_err(|error| classify(&error, "planner"))?;
    } else {
        setting(&connection, "journal_mode", "WAL", "wal")?;
        setting(&connection, "synchronous", "FULL", "2")?;
        setting(&connection, "secure_delete", "ON", "1")?;
        setting(&connection, "foreign_keys", "ON", "1")?;
    }
    Ok(connection)
}

/// Sets a pragma and reads it back.
///
/// # Errors
/// [`OpenError::Setting`] when the value read is not the one expected.
pub fn setting(connection: &Connection, pragma: &'static str, value: &str, read: &str) -> Result<(), OpenError> {
    let set = connection.pragma_update(None, pragma, value);
    set.map_err(|error| classify(&error, pragma))?;
    let found: rusqlite::types::Value =
        connection.pragma_query_value(None, pragma, |row| row.get(0)).map_err(|error| classify(&error, pragma))?;
    let found = match found {
        rusqlite::types::Value::Integer(number) => number.to_string(),
        rusqlite::types::Value::Text(text) => text,
        _ => String::new(),
    };
    if found == read { Ok(()) } else { Err(OpenError::Setting { pragma }) }
}

/// Brings a database to the newest format, one transaction per step.
///
/// # Errors
/// [`OpenError::Newer`] for a database of a later build; other variants when a step fails, which leaves the last
/// complete step in place.
pub fn migrate(connection: &mut Connection, migrations: &[Migration]) -> Result<(), OpenError> {
    let known = migrations.len() as u32;
    let found: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|error| classify(&error, "user_version"))?;
    if found > known {
        return Err(OpenError::Newer { found, known });
    }
    for step in migrations.iter().filter(|step| step.version > found) {
        let run = || -> rusqlite::Result<()> {
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            transaction.execute_batch(step.sql)?;
            transaction.pragma_update(None, "user_version", step.version)?;
            transaction.commit()
        };
        let mut run = run;
        run().map_err(|error| classify(&error, "migration"))?;
    }
    Ok(())
}

/// Sets the page cache of a connection.
///
/// # Errors
/// [`OpenError::Setting`] when it does not take.
pub fn cache(connection: &Connection, kib: u32) -> Result<(), OpenError> {
    let size = format!("-{kib}");
    setting(connection, "cache_size", &size, &size)
}

/// Maps an SQLite error to what it means for opening.
pub fn classify(error: &rusqlite::Error, reason: &'static str) -> OpenError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::Locked,
        _ => OpenError::Unusable { reason },
    }
}

/// What went wrong in a running database, as a fact without values.
pub fn reason(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "the database is locked",
        Some(ErrorCode::SystemIoFailure) => "the disk failed",
        Some(ErrorCode::ReadOnly) => "the database is read-only",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => "the database is damaged",
        _ => "the database refused a statement",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_never_creates_unless_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        assert_eq!(open(&path, OpenMode::Existing).err(), Some(OpenError::Missing));
        assert!(!path.exists());
        let mut connection = open(&path, OpenMode::Create).unwrap();
        assert_eq!(open(&path, OpenMode::Create).err(), Some(OpenError::Exists));
        let steps = [Migration { version: 1, sql: "create table t(x) strict" }];
        assert!(migrate(&mut connection, &steps).is_err(), "a broken step is refused");
        let steps = [Migration { version: 1, sql: "create table t(x integer) strict" }];
        migrate(&mut connection, &steps).unwrap();
        migrate(&mut connection, &steps).unwrap();
        assert_eq!(migrate(&mut connection, &[]), Err(OpenError::Newer { found: 1, known: 0 }));
    }
}
