//! Live reading: server-sent events (WHATWG HTML, section 9.2).
//!
//! Owns: frames `event`, `erasure`, `caught-up`, `fell-behind`, `problem`, heartbeats, and resuming by `Last-Event-ID`.
//! The id of a frame is the position (of all events) or the revision (of one stream).

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::Stream;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::extract::{Caller, Query, Shared, text_header};
use super::problem::Problem;
use super::read::{count, personal_headers};
use super::serve::{LeasedChunk, SocketGuard, leased};
use crate::auth::Permission;
use crate::eventlog::{Direction, Filter, ReadQuery};
use crate::read::{Rendered, RenderedEvent, Viewer};
use crate::subscription::{Follower, Frame, Subscription};

/// How often a silent stream says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The last position or revision that the subscriber has seen: `Last-Event-ID`, or `after=` on a first connection.
///
/// # Errors
/// 400 when it is not a number.
pub fn last_seen(headers: &HeaderMap, query: &mut Query) -> Result<Option<u64>, Problem> {
    let after = query.number("after", 0..=i64::MAX as u64)?;
    match text_header(headers, "last-event-id", 20)? {
        Some(text) => match text.parse::<u64>().ok().filter(|id| i64::try_from(*id).is_ok()) {
            Some(id) => Ok(Some(id)),
            None => Err(Problem::parameter("last-event-id", "is not the id of one of our frames")),
        },
        None => Ok(after),
    }
}

/// Opens a live stream.
///
/// # Errors
/// 429 when the caller has too many open, 400 for a query that cannot be followed.
pub async fn events(
    app: Shared,
    caller: Caller,
    guard: Option<SocketGuard>,
    read: ReadQuery,
    viewer: Viewer,
    last_seen: Option<u64>,
) -> Result<Response, Problem> {
    if read.direction == Direction::Backward {
        return Err(Problem::parameter("direction", "has no meaning for a live stream"));
    }
    let open = Open::enter(&app, &caller)?;
    let from = last_seen.map_or(read.from.unwrap_or(0), |seen| seen + 1);
    let position = erasures_from(&app, &read, from).await?;
    let one_stream = read.stream.is_some();
    let subscription = Subscription {
        stream: read.stream,
        from,
        filter: read.filter,
        system: read.system,
        page: read.limit,
        // A batch holds at most a second's worth of data (R12).
        page_bytes: read.max_bytes.min(512 * 1024),
    };
    let shows_system = caller.principal.may(Permission::ReadSystem) && subscription.system;
    let follower = Follower::new(app.reader.clone(), viewer, subscription, position, HEARTBEAT);
    let stopping = app.stopping.subscribe();
    let state = Live { app, caller, follower, one_stream, shows_system, stage: Stage::Opening, stopping, _open: open };
    let mut response = Response::new(leased(frames(state), guard));
    personal_headers(response.headers_mut(), "text/event-stream");
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// Where erasures begin to matter: at the subscriber's own place in the log.
async fn erasures_from(app: &Shared, read: &ReadQuery, from: u64) -> Result<u64, Problem> {
    if read.stream.is_none() {
        return Ok(from);
    }
    let Some(before) = from.checked_sub(1) else { return Ok(0) };
    let probe = ReadQuery { from: Some(before), limit: 1, filter: Filter::default(), ..read.clone() };
    let page = app.log.read(probe).await?;
    Ok(page.events.first().map_or(page.head, |event| event.position.0 + 1))
}

struct Live {
    app: Shared,
    caller: Caller,
    follower: Follower,
    one_stream: bool,
    shows_system: bool,
    stage: Stage,
    stopping: watch::Receiver<bool>,
    _open: Open,
}

#[derive(PartialEq, Eq)]
enum Stage {
    Opening,
    Running,
    Ended,
}

fn frames(live: Live) -> impl Stream<Item = Result<LeasedChunk, Infallible>> {
    futures_util::stream::unfold(live, |mut live| async move {
        if live.stage == Stage::Ended {
            return None;
        }
        if live.stage == Stage::Opening {
            live.stage = Stage::Running;
            return Some((Ok((Bytes::from_static(b"retry: 2000\n\n"), None)), live));
        }
        let next = tokio::select! {
            next = live.follower.next() => next,
            _ = live.stopping.wait_for(|stopping| *stopping) => return None,
        };
        // Asked after the wait: whatever came may have come after the key was revoked.
        if let Err(problem) = live.caller.still_valid(&live.app) {
            live.stage = Stage::Ended;
            return Some((Ok((frame(None, "problem", &problem.body()), None)), live));
        }
        let chunk = match next {
            Ok(Frame::Page(page)) => {
                count(&live.app, &page);
                events_chunk(&live, *page)
            }
            Ok(Frame::Erasure(event)) => (erasure_frame(&live, &event), None),
            Ok(Frame::CaughtUp { head }) => (frame(None, "caught-up", &json!({"head": head})), None),
            Ok(Frame::Heartbeat) => (Bytes::from_static(b": alive\n\n"), None),
            Ok(Frame::FellBehind) => {
                live.stage = Stage::Ended;
                (frame(None, "fell-behind", &json!({"hint": "reconnect with the last id"})), None)
            }
            Ok(Frame::End) => return None,
            Err(error) => {
                live.stage = Stage::Ended;
                (frame(None, "problem", &Problem::from(error).body()), None)
            }
        };
        Some((Ok(chunk), live))
    })
}

fn events_chunk(live: &Live, page: Rendered) -> LeasedChunk {
    let mut out = Vec::with_capacity(page.events.iter().map(|event| event.json.len() + 48).sum());
    for event in &page.events {
        if event.system && !live.shows_system {
            continue;
        }
        let id = if live.one_stream { event.revision.0 } else { event.position.0 };
        out.extend_from_slice(format!("id: {id}\nevent: event\ndata: ").as_bytes());
        out.extend_from_slice(&event.json);
        out.extend_from_slice(b"\n\n");
    }
    (Bytes::from(out), Some(page.lease))
}

/// An erasure as consumers need it: whose copies to purge.
fn erasure_frame(live: &Live, event: &RenderedEvent) -> Bytes {
    let stored: Value = serde_json::from_slice(&event.json).unwrap_or_default();
    let data = stored.get("data").cloned().unwrap_or_default();
    let body = json!({
        "data_subject": data.get("subject"),
        "purposes": data.get("purposes"),
        "request": data.get("request"),
        "position": event.position.0,
        "action": "purge-copies",
    });
    frame((!live.one_stream).then_some(event.position.0), "erasure", &body)
}

/// One frame.
pub fn frame(id: Option<u64>, name: &str, data: &Value) -> Bytes {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    Bytes::from(format!("{id}event: {name}\ndata: {data}\n\n"))
}

/// One of a caller's open live streams.
pub struct Open {
    app: Shared,
    principal: String,
}

static OPEN: LazyLock<Mutex<HashMap<(usize, String), usize>>> = LazyLock::new(Mutex::default);

impl Open {
    /// Counts one more, up to the limit.
    ///
    /// # Errors
    /// 429 when the caller has too many open.
    pub fn enter(app: &Shared, caller: &Caller) -> Result<Self, Problem> {
        let open = Self { app: Arc::clone(app), principal: caller.principal.id.clone() };
        let mut counts = OPEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = counts.entry(open.key()).or_default();
        *count += 1;
        let allowed = *count <= app.config.limits.sse_per_principal;
        drop(counts);
        app.metrics.sse_connections.inc();
        if allowed {
            return Ok(open);
        }
        let title = "This key has too many live streams open";
        Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", title).retry_after(5))
    }

    fn key(&self) -> (usize, String) {
        (Arc::as_ptr(&self.app) as usize, self.principal.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.app.metrics.sse_connections.dec();
        let mut counts = OPEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key()) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key());
            }
        }
    }
}
