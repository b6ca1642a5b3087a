//! Slots of projection rows: the same envelope, bound to a row instead of an event.
//!
//! Owns: what an envelope of a row is bound to. Must not know: columns, storage. A row is written anew with every change,
//! so it has no commitment and no leaf; what it has is the same rule as an event: one envelope per owners and purpose,
//! a joint key for several owners.

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::OpenedSlot;
use super::envelope::{self, OpenError, SlotContext};
use crate::event::canonical::canonical;
use crate::event::{EventId, StoreId, SubjectRef};
use crate::keystore::Dek;
use crate::secret::{Entropy, EntropyError};

/// What the envelopes of a row are bound to.
#[derive(Clone, Copy, Debug)]
pub struct RowIdentity<'a> {
    /// The store.
    pub store: &'a StoreId,
    /// `projection/contacts`, `fold/card_balance`.
    pub definition: &'a str,
    /// The row's key.
    pub key: &'a [u8; 16],
}

/// One slot of a row.
#[derive(Clone, Copy, Debug)]
pub struct RowSlot<'a> {
    /// Number of the slot within the row.
    pub number: u16,
    /// Purpose.
    pub purpose: &'a str,
    /// Whose: ascending.
    pub people: &'a [SubjectRef],
    /// Pointers into the row's columns, ascending by their bytes.
    pub paths: &'a [String],
}

/// Seals the values of one slot, in the order of its paths. Keys come in the order of its people.
///
/// # Errors
/// [`EntropyError`] when there are no random bytes.
pub fn seal(
    entropy: &Entropy,
    identity: &RowIdentity<'_>,
    slot: &RowSlot<'_>,
    keys: &[&Dek],
    values: &[&Value],
) -> Result<Vec<u8>, EntropyError> {
    let members: Map<String, Value> = slot.paths.iter().cloned().zip(values.iter().map(|v| (*v).clone())).collect();
    let json = Zeroizing::new(canonical(&Value::Object(members)));
    let salt: [u8; 32] = entropy.draw()?;
    let nonce: [u8; 12] = entropy.draw()?;
    with_context(identity, slot, |context| {
        Ok(match keys {
            [one] => envelope::seal(one, context, &salt, json.as_bytes(), &nonce),
            several => envelope::seal(&envelope::joint_key(several), context, &salt, json.as_bytes(), &nonce),
        })
    })
}

/// Opens one slot.
///
/// # Errors
/// [`OpenError`], whatever is wrong.
pub fn open(
    identity: &RowIdentity<'_>,
    slot: &RowSlot<'_>,
    keys: &[&Dek],
    bytes: &[u8],
) -> Result<OpenedSlot, OpenError> {
    with_context(identity, slot, |context| super::open(keys, context, bytes))
}

fn with_context<T>(identity: &RowIdentity<'_>, slot: &RowSlot<'_>, run: impl FnOnce(&SlotContext<'_>) -> T) -> T {
    run(&SlotContext {
        store: identity.store,
        event: &EventId(*identity.key),
        // No event type begins so; an envelope of an event never opens as one of a row, nor the reverse.
        event_type: &format!("$row/{}", identity.definition),
        schema_version: 0,
        owners: slot.people,
        purpose: slot.purpose,
        slot: slot.number,
        paths_sha256: envelope::paths_digest(slot.paths),
    })
}
