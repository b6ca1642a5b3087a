//! Expected rows against found ones.
//!
//! Owns: what matches, and how a difference is told. Must not know: servers. An expected value says what must be there;
//! members that it does not name are not looked at.

use serde_json::Value;

/// How expected rows are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// These and no others, in this order.
    Ordered,
    /// These and no others, in any order.
    All,
    /// At least these.
    Some,
}

/// What is different; empty when nothing is.
pub fn rows(expected: &[Value], found: &[Value], mode: Mode) -> Vec<String> {
    let mut wrong = Vec::new();
    let partners: Vec<Option<usize>> = match mode {
        Mode::Ordered => {
            let fits = |at: &usize| found.get(*at).is_some_and(|row| differences("", &expected[*at], row).is_empty());
            (0..expected.len()).map(|at| Some(at).filter(fits)).collect()
        }
        Mode::All | Mode::Some => paired(expected, found),
    };
    for (at, (row, partner)) in expected.iter().zip(&partners).enumerate() {
        if partner.is_none() {
            wrong.push(missing(at, row, found, &partners, mode));
        }
    }
    if mode != Mode::Some && wrong.is_empty() && found.len() > expected.len() {
        let more = (0..found.len()).filter(|at| !partners.contains(&Some(*at)));
        wrong.extend(more.map(|at| format!("unexpected row {}", brief(&found[at]))));
    }
    wrong
}

fn missing(at: usize, row: &Value, found: &[Value], partners: &[Option<usize>], mode: Mode) -> String {
    let mut text = format!("row {} is not there\n  expected {row}", at + 1);
    let nearest = match mode {
        Mode::Ordered => found.get(at),
        Mode::All | Mode::Some => {
            // A row that is nobody's yet is the likelier one.
            let key =
                |(at, other): &(usize, &Value)| (partners.contains(&Some(*at)), differences("", row, other).len());
            found.iter().enumerate().min_by_key(key).map(|(_, row)| row)
        }
    };
    match nearest {
        None if found.is_empty() => text.push_str("\n  found    no rows"),
        None => text.push_str("\n  found    fewer rows"),
        Some(other) => {
            text.push_str("\n  nearest  ");
            text.push_str(&brief(other));
            for line in differences("", row, other) {
                text.push_str("\n    ");
                text.push_str(&line);
            }
        }
    }
    text
}

/// A row without what the server adds for programs.
fn brief(row: &Value) -> String {
    let Value::Object(members) = row else { return row.to_string() };
    let shown = members.iter().filter(|(name, _)| !name.starts_with('_'));
    Value::Object(shown.map(|(name, value)| (name.clone(), value.clone())).collect()).to_string()
}

/// What of an expected value is not so.
fn differences(path: &str, expected: &Value, found: &Value) -> Vec<String> {
    let differs = || vec![format!("{}: expected {expected}, found {found}", path.trim_start_matches('.'))];
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => expected
            .iter()
            .flat_map(|(name, value)| match found.get(name) {
                Some(other) => differences(&format!("{path}.{name}"), value, other),
                None => vec![format!("{}: not there", format!("{path}.{name}").trim_start_matches('.'))],
            })
            .collect(),
        (Value::Array(these), Value::Array(those)) if these.len() == those.len() => {
            let pairs = these.iter().zip(those).enumerate();
            pairs.flat_map(|(at, (one, other))| differences(&format!("{path}[{at}]"), one, other)).collect()
        }
        (Value::Number(one), Value::Number(other)) if one.as_f64() == other.as_f64() => Vec::new(),
        (one, other) if one == other => Vec::new(),
        _ => differs(),
    }
}

/// A found row of its own for every expected one, as far as there are such: the first that fits may have to be left to
/// another that fits no other.
fn paired(expected: &[Value], found: &[Value]) -> Vec<Option<usize>> {
    let fits: Vec<Vec<usize>> = expected
        .iter()
        .map(|row| (0..found.len()).filter(|at| differences("", row, &found[*at]).is_empty()).collect())
        .collect();
    let mut taken: Vec<Option<usize>> = vec![None; found.len()];
    for at in 0..expected.len() {
        place(at, &fits, &mut taken, &mut vec![false; found.len()]);
    }
    (0..expected.len()).map(|at| taken.iter().position(|by| *by == Some(at))).collect()
}

fn place(at: usize, fits: &[Vec<usize>], taken: &mut [Option<usize>], tried: &mut [bool]) -> bool {
    for &row in &fits[at] {
        if std::mem::replace(&mut tried[row], true) {
            continue;
        }
        if taken[row].is_none_or(|other| place(other, fits, taken, tried)) {
            taken[row] = Some(at);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(expected: &Value, found: &Value, mode: Mode) -> Vec<String> {
        rows(expected.as_array().unwrap(), found.as_array().unwrap(), mode)
    }

    #[test]
    fn what_is_not_named_is_not_looked_at() {
        let found = json!([{"_key": "k_1", "name": "Ada", "n": 1.0, "tags": [{"a": 1, "b": 2}]}]);
        assert!(of(&json!([{"name": "Ada", "n": 1, "tags": [{"a": 1}]}]), &found, Mode::All).is_empty());
        let wrong = of(&json!([{"name": "Bob", "city": "Oslo"}]), &found, Mode::All);
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].contains("city: not there") && wrong[0].contains(r#"name: expected "Bob", found "Ada""#));
        assert!(!wrong[0].contains("k_1"));
    }

    #[test]
    fn order_and_number() {
        let (one, two) = (json!({"n": 1}), json!({"n": 2}));
        let turned = json!([two, one]);
        assert!(of(&json!([one, two]), &turned, Mode::All).is_empty());
        assert_eq!(of(&json!([one, two]), &turned, Mode::Ordered).len(), 2);
        assert_eq!(of(&json!([one]), &turned, Mode::All), [r#"unexpected row {"n":2}"#]);
        assert!(of(&json!([one]), &turned, Mode::Some).is_empty());
        assert_eq!(of(&json!([one, one]), &turned, Mode::Some).len(), 1);
    }

    #[test]
    fn a_row_is_left_to_whoever_needs_it() {
        let found = json!([{"a": 1, "b": 1}, {"a": 1, "b": 2}]);
        assert!(of(&json!([{"a": 1}, {"b": 1}]), &found, Mode::All).is_empty());
    }
}
