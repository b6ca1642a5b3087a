//! Aggregates: states of rows become results.
//!
//! Owns: merging the states of rows, and what is shown of a result over people. Must not know: how a state is made. A
//! person whose states lie in several rows is one person. What an aggregate keeps per person is opened whoever asks and
//! is never shown as such; the lease covers everyone who is in a result, so that none leaves after its people are gone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::candidates::Candidates;
use super::opening::{OpenRow, OpenRows};
use super::plan::Name;
use super::render::{RenderedRow, Shown, ShownCell};
use super::select::{Order, Page, push};
use super::{Attempt, QueryError, Run};
use crate::clock::Millis;
use crate::event::SubjectRef;
use crate::keystore::Lease;
use crate::projection::aggregate::{GroupResult, Partial, Redacted, finish_group};
use crate::projection::cell::{Cell, Content};
use crate::projection::definition::{Aggregate, Kind};
use crate::projection::index::WINDOW_START;
use crate::projection::row::{CorruptRow, RowKey};
use crate::projection::window;
use crate::read::render::marker;
use crate::read::{Redaction, State};

/// Rows merged into one item.
#[derive(Default)]
struct Group {
    parts: Map<String, Value>,
    position: u64,
    /// By place of the aggregate.
    states: BTreeMap<usize, States>,
    /// Who is in it.
    people: BTreeSet<SubjectRef>,
}

/// What went into one aggregate of one item.
#[derive(Default)]
struct States {
    public: Option<Partial>,
    people: BTreeMap<String, Share>,
}

/// One person's part; both when one of several rows cannot be read.
#[derive(Default)]
struct Share {
    readable: Option<Partial>,
    redacted: bool,
    /// Whose: several when a value was of several people.
    owners: BTreeSet<SubjectRef>,
}

/// A finished item.
struct Item {
    parts: Map<String, Value>,
    position: u64,
    results: BTreeMap<usize, Finished>,
    people: BTreeSet<SubjectRef>,
}

/// A result; without a value when too few people are in it.
struct Finished {
    value: Option<Value>,
    left_out: u64,
}

impl Run<'_> {
    /// Items of an aggregate.
    pub(super) async fn aggregates(&self, lease: Lease) -> Result<Attempt, QueryError> {
        if self.plan.grouping.whole { self.merged(lease).await } else { self.listed(lease).await }
    }

    /// Every row an item, until the page is full.
    async fn listed(&self, lease: Lease) -> Result<Attempt, QueryError> {
        let page = self.found(Candidates::new(self, true)).await?;
        let batch = self.open(page.rows, &self.plan.touched).await?;
        let mut items = Vec::with_capacity(batch.rows.len());
        for open in &batch.rows {
            let mut group = Group::default();
            self.merge(&mut group, open)?;
            items.push((open.key, self.finished(group)?));
        }
        let mut shown = self.show_items(&items);
        shown.next = page.next;
        let mut outcome = Page::default();
        outcome.note(&batch);
        Ok(self.conclude(shown, &items, &outcome, lease))
    }

    /// All rows, merged, finished, filtered, sorted; then the page.
    async fn merged(&self, lease: Lease) -> Result<Attempt, QueryError> {
        let mut outcome = Page::default();
        let mut items = BTreeMap::new();
        let mut order = Order::new(self.plan.query.after.as_ref(), self.plan.limit);
        for (key, group) in self.groups(&mut outcome).await? {
            let item = self.finished(group)?;
            if self.keeps(&item) {
                order.push(self.item_sort_key(&item), key);
                items.insert(key, item);
            }
        }
        let (keys, offset, more) = order.page();
        let next = keys.last().filter(|_| more).map(|last| self.after(*last, None, offset + keys.len()));
        let items: Vec<(RowKey, Item)> =
            keys.into_iter().filter_map(|key| items.remove(&key).map(|item| (key, item))).collect();
        let mut shown = self.show_items(&items);
        shown.next = next;
        Ok(self.conclude(shown, &items, &outcome, lease))
    }

    fn conclude(&self, shown: Shown, items: &[(RowKey, Item)], outcome: &Page, mut lease: Lease) -> Attempt {
        lease.narrow(items.iter().flat_map(|(_, item)| item.people.iter().copied()));
        self.finish(shown, outcome.epoch, outcome.missing, outcome.unavailable, lease)
    }

    async fn groups(&self, outcome: &mut Page) -> Result<BTreeMap<RowKey, Group>, QueryError> {
        let options = &self.reader.options;
        let mut candidates = Candidates::new(self, false);
        let mut groups: BTreeMap<RowKey, Group> = BTreeMap::new();
        loop {
            let Some(rows) = candidates.next(options.chunk).await? else { return Ok(groups) };
            let rows = self.matching(rows, outcome).await?;
            let batch: OpenRows = self.open(rows, &self.plan.touched).await?;
            outcome.note(&batch);
            for open in &batch.rows {
                let parts = self.group_parts(open)?;
                let key = RowKey::of(self.live.definition.name.as_str(), &parts);
                let group = groups.entry(key).or_insert_with(|| Group { parts, ..Group::default() });
                self.merge(group, open)?;
            }
            if candidates.examined > options.max_scan || groups.len() > options.max_groups {
                return Err(QueryError::TooBroad { examined: candidates.examined });
            }
        }
    }

    /// The parts that stay, and the begin of the step that the row's window lies in.
    fn group_parts(&self, open: &OpenRow) -> Result<Map<String, Value>, QueryError> {
        let kept = self.plan.grouping.parts.iter();
        let mut parts: Map<String, Value> =
            kept.filter_map(|name| Some((name.clone(), open.row.parts.get(name)?.clone()))).collect();
        if let Some(step) = self.plan.grouping.step {
            let start = open.row.parts.get(WINDOW_START).and_then(Value::as_str).and_then(Millis::parse_rfc3339);
            let begin = window::bucket(start.ok_or(CorruptRow)?, step);
            parts.insert(WINDOW_START.to_owned(), begin.rfc3339().into());
        }
        Ok(parts)
    }

    fn aggregate(&self, at: usize) -> Result<&Aggregate, QueryError> {
        let Kind::Rows { aggregates, .. } = &self.live.definition.kind else { return Err(QueryError::NoRows) };
        Ok(aggregates.get(at).ok_or(CorruptRow)?)
    }

    /// Takes the states of a row in.
    fn merge(&self, group: &mut Group, open: &OpenRow) -> Result<(), QueryError> {
        if group.parts.is_empty() {
            group.parts.clone_from(&open.row.parts);
        }
        group.position = group.position.max(open.row.position);
        for at in &self.plan.touched {
            let content = open.row.columns.get(*at).ok_or(CorruptRow)?;
            let states = group.states.entry(*at).or_default();
            match content {
                Content::Single(cell) if cell.owners.is_public() => self.add(&mut states.public, *at, cell)?,
                Content::Map(cells) => {
                    for (who, cell) in cells {
                        if cell.owners.is_public() {
                            self.add(&mut states.public, *at, cell)?;
                            continue;
                        }
                        let share = states.people.entry(who.clone()).or_default();
                        share.owners.append(&mut cell.owners.people());
                        if cell.value.is_some() {
                            group.people.extend(cell.owners.people());
                            // Left out when it does not fit: to say so would tell something about it.
                            let _ = self.add(&mut share.readable, *at, cell);
                        } else {
                            share.redacted = true;
                        }
                    }
                }
                Content::Single(_) | Content::List(_) => return Err(CorruptRow.into()),
            }
        }
        Ok(())
    }

    fn add(&self, to: &mut Option<Partial>, at: usize, cell: &Cell) -> Result<(), QueryError> {
        let Some(value) = cell.value.as_ref().filter(|value| !value.is_null()) else { return Ok(()) };
        let aggregate = self.aggregate(at)?;
        let state = Partial::from_json(&aggregate.function, value).map_err(|_| CorruptRow)?;
        let Some(sum) = to else {
            *to = Some(state);
            return Ok(());
        };
        sum.merge(&state).map_err(|error| QueryError::Aggregate { column: aggregate.name.clone(), error })
    }

    fn finished(&self, group: Group) -> Result<Item, QueryError> {
        let Group { parts, position, states, people } = group;
        let mut results = BTreeMap::new();
        for (at, states) in states {
            results.insert(at, finish(self.aggregate(at)?, states));
        }
        Ok(Item { parts, position, results, people })
    }

    /// Whether a filter by results keeps an item. A result that is not shown decides nothing.
    fn keeps(&self, item: &Item) -> bool {
        if !self.plan.grouping.filter_items {
            return true;
        }
        let known = |(name, _): &(Name, Vec<String>)| match name {
            Name::Column(at) => item.results.get(at).is_some_and(|result| result.value.is_some()),
            Name::Part(_) | Name::Position => true,
        };
        let mut members = item.parts.clone();
        for (at, result) in &item.results {
            let name = self.live.definition.columns[*at].name.clone();
            members.insert(name, result.value.clone().unwrap_or_default());
        }
        self.plan.reads.iter().all(known) && self.is_true(members)
    }

    /// As asked for, then by the parts in their order.
    fn item_sort_key(&self, item: &Item) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, descending) in &self.plan.sort {
            match name {
                Name::Part(part) => push(&mut out, item.parts.get(part), *descending),
                Name::Position => push(&mut out, Some(&item.position.into()), *descending),
                Name::Column(at) => {
                    push(&mut out, item.results.get(at).and_then(|result| result.value.as_ref()), *descending);
                }
            }
        }
        let start = self.plan.grouping.step.map(|_| WINDOW_START);
        for part in self.plan.grouping.parts.iter().map(String::as_str).chain(start) {
            push(&mut out, item.parts.get(part), false);
        }
        out
    }

    fn show_items(&self, items: &[(RowKey, Item)]) -> Shown {
        let mut shown = Shown::new(self.header());
        for (key, item) in items {
            let cells = self.plan.fields.iter().map(|name| match name {
                Name::Part(part) => ShownCell::public(item.parts.get(part).cloned().unwrap_or_default()),
                Name::Position => ShownCell::public(item.position.into()),
                Name::Column(at) => self.show_result(item.results.get(at)),
            });
            let cells: Vec<ShownCell> = cells.collect();
            let withheld = cells.iter().map(|cell| cell.redactions.len() as u64).sum::<u64>();
            if withheld > 0 {
                *shown.counts.redacted.entry(State::Withheld.as_str()).or_default() += withheld;
            }
            shown.items.push(RenderedRow::new(*key, item.position, cells, &shown.header));
        }
        shown
    }

    fn show_result(&self, result: Option<&Finished>) -> ShownCell {
        let Some(result) = result else { return ShownCell::public(Value::Null) };
        let left_out = result.left_out;
        if let Some(value) = &result.value {
            return ShownCell { value: Some(value.clone()), left_out, ..ShownCell::default() };
        }
        let value = match self.viewer.redaction {
            Redaction::Typed | Redaction::Null => Some(Value::Null),
            Redaction::Marker => Some(marker(&State::Withheld)),
            Redaction::Omit => None,
        };
        let redactions = vec![(String::new(), State::Withheld.as_str())];
        ShownCell { value, personal: true, redactions, left_out }
    }
}

fn finish(aggregate: &Aggregate, states: States) -> Finished {
    let function = &aggregate.function;
    let States { public, people } = states;
    let Some(declassify) = aggregate.declassify.as_ref().filter(|_| public.is_none() || !people.is_empty()) else {
        let value = public.unwrap_or_else(|| Partial::new(function)).finish(function);
        return Finished { value: Some(value), left_out: people.len() as u64 };
    };
    let mut shares: Vec<Result<Partial, Redacted>> = Vec::new();
    let mut counted: BTreeSet<SubjectRef> = BTreeSet::new();
    for mut share in people.into_values() {
        if share.readable.as_ref().is_some_and(|part| !part.is_empty()) {
            counted.append(&mut share.owners);
        }
        shares.extend(share.readable.map(Ok));
        shares.extend(share.redacted.then_some(Err(Redacted)));
    }
    let mut fits = true;
    if let Some(public) = public {
        // Joins somebody who counts already, so that it is not counted as one more person.
        if let Some(Ok(share)) = shares.iter_mut().find(|share| share.as_ref().is_ok_and(|part| !part.is_empty())) {
            fits = share.merge(&public).is_ok();
        }
    }
    // Shares of several people can be more than the people are.
    let enough = fits && counted.len() as u64 >= u64::from(declassify.min_group);
    let redacted = shares.iter().filter(|share| share.is_err()).count() as u64;
    // An error would tell something about values, even of fewer people than are shown.
    match finish_group(function, shares.into_iter(), declassify.min_group) {
        Ok(GroupResult::Value(value, left_out)) => Finished { value: enough.then_some(value), left_out },
        Ok(GroupResult::TooFew { redacted_count }) => Finished { value: None, left_out: redacted_count },
        Err(_) => Finished { value: None, left_out: redacted },
    }
}
