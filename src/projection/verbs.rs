//! What verbs do to the content of a column: pure.
//!
//! Owns: arithmetic, elements, entries, types. Must not know: events, expressions. A result has the owners of both
//! operands, whether or not it has a value. Only what is public can be refused for its value: of personal values nobody
//! may learn that they do not fit.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::apply::ApplyError;
use super::cell::{Cell, Content};
use super::definition::{Column, ColumnType, Operation};

/// Most elements or entries of one column.
pub const MAX_ELEMENTS: usize = 10_000;

/// A step on a whole column. Without an operand (its path is absent from the event) a `Set` takes the default.
///
/// # Errors
/// [`ApplyError`].
pub fn whole(
    operation: Operation,
    column: &Column,
    content: &mut Content,
    operand: Option<Cell>,
    place: &str,
) -> Result<(), ApplyError> {
    match operation {
        Operation::Patch if operand.is_none() => {}
        Operation::Set | Operation::Patch => {
            let cell = operand.unwrap_or_else(|| Cell::public(column.default.clone()));
            *content = Content::of(&column.kind, fitting(cell, &column.kind, place)?);
        }
        Operation::Increment | Operation::Decrement { .. } => {
            let Content::Single(cell) = content else { return Err(mismatch(place, "number")) };
            *cell = add(cell, operand, operation, &column.kind, place)?;
        }
        Operation::Append => {
            let ColumnType::List(kind) = &column.kind else { return Err(mismatch(place, "list")) };
            let Some(cell) = operand else { return Ok(()) };
            append(content, fitting(cell, kind, place)?, place)?;
        }
        Operation::Remove => {
            let Some(cell) = operand else { return Ok(()) };
            remove(content, &cell, place)?;
        }
    }
    Ok(())
}

/// A step on one entry of a map.
///
/// # Errors
/// [`ApplyError`].
pub fn in_map(
    operation: Operation,
    kind: &ColumnType,
    content: &mut Content,
    key: String,
    operand: Option<Cell>,
    place: &str,
) -> Result<(), ApplyError> {
    let cells = match content {
        Content::Map(cells) => cells,
        Content::Single(Cell { value: Some(Value::Null), owners, .. }) if owners.is_public() => {
            *content = Content::Map(BTreeMap::new());
            let Content::Map(cells) = content else { return Ok(()) };
            cells
        }
        // The whole map is personal: its keys say something.
        _ => return Err(ApplyError::Personal { place: place.to_owned() }),
    };
    match operation {
        Operation::Remove => drop(cells.remove(&key)),
        Operation::Set | Operation::Patch => {
            if let Some(cell) = operand {
                cells.insert(key, fitting(cell, kind, place)?);
            }
        }
        Operation::Increment | Operation::Decrement { .. } => {
            let before = cells.get(&key).cloned().unwrap_or_else(|| Cell::public(Value::from(0)));
            cells.insert(key, add(&before, operand, operation, kind, place)?);
        }
        Operation::Append => return Err(mismatch(place, "list")),
    }
    if cells.len() > MAX_ELEMENTS { Err(ApplyError::TooLarge { place: place.to_owned() }) } else { Ok(()) }
}

fn append(content: &mut Content, cell: Cell, place: &str) -> Result<(), ApplyError> {
    let len = match content {
        Content::List(cells) => {
            cells.push(cell);
            cells.len()
        }
        Content::Single(whole) if whole.owners.is_public() && whole.value == Some(Value::Null) => {
            *content = Content::List(vec![cell]);
            1
        }
        Content::Single(whole) => {
            let combined = |error| ApplyError::Combine { place: place.to_owned(), error };
            whole.owners = whole.owners.and(&cell.owners).map_err(combined)?;
            whole.origin = None;
            match (&mut whole.value, cell.value) {
                // How long a personal list is, is personal: one that is full stays as it is.
                (Some(Value::Array(items)), Some(value)) => {
                    if items.len() < MAX_ELEMENTS {
                        items.push(value);
                    }
                }
                (value, _) => *value = None,
            }
            0
        }
        Content::Map(_) => return Err(mismatch(place, "list")),
    };
    if len > MAX_ELEMENTS { Err(ApplyError::TooLarge { place: place.to_owned() }) } else { Ok(()) }
}

/// Removes equal elements. Which elements are equal would say something about personal ones.
fn remove(content: &mut Content, cell: &Cell, place: &str) -> Result<(), ApplyError> {
    let personal = || ApplyError::Personal { place: place.to_owned() };
    let Some(value) = cell.value.as_ref().filter(|_| cell.owners.is_public()) else { return Err(personal()) };
    match content {
        Content::List(cells) if cells.iter().all(|cell| cell.owners.is_public()) => {
            cells.retain(|cell| cell.value.as_ref() != Some(value));
            Ok(())
        }
        Content::Single(cell) if cell.owners.is_public() => Ok(()),
        Content::Map(_) => Err(mismatch(place, "list")),
        _ => Err(personal()),
    }
}

fn add(
    before: &Cell,
    operand: Option<Cell>,
    operation: Operation,
    kind: &ColumnType,
    place: &str,
) -> Result<Cell, ApplyError> {
    let Some(operand) = operand else { return Ok(before.clone()) };
    let combined = |error| ApplyError::Combine { place: place.to_owned(), error };
    let owners = before.owners.and(&operand.owners).map_err(combined)?;
    let (Some(one), Some(two)) = (&before.value, &operand.value) else {
        return Ok(Cell { value: None, owners, origin: None });
    };
    let sum = match (operation, one, two) {
        (_, _, Value::Null) => return Ok(Cell { value: before.value.clone(), owners, origin: None }),
        (Operation::Decrement { floor }, one, two) => {
            arithmetic(one, two, true, place).map(|number| floored(number, floor))
        }
        (_, one, two) => arithmetic(one, two, false, place),
    };
    let sum = sum.and_then(|sum| fit(sum, kind).ok_or_else(|| mismatch(place, &kind.to_string())));
    let value = match sum {
        // Nothing is added.
        Err(_) if !owners.is_public() => one.clone(),
        sum => sum?,
    };
    Ok(Cell { value: Some(value), owners, origin: None })
}

fn arithmetic(one: &Value, two: &Value, subtract: bool, place: &str) -> Result<Value, ApplyError> {
    let zero = Value::from(0);
    let one = if one.is_null() { &zero } else { one };
    let too_large = || ApplyError::TooLarge { place: place.to_owned() };
    if let (Some(a), Some(b)) = (one.as_i64(), two.as_i64()) {
        let sum = if subtract { a.checked_sub(b) } else { a.checked_add(b) };
        return sum.map(Value::from).ok_or_else(too_large);
    }
    let (Some(a), Some(b)) = (one.as_f64(), two.as_f64()) else { return Err(mismatch(place, "number")) };
    Number::from_f64(if subtract { a - b } else { a + b }).map(Value::Number).ok_or_else(too_large)
}

fn floored(value: Value, floor: Option<f64>) -> Value {
    match floor {
        Some(floor) if value.as_f64().is_some_and(|number| number < floor) => {
            if floor.fract() == 0.0 && value.is_i64() { Value::from(floor as i64) } else { Value::from(floor) }
        }
        _ => value,
    }
}

/// The cell, if its value fits the type; whole floats fit `int`, ints fit `float`. A personal value that does not fit
/// becomes the empty one.
///
/// # Errors
/// [`ApplyError::Type`].
pub fn fitting(mut cell: Cell, kind: &ColumnType, place: &str) -> Result<Cell, ApplyError> {
    if let Some(value) = cell.value.take() {
        let fitted = fit(value, kind).or_else(|| (!cell.owners.is_public()).then(|| kind.empty()));
        cell.value = Some(fitted.ok_or_else(|| mismatch(place, &kind.to_string()))?);
    }
    Ok(cell)
}

fn fit(value: Value, kind: &ColumnType) -> Option<Value> {
    match (kind, value) {
        (_, Value::Null) => Some(kind.empty()),
        (ColumnType::Int, Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Some(Value::from(whole)),
            (None, Some(float)) if float.fract() == 0.0 && float.abs() < 9e15 => Some(Value::from(float as i64)),
            _ => None,
        },
        (ColumnType::List(kind), Value::Array(items)) => {
            (items.len() <= MAX_ELEMENTS).then_some(())?;
            items.into_iter().map(|item| fit(item, kind)).collect::<Option<Vec<_>>>().map(Value::Array)
        }
        (ColumnType::Map(kind), Value::Object(members)) => {
            (members.len() <= MAX_ELEMENTS).then_some(())?;
            let fitted = members.into_iter().map(|(key, value)| Some((key, fit(value, kind)?)));
            fitted.collect::<Option<Map<_, _>>>().map(Value::Object)
        }
        (kind, value) => kind.fits(&value).then_some(value),
    }
}

fn mismatch(place: &str, expected: &str) -> ApplyError {
    ApplyError::Type { place: place.to_owned(), expected: expected.to_owned() }
}
