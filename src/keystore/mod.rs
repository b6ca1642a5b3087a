//! The keystore: where the keys of data subjects live, and die.
//!
//! Owns: DEKs, their tombstones, the external-id map, the index of natural keys, and the contract every engine keeps. Must not know: events,
//! schemas, HTTP. Keeps invariants 4 (a key is durable before it is handed out), 5 (a destroyed key is in no file),
//! 6 (destroyed, unknown and unavailable are three answers) and 7 (nothing re-keys the forgotten).

pub mod wrap;
pub mod keyring;
pub mod epoch;
mod opening;
mod records;
mod rewrap;
pub mod postgres;
pub mod sqlite;
pub mod cache;
pub mod lease;
pub mod member;
pub mod nodes;

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hkdf::Hkdf;
use sha2::Sha256;

pub use cache::{CachedKeystore, KeyCache};
pub use epoch::{Epoch, EpochStatus, EpochStep};
pub use lease::{Lease, LeaseLost, Leases};
pub use nodes::{Horizon, Nodes};
pub use opening::{KeystoreOpenError, ServiceKeys};

use crate::clock::Millis;
use crate::domain;
use crate::event::{ExternalId, NaturalKey, Purpose, SubjectKey, SubjectRef};
use crate::secret::{EntropyError, Secret32};

/// A key's public name, which is also a commitment to the key: `HKDF-Expand(key, "oubliette/v1/key-commitment")`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kid(pub [u8; 32]);

/// The data encryption key of one data subject, purpose and generation. Random, never derived.
#[derive(Debug)]
pub struct Dek {
    key: Secret32,
    kid: Kid,
}

impl Dek {
    /// A fresh key from the operating system.
    ///
    /// # Errors
    /// [`EntropyError`] when the system gives no random bytes.
    pub fn generate() -> Result<Self, EntropyError> {
        Secret32::generate().map(Self::from_secret)
    }

    /// A key from bytes that were unwrapped or are test vectors.
    pub fn from_secret(key: Secret32) -> Self {
        let kid = commitment(&key);
        Self { key, kid }
    }

    /// The key's public name.
    pub fn kid(&self) -> Kid {
        self.kid
    }

    /// The key alone, without a copy.
    pub fn into_secret(self) -> Secret32 {
        self.key
    }

    /// The key bytes, for the length of one computation.
    pub fn secret(&self) -> &Secret32 {
        &self.key
    }
}

/// The key id of any 32-byte key: an expansion, so it says nothing about the key.
pub fn commitment(key: &Secret32) -> Kid {
    let mut kid = [0; 32];
    Hkdf::<Sha256>::from_prk(key.expose())
        .and_then(|hk| hk.expand(domain::KEY_COMMITMENT, &mut kid).map_err(|_| hkdf::InvalidPrkLength))
        .expect("a 32-byte key and output fit HKDF-SHA-256");
    Kid(kid)
}

/// Which key: one data subject, purpose and generation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DekId {
    /// Whose data the key seals.
    pub subject: SubjectRef,
    /// Why the data is processed.
    pub purpose: Purpose,
    /// Counts re-authorisations of the purpose, from 0.
    pub generation: u32,
}

/// What the external-id map says of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Known under this pseudonym.
    Known(SubjectRef),
    /// Forgotten: only a keyed tag is left, without a link to the old pseudonym.
    Erased,
    /// Never seen.
    Unknown,
}

/// What an append needs for one person: the pseudonym, and a key for each purpose.
#[derive(Clone, Debug)]
pub struct Want {
    /// The person, made known if new. (A `Ref` that was never issued is [`Granted::Unknown`].)
    pub subject: SubjectKey,
    /// For a person given by natural key: a further one by which the same person is found from now on.
    pub also: Option<NaturalKey>,
    /// The purposes that need a key; empty when the event only names the person.
    pub purposes: Vec<Purpose>,
}

impl Want {
    /// The further natural key, which only a person given by natural key can have.
    pub fn further_key(&self) -> Option<&NaturalKey> {
        self.also.as_ref().filter(|_| matches!(self.subject, SubjectKey::Natural(_)))
    }
}

/// The answer to a [`Want`].
#[derive(Clone, Debug)]
pub enum Granted {
    /// Durable before this value exists: the pseudonym and one key per wanted purpose, in the order wanted.
    Keys {
        /// The pseudonym.
        subject: SubjectRef,
        /// Generation and key per purpose.
        keys: Vec<(DekId, Arc<Dek>)>,
    },
    /// The person was forgotten, wholly or for these purposes; nothing was made.
    Erased {
        /// The pseudonym, when the person is still known for other purposes.
        subject: Option<SubjectRef>,
        /// The forgotten purposes among those wanted; empty when the whole person is.
        purposes: Vec<Purpose>,
    },
    /// The further natural key leads to another person already; nothing was made. People are never merged.
    Taken,
    /// A pseudonym that was never issued here.
    Unknown,
}

/// The answer to a fetch of one key.
#[derive(Clone, Debug)]
pub enum Fetched {
    /// The key.
    Key(Arc<Dek>),
    /// Destroyed, with a tombstone that says so.
    Destroyed {
        /// When.
        at: Millis,
    },
    /// Neither a key nor a tombstone: reported as `unavailable`, never as erased.
    Unknown,
}

/// How much of a person is to be destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every purpose, present and future, the external id and the natural keys.
    Person,
    /// These purposes only.
    Purposes(Vec<Purpose>),
}

/// An order to destroy keys. Only the erasure worker makes one, after the fence is durable.
#[derive(Clone, Debug)]
pub struct DestroyOrder {
    /// Whose keys.
    pub subject: SubjectRef,
    /// Which of them.
    pub scope: Scope,
    /// How far the fence of each purpose reaches: later generations are not this order's to destroy, and none up to here
    /// is ever made again. A purpose that is not named is destroyed whole.
    pub fenced: Vec<(Purpose, u32)>,
    /// Dense number of the erasure in the erasure record, from 1.
    pub erasure: u64,
    /// Time for the tombstones.
    pub at: Millis,
}

impl DestroyOrder {
    /// The last generation of a purpose that the order covers.
    pub fn reaches(&self, purpose: &Purpose) -> u32 {
        self.fenced.iter().find(|(fenced, _)| fenced == purpose).map_or(u32::MAX, |(_, generation)| *generation)
    }
}

/// What one destruction did. Repeating an order gives the same answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destruction {
    /// The destroyed keys, by purpose then generation.
    pub keys: Vec<DestroyedKey>,
    /// Whether an external id was removed from the map.
    pub external_id_removed: bool,
    /// Number of the revocation that tells other processes; 0 where there are none. Another one when an order is repeated.
    pub revocation: u64,
}

/// One destroyed key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestroyedKey {
    /// Purpose.
    pub purpose: Purpose,
    /// Generation.
    pub generation: u32,
    /// Key id.
    pub kid: Kid,
    /// When it was destroyed.
    pub at: Millis,
}

/// What a wash did: engines keep deleted bytes until they are overwritten or rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WashReport {
    /// Bytes of files that were overwritten or rewritten.
    pub bytes: u64,
    /// Whether the database refused a step, which the log says in words: then deleted bytes may stand in its files until
    /// the keys' epoch ends.
    pub incomplete: bool,
}

/// Counts for `/metrics`, `oubliette keys` and readiness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeystoreStats {
    /// Keys that can be used.
    pub active: u64,
    /// Tombstones of single keys.
    pub destroyed: u64,
    /// People who are known, by external id or natural key.
    pub subjects: u64,
    /// Epoch of the root key in use.
    pub epoch: u32,
    /// Number of the last erasure applied here.
    pub applied_erasure: u64,
}

/// A keystore could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KeystoreError {
    /// Not reachable, locked, out of space or shut down. Nothing is known to have changed.
    #[error("the keystore is unavailable: {reason}")]
    Unavailable {
        /// A fact about the failure, without names or values.
        reason: &'static str,
    },
    /// The bytes contradict the format: told apart from every other answer and never rendered as erased.
    #[error("the keystore is corrupt in table {table}, column {column}")]
    Corrupt {
        /// Table.
        table: &'static str,
        /// Column.
        column: &'static str,
    },
}

/// The contract of a keystore engine. Every method is atomic and, where it changes anything, durable when it returns.
/// Implementations batch concurrent calls into one transaction.
pub trait Keystore: Send + Sync {
    /// Looks people up without making anything. One answer per id, in order.
    fn resolve(&self, ids: Vec<ExternalId>) -> BoxFuture<'_, Result<Vec<Resolved>, KeystoreError>>;

    /// Looks people up by natural key without making anything; [`Resolved::Erased`] never comes, for natural keys of the
    /// forgotten leave no trace. One answer per key, in order.
    fn resolve_natural(&self, keys: Vec<NaturalKey>) -> BoxFuture<'_, Result<Vec<Resolved>, KeystoreError>>;

    /// Makes people and keys known as wanted, one after the other: find, or create and commit durably. Never revives the forgotten: a want
    /// that touches a tombstone is answered [`Granted::Erased`] and changes nothing. Two concurrent wants for the same
    /// key get the same key.
    fn ensure(&self, wants: Vec<Want>) -> BoxFuture<'_, Result<Vec<Granted>, KeystoreError>>;

    /// Fetches keys, one answer per id, in order.
    fn fetch(&self, ids: Vec<DekId>) -> BoxFuture<'_, Result<Vec<Fetched>, KeystoreError>>;

    /// External ids of people still known, for readers who may see them; `None` where there is none.
    fn external_ids(&self, subjects: Vec<SubjectRef>) -> BoxFuture<'_, Result<Vec<Option<ExternalId>>, KeystoreError>>;

    /// Destroys keys: overwrites them with zeros, deletes the rows, leaves tombstones, for a whole person removes the
    /// external id (its keyed tag stays, unlinked, so that the person is never silently re-keyed) and the natural keys
    /// (nothing of them stays: the same values may be somebody else later), and records `order.erasure` as applied. Idempotent: a second call finds the tombstones and reports the same keys.
    fn destroy(&self, order: DestroyOrder) -> BoxFuture<'_, Result<Destruction, KeystoreError>>;

    /// Makes sure that no file of the keystore still holds bytes deleted before the call.
    fn wash(&self) -> BoxFuture<'_, Result<WashReport, KeystoreError>>;

    /// Lets a forgotten person come back. For a whole person (`external` given) a fresh pseudonym replaces the erased
    /// tag: `Ok(Some(new))`. For purposes of a person still known, the next append makes the next generation:
    /// `Ok(Some(same))`. `Ok(None)` when there is nothing erased to re-authorise.
    fn reauthorize(
        &self,
        subject: SubjectKey,
        purposes: Vec<Purpose>,
    ) -> BoxFuture<'_, Result<Option<SubjectRef>, KeystoreError>>;

    /// Other processes over the same keystore; `None` where there can be none.
    fn nodes(&self) -> Option<&dyn Nodes> {
        None
    }

    /// Copies everything into the empty file at `to`, as it is at one moment, while other calls go on. Engines whose
    /// server makes its own backups refuse.
    fn copy(&self, to: PathBuf) -> BoxFuture<'_, Result<(), KeystoreError>> {
        drop(to);
        Box::pin(async { Err(KeystoreError::Unavailable { reason: "this keystore is copied by its own server" }) })
    }

    /// Counts.
    fn stats(&self) -> BoxFuture<'_, Result<KeystoreStats, KeystoreError>>;

    /// Epochs of root keys, and how far the newest one is.
    fn epochs(&self) -> BoxFuture<'_, Result<EpochStatus, KeystoreError>>;

    /// Takes one step of an epoch: one transaction, bounded by one shard, harmless to repeat at any point; other requests go on
    /// between steps. Answers how things stand after it. A step that has nothing to do changes nothing.
    fn advance_epoch(&self, step: EpochStep) -> BoxFuture<'_, Result<EpochStatus, KeystoreError>>;

    /// Washes and closes; later calls answer [`KeystoreError::Unavailable`].
    fn close(&self) -> BoxFuture<'_, ()>;
}
