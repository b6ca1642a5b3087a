//! From a text to a checked definition, or to everything that is wrong with it.
//!
//! Owns: the members of a definition and how the parts fit together. Must not know: events, rows, schemas; what personal
//! data does in a definition is `lineage`. Keeps: an unknown member is refused, for a typing error must not change what
//! a projection means; all problems are reported at once, each with a JSON Pointer into the definition.

use std::collections::BTreeMap;

use serde_json::Value;

use super::parse_columns::{Columns, columns};
use super::parse_expression::{Names, expression};
use super::parse_handlers::handlers;
use super::parse_reader::{Object, Problems, filled, from_one, list, name_fits, pointer, reason, suggestion};
use super::parse_window::{aggregates, length, window};
use super::{
    Column, ColumnSource, ColumnType, Definition, Due, Format, Index, IndexPart, KeyPart, Kind, OnErasure, OnError,
    ProjectionName, Rule, Source,
};
use crate::event::canonical::canonical;
use crate::event::{Category, EventType};
use crate::projection::expression::{Root, Scope};
use crate::projection::index::{WINDOW, WINDOW_START};
use crate::schema::Violation;

const MOST_KEY_PARTS: usize = 8;
const MOST_TYPES: usize = 100;
const MOST_INDEXES: usize = 8;
const MOST_DUE_MEMBERS: usize = 100;

const PROJECTION_MEMBERS: [&str; 14] = [
    "projection",
    "version",
    "from",
    "key",
    "columns",
    "handle",
    "code",
    "indexes",
    "window",
    "aggregate",
    "due",
    "history",
    "on_erasure",
    "on_error",
];
const FOLD_MEMBERS: [&str; 9] =
    ["fold", "version", "from", "state", "handle", "snapshot", "invariant", "on_erasure", "on_error"];

const KEY_SCOPE: Scope = Scope { roots: &[Root::Data, Root::Event, Root::Subject], fold: false, bare: false };
pub(super) const ROW_SCOPE: Scope = Scope { roots: &[Root::Row, Root::Key], fold: false, bare: false };
/// What an event is called and where it goes is the same for ever, as its row's key is.
const STREAM_SCOPE: Scope = Scope { roots: &[Root::Key], fold: false, bare: false };
const INVARIANT_SCOPE: Scope = Scope { roots: &[Root::Row], fold: true, bare: false };

impl Definition {
    /// Reads a definition.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with a JSON Pointer into the definition; never empty.
    pub fn parse(text: &str, format: Format) -> Result<Self, Vec<Violation>> {
        let value = super::parse_text::read(text, format).map_err(|violation| vec![violation])?;
        Self::from_value(&value)
    }

    /// Reads a definition that is JSON already. The caller has limited its size.
    ///
    /// # Errors
    /// As [`Definition::parse`].
    pub fn from_value(value: &Value) -> Result<Self, Vec<Violation>> {
        let mut problems = Problems::default();
        match definition(value, &mut problems) {
            Some(definition) if problems.is_empty() => Ok(definition),
            _ => Err(problems.into_list()),
        }
    }
}

/// What depends on whether it is a projection by rules, a projection by aggregates, or a fold.
struct Body {
    kind: Kind,
    columns: Vec<Column>,
    handlers: BTreeMap<EventType, Vec<Rule>>,
    code: Option<String>,
}

fn definition(value: &Value, problems: &mut Problems) -> Option<Definition> {
    let object = Object::new(value, "", problems)?;
    let fold = match (object.has("projection"), object.has("fold")) {
        (true, true) => {
            problems.add("/fold", "a definition is a projection or a fold, not both");
            return None;
        }
        (false, false) => {
            problems.hinted("", "neither a projection nor a fold", "begin with `projection: name` or `fold: name`");
            return None;
        }
        (_, fold) => fold,
    };
    object.only(if fold { &FOLD_MEMBERS } else { &PROJECTION_MEMBERS }, problems);
    let (name, at) = object.need(if fold { "fold" } else { "projection" }, problems)?;
    let name = name.as_str().and_then(ProjectionName::parse);
    if name.is_none() {
        problems.add(at, "a name is a lower-case letter, then a-z 0-9 _, at most 64 characters");
    }
    let version = object.need("version", problems).and_then(|(value, at)| from_one(value, &at, problems));
    let from = object.need("from", problems).and_then(|(value, at)| source(value, &at, problems));
    let types = from.as_ref().map_or(&[][..], |from| &from.types);
    let body = if fold {
        fold_body(&object, types, problems)
    } else if object.has("aggregate") || object.has("window") {
        grouped_body(&object, problems)
    } else {
        rows_body(&object, name.as_ref(), types, problems)
    };
    let on_erasure = object.get("on_erasure").map(|(value, at)| on_erasure(value, &at, fold, problems));
    let on_error = object.get("on_error").map(|(value, at)| on_error(value, &at, problems));
    let history = object.get("history").filter(|_| !fold);
    let history = history.and_then(|(value, at)| length(value, &at, problems));
    Some(Definition {
        name: name?,
        version: version?,
        kind: body.kind,
        from: from?,
        columns: body.columns,
        handlers: body.handlers,
        code: body.code,
        on_erasure: on_erasure.unwrap_or(Some(OnErasure::Redact))?,
        on_error: on_error.unwrap_or(Some(OnError::Stop))?,
        history,
        text: canonical(value),
    })
}

fn fold_body(object: &Object<'_>, types: &[EventType], problems: &mut Problems) -> Body {
    let columns = columns(object, "state", &Names::fold(), None, problems);
    let names = Names::fold().with(&columns);
    no_promises(&columns, "/state", problems);
    let handlers = handlers(object, types, &columns, &names, problems);
    let snapshot = object.get("snapshot").and_then(|(value, at)| Object::of(value, &at, &["every"], problems));
    let every = snapshot.and_then(|snapshot| snapshot.need("every", problems));
    let snapshot_every = every.and_then(|(value, at)| from_one(value, &at, problems));
    let invariant = object.get("invariant");
    let invariant = invariant.and_then(|(value, at)| expression(value, &at, INVARIANT_SCOPE, &names, problems));
    Body { kind: Kind::Fold { snapshot_every, invariant }, columns: columns.list, handlers, code: None }
}

fn rows_body(object: &Object<'_>, name: Option<&ProjectionName>, types: &[EventType], problems: &mut Problems) -> Body {
    let (key, parts) = key(object, problems);
    let names = Names::rows(parts);
    let columns = columns(object, "columns", &names, name, problems);
    let names = names.with(&columns);
    let code = object.get("code").and_then(|(value, at)| code(value, &at, problems));
    let handlers = if object.has("code") {
        if object.has("handle") {
            problems.hinted("/handle", "does not go with `code`", "the code handles every event of `from`");
        }
        BTreeMap::new()
    } else {
        no_promises(&columns, "/columns", problems);
        handlers(object, types, &columns, &names, problems)
    };
    let indexes = indexes(object, &names, problems);
    sortable_indexes(&indexes, &columns, problems);
    let due = object.get("due").and_then(|(value, at)| due(value, &at, &columns, &names, problems));
    let kind = Kind::Rows { key, indexes, window: None, aggregates: Vec::new(), due };
    Body { kind, columns: columns.list, handlers, code }
}

fn grouped_body(object: &Object<'_>, problems: &mut Problems) -> Body {
    for member in ["handle", "columns", "due", "code", "history"].into_iter().filter(|name| object.has(name)) {
        problems.add(pointer("", member), "does not go with `aggregate` and `window`");
    }
    let (key, parts) = key(object, problems);
    let mut names = Names::rows(parts);
    let window = object.get("window").and_then(|(value, at)| window(value, &at, &names, problems));
    let found = object.need("aggregate", problems);
    let aggregates = found.map(|(value, at)| aggregates(value, &at, &mut names, problems)).unwrap_or_default();
    if object.has("window") {
        names.claim(WINDOW_START, "/window", problems);
        names.claim(WINDOW, "/window", problems);
    }
    let indexes = indexes(object, &names, problems);
    let columns = aggregates.iter().map(|aggregate| partials(&aggregate.name)).collect();
    let kind = Kind::Rows { key, indexes, window, aggregates, due: None };
    Body { kind, columns, handlers: BTreeMap::new(), code: None }
}

fn code(value: &Value, at: &str, problems: &mut Problems) -> Option<String> {
    let name = value.as_str().and_then(ProjectionName::parse);
    if name.is_none() {
        problems.add(at, "a name of code is a lower-case letter, then a-z 0-9 _, at most 64 characters");
    }
    name.map(|name| name.to_string())
}

/// Where no code decides, lineage knows.
fn no_promises(columns: &Columns, at: &str, problems: &mut Problems) {
    for column in columns.list.iter().filter(|column| column.public) {
        let hint = "what is personal in a column is worked out from the schemas";
        problems.hinted(pointer(&pointer(at, &column.name), "public"), "means something only with `code`", hint);
    }
}

/// The column in which a row keeps what an aggregate has seen so far.
fn partials(name: &str) -> Column {
    Column {
        name: name.to_owned(),
        kind: ColumnType::Json,
        default: Value::Null,
        source: ColumnSource::Handlers,
        placeholder: None,
        searchable: false,
        sortable: false,
        public: false,
    }
}

fn source(value: &Value, at: &str, problems: &mut Problems) -> Option<Source> {
    let object = Object::of(value, at, &["types", "category"], problems)?;
    if !object.has("types") && !object.has("category") {
        problems.add(at, "needs `types`, `category` or both");
        return None;
    }
    let mut category = None;
    if let Some((value, at)) = object.get("category") {
        category = value.as_str().and_then(|text| Category::parse(text).ok());
        if category.is_none() {
            problems.add(at, "is not the name of a category");
        }
    }
    let mut types = Vec::new();
    if let Some((value, at)) = object.get("types") {
        let items = list(value, &at, MOST_TYPES, problems)?;
        if items.is_empty() {
            problems.hinted(at.as_str(), "is empty", "leave `types` out to take every type of the category");
        }
        for (index, item) in items.iter().enumerate() {
            let at = pointer(&at, &index.to_string());
            match event_type(item, &at, problems) {
                Some(name) if types.contains(&name) => problems.add(at, "the same type twice"),
                Some(name) => types.push(name),
                None => {}
            }
        }
    }
    Some(Source { category, types })
}

/// A name of an event type that is not the system's own.
pub(super) fn event_type(value: &Value, at: &str, problems: &mut Problems) -> Option<EventType> {
    let found = value.as_str().and_then(|text| EventType::parse(text).ok());
    if found.is_none() {
        problems.add(at, "is not the name of an event type");
    }
    found
}

/// The key and the names of its parts, those of wrong parts too.
fn key(object: &Object<'_>, problems: &mut Problems) -> (Vec<KeyPart>, Vec<String>) {
    let Some((value, at)) = object.need("key", problems) else { return (Vec::new(), Vec::new()) };
    let Some(inner) = Object::new(value, &at, problems) else { return (Vec::new(), Vec::new()) };
    for (name, _, at) in inner.each() {
        name_fits(name, &at, problems);
    }
    (key_parts(&inner, problems), inner.members.keys().cloned().collect())
}

/// The parts of a key, sorted by name: the order of members does not survive in JSON.
pub(super) fn key_parts(object: &Object<'_>, problems: &mut Problems) -> Vec<KeyPart> {
    let count = object.members.len();
    if count == 0 || count > MOST_KEY_PARTS {
        problems.add(object.at.as_str(), format!("a key has 1 to {MOST_KEY_PARTS} parts"));
    }
    let mut parts = Vec::new();
    for (name, value, at) in object.each().take(MOST_KEY_PARTS) {
        let value = expression(value, &at, KEY_SCOPE, &Names::default(), problems);
        parts.extend(value.map(|value| KeyPart { name: name.to_owned(), value }));
    }
    parts
}

fn indexes(object: &Object<'_>, names: &Names, problems: &mut Problems) -> Vec<Index> {
    let Some((value, at)) = object.get("indexes") else { return Vec::new() };
    let mut indexes = Vec::new();
    for (number, item) in list(value, &at, MOST_INDEXES, problems).unwrap_or_default().iter().enumerate() {
        let at = pointer(&at, &number.to_string());
        let mut parts: Vec<IndexPart> = Vec::new();
        let empty = "names key parts and columns, `-name` for largest first";
        for (number, item) in filled(item, &at, MOST_KEY_PARTS, empty, problems).iter().enumerate() {
            let at = pointer(&at, &number.to_string());
            let text = item.as_str().unwrap_or_default();
            let name = text.strip_prefix('-').unwrap_or(text);
            if parts.iter().any(|part| part.name == name) {
                problems.add(at, "the same name twice");
            } else if let Some(problem) = names.not_stored(name) {
                problems.hinted(at, problem, suggestion(name, names.all()));
            } else {
                parts.push(IndexPart { name: name.to_owned(), descending: text.starts_with('-') });
            }
        }
        indexes.push(Index { parts });
    }
    indexes
}

/// Lists, maps and documents have no order.
fn sortable_indexes(indexes: &[Index], columns: &Columns, problems: &mut Problems) {
    for (number, index) in indexes.iter().enumerate() {
        for part in &index.parts {
            if columns.usable(&part.name).is_some_and(|column| !column.kind.is_scalar()) {
                problems.add(format!("/indexes/{number}"), format!("`{}` has no order: it is no scalar", part.name));
            }
        }
    }
}

fn due(value: &Value, at: &str, columns: &Columns, names: &Names, problems: &mut Problems) -> Option<Due> {
    let object = Object::of(value, at, &["at", "emit"], problems)?;
    let column = object.need("at", problems).and_then(|(value, at)| due_column(value, &at, columns, problems));
    let emit = object.need("emit", problems);
    let emit = emit.and_then(|(value, at)| Object::of(value, &at, &["type", "stream", "data"], problems))?;
    let event_type = emit.need("type", problems).and_then(|(value, at)| event_type(value, &at, problems));
    let stream = emit.get("stream").and_then(|(value, at)| expression(value, &at, STREAM_SCOPE, names, problems));
    let mut data = Vec::new();
    if let Some(members) = emit.get("data").and_then(|(value, at)| Object::new(value, &at, problems)) {
        if members.members.len() > MOST_DUE_MEMBERS {
            problems.add(members.at.as_str(), format!("has at most {MOST_DUE_MEMBERS} members"));
        }
        for (name, value, at) in members.each() {
            let value = expression(value, &at, ROW_SCOPE, names, problems);
            data.extend(value.map(|value| (name.to_owned(), value)));
        }
    }
    Some(Due { at: column?, stream, event_type: event_type?, data })
}

fn due_column(value: &Value, at: &str, columns: &Columns, problems: &mut Problems) -> Option<usize> {
    let name = value.as_str().unwrap_or_default();
    let Some(column) = columns.find(name) else {
        problems.hinted(at, "there is no such column", suggestion(name, columns.names()));
        return None;
    };
    if columns.usable(name).is_some_and(|column| column.kind != ColumnType::Timestamp) {
        problems.add(at, "must be a column of type timestamp");
    } else if columns.is_lookup(column) {
        problems.add(at, "a lookup has its value only when a query is answered");
    }
    Some(column)
}

fn on_erasure(value: &Value, at: &str, fold: bool, problems: &mut Problems) -> Option<OnErasure> {
    match value {
        Value::String(text) if text == "redact" => Some(OnErasure::Redact),
        Value::String(text) if text == "delete_row" && fold => {
            problems.add(at, "a fold has no rows to delete");
            None
        }
        Value::String(text) if text == "delete_row" => Some(OnErasure::DeleteRow),
        Value::Object(_) => {
            let object = Object::of(value, at, &["keep"], problems)?;
            let (value, at) = object.need("keep", problems)?;
            reason(value, &at, problems).map(OnErasure::Keep)
        }
        _ => {
            problems.hinted(at, "is not known", "`redact`, `delete_row` or `{keep: \"why\"}`");
            None
        }
    }
}

fn on_error(value: &Value, at: &str, problems: &mut Problems) -> Option<OnError> {
    match value.as_str() {
        Some("stop") => Some(OnError::Stop),
        Some("park") => Some(OnError::Park),
        _ => {
            problems.hinted(at, "is not known", "`stop` or `park`");
            None
        }
    }
}
