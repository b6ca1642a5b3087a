//! Hiding commitments and the Merkle leaf of an event.
//!
//! Owns: what an event's leaf binds, byte for byte (`docs/formats.md`). Must not know: keys, storage. Keeps invariant 9:
//! a leaf holds commitments, never data or ciphertext, so that ciphertext can be removed or replaced and public data
//! scrubbed without changing the tree. With its salt destroyed a commitment says nothing about what it committed to.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::clock::Millis;
use crate::domain;
use crate::event::{EventId, Position, Revision, StoreId, StreamId};
use crate::merkle::Hash;

/// `HMAC-SHA-256(salt, LP(COMMIT, data))`: binding, and hiding as long as the salt is secret.
pub fn commit(salt: &[u8; 32], data: &[u8]) -> Hash {
    let mut mac = Hmac::<Sha256>::new_from_slice(salt).expect("HMAC takes keys of any length");
    lp_item(|bytes| mac.update(bytes), domain::COMMIT);
    lp_item(|bytes| mac.update(bytes), data);
    mac.finalize().into_bytes().into()
}

/// What the leaf of one event binds.
#[derive(Clone, Copy, Debug)]
pub struct LeafFields<'a> {
    /// The store.
    pub store: &'a StoreId,
    /// Place in the event log, which is the index of the leaf.
    pub position: Position,
    /// The event.
    pub event: &'a EventId,
    /// Random identity of the stream; its name is not bound and may be unlinked.
    pub stream: &'a StreamId,
    /// Place in the stream.
    pub revision: Revision,
    /// Event type.
    pub event_type: &'a str,
    /// When it was recorded, by the log's clock.
    pub recorded: Millis,
    /// Commitment to the metadata.
    pub c_meta: &'a Hash,
    /// Commitment to the public part of the data.
    pub c_public: &'a Hash,
    /// Commitment to the clear text of each slot, in slot order.
    pub c_slots: &'a [Hash],
}

/// What the leaf of an event is the hash of: `LP(LEAF, store, position, event, stream, revision, type, time, C…)`.
pub fn leaf_entry(fields: &LeafFields<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    each_item(fields, |part| out.extend_from_slice(part));
    out
}

/// Leaf hash of an event: `SHA-256(0x00 || LP(LEAF, store, position, event, stream, revision, type, time, C…))`, which
/// is the RFC 6962 leaf hash of that tuple. The time is two's complement, like every `i64` in a tuple.
pub fn leaf(fields: &LeafFields<'_>) -> Hash {
    let mut hash = Sha256::new_with_prefix([0]);
    each_item(fields, |part| Digest::update(&mut hash, part));
    hash.finalize().into()
}

fn each_item(fields: &LeafFields<'_>, mut sink: impl FnMut(&[u8])) {
    let mut item = |bytes: &[u8]| lp_item(&mut sink, bytes);
    item(domain::LEAF);
    item(&fields.store.0);
    item(&fields.position.0.to_be_bytes());
    item(&fields.event.0);
    item(&fields.stream.0);
    item(&fields.revision.0.to_be_bytes());
    item(fields.event_type.as_bytes());
    item(&fields.recorded.0.to_be_bytes());
    item(fields.c_meta);
    item(fields.c_public);
    fields.c_slots.iter().for_each(|commitment| item(commitment));
}

/// One item of a length-prefixed tuple, fed to a hash without assembling the tuple.
fn lp_item(mut sink: impl FnMut(&[u8]), item: &[u8]) {
    let len = u32::try_from(item.len()).expect("items are bounded by the body limit");
    sink(&len.to_be_bytes());
    sink(item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle;

    #[test]
    fn a_leaf_is_the_leaf_hash_of_its_tuple() {
        let (store, event, stream) = (StoreId([1; 16]), EventId([2; 16]), StreamId([3; 16]));
        let (meta, public, slots) = ([4; 32], [5; 32], [[6; 32], [7; 32]]);
        let fields = LeafFields {
            store: &store,
            position: Position(41),
            event: &event,
            stream: &stream,
            revision: Revision(3),
            event_type: "contact-created",
            recorded: Millis(1_700_000_000_000),
            c_meta: &meta,
            c_public: &public,
            c_slots: &slots,
        };
        let tuple = domain::lp(&[
            domain::LEAF,
            &[1; 16],
            &41u64.to_be_bytes(),
            &[2; 16],
            &[3; 16],
            &3u64.to_be_bytes(),
            b"contact-created",
            &1_700_000_000_000u64.to_be_bytes(),
            &meta,
            &public,
            &slots[0],
            &slots[1],
        ]);
        assert_eq!(leaf(&fields), merkle::leaf_hash(&tuple));
        assert_ne!(leaf(&fields), leaf(&LeafFields { position: Position(42), ..fields }));
        assert_ne!(leaf(&fields), leaf(&LeafFields { c_slots: &slots[..1], ..fields }));
    }

    #[test]
    fn commitments_bind_salt_and_data() {
        let one = commit(&[1; 32], b"{}");
        assert_eq!(one, commit(&[1; 32], b"{}"));
        assert_ne!(one, commit(&[2; 32], b"{}"));
        assert_ne!(one, commit(&[1; 32], b"{} "));
    }
}
