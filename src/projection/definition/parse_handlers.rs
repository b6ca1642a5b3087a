//! What to do per event type: rules, actions, steps.
//!
//! Owns: the verbs and which of them go together. Must not know: events. Keeps: a column changes at most once per action,
//! and only by an operation that its type has.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::parse::{event_type, key_parts};
use super::parse_columns::Columns;
use super::parse_expression::{Names, compiled, expression, target};
use super::parse_reader::{Object, Problems, filled, pointer, suggestion};
use super::{Action, Column, ColumnSource, ColumnType, Operation, Rule, Step};
use crate::event::EventType;
use crate::projection::expression::{Expression, Root, Scope};

const MOST_HANDLERS: usize = 100;
const MOST_RULES: usize = 20;
const MOST_ACTIONS: usize = 8;

const RULE_MEMBERS: [&str; 13] = [
    "when",
    "key",
    "all",
    "upsert",
    "set",
    "update",
    "patch",
    "delete",
    "increment",
    "decrement",
    "floor",
    "append",
    "remove",
];
const STEP_SCOPE: Scope =
    Scope { roots: &[Root::Data, Root::Event, Root::Subject, Root::Row, Root::Key], fold: false, bare: false };
const FOLD_STEP_SCOPE: Scope =
    Scope { roots: &[Root::Data, Root::Event, Root::Subject, Root::Row], fold: true, bare: false };

/// Reads `handle`. `types`: those of `from`, empty for all.
pub(super) fn handlers(
    object: &Object<'_>,
    types: &[EventType],
    columns: &Columns,
    names: &Names,
    problems: &mut Problems,
) -> BTreeMap<EventType, Vec<Rule>> {
    let mut found = BTreeMap::new();
    let Some((value, at)) = object.need("handle", problems) else { return found };
    let Some(entries) = Object::new(value, &at, problems) else { return found };
    if entries.members.is_empty() || entries.members.len() > MOST_HANDLERS {
        problems.add(at, format!("has 1 to {MOST_HANDLERS} event types"));
        return found;
    }
    let scope = if names.is_fold() { FOLD_STEP_SCOPE } else { STEP_SCOPE };
    let context = Context { columns, names, scope };
    for (name, value, at) in entries.each() {
        let name = event_type(&Value::String(name.to_owned()), &at, problems);
        if let Some(name) = name.as_ref().filter(|name| !types.is_empty() && !types.contains(name)) {
            let hint = suggestion(name.as_str(), types.iter().map(EventType::as_str));
            problems.hinted(at.as_str(), "is not among the types of `from`", hint);
        }
        let rules = context.rules(value, &at, problems);
        found.extend(name.map(|name| (name, rules)));
    }
    found
}

struct Context<'c> {
    columns: &'c Columns,
    names: &'c Names,
    scope: Scope,
}

impl Context<'_> {
    fn rules(&self, value: &Value, at: &str, problems: &mut Problems) -> Vec<Rule> {
        if !value.is_array() {
            return self.rule(value, at, problems).into_iter().collect();
        }
        let items = filled(value, at, MOST_RULES, "has no rule", problems);
        let mut rules = Vec::new();
        let last = items.iter().position(|item| item.is_object() && item.get("when").is_none());
        for (number, item) in items.iter().enumerate() {
            let at = pointer(at, &number.to_string());
            if last.is_some_and(|last| last + 1 == number) {
                problems.hinted(at.as_str(), "is never reached", "the rule above has no `when` and always holds");
            }
            rules.extend(self.rule(item, &at, problems));
        }
        rules
    }

    fn rule(&self, value: &Value, at: &str, problems: &mut Problems) -> Option<Rule> {
        let object = Object::of(value, at, &RULE_MEMBERS, problems)?;
        let guard = object.get("when");
        let when = guard.and_then(|(value, at)| expression(value, &at, self.scope, self.names, problems));
        let mut actions = Vec::new();
        if let Some((value, place)) = object.get("all") {
            if self.names.is_fold() {
                problems.add(place.as_str(), "a fold has one state, not several rows");
            }
            for name in object.members.keys().filter(|name| !matches!(name.as_str(), "all" | "when")) {
                problems.hinted(pointer(at, name), "does not stand beside `all`", "put it into the actions of `all`");
            }
            for (number, item) in filled(value, &place, MOST_ACTIONS, "has no action", problems).iter().enumerate() {
                let at = pointer(&place, &number.to_string());
                let Some(object) = Object::of(item, &at, &RULE_MEMBERS, problems) else { continue };
                for name in ["all", "when"].into_iter().filter(|name| object.has(name)) {
                    let hint = "a guard decides about a whole rule: put it beside `all`, or make two rules";
                    problems.hinted(pointer(&at, name), "does not stand inside `all`", hint);
                }
                actions.extend(self.action(&object, problems));
            }
        } else {
            actions.extend(self.action(&object, problems));
        }
        Some(Rule { when, actions, pointer: at.to_owned() })
    }

    fn action(&self, object: &Object<'_>, problems: &mut Problems) -> Option<Action> {
        let key = object.get("key").and_then(|(value, at)| self.key(value, &at, problems));
        let verbs: Vec<&str> = VERBS.iter().map(|verb| verb.name).filter(|name| object.has(name)).collect();
        if let Some((value, at)) = object.get("delete") {
            if *value != Value::Bool(true) {
                problems.hinted(at, "must be `true`", "leave it out to keep the row");
            }
            for name in verbs.iter().copied().chain(object.has("floor").then_some("floor")) {
                problems.add(pointer(&object.at, name), "does not stand beside `delete`");
            }
            return Some(Action { key, create: false, delete: true, steps: Vec::new(), pointer: object.at.clone() });
        }
        if verbs.is_empty() {
            let known = "upsert, set, update, patch, delete, increment, decrement, append, remove";
            problems.hinted(object.at.as_str(), "does nothing", format!("verbs are: {known}"));
            return None;
        }
        for name in verbs.iter().copied().filter(|name| matches!(*name, "update" | "patch")) {
            if let Some(other) = verbs.iter().find(|name| matches!(**name, "upsert" | "set")) {
                let message = format!("only touches a row that exists, and `{other}` makes one");
                problems.hinted(pointer(&object.at, name), message, "use one of the two, or two rules");
            }
        }
        let floor = floor(object, problems);
        let mut taken = Taken::default();
        let mut steps = Vec::new();
        for verb in &VERBS {
            let Some((value, at)) = object.get(verb.name) else { continue };
            let Some(inner) = Object::new(value, &at, problems) else { continue };
            if inner.members.is_empty() {
                problems.add(at, "names no column");
            }
            for (text, value, at) in inner.each() {
                steps.extend(self.step(verb, floor, &mut taken, (text, value, &at), problems));
            }
        }
        let create = !verbs.iter().any(|name| matches!(*name, "update" | "patch" | "remove"));
        Some(Action { key, create, delete: false, steps, pointer: object.at.clone() })
    }

    fn key(&self, value: &Value, at: &str, problems: &mut Problems) -> Option<Vec<super::KeyPart>> {
        if self.names.is_fold() {
            problems.add(at, "a fold has no key");
            return None;
        }
        let object = Object::new(value, at, problems)?;
        let given: BTreeSet<String> = object.members.keys().cloned().collect();
        for name in given.difference(self.names.key()) {
            let hint = suggestion(name, self.names.key().iter().map(String::as_str));
            problems.hinted(pointer(at, name), "the key has no such part", hint);
        }
        for name in self.names.key().difference(&given) {
            problems.add(pointer(at, name), "is missing: another key has the same parts");
        }
        Some(key_parts(&object, problems))
    }

    fn step(
        &self,
        verb: &Verb,
        floor: Option<f64>,
        taken: &mut Taken,
        (text, value, at): (&str, &Value, &str),
        problems: &mut Problems,
    ) -> Option<Step> {
        let (name, entry_source) = target(text);
        let Some(column) = self.columns.find(name) else {
            let noun = if self.names.is_fold() { "the state has no such member" } else { "there is no such column" };
            problems.hinted(at, noun, suggestion(name, self.columns.names()));
            return None;
        };
        if !taken.take(column, entry_source) {
            problems.add(at, "this action changes the column already");
        }
        let entry = match entry_source {
            Some(source) => Some(compiled(source, at, self.scope, self.names, problems)?),
            None => None,
        };
        if let Some(usable) = self.columns.usable(name) {
            let problem = match &usable.source {
                ColumnSource::Derived(_) => Some(String::from("a derived column is computed, not changed")),
                ColumnSource::Lookup { .. } => Some(String::from("a lookup is filled when a query is answered")),
                ColumnSource::Handlers => verb.unfit(usable, entry_source.is_some()),
            };
            if let Some(problem) = problem {
                problems.add(at, problem);
                return None;
            }
        }
        if verb.name == "remove" && entry.is_some() && *value != Value::Bool(true) {
            problems.add(at, "an entry is removed with `true`");
        }
        let value = expression(value, at, self.scope, self.names, problems)?;
        let usable = self.columns.usable(name);
        if let Some(problem) = usable.and_then(|column| verb.misfit(column, entry.is_some(), &value)) {
            problems.add(at, problem);
        }
        let integer = usable.is_some_and(|column| part(column, entry.is_some()) == Some(&ColumnType::Int));
        if verb.name == "decrement" && integer && floor.is_some_and(|floor| floor.fract() != 0.0) {
            problems.add(at, "the floor of a whole number is a whole number");
        }
        let operation = match verb.operation {
            Operation::Decrement { .. } => Operation::Decrement { floor },
            other => other,
        };
        Some(Step { column, entry, operation, value, pointer: at.to_owned() })
    }
}

fn floor(object: &Object<'_>, problems: &mut Problems) -> Option<f64> {
    let (value, at) = object.get("floor")?;
    let floor = value.as_f64();
    if floor.is_none() {
        problems.add(at, "must be a number");
    } else if !object.has("decrement") {
        problems.add(at, "means something only with `decrement`");
    }
    floor
}

/// Type of what a verb changes: the column, or an entry of it.
fn part(column: &Column, entry: bool) -> Option<&ColumnType> {
    match (&column.kind, entry) {
        (ColumnType::Map(inner), true) => Some(inner),
        (_, true) => None,
        (kind, false) => Some(kind),
    }
}

/// Columns and entries that an action changes.
#[derive(Default)]
struct Taken {
    whole: BTreeSet<usize>,
    entries: BTreeSet<(usize, String)>,
}

impl Taken {
    fn take(&mut self, column: usize, entry: Option<&str>) -> bool {
        match entry {
            None => !self.entries.iter().any(|(other, _)| *other == column) && self.whole.insert(column),
            Some(entry) => !self.whole.contains(&column) && self.entries.insert((column, entry.trim().to_owned())),
        }
    }
}

/// A verb that changes columns.
struct Verb {
    name: &'static str,
    operation: Operation,
}

const VERBS: [Verb; 8] = [
    Verb { name: "upsert", operation: Operation::Set },
    Verb { name: "set", operation: Operation::Set },
    Verb { name: "update", operation: Operation::Set },
    Verb { name: "patch", operation: Operation::Patch },
    Verb { name: "increment", operation: Operation::Increment },
    Verb { name: "decrement", operation: Operation::Decrement { floor: None } },
    Verb { name: "append", operation: Operation::Append },
    Verb { name: "remove", operation: Operation::Remove },
];

impl Verb {
    /// Why the verb cannot change such a column.
    fn unfit(&self, column: &Column, entry: bool) -> Option<String> {
        let Some(part) = part(column, entry) else {
            return Some(format!("only a map has entries, and the column is of type {}", column.kind));
        };
        let fits = match self.operation {
            Operation::Set | Operation::Patch => true,
            Operation::Increment | Operation::Decrement { .. } => part.is_number(),
            Operation::Append => !entry && matches!(part, ColumnType::List(_)),
            Operation::Remove => entry || matches!(part, ColumnType::List(_)),
        };
        let needs = match self.operation {
            Operation::Append => "a column of type list<T>",
            Operation::Remove => "a column of type list<T>, or an entry of a map (`column[expression]: true`)",
            _ => "a number: a column of type int or float, or an entry of a map of them",
        };
        (!fits).then(|| format!("`{}` needs {needs}; the column is of type {}", self.name, column.kind))
    }

    /// Why the verb cannot take this literal.
    fn misfit(&self, column: &Column, entry: bool, value: &Expression) -> Option<&'static str> {
        let literal = value.literal()?;
        let part = part(column, entry)?;
        let fits = match (self.operation, part) {
            (Operation::Set | Operation::Patch, part) => part.fits(literal),
            (Operation::Increment | Operation::Decrement { .. }, part) => part.fits(literal) && !literal.is_null(),
            (Operation::Append | Operation::Remove, ColumnType::List(inner)) => inner.fits(literal),
            _ => true,
        };
        (!fits).then_some("the value is not of the column's type")
    }
}
