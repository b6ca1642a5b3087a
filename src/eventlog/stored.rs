//! Events as they are stored, and how a page of them is put together.
//!
//! Owns: the values of one event that comes out of the log, and the two buffers that the events of a page share: one for
//! their texts, one for their envelopes. Must not know: engines, who may see what.

use std::ops::{Deref, Range};
use std::sync::Arc;

use bytes::Bytes;

use super::ReadError;
use crate::clock::Millis;
use crate::event::{EventId, EventType, Position, Revision, StoreId, StreamName};
use crate::sealing::EventIdentity;

/// An event as stored.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// Global position.
    pub position: Position,
    /// Event id.
    pub id: EventId,
    /// Stream.
    pub stream: StreamName,
    /// Revision in the stream.
    pub revision: Revision,
    /// Type.
    pub event_type: EventType,
    /// Schema version; `None` without a schema.
    pub schema_version: Option<u32>,
    /// When the log recorded it.
    pub recorded: Millis,
    /// Canonical JSON metadata, written by `sealing`.
    pub meta: Text,
    /// Canonical JSON payload with holes.
    pub public: Text,
    /// Envelopes, or `None` where there never were any or all are gone.
    pub sealed: Option<Bytes>,
}

impl StoredEvent {
    /// What the envelopes of the event are bound to.
    pub fn identity<'a>(&'a self, store: &'a StoreId) -> EventIdentity<'a> {
        EventIdentity {
            store,
            event: &self.id,
            event_type: self.event_type.as_str(),
            schema_version: self.schema_version.unwrap_or(0),
        }
    }
}

/// A text of a stored event: a part of the buffer that the events of its page share.
#[derive(Clone)]
pub struct Text {
    page: Arc<String>,
    part: Range<usize>,
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.page[self.part.clone()]
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&**self, f)
    }
}

/// A row of the events as an engine hands it out.
pub struct EventRow<'r> {
    /// Global position.
    pub position: u64,
    /// Event id.
    pub id: [u8; 16],
    /// Name of the stream.
    pub stream: &'r str,
    /// Revision in the stream.
    pub revision: u64,
    /// Name of the type.
    pub event_type: &'r str,
    /// Schema version, 0 without a schema.
    pub schema_version: u32,
    /// When the log recorded it.
    pub recorded: Millis,
    /// Metadata.
    pub meta: &'r str,
    /// Public part.
    pub public: &'r str,
    /// Envelopes.
    pub sealed: Option<&'r [u8]>,
}

/// Rows on their way to events. Their texts are copied once, into buffers that grow, instead of into several allocations
/// for each event; names that come again are parsed once.
#[derive(Default)]
pub struct Gathered {
    text: String,
    sealed: Vec<u8>,
    events: Vec<Draft>,
}

/// An event whose buffers still grow.
struct Draft {
    position: Position,
    id: EventId,
    stream: StreamName,
    revision: Revision,
    event_type: EventType,
    schema_version: u32,
    recorded: Millis,
    meta: Range<usize>,
    public: Range<usize>,
    sealed: Option<Range<usize>>,
}

impl Gathered {
    /// Room for so many events of the usual size, within reason: it is a guess.
    pub fn with_room(events: usize) -> Self {
        let events = events.min(256);
        Self {
            text: String::with_capacity(events * 768),
            sealed: Vec::with_capacity(events * 384),
            events: Vec::with_capacity(events),
        }
    }

    /// Takes a row.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] when a name in it is none.
    pub fn push(&mut self, row: &EventRow<'_>) -> Result<(), ReadError> {
        let corrupt = |column| ReadError::Corrupt { table: "events", column, row: row.position };
        let before = self.events.last();
        let stream = match before {
            Some(before) if before.stream.as_str() == row.stream => before.stream.clone(),
            _ => StreamName::parse_any(row.stream).map_err(|_| corrupt("stream"))?,
        };
        let event_type = match before {
            Some(before) if before.event_type.as_str() == row.event_type => before.event_type.clone(),
            _ => EventType::parse_any(row.event_type).map_err(|_| corrupt("type"))?,
        };
        let draft = Draft {
            position: Position(row.position),
            id: EventId(row.id),
            stream,
            revision: Revision(row.revision),
            event_type,
            schema_version: row.schema_version,
            recorded: row.recorded,
            meta: put(&mut self.text, row.meta),
            public: put(&mut self.text, row.public),
            sealed: row.sealed.map(|bytes| {
                let from = self.sealed.len();
                self.sealed.extend_from_slice(bytes);
                from..self.sealed.len()
            }),
        };
        self.events.push(draft);
        Ok(())
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// What they count for in a page's limit of bytes.
    pub fn size(&self) -> usize {
        self.text.len() + self.sealed.len() + self.events.len() * EACH
    }

    /// The events.
    pub fn finish(self) -> Vec<StoredEvent> {
        let (page, envelopes) = (Arc::new(self.text), Bytes::from(self.sealed));
        let text = |part| Text { page: Arc::clone(&page), part };
        let event = |draft: Draft| StoredEvent {
            position: draft.position,
            id: draft.id,
            stream: draft.stream,
            revision: draft.revision,
            event_type: draft.event_type,
            schema_version: (draft.schema_version > 0).then_some(draft.schema_version),
            recorded: draft.recorded,
            meta: text(draft.meta),
            public: text(draft.public),
            sealed: draft.sealed.map(|part| envelopes.slice(part)),
        };
        self.events.into_iter().map(event).collect()
    }
}

/// What an event counts for in a page's limit of bytes, beside its texts and envelopes.
pub const EACH: usize = 128;

fn put(buffer: &mut String, text: &str) -> Range<usize> {
    let from = buffer.len();
    buffer.push_str(text);
    from..buffer.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'r>(position: u64, stream: &'r str, meta: &'r str, sealed: Option<&'r [u8]>) -> EventRow<'r> {
        EventRow {
            position,
            id: [7; 16],
            stream,
            revision: position,
            event_type: "noted",
            schema_version: 0,
            recorded: Millis(5),
            meta,
            public: "{}",
            sealed,
        }
    }

    #[test]
    fn every_event_has_its_own_part_of_the_shared_buffers() {
        let mut gathered = Gathered::default();
        gathered.push(&row(0, "a-1", "{\"x\":\"ü\"}", Some(b"one"))).unwrap();
        gathered.push(&row(1, "a-1", "{}", None)).unwrap();
        gathered.push(&row(2, "b-1", "", Some(b""))).unwrap();
        assert_eq!((gathered.len(), gathered.size()), (3, 10 + 2 + 3 * 2 + 3 + 3 * EACH));
        let wrong = ReadError::Corrupt { table: "events", column: "stream", row: 3 };
        let refused = gathered.push(&row(3, "no name", "", None)).unwrap_err();
        assert_eq!(refused.to_string(), wrong.to_string());
        let events = gathered.finish();
        let texts: Vec<_> = events.iter().map(|e| (&*e.meta, &*e.public, e.sealed.as_deref())).collect();
        assert_eq!(texts, [("{\"x\":\"ü\"}", "{}", Some(&b"one"[..])), ("{}", "{}", None), ("", "{}", Some(b""))]);
        let names: Vec<_> = events.iter().map(|e| e.stream.as_str()).collect();
        assert_eq!((names, format!("{:?}", events[1].meta)), (vec!["a-1", "a-1", "b-1"], "\"{}\"".to_owned()));
    }
}
