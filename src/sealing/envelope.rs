//! The sealed envelope, bytes only (`docs/formats.md`, "Envelope").
//!
//! Owns: the layout `OUB1`, its additional data, padding, the joint key, and the sealed column that holds an event's
//! envelopes. Must not know: which fields go into a slot, where keys come from, what an unopenable slot means to a
//! reader. Keeps invariant 10's other half: whatever opens here was sealed for exactly this event, slot, owners, purpose
//! and list of pointers, under the one key its key id commits to.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use hmac::digest::FixedOutput;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::domain;
use crate::event::canonical::push_string;
use crate::event::{EventId, StoreId, SubjectRef};
use crate::keystore::{Dek, Kid};
use crate::secret::Secret32;

const MAGIC: &[u8; 4] = b"OUB1";
/// AES-256-GCM, 96-bit nonce, 128-bit tag, content key by HKDF-Expand-SHA-256.
const SUITE: u8 = 1;
/// The clear text is padded to a bucket. The only flag, and always set.
const BUCKETED: u8 = 1;
const HEADER: usize = 56;
const TAG: usize = 16;
const SALT: usize = 32;
/// Salt and length, before the JSON.
const INNER: usize = SALT + 4;

/// What an envelope is bound to besides its key.
#[derive(Clone, Copy, Debug)]
pub struct SlotContext<'a> {
    /// The store.
    pub store: &'a StoreId,
    /// The event.
    pub event: &'a EventId,
    /// Its type.
    pub event_type: &'a str,
    /// Version of the schema that said what is personal.
    pub schema_version: u32,
    /// Whose data it is: one or several people, ascending.
    pub owners: &'a [SubjectRef],
    /// Why it is processed.
    pub purpose: &'a str,
    /// Number of the slot within the event.
    pub slot: u16,
    /// [`paths_digest`] of the fields inside.
    pub paths_sha256: [u8; 32],
}

/// SHA-256 of the RFC 8785 JSON array of the JSON Pointers of a slot's fields, which must be sorted by their bytes.
pub fn paths_digest<S: AsRef<str>>(sorted_pointers: &[S]) -> [u8; 32] {
    let mut text = String::with_capacity(2 + sorted_pointers.iter().map(|p| p.as_ref().len() + 3).sum::<usize>());
    text.push('[');
    for (at, pointer) in sorted_pointers.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        push_string(&mut text, pointer.as_ref());
    }
    text.push(']');
    Sha256::digest(text).into()
}

/// The key of a slot with several owners: `HKDF-Extract(JOINT_KEY, DEK_1 || … || DEK_n)`, the keys in the order of their
/// owners' `SubjectRef`. Losing any one of them loses the joint key. (With one owner the slot's key is the DEK itself.)
///
/// # Panics
/// When there are fewer than two keys: sealing such a slot would be a format of its own.
pub fn joint_key(deks: &[&Dek]) -> Dek {
    assert!(deks.len() > 1, "a joint key has several owners");
    // Extract is one HMAC over the concatenation, so the keys are fed in place and never assembled.
    let mut mac = hmac(domain::JOINT_KEY);
    for dek in deks {
        mac.update(dek.secret().expose());
    }
    Dek::from_secret(finish(mac))
}

/// Seals the canonical JSON of one slot. The salt and the nonce must be fresh random bytes.
///
/// # Panics
/// When the JSON does not fit a `u32` length, which the body limit excludes.
pub fn seal(key: &Dek, ctx: &SlotContext<'_>, salt: &[u8; 32], json: &[u8], nonce: &[u8; 12]) -> Vec<u8> {
    let mut out = Vec::new();
    seal_into(&mut out, key, ctx, salt, json, nonce);
    out
}

/// Length of the envelope that [`seal`] makes of so many bytes of JSON.
pub fn sealed_len(json_len: usize) -> usize {
    HEADER + bucket(INNER + json_len) + TAG
}

fn seal_into(out: &mut Vec<u8>, key: &Dek, ctx: &SlotContext<'_>, salt: &[u8; 32], json: &[u8], nonce: &[u8; 12]) {
    let padded = bucket(INNER + json.len());
    let ct_len = u32::try_from(padded).expect("a slot is bounded by the body limit");
    // All room is reserved before clear text is written, so that growing never leaves a copy of it behind.
    out.reserve_exact(HEADER + padded + TAG);
    let start = out.len();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[SUITE, BUCKETED, 0, 0]);
    out.extend_from_slice(&key.kid().0);
    out.extend_from_slice(nonce);
    out.extend_from_slice(&ct_len.to_be_bytes());
    let aad = aad(&out[start..], ctx);
    out.extend_from_slice(salt);
    out.extend_from_slice(&(json.len() as u32).to_be_bytes());
    out.extend_from_slice(json);
    out.resize(start + HEADER + padded, 0);
    let clear = InOutBuf::from(&mut out[start + HEADER..]);
    let tag = cipher(key, ctx)
        .encrypt_inout_detached(nonce.into(), &aad, clear)
        .expect("a slot and its additional data are far below the limits of GCM");
    out.extend_from_slice(&tag);
}

/// The clear text of a slot, zeroised when dropped.
pub struct Opened {
    plain: Zeroizing<Vec<u8>>,
    json_len: usize,
}

impl Opened {
    /// Salt of the slot's commitment.
    pub fn salt(&self) -> &[u8; 32] {
        self.plain.first_chunk().expect("a clear text begins with its salt")
    }

    /// Canonical JSON: an object from JSON Pointer to value.
    pub fn json(&self) -> &[u8] {
        &self.plain[INNER..INNER + self.json_len]
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[opened slot]")
    }
}

/// The envelope does not open. Deliberately says no more: a wrong key, a wrong context, a flipped bit, bad padding and a
/// wrong length are one answer. It never means that a key was destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the envelope does not open")]
pub struct OpenError;

/// Opens an envelope that must be exactly these bytes, sealed under this key for this context.
///
/// # Errors
/// [`OpenError`], whatever is wrong.
pub fn open(key: &Dek, ctx: &SlotContext<'_>, envelope: &[u8]) -> Result<Opened, OpenError> {
    if envelope_len(envelope) != Some(envelope.len()) {
        return Err(OpenError);
    }
    let (header, sealed) = envelope.split_at(HEADER);
    if !bool::from(header[8..40].ct_eq(&key.kid().0)) {
        return Err(OpenError);
    }
    let (ciphertext, tag) = sealed.split_at(sealed.len() - TAG);
    let nonce = header[40..52].try_into().map_err(|_| OpenError)?;
    let tag = tag.try_into().map_err(|_| OpenError)?;
    let mut plain = Zeroizing::new(vec![0; ciphertext.len()]);
    let buffer = InOutBuf::new(ciphertext, &mut plain).map_err(|_| OpenError)?;
    cipher(key, ctx).decrypt_inout_detached(nonce, &aad(header, ctx), buffer, tag).map_err(|_| OpenError)?;
    let json_len = json_len(&plain).ok_or(OpenError)?;
    Ok(Opened { plain, json_len })
}

/// Total length of the envelope at the start of `bytes`, when its header is valid and all of it is there.
pub fn envelope_len(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER>()?;
    let fixed = header[..4] == *MAGIC && header[4..8] == [SUITE, BUCKETED, 0, 0];
    let ct_len = u32::from_be_bytes([header[52], header[53], header[54], header[55]]) as usize;
    let total = ct_len.checked_add(HEADER + TAG)?;
    (fixed && ct_len > 0 && bucket(ct_len) == ct_len && total <= bytes.len()).then_some(total)
}

/// The key id in an envelope's header.
pub fn kid_of(envelope: &[u8]) -> Option<Kid> {
    envelope_len(envelope)?;
    envelope[8..40].try_into().ok().map(Kid)
}

/// The sealed column of an event: its envelopes in slot order, each after its length as big-endian `u32`. A length of
/// zero stands for a slot whose ciphertext was removed by a deep erase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealedBlob(Vec<u8>);

impl SealedBlob {
    /// Room for slots with these lengths of JSON.
    pub fn for_slots(json_lens: impl IntoIterator<Item = usize>) -> Self {
        Self(Vec::with_capacity(json_lens.into_iter().map(|len| 4 + sealed_len(len)).sum()))
    }

    /// Seals the next slot straight into the column; see [`seal`].
    pub fn seal(&mut self, key: &Dek, ctx: &SlotContext<'_>, salt: &[u8; 32], json: &[u8], nonce: &[u8; 12]) {
        let len = sealed_len(json.len());
        self.0.reserve_exact(4 + len);
        self.put_len(len);
        seal_into(&mut self.0, key, ctx, salt, json, nonce);
    }

    /// Appends the envelope of the next slot.
    pub fn push(&mut self, envelope: &[u8]) {
        self.put_len(envelope.len());
        self.0.extend_from_slice(envelope);
    }

    /// Appends the mark of a slot whose ciphertext was removed.
    pub fn push_removed(&mut self) {
        self.put_len(0);
    }

    /// The bytes of the column.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn put_len(&mut self, len: usize) {
        let len = u32::try_from(len).expect("an envelope is bounded by the body limit");
        self.0.extend_from_slice(&len.to_be_bytes());
    }
}

/// The sealed column is not well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sealed column is not a list of envelopes")]
pub struct BlobError;

/// The slots of a sealed column in order: an envelope, or `None` where it was removed. Ends after the first error.
pub fn slots(blob: &[u8]) -> Slots<'_> {
    Slots { rest: blob }
}

/// Iterator of [`slots`].
#[derive(Clone, Debug)]
pub struct Slots<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Slots<'a> {
    type Item = Result<Option<&'a [u8]>, BlobError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        let Some((len, rest)) = rest.split_first_chunk::<4>() else { return Some(Err(BlobError)) };
        let Some((envelope, rest)) = rest.split_at_checked(u32::from_be_bytes(*len) as usize) else {
            return Some(Err(BlobError));
        };
        if !envelope.is_empty() && envelope_len(envelope) != Some(envelope.len()) {
            return Some(Err(BlobError));
        }
        self.rest = rest;
        Some(Ok((!envelope.is_empty()).then_some(envelope)))
    }
}

/// The column without the ciphertext of these slots, each of which keeps its place, so that the others keep their numbers;
/// `None` when no ciphertext is left. What is not there, or not any more, changes nothing.
///
/// # Errors
/// [`BlobError`] when the column is not well formed: then nobody knows what stands where.
pub fn without(blob: &[u8], removed: &[u16]) -> Result<Option<Vec<u8>>, BlobError> {
    let mut column = SealedBlob(Vec::with_capacity(blob.len()));
    let mut left = false;
    for (number, slot) in slots(blob).enumerate() {
        match slot?.filter(|_| !removed.iter().any(|one| usize::from(*one) == number)) {
            Some(envelope) => {
                column.push(envelope);
                left = true;
            }
            None => column.push_removed(),
        }
    }
    Ok(left.then(|| column.into_bytes()))
}

/// Length to which a clear text is padded.
fn bucket(len: usize) -> usize {
    match len {
        0..=128 => 128,
        129..=256 => 256,
        257..=512 => 512,
        _ => len.next_multiple_of(1024),
    }
}

/// Length of the JSON in a clear text, when the padding is zeros to exactly the right bucket.
fn json_len(plain: &[u8]) -> Option<usize> {
    let (inner, rest) = plain.split_first_chunk::<INNER>()?;
    let len = u32::from_be_bytes([inner[32], inner[33], inner[34], inner[35]]) as usize;
    let padding = rest.get(len..)?;
    (bucket(INNER + len) == plain.len() && padding.iter().all(|&byte| byte == 0)).then_some(len)
}

/// The cipher under the slot's content key: `HKDF-Expand(key, LP(CONTENT_KEY, store, event, slot))`, whose 32 bytes are
/// the first and only block of the expansion.
fn cipher(key: &Dek, ctx: &SlotContext<'_>) -> Aes256Gcm {
    let mut mac = hmac(key.secret().expose());
    for item in [domain::CONTENT_KEY, &ctx.store.0, &ctx.event.0, &ctx.slot.to_be_bytes()] {
        mac.update(&(item.len() as u32).to_be_bytes());
        mac.update(item);
    }
    mac.update(&[1]);
    Aes256Gcm::new(finish(mac).expose().into())
}

fn aad(header: &[u8], ctx: &SlotContext<'_>) -> Vec<u8> {
    domain::lp(&[
        domain::AAD,
        header,
        &ctx.store.0,
        &ctx.event.0,
        ctx.event_type.as_bytes(),
        &ctx.schema_version.to_be_bytes(),
        &owners(ctx.owners),
        ctx.purpose.as_bytes(),
        &ctx.slot.to_be_bytes(),
        &ctx.paths_sha256,
    ])
}

/// The owners' pseudonyms one after another; nearly always one, which needs no allocation.
fn owners(owners: &[SubjectRef]) -> std::borrow::Cow<'_, [u8]> {
    match owners {
        [one] => one.0.as_slice().into(),
        several => several.iter().flat_map(|owner| owner.0).collect::<Vec<u8>>().into(),
    }
}

fn hmac(key: &[u8]) -> Hmac<Sha256> {
    <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// Ends an HMAC straight into boxed, zeroised storage.
fn finish(mac: Hmac<Sha256>) -> Secret32 {
    let filled = Secret32::init_with(|bytes| {
        mac.finalize_into(bytes.into());
        Ok::<_, std::convert::Infallible>(())
    });
    filled.unwrap_or_else(|never| match never {})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> (StoreId, EventId, [SubjectRef; 2]) {
        (StoreId([1; 16]), EventId([2; 16]), [SubjectRef([3; 16]), SubjectRef([4; 16])])
    }

    fn dek(byte: u8) -> Dek {
        let fill = |bytes: &mut [u8; 32]| {
            bytes.fill(byte);
            Ok::<_, ()>(())
        };
        Dek::from_secret(Secret32::init_with(fill).unwrap())
    }

    fn slot<'a>(store: &'a StoreId, event: &'a EventId, owners: &'a [SubjectRef]) -> SlotContext<'a> {
        let paths_sha256 = paths_digest(&["/name"]);
        SlotContext {
            store,
            event,
            event_type: "t",
            schema_version: 1,
            owners,
            purpose: "general",
            slot: 0,
            paths_sha256,
        }
    }

    #[test]
    fn buckets_grow_as_the_format_says() {
        for (len, expected) in [(36, 128), (128, 128), (129, 256), (512, 512), (513, 1024), (1025, 2048), (2048, 2048)]
        {
            assert_eq!(bucket(len), expected);
        }
    }

    #[test]
    fn every_length_round_trips_in_one_allocation() {
        let (store, event, owners) = context();
        let ctx = slot(&store, &event, &owners[..1]);
        for len in (0..1200).step_by(7).chain([92, 93, 220, 476, 988, 989]) {
            let json = vec![b'x'; len];
            let sealed = seal(&dek(9), &ctx, &[7; 32], &json, &[5; 12]);
            assert_eq!((sealed.len(), sealed.capacity()), (sealed_len(len), sealed_len(len)));
            let opened = open(&dek(9), &ctx, &sealed).unwrap();
            assert_eq!((opened.salt(), opened.json()), (&[7; 32], json.as_slice()));
            assert_eq!(kid_of(&sealed), Some(dek(9).kid()));
        }
    }

    #[test]
    fn a_joint_key_needs_every_key_in_order() {
        let (one, two) = (dek(1), dek(2));
        let joint = joint_key(&[&one, &two]);
        assert_ne!(joint.kid(), joint_key(&[&two, &one]).kid());
        assert_ne!(joint.kid(), joint_key(&[&one, &dek(3)]).kid());
        let (store, event, owners) = context();
        let ctx = slot(&store, &event, &owners);
        let sealed = seal(&joint, &ctx, &[0; 32], b"{}", &[0; 12]);
        assert!(open(&joint, &ctx, &sealed).is_ok());
        assert_eq!(open(&one, &ctx, &sealed).unwrap_err(), OpenError);
    }

    #[test]
    fn the_column_lists_envelopes_and_removals() {
        let (store, event, owners) = context();
        let ctx = slot(&store, &event, &owners[..1]);
        let envelope = seal(&dek(1), &ctx, &[0; 32], b"{}", &[0; 12]);
        let mut blob = SealedBlob::for_slots([2, 2]);
        blob.push(&envelope);
        blob.push_removed();
        blob.seal(&dek(1), &ctx, &[0; 32], b"{}", &[0; 12]);
        let bytes = blob.into_bytes();
        let read: Vec<_> = slots(&bytes).collect::<Result<_, _>>().unwrap();
        assert_eq!(read, [Some(envelope.as_slice()), None, Some(envelope.as_slice())]);
        for cut in 1..bytes.len() {
            let whole = cut == envelope.len() + 4 || cut == envelope.len() + 8;
            assert_eq!(slots(&bytes[..cut]).all(|slot| slot.is_ok()), whole, "cut at {cut}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(slots(&longer).last(), Some(Err(BlobError)));
    }

    #[test]
    fn removed_slots_leave_their_place_and_nothing_else() {
        let (store, event, owners) = context();
        let ctx = slot(&store, &event, &owners[..1]);
        let envelopes: Vec<Vec<u8>> = (0..3).map(|nonce| seal(&dek(1), &ctx, &[0; 32], b"{}", &[nonce; 12])).collect();
        let mut whole = SealedBlob::default();
        for envelope in &envelopes {
            whole.push(envelope);
        }
        let whole = whole.into_bytes();
        let left = |column: &Option<Vec<u8>>| {
            let blob = column.as_deref().unwrap_or_default();
            let found: Result<Vec<_>, _> = slots(blob).map(|slot| slot.map(|s| s.map(<[u8]>::to_vec))).collect();
            found.unwrap()
        };
        for chosen in 0..8_u16 {
            let removed: Vec<u16> = (0..3).filter(|number| chosen & (1 << number) != 0).collect();
            let column = without(&whole, &removed).unwrap();
            if removed.len() == 3 {
                assert_eq!(column, None, "nothing is left");
                continue;
            }
            let kept = |number: u16| (!removed.contains(&number)).then(|| envelopes[usize::from(number)].clone());
            assert_eq!(left(&column), [kept(0), kept(1), kept(2)]);
            let column = column.unwrap();
            assert_eq!(without(&column, &removed), Ok(Some(column.clone())), "twice is once");
            assert_eq!(without(&column, &[3, u16::MAX]), Ok(Some(column)), "there are no such slots");
        }
        assert_eq!(without(&[], &[0]), Ok(None));
        assert_eq!(without(&whole[..whole.len() - 1], &[0]), Err(BlobError), "nothing is guessed");
    }
}
