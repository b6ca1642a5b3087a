//! Queries: rows of a projection become what this caller may see.
//!
//! Owns: the order of a query (lease, rows, fences, keys, access log, rendering), its limits, what it may ask for. Must
//! not know: HTTP. Keeps invariants 5 (a lease is held before the first row is read) and 6 (*erased* comes from a fence
//! only; a key that cannot be had is `unavailable`), for rows as `read` does for events.
//!
//! A filter sees a row as the caller does: a row of which it reads a value that the caller may not see does not match,
//! and neither does one on which it fails. A filter over personal columns must come in a body, for URLs are written down
//! everywhere.

mod after;
mod candidates;
mod groups;
mod opening;
mod past;
mod plan;
mod render;
mod select;
mod show;
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use after::After;
pub use plan::FILTER;
pub use render::{Header, RenderedRow, RenderedRows, ShownCell};
pub use state::{RenderedState, StateRow, render_state};

use super::aggregate::AggregateError;
use super::definition::{Definition, IndexPart};
use super::expression::Expression;
use super::index;
use super::row::{CorruptRow, RowKey};
use super::store::{GenerationId, Store};
use crate::clock::Millis;
use crate::db::statement::DbError;
use crate::event::{StoreId, SubjectRef};
use crate::eventlog::ReadError;
use crate::keystore::{KeystoreError, Lease};
use crate::read::access::{AccessRefused, Viewing};
use crate::read::{Parts, Purposes, Viewer};
use candidates::Candidates;
use plan::Plan;

/// Limits of queries.
#[derive(Clone, Copy, Debug)]
pub struct QueryOptions {
    /// Rows of a page unless asked for.
    pub default_limit: usize,
    /// Most rows of a page.
    pub max_limit: usize,
    /// Most rows looked at for one query that filters, sorts or groups.
    pub max_scan: usize,
    /// Most stored bytes of the rows of a page; at least one row comes anyway.
    pub max_bytes: usize,
    /// Most groups of one query.
    pub max_groups: usize,
    /// Rows read together.
    pub chunk: usize,
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self {
            default_limit: 100,
            max_limit: 1000,
            max_scan: 100_000,
            max_bytes: 8 * 1024 * 1024,
            max_groups: 10_000,
            chunk: 1000,
        }
    }
}

/// What is asked for. Does not print: a filter may name personal values.
#[derive(Default)]
pub struct RowQuery {
    /// Which rows, compiled under [`FILTER`].
    pub filter: Option<Expression>,
    /// In which order; empty for the order of the keys, or of the index that finds the rows.
    pub sort: Vec<IndexPart>,
    /// Which key parts and columns; all when `None`.
    pub fields: Option<Vec<String>>,
    /// Rows of a page; 0 for the default, more than the greatest for the greatest.
    pub limit: usize,
    /// Where the last page ended.
    pub after: Option<After>,
    /// Whether the filter came in a body; else in a URL.
    pub by_body: bool,
    /// Length of windows in milliseconds: a multiple of one that is kept.
    pub step: Option<i64>,
    /// Key parts that stay; all others are merged.
    pub group_by: Vec<String>,
    /// One row.
    pub key: Option<RowKey>,
    /// Whether windows of every length answer; else those that the filter names, or the shortest.
    pub any_window: bool,
    /// The rows as they stood before the event at this position; of what follows a page, as they stood for it.
    pub before: Option<u64>,
}

/// What answers.
#[derive(Clone, Debug)]
pub struct Live<'a> {
    /// The definition.
    pub definition: &'a Definition,
    /// Its live generation.
    pub generation: GenerationId,
    /// That generation's cursor, read before the query begins.
    pub cursor: u64,
    /// Projections that columns are looked up in, as far as they exist.
    pub lookups: Vec<(&'a Definition, GenerationId)>,
}

/// Why there is no answer. Holds names, never values.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// A filter over a personal column in a URL.
    #[error("the column {column} holds personal data: send the filter in a body")]
    PersonalFilterInUrl {
        /// The column.
        column: String,
    },
    /// More rows than a query may look at, or more groups than it may make.
    #[error("the query is too broad: {examined} rows were looked at")]
    TooBroad {
        /// Rows looked at.
        examined: usize,
    },
    /// No such key part or column.
    #[error("there is no column or key part {name}")]
    UnknownName {
        /// As asked for.
        name: String,
    },
    /// `group_by` or `step` on a projection that aggregates nothing.
    #[error("only aggregates can be grouped")]
    NotAggregated,
    /// `step` on a projection without windows.
    #[error("the projection has no windows")]
    NoWindow,
    /// A step that no window divides.
    #[error("the step is no multiple of a window that is kept")]
    StepNotKept {
        /// Lengths of windows that are kept, in milliseconds.
        kept: Vec<i64>,
    },
    /// More sort columns than the limit.
    #[error("at most {limit} columns can be sorted by")]
    TooManySorts {
        /// The limit.
        limit: usize,
    },
    /// The rows are not kept as they were, or not as they were then.
    #[error("the rows of {projection} are not kept as they were then")]
    AsOfNotKept {
        /// The one asked, or one that it looks columns up in.
        projection: String,
        /// The last event recorded before what is kept, and since when it is; `None` when nothing is.
        since: Option<(u64, Millis)>,
    },
    /// The definition is a fold: it has no rows.
    #[error("the definition has no rows")]
    NoRows,
    /// The page before came from rows that have been built anew since, and its place cannot be found in these.
    #[error("the projection was rebuilt since the last page")]
    Rebuilt,
    /// States of an aggregate do not fit together.
    #[error("{column}: {error}")]
    Aggregate {
        /// The column.
        column: String,
        /// Why.
        error: AggregateError,
    },
    /// The tables cannot be read.
    #[error(transparent)]
    Database(#[from] DbError),
    /// A row contradicts the format.
    #[error(transparent)]
    Corrupt(#[from] CorruptRow),
    /// The fences cannot be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The access log cannot be written: nothing personal is shown.
    #[error(transparent)]
    AccessLog(#[from] AccessRefused),
    /// Keys cannot be reached and the caller did not ask for a partial answer.
    #[error("keys are unavailable")]
    KeysUnavailable(#[from] KeystoreError),
    /// Some keys are neither there nor recorded as destroyed.
    #[error("a key is unknown")]
    KeyUnknown,
    /// The keystore is behind the erasure record: no personal data is served until it has caught up.
    #[error("the erasure record has not been applied to the keystore")]
    ErasureRecordBehind,
}

/// Reads rows.
#[derive(Clone)]
pub struct RowReader {
    store: Store,
    parts: Parts,
    store_id: StoreId,
    options: QueryOptions,
}

/// An answer of which it is not yet known whether it may be given.
struct Attempt {
    rendered: RenderedRows,
    /// Whether a key was gone that no fence explains.
    missing: bool,
}

impl RowReader {
    /// A reader over these parts.
    pub fn new(store: Store, parts: Parts, store_id: StoreId, options: QueryOptions) -> Self {
        Self { store, parts, store_id, options }
    }

    /// Limits.
    pub fn options(&self) -> &QueryOptions {
        &self.options
    }

    /// Finds, opens and renders one page of rows.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn rows(&self, live: &Live<'_>, query: &RowQuery, viewer: &Viewer) -> Result<RenderedRows, QueryError> {
        let plan = Plan::new(live, query, &self.options)?;
        // Results over people are computed from what is sealed, whoever asks.
        let opens = viewer.purposes != Purposes::None || plan.declassifies;
        if opens && !self.parts.level.load(Ordering::SeqCst) {
            return Err(QueryError::ErasureRecordBehind);
        }
        self.kept(live, &plan).await?;
        let attempt = self.attempt(live, &plan, viewer, opens).await?;
        // What expired meanwhile may have been missing.
        self.kept(live, &plan).await?;
        if !attempt.missing {
            return Ok(attempt.rendered);
        }
        // A key was gone although no fence was there when they were read: it may have come since. Only a fence may say
        // "erased"; if there is still none, the key is unavailable, not erased.
        drop(attempt);
        let attempt = self.attempt(live, &plan, viewer, opens).await?;
        self.kept(live, &plan).await?;
        if attempt.missing && !viewer.partial {
            return Err(QueryError::KeyUnknown);
        }
        Ok(attempt.rendered)
    }

    async fn attempt(
        &self,
        live: &Live<'_>,
        plan: &Plan<'_>,
        viewer: &Viewer,
        opens: bool,
    ) -> Result<Attempt, QueryError> {
        // A forget that fences after this line waits for the lease, one that fenced before it is seen with the fences.
        let mut lease = self.parts.leases.begin();
        if !opens {
            lease.narrow([]);
        }
        let run = Run { reader: self, live, plan, viewer };
        if index::is_aggregate(live.definition) { run.aggregates(lease).await } else { run.page(lease).await }
    }
}

/// One query on its way.
struct Run<'r> {
    reader: &'r RowReader,
    live: &'r Live<'r>,
    plan: &'r Plan<'r>,
    viewer: &'r Viewer,
}

/// Whose values, for which purpose, how many.
type Viewings = BTreeMap<(SubjectRef, String), u32>;

impl Run<'_> {
    /// Rows as they are.
    async fn page(&self, mut lease: Lease) -> Result<Attempt, QueryError> {
        let page = if self.plan.sort.is_empty() {
            self.found(Candidates::new(self, true)).await?
        } else if let Some(ordered) = self.index_order().await? {
            self.found(Candidates::in_order(self, ordered.number, ordered.prefix.clone())).await?
        } else {
            self.sorted().await?
        };
        let batch = self.open(page.rows, &self.plan.touched).await?;
        let mut viewings = self.viewings(&batch, &self.plan.touched);
        lease.narrow(viewings.keys().map(|(subject, _)| *subject));
        for (whose, fields) in page.looked_at {
            let seen = viewings.entry(whose).or_default();
            *seen = fields.max(*seen);
        }
        self.record(viewings).await?;
        let mut shown = self.show(&batch);
        shown.next = page.next;
        let epoch = page.epoch.max(batch.fences.epoch());
        Ok(self.finish(shown, epoch, page.missing || batch.missing, page.unavailable || batch.unavailable, lease))
    }

    /// Returns when every personal value of the page may be shown.
    async fn record(&self, viewings: Viewings) -> Result<(), QueryError> {
        if viewings.is_empty() {
            return Ok(());
        }
        let viewings =
            viewings.iter().map(|((subject, purpose), fields)| Viewing { subject: *subject, purpose, fields: *fields });
        let parts = &self.reader.parts;
        parts.access.record(self.viewer, viewings, parts.clock.now()).await?;
        Ok(())
    }

    fn finish(&self, shown: render::Shown, epoch: u64, missing: bool, unavailable: bool, lease: Lease) -> Attempt {
        let rendered = RenderedRows {
            header: Arc::clone(&shown.header),
            items: shown.items,
            next: shown.next,
            position: self.plan.before.unwrap_or(self.live.cursor),
            epoch,
            unavailable: missing || unavailable || shown.counts.redacted.contains_key("unavailable"),
            opened: shown.counts.opened,
            redacted: shown.counts.redacted.into_iter().collect(),
            lease,
        };
        Attempt { rendered, missing }
    }
}
