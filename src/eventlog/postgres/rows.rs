//! Rows to values.

use std::collections::HashSet;

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::clock::Millis;
use crate::db::postgres::{Connection, PgError};
use crate::event::{Purpose, SubjectRef};
use crate::eventlog::stored::EventRow;
use crate::eventlog::{Fence, FenceState, Fences, ReadError};

/// A number as the database takes it; what is beyond its range is beyond every row.
pub fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A column of a row.
pub fn get<'r, T: FromSql<'r>>(row: &'r Row, at: usize) -> Result<T, PgError> {
    row.try_get(at).map_err(PgError::from)
}

/// Bytes of a fixed length.
pub fn bytes<const N: usize>(row: &Row, at: usize) -> Result<[u8; N], PgError> {
    get::<&[u8]>(row, at)?.try_into().map_err(|_| PgError::Type)
}

/// A number that is never negative.
pub fn count(row: &Row, at: usize) -> Result<u64, PgError> {
    Ok(get::<i64>(row, at)? as u64)
}

/// Columns of [`event`], in order; `e` is `events`, `s` its stream, `t` its type.
pub const STORED: &str = "e.position, e.event_id, s.name, e.revision, t.text, e.schema_version, e.recorded_ms, \
     e.meta, e.public, e.sealed";

/// Joins that [`STORED`] needs.
pub const JOINS: &str = "join streams s on s.id = e.stream join names t on t.id = e.type";

/// An event from the columns of [`STORED`].
pub fn event(row: &Row) -> Result<EventRow<'_>, PgError> {
    Ok(EventRow {
        position: count(row, 0)?,
        id: bytes(row, 1)?,
        stream: get(row, 2)?,
        revision: count(row, 3)?,
        event_type: get(row, 4)?,
        schema_version: count(row, 5)? as u32,
        recorded: Millis(get(row, 6)?),
        meta: get(row, 7)?,
        public: get(row, 8)?,
        sealed: get(row, 9)?,
    })
}

/// The query of [`fences`]: one parameter, an array of pseudonyms.
pub const FENCES: &str = "select subject, purpose, generation, reauthorized, state, basis, request, at_ms, epoch \
     from fences where subject = any($1)";

/// People, each once, as the parameter of [`FENCES`].
pub fn people(subjects: impl IntoIterator<Item = SubjectRef>) -> Vec<Vec<u8>> {
    let each: HashSet<SubjectRef> = subjects.into_iter().collect();
    each.into_iter().map(|subject| subject.0.to_vec()).collect()
}

/// Fences from rows of [`FENCES`].
pub fn fences(rows: &[Row]) -> Result<Fences, PgError> {
    let mut fences = Fences::default();
    for row in rows {
        let fence = Fence {
            purpose: Purpose::parse_any(get(row, 1)?).ok(),
            generation: count(row, 2)? as u32,
            reauthorized: count(row, 3)? > 0,
            state: match get(row, 4)? {
                "expired" => FenceState::Expired,
                "restricted" => FenceState::Restricted,
                _ => FenceState::Erased,
            },
            basis: get(row, 5)?,
            request: get(row, 6)?,
            at: Millis(get(row, 7)?),
            epoch: count(row, 8)?,
        };
        fences.0.entry(SubjectRef(bytes(row, 0)?)).or_default().push(fence);
    }
    Ok(fences)
}

/// Fences of these people.
pub async fn fences_of(connection: &Connection, subjects: Vec<SubjectRef>) -> Result<Fences, ReadError> {
    Ok(fences(&connection.query(FENCES, &[&people(subjects)]).await?)?)
}
