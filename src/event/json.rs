//! Strict JSON in: one pass that parses and enforces every structural limit.
//!
//! Owns: I-JSON rules (RFC 7493) and the limits of depth, nodes, string length and keys. Must not know: events.
//! Refused: duplicate keys, integers beyond ±(2^53 − 1), lone surrogates and invalid UTF-8 (by the parser), trailing
//! text. Messages name the rule and the place in the text, never a value.

use std::cell::Cell;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::de::Read;
use serde_json::{Map, Number, Value};

/// Structural limits of one JSON text.
#[derive(Clone, Copy, Debug)]
pub struct JsonLimits {
    /// Deepest nesting of arrays and objects.
    pub depth: usize,
    /// Values of any kind in the whole text.
    pub nodes: usize,
    /// Bytes of the longest string or key.
    pub string: usize,
    /// Members of the largest object.
    pub keys: usize,
}

impl Default for JsonLimits {
    fn default() -> Self {
        Self { depth: 32, nodes: 10_000, string: 64 * 1024, keys: 512 }
    }
}

/// The text is not JSON we accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON, or not UTF-8.
    #[error("not valid JSON at line {line}, column {column}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1.
        column: usize,
    },
    /// JSON, but against one of the rules above.
    #[error("{rule} at line {line}, column {column}")]
    Rule {
        /// The broken rule.
        rule: Rule,
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1.
        column: usize,
    },
}

/// A rule that valid JSON can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// More nesting than allowed.
    #[error("nesting is too deep")]
    Depth,
    /// More values than allowed.
    #[error("too many values")]
    Nodes,
    /// A string or key longer than allowed.
    #[error("a string is too long")]
    String,
    /// An object with more members than allowed.
    #[error("an object has too many members")]
    Keys,
    /// The same key twice in one object.
    #[error("an object has the same key twice")]
    DuplicateKey,
    /// A number that a double cannot hold exactly.
    #[error("an integer is outside ±(2^53 - 1)")]
    UnsafeInteger,
}

/// Largest integer that every JSON reader keeps exactly (RFC 7493).
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Parses one JSON text.
///
/// # Errors
/// [`JsonError`] with the place and the rule.
pub fn parse(text: &[u8], limits: JsonLimits) -> Result<Value, JsonError> {
    let state = State { limits, nodes: Cell::new(0), broken: Cell::new(None) };
    // Looking at the whole text once is quicker than at each of its strings; where it is not UTF-8 the parser says.
    let result = match std::str::from_utf8(text) {
        Ok(text) => state.value(serde_json::Deserializer::from_str(text)),
        Err(_) => state.value(serde_json::Deserializer::from_slice(text)),
    };
    result.map_err(|error| match state.broken.get() {
        Some(rule) => JsonError::Rule { rule, line: error.line(), column: error.column() },
        None => JsonError::Syntax { line: error.line(), column: error.column() },
    })
}

struct State {
    limits: JsonLimits,
    nodes: Cell<usize>,
    broken: Cell<Option<Rule>>,
}

impl State {
    fn value<'t>(&self, mut reader: serde_json::Deserializer<impl Read<'t>>) -> serde_json::Result<Value> {
        let value = Seed { state: self, depth: 0 }.deserialize(&mut reader)?;
        reader.end()?;
        Ok(value)
    }

    fn refuse<E: de::Error>(&self, rule: Rule) -> E {
        self.broken.set(Some(rule));
        E::custom(rule)
    }

    fn text<E: de::Error>(&self, text: &str) -> Result<(), E> {
        if text.len() > self.limits.string { Err(self.refuse(Rule::String)) } else { Ok(()) }
    }
}

#[derive(Clone, Copy)]
struct Seed<'a> {
    state: &'a State,
    depth: usize,
}

impl Seed<'_> {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth == self.state.limits.depth {
            return Err(self.state.refuse(Rule::Depth));
        }
        Ok(Self { state: self.state, depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let nodes = self.state.nodes.get() + 1;
        self.state.nodes.set(nodes);
        if nodes > self.state.limits.nodes {
            return Err(self.state.refuse(Rule::Nodes));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        if value.unsigned_abs() > MAX_SAFE_INTEGER {
            return Err(self.state.refuse(Rule::UnsafeInteger));
        }
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        if value > MAX_SAFE_INTEGER {
            return Err(self.state.refuse(Rule::UnsafeInteger));
        }
        Ok(Value::Number(value.into()))
    }

    #[allow(clippy::cast_precision_loss, reason = "the limit itself is exact in a double")]
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        // A whole number written with more digits than a double keeps also arrives here.
        if value.fract() == 0.0 && value.abs() > MAX_SAFE_INTEGER as f64 {
            return Err(self.state.refuse(Rule::UnsafeInteger));
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| self.state.refuse(Rule::UnsafeInteger))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        self.state.text(text)?;
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
        self.state.text(&text)?;
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            self.state.text(&key)?;
            let value = members.next_value_seed(inner)?;
            if object.insert(key, value).is_some() {
                return Err(self.state.refuse(Rule::DuplicateKey));
            }
            if object.len() > self.state.limits.keys {
                return Err(self.state.refuse(Rule::Keys));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Option<Rule> {
        match parse(text.as_bytes(), JsonLimits::default()) {
            Err(JsonError::Rule { rule, .. }) => Some(rule),
            _ => None,
        }
    }

    #[test]
    fn each_rule() {
        assert_eq!(rule(r#"{"a":1,"a":2}"#), Some(Rule::DuplicateKey));
        assert_eq!(rule("9007199254740992"), Some(Rule::UnsafeInteger));
        assert_eq!(rule("-9007199254740992"), Some(Rule::UnsafeInteger));
        assert_eq!(rule("123456789012345678901234567890"), Some(Rule::UnsafeInteger));
        assert_eq!(rule(&"[".repeat(40)), Some(Rule::Depth));
        assert_eq!(rule(&format!("[{}1]", "1,".repeat(10_000))), Some(Rule::Nodes));
        assert_eq!(rule(&format!("\"{}\"", "x".repeat(65_537))), Some(Rule::String));
        assert_eq!(rule("9007199254740991"), None);
    }

    #[test]
    fn syntax_is_told_apart() {
        for bad in ["", "{", "nul", "1 2", "\"\\ud800\"", "NaN", "1e999", "\u{feff}1", "'a'", "[1,]"] {
            assert!(matches!(parse(bad.as_bytes(), JsonLimits::default()), Err(JsonError::Syntax { .. })), "{bad}");
        }
        assert!(matches!(parse(b"\"\xff\"", JsonLimits::default()), Err(JsonError::Syntax { .. })));
    }
}
