//! JSON to values of CEL and back.
//!
//! Owns: the conversion and the limits on what goes in and comes out. JSON integers become `int` (`uint` only beyond
//! `i64`), so that arithmetic on them works; other numbers become `double`. Must not know: syntax beyond paths.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Write};

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt};
use cel::common::value::Val;
use cel::objects::{Key, OptionalValue};
use chrono::{SecondsFormat, Utc};
use serde_json::{Map, Number, Value};

use super::reads::{Path, Step};
use super::{EvalError, Root, errors};

/// Elements of lists and entries of maps given to one evaluation.
const MOST_ELEMENTS: usize = 10_000;
/// Bytes of texts and names given to one evaluation.
const MOST_TEXT: usize = 256 << 10;
/// Values within values.
const MOST_LEVELS: usize = 128;
/// Bytes of a result as JSON.
const MOST_RESULT: usize = 64 << 10;

/// Which part of a root an expression is given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) root: Root,
    /// Members of the root; `None` for all of it.
    members: Option<BTreeSet<String>>,
}

impl Needs {
    /// What the paths of an expression need.
    pub(super) fn of(paths: &BTreeSet<Path>) -> Vec<Self> {
        let mut roots: BTreeMap<Root, Option<BTreeSet<String>>> = BTreeMap::new();
        for path in paths {
            let members = roots.entry(path.root).or_insert_with(|| Some(BTreeSet::new()));
            match (path.steps.first(), &mut *members) {
                (Some(Step::Member(name)), Some(members)) => {
                    members.insert(name.clone());
                }
                (_, members) => *members = None,
            }
        }
        roots.into_iter().map(|(root, members)| Self { root, members }).collect()
    }
}

/// What one evaluation may still be given.
pub(super) struct Limit {
    elements: usize,
    text: usize,
}

impl Default for Limit {
    fn default() -> Self {
        Self { elements: MOST_ELEMENTS, text: MOST_TEXT }
    }
}

const INPUT: EvalError = EvalError::TooLarge { what: "input" };

impl Limit {
    fn elements(&mut self, count: usize) -> Result<(), EvalError> {
        self.elements = self.elements.checked_sub(count).ok_or(INPUT)?;
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), EvalError> {
        self.text = self.text.checked_sub(text.len()).ok_or(INPUT)?;
        Ok(())
    }

    /// Counts a value without converting it.
    fn measure(&mut self, value: &Value, level: usize) -> Result<(), EvalError> {
        if level > MOST_LEVELS {
            return Err(INPUT);
        }
        match value {
            Value::String(text) => self.text(text),
            Value::Array(list) => {
                self.elements(list.len())?;
                list.iter().try_for_each(|element| self.measure(element, level + 1))
            }
            Value::Object(map) => {
                self.elements(map.len())?;
                map.iter().try_for_each(|(name, value)| self.text(name).and_then(|()| self.measure(value, level + 1)))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        }
    }
}

/// The part of a root that an expression needs, as a value that borrows it.
pub(super) fn root<'v>(value: &'v Value, needs: &Needs, limit: &mut Limit) -> Result<Box<dyn Val + 'v>, EvalError> {
    match (&needs.members, value) {
        (Some(members), Value::Object(map)) => {
            entries(members.iter().filter_map(|name| map.get_key_value(name.as_str())), limit, 1)
        }
        _ => convert(value, limit, 0),
    }
}

/// What lies at a path; `None` when it is not there.
pub(super) fn look_up(root: &Value, path: &Path) -> Result<Option<Value>, EvalError> {
    let found = path.steps.iter().try_fold(root, |value, step| match (step, value) {
        (Step::Member(name), Value::Object(map)) => map.get(name),
        (Step::Element(index), Value::Array(list)) => list.get(usize::try_from(*index).ok()?),
        _ => None,
    });
    let Some(value) = found else { return Ok(None) };
    Limit::default().measure(value, 0)?;
    check_result(value)?;
    Ok(Some(value.clone()))
}

/// The result of an evaluation as JSON.
pub(super) fn result(value: &cel::Value) -> Result<Value, EvalError> {
    let json = json(value)?;
    check_result(&json)?;
    Ok(json)
}

fn convert<'v>(value: &'v Value, limit: &mut Limit, level: usize) -> Result<Box<dyn Val + 'v>, EvalError> {
    if level > MOST_LEVELS {
        return Err(INPUT);
    }
    Ok(match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        Value::Number(number) => self::number(number),
        Value::String(text) => {
            limit.text(text)?;
            Box::new(CelString::from(text.as_str()))
        }
        Value::Array(list) => {
            limit.elements(list.len())?;
            let elements: Result<Vec<_>, _> = list.iter().map(|element| convert(element, limit, level + 1)).collect();
            Box::new(CelList::from(elements?))
        }
        Value::Object(map) => return entries(map.iter(), limit, level + 1),
    })
}

fn entries<'v>(
    entries: impl Iterator<Item = (&'v String, &'v Value)>,
    limit: &mut Limit,
    level: usize,
) -> Result<Box<dyn Val + 'v>, EvalError> {
    let mut map: HashMap<CelMapKey<'v>, Box<dyn Val + 'v>> = HashMap::new();
    for (name, value) in entries {
        limit.elements(1)?;
        limit.text(name)?;
        map.insert(CelMapKey::from(name.as_str()), convert(value, limit, level)?);
    }
    Ok(Box::new(CelMap::from(map)))
}

fn number<'v>(number: &Number) -> Box<dyn Val + 'v> {
    match (number.as_i64(), number.as_u64()) {
        (Some(integer), _) => Box::new(CelInt::from(integer)),
        (None, Some(integer)) => Box::new(CelUInt::from(integer)),
        (None, None) => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
    }
}

fn json(value: &cel::Value) -> Result<Value, EvalError> {
    Ok(match value {
        cel::Value::Null => Value::Null,
        cel::Value::Bool(value) => Value::from(*value),
        cel::Value::Int(integer) => Value::from(*integer),
        cel::Value::UInt(integer) => Value::from(*integer),
        cel::Value::String(text) => Value::from(text.as_str()),
        cel::Value::Float(double) => match Number::from_f64(*double) {
            Some(number) => Value::Number(number),
            None => return Err(errors::arithmetic("result")),
        },
        cel::Value::List(list) => Value::Array(list.iter().map(json).collect::<Result<_, _>>()?),
        cel::Value::Map(map) => return object(map),
        cel::Value::Timestamp(at) => {
            let at = at.with_timezone(&Utc);
            let format = if at.timestamp_subsec_millis() == 0 { SecondsFormat::Secs } else { SecondsFormat::Millis };
            Value::from(at.to_rfc3339_opts(format, true))
        }
        cel::Value::Duration(duration) => Value::from(duration.to_string()),
        other => match <&OptionalValue>::try_from(other) {
            Ok(optional) => return optional.value().map_or(Ok(Value::Null), json),
            Err(_) => return Err(errors::types("result", [other.type_of().to_string().as_str()])),
        },
    })
}

/// A map with its keys in order; the map of JSON keeps them so.
fn object(map: &cel::objects::Map) -> Result<Value, EvalError> {
    let mut sorted: BTreeMap<&str, &cel::Value> = BTreeMap::new();
    for (key, value) in map.map.iter() {
        let Key::String(name) = key else {
            return Err(EvalError::Type { operation: "result".to_owned(), operands: "a map without names".to_owned() });
        };
        sorted.insert(name, value);
    }
    let mut object = Map::new();
    for (name, value) in sorted {
        object.insert(name.to_owned(), json(value)?);
    }
    Ok(Value::Object(object))
}

/// Counts bytes, up to the limit.
pub struct Counter(pub usize);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn check_result(value: &Value) -> Result<(), EvalError> {
    serde_json::to_writer(Counter(MOST_RESULT), value).map_err(|_| EvalError::TooLarge { what: "result" })
}
