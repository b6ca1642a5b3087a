//! Windows of time and aggregates.
//!
//! Owns: durations, the calls that aggregates are written as, and the decision to declassify. Must not know: rows.

use serde_json::Value;

use super::parse_expression::{Names, call, compiled, expression};
use super::parse_reader::{Object, Problems, from_one, list, name_fits, pointer, reason, suggestion};
use super::{Aggregate, AggregateFunction, Declassify, Window};
use crate::projection::expression::{Expression, Root, Scope};

const MOST_ROLLUPS: usize = 4;
const MOST_AGGREGATES: usize = 100;
/// Fewest people that a declassified aggregate is shown of.
const LEAST_GROUP: u32 = 5;
const DAY: i64 = 86_400_000;
/// Longest duration, in days.
const LONGEST: i64 = 36_600;

const WINDOW_SCOPE: Scope = Scope { roots: &[Root::Data, Root::Event], fold: false, bare: false };
const OPERAND_SCOPE: Scope = Scope { roots: &[Root::Data, Root::Event, Root::Subject], fold: false, bare: false };

/// Reads `window`.
pub(super) fn window(value: &Value, at: &str, names: &Names, problems: &mut Problems) -> Option<Window> {
    let object = Object::of(value, at, &["by", "size", "late", "keep", "rollup"], problems)?;
    let by = object.need("by", problems);
    let by = by.and_then(|(value, at)| expression(value, &at, WINDOW_SCOPE, names, problems));
    let size = object.need("size", problems).and_then(|(value, at)| length(value, &at, problems));
    let late = object.get("late").and_then(|(value, at)| duration(value, &at, problems));
    let keep = object.get("keep").and_then(|(value, at)| length(value, &at, problems));
    let mut rollup: Vec<i64> = Vec::new();
    if let Some((value, at)) = object.get("rollup") {
        for (number, item) in list(value, &at, MOST_ROLLUPS, problems).unwrap_or_default().iter().enumerate() {
            let at = pointer(&at, &number.to_string());
            let Some(millis) = length(item, &at, problems) else { continue };
            let Some(size) = size else { continue };
            if millis % size != 0 || millis == size {
                problems.add(at, "is not a multiple of `size`");
            } else if rollup.last().is_some_and(|last| *last >= millis) {
                problems.add(at, "rollups ascend");
            } else {
                rollup.push(millis);
            }
        }
    }
    let longest = rollup.last().copied().or(size);
    if keep.zip(longest).is_some_and(|(keep, longest)| keep < longest) {
        problems.add(pointer(at, "keep"), "is shorter than the longest window");
    }
    Some(Window { by: by?, size: size?, late, keep, rollup })
}

/// A duration that is not zero.
pub(super) fn length(value: &Value, at: &str, problems: &mut Problems) -> Option<i64> {
    let millis = duration(value, at, problems)?;
    if millis == 0 {
        problems.add(at, "must be longer than nothing");
        return None;
    }
    Some(millis)
}

fn duration(value: &Value, at: &str, problems: &mut Problems) -> Option<i64> {
    let millis = value.as_str().and_then(millis);
    if millis.is_none() {
        let hint =
            "weeks, days, hours, minutes, seconds: `PT5M`, `P35D`, `P1DT12H`; months and years have no fixed length";
        problems.hinted(at, "is not an ISO 8601 duration that we take", hint);
    }
    millis
}

/// Milliseconds of `P35D`, `PT5M`, `P2W`, `P1DT12H`, `PT0.5S`.
fn millis(text: &str) -> Option<i64> {
    let rest = text.strip_prefix('P')?;
    let (days, times) = match rest.split_once('T') {
        Some((days, times)) if !times.is_empty() => (days, times),
        Some(_) => return None,
        None if rest.is_empty() => return None,
        None => (rest, ""),
    };
    let weeks = [('W', 7 * DAY), ('D', DAY)];
    let clock = [('H', 3_600_000), ('M', 60_000), ('S', 1000)];
    let sum = units(days, &weeks)?.checked_add(units(times, &clock)?)?;
    (sum <= LONGEST * DAY).then_some(sum)
}

/// Numbers with units, each unit at most once and in order; only seconds have decimals.
fn units(mut text: &str, units: &[(char, i64)]) -> Option<i64> {
    let mut sum = 0_i64;
    for (unit, millis) in units {
        let Some((number, rest)) = text.split_once(*unit) else { continue };
        let (whole, decimals) = number.split_once('.').map_or((number, None), |(whole, part)| (whole, Some(part)));
        let digits = |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole, 12) || decimals.is_some_and(|part| *unit != 'S' || !digits(part, 3)) {
            return None;
        }
        let fraction: i64 = decimals.map_or(Some(0), |part| format!("{part:0<3}").parse().ok())?;
        sum = sum.checked_add(whole.parse::<i64>().ok()?.checked_mul(*millis)?)?.checked_add(fraction)?;
        text = rest;
    }
    text.is_empty().then_some(sum)
}

/// Reads `aggregate`; their names become columns.
pub(super) fn aggregates(value: &Value, at: &str, names: &mut Names, problems: &mut Problems) -> Vec<Aggregate> {
    let Some(object) = Object::new(value, at, problems) else { return Vec::new() };
    if object.members.is_empty() || object.members.len() > MOST_AGGREGATES {
        problems.add(at, format!("has 1 to {MOST_AGGREGATES} aggregates"));
        return Vec::new();
    }
    let mut found = Vec::new();
    for (name, value, at) in object.each() {
        name_fits(name, &at, problems);
        names.claim(name, &at, problems);
        found.extend(aggregate(name, value, &at, names, problems));
    }
    found
}

fn aggregate(name: &str, value: &Value, at: &str, names: &Names, problems: &mut Problems) -> Option<Aggregate> {
    let (text, place, declassify) = if value.is_string() {
        (value, at.to_owned(), None)
    } else {
        let object = Object::of(value, at, &["value", "declassify", "min_group"], problems)?;
        let declassify = declassified(&object, problems);
        let (text, place) = object.need("value", problems)?;
        (text, place, declassify)
    };
    let Some((function, arguments)) = text.as_str().and_then(call) else {
        problems.hinted(place, "must be one call of a function", "for example `avg(data.speed)` or `count()`");
        return None;
    };
    let (function, operand) = function_of(function, &arguments, &place, problems)?;
    let value = match operand {
        Some(source) => Some(operand_of(source, &place, names, problems)?),
        None => None,
    };
    Some(Aggregate { name: name.to_owned(), function, value, declassify })
}

fn operand_of(source: &str, at: &str, names: &Names, problems: &mut Problems) -> Option<Expression> {
    compiled(source, at, OPERAND_SCOPE, names, problems)
}

fn function_of<'t>(
    name: &str,
    arguments: &[&'t str],
    at: &str,
    problems: &mut Problems,
) -> Option<(AggregateFunction, Option<&'t str>)> {
    use AggregateFunction as F;
    let one = |function| match arguments {
        [operand] if !operand.is_empty() => Ok((function, Some(*operand))),
        _ => Err(format!("`{name}` takes one operand")),
    };
    let found = match name {
        "count" if arguments.is_empty() => Ok((F::Count, None)),
        "count" => one(F::Count),
        "sum" => one(F::Sum),
        "min" => one(F::Min),
        "max" => one(F::Max),
        "avg" => one(F::Avg),
        "distinct" => one(F::Distinct),
        "quantile" => match arguments {
            [operand, share] if !operand.is_empty() => match share.parse::<f64>() {
                Ok(share) if share > 0.0 && share < 1.0 => Ok((F::Quantile(share), Some(*operand))),
                _ => Err(String::from("the quantile must be a number between 0 and 1")),
            },
            _ => Err(String::from("`quantile` takes an operand and a number between 0 and 1")),
        },
        _ => {
            let known = ["count", "sum", "min", "max", "avg", "distinct", "quantile"].into_iter();
            problems.hinted(at, format!("there is no aggregate `{name}`"), suggestion(name, known));
            return None;
        }
    };
    found.map_err(|message| problems.add(at, message)).ok()
}

fn declassified(object: &Object<'_>, problems: &mut Problems) -> Option<Declassify> {
    match (object.get("declassify"), object.get("min_group")) {
        (None, None) => None,
        (None, Some((_, at))) => {
            problems.hinted(at, "means something only with `declassify`", "say why the aggregate may be shown");
            None
        }
        (Some((value, at)), group) => {
            let reason = reason(value, &at, problems);
            let Some((group, at)) = group else {
                let hint = format!("the fewest people the aggregate is shown of, {LEAST_GROUP} or more");
                problems.hinted(pointer(&object.at, "min_group"), "is missing", hint);
                return None;
            };
            let min_group = from_one(group, &at, problems)?;
            if min_group < LEAST_GROUP {
                problems.add(at, format!("must be {LEAST_GROUP} or more"));
            }
            Some(Declassify { reason: reason?, min_group })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("PT5M", 300_000),
            ("P35D", 35 * DAY),
            ("P2W", 14 * DAY),
            ("P1DT12H", DAY * 3 / 2),
            ("PT0.5S", 500),
            ("PT1H1M1.001S", 3_661_001),
            ("PT0S", 0),
        ] {
            assert_eq!(millis(text), Some(expected), "{text}");
        }
        for bad in [
            "",
            "P",
            "PT",
            "P1",
            "P1M",
            "P1Y",
            "1D",
            "PT1D",
            "PT1.5H",
            "PT-5M",
            "P1DT",
            "pt5m",
            "PT5M1H",
            "PT1M1M",
            "P99999999D",
            "PT1.0001S",
            "PT.5S",
            "PT5m",
            "P9999999999999W",
            "PT 5M",
        ] {
            assert_eq!(millis(bad), None, "{bad}");
        }
    }
}
