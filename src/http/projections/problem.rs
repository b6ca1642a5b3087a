//! What a query that has no answer is told.

use axum::http::StatusCode;
use serde_json::json;

use super::super::problem::{self, Problem};
use crate::clock::Millis;
use crate::projection::duration;
use crate::projection::query::QueryError;
use crate::read::ReadFailed;

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        let text = error.to_string();
        let bad = |code| {
            Self::new(StatusCode::BAD_REQUEST, code, "The query cannot be answered").with("message", text.clone())
        };
        match error {
            QueryError::PersonalFilterInUrl { column } => bad("personal-filter-in-url")
                .with("column", column)
                .with("hint", "POST the query to /v1/projections/{name}/queries"),
            QueryError::TooBroad { examined } => {
                let title = "Too many rows would have to be looked at";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "query-too-broad", title)
                    .with("examined", examined as u64)
                    .with("hint", "filter by the first columns of a declared index, or by the key")
            }
            QueryError::UnknownName { name } => bad("invalid-parameter").with("name", name),
            QueryError::NotAggregated | QueryError::NoWindow | QueryError::TooManySorts { .. } | QueryError::NoRows => {
                bad("invalid-parameter")
            }
            QueryError::AsOfNotKept { projection, since } => not_kept(bad("as-of-not-kept"), projection, since),
            QueryError::StepNotKept { kept } => {
                let kept: Vec<String> = kept.into_iter().map(duration::format).collect();
                bad("invalid-parameter").with("kept", kept)
            }
            QueryError::Rebuilt => {
                Self::new(StatusCode::CONFLICT, "projection-rebuilt", "The rows are new; begin again")
            }
            QueryError::Aggregate { .. } | QueryError::Corrupt(_) => {
                tracing::error!(error = %text, "rows cannot be read");
                problem::internal()
            }
            QueryError::Database(error) => error.into(),
            QueryError::Log(error) => error.into(),
            QueryError::AccessLog(error) => ReadFailed::AccessLog(error).into(),
            QueryError::KeysUnavailable(error) => ReadFailed::KeysUnavailable(error).into(),
            QueryError::KeyUnknown => ReadFailed::KeyUnknown.into(),
            QueryError::ErasureRecordBehind => problem::record_behind(),
        }
    }
}

fn not_kept(problem: Problem, projection: String, since: Option<(u64, Millis)>) -> Problem {
    let problem = problem.with("projection", projection);
    match since {
        None => problem.with("hint", "a new version of the definition with `history: P30D` keeps the rows of 30 days"),
        Some((position, time)) => {
            problem.with("kept_since", json!({"position": position, "time": time.rfc3339()})).with(
                "hint",
                "ask for a time or position from `kept_since` on, or let a new version keep a longer `history`",
            )
        }
    }
}
