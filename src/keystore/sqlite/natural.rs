//! People found by natural key.
//!
//! Owns: the blind index, from keyed tags to pseudonyms and back. Must not know: what a key is made of, or when it may
//! be used. Keeps invariant 5 for tags: an entry lies in one slot all its life and is zeroed there, so that nothing leads
//! from a name to the pseudonym of a forgotten person (`0002_natural_keys.sql`).

use rusqlite::{OptionalExtension, params};

use super::Engine;
use crate::event::{NaturalKey, SubjectRef};
use crate::keystore::records::{self, Tag, bucket};
use crate::keystore::{KeystoreError, Resolved};

type Result<T> = std::result::Result<T, KeystoreError>;

impl Engine {
    pub(super) fn resolve_natural(&self, keys: &[NaturalKey]) -> Result<Vec<Resolved>> {
        let found = keys.iter().map(|key| self.find_natural(&self.natural_tag(key)));
        found.map(|found| Ok(found?.map_or(Resolved::Unknown, Resolved::Known))).collect()
    }

    pub(super) fn natural_tag(&self, key: &NaturalKey) -> Tag {
        records::natural_tag(&self.natural_key, key)
    }

    /// Whose tag this is.
    pub(super) fn find_natural(&self, tag: &Tag) -> Result<Option<SubjectRef>> {
        let subject: Option<[u8; 16]> = self
            .conn
            .prepare_cached(
                "select substr(entry, 33) from blind_index join natural_slots using (slot)
                 where bucket = ?1 and substr(entry, 1, 32) = ?2",
            )?
            .query_row(params![bucket(tag), tag], |row| row.get(0))
            .optional()?;
        Ok(subject.map(SubjectRef))
    }

    /// Makes a person who is known by this tag only.
    pub(super) fn make_natural(&self, tag: &Tag) -> Result<SubjectRef> {
        let subject = SubjectRef(self.draw()?);
        self.link_natural(tag, subject)?;
        self.tally(|counts| counts.subjects += 1);
        Ok(subject)
    }

    /// Makes a person known by one more tag, unless they are already. The tag must not be another person's.
    pub(super) fn link_natural(&self, tag: &Tag, subject: SubjectRef) -> Result<()> {
        if self.find_natural(tag)?.is_some() {
            return Ok(());
        }
        let mut entry = [0; 48];
        entry[..32].copy_from_slice(tag);
        entry[32..].copy_from_slice(&subject.0);
        let slot = self.fill_slot("insert into natural_slots (entry) values (?1)", &entry)?;
        self.conn
            .prepare_cached("insert into blind_index (bucket, slot) values (?1, ?2)")?
            .execute(params![bucket(tag), slot])?;
        self.conn
            .prepare_cached("insert into natural_people (subject, slot) values (?1, ?2)")?
            .execute(params![subject.0, slot])?;
        Ok(())
    }

    /// Removes every natural key of a person, over zeros.
    pub(super) fn remove_natural_keys(&self, subject: SubjectRef) -> Result<()> {
        let slots: Vec<(i64, Vec<u8>)> = self
            .conn
            .prepare_cached(
                "select slot, entry from natural_people join natural_slots using (slot) where subject = ?1",
            )?
            .query_map([subject.0], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for (slot, entry) in &slots {
            if let Some(tag) = entry.first_chunk::<32>() {
                self.conn
                    .prepare_cached("delete from blind_index where bucket = ?1 and slot = ?2")?
                    .execute(params![bucket(tag), slot])?;
            }
            self.conn
                .prepare_cached("update natural_slots set entry = zeroblob(48) where slot = ?1")?
                .execute([slot])?;
        }
        self.conn.prepare_cached("delete from natural_people where subject = ?1")?.execute([subject.0])?;
        if !slots.is_empty() {
            self.tally(|counts| counts.subjects = counts.subjects.saturating_sub(1));
        }
        Ok(())
    }
}
