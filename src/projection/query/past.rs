//! Rows as they stood.
//!
//! Owns: whether the rows of a moment are kept, and where they are found. Must not know: filters, viewers. What is shown of
//! them is decided as for the rows of now: with the fences and keys of now.

use super::candidates::looked_up;
use super::plan::Plan;
use super::{Live, QueryError, RowReader, Run};
use crate::clock::Millis;
use crate::projection::definition::Definition;
use crate::projection::engine::history::since;
use crate::projection::row::RowKey;
use crate::projection::store::{GenerationId, RawRow};

impl RowReader {
    /// Refuses what is not kept: of the rows, and of those that columns are looked up in. One moment is never mixed with
    /// another.
    pub(super) async fn kept(&self, live: &Live<'_>, plan: &Plan<'_>) -> Result<(), QueryError> {
        let Some(before) = plan.before else { return Ok(()) };
        self.kept_by(live.definition, live.generation, before).await?;
        for (other, generation) in &live.lookups {
            if looked_up(live, plan.touched.iter().copied(), other.name.as_str()) {
                self.kept_by(other, *generation, before).await?;
            }
        }
        Ok(())
    }

    /// A version is kept until the newest event handled is so much later than the event that ended it. So everything that
    /// stood after the last event before that time is there.
    async fn kept_by(&self, definition: &Definition, id: GenerationId, before: u64) -> Result<(), QueryError> {
        let refused = |since| QueryError::AsOfNotKept { projection: definition.name.to_string(), since };
        let keep = definition.history.ok_or_else(|| refused(None))?;
        let Some(newest) = self.store.newest(id).await? else { return Ok(()) };
        let since = since(newest, keep);
        match self.parts.log.position_at(Millis(since.0.saturating_sub(1))).await? {
            Some(last) if before <= last.0 => Err(refused(Some((last.0, since)))),
            Some(_) | None => Ok(()),
        }
    }
}

impl Run<'_> {
    /// Rows by key, in the order asked for: of now, or of the moment asked for.
    pub(super) async fn stored(&self, id: GenerationId, keys: &[RowKey]) -> Result<Vec<Option<RawRow>>, QueryError> {
        let store = &self.reader.store;
        Ok(match self.plan.before {
            Some(before) => store.rows_before(id, keys, before).await?,
            None => store.rows(id, keys).await?,
        })
    }
}
