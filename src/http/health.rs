//! Liveness, readiness, metrics.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::extract::{Query, Shared};
use super::problem::{Problem, ProblemBody};
use crate::clock::Boottime;
use crate::projection::engine::Running;
use crate::telemetry::ForgetStatus;

/// Whether the process answers.
#[utoipa::path(get, path = "/livez", tag = "health",
    responses((status = 200, description = "It does", body = String, content_type = "text/plain")))]
pub async fn livez() -> &'static str {
    "ok\n"
}

/// Whether everything that requests need works; `?verbose` lists each check.
#[utoipa::path(get, path = "/readyz", tag = "health",
    params(("verbose" = Option<String>, Query, description = "Present: list the checks")),
    responses((status = 200, description = "Ready", body = Value), (status = 503, description = "Not ready", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn readyz(State(app): State<Shared>, mut query: Query) -> Result<Response, Problem> {
    // `?verbose` has no value, which `take` would refuse.
    let verbose = query.flag("verbose");
    query.finish()?;
    let log = app.log.head().await.map_or("unavailable", |_| "ok");
    let keystore = app.keys.keystore().stats().await.map_or("unavailable", |_| "ok");
    let record = if app.is_level() { "ok" } else { "behind" };
    // Where several processes share the keystore: whether this one was told lately what the others destroyed.
    let told = if app.keys.horizon().allows(Boottime::now()) { "ok" } else { "not-heard-of" };
    let full = app.writer.waiting() >= app.config.limits.writer_queue;
    let writer = if full { "full" } else { "ok" };
    let checks =
        [("log", log), ("key_store", keystore), ("key_lease", told), ("erasure_record", record), ("writer", writer)];
    let ready = checks.iter().all(|(_, state)| *state == "ok");
    let mut body = json!({"status": if ready { "ready" } else { "not-ready" }});
    if verbose {
        body["checks"] = checks.iter().map(|(name, state)| ((*name).to_owned(), json!(state))).collect::<Value>();
        // A view that stands still holds up its own readers, who are told so, and nobody else.
        let all = app.projections.all().await;
        let stalled = all.iter().filter(|(_, known)| known.live.as_ref().is_some_and(Running::is_stalled)).count();
        let text = if stalled == 0 { "ok".to_owned() } else { format!("{stalled} of {} stalled", all.len()) };
        body["checks"]["projections"] = json!(text);
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, axum::Json(body)).into_response())
}

/// Counters in OpenMetrics text: no stream, person or key in any label.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, description = "OpenMetrics", body = String, content_type = "application/openmetrics-text")))]
pub async fn metrics(State(app): State<Shared>) -> Response {
    app.metrics.writer_queue_depth.set(app.writer.waiting() as i64);
    let counts = app.log.request_counts().await.unwrap_or_default();
    for status in ForgetStatus::ALL {
        let count = counts.iter().find(|(word, _)| word == status.as_str()).map_or(0, |(_, count)| *count);
        app.metrics.forget_requests(*status, count);
    }
    let (head, now) = (*app.log.watch().borrow(), app.clock.now());
    let all = app.projections.all().await;
    app.metrics.projections(all.into_iter().filter_map(|(name, known)| {
        let live = known.live?;
        let status = live.status.borrow().clone();
        let behind = status.behind_since.map_or(0.0, |since| (now.0 - since.0).max(0) as f64 / 1000.0);
        Some((name, head.saturating_sub(status.cursor), behind, status.last_tick, live.is_stalled()))
    }));
    let media = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, media)], app.metrics.encode()).into_response()
}
