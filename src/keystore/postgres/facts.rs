//! What the database says about people and keys.
//!
//! Owns: the questions of an `ensure`, set by set, and the reading of rows. Must not know: what is decided on it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, ToSql};

use crate::db::postgres::{Connection, PgError};
use crate::event::SubjectRef;
use crate::keystore::nodes::NodeId;
use crate::keystore::records::{EXTERNAL, Kek, Tag, ZEROS, bucket};
use crate::keystore::{Dek, KeystoreError, Kid};

use super::nodes::{REGISTERED, UNREGISTERED};

/// A key of a person.
#[derive(Clone)]
pub struct StoredKey {
    /// Its purpose.
    pub purpose: String,
    /// Its generation.
    pub generation: u32,
    /// The key, as it lies in its slot or as it was just made.
    pub key: Key,
}

/// A key wrapped, or open.
#[derive(Clone)]
pub enum Key {
    /// As stored.
    Wrapped(Kid, [u8; 88]),
    /// As made.
    Open(Arc<Dek>),
}

/// What is known of a person.
#[derive(Clone, Default)]
pub struct Person {
    /// Has an external id or a natural key.
    pub known: bool,
    /// Has a tombstone.
    pub forgotten: bool,
    /// Keys in use.
    pub keys: Vec<StoredKey>,
    /// Destroyed keys: purpose, generation, whether re-authorised.
    pub tombstones: Vec<(String, u32, bool)>,
}

/// A shard key, wrapped or open.
#[derive(Clone)]
pub enum ShardKey {
    /// As stored: identity, epoch in which it was made, key id, epoch of the root that wraps it, record.
    Wrapped([u8; 16], u32, Kid, u32, [u8; 88]),
    /// Opened earlier, or just made.
    Open(Arc<Kek>),
}

/// Largest numbers of slots so far.
#[derive(Clone, Copy, Default)]
pub struct Slots {
    pub key: i64,
    pub id: i64,
    pub subject: i64,
    pub natural: i64,
    pub kek: i64,
}

/// The answers.
#[derive(Clone, Default)]
pub struct Facts {
    /// External tags: their slot and the pseudonym in it; none where the person was forgotten.
    pub tags: HashMap<Tag, (i64, Option<SubjectRef>)>,
    /// Natural tags.
    pub natural: HashMap<Tag, SubjectRef>,
    /// Everyone asked for or found.
    pub people: HashMap<SubjectRef, Person>,
    /// Shard keys.
    pub keks: HashMap<u8, ShardKey>,
    /// Slots in use.
    pub slots: Slots,
    /// The newest epoch.
    pub epoch: u32,
}

const TAGS: &str = "select t.tag, t.slot, s.subject from subject_tags t join subject_slots s using (slot)
     where t.kind = $1 and t.tag = any($2)";
const NATURAL: &str = "select n.entry from blind_index b join natural_slots n using (slot) where b.bucket = any($1)";
const SLOTS: &str =
    "select (select coalesce(max(slot), 0) from key_slots), (select coalesce(max(slot), 0) from id_slots),
     (select coalesce(max(slot), 0) from subject_slots), (select coalesce(max(slot), 0) from natural_slots),
     (select coalesce(max(slot), 0) from kek_slots), (select coalesce(max(epoch), 0) from epochs)";
const PEOPLE: &str = "select subject, true from person_tombstones where subject = any($1)
     union all select subject, false from subjects where subject = any($1)
     union all select subject, false from natural_people where subject = any($1)";
const TOMBSTONES: &str = "select subject, purpose, generation, reauthorized from tombstones where subject = any($1)";
const KEYS: &str =
    "select d.subject, d.purpose, d.generation, d.kid, s.wrapped from deks d join key_slots s using (slot)
     where d.subject = any($1)";
/// Shard keys that are not known, or not as known: another node may have replaced them. The identities of the known ones come
/// as 256 times 16 bytes, in the order of shards.
const KEKS: &str =
    "select k.shard, k.kek_id, k.epoch, k.kid, k.root, s.wrapped from keks k join kek_slots s using (slot)
     where k.kek_id <> substr($1::bytea, (k.shard * 16 + 1)::int, 16)";

/// Reads everything about the people with these tags and pseudonyms. `begin` begins the transaction; with `locked` the row
/// of `meta` is locked first, so that what is read stays true until its end.
pub async fn gather(
    connection: &Connection,
    begin: &'static str,
    locked: bool,
    (external, natural, subjects): (&[Tag], &[Tag], &[SubjectRef]),
    (node, keks): (NodeId, &HashMap<u8, Arc<Kek>>),
) -> Result<Facts, KeystoreError> {
    let tags: Vec<&[u8]> = external.iter().map(<[u8; 32]>::as_slice).collect();
    let buckets: Vec<i64> = natural.iter().map(|tag| i64::from(bucket(tag))).collect();
    let lock = if locked { "select id from meta where id = 1 for update" } else { "select id from meta where id = 1" };
    let mut known = vec![0; 256 * 16];
    for (shard, kek) in keks {
        known[usize::from(*shard) * 16..][..16].copy_from_slice(&kek.id);
    }
    let known = known.as_slice();
    let node = node.0.as_slice();
    let steps: [(&str, Vec<&(dyn ToSql + Sync)>); 6] = [
        (lock, vec![]),
        (REGISTERED, vec![&node]),
        (TAGS, vec![&EXTERNAL, &tags]),
        (NATURAL, vec![&buckets]),
        (SLOTS, vec![]),
        (KEKS, vec![&known]),
    ];
    let answers = connection.query_all(begin, &steps).await?;
    let [_, registered, tags, entries, slots, shard_keys] =
        <[Vec<Row>; 6]>::try_from(answers).map_err(|_| PgError::Type)?;
    if registered.is_empty() {
        return Err(UNREGISTERED);
    }
    let mut facts = Facts::default();
    facts.keks.extend(keks.iter().map(|(shard, kek)| (*shard, ShardKey::Open(Arc::clone(kek)))));
    for row in &tags {
        let subject = array::<16>(row, 2)?;
        facts.tags.insert(array(row, 0)?, (get(row, 1)?, (subject != ZEROS).then_some(SubjectRef(subject))));
    }
    for row in &entries {
        let entry = array::<48>(row, 0)?;
        let (tag, subject) = entry.split_at(32);
        if let Some(tag) = natural.iter().find(|wanted| wanted.as_slice() == tag) {
            facts.natural.insert(*tag, SubjectRef(subject.try_into().map_err(|_| PgError::Type)?));
        }
    }
    if let Some(row) = slots.first() {
        facts.slots = Slots {
            key: get(row, 0)?,
            id: get(row, 1)?,
            subject: get(row, 2)?,
            natural: get(row, 3)?,
            kek: get(row, 4)?,
        };
        facts.epoch = small(row, 5)?;
    }
    for row in &shard_keys {
        let shard = u8::try_from(get::<i64>(row, 0)?).map_err(|_| PgError::Type)?;
        facts.keks.insert(shard, shard_key(row)?);
    }
    let mut everyone: BTreeSet<SubjectRef> = subjects.iter().copied().collect();
    everyone.extend(facts.tags.values().filter_map(|(_, subject)| *subject));
    everyone.extend(facts.natural.values());
    people(connection, everyone, &mut facts).await?;
    Ok(facts)
}

async fn people(connection: &Connection, everyone: BTreeSet<SubjectRef>, facts: &mut Facts) -> Result<(), PgError> {
    if everyone.is_empty() {
        return Ok(());
    }
    let subjects: Vec<&[u8]> = everyone.iter().map(|subject| subject.0.as_slice()).collect();
    let steps: [(&str, Vec<&(dyn ToSql + Sync)>); 3] =
        [(PEOPLE, vec![&subjects]), (TOMBSTONES, vec![&subjects]), (KEYS, vec![&subjects])];
    let answers = connection.query_all("", &steps).await?;
    let [people, tombstones, keys] = <[Vec<Row>; 3]>::try_from(answers).map_err(|_| PgError::Type)?;
    for row in &people {
        let person = facts.people.entry(SubjectRef(array(row, 0)?)).or_default();
        if get(row, 1)? { person.forgotten = true } else { person.known = true }
    }
    for row in &tombstones {
        let person = facts.people.entry(SubjectRef(array(row, 0)?)).or_default();
        person.tombstones.push((get(row, 1)?, small(row, 2)?, get::<i64>(row, 3)? > 0));
    }
    for row in &keys {
        let key = Key::Wrapped(Kid(array(row, 3)?), array(row, 4)?);
        let person = facts.people.entry(SubjectRef(array(row, 0)?)).or_default();
        person.keys.push(StoredKey { purpose: get(row, 1)?, generation: small(row, 2)?, key });
    }
    Ok(())
}

/// A shard key from its identity (second column) to its record.
pub fn shard_key(row: &Row) -> Result<ShardKey, PgError> {
    Ok(ShardKey::Wrapped(array(row, 1)?, small(row, 2)?, Kid(array(row, 3)?), small(row, 4)?, array(row, 5)?))
}

/// A column of a row.
pub fn get<'r, T: FromSql<'r>>(row: &'r Row, at: usize) -> Result<T, PgError> {
    row.try_get(at).map_err(PgError::from)
}

/// Bytes of a fixed length.
pub fn array<const N: usize>(row: &Row, at: usize) -> Result<[u8; N], PgError> {
    get::<&[u8]>(row, at)?.try_into().map_err(|_| PgError::Type)
}

/// A generation or an epoch.
pub fn small(row: &Row, at: usize) -> Result<u32, PgError> {
    u32::try_from(get::<i64>(row, at)?).map_err(|_| PgError::Type)
}

impl From<PgError> for KeystoreError {
    fn from(error: PgError) -> Self {
        match error {
            PgError::Type => Self::Corrupt { table: "(row)", column: "(type)" },
            other => Self::Unavailable { reason: other.reason() },
        }
    }
}
