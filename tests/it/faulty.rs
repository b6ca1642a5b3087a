//! An engine that fails on purpose: before or after it has done what it was asked.
//!
//! Owns: `Faulty` and `FaultyLog`, third implementations of the engine traits. *After* is the failure that matters most: the work is
//! durable and the caller is told that it is not known.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use oubliette::clock::Millis;
use oubliette::event::{Category, ExternalId, NaturalKey, Position, Purpose, StreamName, SubjectKey, SubjectRef};
use oubliette::eventlog::{
    AccessRow, Appended, AuditRow, Batch, CommitError, ErasureRow, EventLog, Fences, FootprintRow, Head, Page,
    ReadError, ReadQuery, Refused, RequestRow, StreamInfo,
};
use oubliette::keystore::{
    DekId, DestroyOrder, Destruction, EpochStatus, EpochStep, Fetched, Granted, Keystore, KeystoreError, KeystoreStats,
    Nodes, Resolved, Want, WashReport,
};
use oubliette::merkle::Hash;
use tokio::sync::watch;

/// When a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done.
    Before,
    /// Everything is done and durable; only the answer is lost.
    After,
}

/// How often.
#[derive(Clone, Copy, Debug)]
pub enum Rate {
    /// The next so many calls.
    Next(u32),
    /// One in so many, by the seed.
    OneIn(u64),
}

/// The methods of [`Keystore`] that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Resolve,
    ResolveNatural,
    Ensure,
    Fetch,
    ExternalIds,
    Destroy,
    Wash,
    Reauthorize,
    Stats,
    Epochs,
    AdvanceEpoch,
}

/// A keystore in front of a real one.
pub struct Faulty {
    inner: Arc<dyn Keystore>,
    plan: Mutex<Plan<Method>>,
}

struct Plan<M> {
    faults: HashMap<M, (Fault, Rate)>,
    random: u64,
    failed: u64,
    calls: HashMap<M, u64>,
}

impl<M: std::hash::Hash + Eq + Copy> Plan<M> {
    fn new(seed: u64) -> Mutex<Self> {
        Mutex::new(Self { faults: HashMap::new(), random: seed | 1, failed: 0, calls: HashMap::new() })
    }

    fn fault(&mut self, method: &M) -> Option<Fault> {
        *self.calls.entry(*method).or_default() += 1;
        // xorshift64: the same seed gives the same faults.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let random = self.random;
        let (fault, rate) = self.faults.get_mut(method)?;
        let (fault, hit) = match rate {
            Rate::Next(0) => (*fault, false),
            Rate::Next(left) => {
                *left -= 1;
                (*fault, true)
            }
            Rate::OneIn(n) => (*fault, random.is_multiple_of(*n)),
        };
        self.failed += u64::from(hit);
        hit.then_some(fault)
    }
}

impl Faulty {
    /// Without faults until told; `seed` decides [`Rate::OneIn`].
    pub fn new(inner: Arc<dyn Keystore>, seed: u64) -> Self {
        Self { inner, plan: Plan::new(seed) }
    }

    /// Makes calls of `method` fail.
    pub fn fail(&self, method: Method, fault: Fault, rate: Rate) {
        self.plan.lock().unwrap().faults.insert(method, (fault, rate));
    }

    /// Takes all faults back.
    pub fn heal(&self) {
        self.plan.lock().unwrap().faults.clear();
    }

    /// How many calls have failed.
    pub fn failed(&self) -> u64 {
        self.plan.lock().unwrap().failed
    }

    /// How often a method was called.
    pub fn calls(&self, method: Method) -> u64 {
        self.plan.lock().unwrap().calls.get(&method).copied().unwrap_or_default()
    }

    async fn call<T>(&self, method: Method, work: BoxFuture<'_, Result<T, KeystoreError>>) -> Result<T, KeystoreError> {
        let lost = KeystoreError::Unavailable { reason: "injected" };
        let fault = self.plan.lock().unwrap().fault(&method);
        match fault {
            None => work.await,
            Some(Fault::Before) => Err(lost),
            Some(Fault::After) => work.await.and(Err(lost)),
        }
    }
}

impl Keystore for Faulty {
    fn resolve(&self, ids: Vec<ExternalId>) -> BoxFuture<'_, Result<Vec<Resolved>, KeystoreError>> {
        Box::pin(self.call(Method::Resolve, self.inner.resolve(ids)))
    }

    fn resolve_natural(&self, keys: Vec<NaturalKey>) -> BoxFuture<'_, Result<Vec<Resolved>, KeystoreError>> {
        Box::pin(self.call(Method::ResolveNatural, self.inner.resolve_natural(keys)))
    }

    fn ensure(&self, wants: Vec<Want>) -> BoxFuture<'_, Result<Vec<Granted>, KeystoreError>> {
        Box::pin(self.call(Method::Ensure, self.inner.ensure(wants)))
    }

    fn fetch(&self, ids: Vec<DekId>) -> BoxFuture<'_, Result<Vec<Fetched>, KeystoreError>> {
        Box::pin(self.call(Method::Fetch, self.inner.fetch(ids)))
    }

    fn external_ids(&self, subjects: Vec<SubjectRef>) -> BoxFuture<'_, Result<Vec<Option<ExternalId>>, KeystoreError>> {
        Box::pin(self.call(Method::ExternalIds, self.inner.external_ids(subjects)))
    }

    fn destroy(&self, order: DestroyOrder) -> BoxFuture<'_, Result<Destruction, KeystoreError>> {
        Box::pin(self.call(Method::Destroy, self.inner.destroy(order)))
    }

    fn wash(&self) -> BoxFuture<'_, Result<WashReport, KeystoreError>> {
        Box::pin(self.call(Method::Wash, self.inner.wash()))
    }

    fn reauthorize(
        &self,
        subject: SubjectKey,
        purposes: Vec<Purpose>,
    ) -> BoxFuture<'_, Result<Option<SubjectRef>, KeystoreError>> {
        Box::pin(self.call(Method::Reauthorize, self.inner.reauthorize(subject, purposes)))
    }

    fn stats(&self) -> BoxFuture<'_, Result<KeystoreStats, KeystoreError>> {
        Box::pin(self.call(Method::Stats, self.inner.stats()))
    }

    fn nodes(&self) -> Option<&dyn Nodes> {
        self.inner.nodes()
    }

    fn epochs(&self) -> BoxFuture<'_, Result<EpochStatus, KeystoreError>> {
        Box::pin(self.call(Method::Epochs, self.inner.epochs()))
    }

    fn advance_epoch(&self, step: EpochStep) -> BoxFuture<'_, Result<EpochStatus, KeystoreError>> {
        Box::pin(self.call(Method::AdvanceEpoch, self.inner.advance_epoch(step)))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}

/// What of an [`EventLog`] can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Side {
    Commits,
    Reads,
}

/// An event log in front of a real one.
pub struct FaultyLog {
    inner: Arc<dyn EventLog>,
    plan: Mutex<Plan<Side>>,
}

impl FaultyLog {
    /// Without faults until told; `seed` decides [`Rate::OneIn`].
    pub fn new(inner: Arc<dyn EventLog>, seed: u64) -> Self {
        Self { inner, plan: Plan::new(seed) }
    }

    /// Makes commits fail: before as unavailable, after as indeterminate.
    pub fn fail_commits(&self, fault: Fault, rate: Rate) {
        self.plan.lock().unwrap().faults.insert(Side::Commits, (fault, rate));
    }

    /// Makes reads of any kind fail.
    pub fn fail_reads(&self, rate: Rate) {
        self.plan.lock().unwrap().faults.insert(Side::Reads, (Fault::Before, rate));
    }

    /// Takes all faults back.
    pub fn heal(&self) {
        self.plan.lock().unwrap().faults.clear();
    }

    /// How many calls have failed.
    pub fn failed(&self) -> u64 {
        self.plan.lock().unwrap().failed
    }

    fn fault(&self, side: Side) -> Option<Fault> {
        self.plan.lock().unwrap().fault(&side)
    }

    fn reading<'a, T: Send + 'a>(
        &'a self,
        work: BoxFuture<'a, Result<T, ReadError>>,
    ) -> BoxFuture<'a, Result<T, ReadError>> {
        Box::pin(async move {
            match self.fault(Side::Reads) {
                None => work.await,
                Some(_) => Err(ReadError::Unavailable { reason: "injected" }),
            }
        })
    }
}

impl EventLog for FaultyLog {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Result<Appended, Refused>>, CommitError>> {
        Box::pin(async move {
            match self.fault(Side::Commits) {
                None => self.inner.commit(batch).await,
                Some(Fault::Before) => Err(CommitError::Unavailable { reason: "injected" }),
                Some(Fault::After) => self.inner.commit(batch).await.and(Err(CommitError::Indeterminate)),
            }
        })
    }

    fn read(&self, query: ReadQuery) -> BoxFuture<'_, Result<Page, ReadError>> {
        self.reading(self.inner.read(query))
    }

    fn audit_rows(&self, from: Position, limit: usize) -> BoxFuture<'_, Result<Vec<AuditRow>, ReadError>> {
        self.reading(self.inner.audit_rows(from, limit))
    }

    fn hashes(&self, level: u8, from: u64, count: usize) -> BoxFuture<'_, Result<Vec<(u64, Hash)>, ReadError>> {
        self.reading(self.inner.hashes(level, from, count))
    }

    fn head(&self) -> BoxFuture<'_, Result<Head, ReadError>> {
        self.reading(self.inner.head())
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.inner.watch()
    }

    fn stream(&self, name: StreamName) -> BoxFuture<'_, Result<Option<StreamInfo>, ReadError>> {
        self.reading(self.inner.stream(name))
    }

    fn streams(
        &self,
        after: Option<String>,
        category: Option<Category>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<StreamInfo>, ReadError>> {
        self.reading(self.inner.streams(after, category, limit))
    }

    fn position_at(&self, time: Millis) -> BoxFuture<'_, Result<Option<Position>, ReadError>> {
        self.reading(self.inner.position_at(time))
    }

    fn footprint(
        &self,
        subject: SubjectRef,
        after: Option<(Position, i32)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<FootprintRow>, ReadError>> {
        self.reading(self.inner.footprint(subject, after, limit))
    }

    fn fences(&self, subjects: Vec<SubjectRef>) -> BoxFuture<'_, Result<Fences, ReadError>> {
        self.reading(self.inner.fences(subjects))
    }

    fn erasures(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<ErasureRow>, ReadError>> {
        self.reading(self.inner.erasures(after, limit))
    }

    fn erasure_of(&self, request: String) -> BoxFuture<'_, Result<Option<ErasureRow>, ReadError>> {
        self.reading(self.inner.erasure_of(request))
    }

    fn requests(
        &self,
        status: Option<String>,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<RequestRow>, ReadError>> {
        self.reading(self.inner.requests(status, after, limit))
    }

    fn request_counts(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, ReadError>> {
        self.reading(self.inner.request_counts())
    }

    fn access_log(
        &self,
        subject: Option<SubjectRef>,
        before: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AccessRow>, ReadError>> {
        self.reading(self.inner.access_log(subject, before, limit))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}
