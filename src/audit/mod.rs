//! The record of decisions: who issued a key, registered a schema, changed a category. And what proves the log: its tree,
//! checkpoints, proofs.
//!
//! Owns: the system streams `$api-keys`, `$schemas` and `$projections`, whose events are these records.
//! There is no second audit table: the event log says it, the Merkle tree proves it. Must not know: HTTP, personal data.

pub mod checkpoint;
mod decisions;
mod following;
pub mod proof;
pub mod tree;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use decisions::Decisions;
pub use following::FollowingLog;

use crate::append::{AppendError, Appender};
use crate::auth::ApiKeyRecord;
use crate::event::{EventType, ExpectedRevision};
use crate::eventlog::{ReadError, Refused};
use crate::projection::definitions::ProjectionRecord;
use crate::schema::{RegistryRecord, Violation};

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

/// Records decisions.
pub struct Recorder {
    decisions: Arc<Decisions>,
    appender: Appender,
    /// Whether other processes decide too: then what they decided is looked at first.
    shared: bool,
}

impl Recorder {
    /// A recorder on top of what is in force.
    pub fn new(decisions: Arc<Decisions>, appender: Appender, shared: bool) -> Self {
        Self { decisions, appender, shared }
    }

    /// What is in force.
    pub fn decisions(&self) -> &Arc<Decisions> {
        &self.decisions
    }

    /// Records a decision durably, then applies it. `decide` runs with nothing else changing.
    ///
    /// # Errors
    /// Whatever `decide` says, or [`RecordError`]; then nothing changed.
    pub async fn record<E: From<RecordError>>(&self, decide: impl FnOnce() -> Result<Record, E>) -> Result<(), E> {
        let mut revisions = self.decisions.lock().await;
        if self.shared
            && let Err(error) = self.decisions.advance(&mut revisions).await
        {
            tracing::warn!(error = %error, "decisions of other processes cannot be read; the log will say if there are any");
        }
        let record = decide()?;
        let (stream, last) = match &record {
            Record::ApiKey(_) => (decisions::keys_stream(), &mut revisions.keys),
            Record::Schema(_) => (decisions::schemas_stream(), &mut revisions.schemas),
            Record::Projection(_) => (decisions::projections_stream(), &mut revisions.projections),
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
                if let Err(error) = self.decisions.advance(&mut revisions).await {
                    tracing::error!(error = %error, "the record of decisions cannot be read again");
                }
                return Err(E::from(match error {
                    AppendError::Refused(Refused::WrongExpectedRevision { .. }) => RecordError::Raced,
                    other => RecordError::Append(other),
                }));
            }
        };
        *last = appended.streams.first().map(crate::eventlog::AppendedStream::last_revision);
        if let Record::Schema(record) = &record {
            self.decisions.apply_schema(record).map_err(RecordError::Invalid)?;
        } else {
            self.decisions.apply(&record);
        }
        self.decisions.say(&revisions);
        Ok(())
    }
}
