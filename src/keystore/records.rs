//! What a keystore's rows mean, on every engine.
//!
//! Owns: tags of ids and natural keys, sealed external ids, and the contexts in which keys are wrapped. Must not know:
//! where rows are stored.

use aes_gcm::aead::{Aead, Nonce, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::domain;
use crate::event::{ExternalId, NaturalKey, StoreId, SubjectRef};
use crate::keystore::Dek;
use crate::keystore::wrap::WrapContext;

/// The keyed digest under which a person is looked up.
pub type Tag = [u8; 32];

/// The subject of keys that belong to nobody.
pub const NOBODY: SubjectRef = SubjectRef([0; 16]);
/// What a slot holds when its pseudonym was forgotten.
pub const ZEROS: [u8; 16] = [0; 16];
/// Kind of tag: the caller's own id.
pub const EXTERNAL: i64 = 0;
/// Sealed external ids are padded to multiples of this, so that their length says little.
const ID_BUCKET: usize = 64;

/// A shard key in memory.
pub struct Kek {
    /// Its identity.
    pub id: [u8; 16],
    /// Epoch of the root that wraps it.
    pub epoch: u32,
    /// The key.
    pub key: Dek,
}

impl Kek {
    /// Where a key of somebody in this shard belongs.
    pub fn context<'a>(
        &'a self,
        store: &'a StoreId,
        subject: &'a SubjectRef,
        purpose: &'a str,
        generation: u32,
    ) -> WrapContext<'a> {
        WrapContext { kek_id: &self.id, epoch: self.epoch, store, subject, purpose, generation }
    }
}

/// Where the key of a shard belongs; `root` is the identity of the root key.
pub fn kek_context<'a>(store: &'a StoreId, root: &'a [u8; 16], epoch: u32, shard: u8) -> WrapContext<'a> {
    let generation = u32::from(shard);
    WrapContext { kek_id: root, epoch, store, subject: &NOBODY, purpose: "$shard", generation }
}

/// Tag of an external id, under the key `subject-map`.
pub fn external_tag(key: &Dek, id: &ExternalId) -> Tag {
    tag(key, &[domain::SUBJECT_MAP, id.expose().as_bytes()])
}

/// Tag of a natural key, under the key `natural-key`.
pub fn natural_tag(key: &Dek, natural: &NaturalKey) -> Tag {
    tag(key, &[domain::NATURAL_KEY, natural.role().as_bytes(), natural.expose().as_bytes()])
}

fn tag(key: &Dek, parts: &[&[u8]]) -> Tag {
    let mut mac =
        <Hmac<Sha256> as KeyInit>::new_from_slice(key.secret().expose()).expect("HMAC takes keys of any length");
    mac.update(&Zeroizing::new(domain::lp(parts)));
    mac.finalize().into_bytes().into()
}

/// The part of a natural key's tag by which its slot is found.
pub fn bucket(tag: &Tag) -> u16 {
    u16::from_be_bytes([tag[0], tag[1]])
}

/// Additional data of a sealed external id.
pub fn id_context(store: &StoreId, subject: SubjectRef) -> Vec<u8> {
    domain::lp(&[domain::EXTERNAL_ID, &store.0, &subject.0])
}

/// `nonce ‖ AES-256-GCM(u16 length ‖ id ‖ zeros to a bucket)`.
pub fn seal_id(key: &Dek, aad: &[u8], id: &ExternalId, nonce: [u8; 12]) -> Vec<u8> {
    let text = id.expose().as_bytes();
    let mut clear = Zeroizing::new(vec![0; (text.len() + 2).next_multiple_of(ID_BUCKET)]);
    let length = u16::try_from(text.len()).expect("external ids have at most 256 bytes");
    clear[..2].copy_from_slice(&length.to_be_bytes());
    clear[2..2 + text.len()].copy_from_slice(text);
    let sealed = Aes256Gcm::new(key.secret().expose().into())
        .encrypt(&Nonce::<Aes256Gcm>::from(nonce), Payload { msg: &clear, aad })
        .expect("an external id is below the limit of AES-GCM");
    [&nonce[..], &sealed].concat()
}

/// The external id again.
pub fn open_id(key: &Dek, aad: &[u8], sealed: &[u8]) -> Option<ExternalId> {
    let (nonce, msg) = sealed.split_first_chunk::<12>()?;
    let clear = Aes256Gcm::new(key.secret().expose().into())
        .decrypt(&Nonce::<Aes256Gcm>::from(*nonce), Payload { msg, aad })
        .map(Zeroizing::new)
        .ok()?;
    let (length, rest) = clear.split_first_chunk::<2>()?;
    let text = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    ExternalId::parse(std::str::from_utf8(text).ok()?).ok()
}
