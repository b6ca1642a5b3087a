//! What a definition sees of the log: its events, and every erasure.
//!
//! Owns: where a slice of the log ends. An erasure is handled at its own place between the events before and after it,
//! so that a rebuild does the same in the same order. Must not know: rows.

use super::history::At;
use super::past::{self, Scope};
use crate::event::{Category, EventType, Position, SubjectRef};
use crate::eventlog::{Direction, EventLog, Filter, Page, ReadError, ReadQuery, StoredEvent};
use crate::projection::definition::Source;
use crate::subscription::ERASURE_EVENT;

/// What comes next after a cursor.
#[derive(Debug)]
pub enum Slice {
    /// Events before `end`; none of them an erasure.
    Events {
        /// The events, with fences.
        page: Page,
        /// Where the next slice begins.
        end: u64,
    },
    /// A person's data is gone from here on.
    Erasure {
        /// Position of the event that says so, and when it was recorded.
        at: At,
        /// Who.
        subject: SubjectRef,
        /// How much of it.
        scope: Scope,
    },
}

/// The next slice; `None` at the end of the log.
///
/// # Errors
/// [`ReadError`].
pub async fn next(
    log: &dyn EventLog,
    source: &Source,
    cursor: u64,
    limit: usize,
    max_bytes: usize,
) -> Result<Option<Slice>, ReadError> {
    let head = *log.watch().borrow();
    if cursor >= head {
        return Ok(None);
    }
    let mut end = head;
    let query = |filter: Filter, system, limit, until: u64| ReadQuery {
        stream: None,
        from: Some(cursor),
        direction: Direction::Forward,
        limit,
        max_bytes,
        until: Some(Position(until - 1)),
        filter,
        system,
    };
    let erasures = Filter {
        category: Category::parse_any("$erasure").ok(),
        types: vec![EventType::parse(ERASURE_EVENT).expect("a valid event type")],
        subject: None,
    };
    let found = log.read(query(erasures, true, 1, head)).await?;
    if let Some(erasure) = found.events.first() {
        if erasure.position.0 == cursor {
            let corrupt = ReadError::Corrupt { table: "events", column: "public", row: cursor };
            let (subject, scope) = erased(erasure).ok_or(corrupt)?;
            return Ok(Some(Slice::Erasure { at: (cursor, erasure.recorded), subject, scope }));
        }
        end = erasure.position.0;
    }
    let filter = Filter { category: source.category.clone(), types: source.types.clone(), subject: None };
    let page = log.read(query(filter, false, limit, end)).await?;
    let end = page.next.unwrap_or(end);
    Ok(Some(Slice::Events { page, end }))
}

/// Whose data is gone from this event on, and how much; `None` when it says nothing of the kind. A caller's own event may
/// have the same type: only the system's streams speak of erasures.
pub fn erased(event: &StoredEvent) -> Option<(SubjectRef, Scope)> {
    if !event.stream.is_system() || event.event_type.as_str() != ERASURE_EVENT {
        return None;
    }
    past::erasure(&event.public)
}
