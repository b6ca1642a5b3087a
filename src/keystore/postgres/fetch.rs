//! Reads: who is known, which keys there are, how many.
//!
//! Owns: their statements, each in one snapshot. Must not know: when something was made or destroyed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::facts::{Key, array, get, shard_key, small};
use super::grant::Tools;
use super::nodes::{REGISTERED, UNREGISTERED};
use crate::clock::Millis;
use crate::db::postgres::{Connection, PgError};
use crate::event::{ExternalId, NaturalKey, Purpose, SubjectRef};
use crate::keystore::records::{EXTERNAL, Kek, Tag, ZEROS, bucket, id_context, open_id};
use crate::keystore::wrap::wrapped_by;
use crate::keystore::{DekId, Fetched, KeystoreError, KeystoreStats, Kid, Resolved};

type Result<T> = std::result::Result<T, KeystoreError>;

const BEGIN: &str = "begin isolation level repeatable read read only";

/// Shard keys in memory. Only what is committed comes in, and a key that was replaced never comes back: a read that began before
/// may still bring it.
#[derive(Default)]
pub struct Keks(Mutex<Known>);

#[derive(Default)]
struct Known {
    keys: HashMap<u8, Arc<Kek>>,
    /// The latest epoch in which a shard is known to have got a key.
    since: HashMap<u8, u32>,
    /// How often all were let go of.
    cleared: u64,
}

impl Keks {
    /// All of them, and how often all were let go of before.
    pub fn all(&self) -> (u64, HashMap<u8, Arc<Kek>>) {
        let known = self.known();
        (known.cleared, known.keys.clone())
    }

    /// Lets go of all; what was read before this does not come in after it.
    pub fn clear(&self) {
        let mut known = self.known();
        known.cleared += 1;
        known.keys.clear();
    }

    /// Adds some that were read when all had been let go of so often.
    pub fn extend(&self, seen: u64, keks: impl IntoIterator<Item = (u8, Arc<Kek>)>) {
        let mut known = self.known();
        if known.cleared != seen {
            return;
        }
        for (shard, kek) in keks {
            let since = known.since.entry(shard).or_default();
            if kek.epoch >= *since {
                *since = kek.epoch;
                known.keys.insert(shard, kek);
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that these records name, by shard. One that is not in memory, or not as a record names it, is read: in the same
    /// transaction, so that it is the one the record lies under, whatever an epoch does meanwhile.
    async fn of<'r>(
        &self,
        connection: &Connection,
        tools: &Tools,
        records: impl Iterator<Item = (SubjectRef, &'r [u8])>,
    ) -> Result<HashMap<u8, Arc<Kek>>> {
        let (seen, mut known) = self.all();
        let other = |(subject, record): (SubjectRef, &[u8])| {
            let shard = subject.0[0];
            let named = wrapped_by(record).map(|(id, _)| id);
            let fits = known.get(&shard).is_some_and(|kek| named.is_none_or(|id| id == kek.id));
            (!fits).then_some(i64::from(shard))
        };
        let missing: Vec<i64> = records.filter_map(other).collect();
        if missing.is_empty() {
            return Ok(known);
        }
        let sql =
            "select k.shard, k.kek_id, k.epoch, k.kid, k.root, s.wrapped from keks k join kek_slots s using (slot)
                   where k.shard = any($1)";
        for row in connection.query(sql, &[&missing]).await? {
            let shard = u8::try_from(get::<i64>(&row, 0)?).map_err(|_| PgError::Type)?;
            match tools.open_kek(shard, &shard_key(&row)?) {
                Ok(kek) => {
                    self.extend(seen, [(shard, Arc::clone(&kek))]);
                    known.insert(shard, kek);
                }
                // One that does not open is missed by its own people only.
                Err(KeystoreError::Corrupt { .. }) => {}
                // A root that cannot be reached is no damage.
                Err(error) => return Err(error),
            }
        }
        Ok(known)
    }
}

/// People by external id.
pub async fn resolve(connection: &Connection, tools: &Tools, ids: &[ExternalId]) -> Result<Vec<Resolved>> {
    let tags: Vec<Tag> = ids.iter().map(|id| tools.external(id)).collect();
    let wanted: Vec<&[u8]> = tags.iter().map(<[u8; 32]>::as_slice).collect();
    let sql = "select t.tag, s.subject from subject_tags t join subject_slots s using (slot)
               where t.kind = $1 and t.tag = any($2)";
    let mut found = HashMap::new();
    for row in connection.query(sql, &[&EXTERNAL, &wanted]).await? {
        found.insert(array::<32>(&row, 0)?, array::<16>(&row, 1)?);
    }
    Ok(tags
        .iter()
        .map(|tag| match found.get(tag) {
            None => Resolved::Unknown,
            Some(subject) if *subject == ZEROS => Resolved::Erased,
            Some(subject) => Resolved::Known(SubjectRef(*subject)),
        })
        .collect())
}

/// People by natural key.
pub async fn resolve_natural(connection: &Connection, tools: &Tools, keys: &[NaturalKey]) -> Result<Vec<Resolved>> {
    let tags: Vec<Tag> = keys.iter().map(|key| tools.natural(key)).collect();
    let buckets: Vec<i64> = tags.iter().map(|tag| i64::from(bucket(tag))).collect();
    let sql = "select n.entry from blind_index b join natural_slots n using (slot) where b.bucket = any($1)";
    let mut found = HashMap::new();
    for row in connection.query(sql, &[&buckets]).await? {
        let entry = array::<48>(&row, 0)?;
        let (tag, subject) = entry.split_at(32);
        found.insert(tag.to_vec(), SubjectRef(subject.try_into().map_err(|_| PgError::Type)?));
    }
    let known = |tag: &Tag| found.get(tag.as_slice()).map_or(Resolved::Unknown, |subject| Resolved::Known(*subject));
    Ok(tags.iter().map(known).collect())
}

const WANTED: &str =
    "unnest($1::bytea[], $2::text[], $3::bigint[]) with ordinality w(subject, purpose, generation, number)";

/// Keys, or what became of them.
pub async fn fetch(connection: &Connection, tools: &Tools, keks: &Keks, ids: &[DekId]) -> Result<Vec<Fetched>> {
    let subjects: Vec<&[u8]> = ids.iter().map(|id| id.subject.0.as_slice()).collect();
    let purposes: Vec<&str> = ids.iter().map(|id| id.purpose.as_str()).collect();
    let generations: Vec<i64> = ids.iter().map(|id| i64::from(id.generation)).collect();
    let set = || -> Vec<&(dyn ToSql + Sync)> { vec![&subjects, &purposes, &generations] };
    let keys = format!(
        "select w.number, d.kid, s.wrapped from {WANTED} join deks d on d.subject = w.subject and d.purpose = w.purpose
           and d.generation = w.generation join key_slots s using (slot)"
    );
    let tombstones = format!(
        "select w.number, t.destroyed_ms from {WANTED} join tombstones t on t.subject = w.subject and t.purpose = w.purpose
           and t.generation = w.generation"
    );
    // The person's tombstone answers for keys this database never saw: it may be older than the log.
    let people =
        format!("select w.number, t.destroyed_ms from {WANTED} join person_tombstones t on t.subject = w.subject");
    let node = tools.node.0.as_slice();
    let steps = [
        (REGISTERED, vec![&node as &(dyn ToSql + Sync)]),
        (keys.as_str(), set()),
        (tombstones.as_str(), set()),
        (people.as_str(), set()),
    ];
    let answers = connection.query_all(BEGIN, &steps).await?;
    let [registered, keys, tombstones, people] = <[Vec<Row>; 4]>::try_from(answers).map_err(|_| PgError::Type)?;
    if registered.is_empty() {
        return Err(UNREGISTERED);
    }
    let mut records = Vec::with_capacity(keys.len());
    for row in &keys {
        records.push((ids.get(place(row)?).ok_or(PgError::Type)?.subject, get::<&[u8]>(row, 2)?));
    }
    let keks = keks.of(connection, tools, records.into_iter()).await?;
    connection.batch("commit").await?;
    let mut fetched = vec![Fetched::Unknown; ids.len()];
    // The more particular answer last, where it replaces the others.
    for row in people.iter().chain(&tombstones) {
        put(&mut fetched, row, Fetched::Destroyed { at: Millis(get(row, 1)?) })?;
    }
    for row in &keys {
        let id = ids.get(place(row)?).ok_or(PgError::Type)?;
        let kek = keks.get(&id.subject.0[0]).ok_or(KeystoreError::Corrupt { table: "keks", column: "wrapped" })?;
        let key = tools.open_key(kek, id, &Key::Wrapped(Kid(array(row, 1)?), array(row, 2)?))?;
        put(&mut fetched, row, Fetched::Key(key))?;
    }
    Ok(fetched)
}

fn place(row: &Row) -> std::result::Result<usize, PgError> {
    Ok((get::<i64>(row, 0)? - 1) as usize)
}

fn put(fetched: &mut [Fetched], row: &Row, answer: Fetched) -> std::result::Result<(), PgError> {
    *fetched.get_mut(place(row)?).ok_or(PgError::Type)? = answer;
    Ok(())
}

/// External ids of people still known, opened with their own `$identity` keys.
pub async fn external_ids(
    connection: &Connection,
    tools: &Tools,
    keks: &Keks,
    subjects: &[SubjectRef],
) -> Result<Vec<Option<ExternalId>>> {
    connection.batch(BEGIN).await?;
    if connection.row(REGISTERED, &[&tools.node.0.as_slice()]).await?.is_none() {
        return Err(UNREGISTERED);
    }
    let found = open_ids(connection, tools, keks, subjects).await?;
    connection.batch("commit").await?;
    Ok(found)
}

/// The external id of one person, in the transaction the connection is in.
pub async fn external_id(
    connection: &Connection,
    tools: &Tools,
    keks: &Keks,
    subject: SubjectRef,
) -> Result<Option<ExternalId>> {
    Ok(open_ids(connection, tools, keks, &[subject]).await?.pop().flatten())
}

async fn open_ids(
    connection: &Connection,
    tools: &Tools,
    keks: &Keks,
    subjects: &[SubjectRef],
) -> Result<Vec<Option<ExternalId>>> {
    let wanted: Vec<&[u8]> = subjects.iter().map(|subject| subject.0.as_slice()).collect();
    let identity = Purpose::identity();
    let sql = "select w.number, i.sealed, d.generation, d.kid, k.wrapped
               from unnest($1::bytea[]) with ordinality w(subject, number)
               join subjects s on s.subject = w.subject join id_slots i using (slot)
               cross join lateral (select generation, kid, slot from deks where subject = w.subject and purpose = $2
                 order by generation desc limit 1) d
               join key_slots k on k.slot = d.slot";
    let rows = connection.query(sql, &[&wanted, &identity.as_str()]).await?;
    let mut records = Vec::with_capacity(rows.len());
    for row in &rows {
        records.push((*subjects.get(place(row)?).ok_or(PgError::Type)?, get::<&[u8]>(row, 4)?));
    }
    let keks = keks.of(connection, tools, records.into_iter()).await?;
    let mut found = vec![None; subjects.len()];
    for row in &rows {
        let at = place(row)?;
        let subject = *subjects.get(at).ok_or(PgError::Type)?;
        let id = DekId { subject, purpose: identity.clone(), generation: small(row, 2)? };
        let kek = keks.get(&subject.0[0]).ok_or(KeystoreError::Corrupt { table: "keks", column: "wrapped" })?;
        let key = tools.open_key(kek, &id, &Key::Wrapped(Kid(array(row, 3)?), array(row, 4)?))?;
        let opened = open_id(&key, &id_context(&tools.store, subject), get(row, 1)?);
        found[at] = Some(opened.ok_or(KeystoreError::Corrupt { table: "id_slots", column: "sealed" })?);
    }
    Ok(found)
}

/// Counts. They are counted, not carried along: several nodes change them.
pub async fn stats(connection: &Connection, epoch: u32) -> Result<KeystoreStats> {
    let sql = "select (select count(*) from deks), (select count(*) from tombstones where kid is not null),
                 (select count(*) from subjects) + (select count(distinct subject) from natural_people),
                 (select applied_erasure from meta where id = 1)";
    let row = connection.row(sql, &[]).await?.ok_or(PgError::Type)?;
    let count = |at| get::<i64>(&row, at).map(i64::unsigned_abs);
    Ok(KeystoreStats {
        active: count(0)?,
        destroyed: count(1)?,
        subjects: count(2)?,
        epoch,
        applied_erasure: count(3)?,
    })
}
