//! Domain errors as RFC 9457 problems: the only place where they meet HTTP statuses.
//!
//! Owns: stable codes. A problem says what is wrong and what to do; it never carries a value of an event, an external
//! id, or internals of the server.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::append::AppendError;
use crate::append::writer::SubmitError;
use crate::audit::RecordError;
use crate::db::statement::DbError;
use crate::erasure::epoch::EpochError;
use crate::erasure::requests::ForgetError;
use crate::event::json::JsonError;
use crate::event::{ExpectedRevision, Revision};
use crate::eventlog::{CommitError, ReadError, Refused};
use crate::keystore::KeystoreError;
use crate::projection::engine::batch::BatchError;
use crate::read::ReadFailed;
use crate::schema::{RegistrationError, Violation};
use crate::sealing::SealError;

tokio::task_local! {
    /// Id of the request being answered.
    pub static REQUEST_ID: String;
}

/// A problem on its way out.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    title: String,
    errors: Vec<ProblemError>,
    extra: Map<String, Value>,
    headers: Vec<(header::HeaderName, HeaderValue)>,
}

/// One of the things that are wrong.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct ProblemError {
    /// Stable code.
    pub code: String,
    /// JSON Pointer into the request body.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The shape of every problem (RFC 9457).
#[derive(Serialize, utoipa::ToSchema)]
#[allow(dead_code, reason = "describes the shape in the OpenAPI document")]
pub struct ProblemBody {
    /// `/problems/<code>`.
    pub r#type: String,
    /// One sentence.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// Stable code.
    pub code: String,
    /// Id of the request, as in `X-Request-Id`.
    pub request_id: String,
    /// Everything that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<Vec<ProblemError>>,
}

impl Problem {
    /// A problem with a stable code.
    pub fn new(status: StatusCode, code: &'static str, title: impl Into<String>) -> Self {
        Self { status, code, title: title.into(), errors: Vec::new(), extra: Map::new(), headers: Vec::new() }
    }

    /// 400 `invalid-parameter` about a query parameter or header.
    pub fn parameter(name: &str, message: &str) -> Self {
        let error = ProblemError {
            code: "invalid-parameter".into(),
            pointer: String::new(),
            message: format!("{name}: {message}"),
            hint: None,
        };
        Self::new(StatusCode::BAD_REQUEST, "invalid-parameter", format!("The parameter {name} is not valid"))
            .error(error)
    }

    /// 404 `not-found`: the same for unknown, erased and not permitted.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is nothing here")
    }

    /// 403 `forbidden`.
    pub fn forbidden(title: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", title)
    }

    /// Adds one of the things that are wrong.
    #[must_use]
    pub fn error(mut self, error: ProblemError) -> Self {
        self.errors.push(error);
        self
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(key.to_owned(), value.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds `Retry-After`.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        self.header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// The members as a JSON value; also the payload of an SSE `problem` frame.
    pub fn body(&self) -> Value {
        let mut body = Map::new();
        body.insert("type".into(), format!("/problems/{}", self.code).into());
        body.insert("title".into(), self.title.clone().into());
        body.insert("status".into(), self.status.as_u16().into());
        body.insert("code".into(), self.code.into());
        body.insert("request_id".into(), REQUEST_ID.try_with(Clone::clone).unwrap_or_default().into());
        if !self.errors.is_empty() {
            body.insert("errors".into(), json!(self.errors));
        }
        body.extend(self.extra.clone());
        Value::Object(body)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}

/// A violation of an event or schema, its pointer set below `prefix`.
pub fn violation(prefix: &str, violation: Violation) -> ProblemError {
    ProblemError {
        code: violation.code.into(),
        pointer: format!("{prefix}{}", violation.pointer),
        message: violation.message,
        hint: violation.hint,
    }
}

/// Where the event with a stream index and an event index stands in the request body.
pub type Place<'a> = &'a dyn Fn(usize, usize) -> String;

/// An append's failure. `by_header`: the expectation came as `If-Match`.
pub fn append(error: AppendError, place: Place<'_>, by_header: bool) -> Problem {
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    match error {
        AppendError::Invalid(found) => {
            let code = found.first().map_or("schema-violation", |(.., violation)| violation.code);
            let problem = Problem::new(unprocessable, code, "The events are not valid; nothing was stored");
            found
                .into_iter()
                .fold(problem, |problem, (stream, event, found)| problem.error(violation(&place(stream, event), found)))
        }
        AppendError::ExpectationRequired => Problem::new(
            StatusCode::PRECONDITION_REQUIRED,
            "precondition-required",
            "This category demands an expected revision",
        ),
        AppendError::ErasureRecordBehind => record_behind(),
        AppendError::DataSubjectErased(people) => {
            let problem = Problem::new(
                StatusCode::CONFLICT,
                "data-subject-erased",
                "The events hold personal data of a forgotten person; nothing was stored",
            );
            people.into_iter().fold(problem, |problem, (stream, event, pointer)| {
                problem.error(ProblemError {
                    code: "data-subject-erased".into(),
                    pointer: place(stream, event) + &pointer,
                    message: "this data subject was forgotten".into(),
                    hint: Some("leave the personal fields out, or re-authorise the data subject".into()),
                })
            })
        }
        AppendError::NaturalKeyTaken(people) => {
            let title = "The events give a person the natural key of another; nothing was stored";
            let problem = Problem::new(StatusCode::CONFLICT, "natural-key-taken", title);
            people.into_iter().fold(problem, |problem, (stream, event, pointer)| {
                problem.error(ProblemError {
                    code: "natural-key-taken".into(),
                    pointer: place(stream, event) + &pointer,
                    message: "this natural key is another data subject's".into(),
                    hint: Some("people are never merged: use a key that tells them apart".into()),
                })
            })
        }
        AppendError::UnknownSubject(people) => {
            let problem = Problem::new(unprocessable, "data-subject-unknown", "A pseudonym was never issued here");
            people.into_iter().fold(problem, |problem, (stream, event, pointer)| {
                problem.error(ProblemError {
                    code: "data-subject-unknown".into(),
                    pointer: place(stream, event) + &pointer,
                    message: "this pseudonym was never issued".into(),
                    hint: Some("use the id you know the person by".into()),
                })
            })
        }
        AppendError::Refused(refused) => self::refused(refused, by_header),
        AppendError::Keystore(error) => error.into(),
        AppendError::Submit(error) => error.into(),
        AppendError::Seal(SealError::TooManySlots { slots, limit }) => Problem::new(
            unprocessable,
            "too-many-slots",
            format!("An event needs {slots} sealed slots (data subjects times purposes); {limit} are allowed"),
        ),
        AppendError::Seal(SealError::Entropy(_) | SealError::MissingKey) => internal(),
    }
}

fn refused(refused: Refused, by_header: bool) -> Problem {
    match refused {
        Refused::Condition { index } => {
            Problem::new(StatusCode::CONFLICT, "precondition-failed", "A precondition does not hold").error(
                ProblemError {
                    code: "precondition-failed".into(),
                    pointer: format!("/preconditions/{index}"),
                    message: "does not hold".into(),
                    hint: None,
                },
            )
        }
        Refused::DataSubjectErased { .. } => Problem::new(
            StatusCode::CONFLICT,
            "data-subject-erased",
            "A person was forgotten while the events were being stored; nothing was stored",
        ),
        Refused::EventIdConflict { .. } => Problem::new(
            StatusCode::CONFLICT,
            "event-id-conflict",
            "Some of the event ids are already in the stream, or in another order",
        ),
        Refused::IdempotencyKeyReuse => Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reuse",
            "The idempotency key came earlier with another request",
        ),
        Refused::NotErased { .. } => internal(),
        Refused::WrongExpectedRevision { expected, current, stream } => {
            let status = if by_header { StatusCode::PRECONDITION_FAILED } else { StatusCode::CONFLICT };
            Problem::new(status, "wrong-expected-revision", "The stream is not at the expected revision")
                .with("stream", stream.as_str())
                .with("expected", expected_value(expected))
                .with("current", current.map_or(Value::from("no_stream"), |Revision(r)| Value::from(r)))
        }
    }
}

fn expected_value(expected: ExpectedRevision) -> Value {
    match expected {
        ExpectedRevision::Any => "any".into(),
        ExpectedRevision::Exists => "exists".into(),
        ExpectedRevision::Exact(Revision(revision)) => revision.into(),
        ExpectedRevision::NoStream => "no_stream".into(),
    }
}

/// 500 without details: they are in the server's log under the request id.
pub fn internal() -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The server failed; the request id is in its log")
}

/// 503 `erasure-record-behind`: nothing personal moves until the newer record is there.
pub fn record_behind() -> Problem {
    unavailable(
        "erasure-record-behind",
        "The event log is older than the erasure record; personal data stays sealed until it is restored",
    )
}

/// 503 with `Retry-After`.
pub fn unavailable(code: &'static str, title: &str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, title).retry_after(1)
}

impl From<KeystoreError> for Problem {
    fn from(error: KeystoreError) -> Self {
        tracing::error!(error = %error, "the keystore failed");
        unavailable("key-store-unavailable", "Keys cannot be reached; nothing was lost and nothing is erased")
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Busy => unavailable("writer-busy", "The writer queue is full"),
            SubmitError::Stopping => unavailable("stopping", "The server is stopping"),
            SubmitError::Commit(CommitError::Unavailable { .. }) => {
                unavailable("read-only", "The event log cannot be written; nothing was stored")
            }
            SubmitError::Commit(CommitError::Indeterminate) => unavailable(
                "outcome-unknown",
                "It is not known whether the events were stored; repeat the request with the same ids",
            ),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        tracing::error!(error = %error, "the event log cannot be read");
        match error {
            ReadError::Unavailable { .. } => unavailable("log-unavailable", "The event log cannot be read"),
            ReadError::Corrupt { .. } => internal(),
        }
    }
}

impl From<ReadFailed> for Problem {
    fn from(error: ReadFailed) -> Self {
        let keys = "Keys cannot be reached; ask for partial=allow to read the rest. Nothing is erased";
        match error {
            ReadFailed::AccessLog(_) => {
                unavailable("access-log-unavailable", "Personal reads cannot be recorded, so none happen")
            }
            ReadFailed::KeysUnavailable(error) => {
                tracing::error!(error = %error, "the keystore failed");
                unavailable("key-store-unavailable", keys)
            }
            ReadFailed::KeyUnknown => unavailable("key-store-unavailable", keys),
            ReadFailed::Log(error) => error.into(),
            ReadFailed::ErasureRecordBehind => record_behind(),
        }
    }
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        tracing::error!(error = %error, "the tables of projections failed");
        match error {
            DbError::Corrupt { .. } => internal(),
            DbError::Unavailable { .. } | DbError::Unmet => {
                unavailable("projections-unavailable", "The tables of projections cannot be used now")
            }
        }
    }
}

impl From<BatchError> for Problem {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::ErasureRecordBehind => record_behind(),
            BatchError::KeyUnknown => unavailable("key-store-unavailable", "Keys cannot be reached; nothing is erased"),
            BatchError::Corrupt(_) => internal(),
            BatchError::Unavailable(_) | BatchError::Overtaken | BatchError::CodeUnknown(_) => {
                unavailable("projections-unavailable", "The definition cannot be run now")
            }
        }
    }
}

impl From<ForgetError> for Problem {
    fn from(error: ForgetError) -> Self {
        match error {
            ForgetError::Append(error) => append(error, &|_, _| String::new(), false),
            ForgetError::AlreadyErased => {
                Self::new(StatusCode::CONFLICT, "data-subject-erased", "This person is already forgotten")
            }
            ForgetError::Corrupt | ForgetError::Entropy(_) => internal(),
            ForgetError::Invalid(invalid) => {
                let status = invalid.from.map_or("missing", crate::erasure::Status::as_str);
                Self::new(StatusCode::CONFLICT, "invalid-transition", "The request is past that point")
                    .with("status_now", status)
            }
            ForgetError::Keystore(error) => error.into(),
            ForgetError::NoSuchSubject => Self::not_found(),
            ForgetError::Read(error) => error.into(),
            ForgetError::Unfinished => Self::new(
                StatusCode::CONFLICT,
                "invalid-transition",
                "The erasure is not complete yet; try again when it is",
            ),
            ForgetError::StalePreview { current } => {
                Self::new(StatusCode::CONFLICT, "preview-stale", "Something changed since the preview; look again")
                    .with("preview_digest", current)
            }
        }
    }
}

impl From<EpochError> for Problem {
    fn from(error: EpochError) -> Self {
        match error {
            EpochError::RecordBehind => record_behind(),
            EpochError::Keystore(error) => error.into(),
            EpochError::Read(error) => error.into(),
            EpochError::Append(error) => append(error, &|_, _| String::new(), false),
            EpochError::Corrupt => internal(),
        }
    }
}

impl From<RecordError> for Problem {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Append(error) => append(error, &|_, _| String::new(), false),
            RecordError::Raced => Self::new(StatusCode::CONFLICT, "raced", "Another change came first; try again"),
            RecordError::Invalid(found) => registration(RegistrationError::Invalid(found)),
        }
    }
}

/// A schema that is refused.
pub fn registration(error: RegistrationError) -> Problem {
    match error {
        RegistrationError::Invalid(found) => {
            let code = found.first().map_or("schema-invalid", |violation| violation.code);
            let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, "The schema is not valid");
            found.into_iter().fold(problem, |problem, found| problem.error(violation("", found)))
        }
        RegistrationError::Incompatible(report) => Problem::new(
            StatusCode::CONFLICT,
            "incompatible-schema",
            "The schema is not compatible with earlier versions",
        )
        .with("report", serde_json::to_value(report).unwrap_or_default()),
        RegistrationError::PrivacyAckRequired(found) => {
            let problem = Problem::new(
                StatusCode::CONFLICT,
                "privacy-acknowledgement-required",
                "The schema protects less than the version before; a data-protection officer has to acknowledge it",
            );
            found.into_iter().fold(problem, |problem, found| problem.error(violation("", found)))
        }
    }
}

impl From<JsonError> for Problem {
    fn from(error: JsonError) -> Self {
        let problem = Self::new(StatusCode::BAD_REQUEST, "malformed-json", "The body is not JSON we accept");
        problem.error(ProblemError {
            code: "malformed-json".into(),
            pointer: String::new(),
            message: error.to_string(),
            hint: None,
        })
    }
}
