//! An erasure, as a projection handles it.
//!
//! Owns: what becomes of the rows in which the forgotten person owns a cell. Readers see placeholders from the fence on,
//! whatever happens here; this takes the dead ciphertext out, or the row. Must not know: keys of others.

use super::batch::{BatchError, Parts, Progress, open_rows};
use super::past::{Past, Scope};
use super::work::Work;
use crate::event::SubjectRef;
use crate::eventlog::Fences;
use crate::projection::cell::{Cell, Content};
use crate::projection::definition::{Definition, OnErasure};
use crate::projection::owners::Alternative;
use crate::projection::row::{Row, RowKey};
use crate::projection::store::GenerationId;

/// Rows of one transaction.
const CHUNK: usize = 200;

/// Handles the erasure at this position.
///
/// # Errors
/// [`BatchError`]; what was done so far is done again then, which changes nothing.
pub async fn run(
    parts: &Parts,
    definition: &Definition,
    id: GenerationId,
    cursor: u64,
    position: u64,
    (subject, scope): (SubjectRef, &Scope),
) -> Result<Progress, BatchError> {
    let mut after: Option<RowKey> = None;
    let mut past: Option<Past> = None;
    loop {
        let owned = parts.store.keys_of(id, subject, after, CHUNK).await?;
        let last = owned.len() < CHUNK;
        after = owned.last().copied().or(after);
        let raw: Vec<_> = parts.store.rows(id, &owned).await?.into_iter().flatten().collect();
        let (rows, keys, fences) = open_rows(parts, definition, &raw).await?;
        let mut work = Work::new(definition, std::collections::HashMap::new(), keys);
        for (key, row) in rows {
            let gone = match (&definition.on_erasure, fate(&row, subject, scope, &fences)) {
                (OnErasure::Redact | OnErasure::Keep(_), _) | (_, Fate::Stays) => false,
                (OnErasure::DeleteRow, Fate::Goes) => true,
                (OnErasure::DeleteRow, Fate::Depends) => {
                    if past.is_none() {
                        past = Some(Past::until(parts.log.as_ref(), position).await?);
                    }
                    past.as_ref().is_some_and(|past| lost(&row, subject, |way| past.closes(way)))
                }
            };
            if gone {
                work.remove(key, row);
            } else if row.people().contains(&subject) {
                work.rewrite(key, row, position);
            }
        }
        // The cursor moves with the last rows; until then the same transaction only checks that it is where it was.
        let moved = if last { position + 1 } else { cursor };
        let write = work
            .finish(&parts.store_id, &parts.entropy, (cursor, moved))
            .map_err(|_| BatchError::Unavailable("a row cannot be sealed"))?;
        crate::crash::point("projection.before-erasure");
        parts.land(id, write).await?;
        if last {
            return Ok(Progress::Advanced { cursor: moved, events: 1 });
        }
    }
}

/// What an erasure does to a row, as far as it can be told from the erasure and from what is gone now.
enum Fate {
    Stays,
    Goes,
    /// Something else that is gone now may not have been gone yet.
    Depends,
}

/// A row goes when it is about a person who goes wholly, or when one of her values cannot be read for any purpose any
/// more: because of this erasure, or of this and earlier ones.
fn fate(row: &Row, subject: SubjectRef, scope: &Scope, fences: &Fences) -> Fate {
    if *scope == Scope::Person && row.about().contains(&subject) {
        return Fate::Goes;
    }
    // Whatever a row holds at this place came before it, so an erasure covers every generation that is in it.
    let closes =
        |way: &Alternative| scope.covers(way.purpose.as_str()) && way.people.iter().any(|(who, _)| *who == subject);
    let closed_now = |way: &Alternative| {
        let mut people = way.people.iter();
        people.any(|(who, generation)| fences.covering(who, way.purpose.as_str(), *generation).is_some())
    };
    if lost(row, subject, closes) {
        Fate::Goes
    } else if lost(row, subject, closed_now) {
        Fate::Depends
    } else {
        Fate::Stays
    }
}

/// Whether a value of the person has only ways to read it that are closed.
fn lost(row: &Row, subject: SubjectRef, closed: impl Fn(&Alternative) -> bool) -> bool {
    let cells = || row.columns.iter().flat_map(Content::cells).map(|(_, cell)| cell);
    let hers = |cell: &&Cell| cell.owners.people().contains(&subject);
    cells().filter(hers).any(|cell| cell.owners.alternatives().all(&closed))
}
