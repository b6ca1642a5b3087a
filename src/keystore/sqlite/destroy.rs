//! Destroying keys.
//!
//! Owns: what a destruction changes, in one transaction. Must not know: why; the erasure worker has made the intent
//! durable before. Keeps invariant 5 together with the wash: the slot of a key is overwritten with zeros where it lies,
//! the row that led to it is deleted, and a tombstone takes its place. A repeated order touches nothing that was made after it.

use rusqlite::{OptionalExtension, params};

use crate::crash;
use crate::event::{Purpose, SubjectRef};
use crate::keystore::records::EXTERNAL;
use crate::keystore::{DestroyOrder, DestroyedKey, Destruction, KeystoreError, Kid, Scope};

use super::{Engine, millis};

type Result<T> = std::result::Result<T, KeystoreError>;

const BAD_PURPOSE: KeystoreError = KeystoreError::Corrupt { table: "deks", column: "purpose" };

impl Engine {
    pub(super) fn destroy(&self, order: &DestroyOrder) -> Result<Destruction> {
        crash::point("destroy.before-zero");
        let person = order.scope == Scope::Person;
        // Before its key goes: the sealed id is the only way from the pseudonym to the tag.
        let removed = person && self.remove_external_id(order.subject)?;
        if person {
            self.remove_natural_keys(order.subject)?;
        }
        let purposes = self.purposes_to_destroy(order)?;
        for purpose in &purposes {
            self.conn
                .prepare_cached(
                    "update key_slots set wrapped = zeroblob(88)
                     where slot in
                       (select slot from deks where subject = ?1 and purpose = ?2 and generation <= ?3)",
                )?
                .execute(params![order.subject.0, purpose.as_str(), order.reaches(purpose)])?;
        }
        crash::point("destroy.zeroed");
        let mut buried = 0;
        for purpose in &purposes {
            buried += self.bury(order, purpose)?;
        }
        // Copies of this file still hold the keys under the key of their shard: the next epoch gives it another. So do copies
        // of one that this one replaced and that is younger, whoever is in it: therefore every order that comes for the
        // first time.
        self.conn
            .prepare_cached(
                "update keks set dirty = 1 where shard = ?1
                   and (?2 or exists (select 1 from meta where applied_erasure < ?3))",
            )?
            .execute(params![order.subject.0[0], buried > 0, number(order.erasure)])?;
        if person {
            self.conn
                .prepare_cached(
                    "insert into person_tombstones (subject, destroyed_ms, erasure, external_id_removed)
                     values (?1, ?2, ?3, ?4) on conflict (subject) do nothing",
                )?
                .execute(params![order.subject.0, order.at.0, number(order.erasure), removed])?;
        }
        self.conn
            .prepare_cached("update meta set applied_erasure = max(applied_erasure, ?1) where id = 1")?
            .execute([number(order.erasure)])?;
        self.tally(|counts| counts.applied_erasure = counts.applied_erasure.max(order.erasure));
        self.report(order)
    }

    /// The purposes in which there is something to do. A purpose that already has a tombstone of this very erasure is
    /// done: what stands there now was re-authorised since, and is not this order's to destroy.
    fn purposes_to_destroy(&self, order: &DestroyOrder) -> Result<Vec<Purpose>> {
        let Scope::Purposes(wanted) = &order.scope else {
            let mut found = self.conn.prepare_cached("select distinct purpose from deks where subject = ?1")?;
            let names = found.query_map([order.subject.0], |row| row.get::<_, String>(0))?;
            return names.map(|name| Purpose::parse_any(&name?).map_err(|_| BAD_PURPOSE)).collect();
        };
        let mut purposes: Vec<Purpose> = Vec::with_capacity(wanted.len());
        for purpose in wanted {
            let done = self
                .conn
                .prepare_cached(
                    "select 1 from tombstones where subject = ?1 and purpose = ?2 and erasure = ?3 limit 1",
                )?
                .exists(params![order.subject.0, purpose.as_str(), number(order.erasure)])?;
            if !done && !purposes.contains(purpose) {
                purposes.push(purpose.clone());
            }
        }
        Ok(purposes)
    }

    /// Deletes the zeroed rows of one purpose and leaves tombstones: how many.
    fn bury(&self, order: &DestroyOrder, purpose: &Purpose) -> Result<usize> {
        let (subject, name, last) = (order.subject.0, purpose.as_str(), order.reaches(purpose));
        let buried = self
            .conn
            .prepare_cached(
                "insert into tombstones (subject, purpose, generation, kid, destroyed_ms, erasure)
                 select subject, purpose, generation, kid, ?3, ?4 from deks
                 where subject = ?1 and purpose = ?2 and generation <= ?5",
            )?
            .execute(params![subject, name, order.at.0, number(order.erasure), last])?;
        self.conn
            .prepare_cached("delete from deks where subject = ?1 and purpose = ?2 and generation <= ?3")?
            .execute(params![subject, name, last])?;
        self.tally(|counts| {
            counts.active = counts.active.saturating_sub(buried as u64);
            counts.destroyed += buried as u64;
        });
        self.close(order, purpose)?;
        Ok(buried)
    }

    /// Makes sure that no key is made up to where the fence reaches, whether or not there ever was one: forgotten before
    /// it had a key, or re-authorised and not used since. A key of a later generation means that it is open again.
    fn close(&self, order: &DestroyOrder, purpose: &Purpose) -> Result<()> {
        let (subject, name, last) = (order.subject.0, purpose.as_str(), order.reaches(purpose));
        let from = if last == u32::MAX { 0 } else { last };
        let settled = self
            .conn
            .prepare_cached(
                "select 1 from tombstones
                 where subject = ?1 and purpose = ?2 and reauthorized = 0 and generation >= ?3
                 union all select 1 from deks where subject = ?1 and purpose = ?2 limit 1",
            )?
            .exists(params![subject, name, from])?;
        if settled {
            return Ok(());
        }
        let generation = self.next_generation(order.subject, purpose)?.max(from);
        self.conn
            .prepare_cached(
                "insert into tombstones (subject, purpose, generation, kid, destroyed_ms, erasure)
                 values (?1, ?2, ?3, null, ?4, ?5)",
            )?
            .execute(params![subject, name, generation, order.at.0, number(order.erasure)])?;
        Ok(())
    }

    /// Unlinks the tag and removes the sealed id, over zeros. Whether there was one.
    fn remove_external_id(&self, subject: SubjectRef) -> Result<bool> {
        let known = self.conn.prepare_cached("select 1 from subjects where subject = ?1")?.exists([subject.0])?;
        if !known {
            return Ok(false);
        }
        // A sealed id that does not open must not stop an erasure: then the tag is searched for.
        let unlinked = match self.external_id(subject) {
            Ok(Some(id)) => self
                .conn
                .prepare_cached(
                    "update subject_slots set subject = zeroblob(16)
                     where slot = (select slot from subject_tags where kind = ?1 and tag = ?2) and subject = ?3",
                )?
                .execute(params![EXTERNAL, self.tag(&id), subject.0])?,
            Ok(None) | Err(KeystoreError::Corrupt { .. }) => 0,
            Err(error) => return Err(error),
        };
        if unlinked == 0 {
            self.conn.execute("update subject_slots set subject = zeroblob(16) where subject = ?1", [subject.0])?;
        }
        self.conn
            .prepare_cached(
                "update id_slots set sealed = zeroblob(length(sealed))
                 where slot = (select slot from subjects where subject = ?1)",
            )?
            .execute([subject.0])?;
        self.conn.prepare_cached("delete from subjects where subject = ?1")?.execute([subject.0])?;
        self.tally(|counts| counts.subjects = counts.subjects.saturating_sub(1));
        Ok(true)
    }

    /// What stands destroyed in the order's scope by this order or an earlier one: the same however often it is asked.
    fn report(&self, order: &DestroyOrder) -> Result<Destruction> {
        let mut rows = self.conn.prepare_cached(
            "select purpose, generation, kid, destroyed_ms from tombstones
             where subject = ?1 and erasure <= ?2 and kid is not null order by purpose, generation",
        )?;
        let rows = rows.query_map(params![order.subject.0, number(order.erasure)], |row| {
            Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?;
        let mut keys = Vec::new();
        for row in rows {
            let (purpose, generation, kid, at) = row?;
            let purpose = Purpose::parse_any(&purpose).map_err(|_| BAD_PURPOSE)?;
            if matches!(&order.scope, Scope::Purposes(wanted) if !wanted.contains(&purpose)) {
                continue;
            }
            keys.push(DestroyedKey { purpose, generation, kid: Kid(kid), at: millis(at) });
        }
        let removed: Option<bool> = self
            .conn
            .prepare_cached("select external_id_removed from person_tombstones where subject = ?1")?
            .query_row([order.subject.0], |row| row.get(0))
            .optional()?;
        let external_id_removed = order.scope == Scope::Person && removed.unwrap_or(false);
        Ok(Destruction { keys, external_id_removed, revocation: 0 })
    }
}

/// Numbers of erasures are dense from 1; SQLite's integers end at 2^63.
fn number(erasure: u64) -> i64 {
    i64::try_from(erasure).unwrap_or(i64::MAX)
}
