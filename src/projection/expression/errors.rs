//! Errors of the interpreter, without the values that they carry.
//!
//! Owns: the mapping. The interpreter puts operands into its errors, and they may be personal: nothing leaves here but
//! names that are known before any event is read (operators, functions, types, members that the source spells). Must not
//! know: anything else.

use cel::ExecutionError;

use super::{EvalError, names};

/// Function of an error that says a limit was met; the message says which.
pub(super) const LIMIT: &str = "@limit";

const TYPES: &[&str] = &[
    "int",
    "uint",
    "double",
    "float",
    "string",
    "bytes",
    "bool",
    "list",
    "map",
    "null_type",
    "null",
    "timestamp",
    "duration",
    "optional_type",
    "optional",
    "type",
    "dyn",
    "opaque",
];

/// What an error of the interpreter is. `dynamic`: a member's name may have come from a value.
pub(super) fn of(error: &ExecutionError, dynamic: bool) -> EvalError {
    match error {
        ExecutionError::NoSuchKey(name) => {
            EvalError::NoSuchKey { name: if dynamic { "?".to_owned() } else { name.as_str().to_owned() } }
        }
        ExecutionError::IndexOutOfBounds(_) => EvalError::NoSuchKey { name: "?".to_owned() },
        ExecutionError::NoSuchOverload(call) => {
            types(call.function(), call.argument_types().iter().map(String::as_str))
        }
        ExecutionError::UnexpectedType { got, want } => types(wanted(want), [got.as_str()]),
        ExecutionError::ValuesNotComparable(a, b) => types("comparison", [&*kind(a), &*kind(b)]),
        ExecutionError::UnsupportedBinaryOperator(name, a, b) => types(name, [&*kind(a), &*kind(b)]),
        ExecutionError::UnsupportedIndex(index, value) => types("[]", [&*kind(value), &*kind(index)]),
        ExecutionError::UnsupportedKeyType(value) => types("map", [&*kind(value)]),
        ExecutionError::UnsupportedTargetType { target } => types("function", [&*kind(target)]),
        ExecutionError::NotSupportedAsMethod { method, target } => types(method, [&*kind(target)]),
        ExecutionError::InvalidArgumentCount { actual, .. } => {
            EvalError::Type { operation: "function".to_owned(), operands: format!("{actual} arguments") }
        }
        ExecutionError::DivisionByZero(_) => arithmetic("/"),
        ExecutionError::RemainderByZero(_) => arithmetic("%"),
        ExecutionError::Overflow(name, ..) => arithmetic(name),
        ExecutionError::DuplicateKey(_) => arithmetic("map"),
        ExecutionError::FunctionError { function, message } if function == LIMIT => {
            EvalError::TooLarge { what: if message == "result" { "result" } else { "work" } }
        }
        ExecutionError::FunctionError { function, .. } => arithmetic(function),
        _ => EvalError::Other,
    }
}

/// The error of a limit.
pub(super) fn limit(what: &str) -> ExecutionError {
    ExecutionError::function_error(LIMIT, what)
}

/// An operation on values of types it does not take.
pub(super) fn types<'a>(operation: &str, operands: impl IntoIterator<Item = &'a str>) -> EvalError {
    let operands = operands.into_iter().map(type_name).collect::<Vec<_>>().join(", ");
    EvalError::Type { operation: known(operation), operands }
}

/// An operation without a result.
pub(super) fn arithmetic(operation: &str) -> EvalError {
    EvalError::Arithmetic { operation: known(operation) }
}

fn kind(value: &cel::Value) -> String {
    value.type_of().to_string()
}

fn type_name(name: &str) -> &'static str {
    let name = name.strip_prefix("google.protobuf.").unwrap_or(name);
    let found = TYPES.iter().find(|known| known.eq_ignore_ascii_case(name)).copied();
    match found {
        Some("null_type") => "null",
        Some("float") => "double",
        Some("optional_type") => "optional",
        Some(known) => known,
        None => "this",
    }
}

/// What takes a value of one type only.
fn wanted(want: &str) -> &'static str {
    match want {
        "bool" => "condition",
        "iterable" => "iteration",
        _ => "function",
    }
}

/// An operation as the source spells it, if it is one of those that there are.
fn known(operation: &str) -> String {
    let spelt = match operation {
        "_[_]" | "_[?_]" => "[]",
        "_?_:_" => "?:",
        "_._" | "_?._" => ".",
        "math.@max" => "math.greatest",
        "math.@min" => "math.least",
        "@sortByAssociatedKeys" => "sortBy",
        "add" => "+",
        "mul" => "*",
        "div" => "/",
        "rem" => "%",
        "sub" | "negate" => "-",
        other => other.trim_matches(['_', '@']),
    };
    let operator = !spelt.is_empty() && spelt.len() <= 2 && spelt.chars().all(|c| c.is_ascii_punctuation());
    let words = [
        "in",
        "comparison",
        "map",
        "function",
        "condition",
        "iteration",
        "sortBy",
        "result",
        "math.greatest",
        "math.least",
    ];
    let function = names::FUNCTIONS.iter().any(|function| function.0 == spelt);
    if operator || function || words.contains(&spelt) {
        spelt.to_owned()
    } else {
        // Extensions sometimes leave out the namespace.
        let full = names::FUNCTIONS.iter().find(|function| function.0.split('.').next_back() == Some(spelt));
        full.map_or_else(|| "expression".to_owned(), |function| function.0.to_owned())
    }
}
