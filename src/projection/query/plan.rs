//! What a query asks for, checked against the definition.
//!
//! Owns: the meaning of the names in a query, and every refusal that needs no row. Must not know: rows.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Live, QueryError, QueryOptions, RowQuery};
use crate::projection::definition::{Aggregate, ColumnSource, Definition, Index, Kind, Window};
use crate::projection::expression::{Expression, Root, Scope};
use crate::projection::index::{self, WINDOW, WINDOW_START};
use crate::projection::{duration, window};

/// Names that a filter may use: key parts and columns.
pub const FILTER: Scope = Scope { roots: &[], fold: false, bare: true };

/// Columns that can be sorted by.
const MOST_SORTS: usize = 8;

/// What a name in a query means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A part of the key.
    Part(String),
    /// A column, by its place.
    Column(usize),
    /// `_position`
    Position,
}

/// A checked query.
pub struct Plan<'q> {
    /// The query.
    pub query: &'q RowQuery,
    /// Rows of the page.
    pub limit: usize,
    /// What is shown, in this order.
    pub fields: Vec<Name>,
    /// Order; `true` for descending.
    pub sort: Vec<(Name, bool)>,
    /// What the filter reads: a name and the path in it.
    pub reads: Vec<(Name, Vec<String>)>,
    /// Columns shown, filtered or sorted by.
    pub touched: BTreeSet<usize>,
    /// Columns filtered by.
    pub filtered: BTreeSet<usize>,
    /// Columns sorted by.
    pub sorted: BTreeSet<usize>,
    /// Index that finds the rows, and where in it; `None` looks at all.
    pub index: Option<(i64, Vec<Vec<u8>>)>,
    /// Index in whose order the rows come, where in it, and where it must be empty for that.
    pub ordered: Option<Ordered>,
    /// Only rows of windows of this length, as their key says it.
    pub window: Option<String>,
    /// For aggregates.
    pub grouping: Grouping,
    /// Whether results over people are computed.
    pub declassifies: bool,
    /// The rows as they stood before the event at this position, which the projection has come to.
    pub before: Option<u64>,
}

/// An order that an index has.
#[derive(Debug)]
pub struct Ordered {
    /// The index.
    pub number: i64,
    /// Beginning of the entries.
    pub prefix: Vec<u8>,
    /// Beginnings of entries of rows with something sealed where an order needs a value.
    pub sealed: Vec<Vec<u8>>,
}

/// How rows of an aggregate become items.
#[derive(Debug, Default)]
pub struct Grouping {
    /// Key parts that stay.
    pub parts: Vec<String>,
    /// Length of the windows shown, if they are made longer.
    pub step: Option<i64>,
    /// Whether items must be finished before the page is known: they are merged, sorted, or filtered by a result.
    pub whole: bool,
    /// Whether the filter is asked about finished items and not about rows.
    pub filter_items: bool,
}

impl<'q> Plan<'q> {
    /// Checks a query.
    ///
    /// # Errors
    /// [`QueryError`], those that need no row.
    pub fn new(live: &Live<'_>, query: &'q RowQuery, options: &QueryOptions) -> Result<Self, QueryError> {
        let definition = live.definition;
        let Kind::Rows { indexes, aggregates, window, .. } = &definition.kind else { return Err(QueryError::NoRows) };
        if query.sort.len() > MOST_SORTS {
            return Err(QueryError::TooManySorts { limit: MOST_SORTS });
        }
        let reads = reads(definition, query)?;
        if !query.by_body {
            refuse_undecided(live, &reads)?;
        }
        let (grouping, window) = grouping(definition, aggregates, window.as_ref(), query, &reads)?;
        let names = Names { definition, grouping: &grouping };
        let fields = match &query.fields {
            Some(list) => list.iter().map(|name| names.shown(name)).collect::<Result<_, _>>()?,
            None => names.all(),
        };
        let sort = query.sort.iter().map(|part| Ok((names.sortable(&part.name)?, part.descending)));
        let sort = sort.collect::<Result<Vec<_>, QueryError>>()?;
        if grouping.filter_items {
            names.grouped(&reads)?;
        }
        let column = |name: &Name| if let Name::Column(at) = name { Some(*at) } else { None };
        let filtered: BTreeSet<usize> = reads.iter().filter_map(|(name, _)| column(name)).collect();
        let sorted: BTreeSet<usize> = sort.iter().filter_map(|(name, _)| column(name)).collect();
        let touched = fields.iter().filter_map(column).chain(&filtered | &sorted).collect();
        let limit = if query.limit == 0 { options.default_limit } else { query.limit };
        // Indexes are of the rows of now.
        let indexes = if query.before.is_some() { &[] } else { indexes.as_slice() };
        let found = find(definition, indexes, query);
        let ordered = ordered(definition, indexes, query).filter(|_| !index::is_aggregate(definition));
        let shown = query.after.as_ref().and_then(|after| after.before);
        let before = query.before.map(|before| shown.unwrap_or(before).min(live.cursor));
        let entered = query.after.as_ref().filter(|after| after.generation != live.generation);
        if entered.is_some_and(|after| after.entry.is_some()) {
            return Err(QueryError::Rebuilt);
        }
        Ok(Self {
            query,
            limit: limit.clamp(1, options.max_limit),
            fields,
            sort,
            reads,
            touched,
            filtered,
            sorted,
            index: found,
            ordered,
            window,
            declassifies: aggregates.iter().any(|aggregate| aggregate.declassify.is_some()),
            grouping,
            before,
        })
    }

    /// Whether the number of rows looked at is limited: without filter, order and groups it is that of the page, unless
    /// rows are looked at that did not stand then.
    pub fn is_bounded(&self) -> bool {
        self.query.filter.is_some() || self.before.is_some() || !self.sort.is_empty() || self.grouping.whole
    }
}

struct Names<'a> {
    definition: &'a Definition,
    grouping: &'a Grouping,
}

impl Names<'_> {
    fn all(&self) -> Vec<Name> {
        let parts = self.parts().map(|part| Name::Part(part.to_owned()));
        parts.chain((0..self.definition.columns.len()).map(Name::Column)).collect()
    }

    /// Parts that an item has.
    fn parts(&self) -> impl Iterator<Item = &str> {
        let grouping = self.grouping;
        let start = grouping.step.map(|_| WINDOW_START);
        let own = index::part_names(self.definition).filter(|_| !index::is_aggregate(self.definition));
        own.chain(grouping.parts.iter().map(String::as_str)).chain(start)
    }

    fn shown(&self, name: &str) -> Result<Name, QueryError> {
        if self.parts().any(|part| part == name) {
            return Ok(Name::Part(name.to_owned()));
        }
        let column = self.definition.column(name).map(Name::Column);
        column.ok_or_else(|| QueryError::UnknownName { name: name.to_owned() })
    }

    fn sortable(&self, name: &str) -> Result<Name, QueryError> {
        if name == "_position" { Ok(Name::Position) } else { self.shown(name) }
    }

    /// A filter by a result can name only what an item has.
    fn grouped(&self, reads: &[(Name, Vec<String>)]) -> Result<(), QueryError> {
        for (name, _) in reads {
            if let Name::Part(part) = name {
                self.shown(part)?;
            }
        }
        Ok(())
    }
}

fn reads(definition: &Definition, query: &RowQuery) -> Result<Vec<(Name, Vec<String>)>, QueryError> {
    let mut found = Vec::new();
    for reference in query.filter.iter().flat_map(Expression::reads) {
        let Some((name, path)) = reference.path.split_first().filter(|_| reference.root == Root::Row) else {
            return Err(QueryError::UnknownName { name: reference.path.join(".") });
        };
        let meaning = if index::part_names(definition).any(|part| part == name) {
            Name::Part(name.clone())
        } else {
            let column = definition.column(name).map(Name::Column);
            column.ok_or_else(|| QueryError::UnknownName { name: name.clone() })?
        };
        found.push((meaning, path.to_vec()));
    }
    Ok(found)
}

/// What code decides may be personal in any row: such a filter does not belong in a URL, whatever the rows of today hold.
fn refuse_undecided(live: &Live<'_>, reads: &[(Name, Vec<String>)]) -> Result<(), QueryError> {
    for (name, _) in reads {
        let Name::Column(at) = name else { continue };
        let column = &live.definition.columns[*at];
        let undecided = match &column.source {
            ColumnSource::Lookup { projection, column } => {
                let other = live.lookups.iter().find(|(other, _)| other.name == *projection);
                other.is_some_and(|(other, _)| other.column(column).is_some_and(|at| other.code_decides(at)))
            }
            ColumnSource::Handlers | ColumnSource::Derived(_) => live.definition.code_decides(*at),
        };
        if undecided {
            return Err(QueryError::PersonalFilterInUrl { column: column.name.clone() });
        }
    }
    Ok(())
}

/// How items come about, and the length of the windows they come from.
fn grouping(
    definition: &Definition,
    aggregates: &[Aggregate],
    window: Option<&Window>,
    query: &RowQuery,
    reads: &[(Name, Vec<String>)],
) -> Result<(Grouping, Option<String>), QueryError> {
    if aggregates.is_empty() {
        let asked = !query.group_by.is_empty() || query.step.is_some();
        return if asked { Err(QueryError::NotAggregated) } else { Ok((Grouping::default(), None)) };
    }
    if let Some(name) = query.group_by.iter().find(|name| !index::part_names(definition).any(|part| part == *name)) {
        return Err(QueryError::UnknownName { name: name.clone() });
    }
    let names_window = reads.iter().any(|(name, _)| *name == Name::Part(WINDOW.to_owned()));
    let size = match (window, query.step) {
        (None, Some(_)) => return Err(QueryError::NoWindow),
        (None, None) => None,
        (Some(kept), Some(step)) => {
            let refused = || QueryError::StepNotKept { kept: window::sizes(kept).collect() };
            Some(window::coarsest(kept, step).ok_or_else(refused)?)
        }
        (Some(kept), None) => (!names_window && !query.any_window).then_some(kept.size),
    };
    let made_of_time = |name: &str| name == WINDOW || name == WINDOW_START;
    let parts: Vec<String> = index::part_names(definition)
        .filter(|name| query.group_by.is_empty() || query.group_by.iter().any(|kept| kept == name))
        .filter(|name| query.step.is_none() || !made_of_time(name))
        .map(str::to_owned)
        .collect();
    let filter_items = reads.iter().any(|(name, _)| matches!(name, Name::Column(_)));
    let merges = !query.group_by.is_empty() || query.step.is_some();
    let whole = merges || filter_items || !query.sort.is_empty();
    Ok((Grouping { parts, step: query.step, whole, filter_items }, size.map(duration::format)))
}

fn ordered(definition: &Definition, indexes: &[Index], query: &RowQuery) -> Option<Ordered> {
    if query.key.is_some() {
        return None;
    }
    let equalities = query.filter.as_ref().map(Expression::equalities).unwrap_or_default();
    indexes.iter().enumerate().find_map(|(number, index)| {
        let (prefix, sealed) = index::ordered(definition, index, &equalities, &query.sort)?;
        Some(Ordered { number: number as i64, prefix, sealed })
    })
}

/// The index that fixes most leading parts, the first of several.
fn find(definition: &Definition, indexes: &[Index], query: &RowQuery) -> Option<(i64, Vec<Vec<u8>>)> {
    if indexes.is_empty() || query.key.is_some() {
        return None;
    }
    let equalities: Vec<(String, Value)> = query.filter.as_ref()?.equalities();
    let mut best: Option<(usize, usize)> = None;
    for (number, index) in indexes.iter().enumerate() {
        let leading = index::leading(index, &equalities);
        if leading > best.map_or(0, |(leading, _)| leading) {
            best = Some((leading, number));
        }
    }
    let (_, number) = best?;
    Some((number as i64, index::prefixes(definition, &indexes[number], &equalities)?))
}
