//! What of a page may be opened, and opening it.
//!
//! Pure but for the cipher: decides per slot from the fences and the viewer, names the keys, opens.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Opened, ReadFailed, State, Viewer, pseudonym};
use crate::event::{ExternalId, Purpose, StoreId, SubjectRef};
use crate::eventlog::{Page, ReadError};
use crate::keystore::{Dek, DekId, Fetched};
use crate::sealing::envelope;
use crate::sealing::meta::{Meta, SlotMeta};
use crate::sealing::{self, OpenedSlot};

/// The metadata of every event of the page.
pub fn metas(page: &Page) -> Result<Vec<Meta<'_>>, ReadFailed> {
    page.events
        .iter()
        .map(|event| {
            let corrupt = ReadError::Corrupt { table: "events", column: "meta", row: event.position.0 };
            Meta::parse(&event.meta).map_err(|_| ReadFailed::Log(corrupt))
        })
        .collect()
}

/// The keys of a slot in owner order, or why it is not opened and whose data that concerns.
pub type Decision = Result<Vec<DekId>, (State, SubjectRef)>;

/// What is to be done with each slot of each event.
pub struct Plan {
    /// Per event, per slot: the keys in owner order, or why not.
    pub slots: Vec<Vec<Decision>>,
    /// Every key of the page, once.
    pub wanted: BTreeSet<DekId>,
}

/// Decides every slot of the page.
pub fn plan(page: &Page, metas: &[Meta<'_>], viewer: &Viewer) -> Plan {
    let mut wanted = BTreeSet::new();
    let slots = metas
        .iter()
        .map(|meta| {
            meta.slots
                .iter()
                .map(|slot| {
                    let decision = decide(page, slot, viewer);
                    if let Ok(keys) = &decision {
                        wanted.extend(keys.iter().cloned());
                    }
                    decision
                })
                .collect()
        })
        .collect();
    Plan { slots, wanted }
}

fn decide(page: &Page, slot: &SlotMeta<'_>, viewer: &Viewer) -> Decision {
    let nobody = SubjectRef([0; 16]);
    let Ok(purpose) = Purpose::parse_any(&slot.purpose) else { return Err((State::Unavailable, nobody)) };
    let mut keys = Vec::with_capacity(slot.owners.len());
    for owner in &slot.owners {
        let Some(subject) = SubjectRef::parse(&owner.0) else { return Err((State::Unavailable, nobody)) };
        if let Some(fence) = page.fences.covering(&subject, &slot.purpose, owner.1) {
            return Err((State::Fenced(Arc::new(fence.clone())), subject));
        }
        keys.push(DekId { subject, purpose: purpose.clone(), generation: owner.1 });
    }
    if !viewer.purposes.allow(&slot.purpose) {
        return Err((State::Withheld, keys.first().map_or(nobody, |key| key.subject)));
    }
    Ok(keys)
}

/// The opened page.
pub struct OpenedPage<'p> {
    /// Events in page order.
    pub events: Vec<Opened<'p>>,
    /// Whether a key that no fence explains was destroyed or unknown, or an envelope did not open.
    pub missing: bool,
}

/// Opens what the plan allows. `keys` is `None` when the keystore could not be reached.
pub fn open<'p>(
    store: StoreId,
    page: &'p Page,
    metas: Vec<Meta<'p>>,
    plan: Plan,
    keys: Option<&HashMap<DekId, Fetched>>,
) -> OpenedPage<'p> {
    let mut missing = false;
    let mut events = Vec::with_capacity(page.events.len());
    for ((event, meta), decisions) in page.events.iter().zip(metas).zip(plan.slots) {
        let mut envelopes = envelope::slots(event.sealed.as_deref().unwrap_or_default());
        let mut slots = Vec::with_capacity(decisions.len());
        for (number, decision) in decisions.into_iter().enumerate() {
            let sealed = envelopes.next().and_then(Result::ok).flatten();
            let opened = decision.and_then(|ids| {
                let subject = ids[0].subject;
                let slot = Slot { store, event, meta: &meta.slots[number], number: number as u16, sealed };
                slot.open(&ids, keys).ok_or_else(|| {
                    missing |= keys.is_some();
                    (State::Unavailable, subject)
                })
            });
            slots.push(opened);
        }
        events.push(Opened { event, meta, slots });
    }
    OpenedPage { events, missing }
}

struct Slot<'a> {
    store: StoreId,
    event: &'a crate::eventlog::StoredEvent,
    meta: &'a SlotMeta<'a>,
    number: u16,
    sealed: Option<&'a [u8]>,
}

impl Slot<'_> {
    fn open(&self, ids: &[DekId], keys: Option<&HashMap<DekId, Fetched>>) -> Option<OpenedSlot> {
        let keys: Vec<&Dek> = ids
            .iter()
            .map(|id| match keys?.get(id)? {
                Fetched::Key(dek) => Some(dek.as_ref()),
                Fetched::Destroyed { .. } | Fetched::Unknown => None,
            })
            .collect::<Option<_>>()?;
        sealing::open_stored(&keys, &self.event.identity(&self.store), self.number, self.meta, self.sealed?).ok()
    }
}

/// Who is about to be seen, for which purpose, in how many values.
pub fn viewings(
    events: &[Opened<'_>],
    people: &HashMap<SubjectRef, ExternalId>,
) -> BTreeMap<(SubjectRef, String), u32> {
    let mut seen = BTreeMap::new();
    for opened in events {
        for (slot, meta) in opened.slots.iter().zip(&opened.meta.slots) {
            if slot.is_ok() {
                for subject in meta.owners.iter().filter_map(|owner| SubjectRef::parse(&owner.0)) {
                    *seen.entry((subject, meta.purpose.to_string())).or_default() += meta.fields.len() as u32;
                }
            }
        }
        for site in &opened.meta.ids {
            if let Some(subject) = pseudonym(&opened.event.public, site.1).filter(|s| people.contains_key(s)) {
                *seen.entry((subject, "$identity".to_owned())).or_default() += 1;
            }
        }
    }
    seen
}
