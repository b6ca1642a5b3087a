//! Rows as they change: server-sent events.
//!
//! Owns: frames `reset`, `row`, `row-removed`, `caught-up`, `problem`, heartbeats. Who connects gets every row first: a
//! removed row leaves nothing to resume from. A subscriber that cannot follow the changes begins anew with `reset`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use futures_util::Stream;
use serde_json::json;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::super::extract::{Caller, Shared};
use super::super::live::{Open, frame};
use super::super::problem::Problem;
use super::super::read::personal_headers;
use super::super::serve::{LeasedChunk, SocketGuard, leased};
use super::define::lookups;
use super::rows::find;
use crate::projection::engine::Running;
use crate::projection::engine::batch::Changed;
use crate::projection::query::{RenderedRows, RowQuery};
use crate::projection::row::RowKey;
use crate::projection::store::GenerationId;
use crate::read::Viewer;

const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long looked-up rows may have changed before everything is told again: which rows show them is not known here.
const LOOKED_UP: Duration = Duration::from_secs(5);

/// Opens a live stream of rows.
///
/// # Errors
/// 429 when the caller has too many open, 400 for groups: one changed row says nothing about the group it is in.
pub fn rows(
    app: Shared,
    caller: Caller,
    guard: Option<SocketGuard>,
    name: String,
    query: RowQuery,
    viewer: Viewer,
) -> Result<Response, Problem> {
    if !query.group_by.is_empty() || query.step.is_some() {
        return Err(Problem::parameter("group_by", "and step have no meaning for a live stream"));
    }
    let open = Open::enter(&app, &caller)?;
    let changes = app.projections.parts().changes.subscribe();
    let stopping = app.stopping.subscribe();
    let walk = Walk {
        app,
        caller,
        name,
        query,
        viewer,
        changes,
        stopping,
        pending: VecDeque::new(),
        looked_up: Vec::new(),
        again: None,
        stage: Stage::Begin,
        _open: open,
    };
    let mut response = Response::new(leased(frames(walk), guard));
    personal_headers(response.headers_mut(), "text/event-stream");
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

struct Walk {
    app: Shared,
    caller: Caller,
    name: String,
    query: RowQuery,
    viewer: Viewer,
    changes: broadcast::Receiver<Changed>,
    stopping: watch::Receiver<bool>,
    /// Changed rows that are still to be told.
    pending: VecDeque<RowKey>,
    /// Projections that columns are looked up in, and the generations that answered there.
    looked_up: Vec<(String, Option<GenerationId>)>,
    /// When all is told again because something looked up has changed.
    again: Option<Instant>,
    stage: Stage,
    _open: Open,
}

enum Stage {
    Begin,
    /// Every row of this generation, page by page.
    All(Running),
    Live(GenerationId),
    Ended,
}

fn frames(walk: Walk) -> impl Stream<Item = Result<LeasedChunk, Infallible>> {
    futures_util::stream::unfold(walk, |mut walk| async move {
        let mut stopping = walk.stopping.clone();
        tokio::select! {
            chunk = walk.next() => chunk.map(|chunk| (Ok(chunk), walk)),
            _ = stopping.wait_for(|stopping| *stopping) => None,
        }
    })
}

impl Walk {
    async fn next(&mut self) -> Option<LeasedChunk> {
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Begin => Some(self.begin().await),
            Stage::All(running) => Some(match self.page(running).await {
                Ok(chunk) => chunk,
                Err(error) => (problem(&error), None),
            }),
            Stage::Live(generation) => {
                let chunk = self.change(generation).await;
                // Asked after the wait: a revocation takes effect although nothing changes.
                let valid = self.caller.still_valid(&self.app);
                Some(valid.map_or_else(
                    |error| {
                        self.stage = Stage::Ended;
                        (problem(&error), None)
                    },
                    |()| chunk,
                ))
            }
            Stage::Ended => None,
        }
    }

    async fn begin(&mut self) -> LeasedChunk {
        // Before the rows are read: what changes meanwhile is told again, which changes nothing.
        self.changes = self.changes.resubscribe();
        match self.app.projections.wait(&self.name, None, Duration::from_secs(30)).await {
            Ok(running) => {
                let body = json!({"projection": self.name, "version": running.definition.version});
                self.query.after = None;
                self.again = None;
                self.looked_up.clear();
                for other in lookups(&running.definition) {
                    let answers = self.app.projections.get(&other).await.and_then(|known| known.live);
                    self.looked_up.push((other, answers.map(|live| live.generation.id)));
                }
                self.pending.clear();
                self.query.key = None;
                self.query.limit = self.app.rows.options().max_limit;
                self.stage = Stage::All(running);
                (frame(None, "reset", &body), None)
            }
            Err(_) => (frame(None, "problem", &Problem::not_found().body()), None),
        }
    }

    async fn page(&mut self, running: Running) -> Result<LeasedChunk, Problem> {
        let Some(found) = find(&self.app, &self.caller, &running, &self.query, &self.viewer).await? else {
            self.stage = Stage::Begin;
            return Ok((Bytes::from_static(b": rebuilt\n\n"), None));
        };
        let mut out = row_frames(&found);
        self.query.after.clone_from(&found.next);
        if self.query.after.is_some() {
            self.stage = Stage::All(running);
        } else {
            out.extend_from_slice(&frame(None, "caught-up", &json!({"position": found.position.checked_sub(1)})));
            self.stage = Stage::Live(running.generation.id);
        }
        Ok((Bytes::from(out), Some(found.lease)))
    }

    async fn change(&mut self, generation: GenerationId) -> LeasedChunk {
        if let Some(key) = self.pending.pop_front() {
            return self.changed_row(generation, key).await;
        }
        loop {
            let wait = self.again.map_or(HEARTBEAT, |at| at.saturating_duration_since(Instant::now()));
            match tokio::time::timeout(wait, self.changes.recv()).await {
                Err(_) if self.again.is_some() => {
                    self.stage = Stage::Begin;
                    return (Bytes::from_static(b": looked-up rows changed\n\n"), None);
                }
                Err(_) => {
                    // A swap or a removal is not a change of rows.
                    let now = self.app.projections.get(&self.name).await.and_then(|known| known.live);
                    let same = now.is_some_and(|live| live.generation.id == generation);
                    self.stage = if same { Stage::Live(generation) } else { Stage::Begin };
                    return (Bytes::from_static(b": alive\n\n"), None);
                }
                Ok(Err(broadcast::error::RecvError::Lagged(_))) => {
                    self.stage = Stage::Begin;
                    return (Bytes::from_static(b": behind\n\n"), None);
                }
                Ok(Err(broadcast::error::RecvError::Closed)) => return (Bytes::from_static(b": closed\n\n"), None),
                Ok(Ok(Changed::Swapped { name })) if name == self.name => {
                    self.stage = Stage::Begin;
                    return (Bytes::from_static(b": rebuilt\n\n"), None);
                }
                Ok(Ok(Changed::Rows { generation: changed, keys })) if changed == generation => {
                    self.pending.extend(keys.iter());
                    if let Some(key) = self.pending.pop_front() {
                        return self.changed_row(generation, key).await;
                    }
                }
                Ok(Ok(other)) => {
                    let seen = |(name, generation): &(String, Option<GenerationId>)| match &other {
                        Changed::Rows { generation: changed, .. } => *generation == Some(*changed),
                        Changed::Swapped { name: swapped } => name == swapped,
                    };
                    if self.looked_up.iter().any(seen) {
                        self.again.get_or_insert_with(|| Instant::now() + LOOKED_UP);
                    }
                }
            }
        }
    }

    /// One changed row, under a lease of its own.
    async fn changed_row(&mut self, generation: GenerationId, key: RowKey) -> LeasedChunk {
        let now = self.app.projections.get(&self.name).await.and_then(|known| known.live);
        let Some(running) = now.filter(|live| live.generation.id == generation) else {
            self.stage = Stage::Begin;
            return (Bytes::from_static(b": rebuilt\n\n"), None);
        };
        self.query.key = Some(key);
        match find(&self.app, &self.caller, &running, &self.query, &self.viewer).await {
            Ok(None) => {
                self.stage = Stage::Begin;
                (Bytes::from_static(b": rebuilt\n\n"), None)
            }
            Ok(Some(found)) => {
                self.stage = Stage::Live(generation);
                if found.items.is_empty() {
                    return (frame(None, "row-removed", &json!({"_key": key.to_string()})), None);
                }
                (Bytes::from(row_frames(&found)), Some(found.lease))
            }
            Err(error) => (problem(&error), None),
        }
    }
}

fn row_frames(found: &RenderedRows) -> Vec<u8> {
    let mut out = Vec::with_capacity(found.items.iter().map(|row| row.json.len() + 32).sum());
    for row in &found.items {
        out.extend_from_slice(b"event: row\ndata: ");
        out.extend_from_slice(&row.json);
        out.extend_from_slice(b"\n\n");
    }
    out
}

fn problem(error: &Problem) -> Bytes {
    frame(None, "problem", &error.body())
}
