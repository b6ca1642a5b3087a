//! What opening a keystore gives, on every engine.
//!
//! Owns: why one does not open, and the keys that belong to nobody. Must not know: engines.

use crate::keystore::keyring::Keyring;
use crate::secret::Secret32;

/// A keystore could not be made or opened. Facts only; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeystoreOpenError {
    /// There is no keystore; it is never made silently.
    #[error("there is no keystore at this path")]
    Missing,
    /// There is one already; it is never replaced.
    #[error("there is a keystore at this path already")]
    Exists,
    /// Another process has it open.
    #[error("another process has the keystore open")]
    Locked,
    /// Not a keystore at all, or one whose creation was interrupted before it held anything.
    #[error("the file is not a keystore")]
    NotAKeystore,
    /// A format this version does not know.
    #[error("the keystore has format {0}, which this version does not know")]
    Format(i64),
    /// The keystore of another store.
    #[error("the keystore belongs to another store")]
    StoreMismatch,
    /// The keyring is not the one this keystore was made with, or lacks its root.
    #[error("the keyring does not open this keystore")]
    KeyringMismatch,
    /// The root of this epoch was destroyed: the keystore is a copy from before, and nobody can open it any more.
    #[error("the keystore is a copy from epoch {0}, whose root key was destroyed: nothing opens it any more")]
    RootDestroyed(u32),
    /// The bytes contradict the format.
    #[error("the keystore is corrupt")]
    Corrupt,
    /// SQLite did not take a setting that durability or erasure rests on.
    #[error("SQLite refused the setting {0}")]
    Setting(&'static str),
    /// The database server or its database.
    #[error("the keystore's database cannot be used: {0}")]
    Database(&'static str),
    /// The operating system refused.
    #[error("the keystore's file cannot be used: {0}")]
    Io(std::io::ErrorKind),
    /// No random bytes for new keys.
    #[error("the operating system's random generator failed")]
    Entropy,
}

impl KeystoreOpenError {
    /// Why the keyring lacks the root of an epoch: destroyed when there is a later one, else it never was here.
    pub(super) fn without_root(keyring: &Keyring, epoch: u32) -> Self {
        if epoch < keyring.epoch() { Self::RootDestroyed(epoch) } else { Self::KeyringMismatch }
    }
}

/// Keys that belong to no data subject, for the layers above.
#[derive(Debug)]
pub struct ServiceKeys {
    /// Authenticates paging cursors.
    pub cursor: Secret32,
    /// Keys the digests of idempotency keys and of the requests they came with.
    pub idempotency: Secret32,
}
