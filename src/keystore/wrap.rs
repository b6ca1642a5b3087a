//! Wrapped keys: the 88-byte record in which a key leaves memory.
//!
//! Owns: the record's bytes (`docs/formats.md`): `"OUK1" ‖ suite ‖ 00 00 00 ‖ kek_id[16] ‖ epoch u32 ‖ nonce[12] ‖
//! ciphertext[32] ‖ tag[16]`, AES-256-GCM. Must not know: where records are stored. The additional data binds the
//! record to its store, data subject, purpose, generation and key id, so that a row moved to another place does not
//! open there. Clear key bytes exist only inside [`Secret32`]: the cipher reads from one allocation and writes to the
//! other, without a buffer between them.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, Nonce, Tag};
use aes_gcm::{Aes256Gcm, KeyInit};
use subtle::ConstantTimeEq;

use crate::domain;
use crate::event::{StoreId, SubjectRef};
use crate::keystore::{Dek, Kid};
use crate::secret::Secret32;

/// Length of a wrapped key in bytes.
pub const WRAPPED_LEN: usize = 88;

/// Magic, suite 1 (AES-256-GCM) and three reserved zero bytes.
const PREFIX: &[u8; 8] = b"OUK1\x01\0\0\0";
const HEADER_LEN: usize = 40;
const NONCE_AT: usize = 28;
const TAG_AT: usize = 72;

/// Where a wrapped key belongs. A record opens in exactly the context it was made for.
#[derive(Clone, Copy, Debug)]
pub struct WrapContext<'a> {
    /// Identity of the key that wraps.
    pub kek_id: &'a [u8; 16],
    /// Epoch of the root under which `kek_id` stands.
    pub epoch: u32,
    /// The store.
    pub store: &'a StoreId,
    /// Whose key is wrapped; zeros for keys that belong to nobody.
    pub subject: &'a SubjectRef,
    /// Its purpose, or the system's own name for it.
    pub purpose: &'a str,
    /// Its generation.
    pub generation: u32,
}

/// A record did not open. One answer for every cause: form, context, tag and commitment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a wrapped key does not open")]
pub struct WrapError;

/// Wraps `dek` under `kek`. The nonce must be fresh and random.
///
/// # Panics
/// Never: AES-GCM accepts any 32 bytes.
pub fn wrap(kek: &Secret32, context: &WrapContext<'_>, dek: &Dek, nonce: [u8; 12]) -> [u8; WRAPPED_LEN] {
    let mut record = [0; WRAPPED_LEN];
    record[..8].copy_from_slice(PREFIX);
    record[8..24].copy_from_slice(context.kek_id);
    record[24..NONCE_AT].copy_from_slice(&context.epoch.to_be_bytes());
    record[NONCE_AT..HEADER_LEN].copy_from_slice(&nonce);
    let aad = additional_data(&record[..HEADER_LEN], context, &dek.kid());
    let (body, tag_at) = record[HEADER_LEN..].split_at_mut(TAG_AT - HEADER_LEN);
    let buffer = InOutBuf::new(dek.secret().expose(), body).expect("both sides have 32 bytes");
    let tag = Aes256Gcm::new(kek.expose().into())
        .encrypt_inout_detached(&Nonce::<Aes256Gcm>::from(nonce), &aad, buffer)
        .expect("32 bytes are below the limit of AES-GCM");
    tag_at.copy_from_slice(&tag);
    record
}

/// Opens `record`, which must hold the key named `want`.
///
/// # Errors
/// [`WrapError`], whatever is wrong.
pub fn unwrap(kek: &Secret32, context: &WrapContext<'_>, record: &[u8], want: &Kid) -> Result<Dek, WrapError> {
    let record: &[u8; WRAPPED_LEN] = record.try_into().map_err(|_| WrapError)?;
    if record[..8] != *PREFIX || record[8..24] != *context.kek_id || record[24..NONCE_AT] != context.epoch.to_be_bytes()
    {
        return Err(WrapError);
    }
    let aad = additional_data(&record[..HEADER_LEN], context, want);
    let nonce = Nonce::<Aes256Gcm>::try_from(&record[NONCE_AT..HEADER_LEN]).map_err(|_| WrapError)?;
    let tag = Tag::<Aes256Gcm>::try_from(&record[TAG_AT..]).map_err(|_| WrapError)?;
    let key = Secret32::init_with(|clear| {
        let buffer = InOutBuf::new(&record[HEADER_LEN..TAG_AT], clear).map_err(|_| WrapError)?;
        Aes256Gcm::new(kek.expose().into()).decrypt_inout_detached(&nonce, &aad, buffer, &tag).map_err(|_| WrapError)
    })?;
    let dek = Dek::from_secret(key);
    // AES-GCM does not commit to its key; the key id does.
    if bool::from(dek.kid().0.ct_eq(&want.0)) { Ok(dek) } else { Err(WrapError) }
}

/// Identity of the key that wrapped `record` and its epoch, before anything is opened. `None` when it is no record.
pub fn wrapped_by(record: &[u8]) -> Option<([u8; 16], u32)> {
    let record: &[u8; WRAPPED_LEN] = record.try_into().ok()?;
    if record[..8] != *PREFIX {
        return None;
    }
    let kek_id = record[8..24].try_into().ok()?;
    let epoch = record[24..NONCE_AT].try_into().ok()?;
    Some((kek_id, u32::from_be_bytes(epoch)))
}

fn additional_data(header: &[u8], context: &WrapContext<'_>, kid: &Kid) -> Vec<u8> {
    domain::lp(&[
        domain::WRAP,
        header,
        &context.store.0,
        &context.subject.0,
        context.purpose.as_bytes(),
        &context.generation.to_be_bytes(),
        &kid.0,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    const KID: &str = "0b924bfa7950ed9d3bf72fee85eae2d9ccbd5f2c9c8e100a69b3675c5345f7c1";
    const WRAPPED: &str = "4f554b31010000004b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b000000074d4d4d4d4d4d4d4d4d4d4d4de8db64af6b687058f9c5\
                           e68189475ccfe02aade4fb9205f7012e50c20116d2967c58e6d104b930c0d0c89d82e60ccc6c";
    const STORE: StoreId = StoreId([b'S'; 16]);
    const SUBJECT: SubjectRef = SubjectRef([b'U'; 16]);

    fn counting(from: u8) -> Secret32 {
        Secret32::init_with::<()>(|bytes| {
            bytes.iter_mut().zip(from..).for_each(|(byte, value)| *byte = value);
            Ok(())
        })
        .unwrap()
    }

    fn context() -> WrapContext<'static> {
        WrapContext {
            kek_id: &[b'K'; 16],
            epoch: 7,
            store: &STORE,
            subject: &SUBJECT,
            purpose: "marketing",
            generation: 0,
        }
    }

    fn vector() -> (Secret32, Dek, [u8; WRAPPED_LEN]) {
        (counting(32), Dek::from_secret(counting(0)), hex::decode(WRAPPED).unwrap().try_into().unwrap())
    }

    #[test]
    fn the_published_vector() {
        let (kek, dek, record) = vector();
        assert_eq!(hex::encode(dek.kid().0), KID);
        assert_eq!(wrap(&kek, &context(), &dek, [b'M'; 12]), record);
        let opened = unwrap(&kek, &context(), &record, &dek.kid()).unwrap();
        assert_eq!(opened.secret().expose(), dek.secret().expose());
        assert_eq!(wrapped_by(&record), Some(([b'K'; 16], 7)));
    }

    #[test]
    fn every_bit_flip_is_refused() {
        let (kek, dek, record) = vector();
        let mut refused = 0;
        for bit in 0..WRAPPED_LEN * 8 {
            let mut flipped = record;
            flipped[bit / 8] ^= 1 << (bit % 8);
            refused += u32::from(unwrap(&kek, &context(), &flipped, &dek.kid()).is_err());
        }
        assert_eq!(refused, 704);
    }

    #[test]
    fn every_other_context_and_length_is_refused() {
        let (kek, dek, record) = vector();
        let right = context();
        let (store, subject) = (StoreId([b's'; 16]), SubjectRef([b'u'; 16]));
        for wrong in [
            WrapContext { kek_id: &[b'k'; 16], ..right },
            WrapContext { epoch: 8, ..right },
            WrapContext { store: &store, ..right },
            WrapContext { subject: &subject, ..right },
            WrapContext { purpose: "payments", ..right },
            WrapContext { generation: 1, ..right },
        ] {
            assert!(unwrap(&kek, &wrong, &record, &dek.kid()).is_err());
        }
        assert!(unwrap(&kek, &right, &record, &Kid([0; 32])).is_err());
        assert!(unwrap(&counting(33), &right, &record, &dek.kid()).is_err());
        for length in 0..WRAPPED_LEN {
            assert!(unwrap(&kek, &right, &record[..length], &dek.kid()).is_err());
        }
        assert!(unwrap(&kek, &right, &[&record[..], &[0]].concat(), &dek.kid()).is_err());
    }
}
