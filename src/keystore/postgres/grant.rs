//! What wants become, before anything is written.
//!
//! Owns: the making of people and keys, on facts in memory. Pure but for randomness: the engine gathers facts in its
//! transaction, this decides, the engine inserts. Later wants see what earlier ones made. Keeps invariant 7: a tombstone is
//! looked at before anything is made.

use std::sync::Arc;

use super::facts::{Facts, Key, Person, ShardKey, StoredKey};
use crate::event::{ExternalId, Purpose, StoreId, SubjectKey, SubjectRef};
use crate::keystore::keyring::Keyring;
use crate::keystore::nodes::NodeId;
use crate::keystore::records::{Kek, Tag, external_tag, id_context, natural_tag, seal_id};
use crate::keystore::rewrap::{NO_ENTROPY, Rewrapper, StoredKek};
use crate::keystore::wrap::{unwrap, wrap};
use crate::keystore::{Dek, DekId, Granted, KeystoreError, Want};
use crate::secret::Entropy;

type Result<T> = std::result::Result<T, KeystoreError>;

/// What tags and keys are made with.
pub struct Tools {
    pub store: StoreId,
    /// This process, which must be registered to be given keys.
    pub node: NodeId,
    pub keyring: Arc<Keyring>,
    pub entropy: Arc<Entropy>,
    pub subject_map: Dek,
    pub natural_key: Dek,
}

impl Tools {
    /// Tag of an external id.
    pub fn external(&self, id: &ExternalId) -> Tag {
        external_tag(&self.subject_map, id)
    }

    /// Tag of a natural key.
    pub fn natural(&self, key: &crate::event::NaturalKey) -> Tag {
        natural_tag(&self.natural_key, key)
    }

    fn draw<const N: usize>(&self) -> Result<[u8; N]> {
        self.entropy.draw().map_err(|_| NO_ENTROPY)
    }

    /// Opens a shard key.
    pub fn open_kek(&self, shard: u8, key: &ShardKey) -> Result<Arc<Kek>> {
        match key {
            ShardKey::Open(kek) => Ok(Arc::clone(kek)),
            ShardKey::Wrapped(id, epoch, kid, root, wrapped) => {
                let stored = StoredKek { shard, id: *id, epoch: *epoch, kid: *kid, root: *root, wrapped };
                self.rewrapper().open_kek(&stored).map(Arc::new)
            }
        }
    }

    /// What wraps and opens shard keys.
    pub fn rewrapper(&self) -> Rewrapper<'_> {
        Rewrapper { store: &self.store, keyring: &self.keyring, entropy: &self.entropy }
    }

    /// Opens a person's key.
    pub fn open_key(&self, kek: &Kek, id: &DekId, key: &Key) -> Result<Arc<Dek>> {
        match key {
            Key::Open(key) => Ok(Arc::clone(key)),
            Key::Wrapped(kid, wrapped) => {
                let context = kek.context(&self.store, &id.subject, id.purpose.as_str(), id.generation);
                let corrupt = KeystoreError::Corrupt { table: "key_slots", column: "wrapped" };
                unwrap(kek.key.secret(), &context, wrapped, kid).map(Arc::new).map_err(|_| corrupt)
            }
        }
    }
}

/// Rows to be inserted.
#[derive(Default)]
pub struct Made {
    /// Shard keys and their slots.
    pub keks: Vec<(i64, u8, Arc<Kek>, [u8; 88])>,
    /// Keys and their slots.
    pub keys: Vec<(i64, [u8; 88], DekId, Arc<Dek>)>,
    /// Sealed external ids and their slots.
    pub ids: Vec<(i64, Vec<u8>, SubjectRef)>,
    /// New tags and their slots.
    pub tags: Vec<(i64, Tag, SubjectRef)>,
    /// Slots that an erasure left empty, filled again.
    pub relinked: Vec<(i64, SubjectRef)>,
    /// Natural keys and their slots.
    pub natural: Vec<(i64, Tag, SubjectRef)>,
    /// Purposes opened for their next generation.
    pub reauthorized: Vec<(SubjectRef, Purpose)>,
}

impl Made {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.keks.is_empty()
            && self.keys.is_empty()
            && self.ids.is_empty()
            && self.tags.is_empty()
            && self.relinked.is_empty()
            && self.natural.is_empty()
            && self.reauthorized.is_empty()
    }
}

/// Decides wants one after the other.
pub struct Granter<'t> {
    tools: &'t Tools,
    facts: Facts,
    /// What was decided.
    pub made: Made,
}

impl<'t> Granter<'t> {
    /// On these facts.
    pub fn new(tools: &'t Tools, facts: Facts) -> Self {
        Self { tools, facts, made: Made::default() }
    }

    /// Finds, or makes.
    pub fn grant(&mut self, want: &Want) -> Result<Granted> {
        let subject = match self.identify(want)? {
            Ok(subject) => subject,
            Err(refused) => return Ok(refused),
        };
        let mut purposes = Vec::new();
        for purpose in &want.purposes {
            if self.is_forgotten(subject, purpose) && !purposes.contains(purpose) {
                purposes.push(purpose.clone());
            }
        }
        if !purposes.is_empty() {
            return Ok(Granted::Erased { subject: Some(subject), purposes });
        }
        if let Some(also) = want.further_key() {
            self.link_natural(self.tools.natural(also), subject);
        }
        let mut keys = Vec::with_capacity(want.purposes.len());
        for purpose in &want.purposes {
            keys.push(match self.current(subject, purpose)? {
                Some(found) => found,
                None => self.make_key(subject, purpose)?,
            });
        }
        Ok(Granted::Keys { subject, keys })
    }

    /// Lets a forgotten person or purpose come back.
    pub fn reauthorize(&mut self, subject: &SubjectKey, purposes: &[Purpose]) -> Result<Option<SubjectRef>> {
        let subject = match subject {
            SubjectKey::Ref(subject) => *subject,
            SubjectKey::Natural(key) => match self.facts.natural.get(&self.tools.natural(key)) {
                Some(subject) => *subject,
                None => return Ok(None),
            },
            SubjectKey::External(id) => {
                let tag = self.tools.external(id);
                match self.facts.tags.get(&tag) {
                    None => return Ok(None),
                    Some((_, Some(subject))) => *subject,
                    // A new pseudonym, so that nothing links what comes to what was forgotten.
                    Some((_, None)) => return self.make_person(id, tag).map(Some),
                }
            }
        };
        let Some(person) = self.facts.people.get_mut(&subject).filter(|person| person.known && !person.forgotten)
        else {
            return Ok(None);
        };
        let mut opened = false;
        for purpose in purposes {
            for (name, _, reauthorized) in &mut person.tombstones {
                if name == purpose.as_str() && !*reauthorized {
                    *reauthorized = true;
                    opened = true;
                    self.made.reauthorized.push((subject, purpose.clone()));
                }
            }
        }
        Ok(opened.then_some(subject))
    }

    /// The person that is wanted, made if new; or the answer when there can be none.
    fn identify(&mut self, want: &Want) -> Result<std::result::Result<SubjectRef, Granted>> {
        match &want.subject {
            SubjectKey::Ref(subject) => Ok(self.still_known(*subject)),
            SubjectKey::External(id) => {
                let tag = self.tools.external(id);
                Ok(match self.facts.tags.get(&tag) {
                    Some((_, Some(subject))) => Ok(*subject),
                    Some((_, None)) => Err(FORGOTTEN),
                    None => Ok(self.make_person(id, tag)?),
                })
            }
            SubjectKey::Natural(key) => {
                let tag = self.tools.natural(key);
                let known = self.facts.natural.get(&tag).copied();
                if let Some(also) = want.further_key()
                    && let Some(holder) = self.facts.natural.get(&self.tools.natural(also))
                    && known != Some(*holder)
                {
                    return Ok(Err(Granted::Taken));
                }
                if let Some(subject) = known {
                    return Ok(self.still_known(subject));
                }
                let subject = SubjectRef(self.tools.draw()?);
                self.link_natural(tag, subject);
                Ok(Ok(subject))
            }
        }
    }

    fn still_known(&self, subject: SubjectRef) -> std::result::Result<SubjectRef, Granted> {
        match self.facts.people.get(&subject) {
            Some(person) if person.forgotten => Err(FORGOTTEN),
            Some(person) if person.known => Ok(subject),
            _ => Err(Granted::Unknown),
        }
    }

    fn is_forgotten(&self, subject: SubjectRef, purpose: &Purpose) -> bool {
        let tombstones = self.facts.people.get(&subject).into_iter().flat_map(|person| &person.tombstones);
        tombstones.into_iter().any(|(name, _, reauthorized)| name == purpose.as_str() && !reauthorized)
    }

    /// The key in use for a purpose, if any: destruction takes all generations, so at most one is left.
    fn current(&mut self, subject: SubjectRef, purpose: &Purpose) -> Result<Option<(DekId, Arc<Dek>)>> {
        let keys = self.facts.people.get(&subject).into_iter().flat_map(|person| &person.keys);
        let newest = keys.filter(|key| key.purpose == purpose.as_str()).max_by_key(|key| key.generation).cloned();
        let Some(StoredKey { generation, key, .. }) = newest else { return Ok(None) };
        let id = DekId { subject, purpose: purpose.clone(), generation };
        let kek = self.kek(subject)?;
        let key = self.tools.open_key(&kek, &id, &key)?;
        Ok(Some((id, key)))
    }

    fn make_person(&mut self, id: &ExternalId, tag: Tag) -> Result<SubjectRef> {
        let subject = SubjectRef(self.tools.draw()?);
        let (_, key) = self.make_key(subject, &Purpose::identity())?;
        let sealed = seal_id(&key, &id_context(&self.tools.store, subject), id, self.tools.draw()?);
        self.facts.slots.id += 1;
        self.made.ids.push((self.facts.slots.id, sealed, subject));
        // Through the slot an erasure left empty, or a new one.
        let slot = if let Some((slot, _)) = self.facts.tags.get(&tag) {
            self.made.relinked.push((*slot, subject));
            *slot
        } else {
            self.facts.slots.subject += 1;
            self.made.tags.push((self.facts.slots.subject, tag, subject));
            self.facts.slots.subject
        };
        self.facts.tags.insert(tag, (slot, Some(subject)));
        self.person(subject).known = true;
        Ok(subject)
    }

    /// Makes a person known by one more tag, unless they are already. The tag must not be another person's.
    fn link_natural(&mut self, tag: Tag, subject: SubjectRef) {
        if self.facts.natural.contains_key(&tag) {
            return;
        }
        self.facts.slots.natural += 1;
        self.made.natural.push((self.facts.slots.natural, tag, subject));
        self.facts.natural.insert(tag, subject);
        self.person(subject).known = true;
    }

    fn make_key(&mut self, subject: SubjectRef, purpose: &Purpose) -> Result<(DekId, Arc<Dek>)> {
        // One above every generation that ever was, so that a generation never names two keys.
        let tombstones = self.person(subject).tombstones.iter().filter(|(name, ..)| name == purpose.as_str());
        let generation = tombstones.map(|(_, generation, _)| generation + 1).max().unwrap_or(0);
        let key = Arc::new(Dek::generate().map_err(|_| NO_ENTROPY)?);
        let kek = self.kek(subject)?;
        let context = kek.context(&self.tools.store, &subject, purpose.as_str(), generation);
        let wrapped = wrap(kek.key.secret(), &context, &key, self.tools.draw()?);
        self.facts.slots.key += 1;
        let id = DekId { subject, purpose: purpose.clone(), generation };
        self.made.keys.push((self.facts.slots.key, wrapped, id.clone(), Arc::clone(&key)));
        let stored = StoredKey { purpose: purpose.as_str().to_owned(), generation, key: Key::Open(Arc::clone(&key)) };
        self.person(subject).keys.push(stored);
        Ok((id, key))
    }

    fn kek(&mut self, subject: SubjectRef) -> Result<Arc<Kek>> {
        let shard = subject.0[0];
        let kek = match self.facts.keks.get(&shard) {
            Some(key) => self.tools.open_kek(shard, key)?,
            None => self.make_kek(shard)?,
        };
        self.facts.keks.insert(shard, ShardKey::Open(Arc::clone(&kek)));
        Ok(kek)
    }

    fn make_kek(&mut self, shard: u8) -> Result<Arc<Kek>> {
        // That of the database, under its lock: under an earlier root nothing is made any more, and a later one has no epoch
        // of its own yet.
        let (kek, wrapped) = self.tools.rewrapper().make_kek(shard, self.facts.epoch)?;
        let kek = Arc::new(kek);
        self.facts.slots.kek += 1;
        self.made.keks.push((self.facts.slots.kek, shard, Arc::clone(&kek), wrapped));
        Ok(kek)
    }

    fn person(&mut self, subject: SubjectRef) -> &mut Person {
        self.facts.people.entry(subject).or_default()
    }

    /// Shard keys opened on the way that stood in the database already.
    pub fn opened(&self) -> impl Iterator<Item = (u8, Arc<Kek>)> {
        let made: Vec<u8> = self.made.keks.iter().map(|(_, shard, ..)| *shard).collect();
        self.facts.keks.iter().filter_map(move |(shard, key)| match key {
            ShardKey::Open(kek) if !made.contains(shard) => Some((*shard, Arc::clone(kek))),
            _ => None,
        })
    }
}

/// The whole person is forgotten.
const FORGOTTEN: Granted = Granted::Erased { subject: None, purposes: Vec::new() };
