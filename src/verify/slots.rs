//! Slots against fences and keys: what must open opens and is what was committed to, what was erased has no key.
//!
//! Reads in an order that holds beside a running erasure: fences and completions first, then keys. A key that is gone
//! although no fence was seen is looked at again, because the fence may be newer than the first look.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::event::pseudonym;
use super::{Defect, Out, Place, Sampling, VerifyError};
use crate::event::{Purpose, StoreId, SubjectRef};
use crate::eventlog::{AuditRow, EventLog, Fences, StoredEvent};
use crate::keystore::{Dek, DekId, Fetched, Keystore, KeystoreError, Kid};
use crate::sealing::envelope;
use crate::sealing::meta::{Meta, SlotMeta};
use crate::sealing::{self, OpenedSlot};

/// A slot with all that is said about it.
pub(super) struct Slot<'a> {
    event: &'a StoredEvent,
    number: u16,
    meta: &'a SlotMeta<'a>,
    owners: Vec<DekId>,
    envelope: Option<&'a [u8]>,
    /// Whether the column is well formed up to here; if not, that has been reported.
    readable: bool,
    commitment: Option<[u8; 32]>,
}

/// The slots of an event.
pub(super) fn of<'a>(row: &'a AuditRow, meta: &'a Meta<'a>) -> impl Iterator<Item = Slot<'a>> {
    let blob = row.event.sealed.as_deref();
    let mut envelopes = envelope::slots(blob.unwrap_or_default());
    let (hashes, _) = row.commitments.as_chunks::<32>();
    meta.slots.iter().enumerate().map(move |(number, slot)| {
        let next = envelopes.next();
        Slot {
            event: &row.event,
            number: number as u16,
            meta: slot,
            owners: owners(slot),
            readable: blob.is_none() || matches!(next, Some(Ok(_))),
            envelope: next.and_then(Result::ok).flatten(),
            commitment: hashes.get(number + 2).copied(),
        }
    })
}

fn owners(slot: &SlotMeta<'_>) -> Vec<DekId> {
    let purpose = Purpose::parse_any(&slot.purpose);
    let id = |owner: &sealing::meta::Owner<'_>| {
        let (subject, purpose) = (SubjectRef::parse(&owner.0)?, purpose.clone().ok()?);
        Some(DekId { subject, purpose, generation: owner.1 })
    };
    slot.owners.iter().filter_map(id).collect()
}

/// Opens slots.
pub(super) struct Opener<'a> {
    pub log: &'a dyn EventLog,
    pub keystore: Option<&'a dyn Keystore>,
    pub store: StoreId,
    pub open: Sampling,
}

impl Opener<'_> {
    /// Checks the slots of one page.
    pub async fn check(&mut self, slots: &[Slot<'_>], out: &mut Out) -> Result<(), VerifyError> {
        let people: BTreeSet<SubjectRef> = slots.iter().flat_map(|slot| &slot.owners).map(|id| id.subject).collect();
        let fences = self.log.fences(people.into_iter().collect()).await?;
        let completed = self.completed(&fences).await?;
        let before = out.report.slots - slots.len() as u64;
        same_key_same_id(slots, out);
        let mut wanted = BTreeSet::new();
        let mut sampled = Vec::new();
        let mut erased = Vec::new();
        for (nth, slot) in slots.iter().enumerate() {
            if is_fenced(slot, &fences) {
                let owners: Vec<&DekId> = slot.owners.iter().filter(|id| dead(id, &fences, &completed)).collect();
                wanted.extend(owners.iter().copied().cloned());
                erased.push((slot, owners));
            } else if slot.envelope.is_none() {
                // Behind a malformed envelope the others cannot be found; that has been reported.
                if slot.readable {
                    out.find(slot.place(), Defect::CiphertextMissing);
                }
            } else if self.open.takes(before + nth as u64) {
                wanted.extend(slot.owners.iter().cloned());
                sampled.push(slot);
            }
        }
        out.report.erased += erased.len() as u64;
        let Some(keystore) = self.keystore else { return Ok(()) };
        let keys = fetch(keystore, wanted.into_iter().collect()).await?;
        for (slot, owners) in erased {
            for id in owners {
                match keys.get(id) {
                    Some(Some(Fetched::Key(_))) => out.find(slot.place(), Defect::KeyAlive),
                    Some(Some(Fetched::Unknown)) => out.find(slot.place(), Defect::TombstoneMissing),
                    Some(None) => out.find(slot.place(), Defect::KeyDamaged),
                    Some(Some(Fetched::Destroyed { .. })) | None => {}
                }
            }
        }
        let mut doubtful = Vec::new();
        for slot in sampled {
            self.readable(slot, &keys, &mut doubtful, out);
        }
        self.look_again(&doubtful, out).await
    }

    /// The external ids of the people who are named in one page: each can be opened, or is not there.
    pub async fn check_ids<'r>(
        &self,
        rows: impl Iterator<Item = (&'r AuditRow, &'r Option<Meta<'r>>)>,
        out: &mut Out,
    ) -> Result<(), VerifyError> {
        let Some(keystore) = self.keystore else { return Ok(()) };
        let mut named = BTreeMap::new();
        for (row, meta) in rows {
            let sites = meta.iter().flat_map(|meta| &meta.ids);
            for subject in sites.filter_map(|site| pseudonym(&row.event.public, site.1)) {
                named.entry(subject).or_insert(Place::Event(row.event.position));
            }
        }
        match keystore.external_ids(named.keys().copied().collect()).await {
            Ok(_) => return Ok(()),
            Err(KeystoreError::Corrupt { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        for (subject, place) in named {
            match keystore.external_ids(vec![subject]).await {
                Ok(_) => {}
                Err(KeystoreError::Corrupt { .. }) => out.find(place, Defect::IdDamaged),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn readable<'s>(&self, slot: &'s Slot<'s>, keys: &Keys, doubtful: &mut Vec<(&'s Slot<'s>, Defect)>, out: &mut Out) {
        let mut deks: Vec<&Dek> = Vec::with_capacity(slot.owners.len());
        for id in &slot.owners {
            match keys.get(id) {
                Some(Some(Fetched::Key(dek))) => deks.push(dek),
                Some(Some(Fetched::Destroyed { .. })) => return doubtful.push((slot, Defect::KeyDestroyed)),
                Some(Some(Fetched::Unknown)) | None => return doubtful.push((slot, Defect::KeyUnknown)),
                Some(None) => return out.find(slot.place(), Defect::KeyDamaged),
            }
        }
        match slot.open(&self.store, &deks) {
            Ok(()) => out.report.opened += 1,
            Err(defect) => out.find(slot.place(), defect),
        }
    }

    /// Keys that are gone: an error only if there is still no fence that explains it.
    async fn look_again(&self, doubtful: &[(&Slot<'_>, Defect)], out: &mut Out) -> Result<(), VerifyError> {
        if doubtful.is_empty() {
            return Ok(());
        }
        let people: BTreeSet<SubjectRef> =
            doubtful.iter().flat_map(|(slot, _)| &slot.owners).map(|id| id.subject).collect();
        let fences = self.log.fences(people.into_iter().collect()).await?;
        for (slot, defect) in doubtful {
            if is_fenced(slot, &fences) {
                out.report.erased += 1;
            } else {
                out.find(slot.place(), *defect);
            }
        }
        Ok(())
    }

    /// For the request behind each fence: whether its erasure is complete.
    async fn completed(&self, fences: &Fences) -> Result<HashMap<String, bool>, VerifyError> {
        let mut completed = HashMap::new();
        for fence in fences.0.values().flatten() {
            if !completed.contains_key(&fence.request) {
                let row = self.log.erasure_of(fence.request.clone()).await?;
                completed.insert(fence.request.clone(), row.is_some_and(|row| row.completed.is_some()));
            }
        }
        Ok(completed)
    }
}

/// What the keystore has of each key; `None` where its bytes contradict the format.
type Keys = HashMap<DekId, Option<Fetched>>;

/// Fetches keys. One that is damaged makes the keystore refuse all it was asked for with, so they are asked for one by one then.
async fn fetch(keystore: &dyn Keystore, wanted: Vec<DekId>) -> Result<Keys, VerifyError> {
    match keystore.fetch(wanted.clone()).await {
        Ok(fetched) => return Ok(wanted.into_iter().zip(fetched.into_iter().map(Some)).collect()),
        Err(KeystoreError::Corrupt { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut keys = Keys::new();
    for id in wanted {
        let found = match keystore.fetch(vec![id.clone()]).await {
            Ok(mut fetched) => fetched.pop(),
            Err(KeystoreError::Corrupt { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        keys.insert(id, found);
    }
    Ok(keys)
}

/// Whether a completed erasure covers this key.
fn dead(id: &DekId, fences: &Fences, completed: &HashMap<String, bool>) -> bool {
    let covering = fences.0.get(&id.subject).into_iter().flatten().filter(|fence| {
        fence.purpose.as_ref().is_none_or(|purpose| *purpose == id.purpose) && fence.covers(id.generation)
    });
    covering.into_iter().any(|fence| completed.get(&fence.request).copied().unwrap_or(false))
}

/// Whether the slot may not be read: one fenced owner hides it for all.
fn is_fenced(slot: &Slot<'_>, fences: &Fences) -> bool {
    slot.owners.iter().any(|id| fences.covering(&id.subject, id.purpose.as_str(), id.generation).is_some())
}

/// Needs no key: slots of a page that are sealed under the same key name the same key id.
fn same_key_same_id(slots: &[Slot<'_>], out: &mut Out) {
    let mut known: BTreeMap<&[DekId], Kid> = BTreeMap::new();
    for slot in slots {
        let Some(kid) = slot.envelope.and_then(envelope::kid_of) else { continue };
        if *known.entry(&slot.owners).or_insert(kid) != kid || kid.0 == [0; 32] {
            out.find(slot.place(), Defect::KeyId);
        }
    }
}

impl Slot<'_> {
    fn place(&self) -> Place {
        Place::Slot(self.event.position, self.number)
    }

    fn open(&self, store: &StoreId, keys: &[&Dek]) -> Result<(), Defect> {
        let envelope = self.envelope.ok_or(Defect::CiphertextMissing)?;
        let identity = self.event.identity(store);
        let opened = sealing::open_stored(keys, &identity, self.number, self.meta, envelope);
        let opened = opened.map_err(|_| Defect::DoesNotOpen)?;
        if Some(opened.commitment()) != self.commitment {
            return Err(Defect::SlotCommitment);
        }
        let paths: Vec<&str> = self.meta.fields.iter().map(|field| field.0.as_ref()).collect();
        if same_fields(&opened, &paths) { Ok(()) } else { Err(Defect::SlotFields) }
    }
}

fn same_fields(opened: &OpenedSlot, paths: &[&str]) -> bool {
    let Ok(fields) = opened.fields() else { return false };
    let inside: BTreeSet<&str> = fields.iter().map(|(path, _)| path.as_ref()).collect();
    inside.len() == fields.len() && inside.into_iter().eq(paths.iter().copied())
}
