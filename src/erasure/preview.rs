//! What a forget request would do, and the digest by which exactly that is approved.
//!
//! Owns: the counts. They come from the footprint and the stored metadata, never from opened values; the verification
//! walks the same way, so the two cannot disagree.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Request;
use crate::domain;
use crate::event::canonical::canonical;
use crate::event::{Position, Purpose, SubjectRef};
use crate::eventlog::{Direction, EventLog, Fences, Filter, ReadError, ReadQuery, StoredEvent};
use crate::sealing::meta::{Meta, SlotMeta};

/// Counts of what becomes unreadable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erase {
    /// Events with at least one value.
    pub events: u64,
    /// Personal values.
    pub fields: u64,
    /// Sealed slots.
    pub slots: u64,
    /// Streams.
    pub streams: u64,
}

/// Counts of what is shared with others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// Events that also hold data of others.
    pub events: u64,
    /// How many others.
    pub other_people: u64,
    /// Values about this person and others jointly, which become unreadable for all.
    pub joint_fields: u64,
}

/// What a forget request would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// `sha256:` and 64 hexadecimal digits over everything below, the person and the scope.
    pub digest: String,
    /// What becomes unreadable.
    pub erase: Erase,
    /// What is shared with others.
    pub shared: Shared,
    /// Position of the last event about the person; later ones make the preview stale.
    pub last_position: Option<u64>,
    /// Latest erasure epoch among the person's fences; a later one makes the preview stale.
    pub erasure_epoch: u64,
}

/// Whether a slot is in the scope of an erasure of `subject`, and not already fenced.
pub fn in_scope(slot: &SlotMeta<'_>, subject: SubjectRef, purposes: Option<&[Purpose]>, fences: &Fences) -> bool {
    let own = slot.owners.iter().find(|owner| SubjectRef::parse(&owner.0) == Some(subject));
    let Some(own) = own else { return false };
    purposes.is_none_or(|list| list.iter().any(|p| p.as_str() == slot.purpose))
        && fences.covering(&subject, &slot.purpose, own.1).is_none()
}

/// Walks every event of a person, in position order.
///
/// # Errors
/// [`ReadError`] when the log cannot be read.
pub async fn walk(
    log: &dyn EventLog,
    subject: SubjectRef,
    mut visit: impl FnMut(&StoredEvent, &Meta<'_>, &Fences) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let mut from = Some(0);
    while let Some(position) = from {
        let page = log
            .read(ReadQuery {
                stream: None,
                from: Some(position),
                direction: Direction::Forward,
                limit: 1000,
                max_bytes: 16 << 20,
                until: None,
                filter: Filter { subject: Some(subject), ..Filter::default() },
                system: false,
            })
            .await?;
        for event in &page.events {
            let corrupt = ReadError::Corrupt { table: "events", column: "meta", row: event.position.0 };
            let meta = Meta::parse(&event.meta).map_err(|_| corrupt)?;
            visit(event, &meta, &page.fences)?;
        }
        from = page.next;
    }
    Ok(())
}

/// Computes a preview.
///
/// # Errors
/// [`ReadError`] when the log cannot be read.
pub async fn compute(
    log: &dyn EventLog,
    subject: SubjectRef,
    purposes: Option<&[Purpose]>,
) -> Result<Preview, ReadError> {
    let mut preview = Preview { erasure_epoch: epoch(log, subject).await?, ..Preview::default() };
    let mut streams = BTreeSet::new();
    let mut others = BTreeSet::new();
    walk(log, subject, |event, meta, fences| {
        let mut paths = BTreeSet::new();
        let mut joint = BTreeSet::new();
        for slot in meta.slots.iter().filter(|slot| in_scope(slot, subject, purposes, fences)) {
            preview.erase.slots += 1;
            paths.extend(slot.fields.iter().map(|field| field.0.as_ref()));
            if slot.owners.len() > 1 {
                joint.extend(slot.fields.iter().map(|field| field.0.as_ref()));
            }
        }
        if !paths.is_empty() {
            preview.erase.events += 1;
            preview.erase.fields += paths.len() as u64;
            preview.shared.joint_fields += joint.len() as u64;
            streams.insert(event.stream.clone());
            let people = meta.slots.iter().flat_map(|slot| &slot.owners).filter_map(|o| SubjectRef::parse(&o.0));
            let before = others.len();
            let mut any = false;
            for person in people.filter(|person| *person != subject) {
                others.insert(person);
                any = true;
            }
            preview.shared.events += u64::from(any || others.len() > before);
        }
        preview.last_position = Some(event.position.0);
        Ok(())
    })
    .await?;
    preview.erase.streams = streams.len() as u64;
    preview.shared.other_people = others.len() as u64;
    preview.digest = digest(&preview, subject, purposes);
    Ok(preview)
}

/// Whether a request's stored preview is what would be computed now: events never change, so it is unless there are
/// newer ones or newer fences.
///
/// # Errors
/// [`ReadError`] when the log cannot be read.
pub async fn is_fresh(log: &dyn EventLog, request: &Request) -> Result<bool, ReadError> {
    let after = request.preview.last_position.map(|position| (Position(position), i32::MAX));
    let newer = log.footprint(request.subject, after, 1).await?;
    Ok(newer.is_empty() && epoch(log, request.subject).await? == request.preview.erasure_epoch)
}

async fn epoch(log: &dyn EventLog, subject: SubjectRef) -> Result<u64, ReadError> {
    Ok(log.fences(vec![subject]).await?.epoch())
}

fn digest(preview: &Preview, subject: SubjectRef, purposes: Option<&[Purpose]>) -> String {
    let bare = Preview { digest: String::new(), ..preview.clone() };
    let counts = serde_json::to_value(&bare).map(|value| canonical(&value)).unwrap_or_default();
    let scope = purposes.map_or_else(|| "*".to_owned(), scope_text);
    let text = domain::lp(&[domain::PREVIEW, &subject.0, scope.as_bytes(), counts.as_bytes()]);
    format!("sha256:{}", hex::encode(Sha256::digest(text)))
}

fn scope_text(purposes: &[Purpose]) -> String {
    purposes.iter().map(Purpose::as_str).collect::<Vec<_>>().join(" ")
}
