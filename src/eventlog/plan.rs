//! What a batch becomes, before anything is written.
//!
//! Owns: the checks of expected revisions, conditions, fences, event ids and idempotency keys, and the assignment of
//! revisions, positions and leaves. Pure: an engine gathers the facts inside its transaction, this decides, the engine
//! inserts. Later jobs of a batch see what earlier ones planned, so a batch behaves as if its jobs came one by one.

use std::collections::{BTreeMap, HashMap};

use super::{
    Appended, AppendedStream, Condition, Effect, FenceState, Fences, Filter, Head, Idempotency, Job, Refused,
    StreamAppend,
};
use crate::clock::Millis;
use crate::event::{EventId, Position, Purpose, Revision, StreamId, StreamName, SubjectRef};
use crate::merkle::{Hash, TILE_HEIGHT};
use crate::sealing::commit::{LeafFields, leaf};
use crate::sealing::{SealedEvent, envelope};

/// What the database says about the batch, read inside its transaction.
#[derive(Default)]
pub struct Facts {
    /// Streams named in the batch that exist.
    pub streams: HashMap<StreamName, StreamFact>,
    /// Fences of every person with a slot in the batch, or of whom slots are to be removed.
    pub fences: Fences,
    /// Caller-chosen event ids that are already in their stream.
    pub known_ids: HashMap<(StreamName, EventId), (Revision, Position)>,
    /// Idempotency keys seen before: request digest and reply.
    pub replies: HashMap<[u8; 32], ([u8; 32], Appended)>,
    /// For each job and condition: whether a stored event matches a `NoneMatching` filter.
    pub matching: HashMap<(usize, usize), bool>,
    /// Purpose and generation of every slot that a person has in the events of which slots are to be removed.
    pub owned: HashMap<(SubjectRef, Position, u16), (Purpose, u32)>,
    /// The sealed columns of these events.
    pub sealed: HashMap<Position, Option<Vec<u8>>>,
}

/// A stream as stored.
#[derive(Clone, Copy, Debug)]
pub struct StreamFact {
    /// The engine's row number.
    pub row: i64,
    /// Random identity.
    pub id: StreamId,
    /// Last revision.
    pub last: Option<Revision>,
}

/// A row to be inserted.
pub struct PlannedEvent {
    /// The event.
    pub event: SealedEvent,
    /// Its stream.
    pub stream: StreamName,
    /// Position.
    pub position: Position,
    /// Revision.
    pub revision: Revision,
    /// Recorded time.
    pub recorded: Millis,
    /// Merkle leaf.
    pub leaf: [u8; 32],
}

/// What is to be written, and what to answer.
pub struct Planned {
    /// Events by position.
    pub events: Vec<PlannedEvent>,
    /// Nodes of the tree that are complete now and are kept: level, number within the level, hash.
    pub nodes: Vec<(u8, u64, Hash)>,
    /// Streams to be created, with their fresh ids.
    pub new_streams: Vec<(StreamName, StreamId)>,
    /// Effects of the accepted jobs, in order, with the time of their job. Removed slots are among the columns.
    pub effects: Vec<(Effect, Millis, Position)>,
    /// Sealed columns that lose slots, as they are afterwards.
    pub columns: BTreeMap<Position, Option<Vec<u8>>>,
    /// Replies to remember.
    pub replies: Vec<(Idempotency, Appended)>,
    /// The head afterwards (the erasure epoch is the engine's to raise with its fences).
    pub head: Head,
    /// One answer per job.
    pub outcomes: Vec<Result<Appended, Refused>>,
}

/// Decides a batch. `fresh` makes the id of a new stream.
pub fn plan(head: Head, facts: &Facts, jobs: Vec<Job>, mut fresh: impl FnMut() -> StreamId) -> Planned {
    let mut planner = Planner {
        facts,
        streams: HashMap::new(),
        ids: HashMap::new(),
        out: Planned {
            events: Vec::new(),
            nodes: Vec::new(),
            new_streams: Vec::new(),
            effects: Vec::new(),
            columns: BTreeMap::new(),
            replies: Vec::new(),
            head,
            outcomes: Vec::new(),
        },
    };
    for (index, job) in jobs.into_iter().enumerate() {
        let outcome = match planner.judge(index, &job) {
            Ok(Judged::Replay(appended)) => Ok(Appended { replayed: true, ..appended }),
            Ok(Judged::Fresh) => Ok(planner.accept(job, &mut fresh)),
            Err(refused) => Err(refused),
        };
        planner.out.outcomes.push(outcome);
    }
    planner.out
}

struct Planner<'a> {
    facts: &'a Facts,
    streams: HashMap<StreamName, (StreamId, Option<Revision>)>,
    ids: HashMap<(StreamName, EventId), (Revision, Position)>,
    out: Planned,
}

enum Judged {
    Fresh,
    Replay(Appended),
}

impl Planner<'_> {
    fn judge(&self, index: usize, job: &Job) -> Result<Judged, Refused> {
        if let Some(idempotency) = &job.idempotency
            && let Some((request, reply)) = self.reply(idempotency)
        {
            return if *request == idempotency.request {
                Ok(Judged::Replay(reply.clone()))
            } else {
                Err(Refused::IdempotencyKeyReuse)
            };
        }
        if let Some(replay) = self.replay_of_ids(job)? {
            return Ok(Judged::Replay(replay));
        }
        for (at, condition) in job.conditions.iter().enumerate() {
            self.condition(index, at, condition)?;
        }
        for append in &job.appends {
            self.revision(&append.stream, append.expected)?;
            self.fenced(append)?;
        }
        job.effects.iter().try_for_each(|effect| self.removable(effect))?;
        Ok(Judged::Fresh)
    }

    fn reply(&self, idempotency: &Idempotency) -> Option<(&[u8; 32], &Appended)> {
        let planned = self.out.replies.iter().find(|(known, _)| known.key == idempotency.key);
        planned
            .map(|(known, reply)| (&known.request, reply))
            .or_else(|| self.facts.replies.get(&idempotency.key).map(|(request, reply)| (request, reply)))
    }

    /// A job is a replay when every one of its events carries a caller's id that is already there, in order.
    fn replay_of_ids(&self, job: &Job) -> Result<Option<Appended>, Refused> {
        let mut streams = Vec::new();
        let (mut known, mut total) = (0, 0);
        for append in &job.appends {
            let found: Vec<_> = append
                .events
                .iter()
                .filter_map(|event| {
                    let place = event.has_caller_id().then(|| self.known_id(&append.stream, event.id()))??;
                    Some((event.id(), place))
                })
                .collect();
            known += found.len();
            total += append.events.len();
            // The answer says where the events landed as one run, so they must have landed as one.
            let in_order = found.windows(2).all(|pair| {
                let ((_, (revision, position)), (_, (next_revision, next_position))) = (pair[0], pair[1]);
                next_revision.0 == revision.0 + 1 && next_position.0 == position.0 + 1
            });
            if !found.is_empty() && (found.len() != append.events.len() || !in_order) {
                return Err(Refused::EventIdConflict { stream: append.stream.clone() });
            }
            if let Some((_, (first_revision, first_position))) = found.first() {
                streams.push(AppendedStream {
                    stream: append.stream.clone(),
                    first_revision: *first_revision,
                    first_position: *first_position,
                    ids: found.iter().map(|(id, _)| *id).collect(),
                });
            }
        }
        match (known, job.appends.first()) {
            (0, _) | (_, None) => Ok(None),
            (some, _) if some == total => Ok(Some(Appended { streams, replayed: true })),
            (_, Some(append)) => Err(Refused::EventIdConflict { stream: append.stream.clone() }),
        }
    }

    fn known_id(&self, stream: &StreamName, id: EventId) -> Option<(Revision, Position)> {
        let key = (stream.clone(), id);
        self.ids.get(&key).or_else(|| self.facts.known_ids.get(&key)).copied()
    }

    fn current(&self, stream: &StreamName) -> Option<Revision> {
        match self.streams.get(stream) {
            Some((_, last)) => *last,
            None => self.facts.streams.get(stream).and_then(|fact| fact.last),
        }
    }

    fn revision(&self, stream: &StreamName, expected: crate::event::ExpectedRevision) -> Result<(), Refused> {
        let current = self.current(stream);
        if expected.is_met_by(current) {
            return Ok(());
        }
        Err(Refused::WrongExpectedRevision { stream: stream.clone(), expected, current })
    }

    /// No slot of a fenced scope, and not even the name of a person who is wholly forgotten.
    fn fenced(&self, append: &StreamAppend) -> Result<(), Refused> {
        for entry in append.events.iter().flat_map(SealedEvent::footprint) {
            let stored = self.facts.fences.0.get(&entry.subject).into_iter().flatten().any(|fence| {
                let purpose = fence.purpose.as_ref();
                let same = purpose.is_some_and(|p| entry.slot.is_some() && *p == entry.purpose);
                (purpose.is_none() || same) && fence.covers(entry.generation)
            });
            let planned = self.out.effects.iter().any(|(effect, ..)| match effect {
                Effect::Fence { subject, purposes, .. } if *subject == entry.subject => {
                    purposes.as_ref().is_none_or(|list| entry.slot.is_some() && list.contains(&entry.purpose))
                }
                _ => false,
            });
            if stored || planned {
                return Err(Refused::DataSubjectErased { subject: entry.subject });
            }
        }
        Ok(())
    }

    /// Whatever the caller believed: no ciphertext goes that a living person's key opens for that person.
    fn removable(&self, effect: &Effect) -> Result<(), Refused> {
        let Some((subject, events)) = effect.loses_slots() else { return Ok(()) };
        let fences = self.facts.fences.0.get(&subject).map(Vec::as_slice).unwrap_or_default();
        for (position, slots) in events {
            let erased = |slot: &u16| {
                let owned = self.facts.owned.get(&(subject, *position, *slot));
                owned.is_some_and(|(purpose, generation)| {
                    fences.iter().any(|fence| {
                        fence.state != FenceState::Restricted
                            && fence.purpose.as_ref().is_none_or(|fenced| fenced == purpose)
                            && fence.covers(*generation)
                    })
                })
            };
            let well_formed =
                self.column(*position).is_none_or(|column| envelope::slots(column).all(|slot| slot.is_ok()));
            if !well_formed || !slots.iter().all(erased) {
                return Err(Refused::NotErased { position: *position });
            }
        }
        Ok(())
    }

    /// The sealed column of an event, as earlier jobs of the batch leave it.
    fn column(&self, position: Position) -> Option<&[u8]> {
        let planned = self.out.columns.get(&position);
        planned.or_else(|| self.facts.sealed.get(&position)).and_then(Option::as_deref)
    }

    fn remove(&mut self, effect: &Effect) {
        let Some((_, events)) = effect.loses_slots() else { return };
        for (position, slots) in events {
            let left = self.column(*position).and_then(|column| envelope::without(column, slots).ok());
            self.out.columns.extend(left.map(|left| (*position, left)));
        }
    }

    fn condition(&self, job: usize, index: usize, condition: &Condition) -> Result<(), Refused> {
        let holds = match condition {
            Condition::Stream { stream, expected } => expected.is_met_by(self.current(stream)),
            Condition::NoneMatching { after, filter } => {
                let stored = self.facts.matching.get(&(job, index)).copied().unwrap_or(false);
                let planned = |event: &PlannedEvent| after.is_none_or(|p| event.position > p) && matches(filter, event);
                !stored && !self.out.events.iter().any(planned)
            }
        };
        if holds { Ok(()) } else { Err(Refused::Condition { index }) }
    }

    fn accept(&mut self, job: Job, fresh: &mut impl FnMut() -> StreamId) -> Appended {
        let recorded = job.at.max(self.out.head.recorded);
        self.out.head.recorded = recorded;
        let first = self.out.head.next;
        let streams = job.appends.into_iter().map(|append| self.append(append, recorded, fresh)).collect();
        let appended = Appended { streams, replayed: false };
        job.effects.iter().for_each(|effect| self.remove(effect));
        self.out.effects.extend(job.effects.into_iter().map(|effect| (effect, recorded, first)));
        if let Some(idempotency) = job.idempotency {
            self.out.replies.push((idempotency, appended.clone()));
        }
        appended
    }

    fn append(
        &mut self,
        append: StreamAppend,
        recorded: Millis,
        fresh: &mut impl FnMut() -> StreamId,
    ) -> AppendedStream {
        let StreamAppend { stream, events, .. } = append;
        let known = self.streams.get(&stream).copied();
        let stored = self.facts.streams.get(&stream).map(|fact| (fact.id, fact.last));
        let (stream_id, last) = known.or(stored).unwrap_or_else(|| {
            let id = fresh();
            self.out.new_streams.push((stream.clone(), id));
            (id, None)
        });
        let first_revision = Revision(last.map_or(0, |revision| revision.0 + 1));
        let first_position = self.out.head.next;
        let ids: Vec<EventId> = events.iter().map(SealedEvent::id).collect();
        for (offset, event) in events.into_iter().enumerate() {
            let position = self.out.head.next;
            let revision = Revision(first_revision.0 + offset as u64);
            let leaf = self.leaf(&event, stream_id, position, revision, recorded);
            let nodes = &mut self.out.nodes;
            self.out.head.frontier.push_noting(leaf, |level, number, hash| {
                if level > 0 && level % TILE_HEIGHT == 0 {
                    nodes.push((level, number, *hash));
                }
            });
            self.out.head.next = Position(position.0 + 1);
            if event.has_caller_id() {
                self.ids.insert((stream.clone(), event.id()), (revision, position));
            }
            let stream = stream.clone();
            self.out.events.push(PlannedEvent { event, stream, position, revision, recorded, leaf });
        }
        let last = Some(Revision(first_revision.0 + ids.len() as u64 - 1));
        self.streams.insert(stream.clone(), (stream_id, last));
        AppendedStream { stream, first_revision, first_position, ids }
    }

    fn leaf(
        &self,
        event: &SealedEvent,
        stream: StreamId,
        position: Position,
        revision: Revision,
        recorded: Millis,
    ) -> [u8; 32] {
        let commitments = event.commitments();
        leaf(&LeafFields {
            store: &self.out.head.store,
            position,
            event: &event.id(),
            stream: &stream,
            revision,
            event_type: event.event_type().as_str(),
            recorded,
            c_meta: &commitments[0],
            c_public: &commitments[1],
            c_slots: &commitments[2..],
        })
    }
}

fn matches(filter: &Filter, planned: &PlannedEvent) -> bool {
    filter.category.as_ref().is_none_or(|category| planned.stream.category() == *category)
        && (filter.types.is_empty() || filter.types.contains(planned.event.event_type()))
        && filter.subject.is_none_or(|s| planned.event.footprint().iter().any(|entry| entry.subject == s))
}
