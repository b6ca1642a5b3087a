//! Request bodies of appends: native JSON, NDJSON and CloudEvents become [`NewEvent`]s.
//!
//! Owns: the shapes of api.md 3.2 and of CloudEvents 1.0 (JSON format). Every problem of every event is collected.

use std::fmt::Display;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::problem::{Problem, ProblemError};
use crate::clock::Millis;
use crate::domain;
use crate::event::json::{JsonLimits, parse};
use crate::event::{
    EventId, EventType, ExpectedRevision, InlineMark, NewEvent, Pointer, Purpose, Revision, SubjectKey,
};

/// Problems by pointer into the body.
#[derive(Default)]
pub struct Errors(Vec<ProblemError>);

impl Errors {
    /// Notes one problem.
    pub fn add(&mut self, pointer: String, message: impl Into<String>) {
        let error = ProblemError { code: "invalid-event".into(), pointer, message: message.into(), hint: None };
        self.0.push(error);
    }

    /// Nothing wrong, or 422 with everything.
    ///
    /// # Errors
    /// 422 `invalid-event`.
    pub fn finish(self) -> Result<(), Problem> {
        if self.0.is_empty() {
            return Ok(());
        }
        let status = axum::http::StatusCode::UNPROCESSABLE_ENTITY;
        let problem = Problem::new(status, "invalid-event", "The events are not valid; nothing was stored");
        Err(self.0.into_iter().fold(problem, Problem::error))
    }
}

/// Where the events of a body stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The body is one event.
    One,
    /// The body is an array, or lines.
    Many,
    /// The events are under `events`.
    Wrapped,
}

impl Layout {
    /// Where the n-th event stands.
    pub fn at(self, index: usize) -> At {
        At(self, index)
    }
}

/// The pointer of one event of a body; written out only where something is wrong with it.
#[derive(Clone, Copy, Debug)]
pub struct At(Layout, usize);

impl Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0, self.1) {
            (Layout::One, _) => Ok(()),
            (Layout::Many, index) => write!(f, "/{index}"),
            (Layout::Wrapped, index) => write!(f, "/events/{index}"),
        }
    }
}

/// One value per non-empty line.
///
/// # Errors
/// 400 `malformed-json` with the number of the line.
pub fn lines(bytes: &[u8], limits: JsonLimits) -> Result<Vec<Value>, Problem> {
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    let filled = lines.filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace));
    filled.map(|(at, line)| parse(line, limits).map_err(|e| Problem::from(e).with("line", at as u64 + 1))).collect()
}

/// A native event.
pub fn native(value: Value, at: &dyn Display, errors: &mut Errors) -> Option<NewEvent> {
    let Value::Object(mut members) = value else {
        errors.add(at.to_string(), "an event is an object");
        return None;
    };
    let before = errors.0.len();
    let id = text(&mut members, "id", at, errors).and_then(|text| {
        let id = EventId::parse(&text);
        if id.is_none() {
            errors.add(format!("{at}/id"), "is not a UUID");
        }
        id
    });
    // A stand-in keeps the search for mistakes going; an event with a mistake is never returned.
    let event_type = event_type(&mut members, at, errors);
    let event = NewEvent {
        id,
        event_type: event_type.unwrap_or_else(no_type),
        schema_version: version(&mut members, at, errors),
        data: members.remove("data").unwrap_or_else(|| {
            errors.add(format!("{at}/data"), "is missing");
            Value::Null
        }),
        marks: marks(members.remove("personal_data"), at, errors),
        actor: short(&mut members, "actor", at, errors),
        correlation_id: short(&mut members, "correlation_id", at, errors),
        causation_id: short(&mut members, "causation_id", at, errors),
        time: time(&mut members, at, errors),
        source: short(&mut members, "source", at, errors),
        source_id: None,
    };
    for key in members.keys().take(10) {
        // The key is the caller's own; only its length is repeated, for it could be personal.
        errors.add(at.to_string(), format!("has an unknown member of {} bytes", key.len()));
    }
    (errors.0.len() == before).then_some(event)
}

/// A CloudEvents 1.0 event in JSON format. `type`, `source`, `id` and `specversion` are required by the standard;
/// `subject` must name the stream if it is there; unknown extension attributes are refused, since they would be stored
/// in clear.
pub fn cloud_event(value: Value, stream: &str, at: &dyn Display, errors: &mut Errors) -> Option<NewEvent> {
    let Value::Object(mut members) = value else {
        errors.add(at.to_string(), "an event is an object");
        return None;
    };
    let before = errors.0.len();
    if text(&mut members, "specversion", at, errors).as_deref() != Some("1.0") {
        errors.add(format!("{at}/specversion"), "has to be 1.0");
    }
    if text(&mut members, "subject", at, errors).is_some_and(|subject| subject != stream) {
        errors.add(format!("{at}/subject"), "is not the stream of the request");
    }
    let media = text(&mut members, "datacontenttype", at, errors);
    if media.is_some_and(|media| media != "application/json") {
        errors.add(format!("{at}/datacontenttype"), "has to be application/json");
    }
    let source = short(&mut members, "source", at, errors);
    let caller = short(&mut members, "id", at, errors);
    if source.is_none() || caller.is_none() {
        errors.add(at.to_string(), "source and id are required");
    }
    let (source, caller) = (source.unwrap_or_default(), caller.unwrap_or_default());
    let uuid = EventId::parse(&caller);
    let schema_version = text(&mut members, "dataschema", at, errors).and_then(|uri| {
        let version = uri.rsplit_once("/versions/").and_then(|(_, version)| version.parse().ok());
        if version.is_none() {
            errors.add(format!("{at}/dataschema"), "does not end with /versions/ and a number");
        }
        version
    });
    let personal = text(&mut members, "personaldata", at, errors);
    let event_type = event_type(&mut members, at, errors);
    let event = NewEvent {
        id: Some(uuid.unwrap_or_else(|| derived_id(&source, &caller))),
        event_type: event_type.unwrap_or_else(no_type),
        schema_version,
        data: members.remove("data").unwrap_or(Value::Null),
        marks: personal.map(|list| attribute_marks(&list, at, errors)).unwrap_or_default(),
        actor: short(&mut members, "actor", at, errors),
        correlation_id: short(&mut members, "correlationid", at, errors),
        causation_id: short(&mut members, "causationid", at, errors),
        time: time(&mut members, at, errors),
        source: Some(source),
        source_id: uuid.is_none().then_some(caller),
    };
    for key in members.keys().take(10) {
        errors.add(at.to_string(), format!("has an unknown attribute of {} bytes", key.len()));
    }
    (errors.0.len() == before).then_some(event)
}

/// The id of an event whose caller's id is not a UUID: the same source and id give the same event id.
fn derived_id(source: &str, id: &str) -> EventId {
    let hash: [u8; 32] = Sha256::digest(domain::lp(&[domain::EVENT_ID, source.as_bytes(), id.as_bytes()])).into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    // A version 8 UUID (RFC 9562): built to the application's own rule.
    EventId(uuid::Builder::from_custom_bytes(bytes).into_uuid().into_bytes())
}

fn text(members: &mut Map<String, Value>, key: &str, at: &dyn Display, errors: &mut Errors) -> Option<String> {
    match members.remove(key) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(_) => {
            errors.add(format!("{at}/{key}"), "is not a string");
            None
        }
    }
}

fn short(members: &mut Map<String, Value>, key: &str, at: &dyn Display, errors: &mut Errors) -> Option<String> {
    let text = text(members, key, at, errors)?;
    if text.is_empty() || text.len() > 256 || text.chars().any(char::is_control) {
        errors.add(format!("{at}/{key}"), "is empty, longer than 256 bytes, or has control characters");
        return None;
    }
    Some(text)
}

fn event_type(members: &mut Map<String, Value>, at: &dyn Display, errors: &mut Errors) -> Option<EventType> {
    let Some(text) = text(members, "type", at, errors) else {
        errors.add(format!("{at}/type"), "is missing");
        return None;
    };
    EventType::parse(&text).map_err(|error| errors.add(format!("{at}/type"), error.to_string())).ok()
}

fn no_type() -> EventType {
    EventType::parse("invalid").expect("a constant name")
}

fn version(members: &mut Map<String, Value>, at: &dyn Display, errors: &mut Errors) -> Option<u32> {
    match members.remove("schema_version") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let version = value.as_u64().and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0);
            if version.is_none() {
                errors.add(format!("{at}/schema_version"), "is not a version number");
            }
            version
        }
    }
}

fn time(members: &mut Map<String, Value>, at: &dyn Display, errors: &mut Errors) -> Option<Millis> {
    let text = text(members, "time", at, errors)?;
    let time = Millis::parse_rfc3339(&text);
    if time.is_none() {
        errors.add(format!("{at}/time"), "is not an RFC 3339 time");
    }
    time
}

/// The list `personal_data` beside `data`.
fn marks(value: Option<Value>, at: &dyn Display, errors: &mut Errors) -> Vec<InlineMark> {
    let list = match value {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Array(list)) => list,
        Some(_) => {
            errors.add(format!("{at}/personal_data"), "is not an array");
            return Vec::new();
        }
    };
    let numbered = list.into_iter().enumerate();
    numbered.filter_map(|(n, value)| mark(value, &format_args!("{at}/personal_data/{n}"), errors)).collect()
}

fn mark(value: Value, at: &dyn Display, errors: &mut Errors) -> Option<InlineMark> {
    let Value::Object(mut members) = value else {
        errors.add(at.to_string(), "a mark is an object");
        return None;
    };
    let path = text(&mut members, "path", at, errors).and_then(|text| Pointer::parse(&text).ok());
    let subject = text(&mut members, "subject", at, errors).and_then(|text| SubjectKey::parse(&text).ok());
    let purposes = match members.remove("purposes") {
        None => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(|p| Purpose::parse(p.as_str()?).ok()).collect(),
        Some(_) => None,
    };
    let category = text(&mut members, "category", at, errors);
    let placeholder = members.remove("placeholder");
    if !members.is_empty() {
        errors.add(at.to_string(), "has an unknown member");
    }
    let (Some(path), Some(subject), Some(purposes)) = (path, subject, purposes) else {
        errors.add(at.to_string(), "needs path (a JSON Pointer), subject (an id) and valid purposes");
        return None;
    };
    Some(InlineMark { path, subject, purposes, category, placeholder })
}

/// The extension attribute `personaldata`: `/email=person:41 /name=person:41`.
fn attribute_marks(list: &str, at: &dyn Display, errors: &mut Errors) -> Vec<InlineMark> {
    let parse = |part: &str| -> Option<InlineMark> {
        let (path, subject) = part.rsplit_once('=')?;
        Some(InlineMark {
            path: Pointer::parse(path).ok()?,
            subject: SubjectKey::parse(subject).ok()?,
            purposes: Vec::new(),
            category: None,
            placeholder: None,
        })
    };
    let marks: Option<Vec<_>> = list.split_ascii_whitespace().map(parse).collect();
    marks.unwrap_or_else(|| {
        errors.add(format!("{at}/personaldata"), "is not a list like `/email=person:41`");
        Vec::new()
    })
}

/// `"any"`, `"exists"`, `"no_stream"` or `{"revision": n}`.
pub fn expected(value: Option<Value>, at: &dyn Display, errors: &mut Errors) -> Option<ExpectedRevision> {
    match value {
        None | Some(Value::Null) => None,
        Some(Value::String(word)) if word == "any" => Some(ExpectedRevision::Any),
        Some(Value::String(word)) if word == "exists" => Some(ExpectedRevision::Exists),
        Some(Value::String(word)) if word == "no_stream" => Some(ExpectedRevision::NoStream),
        Some(Value::Object(members)) if members.len() == 1 => {
            let revision = members.get("revision").and_then(Value::as_u64);
            if revision.is_none() {
                errors.add(at.to_string(), "is not {\"revision\": n}");
            }
            revision.map(|revision| ExpectedRevision::Exact(Revision(revision)))
        }
        Some(_) => {
            errors.add(at.to_string(), "is not any, exists, no_stream or {\"revision\": n}");
            None
        }
    }
}
