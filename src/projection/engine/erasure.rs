//! An erasure, as a projection handles it.
//!
//! Owns: what becomes of the rows in which the forgotten person owns a cell, and of the former versions in which she does,
//! whether or not there is such a row any more. Readers see placeholders from the fence on, whatever happens here; this
//! takes the dead ciphertext out, or the row. Must not know: keys of others.

use std::collections::HashMap;

use super::batch::{BatchError, Parts, Progress, open_rows, open_versions};
use super::history::At;
use super::past::{Past, Scope};
use super::work::Work;
use crate::event::SubjectRef;
use crate::eventlog::{Fences, ReadError};
use crate::projection::cell::{Cell, Content};
use crate::projection::definition::{Definition, OnErasure};
use crate::projection::owners::Alternative;
use crate::projection::row::{Row, RowKey};
use crate::projection::store::{GenerationId, VersionId};

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
    at: At,
    (subject, scope): (SubjectRef, &Scope),
) -> Result<Progress, BatchError> {
    let mut erasing = Erasing { parts, definition, id, cursor, at, subject, scope, past: None };
    erasing.rows().await?;
    if definition.history.is_some() {
        erasing.versions().await?;
    }
    Ok(Progress::Advanced { cursor: at.0 + 1, events: 1 })
}

struct Erasing<'a> {
    parts: &'a Parts,
    definition: &'a Definition,
    id: GenerationId,
    cursor: u64,
    at: At,
    subject: SubjectRef,
    scope: &'a Scope,
    /// Read when it is needed.
    past: Option<Past>,
}

impl Erasing<'_> {
    async fn rows(&mut self) -> Result<(), BatchError> {
        let mut after: Option<RowKey> = None;
        loop {
            let owned = self.parts.store.keys_of(self.id, self.subject, after, CHUNK).await?;
            let last = owned.len() < CHUNK;
            after = owned.last().copied().or(after);
            let raw: Vec<_> = self.parts.store.rows(self.id, &owned).await?.into_iter().flatten().collect();
            let (rows, keys, fences) = open_rows(self.parts, self.definition, &raw).await?;
            let mut work = Work::new(self.definition, HashMap::new(), keys);
            for (key, row) in rows {
                if self.goes(&row, &fences).await? {
                    work.remove(key, row);
                } else if row.people().contains(&self.subject) {
                    work.rewrite(key, row, self.at);
                }
            }
            self.land(work, last && self.definition.history.is_none()).await?;
            if last {
                return Ok(());
            }
        }
    }

    /// What is left of former versions: those of rows that went are gone by now.
    async fn versions(&mut self) -> Result<(), BatchError> {
        let mut after: Option<VersionId> = None;
        loop {
            let raw = self.parts.store.versions_of(self.id, self.subject, after, CHUNK).await?;
            let last = raw.len() < CHUNK;
            after = raw.last().map(|version| (version.key, version.position)).or(after);
            let (versions, keys, fences) = open_versions(self.parts, self.definition, &raw).await?;
            let mut work = Work::new(self.definition, HashMap::new(), keys);
            for (key, version) in versions {
                let gone = self.goes(&version, &fences).await?;
                if gone || version.people().contains(&self.subject) {
                    work.change_version(key, version, gone);
                }
            }
            if let Some(formers) = work.formers().filter(|_| last) {
                formers.handled(self.at.1);
            }
            self.land(work, last).await?;
            if last {
                return Ok(());
            }
        }
    }

    /// The cursor moves with the last of it; until then the same transaction only checks that it is where it was.
    async fn land(&self, work: Work<'_>, last: bool) -> Result<(), BatchError> {
        let moved = if last { self.at.0 + 1 } else { self.cursor };
        let write = work
            .finish(&self.parts.store_id, &self.parts.entropy, (self.cursor, moved))
            .map_err(|_| BatchError::Unavailable("a row cannot be sealed"))?;
        crate::crash::point("projection.before-erasure");
        self.parts.land(self.id, write).await?;
        Ok(())
    }

    /// Whether a row goes, or a version of one.
    async fn goes(&mut self, row: &Row, fences: &Fences) -> Result<bool, ReadError> {
        Ok(match (&self.definition.on_erasure, fate(row, self.subject, self.scope, fences)) {
            (OnErasure::Redact | OnErasure::Keep(_), _) | (_, Fate::Stays) => false,
            (OnErasure::DeleteRow, Fate::Goes) => true,
            (OnErasure::DeleteRow, Fate::Depends) => {
                if self.past.is_none() {
                    self.past = Some(Past::until(self.parts.log.as_ref(), self.at.0).await?);
                }
                self.past.as_ref().is_some_and(|past| lost(row, self.subject, |way| past.closes(way)))
            }
        })
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
