//! Rows to values, and SQLite's errors to ours.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row};

use crate::clock::Millis;
use crate::db;
use crate::event::{Purpose, SubjectRef};
use crate::eventlog::stored::EventRow;
use crate::eventlog::{Fence, FenceState, Fences, ReadError};

/// A number as SQLite takes it; what is beyond its range is beyond every row.
pub fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// An error of a read, as a fact.
pub fn read_error(error: &rusqlite::Error) -> ReadError {
    match error {
        rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..) => {
            ReadError::Corrupt { table: "events", column: "type", row: 0 }
        }
        other => ReadError::Unavailable { reason: db::reason(other) },
    }
}

/// Columns of [`event`], in order; `e` is `events`, `s` its stream, `t` its type.
pub const STORED: &str = "e.position, e.event_id, s.name, e.revision, t.text, e.schema_version, e.recorded_ms, \
     e.meta, e.public, e.sealed";

/// Joins that [`STORED`] needs.
pub const JOINS: &str = "join streams s on s.id = e.stream join names t on t.id = e.type";

/// An event from the columns of [`STORED`].
pub fn event<'r>(row: &'r Row<'_>) -> rusqlite::Result<EventRow<'r>> {
    Ok(EventRow {
        position: row.get::<_, i64>(0)? as u64,
        id: row.get(1)?,
        stream: row.get_ref(2)?.as_str()?,
        revision: row.get::<_, i64>(3)? as u64,
        event_type: row.get_ref(4)?.as_str()?,
        schema_version: row.get(5)?,
        recorded: Millis(row.get(6)?),
        meta: row.get_ref(7)?.as_str()?,
        public: row.get_ref(8)?.as_str()?,
        sealed: row.get_ref(9)?.as_blob_or_null()?,
    })
}

/// Fences of these people, in the transaction the connection is in.
pub fn fences(connection: &Connection, subjects: impl IntoIterator<Item = SubjectRef>) -> rusqlite::Result<Fences> {
    let mut fences = Fences::default();
    let mut query = connection.prepare_cached(
        "select purpose, generation, reauthorized, state, basis, request, at_ms, epoch from fences where subject = ?1",
    )?;
    let mut seen = HashSet::new();
    for subject in subjects {
        if !seen.insert(subject) {
            continue;
        }
        let found: Vec<Fence> = query.query_map([subject.0], fence)?.collect::<Result<_, _>>()?;
        if !found.is_empty() {
            fences.0.insert(subject, found);
        }
    }
    Ok(fences)
}

fn fence(row: &Row<'_>) -> rusqlite::Result<Fence> {
    let purpose: String = row.get(0)?;
    Ok(Fence {
        purpose: Purpose::parse_any(&purpose).ok(),
        generation: row.get::<_, i64>(1)? as u32,
        reauthorized: row.get(2)?,
        state: match row.get_ref(3)?.as_str()? {
            "expired" => FenceState::Expired,
            "restricted" => FenceState::Restricted,
            _ => FenceState::Erased,
        },
        basis: row.get(4)?,
        request: row.get(5)?,
        at: Millis(row.get(6)?),
        epoch: row.get::<_, i64>(7)? as u64,
    })
}

/// Runs reads in one snapshot.
pub fn in_snapshot<T>(connection: &Connection, read: impl FnOnce() -> Result<T, ReadError>) -> Result<T, ReadError> {
    let run = |sql| connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]).map(drop));
    run("begin").map_err(|error| read_error(&error))?;
    let found = read();
    // Nothing was written; what matters is that the snapshot is let go, whatever was read.
    run("rollback").map_err(|error| read_error(&error))?;
    found
}

/// Number of an interned name, if there is one.
pub fn name_id(connection: &Connection, text: &str) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached("select id from names where text = ?1")?.query_row([text], |row| row.get(0)).optional()
}
