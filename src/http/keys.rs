//! Keys and epochs: counts, states and dates; never key material.
//!
//! Owns: how epochs are shown, and the call that begins one. Must not know: how keys are wrapped.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::extract::{Caller, Path, Query, Shared};
use super::problem::{Problem, ProblemBody};
use crate::app::App;
use crate::auth::Permission;
use crate::clock::Millis;
use crate::keystore::epoch::{Epoch, EpochStatus};
use crate::telemetry::KeyState;

/// Counts of encryption keys by state, epochs of root keys with their dates, and when backups forget. No key material.
#[utoipa::path(get, path = "/v1/keys", tag = "admin",
    responses((status = 200, description = "Counts and epochs", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn keys(State(app): State<Shared>, caller: Caller, query: Query) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadKeys)?;
    query.finish()?;
    let stats = app.keys.keystore().stats().await?;
    let status = app.epochs.status().await?;
    app.metrics.keys(KeyState::Active, stats.active);
    app.metrics.keys(KeyState::Destroyed, stats.destroyed);
    let [bound, epoch, horizon] = app.config.backup_bound_text();
    let epochs: Vec<Value> = status.epochs.iter().map(|epoch| render(&status, epoch)).collect();
    let running = status.newest().filter(|_| status.is_running());
    Ok(axum::Json(json!({
        "totals": {"active": stats.active, "destroyed": stats.destroyed},
        "data_subjects": stats.subjects,
        "epoch": stats.epoch,
        "applied_erasure": stats.applied_erasure,
        "suite": "AES-256-GCM, HKDF-SHA-256",
        "epochs": epochs,
        "rotation": running.map(|epoch| rotation(&status, epoch)),
        "backups": {
            "bound": bound,
            "epoch": epoch,
            "horizon": horizon,
            "effective_erasure": status.effective_erasure(),
        },
    })))
}

/// Begins an epoch now: a new root key, under which everything is wrapped anew. What is at work already is answered instead.
#[utoipa::path(post, path = "/v1/keys/rotations", tag = "admin",
    responses((status = 202, description = "Begun, durably; going on", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn rotate(State(app): State<Shared>, caller: Caller, query: Query) -> Result<Response, Problem> {
    caller.require(Permission::RotateKeys)?;
    query.finish()?;
    let epoch = app.epochs.rotate().await?;
    let body = show_one(&app, epoch).await?;
    let location = format!("/v1/keys/rotations/{epoch}");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], axum::Json(body)).into_response())
}

/// How far an epoch is.
#[utoipa::path(get, path = "/v1/keys/rotations/{epoch}", tag = "admin",
    params(("epoch" = u32, Path, description = "Number of the epoch")),
    responses((status = 200, description = "The epoch", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn rotation_of(
    State(app): State<Shared>,
    caller: Caller,
    Path(epoch): Path<String>,
    query: Query,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadKeys)?;
    query.finish()?;
    let epoch = epoch.parse().map_err(|_| Problem::not_found())?;
    show_one(&app, epoch).await.map(axum::Json)
}

async fn show_one(app: &App, epoch: u32) -> Result<Value, Problem> {
    let status = app.epochs.status().await?;
    // The first epoch began with the store: no rotation.
    let found = status.epochs.iter().skip(1).find(|one| one.epoch == epoch);
    found.map(|epoch| rotation(&status, epoch)).ok_or_else(Problem::not_found)
}

fn render(status: &EpochStatus, epoch: &Epoch) -> Value {
    json!({
        "epoch": epoch.epoch,
        "state": status.state(epoch).as_str(),
        "began_at": epoch.began.rfc3339(),
        "finished_at": epoch.finished.map(Millis::rfc3339),
        "root_destroy_due": epoch.destroy_due.map(Millis::rfc3339),
        "root_destroyed_at": epoch.destroyed.map(Millis::rfc3339),
        "covers_erasure": epoch.erasure,
    })
}

fn rotation(status: &EpochStatus, epoch: &Epoch) -> Value {
    let mut body = render(status, epoch);
    let newest = status.newest().is_some_and(|newest| newest.epoch == epoch.epoch);
    let finished = epoch.finished.is_some() || !newest;
    let left = if finished { 0 } else { status.shards_left };
    body["status"] = json!(if finished { "finished" } else { "running" });
    body["shards"] = json!({
        "left": left,
        "rekeyed": epoch.shards_rekeyed,
        "rewrapped": epoch.shards_rewrapped,
    });
    body["keys"] = json!({"rewrapped": epoch.keys_rewrapped, "unreadable": epoch.keys_unreadable});
    body["files_rewritten"] = json!(epoch.files_rewritten);
    let before = status.epochs.iter().rfind(|other| other.epoch < epoch.epoch);
    body["earlier_root_destroy_due"] = json!(before.and_then(|other| other.destroy_due).map(Millis::rfc3339));
    body["backups_effective"] = json!(before.is_some_and(|other| other.destroyed.is_some()));
    body
}
