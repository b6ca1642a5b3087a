//! Values that can be added up or put in order.
//!
//! Owns: what is one number although JSON writes it in two ways, and a total order of numbers and of text, so that the
//! least of many is the same in whatever order they come. Must not know: where a value comes from.

use std::cmp::Ordering;

use chrono::{DateTime, NaiveDate, NaiveTime};
use serde_json::Value;

/// A number of JSON. `5` and `5.0` are one number, and canonical JSON writes both as `5`.
#[derive(Clone, Copy, PartialEq)]
pub enum Number {
    /// Whole.
    Whole(i128),
    /// Not whole, or so large that its neighbours are far away.
    Fraction(f64),
}

impl Number {
    /// The number; `None` for anything else.
    pub fn of(value: &Value) -> Option<Self> {
        const LARGE: f64 = (1_u128 << 80) as f64;
        let number = value.as_number()?;
        let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
        match (whole, number.as_f64()?) {
            (Some(whole), _) => Some(Self::Whole(whole)),
            (None, float) if float.fract() == 0.0 && float.abs() < LARGE => Some(Self::Whole(float as i128)),
            (None, float) => Some(Self::Fraction(float)),
        }
    }

    /// The nearest double.
    pub fn float(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Fraction(float) => float,
        }
    }

    /// The number in JSON: exact within 64 bits, else the nearest double.
    pub fn to_json(self) -> Value {
        match self {
            Self::Whole(whole) => i64::try_from(whole)
                .map(Value::from)
                .or_else(|_| u64::try_from(whole).map(Value::from))
                .unwrap_or_else(|_| Value::from(whole as f64)),
            Self::Fraction(float) => Value::from(float),
        }
    }

    /// A total order: a fraction lies between whole numbers that doubles tell apart, or beyond all of them.
    fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Whole(one), Self::Whole(two)) => one.cmp(&two),
            (one, two) => one.float().total_cmp(&two.float()),
        }
    }
}

/// What `min` and `max` compare.
#[derive(Clone, PartialEq)]
pub enum Scalar {
    /// A number.
    Number(Number),
    /// Text.
    Text(String),
}

impl Scalar {
    /// A number or text; `None` for anything else.
    pub fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Number(_) => Number::of(value).map(Self::Number),
            Value::String(text) => Some(Self::Text(text.clone())),
            _ => None,
        }
    }

    /// A total order among numbers and among text; `None` between the two.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Number(one), Self::Number(two)) => Some(one.compare(*two)),
            (Self::Text(one), Self::Text(two)) => Some(compare_text(one, two)),
            _ => None,
        }
    }

    /// The value in JSON.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Number(number) => number.to_json(),
            Self::Text(text) => Value::from(text.as_str()),
        }
    }
}

/// Dates and times as instants, before all other text; the rest, and two spellings of one instant, byte by byte. Other
/// text needs a side of its own: compared with times byte by byte, the order would run in circles.
fn compare_text(one: &str, two: &str) -> Ordering {
    match (instant(one), instant(two)) {
        (Some(first), Some(second)) => first.cmp(&second).then_with(|| one.cmp(two)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => one.cmp(two),
    }
}

/// Seconds and nanoseconds of an RFC 3339 time, or of the midnight (UTC) that a date begins with.
fn instant(text: &str) -> Option<(i64, u32)> {
    if text.len() == "2026-11-21".len() {
        let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        return Some((date.and_time(NaiveTime::MIN).and_utc().timestamp(), 0));
    }
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    Some((time.timestamp(), time.timestamp_subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn value() -> impl Strategy<Value = Value> {
        let edges = vec![
            json!(u64::MAX),
            json!(u64::MAX as f64),
            json!(i64::MIN),
            json!(i64::MIN as f64),
            json!(1_u64 << 53),
            json!((1_u64 << 53) + 1),
            json!(-0.0),
            json!(0),
            json!(0.5),
            json!(1e300),
            json!(2_f64.powi(80)),
        ];
        prop_oneof![
            prop::sample::select(edges),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[ab+2]{0,3}".prop_map(Value::from),
            "2026-01-0[12](T0[0-3]:00:00(Z|[+-]0[0-3]:00))?".prop_map(Value::from),
        ]
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in value(), b in value(), c in value()) {
            let of = |value| Scalar::of(value);
            let (Some(a), Some(b), Some(c)) = (of(&a), of(&b), of(&c)) else { return Ok(()) };
            prop_assert_eq!(a.compare(&b), b.compare(&a).map(Ordering::reverse));
            prop_assert_eq!(a.compare(&b) == Some(Ordering::Equal), a == b);
            let not_after = |one: &Scalar, two: &Scalar| one.compare(two).is_some_and(Ordering::is_le);
            prop_assert!(!not_after(&a, &b) || !not_after(&b, &c) || not_after(&a, &c));
            prop_assert!(Scalar::of(&a.to_json()) == Some(a));
        }
    }
}
