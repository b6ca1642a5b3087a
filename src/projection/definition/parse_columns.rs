//! Columns of a definition, or the members of a fold's state.
//!
//! Owns: what a column may say, and the order of derived columns: each stands after everything it is computed from. Must
//! not know: handlers. Keeps: columns that handlers fill come first, by name, then derived ones (members of a JSON object
//! have no order that survives).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::parse_expression::{Names, expression};
use super::parse_reader::{Object, Problems, name_fits, pointer};
use super::{Column, ColumnSource, ColumnType, ProjectionName};
use crate::projection::expression::{Expression, Root, Scope};

const MOST_COLUMNS: usize = 100;

const MEMBERS: [&str; 8] = ["type", "default", "derive", "lookup", "placeholder", "searchable", "sortable", "public"];
const DERIVE_SCOPE: Scope = Scope { roots: &[Root::Row, Root::Key], fold: false, bare: false };
const FOLD_DERIVE_SCOPE: Scope = Scope { roots: &[Root::Row], fold: true, bare: false };

/// The columns of a definition, those with problems included so that references to them are not refused too.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub list: Vec<Column>,
    /// Names of columns whose declaration is wrong.
    broken: BTreeSet<String>,
    /// Names of lookups, wrong ones too.
    lookups: BTreeSet<String>,
}

impl Columns {
    /// Index of a column.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.list.iter().position(|column| column.name == name)
    }

    /// Every name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|column| column.name.as_str())
    }

    /// A column whose declaration is right.
    pub fn usable(&self, name: &str) -> Option<&Column> {
        self.find(name).map(|at| &self.list[at]).filter(|column| !self.broken.contains(&column.name))
    }

    /// Whether a column is filled only when a query is answered.
    pub fn is_lookup(&self, at: usize) -> bool {
        self.lookups.contains(&self.list[at].name)
    }
}

/// Reads `columns` or `state`. `own`: the projection's name.
pub(super) fn columns(
    object: &Object<'_>,
    member: &str,
    names: &Names,
    own: Option<&ProjectionName>,
    problems: &mut Problems,
) -> Columns {
    let mut columns = Columns::default();
    let Some((value, at)) = object.need(member, problems) else { return columns };
    let Some(declared) = Object::new(value, &at, problems) else { return columns };
    if declared.members.len() > MOST_COLUMNS {
        problems.add(at, format!("has at most {MOST_COLUMNS} columns"));
        return columns;
    }
    let mut derived = Vec::new();
    for (name, value, at) in declared.each() {
        name_fits(name, &at, problems);
        if names.key().contains(name) {
            problems.add(at.as_str(), "the key has a part of this name");
        }
        let column = column(value, &at, names, own, problems);
        if matches!(column.source, Some(Source::Lookup { .. })) {
            columns.lookups.insert(name.to_owned());
        }
        let Read { kind, default, source, placeholder, searchable, sortable, public } = column;
        if kind.is_none() || source.is_none() {
            columns.broken.insert(name.to_owned());
        }
        let kind = kind.unwrap_or(ColumnType::Json);
        let default = default.unwrap_or_else(|| kind.empty());
        let source = match source {
            Some(Source::Derived(text)) => {
                derived.push((name.to_owned(), text));
                ColumnSource::Handlers
            }
            Some(Source::Lookup { projection, column }) => ColumnSource::Lookup { projection, column },
            Some(Source::Handlers) | None => ColumnSource::Handlers,
        };
        let name = name.to_owned();
        columns.list.push(Column { name, kind, default, source, placeholder, searchable, sortable, public });
    }
    derive(&mut columns, &derived, &at, names, problems);
    columns
}

/// What a column says. `None` for a type or source that is wrong.
#[derive(Default)]
struct Read<'v> {
    kind: Option<ColumnType>,
    default: Option<Value>,
    source: Option<Source<'v>>,
    placeholder: Option<Value>,
    searchable: bool,
    sortable: bool,
    public: bool,
}

enum Source<'v> {
    Handlers,
    Derived(&'v Value),
    Lookup { projection: ProjectionName, column: String },
}

fn column<'v>(
    value: &'v Value,
    at: &str,
    names: &Names,
    own: Option<&ProjectionName>,
    problems: &mut Problems,
) -> Read<'v> {
    let mut read = Read::default();
    if let Value::String(_) = value {
        read.kind = kind(value, at, problems);
        read.source = Some(Source::Handlers);
        return read;
    }
    let Some(object) = Object::of(value, at, &MEMBERS, problems) else { return read };
    read.kind = object.need("type", problems).and_then(|(value, at)| kind(value, &at, problems));
    read.source = source(&object, names, own, problems);
    if let Some((value, at)) = object.get("default") {
        if !matches!(read.source, Some(Source::Handlers) | None) {
            problems.add(at, "only a column that handlers fill has a default");
        } else if read.kind.as_ref().is_some_and(|kind| !kind.fits(value)) {
            problems.add(at, "is not of the column's type");
        } else {
            read.default = Some(value.clone());
        }
    }
    if let Some((value, at)) = object.get("placeholder") {
        if read.kind.as_ref().is_some_and(|kind| !value.is_null() && !kind.fits(value)) {
            problems.hinted(at, "is not of the column's type", "`null` always fits");
        } else {
            read.placeholder = Some(value.clone());
        }
    }
    read.searchable = flag(&object, "searchable", problems);
    read.sortable = flag(&object, "sortable", problems);
    if read.sortable && read.kind.as_ref().is_some_and(|kind| !kind.is_scalar()) {
        problems.add(pointer(at, "sortable"), "values of this type have no order");
    }
    read.public = flag(&object, "public", problems);
    if read.public && !matches!(read.source, Some(Source::Handlers) | None) {
        problems.add(pointer(at, "public"), "only of a column that is filled when events are handled");
    }
    read
}

fn kind(value: &Value, at: &str, problems: &mut Problems) -> Option<ColumnType> {
    let kind = value.as_str().and_then(ColumnType::parse);
    if kind.is_none() {
        problems.hinted(at, "is not a type", format!("types are: {}", ColumnType::TEXTS));
    }
    kind
}

fn flag(object: &Object<'_>, name: &str, problems: &mut Problems) -> bool {
    match object.get(name) {
        None => false,
        Some((Value::Bool(flag), _)) => *flag,
        Some((_, at)) => {
            problems.hinted(at, "must be true or false", "`yes`, `no`, `on` and `off` are texts in YAML 1.2");
            false
        }
    }
}

fn source<'v>(
    object: &Object<'v>,
    names: &Names,
    own: Option<&ProjectionName>,
    problems: &mut Problems,
) -> Option<Source<'v>> {
    match (object.get("derive"), object.get("lookup")) {
        (None, None) => Some(Source::Handlers),
        (Some((value, _)), None) => Some(Source::Derived(value)),
        (Some(_), Some((_, at))) => {
            problems.add(at, "a column is derived or looked up, not both");
            None
        }
        (None, Some((_, at))) if names.is_fold() => {
            problems.add(at, "a fold has no key to look up by");
            None
        }
        (None, Some((value, at))) => {
            let parts = value.as_str().and_then(|text| text.split_once('.'));
            let parts =
                parts.and_then(|(name, column)| Some((ProjectionName::parse(name)?, ProjectionName::parse(column)?)));
            let Some((projection, column)) = parts else {
                problems.hinted(at, "is not a column of a projection", "write `projection.column`");
                return None;
            };
            if own == Some(&projection) {
                problems.hinted(at, "a projection cannot look itself up", "use `derive`");
                return None;
            }
            Some(Source::Lookup { projection, column: column.as_str().to_owned() })
        }
    }
}

/// Compiles derived columns and puts each after those it reads.
fn derive(columns: &mut Columns, derived: &[(String, &Value)], at: &str, names: &Names, problems: &mut Problems) {
    let known = names.with(columns);
    let scope = if names.is_fold() { FOLD_DERIVE_SCOPE } else { DERIVE_SCOPE };
    let place = |name: &str| pointer(&pointer(at, name), "derive");
    let mut open: BTreeMap<String, (Expression, BTreeSet<String>)> = BTreeMap::new();
    for (name, value) in derived {
        match expression(value, &place(name), scope, &known, problems) {
            None => drop(columns.broken.insert(name.clone())),
            Some(found) => {
                let mut reads = BTreeSet::new();
                for read in found.reads().iter().filter(|read| read.root == Root::Row) {
                    match read.path.first() {
                        Some(column) => drop(reads.insert(column.clone())),
                        None => {
                            problems.add(place(name), "a derived column cannot read the whole row, itself included");
                        }
                    }
                }
                open.insert(name.clone(), (found, reads));
            }
        }
    }
    loop {
        let ready = open.iter().find(|(_, (_, reads))| !reads.iter().any(|read| open.contains_key(read)));
        let Some(name) = ready.map(|(name, _)| name.clone()) else { break };
        if let Some((found, _)) = open.remove(&name) {
            put(columns, &name, found);
        }
    }
    for (name, (found, _)) in open {
        problems.add(place(&name), "is computed from itself, directly or through other derived columns");
        put(columns, &name, found);
    }
}

/// Makes a column derived and moves it to the end.
fn put(columns: &mut Columns, name: &str, derived: Expression) {
    if let Some(at) = columns.find(name) {
        let mut column = columns.list.remove(at);
        column.source = ColumnSource::Derived(derived);
        columns.list.push(column);
    }
}
