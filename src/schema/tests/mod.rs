//! The registry from the outside: real inputs, hostile ones, and the invariants as properties.

mod events;
mod properties;
mod refusals;

use serde_json::{Value, json};

use super::*;
use crate::event::{EventType, ExternalId, InlineMark, NewEvent, StreamName, SubjectRef};

pub(super) fn registry(settings: &CategorySettings) -> Registry {
    let registry = Registry::new(Options::default());
    for category in ["contact", "cart", "account"] {
        let settings = settings.clone();
        registry.apply(&RegistryRecord::CategoryChanged { category: category.into(), settings }).unwrap();
    }
    registry
}

pub(super) fn event_type(name: &str) -> EventType {
    EventType::parse(name).unwrap()
}

/// Registers the next version, as the caller of the registry does: check, make durable, apply.
pub(super) fn register(registry: &Registry, name: &str, schema: &Value) -> u32 {
    let candidate = registry.check(&event_type(name), schema, false).unwrap();
    let record = RegistryRecord::SchemaRegistered {
        event_type: name.into(),
        version: candidate.version,
        schema: schema.clone(),
    };
    let stored = serde_json::to_value(&record).unwrap();
    registry.apply(&serde_json::from_value(stored).unwrap()).unwrap();
    candidate.version
}

pub(super) fn new_event(name: &str, data: Value) -> NewEvent {
    NewEvent {
        id: None,
        event_type: event_type(name),
        schema_version: None,
        data,
        marks: Vec::new(),
        actor: Some("user:u9".into()),
        correlation_id: None,
        causation_id: None,
        time: None,
        source: None,
        source_id: None,
    }
}

pub(super) fn prepare(registry: &Registry, name: &str, data: Value) -> Result<Prepared<'static>, Vec<Violation>> {
    registry.prepare(&StreamName::parse("account-9").unwrap(), Cow::Owned(new_event(name, data)))
}

/// Codes and pointers of what is wrong.
pub(super) fn wrong(result: Result<Prepared<'_>, Vec<Violation>>) -> Vec<(&'static str, String)> {
    result.map(|_| ()).unwrap_err().into_iter().map(|v| (v.code, v.pointer)).collect()
}

/// Field paths with the people who own them, as texts.
pub(super) fn owned(prepared: &Prepared<'_>) -> Vec<(String, Vec<String>)> {
    let name = |index: &usize| match &prepared.subjects[*index].subject {
        SubjectKey::External(id) => id.expose().to_owned(),
        SubjectKey::Natural(key) => format!("{} {}", key.role(), key.expose()),
        SubjectKey::Ref(subject) => subject.to_string(),
    };
    prepared.fields.iter().map(|field| (field.path.to_string(), field.owners.iter().map(name).collect())).collect()
}

pub(super) fn mark(path: &str, subject: &str) -> InlineMark {
    InlineMark {
        path: Pointer::parse(path).unwrap(),
        subject: SubjectKey::parse(subject).unwrap(),
        purposes: Vec::new(),
        category: None,
        placeholder: None,
    }
}

/// A contact, in the oldest dialect.
pub(super) fn contact() -> Value {
    json!({
        "$schema": "http://json-schema.org/draft-04/schema#",
        "title": "contact-created", "type": "object", "additionalProperties": false,
        "required": ["name", "description", "contact_method"],
        "x-data-subjects": {"contact": {"id": "/contact_id"}},
        "properties": {
            "contact_id": {"type": "string"},
            "name": {"type": "string", "minLength": 1, "x-personal-data": {"subject": "contact", "category": "name"}},
            "description": {"type": "string", "x-personal-data": {"subject": "contact", "category": "free_text"}},
            "contact_method": {"type": "object", "additionalProperties": false, "properties": {
                "email": {"type": "string", "format": "email",
                    "x-personal-data": {"subject": "contact", "category": "contact.email", "purposes": ["contact"]}},
                "preferred": {"enum": ["email", "phone"]}}}
        }
    })
}

/// A payment between two people, and their guests.
pub(super) fn transfer() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Transfer made",
        "type": "object", "additionalProperties": false,
        "x-data-subjects": {"payer": {"id": "/payer_id"}, "payee": {"id": "/payee_id"}, "guest": {"id": "/guests/*/person_id"}},
        "properties": {
            "payer_id": {"type": "string"}, "payee_id": {"type": "string"}, "amount_cents": {"type": "integer"},
            "payer_name": {"type": "string", "x-personal-data":
                {"subject": "payer", "category": "name", "purposes": ["payments", "marketing"]}},
            "payee_iban": {"type": "string", "minLength": 4, "x-personal-data": {"subject": "payee",
                "category": "financial.iban", "purposes": ["payments"],
                "placeholder": "Deleted due to {article} GDPR request on {date}"}},
            "birth": {"type": ["string", "null"], "format": "date",
                "x-personal-data": {"subject": "payer", "category": "birthdate", "purposes": ["kyc"]}},
            "note": {"type": "string", "x-personal-data":
                {"subjects": ["payer", "payee"], "erase_when": "any", "category": "free_text"}},
            "memo": {"type": "string", "x-personal-data": {"subjects": ["payer", "payee"], "erase_when": "all"}},
            "guests": {"type": "array", "items": {"type": "object", "properties": {
                "person_id": {"type": "string"},
                "diet": {"type": "string", "x-personal-data": {"subject": "guest", "category": "health.diet",
                    "special": true, "purposes": ["event"], "placeholder": "unknown"}}}}}
        }
    })
}

pub(super) fn external(text: &str) -> SubjectKey {
    SubjectKey::External(ExternalId::parse(text).unwrap())
}

pub(super) fn pseudonym() -> String {
    SubjectRef([0x2a; 16]).to_string()
}
