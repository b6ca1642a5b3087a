//! API keys.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Caller, Json, Path, Query, Shared};
use super::problem::{self, Problem, ProblemBody};
use crate::audit::Record;
use crate::auth::{self, ApiKeyRecord, Grant, Permission, PurposeGrant, Role};
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
