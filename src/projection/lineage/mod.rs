//! Whose data flows where, known before any event is read.
//!
//! Owns: the static lineage of a definition, and every place where personal data may not go. Must not know: events, keys,
//! rows. Keeps: a value is personal wherever anything it may be computed from is; in doubt it is. What only an event can
//! tell (in-line marks, types without a schema) is said to be unknown, and is checked when the event is there.

mod flow;
mod refusals;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};

use super::definition::{Column, ColumnSource, Definition, Kind, ProjectionName};
use crate::event::Purpose;
use crate::schema::{Registry, Violation};

use flow::{Analysis, Flow};

/// What a definition does with personal data.
#[derive(Clone, Debug, Serialize)]
pub struct Lineage {
    /// The event types that are handled, and what is personal in them.
    pub events: Vec<EventLineage>,
    /// Parts of the key. A personal one is refused.
    pub key: Vec<KeyLineage>,
    /// Columns, as in the definition.
    pub columns: Vec<ColumnLineage>,
    /// Aggregates, as in the definition.
    pub aggregates: Vec<AggregateLineage>,
    /// Why the definition cannot be taken; each with a JSON Pointer into it.
    #[serde(serialize_with = "violations")]
    pub violations: Vec<Violation>,
}

/// An event type and what is personal in it, over all versions of its schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventLineage {
    /// Event type.
    pub event_type: String,
    /// Versions that are registered.
    pub versions: u32,
    /// Events may hold personal data that no schema tells of: there is no schema, or in-line marks are taken.
    pub unknown: bool,
    /// Personal places.
    pub personal: Vec<Origin>,
}

/// A personal place in an event type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Origin {
    /// Event type.
    pub event_type: String,
    /// Where in its data (JSON Pointer); `*` for every element or member.
    pub pointer: String,
    /// Whose data it is.
    pub roles: Vec<String>,
    /// Hidden as soon as any of several owners is erased.
    pub joint: bool,
    /// Kind of data.
    pub category: Option<String>,
    /// Of a special category (Art. 9 GDPR).
    pub special: bool,
    /// Why it is processed.
    #[serde(serialize_with = "purposes")]
    pub purposes: Vec<Purpose>,
}

/// One part of the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyLineage {
    /// Name.
    pub name: String,
    /// Whether it would be personal.
    pub personal: bool,
    /// Whether only the event can tell.
    pub unknown: bool,
    /// What flows into it.
    pub sources: Vec<Origin>,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnLineage {
    /// Name.
    pub name: String,
    /// Whether its cells are sealed to people.
    pub personal: bool,
    /// Whether only the events can tell if more of it is.
    pub unknown: bool,
    /// Roles of its owners.
    pub owners_roles: Vec<String>,
    /// Purposes for which cells of it may be read; no cell has more.
    #[serde(serialize_with = "purposes")]
    pub purposes: Vec<Purpose>,
    /// What flows into it.
    pub sources: Vec<Origin>,
    /// Code decides what is in it: it may be personal in one row and public in the next.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub decided_by_code: bool,
    /// Column of another projection it is looked up in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lookup: Option<String>,
}

/// One aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AggregateLineage {
    /// Name.
    pub name: String,
    /// Whether personal values go into it. Then it is shown only because somebody declassified it.
    pub personal: bool,
    /// Whether only the events can tell.
    pub unknown: bool,
    /// Why it may be shown.
    pub declassify: Option<String>,
    /// Fewest people it is shown of.
    pub min_group: Option<u32>,
    /// What flows into it.
    pub sources: Vec<Origin>,
}

/// The lineage of a definition over every registered version of its event types. `lookup` says what is known of a column
/// of another projection; `None` when there is no such column (yet).
pub fn lineage(
    definition: &Definition,
    registry: &Registry,
    lookup: &dyn Fn(&ProjectionName, &str) -> Option<ColumnLineage>,
) -> Lineage {
    let analysis = Analysis::new(definition, registry);
    // Aggregates are told of as aggregates.
    let shown = if definition.is_aggregate() { &[][..] } else { &definition.columns };
    let columns = shown.iter().zip(analysis.columns());
    let (key, aggregates) = match &definition.kind {
        Kind::Rows { key, aggregates, .. } => (key.as_slice(), aggregates.as_slice()),
        Kind::Fold { .. } => (&[][..], &[][..]),
    };
    let key = key.iter().map(|part| {
        let flow = analysis.over_all_types(&part.value);
        KeyLineage {
            name: part.name.clone(),
            personal: flow.is_personal(),
            unknown: flow.unknown,
            sources: flow.origins.into_iter().collect(),
        }
    });
    let aggregates = aggregates.iter().map(|aggregate| {
        let flow = aggregate.value.as_ref().map(|value| analysis.over_all_types(value)).unwrap_or_default();
        AggregateLineage {
            name: aggregate.name.clone(),
            personal: flow.is_personal(),
            unknown: flow.unknown,
            declassify: aggregate.declassify.as_ref().map(|decision| decision.reason.clone()),
            min_group: aggregate.declassify.as_ref().map(|decision| decision.min_group),
            sources: flow.origins.into_iter().collect(),
        }
    });
    Lineage {
        events: analysis.events(),
        key: key.collect(),
        columns: columns.map(|(column, flow)| column_lineage(column, flow, lookup)).collect(),
        aggregates: aggregates.collect(),
        violations: refusals::find(&analysis),
    }
}

fn column_lineage(
    column: &Column,
    flow: &Flow,
    lookup: &dyn Fn(&ProjectionName, &str) -> Option<ColumnLineage>,
) -> ColumnLineage {
    if let ColumnSource::Lookup { projection, column: other } = &column.source {
        let nothing_known = ColumnLineage {
            name: String::new(),
            personal: false,
            unknown: true,
            owners_roles: Vec::new(),
            purposes: Vec::new(),
            sources: Vec::new(),
            decided_by_code: false,
            lookup: None,
        };
        let found = lookup(projection, other).unwrap_or(nothing_known);
        return ColumnLineage { name: column.name.clone(), lookup: Some(format!("{projection}.{other}")), ..found };
    }
    let roles: BTreeSet<String> = flow.origins.iter().flat_map(|origin| origin.roles.iter().cloned()).collect();
    let purposes: BTreeSet<Purpose> = flow.ways.iter().flatten().cloned().collect();
    ColumnLineage {
        name: column.name.clone(),
        personal: flow.is_personal(),
        unknown: flow.unknown,
        owners_roles: roles.into_iter().collect(),
        purposes: purposes.into_iter().collect(),
        sources: flow.origins.iter().cloned().collect(),
        decided_by_code: flow.by_code,
        lookup: None,
    }
}

// The signature is serde's.
#[allow(clippy::ptr_arg, reason = "serde passes the field as it is")]
fn purposes<S: Serializer>(purposes: &Vec<Purpose>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(purposes.iter().map(Purpose::as_str))
}

#[allow(clippy::ptr_arg, reason = "serde passes the field as it is")]
fn violations<S: Serializer>(violations: &Vec<Violation>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Shown<'v> {
        code: &'v str,
        pointer: &'v str,
        message: &'v str,
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<&'v str>,
    }
    serializer.collect_seq(violations.iter().map(|violation| Shown {
        code: violation.code,
        pointer: &violation.pointer,
        message: &violation.message,
        hint: violation.hint.as_deref(),
    }))
}
