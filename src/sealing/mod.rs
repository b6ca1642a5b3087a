//! Sealing: the only way from clear personal data to something the event log accepts, and back.
//!
//! Owns: which field goes into which slot, the salts and commitments of an event, and the opening of a slot. Must not
//! know: storage, HTTP, who may read. Keeps invariant 10: only this module makes a [`SealedEvent`], so the compiler
//! refuses clear values at the log's door.

pub mod commit;
pub mod envelope;
pub mod meta;
pub mod rows;
mod scan;
mod slots;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::event::canonical::{Cut, canonical, canonical_with_cuts};
use crate::event::{EventId, EventType, NewEvent, Pointer, Purpose, StoreId, SubjectKey, SubjectRef};
use crate::keystore::{Dek, DekId, Want};
use crate::schema::{Prepared, SubjectSite};
use crate::secret::{Entropy, EntropyError};
use envelope::{SealedBlob, SlotContext};
use meta::MetaDraft;

/// An event whose personal values are sealed: the only kind the event log takes.
#[derive(Debug)]
pub struct SealedEvent {
    id: EventId,
    caller_id: bool,
    event_type: EventType,
    schema_version: u32,
    meta: String,
    public: String,
    salts: [u8; 64],
    commitments: Vec<[u8; 32]>,
    sealed: Option<Vec<u8>>,
    footprint: Vec<FootprintEntry>,
}

/// Whose slot this is, or whom the event names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FootprintEntry {
    /// The person.
    pub subject: SubjectRef,
    /// Slot number; `None` where the event only names the person.
    pub slot: Option<u16>,
    /// Purpose.
    pub purpose: Purpose,
    /// Generation of the key.
    pub generation: u32,
}

impl SealedEvent {
    /// Event id.
    pub fn id(&self) -> EventId {
        self.id
    }

    /// Whether the caller chose the id, so that it can come twice.
    pub fn has_caller_id(&self) -> bool {
        self.caller_id
    }

    /// Event type.
    pub fn event_type(&self) -> &EventType {
        &self.event_type
    }

    /// Schema version, 0 without a schema.
    pub fn schema_version(&self) -> u32 {
        self.schema_version
    }

    /// Canonical JSON metadata.
    pub fn meta(&self) -> &str {
        &self.meta
    }

    /// Canonical JSON payload with holes.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// Salts of metadata and public part.
    pub fn salts(&self) -> &[u8; 64] {
        &self.salts
    }

    /// Commitments: metadata, public part, then one per slot.
    pub fn commitments(&self) -> &[[u8; 32]] {
        &self.commitments
    }

    /// The envelopes, if there are any.
    pub fn sealed(&self) -> Option<&[u8]> {
        self.sealed.as_deref()
    }

    /// Whose slots.
    pub fn footprint(&self) -> &[FootprintEntry] {
        &self.footprint
    }
}

/// A person with the keys an event needs.
#[derive(Clone, Debug)]
pub struct Person {
    /// The pseudonym.
    pub subject: SubjectRef,
    /// A key per purpose.
    pub keys: Vec<(DekId, Arc<Dek>)>,
}

/// Why an event could not be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// A personal field without a key: a mistake of ours, and nothing is written.
    #[error("a personal field has no key")]
    MissingKey,
    /// More slots than the limit.
    #[error("the event needs {slots} slots, {limit} are allowed")]
    TooManySlots {
        /// Slots needed.
        slots: usize,
        /// The limit.
        limit: usize,
    },
}

/// Seals events of one store.
#[derive(Clone)]
pub struct Sealer {
    store: StoreId,
    entropy: Arc<Entropy>,
    most_slots: usize,
}

impl Sealer {
    /// A sealer for a store; an event has at most `most_slots` slots.
    pub fn new(store: StoreId, entropy: Arc<Entropy>, most_slots: usize) -> Self {
        Self { store, entropy, most_slots }
    }

    /// The store.
    pub fn store(&self) -> StoreId {
        self.store
    }

    /// A fresh event id for an event recorded about now.
    pub fn new_event_id(&self, now: crate::clock::Millis) -> Result<EventId, EntropyError> {
        Ok(EventId(crate::event::uuid_v7(now, self.entropy.draw()?)))
    }

    /// A pseudonym that belongs to nobody, for events that name a forgotten person without personal fields.
    pub fn nobody(&self) -> Result<SubjectRef, EntropyError> {
        self.entropy.draw().map(SubjectRef)
    }

    /// Adds what the keystore must grant before the event can be sealed: one want per subject, in order.
    pub fn add_wants(wants: &mut Vec<Want>, prepared: &Prepared<'_>) {
        let want = |site: &SubjectSite| {
            let also = site.natural.as_ref().and_then(|natural| natural.also.as_ref()).map(|(key, _)| key.clone());
            Want { subject: site.subject.clone(), also, purposes: Vec::new() }
        };
        let first = wants.len();
        wants.extend(prepared.subjects.iter().map(want));
        for field in &prepared.fields {
            for &owner in &field.owners {
                let purposes = &mut wants[first + owner].purposes;
                for purpose in field.purposes.iter() {
                    if !purposes.contains(purpose) {
                        purposes.push(purpose.clone());
                    }
                }
            }
        }
    }

    /// Seals a prepared event for its people, given in the order of `prepared.subjects`.
    ///
    /// # Errors
    /// [`SealError`]; nothing was written.
    pub fn seal(&self, id: EventId, prepared: &Prepared<'_>, people: &[Person]) -> Result<SealedEvent, SealError> {
        let schema_version = prepared.schema_version.unwrap_or(0);
        let (public, offsets) = cut_out(prepared, people);
        let (holes, ids) = offsets.split_at(prepared.fields.len());
        let plan = slots::plan(prepared, people, holes, self.most_slots)?;
        let mut draft = context(&prepared.event);
        let mut commitments = Vec::with_capacity(2 + plan.len());
        commitments.resize(2, [0; 32]);
        let mut blob = SealedBlob::default();
        let mut footprint = Vec::with_capacity(plan.len());
        for (number, slot) in plan.iter().enumerate() {
            let json = slot.plaintext();
            let context = SlotContext {
                store: &self.store,
                event: &id,
                event_type: prepared.event.event_type.as_str(),
                schema_version,
                owners: &slot.owners,
                purpose: slot.purpose.as_str(),
                slot: number as u16,
                paths_sha256: envelope::paths_digest(&slot.fields),
            };
            let salt: [u8; 32] = self.entropy.draw()?;
            blob.seal(slot.key()?.as_ref(), &context, &salt, json.as_bytes(), &self.entropy.draw()?);
            commitments.push(commit::commit(&salt, json.as_bytes()));
            footprint.extend(slot.footprint(number as u16));
            draft.slots.push(slot.meta());
        }
        mention(prepared, people, ids, &mut draft, &mut footprint);
        let meta = draft.to_text();
        let salts: [u8; 64] = self.entropy.draw()?;
        commit_clear_parts(&salts, &meta, &public, &mut commitments);
        Ok(SealedEvent {
            id,
            caller_id: prepared.event.id.is_some(),
            event_type: prepared.event.event_type.clone(),
            schema_version,
            meta,
            public,
            salts,
            commitments,
            sealed: (!plan.is_empty()).then(|| blob.into_bytes()),
            footprint,
        })
    }

    /// One of the system's own events. `data` must hold pseudonyms only.
    ///
    /// # Errors
    /// [`EntropyError`] when there are no random bytes.
    pub fn system_event(&self, id: EventId, event_type: EventType, data: &Value) -> Result<SealedEvent, EntropyError> {
        let salts: [u8; 64] = self.entropy.draw()?;
        let meta = canonical(&Value::Object(Map::new()));
        let public = canonical(data);
        let mut commitments = vec![[0; 32]; 2];
        commit_clear_parts(&salts, &meta, &public, &mut commitments);
        Ok(SealedEvent {
            id,
            caller_id: false,
            event_type,
            schema_version: 0,
            meta,
            public,
            salts,
            commitments,
            sealed: None,
            footprint: Vec::new(),
        })
    }
}

fn commit_clear_parts(salts: &[u8; 64], meta: &str, public: &str, commitments: &mut [[u8; 32]]) {
    let (meta_salt, public_salt) = salts.split_at(32);
    let salt = |bytes: &[u8]| -> [u8; 32] { bytes.try_into().expect("half of 64 bytes") };
    commitments[0] = commit::commit(&salt(meta_salt), meta.as_bytes());
    commitments[1] = commit::commit(&salt(public_salt), public.as_bytes());
}

/// Metadata with the caller's context.
fn context(event: &NewEvent) -> MetaDraft<'_> {
    MetaDraft {
        actor: event.actor.as_deref(),
        causation_id: event.causation_id.as_deref(),
        correlation_id: event.correlation_id.as_deref(),
        source: event.source.as_deref(),
        source_id: event.source_id.as_deref(),
        time: event.time.map(crate::clock::Millis::rfc3339),
        ..MetaDraft::default()
    }
}

/// Where in the event its subjects' ids stand, each with its person.
fn sites<'p>(prepared: &'p Prepared<'_>, people: &'p [Person]) -> impl Iterator<Item = (&'p Pointer, &'p Person)> {
    prepared.subjects.iter().zip(people).filter_map(|(site, person)| Some((site.path.as_ref()?, person)))
}

/// The public part: personal values cut out, external ids replaced by pseudonyms. Also where each field's hole stands,
/// then where each pseudonym does.
fn cut_out(prepared: &Prepared<'_>, people: &[Person]) -> (String, Vec<Option<usize>>) {
    let pseudonyms: Vec<(&Pointer, String)> =
        sites(prepared, people).map(|(path, person)| (path, format!("\"{}\"", person.subject))).collect();
    let holes = prepared.fields.iter().map(|field| Cut { path: &field.path, instead: "null" });
    let ids = pseudonyms.iter().map(|(path, instead)| Cut { path, instead });
    let cuts: Vec<Cut<'_>> = holes.chain(ids).collect();
    canonical_with_cuts(&prepared.event.data, &cuts)
}

/// Records where pseudonyms stand, people found by natural key, in-line marks, and people who own no slot.
fn mention<'e>(
    prepared: &'e Prepared<'_>,
    people: &'e [Person],
    offsets: &[Option<usize>],
    draft: &mut MetaDraft<'e>,
    footprint: &mut Vec<FootprintEntry>,
) {
    // A place that was named twice was cut once.
    let ids = sites(prepared, people).zip(offsets).filter_map(|((path, _), at)| Some((path.as_str(), (*at)?)));
    draft.ids.extend(ids);
    for (site, person) in prepared.subjects.iter().zip(people) {
        if let SubjectKey::Natural(key) = &site.subject {
            draft.roles.insert(key.role().to_owned(), person.subject.to_string());
        }
        if !footprint.iter().any(|entry| entry.subject == person.subject) {
            let purpose = Purpose::general();
            footprint.push(FootprintEntry { subject: person.subject, slot: None, purpose, generation: 0 });
        }
    }
    for field in prepared.fields.iter().filter(|field| field.inline) {
        draft.marks.push((field.path.as_str(), field.category.as_deref(), field.inline_placeholder.as_ref()));
    }
}

/// An opened slot: raw JSON text per pointer.
#[derive(Debug)]
pub struct OpenedSlot(envelope::Opened);

impl OpenedSlot {
    /// The fields in pointer order: pointer and raw JSON text.
    ///
    /// # Errors
    /// [`envelope::OpenError`] when the plaintext is not the object the format demands.
    pub fn fields(&self) -> Result<Vec<(std::borrow::Cow<'_, str>, &str)>, envelope::OpenError> {
        let mut fields = Vec::new();
        self.each_field(|path, text| fields.push((path, text)))?;
        Ok(fields)
    }

    /// The same, one after the other.
    ///
    /// # Errors
    /// [`envelope::OpenError`] when the plaintext is not the object the format demands; some fields may have come before.
    pub fn each_field<'a>(
        &'a self,
        take: impl FnMut(std::borrow::Cow<'a, str>, &'a str),
    ) -> Result<(), envelope::OpenError> {
        slots::each_field(self.0.json(), take)
    }

    /// The slot's commitment, to be compared with the stored one.
    pub fn commitment(&self) -> [u8; 32] {
        commit::commit(self.0.salt(), self.0.json())
    }
}

/// What an envelope is bound to besides its slot.
#[derive(Clone, Copy, Debug)]
pub struct EventIdentity<'a> {
    /// The store.
    pub store: &'a StoreId,
    /// The event.
    pub event: &'a EventId,
    /// Its type.
    pub event_type: &'a str,
    /// Its schema version, 0 without a schema.
    pub schema_version: u32,
}

impl<'a> EventIdentity<'a> {
    /// What the envelope of a slot of this event is bound to, from the slot's metadata, its owners as parsed and the
    /// digest of its pointers.
    pub fn context(
        &self,
        owners: &'a [SubjectRef],
        number: u16,
        slot: &'a meta::SlotMeta<'_>,
        paths_sha256: [u8; 32],
    ) -> SlotContext<'a> {
        SlotContext {
            store: self.store,
            event: self.event,
            event_type: self.event_type,
            schema_version: self.schema_version,
            owners,
            purpose: &slot.purpose,
            slot: number,
            paths_sha256,
        }
    }
}

/// Opens one slot of a stored event as its metadata describes it; keys come in the order of its owners.
///
/// # Errors
/// [`envelope::OpenError`], whatever is wrong.
pub fn open_stored(
    keys: &[&Dek],
    identity: &EventIdentity<'_>,
    number: u16,
    slot: &meta::SlotMeta<'_>,
    bytes: &[u8],
) -> Result<OpenedSlot, envelope::OpenError> {
    let owners: Option<Vec<SubjectRef>> = slot.owners.iter().map(|owner| SubjectRef::parse(&owner.0)).collect();
    let owners = owners.ok_or(envelope::OpenError)?;
    open(keys, &identity.context(&owners, number, slot, slot.paths_digest()), bytes)
}

/// Opens one slot with its key; for several owners the keys come in the order of `context.owners`.
///
/// # Errors
/// [`envelope::OpenError`]: one error for every way in which the envelope, the key or the context may be wrong.
pub fn open(keys: &[&Dek], context: &SlotContext<'_>, bytes: &[u8]) -> Result<OpenedSlot, envelope::OpenError> {
    let opened = match keys {
        [one] => envelope::open(one, context, bytes)?,
        several => envelope::open(&envelope::joint_key(several), context, bytes)?,
    };
    Ok(OpenedSlot(opened))
}
