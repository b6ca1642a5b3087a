//! Bytes that are not requests, or too many of them, or too slow.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Answer, CANARY, PATIENCE, exchange};
use crate::harness::Server;

const LINE: &str = "POST /v1/streams/raw-1/events HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer dev\r\n";

/// Every answer in the bytes; a connection on which several requests were tried has several.
fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    text.split("HTTP/1.1 ").skip(1).filter_map(|part| part.get(..3)?.parse().ok()).collect()
}

/// Requests that must not be taken for anything: at most one answer, and it is a refusal.
fn refused() -> Vec<Vec<u8>> {
    let inner = "POST /v1/streams/smuggled-1/events HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer dev\r\nContent-Length: 21\r\n\r\n{\"type\":\"t\",\"data\":1}";
    let head = |more: &str| format!("{LINE}{more}\r\n");
    let texts = [
        head(&format!("Content-Length: 5\r\nContent-Length: 6\r\n\r\n{inner}")),
        head("Content-Length: -1\r\n"),
        head("Content-Length: zqCanary\r\n"),
        head("Content-Length: 99999999999999999999999\r\n"),
        head("Content-Length: +5\r\n\r\nhello"),
        head("Content-Length: 5, 6\r\n\r\nhello"),
        head(&format!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{inner}")),
        head(&format!("Transfer-Encoding: zqCanary\r\n\r\n{inner}")),
        head("Transfer-Encoding: chunked\r\n\r\nzqCanary\r\n"),
        head("Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"),
        head("Transfer-Encoding: chunked\r\n\r\n-1\r\n"),
        head("Bad Header: zqCanary\r\n"),
        head(": zqCanary\r\n"),
        head("zqCanary\r\n"),
        head("X: a\0b\r\n"),
        head(" folded: zqCanary\r\n"),
        "GET\r\n\r\n".into(),
        "zqCanary\r\n\r\n".into(),
        "GET /livez\r\n\r\n".into(),
        "GET /livez HTTP/9.9\r\nHost: t\r\n\r\n".into(),
        "GET  /livez HTTP/1.1\r\nHost: t\r\n\r\n".into(),
        "GET /livez zqCanary HTTP/1.1\r\nHost: t\r\n\r\n".into(),
        "GET /\u{1}livez HTTP/1.1\r\nHost: t\r\n\r\n".into(),
        "G\0T /livez HTTP/1.1\r\nHost: t\r\n\r\n".into(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        "\u{16}\u{3}\u{1}\0\u{5}zqCanary\r\n\r\n".into(),
        "\0\0\0\0\r\n\r\n".into(),
        "SSH-2.0-zqCanary\r\n\r\n".into(),
        format!("GET /{} HTTP/1.1\r\n\r\n", "z".repeat(200_000)),
        format!("{LINE}{}\r\n", "X: z\r\n".repeat(5000)),
    ];
    texts.into_iter().map(String::into_bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_request_are_refused_once() {
    let server = Server::dev().await;
    for (n, bytes) in refused().into_iter().enumerate() {
        let answer = tokio::time::timeout(PATIENCE, exchange(server.address, &bytes)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{n}: the connection hangs"));
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        let statuses = statuses(&answer);
        assert!(statuses.len() <= 1, "{n} {shown:?}: {statuses:?}");
        assert!(statuses.iter().all(|s| (400..500).contains(s) || *s == 505), "{n} {shown:?}: {statuses:?}");
        assert!(!String::from_utf8_lossy(&answer).contains(CANARY), "{n} {shown:?}");
    }
    server.get("/v1/streams/smuggled-1").await.expect(404);
    server.get("/v1/streams/raw-1").await.expect(404);
    server.get("/readyz").await.expect(200);
}

/// Both framings at once: whatever a proxy in front believes, no second request comes out of the body.
#[tokio::test(flavor = "multi_thread")]
async fn two_framings_do_not_smuggle() {
    let server = Server::dev().await;
    let inner = "POST /v1/streams/smuggled-1/events HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer dev\r\n\
                 Content-Type: application/json\r\nContent-Length: 21\r\n\r\n{\"type\":\"t\",\"data\":1}";
    for framing in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\nContent-Length: 4",
        "Transfer-Encoding:\tchunked\r\nContent-Length: 4",
    ] {
        let bytes = format!("{LINE}{framing}\r\n\r\n0\r\n\r\n{inner}");
        let answer = tokio::time::timeout(PATIENCE, exchange(server.address, bytes.as_bytes())).await;
        let statuses = statuses(&answer.expect("the connection ends"));
        assert!(statuses.len() <= 1 && statuses.iter().all(|s| (400..500).contains(s)), "{framing}: {statuses:?}");
    }
    server.get("/v1/streams/smuggled-1").await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_half_requests_end() {
    let second = Duration::from_secs(1);
    let server = Server::with(|config| {
        config.dev = true;
        config.limits.header_timeout = second;
        config.limits.body_timeout = second;
    })
    .await;
    // Never finishes its headers.
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"GET /livez HTTP/1.1\r\nHost: t\r\nX-").await.unwrap();
    // Sends a byte of a header now and then: still too slow.
    let drip = async {
        let mut drip = TcpStream::connect(server.address).await.unwrap();
        let _ = drip.write_all(b"GET /livez HTTP/1.1\r\n").await;
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if drip.write_all(b"X").await.is_err() {
                break;
            }
        }
        let mut rest = Vec::new();
        let _ = drip.read_to_end(&mut rest).await;
        rest
    };
    // Promises more body than it sends.
    let text = format!("{LINE}Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{{\"type\"");
    let half = exchange_open(&server, &text);
    let mut rest = Vec::new();
    let all = async { tokio::join!(slow.read_to_end(&mut rest), drip, half) };
    let (_, drip, half) = tokio::time::timeout(PATIENCE, all).await.expect("all three end");
    assert!(statuses(&rest).iter().all(|s| *s == 408), "{:?}", statuses(&rest));
    assert!(statuses(&drip).iter().all(|s| *s == 408), "{:?}", statuses(&drip));
    let half = Answer::parse(&half).expect("an answer");
    assert_eq!(half.status, 408, "{}", half.text());
    assert!(half.text().contains("\"body-timeout\""));
    // A body that ends early, and a client that leaves without a word.
    for bytes in [format!("{LINE}Content-Length: 50\r\n\r\n{{"), "GET /v1/ev".to_owned(), String::new()] {
        let mut gone = TcpStream::connect(server.address).await.unwrap();
        gone.write_all(bytes.as_bytes()).await.unwrap();
        drop(gone);
    }
    server.get("/readyz").await.expect(200);
    server.get("/v1/streams/raw-1").await.expect(404);
}

/// Keeps the sending side open, so that only the server can end it.
async fn exchange_open(server: &Server, text: &str) -> Vec<u8> {
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_after_a_request_ends_the_connection() {
    let server = Server::dev().await;
    for garbage in ["zqCanary\r\n\r\n", "\0\0\0\0\r\n\r\n", "GET zqCanary\r\n\r\n", "{\"type\":\"t\"}\r\n\r\n"] {
        let bytes = format!("GET /livez HTTP/1.1\r\nHost: t\r\n\r\n{garbage}GET /livez HTTP/1.1\r\nHost: t\r\n\r\n");
        let answer = tokio::time::timeout(PATIENCE, exchange(server.address, bytes.as_bytes())).await.expect("it ends");
        let statuses = statuses(&answer);
        assert!(statuses == [200] || statuses == [200, 400], "{garbage:?}: {statuses:?}");
        assert!(!String::from_utf8_lossy(&answer).contains(CANARY));
    }
    // Honest pipelining works.
    let twice = "GET /livez HTTP/1.1\r\nHost: t\r\n\r\nGET /livez HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&exchange(server.address, twice.as_bytes()).await), [200, 200]);
}
