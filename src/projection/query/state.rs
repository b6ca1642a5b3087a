//! The state of a fold as one viewer sees it.
//!
//! Owns: what of a row that was computed just now may be shown, with the same decisions as for rows from the tables. Must
//! not know: how the state came about, HTTP. Keeps invariant 5: the lease is new and the fences are read after it, so it
//! does not matter how long the computation took, and whatever was fenced meanwhile is not shown.

use serde_json::{Map, Value};

use super::opening::OpenRows;
use super::show::Cells;
use super::{QueryError, Viewings};
use crate::keystore::Lease;
use crate::projection::cell::Content;
use crate::projection::definition::Definition;
use crate::projection::row::{Keys, Row};
use crate::read::access::Viewing;
use crate::read::render::Counts;
use crate::read::{Parts, Viewer};

/// A row in memory, with the keys that opened its values.
pub struct StateRow {
    /// The row; its values are in clear.
    pub row: Row,
    /// The keys.
    pub keys: Keys,
}

/// A state that holds opened personal data. The lease must be checked before every write of it.
pub struct RenderedState {
    /// Column by column; what is left out is not there.
    pub state: Map<String, Value>,
    /// What is not shown, and why: `column/place`.
    pub redactions: Map<String, Value>,
    /// Personal values shown in clear.
    pub opened: u64,
    /// Personal values not shown, by state.
    pub redacted: Vec<(&'static str, u64)>,
    /// Held until the last byte has left.
    pub lease: Lease,
}

/// Renders a state.
///
/// # Errors
/// [`QueryError`] when fences cannot be read or the access log cannot be written: then nothing is shown.
pub async fn render_state(
    parts: &Parts,
    definition: &Definition,
    state: StateRow,
    viewer: &Viewer,
) -> Result<RenderedState, QueryError> {
    let mut lease = parts.leases.begin();
    let StateRow { mut row, keys } = state;
    let people = row.people();
    let mut batch = OpenRows { keys, ..OpenRows::default() };
    if !people.is_empty() {
        batch.fences = parts.log.fences(people.into_iter().collect()).await?;
    }
    hide(&mut row, &batch, viewer);
    let viewings: Viewings = batch.viewings(row.columns.iter(), &viewer.purposes);
    lease.narrow(viewings.keys().map(|(subject, _)| *subject));
    if !viewings.is_empty() {
        let viewings =
            viewings.iter().map(|((subject, purpose), fields)| Viewing { subject: *subject, purpose, fields: *fields });
        parts.access.record(viewer, viewings, parts.clock.now()).await?;
    }
    let cells = Cells {
        registry: &parts.registry,
        redaction: viewer.redaction,
        purposes: &viewer.purposes,
        fences: &batch.fences,
    };
    let mut counts = Counts::default();
    let (mut members, mut redactions) = (Map::new(), Map::new());
    for (column, content) in definition.columns.iter().zip(&row.columns) {
        let shown = cells.show(content, column, &mut counts);
        members.extend(shown.value.map(|value| (column.name.clone(), value)));
        let state = |(path, state): (String, &'static str)| (format!("{}{path}", column.name), Value::from(state));
        redactions.extend(shown.redactions.into_iter().map(state));
    }
    let Counts { opened, redacted } = counts;
    Ok(RenderedState { state: members, redactions, opened, redacted: redacted.into_iter().collect(), lease })
}

/// Takes out every value that no way is open to for this viewer.
fn hide(row: &mut Row, batch: &OpenRows, viewer: &Viewer) {
    for (_, cell) in row.columns.iter_mut().flat_map(Content::cells_mut) {
        let open = cell.owners.alternatives().any(|way| batch.is_open(way, &viewer.purposes));
        if !cell.owners.is_public() && !open {
            cell.value = None;
        }
    }
}
