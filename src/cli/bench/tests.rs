//! Every workload against a small in-memory server that speaks the part of the API the benchmark needs.

use std::collections::HashMap;
use std::sync::Mutex;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::*;

/// Streams of events, all events in order, forgotten people, and how many appends were sent away.
#[derive(Default)]
struct Log {
    streams: HashMap<String, Vec<Value>>,
    all: Vec<Value>,
    forgotten: Vec<String>,
    schemas: usize,
    sent_away: u32,
}

type Shared = State<Arc<Mutex<Log>>>;

async fn append(
    State(log): Shared,
    Path(stream): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let mut log = log.lock().unwrap();
    if log.sent_away < 3 {
        log.sent_away += 1;
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"code": "read-only"})));
    }
    let length = log.streams.get(&stream).map_or(0, Vec::len);
    let current = length.checked_sub(1).map_or(json!("no_stream"), |revision| json!({"revision": revision}));
    let (expected, events, status) = match headers.get(header::IF_MATCH) {
        Some(etag) => {
            let revision: usize = etag.to_str().unwrap().trim_matches(['"', 'r']).parse().unwrap();
            (json!({"revision": revision}), vec![body], StatusCode::PRECONDITION_FAILED)
        }
        None => (body["expected"].clone(), body["events"].as_array().unwrap().clone(), StatusCode::CONFLICT),
    };
    if expected != current {
        return (status, Json(json!({"code": "wrong-expected-revision", "expected": expected, "current": current})));
    }
    for event in events {
        assert_eq!(event["type"], payload::EVENT_TYPE);
        log.all.push(event.clone());
        log.streams.entry(stream.clone()).or_default().push(event);
    }
    (StatusCode::CREATED, Json(json!({"stream": stream})))
}

async fn read(State(log): Shared, Path(stream): Path<String>) -> Json<Value> {
    Json(json!({"items": log.lock().unwrap().streams[&stream], "next": null}))
}

async fn scan(State(log): Shared, uri: axum::http::Uri, headers: HeaderMap) -> String {
    assert_eq!(headers[header::ACCEPT], "application/x-ndjson");
    let from: usize = uri.query().map_or(0, |query| query.trim_start_matches("from=").parse().unwrap());
    let log = log.lock().unwrap();
    let events = &log.all[from..];
    let mut text: String = events.iter().map(|event| event.to_string() + "\n").collect();
    text += &json!({"$end": {"count": events.len(), "position": log.all.len() - 1}}).to_string();
    text + "\n"
}

async fn forget(State(log): Shared, headers: HeaderMap, Json(body): Json<Value>) -> (StatusCode, Json<Value>) {
    assert_eq!(headers["prefer"], "wait=10");
    let mut log = log.lock().unwrap();
    let person = body["data_subject"].as_str().unwrap().to_owned();
    assert!(log.all.iter().any(|event| event["data"]["person_id"] == person.as_str()));
    log.forgotten.push(person);
    (StatusCode::ACCEPTED, Json(json!({"id": "fr_1", "status": "destroying"})))
}

async fn start(log: Arc<Mutex<Log>>) -> Target {
    let register = |State(log): Shared, Json(schema): Json<Value>| async move {
        assert!(schema["x-data-subjects"].is_object());
        log.lock().unwrap().schemas += 1;
        StatusCode::CREATED
    };
    let router = Router::new()
        .route("/v1/schemas/{type}/versions", post(register))
        .route("/v1/streams/{stream}/events", post(append).get(read))
        .route("/v1/events", get(scan))
        .route("/v1/forget", post(forget))
        .route("/v1/forget-requests/{id}", get(|| async { Json(json!({"id": "fr_1", "status": "completed"})) }))
        .with_state(log);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Target::new(&format!("http://{address}"), "dev").unwrap()
}

fn args() -> BenchArgs {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }
    let line = "bench --seconds 0.6 --warmup 0.05 --repeat 1 --people 250 --events 1050 --forget-people 5 \
                --forget-large 130";
    <Cli as clap::Parser>::try_parse_from(line.split_whitespace()).unwrap().bench
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_workload_against_a_server() {
    let log = Arc::new(Mutex::new(Log::default()));
    let target = start(log.clone()).await;
    let tag = fresh_tag().unwrap();
    let mut bench = Bench {
        args: args(),
        target,
        tag,
        servers: Vec::new(),
        filled: None,
        view: None,
        appended: 0,
        measurements: Vec::new(),
    };
    bench.prepare().await.unwrap();
    for workload in bench.args.workloads.clone() {
        bench.measure(workload, 0).await.unwrap();
    }
    let report = bench.finish().await.unwrap();
    let names: Vec<_> = report.summary.iter().map(|line| line.workload).collect();
    assert_eq!(names, ["w3", "w4", "w5", "w1", "w2", "w6", "forget", "forget-large"]);
    let by_name = |name| report.measurements.iter().find(|run| run.workload == name).unwrap();
    assert_eq!((by_name("w3").units, by_name("w3").operations), (1050, 11));
    assert_eq!(by_name("w5").units, 250 + 1050);
    assert_eq!((by_name("forget").units, by_name("forget-large").units), (5, 1));
    assert!(by_name("w4").units >= 100 && by_name("w4").units % 100 == 0);
    assert!(by_name("w1").operations > 0 && by_name("w2").operations > 0);
    assert!(by_name("w1").conflicts_per_operation < 1e-9, "one client has nobody to conflict with");
    assert!(by_name("w6").conflicts_per_operation > 0.0, "16 clients on one stream conflict");
    let log = log.lock().unwrap();
    assert_eq!(log.all.len() as u64, report.events_appended);
    assert_eq!((log.schemas, log.sent_away, log.forgotten.len()), (1, 3, 6));
    assert_eq!(log.streams.keys().filter(|stream| stream.contains("-w2-")).count(), 256);
    assert!(serde_json::to_value(&report).unwrap()["measurements"].is_array());
}

#[tokio::test]
async fn a_server_that_refuses_is_named() {
    let refuse = || async { (StatusCode::FORBIDDEN, Json(json!({"code": "forbidden", "title": "No"}))) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(refuse)).await });
    let target = Target::new(&format!("http://{address}"), "dev").unwrap();
    let mut connection = Connection::open(&target).await.unwrap();
    let error = register_schema(&mut connection, "x", b"{}").await.unwrap_err();
    assert!(error.to_string().contains("403 forbidden"));
    let workers = vec![Appender::new(["bench-a".to_owned()], 1, 0)];
    assert!(closed_loop(&target, workers, Window::UntilDone).await.is_err());
}
