//! Former versions of the rows of one batch.
//!
//! Owns: which states of rows end in a batch, one per event that changed the row, and the write that keeps them. Must not
//! know: the log, tables. A definition without a history has none of this, and nothing is done for it per event.

use crate::clock::Millis;
use crate::event::StoreId;
use crate::projection::definition::Definition;
use crate::projection::room;
use crate::projection::row::{EncodeError, Encoded, Keys, Row, RowKey};
use crate::projection::store::{GenerationId, HistoryWrite, RawRow, VersionId, VersionWrite};
use crate::sealing::rows::RowIdentity;
use crate::secret::Entropy;

use super::batch::{BatchError, Parts};

/// Bytes of former versions after which a batch ends: a large row that every event changes would else be in memory as many
/// times as there are events.
const MOST_BYTES: usize = 16 << 20;

/// Where an event stands, and when it was recorded.
pub type At = (u64, Millis);

/// Versions that end in a batch, are written anew, or go.
pub struct Formers {
    keep: i64,
    ended: Vec<(RowKey, Row, At)>,
    changed: Vec<(VersionId, Option<Row>)>,
    cleared: Vec<RowKey>,
    newest: Option<Millis>,
    bytes: usize,
}

impl Formers {
    /// `None` for a definition that keeps no history.
    pub fn of(definition: &Definition) -> Option<Self> {
        let keep = definition.history?;
        let (ended, changed, cleared) = Default::default();
        Some(Self { keep, ended, changed, cleared, newest: None, bytes: 0 })
    }

    /// This is what a row was until this event. What an event left that is handled again never stood.
    pub fn end(&mut self, key: RowKey, former: Row, at: At) {
        if former.position < at.0 {
            self.bytes += room::bytes(&former);
            self.ended.push((key, former, at));
        }
    }

    /// Writes a version anew, or removes it.
    pub fn change(&mut self, version: VersionId, row: Option<Row>) {
        self.changed.push((version, row));
    }

    /// Removes every version of a row.
    pub fn clear(&mut self, key: RowKey) {
        self.cleared.push(key);
    }

    /// The newest event handled was recorded then.
    pub fn handled(&mut self, at: Millis) {
        self.newest = Some(at);
    }

    /// Whether the batch should end.
    pub fn is_full(&self) -> bool {
        self.bytes > MOST_BYTES
    }

    /// The write that lands it all.
    ///
    /// # Errors
    /// [`EncodeError`] when a version cannot be stored.
    pub fn finish(
        self,
        (definition, name): (&Definition, &str),
        keys: &Keys,
        store: &StoreId,
        entropy: &Entropy,
    ) -> Result<HistoryWrite, EncodeError> {
        let encode = |key: &RowKey, row: &Row| {
            let identity = RowIdentity { store, definition: name, key: &key.0 };
            row.encode(&identity, &definition.columns, keys, entropy)
        };
        let end = |(key, row, (until, until_at)): (RowKey, Row, At)| {
            let owners = row.about().into_iter().collect();
            let Encoded { parts, doc, sealed } = encode(&key, &row)?;
            let row = RawRow { key, parts, doc, sealed, position: row.position };
            Ok(VersionWrite { row, until, until_at, owners })
        };
        let change = |(version, row): (VersionId, Option<Row>)| {
            let encoded = row.map(|row| encode(&version.0, &row)).transpose()?;
            Ok((version, encoded.map(|encoded| (encoded.doc, encoded.sealed))))
        };
        Ok(HistoryWrite {
            cleared: self.cleared,
            ended: self.ended.into_iter().map(end).collect::<Result<_, EncodeError>>()?,
            changed: self.changed.into_iter().map(change).collect::<Result<_, EncodeError>>()?,
            newest: self.newest,
            expired: self.newest.map(|newest| since(newest, self.keep)),
        })
    }
}

/// Versions that ended before this are not kept any more.
pub fn since(newest: Millis, keep: i64) -> Millis {
    Millis(newest.0.saturating_sub(keep))
}

/// Removes some of what expired and did not go with the batches that made it expire; whether there was any.
///
/// # Errors
/// [`BatchError`].
pub async fn tidy(parts: &Parts, definition: &Definition, id: GenerationId) -> Result<bool, BatchError> {
    let Some(keep) = definition.history else { return Ok(false) };
    let Some(newest) = parts.store.newest(id).await? else { return Ok(false) };
    let before = since(newest, keep);
    let any = parts.store.has_expired(id, before).await?;
    if any {
        parts.store.expire_some(id, before).await?;
    }
    Ok(any)
}
