//! One event applied to one row: pure.
//!
//! Owns: what verbs mean, and that whatever a personal value touched carries its owners. Must not know: storage, keys,
//! other rows. The same event on the same row gives the same row, whether or not its values can still be read: then the
//! cells that depend on them have owners and no value. So what is computed from personal values never fails: where it has
//! no result it is empty, and sealed like any other result. An event that stops a projection, or is put aside, would tell
//! everyone something about the value, for ever.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::cell::{Cell, Content};
use super::definition::{Action, Column, ColumnSource, ColumnType, Definition, KeyPart, Kind, Rule, Step};
use super::expression::{EvalError, Expression, Inputs, Root};
use super::owners::{CombineError, Owners};
use super::row::{Row, RowKey};
use super::verbs::{fitting, in_map, whole};
use super::view::EventView;

/// Why an event cannot be handled. No variant holds a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// An expression failed.
    #[error("{place}: {error}")]
    Expression {
        /// Which expression: `columns/name`, `key/contact`.
        place: String,
        /// How.
        error: EvalError,
    },
    /// An expression that decides about rows or stands in the clear would see a personal value.
    #[error("{place} would depend on personal data")]
    Personal {
        /// Which expression.
        place: String,
    },
    /// Values that may not be combined.
    #[error("{place}: {error}")]
    Combine {
        /// Which expression.
        place: String,
        /// Why.
        error: CombineError,
    },
    /// The result does not fit the column.
    #[error("{place} is not of type {expected}")]
    Type {
        /// Which column.
        place: String,
        /// The type it has.
        expected: String,
    },
    /// More elements than the limit, or a number out of range.
    #[error("{place} would be larger than the limit")]
    TooLarge {
        /// Which column.
        place: String,
    },
}

impl ApplyError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Expression { .. } => "cel-error",
            Self::Personal { .. } => "personal-data-in-the-clear",
            Self::Combine { .. } => "owners-not-combinable",
            Self::Type { .. } => "type-mismatch",
            Self::TooLarge { .. } => "too-large",
        }
    }
}

/// What becomes of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is as it was.
    Unchanged,
    /// It is this now.
    Changed(Row),
    /// It is gone.
    Deleted,
}

/// Parts of a row's key. Never personal.
///
/// # Errors
/// [`ApplyError`].
pub fn key(parts: &[KeyPart], view: &EventView) -> Result<Map<String, Value>, ApplyError> {
    let nothing = Value::Null;
    let inputs = Inputs { data: &view.data, event: &view.event, subject: &view.subjects, row: &nothing, key: &nothing };
    let mut key = Map::new();
    for part in parts {
        let place = format!("key/{}", part.name);
        public(&part.value, view, None, &place)?;
        let value = evaluate(&part.value, &inputs, &place)?.unwrap_or_default();
        match value {
            Value::String(_) | Value::Number(_) | Value::Bool(_) => key.insert(part.name.clone(), value),
            Value::Null => return Err(missing(&place, &part.value)),
            Value::Array(_) | Value::Object(_) => return Err(mismatch(&place, "text, number or truth value")),
        };
    }
    Ok(key)
}

/// What an event does to one row.
#[derive(Debug)]
pub struct Change {
    /// The row's key.
    pub key: RowKey,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// Keys of rows that an event may be about, as far as they can be told: for loading them together.
pub fn candidates(definition: &Definition, view: &EventView) -> Vec<RowKey> {
    let Kind::Rows { key: parts, .. } = &definition.kind else { return Vec::new() };
    let actions = definition.handlers.get(&view.event_type).into_iter().flatten().flat_map(|rule| &rule.actions);
    let own = actions.filter_map(|action| action.key.as_deref());
    let found = std::iter::once(parts.as_slice()).chain(own).filter_map(|parts| key(parts, view).ok());
    let mut keys: Vec<RowKey> = found.map(|parts| RowKey::of(definition.name.as_str(), &parts)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Applies the first rule whose guard holds; `row_of` gives rows as they were before the event.
///
/// # Errors
/// [`ApplyError`]; the event changes nothing then.
pub fn handle<'r>(
    definition: &Definition,
    view: &EventView,
    row_of: impl Fn(&RowKey) -> Option<&'r Row>,
) -> Result<Vec<Change>, ApplyError> {
    let Kind::Rows { key: parts, .. } = &definition.kind else { return Ok(Vec::new()) };
    let Some(rules) = definition.handlers.get(&view.event_type) else { return Ok(Vec::new()) };
    let own = key(parts, view)?;
    let own_key = RowKey::of(definition.name.as_str(), &own);
    let scene = Scene::new(definition, &own, row_of(&own_key), view);
    let Some(rule) = first_rule(rules, &scene)? else { return Ok(Vec::new()) };
    let mut after: BTreeMap<RowKey, Outcome> = BTreeMap::new();
    for action in &rule.actions {
        let (id, parts) = match &action.key {
            None => (own_key, own.clone()),
            Some(other) => {
                let parts = key(other, view)?;
                (RowKey::of(definition.name.as_str(), &parts), parts)
            }
        };
        let outcome = match after.get(&id) {
            None | Some(Outcome::Unchanged) => Scene::new(definition, &parts, row_of(&id), view).act(action)?,
            Some(Outcome::Changed(row)) => Scene::new(definition, &parts, Some(row), view).act(action)?,
            Some(Outcome::Deleted) => Scene::new(definition, &parts, None, view).act(action)?,
        };
        if outcome != Outcome::Unchanged || !after.contains_key(&id) {
            after.insert(id, outcome);
        }
    }
    Ok(after.into_iter().map(|(key, outcome)| Change { key, outcome }).collect())
}

/// Applies the first rule whose guard holds to the state of a fold.
///
/// # Errors
/// [`ApplyError`]; the state is as it was then.
pub fn fold(definition: &Definition, state: &Row, view: &EventView) -> Result<Outcome, ApplyError> {
    let Some(rules) = definition.handlers.get(&view.event_type) else { return Ok(Outcome::Unchanged) };
    let parts = Map::new();
    let mut state = state.clone();
    let mut changed = false;
    let scene = Scene::new(definition, &parts, Some(&state), view);
    let Some(rule) = first_rule(rules, &scene)? else { return Ok(Outcome::Unchanged) };
    for action in &rule.actions {
        match Scene::new(definition, &parts, Some(&state), view).act(action)? {
            Outcome::Changed(row) => (state, changed) = (row, true),
            Outcome::Deleted => (state, changed) = (Row::new(&definition.columns, Map::new()), true),
            Outcome::Unchanged => {}
        }
    }
    Ok(if changed { Outcome::Changed(state) } else { Outcome::Unchanged })
}

fn first_rule<'d>(rules: &'d [Rule], scene: &Scene<'_>) -> Result<Option<&'d Rule>, ApplyError> {
    for rule in rules {
        let Some(guard) = &rule.when else { return Ok(Some(rule)) };
        public(guard, scene.view, Some(scene), "when")?;
        match evaluate(guard, &scene.inputs(), "when")? {
            Some(Value::Bool(true)) => return Ok(Some(rule)),
            Some(Value::Bool(false)) | None => {}
            Some(_) => return Err(mismatch("when", "bool")),
        }
    }
    Ok(None)
}

/// Everything expressions see.
struct Scene<'a> {
    columns: &'a [Column],
    row: Option<&'a Row>,
    view: &'a EventView,
    clear: Value,
    parts: &'a Map<String, Value>,
    key: Value,
}

impl<'a> Scene<'a> {
    fn new(
        definition: &'a Definition,
        parts: &'a Map<String, Value>,
        row: Option<&'a Row>,
        view: &'a EventView,
    ) -> Self {
        let columns = &definition.columns;
        let clear = match row {
            Some(row) => row.clear(columns),
            None => Row::new(columns, Map::new()).clear(columns),
        };
        Self { columns, row, view, clear, parts, key: Value::Object(parts.clone()) }
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            data: &self.view.data,
            event: &self.view.event,
            subject: &self.view.subjects,
            row: &self.clear,
            key: &self.key,
        }
    }

    fn act(&self, action: &Action) -> Result<Outcome, ApplyError> {
        if action.delete {
            return Ok(if self.row.is_some() { Outcome::Deleted } else { Outcome::Unchanged });
        }
        let mut row = match self.row {
            Some(row) => row.clone(),
            None if action.create => Row::new(self.columns, self.parts.clone()),
            None => return Ok(Outcome::Unchanged),
        };
        for step in &action.steps {
            self.step(step, &mut row)?;
        }
        derive(self.columns, &mut row, &self.key)?;
        row.position = self.view.position.0;
        Ok(Outcome::Changed(row))
    }

    /// The value of an expression with its owners; no value when something it reads cannot be read.
    fn cell(&self, expression: &Expression, place: &str) -> Result<Option<Cell>, ApplyError> {
        let combined = |error| ApplyError::Combine { place: place.to_owned(), error };
        let (owners, readable) = self.view.taint(expression).map_err(combined)?;
        let (of_row, row_readable) = row_taint(expression, self.columns, self.row).map_err(combined)?;
        let owners = owners.and(&of_row).map_err(combined)?;
        let origin = self.view.origin(expression);
        if !(readable && row_readable) {
            return Ok(Some(Cell { value: None, owners, origin }));
        }
        let value = match evaluate(expression, &self.inputs(), place) {
            // Whether a member of something personal is there is personal too, and so is whether this can be computed.
            Ok(None) | Err(_) if !owners.is_public() => Some(Value::Null),
            value => value?,
        };
        Ok(value.map(|value| Cell { value: Some(value), owners, origin }))
    }

    fn step(&self, step: &Step, row: &mut Row) -> Result<(), ApplyError> {
        let column = &self.columns[step.column];
        let place = format!("columns/{}", column.name);
        let operand = self.cell(&step.value, &place)?;
        let content = &mut row.columns[step.column];
        let Some(entry) = &step.entry else { return whole(step.operation, column, content, operand, &place) };
        public(entry, self.view, Some(self), &place)?;
        let key = match evaluate(entry, &self.inputs(), &place)? {
            Some(Value::String(key)) => key,
            Some(Value::Number(key)) => key.to_string(),
            None => return Err(missing(&place, entry)),
            Some(_) => return Err(mismatch(&place, "map<string,…>")),
        };
        let ColumnType::Map(kind) = &column.kind else { return Err(mismatch(&place, "map<string,…>")) };
        in_map(step.operation, kind, content, key, operand, &place)
    }
}

/// Computes the derived columns, in their order.
///
/// # Errors
/// [`ApplyError`].
pub fn derive(columns: &[Column], row: &mut Row, key: &Value) -> Result<(), ApplyError> {
    for at in 0..columns.len() {
        let ColumnSource::Derived(expression) = &columns[at].source else { continue };
        let place = format!("columns/{}", columns[at].name);
        let combined = |error| ApplyError::Combine { place: place.clone(), error };
        let (owners, readable) = row_taint(expression, columns, Some(row)).map_err(combined)?;
        let value = if readable {
            let nothing = Value::Null;
            let clear = row.clear(columns);
            let inputs = Inputs { data: &nothing, event: &nothing, subject: &nothing, row: &clear, key };
            match evaluate(expression, &inputs, &place) {
                Err(_) if !owners.is_public() => Some(Value::Null),
                value => Some(value?.unwrap_or_default()),
            }
        } else {
            None
        };
        let cell = fitting(Cell { value, owners, origin: None }, &columns[at].kind, &place)?;
        row.columns[at] = Content::of(&columns[at].kind, cell);
    }
    Ok(())
}

/// Owners of what an expression may read of the row.
fn row_taint(expression: &Expression, columns: &[Column], row: Option<&Row>) -> Result<(Owners, bool), CombineError> {
    let mut owners = Owners::public();
    let mut readable = true;
    let Some(row) = row else { return Ok((owners, readable)) };
    for reference in expression.reads().iter().filter(|reference| reference.root == Root::Row) {
        for (column, content) in columns.iter().zip(&row.columns) {
            if reference.path.first().is_some_and(|name| *name != column.name) {
                continue;
            }
            let (more, can) = content.taint(reference.path.get(1..).unwrap_or_default())?;
            owners = owners.and(&more)?;
            readable &= can;
        }
    }
    Ok((owners, readable))
}

/// Whether an expression reads nothing personal of a row.
pub fn reads_public(expression: &Expression, columns: &[Column], row: &Row) -> bool {
    row_taint(expression, columns, Some(row)).is_ok_and(|(owners, _)| owners.is_public())
}

/// Refuses an expression that reads anything personal.
fn public(expression: &Expression, view: &EventView, scene: Option<&Scene<'_>>, place: &str) -> Result<(), ApplyError> {
    let personal = |_| ApplyError::Personal { place: place.to_owned() };
    let (owners, _) = view.taint(expression).map_err(personal)?;
    let of_row = match scene {
        Some(scene) => row_taint(expression, scene.columns, scene.row).map_err(personal)?.0,
        None => Owners::public(),
    };
    if owners.is_public() && of_row.is_public() {
        Ok(())
    } else {
        Err(ApplyError::Personal { place: place.to_owned() })
    }
}

/// Evaluates, saying where it failed.
pub(super) fn evaluate(expression: &Expression, inputs: &Inputs<'_>, place: &str) -> Result<Option<Value>, ApplyError> {
    expression.evaluate(inputs).map_err(|error| ApplyError::Expression { place: place.to_owned(), error })
}

fn missing(place: &str, expression: &Expression) -> ApplyError {
    let name = expression.path().and_then(|path| path.path.last().cloned()).unwrap_or_else(|| "?".to_owned());
    ApplyError::Expression { place: place.to_owned(), error: EvalError::NoSuchKey { name } }
}

fn mismatch(place: &str, expected: &str) -> ApplyError {
    ApplyError::Type { place: place.to_owned(), expected: expected.to_owned() }
}
