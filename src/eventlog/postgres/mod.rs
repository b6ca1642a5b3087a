//! The event log on PostgreSQL: one schema, one write connection per node, a pool of read connections.
//!
//! Owns: connections. Must not know: anything above the contract. Several nodes may write: the order is made by
//! the lock of the one row of `head` (`migrations/events/postgres`). Reads go to the same server, never to a replica, which
//! may show commits in another order.

mod commit;
mod facts;
mod lookups;
mod read;
mod rows;
mod watch;
mod write;

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::{Mutex, watch as channel};
use tokio::task::JoinHandle;

use super::{
    AccessRow, Appended, AuditRow, Batch, CommitError, ErasureRow, EventLog, Fences, FootprintRow, Head, Page,
    ReadError, ReadQuery, Refused, RequestRow, StreamInfo,
};
use crate::clock::Millis;
use crate::db::postgres::{Connection, Connector, Deviation, Pool, Target, migrate};
use crate::db::{Migration, OpenError};
use crate::event::{Category, Position, StoreId, StreamName, SubjectRef};
use crate::merkle::{Frontier, Hash};
use crate::secret::Entropy;

/// The schema of a database that holds an event log.
pub const SCHEMA: &str = "oubliette_events";

/// The tables, step by step.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sql: include_str!("../../../migrations/events/postgres/0001_event_log.sql") },
    Migration { version: 2, sql: include_str!("../../../migrations/events/postgres/0002_tree.sql") },
];

/// The PostgreSQL event log.
pub struct PostgresEventLog {
    connector: Arc<Connector>,
    writer: Mutex<Option<commit::Writer>>,
    pool: Pool,
    next: channel::Receiver<u64>,
    follower: JoinHandle<()>,
}

type CommitResult = Result<Vec<Result<Appended, Refused>>, CommitError>;

/// What opening gives.
pub type Opened = Result<PostgresEventLog, OpenError>;

impl PostgresEventLog {
    /// Whether there is an event log.
    ///
    /// # Errors
    /// [`OpenError`] when the database cannot be asked.
    pub async fn exists(target: &Target) -> Result<bool, OpenError> {
        let connection = Connector::new(target.clone()).connect_patiently().await?;
        has_head(&connection).await
    }

    /// Makes a new, empty event log; an existing one is refused. What a crash left half-made has no head: it was never used
    /// and is completed.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn create(target: Target, store: StoreId, at: Millis, readers: usize, entropy: Arc<Entropy>) -> Opened {
        let connection = Connector::new(target.clone()).connect_patiently().await?;
        if has_head(&connection).await? {
            return Err(OpenError::Exists);
        }
        migrate::migrate(&connection, target.schema(), MIGRATIONS).await?;
        let sql = "insert into head(one, format, store, next_position, recorded_ms, erasure_epoch, frontier)
                   values (1, 1, $1, 0, $2, 0, $3) on conflict do nothing";
        let frontier = Frontier::default().to_bytes();
        let made = connection.execute(sql, &[&store.0.as_slice(), &at.0, &frontier]).await?;
        // Two nodes at once: one made it.
        if made == 0 {
            return Err(OpenError::Exists);
        }
        drop(connection);
        Self::open(target, readers, entropy).await
    }

    /// Opens an existing event log.
    ///
    /// # Errors
    /// [`OpenError`] when it is missing, damaged or of a newer format, or the database cannot be reached.
    pub async fn open(target: Target, readers: usize, entropy: Arc<Entropy>) -> Opened {
        let schema = target.schema();
        let connector = Connector::new(target);
        let pool = Pool::new(Arc::clone(&connector), readers);
        let lease = pool.lease().await?;
        if migrate::format(&lease, schema).await?.is_none() {
            return Err(OpenError::Missing);
        }
        migrate::migrate(&lease, schema, MIGRATIONS).await?;
        let head = lookups::head(&lease).await.map_err(|_| OpenError::Unusable { reason: "head" });
        let head = lease.done(head)?;
        connector.warn();
        let (publish, next) = channel::channel(head.next.0);
        let publish = Arc::new(publish);
        let writer = commit::Writer::new(Arc::clone(&connector), Arc::clone(&publish), entropy);
        let follower = tokio::spawn(watch::follow(Arc::clone(&connector), publish));
        Ok(Self { connector, writer: Mutex::new(Some(writer)), pool, next, follower })
    }

    /// Settings of the server that are not safe and that the role may not change.
    pub fn deviations(&self) -> &[Deviation] {
        self.connector.deviations()
    }
}

impl Drop for PostgresEventLog {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

async fn has_head(connection: &Connection) -> Result<bool, OpenError> {
    let schema = SCHEMA;
    if migrate::format(connection, schema).await?.is_none() {
        return Ok(false);
    }
    Ok(connection.row("select 1 from head", &[]).await?.is_some())
}

/// Runs a read on a connection of the pool.
macro_rules! reading {
    ($self:ident, $connection:ident => $work:expr) => {
        async move {
            let $connection = $self.pool.lease().await?;
            let found = $work.await;
            $connection.done(found)
        }
        .boxed()
    };
}

impl EventLog for PostgresEventLog {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, CommitResult> {
        async move {
            let closed = CommitError::Unavailable { reason: "the event log is closed" };
            // A caller that goes away half-way takes the connection with it: the transaction is undone, or was the commit.
            self.writer.lock().await.as_mut().ok_or(closed)?.commit(batch).await
        }
        .boxed()
    }

    fn read(&self, query: ReadQuery) -> BoxFuture<'_, Result<Page, ReadError>> {
        reading!(self, connection => read::page(&connection, &query))
    }

    fn audit_rows(&self, from: Position, limit: usize) -> BoxFuture<'_, Result<Vec<AuditRow>, ReadError>> {
        reading!(self, connection => lookups::audit_rows(&connection, from, limit))
    }

    fn hashes(&self, level: u8, from: u64, count: usize) -> BoxFuture<'_, Result<Vec<(u64, Hash)>, ReadError>> {
        reading!(self, connection => lookups::hashes(&connection, level, from, count))
    }

    fn head(&self) -> BoxFuture<'_, Result<Head, ReadError>> {
        reading!(self, connection => lookups::head(&connection))
    }

    fn watch(&self) -> channel::Receiver<u64> {
        self.next.clone()
    }

    fn stream(&self, name: StreamName) -> BoxFuture<'_, Result<Option<StreamInfo>, ReadError>> {
        reading!(self, connection => lookups::stream(&connection, &name))
    }

    fn streams(
        &self,
        after: Option<String>,
        category: Option<Category>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<StreamInfo>, ReadError>> {
        reading!(self, connection => lookups::streams(&connection, after.as_deref(), category.as_ref(), limit))
    }

    fn position_at(&self, time: Millis) -> BoxFuture<'_, Result<Option<Position>, ReadError>> {
        reading!(self, connection => lookups::position_at(&connection, time))
    }

    fn footprint(
        &self,
        subject: SubjectRef,
        after: Option<(Position, i32)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<FootprintRow>, ReadError>> {
        reading!(self, connection => lookups::footprint(&connection, subject, after, limit))
    }

    fn fences(&self, subjects: Vec<SubjectRef>) -> BoxFuture<'_, Result<Fences, ReadError>> {
        reading!(self, connection => rows::fences_of(&connection, subjects))
    }

    fn erasures(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<ErasureRow>, ReadError>> {
        reading!(self, connection => lookups::erasures(&connection, after, limit))
    }

    fn erasure_of(&self, request: String) -> BoxFuture<'_, Result<Option<ErasureRow>, ReadError>> {
        reading!(self, connection => lookups::erasure_of(&connection, &request))
    }

    fn requests(
        &self,
        status: Option<String>,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<RequestRow>, ReadError>> {
        reading!(self, connection => lookups::requests(&connection, status.as_deref(), after.as_deref(), limit))
    }

    fn request_counts(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, ReadError>> {
        reading!(self, connection => lookups::request_counts(&connection))
    }

    fn access_log(
        &self,
        subject: Option<SubjectRef>,
        before: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AccessRow>, ReadError>> {
        reading!(self, connection => lookups::access_log(&connection, subject, before, limit))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.follower.abort();
            self.pool.close().await;
            *self.writer.lock().await = None;
        }
        .boxed()
    }
}
