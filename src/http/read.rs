//! Reading streams and the whole log: pages, NDJSON; live reading is in `live`.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::Stream;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::extract::{Caller, Path, Query, Shared};
use super::problem::{Problem, ProblemBody};
use super::serve::{LeasedChunk, SocketGuard, leased, leased_whole};
use super::{cursor, live};
use crate::auth::Permission;
use crate::clock::Millis;
use crate::event::{Category, EventType, Position, StreamName, SubjectRef};
use crate::eventlog::{Direction, Filter, ReadQuery};
use crate::read::{Rendered, Viewer};
use crate::telemetry::ValueState;

/// The media types a read can answer with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Ndjson,
    Sse,
}

/// Reads a stream: a page of JSON, a range as NDJSON, or live as server-sent events.
#[utoipa::path(get, path = "/v1/streams/{stream}/events", tag = "events",
    params(("stream" = String, Path, description = "Stream name"),
        ("from" = Option<u64>, Query, description = "First revision"),
        ("limit" = Option<u64>, Query, description = "Most events"),
        ("direction" = Option<String>, Query, description = "`forward` or `backward`"),
        ("as_of" = Option<String>, Query, description = "A time, `position:N` or `revision:N`; never undoes an erasure"),
        ("types" = Option<String>, Query, description = "Event types, separated by commas"),
        ("after" = Option<u64>, Query, description = "For live reading: the last revision already seen"),
        ("redaction" = Option<String>, Query, description = "`typed`, `marker`, `null` or `omit`"),
        ("partial" = Option<String>, Query, description = "`allow` shows values as unavailable instead of failing"),
        ("cursor" = Option<String>, Query, description = "From `next` of the page before")),
    responses((status = 200, description = "Events", content((Value = "application/json"),
            (String = "application/x-ndjson"), (String = "text/event-stream"))),
        (status = 304, description = "Unchanged, erasures included"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn read_stream(
    State(app): State<Shared>,
    caller: Caller,
    Path(stream): Path<String>,
    headers: HeaderMap,
    guard: Option<Extension<SocketGuard>>,
    query: Query,
) -> Result<Response, Problem> {
    caller.require(Permission::ReadEvents)?;
    let stream = StreamName::parse_any(&stream).map_err(|error| Problem::parameter("stream", &error.to_string()))?;
    if !caller.principal.reaches_stream(&stream) {
        return Err(Problem::forbidden("This key is confined to other categories"));
    }
    let route = "/v1/streams/{stream}/events";
    answer(app, caller, headers, guard.map(|Extension(guard)| guard), query, Some(stream), route).await
}

/// Reads the whole log in order, filtered.
#[utoipa::path(get, path = "/v1/events", tag = "events",
    params(("from" = Option<u64>, Query, description = "First position"),
        ("limit" = Option<u64>, Query, description = "Most events"),
        ("direction" = Option<String>, Query, description = "`forward` or `backward`"),
        ("as_of" = Option<String>, Query, description = "A time or `position:N`; never undoes an erasure"),
        ("category" = Option<String>, Query, description = "One category"),
        ("types" = Option<String>, Query, description = "Event types, separated by commas"),
        ("data_subject" = Option<String>, Query, description = "A pseudonym, `ds_…`"),
        ("system" = Option<bool>, Query, description = "Whether the system's own events are included"),
        ("after" = Option<u64>, Query, description = "For live reading: the last position already seen"),
        ("redaction" = Option<String>, Query, description = "`typed`, `marker`, `null` or `omit`"),
        ("partial" = Option<String>, Query, description = "`allow` shows values as unavailable instead of failing"),
        ("cursor" = Option<String>, Query, description = "From `next` of the page before")),
    responses((status = 200, description = "Events", content((Value = "application/json"),
            (String = "application/x-ndjson"), (String = "text/event-stream"))),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn read_all(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    guard: Option<Extension<SocketGuard>>,
    query: Query,
) -> Result<Response, Problem> {
    caller.require(Permission::ReadEvents)?;
    answer(app, caller, headers, guard.map(|Extension(guard)| guard), query, None, "/v1/events").await
}

async fn answer(
    app: Shared,
    caller: Caller,
    headers: HeaderMap,
    guard: Option<SocketGuard>,
    mut query: Query,
    stream: Option<StreamName>,
    route: &'static str,
) -> Result<Response, Problem> {
    let format = format(&headers)?;
    let viewer = caller.viewer(&headers, &mut query, route)?;
    let last_seen = live::last_seen(&headers, &mut query)?;
    let cursor = query.take("cursor")?;
    let (limit, explicit) = limit(&app, &mut query, format)?;
    let bound = format!("{route} {} {}", stream.as_ref().map_or("", StreamName::as_str), query.canonical());
    if format == Format::Sse && query.has("as_of") {
        return Err(Problem::parameter("as_of", "has no meaning for a live stream"));
    }
    let mut read = read_query(&app, &caller, &mut query, stream).await?;
    query.finish()?;
    read.limit = limit;
    if let Some(cursor) = &cursor {
        let next = cursor::read(&app.service_keys.cursor, &caller.principal.id, &bound, cursor, app.clock.now())?;
        read.from = next.parse().ok();
    }
    match format {
        Format::Json => page(&app, &caller, &headers, guard, read, &viewer, &bound).await,
        Format::Ndjson => Ok(lines(app, caller, guard, read, viewer, explicit)),
        Format::Sse => live::events(app, caller, guard, read, viewer, last_seen).await,
    }
}

fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    let accept = headers.get(header::ACCEPT).map_or(Ok("*/*"), HeaderValue::to_str);
    let accept = accept.map_err(|_| Problem::parameter("accept", "is not readable"))?;
    for part in accept.split(',').map(|part| part.split(';').next().unwrap_or_default().trim()) {
        match part {
            "application/json" | "*/*" | "application/*" | "" => return Ok(Format::Json),
            "application/x-ndjson" | "application/jsonl" => return Ok(Format::Ndjson),
            "text/event-stream" => return Ok(Format::Sse),
            _ => {}
        }
    }
    Err(Problem::new(
        StatusCode::NOT_ACCEPTABLE,
        "not-acceptable",
        "Events come as application/json, application/x-ndjson or text/event-stream",
    ))
}

/// The limit, and whether the caller named one.
fn limit(app: &Shared, query: &mut Query, format: Format) -> Result<(usize, Option<u64>), Problem> {
    let page = app.config.limits.page_events as u64;
    match format {
        Format::Json => {
            let limit = query.number("limit", 1..=page)?;
            Ok((limit.unwrap_or(100.min(page)) as usize, limit))
        }
        Format::Ndjson => Ok((page as usize, query.number("limit", 1..=u64::MAX >> 1)?)),
        Format::Sse => Ok((page.min(200) as usize, None)),
    }
}

async fn read_query(
    app: &Shared,
    caller: &Caller,
    query: &mut Query,
    stream: Option<StreamName>,
) -> Result<ReadQuery, Problem> {
    let direction = match query.take("direction")?.as_deref() {
        None | Some("forward") => Direction::Forward,
        Some("backward") => Direction::Backward,
        Some(_) => return Err(Problem::parameter("direction", "is forward or backward")),
    };
    let from = query.number("from", 0..=i64::MAX as u64)?;
    let mut read = ReadQuery {
        from,
        direction,
        limit: 0,
        max_bytes: app.config.limits.page_bytes,
        until: None,
        filter: filter(caller, query, stream.is_some())?,
        system: false,
        stream,
    };
    if read.stream.as_ref().is_some_and(StreamName::is_system) {
        read.system = true;
    } else if read.stream.is_none()
        && let Some(system) = query.take("system")?
    {
        read.system = match system.as_str() {
            "true" => caller.require(Permission::ReadSystem).map(|()| true)?,
            "false" => false,
            _ => return Err(Problem::parameter("system", "is true or false")),
        };
    }
    if let Some(text) = query.take("as_of")? {
        as_of(app, &text, &mut read).await?;
    }
    Ok(read)
}

fn filter(caller: &Caller, query: &mut Query, one_stream: bool) -> Result<Filter, Problem> {
    let mut filter = Filter::default();
    if let Some(list) = query.take("types")? {
        let types: Result<Vec<_>, _> = list.split(',').map(EventType::parse_any).collect();
        filter.types = types.map_err(|error| Problem::parameter("types", &error.to_string()))?;
        filter.types.sort();
        filter.types.dedup();
        if filter.types.len() > 32 {
            return Err(Problem::parameter("types", "names more than 32"));
        }
    }
    if !one_stream {
        if let Some(name) = query.take("category")? {
            let category = Category::parse(&name).map_err(|e| Problem::parameter("category", &e.to_string()))?;
            filter.category = Some(category);
        }
        if let Some(text) = query.take("data_subject")? {
            caller.require(Permission::FindBySubject)?;
            let subject = SubjectRef::parse(&text);
            let hint = "is not a pseudonym (ds_…); look one up by POST, an id of a person does not belong in a URL";
            filter.subject = Some(subject.ok_or_else(|| Problem::parameter("data_subject", hint))?);
        }
    }
    confine(caller, &mut filter, one_stream)?;
    Ok(filter)
}

/// A confined key reads only what it is confined to.
fn confine(caller: &Caller, filter: &mut Filter, one_stream: bool) -> Result<(), Problem> {
    let grant = &caller.principal.grant;
    let refuse = || Problem::forbidden("This key is confined to other categories or types");
    if !one_stream && !grant.categories.is_empty() {
        match &filter.category {
            Some(category) if caller.principal.reaches(category) => {}
            None if grant.categories.len() == 1 => filter.category = Category::parse(&grant.categories[0]).ok(),
            _ => return Err(refuse()),
        }
    }
    if !grant.types.is_empty() {
        if filter.types.is_empty() {
            filter.types = grant.types.iter().filter_map(|name| EventType::parse(name).ok()).collect();
        } else if !filter.types.iter().all(|event_type| caller.principal.reaches_type(event_type)) {
            return Err(refuse());
        }
    }
    Ok(())
}

/// Goes back through events, never through erasures: the fences are always those of now.
pub async fn as_of(app: &Shared, text: &str, read: &mut ReadQuery) -> Result<(), Problem> {
    let wrong = || Problem::parameter("as_of", "is not an RFC 3339 time, position:N or revision:N");
    if let Some(position) = text.strip_prefix("position:") {
        let position = position.parse().ok().filter(|p: &u64| i64::try_from(*p).is_ok()).ok_or_else(wrong)?;
        read.until = Some(Position(position));
    } else if let Some(revision) = text.strip_prefix("revision:") {
        let revision: u64 = revision.parse().ok().filter(|r: &u64| *r < i64::MAX as u64).ok_or_else(wrong)?;
        let (Some(_), from) = (&read.stream, read.from) else { return Err(wrong()) };
        // The position of that revision bounds the read; one beyond the end bounds nothing.
        let at = ReadQuery { from: Some(revision), direction: Direction::Forward, limit: 1, ..read.clone() };
        let probe = app.log.read(ReadQuery { filter: Filter::default(), ..at }).await?;
        read.until = probe.events.first().map(|event| event.position);
        read.from = from;
    } else {
        let time = Millis::parse_rfc3339(text).ok_or_else(wrong)?;
        read.until = app.log.position_at(time).await?;
        if read.until.is_none() {
            // Before the first event: beyond the end there is nothing, whatever the filter.
            read.direction = Direction::Forward;
            read.from = Some(i64::MAX as u64);
            // Bounded all the same: a live stream has to be refused, whatever the time.
            read.until = Some(Position(0));
        }
    }
    Ok(())
}

async fn page(
    app: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
    guard: Option<SocketGuard>,
    read: ReadQuery,
    viewer: &Viewer,
    bound: &str,
) -> Result<Response, Problem> {
    let one_stream = read.stream.is_some();
    let page = app.reader.page(read, viewer).await?;
    if one_stream && page.last_revision.is_none() {
        return Err(Problem::not_found());
    }
    count(app, &page);
    let next = page.next.map(|next| {
        cursor::issue(&app.service_keys.cursor, &caller.principal.id, bound, &next.to_string(), app.clock.now())
    });
    let tag = etag(&page, viewer, bound);
    if let Some(tag) = &tag
        && headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes())
    {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag.clone())]).into_response());
    }
    let mut body = Vec::with_capacity(page.events.iter().map(|event| event.json.len() + 1).sum::<usize>() + 128);
    body.extend_from_slice(b"{\"items\":[");
    for (index, event) in page.events.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&event.json);
    }
    body.extend_from_slice(b"],\"next\":");
    body.extend_from_slice(next.as_ref().map_or_else(|| "null".to_owned(), |c| format!("\"{c}\"")).as_bytes());
    body.extend_from_slice(format!(",\"head\":{}}}", page.head).as_bytes());
    let mut response = Response::new(leased_whole(Bytes::from(body), page.lease, guard));
    personal_headers(response.headers_mut(), "application/json");
    if let Some(tag) = tag.and_then(|tag| HeaderValue::from_str(&tag).ok()) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    if let Some(link) = next.and_then(|next| HeaderValue::from_str(&format!("<?cursor={next}>; rel=\"next\"")).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// `"r41.e7-…"`: revision, erasure epoch, and what this caller sees of it. A page with unavailable values has none, so
/// that it is never mistaken for the real one.
fn etag(page: &Rendered, viewer: &Viewer, bound: &str) -> Option<String> {
    let revision = page.last_revision.filter(|_| !page.unavailable)?;
    let view = format!("{bound}{:?}{:?}{}", viewer.purposes, viewer.redaction, viewer.principal);
    let view = hex::encode(&Sha256::digest(view)[..4]);
    Some(format!("\"r{}.e{}-{view}\"", revision.0, page.epoch))
}

/// A range as lines, page by page, each page under its own lease; the last line says what came.
fn lines(
    app: Shared,
    caller: Caller,
    guard: Option<SocketGuard>,
    read: ReadQuery,
    viewer: Viewer,
    most: Option<u64>,
) -> Response {
    let mut response = Response::new(leased(line_chunks(app, caller, read, viewer, most), guard));
    personal_headers(response.headers_mut(), "application/x-ndjson");
    response
}

fn line_chunks(
    app: Shared,
    caller: Caller,
    read: ReadQuery,
    viewer: Viewer,
    most: Option<u64>,
) -> impl Stream<Item = Result<LeasedChunk, Infallible>> {
    struct Walk {
        app: Shared,
        caller: Caller,
        read: ReadQuery,
        viewer: Viewer,
        left: u64,
        count: u64,
        position: Option<u64>,
        ended: bool,
    }
    let walk =
        Walk { app, caller, read, viewer, left: most.unwrap_or(u64::MAX), count: 0, position: None, ended: false };
    futures_util::stream::unfold(walk, |mut walk| async move {
        if walk.ended {
            return None;
        }
        let full = walk.read.limit as u64;
        let query = ReadQuery { limit: walk.left.min(full) as usize, ..walk.read.clone() };
        let page = walk.app.reader.page(query, &walk.viewer).await.map_err(Problem::from);
        let page = match page.and_then(|page| walk.caller.still_valid(&walk.app).map(|()| page)) {
            Ok(page) => page,
            Err(problem) => {
                walk.ended = true;
                let problem = problem.body();
                return Some((Ok((Bytes::from(format!("{}\n", json!({"$problem": problem}))), None)), walk));
            }
        };
        count(&walk.app, &page);
        // The range ends where the log ended when the read began.
        walk.read.until.get_or_insert(Position(page.head.saturating_sub(1)));
        let mut out = Vec::with_capacity(page.events.iter().map(|event| event.json.len() + 1).sum::<usize>() + 64);
        for event in &page.events {
            out.extend_from_slice(&event.json);
            out.push(b'\n');
            walk.position = Some(event.position.0);
        }
        walk.count += page.events.len() as u64;
        walk.left -= page.events.len() as u64;
        if let Some(next) = page.next.filter(|_| walk.left > 0) {
            walk.read.from = Some(next);
        } else {
            walk.ended = true;
            let end = json!({"$end": {"count": walk.count, "position": walk.position}});
            out.extend_from_slice(format!("{end}\n").as_bytes());
        }
        Some((Ok((Bytes::from(out), Some(page.lease))), walk))
    })
}

/// Headers of every answer that can hold personal data.
pub fn personal_headers(headers: &mut HeaderMap, media: &'static str) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers
        .insert(header::VARY, HeaderValue::from_static("Accept, Authorization, Oubliette-Purpose, Oubliette-Reason"));
}

/// Counts what a page showed.
pub fn count(app: &Shared, page: &Rendered) {
    app.metrics.read_events.inc_by(page.events.len() as u64);
    app.metrics.opened_values.inc_by(page.opened);
    for (state, values) in &page.redacted {
        if let Some(state) = ValueState::parse(state) {
            app.metrics.redacted(state, *values);
        }
    }
}

/// The head of a stream, without any event.
#[utoipa::path(get, path = "/v1/streams/{stream}", tag = "events",
    params(("stream" = String, Path, description = "Stream name")),
    responses((status = 200, description = "The head", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn stream_head(
    State(app): State<Shared>,
    caller: Caller,
    Path(stream): Path<String>,
    query: Query,
) -> Result<Response, Problem> {
    caller.require(Permission::ReadEvents)?;
    query.finish()?;
    let stream = StreamName::parse_any(&stream).map_err(|error| Problem::parameter("stream", &error.to_string()))?;
    if !caller.principal.reaches_stream(&stream) {
        return Err(Problem::forbidden("This key is confined to other categories"));
    }
    let Some(info) = app.log.stream(stream).await? else { return Err(Problem::not_found()) };
    let body = json!({"stream": info.name.as_str(), "last_revision": info.last_revision.0,
        "events": info.last_revision.0 + 1, "last_recorded_at": info.last_recorded.rfc3339()});
    let tag = format!("\"r{}\"", info.last_revision.0);
    let json = HeaderValue::from_static("application/json");
    let mut response = Response::new(Body::from(body.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response.headers_mut().insert(HeaderName::from_static("cache-control"), HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// Lists streams by name.
#[utoipa::path(get, path = "/v1/streams", tag = "events",
    params(("category" = Option<String>, Query, description = "One category"),
        ("limit" = Option<u64>, Query, description = "Most streams"),
        ("cursor" = Option<String>, Query, description = "From `next` of the page before")),
    responses((status = 200, description = "Streams", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn list_streams(
    State(app): State<Shared>,
    caller: Caller,
    mut query: Query,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadEvents)?;
    let cursor = query.take("cursor")?;
    let limit = query.number("limit", 1..=1000)?.unwrap_or(100) as usize;
    let bound = format!("/v1/streams {}", query.canonical());
    let filter = filter(&caller, &mut query, false)?;
    query.finish()?;
    let key = &app.service_keys.cursor;
    let principal = &caller.principal.id;
    let after = match &cursor {
        Some(cursor) => Some(cursor::read(key, principal, &bound, cursor, app.clock.now())?),
        None => None,
    };
    let streams = app.log.streams(after, filter.category, limit).await?;
    let next = streams.last().filter(|_| streams.len() == limit);
    let next = next.map(|last| cursor::issue(key, principal, &bound, last.name.as_str(), app.clock.now()));
    let items: Vec<Value> = streams
        .iter()
        .map(|s| json!({"stream": s.name.as_str(), "last_revision": s.last_revision.0, "last_recorded_at": s.last_recorded.rfc3339()}))
        .collect();
    Ok(axum::Json(json!({"items": items, "next": next})))
}
