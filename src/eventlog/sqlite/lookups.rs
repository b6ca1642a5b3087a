//! Reads that are not pages of events: the head, streams, footprints, the erasure record, audit rows.

use rusqlite::{Connection, Row};

use super::rows::{self, JOINS, STORED, read_error};
use crate::clock::Millis;
use crate::event::{Category, Position, Purpose, Revision, StoreId, StreamId, StreamName, SubjectRef};
use crate::eventlog::stored::Gathered;
use crate::eventlog::{
    AccessEntry, AccessRow, AuditRow, ErasureRow, FootprintRow, Head, ReadError, RequestRow, StreamInfo,
};
use crate::merkle::{Frontier, Hash};

type Result<T> = std::result::Result<T, ReadError>;

/// Where the log ends.
pub fn head(connection: &Connection) -> Result<Head> {
    let row = connection
        .prepare_cached("select store, next_position, recorded_ms, erasure_epoch, frontier from head")
        .and_then(|mut statement| {
            statement.query_row([], |row| {
                Ok((
                    StoreId(row.get(0)?),
                    row.get::<_, i64>(1)?,
                    row.get::<_, i64>(2)?,
                    row.get::<_, i64>(3)?,
                    row.get::<_, Vec<u8>>(4)?,
                ))
            })
        })
        .map_err(|error| read_error(&error))?;
    let (store, next, recorded, epoch, frontier) = row;
    let corrupt = ReadError::Corrupt { table: "head", column: "frontier", row: 1 };
    let frontier = Frontier::from_bytes(&frontier).map_err(|_| corrupt)?;
    Ok(Head { store, next: Position(next as u64), recorded: Millis(recorded), frontier, erasure_epoch: epoch as u64 })
}

/// Leaves, or kept nodes of the tree.
pub fn hashes(connection: &Connection, level: u8, from: u64, count: usize) -> Result<Vec<(u64, Hash)>> {
    let hash = |row: &Row<'_>| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?));
    let (first, count) = (rows::integer(from), rows::integer(count as u64));
    let last = first.saturating_add(count).saturating_sub(1);
    if level == 0 {
        let sql = "select position, leaf from events where position between ?1 and ?2 order by position";
        return many(connection, sql, (first, last), hash);
    }
    let sql = "select number, hash from tree where level = ?1 and number between ?2 and ?3 order by number";
    many(connection, sql, (level, first, last), hash)
}

fn many<T>(
    connection: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
    map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_map(values, map)?.collect())
        .map_err(|error| read_error(&error))
}

const STREAM: &str = "select s.name, e.revision, e.recorded_ms from streams s join events e on e.stream = s.id \
     and e.revision = (select max(revision) from events where stream = s.id)";

fn stream_info(row: &Row<'_>) -> rusqlite::Result<Option<StreamInfo>> {
    let Ok(name) = StreamName::parse_any(row.get_ref(0)?.as_str()?) else { return Ok(None) };
    Ok(Some(StreamInfo {
        name,
        last_revision: Revision(row.get::<_, i64>(1)? as u64),
        last_recorded: Millis(row.get(2)?),
    }))
}

/// One stream.
pub fn stream(connection: &Connection, name: &StreamName) -> Result<Option<StreamInfo>> {
    let found = many(connection, &format!("{STREAM} where s.name = ?1"), [name.as_str()], stream_info)?;
    Ok(found.into_iter().flatten().next())
}

/// Streams by name; the system's own are left out.
pub fn streams(
    connection: &Connection,
    after: Option<&str>,
    category: Option<&Category>,
    limit: usize,
) -> Result<Vec<StreamInfo>> {
    let sql = format!(
        "{STREAM} where s.name > ?1 and (s.name < '$' or s.name >= '%')
         and (?2 is null or s.category = (select id from names where text = ?2)) order by s.name limit ?3"
    );
    let values = (after.unwrap_or(""), category.map(Category::as_str), rows::integer(limit as u64));
    Ok(many(connection, &sql, values, stream_info)?.into_iter().flatten().collect())
}

/// The last position recorded at or before a time. Recorded times never go back, so a bisection finds it.
pub fn position_at(connection: &Connection, time: Millis) -> Result<Option<Position>> {
    let recorded = |position: i64| -> rusqlite::Result<i64> {
        connection
            .prepare_cached("select recorded_ms from events where position = ?1")?
            .query_row([position], |row| row.get(0))
    };
    let next = head(connection)?.next.0 as i64;
    // Invariant: everything below `low` is at or before the time, everything from `high` on is after it.
    let (mut low, mut high) = (0, next);
    while low < high {
        let middle = i64::midpoint(low, high);
        if recorded(middle).map_err(|error| read_error(&error))? <= time.0 {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok((low > 0).then(|| Position(low as u64 - 1)))
}

/// A person's slots and mentions.
pub fn footprint(
    connection: &Connection,
    subject: SubjectRef,
    after: Option<(Position, i32)>,
    limit: usize,
) -> Result<Vec<FootprintRow>> {
    let (position, slot) = after.map_or((-1, -2), |(position, slot)| (rows::integer(position.0), slot));
    let sql = "select f.position, f.slot, n.text, f.generation from footprint f join names n on n.id = f.purpose
               where f.subject = ?1 and (f.position, f.slot) > (?2, ?3) order by f.position, f.slot limit ?4";
    many(connection, sql, (subject.0, position, slot, rows::integer(limit as u64)), |row| {
        Ok(FootprintRow {
            position: Position(row.get::<_, i64>(0)? as u64),
            slot: u16::try_from(row.get::<_, i64>(1)?).ok(),
            purpose: Purpose::parse_any(row.get_ref(2)?.as_str()?).unwrap_or_else(|_| Purpose::general()),
            generation: row.get(3)?,
        })
    })
}

const ERASURE: &str = "select number, request, subject, scope, basis, fenced_ms, completed_ms, digest from erasures";

/// The erasure record.
pub fn erasures(connection: &Connection, after: u64, limit: usize) -> Result<Vec<ErasureRow>> {
    let sql = format!("{ERASURE} where number > ?1 order by number limit ?2");
    many(connection, &sql, (rows::integer(after), rows::integer(limit as u64)), erasure)
}

/// The entry of one forget request.
pub fn erasure_of(connection: &Connection, request: &str) -> Result<Option<ErasureRow>> {
    let found = many(connection, &format!("{ERASURE} where request = ?1"), [request], erasure)?;
    Ok(found.into_iter().next())
}

fn erasure(row: &Row<'_>) -> rusqlite::Result<ErasureRow> {
    let scope: String = row.get(3)?;
    let purposes = (scope != "*").then(|| scope.split(' ').filter_map(|p| Purpose::parse_any(p).ok()).collect());
    Ok(ErasureRow {
        number: row.get::<_, i64>(0)? as u64,
        request: row.get(1)?,
        subject: SubjectRef(row.get(2)?),
        purposes,
        basis: row.get(4)?,
        fenced: Millis(row.get(5)?),
        completed: row.get::<_, Option<i64>>(6)?.map(Millis),
        digest: row.get(7)?,
    })
}

/// Forget requests by id, which begins with the time it was made.
pub fn requests(
    connection: &Connection,
    status: Option<&str>,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<RequestRow>> {
    let sql = "select id, subject, status, due_ms from forget_requests
               where id > ?1 and (?2 is null or status = ?2) order by id limit ?3";
    many(connection, sql, (after.unwrap_or(""), status, rows::integer(limit as u64)), |row| {
        Ok(RequestRow {
            id: row.get(0)?,
            subject: SubjectRef(row.get(1)?),
            status: row.get(2)?,
            due: Millis(row.get(3)?),
        })
    })
}

/// Number of forget requests by status: the index on status holds it.
pub fn request_counts(connection: &Connection) -> Result<Vec<(String, u64)>> {
    many(connection, "select status, count(*) from forget_requests group by status", [], |row| {
        Ok((row.get(0)?, row.get::<_, i64>(1)? as u64))
    })
}

/// Personal reads, newest first.
pub fn access_log(
    connection: &Connection,
    subject: Option<SubjectRef>,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<AccessRow>> {
    let columns = "select id, at_ms, principal, purpose, subject, fields, reason, request, route from access_log";
    let before = before.map_or(i64::MAX, rows::integer);
    let map = |row: &Row<'_>| {
        Ok(AccessRow {
            id: row.get::<_, i64>(0)? as u64,
            entry: AccessEntry {
                at: Millis(row.get(1)?),
                principal: row.get(2)?,
                purpose: row.get(3)?,
                subject: SubjectRef(row.get(4)?),
                route: row.get::<_, String>(8)?.into(),
                fields: row.get(5)?,
                reason: row.get(6)?,
                request: row.get(7)?,
            },
        })
    };
    if let Some(subject) = subject {
        let sql = format!("{columns} where subject = ?1 and id < ?2 order by id desc limit ?3");
        return many(connection, &sql, (subject.0, before, rows::integer(limit as u64)), map);
    }
    let sql = format!("{columns} where id < ?1 order by id desc limit ?2");
    many(connection, &sql, (before, rows::integer(limit as u64)), map)
}

/// Rows for a verifier.
pub fn audit_rows(connection: &Connection, from: Position, limit: usize) -> Result<Vec<AuditRow>> {
    let sql = format!(
        "select {STORED}, s.stream, e.salts, e.commitments, e.leaf from events e {JOINS}
         where e.position >= ?1 order by e.position limit ?2"
    );
    let mut events = Gathered::with_room(limit);
    let rest = many(connection, &sql, (rows::integer(from.0), rows::integer(limit as u64)), |row| {
        let taken = events.push(&rows::event(row)?);
        let rest = (StreamId(row.get(10)?), row.get(11)?, row.get(12)?, row.get(13)?);
        Ok(taken.map(|()| rest))
    })?;
    let rest = rest.into_iter().collect::<Result<Vec<_>>>()?;
    let row = |(event, (stream_id, salts, commitments, leaf))| AuditRow { event, stream_id, salts, commitments, leaf };
    Ok(events.finish().into_iter().zip(rest).map(row).collect())
}
