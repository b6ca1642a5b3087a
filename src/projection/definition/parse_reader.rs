//! What every part of the parser reads with: problems, objects, lists, names.
//!
//! Owns: how a problem is pointed at and what hint it gets. Must not know: what a definition means.

use serde_json::{Map, Value};

use super::ProjectionName;
use crate::schema::Violation;

/// Problems reported of one definition.
const MOST_PROBLEMS: usize = 100;
/// Expressions of one definition. Compiling is the dear part of reading one.
const MOST_EXPRESSIONS: usize = 2000;
/// Longest reason or justification, in bytes.
const LONGEST_REASON: usize = 1000;

/// Everything found wrong so far.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<Violation>,
    expressions: usize,
}

impl Problems {
    /// Adds a problem.
    pub fn add(&mut self, at: impl Into<String>, message: impl Into<String>) {
        self.push(violation("invalid-definition", at, message));
    }

    /// Adds a problem and what to do about it.
    pub fn hinted(&mut self, at: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) {
        let hint = Some(hint.into());
        self.push(Violation { hint, ..violation("invalid-definition", at, message) });
    }

    /// Whether one more expression may be compiled. Says so once if not.
    pub fn admits_expression(&mut self) -> bool {
        self.expressions += 1;
        if self.expressions == MOST_EXPRESSIONS + 1 {
            self.add("", format!("a definition has at most {MOST_EXPRESSIONS} expressions"));
        }
        self.expressions <= MOST_EXPRESSIONS
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All of them.
    pub fn into_list(self) -> Vec<Violation> {
        self.found
    }

    /// Adds a violation.
    pub fn push(&mut self, violation: Violation) {
        if self.found.len() < MOST_PROBLEMS {
            self.found.push(violation);
        }
    }
}

/// A violation without a hint.
pub(in crate::projection) fn violation(
    code: &'static str,
    at: impl Into<String>,
    message: impl Into<String>,
) -> Violation {
    Violation { code, pointer: at.into(), message: message.into(), hint: None }
}

/// The JSON Pointer of a member.
pub(in crate::projection) fn pointer(at: &str, token: &str) -> String {
    format!("{at}/{}", token.replace('~', "~0").replace('/', "~1"))
}

/// An object of the definition and where it stands.
pub(super) struct Object<'v> {
    pub at: String,
    pub members: &'v Map<String, Value>,
}

impl<'v> Object<'v> {
    /// Takes a value as an object.
    pub fn new(value: &'v Value, at: &str, problems: &mut Problems) -> Option<Self> {
        let Value::Object(members) = value else {
            problems.add(at, "must be an object");
            return None;
        };
        Some(Self { at: at.to_owned(), members })
    }

    /// As [`Self::new`], with only these members.
    pub fn of(value: &'v Value, at: &str, known: &[&str], problems: &mut Problems) -> Option<Self> {
        let object = Self::new(value, at, problems)?;
        object.only(known, problems);
        Some(object)
    }

    /// Refuses every other member.
    pub fn only(&self, known: &[&str], problems: &mut Problems) {
        for name in self.members.keys().filter(|name| !known.contains(&name.as_str())) {
            problems.hinted(pointer(&self.at, name), "is not known here", suggestion(name, known.iter().copied()));
        }
    }

    /// Whether there is such a member.
    pub fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// A member and its pointer.
    pub fn get(&self, name: &str) -> Option<(&'v Value, String)> {
        self.members.get(name).map(|value| (value, pointer(&self.at, name)))
    }

    /// A member that must be there.
    pub fn need(&self, name: &str, problems: &mut Problems) -> Option<(&'v Value, String)> {
        let found = self.get(name);
        if found.is_none() {
            problems.add(pointer(&self.at, name), "is missing");
        }
        found
    }

    /// Every member with its pointer.
    pub fn each(&self) -> impl Iterator<Item = (&'v str, &'v Value, String)> {
        self.members.iter().map(|(name, value)| (name.as_str(), value, pointer(&self.at, name)))
    }
}

/// `did you mean …`, or what there is.
pub(super) fn suggestion<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    let known: Vec<&str> = known.collect();
    let near = known.iter().map(|other| (distance(name, other), *other)).min();
    match near {
        Some((steps, other)) if steps <= 1 + other.len() / 4 => format!("did you mean `{other}`?"),
        Some(_) => format!("known are: {}", known.iter().take(30).copied().collect::<Vec<_>>().join(", ")),
        None => String::from("there are none"),
    }
}

/// Edits from one word to another (Levenshtein), of their first 64 characters.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (at, c) in from.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in to.iter().enumerate() {
            let change = diagonal + usize::from(c != *other);
            diagonal = row[column + 1];
            row[column + 1] = change.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

/// Checks the name of a key part, column or aggregate.
pub(super) fn name_fits(name: &str, at: &str, problems: &mut Problems) {
    if ProjectionName::parse(name).is_none() {
        problems.add(at, "a name is a lower-case letter, then a-z 0-9 _, at most 64 characters");
    } else if matches!(name, "true" | "false" | "null" | "in") {
        problems.add(at, "this word means something else in expressions");
    }
}

/// A reason in the words of its author.
pub(super) fn reason(value: &Value, at: &str, problems: &mut Problems) -> Option<String> {
    let text = value.as_str().map(str::trim).filter(|text| !text.is_empty() && text.len() <= LONGEST_REASON);
    if text.is_none() {
        problems.add(at, format!("must say why, in 1 to {LONGEST_REASON} characters"));
    }
    text.map(str::to_owned)
}

/// A whole number from 1.
pub(super) fn from_one(value: &Value, at: &str, problems: &mut Problems) -> Option<u32> {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
    if number.is_none() {
        problems.add(at, "must be a whole number from 1");
    }
    number
}

/// A list.
pub(super) fn list<'v>(value: &'v Value, at: &str, most: usize, problems: &mut Problems) -> Option<&'v [Value]> {
    let Value::Array(items) = value else {
        problems.add(at, "must be a list");
        return None;
    };
    if items.len() > most {
        problems.add(at, format!("has at most {most} elements"));
        return None;
    }
    Some(items)
}

/// A list that is not empty; `empty` says what is missing. Nothing when there is a problem.
pub(super) fn filled<'v>(value: &'v Value, at: &str, most: usize, empty: &str, problems: &mut Problems) -> &'v [Value] {
    let items = list(value, at, most, problems);
    if items.is_some_and(<[Value]>::is_empty) {
        problems.add(at, empty);
    }
    items.unwrap_or_default()
}
