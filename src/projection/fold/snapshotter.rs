//! Snapshots made while the log grows.
//!
//! Owns: the task that follows the log, stores the snapshot of a stream that passed a boundary, and removes those of the
//! forgotten. Must not know: HTTP. Nothing depends on it: a snapshot that is missing is found missing by the next read
//! and asked for here. One thing is done at a time, so it never takes more memory than one page of one stream.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{FoldError, Folds, Opening, every};
use crate::db::statement::DbError;
use crate::event::{Position, StreamName, SubjectRef};
use crate::eventlog::{Direction, Filter, Page, ReadQuery};
use crate::projection::definition::Definition;
use crate::projection::engine::sources;

/// Events looked at together.
const PAGE: usize = 500;
/// Bytes of events looked at together.
const PAGE_BYTES: usize = 4 << 20;
/// Times a snapshot is tried before it is left to the next read.
const TRIES: u32 = 5;
/// Longest pause between tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Makes snapshots.
pub struct Snapshotter {
    folds: Arc<Folds>,
    asked: mpsc::Receiver<(Arc<Definition>, StreamName)>,
    cursor: u64,
}

impl Snapshotter {
    pub(super) fn new(folds: Arc<Folds>, asked: mpsc::Receiver<(Arc<Definition>, StreamName)>) -> Self {
        let cursor = *folds.parts.log.watch().borrow();
        Self { folds, asked, cursor }
    }

    /// Removes snapshots of a longer log than this one: the log was restored. To be called before anything reads them.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn prepare(&self) -> Result<(), DbError> {
        self.folds.parts.store.drop_snapshots_from(self.cursor).await
    }

    /// Follows the log until told to stop. It may be stopped anywhere: whatever it was about to do is done again when it
    /// is needed.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.follow() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn follow(&mut self) {
        let mut head = self.folds.parts.log.watch();
        let mut definitions = self.folds.definitions.watch();
        self.tidy(true).await;
        loop {
            let until = *head.borrow_and_update();
            if self.cursor < until {
                self.step(until).await;
                continue;
            }
            tokio::select! {
                changed = head.changed() => if changed.is_err() { return },
                changed = definitions.changed() => match changed {
                    Ok(()) => self.tidy(false).await,
                    Err(_) => return,
                },
                Some((definition, stream)) = self.asked.recv() => self.make(&definition, &stream).await,
            }
        }
    }

    /// Handles the next events, again and again until it can.
    async fn step(&mut self, until: u64) {
        let folds = self.folding();
        if folds.is_empty() {
            // What was forgotten before there was any fold is in no snapshot.
            self.cursor = until;
            return;
        }
        let mut pause = Pause::default();
        let page = loop {
            match self.folds.parts.log.read(self.query(until)).await {
                Ok(page) => break page,
                Err(error) => pause.after(&error).await,
            }
        };
        self.forget(page.events.iter().filter_map(sources::erased).map(|(subject, _)| subject).collect()).await;
        for (at, stream) in passed(&folds, &page) {
            self.make(&folds[at], &stream).await;
        }
        self.cursor = page.next.unwrap_or(until);
    }

    fn query(&self, until: u64) -> ReadQuery {
        ReadQuery {
            stream: None,
            from: Some(self.cursor),
            direction: Direction::Forward,
            limit: PAGE,
            max_bytes: PAGE_BYTES,
            until: Some(Position(until - 1)),
            filter: Filter::default(),
            system: true,
        }
    }

    /// Folds that have snapshots.
    fn folding(&self) -> Vec<Arc<Definition>> {
        let all = self.folds.definitions.all().into_iter().map(|defined| defined.current);
        all.filter(|definition| every(definition).is_some()).collect()
    }

    /// Folds the stream, which stores the snapshot of the last boundary it passes.
    async fn make(&self, definition: &Arc<Definition>, stream: &StreamName) {
        let mut pause = Pause::default();
        for _ in 0..TRIES {
            match self.folds.attempt(definition, stream, None, Opening::Everything).await {
                // For an event that cannot be folded nothing but another definition helps; whoever reads is told.
                Ok(_) | Err(FoldError::Event { .. }) => return,
                Err(error) => pause.after(&error).await,
            }
        }
        tracing::warn!(fold = %definition.name, "a snapshot is left to the next read");
    }

    /// Removes snapshots of these people: their ciphertext is dead, and what is left can be made again.
    async fn forget(&self, subjects: Vec<SubjectRef>) {
        let mut pause = Pause::default();
        while let Err(error) = self.folds.parts.store.drop_snapshots_of(&subjects).await {
            pause.after(&error).await;
        }
    }

    /// Removes snapshots of folds that are no more, and of people who were forgotten while nobody looked.
    async fn tidy(&self, first: bool) {
        let mut pause = Pause::default();
        while let Err(error) = self.try_tidy(first).await {
            pause.after(&error).await;
        }
    }

    async fn try_tidy(&self, first: bool) -> Result<(), FoldError> {
        let parts = &self.folds.parts;
        let known: BTreeSet<String> = self.folding().iter().map(|fold| fold.name.to_string()).collect();
        for name in parts.store.snapshot_names().await?.into_iter().filter(|name| !known.contains(name)) {
            parts.store.drop_snapshots(&name).await?;
        }
        if !first {
            return Ok(());
        }
        let mut after = 0;
        loop {
            let erased = parts.log.erasures(after, PAGE).await?;
            let Some(last) = erased.last() else { return Ok(()) };
            after = last.number;
            let subjects: Vec<SubjectRef> = erased.iter().map(|row| row.subject).collect();
            parts.store.drop_snapshots_of(&subjects).await?;
        }
    }
}

/// Streams in which a fold passed a boundary. One whose boundary is an event that the fold does not see is found by its
/// category; without a category it is left to a read.
fn passed(folds: &[Arc<Definition>], page: &Page) -> BTreeSet<(usize, StreamName)> {
    let mut found = BTreeSet::new();
    for event in page.events.iter().filter(|event| !event.stream.is_system()) {
        for (at, definition) in folds.iter().enumerate() {
            let boundary = every(definition).is_some_and(|every| (event.revision.0 + 1).is_multiple_of(every));
            let seen = match &definition.from.category {
                Some(category) => *category == event.stream.category(),
                None => definition.from.types.contains(&event.event_type),
            };
            if boundary && seen {
                found.insert((at, event.stream.clone()));
            }
        }
    }
    found
}

/// Longer from try to try.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(Duration::from_millis(100))
    }
}

impl Pause {
    async fn after(&mut self, error: &(dyn std::error::Error + Send + Sync)) {
        tracing::warn!(error = %error, "snapshots cannot be kept now");
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}
