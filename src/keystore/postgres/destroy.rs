//! Destroying keys.
//!
//! Owns: what a destruction changes, in one transaction. Must not know: why; the erasure worker has made the intent
//! durable before. Keeps invariant 5 together with the wash: the slot of a key is overwritten with zeros first, the row that
//! led to it is deleted, and a tombstone takes its place. A repeated order touches nothing that was made after it.

use super::facts::{array, get, small};
use super::fetch::{Keks, external_id};
use super::grant::Tools;
use super::nodes::revoke;
use crate::clock::Millis;
use crate::crash;
use crate::db::postgres::{Connection, PgError};
use crate::event::{Purpose, SubjectRef};
use crate::keystore::nodes::Revoked;
use crate::keystore::records::{EXTERNAL, bucket};
use crate::keystore::{DestroyOrder, DestroyedKey, Destruction, KeystoreError, Kid, Scope};

type Result<T> = std::result::Result<T, KeystoreError>;

const BAD_PURPOSE: KeystoreError = KeystoreError::Corrupt { table: "deks", column: "purpose" };
const NO_BYTES: &str = "decode(repeat('00', 16), 'hex')";

/// Carries out one order and commits it.
pub async fn destroy(connection: &Connection, tools: &Tools, keks: &Keks, order: &DestroyOrder) -> Result<Destruction> {
    connection.batch("begin").await?;
    // Whoever makes keys holds the same lock.
    connection.query("select id from meta where id = 1 for update", &[]).await?;
    crash::point("destroy.before-zero");
    let person = order.scope == Scope::Person;
    // Before its key goes: the sealed id is the only way from the pseudonym to the tag.
    let removed = person && remove_external_id(connection, tools, keks, order.subject).await?;
    if person {
        remove_natural_keys(connection, order.subject).await?;
    }
    let purposes = purposes_to_destroy(connection, order).await?;
    let subject = order.subject.0.as_slice();
    for purpose in &purposes {
        let zero = "update key_slots set wrapped = decode(repeat('00', 88), 'hex') where slot in
                      (select slot from deks where subject = $1 and purpose = $2 and generation <= $3)";
        connection.execute(zero, &[&subject, &purpose.as_str(), &i64::from(order.reaches(purpose))]).await?;
    }
    crash::point("destroy.zeroed");
    let mut buried = 0;
    for purpose in &purposes {
        buried += bury(connection, order, purpose).await?;
    }
    // Copies of this database still hold the keys under the key of their shard: the next epoch gives it another. So do copies
    // of one that this one replaced and that is younger, whoever is in it: therefore every order that comes for the first time.
    let dirty = "update keks set dirty = 1 where shard = $1
                   and ($2 or exists (select 1 from meta where applied_erasure < $3))";
    let shard = i64::from(order.subject.0[0]);
    connection.execute(dirty, &[&shard, &(buried > 0), &number(order.erasure)]).await?;
    if person {
        let sql = "insert into person_tombstones (subject, destroyed_ms, erasure, external_id_removed)
                   values ($1, $2, $3, $4) on conflict (subject) do nothing";
        connection.execute(sql, &[&subject, &order.at.0, &number(order.erasure), &i64::from(removed)]).await?;
    }
    let applied = "update meta set applied_erasure = greatest(applied_erasure, $1) where id = 1";
    connection.execute(applied, &[&number(order.erasure)]).await?;
    let mut report = report(connection, order).await?;
    report.revocation = revoke(connection, &Revoked::Person(order.subject, order.scope.clone()), order.at).await?;
    crash::point("destroy.before-commit");
    connection.batch("commit").await?;
    crash::point("destroy.after-commit");
    Ok(report)
}

/// The purposes in which there is something to do. A purpose that already has a tombstone of this very erasure is
/// done: what stands there now was re-authorised since, and is not this order's to destroy.
async fn purposes_to_destroy(connection: &Connection, order: &DestroyOrder) -> Result<Vec<Purpose>> {
    let subject = order.subject.0.as_slice();
    let Scope::Purposes(wanted) = &order.scope else {
        let found = connection.query("select distinct purpose from deks where subject = $1", &[&subject]).await?;
        return found.iter().map(|row| Purpose::parse_any(get(row, 0)?).map_err(|_| BAD_PURPOSE)).collect();
    };
    let sql = "select distinct purpose from tombstones where subject = $1 and erasure = $2";
    let rows = connection.query(sql, &[&subject, &number(order.erasure)]).await?;
    let done: Vec<&str> = rows.iter().map(|row| get(row, 0)).collect::<std::result::Result<_, PgError>>()?;
    let mut purposes: Vec<Purpose> = Vec::with_capacity(wanted.len());
    for purpose in wanted {
        if !done.contains(&purpose.as_str()) && !purposes.contains(purpose) {
            purposes.push(purpose.clone());
        }
    }
    Ok(purposes)
}

/// Deletes the rows that led to the zeroed slots of one purpose and leaves tombstones: how many.
async fn bury(connection: &Connection, order: &DestroyOrder, purpose: &Purpose) -> Result<u64> {
    let (subject, name, last) = (order.subject.0.as_slice(), purpose.as_str(), i64::from(order.reaches(purpose)));
    let sql = "with gone as (delete from deks where subject = $1 and purpose = $2 and generation <= $5
                 returning subject, purpose, generation, kid)
               insert into tombstones (subject, purpose, generation, kid, destroyed_ms, erasure)
               select subject, purpose, generation, kid, $3::bigint, $4::bigint from gone";
    let buried = connection.execute(sql, &[&subject, &name, &order.at.0, &number(order.erasure), &last]).await?;
    close(connection, order, purpose).await?;
    Ok(buried)
}

/// Makes sure that no key is made up to where the fence reaches, whether or not there ever was one: forgotten before
/// it had a key, or re-authorised and not used since. A key of a later generation means that it is open again.
async fn close(connection: &Connection, order: &DestroyOrder, purpose: &Purpose) -> Result<()> {
    let (subject, name, last) = (order.subject.0.as_slice(), purpose.as_str(), order.reaches(purpose));
    let from = i64::from(if last == u32::MAX { 0 } else { last });
    let sql = "insert into tombstones (subject, purpose, generation, kid, destroyed_ms, erasure)
               select $1::bytea, $2::text, greatest($3::bigint, (select coalesce(max(generation) + 1, 0) from tombstones
                 where subject = $1 and purpose = $2)), null, $4::bigint, $5::bigint
               where not exists (select 1 from tombstones
                   where subject = $1 and purpose = $2 and reauthorized = 0 and generation >= $3)
                 and not exists (select 1 from deks where subject = $1 and purpose = $2)";
    connection.execute(sql, &[&subject, &name, &from, &order.at.0, &number(order.erasure)]).await?;
    Ok(())
}

/// Unlinks the tag and removes the sealed id, over zeros. Whether there was one.
async fn remove_external_id(connection: &Connection, tools: &Tools, keks: &Keks, subject: SubjectRef) -> Result<bool> {
    let bytes = subject.0.as_slice();
    if connection.row("select 1 from subjects where subject = $1", &[&bytes]).await?.is_none() {
        return Ok(false);
    }
    // A sealed id that does not open must not stop an erasure: then the tag is searched for.
    let unlinked = match external_id(connection, tools, keks, subject).await {
        Ok(Some(id)) => {
            let sql = format!(
                "update subject_slots set subject = {NO_BYTES}
                 where slot = (select slot from subject_tags where kind = $1 and tag = $2) and subject = $3"
            );
            connection.execute(&sql, &[&EXTERNAL, &tools.external(&id).as_slice(), &bytes]).await?
        }
        Ok(None) | Err(KeystoreError::Corrupt { .. }) => 0,
        Err(error) => return Err(error),
    };
    if unlinked == 0 {
        let sql = format!("update subject_slots set subject = {NO_BYTES} where subject = $1");
        connection.execute(&sql, &[&bytes]).await?;
    }
    let sql = "update id_slots set sealed = decode(repeat('00', octet_length(sealed)), 'hex')
               where slot = (select slot from subjects where subject = $1)";
    connection.execute(sql, &[&bytes]).await?;
    connection.execute("delete from subjects where subject = $1", &[&bytes]).await?;
    Ok(true)
}

/// Removes every natural key of a person, over zeros.
async fn remove_natural_keys(connection: &Connection, subject: SubjectRef) -> Result<()> {
    let bytes = subject.0.as_slice();
    let sql = "select slot, entry from natural_people join natural_slots using (slot) where subject = $1";
    let (mut slots, mut buckets) = (Vec::new(), Vec::new());
    for row in connection.query(sql, &[&bytes]).await? {
        slots.push(get::<i64>(&row, 0)?);
        let entry = array::<48>(&row, 1)?;
        buckets.push(i64::from(entry.first_chunk::<32>().map_or(0, bucket)));
    }
    if slots.is_empty() {
        return Ok(());
    }
    let unlink = "delete from blind_index b using unnest($1::bigint[], $2::bigint[]) w(bucket, slot)
                  where b.bucket = w.bucket and b.slot = w.slot";
    connection.execute(unlink, &[&buckets, &slots]).await?;
    let zero = "update natural_slots set entry = decode(repeat('00', 48), 'hex') where slot = any($1)";
    connection.execute(zero, &[&slots]).await?;
    connection.execute("delete from natural_people where subject = $1", &[&bytes]).await?;
    Ok(())
}

/// What stands destroyed in the order's scope by this order or an earlier one: the same however often it is asked.
async fn report(connection: &Connection, order: &DestroyOrder) -> Result<Destruction> {
    let subject = order.subject.0.as_slice();
    let sql = "select purpose, generation, kid, destroyed_ms from tombstones
               where subject = $1 and erasure <= $2 and kid is not null order by purpose, generation";
    let mut keys = Vec::new();
    for row in connection.query(sql, &[&subject, &number(order.erasure)]).await? {
        let purpose = Purpose::parse_any(get(&row, 0)?).map_err(|_| BAD_PURPOSE)?;
        if matches!(&order.scope, Scope::Purposes(wanted) if !wanted.contains(&purpose)) {
            continue;
        }
        let (generation, kid, at) = (small(&row, 1)?, Kid(array(&row, 2)?), Millis(get(&row, 3)?));
        keys.push(DestroyedKey { purpose, generation, kid, at });
    }
    let sql = "select external_id_removed from person_tombstones where subject = $1";
    let removed: Option<i64> = connection.row(sql, &[&subject]).await?.map(|row| get(&row, 0)).transpose()?;
    Ok(Destruction { keys, external_id_removed: order.scope == Scope::Person && removed == Some(1), revocation: 0 })
}

/// Numbers of erasures are dense from 1; the database's integers end at 2^63.
fn number(erasure: u64) -> i64 {
    i64::try_from(erasure).unwrap_or(i64::MAX)
}
