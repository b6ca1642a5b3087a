//! A minimal HTTP/1.1 client for load.
//!
//! Owns: one keep-alive connection with reused buffers, and the address and credentials it uses. Must not know:
//! workloads, JSON. Keeps: one request is in flight per connection (a closed loop measures what it says), and a
//! request is never sent twice: whether an unanswered append was committed only the caller can find out.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::response::{Decoder, Malformed};

/// Bytes read from the socket at once.
const READ_BUFFER: usize = 64 * 1024;

/// A server and the key to use there. Has no `Debug`: it holds a credential.
#[derive(Clone)]
pub struct Target {
    authority: String,
    common: Vec<u8>,
    /// Other nodes of the same store; connections go to each in turn.
    others: Arc<[Self]>,
    turn: Arc<AtomicUsize>,
}

/// The server's address or key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Only plain `http://` is spoken.
    #[error("the server's address must begin with http://")]
    Scheme,
    /// No host, or more than `http://host:port`.
    #[error("the server's address must be http://host:port, without a path")]
    Authority,
    /// The key has characters that no header may have.
    #[error("the API key has characters that no header may have")]
    Key,
}

impl Target {
    /// Takes `http://host:port` (port 80 if there is none) and an API key.
    ///
    /// # Errors
    /// [`TargetError`] says what cannot be used.
    pub fn new(url: &str, key: &str) -> Result<Self, TargetError> {
        let authority = url.strip_prefix("http://").ok_or(TargetError::Scheme)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.is_empty() || !authority.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b)) {
            return Err(TargetError::Authority);
        }
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TargetError::Key);
        }
        let has_port = authority.rsplit(']').next().is_some_and(|tail| tail.contains(':'));
        let common = format!("Host: {authority}\r\nAuthorization: Bearer {key}\r\n").into_bytes();
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Self { authority, common, others: Arc::new([]), turn: Arc::default() })
    }

    /// The same store, and other nodes of it.
    #[must_use]
    pub fn and(self, others: Vec<Self>) -> Self {
        Self { others: others.into(), ..self }
    }

    /// The node whose turn it is.
    fn pick(&self) -> Self {
        match self.turn.fetch_add(1, Ordering::Relaxed) % (self.others.len() + 1) {
            0 => self.clone(),
            turn => self.others[turn - 1].clone(),
        }
    }

    /// `host:port`.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

/// A request; everything that differs from one to the next.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `GET`, `POST`, ….
    pub method: &'static str,
    /// Path and query, already encoded.
    pub path: &'a str,
    /// Headers beyond `Host`, `Authorization`, `Content-Type` and `Content-Length`.
    pub headers: &'a [(&'a str, &'a str)],
    /// A JSON body, or nothing.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// A `GET`.
    pub fn get(path: &'a str) -> Self {
        Self { method: "GET", path, headers: &[], body: &[] }
    }

    /// A `POST` of JSON.
    pub fn post(path: &'a str, body: &'a [u8]) -> Self {
        Self { method: "POST", path, headers: &[], body }
    }

    /// The same with other headers.
    #[must_use]
    pub fn with(self, headers: &'a [(&'a str, &'a str)]) -> Self {
        Self { headers, ..self }
    }
}

/// A reply; borrows the connection's buffers.
#[derive(Clone, Copy)]
pub struct Reply<'a> {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: &'a [u8],
    /// The `Location` header, or empty.
    pub location: &'a str,
}

/// A request got no reply. What became of it at the server is not known.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection could not be made, or broke.
    #[error("connection failed")]
    Io(#[from] std::io::Error),
    /// The server closed the connection before the reply was whole.
    #[error("the server closed the connection before its reply was whole")]
    Closed,
    /// The reply was not HTTP.
    #[error("the reply is not HTTP/1.1")]
    Malformed(#[from] Malformed),
}

/// One connection and its buffers.
pub struct Connection {
    target: Target,
    socket: Option<TcpStream>,
    decoder: Decoder,
    output: Vec<u8>,
    input: Box<[u8]>,
    body: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// [`CallError::Io`].
    pub async fn open(target: &Target) -> Result<Self, CallError> {
        let mut connection = Self {
            target: target.pick(),
            socket: None,
            decoder: Decoder::default(),
            output: Vec::with_capacity(4096),
            input: vec![0; READ_BUFFER].into_boxed_slice(),
            body: Vec::with_capacity(4096),
        };
        connection.connect().await?;
        Ok(connection)
    }

    /// Sends a request and waits for the whole reply.
    ///
    /// # Errors
    /// [`CallError`]; the next call makes a new connection.
    pub async fn call(&mut self, request: Request<'_>) -> Result<Reply<'_>, CallError> {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        let result = self.exchange(request, &mut |part| body.extend_from_slice(part)).await;
        self.body = body;
        let status = result?;
        Ok(Reply { status, body: &self.body, location: self.decoder.location() })
    }

    /// Sends a request and hands the reply's body to `sink` piece by piece, so that it may be of any length. Returns
    /// the status code.
    ///
    /// # Errors
    /// [`CallError`]; the next call makes a new connection.
    pub async fn stream(&mut self, request: Request<'_>, mut sink: impl FnMut(&[u8]) + Send) -> Result<u16, CallError> {
        self.exchange(request, &mut sink).await
    }

    async fn exchange(
        &mut self,
        request: Request<'_>,
        sink: &mut (impl FnMut(&[u8]) + Send),
    ) -> Result<u16, CallError> {
        if self.socket.is_none() {
            self.connect().await?;
        }
        // Taken out, so that a connection with half a reply in it (an error, a cancelled future) is never used again.
        let mut socket = self.socket.take().ok_or(CallError::Closed)?;
        self.write_request(request);
        socket.write_all(&self.output).await?;
        self.decoder.reset();
        let mut surplus = false;
        while !self.decoder.is_complete() {
            let count = socket.read(&mut self.input).await?;
            if count == 0 {
                if self.decoder.finish() {
                    break;
                }
                return Err(CallError::Closed);
            }
            surplus = self.decoder.feed(&self.input[..count], sink)? < count;
        }
        // Nobody asked for more bytes than the reply: such a connection is out of step.
        if !self.decoder.closes() && !surplus {
            self.socket = Some(socket);
        }
        Ok(self.decoder.status())
    }

    async fn connect(&mut self) -> Result<(), CallError> {
        let socket = TcpStream::connect(&self.target.authority).await?;
        socket.set_nodelay(true)?;
        self.socket = Some(socket);
        Ok(())
    }

    fn write_request(&mut self, request: Request<'_>) {
        let out = &mut self.output;
        out.clear();
        for part in [request.method, " ", request.path, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(&self.target.common);
        for (name, value) in request.headers {
            for part in [name, ": ", value, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        if request.body.is_empty() {
            if request.method != "GET" {
                out.extend_from_slice(b"Content-Length: 0\r\n");
            }
            out.extend_from_slice(b"\r\n");
        } else {
            let length = request.body.len();
            write!(out, "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n")
                .expect("writing to memory cannot fail");
            out.extend_from_slice(request.body);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::Router;
    use axum::body::{Body, Bytes};
    use axum::extract::State;
    use axum::http::{HeaderMap, StatusCode, header};
    use axum::routing::{get, post};

    use super::*;

    async fn serve(router: Router) -> Target {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Target::new(&format!("http://{address}/"), "dev").unwrap()
    }

    fn router(calls: Arc<AtomicU32>) -> Router {
        let echo = |State(calls): State<Arc<AtomicU32>>, headers: HeaderMap, body: Bytes| async move {
            calls.fetch_add(1, Ordering::SeqCst);
            assert_eq!(headers[header::AUTHORIZATION], "Bearer dev");
            assert_eq!(headers[header::IF_MATCH], "\"r3\"");
            (StatusCode::CREATED, [(header::LOCATION, "/v1/streams/a/events?from=4")], body)
        };
        let long = || async {
            let parts = (0..1000).map(|n| Ok::<_, std::convert::Infallible>(format!("{{\"n\":{n}}}\n")));
            Body::from_stream(futures_util::stream::iter(parts))
        };
        let closing = || async { ([(header::CONNECTION, "close")], "bye") };
        Router::new()
            .route("/echo", post(echo))
            .route("/long", get(long))
            .route("/closing", get(closing))
            .with_state(calls)
    }

    #[tokio::test]
    async fn talks_to_a_real_server_on_one_connection() {
        let calls = Arc::new(AtomicU32::new(0));
        let mut connection = Connection::open(&serve(router(calls.clone())).await).await.unwrap();
        for size in [1, 100, 100_000] {
            let body = vec![b'x'; size];
            let reply = connection.call(Request::post("/echo", &body).with(&[("If-Match", "\"r3\"")])).await.unwrap();
            assert_eq!((reply.status, reply.location), (201, "/v1/streams/a/events?from=4"));
            assert_eq!(reply.body, body);
        }
        assert_eq!(calls.load(Ordering::SeqCst), 3);
        let mut lines = 0;
        let status = connection
            .stream(Request::get("/long"), |part| lines += part.split(|&b| b == b'\n').count() - 1)
            .await
            .unwrap();
        assert_eq!((status, lines), (200, 1000));
        assert_eq!(connection.call(Request::get("/missing")).await.unwrap().status, 404);
    }

    #[tokio::test]
    async fn connects_again_after_the_server_closed() {
        let mut connection = Connection::open(&serve(router(Arc::default())).await).await.unwrap();
        for _ in 0..3 {
            assert_eq!(connection.call(Request::get("/closing")).await.unwrap().body, b"bye");
        }
    }

    #[tokio::test]
    async fn a_cut_reply_is_an_error() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await.unwrap();
        });
        let target = Target::new(&format!("http://{address}"), "dev").unwrap();
        let mut connection = Connection::open(&target).await.unwrap();
        assert!(matches!(connection.call(Request::get("/")).await, Err(CallError::Closed)));
    }

    #[test]
    fn addresses_and_keys() {
        let authority = |url: &str| Target::new(url, "dev").map(|target| target.authority().to_owned());
        assert_eq!(authority("http://localhost:7017/"), Ok("localhost:7017".into()));
        assert_eq!(authority("http://example.org"), Ok("example.org:80".into()));
        assert_eq!(authority("http://[::1]"), Ok("[::1]:80".into()));
        assert_eq!(authority("https://example.org"), Err(TargetError::Scheme));
        assert_eq!(authority("http://example.org/v1"), Err(TargetError::Authority));
        assert_eq!(Target::new("http://a", "x\r\ny").map(|_| ()), Err(TargetError::Key));
    }
}
