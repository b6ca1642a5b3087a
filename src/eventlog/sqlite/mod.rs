//! The event log on SQLite: one file, one write connection on a thread of its own, a pool of read connections.
//!
//! Owns: threads and connections. Must not know: anything above the contract. The process holds a lock on the data
//! directory (`app`), so this is the only writer; a failed flush stops it until the process is restarted, because after
//! one nobody knows what the disk holds.

mod commit;
mod facts;
mod insert;
mod lookups;
mod read;
mod rows;

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    AccessRow, Appended, AuditRow, Batch, CommitError, ErasureRow, EventLog, Fences, FootprintRow, Head, Page,
    ReadError, ReadQuery, Refused, RequestRow, StreamInfo,
};
use crate::clock::Millis;
use crate::crash;
use crate::db::readers::Readers;
use crate::db::{self, Migration, OpenError, OpenMode};
use crate::event::{Category, Position, StoreId, StreamName, SubjectRef};
use crate::merkle::{Frontier, Hash};
use crate::secret::Entropy;

/// The schema, step by step.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sql: include_str!("../../../migrations/events/sqlite/0001_event_log.sql") },
    Migration { version: 2, sql: include_str!("../../../migrations/events/sqlite/0002_tree.sql") },
];

/// Settings of the engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Read connections.
    pub readers: usize,
    /// Page cache of each connection in KiB.
    pub cache_kib: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { readers: 4, cache_kib: 64 * 1024 }
    }
}

/// The SQLite event log.
pub struct SqliteEventLog {
    commands: mpsc::Sender<Command>,
    readers: Readers,
    next: watch::Receiver<u64>,
}

enum Command {
    Commit(Batch, oneshot::Sender<CommitResult>),
    Close(oneshot::Sender<()>),
}

type CommitResult = Result<Vec<Result<Appended, Refused>>, CommitError>;

impl SqliteEventLog {
    /// Makes a new, empty event log; an existing file is refused. It is made under another name and renamed, so after a
    /// crash there is a whole log or none.
    ///
    /// # Errors
    /// [`OpenError`]; what a crash left half-made was never used and is made anew.
    pub fn create(path: &Path, store: StoreId, at: Millis, options: &Options, entropy: Arc<Entropy>) -> Opened {
        if path.exists() {
            return Err(OpenError::Exists);
        }
        let unnamed = unnamed(path)?;
        let mut connection = db::open(&unnamed, OpenMode::Create)?;
        db::migrate(&mut connection, MIGRATIONS)?;
        connection
            .execute(
                "insert into head(one, format, store, next_position, recorded_ms, erasure_epoch, frontier)
                 values (1, 1, ?1, 0, ?2, 0, ?3)",
                (store.0, at.0, Frontier::default().to_bytes()),
            )
            .map_err(|error| db::classify(&error, "head"))?;
        // The last connection folds its write-ahead log into the file when it closes.
        connection.close().map_err(|(_, error)| db::classify(&error, "close"))?;
        crash::point("create.log-unnamed");
        let named = std::fs::rename(&unnamed, path).and_then(|()| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
            _ => Ok(()),
        });
        named.map_err(|_| OpenError::Unusable { reason: "rename" })?;
        Self::open(path, options, entropy)
    }

    /// Opens an existing event log.
    ///
    /// # Errors
    /// [`OpenError`] when it is missing, locked, damaged or of a newer format.
    pub fn open(path: &Path, options: &Options, entropy: Arc<Entropy>) -> Opened {
        let mut connection = db::open(path, OpenMode::Existing)?;
        db::migrate(&mut connection, MIGRATIONS)?;
        db::cache(&connection, options.cache_kib)?;
        // Checkpoints at 10,000 pages: the log stays at 40 MiB and is overwritten in place rather than grown.
        db::setting(&connection, "wal_autocheckpoint", "10000", "10000")?;
        let head = lookups::head(&connection).map_err(|_| OpenError::Unusable { reason: "head" })?;
        let (publish, next) = watch::channel(head.next.0);
        let readers = Readers::open(path, options.readers, options.cache_kib)?;
        let mut writer = commit::Writer::new(connection, head, publish, entropy);
        let (commands, mut inbox) = mpsc::channel(16);
        std::thread::Builder::new()
            .name("event-log".into())
            .spawn(move || {
                while let Some(command) = inbox.blocking_recv() {
                    match command {
                        Command::Commit(batch, reply) => drop(reply.send(writer.commit(batch))),
                        Command::Close(reply) => {
                            writer.close();
                            let _ = reply.send(());
                            return;
                        }
                    }
                }
            })
            .map_err(|_| OpenError::Unusable { reason: "thread" })?;
        Ok(Self { commands, readers, next })
    }

    fn with_reader<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, ReadError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, ReadError>> {
        self.readers.run(work)
    }
}

/// The name under which a log is made. What an earlier attempt left there is removed.
fn unnamed(path: &Path) -> Result<PathBuf, OpenError> {
    let beside = |suffix: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        path.with_file_name(name)
    };
    for suffix in [".new", ".new-wal", ".new-shm"] {
        match std::fs::remove_file(beside(suffix)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(OpenError::Unusable { reason: "leftovers" });
            }
            _ => {}
        }
    }
    Ok(beside(".new"))
}

/// What opening gives.
pub type Opened = Result<SqliteEventLog, OpenError>;

impl EventLog for SqliteEventLog {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, CommitResult> {
        async move {
            let closed = CommitError::Unavailable { reason: "the event log is closed" };
            let (reply, answer) = oneshot::channel();
            self.commands.send(Command::Commit(batch, reply)).await.map_err(|_| closed)?;
            // The thread died after taking the batch: nobody knows.
            answer.await.unwrap_or(Err(CommitError::Indeterminate))
        }
        .boxed()
    }

    fn read(&self, query: ReadQuery) -> BoxFuture<'_, Result<Page, ReadError>> {
        self.with_reader(move |connection| read::page(connection, &query))
    }

    fn audit_rows(&self, from: Position, limit: usize) -> BoxFuture<'_, Result<Vec<AuditRow>, ReadError>> {
        self.with_reader(move |connection| lookups::audit_rows(connection, from, limit))
    }

    fn hashes(&self, level: u8, from: u64, count: usize) -> BoxFuture<'_, Result<Vec<(u64, Hash)>, ReadError>> {
        self.with_reader(move |connection| lookups::hashes(connection, level, from, count))
    }

    fn head(&self) -> BoxFuture<'_, Result<Head, ReadError>> {
        self.with_reader(|connection| lookups::head(connection))
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.next.clone()
    }

    fn stream(&self, name: StreamName) -> BoxFuture<'_, Result<Option<StreamInfo>, ReadError>> {
        self.with_reader(move |connection| lookups::stream(connection, &name))
    }

    fn streams(
        &self,
        after: Option<String>,
        category: Option<Category>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<StreamInfo>, ReadError>> {
        self.with_reader(move |connection| lookups::streams(connection, after.as_deref(), category.as_ref(), limit))
    }

    fn position_at(&self, time: Millis) -> BoxFuture<'_, Result<Option<Position>, ReadError>> {
        self.with_reader(move |connection| lookups::position_at(connection, time))
    }

    fn footprint(
        &self,
        subject: SubjectRef,
        after: Option<(Position, i32)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<FootprintRow>, ReadError>> {
        self.with_reader(move |connection| lookups::footprint(connection, subject, after, limit))
    }

    fn fences(&self, subjects: Vec<SubjectRef>) -> BoxFuture<'_, Result<Fences, ReadError>> {
        self.with_reader(move |connection| rows::fences(connection, subjects).map_err(|e| rows::read_error(&e)))
    }

    fn erasures(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<ErasureRow>, ReadError>> {
        self.with_reader(move |connection| lookups::erasures(connection, after, limit))
    }

    fn erasure_of(&self, request: String) -> BoxFuture<'_, Result<Option<ErasureRow>, ReadError>> {
        self.with_reader(move |connection| lookups::erasure_of(connection, &request))
    }

    fn requests(
        &self,
        status: Option<String>,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<RequestRow>, ReadError>> {
        self.with_reader(move |connection| lookups::requests(connection, status.as_deref(), after.as_deref(), limit))
    }

    fn request_counts(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, ReadError>> {
        self.with_reader(|connection| lookups::request_counts(connection))
    }

    fn access_log(
        &self,
        subject: Option<SubjectRef>,
        before: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AccessRow>, ReadError>> {
        self.with_reader(move |connection| lookups::access_log(connection, subject, before, limit))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            // Readers first: only the last connection to close folds the write-ahead log into the file, and a read-only
            // one cannot.
            self.readers.close().await;
            let (reply, done) = oneshot::channel();
            if self.commands.send(Command::Close(reply)).await.is_ok() {
                let _ = done.await;
            }
        }
        .boxed()
    }
}
