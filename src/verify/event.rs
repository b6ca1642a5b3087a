//! One event taken alone: commitments, leaf, numbers of slots, holes, schema.
//!
//! Pure. Must not know: other events, keys. What needs either is in `slots` and in the scan.

use std::borrow::Cow;

use crate::event::{NaturalKey, Pointer, Purpose, StoreId, SubjectRef};
use crate::eventlog::AuditRow;
use crate::schema::Registry;
use crate::sealing::commit::{commit, leaf};
use crate::sealing::envelope;
use crate::sealing::meta::{Meta, SlotMeta};

use super::Defect;

/// Everything wrong with an event by itself. `meta` is `None` where it is malformed, which is reported elsewhere.
pub(super) fn defects(
    store: &StoreId,
    row: &AuditRow,
    meta: Option<&Meta<'_>>,
    registry: Option<&Registry>,
) -> Vec<Defect> {
    let mut found = Vec::new();
    match row.leaf_fields(store) {
        Some(fields) => {
            commitments(row, fields.c_meta, fields.c_public, &mut found);
            if leaf(&fields) != row.leaf {
                found.push(Defect::Leaf);
            }
            if let Some(meta) = meta {
                envelopes(row, meta.slots.len(), fields.c_slots.len(), &mut found);
            }
        }
        None => found.push(Defect::CommitmentsMalformed),
    }
    if let Some(meta) = meta {
        if !holes(&row.event.public, meta) {
            found.push(Defect::Hole);
        }
        if let Some(registry) = registry {
            schema(row, meta, registry, &mut found);
        }
    }
    found
}

/// Whether the names in the metadata are what the format says: owners ascending, pointers ascending, nothing empty.
pub(super) fn well_formed(meta: &Meta<'_>) -> bool {
    let ascending = |slot: &SlotMeta<'_>| {
        let owners: Option<Vec<SubjectRef>> = slot.owners.iter().map(|owner| SubjectRef::parse(&owner.0)).collect();
        owners.is_some_and(|owners| !owners.is_empty() && owners.is_sorted_by(|a, b| a < b))
            && !slot.fields.is_empty()
            && slot.fields.is_sorted_by(|a, b| a.0 < b.0)
            && Purpose::parse_any(&slot.purpose).is_ok()
    };
    let named = |(role, subject): (&Cow<'_, str>, &Cow<'_, str>)| {
        (1..=NaturalKey::ROLE_LIMIT).contains(&role.len()) && SubjectRef::parse(subject).is_some()
    };
    meta.slots.iter().all(ascending) && meta.roles.iter().all(named)
}

/// The pseudonym whose opening quote stands at `at` in a public part.
pub(super) fn pseudonym(public: &str, at: usize) -> Option<SubjectRef> {
    let text = public.get(at..)?.strip_prefix('"')?;
    let quoted = text.get(..SubjectRef::TEXT_LEN)?;
    text[SubjectRef::TEXT_LEN..].starts_with('"').then(|| SubjectRef::parse(quoted)).flatten()
}

fn commitments(row: &AuditRow, c_meta: &[u8; 32], c_public: &[u8; 32], found: &mut Vec<Defect>) {
    let Some(salts) = &row.salts else { return };
    let ([meta_salt, public_salt], []) = salts.as_chunks::<32>() else {
        return found.push(Defect::SaltsMalformed);
    };
    if commit(meta_salt, row.event.meta.as_bytes()) != *c_meta {
        found.push(Defect::MetaCommitment);
    }
    if commit(public_salt, row.event.public.as_bytes()) != *c_public {
        found.push(Defect::PublicCommitment);
    }
}

/// Metadata, commitments and envelopes must speak of the same slots. Only a column that lost every slot may be gone.
fn envelopes(row: &AuditRow, slots: usize, committed: usize, found: &mut Vec<Defect>) {
    let sealed = match row.event.sealed.as_deref() {
        None => slots,
        Some(blob) => {
            let envelopes: Vec<_> = envelope::slots(blob).collect();
            if envelopes.is_empty() || envelopes.iter().any(Result::is_err) {
                found.push(Defect::SealedMalformed);
                slots
            } else {
                envelopes.len()
            }
        }
    };
    if slots != committed || slots != sealed {
        found.push(Defect::SlotCount);
    }
}

fn holes(public: &str, meta: &Meta<'_>) -> bool {
    let hole = |at: usize| public.get(at..).is_some_and(|rest| rest.starts_with("null"));
    meta.slots.iter().flat_map(|slot| &slot.fields).all(|field| hole(field.1))
        && meta.ids.iter().all(|site| pseudonym(public, site.1).is_some())
}

fn schema(row: &AuditRow, meta: &Meta<'_>, registry: &Registry, found: &mut Vec<Defect>) {
    let event = &row.event;
    let name = event.event_type.as_str();
    if event.schema_version.is_some() && registry.version(name, event.schema_version).is_none() {
        return found.push(Defect::SchemaUnknown);
    }
    let marked = |path: &str| {
        meta.marks.iter().any(|mark| mark.0 == path)
            || event.schema_version.is_some()
                && Pointer::parse(path).is_ok_and(|p| registry.placeholder(name, event.schema_version, &p).is_some())
    };
    if !meta.slots.iter().flat_map(|slot| &slot.fields).all(|field| marked(&field.0)) {
        found.push(Defect::FieldUnmarked);
    }
}
