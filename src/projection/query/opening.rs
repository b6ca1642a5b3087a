//! Opening rows for one viewer.
//!
//! Owns: fences after rows, keys after fences, and looked-up cells in their place. Must not know: what is shown instead
//! of a value that stays closed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::candidates::Candidate;
use super::{QueryError, Run, Viewings};
use crate::event::SubjectRef;
use crate::eventlog::Fences;
use crate::keystore::{DekId, Fetched};
use crate::projection::cell::{Cell, Content};
use crate::projection::definition::{Column, ColumnSource, Definition};
use crate::projection::index;
use crate::projection::owners::Alternative;
use crate::projection::row::{Keys, Row, RowKey, StoredRow};
use crate::read::Purposes;

/// A row as far as the viewer may see it.
pub struct OpenRow {
    /// Its key.
    pub key: RowKey,
    /// The row, looked-up cells in place.
    pub row: Row,
}

impl OpenRow {
    fn content(&self, at: usize) -> Option<&Content> {
        self.row.columns.get(at)
    }
}

/// Rows opened together.
#[derive(Default)]
pub struct OpenRows {
    /// The rows.
    pub rows: Vec<OpenRow>,
    /// Fences of everyone in them, read after them.
    pub fences: Fences,
    /// Keys that opened something.
    pub keys: Keys,
    /// Whether something stayed closed that neither a fence nor a purpose explains.
    pub missing: bool,
    /// Whether the keystore could not be reached.
    pub unavailable: bool,
}

impl OpenRows {
    /// Whether a way to read a value was open.
    pub fn is_open(&self, way: &Alternative, purposes: &Purposes) -> bool {
        let id = |(subject, generation): &(SubjectRef, u32)| DekId {
            subject: *subject,
            purpose: way.purpose.clone(),
            generation: *generation,
        };
        purposes.allow(way.purpose.as_str())
            && way.people.iter().all(|person| self.keys.contains_key(&id(person)))
            && !way
                .people
                .iter()
                .any(|(subject, generation)| self.fences.covering(subject, way.purpose.as_str(), *generation).is_some())
    }

    /// Values that are there: whose, for which purpose, how many.
    pub fn viewings<'c>(&self, contents: impl Iterator<Item = &'c Content>, purposes: &Purposes) -> Viewings {
        let mut seen = Viewings::new();
        for (_, cell) in contents.flat_map(Content::cells).filter(|(_, cell)| cell.value.is_some()) {
            for way in cell.owners.alternatives().filter(|way| self.is_open(way, purposes)) {
                for (subject, _) in &way.people {
                    *seen.entry((*subject, way.purpose.as_str().to_owned())).or_default() += 1;
                }
            }
        }
        seen
    }
}

impl Run<'_> {
    /// Purposes for which cells are opened. What an aggregate keeps per person is never shown as such.
    pub fn purposes(&self) -> &Purposes {
        if index::is_aggregate(self.live.definition) { &Purposes::All } else { &self.viewer.purposes }
    }

    /// Opens rows of which one of these columns is personal; the others stay as they are.
    pub async fn open(&self, rows: Vec<Candidate>, columns: &BTreeSet<usize>) -> Result<OpenRows, QueryError> {
        let mut batch = OpenRows::default();
        let needed: Vec<bool> = rows.iter().map(|row| self.is_personal(row, columns)).collect();
        let sealed = || rows.iter().zip(&needed).filter(|(_, needed)| **needed).flat_map(|(row, _)| stored_rows(row));
        let people: BTreeSet<SubjectRef> = sealed().flat_map(|row| row.row.people()).collect();
        if !people.is_empty() {
            batch.fences = self.reader.parts.log.fences(people.into_iter().collect()).await?;
        }
        let purposes = self.purposes();
        let allowed = |purpose: &str| purposes.allow(purpose);
        let wanted: BTreeSet<DekId> =
            sealed().flat_map(|row| row.wanted(&batch.fences, &allowed).collect::<Vec<_>>()).collect();
        let wanted: Vec<DekId> = wanted.into_iter().collect();
        if !wanted.is_empty() {
            match self.reader.parts.keys.fetch(wanted.clone()).await {
                Ok(fetched) => batch.keys = wanted.into_iter().zip(fetched).filter_map(live_key).collect(),
                Err(_) if self.viewer.partial => batch.unavailable = true,
                Err(error) => return Err(error.into()),
            }
        }
        for (row, needed) in rows.into_iter().zip(needed) {
            let opened = self.open_one(row, needed, &mut batch);
            batch.rows.push(opened);
        }
        // What an unreachable keystore did not open is no riddle.
        batch.missing &= !batch.unavailable;
        Ok(batch)
    }

    /// Whether somebody owns a cell of one of these columns.
    pub fn is_personal(&self, row: &Candidate, columns: &BTreeSet<usize>) -> bool {
        columns.iter().any(|at| self.cells_of(row, *at).iter().any(|cell| !cell.owners.is_public()))
    }

    /// Cells of a column while the row is sealed.
    fn cells_of<'c>(&self, row: &'c Candidate, at: usize) -> Vec<&'c Cell> {
        self.content_of(row, at).map(Content::cells).unwrap_or_default().into_iter().map(|(_, cell)| cell).collect()
    }

    /// Content of a column while the row is sealed; `None` when it is looked up where there is no row.
    pub fn content_of<'c>(&self, row: &'c Candidate, at: usize) -> Option<&'c Content> {
        match self.place_of(at) {
            Place::Own => row.stored.row.columns.get(at),
            Place::Joined(table, column) => row.lookups.get(table)?.as_ref()?.row.columns.get(column),
            Place::Nowhere => None,
        }
    }

    fn place_of(&self, at: usize) -> Place {
        let Some(ColumnSource::Lookup { projection, column }) =
            self.live.definition.columns.get(at).map(|column| &column.source)
        else {
            return Place::Own;
        };
        let table = self.live.lookups.iter().position(|(other, _)| other.name == *projection);
        let found = table.and_then(|table| Some((table, column_of(self.live.lookups[table].0, column)?)));
        found.map_or(Place::Nowhere, |(table, column)| Place::Joined(table, column))
    }

    fn open_one(&self, candidate: Candidate, needed: bool, batch: &mut OpenRows) -> OpenRow {
        let Candidate { key, stored, lookups, .. } = candidate;
        let mut row = self.open_stored(self.live.definition, stored, needed, batch);
        let lookups: Vec<Option<Row>> = lookups
            .into_iter()
            .zip(&self.live.lookups)
            .map(|(stored, (other, _))| Some(self.open_stored(other, stored?, needed, batch)))
            .collect();
        for (at, column) in self.live.definition.columns.iter().enumerate() {
            let content = match self.place_of(at) {
                Place::Own => continue,
                Place::Joined(table, column) => {
                    lookups.get(table).and_then(|row| row.as_ref()?.columns.get(column)).cloned()
                }
                Place::Nowhere => None,
            };
            row.columns[at] = content.unwrap_or_else(|| default(column));
        }
        OpenRow { key, row }
    }

    fn open_stored(&self, definition: &Definition, stored: StoredRow, needed: bool, batch: &mut OpenRows) -> Row {
        if !needed {
            return stored.row;
        }
        let identity = format!("projection/{}", definition.name);
        let purposes = self.purposes();
        let allowed = |purpose: &str| purposes.allow(purpose);
        let store = (&self.reader.store_id, identity.as_str());
        let (row, missing) = stored.open(store, &definition.columns, &batch.keys, &batch.fences, &allowed);
        batch.missing |= missing;
        row
    }

    /// Values of these columns that could be read: whose, for which purpose, how many.
    pub fn viewings(&self, batch: &OpenRows, columns: &BTreeSet<usize>) -> Viewings {
        let touched = |open| columns.iter().filter_map(move |at| OpenRow::content(open, *at));
        batch.viewings(batch.rows.iter().flat_map(touched), self.purposes())
    }
}

/// Where a column's content stands.
enum Place {
    /// In the row.
    Own,
    /// In a joined row: which, and which of its columns.
    Joined(usize, usize),
    /// It is looked up where there is nothing.
    Nowhere,
}

fn live_key((id, fetched): (DekId, Fetched)) -> Option<(DekId, Arc<crate::keystore::Dek>)> {
    match fetched {
        Fetched::Key(key) => Some((id, key)),
        Fetched::Destroyed { .. } | Fetched::Unknown => None,
    }
}

fn stored_rows(row: &Candidate) -> impl Iterator<Item = &StoredRow> {
    std::iter::once(&row.stored).chain(row.lookups.iter().flatten())
}

/// A column that can be looked up: not the state of an aggregate, not looked up itself.
fn column_of(other: &Definition, name: &str) -> Option<usize> {
    let at = other.column(name).filter(|_| !index::is_aggregate(other))?;
    (!matches!(other.columns[at].source, ColumnSource::Lookup { .. })).then_some(at)
}

fn default(column: &Column) -> Content {
    Content::public(&column.kind, column.default.clone())
}
