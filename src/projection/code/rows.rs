//! Rows as code sees them.
//!
//! Owns: what it may read and change, and that nothing of it lasts unless all of it does. Must not know: tables. Keeps:
//! keys, names of entries and columns that were promised to be public take plain values only, and a plain value is never
//! a personal one; every other value takes its owners along.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::{Map, Value};

use super::{CodeError, CodeValue};
use crate::projection::apply::{self, Change, Outcome};
use crate::projection::cell::{Cell, Content};
use crate::projection::definition::{Column, ColumnSource, ColumnType, Definition, Kind, Operation};
use crate::projection::expression::Counter;
use crate::projection::row::{Row, RowKey};
use crate::projection::verbs;
use crate::projection::view::EventView;

/// Rows that one event may ask for.
pub const MOST_ROWS: usize = 64;
/// Longest value, as JSON: that of an expression's result.
const MOST_BYTES: usize = 64 << 10;
/// Deepest value.
const MOST_LEVELS: usize = 64;

type RowOf<'a> = &'a dyn Fn(&RowKey) -> Option<Option<&'a Row>>;

/// The rows of the projection.
pub struct CodeRows<'a> {
    definition: &'a Definition,
    view: &'a EventView,
    row_of: RowOf<'a>,
    touched: BTreeMap<RowKey, Staged>,
    wanted: Vec<RowKey>,
    too_many: bool,
}

/// A row as it would be.
struct Staged {
    parts: Map<String, Value>,
    row: Option<Row>,
    existed: bool,
    changed: bool,
}

impl<'a> CodeRows<'a> {
    pub(super) fn new(definition: &'a Definition, view: &'a EventView, row_of: RowOf<'a>) -> Self {
        Self { definition, view, row_of, touched: BTreeMap::new(), wanted: Vec::new(), too_many: false }
    }

    /// The row that the definition's key says the event is about.
    ///
    /// # Errors
    /// [`CodeError::Apply`] when the key cannot be computed from this event, [`CodeError::NotRead`].
    pub fn own(&mut self) -> Result<CodeRow<'_>, CodeError> {
        let Kind::Rows { key, .. } = &self.definition.kind else { return Err(CodeError::Key) };
        let parts = apply::key(key, self.view)?;
        self.open(parts)
    }

    /// Any row, by its key: an object with the declared parts.
    ///
    /// # Errors
    /// [`CodeError::Key`], [`CodeError::NotRead`], [`CodeError::TooManyRows`].
    pub fn at(&mut self, key: &Value) -> Result<CodeRow<'_>, CodeError> {
        let (Kind::Rows { key: declared, .. }, Value::Object(parts)) = (&self.definition.kind, key) else {
            return Err(CodeError::Key);
        };
        let plain = |value: &Value| matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_));
        let fits = |name: &str| parts.get(name).is_some_and(plain);
        if parts.len() != declared.len() || !declared.iter().all(|part| fits(&part.name)) {
            return Err(CodeError::Key);
        }
        self.open(parts.clone())
    }

    fn open(&mut self, parts: Map<String, Value>) -> Result<CodeRow<'_>, CodeError> {
        let key = RowKey::of(self.definition.name.as_str(), &parts);
        let asked = self.touched.len() + self.wanted.len();
        let staged = match self.touched.entry(key) {
            Entry::Occupied(staged) => staged.into_mut(),
            Entry::Vacant(_) if self.wanted.contains(&key) => return Err(CodeError::NotRead),
            Entry::Vacant(_) if asked >= MOST_ROWS => {
                self.too_many = true;
                return Err(CodeError::TooManyRows);
            }
            Entry::Vacant(place) => {
                let Some(row) = (self.row_of)(&key) else {
                    self.wanted.push(key);
                    return Err(CodeError::NotRead);
                };
                place.insert(Staged { parts, existed: row.is_some(), row: row.cloned(), changed: false })
            }
        };
        Ok(CodeRow { columns: &self.definition.columns, staged })
    }

    /// Rows that have to be read before the code can be believed.
    pub(super) fn needs(&mut self) -> Result<Option<Vec<RowKey>>, CodeError> {
        if self.too_many {
            return Err(CodeError::TooManyRows);
        }
        Ok(Some(std::mem::take(&mut self.wanted)).filter(|wanted| !wanted.is_empty()))
    }

    /// What became of the rows; derived columns are computed.
    pub(super) fn finish(self) -> Result<Vec<Change>, CodeError> {
        let mut changes = Vec::new();
        for (key, staged) in self.touched.into_iter().filter(|(_, staged)| staged.changed) {
            let outcome = match staged.row {
                Some(mut row) => {
                    apply::derive(&self.definition.columns, &mut row, &Value::Object(staged.parts))?;
                    row.position = self.view.position.0;
                    Outcome::Changed(row)
                }
                None if staged.existed => Outcome::Deleted,
                None => Outcome::Unchanged,
            };
            changes.push(Change { key, outcome });
        }
        Ok(changes)
    }
}

/// One row. Reading sees what was written before, but for derived columns: those are computed when the event is handled.
pub struct CodeRow<'r> {
    columns: &'r [Column],
    staged: &'r mut Staged,
}

impl CodeRow<'_> {
    /// Its key.
    pub fn key(&self) -> &Map<String, Value> {
        &self.staged.parts
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.staged.row.is_some()
    }

    /// A column; its default where there is no row.
    ///
    /// # Errors
    /// [`CodeError::Column`]; [`CodeError::Combine`] for a list or map that nobody may read as a whole.
    pub fn get(&self, column: &str) -> Result<CodeValue, CodeError> {
        let at = self.find(column)?;
        let Some(row) = &self.staged.row else { return Ok(CodeValue::public(self.columns[at].default.clone())) };
        let content = &row.columns[at];
        if let Content::Single(cell) = content {
            return Ok(CodeValue::of(cell.clone()));
        }
        let (owners, readable) = content.taint(&[])?;
        Ok(CodeValue::of(Cell { value: readable.then(|| content.clear()), owners, origin: None }))
    }

    /// An entry of a map; `null` where there is none.
    ///
    /// # Errors
    /// [`CodeError::Column`]; [`CodeError::Personal`] when the map was put there as a whole and is personal: whether it
    /// has the entry would tell something.
    pub fn entry(&self, column: &str, name: &str) -> Result<CodeValue, CodeError> {
        let cells = self.cells(column)?;
        Ok(cells.and_then(|cells| cells.get(name)).map_or_else(|| Value::Null.into(), |c| CodeValue::of(c.clone())))
    }

    /// Names of the entries of a map.
    ///
    /// # Errors
    /// As [`CodeRow::entry`].
    pub fn entries(&self, column: &str) -> Result<Vec<String>, CodeError> {
        Ok(self.cells(column)?.map(|cells| cells.keys().cloned().collect()).unwrap_or_default())
    }

    /// Elements of a list.
    ///
    /// # Errors
    /// [`CodeError::Column`]; [`CodeError::Personal`] when the list was put there as a whole and is personal: how many
    /// elements it has would tell something.
    pub fn elements(&self, column: &str) -> Result<Vec<CodeValue>, CodeError> {
        let at = self.find(column)?;
        if !matches!(self.columns[at].kind, ColumnType::List(_)) {
            return Err(CodeError::Column);
        }
        match self.staged.row.as_ref().map(|row| &row.columns[at]) {
            Some(Content::List(cells)) => Ok(cells.iter().cloned().map(CodeValue::of).collect()),
            Some(Content::Single(cell)) if !cell.owners.is_public() => {
                Err(CodeError::Personal { place: "the list of which the elements are read" })
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Puts a value into a column; makes the row if there is none.
    ///
    /// # Errors
    /// [`CodeError::Column`], [`CodeError::Personal`] in a column that is `public`; if the value is public also
    /// [`CodeError::Apply`] when it is not of the column's type and [`CodeError::TooLarge`]. A personal value that does not
    /// fit becomes the empty one.
    pub fn set(&mut self, column: &str, value: impl Into<CodeValue>) -> Result<(), CodeError> {
        self.whole(Operation::Set, column, value.into())
    }

    /// Adds a number to a column; an empty one counts as 0.
    ///
    /// # Errors
    /// As [`CodeRow::set`]; [`CodeError::Combine`].
    pub fn add(&mut self, column: &str, value: impl Into<CodeValue>) -> Result<(), CodeError> {
        self.number(column)?;
        self.whole(Operation::Increment, column, value.into())
    }

    /// Adds an element at the end of a list; it keeps its own owners.
    ///
    /// # Errors
    /// As [`CodeRow::set`].
    pub fn append(&mut self, column: &str, value: impl Into<CodeValue>) -> Result<(), CodeError> {
        self.whole(Operation::Append, column, value.into())
    }

    /// Puts an entry into a map; it keeps its own owners. Its name is public.
    ///
    /// # Errors
    /// As [`CodeRow::set`] and [`CodeRow::entry`].
    pub fn set_entry(&mut self, column: &str, name: &str, value: impl Into<CodeValue>) -> Result<(), CodeError> {
        self.in_map(Operation::Set, column, name, value.into())
    }

    /// Removes an entry of a map.
    ///
    /// # Errors
    /// As [`CodeRow::entry`].
    pub fn remove_entry(&mut self, column: &str, name: &str) -> Result<(), CodeError> {
        if self.exists() { self.in_map(Operation::Remove, column, name, true.into()) } else { Ok(()) }
    }

    /// Removes the row.
    pub fn delete(&mut self) {
        self.staged.row = None;
        self.staged.changed = true;
    }

    fn whole(&mut self, operation: Operation, column: &str, value: CodeValue) -> Result<(), CodeError> {
        let (column, place, content, cell) = self.target(column, value)?;
        Ok(verbs::whole(operation, column, content, Some(cell), &place)?)
    }

    fn in_map(&mut self, operation: Operation, column: &str, name: &str, value: CodeValue) -> Result<(), CodeError> {
        let (column, place, content, cell) = self.target(column, value)?;
        let ColumnType::Map(kind) = &column.kind else { return Err(CodeError::Column) };
        Ok(verbs::in_map(operation, kind, content, name.to_owned(), Some(cell), &place)?)
    }

    /// Where a value goes, and as what.
    fn target(&mut self, column: &str, value: CodeValue) -> Result<(&Column, String, &mut Content, Cell), CodeError> {
        let columns = self.columns;
        let at = self.find(column)?;
        let column = &columns[at];
        if !matches!(column.source, ColumnSource::Handlers) {
            return Err(CodeError::Column);
        }
        if column.public && value.is_personal() {
            return Err(CodeError::Personal { place: "what is put into a column that is public" });
        }
        let mut cell = value.into_cell();
        if cell.value.as_ref().is_some_and(|value| !is_small(value)) {
            if cell.owners.is_public() {
                return Err(CodeError::TooLarge);
            }
            cell.value = Some(Value::Null);
        }
        let staged = &mut *self.staged;
        staged.changed = true;
        let row = staged.row.get_or_insert_with(|| Row::new(columns, staged.parts.clone()));
        Ok((column, format!("columns/{}", column.name), &mut row.columns[at], cell))
    }

    fn cells(&self, column: &str) -> Result<Option<&BTreeMap<String, Cell>>, CodeError> {
        let at = self.find(column)?;
        if !matches!(self.columns[at].kind, ColumnType::Map(_)) {
            return Err(CodeError::Column);
        }
        match self.staged.row.as_ref().map(|row| &row.columns[at]) {
            Some(Content::Map(cells)) => Ok(Some(cells)),
            Some(Content::Single(cell)) if !cell.owners.is_public() => {
                Err(CodeError::Personal { place: "the map of which an entry is read" })
            }
            _ => Ok(None),
        }
    }

    fn number(&self, column: &str) -> Result<(), CodeError> {
        let kind = &self.columns[self.find(column)?].kind;
        if kind.is_number() { Ok(()) } else { Err(CodeError::Column) }
    }

    /// A column that has a value when events are handled.
    fn find(&self, name: &str) -> Result<usize, CodeError> {
        let found = self.columns.iter().position(|column| column.name == name);
        let found = found.filter(|at| !matches!(self.columns[*at].source, ColumnSource::Lookup { .. }));
        found.ok_or(CodeError::Column)
    }
}

/// Whether a value can be stored and read again.
fn is_small(value: &Value) -> bool {
    levels(value, MOST_LEVELS) && serde_json::to_writer(Counter(MOST_BYTES), value).is_ok()
}

fn levels(value: &Value, left: usize) -> bool {
    left > 0
        && match value {
            Value::Array(items) => items.iter().all(|item| levels(item, left - 1)),
            Value::Object(members) => members.values().all(|item| levels(item, left - 1)),
            _ => true,
        }
}
