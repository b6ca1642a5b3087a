//! No log line, metric, problem or file ever holds a personal value, whatever the log level and wherever the value came in.
//!
//! Owns: the proof for the real binary. Every canary is sent once, in one place; then the process's output, its metrics,
//! its problems and all its files are searched for all of them in every usual encoding.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::child::oubliette;
use crate::harness::{Reply, scan, send};
use crate::hostile::exchange;

/// The binary with its output in files beside its data, so that one scan finds everything.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    pub dir: tempfile::TempDir,
    next: usize,
    problems: String,
}

impl Process {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| Stdio::from(std::fs::File::create(dir.path().join(name)).unwrap());
        let arguments = ["serve", "--dev", "--listen", "127.0.0.1:0", "--log-level", "trace", "--log-format", "json"];
        let child = oubliette(dir.path(), &[&arguments[..], &["--data-dir", "data"]].concat())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .expect("the binary starts");
        let address = address(dir.path());
        Self { child, address, dir, next: 0, problems: String::new() }
    }

    /// A value that occurs nowhere else.
    fn canary(&mut self) -> String {
        self.next += 1;
        canary(self.next - 1)
    }

    async fn call(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: impl ToString) -> Reply {
        let mut all = headers.to_vec();
        for (name, value) in [("authorization", "Bearer dev"), ("content-type", "application/json")] {
            if !headers.iter().any(|(given, _)| *given == name) {
                all.push((name, value));
            }
        }
        let reply = send(self.address, method, path, &all, body.to_string().into()).await;
        if !reply.status.is_success() {
            self.problems.push_str(&format!("{:?}\n{}\n", reply.headers, reply.text()));
        }
        reply
    }

    async fn refused(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: impl ToString) {
        let reply = self.call(method, path, headers, body).await;
        assert!(reply.status.is_client_error(), "{method} {path}: {} {}", reply.status, reply.text());
    }

    pub fn terminate(&mut self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "the server stops in order");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn canary(number: usize) -> String {
    format!("zq{}Leak{number:02}Vex", if number % 4 == 3 { "-" } else { "" })
}

fn address(dir: &Path) -> SocketAddr {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        let text = std::fs::read_to_string(dir.join("stdout")).unwrap_or_default();
        if let Some((_, rest)) = text.split_once("Listening on http://") {
            return rest.split(' ').next().unwrap().parse().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the server does not listen: {}", std::fs::read_to_string(dir.join("stderr")).unwrap_or_default());
}

fn schema() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["id"],
        "x-data-subjects": {"person": {"id": "/id"}},
        "properties": {"id": {"type": "string"}, "n": {"type": "integer"},
            "name": {"type": "string", "maxLength": 40, "x-personal-data": {"subject": "person"}},
            "home": {"type": "object", "properties": {"street": {"type": "string"}},
                "x-personal-data": {"subject": "person", "purposes": ["post"], "placeholder": {}}}}})
}

/// Values that are stored, sealed, read and forgotten.
async fn accepted(p: &mut Process) {
    p.call("POST", "/v1/schemas/leaky/versions", &[], schema()).await.expect(201);
    let stream = "/v1/streams/leaky-1/events";
    let (person, other) = (p.canary(), p.canary());
    for id in [&person, &other] {
        let data = json!({"id": id, "name": p.canary(), "home": {"street": p.canary()}});
        p.call("POST", stream, &[], json!({"type": "leaky", "data": data})).await.expect(201);
    }
    let key = p.canary();
    let event = json!({"type": "leaky", "data": {"id": person, "name": p.canary()}});
    p.call("POST", stream, &[("idempotency-key", &key)], event).await.expect(201);
    // In-line marks, both ways.
    let (wrapped, whose) = (p.canary(), p.canary());
    let data = json!({"note": {"$personal": wrapped, "subject": whose}, "mail": p.canary()});
    let event = json!({"type": "note", "data": data, "personal_data": [{"path": "/mail", "subject": p.canary()}]});
    p.call("POST", "/v1/streams/note-1/events", &[], event).await.expect(201);
    for (path, accept) in [(stream, "application/json"), ("/v1/events", "application/x-ndjson")] {
        let page = p.call("GET", path, &[("accept", accept)], "").await.expect(200);
        assert!(page.text().contains(&person), "the values were there to be leaked");
    }
    let body = json!({"data_subject": person});
    p.call("POST", "/v1/forget", &[("prefer", "wait=30")], body).await.expect(200);
    let event = json!({"type": "leaky", "data": {"id": person, "name": p.canary()}});
    p.refused("POST", stream, &[], event).await;
    let preview = json!({"data_subject": other});
    p.call("POST", "/v1/forget-requests", &[], preview).await.expect(201);
    let nobody = json!({"data_subject": p.canary()});
    p.refused("POST", "/v1/forget", &[], nobody).await;
}

/// Values in bodies that are refused.
async fn refused_bodies(p: &mut Process) {
    let stream = "/v1/streams/leaky-1/events";
    for member in ["id", "time", "schema_version", "type"] {
        let mut event = json!({"type": "leaky", "data": {"id": "p"}});
        event[member] = json!({"value": p.canary()});
        p.refused("POST", stream, &[], event).await;
    }
    let unknown = json!({"type": "leaky", "data": {"id": "p"}, (p.canary()): p.canary()});
    p.refused("POST", stream, &[], unknown).await;
    for data in [
        json!({"id": "p", "n": p.canary()}),
        json!({"id": "p", (p.canary()): 1}),
        json!({"id": "p", "home": p.canary()}),
        json!({"id": "p", "name": p.canary().repeat(9)}),
        json!({"id": [p.canary()]}),
    ] {
        p.refused("POST", stream, &[], json!({"type": "leaky", "data": data})).await;
    }
    let broken = format!("{{\"type\":\"leaky\",\"data\":{{\"id\":\"{}\"", p.canary());
    p.refused("POST", stream, &[], broken).await;
    let cloud = json!({"specversion": "1.0", "id": p.canary(), "source": "/s", "type": "leaky", "subject": p.canary(), "data": {}});
    p.refused("POST", stream, &[("content-type", "application/cloudevents+json")], cloud).await;
    let key = json!({"name": format!("{} x", p.canary()), "role": "reader"});
    p.refused("POST", "/v1/api-keys", &[], key).await;
    let forget = json!({"data_subject": "p", "basis": p.canary()});
    p.refused("POST", "/v1/forget", &[], forget).await;
    let schema = json!({"pattern": format!("({}", p.canary())});
    p.refused("POST", "/v1/schemas/leaky/versions", &[], schema).await;
}

/// Values in paths, query strings, headers and bytes that are no request.
async fn refused_requests(p: &mut Process) {
    for path in [
        "/v1/streams/{}/events",
        "/v1/streams/%20{}/events",
        "/{}",
        "/v1/forget-requests/{}",
        "/v1/events?{}=1",
        "/v1/events?data_subject={}",
        "/v1/events?cursor={}",
    ] {
        let path = path.replace("{}", &p.canary());
        p.refused("GET", &path, &[], "").await;
    }
    let value = p.canary();
    for name in ["if-match", "content-type", "content-encoding", "authorization", "last-event-id", "oubliette-purpose"]
    {
        let method = if name.starts_with('o') || name.starts_with('l') { "GET" } else { "POST" };
        p.refused(method, "/v1/streams/leaky-1/events", &[(name, &value)], "{}").await;
    }
    let value = p.canary();
    let everywhere = [
        ("cookie", value.as_str()),
        ("user-agent", &value),
        ("referer", &value),
        ("prefer", &value),
        ("traceparent", &value),
    ];
    p.call("GET", "/v1/streams", &everywhere, "").await.expect(200);
    for line in ["GET /{} HTTP/9.9\r\n\r\n", "{} / HTTP/1.1\r\nHost: t\r\n\r\n", "GET / HTTP/1.1\r\n{}\r\n\r\n"] {
        let bytes = line.replace("{}", &p.canary());
        let answer = exchange(p.address, bytes.as_bytes()).await;
        p.problems.push_str(&String::from_utf8_lossy(&answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_says_a_personal_value() {
    let mut p = Process::start();
    accepted(&mut p).await;
    refused_bodies(&mut p).await;
    refused_requests(&mut p).await;
    let metrics = p.call("GET", "/metrics", &[], "").await.expect(200).text();
    assert!(p.next >= 40, "{} canaries", p.next);
    let values: Vec<String> = (0..p.next).map(canary).collect();
    std::fs::write(p.dir.path().join("metrics"), &metrics).unwrap();
    std::fs::write(p.dir.path().join("problems"), &p.problems).unwrap();
    let found = scan(p.dir.path(), &values);
    let log = std::fs::read_to_string(p.dir.path().join("stderr")).unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| values.iter().any(|value| line.contains(value))).collect();
    assert!(found.is_empty(), "while it runs: {found:#?} {lines:#?}");
    p.terminate();
    let found = scan(p.dir.path(), &values);
    assert!(found.is_empty(), "after it stopped: {found:#?}");
    let log = std::fs::read_to_string(p.dir.path().join("stderr")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect();
    let requests = lines.iter().filter(|line| line["message"] == "request").count();
    assert!(requests > 30, "only {requests} requests in the log: was it at level trace?");
    labels(&metrics);
}

/// Labels come from closed lists: none can hold a stream, a person or a key.
fn labels(metrics: &str) {
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        for label in
            line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(inner, _)| inner).split(',')
        {
            for trace in ["leaky-1", "note-1", "ds_", "ak_", "fr_"] {
                assert!(!label.contains(trace), "{line}");
            }
            let name = label.split('=').next().unwrap_or_default();
            assert!(!["stream", "subject", "data_subject", "actor", "principal", "key"].contains(&name), "{line}");
        }
    }
}
