//! Opening, approving, rejecting and reading forget requests.
//!
//! Owns: every transition up to and including the fence. Approval and fence are one transaction (F1): when it returns,
//! the data is visible nowhere and nothing of it can be appended; what follows is the worker's. Must not know: HTTP.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::preview::{self, Preview};
use super::{Fact, InvalidTransition, Request, deadline, next, stream_of};
use crate::append::{AppendError, Appender};
use crate::clock::{Clock, Millis};
use crate::crash;
use crate::event::{
    EventType, ExpectedRevision, Position, Purpose, Revision, StreamName, SubjectKey, SubjectRef, uuid_v7,
};
use crate::eventlog::{Condition, Direction, Effect, EventLog, Filter, ReadError, ReadQuery, Refused};
use crate::keystore::keyring::Keyring;
use crate::keystore::lease::Leases;
use crate::keystore::{CachedKeystore, DekId, Fetched, Granted, KeystoreError, Resolved, Want};
use crate::secret::{Entropy, EntropyError};
use crate::subscription::ERASURE_EVENT;

/// Shortest time between two looks at a request that is waited for.
const BETWEEN_LOOKS: std::time::Duration = std::time::Duration::from_millis(20);

/// Why something about a forget request failed.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// The log cannot take the step.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The person is forgotten already.
    #[error("the data subject is already forgotten")]
    AlreadyErased,
    /// The stream of a request does not fold.
    #[error("a stored forget request cannot be read")]
    Corrupt,
    /// No random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The step does not follow from the state.
    #[error(transparent)]
    Invalid(#[from] InvalidTransition),
    /// Keys cannot be reached.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    /// There is no such person.
    #[error("there is no such data subject")]
    NoSuchSubject,
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The erasure that this would undo is not complete yet.
    #[error("the erasure is not complete yet")]
    Unfinished,
    /// The approved digest is not of the present preview.
    #[error("the preview is stale")]
    StalePreview {
        /// Digest of the present preview.
        current: String,
    },
}

/// What opens a request.
#[derive(Debug)]
pub struct OpenRequest {
    /// Whom it is about.
    pub subject: SubjectKey,
    /// The purposes; `None` for the whole person.
    pub purposes: Option<Vec<Purpose>>,
    /// Legal basis.
    pub basis: String,
    /// When the person asked; now if not given.
    pub received_at: Option<Millis>,
    /// The caller's reference.
    pub reference: Option<String>,
    /// API key.
    pub by: String,
}

/// Handles forget requests.
#[derive(Clone)]
pub struct Requests {
    pub(super) log: Arc<dyn EventLog>,
    pub(super) keys: Arc<CachedKeystore>,
    pub(super) leases: Arc<Leases>,
    pub(super) appender: Appender,
    pub(super) clock: Clock,
    pub(super) horizon: std::time::Duration,
    entropy: Arc<Entropy>,
    keyring: Arc<Keyring>,
    wake: Arc<Notify>,
    /// Ticks whenever a fence was set.
    fenced: Arc<watch::Sender<u64>>,
    /// Ticks whenever the worker finished a step.
    pub(super) progress: watch::Receiver<u64>,
}

/// What [`Requests`] is made of.
pub struct Parts {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The keys.
    pub keys: Arc<CachedKeystore>,
    /// Leases of answers in flight.
    pub leases: Arc<Leases>,
    /// Appends.
    pub appender: Appender,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub entropy: Arc<Entropy>,
    /// So long after a destruction no backup of the keystore opens what was destroyed.
    pub horizon: std::time::Duration,
}

impl Requests {
    /// Over these parts; `wake` tells the worker that the erasure record has grown.
    pub fn new(parts: Parts, keyring: Arc<Keyring>, wake: Arc<Notify>, progress: watch::Receiver<u64>) -> Self {
        let Parts { log, keys, leases, appender, clock, entropy, horizon } = parts;
        let fenced = Arc::new(watch::Sender::new(0));
        Self { log, keys, leases, appender, clock, horizon, entropy, keyring, wake, fenced, progress }
    }

    /// Change when the erasure record did: an entry was added, entries were completed.
    pub fn record_changes(&self) -> [watch::Receiver<u64>; 2] {
        [self.fenced.subscribe(), self.progress.clone()]
    }

    /// A log that is behind must not give an erasure a number that another one has.
    fn level(&self) -> Result<(), ForgetError> {
        if self.appender.is_level() { Ok(()) } else { Err(AppendError::ErasureRecordBehind.into()) }
    }

    /// Opens a request and computes its preview. Nothing changes for anybody yet.
    ///
    /// # Errors
    /// [`ForgetError`].
    pub async fn open(&self, wish: OpenRequest) -> Result<Request, ForgetError> {
        self.level()?;
        let subject = self.resolve(wish.subject).await?;
        let mut purposes = wish.purposes;
        if let Some(list) = &mut purposes {
            list.sort();
            list.dedup();
        }
        let preview = preview::compute(self.log.as_ref(), subject, purposes.as_deref()).await?;
        let now = self.clock.now();
        let id = format!("fr_{}", hex::encode(uuid_v7(now, self.entropy.draw()?)));
        let received = wish.received_at.unwrap_or(now).min(now);
        let due = deadline::due(received);
        let fact = Fact::ForgetRequestOpened {
            subject: subject.to_string(),
            purposes: purposes.as_ref().map(|list| list.iter().map(Purpose::to_string).collect()),
            basis: wish.basis,
            received_at: received.rfc3339(),
            due_at: due.rfc3339(),
            reference: wish.reference,
            by: wish.by,
            preview,
        };
        let request = next(&id, None, &fact, now)?;
        crash::point("forget.before-request");
        self.step(&request, ExpectedRevision::NoStream, &[fact], Vec::new()).await?;
        crash::point("forget.after-request");
        Ok(request)
    }

    /// Approves exactly the preview with this digest and fences. When this returns, nobody appends the data, and no answer that
    /// begins shows it; what other processes had begun to answer before ends within their lease, for which the worker waits.
    ///
    /// # Errors
    /// [`ForgetError::StalePreview`] when the preview would be another one now.
    pub async fn approve(&self, id: &str, digest: &str, by: &str) -> Result<Option<Request>, ForgetError> {
        self.level()?;
        let Some((request, revision)) = self.load(id).await? else { return Ok(None) };
        let now = self.clock.now();
        let approved = Fact::ForgetRequestApproved { preview_digest: digest.to_owned(), by: by.to_owned() };
        let waiting = next(id, Some(request.clone()), &approved, now)?;
        if request.preview.digest != digest || !preview::is_fresh(self.log.as_ref(), &request).await? {
            let current = self.preview(&request).await?;
            if current.digest != digest {
                return Err(ForgetError::StalePreview { current: current.digest });
            }
        }
        let fenced = Fact::ErasureFenced {
            subject: request.subject.to_string(),
            purposes: request.purposes.as_ref().map(|list| list.iter().map(Purpose::to_string).collect()),
            request: id.to_owned(),
            basis: request.basis.clone(),
        };
        let request = next(id, Some(waiting), &fenced, now)?;
        let fence = Effect::Fence {
            subject: request.subject,
            purposes: request.purposes.clone(),
            basis: request.basis.clone(),
            request: id.to_owned(),
        };
        crash::point("forget.before-fence");
        self.step(&request, ExpectedRevision::Exact(revision), &[approved, fenced], vec![fence]).await?;
        crash::point("forget.after-fence");
        self.witness(id).await;
        // Answers that began before the fence end, or are broken off, before anybody is told that it holds.
        self.leases.revoke(request.subject).await;
        self.wake.notify_one();
        Ok(Some(request))
    }

    /// Rejects a request with a ground.
    ///
    /// # Errors
    /// [`ForgetError::Invalid`] unless it is still previewed.
    pub async fn reject(&self, id: &str, ground: &str, by: &str) -> Result<Option<Request>, ForgetError> {
        self.decide(id, Fact::ForgetRequestRejected { ground: ground.to_owned(), by: by.to_owned() }).await
    }

    /// Withdraws a request.
    ///
    /// # Errors
    /// [`ForgetError::Invalid`] unless it is still previewed.
    pub async fn cancel(&self, id: &str, by: &str) -> Result<Option<Request>, ForgetError> {
        self.decide(id, Fact::ForgetRequestCancelled { by: by.to_owned() }).await
    }

    /// A request; `None` when there is none.
    ///
    /// # Errors
    /// [`ForgetError`].
    pub async fn get(&self, id: &str) -> Result<Option<Request>, ForgetError> {
        Ok(self.load(id).await?.map(|(request, _)| request))
    }

    /// Waits until a request needs no more work, for at most `limit`; then whatever it is.
    ///
    /// # Errors
    /// [`ForgetError`].
    pub async fn wait(&self, id: &str, limit: std::time::Duration) -> Result<Option<Request>, ForgetError> {
        let mut progress = self.progress.clone();
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            progress.borrow_and_update();
            let request = self.get(id).await?;
            if request.as_ref().is_none_or(|request| request.status.is_final()) {
                return Ok(request);
            }
            // The worker may be another process's: then the log tells, and whoever writes to it tells very often.
            let mut head = self.log.watch();
            head.borrow_and_update();
            let told = async {
                let elsewhere = async {
                    if self.keys.keystore().nodes().is_none() || head.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                    tokio::time::sleep(BETWEEN_LOOKS).await;
                };
                tokio::select! {
                    changed = progress.changed() => changed.is_ok(),
                    () = elsewhere => true,
                }
            };
            if !tokio::time::timeout_at(deadline, told).await.unwrap_or(false) {
                return Ok(request);
            }
        }
    }

    /// The present preview of a request that is still previewed.
    ///
    /// # Errors
    /// [`ForgetError`].
    pub async fn preview(&self, request: &Request) -> Result<Preview, ForgetError> {
        Ok(preview::compute(self.log.as_ref(), request.subject, request.purposes.as_deref()).await?)
    }

    /// Lets a forgotten person, or forgotten purposes of a known one, come back.
    ///
    /// # Errors
    /// [`ForgetError::NoSuchSubject`] when there is nothing erased.
    pub async fn reauthorize(
        &self,
        subject: SubjectKey,
        purposes: Vec<Purpose>,
        basis: &str,
        by: &str,
    ) -> Result<SubjectRef, ForgetError> {
        self.level()?;
        let before = self.log.head().await?.next;
        let known = self.erased_scope(&subject, &purposes).await?;
        // The log first: were the keystore first and the process died between, a later generation would be in use that
        // a second forget would not fence.
        let effects = match known {
            Some(subject) => vec![Effect::Reauthorize { subject, purposes: purposes.clone() }],
            None => Vec::new(),
        };
        let list: Vec<String> = purposes.iter().map(Purpose::to_string).collect();
        let data =
            serde_json::json!({"subject": known.map(|s| s.to_string()), "purposes": list, "basis": basis, "by": by});
        let event_type = EventType::parse("data-subject-reauthorized").expect("a valid event type");
        let stream = StreamName::parse_any("$reauthorizations").expect("a valid system name");
        // A fence that came meanwhile would be opened again before its keys are destroyed.
        let unfenced = Condition::NoneMatching {
            after: before.0.checked_sub(1).map(Position),
            filter: Filter { types: EventType::parse(ERASURE_EVENT).into_iter().collect(), ..Filter::default() },
        };
        let events = vec![(event_type, data)];
        let done = self.appender.append_system_if(stream, ExpectedRevision::Any, events, effects, vec![unfenced]).await;
        done.map_err(|error| match error {
            AppendError::Refused(Refused::Condition { .. }) => ForgetError::Unfinished,
            other => other.into(),
        })?;
        let renewed = self.keys.keystore().reauthorize(subject, purposes).await?;
        // A keystore newer than the log may have been opened for these purposes already.
        renewed.or(known).ok_or(ForgetError::NoSuchSubject)
    }

    /// The pseudonym of a person still known whose purposes are all destroyed, or `None` for a person who is wholly.
    ///
    /// # Errors
    /// [`ForgetError::NoSuchSubject`] when there is nothing erased, [`ForgetError::Unfinished`] while keys still live.
    async fn erased_scope(
        &self,
        subject: &SubjectKey,
        purposes: &[Purpose],
    ) -> Result<Option<SubjectRef>, ForgetError> {
        let known = match subject {
            SubjectKey::Ref(subject) => *subject,
            SubjectKey::Natural(key) => match self.keys.resolve_natural(vec![key.clone()]).await?.first() {
                Some(Resolved::Known(subject)) => *subject,
                _ => return Err(ForgetError::NoSuchSubject),
            },
            SubjectKey::External(id) => match self.keys.keystore().resolve(vec![id.clone()]).await?.first() {
                Some(Resolved::Known(subject)) => *subject,
                Some(Resolved::Erased) => return Ok(None),
                _ => return Err(ForgetError::NoSuchSubject),
            },
        };
        let fences = self.log.fences(vec![known]).await?;
        let fences = fences.0.get(&known).map(Vec::as_slice).unwrap_or_default();
        // An erasure on its way would destroy the keys that are made after this, or fail over them.
        for request in fences.iter().map(|fence| fence.request.as_str()).collect::<BTreeSet<_>>() {
            if self.get(request).await?.is_some_and(|request| !request.status.is_final()) {
                return Err(ForgetError::Unfinished);
            }
        }
        let fenced = |purpose: &Purpose| fences.iter().find(|fence| fence.purpose.as_ref() == Some(purpose));
        let ids: Option<Vec<DekId>> = purposes
            .iter()
            .map(|purpose| {
                let generation = fenced(purpose)?.generation;
                Some(DekId { subject: known, purpose: purpose.clone(), generation })
            })
            .collect();
        let ids = ids.filter(|ids| !ids.is_empty()).ok_or(ForgetError::NoSuchSubject)?;
        let fetched = self.keys.keystore().fetch(ids).await?;
        if fetched.iter().all(|answer| matches!(answer, Fetched::Destroyed { .. })) {
            return Ok(Some(known));
        }
        Err(ForgetError::Unfinished)
    }

    /// From here on a log restored from before this fence is known to be old. What fails here is repeated by the worker,
    /// which says nothing is done before it is.
    async fn witness(&self, id: &str) {
        if let Ok(Some(row)) = self.log.erasure_of(id.to_owned()).await {
            let _ = super::worker::witness(&self.keyring, &row);
        }
        self.fenced.send_modify(|tick| *tick += 1);
    }

    async fn decide(&self, id: &str, fact: Fact) -> Result<Option<Request>, ForgetError> {
        let Some((request, revision)) = self.load(id).await? else { return Ok(None) };
        let request = next(id, Some(request), &fact, self.clock.now())?;
        self.step(&request, ExpectedRevision::Exact(revision), &[fact], Vec::new()).await?;
        Ok(Some(request))
    }

    async fn resolve(&self, subject: SubjectKey) -> Result<SubjectRef, ForgetError> {
        match subject {
            SubjectKey::External(id) => match self.keys.resolve(vec![id]).await?.first() {
                Some(Resolved::Known(subject)) => Ok(*subject),
                Some(Resolved::Erased) => Err(ForgetError::AlreadyErased),
                Some(Resolved::Unknown) | None => Err(ForgetError::NoSuchSubject),
            },
            SubjectKey::Natural(key) => match self.keys.resolve_natural(vec![key]).await?.first() {
                Some(Resolved::Known(subject)) => Ok(*subject),
                _ => Err(ForgetError::NoSuchSubject),
            },
            SubjectKey::Ref(subject) => {
                let fences = self.log.fences(vec![subject]).await?;
                if fences.0.get(&subject).is_some_and(|list| list.iter().any(|fence| fence.purpose.is_none())) {
                    return Err(ForgetError::AlreadyErased);
                }
                let named = !self.log.footprint(subject, None, 1).await?.is_empty();
                // Somebody whom no event names yet may be known all the same; a want by pseudonym makes nothing.
                let unnamed = Want { subject: SubjectKey::Ref(subject), also: None, purposes: Vec::new() };
                let known =
                    named || matches!(self.keys.ensure(vec![unnamed]).await?.first(), Some(Granted::Keys { .. }));
                if known { Ok(subject) } else { Err(ForgetError::NoSuchSubject) }
            }
        }
    }

    /// Appends facts to the request's stream, with its row in the list of requests.
    pub(super) async fn step(
        &self,
        request: &Request,
        expected: ExpectedRevision,
        facts: &[Fact],
        mut effects: Vec<Effect>,
    ) -> Result<(), ForgetError> {
        let stream = stream_of(&request.id).ok_or(ForgetError::Corrupt)?;
        effects.push(Effect::Request {
            id: request.id.clone(),
            subject: request.subject,
            status: request.status.as_str(),
            due: Millis::parse_rfc3339(&request.due_at).unwrap_or(self.clock.now()),
        });
        let events = facts
            .iter()
            .map(|fact| Ok((fact.event_type(), serde_json::to_value(fact).map_err(|_| ForgetError::Corrupt)?)))
            .collect::<Result<_, ForgetError>>()?;
        match self.appender.append_system(stream, expected, events, effects).await {
            Ok(_) => Ok(()),
            // Somebody else took the step: whoever comes second is told what the request is now.
            Err(AppendError::Refused(Refused::WrongExpectedRevision { .. })) => {
                let now = self.get(&request.id).await?.map(|request| request.status);
                Err(InvalidTransition { from: now }.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Folds a request's stream.
    pub(super) async fn load(&self, id: &str) -> Result<Option<(Request, Revision)>, ForgetError> {
        load(self.log.as_ref(), id).await
    }
}

/// Folds the stream of a request: the request, and the revision its stream is at. `None` when there is none.
///
/// # Errors
/// [`ForgetError::Corrupt`] when the stream does not fold, [`ForgetError::Read`] when it cannot be read.
pub async fn load(log: &dyn EventLog, id: &str) -> Result<Option<(Request, Revision)>, ForgetError> {
    let mut found = None;
    for told in facts(log, id).await? {
        let state = found.map(|(request, _)| request);
        let state = next(id, state, &told.fact, told.at).map_err(|_| ForgetError::Corrupt)?;
        found = Some((state, told.revision));
    }
    Ok(found)
}

/// A fact as the log tells it.
pub(super) struct Told {
    pub fact: Fact,
    pub position: Position,
    pub revision: Revision,
    pub at: Millis,
}

/// Everything that the log tells of a request; nothing when there is no such request.
pub(super) async fn facts(log: &dyn EventLog, id: &str) -> Result<Vec<Told>, ForgetError> {
    let Some(stream) = stream_of(id) else { return Ok(Vec::new()) };
    let (mut found, mut from) = (Vec::new(), Some(0));
    while let Some(revision) = from {
        let query = ReadQuery {
            stream: Some(stream.clone()),
            from: Some(revision),
            direction: Direction::Forward,
            limit: 1000,
            max_bytes: 16 << 20,
            until: None,
            filter: Filter::default(),
            system: true,
        };
        let page = log.read(query).await?;
        for event in &page.events {
            let fact = serde_json::from_str(&event.public).map_err(|_| ForgetError::Corrupt)?;
            let (position, revision, at) = (event.position, event.revision, event.recorded);
            found.push(Told { fact, position, revision, at });
        }
        from = page.next;
    }
    Ok(found)
}
