//! Portable SQL on an SQLite file: one write connection on a thread of its own, a pool of read connections.
//!
//! Owns: threads and connections. Must not know: what is in the tables.

use std::path::Path;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::readers::{Readers, Unavailable};
use super::statement::{DbError, Rows, Statement, Value};
use super::{Migration, OpenError, OpenMode, cache, migrate, open, reason, setting};

/// A database in a file.
#[derive(Clone)]
pub struct SqliteDb {
    commands: mpsc::Sender<Command>,
    readers: Readers,
}

enum Command {
    Transact(Vec<Statement>, oneshot::Sender<Result<(), DbError>>),
    Close(oneshot::Sender<()>),
}

impl SqliteDb {
    /// Opens a file, making it when there is none, and brings it to its newest format.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        path: &Path,
        migrations: &[Migration],
        readers: usize,
        cache_kib: u32,
        thread: &'static str,
    ) -> Result<Self, OpenError> {
        let mode = if path.exists() { OpenMode::Existing } else { OpenMode::Create };
        let mut connection = open(path, mode)?;
        migrate(&mut connection, migrations)?;
        cache(&connection, cache_kib)?;
        setting(&connection, "wal_autocheckpoint", "10000", "10000")?;
        let readers = Readers::open(path, readers, cache_kib)?;
        let (commands, mut inbox) = mpsc::channel(16);
        std::thread::Builder::new()
            .name(thread.into())
            .spawn(move || {
                while let Some(command) = inbox.blocking_recv() {
                    match command {
                        Command::Transact(statements, reply) => {
                            drop(reply.send(transact(&mut connection, &statements)));
                        }
                        Command::Close(reply) => {
                            drop(connection);
                            let _ = reply.send(());
                            return;
                        }
                    }
                }
            })
            .map_err(|_| OpenError::Unusable { reason: "thread" })?;
        Ok(Self { commands, readers })
    }

    pub(super) async fn query_each(&self, sql: &'static str, sets: Vec<Vec<Value>>) -> Result<Vec<Rows>, DbError> {
        self.readers
            .run(move |connection| {
                let transaction = connection.transaction().map_err(|error| unavailable(&error))?;
                let mut statement = transaction.prepare_cached(sql).map_err(|error| unavailable(&error))?;
                sets.iter()
                    .map(|set| rows(&mut statement, set))
                    .collect::<Result<_, _>>()
                    .map_err(|error| unavailable(&error))
            })
            .await
    }

    pub(super) async fn transact(&self, statements: Vec<Statement>) -> Result<(), DbError> {
        let closed = DbError::Unavailable { reason: "the database is closed" };
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Transact(statements, reply)).await.map_err(|_| closed.clone())?;
        answer.await.unwrap_or(Err(closed))
    }

    pub(super) async fn close(&self) {
        self.readers.close().await;
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Close(reply)).await.is_ok() {
            let _ = done.await;
        }
    }
}

fn rows(statement: &mut rusqlite::CachedStatement<'_>, parameters: &[Value]) -> rusqlite::Result<Rows> {
    let columns = statement.column_count();
    bind(statement, parameters)?;
    let mut found = statement.raw_query();
    let mut out = Vec::new();
    while let Some(row) = found.next()? {
        let cells = (0..columns).map(|column| row.get_ref(column).map(value));
        out.push(cells.collect::<rusqlite::Result<_>>()?);
    }
    Ok(out)
}

/// Binds `$n` to the n-th parameter. To SQLite it is a name like any other, numbered as it comes in the text.
fn bind(statement: &mut rusqlite::CachedStatement<'_>, parameters: &[Value]) -> rusqlite::Result<()> {
    for index in 1..=statement.parameter_count() {
        let number = statement.parameter_name(index).and_then(|name| name.strip_prefix('$')?.parse::<usize>().ok());
        let value = number.and_then(|number| parameters.get(number.checked_sub(1)?));
        let value = value.ok_or(rusqlite::Error::InvalidParameterCount(index, parameters.len()))?;
        statement.raw_bind_parameter(index, value)?;
    }
    Ok(())
}

fn transact(connection: &mut Connection, statements: &[Statement]) -> Result<(), DbError> {
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|e| unavailable(&e))?;
    for statement in statements {
        let mut prepared = transaction.prepare_cached(statement.sql).map_err(|error| unavailable(&error))?;
        let mut changed = 0;
        for set in &statement.sets {
            let run = bind(&mut prepared, set).and_then(|()| prepared.raw_execute());
            changed += run.map_err(|error| unavailable(&error))?;
        }
        if statement.must_change.is_some_and(|must| must != changed) {
            return Err(DbError::Unmet);
        }
    }
    transaction.commit().map_err(|error| unavailable(&error))
}

fn unavailable(error: &rusqlite::Error) -> DbError {
    DbError::Unavailable { reason: reason(error) }
}

fn value(cell: ValueRef<'_>) -> Value {
    match cell {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        // No table of ours has one.
        ValueRef::Real(number) => Value::Text(number.to_string()),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl From<Unavailable> for DbError {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable { reason: error.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Db;

    const STEPS: &[Migration] =
        &[Migration { version: 1, sql: "create table t(id integer primary key, x text, y blob) strict" }];

    #[tokio::test]
    async fn a_transaction_is_a_value_and_lands_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let db = Db::Sqlite(SqliteDb::open(&path, STEPS, 2, 1024, "test").unwrap());
        let insert = "insert into t(id, x, y) values ($1, $2, $3)";
        let sets = vec![vec![1i64.into(), "a".into(), Value::Null], vec![2i64.into(), Value::Null, vec![7u8].into()]];
        db.transact(vec![Statement::each(insert, sets.clone()).changing(2)]).await.unwrap();
        let all = db.query("select id, x, y from t order by id", vec![]).await.unwrap();
        assert_eq!(all, sets);
        let more = vec![
            Statement::once(insert, vec![3i64.into(), "c".into(), Value::Null]),
            Statement::once("update t set x = $2 where id = $1", vec![9i64.into(), "z".into()]).changing(1),
        ];
        assert_eq!(db.transact(more).await, Err(DbError::Unmet));
        // `$n` is the n-th parameter wherever it stands in the text, and however often.
        let renamed = "update t set x = $3 where id = $1 and x = $2 and id = $1";
        let set = vec![1i64.into(), "a".into(), "b".into()];
        db.transact(vec![Statement::once(renamed, set).changing(1)]).await.unwrap();
        let back = vec![1i64.into(), "b".into(), "a".into()];
        db.transact(vec![Statement::once(renamed, back).changing(1)]).await.unwrap();
        let by_id = "select x from t where id = $1";
        let found = db.query_each(by_id, vec![vec![1i64.into()], vec![3i64.into()]]).await.unwrap();
        assert_eq!(found, vec![vec![vec!["a".into()]], vec![]]);
        db.close().await;
        assert!(matches!(db.query(by_id, vec![1i64.into()]).await, Err(DbError::Unavailable { .. })));
        let again = Db::Sqlite(SqliteDb::open(&path, STEPS, 1, 1024, "test").unwrap());
        assert_eq!(again.query("select count(*) from t", vec![]).await.unwrap(), vec![vec![2i64.into()]]);
        again.close().await;
    }
}
