//! Deep erase: the ciphertext goes too, some time after its keys (F9).
//!
//! Owns: when, and in which portions. Nothing is remembered here: a batch takes ciphertext out of some events and says in the
//! request's stream what went and where the rest begins, in one transaction, so a crash anywhere resumes by folding the stream;
//! whose streams are at their end is read from the log. Must not know: engines, and how a column is rewritten. Which slots go is
//! read from the metadata; that they may is decided once more by the log, under its own fences. Keeps invariant 9: no leaf
//! covers ciphertext. Where several processes run, the one that carries out erasures does this too.

use std::collections::BTreeSet;
use std::time::Duration;

use super::preview::walk;
use super::requests::{ForgetError, Requests};
use super::{Fact, Request, Status, next};
use crate::append::AppendError;
use crate::clock::{Boottime, Millis};
use crate::crash;
use crate::event::{Category, EventType, ExpectedRevision, Position, Revision, SubjectRef};
use crate::eventlog::{
    Direction, Effect, ErasureRow, EventLog, Fences, Filter, Page, ReadError, ReadQuery, Refused, StoredEvent,
};
use crate::keystore::nodes::Duty;
use crate::sealing::envelope;
use crate::sealing::meta::{Meta, SlotMeta};

/// Type of the events that say that ciphertext is gone.
pub const REMOVED_EVENT: &str = "ciphertext-removed";
/// Most events of one batch, and most bytes, beyond the first event: appends wait while it is written.
const BATCH: (usize, usize) = (128, 1 << 20);
/// Entries of the erasure record, and events, read at a time.
const PAGE: usize = 500;
/// How often the clock is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Longest pause after a failure.
const LONGEST: Duration = Duration::from_mins(1);

/// What a deep erase has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Events that lost ciphertext.
    pub events: u64,
    /// Slots whose ciphertext went.
    pub slots: u64,
    /// Bytes of their envelopes.
    pub bytes: u64,
    /// Position at which the rest begins.
    pub next: Option<u64>,
    /// When nothing was left.
    pub done: Option<Millis>,
}

impl Removed {
    pub(super) fn add(&mut self, events: u64, slots: u64, bytes: u64) {
        self.events += events;
        self.slots += slots;
        self.bytes += bytes;
    }
}

/// When the ciphertext of a request goes; `None` before the request is complete.
pub fn due(request: &Request, after: Duration) -> Option<Millis> {
    let completed = request.history.iter().find(|(status, _)| *status == Status::Completed)?.1;
    Some(later(completed, after))
}

/// Whether a request that says its ciphertext is gone tells the truth. What a later request fenced anew is that one's to say.
///
/// # Errors
/// [`ReadError`] when the log cannot be read.
pub async fn is_gone(log: &dyn EventLog, request: &Request) -> Result<bool, ReadError> {
    let mut gone = true;
    walk(log, request.subject, |event, meta, fences| {
        gone &= present(request, event, meta, fences)?.is_empty();
        Ok(())
    })
    .await?;
    Ok(gone)
}

/// Removes ciphertext when its time has come.
pub struct DeepErase {
    requests: Requests,
    after: Duration,
    /// Every entry of the erasure record up to this one is done.
    done: u64,
    /// Later ones that are, or that nobody can do.
    ahead: BTreeSet<u64>,
    /// How far the log was read for them.
    read: u64,
}

impl DeepErase {
    /// Begins `after` each completion.
    pub fn new(requests: Requests, after: Duration) -> Self {
        Self { requests, after, done: 0, ahead: BTreeSet::new(), read: 0 }
    }

    /// Works until the task is stopped, which may happen anywhere.
    pub async fn run(mut self) {
        let mut progress = self.requests.progress.clone();
        let mut pause = LOOK;
        loop {
            progress.borrow_and_update();
            let leads = match self.look().await {
                Ok(leads) => {
                    pause = LOOK;
                    leads
                }
                Err(error) => {
                    tracing::error!(error = %error, "ciphertext cannot be removed; trying again");
                    pause = (pause * 2).min(LONGEST);
                    false
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // Perhaps an erasure is complete.
                Ok(()) = progress.changed(), if leads => {}
            }
        }
    }

    /// Does everything whose time has come, if that is this process's work; whether it is.
    async fn look(&mut self) -> Result<bool, ForgetError> {
        if !self.requests.appender.is_level() {
            return Ok(false);
        }
        if let Some(nodes) = self.requests.keys.keystore().nodes()
            && !nodes.lead(Duty::Erasure).await?
        {
            return Ok(false);
        }
        self.catch_up().await?;
        let mut from = self.done;
        // The log's time never goes back: what was recorded while the clock was ahead would not be due for as long.
        let now = self.requests.clock.now().max(self.requests.log.head().await?.recorded);
        loop {
            let rows = self.requests.log.erasures(from, PAGE).await?;
            let Some(last) = rows.last() else { return Ok(true) };
            from = last.number;
            for row in rows {
                // Complete at the earliest when fenced, and fenced in the order of their numbers.
                if now < later(row.fenced, self.after) {
                    return Ok(true);
                }
                let waiting = row.completed.is_none_or(|completed| now < later(completed, self.after));
                if !waiting && !self.ahead.contains(&row.number) {
                    self.take(&row).await?;
                }
            }
            self.settle();
        }
    }

    /// Learns from the log whose ciphertext is gone.
    async fn catch_up(&mut self) -> Result<(), ForgetError> {
        let filter = Filter {
            category: Category::parse_any("$erasure").ok(),
            types: EventType::parse(REMOVED_EVENT).into_iter().collect(),
            subject: None,
        };
        let mut from = Some(self.read);
        while let Some(position) = from {
            let page = self.read(position, filter.clone(), (PAGE, 16 << 20)).await?;
            for event in &page.events {
                if let Ok(Fact::CiphertextRemoved { erasure, next: None, .. }) = serde_json::from_str(&event.public)
                    && erasure > self.done
                {
                    self.ahead.insert(erasure);
                }
            }
            self.read = page.next.unwrap_or(page.head);
            from = page.next;
        }
        self.settle();
        Ok(())
    }

    fn settle(&mut self) {
        while self.ahead.remove(&(self.done + 1)) {
            self.done += 1;
        }
    }

    /// One entry of the record. What cannot be done however often it is tried is left out until the next start.
    async fn take(&mut self, row: &ErasureRow) -> Result<(), ForgetError> {
        match self.erase(row).await {
            Ok(Removed { slots, bytes, .. }) => {
                tracing::info!(request = %row.request, slots, bytes, "the ciphertext of an erasure is gone");
            }
            // Another process took the step: the log will say.
            Err(ForgetError::Invalid(_)) => return Ok(()),
            Err(
                error @ (ForgetError::Corrupt
                | ForgetError::Read(ReadError::Corrupt { .. })
                | ForgetError::Append(AppendError::Refused(Refused::NotErased { .. }))),
            ) => {
                tracing::error!(erasure = row.number, error = %error, "ciphertext cannot be removed; it is left out");
            }
            Err(error) => return Err(error),
        }
        self.ahead.insert(row.number);
        Ok(())
    }

    /// Batch after batch until nothing is left.
    async fn erase(&self, row: &ErasureRow) -> Result<Removed, ForgetError> {
        let (mut request, mut revision) = self.requests.load(&row.request).await?.ok_or(ForgetError::Corrupt)?;
        while request.removed.done.is_none() {
            let began = Boottime::now();
            let batch = self.gather(&request).await?;
            let fact = Fact::CiphertextRemoved {
                erasure: row.number,
                events: batch.events.len() as u64,
                slots: batch.slots,
                bytes: batch.bytes,
                next: batch.next,
            };
            let id = request.id.clone();
            let subject = request.subject;
            request = next(&id, Some(request), &fact, self.requests.clock.now())?;
            let effects = vec![Effect::RemoveSlots { subject, events: batch.events }];
            crash::point("deep.before-batch");
            self.requests.step(&request, ExpectedRevision::Exact(revision), &[fact], effects).await?;
            crash::point("deep.after-batch");
            revision = Revision(revision.0 + 1);
            // Half of the time at most: appends wait for the same writer.
            tokio::time::sleep(Boottime::now().since(began)).await;
        }
        Ok(request.removed)
    }

    /// What the next batch takes.
    async fn gather(&self, request: &Request) -> Result<Portion, ForgetError> {
        let filter = Filter { subject: Some(request.subject), ..Filter::default() };
        let next = Some(request.removed.next.unwrap_or(0));
        let mut batch = Portion { next, ..Portion::default() };
        // Events without anything to remove need no batch.
        while let Some(position) = batch.next.filter(|_| batch.events.is_empty()) {
            let page = self.read(position, filter.clone(), BATCH).await?;
            for event in &page.events {
                let corrupt = ReadError::Corrupt { table: "events", column: "meta", row: event.position.0 };
                let meta = Meta::parse(&event.meta).map_err(|_| corrupt)?;
                let present = present(request, event, &meta, &page.fences)?;
                if !present.is_empty() {
                    batch.slots += present.len() as u64;
                    batch.bytes += present.iter().map(|(_, bytes)| *bytes as u64).sum::<u64>();
                    batch.events.push((event.position, present.iter().map(|(number, _)| *number).collect()));
                }
            }
            batch.next = page.next;
        }
        Ok(batch)
    }

    async fn read(&self, from: u64, filter: Filter, (limit, max_bytes): (usize, usize)) -> Result<Page, ReadError> {
        let system = filter.category.is_some();
        let query = ReadQuery {
            stream: None,
            from: Some(from),
            direction: Direction::Forward,
            limit,
            max_bytes,
            until: None,
            filter,
            system,
        };
        self.requests.log.read(query).await
    }
}

/// What is removed together.
#[derive(Default)]
struct Portion {
    events: Vec<(Position, Vec<u16>)>,
    slots: u64,
    bytes: u64,
    next: Option<u64>,
}

/// The slots of an event that a request erased and whose ciphertext is still there: number and length.
fn present(
    request: &Request,
    event: &StoredEvent,
    meta: &Meta<'_>,
    fences: &Fences,
) -> Result<Vec<(u16, usize)>, ReadError> {
    let envelopes = envelope::slots(event.sealed.as_deref().unwrap_or_default());
    let mut found = Vec::new();
    for ((number, slot), envelope) in (0..).zip(&meta.slots).zip(envelopes) {
        let corrupt = ReadError::Corrupt { table: "events", column: "sealed", row: event.position.0 };
        let envelope = envelope.map_err(|_| corrupt)?;
        found.extend(envelope.filter(|_| erased(request, slot, fences)).map(|bytes| (number, bytes.len())));
    }
    Ok(found)
}

/// Whether a slot is one that the request erased. Of several owners one is enough: nobody can open it any more.
fn erased(request: &Request, slot: &SlotMeta<'_>, fences: &Fences) -> bool {
    let own = slot.owners.iter().find(|owner| SubjectRef::parse(&owner.0) == Some(request.subject));
    let Some(own) = own else { return false };
    request.purposes.as_ref().is_none_or(|list| list.iter().any(|purpose| purpose.as_str() == slot.purpose))
        && fences.0.get(&request.subject).into_iter().flatten().any(|fence| {
            let scope = fence.purpose.as_ref().is_none_or(|purpose| purpose.as_str() == slot.purpose);
            fence.request == request.id && scope && fence.covers(own.1)
        })
}

fn later(time: Millis, by: Duration) -> Millis {
    Millis(time.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
}
