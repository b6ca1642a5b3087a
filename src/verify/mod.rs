//! The whole-store check: a product feature, and the oracle of our own tests.
//!
//! Owns: what it means that a store is intact. Streams the log page by page; what it keeps is one number per stream and
//! one digest per person. Findings are places and facts, never values. Must not know: HTTP, SQL; it sees an engine only
//! through its contract, so every engine is held to the same. Never changes anything: it may run beside a live writer
//! and speaks about the log as it was when it began.

mod erasures;
mod event;
mod footprint;
mod report;
mod slots;

use std::collections::HashMap;
use std::num::NonZeroU64;

pub use report::{Defect, Finding, Place, Report};

use crate::event::{Position, StoreId, StreamId};
use crate::eventlog::{AuditRow, EventLog, Head, ReadError};
use crate::keystore::{Keystore, KeystoreError};
use crate::merkle::{Frontier, Hash, TILE_HEIGHT};
use crate::schema::Registry;
use crate::sealing::meta::Meta;

/// How much work a check does.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Events read at a time.
    pub page: usize,
    /// Which slots are opened; all else is checked for every event.
    pub open: Sampling,
    /// Findings kept; more are only counted.
    pub most_findings: usize,
    /// A tree head that somebody kept: the log must begin with it.
    pub since: Option<TreeHead>,
}

/// Size and root of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeHead {
    /// Number of leaves.
    pub size: u64,
    /// Root.
    pub root: Hash,
}

impl Default for Options {
    fn default() -> Self {
        Self { page: 500, open: Sampling::All, most_findings: 1000, since: None }
    }
}

/// Which of the readable slots are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// None.
    None,
    /// Every one.
    All,
    /// One in so many.
    Every(NonZeroU64),
}

impl Sampling {
    fn takes(self, number: u64) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Every(nth) => number.is_multiple_of(nth.get()),
        }
    }
}

/// Why the check could not be made. What is merely wrong in the store is a [`Finding`].
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// Keys cannot be reached.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
}

/// Checks a store. Without a keystore nothing is opened; without a registry schemas are not looked at.
///
/// # Errors
/// [`VerifyError`] when log or keystore cannot be read.
pub async fn verify(
    log: &dyn EventLog,
    keystore: Option<&dyn Keystore>,
    registry: Option<&Registry>,
    options: &Options,
) -> Result<Report, VerifyError> {
    let head = log.head().await?;
    let mut scan = Scan::new(head.store, registry, options);
    let mut opener = slots::Opener { log, keystore, store: head.store, open: options.open };
    let mut from = 0;
    while from < head.next.0 {
        let page = page(log, from, options.page.max(1), &head).await?;
        let mut open = Vec::new();
        let metas: Vec<Option<Meta<'_>>> = page.rows.iter().map(|row| scan.meta(row)).collect();
        for (row, meta) in page.rows.iter().zip(&metas) {
            scan.event(row, meta.as_ref());
            if let Some(meta) = meta {
                open.extend(slots::of(row, meta));
            }
        }
        opener.check(&open, &mut scan.out).await?;
        opener.check_ids(page.rows.iter().zip(&metas), &mut scan.out).await?;
        for (level, number, hash) in std::mem::take(&mut scan.nodes) {
            let kept = log.hashes(level, number, 1).await?;
            if kept.first().is_some_and(|(_, kept)| *kept != hash) {
                scan.out.find(Place::Node(level, number), Defect::TreeNode);
            }
        }
        for row in page.rows.iter().filter(|row| erasures::is_fenced_event(&row.event)) {
            erasures::recorded(log, &row.event, &mut scan.out).await?;
        }
        if let Some(row) = page.unreadable {
            scan.unreadable(row);
        }
        from = page.resume;
    }
    scan.end(&head);
    beyond(log, &head, &mut scan.out).await?;
    let Scan { people, mut out, .. } = scan;
    people.compare(log, head.next, options.page.max(1), &mut out).await?;
    erasures::check(log, keystore, &head, &mut out).await?;
    Ok(out.report)
}

/// Rows for one round, and where the next round begins.
struct RowPage {
    rows: Vec<AuditRow>,
    unreadable: Option<u64>,
    resume: u64,
}

/// Reads a page below the head. A row that cannot be read is a finding, not the end of the check.
async fn page(log: &dyn EventLog, from: u64, limit: usize, head: &Head) -> Result<RowPage, VerifyError> {
    let (mut rows, unreadable) = match log.audit_rows(Position(from), limit).await {
        Ok(rows) => (rows, None),
        Err(ReadError::Corrupt { row, .. }) if row >= from && row - from < limit as u64 => {
            let before = (row - from) as usize;
            let rows = if before > 0 { log.audit_rows(Position(from), before).await? } else { Vec::new() };
            (rows, Some(row))
        }
        Err(error) => return Err(error.into()),
    };
    rows.retain(|row| row.event.position < head.next);
    let after = rows.last().map(|row| row.event.position.0 + 1);
    let resume = unreadable.map(|row| row + 1).or(after).unwrap_or(head.next.0);
    Ok(RowPage { rows, unreadable, resume })
}

/// An event behind the end of the log. Who writes moves the end in the same transaction, so a head that is read after the
/// event is behind it.
async fn beyond(log: &dyn EventLog, head: &Head, out: &mut Out) -> Result<(), VerifyError> {
    let row = match log.audit_rows(head.next, 1).await {
        Ok(rows) => rows.first().map(|row| row.event.position),
        Err(ReadError::Corrupt { row, .. }) => Some(Position(row)),
        Err(error) => return Err(error.into()),
    };
    if let Some(position) = row
        && log.head().await?.next <= position
    {
        out.find(Place::Event(position), Defect::BeyondHead);
    }
    Ok(())
}

/// The report in the making.
struct Out {
    report: Report,
    most: usize,
}

impl Out {
    fn find(&mut self, place: Place, defect: Defect) {
        if self.report.findings.len() < self.most {
            self.report.findings.push(Finding { place, defect });
        } else {
            self.report.omitted += 1;
        }
    }
}

/// What is carried from event to event.
struct Scan<'a> {
    store: StoreId,
    registry: Option<&'a Registry>,
    next: u64,
    recorded: Option<crate::clock::Millis>,
    revisions: HashMap<StreamId, u64>,
    frontier: Frontier,
    /// Nodes of the last page that a log keeps.
    nodes: Vec<(u8, u64, Hash)>,
    options: &'a Options,
    people: footprint::People,
    out: Out,
}

impl<'a> Scan<'a> {
    fn new(store: StoreId, registry: Option<&'a Registry>, options: &'a Options) -> Self {
        let out = Out { report: Report::default(), most: options.most_findings };
        Self {
            store,
            registry,
            next: 0,
            recorded: None,
            revisions: HashMap::new(),
            frontier: Frontier::default(),
            nodes: Vec::new(),
            options,
            people: footprint::People::default(),
            out,
        }
    }

    fn meta<'r>(&mut self, row: &'r AuditRow) -> Option<Meta<'r>> {
        let meta = Meta::parse(&row.event.meta).ok().filter(event::well_formed);
        if meta.is_none() {
            self.out.find(Place::Event(row.event.position), Defect::MetaMalformed);
        }
        meta
    }

    fn event(&mut self, row: &AuditRow, meta: Option<&Meta<'_>>) {
        let place = Place::Event(row.event.position);
        self.out.report.events += 1;
        self.order(row, place);
        for defect in event::defects(&self.store, row, meta, self.registry) {
            self.out.find(place, defect);
        }
        let nodes = &mut self.nodes;
        self.frontier.push_noting(row.leaf, |level, number, hash| {
            if level > 0 && level % TILE_HEIGHT == 0 {
                nodes.push((level, number, *hash));
            }
        });
        if self.options.since.is_some_and(|kept| kept.size == self.frontier.size() && kept.root != self.frontier.root())
        {
            self.out.find(Place::Head, Defect::CheckpointContradicted);
        }
        if let Some(meta) = meta {
            self.out.report.slots += meta.slots.len() as u64;
            self.people.add(&row.event, meta);
        }
    }

    /// Positions, times and revisions. After a finding the count goes on from what is there, so that one missing event
    /// is one finding and not one for each that follows.
    fn order(&mut self, row: &AuditRow, place: Place) {
        let event = &row.event;
        if event.position.0 != self.next {
            self.out.find(Place::Event(Position(self.next)), Defect::Missing);
        }
        self.next = event.position.0 + 1;
        if self.recorded.is_some_and(|before| event.recorded < before) {
            self.out.find(place, Defect::TimeWentBack);
        }
        self.recorded = self.recorded.max(Some(event.recorded));
        let expected = self.revisions.get(&row.stream_id).map_or(0, |last| last + 1);
        if event.revision.0 != expected {
            self.out.find(place, Defect::Revision);
        }
        self.revisions.insert(row.stream_id, event.revision.0);
    }

    fn unreadable(&mut self, row: u64) {
        if self.next < row {
            self.out.find(Place::Event(Position(self.next)), Defect::Missing);
        }
        self.out.find(Place::Event(Position(row)), Defect::Unreadable);
        self.next = row + 1;
    }

    fn end(&mut self, head: &Head) {
        if self.next < head.next.0 {
            self.out.find(Place::Event(Position(self.next)), Defect::Missing);
        }
        if head.frontier.size() != head.next.0 {
            self.out.find(Place::Head, Defect::TreeSize);
        }
        if self.frontier != head.frontier {
            self.out.find(Place::Head, Defect::TreeRoot);
        }
        if self.options.since.is_some_and(|kept| kept.size > self.frontier.size()) {
            self.out.find(Place::Head, Defect::CheckpointAhead);
        }
        if self.recorded.is_some_and(|last| head.recorded < last) {
            self.out.find(Place::Head, Defect::HeadTime);
        }
    }
}
