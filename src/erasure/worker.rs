//! The saga after the fence: destroy, evict, wash, verify, complete (F2 to F7).
//!
//! Owns: the destruction of keys (start-up recovery repeats what was done here before). Every step is idempotent and its
//! end is an event, so a crash anywhere resumes by folding the stream. The erasure record is the queue: entries are taken
//! strictly in its order, because the keystore remembers only the last one it applied; those that wait are destroyed
//! together and share one wash. A step that fails is retried with growing pauses; nothing is reported as done that is not.
//! Where several processes run, one of them works at a time; two that both believe so do each other no harm.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::certificate::Statement;
use super::preview::walk;
use super::release::{self, Departing};
use super::requests::{ForgetError, Requests};
use super::{DestroyedKeyRecord, Fact, Request, Status, Verification, next};
use crate::clock::Boottime;
use crate::crash;
use crate::event::{ExpectedRevision, Purpose, Revision, StoreId, SubjectRef};
use crate::eventlog::{Effect, ErasureRow, EventLog};
use crate::keystore::keyring::{Keyring, KeyringError};
use crate::keystore::nodes::Duty;
use crate::keystore::{Dek, DekId, DestroyOrder, Destruction, Fetched, Keystore, KeystoreError, Scope};
use crate::sealing::{self, envelope};

/// Between two looks at the erasure record, and at who leads, where other processes add to it.
const LOOK: Duration = Duration::from_millis(50);
/// How long nothing happening is believed.
const IDLE: Duration = Duration::from_secs(2);
/// Most requests that share one wash.
const MOST_TOGETHER: usize = 64;
/// First and longest pause before a retry.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// The worker.
pub struct Worker {
    requests: Requests,
    keyring: Arc<Keyring>,
    store: StoreId,
    wake: Arc<Notify>,
    progress: watch::Sender<u64>,
    /// Every entry of the erasure record up to this one is complete.
    complete: u64,
    /// Whether the work was this process's, and when that was asked.
    leading: Option<(bool, Boottime)>,
    /// Processes that did not answer here.
    departing: Departing,
}

/// A request whose keys are being destroyed.
struct Open {
    request: Request,
    revision: Revision,
    row: ErasureRow,
}

impl Worker {
    /// A worker that looks at the erasure record when it is woken and ticks `progress`.
    pub fn new(
        requests: Requests,
        keyring: Arc<Keyring>,
        store: StoreId,
        wake: Arc<Notify>,
        progress: watch::Sender<u64>,
    ) -> Self {
        Self { requests, keyring, store, wake, progress, complete: 0, leading: None, departing: Departing::default() }
    }

    /// Works until the task is stopped, which may happen anywhere.
    pub async fn run(mut self) {
        // While the log is behind nothing is taken further: what it says may not be how it was.
        while !self.requests.appender.is_level() {
            self.wake.notified().await;
        }
        let mut pause = PAUSES.0;
        loop {
            if let Some(nodes) = self.requests.keys.keystore().nodes() {
                self.departing.dismiss(nodes).await;
            }
            if !self.leads().await {
                self.something().await;
                self.progress.send_modify(|tick| *tick += 1);
                continue;
            }
            let finished = match self.open().await {
                Ok(open) if open.is_empty() => {
                    self.something().await;
                    continue;
                }
                Ok(open) => self.advance(open).await,
                Err(error) => {
                    tracing::error!(error = %error, "the erasure record cannot be read; trying again");
                    false
                }
            };
            self.progress.send_modify(|tick| *tick += 1);
            if finished {
                pause = PAUSES.0;
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }

    /// Whether the work is this process's.
    async fn leads(&mut self) -> bool {
        let Some(nodes) = self.requests.keys.keystore().nodes() else { return true };
        let now = Boottime::now();
        if let Some((leading, asked)) = self.leading
            && now.since(asked) < IDLE / 2
        {
            return leading;
        }
        // Nobody destroys anything while the keystore cannot be reached; the attempt says so.
        let leading = nodes.lead(Duty::Erasure).await.unwrap_or(true);
        self.leading = Some((leading, now));
        leading
    }

    /// Returns when there may be something to do: told so here, or, where there are other processes, by the log.
    async fn something(&self) {
        if self.requests.keys.keystore().nodes().is_none() {
            return self.wake.notified().await;
        }
        let mut head = self.requests.log.watch();
        head.borrow_and_update();
        tokio::select! {
            () = self.wake.notified() => {}
            _ = head.changed() => tokio::time::sleep(LOOK).await,
            () = tokio::time::sleep(IDLE) => {}
        }
    }

    /// Takes requests as far as they go; whether all of them are complete.
    async fn advance(&mut self, mut open: Vec<Open>) -> bool {
        if let Err(error) = self.destroy_together(&mut open).await {
            tracing::error!(error = %error, requests = open.len(), "keys cannot be destroyed; trying again");
            return false;
        }
        let mut finished = true;
        for item in open {
            let id = item.request.id.clone();
            match self.verify_and_complete(item).await {
                Ok(Status::Completed) => tracing::info!(request = %id, "erasure completed"),
                Ok(_) => finished = false,
                Err(error) => {
                    tracing::error!(error = %error, request = %id, "an erasure cannot be completed; trying again");
                    finished = false;
                }
            }
        }
        finished
    }

    /// The first entries of the erasure record that are not complete, in its order.
    async fn open(&mut self) -> Result<Vec<Open>, ForgetError> {
        let mut open = Vec::new();
        let mut from = self.complete;
        while open.len() < MOST_TOGETHER {
            let rows = self.requests.log.erasures(from, MOST_TOGETHER).await?;
            let Some(last) = rows.last() else { break };
            from = last.number;
            for row in rows {
                if row.completed.is_some() {
                    // Contiguous only: an entry behind one that is stuck is looked at again.
                    self.complete += u64::from(row.number == self.complete + 1);
                    continue;
                }
                match self.requests.load(&row.request).await {
                    Ok(Some((request, revision))) => open.push(Open { request, revision, row }),
                    // Its fence holds; the others must not wait for somebody to mend it.
                    Ok(None) | Err(ForgetError::Corrupt) => {
                        tracing::error!(erasure = row.number, "a forget request cannot be read; it is left out");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(open)
    }

    /// F2 to F4 for all of them: destroy each, let go of caches and answers in flight, wash once, witness, say so.
    async fn destroy_together(&mut self, open: &mut [Open]) -> Result<(), ForgetError> {
        let mut destroyed = Vec::new();
        for item in open.iter().filter(|item| item.request.status != Status::Verifying) {
            destroyed.push(self.destroy(&item.request, item.row.number).await?);
        }
        if destroyed.is_empty() {
            return Ok(());
        }
        let released = open.iter().map(|item| self.requests.leases.revoke(item.request.subject));
        futures_util::future::join_all(released).await;
        crash::point("forget.after-evict");
        let released = match self.requests.keys.keystore().nodes() {
            Some(nodes) => {
                let last = destroyed.iter().map(|destruction| destruction.revocation).max().unwrap_or_default();
                release::everywhere(nodes, last, Boottime::now(), &mut self.departing).await?
            }
            None => Vec::new(),
        };
        crash::point("forget.after-release");
        let washed = self.requests.keys.keystore().wash().await?;
        let mut destroyed = destroyed.into_iter();
        for item in open.iter_mut().filter(|item| item.request.status != Status::Verifying) {
            witness(&self.keyring, &item.row)?;
            let Some(destruction) = destroyed.next() else { return Err(ForgetError::Corrupt) };
            let fact = Fact::KeysDestroyed {
                erasure: item.row.number,
                keys: destruction.keys.iter().map(key_record).collect(),
                external_id_removed: destruction.external_id_removed,
                washed_bytes: washed.bytes,
                wash_incomplete: washed.incomplete,
                nodes: released.clone(),
            };
            crash::point("forget.before-destroyed-event");
            self.step(item, fact, Vec::new()).await?;
            crash::point("forget.after-destroyed-event");
        }
        Ok(())
    }

    async fn destroy(&self, request: &Request, number: u64) -> Result<Destruction, ForgetError> {
        crash::point("forget.before-destroy");
        let scope = scope_of(request.purposes.clone());
        let fenced = self.fenced_generations(request.subject, request.purposes.as_deref()).await?;
        let order = DestroyOrder {
            subject: request.subject,
            scope: scope.clone(),
            fenced: fenced.into_iter().flatten().collect(),
            erasure: number,
            at: self.requests.clock.now(),
        };
        let destruction = self.requests.keys.keystore().destroy(order).await?;
        self.requests.keys.evict(request.subject, &scope);
        Ok(destruction)
    }

    async fn verify_and_complete(&self, mut item: Open) -> Result<Status, ForgetError> {
        let verification = self.verify(&item.request).await?;
        crash::point("forget.after-verify");
        if verification.opened > 0 {
            tracing::error!(request = %item.request.id, opened = verification.opened, "an erased slot still opens");
            self.step(&mut item, Fact::ErasureFailed { verification }, Vec::new()).await?;
            return Ok(Status::Failed);
        }
        let done = vec![Effect::Completed { request: item.request.id.clone() }];
        let statement = Statement::of(&item.request, item.row.fenced, verification, &self.store, self.requests.horizon);
        let statement = Some(Box::new(statement.ok_or(ForgetError::Corrupt)?));
        self.step(&mut item, Fact::ErasureCompleted { verification, statement }, done).await?;
        crash::point("forget.after-completion");
        Ok(Status::Completed)
    }

    async fn step(&self, item: &mut Open, fact: Fact, effects: Vec<Effect>) -> Result<(), ForgetError> {
        let id = item.request.id.clone();
        item.request = next(&id, Some(item.request.clone()), &fact, self.requests.clock.now())?;
        self.requests.step(&item.request, ExpectedRevision::Exact(item.revision), &[fact], effects).await?;
        item.revision = Revision(item.revision.0 + 1);
        Ok(())
    }

    /// F6: tries to open every slot of the person in the scope, with whatever keys the keystore still gives. Nothing is
    /// taken from a cache, and no fence is consulted.
    async fn verify(&self, request: &Request) -> Result<Verification, ForgetError> {
        let mut wanted: HashMap<DekId, bool> = HashMap::new();
        let mut found = Verification { events: 0, tried: 0, opened: 0 };
        let subject = request.subject;
        let scope = request.purposes.as_deref();
        let limit = self.fenced_generations(subject, scope).await?;
        walk(self.requests.log.as_ref(), subject, |_, meta, _| {
            found.events += 1;
            for id in meta.slots.iter().filter_map(|slot| own_key(slot, subject, limit.as_ref())) {
                found.tried += 1;
                wanted.entry(id).or_insert(false);
            }
            Ok(())
        })
        .await?;
        let ids: Vec<DekId> = wanted.keys().cloned().collect();
        let fetched = self.requests.keys.keystore().fetch(ids.clone()).await?;
        let alive: HashMap<DekId, Arc<Dek>> = ids
            .into_iter()
            .zip(fetched)
            .filter_map(|(id, answer)| match answer {
                Fetched::Key(dek) => Some((id, dek)),
                Fetched::Destroyed { .. } | Fetched::Unknown => None,
            })
            .collect();
        if !alive.is_empty() {
            found.opened = self.really_open(subject, limit.as_ref(), &alive).await?;
        }
        Ok(found)
    }

    async fn fenced_generations(
        &self,
        subject: SubjectRef,
        scope: Option<&[Purpose]>,
    ) -> Result<Option<HashMap<Purpose, u32>>, ForgetError> {
        let keystore = self.requests.keys.keystore();
        fenced_generations(self.requests.log.as_ref(), keystore.as_ref(), subject, scope).await
    }

    /// Keys that should be gone are there: count what they open.
    async fn really_open(
        &self,
        subject: SubjectRef,
        limit: Option<&HashMap<Purpose, u32>>,
        alive: &HashMap<DekId, Arc<Dek>>,
    ) -> Result<u64, ForgetError> {
        let mut opened = 0;
        walk(self.requests.log.as_ref(), subject, |event, meta, _| {
            let mut envelopes = envelope::slots(event.sealed.as_deref().unwrap_or_default());
            for (number, slot) in meta.slots.iter().enumerate() {
                let bytes = envelopes.next().and_then(Result::ok).flatten();
                let Some(dek) = own_key(slot, subject, limit).and_then(|id| alive.get(&id)) else { continue };
                // A joint slot cannot be opened with one key, nor one without ciphertext, but one live key is one too many.
                let opens = bytes.is_none_or(|bytes| {
                    let identity = event.identity(&self.store);
                    sealing::open_stored(&[dek], &identity, number as u16, slot, bytes).is_ok()
                });
                opened += u64::from(opens || slot.owners.len() > 1);
            }
            Ok(())
        })
        .await?;
        Ok(opened)
    }
}

fn own_key(
    slot: &sealing::meta::SlotMeta<'_>,
    subject: SubjectRef,
    limit: Option<&HashMap<Purpose, u32>>,
) -> Option<DekId> {
    let generation = slot.owners.iter().find(|owner| SubjectRef::parse(&owner.0) == Some(subject))?.1;
    let covered = limit
        .as_ref()
        .is_none_or(|by_purpose| by_purpose.get(slot.purpose.as_ref()).is_some_and(|fenced| generation <= *fenced));
    let purpose = Purpose::parse_any(&slot.purpose).ok()?;
    covered.then_some(DekId { subject, purpose, generation })
}

/// Generations that an erasure covers, by purpose; `None` covers all of them.
pub(super) async fn fenced_generations(
    log: &dyn EventLog,
    keystore: &dyn Keystore,
    subject: SubjectRef,
    scope: Option<&[Purpose]>,
) -> Result<Option<HashMap<Purpose, u32>>, ForgetError> {
    let Some(purposes) = scope else { return Ok(None) };
    let fences = log.fences(vec![subject]).await?;
    let list = fences.0.get(&subject).map(Vec::as_slice).unwrap_or_default();
    let mut covered = HashMap::new();
    for fence in list {
        let Some(purpose) = fence.purpose.as_ref().filter(|purpose| purposes.contains(purpose)) else { continue };
        let mut generation = fence.generation;
        // A fence that is not open covers every generation. The keystore may have later ones than this log knows of.
        while !fence.reauthorized && generation < u32::MAX {
            let next = DekId { subject, purpose: purpose.clone(), generation: generation + 1 };
            if matches!(keystore.fetch(vec![next]).await?.first(), None | Some(Fetched::Unknown)) {
                break;
            }
            generation += 1;
        }
        covered.insert(purpose.clone(), generation);
    }
    Ok(Some(covered))
}

fn key_record(key: &crate::keystore::DestroyedKey) -> DestroyedKeyRecord {
    DestroyedKeyRecord {
        kid: hex::encode(key.kid.0),
        purpose: key.purpose.to_string(),
        generation: key.generation,
        destroyed_at: key.at.rfc3339(),
    }
}

/// The scope of an order.
pub(super) fn scope_of(purposes: Option<Vec<Purpose>>) -> Scope {
    purposes.map_or(Scope::Person, Scope::Purposes)
}

/// Tells the keyring that the erasure record has come this far.
pub(super) fn witness(keyring: &Keyring, row: &ErasureRow) -> Result<(), ForgetError> {
    if keyring.erasure_record().number >= row.number {
        return Ok(());
    }
    match keyring.record_erasure(row.number, row.digest) {
        // Somebody else was faster, with a later one.
        Ok(()) | Err(KeyringError::NotMonotone { .. }) => Ok(()),
        Err(error) => {
            tracing::error!(error = %error, "the keyring cannot be written");
            Err(KeystoreError::Unavailable { reason: "the keyring cannot be written" }.into())
        }
    }
}
