//! Hostile input: whatever is sent, the answer is a problem, never a failure, never an echo, and the server goes on.
//!
//! Owns: what every answer to malformed input must be. The corpus is in the submodules; requests are written byte by
//! byte to a socket, since a proper client would refuse to send most of them.

mod bodies;
mod documents;
mod fuzz;
mod raw;
mod requests;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use oubliette::config::SchemaPolicy;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::Server;

/// Stands wherever a caller can put text; no answer may repeat it.
pub const CANARY: &str = "zqCanary";

/// No answer to malformed input takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// One malformed request and the statuses that are right for it.
pub struct Case {
    name: String,
    method: String,
    path: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    want: Vec<u16>,
    /// The HTTP parser itself may refuse it, without a body.
    bare: bool,
    /// Pointers of the answer name parts of the schema, which is no place for personal data.
    quotes: bool,
}

impl Case {
    pub fn new(method: &str, path: impl AsRef<[u8]>, body: impl Into<Vec<u8>>, want: &[u16]) -> Self {
        let (path, body) = (path.as_ref().to_vec(), body.into());
        let shown: String = String::from_utf8_lossy(&body).chars().take(120).collect();
        let name = format!("{method} {} {shown}", String::from_utf8_lossy(&path[..path.len().min(80)]));
        Self {
            name,
            method: method.into(),
            path,
            headers: Vec::new(),
            body,
            want: want.to_vec(),
            bare: false,
            quotes: false,
        }
    }

    pub fn get(path: impl AsRef<[u8]>, want: &[u16]) -> Self {
        Self::new("GET", path, Vec::new(), want)
    }

    pub fn json(path: &str, body: &Value, want: &[u16]) -> Self {
        Self::new("POST", path, body.to_string(), want)
    }

    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.name.push_str(&format!(" {name}: {}", String::from_utf8_lossy(value.as_ref())));
        self.name.truncate(self.name.char_indices().nth(200).map_or(self.name.len(), |(at, _)| at));
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// The parser may refuse it before there is a request, so without a problem.
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// The answer points into the schema that was sent.
    pub fn quotes(mut self) -> Self {
        self.quotes = true;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let has = |name: &str| self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut out =
            [self.method.as_bytes(), b" ", &self.path, b" HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"].concat();
        if !has("authorization") {
            out.extend_from_slice(b"Authorization: Bearer dev\r\n");
        }
        if !has("content-type") && !self.body.is_empty() {
            out.extend_from_slice(b"Content-Type: application/json\r\n");
        }
        out.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        for (name, value) in &self.headers {
            out.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
        out
    }

    /// What is wrong with the answer, if anything.
    async fn run(&self, address: SocketAddr) -> Option<String> {
        let Ok(bytes) = tokio::time::timeout(PATIENCE, exchange(address, &self.bytes())).await else {
            return Some("no answer in time".into());
        };
        let Some(answer) = Answer::parse(&bytes) else {
            return (!self.bare).then(|| "the connection ended without an answer".into());
        };
        if !self.want.contains(&answer.status) {
            return Some(format!("{} instead of {:?}: {}", answer.status, self.want, answer.text()));
        }
        if !self.quotes && bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()) {
            return Some(format!("the answer repeats the canary: {}", String::from_utf8_lossy(&bytes)));
        }
        if answer.status < 400 || (self.bare && answer.body.is_empty()) {
            return None;
        }
        let empty = self.method == "HEAD";
        answer.problem_mistake(empty)
    }
}

/// An answer, taken apart.
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.to_lowercase(), v.to_owned()));
        Some(Self { status, headers: headers.collect(), body: bytes[end + 4..].to_vec() })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What keeps this from being an RFC 9457 problem of ours.
    fn problem_mistake(&self, without_body: bool) -> Option<String> {
        let header = |name: &str| self.headers.get(name).map_or("", String::as_str);
        if header("content-type") != "application/problem+json" {
            return Some(format!("content-type {:?}: {}", header("content-type"), self.text()));
        }
        if without_body {
            return None;
        }
        let Ok(body) = serde_json::from_slice::<Value>(&self.body) else {
            return Some(format!("not JSON: {}", self.text()));
        };
        let code = body["code"].as_str().unwrap_or_default();
        let id = body["request_id"].as_str().unwrap_or_default();
        let whole = body["status"] == self.status
            && !code.is_empty()
            && body["type"] == format!("/problems/{code}")
            && body["title"].is_string()
            && !id.is_empty()
            && id == header("x-request-id");
        (!whole).then(|| format!("not a whole problem: {body}"))
    }
}

/// Sends bytes, reads until the server ends the connection.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.expect("the server accepts");
    // A server that answered early may be gone before everything was written.
    let _ = socket.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    answer
}

async fn run_all(cases: &[Case]) -> usize {
    let server = Server::with(|config| {
        config.dev = true;
        config.schema_policy = SchemaPolicy::Open;
    })
    .await;
    // Something to be hostile against: a schema, a stream, a person.
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["id"],
        "x-data-subjects": {"person": {"id": "/id"}},
        "properties": {"id": {"type": "string"}, "n": {"type": "integer"},
            "name": {"type": "string", "x-personal-data": {"subject": "person"}}}});
    server.schema("strict", &schema).await;
    server.append("seen-1", "strict", &json!({"id": "p1", "name": "Ada"})).await.expect(201);
    let before = server.get("/v1/events").await.expect(200).text();
    let mut mistakes = Vec::new();
    for case in cases {
        if let Some(mistake) = case.run(server.address).await {
            mistakes.push(format!("{}\n      {mistake}", case.name));
        }
    }
    assert!(mistakes.is_empty(), "{} of {}:\n{}", mistakes.len(), cases.len(), mistakes.join("\n"));
    assert_eq!(server.get("/v1/events").await.expect(200).text(), before, "nothing was stored");
    server.get("/readyz").await.expect(200);
    let distinct: HashSet<Vec<u8>> = cases.iter().map(Case::bytes).collect();
    distinct.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_get_problems() {
    let cases: Vec<Case> = [bodies::cases(), documents::cases(), requests::cases()].into_iter().flatten().collect();
    let distinct = run_all(&cases).await;
    assert!(distinct >= 300, "only {distinct} different malformed inputs");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_methods_get_405_with_allow() {
    let document = serde_json::to_value(oubliette::http::openapi()).unwrap();
    let server = Server::dev().await;
    let mut tried = 0;
    for (template, item) in document["paths"].as_object().unwrap() {
        let path = template.replace("{version}", "1").replace("{id}", "-").replace(['{', '}'], "");
        let known: Vec<String> = item.as_object().unwrap().keys().map(|m| m.to_uppercase()).collect();
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            if known.iter().any(|m| m == method) {
                continue;
            }
            let case = Case::new(method, &path, "", &[405]);
            let bytes = exchange(server.address, &case.bytes()).await;
            let answer = Answer::parse(&bytes).expect("an answer");
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.problem_mistake(false), None, "{method} {path}");
            let allow: Vec<&str> = answer.headers.get("allow").expect("Allow").split(',').map(str::trim).collect();
            for method in &known {
                assert!(allow.contains(&method.as_str()), "{path}: {allow:?}");
            }
            tried += 1;
        }
    }
    assert!(tried > 150, "{tried}");
}
