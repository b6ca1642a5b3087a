//! The processes that serve this store.
//!
//! Owns: the list. Must not know: how they agree.

use axum::extract::State;
use serde_json::{Value, json};

use super::extract::{Caller, Query, Shared};
use super::problem::{Problem, ProblemBody};
use crate::auth::Permission;

/// The processes registered with the keystore, oldest first: whoever forgets waits for all of them. Empty on an embedded
/// store, where there is one.
#[utoipa::path(get, path = "/v1/nodes", tag = "admin",
    responses((status = 200, description = "Processes", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn nodes(State(app): State<Shared>, caller: Caller, query: Query) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadKeys)?;
    query.finish()?;
    let Some(nodes) = app.keys.keystore().nodes() else { return Ok(axum::Json(json!({"items": [], "next": null}))) };
    let this = nodes.id();
    let rows = nodes.list().await?;
    let items: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({"node": row.node.to_string(), "name": row.name, "this": row.node == this,
                "lease_seconds": row.lease.as_secs_f64(), "registered_at": row.registered.rfc3339(),
                "seen_at": row.seen.rfc3339(), "acknowledged": row.acknowledged})
        })
        .collect();
    Ok(axum::Json(json!({"items": items, "next": null})))
}
