//! The HTTP client: one call at a time over one kept connection.
//!
//! Owns: the server's address, the API key, sending, and the curl command that does the same. Must not know: commands.
//! The key is written into the request's header and nowhere else. Nothing is retried here: only a command knows whether
//! doing a thing twice is harmless.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::problem::Problem;

/// JSON.
pub const JSON: &str = "application/json";
/// Comma-separated values.
pub const CSV: &str = "text/csv";
/// JSON texts, one per line.
pub const NDJSON: &str = "application/x-ndjson";
/// Server-sent events.
pub const EVENT_STREAM: &str = "text/event-stream";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the server's own deadline, so that its answer arrives before we give up.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;

/// An API key in memory.
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// The key in `file`, or else the one in the environment. `None` where there is neither.
    pub fn find(file: Option<&Path>, variable: Option<OsString>) -> Result<Option<Self>, Failure> {
        let (text, place) = match (file, variable) {
            (Some(path), _) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    Failure::usage(format!("the API key file {} cannot be read: {}", path.display(), error.kind()))
                })?;
                (Zeroizing::new(text), path.display().to_string())
            }
            (None, Some(text)) => {
                let text = text.into_string().map_err(|_| Failure::usage("OUBLIETTE_API_KEY is not text"))?;
                (Zeroizing::new(text), "OUBLIETTE_API_KEY".to_owned())
            }
            (None, None) => return Ok(None),
        };
        let key = text.trim();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::usage(format!("{place} does not hold an API key")));
        }
        Ok(Some(Self(Zeroizing::new(key.to_owned()))))
    }
}

/// A call to be made.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    target: String,
    accept: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Option<Bytes>,
    within: Duration,
}

impl Call {
    /// `GET`.
    pub fn get(target: impl Into<String>) -> Self {
        let within = ANSWER_TIMEOUT;
        Self { method: Method::GET, target: target.into(), accept: JSON, headers: Vec::new(), body: None, within }
    }

    /// `POST` of a JSON text.
    pub fn post(target: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, body: Some(body.into()), ..Self::get(target) }
    }

    /// `POST` without a body.
    pub fn post_nothing(target: impl Into<String>) -> Self {
        Self { method: Method::POST, ..Self::get(target) }
    }

    /// `PUT` of a JSON text.
    pub fn put(target: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { method: Method::PUT, body: Some(body.into()), ..Self::get(target) }
    }

    /// `DELETE`.
    pub fn delete(target: impl Into<String>) -> Self {
        Self { method: Method::DELETE, ..Self::get(target) }
    }

    /// Asks for another type of answer.
    #[must_use]
    pub fn accept(mut self, accept: &'static str) -> Self {
        self.accept = accept;
        self
    }

    /// Waits longer for the answer.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Adds a header, if there is a value.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: Option<impl Into<String>>) -> Self {
        self.headers.extend(value.map(|value| (name, value.into())));
        self
    }
}

/// `?name=value&…` of the pairs that have a value, or nothing.
pub fn query(pairs: &[(&str, Option<String>)]) -> String {
    let given = pairs.iter().filter_map(|(name, value)| value.as_ref().map(|value| (name, value)));
    let parts: Vec<String> = given.map(|(name, value)| format!("{name}={}", percent(value))).collect();
    if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
}

/// A text as one segment of a path or value of a query.
pub fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:,$".contains(&byte) {
            out.push(char::from(byte));
        } else {
            use std::fmt::Write;
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// A client of one server.
pub struct Client {
    authority: String,
    prefix: String,
    key: Option<ApiKey>,
    explain: bool,
    idle: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// A client; nothing is connected yet. With `explain` every call fails with [`Failure::Explained`].
    pub fn new(server: &str, key: Option<ApiKey>, explain: bool) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::usage(format!("--server (OUBLIETTE_SERVER) {why}"));
        let uri: Uri = server.parse().map_err(|_| wrong("is not a URL such as http://127.0.0.1:7017"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(wrong(
                    "is https, which this client does not speak: run it on the server's host with \
                     http://127.0.0.1:7017, or through a tunnel that ends TLS",
                ));
            }
            _ => return Err(wrong("has to begin with http://")),
        }
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("holds a user name or password; use an API key file"));
        }
        if uri.query().is_some() {
            return Err(wrong("holds a query"));
        }
        let authority = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { authority, prefix, key, explain, idle: None })
    }

    /// Makes a call and reads its whole answer: JSON, or `Null` where there is no body.
    pub async fn call(&mut self, call: &Call) -> Result<Value, Failure> {
        let mut sender = self.sender(call).await?;
        let response = self.send(&mut sender, call).await?;
        let body = collect(response).await?;
        // Only a connection whose answer was read to the end can carry the next call.
        self.idle = Some(sender);
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|_| Failure::failed("the server's answer is not JSON"))
    }

    /// Makes a call whose answer is read while it arrives.
    pub async fn open(&mut self, call: &Call) -> Result<Response<Incoming>, Failure> {
        let mut sender = self.sender(call).await?;
        self.send(&mut sender, call).await
    }

    /// Whether calls are only shown.
    pub fn explains(&self) -> bool {
        self.explain
    }

    /// The curl command of a call. The key appears as a variable of the shell.
    pub fn curl(&self, call: &Call) -> String {
        let live = if call.accept == EVENT_STREAM { " -N" } else { "" };
        let method = if call.method == Method::GET { String::new() } else { format!(" -X {}", call.method) };
        let mut parts = vec![format!("curl -sS{live}{method}")];
        parts.push("-H \"Authorization: Bearer $OUBLIETTE_API_KEY\"".to_owned());
        let content = call.body.as_ref().map(|_| ("Content-Type", JSON));
        let headers = call.headers.iter().map(|(name, value)| (*name, value.as_str()));
        let headers = [("Accept", call.accept)].into_iter().chain(content).chain(headers);
        parts.extend(headers.map(|(name, value)| format!("-H {}", quoted(&format!("{name}: {value}")))));
        if let Some(body) = &call.body {
            parts.push(format!("--data-binary {}", quoted(&String::from_utf8_lossy(body))));
        }
        parts.push(quoted(&format!("http://{}{}{}", self.authority, self.prefix, call.target)));
        parts.join(" \\\n  ")
    }

    async fn sender(&mut self, call: &Call) -> Result<SendRequest<Full<Bytes>>, Failure> {
        if self.explain {
            return Err(Failure::Explained(self.curl(call)));
        }
        if let Some(mut sender) = self.idle.take()
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        let unreachable = |why: &str| {
            Failure::unavailable(format!(
                "no server at {}: {why}\n  start one with `oubliette serve`, or name another with --server",
                self.authority
            ))
        };
        let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.authority)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(&error.kind().to_string())),
            Err(_) => return Err(unreachable("no answer within 5 s")),
        };
        // Calls are small and wait for their answer; holding packets back only costs time. Failing to say so costs less.
        let _ = stream.set_nodelay(true);
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|_| unreachable("it does not speak HTTP"))?;
        // The connection's errors reach us through the sender and the body.
        drop(tokio::spawn(connection));
        Ok(sender)
    }

    async fn send(&self, sender: &mut SendRequest<Full<Bytes>>, call: &Call) -> Result<Response<Incoming>, Failure> {
        let request = self.request(call)?;
        let response = match timeout(call.within, sender.send_request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => return Err(Failure::unavailable("the connection broke before the answer came")),
            Err(_) => return Err(Failure::unavailable(format!("no answer within {} s", call.within.as_secs()))),
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let retry =
            response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = collect(response).await.unwrap_or_default();
        Err(Failure::Problem(Box::new(Problem::of(status, &body, retry))))
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, Failure> {
        let wrong = || Failure::usage("a value has characters that HTTP does not take in a header or URL");
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{}{}", self.prefix, call.target))
            .header(header::HOST, &self.authority)
            .header(header::USER_AGENT, concat!("oubliette/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, call.accept)
            .body(Full::new(call.body.clone().unwrap_or_default()))
            .map_err(|_| wrong())?;
        let headers = request.headers_mut();
        if call.body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
        }
        for (name, value) in &call.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            headers.insert(name, HeaderValue::from_str(value).map_err(|_| wrong())?);
        }
        if let Some(key) = &self.key {
            let text = Zeroizing::new(format!("Bearer {}", key.0.as_str()));
            let mut value = HeaderValue::from_str(&text).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(request)
    }
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let body = timeout(ANSWER_TIMEOUT, Limited::new(response.into_body(), ANSWER_LIMIT).collect()).await;
    match body {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(Failure::unavailable("the connection broke in the middle of the answer")),
        Err(_) => Err(Failure::unavailable("the answer did not end within 60 s")),
    }
}

/// A text as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(server: &str) -> String {
        Client::new(server, None, false).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn servers_are_http_only_and_hold_no_secrets() {
        assert!(refusal("https://example.org").contains("does not speak"));
        assert!(refusal("http://u:p@example.org").contains("API key file"));
        assert!(refusal("127.0.0.1:7017").contains("http://"));
        let client = Client::new("http://[::1]:7017/store/", None, false).unwrap();
        assert_eq!((client.authority.as_str(), client.prefix.as_str()), ("[::1]:7017", "/store"));
        assert_eq!(Client::new("http://localhost", None, false).unwrap().authority, "localhost:80");
    }

    #[test]
    fn queries_are_encoded() {
        let pairs =
            [("from", Some("3".to_owned())), ("limit", None), ("as_of", Some("2026-11-21T10:00:00+01:00".into()))];
        assert_eq!(query(&pairs), "?from=3&as_of=2026-11-21T10:00:00%2B01:00");
        assert_eq!(query(&[("a", None)]), "");
    }

    #[test]
    fn curl_shows_the_variable_and_never_the_key() {
        let key = ApiKey::find(None, Some("ok_secret".into())).unwrap();
        let client = Client::new("http://127.0.0.1:7017", key, true).unwrap();
        let call = Call::post("/v1/x", r#"{"a":"it's"}"#).header("Prefer", Some("wait=30"));
        assert_eq!(
            client.curl(&call),
            "curl -sS -X POST \\\n  -H \"Authorization: Bearer $OUBLIETTE_API_KEY\" \\\n  -H 'Accept: \
             application/json' \\\n  -H 'Content-Type: application/json' \\\n  -H 'Prefer: wait=30' \\\n  \
             --data-binary '{\"a\":\"it'\\''s\"}' \\\n  'http://127.0.0.1:7017/v1/x'"
        );
    }

    #[test]
    fn keys_come_from_the_file_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "from-file\n").unwrap();
        let key = ApiKey::find(Some(&path), Some("from-env".into())).unwrap().unwrap();
        assert_eq!(key.0.as_str(), "from-file");
        assert!(ApiKey::find(None, None).unwrap().is_none());
        assert!(ApiKey::find(None, Some("two words".into())).is_err());
        assert!(ApiKey::find(Some(&dir.path().join("none")), None).is_err());
    }

    #[tokio::test]
    async fn explaining_sends_nothing() {
        let mut client = Client::new("http://127.0.0.1:1", None, true).unwrap();
        assert!(matches!(client.call(&Call::get("/v1/keys")).await, Err(Failure::Explained(_))));
        assert!(matches!(client.open(&Call::get("/v1/keys")).await, Err(Failure::Explained(_))));
    }
}
