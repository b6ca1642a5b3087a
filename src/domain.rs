//! Domain separation: every label that enters a hash, a MAC or a key derivation, and the length-prefixed tuple.
//!
//! Owns: labels and `LP`. Must not know: keys. The list is part of the format (`docs/formats.md`); a label is never
//! reused for another meaning.

/// `kid = HKDF-Expand(DEK, KEY_COMMITMENT)`.
pub const KEY_COMMITMENT: &[u8] = b"oubliette/v1/key-commitment";
/// Content key of one slot.
pub const CONTENT_KEY: &[u8] = b"oubliette/v1/content-key";
/// Joint key over the DEKs of several data subjects.
pub const JOINT_KEY: &[u8] = b"oubliette/v1/joint-key";
/// Additional authenticated data of an envelope.
pub const AAD: &[u8] = b"oubliette/v1/aad";
/// Additional authenticated data of a wrapped key.
pub const WRAP: &[u8] = b"oubliette/v1/wrap";
/// Hiding commitment.
pub const COMMIT: &[u8] = b"oubliette/v1/commit";
/// Merkle leaf.
pub const LEAF: &[u8] = b"oubliette/v1/leaf";
/// Tag of an external id in the keystore.
pub const SUBJECT_MAP: &[u8] = b"oubliette/v1/subject-map";
/// Additional authenticated data of a sealed external id.
pub const EXTERNAL_ID: &[u8] = b"oubliette/v1/external-id";
/// Tag of a natural key in the keystore.
pub const NATURAL_KEY: &[u8] = b"oubliette/v1/natural-key";
/// Event id derived from a `CloudEvents` source and id that is not a UUID.
pub const EVENT_ID: &[u8] = b"oubliette/v1/event-id";
/// Authentication of paging cursors.
pub const CURSOR: &[u8] = b"oubliette/v1/cursor";
/// Keyed digest of an idempotency key and of the request it came with.
pub const IDEMPOTENCY: &[u8] = b"oubliette/v1/idempotency";
/// Digest chain of the erasure record.
pub const ERASURE_RECORD: &[u8] = b"oubliette/v1/erasure-record";
/// Signature of the exported erasure record.
pub const ERASURE_EXPORT: &[u8] = b"oubliette/v1/erasure-export";
/// Signature of an erasure certificate.
pub const CERTIFICATE: &[u8] = b"oubliette/v1/certificate";
/// Commitment of an erasure certificate to the person it is about.
pub const CERTIFICATE_SUBJECT: &[u8] = b"oubliette/v1/certificate-subject";
/// Digest of a forget preview.
pub const PREVIEW: &[u8] = b"oubliette/v1/preview";

/// Id of a due event.
pub const DUE_EVENT: &[u8] = b"oubliette/v1/due-event";
/// Key of a projection's row.
pub const ROW_KEY: &[u8] = b"oubliette/v1/row-key";

/// The length-prefixed tuple `LP(a, b, …)`: for each item a big-endian `u32` length and the bytes. Injective.
///
/// # Panics
/// When an item is 4 GiB or longer, which no caller's limits allow.
pub fn lp(items: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.iter().map(|item| item.len() + 4).sum());
    for item in items {
        let len = u32::try_from(item.len()).expect("items are bounded by the body limit");
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(item);
    }
    out
}

/// The next digest of the erasure record: `SHA-256(LP(ERASURE_RECORD, previous, be64(number), subject, scope))`.
/// `scope` is `*` for a whole person, else the purposes joined by spaces.
pub fn erasure_digest(previous: &[u8; 32], number: u64, subject: &[u8; 16], scope: &str) -> [u8; 32] {
    use sha2::Digest;
    let text = lp(&[ERASURE_RECORD, previous, &number.to_be_bytes(), subject, scope.as_bytes()]);
    sha2::Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use super::lp;

    #[test]
    fn lp_is_injective_where_concatenation_is_not() {
        assert_ne!(lp(&[b"ab", b"c"]), lp(&[b"a", b"bc"]));
        assert_eq!(lp(&[b"a", b""]), b"\0\0\0\x01a\0\0\0\0");
    }
}
