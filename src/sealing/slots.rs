//! Which personal field goes into which slot.
//!
//! Owns: the grouping by owners and purpose, and the plaintext of a slot. A field for two purposes is in two slots; a
//! field about two people is in one joint slot, or in one slot each when it may outlive one of them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::envelope::{self, OpenError};
use super::meta::SlotDraft;
use super::{FootprintEntry, Offsets, Person, SealError};
use crate::event::canonical::{canonical, push_string};
use crate::event::{Purpose, SubjectRef};
use crate::keystore::Dek;
use crate::schema::{PersonalField, Prepared};

/// One slot to be sealed.
pub(super) struct Slot<'a> {
    /// Owners and generations, ascending, distinct.
    pub owners: Vec<(SubjectRef, u32)>,
    /// Purpose.
    pub purpose: Purpose,
    /// Values by pointer text.
    pub fields: BTreeMap<String, &'a Value>,
    keys: Vec<Arc<Dek>>,
}

impl Slot<'_> {
    /// The slot's key: the owner's DEK, or the joint key of several.
    pub fn key(&self) -> Result<Arc<Dek>, SealError> {
        match self.keys.as_slice() {
            [] => Err(SealError::MissingKey),
            [one] => Ok(Arc::clone(one)),
            several => {
                let keys: Vec<&Dek> = several.iter().map(AsRef::as_ref).collect();
                Ok(Arc::new(envelope::joint_key(&keys)))
            }
        }
    }

    /// Canonical JSON object of pointer to value.
    pub fn plaintext(&self) -> Zeroizing<String> {
        let mut out = Zeroizing::new(String::from("{"));
        let mut paths: Vec<&String> = self.fields.keys().collect();
        paths.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
        for (at, path) in paths.into_iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            push_string(&mut out, path);
            out.push(':');
            out.push_str(&canonical(self.fields[path]));
        }
        out.push('}');
        out
    }

    /// Footprint entries of the slot: one per owner.
    pub fn footprint(&self, slot: u16) -> impl Iterator<Item = FootprintEntry> {
        self.owners.iter().map(move |(subject, generation)| FootprintEntry {
            subject: *subject,
            slot: Some(slot),
            purpose: self.purpose.clone(),
            generation: *generation,
        })
    }

    /// Metadata of the slot.
    pub fn meta(&self, offsets: &Offsets) -> SlotDraft {
        SlotDraft {
            owners: self.owners.iter().map(|(subject, generation)| (subject.to_string(), *generation)).collect(),
            purpose: self.purpose.to_string(),
            fields: self.fields.keys().map(|path| (path.clone(), offsets.get(path).copied().unwrap_or(0))).collect(),
        }
    }
}

/// The slots of an event, in a fixed order: by owners, then purpose.
pub(super) fn plan<'a>(prepared: &'a Prepared, people: &[Person], most: usize) -> Result<Vec<Slot<'a>>, SealError> {
    let mut slots: BTreeMap<(Vec<SubjectRef>, Purpose), Slot<'a>> = BTreeMap::new();
    for field in &prepared.fields {
        let value = field.path.lookup(&prepared.event.data).ok_or(SealError::MissingKey)?;
        for owners in owner_groups(field, people)? {
            for purpose in &field.purposes {
                let key: Vec<SubjectRef> = owners.iter().map(|person| person.subject).collect();
                let slot = match slots.entry((key, purpose.clone())) {
                    std::collections::btree_map::Entry::Occupied(slot) => slot.into_mut(),
                    std::collections::btree_map::Entry::Vacant(place) => place.insert(empty_slot(&owners, purpose)?),
                };
                slot.fields.insert(field.path.to_string(), value);
            }
        }
    }
    if slots.len() > most {
        return Err(SealError::TooManySlots { slots: slots.len(), limit: most });
    }
    Ok(slots.into_values().collect())
}

/// One group for a joint field, one group per owner otherwise; owners sorted, a person in two roles once.
fn owner_groups<'p>(field: &PersonalField, people: &'p [Person]) -> Result<Vec<Vec<&'p Person>>, SealError> {
    let mut owners: Vec<&Person> =
        field.owners.iter().map(|&at| people.get(at).ok_or(SealError::MissingKey)).collect::<Result<_, _>>()?;
    owners.sort_by_key(|person| person.subject);
    owners.dedup_by_key(|person| person.subject);
    if field.joint { Ok(vec![owners]) } else { Ok(owners.into_iter().map(|person| vec![person]).collect()) }
}

fn empty_slot<'a>(owners: &[&Person], purpose: &Purpose) -> Result<Slot<'a>, SealError> {
    let mut slot = Slot { owners: Vec::new(), purpose: purpose.clone(), fields: BTreeMap::new(), keys: Vec::new() };
    for person in owners {
        let granted = person.keys.iter().find(|(id, _)| id.purpose == *purpose).ok_or(SealError::MissingKey)?;
        slot.owners.push((person.subject, granted.0.generation));
        slot.keys.push(Arc::clone(&granted.1));
    }
    Ok(slot)
}

/// Reads a slot's plaintext: hands every pointer and its raw JSON text to `take`, without copying the values.
pub(super) fn each_field<'a>(json: &'a [u8], take: impl FnMut(Cow<'a, str>, &'a str)) -> Result<(), OpenError> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    reader.deserialize_map(Members(take)).and_then(|()| reader.end()).map_err(|_| OpenError)
}

struct Members<F>(F);

impl<'de, F: FnMut(Cow<'de, str>, &'de str)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of pointers")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        #[derive(Deserialize)]
        struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
        while let Some(Key(path)) = map.next_key()? {
            (self.0)(path, map.next_value::<&'de RawValue>()?.get());
        }
        Ok(())
    }
}
