//! The append path: validate, resolve people, ensure keys, seal, queue, answer.
//!
//! Owns: the order of the steps. Must not know: HTTP, SQL. Keeps invariants 4 (keys are durable before the event) and 7
//! (nothing is sealed for the forgotten). Validation errors of all events are reported at once.

pub mod writer;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;

use crate::clock::{Clock, Millis};
use crate::crash;
use crate::event::{EventId, EventType, ExpectedRevision, NewEvent, StreamName, SubjectKey};
use crate::eventlog::{Appended, Condition, Effect, Idempotency, Job, Refused, StreamAppend};
use crate::keystore::CachedKeystore;
use crate::keystore::{Granted, KeystoreError};
use crate::schema::{Finding, Prepared, Registry, Violation};
use crate::sealing::{Person, SealError, SealedEvent, Sealer};
use crate::secret::EntropyError;
use writer::{SubmitError, Writer};

/// Events for one stream, as a caller hands them in.
#[derive(Clone, Debug)]
pub struct StreamDraft {
    /// The stream.
    pub stream: StreamName,
    /// What it is expected to be; `None` where the caller said nothing.
    pub expected: Option<ExpectedRevision>,
    /// At least one event.
    pub events: Vec<NewEvent>,
}

/// One append request: all of it or nothing.
#[derive(Clone, Debug)]
pub struct AppendRequest {
    /// Per stream; streams are distinct.
    pub appends: Vec<StreamDraft>,
    /// Further preconditions.
    pub conditions: Vec<Condition>,
    /// Makes a repetition a replay.
    pub idempotency: Option<Idempotency>,
}

/// What an append answers.
#[derive(Debug)]
pub struct AppendDone {
    /// Where the events landed.
    pub appended: Appended,
    /// What the leak guard found in them, by stream index and event index.
    pub findings: Vec<(usize, usize, Finding)>,
}

/// Why an append failed. Nothing was written, except after [`SubmitError`] `Indeterminate`.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Events are invalid: stream index, event index, what is wrong.
    #[error("{} events are invalid", .0.len())]
    Invalid(Vec<(usize, usize, Violation)>),
    /// A category that demands an expected revision got none.
    #[error("an expected revision is required")]
    ExpectationRequired,
    /// The log is older than the erasure record: nobody knows who is forgotten, so nothing personal is taken.
    #[error("the event log is older than the erasure record")]
    ErasureRecordBehind,
    /// Personal data of forgotten people: stream index, event index, pointer of the person's id.
    #[error("the event holds personal data of a forgotten data subject")]
    DataSubjectErased(Vec<(usize, usize, String)>),
    /// Further natural keys that are another person's already: stream index, event index, pointer of the key.
    #[error("the event gives a person the natural key of another")]
    NaturalKeyTaken(Vec<(usize, usize, String)>),
    /// A `ds_…` that was never issued: stream index, event index, pointer.
    #[error("the event names an unknown pseudonym")]
    UnknownSubject(Vec<(usize, usize, String)>),
    /// The log refused the job.
    #[error("the append was refused")]
    Refused(Refused),
    /// Keys cannot be reached.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    /// The log cannot be reached.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// An event could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl From<EntropyError> for AppendError {
    fn from(error: EntropyError) -> Self {
        Self::Seal(SealError::Entropy(error))
    }
}

/// Decisions that appends rest on, where other processes decide too.
pub trait Decided: Send + Sync {
    /// What must hold in the append's transaction if nothing was decided that is not known here.
    fn conditions(&self) -> Vec<Condition>;

    /// Learns what was decided elsewhere: whether there was anything; `None` when it cannot be told.
    fn refresh(&self) -> BoxFuture<'_, Option<bool>>;
}

/// Times an append is made anew because something was decided elsewhere meanwhile.
const TRIES: usize = 5;

/// Appends events.
#[derive(Clone)]
pub struct Appender {
    registry: Arc<Registry>,
    keys: Arc<CachedKeystore>,
    sealer: Sealer,
    writer: Writer,
    clock: Clock,
    level: Arc<AtomicBool>,
    decided: Option<Arc<dyn Decided>>,
}

impl Appender {
    /// An appender over these parts. `level`: whether the erasure records agree.
    pub fn new(
        registry: Arc<Registry>,
        keys: Arc<CachedKeystore>,
        sealer: Sealer,
        writer: Writer,
        clock: Clock,
        level: Arc<AtomicBool>,
    ) -> Self {
        Self { registry, keys, sealer, writer, clock, level, decided: None }
    }

    /// The same, where other processes make decisions too.
    #[must_use]
    pub fn following(self, decided: Option<Arc<dyn Decided>>) -> Self {
        Self { decided, ..self }
    }

    /// Whether the erasure records agree.
    pub fn is_level(&self) -> bool {
        self.level.load(Ordering::SeqCst)
    }

    /// Appends a caller's events.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn append(&self, request: &AppendRequest) -> Result<AppendDone, AppendError> {
        let Some(decided) = &self.decided else { return self.append_once(request, Vec::new()).await };
        let own = request.conditions.len();
        for _ in 0..TRIES {
            // Before anything is looked up in the registry: what is decided after this line makes the log refuse.
            let further = decided.conditions();
            match self.append_once(request, further).await {
                Err(AppendError::Refused(Refused::Condition { index })) if index >= own => {
                    if decided.refresh().await.is_none() {
                        break;
                    }
                }
                // It may be valid by what was decided elsewhere just now.
                Err(refusal @ (AppendError::Invalid(_) | AppendError::ExpectationRequired)) => {
                    if decided.refresh().await != Some(true) {
                        return Err(refusal);
                    }
                }
                done => return done,
            }
        }
        Err(AppendError::Submit(SubmitError::Busy))
    }

    async fn append_once(&self, request: &AppendRequest, further: Vec<Condition>) -> Result<AppendDone, AppendError> {
        let now = self.clock.now();
        let mut findings = Vec::new();
        let prepared = self.prepare(&request.appends, &mut findings)?;
        let about_people = prepared.iter().flat_map(|draft| &draft.events).any(|event| !event.subjects.is_empty());
        if about_people && !self.is_level() {
            return Err(AppendError::ErasureRecordBehind);
        }
        if request.idempotency.is_none()
            && let Some(refused) = request.appends.iter().find_map(|draft| self.passed(draft))
        {
            return Err(AppendError::Refused(refused));
        }
        let mut wants = Vec::new();
        prepared.iter().flat_map(|draft| &draft.events).for_each(|event| Sealer::add_wants(&mut wants, event));
        let granted = if wants.is_empty() { Vec::new() } else { self.keys.ensure(wants).await? };
        let appends = self.seal(&prepared, granted, now)?;
        drop(prepared);
        crash::point("append.sealed");
        let conditions = request.conditions.iter().cloned().chain(further).collect();
        let job = Job { appends, conditions, idempotency: request.idempotency, effects: Vec::new(), at: now };
        let appended = self.writer.submit(job).await?.map_err(AppendError::Refused)?;
        Ok(AppendDone { appended, findings })
    }

    /// Appends some of the system's own events, together with the state they speak of, in one transaction.
    ///
    /// # Errors
    /// [`AppendError::Refused`] when the stream moved on, [`AppendError::Submit`] when the log cannot be reached.
    pub async fn append_system(
        &self,
        stream: StreamName,
        expected: ExpectedRevision,
        events: Vec<(EventType, serde_json::Value)>,
        effects: Vec<Effect>,
    ) -> Result<Appended, AppendError> {
        self.append_system_if(stream, expected, events, effects, Vec::new()).await
    }

    /// [`Appender::append_system`], if the conditions hold in the same transaction.
    ///
    /// # Errors
    /// As there; [`AppendError::Refused`] also when a condition does not hold.
    pub async fn append_system_if(
        &self,
        stream: StreamName,
        expected: ExpectedRevision,
        events: Vec<(EventType, serde_json::Value)>,
        effects: Vec<Effect>,
        conditions: Vec<Condition>,
    ) -> Result<Appended, AppendError> {
        let at = self.clock.now();
        let events = events
            .into_iter()
            .map(|(event_type, data)| self.sealer.system_event(self.sealer.new_event_id(at)?, event_type, &data))
            .collect::<Result<_, _>>()?;
        let appends = vec![StreamAppend { stream, expected, events }];
        let job = Job { appends, conditions, idempotency: None, effects, at };
        crash::point("append.queued");
        self.writer.submit(job).await?.map_err(AppendError::Refused)
    }

    /// A conflict that is certain before anything is sealed. Events with ids of the caller's may be there already: then it is
    /// none.
    fn passed(&self, draft: &StreamDraft) -> Option<Refused> {
        let repeatable = draft.events.iter().any(|event| event.id.is_some());
        if repeatable { None } else { self.writer.passed(&draft.stream, draft.expected?) }
    }

    fn prepare<'r>(
        &self,
        drafts: &'r [StreamDraft],
        findings: &mut Vec<(usize, usize, Finding)>,
    ) -> Result<Vec<PreparedDraft<'r>>, AppendError> {
        let mut violations = Vec::new();
        let mut ready = Vec::with_capacity(drafts.len());
        for (at_stream, draft) in drafts.iter().enumerate() {
            let rules = self.registry.rules(&draft.stream);
            if rules.settings().require_expected && draft.expected.is_none() {
                return Err(AppendError::ExpectationRequired);
            }
            let mut ids = HashSet::new();
            let mut events = Vec::with_capacity(draft.events.len());
            for (at, event) in draft.events.iter().enumerate() {
                if event.id.is_some_and(|id| !ids.insert(id)) {
                    violations.push((at_stream, at, repeated_id()));
                }
                match rules.prepare(Cow::Borrowed(event)) {
                    Ok(mut prepared) => {
                        findings.extend(std::mem::take(&mut prepared.findings).into_iter().map(|f| (at_stream, at, f)));
                        events.push(prepared);
                    }
                    Err(found) => violations.extend(found.into_iter().map(|v| (at_stream, at, v))),
                }
            }
            ready.push(PreparedDraft { draft, events });
        }
        if violations.is_empty() { Ok(ready) } else { Err(AppendError::Invalid(violations)) }
    }

    fn seal(
        &self,
        drafts: &[PreparedDraft<'_>],
        granted: Vec<Granted>,
        now: Millis,
    ) -> Result<Vec<StreamAppend>, AppendError> {
        let mut granted = granted.into_iter();
        let mut refusals = Refusals::default();
        let mut appends = Vec::with_capacity(drafts.len());
        for (at_stream, PreparedDraft { draft, events: prepared }) in drafts.iter().enumerate() {
            let mut events: Vec<SealedEvent> = Vec::with_capacity(prepared.len());
            for (at, prepared) in prepared.iter().enumerate() {
                let answers = granted.by_ref().take(prepared.subjects.len());
                if let Some(people) = self.people(prepared, answers, (at_stream, at), &mut refusals)? {
                    let id = self.event_id(prepared, now)?;
                    events.push(self.sealer.seal(id, prepared, &people)?);
                }
            }
            let expected = draft.expected.unwrap_or_default();
            appends.push(StreamAppend { stream: draft.stream.clone(), expected, events });
        }
        refusals.into_result()?;
        Ok(appends)
    }

    fn event_id(&self, prepared: &Prepared<'_>, now: Millis) -> Result<EventId, EntropyError> {
        match prepared.event.id {
            Some(id) => Ok(id),
            None => self.sealer.new_event_id(now),
        }
    }

    /// The people of an event with their keys; `None` when one of them stands in the way.
    fn people(
        &self,
        prepared: &Prepared<'_>,
        answers: impl Iterator<Item = Granted>,
        place: (usize, usize),
        refusals: &mut Refusals,
    ) -> Result<Option<Vec<Person>>, EntropyError> {
        let mut people = Vec::with_capacity(prepared.subjects.len());
        for (index, (site, answer)) in prepared.subjects.iter().zip(answers).enumerate() {
            let pointer = || {
                let path = site.path.as_ref().or(site.natural.as_ref().map(|natural| &natural.at));
                path.map_or_else(|| "/personal_data".to_owned(), |path| format!("/data{path}"))
            };
            let owns = || prepared.fields.iter().any(|field| field.owners.contains(&index));
            match answer {
                Granted::Keys { subject, keys } => people.push(Person { subject, keys }),
                // Named but without personal fields: the event is kept, the person is not. A pseudonym of the forgotten
                // would be a new trace of them.
                Granted::Erased { .. } if !owns() && matches!(site.subject, SubjectKey::External(_)) => {
                    people.push(Person { subject: self.sealer.nobody()?, keys: Vec::new() });
                }
                Granted::Erased { .. } => refusals.erased.push((place.0, place.1, pointer())),
                Granted::Taken => {
                    let also = site.natural.as_ref().and_then(|natural| natural.also.as_ref());
                    let pointer = also.map_or_else(pointer, |(_, path)| format!("/data{path}"));
                    refusals.taken.push((place.0, place.1, pointer));
                }
                Granted::Unknown => refusals.unknown.push((place.0, place.1, pointer())),
            }
        }
        Ok((people.len() == prepared.subjects.len()).then_some(people))
    }
}

struct PreparedDraft<'r> {
    draft: &'r StreamDraft,
    events: Vec<Prepared<'r>>,
}

#[derive(Default)]
struct Refusals {
    erased: Vec<(usize, usize, String)>,
    taken: Vec<(usize, usize, String)>,
    unknown: Vec<(usize, usize, String)>,
}

impl Refusals {
    fn into_result(self) -> Result<(), AppendError> {
        if !self.unknown.is_empty() {
            return Err(AppendError::UnknownSubject(self.unknown));
        }
        if !self.erased.is_empty() {
            return Err(AppendError::DataSubjectErased(self.erased));
        }
        if !self.taken.is_empty() {
            return Err(AppendError::NaturalKeyTaken(self.taken));
        }
        Ok(())
    }
}

fn repeated_id() -> Violation {
    Violation {
        code: "event-id-repeated",
        pointer: "/id".into(),
        message: "the same event id comes twice in one append".into(),
        hint: Some("give each event its own id, or none".into()),
    }
}
