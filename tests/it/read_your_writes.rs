//! Read your writes: `at_least` answers with the own write, or says with a type why it does not, and never hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::start;
use crate::harness::{Reply, Server};

const TASKS: u64 = 16;
/// A waiter that is told gets its answer long before the time it was ready to wait.
const PROMPT: Duration = Duration::from_secs(8);

/// One counter per writer; `v` takes whole numbers only.
fn counters(version: u32, kind: &str) -> Value {
    json!({"projection": "counters", "version": version, "from": {"types": ["counted"]}, "key": {"writer": "data.writer"},
        "columns": {"v": kind}, "handle": {"counted": {"set": {"v": "data.v"}}}})
}

async fn define(server: &Server, definition: &Value) {
    let reply = server.put("/v1/projections/counters", definition).await;
    assert!(reply.status.is_success(), "{}", reply.text());
}

async fn count(server: &Server, writer: &str, v: Value) -> u64 {
    let stored = server.append(&format!("counter-{writer}"), "counted", &json!({"writer": writer, "v": v})).await;
    stored.expect(201).json()["position"].as_u64().expect("a position")
}

/// Rows from a position on; how long the answer took.
async fn rows(server: &Server, query: &str, wait: u64) -> (Reply, Duration) {
    let began = Instant::now();
    let prefer = format!("wait={wait}");
    let path = format!("/v1/projections/counters/rows?{query}");
    let reply = server.send("GET", &path, &[("prefer", &prefer)], "").await;
    (reply, began.elapsed())
}

async fn status(server: &Server) -> Value {
    server.get("/v1/projections/counters/status").await.expect(200).json()
}

/// A 503 that says that the projection does not move, at once; its cause.
fn stalled(answer: (Reply, Duration)) -> Value {
    let (reply, took) = answer;
    let reply = reply.expect(503);
    assert_eq!(reply.code(), "projection-stalled");
    assert!(reply.header("retry-after").is_some(), "{:?}", reply.headers);
    assert!(took < PROMPT, "told after {took:?}");
    reply.json()["cause"].clone()
}

/// Writes and reads back, many at once: what came of it.
async fn pairs(total: u64) -> (u64, u64, u64) {
    let server = Arc::new(start().await);
    define(&server, &counters(1, "int")).await;
    let outcome = Arc::new([AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)]);
    let tasks: Vec<_> = (0..TASKS)
        .map(|writer| {
            let (server, outcome) = (Arc::clone(&server), Arc::clone(&outcome));
            tokio::spawn(async move {
                for v in 0..total / TASKS + u64::from(writer < total % TASKS) {
                    let kind = pair(&server, &format!("w{writer}"), v).await;
                    outcome[kind].fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let server = Arc::into_inner(server).expect("nobody else has it");
    // In the end everybody's last write is there.
    let head = *server.app.log.watch().borrow() - 1;
    let all = rows(&server, &format!("at_least={head}"), 20).await.0.expect(200).json();
    assert_eq!(all["items"].as_array().unwrap().len() as u64, TASKS);
    let [own, behind, stalled] = &*outcome;
    (own.load(Ordering::Relaxed), behind.load(Ordering::Relaxed), stalled.load(Ordering::Relaxed))
}

/// 0: the own write; 1: behind; 2: stalled. Every eighth reader is in a hurry.
async fn pair(server: &Server, writer: &str, v: u64) -> usize {
    let position = count(server, writer, json!(v)).await;
    let wait = if v % 8 == 7 { 0 } else { 20 };
    let query = format!("at_least={position}&filter=writer%20==%20'{writer}'");
    let reply = rows(server, &query, wait).await.0;
    match reply.status.as_u16() {
        200 => {
            let page = reply.json();
            assert!(page["position"].as_u64() >= Some(position), "{page}");
            assert_eq!(page["stale"], false);
            assert_eq!(page["items"][0]["v"], json!(v), "not the own write: {page}");
            0
        }
        503 if reply.code() == "projection-behind" => {
            assert!(wait == 0 || status(server).await["lag_events"].as_u64() > Some(0), "{}", reply.text());
            1
        }
        503 if reply.code() == "projection-stalled" => 2,
        _ => panic!("neither the write nor a reason: {}", reply.text()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_finds_the_own_write() {
    let (own, behind, stalled) = pairs(1000).await;
    assert_eq!((own + behind, stalled), (1000, 0));
    assert!(own >= 875, "{behind} of 1000 were told that the projection is behind");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: ten thousand pairs"]
async fn every_reader_finds_the_own_write_ten_thousand_times() {
    let (own, behind, stalled) = pairs(10_000).await;
    assert_eq!((own + behind, stalled), (10_000, 0));
    assert!(own >= 8_750, "{own} own writes, {behind} behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_event_stalls_and_waiters_are_told() {
    let server = Arc::new(start().await);
    define(&server, &counters(1, "int")).await;
    let good = count(&server, "ada", json!(1)).await;
    rows(&server, &format!("at_least={good}"), 20).await.0.expect(200);
    // Waits for what is yet to come.
    let waiter = {
        let server = Arc::clone(&server);
        tokio::spawn(async move { rows(&server, &format!("at_least={}", good + 2), 30).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let poison = count(&server, "bob", json!("nightshade")).await;
    let appended = Instant::now();
    let cause = stalled(waiter.await.expect("no panic"));
    assert!(appended.elapsed() < PROMPT);
    assert_eq!((&cause["position"], &cause["code"]), (&json!(poison), &json!("type-mismatch")));
    assert!(!cause.to_string().contains("nightshade"), "{cause}");
    // Who comes later is told too, whatever is appended behind it; what was handled before is still there.
    let later = count(&server, "ada", json!(2)).await;
    assert_eq!(stalled(rows(&server, &format!("at_least={later}"), 30).await), cause);
    assert_eq!(rows(&server, &format!("at_least={good}"), 30).await.0.expect(200).json()["items"][0]["v"], 1);
    let now = status(&server).await;
    assert_eq!((&now["state"], &now["cause"]), (&json!("stalled"), &cause));
    assert_eq!(now["position"], json!(poison - 1));
    let stale = rows(&server, &format!("at_least={later}&stale=allow"), 1).await.0.expect(200).json();
    assert_eq!((&stale["stale"], &stale["position"]), (&json!(true), &json!(poison - 1)));
    // Telling it to try again changes nothing.
    server.send("DELETE", "/v1/projections/counters/pauses", &[], "").await.expect(204);
    assert_eq!(stalled(rows(&server, &format!("at_least={later}"), 30).await), cause);
    // A definition that can handle the event takes over from the one that cannot.
    define(&server, &counters(2, "json")).await;
    let fixed = after_the_swap(&server, later).await;
    assert_eq!((&fixed["items"][0]["v"], &fixed["stale"]), (&json!(2), &json!(false)));
    assert_eq!(status(&server).await["version"], 2);
}

/// Rows as soon as the new version answers.
async fn after_the_swap(server: &Server, position: u64) -> Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (reply, _) = rows(server, &format!("at_least={position}&filter=writer%20==%20'ada'"), 5).await;
        if reply.status == 200 {
            return reply.json();
        }
        assert!(Instant::now() < deadline, "{} {}", reply.text(), status(server).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_event_can_be_put_aside() {
    let server = start().await;
    let mut parks = counters(1, "int");
    parks["on_error"] = json!("park");
    define(&server, &parks).await;
    count(&server, "ada", json!(1)).await;
    let poison = count(&server, "ada", json!("nightshade")).await;
    let last = count(&server, "bob", json!(3)).await;
    let page = rows(&server, &format!("at_least={last}&sort=writer"), 20).await.0.expect(200).json();
    assert_eq!((&page["items"][0]["v"], &page["items"][1]["v"]), (&json!(1), &json!(3)));
    assert_eq!(status(&server).await["parked"], 1);
    let parked = server.get("/v1/projections/counters/parked").await.expect(200);
    assert!(!parked.text().contains("nightshade"));
    let item = parked.json()["items"][0].clone();
    assert_eq!((&item["position"], &item["code"]), (&json!(poison), &json!("type-mismatch")));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_passed_over_move_the_cursor() {
    let server = start().await;
    define(&server, &counters(1, "int")).await;
    for n in 0..3 {
        let stored = server.append("other-1", "something-else", &json!({"n": n})).await.expect(201).json();
        let position = stored["position"].as_u64().unwrap();
        let (reply, took) = rows(&server, &format!("at_least={position}"), 30).await;
        let page = reply.expect(200).json();
        assert!(took < PROMPT, "{took:?}");
        assert!(page["position"].as_u64() >= Some(position), "{page}");
    }
    // What does not exist yet is waited for, as long as asked, and not longer.
    let head = *server.app.log.watch().borrow();
    let (reply, took) = rows(&server, &format!("at_least={}", head + 5), 1).await;
    assert_eq!(reply.expect(503).code(), "projection-behind");
    assert!(took >= Duration::from_secs(1) && took < PROMPT, "{took:?}");
    let ahead = rows(&server, &format!("at_least={}&stale=allow", head + 5), 1).await.0.expect(200).json();
    assert_eq!(ahead["stale"], true);
    let unknown = server.get("/v1/projections/nobody/rows?at_least=1").await.expect(404);
    assert_eq!(unknown.code(), "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_there_as_soon_as_it_was_put() {
    let server = start().await;
    for n in 0..10 {
        let path = format!("/v1/projections/fresh{n}");
        let mut definition = counters(1, "int");
        definition["projection"] = json!(format!("fresh{n}"));
        server.put(&path, &definition).await.expect(201);
        match n % 3 {
            0 => server.get(&format!("{path}/status")).await.expect(200),
            1 => server.post(&format!("{path}/rebuilds"), &json!({})).await.expect(202),
            _ => server.get(&format!("{path}/parked")).await.expect(200),
        };
    }
    for path in ["status", "parked"] {
        server.get(&format!("/v1/projections/nobody/{path}")).await.expect(404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_projection_tells_waiters() {
    let server = Arc::new(start().await);
    define(&server, &counters(1, "int")).await;
    let first = count(&server, "ada", json!(1)).await;
    rows(&server, &format!("at_least={first}"), 20).await.0.expect(200);
    let waiter = {
        let server = Arc::clone(&server);
        tokio::spawn(async move { rows(&server, &format!("at_least={}", first + 1000), 30).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.post("/v1/projections/counters/pauses", &json!({})).await.expect(204);
    assert_eq!(stalled(waiter.await.expect("no panic"))["code"], "paused");
    let second = count(&server, "ada", json!(2)).await;
    assert_eq!(stalled(rows(&server, &format!("at_least={second}"), 30).await)["code"], "paused");
    assert_eq!(status(&server).await["state"], "paused");
    let stale = rows(&server, &format!("at_least={second}&stale=allow"), 1).await.0.expect(200).json();
    assert_eq!((&stale["stale"], &stale["items"][0]["v"]), (&json!(true), &json!(1)));
    server.send("DELETE", "/v1/projections/counters/pauses", &[], "").await.expect(204);
    let page = after_the_swap(&server, second).await;
    assert_eq!(page["items"][0]["v"], 2);
    assert_eq!(status(&server).await["state"], "running");
}
