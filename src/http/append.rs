//! Appending: one stream, or several atomically.

use std::collections::HashSet;
use std::fmt::{Display, Write};

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::extract::{Body, Caller, Path, Shared, expected_by_header, media_type, text_header, unsupported};
use super::folds;
use super::parse::{self, Errors, Layout};
use super::problem::{self, Problem, ProblemBody};
use crate::append::{AppendDone, AppendRequest, StreamDraft};
use crate::auth::Permission;
use crate::clock::Millis;
use crate::domain;
use crate::event::json::parse as parse_json;
use crate::event::{Category, EventType, ExpectedRevision, NewEvent, Position, StreamName, SubjectRef};
use crate::eventlog::{AppendedStream, Condition, Filter, Idempotency};

/// Headers of an answer, those that every answer has included.
const ANSWER_HEADERS: usize = 8;
/// How long an idempotency key is remembered.
const REMEMBERED_MS: i64 = 24 * 3600 * 1000;

/// Appends events to a stream: one object, an array, NDJSON, or CloudEvents. All or nothing.
#[utoipa::path(post, path = "/v1/streams/{stream}/events", tag = "events",
    params(("stream" = String, Path, description = "Stream name, `category-rest`")),
    request_body(content((Value = "application/json"), (String = "application/x-ndjson"),
        (Value = "application/cloudevents+json"), (Value = "application/cloudevents-batch+json"))),
    responses((status = 201, description = "Stored, durably", body = Value),
        (status = 200, description = "Already stored by an earlier request", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn append_to_stream(
    State(app): State<Shared>,
    caller: Caller,
    Path(stream): Path<String>,
    headers: HeaderMap,
    Body(bytes): Body,
) -> Result<Response, Problem> {
    caller.require(Permission::Append)?;
    let stream = stream_name(&stream)?;
    let by_header = expected_by_header(&headers)?;
    let mut errors = Errors::default();
    let (events, layout, in_body) = read_body(&app, &headers, &bytes, &stream, &mut errors)?;
    allowed(&caller, &stream, &events)?;
    if events.len() > app.config.limits.events_per_append {
        return Err(too_many(&app));
    }
    errors.finish()?;
    let expected = match (by_header, in_body) {
        (Some(header), Some(body)) if header != body => {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "conflicting-expectations",
                "The header and the body expect different revisions",
            ));
        }
        (header, body) => header.or(body),
    };
    let idempotency = idempotency(&app, &caller, &headers, stream.as_str(), &bytes)?;
    let request =
        AppendRequest { appends: vec![StreamDraft { stream, expected, events }], conditions: Vec::new(), idempotency };
    let place = |_, event| layout.at(event).to_string();
    let began = std::time::Instant::now();
    let done = app.guard.append(request).await;
    let done = done.map_err(|error| folds::guarded(error, &place, by_header.is_some()))?;
    app.metrics.append_duration.observe(began.elapsed().as_secs_f64());
    Ok(answer_one(&app, &done, &place))
}

/// Appends events to several streams in one transaction, if every precondition holds.
#[utoipa::path(post, path = "/v1/events", tag = "events", request_body = Value,
    responses((status = 201, description = "Stored, durably", body = Value),
        (status = 200, description = "Already stored by an earlier request", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn append_to_streams(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    Body(bytes): Body,
) -> Result<Response, Problem> {
    caller.require(Permission::Append)?;
    if !matches!(media_type(&headers)?.as_str(), "" | "application/json") {
        return Err(unsupported("application/json"));
    }
    let mut errors = Errors::default();
    let Value::Object(mut members) = parse_json(&bytes, app.config.limits.json())? else {
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-event", "The body is an object"));
    };
    let conditions = conditions(members.remove("preconditions"), &mut errors);
    let drafts = drafts(&app, bytes.len(), members.remove("appends"), &mut errors)?;
    if !members.is_empty() {
        errors.add(String::new(), "the body has members other than appends and preconditions");
    }
    for draft in &drafts {
        allowed(&caller, &draft.stream, &draft.events)?;
    }
    if !conditions.iter().all(|condition| may_ask(&caller, condition)) {
        return Err(Problem::forbidden("A precondition asks about categories or types that this key is confined from"));
    }
    errors.finish()?;
    if drafts.iter().map(|draft| draft.events.len()).sum::<usize>() > app.config.limits.events_per_append {
        return Err(too_many(&app));
    }
    let idempotency = idempotency(&app, &caller, &headers, "", &bytes)?;
    let place = |stream: usize, event: usize| format!("/appends/{stream}/events/{event}");
    let request = AppendRequest { appends: drafts, conditions, idempotency };
    let done = app.guard.append(request).await.map_err(|error| folds::guarded(error, &place, false))?;
    let mut body = format!(r#"{{"position":{},"streams":["#, last_position(&done));
    for (at, stream) in done.appended.streams.iter().enumerate() {
        if at > 0 {
            body.push(',');
        }
        push_summary(&mut body, stream);
        body.push('}');
    }
    body.push(']');
    Ok(finish(&app, &done, body, &place))
}

type Parsed = (Vec<NewEvent>, Layout, Option<ExpectedRevision>);

fn read_body(
    app: &Shared,
    headers: &HeaderMap,
    bytes: &[u8],
    stream: &StreamName,
    errors: &mut Errors,
) -> Result<Parsed, Problem> {
    let limits = app.config.limits.json();
    let media = media_type(headers)?;
    let (values, layout, expected) = match media.as_str() {
        "application/x-ndjson" | "application/jsonl" => (parse::lines(bytes, limits)?, Layout::Many, None),
        "" | "application/json" | "application/cloudevents+json" | "application/cloudevents-batch+json" => {
            match parse_json(bytes, limits)? {
                Value::Array(list) => (list, Layout::Many, None),
                Value::Object(mut members) if members.contains_key("events") && !media.contains("cloudevents") => {
                    let expected = parse::expected(members.remove("expected"), &"/expected", errors);
                    let events = members.remove("events");
                    if !members.is_empty() {
                        errors.add(String::new(), "the body has members other than expected and events");
                    }
                    (events.and_then(array).unwrap_or_default(), Layout::Wrapped, expected)
                }
                one => (vec![one], Layout::One, None),
            }
        }
        _ => {
            return Err(unsupported(
                "application/json, application/x-ndjson, application/cloudevents+json or -batch+json",
            ));
        }
    };
    if values.is_empty() {
        errors.add(String::new(), "there is no event");
    }
    if values.len() > app.config.limits.events_per_append {
        return Err(too_many(app));
    }
    let cloud = media.contains("cloudevents");
    let many = values.len() > 1;
    let mut events = Vec::with_capacity(values.len());
    for (index, value) in values.into_iter().enumerate() {
        let at = layout.at(index);
        too_large(app, many, bytes.len(), &value, &at)?;
        events.extend(if cloud {
            parse::cloud_event(value, stream.as_str(), &at, errors)
        } else {
            parse::native(value, &at, errors)
        });
    }
    Ok((events, layout, expected))
}

fn drafts(app: &Shared, body: usize, value: Option<Value>, errors: &mut Errors) -> Result<Vec<StreamDraft>, Problem> {
    let list = value.and_then(array).unwrap_or_default();
    if list.is_empty() {
        errors.add("/appends".into(), "is missing or empty");
    }
    let mut seen = HashSet::new();
    let mut drafts = Vec::with_capacity(list.len());
    for (index, value) in list.into_iter().enumerate() {
        let at = format!("/appends/{index}");
        let Value::Object(mut members) = value else {
            errors.add(at, "is not an object");
            continue;
        };
        let name = members.get("stream").and_then(Value::as_str).map(StreamName::parse);
        let Some(Ok(stream)) = name else {
            errors.add(format!("{at}/stream"), "is not a stream name");
            continue;
        };
        if !seen.insert(stream.clone()) {
            errors.add(format!("{at}/stream"), "is named twice; put all its events into one entry");
        }
        let expected = parse::expected(members.remove("expected"), &format_args!("{at}/expected"), errors);
        let values = members.remove("events").and_then(array).unwrap_or_default();
        if values.is_empty() {
            errors.add(format!("{at}/events"), "is missing or empty");
        }
        if members.len() > 1 {
            errors.add(at.clone(), "has members other than stream, expected and events");
        }
        let mut events = Vec::with_capacity(values.len());
        for (event, value) in values.into_iter().enumerate() {
            let at = format_args!("{at}/events/{event}");
            too_large(app, true, body, &value, &at)?;
            events.extend(parse::native(value, &at, errors));
        }
        drafts.push(StreamDraft { stream, expected, events });
    }
    Ok(drafts)
}

fn conditions(value: Option<Value>, errors: &mut Errors) -> Vec<Condition> {
    let Some(value) = value else { return Vec::new() };
    let Some(list) = array(value).filter(|list| list.len() <= 64) else {
        errors.add("/preconditions".into(), "is not an array of at most 64");
        return Vec::new();
    };
    let mut conditions = Vec::with_capacity(list.len());
    for (index, value) in list.into_iter().enumerate() {
        let at = format!("/preconditions/{index}");
        let condition = match value.get("none_matching") {
            // A member that nobody reads could be the one that mattered.
            Some(filter) => none_matching(filter).filter(|_| value.as_object().is_some_and(|all| all.len() == 1)),
            None => stream_condition(&value, &at, errors),
        };
        match condition {
            Some(condition) => conditions.push(condition),
            None => errors
                .add(at, "is neither {stream, expected} nor {none_matching: {types, category, data_subject, after}}"),
        }
    }
    conditions
}

fn stream_condition(value: &Value, at: &str, errors: &mut Errors) -> Option<Condition> {
    let stream = StreamName::parse(value.get("stream")?.as_str()?).ok()?;
    let expected = parse::expected(value.get("expected").cloned(), &format_args!("{at}/expected"), errors)?;
    (value.as_object()?.len() == 2).then_some(Condition::Stream { stream, expected })
}

fn none_matching(value: &Value) -> Option<Condition> {
    let members = value.as_object()?;
    let known = ["types", "category", "data_subject", "after"];
    if members.is_empty() || members.keys().any(|key| !known.contains(&key.as_str())) {
        return None;
    }
    let text = |key: &str| members.get(key).map(|value| value.as_str());
    let category = match text("category") {
        Some(name) => Some(Category::parse(name?).ok()?),
        None => None,
    };
    let subject = match text("data_subject") {
        Some(name) => Some(SubjectRef::parse(name?)?),
        None => None,
    };
    let types = match members.get("types") {
        Some(list) => {
            let list = list.as_array()?.iter().map(|t| EventType::parse(t.as_str()?).ok());
            list.collect::<Option<Vec<_>>>().filter(|list| !list.is_empty() && list.len() <= 32)?
        }
        None => Vec::new(),
    };
    let after = match members.get("after") {
        Some(position) => Some(Position(position.as_u64()?)),
        None => None,
    };
    Some(Condition::NoneMatching { after, filter: Filter { category, types, subject } })
}

fn array(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(list) => Some(list),
        _ => None,
    }
}

/// The stream in a path. System streams cannot be appended to, so their names are refused like any other bad name.
fn stream_name(text: &str) -> Result<StreamName, Problem> {
    StreamName::parse(text).map_err(|error| Problem::parameter("stream", &error.to_string()))
}

fn allowed(caller: &Caller, stream: &StreamName, events: &[NewEvent]) -> Result<(), Problem> {
    let principal = &caller.principal;
    if !principal.reaches(&stream.category()) || !events.iter().all(|e| principal.reaches_type(&e.event_type)) {
        return Err(Problem::forbidden("This key is confined to other categories or types"));
    }
    Ok(())
}

/// Whether a confined key stays inside its categories and types: whether a condition held is an answer like any other.
fn may_ask(caller: &Caller, condition: &Condition) -> bool {
    let principal = &caller.principal;
    match condition {
        Condition::Stream { stream, .. } => principal.reaches(&stream.category()),
        Condition::NoneMatching { filter, .. } => {
            let grant = &principal.grant;
            let category = filter.category.as_ref().map_or(grant.categories.is_empty(), |c| principal.reaches(c));
            let types = grant.types.is_empty()
                || (!filter.types.is_empty() && filter.types.iter().all(|t| principal.reaches_type(t)));
            category && types
        }
    }
}

fn too_many(app: &Shared) -> Problem {
    let limit = app.config.limits.events_per_append;
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "batch-too-large",
        format!("An append has at most {limit} events; nothing was stored"),
    )
}

/// Measures an event only where the whole body could not be within the limit of one.
fn too_large(app: &Shared, many: bool, body: usize, value: &Value, at: &dyn Display) -> Result<(), Problem> {
    let limit = app.config.limits.event_bytes;
    if body <= limit || (many && value.to_string().len() <= limit) {
        return Ok(());
    }
    let title = format!("An event has at most {limit} bytes; nothing was stored");
    Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "event-too-large", title).with("pointer", at.to_string()))
}

fn idempotency(
    app: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
    target: &str,
    body: &[u8],
) -> Result<Option<Idempotency>, Problem> {
    let Some(key) = text_header(headers, "idempotency-key", 255)? else { return Ok(None) };
    let secret = &app.service_keys.idempotency;
    let digest = |items: &[&[u8]]| -> [u8; 32] {
        let mut mac =
            <Hmac<Sha256> as KeyInit>::new_from_slice(secret.expose()).expect("HMAC takes keys of any length");
        mac.update(&domain::lp(items));
        mac.finalize().into_bytes().into()
    };
    let principal = caller.principal.id.as_bytes();
    Ok(Some(Idempotency {
        key: digest(&[domain::IDEMPOTENCY, b"key", principal, key.as_bytes()]),
        request: digest(&[domain::IDEMPOTENCY, b"request", target.as_bytes(), body]),
        expires: Millis(app.clock.now().0 + REMEMBERED_MS),
    }))
}

/// Where a stream's events landed: an object that is still open.
fn push_summary(out: &mut String, stream: &AppendedStream) {
    let (first, last) = (stream.first_revision.0, stream.last_revision().0);
    let (position, name) = (stream.last_position().0, stream.stream.as_str());
    out.reserve(128 + 72 * stream.ids.len());
    out.push_str(r#"{"events":["#);
    for (at, (id, revision)) in stream.ids.iter().zip(first..).enumerate() {
        if at > 0 {
            out.push(',');
        }
        push(out, format_args!(r#"{{"id":"{id}","revision":{revision}}}"#));
    }
    // Names of streams need no escape by their grammar.
    push(
        out,
        format_args!(r#"],"first_revision":{first},"last_revision":{last},"position":{position},"stream":"{name}""#),
    );
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string cannot fail");
}

fn last_position(done: &AppendDone) -> u64 {
    done.appended.streams.iter().map(|stream| stream.last_position().0).max().unwrap_or_default()
}

fn answer_one(app: &Shared, done: &AppendDone, place: problem::Place<'_>) -> Response {
    let Some(stream) = done.appended.streams.first() else { return problem::internal().into_response() };
    let mut body = String::new();
    push_summary(&mut body, stream);
    let mut response = finish(app, done, body, place);
    let headers = response.headers_mut();
    // Stream names and numbers are plain ASCII by their grammar.
    let location = format!("/v1/streams/{}/events?from={}", stream.stream, stream.first_revision.0);
    if let Ok(value) = HeaderValue::try_from(location) {
        headers.insert(header::LOCATION, value);
    }
    if let Ok(value) = HeaderValue::try_from(format!("\"r{}\"", stream.last_revision().0)) {
        headers.insert(header::ETAG, value);
    }
    response
}

/// The answer with the leak guard's findings and the position; counts what was stored. `body`: an object, still open.
fn finish(app: &Shared, done: &AppendDone, mut body: String, place: problem::Place<'_>) -> Response {
    if !done.findings.is_empty() {
        let warnings: Vec<Value> = done
            .findings
            .iter()
            .map(|(stream, event, finding)| {
                app.metrics.leak_finding(finding.shape);
                let pointer = place(*stream, *event) + &finding.pointer;
                json!({"code": "unmarked-personal-data", "pointer": pointer, "shape": finding.shape})
            })
            .collect();
        push(&mut body, format_args!(r#","warnings":{}"#, Value::from(warnings)));
    }
    body.push('}');
    let replayed = done.appended.replayed;
    if !replayed {
        let stored: usize = done.appended.streams.iter().map(|stream| stream.ids.len()).sum();
        app.metrics.events_appended.inc_by(stored as u64);
    }
    let status = if replayed { StatusCode::OK } else { StatusCode::CREATED };
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.reserve(ANSWER_HEADERS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(HeaderName::from_static("oubliette-position"), HeaderValue::from(last_position(done)));
    if replayed {
        headers.insert(HeaderName::from_static("idempotent-replayed"), HeaderValue::from_static("true"));
    }
    response
}
