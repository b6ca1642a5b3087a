//! The embedded keystore: one SQLite file, one thread, one connection.
//!
//! Owns: the thread and its queue, group commit, and the engine's constructors. Must not know: events, HTTP. Every
//! request waiting when the thread is free joins one transaction, each in its own savepoint, so a burst of appends costs
//! one fsync; nobody is answered before that commit. The file is locked exclusively: a second process is refused.

mod copy;
mod destroy;
mod ensure;
mod epoch;
mod natural;
mod schema;
mod wash;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use futures_util::future::BoxFuture;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use crate::clock::{Clock, Millis};
use crate::crash;
use crate::event::{ExternalId, NaturalKey, Purpose, StoreId, SubjectKey, SubjectRef};
use crate::keystore::epoch::{EpochStatus, EpochStep};
use crate::keystore::keyring::Keyring;
pub use crate::keystore::opening::{KeystoreOpenError, ServiceKeys};
use crate::keystore::records::Kek;
use crate::keystore::{
    Dek, DekId, DestroyOrder, Destruction, Fetched, Granted, Keystore, KeystoreError, KeystoreStats, Resolved, Want,
    WashReport,
};
use crate::secret::Entropy;

/// Requests that may wait; a caller beyond that waits for room.
pub const QUEUE: usize = 1024;
/// Requests that share one transaction at most.
pub const BATCH: usize = 256;

/// The embedded keystore. Dropping it without [`Keystore::close`] is safe, but leaves the wash to the next one.
pub struct SqliteKeystore {
    /// `None` only while being dropped.
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    service: Arc<ServiceKeys>,
}

impl SqliteKeystore {
    /// Makes a new keystore at `path` (its directory must exist) and opens it.
    ///
    /// # Errors
    /// [`KeystoreOpenError::Exists`] when there is one; [`KeystoreOpenError::KeyringMismatch`] when the keyring is
    /// another store's.
    pub fn create(
        path: &Path,
        store: StoreId,
        keyring: Arc<Keyring>,
        clock: &Clock,
        entropy: Arc<Entropy>,
    ) -> Result<Self, KeystoreOpenError> {
        let opened = schema::create(path, store, &keyring, clock.now(), &entropy)?;
        Self::start(path, store, keyring, entropy, opened)
    }

    /// Opens an existing keystore; one of an older format is brought to the present one, in one transaction.
    ///
    /// # Errors
    /// [`KeystoreOpenError`] says what does not fit; a missing keystore is never made.
    pub fn open(
        path: &Path,
        store: StoreId,
        keyring: Arc<Keyring>,
        entropy: Arc<Entropy>,
    ) -> Result<Self, KeystoreOpenError> {
        let opened = schema::open(path, store, &keyring, &entropy)?;
        Self::start(path, store, keyring, entropy, opened)
    }

    /// Keys for cursors and idempotency records.
    pub fn service_keys(&self) -> Arc<ServiceKeys> {
        Arc::clone(&self.service)
    }

    fn start(
        path: &Path,
        store: StoreId,
        keyring: Arc<Keyring>,
        entropy: Arc<Entropy>,
        opened: schema::Opened,
    ) -> Result<Self, KeystoreOpenError> {
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        let engine = Engine {
            counts: Cell::new(wash::count(&opened.conn, keyring.epoch())?),
            conn: opened.conn,
            wal: wal.into(),
            store,
            keyring,
            entropy,
            subject_map: opened.subject_map,
            natural_key: opened.natural_key,
            keks: RefCell::default(),
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("keystore".into())
            .spawn(move || engine.run(receiver))
            .map_err(|error| KeystoreOpenError::Io(error.kind()))?;
        Ok(Self { requests: Some(sender), thread: Some(thread), service: Arc::new(opened.service) })
    }

    async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Request) -> Result<T, KeystoreError> {
        let closed = KeystoreError::Unavailable { reason: "closed" };
        let (reply, answer) = oneshot::channel();
        self.requests.as_ref().ok_or(closed.clone())?.send(make(reply)).await.map_err(|_| closed.clone())?;
        answer.await.map_err(|_| closed)?
    }
}

impl Drop for SqliteKeystore {
    /// Waits for the thread, so that the file's lock is free when the owner is gone.
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Keystore for SqliteKeystore {
    fn resolve(&self, ids: Vec<ExternalId>) -> BoxFuture<'_, Result<Vec<Resolved>, KeystoreError>> {
        Box::pin(self.ask(|reply| Request::Resolve(ids, reply)))
    }

    fn resolve_natural(&self, keys: Vec<NaturalKey>) -> BoxFuture<'_, Result<Vec<Resolved>, KeystoreError>> {
        Box::pin(self.ask(|reply| Request::ResolveNatural(keys, reply)))
    }

    fn ensure(&self, wants: Vec<Want>) -> BoxFuture<'_, Result<Vec<Granted>, KeystoreError>> {
        Box::pin(self.ask(|reply| Request::Ensure(wants, reply)))
    }

    fn fetch(&self, ids: Vec<DekId>) -> BoxFuture<'_, Result<Vec<Fetched>, KeystoreError>> {
        Box::pin(self.ask(|reply| Request::Fetch(ids, reply)))
    }

    fn external_ids(&self, subjects: Vec<SubjectRef>) -> BoxFuture<'_, Result<Vec<Option<ExternalId>>, KeystoreError>> {
        Box::pin(self.ask(|reply| Request::ExternalIds(subjects, reply)))
    }

    fn destroy(&self, order: DestroyOrder) -> BoxFuture<'_, Result<Destruction, KeystoreError>> {
        Box::pin(self.ask(|reply| Request::Destroy(order, reply)))
    }

    fn wash(&self) -> BoxFuture<'_, Result<WashReport, KeystoreError>> {
        Box::pin(self.ask(Request::Wash))
    }

    fn reauthorize(
        &self,
        subject: SubjectKey,
        purposes: Vec<Purpose>,
    ) -> BoxFuture<'_, Result<Option<SubjectRef>, KeystoreError>> {
        Box::pin(self.ask(|reply| Request::Reauthorize(subject, purposes, reply)))
    }

    fn copy(&self, to: PathBuf) -> BoxFuture<'_, Result<(), KeystoreError>> {
        Box::pin(self.ask(|reply| Request::Copy(to, reply)))
    }

    fn stats(&self) -> BoxFuture<'_, Result<KeystoreStats, KeystoreError>> {
        Box::pin(self.ask(Request::Stats))
    }

    fn epochs(&self) -> BoxFuture<'_, Result<EpochStatus, KeystoreError>> {
        Box::pin(self.ask(Request::Epochs))
    }

    fn advance_epoch(&self, step: EpochStep) -> BoxFuture<'_, Result<EpochStatus, KeystoreError>> {
        Box::pin(self.ask(move |reply| Request::Epoch(step, reply)))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // A wash that fails here is repeated by the next start's erasure worker; closing goes on.
            let _ = self.ask(Request::Close).await;
        })
    }
}

type Reply<T> = oneshot::Sender<Result<T, KeystoreError>>;

enum Request {
    Resolve(Vec<ExternalId>, Reply<Vec<Resolved>>),
    ResolveNatural(Vec<NaturalKey>, Reply<Vec<Resolved>>),
    Ensure(Vec<Want>, Reply<Vec<Granted>>),
    Fetch(Vec<DekId>, Reply<Vec<Fetched>>),
    ExternalIds(Vec<SubjectRef>, Reply<Vec<Option<ExternalId>>>),
    Destroy(DestroyOrder, Reply<Destruction>),
    Reauthorize(SubjectKey, Vec<Purpose>, Reply<Option<SubjectRef>>),
    Stats(Reply<KeystoreStats>),
    Epochs(Reply<EpochStatus>),
    Epoch(EpochStep, Reply<EpochStatus>),
    Wash(Reply<WashReport>),
    Copy(PathBuf, Reply<()>),
    Close(Reply<()>),
}

impl Request {
    fn writes(&self) -> bool {
        matches!(self, Self::Ensure(..) | Self::Destroy(..) | Self::Reauthorize(..) | Self::Epoch(..))
    }
}

/// Answers one caller once the commit's outcome is known.
type Finish = Box<dyn FnOnce(Result<(), KeystoreError>)>;

fn finish<T: 'static>(reply: Reply<T>, result: Result<T, KeystoreError>) -> Finish {
    // A caller that went away is no error: its work stays done.
    Box::new(move |committed| drop(reply.send(committed.and(result))))
}

/// Everything the thread owns.
struct Engine {
    conn: Connection,
    wal: PathBuf,
    store: StoreId,
    keyring: Arc<Keyring>,
    entropy: Arc<Entropy>,
    subject_map: Dek,
    natural_key: Dek,
    /// Emptied whenever a transaction is undone: it may have held a shard key that was never committed.
    keks: RefCell<HashMap<u8, Arc<Kek>>>,
    counts: Cell<KeystoreStats>,
}

impl Engine {
    fn run(self, mut requests: mpsc::Receiver<Request>) {
        let mut waiting = Vec::with_capacity(BATCH);
        loop {
            if waiting.is_empty() && requests.blocking_recv_many(&mut waiting, BATCH) == 0 {
                return;
            }
            let (mut washes, mut closes, mut copies, mut work) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            let mut alone = Vec::new();
            for request in waiting.drain(..) {
                match request {
                    Request::Epoch(step @ (EpochStep::Finish { .. } | EpochStep::DestroyRoot { .. }), reply) => {
                        alone.push((step, reply));
                    }
                    Request::Wash(reply) => washes.push(reply),
                    Request::Close(reply) => closes.push(reply),
                    Request::Copy(to, reply) => copies.push((to, reply)),
                    other => work.push(other),
                }
            }
            if !work.is_empty() {
                self.batch(work);
            }
            for (step, reply) in alone {
                drop(reply.send(self.epoch_step_alone(step)));
            }
            for (to, reply) in copies {
                let copied = self.copy_while_working(&to, &mut requests, &mut waiting);
                drop(reply.send(copied));
            }
            // After the batch: one wash covers every destruction that was waiting before it.
            if !washes.is_empty() || !closes.is_empty() {
                let report = self.wash();
                for reply in washes {
                    drop(reply.send(report.clone()));
                }
                if !closes.is_empty() {
                    requests.close();
                    let closed = self.conn.close().map_err(|(_, error)| error.into());
                    for reply in closes {
                        drop(reply.send(closed.clone()));
                    }
                    return;
                }
            }
        }
    }

    /// One transaction for all of `work`. Crash points are passed only by batches that could lose something.
    fn batch(&self, work: Vec<Request>) {
        let ensures = work.iter().any(|request| matches!(request, Request::Ensure(..)));
        let destroys = work.iter().any(|request| matches!(request, Request::Destroy(..)));
        let epoch = work.iter().any(|request| matches!(request, Request::Epoch(..)));
        let before = self.counts.get();
        let begin = if work.iter().any(Request::writes) { "begin immediate" } else { "begin" };
        let begun = self.conn.execute_batch(begin).map_err(KeystoreError::from);
        let mut finishes = Vec::with_capacity(work.len());
        for request in work {
            finishes.push(self.perform(request, &begun));
        }
        let committed = begun.and_then(|()| {
            if ensures {
                crash::point("keys.before-commit");
            }
            if destroys {
                crash::point("destroy.before-commit");
            }
            if epoch {
                crash::point("epoch.before-commit");
            }
            self.conn.execute_batch("commit").map_err(KeystoreError::from)
        });
        if committed.is_err() {
            self.forget_uncommitted(before);
        } else {
            if ensures {
                crash::point("keys.after-commit");
            }
            if destroys {
                crash::point("destroy.after-commit");
            }
            if epoch {
                crash::point("epoch.after-commit");
            }
        }
        for finish in finishes {
            finish(committed.clone());
        }
    }

    fn perform(&self, request: Request, begun: &Result<(), KeystoreError>) -> Finish {
        macro_rules! answer {
            ($reply:expr, $work:expr) => {
                finish($reply, begun.clone().and_then(|()| $work))
            };
        }
        match request {
            Request::Resolve(ids, reply) => answer!(reply, self.resolve(&ids)),
            Request::ResolveNatural(keys, reply) => answer!(reply, self.resolve_natural(&keys)),
            Request::Ensure(wants, reply) => answer!(reply, self.apart(|| self.ensure(&wants))),
            Request::Fetch(ids, reply) => answer!(reply, self.fetch(ids)),
            Request::ExternalIds(subjects, reply) => answer!(reply, self.external_ids(&subjects)),
            Request::Destroy(order, reply) => answer!(reply, self.apart(|| self.destroy(&order))),
            Request::Reauthorize(subject, purposes, reply) => {
                answer!(reply, self.apart(|| self.reauthorize(&subject, &purposes)))
            }
            Request::Stats(reply) => answer!(reply, Ok(self.counts.get())),
            Request::Epochs(reply) => answer!(reply, self.epochs()),
            Request::Epoch(step, reply) => answer!(reply, self.apart(|| self.epoch_step(step))),
            Request::Wash(reply) => answer!(reply, self.wash()),
            // Not among the work of a batch.
            Request::Copy(_, reply) | Request::Close(reply) => answer!(reply, Ok(())),
        }
    }

    /// Runs `work` in a savepoint: what fails leaves nothing behind and does not fail its neighbours.
    fn apart<T>(&self, work: impl FnOnce() -> Result<T, KeystoreError>) -> Result<T, KeystoreError> {
        // A full disk can make SQLite undo the whole transaction by itself. A savepoint would then begin one of its own
        // and commit it, while everybody in this batch is told that nothing happened.
        if self.conn.is_autocommit() {
            return Err(KeystoreError::Unavailable { reason: "the transaction was undone" });
        }
        let before = self.counts.get();
        self.conn.prepare_cached("savepoint request")?.execute([])?;
        let result = work();
        if result.is_err() {
            // If SQLite has undone the whole transaction itself, this fails, and so will the commit.
            let _ = self.conn.execute_batch("rollback to request");
            self.counts.set(before);
            self.keks.borrow_mut().clear();
        }
        if self.conn.is_autocommit() {
            return Err(KeystoreError::Unavailable { reason: "the transaction was undone" });
        }
        self.conn.prepare_cached("release request")?.execute([])?;
        result
    }

    fn forget_uncommitted(&self, before: KeystoreStats) {
        if !self.conn.is_autocommit() {
            let _ = self.conn.execute_batch("rollback");
        }
        self.counts.set(before);
        self.keks.borrow_mut().clear();
    }

    fn tally(&self, change: impl FnOnce(&mut KeystoreStats)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }
}

/// The time in a row.
fn millis(value: i64) -> Millis {
    Millis(value)
}

/// The fact behind SQLite's error, without its text, which could quote a value.
impl From<rusqlite::Error> for KeystoreError {
    fn from(error: rusqlite::Error) -> Self {
        let reason = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                return Self::Corrupt { table: "(file)", column: "(page)" };
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "the database is locked",
            Some(ErrorCode::DiskFull) => "the disk is full",
            Some(ErrorCode::SystemIoFailure) => "input or output failed",
            Some(ErrorCode::ReadOnly) => "the file is read-only",
            Some(ErrorCode::OutOfMemory) => "out of memory",
            Some(_) => "the database refused a statement",
            None => return Self::Corrupt { table: "(row)", column: "(type)" },
        };
        Self::Unavailable { reason }
    }
}
