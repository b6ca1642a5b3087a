//! What auditors read: checkpoints, proofs, the log as tiles, the access log.
//!
//! Owns: their shapes (`docs/formats.md`). Nothing here is personal: hashes, sizes, and in the access log pseudonyms.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::extract::{Caller, Path, Query, Shared};
use super::problem::{self, Problem, ProblemBody};
use crate::audit::proof;
use crate::audit::tree::{TILE_WIDTH, Tree};
use crate::auth::Permission;
use crate::event::{Position, SubjectRef};
use crate::merkle::verify_consistency;
use crate::sealing::commit::leaf_entry;

/// The log as C2SP `tlog-tiles`: these are below the prefix `/v1/audit/log`.
pub const LOG_ROUTES: [&str; 2] = ["/v1/audit/log/checkpoint", "/v1/audit/log/tile/{*path}"];
/// Events read at a time for their entries: an entry is short, its event may be long.
const AT_ONCE: usize = 16;
/// Levels of tiles that a log of 2^64 leaves has.
const TILE_LEVELS: u8 = 8;

/// Routes that the standard for tiles fixes. OpenAPI has no words for a path of any depth.
pub fn log_routes() -> Router<Shared> {
    Router::new().route(LOG_ROUTES[0], get(checkpoint)).route(LOG_ROUTES[1], get(tile))
}

/// The signed tree head of now (C2SP tlog-checkpoint). The log itself is served as C2SP tlog-tiles below `/v1/audit/log`.
#[utoipa::path(get, path = "/v1/audit/checkpoint", tag = "audit",
    responses((status = 200, description = "A signed note", body = String, content_type = "text/plain"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn checkpoint(State(app): State<Shared>, caller: Caller, query: Query) -> Result<Response, Problem> {
    caller.require(Permission::ReadAudit)?;
    query.finish()?;
    let head = app.log.head().await?;
    Ok(text(app.checkpoint.sign(head.next.0, &head.frontier.root())))
}

/// The keys that verify checkpoints and certificates (C2SP signed-note vkey), one a line. Public.
#[utoipa::path(get, path = "/.well-known/oubliette-audit-keys", tag = "audit",
    responses((status = 200, description = "Verifier keys", body = String, content_type = "text/plain")))]
pub async fn audit_keys(State(app): State<Shared>) -> Response {
    text(format!("{}\n", app.checkpoint.verifier_key()))
}

/// Proof that an event is in the log (C2SP tlog-proof), against the log as it is now or was at an earlier size.
#[utoipa::path(get, path = "/v1/audit/proofs/inclusion", tag = "audit",
    params(("entry" = u64, Query, description = "Position of the event"),
        ("size" = Option<u64>, Query, description = "Size of the tree to prove it in; the present one if not given")),
    responses((status = 200, description = "A proof with its checkpoint", body = String, content_type = "text/plain"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn inclusion(State(app): State<Shared>, caller: Caller, mut query: Query) -> Result<Response, Problem> {
    caller.require(Permission::ReadAudit)?;
    let entry = query.number("entry", 0..=u64::MAX)?.ok_or_else(|| Problem::parameter("entry", "is missing"))?;
    let now = app.log.head().await?.next.0;
    let size = query.number("size", 1..=u64::MAX)?.unwrap_or(now);
    query.finish()?;
    if size > now {
        return Err(Problem::parameter("size", "is more than the log has events"));
    }
    let tree = Tree::of(app.log.clone());
    let hashes = tree.inclusion(entry, size).await?;
    let hashes = hashes.ok_or_else(|| Problem::parameter("entry", "is not in a log of this size"))?;
    let checkpoint = signed(&app, &tree, size).await?;
    let proof = proof::write(entry, &hashes, &checkpoint);
    let leaf = tree.tile(0, entry / TILE_WIDTH, entry % TILE_WIDTH + 1).await?.pop().ok_or_else(problem::internal)?;
    match proof::verify(&proof, &leaf, &app.checkpoint.verifier_key()) {
        Ok(_) => Ok(text(proof)),
        Err(error) => Err(contradiction(&error)),
    }
}

/// The checkpoint of an earlier size, or of now. Its root comes from stored hashes: nothing is signed that does not lead to
/// the root which the log itself carries along, for a signature under a wrong root could not be taken back.
async fn signed(app: &Shared, tree: &Tree, size: u64) -> Result<String, Problem> {
    let head = app.log.head().await?;
    let (now, root) = (head.next.0, tree.root(size).await?);
    let hashes = tree.consistency(size, now).await?.unwrap_or_default();
    verify_consistency((size, &root), (now, &head.frontier.root()), &hashes).map_err(|error| contradiction(&error))?;
    Ok(app.checkpoint.sign(size, &root))
}

fn contradiction(error: &dyn std::error::Error) -> Problem {
    tracing::error!(error = %error, "the stored tree contradicts itself; nothing was signed");
    problem::internal()
}

/// Proof that the log only grew between two sizes (RFC 6962, 2.1.2).
#[utoipa::path(get, path = "/v1/audit/proofs/consistency", tag = "audit",
    params(("from" = u64, Query, description = "The smaller size"),
        ("to" = Option<u64>, Query, description = "The larger size; the present one if not given")),
    responses((status = 200, description = "A proof with the checkpoint of the larger size", body = Value),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json")))]
pub async fn consistency(
    State(app): State<Shared>,
    caller: Caller,
    mut query: Query,
) -> Result<axum::Json<Value>, Problem> {
    caller.require(Permission::ReadAudit)?;
    let from = query.number("from", 0..=u64::MAX)?.ok_or_else(|| Problem::parameter("from", "is missing"))?;
    let now = app.log.head().await?.next.0;
    let to = query.number("to", 0..=u64::MAX)?.unwrap_or(now);
    query.finish()?;
    if to > now {
        return Err(Problem::parameter("to", "is more than the log has events"));
    }
    let tree = Tree::of(app.log.clone());
    let hashes = tree.consistency(from, to).await?;
    let hashes = hashes.ok_or_else(|| Problem::parameter("from", "is larger than the other size"))?;
    let hashes: Vec<String> = hashes.iter().map(|hash| BASE64.encode(hash)).collect();
    let checkpoint = signed(&app, &tree, to).await?;
    Ok(axum::Json(json!({"from": from, "to": to, "hashes": hashes, "checkpoint": checkpoint})))
}

/// A tile of hashes, or the entries whose hashes are the leaves of one.
async fn tile(
    State(app): State<Shared>,
    caller: Caller,
    Path(path): Path<String>,
    query: Query,
) -> Result<Response, Problem> {
    caller.require(Permission::ReadAudit)?;
    query.finish()?;
    let tile = Tile::parse(&path).ok_or_else(Problem::not_found)?;
    let size = app.log.head().await?.next.0;
    if !tile.is_in(size) {
        return Err(Problem::not_found());
    }
    let body = match tile.level {
        Some(level) => Tree::of(app.log.clone()).tile(level, tile.number, tile.width).await?.concat(),
        None => entries(&app, &tile).await?,
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        // What is in a tile never changes.
        (header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=31536000, immutable")),
    ];
    Ok((headers, body).into_response())
}

/// The entries of a tile of leaves: each as a big-endian 16-bit length and the bytes that its leaf is the hash of.
async fn entries(app: &Shared, tile: &Tile) -> Result<Vec<u8>, Problem> {
    let store = app.log.head().await?.store;
    let mut out = Vec::new();
    let first = tile.number * TILE_WIDTH;
    for from in (first..first + tile.width).step_by(AT_ONCE) {
        let count = AT_ONCE.min((first + tile.width - from) as usize);
        let rows = app.log.audit_rows(Position(from), count).await?;
        if rows.len() < count {
            return Err(problem::internal());
        }
        for row in rows {
            let entry = row.leaf_fields(&store).map(|fields| leaf_entry(&fields));
            let entry = entry.and_then(|entry| Some((u16::try_from(entry.len()).ok()?, entry)));
            let (length, entry) = entry.ok_or_else(problem::internal)?;
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&entry);
        }
    }
    Ok(out)
}

/// Which tile is meant: `<level or "entries">/<number>[.p/<width>]`.
#[derive(Debug, PartialEq, Eq)]
struct Tile {
    /// `None` for entries.
    level: Option<u8>,
    number: u64,
    width: u64,
}

impl Tile {
    /// The number stands in groups of three digits, all but the last with an `x` before it, none more than needed.
    fn parse(path: &str) -> Option<Self> {
        let (level, rest) = path.split_once('/')?;
        let level = match level {
            "entries" => None,
            digits => Some(digits.parse().ok().filter(|l: &u8| *l < TILE_LEVELS && l.to_string() == digits)?),
        };
        let (number, width) = match rest.split_once(".p/") {
            None => (rest, TILE_WIDTH),
            Some((number, width)) => {
                let partial = width.parse().ok().filter(|w| (1..TILE_WIDTH).contains(w) && w.to_string() == width)?;
                (number, partial)
            }
        };
        let mut groups = number.split('/').rev();
        let mut digits = groups.next()?.to_owned();
        for group in groups {
            digits.insert_str(0, group.strip_prefix('x')?);
        }
        let parsed: u64 = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        (Self::path(parsed) == number).then_some(Self { level, number: parsed, width })
    }

    fn path(number: u64) -> String {
        let mut path = format!("{:03}", number % 1000);
        let mut rest = number / 1000;
        while rest > 0 {
            path = format!("x{:03}/{path}", rest % 1000);
            rest /= 1000;
        }
        path
    }

    /// Whether a log of this size has it.
    fn is_in(&self, size: u64) -> bool {
        let hashes = size >> (8 * u32::from(self.level.unwrap_or(0)));
        let end = self.number.checked_mul(TILE_WIDTH).and_then(|first| first.checked_add(self.width));
        end.is_some_and(|end| end <= hashes)
    }
}

fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_named_in_one_way() {
        let tile = |level, number, width| Some(Tile { level, number, width });
        assert_eq!(Tile::parse("0/000"), tile(Some(0), 0, 256));
        assert_eq!(Tile::parse("0/x001/x234/067"), tile(Some(0), 1_234_067, 256));
        assert_eq!(Tile::parse("2/999.p/7"), tile(Some(2), 999, 7));
        assert_eq!(Tile::parse("entries/x001/000.p/255"), tile(None, 1000, 255));
        let wrong =
            ["", "0", "0/", "0/0", "0/1000", "0/x000/001", "0/001/002", "0/x1/002", "8/000", "00/000", "-1/000"];
        let more =
            ["0/000.p/0", "0/000.p/256", "0/000.p/01", "0/000.p/", "0/x000", "0/+01", "a/000", "0/000/", "0/000.p/1/2"];
        for path in wrong.into_iter().chain(more).chain(["0/x999/x999/x999/x999/x999/x999/x999/999"]) {
            assert_eq!(Tile::parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_log_has_the_tiles_that_its_size_fills() {
        let has = |path: &str, size| Tile::parse(path).unwrap().is_in(size);
        assert!(has("0/000", 256) && !has("0/000", 255) && has("0/000.p/255", 255) && has("entries/000.p/1", 1));
        assert!(has("1/000.p/1", 256) && !has("1/000.p/1", 255) && has("0/001.p/4", 260) && !has("0/001.p/5", 260));
        assert!(!has("7/x018/446/744.p/1".replace("446/", "x446/").as_str(), u64::MAX));
    }
}
