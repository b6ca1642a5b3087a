//! Schemas, categories and the inventory of personal data.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Caller, Json, Path, Query, Shared};
use super::problem::{self, Problem, ProblemBody};
use crate::app::App;
use crate::audit::Record;
use crate::auth::Permission;
use crate::event::{Category, EventType};
use crate::eventlog::{Direction, Filter, ReadQuery};
use crate::read::{Purposes, Redaction, Viewer};
use crate::schema::{Candidate, CategorySettings, Compatibility, RegistrationError, RegistryRecord, SchemaVersion};

/// Most stored events that a report names.
const MOST_NAMED: usize = 10;

/// Lists event types.
#[utoipa::path(get, path = "/v1/schemas", tag = "schemas",
    responses((status = 200, description = "Event types", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn list_types(State(app): State<Shared>, caller: Caller, query: Query) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadSchemas)?;
    query.finish()?;
    Ok(axum::Json(json!({"items": app.registry.types(), "next": null})))
}

/// One event type.
#[utoipa::path(get, path = "/v1/schemas/{type}", tag = "schemas",
    params(("type" = String, Path, description = "Event type")),
    responses((status = 200, description = "The type", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn show_type(
    State(app): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadSchemas)?;
    let name = event_type(&name)?;
    let found = app.registry.types().into_iter().find(|summary| summary.event_type == name.as_str());
    Ok(axum::Json(json!(found.ok_or_else(Problem::not_found)?)))
}

/// Registers a version. The same schema again is answered with the version it has.
#[utoipa::path(post, path = "/v1/schemas/{type}/versions", tag = "schemas",
    params(("type" = String, Path, description = "Event type"),
        ("acknowledge_privacy" = Option<bool>, Query, description = "By a data-protection officer: less may be protected")),
    request_body = Value,
    responses((status = 201, description = "Registered", body = Value),
        (status = 200, description = "Registered before", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn register(
    State(app): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
    mut query: Query,
    Json(schema): Json,
) -> Result<Response, Problem> {
    let acknowledged = acknowledged(&caller, &mut query)?;
    query.finish()?;
    let name = event_type(&name)?;
    // An officer registers only what needs an officer; everything else is the administrator's.
    let needed = matches!(app.registry.check(&name, &schema, false), Err(RegistrationError::PrivacyAckRequired(_)));
    if !(acknowledged && needed) {
        caller.require(Permission::ChangeSchemas)?;
    }
    let candidate = app.registry.check(&name, &schema, acknowledged).map_err(problem::registration)?;
    if candidate.unchanged {
        return Ok(version_answer(StatusCode::OK, &name, candidate.version));
    }
    let report = against_stored(&app, &name, &candidate).await?;
    if !report.breaks.is_empty() && app.registry.compatibility(name.as_str()) != Compatibility::None {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "incompatible-schema",
            "Stored events would not be valid under this schema",
        )
        .with("report", report.to_value(&candidate)));
    }
    let version = candidate.version;
    app.recorder
        .record(|| {
            // Looked at again with nothing else changing: another version may have come meanwhile.
            let again = app.registry.check(&name, &schema, acknowledged).map_err(problem::registration)?;
            if again.version != version {
                return Err(Problem::new(StatusCode::CONFLICT, "raced", "Another version came first; try again"));
            }
            Ok(Record::Schema(RegistryRecord::SchemaRegistered {
                event_type: name.to_string(),
                version,
                schema: schema.clone(),
            }))
        })
        .await?;
    Ok(version_answer(StatusCode::CREATED, &name, version))
}

/// What registering would say, without doing it.
#[utoipa::path(post, path = "/v1/schemas/{type}/checks", tag = "schemas",
    params(("type" = String, Path, description = "Event type")),
    request_body = Value,
    responses((status = 200, description = "The report", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn check(
    State(app): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
    Json(schema): Json,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadSchemas)?;
    let name = event_type(&name)?;
    if caller.principal.is_confined() {
        // The answer says which stored events break the schema, in whatever category they are.
        return Err(Problem::forbidden("A confined key cannot have all stored events checked"));
    }
    match app.registry.check(&name, &schema, true) {
        Ok(candidate) => {
            let report = against_stored(&app, &name, &candidate).await?;
            Ok(axum::Json(report.to_value(&candidate)))
        }
        Err(RegistrationError::Incompatible(report)) => Ok(axum::Json(json!(report))),
        Err(error) => Err(problem::registration(error)),
    }
}

/// One version, or `latest`.
#[utoipa::path(get, path = "/v1/schemas/{type}/versions/{version}", tag = "schemas",
    params(("type" = String, Path, description = "Event type"),
        ("version" = String, Path, description = "A number, or `latest`")),
    responses((status = 200, description = "The version", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn show_version(
    State(app): State<Shared>,
    caller: Caller,
    Path((name, version)): Path<(String, String)>,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadSchemas)?;
    let (name, found) = find(&app, &name, &version)?;
    Ok(axum::Json(json!({
        "event_type": name.as_str(),
        "version": found.version,
        "deprecated": found.deprecated,
        "schema": *found.schema,
    })))
}

/// Marks a version as deprecated: events without a version get another one.
#[utoipa::path(post, path = "/v1/schemas/{type}/versions/{version}/deprecation", tag = "schemas",
    params(("type" = String, Path, description = "Event type"), ("version" = u32, Path, description = "A number")),
    responses((status = 204, description = "Deprecated"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn deprecate(
    State(app): State<Shared>,
    caller: Caller,
    Path((name, version)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    caller.require(Permission::ChangeSchemas)?;
    let (name, found) = find(&app, &name, &version)?;
    if !found.deprecated {
        let record = RegistryRecord::SchemaDeprecated { event_type: name.to_string(), version: found.version };
        app.recorder.record(|| Ok::<_, Problem>(Record::Schema(record))).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    compatibility: Compatibility,
}

/// Changes how versions of a type must relate.
#[utoipa::path(put, path = "/v1/schemas/{type}/settings", tag = "schemas",
    params(("type" = String, Path, description = "Event type")),
    request_body = Value,
    responses((status = 200, description = "The settings", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn change_settings(
    State(app): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
    body: Json,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ChangeSchemas)?;
    let name = event_type(&name)?;
    let Settings { compatibility } = body.into()?;
    let record = RegistryRecord::SchemaSettingsChanged { event_type: name.to_string(), compatibility };
    app.recorder.record(|| Ok::<_, Problem>(Record::Schema(record))).await?;
    Ok(axum::Json(json!({"compatibility": compatibility})))
}

/// Every personal field of every type: what, whose, why, and what is shown when it is gone (Art. 30 GDPR).
#[utoipa::path(get, path = "/v1/personal-data", tag = "schemas",
    responses((status = 200, description = "The inventory", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn inventory(State(app): State<Shared>, caller: Caller, query: Query) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadSchemas)?;
    query.finish()?;
    Ok(axum::Json(json!({"items": app.registry.inventory(), "next": null})))
}

/// Lists categories with settings of their own.
#[utoipa::path(get, path = "/v1/categories", tag = "schemas",
    responses((status = 200, description = "Categories", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn list_categories(
    State(app): State<Shared>,
    caller: Caller,
    query: Query,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadSchemas)?;
    query.finish()?;
    let items: Vec<Value> = app
        .registry
        .categories()
        .iter()
        .map(|(category, settings)| json!({"category": category.as_str(), "settings": settings}))
        .collect();
    Ok(axum::Json(json!({"items": items, "next": null})))
}

/// The settings that hold for a category.
#[utoipa::path(get, path = "/v1/categories/{category}", tag = "schemas",
    params(("category" = String, Path, description = "Category")),
    responses((status = 200, description = "The settings", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn show_category(
    State(app): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadSchemas)?;
    let category = category(&name)?;
    let settings = app.registry.category_settings(&category);
    Ok(axum::Json(json!({"category": category.as_str(), "settings": settings})))
}

/// Sets all settings of a category; what is left out gets its default.
#[utoipa::path(put, path = "/v1/categories/{category}", tag = "schemas",
    params(("category" = String, Path, description = "Category")),
    request_body = Value,
    responses((status = 200, description = "The settings", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn change_category(
    State(app): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
    body: Json,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ChangeSchemas)?;
    let category = category(&name)?;
    let settings: CategorySettings = body.into()?;
    let record = RegistryRecord::CategoryChanged { category: category.to_string(), settings: settings.clone() };
    app.recorder.record(|| Ok::<_, Problem>(Record::Schema(record))).await?;
    Ok(axum::Json(json!({"category": category.as_str(), "settings": settings})))
}

fn event_type(name: &str) -> Result<EventType, Problem> {
    EventType::parse(name).map_err(|error| Problem::parameter("type", &error.to_string()))
}

fn category(name: &str) -> Result<Category, Problem> {
    Category::parse(name).map_err(|error| Problem::parameter("category", &error.to_string()))
}

fn find(app: &App, name: &str, version: &str) -> Result<(EventType, std::sync::Arc<SchemaVersion>), Problem> {
    let name = event_type(name)?;
    let version = match version {
        "latest" => None,
        number => Some(number.parse().map_err(|_| Problem::parameter("version", "is a number, or latest"))?),
    };
    let found = app.registry.version(name.as_str(), version).ok_or_else(Problem::not_found)?;
    Ok((name, found))
}

fn acknowledged(caller: &Caller, query: &mut Query) -> Result<bool, Problem> {
    match query.take("acknowledge_privacy")?.as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => caller.require(Permission::AcknowledgePrivacy).map(|()| true),
        Some(_) => Err(Problem::parameter("acknowledge_privacy", "is true or false")),
    }
}

fn version_answer(status: StatusCode, name: &EventType, version: u32) -> Response {
    let location = format!("/v1/schemas/{name}/versions/{version}");
    let body = json!({"event_type": name.as_str(), "version": version});
    (status, [(header::LOCATION, location)], axum::Json(body)).into_response()
}

/// What stored events say about a candidate.
#[derive(Default)]
struct Stored {
    checked: u64,
    broken: u64,
    breaks: Vec<Value>,
}

impl Stored {
    fn to_value(&self, candidate: &Candidate) -> Value {
        let mut report = serde_json::to_value(&candidate.report).unwrap_or_default();
        report["compatible"] = self.breaks.is_empty().into();
        report["version"] = candidate.version.into();
        report["unchanged"] = candidate.unchanged.into();
        report["checked"]["stored_events"] = self.checked.into();
        if !self.breaks.is_empty() {
            report["breaks"] = self.breaks.clone().into();
            report["broken_events"] = self.broken.into();
        }
        report
    }
}

/// Validates every stored event of the type as it looks with everybody erased. No personal value is opened: a schema is
/// a question, and whoever may ask any number of them would learn the values from the answers. What the values
/// themselves must satisfy is compared between the versions.
async fn against_stored(app: &Shared, name: &EventType, candidate: &Candidate) -> Result<Stored, Problem> {
    let viewer = Viewer {
        principal: "system:schema-check".into(),
        purposes: Purposes::None,
        redaction: Redaction::Typed,
        partial: true,
        reason: "compatibility check".into(),
        route: "/v1/schemas/{type}/checks",
        request: String::new(),
    };
    let mut stored = Stored::default();
    let mut from = Some(0);
    while let Some(position) = from {
        let query = ReadQuery {
            stream: None,
            from: Some(position),
            direction: Direction::Forward,
            limit: 1000,
            max_bytes: app.config.limits.page_bytes,
            until: None,
            filter: Filter { types: vec![name.clone()], ..Filter::default() },
            system: false,
        };
        let page = app.reader.page(query, &viewer).await?;
        for event in &page.events {
            stored.checked += 1;
            let json: Value = serde_json::from_slice(&event.json).map_err(|_| problem::internal())?;
            if let Some(violation) = candidate.breaks(&json["data"]) {
                stored.broken += 1;
                if stored.breaks.len() < MOST_NAMED {
                    stored.breaks.push(json!({"position": event.position.0, "pointer": violation.pointer, "message": violation.message}));
                }
            }
        }
        from = page.next;
    }
    Ok(stored)
}
