//! Projections under attack: keys that are no longer valid, rows that are replaced while somebody reads them, previews that
//! run together, events made to break windows.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use serde_json::{Value, json};

use crate::api::{get_as, key, start};
use crate::harness::{Server, open};

fn copies(name: &str, version: u32, types: &[&str], pad: &str) -> Value {
    let handle: serde_json::Map<String, Value> =
        types.iter().map(|name| ((*name).to_owned(), json!({"set": {"n": "data.n"}}))).collect();
    json!({"projection": name, "version": version, "from": {"types": types}, "key": {"k": "data.k"},
        "columns": {"n": "int", "pad": {"type": "string", "default": pad}}, "handle": handle})
}

async fn rows(server: &Server, path: &str) -> Value {
    let head = *server.app.log.watch().borrow() - 1;
    let join = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{join}at_least={head}");
    server.send("GET", &path, &[("prefer", "wait=30")], "").await.expect(200).json()["items"].clone()
}

/// Appends `count` events with the keys 0, 1, ….
async fn fill(server: &Server, count: usize) {
    for from in (0..count).step_by(100) {
        let events: Vec<Value> = (from..(from + 100).min(count))
            .map(|n| json!({"type": "counted", "data": {"k": n.to_string(), "n": n}}))
            .collect();
        server.post("/v1/streams/s-1/events", &json!(events)).await.expect(201);
    }
}

async fn follow(server: &Server, authorization: &str, accept: &str, path: &str) -> Incoming {
    let headers = [("accept", accept), ("authorization", authorization)];
    let response = open(server.address, "GET", path, &headers, Bytes::new()).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body()
}

/// Reads until a text comes; what was read, also when the stream ends before or nothing comes for a while.
async fn read_until(body: &mut Incoming, text: &str) -> String {
    let mut all = String::new();
    while !all.contains(text) {
        let Ok(Some(Ok(frame))) = tokio::time::timeout(Duration::from_secs(3), body.frame()).await else { break };
        all.push_str(std::str::from_utf8(&frame.into_data().unwrap_or_default()).unwrap());
    }
    all
}

/// "A revocation takes effect at once": not when a stream that was opened before happens to end.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_sees_nothing_more() {
    let server = start().await;
    fill(&server, 1).await;
    server.put("/v1/projections/copies", &copies("copies", 1, &["counted"], "")).await.expect(201);
    rows(&server, "/v1/projections/copies/rows").await;
    let secret = key(&server, "reader", &json!({"roles": ["reader"]})).await;
    let mut streams = Vec::new();
    for path in ["/v1/projections/copies/rows", "/v1/events"] {
        let mut body = follow(&server, &secret, "text/event-stream", path).await;
        assert!(read_until(&mut body, "caught-up").await.contains("caught-up"));
        streams.push((path, body));
    }
    let keys = server.get("/v1/api-keys").await.expect(200).json();
    let id = keys["items"].as_array().unwrap().iter().find(|key| key["name"] == "reader").unwrap()["id"].clone();
    let path = format!("/v1/api-keys/{}", id.as_str().unwrap());
    server.send("DELETE", &path, &[], "").await.expect(204);
    server.append("s-1", "counted", &json!({"k": "afterwards", "n": 1})).await.expect(201);
    for (path, mut body) in streams {
        let seen = read_until(&mut body, "afterwards").await;
        assert!(!seen.contains("afterwards"), "{path}: {seen}");
        assert!(seen.contains("unauthenticated"), "{path}: {seen}");
    }
}

/// While a narrower definition is being computed the wider one answers, and a confined key does not reach that one.
#[tokio::test(flavor = "multi_thread")]
async fn a_confined_key_waits_for_the_narrower_rows() {
    let server = start().await;
    let wide = copies("copies", 1, &["counted", "secret"], "");
    server.put("/v1/projections/copies", &wide).await.expect(201);
    server.append("s-1", "secret", &json!({"k": "hidden", "n": 1})).await.expect(201);
    server.append("s-1", "counted", &json!({"k": "seen", "n": 1})).await.expect(201);
    rows(&server, "/v1/projections/copies/rows").await;
    let confined = key(&server, "confined", &json!({"roles": ["reader"], "types": ["counted"]})).await;
    get_as(&server, &confined, "/v1/projections/copies/rows").await.expect(403);
    server.post("/v1/projections/copies/pauses", &json!({})).await;
    server.put("/v1/projections/copies", &copies("copies", 2, &["counted"], "")).await.expect(200);
    let reply = get_as(&server, &confined, "/v1/projections/copies/rows").await;
    assert!(!reply.text().contains("hidden"), "{}", reply.text());
}

/// A rebuild takes over while an export is under way: it goes on in the new rows, and does not end early as if it were
/// complete.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_survives_a_rebuild() {
    const ROWS: usize = 2300;
    let server = start().await;
    fill(&server, ROWS).await;
    server.put("/v1/projections/copies", &copies("copies", 1, &["counted"], &"x".repeat(20_000))).await.expect(201);
    rows(&server, "/v1/projections/copies/rows?limit=1").await;
    let generation = async || server.app.projections.get("copies").await.unwrap().live.unwrap().generation.id;
    let before = generation().await;
    let mut body = follow(&server, "Bearer dev", "application/x-ndjson", "/v1/projections/copies/rows").await;
    let mut text = read_until(&mut body, "\n").await;
    server.post("/v1/projections/copies/rebuilds", &json!({})).await.expect(202);
    let deadline = Instant::now() + Duration::from_mins(1);
    while generation().await == before {
        assert!(Instant::now() < deadline, "the rebuild does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The old rows go a few thousand at a time.
    tokio::time::sleep(Duration::from_secs(2)).await;
    text.push_str(&read_until(&mut body, "$end").await);
    let last: Value = serde_json::from_str(text.trim_end().lines().last().unwrap()).unwrap();
    assert_eq!(last["$end"]["count"], ROWS, "{last}");
    let keys: std::collections::BTreeSet<&str> = text.lines().filter_map(|line| line.get(..44)).collect();
    assert_eq!(keys.len(), ROWS);
}

/// Previews run beside each other, of names that are not defined, longer than the engine looks away.
#[tokio::test(flavor = "multi_thread")]
async fn previews_do_not_meet() {
    let server = std::sync::Arc::new(start().await);
    fill(&server, 400).await;
    let tasks: Vec<_> = (0..24)
        .map(|n| {
            let server = std::sync::Arc::clone(&server);
            tokio::spawn(async move {
                let column = format!("c{n}");
                let definition = json!({"projection": "tried", "version": 1, "from": {"types": ["counted"]},
                    "key": {"k": "data.k"}, "columns": {&column: "int"}, "handle": {"counted": {"set": {&column: "data.n"}}}});
                let reply = server.post("/v1/projections/previews", &json!({"definition": definition})).await;
                (column, reply)
            })
        })
        .collect();
    for task in tasks {
        let (column, reply) = task.await.unwrap();
        let shown = reply.expect(200).json();
        assert!(shown["rows"][0][&column].is_number(), "{column}: {}", shown["rows"][0]);
        assert_eq!(shown["rows"].as_array().unwrap().len(), 100);
    }
}

/// A changed row is not the group it is in; and who follows windows is told of those that were listed.
#[tokio::test(flavor = "multi_thread")]
async fn live_rows_are_those_that_were_listed() {
    let server = start().await;
    let at = "2026-11-21T10:00:00Z";
    server.append("s-1", "seen", &json!({"k": "a", "at": at})).await.expect(201);
    let definition = json!({"projection": "windows", "version": 1, "from": {"types": ["seen"]}, "key": {"k": "data.k"},
        "window": {"by": "data.at", "size": "PT1H", "rollup": ["P1D"]}, "aggregate": {"n": "count()"}});
    server.put("/v1/projections/windows", &definition).await.expect(201);
    rows(&server, "/v1/projections/windows/rows").await;
    for query in ["group_by=k", "step=P1D"] {
        let path = format!("/v1/projections/windows/rows?{query}");
        let reply = server.send("GET", &path, &[("accept", "text/event-stream")], "").await;
        reply.expect(400);
    }
    let mut body = follow(&server, "Bearer dev", "text/event-stream", "/v1/projections/windows/rows").await;
    assert!(read_until(&mut body, "caught-up").await.contains("\"window\":\"PT1H\""));
    server.append("s-1", "seen", &json!({"k": "a", "at": at})).await.expect(201);
    let seen = read_until(&mut body, "\"n\":2").await + &read_until(&mut body, "\"n\":2").await;
    assert!(seen.contains("\"window\":\"PT1H\"") && !seen.contains("\"window\":\"P1D\""), "{seen}");
}

/// A time whose window would begin before the year 0000 has no row: its key could not be read back.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_begins_at_a_time_that_can_be_written() {
    let server = start().await;
    let definition = json!({"projection": "windows", "version": 1, "from": {"types": ["seen"]}, "key": {"k": "data.k"},
        "window": {"by": "data.at", "size": "P7D"}, "aggregate": {"n": "count()"}, "on_error": "park"});
    server.put("/v1/projections/windows", &definition).await.expect(201);
    for at in ["0000-01-01T00:00:00Z", "0000-01-10T00:00:00Z", "9999-12-31T23:59:59.999Z"] {
        server.append("s-1", "seen", &json!({"k": "a", "at": at})).await.expect(201);
    }
    assert_eq!(rows(&server, "/v1/projections/windows/rows").await.as_array().unwrap().len(), 2);
    assert_eq!(rows(&server, "/v1/projections/windows/rows?step=P70D").await.as_array().unwrap().len(), 2);
    assert_eq!(server.get("/v1/projections/windows/status").await.expect(200).json()["parked"], 1);
}

/// Who came back counts again, with what came since, and with nothing of before.
#[tokio::test(flavor = "multi_thread")]
async fn who_came_back_is_in_the_sum_again() {
    let server = start().await;
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["team", "person", "pay"],
        "x-data-subjects": {"person": {"id": "/person"}},
        "properties": {"team": {"type": "string"}, "person": {"type": "string"}, "pay": {"type": "integer",
            "x-personal-data": {"subject": "person", "category": "financial.pay", "purposes": ["pay"], "placeholder": 0}}}});
    server.schema("paid", &schema).await;
    let definition = json!({"projection": "pay", "version": 1, "from": {"types": ["paid"]}, "key": {"team": "data.team"},
        "aggregate": {"sum": {"value": "sum(data.pay)", "declassify": "published", "min_group": 5}}});
    server.put("/v1/projections/pay", &definition).await.expect(201);
    let paid = async |person: &str, pay: u64| {
        let data = json!({"team": "red", "person": person, "pay": pay});
        server.append("pay-1", "paid", &data).await.expect(201);
    };
    for person in ["p1", "p2", "p3", "p4", "p5"] {
        paid(person, 10).await;
    }
    assert_eq!(rows(&server, "/v1/projections/pay/rows").await[0]["sum"], 50);
    let body = json!({"data_subject": "p1", "scope": {"purposes": ["pay"]}}).to_string();
    let headers = [("content-type", "application/json"), ("prefer", "wait=30")];
    server.send("POST", "/v1/forget", &headers, body).await.expect(200);
    assert_eq!(rows(&server, "/v1/projections/pay/rows").await[0]["sum"], Value::Null);
    server.post("/v1/data-subjects/p1/reauthorizations", &json!({"purposes": ["pay"]})).await.expect(201);
    paid("p1", 7).await;
    paid("p1", 1).await;
    let row = rows(&server, "/v1/projections/pay/rows").await[0].clone();
    assert_eq!((&row["sum"], &row["_redacted_count"]["sum"]), (&json!(48), &json!(1)), "{row}");
}

/// A due event is found again in its stream: in another stream every one that was ever emitted would come again.
#[tokio::test(flavor = "multi_thread")]
async fn due_events_do_not_come_again_in_another_stream() {
    let server = start().await;
    let reminders = |version: u32, stream: &str| {
        json!({"projection": "reminders", "version": version, "from": {"types": ["noted"]}, "key": {"job": "data.job"},
            "columns": {"at": "timestamp"}, "handle": {"noted": {"upsert": {"at": "data.at"}}},
            "due": {"at": "at", "emit": {"type": "reminded", "stream": stream, "data": {"job": "key.job"}}}})
    };
    server.put("/v1/projections/reminders", &reminders(1, "'mail-' + key.job")).await.expect(201);
    let without = json!({"projection": "reminders", "version": 2, "from": {"types": ["noted"]}, "key": {"job": "data.job"},
        "columns": {"at": "timestamp"}, "handle": {"noted": {"upsert": {"at": "data.at"}}}});
    server.put("/v1/projections/reminders", &without).await.expect(200);
    let refused = server.put("/v1/projections/reminders", &reminders(3, "'post-' + key.job")).await.expect(409);
    assert_eq!(refused.code(), "projection-due-stream");
    server.put("/v1/projections/reminders", &reminders(3, "'mail-' + key.job")).await.expect(200);
}

/// Who follows rows is told when a looked-up value is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_value_that_is_looked_up_is_told_of() {
    let server = start().await;
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["k", "person"],
        "x-data-subjects": {"person": {"id": "/person"}},
        "properties": {"k": {"type": "string"}, "person": {"type": "string"},
            "name": {"type": "string", "x-personal-data": {"subject": "person", "category": "name"}}}});
    server.schema("named", &schema).await;
    let names = json!({"projection": "names", "version": 1, "from": {"types": ["named"]}, "key": {"k": "data.k"},
        "columns": {"name": "string"}, "handle": {"named": {"set": {"name": "data.name"}}}});
    let counts = json!({"projection": "counts", "version": 1, "from": {"types": ["named"]}, "key": {"k": "data.k"},
        "columns": {"n": {"type": "int", "default": 0}, "name": {"type": "string", "lookup": "names.name"}},
        "handle": {"named": {"increment": {"n": 1}}}});
    server.put("/v1/projections/names", &names).await.expect(201);
    server.put("/v1/projections/counts", &counts).await.expect(201);
    server.append("s-1", "named", &json!({"k": "a", "person": "ada", "name": "Ada Lovelace"})).await.expect(201);
    rows(&server, "/v1/projections/counts/rows").await;
    let mut body = follow(&server, "Bearer dev", "text/event-stream", "/v1/projections/counts/rows").await;
    assert!(read_until(&mut body, "caught-up").await.contains("Ada Lovelace"));
    server.forget("ada").await;
    let mut seen = String::new();
    for _ in 0..6 {
        seen.push_str(&read_until(&mut body, "[erased]").await);
        if seen.contains("[erased]") {
            return;
        }
    }
    panic!("{seen}");
}

/// An event that is put aside because a personal value is large would say so to everyone, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn the_size_of_a_personal_value_puts_nothing_aside() {
    let mut server = start().await;
    let definition = json!({"projection": "notes", "version": 1, "from": {"types": ["noted"]}, "on_error": "park",
        "key": {"k": "data.k"}, "columns": {"n": {"type": "int", "default": 0}, "notes": "list<string>"},
        "handle": {"noted": {"increment": {"n": 1}, "append": {"notes": "data.note"}}}});
    server.put("/v1/projections/notes", &definition).await.expect(201);
    for n in 0..40 {
        let note = format!("canary{n}{}", "x".repeat(60_000));
        server.canary(&note[..30]);
        let mark = json!([{"path": "/note", "subject": "ada"}]);
        let event = json!({"type": "noted", "data": {"k": "k", "note": note}, "personal_data": mark});
        server.post("/v1/streams/s-1/events", &event).await.expect(201);
    }
    let found = rows(&server, "/v1/projections/notes/rows").await;
    assert_eq!(found[0]["n"], 40);
    let status = server.get("/v1/projections/notes/status").await.json();
    assert_eq!((&status["parked"], &status["state"]), (&json!(0), &json!("running")), "{status}");
    let notes = found[0]["notes"].as_array().unwrap();
    assert_eq!(notes.len(), 40);
    assert!(notes.iter().all(Value::is_null), "forty do not fit together: {:.200}", found.to_string());
}
