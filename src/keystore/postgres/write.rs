//! Making people and keys: gather, decide, insert, one transaction for everybody who waits.
//!
//! Owns: the statements, one per table. What exists already is answered from a snapshot without a lock and without a
//! commit; only what has to be made takes the lock, and is decided again under it.

use tokio_postgres::types::ToSql;

use super::facts::{Facts, gather};
use super::fetch::Keks;
use super::grant::{Granter, Made, Tools};
use crate::crash;
use crate::db::postgres::{Connection, PgError};
use crate::event::{Purpose, SubjectKey, SubjectRef};
use crate::keystore::records::{EXTERNAL, Tag, bucket};
use crate::keystore::{Granted, KeystoreError, Want};

/// Something to be found or made.
pub enum Work {
    Ensure(Vec<Want>),
    Reauthorize(SubjectKey, Vec<Purpose>),
}

/// What came of it.
pub enum Outcome {
    Granted(Vec<Granted>),
    Reauthorized(Option<SubjectRef>),
}

/// One answer per piece of work.
pub type Answers = Vec<Result<Outcome, KeystoreError>>;

/// Does all of it, durably.
pub async fn make(
    connection: &Connection,
    tools: &Tools,
    keks: &Keks,
    work: &[Work],
) -> Result<Answers, KeystoreError> {
    let people = everyone(tools, work);
    let asked = (people.0.as_slice(), people.1.as_slice(), people.2.as_slice());
    let (seen, known) = keks.all();
    let known = (tools.node, &known);
    let facts = gather(connection, "begin isolation level repeatable read read only", false, asked, known).await?;
    connection.batch("commit").await?;
    let (granter, answers) = decide(tools, &facts, work);
    if granter.made.is_empty() {
        keks.extend(seen, granter.opened());
        return Ok(answers);
    }
    let facts = gather(connection, "begin", true, asked, known).await?;
    let (granter, answers) = decide(tools, &facts, work);
    insert(connection, &granter.made).await?;
    crash::point("keys.before-commit");
    connection.batch("commit").await?;
    crash::point("keys.after-commit");
    keks.extend(seen, granter.opened());
    keks.extend(seen, granter.made.keks.iter().map(|(_, shard, kek, _)| (*shard, kek.clone())));
    Ok(answers)
}

/// Tags and pseudonyms that the work speaks of.
fn everyone(tools: &Tools, work: &[Work]) -> (Vec<Tag>, Vec<Tag>, Vec<SubjectRef>) {
    let (mut external, mut natural, mut subjects) = (Vec::new(), Vec::new(), Vec::new());
    let mut add = |subject: &SubjectKey| match subject {
        SubjectKey::Ref(subject) => subjects.push(*subject),
        SubjectKey::External(id) => external.push(tools.external(id)),
        SubjectKey::Natural(key) => natural.push(tools.natural(key)),
    };
    for one in work {
        match one {
            Work::Ensure(wants) => wants.iter().for_each(|want| add(&want.subject)),
            Work::Reauthorize(subject, _) => add(subject),
        }
    }
    let wants = work.iter().flat_map(|one| match one {
        Work::Ensure(wants) => wants.as_slice(),
        Work::Reauthorize(..) => &[],
    });
    natural.extend(wants.filter_map(Want::further_key).map(|key| tools.natural(key)));
    (external, natural, subjects)
}

/// Decides everything. A piece of work that fails is decided on nobody else's behalf: the others are decided again as if it
/// had not been there, so that nothing of it is made.
fn decide<'t>(tools: &'t Tools, facts: &Facts, work: &[Work]) -> (Granter<'t>, Answers) {
    let mut failed: Vec<Option<KeystoreError>> = vec![None; work.len()];
    loop {
        let mut granter = Granter::new(tools, facts.clone());
        let mut answers: Answers = Vec::with_capacity(work.len());
        let mut again = false;
        for (one, failed) in work.iter().zip(&mut failed) {
            if let Some(error) = failed {
                answers.push(Err(error.clone()));
                continue;
            }
            let answer = match one {
                Work::Ensure(wants) => {
                    wants.iter().map(|want| granter.grant(want)).collect::<Result<_, _>>().map(Outcome::Granted)
                }
                Work::Reauthorize(subject, purposes) => {
                    granter.reauthorize(subject, purposes).map(Outcome::Reauthorized)
                }
            };
            if let Err(error) = &answer {
                *failed = Some(error.clone());
                again = true;
            }
            answers.push(answer);
        }
        if !again {
            return (granter, answers);
        }
    }
}

type Steps<'a> = Vec<(&'a str, Vec<&'a (dyn ToSql + Sync)>)>;

async fn insert(connection: &Connection, made: &Made) -> Result<(), PgError> {
    let keks = KekColumns::of(made);
    let keys = KeyColumns::of(made);
    let (id_slots, sealed): (Vec<i64>, Vec<&[u8]>) =
        made.ids.iter().map(|(slot, sealed, _)| (*slot, sealed.as_slice())).unzip();
    let id_subjects: Vec<&[u8]> = made.ids.iter().map(|(_, _, subject)| subject.0.as_slice()).collect();
    let (tag_slots, tags): (Vec<i64>, Vec<&[u8]>) =
        made.tags.iter().map(|(slot, tag, _)| (*slot, tag.as_slice())).unzip();
    let tag_subjects: Vec<&[u8]> = made.tags.iter().map(|(_, _, subject)| subject.0.as_slice()).collect();
    let (relinked, relinked_to): (Vec<i64>, Vec<&[u8]>) =
        made.relinked.iter().map(|(slot, subject)| (*slot, subject.0.as_slice())).unzip();
    let natural_slots: Vec<i64> = made.natural.iter().map(|(slot, ..)| *slot).collect();
    let entries: Vec<Vec<u8>> = made.natural.iter().map(|(_, tag, subject)| [&tag[..], &subject.0].concat()).collect();
    let buckets: Vec<i64> = made.natural.iter().map(|(_, tag, _)| i64::from(bucket(tag))).collect();
    let natural_people: Vec<&[u8]> = made.natural.iter().map(|(_, _, subject)| subject.0.as_slice()).collect();
    let (opened, opened_purposes): (Vec<&[u8]>, Vec<&str>) =
        made.reauthorized.iter().map(|(subject, purpose)| (subject.0.as_slice(), purpose.as_str())).unzip();
    let mut steps: Steps<'_> = Vec::new();
    keks.step(&mut steps);
    keys.steps(&mut steps);
    if !made.ids.is_empty() {
        steps.push((ID_SLOTS, vec![&id_slots, &sealed]));
        steps.push((SUBJECTS, vec![&id_subjects, &id_slots]));
    }
    if !made.tags.is_empty() {
        steps.push((SUBJECT_SLOTS, vec![&tag_slots, &tag_subjects]));
        steps.push((SUBJECT_TAGS, vec![&EXTERNAL, &tags, &tag_slots]));
    }
    if !made.relinked.is_empty() {
        steps.push((RELINK, vec![&relinked, &relinked_to]));
    }
    if !made.natural.is_empty() {
        steps.push((NATURAL_SLOTS, vec![&natural_slots, &entries]));
        steps.push((BLIND_INDEX, vec![&buckets, &natural_slots]));
        steps.push((NATURAL_PEOPLE, vec![&natural_people, &natural_slots]));
    }
    if !made.reauthorized.is_empty() {
        steps.push((REAUTHORIZE, vec![&opened, &opened_purposes]));
    }
    connection.execute_all(&steps).await.map(drop)
}

const ID_SLOTS: &str = "insert into id_slots (slot, sealed) select * from unnest($1::bigint[], $2::bytea[])";
const SUBJECTS: &str = "insert into subjects (subject, slot) select * from unnest($1::bytea[], $2::bigint[])";
const SUBJECT_SLOTS: &str = "insert into subject_slots (slot, subject) select * from unnest($1::bigint[], $2::bytea[])";
const SUBJECT_TAGS: &str = "insert into subject_tags (kind, tag, slot) select $1::bigint, tag, slot from unnest($2::bytea[], $3::bigint[]) w(tag, slot)";
const RELINK: &str = "update subject_slots s set subject = w.subject
     from unnest($1::bigint[], $2::bytea[]) w(slot, subject) where s.slot = w.slot";
const NATURAL_SLOTS: &str = "insert into natural_slots (slot, entry) select * from unnest($1::bigint[], $2::bytea[])";
const BLIND_INDEX: &str = "insert into blind_index (bucket, slot) select * from unnest($1::bigint[], $2::bigint[])";
const NATURAL_PEOPLE: &str =
    "insert into natural_people (subject, slot) select * from unnest($1::bytea[], $2::bigint[])";
const REAUTHORIZE: &str = "update tombstones t set reauthorized = 1
     from (select distinct * from unnest($1::bytea[], $2::text[])) w(subject, purpose)
     where t.subject = w.subject and t.purpose = w.purpose and t.reauthorized = 0";
const KEK_SLOTS: &str = "insert into kek_slots (slot, wrapped) select * from unnest($1::bigint[], $2::bytea[])";
const KEKS: &str = "insert into keks (shard, kek_id, epoch, kid, slot, root)
     select shard, id, epoch, kid, slot, epoch
     from unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bytea[], $5::bigint[]) w(shard, id, epoch, kid, slot)";
const KEY_SLOTS: &str = "insert into key_slots (slot, wrapped) select * from unnest($1::bigint[], $2::bytea[])";
const DEKS: &str = "insert into deks (subject, purpose, generation, kid, slot)
     select * from unnest($1::bytea[], $2::text[], $3::bigint[], $4::bytea[], $5::bigint[])";

#[derive(Default)]
struct KekColumns<'a> {
    slots: Vec<i64>,
    shards: Vec<i64>,
    ids: Vec<&'a [u8]>,
    epochs: Vec<i64>,
    kids: Vec<Vec<u8>>,
    wrapped: Vec<&'a [u8]>,
}

impl<'a> KekColumns<'a> {
    fn of(made: &'a Made) -> Self {
        let mut columns = Self::default();
        for (slot, shard, kek, wrapped) in &made.keks {
            columns.slots.push(*slot);
            columns.shards.push(i64::from(*shard));
            columns.ids.push(&kek.id);
            columns.epochs.push(i64::from(kek.epoch));
            columns.kids.push(kek.key.kid().0.to_vec());
            columns.wrapped.push(wrapped);
        }
        columns
    }

    fn step<'s>(&'s self, steps: &mut Steps<'s>) {
        if !self.shards.is_empty() {
            steps.push((KEK_SLOTS, vec![&self.slots, &self.wrapped]));
            steps.push((KEKS, vec![&self.shards, &self.ids, &self.epochs, &self.kids, &self.slots]));
        }
    }
}

#[derive(Default)]
struct KeyColumns<'a> {
    slots: Vec<i64>,
    wrapped: Vec<&'a [u8]>,
    subjects: Vec<&'a [u8]>,
    purposes: Vec<&'a str>,
    generations: Vec<i64>,
    kids: Vec<Vec<u8>>,
}

impl<'a> KeyColumns<'a> {
    fn of(made: &'a Made) -> Self {
        let mut columns = Self::default();
        for (slot, wrapped, id, key) in &made.keys {
            columns.slots.push(*slot);
            columns.wrapped.push(wrapped);
            columns.subjects.push(&id.subject.0);
            columns.purposes.push(id.purpose.as_str());
            columns.generations.push(i64::from(id.generation));
            columns.kids.push(key.kid().0.to_vec());
        }
        columns
    }

    fn steps<'s>(&'s self, steps: &mut Steps<'s>) {
        if !self.slots.is_empty() {
            steps.push((KEY_SLOTS, vec![&self.slots, &self.wrapped]));
            steps.push((DEKS, vec![&self.subjects, &self.purposes, &self.generations, &self.kids, &self.slots]));
        }
    }
}
