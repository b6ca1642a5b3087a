//! Marks that travel with the event: the envelope list and the wrapper `{"$personal": …}`.
//!
//! Owns: unwrapping, and what is wrong with an in-line mark taken alone. Must not know: schemas. Keeps: an object that
//! looks like a wrapper is either a correct one or the event is refused; it is never stored as it came.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::Violation;
use super::declared::{is_category, purposes};
use crate::event::{InlineMark, NewEvent, Pointer, Purpose, SubjectKey};

/// The member that makes an object a wrapper.
const WRAPPER: &str = "$personal";

/// An in-line mark and how to point at it in a message: `/personal_data/0` or `/data/email`.
#[derive(Clone, Debug)]
pub(super) struct Inline {
    pub mark: InlineMark,
    pub shown: String,
}

/// Takes the wrappers out of the event's data, and lists all of the event's in-line marks.
pub(super) fn collect(event: &mut Cow<'_, NewEvent>, violations: &mut Vec<Violation>) -> Vec<Inline> {
    let mut found = Vec::new();
    if has_wrapper(&event.data) {
        let mut unwrapping = Unwrapping { found: &mut found, violations };
        unwrapping.value(&mut event.to_mut().data, &Pointer::root(), false);
    }
    for (at, mark) in event.marks.iter().enumerate() {
        let shown = format!("/personal_data/{at}");
        check(mark, &shown, &event.data, violations);
        found.push(Inline { mark: mark.clone(), shown });
    }
    found
}

/// What can be wrong with one mark of the envelope list.
fn check(mark: &InlineMark, shown: &str, data: &Value, violations: &mut Vec<Violation>) {
    if mark.path.is_root() {
        violations.push(root(shown));
    } else if mark.path.lookup(data).is_none() {
        violations.push(
            Violation::new("personal-mark-invalid", format!("{shown}/path"), "nothing stands at this path")
                .hint("the path is a JSON Pointer into `data`, for example `/email`"),
        );
    }
    if mark.category.as_deref().is_some_and(|text| !is_category(text)) {
        violations.push(bad_category(&format!("{shown}/category")));
    }
}

fn has_wrapper(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_wrapper),
        Value::Object(members) => members.iter().any(|(key, item)| is_wrapper_key(key) || has_wrapper(item)),
        _ => false,
    }
}

fn root(shown: &str) -> Violation {
    Violation::new("personal-mark-root", shown, "the whole event cannot be personal").hint("mark its members")
}

fn bad_category(pointer: &str) -> Violation {
    Violation::new("personal-mark-invalid", pointer, "a category is 1 to 128 of the characters A-Z a-z 0-9 . _ -")
}

struct Unwrapping<'a> {
    found: &'a mut Vec<Inline>,
    violations: &'a mut Vec<Violation>,
}

impl Unwrapping<'_> {
    fn value(&mut self, value: &mut Value, at: &Pointer, inside: bool) {
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.value(item, &at.child(&index.to_string()), inside);
                }
            }
            Value::Object(members) if members.keys().any(|key| is_wrapper_key(key)) => {
                let members = std::mem::take(members);
                *value = self.unwrap(members, at, inside);
                self.value(value, at, true);
            }
            Value::Object(members) => {
                for (key, item) in members {
                    self.value(item, &at.child(key), inside);
                }
            }
            _ => {}
        }
    }

    fn unwrap(&mut self, mut members: Map<String, Value>, at: &Pointer, inside: bool) -> Value {
        let shown = shown(at);
        let Some(personal) = members.remove(WRAPPER) else {
            self.refuse(&shown, "a member that looks like `$personal` but is not");
            return Value::Null;
        };
        if inside {
            self.violations.push(Violation::new("personal-mark-nested", &shown, "one mark lies inside another"));
        }
        if at.is_root() {
            self.violations.push(root(&shown));
        }
        match parse(members, at) {
            Ok(mark) => self.found.push(Inline { mark, shown }),
            Err(message) => self.refuse(&shown, message),
        }
        personal
    }

    fn refuse(&mut self, shown: &str, message: &str) {
        let hint =
            r#"write {"$personal": value, "subject": "person:41"}, and optionally category, purposes, placeholder"#;
        self.violations.push(Violation::new("personal-mark-invalid", shown, message).hint(hint));
    }
}

/// A member that differs from `$personal` only by case or punctuation is a typing error, not data.
fn is_wrapper_key(key: &str) -> bool {
    let Some(rest) = key.strip_prefix('$') else { return false };
    let letters: String = rest.chars().filter(char::is_ascii_alphanumeric).collect();
    matches!(letters.to_ascii_lowercase().as_str(), "personal" | "personaldata")
}

fn parse(mut members: Map<String, Value>, at: &Pointer) -> Result<InlineMark, &'static str> {
    let subject = members.remove("subject");
    let subject = subject.as_ref().and_then(Value::as_str).ok_or("the wrapper needs `subject`, a text")?;
    let subject = SubjectKey::parse(subject).map_err(|_| "`subject` is not an id we accept")?;
    let category = match members.remove("category") {
        None => None,
        Some(Value::String(text)) if is_category(&text) => Some(text),
        Some(_) => return Err("`category` is 1 to 128 of the characters A-Z a-z 0-9 . _ -"),
    };
    let purposes: Vec<Purpose> = match members.remove("purposes") {
        None => Vec::new(),
        declared => purposes(declared.as_ref()).map_err(|_| "`purposes` is a list of 1 to 16 purposes")?,
    };
    let placeholder = members.remove("placeholder");
    if members.is_empty() {
        Ok(InlineMark { path: at.clone(), subject, purposes, category, placeholder })
    } else {
        Err("the wrapper has a member that we do not know")
    }
}

/// Names from an event are shown unless they look personal.
fn shown(at: &Pointer) -> String {
    let mut out = String::from("/data");
    for token in at.tokens() {
        super::lint::push_token(&mut out, &token);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventType;
    use serde_json::json;

    fn event(data: Value) -> NewEvent {
        NewEvent {
            id: None,
            event_type: EventType::parse("signup").unwrap(),
            schema_version: None,
            data,
            marks: Vec::new(),
            actor: None,
            correlation_id: None,
            causation_id: None,
            time: None,
            source: None,
            source_id: None,
        }
    }

    fn codes(data: Value) -> Vec<&'static str> {
        let mut violations = Vec::new();
        collect(&mut Cow::Owned(event(data)), &mut violations);
        violations.iter().map(|v| v.code).collect()
    }

    #[test]
    fn wrappers_are_unwrapped() {
        let mut event = Cow::Owned(event(json!({"plan": "pro", "a": [{"$personal": false, "subject": "person:41",
            "category": "x.y", "purposes": ["b", "a"], "placeholder": null}]})));
        let mut violations = Vec::new();
        let found = collect(&mut event, &mut violations);
        assert!(violations.is_empty());
        assert_eq!(event.data, json!({"plan": "pro", "a": [false]}));
        assert_eq!(found[0].mark.path.to_string(), "/a/0");
        assert_eq!(found[0].mark.purposes.len(), 2);
        assert_eq!(found[0].mark.placeholder, Some(Value::Null));
    }

    #[test]
    fn wrong_wrappers_are_refused() {
        assert_eq!(codes(json!({"a": {"$personal": 1}})), ["personal-mark-invalid"]);
        assert_eq!(codes(json!({"a": {"$personal": 1, "subject": "p", "colour": 1}})), ["personal-mark-invalid"]);
        assert_eq!(codes(json!({"a": {"$Personal": 1, "subject": "p"}})), ["personal-mark-invalid"]);
        assert_eq!(codes(json!({"a": {"$personal_data": 1, "subject": "p"}})), ["personal-mark-invalid"]);
        assert_eq!(codes(json!({"a": {"$personalization": 1}})), [""; 0]);
        assert_eq!(codes(json!({"$personal": 1, "subject": "p"})), ["personal-mark-root"]);
        assert_eq!(
            codes(json!({"a": {"$personal": {"b": {"$personal": 1, "subject": "p"}}, "subject": "p"}})),
            ["personal-mark-nested"]
        );
        assert_eq!(
            codes(json!({"a": {"$personal": {"$personal": 1, "subject": "p"}, "subject": "p"}})),
            ["personal-mark-nested"]
        );
    }
}
