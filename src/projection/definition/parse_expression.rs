//! Expressions of a definition: compiled, and checked against the names the definition has.
//!
//! Owns: which scalars of YAML count as expressions, and references to columns, key parts and members of `event` that do
//! not exist. Must not know: what an expression computes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::parse_columns::Columns;
use super::parse_reader::{Problems, suggestion, violation};
use crate::projection::expression::{Expression, Reference, Root, Scope};
use crate::schema::Violation;

/// Members of `event`.
const EVENT_MEMBERS: [&str; 11] = [
    "id",
    "type",
    "stream",
    "category",
    "revision",
    "position",
    "time",
    "recorded_at",
    "actor",
    "correlation_id",
    "causation_id",
];

/// Names that expressions and indexes may use.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    fold: bool,
    key: BTreeSet<String>,
    /// Columns and whether they are stored; a lookup is not.
    columns: BTreeMap<String, bool>,
}

impl Names {
    /// Of a fold.
    pub fn fold() -> Self {
        Self { fold: true, ..Self::default() }
    }

    /// Of rows with these key parts.
    pub fn rows(key: impl IntoIterator<Item = String>) -> Self {
        Self { key: key.into_iter().collect(), ..Self::default() }
    }

    /// These and the columns.
    pub fn with(&self, columns: &Columns) -> Self {
        let stored = columns.list.iter().enumerate().map(|(at, c)| (c.name.clone(), !columns.is_lookup(at)));
        Self { columns: stored.collect(), ..self.clone() }
    }

    /// Whether it is a fold.
    pub fn is_fold(&self) -> bool {
        self.fold
    }

    /// The key's parts.
    pub fn key(&self) -> &BTreeSet<String> {
        &self.key
    }

    /// Adds a column of this name, unless the name is taken.
    pub fn claim(&mut self, name: &str, at: &str, problems: &mut Problems) {
        if self.key.contains(name) {
            problems.add(at, format!("the key has a part `{name}` already"));
        } else if self.columns.insert(name.to_owned(), true).is_some() {
            problems.add(at, format!("there is a column `{name}` already"));
        }
    }

    /// Every name.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.key.iter().chain(self.columns.keys()).map(String::as_str)
    }

    /// Why rows cannot be ordered by this name.
    pub fn not_stored(&self, name: &str) -> Option<&'static str> {
        match (self.key.contains(name), self.columns.get(name)) {
            (true, _) | (false, Some(true)) => None,
            (false, Some(false)) => Some("a lookup has its value only when a query is answered"),
            (false, None) => Some("there is no such key part or column"),
        }
    }

    fn wrong(&self, reference: &Reference) -> Option<(String, String)> {
        let name = reference.path.first()?;
        match reference.root {
            Root::Row => match self.columns.get(name) {
                Some(true) => None,
                Some(false) => Some((
                    format!("`{name}` is a lookup, which has its value only when a query is answered"),
                    String::from("copy the value from an event instead"),
                )),
                None => Some((
                    format!("there is no column `{name}`"),
                    suggestion(name, self.columns.keys().map(String::as_str)),
                )),
            },
            Root::Key if !self.key.contains(name) => {
                Some((format!("the key has no part `{name}`"), suggestion(name, self.key.iter().map(String::as_str))))
            }
            Root::Event if !EVENT_MEMBERS.contains(&name.as_str()) => {
                Some((format!("`event` has no member `{name}`"), suggestion(name, EVENT_MEMBERS.into_iter())))
            }
            _ => None,
        }
    }
}

/// Reads an expression: CEL source, or a number, `true`, `false`, `{}`, `[]`, which stand for themselves.
pub(super) fn expression(
    value: &Value,
    at: &str,
    scope: Scope,
    names: &Names,
    problems: &mut Problems,
) -> Option<Expression> {
    let written;
    let source = match value {
        Value::String(text) => text.as_str(),
        Value::Bool(_) | Value::Number(_) => {
            written = value.to_string();
            &written
        }
        Value::Object(members) if members.is_empty() => "{}",
        Value::Array(items) if items.is_empty() => "[]",
        Value::Null => {
            problems.hinted(at, "is empty", "an expression is text; the empty value is \"null\", in quotes");
            return None;
        }
        Value::Object(_) | Value::Array(_) => {
            problems.hinted(at, "must be an expression", "write it as text: \"[1, 2]\", \"{'a': 1}\"");
            return None;
        }
    };
    compiled(source, at, scope, names, problems)
}

/// Compiles a source and checks its references.
pub(super) fn compiled(
    source: &str,
    at: &str,
    scope: Scope,
    names: &Names,
    problems: &mut Problems,
) -> Option<Expression> {
    if !problems.admits_expression() {
        return None;
    }
    match Expression::compile(source, scope) {
        Ok(expression) => {
            for (message, hint) in expression.reads().iter().filter_map(|reference| names.wrong(reference)) {
                let hint = Some(hint);
                problems.push(Violation { hint, ..violation("invalid-expression", at, message) });
            }
            Some(expression)
        }
        Err(error) => {
            problems.push(violation("invalid-expression", at, error.to_string()));
            None
        }
    }
}

/// `name` or `name[entry]`: a column and the source of an entry of it.
pub(super) fn target(text: &str) -> (&str, Option<&str>) {
    match text.split_once('[') {
        Some((name, rest)) => match rest.strip_suffix(']') {
            Some(entry) => (name.trim(), Some(entry)),
            None => (text, None),
        },
        None => (text, None),
    }
}

/// A function call: its name and its arguments, split where a comma stands outside brackets and texts.
pub(super) fn call(text: &str) -> Option<(&str, Vec<&str>)> {
    let text = text.trim();
    let open = text.find('(')?;
    let name = &text[..open];
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return None;
    }
    let inner = &text[open + 1..];
    let mut arguments = Vec::new();
    let (mut depth, mut from, mut at) = (0_usize, 0, 0);
    while let Some(c) = inner[at..].chars().next() {
        if let Some(length) = string_literal(&inner[at..], raw_before(&inner[..at])) {
            at += length;
            continue;
        }
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => {
                // The call's own end: nothing may follow.
                if !inner[at + 1..].trim().is_empty() {
                    return None;
                }
                let last = inner[from..at].trim();
                if !last.is_empty() || !arguments.is_empty() {
                    arguments.push(last);
                }
                return Some((name, arguments));
            }
            ')' | ']' | '}' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => {
                arguments.push(inner[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
        at += c.len_utf8();
    }
    None
}

/// Whether the text before a quote makes it a raw one (`r'…'`, `br"…"`), in which a backslash is a backslash.
fn raw_before(before: &str) -> bool {
    let prefix: String = before.chars().rev().take_while(char::is_ascii_alphanumeric).collect();
    matches!(prefix.to_ascii_lowercase().as_str(), "r" | "rb" | "br")
}

/// Length of the string literal a text begins with; the whole text when it does not end.
fn string_literal(text: &str, raw: bool) -> Option<usize> {
    let quote = ["'''", "\"\"\"", "'", "\""].into_iter().find(|quote| text.starts_with(quote))?;
    let mut at = quote.len();
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with(quote) {
            return Some(at + quote.len());
        }
        let skip = if !raw && rest.starts_with('\\') { 2 } else { 1 };
        at += rest.chars().take(skip).map(char::len_utf8).sum::<usize>();
    }
    Some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_split_outside_brackets_and_texts() {
        let split = |text| call(text).map(|(name, arguments)| format!("{name}:{}", arguments.join("|")));
        let is = |text, parts: &str| assert_eq!(split(text).as_deref(), Some(parts), "{text}");
        is("count()", "count:");
        is(" avg( data.x ) ", "avg:data.x");
        is("quantile(f(a, [b, c], {'d': e}), 0.95)", "quantile:f(a, [b, c], {'d': e})|0.95");
        is(r#"count(data.x == "),(" && a)"#, r#"count:data.x == "),(" && a"#);
        is(r"count(data.x == '\'),(')", r"count:data.x == '\'),('");
        is(r"quantile(f(r'\'), 0.5)", r"quantile:f(r'\')|0.5");
        is("count('''it's, (ok''', 'é')", "count:'''it's, (ok'''|'é'");
        is("avg(a,)", "avg:a|");
        for bad in
            ["", "avg", "avg(", "avg(a", "avg(a) + 1", "avg(a))", "(a)", "a.avg(b)", "avg(']", "avg(a])", "avg('"]
        {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    #[test]
    fn targets() {
        assert_eq!(target("items"), ("items", None));
        assert_eq!(target("items[data.a[0]]"), ("items", Some("data.a[0]")));
        assert_eq!(target("items[data.a"), ("items[data.a", None));
    }
}
