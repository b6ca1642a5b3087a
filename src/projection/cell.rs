//! Values of a row, each with its owners.
//!
//! Owns: cells, the columns they make up, and what an expression may see of them. Must not know: storage, keys. A list or
//! map is kept cell by cell, so that forgetting one person hides one element; a list or map that is itself personal (its
//! length or keys say something) is one cell.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::definition::ColumnType;
use super::owners::{CombineError, Owners};

/// Where the placeholder of a copied value comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A field of an event type: type, schema version, pointer.
    Schema(String, u32, String),
    /// An in-line mark: its placeholder as canonical JSON.
    Inline(String),
}

/// One value. A personal one does not print.
#[derive(Clone, PartialEq)]
pub struct Cell {
    /// The value; `None` when it cannot be read any more.
    pub value: Option<Value>,
    /// Whose it is.
    pub owners: Owners,
    /// Set when the value is a copy of one field of an event.
    pub origin: Option<Arc<Origin>>,
}

impl Cell {
    /// A public value.
    pub fn public(value: Value) -> Self {
        Self { value: Some(value), owners: Owners::public(), origin: None }
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = match &self.value {
            Some(value) if self.owners.is_public() => value.to_string(),
            Some(_) => "[personal]".to_owned(),
            None => "[closed]".to_owned(),
        };
        f.debug_struct("Cell").field("value", &value).field("owners", &self.owners).finish_non_exhaustive()
    }
}

/// The content of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// One value.
    Single(Cell),
    /// Elements.
    List(Vec<Cell>),
    /// Entries; the keys are public.
    Map(BTreeMap<String, Cell>),
}

impl Content {
    /// What a column of this type holds when it takes a public value.
    pub fn public(kind: &ColumnType, value: Value) -> Self {
        Self::of(kind, Cell::public(value))
    }

    /// What a column of this type holds when it takes a value.
    pub fn of(kind: &ColumnType, cell: Cell) -> Self {
        if !cell.owners.is_public() {
            return Self::Single(cell);
        }
        match (kind, cell.value) {
            (ColumnType::List(_), Some(Value::Array(items))) => {
                Self::List(items.into_iter().map(Cell::public).collect())
            }
            (ColumnType::Map(_), Some(Value::Object(members))) => {
                Self::Map(members.into_iter().map(|(key, value)| (key, Cell::public(value))).collect())
            }
            (_, value) => Self::Single(Cell { value, owners: cell.owners, origin: cell.origin }),
        }
    }

    /// Every cell with its pointer below the column's.
    pub fn cells(&self) -> Vec<(String, &Cell)> {
        match self {
            Self::Single(cell) => vec![(String::new(), cell)],
            Self::List(cells) => cells.iter().enumerate().map(|(at, cell)| (format!("/{at}"), cell)).collect(),
            Self::Map(cells) => cells.iter().map(|(key, cell)| (format!("/{}", escape(key)), cell)).collect(),
        }
    }

    /// The same, to be changed.
    pub fn cells_mut(&mut self) -> Vec<(String, &mut Cell)> {
        match self {
            Self::Single(cell) => vec![(String::new(), cell)],
            Self::List(cells) => cells.iter_mut().enumerate().map(|(at, cell)| (format!("/{at}"), cell)).collect(),
            Self::Map(cells) => cells.iter_mut().map(|(key, cell)| (format!("/{}", escape(key)), cell)).collect(),
        }
    }

    /// The whole as JSON; `show` says what stands for each cell.
    pub fn to_json(&self, mut show: impl FnMut(&str, &Cell) -> Value) -> Value {
        match self {
            Self::Single(cell) => show("", cell),
            Self::List(cells) => cells.iter().enumerate().map(|(at, cell)| show(&format!("/{at}"), cell)).collect(),
            Self::Map(cells) => {
                let shown = cells.iter().map(|(key, cell)| (key.clone(), show(&format!("/{}", escape(key)), cell)));
                Value::Object(shown.collect::<Map<_, _>>())
            }
        }
    }

    /// The value with all cells readable, `null` for those that are not.
    pub fn clear(&self) -> Value {
        self.to_json(|_, cell| cell.value.clone().unwrap_or_default())
    }

    /// Owners of what lies at or below a path in the column, and whether all of it can be read.
    ///
    /// # Errors
    /// [`CombineError`] when nobody may read all of it.
    pub fn taint(&self, path: &[String]) -> Result<(Owners, bool), CombineError> {
        let one = |cell: &Cell| (cell.owners.clone(), cell.value.is_some());
        match (self, path) {
            (Self::Single(cell), _) => Ok(one(cell)),
            (Self::List(cells), [at, ..]) if at.parse::<usize>().is_ok() => {
                let cell = at.parse::<usize>().ok().and_then(|at| cells.get(at));
                Ok(cell.map_or((Owners::public(), true), one))
            }
            (Self::Map(cells), [key, ..]) => Ok(cells.get(key).map_or((Owners::public(), true), one)),
            (Self::List(cells), _) => all(cells.iter()),
            (Self::Map(cells), []) => all(cells.values()),
        }
    }
}

fn all<'c>(cells: impl Iterator<Item = &'c Cell>) -> Result<(Owners, bool), CombineError> {
    let mut owners = Owners::public();
    let mut readable = true;
    for cell in cells {
        owners = owners.and(&cell.owners)?;
        readable &= cell.value.is_some();
    }
    Ok((owners, readable))
}

/// A JSON Pointer token.
pub fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}
