//! Due events: a row's timer goes off once.
//!
//! Owns: the event that says so, and its id. The id depends on projection, row and time alone, and event ids are
//! idempotent per stream: after a crash between the append and the note that it happened, or after a rebuild, the same
//! event is found again instead of made again. Must not know: when it is asked to look.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::batch::{self, BatchError, Parts};
use crate::append::{AppendError, AppendRequest, Appender, StreamDraft};
use crate::clock::Millis;
use crate::domain;
use crate::event::{EventId, NewEvent, StreamName};
use crate::projection::apply;
use crate::projection::definition::{Definition, Due, Kind};
use crate::projection::expression::{Expression, Inputs};
use crate::projection::row::{Row, RowKey};
use crate::projection::store::GenerationId;

/// Timers looked at together.
const TOGETHER: usize = 100;

/// Emits due events.
#[derive(Clone)]
pub struct Emitter(Appender);

impl Emitter {
    /// An emitter that appends like any caller.
    pub fn new(appender: Appender) -> Self {
        Self(appender)
    }

    /// Emits everything due now; when the next timer goes off.
    ///
    /// # Errors
    /// [`BatchError`] when something cannot be reached; nothing is lost, and nothing comes twice.
    pub async fn emit(
        &self,
        parts: &Parts,
        definition: &Definition,
        id: GenerationId,
    ) -> Result<Option<Millis>, BatchError> {
        let Kind::Rows { due: Some(due), .. } = &definition.kind else { return Ok(None) };
        loop {
            let timers = parts.store.due(id, parts.clock.now(), TOGETHER).await?;
            if timers.is_empty() {
                return Ok(parts.store.next_timer(id).await?);
            }
            let (mut rows, _, _) =
                batch::load(parts, definition, id, timers.iter().map(|(key, _)| *key).collect()).await?;
            for (key, at) in timers {
                if let Some(row) = rows.remove(&key)
                    && let Some((code, message)) = self.one(parts, definition, due, (key, at), &row).await?
                {
                    tracing::warn!(projection = %definition.name, code, "a due event cannot be emitted");
                    parts.store.park(id, row.position, code, message).await?;
                }
                crate::crash::point("projection.after-emit");
                parts.store.gone_off(id, key, at).await?;
            }
        }
    }

    /// Emits one; `Some` with a code and a message when it never can be.
    async fn one(
        &self,
        parts: &Parts,
        definition: &Definition,
        due: &Due,
        timer: (RowKey, Millis),
        row: &Row,
    ) -> Result<Option<(&'static str, String)>, BatchError> {
        let Some((stream, data)) = event(definition, due, timer.0, row) else {
            return Ok(Some(("due-event-invalid", "the due event cannot be made from the row".to_owned())));
        };
        let event = NewEvent {
            id: Some(event_id(parts, definition, timer)),
            event_type: due.event_type.clone(),
            data,
            actor: Some(format!("projection:{}", definition.name)),
            schema_version: None,
            marks: Vec::new(),
            correlation_id: None,
            causation_id: None,
            time: None,
            source: None,
            source_id: None,
        };
        let draft = StreamDraft { stream, expected: None, events: vec![event] };
        let request = AppendRequest { appends: vec![draft], conditions: Vec::new(), idempotency: None };
        match self.0.append(&request).await {
            Ok(_) => Ok(None),
            Err(AppendError::Keystore(_) | AppendError::Submit(_) | AppendError::ErasureRecordBehind) => {
                Err(BatchError::Unavailable("the event cannot be appended now"))
            }
            // It would be refused for ever: the schema does not fit, or the person is forgotten.
            Err(error) => Ok(Some(("due-event-refused", error.to_string()))),
        }
    }
}

/// Stream and data of a row's due event; `None` when an expression fails or would show personal data.
fn event(definition: &Definition, due: &Due, key: RowKey, row: &Row) -> Option<(StreamName, Value)> {
    let columns = &definition.columns;
    let clear = row.clear(columns);
    let parts = Value::Object(row.parts.clone());
    let nothing = Value::Null;
    let inputs = Inputs { data: &nothing, event: &nothing, subject: &nothing, row: &clear, key: &parts };
    let of = |expression: &Expression| {
        apply::reads_public(expression, columns, row)
            .then(|| expression.evaluate(&inputs).ok())?
            .map(Option::unwrap_or_default)
    };
    let stream = match &due.stream {
        Some(expression) => of(expression)?.as_str()?.to_owned(),
        None => format!("{}-{key}", definition.name),
    };
    let data = due
        .data
        .iter()
        .map(|(name, expression)| Some((name.clone(), of(expression)?)))
        .collect::<Option<Map<_, _>>>()?;
    Some((StreamName::parse(&stream).ok()?, Value::Object(data)))
}

/// The same for the same row and time, whatever happens in between.
fn event_id(parts: &Parts, definition: &Definition, (key, at): (RowKey, Millis)) -> EventId {
    let name = definition.name.as_str().as_bytes();
    let text = domain::lp(&[domain::DUE_EVENT, &parts.store_id.0, name, &key.0, &at.0.to_be_bytes()]);
    let digest: [u8; 32] = Sha256::digest(text).into();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    // A UUID of version 8 (RFC 9562): made by a rule of ours.
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    EventId(id)
}
