//! Aggregates as rows: one per key, or one per key and window.
//!
//! Owns: which rows an event goes into, and what each aggregate keeps. Must not know: storage. What is computed from
//! personal values is kept per person, sealed to that person, and put together only when it is shown: a forgotten person
//! leaves the sum, and a group that is too small shows nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::aggregate::Partial;
use super::apply::{self, ApplyError, Change, Outcome};
use super::cell::{Cell, Content};
use super::definition::{Aggregate, AggregateFunction, Definition, Kind, Window};
use super::duration;
use super::expression::Inputs;
use super::index::{WINDOW, WINDOW_START};
use super::owners::Owners;
use super::row::{Row, RowKey};
use super::view::EventView;
use super::window::{self, Slice};
use crate::clock::Millis;
use crate::event::SubjectRef;

/// A row's key and the parts it is made of.
type Keyed = (RowKey, Map<String, Value>);

/// Entry of what is public.
const NOBODY: &str = "";

/// Keys of the rows that an event goes into; none when it is late.
///
/// # Errors
/// [`ApplyError`].
pub fn keys(definition: &Definition, view: &EventView) -> Result<Vec<Keyed>, ApplyError> {
    let Kind::Rows { key, window, .. } = &definition.kind else { return Ok(Vec::new()) };
    let parts = apply::key(key, view)?;
    let named = |parts: Map<String, Value>| (RowKey::of(definition.name.as_str(), &parts), parts);
    let Some(window) = window else { return Ok(vec![named(parts)]) };
    let time = time(window, view)?;
    if window::is_late(window, time, view.recorded) {
        return Ok(Vec::new());
    }
    let of = |slice: Slice| {
        let mut parts = parts.clone();
        parts.insert(WINDOW_START.to_owned(), Value::from(slice.start.rfc3339()));
        parts.insert(WINDOW.to_owned(), Value::from(duration::format(slice.size)));
        named(parts)
    };
    Ok(window::windows(window, time).into_iter().map(of).collect())
}

/// Puts an event into its rows.
///
/// # Errors
/// [`ApplyError`]; the event changes nothing then.
pub fn handle<'r>(
    definition: &Definition,
    view: &EventView,
    row_of: impl Fn(&RowKey) -> Option<&'r Row>,
) -> Result<Vec<Change>, ApplyError> {
    let Kind::Rows { aggregates, .. } = &definition.kind else { return Ok(Vec::new()) };
    let mut changes = Vec::new();
    for (key, parts) in keys(definition, view)? {
        let mut row = row_of(&key).cloned().unwrap_or_else(|| Row::new(&definition.columns, parts));
        for (aggregate, content) in aggregates.iter().zip(&mut row.columns) {
            add(aggregate, content, view)?;
        }
        row.position = view.position.0;
        changes.push(Change { key, outcome: Outcome::Changed(row) });
    }
    Ok(changes)
}

/// Until when a window is kept.
pub fn kept_until(window: &Window, row: &Row) -> Option<Millis> {
    let start = Millis::parse_rfc3339(row.parts.get(WINDOW_START)?.as_str()?)?;
    let size = duration::parse(row.parts.get(WINDOW)?.as_str()?)?;
    Some(Millis(start.0.checked_add(size)?.checked_add(window.keep?)?))
}

fn time(window: &Window, view: &EventView) -> Result<Millis, ApplyError> {
    let place = "window/by";
    if !view.taint(&window.by).is_ok_and(|(owners, _)| owners.is_public()) {
        return Err(ApplyError::Personal { place: place.to_owned() });
    }
    let value = apply::evaluate(&window.by, &inputs(view), place)?.unwrap_or_default();
    window::time_of(&value)
        .filter(|time| window::can_be_shown(window, *time))
        .ok_or_else(|| ApplyError::Type { place: place.to_owned(), expected: "timestamp".to_owned() })
}

fn inputs(view: &EventView) -> Inputs<'_> {
    Inputs { data: &view.data, event: &view.event, subject: &view.subjects, row: &Value::Null, key: &Value::Null }
}

fn add(aggregate: &Aggregate, content: &mut Content, view: &EventView) -> Result<(), ApplyError> {
    let place = || format!("aggregate/{}", aggregate.name);
    let combined = |error| ApplyError::Combine { place: place(), error };
    let Some(expression) = &aggregate.value else {
        return add_public(aggregate, content, Some(&Value::Bool(true)), &place());
    };
    let (owners, readable) = view.taint(expression).map_err(combined)?;
    if owners.is_public() {
        let value = apply::evaluate(expression, &inputs(view), &place())?;
        return add_public(aggregate, content, value.as_ref(), &place());
    }
    if aggregate.declassify.is_none() {
        return Err(ApplyError::Personal { place: place() });
    }
    // What cannot be computed is left out: that it cannot would tell something about the value.
    let value = readable.then(|| apply::evaluate(expression, &inputs(view), &place()).ok().flatten());
    by_person(content);
    let Content::Map(cells) = content else { return Ok(()) };
    let cell = cells.entry(share_of(&owners)).or_insert_with(|| Cell {
        value: Some(Partial::new(&aggregate.function).to_json()),
        owners: owners.clone(),
        origin: None,
    });
    cell.owners = cell.owners.and(&owners).map_err(combined)?;
    cell.value = match (cell.value.take(), value) {
        (Some(before), Some(value)) => {
            let value = value.filter(|value| may_be_shown(&aggregate.function, value));
            Some(added(&aggregate.function, &before, value.as_ref(), &place()).unwrap_or(before))
        }
        _ => None,
    };
    if cells.len() > super::verbs::MAX_ELEMENTS { Err(ApplyError::TooLarge { place: place() }) } else { Ok(()) }
}

/// Whose part a value goes into. Whoever came back after an erasure begins a new one: the old part stays closed, and would
/// close whatever was added to it.
fn share_of(owners: &Owners) -> String {
    let people: BTreeSet<(SubjectRef, u32)> =
        owners.alternatives().flat_map(|way| way.people.iter().copied()).collect();
    let named = people.iter().map(|(subject, generation)| match generation {
        0 => subject.to_string(),
        generation => format!("{subject}:{generation}"),
    });
    named.collect::<Vec<_>>().join(" ")
}

fn add_public(
    aggregate: &Aggregate,
    content: &mut Content,
    value: Option<&Value>,
    place: &str,
) -> Result<(), ApplyError> {
    let cell = match content {
        Content::Single(cell) => cell,
        Content::Map(cells) => cells.entry(NOBODY.to_owned()).or_insert_with(|| Cell::public(Value::Null)),
        Content::List(_) => return Err(ApplyError::Personal { place: place.to_owned() }),
    };
    let before = cell.value.clone().unwrap_or_default();
    cell.value = Some(added(&aggregate.function, &before, value, place)?);
    Ok(())
}

/// Makes the state a map by person. What was public before the first person came stays, as nobody's.
fn by_person(content: &mut Content) {
    if let Content::Single(public) = content {
        let nobody = Some(public.clone()).filter(|cell| cell.value.as_ref().is_some_and(|value| !value.is_null()));
        *content = Content::Map(nobody.map(|cell| (NOBODY.to_owned(), cell)).into_iter().collect::<BTreeMap<_, _>>());
    }
}

/// A group hides a number among others; a text would be somebody's, word by word.
fn may_be_shown(function: &AggregateFunction, value: &Value) -> bool {
    !matches!(function, AggregateFunction::Min | AggregateFunction::Max) || value.is_number()
}

fn added(
    function: &AggregateFunction,
    before: &Value,
    value: Option<&Value>,
    place: &str,
) -> Result<Value, ApplyError> {
    let mismatch = || ApplyError::Type { place: place.to_owned(), expected: "what the aggregate takes".to_owned() };
    let mut partial = match before {
        Value::Null => Partial::new(function),
        stored => Partial::from_json(function, stored).map_err(|_| mismatch())?,
    };
    partial.add(value).map_err(|_| mismatch())?;
    Ok(partial.to_json())
}
