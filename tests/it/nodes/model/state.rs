//! What the model knows of the world, and the lengths of time, which come from the running code.
//!
//! Owns: states, and rules as tables. Time is kept as ages in ticks, so that runs are unbounded in length. One tick is what a
//! clock may lose against another's while a lease lasts.

use std::time::Duration;

use oubliette::clock::{Boottime, Millis};
use oubliette::erasure::preview::Preview;
use oubliette::erasure::release::verdict;
use oubliette::erasure::{Fact, Status, Verification, next};
use oubliette::event::SubjectRef;
use oubliette::keystore::nodes::{NodeId, NodeRow, drift, is_over, tenure};
use oubliette::keystore::{Horizon, nodes};

/// A lease of two ticks: `drift` of it is exactly one.
pub const LEASE: Duration = Duration::from_millis(250);
const TICK: Duration = Duration::from_millis(125);
/// The lease in ticks.
pub const L: u8 = 2;
/// A clock loses at most one tick in so many of the coordinator's.
pub const LOSES_ONE_IN: u8 = 3;
/// Ages do not matter beyond this.
pub const OLD: u8 = 6;
/// Most people.
pub const PEOPLE: usize = 2;
/// Most processes, and most coordinators.
pub const TWO: usize = 2;
/// Most revocations.
pub const REVOCATIONS: usize = 4;

/// A process's row in the keystore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Row {
    None,
    /// Registered; it has acknowledged so many.
    In(u8),
    /// Expelled so long ago; it has acknowledged so many.
    Out(u8, u8),
}

/// Where an answer about one person is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    /// There is none.
    Nowhere,
    /// Its lease has begun, and the snapshot without a fence has been read.
    Looked,
    /// The keystore's answer, with the key, is under way.
    Asked,
    /// Clear values in memory.
    Open,
    /// The lease was checked, the write begins: it ends within the tick.
    Writing,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Answer {
    pub at: At,
    /// Ticks of its lease.
    pub left: u8,
    /// Its lease was revoked.
    pub lost: bool,
    /// The key may be cached when it comes: no revocation since it was asked for, and the horizon was not passed.
    pub ticket: bool,
}

/// No answer.
pub const NO_ANSWER: Answer = Answer { at: At::Nowhere, left: 0, lost: false, ticket: false };

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    pub up: bool,
    pub row: Row,
    /// Revocations applied; none while it knows that it is not registered.
    pub applied: Option<u8>,
    /// Whether it has let go of everything since it was found unregistered, and was not registered since.
    pub empty: bool,
    /// Ticks for which it may use its cache.
    pub horizon: u8,
    /// A renewal's answer on its way: how long ago it was asked for, and what is in it; none says that it is not registered.
    pub renewal: Option<(u8, Option<u8>)>,
    /// Only in a broken variant: revocations heard of and not applied yet.
    pub heard: u8,
    pub cache: [bool; PEOPLE],
    pub answers: [Answer; PEOPLE],
    /// An event of the first person, sealed and not committed.
    pub sealed: bool,
    /// Ticks until its clock may lose one again.
    pub sound: u8,
}

/// A process that has just been started: registered, before it takes part.
pub const fn started(revocations: u8) -> Node {
    Node {
        up: true,
        row: Row::In(revocations),
        applied: None,
        empty: false,
        horizon: 0,
        renewal: None,
        heard: 0,
        cache: [false; PEOPLE],
        answers: [NO_ANSWER; PEOPLE],
        sealed: false,
        sound: 0,
    }
}

/// A coordinator that has destroyed keys waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wait {
    pub whom: [bool; PEOPLE],
    pub number: u8,
    pub age: u8,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub nodes: [Node; TWO],
    pub waits: [Option<Wait>; TWO],
    /// In the event log.
    pub fence: [bool; PEOPLE],
    /// Where the request stands, in the event log.
    pub done: [bool; PEOPLE],
    /// In the keystore.
    pub key: [bool; PEOPLE],
    /// In the keystore: whose keys each revocation is about.
    pub revoked: [u8; REVOCATIONS],
    pub count: u8,
    pub restored: bool,
}

/// What of the running code decides, as tables over ages.
pub struct Rules {
    /// Ticks of the horizon after a renewal that was asked for so long ago.
    pub horizon: [u8; OLD as usize + 1],
    /// Whether the cache may be used with so many ticks of the horizon.
    pub usable: [bool; L as usize + 1],
    /// Whether whoever waits for these processes, so long after the destruction, waits no more.
    pub waited: [[bool; OLD as usize + 1]; 1 << TWO],
    /// Whether an expelled process's row may go after so long.
    pub over: [bool; OLD as usize + 1],
    /// Whether a request that stands so may be completed: what the fold of its stream says.
    pub completes: [bool; 2],
}

fn ticks(count: u8) -> Duration {
    TICK * u32::from(count)
}

impl Rules {
    /// Of the code as it is; `assumed` is the lease that the coordinator believes in.
    pub fn new(assumed: Duration) -> Self {
        assert_eq!((drift(LEASE), ticks(L)), (TICK, LEASE));
        let began = Boottime::at(Duration::from_hours(1));
        let after = |age: usize| began + ticks(age as u8);
        let row = |node: u8| NodeRow {
            node: NodeId([node; 16]),
            name: String::new(),
            lease: assumed,
            registered: Millis(0),
            seen: Millis(0),
            acknowledged: 0,
            expelled: None,
        };
        let behind = |mask: usize| -> Vec<NodeRow> { (0..2).filter(|bit| mask >> bit & 1 == 1).map(row).collect() };
        let left = |until: Boottime, now: Boottime| (now.until(until).as_millis() / TICK.as_millis()) as u8;
        let horizon = Horizon::none();
        Self {
            horizon: std::array::from_fn(|age| left(tenure(began, LEASE), after(age))),
            usable: std::array::from_fn(|ticks| {
                horizon.set(after(ticks));
                horizon.allows(began)
            }),
            waited: std::array::from_fn(|mask| {
                std::array::from_fn(|age| verdict(&behind(mask), began, after(age)).is_some())
            }),
            over: std::array::from_fn(|age| is_over(LEASE, began, after(age))),
            completes: completions(),
        }
    }

    /// The coordinator forgets that clocks differ.
    pub fn without_drift(mut self) -> Self {
        for mask in 1..1 << TWO {
            self.waited[mask] = std::array::from_fn(|age| ticks(age as u8) >= LEASE);
        }
        self
    }
}

/// Whether a request is completed by the facts that a coordinator records after its wait: one that is fenced, one that is
/// complete already.
fn completions() -> [bool; 2] {
    let verification = Verification { events: 1, tried: 1, opened: 0 };
    let (subject, by) = (SubjectRef([1; 16]).to_string(), "ak".to_owned());
    let opened = Fact::ForgetRequestOpened {
        subject: subject.clone(),
        purposes: None,
        basis: "gdpr:A17-1-b".into(),
        received_at: String::new(),
        due_at: String::new(),
        reference: None,
        by: by.clone(),
        preview: Preview::default(),
    };
    let before = [
        opened,
        Fact::ForgetRequestApproved { preview_digest: String::new(), by },
        Fact::ErasureFenced { subject, purposes: None, request: "fr".into(), basis: "gdpr:A17-1-b".into() },
    ];
    let finish = [
        Fact::KeysDestroyed {
            erasure: 1,
            keys: vec![],
            external_id_removed: true,
            washed_bytes: 0,
            wash_incomplete: false,
            nodes: vec![],
        },
        Fact::ErasureCompleted { verification, statement: None },
    ];
    let fold = |facts: &[&[Fact]]| {
        let step = |state, fact: &Fact| next("fr", state, fact, Millis(0)).map(Some);
        facts.concat().iter().try_fold(None, step).ok().flatten()
    };
    let once = fold(&[&before, &finish]).is_some_and(|request| request.status == Status::Completed);
    let twice = fold(&[&before, &finish, &finish]).is_some();
    [once, twice]
}

/// So that the lengths above are what the code says.
pub fn waits_are_long_enough() -> bool {
    let began = Boottime::at(Duration::from_hours(1));
    !nodes::has_expired(LEASE, began, began + ticks(L)) && nodes::has_expired(LEASE, began, began + ticks(L + 1))
}
