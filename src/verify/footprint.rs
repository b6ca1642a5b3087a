//! The footprint against the metadata, in both directions.
//!
//! Owns: one digest per person over what the events say, in position order; the footprint's rows of that person must
//! lead to the same one. Only where they do not is the log read again to say at which event. Rows of a person whom no
//! event names cannot be found through the contract, which asks by person.

use std::collections::{BTreeSet, HashMap};

use sha2::{Digest, Sha256};

use super::{Defect, Out, Place, VerifyError, event};
use crate::event::{Position, SubjectRef};
use crate::eventlog::{EventLog, FootprintRow, ReadError, StoredEvent};
use crate::sealing::meta::Meta;

/// Everyone named so far.
#[derive(Default)]
pub(super) struct People(HashMap<SubjectRef, [u8; 32]>);

/// A row as it is compared: position, slot (-1 for a mention), purpose, generation.
type Entry = (u64, i32, String, u32);

impl People {
    /// Adds what an event says.
    pub fn add(&mut self, event: &StoredEvent, meta: &Meta<'_>) {
        for (subject, entry) in entries(event, meta) {
            let digest = self.0.entry(subject).or_default();
            *digest = follow(digest, &entry);
        }
    }

    /// Compares with the footprint below `until`.
    pub async fn compare(
        &self,
        log: &dyn EventLog,
        until: Position,
        page: usize,
        out: &mut Out,
    ) -> Result<(), VerifyError> {
        let mut differing = HashMap::new();
        for (subject, expected) in &self.0 {
            let mut digest = [0; 32];
            rows(log, *subject, until, page, |entry| digest = follow(&digest, &entry)).await?;
            if digest != *expected {
                differing.insert(*subject, BTreeSet::new());
            }
        }
        if differing.is_empty() { Ok(()) } else { explain(log, until, page, differing, out).await }
    }
}

/// What the metadata says, per person in slot order: their slots, or that the event only names them.
fn entries(stored: &StoredEvent, meta: &Meta<'_>) -> BTreeSet<(SubjectRef, Entry)> {
    let position = stored.position.0;
    let mut found = BTreeSet::new();
    let mut owning = BTreeSet::new();
    for (number, slot) in meta.slots.iter().enumerate() {
        for owner in &slot.owners {
            if let Some(subject) = SubjectRef::parse(&owner.0) {
                owning.insert(subject);
                found.insert((subject, (position, number as i32, slot.purpose.to_string(), owner.1)));
            }
        }
    }
    let in_public = meta.ids.iter().filter_map(|site| event::pseudonym(&stored.public, site.1));
    let by_natural_key = meta.roles.values().filter_map(|subject| SubjectRef::parse(subject));
    for subject in in_public.chain(by_natural_key) {
        if !owning.contains(&subject) {
            found.insert((subject, (position, -1, crate::event::Purpose::general().to_string(), 0)));
        }
    }
    found
}

fn follow(digest: &[u8; 32], (position, slot, purpose, generation): &Entry) -> [u8; 32] {
    Sha256::new()
        .chain_update(digest)
        .chain_update(position.to_be_bytes())
        .chain_update(slot.to_be_bytes())
        .chain_update(generation.to_be_bytes())
        .chain_update(purpose)
        .finalize()
        .into()
}

async fn rows(
    log: &dyn EventLog,
    subject: SubjectRef,
    until: Position,
    page: usize,
    mut visit: impl FnMut(Entry),
) -> Result<(), ReadError> {
    let mut after = None;
    loop {
        let rows = log.footprint(subject, after, page).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = Some((last.position, slot(last)));
        for row in rows {
            if row.position >= until {
                return Ok(());
            }
            visit((row.position.0, slot(&row), row.purpose.to_string(), row.generation));
        }
    }
}

fn slot(row: &FootprintRow) -> i32 {
    row.slot.map_or(-1, i32::from)
}

/// Reads the log again for the people whose footprint differs.
async fn explain(
    log: &dyn EventLog,
    until: Position,
    page: usize,
    mut differing: HashMap<SubjectRef, BTreeSet<Entry>>,
    out: &mut Out,
) -> Result<(), VerifyError> {
    let head = log.head().await?;
    let mut from = 0;
    while from < until.0 {
        let read = super::page(log, from, page, &head).await?;
        for row in &read.rows {
            let Some(meta) = Meta::parse(&row.event.meta).ok().filter(event::well_formed) else { continue };
            for (subject, entry) in entries(&row.event, &meta) {
                if let Some(expected) = differing.get_mut(&subject)
                    && row.event.position < until
                {
                    expected.insert(entry);
                }
            }
        }
        from = read.resume;
    }
    let mut found = BTreeSet::new();
    for (subject, mut expected) in differing {
        rows(log, subject, until, page, |entry| {
            if !expected.remove(&entry) {
                found.insert((entry.0, false));
            }
        })
        .await?;
        found.extend(expected.into_iter().map(|entry| (entry.0, true)));
    }
    for (position, missing) in found {
        let defect = if missing { Defect::FootprintMissing } else { Defect::FootprintExtra };
        out.find(Place::Event(Position(position)), defect);
    }
    Ok(())
}
