//! Forget requests, approvals, and coming back.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::cursor;
use super::extract::{Caller, Json, Path, Query, Shared, prefer_wait};
use super::problem::{self, Problem, ProblemBody};
use crate::auth::Permission;
use crate::clock::Millis;
use crate::erasure::requests::{ForgetError, OpenRequest};
use crate::erasure::{Request, Status, certificate, deep};
use crate::event::{NaturalKey, Purpose, SubjectKey};
use crate::schema::lint;

/// Longest time a caller can ask to wait.
pub const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// How often a forget in one call looks again when events came in between.
const AGAIN: usize = 8;

/// The body that opens a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    data_subject: String,
    #[serde(default)]
    basis: Option<String>,
    #[serde(default)]
    scope: Option<Value>,
    #[serde(default)]
    received_at: Option<String>,
    #[serde(default)]
    reference: Option<String>,
}

/// Opens a forget request and previews it. Nothing changes for anybody until it is approved.
#[utoipa::path(post, path = "/v1/forget-requests", tag = "privacy", request_body = Value,
    responses((status = 201, description = "Opened", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn open(State(app): State<Shared>, caller: Caller, body: Json) -> Result<Response, Problem> {
    caller.require(Permission::RequestForget)?;
    let request = open_request(&app, &caller, body).await?;
    let location = format!("/v1/forget-requests/{}", request.id);
    let body = render(&app, &request, &caller);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(body)).into_response())
}

/// Opens, previews and approves in one call. Waits for completion as long as `Prefer: wait` says.
#[utoipa::path(post, path = "/v1/forget", tag = "privacy", request_body = Value,
    responses((status = 200, description = "Completed", body = Value),
        (status = 202, description = "Fenced: visible nowhere; being completed", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn forget(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    body: Json,
) -> Result<Response, Problem> {
    caller.require(Permission::RequestForget)?;
    caller.require(Permission::ApproveForget)?;
    let opened = open_request(&app, &caller, body).await?;
    let began = std::time::Instant::now();
    let mut digest = opened.preview.digest;
    // Nobody looked at the preview, so nobody has to look again because events came in between.
    let mut again = 0..AGAIN;
    let fenced = loop {
        match app.requests.approve(&opened.id, &digest, &caller.principal.id).await {
            Err(ForgetError::StalePreview { current }) if again.next().is_some() => digest = current,
            done => break done?,
        }
    };
    wait(&app, &caller, &headers, fenced, began).await
}

/// The certificate of a completed erasure: RFC 8785 JSON with a proof and a signature, to be checked without this server.
#[utoipa::path(get, path = "/v1/forget-requests/{id}/certificate", tag = "privacy",
    params(("id" = String, Path, description = "`fr_…`")),
    responses((status = 200, description = "A certificate", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn certificate(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    let request = visible(&app, &caller, &id, Permission::ReadForgetRequests).await?;
    let issued = certificate::issue(&app.log, app.keys.keystore().as_ref(), &app.checkpoint, &request).await?;
    let text = issued.ok_or_else(|| {
        Problem::new(
            StatusCode::CONFLICT,
            "certificate-not-ready",
            "There is no certificate before the erasure is complete",
        )
        .with("status_now", request.status.as_str())
    })?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Approval {
    preview_digest: String,
}

/// Approves exactly the preview with this digest. When this answers, the data is visible nowhere.
#[utoipa::path(post, path = "/v1/forget-requests/{id}/approvals", tag = "privacy",
    params(("id" = String, Path, description = "`fr_…`")), request_body = Value,
    responses((status = 200, description = "Completed", body = Value),
        (status = 202, description = "Fenced: visible nowhere; being completed", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn approve(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Json,
) -> Result<Response, Problem> {
    caller.require(Permission::ApproveForget)?;
    let Approval { preview_digest } = body.into()?;
    level(&app)?;
    let began = std::time::Instant::now();
    let fenced = app.requests.approve(&id, &preview_digest, &caller.principal.id).await?;
    wait(&app, &caller, &headers, fenced, began).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rejection {
    ground: String,
}

/// Rejects a request with a ground (Art. 17(3), 12(5) GDPR).
#[utoipa::path(post, path = "/v1/forget-requests/{id}/rejections", tag = "privacy",
    params(("id" = String, Path, description = "`fr_…`")), request_body = Value,
    responses((status = 200, description = "Rejected", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn reject(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ApproveForget)?;
    let Rejection { ground } = body.into()?;
    let ground = legal_basis(Some(ground))?;
    let request = app.requests.reject(&id, &ground, &caller.principal.id).await?;
    Ok(axum::Json(render(&app, &request.ok_or_else(Problem::not_found)?, &caller)))
}

/// Withdraws a request that was not approved yet: by whoever opened it, or an officer.
#[utoipa::path(post, path = "/v1/forget-requests/{id}/cancellations", tag = "privacy",
    params(("id" = String, Path, description = "`fr_…`")),
    responses((status = 200, description = "Cancelled", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn cancel(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::RequestForget)?;
    let request = visible(&app, &caller, &id, Permission::ApproveForget).await?;
    let request = app.requests.cancel(&request.id, &caller.principal.id).await?;
    Ok(axum::Json(render(&app, &request.ok_or_else(Problem::not_found)?, &caller)))
}

/// One request: where it stands, what was destroyed and when, what the verification tried and opened, and when its ciphertext
/// goes or how much of it is gone.
#[utoipa::path(get, path = "/v1/forget-requests/{id}", tag = "privacy",
    params(("id" = String, Path, description = "`fr_…`")),
    responses((status = 200, description = "The request", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn show(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<axum::Json<Value>, Problem> {
    let request = visible(&app, &caller, &id, Permission::ReadForgetRequests).await?;
    let request = match prefer_wait(&headers, LONGEST_WAIT.as_secs()) {
        Some(wait) => app.requests.wait(&request.id, wait).await?.ok_or_else(Problem::not_found)?,
        None => request,
    };
    Ok(axum::Json(render(&app, &request, &caller)))
}

/// Lists requests by age.
#[utoipa::path(get, path = "/v1/forget-requests", tag = "privacy",
    params(("status" = Option<String>, Query, description = "One status"),
        ("limit" = Option<u64>, Query, description = "Most requests"),
        ("cursor" = Option<String>, Query, description = "From `next` of the page before")),
    responses((status = 200, description = "Requests", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn list(State(app): State<Shared>, caller: Caller, mut query: Query) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadForgetRequests)?;
    let given = query.take("cursor")?;
    let limit = query.number("limit", 1..=1000)?.unwrap_or(100) as usize;
    let bound = format!("/v1/forget-requests {}", query.canonical());
    let status = query.take("status")?;
    query.finish()?;
    if status.as_ref().is_some_and(|word| !Status::ALL.iter().any(|known| known.as_str() == word)) {
        return Err(Problem::parameter("status", "is not a status of a forget request"));
    }
    let (key, principal, now) = (&app.service_keys.cursor, &caller.principal.id, app.clock.now());
    let after = match &given {
        Some(given) => Some(cursor::read(key, principal, &bound, given, now)?),
        None => None,
    };
    let rows = app.log.requests(status, after, limit).await?;
    let last = rows.last().filter(|_| rows.len() == limit);
    let next = last.map(|row| cursor::issue(key, principal, &bound, &row.id, now));
    let items: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({"id": row.id, "data_subject": row.subject.to_string(), "status": row.status, "due_at": row.due.rfc3339()})
        })
        .collect();
    Ok(axum::Json(json!({"items": items, "next": next})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lookup {
    #[serde(default)]
    data_subject: Option<String>,
    #[serde(default)]
    natural_key: Option<NaturalKeyGiven>,
}

/// A natural key as the schemas declare it: the role, and the values in the order of `resolve`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NaturalKeyGiven {
    role: String,
    values: Vec<Value>,
}

/// The pseudonym of a person you know by your own id (`data_subject`) or by natural key (`natural_key`, with the `role` and
/// the `values` in the order in which the schema's `resolve` names them). Both travel in the body, never in a URL; the lookup is in the
/// access log. Unknown and forgotten people get the same answer.
#[utoipa::path(post, path = "/v1/data-subjects/lookups", tag = "privacy", request_body = Value,
    responses((status = 200, description = "The pseudonym", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn lookup(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    mut query: Query,
    body: Json,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::FindBySubject)?;
    let viewer = caller.viewer(&headers, &mut query, "/v1/data-subjects/lookups")?;
    query.finish()?;
    let key = match body.into()? {
        Lookup { data_subject: Some(id), natural_key: None } => subject(&id)?,
        Lookup { data_subject: None, natural_key: Some(NaturalKeyGiven { role, values }) } => {
            let key = NaturalKey::new(&role, &values.iter().collect::<Vec<_>>());
            SubjectKey::Natural(key.map_err(|error| Problem::parameter("natural_key", &error.to_string()))?)
        }
        _ => {
            let title = "The body has data_subject or natural_key, one of them";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-body", title));
        }
    };
    let found = app.reader.lookup(key, &viewer).await?.ok_or_else(Problem::not_found)?;
    Ok(axum::Json(json!({"data_subject": found.to_string()})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reauthorization {
    #[serde(default)]
    data_subject: Option<String>,
    #[serde(default)]
    purposes: Vec<String>,
    #[serde(default)]
    basis: Option<String>,
}

/// Lets a forgotten person come back: a fresh pseudonym and fresh keys; old data stays gone. `{id}` is the id you know
/// the person by, or `-` with the id in the body as `data_subject` (an id that looks personal belongs there).
#[utoipa::path(post, path = "/v1/data-subjects/{id}/reauthorizations", tag = "privacy",
    params(("id" = String, Path, description = "Your id of the person, a pseudonym, or `-`")), request_body = Value,
    responses((status = 201, description = "Re-authorised", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn reauthorize(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json,
) -> Result<Response, Problem> {
    caller.require(Permission::AcknowledgePrivacy)?;
    level(&app)?;
    let wish: Reauthorization = body.into()?;
    let named = match (id.as_str(), &wish.data_subject) {
        ("-", Some(named)) => named.clone(),
        ("-", None) => return Err(Problem::parameter("id", "is -, so data_subject has to be in the body")),
        (path, None) => path.to_owned(),
        (path, Some(named)) if path == named => named.clone(),
        _ => return Err(Problem::parameter("id", "and data_subject in the body are different")),
    };
    if id != "-" && lint::shape_of(&id).is_some() {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "identifier-looks-personal",
            "This id looks personal; send it in the body as data_subject, with - in the path",
        ));
    }
    let subject = subject(&named)?;
    let purposes = purposes(&wish.purposes)?;
    let basis = legal_basis(wish.basis.or_else(|| Some("gdpr:A6-1-a".into())))?;
    let renewed = app.requests.reauthorize(subject, purposes, &basis, &caller.principal.id).await?;
    let body = json!({"data_subject": renewed.to_string(), "purposes": wish.purposes});
    Ok((StatusCode::CREATED, axum::Json(body)).into_response())
}

/// While the log is older than the erasure record, an erasure would get a number that another one has.
fn level(app: &Shared) -> Result<(), Problem> {
    if app.is_level() { Ok(()) } else { Err(problem::record_behind()) }
}

async fn open_request(app: &Shared, caller: &Caller, body: Json) -> Result<Request, Problem> {
    level(app)?;
    let wish: Wish = body.into()?;
    let purposes = match &wish.scope {
        None => None,
        Some(Value::String(all)) if all == "all" => None,
        Some(scope) => Some(scope_purposes(scope)?),
    };
    let received_at = match &wish.received_at {
        None => None,
        Some(text) => {
            let time = Millis::parse_rfc3339(text);
            Some(time.ok_or_else(|| Problem::parameter("received_at", "is not an RFC 3339 time"))?)
        }
    };
    if let Some(reference) = &wish.reference
        && (reference.len() > 100 || reference.chars().any(char::is_control) || lint::shape_of(reference).is_some())
    {
        return Err(Problem::parameter(
            "reference",
            "is longer than 100 bytes, has control characters or looks personal",
        ));
    }
    let subject = subject(&wish.data_subject)?;
    let opened = app
        .requests
        .open(OpenRequest {
            subject,
            purposes,
            basis: legal_basis(wish.basis)?,
            received_at,
            reference: wish.reference,
            by: caller.principal.id.clone(),
        })
        .await;
    match opened {
        // Unknown and forgotten look the same to whoever may not see requests.
        Err(ForgetError::AlreadyErased) if !caller.principal.may(Permission::ReadForgetRequests) => {
            Err(Problem::not_found())
        }
        other => Ok(other?),
    }
}

/// Answers once the request is complete, or as long as the caller waits for that.
async fn wait(
    app: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
    fenced: Option<Request>,
    began: std::time::Instant,
) -> Result<Response, Problem> {
    let fenced = fenced.ok_or_else(Problem::not_found)?;
    let request = match prefer_wait(headers, LONGEST_WAIT.as_secs()) {
        Some(wait) => app.requests.wait(&fenced.id, wait).await?.unwrap_or(fenced),
        None => fenced,
    };
    let done = request.status == Status::Completed;
    if done {
        app.metrics.forget_duration.observe(began.elapsed().as_secs_f64());
    }
    let status = if done { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = format!("/v1/forget-requests/{}", request.id);
    Ok((status, [(header::LOCATION, location)], axum::Json(render(app, &request, caller))).into_response())
}

/// A request that this caller may see: with the permission, or because it opened it.
async fn visible(app: &Shared, caller: &Caller, id: &str, permission: Permission) -> Result<Request, Problem> {
    let own = caller.principal.may(Permission::RequestForget);
    if !own {
        caller.require(permission)?;
    }
    let request = app.requests.get(id).await?.ok_or_else(Problem::not_found)?;
    if caller.principal.may(permission) || request.requested_by == caller.principal.id {
        return Ok(request);
    }
    Err(Problem::not_found())
}

fn subject(text: &str) -> Result<SubjectKey, Problem> {
    SubjectKey::parse(text).map_err(|error| Problem::parameter("data_subject", &error.to_string()))
}

fn scope_purposes(scope: &Value) -> Result<Vec<Purpose>, Problem> {
    let wrong = || Problem::parameter("scope", "is \"all\" or {\"purposes\": [...]}");
    let members = scope.as_object().filter(|members| members.len() == 1).ok_or_else(wrong)?;
    let list = members.get("purposes").and_then(Value::as_array).ok_or_else(wrong)?;
    let list: Option<Vec<String>> = list.iter().map(|p| p.as_str().map(str::to_owned)).collect();
    let list = purposes(&list.ok_or_else(wrong)?)?;
    if list.is_empty() { Err(wrong()) } else { Ok(list) }
}

fn purposes(list: &[String]) -> Result<Vec<Purpose>, Problem> {
    if list.len() > 64 {
        return Err(Problem::parameter("purposes", "names more than 64"));
    }
    let parsed: Result<Vec<_>, _> = list.iter().map(|p| Purpose::parse(p)).collect();
    parsed.map_err(|error| Problem::parameter("purposes", &error.to_string()))
}

/// `gdpr:A17-1-b`: the article, its paragraph and point.
fn legal_basis(text: Option<String>) -> Result<String, Problem> {
    let text = text.unwrap_or_else(|| "gdpr:A17-1-b".to_owned());
    let article = text.strip_prefix("gdpr:A").unwrap_or_default();
    let mut parts = article.split('-');
    let number = parts.next().and_then(|n| n.parse::<u8>().ok()).is_some_and(|n| (1..=99).contains(&n));
    let rest = parts.all(|part| (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric()));
    if number && rest && text.len() <= 20 {
        return Ok(text);
    }
    Err(Problem::parameter("basis", "is not an article like gdpr:A17-1-b"))
}

/// A request as callers see it. No personal data: pseudonym, counts, key ids, times.
fn render(app: &Shared, request: &Request, caller: &Caller) -> Value {
    let purposes = request.purposes.as_ref();
    let scope =
        purposes.map_or(json!("all"), |list| json!({"purposes": list.iter().map(Purpose::as_str).collect::<Vec<_>>()}));
    let officer = caller.principal.may(Permission::ApproveForget);
    let actions: &[&str] = if officer { request.status.allowed_actions() } else { &[] };
    let history: Vec<Value> =
        request.history.iter().map(|(status, at)| json!({"status": status.as_str(), "at": at.rfc3339()})).collect();
    let mut body = json!({
        "id": request.id,
        "status": request.status.as_str(),
        "data_subject": request.subject.to_string(),
        "scope": scope,
        "basis": request.basis,
        "received_at": request.received_at,
        "due_at": request.due_at,
        "requested_by": request.requested_by,
        "preview": request.preview,
        "history": history,
        "allowed_actions": actions,
    });
    let mut put = |key: &str, value: Value| {
        if !value.is_null() {
            body[key] = value;
        }
    };
    put("reference", json!(request.reference));
    put("decided_by", json!(request.decided_by));
    put("ground", json!(request.ground));
    if let Some(erasure) = request.erasure {
        put(
            "destroyed",
            json!({
                "erasure": erasure,
                "keys": request.keys,
                "external_id_removed": request.external_id_removed,
                "washed_bytes": request.washed_bytes,
                "wash_incomplete": request.wash_incomplete,
                "nodes": request.nodes,
            }),
        );
    }
    put("verification", json!(request.verification));
    if let Some(due) = deep::due(request, app.config.deep_erase_after) {
        let deep::Removed { events, slots, bytes, done, .. } = request.removed;
        let done = done.map(Millis::rfc3339);
        let body = json!({"due": due.rfc3339(), "done_at": done, "events": events, "slots": slots, "bytes": bytes});
        put("deep_erase", body);
    }
    body
}
