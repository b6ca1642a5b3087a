//! The keystore on PostgreSQL: one schema, in a database of its own.
//!
//! Owns: the task that makes and destroys, its queue, group commit, and the pool that reads. Must not know: events, HTTP.
//! Every request waiting when the task is free joins one transaction, so a burst of appends costs one commit; nobody is
//! answered before it. Several processes may have it open: each is registered, and told what to let go of (`nodes`).

mod destroy;
mod epoch;
mod facts;
mod fetch;
mod grant;
mod nodes;
mod schema;
mod wash;
mod write;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

pub use schema::{MIGRATIONS, SCHEMA};

use crate::clock::{Clock, Millis};
use crate::db::postgres::{Connection, Connector, Deviation, Pool, Target};
use crate::event::{ExternalId, NaturalKey, Purpose, StoreId, SubjectKey, SubjectRef};
use crate::keystore::epoch::{EpochStatus, EpochStep};
use crate::keystore::keyring::Keyring;
use crate::keystore::nodes::{NodeId, Nodes};
use crate::keystore::{
    DekId, DestroyOrder, Destruction, Fetched, Granted, Keystore, KeystoreError, KeystoreOpenError, KeystoreStats,
    Resolved, ServiceKeys, Want, WashReport,
};
use crate::secret::Entropy;
use fetch::Keks;
use grant::Tools;
use nodes::PgNodes;
use write::{Outcome, Work};

/// Requests that may wait; a caller beyond that waits for room.
pub const QUEUE: usize = 1024;
/// Requests that share one transaction at most.
pub const BATCH: usize = 256;
/// The lease of a process until it says its own: the longest that can be configured.
const LONGEST_LEASE: Duration = Duration::from_secs(30);

const UNREACHED: KeystoreOpenError = KeystoreOpenError::Database("this process cannot be registered");
const CLOSED: KeystoreError = KeystoreError::Unavailable { reason: "closed" };

/// The PostgreSQL keystore.
pub struct PostgresKeystore {
    requests: mpsc::Sender<Request>,
    pool: Pool,
    connector: Arc<Connector>,
    shared: Arc<Shared>,
    nodes: PgNodes,
    service: Arc<ServiceKeys>,
}

/// What the task and the readers have in common.
struct Shared {
    tools: Tools,
    keks: Keks,
}

impl PostgresKeystore {
    /// Whether there is a keystore.
    ///
    /// # Errors
    /// [`KeystoreOpenError::Database`] when the database cannot be asked.
    pub async fn exists(target: &Target) -> Result<bool, KeystoreOpenError> {
        let connection = Connector::new(target.clone()).connect_patiently().await?;
        Ok(schema::exists(&connection, target.schema()).await?)
    }

    /// Makes a new keystore and opens it.
    ///
    /// # Errors
    /// [`KeystoreOpenError::Exists`] when there is one; [`KeystoreOpenError::KeyringMismatch`] when the keyring is
    /// another store's.
    pub async fn create(
        target: Target,
        store: StoreId,
        keyring: Arc<Keyring>,
        clock: &Clock,
        entropy: Arc<Entropy>,
        readers: usize,
    ) -> Result<Self, KeystoreOpenError> {
        let connection = Connector::new(target.clone()).connect_patiently().await?;
        schema::create(&connection, target.schema(), store, &keyring, clock.now(), &entropy).await?;
        drop(connection);
        Self::open(target, store, keyring, entropy, readers).await
    }

    /// Opens an existing keystore; one of an older format is brought to the present one.
    ///
    /// # Errors
    /// [`KeystoreOpenError`] says what does not fit; a missing keystore is never made.
    pub async fn open(
        target: Target,
        store: StoreId,
        keyring: Arc<Keyring>,
        entropy: Arc<Entropy>,
        readers: usize,
    ) -> Result<Self, KeystoreOpenError> {
        let schema = target.schema();
        let connector = Connector::new(target);
        let connection = connector.connect_patiently().await?;
        let secrets = schema::open(&connection, schema, store, &keyring).await?;
        connector.warn();
        let node = NodeId(entropy.draw().map_err(|_| KeystoreOpenError::Entropy)?);

        let schema::Secrets { subject_map, natural_key, service } = secrets;
        let tools = Tools { store, node, keyring, entropy, subject_map, natural_key };
        let shared = Arc::new(Shared { tools, keks: Keks::default() });
        let nodes = PgNodes::new(Arc::clone(&connector), Arc::clone(&shared));
        let (requests, inbox) = mpsc::channel(QUEUE);
        let engine = Engine {
            connector: Arc::clone(&connector),
            connection: Some(connection),
            shared: Arc::clone(&shared),
            // What was destroyed before a crash may not have been washed.
            dirty: true,
        };
        // A task of its own: a caller that goes away does not stop a destruction half-way.
        tokio::spawn(engine.run(inbox));
        let pool = Pool::new(Arc::clone(&connector), readers);
        // Nothing is in memory yet. Whoever is one of several says its lease, and asks for renewal, from now on.
        nodes.register(None, LONGEST_LEASE, Millis(0)).await.map_err(|_| UNREACHED)?;
        Ok(Self { requests, pool, connector, shared, nodes, service: Arc::new(service) })
    }

    /// Keys for cursors and idempotency records.
    pub fn service_keys(&self) -> Arc<ServiceKeys> {
        Arc::clone(&self.service)
    }

    /// Settings of the server that are not safe and that the role may not change.
    pub fn deviations(&self) -> &[Deviation] {
        self.connector.deviations()
    }

    async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Request) -> Result<T, KeystoreError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(make(reply)).await.map_err(|_| CLOSED)?;
        answer.await.map_err(|_| CLOSED)?
    }
}

/// Runs a read on a connection of the pool.
macro_rules! reading {
    ($self:ident, $connection:ident => $work:expr) => {
        Box::pin(async move {
            let $connection = $self.pool.lease().await?;
            let found = $work.await;
            $connection.done(found)
        })
    };
}

impl Keystore for PostgresKeystore {
    fn resolve(&self, ids: Vec<ExternalId>) -> BoxFuture<'_, Result<Vec<Resolved>, KeystoreError>> {
        reading!(self, connection => fetch::resolve(&connection, &self.shared.tools, &ids))
    }

    fn resolve_natural(&self, keys: Vec<NaturalKey>) -> BoxFuture<'_, Result<Vec<Resolved>, KeystoreError>> {
        reading!(self, connection => fetch::resolve_natural(&connection, &self.shared.tools, &keys))
    }

    fn ensure(&self, wants: Vec<Want>) -> BoxFuture<'_, Result<Vec<Granted>, KeystoreError>> {
        Box::pin(self.ask(|reply| Request::Ensure(wants, reply)))
    }

    fn fetch(&self, ids: Vec<DekId>) -> BoxFuture<'_, Result<Vec<Fetched>, KeystoreError>> {
        reading!(self, connection => fetch::fetch(&connection, &self.shared.tools, &self.shared.keks, &ids))
    }

    fn external_ids(&self, subjects: Vec<SubjectRef>) -> BoxFuture<'_, Result<Vec<Option<ExternalId>>, KeystoreError>> {
        reading!(self, connection => {
            fetch::external_ids(&connection, &self.shared.tools, &self.shared.keks, &subjects)
        })
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

    fn stats(&self) -> BoxFuture<'_, Result<KeystoreStats, KeystoreError>> {
        reading!(self, connection => fetch::stats(&connection, self.shared.tools.keyring.epoch()))
    }

    fn nodes(&self) -> Option<&dyn Nodes> {
        Some(&self.nodes)
    }

    fn epochs(&self) -> BoxFuture<'_, Result<EpochStatus, KeystoreError>> {
        reading!(self, connection => epoch::status(&connection, &self.shared.tools.keyring))
    }

    fn advance_epoch(&self, step: EpochStep) -> BoxFuture<'_, Result<EpochStatus, KeystoreError>> {
        Box::pin(self.ask(move |reply| Request::Epoch(step, reply)))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.nodes.leave().await;
            // A wash that fails here is repeated by the next start's erasure worker; closing goes on.
            let _ = self.ask(Request::Close).await;
            self.pool.close().await;
        })
    }
}

type Reply<T> = oneshot::Sender<Result<T, KeystoreError>>;

enum Request {
    Ensure(Vec<Want>, Reply<Vec<Granted>>),
    Destroy(DestroyOrder, Reply<Destruction>),
    Reauthorize(SubjectKey, Vec<Purpose>, Reply<Option<SubjectRef>>),
    Epoch(EpochStep, Reply<EpochStatus>),
    Wash(Reply<WashReport>),
    Close(Reply<()>),
}

/// Who waits for the outcome of a piece of work.
enum Waiting {
    Granted(Reply<Vec<Granted>>),
    Reauthorized(Reply<Option<SubjectRef>>),
}

/// Everything the task owns.
struct Engine {
    connector: Arc<Connector>,
    connection: Option<Connection>,
    shared: Arc<Shared>,
    /// Something may have been destroyed since the last wash.
    dirty: bool,
}

impl Engine {
    async fn run(mut self, mut inbox: mpsc::Receiver<Request>) {
        let mut requests = Vec::with_capacity(BATCH);
        while inbox.recv_many(&mut requests, BATCH).await > 0 {
            let (mut work, mut waiting, mut orders) = (Vec::new(), Vec::new(), Vec::new());
            let (mut steps, mut washes, mut closes) = (Vec::new(), Vec::new(), Vec::new());
            for request in requests.drain(..) {
                match request {
                    Request::Ensure(wants, reply) => {
                        work.push(Work::Ensure(wants));
                        waiting.push(Waiting::Granted(reply));
                    }
                    Request::Reauthorize(subject, purposes, reply) => {
                        work.push(Work::Reauthorize(subject, purposes));
                        waiting.push(Waiting::Reauthorized(reply));
                    }
                    Request::Destroy(order, reply) => orders.push((order, reply)),
                    Request::Epoch(step, reply) => steps.push((step, reply)),
                    Request::Wash(reply) => washes.push(reply),
                    Request::Close(reply) => closes.push(reply),
                }
            }
            if !work.is_empty() {
                self.make(&work, waiting).await;
            }
            for (order, reply) in orders {
                let _ = reply.send(self.destroy(&order).await);
            }
            for (step, reply) in steps {
                let _ = reply.send(self.advance_epoch(step).await);
            }
            // After the work: one wash covers every destruction that was waiting before it.
            if !washes.is_empty() || !closes.is_empty() {
                let report = self.wash().await;
                for reply in washes {
                    let _ = reply.send(report.clone());
                }
            }
            if !closes.is_empty() {
                inbox.close();
                self.connection = None;
                for reply in closes {
                    let _ = reply.send(Ok(()));
                }
                return;
            }
        }
    }

    async fn connection(&mut self) -> Result<Connection, KeystoreError> {
        match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => Ok(connection),
            None => Ok(self.connector.connect_patiently().await?),
        }
    }

    async fn make(&mut self, work: &[Work], waiting: Vec<Waiting>) {
        let mut made = self.try_to_make(work).await;
        // Another transaction was in the way, or the connection broke while nobody used it. To find or make again is
        // the same, whether or not it was made.
        if made.is_err() {
            made = self.try_to_make(work).await;
        }
        match made {
            Ok(answers) => {
                for (waiting, answer) in waiting.into_iter().zip(answers) {
                    waiting.answer(answer);
                }
            }
            Err(error) => waiting.into_iter().for_each(|waiting| waiting.answer(Err(error.clone()))),
        }
    }

    async fn try_to_make(&mut self, work: &[Work]) -> Result<write::Answers, KeystoreError> {
        let connection = self.connection().await?;
        let shared = &self.shared;
        // A connection on which something failed is dropped, and its transaction with it.
        let answers = write::make(&connection, &shared.tools, &shared.keks, work).await?;
        self.connection = Some(connection);
        Ok(answers)
    }

    async fn destroy(&mut self, order: &DestroyOrder) -> Result<Destruction, KeystoreError> {
        self.dirty = true;
        let mut tries = 2;
        loop {
            tries -= 1;
            let connection = self.connection().await?;
            match destroy::destroy(&connection, &self.shared.tools, &self.shared.keks, order).await {
                Ok(done) => {
                    self.connection = Some(connection);
                    return Ok(done);
                }
                // An order may be repeated whether or not it was carried out.
                Err(KeystoreError::Unavailable { .. }) if tries > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn advance_epoch(&mut self, step: EpochStep) -> Result<EpochStatus, KeystoreError> {
        let connection = self.connection().await?;
        // A connection on which something failed is dropped, and its transaction with it; the step may be repeated.
        let status = epoch::advance(&connection, &self.shared.tools, &self.shared.keks, step).await?;
        self.connection = Some(connection);
        Ok(status)
    }

    async fn wash(&mut self) -> Result<WashReport, KeystoreError> {
        if !self.dirty {
            return Ok(WashReport { bytes: 0, incomplete: false });
        }
        let connection = self.connection().await?;
        let report = wash::wash(&connection, wash::Tables::Small).await?;
        self.connection = Some(connection);
        self.dirty = report.incomplete;
        Ok(report)
    }
}

impl Waiting {
    /// A caller that went away is no error: its work stays done.
    fn answer(self, answer: Result<Outcome, KeystoreError>) {
        match (self, answer) {
            (Self::Granted(reply), Ok(Outcome::Granted(granted))) => drop(reply.send(Ok(granted))),
            (Self::Reauthorized(reply), Ok(Outcome::Reauthorized(subject))) => drop(reply.send(Ok(subject))),
            (Self::Granted(reply), Err(error)) => drop(reply.send(Err(error))),
            (Self::Reauthorized(reply), Err(error)) => drop(reply.send(Err(error))),
            // Outcomes come in the order of the work, and each kind has its own.
            (Self::Granted(reply), Ok(_)) => drop(reply.send(Err(CLOSED))),
            (Self::Reauthorized(reply), Ok(_)) => drop(reply.send(Err(CLOSED))),
        }
    }
}
