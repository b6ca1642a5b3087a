//! The key cache: keys of people in use, and the way from and to the caller's id.
//!
//! Owns: which keys stay in memory. Must not know: events, sockets, engines. Keeps its half of invariant 5: an answer
//! that was asked for before a revocation is never cached after it, and an eviction removes at once, never lazily. Where
//! other processes destroy keys too, nothing cached is used beyond the horizon up to which this process was told of it.

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use sha2::{Digest, Sha256};

use crate::clock::Boottime;
use crate::event::{ExternalId, NaturalKey, Purpose, SubjectKey, SubjectRef};
use crate::keystore::{Dek, DekId, Fetched, Granted, Horizon, Keystore, KeystoreError, Resolved, Scope, Want};
use crate::secret::{EntropyError, Secret32};

const SHARDS: usize = 64;
/// Keys kept of one person; a person with more purposes and generations than this is served by the keystore.
const KEYS_PER_PERSON: usize = 64;

/// What the cache knows of one person. Dropping it zeroises the keys and the id, as soon as nobody computes with them.
#[derive(Default)]
struct Person {
    keys: Vec<CachedKey>,
    /// Digest of the external id, which must agree with the map from digests for that map to be believed.
    digest: Option<[u8; 32]>,
    external_id: Option<ExternalId>,
}

struct CachedKey {
    id: DekId,
    key: Arc<Dek>,
    /// Whether appends seal under it: it came as the answer to a want.
    current: bool,
}

struct Shard {
    /// Counts revocations; an insertion that was prepared under another number is refused.
    revocations: u64,
    people: LruCache<SubjectRef, Person>,
}

impl Shard {
    /// What is known of a person. While half of the room is free nobody is about to be pushed out, and who was asked for
    /// last is not noted: that would be written into the entries of two others, too.
    fn person(&mut self, subject: &SubjectRef) -> Option<&Person> {
        let free = self.people.len() * 2 < self.people.cap().get();
        if free { self.people.peek(subject) } else { self.people.get(subject) }
    }
}

/// A bounded cache of people: their keys, and the way from and to the caller's id. Evicts at once, never lazily.
pub struct KeyCache {
    people: Vec<Mutex<Shard>>,
    digests: Vec<Mutex<LruCache<[u8; 32], SubjectRef>>>,
    /// Per process and random, so that the digests in memory cannot be looked up in a prepared table.
    salt: Secret32,
}

/// The state of revocations before a question was put to the keystore.
pub struct Ticket([u64; SHARDS]);

impl KeyCache {
    /// A cache for about `capacity` people.
    ///
    /// # Errors
    /// [`EntropyError`] when the system gives no random bytes.
    pub fn new(capacity: usize) -> Result<Self, EntropyError> {
        let each = NonZeroUsize::new(capacity.div_ceil(SHARDS)).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            people: (0..SHARDS).map(|_| Mutex::new(Shard { revocations: 0, people: LruCache::new(each) })).collect(),
            digests: (0..SHARDS).map(|_| Mutex::new(LruCache::new(each))).collect(),
            salt: Secret32::generate()?,
        })
    }

    /// To be taken before the keystore is asked, and shown when its answer is put in.
    pub fn ticket(&self) -> Ticket {
        let mut seen = [0; SHARDS];
        seen.iter_mut().zip(&self.people).for_each(|(seen, shard)| *seen = lock(shard).revocations);
        Ticket(seen)
    }

    /// Removes a person, or the keys of some purposes, now; answers still under way will not be put in.
    pub fn evict(&self, subject: SubjectRef, scope: &Scope) {
        let mut shard = lock(&self.people[shard_of(subject)]);
        shard.revocations += 1;
        let gone = match scope {
            Scope::Person => shard.people.pop(&subject),
            Scope::Purposes(purposes) => {
                if let Some(person) = shard.people.peek_mut(&subject) {
                    person.keys.retain(|cached| !purposes.contains(&cached.id.purpose));
                }
                None
            }
        };
        drop(shard);
        if let Some(digest) = gone.and_then(|person| person.digest) {
            lock(&self.digests[shard_of_digest(&digest)]).pop(&digest);
        }
    }

    /// Removes everybody now; answers still under way will not be put in.
    pub fn clear(&self) {
        for shard in &self.people {
            let mut shard = lock(shard);
            shard.revocations += 1;
            shard.people.clear();
        }
        self.digests.iter().for_each(|digests| lock(digests).clear());
    }

    /// How many people are cached.
    pub fn len(&self) -> usize {
        self.people.iter().map(|shard| lock(shard).people.len()).sum()
    }

    /// Whether nobody is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn key(&self, id: &DekId) -> Option<Arc<Dek>> {
        let mut shard = lock(&self.people[shard_of(id.subject)]);
        let person = shard.person(&id.subject)?;
        let same = |cached: &&CachedKey| cached.id.generation == id.generation && cached.id.purpose == id.purpose;
        person.keys.iter().find(same).map(|cached| Arc::clone(&cached.key))
    }

    /// The whole answer to a want, or nothing.
    fn grant(&self, want: &Want) -> Option<Granted> {
        let (subject, digest) = match &want.subject {
            SubjectKey::Ref(subject) => (*subject, None),
            SubjectKey::External(id) => {
                let digest = self.digest(id);
                (self.by_digest(&digest)?, Some(digest))
            }
            // Not cached: what such a key means must be the keystore's word each time, for it may be given to another
            // person right after an erasure, and a want may add one.
            SubjectKey::Natural(_) => return None,
        };
        let mut shard = lock(&self.people[shard_of(subject)]);
        let person = shard.person(&subject)?;
        if digest.is_some() && person.digest != digest {
            return None;
        }
        let current = |purpose: &Purpose| {
            let cached = person.keys.iter().find(|cached| cached.current && cached.id.purpose == *purpose)?;
            Some((cached.id.clone(), Arc::clone(&cached.key)))
        };
        let keys = want.purposes.iter().map(current).collect::<Option<Vec<_>>>()?;
        Some(Granted::Keys { subject, keys })
    }

    fn subject(&self, id: &ExternalId) -> Option<SubjectRef> {
        let digest = self.digest(id);
        let subject = self.by_digest(&digest)?;
        let mut shard = lock(&self.people[shard_of(subject)]);
        (shard.person(&subject)?.digest == Some(digest)).then_some(subject)
    }

    fn external_id(&self, subject: SubjectRef) -> Option<ExternalId> {
        let mut shard = lock(&self.people[shard_of(subject)]);
        shard.person(&subject)?.external_id.clone()
    }

    fn put_key(&self, ticket: &Ticket, id: &DekId, key: &Arc<Dek>, current: bool) {
        self.with_person(ticket, id.subject, |person| {
            if let Some(cached) = person.keys.iter_mut().find(|cached| cached.id == *id) {
                cached.current |= current;
                return;
            }
            if current {
                // A newer generation takes over; the older one still opens what was sealed under it.
                person.keys.iter_mut().filter(|old| old.id.purpose == id.purpose).for_each(|old| old.current = false);
            }
            if person.keys.len() == KEYS_PER_PERSON {
                person.keys.remove(0);
            }
            // Most people have one or two, and there are many people.
            person.keys.reserve_exact(1);
            person.keys.push(CachedKey { id: id.clone(), key: Arc::clone(key), current });
        });
    }

    fn put_subject(&self, ticket: &Ticket, id: &ExternalId, subject: SubjectRef) {
        let digest = self.digest(id);
        if self.with_person(ticket, subject, |person| person.digest = Some(digest)) {
            // Without the person's own digest beside it this entry says nothing, so it may outlive an eviction.
            lock(&self.digests[shard_of_digest(&digest)]).put(digest, subject);
        }
    }

    fn put_external_id(&self, ticket: &Ticket, subject: SubjectRef, id: &ExternalId) {
        self.with_person(ticket, subject, |person| person.external_id = Some(id.clone()));
    }

    /// Changes what is known of a person, unless somebody of the shard was revoked since the ticket: then the answer
    /// may be the revoked person's, and not caching it costs one more question. Whether it was changed.
    fn with_person(&self, ticket: &Ticket, subject: SubjectRef, change: impl FnOnce(&mut Person)) -> bool {
        let index = shard_of(subject);
        let mut shard = lock(&self.people[index]);
        if shard.revocations != ticket.0[index] {
            return false;
        }
        change(shard.people.get_or_insert_mut(subject, Person::default));
        true
    }

    fn by_digest(&self, digest: &[u8; 32]) -> Option<SubjectRef> {
        lock(&self.digests[shard_of_digest(digest)]).get(digest).copied()
    }

    fn digest(&self, id: &ExternalId) -> [u8; 32] {
        Sha256::new().chain_update(self.salt.expose()).chain_update(id.expose()).finalize().into()
    }
}

/// A keystore behind the cache: asks only for what is not cached, in one batch.
pub struct CachedKeystore {
    inner: Arc<dyn Keystore>,
    cache: KeyCache,
    horizon: Horizon,
}

impl CachedKeystore {
    /// Puts `cache` in front of `inner`.
    pub fn new(inner: Arc<dyn Keystore>, cache: KeyCache) -> Self {
        let horizon = if inner.nodes().is_some() { Horizon::none() } else { Horizon::unlimited() };
        Self { inner, cache, horizon }
    }

    /// Until when what is cached may be used.
    pub fn horizon(&self) -> &Horizon {
        &self.horizon
    }

    /// Whether there are keys of a person in memory that may be used. After a forget has returned there are none.
    pub fn may_use(&self, subject: SubjectRef) -> bool {
        let known = |person: &Person| !person.keys.is_empty();
        self.horizon.allows(Boottime::now())
            && lock(&self.cache.people[shard_of(subject)]).people.peek(&subject).is_some_and(known)
    }

    /// The keystore itself, for what is never cached: destruction, wash, counts.
    pub fn keystore(&self) -> &Arc<dyn Keystore> {
        &self.inner
    }

    /// The cache.
    pub fn cache(&self) -> &KeyCache {
        &self.cache
    }

    /// Removes a person, or the keys of some purposes, from memory now.
    pub fn evict(&self, subject: SubjectRef, scope: &Scope) {
        self.cache.evict(subject, scope);
    }

    /// [`Keystore::resolve`]. Only known people are cached: forgotten and unknown are asked for each time.
    ///
    /// # Errors
    /// [`KeystoreError`] from the keystore.
    pub async fn resolve(&self, ids: Vec<ExternalId>) -> Result<Vec<Resolved>, KeystoreError> {
        let cached = ids.iter().map(|id| self.cache.subject(id).map(Resolved::Known)).collect();
        self.complete(
            ids,
            cached,
            |missing| self.inner.resolve(missing),
            |ticket, id, answer| {
                if let Resolved::Known(subject) = answer {
                    self.cache.put_subject(ticket, id, *subject);
                }
            },
        )
        .await
    }

    /// [`Keystore::resolve_natural`]. Never cached.
    ///
    /// # Errors
    /// [`KeystoreError`] from the keystore.
    pub async fn resolve_natural(&self, keys: Vec<NaturalKey>) -> Result<Vec<Resolved>, KeystoreError> {
        self.inner.resolve_natural(keys).await
    }

    /// [`Keystore::ensure`]. A want is served from the cache when all of it is there.
    ///
    /// # Errors
    /// [`KeystoreError`] from the keystore.
    pub async fn ensure(&self, wants: Vec<Want>) -> Result<Vec<Granted>, KeystoreError> {
        let cached = wants.iter().map(|want| self.cache.grant(want)).collect();
        self.complete(
            wants,
            cached,
            |missing| self.inner.ensure(missing),
            |ticket, want, answer| {
                if let Granted::Keys { subject, keys } = answer {
                    if let SubjectKey::External(id) = &want.subject {
                        self.cache.put_subject(ticket, id, *subject);
                    }
                    for (id, key) in keys {
                        self.cache.put_key(ticket, id, key, true);
                    }
                }
            },
        )
        .await
    }

    /// [`Keystore::fetch`]. Only keys are cached.
    ///
    /// # Errors
    /// [`KeystoreError`] from the keystore.
    pub async fn fetch(&self, ids: Vec<DekId>) -> Result<Vec<Fetched>, KeystoreError> {
        let cached = ids.iter().map(|id| self.cache.key(id).map(Fetched::Key)).collect();
        self.complete(
            ids,
            cached,
            |missing| self.inner.fetch(missing),
            |ticket, id, answer| {
                if let Fetched::Key(key) = answer {
                    self.cache.put_key(ticket, id, key, false);
                }
            },
        )
        .await
    }

    /// [`Keystore::external_ids`].
    ///
    /// # Errors
    /// [`KeystoreError`] from the keystore.
    pub async fn external_ids(&self, subjects: Vec<SubjectRef>) -> Result<Vec<Option<ExternalId>>, KeystoreError> {
        let cached = subjects.iter().map(|subject| self.cache.external_id(*subject).map(Some)).collect();
        self.complete(
            subjects,
            cached,
            |missing| self.inner.external_ids(missing),
            |ticket, subject, answer| {
                if let Some(id) = answer {
                    self.cache.put_external_id(ticket, *subject, id);
                }
            },
        )
        .await
    }

    /// Fills the gaps of `answers` with one question, and caches what comes back under a ticket taken before it.
    async fn complete<Q: Clone, A, F>(
        &self,
        questions: Vec<Q>,
        mut answers: Vec<Option<A>>,
        ask: impl FnOnce(Vec<Q>) -> F,
        keep: impl Fn(&Ticket, &Q, &A),
    ) -> Result<Vec<A>, KeystoreError>
    where
        F: Future<Output = Result<Vec<A>, KeystoreError>>,
    {
        // Beyond the horizon other processes may have destroyed what is here: nothing is used, and nothing put in.
        let usable = self.horizon.allows(Boottime::now());
        if !usable {
            for answer in &mut answers {
                *answer = None;
            }
        }
        let missing: Vec<Q> =
            questions.iter().zip(&answers).filter(|(_, answer)| answer.is_none()).map(|(q, _)| q.clone()).collect();
        if !missing.is_empty() {
            let ticket = self.cache.ticket();
            let fetched = ask(missing.clone()).await?;
            if usable {
                missing.iter().zip(&fetched).for_each(|(question, answer)| keep(&ticket, question, answer));
            }
            let mut fetched = fetched.into_iter();
            answers.iter_mut().filter(|answer| answer.is_none()).for_each(|gap| *gap = fetched.next());
        }
        let whole: Option<Vec<A>> = answers.into_iter().collect();
        whole.ok_or(KeystoreError::Unavailable { reason: "the keystore gave fewer answers than questions" })
    }
}

fn shard_of(subject: SubjectRef) -> usize {
    // Pseudonyms are random; the last byte, because the first one already chose the keystore's shard.
    usize::from(subject.0[15]) % SHARDS
}

fn shard_of_digest(digest: &[u8; 32]) -> usize {
    usize::from(digest[0]) % SHARDS
}

/// No code that can panic runs half-way through a change, so what a poisoned lock guards is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(n: u8) -> SubjectRef {
        SubjectRef([n; 16])
    }

    fn key(subject: SubjectRef, purpose: &str, generation: u32) -> (DekId, Arc<Dek>) {
        let id = DekId { subject, purpose: Purpose::parse(purpose).unwrap(), generation };
        (id, Arc::new(Dek::generate().unwrap()))
    }

    fn want(subject: SubjectKey, purposes: &[&str]) -> Want {
        Want { subject, also: None, purposes: purposes.iter().map(|name| Purpose::parse(name).unwrap()).collect() }
    }

    #[test]
    fn an_answer_asked_for_before_a_revocation_is_not_cached_after_it() {
        let cache = KeyCache::new(100).unwrap();
        let (id, dek) = key(subject(1), "general", 0);
        let before = cache.ticket();
        cache.evict(subject(1), &Scope::Person);
        cache.put_key(&before, &id, &dek, false);
        assert!(cache.key(&id).is_none());
        cache.put_key(&cache.ticket(), &id, &dek, false);
        assert!(cache.key(&id).is_some());
    }

    #[test]
    fn eviction_drops_the_key_at_once() {
        let cache = KeyCache::new(100).unwrap();
        let (id, dek) = key(subject(1), "general", 0);
        let weak = Arc::downgrade(&dek);
        cache.put_key(&cache.ticket(), &id, &dek, true);
        drop(dek);
        assert!(weak.upgrade().is_some());
        cache.evict(subject(1), &Scope::Person);
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn a_purpose_goes_alone_and_a_person_whole() {
        let cache = KeyCache::new(100).unwrap();
        let id = ExternalId::parse("person:41").unwrap();
        let (a, b) = (key(subject(1), "a", 0), key(subject(1), "b", 0));
        let ticket = cache.ticket();
        cache.put_subject(&ticket, &id, subject(1));
        cache.put_external_id(&ticket, subject(1), &id);
        cache.put_key(&ticket, &a.0, &a.1, true);
        cache.put_key(&ticket, &b.0, &b.1, true);
        let external = || SubjectKey::External(id.clone());
        assert!(cache.grant(&want(external(), &["a", "b"])).is_some());
        cache.evict(subject(1), &Scope::Purposes(vec![a.0.purpose.clone()]));
        assert!(cache.grant(&want(external(), &["a", "b"])).is_none());
        assert!(cache.grant(&want(SubjectKey::Ref(subject(1)), &["b"])).is_some());
        assert_eq!(cache.external_id(subject(1)), Some(id.clone()));
        cache.evict(subject(1), &Scope::Person);
        assert!(cache.grant(&want(external(), &[])).is_none());
        assert!(cache.subject(&id).is_none() && cache.external_id(subject(1)).is_none() && cache.is_empty());
    }

    #[test]
    fn appends_seal_under_the_newest_generation_while_older_ones_open() {
        let cache = KeyCache::new(100).unwrap();
        let (old, new) = (key(subject(1), "a", 0), key(subject(1), "a", 1));
        cache.put_key(&cache.ticket(), &old.0, &old.1, true);
        cache.put_key(&cache.ticket(), &new.0, &new.1, true);
        cache.put_key(&cache.ticket(), &old.0, &old.1, false);
        let Some(Granted::Keys { keys, .. }) = cache.grant(&want(SubjectKey::Ref(subject(1)), &["a"])) else {
            panic!()
        };
        assert_eq!(keys[0].0.generation, 1);
        assert!(cache.key(&old.0).is_some());
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = KeyCache::new(SHARDS).unwrap();
        for n in 0..2000_u128 {
            let (id, dek) = key(SubjectRef(n.to_be_bytes()), "a", 0);
            cache.put_key(&cache.ticket(), &id, &dek, false);
        }
        assert_eq!(cache.len(), SHARDS);
        for n in 0..1000 {
            let (id, dek) = key(subject(1), "a", n);
            cache.put_key(&cache.ticket(), &id, &dek, false);
        }
        assert_eq!(lock(&cache.people[1]).people.peek(&subject(1)).unwrap().keys.len(), KEYS_PER_PERSON);
    }
}
