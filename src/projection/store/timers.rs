//! Timers of rows, and events put aside.
//!
//! Owns: their statements. Must not know: what goes off, or why an event was put aside.

use super::{GenerationId, Store, key_of, number};
use crate::clock::Millis;
use crate::db::statement::{DbError, Statement, Value};
use crate::projection::row::RowKey;

pub(super) const PARK: &str = "insert into parked_events(generation, position, code, message) values ($1, $2, $3, $4)
   on conflict (generation, position) do nothing";

impl Store {
    /// Timers that should have gone off: key and time.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn due(&self, id: GenerationId, now: Millis, limit: usize) -> Result<Vec<(RowKey, Millis)>, DbError> {
        let sql = "select key, at_ms from row_timers where generation = $1 and at_ms <= $2 order by at_ms limit $3";
        let rows = self.0.query(sql, vec![id.0.into(), now.0.into(), (limit as u64).into()]).await?;
        rows.iter().map(|row| timer(row).ok_or(DbError::Corrupt { table: "row_timers" })).collect()
    }

    /// When the next timer goes off.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn next_timer(&self, id: GenerationId) -> Result<Option<Millis>, DbError> {
        let rows = self.0.query("select min(at_ms) from row_timers where generation = $1", vec![id.0.into()]).await?;
        Ok(rows.first().and_then(|row| row.first()).and_then(Value::int).map(Millis))
    }

    /// Takes a timer out after it went off, unless it was set to another time since.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn gone_off(&self, id: GenerationId, key: RowKey, at: Millis) -> Result<(), DbError> {
        let sql = "delete from row_timers where generation = $1 and key = $2 and at_ms = $3";
        self.0.transact(vec![Statement::once(sql, vec![id.0.into(), key.0.as_slice().into(), at.0.into()])]).await
    }

    /// Puts an event aside.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn park(
        &self,
        id: GenerationId,
        position: u64,
        code: &'static str,
        message: String,
    ) -> Result<(), DbError> {
        let set = vec![id.0.into(), position.into(), code.into(), message.into()];
        self.0.transact(vec![Statement::once(PARK, set)]).await
    }

    /// Events put aside, by position, after one: position, code, message.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn parked(
        &self,
        id: GenerationId,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, String, String)>, DbError> {
        let sql = "select position, code, message from parked_events where generation = $1 and position > $2
                   order by position limit $3";
        let after = after.map_or(-1, |at| at as i64);
        let rows = self.0.query(sql, vec![id.0.into(), after.into(), (limit as u64).into()]).await?;
        let parked = rows.iter().map(|row| match row.as_slice() {
            [Value::Int(at), Value::Text(code), Value::Text(why)] => Ok((*at as u64, code.clone(), why.clone())),
            _ => Err(DbError::Corrupt { table: "parked_events" }),
        });
        parked.collect()
    }

    /// Number of events put aside.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn parked_count(&self, id: GenerationId) -> Result<u64, DbError> {
        number(&self.0.query("select count(*) from parked_events where generation = $1", vec![id.0.into()]).await?)
    }
}

fn timer(row: &[Value]) -> Option<(RowKey, Millis)> {
    Some((key_of(row.first()?.blob()?)?, Millis(row.get(1)?.int()?)))
}
