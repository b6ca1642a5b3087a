//! Rows: queries by URL and by body, as JSON, NDJSON, CSV or server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::Stream;
use serde_json::{Value, json};

use super::super::cursor;
use super::super::extract::{Caller, Json, Path, Query, Shared, prefer_wait};
use super::super::problem::{self, Problem, ProblemBody};
use super::super::read::personal_headers;
use super::super::serve::{LeasedChunk, SocketGuard, leased, leased_whole};
use super::asked::{self, Asked};
use super::{defined, live, reaches};
use crate::auth::Permission;
use crate::projection::engine::{Running, WaitError};
use crate::projection::query::{After, Live, QueryError, RenderedRows, RowQuery};
use crate::projection::row::RowKey;
use crate::read::Viewer;
use crate::telemetry::ValueState;

/// Longest that `Prefer: wait` waits, in seconds.
pub const LONGEST_WAIT: u64 = 30;

/// Rows of a projection.
#[utoipa::path(get, operation_id = "list_rows", path = "/v1/projections/{name}/rows", tag = "projections",
    params(("name" = String, Path, description = "Name of the projection"),
        ("filter" = Option<String>, Query, description = "CEL over key parts and columns; never over personal ones"),
        ("sort" = Option<String>, Query, description = "Columns, `-` for descending: `-next_meeting_at,name`"),
        ("fields" = Option<String>, Query, description = "Columns to show"),
        ("limit" = Option<u64>, Query, description = "Most rows"),
        ("cursor" = Option<String>, Query, description = "From `next` of the page before"),
        ("group_by" = Option<String>, Query, description = "Key parts to keep; the others are merged (aggregates)"),
        ("step" = Option<String>, Query, description = "Length of windows, ISO 8601"),
        ("as_of" = Option<String>, Query, description = "A time or `position:N`; the projection must keep a history; never undoes an erasure"),
        ("at_least" = Option<u64>, Query, description = "Wait until the event at this position was handled"),
        ("stale" = Option<String>, Query, description = "`allow`: answer although `at_least` is not reached")),
    responses((status = 200, description = "Rows", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn rows(
    State(app): State<Shared>,
    caller: Caller,
    Path(path): Path<String>,
    headers: HeaderMap,
    guard: Option<Extension<SocketGuard>>,
    mut query: Query,
) -> Result<Response, Problem> {
    caller.require(Permission::ReadEvents)?;
    let viewer = caller.viewer(&headers, &mut query, "/v1/projections/{name}/rows")?;
    let mut asked = Asked { by_body: false, ..Asked::default() };
    for (field, name) in asked.texts() {
        *field = query.take(name)?;
    }
    asked.limit = query.number("limit", 1..=1_000_000)?;
    asked.at_least = query.number("at_least", 0..=i64::MAX as u64)?;
    query.finish()?;
    answer(app, caller, &path, &headers, guard.map(|Extension(guard)| guard), asked, viewer).await
}

/// The same query in a body: for filters over personal columns, whose values do not belong in a URL.
#[utoipa::path(post, operation_id = "query_rows", path = "/v1/projections/{name}/queries", tag = "projections",
    params(("name" = String, Path, description = "Name of the projection")),
    request_body = Value,
    responses((status = 200, description = "Rows", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn query(
    State(app): State<Shared>,
    caller: Caller,
    Path(path): Path<String>,
    headers: HeaderMap,
    guard: Option<Extension<SocketGuard>>,
    mut query: Query,
    body: Json,
) -> Result<Response, Problem> {
    caller.require(Permission::ReadEvents)?;
    let viewer = caller.viewer(&headers, &mut query, "/v1/projections/{name}/queries")?;
    query.finish()?;
    let mut asked: Asked = body.into()?;
    asked.by_body = true;
    answer(app, caller, &path, &headers, guard.map(|Extension(guard)| guard), asked, viewer).await
}

/// One row.
#[utoipa::path(get, operation_id = "show_row", path = "/v1/projections/{name}/rows/{key}", tag = "projections",
    params(("name" = String, Path, description = "Name of the projection"),
        ("key" = String, Path, description = "The row's `_key`"),
        ("as_of" = Option<String>, Query, description = "A time or `position:N`; the projection must keep a history; never undoes an erasure"),
        ("at_least" = Option<u64>, Query, description = "Wait until the event at this position was handled")),
    responses((status = 200, description = "The row", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn row(
    State(app): State<Shared>,
    caller: Caller,
    Path((path, key)): Path<(String, String)>,
    headers: HeaderMap,
    guard: Option<Extension<SocketGuard>>,
    mut query: Query,
) -> Result<Response, Problem> {
    caller.require(Permission::ReadEvents)?;
    let viewer = caller.viewer(&headers, &mut query, "/v1/projections/{name}/rows/{key}")?;
    let at_least = query.number("at_least", 0..=i64::MAX as u64)?;
    let as_of = query.take("as_of")?;
    query.finish()?;
    let known = defined(&app, &caller, &path)?;
    let key = RowKey::parse(&key).ok_or_else(|| Problem::parameter("key", "is not the key of a row (k_…)"))?;
    let name = known.current.name.as_str();
    let wait = Wait { at_least, headers: &headers, stale: false };
    let before = past(&app, name, &wait, as_of.as_deref()).await?;
    let asked = RowQuery { key: Some(key), any_window: true, by_body: true, before, ..RowQuery::default() };
    let (found, _) = whole(&app, &caller, name, &wait, &asked, &viewer).await?;
    let row = found.items.first().ok_or_else(Problem::not_found)?;
    let body = Bytes::from(row.json.clone());
    let mut response = Response::new(leased_whole(body, found.lease, guard.map(|Extension(guard)| guard)));
    personal_headers(response.headers_mut(), "application/json");
    position_header(&mut response, found.position);
    Ok(response)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Ndjson,
    Csv,
    Sse,
}

fn format(headers: &HeaderMap) -> Format {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut named = accepted.split(',').filter_map(|part| part.split(';').next()).map(str::trim);
    named
        .find_map(|media| match media {
            "application/json" => Some(Format::Json),
            "application/x-ndjson" => Some(Format::Ndjson),
            "text/csv" => Some(Format::Csv),
            "text/event-stream" => Some(Format::Sse),
            _ => None,
        })
        .unwrap_or(Format::Json)
}

async fn answer(
    app: Shared,
    caller: Caller,
    path: &str,
    headers: &HeaderMap,
    guard: Option<SocketGuard>,
    asked: Asked,
    viewer: Viewer,
) -> Result<Response, Problem> {
    let known = defined(&app, &caller, path)?;
    let name = known.current.name.to_string();
    let stale = match asked.stale.as_deref() {
        None => false,
        Some("allow") => true,
        Some(_) => return Err(Problem::parameter("stale", "can only be allow")),
    };
    let bound = asked.bound(&name);
    let key = &app.service_keys.cursor;
    let after = match &asked.cursor {
        None => None,
        Some(text) => {
            let text = cursor::read(key, &caller.principal.id, &bound, text, app.clock.now())?;
            Some(After::parse(&text).ok_or_else(problem::internal)?)
        }
    };
    let wait = Wait { at_least: asked.at_least, headers, stale };
    let mut query = asked.read(after)?;
    if asked.as_of.is_some() && format(headers) == Format::Sse {
        return Err(Problem::parameter("as_of", "has no meaning for a live stream"));
    }
    query.before = past(&app, &name, &wait, asked.as_of.as_deref()).await?;
    match format(headers) {
        Format::Sse => {
            ready(&app, &name, &wait).await?;
            return live::rows(app, caller, guard, name, query, viewer);
        }
        Format::Ndjson => {
            let running = ready(&app, &name, &wait).await?.0;
            return Ok(lines(app, caller, guard, running, query, viewer, asked.limit));
        }
        Format::Csv if asked.limit.is_none() => query.limit = app.rows.options().max_limit,
        Format::Csv | Format::Json => {}
    }
    let (found, is_stale) = whole(&app, &caller, &name, &wait, &query, &viewer).await?;
    let next = found
        .next
        .as_ref()
        .map(|next| cursor::issue(key, &caller.principal.id, &bound, &next.to_string(), app.clock.now()));
    let (media, body) = match format(headers) {
        Format::Csv => ("text/csv; charset=utf-8; header=present", found.csv(true)),
        _ => ("application/json", page(&found, next.as_deref(), is_stale)),
    };
    let position = found.position;
    let mut response = Response::new(leased_whole(Bytes::from(body), found.lease, guard));
    personal_headers(response.headers_mut(), media);
    position_header(&mut response, position);
    if let Some(link) = next.and_then(|next| HeaderValue::from_str(&format!("<?cursor={next}>; rel=\"next\"")).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// How far a projection must have come.
struct Wait<'a> {
    at_least: Option<u64>,
    headers: &'a HeaderMap,
    /// Whether it may answer although it has not.
    stale: bool,
}

/// Position before which rows are asked for, if not for those of now. A time is looked up when the wait is over.
async fn past(app: &Shared, name: &str, wait: &Wait<'_>, as_of: Option<&str>) -> Result<Option<u64>, Problem> {
    let Some(text) = as_of else { return Ok(None) };
    if wait.at_least.is_some() {
        ready(app, name, wait).await?;
    }
    asked::before(app, text).await.map(Some)
}

/// Times a query is asked again because its rows were replaced meanwhile.
const TRIES: usize = 5;

/// One page, all from rows that answered until it was read; and whether it is stale.
async fn whole(
    app: &Shared,
    caller: &Caller,
    name: &str,
    wait: &Wait<'_>,
    query: &RowQuery,
    viewer: &Viewer,
) -> Result<(RenderedRows, bool), Problem> {
    for _ in 0..TRIES {
        let (running, is_stale) = ready(app, name, wait).await?;
        if let Some(found) = find(app, caller, &running, query, viewer).await? {
            return Ok((found, is_stale));
        }
    }
    Err(QueryError::Rebuilt.into())
}

/// The generation that answers, once it has come far enough; and whether it has not, but may answer all the same.
async fn ready(app: &Shared, name: &str, asked: &Wait<'_>) -> Result<(Running, bool), Problem> {
    let Wait { at_least, headers, stale } = *asked;
    let wait = prefer_wait(headers, LONGEST_WAIT).unwrap_or(Duration::ZERO).max(Duration::from_millis(1));
    let first = if at_least.is_some() { wait } else { Duration::from_secs(5) };
    match both(app, name, at_least, first).await {
        Ok(running) => Ok((running, false)),
        Err(WaitError::Unknown) => Err(Problem::not_found()),
        Err(error) if stale => match app.projections.wait(name, None, Duration::from_secs(1)).await {
            Ok(running) => Ok((running, true)),
            Err(_) => Err(behind(error)),
        },
        Err(error) => Err(behind(error)),
    }
}

/// Waits for a projection and for those that its columns are looked up in: who has written reads its own writes there too.
async fn both(app: &Shared, name: &str, at_least: Option<u64>, most: Duration) -> Result<Running, WaitError> {
    let began = tokio::time::Instant::now();
    let running = app.projections.wait(name, at_least, most).await?;
    if at_least.is_some() {
        for other in super::define::lookups(&running.definition) {
            match app.projections.wait(&other, at_least, most.saturating_sub(began.elapsed())).await {
                // One that is not defined shows nothing, and there is nothing to wait for.
                Ok(_) | Err(WaitError::Unknown) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(running)
}

fn behind(error: WaitError) -> Problem {
    match error {
        WaitError::Stalled(cause) => {
            let cause = json!({"position": cause.position, "code": cause.code, "message": cause.message});
            problem::unavailable("projection-stalled", "The projection does not move").with("cause", cause)
        }
        WaitError::Behind { cursor } => {
            let problem = problem::unavailable("projection-behind", "The projection has not come that far yet");
            problem.with("position", cursor.checked_sub(1).map_or(Value::Null, Value::from))
        }
        WaitError::Unknown => Problem::not_found(),
    }
}

/// Finds rows, and counts what was shown. `None` when other rows answer by now: those that were read were being removed,
/// and some may have been missing.
///
/// # Errors
/// Also 403 when what answers, unlike the definition in force, is more than this key reaches, and 401 when the key was
/// revoked meanwhile.
pub(super) async fn find(
    app: &Shared,
    caller: &Caller,
    running: &Running,
    query: &RowQuery,
    viewer: &Viewer,
) -> Result<Option<RenderedRows>, Problem> {
    let mut others = Vec::new();
    for name in super::define::lookups(&running.definition) {
        others.extend(app.projections.get(&name).await.and_then(|other| other.live));
    }
    let all = || std::iter::once(running).chain(&others);
    if !all().all(|one| reaches(caller, &one.definition)) {
        return Err(Problem::forbidden("This key is confined to other categories or types"));
    }
    let live = Live {
        definition: &running.definition,
        generation: running.generation.id,
        cursor: running.status.borrow().cursor,
        lookups: others.iter().map(|other| (other.definition.as_ref(), other.generation.id)).collect(),
    };
    let found = app.rows.rows(&live, query, viewer).await?;
    for one in all() {
        let now = app.projections.get(one.definition.name.as_str()).await.and_then(|now| now.live);
        if now.is_none_or(|now| now.generation.id != one.generation.id) {
            return Ok(None);
        }
    }
    caller.still_valid(app)?;
    app.metrics.opened_values.inc_by(found.opened);
    for (state, values) in &found.redacted {
        if let Some(state) = ValueState::parse(state) {
            app.metrics.redacted(state, *values);
        }
    }
    Ok(Some(found))
}

fn page(found: &RenderedRows, next: Option<&str>, stale: bool) -> Vec<u8> {
    let position = found.position.checked_sub(1).map_or_else(|| "null".to_owned(), |at| at.to_string());
    let mut body = format!("{{\"position\":{position},\"stale\":{stale},\"items\":[").into_bytes();
    for (index, row) in found.items.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&row.json);
    }
    body.extend_from_slice(b"],\"next\":");
    body.extend_from_slice(next.map_or_else(|| "null".to_owned(), |next| format!("\"{next}\"")).as_bytes());
    body.push(b'}');
    body
}

fn position_header(response: &mut Response, cursor: u64) {
    if let Some(position) = cursor.checked_sub(1) {
        response.headers_mut().insert("oubliette-position", HeaderValue::from(position));
    }
}

/// Every row as a line, page by page, each page under its own lease; the last line says what came.
fn lines(
    app: Shared,
    caller: Caller,
    guard: Option<SocketGuard>,
    running: Running,
    query: RowQuery,
    viewer: Viewer,
    most: Option<u64>,
) -> Response {
    let left = most.unwrap_or(u64::MAX);
    let walk = Lines { app, caller, running, query, viewer, left, count: 0, ended: false };
    let mut response = Response::new(leased(walk.chunks(), guard));
    personal_headers(response.headers_mut(), "application/x-ndjson");
    response
}

struct Lines {
    app: Shared,
    caller: Caller,
    running: Running,
    query: RowQuery,
    viewer: Viewer,
    left: u64,
    count: u64,
    ended: bool,
}

impl Lines {
    fn chunks(self) -> impl Stream<Item = Result<LeasedChunk, Infallible>> {
        futures_util::stream::unfold(self, |mut walk| async move {
            if walk.ended {
                return None;
            }
            let chunk = match walk.page().await {
                Ok(found) => walk.chunk(found),
                Err(problem) => {
                    walk.ended = true;
                    (Bytes::from(format!("{}\n", json!({"$problem": problem.body()}))), None)
                }
            };
            Some((Ok(chunk), walk))
        })
    }

    /// The next page. Rows that were computed anew from the same definition have the same keys: the way through them goes
    /// on. Those of another definition do not belong into the same answer.
    async fn page(&mut self) -> Result<RenderedRows, Problem> {
        self.query.limit = self.left.min(self.app.rows.options().max_limit as u64) as usize;
        for _ in 0..TRIES {
            if let Some(found) = find(&self.app, &self.caller, &self.running, &self.query, &self.viewer).await? {
                return Ok(found);
            }
            let name = self.running.definition.name.as_str();
            let live = self.app.projections.get(name).await.and_then(|now| now.live).ok_or_else(Problem::not_found)?;
            if live.generation.digest != self.running.generation.digest {
                break;
            }
            self.running = live;
        }
        Err(QueryError::Rebuilt.into())
    }

    fn chunk(&mut self, found: RenderedRows) -> LeasedChunk {
        let mut out = Vec::new();
        for row in &found.items {
            out.extend_from_slice(&row.json);
            out.push(b'\n');
        }
        self.count += found.items.len() as u64;
        self.left -= found.items.len() as u64;
        self.query.after = found.next;
        if self.query.after.is_none() || self.left == 0 {
            self.ended = true;
            let end = json!({"$end": {"count": self.count, "position": found.position.checked_sub(1)}});
            out.extend_from_slice(format!("{end}\n").as_bytes());
        }
        (Bytes::from(out), Some(found.lease))
    }
}
