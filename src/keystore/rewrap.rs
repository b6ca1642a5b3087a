//! Wrapping anew: what an epoch does to records, on every engine.
//!
//! Owns: the passage of shard keys and secrets from root to root, and of people's keys from shard key to shard key. Must not
//! know: where records are stored. Every record is opened and checked against its key id before it is wrapped again, so that a
//! damaged one is never replaced by something that looks whole.

use crate::event::{StoreId, SubjectRef};
use crate::keystore::keyring::{Keyring, KeyringError, root_id};
use crate::keystore::records::{Kek, NOBODY, kek_context};
use crate::keystore::wrap::{WRAPPED_LEN, WrapContext, unwrap, wrap};
use crate::keystore::{Dek, KeystoreError, Kid};
use crate::secret::{Entropy, Secret32};
use std::sync::Arc;

type Result<T> = std::result::Result<T, KeystoreError>;

/// The system gives no random bytes.
pub const NO_ENTROPY: KeystoreError = KeystoreError::Unavailable { reason: "no random bytes" };
const NO_ROOT: KeystoreError = KeystoreError::Unavailable { reason: "a root key is missing in the keyring" };

/// A shard key as stored.
pub struct StoredKek<'a> {
    /// Its shard.
    pub shard: u8,
    /// Its identity.
    pub id: [u8; 16],
    /// The epoch in which it was made.
    pub epoch: u32,
    /// Its key id.
    pub kid: Kid,
    /// The epoch of the root that wraps it.
    pub root: u32,
    /// The record.
    pub wrapped: &'a [u8],
}

/// What wrapping takes.
pub struct Rewrapper<'a> {
    /// The store.
    pub store: &'a StoreId,
    /// Roots.
    pub keyring: &'a Keyring,
    /// Nonces.
    pub entropy: &'a Entropy,
}

impl Rewrapper<'_> {
    /// The root of an epoch; one that is not in memory may have been made by another node.
    pub fn root(&self, epoch: u32) -> Result<Arc<Secret32>> {
        if let Some(root) = self.keyring.root(epoch) {
            return Ok(root);
        }
        self.keyring.refresh().map_err(|_| KeystoreError::Unavailable { reason: "the keyring cannot be read" })?;
        self.keyring.root(epoch).ok_or(NO_ROOT)
    }

    /// Opens a shard key.
    pub fn open_kek(&self, stored: &StoredKek<'_>) -> Result<Kek> {
        let corrupt = KeystoreError::Corrupt { table: "kek_slots", column: "wrapped" };
        let root = self.root(stored.root)?;
        let name = root_id(&root);
        let context = kek_context(self.store, &name, stored.root, stored.shard);
        let key = unwrap(&root, &context, stored.wrapped, &stored.kid).map_err(|_| corrupt)?;
        Ok(Kek { id: stored.id, epoch: stored.epoch, key })
    }

    /// A new shard key, made and wrapped in the epoch of this number.
    pub fn make_kek(&self, shard: u8, epoch: u32) -> Result<(Kek, [u8; WRAPPED_LEN])> {
        let kek = Kek { id: self.draw()?, epoch, key: Dek::generate().map_err(|_| NO_ENTROPY)? };
        let wrapped = self.wrap_kek(shard, &kek, epoch)?;
        Ok((kek, wrapped))
    }

    /// Wraps a shard key under the root of an epoch.
    pub fn wrap_kek(&self, shard: u8, kek: &Kek, epoch: u32) -> Result<[u8; WRAPPED_LEN]> {
        let root = self.root(epoch)?;
        Ok(wrap(&root, &kek_context(self.store, &root_id(&root), epoch, shard), &kek.key, self.draw()?))
    }

    /// Wraps somebody's key under another shard key. `None` when the record does not open.
    pub fn move_key(
        &self,
        (old, new): (&Kek, &Kek),
        (subject, purpose, generation): (&SubjectRef, &str, u32),
        (kid, wrapped): (&Kid, &[u8]),
    ) -> Result<Option<[u8; WRAPPED_LEN]>> {
        let context = old.context(self.store, subject, purpose, generation);
        let Ok(key) = unwrap(old.key.secret(), &context, wrapped, kid) else { return Ok(None) };
        let context = new.context(self.store, subject, purpose, generation);
        Ok(Some(wrap(new.key.secret(), &context, &key, self.draw()?)))
    }

    /// Wraps a key that belongs to nobody under the root of another epoch.
    pub fn move_secret(
        &self,
        name: &str,
        (old, new): (u32, u32),
        (kid, wrapped): (&Kid, &[u8]),
    ) -> Result<[u8; WRAPPED_LEN]> {
        let purpose = format!("${name}");
        let (from, to) = (self.root(old)?, self.root(new)?);
        let (from_id, to_id) = (root_id(&from), root_id(&to));
        let context = |kek_id, epoch| WrapContext {
            kek_id,
            epoch,
            store: self.store,
            subject: &NOBODY,
            purpose: &purpose,
            generation: 0,
        };
        let key = unwrap(&from, &context(&from_id, old), wrapped, kid)
            .map_err(|_| KeystoreError::Corrupt { table: "secrets", column: "wrapped" })?;
        Ok(wrap(&to, &context(&to_id, new), &key, self.draw()?))
    }

    fn draw<const N: usize>(&self) -> Result<[u8; N]> {
        self.entropy.draw().map_err(|_| NO_ENTROPY)
    }
}

/// The pseudonyms of a shard: the first byte says it.
pub fn shard_range(shard: u8) -> ([u8; 16], [u8; 16]) {
    let (mut first, mut last) = ([0; 16], [0xFF; 16]);
    first[0] = shard;
    last[0] = shard;
    (first, last)
}

/// A keyring that cannot be changed is an outage; the log says why.
pub fn keyring_error(error: &KeyringError) -> KeystoreError {
    tracing::error!(error = %error, "the keyring cannot be changed");
    KeystoreError::Unavailable { reason: "the keyring cannot be changed" }
}
