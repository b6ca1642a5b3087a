//! Epochs in the keystore on PostgreSQL.
//!
//! Owns: the steps of an epoch as transactions. Must not know: when they are due, or that there is a log. Every step holds the
//! lock that whoever makes keys holds, so that two nodes take turns and nobody writes under a shard key that is being replaced.
//! Keeps the rule that a root is destroyed only after a scan has found nothing under it.

use std::sync::Arc;
use std::time::Duration;

use super::facts::{array, get, small};
use super::fetch::Keks;
use super::grant::Tools;
use super::wash::{Tables, wash};
use crate::clock::Millis;
use crate::crash;
use crate::db::postgres::{Connection, PgError};
use crate::event::SubjectRef;
use crate::keystore::epoch::{Epoch, EpochStatus, EpochStep, due};
use crate::keystore::keyring::Keyring;
use crate::keystore::records::Kek;
use crate::keystore::rewrap::{StoredKek, keyring_error, shard_range};
use crate::keystore::{KeystoreError, Kid};

type Result<T> = std::result::Result<T, KeystoreError>;

/// Rows written with one statement.
const TOGETHER: usize = 5000;
const LOCK: &str = "select id from meta where id = 1 for update";

/// Takes one step and commits it; how things stand then.
pub async fn advance(connection: &Connection, tools: &Tools, keks: &Keks, step: EpochStep) -> Result<EpochStatus> {
    match step {
        EpochStep::Begin { after, at } => begin(connection, tools, after, at).await?,
        EpochStep::Rewrap => rewrap(connection, tools, keks).await?,
        EpochStep::Finish { at, keep } => finish(connection, at, keep).await?,
        EpochStep::DestroyRoot { epoch, at } => destroy_root(connection, tools, epoch, at).await?,
    }
    status(connection, &tools.keyring).await
}

/// How things stand, by one statement and so in one snapshot per question; they need not fit each other exactly.
pub async fn status(connection: &Connection, keyring: &Keyring) -> Result<EpochStatus> {
    if let Err(error) = keyring.refresh() {
        tracing::warn!(error = %error, "the keyring cannot be read again");
    }
    let sql = "select epoch, began_ms, finished_ms, root_destroy_due_ms, root_destroyed_ms, erasure, shards_rekeyed,
                 shards_rewrapped, keys_rewrapped, keys_unreadable, files_rewritten from epochs order by epoch";
    let mut epochs = Vec::new();
    for row in connection.query(sql, &[]).await? {
        let optional = |at| get::<Option<i64>>(&row, at).map(|value| value.map(Millis));
        let count = |at| get::<i64>(&row, at).map(i64::unsigned_abs);
        epochs.push(Epoch {
            epoch: small(&row, 0)?,
            began: Millis(get(&row, 1)?),
            finished: optional(2)?,
            destroy_due: optional(3)?,
            destroyed: optional(4)?,
            erasure: count(5)?,
            shards_rekeyed: count(6)?,
            shards_rewrapped: count(7)?,
            keys_rewrapped: count(8)?,
            keys_unreadable: count(9)?,
            files_rewritten: count(10)? > 0,
        });
    }
    keyring.keep_destroyed(&epochs);
    let newest = epochs.last().map_or(0, |epoch: &Epoch| epoch.epoch);
    let sql = "select (select count(*) from keks), (select count(*) from keks where root < $1),
                 (select count(*) from secrets where epoch < $1), (select count(*) from keks where dirty = 1),
                 (select applied_erasure from meta where id = 1)";
    let row = connection.row(sql, &[&i64::from(newest)]).await?.ok_or(PgError::Type)?;
    let count = |at| get::<i64>(&row, at).map(i64::unsigned_abs);
    Ok(EpochStatus {
        epochs,
        newest_root: keyring.epoch(),
        shards: count(0)?,
        shards_left: count(1)?,
        secrets_left: count(2)?,
        dirty_shards: count(3)?,
        applied_erasure: count(4)?,
    })
}

/// The root first, durably: a root without a row gets one with the next attempt, a row without a root never stands.
async fn begin(connection: &Connection, tools: &Tools, after: u32, at: Millis) -> Result<()> {
    connection.batch("begin").await?;
    connection.query(LOCK, &[]).await?;
    let (newest, _) = newest_epoch(connection).await?;
    if newest == after {
        let fresh = tools.keyring.begin_epoch().map_err(|error| keyring_error(&error))?;
        // A database older than the keyring lacks rows of epochs between; their roots are to be destroyed all the same. Copies
        // of the database that was lost may lie under them, so they cover nobody who was not covered before.
        for root in tools.keyring.epochs().into_iter().filter(|root| *root > after) {
            let sql = "insert into epochs (epoch, began_ms, erasure)
                       select $1, $2, case when $3 then applied_erasure else (select erasure from epochs where epoch = $4) end
                       from meta where id = 1";
            connection.execute(sql, &[&i64::from(root), &at.0, &(root == fresh), &i64::from(after)]).await?;
        }
    }
    commit(connection).await
}

async fn rewrap(connection: &Connection, tools: &Tools, keks: &Keks) -> Result<()> {
    connection.batch("begin").await?;
    connection.query(LOCK, &[]).await?;
    let (epoch, finished) = newest_epoch(connection).await?;
    let sql = "select k.shard, k.kek_id, k.epoch, k.kid, k.root, s.wrapped, k.slot, k.dirty
               from keks k join kek_slots s using (slot) where k.root < $1 order by k.shard limit 1";
    let mut replaced = None;
    if !finished {
        match connection.row(sql, &[&i64::from(epoch)]).await? {
            Some(row) => {
                let shard = u8::try_from(get::<i64>(&row, 0)?).map_err(|_| PgError::Type)?;
                let wrapped = array::<88>(&row, 5)?;
                let stored = StoredKek {
                    shard,
                    id: array(&row, 1)?,
                    epoch: small(&row, 2)?,
                    kid: Kid(array(&row, 3)?),
                    root: small(&row, 4)?,
                    wrapped: &wrapped,
                };
                let old = tools.rewrapper().open_kek(&stored)?;
                if get::<i64>(&row, 7)? > 0 {
                    let new = rekey_shard(connection, tools, (shard, get(&row, 6)?, epoch), &old).await?;
                    replaced = Some((shard, Arc::new(new)));
                } else {
                    rewrap_shard(connection, tools, (shard, get(&row, 6)?, epoch), &old).await?;
                }
            }
            None => rewrap_secrets(connection, tools, epoch).await?,
        }
    }
    commit(connection).await?;
    keks.extend(keks.all().0, replaced);
    Ok(())
}

/// A shard in which nobody was forgotten: the same key under the new root.
async fn rewrap_shard(
    connection: &Connection,
    tools: &Tools,
    (shard, slot, epoch): (u8, i64, u32),
    kek: &Kek,
) -> Result<()> {
    set_slot(connection, slot, &tools.rewrapper().wrap_kek(shard, kek, epoch)?).await?;
    let sql = "update keks set root = $2 where shard = $1";
    connection.execute(sql, &[&i64::from(shard), &i64::from(epoch)]).await?;
    // Part of the scan that comes before a root is destroyed: no key of the shard names another shard key.
    let (first, last) = shard_range(shard);
    let sql = "select count(*) from deks d join key_slots s using (slot)
               where d.subject between $1 and $2 and substr(s.wrapped, 9, 16) <> $3";
    let parameters = (first.as_slice(), last.as_slice(), kek.id.as_slice());
    let row = connection.row(sql, &[&parameters.0, &parameters.1, &parameters.2]).await?.ok_or(PgError::Type)?;
    count_rewrapped(connection, epoch, [0, 1, 0, get(&row, 0)?]).await
}

/// A shard in which somebody was forgotten: a new key, and everybody alive under it.
async fn rekey_shard(
    connection: &Connection,
    tools: &Tools,
    (shard, slot, epoch): (u8, i64, u32),
    old: &Kek,
) -> Result<Kek> {
    let rewrapper = tools.rewrapper();
    let (new, wrapped) = rewrapper.make_kek(shard, epoch)?;
    let (first, last) = shard_range(shard);
    let sql =
        "select d.subject, d.purpose, d.generation, d.kid, s.slot, s.wrapped from deks d join key_slots s using (slot)
               where d.subject between $1 and $2";
    let (mut slots, mut records, mut unreadable) = (Vec::new(), Vec::new(), 0);
    for row in connection.query(sql, &[&first.as_slice(), &last.as_slice()]).await? {
        let of = (&SubjectRef(array(&row, 0)?), get::<&str>(&row, 1)?, small(&row, 2)?);
        let record = (&Kid(array(&row, 3)?), get::<&[u8]>(&row, 5)?);
        match rewrapper.move_key((old, &new), of, record)? {
            Some(wrapped) => {
                slots.push(get::<i64>(&row, 4)?);
                records.push(wrapped.to_vec());
            }
            None => unreadable += 1,
        }
    }
    let moved = i64::try_from(slots.len()).unwrap_or(i64::MAX);
    for (slots, records) in slots.chunks(TOGETHER).zip(records.chunks(TOGETHER)) {
        let sql = "update key_slots s set wrapped = w.wrapped from unnest($1::bigint[], $2::bytea[]) w(slot, wrapped)
                   where s.slot = w.slot";
        connection.execute(sql, &[&slots, &records]).await?;
    }
    set_slot(connection, slot, &wrapped).await?;
    let sql = "update keks set kek_id = $2, epoch = $3, kid = $4, root = $3, dirty = 0 where shard = $1";
    let kid = new.key.kid();
    connection.execute(sql, &[&i64::from(shard), &new.id.as_slice(), &i64::from(epoch), &kid.0.as_slice()]).await?;
    count_rewrapped(connection, epoch, [1, 0, moved, unreadable]).await?;
    Ok(new)
}

/// Zeros first, so that they, and not the old record, are what is left when the page is pruned.
async fn set_slot(connection: &Connection, slot: i64, wrapped: &[u8; 88]) -> Result<()> {
    let zero = "update kek_slots set wrapped = decode(repeat('00', 88), 'hex') where slot = $1";
    connection.execute(zero, &[&slot]).await?;
    let set = "update kek_slots set wrapped = $2 where slot = $1";
    connection.execute(set, &[&slot, &wrapped.as_slice()]).await?;
    Ok(())
}

async fn rewrap_secrets(connection: &Connection, tools: &Tools, epoch: u32) -> Result<()> {
    let sql = "select name, epoch, kid, wrapped from secrets where epoch < $1";
    for row in connection.query(sql, &[&i64::from(epoch)]).await? {
        let name: &str = get(&row, 0)?;
        let record = (&Kid(array(&row, 2)?), get::<&[u8]>(&row, 3)?);
        let wrapped = tools.rewrapper().move_secret(name, (small(&row, 1)?, epoch), record)?;
        let sql = "update secrets set epoch = $2, wrapped = $3 where name = $1";
        connection.execute(sql, &[&name, &i64::from(epoch), &wrapped.as_slice()]).await?;
    }
    Ok(())
}

async fn count_rewrapped(connection: &Connection, epoch: u32, counts: [i64; 4]) -> Result<()> {
    let [rekeyed, rewrapped, keys, unreadable] = counts;
    if unreadable > 0 {
        tracing::error!(epoch, keys = unreadable, "keys do not open and cannot be wrapped anew; they stay as they are");
    }
    let sql = "update epochs set shards_rekeyed = shards_rekeyed + $2, shards_rewrapped = shards_rewrapped + $3,
                 keys_rewrapped = keys_rewrapped + $4, keys_unreadable = keys_unreadable + $5 where epoch = $1";
    connection.execute(sql, &[&i64::from(epoch), &rekeyed, &rewrapped, &keys, &unreadable]).await?;
    Ok(())
}

async fn finish(connection: &Connection, at: Millis, keep: Duration) -> Result<()> {
    let (epoch, finished) = newest_epoch(connection).await?;
    if finished || !nothing_before(connection, epoch).await? {
        return Ok(());
    }
    let washed = wash(connection, Tables::All).await?;
    crash::point("epoch.before-mark");
    connection.batch("begin").await?;
    connection.query(LOCK, &[]).await?;
    // Another node may have finished it meanwhile, or begun the next one.
    if newest_epoch(connection).await? == (epoch, false) && nothing_before(connection, epoch).await? {
        let sql = "update epochs set finished_ms = $2, files_rewritten = $3 where epoch = $1";
        let rewritten = i64::from(!washed.incomplete);
        connection.execute(sql, &[&i64::from(epoch), &at.0, &rewritten]).await?;
        let sql = "update epochs set root_destroy_due_ms = $2 where epoch < $1 and root_destroy_due_ms is null";
        connection.execute(sql, &[&i64::from(epoch), &due(at, keep).0]).await?;
    }
    connection.batch("commit").await?;
    crash::point("epoch.after-mark");
    Ok(())
}

async fn destroy_root(connection: &Connection, tools: &Tools, epoch: u32, at: Millis) -> Result<()> {
    connection.batch("begin").await?;
    connection.query(LOCK, &[]).await?;
    let sql = "select 1 from epochs where epoch = $1 and root_destroy_due_ms <= $2 and root_destroyed_ms is null";
    let is_due = connection.row(sql, &[&i64::from(epoch), &at.0]).await?.is_some();
    // Looked at again, whatever the row says: with the root everything under it is lost.
    if is_due && nothing_before(connection, epoch.saturating_add(1)).await? {
        tools.keyring.destroy_root(epoch).map_err(|error| keyring_error(&error))?;
        let sql = "update epochs set root_destroyed_ms = $2 where epoch = $1";
        connection.execute(sql, &[&i64::from(epoch), &at.0]).await?;
    }
    connection.batch("commit").await?;
    crash::point("epoch.after-destroyed-mark");
    Ok(())
}

/// The number of the newest epoch, and whether it is finished.
async fn newest_epoch(connection: &Connection) -> Result<(u32, bool)> {
    let sql = "select epoch, finished_ms is not null from epochs order by epoch desc limit 1";
    let row = connection.row(sql, &[]).await?.ok_or(PgError::Type)?;
    Ok((small(&row, 0)?, get(&row, 1)?))
}

/// Whether nothing lies under a root before this one.
async fn nothing_before(connection: &Connection, epoch: u32) -> Result<bool> {
    let sql = "select exists (select 1 from keks where root < $1) or exists (select 1 from secrets where epoch < $1)";
    let row = connection.row(sql, &[&i64::from(epoch)]).await?.ok_or(PgError::Type)?;
    Ok(!get::<bool>(&row, 0)?)
}

async fn commit(connection: &Connection) -> Result<()> {
    crash::point("epoch.before-commit");
    connection.batch("commit").await?;
    crash::point("epoch.after-commit");
    Ok(())
}
