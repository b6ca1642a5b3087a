//! What handlers are given: the caller, the body, the query, preconditions.
//!
//! Owns: parsing of headers and query strings, and the limits of a body. Must not know: what is done with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as HttpBody;
use serde_json::Value;

use super::problem::Problem;
use crate::app::App;
use crate::auth::{Permission, Principal, Role};
use crate::config::Limits;
use crate::event::json::parse;
use crate::event::{ExpectedRevision, Purpose, Revision};
use crate::read::{Purposes, Redaction, Viewer};

/// The state of every handler.
pub type Shared = Arc<App>;

/// The authenticated caller.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who.
    pub principal: Arc<Principal>,
    /// Request id.
    pub request: String,
}

impl Caller {
    /// Refuses with 403 unless a role has the permission.
    ///
    /// # Errors
    /// 403 `forbidden`, naming the roles that may.
    pub fn require(&self, permission: Permission) -> Result<(), Problem> {
        if self.principal.may(permission) {
            return Ok(());
        }
        let roles: Vec<&str> = permission.roles().iter().map(|role| role.as_str()).collect();
        Err(Problem::forbidden("This key has no role that may do this").with("roles", roles))
    }

    /// Refuses with 401 once the key was revoked or has expired: for answers that take long. A revocation takes effect at
    /// once, and not when a live stream happens to end.
    ///
    /// # Errors
    /// 401 `unauthenticated`.
    pub fn still_valid(&self, app: &App) -> Result<(), Problem> {
        if app.api_keys.is_valid(&self.principal, app.clock.now()) {
            return Ok(());
        }
        Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", "The API key is not valid any more"))
    }

    /// What this caller sees of personal data, by roles, granted purposes and the request's headers.
    ///
    /// # Errors
    /// 400 for bad headers or parameters, 403 `purpose-not-permitted` for a purpose that was not granted.
    pub fn viewer(&self, headers: &HeaderMap, query: &mut Query, route: &'static str) -> Result<Viewer, Problem> {
        let purpose = text_header(headers, "oubliette-purpose", 64)?;
        let reason = text_header(headers, "oubliette-reason", 500)?.unwrap_or_default();
        let redaction = match query.take("redaction")?.as_deref() {
            None | Some("typed") => Redaction::Typed,
            Some("marker") => Redaction::Marker,
            Some("null") => Redaction::Null,
            Some("omit") => Redaction::Omit,
            Some(_) => return Err(Problem::parameter("redaction", "is typed, marker, null or omit")),
        };
        let partial = match query.take("partial")?.as_deref() {
            None => false,
            Some("allow") => true,
            Some(_) => return Err(Problem::parameter("partial", "can only be allow")),
        };
        let purposes = self.purposes(purpose.as_deref(), &reason)?;
        let principal = self.principal.id.clone();
        Ok(Viewer { principal, purposes, redaction, partial, reason, route, request: self.request.clone() })
    }

    fn purposes(&self, stated: Option<&str>, reason: &str) -> Result<Purposes, Problem> {
        use crate::auth::PurposeGrant;
        let who = &self.principal;
        // An officer without the reader's role sees values only with a stated ground (Art. 18(2)).
        let reads = who.has(Role::PiiReader) || (who.has(Role::Dpo) && !reason.is_empty());
        match stated {
            Some(text) if Purpose::parse(text).is_err() => {
                Err(Problem::parameter("oubliette-purpose", "is not the name of a purpose"))
            }
            Some(purpose) if !reads || !who.may_read_for(purpose) => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "purpose-not-permitted",
                "This key may not read personal data for that purpose",
            )),
            Some(purpose) => Ok(Purposes::These(vec![purpose.to_owned()])),
            None if !reads => Ok(Purposes::None),
            None => Ok(match &who.grant.purposes {
                PurposeGrant::All(_) => Purposes::All,
                PurposeGrant::These(list) if list.is_empty() => Purposes::None,
                PurposeGrant::These(list) => Purposes::These(list.clone()),
            }),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let missing = || Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", "An API key is needed");
        parts.extensions.get::<Self>().cloned().ok_or_else(missing)
    }
}

/// A header's text, if it is there: visible ASCII and spaces, at most `limit` bytes.
///
/// # Errors
/// 400 `invalid-parameter`.
pub fn text_header(headers: &HeaderMap, name: &'static str, limit: usize) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::parameter(name, "comes twice"));
    }
    match value.to_str() {
        Ok(text) if (1..=limit).contains(&text.len()) => Ok(Some(text.to_owned())),
        _ => Err(Problem::parameter(name, "is empty, too long or not plain ASCII")),
    }
}

/// The parameters of a path, percent-decoded.
pub struct Path<T>(pub T);

impl<T: serde::de::DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let decoded = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        // The rejection's own text quotes the path.
        decoded.map(|path| Self(path.0)).map_err(|_| Problem::parameter("path", "is not percent-encoded UTF-8"))
    }
}

/// A body that was read whole, within the limits of size and time.
pub struct Body(pub Bytes);

impl FromRequest<Shared> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, Problem> {
        let limits = &app.config.limits;
        let mut codings = request.headers().get_all(header::CONTENT_ENCODING).iter();
        if !codings.all(|coding| coding == HeaderValue::from_static("identity")) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "Content codings are not supported",
            ));
        }
        let (mut parts, body) = request.into_parts();
        let read = match parts.extensions.remove::<ReadAhead>() {
            Some(ReadAhead(read)) => read,
            None => read(body, limits).await,
        };
        read.map(Self).map_err(|error| match error {
            BodyError::Slow => Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", "The body came too slowly"),
            BodyError::TooLarge => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                format!("A body has at most {} bytes", limits.body_bytes),
            ),
            BodyError::Broken => Problem::new(StatusCode::BAD_REQUEST, "body-broken", "The body ended early"),
        })
    }
}

/// Why a body could not be read.
#[derive(Clone, Copy, Debug)]
enum BodyError {
    Slow,
    TooLarge,
    Broken,
}

async fn read(body: axum::body::Body, limits: &Limits) -> Result<Bytes, BodyError> {
    let body = Limited::new(body, limits.body_bytes).collect();
    match tokio::time::timeout(limits.body_timeout, body).await.map_err(|_| BodyError::Slow)? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => Err(BodyError::TooLarge),
        Err(_) => Err(BodyError::Broken),
    }
}

/// What became of a body that was read before its handler ran; for [`Body`].
#[derive(Clone)]
struct ReadAhead(Result<Bytes, BodyError>);

/// Bytes that are read before anybody looked at whether their sender, whose key is known, may send them.
const READ_AHEAD: u64 = 64 * 1024;

/// Reads a short body of stated length in the task of its connection: a handler that runs in another one would have to wait
/// until the two have woken each other.
pub async fn read_ahead(request: Request, limits: &Limits) -> Request {
    let length = HttpBody::size_hint(request.body()).exact();
    if length.is_none_or(|length| length == 0 || length > READ_AHEAD.min(limits.body_bytes as u64)) {
        return request;
    }
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(ReadAhead(read(body, limits).await));
    Request::from_parts(parts, axum::body::Body::empty())
}

/// A JSON body, strictly parsed.
pub struct Json(pub Value);

impl FromRequest<Shared> for Json {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, Problem> {
        let media = media_type(request.headers())?;
        if !matches!(media.as_str(), "" | "application/json") {
            return Err(unsupported("application/json"));
        }
        let Body(bytes) = Body::from_request(request, app).await?;
        Ok(Self(parse(&bytes, app.config.limits.json())?))
    }
}

impl Json {
    /// The body as a type, with unknown members refused by the type.
    ///
    /// # Errors
    /// 422 `invalid-body`. Serde's message could quote a value, so only the place of the mistake is told.
    pub fn into<T: serde::de::DeserializeOwned>(self) -> Result<T, Problem> {
        let shape = || {
            let title = "The body does not have the documented shape";
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-body", title)
        };
        // Serde would also take the members of a struct as an array, in order.
        if !self.0.is_object() {
            return Err(shape());
        }
        serde_json::from_value(self.0).map_err(|error| {
            let text = error.to_string();
            // Names of members are ours; anything else in the message could come from the caller.
            let safe = text.starts_with("missing field") || text.starts_with("unknown field");
            if !safe {
                return shape();
            }
            let title = format!("The body is not valid: {}", strip_values(&text));
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-body", title)
        })
    }
}

/// `unknown field` quotes the caller's key; only the expected ones are kept.
fn strip_values(text: &str) -> String {
    match text.split_once(", expected") {
        Some((_, expected)) => format!("unknown member, expected{expected}"),
        None => text.to_owned(),
    }
}

/// The media type without parameters, lower case; empty when there is none.
///
/// # Errors
/// 415 for a charset other than UTF-8 or an unreadable header.
pub fn media_type(headers: &HeaderMap) -> Result<String, Problem> {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let Some(value) = values.next() else { return Ok(String::new()) };
    if values.next().is_some() {
        return Err(unsupported("one content type"));
    }
    let text = value.to_str().map_err(|_| unsupported("application/json"))?.to_ascii_lowercase();
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default().to_owned();
    if parts.any(|part| part.starts_with("charset=") && part.trim_matches('"') != "charset=utf-8") {
        return Err(unsupported("charset=utf-8"));
    }
    Ok(media)
}

/// 415, naming what is taken.
pub fn unsupported(accepted: &str) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", format!("This takes {accepted}"))
}

/// The query string: every parameter at most once, unknown ones refused by [`Query::finish`].
#[derive(Debug)]
pub struct Query(BTreeMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let text = parts.uri.query().unwrap_or_default();
        let pairs: axum::extract::Query<Vec<(String, String)>> = axum::extract::Query::try_from_uri(&parts.uri)
            .map_err(|_| Problem::parameter("query", "is not readable"))?;
        let mut map = BTreeMap::new();
        for (key, value) in pairs.0 {
            if map.insert(key, value).is_some() {
                return Err(Problem::parameter("query", "names a parameter twice"));
            }
        }
        debug_assert!(map.len() <= text.len());
        Ok(Self(map))
    }
}

impl Query {
    /// A parameter's text; empty counts as a mistake.
    ///
    /// # Errors
    /// 400 `invalid-parameter`.
    pub fn take(&mut self, name: &'static str) -> Result<Option<String>, Problem> {
        match self.0.remove(name) {
            Some(text) if text.is_empty() => Err(Problem::parameter(name, "is empty")),
            other => Ok(other),
        }
    }

    /// Whether a parameter is there, without taking it.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Takes a parameter that may have no value, and says whether it was there.
    pub fn flag(&mut self, name: &'static str) -> bool {
        self.0.remove(name).is_some()
    }

    /// A number within a range.
    ///
    /// # Errors
    /// 400 `invalid-parameter`.
    pub fn number(&mut self, name: &'static str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, Problem> {
        let Some(text) = self.take(name)? else { return Ok(None) };
        let number = text.parse::<u64>().ok().filter(|n| range.contains(n));
        let wanted = format!("is not a number from {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| Problem::parameter(name, &wanted))
    }

    /// A copy of everything, for binding a cursor to its query.
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.0 {
            // Lengths first, so that no two queries have the same text.
            for part in [key, value] {
                text.push_str(&part.len().to_string());
                text.push(':');
                text.push_str(part);
            }
        }
        text
    }

    /// Refuses what no handler took.
    ///
    /// # Errors
    /// 400 `invalid-parameter`.
    pub fn finish(self) -> Result<(), Problem> {
        if self.0.is_empty() { Ok(()) } else { Err(Problem::parameter("query", "has a parameter unknown here")) }
    }
}

/// `If-Match` and `If-None-Match: *` as an expected revision.
///
/// # Errors
/// 400 when they are not of the form `"r41"`, or both are given.
pub fn expected_by_header(headers: &HeaderMap) -> Result<Option<ExpectedRevision>, Problem> {
    let exact = text_header(headers, "if-match", 200)?;
    let none = text_header(headers, "if-none-match", 200)?;
    match (exact.as_deref(), none.as_deref()) {
        (None, None) => Ok(None),
        (Some("*"), None) => Ok(Some(ExpectedRevision::Exists)),
        (None, Some("*")) => Ok(Some(ExpectedRevision::NoStream)),
        (Some(tag), None) => revision_of_tag(tag)
            .map(|revision| Some(ExpectedRevision::Exact(revision)))
            .ok_or_else(|| Problem::parameter("if-match", "is not an ETag of a stream, like \"r41\"")),
        _ => Err(Problem::parameter("if-match", "and if-none-match cannot be combined so")),
    }
}

/// The revision in `"r41"` or `"r41.e7-…"`.
fn revision_of_tag(tag: &str) -> Option<Revision> {
    let inner = tag.strip_prefix('"')?.strip_suffix('"')?.strip_prefix('r')?;
    let digits = inner.split('.').next()?;
    (digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok().map(Revision)).flatten()
}

/// `Prefer: wait=N` in seconds, at most `most` (RFC 7240).
pub fn prefer_wait(headers: &HeaderMap, most: u64) -> Option<std::time::Duration> {
    let prefer = headers.get("prefer")?.to_str().ok()?;
    let seconds = prefer.split([',', ';']).find_map(|part| part.trim().strip_prefix("wait=")?.parse::<u64>().ok())?;
    Some(std::time::Duration::from_secs(seconds.min(most)))
}
