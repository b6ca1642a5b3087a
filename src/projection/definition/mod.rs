//! What a projection or fold is, once its definition has been read and checked.
//!
//! Owns: the types. `parse` makes them from YAML or JSON; nothing else does. Must not know: rows, events, storage.

mod parse;
mod parse_columns;
mod parse_expression;
mod parse_handlers;
mod parse_reader;
mod parse_text;
mod parse_window;
mod types;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

pub(super) use parse_reader::{pointer, violation};
pub use parse_text::{MOST_BYTES, documents};

use super::expression::{Expression, Root};
use crate::event::{Category, EventType};

/// Name of a projection or fold: a lower-case letter, then lower-case letters, digits and `_`, at most 64 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectionName(Arc<str>);

impl ProjectionName {
    /// Parses a name.
    pub fn parse(text: &str) -> Option<Self> {
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        let rest = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        (first && rest && text.len() <= 64).then(|| Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProjectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a definition is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// YAML 1.2: every JSON text is YAML too.
    Yaml,
}

/// A checked definition.
#[derive(Debug)]
pub struct Definition {
    /// Name.
    pub name: ProjectionName,
    /// Chosen by the author; must grow when anything else changes.
    pub version: u32,
    /// Rows by key, or one state per stream.
    pub kind: Kind,
    /// Which events.
    pub from: Source,
    /// Columns: those that handlers fill and lookups by name, then derived ones, each after those it reads. For a fold,
    /// the members of its state.
    pub columns: Vec<Column>,
    /// What to do per event type: the first rule whose guard holds. Empty where code or aggregates do it.
    pub handlers: BTreeMap<EventType, Vec<Rule>>,
    /// Name of the code that handles events instead, whatever their type.
    pub code: Option<String>,
    /// What happens to rows of a forgotten person.
    pub on_erasure: OnErasure,
    /// What happens when an event cannot be handled.
    pub on_error: OnError,
    /// How long former versions of rows are kept, in milliseconds, if they are.
    pub history: Option<i64>,
    /// The definition as canonical JSON: what is stored, shown and compared.
    pub text: String,
}

/// Rows by key, or one state per stream.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one per definition")]
pub enum Kind {
    /// A projection.
    Rows {
        /// Parts of the key, by name.
        key: Vec<KeyPart>,
        /// Declared orders.
        indexes: Vec<Index>,
        /// Rows per window of time.
        window: Option<Window>,
        /// Aggregates, only with or without a window, never beside `handle`.
        aggregates: Vec<Aggregate>,
        /// A timer per row.
        due: Option<Due>,
    },
    /// A fold per stream.
    Fold {
        /// Events between snapshots.
        snapshot_every: Option<u32>,
        /// Must hold after every event, else the append is refused. Sees `state`.
        invariant: Option<Expression>,
    },
}

/// Which events a definition sees: of one of these types and, if given, of this category.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Category.
    pub category: Option<Category>,
    /// Types; empty for all.
    pub types: Vec<EventType>,
}

/// One part of a row's key. Never personal: pseudonyms and public values only.
#[derive(Debug)]
pub struct KeyPart {
    /// Name, `key.<name>` in expressions and a member of the row in answers.
    pub name: String,
    /// Value, over `data`, `event`, `subject`.
    pub value: Expression,
}

/// One column.
#[derive(Debug)]
pub struct Column {
    /// Name.
    pub name: String,
    /// Type.
    pub kind: ColumnType,
    /// Value of a new row, `null` unless declared.
    pub default: Value,
    /// Where its value comes from.
    pub source: ColumnSource,
    /// What is shown instead of a value that is not, unless a field of an event was copied that has its own placeholder.
    pub placeholder: Option<Value>,
    /// Meant for filters.
    pub searchable: bool,
    /// Meant for sorting.
    pub sortable: bool,
    /// Where code decides what is in the column: that nothing personal may be. Checked with every value.
    pub public: bool,
}

/// Where a column's value comes from.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a hundred per definition at most")]
pub enum ColumnSource {
    /// From handlers.
    Handlers,
    /// Computed from the row, over `row` and `key`, after every change of the row.
    Derived(Expression),
    /// Another projection's column, looked up by the key parts of the same names when a query is answered.
    Lookup {
        /// The projection.
        projection: ProjectionName,
        /// Its column.
        column: String,
    },
}

/// Types of columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// `string`
    String,
    /// `int`: a signed 64-bit integer.
    Int,
    /// `float`
    Float,
    /// `bool`
    Bool,
    /// `date`: `2026-11-21`.
    Date,
    /// `timestamp`: RFC 3339.
    Timestamp,
    /// `json`: anything.
    Json,
    /// `list<T>`
    List(Box<ColumnType>),
    /// `map<string,T>`
    Map(Box<ColumnType>),
}

/// One entry of `handle`.
#[derive(Debug)]
pub struct Rule {
    /// Guard, over `data`, `event`, `subject`, `row`, `key`; never personal. Without one it always holds.
    pub when: Option<Expression>,
    /// What to do; several for several rows.
    pub actions: Vec<Action>,
    /// Where in the definition it stands (JSON Pointer).
    pub pointer: String,
}

/// What to do to one row. Expressions see the row as it was before the event.
#[derive(Debug)]
pub struct Action {
    /// Another key than the projection's: the same parts.
    pub key: Option<Vec<KeyPart>>,
    /// Whether a missing row is made (`upsert`, `set`, `increment`, `decrement`, `append`) or left alone (`update`,
    /// `patch`, `remove`, `delete`).
    pub create: bool,
    /// Removes the row; there are no steps then.
    pub delete: bool,
    /// Changes of columns, each column at most once (entries of one map excepted).
    pub steps: Vec<Step>,
    /// Where in the definition it stands (JSON Pointer).
    pub pointer: String,
}

/// One change of one column.
#[derive(Debug)]
pub struct Step {
    /// Index into the columns.
    pub column: usize,
    /// Entry of a map column; never personal.
    pub entry: Option<Expression>,
    /// What to do.
    pub operation: Operation,
    /// The operand; `true` where an entry is removed.
    pub value: Expression,
    /// Where in the definition it stands (JSON Pointer).
    pub pointer: String,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    /// Takes the value; `null` when a plain path is absent from the event.
    Set,
    /// Takes the value unless a plain path is absent from the event.
    Patch,
    /// Adds a number.
    Increment,
    /// Subtracts a number, but not below the floor.
    Decrement {
        /// Least value, if any.
        floor: Option<f64>,
    },
    /// Adds an element at the end of a list.
    Append,
    /// Removes equal elements of a public list, or an entry of a map.
    Remove,
}

/// A declared order of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Key parts and columns, each ascending or descending.
    pub parts: Vec<IndexPart>,
}

/// One part of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexPart {
    /// Key part or column.
    pub name: String,
    /// Largest first.
    pub descending: bool,
}

/// Rows per window of time. The row's key has `window_start` besides the declared parts.
#[derive(Debug)]
pub struct Window {
    /// Time of the event, over `data` and `event`.
    pub by: Expression,
    /// Length of the smallest window, in milliseconds. Windows begin at multiples of it since 1970-01-01T00:00Z.
    pub size: i64,
    /// An event whose time is more than this before the log recorded it is late: it is left out.
    pub late: Option<i64>,
    /// Windows that ended more than this before the log's newest event are removed.
    pub keep: Option<i64>,
    /// Longer windows that are kept too, ascending multiples of `size`.
    pub rollup: Vec<i64>,
}

/// One aggregate column.
#[derive(Debug)]
pub struct Aggregate {
    /// Column name.
    pub name: String,
    /// Which.
    pub function: AggregateFunction,
    /// Operand; `None` for `count()`. For `count`, a condition.
    pub value: Option<Expression>,
    /// Why it may be shown although personal values go into it; and of how many people it must be.
    pub declassify: Option<Declassify>,
}

/// A decision that an aggregate over people says nothing about one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declassify {
    /// The reason, for the record.
    pub reason: String,
    /// Fewer people than this: not shown.
    pub min_group: u32,
}

/// Aggregate functions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AggregateFunction {
    /// Events, or those for which the condition holds.
    Count,
    /// Sum.
    Sum,
    /// Least.
    Min,
    /// Greatest.
    Max,
    /// Mean.
    Avg,
    /// Number of different values.
    Distinct,
    /// Approximate quantile.
    Quantile(f64),
}

/// A timer per row.
#[derive(Debug)]
pub struct Due {
    /// Timestamp column.
    pub at: usize,
    /// Stream of the event, over `row`, `key`; default `<projection>-<_key>`.
    pub stream: Option<Expression>,
    /// Type of the event.
    pub event_type: EventType,
    /// Members of its data, over `row` and `key`; never personal.
    pub data: Vec<(String, Expression)>,
}

/// What happens to the rows of a forgotten person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnErasure {
    /// Placeholders stand in the row.
    Redact,
    /// The row is removed.
    DeleteRow,
    /// The row stays, for this reason; only for projections without personal columns.
    Keep(String),
}

/// What happens when an event cannot be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The projection stops there and says why.
    Stop,
    /// The event's position and the reason are put aside.
    Park,
}

impl Definition {
    /// What the envelopes of its rows or snapshots are bound to.
    pub fn sealing_name(&self) -> String {
        match &self.kind {
            Kind::Rows { .. } => format!("projection/{}", self.name),
            Kind::Fold { .. } => format!("fold/{}", self.name),
        }
    }

    /// Whether its columns are aggregates.
    pub fn is_aggregate(&self) -> bool {
        matches!(&self.kind, Kind::Rows { aggregates, .. } if !aggregates.is_empty())
    }

    /// Whether rows are removed some time after their window.
    pub fn expires(&self) -> bool {
        matches!(&self.kind, Kind::Rows { window: Some(window), .. } if window.keep.is_some())
    }

    /// Whether rows have timers.
    pub fn has_timers(&self) -> bool {
        self.expires() || matches!(&self.kind, Kind::Rows { due: Some(_), .. })
    }

    /// Whether code decides what is in a column, so that only an event can tell whether it is personal.
    pub fn code_decides(&self, column: usize) -> bool {
        let column = &self.columns[column];
        self.code.is_some()
            && match &column.source {
                ColumnSource::Handlers => !column.public,
                ColumnSource::Lookup { .. } => false,
                ColumnSource::Derived(expression) => {
                    let mut read = expression.reads().iter().filter(|read| read.root == Root::Row);
                    // The order of derived columns has no circles.
                    read.any(|read| {
                        read.path.first().and_then(|name| self.column(name)).is_none_or(|at| self.code_decides(at))
                    })
                }
            }
    }

    /// Index of a column.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}
