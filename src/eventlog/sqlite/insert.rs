//! Multi-row inserts in a few fixed sizes, so that the statement cache holds every one of them.
//!
//! A statement per row costs more than the row: a commit of 100 events runs a handful of statements, not hundreds.

use rusqlite::{CachedStatement, Connection};

const SIZES: [usize; 4] = [128, 32, 8, 1];

/// An insert of many rows into one table.
pub struct MultiInsert {
    columns: usize,
    statements: [String; 4],
}

impl MultiInsert {
    /// `head` is the statement up to `values`, `columns` the number of values per row.
    pub fn new(head: &str, columns: usize) -> Self {
        let tuple = format!("({})", vec!["?"; columns].join(","));
        let statement = |rows: usize| format!("{head} values {}", vec![tuple.as_str(); rows].join(","));
        Self { columns, statements: SIZES.map(statement) }
    }

    /// Inserts `rows`; `bind` sets the values of one row, beginning at the parameter number it is given.
    pub fn run<R>(
        &self,
        connection: &Connection,
        rows: &[R],
        mut bind: impl FnMut(&mut CachedStatement<'_>, usize, &R) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        let mut rest = rows;
        for (size, sql) in SIZES.iter().zip(&self.statements) {
            while rest.len() >= *size {
                let (now, later) = rest.split_at(*size);
                let mut statement = connection.prepare_cached(sql)?;
                for (at, row) in now.iter().enumerate() {
                    bind(&mut statement, at * self.columns + 1, row)?;
                }
                statement.raw_execute()?;
                rest = later;
            }
        }
        Ok(())
    }
}
