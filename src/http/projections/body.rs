//! The body of a definition: YAML or JSON.

use axum::http::{HeaderMap, StatusCode};

use super::super::extract::{Body, media_type, unsupported};
use super::super::problem::{self, Problem};
use crate::projection::definition::{Definition, Format};
use crate::schema::Violation;

/// Reads a definition from a request's body.
///
/// # Errors
/// 415 for another media type, 422 `projection-invalid` with every problem.
pub fn definition(headers: &HeaderMap, body: &Body) -> Result<Definition, Problem> {
    let format = match media_type(headers)?.as_str() {
        "" | "application/json" => Format::Json,
        "application/yaml" | "application/x-yaml" | "text/yaml" => Format::Yaml,
        _ => return Err(unsupported("application/yaml or application/json")),
    };
    let malformed = || Problem::new(StatusCode::BAD_REQUEST, "malformed-text", "The body is not UTF-8");
    let text = std::str::from_utf8(&body.0).map_err(|_| malformed())?;
    Definition::parse(text, format).map_err(invalid)
}

/// 422 with every problem.
pub fn invalid(violations: Vec<Violation>) -> Problem {
    let title = "The definition is not valid";
    let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "projection-invalid", title);
    violations.into_iter().map(|violation| problem::violation("", violation)).fold(problem, Problem::error)
}
