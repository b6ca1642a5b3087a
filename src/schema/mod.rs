//! The schema registry: what an event type looks like, and what in it is personal.
//!
//! Owns: schemas and their versions, category policies, and the step from a caller's event to a validated, marked one.
//! Must not know: keys, storage, HTTP. The registry is a fold of system events that `audit` records; here it lives in
//! memory only.

// CONTRACT (to be implemented by this module; everything below is the API the rest of the crate is written against)

use serde_json::Value;

use crate::event::{Category, EventType, NewEvent, Pointer, Purpose, SubjectKey};

/// A caller's event after validation: everything sealing needs to know.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The event, with wrappers unwrapped (`{"$personal": …}` replaced by its value).
    pub event: NewEvent,
    /// Registered version the event was validated against; `None` where the category is open and no schema exists.
    pub schema_version: Option<u32>,
    /// The people of the event: one per role and array element, one per distinct in-line subject.
    pub subjects: Vec<SubjectSite>,
    /// The personal values of the event.
    pub fields: Vec<PersonalField>,
    /// What the leak guard found, when its policy is `warn`.
    pub findings: Vec<Finding>,
}

/// A person in an event.
#[derive(Clone, Debug)]
pub struct SubjectSite {
    /// The person: the caller's id, or a pseudonym of ours if the caller wrote one.
    pub subject: SubjectKey,
    /// Where in `data` the id stands; `None` for in-line subjects that stand nowhere in the payload.
    pub path: Option<Pointer>,
}

/// A personal value in an event.
#[derive(Clone, Debug)]
pub struct PersonalField {
    /// Where in `data`.
    pub path: Pointer,
    /// Indexes into [`Prepared::subjects`], at least one, ascending, distinct.
    pub owners: Vec<usize>,
    /// `true`: hidden when any owner is erased (joint key). `false`: readable while any owner is left (a slot each).
    pub joint: bool,
    /// Distinct, sorted, at least one.
    pub purposes: Vec<Purpose>,
    /// Kind of data.
    pub category: Option<String>,
    /// The declared placeholder of an in-line mark; `None` where the registry knows it by type, version and path.
    pub inline_placeholder: Option<Value>,
    /// Whether the mark came in line (then category and placeholder are stored with the event).
    pub inline: bool,
}

/// Something that looks personal and is not marked. Never carries the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where: a JSON Pointer into the event (`/data/note`, `/actor`), or `stream`.
    pub pointer: String,
    /// What it looks like: `email`, `phone`, `iban`, `card`, `national-id`.
    pub shape: &'static str,
}

/// One thing wrong with a caller's event or schema. Never carries a value from the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Stable code: `schema-violation`, `unmarked-personal-data`, `placeholder-invalid`, ….
    pub code: &'static str,
    /// JSON Pointer into the event (`/data/contact_method`) or schema.
    pub pointer: String,
    /// What is wrong, without any value of the event.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

#[allow(dead_code, reason = "names the types the contract speaks of")]
type Names = (Category, EventType);
