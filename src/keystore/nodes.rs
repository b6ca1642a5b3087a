//! Several processes over one keystore: who has keys in memory, and who must let go of them.
//!
//! Owns: the contract by which destructions reach the memory of every process, and the lengths of time it rests on, as pure
//! rules that the running code and the model of the protocol share. Must not know: events, sockets, engines. Keeps
//! invariant 5 where there are several processes: a forget returns when every process that was registered at the destruction
//! has let go, or when whatever it holds has expired.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::clock::{Boottime, Millis};
use crate::event::SubjectRef;
use crate::keystore::{KeystoreError, Scope};

/// A process that takes part, for as long as it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub [u8; 16]);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What must be let go of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// Keys of a person.
    Person(SubjectRef, Scope),
    /// Every shard key: some were replaced.
    ShardKeys,
}

/// One entry of the list of revocations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Dense, in the order of the destructions.
    pub number: u64,
    /// What.
    pub what: Revoked,
}

/// The answer to a process that asks whether it may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It may, once it has applied these.
    Renewed(Vec<Revocation>),
    /// It is not registered (any more): it must let go of everything and register.
    Unregistered,
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Registered; it has let go of everything up to this revocation.
    Registered(u64),
    /// Expelled over this revocation, or not known at all: it is given no key until it registers anew.
    Unregistered(Option<u64>),
}

/// A registered process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// Which.
    pub node: NodeId,
    /// What its operator calls it.
    pub name: String,
    /// How long it may use what it was given.
    pub lease: Duration,
    /// Since when it has been registered.
    pub registered: Millis,
    /// When it last said something, by its own clock.
    pub seen: Millis,
    /// It has let go of everything up to this revocation.
    pub acknowledged: u64,
    /// The revocation that it did not answer in time: no key is given to it and it may not go on, but it does not know yet.
    pub expelled: Option<u64>,
}

/// Work that one process does for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Duty {
    /// Destroying keys.
    Erasure,
    /// Key epochs.
    Epochs,
    /// Computing projections.
    Projections,
}

impl Duty {
    /// Its name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Erasure => "erasure",
            Self::Epochs => "epochs",
            Self::Projections => "projections",
        }
    }
}

/// How long a duty stays with a process that does not renew it. Another one that takes over too early does no harm.
pub const TERM: Duration = Duration::from_secs(5);

/// What an engine that several processes share offers beyond [`super::Keystore`].
pub trait Nodes: Send + Sync {
    /// This process.
    fn id(&self) -> NodeId;

    /// Says how long this process uses what it is given, and what it is called; where it stands.
    fn introduce(&self, lease: Duration, name: String, at: Millis) -> BoxFuture<'_, Result<Place, KeystoreError>>;

    /// Registers this process, which holds nothing and shows nobody: nothing was given to it since it was found unregistered in
    /// this way. Where it stands otherwise by now nothing changes, so that an order that arrives late says nothing untrue.
    /// Keys may be fetched after this, not before.
    fn register(&self, found: Option<u64>, lease: Duration, at: Millis) -> BoxFuture<'_, Result<(), KeystoreError>>;

    /// Asks whether this process may go on, and what was revoked after `applied`. One snapshot, of the primary.
    fn renew(&self, applied: u64, at: Millis) -> BoxFuture<'_, Result<Renewal, KeystoreError>>;

    /// Says that everything up to this revocation has been let go of.
    fn acknowledge(&self, number: u64) -> BoxFuture<'_, Result<(), KeystoreError>>;

    /// Registered processes that have not acknowledged a revocation.
    fn behind(&self, number: u64) -> BoxFuture<'_, Result<Vec<NodeRow>, KeystoreError>>;

    /// Expels those among `nodes` that have still not acknowledged it: they are given nothing more and must begin anew. They
    /// stay in the list until they do, or until [`Nodes::dismiss`].
    fn expel(&self, nodes: Vec<NodeId>, number: u64) -> BoxFuture<'_, Result<(), KeystoreError>>;

    /// Removes a process that was expelled over this revocation and has not come back: [`is_over`] must say so.
    fn dismiss(&self, node: NodeId, number: u64) -> BoxFuture<'_, Result<(), KeystoreError>>;

    /// All registered processes.
    fn list(&self) -> BoxFuture<'_, Result<Vec<NodeRow>, KeystoreError>>;

    /// Whether this process has a duty from now for [`TERM`]; takes it when nobody has it.
    fn lead(&self, duty: Duty) -> BoxFuture<'_, Result<bool, KeystoreError>>;

    /// Tells every process that shard keys were replaced; the number under which that is acknowledged.
    fn revoke_shard_keys(&self, at: Millis) -> BoxFuture<'_, Result<u64, KeystoreError>>;

    /// Lets go of every shard key in this process's memory.
    fn drop_shard_keys(&self);

    /// Returns when there may be something new. A hint: whoever waits asks all the same.
    fn told(&self) -> BoxFuture<'_, ()>;

    /// Gives up duties and the registration: nothing is held in memory any more.
    fn leave(&self) -> BoxFuture<'_, ()>;
}

/// How much a process's clock may lose against another's while a lease lasts: a tenth, and a tenth of a second.
pub fn drift(lease: Duration) -> Duration {
    lease / 10 + Duration::from_millis(100)
}

/// Whether a process has nothing any more of what was destroyed at `destroyed`, whatever it does, by the clock of
/// whoever waits; `destroyed` must lie after the destruction was durable.
pub fn has_expired(lease: Duration, destroyed: Boottime, now: Boottime) -> bool {
    now >= destroyed + lease + drift(lease)
}

/// Whether a process that was expelled at `expelled` shows nobody any more, by the clock of whoever expelled it; `expelled`
/// must lie after the expulsion was durable. Its last renewal may be as young as that, an answer may have begun at the end
/// of what was renewed, and every answer may last a lease: until then it must be waited for like any other.
pub fn is_over(lease: Duration, expelled: Boottime, now: Boottime) -> bool {
    has_expired(lease * 2, expelled, now)
}

/// Until when what a process holds may be used: from the moment before it asked, not from the answer.
pub fn tenure(asked: Boottime, lease: Duration) -> Boottime {
    asked + lease
}

/// Until when this process may use the keys in its memory.
///
/// Every renewal says of all of them at once that they were not revoked when it was asked for, so one moment stands for all.
#[derive(Debug)]
pub struct Horizon(Mutex<Boottime>);

impl Horizon {
    /// Of a process that is alone with its keystore: whatever is revoked is revoked here.
    pub fn unlimited() -> Self {
        Self(Mutex::new(Boottime::NEVER))
    }

    /// Of one of several: nothing may be used before the first renewal.
    pub fn none() -> Self {
        Self(Mutex::new(Boottime::ZERO))
    }

    /// Whether keys in memory may be used.
    pub fn allows(&self, now: Boottime) -> bool {
        now < self.until()
    }

    /// The moment itself.
    pub fn until(&self) -> Boottime {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves it.
    pub fn set(&self, until: Boottime) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_waited_for_too_short() {
        let lease = Duration::from_secs(5);
        let destroyed = Boottime::at(Duration::from_secs(100));
        // Asked a moment before the destruction: usable until just before the end of the lease.
        let usable_until = tenure(destroyed, lease);
        let horizon = Horizon::none();
        assert!(!horizon.allows(Boottime::ZERO));
        horizon.set(usable_until);
        for millis in (0..6_000).step_by(100) {
            let now = destroyed + Duration::from_millis(millis);
            assert!(!(horizon.allows(now) && has_expired(lease, destroyed, now)), "{millis}");
        }
        assert!(has_expired(lease, destroyed, destroyed + lease + drift(lease)));
        assert!(!has_expired(lease, destroyed, destroyed + lease));
        assert!(Horizon::unlimited().allows(Boottime::now()));
    }
}
