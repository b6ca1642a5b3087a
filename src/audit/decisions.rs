//! The decisions in force: the folds of the streams that record them.
//!
//! Owns: the replay of the system streams `$api-keys`, `$schemas` and `$projections`, at start-up and, where other processes
//! decide too, for as long as this one runs. Must not know: HTTP, how a decision is made. A process that has not heard of a
//! decision does not act against it: an append says in its transaction which decisions it rests on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

use super::{Record, ReplayError};
use crate::append::Decided;
use crate::auth::ApiKeys;
use crate::clock::Boottime;
use crate::event::{ExpectedRevision, Revision, StreamName};
use crate::eventlog::{Condition, Direction, EventLog, Filter, ReadQuery};
use crate::projection::definitions::Definitions;
use crate::schema::{Registry, RegistryRecord, Violation};

/// Between two looks for decisions of other processes, when something was appended and when nothing was.
const LOOKS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// How long decisions are good for after they were last looked at, where other processes decide too.
const OLDEST: Duration = Duration::from_secs(5);
/// Between two looks on behalf of callers whose key is not known: they could ask very often.
const STRANGERS: Duration = Duration::from_millis(200);

/// The folds.
pub struct Decisions {
    log: Arc<dyn EventLog>,
    registry: Arc<Registry>,
    keys: Arc<ApiKeys>,
    projections: Arc<Definitions>,
    /// Last revision of each stream; held while a decision is recorded, so that folds change in log order.
    revisions: Mutex<Revisions>,
    /// One more than the last revisions of schemas and projections that are in force here; 0 before the first.
    in_force: [AtomicU64; 2],
    /// When a stranger last made us look.
    looked: Mutex<Option<Instant>>,
    /// Everything decided before this moment is in force here.
    current: std::sync::Mutex<Boottime>,
}

/// How far the folds have come.
#[derive(Clone, Copy, Default)]
pub(super) struct Revisions {
    pub keys: Option<Revision>,
    pub schemas: Option<Revision>,
    pub projections: Option<Revision>,
}

impl Decisions {
    /// Folds that have seen everything in the log.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub async fn replay(
        log: &Arc<dyn EventLog>,
        registry: &Arc<Registry>,
        keys: &Arc<ApiKeys>,
        projections: &Arc<Definitions>,
    ) -> Result<Arc<Self>, ReplayError> {
        let (log, registry) = (Arc::clone(log), Arc::clone(registry));
        let (keys, projections) = (Arc::clone(keys), Arc::clone(projections));
        let (revisions, in_force, looked) = (Mutex::default(), Default::default(), Mutex::default());
        let current = std::sync::Mutex::new(Boottime::ZERO);
        let decisions = Self { log, registry, keys, projections, revisions, in_force, looked, current };
        decisions.catch_up().await?;
        Ok(Arc::new(decisions))
    }

    /// Looks for decisions of other processes until the task is stopped.
    pub async fn follow(self: Arc<Self>) {
        let mut head = self.log.watch();
        loop {
            head.borrow_and_update();
            if let Err(error) = self.catch_up().await {
                tracing::warn!(error = %error, "the record of decisions cannot be read now");
            }
            sleep(LOOKS.0).await;
            let _ = tokio::time::timeout(LOOKS.1, head.changed()).await;
        }
    }

    /// Folds what the log has beyond what was seen.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub async fn catch_up(&self) -> Result<(), ReplayError> {
        let mut revisions = self.lock().await;
        self.advance(&mut revisions).await
    }

    /// Whether what is in force here is as young as it must be to let anybody in: a key that was revoked elsewhere must not be
    /// good for longer because the record of decisions cannot be read. Looks again first if it is not.
    pub async fn are_current(&self) -> bool {
        self.age() < OLDEST || self.catch_up().await.is_ok()
    }

    fn age(&self) -> Duration {
        Boottime::now().since(*self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks again because somebody came with a key that is not known here, unless that was done just now.
    pub async fn look_for_stranger(&self) {
        let mut looked = self.looked.lock().await;
        if looked.is_some_and(|at| at.elapsed() < STRANGERS) {
            return;
        }
        if let Err(error) = self.catch_up().await {
            tracing::warn!(error = %error, "the record of decisions cannot be read now");
        }
        *looked = Some(Instant::now());
    }

    /// Whether a version of a schema is known here.
    pub fn knows(&self, event_type: &str, version: u32) -> bool {
        self.registry.version(event_type, Some(version)).is_some()
    }

    /// Nothing else is folded or recorded while this is held.
    pub(super) async fn lock(&self) -> MutexGuard<'_, Revisions> {
        self.revisions.lock().await
    }

    /// [`Decisions::catch_up`] under the lock.
    pub(super) async fn advance(&self, revisions: &mut Revisions) -> Result<(), ReplayError> {
        let (log, asked) = (self.log.as_ref(), Boottime::now());
        revisions.keys = replay_stream(log, keys_stream(), revisions.keys, |record| self.apply(&record)).await?;
        revisions.schemas =
            replay_stream(log, schemas_stream(), revisions.schemas, |record| self.apply(&record)).await?;
        revisions.projections =
            replay_stream(log, projections_stream(), revisions.projections, |record| self.apply(&record)).await?;
        self.say(revisions);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        Ok(())
    }

    /// Puts one decision in force; `false` when it cannot be.
    pub(super) fn apply(&self, record: &Record) -> bool {
        match record {
            Record::ApiKey(record) => {
                self.keys.apply(record);
                true
            }
            Record::Schema(record) => self.registry.apply(record).is_ok(),
            Record::Projection(record) => self.projections.apply(record),
        }
    }

    /// Puts a schema in force, or says why it cannot be.
    pub(super) fn apply_schema(&self, record: &RegistryRecord) -> Result<(), Vec<Violation>> {
        self.registry.apply(record)
    }

    /// After the folds have changed: whoever reads these numbers first and the folds later sees at least what they say.
    pub(super) fn say(&self, revisions: &Revisions) {
        for (place, revision) in self.in_force.iter().zip([revisions.schemas, revisions.projections]) {
            place.store(revision.map_or(0, |revision| revision.0 + 1), Ordering::SeqCst);
        }
    }
}

impl Decided for Decisions {
    fn conditions(&self) -> Vec<Condition> {
        let streams = [schemas_stream(), projections_stream()];
        let expected = self.in_force.each_ref().map(|place| match place.load(Ordering::SeqCst) {
            0 => ExpectedRevision::NoStream,
            count => ExpectedRevision::Exact(Revision(count - 1)),
        });
        streams.into_iter().zip(expected).map(|(stream, expected)| Condition::Stream { stream, expected }).collect()
    }

    fn refresh(&self) -> BoxFuture<'_, Option<bool>> {
        Box::pin(async move {
            let numbers = || self.in_force.each_ref().map(|place| place.load(Ordering::SeqCst));
            let before = numbers();
            self.catch_up().await.ok()?;
            Some(numbers() != before)
        })
    }
}

pub(super) fn keys_stream() -> StreamName {
    StreamName::parse_any("$api-keys").expect("a valid system name")
}

pub(super) fn schemas_stream() -> StreamName {
    StreamName::parse_any("$schemas").expect("a valid system name")
}

pub(super) fn projections_stream() -> StreamName {
    StreamName::parse_any("$projections").expect("a valid system name")
}

async fn replay_stream(
    log: &dyn EventLog,
    stream: StreamName,
    seen: Option<Revision>,
    mut apply: impl FnMut(Record) -> bool,
) -> Result<Option<Revision>, ReplayError> {
    let mut from = Some(seen.map_or(0, |revision| revision.0 + 1));
    let mut last = seen;
    while let Some(revision) = from {
        let page = log
            .read(ReadQuery {
                stream: Some(stream.clone()),
                from: Some(revision),
                direction: Direction::Forward,
                limit: 500,
                max_bytes: 8 << 20,
                until: None,
                filter: Filter::default(),
                system: true,
            })
            .await?;
        for event in &page.events {
            let position = event.position.0;
            let record = serde_json::from_str(&event.public).map_err(|_| ReplayError::Corrupt { position })?;
            if !apply(record) {
                return Err(ReplayError::Corrupt { position });
            }
        }
        last = page.last_revision.or(last);
        from = page.next;
    }
    Ok(last)
}
