//! What comes out of the event log: pages of stored events, fences, and the rows of its records.
//!
//! Owns: the values of a read. Must not know: who may see them.

use std::collections::HashMap;

use super::StoredEvent;
use super::batch::{AccessEntry, Filter};
use crate::clock::Millis;
use crate::event::{Position, Purpose, Revision, StoreId, StreamId, StreamName, SubjectRef};
use crate::merkle::Frontier;
use crate::sealing::commit::LeafFields;

/// Direction of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Oldest first.
    Forward,
    /// Newest first.
    Backward,
}

/// One page to be read.
#[derive(Clone, Debug)]
pub struct ReadQuery {
    /// One stream, or all.
    pub stream: Option<StreamName>,
    /// First revision (of a stream) or position (of all) to return; `None` starts at the beginning or end.
    pub from: Option<u64>,
    /// Direction.
    pub direction: Direction,
    /// Most events to return; at least one event comes anyway.
    pub limit: usize,
    /// Most bytes of events to return; at least one event comes anyway.
    pub max_bytes: usize,
    /// Only events up to and including this position.
    pub until: Option<Position>,
    /// Which events.
    pub filter: Filter,
    /// Whether the system's own streams are part of a read of all.
    pub system: bool,
}

/// A page, with the fences of the same snapshot.
#[derive(Debug)]
pub struct Page {
    /// The events in the order asked for.
    pub events: Vec<StoredEvent>,
    /// Fences of every person in the page.
    pub fences: Fences,
    /// Where the next page begins; `None` at the end.
    pub next: Option<u64>,
    /// The log's next position in this snapshot.
    pub head: u64,
    /// Last revision of the stream, for stream reads of a stream that exists.
    pub last_revision: Option<Revision>,
}

/// What a verifier needs beside the event itself.
#[derive(Clone, Debug)]
pub struct AuditRow {
    /// The event.
    pub event: StoredEvent,
    /// The stream's id.
    pub stream_id: StreamId,
    /// Salts of metadata and public part; `None` once destroyed.
    pub salts: Option<Vec<u8>>,
    /// Commitments: metadata, public part, then one per slot; 32 bytes each.
    pub commitments: Vec<u8>,
    /// Stored leaf hash.
    pub leaf: [u8; 32],
}

impl AuditRow {
    /// What the event's leaf binds. `None` when the commitments are none.
    pub fn leaf_fields<'r>(&'r self, store: &'r StoreId) -> Option<LeafFields<'r>> {
        let (commitments, []) = self.commitments.as_chunks::<32>() else { return None };
        let [c_meta, c_public, c_slots @ ..] = commitments else { return None };
        Some(LeafFields {
            store,
            position: self.event.position,
            event: &self.event.id,
            stream: &self.stream_id,
            revision: self.event.revision,
            event_type: self.event.event_type.as_str(),
            recorded: self.event.recorded,
            c_meta,
            c_public,
            c_slots,
        })
    }
}

/// Why a scope may not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Covered purpose; `None` covers all.
    pub purpose: Option<Purpose>,
    /// Covers generations up to this one.
    pub generation: u32,
    /// Whether later generations are allowed.
    pub reauthorized: bool,
    /// `erased`, `expired` or `restricted`.
    pub state: FenceState,
    /// Legal basis.
    pub basis: String,
    /// The forget request.
    pub request: String,
    /// Since when.
    pub at: Millis,
    /// The store's erasure epoch that this fence began.
    pub epoch: u64,
}

impl Fence {
    /// Whether data of this generation is behind the fence. Later generations are in front of it only once it was opened
    /// for them: the keystore may know of a re-authorisation that this log, restored from before it, does not.
    pub fn covers(&self, generation: u32) -> bool {
        !self.reauthorized || generation <= self.generation
    }
}

/// States a fence can put data into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceState {
    /// Art. 17.
    Erased,
    /// Retention ended.
    Expired,
    /// Art. 18.
    Restricted,
}

impl FenceState {
    /// The word used in the database and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Erased => "erased",
            Self::Expired => "expired",
            Self::Restricted => "restricted",
        }
    }
}

/// Fences by person.
#[derive(Clone, Debug, Default)]
pub struct Fences(pub HashMap<SubjectRef, Vec<Fence>>);

impl Fences {
    /// The fence that covers this key's data, if any.
    pub fn covering(&self, subject: &SubjectRef, purpose: &str, generation: u32) -> Option<&Fence> {
        let covers =
            |fence: &&Fence| fence.purpose.as_ref().is_none_or(|p| p.as_str() == purpose) && fence.covers(generation);
        self.0.get(subject)?.iter().find(covers)
    }

    /// The latest erasure epoch among the fences, 0 without any: part of the page's `ETag`.
    pub fn epoch(&self) -> u64 {
        self.0.values().flatten().map(|fence| fence.epoch).max().unwrap_or(0)
    }
}

/// One slot of one event of a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FootprintRow {
    /// Event.
    pub position: Position,
    /// Slot; `None` where the event only names the person.
    pub slot: Option<u16>,
    /// Purpose of the slot.
    pub purpose: Purpose,
    /// Generation of the key.
    pub generation: u32,
}

/// An entry of the erasure record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasureRow {
    /// Dense number, from 1.
    pub number: u64,
    /// The forget request.
    pub request: String,
    /// Who.
    pub subject: SubjectRef,
    /// The purposes; `None` is the whole person.
    pub purposes: Option<Vec<Purpose>>,
    /// Legal basis.
    pub basis: String,
    /// When the fence was set.
    pub fenced: Millis,
    /// When it was complete.
    pub completed: Option<Millis>,
    /// Digest chain up to here.
    pub digest: [u8; 32],
}

impl ErasureRow {
    /// The scope as the digest has it: `*` for a whole person, else the purposes joined by spaces.
    pub fn scope(&self) -> String {
        match &self.purposes {
            None => "*".to_owned(),
            Some(list) => list.iter().map(Purpose::as_str).collect::<Vec<_>>().join(" "),
        }
    }
}

/// A forget request in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRow {
    /// The request.
    pub id: String,
    /// Whom it is about.
    pub subject: SubjectRef,
    /// Status word.
    pub status: String,
    /// Legal deadline.
    pub due: Millis,
}

/// A recorded personal read.
#[derive(Clone, Debug)]
pub struct AccessRow {
    /// Number of the entry.
    pub id: u64,
    /// The entry.
    pub entry: AccessEntry,
}

/// Where the log ends.
#[derive(Clone, Debug)]
pub struct Head {
    /// The store.
    pub store: StoreId,
    /// Next position, which is also the number of events and the size of the tree.
    pub next: Position,
    /// Time of the last event.
    pub recorded: Millis,
    /// Edge of the Merkle tree.
    pub frontier: Frontier,
    /// Number of fences ever set.
    pub erasure_epoch: u64,
}

/// A stream in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Name.
    pub name: StreamName,
    /// Last revision.
    pub last_revision: Revision,
    /// When its last event was recorded.
    pub last_recorded: Millis,
}
