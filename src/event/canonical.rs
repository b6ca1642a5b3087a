//! Canonical JSON out (RFC 8785), with holes.
//!
//! Owns: the byte form of everything that is committed to or sealed, and the cutting of personal values out of it.
//! Must not know: why a value is cut. A hole is written as `null` and its byte offset is returned, so that a reader can
//! splice the value or a placeholder back in without parsing the text.

use serde_json::{Map, Value};

/// Canonical text of a value.
pub fn canonical(value: &Value) -> String {
    let mut writer = Writer { out: String::with_capacity(256), sites: Vec::new() };
    writer.value(value, &[], 0);
    writer.out
}

/// A place in a document that is to be cut or replaced: its JSON Pointer's segments, already unescaped.
#[derive(Clone, Debug)]
pub struct Cut<'a> {
    /// Reference tokens from the root (RFC 6901), unescaped.
    pub segments: Vec<&'a str>,
    /// What stands there instead: raw JSON text.
    pub instead: &'a str,
}

/// Canonical text of `value` with every cut replaced, and the byte offset at which each replacement begins, in the
/// order of `cuts`. `None` for a cut whose place does not exist in the document.
pub fn canonical_with_cuts(value: &Value, cuts: &[Cut<'_>]) -> (String, Vec<Option<usize>>) {
    let mut writer = Writer { out: String::with_capacity(256), sites: vec![None; cuts.len()] };
    let open: Vec<(usize, &Cut<'_>)> = cuts.iter().enumerate().collect();
    writer.value(value, &open, 0);
    (writer.out, writer.sites)
}

struct Writer {
    out: String,
    sites: Vec<Option<usize>>,
}

type Open<'a> = [(usize, &'a Cut<'a>)];

impl Writer {
    fn value(&mut self, value: &Value, open: &Open<'_>, depth: usize) {
        if let Some((index, cut)) = open.iter().find(|(_, cut)| cut.segments.len() == depth) {
            self.sites[*index] = Some(self.out.len());
            self.out.push_str(cut.instead);
            return;
        }
        match value {
            Value::Null => self.out.push_str("null"),
            Value::Bool(true) => self.out.push_str("true"),
            Value::Bool(false) => self.out.push_str("false"),
            Value::Number(number) => self.number(number),
            Value::String(text) => self.string(text),
            Value::Array(items) => self.array(items, open, depth),
            Value::Object(members) => self.object(members, open, depth),
        }
    }

    fn array(&mut self, items: &[Value], open: &Open<'_>, depth: usize) {
        self.out.push('[');
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.out.push(',');
            }
            if open.is_empty() {
                self.value(item, &[], depth + 1);
            } else {
                let inner = narrow(open, depth, &at.to_string());
                self.value(item, &inner, depth + 1);
            }
        }
        self.out.push(']');
    }

    fn object(&mut self, members: &Map<String, Value>, open: &Open<'_>, depth: usize) {
        let mut keys: Vec<&String> = members.keys().collect();
        // serde_json keeps keys in UTF-8 order; RFC 8785 wants UTF-16 order, which differs above U+D7FF.
        if keys.iter().any(|key| !key.is_ascii()) {
            keys.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
        }
        self.out.push('{');
        for (at, key) in keys.into_iter().enumerate() {
            if at > 0 {
                self.out.push(',');
            }
            self.string(key);
            self.out.push(':');
            if open.is_empty() {
                self.value(&members[key], &[], depth + 1);
            } else {
                let inner = narrow(open, depth, key);
                self.value(&members[key], &inner, depth + 1);
            }
        }
        self.out.push('}');
    }

    fn number(&mut self, number: &serde_json::Number) {
        if number.is_f64() {
            // The crate owns the ECMAScript rules for doubles; serialising a finite number cannot fail.
            let text = serde_json_canonicalizer::to_string(number).expect("a parsed number is finite");
            self.out.push_str(&text);
        } else {
            self.out.push_str(&number.to_string());
        }
    }

    fn string(&mut self, text: &str) {
        push_string(&mut self.out, text);
    }
}

fn narrow<'a>(open: &Open<'a>, depth: usize, segment: &str) -> Vec<(usize, &'a Cut<'a>)> {
    open.iter().filter(|(_, cut)| cut.segments[depth] == segment).copied().collect()
}

/// Appends a JSON string literal in RFC 8785 form.
pub fn push_string(out: &mut String, text: &str) {
    out.push('"');
    let mut plain_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let short = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            0x09 => "\\t",
            0x0a => "\\n",
            0x0c => "\\f",
            0x0d => "\\r",
            0..=0x1f => "",
            _ => continue,
        };
        out.push_str(&text[plain_from..at]);
        plain_from = at + 1;
        if short.is_empty() {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.push_str("\\u00");
            out.push(HEX[usize::from(byte >> 4)] as char);
            out.push(HEX[usize::from(byte & 15)] as char);
        } else {
            out.push_str(short);
        }
    }
    out.push_str(&text[plain_from..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference_crate(value in json()) {
            prop_assert_eq!(canonical(&value), serde_json_canonicalizer::to_string(&value).unwrap());
        }
    }

    #[test]
    fn cuts_are_found_where_they_are() {
        let value = serde_json::json!({"b": {"x": "secret", "y": 1}, "a": ["p", "q"], "c/d": 2});
        let cuts = [
            Cut { segments: vec!["b", "x"], instead: "null" },
            Cut { segments: vec!["a", "1"], instead: "\"ds\"" },
            Cut { segments: vec!["none"], instead: "null" },
            Cut { segments: vec!["c/d"], instead: "null" },
        ];
        let (text, sites) = canonical_with_cuts(&value, &cuts);
        assert_eq!(text, r#"{"a":["p","ds"],"b":{"x":null,"y":1},"c/d":null}"#);
        assert_eq!(sites, vec![Some(25), Some(10), None, Some(43)]);
        assert!(text[25..].starts_with("null") && text[10..].starts_with("\"ds\""));
    }
}
