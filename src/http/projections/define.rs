//! Definitions: making, changing, showing, trying out.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::super::extract::{Body, Caller, Json, Path, Query, Shared, text_header};
use super::super::problem::{Problem, ProblemBody};
use super::{body, defined, kind, name, reaches, tag};
use crate::audit::Record;
use crate::auth::Permission;
use crate::projection::definition::{ColumnSource, Definition, Format, Kind, ProjectionName};
use crate::projection::definitions::{Defined, ProjectionRecord, digest};
use crate::projection::lineage::{self, ColumnLineage, Lineage};
use crate::projection::query::{Live, RowQuery};
use crate::schema::Violation;

/// Makes or changes a definition. A changed one is computed beside the one that answers and takes over when it has
/// caught up; its `version` must be greater.
#[utoipa::path(put, operation_id = "put_projection", path = "/v1/projections/{name}", tag = "projections",
    params(("name" = String, Path, description = "Name of the projection or fold")),
    request_body(content = String, content_type = "application/yaml", description = "The definition, YAML or JSON"),
    responses((status = 201, description = "Made", body = Value), (status = 200, description = "Changed, or as it was", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn put(
    State(app): State<Shared>,
    caller: Caller,
    Path(path): Path<String>,
    headers: HeaderMap,
    query: Query,
    body: Body,
) -> Result<Response, Problem> {
    caller.require(Permission::ChangeProjections)?;
    query.finish()?;
    let name = name(&path)?;
    let definition = body::definition(&headers, &body)?;
    if definition.name != name {
        return Err(Problem::parameter("projection", "is another name than the definition's"));
    }
    let lineage = trace(&app, &definition);
    if !lineage.violations.is_empty() {
        return Err(body::invalid(lineage.violations));
    }
    let definitions = app.projections.definitions();
    let before = definitions.get(name.as_str());
    precondition(&headers, before.as_ref())?;
    let digest = digest(&definition.text);
    let (status, known) = match &before {
        None => (StatusCode::CREATED, false),
        Some(known) => (StatusCode::OK, known.digest == digest),
    };
    if !known {
        app.recorder.record(|| record(&app, &definition, before.as_ref().map(|known| known.digest), &caller)).await?;
    }
    let stored = definitions.get(name.as_str()).ok_or_else(Problem::not_found)?;
    let mut response = (status, axum::Json(shown(&stored, Some(&lineage)))).into_response();
    set(&mut response, header::ETAG, &tag(&stored));
    set(&mut response, header::LOCATION, &format!("/v1/projections/{name}"));
    Ok(response)
}

/// The record of a change, looked at again with nothing else changing.
fn record(app: &Shared, definition: &Definition, seen: Option<[u8; 32]>, caller: &Caller) -> Result<Record, Problem> {
    let now = app.projections.definitions().get(definition.name.as_str());
    if now.as_ref().map(|known| known.digest) != seen {
        return Err(Problem::new(StatusCode::CONFLICT, "raced", "Another change came first; try again"));
    }
    if let Some(known) = &now {
        if kind(&known.current) != kind(definition) {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "projection-kind",
                "A projection cannot become a fold, or a fold a projection",
            ));
        }
        if known.emitted_elsewhere(definition) {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "projection-due-stream",
                "Due events that were emitted would be emitted again, into other streams",
            ));
        }
        if definition.version <= known.current.version {
            let title = "Another definition needs a greater version";
            return Err(
                Problem::new(StatusCode::CONFLICT, "projection-version", title).with("version", known.current.version)
            );
        }
    }
    let value = serde_json::from_str(&definition.text).map_err(|_| super::super::problem::internal())?;
    let (name, by) = (definition.name.to_string(), caller.principal.id.clone());
    Ok(Record::Projection(ProjectionRecord::ProjectionDefined { name, definition: value, by }))
}

fn precondition(headers: &HeaderMap, before: Option<&Defined>) -> Result<(), Problem> {
    let mismatch = || Problem::new(StatusCode::PRECONDITION_FAILED, "etag-mismatch", "The definition is another one");
    if let Some(wanted) = text_header(headers, "if-match", 200)?
        && !before.is_some_and(|known| wanted == "*" || wanted == tag(known))
    {
        return Err(mismatch());
    }
    match text_header(headers, "if-none-match", 200)?.as_deref() {
        Some("*") if before.is_some() => Err(mismatch()),
        Some("*") | None => Ok(()),
        Some(_) => Err(Problem::parameter("if-none-match", "can only be *")),
    }
}

/// Whose data flows where, with looked-up columns followed into their own projection.
fn trace(app: &Shared, definition: &Definition) -> Lineage {
    let looked_up = |name: &ProjectionName, column: &str| -> Option<ColumnLineage> {
        let other = app.projections.definitions().get(name.as_str())?;
        // A looked-up column is never a lookup itself: its own lineage needs no third definition.
        let traced = lineage::lineage(&other.current, &app.registry, &|_, _| None);
        traced.columns.into_iter().find(|traced| traced.name == column)
    };
    let mut lineage = lineage::lineage(definition, &app.registry, &looked_up);
    if let Err(name) = app.projections.parts().codes.of(definition) {
        lineage.violations.push(code_unknown(name));
    }
    lineage
}

fn code_unknown(name: &str) -> Violation {
    Violation {
        code: "code-unknown",
        pointer: "/code".to_owned(),
        message: format!("this server has no code of the name `{name}`"),
        hint: Some("code is part of the process: the program that starts the server registers it".to_owned()),
    }
}

/// All definitions.
#[utoipa::path(get, operation_id = "list_projections", path = "/v1/projections", tag = "projections",
    responses((status = 200, description = "Definitions", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn list(State(app): State<Shared>, caller: Caller, query: Query) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadProjections)?;
    query.finish()?;
    let all = app.projections.definitions().all();
    let items: Vec<Value> =
        all.iter().filter(|known| reaches(&caller, &known.current)).map(|known| shown(known, None)).collect();
    Ok(axum::Json(json!({"items": items, "next": null})))
}

/// One definition, with its lineage.
#[utoipa::path(get, operation_id = "show_projection", path = "/v1/projections/{name}", tag = "projections",
    params(("name" = String, Path, description = "Name of the projection or fold")),
    responses((status = 200, description = "The definition", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn show(
    State(app): State<Shared>,
    caller: Caller,
    Path(path): Path<String>,
    query: Query,
) -> Result<Response, Problem> {
    caller.require(Permission::ReadProjections)?;
    query.finish()?;
    let known = defined(&app, &caller, &path)?;
    let lineage = trace(&app, &known.current);
    let mut response = axum::Json(shown(&known, Some(&lineage))).into_response();
    set(&mut response, header::ETAG, &tag(&known));
    Ok(response)
}

/// Removes a definition and its rows. The events stay.
#[utoipa::path(delete, operation_id = "remove_projection", path = "/v1/projections/{name}", tag = "projections",
    params(("name" = String, Path, description = "Name of the projection or fold")),
    responses((status = 204, description = "Removed"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn remove(
    State(app): State<Shared>,
    caller: Caller,
    Path(path): Path<String>,
    query: Query,
) -> Result<StatusCode, Problem> {
    caller.require(Permission::ChangeProjections)?;
    query.finish()?;
    let name = name(&path)?.to_string();
    app.recorder
        .record(|| {
            app.projections.definitions().get(&name).ok_or_else(Problem::not_found)?;
            let by = caller.principal.id.clone();
            Ok::<_, Problem>(Record::Projection(ProjectionRecord::ProjectionRemoved { name: name.clone(), by }))
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tries a definition on stored events: its lineage, the rows it makes of them, and where it would stop. Nothing is kept.
#[utoipa::path(post, operation_id = "preview_projection", path = "/v1/projections/previews", tag = "projections",
    request_body = Value,
    responses((status = 200, description = "The preview", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn preview(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    mut query: Query,
    Json(body): Json,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::PreviewProjections)?;
    let viewer = caller.viewer(&headers, &mut query, "/v1/projections/previews")?;
    query.finish()?;
    let request = PreviewRequest::read(body)?;
    let lineage = trace(&app, &request.definition);
    if !lineage.violations.is_empty() || matches!(request.definition.kind, Kind::Fold { .. }) {
        return Ok(axum::Json(json!({"lineage": lineage, "rows": [], "valid": lineage.violations.is_empty()})));
    }
    if !reaches(&caller, &request.definition) {
        return Err(Problem::forbidden("This key is confined to other categories or types"));
    }
    let tried = app.projections.try_out(&request.definition, request.from, request.limit).await?;
    let live = Live {
        definition: &request.definition,
        generation: tried.generation,
        cursor: tried.cursor,
        lookups: Vec::new(),
    };
    let rows = app.rows.rows(&live, &RowQuery { limit: 100, by_body: true, ..RowQuery::default() }, &viewer).await;
    app.projections.forget_trial(tried.generation).await?;
    let rows = rows?;
    let shown: Vec<Value> = rows.items.iter().filter_map(|row| serde_json::from_slice(&row.json).ok()).collect();
    let stop = tried.stop.map(|stop| json!({"position": stop.position, "code": stop.code, "message": stop.message}));
    Ok(axum::Json(json!({
        "lineage": lineage, "rows": shown, "valid": true, "stop": stop, "position": tried.cursor,
    })))
}

struct PreviewRequest {
    definition: Definition,
    from: u64,
    limit: usize,
}

impl PreviewRequest {
    /// `{"definition": {…} or "yaml", "from": 0, "limit": 1000}`.
    fn read(body: Value) -> Result<Self, Problem> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            definition: Value,
            #[serde(default)]
            from: u64,
            #[serde(default = "all")]
            limit: usize,
        }
        fn all() -> usize {
            1000
        }
        let raw: Raw = Json(body).into()?;
        let parsed = match &raw.definition {
            Value::String(text) => Definition::parse(text, Format::Yaml),
            other => Definition::parse(&other.to_string(), Format::Json),
        };
        let definition = parsed.map_err(body::invalid)?;
        if raw.limit == 0 || raw.limit > 10_000 || i64::try_from(raw.from).is_err() {
            return Err(Problem::parameter("limit", "is 1 to 10000"));
        }
        Ok(Self { definition, from: raw.from, limit: raw.limit })
    }
}

fn shown(known: &Defined, lineage: Option<&Lineage>) -> Value {
    let definition: Value = serde_json::from_str(&known.current.text).unwrap_or_default();
    let mut shown = json!({
        "name": known.current.name.as_str(),
        "kind": kind(&known.current),
        "version": known.current.version,
        "digest": format!("sha256:{}", hex::encode(known.digest)),
        "paused": known.paused,
        "definition": definition,
    });
    if let (Some(lineage), Some(members)) = (lineage, shown.as_object_mut()) {
        members.insert("lineage".to_owned(), json!(lineage));
    }
    shown
}

/// Names of projections that a definition looks columns up in.
pub fn lookups(definition: &Definition) -> Vec<String> {
    let mut names: Vec<String> = definition
        .columns
        .iter()
        .filter_map(|column| match &column.source {
            ColumnSource::Lookup { projection, .. } => Some(projection.to_string()),
            ColumnSource::Handlers | ColumnSource::Derived(_) => None,
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
