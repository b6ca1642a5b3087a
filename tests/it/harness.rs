//! A real server on a free port, over real files, and a client that speaks HTTP to it.
//!
//! When a test's server is dropped it is stopped in order, the store is verified as a whole, and every file under its
//! directory is searched for the test's canaries: personal values that must be nowhere in clear.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use oubliette::app::{App, Extras};
use oubliette::clock::{Clock, Millis};
use oubliette::config::Config;
use oubliette::http;
use oubliette::keystore::Keystore;
use oubliette::telemetry::Metrics;
use oubliette::verify;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A running server and its directory.
pub struct Server {
    pub app: Arc<App>,
    pub address: SocketAddr,
    /// The first administrator's key, when the server was started without `--dev` on an empty directory.
    pub admin_key: Option<String>,
    dir: Option<TempDir>,
    canaries: Vec<String>,
    /// The test damaged the store: the check at the end is left out.
    pub damaged: bool,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: hyper::HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Panics, showing the answer, unless it has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }

    /// The code of a problem.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Server {
    /// A `--dev` server on an empty directory. The clock is the system's.
    pub async fn dev() -> Self {
        Self::with(|config| config.dev = true).await
    }

    /// A server on an empty directory with changed settings.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self::on(dir, change, Clock::System).await
    }

    /// A server on a directory that may have a store already.
    pub async fn on(dir: TempDir, change: impl FnOnce(&mut Config), clock: Clock) -> Self {
        Self::bringing(dir, change, clock, Extras::default()).await
    }

    /// A server with something in front of its keystore.
    pub async fn behind(
        dir: TempDir,
        change: impl FnOnce(&mut Config),
        clock: Clock,
        front: impl FnOnce(Arc<dyn Keystore>) -> Arc<dyn Keystore> + Send,
    ) -> Self {
        Self::bringing(dir, change, clock, Extras { in_front: Some(Box::new(front)), ..Extras::default() }).await
    }

    /// A server in a process that brings something.
    pub async fn bringing(dir: TempDir, change: impl FnOnce(&mut Config), clock: Clock, extras: Extras<'_>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::listening(listener, dir, change, clock, extras).await
    }

    /// A server off whose hands the system takes little: whoever reads slowly makes it wait.
    pub async fn waiting_for_readers(dir: TempDir, change: impl FnOnce(&mut Config), clock: Clock) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // Connections have what their listener has.
        socket.set_send_buffer_size(16 << 10).expect("a small buffer");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        Self::listening(socket.listen(1024).expect("it listens"), dir, change, clock, Extras::default()).await
    }

    async fn listening(
        listener: TcpListener,
        dir: TempDir,
        change: impl FnOnce(&mut Config),
        clock: Clock,
        extras: Extras<'_>,
    ) -> Self {
        let mut config = config_in(dir.path());
        change(&mut config);
        let metrics = Metrics::new(http::route_templates(), Millis(0));
        let limits = config.limits.clone();
        let (app, first) = App::start_with(config, clock.clone(), metrics, extras).await.expect("the server starts");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let router = http::router(Arc::clone(&app));
        let stopping = Arc::clone(&app);
        let task = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
                stopping.begin_to_stop();
            };
            http::serve::serve(router, listener, &limits, shutdown).await;
        });
        Self {
            app,
            address,
            admin_key: first.admin_key,
            dir: Some(dir),
            canaries: Vec::new(),
            damaged: false,
            stop: Some(stop),
            task: Some(task),
        }
    }

    /// A personal value that must be found in no file, now or at the end.
    pub fn canary(&mut self, value: &str) {
        self.canaries.push(value.to_owned());
    }

    pub fn path(&self) -> &Path {
        self.dir.as_ref().expect("the server owns its directory").path()
    }

    /// Stops in order and gives the directory back, for a restart.
    pub async fn stop(mut self) -> TempDir {
        self.shut_down().await;
        self.dir.take().expect("the server owned its directory")
    }

    async fn shut_down(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
            if let Some(task) = self.task.take() {
                let _ = task.await;
            }
            // A store put together from parts of different ages, or damaged on purpose, cannot verify.
            let whole = self.app.is_level() && !self.damaged;
            let report = if whole { self.verify().await } else { Vec::new() };
            self.app.stop().await;
            assert!(report.is_empty(), "the store does not verify: {report:?}");
            let found = self.scan(&self.canaries);
            assert!(found.is_empty(), "clear values in files: {found:?}");
        }
    }

    /// Every file of the store, wherever it lies, in which a value stands in clear.
    pub fn scan(&self, values: &[String]) -> Vec<String> {
        let mut found = scan(self.path(), values);
        for dsn in [&self.app.config.events_dsn, &self.app.config.keys_dsn].into_iter().filter_map(|dsn| dsn.text()) {
            found.extend(scan(&crate::postgres::files(dsn), values));
        }
        found
    }

    /// What the whole-store check finds wrong.
    pub async fn verify(&self) -> Vec<String> {
        let (log, keystore) = (self.app.log.as_ref(), self.app.keys.keystore().as_ref());
        let report = verify::verify(log, Some(keystore), Some(&self.app.registry), &verify::Options::default()).await;
        let report = report.expect("the store can be read");
        report.findings.iter().map(|finding| format!("{finding:?}")).collect()
    }

    /// A request with the key `dev`.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        let authorized = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let mut all: Vec<(&str, &str)> = headers.to_vec();
        if !authorized {
            all.push(("authorization", "Bearer dev"));
        }
        send(self.address, method, path, &all, body.into()).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], Bytes::new()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send("PUT", path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// Registers a schema.
    pub async fn schema(&self, event_type: &str, schema: &Value) {
        self.post(&format!("/v1/schemas/{event_type}/versions"), schema).await.expect(201);
    }

    /// Appends one event.
    pub async fn append(&self, stream: &str, event_type: &str, data: &Value) -> Reply {
        self.post(&format!("/v1/streams/{stream}/events"), &serde_json::json!({"type": event_type, "data": data})).await
    }

    /// Forgets a whole person and waits for completion.
    pub async fn forget(&self, subject: &str) -> Value {
        let body = serde_json::json!({"data_subject": subject, "basis": "gdpr:A17-1-b"}).to_string();
        let headers = [("content-type", "application/json"), ("prefer", "wait=30")];
        let reply = self.send("POST", "/v1/forget", &headers, body).await.expect(200).json();
        assert_eq!(reply["status"], "completed", "{reply}");
        reply
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.stop.is_none() || std::thread::panicking() {
            return;
        }
        // A test that ends without `stop` still gets the checks; they need the runtime the test runs on.
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.shut_down()));
    }
}

/// Settings for a test: everything under one directory, port of no interest.
pub fn config_in(dir: &Path) -> Config {
    let mut config = Config::in_dir(&dir.join("data"));
    config.cache_kib = 2048;
    // The whole suite on the other engine.
    if crate::postgres::on_postgres() {
        crate::postgres::place(&mut config, dir);
    }
    config
}

/// One request on a connection of its own.
pub async fn send(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> Reply {
    try_send(address, method, path, headers, body).await.expect("an answer")
}

/// One request on a connection of its own; the error of a connection that broke.
pub async fn try_send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Reply, Box<dyn std::error::Error + Send + Sync>> {
    let response = open(address, method, path, headers, body).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Reply { status: parts.status, headers: parts.headers, body })
}

/// One request whose body is read by the caller, for live streams.
pub async fn open(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<hyper::Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    let mut tries = 3;
    loop {
        tries -= 1;
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes())?).uri(path);
        request = request.header("host", address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.clone()))?;
        match tokio::time::timeout(Duration::from_mins(2), sender.send_request(request)).await? {
            // On a busy machine a connection may be given up by the server before anything was sent on it.
            Err(error) if error.is_canceled() && tries > 0 => {}
            answer => return Ok(answer?),
        }
    }
}

/// Every file under a directory in which a value stands in clear, in any of the usual encodings.
pub fn scan(dir: &Path, values: &[String]) -> Vec<String> {
    let needles: Vec<(String, Vec<u8>)> = values.iter().flat_map(|value| encodings(value)).collect();
    if needles.is_empty() {
        return Vec::new();
    }
    // All at once: one after the other takes minutes for a hundred values.
    let escape = |needle: &[u8]| needle.iter().map(|byte| format!(r"\x{byte:02x}")).collect::<Vec<_>>().concat();
    let any = needles.iter().map(|(_, needle)| escape(needle)).collect::<Vec<_>>().join("|");
    let any = regex::bytes::RegexBuilder::new(&format!("(?-u:{any})")).size_limit(1 << 28).build().expect("literals");
    let mut found = Vec::new();
    for file in files(dir) {
        // A file that went away between listing and reading holds nothing any more.
        let Ok(bytes) = std::fs::read(&file) else { continue };
        for hit in any.find_iter(&bytes).take(10) {
            let name = needles.iter().find(|(_, needle)| needle == hit.as_bytes()).map_or("a value", |(name, _)| name);
            found.push(format!("{} in {}", name, file.display()));
        }
    }
    found.dedup();
    found
}

fn encodings(value: &str) -> Vec<(String, Vec<u8>)> {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
    let utf16 = |big: bool| -> Vec<u8> {
        value.encode_utf16().flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
    };
    let escaped = serde_json::to_string(value).unwrap_or_default();
    // Base64 depends on where in a larger text the value begins; the three alignments without their ragged ends.
    let aligned = |skip: usize| {
        let text = STANDARD_NO_PAD.encode(&value.as_bytes()[skip.min(value.len())..]);
        text.as_bytes()[..text.len().saturating_sub(2)].to_vec()
    };
    let all = [
        ("utf-8", value.as_bytes().to_vec()),
        ("json", escaped.trim_matches('"').as_bytes().to_vec()),
        ("utf-16le", utf16(false)),
        ("utf-16be", utf16(true)),
        ("hex", hex::encode(value).into_bytes()),
        ("HEX", hex::encode_upper(value).into_bytes()),
        ("base64", STANDARD.encode(value).trim_end_matches('=').as_bytes().to_vec()),
        ("base64url", URL_SAFE_NO_PAD.encode(value).into_bytes()),
        ("base64 +1", aligned(1)),
        ("base64 +2", aligned(2)),
    ];
    all.into_iter()
        .filter(|(_, needle)| needle.len() >= 6)
        .map(|(name, n)| (format!("{name} of {value:?}"), n))
        .collect()
}

/// All files under a directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}
