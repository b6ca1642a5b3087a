//! What the registry says about itself: types, and every personal field.
//!
//! Owns: the shapes of the lists. Must not know: events.

use serde::Serialize;
use serde_json::Value;

use super::compat::Compatibility;
use super::personal::FieldMark;
use crate::event::EventType;

/// An event type at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeSummary {
    /// Event type.
    pub event_type: String,
    /// Highest version.
    pub latest: u32,
    /// Deprecated versions.
    pub deprecated: Vec<u32>,
    /// How versions must relate.
    pub compatibility: Compatibility,
    /// Whether the latest version has personal data.
    pub personal: bool,
}

/// One personal field of one version: a line of the record of processing (Art. 30).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InventoryItem {
    /// Event type.
    pub event_type: String,
    /// Version.
    pub version: u32,
    /// Where in `data`; `*` for every element or member.
    pub pointer: String,
    /// Kind of data.
    pub category: Option<String>,
    /// Special category (Art. 9).
    pub special: bool,
    /// Why it is processed.
    pub purposes: Vec<String>,
    /// What is shown when it is gone, templates unexpanded.
    pub placeholder: Value,
    /// Whose data it is.
    pub roles: Vec<String>,
    /// `any` or `all`: whose erasure hides it.
    pub erase_when: &'static str,
}

impl InventoryItem {
    pub(super) fn new(event_type: &EventType, version: u32, mark: &FieldMark) -> Self {
        Self {
            event_type: event_type.to_string(),
            version,
            pointer: mark.pointer.to_string(),
            category: mark.category.clone(),
            special: mark.special,
            purposes: mark.purposes.iter().map(ToString::to_string).collect(),
            placeholder: mark.placeholder.value().clone(),
            roles: mark.roles.clone(),
            erase_when: if mark.joint || mark.roles.len() == 1 { "any" } else { "all" },
        }
    }
}
