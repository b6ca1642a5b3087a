//! Snapshots of folds: the latest per fold and stream.
//!
//! Owns: their statements. Must not know: how a state is computed or sealed. A snapshot is only ever replaced by one of a
//! later revision, or by one of another text of its definition.

use super::{Snapshot, Store};
use crate::db::statement::{DbError, Statement, Value};
use crate::event::SubjectRef;

const CORRUPT: DbError = DbError::Corrupt { table: "snapshots" };

impl Store {
    /// The latest snapshot that a definition with this digest made.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn snapshot(&self, name: &str, digest: &[u8; 32], stream: &str) -> Result<Option<Snapshot>, DbError> {
        let sql =
            "select revision, position, doc, sealed from snapshots where name = $1 and stream = $2 and digest = $3";
        let rows = self.0.query(sql, vec![name.into(), stream.into(), digest.as_slice().into()]).await?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        let Ok([Value::Int(revision), Value::Int(position), Value::Text(doc), sealed]) = <[Value; 4]>::try_from(row)
        else {
            return Err(CORRUPT);
        };
        let sealed = match sealed {
            Value::Blob(bytes) => Some(bytes),
            _ => None,
        };
        Ok(Some(Snapshot { revision: revision as u64, position: position as u64, doc, sealed }))
    }

    /// Stores a snapshot, with everyone who owns a cell of it; `false` when a later one is there.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn put_snapshot(
        &self,
        name: &str,
        digest: &[u8; 32],
        stream: &str,
        snapshot: Snapshot,
        owners: Vec<SubjectRef>,
    ) -> Result<bool, DbError> {
        let put = "insert into snapshots(name, digest, stream, revision, position, doc, sealed)
                   values ($1, $2, $3, $4, $5, $6, $7)
                   on conflict (name, stream) do update set
                     digest = excluded.digest, revision = excluded.revision, position = excluded.position,
                     doc = excluded.doc, sealed = excluded.sealed
                   where excluded.revision > snapshots.revision or excluded.digest <> snapshots.digest";
        let set = vec![
            name.into(),
            digest.as_slice().into(),
            stream.into(),
            snapshot.revision.into(),
            snapshot.position.into(),
            snapshot.doc.into(),
            snapshot.sealed.into(),
        ];
        let owner = |subject: SubjectRef| vec![subject.0.as_slice().into(), name.into(), stream.into()];
        let own = "insert into snapshot_owners(subject, name, stream) values ($1, $2, $3) on conflict do nothing";
        let disown = "delete from snapshot_owners where name = $1 and stream = $2";
        let mut steps =
            vec![Statement::once(put, set).changing(1), Statement::once(disown, vec![name.into(), stream.into()])];
        if !owners.is_empty() {
            steps.push(Statement::each(own, owners.into_iter().map(owner).collect()));
        }
        match self.0.transact(steps).await {
            Ok(()) => Ok(true),
            Err(DbError::Unmet) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes every snapshot in which one of these people owns a cell. They can be made again.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn drop_snapshots_of(&self, subjects: &[SubjectRef]) -> Result<(), DbError> {
        if subjects.is_empty() {
            return Ok(());
        }
        let sets = || subjects.iter().map(|subject| vec![subject.0.as_slice().into()]).collect();
        let snapshots = "delete from snapshots where (name, stream) in
                           (select name, stream from snapshot_owners where subject = $1)";
        let owners = "delete from snapshot_owners where (name, stream) in
                        (select name, stream from snapshot_owners where subject = $1)";
        self.0.transact(vec![Statement::each(snapshots, sets()), Statement::each(owners, sets())]).await
    }

    /// Removes snapshots of events at or after a position: the log that they were made from is not this one.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn drop_snapshots_from(&self, head: u64) -> Result<(), DbError> {
        let owners = "delete from snapshot_owners where (name, stream) in
                        (select name, stream from snapshots where position >= $1)";
        let snapshots = "delete from snapshots where position >= $1";
        self.0
            .transact(vec![Statement::once(owners, vec![head.into()]), Statement::once(snapshots, vec![head.into()])])
            .await
    }

    /// Names of which there are snapshots.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn snapshot_names(&self) -> Result<Vec<String>, DbError> {
        let rows = self.0.query("select distinct name from snapshots", vec![]).await?;
        rows.iter().map(|row| Ok(row.first().and_then(Value::text).ok_or(CORRUPT)?.to_owned())).collect()
    }

    /// Removes all snapshots of a fold.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn drop_snapshots(&self, name: &str) -> Result<(), DbError> {
        let steps = ["delete from snapshot_owners where name = $1", "delete from snapshots where name = $1"];
        self.0.transact(steps.into_iter().map(|sql| Statement::once(sql, vec![name.into()])).collect()).await
    }
}
