//! Reading a schema for comparison: one view over dialects and references.
//!
//! Owns: looking keywords up. Must not know: what a difference means.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::walk::{is_annotation, resolve};

/// References followed in a row.
const MAX_DEPTH: usize = 100;

/// Text of a schema's reference.
pub(super) fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()
}

/// A schema with its reference replaced by what it refers to; what stands beside the reference wins.
pub(super) fn flatten<'v>(root: &'v Value, schema: &'v Value) -> Cow<'v, Value> {
    let mut out = Cow::Borrowed(schema);
    for _ in 0..MAX_DEPTH {
        let Some(target) = out.get("$ref").and_then(|reference| resolve(root, reference)).map(|(target, _)| target)
        else {
            return out;
        };
        let beside =
            out.as_object().is_some_and(|object| object.keys().any(|key| key != "$ref" && !is_annotation(key)));
        let (true, Value::Object(target)) = (beside, target) else {
            out = Cow::Borrowed(target);
            continue;
        };
        let mut merged = target.clone();
        for (key, value) in out.as_object().into_iter().flatten().filter(|(key, _)| *key != "$ref") {
            merged.insert(key.clone(), value.clone());
        }
        out = Cow::Owned(Value::Object(merged));
    }
    out
}

/// Members of an object under a keyword.
pub(super) fn members<'v>(map: &'v Map<String, Value>, keyword: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    map.get(keyword).and_then(Value::as_object).into_iter().flatten()
}

/// One member of an object under a keyword.
pub(super) fn member<'v>(map: &'v Map<String, Value>, keyword: &str, name: &str) -> Option<&'v Value> {
    map.get(keyword)?.get(name)
}

/// Types a schema names; `None` where it names none.
pub(super) fn types(map: &Map<String, Value>) -> Option<BTreeSet<&str>> {
    match map.get("type")? {
        Value::String(one) => Some(BTreeSet::from([one.as_str()])),
        Value::Array(many) => Some(many.iter().filter_map(Value::as_str).collect()),
        _ => None,
    }
}

/// Type of a value as schemas name it.
pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The only values a schema allows, if it lists them.
pub(super) fn allowed(map: &Map<String, Value>) -> Option<Vec<&Value>> {
    match (map.get("const"), map.get("enum")) {
        (Some(one), _) => Some(vec![one]),
        (None, Some(Value::Array(many))) => Some(many.iter().collect()),
        _ => None,
    }
}

/// Schemas of the first elements, place by place.
pub(super) fn fixed(map: &Map<String, Value>) -> Vec<&Value> {
    let list = map.get("prefixItems").or(map.get("items")).and_then(Value::as_array);
    list.map(|list| list.iter().collect()).unwrap_or_default()
}

/// Schema of the elements after those.
pub(super) fn rest(map: &Map<String, Value>) -> Option<&Value> {
    if map.get("items").is_some_and(Value::is_array) { map.get("additionalItems") } else { map.get("items") }
}
