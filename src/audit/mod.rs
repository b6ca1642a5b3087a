//! The record of decisions: who issued a key, registered a schema, changed a category.
//!
//! Owns: the system streams `$api-keys`, `$schemas` and `$projections`, whose events are these records, and their replay
//! at start-up.
//! There is no second audit table: the event log says it, the Merkle tree proves it. Must not know: HTTP, personal data.

pub mod checkpoint;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::append::{AppendError, Appender};
use crate::auth::{ApiKeyRecord, ApiKeys};
use crate::event::{EventType, ExpectedRevision, Revision, StreamName};
use crate::eventlog::{Direction, EventLog, Filter, ReadError, ReadQuery, Refused};
use crate::projection::definitions::{Definitions, ProjectionRecord};
use crate::schema::{Registry, RegistryRecord, Violation};

/// A recorded decision.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Record {
    /// About API keys.
    ApiKey(ApiKeyRecord),
    /// About schemas and categories.
    Schema(RegistryRecord),
    /// About projections.
    Projection(ProjectionRecord),
}

/// Why a decision was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The log refused or cannot be reached.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Another decision came first; look again.
    #[error("another change came first")]
    Raced,
    /// The registry refuses the record.
    #[error("the record is not valid")]
    Invalid(Vec<Violation>),
}

/// Why a replay failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A stored record is not one.
    #[error("the record at position {position} cannot be read")]
    Corrupt {
        /// Position of the event.
        position: u64,
    },
}

/// Records decisions and keeps their folds.
pub struct Recorder {
    log: Arc<dyn EventLog>,
    appender: Appender,
    registry: Arc<Registry>,
    keys: Arc<ApiKeys>,
    projections: Arc<Definitions>,
    /// Last revision of each stream; held while a record is written, so that folds change in log order.
    revisions: Mutex<Revisions>,
}

#[derive(Clone, Copy, Default)]
struct Revisions {
    keys: Option<Revision>,
    schemas: Option<Revision>,
    projections: Option<Revision>,
}

impl Recorder {
    /// A recorder whose folds have seen everything in the log.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub async fn replay(
        log: Arc<dyn EventLog>,
        appender: Appender,
        registry: Arc<Registry>,
        keys: Arc<ApiKeys>,
        projections: Arc<Definitions>,
    ) -> Result<Self, ReplayError> {
        let recorder = Self { log, appender, registry, keys, projections, revisions: Mutex::default() };
        recorder.catch_up(&mut *recorder.revisions.lock().await).await?;
        Ok(recorder)
    }

    /// Folds what the log has beyond `revisions`.
    async fn catch_up(&self, revisions: &mut Revisions) -> Result<(), ReplayError> {
        let log = self.log.as_ref();
        revisions.keys = replay_stream(log, keys_stream(), revisions.keys, |record| match record {
            Record::ApiKey(record) => {
                self.keys.apply(&record);
                true
            }
            Record::Schema(_) | Record::Projection(_) => false,
        })
        .await?;
        revisions.schemas = replay_stream(log, schemas_stream(), revisions.schemas, |record| match record {
            Record::Schema(record) => self.registry.apply(&record).is_ok(),
            Record::ApiKey(_) | Record::Projection(_) => false,
        })
        .await?;
        revisions.projections =
            replay_stream(log, projections_stream(), revisions.projections, |record| match record {
                Record::Projection(record) => self.projections.apply(&record),
                Record::ApiKey(_) | Record::Schema(_) => false,
            })
            .await?;
        Ok(())
    }

    /// Records a decision durably, then applies it. `check` runs with nothing else changing.
    ///
    /// # Errors
    /// Whatever `check` says, or [`RecordError`]; then nothing changed.
    pub async fn record<E: From<RecordError>>(&self, decide: impl FnOnce() -> Result<Record, E>) -> Result<(), E> {
        let mut revisions = self.revisions.lock().await;
        let record = decide()?;
        let (stream, last) = match &record {
            Record::ApiKey(_) => (keys_stream(), &mut revisions.keys),
            Record::Schema(_) => (schemas_stream(), &mut revisions.schemas),
            Record::Projection(_) => (projections_stream(), &mut revisions.projections),
        };
        let expected = last.map_or(ExpectedRevision::NoStream, ExpectedRevision::Exact);
        let data = serde_json::to_value(&record).expect("records are plain data");
        let event_type = data.get("record").and_then(|name| name.as_str()).unwrap_or("record");
        let event_type = EventType::parse(event_type).expect("record names are event types");
        let appended = self.appender.append_system(stream, expected, vec![(event_type, data)], Vec::new()).await;
        let appended = match appended {
            Ok(appended) => appended,
            Err(error) => {
                // It may have landed although the answer was lost, or another node may have been first: whatever the log
                // has is in force, and the next decision is made on top of it.
                if let Err(error) = self.catch_up(&mut revisions).await {
                    tracing::error!(error = %error, "the record of decisions cannot be read again");
                }
                return Err(E::from(match error {
                    AppendError::Refused(Refused::WrongExpectedRevision { .. }) => RecordError::Raced,
                    other => RecordError::Append(other),
                }));
            }
        };
        *last = appended.streams.first().map(crate::eventlog::AppendedStream::last_revision);
        match record {
            Record::ApiKey(record) => self.keys.apply(&record),
            Record::Schema(record) => self.registry.apply(&record).map_err(RecordError::Invalid)?,
            Record::Projection(record) => drop(self.projections.apply(&record)),
        }
        Ok(())
    }
}

fn keys_stream() -> StreamName {
    StreamName::parse_any("$api-keys").expect("a valid system name")
}

fn schemas_stream() -> StreamName {
    StreamName::parse_any("$schemas").expect("a valid system name")
}

fn projections_stream() -> StreamName {
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
