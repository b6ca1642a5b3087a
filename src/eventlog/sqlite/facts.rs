//! Facts for the planner, read inside the write transaction.

use lru::LruCache;
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::rows;
use crate::event::{Position, Purpose, Revision, StreamId, StreamName};
use crate::eventlog::plan::{Facts, StreamFact};
use crate::eventlog::reply::decode_reply;
use crate::eventlog::{Batch, Condition, Effect, Fences, Filter, Job};
use crate::sealing::SealedEvent;

/// Heads of the streams written last, so that a busy stream costs no query. Filled only by committed transactions.
pub type StreamCache = LruCache<StreamName, StreamFact>;

/// Reads everything the planner asks about a batch.
pub fn gather(connection: &Connection, batch: &Batch, cache: &mut StreamCache, epoch: u64) -> rusqlite::Result<Facts> {
    let mut facts = Facts::default();
    for (index, job) in batch.jobs.iter().enumerate() {
        streams(connection, job, cache, &mut facts)?;
        known_ids(connection, job, &mut facts)?;
        replies(connection, job, &mut facts)?;
        removals(connection, job, &mut facts)?;
        for (at, condition) in job.conditions.iter().enumerate() {
            if let Condition::NoneMatching { after, filter } = condition {
                facts.matching.insert((index, at), any_matching(connection, *after, filter)?);
            }
        }
    }
    facts.fences = if epoch == 0 { Fences::default() } else { rows::fences(connection, people(batch))? };
    Ok(facts)
}

fn people(batch: &Batch) -> impl Iterator<Item = crate::event::SubjectRef> {
    let events = batch.jobs.iter().flat_map(|job| &job.appends).flat_map(|append| &append.events);
    let erased = batch.jobs.iter().flat_map(|job| &job.effects).filter_map(Effect::loses_slots);
    events.flat_map(SealedEvent::footprint).map(|entry| entry.subject).chain(erased.map(|(subject, _)| subject))
}

fn streams(connection: &Connection, job: &Job, cache: &mut StreamCache, facts: &mut Facts) -> rusqlite::Result<()> {
    let conditions = job.conditions.iter().filter_map(|condition| match condition {
        Condition::Stream { stream, .. } => Some(stream),
        Condition::NoneMatching { .. } => None,
    });
    for name in job.appends.iter().map(|append| &append.stream).chain(conditions) {
        if facts.streams.contains_key(name) {
            continue;
        }
        let fact = match cache.get(name) {
            Some(fact) => Some(*fact),
            None => stream(connection, name)?,
        };
        if let Some(fact) = fact {
            facts.streams.insert(name.clone(), fact);
        }
    }
    Ok(())
}

fn stream(connection: &Connection, name: &StreamName) -> rusqlite::Result<Option<StreamFact>> {
    connection
        .prepare_cached(
            "select id, stream, (select max(revision) from events where stream = streams.id) from streams
             where name = ?1",
        )?
        .query_row([name.as_str()], |row| {
            let last: Option<i64> = row.get(2)?;
            Ok(StreamFact {
                row: row.get(0)?,
                id: StreamId(row.get(1)?),
                last: last.map(|revision| Revision(revision as u64)),
            })
        })
        .optional()
}

fn known_ids(connection: &Connection, job: &Job, facts: &mut Facts) -> rusqlite::Result<()> {
    for append in &job.appends {
        let Some(stream) = facts.streams.get(&append.stream).copied() else { continue };
        for event in append.events.iter().filter(|event| event.has_caller_id()) {
            let found = connection
                .prepare_cached(
                    "select revision, position from events
                     where stream = ?1 and event_id = ?2 and caller_id = 1",
                )?
                .query_row((stream.row, event.id().0), |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
                .optional()?;
            if let Some((revision, position)) = found {
                let place = (Revision(revision as u64), Position(position as u64));
                facts.known_ids.insert((append.stream.clone(), event.id()), place);
            }
        }
    }
    Ok(())
}

fn replies(connection: &Connection, job: &Job, facts: &mut Facts) -> rusqlite::Result<()> {
    let Some(idempotency) = &job.idempotency else { return Ok(()) };
    let found = connection
        .prepare_cached("select request, positions from idempotency where key = ?1 and expires_ms > ?2")?
        .query_row((idempotency.key, job.at.0), |row| Ok((row.get::<_, [u8; 32]>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    if let Some((request, reply)) = found
        && let Some(appended) = decode_reply(&reply)
    {
        facts.replies.insert(idempotency.key, (request, appended));
    }
    Ok(())
}

/// Whose the slots are that are to be removed, and the columns that they stand in.
fn removals(connection: &Connection, job: &Job, facts: &mut Facts) -> rusqlite::Result<()> {
    for (subject, events) in job.effects.iter().filter_map(Effect::loses_slots) {
        let mut owned = connection.prepare_cached(
            "select f.slot, n.text, f.generation from footprint f join names n on n.id = f.purpose
             where f.subject = ?1 and f.position = ?2 and f.slot >= 0",
        )?;
        let mut sealed = connection.prepare_cached("select sealed from events where position = ?1")?;
        for (position, _) in events {
            let at = rows::integer(position.0);
            let mut found = owned.query((subject.0, at))?;
            while let Some(row) = found.next()? {
                if let Ok(purpose) = Purpose::parse_any(row.get_ref(1)?.as_str()?) {
                    facts.owned.insert((subject, *position, row.get(0)?), (purpose, row.get(2)?));
                }
            }
            let column = sealed.query_row([at], |row| row.get(0)).optional()?;
            facts.sealed.insert(*position, column.flatten());
        }
    }
    Ok(())
}

fn any_matching(connection: &Connection, after: Option<Position>, filter: &Filter) -> rusqlite::Result<bool> {
    let mut sql = String::from("select exists (select 1 from events e where e.position > ?");
    let mut values: Vec<Sql> = vec![Sql::Integer(after.map_or(-1, |position| rows::integer(position.0)))];
    if let Some(category) = &filter.category {
        sql.push_str(" and e.category = (select id from names where text = ?)");
        values.push(Sql::Text(category.to_string()));
    }
    if !filter.types.is_empty() {
        let marks = vec!["?"; filter.types.len()].join(",");
        sql.push_str(" and e.type in (select id from names where text in (");
        sql.push_str(&marks);
        sql.push_str("))");
        values.extend(filter.types.iter().map(|t| Sql::Text(t.to_string())));
    }
    if let Some(subject) = filter.subject {
        sql.push_str(" and e.position in (select position from footprint where subject = ?)");
        values.push(Sql::Blob(subject.0.to_vec()));
    }
    sql.push(')');
    connection.prepare_cached(&sql)?.query_row(params_from_iter(values), |row| row.get(0))
}
