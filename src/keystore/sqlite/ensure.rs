//! People and keys: looking up, making, fetching.
//!
//! Owns: the external-id map and the making of keys (`natural` has the other way to find people). Must not know: how requests arrive or when they commit. Keeps
//! invariant 7: a tombstone is looked at before anything is made, in the transaction that makes it.

use std::sync::Arc;

use rusqlite::{OptionalExtension, params};

use crate::event::{ExternalId, Purpose, SubjectKey, SubjectRef};
use crate::keystore::records::{EXTERNAL, Kek, ZEROS, external_tag, id_context, open_id, seal_id};
use crate::keystore::rewrap::NO_ENTROPY;
use crate::keystore::wrap::{unwrap, wrap};
use crate::keystore::{Dek, DekId, Fetched, Granted, KeystoreError, Kid, Resolved, Want};

use super::{Engine, millis};

type Result<T> = std::result::Result<T, KeystoreError>;

/// What a pseudonym stands for.
enum Person {
    Known,
    Forgotten,
    NeverIssued,
}

impl Engine {
    pub(super) fn resolve(&self, ids: &[ExternalId]) -> Result<Vec<Resolved>> {
        ids.iter().map(|id| self.look_up(&self.tag(id))).collect()
    }

    pub(super) fn ensure(&self, wants: &[Want]) -> Result<Vec<Granted>> {
        wants.iter().map(|want| self.grant(want)).collect()
    }

    pub(super) fn fetch(&self, ids: Vec<DekId>) -> Result<Vec<Fetched>> {
        ids.into_iter().map(|id| self.fetch_one(&id)).collect()
    }

    pub(super) fn external_ids(&self, subjects: &[SubjectRef]) -> Result<Vec<Option<ExternalId>>> {
        subjects.iter().map(|subject| self.external_id(*subject)).collect()
    }

    pub(super) fn reauthorize(&self, subject: &SubjectKey, purposes: &[Purpose]) -> Result<Option<SubjectRef>> {
        let subject = match subject {
            SubjectKey::Ref(subject) => *subject,
            SubjectKey::Natural(key) => match self.find_natural(&self.natural_tag(key))? {
                Some(subject) => subject,
                None => return Ok(None),
            },
            SubjectKey::External(id) => {
                let tag = self.tag(id);
                match self.look_up(&tag)? {
                    Resolved::Known(subject) => subject,
                    Resolved::Unknown => return Ok(None),
                    // A new pseudonym, so that nothing links what comes to what was forgotten.
                    Resolved::Erased => return self.make_person(id, &tag).map(Some),
                }
            }
        };
        if !matches!(self.person(subject)?, Person::Known) {
            return Ok(None);
        }
        let mut opened = 0;
        for purpose in purposes {
            opened += self
                .conn
                .prepare_cached(
                    "update tombstones set reauthorized = 1 where subject = ?1 and purpose = ?2 and reauthorized = 0",
                )?
                .execute(params![subject.0, purpose.as_str()])?;
        }
        Ok((opened > 0).then_some(subject))
    }

    /// The keyed digest under which an external id is looked up.
    pub(super) fn tag(&self, id: &ExternalId) -> [u8; 32] {
        external_tag(&self.subject_map, id)
    }

    /// The external id of a person still known, opened with the person's own `$identity` key.
    pub(super) fn external_id(&self, subject: SubjectRef) -> Result<Option<ExternalId>> {
        let sealed: Option<Vec<u8>> = self
            .conn
            .prepare_cached("select sealed from subjects join id_slots using (slot) where subject = ?1")?
            .query_row([subject.0], |row| row.get(0))
            .optional()?;
        let Some(sealed) = sealed else { return Ok(None) };
        let Some((_, key)) = self.current(subject, &Purpose::identity())? else { return Ok(None) };
        open_id(&key, &id_context(&self.store, subject), &sealed)
            .map(Some)
            .ok_or(KeystoreError::Corrupt { table: "id_slots", column: "sealed" })
    }

    fn look_up(&self, tag: &[u8; 32]) -> Result<Resolved> {
        let row: Option<[u8; 16]> = self
            .conn
            .prepare_cached(
                "select subject from subject_tags join subject_slots using (slot) where kind = ?1 and tag = ?2",
            )?
            .query_row(params![EXTERNAL, tag], |row| row.get(0))
            .optional()?;
        Ok(match row {
            None => Resolved::Unknown,
            Some(ZEROS) => Resolved::Erased,
            Some(subject) => Resolved::Known(SubjectRef(subject)),
        })
    }

    fn person(&self, subject: SubjectRef) -> Result<Person> {
        let row: Option<bool> = self
            .conn
            .prepare_cached(
                "select 1 from person_tombstones where subject = ?1 union all select 0 from subjects where subject = ?1
                 union all select 0 from natural_people where subject = ?1 limit 1",
            )?
            .query_row([subject.0], |row| row.get(0))
            .optional()?;
        Ok(match row {
            Some(true) => Person::Forgotten,
            Some(false) => Person::Known,
            None => Person::NeverIssued,
        })
    }

    fn grant(&self, want: &Want) -> Result<Granted> {
        let subject = match self.identify(want)? {
            Ok(subject) => subject,
            Err(refused) => return Ok(refused),
        };
        let mut purposes = Vec::new();
        for purpose in &want.purposes {
            if self.is_forgotten(subject, purpose)? && !purposes.contains(purpose) {
                purposes.push(purpose.clone());
            }
        }
        if !purposes.is_empty() {
            return Ok(Granted::Erased { subject: Some(subject), purposes });
        }
        if let Some(also) = want.further_key() {
            self.link_natural(&self.natural_tag(also), subject)?;
        }
        let mut keys = Vec::with_capacity(want.purposes.len());
        for purpose in &want.purposes {
            let (generation, key) = match self.current(subject, purpose)? {
                Some(found) => found,
                None => self.make_key(subject, purpose)?,
            };
            keys.push((DekId { subject, purpose: purpose.clone(), generation }, key));
        }
        Ok(Granted::Keys { subject, keys })
    }

    /// The person that is wanted, made if new; or the answer when there can be none.
    fn identify(&self, want: &Want) -> Result<std::result::Result<SubjectRef, Granted>> {
        match &want.subject {
            SubjectKey::Ref(subject) => self.still_known(*subject),
            SubjectKey::External(id) => {
                let tag = self.tag(id);
                Ok(match self.look_up(&tag)? {
                    Resolved::Known(subject) => Ok(subject),
                    Resolved::Erased => Err(FORGOTTEN),
                    Resolved::Unknown => Ok(self.make_person(id, &tag)?),
                })
            }
            SubjectKey::Natural(key) => {
                let tag = self.natural_tag(key);
                let known = self.find_natural(&tag)?;
                if let Some(also) = want.further_key()
                    && let Some(holder) = self.find_natural(&self.natural_tag(also))?
                    && known != Some(holder)
                {
                    return Ok(Err(Granted::Taken));
                }
                match known {
                    Some(subject) => self.still_known(subject),
                    None => self.make_natural(&tag).map(Ok),
                }
            }
        }
    }

    fn still_known(&self, subject: SubjectRef) -> Result<std::result::Result<SubjectRef, Granted>> {
        Ok(match self.person(subject)? {
            Person::Known => Ok(subject),
            Person::Forgotten => Err(FORGOTTEN),
            Person::NeverIssued => Err(Granted::Unknown),
        })
    }

    fn is_forgotten(&self, subject: SubjectRef, purpose: &Purpose) -> Result<bool> {
        Ok(self
            .conn
            .prepare_cached(
                "select 1 from tombstones where subject = ?1 and purpose = ?2 and reauthorized = 0 limit 1",
            )?
            .exists(params![subject.0, purpose.as_str()])?)
    }

    fn fetch_one(&self, id: &DekId) -> Result<Fetched> {
        let row: Option<([u8; 32], [u8; 88])> = self
            .conn
            .prepare_cached(
                "select kid, wrapped from deks join key_slots using (slot)
                 where subject = ?1 and purpose = ?2 and generation = ?3",
            )?
            .query_row(params![id.subject.0, id.purpose.as_str(), id.generation], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((kid, wrapped)) = row {
            return self.open_key(id.subject, &id.purpose, id.generation, Kid(kid), &wrapped).map(Fetched::Key);
        }
        // The person's tombstone answers for keys this file never saw: it may be older than the log.
        let destroyed: Option<i64> = self
            .conn
            .prepare_cached(
                "select destroyed_ms from tombstones where subject = ?1 and purpose = ?2 and generation = ?3
                 union all select destroyed_ms from person_tombstones where subject = ?1 limit 1",
            )?
            .query_row(params![id.subject.0, id.purpose.as_str(), id.generation], |row| row.get(0))
            .optional()?;
        Ok(destroyed.map_or(Fetched::Unknown, |at| Fetched::Destroyed { at: millis(at) }))
    }

    /// The key in use for a purpose, if any: destruction takes all generations, so at most one is left.
    fn current(&self, subject: SubjectRef, purpose: &Purpose) -> Result<Option<(u32, Arc<Dek>)>> {
        let row: Option<(u32, [u8; 32], [u8; 88])> = self
            .conn
            .prepare_cached(
                "select generation, kid, wrapped from deks join key_slots using (slot)
                 where subject = ?1 and purpose = ?2 order by generation desc limit 1",
            )?
            .query_row(params![subject.0, purpose.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((generation, kid, wrapped)) = row else { return Ok(None) };
        Ok(Some((generation, self.open_key(subject, purpose, generation, Kid(kid), &wrapped)?)))
    }

    fn open_key(
        &self,
        subject: SubjectRef,
        purpose: &Purpose,
        generation: u32,
        kid: Kid,
        wrapped: &[u8; 88],
    ) -> Result<Arc<Dek>> {
        let kek = self.kek(subject)?;
        let context = kek.context(&self.store, &subject, purpose.as_str(), generation);
        unwrap(kek.key.secret(), &context, wrapped, &kid)
            .map(Arc::new)
            .map_err(|_| KeystoreError::Corrupt { table: "key_slots", column: "wrapped" })
    }

    fn make_person(&self, id: &ExternalId, tag: &[u8; 32]) -> Result<SubjectRef> {
        let subject = SubjectRef(self.draw()?);
        let (_, key) = self.make_key(subject, &Purpose::identity())?;
        let sealed = seal_id(&key, &id_context(&self.store, subject), id, self.draw()?);
        let slot = self.fill_slot("insert into id_slots (sealed) values (?1)", &sealed)?;
        self.conn
            .prepare_cached("insert into subjects (subject, slot) values (?1, ?2)")?
            .execute(params![subject.0, slot])?;
        self.link(tag, subject)?;
        self.tally(|counts| counts.subjects += 1);
        Ok(subject)
    }

    /// Leads from the tag to the pseudonym: through the slot an erasure left empty, or a new one.
    fn link(&self, tag: &[u8; 32], subject: SubjectRef) -> Result<()> {
        let relinked = self
            .conn
            .prepare_cached(
                "update subject_slots set subject = ?3
                 where slot = (select slot from subject_tags where kind = ?1 and tag = ?2) and subject = zeroblob(16)",
            )?
            .execute(params![EXTERNAL, tag, subject.0])?;
        if relinked == 0 {
            let slot = self.fill_slot("insert into subject_slots (subject) values (?1)", &subject.0)?;
            self.conn
                .prepare_cached("insert into subject_tags (kind, tag, slot) values (?1, ?2, ?3)")?
                .execute(params![EXTERNAL, tag, slot])?;
        }
        Ok(())
    }

    /// Appends a slot: the row id is one above the largest, for nothing is ever deleted there.
    pub(super) fn fill_slot(&self, insert: &str, bytes: &[u8]) -> Result<i64> {
        Ok(self.conn.prepare_cached(insert)?.insert([bytes])?)
    }

    fn make_key(&self, subject: SubjectRef, purpose: &Purpose) -> Result<(u32, Arc<Dek>)> {
        let generation = self.next_generation(subject, purpose)?;
        let key = Dek::generate().map_err(|_| NO_ENTROPY)?;
        let kek = self.kek(subject)?;
        let wrapped = wrap(
            kek.key.secret(),
            &kek.context(&self.store, &subject, purpose.as_str(), generation),
            &key,
            self.draw()?,
        );
        let slot = self.fill_slot("insert into key_slots (wrapped) values (?1)", &wrapped)?;
        self.conn
            .prepare_cached("insert into deks (subject, purpose, generation, kid, slot) values (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![subject.0, purpose.as_str(), generation, key.kid().0, slot])?;
        self.tally(|counts| counts.active += 1);
        Ok((generation, Arc::new(key)))
    }

    /// One above every generation that ever was, so that a generation never names two keys.
    pub(super) fn next_generation(&self, subject: SubjectRef, purpose: &Purpose) -> Result<u32> {
        Ok(self
            .conn
            .prepare_cached(
                "select coalesce(max(generation) + 1, 0) from tombstones where subject = ?1 and purpose = ?2",
            )?
            .query_row(params![subject.0, purpose.as_str()], |row| row.get(0))?)
    }

    fn kek(&self, subject: SubjectRef) -> Result<Arc<Kek>> {
        let shard = subject.0[0];
        if let Some(kek) = self.keks.borrow().get(&shard) {
            return Ok(Arc::clone(kek));
        }
        let kek = Arc::new(match self.stored_kek(shard)? {
            Some((kek, ..)) => kek,
            None => self.make_kek(shard)?,
        });
        self.keks.borrow_mut().insert(shard, Arc::clone(&kek));
        Ok(kek)
    }

    fn make_kek(&self, shard: u8) -> Result<Kek> {
        // Not under the keyring's latest root: without an epoch of its own it covers nobody, and nothing would be replaced.
        let (epoch, _) = self.newest_epoch()?;
        let (kek, wrapped) = self.rewrapper().make_kek(shard, epoch)?;
        let slot = self.fill_slot("insert into kek_slots (wrapped) values (?1)", &wrapped)?;
        self.conn.execute(
            "insert into keks (shard, kek_id, epoch, kid, slot, root) values (?1, ?2, ?3, ?4, ?5, ?3)",
            params![shard, kek.id, epoch, kek.key.kid().0, slot],
        )?;
        Ok(kek)
    }

    pub(super) fn draw<const N: usize>(&self) -> Result<[u8; N]> {
        self.entropy.draw().map_err(|_| NO_ENTROPY)
    }
}

/// The whole person is forgotten.
const FORGOTTEN: Granted = Granted::Erased { subject: None, purposes: Vec::new() };
