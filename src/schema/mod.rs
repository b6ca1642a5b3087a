//! The schema registry: what an event type looks like, and what in it is personal.
//!
//! Owns: schemas and their versions, category policies, and the step from a caller's event to a validated, marked one.
//! Must not know: keys, storage, HTTP. The registry is a fold of system events that `audit` records; here it lives in
//! memory only. Keeps: what a schema marks as personal is found in every event, or the event is refused.

mod checksum;
mod compat;
mod compat_rules;
mod compat_view;
mod declared;
mod document;
mod erased;
mod inline;
mod inventory;
pub mod lint;
mod pattern;
mod personal;
mod placeholder;
mod prepare;
mod registry;
mod role;
mod walk;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use compat::{CompatError, CompatReport, Compatibility};
pub use inventory::{InventoryItem, TypeSummary};
pub use personal::FieldMark;
pub use placeholder::{Placeholder, PlaceholderFacts};
pub use registry::{Candidate, RegistrationError, Registry, SchemaVersion, StreamRules};

use crate::event::{NaturalKey, NewEvent, Pointer, Purpose, SubjectKey};

/// A caller's event after validation: everything sealing needs to know.
#[derive(Clone, Debug)]
pub struct Prepared<'e> {
    /// The event, with wrappers unwrapped (`{"$personal": …}` replaced by its value). The caller's own where it has none.
    pub event: Cow<'e, NewEvent>,
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
    /// The person: the caller's id, or a pseudonym of ours if the caller wrote one, or a natural key.
    pub subject: SubjectKey,
    /// Where in `data` the id stands; `None` for in-line subjects that stand nowhere in the payload, and for people found
    /// by natural key.
    pub path: Option<Pointer>,
    /// More about a person found by natural key.
    pub natural: Option<NaturalSite>,
}

/// Where a natural key stands in an event.
#[derive(Clone, Debug)]
pub struct NaturalSite {
    /// Where in `data` its first part stands.
    pub at: Pointer,
    /// A further natural key by which the same person is to be found from now on, and where it stands.
    pub also: Option<(NaturalKey, Pointer)>,
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
    pub purposes: Arc<[Purpose]>,
    /// Kind of data.
    pub category: Option<Arc<str>>,
    /// The placeholder of an in-line mark, declared or by default; `None` where the registry knows it by type, version
    /// and path.
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

impl Violation {
    pub(super) fn new(code: &'static str, pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code, pointer: pointer.into(), message: message.into(), hint: None }
    }

    #[must_use]
    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Whether events of a category need a schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaPolicy {
    /// No schema is needed; where one is registered it holds. In-line marks are taken.
    #[default]
    Open,
    /// Every event needs a registered schema; in-line marks may add to its marks.
    Registered,
    /// Every event needs a registered schema; in-line marks are refused.
    Sealed,
}

/// What happens when something unmarked looks personal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeakGuard {
    /// Nothing; nobody looks.
    Off,
    /// The response lists where.
    #[default]
    Warn,
    /// The event is refused.
    Reject,
}

/// Rules of a category of streams. Every member may be left out of its JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CategorySettings {
    /// Whether events need a schema.
    pub schema_policy: SchemaPolicy,
    /// What happens when something unmarked looks personal.
    pub leak_guard: LeakGuard,
    /// Whether every append must say which revision it expects.
    pub require_expected: bool,
    /// Placeholder by kind of data, for in-line marks that declare none.
    pub placeholders: BTreeMap<String, Value>,
}

/// What holds for a category until somebody sets it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Schema policy of categories without settings.
    pub default_policy: SchemaPolicy,
    /// Leak guard of categories without settings.
    pub default_leak_guard: LeakGuard,
}

/// Payload of the system events of which the registry is the fold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RegistryRecord {
    /// A version was registered.
    SchemaRegistered {
        /// Event type.
        event_type: String,
        /// Version, from 1, without gaps.
        version: u32,
        /// The schema as handed in.
        schema: Value,
    },
    /// A version is no longer what new events get.
    SchemaDeprecated {
        /// Event type.
        event_type: String,
        /// Version.
        version: u32,
    },
    /// How versions of a type must relate.
    SchemaSettingsChanged {
        /// Event type.
        event_type: String,
        /// The new rule.
        compatibility: Compatibility,
    },
    /// Rules of a category.
    CategoryChanged {
        /// The category.
        category: String,
        /// All of its rules.
        settings: CategorySettings,
    },
}
