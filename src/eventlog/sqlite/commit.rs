//! The write transaction: gather facts, plan, insert, move the head, flush.
//!
//! Owns: the only write connection. A batch is one transaction with one flush; nothing in memory changes before the
//! commit returned. When the commit itself fails the outcome is settled by reading the head again; when even that is
//! not possible, or a flush failed, the writer stops for good.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::sync::watch;

use super::facts::{self, StreamCache};
use super::insert::MultiInsert;
use super::{CommitResult, rows};
use crate::clock::Millis;
use crate::crash;
use crate::db;
use crate::domain;
use crate::event::{Purpose, StreamId, StreamName, SubjectRef};
use crate::eventlog::plan::{Planned, PlannedEvent, StreamFact, plan};
use crate::eventlog::reply::encode_reply;
use crate::eventlog::{AccessEntry, Batch, CommitError, Effect, Head};
use crate::secret::Entropy;

/// The single writer of one database.
pub struct Writer {
    connection: Option<Connection>,
    head: Head,
    names: HashMap<String, i64>,
    streams: StreamCache,
    publish: watch::Sender<u64>,
    entropy: Arc<Entropy>,
    inserts: Inserts,
    stopped: bool,
}

struct Inserts {
    events: MultiInsert,
    footprint: MultiInsert,
    access: MultiInsert,
}

/// What the transaction learnt, to be kept only if it commits.
#[derive(Default)]
struct Learnt {
    names: HashMap<String, i64>,
    streams: HashMap<StreamName, (i64, StreamId)>,
}

impl Writer {
    /// A writer at `head`.
    pub fn new(connection: Connection, head: Head, publish: watch::Sender<u64>, entropy: Arc<Entropy>) -> Self {
        let events = "insert into events(position, event_id, stream, revision, type, category, schema_version, \
                      recorded_ms, caller_id, meta, public, salts, commitments, sealed, leaf)";
        let access = "insert into access_log(at_ms, principal, purpose, subject, route, fields, reason, request)";
        Self {
            connection: Some(connection),
            head,
            names: HashMap::new(),
            streams: LruCache::new(NonZeroUsize::new(100_000).expect("not zero")),
            publish,
            entropy,
            inserts: Inserts {
                events: MultiInsert::new(events, 15),
                footprint: MultiInsert::new("insert into footprint(subject, position, slot, purpose, generation)", 5),
                access: MultiInsert::new(access, 8),
            },
            stopped: false,
        }
    }

    /// Commits a batch; one answer per job.
    pub fn commit(&mut self, batch: Batch) -> CommitResult {
        let Some(mut connection) = self.connection.take() else {
            return Err(CommitError::Unavailable { reason: "the event log is closed" });
        };
        let result = self.commit_on(&mut connection, batch);
        self.connection = Some(connection);
        result
    }

    fn commit_on(&mut self, connection: &mut Connection, batch: Batch) -> CommitResult {
        if self.stopped {
            return Err(CommitError::Unavailable { reason: "the event log stopped after a failed flush" });
        }
        let unavailable = |error: rusqlite::Error| CommitError::Unavailable { reason: db::reason(&error) };
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(unavailable)?;
        let (planned, learnt) = self.write(&transaction, batch).map_err(unavailable)?;
        crash::point("log.before-commit");
        if let Err(error) = transaction.commit() {
            return self.settle(connection, &planned, &error).map(|()| self.landed(planned, learnt));
        }
        crash::point("log.after-commit");
        Ok(self.landed(planned, learnt))
    }

    fn write(&mut self, tx: &Transaction<'_>, batch: Batch) -> rusqlite::Result<(Planned, Learnt)> {
        let facts = facts::gather(tx, &batch, &mut self.streams, self.head.erasure_epoch)?;
        let Batch { jobs, access } = batch;
        let now = jobs.first().map(|job| job.at);
        let entropy = &self.entropy;
        let mut drawn = Ok(());
        let mut planned = plan(self.head.clone(), &facts, jobs, || {
            StreamId(entropy.draw().unwrap_or_else(|_| {
                drawn = Err(rusqlite::Error::ExecuteReturnedResults);
                [0; 16]
            }))
        });
        drawn?;
        crash::point("log.before-insert");
        let mut learnt = Learnt::default();
        for (name, id) in &planned.new_streams {
            let category = self.name_id(tx, name.category().as_str(), &mut learnt)?;
            tx.prepare_cached("insert into streams(stream, name, category) values (?1, ?2, ?3)")?.execute((
                id.0,
                name.as_str(),
                category,
            ))?;
            learnt.streams.insert(name.clone(), (tx.last_insert_rowid(), *id));
        }
        learnt.streams.extend(facts.streams.iter().map(|(name, fact)| (name.clone(), (fact.row, fact.id))));
        self.insert_events(tx, &planned.events, &mut learnt)?;
        for (level, number, hash) in &planned.nodes {
            tx.prepare_cached("insert or ignore into tree(level, number, hash) values (?1, ?2, ?3)")?.execute((
                level,
                *number as i64,
                hash,
            ))?;
        }
        self.insert_access(tx, &access)?;
        for (idempotency, reply) in &planned.replies {
            tx.prepare_cached(
                "insert or replace into idempotency(key, request, positions, expires_ms) values (?1, ?2, ?3, ?4)",
            )?
            .execute((
                idempotency.key,
                idempotency.request,
                encode_reply(reply),
                idempotency.expires.0,
            ))?;
        }
        if let (Some(now), false) = (now, planned.replies.is_empty()) {
            tx.prepare_cached("delete from idempotency where key in (select key from idempotency where expires_ms <= ?1 order by expires_ms limit 64)")?
                .execute([now.0])?;
        }
        for (position, sealed) in &planned.columns {
            tx.prepare_cached("update events set sealed = ?2 where position = ?1")?
                .execute((rows::integer(position.0), sealed))?;
        }
        for (effect, at, position) in &planned.effects {
            apply(tx, effect, *at, position.0, &mut planned.head)?;
        }
        tx.prepare_cached("update head set next_position = ?1, recorded_ms = ?2, erasure_epoch = ?3, frontier = ?4")?
            .execute((
            planned.head.next.0 as i64,
            planned.head.recorded.0,
            planned.head.erasure_epoch as i64,
            planned.head.frontier.to_bytes(),
        ))?;
        Ok((planned, learnt))
    }

    fn insert_events(
        &mut self,
        tx: &Transaction<'_>,
        events: &[PlannedEvent],
        learnt: &mut Learnt,
    ) -> rusqlite::Result<()> {
        let mut numbers = Vec::with_capacity(events.len());
        let mut footprint = Vec::new();
        for planned in events {
            let event_type = self.name_id(tx, planned.event.event_type().as_str(), learnt)?;
            let category = self.name_id(tx, planned.stream.category().as_str(), learnt)?;
            let stream = learnt.streams.get(&planned.stream).map_or(0, |(row, _)| *row);
            numbers.push((planned, event_type, category, stream));
            for entry in planned.event.footprint() {
                let purpose = self.name_id(tx, entry.purpose.as_str(), learnt)?;
                footprint.push((entry, planned.position, purpose));
            }
        }
        self.inserts.events.run(tx, &numbers, |statement, at, (planned, event_type, category, stream)| {
            let event = &planned.event;
            statement.raw_bind_parameter(at, planned.position.0 as i64)?;
            statement.raw_bind_parameter(at + 1, event.id().0)?;
            statement.raw_bind_parameter(at + 2, stream)?;
            statement.raw_bind_parameter(at + 3, planned.revision.0 as i64)?;
            statement.raw_bind_parameter(at + 4, event_type)?;
            statement.raw_bind_parameter(at + 5, category)?;
            statement.raw_bind_parameter(at + 6, event.schema_version())?;
            statement.raw_bind_parameter(at + 7, planned.recorded.0)?;
            statement.raw_bind_parameter(at + 8, event.has_caller_id())?;
            statement.raw_bind_parameter(at + 9, event.meta())?;
            statement.raw_bind_parameter(at + 10, event.public())?;
            statement.raw_bind_parameter(at + 11, &event.salts()[..])?;
            statement.raw_bind_parameter(at + 12, event.commitments().as_flattened())?;
            statement.raw_bind_parameter(at + 13, event.sealed())?;
            statement.raw_bind_parameter(at + 14, planned.leaf)
        })?;
        self.inserts.footprint.run(tx, &footprint, |statement, at, (entry, position, purpose)| {
            statement.raw_bind_parameter(at, entry.subject.0)?;
            statement.raw_bind_parameter(at + 1, position.0 as i64)?;
            statement.raw_bind_parameter(at + 2, entry.slot.map_or(-1, i64::from))?;
            statement.raw_bind_parameter(at + 3, purpose)?;
            statement.raw_bind_parameter(at + 4, entry.generation)
        })
    }

    fn insert_access(&self, tx: &Transaction<'_>, access: &[AccessEntry]) -> rusqlite::Result<()> {
        self.inserts.access.run(tx, access, |statement, at, entry| {
            statement.raw_bind_parameter(at, entry.at.0)?;
            statement.raw_bind_parameter(at + 1, entry.principal.as_str())?;
            statement.raw_bind_parameter(at + 2, entry.purpose.as_str())?;
            statement.raw_bind_parameter(at + 3, entry.subject.0)?;
            statement.raw_bind_parameter(at + 4, entry.route.as_ref())?;
            statement.raw_bind_parameter(at + 5, entry.fields)?;
            statement.raw_bind_parameter(at + 6, entry.reason.as_str())?;
            statement.raw_bind_parameter(at + 7, entry.request.as_str())
        })
    }

    fn name_id(&self, tx: &Transaction<'_>, text: &str, learnt: &mut Learnt) -> rusqlite::Result<i64> {
        if let Some(id) = self.names.get(text).or_else(|| learnt.names.get(text)) {
            return Ok(*id);
        }
        let id = if let Some(id) = rows::name_id(tx, text)? {
            id
        } else {
            tx.prepare_cached("insert into names(text) values (?1)")?.execute([text])?;
            tx.last_insert_rowid()
        };
        learnt.names.insert(text.to_owned(), id);
        Ok(id)
    }

    /// The commit reported an error: did it land?
    fn settle(
        &mut self,
        connection: &Connection,
        planned: &Planned,
        error: &rusqlite::Error,
    ) -> Result<(), CommitError> {
        self.stopped = error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure);
        match super::lookups::head(connection) {
            Ok(head) if head.next == planned.head.next && head.next != self.head.next && !self.stopped => Ok(()),
            Ok(head) if head.next == self.head.next && !self.stopped => {
                Err(CommitError::Unavailable { reason: db::reason(error) })
            }
            _ => {
                self.stopped = true;
                Err(CommitError::Indeterminate)
            }
        }
    }

    fn landed(
        &mut self,
        planned: Planned,
        learnt: Learnt,
    ) -> Vec<Result<crate::eventlog::Appended, crate::eventlog::Refused>> {
        // An unbounded set of names would be an unbounded cache.
        if self.names.len() + learnt.names.len() > 65_536 {
            self.names.clear();
        }
        self.names.extend(learnt.names);
        for event in &planned.events {
            if let Some((row, id)) = learnt.streams.get(&event.stream) {
                let fact = StreamFact { row: *row, id: *id, last: Some(event.revision) };
                self.streams.put(event.stream.clone(), fact);
            }
        }
        let moved = planned.head.next != self.head.next;
        self.head = planned.head;
        if moved {
            self.publish.send_replace(self.head.next.0);
        }
        planned.outcomes
    }

    /// Folds the write-ahead log into the file and lets go of it.
    pub fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = connection.close();
        }
    }
}

/// Writes one effect. A fence gets the next number of the erasure record and raises the erasure epoch.
fn apply(tx: &Transaction<'_>, effect: &Effect, at: Millis, position: u64, head: &mut Head) -> rusqlite::Result<()> {
    match effect {
        Effect::Fence { subject, purposes, basis, request } => {
            let scopes = purposes.as_ref().map(|list| list.iter().map(|purpose| (purpose, 0)).collect());
            fence(tx, *subject, scopes, basis, request, at, head)
        }
        Effect::Refence { subject, purposes, basis, request, fenced } => {
            let scopes = purposes.as_ref().map(|list| list.iter().map(|(purpose, last)| (purpose, *last)).collect());
            fence(tx, *subject, scopes, basis, request, *fenced, head)
        }
        Effect::Completed { request } => tx
            .prepare_cached("update erasures set completed_ms = ?2 where request = ?1 and completed_ms is null")?
            .execute((request, at.0))
            .map(drop),
        Effect::Reauthorize { subject, purposes } => {
            for purpose in purposes {
                tx.prepare_cached("update fences set reauthorized = 1 where subject = ?1 and purpose = ?2")?
                    .execute((subject.0, purpose.as_str()))?;
            }
            Ok(())
        }
        // Among the columns of the plan.
        Effect::RemoveSlots { .. } => Ok(()),
        Effect::Request { id, subject, status, due } => tx
            .prepare_cached(
                "insert into forget_requests(id, subject, status, position, due_ms) values (?1, ?2, ?3, ?4, ?5)
                 on conflict (id) do update set status = ?3, position = ?4",
            )?
            .execute((id, subject.0, status, position as i64, due.0))
            .map(drop),
    }
}

/// Sets a fence, at least up to the given generations, and adds the next entry of the erasure record.
fn fence(
    tx: &Transaction<'_>,
    subject: SubjectRef,
    purposes: Option<Vec<(&Purpose, u32)>>,
    basis: &str,
    request: &str,
    at: Millis,
    head: &mut Head,
) -> rusqlite::Result<()> {
    head.erasure_epoch += 1;
    let scopes: Vec<(&str, u32)> = match purposes {
        // The whole person: every generation there will ever be.
        None => vec![("*", u32::MAX)],
        Some(list) => list.into_iter().map(|(purpose, last)| (purpose.as_str(), last)).collect(),
    };
    for (purpose, generation) in &scopes {
        tx.prepare_cached(
            "insert into fences(subject, purpose, generation, state, basis, request, at_ms, epoch)
             values (?1, ?2, ?3, 'erased', ?4, ?5, ?6, ?7)
             on conflict (subject, purpose) do update set generation = max(generation + reauthorized, ?3),
               reauthorized = 0, basis = ?4, request = ?5, at_ms = ?6, epoch = ?7",
        )?
        .execute((subject.0, purpose, generation, basis, request, at.0, head.erasure_epoch as i64))?;
    }
    let scope = scopes.iter().map(|(purpose, _)| *purpose).collect::<Vec<_>>().join(" ");
    record_erasure(tx, subject, &scope, basis, request, at)
}

fn record_erasure(
    tx: &Transaction<'_>,
    subject: SubjectRef,
    scope: &str,
    basis: &str,
    request: &str,
    at: Millis,
) -> rusqlite::Result<()> {
    let last = tx
        .prepare_cached("select number, digest from erasures order by number desc limit 1")?
        .query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 32]>(1)?)));
    let (number, digest) = match last {
        Ok(found) => found,
        Err(rusqlite::Error::QueryReturnedNoRows) => (0, [0; 32]),
        Err(error) => return Err(error),
    };
    let number = number + 1;
    let digest = domain::erasure_digest(&digest, number as u64, &subject.0, scope);
    tx.prepare_cached(
        "insert into erasures(number, request, subject, scope, basis, fenced_ms, digest)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute((number, request, subject.0, scope, basis, at.0, digest))
    .map(drop)
}
