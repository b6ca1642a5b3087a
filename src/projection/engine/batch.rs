//! One batch: events from the log, rows from the tables, applied, sealed, landed.
//!
//! Owns: the order of a batch. A lease is held from before the log is read until the rows are sealed, so a forget waits
//! for the clear values in memory here like for any answer in flight. Must not know: when batches run. A key that is
//! neither there nor fenced stops the batch: its values are unavailable, and nothing is written as if they were erased.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::history::At;
use super::sources::{self, Slice};
use super::threads;
use super::work::{self, Stop, Work};
use tokio::sync::broadcast;

use crate::clock::Clock;
use crate::db::statement::DbError;
use crate::event::{StoreId, SubjectRef};
use crate::eventlog::{EventLog, Fences, Page, ReadError};
use crate::keystore::lease::Leases;
use crate::keystore::{CachedKeystore, DekId, Fetched, KeystoreError};
use crate::projection::code::{CodeError, CodeProjection, Codes, MOST_ROWS};
use crate::projection::definition::Definition;
use crate::projection::row::{CorruptRow, Keys, Row, RowKey, StoredRow};
use crate::projection::store::{BatchWrite, GenerationId, RawRow, Store};
use crate::projection::view::EventView;
use crate::read::{Purposes, ReadFailed, Redaction, Viewer, open};
use crate::schema::Registry;
use crate::secret::Entropy;

/// What the engine is made of.
#[derive(Clone)]
pub struct Parts {
    /// The tables.
    pub store: Store,
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The keys.
    pub keys: Arc<CachedKeystore>,
    /// Leases of clear values in memory.
    pub leases: Arc<Leases>,
    /// For roles.
    pub registry: Arc<Registry>,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub entropy: Arc<Entropy>,
    /// Which store.
    pub store_id: StoreId,
    /// Whether the keystore has seen every erasure in the record.
    pub level: Arc<AtomicBool>,
    /// Code that definitions may name.
    pub codes: Arc<Codes>,
    /// Tells of changes of rows, for whoever follows them.
    pub changes: broadcast::Sender<Changed>,
}

/// A change that somebody may follow.
#[derive(Clone, Debug)]
pub enum Changed {
    /// Rows of a generation.
    Rows {
        /// Which generation.
        generation: GenerationId,
        /// Which rows.
        keys: Arc<[RowKey]>,
    },
    /// Another generation answers now.
    Swapped {
        /// Of this projection.
        name: String,
    },
}

impl Parts {
    /// Lands a batch and tells of it.
    pub(super) async fn land(&self, id: GenerationId, mut write: BatchWrite) -> Result<(), DbError> {
        let keys: Arc<[RowKey]> = if self.changes.receiver_count() > 0 {
            write.rows.iter().map(|(key, _)| *key).collect()
        } else {
            Arc::default()
        };
        if self.keys.keystore().nodes().is_some() {
            write.tell = Some(self.clock.now());
        }
        self.store.commit(id, write).await?;
        if !keys.is_empty() {
            // Nobody may be listening any more.
            let _ = self.changes.send(Changed::Rows { generation: id, keys });
        }
        Ok(())
    }
}

/// Most events of one batch.
pub const MOST_EVENTS: usize = 500;
/// Most bytes of events of one batch.
const MOST_BYTES: usize = 4 << 20;

/// What a batch did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There was nothing to do.
    Idle,
    /// The cursor is here now, after so many events.
    Advanced {
        /// Cursor.
        cursor: u64,
        /// Events handled.
        events: u64,
    },
    /// The cursor is here, at an event that cannot be handled.
    Stopped {
        /// Cursor, which is the event's position.
        cursor: u64,
        /// Why.
        stop: Stop,
    },
}

/// Why a batch did not happen. It is tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Something cannot be reached.
    #[error("{0}")]
    Unavailable(&'static str),
    /// A key is neither there nor recorded as destroyed.
    #[error("a key is unknown")]
    KeyUnknown,
    /// The keystore is behind the erasure record.
    #[error("the erasure record has not been applied to the keystore")]
    ErasureRecordBehind,
    /// Somebody else moved the cursor.
    #[error("another process moved the cursor")]
    Overtaken,
    /// Stored bytes contradict their format.
    #[error("the stored {0} is corrupt")]
    Corrupt(&'static str),
    /// The definition names code that this process does not have.
    #[error("this process has no code of the name {0}")]
    CodeUnknown(String),
}

impl From<DbError> for BatchError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Unavailable { reason } => Self::Unavailable(reason),
            DbError::Unmet => Self::Overtaken,
            DbError::Corrupt { table } => Self::Corrupt(table),
        }
    }
}

impl From<ReadError> for BatchError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable { reason } => Self::Unavailable(reason),
            ReadError::Corrupt { table, .. } => Self::Corrupt(table),
        }
    }
}

impl From<KeystoreError> for BatchError {
    fn from(error: KeystoreError) -> Self {
        match error {
            KeystoreError::Unavailable { reason } => Self::Unavailable(reason),
            KeystoreError::Corrupt { table, .. } => Self::Corrupt(table),
        }
    }
}

impl From<ReadFailed> for BatchError {
    fn from(error: ReadFailed) -> Self {
        match error {
            ReadFailed::Log(error) => error.into(),
            ReadFailed::KeysUnavailable(error) => error.into(),
            ReadFailed::KeyUnknown => Self::KeyUnknown,
            ReadFailed::ErasureRecordBehind => Self::ErasureRecordBehind,
            ReadFailed::AccessLog(_) => Self::Unavailable("the access log cannot be written"),
        }
    }
}

impl From<CorruptRow> for BatchError {
    fn from(_: CorruptRow) -> Self {
        Self::Corrupt("projection_rows")
    }
}

/// Handles the next events after the cursor.
///
/// # Errors
/// [`BatchError`]; then nothing changed.
pub async fn run(
    parts: &Parts,
    definition: &Definition,
    id: GenerationId,
    cursor: u64,
    limit: usize,
) -> Result<Progress, BatchError> {
    if !parts.level.load(Ordering::SeqCst) {
        return Err(BatchError::ErasureRecordBehind);
    }
    let code = parts.codes.of(definition).map_err(|name| BatchError::CodeUnknown(name.to_owned()))?;
    // A forget that fences after this line waits for the lease, one that fenced before it is in the snapshot.
    let lease = parts.leases.begin();
    let slice = sources::next(parts.log.as_ref(), &definition.from, cursor, limit, MOST_BYTES).await?;
    let Some(slice) = slice else { return Ok(Progress::Idle) };
    let done = match slice {
        Slice::Erasure { at, subject, scope } => {
            super::erasure::run(parts, definition, id, cursor, at, (subject, &scope)).await
        }
        Slice::Events { page, end } => events(parts, (definition, code.as_deref()), id, (cursor, end), &page).await,
    };
    drop(lease);
    done
}

/// A definition and its code.
type Program<'d> = (&'d Definition, Option<&'d dyn CodeProjection>);

async fn events(
    parts: &Parts,
    (definition, code): Program<'_>,
    id: GenerationId,
    span: (u64, u64),
    page: &Page,
) -> Result<Progress, BatchError> {
    let (views, of_events) = views(parts, page).await?;
    let candidates: Vec<Vec<RowKey>> = views.iter().map(|view| work::candidates(definition, view)).collect();
    let wanted: BTreeSet<RowKey> = candidates.iter().flatten().copied().collect();
    let mut work = Work::new(definition, HashMap::new(), of_events);
    read_rows(parts, definition, id, wanted.into_iter().collect(), &mut work).await?;
    let mut end = span.1;
    let mut stopped = None;
    let together = code.is_none() && work.events(&views, &candidates);
    for view in views.iter().filter(|_| !together) {
        let handled = match code {
            Some(code) => by_code(parts, (definition, code), id, view, &mut work).await?,
            None => work.event(view),
        };
        if let Err(stop) = handled {
            if work.parks(&stop) {
                continue;
            }
            end = view.position.0;
            stopped = Some(stop);
            break;
        }
        if work.is_full() {
            end = view.position.0 + 1;
            break;
        }
    }
    let handled = views.iter().filter(|view| view.position.0 < end).count() as u64;
    if let Some(last) = views.iter().rfind(|view| view.position.0 < end) {
        work::expire(parts, definition, id, last.recorded, &mut work).await?;
        if let Some(formers) = work.formers() {
            formers.handled(last.recorded);
        }
    }
    let write = match work.finish(&parts.store_id, &parts.entropy, (span.0, end)) {
        Ok(write) => write,
        // One of several events made a row too large: find it by going one by one.
        Err(stop) if views.len() > 1 => {
            return Box::pin(one_by_one(parts, (definition, code), id, span.0, stop)).await;
        }
        Err(stop) => {
            let at = views.first().map(|view| (view.position.0, view.recorded));
            return park_or_stop(parts, definition, id, span, at, stop).await;
        }
    };
    if end > span.0 || !write.rows.is_empty() {
        crate::crash::point("projection.before-commit");
        parts.land(id, write).await?;
        crate::crash::point("projection.after-commit");
    }
    Ok(match stopped {
        Some(stop) => Progress::Stopped { cursor: end, stop },
        None => Progress::Advanced { cursor: end, events: handled },
    })
}

/// Rows are read as the code asks for them, and the event is handled from the beginning each time.
async fn by_code(
    parts: &Parts,
    (definition, code): (&Definition, &dyn CodeProjection),
    id: GenerationId,
    view: &EventView,
    work: &mut Work<'_>,
) -> Result<Result<(), Stop>, BatchError> {
    // Every round reads at least one row. Code that asks for others each time does not always do the same.
    for _ in 0..=MOST_ROWS {
        match work.event_by(code, view) {
            Ok(keys) if keys.is_empty() => return Ok(Ok(())),
            Ok(keys) => read_rows(parts, definition, id, keys, work).await?,
            Err(stop) => return Ok(Err(stop)),
        }
    }
    Ok(Err((view.position.0, &CodeError::TooManyRows).into()))
}

async fn read_rows(
    parts: &Parts,
    definition: &Definition,
    id: GenerationId,
    wanted: Vec<RowKey>,
    work: &mut Work<'_>,
) -> Result<(), BatchError> {
    let (rows, keys, _) = load(parts, definition, id, wanted.clone()).await?;
    work.add(wanted, rows, keys);
    Ok(())
}

async fn one_by_one(
    parts: &Parts,
    program: Program<'_>,
    id: GenerationId,
    cursor: u64,
    stop: Stop,
) -> Result<Progress, BatchError> {
    match sources::next(parts.log.as_ref(), &program.0.from, cursor, 1, MOST_BYTES).await? {
        Some(Slice::Events { page, end }) => events(parts, program, id, (cursor, end), &page).await,
        _ => Ok(Progress::Stopped { cursor, stop }),
    }
}

/// An event whose row cannot be stored.
async fn park_or_stop(
    parts: &Parts,
    definition: &Definition,
    id: GenerationId,
    (cursor, end): (u64, u64),
    at: Option<At>,
    stop: Stop,
) -> Result<Progress, BatchError> {
    let mut work = Work::new(definition, HashMap::new(), Keys::new());
    if !work.parks(&stop) {
        return Ok(Progress::Stopped { cursor: at.map_or(cursor, |at| at.0), stop });
    }
    if let Some((formers, at)) = work.formers().zip(at) {
        formers.handled(at.1);
    }
    if let Ok(write) = work.finish(&parts.store_id, &parts.entropy, (cursor, end)) {
        parts.land(id, write).await?;
    }
    Ok(Progress::Advanced { cursor: end, events: 1 })
}

/// Everyone may be opened here: what is derived is sealed again to the same owners.
pub fn everything() -> Viewer {
    Viewer {
        principal: "$projection".to_owned(),
        purposes: Purposes::All,
        redaction: Redaction::Typed,
        partial: false,
        reason: String::new(),
        route: "$projection",
        request: String::new(),
    }
}

/// The events of a page, opened, and the keys that opened them: derived cells are sealed under them.
///
/// # Errors
/// [`BatchError::KeyUnknown`] when a value does not open and no fence says why.
pub async fn views(parts: &Parts, page: &Page) -> Result<(Vec<EventView>, Keys), BatchError> {
    views_for(parts, page, &everything()).await
}

/// The same, of what this viewer may have opened.
///
/// # Errors
/// As [`views`].
pub async fn views_for(parts: &Parts, page: &Page, viewer: &Viewer) -> Result<(Vec<EventView>, Keys), BatchError> {
    let metas = open::metas(page)?;
    let mut plan = open::plan(page, &metas, viewer);
    let wanted = std::mem::take(&mut plan.wanted);
    let fetched = parts.keys.fetch(wanted.clone()).await?;
    let opened = open::open(parts.store_id, page, &metas, &plan, Some(&fetched));
    if opened.missing {
        return Err(BatchError::KeyUnknown);
    }
    let views = threads::each(threads::pieces(&opened.events(page, &metas)), |piece| {
        piece.iter().map(|event| EventView::new(event, &parts.registry)).collect::<Result<Vec<_>, _>>()
    });
    let views = views.into_iter().collect::<Result<Vec<_>, _>>().map_err(|_| BatchError::Corrupt("events"))?;
    Ok((views.into_iter().flatten().collect(), live(wanted, fetched)))
}

async fn alive(parts: &Parts, wanted: Vec<DekId>) -> Result<Keys, BatchError> {
    let fetched = parts.keys.fetch(wanted.clone()).await?;
    Ok(live(wanted, fetched))
}

fn live(wanted: Vec<DekId>, fetched: Vec<Fetched>) -> Keys {
    let keys = wanted.into_iter().zip(fetched).filter_map(|(id, answer)| match answer {
        Fetched::Key(key) => Some((id, key)),
        Fetched::Destroyed { .. } | Fetched::Unknown => None,
    });
    keys.collect()
}

/// Rows by key, opened, with the keys that opened them.
///
/// # Errors
/// [`BatchError::KeyUnknown`] when a cell does not open and no fence says why.
pub async fn load(
    parts: &Parts,
    definition: &Definition,
    id: GenerationId,
    wanted: Vec<RowKey>,
) -> Result<(HashMap<RowKey, Row>, Keys, Fences), BatchError> {
    let raw: Vec<RawRow> = parts.store.rows(id, &wanted).await?.into_iter().flatten().collect();
    open_rows(parts, definition, &raw).await
}

/// Opens rows as they come from the tables.
///
/// # Errors
/// As [`load`].
pub async fn open_rows(
    parts: &Parts,
    definition: &Definition,
    raw: &[RawRow],
) -> Result<(HashMap<RowKey, Row>, Keys, Fences), BatchError> {
    let (rows, keys, fences) = open_versions(parts, definition, raw).await?;
    Ok((rows.into_iter().collect(), keys, fences))
}

/// Opens rows as they come from the tables, in that order; several may have the same key.
///
/// # Errors
/// As [`load`].
pub async fn open_versions(
    parts: &Parts,
    definition: &Definition,
    raw: &[RawRow],
) -> Result<(Vec<(RowKey, Row)>, Keys, Fences), BatchError> {
    let all = |_: &str| true;
    let stored = raw
        .iter()
        .map(|row| {
            let sealed = row.sealed.as_deref();
            StoredRow::parse(&definition.columns, &row.key.0, &row.parts, &row.doc, sealed, row.position)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let people: BTreeSet<SubjectRef> = stored.iter().flat_map(|row| row.row.people()).collect();
    let fences =
        if people.is_empty() { Fences::default() } else { parts.log.fences(people.into_iter().collect()).await? };
    let wanted: BTreeSet<DekId> = stored.iter().flat_map(|row| row.wanted(&fences, &all).collect::<Vec<_>>()).collect();
    let keys = alive(parts, wanted.into_iter().collect()).await?;
    let name = definition.sealing_name();
    let mut rows = Vec::with_capacity(stored.len());
    for row in stored {
        let key = row.key;
        let (row, missing) = row.open((&parts.store_id, &name), &definition.columns, &keys, &fences, &all);
        if missing {
            return Err(BatchError::KeyUnknown);
        }
        rows.push((key, row));
    }
    Ok((rows, keys, fences))
}
