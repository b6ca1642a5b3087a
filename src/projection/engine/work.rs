//! The rows of one batch in memory.
//!
//! Owns: what they were, what they are now, and the write that makes it so. Must not know: the log, tables. A value whose
//! keys are not all alive is dropped at once: the next event must not see more than a rebuild would.

use std::collections::{HashMap, HashSet};

use crate::clock::Millis;
use crate::event::StoreId;
use crate::keystore::DekId;
use crate::projection::apply::{self, ApplyError, Change, Outcome};
use crate::projection::cell::{Cell, Content};
use crate::projection::code::{self, CodeError, CodeProjection, Handled};
use crate::projection::definition::{Definition, Kind, OnError};
use crate::projection::row::{EncodeError, Keys, Row, RowKey};
use crate::projection::store::{BatchWrite, RawRow, RowWrite};
use crate::projection::view::EventView;
use crate::projection::{aggregate_rows, index, room};
use crate::sealing::rows::RowIdentity;
use crate::secret::Entropy;

use super::batch::{BatchError, Parts};
use super::history::{At, Formers};
use super::threads;
use crate::projection::store::GenerationId;

/// Why a projection stopped at an event. Holds no values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The event.
    pub position: u64,
    /// Stable code.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
}

impl From<(u64, &CodeError)> for Stop {
    fn from((position, error): (u64, &CodeError)) -> Self {
        Self { position, code: error.code(), message: error.to_string() }
    }
}

impl Stop {
    fn new(position: u64, error: &ApplyError) -> Self {
        Self { position, code: error.code(), message: error.to_string() }
    }
}

/// Keys of rows that an event may be about, as far as they can be told.
pub fn candidates(definition: &Definition, view: &EventView) -> Vec<RowKey> {
    if definition.is_aggregate() {
        let keys = aggregate_rows::keys(definition, view).unwrap_or_default();
        return keys.into_iter().map(|(key, _)| key).collect();
    }
    apply::candidates(definition, view)
}

/// The rows of one batch.
pub struct Work<'d> {
    definition: &'d Definition,
    before: HashMap<RowKey, Row>,
    after: HashMap<RowKey, Option<Row>>,
    /// Rows that were looked for, there or not.
    read: HashSet<RowKey>,
    keys: Keys,
    parked: Vec<Stop>,
    last: u64,
    /// Former versions, where they are kept.
    formers: Option<Formers>,
}

impl<'d> Work<'d> {
    /// Work on these rows, with every key that is alive.
    pub fn new(definition: &'d Definition, before: HashMap<RowKey, Row>, keys: Keys) -> Self {
        let (after, read, parked) = (HashMap::new(), HashSet::new(), Vec::new());
        let formers = Formers::of(definition);
        Self { definition, before, after, read, keys, parked, last: 0, formers }
    }

    /// Adds what was found when these rows were looked for, with the keys that are alive.
    pub fn add(&mut self, read: impl IntoIterator<Item = RowKey>, found: HashMap<RowKey, Row>, keys: Keys) {
        self.read.extend(read);
        self.before.extend(found);
        self.keys.extend(keys);
    }

    /// Lets code handle one event; keys of rows that have to be read first, if there are any.
    ///
    /// # Errors
    /// [`Stop`]; the event changed nothing.
    pub fn event_by(&mut self, code: &dyn CodeProjection, view: &EventView) -> Result<Vec<RowKey>, Stop> {
        self.last = view.position.0;
        let row_of = |key: &RowKey| match self.after.get(key) {
            Some(row) => Some(row.as_ref()),
            None => self.before.get(key).map(Some).or_else(|| self.read.contains(key).then_some(None)),
        };
        match code::handle(code, self.definition, view, &row_of) {
            Ok(Handled::Needs(keys)) => return Ok(keys),
            Ok(Handled::Done(changes)) => self.take(changes, (view.position.0, view.recorded)),
            Err(error) => return Err((view.position.0, &error).into()),
        }
        Ok(Vec::new())
    }

    /// Handles one event.
    ///
    /// # Errors
    /// [`Stop`]; the event changed nothing.
    pub fn event(&mut self, view: &EventView) -> Result<(), Stop> {
        self.last = view.position.0;
        let changes = changes(self.definition, (&self.before, &self.after), view)?;
        self.take(changes, (view.position.0, view.recorded));
        Ok(())
    }

    /// Handles all events of a batch, those of different rows at the same time; `candidates` are the rows that each is
    /// about. `false` when one of them cannot be handled, or former versions are kept: then nothing happened.
    pub fn events(&mut self, views: &[EventView], candidates: &[Vec<RowKey>]) -> bool {
        debug_assert!(self.after.is_empty(), "a batch begins with all its events");
        if self.formers.is_some() {
            return false;
        }
        let parts = threads::apart(candidates, threads::parts(views.len()));
        let done = threads::each(parts, |part| {
            let mut after = HashMap::new();
            for at in part {
                for change in changes(self.definition, (&self.before, &after), &views[at])? {
                    match settled(self.definition, change.outcome, &self.keys) {
                        Outcome::Unchanged => None,
                        Outcome::Deleted => after.insert(change.key, None),
                        Outcome::Changed(row) => after.insert(change.key, Some(row)),
                    };
                }
            }
            Ok(after)
        });
        let Ok(done) = done.into_iter().collect::<Result<Vec<_>, Stop>>() else { return false };
        self.after.extend(done.into_iter().flatten());
        self.last = views.last().map_or(self.last, |view| view.position.0);
        true
    }

    fn take(&mut self, changes: Vec<Change>, at: At) {
        for change in changes {
            match settled(self.definition, change.outcome, &self.keys) {
                Outcome::Unchanged => {}
                Outcome::Deleted => self.put(change.key, None, at),
                Outcome::Changed(row) => self.put(change.key, Some(row), at),
            }
        }
    }

    /// The row is this now; what it was has ended.
    fn put(&mut self, key: RowKey, row: Option<Row>, at: At) {
        let changed = self.after.insert(key, row);
        let Some(formers) = &mut self.formers else { return };
        if let Some(former) = changed.unwrap_or_else(|| self.before.get(&key).cloned()) {
            formers.end(key, former, at);
        }
    }

    /// Former versions, where they are kept.
    pub fn formers(&mut self) -> Option<&mut Formers> {
        self.formers.as_mut()
    }

    /// Whether the batch should end, although there are more events.
    pub fn is_full(&self) -> bool {
        self.formers.as_ref().is_some_and(Formers::is_full)
    }

    /// Puts an event aside if the definition says so.
    pub fn parks(&mut self, stop: &Stop) -> bool {
        let parks = self.definition.on_error == OnError::Park;
        if parks {
            self.parked.push(stop.clone());
        }
        parks
    }

    /// Removes a row, and every former version of it.
    pub fn remove(&mut self, key: RowKey, row: Row) {
        self.before.entry(key).or_insert(row);
        self.after.insert(key, None);
        if let Some(formers) = &mut self.formers {
            formers.clear(key);
        }
    }

    /// Writes a row anew although no event of the definition changed it: dead envelopes go.
    pub fn rewrite(&mut self, key: RowKey, mut row: Row, at: At) {
        settle(&mut row, &self.keys);
        self.before.insert(key, row.clone());
        row.position = at.0;
        self.put(key, Some(row), at);
    }

    /// Writes a former version of a row anew, without dead envelopes, or removes it.
    pub fn change_version(&mut self, key: RowKey, row: Row, gone: bool) {
        let Some(formers) = &mut self.formers else { return };
        let version = (key, row.position);
        let left = (!gone).then(|| {
            let mut row = row;
            settle(&mut row, &self.keys);
            row
        });
        formers.change(version, left);
    }

    /// Whether the batch already has this row.
    pub fn holds(&self, key: &RowKey) -> bool {
        self.before.contains_key(key) || self.after.contains_key(key)
    }

    /// The write that lands it all.
    ///
    /// # Errors
    /// [`Stop`] when a row cannot be stored.
    pub fn finish(mut self, store: &StoreId, entropy: &Entropy, cursor: (u64, u64)) -> Result<BatchWrite, Stop> {
        let name = self.definition.sealing_name();
        let last = self.last;
        let refused = |error| refused(last, error);
        let history = self.formers.take();
        let history = history.map(|formers| formers.finish((self.definition, &name), &self.keys, store, entropy));
        let history = history.transpose().map_err(refused)?;
        let after: Vec<(RowKey, Option<Row>)> = self.after.into_iter().collect();
        let definition = self.definition;
        let done = threads::each(threads::pieces(&after), |piece| {
            let rows = piece.iter().map(|(key, after)| {
                let identity = RowIdentity { store, definition: &name, key: &key.0 };
                let rows = (self.before.get(key), after.as_ref());
                let write = write(definition, rows, &identity, *key, &self.keys, entropy);
                Ok(write.map_err(refused)?.map(|write| (*key, write)))
            });
            rows.filter_map(Result::transpose).collect::<Result<Vec<_>, Stop>>()
        });
        let mut rows: Vec<(RowKey, RowWrite)> =
            done.into_iter().collect::<Result<Vec<_>, Stop>>()?.into_iter().flatten().collect();
        rows.sort_by_key(|(key, _)| *key);
        let parked = self.parked.into_iter().map(|stop| (stop.position, stop.code, stop.message)).collect();
        Ok(BatchWrite { rows, parked, cursor, timers: self.definition.has_timers(), history, tell: None })
    }
}

/// The rows before the batch, and those changed by it.
type Rows<'r> = (&'r HashMap<RowKey, Row>, &'r HashMap<RowKey, Option<Row>>);

fn changes(definition: &Definition, (before, after): Rows<'_>, view: &EventView) -> Result<Vec<Change>, Stop> {
    let row_of = |key: &RowKey| match after.get(key) {
        Some(row) => row.as_ref(),
        None => before.get(key),
    };
    let handled = if definition.is_aggregate() {
        aggregate_rows::handle(definition, view, row_of)
    } else {
        apply::handle(definition, view, row_of)
    };
    handled.map_err(|error| Stop::new(view.position.0, &error))
}

/// What becomes of a row, with no more in it than fits and can be read.
fn settled(definition: &Definition, outcome: Outcome, keys: &Keys) -> Outcome {
    let Outcome::Changed(mut row) = outcome else { return outcome };
    if !definition.is_aggregate() {
        room::fit(&mut row);
    }
    settle(&mut row, keys);
    Outcome::Changed(row)
}

/// What becomes of a row in the tables; `None` for one that was not there and is not there now.
fn write(
    definition: &Definition,
    (before, after): (Option<&Row>, Option<&Row>),
    identity: &RowIdentity<'_>,
    key: RowKey,
    keys: &Keys,
    entropy: &Entropy,
) -> Result<Option<RowWrite>, EncodeError> {
    let mut write = RowWrite::default();
    if let Some(before) = before {
        write.owners.1 = before.about().into_iter().collect();
        write.entries.1 = index::entries(definition, before);
    }
    let Some(row) = after else { return Ok(before.map(|_| write)) };
    let encoded = row.encode(identity, &definition.columns, keys, entropy)?;
    write.owners.0 = row.about().into_iter().collect();
    write.entries.0 = index::entries(definition, row);
    write.timer = timer(definition, row);
    let position = row.position;
    write.row = Some(RawRow { key, parts: encoded.parts, doc: encoded.doc, sealed: encoded.sealed, position });
    Ok(Some(write))
}

/// Drops values of which no way to read them has all its keys alive.
pub fn settle(row: &mut Row, keys: &Keys) {
    for content in &mut row.columns {
        for (_, cell) in content.cells_mut() {
            if cell.value.is_some() && !cell.owners.is_public() && !alive(cell, keys) {
                cell.value = None;
            }
        }
    }
}

fn alive(cell: &Cell, keys: &Keys) -> bool {
    cell.owners.alternatives().any(|way| {
        way.people.iter().all(|(subject, generation)| {
            let id = DekId { subject: *subject, purpose: way.purpose.clone(), generation: *generation };
            keys.contains_key(&id)
        })
    })
}

fn refused(position: u64, error: EncodeError) -> Stop {
    let code = match error {
        EncodeError::TooLarge { .. } => "too-large",
        EncodeError::Entropy(_) => "no-randomness",
        EncodeError::MissingKey => "missing-key",
    };
    Stop { position, code, message: error.to_string() }
}

/// When the row's timer goes off: when it is due, or when its window is no longer kept.
fn timer(definition: &Definition, row: &Row) -> Option<Millis> {
    match &definition.kind {
        Kind::Rows { window: Some(window), .. } => aggregate_rows::kept_until(window, row),
        Kind::Rows { due: Some(due), .. } => match row.columns.get(due.at)? {
            Content::Single(cell) if cell.owners.is_public() => Millis::parse_rfc3339(cell.value.as_ref()?.as_str()?),
            _ => None,
        },
        _ => None,
    }
}

/// Removes windows that ended too long before the newest event handled.
///
/// # Errors
/// [`BatchError`].
pub async fn expire(
    parts: &Parts,
    definition: &Definition,
    id: GenerationId,
    now: Millis,
    work: &mut Work<'_>,
) -> Result<(), BatchError> {
    if !definition.expires() {
        return Ok(());
    }
    let over: Vec<RowKey> = parts.store.due(id, now, 1000).await?.into_iter().map(|(key, _)| key).collect();
    let over: Vec<RowKey> = over.into_iter().filter(|key| !work.holds(key)).collect();
    let (rows, _, _) = super::batch::load(parts, definition, id, over).await?;
    for (key, row) in rows {
        work.remove(key, row);
    }
    let expired: Vec<(RowKey, Row)> = work
        .after
        .iter()
        .filter_map(|(key, row)| Some((*key, row.clone()?)))
        .filter(|(_, row)| timer(definition, row).is_some_and(|until| until.0 <= now.0))
        .collect();
    for (key, row) in expired {
        work.remove(key, row);
    }
    Ok(())
}
