//! Pages: events and the fences of everyone in them, in one snapshot.
//!
//! Every filter has an index that drives it: a person by the footprint, types by the type index (several are merged),
//! a category by the category index. Whatever is left of the filter is a predicate on the driven rows. The limit of bytes
//! is kept by the database, so that a page of large events is not sent only to be thrown away.

use std::collections::BTreeSet;

use tokio_postgres::types::ToSql;

use super::rows::{self, JOINS, STORED, count, get, integer};
use crate::db::postgres::Connection;
use crate::db::statement::Value;
use crate::event::{EventType, Revision};
use crate::eventlog::limits::{cut_to_limits, people};
use crate::eventlog::stored::Gathered;
use crate::eventlog::{Direction, Fences, Page, ReadError, ReadQuery, StoredEvent};

const BEGIN: &str = "begin isolation level repeatable read read only";
const HEAD: &str = "select next_position, erasure_epoch from head";
const LAST: &str = "select (select max(revision) from events where stream = streams.id) from streams where name = $1";

/// Reads one page.
pub async fn page(connection: &Connection, query: &ReadQuery) -> Result<Page, ReadError> {
    let query = &ReadQuery { limit: query.limit.max(1), ..query.clone() };
    let selects = selects(query);
    let name = query.stream.as_ref().map(|name| Value::from(name.as_str()));
    let mut steps: Vec<(&str, Vec<&(dyn ToSql + Sync)>)> = vec![(HEAD, vec![])];
    steps.extend(name.as_ref().map(|name| (LAST, vec![name as _])));
    steps.extend(selects.iter().map(|select| (select.sql.as_str(), select.parameters())));
    let mut answers = connection.query_all(BEGIN, &steps).await?.into_iter();
    let head = answers.next().and_then(|rows| rows.into_iter().next());
    let head = head.ok_or(ReadError::Corrupt { table: "head", column: "one", row: 1 })?;
    let last: Option<i64> = match name.and_then(|_| answers.next()).and_then(|rows| rows.into_iter().next()) {
        Some(row) => get(&row, 0)?,
        None => None,
    };
    let mut gathered = Gathered::with_room(query.limit);
    for row in answers.flatten() {
        gathered.push(&rows::event(&row)?)?;
    }
    let mut events = gathered.finish();
    if selects.len() > 1 {
        merge(&mut events, query);
    }
    let next = cut_to_limits(&mut events, query);
    let mut fences = Fences::default();
    if count(&head, 1)? > 0 {
        let subjects = rows::people(people(&events));
        fences = rows::fences(&connection.query(rows::FENCES, &[&subjects]).await?)?;
    }
    connection.batch("commit").await?;
    let last_revision = last.map(|revision| Revision(revision as u64));
    Ok(Page { events, fences, next, head: count(&head, 0)?, last_revision })
}

/// Events of several types, each in order, into one order.
fn merge(events: &mut Vec<StoredEvent>, query: &ReadQuery) {
    events.sort_by_key(|event| event.position);
    if query.direction == Direction::Backward {
        events.reverse();
    }
    events.truncate(query.limit.saturating_add(1));
}

fn selects(query: &ReadQuery) -> Vec<Select> {
    let types = &query.filter.types;
    if query.stream.is_some() || query.filter.subject.is_some() || types.is_empty() {
        return vec![Select::new(query, types)];
    }
    // The same type named twice must not show its events twice.
    types.iter().collect::<BTreeSet<_>>().into_iter().map(|one| Select::new(query, std::slice::from_ref(one))).collect()
}

/// A query in the making.
struct Select {
    sql: String,
    values: Vec<Value>,
}

impl Select {
    fn new(query: &ReadQuery, types: &[EventType]) -> Self {
        let mut select = Self { sql: String::new(), values: Vec::new() };
        let (key, source) = select.source(query);
        select.predicates(query, types);
        let (order, operator) = match query.direction {
            Direction::Forward => ("asc", ">="),
            Direction::Backward => ("desc", "<="),
        };
        if let Some(from) = query.from {
            select.and(&format!("{key} {operator}"), Value::Int(integer(from)));
        }
        let clause = std::mem::take(&mut select.sql);
        // One more than fits: it says where the next page begins.
        let limit = select.value(Value::Int(integer(query.limit as u64).saturating_add(1)));
        let most = select.value(Value::Int(integer(query.max_bytes as u64)));
        select.sql = format!(
            "select position, event_id, name, revision, text, schema_version, recorded_ms, meta, public, sealed from (
               select q.*, row_number() over w as number, sum(bytes) over w - bytes as before from (
                 select {STORED}, {key} as key, octet_length(e.meta) + octet_length(e.public)
                   + coalesce(octet_length(e.sealed), 0) + 128 as bytes
                 from {source} {JOINS} where true{clause} order by {key} {order} limit {limit}
               ) q window w as (order by key {order} rows unbounded preceding)
             ) c where number <= 2 or before <= {most} order by key {order}"
        );
        select
    }

    /// What a page is ordered by, and where its events come from.
    fn source(&mut self, query: &ReadQuery) -> (&'static str, String) {
        if let Some(name) = &query.stream {
            self.and("e.stream = (select id from streams where name =", Value::from(name.as_str()));
            self.sql.push(')');
            if let Some(subject) = query.filter.subject {
                let subject = self.value(Value::from(subject.0.as_slice()));
                let owns = format!(
                    " and exists (select 1 from footprint f where f.subject = {subject} and f.position = e.position)"
                );
                self.sql.push_str(&owns);
            }
            return ("e.revision", "events e".to_owned());
        }
        let Some(subject) = query.filter.subject else { return ("e.position", "events e".to_owned()) };
        // A person can have several slots in one event: each position once, in order.
        let subject = self.value(Value::from(subject.0.as_slice()));
        let mut bound = String::new();
        if let Some(from) = query.from {
            let from = self.value(Value::Int(integer(from)));
            let operator = if query.direction == Direction::Forward { ">=" } else { "<=" };
            bound = format!(" and f.position {operator} {from}");
        }
        let order = if query.direction == Direction::Forward { "asc" } else { "desc" };
        let positions = format!(
            "(select distinct f.position from footprint f where f.subject = {subject}{bound} order by f.position {order}) o
             join events e on e.position = o.position"
        );
        ("o.position", positions)
    }

    /// The filter other than the person, `until`, and the exclusion of system streams.
    fn predicates(&mut self, query: &ReadQuery, types: &[EventType]) {
        if let Some(until) = query.until {
            self.and("e.position <=", Value::Int(integer(until.0)));
        }
        if let Some(category) = &query.filter.category {
            self.and("e.category = (select id from names where text =", Value::from(category.as_str()));
            self.sql.push(')');
        }
        if let [one] = types {
            self.and("e.type = (select id from names where text =", Value::from(one.as_str()));
            self.sql.push(')');
        } else if !types.is_empty() {
            let marks: Vec<String> = types.iter().map(|one| self.value(Value::from(one.as_str()))).collect();
            self.sql.extend([" and t.text in (", &marks.join(", "), ")"]);
        }
        if query.stream.is_none() && !query.system {
            self.sql.push_str(
                " and not exists (select 1 from names c where c.id = e.category and c.text >= '$' and c.text < '%')",
            );
        }
    }

    fn and(&mut self, predicate: &str, value: Value) {
        let mark = self.value(value);
        self.sql.extend([" and ", predicate, " ", &mark]);
    }

    fn value(&mut self, value: Value) -> String {
        self.values.push(value);
        format!("${}", self.values.len())
    }

    fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values.iter().map(|value| -> &(dyn ToSql + Sync) { value }).collect()
    }
}
