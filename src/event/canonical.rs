//! Canonical JSON out (RFC 8785), with holes.
//!
//! Owns: the byte form of everything that is committed to or sealed, and the cutting of personal values out of it.
//! Must not know: why a value is cut. A hole is written as `null` and its byte offset is returned, so that a reader can
//! splice the value or a placeholder back in without parsing the text.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::Pointer;
use super::pointer::Ahead;

/// Canonical text of a value.
pub fn canonical(value: &Value) -> String {
    let mut out = String::with_capacity(256);
    push_canonical(&mut out, value);
    out
}

/// Appends the canonical text of a value.
pub fn push_canonical(out: &mut String, value: &Value) {
    Writer { out, cuts: &[], sites: &mut [] }.value(value, Ahead::NONE);
}

/// A place in a document that is to be cut or replaced.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    /// Where.
    pub path: &'a Pointer,
    /// What stands there instead: raw JSON text.
    pub instead: &'a str,
}

/// Canonical text of `value` with every cut replaced, and the byte offset at which each replacement begins, in the
/// order of `cuts`. `None` for a cut whose place does not exist in the document, or was cut already.
pub fn canonical_with_cuts(value: &Value, cuts: &[Cut<'_>]) -> (String, Vec<Option<usize>>) {
    let mut places: Vec<(&Pointer, usize)> = cuts.iter().enumerate().map(|(at, cut)| (cut.path, at)).collect();
    let (mut out, mut sites) = (String::with_capacity(512), vec![None; cuts.len()]);
    Writer { out: &mut out, cuts, sites: &mut sites }.value(value, Ahead::from_root(&mut places));
    (out, sites)
}

struct Writer<'w> {
    out: &'w mut String,
    cuts: &'w [Cut<'w>],
    sites: &'w mut [Option<usize>],
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, ahead: Ahead<'_>) {
        if let Some(cut) = ahead.here() {
            self.sites[cut] = Some(self.out.len());
            self.out.push_str(self.cuts[cut].instead);
            return;
        }
        match value {
            Value::Null => self.out.push_str("null"),
            Value::Bool(true) => self.out.push_str("true"),
            Value::Bool(false) => self.out.push_str("false"),
            Value::Number(number) => self.number(number),
            Value::String(text) => push_string(self.out, text),
            Value::Array(items) => self.array(items, ahead),
            Value::Object(members) => self.object(members, ahead),
        }
    }

    fn array(&mut self, items: &[Value], ahead: Ahead<'_>) {
        self.out.push('[');
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.out.push(',');
            }
            let inside = if ahead.is_empty() { ahead } else { ahead.inside(&at.to_string()) };
            self.value(item, inside);
        }
        self.out.push(']');
    }

    fn object(&mut self, members: &Map<String, Value>, ahead: Ahead<'_>) {
        // serde_json keeps keys in UTF-8 order; RFC 8785 wants UTF-16 order, which differs above U+D7FF.
        if members.keys().all(|key| key.is_ascii()) {
            self.members(members.iter(), ahead);
        } else {
            let mut sorted: Vec<(&String, &Value)> = members.iter().collect();
            sorted.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            self.members(sorted.into_iter(), ahead);
        }
    }

    fn members<'v>(&mut self, members: impl Iterator<Item = (&'v String, &'v Value)>, ahead: Ahead<'_>) {
        self.out.push('{');
        for (at, (key, value)) in members.enumerate() {
            if at > 0 {
                self.out.push(',');
            }
            push_string(self.out, key);
            self.out.push(':');
            self.value(value, ahead.inside(key));
        }
        self.out.push('}');
    }

    fn number(&mut self, number: &serde_json::Number) {
        if number.is_f64() {
            // The crate owns the ECMAScript rules for doubles; serialising a finite number cannot fail.
            let text = serde_json_canonicalizer::to_string(number).expect("a parsed number is finite");
            self.out.push_str(&text);
        } else {
            write!(self.out, "{number}").expect("writing to a string cannot fail");
        }
    }
}

/// Appends a JSON string literal in RFC 8785 form.
pub fn push_string(out: &mut String, text: &str) {
    out.push('"');
    // Nearly no text needs an escape, and looking at all bytes without a branch takes next to nothing.
    if text.bytes().fold(false, |found, byte| found | matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
        push_escaped(out, text);
    } else {
        out.push_str(text);
    }
    out.push('"');
}

fn push_escaped(out: &mut String, text: &str) {
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
        let paths = ["/b/x", "/a/1", "/none", "/c~1d", "/b/x"].map(|path| Pointer::parse(path).unwrap());
        let instead = ["null", "\"ds\"", "null", "null", "1"];
        let cuts: Vec<Cut<'_>> = paths.iter().zip(instead).map(|(path, instead)| Cut { path, instead }).collect();
        let (text, sites) = canonical_with_cuts(&value, &cuts);
        assert_eq!(text, r#"{"a":["p","ds"],"b":{"x":null,"y":1},"c/d":null}"#);
        assert_eq!(sites, vec![Some(25), Some(10), None, Some(43), None]);
        assert!(text[25..].starts_with("null") && text[10..].starts_with("\"ds\""));
    }
}
