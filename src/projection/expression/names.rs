//! Names that expressions can use.
//!
//! Owns: how roots are called, which functions there are and how many arguments they take, "did you mean". Must not
//! know: what functions do.

use super::{Root, Scope};

/// How a function is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `f(x)`
    Global,
    /// `x.f()`
    Member,
}

/// All functions: name, style, least and most arguments (without the receiver). Operators and macros are not among them.
pub(super) const FUNCTIONS: &[(&str, Style, usize, usize)] = &[
    ("size", Style::Global, 1, 1),
    ("type", Style::Global, 1, 1),
    ("dyn", Style::Global, 1, 1),
    ("bool", Style::Global, 1, 1),
    ("bytes", Style::Global, 1, 1),
    ("double", Style::Global, 1, 1),
    ("int", Style::Global, 1, 1),
    ("uint", Style::Global, 1, 1),
    ("string", Style::Global, 1, 1),
    ("duration", Style::Global, 1, 1),
    ("timestamp", Style::Global, 1, 1),
    ("matches", Style::Global, 2, 2),
    ("optional.none", Style::Global, 0, 0),
    ("optional.of", Style::Global, 1, 1),
    ("optional.ofNonZeroValue", Style::Global, 1, 1),
    ("lists.range", Style::Global, 1, 1),
    ("strings.quote", Style::Global, 1, 1),
    ("math.ceil", Style::Global, 1, 1),
    ("math.floor", Style::Global, 1, 1),
    ("math.round", Style::Global, 1, 1),
    ("math.trunc", Style::Global, 1, 1),
    ("math.isInf", Style::Global, 1, 1),
    ("math.isNaN", Style::Global, 1, 1),
    ("math.isFinite", Style::Global, 1, 1),
    ("math.abs", Style::Global, 1, 1),
    ("math.sign", Style::Global, 1, 1),
    ("math.sqrt", Style::Global, 1, 1),
    ("math.bitNot", Style::Global, 1, 1),
    ("math.bitAnd", Style::Global, 2, 2),
    ("math.bitOr", Style::Global, 2, 2),
    ("math.bitXor", Style::Global, 2, 2),
    ("math.bitShiftLeft", Style::Global, 2, 2),
    ("math.bitShiftRight", Style::Global, 2, 2),
    ("lower", Style::Global, 1, 1),
    ("upper", Style::Global, 1, 1),
    ("trim", Style::Global, 1, 1),
    ("date", Style::Global, 1, 1),
    ("latest", Style::Global, 2, 2),
    ("earliest", Style::Global, 2, 2),
    ("local", Style::Global, 3, 3),
    ("coalesce", Style::Global, 2, 4),
    ("markdown", Style::Global, 1, 1),
    ("size", Style::Member, 0, 0),
    ("contains", Style::Member, 1, 1),
    ("startsWith", Style::Member, 1, 1),
    ("endsWith", Style::Member, 1, 1),
    ("matches", Style::Member, 1, 1),
    ("getFullYear", Style::Member, 0, 1),
    ("getMonth", Style::Member, 0, 1),
    ("getDate", Style::Member, 0, 1),
    ("getDayOfMonth", Style::Member, 0, 1),
    ("getDayOfWeek", Style::Member, 0, 1),
    ("getDayOfYear", Style::Member, 0, 1),
    ("getHours", Style::Member, 0, 1),
    ("getMinutes", Style::Member, 0, 1),
    ("getSeconds", Style::Member, 0, 1),
    ("getMilliseconds", Style::Member, 0, 1),
    ("hasValue", Style::Member, 0, 0),
    ("value", Style::Member, 0, 0),
    ("or", Style::Member, 1, 1),
    ("orValue", Style::Member, 1, 1),
    ("slice", Style::Member, 2, 2),
    ("flatten", Style::Member, 0, 1),
    ("distinct", Style::Member, 0, 0),
    ("reverse", Style::Member, 0, 0),
    ("sort", Style::Member, 0, 0),
    ("charAt", Style::Member, 1, 1),
    ("indexOf", Style::Member, 1, 2),
    ("lastIndexOf", Style::Member, 1, 2),
    ("join", Style::Member, 0, 1),
    ("lowerAscii", Style::Member, 0, 0),
    ("upperAscii", Style::Member, 0, 0),
    ("trim", Style::Member, 0, 0),
    ("replace", Style::Member, 2, 3),
    ("split", Style::Member, 1, 2),
    ("substring", Style::Member, 1, 2),
    ("format", Style::Member, 1, 1),
];

/// Macros, which are only seen here when they are called with arguments that they do not take.
pub(super) const MACROS: &[&str] = &[
    "has",
    "all",
    "exists",
    "exists_one",
    "existsOne",
    "map",
    "filter",
    "sortBy",
    "optMap",
    "optFlatMap",
    "greatest",
    "least",
];

/// Names of types, as values: `type(x) == int`. In the bare scope they are columns like any other name.
pub(super) const TYPES: &[&str] =
    &["bool", "bytes", "double", "int", "uint", "string", "list", "map", "null_type", "type"];

/// First parts of functions' names.
pub(super) const NAMESPACES: &[&str] = &["optional", "lists", "strings", "math"];

/// All names of roots, in any scope. Variables of iterations never have one.
pub(super) const ROOTS: &[&str] = &["data", "event", "subject", "row", "state", "key"];

/// The variable that holds a root when a program runs. A source cannot spell it, so nothing can shadow it.
pub(super) fn variable(root: Root) -> &'static str {
    match root {
        Root::Data => "@data",
        Root::Event => "@event",
        Root::Subject => "@subject",
        Root::Row => "@row",
        Root::Key => "@key",
    }
}

/// The root that a variable holds.
pub(super) fn root_of(variable: &str) -> Option<Root> {
    [Root::Data, Root::Event, Root::Subject, Root::Row, Root::Key]
        .into_iter()
        .find(|root| self::variable(*root) == variable)
}

/// What a root is called in a scope.
pub(super) fn called(root: Root, scope: Scope) -> &'static str {
    match root {
        Root::Row if scope.fold => "state",
        root => &variable(root)[1..],
    }
}

/// The functions of a name.
pub(super) fn functions(name: &str) -> impl Iterator<Item = (Style, usize, usize)> {
    FUNCTIONS.iter().filter(move |function| function.0 == name).map(|function| (function.1, function.2, function.3))
}

/// `; did you mean …`, if a name is close enough.
pub(super) fn suggestion<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let most = if name.len() <= 4 { 1 } else { 2 };
    known
        .into_iter()
        .map(|other| (distance(name, other), other))
        .filter(|(distance, other)| *distance <= most && *distance < other.len())
        .min()
        .map_or_else(String::new, |(_, other)| format!("; did you mean `{other}`?"))
}

/// Levenshtein distance, of names that are short.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let b: Vec<u8> = b.to_ascii_lowercase().into_bytes();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_ascii_lowercase().bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_names_are_suggested() {
        assert_eq!(suggestion("dat", ["data", "event"]), "; did you mean `data`?");
        assert_eq!(suggestion("lowr", ["lower", "upper"]), "; did you mean `lower`?");
        assert_eq!(suggestion("banana", ["data", "event"]), "");
    }

    #[test]
    fn roots_and_variables_agree() {
        for root in [Root::Data, Root::Event, Root::Subject, Root::Row, Root::Key] {
            assert_eq!(root_of(variable(root)), Some(root));
        }
        assert_eq!(root_of("@result"), None);
    }
}
