//! Folds: the state of one stream.
//!
//! Owns: how a state comes about: the latest snapshot, then every later event of the stream, page by page. Must not
//! know: HTTP, who may see what of it. A state is computed with every value that can be read at all, so that its public
//! part is the same for everyone; who looks at it decides what is shown, not what is computed.

mod draft;
pub mod guard;
pub mod snapshotter;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::apply::{self, Outcome};
use super::cell::Content;
use super::definition::{Definition, Kind, OnError, Source};
use super::definitions::Definitions;
use super::engine::batch::{self, BatchError, MOST_EVENTS, Parts};
use super::engine::work;
use super::query::{QueryError, RenderedState, StateRow, render_state};
use super::room;
use super::row::{Keys, Row, RowKey, StoredRow};
use super::store::{RawRow, Snapshot};
use crate::db::statement::DbError;
use crate::event::{Category, EventType, Position, Revision, StreamName};
use crate::eventlog::{Direction, Fences, Filter, Page, ReadError, ReadQuery};
use crate::read::access::AccessLog;
use crate::read::{Purposes, Viewer};
use crate::sealing::rows::RowIdentity;

/// Most bytes of events folded together.
const MOST_BYTES: usize = 4 << 20;
/// Events between snapshots of a fold that has an invariant and names no number: each append reads no more than these.
const GUARD_EVERY: u64 = 100;
/// Streams that may wait for a snapshot which a read found missing.
const MOST_WANTED: usize = 256;

/// Which values a state is computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// All that can be read.
    Everything,
    /// None: the state as it is when everyone in it is forgotten. Needs no key.
    Nothing,
}

/// The state of a stream. Holds personal values in clear; shown only by [`Folds::show`].
pub struct FoldState {
    row: Row,
    keys: Keys,
    /// Revision of the snapshot it began with.
    pub snapshot_revision: Option<Revision>,
    /// Events of the stream after the snapshot.
    pub events_folded: u64,
    /// Those of them that could not be handled and were left out (`on_error: park`).
    pub events_parked: u64,
    /// The last event in it, if there is one.
    pub last: Option<(Revision, Position)>,
    /// Last revision of the stream, whatever part of it was asked for.
    pub current: Revision,
}

/// Why there is no state. Holds no values.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// An event cannot be handled.
    #[error("the event at position {position} cannot be folded: {message}")]
    Event {
        /// The event.
        position: u64,
        /// Stable code.
        code: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The tables cannot be read.
    #[error(transparent)]
    Tables(#[from] DbError),
    /// Values cannot be opened.
    #[error(transparent)]
    Opening(#[from] BatchError),
}

/// Computes states.
pub struct Folds {
    parts: Parts,
    reader: crate::read::Parts,
    definitions: Arc<Definitions>,
    wanted: mpsc::Sender<(Arc<Definition>, StreamName)>,
}

impl Folds {
    /// Folds over these parts, and the task that makes their snapshots.
    pub fn new(
        parts: Parts,
        access: Arc<AccessLog>,
        definitions: Arc<Definitions>,
    ) -> (Arc<Self>, snapshotter::Snapshotter) {
        let reader = crate::read::Parts {
            log: Arc::clone(&parts.log),
            keys: Arc::clone(&parts.keys),
            leases: Arc::clone(&parts.leases),
            registry: Arc::clone(&parts.registry),
            access,
            clock: parts.clock.clone(),
            level: Arc::clone(&parts.level),
        };
        let (wanted, asked) = mpsc::channel(MOST_WANTED);
        let folds = Arc::new(Self { parts, reader, definitions, wanted });
        let snapshotter = snapshotter::Snapshotter::new(Arc::clone(&folds), asked);
        (folds, snapshotter)
    }

    /// The fold of this name, as it is defined now.
    pub fn get(&self, name: &str) -> Option<Arc<Definition>> {
        let current = self.definitions.get(name)?.current;
        matches!(current.kind, Kind::Fold { .. }).then_some(current)
    }

    /// The state of a stream; `None` when the stream does not exist. `before`: only events before this position.
    ///
    /// # Errors
    /// [`FoldError`].
    pub async fn state(
        &self,
        definition: &Arc<Definition>,
        stream: &StreamName,
        before: Option<u64>,
        opening: Opening,
    ) -> Result<Option<FoldState>, FoldError> {
        let state = match self.attempt(definition, stream, before, opening).await {
            // A key was gone although no fence was there when the page was read: it may have come since.
            Err(FoldError::Opening(BatchError::KeyUnknown)) => {
                self.attempt(definition, stream, before, opening).await?
            }
            other => other?,
        };
        if let (Some(state), Some(every)) = (&state, every(definition))
            && state.events_folded >= every
            && before.is_none()
        {
            // A snapshot is missing. When the queue is full, another read will ask again.
            let _ = self.wanted.try_send((Arc::clone(definition), stream.clone()));
        }
        Ok(state)
    }

    /// Renders a state for a viewer, under a lease of its own.
    ///
    /// # Errors
    /// [`QueryError`]: then nothing is shown.
    pub async fn show(
        &self,
        definition: &Definition,
        state: FoldState,
        viewer: &Viewer,
    ) -> Result<RenderedState, QueryError> {
        render_state(&self.reader, definition, StateRow { row: state.row, keys: state.keys }, viewer).await
    }

    async fn attempt(
        &self,
        definition: &Definition,
        stream: &StreamName,
        before: Option<u64>,
        opening: Opening,
    ) -> Result<Option<FoldState>, FoldError> {
        if opening == Opening::Everything && !self.parts.level.load(Ordering::SeqCst) {
            return Err(BatchError::ErasureRecordBehind.into());
        }
        // A forget that fences after this line waits for the lease, one that fenced before it is in what is read.
        let lease = self.parts.leases.begin();
        let found = self.snapshot(definition, stream, before, opening).await?;
        let begun = found.as_ref().and_then(|work| work.last);
        let mut work = found.unwrap_or_else(|| Work::new(definition, opening));
        let mut from = begun.map_or(0, |(revision, _)| revision.0 + 1);
        let current = loop {
            let page = self.parts.log.read(query(stream, from, before)).await?;
            let Some(current) = page.last_revision else { return Ok(None) };
            if begun.is_some_and(|(revision, _)| revision > current) {
                // Made from a longer log than this one. Snapshots of positions that the log does not have are removed at
                // start-up; this is for what happens in between.
                return Err(DbError::Corrupt { table: "snapshots" }.into());
            }
            let next = page.next;
            self.page(&mut work, stream, page).await?;
            match next {
                Some(next) => from = next,
                None => break current,
            }
        };
        drop(lease);
        Ok(Some(FoldState {
            row: work.row,
            keys: work.keys,
            snapshot_revision: begun.map(|(revision, _)| revision),
            events_folded: work.folded,
            events_parked: work.parked,
            last: work.last,
            current,
        }))
    }

    /// The latest snapshot that can be begun with.
    async fn snapshot<'d>(
        &self,
        definition: &'d Definition,
        stream: &StreamName,
        before: Option<u64>,
        opening: Opening,
    ) -> Result<Option<Work<'d>>, FoldError> {
        let digest = super::definitions::digest(&definition.text);
        let found = self.parts.store.snapshot(definition.name.as_str(), &digest, stream.as_str()).await?;
        let Some(Snapshot { revision, position, doc, sealed }) =
            found.filter(|found| before.is_none_or(|before| found.position < before))
        else {
            return Ok(None);
        };
        let raw = RawRow { key: key(definition, stream), parts: "{}".to_owned(), doc, sealed, position };
        let (row, keys) = match opening {
            Opening::Nothing => {
                let columns = &definition.columns;
                let stored =
                    StoredRow::parse(columns, &raw.key.0, &raw.parts, &raw.doc, raw.sealed.as_deref(), position)
                        .map_err(BatchError::from)?;
                (Some(stored.row), Keys::new())
            }
            Opening::Everything => {
                let (mut rows, keys, fences) =
                    batch::open_rows(&self.parts, definition, std::slice::from_ref(&raw)).await?;
                (rows.remove(&raw.key).filter(|row| is_whole(row, &fences)), keys)
            }
        };
        let last = Some((Revision(revision), Position(position)));
        Ok(row.map(|row| Work { row, keys, last, ..Work::new(definition, opening) }))
    }

    /// Folds a page, and keeps the state at the last boundary it passes.
    async fn page(&self, work: &mut Work<'_>, stream: &StreamName, mut page: Page) -> Result<(), FoldError> {
        let definition = work.definition;
        let places: Vec<(Revision, Position)> =
            page.events.iter().map(|event| (event.revision, event.position)).collect();
        let boundary = every(definition).and_then(|every| {
            places.iter().rev().find(|(revision, _)| (revision.0 + 1).is_multiple_of(every)).copied()
        });
        // What is of another type is not even opened.
        page.events.retain(|event| matches(&definition.from, &event.stream, &event.event_type));
        let viewer = match work.opening {
            Opening::Everything => batch::everything(),
            Opening::Nothing => Viewer { purposes: Purposes::None, ..batch::everything() },
        };
        let (views, keys) = batch::views_for(&self.parts, &page, &viewer).await?;
        work.keys.extend(keys);
        let mut views = views.into_iter().peekable();
        let mut kept = None;
        for place in places {
            if let Some(view) = views.next_if(|view| view.position == place.1) {
                work.event(&view)?;
            }
            work.folded += 1;
            work.last = Some(place);
            if boundary == Some(place) {
                kept = Some(work.row.clone());
            }
        }
        if let (Some(row), Some(place), Opening::Everything) = (kept, boundary, work.opening) {
            self.keep(definition, stream, row, &work.keys, place).await;
        }
        Ok(())
    }

    /// Stores a snapshot. That it cannot be stored is no reason not to answer: it is made again later.
    async fn keep(
        &self,
        definition: &Definition,
        stream: &StreamName,
        row: Row,
        keys: &Keys,
        at: (Revision, Position),
    ) {
        let name = definition.sealing_name();
        let key = key(definition, stream);
        let identity = RowIdentity { store: &self.parts.store_id, definition: &name, key: &key.0 };
        let encoded = match row.encode(&identity, &definition.columns, keys, &self.parts.entropy) {
            Ok(encoded) => encoded,
            Err(error) => {
                tracing::warn!(fold = %definition.name, error = %error, "a snapshot cannot be sealed");
                return;
            }
        };
        let snapshot = Snapshot { revision: at.0.0, position: at.1.0, doc: encoded.doc, sealed: encoded.sealed };
        let digest = super::definitions::digest(&definition.text);
        let owners = row.people().into_iter().collect();
        let (name, stream) = (definition.name.as_str(), stream.as_str());
        if let Err(error) = self.parts.store.put_snapshot(name, &digest, stream, snapshot, owners).await {
            tracing::warn!(fold = %definition.name, error = %error, "a snapshot cannot be stored");
        }
    }
}

/// A state on its way.
struct Work<'d> {
    definition: &'d Definition,
    opening: Opening,
    row: Row,
    keys: Keys,
    last: Option<(Revision, Position)>,
    folded: u64,
    parked: u64,
}

impl<'d> Work<'d> {
    fn new(definition: &'d Definition, opening: Opening) -> Self {
        let row = Row::new(&definition.columns, Map::new());
        Self { definition, opening, row, keys: Keys::new(), last: None, folded: 0, parked: 0 }
    }

    fn event(&mut self, view: &super::view::EventView) -> Result<(), FoldError> {
        match apply::fold(self.definition, &self.row, view) {
            Ok(Outcome::Changed(mut row)) => {
                room::fit(&mut row);
                work::settle(&mut row, &self.keys);
                self.row = row;
            }
            Ok(Outcome::Unchanged | Outcome::Deleted) => {}
            Err(_) if self.definition.on_error == OnError::Park => self.parked += 1,
            Err(error) => {
                let position = view.position.0;
                return Err(FoldError::Event { position, code: error.code(), message: error.to_string() });
            }
        }
        Ok(())
    }
}

/// Events between snapshots; `None` for a fold without.
pub fn every(definition: &Definition) -> Option<u64> {
    match &definition.kind {
        Kind::Fold { snapshot_every: Some(every), .. } => Some(u64::from(*every).max(1)),
        Kind::Fold { invariant: Some(_), .. } => Some(GUARD_EVERY),
        Kind::Fold { .. } | Kind::Rows { .. } => None,
    }
}

/// Whether a definition sees such an event. None sees the system's own.
pub fn matches(from: &Source, stream: &StreamName, event_type: &EventType) -> bool {
    let category = |category: &Category| *category == stream.category();
    !stream.is_system()
        && from.category.as_ref().is_none_or(category)
        && (from.types.is_empty() || from.types.contains(event_type))
}

/// What the envelopes of a snapshot are bound to, beside the fold.
fn key(definition: &Definition, stream: &StreamName) -> RowKey {
    let parts = Map::from_iter([("stream".to_owned(), Value::from(stream.as_str()))]);
    RowKey::of(&definition.sealing_name(), &parts)
}

/// Whether everything that is not there is not there because of a fence. A value that could not be read when the snapshot
/// was made, and could be now (a restriction was lifted), is found by folding from the beginning.
fn is_whole(row: &Row, fences: &Fences) -> bool {
    let fenced = |cell: &super::cell::Cell| {
        cell.owners.alternatives().all(|way| {
            let mut people = way.people.iter();
            people.any(|(subject, generation)| fences.covering(subject, way.purpose.as_str(), *generation).is_some())
        })
    };
    let mut cells = row.columns.iter().flat_map(Content::cells).map(|(_, cell)| cell);
    cells.all(|cell| cell.value.is_some() || cell.owners.is_public() || fenced(cell))
}

fn query(stream: &StreamName, from: u64, before: Option<u64>) -> ReadQuery {
    // Before everything there is nothing: beyond the end of the stream it is still said whether there is one.
    let from = if before == Some(0) { i64::MAX as u64 } else { from };
    ReadQuery {
        stream: Some(stream.clone()),
        from: Some(from),
        direction: Direction::Forward,
        limit: MOST_EVENTS,
        max_bytes: MOST_BYTES,
        until: before.map(|before| Position(before.saturating_sub(1))),
        filter: Filter::default(),
        system: false,
    }
}
