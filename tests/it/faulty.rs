//! An engine that fails on purpose: before or after it has done what it was asked.
//!
//! Owns: `Faulty`, a third implementation of the engine traits. *After* is the failure that matters most: the work is
//! durable and the caller is told that it is not known.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use oubliette::event::{ExternalId, Purpose, SubjectKey, SubjectRef};
use oubliette::keystore::{
    DekId, DestroyOrder, Destruction, Fetched, Granted, Keystore, KeystoreError, KeystoreStats, Resolved, Want,
    WashReport,
};

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
    Ensure,
    Fetch,
    ExternalIds,
    Destroy,
    Wash,
    Reauthorize,
    Stats,
}

/// A keystore in front of a real one.
pub struct Faulty {
    inner: Arc<dyn Keystore>,
    plan: Mutex<Plan>,
}

struct Plan {
    faults: HashMap<Method, (Fault, Rate)>,
    random: u64,
    failed: u64,
    calls: HashMap<Method, u64>,
}

impl Faulty {
    /// Without faults until told; `seed` decides [`Rate::OneIn`].
    pub fn new(inner: Arc<dyn Keystore>, seed: u64) -> Self {
        Self {
            inner,
            plan: Mutex::new(Plan { faults: HashMap::new(), random: seed | 1, failed: 0, calls: HashMap::new() }),
        }
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

    fn fault(&self, method: Method) -> Option<Fault> {
        let mut plan = self.plan.lock().unwrap();
        *plan.calls.entry(method).or_default() += 1;
        // xorshift64: the same seed gives the same faults.
        plan.random ^= plan.random << 13;
        plan.random ^= plan.random >> 7;
        plan.random ^= plan.random << 17;
        let random = plan.random;
        let (fault, rate) = plan.faults.get_mut(&method)?;
        let (fault, hit) = match rate {
            Rate::Next(0) => (*fault, false),
            Rate::Next(left) => {
                *left -= 1;
                (*fault, true)
            }
            Rate::OneIn(n) => (*fault, random.is_multiple_of(*n)),
        };
        plan.failed += u64::from(hit);
        hit.then_some(fault)
    }

    async fn call<T>(&self, method: Method, work: BoxFuture<'_, Result<T, KeystoreError>>) -> Result<T, KeystoreError> {
        let lost = KeystoreError::Unavailable { reason: "injected" };
        match self.fault(method) {
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

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}
