//! Where a page ends, and whom it speaks of.
//!
//! Owns: what engines must agree on about pages. Must not know: engines.

use super::stored::EACH;
use super::{ReadQuery, StoredEvent};
use crate::event::SubjectRef;

/// What an event counts for in a page's limit of bytes.
fn size(event: &StoredEvent) -> usize {
    event.public.len() + event.meta.len() + event.sealed.as_ref().map_or(0, bytes::Bytes::len) + EACH
}

/// Cuts to the limits; where the next page begins, if there is one.
pub fn cut_to_limits(events: &mut Vec<StoredEvent>, query: &ReadQuery) -> Option<u64> {
    let mut bytes = 0;
    let fits = |event: &StoredEvent| {
        bytes += size(event);
        bytes <= query.max_bytes
    };
    let fitting = events.iter().map(fits).take_while(|fits| *fits).count().clamp(1, query.limit);
    let next =
        events.get(fitting).map(|event| if query.stream.is_some() { event.revision.0 } else { event.position.0 });
    events.truncate(fitting);
    next
}

/// Everyone a page speaks of: the owners of slots in the metadata, and those whose pseudonym stands in the public part. A
/// text that merely looks like one costs a lookup and nothing else.
pub fn people(events: &[StoredEvent]) -> impl Iterator<Item = SubjectRef> {
    events.iter().flat_map(|event| pseudonyms(&event.meta).chain(pseudonyms(&event.public)))
}

fn pseudonyms(text: &str) -> impl Iterator<Item = SubjectRef> {
    text.match_indices("ds_").filter_map(|(at, _)| text.get(at..at + SubjectRef::TEXT_LEN).and_then(SubjectRef::parse))
}
