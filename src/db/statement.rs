//! Portable statements: values in, values out.
//!
//! Owns: what crosses the border to an engine. Must not know: engines.

/// A value of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `bigint`
    Int(i64),
    /// `text`
    Text(String),
    /// `blob`, `bytea`
    Blob(Vec<u8>),
}

impl Value {
    /// The number, if it is one.
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes, if it is bytes.
    pub fn blob(&self) -> Option<&[u8]> {
        match self {
            Self::Blob(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<u64> for Value {
    /// Positions and counts stay below 2^63 for longer than the store lives.
    fn from(number: u64) -> Self {
        Self::Int(number as i64)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Blob(bytes)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Blob(bytes.to_vec())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Rows of an answer.
pub type Rows = Vec<Vec<Value>>;

/// One statement, run once per set of parameters.
#[derive(Debug)]
pub struct Statement {
    /// The text, with `$1`, `$2`, ….
    pub sql: &'static str,
    /// Parameters, a set per run.
    pub sets: Vec<Vec<Value>>,
    /// How many rows all runs together must change; anything else undoes the transaction.
    pub must_change: Option<usize>,
}

impl Statement {
    /// A statement run once.
    pub fn once(sql: &'static str, parameters: Vec<Value>) -> Self {
        Self { sql, sets: vec![parameters], must_change: None }
    }

    /// A statement run for each set.
    pub fn each(sql: &'static str, sets: Vec<Vec<Value>>) -> Self {
        Self { sql, sets, must_change: None }
    }

    /// The same, as a condition of the transaction.
    #[must_use]
    pub fn changing(mut self, rows: usize) -> Self {
        self.must_change = Some(rows);
        self
    }
}

/// Why a database did not do what it was asked. Holds no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DbError {
    /// Not reachable, locked, out of space or closed. Nothing changed.
    #[error("the database is unavailable: {reason}")]
    Unavailable {
        /// A fact about the failure.
        reason: &'static str,
    },
    /// A condition of the transaction did not hold; nothing changed.
    #[error("the transaction was overtaken by another one")]
    Unmet,
    /// The bytes contradict the format.
    #[error("the database is corrupt in table {table}")]
    Corrupt {
        /// Table.
        table: &'static str,
    },
}
