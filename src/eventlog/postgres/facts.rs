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
use crate::event::{Category, EventId, EventType, Position, Revision, StreamId, StreamName, SubjectRef};
use crate::eventlog::plan::{Facts, StreamFact};
use crate::eventlog::reply::decode_reply;
use crate::eventlog::{Batch, Condition, Filter, Head, ReadError};
use crate::sealing::SealedEvent;

/// What earlier transactions of this node learnt.
pub struct Cache {
    /// Interned names: never change.
    pub names: HashMap<String, i64>,
    /// Heads of the streams written last; true as long as no other node has written.
    pub streams: LruCache<StreamName, StreamFact>,
    /// The next position for which `streams` is true.
    pub next: Option<Position>,
}

impl Cache {
    /// Knows nothing.
    pub fn new() -> Self {
        let most = NonZeroUsize::new(100_000).expect("not zero");
        Self { names: HashMap::new(), streams: LruCache::new(most), next: None }
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
        (rows::FENCES, vec![&questions.people]),
    ];
    // Every step has an answer, but what is not asked is not sent. New streams and names are among the unknown ones.
    let asked = [
        true,
        !unknown.streams.is_empty(),
        !unknown.names.is_empty(),
        !questions.ids.is_empty(),
        !questions.keys.is_empty(),
        !questions.people.is_empty(),
    ];
    let mut sent = asked.iter();
    steps.retain(|_| sent.next().is_some_and(|asked| *asked));
    let mut answers = connection.query_all("begin", &steps).await?.into_iter();
    let mut answer = |asked: bool| asked.then(|| answers.next()).flatten().unwrap_or_default();
    let head = lookups::head_of(&answer(true))?;
    let mut facts = Facts::default();
    let mut last_stream = put_streams(&answer(asked[1]), &mut facts)?;
    let (mut names, mut last_name) = (HashMap::new(), 0);
    for row in answer(asked[2]) {
        let number = get::<Option<i64>>(&row, 1)?.unwrap_or(0);
        match get::<Option<&str>>(&row, 0)? {
            Some(text) => drop(names.insert(text.to_owned(), number)),
            None => last_name = number,
        }
    }
    put_ids(&answer(asked[3]), &mut facts)?;
    put_replies(&answer(asked[4]), batch, &mut facts)?;
    facts.fences = rows::fences(&answer(asked[5]))?;
    if cache.next == Some(head.next) {
        for (name, fact) in unknown.cached {
            facts.streams.insert(name, fact);
        }
    } else {
        // Another node has written since: what we remember of streams may be behind.
        cache.streams.clear();
        let again: Vec<&str> = unknown.cached.iter().map(|(name, _)| name.as_str()).collect();
        if !again.is_empty() {
            last_stream = put_streams(&connection.query(STREAMS, &[&again]).await?, &mut facts)?;
        }
    }
    for (index, job) in batch.jobs.iter().enumerate() {
        for (at, condition) in job.conditions.iter().enumerate() {
            if let Condition::NoneMatching { after, filter } = condition {
                facts.matching.insert((index, at), any_matching(connection, *after, filter).await?);
            }
        }
    }
    Ok(Gathered { head, facts, last_stream, last_name, names })
}

/// Everything a batch speaks of.
struct Questions<'b> {
    streams: HashSet<&'b StreamName>,
    names: BTreeSet<&'b str>,
    categories: BTreeSet<String>,
    id_streams: Vec<&'b str>,
    ids: Vec<Vec<u8>>,
    keys: Vec<&'b [u8]>,
    people: Vec<Vec<u8>>,
}

/// What of it has to be asked for.
struct Unknown<'b> {
    streams: Vec<&'b str>,
    names: Vec<&'b str>,
    cached: Vec<(StreamName, StreamFact)>,
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
            people: Vec::new(),
        };
        let mut people: HashSet<SubjectRef> = HashSet::new();
        for job in &batch.jobs {
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
                    people.extend(event.footprint().iter().map(|entry| entry.subject));
                }
                for event in append.events.iter().filter(|event| SealedEvent::has_caller_id(event)) {
                    questions.id_streams.push(append.stream.as_str());
                    questions.ids.push(event.id().0.to_vec());
                }
            }
        }
        questions.people = rows::people(people);
        questions
    }

    fn unknown(&self, cache: &mut Cache) -> Unknown<'_> {
        let mut unknown = Unknown { streams: Vec::new(), names: Vec::new(), cached: Vec::new() };
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
