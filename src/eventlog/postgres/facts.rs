//! The beginning of the write transaction: the lock of the head, and facts for the planner, read under it.
//!
//! Owns: the questions, sent all at once. Under the lock nobody else commits, so what is read stays true until the end of
//! the transaction; the fences are read in the same transaction that inserts.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::num::NonZeroUsize;

use lru::LruCache;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::lookups;
use super::rows::{self, bytes, count, get, integer};
use crate::db::postgres::{Connection, PgError};
use crate::event::{Category, EventId, EventType, Position, Purpose, Revision, StreamId, StreamName, SubjectRef};
use crate::eventlog::plan::{Facts, StreamFact};
use crate::eventlog::reply::decode_reply;
use crate::eventlog::{Batch, Condition, Effect, Filter, Head, ReadError};
use crate::sealing::SealedEvent;

/// What earlier transactions of this node learnt. Streams are true as long as no other node has written, people as long as
/// nobody has set a fence; the head, read under its lock, tells both.
pub struct Cache {
    /// Interned names: never change.
    pub names: HashMap<String, i64>,
    /// The streams spoken of last, `None` where there is no such stream.
    pub streams: LruCache<StreamName, Option<StreamFact>>,
    /// Largest number of a stream.
    pub last_stream: Option<i64>,
    /// The next position for which these are true.
    pub next: Option<Position>,
    /// People without any fence.
    unfenced: LruCache<SubjectRef, ()>,
    /// The erasure epoch for which that is true.
    epoch: Option<u64>,
}

impl Cache {
    /// Knows nothing.
    pub fn new() -> Self {
        let most = NonZeroUsize::new(100_000).expect("not zero");
        let (streams, unfenced) = (LruCache::new(most), LruCache::new(most));
        Self { names: HashMap::new(), streams, last_stream: None, next: None, unfenced, epoch: None }
    }
}

/// Why nothing could be gathered.
pub enum Failed {
    /// The database.
    Database(PgError),
    /// What it holds.
    Content,
}

impl Failed {
    /// A fact.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Database(error) => error.reason(),
            Self::Content => "the event log is corrupt",
        }
    }
}

impl From<PgError> for Failed {
    fn from(error: PgError) -> Self {
        Self::Database(error)
    }
}

impl From<ReadError> for Failed {
    fn from(_: ReadError) -> Self {
        Self::Content
    }
}

/// What stands behind the lock.
pub struct Gathered {
    /// The head.
    pub head: Head,
    /// Facts for the planner.
    pub facts: Facts,
    /// Largest number of a stream so far.
    pub last_stream: i64,
    /// Largest number of a name so far.
    pub last_name: i64,
    /// Largest number in the access log so far, if the batch has entries for it.
    pub last_access: i64,
    /// Numbers of the names that the batch may need and that exist.
    pub names: HashMap<String, i64>,
}

/// The head, locked until the end of the transaction.
pub const LOCK: &str = "select store, next_position, recorded_ms, erasure_epoch, frontier from head for update";
const STREAMS: &str = "select s.name, s.id, s.stream, (select max(revision) from events where stream = s.id)
     from unnest($1::text[]) w(name) join streams s on s.name = w.name
     union all select null, max(id), null, null from streams";
const NAMES: &str = "select n.text, n.id from unnest($1::text[]) w(text) join names n on n.text = w.text
     union all select null, max(id) from names";
const IDS: &str = "select w.name, e.event_id, e.revision, e.position
     from unnest($1::text[], $2::bytea[]) w(name, id) join streams s on s.name = w.name
     join events e on e.stream = s.id and e.event_id = w.id and e.caller_id = 1";
const OWNED: &str = "select f.position, f.slot, n.text, f.generation from footprint f join names n on n.id = f.purpose
     where f.subject = $1 and f.position = any($2) and f.slot >= 0";
const SEALED: &str = "select position, sealed from events where position = any($1)";
const ACCESS: &str = "select coalesce(max(id), 0) from access_log";
const REPLIES: &str = "select key, request, positions, expires_ms from idempotency where key = any($1)";

/// Begins the transaction, locks the head and reads everything the planner asks about a batch.
pub async fn gather(connection: &Connection, batch: &Batch, cache: &mut Cache) -> Result<Gathered, Failed> {
    let questions = Questions::of(batch);
    let unknown = questions.unknown(cache);
    let mut steps: Vec<(&str, Vec<&(dyn ToSql + Sync)>)> = vec![
        (LOCK, vec![]),
        (STREAMS, vec![&unknown.streams]),
        (NAMES, vec![&unknown.names]),
        (IDS, vec![&questions.id_streams, &questions.ids]),
        (REPLIES, vec![&questions.keys]),
        (rows::FENCES, vec![&unknown.people]),
        (ACCESS, vec![]),
    ];
    // Every step has an answer, but what is not asked is not sent. New streams and names are among the unknown ones.
    let asked = [
        true,
        !unknown.streams.is_empty() || cache.last_stream.is_none(),
        !unknown.names.is_empty(),
        !questions.ids.is_empty(),
        !questions.keys.is_empty(),
        !unknown.people.is_empty(),
        !batch.access.is_empty(),
    ];
    let mut sent = asked.iter();
    steps.retain(|_| sent.next().is_some_and(|asked| *asked));
    let mut answers = connection.query_all("begin", &steps).await?.into_iter();
    let mut answer = |asked: bool| asked.then(|| answers.next()).flatten().unwrap_or_default();
    let head = lookups::head_of(&answer(true))?;
    let mut facts = Facts::default();
    let mut last_stream = if asked[1] { Some(put_streams(&answer(true), &mut facts)?) } else { cache.last_stream };
    let (names, last_name) = names_of(&answer(asked[2]))?;
    put_ids(&answer(asked[3]), &mut facts)?;
    put_replies(&answer(asked[4]), batch, &mut facts)?;
    facts.fences = rows::fences(&answer(asked[5]))?;
    let last_access = answer(asked[6]).first().map_or(Ok(0), |row| get(row, 0))?;
    if cache.next == Some(head.next) {
        facts.streams.extend(unknown.cached.into_iter().filter_map(|(name, fact)| Some((name, fact?))));
    } else {
        // Another node has written since: what we remember of streams may be behind.
        cache.streams.clear();
        let again: Vec<&str> = unknown.cached.iter().map(|(name, _)| name.as_str()).collect();
        if !again.is_empty() {
            last_stream = Some(put_streams(&connection.query(STREAMS, &[&again]).await?, &mut facts)?);
        } else if !asked[1] {
            last_stream = None;
        }
    }
    if cache.epoch != Some(head.erasure_epoch) {
        // Somebody was forgotten since: whom we remember as not forgotten may be.
        cache.unfenced.clear();
        if !unknown.unfenced.is_empty() {
            let again = rows::people(unknown.unfenced.iter().copied());
            facts.fences.0.extend(rows::fences(&connection.query(rows::FENCES, &[&again]).await?)?.0);
        }
    }
    questions.remember(&head, &facts, last_stream, cache);
    for (index, job) in batch.jobs.iter().enumerate() {
        for (at, condition) in job.conditions.iter().enumerate() {
            if let Condition::NoneMatching { after, filter } = condition {
                facts.matching.insert((index, at), any_matching(connection, *after, filter).await?);
            }
        }
    }
    for (subject, events) in batch.jobs.iter().flat_map(|job| &job.effects).filter_map(Effect::loses_slots) {
        removals(connection, subject, events, &mut facts).await?;
    }
    // Asked for whenever a stream is spoken of.
    let last_stream = last_stream.unwrap_or(0);
    Ok(Gathered { head, facts, last_stream, last_name, last_access, names })
}

/// Everything a batch speaks of.
struct Questions<'b> {
    streams: HashSet<&'b StreamName>,
    names: BTreeSet<&'b str>,
    categories: BTreeSet<String>,
    id_streams: Vec<&'b str>,
    ids: Vec<Vec<u8>>,
    keys: Vec<&'b [u8]>,
    people: HashSet<SubjectRef>,
}

/// What of it has to be asked for, and what is remembered.
struct Unknown<'b> {
    streams: Vec<&'b str>,
    names: Vec<&'b str>,
    people: Vec<Vec<u8>>,
    cached: Vec<(StreamName, Option<StreamFact>)>,
    unfenced: Vec<SubjectRef>,
}

impl<'b> Questions<'b> {
    fn of(batch: &'b Batch) -> Self {
        let mut questions = Self {
            streams: HashSet::new(),
            names: BTreeSet::new(),
            categories: BTreeSet::new(),
            id_streams: Vec::new(),
            ids: Vec::new(),
            keys: Vec::new(),
            people: HashSet::new(),
        };
        for job in &batch.jobs {
            questions.people.extend(job.effects.iter().filter_map(Effect::loses_slots).map(|(subject, _)| subject));
            questions.keys.extend(job.idempotency.iter().map(|idempotency| idempotency.key.as_slice()));
            questions.streams.extend(job.conditions.iter().filter_map(|condition| match condition {
                Condition::Stream { stream, .. } => Some(stream),
                Condition::NoneMatching { .. } => None,
            }));
            for append in &job.appends {
                questions.streams.insert(&append.stream);
                questions.categories.insert(append.stream.category().as_str().to_owned());
                for event in &append.events {
                    questions.names.insert(event.event_type().as_str());
                    questions.names.extend(event.footprint().iter().map(|entry| entry.purpose.as_str()));
                    questions.people.extend(event.footprint().iter().map(|entry| entry.subject));
                }
                for event in append.events.iter().filter(|event| SealedEvent::has_caller_id(event)) {
                    questions.id_streams.push(append.stream.as_str());
                    questions.ids.push(event.id().0.to_vec());
                }
            }
        }
        questions
    }

    fn unknown(&self, cache: &mut Cache) -> Unknown<'_> {
        let (unfenced, asked) = self.people.iter().partition(|person| cache.unfenced.get(*person).is_some());
        let asked: Vec<SubjectRef> = asked;
        let people = rows::people(asked);
        let mut unknown = Unknown { streams: Vec::new(), names: Vec::new(), people, cached: Vec::new(), unfenced };
        for name in &self.streams {
            match cache.streams.get(*name) {
                Some(fact) => unknown.cached.push(((*name).clone(), *fact)),
                None => unknown.streams.push(name.as_str()),
            }
        }
        let all = self.names.iter().copied().chain(self.categories.iter().map(String::as_str));
        unknown.names = all.filter(|text| !cache.names.contains_key(*text)).collect();
        unknown
    }

    /// What was read is true at this head, whether or not the transaction commits.
    fn remember(&self, head: &Head, facts: &Facts, last_stream: Option<i64>, cache: &mut Cache) {
        for name in &self.streams {
            cache.streams.put((*name).clone(), facts.streams.get(*name).copied());
        }
        cache.last_stream = last_stream;
        cache.next = Some(head.next);
        for person in self.people.iter().filter(|person| !facts.fences.0.contains_key(person)) {
            cache.unfenced.put(*person, ());
        }
        cache.epoch = Some(head.erasure_epoch);
    }
}

fn names_of(found: &[Row]) -> Result<(HashMap<String, i64>, i64), PgError> {
    let (mut names, mut last) = (HashMap::new(), 0);
    for row in found {
        let number = get::<Option<i64>>(row, 1)?.unwrap_or(0);
        match get::<Option<&str>>(row, 0)? {
            Some(text) => drop(names.insert(text.to_owned(), number)),
            None => last = number,
        }
    }
    Ok((names, last))
}

fn put_streams(found: &[Row], facts: &mut Facts) -> Result<i64, ReadError> {
    let mut last = 0;
    for row in found {
        let number = get::<Option<i64>>(row, 1)?.unwrap_or(0);
        let Some(name) = get::<Option<&str>>(row, 0)? else {
            last = number;
            continue;
        };
        let corrupt = ReadError::Corrupt { table: "streams", column: "name", row: number as u64 };
        let name = StreamName::parse_any(name).map_err(|_| corrupt)?;
        let revision = get::<Option<i64>>(row, 3)?.map(|revision| Revision(revision as u64));
        facts.streams.insert(name, StreamFact { row: number, id: StreamId(bytes(row, 2)?), last: revision });
    }
    Ok(last)
}

fn put_ids(found: &[Row], facts: &mut Facts) -> Result<(), ReadError> {
    for row in found {
        let corrupt = ReadError::Corrupt { table: "streams", column: "name", row: 0 };
        let stream = StreamName::parse_any(get(row, 0)?).map_err(|_| corrupt)?;
        let place = (Revision(count(row, 2)?), Position(count(row, 3)?));
        facts.known_ids.insert((stream, EventId(bytes(row, 1)?)), place);
    }
    Ok(())
}

fn put_replies(found: &[Row], batch: &Batch, facts: &mut Facts) -> Result<(), PgError> {
    for row in found {
        let (key, request, expires) = (bytes::<32>(row, 0)?, bytes(row, 1)?, get::<i64>(row, 3)?);
        let same = batch.jobs.iter().filter(|job| job.idempotency.is_some_and(|idempotency| idempotency.key == key));
        let live = same.map(|job| job.at.0).min().is_some_and(|at| expires > at);
        if let (true, Some(reply)) = (live, decode_reply(get(row, 2)?)) {
            facts.replies.insert(key, (request, reply));
        }
    }
    Ok(())
}

/// Whose the slots are that are to be removed, and the columns that they stand in.
async fn removals(
    connection: &Connection,
    subject: SubjectRef,
    events: &[(Position, Vec<u16>)],
    facts: &mut Facts,
) -> Result<(), Failed> {
    let positions: Vec<i64> = events.iter().map(|(position, _)| integer(position.0)).collect();
    for row in connection.query(OWNED, &[&subject.0.as_slice(), &positions]).await? {
        if let (Ok(slot), Ok(purpose)) = (u16::try_from(get::<i64>(&row, 1)?), Purpose::parse_any(get(&row, 2)?)) {
            let place = (subject, Position(count(&row, 0)?), slot);
            facts.owned.insert(place, (purpose, count(&row, 3)? as u32));
        }
    }
    for row in connection.query(SEALED, &[&positions]).await? {
        facts.sealed.insert(Position(count(&row, 0)?), get(&row, 1)?);
    }
    Ok(())
}

/// Whether a stored event after a position matches.
async fn any_matching(connection: &Connection, after: Option<Position>, filter: &Filter) -> Result<bool, PgError> {
    let after = after.map_or(-1, |position| integer(position.0));
    let category = filter.category.as_ref().map(Category::as_str);
    let types: Vec<&str> = filter.types.iter().map(EventType::as_str).collect();
    let subject = filter.subject.map(|subject| subject.0.to_vec());
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&after];
    let mut clause = String::new();
    let mut source = "events e where e.position > $1";
    let mut add = |value, predicate: &str| {
        parameters.push(value);
        clause.push_str(&predicate.replace('?', &format!("${}", parameters.len())));
    };
    if let Some(subject) = &subject {
        source = "footprint f join events e on e.position = f.position where f.position > $1";
        add(subject, " and f.subject = ?");
    }
    if let Some(category) = &category {
        add(category, " and e.category = (select id from names where text = ?)");
    }
    if !types.is_empty() {
        add(&types, " and e.type = any(array(select id from names where text = any(?)))");
    }
    let sql = format!("select exists (select 1 from {source}{clause})");
    connection.row(&sql, &parameters).await?.map_or(Ok(false), |row| get(&row, 0))
}
