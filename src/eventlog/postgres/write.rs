//! The write transaction's statements: one per table, whatever the size of the batch.
//!
//! Owns: what a plan becomes. Rows travel as one array per column (`unnest`), all statements in one flight; the fence is
//! checked by the insert of the footprint itself.

use std::collections::HashMap;

use tokio_postgres::types::ToSql;

use super::facts::Gathered;
use super::rows::{bytes, get};
use crate::clock::Millis;
use crate::crash;
use crate::db::postgres::{Connection, PgError};
use crate::domain;
use crate::event::{Purpose, StreamId, StreamName, SubjectRef};
use crate::eventlog::plan::{Planned, PlannedEvent};
use crate::eventlog::reply::encode_reply;
use crate::eventlog::{AccessEntry, Effect, Head};
use crate::merkle::Hash;

/// What the transaction learnt, to be kept only if it commits.
#[derive(Default)]
pub struct Learnt {
    /// Numbers of names.
    pub names: HashMap<String, i64>,
    /// Numbers and ids of streams.
    pub streams: HashMap<StreamName, (i64, StreamId)>,
    /// Largest number of a stream.
    pub last_stream: i64,
    /// Number of the last entry made in the access log.
    pub last_access: Option<i64>,
}

type Steps<'a> = Vec<(&'a str, Vec<&'a (dyn ToSql + Sync)>)>;

const INSERT_NAMES: &str = "insert into names(id, text) select * from unnest($1::bigint[], $2::text[])";
const INSERT_STREAMS: &str = "insert into streams(id, stream, name, category) select * from unnest($1::bigint[], $2::bytea[], $3::text[], $4::bigint[])";
const INSERT_EVENTS: &str = "insert into events(position, event_id, stream, revision, type, category, schema_version,
       recorded_ms, caller_id, meta, public, salts, commitments, sealed, leaf)
     select * from unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
       $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::bytea[], $13::bytea[], $14::bytea[], $15::bytea[])";
const INSERT_FOOTPRINT: &str = "insert into footprint(subject, position, slot, purpose, generation)
     select * from unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])";
const INSERT_TREE: &str = "insert into tree(level, number, hash)
     select * from unnest($1::bigint[], $2::bigint[], $3::bytea[]) on conflict do nothing";
const INSERT_ACCESS: &str =
    "insert into access_log(id, at_ms, principal, purpose, subject, route, fields, reason, request)
     select * from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::bigint[], $8::text[], $9::text[])";
const INSERT_REPLIES: &str = "insert into idempotency(key, request, positions, expires_ms)
     select * from unnest($1::bytea[], $2::bytea[], $3::text[], $4::bigint[])
     on conflict (key) do update set request = excluded.request, positions = excluded.positions,
       expires_ms = excluded.expires_ms";
const EXPIRE_REPLIES: &str = "delete from idempotency where key in
     (select key from idempotency where expires_ms <= $1 order by expires_ms limit 64)";
const REMOVE_SLOTS: &str = "update events e set sealed = w.sealed
     from unnest($1::bigint[], $2::bytea[]) w(position, sealed) where e.position = w.position";
const MOVE_HEAD: &str = "update head set next_position = $1, recorded_ms = $2, erasure_epoch = $3, frontier = $4";
/// A hint for other nodes, delivered when the transaction commits.
const NOTIFY: &str = "select pg_notify('oubliette_log', $1)";

/// Where writing failed.
pub enum Failed {
    /// Before the commit was sent: nothing will be there.
    Before(PgError),
    /// With the commit: whether it landed is to be found out if the connection was lost.
    Commit(PgError),
}

impl From<PgError> for Failed {
    fn from(error: PgError) -> Self {
        Self::Before(error)
    }
}

/// Writes everything, the head's new place last, and commits: in one flight unless there are effects, which read what came
/// before them. What was learnt is true if the commit lands.
pub async fn write(
    connection: &Connection,
    planned: &mut Planned,
    access: &[AccessEntry],
    gathered: &Gathered,
    learnt: &Learnt,
    known: &HashMap<String, i64>,
    now: Option<Millis>,
) -> Result<(), Failed> {
    let number_of = |text: &str| learnt.names.get(text).or_else(|| known.get(text)).copied().unwrap_or(0);
    let new_names = learnt.names.iter().filter(|(_, id)| **id > gathered.last_name);
    let (name_texts, name_ids): (Vec<&str>, Vec<i64>) = new_names.map(|(text, id)| (text.as_str(), *id)).unzip();
    let streams = StreamColumns::of(&planned.new_streams, learnt, number_of);
    let events = EventColumns::of(&planned.events, learnt, number_of);
    let footprint = FootprintColumns::of(&planned.events, number_of);
    let tree = TreeColumns::of(&planned.nodes);
    let seen = AccessColumns::of(access, gathered.last_access);
    let replies = ReplyColumns::of(planned);
    let columns = std::mem::take(&mut planned.columns);
    let (places, columns): (Vec<i64>, Vec<Option<Vec<u8>>>) =
        columns.into_iter().map(|(position, sealed)| (position.0 as i64, sealed)).unzip();
    let expired = now.map_or(0, |now| now.0);
    let mut steps: Steps<'_> = Vec::new();
    if !name_ids.is_empty() {
        steps.push((INSERT_NAMES, vec![&name_ids, &name_texts]));
    }
    streams.step(&mut steps);
    events.step(&mut steps);
    footprint.step(&mut steps);
    tree.step(&mut steps);
    seen.step(&mut steps);
    if !replies.keys.is_empty() {
        let set: Vec<&(dyn ToSql + Sync)> = vec![&replies.keys, &replies.requests, &replies.texts, &replies.expires];
        steps.push((INSERT_REPLIES, set));
        steps.push((EXPIRE_REPLIES, vec![&expired]));
    }
    if !places.is_empty() {
        steps.push((REMOVE_SLOTS, vec![&places, &columns]));
    }
    if planned.effects.is_empty() {
        let head = HeadColumns::of(&planned.head);
        head.steps(&mut steps, &gathered.head);
        crash::point("log.before-commit");
        return connection.commit_all(&steps).await.map_err(Failed::Commit);
    }
    connection.execute_all(&steps).await?;
    drop(steps);
    for (effect, at, position) in &planned.effects {
        apply(connection, effect, *at, position.0, &mut planned.head).await?;
    }
    let head = HeadColumns::of(&planned.head);
    let mut steps: Steps<'_> = Vec::new();
    head.steps(&mut steps, &gathered.head);
    crash::point("log.before-commit");
    connection.commit_all(&steps).await.map_err(Failed::Commit)
}

struct HeadColumns {
    told: String,
    next: i64,
    recorded: i64,
    epoch: i64,
    frontier: Vec<u8>,
}

impl HeadColumns {
    fn of(head: &Head) -> Self {
        let (next, epoch) = (head.next.0 as i64, head.erasure_epoch as i64);
        let told = next.to_string();
        Self { told, next, recorded: head.recorded.0, epoch, frontier: head.frontier.to_bytes() }
    }

    /// Nothing when the head stays where it was: a batch of personal reads alone.
    fn steps<'s>(&'s self, steps: &mut Steps<'s>, before: &Head) {
        let grown = self.next != before.next.0 as i64;
        if grown || self.epoch != before.erasure_epoch as i64 {
            steps.push((MOVE_HEAD, vec![&self.next, &self.recorded, &self.epoch, &self.frontier]));
        }
        if grown {
            steps.push((NOTIFY, vec![&self.told]));
        }
    }
}

/// Numbers for new streams and names, one above the largest so far: under the lock of the head nobody else gives any.
pub fn number(
    planned: &Planned,
    access: &[AccessEntry],
    gathered: &mut Gathered,
    known: &HashMap<String, i64>,
) -> Learnt {
    let mut learnt = Learnt { names: std::mem::take(&mut gathered.names), ..Learnt::default() };
    learnt.last_access = (!access.is_empty()).then_some(gathered.last_access + access.len() as i64);
    learnt.last_stream = gathered.last_stream + planned.new_streams.len() as i64;
    let facts = &gathered.facts.streams;
    learnt.streams.extend(facts.iter().map(|(name, fact)| (name.clone(), (fact.row, fact.id))));
    for (at, (name, id)) in planned.new_streams.iter().enumerate() {
        learnt.streams.insert(name.clone(), (gathered.last_stream + at as i64 + 1, *id));
    }
    let mut last = gathered.last_name;
    let mut give = |text: &str| {
        if !known.contains_key(text) && !learnt.names.contains_key(text) {
            last += 1;
            learnt.names.insert(text.to_owned(), last);
        }
    };
    for event in &planned.events {
        give(event.event.event_type().as_str());
        give(event.stream.category().as_str());
        event.event.footprint().iter().for_each(|entry| give(entry.purpose.as_str()));
    }
    learnt
}

#[derive(Default)]
struct StreamColumns<'a> {
    ids: Vec<i64>,
    streams: Vec<&'a [u8]>,
    names: Vec<&'a str>,
    categories: Vec<i64>,
}

impl<'a> StreamColumns<'a> {
    fn of(new: &'a [(StreamName, StreamId)], learnt: &Learnt, number_of: impl Fn(&str) -> i64) -> Self {
        let mut columns = Self::default();
        for (name, id) in new {
            columns.ids.push(learnt.streams.get(name).map_or(0, |(row, _)| *row));
            columns.streams.push(&id.0);
            columns.names.push(name.as_str());
            columns.categories.push(number_of(name.category().as_str()));
        }
        columns
    }

    fn step<'s>(&'s self, steps: &mut Steps<'s>) {
        if !self.ids.is_empty() {
            steps.push((INSERT_STREAMS, vec![&self.ids, &self.streams, &self.names, &self.categories]));
        }
    }
}

#[derive(Default)]
struct EventColumns<'a> {
    /// Position, stream, revision, type, category, schema version, recorded, caller's id.
    numbers: [Vec<i64>; 8],
    ids: Vec<Vec<u8>>,
    metas: Vec<&'a str>,
    publics: Vec<&'a str>,
    salts: Vec<&'a [u8]>,
    commitments: Vec<&'a [u8]>,
    sealed: Vec<Option<&'a [u8]>>,
    leaves: Vec<&'a [u8]>,
}

impl<'a> EventColumns<'a> {
    fn of(events: &'a [PlannedEvent], learnt: &Learnt, number_of: impl Fn(&str) -> i64) -> Self {
        let mut columns = Self::default();
        for planned in events {
            let event = &planned.event;
            let numbers = [
                planned.position.0 as i64,
                learnt.streams.get(&planned.stream).map_or(0, |(row, _)| *row),
                planned.revision.0 as i64,
                number_of(event.event_type().as_str()),
                number_of(planned.stream.category().as_str()),
                i64::from(event.schema_version()),
                planned.recorded.0,
                i64::from(event.has_caller_id()),
            ];
            columns.numbers.iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
            columns.ids.push(event.id().0.to_vec());
            columns.metas.push(event.meta());
            columns.publics.push(event.public());
            columns.salts.push(event.salts());
            columns.commitments.push(event.commitments().as_flattened());
            columns.sealed.push(event.sealed());
            columns.leaves.push(&planned.leaf);
        }
        columns
    }

    fn step<'s>(&'s self, steps: &mut Steps<'s>) {
        let [positions, streams, revisions, types, categories, versions, recorded, callers] = &self.numbers;
        if positions.is_empty() {
            return;
        }
        let set: Vec<&(dyn ToSql + Sync)> = vec![
            positions,
            &self.ids,
            streams,
            revisions,
            types,
            categories,
            versions,
            recorded,
            callers,
            &self.metas,
            &self.publics,
            &self.salts,
            &self.commitments,
            &self.sealed,
            &self.leaves,
        ];
        steps.push((INSERT_EVENTS, set));
    }
}

#[derive(Default)]
struct FootprintColumns {
    subjects: Vec<Vec<u8>>,
    /// Position, slot, purpose, generation.
    numbers: [Vec<i64>; 4],
}

impl FootprintColumns {
    fn of(events: &[PlannedEvent], number_of: impl Fn(&str) -> i64) -> Self {
        let mut columns = Self::default();
        for planned in events {
            for entry in planned.event.footprint() {
                columns.subjects.push(entry.subject.0.to_vec());
                let numbers = [
                    planned.position.0 as i64,
                    entry.slot.map_or(-1, i64::from),
                    number_of(entry.purpose.as_str()),
                    i64::from(entry.generation),
                ];
                columns.numbers.iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
            }
        }
        columns
    }

    fn step<'s>(&'s self, steps: &mut Steps<'s>) {
        let [positions, slots, purposes, generations] = &self.numbers;
        if !positions.is_empty() {
            steps.push((INSERT_FOOTPRINT, vec![&self.subjects, positions, slots, purposes, generations]));
        }
    }
}

#[derive(Default)]
struct TreeColumns {
    levels: Vec<i64>,
    numbers: Vec<i64>,
    hashes: Vec<Vec<u8>>,
}

impl TreeColumns {
    fn of(nodes: &[(u8, u64, Hash)]) -> Self {
        let mut columns = Self::default();
        for (level, number, hash) in nodes {
            columns.levels.push(i64::from(*level));
            columns.numbers.push(*number as i64);
            columns.hashes.push(hash.to_vec());
        }
        columns
    }

    fn step<'s>(&'s self, steps: &mut Steps<'s>) {
        if !self.levels.is_empty() {
            steps.push((INSERT_TREE, vec![&self.levels, &self.numbers, &self.hashes]));
        }
    }
}

#[derive(Default)]
struct ReplyColumns {
    keys: Vec<Vec<u8>>,
    requests: Vec<Vec<u8>>,
    texts: Vec<String>,
    expires: Vec<i64>,
}

impl ReplyColumns {
    fn of(planned: &Planned) -> Self {
        let mut columns = Self::default();
        for (idempotency, reply) in &planned.replies {
            columns.keys.push(idempotency.key.to_vec());
            columns.requests.push(idempotency.request.to_vec());
            columns.texts.push(encode_reply(reply));
            columns.expires.push(idempotency.expires.0);
        }
        columns
    }
}

#[derive(Default)]
struct AccessColumns<'a> {
    numbers: Vec<i64>,
    times: Vec<i64>,
    principals: Vec<&'a str>,
    purposes: Vec<&'a str>,
    subjects: Vec<&'a [u8]>,
    routes: Vec<&'a str>,
    fields: Vec<i64>,
    reasons: Vec<&'a str>,
    requests: Vec<&'a str>,
}

impl<'a> AccessColumns<'a> {
    fn of(access: &'a [AccessEntry], last: i64) -> Self {
        let mut columns = Self::default();
        for (entry, number) in access.iter().zip(last + 1..) {
            columns.numbers.push(number);
            columns.times.push(entry.at.0);
            columns.principals.push(&entry.principal);
            columns.purposes.push(&entry.purpose);
            columns.subjects.push(&entry.subject.0);
            columns.routes.push(&entry.route);
            columns.fields.push(i64::from(entry.fields));
            columns.reasons.push(&entry.reason);
            columns.requests.push(&entry.request);
        }
        columns
    }

    fn step<'s>(&'s self, steps: &mut Steps<'s>) {
        if self.numbers.is_empty() {
            return;
        }
        let Self { numbers, times, principals, purposes, subjects, routes, fields, reasons, requests } = self;
        let set: Vec<&(dyn ToSql + Sync)> =
            vec![numbers, times, principals, purposes, subjects, routes, fields, reasons, requests];
        steps.push((INSERT_ACCESS, set));
    }
}

/// Writes one effect. A fence gets the next number of the erasure record and raises the erasure epoch.
async fn apply(
    connection: &Connection,
    effect: &Effect,
    at: Millis,
    position: u64,
    head: &mut Head,
) -> Result<(), PgError> {
    match effect {
        Effect::Fence { subject, purposes, basis, request } => {
            let scopes = purposes.as_ref().map(|list| list.iter().map(|purpose| (purpose, 0)).collect());
            fence(connection, *subject, scopes, (basis, request), at, head).await
        }
        Effect::Refence { subject, purposes, basis, request, fenced } => {
            let scopes = purposes.as_ref().map(|list| list.iter().map(|(purpose, last)| (purpose, *last)).collect());
            fence(connection, *subject, scopes, (basis, request), *fenced, head).await
        }
        Effect::Completed { request } => {
            let sql = "update erasures set completed_ms = $2 where request = $1 and completed_ms is null";
            connection.execute(sql, &[request, &at.0]).await.map(drop)
        }
        Effect::Reauthorize { subject, purposes } => {
            let purposes: Vec<&str> = purposes.iter().map(Purpose::as_str).collect();
            let sql = "update fences set reauthorized = 1 where subject = $1 and purpose = any($2)";
            connection.execute(sql, &[&subject.0.as_slice(), &purposes]).await.map(drop)
        }
        // Among the columns of the plan.
        Effect::RemoveSlots { .. } => Ok(()),
        Effect::Request { id, subject, status, due } => {
            let sql = "insert into forget_requests(id, subject, status, position, due_ms) values ($1, $2, $3, $4, $5)
                 on conflict (id) do update set status = $3, position = $4";
            let set: &[&(dyn ToSql + Sync)] = &[id, &subject.0.as_slice(), status, &(position as i64), &due.0];
            connection.execute(sql, set).await.map(drop)
        }
    }
}

/// Sets a fence, at least up to the given generations, and adds the next entry of the erasure record.
async fn fence(
    connection: &Connection,
    subject: SubjectRef,
    purposes: Option<Vec<(&Purpose, u32)>>,
    (basis, request): (&str, &str),
    at: Millis,
    head: &mut Head,
) -> Result<(), PgError> {
    head.erasure_epoch += 1;
    let scopes: Vec<(&str, u32)> = match purposes {
        // The whole person: every generation there will ever be.
        None => vec![("*", u32::MAX)],
        Some(list) => list.into_iter().map(|(purpose, last)| (purpose.as_str(), last)).collect(),
    };
    for (purpose, generation) in &scopes {
        let sql = "insert into fences(subject, purpose, generation, state, basis, request, at_ms, epoch)
             values ($1, $2, $3, 'erased', $4, $5, $6, $7)
             on conflict (subject, purpose) do update
             set generation = greatest(fences.generation + fences.reauthorized, excluded.generation),
               reauthorized = 0, basis = $4, request = $5, at_ms = $6, epoch = $7";
        let (subject, epoch) = (subject.0.as_slice(), head.erasure_epoch as i64);
        let generation = i64::from(*generation);
        connection.execute(sql, &[&subject, purpose, &generation, &basis, &request, &at.0, &epoch]).await?;
    }
    let scope = scopes.iter().map(|(purpose, _)| *purpose).collect::<Vec<_>>().join(" ");
    record_erasure(connection, subject, &scope, (basis, request), at).await
}

async fn record_erasure(
    connection: &Connection,
    subject: SubjectRef,
    scope: &str,
    (basis, request): (&str, &str),
    at: Millis,
) -> Result<(), PgError> {
    let last = connection.row("select number, digest from erasures order by number desc limit 1", &[]).await?;
    let (number, digest) = match last {
        Some(row) => (get::<i64>(&row, 0)?, bytes::<32>(&row, 1)?),
        None => (0, [0; 32]),
    };
    let number = number + 1;
    let digest = domain::erasure_digest(&digest, number as u64, &subject.0, scope);
    let sql = "insert into erasures(number, request, subject, scope, basis, fenced_ms, digest)
               values ($1, $2, $3, $4, $5, $6, $7)";
    let set: &[&(dyn ToSql + Sync)] =
        &[&number, &request, &subject.0.as_slice(), &scope, &basis, &at.0, &digest.as_slice()];
    connection.execute(sql, set).await.map(drop)
}
