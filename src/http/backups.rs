//! Backups: making and listing them. Putting one back needs the server stopped, so it is a command and no route.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Caller, Json, Query, Shared};
use super::problem::{self, Problem, ProblemBody};
use crate::auth::Permission;
use crate::backup::{BackupError, Domain, Manifest};
use crate::durable;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    domain: What,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Events,
    Keys,
    Record,
}

/// Makes a backup on the server's own disk, in the directory that its settings name for this domain, while everything
/// goes on: `{"domain": "events"}`, `"keys"`, or `"record"` for the erasure record.
#[utoipa::path(post, path = "/v1/backups", tag = "admin", request_body = Value,
    responses((status = 201, description = "Made", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn make_backup(State(app): State<Shared>, caller: Caller, body: Json) -> Result<Response, Problem> {
    caller.require(Permission::MakeBackups)?;
    let wish: Wish = body.into()?;
    let domain = match wish.domain {
        What::Events => Domain::Events,
        What::Keys => Domain::Keys,
        What::Record => return record(&app).await,
    };
    let manifest = app.backups.make(domain).await.map_err(|error| refused(&error))?;
    Ok((StatusCode::CREATED, axum::Json(render(&manifest, false))).into_response())
}

/// Lists backups of events and keys, oldest first. A key backup past its time is `expired` until it is gone.
#[utoipa::path(get, path = "/v1/backups", tag = "admin",
    responses((status = 200, description = "Backups", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn list_backups(
    State(app): State<Shared>,
    caller: Caller,
    query: Query,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadBackups)?;
    query.finish()?;
    let listed = app.backups.list().map_err(|error| refused(&error))?;
    let items: Vec<Value> = listed.iter().map(|one| render(&one.manifest, one.expired)).collect();
    Ok(axum::Json(json!({"items": items, "next": null})))
}

async fn record(app: &Shared) -> Result<Response, Problem> {
    if !app.is_level() {
        return Err(problem::record_behind());
    }
    let failed = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "the erasure record cannot be exported");
        problem::unavailable("backup-failed", "The erasure record cannot be exported; the server's log says why")
    };
    let (path, entries) = app.backups.export().await.map_err(|error| failed(&error))?;
    let (bytes, sha256) = durable::measure(&path).map_err(|error| failed(&error))?;
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let body = json!({"domain": "record", "file": file, "bytes": bytes, "sha256": hex::encode(sha256),
        "made_at": app.clock.now().rfc3339(), "erasure": entries});
    Ok((StatusCode::CREATED, axum::Json(body)).into_response())
}

fn render(manifest: &Manifest, expired: bool) -> Value {
    let mut body = serde_json::to_value(manifest).unwrap_or_default();
    if let Some(members) = body.as_object_mut() {
        members.remove("format");
        members.retain(|_, value| !value.is_null());
        members.insert("expired".into(), json!(expired));
    }
    body
}

fn refused(error: &BackupError) -> Problem {
    match error {
        BackupError::Busy => Problem::new(StatusCode::CONFLICT, "backup-running", "Another backup is being made"),
        BackupError::NoProgram { .. } | BackupError::OldProgram { .. } => {
            Problem::new(StatusCode::NOT_IMPLEMENTED, "backup-program", format!("The server cannot: {error}"))
        }
        error => {
            tracing::error!(%error, "a backup failed");
            problem::unavailable("backup-failed", "The backup was not made; the server's log says why")
        }
    }
}
