//! Leases of responses that hold opened plaintext.
//!
//! Owns: who may still emit what they opened, and until when. Must not know: keys, events, sockets. Keeps its half of
//! invariant 5: once a revocation has resolved, no response that opened the person's data will emit another byte. A
//! reader takes its lease *before* it reads the fence: then it is either seen by the revocation, which comes after the
//! fence, or it sees the fence itself. Only a clock that nobody sets is used, and one that goes on while the machine is
//! suspended: whoever waits for the end of a lease elsewhere does not know that this machine slept.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Boottime;
use crate::event::SubjectRef;

/// How long a response may emit what it opened, unless configured otherwise.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(5);

/// Why nothing more may be emitted. The response is broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseLost {
    /// The keys of a person in the response were revoked.
    #[error("a data subject of this response was revoked")]
    Revoked,
    /// The response took longer than the lease.
    #[error("the response took longer than its lease")]
    Expired,
}

/// All leases of this process.
#[derive(Clone)]
pub struct Leases {
    book: Arc<Mutex<Book>>,
    length: Duration,
}

#[derive(Default)]
struct Book {
    next: u64,
    /// Nobody is shown any more.
    closed: bool,
    open: HashMap<u64, Entry>,
}

struct Entry {
    holds: Holds,
    deadline: Boottime,
    revoked: bool,
    /// Revocations that wait for this lease to end, with the person each is about; none is about everybody.
    waiting: Vec<(Option<SubjectRef>, Arc<Notify>)>,
}

enum Holds {
    /// Not known yet: counts as everyone.
    Everyone,
    These(People),
}

/// People in ascending order, each once.
struct People(Vec<SubjectRef>);

impl People {
    fn new(subjects: impl IntoIterator<Item = SubjectRef>) -> Self {
        let mut people: Vec<SubjectRef> = subjects.into_iter().collect();
        people.sort_unstable();
        people.dedup();
        Self(people)
    }

    fn contains(&self, subject: SubjectRef) -> bool {
        self.0.binary_search(&subject).is_ok()
    }
}

/// The right to emit plaintext until a deadline. Ends when dropped.
pub struct Lease {
    /// `None` when nobody's data was opened: such a response is not bound to anything.
    held: Option<Held>,
}

struct Held {
    book: Arc<Mutex<Book>>,
    id: u64,
    deadline: Boottime,
}

impl Leases {
    /// Leases of the given length.
    pub fn new(length: Duration) -> Self {
        Self { book: Arc::default(), length }
    }

    /// Length of a lease.
    pub fn length(&self) -> Duration {
        self.length
    }

    /// A lease on known people that began at `now`, which must lie before the fence was read. Costs nothing when there
    /// are none.
    pub fn open(&self, subjects: impl IntoIterator<Item = SubjectRef>, now: Boottime) -> Lease {
        let subjects = People::new(subjects);
        if subjects.0.is_empty() {
            return Lease { held: None };
        }
        self.enter(Holds::These(subjects), now)
    }

    /// A lease for a reader that does not know yet whom it will read of: it counts as holding everyone until
    /// [`Lease::narrow`]. To be taken before the snapshot with the fence is read.
    pub fn begin(&self) -> Lease {
        self.enter(Holds::Everyone, Boottime::now())
    }

    /// Revokes every lease that holds the person, at the time of the call. The future resolves when all of them have
    /// ended, or when they have expired; leases taken later are not waited for.
    pub fn revoke(&self, subject: SubjectRef) -> impl Future<Output = ()> + Send + use<> {
        self.revoke_held(Some(subject))
    }

    /// [`Leases::revoke`] of everybody: for a process that may have missed whose keys were destroyed.
    pub fn revoke_everyone(&self) -> impl Future<Output = ()> + Send + use<> {
        self.revoke_held(None)
    }

    /// [`Leases::revoke_everyone`], and nobody is shown later either: this process is about to leave.
    pub fn close(&self) -> impl Future<Output = ()> + Send + use<> {
        lock(&self.book).closed = true;
        self.revoke_everyone()
    }

    fn revoke_held(&self, whom: Option<SubjectRef>) -> impl Future<Output = ()> + Send + use<> {
        let mut ends = Vec::new();
        for entry in lock(&self.book).open.values_mut() {
            let held = match &entry.holds {
                Holds::Everyone => true,
                Holds::These(subjects) => whom.is_none_or(|subject| subjects.contains(subject)),
            };
            if held {
                entry.revoked |= matches!(entry.holds, Holds::These(_));
                let ended = Arc::new(Notify::new());
                entry.waiting.push((whom, Arc::clone(&ended)));
                ends.push(ended);
            }
        }
        // No lease can be older than this, whatever its holder does: it fails its own check from then on.
        let deadline = tokio::time::Instant::now() + self.length;
        async move {
            let all = async {
                for ended in ends {
                    ended.notified().await;
                }
            };
            let _ = tokio::time::timeout_at(deadline, all).await;
        }
    }

    /// How many leases are held.
    pub fn held(&self) -> usize {
        lock(&self.book).open.len()
    }

    /// How many answers have the person's clear values and could be within their time. After a forget has returned there are none.
    pub fn holding(&self, subject: SubjectRef) -> usize {
        let now = Boottime::now();
        let holds = |entry: &&Entry| matches!(&entry.holds, Holds::These(subjects) if subjects.contains(subject));
        lock(&self.book).open.values().filter(holds).filter(|entry| now < entry.deadline).count()
    }

    fn enter(&self, holds: Holds, now: Boottime) -> Lease {
        let mut book = lock(&self.book);
        let (id, revoked) = (book.next, book.closed);
        book.next += 1;
        let deadline = now + self.length;
        book.open.insert(id, Entry { holds, deadline, revoked, waiting: Vec::new() });
        Lease { held: Some(Held { book: Arc::clone(&self.book), id, deadline }) }
    }
}

impl Default for Leases {
    fn default() -> Self {
        Self::new(DEFAULT_LEASE)
    }
}

impl Lease {
    /// Names the people whose data will be emitted, after [`Leases::begin`]. Revocations of others let go of this lease;
    /// one of these people revoked meanwhile loses it. A lease that already names people keeps those it has in common.
    pub fn narrow(&mut self, subjects: impl IntoIterator<Item = SubjectRef>) {
        let Some(held) = &self.held else { return };
        let mut subjects = People::new(subjects);
        let mut book = lock(&held.book);
        let Some(entry) = book.open.get_mut(&held.id) else { return };
        if let Holds::These(old) = &entry.holds {
            subjects.0.retain(|subject| old.contains(*subject));
        }
        let touches = |whom: &Option<SubjectRef>| match whom {
            Some(subject) => subjects.contains(*subject),
            None => !subjects.0.is_empty(),
        };
        let (stay, go): (Vec<_>, Vec<_>) =
            std::mem::take(&mut entry.waiting).into_iter().partition(|(whom, _)| touches(whom));
        entry.revoked |= !stay.is_empty();
        entry.waiting = stay;
        let nobody = subjects.0.is_empty();
        entry.holds = Holds::These(subjects);
        drop(book);
        for (_, ended) in go {
            ended.notify_one();
        }
        if nobody {
            self.held = None;
        }
    }

    /// Whether another chunk may be emitted. To be asked before every one.
    ///
    /// # Errors
    /// [`LeaseLost`]: nothing more may leave.
    pub fn check(&self) -> Result<(), LeaseLost> {
        let Some(held) = &self.held else { return Ok(()) };
        // Expiry first: it holds even if the book were lost.
        if Boottime::now() >= held.deadline {
            return Err(LeaseLost::Expired);
        }
        match lock(&held.book).open.get(&held.id) {
            Some(Entry { revoked: false, waiting, .. }) if waiting.is_empty() => Ok(()),
            _ => Err(LeaseLost::Revoked),
        }
    }

    /// When the lease expires; `None` when it holds nobody.
    pub fn deadline(&self) -> Option<Boottime> {
        self.held.as_ref().map(|held| held.deadline)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let entry = lock(&self.book).open.remove(&self.id);
        entry.into_iter().flat_map(|entry| entry.waiting).for_each(|(_, ended)| ended.notify_one());
    }
}

/// No code that can panic runs half-way through a change, so what a poisoned lock guards is whole.
fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const ADA: SubjectRef = SubjectRef([1; 16]);
    const BEN: SubjectRef = SubjectRef([2; 16]);
    const LONG: Duration = Duration::from_mins(10);

    fn now() -> Boottime {
        Boottime::now()
    }

    #[tokio::test]
    async fn a_revocation_waits_for_those_who_hold_the_person_and_stops_them() {
        let leases = Leases::new(LONG);
        let (one, two, other) = (leases.open([ADA], now()), leases.open([ADA, BEN], now()), leases.open([BEN], now()));
        let mut revoked = Box::pin(leases.revoke(ADA));
        assert_eq!(one.check(), Err(LeaseLost::Revoked));
        assert_eq!(two.check(), Err(LeaseLost::Revoked));
        assert_eq!(other.check(), Ok(()));
        assert!((&mut revoked).now_or_never().is_none());
        drop(one);
        assert!((&mut revoked).now_or_never().is_none());
        drop(two);
        revoked.await;
        assert_eq!((leases.held(), other.check()), (1, Ok(())));
    }

    #[tokio::test]
    async fn a_lease_taken_later_is_not_waited_for_and_not_stopped() {
        let leases = Leases::new(LONG);
        let revoked = leases.revoke(ADA);
        let later = leases.open([ADA], now());
        revoked.await;
        assert_eq!(later.check(), Ok(()));
    }

    #[tokio::test]
    async fn a_reader_that_has_not_looked_yet_counts_as_holding_everyone() {
        let leases = Leases::new(LONG);
        let (mut sees, mut sees_not) = (leases.begin(), leases.begin());
        let mut revoked = Box::pin(leases.revoke(ADA));
        assert!((&mut revoked).now_or_never().is_none());
        assert_eq!(sees.check(), Err(LeaseLost::Revoked));
        sees_not.narrow([BEN]);
        assert_eq!(sees_not.check(), Ok(()));
        sees.narrow([ADA, BEN]);
        assert_eq!(sees.check(), Err(LeaseLost::Revoked));
        assert!((&mut revoked).now_or_never().is_none());
        drop(sees);
        revoked.await;
    }

    #[tokio::test]
    async fn everybody_at_once() {
        let leases = Leases::new(LONG);
        let one = leases.open([ADA], now());
        let (mut sees, mut sees_nobody) = (leases.begin(), leases.begin());
        let mut revoked = Box::pin(leases.revoke_everyone());
        sees.narrow([BEN]);
        sees_nobody.narrow([]);
        assert_eq!((one.check(), sees.check()), (Err(LeaseLost::Revoked), Err(LeaseLost::Revoked)));
        assert_eq!(sees_nobody.check(), Ok(()));
        assert!((&mut revoked).now_or_never().is_none());
        let later = leases.open([ADA], now());
        drop((one, sees));
        revoked.await;
        assert_eq!(later.check(), Ok(()));
        drop(later);
        leases.close().await;
        let (never, mut nobody) = (leases.open([ADA], now()), leases.begin());
        nobody.narrow([]);
        assert_eq!((never.check(), nobody.check()), (Err(LeaseLost::Revoked), Ok(())));
    }

    #[tokio::test]
    async fn a_response_without_personal_data_holds_nothing() {
        let leases = Leases::new(Duration::ZERO);
        let none = leases.open([], now());
        let mut narrowed = leases.begin();
        narrowed.narrow([]);
        assert_eq!((none.check(), narrowed.check(), leases.held()), (Ok(()), Ok(()), 0));
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_a_lease() {
        let leases = Leases::new(Duration::from_millis(30));
        let stuck = leases.open([ADA], now());
        let unrevoked = leases.open([BEN], now());
        let started = now();
        let revoked = leases.revoke(ADA);
        assert_eq!((leases.holding(ADA), leases.holding(SubjectRef([3; 16]))), (1, 0));
        revoked.await;
        assert_eq!(leases.holding(ADA), 0);
        assert!(now().since(started) >= Duration::from_millis(30));
        assert_eq!(stuck.check(), Err(LeaseLost::Expired));
        assert_eq!(unrevoked.check(), Err(LeaseLost::Expired));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn two_revocations_and_many_leases_race_to_an_end() {
        let leases = Leases::new(LONG);
        for _ in 0..200 {
            let readers: Vec<_> = (0..8)
                .map(|_| {
                    let mut lease = leases.begin();
                    tokio::spawn(async move {
                        lease.narrow([ADA, BEN]);
                        while lease.check().is_ok() {
                            tokio::task::yield_now().await;
                        }
                    })
                })
                .collect();
            tokio::join!(leases.revoke(ADA), leases.revoke(BEN));
            for reader in readers {
                reader.await.unwrap();
            }
            assert_eq!(leases.held(), 0);
        }
    }
}
