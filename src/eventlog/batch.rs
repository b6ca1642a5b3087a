//! What goes into the event log: batches of jobs, and what each job is answered.
//!
//! Owns: the values of a commit. Must not know: how an engine writes them.

use std::borrow::Cow;

use crate::clock::Millis;
use crate::event::{
    Category, EventId, EventType, ExpectedRevision, Position, Purpose, Revision, StreamName, SubjectRef,
};
use crate::sealing::SealedEvent;

/// Everything that must land together, in one durable transaction.
#[derive(Default)]
pub struct Batch {
    /// Independent jobs: each succeeds or is refused by itself.
    pub jobs: Vec<Job>,
    /// Personal reads to be recorded before their first byte leaves.
    pub access: Vec<AccessEntry>,
}

/// One request's appends and effects: all of it or nothing.
pub struct Job {
    /// Appends, to distinct streams.
    pub appends: Vec<StreamAppend>,
    /// What must hold beyond the expected revisions.
    pub conditions: Vec<Condition>,
    /// Makes a repetition of the request a replay.
    pub idempotency: Option<Idempotency>,
    /// Changes of state that the events speak of. Only the system's own jobs have any.
    pub effects: Vec<Effect>,
    /// When the job was handed in; the log never records earlier than its last event.
    pub at: Millis,
}

/// Events for one stream.
pub struct StreamAppend {
    /// The stream.
    pub stream: StreamName,
    /// What it is expected to be.
    pub expected: ExpectedRevision,
    /// At least one event.
    pub events: Vec<SealedEvent>,
}

/// A precondition of a job.
#[derive(Clone, Debug)]
pub enum Condition {
    /// A stream that the job need not append to has this revision.
    Stream {
        /// The stream.
        stream: StreamName,
        /// The expectation.
        expected: ExpectedRevision,
    },
    /// No event after a position matches (a dynamic consistency boundary).
    NoneMatching {
        /// Only later events count; `None` counts all.
        after: Option<Position>,
        /// What must not be there.
        filter: Filter,
    },
}

/// Which events: every given part must match; an empty part matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this category.
    pub category: Option<Category>,
    /// Of one of these types.
    pub types: Vec<EventType>,
    /// About this data subject.
    pub subject: Option<SubjectRef>,
}

/// An idempotency key and what it came with, as keyed digests: the body's personal data must not be confirmable.
#[derive(Clone, Copy, Debug)]
pub struct Idempotency {
    /// Keyed digest of principal and key.
    pub key: [u8; 32],
    /// Keyed digest of the request.
    pub request: [u8; 32],
    /// Forgotten after this time.
    pub expires: Millis,
}

/// A change of state in the same transaction as the event that says it.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Fences a person or purposes and adds the next entry of the erasure record.
    Fence {
        /// Whose data.
        subject: SubjectRef,
        /// The purposes; `None` is the whole person.
        purposes: Option<Vec<Purpose>>,
        /// Legal basis, `gdpr:A17-1-b`.
        basis: String,
        /// The forget request.
        request: String,
    },
    /// Like a fence, made again from the exported record on a log restored from before it: the next entry of the erasure
    /// record, as far as it reached, and since when.
    Refence {
        /// Whose data.
        subject: SubjectRef,
        /// The purposes with the last generation covered; `None` is the whole person.
        purposes: Option<Vec<(Purpose, u32)>>,
        /// Legal basis.
        basis: String,
        /// The forget request.
        request: String,
        /// When the fence was first set.
        fenced: Millis,
    },
    /// Marks an entry of the erasure record complete.
    Completed {
        /// The forget request.
        request: String,
    },
    /// Allows the next generation of fenced purposes.
    Reauthorize {
        /// Whose data.
        subject: SubjectRef,
        /// The purposes.
        purposes: Vec<Purpose>,
    },
    /// Takes the ciphertext of slots of one person away, for good; what is gone already changes nothing. Refused as a whole
    /// unless every slot is that person's and behind a fence for good.
    RemoveSlots {
        /// Whose slots.
        subject: SubjectRef,
        /// Events, with the numbers of the slots of each.
        events: Vec<(Position, Vec<u16>)>,
    },
    /// Where a forget request stands now.
    Request {
        /// The request.
        id: String,
        /// Whom it is about.
        subject: SubjectRef,
        /// Its status.
        status: &'static str,
        /// Its legal deadline.
        due: Millis,
    },
}

/// An event, and numbers of slots of it.
type EventSlots = (Position, Vec<u16>);

impl Effect {
    /// Of whom slots are to be removed, and which.
    pub(super) fn loses_slots(&self) -> Option<(SubjectRef, &[EventSlots])> {
        match self {
            Self::RemoveSlots { subject, events } => Some((*subject, events)),
            _ => None,
        }
    }
}

/// One personal read, before it happens.
#[derive(Clone, Debug)]
pub struct AccessEntry {
    /// When.
    pub at: Millis,
    /// Which API key.
    pub principal: String,
    /// For which purpose.
    pub purpose: String,
    /// Whose data.
    pub subject: SubjectRef,
    /// Route template, never the path itself.
    pub route: Cow<'static, str>,
    /// How many values.
    pub fields: u32,
    /// The stated reason, if any.
    pub reason: String,
    /// Request id.
    pub request: String,
}

/// Where a job's events landed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Per stream of the job, in order.
    pub streams: Vec<AppendedStream>,
    /// Whether an earlier request already did it.
    pub replayed: bool,
}

/// Where events of one stream landed: revisions and positions are consecutive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendedStream {
    /// The stream.
    pub stream: StreamName,
    /// Revision of the first event.
    pub first_revision: Revision,
    /// Position of the first event.
    pub first_position: Position,
    /// Ids, in order.
    pub ids: Vec<EventId>,
}

impl AppendedStream {
    /// Revision of the last event.
    pub fn last_revision(&self) -> Revision {
        Revision(self.first_revision.0 + self.ids.len() as u64 - 1)
    }

    /// Position of the last event.
    pub fn last_position(&self) -> Position {
        Position(self.first_position.0 + self.ids.len() as u64 - 1)
    }
}

/// Why one job was refused; the others of its batch are not affected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A condition does not hold.
    Condition {
        /// Index of the condition.
        index: usize,
    },
    /// A person was forgotten between sealing and committing.
    DataSubjectErased {
        /// Who.
        subject: SubjectRef,
    },
    /// Some, not all, of the event ids are already in the stream, or not in this order one after another.
    EventIdConflict {
        /// The stream.
        stream: StreamName,
    },
    /// The idempotency key came earlier with another request.
    IdempotencyKeyReuse,
    /// Ciphertext is not removed: a slot is not that person's or not behind a fence, or nobody can tell what stands where.
    NotErased {
        /// The event.
        position: Position,
    },
    /// The stream is not at the expected revision.
    WrongExpectedRevision {
        /// The stream.
        stream: StreamName,
        /// What was expected.
        expected: ExpectedRevision,
        /// What it is at; `None` when it has no events.
        current: Option<Revision>,
    },
}
