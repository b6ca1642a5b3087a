//! API keys, checkpoints and the access log.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Caller, Json, Path, Query, Shared};
use super::problem::{self, Problem, ProblemBody};
use crate::audit::Record;
use crate::auth::{self, ApiKeyRecord, Grant, Permission, PurposeGrant, Role};
use crate::event::SubjectRef;
use crate::schema::lint;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    name: String,
    #[serde(default)]
    role: Option<Role>,
    #[serde(default)]
    roles: Vec<Role>,
    #[serde(default)]
    categories: Vec<String>,
    #[serde(default)]
    types: Vec<String>,
    #[serde(default)]
    purposes: Vec<String>,
    #[serde(default)]
    expires_at: Option<String>,
}

/// Issues an API key. The secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/v1/api-keys", tag = "admin", request_body = Value,
    responses((status = 201, description = "Issued", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn issue_key(State(app): State<Shared>, caller: Caller, body: Json) -> Result<Response, Problem> {
    caller.require(Permission::ManageApiKeys)?;
    let wish: Wish = body.into()?;
    let plain = wish.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !(1..=64).contains(&wish.name.len()) || !plain || lint::shape_of(&wish.name).is_some() {
        return Err(Problem::parameter("name", "is 1 to 64 of A-Z a-z 0-9 - _ . and not personal"));
    }
    let mut roles = wish.roles;
    roles.extend(wish.role);
    roles.sort_unstable();
    roles.dedup();
    // Whoever issues keys could otherwise give itself what its role withholds.
    let grant = Grant {
        roles,
        categories: wish.categories,
        types: wish.types,
        purposes: PurposeGrant::These(wish.purposes),
        expires_at: wish.expires_at,
    };
    grant.validate().map_err(|error| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "grant-invalid", format!("The grant is not valid: {error}"))
    })?;
    if grant.roles.contains(&Role::Admin) && grant.roles.len() > 1 {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "separation-of-duties",
            "The admin role cannot be combined with another one",
        ));
    }
    let issued =
        auth::issue(wish.name.clone(), grant.clone(), &caller.principal.id).map_err(|_| problem::internal())?;
    let ApiKeyRecord::ApiKeyIssued { id, .. } = &issued.record else { return Err(problem::internal()) };
    let body = json!({"id": id, "name": wish.name, "secret": issued.secret, "grant": grant});
    app.recorder.record(|| Ok::<_, Problem>(Record::ApiKey(issued.record))).await?;
    Ok((StatusCode::CREATED, axum::Json(body)).into_response())
}

/// Lists API keys, without secrets.
#[utoipa::path(get, path = "/v1/api-keys", tag = "admin",
    responses((status = 200, description = "API keys", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn list_keys(State(app): State<Shared>, caller: Caller, query: Query) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadApiKeys)?;
    query.finish()?;
    let items: Vec<Value> =
        app.api_keys.list().iter().map(|key| json!({"id": key.id, "name": key.name, "grant": key.grant})).collect();
    Ok(axum::Json(json!({"items": items, "next": null})))
}

/// Revokes an API key, effective at once.
#[utoipa::path(delete, path = "/v1/api-keys/{id}", tag = "admin",
    params(("id" = String, Path, description = "`ak_…`")),
    responses((status = 204, description = "Revoked"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn revoke_key(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.require(Permission::ManageApiKeys)?;
    let known = app.api_keys.list().iter().any(|key| key.id == id);
    if !known {
        return Err(Problem::not_found());
    }
    let record = ApiKeyRecord::ApiKeyRevoked { id, by: caller.principal.id.clone() };
    app.recorder.record(|| Ok::<_, Problem>(Record::ApiKey(record))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The signed tree head of now (C2SP tlog-checkpoint).
#[utoipa::path(get, path = "/v1/audit/checkpoint", tag = "audit",
    responses((status = 200, description = "A signed note", body = String, content_type = "text/plain"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn checkpoint(State(app): State<Shared>, caller: Caller, query: Query) -> Result<Response, Problem> {
    caller.require(Permission::ReadAudit)?;
    query.finish()?;
    let head = app.log.head().await?;
    let note = app.checkpoint.sign(head.next.0, &head.frontier.root());
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], note).into_response())
}

/// The keys that verify checkpoints (C2SP signed-note vkey), one a line. Public.
#[utoipa::path(get, path = "/.well-known/oubliette-audit-keys", tag = "audit",
    responses((status = 200, description = "Verifier keys", body = String, content_type = "text/plain")))]
pub async fn audit_keys(State(app): State<Shared>) -> Response {
    let keys = format!("{}\n", app.checkpoint.verifier_key());
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], keys).into_response()
}

/// Who saw whose data, newest first. Officers ask about one person, auditors may see all.
#[utoipa::path(get, path = "/v1/audit/access-log", tag = "audit",
    params(("data_subject" = Option<String>, Query, description = "A pseudonym, `ds_…`"),
        ("limit" = Option<u64>, Query, description = "Most entries"),
        ("before" = Option<u64>, Query, description = "Entries with a smaller id")),
    responses((status = 200, description = "Entries", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn access_log(
    State(app): State<Shared>,
    caller: Caller,
    mut query: Query,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadAccessLog)?;
    let subject = match query.take("data_subject")? {
        Some(text) => {
            let subject = SubjectRef::parse(&text);
            Some(subject.ok_or_else(|| Problem::parameter("data_subject", "is not a pseudonym (ds_…)"))?)
        }
        None => caller.require(Permission::ReadAccessLogOfAll).map(|()| None)?,
    };
    let limit = query.number("limit", 1..=1000)?.unwrap_or(100) as usize;
    let before = query.number("before", 0..=i64::MAX as u64)?;
    query.finish()?;
    let rows = app.log.access_log(subject, before, limit).await?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|row| row.id);
    let items: Vec<Value> = rows
        .iter()
        .map(|row| {
            let entry = &row.entry;
            json!({"id": row.id, "at": entry.at.rfc3339(), "actor": format!("key:{}", entry.principal),
                "purpose": entry.purpose, "data_subject": entry.subject.to_string(), "route": entry.route,
                "fields": entry.fields, "reason": entry.reason, "request_id": entry.request})
        })
        .collect();
    Ok(axum::Json(json!({"items": items, "next_before": next})))
}
