//! PostgreSQL's errors as facts.
//!
//! Owns: what an error means for a caller. Keeps values out: the server's own texts quote keys and rows, so none of them
//! goes further than this file.

use tokio_postgres::error::SqlState;

use crate::db::OpenError;
use crate::db::statement::DbError;

/// What went wrong on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PgError {
    /// The server said no; the transaction is undone.
    #[error("the database refused: {reason}")]
    Refused {
        /// A fact.
        reason: &'static str,
        /// Whether the same again may succeed: another transaction was in the way.
        retry: bool,
    },
    /// No connection, or it broke, or no answer came in time. What was under way may have happened.
    #[error("the database cannot be reached: {reason}")]
    Lost {
        /// A fact.
        reason: &'static str,
    },
    /// A column has another type than the format says.
    #[error("the database is not of our format")]
    Type,
}

/// No answer in time.
pub const NO_ANSWER: PgError = PgError::Lost { reason: "the database does not answer" };

impl PgError {
    /// The fact alone.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Refused { reason, .. } | Self::Lost { reason } => reason,
            Self::Type => "the database is not of our format",
        }
    }
}

impl From<tokio_postgres::Error> for PgError {
    fn from(error: tokio_postgres::Error) -> Self {
        use std::error::Error;
        if let Some(code) = error.code() {
            return from_code(code);
        }
        if error.is_closed() || error.source().is_some_and(<dyn Error>::is::<std::io::Error>) {
            return Self::Lost { reason: "the connection to the database broke" };
        }
        // What is left is a value that does not fit its column, on the way in or out, or a message we do not understand.
        match error.source() {
            Some(_) => Self::Type,
            None => Self::Lost { reason: "the database answered something else" },
        }
    }
}

fn from_code(code: &SqlState) -> PgError {
    let refused = |reason| PgError::Refused { reason, retry: false };
    let again = |reason| PgError::Refused { reason, retry: true };
    match code.code() {
        "40001" | "40P01" => again("another transaction was in the way"),
        "55P03" => again("a lock was not to be had in time"),
        "57014" => refused("a statement took too long"),
        // Ended by the server: what was under way is undone unless it was the commit itself.
        "57P01" | "57P02" | "25P03" => PgError::Lost { reason: "the database ended the connection" },
        "57P03" => PgError::Lost { reason: "the database is starting or stopping" },
        "53300" => PgError::Lost { reason: "the database takes no more connections" },
        "28000" | "28P01" => PgError::Lost { reason: "the database refused the credentials" },
        "3D000" => PgError::Lost { reason: "there is no such database" },
        "53100" => refused("the database's disk is full"),
        "53200" => refused("the database is out of memory"),
        "25006" => refused("the database is read-only"),
        "42501" => refused("a right is missing in the database"),
        "42P01" => refused("a table is missing in the database"),
        "XX001" | "XX002" => refused("the database is damaged"),
        "58030" => refused("the database's disk failed"),
        _ => refused("the database refused a statement"),
    }
}

impl From<PgError> for DbError {
    fn from(error: PgError) -> Self {
        Self::Unavailable { reason: error.reason() }
    }
}

impl From<PgError> for OpenError {
    fn from(error: PgError) -> Self {
        Self::Unusable { reason: error.reason() }
    }
}
