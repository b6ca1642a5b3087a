//! How generations stand, for processes that do not compute them.
//!
//! Owns: the tables `standings` and `row_changes`. Must not know: why a generation stands.

use std::collections::HashMap;

use super::{GenerationId, Store, key_of};
use crate::clock::Millis;
use crate::db::statement::{DbError, Statement, Value};
use crate::projection::row::RowKey;

/// How a generation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The word for its state.
    pub state: String,
    /// Events a second.
    pub rate: u64,
    /// Why it does not move: position, code, message.
    pub cause: Option<(Option<u64>, String, String)>,
    /// Counts requests to try again.
    pub again: u64,
}

/// Rows that a batch changed, by the cursor after it.
pub type ChangedRows = Vec<(u64, Vec<RowKey>)>;

impl Store {
    /// Says how generations stand.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn stand(&self, all: Vec<(GenerationId, Standing)>) -> Result<(), DbError> {
        let sql =
            "insert into standings(generation, state, rate, position, code, message) values ($1, $2, $3, $4, $5, $6)
                   on conflict (generation) do update set state = excluded.state, rate = excluded.rate,
                     position = excluded.position, code = excluded.code, message = excluded.message";
        let set = |(id, standing): (GenerationId, Standing)| {
            let (position, code, message) = match standing.cause {
                Some((position, code, message)) => (position.into(), code.into(), message.into()),
                None => (Value::Null, Value::Null, Value::Null),
            };
            vec![id.0.into(), standing.state.into(), standing.rate.into(), position, code, message]
        };
        self.0.transact(vec![Statement::each(sql, all.into_iter().map(set).collect())]).await
    }

    /// How generations stand, as far as that was said.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn standings(&self) -> Result<HashMap<GenerationId, Standing>, DbError> {
        let sql = "select generation, state, rate, position, code, message, again from standings";
        let rows = self.0.query(sql, vec![]).await?;
        let standing = |row: Vec<Value>| {
            let [Value::Int(id), Value::Text(state), Value::Int(rate), position, code, message, Value::Int(again)] =
                <[Value; 7]>::try_from(row).ok()?
            else {
                return None;
            };
            let cause = match (code, message) {
                (Value::Text(code), Value::Text(message)) => Some((position.int().map(|at| at as u64), code, message)),
                _ => None,
            };
            Some((GenerationId(id), Standing { state, rate: rate as u64, cause, again: again as u64 }))
        };
        rows.into_iter().map(|row| standing(row).ok_or(DbError::Corrupt { table: "standings" })).collect()
    }

    /// Asks whoever computes a generation to try again.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn ask_again(&self, id: GenerationId) -> Result<(), DbError> {
        let sql = "insert into standings(generation, state, rate, again) values ($1, 'stalled', 0, 1)
                   on conflict (generation) do update set again = standings.again + 1";
        self.0.transact(vec![Statement::once(sql, vec![id.0.into()])]).await
    }

    /// Rows changed by batches that ended after a cursor.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn changed_after(&self, id: GenerationId, cursor: u64) -> Result<ChangedRows, DbError> {
        let sql = "select cursor, keys from row_changes where generation = $1 and cursor > $2 order by cursor";
        let rows = self.0.query(sql, vec![id.0.into(), cursor.into()]).await?;
        let changed = |row: Vec<Value>| {
            let [Value::Int(cursor), Value::Blob(keys)] = <[Value; 2]>::try_from(row).ok()? else { return None };
            Some((cursor as u64, keys.chunks(16).map(key_of).collect::<Option<_>>()?))
        };
        rows.into_iter().map(|row| changed(row).ok_or(DbError::Corrupt { table: "row_changes" })).collect()
    }

    /// Removes what nobody needs to be told any more.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn forget_changes(&self, before: Millis) -> Result<(), DbError> {
        let steps = vec![
            Statement::once("delete from row_changes where at_ms < $1", vec![before.0.into()]),
            Statement::once("delete from standings where generation not in (select id from generations)", vec![]),
        ];
        self.0.transact(steps).await
    }
}

/// Tells others which rows a batch changed, in its transaction.
pub(super) fn tell(id: GenerationId, cursor: u64, keys: &[RowKey], at: Millis) -> Statement {
    let sql = "insert into row_changes(generation, cursor, keys, at_ms) values ($1, $2, $3, $4) on conflict do nothing";
    let bytes: Vec<u8> = keys.iter().flat_map(|key| key.0).collect();
    Statement::once(sql, vec![id.0.into(), cursor.into(), bytes.into(), at.0.into()])
}
