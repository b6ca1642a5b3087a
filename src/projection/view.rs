//! An event as a definition sees it.
//!
//! Owns: the payload with opened values in place, and whose each place is. Must not know: columns, storage. Lineage comes
//! from the event's own metadata, which survives an erasure, so a rebuild finds the same owners as the first pass.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::cell::Origin;
use super::expression::{Expression, Root};
use super::owners::{Alternative, CombineError, Owners};
use crate::clock::Millis;
use crate::event::{EventType, Pointer, Position, Purpose, SubjectRef};
use crate::read::Opened;
use crate::schema::Registry;

/// A personal place in the payload.
#[derive(Debug)]
pub struct Mark {
    /// Where.
    pub tokens: Vec<String>,
    /// Whose.
    pub owners: Owners,
    /// Whether its value could be opened.
    pub readable: bool,
    /// Where its placeholder comes from.
    pub origin: Arc<Origin>,
}

/// An event, opened. Its payload does not print.
pub struct EventView {
    /// Position in the log.
    pub position: Position,
    /// When the log recorded it.
    pub recorded: Millis,
    /// Type.
    pub event_type: EventType,
    /// `data`
    pub data: Value,
    /// `event`
    pub event: Value,
    /// `subject`
    pub subjects: Value,
    /// Personal places.
    pub marks: Vec<Mark>,
}

impl fmt::Debug for EventView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventView")
            .field("position", &self.position)
            .field("marks", &self.marks)
            .finish_non_exhaustive()
    }
}

/// A stored event contradicts its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored event cannot be read")]
pub struct ViewError;

impl EventView {
    /// Puts together what was opened.
    ///
    /// # Errors
    /// [`ViewError`] when the stored event is corrupt.
    pub fn new(opened: &Opened<'_>, registry: &Registry) -> Result<Self, ViewError> {
        let event = opened.event;
        let mut data: Value = serde_json::from_str(&event.public).map_err(|_| ViewError)?;
        let subjects = subjects(opened, &data, registry);
        let mut marks: BTreeMap<&str, (Vec<Alternative>, bool)> = BTreeMap::new();
        for (slot, meta) in opened.slots.iter().zip(&opened.meta.slots) {
            let way = alternative(&meta.purpose, &meta.owners).ok_or(ViewError)?;
            for field in &meta.fields {
                marks.entry(field.0.as_ref()).or_default().0.push(way.clone());
            }
            let Ok(slot) = slot else { continue };
            for (path, text) in slot.fields().map_err(|_| ViewError)? {
                let Some((place, mark)) = data.pointer_mut(&path).zip(marks.get_mut(path.as_ref())) else {
                    return Err(ViewError);
                };
                *place = serde_json::from_str(text).map_err(|_| ViewError)?;
                mark.1 = true;
            }
        }
        let marks = marks
            .into_iter()
            .map(|(path, (ways, readable))| {
                Ok(Mark {
                    tokens: Pointer::parse(path).map_err(|_| ViewError)?.tokens().to_vec(),
                    owners: Owners::any_of(ways),
                    readable,
                    origin: Arc::new(origin(opened, path)),
                })
            })
            .collect::<Result<_, ViewError>>()?;
        Ok(Self {
            position: event.position,
            recorded: event.recorded,
            event_type: event.event_type.clone(),
            data,
            event: envelope(opened),
            subjects,
            marks,
        })
    }

    /// Owners of what an expression may read of the event, and whether all of it can be read.
    ///
    /// # Errors
    /// [`CombineError`] when nobody may read all of it at once.
    pub fn taint(&self, expression: &Expression) -> Result<(Owners, bool), CombineError> {
        let mut owners = Owners::public();
        let mut readable = true;
        for reference in expression.reads().iter().filter(|reference| reference.root == Root::Data) {
            for mark in self.marks.iter().filter(|mark| overlap(&mark.tokens, &reference.path)) {
                owners = owners.and(&mark.owners)?;
                readable &= mark.readable;
            }
        }
        Ok((owners, readable))
    }

    /// The field that an expression copies, if it is nothing but the path of a personal field.
    pub fn origin(&self, expression: &Expression) -> Option<Arc<Origin>> {
        let path = expression.path().filter(|path| path.root == Root::Data)?;
        self.marks.iter().find(|mark| mark.tokens == path.path).map(|mark| Arc::clone(&mark.origin))
    }
}

/// Whether one of two paths lies in the other.
pub fn overlap(one: &[String], other: &[String]) -> bool {
    one.iter().zip(other).all(|(a, b)| a == b)
}

fn alternative(purpose: &str, owners: &[crate::sealing::meta::Owner<'_>]) -> Option<Alternative> {
    let people = owners.iter().map(|owner| Some((SubjectRef::parse(&owner.0)?, owner.1))).collect::<Option<_>>()?;
    Some(Alternative { purpose: Purpose::parse_any(purpose).ok()?, people })
}

fn origin(opened: &Opened<'_>, path: &str) -> Origin {
    if let Some(mark) = opened.meta.marks.iter().find(|mark| mark.0 == path) {
        return Origin::Inline(mark.2.map_or_else(|| "null".to_owned(), |raw| raw.get().to_owned()));
    }
    let event = opened.event;
    Origin::Schema(event.event_type.to_string(), event.schema_version.unwrap_or(0), path.to_owned())
}

/// Pseudonyms by role: one, or a list where the role stands in an array.
fn subjects(opened: &Opened<'_>, data: &Value, registry: &Registry) -> Value {
    let event = opened.event;
    let version = event.schema_version.and_then(|v| registry.version(event.event_type.as_str(), Some(v)));
    let several = |role: &str| {
        let mut roles = version.iter().flat_map(|version| version.roles());
        roles.any(|(name, at)| name == role && at.is_some_and(|at| at.tokens().iter().any(|token| token == "*")))
    };
    let mut members = Map::new();
    for (role, people) in crate::read::roles(version.as_deref(), opened.meta, data) {
        let mut people = people.into_iter().map(|subject| Value::from(subject.to_string()));
        let value = if several(&role) { Some(Value::Array(people.collect())) } else { people.next() };
        members.extend(value.map(|value| (role, value)));
    }
    Value::Object(members)
}

fn envelope(opened: &Opened<'_>) -> Value {
    let event = opened.event;
    let recorded = event.recorded.rfc3339();
    let mut members = json!({
        "id": event.id.to_string(),
        "type": event.event_type.as_str(),
        "stream": event.stream.as_str(),
        "category": event.stream.category().as_str(),
        "revision": event.revision.0,
        "position": event.position.0,
        "time": opened.meta.time.as_deref().unwrap_or(&recorded),
        "recorded_at": recorded,
    });
    let context = [
        ("actor", &opened.meta.actor),
        ("correlation_id", &opened.meta.correlation_id),
        ("causation_id", &opened.meta.causation_id),
    ];
    for (name, value) in context {
        if let (Some(text), Some(object)) = (value, members.as_object_mut()) {
            object.insert(name.to_owned(), Value::from(text.as_ref()));
        }
    }
    members
}
