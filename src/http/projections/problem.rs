//! What a query that has no answer is told.

use axum::http::StatusCode;

use super::super::problem::{self, Problem};
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
