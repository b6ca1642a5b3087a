//! Pages: events and the fences of everyone in them, in one snapshot.
//!
//! Every filter has an index that drives it: a person by the footprint, types by the type index (several are merged),
//! a category by the category index. Whatever is left of the filter is a predicate on the driven rows.

use std::collections::BTreeSet;

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::rows::{self, JOINS, STORED, read_error};
use crate::event::Revision;
use crate::eventlog::limits::{cut_to_limits, people};
use crate::eventlog::stored::Gathered;
use crate::eventlog::{Direction, Fences, Filter, Page, ReadError, ReadQuery, StoredEvent};

/// Reads one page.
pub fn page(connection: &Connection, query: &ReadQuery) -> Result<Page, ReadError> {
    let query = &ReadQuery { limit: query.limit.max(1), ..query.clone() };
    rows::in_snapshot(connection, || {
        let sql = |error: rusqlite::Error| read_error(&error);
        let (head, epoch): (i64, i64) = connection
            .prepare_cached("select next_position, erasure_epoch from head")
            .and_then(|mut statement| statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?))))
            .map_err(sql)?;
        let (mut events, last_revision) = match &query.stream {
            Some(name) => stream_events(connection, name.as_str(), query)?,
            None => (all_events(connection, query)?, None),
        };
        let next = cut_to_limits(&mut events, query);
        // Epoch 0 means that no fence exists, so that none need be looked up.
        let fences =
            if epoch == 0 { Fences::default() } else { rows::fences(connection, people(&events)).map_err(sql)? };
        Ok(Page { events, fences, next, head: head as u64, last_revision })
    })
}

type Found = (Vec<StoredEvent>, Option<Revision>);

fn stream_events(connection: &Connection, name: &str, query: &ReadQuery) -> Result<Found, ReadError> {
    let sql = |error: rusqlite::Error| read_error(&error);
    let row: Option<(i64, Option<i64>)> = connection
        .prepare_cached(
            "select id, (select max(revision) from events where stream = streams.id) from streams where name = ?1",
        )
        .and_then(|mut statement| statement.query_row([name], |row| Ok((row.get(0)?, row.get(1)?))).optional())
        .map_err(sql)?;
    let Some((stream, last)) = row else { return Ok((Vec::new(), None)) };
    let mut select = Select::new(connection, query, &query.filter)?;
    select.and("e.stream = ?", Sql::Integer(stream));
    if let Some(subject) = query.filter.subject {
        select.and("e.position in (select position from footprint where subject = ?)", Sql::Blob(subject.0.to_vec()));
    }
    select.range("e.revision", query);
    let events = select.fetch(connection, "events e indexed by events_by_stream", "e.revision", query)?;
    Ok((events, last.map(|revision| Revision(revision as u64))))
}

fn all_events(connection: &Connection, query: &ReadQuery) -> Result<Vec<StoredEvent>, ReadError> {
    let filter = &query.filter;
    if let Some(subject) = filter.subject {
        let mut select = Select::new(connection, query, filter)?;
        select.and("f.subject = ?", Sql::Blob(subject.0.to_vec()));
        select.range("f.position", query);
        // A person can have several slots in one event: the cross join keeps footprint order, `group by` makes it one.
        let source = "footprint f cross join events e on e.position = f.position";
        return select.fetch_grouped(connection, source, "f.position", query);
    }
    if !filter.types.is_empty() {
        let mut merged = Vec::new();
        // The same type named twice must not show its events twice.
        for event_type in filter.types.iter().collect::<BTreeSet<_>>() {
            let Some(number) = rows::name_id(connection, event_type.as_str()).map_err(|e| read_error(&e))? else {
                continue;
            };
            let rest = Filter { types: Vec::new(), ..filter.clone() };
            let mut select = Select::new(connection, query, &rest)?;
            select.and("e.type = ?", Sql::Integer(number));
            select.range("e.position", query);
            merged.extend(select.fetch(connection, "events e indexed by events_by_type", "e.position", query)?);
        }
        merged.sort_by_key(|event| event.position);
        if query.direction == Direction::Backward {
            merged.reverse();
        }
        merged.truncate(query.limit.saturating_add(1));
        return Ok(merged);
    }
    let mut select = Select::new(connection, query, filter)?;
    select.range("e.position", query);
    let source = if filter.category.is_some() { "events e indexed by events_by_category" } else { "events e" };
    select.fetch(connection, source, "e.position", query)
}

/// A `where` clause in the making.
struct Select {
    clause: String,
    values: Vec<Sql>,
}

impl Select {
    /// The predicates of the filter other than the person, of `until`, and the exclusion of system streams.
    fn new(connection: &Connection, query: &ReadQuery, filter: &Filter) -> Result<Self, ReadError> {
        let mut select = Self { clause: String::from("1"), values: Vec::new() };
        if let Some(until) = query.until {
            select.and("e.position <= ?", Sql::Integer(rows::integer(until.0)));
        }
        if let Some(category) = &filter.category {
            let number = rows::name_id(connection, category.as_str()).map_err(|e| read_error(&e))?;
            select.and("e.category = ?", number.map_or(Sql::Integer(-1), Sql::Integer));
        }
        if !filter.types.is_empty() {
            let marks = vec!["?"; filter.types.len()].join(",");
            select.clause.push_str(" and e.type in (select id from names where text in (");
            select.clause.push_str(&marks);
            select.clause.push_str("))");
            select.values.extend(filter.types.iter().map(|t| Sql::Text(t.to_string())));
        }
        if query.stream.is_none() && !query.system {
            select.clause.push_str(" and e.category not in (select id from names where text >= '$' and text < '%')");
        }
        Ok(select)
    }

    fn and(&mut self, predicate: &str, value: Sql) {
        self.clause.push_str(" and ");
        self.clause.push_str(predicate);
        self.values.push(value);
    }

    fn range(&mut self, column: &str, query: &ReadQuery) {
        if let Some(from) = query.from {
            let operator = if query.direction == Direction::Forward { ">=" } else { "<=" };
            self.and(&format!("{column} {operator} ?"), Sql::Integer(rows::integer(from)));
        }
    }

    fn fetch(
        self,
        connection: &Connection,
        source: &str,
        order: &str,
        query: &ReadQuery,
    ) -> Result<Vec<StoredEvent>, ReadError> {
        self.run(connection, source, "", order, query)
    }

    fn fetch_grouped(
        self,
        connection: &Connection,
        source: &str,
        order: &str,
        query: &ReadQuery,
    ) -> Result<Vec<StoredEvent>, ReadError> {
        let group = format!("group by {order}");
        self.run(connection, source, &group, order, query)
    }

    fn run(
        mut self,
        connection: &Connection,
        source: &str,
        group: &str,
        order: &str,
        query: &ReadQuery,
    ) -> Result<Vec<StoredEvent>, ReadError> {
        let direction = if query.direction == Direction::Forward { "asc" } else { "desc" };
        let sql = format!(
            "select {STORED} from {source} {JOINS} where {} {group} order by {order} {direction} limit ?",
            self.clause
        );
        self.values.push(Sql::Integer(rows::integer(query.limit as u64).saturating_add(1)));
        let failed = |error: rusqlite::Error| read_error(&error);
        let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
        let mut found = statement.query(params_from_iter(self.values)).map_err(failed)?;
        let mut events = Gathered::with_room(query.limit);
        while let Some(row) = found.next().map_err(failed)? {
            events.push(&rows::event(row).map_err(failed)?)?;
            // One more than fits: it says where the next page begins.
            if events.size() > query.max_bytes && events.len() > 1 {
                break;
            }
        }
        Ok(events.finish())
    }
}
