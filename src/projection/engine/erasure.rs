//! An erasure, as a projection handles it.
//!
//! Owns: what becomes of the rows in which the forgotten person owns a cell. Readers see placeholders from the fence on,
//! whatever happens here; this takes the dead ciphertext out, or the row. Must not know: keys of others.

use super::batch::{BatchError, Parts, Progress, open_rows};
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
    subject: SubjectRef,
) -> Result<Progress, BatchError> {
    let mut after: Option<RowKey> = None;
    loop {
        let owned = parts.store.keys_of(id, subject, after, CHUNK).await?;
        let last = owned.len() < CHUNK;
        after = owned.last().copied().or(after);
        let raw: Vec<_> = parts.store.rows(id, &owned).await?.into_iter().flatten().collect();
        let (rows, keys, fences) = open_rows(parts, definition, &raw).await?;
        let mut fences = fences;
        fences.0.extend(parts.log.fences(vec![subject]).await?.0);
        let mut work = Work::new(definition, std::collections::HashMap::new(), keys);
        for (key, row) in rows {
            let owns = row.people().contains(&subject);
            match &definition.on_erasure {
                OnErasure::DeleteRow if is_gone(&row, subject, &fences) => work.remove(key, row),
                _ if owns => work.rewrite(key, row, position),
                _ => {}
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

/// Whether a row is no longer about the person: none of her values can be read, for any purpose, or the whole person in
/// its key is forgotten.
fn is_gone(row: &Row, subject: SubjectRef, fences: &Fences) -> bool {
    let gone = |way: &Alternative| {
        way.people
            .iter()
            .any(|(person, generation)| fences.covering(person, way.purpose.as_str(), *generation).is_some())
    };
    let cells = || row.columns.iter().flat_map(Content::cells).map(|(_, cell)| cell);
    let hers = |cell: &&Cell| cell.owners.people().contains(&subject);
    cells().filter(hers).any(|cell| cell.owners.alternatives().all(gone))
        || (row.about().contains(&subject) && fences.covering(&subject, "$identity", 0).is_some())
}
