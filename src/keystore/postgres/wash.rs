//! The wash: what was overwritten is removed from the database's files.
//!
//! Owns: the steps, and saying loudly which of them the database refused. Must not know: what was destroyed. Keeps invariant
//! 5 as far as PostgreSQL lets anybody: a vacuum gives up old versions of rows but leaves their bytes in the page, so tables
//! that are small are rewritten instead; larger ones are vacuumed and wait for the rewriting at the end of the epoch. The
//! write-ahead log is switched and a checkpoint made, so that its segments can be recycled; what was archived or copied opens
//! nothing once the root key of its epoch is gone (`migrations/keys/postgres/0001_keystore.sql`).

use std::time::Duration;

use tokio::time::sleep;

use super::facts::get;
use crate::crash;
use crate::db::postgres::{Connection, PgError};
use crate::keystore::WashReport;

/// The tables in which something is overwritten.
const TABLES: [&str; 6] = ["key_slots", "id_slots", "subject_slots", "natural_slots", "kek_slots", "secrets"];
/// Up to here a table is rewritten: about 100,000 keys, in some tenths of a second.
const SMALL: i64 = 16 << 20;
/// For a vacuum of the largest table.
const LONG: Duration = Duration::from_mins(30);
/// How long readers that began before the wash are waited for: a vacuum keeps what they can still see.
const PATIENCE: u32 = 100;

/// Which tables are rewritten into new files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// Those that are small; the others are vacuumed.
    Small,
    /// All, however long it takes: what an epoch replaced. Whoever needs a table meanwhile waits for it.
    All,
}

/// Washes. Only a lost connection is an error; a step that is refused is said and counted.
pub async fn wash(connection: &Connection, tables: Tables) -> Result<WashReport, PgError> {
    crash::point("wash.before-checkpoint");
    let mut report = WashReport { bytes: 0, incomplete: !older_readers_end(connection).await? };
    if report.incomplete {
        tracing::warn!(
            "a transaction older than the erasure holds on to old rows of the keystore; they stay in its files"
        );
    }
    for table in TABLES {
        let size: i64 = match connection.row("select pg_table_size(to_regclass($1))", &[&table]).await? {
            Some(row) => get::<Option<i64>>(&row, 0)?.unwrap_or(0),
            None => 0,
        };
        report.bytes += size.unsigned_abs();
        let rewritten = (size <= SMALL || tables == Tables::All)
            && step(connection, "rewrite", &format!("vacuum full {table}")).await?;
        report.incomplete |= !rewritten && tables == Tables::All;
        if !rewritten && !step(connection, "vacuum", &format!("vacuum {table}")).await? {
            report.incomplete = true;
        }
    }
    crash::point("wash.after-checkpoint");
    for (name, sql) in [("switch of the write-ahead log", "select pg_switch_wal()"), ("checkpoint", "checkpoint")] {
        report.incomplete |= !step(connection, name, sql).await?;
    }
    crash::point("wash.overwritten");
    Ok(report)
}

/// Runs one step; `false`, and a warning, when it is refused.
async fn step(connection: &Connection, name: &'static str, sql: &str) -> Result<bool, PgError> {
    match connection.batch_within(sql, LONG).await {
        Ok(()) => Ok(true),
        Err(PgError::Refused { reason, .. }) => {
            tracing::warn!(
                step = name,
                reason,
                "the database refused a step of washing the keystore: deleted bytes may stand in its files until the \
                 epoch ends. The role needs to own the tables, pg_checkpoint, and execute on pg_switch_wal()"
            );
            Ok(false)
        }
        Err(lost) => Err(lost),
    }
}

/// Whether every transaction that could still see what was overwritten has ended. Two kinds hold a vacuum back: snapshots in
/// this database, and transactions anywhere in the cluster that have written, for every snapshot counts those as running.
async fn older_readers_end(connection: &Connection) -> Result<bool, PgError> {
    let sql = "select pg_snapshot_xmax(pg_current_snapshot())::text";
    let Some(row) = connection.row(sql, &[]).await? else { return Ok(false) };
    let now: String = get(&row, 0)?;
    let sql = "select pg_snapshot_xmin(pg_current_snapshot()) >= $1::text::xid8 and not exists (
                 select 1 from pg_stat_activity where coalesce(datname, current_database()) = current_database()
                   and pid <> pg_backend_pid() and backend_xmin is not null
                   and age(backend_xmin) > age(($1::text::numeric % 4294967296)::text::xid))";
    for _ in 0..PATIENCE {
        let row = connection.row(sql, &[&now]).await?;
        if row.map_or(Ok(false), |row| get(&row, 0))? {
            return Ok(true);
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(false)
}
