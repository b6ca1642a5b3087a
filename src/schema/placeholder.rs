//! What stands where a personal value is not shown.
//!
//! Owns: placeholders, their templates, the defaults by type, and the proof at registration that one is valid in its
//! place. Must not know: events, keys, why a value is hidden. Keeps: whatever a placeholder renders to, the subschema
//! it stands under accepts it.

use std::sync::Arc;

use jsonschema::Validator;
use serde_json::Value;

use super::Violation;
use crate::event::canonical::canonical;

/// What every string is replaced by, unless its format asks for more: `[erased]`, `[withheld]`, … An outage must not
/// even look like an erasure.
const STATED: &str = "[{state}]";
/// RFC 2606 reserves `.invalid`: no mail can ever arrive.
const STATED_EMAIL: &str = "{state}@redacted.invalid";
const STATED_URI: &str = "about:blank#{state}";
/// Where the longer words do not fit.
const ERASED: &str = "[erased]";
const NIL_UUID: &str = "00000000-0000-0000-0000-000000000000";

/// The facts a template may name.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlaceholderFacts<'a> {
    /// `{article}`: of the GDPR, for example `17(1)(b)`.
    pub article: &'a str,
    /// `{date}`: `YYYY-MM-DD`.
    pub date: &'a str,
    /// `{request}`: id of the forget request.
    pub request: &'a str,
    /// `{category}`: kind of data.
    pub category: &'a str,
    /// `{state}`: `erased`, `expired`, `restricted`, `withheld`, `unavailable`.
    pub state: &'a str,
}

/// A typed value that may hold template text. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Placeholder(Arc<Inner>);

#[derive(Debug, PartialEq)]
struct Inner {
    value: Value,
    /// The JSON text, when there is no template in it.
    fixed: Option<String>,
}

impl Placeholder {
    /// A placeholder as declared.
    pub fn new(value: Value) -> Self {
        let fixed = (!has_template(&value)).then(|| canonical(&value));
        Self(Arc::new(Inner { value, fixed }))
    }

    /// The value as declared, templates unexpanded.
    pub fn value(&self) -> &Value {
        &self.0.value
    }

    /// The JSON text that stands in place of the personal value.
    pub fn render(&self, facts: &PlaceholderFacts<'_>) -> String {
        match &self.0.fixed {
            Some(text) => text.clone(),
            None => canonical(&expand(&self.0.value, facts)),
        }
    }

    /// Like [`Self::render`], as a value.
    pub fn rendered(&self, facts: &PlaceholderFacts<'_>) -> Value {
        if self.0.fixed.is_some() { self.0.value.clone() } else { expand(&self.0.value, facts) }
    }

    /// The placeholder of an in-line mark: as declared, or else by the JSON type of the value it hides (and, for texts,
    /// by its category: `contact.email` is hidden by an address to which no mail can go).
    pub fn inline_default(value: &Value, category: Option<&str>, declared: Option<&Value>) -> Self {
        if let Some(declared) = declared {
            return Self::new(declared.clone());
        }
        let is_email = category.is_some_and(|name| name.rsplit('.').next() == Some("email"));
        Self::new(match value {
            Value::String(_) => Value::from(if is_email { STATED_EMAIL } else { STATED }),
            Value::Array(_) => Value::Array(Vec::new()),
            Value::Object(_) => Value::Object(serde_json::Map::new()),
            Value::Null | Value::Bool(_) | Value::Number(_) => Value::Null,
        })
    }
}

const NAMES: [&str; 5] = ["{article}", "{date}", "{request}", "{category}", "{state}"];

fn has_template(value: &Value) -> bool {
    match value {
        Value::String(text) => NAMES.iter().any(|name| text.contains(name)),
        Value::Array(items) => items.iter().any(has_template),
        Value::Object(members) => members.values().any(has_template),
        _ => false,
    }
}

fn expand(value: &Value, facts: &PlaceholderFacts<'_>) -> Value {
    match value {
        Value::String(text) => Value::String(expand_text(text, facts)),
        Value::Array(items) => items.iter().map(|item| expand(item, facts)).collect(),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(key, item)| (key.clone(), expand(item, facts))).collect())
        }
        other => other.clone(),
    }
}

/// One pass from left to right, so that what a fact says is never expanded again.
fn expand_text(text: &str, facts: &PlaceholderFacts<'_>) -> String {
    let values = [facts.article, facts.date, facts.request, facts.category, facts.state];
    let mut out = String::with_capacity(text.len() + 32);
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let named = NAMES.iter().zip(values).find(|(name, _)| rest.starts_with(**name));
        let (name, with) = named.map_or(("{", "{"), |(name, fact)| (*name, fact));
        out.push_str(with);
        rest = &rest[name.len()..];
    }
    out + rest
}

const STATES: [&str; 5] = ["erased", "expired", "restricted", "withheld", "unavailable"];

/// The facts at their usual longest and shortest: states other than erased and expired name no request.
pub(super) fn extremes(category: &str) -> impl Iterator<Item = PlaceholderFacts<'_>> {
    STATES.into_iter().flat_map(move |state| {
        let full = PlaceholderFacts {
            article: "17(1)(b)",
            date: "2026-12-31",
            request: "fr_0123456789abcdef0123456789abcdef",
            category,
            state,
        };
        [full, PlaceholderFacts { category, state, ..PlaceholderFacts::default() }]
    })
}

/// Settles the placeholder of one mark: as declared, or the first type default that every subschema about the place
/// accepts.
///
/// # Errors
/// `placeholder-invalid` when the declared one can render to something a subschema refuses, `placeholder-required` when
/// none is declared and no default fits.
pub(super) fn settle(
    declared: Option<&Value>,
    category: Option<&str>,
    validators: &[&Validator],
    location: &str,
) -> Result<Placeholder, Violation> {
    let accepted = |value: &Value| validators.iter().all(|validator| validator.is_valid(value));
    if let Some(declared) = declared {
        let placeholder = Placeholder::new(declared.clone());
        let valid = extremes(category.unwrap_or_default()).all(|facts| accepted(&placeholder.rendered(&facts)));
        return if valid {
            Ok(placeholder)
        } else {
            Err(Violation::new("placeholder-invalid", format!("{location}/x-personal-data/placeholder"), {
                "the placeholder is not valid under the schema it stands in for"
            })
            .hint("every expansion must be valid, also where {article}, {date} and {request} are empty"))
        };
    }
    let defaults = [STATED, STATED_EMAIL, STATED_URI, ERASED, NIL_UUID].into_iter().map(Value::from);
    let empty = [Value::Array(Vec::new()), Value::Object(serde_json::Map::new()), Value::Null];
    let fits = |placeholder: &Placeholder| extremes("").all(|facts| accepted(&placeholder.rendered(&facts)));
    defaults.chain(empty).map(Placeholder::new).find(fits).ok_or_else(|| {
        Violation::new("placeholder-required", format!("{location}/x-personal-data"), {
            "no default placeholder is valid here"
        })
        .hint("declare `placeholder`, or allow `null`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FACTS: PlaceholderFacts<'static> = PlaceholderFacts {
        article: "17(1)(b)",
        date: "2026-11-21",
        request: "fr_1",
        category: "{date}",
        state: "erased",
    };

    #[test]
    fn templates_expand_once() {
        let placeholder = Placeholder::new(json!("Deleted due to {article} GDPR request on {date} {category} {x} {"));
        assert_eq!(placeholder.render(&FACTS), "\"Deleted due to 17(1)(b) GDPR request on 2026-11-21 {date} {x} {\"");
        assert_eq!(Placeholder::new(json!({"b": ["{state}"], "a": 1})).render(&FACTS), r#"{"a":1,"b":["erased"]}"#);
    }

    #[test]
    fn defaults_follow_the_schema() {
        let default = |schema: Value| {
            let validator = super::super::document::options(jsonschema::Draft::Draft202012).build(&schema).unwrap();
            settle(None, None, &[&validator], "#").map(|p| p.value().clone()).map_err(|v| v.code)
        };
        assert_eq!(default(json!({"type": "string"})), Ok(json!("[{state}]")));
        assert_eq!(default(json!({"type": "string", "maxLength": 8})), Ok(json!("[erased]")));
        assert_eq!(default(json!({"type": ["string", "null"]})), Ok(json!("[{state}]")));
        assert_eq!(default(json!({"type": "string", "format": "email"})), Ok(json!("{state}@redacted.invalid")));
        assert_eq!(default(json!({"type": "string", "format": "uri"})), Ok(json!("about:blank#{state}")));
        assert_eq!(default(json!({"type": "string", "format": "uuid"})), Ok(json!(NIL_UUID)));
        assert_eq!(default(json!({"type": ["string", "null"], "format": "date"})), Ok(Value::Null));
        assert_eq!(default(json!({"type": "array", "items": {"type": "integer"}})), Ok(json!([])));
        assert_eq!(default(json!({"type": "object"})), Ok(json!({})));
        assert_eq!(default(json!({"enum": ["a", null]})), Ok(Value::Null));
        assert_eq!(default(json!({"type": "integer"})), Err("placeholder-required"));
        assert_eq!(default(json!({"type": "object", "required": ["a"]})), Err("placeholder-required"));
        assert_eq!(default(json!({"type": "string", "maxLength": 2})), Err("placeholder-required"));
    }

    #[test]
    fn declared_placeholders_are_proved() {
        let schema = json!({"type": "string", "minLength": 4, "maxLength": 60});
        let validator = super::super::document::options(jsonschema::Draft::Draft202012).build(&schema).unwrap();
        let settle = |value: Value| settle(Some(&value), Some("c"), &[&validator], "#").map_err(|v| v.code);
        assert!(settle(json!("Deleted due to {article} GDPR request on {date}")).is_ok());
        assert_eq!(settle(json!("{date}")).unwrap_err(), "placeholder-invalid");
        assert_eq!(settle(json!("{request} {request} {request}")).unwrap_err(), "placeholder-invalid");
        assert_eq!(settle(json!(7)).unwrap_err(), "placeholder-invalid");
    }

    #[test]
    fn in_line_defaults_keep_the_type() {
        let of = |value: Value, category| Placeholder::inline_default(&value, category, None).value().clone();
        assert_eq!(of(json!("x"), None), json!("[{state}]"));
        assert_eq!(of(json!("x"), Some("contact.email")), json!("{state}@redacted.invalid"));
        assert_eq!(of(json!([1]), None), json!([]));
        assert_eq!(of(json!(0), None), Value::Null);
        assert_eq!(Placeholder::inline_default(&json!(1), None, Some(&json!("gone"))).value(), &json!("gone"));
    }
}
