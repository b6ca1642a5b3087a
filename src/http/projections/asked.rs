//! What is asked of rows, as it comes.
//!
//! Owns: the members of a query, and what they are read as. Must not know: how it is answered.

use axum::http::StatusCode;

use super::super::extract::Shared;
use super::super::problem::Problem;
use crate::clock::Millis;
use crate::projection::definition::IndexPart;
use crate::projection::duration;
use crate::projection::expression::Expression;
use crate::projection::query::{After, FILTER, RowQuery};

/// A query as it comes.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    pub filter: Option<String>,
    pub sort: Option<String>,
    pub fields: Option<String>,
    pub cursor: Option<String>,
    pub group_by: Option<String>,
    pub step: Option<String>,
    pub stale: Option<String>,
    pub as_of: Option<String>,
    pub limit: Option<u64>,
    pub at_least: Option<u64>,
    #[serde(skip)]
    pub by_body: bool,
}

impl Asked {
    /// What comes as text in a URL, by name.
    pub fn texts(&mut self) -> [(&mut Option<String>, &'static str); 8] {
        [
            (&mut self.filter, "filter"),
            (&mut self.sort, "sort"),
            (&mut self.fields, "fields"),
            (&mut self.cursor, "cursor"),
            (&mut self.group_by, "group_by"),
            (&mut self.step, "step"),
            (&mut self.stale, "stale"),
            (&mut self.as_of, "as_of"),
        ]
    }

    /// What a cursor is bound to.
    pub fn bound(&self, name: &str) -> String {
        let parts = [&self.filter, &self.sort, &self.fields, &self.group_by, &self.step, &self.as_of];
        format!("rows {name} {parts:?}")
    }

    /// The query.
    ///
    /// # Errors
    /// 400 for a filter or step that is none, and for groups of a time that has passed.
    pub fn read(&self, after: Option<After>) -> Result<RowQuery, Problem> {
        let filter =
            self.filter.as_deref().map(|text| Expression::compile(text, FILTER)).transpose().map_err(|error| {
                Problem::new(StatusCode::BAD_REQUEST, "invalid-filter", "The filter is not an expression")
                    .with("column", error.column as u64)
                    .with("message", error.message)
            })?;
        if self.as_of.is_some() && (self.step.is_some() || self.group_by.is_some()) {
            return Err(Problem::parameter("as_of", "does not go with group_by and step: aggregates keep no history"));
        }
        let step = match self.step.as_deref() {
            None => None,
            Some(text) => Some(
                duration::parse(text)
                    .filter(|step| *step > 0)
                    .ok_or_else(|| Problem::parameter("step", "is not a duration like P7D"))?,
            ),
        };
        let list = |text: &Option<String>| {
            text.as_deref().map(|text| text.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>())
        };
        let sort = list(&self.sort).unwrap_or_default().into_iter().map(|name| match name.strip_prefix('-') {
            Some(name) => IndexPart { name: name.to_owned(), descending: true },
            None => IndexPart { name, descending: false },
        });
        Ok(RowQuery {
            filter,
            sort: sort.collect(),
            fields: list(&self.fields),
            limit: self.limit.unwrap_or(0) as usize,
            after,
            by_body: self.by_body,
            step,
            group_by: list(&self.group_by).unwrap_or_default(),
            key: None,
            any_window: false,
            before: None,
        })
    }
}

/// The position before which rows are asked for: behind `position:N`, or behind the last event recorded at or before a
/// time.
///
/// # Errors
/// 400 when it is neither.
pub async fn before(app: &Shared, text: &str) -> Result<u64, Problem> {
    let wrong = || Problem::parameter("as_of", "is not an RFC 3339 time or position:N");
    if let Some(position) = text.strip_prefix("position:") {
        let position = position.parse().ok().filter(|p: &u64| *p < i64::MAX as u64).ok_or_else(wrong)?;
        return Ok(position + 1);
    }
    let time = Millis::parse_rfc3339(text).ok_or_else(wrong)?;
    Ok(app.log.position_at(time).await?.map_or(0, |last| last.0 + 1))
}
