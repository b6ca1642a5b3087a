//! Reads that are not pages of events: the head, streams, footprints, the erasure record, audit rows.

use tokio_postgres::Row;

use super::rows::{self, JOINS, STORED, bytes, count, get, integer};
use crate::clock::Millis;
use crate::db::postgres::Connection;
use crate::event::{Category, Position, Purpose, Revision, StoreId, StreamId, StreamName, SubjectRef};
use crate::eventlog::stored::Gathered;
use crate::eventlog::{
    AccessEntry, AccessRow, AuditRow, ErasureRow, FootprintRow, Head, ReadError, RequestRow, StreamInfo,
};
use crate::merkle::{Frontier, Hash};

type Result<T> = std::result::Result<T, ReadError>;

/// The columns of [`head_of`].
pub const HEAD: &str = "select store, next_position, recorded_ms, erasure_epoch, frontier from head";

/// The head, from a row of [`HEAD`]; no row is no log.
pub fn head_of(rows: &[Row]) -> Result<Head> {
    let corrupt = |column| ReadError::Corrupt { table: "head", column, row: 1 };
    let row = rows.first().ok_or(corrupt("one"))?;
    Ok(Head {
        store: StoreId(bytes(row, 0)?),
        next: Position(count(row, 1)?),
        recorded: Millis(get(row, 2)?),
        erasure_epoch: count(row, 3)?,
        frontier: Frontier::from_bytes(get(row, 4)?).map_err(|_| corrupt("frontier"))?,
    })
}

/// Where the log ends.
pub async fn head(connection: &Connection) -> Result<Head> {
    head_of(&connection.query(HEAD, &[]).await?)
}

const STREAM: &str = "select s.name, e.revision, e.recorded_ms from streams s join events e on e.stream = s.id \
     and e.revision = (select max(revision) from events where stream = s.id)";

fn stream_info(row: &Row) -> Result<StreamInfo> {
    let corrupt = ReadError::Corrupt { table: "streams", column: "name", row: 0 };
    Ok(StreamInfo {
        name: StreamName::parse_any(get(row, 0)?).map_err(|_| corrupt)?,
        last_revision: Revision(count(row, 1)?),
        last_recorded: Millis(get(row, 2)?),
    })
}

/// One stream.
pub async fn stream(connection: &Connection, name: &StreamName) -> Result<Option<StreamInfo>> {
    let sql = format!("{STREAM} where s.name = $1");
    connection.row(&sql, &[&name.as_str()]).await?.map(|row| stream_info(&row)).transpose()
}

/// Streams by name; the system's own are left out.
pub async fn streams(
    connection: &Connection,
    after: Option<&str>,
    category: Option<&Category>,
    limit: usize,
) -> Result<Vec<StreamInfo>> {
    let sql = format!(
        "{STREAM} where s.name > $1 and (s.name < '$' or s.name >= '%')
         and ($2::text is null or s.category = (select id from names where text = $2)) order by s.name limit $3"
    );
    let category = category.map(Category::as_str);
    let rows = connection.query(&sql, &[&after.unwrap_or(""), &category, &integer(limit as u64)]).await?;
    rows.iter().map(stream_info).collect()
}

/// The last position recorded at or before a time. Recorded times never go back, so a bisection finds it: everything below
/// `low` is at or before the time, everything from `high` on is after it.
pub async fn position_at(connection: &Connection, time: Millis) -> Result<Option<Position>> {
    let sql = "with recursive b(low, high) as (
                 select 0::bigint, next_position from head
                 union all
                 select case when at <= $1 then middle + 1 else low end, case when at <= $1 then high else middle end
                 from (select low, high, (low + high) / 2 as middle,
                         (select recorded_ms from events where position = (b.low + b.high) / 2) as at
                       from b where low < high) x)
               select low from b where low >= high";
    let Some(row) = connection.row(sql, &[&time.0]).await? else { return Ok(None) };
    Ok(count(&row, 0)?.checked_sub(1).map(Position))
}

/// A person's slots and mentions.
pub async fn footprint(
    connection: &Connection,
    subject: SubjectRef,
    after: Option<(Position, i32)>,
    limit: usize,
) -> Result<Vec<FootprintRow>> {
    let (position, slot) = after.map_or((-1, -2), |(position, slot)| (integer(position.0), i64::from(slot)));
    let sql = "select f.position, f.slot, n.text, f.generation from footprint f join names n on n.id = f.purpose
               where f.subject = $1 and (f.position, f.slot) > ($2, $3) order by f.position, f.slot limit $4";
    let subject = subject.0.as_slice();
    let rows = connection.query(sql, &[&subject, &position, &slot, &integer(limit as u64)]).await?;
    let found = rows.iter().map(|row| {
        Ok(FootprintRow {
            position: Position(count(row, 0)?),
            slot: u16::try_from(get::<i64>(row, 1)?).ok(),
            purpose: Purpose::parse_any(get(row, 2)?).unwrap_or_else(|_| Purpose::general()),
            generation: count(row, 3)? as u32,
        })
    });
    found.collect()
}

/// Leaves, or kept nodes of the tree.
pub async fn hashes(connection: &Connection, level: u8, from: u64, limit: usize) -> Result<Vec<(u64, Hash)>> {
    let (first, limit) = (integer(from), integer(limit as u64));
    let last = first.saturating_add(limit).saturating_sub(1);
    let rows = if level == 0 {
        let sql = "select position, leaf from events where position between $1 and $2 order by position";
        connection.query(sql, &[&first, &last]).await?
    } else {
        let sql = "select number, hash from tree where level = $1 and number between $2 and $3 order by number";
        connection.query(sql, &[&i64::from(level), &first, &last]).await?
    };
    rows.iter().map(|row| Ok((count(row, 0)?, bytes(row, 1)?))).collect()
}

const ERASURE: &str = "select number, request, subject, scope, basis, fenced_ms, completed_ms, digest from erasures";

/// The erasure record.
pub async fn erasures(connection: &Connection, after: u64, limit: usize) -> Result<Vec<ErasureRow>> {
    let sql = format!("{ERASURE} where number > $1 order by number limit $2");
    let rows = connection.query(&sql, &[&integer(after), &integer(limit as u64)]).await?;
    rows.iter().map(erasure).collect()
}

/// The entry of one forget request.
pub async fn erasure_of(connection: &Connection, request: &str) -> Result<Option<ErasureRow>> {
    let sql = format!("{ERASURE} where request = $1");
    connection.row(&sql, &[&request]).await?.map(|row| erasure(&row)).transpose()
}

fn erasure(row: &Row) -> Result<ErasureRow> {
    let scope: &str = get(row, 3)?;
    let purposes = (scope != "*").then(|| scope.split(' ').filter_map(|p| Purpose::parse_any(p).ok()).collect());
    Ok(ErasureRow {
        number: count(row, 0)?,
        request: get(row, 1)?,
        subject: SubjectRef(bytes(row, 2)?),
        purposes,
        basis: get(row, 4)?,
        fenced: Millis(get(row, 5)?),
        completed: get::<Option<i64>>(row, 6)?.map(Millis),
        digest: bytes(row, 7)?,
    })
}

/// Forget requests by id, which begins with the time it was made.
pub async fn requests(
    connection: &Connection,
    status: Option<&str>,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<RequestRow>> {
    let sql = "select id, subject, status, due_ms from forget_requests
               where id > $1 and ($2::text is null or status = $2) order by id limit $3";
    let rows = connection.query(sql, &[&after.unwrap_or(""), &status, &integer(limit as u64)]).await?;
    let found = rows.iter().map(|row| {
        Ok(RequestRow {
            id: get(row, 0)?,
            subject: SubjectRef(bytes(row, 1)?),
            status: get(row, 2)?,
            due: Millis(get(row, 3)?),
        })
    });
    found.collect()
}

/// Number of forget requests by status: the index on status holds it.
pub async fn request_counts(connection: &Connection) -> Result<Vec<(String, u64)>> {
    let sql = "select status, count(*) from forget_requests group by status order by status";
    let rows = connection.query(sql, &[]).await?;
    rows.iter().map(|row| Ok((get(row, 0)?, count(row, 1)?))).collect()
}

/// Personal reads, newest first.
pub async fn access_log(
    connection: &Connection,
    subject: Option<SubjectRef>,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<AccessRow>> {
    let columns = "select id, at_ms, principal, purpose, subject, fields, reason, request, route from access_log";
    let (before, limit) = (before.map_or(i64::MAX, integer), integer(limit as u64));
    let rows = if let Some(subject) = subject {
        let sql = format!("{columns} where subject = $1 and id < $2 order by id desc limit $3");
        connection.query(&sql, &[&subject.0.as_slice(), &before, &limit]).await?
    } else {
        let sql = format!("{columns} where id < $1 order by id desc limit $2");
        connection.query(&sql, &[&before, &limit]).await?
    };
    let found = rows.iter().map(|row| {
        let entry = AccessEntry {
            at: Millis(get(row, 1)?),
            principal: get(row, 2)?,
            purpose: get(row, 3)?,
            subject: SubjectRef(bytes(row, 4)?),
            route: get::<String>(row, 8)?.into(),
            fields: count(row, 5)? as u32,
            reason: get(row, 6)?,
            request: get(row, 7)?,
        };
        Ok(AccessRow { id: count(row, 0)?, entry })
    });
    found.collect()
}

/// Rows for a verifier.
pub async fn audit_rows(connection: &Connection, from: Position, limit: usize) -> Result<Vec<AuditRow>> {
    let sql = format!(
        "select {STORED}, s.stream, e.salts, e.commitments, e.leaf from events e {JOINS}
         where e.position >= $1 order by e.position limit $2"
    );
    let rows = connection.query(&sql, &[&integer(from.0), &integer(limit as u64)]).await?;
    let mut events = Gathered::with_room(rows.len());
    for row in &rows {
        events.push(&rows::event(row)?)?;
    }
    let found = events.finish().into_iter().zip(&rows).map(|(event, row)| {
        Ok(AuditRow {
            event,
            stream_id: StreamId(bytes(row, 10)?),
            salts: get(row, 11)?,
            commitments: get(row, 12)?,
            leaf: bytes(row, 13)?,
        })
    });
    found.collect()
}
