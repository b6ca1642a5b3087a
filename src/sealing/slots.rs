//! Which personal field goes into which slot.
//!
//! Owns: the grouping by owners and purpose, and the plaintext of a slot. A field for two purposes is in two slots; a
//! field about two people is in one joint slot, or in one slot each when it may outlive one of them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::envelope::{self, OpenError};
use super::meta::SlotDraft;
use super::{FootprintEntry, Person, SealError};
use crate::event::canonical::{push_canonical, push_string};
use crate::event::{Purpose, SubjectRef};
use crate::keystore::{Dek, DekId};
use crate::schema::{PersonalField, Prepared};

/// One slot to be sealed.
pub(super) struct Slot<'a> {
    /// Owners, ascending, distinct.
    pub owners: Vec<SubjectRef>,
    /// Purpose.
    pub purpose: &'a Purpose,
    /// The values, by pointer.
    pub fields: Vec<Field<'a>>,
    /// The key of each owner.
    keys: Vec<&'a (DekId, Arc<Dek>)>,
}

/// A value in a slot.
pub(super) struct Field<'a> {
    path: &'a str,
    value: &'a Value,
    /// Where its hole stands in the public part.
    offset: usize,
}

impl AsRef<str> for Field<'_> {
    fn as_ref(&self) -> &str {
        self.path
    }
}

impl<'a> Slot<'a> {
    /// The slot's key: the owner's DEK, or the joint key of several.
    pub fn key(&self) -> Result<Arc<Dek>, SealError> {
        match self.keys.as_slice() {
            [] => Err(SealError::MissingKey),
            [(_, one)] => Ok(Arc::clone(one)),
            several => {
                let keys: Vec<&Dek> = several.iter().map(|(_, key)| key.as_ref()).collect();
                Ok(Arc::new(envelope::joint_key(&keys)))
            }
        }
    }

    /// Canonical JSON object of pointer to value.
    pub fn plaintext(&self) -> Zeroizing<String> {
        let mut out = Zeroizing::new(String::with_capacity(256));
        // The pointers are in the order of their bytes; RFC 8785 wants UTF-16 order, which differs above U+D7FF.
        if self.fields.iter().all(|field| field.path.is_ascii()) {
            push_members(&mut out, self.fields.iter());
        } else {
            let mut fields: Vec<&Field<'_>> = self.fields.iter().collect();
            fields.sort_by(|a, b| a.path.encode_utf16().cmp(b.path.encode_utf16()));
            push_members(&mut out, fields.into_iter());
        }
        out
    }

    /// Footprint entries of the slot: one per owner.
    pub fn footprint(&self, slot: u16) -> impl Iterator<Item = FootprintEntry> {
        self.owners.iter().zip(&self.keys).map(move |(owner, (id, _))| FootprintEntry {
            subject: *owner,
            slot: Some(slot),
            purpose: self.purpose.clone(),
            generation: id.generation,
        })
    }

    /// Metadata of the slot.
    pub fn meta(&self) -> SlotDraft<'a> {
        SlotDraft {
            owners: self.owners.iter().zip(&self.keys).map(|(owner, (id, _))| (*owner, id.generation)).collect(),
            purpose: self.purpose.as_str(),
            fields: self.fields.iter().map(|field| (field.path, field.offset)).collect(),
        }
    }
}

fn push_members<'f>(out: &mut String, fields: impl Iterator<Item = &'f Field<'f>>) {
    out.push('{');
    for (at, field) in fields.enumerate() {
        if at > 0 {
            out.push(',');
        }
        push_string(out, field.path);
        out.push(':');
        push_canonical(out, field.value);
    }
    out.push('}');
}

/// A field and one of the slots that it goes into.
#[derive(Clone)]
struct Part<'a> {
    owners: Owners<'a>,
    purpose: &'a Purpose,
    /// Index of the field.
    field: usize,
    path: &'a str,
}

/// Who hides a value by being erased: nearly always one person.
#[derive(Clone)]
enum Owners<'a> {
    One(&'a Person),
    Joint(Rc<[&'a Person]>),
}

impl<'a> Owners<'a> {
    fn people(&self) -> &[&'a Person] {
        match self {
            Self::One(person) => std::slice::from_ref(person),
            Self::Joint(people) => people,
        }
    }

    fn subjects(&self) -> impl Iterator<Item = SubjectRef> {
        self.people().iter().map(|person| person.subject)
    }
}

impl Part<'_> {
    fn by_slot(&self, other: &Self) -> Ordering {
        self.owners.subjects().cmp(other.owners.subjects()).then_with(|| self.purpose.cmp(other.purpose))
    }
}

/// The slots of an event, in a fixed order: by owners, then purpose. `offsets`: where the hole of each field stands.
pub(super) fn plan<'a>(
    prepared: &'a Prepared<'_>,
    people: &'a [Person],
    offsets: &[Option<usize>],
    most: usize,
) -> Result<Vec<Slot<'a>>, SealError> {
    let mut parts = Vec::with_capacity(prepared.fields.len());
    for (at, field) in prepared.fields.iter().enumerate() {
        each_owners(field, people, |owners| {
            let part = |purpose| Part { owners: owners.clone(), purpose, field: at, path: field.path.as_str() };
            parts.extend(field.purposes.iter().map(part));
        })?;
    }
    parts.sort_by(|a, b| a.by_slot(b).then_with(|| a.path.cmp(b.path)));
    parts.dedup_by(|a, b| a.by_slot(b).is_eq() && a.path == b.path);
    let mut slots = Vec::new();
    for parts in parts.chunk_by(|a, b| a.by_slot(b).is_eq()) {
        let mut slot = empty_slot(&parts[0])?;
        for part in parts {
            let value = prepared.fields[part.field].path.lookup(&prepared.event.data).ok_or(SealError::MissingKey)?;
            let offset = offsets.get(part.field).copied().flatten().unwrap_or(0);
            slot.fields.push(Field { path: part.path, value, offset });
        }
        slots.push(slot);
    }
    if slots.len() > most {
        return Err(SealError::TooManySlots { slots: slots.len(), limit: most });
    }
    Ok(slots)
}

/// One group for a joint field, one group per owner otherwise; owners sorted, a person in two roles once.
fn each_owners<'p>(
    field: &PersonalField,
    people: &'p [Person],
    mut each: impl FnMut(Owners<'p>),
) -> Result<(), SealError> {
    let person = |at: &usize| people.get(*at).ok_or(SealError::MissingKey);
    if let [one] = field.owners.as_slice() {
        each(Owners::One(person(one)?));
        return Ok(());
    }
    let mut owners: Vec<&Person> = field.owners.iter().map(person).collect::<Result<_, _>>()?;
    owners.sort_by_key(|person| person.subject);
    owners.dedup_by_key(|person| person.subject);
    if field.joint {
        each(Owners::Joint(owners.into()));
    } else {
        owners.into_iter().map(Owners::One).for_each(each);
    }
    Ok(())
}

fn empty_slot<'a>(part: &Part<'a>) -> Result<Slot<'a>, SealError> {
    let people = part.owners.people();
    let key = |person: &&'a Person| {
        person.keys.iter().find(|(id, _)| id.purpose == *part.purpose).ok_or(SealError::MissingKey)
    };
    let keys = people.iter().map(key).collect::<Result<_, _>>()?;
    Ok(Slot { owners: part.owners.subjects().collect(), purpose: part.purpose, fields: Vec::new(), keys })
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
