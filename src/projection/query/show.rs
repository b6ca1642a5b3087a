//! What a row shows in place of what is not shown.
//!
//! Owns: the state of each cell and its placeholder. Must not know: output formats. Of the ways to read a value the one
//! that leaves most hope says why it is not shown; *erased* only when a fence says so for each of them. A value that
//! could not be read when its row was written, and that nothing forbids to read now, is `unavailable` until the row is
//! computed again: that happens when a restriction was lifted.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Run;
use super::opening::{OpenRow, OpenRows};
use super::plan::Name;
use super::render::{Header, RenderedRow, Shown, ShownCell};
use crate::event::Pointer;
use crate::eventlog::Fences;
use crate::projection::cell::{Cell, Content, Origin};
use crate::projection::definition::{Column, ColumnType};
use crate::projection::owners::Alternative;
use crate::projection::row::is_container;
use crate::read::render::Counts;
use crate::read::render::{marker, with_facts};
use crate::read::{Purposes, Redaction, State};
use crate::schema::{Placeholder, Registry};

impl Run<'_> {
    /// Renders opened rows.
    pub(super) fn show(&self, batch: &OpenRows) -> Shown {
        let mut shown = Shown::new(self.header());
        for open in &batch.rows {
            let cells = self.plan.fields.iter().map(|name| self.show_field(name, open, batch, &mut shown)).collect();
            shown.items.push(RenderedRow::new(open.key, open.row.position, cells, &shown.header));
        }
        shown
    }

    pub(super) fn header(&self) -> Arc<Header> {
        let name = |name: &Name| match name {
            Name::Part(part) => part.clone(),
            Name::Column(at) => self.live.definition.columns[*at].name.clone(),
            Name::Position => "_position".to_owned(),
        };
        Arc::new(Header { names: self.plan.fields.iter().map(name).collect() })
    }

    fn show_field(&self, name: &Name, open: &OpenRow, batch: &OpenRows, shown: &mut Shown) -> ShownCell {
        match name {
            Name::Part(part) => ShownCell::public(open.row.parts.get(part).cloned().unwrap_or_default()),
            Name::Position => ShownCell::public(open.row.position.into()),
            Name::Column(at) => {
                let cells = Cells {
                    registry: &self.reader.parts.registry,
                    redaction: self.viewer.redaction,
                    purposes: self.purposes(),
                    fences: &batch.fences,
                };
                cells.show(&open.row.columns[*at], &self.live.definition.columns[*at], &mut shown.counts)
            }
        }
    }
}

/// What decides how cells are shown.
pub(super) struct Cells<'a> {
    /// For placeholders.
    pub registry: &'a Registry,
    /// How redactions look.
    pub redaction: Redaction,
    /// Purposes for which values are shown.
    pub purposes: &'a Purposes,
    /// Fences of everyone in the row.
    pub fences: &'a Fences,
}

impl Cells<'_> {
    /// The content of a column as it is shown: every value that is there, and something in place of every other.
    pub fn show(&self, content: &Content, column: &Column, counts: &mut Counts) -> ShownCell {
        let mut cell = ShownCell::default();
        let mut one = |path: &str, content: &Cell, kind: &ColumnType| {
            self.show_cell(content, column, kind).unwrap_or_else(|state| {
                cell.redactions.push((path.to_owned(), state.0.as_str()));
                state.1
            })
        };
        cell.value = members(content, &column.kind, &mut one);
        let owned = content.cells().into_iter().filter(|(_, cell)| !cell.owners.is_public()).count();
        cell.personal = owned > 0;
        counts.opened += (owned - cell.redactions.len()) as u64;
        for (_, state) in &cell.redactions {
            *counts.redacted.entry(*state).or_default() += 1;
        }
        cell
    }

    /// The value, or its state and what stands in its place; `None` for nothing at all.
    fn show_cell(
        &self,
        cell: &Cell,
        column: &Column,
        kind: &ColumnType,
    ) -> Result<Option<Value>, (State, Option<Value>)> {
        match &cell.value {
            Some(value) => Ok(Some(value.clone())),
            None if cell.owners.is_public() => Ok(Some(Value::Null)),
            None => {
                let state = self.state(cell);
                let instead = match self.redaction {
                    Redaction::Typed => Some(self.placeholder(cell, column, kind, &state)),
                    Redaction::Marker => Some(marker(&state)),
                    Redaction::Null => Some(Value::Null),
                    Redaction::Omit => None,
                };
                Err((state, instead))
            }
        }
    }

    fn state(&self, cell: &Cell) -> State {
        let states = cell.owners.alternatives().map(|way| self.state_of(way));
        states.max_by_key(State::rank).unwrap_or(State::Unavailable)
    }

    /// One way: of several fences the one that is hardest to undo.
    fn state_of(&self, way: &Alternative) -> State {
        let purpose = way.purpose.as_str();
        let fences = way.people.iter().filter_map(|(who, generation)| self.fences.covering(who, purpose, *generation));
        let fenced = fences.map(|fence| State::Fenced(Arc::new(fence.clone()))).min_by_key(State::rank);
        match fenced {
            Some(state) => state,
            None if !self.purposes.allow(purpose) => State::Withheld,
            None => State::Unavailable,
        }
    }

    /// Of the field that was copied, else of the column, else of its type.
    fn placeholder(&self, cell: &Cell, column: &Column, kind: &ColumnType, state: &State) -> Value {
        let (found, category) = match cell.origin.as_deref() {
            Some(Origin::Inline(text)) => (serde_json::from_str(text).ok().map(Placeholder::new), None),
            Some(Origin::Schema(event_type, version, pointer)) => {
                let version = (*version > 0).then_some(*version);
                let mark = Pointer::parse(pointer)
                    .ok()
                    .and_then(|pointer| self.registry.placeholder(event_type, version, &pointer));
                (mark.as_ref().map(|mark| mark.placeholder.clone()), mark.and_then(|mark| mark.category.clone()))
            }
            None => (None, None),
        };
        let declared = || column.placeholder.clone().map(Placeholder::new);
        let placeholder = found.or_else(declared).unwrap_or_else(|| default(kind));
        with_facts(state, category.as_deref(), |facts| placeholder.rendered(facts))
    }
}

/// As a field of an event of this type would have it.
fn default(kind: &ColumnType) -> Placeholder {
    let like = match kind {
        ColumnType::String => Value::String(String::new()),
        ColumnType::List(_) => Value::Array(Vec::new()),
        ColumnType::Map(_) => Value::Object(Map::new()),
        _ => Value::Null,
    };
    Placeholder::inline_default(&like, None, None)
}

/// The content with what `show` gives for each cell. What it gives nothing for is left out; in a list it is `null`, so
/// that the others keep their places.
fn members(
    content: &Content,
    kind: &ColumnType,
    show: &mut impl FnMut(&str, &Cell, &ColumnType) -> Option<Value>,
) -> Option<Value> {
    let element = match kind {
        ColumnType::List(element) | ColumnType::Map(element) if is_container(kind) => element,
        other => other,
    };
    match content {
        Content::Single(cell) => show("", cell, kind),
        Content::List(cells) => {
            let shown = cells.iter().enumerate().map(|(at, cell)| show(&format!("/{at}"), cell, element));
            Some(Value::Array(shown.map(Option::unwrap_or_default).collect()))
        }
        Content::Map(cells) => {
            let shown = cells.iter().filter_map(|(key, cell)| {
                let path = format!("/{}", crate::projection::cell::escape(key));
                Some((key.clone(), show(&path, cell, element)?))
            });
            Some(Value::Object(shown.collect()))
        }
    }
}
