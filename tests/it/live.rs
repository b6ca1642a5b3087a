//! Live reading over HTTP: catching up, resuming, erasures in order, filters, the limit of open streams.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::{Bytes, Incoming};
use serde_json::{Value, json};

use crate::api::{contact, key, list, restart, start};
use crate::harness::{Server, open};

/// An open live stream, read frame by frame.
struct Live {
    body: Incoming,
    text: String,
}

#[derive(Debug)]
struct Frame {
    id: Option<u64>,
    name: String,
    data: Value,
}

async fn connect(server: &Server, path: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
    let mut all = vec![("accept", "text/event-stream")];
    all.extend_from_slice(headers);
    if !headers.iter().any(|(name, _)| *name == "authorization") {
        all.push(("authorization", "Bearer dev"));
    }
    open(server.address, "GET", path, &all, Bytes::new()).await.unwrap()
}

impl Live {
    async fn open(server: &Server, path: &str, headers: &[(&str, &str)]) -> Self {
        let response = connect(server, path, headers).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self { body: response.into_body(), text: String::new() }
    }

    /// The next frame that has data; comments and `retry` are passed over.
    async fn next(&mut self) -> Frame {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (frame, rest) = (parse(block), rest.to_owned());
                self.text = rest;
                match frame {
                    Some(frame) => return frame,
                    None => continue,
                }
            }
            let chunk =
                tokio::time::timeout(Duration::from_secs(20), self.body.frame()).await.expect("a frame in time");
            let chunk = chunk.expect("the stream goes on").unwrap().into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    async fn expect(&mut self, name: &str) -> Frame {
        let frame = self.next().await;
        assert_eq!(frame.name, name, "{frame:?}");
        frame
    }

    /// The numbers of the events up to the frame that says that the log's end is reached.
    async fn catch_up(&mut self) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            let frame = self.next().await;
            if frame.name == "caught-up" {
                return seen;
            }
            seen.push(frame.data["data"]["n"].clone());
        }
    }
}

fn parse(block: &str) -> Option<Frame> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let data = serde_json::from_str(field("data")?).unwrap();
    Some(Frame { id: field("id").map(|id| id.parse().unwrap()), name: field("event").unwrap().to_owned(), data })
}

async fn note(server: &Server, stream: &str, n: u64) -> u64 {
    let reply = server.append(stream, "noted", &json!({"n": n})).await.expect(201).json();
    reply["position"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_catches_up_and_goes_on() {
    let server = start().await;
    for n in 0..3 {
        note(&server, "order-1", n).await;
    }
    let path = "/v1/streams/order-1/events";
    let mut live = Live::open(&server, path, &[]).await;
    for n in 0..3 {
        let frame = live.expect("event").await;
        assert_eq!((frame.id, &frame.data["revision"], &frame.data["data"]["n"]), (Some(n), &json!(n), &json!(n)));
    }
    let head = live.expect("caught-up").await.data["head"].as_u64().unwrap();
    note(&server, "order-2", 99).await;
    let position = note(&server, "order-1", 3).await;
    assert!(position >= head);
    let frame = live.expect("event").await;
    assert_eq!((frame.id, frame.data["position"].as_u64()), (Some(3), Some(position)));
    drop(live);
    let mut resumed = Live::open(&server, path, &[("last-event-id", "1")]).await;
    assert_eq!(resumed.catch_up().await, [2, 3]);
    drop(resumed);
    // `after` is for a first connection; the header of a reconnection wins.
    let mut after = Live::open(&server, &format!("{path}?after=2"), &[]).await;
    assert_eq!(after.catch_up().await, [3]);
    drop(after);
    let mut both = Live::open(&server, &format!("{path}?after=0"), &[("last-event-id", "2")]).await;
    assert_eq!(both.catch_up().await, [3]);
    drop(both);
    let server = restart(server).await;
    let mut again = Live::open(&server, path, &[("last-event-id", "2")]).await;
    assert_eq!(again.catch_up().await, [3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_events_with_filters() {
    let server = start().await;
    let mut positions = Vec::new();
    for n in 0..4 {
        positions.push(note(&server, if n % 2 == 0 { "even-1" } else { "odd-1" }, n).await);
    }
    server.append("even-1", "other", &json!({"n": 100})).await.expect(201);
    let mut all = Live::open(&server, "/v1/events", &[]).await;
    for n in 0..4 {
        let frame = all.expect("event").await;
        assert_eq!((frame.id, &frame.data["data"]["n"]), (Some(positions[n as usize]), &json!(n)));
    }
    assert_eq!(all.catch_up().await, [100]);
    let resume = positions[1].to_string();
    let mut even = Live::open(&server, "/v1/events?category=even", &[("last-event-id", &resume)]).await;
    assert_eq!(even.catch_up().await, [2, 100]);
    let mut typed = Live::open(&server, "/v1/events?types=other&category=even", &[]).await;
    assert_eq!(typed.catch_up().await, [100]);
    let mut stream = Live::open(&server, "/v1/streams/even-1/events?types=noted", &[]).await;
    assert_eq!(stream.catch_up().await, [0, 2]);
    note(&server, "odd-1", 5).await;
    server.append("even-2", "other", &json!({"n": 101})).await.expect(201);
    note(&server, "even-1", 6).await;
    let mut numbers = Vec::new();
    for _ in 0..3 {
        numbers.push(all.expect("event").await.data["data"]["n"].clone());
    }
    assert_eq!(numbers, [5, 101, 6]);
    assert_eq!(even.expect("event").await.data["data"]["n"], 101);
    assert_eq!(even.expect("event").await.data["data"]["n"], 6);
    assert_eq!(typed.expect("event").await.data["data"]["n"], 101);
    assert_eq!(stream.expect("event").await.data["data"]["n"], 6);
    // A stream that is not there yet is one to wait for.
    let mut future = Live::open(&server, "/v1/streams/later-1/events", &[]).await;
    assert_eq!(future.catch_up().await, [Value::Null; 0]);
    note(&server, "later-1", 7).await;
    assert_eq!(future.expect("event").await.data["data"]["n"], 7);
    for bad in ["direction=backward", "as_of=position:1", "after=x"] {
        assert_eq!(connect(&server, &format!("/v1/events?{bad}"), &[]).await.status(), 400, "{bad}");
    }
    assert_eq!(connect(&server, "/v1/events", &[("last-event-id", "x")]).await.status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn erasures_are_told_in_order() {
    let server = start().await;
    server.schema("contact-created", &contact()).await;
    let created = |id: &str, name: &str| json!({"contact_id": id, "name": name});
    server.append("contact-1", "contact-created", &created("p1", "Ada King")).await.expect(201);
    server.append("contact-2", "contact-created", &created("p2", "Bob Ray")).await.expect(201);
    let mut all = Live::open(&server, "/v1/events", &[]).await;
    let mut one = Live::open(&server, "/v1/streams/contact-1/events", &[]).await;
    let first = all.expect("event").await;
    assert_eq!(first.data["data"]["name"], "Ada King");
    assert_eq!(all.expect("event").await.data["data"]["name"], "Bob Ray");
    all.expect("caught-up").await;
    assert_eq!(one.expect("event").await.data["data"]["name"], "Ada King");
    one.expect("caught-up").await;
    let request = server.forget("p1").await;
    server.append("contact-1", "contact-created", &created("p2", "Bob Ray")).await.expect(201);
    let erasure = all.expect("erasure").await;
    assert_eq!((&erasure.data["data_subject"], &erasure.data["request"]), (&request["data_subject"], &request["id"]));
    assert_eq!((&erasure.data["action"], erasure.id), (&json!("purge-copies"), erasure.data["position"].as_u64()));
    let after = all.expect("event").await;
    assert!(first.id < erasure.id && erasure.id < after.id);
    let in_stream = one.expect("erasure").await;
    assert_eq!((in_stream.id, in_stream.data), (None, erasure.data.clone()));
    assert_eq!(one.expect("event").await.id, Some(1));
    drop((all, one));
    let server = restart(server).await;
    // Whoever comes late is told as well, and is shown placeholders.
    let mut late = Live::open(&server, "/v1/events", &[]).await;
    assert_eq!(late.expect("event").await.data["data"]["name"], "[erased]");
    assert_eq!(late.expect("event").await.data["data"]["name"], "Bob Ray");
    assert_eq!(late.expect("erasure").await.data, erasure.data);
    late.expect("event").await;
    late.expect("caught-up").await;
    // A resumed reader is told once: not again when it has seen the frame.
    let seen = erasure.id.unwrap().to_string();
    let mut resumed = Live::open(&server, "/v1/events", &[("last-event-id", &seen)]).await;
    assert_eq!(resumed.expect("event").await.id, after.id);
    resumed.expect("caught-up").await;
    let before = first.id.unwrap().to_string();
    let mut earlier = Live::open(&server, "/v1/events?types=never", &[("last-event-id", &before)]).await;
    assert_eq!(earlier.expect("erasure").await.data, erasure.data);
    earlier.expect("caught-up").await;
    let mut stream = Live::open(&server, "/v1/streams/contact-1/events", &[("last-event-id", "0")]).await;
    stream.expect("erasure").await;
    assert_eq!(stream.expect("event").await.id, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn live_readers_see_what_their_role_sees() {
    let server = start().await;
    server.schema("contact-created", &contact()).await;
    let reader = key(&server, "reader", &json!({"role": "reader"})).await;
    let mut live = Live::open(&server, "/v1/events?redaction=null", &[("authorization", &reader)]).await;
    live.expect("caught-up").await;
    let data = json!({"contact_id": "p1", "name": "Ada King", "city": "London"});
    server.append("contact-1", "contact-created", &data).await.expect(201);
    let event = live.expect("event").await.data;
    assert_eq!((&event["data"]["name"], &event["data"]["city"]), (&Value::Null, &json!("London")));
    assert!(event["data"]["contact_id"].as_str().unwrap().starts_with("ds_"));
    assert_eq!(list(&event["redactions"])[0]["state"], "withheld");
    let confined = key(&server, "confined", &json!({"role": "reader", "categories": ["order"]})).await;
    let mut own = Live::open(&server, "/v1/events", &[("authorization", &confined)]).await;
    own.expect("caught-up").await;
    server.append("contact-1", "contact-created", &data).await.expect(201);
    note(&server, "order-1", 1).await;
    assert_eq!(own.expect("event").await.data["stream"], "order-1");
    let path = "/v1/streams/contact-1/events";
    assert_eq!(connect(&server, path, &[("authorization", &confined)]).await.status(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_twenty_live_streams() {
    let server = start().await;
    let other = key(&server, "other", &json!({"role": "reader"})).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut live = Live::open(&server, "/v1/events", &[]).await;
        live.expect("caught-up").await;
        open.push(live);
    }
    let refused = connect(&server, "/v1/events", &[]).await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    // Every one of them is served, another key is not concerned, and one that goes makes room.
    note(&server, "order-1", 1).await;
    for live in &mut open {
        assert_eq!(live.expect("event").await.data["data"]["n"], 1);
    }
    Live::open(&server, "/v1/events", &[("authorization", &other)]).await.expect("event").await;
    drop(open.pop());
    for attempt in 0.. {
        if connect(&server, "/v1/events", &[]).await.status() == 200 {
            break;
        }
        assert!(attempt < 100, "the closed stream is still counted");
        // The server learns of it when it next writes to the closed connection.
        note(&server, "order-1", 2).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
