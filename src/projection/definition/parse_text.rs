//! Texts in: YAML or JSON to one JSON value, within limits.
//!
//! Owns: what YAML we take, and the limits of a definition's text. Must not know: what a definition means. Keeps: an
//! input of bounded size makes a value of bounded size, aliases expanded; a key never counts twice.

use std::cell::{Cell, RefCell};

use serde::de::{self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Format;
use super::parse_reader::{pointer, violation};
use crate::event::json::{self, JsonLimits, MAX_SAFE_INTEGER};
use crate::schema::Violation;

/// Longest text of one definition, in bytes.
pub const MOST_BYTES: usize = 64 * 1024;
/// Longest text of several definitions, in bytes.
const MOST_FILE_BYTES: usize = 1024 * 1024;
/// Documents in one text.
const MOST_DOCUMENTS: usize = 100;
/// Bytes of all strings and keys, aliases expanded.
const MOST_EXPANDED: usize = 4 * MOST_BYTES;

/// The value of a text with one definition.
///
/// # Errors
/// One violation: where the text cannot be read further.
pub(super) fn read(text: &str, format: Format) -> Result<Value, Violation> {
    if text.len() > MOST_BYTES {
        return Err(violation("definition-too-large", "", format!("a definition has at most {MOST_BYTES} bytes")));
    }
    match format {
        Format::Json => json::parse(text.as_bytes(), JsonLimits::default())
            .map_err(|error| violation("malformed-json", "", error.to_string())),
        Format::Yaml => {
            let mut documents = yaml(text)?;
            match documents.len() {
                1 => Ok(documents.remove(0)),
                0 => Err(violation("malformed-yaml", "", "the text is empty")),
                many => Err(violation("malformed-yaml", "", format!("the text holds {many} documents; send one"))),
            }
        }
    }
}

/// The documents of a YAML text, which are separated by `---`. Empty ones are left out.
///
/// # Errors
/// Where the text cannot be read further.
pub fn documents(text: &str) -> Result<Vec<Value>, Violation> {
    if text.len() > MOST_FILE_BYTES {
        return Err(violation("definition-too-large", "", format!("a file has at most {MOST_FILE_BYTES} bytes")));
    }
    yaml(text)
}

fn yaml(text: &str) -> Result<Vec<Value>, Violation> {
    plausible(text)?;
    let mut values = Vec::new();
    // To the library, nothing at all is an error.
    if text.lines().all(|line| line.trim().is_empty() || line.starts_with('#')) {
        return Ok(values);
    }
    for (at, document) in yaml_serde::Deserializer::from_str(text).enumerate() {
        if at >= MOST_DOCUMENTS {
            return Err(violation("malformed-yaml", "", format!("at most {MOST_DOCUMENTS} documents")));
        }
        let value = yaml_document(document)?;
        if !value.is_null() {
            values.push(value);
        }
    }
    Ok(values)
}

/// Refuses before the YAML library sees it what the library is slow at or wrong about: brackets nested deeper than we
/// take anyway (its time grows with their square), and an anchor that is defined twice (its aliases then lead elsewhere).
/// Counts brackets in texts too, which no expression of a sensible size notices.
fn plausible(text: &str) -> Result<(), Violation> {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > 256 {
        return Err(violation("malformed-yaml", "", "brackets are nested too deep"));
    }
    let mut anchors = std::collections::BTreeSet::new();
    let mut before = '\n';
    for (at, c) in text.char_indices() {
        if c == '&' && (before.is_whitespace() || "[{,".contains(before)) {
            let rest = &text[at + 1..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').unwrap_or(rest.len());
            if end > 0 && !anchors.insert(&rest[..end]) {
                return Err(violation(
                    "malformed-yaml",
                    "",
                    format!("the anchor `&{}` is defined twice", &rest[..end]),
                ));
            }
        }
        before = c;
    }
    Ok(())
}

fn yaml_document(document: yaml_serde::Deserializer<'_>) -> Result<Value, Violation> {
    let state = State {
        limits: JsonLimits::default(),
        nodes: Cell::new(0),
        bytes: Cell::new(0),
        path: RefCell::default(),
        broken: RefCell::default(),
    };
    Seed(&state).deserialize(document).map_err(|error| {
        if let Some((at, message)) = state.broken.take() {
            return violation("malformed-yaml", at, message);
        }
        let place = error.location().map(|at| format!(" at line {}, column {}", at.line(), at.column()));
        violation("malformed-yaml", "", format!("not valid YAML{}", place.unwrap_or_default()))
    })
}

struct State {
    limits: JsonLimits,
    nodes: Cell<usize>,
    bytes: Cell<usize>,
    path: RefCell<Vec<String>>,
    broken: RefCell<Option<(String, String)>>,
}

impl State {
    fn refuse<E: de::Error>(&self, message: &str) -> E {
        let at = self.path.borrow().iter().fold(String::new(), |at, token| pointer(&at, token));
        *self.broken.borrow_mut() = Some((at, message.to_owned()));
        E::custom(message)
    }

    fn text<E: de::Error>(&self, text: &str) -> Result<(), E> {
        self.bytes.set(self.bytes.get() + text.len());
        if self.bytes.get() > MOST_EXPANDED {
            Err(self.refuse("the text is too large with its aliases"))
        } else {
            Ok(())
        }
    }

    fn enter<E: de::Error>(&self, token: String) -> Result<(), E> {
        if self.path.borrow().len() >= self.limits.depth {
            return Err(self.refuse("nesting is too deep"));
        }
        self.path.borrow_mut().push(token);
        Ok(())
    }

    fn leave(&self) {
        self.path.borrow_mut().pop();
    }
}

#[derive(Clone, Copy)]
struct Seed<'a>(&'a State);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let nodes = self.0.nodes.get() + 1;
        self.0.nodes.set(nodes);
        if nodes > self.0.limits.nodes {
            return Err(self.0.refuse("too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        if value.unsigned_abs() > MAX_SAFE_INTEGER {
            return Err(self.0.refuse("an integer is outside ±(2^53 - 1)"));
        }
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        if value > MAX_SAFE_INTEGER {
            return Err(self.0.refuse("an integer is outside ±(2^53 - 1)"));
        }
        Ok(Value::Number(value.into()))
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Value, E> {
        Err(self.0.refuse("an integer is outside ±(2^53 - 1)"))
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Value, E> {
        Err(self.0.refuse("an integer is outside ±(2^53 - 1)"))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        if value.fract() == 0.0 && value.abs() > MAX_SAFE_INTEGER as f64 {
            return Err(self.0.refuse("an integer is outside ±(2^53 - 1)"));
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| self.0.refuse("not a finite number"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        self.0.text(text)?;
        Ok(Value::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        loop {
            self.0.enter(array.len().to_string())?;
            let Some(item) = items.next_element_seed(self)? else { break };
            self.0.leave();
            array.push(item);
        }
        self.0.leave();
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            self.0.text(&key)?;
            self.0.enter(key.clone())?;
            if object.contains_key(&key) {
                return Err(self.0.refuse("the same key twice"));
            }
            let value = members.next_value_seed(self)?;
            self.0.leave();
            object.insert(key, value);
            if object.len() > self.0.limits.keys {
                return Err(self.0.refuse("too many members"));
            }
        }
        Ok(Value::Object(object))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(self.0.refuse("tags (`!name`) are not taken"))
    }
}
