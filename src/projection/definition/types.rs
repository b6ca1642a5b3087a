//! What the types of columns mean: their texts, and which values they take.
//!
//! Owns: that and nothing else. Must not know: columns.

use std::fmt;

use chrono::{DateTime, NaiveDate};
use serde_json::Value;

use super::ColumnType;

/// `list<list<…>>`: deepest nesting.
const DEEPEST: usize = 4;

impl ColumnType {
    /// Every type's text, for hints.
    pub const TEXTS: &'static str = "string, int, float, bool, date, timestamp, json, list<T>, map<string,T>";

    /// Parses `int`, `list<string>`, `map<string,int>`; spaces count only inside words.
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_within(text, DEEPEST)
    }

    fn parse_within(text: &str, deeper: usize) -> Option<Self> {
        let text = text.trim();
        Some(match text {
            "string" => Self::String,
            "int" => Self::Int,
            "float" => Self::Float,
            "bool" => Self::Bool,
            "date" => Self::Date,
            "timestamp" => Self::Timestamp,
            "json" => Self::Json,
            _ => {
                let (name, rest) = text.split_once('<')?;
                let inner = rest.strip_suffix('>')?;
                let deeper = deeper.checked_sub(1)?;
                match name.trim() {
                    "list" => Self::List(Box::new(Self::parse_within(inner, deeper)?)),
                    "map" => {
                        let (key, value) = inner.split_once(',')?;
                        (key.trim() == "string").then_some(())?;
                        Self::Map(Box::new(Self::parse_within(value, deeper)?))
                    }
                    _ => return None,
                }
            }
        })
    }

    /// Whether a value is of this type. `null` is of every type except inside lists and maps, and except lists and maps
    /// themselves, whose empty value is empty.
    pub fn fits(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::List(inner), Value::Array(items)) => items.iter().all(|item| inner.fits_inside(item)),
            (Self::Map(inner), Value::Object(members)) => members.values().all(|item| inner.fits_inside(item)),
            (Self::List(_) | Self::Map(_), _) => false,
            (Self::Json, _)
            | (_, Value::Null)
            | (Self::Float, Value::Number(_))
            | (Self::Bool, Value::Bool(_))
            | (Self::String, Value::String(_)) => true,
            (Self::Int, Value::Number(number)) => number.is_i64(),
            (Self::Date, Value::String(text)) => is_date(text),
            (Self::Timestamp, Value::String(text)) => DateTime::parse_from_rfc3339(text).is_ok(),
            _ => false,
        }
    }

    fn fits_inside(&self, value: &Value) -> bool {
        self.fits(value) && (*self == Self::Json || !value.is_null())
    }

    /// The value of a column of this type that nothing has set.
    pub fn empty(&self) -> Value {
        match self {
            Self::List(_) => Value::Array(Vec::new()),
            Self::Map(_) => Value::Object(serde_json::Map::new()),
            _ => Value::Null,
        }
    }

    /// Whether values of this type have an order.
    pub fn is_scalar(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Map(_) | Self::Json)
    }

    /// Whether values of this type can be counted up and down.
    pub fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Float)
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String => f.write_str("string"),
            Self::Int => f.write_str("int"),
            Self::Float => f.write_str("float"),
            Self::Bool => f.write_str("bool"),
            Self::Date => f.write_str("date"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Json => f.write_str("json"),
            Self::List(inner) => write!(f, "list<{inner}>"),
            Self::Map(inner) => write!(f, "map<string,{inner}>"),
        }
    }
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_round_trip() {
        for text in ["string", "json", "list<int>", "map<string,float>", "list<map<string,list<date>>>"] {
            assert_eq!(ColumnType::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(ColumnType::parse(" map < string , int > ").unwrap().to_string(), "map<string,int>");
        let deep = "list<".repeat(9) + "int" + &">".repeat(9);
        for bad in ["", "text", "list", "list<>", "list<int", "map<int>", "map<int,int>", "set<int>", deep.as_str()] {
            assert_eq!(ColumnType::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn values() {
        let fits = |kind: &str, value: Value| ColumnType::parse(kind).unwrap().fits(&value);
        assert!(
            fits("int", json!(-1)) && !fits("int", json!(1.5)) && !fits("int", json!("1")) && fits("int", json!(null))
        );
        assert!(fits("float", json!(1)) && fits("date", json!("2026-02-28")) && !fits("date", json!("2026-02-30")));
        assert!(fits("timestamp", json!("2026-02-28T00:00:00Z")) && !fits("timestamp", json!("2026-02-28")));
        assert!(fits("list<int>", json!([1])) && !fits("list<int>", json!([null])) && !fits("list<int>", json!(null)));
        assert!(fits("map<string,json>", json!({"a": null})) && !fits("map<string,int>", json!({"a": "b"})));
    }
}
