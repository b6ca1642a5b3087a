//! Events that are not in the log yet, as a fold sees them.
//!
//! Owns: what they would look like: people by pseudonym, personal places marked. Must not know: folds. Nothing is made in
//! the keystore: a person who is not known yet has a stand-in here, which is in nobody's keys and in no table.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::clock::Millis;
use crate::event::{EventId, Position, Revision, StreamName, SubjectKey, SubjectRef, uuid_v7};
use crate::keystore::{CachedKeystore, KeystoreError, Resolved};
use crate::projection::cell::Origin;
use crate::projection::owners::{Alternative, Owners};
use crate::projection::view::{EventView, Mark};
use crate::schema::{PersonalField, Prepared, Registry};
use crate::secret::{Entropy, EntropyError};

/// Pseudonyms by what the caller calls people.
pub type People = HashMap<SubjectKey, SubjectRef>;

/// Where an event would land.
pub struct Place<'a> {
    /// The stream.
    pub stream: &'a StreamName,
    /// Revision.
    pub revision: Revision,
    /// Position, if nothing else came between.
    pub position: Position,
    /// When.
    pub at: Millis,
}

/// Looks everyone up who is named; whoever is not known gets a stand-in.
///
/// # Errors
/// [`KeystoreError`] when the keystore cannot be reached.
pub async fn people(keys: &CachedKeystore, entropy: &Entropy, events: &[Prepared<'_>]) -> Result<People, PeopleError> {
    let mut people = People::new();
    let (mut ids, mut naturals) = (Vec::new(), Vec::new());
    for site in events.iter().flat_map(|event| &event.subjects) {
        match &site.subject {
            SubjectKey::Ref(subject) => drop(people.insert(site.subject.clone(), *subject)),
            SubjectKey::External(id) if !ids.contains(id) => ids.push(id.clone()),
            SubjectKey::Natural(key) if !naturals.contains(key) => naturals.push(key.clone()),
            SubjectKey::External(_) | SubjectKey::Natural(_) => {}
        }
    }
    let found = if ids.is_empty() { Vec::new() } else { keys.resolve(ids.clone()).await? };
    let named = ids.into_iter().map(SubjectKey::External).zip(found);
    let found = if naturals.is_empty() { Vec::new() } else { keys.resolve_natural(naturals.clone()).await? };
    for (key, answer) in named.chain(naturals.into_iter().map(SubjectKey::Natural).zip(found)) {
        let subject = match answer {
            Resolved::Known(subject) => subject,
            Resolved::Erased | Resolved::Unknown => SubjectRef(entropy.draw()?),
        };
        people.insert(key, subject);
    }
    Ok(people)
}

/// Why people cannot be looked up.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    /// The keystore cannot be reached.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    /// No random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

/// The event as it would be read.
pub fn view(event: &Prepared<'_>, people: &People, registry: &Registry, place: &Place<'_>) -> EventView {
    let mut data = event.event.data.clone();
    for site in &event.subjects {
        let (Some(path), Some(subject)) = (&site.path, people.get(&site.subject)) else { continue };
        if let Some(id) = data.pointer_mut(&path.to_string()) {
            *id = Value::from(subject.to_string());
        }
    }
    let marks = event.fields.iter().map(|field| mark(field, event, people)).collect();
    EventView {
        position: place.position,
        recorded: place.at,
        event_type: event.event.event_type.clone(),
        subjects: subjects(event, &data, people, registry),
        event: envelope(event, place),
        data,
        marks,
    }
}

fn mark(field: &PersonalField, event: &Prepared<'_>, people: &People) -> Mark {
    let owner = |index: &usize| Some((*people.get(&event.subjects.get(*index)?.subject)?, 0));
    let everyone: BTreeSet<(SubjectRef, u32)> = field.owners.iter().filter_map(owner).collect();
    let ways = field.purposes.iter().flat_map(|purpose| {
        let joint = std::iter::once(everyone.clone()).filter(|_| field.joint);
        let each = everyone.iter().map(|person| BTreeSet::from([*person])).filter(|_| !field.joint);
        joint.chain(each).map(|people| Alternative { purpose: purpose.clone(), people })
    });
    Mark {
        tokens: field.path.tokens().map(Cow::into_owned).collect(),
        owners: Owners::any_of(ways),
        readable: true,
        origin: Arc::new(Origin::Inline("null".to_owned())),
    }
}

/// Pseudonyms by role: one, or a list where the role stands in an array.
fn subjects(event: &Prepared<'_>, data: &Value, people: &People, registry: &Registry) -> Value {
    let version = event.schema_version.and_then(|v| registry.version(event.event.event_type.as_str(), Some(v)));
    let mut naturals = event.subjects.iter().filter(|site| site.natural.is_some());
    let mut members = Map::new();
    for (role, at) in version.iter().flat_map(|version| version.roles()) {
        let value = match at {
            Some(at) => {
                let mut found = at.expand(data).into_iter().map(|(_, id)| id.clone()).filter(Value::is_string);
                let several = at.tokens().any(|token| token == "*");
                if several { Some(Value::Array(found.collect())) } else { found.next() }
            }
            // Roles and the people found for them have the same order.
            None => naturals.next().and_then(|site| people.get(&site.subject)).map(|who| who.to_string().into()),
        };
        members.extend(value.map(|value| (role.to_owned(), value)));
    }
    Value::Object(members)
}

fn envelope(event: &Prepared<'_>, place: &Place<'_>) -> Value {
    let event = &event.event;
    let recorded = place.at.rfc3339();
    // The log chooses an id where the caller gave none; no rule can depend on which.
    let id = event.id.unwrap_or(EventId(uuid_v7(place.at, [0; 10])));
    let mut members = json!({
        "id": id.to_string(),
        "type": event.event_type.as_str(),
        "stream": place.stream.as_str(),
        "category": place.stream.category().as_str(),
        "revision": place.revision.0,
        "position": place.position.0,
        "time": event.time.map_or_else(|| recorded.clone(), Millis::rfc3339),
        "recorded_at": recorded,
    });
    let context =
        [("actor", &event.actor), ("correlation_id", &event.correlation_id), ("causation_id", &event.causation_id)];
    for (name, value) in context {
        if let (Some(text), Some(object)) = (value, members.as_object_mut()) {
            object.insert(name.to_owned(), Value::from(text.as_str()));
        }
    }
    members
}
