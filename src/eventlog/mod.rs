//! The event log: an immutable, ordered, verifiable history of sealed events.
//!
//! Owns: the contract every engine keeps, and the values that cross it. Must not know: clear personal values (it takes
//! only `SealedEvent`, which only `sealing` makes), schemas, keys, HTTP. Keeps invariants 2, 3 and 10.

mod batch;
mod limits;
mod page;
pub mod plan;
pub mod postgres;
mod reply;
pub mod sqlite;
mod stored;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

pub use batch::{
    AccessEntry, Appended, AppendedStream, Batch, Condition, Effect, Filter, Idempotency, Job, Refused, StreamAppend,
};
pub use page::{
    AccessRow, AuditRow, Direction, ErasureRow, Fence, FenceState, Fences, FootprintRow, Head, Page, ReadQuery,
    RequestRow, StreamInfo,
};
pub use stored::{StoredEvent, Text};

use crate::clock::Millis;
use crate::event::{Category, Position, StreamName, SubjectRef};
use crate::merkle::Hash;

/// Why a whole batch did not commit.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// Nothing was written.
    #[error("the event log is unavailable: {reason}")]
    Unavailable {
        /// A fact about the failure, without values.
        reason: &'static str,
    },
    /// It is not known whether the batch was written; the writer reloads the head and looks the ids up.
    #[error("the outcome of the commit is not known")]
    Indeterminate,
}

/// Why a read failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The log cannot be read now.
    #[error("the event log is unavailable: {reason}")]
    Unavailable {
        /// A fact about the failure, without values.
        reason: &'static str,
    },
    /// The bytes contradict the format.
    #[error("the event log is corrupt in table {table}, column {column}, row {row}")]
    Corrupt {
        /// Table.
        table: &'static str,
        /// Column.
        column: &'static str,
        /// Position or row number.
        row: u64,
    },
}

impl From<crate::db::postgres::PgError> for ReadError {
    fn from(error: crate::db::postgres::PgError) -> Self {
        match error {
            crate::db::postgres::PgError::Type => Self::Corrupt { table: "events", column: "type", row: 0 },
            other => Self::Unavailable { reason: other.reason() },
        }
    }
}

impl From<crate::db::readers::Unavailable> for ReadError {
    fn from(error: crate::db::readers::Unavailable) -> Self {
        Self::Unavailable { reason: error.0 }
    }
}

/// The contract of an event-log engine. Reads see one committed snapshot each. A commit is durable when it returns.
pub trait EventLog: Send + Sync {
    /// Commits a batch: assigns revisions and positions from the head, extends the tree, checks fences in the same
    /// transaction, flushes. One outcome per job, in order.
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Result<Appended, Refused>>, CommitError>>;

    /// Reads a page and the fences of everyone in it, in one snapshot.
    fn read(&self, query: ReadQuery) -> BoxFuture<'_, Result<Page, ReadError>>;

    /// Reads what a verifier needs, by position.
    fn audit_rows(&self, from: Position, limit: usize) -> BoxFuture<'_, Result<Vec<AuditRow>, ReadError>>;

    /// Hashes of the Merkle tree by number within a level: leaves at level 0, roots of full tiles at levels 8, 16, ….
    /// `count` of them at most, from `from`; those of an older store that were not kept are left out.
    fn hashes(&self, level: u8, from: u64, count: usize) -> BoxFuture<'_, Result<Vec<(u64, Hash)>, ReadError>>;

    /// Where the log ends.
    fn head(&self) -> BoxFuture<'_, Result<Head, ReadError>>;

    /// Follows the next position. A hint: subscriptions still read.
    fn watch(&self) -> watch::Receiver<u64>;

    /// One stream; `None` when it has no events.
    fn stream(&self, name: StreamName) -> BoxFuture<'_, Result<Option<StreamInfo>, ReadError>>;

    /// Streams by name, after `after`.
    fn streams(
        &self,
        after: Option<String>,
        category: Option<Category>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<StreamInfo>, ReadError>>;

    /// The last position recorded at or before a time; `None` when there is none.
    fn position_at(&self, time: Millis) -> BoxFuture<'_, Result<Option<Position>, ReadError>>;

    /// A person's slots and mentions, by position, after `after`.
    fn footprint(
        &self,
        subject: SubjectRef,
        after: Option<(Position, i32)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<FootprintRow>, ReadError>>;

    /// Fences of these people.
    fn fences(&self, subjects: Vec<SubjectRef>) -> BoxFuture<'_, Result<Fences, ReadError>>;

    /// The erasure record after a number.
    fn erasures(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<ErasureRow>, ReadError>>;

    /// The entry of the erasure record that a forget request made.
    fn erasure_of(&self, request: String) -> BoxFuture<'_, Result<Option<ErasureRow>, ReadError>>;

    /// Forget requests by id, which begins with the time it was made; all, or those of one status; after an id.
    fn requests(
        &self,
        status: Option<String>,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<RequestRow>, ReadError>>;

    /// Number of forget requests by status.
    fn request_counts(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, ReadError>>;

    /// Personal reads, newest first; all, or those of one person; before an entry.
    fn access_log(
        &self,
        subject: Option<SubjectRef>,
        before: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AccessRow>, ReadError>>;

    /// Finishes what is under way and closes; later calls are refused as unavailable.
    fn close(&self) -> BoxFuture<'_, ()>;
}
