//! Bringing a schema to its newest format.
//!
//! Owns: the schema and the list of steps done. Two nodes that start at once take turns; a step lands whole or not at all.

use super::connection::Connection;
use super::error::PgError;
use crate::db::{Migration, OpenError};

/// A number of our own among the database's advisory locks; with the schema's name it names one lock.
const LOCK: i32 = 0x4f55;

/// The newest step that was done; `None` when there is no such schema.
///
/// # Errors
/// [`PgError`].
pub async fn format(connection: &Connection, schema: &str) -> Result<Option<u32>, PgError> {
    let table = format!("{schema}.migrations");
    let there = connection.row("select to_regclass($1) is not null", &[&table]).await?;
    if !there.map_or(Ok(false), |row| row.try_get(0))? {
        return Ok(None);
    }
    let last = connection.row("select max(version) from migrations", &[]).await?;
    let last: Option<i64> = last.map_or(Ok(None), |row| row.try_get(0))?;
    Ok(Some(last.unwrap_or(0) as u32))
}

/// Does the steps that are missing, one transaction each.
///
/// # Errors
/// [`OpenError::Newer`] for a database of a later build; other variants when a step fails, which leaves the last
/// complete step in place.
pub async fn migrate(connection: &Connection, schema: &str, steps: &[Migration]) -> Result<(), OpenError> {
    let known = steps.len() as u32;
    for step in steps {
        let begin = format!("begin; select pg_advisory_xact_lock({LOCK}, hashtext('{schema}'))");
        connection.batch(&begin).await?;
        // Under the lock: another node may have done it.
        let found = format(connection, schema).await?;
        if found.is_some_and(|found| found > known) {
            connection.batch("rollback").await?;
            return Err(OpenError::Newer { found: found.unwrap_or_default(), known });
        }
        if found.is_some_and(|found| found >= step.version) {
            connection.batch("rollback").await?;
            continue;
        }
        if found.is_none() {
            // A schema that an administrator made is taken; making one needs a right on the whole database.
            let there = connection.row("select to_regnamespace($1) is not null", &[&schema]).await?;
            if !there.map_or(Ok(false), |row| row.try_get(0).map_err(PgError::from))? {
                connection.batch(&format!("create schema {schema}")).await?;
            }
            connection.batch("create table migrations (version bigint primary key)").await?;
        }
        connection.batch(step.sql).await?;
        connection.execute("insert into migrations(version) values ($1)", &[&i64::from(step.version)]).await?;
        connection.batch("commit").await?;
    }
    Ok(())
}
