//! Epochs in the embedded keystore.
//!
//! Owns: the steps of an epoch as transactions on the file. Must not know: when they are due, or that there is a log. Keeps
//! the rule that a root is destroyed only after a scan has found nothing under it, and that every record replaced is
//! overwritten where it lies (invariant 5 together with the wash).

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::{Engine, millis};
use crate::clock::Millis;
use crate::crash;
use crate::event::SubjectRef;
use crate::keystore::epoch::{Epoch, EpochStatus, EpochStep, due};
use crate::keystore::records::Kek;
use crate::keystore::rewrap::{Rewrapper, StoredKek, keyring_error, shard_range};
use crate::keystore::{KeystoreError, Kid};

type Result<T> = std::result::Result<T, KeystoreError>;

/// What a row of `deks` and its slot hold.
type StoredDek = ([u8; 16], String, u32, [u8; 32], i64, [u8; 88]);

impl Engine {
    pub(super) fn rewrapper(&self) -> Rewrapper<'_> {
        Rewrapper { store: &self.store, keyring: &self.keyring, entropy: &self.entropy }
    }

    /// Steps that are one transaction with others; [`EpochStep::Finish`] and [`EpochStep::DestroyRoot`] are not.
    pub(super) fn epoch_step(&self, step: EpochStep) -> Result<EpochStatus> {
        match step {
            EpochStep::Begin { after, at } => self.begin_epoch(after, at)?,
            EpochStep::Rewrap => self.rewrap_next()?,
            EpochStep::Finish { .. } | EpochStep::DestroyRoot { .. } => {}
        }
        self.epochs()
    }

    /// Steps that reach beyond one transaction.
    pub(super) fn epoch_step_alone(&self, step: EpochStep) -> Result<EpochStatus> {
        match step {
            EpochStep::Finish { at, keep } => self.finish_epoch(at, keep)?,
            EpochStep::DestroyRoot { epoch, at } => self.destroy_root(epoch, at)?,
            EpochStep::Begin { .. } | EpochStep::Rewrap => {}
        }
        self.epochs()
    }

    pub(super) fn epochs(&self) -> Result<EpochStatus> {
        let mut rows = self.conn.prepare_cached(
            "select epoch, began_ms, finished_ms, root_destroy_due_ms, root_destroyed_ms, erasure, shards_rekeyed,
               shards_rewrapped, keys_rewrapped, keys_unreadable, files_rewritten from epochs order by epoch",
        )?;
        let rows = rows.query_map([], |row| {
            let optional = |at| row.get::<_, Option<i64>>(at).map(|value| value.map(millis));
            let count = |at| row.get::<_, i64>(at).map(i64::unsigned_abs);
            Ok(Epoch {
                epoch: row.get(0)?,
                began: millis(row.get(1)?),
                finished: optional(2)?,
                destroy_due: optional(3)?,
                destroyed: optional(4)?,
                erasure: count(5)?,
                shards_rekeyed: count(6)?,
                shards_rewrapped: count(7)?,
                keys_rewrapped: count(8)?,
                keys_unreadable: count(9)?,
                files_rewritten: row.get(10)?,
            })
        })?;
        let epochs = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        self.keyring.keep_destroyed(&epochs);
        let newest = epochs.last().map_or(0, |epoch| epoch.epoch);
        let counts = self
            .conn
            .prepare_cached(
                "select (select count(*) from keks), (select count(*) from keks where root < ?1),
                   (select count(*) from secrets where epoch < ?1), (select count(*) from keks where dirty = 1)",
            )?
            .query_row([newest], |row| Ok([row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))?;
        let [shards, shards_left, secrets_left, dirty_shards] = counts.map(i64::unsigned_abs);
        Ok(EpochStatus {
            epochs,
            newest_root: self.keyring.epoch(),
            shards,
            shards_left,
            secrets_left,
            dirty_shards,
            applied_erasure: self.counts.get().applied_erasure,
        })
    }

    /// The number of the newest epoch, and whether it is finished.
    pub(super) fn newest_epoch(&self) -> Result<(u32, bool)> {
        Ok(self
            .conn
            .prepare_cached("select epoch, finished_ms is not null from epochs order by epoch desc limit 1")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }

    /// The root first, durably: a root without a row gets one with the next attempt, a row without a root never stands.
    fn begin_epoch(&self, after: u32, at: Millis) -> Result<()> {
        let (newest, _) = self.newest_epoch()?;
        if newest != after {
            return Ok(());
        }
        let epoch = self.keyring.begin_epoch().map_err(|error| keyring_error(&error))?;
        // A file older than the keyring lacks rows of epochs between; their roots are to be destroyed all the same. Copies of
        // the file that was lost may lie under them, so they cover nobody who was not covered before.
        for root in self.keyring.epochs().into_iter().filter(|root| *root > after) {
            self.conn
                .prepare_cached(
                    "insert into epochs (epoch, began_ms, erasure)
                     select ?1, ?2, iif(?3, applied_erasure, (select erasure from epochs where epoch = ?4))
                     from meta where id = 1",
                )?
                .execute(params![root, at.0, root == epoch, after])?;
        }
        self.tally(|counts| counts.epoch = epoch);
        Ok(())
    }

    fn rewrap_next(&self) -> Result<()> {
        let (epoch, finished) = self.newest_epoch()?;
        if finished {
            return Ok(());
        }
        let shard: Option<u8> = self
            .conn
            .prepare_cached("select shard from keks where root < ?1 order by shard limit 1")?
            .query_row([epoch], |row| row.get(0))
            .optional()?;
        match shard {
            Some(shard) => self.rewrap_shard(shard, epoch),
            None => self.rewrap_secrets(epoch),
        }
    }

    fn rewrap_shard(&self, shard: u8, epoch: u32) -> Result<()> {
        let Some((old, dirty, slot)) = self.stored_kek(shard)? else { return Ok(()) };
        let rewrapper = self.rewrapper();
        let set_slot = |wrapped: &[u8; 88]| {
            let mut update = self.conn.prepare_cached("update kek_slots set wrapped = ?2 where slot = ?1")?;
            update.execute(params![slot, wrapped])
        };
        if !dirty {
            set_slot(&rewrapper.wrap_kek(shard, &old, epoch)?)?;
            self.conn
                .prepare_cached("update keks set root = ?2 where shard = ?1")?
                .execute([u32::from(shard), epoch])?;
            let strays = self.under_another_key(shard, &old)?;
            return self.count_rewrapped(epoch, (0, 1, 0, strays));
        }
        let (new, wrapped) = rewrapper.make_kek(shard, epoch)?;
        let (moved, unreadable) = self.move_keys(shard, &old, &new)?;
        set_slot(&wrapped)?;
        self.conn
            .prepare_cached("update keks set kek_id = ?2, epoch = ?3, kid = ?4, root = ?3, dirty = 0 where shard = ?1")?
            .execute(params![shard, new.id, epoch, new.key.kid().0])?;
        // Emptied with all others if this is undone.
        self.keks.borrow_mut().insert(shard, Arc::new(new));
        self.count_rewrapped(epoch, (1, 0, moved, unreadable))
    }

    /// The key of a shard, whether somebody was forgotten in it since, and its slot.
    pub(super) fn stored_kek(&self, shard: u8) -> Result<Option<(Kek, bool, i64)>> {
        type Row = ([u8; 16], u32, [u8; 32], u32, bool, i64, [u8; 88]);
        let row: Option<Row> = self
            .conn
            .prepare_cached(
                "select kek_id, epoch, kid, root, dirty, slot, wrapped from keks join kek_slots using (slot) where shard = ?1",
            )?
            .query_row([shard], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
            })
            .optional()?;
        let Some((id, made, kid, root, dirty, slot, wrapped)) = row else { return Ok(None) };
        let stored = StoredKek { shard, id, epoch: made, kid: Kid(kid), root, wrapped: &wrapped };
        Ok(Some((self.rewrapper().open_kek(&stored)?, dirty, slot)))
    }

    /// Wraps every key of a shard under its new shard key. How many, and how many did not open and stay as they lie.
    fn move_keys(&self, shard: u8, old: &Kek, new: &Kek) -> Result<(u64, u64)> {
        let (first, last) = shard_range(shard);
        let mut select = self.conn.prepare_cached(
            "select subject, purpose, generation, kid, slot, wrapped from deks join key_slots using (slot)
             where subject between ?1 and ?2",
        )?;
        let rows = select.query_map([first, last], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
        })?;
        let rows: Vec<StoredDek> = rows.collect::<rusqlite::Result<_>>()?;
        let mut update = self.conn.prepare_cached("update key_slots set wrapped = ?2 where slot = ?1")?;
        let (rewrapper, mut moved, mut unreadable) = (self.rewrapper(), 0, 0);
        for (subject, purpose, generation, kid, slot, wrapped) in &rows {
            let of = (&SubjectRef(*subject), purpose.as_str(), *generation);
            if let Some(wrapped) = rewrapper.move_key((old, new), of, (&Kid(*kid), wrapped))? {
                update.execute(params![slot, wrapped])?;
                moved += 1;
            } else {
                unreadable += 1;
            }
        }
        Ok((moved, unreadable))
    }

    /// Keys of a shard that name another shard key than its own: part of the scan that comes before a root is destroyed.
    fn under_another_key(&self, shard: u8, kek: &Kek) -> Result<u64> {
        let (first, last) = shard_range(shard);
        let count: i64 = self
            .conn
            .prepare_cached(
                "select count(*) from deks join key_slots using (slot)
                 where subject between ?1 and ?2 and substr(wrapped, 9, 16) <> ?3",
            )?
            .query_row(params![first, last, kek.id], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    }

    fn rewrap_secrets(&self, epoch: u32) -> Result<()> {
        let mut select = self.conn.prepare_cached("select name, epoch, kid, wrapped from secrets where epoch < ?1")?;
        let rows = select.query_map([epoch], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        let rows: Vec<(String, u32, [u8; 32], [u8; 88])> = rows.collect::<rusqlite::Result<_>>()?;
        let rewrapper = self.rewrapper();
        for (name, old, kid, wrapped) in &rows {
            let wrapped = rewrapper.move_secret(name, (*old, epoch), (&Kid(*kid), wrapped))?;
            self.conn
                .prepare_cached("update secrets set epoch = ?2, wrapped = ?3 where name = ?1")?
                .execute(params![name, epoch, wrapped])?;
        }
        Ok(())
    }

    fn count_rewrapped(&self, epoch: u32, (rekeyed, rewrapped, keys, unreadable): (u64, u64, u64, u64)) -> Result<()> {
        if unreadable > 0 {
            tracing::error!(
                epoch,
                keys = unreadable,
                "keys do not open and cannot be wrapped anew; they stay as they are"
            );
        }
        self.conn
            .prepare_cached(
                "update epochs set shards_rekeyed = shards_rekeyed + ?2, shards_rewrapped = shards_rewrapped + ?3,
                   keys_rewrapped = keys_rewrapped + ?4, keys_unreadable = keys_unreadable + ?5 where epoch = ?1",
            )?
            .execute([i64::from(epoch), rekeyed as i64, rewrapped as i64, keys as i64, unreadable as i64])?;
        Ok(())
    }

    /// Whether nothing lies under a root before this one.
    fn nothing_before(&self, epoch: u32) -> Result<bool> {
        Ok(!self
            .conn
            .prepare_cached(
                "select 1 from keks where root < ?1 union all select 1 from secrets where epoch < ?1 limit 1",
            )?
            .exists([epoch])?)
    }

    fn finish_epoch(&self, at: Millis, keep: Duration) -> Result<()> {
        let (epoch, finished) = self.newest_epoch()?;
        if finished || !self.nothing_before(epoch)? {
            return Ok(());
        }
        let washed = self.wash()?;
        crash::point("epoch.before-mark");
        self.conn.execute_batch("begin immediate")?;
        let marked = (|| {
            self.conn
                .prepare_cached("update epochs set finished_ms = ?2, files_rewritten = ?3 where epoch = ?1")?
                .execute(params![epoch, at.0, !washed.incomplete])?;
            self.conn
                .prepare_cached(
                    "update epochs set root_destroy_due_ms = ?2 where epoch < ?1 and root_destroy_due_ms is null",
                )?
                .execute(params![epoch, due(at, keep).0])?;
            self.conn.execute_batch("commit")
        })();
        if marked.is_err() && !self.conn.is_autocommit() {
            let _ = self.conn.execute_batch("rollback");
        }
        marked?;
        crash::point("epoch.after-mark");
        Ok(())
    }

    fn destroy_root(&self, epoch: u32, at: Millis) -> Result<()> {
        let is_due = self
            .conn
            .prepare_cached(
                "select 1 from epochs where epoch = ?1 and root_destroy_due_ms <= ?2 and root_destroyed_ms is null",
            )?
            .exists(params![epoch, at.0])?;
        // Looked at again, whatever the row says: with the root everything under it is lost.
        if !is_due || !self.nothing_before(epoch.saturating_add(1))? {
            return Ok(());
        }
        self.keyring.destroy_root(epoch).map_err(|error| keyring_error(&error))?;
        self.conn
            .prepare_cached("update epochs set root_destroyed_ms = ?2 where epoch = ?1")?
            .execute(params![epoch, at.0])?;
        crash::point("epoch.after-destroyed-mark");
        Ok(())
    }
}
