//! Where projections stand: status, pauses, rebuilds, events put aside.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::super::extract::{Caller, Path, Query, Shared};
use super::super::problem::{Problem, ProblemBody};
use super::{defined, name};
use crate::audit::Record;
use crate::auth::Permission;
use crate::projection::definitions::ProjectionRecord;
use crate::projection::engine::rebuild::Diff;
use crate::projection::engine::runner::{Cause, Status};
use crate::projection::engine::{Projection, Running};

/// Where a projection stands.
#[utoipa::path(get, operation_id = "projection_status", path = "/v1/projections/{name}/status", tag = "projections",
    params(("name" = String, Path, description = "Name of the projection")),
    responses((status = 200, description = "The status", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn status(
    State(app): State<Shared>,
    caller: Caller,
    Path(path): Path<String>,
    query: Query,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadProjections)?;
    query.finish()?;
    let known = defined(&app, &caller, &path)?;
    let name = known.current.name.as_str();
    let projection = app.projections.get(name).await.ok_or_else(Problem::not_found)?;
    Ok(axum::Json(of(&app, name, &projection).await?))
}

async fn of(app: &Shared, name: &str, projection: &Projection) -> Result<Value, Problem> {
    let store = &app.projections.parts().store;
    let now = app.clock.now().0;
    let head = *app.log.watch().borrow();
    let mut shown = json!({"projection": name, "head": head});
    let Some(members) = shown.as_object_mut() else { return Ok(shown) };
    if let Some(live) = &projection.live {
        let status = live.status.borrow().clone();
        members.insert("state".into(), status.state.as_str().into());
        members.insert("version".into(), live.definition.version.into());
        members.insert("position".into(), position(&status));
        members.insert("lag_events".into(), head.saturating_sub(status.cursor).into());
        let lag = status.behind_since.map_or(0, |since| (now - since.0).max(0));
        members.insert("lag_seconds".into(), (lag as f64 / 1000.0).into());
        members.insert("rate".into(), status.rate.round().into());
        members.insert("last_tick".into(), status.last_tick.rfc3339().into());
        members.insert("rows".into(), store.count(live.generation.id).await?.into());
        members.insert("parked".into(), store.parked_count(live.generation.id).await?.into());
        members.insert("cause".into(), cause(status.cause.as_ref()));
    }
    members.insert(
        "rebuild".into(),
        projection.shadow.as_ref().map_or(Value::Null, |shadow| rebuild_status(shadow, head)),
    );
    members.insert("last_rebuild".into(), projection.last_diff.as_ref().map_or(Value::Null, diff));
    Ok(shown)
}

/// The last position handled.
fn position(status: &Status) -> Value {
    status.cursor.checked_sub(1).map_or(Value::Null, Value::from)
}

fn cause(cause: Option<&Cause>) -> Value {
    cause.map_or(Value::Null, |cause| json!({"position": cause.position, "code": cause.code, "message": cause.message}))
}

fn rebuild_status(shadow: &Running, head: u64) -> Value {
    let status = shadow.status.borrow().clone();
    let left = head.saturating_sub(status.cursor) as f64;
    let eta = (status.rate > 0.0).then(|| (left / status.rate).ceil());
    json!({
        "version": shadow.definition.version, "state": status.state.as_str(), "done": status.cursor, "total": head,
        "rate": status.rate.round(), "eta_seconds": eta, "cause": cause(status.cause.as_ref()),
    })
}

fn diff(diff: &Diff) -> Value {
    let sample: Vec<Value> =
        diff.sample.iter().map(|(key, columns)| json!({"_key": key.to_string(), "columns": columns})).collect();
    json!({"compared": diff.compared, "added": diff.added, "removed": diff.removed, "changed": diff.changed, "sample": sample})
}

/// Computes a projection anew from the first event, beside the one that answers.
#[utoipa::path(post, operation_id = "rebuild_projection", path = "/v1/projections/{name}/rebuilds", tag = "projections",
    params(("name" = String, Path, description = "Name of the projection")),
    responses((status = 202, description = "Begun; see the status", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn rebuild(
    State(app): State<Shared>,
    caller: Caller,
    Path(path): Path<String>,
    query: Query,
) -> Result<Response, Problem> {
    caller.require(Permission::ChangeProjections)?;
    query.finish()?;
    let name = name(&path)?.to_string();
    match app.projections.rebuild(&name).await? {
        None => Err(Problem::not_found()),
        Some(false) => Err(Problem::new(StatusCode::CONFLICT, "rebuild-in-progress", "It is being rebuilt already")),
        Some(true) => {
            let location = [("location", format!("/v1/projections/{name}/status"))];
            Ok((StatusCode::ACCEPTED, location, axum::Json(json!({"projection": name, "state": "rebuilding"})))
                .into_response())
        }
    }
}

/// Stops a projection until it is resumed. Whoever waits for it is told so.
#[utoipa::path(post, operation_id = "pause_projection", path = "/v1/projections/{name}/pauses", tag = "projections",
    params(("name" = String, Path, description = "Name of the projection")),
    responses((status = 204, description = "Paused"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn pause(
    State(app): State<Shared>,
    caller: Caller,
    Path(path): Path<String>,
    query: Query,
) -> Result<StatusCode, Problem> {
    decide(&app, &caller, &path, query, |name, by| ProjectionRecord::ProjectionPaused { name, by }).await
}

/// Resumes a projection; one that stopped at an event tries again.
#[utoipa::path(delete, operation_id = "resume_projection", path = "/v1/projections/{name}/pauses", tag = "projections",
    params(("name" = String, Path, description = "Name of the projection")),
    responses((status = 204, description = "Resumed"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn resume(
    State(app): State<Shared>,
    caller: Caller,
    Path(path): Path<String>,
    query: Query,
) -> Result<StatusCode, Problem> {
    let done = decide(&app, &caller, &path, query, |name, by| ProjectionRecord::ProjectionResumed { name, by }).await?;
    app.projections.try_again(&path).await;
    Ok(done)
}

async fn decide(
    app: &Shared,
    caller: &Caller,
    path: &str,
    query: Query,
    record: impl FnOnce(String, String) -> ProjectionRecord,
) -> Result<StatusCode, Problem> {
    caller.require(Permission::ChangeProjections)?;
    query.finish()?;
    let name = name(path)?.to_string();
    let by = caller.principal.id.clone();
    app.recorder
        .record(|| {
            app.projections.definitions().get(&name).ok_or_else(Problem::not_found)?;
            Ok::<_, Problem>(Record::Projection(record(name.clone(), by)))
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Events that could not be handled and were put aside (`on_error: park`): where and why, never what.
#[utoipa::path(get, operation_id = "list_parked_events", path = "/v1/projections/{name}/parked", tag = "projections",
    params(("name" = String, Path, description = "Name of the projection"),
        ("after" = Option<u64>, Query, description = "Only later positions"),
        ("limit" = Option<u64>, Query, description = "Most entries")),
    responses((status = 200, description = "Events put aside", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn parked(
    State(app): State<Shared>,
    caller: Caller,
    Path(path): Path<String>,
    mut query: Query,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadProjections)?;
    let after = query.number("after", 0..=i64::MAX as u64)?;
    let limit = query.number("limit", 1..=1000)?.unwrap_or(100) as usize;
    query.finish()?;
    let known = defined(&app, &caller, &path)?;
    let projection = app.projections.get(known.current.name.as_str()).await.ok_or_else(Problem::not_found)?;
    let live = projection.live.ok_or_else(Problem::not_found)?;
    let found = app.projections.parts().store.parked(live.generation.id, after, limit).await?;
    let next = found.last().filter(|_| found.len() == limit).map(|(position, _, _)| *position);
    let items: Vec<Value> =
        found.iter().map(|(at, code, why)| json!({"position": at, "code": code, "message": why})).collect();
    Ok(axum::Json(json!({"items": items, "next": next})))
}
