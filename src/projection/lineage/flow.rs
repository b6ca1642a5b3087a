//! The flow of personal places into columns, to its fixpoint.
//!
//! Owns: which places of an event an expression touches, and how that goes on through columns. Must not know: what is
//! refused. Keeps: flows only grow, so the computation ends, and the order of handlers does not matter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{EventLineage, Origin};
use crate::event::Purpose;
use crate::projection::definition::{Action, ColumnSource, Definition, Kind, Operation, Rule, Step};
use crate::projection::expression::{Expression, Reference, Root};
use crate::schema::{FieldMark, Registry, SchemaVersion};

/// Sets of purposes remembered per column. Those beyond are found out when an event is handled.
const MOST_WAYS: usize = 64;

/// What may flow into a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Flow {
    /// Personal places.
    pub origins: BTreeSet<Origin>,
    /// Purposes for which a personal value of it may be read: a set per way in which it may come about.
    pub ways: BTreeSet<BTreeSet<Purpose>>,
    /// Only the event can tell whether more is personal.
    pub unknown: bool,
    /// Values flow together that have no purpose in common.
    pub conflict: bool,
    /// Code decides what flows in.
    pub by_code: bool,
}

impl Flow {
    /// Whether something personal may flow in.
    pub fn is_personal(&self) -> bool {
        !self.origins.is_empty() || self.by_code
    }

    /// Adds what another value brings; one of the two flows in, not both at once.
    fn or(&mut self, other: &Self) {
        self.origins.extend(other.origins.iter().cloned());
        self.unknown |= other.unknown;
        self.conflict |= other.conflict;
        self.by_code |= other.by_code;
        self.add_ways(&other.ways);
    }

    fn add_ways(&mut self, ways: &BTreeSet<BTreeSet<Purpose>>) {
        for way in ways {
            if self.ways.len() < MOST_WAYS {
                self.ways.insert(way.clone());
            }
        }
    }

    /// Whether two values can never be read for the same purpose.
    pub fn excludes(&self, other: &Self) -> bool {
        let (one, two) = (&self.ways, &other.ways);
        !one.is_empty() && !two.is_empty() && common(one, two).is_empty()
    }
}

/// Purposes in common, one set per pair that has any.
fn common(one: &BTreeSet<BTreeSet<Purpose>>, two: &BTreeSet<BTreeSet<Purpose>>) -> BTreeSet<BTreeSet<Purpose>> {
    let pairs = one.iter().flat_map(|a| two.iter().map(move |b| a & b));
    pairs.filter(|way| !way.is_empty()).collect()
}

/// What is known of an event type.
struct TypeFacts {
    versions: Vec<Arc<SchemaVersion>>,
    unknown: bool,
}

/// The lineage of a definition, computed.
pub(super) struct Analysis<'d> {
    pub definition: &'d Definition,
    types: BTreeMap<String, TypeFacts>,
    /// Types that nobody named may come too, with anything in them.
    others: bool,
    columns: Vec<Flow>,
}

impl<'d> Analysis<'d> {
    /// Computes.
    pub fn new(definition: &'d Definition, registry: &Registry) -> Self {
        let inline = registry.takes_inline_marks(definition.from.category.as_ref());
        let aggregates = matches!(&definition.kind, Kind::Rows { aggregates, .. } if !aggregates.is_empty());
        // Neither aggregates nor code say for which types they do something.
        let any = aggregates || definition.code.is_some();
        let names: Vec<String> = match (any, definition.from.types.is_empty()) {
            (false, _) => definition.handlers.keys().map(ToString::to_string).collect(),
            (true, false) => definition.from.types.iter().map(ToString::to_string).collect(),
            (true, true) => registry.types().into_iter().map(|summary| summary.event_type).collect(),
        };
        let facts = |name: String| {
            let versions = registry.versions(&name);
            let unknown = inline || versions.is_empty();
            (name, TypeFacts { versions, unknown })
        };
        let mut analysis = Self {
            definition,
            types: names.into_iter().map(facts).collect(),
            others: any && definition.from.types.is_empty() && inline,
            columns: vec![Flow::default(); definition.columns.len()],
        };
        if definition.code.is_some() {
            analysis.code();
        }
        while analysis.round() {}
        analysis
    }

    /// Code may put anything of any event into any column that was not promised to be public.
    fn code(&mut self) {
        let mut flow = Flow { by_code: true, unknown: true, ..Flow::default() };
        for (name, facts) in &self.types {
            for mark in facts.versions.iter().flat_map(|version| version.marks.iter()) {
                flow.origins.insert(origin(name, mark));
                flow.add_ways(&[mark.purposes.iter().cloned().collect()].into());
            }
        }
        for (at, column) in self.definition.columns.iter().enumerate() {
            if matches!(column.source, ColumnSource::Handlers) && !column.public {
                self.columns[at] = flow.clone();
            }
        }
    }

    /// What flows into each column.
    pub fn columns(&self) -> &[Flow] {
        &self.columns
    }

    /// The event types and what is personal in them.
    pub fn events(&self) -> Vec<EventLineage> {
        let event = |(name, facts): (&String, &TypeFacts)| {
            let marks = facts.versions.iter().flat_map(|version| version.marks.iter());
            let personal: BTreeSet<Origin> = marks.map(|mark| origin(name, mark)).collect();
            EventLineage {
                event_type: name.clone(),
                versions: facts.versions.len() as u32,
                unknown: facts.unknown,
                personal: personal.into_iter().collect(),
            }
        };
        self.types.iter().map(event).collect()
    }

    /// What flows into an expression over an event of this type, or, without one, over a row.
    pub fn expression(&self, expression: &Expression, event_type: Option<&str>) -> Flow {
        let reads = expression.reads();
        let data: Vec<&Reference> = reads.iter().filter(|read| read.root == Root::Data).collect();
        let facts = event_type.and_then(|name| self.types.get_key_value(name));
        let mut flow = facts.map(|(name, facts)| from_event(name, facts, &data)).unwrap_or_default();
        // `ways`: some of the personal values meet; `all`: all of them do.
        let mut all = flow.ways.clone();
        for column in self.columns_read(reads) {
            let other = &self.columns[column];
            if !all.is_empty() && !other.ways.is_empty() {
                all = common(&all, &other.ways);
                flow.conflict |= all.is_empty();
            } else if all.is_empty() {
                all.clone_from(&other.ways);
            }
            let meeting = common(&flow.ways, &other.ways);
            flow.add_ways(&meeting);
            flow.add_ways(&other.ways);
            flow.origins.extend(other.origins.iter().cloned());
            flow.unknown |= other.unknown;
            flow.by_code |= other.by_code;
        }
        flow
    }

    /// What flows into an expression over an event of any type.
    pub fn over_all_types(&self, expression: &Expression) -> Flow {
        let mut flow = Flow::default();
        for name in self.types.keys() {
            flow.or(&self.expression(expression, Some(name)));
        }
        flow.unknown |= self.others && expression.reads().iter().any(|read| read.root == Root::Data);
        flow
    }

    /// Every rule with the name of its event type.
    pub fn rules(&self) -> impl Iterator<Item = (&'d str, &'d Rule)> + use<'d> {
        let handlers = &self.definition.handlers;
        handlers.iter().flat_map(|(name, rules)| rules.iter().map(move |rule| (name.as_str(), rule)))
    }

    /// Every action with the name of its event type.
    pub fn actions(&self) -> impl Iterator<Item = (&'d str, &'d Action)> + use<'d> {
        self.rules().flat_map(|(name, rule)| rule.actions.iter().map(move |action| (name, action)))
    }

    /// Every step with the name of its event type.
    pub fn steps(&self) -> impl Iterator<Item = (&'d str, &'d Step)> + use<'d> {
        self.actions().flat_map(|(name, action)| action.steps.iter().map(move |step| (name, step)))
    }

    fn columns_read(&self, reads: &[Reference]) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        for read in reads.iter().filter(|read| read.root == Root::Row) {
            match read.path.first() {
                Some(name) => found.extend(self.definition.column(name)),
                None => found.extend(0..self.columns.len()),
            }
        }
        found
    }

    /// Lets every step and derived column flow once; whether anything changed.
    fn round(&mut self) -> bool {
        let mut changed = false;
        for (name, step) in self.steps() {
            let mut flow = self.expression(&step.value, Some(name));
            if let Some(entry) = &step.entry {
                flow.or(&self.expression(entry, Some(name)));
            }
            if matches!(step.operation, Operation::Increment | Operation::Decrement { .. } | Operation::Append) {
                let with_old = common(&flow.ways, &self.columns[step.column].ways);
                flow.add_ways(&with_old);
            }
            changed |= self.absorb(step.column, flow);
        }
        for (at, column) in self.definition.columns.iter().enumerate() {
            if let ColumnSource::Derived(expression) = &column.source {
                let flow = self.expression(expression, None);
                changed |= self.absorb(at, flow);
            }
        }
        changed
    }

    fn absorb(&mut self, column: usize, flow: Flow) -> bool {
        // A conflict is refused where it happens; it does not make every later column wrong too.
        let flow = Flow { conflict: false, ..flow };
        let before = self.columns[column].clone();
        self.columns[column].or(&flow);
        self.columns[column] != before
    }
}

/// What the parts of an event's data bring. Each version of the schema is a way in which the value may come about.
fn from_event(name: &str, facts: &TypeFacts, data: &[&Reference]) -> Flow {
    let mut flow = Flow { unknown: facts.unknown && !data.is_empty(), ..Flow::default() };
    for version in &facts.versions {
        let mut way: Option<BTreeSet<Purpose>> = None;
        for mark in data.iter().flat_map(|read| version.marks_touching(&read.path)) {
            let purposes: BTreeSet<Purpose> = mark.purposes.iter().cloned().collect();
            way = Some(way.map_or_else(|| purposes.clone(), |before| &before & &purposes));
            flow.origins.insert(origin(name, &mark));
        }
        match way {
            Some(way) if way.is_empty() => flow.conflict = true,
            Some(way) => drop(flow.ways.insert(way)),
            None => {}
        }
    }
    flow
}

fn origin(event_type: &str, mark: &FieldMark) -> Origin {
    Origin {
        event_type: event_type.to_owned(),
        pointer: mark.pointer.to_string(),
        roles: mark.roles.clone(),
        joint: mark.joint,
        category: mark.category.clone(),
        special: mark.special,
        purposes: mark.purposes.clone(),
    }
}
