//! Structural comparison of two schemas: what one accepts and the other may not.
//!
//! Owns: the rules. Must not know: which of the two is newer. Keeps: a condition that the rules cannot compare counts
//! as a difference unless it is the same on both sides. One leniency, as everywhere in practice: describing a property
//! that was merely not forbidden before is no difference; stored events are tried for that.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value};

use super::compat::CompatError;
use super::compat_view::{allowed, fixed, flatten, member, members, reference, rest, type_of, types};
use super::walk::{escape, is_annotation, resolve};

/// Something that the writer's schema accepts and the reader's may not.
pub(super) struct Difference {
    pointer: String,
    rule: Rule,
    writer: String,
    reader: String,
}

#[derive(Clone, Copy)]
enum Rule {
    Required,
    Property,
    Type,
    Enum,
    Constraint,
    Additional,
    Condition,
}

impl Rule {
    fn backward(self) -> (&'static str, &'static str) {
        match self {
            Self::Required => ("required-added", "make it optional"),
            Self::Property => ("property-removed", "keep the property, or allow additional properties"),
            Self::Type => ("type-narrowed", "keep every type that earlier events have"),
            Self::Enum => ("enum-narrowed", "keep every value that earlier events have"),
            Self::Constraint => ("constraint-tightened", "keep the earlier limit"),
            Self::Additional => ("additional-properties-closed", "leave additional properties open"),
            Self::Condition => ("condition-changed", "leave the condition as it was, or register a new event type"),
        }
    }

    fn forward(self) -> (&'static str, &'static str) {
        match self {
            Self::Required => ("required-removed", "earlier readers rely on it: keep it required"),
            Self::Property => ("property-added", "earlier readers refuse unknown properties"),
            Self::Type => ("type-widened", "earlier readers know fewer types"),
            Self::Enum => ("enum-widened", "earlier readers know fewer values"),
            Self::Constraint => ("constraint-loosened", "earlier readers rely on the limit"),
            Self::Additional => ("additional-properties-opened", "earlier readers refuse unknown properties"),
            Self::Condition => ("condition-changed", "leave the condition as it was, or register a new event type"),
        }
    }
}

impl Difference {
    /// As a change from an earlier writer to the new reader.
    pub fn backward(self, version: u32) -> CompatError {
        let (rule, hint) = self.rule.backward();
        CompatError { pointer: self.pointer, rule, old: self.writer, new: self.reader, version, hint: hint.into() }
    }

    /// As a change from an earlier reader to the new writer.
    pub fn forward(self, version: u32) -> CompatError {
        let (rule, hint) = self.rule.forward();
        CompatError { pointer: self.pointer, rule, old: self.reader, new: self.writer, version, hint: hint.into() }
    }
}

/// Everything that `writer` accepts and `reader` may not.
pub(super) fn differences(writer: &Value, reader: &Value) -> Vec<Difference> {
    let mut diff = Diff { writer, reader, seen: HashSet::new(), depth: 0, found: Vec::new() };
    diff.schema(writer, reader, "");
    diff.found
}

struct Diff<'d> {
    writer: &'d Value,
    reader: &'d Value,
    /// Pairs of reference targets compared, or under comparison.
    seen: HashSet<(String, String)>,
    depth: usize,
    found: Vec<Difference>,
}

/// Differences reported at most.
const MAX_FOUND: usize = 200;
/// Ways longer than this are not compared; schemas as deep are refused before.
const MAX_DEPTH: usize = 100;

/// Keywords that only say something together with all of their content.
const CONDITIONS: [&str; 13] = [
    "not",
    "anyOf",
    "oneOf",
    "allOf",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "dependentSchemas",
    "dependentRequired",
    "dependencies",
    "unevaluatedItems",
];
/// Numbers that a reader may only lower, and only raise.
const AT_LEAST: [&str; 5] = ["minLength", "minItems", "minProperties", "minContains", "minimum"];
const AT_MOST: [&str; 5] = ["maxLength", "maxItems", "maxProperties", "maxContains", "maximum"];
/// Keywords of which every change tightens something.
const EXACT: [&str; 5] = ["pattern", "format", "multipleOf", "contentEncoding", "contentMediaType"];

impl Diff<'_> {
    fn schema(&mut self, writer: &Value, reader: &Value, at: &str) {
        if let (Some(a), Some(b)) = (reference(writer), reference(reader))
            && !self.seen.insert((a.to_owned(), b.to_owned()))
        {
            return;
        }
        if self.found.len() >= MAX_FOUND || self.depth >= MAX_DEPTH {
            return;
        }
        self.depth += 1;
        let (writer, reader) = (flatten(self.writer, writer), flatten(self.reader, reader));
        match (writer.as_ref(), reader.as_ref()) {
            (Value::Bool(false), _) | (_, Value::Bool(true)) => {}
            (_, Value::Bool(false)) => self.report(at, Rule::Type, "something", "nothing"),
            (Value::Object(writer), Value::Object(reader)) => self.objects(writer, reader, at),
            (_, Value::Object(reader)) => self.objects(&Map::new(), reader, at),
            _ => {}
        }
        self.depth -= 1;
    }

    fn objects(&mut self, writer: &Map<String, Value>, reader: &Map<String, Value>, at: &str) {
        self.types(writer, reader, at);
        self.values(writer, reader, at);
        self.limits(writer, reader, at);
        self.required(writer, reader, at);
        self.properties(writer, reader, at);
        self.items(writer, reader, at);
        for keyword in CONDITIONS.iter().filter(|keyword| reader.contains_key(**keyword)) {
            self.condition(writer, reader, keyword, at);
        }
    }

    fn report(&mut self, pointer: &str, rule: Rule, writer: impl Into<String>, reader: impl Into<String>) {
        self.found.push(Difference { pointer: pointer.to_owned(), rule, writer: writer.into(), reader: reader.into() });
    }

    fn types(&mut self, writer: &Map<String, Value>, reader: &Map<String, Value>, at: &str) {
        let Some(read) = types(reader) else { return };
        let written = types(writer).or_else(|| {
            // A list of values says the types as well.
            Some(allowed(writer)?.into_iter().map(type_of).collect())
        });
        let fits = |kind: &str| read.contains(kind) || kind == "integer" && read.contains("number");
        if !written.as_ref().is_some_and(|written| written.iter().all(|kind| fits(kind))) {
            let list = |set: &BTreeSet<&str>| set.iter().copied().collect::<Vec<_>>().join(", ");
            let old = written.as_ref().map_or_else(|| "any type".to_owned(), list);
            self.report(&format!("{at}/type"), Rule::Type, old, list(&read));
        }
    }

    fn values(&mut self, writer: &Map<String, Value>, reader: &Map<String, Value>, at: &str) {
        let Some(read) = allowed(reader) else { return };
        let keyword = if reader.contains_key("const") { "const" } else { "enum" };
        let written = allowed(writer);
        if !written.as_ref().is_some_and(|written| written.iter().all(|value| read.contains(value))) {
            let count = |values: &Vec<&Value>| format!("{} values", values.len());
            let old = written.as_ref().map_or_else(|| "any value".to_owned(), count);
            self.report(&format!("{at}/{keyword}"), Rule::Enum, old, count(&read));
        }
    }

    fn limits(&mut self, writer: &Map<String, Value>, reader: &Map<String, Value>, at: &str) {
        let number = |map: &Map<String, Value>, keyword: &str| map.get(keyword).and_then(Value::as_f64);
        let tighter = |keyword: &str| -> bool {
            let (written, read) = (number(writer, keyword), number(reader, keyword));
            match read {
                None => false,
                Some(read) if AT_LEAST.contains(&keyword) => {
                    let implied = number(writer, "exclusiveMinimum").filter(|_| keyword == "minimum");
                    // A count of at least 0 says nothing.
                    (keyword == "minimum" || read > 0.0) && !written.or(implied).is_some_and(|written| written >= read)
                }
                Some(read) => {
                    let implied = number(writer, "exclusiveMaximum").filter(|_| keyword == "maximum");
                    !written.or(implied).is_some_and(|written| written <= read)
                }
            }
        };
        let mut changed: Vec<&str> = AT_LEAST.into_iter().chain(AT_MOST).filter(|keyword| tighter(keyword)).collect();
        changed.extend(EXACT.into_iter().filter(|k| reader.contains_key(*k) && reader.get(*k) != writer.get(*k)));
        for (keyword, lower) in [("exclusiveMinimum", true), ("exclusiveMaximum", false)] {
            let fits = match (reader.get(keyword), writer.get(keyword)) {
                (None | Some(Value::Bool(false)), _) => true,
                // In draft-04 a flag beside the limit.
                (Some(Value::Bool(true)), other) => other == Some(&Value::Bool(true)),
                (Some(read), written) => match (read.as_f64(), written.and_then(Value::as_f64)) {
                    (Some(read), Some(written)) => {
                        if lower {
                            written >= read
                        } else {
                            written <= read
                        }
                    }
                    (Some(read), None) => {
                        let inclusive = number(writer, if lower { "minimum" } else { "maximum" });
                        inclusive.is_some_and(|limit| if lower { limit > read } else { limit < read })
                    }
                    _ => false,
                },
            };
            if !fits {
                changed.push(keyword);
            }
        }
        let unique = |map: &Map<String, Value>| map.get("uniqueItems") == Some(&Value::Bool(true));
        if unique(reader) && !unique(writer) {
            changed.push("uniqueItems");
        }
        for keyword in changed {
            let text = |map: &Map<String, Value>| map.get(keyword).map_or_else(|| "absent".into(), ToString::to_string);
            self.report(&format!("{at}/{keyword}"), Rule::Constraint, text(writer), text(reader));
        }
    }

    fn required(&mut self, writer: &Map<String, Value>, reader: &Map<String, Value>, at: &str) {
        let names = |map: &Map<String, Value>| -> BTreeSet<String> {
            let list = map.get("required").and_then(Value::as_array).into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let written = names(writer);
        for name in names(reader).difference(&written) {
            let old = if member(writer, "properties", name).is_some() { "optional" } else { "absent" };
            self.report(&format!("{at}/properties/{}", escape(name)), Rule::Required, old, "required");
        }
    }

    fn properties(&mut self, writer: &Map<String, Value>, reader: &Map<String, Value>, at: &str) {
        let closed = |map: &Map<String, Value>| {
            ["additionalProperties", "unevaluatedProperties"].iter().any(|k| map.get(*k) == Some(&Value::Bool(false)))
        };
        let patterns = |map: &Map<String, Value>| map.get("patternProperties").and_then(Value::as_object).is_some();
        let other = |map: &Map<String, Value>| map.get("additionalProperties").filter(|v| v.is_object()).cloned();
        for (name, written) in members(writer, "properties") {
            let place = format!("{at}/properties/{}", escape(name));
            if let Some(read) = member(reader, "properties", name) {
                self.schema(written, read, &place);
            } else if let Some(read) = other(reader) {
                self.schema(written, &read, &format!("{at}/additionalProperties"));
            } else if closed(reader) && !patterns(reader) && written != &Value::Bool(false) {
                self.report(&place, Rule::Property, "allowed", "refused");
            }
        }
        for (name, read) in members(reader, "properties").filter(|(n, _)| member(writer, "properties", n).is_none()) {
            if let Some(written) = other(writer) {
                self.schema(&written, read, &format!("{at}/properties/{}", escape(name)));
            }
        }
        let place = format!("{at}/additionalProperties");
        match (other(writer), other(reader)) {
            _ if closed(writer) => {}
            (Some(written), Some(read)) => self.schema(&written, &read, &place),
            (None, Some(read)) => self.schema(&Value::Bool(true), &read, &place),
            (_, None) if closed(reader) => self.report(&place, Rule::Additional, "open", "closed"),
            _ => {}
        }
        for (regex, read) in members(reader, "patternProperties") {
            let place = format!("{at}/patternProperties/{}", escape(regex));
            match member(writer, "patternProperties", regex) {
                Some(written) => self.schema(written, read, &place),
                None if closed(writer) => {}
                None => self.schema(&Value::Bool(true), read, &place),
            }
        }
        for (regex, _) in members(writer, "patternProperties") {
            if closed(reader) && member(reader, "patternProperties", regex).is_none() {
                let place = format!("{at}/patternProperties/{}", escape(regex));
                self.report(&place, Rule::Property, "allowed", "refused");
            }
        }
    }

    /// Compares elements place by place: the fixed first ones, then the rest.
    fn items(&mut self, writer: &Map<String, Value>, reader: &Map<String, Value>, at: &str) {
        let (written, written_rest) = (fixed(writer), rest(writer));
        let (read, read_rest) = (fixed(reader), rest(reader));
        let open = &Value::Bool(true);
        for index in 0..written.len().max(read.len()) {
            let keyword = if reader.contains_key("prefixItems") { "prefixItems" } else { "items" };
            let one = written.get(index).or(written_rest.as_ref()).copied().unwrap_or(open);
            let two = read.get(index).or(read_rest.as_ref()).copied().unwrap_or(open);
            self.schema(one, two, &format!("{at}/{keyword}/{index}"));
        }
        if let Some(read) = read_rest {
            let keyword = if reader.get("items").is_some_and(Value::is_array) { "additionalItems" } else { "items" };
            self.schema(written_rest.unwrap_or(open), read, &format!("{at}/{keyword}"));
        }
    }

    fn condition(&mut self, writer: &Map<String, Value>, reader: &Map<String, Value>, keyword: &str, at: &str) {
        let (Some(read), written) = (reader.get(keyword), writer.get(keyword)) else { return };
        let equal = |a: &Value, b: &Value| self.same(a, b, &mut HashSet::new());
        let lists = (written.and_then(Value::as_array), read.as_array());
        let fits = match (keyword, lists) {
            // More alternatives, or fewer obligations, only accept more.
            ("anyOf", (Some(written), Some(read))) => written.iter().all(|one| read.iter().any(|two| equal(one, two))),
            ("allOf", (Some(written), Some(read))) => read.iter().all(|two| written.iter().any(|one| equal(one, two))),
            _ => written.is_some_and(|written| equal(written, read)),
        };
        if !fits {
            let old = if written.is_some() { "another condition" } else { "absent" };
            self.report(&format!("{at}/{keyword}"), Rule::Condition, old, "a condition");
        }
    }

    /// Whether two schemas say the same, annotations aside and references followed.
    fn same(&self, writer: &Value, reader: &Value, seen: &mut HashSet<(String, String)>) -> bool {
        match (writer, reader) {
            (Value::Object(one), Value::Object(two)) => {
                if let (Some(a), Some(b)) = (reference(writer), reference(reader))
                    && seen.insert((a.to_owned(), b.to_owned()))
                {
                    let targets = (resolve(self.writer, &one["$ref"]), resolve(self.reader, &two["$ref"]));
                    let (Some((one, _)), Some((two, _))) = targets else { return false };
                    if !self.same(one, two, seen) {
                        return false;
                    }
                }
                let keys = |map: &Map<String, Value>| -> BTreeSet<String> {
                    map.keys().filter(|key| !is_annotation(key) && *key != "$ref").cloned().collect()
                };
                let both = one.contains_key("$ref") == two.contains_key("$ref");
                both && keys(one) == keys(two) && keys(one).iter().all(|key| self.same(&one[key], &two[key], seen))
            }
            (Value::Array(one), Value::Array(two)) => {
                one.len() == two.len() && one.iter().zip(two).all(|(one, two)| self.same(one, two, seen))
            }
            _ => writer == reader,
        }
    }
}
