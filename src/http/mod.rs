//! REST over HTTP/1.1: routes, authentication, limits.
//!
//! Owns: the list of routes and what happens to every request. No SQL here, and nothing below this module knows HTTP.

pub mod admin;
pub mod append;
pub mod audit;
pub mod backups;
pub mod cursor;
pub mod docs;
pub mod extract;
pub mod folds;
pub mod forget;
pub mod health;
pub mod keys;
pub mod live;
mod nodes;
mod parse;
pub mod problem;
pub mod projections;
pub mod read;
pub mod schemas;
pub mod serve;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::event::uuid_v7;
use docs::Security;
use extract::{Caller, Shared};
use problem::{Problem, REQUEST_ID};

/// Paths that need no API key.
const OPEN: [&str; 7] =
    ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/rapidoc.js", "/problems/{code}"];

/// Methods that a log line names (RFC 9110, RFC 5789).
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Oubliette",
        description = "An event store that can forget a person: personal data is sealed per data subject and purpose, \
                       and forgetting destroys the keys."
    ),
    tags((name = "events"), (name = "privacy"), (name = "schemas"),
        (name = "projections"), (name = "audit"), (name = "admin"), (name = "health")),
    components(schemas(problem::ProblemBody, problem::ProblemError)),
    modifiers(&Security)
)]
struct Document;

fn api() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(append::append_to_stream, read::read_stream))
        .routes(routes!(append::append_to_streams, read::read_all))
        .routes(routes!(read::list_streams))
        .routes(routes!(read::stream_head))
        .routes(routes!(folds::fold_state))
        .routes(routes!(schemas::list_types))
        .routes(routes!(schemas::show_type))
        .routes(routes!(schemas::register))
        .routes(routes!(schemas::show_version))
        .routes(routes!(schemas::deprecate))
        .routes(routes!(schemas::check))
        .routes(routes!(schemas::change_settings))
        .routes(routes!(schemas::inventory))
        .routes(routes!(schemas::list_categories))
        .routes(routes!(schemas::show_category, schemas::change_category))
        .routes(routes!(projections::define::list))
        .routes(routes!(projections::define::preview))
        .routes(routes!(projections::define::put, projections::define::show, projections::define::remove))
        .routes(routes!(projections::rows::rows))
        .routes(routes!(projections::rows::row))
        .routes(routes!(projections::rows::query))
        .routes(routes!(projections::status::status))
        .routes(routes!(projections::status::rebuild))
        .routes(routes!(projections::status::pause, projections::status::resume))
        .routes(routes!(projections::status::parked))
        .routes(routes!(forget::open, forget::list))
        .routes(routes!(forget::show))
        .routes(routes!(forget::approve))
        .routes(routes!(forget::reject))
        .routes(routes!(forget::cancel))
        .routes(routes!(forget::certificate))
        .routes(routes!(forget::forget))
        .routes(routes!(forget::lookup))
        .routes(routes!(forget::reauthorize))
        .routes(routes!(admin::issue_key, admin::list_keys))
        .routes(routes!(admin::revoke_key))
        .routes(routes!(keys::keys))
        .routes(routes!(keys::rotate))
        .routes(routes!(keys::rotation_of))
        .routes(routes!(nodes::nodes))
        .routes(routes!(backups::make_backup, backups::list_backups))
        .routes(routes!(audit::checkpoint))
        .routes(routes!(audit::inclusion))
        .routes(routes!(audit::consistency))
        .routes(routes!(audit::audit_keys))
        .routes(routes!(audit::access_log))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
}

/// The OpenAPI 3.1 document, generated from the handlers.
pub fn openapi() -> utoipa::openapi::OpenApi {
    api().split_for_parts().1
}

/// Every route with its state and its middleware.
pub fn router(app: Arc<App>) -> Router {
    let (router, document) = api().split_for_parts();
    let gate = Arc::new(Semaphore::new(app.config.limits.concurrency));
    let shell = Shell { app: Arc::clone(&app), gate };
    router
        .merge(docs::routes(&document))
        .merge(audit::log_routes())
        .fallback(|| async { Problem::not_found() })
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(shell, around))
        .with_state(app)
}

/// Route templates, for metrics.
pub fn route_templates() -> Vec<String> {
    let mut paths: Vec<String> = openapi().paths.paths.keys().cloned().collect();
    paths.extend(["/openapi.json", "/docs", "/docs/rapidoc.js"].map(str::to_owned));
    paths.extend(audit::LOG_ROUTES.map(str::to_owned));
    paths
}

async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "This resource has no such method")
}

#[derive(Clone)]
struct Shell {
    app: Shared,
    gate: Arc<Semaphore>,
}

/// What happens to every request: an id, the limits, authentication, counting, one log line without personal data.
async fn around(State(shell): State<Shell>, mut request: Request, next: Next) -> Response {
    let app = &shell.app;
    let began = Instant::now();
    let id = app.entropy.draw().map_or_else(
        |_| "unknown".to_owned(),
        |random| uuid::Uuid::from_bytes(uuid_v7(app.clock.now(), random)).to_string(),
    );
    let method = request.method().clone();
    let template = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let response = REQUEST_ID
        .scope(id.clone(), async {
            if request.uri().to_string().len() > app.config.limits.uri_bytes {
                let title = format!("A request target has at most {} bytes", app.config.limits.uri_bytes);
                return Problem::new(StatusCode::URI_TOO_LONG, "uri-too-long", title).into_response();
            }
            let Ok(permit) = Arc::clone(&shell.gate).try_acquire_owned() else {
                return problem::unavailable("too-many-requests", "Too many requests at once").into_response();
            };
            let open = template.as_deref().is_some_and(|path| OPEN.contains(&path) || path.starts_with("/.well-known"));
            if !open {
                match authenticate(app, request.headers(), &id).await {
                    Ok(caller) => drop(request.extensions_mut().insert(caller)),
                    Err(problem) => return problem.into_response(),
                }
            }
            if request.method().is_safe() {
                let _permit = permit;
                return within_time(app, template.as_deref(), next.run(request)).await;
            }
            let work = async {
                let request = extract::read_ahead(request, &app.config.limits).await;
                to_its_end(id.clone(), permit, next.run(request)).await
            };
            within_time(app, template.as_deref(), work).await
        })
        .await;
    finish(app, response, &id, method.as_str(), template.as_deref(), began)
}

/// Runs a handler that may change something in a task of its own. A change has several steps (a fence is committed, then
/// its answers in flight end and the worker is told; a revocation is recorded, then in force): a caller that hangs up, or
/// a time limit, must not stop it between two of them. The permit goes with the work, not with the caller.
async fn to_its_end(
    id: String,
    permit: OwnedSemaphorePermit,
    answer: impl Future<Output = Response> + Send + 'static,
) -> Response {
    let work = REQUEST_ID.scope(id, async move {
        let _permit = permit;
        answer.await
    });
    match tokio::spawn(work).await {
        Ok(response) => response,
        Err(_) => problem::internal().into_response(),
    }
}

/// A handler may wait as long as a caller may ask it to (`Prefer: wait`), and no longer.
async fn within_time(app: &App, template: Option<&str>, answer: impl Future<Output = Response>) -> Response {
    let limit = match template {
        Some("/v1/forget" | "/v1/forget-requests/{id}/approvals" | "/v1/forget-requests/{id}") => {
            forget::LONGEST_WAIT + app.config.limits.request_timeout
        }
        Some(
            "/v1/projections/{name}/rows" | "/v1/projections/{name}/rows/{key}" | "/v1/projections/{name}/queries",
        ) => std::time::Duration::from_secs(projections::rows::LONGEST_WAIT) + app.config.limits.request_timeout,
        // A check against every stored event takes as long as there are events.
        Some("/v1/schemas/{type}/versions" | "/v1/schemas/{type}/checks") => std::time::Duration::from_mins(10),
        // A copy of everything takes as long as there is data.
        Some("/v1/backups") => std::time::Duration::from_hours(12),
        _ => app.config.limits.request_timeout,
    };
    match tokio::time::timeout(limit, answer).await {
        Ok(response) => response,
        Err(_) => problem::unavailable("request-timeout", "The request took too long").into_response(),
    }
}

async fn authenticate(app: &App, headers: &HeaderMap, id: &str) -> Result<Caller, Problem> {
    let refuse = || {
        Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", "A valid API key is needed: Authorization: Bearer …")
            .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    };
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    // Of two keys neither is meant more than the other.
    let (Some(value), None) = (values.next(), values.next()) else { return Err(refuse()) };
    let value = value.to_str().ok();
    let secret = value.and_then(|text| text.strip_prefix("Bearer ")).ok_or_else(refuse)?;
    let shared = app.keys.keystore().nodes().is_some();
    if shared && !app.recorder.decisions().are_current().await {
        let title = "It cannot be told now whether the API key is still valid";
        return Err(problem::unavailable("log-unavailable", title));
    }
    let mut principal = app.api_keys.authenticate(secret.trim(), app.clock.now());
    if principal.is_none() && shared {
        // Another process may have issued it just now.
        app.recorder.decisions().look_for_stranger().await;
        principal = app.api_keys.authenticate(secret.trim(), app.clock.now());
    }
    let principal = principal.ok_or_else(refuse)?;
    Ok(Caller { principal, request: id.to_owned() })
}

fn finish(
    app: &App,
    mut response: Response,
    id: &str,
    method: &str,
    template: Option<&str>,
    began: Instant,
) -> Response {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert("x-request-id", value);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let status = response.status();
    let took = began.elapsed();
    app.metrics.http_request(method, template, status.as_u16(), took);
    // The template, never the path: a path can hold an identifier. A method of the caller's invention can hold anything.
    tracing::debug!(
        request = id,
        http.request.method = if METHODS.contains(&method) { method } else { "_OTHER" },
        http.route = template.unwrap_or("none"),
        http.response.status_code = status.as_u16(),
        duration_us = took.as_micros() as u64,
        "request"
    );
    response
}
