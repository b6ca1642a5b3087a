//! The state of a stream by a fold, and what an append that a fold refuses is told.

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::extract::{Caller, Path, Query, Shared};
use super::problem::{self, Place, Problem, ProblemBody, ProblemError, internal, record_behind, unavailable};
use super::read::{as_of, personal_headers};
use super::serve::{SocketGuard, leased_whole};
use crate::auth::Permission;
use crate::db::statement::DbError;
use crate::event::StreamName;
use crate::eventlog::{Direction, Filter, ReadQuery};
use crate::projection::definition::Definition;
use crate::projection::engine::batch::BatchError;
use crate::projection::fold::guard::{GuardError, GuardedError, PeopleError};
use crate::projection::fold::{FoldError, FoldState, Opening};
use crate::projection::query::{QueryError, RenderedState};
use crate::read::{Purposes, ReadFailed, Viewer};
use crate::telemetry::ValueState;

/// Reads the state of a stream: its events folded by a definition, now or as it was.
#[utoipa::path(get, path = "/v1/streams/{stream}/state/{fold}", tag = "projections",
    params(("stream" = String, Path, description = "Stream name"),
        ("fold" = String, Path, description = "Name of the fold"),
        ("as_of" = Option<String>, Query, description = "A time, `position:N` or `revision:N`; never undoes an erasure"),
        ("redaction" = Option<String>, Query, description = "`typed`, `marker`, `null` or `omit`"),
        ("partial" = Option<String>, Query, description = "`allow` shows values as unavailable instead of failing")),
    responses((status = 200, description = "The state", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn fold_state(
    State(app): State<Shared>,
    caller: Caller,
    Path((stream, fold)): Path<(String, String)>,
    headers: HeaderMap,
    guard: Option<Extension<SocketGuard>>,
    mut query: Query,
) -> Result<Response, Problem> {
    caller.require(Permission::ReadEvents)?;
    let stream = StreamName::parse(&stream).map_err(|error| Problem::parameter("stream", &error.to_string()))?;
    if !caller.principal.reaches_stream(&stream) {
        return Err(Problem::forbidden("This key is confined to other categories"));
    }
    let viewer = caller.viewer(&headers, &mut query, "/v1/streams/{stream}/state/{fold}")?;
    let before = before(&app, &stream, &mut query).await?;
    query.finish()?;
    let Some(definition) = app.folds.get(&fold) else { return Err(Problem::not_found()) };
    let types = &definition.from.types;
    let confined = !caller.principal.grant.types.is_empty();
    if confined && (types.is_empty() || !types.iter().all(|known| caller.principal.reaches_type(known))) {
        return Err(Problem::forbidden("The fold reads types that this key is confined from"));
    }
    let computed = app.folds.state(&definition, &stream, before, opening(&app, &viewer)).await;
    let computed = match computed {
        // Without keys the values stay closed, and are shown as unavailable.
        Err(FoldError::Opening(BatchError::Unavailable(_) | BatchError::KeyUnknown)) if viewer.partial => {
            app.folds.state(&definition, &stream, before, Opening::Nothing).await
        }
        other => other,
    };
    let Some(computed) = computed? else { return Err(Problem::not_found()) };
    let mut body = facts(&definition, &stream, &computed);
    let RenderedState { state, redactions, opened, redacted, lease } =
        app.folds.show(&definition, computed, &viewer).await.map_err(shown)?;
    app.metrics.opened_values.inc_by(opened);
    for (state, values) in redacted {
        if let Some(state) = ValueState::parse(state) {
            app.metrics.redacted(state, values);
        }
    }
    body.insert("state".into(), state.into());
    if !redactions.is_empty() {
        body.insert("_redactions".into(), redactions.into());
    }
    let body = Bytes::from(Value::Object(body).to_string());
    let mut response = Response::new(leased_whole(body, lease, guard.map(|Extension(guard)| guard)));
    personal_headers(response.headers_mut(), "application/json");
    Ok(response)
}

/// While the erasure record is behind, whoever sees nothing personal anyway is still answered.
fn opening(app: &Shared, viewer: &Viewer) -> Opening {
    if viewer.purposes == Purposes::None && !app.is_level() { Opening::Nothing } else { Opening::Everything }
}

/// The position before which events count; `None` for all.
async fn before(app: &Shared, stream: &StreamName, query: &mut Query) -> Result<Option<u64>, Problem> {
    let Some(text) = query.take("as_of")? else { return Ok(None) };
    let mut read = ReadQuery {
        stream: Some(stream.clone()),
        from: None,
        direction: Direction::Forward,
        limit: 1,
        max_bytes: app.config.limits.page_bytes,
        until: None,
        filter: Filter::default(),
        system: false,
    };
    as_of(app, &text, &mut read).await?;
    // A time before all events begins the read beyond the end.
    let nothing = read.from.is_some();
    Ok(if nothing { Some(0) } else { read.until.map(|until| until.0 + 1) })
}

fn facts(definition: &Definition, stream: &StreamName, state: &FoldState) -> Map<String, Value> {
    let mut body = Map::new();
    body.insert("stream".into(), stream.as_str().into());
    body.insert("fold".into(), definition.name.as_str().into());
    body.insert("version".into(), definition.version.into());
    body.insert("revision".into(), state.last.map(|(revision, _)| revision.0).into());
    body.insert("position".into(), state.last.map(|(_, position)| position.0).into());
    body.insert("snapshot_revision".into(), state.snapshot_revision.map(|revision| revision.0).into());
    body.insert("events_folded".into(), state.events_folded.into());
    if state.events_parked > 0 {
        body.insert("events_parked".into(), state.events_parked.into());
    }
    body
}

fn shown(error: QueryError) -> Problem {
    match error {
        QueryError::AccessLog(error) => ReadFailed::from(error).into(),
        QueryError::Log(error) => error.into(),
        _ => problem::internal(),
    }
}

/// A guarded append's failure.
pub fn guarded(error: GuardedError, place: Place<'_>, by_header: bool) -> Problem {
    let error = match error {
        GuardedError::Append(error) => return problem::append(error, place, by_header),
        GuardedError::Guard(error) => error,
    };
    let conflict = |code, title: &str, pointer: String, fold: String, message: String| {
        let error = ProblemError { code: String::from(code), pointer, message, hint: None };
        Problem::new(StatusCode::CONFLICT, code, title).error(error).with("fold", fold)
    };
    match error {
        GuardError::Violated { fold, stream, event } => {
            let title = "An invariant would not hold after the events; nothing was stored";
            let message = format!("after this event the invariant of {fold} would not hold");
            conflict("invariant-violated", title, place(stream, event), fold, message)
        }
        GuardError::Failed { fold, stream, event, code, message } => {
            let title = "An invariant cannot be checked with these events; nothing was stored";
            let pointer = event.map_or_else(String::new, |event| place(stream, event));
            let message = format!("{code}: {message}");
            conflict("invariant-failed", title, pointer, fold, message)
        }
        GuardError::State(error) => error.into(),
        GuardError::People(PeopleError::Keystore(error)) => error.into(),
        GuardError::People(PeopleError::Entropy(_)) => internal(),
        GuardError::Contended => unavailable("writer-busy", "Other appends to the stream came first, again and again"),
    }
}

impl From<FoldError> for Problem {
    fn from(error: FoldError) -> Self {
        let keys = "Keys cannot be reached; ask for partial=allow to read the rest. Nothing is erased";
        match error {
            FoldError::Event { position, code, message } => {
                let title = "The state cannot be computed: an event of the stream cannot be folded";
                let cause = json!({"position": position, "code": code, "message": message});
                Self::new(StatusCode::CONFLICT, "fold-stopped", title).with("cause", cause)
            }
            FoldError::Log(error) => error.into(),
            FoldError::Opening(BatchError::ErasureRecordBehind) => record_behind(),
            FoldError::Opening(BatchError::Corrupt(_)) | FoldError::Tables(DbError::Corrupt { .. }) => {
                tracing::error!(error = %error, "a state cannot be computed");
                internal()
            }
            FoldError::Opening(_) => {
                tracing::error!(error = %error, "values of a state cannot be opened");
                unavailable("key-store-unavailable", keys)
            }
            FoldError::Tables(_) => {
                tracing::error!(error = %error, "the tables of projections cannot be read");
                unavailable("projections-unavailable", "The tables of projections cannot be read")
            }
        }
    }
}
