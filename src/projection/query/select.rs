//! Which rows are on the page.
//!
//! Owns: filters, orders, paging, and how many rows a query may look at. Must not know: how rows look. A value that the
//! viewer may not see decides nothing: a filter over it does not match, and an order puts it last in both directions.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::candidates::{Candidate, Candidates};
use super::opening::{OpenRow, OpenRows};
use super::plan::{Name, Ordered};
use super::{After, QueryError, Run, Viewings};
use crate::clock::Millis;
use crate::projection::cell::Content;
use crate::projection::definition::ColumnType;
use crate::projection::expression::Inputs;
use crate::projection::index::{self, SEALED};
use crate::projection::row::RowKey;
use crate::read::Purposes;

/// The rows of a page, sealed.
#[derive(Default)]
pub struct Page {
    /// The rows, in order.
    pub rows: Vec<Candidate>,
    /// Where the next page begins.
    pub next: Option<After>,
    /// Values that a filter looked at, whether or not it held: an answer without a row says something too.
    pub looked_at: Viewings,
    /// Latest erasure epoch among the people whose values decided.
    pub epoch: u64,
    /// As in [`OpenRows`].
    pub missing: bool,
    /// As in [`OpenRows`].
    pub unavailable: bool,
}

impl Page {
    pub(super) fn note(&mut self, batch: &OpenRows) {
        self.epoch = self.epoch.max(batch.fences.epoch());
        self.missing |= batch.missing;
        self.unavailable |= batch.unavailable;
    }
}

impl Run<'_> {
    /// Rows in the order in which they are found, until the page is full.
    pub(super) async fn found(&self, mut candidates: Candidates<'_>) -> Result<Page, QueryError> {
        let mut page = Page::default();
        let mut bytes = 0;
        let options = &self.reader.options;
        // An index finds little else than what is looked for; whatever finds more looks further each time.
        let mut chunk = self.plan.limit + 1;
        loop {
            let left = (self.plan.limit + 1).saturating_sub(page.rows.len());
            let plan = self.plan;
            let filtered = plan.query.filter.is_some() || plan.window.is_some() || plan.before.is_some();
            let wanted = if filtered { chunk } else { left };
            let Some(rows) = candidates.next(wanted.min(options.chunk)).await? else { return Ok(page) };
            chunk = (2 * chunk).max(64);
            for row in self.matching(rows, &mut page).await? {
                let full = page.rows.len() == self.plan.limit || bytes + row.size > options.max_bytes;
                if full && !page.rows.is_empty() {
                    page.next = self.after_last(&page);
                    return Ok(page);
                }
                bytes += row.size;
                page.rows.push(row);
            }
            if self.plan.is_bounded() && candidates.examined >= options.max_scan {
                if page.rows.len() < self.plan.limit {
                    return Err(QueryError::TooBroad { examined: candidates.examined });
                }
                page.next = self.after_last(&page);
                return Ok(page);
            }
        }
    }

    /// The index in whose order rows are asked for, unless something sealed stands in it: of that the index does not know
    /// the place. A page is followed by one of the same kind.
    pub(super) async fn index_order(&self) -> Result<Option<&Ordered>, QueryError> {
        let Some(ordered) = &self.plan.ordered else { return Ok(None) };
        if let Some(after) = &self.plan.query.after {
            return Ok(after.entry.is_some().then_some(ordered));
        }
        for prefix in &ordered.sealed {
            let (store, id) = (&self.reader.store, self.live.generation);
            if !store.indexed(id, ordered.number, prefix, None, 1).await?.is_empty() {
                return Ok(None);
            }
        }
        Ok(Some(ordered))
    }

    /// Rows in the order asked for. Only keys and what they are sorted by are kept while looking for them, and only as
    /// many as the page needs; the rows of the page are then read again.
    pub(super) async fn sorted(&self) -> Result<Page, QueryError> {
        let mut page = Page::default();
        let mut candidates = Candidates::new(self, false);
        let mut order = Order::new(self.plan.query.after.as_ref(), self.plan.limit);
        loop {
            let Some(rows) = candidates.next(self.reader.options.chunk).await? else { break };
            let rows = self.matching(rows, &mut page).await?;
            let batch = self.decide(rows, &self.plan.sorted, &mut page).await?;
            for open in &batch.rows {
                order.push(self.sort_key(open), open.key);
            }
            if candidates.examined > self.reader.options.max_scan {
                return Err(QueryError::TooBroad { examined: candidates.examined });
            }
        }
        let (keys, offset, more) = order.page();
        let rows = self.by_keys(&keys).await?;
        let mut bytes = 0;
        for row in rows {
            if let Some(last) = page.rows.last().filter(|_| bytes + row.size > self.reader.options.max_bytes) {
                let given = keys.iter().position(|key| *key == row.key).unwrap_or_default();
                page.next = Some(self.after(last.key, None, offset + given));
                return Ok(page);
            }
            bytes += row.size;
            page.rows.push(row);
        }
        if let Some(last) = keys.last().filter(|_| more) {
            page.next = Some(self.after(*last, None, offset + keys.len()));
        }
        Ok(page)
    }

    pub(super) fn after(&self, key: RowKey, entry: Option<Vec<u8>>, offset: usize) -> After {
        After { generation: self.live.generation, key, entry, offset, before: self.plan.before }
    }

    fn after_last(&self, page: &Page) -> Option<After> {
        page.rows.last().map(|row| self.after(row.key, row.entry.clone(), 0))
    }

    /// Rows that the filter holds for.
    pub(super) async fn matching(&self, rows: Vec<Candidate>, page: &mut Page) -> Result<Vec<Candidate>, QueryError> {
        let mut rows: Vec<Candidate> = rows.into_iter().filter(|row| self.in_window(row)).collect();
        if self.plan.query.filter.is_none() || self.plan.grouping.filter_items {
            return Ok(rows);
        }
        self.refuse_personal(&rows)?;
        let batch = self.decide(rows.clone(), &self.plan.filtered, page).await?;
        for (whose, fields) in self.viewings(&batch, &self.plan.filtered) {
            *page.looked_at.entry(whose).or_default() += fields;
        }
        let mut matches = batch.rows.iter().map(|open| self.holds(open));
        rows.retain(|_| matches.next().unwrap_or(false));
        Ok(rows)
    }

    fn in_window(&self, row: &Candidate) -> bool {
        let Some(window) = &self.plan.window else { return true };
        let part = row.stored.row.parts.get(crate::projection::index::WINDOW);
        part.and_then(Value::as_str) == Some(window)
    }

    /// Opens what decides about rows.
    async fn decide(
        &self,
        rows: Vec<Candidate>,
        columns: &BTreeSet<usize>,
        page: &mut Page,
    ) -> Result<OpenRows, QueryError> {
        let nothing = BTreeSet::new();
        let none = *self.purposes() == Purposes::None;
        let batch = self.open(rows, if none { &nothing } else { columns }).await?;
        page.note(&batch);
        Ok(batch)
    }

    fn refuse_personal(&self, rows: &[Candidate]) -> Result<(), QueryError> {
        if self.plan.query.by_body {
            return Ok(());
        }
        for (name, path) in &self.plan.reads {
            let Name::Column(at) = name else { continue };
            let personal = |row: &Candidate| {
                let taint = self.content_of(row, *at).map(|content| content.taint(path));
                taint.is_some_and(|taint| taint.map_or(true, |(owners, _)| !owners.is_public()))
            };
            if rows.iter().any(personal) {
                return Err(QueryError::PersonalFilterInUrl { column: self.live.definition.columns[*at].name.clone() });
            }
        }
        Ok(())
    }

    fn holds(&self, open: &OpenRow) -> bool {
        let readable = |(name, path): &(Name, Vec<String>)| match name {
            Name::Column(at) => {
                open.row.columns.get(*at).is_some_and(|c| matches!(c.taint(path), Ok((_, readable)) if readable))
            }
            Name::Part(_) | Name::Position => true,
        };
        if !self.plan.reads.iter().all(readable) {
            return false;
        }
        let mut row = open.row.parts.clone();
        if let Value::Object(columns) = open.row.clear(&self.live.definition.columns) {
            row.extend(columns);
        }
        self.is_true(row)
    }

    /// Whether the filter holds for these members. One that fails does not.
    pub(super) fn is_true(&self, row: Map<String, Value>) -> bool {
        let Some(filter) = &self.plan.query.filter else { return true };
        let (row, nothing) = (Value::Object(row), Value::Null);
        let inputs = Inputs { data: &nothing, event: &nothing, subject: &nothing, row: &row, key: &nothing };
        matches!(filter.evaluate(&inputs), Ok(Some(Value::Bool(true))))
    }

    /// What a row is sorted by, as bytes.
    fn sort_key(&self, open: &OpenRow) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, descending) in &self.plan.sort {
            match name {
                Name::Part(part) => push(&mut out, open.row.parts.get(part), *descending),
                Name::Position => push(&mut out, Some(&open.row.position.into()), *descending),
                Name::Column(at) => {
                    let column = &self.live.definition.columns[*at];
                    let value = match &open.row.columns[*at] {
                        Content::Single(cell) => cell.value.as_ref(),
                        Content::List(_) | Content::Map(_) => None,
                    };
                    if column.kind == ColumnType::Timestamp
                        && let Some(time) = value.and_then(Value::as_str).and_then(Millis::parse_rfc3339)
                    {
                        // Times with different offsets sort as instants.
                        push(&mut out, Some(&time.0.into()), *descending);
                        continue;
                    }
                    push(&mut out, value, *descending);
                }
            }
        }
        out
    }
}

pub(super) fn push(out: &mut Vec<u8>, value: Option<&Value>, descending: bool) {
    match value {
        Some(value) => index::push_value(out, value, descending),
        None => out.push(SEALED),
    }
}

/// The best of many, by what they are sorted by and then by their keys.
pub(super) struct Order {
    best: Vec<(Vec<u8>, RowKey)>,
    after: Option<(RowKey, usize)>,
    limit: usize,
    most: usize,
}

impl Order {
    /// For the page after one.
    pub(super) fn new(after: Option<&After>, limit: usize) -> Self {
        let after = after.map(|after| (after.key, after.offset));
        // A page more than needed: rows may have come in before the last one since.
        let most = after.map_or(0, |(_, offset)| offset).saturating_add(2 * limit + 1);
        Self { best: Vec::new(), after, limit, most }
    }

    /// Adds one.
    pub(super) fn push(&mut self, by: Vec<u8>, key: RowKey) {
        self.best.push((by, key));
        if self.best.len() >= self.most.saturating_mul(2) {
            self.best.sort_unstable();
            self.best.truncate(self.most);
        }
    }

    /// The page, how many stand before it, and whether there is more. It begins behind the last page's last row, wherever
    /// that stands now, if it still stands near; else at the same place.
    pub(super) fn page(mut self) -> (Vec<RowKey>, usize, bool) {
        self.best.sort_unstable();
        let start = self.after.map_or(0, |(key, offset)| {
            let stands = self.best.iter().position(|(_, found)| *found == key).map(|at| at + 1);
            stands.filter(|at| at.abs_diff(offset) <= self.limit).unwrap_or(offset)
        });
        let more = self.best.len() > start + self.limit;
        let keys = self.best.iter().skip(start).take(self.limit).map(|(_, key)| *key).collect();
        (keys, start, more)
    }
}
