//! PostgreSQL: connections, settings, migrations, errors; and portable SQL on it.
//!
//! Owns: [`PostgresDb`], the engine of [`crate::db::Db`]. Must not know: what is in the tables.

mod child;
pub mod connection;
pub mod error;
pub mod migrate;
pub mod pool;
pub mod settings;
pub mod tls;

use std::sync::Arc;

use bytes::BytesMut;
use tokio_postgres::Row;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

pub use connection::{Connection, Connector, Target};
pub use error::PgError;
pub use pool::{Lease, Pool};
pub use settings::{Deviation, Timeouts};

use super::statement::{DbError, Rows, Statement, Value};
use super::{Migration, OpenError};

/// Statements sent before an answer is awaited.
const TOGETHER: usize = 512;

/// Portable SQL in one schema of a PostgreSQL database.
#[derive(Clone)]
pub struct PostgresDb {
    pool: Pool,
}

impl PostgresDb {
    /// Opens a schema, making it when there is none, and brings it to its newest format.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(target: Target, migrations: &[Migration], connections: usize) -> Result<Self, OpenError> {
        let schema = target.schema();
        let connector = Connector::new(target);
        let pool = Pool::new(Arc::clone(&connector), connections);
        let lease = pool.lease().await?;
        let migrated = migrate::migrate(&lease, schema, migrations).await;
        lease.done(migrated)?;
        connector.warn();
        Ok(Self { pool })
    }

    /// Removes the schema and everything in it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn remove(target: Target) -> Result<(), OpenError> {
        let sql = format!("drop schema if exists {} cascade", target.schema());
        Ok(Connector::new(target).connect_patiently().await?.batch(&sql).await?)
    }

    pub(super) async fn query_each(&self, sql: &'static str, sets: Vec<Vec<Value>>) -> Result<Vec<Rows>, DbError> {
        let lease = self.pool.lease().await?;
        let found = query_each(&lease, sql, &sets).await;
        lease.done(found)
    }

    pub(super) async fn transact(&self, statements: Vec<Statement>) -> Result<(), DbError> {
        let lease = self.pool.lease().await?;
        match transact(&lease, &statements).await {
            // Undone in order: the connection is as good as before.
            Err(DbError::Unmet) => lease.done(Ok::<_, DbError>(())).and(Err(DbError::Unmet)),
            other => lease.done(other),
        }
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

async fn query_each(connection: &Connection, sql: &str, sets: &[Vec<Value>]) -> Result<Vec<Rows>, DbError> {
    if let [set] = sets {
        return Ok(vec![rows(&connection.query(sql, &parameters(set)).await?)?]);
    }
    let mut answers = Vec::with_capacity(sets.len());
    let mut first = "begin isolation level repeatable read read only";
    for some in sets.chunks(TOGETHER) {
        let steps: Vec<_> = some.iter().map(|set| (sql, parameters(set))).collect();
        for found in connection.query_all(first, &steps).await? {
            answers.push(rows(&found)?);
        }
        first = "";
    }
    if !sets.is_empty() {
        connection.batch("commit").await?;
    }
    Ok(answers)
}

async fn transact(connection: &Connection, statements: &[Statement]) -> Result<(), DbError> {
    connection.batch("begin").await?;
    for statement in statements {
        let mut changed = 0;
        for some in statement.sets.chunks(TOGETHER) {
            let steps: Vec<_> = some.iter().map(|set| (statement.sql, parameters(set))).collect();
            changed += connection.execute_all(&steps).await?.iter().sum::<u64>();
        }
        if statement.must_change.is_some_and(|must| must as u64 != changed) {
            connection.batch("rollback").await?;
            return Err(DbError::Unmet);
        }
    }
    Ok(connection.batch("commit").await?)
}

fn parameters(set: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    set.iter().map(|value| -> &(dyn ToSql + Sync) { value }).collect()
}

fn rows(found: &[Row]) -> Result<Rows, PgError> {
    found.iter().map(|row| (0..row.len()).map(|at| cell(row, at)).collect()).collect()
}

fn cell(row: &Row, at: usize) -> Result<Value, PgError> {
    Ok(match *row.columns()[at].type_() {
        Type::INT8 => row.try_get::<_, Option<i64>>(at)?.into(),
        Type::INT4 => row.try_get::<_, Option<i32>>(at)?.map(i64::from).into(),
        Type::TEXT | Type::VARCHAR | Type::NAME => row.try_get::<_, Option<String>>(at)?.into(),
        Type::BYTEA => row.try_get::<_, Option<Vec<u8>>>(at)?.into(),
        _ => return Err(PgError::Type),
    })
}

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) if *ty == Type::INT4 => i32::try_from(*number)?.to_sql(ty, out),
            Self::Int(number) => number.to_sql_checked(ty, out),
            Self::Text(text) => text.to_sql_checked(ty, out),
            Self::Blob(bytes) => bytes.as_slice().to_sql_checked(ty, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}
