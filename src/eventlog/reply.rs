//! Replies as they are remembered for an idempotency key.
//!
//! Owns: their text. Every engine stores the same.

use super::{Appended, AppendedStream};
use crate::event::{EventId, Position, Revision, StreamName};

/// A reply as remembered: streams, revisions, positions and ids, no body.
pub fn encode_reply(appended: &Appended) -> String {
    let streams: Vec<serde_json::Value> = appended
        .streams
        .iter()
        .map(|s| {
            let ids: Vec<String> = s.ids.iter().map(EventId::to_string).collect();
            serde_json::json!([s.stream.as_str(), s.first_revision.0, s.first_position.0, ids])
        })
        .collect();
    serde_json::Value::from(streams).to_string()
}

/// The reply again; `None` when it is not one.
pub fn decode_reply(text: &str) -> Option<Appended> {
    let streams: Vec<(String, u64, u64, Vec<String>)> = serde_json::from_str(text).ok()?;
    let streams = streams
        .into_iter()
        .map(|(stream, revision, position, ids)| {
            Some(AppendedStream {
                stream: StreamName::parse_any(&stream).ok()?,
                first_revision: Revision(revision),
                first_position: Position(position),
                ids: ids.iter().map(|id| EventId::parse(id)).collect::<Option<_>>()?,
            })
        })
        .collect::<Option<_>>()?;
    Some(Appended { streams, replayed: true })
}
