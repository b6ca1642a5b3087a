//! The tables of projections.
//!
//! Owns: every statement on them, all portable, over [`Db`]. Must not know: engines, what a row means. Rows, owners,
//! index entries, timers, former versions and the cursor of a batch land in one transaction, on condition that nobody
//! else moved the cursor.

mod batch;
mod history;
mod standing;
mod snapshots;
mod timers;

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::clock::Millis;
use crate::db::statement::{DbError, Rows, Statement, Value};
use crate::db::{Db, Migration};
use crate::event::{StoreId, SubjectRef};

use super::row::RowKey;
use batch::row_statements;
pub use history::{HistoryWrite, Moment, VersionId, VersionWrite};
pub use standing::Standing;

/// The schema, step by step.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sql: include_str!("../../../migrations/projections/sqlite/0001_projections.sql") },
    Migration { version: 2, sql: include_str!("../../../migrations/projections/sqlite/0002_row_history.sql") },
    Migration { version: 3, sql: include_str!("../../../migrations/projections/sqlite/0003_standings.sql") },
];

/// The same on PostgreSQL, in a schema of this name beside the event log's.
pub const POSTGRES_MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sql: include_str!("../../../migrations/projections/postgres/0001_projections.sql") },
    Migration { version: 2, sql: include_str!("../../../migrations/projections/postgres/0002_row_history.sql") },
    Migration { version: 3, sql: include_str!("../../../migrations/projections/postgres/0003_standings.sql") },
];

/// The schema of a database that holds projections.
pub const SCHEMA: &str = "oubliette_projections";

/// Number of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GenerationId(pub i64);

/// One computation of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Number.
    pub id: GenerationId,
    /// Definition.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// SHA-256 of its canonical JSON.
    pub digest: [u8; 32],
    /// Whether it answers, is being built, or is being removed.
    pub state: GenerationState,
    /// Next position to look at.
    pub cursor: u64,
}

/// States of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationState {
    /// Answers queries.
    Live,
    /// Is being built.
    Shadow,
    /// Was tried out by somebody, and answers nobody else.
    Trial,
    /// Its rows are being removed.
    Dropped,
}

impl GenerationState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Shadow => "shadow",
            Self::Trial => "trial",
            Self::Dropped => "dropped",
        }
    }
}

/// A row as it comes from the table.
#[derive(Clone, Debug, PartialEq)]
pub struct RawRow {
    /// Key.
    pub key: RowKey,
    /// Canonical JSON of the key's parts.
    pub parts: String,
    /// Document.
    pub doc: String,
    /// Envelopes.
    pub sealed: Option<Vec<u8>>,
    /// Position of the last event that changed it.
    pub position: u64,
}

/// An entry of an index: the index's number, and what the row is found by.
pub type Entry = (i64, Vec<u8>);

/// What becomes of one row.
#[derive(Debug, Default)]
pub struct RowWrite {
    /// The new row; `None` removes it.
    pub row: Option<RawRow>,
    /// Who owns a cell now, and who did before.
    pub owners: (Vec<SubjectRef>, Vec<SubjectRef>),
    /// Index entries now, and before: number and entry.
    pub entries: (Vec<Entry>, Vec<Entry>),
    /// When its timer goes off; `None` leaves it without one.
    pub timer: Option<Millis>,
}

/// Everything that one batch of events changed.
#[derive(Debug, Default)]
pub struct BatchWrite {
    /// Rows.
    pub rows: Vec<(RowKey, RowWrite)>,
    /// Events put aside: position, code, message.
    pub parked: Vec<(u64, &'static str, String)>,
    /// Cursor before and after.
    pub cursor: (u64, u64),
    /// Whether the definition has timers at all.
    pub timers: bool,
    /// Former versions, if the definition keeps any.
    pub history: Option<HistoryWrite>,
    /// When other processes are to be told which rows changed: the time.
    pub tell: Option<Millis>,
}

/// A fold's snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Last revision folded in.
    pub revision: u64,
    /// Its position.
    pub position: u64,
    /// Document.
    pub doc: String,
    /// Envelopes.
    pub sealed: Option<Vec<u8>>,
}

/// The tables.
#[derive(Clone)]
pub struct Store(
    Db,
    /// Held from the insertion of a generation until its number is known: two that begin together have two numbers.
    Arc<Mutex<()>>,
);

impl Store {
    /// Tables computed from this store. `None` when they were computed from another one.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn open(db: Db, store: StoreId) -> Result<Option<Self>, DbError> {
        let known = db.query("select store from origin where one = 1", vec![]).await?;
        match known.first().and_then(|row| row.first()).and_then(Value::blob) {
            None => {
                let first = "insert into origin(one, store) values (1, $1) on conflict (one) do nothing";
                db.transact(vec![Statement::once(first, vec![store.0.as_slice().into()])]).await?;
                Ok(Some(Self(db, Arc::default())))
            }
            Some(found) if found == store.0 => Ok(Some(Self(db, Arc::default()))),
            Some(_) => Ok(None),
        }
    }

    /// Closes the database.
    pub async fn close(&self) {
        self.0.close().await;
    }

    /// All generations.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn generations(&self) -> Result<Vec<Generation>, DbError> {
        let rows = self
            .0
            .query("select id, name, version, digest, state, cursor from generations order by id", vec![])
            .await?;
        rows.iter().map(|row| generation(row).ok_or(DbError::Corrupt { table: "generations" })).collect()
    }

    /// Begins a generation at position 0.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn begin(
        &self,
        name: &str,
        version: u32,
        digest: [u8; 32],
        state: GenerationState,
        at: Millis,
    ) -> Result<Generation, DbError> {
        let insert =
            "insert into generations(name, version, digest, state, cursor, began_ms) values ($1, $2, $3, $4, 0, $5)";
        let set =
            vec![name.into(), u64::from(version).into(), digest.as_slice().into(), state.as_str().into(), at.0.into()];
        let _alone = self.1.lock().await;
        self.0.transact(vec![Statement::once(insert, set)]).await?;
        let all = self.generations().await?;
        all.into_iter().rfind(|g| g.name == name && g.state == state).ok_or(DbError::Corrupt { table: "generations" })
    }

    /// Sets where a generation without rows begins.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn place(&self, id: GenerationId, cursor: u64) -> Result<(), DbError> {
        let set = vec![id.0.into(), cursor.into()];
        self.0.transact(vec![Statement::once("update generations set cursor = $2 where id = $1", set)]).await
    }

    /// Lets the shadow answer instead of the live generation, in one step.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn swap(&self, live: Option<GenerationId>, shadow: GenerationId) -> Result<(), DbError> {
        let to = |state: GenerationState, id: GenerationId| {
            Statement::once("update generations set state = $1 where id = $2", vec![state.as_str().into(), id.0.into()])
                .changing(1)
        };
        let mut steps: Vec<Statement> = live.map(|live| to(GenerationState::Dropped, live)).into_iter().collect();
        steps.push(to(GenerationState::Live, shadow));
        self.0.transact(steps).await
    }

    /// Marks for removal every trial that began before a time.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn drop_trials(&self, before: Millis) -> Result<(), DbError> {
        let sql = "update generations set state = 'dropped' where state = 'trial' and began_ms < $1";
        self.0.transact(vec![Statement::once(sql, vec![before.0.into()])]).await
    }

    /// Marks a generation for removal.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn drop_generation(&self, id: GenerationId) -> Result<(), DbError> {
        let set = vec![GenerationState::Dropped.as_str().into(), id.0.into()];
        self.0.transact(vec![Statement::once("update generations set state = $1 where id = $2", set)]).await
    }

    /// Removes some rows of a dropped generation; whether that was all of it.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn remove_some(&self, id: GenerationId) -> Result<bool, DbError> {
        let some = "select key from projection_rows where generation = $1 limit 2000";
        let keys = self.0.query(some, vec![id.0.into()]).await?;
        if keys.is_empty() {
            if self.has_versions(id).await? {
                self.0.transact(history::remove(id).into()).await?;
                return Ok(false);
            }
            let all = [
                "delete from row_history where generation = $1",
                "delete from row_owners where generation = $1",
                "delete from row_index where generation = $1",
                "delete from row_timers where generation = $1",
                "delete from parked_events where generation = $1",
                "delete from row_changes where generation = $1",
                "delete from standings where generation = $1",
                "delete from generations where id = $1",
            ];
            self.0.transact(all.into_iter().map(|sql| Statement::once(sql, vec![id.0.into()])).collect()).await?;
            return Ok(true);
        }
        let sets = keys.into_iter().map(|mut row| vec![id.0.into(), row.swap_remove(0)]).collect();
        self.0
            .transact(vec![Statement::each("delete from projection_rows where generation = $1 and key = $2", sets)])
            .await?;
        Ok(false)
    }

    /// Rows by key, in the order asked for.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn rows(&self, id: GenerationId, keys: &[RowKey]) -> Result<Vec<Option<RawRow>>, DbError> {
        let sql = "select key, parts, doc, sealed, position from projection_rows where generation = $1 and key = $2";
        let sets = keys.iter().map(|key| vec![id.0.into(), key.0.as_slice().into()]).collect();
        let answers = self.0.query_each(sql, sets).await?;
        answers.into_iter().map(|rows| Ok(raw_rows(rows)?.pop())).collect()
    }

    /// Rows in key order after a key.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn scan(&self, id: GenerationId, after: Option<RowKey>, limit: usize) -> Result<Vec<RawRow>, DbError> {
        let sql = "select key, parts, doc, sealed, position from projection_rows
                   where generation = $1 and key > $2 order by key limit $3";
        let after = after.map_or_else(Vec::new, |key| key.0.to_vec());
        raw_rows(self.0.query(sql, vec![id.0.into(), after.into(), (limit as u64).into()]).await?)
    }

    /// Rows whose index entry begins so, by entry and key, after one of them.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn indexed(
        &self,
        id: GenerationId,
        number: i64,
        prefix: &[u8],
        after: Option<(Vec<u8>, RowKey)>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, RawRow)>, DbError> {
        let sql = "select r.key, r.parts, r.doc, r.sealed, r.position, i.entry from row_index i
                   join projection_rows r on r.generation = i.generation and r.key = i.key
                   where i.generation = $1 and i.number = $2 and i.entry >= $3 and i.entry < $4
                     and (i.entry > $5 or (i.entry = $5 and i.key > $6))
                   order by i.entry, i.key limit $7";
        let mut end = prefix.to_vec();
        end.push(0xff);
        let (entry, key) = after.map_or_else(|| (Vec::new(), Vec::new()), |(entry, key)| (entry, key.0.to_vec()));
        let set = vec![
            id.0.into(),
            number.into(),
            // Not from the beginning again for every page.
            prefix.max(&entry).into(),
            end.into(),
            entry.into(),
            key.into(),
            (limit as u64).into(),
        ];
        let corrupt = DbError::Corrupt { table: "row_index" };
        let mut found = Vec::new();
        for mut row in self.0.query(sql, set).await? {
            let Some(Value::Blob(entry)) = row.pop() else { return Err(corrupt) };
            found.extend(raw_rows(vec![row])?.into_iter().map(|row| (entry.clone(), row)));
        }
        Ok(found)
    }

    /// Keys of rows in which a person owns a cell, after a key.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn keys_of(
        &self,
        id: GenerationId,
        subject: SubjectRef,
        after: Option<RowKey>,
        limit: usize,
    ) -> Result<Vec<RowKey>, DbError> {
        let sql =
            "select key from row_owners where generation = $1 and subject = $2 and key > $3 order by key limit $4";
        let after = after.map_or_else(Vec::new, |key| key.0.to_vec());
        let set = vec![id.0.into(), subject.0.as_slice().into(), after.into(), (limit as u64).into()];
        let rows = self.0.query(sql, set).await?;
        rows.iter()
            .map(|row| {
                row.first().and_then(Value::blob).and_then(key_of).ok_or(DbError::Corrupt { table: "row_owners" })
            })
            .collect()
    }

    /// Number of rows.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn count(&self, id: GenerationId) -> Result<u64, DbError> {
        number(&self.0.query("select count(*) from projection_rows where generation = $1", vec![id.0.into()]).await?)
    }

    /// Number of rows of live generations in which a person owns a cell.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn count_of(&self, subject: SubjectRef) -> Result<u64, DbError> {
        let sql = "select count(*) from row_owners o join generations g on g.id = o.generation
                   where o.subject = $1 and g.state = 'live'";
        number(&self.0.query(sql, vec![subject.0.as_slice().into()]).await?)
    }

    /// Lands a batch.
    ///
    /// # Errors
    /// [`DbError::Unmet`] when somebody else moved the cursor; nothing changed then.
    pub async fn commit(&self, id: GenerationId, batch: BatchWrite) -> Result<(), DbError> {
        let moved = "update generations set cursor = $3 where id = $1 and cursor = $2";
        let mut steps =
            vec![Statement::once(moved, vec![id.0.into(), batch.cursor.0.into(), batch.cursor.1.into()]).changing(1)];
        if let Some(at) = batch.tell.filter(|_| !batch.rows.is_empty()) {
            let keys: Vec<RowKey> = batch.rows.iter().map(|(key, _)| *key).collect();
            steps.push(standing::tell(id, batch.cursor.1, &keys, at));
        }
        steps.extend(row_statements(id, batch.rows, batch.timers));
        if let Some(history) = batch.history {
            steps.extend(history::statements(id, history));
        }
        let parked =
            batch.parked.into_iter().map(|(at, code, why)| vec![id.0.into(), at.into(), code.into(), why.into()]);
        steps.push(Statement::each(timers::PARK, parked.collect()));
        self.0.transact(steps).await
    }
}

fn key_of(bytes: &[u8]) -> Option<RowKey> {
    bytes.try_into().ok().map(RowKey)
}

fn raw_rows(rows: Rows) -> Result<Vec<RawRow>, DbError> {
    let raw = |row: Vec<Value>| {
        let [Value::Blob(key), Value::Text(parts), Value::Text(doc), sealed, Value::Int(position)] =
            <[Value; 5]>::try_from(row).ok()?
        else {
            return None;
        };
        let sealed = match sealed {
            Value::Blob(bytes) => Some(bytes),
            _ => None,
        };
        Some(RawRow { key: key_of(&key)?, parts, doc, sealed, position: position as u64 })
    };
    rows.into_iter().map(|row| raw(row).ok_or(DbError::Corrupt { table: "projection_rows" })).collect()
}

fn generation(row: &[Value]) -> Option<Generation> {
    let [
        Value::Int(id),
        Value::Text(name),
        Value::Int(version),
        Value::Blob(digest),
        Value::Text(state),
        Value::Int(cursor),
    ] = row
    else {
        return None;
    };
    let state = match state.as_str() {
        "live" => GenerationState::Live,
        "shadow" => GenerationState::Shadow,
        "trial" => GenerationState::Trial,
        _ => GenerationState::Dropped,
    };
    Some(Generation {
        id: GenerationId(*id),
        name: name.clone(),
        version: u32::try_from(*version).ok()?,
        digest: digest.as_slice().try_into().ok()?,
        state,
        cursor: *cursor as u64,
    })
}

fn number(rows: &Rows) -> Result<u64, DbError> {
    let first = rows.first().and_then(|row| row.first()).and_then(Value::int);
    first.map(|n| n as u64).ok_or(DbError::Corrupt { table: "projection_rows" })
}
