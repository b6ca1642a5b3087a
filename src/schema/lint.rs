//! The leak guard: texts that look personal and are not marked.
//!
//! Owns: the shapes. Must not know: schemas, policies. Keeps: a finding says where and what shape, never the value; and
//! what is random (UUIDs, hashes, our own pseudonyms) is no finding.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::{Finding, checksum, walk};
use crate::event::Pointer;
use crate::event::pointer::Ahead;

/// What a text, or a part of it, looks like: `email`, `iban`, `card`, `national-id`, `phone`.
pub fn shape_of(text: &str) -> Option<&'static str> {
    if text.contains('@') && EMAIL.is_match(text) {
        return Some("email");
    }
    if text.bytes().filter(u8::is_ascii_digit).count() < 7 {
        return None;
    }
    if PHONE.captures_iter(text).any(|found| (8..=15).contains(&digits(&found[1]).len())) {
        return Some("phone");
    }
    words_of(text)
}

/// Looks at every text in `value`, member names included, but not into the places `skip`. `base` is where `value`
/// stands in the event, for example `/data`.
pub fn scan<'p>(value: &Value, base: &str, skip: impl Iterator<Item = &'p Pointer>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut places: Vec<(&Pointer, usize)> = skip.map(|place| (place, 0)).collect();
    visit(value, &At::Base(base), Ahead::from_root(&mut places), &mut findings);
    findings
}

/// Where a value stands; written out only for a finding.
enum At<'a> {
    Base(&'a str),
    Element(&'a Self, usize),
    Member(&'a Self, &'a str),
}

impl At<'_> {
    fn pointer(&self) -> String {
        match self {
            Self::Base(base) => (*base).to_owned(),
            Self::Element(above, index) => format!("{}/{index}", above.pointer()),
            Self::Member(above, key) => {
                let mut out = above.pointer();
                push_token(&mut out, key);
                out
            }
        }
    }
}

fn visit(value: &Value, at: &At<'_>, skip: Ahead<'_>, findings: &mut Vec<Finding>) {
    if skip.here().is_some() {
        return;
    }
    let mut find = |shape| findings.push(Finding { pointer: at.pointer(), shape });
    match value {
        Value::String(text) => {
            if let Some(shape) = shape_of(text) {
                find(shape);
            }
        }
        // Digits without quotes are the same digits. Only cards: their check digit and issuer leave few accidents.
        Value::Number(number) => {
            if number.as_u64().is_some_and(|number| number >= SHORTEST_CARD && is_card(number)) {
                find("card");
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let inside = if skip.is_empty() { skip } else { skip.inside(&index.to_string()) };
                visit(item, &At::Element(at, index), inside, findings);
            }
        }
        Value::Object(members) => {
            for (key, item) in members {
                if let Some(shape) = shape_of(key) {
                    findings.push(Finding { pointer: at.pointer(), shape });
                }
                visit(item, &At::Member(at, key), skip.inside(key), findings);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

/// No card has fewer than 13 digits.
const SHORTEST_CARD: u64 = 1_000_000_000_000;

fn is_card(number: u64) -> bool {
    shape_of(&number.to_string()) == Some("card")
}

/// Appends a token to a pointer that will be shown: a name that looks personal reads `*`.
pub(super) fn push_token(out: &mut String, token: &str) {
    out.push('/');
    if shape_of(token).is_some() { out.push('*') } else { out.push_str(&walk::escape(token)) }
}

static EMAIL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[\w%+'-]@(?:[\w-]+\.)+[\w--\d]{2}").expect("a constant expression"));

/// International form: `+`, a country code that does not begin with 0, groups with at most one separator between.
static PHONE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?:^|[^\w+/=])\+([1-9](?:[ ./()-]{0,2}[0-9]){6,16})(?:$|[^\w:])").expect("a constant expression")
});

fn digits(text: &str) -> Vec<u8> {
    text.bytes().filter(u8::is_ascii_digit).map(|byte| byte - b'0').collect()
}

/// Shapes with a check digit. Candidates are whole words, or neighbouring words that one space joins; a word goes on
/// over hyphens, so that no part of a UUID is ever looked at alone.
fn words_of(text: &str) -> Option<&'static str> {
    const LONGEST_GROUPS: usize = 9;
    let words = words(text);
    for first in 0..words.len() {
        let mut joined = String::new();
        for (word, touches) in words[first..].iter().take(LONGEST_GROUPS) {
            if !joined.is_empty() && !touches || joined.len() + word.len() > 48 {
                break;
            }
            let grouped = !joined.is_empty();
            joined.push_str(word);
            if let Some(shape) = checked(&joined, grouped) {
                return Some(shape);
            }
        }
    }
    None
}

/// Words of letters, digits, `-` and `_`, and whether just one space separates each from the one before.
fn words(text: &str) -> Vec<(&str, bool)> {
    let mut out = Vec::new();
    let mut before: Option<usize> = None;
    let is_word = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    for part in text.split(|c: char| !is_word(c)).filter(|part| !part.is_empty()) {
        let start = part.as_ptr() as usize - text.as_ptr() as usize;
        let touches = before.is_some_and(|end| start == end + 1 && text.as_bytes()[end] == b' ');
        before = Some(start + part.len());
        out.push((part, touches));
    }
    out
}

fn checked(word: &str, grouped: bool) -> Option<&'static str> {
    if !grouped && checksum::is_us_ssn(word) {
        return Some("national-id");
    }
    let has_letter = word.bytes().any(|byte| byte.is_ascii_alphabetic());
    if has_letter && word.contains('-') && word.len() > 16 {
        return None;
    }
    let bare: String = word.chars().filter(|c| *c != '-').collect::<String>().to_ascii_uppercase();
    if !bare.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    if checksum::is_iban(&bare) {
        return Some("iban");
    }
    if checksum::is_card(&bare, bare.len() != word.len() || grouped) {
        return Some("card");
    }
    checksum::is_national_id(&bare).then_some("national-id")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::SubjectRef;
    use serde_json::json;

    #[test]
    fn shapes_are_seen() {
        for (text, shape) in [
            ("ada@example.org", "email"),
            ("write to <Ada.L+x@mail.example.co.uk>, please", "email"),
            ("jürgen@exämple.de", "email"),
            ("+49 170 1234567", "phone"),
            ("call +1 (555) 123-4567 now", "phone"),
            ("tel:+34600123456", "phone"),
            ("DE89370400440532013000", "iban"),
            ("pay to DE89 3704 0044 0532 0130 00 today", "iban"),
            ("gb29nwbk60161331926819", "iban"),
            ("4111 1111 1111 1111", "card"),
            ("card 4111-1111-1111-1111.", "card"),
            ("5500005555555559", "card"),
            ("378282246310005", "card"),
            ("12345678Z", "national-id"),
            ("12345678-Z", "national-id"),
            ("X1234567L", "national-id"),
            ("86095742719", "national-id"),
            ("255081416802538", "national-id"),
            ("2 55 08 14 168 025 38", "national-id"),
            ("SSN 219-09-9999", "national-id"),
        ] {
            assert_eq!(shape_of(text), Some(shape), "{text}");
        }
    }

    #[test]
    fn ordinary_texts_are_not() {
        for text in [
            "",
            "hello",
            "2026-11-20T08:00:00+01:00",
            "2026-11-20T08:00:00.120+10:00",
            "1763625600000",
            "1763625600000000",
            "order 20261120-000123",
            "npm pkg@1.2.3",
            "a @ b",
            "@handle",
            "v1.2.3+20130313144700",
            "user:u9",
            "4111 1111 1111 1112",
            "12345678A",
            "DE89370400440532013001",
            "192.168.100.200:8080",
            "1e+12345678",
            "Zm9vYmFy+12345678/abc=",
            "0x1234567890abcdef1234567890abcdef",
            "52.520008, 13.404954",
            "12345678901234567890",
            "erasure of 12 of 4000000000 events",
            "000-12-3456",
            "123-45-67890",
        ] {
            assert_eq!(shape_of(text), None, "{text}");
        }
    }

    #[test]
    fn random_identifiers_are_not() {
        for n in 0..10_000u64 {
            // A fixed, well-mixed sequence: the test must not depend on a seed.
            let mix = |k: u64| {
                let z = (n * 2 + k + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            };
            let bytes = ((u128::from(mix(0)) << 64) | u128::from(mix(1))).to_be_bytes();
            let uuid = uuid::Builder::from_random_bytes(bytes).into_uuid();
            for text in [
                uuid.hyphenated().to_string(),
                uuid.hyphenated().to_string().to_uppercase(),
                uuid.simple().to_string(),
                uuid.simple().to_string().to_uppercase(),
                uuid.urn().to_string(),
                uuid.braced().to_string(),
                SubjectRef(bytes).to_string(),
                format!("contact-{}", uuid.hyphenated()),
            ] {
                assert_eq!(shape_of(&text), None, "{text}");
            }
        }
    }

    #[test]
    fn findings_never_carry_the_value() {
        let data = json!({"note": "ada@example.org", "bob@example.org": {"x": "+49 170 1234567"}, "email": "c@example.org",
            "list": ["x", "d@example.org"]});
        let found = scan(&data, "/data", [Pointer::parse("/email").unwrap()].iter());
        let seen: Vec<(&str, &str)> = found.iter().map(|f| (f.pointer.as_str(), f.shape)).collect();
        assert_eq!(
            seen,
            [("/data", "email"), ("/data/*/x", "phone"), ("/data/list/1", "email"), ("/data/note", "email")]
        );
    }
}
