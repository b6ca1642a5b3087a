//! Former versions of rows.
//!
//! Owns: their statements. Must not know: what a row means, how long versions are kept. A version and its owners come and
//! go together. Looking for the rows of one moment costs one step per key, however many versions a row has.

use super::{GenerationId, RawRow, Store, key_of, raw_rows};
use crate::clock::Millis;
use crate::db::statement::{DbError, Statement, Value};
use crate::event::SubjectRef;
use crate::projection::row::RowKey;

/// Versions that expire in one transaction, besides twice as many as it adds.
const EXPIRED: u64 = 1000;
/// Versions of a dropped generation that are removed together.
const REMOVED: u64 = 2000;

const CORRUPT: DbError = DbError::Corrupt { table: "row_versions" };

/// Which version: the row, and the position of the event that made it so.
pub type VersionId = (RowKey, u64);

/// A version that has ended. The row's position is where it begins.
#[derive(Debug)]
pub struct VersionWrite {
    /// The row as it was.
    pub row: RawRow,
    /// Position of the event that ended it.
    pub until: u64,
    /// When that was recorded.
    pub until_at: Millis,
    /// Whom it is about.
    pub owners: Vec<SubjectRef>,
}

/// What one batch does to the versions of a generation.
#[derive(Debug, Default)]
pub struct HistoryWrite {
    /// Rows of which every version goes.
    pub cleared: Vec<RowKey>,
    /// Versions that have ended.
    pub ended: Vec<VersionWrite>,
    /// Versions written anew, document and envelopes; `None` removes one.
    pub changed: Vec<(VersionId, Option<Rewritten>)>,
    /// When the newest event handled was recorded.
    pub newest: Option<Millis>,
    /// Some of the versions that ended before this go.
    pub expired: Option<Millis>,
}

/// Document and envelopes.
pub type Rewritten = (String, Option<Vec<u8>>);

/// Rows of one moment, and how far the way to them went.
#[derive(Debug, Default)]
pub struct Moment {
    /// Per key that was looked at, ascending, the version that stood then.
    pub keys: Vec<(RowKey, Option<RawRow>)>,
    /// Whether there are no more keys.
    pub done: bool,
}

/// Statements for these versions, each run for all of them.
pub(super) fn statements(id: GenerationId, history: HistoryWrite) -> Vec<Statement> {
    let generation = Value::from(id.0);
    let at = |(key, since): &VersionId| vec![generation.clone(), key.0.as_slice().into(), (*since).into()];
    let cleared = || history.cleared.iter().map(|key| vec![generation.clone(), key.0.as_slice().into()]).collect();
    let mut all = vec![
        ("delete from version_owners where generation = $1 and key = $2", cleared()),
        ("delete from row_versions where generation = $1 and key = $2", cleared()),
    ];
    let (mut put, mut owned) = (Vec::new(), Vec::new());
    let added = history.ended.len() as u64;
    for VersionWrite { row, until, until_at, owners } in history.ended {
        let version = at(&(row.key, row.position));
        owned.extend(owners.iter().map(|subject| {
            let mut set = version.clone();
            set.push(subject.0.as_slice().into());
            set
        }));
        let mut set = version;
        set.extend([until.into(), until_at.0.into(), row.parts.into(), row.doc.into(), row.sealed.into()]);
        put.push(set);
    }
    all.push((
        "insert into row_versions(generation, key, since, until, until_ms, parts, doc, sealed)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        put,
    ));
    all.push(("insert into version_owners(generation, key, since, subject) values ($1, $2, $3, $4)", owned));
    let (mut changed, mut gone) = (Vec::new(), Vec::new());
    for (version, rewritten) in history.changed {
        let mut set = at(&version);
        match rewritten {
            Some((doc, sealed)) => {
                set.extend([doc.into(), sealed.into()]);
                changed.push(set);
            }
            None => gone.push(set),
        }
    }
    let rewrite = "update row_versions set doc = $4, sealed = $5 where generation = $1 and key = $2 and since = $3";
    all.push((rewrite, changed));
    all.push(("delete from version_owners where generation = $1 and key = $2 and since = $3", gone.clone()));
    all.push(("delete from row_versions where generation = $1 and key = $2 and since = $3", gone));
    let newest = history.newest.map(|at| vec![generation.clone(), at.0.into()]);
    all.push((
        "insert into row_history(generation, newest_ms) values ($1, $2)
         on conflict (generation) do update set newest_ms = excluded.newest_ms",
        newest.into_iter().collect(),
    ));
    let mut steps: Vec<Statement> =
        all.into_iter().filter(|(_, sets)| !sets.is_empty()).map(|(sql, sets)| Statement::each(sql, sets)).collect();
    if let Some(before) = history.expired {
        steps.extend(expire(id, before, EXPIRED + 2 * added));
    }
    steps
}

/// Removes the versions that ended first, those before a time. Both statements find the same ones.
fn expire(id: GenerationId, before: Millis, most: u64) -> [Statement; 2] {
    let owners = "delete from version_owners where generation = $1 and (key, since) in
                    (select key, since from row_versions where generation = $1 and until_ms < $2
                     order by until_ms, id limit $3)";
    let versions = "delete from row_versions where id in
                      (select id from row_versions where generation = $1 and until_ms < $2
                       order by until_ms, id limit $3)";
    [owners, versions].map(|sql| Statement::once(sql, vec![id.0.into(), before.0.into(), most.into()]))
}

/// Removes some versions of a dropped generation.
pub(super) fn remove(id: GenerationId) -> [Statement; 2] {
    expire(id, Millis(i64::MAX), REMOVED)
}

impl Store {
    /// When the newest event that a generation with a history has handled was recorded.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn newest(&self, id: GenerationId) -> Result<Option<Millis>, DbError> {
        let rows = self.0.query("select newest_ms from row_history where generation = $1", vec![id.0.into()]).await?;
        Ok(rows.first().and_then(|row| row.first()).and_then(Value::int).map(Millis))
    }

    /// Whether a generation has versions that ended before a time.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn has_expired(&self, id: GenerationId, before: Millis) -> Result<bool, DbError> {
        let sql = "select 1 from row_versions where generation = $1 and until_ms < $2 limit 1";
        Ok(!self.0.query(sql, vec![id.0.into(), before.0.into()]).await?.is_empty())
    }

    /// Removes some of the versions that ended before a time.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn expire_some(&self, id: GenerationId, before: Millis) -> Result<(), DbError> {
        self.0.transact(expire(id, before, EXPIRED).into()).await
    }

    /// Whether a generation has versions at all.
    pub(super) async fn has_versions(&self, id: GenerationId) -> Result<bool, DbError> {
        self.has_expired(id, Millis(i64::MAX)).await
    }

    /// Rows by key, in the order asked for, as they stood before the event at this position.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn rows_before(
        &self,
        id: GenerationId,
        keys: &[RowKey],
        before: u64,
    ) -> Result<Vec<Option<RawRow>>, DbError> {
        // First what stands now: what changes between the two has become a version by the second.
        let mut rows = self.rows(id, keys).await?;
        let older = |row: &Option<RawRow>| row.as_ref().is_none_or(|row| row.position >= before);
        let open: Vec<usize> = rows.iter().enumerate().filter(|(_, row)| older(row)).map(|(at, _)| at).collect();
        // Of the versions that had begun only the last one may have stood: of a row that is gone, none may.
        let sql = "select v.key, v.parts, v.doc, v.sealed, v.since from row_versions v
                   where v.until >= $3 and v.id =
                     (select w.id from row_versions w where w.generation = $1 and w.key = $2 and w.since < $3
                      order by w.since desc limit 1)";
        let set = |at: &usize| vec![id.0.into(), keys[*at].0.as_slice().into(), before.into()];
        let found = self.0.query_each(sql, open.iter().map(set).collect()).await?;
        for (at, versions) in open.into_iter().zip(found) {
            rows[at] = raw_rows(versions)?.pop();
        }
        Ok(rows)
    }

    /// Rows in key order after a key, as they stood before the event at this position, among at most `limit` keys.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn scan_before(
        &self,
        id: GenerationId,
        after: Option<RowKey>,
        before: u64,
        limit: usize,
    ) -> Result<Moment, DbError> {
        // In this order, as in `rows_before`.
        let now = self.scan(id, after, limit).await?;
        let past = self.versions_before(id, after, before, limit).await?;
        // Beyond the end of the shorter way nothing is known about the other one.
        let end_of = |count: usize, last: Option<RowKey>| last.filter(|_| count == limit);
        let now_end = end_of(now.len(), now.last().map(|row| row.key));
        let past_end = end_of(past.len(), past.last().map(|(key, _)| *key));
        let end = [now_end, past_end].into_iter().flatten().min();
        let mut keys: std::collections::BTreeMap<RowKey, Option<RawRow>> = past.into_iter().collect();
        for row in now {
            let key = row.key;
            if row.position < before {
                keys.insert(key, Some(row));
            } else {
                keys.entry(key).or_default();
            }
        }
        let within = |(key, _): &(RowKey, Option<RawRow>)| end.is_none_or(|end| *key <= end);
        Ok(Moment { keys: keys.into_iter().filter(within).collect(), done: end.is_none() })
    }

    /// Keys that have versions, after a key, each with the version that stood. From key to key the index is entered anew.
    async fn versions_before(
        &self,
        id: GenerationId,
        after: Option<RowKey>,
        before: u64,
        limit: usize,
    ) -> Result<Vec<(RowKey, Option<RawRow>)>, DbError> {
        let sql = "with recursive k(key) as (
                     select * from (select v.key from row_versions v where v.generation = $1 and v.key > $2
                                    order by v.key limit 1) as one
                     union all
                     select (select v.key from row_versions v where v.generation = $1 and v.key > k.key
                             order by v.key limit 1)
                     from k where k.key is not null)
                   select f.key, v.parts, v.doc, v.sealed, v.since
                   from (select key from k where key is not null limit $4) as f
                   left join row_versions v on v.until >= $3 and v.id =
                     (select w.id from row_versions w where w.generation = $1 and w.key = f.key and w.since < $3
                      order by w.since desc limit 1)
                   order by f.key";
        let after = after.map_or_else(Vec::new, |key| key.0.to_vec());
        let rows = self.0.query(sql, vec![id.0.into(), after.into(), before.into(), (limit as u64).into()]).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let key = row.first().and_then(Value::blob).and_then(key_of).ok_or(CORRUPT)?;
            let stood = matches!(row.get(1), Some(Value::Text(_)));
            let version = if stood { raw_rows(vec![row])?.pop() } else { None };
            found.push((key, version));
        }
        Ok(found)
    }

    /// Versions that a person owns a cell of, after one of them.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn versions_of(
        &self,
        id: GenerationId,
        subject: SubjectRef,
        after: Option<VersionId>,
        limit: usize,
    ) -> Result<Vec<RawRow>, DbError> {
        let sql = "select v.key, v.parts, v.doc, v.sealed, v.since from version_owners o
                   join row_versions v on v.generation = o.generation and v.key = o.key and v.since = o.since
                   where o.generation = $1 and o.subject = $2 and o.key >= $3
                     and (o.key > $3 or (o.key = $3 and o.since > $4))
                   order by o.key, o.since limit $5";
        let (key, since) = after.map_or_else(|| (Vec::new(), -1), |(key, since)| (key.0.to_vec(), since as i64));
        let set = vec![id.0.into(), subject.0.as_slice().into(), key.into(), since.into(), (limit as u64).into()];
        raw_rows(self.0.query(sql, set).await?)
    }
}
